"""Training and test examples of claims: from the folder that RMTLAND_DATA names, or digits in their place."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from validation.networks import Recipe

FALLBACK = "digits"
"""What stands for every image collection where RMTLAND_DATA names no folder: scikit-learn carries it."""
TEST = 500
"""Examples of the digits that are kept for testing, where a claim asks for test examples."""


def folder_named() -> bool:
    """Whether RMTLAND_DATA names a folder; one that lacks a file, or holds a wrong one, is an error that says so."""
    return bool(os.environ.get("RMTLAND_DATA"))


def check_folder() -> None:
    """FileNotFoundError where RMTLAND_DATA names something that is no folder."""
    if folder_named() and not Path(os.environ["RMTLAND_DATA"]).is_dir():
        raise FileNotFoundError(f"`RMTLAND_DATA` must be a folder that exists; got {os.environ['RMTLAND_DATA']}")


def found_data(name: str) -> str:
    """The collection that is really read."""
    return name if folder_named() else FALLBACK


def told(*names: str) -> str:
    """Which data a claim ran on, for its conclusions."""
    if folder_named() or set(names) == {FALLBACK}:
        return f"Data: {', '.join(dict.fromkeys(names))}."
    return f"RMTLAND_DATA names no folder: the digits of scikit-learn stand for {', '.join(dict.fromkeys(names))}."


def load(name: str, per_class: int | None, seed: int = 0, dtype: Any = np.float64) -> Any:
    """A collection of the folder as `load_dataset` gives it; to unpack it takes longer than most trainings."""
    from rmtland.nets import datasets

    where = os.environ.get("RMTLAND_DATA", "")
    files = tuple(sorted((file.name, file.stat().st_mtime_ns) for file in os.scandir(where)))
    title, arrays = _unpacked(name, where, files)
    return datasets._dataset(title, *arrays, per_class, seed, dtype)


@functools.lru_cache(maxsize=2)
def _unpacked(name: str, where: str, files: tuple[tuple[str, int], ...]) -> Any:
    """Bytes of pixels as they are in the files, read anew where these have changed: 50 MB, of CIFAR-10 180."""
    from rmtland.nets import datasets

    return datasets._read(name, where, False)


def data(recipe: Recipe) -> tuple[Any, Any]:
    """Training images (n, channels, height, width) in float32, and labels."""
    where = os.environ.get("RMTLAND_DATA", "")
    return _data(found_data(recipe.data), where, recipe.side, recipe.classes, recipe.examples)


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
    if name == FALLBACK:
        digits = rl.nets.load_dataset(name, dtype=np.float32)
        loaded = digits.per_class(min(per_class, np.bincount(digits.y_train).min())).as_images()
    else:
        loaded = load(name, per_class, dtype=np.float32).as_images()
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


def split(recipe: Recipe, seed: int) -> tuple[Any, Any, Any, Any]:
    """Training images (n, channels, height, width), chosen by the seed, with their labels, and test images and labels.

    Of the digits in another collection's place as many of each class as there are.
    """
    from rmtland.nets import load_dataset

    name, per_class = found_data(recipe.data), recipe.examples // recipe.classes
    dtype = np.float64 if recipe.network == "mlp" else np.float32
    if name != FALLBACK:
        whole = load(name, per_class, seed, dtype).as_images()
        x, x_test = (shrunk(x, recipe.side) if recipe.side else x for x in (whole.x_train, whole.x_test))
        return x, whole.y_train, x_test, whole.y_test
    whole = load_dataset(FALLBACK, dtype=dtype).as_images()
    order = np.random.default_rng(seed).permutation(len(whole.x_train))
    x, y = whole.x_train[order], whole.y_train[order]
    train = np.concatenate([TEST + np.flatnonzero(y[TEST:] == c)[:per_class] for c in range(10)])
    return x[train], y[train], x[:TEST], y[:TEST]
