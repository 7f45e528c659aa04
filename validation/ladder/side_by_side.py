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
LEFT_OUT = {"tiny": (), "smoke": ("hessian",), "full": ()}
"""Rungs that are not measured: the Hessian takes longer than all others, and no check is about it."""

RUNGS = tuple(RUNGS_TOLD)
SCORES = ("top_error", "ratio_difference", "power_difference")
TITLES = ("2 C largest: median |log|", "Trace/||.||: relative", "power in the top C - 1")
HOLDS = {"top_error": 0.25, "ratio_difference": 0.25, "power_difference": 0.15}
"""Up to which a rung holds: a quarter in the logarithm of the 2 C largest eigenvalues and in Trace/||.||, and 0.15 of
the gradient's power."""
NUM_DRAWS = 4
SAMPLES = 4
"""Further sets of as many training examples, between which the network's own numbers vary."""


def cell(recipe, network, stage, count, examples, left_out):
    recipe, examples = Recipe.of(recipe), int(examples)
    module = networks.module_at(recipe, int(network), int(stage), int(count))
    images, labels = networks.data(recipe)
    places = [slice(i * examples, (i + 1) * examples) for i in range(SAMPLES + 1)]
    source, *others = (networks.source(module, images[at], labels[at]) for at in places)
    with warnings.catch_warnings():
        # Where no mean logit gradient stands out, the model's sigma_c is 0: that is a result here.
        warnings.filterwarnings("ignore", "sigma_c", RuntimeWarning)
        rungs = [name for name in RUNGS if name not in left_out.split()]
        found = rl.compare({"stage": source}, num_draws=NUM_DRAWS, rungs=rungs, theory=False, rng=int(network))
    found = found.stages["stage"]
    spectra = [of_spectrum(rl.gauss_newton_spectrum(other), recipe.classes) for other in others]
    between = np.std(spectra, axis=0, ddof=1)
    real = of_rung(found.rungs["gauss_newton"], recipe.classes)[0]
    scores, residuals = np.full((2, len(RUNGS), len(SCORES)), np.nan)
    for name, score in found.scores().items():
        row = RUNGS.index(name)
        scores[row] = [getattr(score, key) for key in SCORES]
        residuals[row] = in_errors(of_rung(found.rungs[name], recipe.classes), real, between)
    axes = ("rung", "score")
    return {"scores": (axes, scores), "residuals": (axes, residuals)}


def of_spectrum(spectrum, classes):
    """Logarithms of the C - 1 largest eigenvalues, log Trace/||.||, and the gradient's power in their eigenvectors."""
    logs = np.log(np.maximum(spectrum.eigenvalues[::-1][: classes - 1], 1e-300))
    return np.array([*logs, np.log(spectrum.goldilocks_ratio()), spectrum.gradient_power(classes - 1)])


def of_rung(rung, classes):
    """The same of each draw, (draws, C + 1); NaN for what a rung does not have."""
    top = np.full((rung.num_draws, classes - 1), np.nan)
    known = np.asarray(rung.eigenvalues)[:, ::-1][:, : classes - 1]
    top[:, : known.shape[1]] = known
    unknown = np.full(rung.num_draws, np.nan)
    ratio, power = (rung.values.get(name, unknown) for name in ("goldilocks_ratio", "gradient_power_C_minus_1"))
    return np.column_stack([np.log(np.maximum(top, 1e-300)), np.log(np.maximum(ratio, 1e-300)), power])


def in_errors(drawn, real, between):
    """A rung's mean (draws, C + 1) less the network's numbers, in errors: median |.| of the top, ratio, power.

    An error is that of two independent ones: how the rung varies between draws, and the network between sets of as many
    other examples. A rung without draws is a function of the network's own numbers and has the second alone.
    """
    spread = drawn.std(axis=0, ddof=1) if len(drawn) > 1 else 0.0
    off = (drawn.mean(axis=0) - real) / np.hypot(spread, between)
    return np.median(np.abs(off[:-2])), off[-2], off[-1]


def draw(scale, rng):
    cases = CASES[scale] if networks.folder_named() else CASES[scale][:1]
    made = [dataclasses.replace(BASE[scale], data=d, network=n, activation=a) for d, n, a in cases]
    found = networks.measured(
        f"ladder.side_by_side-{scale}", cell, made, COUNT[scale], rng, examples=MEASURED[scale],
        left_out=" ".join(LEFT_OUT[scale]),
    )  # fmt: skip
    return found, cases, made[0].stages


