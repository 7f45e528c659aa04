"""T of the theory as the dense (NC) x (NC) matrix it is, by explicit eigendecomposition: the oracle of its tests.

Uses nothing of the package: softmax, curvature and covariance are written out.
"""

from __future__ import annotations

import itertools

import numpy as np

from tests import oracles


def curvatures(logits):
    return np.array([oracles.curvature(z) for z in logits])


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def matrix_and_slope(logits, labels, mean_lengths, residual_length, class_length, cross_terms=True):
    """D T and the gradient's a, times sqrt(D), in coordinates of their own."""
    n, c = logits.shape
    blocks = np.zeros((n * c, n * c))
    for mu, a in enumerate(curvatures(logits)):
        blocks[mu * c : (mu + 1) * c, mu * c : (mu + 1) * c] = a / n
    means = np.tile(np.diag(mean_lengths), (n, 1))
    of_class = np.zeros((n * c, c * c))
    for mu, y in enumerate(labels):
        for k in range(c):
            of_class[mu * c + k, y * c + k] = class_length
    rho = np.array([oracles.softmax(z) - np.eye(c)[y] for z, y in zip(logits, labels, strict=True)]).ravel() / n
    if cross_terms:
        covariance = residual_length**2 * np.eye(n * c) + means @ means.T + of_class @ of_class.T
        # Any root will do: another one turns the coordinates. This one is ten times as fast where there is one.
        half = np.linalg.cholesky(covariance) if residual_length > 0 else root(covariance)
        t, a = half.T @ blocks @ half, half.T @ rho
    else:
        # Eq. (16): each part stands alone, with rows of X of its own.
        factors = np.hstack([means, of_class, residual_length * np.eye(n * c)])
        t, a = factors.T @ blocks @ factors, factors.T @ rho
        ends = [0, c, c + c * c, c + c * c + n * c]
        apart = np.zeros_like(t)
        for i, j in itertools.pairwise(ends):
            apart[i:j, i:j] = t[i:j, i:j]
        t = apart
    return (t + t.T) / 2, a


def dense_t(*arguments, **options):
    """Eigenvalues of D T (ascending) and the gradient's a, times sqrt(D), in its eigenvectors."""
    t, a = matrix_and_slope(*arguments, **options)
    values, vectors = np.linalg.eigh(t)
    return np.maximum(values, 0), vectors.T @ a


def examples(n, c, sigma, seed):
    rng = np.random.default_rng(seed)
    return sigma * rng.normal(size=(n, c)), rng.integers(0, c, n)
