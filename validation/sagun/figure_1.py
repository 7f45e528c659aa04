"""Sagun et al., figure 1: the exact spectrum at a random initial point and after gradient descent."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe, mean_and_error

RECIPES = {
    "smoke": Recipe(side=7, hidden=(12, 12), learning_rate=0.3, stages=(0, 1500)),
    "full": Recipe(side=14, hidden=(22, 22), examples=1000, learning_rate=0.3, stages=(0, 10_000)),
}
COUNT = {"smoke": 3, "full": 10}
NEAR, LARGE = 0.01, 0.1
"""Of the largest eigenvalue: near zero is below the one, large above the other."""


def cell(recipe, network, stage, count):
    source = networks.source_at(Recipe.of(recipe), int(network), int(stage), int(count))
    return {
        "eigenvalues": (("rank",), np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())),
        "loss": rl.output_statistics(source).loss,
    }


def draw(scale, rng):
    recipe = RECIPES[scale]
    return networks.measured(f"sagun.figure_1-{scale}", cell, [recipe], COUNT[scale], rng), recipe


def judge(data, theory):
    measured, recipe = data
    values = measured.eigenvalues.to_numpy()[0]  # (networks, stages, parameters)
    share, most = theory(recipe.classes)
    top = values[..., -1:]
    near = (np.abs(values) <= NEAR * top).mean(axis=2)
    large = (values >= LARGE * top).sum(axis=2)
    negative = -values[..., 0] / values[..., -1]
    checks = [
        *(
            exact(f"{when}: share of eigenvalues within 1% of the largest from zero", near[:, stage], share,
                  tolerance=0.2)
            for stage, when in enumerate(("at first", "after training"))
        ),
        *(
            exact(f"{when}: share of networks with 2 C eigenvalues beyond 10% of the largest, or fewer",
                  np.mean(large[:, stage] <= most), 1.0)
            for stage, when in enumerate(("at first", "after training"))
        ),
        exact("largest negative eigenvalue after training, over the largest", negative[:, -1], 0.0, tolerance=0.1),
    ]  # fmt: skip

    def plot():
        figure, axes = figures.panels(2, "random initial point", f"after {recipe.stages[-1]:,} steps")
        for ax, stage in zip(axes, (0, -1), strict=True):
            for colour, spectrum in zip(figures.COLOURS, values[:, stage], strict=False):
                ax.plot(np.arange(1, spectrum.size + 1), spectrum, ".", ms=3, color=colour)
            ax.axhline(0, color="0.7", lw=0.8, zorder=0)
            ax.set(xlabel="rank of the eigenvalue", ylabel="eigenvalue of the Hessian")
        return figure

    told = [mean_and_error(near[:, s], "{:.1%}") for s in (0, -1)]
    counts = [mean_and_error(large[:, s]) for s in (0, -1)]
    text = f"""{networks.told(recipe.data)} {values.shape[2]:,} parameters, {len(values)} networks. Within 1% of the
    largest from zero lie {told[0]} of the eigenvalues at the random initial point and {told[1]} after gradient descent
    (loss {mean_and_error(measured.loss.to_numpy()[0, :, -1], "{:.3f}")}); beyond 10% of it {counts[0]} and {counts[1]},
    with C = {recipe.classes}. The most negative eigenvalue is {mean_and_error(negative[:, 0], "{:.3f}")} of the largest
    at first and {mean_and_error(negative[:, -1], "{:.4f}")} of it in the end. The largest grows from
    {mean_and_error(values[:, 0, -1], "{:.2f}")} to {mean_and_error(values[:, -1, -1], "{:.2f}")}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""At a random initial point and after gradient descent alike, most eigenvalues of the Hessian are near
    zero, and a handful, no more than the data have classes or so, are large.""",
    source="Sagun et al. (2017), fig. 1 and section 2.1",
    estimates="""all eigenvalues of the exact Hessian of perceptrons of two hidden layers, about 5,000 parameters (at
    smoke scale 886, images shrunk to 7 x 7), over networks""",
    reference="nearly all within 1% of the largest from zero; no more than 2 C beyond 10% of it",
    bias="""None derived: the paper prints no number. One fifth of the eigenvalues may be elsewhere; the most negative
    is to be less than a tenth of the largest after training (section 3.4 has orders of magnitude).""",
    draw=draw,
    judge=judge,
    theory=lambda num_classes: (1.0, 2 * num_classes),
    mutants={
        "half of the directions are curved": lambda num_classes: (0.5, 2 * num_classes),
        "one outlier": lambda num_classes: (1.0, 1),
    },
    refuted="""It holds after training. At the random initial point a third of the eigenvalues are farther from zero
    than 1% of the largest and some seventy are beyond 10% of it, where ten classes would make nine; negative ones are
    nearly as large as positive ones: the term with the logits' curvature is most of the Hessian there. At the paper's
    size, 5,070 parameters, it is a sixth of them, and 129 of a network.""",
)
