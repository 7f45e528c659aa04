"""The Gauss-Newton spectrum at initialisation from the architecture alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from rmtland import GaussianProcessLogits, MeanFieldNetwork
from validation import Check, Claim, Outcome, figures
from validation.ladder._networks import digits, gauss_newton, kernels, trace_over_norm

EXAMPLES, CLASSES, ACTIVATION = 24, 5, "relu"
OUTLIERS = CLASSES - 1
SIZES = {
    "smoke": {32: 1000, 64: 800},
    "full": {32: 10_000, 64: 8_000, 128: 4_000, 256: 2_000, 1024: 1_000},
}
DRAWS = 800
"""Of the law at each width; their error is counted with that of the networks."""
ORDER = 1.5
"""Relative errors allowed are this over the width: the next order of the expansion, whose constant is not derived."""


def numbers_of(z, gram):
    """Outliers, descending, Trace/||.||, and the variance of the outputs' kernel's eigenvalues about their mean."""
    matrices = gauss_newton(z, gram)
    values = np.linalg.eigvalsh(matrices)[:, ::-1]
    outputs = np.linalg.eigvalsh(gram.mean(axis=(1, 3)))
    spread = (outputs / outputs.mean(axis=1, keepdims=True)).var(axis=1)
    return np.column_stack([values[:, :OUTLIERS], trace_over_norm(matrices), spread])


def draw(scale, rng):
    inputs = digits(EXAMPLES)
    return inputs, {
        width: np.concatenate(
            [numbers_of(*kernels((64, width, CLASSES), ACTIVATION, inputs, 50, rng)) for _ in range(count // 50)]
        )
        for width, count in SIZES[scale].items()
    }


def law(width, inputs, change=lambda field: field, independent=False, identity=False):
    """Draws of the kernel law, from a fixed seed, and the predicted variance of the outputs' kernel's eigenvalues."""
    field = change(MeanFieldNetwork((64, width, CLASSES), ACTIVATION).kernels(inputs))
    rng, found = np.random.default_rng(0), []
    covariance = np.diag(np.diag(field.covariance)) if independent else field.covariance
    logits = GaussianProcessLogits(covariance)
    for _ in range(DRAWS // 50):
        z = np.array([logits.draw_logits(EXAMPLES, CLASSES, rng)[0] for _ in range(50)])
        outputs = np.array([field.output_kernels(rng) for _ in range(50)])
        if identity:
            outputs = np.broadcast_to(np.eye(CLASSES), outputs.shape)
        found.append(numbers_of(z, np.einsum("lmn,slij->sminj", field.layers, outputs, optimize=True)))
    return np.concatenate(found)[:, :-1], field.output_kernel_std**2


def judge(data, theory):
    inputs, found = data
    sizes = list(found)
    drawn, spreads = zip(*(theory(n, inputs) for n in sizes), strict=True)
    mean = np.array([f.mean(axis=0) for f in found.values()])
    error = np.array([f.std(axis=0, ddof=1) / len(f) ** 0.5 for f in found.values()])
    expected = np.column_stack([np.array([d.mean(axis=0) for d in drawn]), spreads])
    own = np.array([np.append(d.std(axis=0, ddof=1) / len(d) ** 0.5, 0) for d in drawn])
    off, noise = mean / expected - 1, np.hypot(error, own) / expected
    allowed = ORDER / np.array(sizes)[:, None]
    checks = [
        Check("outliers", off[:, :OUTLIERS], noise[:, :OUTLIERS], 0.0, allowed, 0.25, sizes),
        Check("Trace/||G||", off[:, OUTLIERS], noise[:, OUTLIERS], 0.0, allowed[:, 0] / 2, 0.15, sizes),
        Check("variance of the outputs' kernel's eigenvalues", off[:, -1], noise[:, -1], 0.0, 2 * allowed[:, 0], 0.5,
              sizes),
    ]  # fmt: skip

    def plot():
        figure, (left, right) = figures.panels(2, f"outliers of G, width {sizes[0]}", "error against width")
        place = np.arange(1, OUTLIERS + 1)
        left.plot(place, expected[0, :OUTLIERS], color=figures.COLOURS[0], lw=1.2, label="kernel law")
        figures.points(left, place, mean[0, :OUTLIERS], error[0, :OUTLIERS], figures.COLOURS[1], "networks")
        left.set(xlabel="outlier, from the largest", ylabel="mean eigenvalue of G")
        left.set_xticks(place)
        for colour, column, name in (
            (figures.COLOURS[0], 0, "largest"), (figures.COLOURS[1], OUTLIERS, "Trace/||G||"),
            (figures.COLOURS[2], -1, "variance of K"),
        ):  # fmt: skip
            figures.convergence(right, sizes, off[:, column], noise[:, column], colour, name)
        right.set(xlabel="width", ylabel="relative error")
        figures.legend(left)
        figures.legend(right)
        return figure

    worst = np.abs(off[-1, :OUTLIERS]).max()
    text = f"""At width {sizes[-1]} the {OUTLIERS} outliers of networks are those of the kernel law within
    {100 * worst:.1f}% and Trace/||G|| within {100 * abs(off[-1, OUTLIERS]):.1f}%, without a fitted number. The
    eigenvalues of the outputs' kernel have the variance {mean[-1, -1]:.4f} (predicted {expected[-1, -1]:.4f})."""
    return Outcome(checks, text, plot)


def all_units_alike(field):
    """The effective width is the width."""
    return dataclasses.replace(field, unit_weights=np.ones_like(field.unit_weights))


def half_of_the_hidden_weights(field):
    """The first layer's part of the kernel halved."""
    return dataclasses.replace(field, layers=field.layers * np.array([0.5, 1.0])[:, None, None])


CLAIM = Claim(
    statement="""At initialisation the spectrum of the Gauss-Newton matrix follows from the architecture and the inputs:
    logits of the network's Gaussian process, J J^T = Theta (x) K with the neural tangent kernel Theta, and K a sample
    covariance whose ratio is C over an effective width.""",
    source="Jacot, Gabriel and Hongler (2018); Karakida, Akaho and Amari (2019); Marchenko and Pastur (1967)",
    estimates="""mean outliers and mean Trace/||G|| of ReLU networks of one hidden layer on digits, and the variance of
    the eigenvalues of their outputs' kernel, over widths""",
    reference="means over draws of the law; (C / effective width) times the square of the share that passes",
    bias=f"""O(1/width), the next order in the width; allowed {ORDER:g}/width for outliers, half of that for the ratio,
    twice for a variance.""",
    draw=draw,
    judge=judge,
    theory=law,
    mutants={
        "all units carry the same": lambda width, inputs: law(width, inputs, all_units_alike),
        "K = I": lambda width, inputs: law(width, inputs, identity=True),
        "half of the hidden weights": lambda width, inputs: law(width, inputs, half_of_the_hidden_weights),
        "logits that inputs do not share": lambda width, inputs: law(width, inputs, independent=True),
    },
)
