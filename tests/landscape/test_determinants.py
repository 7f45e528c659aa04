"""The covariance of log-determinants against its traces with every matrix written out."""

import dataclasses

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory.determinants import Matrices, determinants_covariance
from rmtland.landscape.theory.separable import Separable, State
from rmtland.landscape.weighted_rows import Block, WeightedRows

ROWS, SEEN, MEANS, D = 9, 4, 3, 17
COVARIANCE = rl.ResidualCovariance([3.0, 1.0], [5, 4])
SHARES, COUNTS = np.array([3.0, 1.0, 0.0]) / 19, (5, 4, 8)
PLACES = (0.9 + 0.4j, 0.3 - 0.2j, 0.5 + 0.1j), (0.7 + 0.6j, 1.1 + 0.3j)
WEIGHTS = np.array([0.3, -0.2, 0.15]), np.array([0.25, -0.35])


def rows_of(num_means):
    """Two blocks of rows that see some of the means each, and a gradient of all of them."""
    rng = np.random.default_rng(3)
    seen = np.array([0, 2, 3]), np.array([0, 1, 3])
    blocks = tuple(Block(s, rng.standard_normal((k, 3))) for s, k in zip(seen, (5, 4), strict=True))
    return WeightedRows(
        blocks if num_means else (), rng.standard_normal((SEEN, num_means)), rng.uniform(0.5, 1, ROWS),
        rng.standard_normal(SEEN) * (num_means > 0), rng.standard_normal(ROWS) / 3, 0.4, COVARIANCE,
    )  # fmt: skip


def states_at(places, seed):
    """Any numbers: the traces are what they are at solutions and elsewhere."""
    rng = np.random.default_rng(seed)
    return [
        State(z, complex(*rng.uniform(0.3, 1, 2)), complex(*rng.uniform(0.5, 2, 2)), 0j, (0j, 0j, 0j), (0j, 0j))
        for z in places
    ]


def mean_rows(factor):
    """M (Q, D), at right angles in each eigenspace of Sigma: M f(Sigma) M^T = F F^T tr f(Sigma) / D."""
    rng = np.random.default_rng(5)
    spaces = [np.linalg.qr(rng.standard_normal((n, factor.shape[1])))[0].T * (n / D) ** 0.5 for n in COUNTS]
    return factor @ np.concatenate(spaces, axis=1)


def written_out(rows, one, two, weights):
    """The docstring of `determinants` with D x D and n x n matrices, the gradient as one more row of weight e."""
    sigma, means = np.repeat(SHARES, COUNTS), mean_rows(rows.factor)
    p, start = np.zeros((ROWS + 1, SEEN)), 0
    for block in rows.blocks:
        p[start : start + len(block.loadings), block.columns] = block.loadings
        start += len(block.loadings)
    p[-1] = rows.mean_slopes
    root = np.zeros((ROWS + 1, ROWS + 1))
    root[:ROWS, :ROWS], root[-1] = np.diag(rows.scales), np.append(rows.slopes, rows.dropped)
    inverses, resolvents, rests = [], [], []
    for state, weight in zip((one, two), weights, strict=True):
        used = slice(None) if weight else slice(ROWS)
        pivot = np.zeros((ROWS + 1, ROWS + 1), complex)
        own = (root @ root.T)[used, used]
        size = len(own)
        scale = np.diag(1 / np.append(np.ones(ROWS), weight)[:size] if weight else np.ones(size))
        pivot[:size, :size] = np.linalg.inv(scale + state.m * own)
        inverses.append(pivot)
        diagonal = state.a * sigma - state.z
        resolvents.append(np.linalg.inv(np.diag(diagonal) + means.T @ p.T @ pivot @ p @ means))
        rest = np.zeros_like(pivot)
        moved = (p @ means)[used]
        rest[:size, :size] = np.linalg.inv(scale + state.m * own + moved / diagonal @ moved.T)
        rests.append(rest)
    t = root @ root.T
    gamma = np.trace(sigma[:, None] * resolvents[0] @ (sigma[:, None] * resolvents[1]))
    other = np.trace(t @ rests[0] @ t @ rests[1])
    middle = p.T @ inverses[0] @ t @ inverses[1] @ p
    kappa = np.trace(sigma[:, None] * resolvents[0] @ means.T @ middle @ means @ resolvents[1])
    return -2 * np.log((1 - kappa) ** 2 - gamma * other)


@pytest.mark.parametrize("num_means", [MEANS, 0])
@pytest.mark.parametrize("weights", [WEIGHTS, (WEIGHTS[0], np.zeros(2)), (np.zeros(3), WEIGHTS[1]), (None, None)])
def test_covariance_of_log_determinants_is_that_of_matrices_written_out(num_means, weights):
    rows = rows_of(num_means)
    equation = Separable(rows, float(D))
    ones, twos = (states_at(places, seed) for seed, places in enumerate(PLACES))
    mirrored = [dataclasses.replace(at, z=at.z.conjugate(), m=at.m.conjugate(), a=at.a.conjugate()) for at in twos]
    one, two = (Matrices.of(equation, *pair) for pair in zip((ones, twos), weights, strict=True))
    each, other = (np.zeros(k) if w is None else w for k, w in zip((3, 2), weights, strict=True))
    for found, places in ((two, twos), (two.conjugate(), mirrored)):
        expected = [
            [written_out(rows, left, right, (e, f)) for right, f in zip(places, other, strict=True)]
            for left, e in zip(ones, each, strict=True)
        ]
        np.testing.assert_allclose(determinants_covariance(equation, one, found), expected, rtol=1e-9)
