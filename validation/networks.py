"""Trained networks at stages of their training, shared by claims: each is trained once and kept beside the results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from validation import stores

FALLBACK = "digits"
"""What stands for every image collection where RMTLAND_DATA names no folder: scikit-learn carries it."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a network is made and trained with.

    Parameters
    ----------
    data : {"mnist", "fashion", "cifar10", "digits"}
    side : int
        Images are shrunk to side x side by averaging; 0 leaves them as they are.
    classes, examples : int
        The first so many classes, and how many training examples of them all, the same number of each.
    network : {"mlp", "convnet", "cnn", "alexnet"}
        "convnet" is Sagun's: two convolutions, each with ReLU and pooling, and two linear layers.
    hidden : tuple of int
        Of "mlp"; of "convnet" the channels of both convolutions and the width of the linear layer.
    activation : {"relu", "tanh"}
    width : float
        Multiplies the channels of "cnn" and "alexnet".
    weight_scale : float
        Initial parameters times this.
    batch, large_batch : int
        Batch size, 0 for all examples; and that of the first half of the steps, 0 where it is the same.
    learning_rate, momentum : float
    stages : tuple of int
        Steps at which the network is kept, 0 for the initial one; the last is the end of training.
    """

    data: str = "mnist"
    side: int = 0
    classes: int = 10
    examples: int = 500
    network: str = "mlp"
    hidden: tuple[int, ...] = (12, 12)
    activation: str = "relu"
    width: float = 1.0
    weight_scale: float = 1.0
    batch: int = 0
    large_batch: int = 0
    learning_rate: float = 0.1
    momentum: float = 0.0
    stages: tuple[int, ...] = (0, 100, 1000)

    @property
    def text(self) -> str:
        """All of it, as a parameter of a sweep; the data set is the one that is really read."""
        found = self.data if folder_named() else FALLBACK
        return json.dumps({**dataclasses.asdict(self), "data": found}, sort_keys=True)

    @staticmethod
    def of(text: str) -> Recipe:
        """The recipe that has this text."""
        return Recipe(**{name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(str(text)).items()})


def folder_named() -> bool:
    """Whether RMTLAND_DATA names a folder; one that lacks a file, or holds a wrong one, is an error that says so."""
    return bool(os.environ.get("RMTLAND_DATA"))


def told(*names: str) -> str:
    """Which data a claim ran on, for its conclusions."""
    if folder_named() or set(names) == {FALLBACK}:
        return f"Data: {', '.join(dict.fromkeys(names))}."
    return f"RMTLAND_DATA names no folder: the digits of scikit-learn stand for {', '.join(dict.fromkeys(names))}."


def data(recipe: Recipe) -> tuple[Any, Any]:
    """Training images (n, channels, height, width) in float32, and labels."""
    where = os.environ.get("RMTLAND_DATA", "")
    return _data(recipe.data if where else FALLBACK, where, recipe.side, recipe.classes, recipe.examples)


@functools.lru_cache(maxsize=16)
def _data(name: str, where: str, side: int, classes: int, examples: int) -> tuple[Any, Any]:
    x, y = _collection(name, where, examples // classes)
    # Classes alternate, so that the first examples are balanced too.
    order = np.stack([np.flatnonzero(y == c) for c in range(classes)], axis=1).ravel()
    images, labels = x[order], y[order]
    if side and side < images.shape[-1]:
        images = shrunk(images, side)
    return images, labels


@functools.lru_cache(maxsize=4)
def _collection(name: str, where: str, per_class: int) -> tuple[Any, Any]:
    import rmtland as rl

    # Of CIFAR-10 what is asked for alone stays in memory: the whole is 600 MB in single precision.
    loaded = rl.nets.load_dataset(name, per_class=per_class, dtype=np.float32).as_images()
    return loaded.x_train, loaded.y_train


def shrunk(images: Any, side: int) -> Any:
    """Images (n, channels, height, width) averaged over tiles to side x side, then of mean 0 and variance 1."""
    size = images.shape[-1]
    edges = np.linspace(0, size, side + 1)
    # Weights of the pixels in each tile: whole ones, and parts of those that a tile's edge cuts.
    pixels = np.arange(size)
    share = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, 1)
    share = (share / share.sum(axis=1, keepdims=True)).astype(images.dtype)
    small = np.einsum("ia,jb,ncab->ncij", share, share, images, optimize=True)
    return (small - small.mean()) / small.std()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: products of small matrices gain nothing from more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def build(recipe: Recipe, seed: int) -> Any:
    """A new network, in float64 ("alexnet" in float32)."""
    import torch
    from torch import nn

    import rmtland as rl

    channels, size = data(recipe)[0].shape[1:3]
    named: dict[str, Any] = {"channels": channels, "image_size": size, "width": recipe.width, "seed": seed}
    if recipe.network == "mlp":
        module = rl.nets.mlp([channels * size**2, *recipe.hidden, recipe.classes], seed=seed)
    elif recipe.network == "convnet":
        module = _convnet(channels, size, recipe, seed)
    elif recipe.network == "cnn":
        module = rl.nets.cnn(recipe.classes, batch_norm=False, dtype=torch.float64, **named)
    elif recipe.network == "alexnet":
        module = rl.nets.alexnet(recipe.classes, **named)
    else:
        raise ValueError(f"`network` must be 'mlp', 'convnet', 'cnn' or 'alexnet'; got {recipe.network!r}")
    if recipe.activation == "tanh":
        module = nn.Sequential(*(nn.Tanh() if isinstance(layer, nn.ReLU) else layer for layer in module))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(recipe.weight_scale)
    return module


def _convnet(channels: int, size: int, recipe: Recipe, seed: int) -> Any:
    import torch
    from torch import nn

    first, second, units = recipe.hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(second * (size // 4) ** 2, units), nn.ReLU(), nn.Linear(units, recipe.classes),
        ).double()  # fmt: skip


def flat(module: Any) -> Any:
    """All parameters and buffers of a network in one vector."""
    return np.concatenate([value.detach().numpy().ravel() for value in module.state_dict().values()])


def fill(module: Any, weights: Any) -> None:
    """Parameters and buffers from such a vector, in place."""
    import torch

    at, state = 0, module.state_dict()
    for name, value in state.items():
        part = weights[at : at + value.numel()]
        state[name] = torch.as_tensor(np.array(part)).reshape(value.shape).to(value.dtype)
        at += value.numel()
    module.load_state_dict(state)


def train(recipe: str, *, rng: np.random.Generator) -> dict[str, Any]:
    """A cell of a sweep: a network trained, its weights at each stage."""
    import rmtland as rl

    made = Recipe.of(recipe)
    images, labels = data(made)
    seed = int(rng.integers(2**31))
    with one_thread():
        module = build(made, seed)
        kept, last = [], made.stages[-1]
        if made.stages[0] == 0:
            kept.append(flat(module))
        parts = [(0, last, made.batch)]
        if made.large_batch:
            parts = [(0, last // 2, made.large_batch), (last // 2, last, made.batch)]
        for start, stop, batch in parts if last else []:
            batch = min(batch or len(labels), len(labels))
            training = rl.nets.Training(
                module, images, labels, epochs=-(-(stop - start) * batch // len(labels)) + 1, batch_size=batch,
                learning_rate=made.learning_rate, momentum=made.momentum, seed=seed + start,
            )  # fmt: skip
            for step in training:
                if start + step in made.stages:
                    kept.append(flat(module))
                if start + step == stop:
                    break
    return {"weights": (("stage", "parameter"), np.stack(kept))}


def trained(recipe: Recipe, networks: int) -> Any:
    """Weights (networks, stages, parameters); from the folder of the results where they have been trained before."""
    return _trained(recipe, networks, stores.folder(), stores.run_seed(), os.environ.get("RMTLAND_DATA", ""))


@functools.lru_cache(maxsize=64)
def _trained(recipe: Recipe, networks: int, folder: Any, seed: int, where: str) -> Any:
    digest = hashlib.sha256(recipe.text.encode()).hexdigest()[:12]
    rng = np.random.default_rng([seed, int(digest, 16)])
    with stores.waiting(f"networks-{digest}"):
        found = stores.swept(f"networks-{digest}", train, {"recipe": [recipe.text]}, networks, rng)
        return found.weights.to_numpy()[0]


def module_at(recipe: Recipe, network: int, stage: int, networks: int | None = None) -> Any:
    """A network at a stage (a place in `recipe.stages`), of the first `networks` of its recipe."""
    module = build(recipe, 0)
    fill(module, trained(recipe, networks or network + 1)[network, stage])
    return module


def source_at(recipe: Recipe, network: int, stage: int, networks: int, examples: int | None = None) -> Any:
    """The same as a source of its first `examples` training examples, which are balanced."""
    return source_of(module_at(recipe, network, stage, networks), recipe, examples)


def source_of(module: Any, recipe: Recipe, examples: int | None = None) -> Any:
    """A network with weights of any kind as a source of the first `examples` training examples of a recipe."""
    import torch

    import rmtland as rl

    images, labels = data(recipe)
    x = torch.as_tensor(images[:examples]).to(next(module.parameters()).dtype)
    return rl.nets.NetworkLogitGradients(module, x, torch.as_tensor(labels[:examples]))


def measured(
    name: str, function: Any, recipes: Sequence[Recipe], count: int, rng: np.random.Generator, **fixed: Any
) -> Any:
    """A sweep over recipes, so many networks of each, and their stages.

    Parameters
    ----------
    name : str
        Of the store.
    function : callable
        `function(recipe, network, stage, count, **fixed)`, the arguments of `source_at` with the recipe's text: a dict
        of numbers and arrays.
    recipes : sequence of Recipe
        With the same number of stages.
    count : int
    rng : numpy.random.Generator
    **fixed
        Parameters that are the same everywhere.

    Returns
    -------
    xarray.Dataset
        Over (recipe, network, stage, ...).
    """
    grid = {
        "recipe": [recipe.text for recipe in recipes], "network": list(range(count)),
        "stage": list(range(len(recipes[0].stages))),
    }  # fmt: skip
    with one_thread():
        return stores.swept(name, function, grid, 1, rng, count=count, **fixed).isel(trial=0)


def padded(values: Any, size: int) -> Any:
    """NaN in front of ascending eigenvalues, so that matrices of several sizes fit into one array."""
    return np.concatenate([np.full(size - len(values), np.nan), values])


def mean_and_error(values: Any, form: str = "{:.2f}") -> str:
    """Mean over networks and its standard error, for conclusions."""
    values = np.asarray(values, dtype=np.float64)
    error = values.std(ddof=1) / values.size**0.5
    return f"{form.format(values.mean())} +- {form.format(error)}"


def logits_of(source: Any) -> Any:
    """All logits of a source, (N, C)."""
    return np.concatenate([np.asarray(chunk.logits, dtype=np.float64) for chunk in source.chunks()])


def logit_variance(source: Any) -> float:
    """Variance across classes, mean over examples: sigma_z^2."""
    return float(logits_of(source).var(axis=1, ddof=1).mean())
