"""Weighted rows of the kernel law."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rmtland.landscape.covariance import ResidualCovariance
from rmtland.landscape.weighted_rows import Block, WeightedRows
from rmtland.logits.losses import CrossEntropy
from rmtland.spectra.measure import spectral_measure

Floats = npt.NDArray[np.float64]


def rows_of_kernel(
    logits: Floats, labels: npt.NDArray[np.int64], gram: Floats, effective_dimension: float | None, tolerance: float
) -> WeightedRows:
    """Rows with J J^T = gram, or that as the mean of so many columns; in the eigenbasis of L^T gram L / N.

    Parameters
    ----------
    logits, labels : ndarray (N, C), (N,)
    gram : ndarray (N C, N C)
    effective_dimension : float, optional
    tolerance : float
        Rows whose eigenvalue is not above this share of the largest are left out; the gradient keeps what it has there.
    """
    inner, seen, total, scale = _inner_products(logits, labels, gram)
    values, vectors = np.linalg.eigh(inner)
    values, vectors = values[::-1], vectors[:, ::-1]
    some = values > max(_floor(values, len(logits), scale), tolerance * float(values[0]))
    roots = np.sqrt(values[some])
    # The gradient along the eigenvectors of G, and what it has beyond its range.
    along = (vectors[:, some].T @ seen) / roots
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


def spectrum_of_kernel(logits: Floats, labels: npt.NDArray[np.int64], gram: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues of G with J J^T = gram and the gradient's share in each, ascending; without eigenvectors.

    Parameters
    ----------
    logits, labels : ndarray (N, C), (N,)
    gram : ndarray (N C, N C)

    Returns
    -------
    eigenvalues, powers : ndarray (r,)
        The nonzero ones. Powers are NaN where the gradient is zero.
    """
    inner, seen, total, scale = _inner_products(logits, labels, gram)
    values, squares = spectral_measure(inner, seen)
    some = values > _floor(values, len(logits), scale)
    powers = squares[some] / (values[some] * total) if total > 0 else np.full(np.count_nonzero(some), math.nan)
    return values[some], powers


def _inner_products(logits: Floats, labels: npt.NDArray[np.int64], gram: Floats) -> tuple[Floats, Floats, float, float]:
    """R R^T of the rows R = L^T J / sqrt(N), G = R^T R, their products with the gradient, and its square.

    And the size of the terms that R R^T adds up: what all logits have in common is in these, not in their sum.
    """
    n, c = logits.shape
    curvature = CrossEntropy().hessian_factor(logits) / math.sqrt(n)
    slopes = (CrossEntropy().gradient(logits, labels) / n).ravel()
    half = np.matmul(curvature.swapaxes(1, 2), gram.reshape(n, c, n * c)).reshape(n * (c - 1), n, c)
    inner = np.matmul(half.swapaxes(0, 1), curvature).swapaxes(0, 1).reshape(n * (c - 1), n * (c - 1))
    scale = float(np.sum(curvature**2, axis=(1, 2)) @ np.abs(np.diag(gram)).reshape(n, c).sum(axis=1))
    seen = half.reshape(n * (c - 1), n * c) @ slopes
    return 0.5 * (inner + inner.T), seen, float(slopes @ (gram @ slopes)), scale


def _floor(values: Floats, num_examples: int, scale: float) -> float:
    """What eigenvalues are zero below; ValueError where some are negative beyond rounding."""
    top, rounding = max(float(values.max()), 0.0), 1e-15 * scale
    if values.min() < -max(1e-8 * top, rounding):
        raise ValueError(f"`terms` must add up to a Gram matrix; got a negative eigenvalue {values.min():g}")
    return max(1e-14 * top * num_examples, rounding)
