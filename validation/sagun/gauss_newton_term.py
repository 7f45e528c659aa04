"""Sagun et al., section 2.2: when in training the second term of the Hessian may be dropped."""

from __future__ import annotations

import dataclasses

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe, mean_and_error

BASE = {
    "smoke": Recipe(side=7, hidden=(8, 8), examples=300, learning_rate=0.3, stages=(0, 100, 1000)),
    "full": Recipe(
        side=14, hidden=(22, 22), examples=1000, learning_rate=0.3, stages=(0, 10, 30, 100, 300, 1000, 3000, 10_000)
    ),
}
ACTIVATIONS = ("relu", "tanh")
COUNT = {"smoke": 2, "full": 5}
SMALL = 0.25
"""Of the Frobenius norm of G: what may be dropped."""


def cell(recipe, network, stage, count):
    recipe = Recipe.of(recipe)
    source = networks.source_at(recipe, int(network), int(stage), int(count))
    whole = rl.nets.hessian(source).to_dense()
    first = rl.gauss_newton(source).to_dense()
    second = whole - first
    k = recipe.classes - 1
    values, vectors = np.linalg.eigh(whole)
    theirs, directions = np.linalg.eigh(first)
    rest = np.linalg.eigvalsh(second)
    return {
        "norm": np.linalg.norm(second) / np.linalg.norm(first),
        "largest": max(-rest[0], rest[-1]) / theirs[-1],
        "top": np.max(np.abs(values[-k:] / theirs[-k:] - 1)),
        "overlap": np.sum((vectors[:, -k:].T @ directions[:, -k:]) ** 2) / k,
        "trace": np.trace(whole) / np.trace(first),
        "negative": -values[0] / values[-1],
        "loss": rl.output_statistics(source).loss,
    }


def draw(scale, rng):
    made = [dataclasses.replace(BASE[scale], activation=name) for name in ACTIVATIONS]
    return networks.measured(f"sagun.gauss_newton_term-{scale}", cell, made, COUNT[scale], rng), BASE[scale]


def judge(data, theory):
    measured, recipe = data
    found = {str(name): values.to_numpy() for name, values in measured.data_vars.items() if name != "status"}
    trace, dropped = theory
    checks = [
        exact("ReLU: trace of the Hessian over that of G, networks and stages", found["trace"][0], trace,
              tolerance=1e-9, note="logits are linear in every single weight: d2z/dw2 = 0"),
        *(
            exact(f"{name}: {label}, after training", found[key][i, :, -1], dropped, tolerance=tolerance)
            for i, name in enumerate(("ReLU", "tanh"))
            for key, label, tolerance in (
                ("top", "largest relative difference of the C - 1 top eigenvalues of Hess and G", 0.1),
                ("norm", "Frobenius norm of the second term over that of G", SMALL),
            )
        ),
    ]  # fmt: skip

    def plot():
        figure, axes = figures.panels(3, "second term over G", "top C - 1 of Hess and G", "loss")
        steps = np.array(recipe.stages)
        for colours, name, i in ((figures.COLOURS[:2], "ReLU", 0), (figures.COLOURS[2:4], "tanh", 1)):
            for colour, key, marker in zip(colours, ("norm", "largest"), "os", strict=True):
                values = found[key][i]
                label = f"{name}, {'Frobenius norms' if key == 'norm' else 'largest eigenvalues'}"
                figures.means(axes[0], steps, values.T, colour, label, marker)
            for colour, key, marker in zip(colours, ("top", "overlap"), "os", strict=True):
                values = found[key][i]
                label = f"{name}, {'largest difference' if key == 'top' else 'overlap of the spaces'}"
                figures.means(axes[1], steps, values.T, colour, label, marker)
            values = found["loss"][i]
            figures.means(axes[2], steps, values.T, colours[0], name)
        for ax, label in zip(axes, ("ratio of norms", "relative difference, overlap", "training loss"), strict=True):
            ax.set_xscale("symlog", linthresh=10)
            ax.set(xlabel="step", ylabel=label, xlim=(-1, None))
            figures.legend(ax)
        axes[0].axhline(SMALL, color="0.6", ls=":", lw=1)
        axes[0].set_yscale("log")
        axes[2].set_yscale("log")
        return figure

    lines = []
    for i, name in enumerate(("ReLU", "tanh")):
        course = ", ".join(
            f"step {step}: {mean_and_error(found['norm'][i, :, s], '{:.2f}')} (top eigenvalues off by "
            f"{mean_and_error(found['top'][i, :, s], '{:.2f}')})"
            for s, step in enumerate(recipe.stages)
        )
        lines.append(f"{name}: {course}.")
    text = f"""{networks.told(recipe.data)} Frobenius norm of the second term over that of G, and the largest relative
    difference among the C - 1 top eigenvalues. {" ".join(lines)} In the end the top spaces of Hess and G overlap by
    {mean_and_error(found["overlap"][0, :, -1], "{:.3f}")} (ReLU) and
    {mean_and_error(found["overlap"][1, :, -1], "{:.3f}")} (tanh).

    For ReLU the trace of the second term is zero at every stage: it moves eigenvalues to both sides and adds up to
    nothing, and from step 100 on it may be dropped. That is not because the loss falls: 1 - p, which the second term is
    weighted with, and p (1 - p), which G is, vanish together. For tanh the loss falls as well, to
    {mean_and_error(found["loss"][1, :, -1], "{:.4f}")} (ReLU {mean_and_error(found["loss"][0, :, -1], "{:.4f}")}), and
    the second term levels off at a fixed share of G."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""As training goes on the second term of the Hessian may be dropped: after training the top eigenvalues
    of the Hessian are those of the Gauss-Newton matrix, and the norm of the rest is small beside it.""",
    source="Sagun et al. (2017), eqs. (4) and (5), sections 2.2 and 3.4",
    estimates="""exact Hess, G and their difference through training, ReLU and tanh perceptrons, over networks: norms,
    top eigenvalues, overlap of the top spaces, traces""",
    reference="""no second term: 10% of the top eigenvalues, a quarter of the norm; its trace is exactly zero for
    ReLU""",
    bias="None derived for the two; the trace is exact.",
    draw=draw,
    judge=judge,
    theory=(1.0, 0.0),
    mutants={
        "the second term holds a tenth of the trace": (1.1, 0.0),
        "the second term is as large as G": (1.0, 1.0),
    },
    refuted="""It holds for ReLU, from step 100 or so on. For tanh the second term levels off at about a quarter of G's
    norm, and a third of some of the top eigenvalues, while the loss goes on falling: the factors 1 - p of the one and
    p (1 - p) of the other vanish together.""",
)
