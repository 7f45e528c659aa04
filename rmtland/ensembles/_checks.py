"""Arguments of the ensembles: sizes, Dyson indices, spikes."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmtland._arguments import finite_array, integer, real
from rmtland.ensembles.kernels import Floats

_LARGEST_INTEGER = 2**53
_LARGEST_SPIKE = 1e15
"""Beyond it, and below its inverse, float64 knows nothing of the spike or of the bulk beside it."""
_LARGEST_SPAN = 1e10
"""Of the population's eigenvalues where errors are of rounding times the largest: with several spikes."""


def dimension(name: str, value: Any) -> int:
    """A size: an integer from 1 to 2^53, beyond which float64 does not count rows."""
    return integer(name, value, at_least=1, at_most=_LARGEST_INTEGER)


def dyson(value: Any) -> float:
    """Dyson index beta > 0, an int where it is whole."""
    beta = real("beta", value, above=0)
    return int(beta) if beta.is_integer() else beta


def spike_array(value: Any, at_most: int, what: str, *, positive: bool, beta: float) -> Floats:
    """Checked spikes, a copy."""
    spikes = finite_array("spikes", value, ndim=1).copy()
    if spikes.size > at_most:
        raise ValueError(f"`spikes` must be at most `{what}` = {at_most}; got {spikes.size} of them")
    if positive and (spikes <= 0).any():
        raise ValueError(f"`spikes` must be > 0; got {spikes.min()}")
    wild = (np.abs(spikes) > _LARGEST_SPIKE) | (positive & (spikes < 1 / _LARGEST_SPIKE))
    if wild.any():
        bounds = f">= {1 / _LARGEST_SPIKE:g} and " if positive else "in size "
        raise ValueError(f"`spikes` must be {bounds}<= {_LARGEST_SPIKE:g}; got {spikes[wild][0]}")
    if positive and spikes.size > 1:
        low, high = min(1.0, spikes.min()), max(1.0, spikes.max())
        if high > _LARGEST_SPAN * low:
            raise ValueError(
                f"`spikes` must, where there are several, be within a factor of {_LARGEST_SPAN:g} of each other and of "
                f"1; got {spikes.min():g} to {spikes.max():g}"
            )
    if spikes.size > 1 and beta not in (1, 2):
        raise ValueError(f"`beta` must be 1 or 2 for more than one spike; got {beta}")
    return spikes
