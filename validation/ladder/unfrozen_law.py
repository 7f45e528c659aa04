"""The full model without a number of an example: unfrozen logits and uneven gradients beside real networks."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np

from validation import Check, Claim, Outcome, figures
from validation.examples import folder_named
from validation.ladder._trained import NETWORKS, STAGES, trained_stages
from validation.stores import swept

SIZES = {
    # Networks, seeds, examples measured, draws of the law and of each other one.
    "tiny": (("MNIST MLP",), 2, 60, 6, 6),
    "smoke": (("digits MLP", "MNIST MLP", "MNIST CNN"), 2, 80, 4, 2),
    "full": (tuple(NETWORKS), 8, 150, 16, 16),
}
LAWS = ("unfrozen", "own", "even", "margin", "spread")
"""Unfrozen logits and uneven gradients; the same gradients with the network's own probabilities; unfrozen logits and
gradients of one length in all directions; the measured margin, and the measured spread, of the logits with the scales
of every logit's own class."""
TITLES = ("unfrozen logits", "its gradients, own probabilities", "gradients of one length", "margin", "spread")
FACTOR = 1.5


def models_of(source):
    """A model of each law."""
    import rmtland as rl
    from rmtland.logits.accumulate import gather_logits

    spread, margin, even = (
        rl.LandscapeModel.from_source(source, logit_law=law) for law in ("spread", "margin", "unfrozen")
    )
    uneven = dataclasses.replace(even, gradients=rl.UnevenGradients.from_source(source))
    own = dataclasses.replace(uneven, logits=rl.GivenLogits(*gather_logits(source)))
    return uneven, own, even, margin, spread


def reordered(model, rng):
    """Given examples in another order: whose logit gradients are long is nothing that the law knows."""
    import rmtland as rl

    if not isinstance(model.logits, rl.GivenLogits):
        return model
    order = rng.permutation(model.num_examples)
    return dataclasses.replace(model, logits=rl.GivenLogits(model.logits.logits[order], model.logits.labels[order]))


def measured_and_drawn(network, examples, draws, others, *, rng):
    """The largest eigenvalue of a network's G at three stages, and its mean over draws of each law."""
    import rmtland as rl

    real, drawn = [], []
    for source in trained_stages(network, examples, int(rng.integers(2**31))).values():
        real.append(rl.gauss_newton_spectrum(source).eigenvalues[-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a sigma_c of 0 is a result here
            models = models_of(source)
        drawn.append(
            [
                np.mean([reordered(m, child).spectrum(child, k=1).eigenvalues[-1] for child in rng.spawn(count)])
                for m, count in zip(models, [draws, *[others] * (len(LAWS) - 1)], strict=True)
            ]
        )
    return {"real": (("stage",), real), "drawn": (("stage", "law"), drawn)}


def draw(scale, rng):
    names, seeds, examples, draws, others = SIZES[scale]
    return swept(
        f"ladder.unfrozen_law-{scale}", measured_and_drawn, {"network": list(names)}, seeds, rng, examples=examples,
        draws=draws, others=others,
    )  # fmt: skip


def judge(data, theory):
    real, drawn = data["real"].to_numpy(), data["drawn"].to_numpy()  # (network, seed, stage), (.., law)
    of = {law: np.log(drawn[..., i] / real) for i, law in enumerate(LAWS)}
    names, seeds = [str(n) for n in data["network"].to_numpy()], real.shape[1]
    own = of["unfrozen"] - of["own"]
    # Each network by itself is a case of the claim: the mean over seeds has to be within the factor.
    checks = [
        Check(f"{stage}: log of the largest eigenvalue over G's, mean over seeds", of[theory][:, :, i].mean(axis=1),
              0.0, 0.0, math.log(FACTOR), np.inf, names, "the factor that the law has to be within")
        for i, stage in enumerate(STAGES)
    ]  # fmt: skip

    def plot():
        figure, axes = figures.panels(len(LAWS), *TITLES)
        for law, ax in zip(LAWS, axes, strict=True):
            ax.axhspan(1 / FACTOR, FACTOR, color="0.88", lw=0)
            for i, (name, colour) in enumerate(zip(names, figures.COLOURS, strict=False)):
                mean = of[law][i].mean(axis=0)
                error = of[law][i].std(axis=0, ddof=1) / seeds**0.5
                places = np.arange(3) + 0.12 * (i - (len(names) - 1) / 2)
                figures.points(ax, places, np.exp(mean), np.exp(mean) * error, colour, name)
            ax.set_yscale("log")
            ax.set_ylim(0.1, 10)
            ax.set_xticks(range(3), ["initial", "mid", "end"])
            ax.set(xlabel="stage", ylabel="largest eigenvalue, model over network")
        figures.legend(axes[0])
        return figure

    def range_of(values):
        return f"{np.exp(values.min()):.2f} to {np.exp(values.max()):.2f}"

    inside = {law: int(np.sum(np.abs(values) <= math.log(FACTOR))) for law, values in of.items()}
    beyond = [
        f"{names[n]}, seed {s}, {STAGES[t]}: {math.exp(of[theory][n, s, t]):.2f}"
        for n, s, t in np.argwhere(np.abs(of[theory]) > math.log(FACTOR))
    ]
    counts = ", ".join(f"{law} {inside[law]}" for law in LAWS)
    stood_in = "" if folder_named() else "No data folder is named: the digits stand for all data sets. "
    text = f"""{stood_in}Of {real.size} networks and stages the largest eigenvalue is within a factor {FACTOR:g} in: {
        counts
    } (own: the network's own probabilities; even: one length, all directions; margin and spread: the scales of each
    logit's own class). Single ratios: unfrozen {range_of(of["unfrozen"])}, own {range_of(of["own"])}, even {
        range_of(of["even"])
    }, margin {range_of(of["margin"])}, spread {range_of(of["spread"])}; the logit law alone {
        range_of(own)
    }, within the factor in
    {int(np.sum(np.abs(own) <= math.log(FACTOR)))}: where few examples are left undecided, chance decides whose logit
    gradients are long, and its reference scatters.
    Beyond: {"; ".join(beyond) if beyond else "none"}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""The full model needs no number of an example: with logits fitted to the examples that are not frozen,
    and gradients of five numbers weighed by curvature (two lengths, effective dimension, spread over examples, spread
    over logits), its largest eigenvalue is that of a network's G within a factor of 1.5, on average over seeds, at
    every stage of training.""",
    source="Fort and Ganguli (2019), section 4, with the laws that replace its logits and gradients; derived here",
    estimates="""means over draws of the largest eigenvalue, for MLPs and CNNs on digits, MNIST and Fashion-MNIST at
    initialisation, half-way and at the end, over seeds""",
    reference="""the largest eigenvalue of the network's own G; told beside it, that of the same gradients with the
    network's own probabilities""",
    bias="""None derived: a law of a few numbers is off by what it leaves out. The factor was fixed before these
    networks were seen.""",
    draw=draw,
    judge=judge,
    theory="unfrozen",
    mutants={
        "gradients of one length in all directions": "even",
        "the measured margin": "margin",
        "the measured spread of the logits": "spread",
    },
)
