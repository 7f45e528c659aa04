"""Sagun et al., figures 3 and 5: wider networks have the same right edge, and the same percentage of negative ones."""

from __future__ import annotations

import dataclasses

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe, mean_and_error

WIDTHS = (10, 30, 50, 70)
BASE = {
    "smoke": Recipe(side=7, examples=1000, learning_rate=0.2, stages=(1500,)),
    "full": Recipe(side=14, examples=1000, learning_rate=0.2, stages=(10_000,)),
}
COUNT = {"smoke": 2, "full": 5}
TOP = 10
"""Eigenvalues of the right edge that are compared; C."""
ZERO = 1e-5
"""Of the largest eigenvalue: what is nearer to zero counts as zero."""


def recipes(scale):
    return [dataclasses.replace(BASE[scale], hidden=(width,)) for width in WIDTHS]


def cell(recipe, network, stage, count, size):
    source = networks.source_at(Recipe.of(recipe), int(network), int(stage), int(count))
    values = np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())
    return {"eigenvalues": (("rank",), networks.padded(values, int(size))), "loss": rl.output_statistics(source).loss}


def draw(scale, rng):
    made = recipes(scale)
    size = networks.flat(networks.build(made[-1], 0)).size
    measured = networks.measured(f"sagun.figures_3_5-{scale}", cell, made, COUNT[scale], rng, size=size)
    return measured.isel(stage=0), WIDTHS, made[0].data


def exponents(widths, values):
    """Slopes of log values (widths, networks) against log width, one for each network."""
    return np.polyfit(np.log(widths), np.log(values), 1)[0]


def judge(data, theory):
    measured, widths, name = data
    values = measured.eigenvalues.to_numpy()  # (widths, networks, parameters)
    edge = np.exp(np.log(values[..., -TOP:]).mean(axis=2))
    top = values[..., -1:]
    size = np.isfinite(values).sum(axis=2)
    percent = 100 * (values < -ZERO * top).sum(axis=2) / size
    depth = -np.nanmin(values, axis=2) / top[..., 0]
    slopes, shares = exponents(widths, edge), exponents(widths, percent)
    edge_exponent, share_exponent = theory
    checks = [
        exact("exponent of the ten largest eigenvalues in the width, mean over networks", slopes.mean(), edge_exponent,
              tolerance=0.25, note="1.6 from the narrowest to the widest"),
        exact("exponent of the percentage of negative eigenvalues, mean over networks", shares.mean(), share_exponent,
              tolerance=0.25),
        exact("both exponents, within half a power of what is claimed", [slopes.mean(), shares.mean()],
              [edge_exponent, share_exponent], tolerance=0.5, note="nearer to it than to a power more or less"),
        exact("most negative eigenvalue over the largest, every network", depth, 0.0, tolerance=0.1),
    ]  # fmt: skip

    def plot():
        figure, (left, right) = figures.panels(2, "right edge (fig. 3)", "negative eigenvalues (fig. 5)")
        for colour, width, rows, sizes in zip(figures.COLOURS, widths, values, size, strict=False):
            for i, (row, count) in enumerate(zip(rows, sizes, strict=True)):
                shown = row[-min(120, count) :]
                label = f"n = {width}" if i == 0 else None
                left.plot(np.arange(121 - shown.size, 121), shown, color=colour, lw=1, label=label)
                negative = row[-count:][row[-count:] < 0]
                right.plot(100 * np.arange(1, negative.size + 1) / count, negative, color=colour, lw=1, label=label)
        left.set(xlabel="rank among the largest 120", ylabel="eigenvalue of the Hessian")
        right.set(xlabel="rank of the eigenvalue, percent", ylabel="negative eigenvalue")
        for ax in (left, right):
            figures.legend(ax)
        return figure

    by_width = "; ".join(
        f"n = {w}: {mean_and_error(e)}, {mean_and_error(p, '{:.1f}')}% and {mean_and_error(d, '{:.4f}')}"
        for w, e, p, d in zip(widths, edge, percent, depth, strict=True)
    )
    losses = ", ".join(mean_and_error(row, "{:.4f}") for row in measured.loss.to_numpy())
    text = f"""{networks.told(name)} Geometric mean of the ten largest eigenvalues, percentage of negative ones, and the
    most negative over the largest, for {by_width}. Exponents in the width: {mean_and_error(slopes)} of the right edge
    and {mean_and_error(shares)} of the percentage. Training losses: {losses}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""Trained with the same step size and number of steps, networks of growing width have the same right edge
    of the Hessian's spectrum and the same percentage of negative eigenvalues, which are small.""",
    source="Sagun et al. (2017), figs. 3 and 5, sections 3.2 and 3.4",
    estimates="""exponents in the width of the ten largest eigenvalues and of the percentage of negative ones, exact
    Hessians of one hidden layer of 10 to 70 units on 1,000 images of 14 x 14 pixels (at smoke scale 7 x 7)""",
    reference="exponents of zero",
    bias="None derived: the paper prints no number. An exponent of 0.25 is 1.6 over the widths.",
    draw=draw,
    judge=judge,
    theory=(0.0, 0.0),
    mutants={
        "eigenvalues and percentages grow as the width": (1.0, 1.0),
        "a fixed number of negative eigenvalues": (0.0, -1.0),
    },
    refuted="""Nearly: negative ones are small, a thousandth of the largest, and neither number goes like the width. But
    the right edge does not stay: at the same step size and number of steps its ten largest eigenvalues fall like the
    width to the power -0.4 (of 10 to 50 units -0.7 on 500 images, -0.25 on digits), by half from 10 units to 70, while
    the loss falls too. Of the eigenvalues 9% are negative with 10 units, 14% with 30, 50 and 70.""",
)