def judge(data, theory):
    measured, cases, stages = data
    scores, residuals = (np.abs(measured[name].to_numpy()) for name in ("scores", "residuals"))
    top = {name: scores[..., i, 0] for i, name in enumerate(RUNGS)}  # (cases, networks, stages, rungs, scores) of all
    checks = [
        exact(f"2 C largest: share of networks and stages where {RUNGS_TOLD[near]} is nearer than {RUNGS_TOLD[far]}",
              (top[near] < top[far]).mean(), 1.0, tolerance=0.1)
        for near, far in theory
    ]  # fmt: skip
    labels = [f"{', '.join(case)}, {step:,}" for case in cases for step in stages]
    beside = [i for i, name in enumerate(RUNGS) if name != "gauss_newton" and np.isfinite(scores[..., i, :]).any()]
    letters = [RUNGS_TOLD[RUNGS[i]][:3] for i in beside]

    def flat(values):
        """Of (cases, networks, stages, rungs, scores), networks in front and a row for each case and stage."""
        return values.swapaxes(0, 1).reshape(values.shape[1], len(labels), len(RUNGS), len(SCORES))[:, :, beside]

    mean, off = flat(scores).mean(axis=0), flat(residuals).mean(axis=0)
    count = scores.shape[1]
    error = flat(scores).std(axis=0, ddof=1) / count**0.5 if count > 1 else np.full_like(mean, np.nan)

    def plot():
        titles = *TITLES, *(f"{title.partition(':')[0]}: in errors" for title in TITLES)
        figure, axes = figures.panels(3, *titles, rows=2)
        figure.set_size_inches(17, 2.4 + 0.5 * len(labels))
        for k, ax in enumerate(axes):
            score, scored = k % 3, k < 3
            values = (mean if scored else off)[..., score]
            limit = 2 * HOLDS[SCORES[score]] if scored else 4.0
            image = ax.imshow(values, aspect="auto", cmap="Oranges", vmin=0, vmax=limit)
            for (row, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    told = digits(value, error[row, column, score]) if scored else f"{value:.1f}"
                    held = mean[row, column, score] <= HOLDS[SCORES[score]]
                    ax.text(
                        column, row, told, ha="center", va="center", fontsize=6, weight="bold" if held else "normal"
                    )
            ax.set_xticks(range(len(letters)), letters, fontsize=7)
            ax.set_yticks(range(len(labels)), labels if score == 0 else [""] * len(labels), fontsize=7)
            ax.set(xlabel=f"rung; bold: holds, {HOLDS[SCORES[score]]:g} or less", ylabel="network, step")
            bar = figure.colorbar(image, ax=ax)
            bar.ax.set(xlabel=" ", ylabel="mean over networks (error)" if scored else "distance from G in errors")
        return figure

    lines = []
    for place, i in enumerate(beside):
        part = scores[..., i, :]
        held = [f"{np.mean(part[..., j][np.isfinite(part[..., j])] <= HOLDS[key]):.0%}" for j, key in enumerate(SCORES)]
        units = ", ".join("-" if np.isnan(v).all() else f"{np.nanmedian(v):.1f}" for v in off[:, place].T)
        lines.append(f"{RUNGS_TOLD[RUNGS[i]]}: holds in {', '.join(held)}; {units} errors off")
    rows = [
        f"{label}: "
        + ", ".join(
            f"{letter} {digits(mean[row, j, 0], error[row, j, 0])} [{off[row, j, 0]:.1f}]"
            for j, letter in enumerate(letters)
            if np.isfinite(mean[row, j, 0])
        )
        for row, label in enumerate(labels)
    ]
    left_out = [RUNGS_TOLD[name] for i, name in enumerate(RUNGS) if not np.isfinite(scores[..., i, :]).any()]
    not_measured = f" Not measured: {', '.join(left_out)}." if left_out else ""
    text = f"""{networks.told(*(case[0] for case in cases))}{
        not_measured
    } In how many networks and stages a rung holds, by the 2 C
    largest eigenvalues, by Trace/||.|| and by the gradient's power, and how many errors it is off by these (median): {
        ". ".join(lines)
    }.

    An error is that of a draw of the rung and that of the network between sets of as many other training examples.
    Median |log| of the 2 C largest eigenvalues against G, the error over networks of its last digit, and in brackets
    the median over the C - 1 largest in errors. {". ".join(rows)}."""
    return Outcome(checks, text, plot)


def digits(mean, error):
    """0.32(4); without brackets where no error is known."""
    return f"{mean:.2f}" if not np.isfinite(error) else f"{mean:.2f}({100 * error:.0f})"


CLAIM = Claim(
    statement="""Set beside G of real networks, the rung with the measured means and the kernel law are nearer than the
    paper's full model, at initialisation, in the middle and late in training; and the network's own probabilities are
    nearer than Gaussian logits.""",
    source="Fort and Ganguli (2019), sections 3 to 5; the ladder of `rmtland.compare`",
    estimates="""scores of every rung against G over networks and stages: the 2 C largest eigenvalues, Trace/||.||, the
    gradient's power in the top C - 1 eigenvectors; residuals in units of the errors of rung and network""",
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
