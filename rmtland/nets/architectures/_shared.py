"""What the builders share: weights from a seed, scaled channel numbers, images brought to the size a network needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rmtland._arguments import integer, real, shown


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights drawn inside come from `seed`; torch's global generator is left as found."""
    integer("seed", seed, at_least=0)
    # Weights are drawn on the CPU and moved, so that they are the same on every device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def float_dtype(dtype: Any) -> torch.dtype:
    """`dtype` if weights can be in it."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"`dtype` must be a torch.dtype of real floating-point numbers; got {shown(dtype)}")
    return dtype


class WidthScale:
    """Multiplies channel numbers by one factor."""

    def __init__(self, width: float) -> None:
        self.factor = real("width", width, above=0, at_most=1e4)

    def __call__(self, channels: int) -> int:
        """`channels` times the factor, rounded, at least 1."""
        return max(1, round(channels * self.factor))


def image_sizes(channels: int, image_size: int, num_classes: int) -> tuple[int, int, int]:
    """The three sizes of every image classifier, checked."""
    return (
        integer("channels", channels, at_least=1),
        integer("image_size", image_size, at_least=8),
        integer("num_classes", num_classes, at_least=1),
    )


def padded_to(needed: int, image_size: int) -> list[nn.Module]:
    """A layer that repeats the border of smaller images until they are `needed` pixels high and wide."""
    if image_size >= needed:
        return []
    before = (needed - image_size) // 2
    after = needed - image_size - before
    return [nn.ReplicationPad2d((before, after, before, after))]
