"""Numba kernels of the landscape model; each has a NumPy reference in tests/landscape/test_kernels.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Matrix = npt.NDArray[np.float64]


@njit(cache=True, error_model="numpy")
def softmax(logits: Matrix) -> Matrix:
    """Softmax of each row of (N, C)."""
    num_examples, num_classes = logits.shape
    probabilities = np.empty((num_examples, num_classes))
    for mu in range(num_examples):
        top = logits[mu, 0]
        for k in range(1, num_classes):
            top = max(top, logits[mu, k])
        total = 0.0
        for k in range(num_classes):
            probabilities[mu, k] = math.exp(logits[mu, k] - top)
            total += probabilities[mu, k]
        for k in range(num_classes):
            probabilities[mu, k] /= total
    return probabilities


@njit(cache=True, error_model="numpy")
def apply_logit_hessian(probabilities: Matrix, tangents: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A_mu U_mu = p u - p (p.u) for tangents (N, C, k), (N, C, k).

    A_mu 1 = 0, so tangents are taken relative to the most probable class's: nothing cancels at a frozen example. On one
    thread: a product of few columns takes microseconds, waking a second thread takes milliseconds on a busy machine.
    """
    num_examples, num_classes, width = tangents.shape
    out = np.empty_like(tangents)
    for mu in range(num_examples):
        top = np.argmax(probabilities[mu])
        mean = np.zeros(width)
        for k in range(num_classes):
            p = probabilities[mu, k]
            for j in range(width):
                mean[j] += p * (tangents[mu, k, j] - tangents[mu, top, j])
        for k in range(num_classes):
            p = probabilities[mu, k]
            for j in range(width):
                out[mu, k, j] = p * (tangents[mu, k, j] - tangents[mu, top, j] - mean[j])
    return out


@njit(cache=True, error_model="numpy")
def weighted_rows(
    probabilities: Matrix,
    centres: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64],
    residuals: npt.NDArray[np.float64],
    total: int,
) -> npt.NDArray[np.float64]:
    """Rows L_mu^T (c + E_mu) / sqrt(total), (N (C - 1), D), with L_mu the Cholesky factor of A_mu.

    c is centres[groups[mu]], of (G, C, D): one mean for all examples, or one for each class.

    Row k is sqrt(p_k q_k / q_{k-1}) (x_k - sum_{i > k} (p_i / q_k) x_i) with tails q_k = sum_{i > k} p_i (Tanabe and
    Sagae 1992): class k against the mean of the classes after it. That mean is updated from the last class upwards,
    so an example costs O(C D) instead of the O(C^2 D) of a matrix product, and c + E is never stored. On one thread:
    the sweep is nothing beside the product that follows, whose BLAS threads a second pool would fight for the cores.
    """
    num_examples, num_classes, num_parameters = residuals.shape
    rows = np.empty((num_examples * (num_classes - 1), num_parameters))
    for mu in range(num_examples):
        centre = centres[groups[mu]]
        mean = centre[num_classes - 1] + residuals[mu, num_classes - 1]
        tail = probabilities[mu, num_classes - 1]
        for k in range(num_classes - 2, -1, -1):
            p = probabilities[mu, k]
            before = tail + p
            # An underflowed tail has no curvature left, and no mean to stand against.
            scale = math.sqrt(p) * math.sqrt(tail / before) / math.sqrt(total) if before > 0 else 0.0
            share = p / before if before > 0 else 0.0
            row = rows[mu * (num_classes - 1) + k]
            for j in range(num_parameters):
                difference = centre[k, j] + residuals[mu, k, j] - mean[j]
                row[j] = scale * difference
                mean[j] += share * difference
            tail = before
    return rows


def fill_gauss_newton(rows: npt.NDArray[Any]) -> Matrix:
    """rows^T rows by one symmetric rank-k product, both triangles filled."""
    # NumPy recognises a matrix times its own transpose and calls BLAS syrk: half the work of a general product.
    matrix: Matrix = rows.T @ rows
    return matrix
