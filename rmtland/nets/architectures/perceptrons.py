"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from rmtland._arguments import function, integer, require_memory, several
from rmtland.nets.architectures._shared import float_dtype, seeded


def mlp(
    sizes: Sequence[int],
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    """A fully connected network with PyTorch's default initialisation, from a seed.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden layers, outputs: [64, 16, 16, 10] has 1,482 parameters, [100, 30, 30, k] of Sagun et al. 4,022
        for k = 2 and 5,510 for k = 50.
    activation : callable
        Makes the module between layers.
    seed : int
        Of the initial weights; torch's global generator is left as found.
    dtype : torch.dtype
        float64 by default, so that measured spectra are exact to rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes inputs (n, ...) and flattens them.

    Raises
    ------
    ValueError
        For fewer than two sizes, or one below 1.

    References
    ----------
    Sagun et al. (2017), sec. 3.1 (100-30-30-k).

    Examples
    --------
    >>> from rmtland.nets import mlp
    >>> sum(p.numel() for p in mlp([64, 16, 16, 10]).parameters())
    1482
    """
    sizes = several("sizes", sizes)
    function("activation", activation)
    float_dtype(dtype)
    if len(sizes) < 2:
        raise ValueError(f"`sizes` must name inputs and outputs at least; got {list(sizes)}")
    widths = [integer("sizes", size, at_least=1) for size in sizes]
    count = sum((before + 1) * after for before, after in pairwise(widths))
    require_memory(f"{count} parameters", float(count) * dtype.itemsize, "take smaller `sizes`")
    layers: list[nn.Module] = [nn.Flatten()]
    with seeded(seed):
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after, dtype=dtype), activation()]
        layers.append(nn.Linear(widths[-2], widths[-1], dtype=dtype))
    return nn.Sequential(*layers)
