"""Fort and Ganguli, figure 1: logit gradients cluster by logit, whatever the network, the data and the stage."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe

BASE = {
    "smoke": Recipe(side=8, hidden=(16, 16), width=0.5, batch=32, learning_rate=0.1, stages=(0, 60, 400)),
    "full": Recipe(hidden=(200, 200), examples=5000, batch=32, learning_rate=0.1, stages=(0, 500, 10_000)),
}
DATA, NETWORKS, ACTIVATIONS = ("mnist", "fashion", "cifar10"), ("mlp", "cnn"), ("relu", "tanh")
COUNT = {"smoke": 2, "full": 5}
MEASURED = {"smoke": 100, "full": 500}
NAMES = {"same_logit_same_class": "q_SLSC", "same_logit": "q_SL", "different_logits": "q_DL"}
PRINTED = 0.67
"""q_SL of the paper's model, which it says matches its fig. 1."""


def cell(recipe, network, stage, count, examples):
    source = networks.source_at(Recipe.of(recipe), int(network), int(stage), int(count), int(examples))
    found = rl.clustering(source, num_bootstrap=0)
    return {**{name: getattr(found, name) for name in NAMES}, "accuracy": rl.output_statistics(source).accuracy}


def draw(scale, rng):
    cases = list(itertools.product(DATA if networks.folder_named() else DATA[:1], NETWORKS, ACTIVATIONS))
    made = [
        dataclasses.replace(BASE[scale], data=name, network=network, activation=activation)
        for name, network, activation in cases
    ]
    found = networks.measured(f"fort_ganguli.figure_1-{scale}", cell, made, COUNT[scale], rng, examples=MEASURED[scale])
    return found, cases, made[0].stages


def judge(data, theory):
    measured, cases, stages = data
    q = {name: measured[name].to_numpy() for name in NAMES}  # (cases, networks, stages)
    order, orthogonal = theory
    first, second, third = (q[name] for name in order)
    checks = [
        exact(f"share of networks and stages with {' >= '.join(NAMES[name] for name in order[:2])}",
              (first >= second).mean(), 1.0, tolerance=0.1),
        exact(f"share of networks and stages with {NAMES[order[1]]} > 3 |{NAMES[order[2]]}|",
              (second > 3 * np.abs(third)).mean(), 1.0, tolerance=0.1),
        exact("q_DL, mean over networks, by data, network, activation and stage",
              q["different_logits"].mean(axis=1).ravel(), orthogonal, tolerance=0.1),
    ]  # fmt: skip

    def plot():
        figure, axes = figures.panels(3, *(f"step {step:,}" for step in stages))
        place = np.arange(len(cases))
        colours = (figures.COLOURS[2], figures.COLOURS[1], figures.COLOURS[0])
        for ax, stage in zip(axes, range(3), strict=True):
            for i, (name, colour) in enumerate(zip(NAMES, colours, strict=True)):
                values = q[name][:, :, stage]
                error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
                ax.bar(
                    place + 0.27 * (i - 1),
                    values.mean(axis=1),
                    0.27,
                    yerr=2 * error,
                    color=colour,
                    label=rf"${NAMES[name].replace('_', '_{')}}}$",
                    error_kw={"lw": 0.8},
                )
            ax.axhline(PRINTED, color="0.5", ls=":", lw=1, label=r"$q_{SL}$, paper's model")
            ax.axhline(0, color="0.3", lw=0.6)
            ax.set_xticks(place, [", ".join(case) for case in cases], rotation=90, fontsize=6)
            ax.set(
                xlabel="data, network, activation",
                ylabel="mean cosine",
                ylim=(-0.15, 1.15),
            )
        figures.legend(axes[0], ncols=2)
        return figure

    def told(network, stage):
        rows = [i for i, case in enumerate(cases) if case[1] == network]
        return ", ".join(
            f"{short} {v.mean():.2f} (+-{v.mean(axis=(1,)).std():.2f} between cases)"
            for name, short in NAMES.items()
            for v in [q[name][rows, :, stage]]
        )

    lines = "; ".join(
        f"{network}, step {stages[stage]:,}: {told(network, stage)}" for network in NETWORKS for stage in (0, 2)
    )
    same = q["same_logit"]
    text = f"""{networks.told(*(case[0] for case in cases))} {lines}. q_SL over all networks is
    {same[..., 0].mean():.2f} at initialisation, {same[..., 1].mean():.2f} in the middle and
    {same[..., 2].mean():.2f} late; the paper's model has
    {PRINTED}. The smallest q_SL is {same.min():.2f}, the largest |q_DL|
    {np.abs(q["different_logits"]).max():.3f}. q_DL is below zero in {np.mean(q["different_logits"] < 0):.0%} of the
    networks and stages."""
    return Outcome(checks, text, plot)


ORDER = tuple(NAMES)

CLAIM = Claim(
    statement="""Gradients of the same logit cluster, more so for examples of that class, and those of different logits
    are nearly orthogonal: for perceptrons and convolutional networks, ReLU and tanh, three data sets, at
    initialisation, in the middle and late in training.""",
    source="Fort and Ganguli (2019), fig. 1, eqs. (11) to (13), section 5.1",
    estimates="q_SLSC, q_SL and q_DL over 2 or more networks of each kind at three stages",
    reference="the order of the bars, and q_DL near 0; the paper prints no number but q_SL = 0.67 of its model",
    bias="None derived. One case in ten may be otherwise; 0.1 still counts as nearly orthogonal.",
    draw=draw,
    judge=judge,
    theory=(ORDER, 0.0),
    mutants={
        "examples of the own class cluster less": ((ORDER[1], ORDER[0], ORDER[2]), 0.0),
        "different logits cluster as the same do": ((ORDER[0], ORDER[2], ORDER[1]), 0.0),
        "different logits are at angles of 60 degrees": (ORDER, 0.5),
    },
)
