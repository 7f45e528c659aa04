"""Weighted rows of the kernel law."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rmtland.landscape.covariance import ResidualCovariance
from rmtland.landscape.weighted_rows import Block, WeightedRows
from rmtland.logits.losses import CrossEntropy

Floats = npt.NDArray[np.float64]


def rows_of_kernel(
    logits: Floats, labels: npt.NDArray[np.int64], gram: Floats, effective_dimension: float | None
) -> WeightedRows:
    """Rows with J J^T = gram, or that as the mean of so many columns; in the eigenbasis of L^T gram L / N.

    Parameters
    ----------
    logits, labels : ndarray (N, C), (N,)
    gram : ndarray (N C, N C)
    effective_dimension : float, optional
    """
    n, c = logits.shape
    curvature = CrossEntropy().hessian_factor(logits) / math.sqrt(n)
    slopes = (CrossEntropy().gradient(logits, labels) / n).ravel()
    half = np.matmul(curvature.swapaxes(1, 2), gram.reshape(n, c, n * c)).reshape(n * (c - 1), n, c)
    inner = np.matmul(half.swapaxes(0, 1), curvature).swapaxes(0, 1).reshape(n * (c - 1), n * (c - 1))
    values, vectors = np.linalg.eigh(0.5 * (inner + inner.T))
    values, vectors = values[::-1], vectors[:, ::-1]
    floor = 1e-14 * max(float(values[0]), 0.0) * n
    if values[-1] < -1e-8 * max(float(values[0]), 0.0):
        raise ValueError(f"`terms` must add up to a Gram matrix; got a negative eigenvalue {values[-1]:g}")
    some = values > floor
    roots = np.sqrt(values[some])
    # The gradient along the eigenvectors of G, and what it has beyond its range.
    along = (vectors[:, some].T @ (half.reshape(n * (c - 1), n * c) @ slopes)) / roots
    total = float(slopes @ (gram @ slopes))
    rest = max(total - float(along @ along), 0.0)
    dropped = math.sqrt(rest) if rest > 1e-12 * total else 0.0
    if effective_dimension is not None:
        columns = math.floor(effective_dimension)
        covariance = ResidualCovariance([1.0], [columns])
        return WeightedRows((), np.zeros((0, 0)), roots, np.zeros(0), along, dropped, covariance)
    # Fixed rows at right angles, one more for the rest of the gradient.
    size = roots.size
    loadings = np.zeros((size, size + 1))
    loadings[:, :size] = np.diag(roots)
    block = Block(np.arange(size + 1), loadings)
    return WeightedRows(
        (block,), np.eye(size + 1), np.zeros(size), np.append(along, dropped), np.zeros(size), 0.0, ResidualCovariance()
    )
