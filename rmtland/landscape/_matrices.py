"""Matrices that users pass to gradient laws."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array

Floats = npt.NDArray[np.float64]

SLACK = 1e-8
"""How far below 0, as a share of the largest, an eigenvalue of a Gram matrix may be."""


def by_logit(scales: npt.ArrayLike, num_classes: int) -> Floats:
    """Scales by example, or by example and logit, (N, C)."""
    array = np.asarray(scales)
    return np.repeat(array[:, None], num_classes, axis=1) if array.ndim == 1 else array


def mixing_matrices(scales: npt.ArrayLike, num_classes: int) -> Floats:
    """Scales of any shape as matrices, (N, C, C)."""
    array: Floats = np.asarray(scales)
    return array if array.ndim == 3 else by_logit(array, num_classes)[:, :, None] * np.eye(num_classes)


def symmetric(name: str, value: npt.ArrayLike, stacked: bool = False) -> Floats:
    """A symmetric matrix, or with `stacked` several."""
    array: Floats = finite_array(name, value)
    if array.ndim not in ((2, 3) if stacked else (2,)) or array.shape[-1] != array.shape[-2] or array.size == 0:
        raise ValueError(f"`{name}` must be square; got {array.shape}")
    scale = float(np.abs(array).max())
    if not np.allclose(array, array.swapaxes(-1, -2), rtol=0.0, atol=1e-10 * scale):
        raise ValueError(f"`{name}` must be symmetric; got {np.abs(array - array.swapaxes(-1, -2)).max():g} off")
    return 0.5 * (array + array.swapaxes(-1, -2))


def gram_matrix(name: str, value: npt.ArrayLike, stacked: bool = False) -> Floats:
    """A symmetric matrix without negative eigenvalues, up to rounding."""
    array = symmetric(name, value, stacked)
    values = np.linalg.eigvalsh(array)
    if float(values.min()) < -SLACK * max(float(values.max()), 0.0):
        raise ValueError(f"`{name}` must have no negative eigenvalue; got {values.min():g}")
    return array
