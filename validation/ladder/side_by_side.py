"""Every rung of the ladder beside real networks, stage by stage: a map of where each holds."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np

import rmtland as rl
from rmtland.comparison.result import RUNGS as RUNGS_TOLD
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe

BASE = {
    "tiny": Recipe(side=8, hidden=(16, 16), batch=32, learning_rate=0.1, stages=(0, 60)),
    "smoke": Recipe(side=8, hidden=(16, 16), width=0.5, batch=32, learning_rate=0.1, stages=(0, 60, 400)),
    "full": Recipe(hidden=(200, 200), examples=5000, batch=32, learning_rate=0.1, stages=(0, 500, 10_000)),
}
"""The recipes of `fort_ganguli.figure_1`: the same networks."""
CASES = {
    "tiny": (("mnist", "mlp", "relu"),),
    "smoke": (("mnist", "mlp", "relu"), ("cifar10", "cnn", "relu")),
    "full": tuple((d, n, a) for d in ("mnist", "fashion", "cifar10") for n in ("mlp", "cnn") for a in ("relu", "tanh")),
}
COUNT = {"tiny": 1, "smoke": 2, "full": 5}
MEASURED = {"tiny": 30, "smoke": 50, "full": 300}

RUNGS = tuple(RUNGS_TOLD)
SCORES = ("top_error", "ratio_difference", "power_difference")
HOLDS = {"top_error": 0.25, "ratio_difference": 0.25, "power_difference": 0.15}
"""Up to which a rung holds: a quarter in the logarithm of the 2 C largest eigenvalues and in Trace/||.||, and 0.15 of
the gradient's power."""
NUM_DRAWS = 4


def cell(recipe, network, stage, count, examples):
    recipe = Recipe.of(recipe)
    source = networks.source_at(recipe, int(network), int(stage), int(count), int(examples))
    with warnings.catch_warnings():
        # Where no mean logit gradient stands out, the model's sigma_c is 0: that is a result here.
        warnings.filterwarnings("ignore", "sigma_c", RuntimeWarning)
        found = rl.compare({"stage": source}, num_draws=NUM_DRAWS, theory=False, rng=int(network)).stages["stage"]
    scores, residual = np.full((len(RUNGS), len(SCORES)), np.nan), np.full(len(RUNGS), np.nan)
    top = recipe.classes - 1
    reference = np.log(np.maximum(found.rungs["gauss_newton"].eigenvalues[0][-top:], 1e-300))
    for name, score in found.scores().items():
        row = RUNGS.index(name)
        scores[row] = [getattr(score, key) for key in SCORES]
        values = np.log(np.maximum(np.asarray(found.rungs[name].eigenvalues)[:, -top:], 1e-300))
        if len(values) > 1:
            spread = values.std(axis=0, ddof=1)
            residual[row] = np.median(np.abs(values.mean(axis=0) - reference) / np.maximum(spread, 1e-12))
    return {"scores": (("rung", "score"), scores), "residual": (("rung",), residual)}


def draw(scale, rng):
    cases = CASES[scale] if networks.folder_named() else CASES[scale][:1]
    made = [dataclasses.replace(BASE[scale], data=d, network=n, activation=a) for d, n, a in cases]
    found = networks.measured(f"ladder.side_by_side-{scale}", cell, made, COUNT[scale], rng, examples=MEASURED[scale])
    return found, cases, made[0].stages


def judge(data, theory):
    measured, cases, stages = data
    scores = np.abs(measured.scores.to_numpy())  # (cases, networks, stages, rungs, scores)
    residual = measured.residual.to_numpy()
    top = {name: scores[..., i, 0] for i, name in enumerate(RUNGS)}
    checks = [
        exact(f"2 C largest: share of networks and stages where {RUNGS_TOLD[near]} is nearer than {RUNGS_TOLD[far]}",
              (top[near] < top[far]).mean(), 1.0, tolerance=0.1)
        for near, far in theory
    ]  # fmt: skip
    labels = [f"{', '.join(case)}, {step:,}" for case in cases for step in stages]

    def plot():
        figure, axes = figures.panels(3, "2 C largest: median |log|", "Trace/||.||: relative", "power in the top C - 1")
        for ax, i, name in zip(axes, range(3), SCORES, strict=True):
            mean = scores[..., i].mean(axis=1).reshape(-1, len(RUNGS))
            image = ax.imshow(mean, aspect="auto", cmap="RdYlGn_r", vmin=0, vmax=2 * HOLDS[name])
            for (row, column), value in np.ndenumerate(mean):
                if np.isfinite(value):
                    ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=5)
            ax.set_xticks(range(len(RUNGS)), [RUNGS_TOLD[r][:3] for r in RUNGS], fontsize=7)
            ax.set_yticks(range(len(labels)), labels if i == 0 else [""] * len(labels), fontsize=6)
            ax.set(xlabel=f"rung; holds up to {HOLDS[name]:g}", ylabel="network, step")
            figure.colorbar(image, ax=ax).ax.set(xlabel=" ", ylabel="score, mean over networks")
        return figure

    lines = []
    for i, name in enumerate(RUNGS):
        if name == "gauss_newton":
            continue
        part = scores[..., i, :]
        held = [f"{np.mean(part[..., j][np.isfinite(part[..., j])] <= HOLDS[key]):.0%}" for j, key in enumerate(SCORES)]
        by_stage = ", ".join(
            f"{np.nanmean(part[:, :, s, 0]):.2f} +- "
            f"{np.nanstd(part[:, :, s, 0]) / np.isfinite(part[:, :, s, 0]).sum() ** 0.5:.2f}"
            for s in range(len(stages))
        )
        off = residual[..., i]
        units = f", {np.nanmedian(off):.1f} s.d. of its draws off" if np.isfinite(off).any() else ""
        lines.append(f"{RUNGS_TOLD[name]}: {by_stage}{units}; holds in {', '.join(held)}")
    text = f"""{networks.told(*(case[0] for case in cases))} Median |log| of the 2 C largest eigenvalues against G, at
    steps {", ".join(f"{s:,}" for s in stages)}; the median over the C - 1 largest in standard deviations of a draw; and
    in how many networks and stages a rung holds, by these eigenvalues, by Trace/||.|| and by the gradient's power:
    {". ".join(lines)}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""Set beside G of real networks, the rung with the measured means and the kernel law are nearer than the
    paper's full model, at initialisation, in the middle and late in training; and the network's own probabilities are
    nearer than Gaussian logits.""",
    source="Fort and Ganguli (2019), sections 3 to 5; the ladder of `rmtland.compare`",
    estimates="""scores of every rung against G over networks and stages: the 2 C largest eigenvalues, Trace/||.||, the
    gradient's power in the top C - 1 eigenvectors; residuals in standard deviations of a draw""",
    reference="the order of the rungs",
    bias="None: whether or not, in nine of ten networks and stages.",
    draw=draw,
    judge=judge,
    theory=(
        ("measured_means", "full_model"), ("kernel_law", "full_model"), ("own_probabilities", "full_model"),
    ),
    mutants={
        "the full model is nearer than measured means": (("full_model", "measured_means"),),
        "the full model is nearer than the kernel law": (("full_model", "kernel_law"),),
    },
    refuted="""Measured means are nearer everywhere, within two per cent, and the kernel law nearly everywhere. The
    network's own probabilities are nearer than Gaussian logits in about half of the networks and stages only: both miss
    the large eigenvalues by the same factor, three at initialisation, because isotropic residuals and equal means are
    wrong, not the logits.""",
)  # fmt: skip
