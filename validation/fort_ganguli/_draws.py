"""Draws of the model written out in NumPy, and edges of its bulk: nothing here comes from the package's model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

Floats = npt.NDArray[np.float64]


def softmax(logits: Floats) -> Floats:
    """Probabilities along the last axis."""
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def logit_hessians(p: Floats) -> Floats:
    """A = diag(p) - p p^T, (..., C, C)."""
    return p[..., :, None] * np.eye(p.shape[-1]) - p[..., :, None] * p[..., None, :]


def weighted_rows(p: Floats, gradients: Floats) -> Floats:
    """Y (N C, D) with Y^T Y = (1/N) sum_mu J_mu^T A_mu J_mu, for probabilities (N, C) and J (N, C, D) or (C, D)."""
    rows = root_hessians(p) @ gradients
    return rows.reshape(-1, gradients.shape[-1])


def eigenvalues(*rows: Floats) -> Floats:
    """Eigenvalues of the sum of Y^T Y, descending, the smaller Gram side's."""
    y = np.concatenate(rows)
    gram = y.T @ y if y.shape[1] < y.shape[0] else y @ y.T
    return np.linalg.eigvalsh(gram)[::-1]


class Edge(NamedTuple):
    """Where the residual part's law ends, the scale of Tracy-Widom there, and what a direction needs to leave it.

    `threshold` is the eigenvalue of diag(lengths) P diag(lengths), P = (1/N) sum_mu A_mu, above which it is an outlier
    (without cross terms).
    """

    place: float
    scale: float
    threshold: float


def bulk_edge(p: Floats, residual_length: float, num_parameters: int) -> Edge:
    """Upper edge of the law of the residual part, given probabilities (N, C).

    That part is sum_i t_i x_i x_i^T / D with t_i = residual_length^2 eigenvalue(A_mu) / N. The edge is z(m) = -1/m +
    (1/D) sum_i t_i / (1 + t_i m) where its slope vanishes, m in (-1 / max t, 0), and the scale (z''/2)^(1/3) D^(-2/3)
    (El Karoui 2007, theorem 1; real entries: Lee and Schnelli 2016). An atom theta of its own gives an outlier iff
    theta > -1/m (Bai and Yao 2012).
    """
    t = residual_length**2 / len(p) * np.linalg.eigvalsh(logit_hessians(p)).ravel()
    t, d = t[t > 1e-14 * t.max()], num_parameters

    def slope(c: float) -> float:
        return float(np.sum((t * c / (1 - t * c)) ** 2)) / d - 1

    c = brentq(slope, 0.0, (1 - 1e-9) / t.max(), xtol=1e-14 / t.max(), rtol=1e-14)
    edge = 1 / c + np.sum(t / (1 - t * c)) / d
    third = (1 + np.sum((t * c / (1 - t * c)) ** 3) / d) / c**3
    return Edge(float(edge), float(np.cbrt(third) * d ** (-2 / 3)), 1 / c)


def sums(rows: Floats) -> tuple[Floats, Floats]:
    """Trace and squared Frobenius norm of Y^T Y for each of Y (draws, n, D)."""
    gram = rows.swapaxes(1, 2) @ rows if rows.shape[2] < rows.shape[1] else rows @ rows.swapaxes(1, 2)
    return np.einsum("bii->b", gram), np.einsum("bij,bij->b", gram, gram)


def root_hessians(p: Floats) -> Floats:
    """L_mu^T / sqrt(N) with L L^T = A_mu, (N, C, C): times J_mu they are `weighted_rows`."""
    # L = diag(sqrt p) - p sqrt(p)^T.
    root = np.sqrt(p)
    factor = root[:, :, None] * np.eye(p.shape[1]) - p[:, :, None] * root[:, None, :]
    return factor.swapaxes(1, 2) / np.sqrt(len(p))
