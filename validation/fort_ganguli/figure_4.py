"""Fort and Ganguli, figure 4: logit variance, logit gradients and weights grow in training, logit variance outwards."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, means, networks
from validation.fort_ganguli import _training
from validation.fort_ganguli._training import course
from validation.ladder._networks import digits, forward
from validation.networks import Recipe, mean_and_error

GROWING = {"logit_variance": "logit variance", "length": "logit gradient length", "weight_norm": "weight norm"}
RADII = (0.5, 1.0, 2.0, 4.0)
WIDTHS, INPUTS, ACTIVATION = (64, 64, 64, 10), 16, "relu"
"""Of the fully connected network that the mean-field prediction is of."""
SIZES = {"smoke": (10, 2000), "full": (200, 20_000)}
"""Networks of each radius: convolutional, and fully connected."""


def draw(scale, rng):
    measured, recipe = _training.draw(scale)
    few, many = SIZES[scale]
    outwards, inputs, connected = {}, digits(INPUTS), {}
    shape = Recipe(data=recipe.data, side=recipe.side, network="cnn", width=recipe.width, examples=recipe.examples)
    for radius in RADII:
        found = []
        for seed in rng.integers(2**31, size=few):
            module = networks.build(shape, int(seed))
            networks.fill(module, radius * networks.flat(module))
            found.append(networks.logit_variance(networks.source_of(module, shape, 100)))
        outwards[radius] = np.array(found)
        parts = [forward(WIDTHS, ACTIVATION, inputs, 500, rng, radius)[0] for _ in range(many // 500)]
        connected[radius] = np.concatenate([z.var(axis=2, ddof=1).mean(axis=1) for z in parts])
    return measured, recipe, outwards, connected, inputs


def judge(data, theory):
    measured, recipe, outwards, connected, inputs = data
    direction, mean_field = theory
    steps = recipe.stages
    values = {name: measured[name].to_numpy() for name in GROWING}
    predicted = np.array([mean_field(radius, inputs) for radius in RADII])
    rising = [np.sign(direction) * (v[:, -1] - v[:, 0]) > 0 for v in values.values()]
    medians = np.array([np.median(v) for v in outwards.values()])
    checks = [
        exact("share of networks in which it grows over training: logit variance, gradient length, weight norm",
              [r.mean() for r in rising], 1.0),
        exact("whether the logit variance of convolutional networks rises from radius to radius",
              np.diff(medians) * direction > 0, 1.0),
        means("fully connected: logit variance over the mean-field prediction, by radius",
              [connected[r] / p for r, p in zip(RADII, predicted, strict=True)], 1.0, bias=0.03, detect=0.4,
              sizes=RADII, note="O(1 / width) at width 64"),
    ]  # fmt: skip

    def plot():
        figure, axes = figures.panels(2, rows=2)
        for ax, colour, (name, label) in zip(axes, figures.COLOURS, GROWING.items(), strict=False):
            course(ax, steps, values[name], colour)
            ax.set(ylabel=label, title=label + " in training")
            ax.set_yscale("log")
        last = axes[3]
        figures.means(last, RADII, outwards.values(), figures.COLOURS[3], "convolutional")
        figures.means(last, RADII, connected.values(), figures.COLOURS[0], "connected")
        fine = np.geomspace(RADII[0], RADII[-1], 20)
        last.plot(fine, [mean_field(r, inputs) for r in fine], color=figures.COLOURS[0], lw=1.2, label="mean field")
        last.set(
            xscale="log",
            yscale="log",
            xlabel="weight radius (1: initialisation)",
            ylabel="logit variance",
            title="logit variance at initialisation",
        )
        figures.log_sizes(last, RADII)
        figures.legend(last)
        return figure

    told = "; ".join(
        f"{label} {mean_and_error(values[name][:, 0], '{:.3g}')} to {mean_and_error(values[name][:, -1], '{:.3g}')}"
        for name, label in GROWING.items()
    )
    peak = values["length"].mean(axis=0)
    ratios = ", ".join(
        f"{np.mean(connected[r]) / p:.3f} at radius {r:g}" for r, p in zip(RADII, predicted, strict=True)
    )
    text = f"""{networks.told(recipe.data)} From initialisation to step {steps[-1]:,}: {told}. The logit gradients are
    longest at step {steps[int(peak.argmax())]:,}. At initialisation the logit variance of convolutional networks goes
    from {outwards[RADII[0]].mean():.3g} at radius {RADII[0]:g} to {outwards[RADII[-1]].mean():.3g} at {RADII[-1]:g};
    that of fully connected ones is {ratios} times the mean-field prediction, without a fitted number."""
    return Outcome(checks, text, plot)


def of_architecture(radius, inputs, **changes):
    """Logit variance by the mean-field network."""
    return rl.MeanFieldNetwork(WIDTHS, ACTIVATION, **changes).scaled(radius).kernels(inputs).logit_variance


CLAIM = Claim(
    statement="""Logit variance, logit-gradient length and weight norm grow over training, and at initialisation the
    logit variance grows with the weight radius, as the mean-field theory of the architecture says.""",
    source="Fort and Ganguli (2019), fig. 4 and section 5.2",
    estimates="""the three through training of a small convolutional network on CIFAR-10, over networks; mean logit
    variance at radii 0.5 to 4 of convolutional and of fully connected networks""",
    reference="growth; MeanFieldNetwork for the fully connected ones",
    bias="None for directions. O(1 / width) for the mean field: 0.03 at width 64.",
    draw=draw,
    judge=judge,
    theory=(1, of_architecture),
    mutants={
        "they shrink": (-1, of_architecture),
        "weights of variance 1 / fan_in": (1, lambda r, x: of_architecture(r, x, weight_variances="lecun")),
        "biases without variance": (1, lambda r, x: of_architecture(r, x, bias_variances=0)),
    },
)
