"""Fort and Ganguli, figure 3a: probabilities move from the middle of the simplex to its corners."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe, mean_and_error

RECIPES = {
    "smoke": Recipe(
        data="cifar10", side=8, classes=3, examples=450, network="cnn", width=0.5, batch=32, learning_rate=0.1,
        stages=(10, 200, 1000),
    ),
    "full": Recipe(
        data="cifar10", classes=3, examples=15_000, network="cnn", batch=32, learning_rate=0.05,
        stages=(10, 1000, 20_000),
    ),
}  # fmt: skip
COUNT = {"smoke": 3, "full": 5}
MEASURED = 450


def cell(recipe, network, stage, count):
    source = networks.source_at(Recipe.of(recipe), int(network), int(stage), int(count), MEASURED)
    logits = networks.logits_of(source)
    p = softmax(logits)
    # What the model makes of the same spread: independent normal logits.
    sigma = networks.logit_variance(source) ** 0.5
    drawn = softmax(sigma * np.random.default_rng(0).standard_normal((20_000, logits.shape[1])))
    return {
        "probabilities": (("example", "class"), p), "entropy": entropy(p), "model_entropy": entropy(drawn),
        "sigma_z": sigma, "corner": (p.max(axis=1) > 0.9).mean(), "accuracy": rl.output_statistics(source).accuracy,
    }  # fmt: skip


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def entropy(p):
    """Mean entropy in bits."""
    return float(-np.sum(p * np.log2(np.maximum(p, 1e-300)), axis=1).mean())


def draw(scale, rng):
    recipe = RECIPES[scale]
    return networks.measured(f"fort_ganguli.figure_3a-{scale}", cell, [recipe], COUNT[scale], rng), recipe


def judge(data, theory):
    measured, recipe = data
    bits, model, corner, sigma, accuracy = (
        measured[name].to_numpy()[0] for name in ("entropy", "model_entropy", "corner", "sigma_z", "accuracy")
    )
    start, end = theory(recipe.classes)
    checks = [
        exact("share of networks whose mean entropy falls from stage to stage",
              (np.sign(end - start) * np.diff(bits, axis=1) > 0).all(axis=1).mean(), 1.0),
        exact("mean entropy early, bits", bits[:, 0].mean(), start, tolerance=0.25),
        exact("mean entropy late, bits", bits[:, -1].mean(), end, tolerance=0.25),
    ]  # fmt: skip

    def plot():
        figure, axes = figures.panels(3, *(f"step {step:,}" for step in recipe.stages))
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
        for ax, stage in zip(axes, range(3), strict=True):
            p = measured.probabilities.to_numpy()[0, 0, stage]
            at = p @ corners
            labels = np.arange(len(p)) % recipe.classes
            ax.plot(*corners[[0, 1, 2, 0]].T, color="0.5", lw=1)
            for c in range(3):
                ax.plot(*at[labels == c].T, ".", ms=4, alpha=0.6, color=figures.COLOURS[c], label=f"class {c}")
            ax.set(xlabel=f"entropy {bits[0, stage]:.2f} bits", ylabel="simplex of three classes", aspect="equal")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        figures.legend(axes[0])
        return figure

    course = "; ".join(
        f"step {step:,}: {mean_and_error(bits[:, s])} bits ({mean_and_error(model[:, s])} for normal logits of the "
        f"same sigma_z = {mean_and_error(sigma[:, s])}), {mean_and_error(corner[:, s], '{:.0%}')} of the examples "
        f"beyond p = 0.9, accuracy {mean_and_error(accuracy[:, s], '{:.3f}')}"
        for s, step in enumerate(recipe.stages)
    )
    text = f"""{networks.told(recipe.data)} Mean entropy of the probabilities, of log2 3 = 1.58 bits: {course}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""Over training the probabilities of a convolutional network on three classes of CIFAR-10 move from the
    middle of the simplex to its corners: their entropy falls from log2 C towards 0.""",
    source="Fort and Ganguli (2019), fig. 3a and section 3.3",
    estimates="mean entropy of the softmax probabilities of 450 training images at three stages, over networks",
    reference="log2 3 early and 0 late; independent normal logits of the measured spread beside it",
    bias="None derived: early and late are the paper's words. A quarter of a bit either way.",
    draw=draw,
    judge=judge,
    theory=lambda classes: (np.log2(classes), 0.0),
    mutants={
        "frozen from the start": lambda classes: (0.0, 0.0),
        "never frozen": lambda classes: (np.log2(classes), np.log2(classes) - 0.5),
    },
)
