"""A small convolutional network measured through its training, for several claims at once."""

from __future__ import annotations

import functools
import os

import numpy as np

import rmtland as rl
from rmtland._arrays import to_numpy
from validation import figures, networks, stores
from validation.networks import Recipe

RECIPES = {
    "smoke": Recipe(
        data="cifar10", side=8, examples=300, network="cnn", width=0.5, batch=32, learning_rate=0.1,
        stages=(0, 3, 10, 30, 100, 300, 600, 1000, 1600),
    ),
    "full": Recipe(
        data="cifar10", examples=5000, network="cnn", batch=32, learning_rate=0.05,
        stages=(0, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000),
    ),
}  # fmt: skip
COUNT = {"smoke": 3, "full": 5}
MEASURED = {"smoke": 100, "full": 500}
TOLERANCE = {"smoke": 1e-2, "full": 1e-3}
"""Residuals of eigenpairs over eigenvalues."""


def cell(recipe, network, stage, count, examples, tolerance):
    """Logits, logit gradients, weights, and the top of the Hessian's spectrum with the gradient in it."""
    recipe = Recipe.of(recipe)
    source = networks.source_at(recipe, int(network), int(stage), int(count), int(examples))
    outputs, lengths = rl.output_statistics(source), rl.logit_gradient_lengths(source)
    pairs = rl.top_eigenpairs(rl.nets.hessian(source), recipe.classes, tolerance=tolerance, rng=0)
    gradient = to_numpy(rl.gradient(source)).astype(float)
    powers = (to_numpy(pairs.eigenvectors).T @ gradient) ** 2 / (gradient @ gradient)
    weights = networks.trained(recipe, int(count))[int(network), int(stage)]
    return {
        "logit_variance": networks.logit_variance(source), "length": float(lengths.overall.mean()),
        "loss": float(outputs.loss), "weight_norm": float(np.linalg.norm(weights)),
        "accuracy": float(outputs.accuracy),
        "eigenvalues": (("rank",), to_numpy(pairs.eigenvalues)), "powers": (("rank",), powers),
        "parameters": float(source.num_parameters),
    }  # fmt: skip


def draw(scale, rng=None):
    """Over (network, stage), the same for every claim of a run, whatever its own generator; with the recipe."""
    return _measured(scale, stores.folder(), stores.run_seed(), os.environ.get("RMTLAND_DATA", "")), RECIPES[scale]


@functools.lru_cache(maxsize=4)
def _measured(scale, folder, seed, where):
    name = f"fort_ganguli-training-{scale}"
    return networks.measured(
        name, cell, [RECIPES[scale]], COUNT[scale], np.random.default_rng(seed), examples=MEASURED[scale],
        tolerance=TOLERANCE[scale],
    ).isel(recipe=0)  # fmt: skip


def course(ax, steps, values, colour, label=None):
    """Means over networks against steps, each network thinly behind."""
    figures.means(ax, steps, values.T, colour, label)
    for row in values:
        ax.plot(steps, row, color=colour, lw=0.5, alpha=0.6)
    ax.set_xscale("symlog", linthresh=3)
    ax.set(xlabel="step", xlim=(-0.5, None))
