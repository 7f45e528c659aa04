"""Power series from values on a circle, by the trapezoidal rule: exact to rounding for coefficients that decay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def circle(radius: float, size: int) -> npt.NDArray[np.complex128]:
    """The points of the upper half of so many on |s| = radius; conjugate points give conjugate values."""
    nodes: npt.NDArray[np.complex128] = radius * np.exp(2j * np.pi * np.arange(size // 2 + 1) / size)
    return nodes


def coefficients(samples: Any, radius: float, size: int, keep: int | None = None) -> npt.NDArray[np.float64]:
    """The first `keep` coefficients (all by default) along the first axis, from values at `circle(radius, size)`."""
    first = np.fft.hfft(np.asarray(samples), n=size, axis=0)[:keep]
    decay = radius ** -np.arange(float(first.shape[0])) / size
    series: npt.NDArray[np.float64] = first * decay.reshape(-1, *[1] * (first.ndim - 1))
    return series


def weights(s: complex | float, terms: int, order: int = 3) -> npt.NDArray[Any]:
    """Rows (order, terms) whose products with a series are its value at s and its first and second derivative."""
    exponents = np.arange(terms)
    power = np.asarray(1.0 * s) ** exponents
    rows = np.zeros((order, terms), dtype=power.dtype)
    rows[0] = power
    if order > 1:
        rows[1, 1:] = exponents[1:] * power[:-1]
    if order > 2:
        rows[2, 2:] = exponents[2:] * exponents[1:-1] * power[:-2]
    return rows
