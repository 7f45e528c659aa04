"""Sagun et al., figures 4 and 6: the large batch finds larger outliers than the small one, at the same rate."""

from __future__ import annotations

import dataclasses

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe, mean_and_error

BASE = {
    "smoke": Recipe(side=10, network="convnet", hidden=(3, 6, 12), examples=1000, learning_rate=0.1, stages=(500,)),
    "full": Recipe(side=14, network="convnet", hidden=(8, 16, 32), examples=1000, learning_rate=0.1, stages=(10_000,)),
}
BATCHES = (10, 512)
COUNT = {"smoke": 2, "full": 5}
MEASURED = {"smoke": 100, "full": 1000}


def cell(recipe, network, stage, count, examples):
    source = networks.source_at(Recipe.of(recipe), int(network), int(stage), int(count), int(examples))
    outputs = rl.output_statistics(source)
    values = np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())
    return {"eigenvalues": (("rank",), values), "loss": outputs.loss, "accuracy": outputs.accuracy}


def draw(scale, rng):
    made = [dataclasses.replace(BASE[scale], batch=batch) for batch in BATCHES]
    return networks.measured(
        f"sagun.figures_4_6-{scale}", cell, made, COUNT[scale], rng, examples=MEASURED[scale]
    ).isel(stage=0), made[0]


def judge(data, theory):
    measured, recipe = data
    values = measured.eigenvalues.to_numpy()  # (batches, networks, parameters)
    outliers = values[..., -(recipe.classes - 1) :].sum(axis=2)
    ratio = outliers[1] / outliers[0]
    percent = 100 * (values < -1e-5 * values[..., -1:]).mean(axis=2)
    larger = theory(ratio)
    checks = [
        exact("share of networks whose C - 1 outliers are larger for the batch of 512", larger.mean(), 1.0),
        exact("percentage of negative eigenvalues, batch of 512 over batch of 10, mean",
              (percent[1] / percent[0]).mean(), 1.0, tolerance=0.25),
    ]  # fmt: skip

    def plot():
        figure, (left, right) = figures.panels(2, "outliers (fig. 4)", "negative eigenvalues (fig. 6)")
        for colour, batch, rows in zip(figures.COLOURS, BATCHES, values, strict=False):
            for i, row in enumerate(rows):
                label = f"batch {batch}" if i == 0 else None
                left.plot(np.arange(1, 21), row[-20:], "o-", ms=3, lw=0.8, color=colour, label=label)
                negative = row[row < 0]
                right.plot(100 * np.arange(1, negative.size + 1) / row.size, negative, color=colour, lw=1, label=label)
        left.set(xlabel="rank among the largest 20", ylabel="eigenvalue of the Hessian")
        right.set(xlabel="rank of the eigenvalue, percent", ylabel="negative eigenvalue")
        for ax in (left, right):
            figures.legend(ax)
        return figure

    loss, accuracy = measured.loss.to_numpy(), measured.accuracy.to_numpy()
    text = f"""{networks.told(recipe.data)} Sum of the C - 1 largest eigenvalues after {recipe.stages[-1]:,} steps of
    rate {recipe.learning_rate:g}: {mean_and_error(outliers[0])} for batches of 10 (training loss
    {mean_and_error(loss[0], "{:.4f}")}, accuracy {mean_and_error(accuracy[0], "{:.3f}")}) and
    {mean_and_error(outliers[1])} for batches of 512 ({mean_and_error(loss[1], "{:.4f}")},
    {mean_and_error(accuracy[1], "{:.3f}")}), a ratio of {mean_and_error(ratio)}. Negative eigenvalues:
    {mean_and_error(percent[0], "{:.1f}")}% and {mean_and_error(percent[1], "{:.1f}")}%, the most negative
    {mean_and_error(-values[0, :, 0] / values[0, :, -1], "{:.3f}")} and
    {mean_and_error(-values[1, :, 0] / values[1, :, -1], "{:.3f}")} of the largest."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""With the same learning rate and number of steps a batch of 512 leads to larger outliers of the Hessian
    than one of 10; the negative eigenvalues, in percent, look alike.""",
    source="Sagun et al. (2017), figs. 4 and 6, sections 3.3 and 3.4",
    estimates="""exact Hessians of networks of two convolutions, each with ReLU and pooling, and two linear layers on
    1,000 images of 14 x 14 pixels (smoke: 10 x 10, 628 parameters, the Hessian on 100)""",
    reference="the direction of the difference; the paper prints no number",
    bias="""None: whether or not, network by network. A quarter for the ratio of percentages, which need not be equal.
    The paper prints neither its rate nor its losses, only that both batches converge; 0.1 was chosen for that. At 0.2
    batches of 10 of so small a network do not, and the large batch had the larger outliers in one network of three.""",
    draw=draw,
    judge=judge,
    theory=lambda ratio: ratio > 1,
    mutants={
        "the small batch has the larger outliers": lambda ratio: ratio < 1,
        "a hundred times as large": lambda ratio: ratio > 100,
    },
)
