"""Networks by name, built for the shape of a data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from rmtland._arguments import choice, integer, real, require_memory, several
from rmtland.nets.architectures.attention import transformer
from rmtland.nets.architectures.convolutional import alexnet, cnn, lenet, vgg11
from rmtland.nets.architectures.names import NETWORKS
from rmtland.nets.architectures.perceptrons import mlp
from rmtland.nets.architectures.residual import densenet40, resnet18, resnet20

IMAGE_NETWORKS: Mapping[str, Callable[..., torch.nn.Module]] = {
    "cnn": cnn,
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg11": vgg11,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "densenet40": densenet40,
    "transformer": transformer,
}


def build_network(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    hidden: Sequence[int] = (16, 16),
    width: float = 1.0,
    seed: int = 0,
) -> torch.nn.Module:
    """A network by its name, for examples of a shape.

    Parameters
    ----------
    name : str
        "mlp", "cnn", "lenet", "alexnet", "vgg11", "resnet18", "resnet20", "densenet40" or "transformer".
    input_shape : sequence of int
        Of one example: (channels, height, width) with height = width for every network but "mlp", which flattens.
    num_classes : int
        C.
    hidden : sequence of int
        Widths of the hidden layers, "mlp" only.
    width : float
        Multiplies channels and hidden widths.
    seed : int
        Of the initial weights.

    Returns
    -------
    torch.nn.Module
        "mlp" in float64, the others in float32.

    Raises
    ------
    ValueError
        For an unknown name, or a shape that the network cannot take.
    MemoryError
        For a fully connected network that does not fit.

    Examples
    --------
    >>> import rmtland as rl
    >>> network = rl.nets.build_network("resnet20", (1, 28, 28), num_classes=10, width=0.25)
    >>> sum(p.numel() for p in network.parameters())
    17254
    """
    choice("network", name, NETWORKS)
    input_shape = tuple(integer("input_shape", size, at_least=1) for size in several("input_shape", input_shape))
    num_classes = integer("num_classes", num_classes, at_least=1)
    if name == "mlp":
        factor = real("width", width, above=0)
        hidden = tuple(integer("hidden", size) for size in several("hidden", hidden))
        sizes = [math.prod(input_shape), *(max(1, round(factor * size)) if size > 0 else size for size in hidden)]
        sizes.append(num_classes)
        parameters = sum((before + 1) * after for before, after in pairwise(sizes))
        # Weights, gradients, momentum and the copies of three stages, in float64.
        require_memory(f"training {parameters:,} parameters", 64.0 * parameters, "name fewer or narrower hidden layers")
        return mlp(sizes, seed=seed)
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        got = tuple(input_shape)
        raise ValueError(f"`input_shape` must be (channels, height, width) of square images for {name}; got {got}")
    options: dict[str, Any] = {"channels": input_shape[0], "image_size": input_shape[1], "width": width, "seed": seed}
    return IMAGE_NETWORKS[name](num_classes, **options)
