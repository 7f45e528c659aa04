"""Fort and Ganguli, figures 4 and 8: logit variance and Trace/||.|| as one moves radially out in weight space."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np

from rmtland import MeanFieldNetwork
from validation import Claim, Outcome, figures, limit, rate
from validation.ladder._networks import digits, forward, gauss_newton, kernels, trace_over_norm

RADII = (0.5, 1.0, 4.0, 16.0)
EXAMPLES, CLASSES, ACTIVATION = 16, 4, "tanh"
SIZES = {
    # Networks by width: for the logits alone, and for the whole matrix.
    "smoke": ({6: 20_000, 12: 12_000, 24: 8_000, 48: 6_000}, {16: 700, 32: 700, 64: 500, 128: 500}),
    "full": ({6: 200_000, 12: 150_000, 24: 100_000, 48: 50_000}, {16: 5_000, 32: 5_000, 64: 3_000, 128: 3_000}),
}
RATED = 4.0
"""Where the error of Trace/||G|| is large enough for its rate to be seen."""
DRAWS = 400
"""Of logits and outputs' kernels in a predicted ratio; its own error is counted with that of the networks."""


def widths_of(width):
    return (64, width, width, CLASSES)


def draw(scale, rng):
    inputs = digits(EXAMPLES)
    variances, ratios = {}, {}
    for width, count in SIZES[scale][0].items():
        for radius in RADII:
            found = []
            for _ in range(count // 2000):
                z = forward(widths_of(width), ACTIVATION, inputs, 2000, rng, radius)[0]
                found.append(z.var(axis=2, ddof=1).mean(axis=1))
            variances[width, radius] = np.concatenate(found)
    for width, count in SIZES[scale][1].items():
        for radius in RADII:
            found = []
            for _ in range(count // 100):
                drawn = kernels(widths_of(width), ACTIVATION, inputs, 100, rng, radius)
                found.append(trace_over_norm(gauss_newton(*drawn)))
            ratios[width, radius] = np.concatenate(found)
    return inputs, variances, ratios


def table(data, sizes):
    mean = np.array([[data[n, r].mean() for r in RADII] for n in sizes])
    error = np.array([[data[n, r].std(ddof=1) / data[n, r].size ** 0.5 for r in RADII] for n in sizes])
    return mean, error


def judge(data, theory):
    inputs, variances, ratios = data
    forward_sizes, sizes = (sorted({n for n, _ in d}) for d in (variances, ratios))
    mean, error = table(variances, forward_sizes)
    predicted = np.array([[theory(n, r, inputs)[0] for r in RADII] for n in forward_sizes])
    relative, deviation = mean / predicted - 1, error / predicted
    found, spread = table(ratios, sizes)
    expected = np.array([[theory(n, r, inputs)[1]() for r in RADII] for n in sizes])
    off = found / expected - 1
    noise = np.hypot(spread / expected, spread * np.sqrt([[ratios[n, r].size for r in RADII] for n in sizes]) / (
        expected * DRAWS**0.5))  # fmt: skip
    steep = RADII.index(RATED)
    checks = [
        rate(f"rate of the error of Trace/||G|| at radius {RATED:g}", sizes, off[:, steep], noise[:, steep], 1.0,
             detect=0.9, bias=0.15),
        *(
            limit(f"Trace/||G|| at radius {r:g}, width to infinity", sizes, off[:, i], noise[:, i], 0.0,
                  powers=(1.0, 2.0), detect=0.25)
            for i, r in enumerate(RADII)
        ),
        *(
            limit(f"logit variance at radius {r:g}, width to infinity", forward_sizes, relative[:, i], deviation[:, i],
                  0.0, powers=(1.0,), detect=0.2)
            for i, r in enumerate(RADII)
        ),
    ]  # fmt: skip

    def plot():
        figure, (left, middle, right) = figures.panels(3, "logit variance", "Trace/||G||", "error against width")
        fine = np.geomspace(RADII[0], RADII[-1], 12)
        left.plot(fine, [theory(forward_sizes[-1], r, inputs)[0] for r in fine], color=figures.COLOURS[0], lw=1.2)
        figures.points(left, RADII, mean[-1], error[-1], figures.COLOURS[0], f"networks of width {forward_sizes[-1]}")
        left.set(xlabel="weight radius (1: initialisation)", ylabel=r"logit variance $\sigma_z^2$")
        left.set_xscale("log")
        left.set_yscale("log")
        for colour, n in ((figures.COLOURS[1], sizes[0]), (figures.COLOURS[2], sizes[-1])):
            i = sizes.index(n)
            middle.plot(RADII, expected[i], color=colour, lw=1.2)
            figures.points(middle, RADII, found[i], spread[i], colour, f"networks of width {n}")
        middle.set(xlabel="weight radius (1: initialisation)", ylabel="Trace/||G||; lines: kernels")
        middle.set_xscale("log")
        figures.convergence(
            right, forward_sizes, relative.mean(axis=1), deviation.mean(axis=1) / 2, figures.COLOURS[0], "variance"
        )
        figures.convergence(right, sizes, off.mean(axis=1), noise.mean(axis=1) / 2, figures.COLOURS[1], "Trace/||G||")
        right.set(xlabel="width", ylabel="relative error, mean over radii")
        for ax in (left, middle, right):
            figures.legend(ax)
        return figure

    text = f"""From radius {RADII[0]:g} to {RADII[-1]:g} the logit variance of networks of width {
        forward_sizes[-1]
    } grows
    from {mean[-1, 0]:.3g} to {mean[-1, -1]:.3g} (predicted {predicted[-1, 0]:.3g} and {predicted[-1, -1]:.3g}), and
    Trace/||G|| of width {sizes[-1]} rises from {found[-1, 0]:.3g} to {found[-1].max():.3g} at radius
    {RADII[int(found[-1].argmax())]:g} and falls to {found[-1, -1]:.3g} (predicted {expected[-1, 0]:.3g},
    {expected[-1].max():.3g} and {expected[-1, -1]:.3g}), both without a fitted number: a Goldilocks zone. The error of
    the ratio at radius {RATED:g} falls like width^-{checks[0].estimate:.2f} +- {checks[0].standard_error:.2f}."""
    return Outcome(checks, text, plot)


def mean_field(width, radius, inputs, **changes):
    """Logit variance of the architecture, and a function for Trace/||G||, which takes draws."""
    field = MeanFieldNetwork(widths_of(width), ACTIVATION, **changes).scaled(radius).kernels(inputs)
    return field.logit_variance, partial(field.goldilocks_ratio, num_draws=DRAWS)


def fan_in(width, radius, inputs):
    return mean_field(width, radius, inputs, weight_variances="lecun")


def without_biases(width, radius, inputs):
    return mean_field(width, radius, inputs, bias_variances=0)


def linear(width, radius, inputs):
    field = MeanFieldNetwork(widths_of(width), "linear").scaled(radius).kernels(inputs)
    return field.logit_variance, partial(field.goldilocks_ratio, num_draws=DRAWS)


def last_layer_alone(width, radius, inputs):
    field = MeanFieldNetwork(widths_of(width), ACTIVATION).scaled(radius).kernels(inputs)
    alone = field.layers * np.array([0.0, 0.0, 1.0])[:, None, None]
    return field.logit_variance, partial(dataclasses.replace(field, layers=alone).goldilocks_ratio, num_draws=DRAWS)


CLAIM = Claim(
    statement="""As one moves radially out in weight space at initialisation, the logit variance grows, and Trace/||G||
    of the Gauss-Newton matrix rises to a peak and falls, as the kernels of the architecture say without a fitted
    number; errors fall as 1 / width.""",
    source="""Fort and Ganguli (2019), figs. 4 (bottom right) and 8; Neal (1996); Jacot, Gabriel and Hongler (2018)""",
    estimates="""mean logit variance and mean Trace/||G|| of tanh networks of two hidden layers on digits, all
    parameters multiplied by a radius from 0.5 to 16, over widths""",
    reference="""S^l and the neural tangent kernel by Hermite series; sample covariances of ratio C / width for the
    outputs""",
    bias="O(1/width), the next order of the expansion in the width; extrapolated, its rate checked",
    draw=draw,
    judge=judge,
    theory=mean_field,
    mutants={
        "weights of variance 1 / fan_in": fan_in,
        "biases without variance": without_biases,
        "a linear network": linear,
        "the last layer's parameters alone": last_layer_alone,
    },
    disagreement="""The paper's section 4 has Trace/||H|| large for small and small for large weight scales, equating
    the weight scale with that of independent logits. In networks the gradients' kernel changes with the radius too: at
    small radii the last layer's biases, alike for all inputs, are most of it, and the ratio is small there as well.""",
)
