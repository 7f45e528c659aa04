"""What the rows' means are to the theory, by nodes, against sums over rows."""

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory import mean_kernel
from rmtland.landscape.theory.mean_kernel import MeanKernel
from rmtland.landscape.weighted_rows import Block, WeightedRows
from tests.landscape.test_anisotropic import COVARIANCE

SEEN, ALL, RANK = 24, 30, 26


def wide_rows():
    """Three blocks of 700 rows, which see 24 of 30 mean rows, residual variances over eight decades."""
    rng = np.random.default_rng(0)
    blocks = tuple(Block(np.sort(rng.permutation(ALL)[:SEEN]), rng.standard_normal((700, SEEN)) / 40) for _ in range(3))
    scales = 10 ** rng.uniform(-4, 0, 2100)
    factor = rng.standard_normal((ALL, RANK)) / RANK**0.5
    return WeightedRows(blocks, factor, scales, np.zeros(ALL), np.zeros(2100), 0.0, COVARIANCE)


ROWS = wide_rows()


def dense(m):
    """K, dK/dm and its second derivative with P written out."""
    p = np.zeros((2100, ALL))
    for i, block in enumerate(ROWS.blocks):
        p[700 * i : 700 * (i + 1), block.columns] = block.loadings
    means, t = p @ ROWS.factor, ROWS.scales**2
    weights = 1 / (1 + m * t), -t / (1 + m * t) ** 2, 2 * t**2 / (1 + m * t) ** 3
    return [(means * w[:, None]).T @ means for w in weights]


@pytest.mark.parametrize("m", [0.0, 0.3, 40.0, -0.5, 0.5 + 0.4j, -0.8 + 1.5j, 3 - 5j])
def test_nodes_are_sums_over_rows(m):
    kernel = MeanKernel(ROWS)
    assert kernel._nodes_for(m) is not None
    assert kernel._nodes_for(m).places.size < 140
    for found, expected in zip(kernel(m, 3), dense(m), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("m", [-0.97, -3.0 - 0.05j])
def test_near_a_pole_rows_are_summed(m):
    kernel = MeanKernel(ROWS)
    assert kernel._nodes_for(m) is None
    for found, expected in zip(kernel(m, 3), dense(m), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())
    # What nodes would have given.
    assert np.abs(kernel._from_nodes(kernel._nodes, m, 1)[0] / dense(m)[0] - 1).max() > 1e-6


def test_several_at_once_and_matrices_alike():
    kernel = MeanKernel(ROWS)
    for places in (np.array([0.2 + 0.1j, 5 + 1j]), np.array([0.2 + 0.1j, -0.99 + 0.001j])):
        both = kernel(places, 2)
        for i, m in enumerate(places):
            np.testing.assert_allclose(both[0, i], dense(m)[0], atol=1e-6 * np.abs(dense(m)[0]).max())
    for m in (0.7, -0.97):
        alike, expected = kernel.alike(m, 3), dense(m)
        assert np.trace(alike[1] @ alike[0]) == pytest.approx(np.trace(expected[1] @ expected[0]), rel=1e-6)
        assert np.trace(alike[2]) == pytest.approx(np.trace(expected[2]), rel=1e-6)


def test_the_theory_is_that_of_rows(monkeypatch):
    n, c = 150, 5
    logits, labels = rl.GaussianLogits(2.0).draw_logits(n, c, np.random.default_rng(1))
    source = rl.LandscapeModel(
        n, c, 2000, rl.GivenLogits(logits, labels), rl.AnisotropicGradients.clustered(c, 1.0, 0.8, 0.6, COVARIANCE)
    ).sample(rng=0)
    model = rl.LandscapeModel(n, c, 2000, rl.GivenLogits(logits, labels), rl.measured_gradients(source))
    found = model.theory()
    assert found.equation.kernel._nodes is not None
    monkeypatch.setattr(mean_kernel, "MOST_BYTES", 0)
    other = model.theory()
    assert other.equation.kernel._nodes is None
    np.testing.assert_allclose(found.outliers(6), other.outliers(6), rtol=1e-6)
    assert found.gradient_power(c - 1) == pytest.approx(other.gradient_power(c - 1), abs=1e-6)
    assert found.gradient_power_std(c - 1) == pytest.approx(other.gradient_power_std(c - 1), rel=1e-3)
