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


def rows_in(widths, scales, rank, seed=0, factor=None):
    """Rows in blocks of (number, columns seen)."""
    rng = np.random.default_rng(seed)
    most = max(columns for _, columns in widths)
    blocks = tuple(
        Block(np.sort(rng.permutation(most)[:columns]), rng.standard_normal((number, columns)))
        for number, columns in widths
    )
    factor = rng.standard_normal((most, rank)) if factor is None else factor
    return WeightedRows(blocks, factor, scales, np.zeros(most), np.zeros(scales.size), 0.0, COVARIANCE)


def by_loops(rows, m):
    """K and dK/dm, row by row."""
    found = np.zeros((2, rows.factor.shape[1], rows.factor.shape[1]), complex)
    loadings = [(block.columns, row) for block in rows.blocks for row in block.loadings]
    for (columns, row), t in zip(loadings, rows.scales**2, strict=True):
        mean = row @ rows.factor[columns]
        found += np.outer(mean, mean) * np.array([1 / (1 + m * t), -t / (1 + m * t) ** 2])[:, None, None]
    return found


@pytest.mark.parametrize("m", [0.7, 0.4 + 0.9j])
@pytest.mark.parametrize("factor", [None, np.eye(17), np.tri(17)])
def test_few_rows_are_summed_whatever_they_see(factor, m):
    """Up to 16 means, whose outer products are kept, and more; a factor of 1, a square one, and one of less rank."""
    rows = rows_in([(5, 3), (4, 16), (6, 17)], np.random.default_rng(1).uniform(0.2, 1, 15), 15, factor=factor)
    kernel = MeanKernel(rows)
    assert kernel._nodes is None
    expected = by_loops(rows, m)
    np.testing.assert_allclose(kernel(m, 2), expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())
    alike = kernel.alike(m, 2)
    assert np.trace(alike[1] @ alike[0]) == pytest.approx(np.trace(expected[1] @ expected[0]), rel=1e-10)


@pytest.mark.parametrize(("widths", "cheap"), [([(20, 4), (10, 2)], True), ([(19, 4), (11, 2)], False)])
def test_nodes_are_taken_where_they_cost_half_of_the_rows(widths, cheap):
    """30 nodes at most, of 6 entries each, twice: 360, against 20 x 4^2 + 10 x 2^2 for the rows."""
    rows = rows_in(widths, np.linspace(0.9, 1, 30), 3)
    assert (MeanKernel(rows)._nodes is not None) == cheap


@pytest.mark.parametrize("number", [30, 400])
def test_nodes_are_taken_where_their_matrices_fit(number, monkeypatch):
    rows = rows_in([(number, 24)], np.linspace(0.1, 1, number), 3)
    most = 8 * min(number, 130) * 6
    monkeypatch.setattr(mean_kernel, "MOST_BYTES", most)
    assert MeanKernel(rows)._nodes is not None
    monkeypatch.setattr(mean_kernel, "MOST_BYTES", most - 1)
    assert MeanKernel(rows)._nodes is None


def test_no_means_and_no_residuals_have_no_nodes():
    rows = rows_in([(30, 24)], np.zeros(30), 3)
    assert MeanKernel(rows)._nodes is None
    np.testing.assert_allclose(MeanKernel(rows)(0.3, 2), by_loops(rows, 0.3), rtol=1e-10, atol=1e-12)
    without = rows_in([(30, 24)], np.ones(30), 0)
    assert MeanKernel(without)._nodes is None
    assert MeanKernel(without)(0.3, 2).shape == (2, 0, 0)


def test_ten_rows_of_a_panel_are_their_own_nodes():
    """Ten t between 1/2 and 1, three below: no fewer points than rows, and nothing to interpolate."""
    t = np.append(np.linspace(0.51, 1.0, 10), [0.4, 0.3, 0.02])
    rows = rows_in([(13, 24)], np.sqrt(t), 3)
    kernel = MeanKernel(rows)
    assert sorted(kernel._nodes.places.tolist()) == sorted(rows.scales**2)
    for m in (-0.999, 0.5 + 0.1j):
        expected = by_loops(rows, m)
        np.testing.assert_allclose(kernel(m, 2), expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())
    eleven = rows_in([(14, 24)], np.sqrt(np.append(t, 0.7)), 3)
    assert MeanKernel(eleven)._nodes.panels.tolist() == [[0.75], [0.25]]


@pytest.mark.parametrize("seed", range(6))
def test_rows_at_the_ends_of_a_panel(seed):
    """There a rounding takes t out of the panel that its polynomials are for."""
    top = np.random.default_rng(seed).uniform(0.5, 1)
    ends = [top, np.nextafter(top, 0), np.nextafter(top / 2, 1), np.nextafter(0.505 * top, 0)]
    t = np.concatenate([np.linspace(0.52, 0.98, 12) * top, ends])
    for scale in (1.0, 0.5):  # the second panel, too
        rows = rows_in([(17, 24)], np.sqrt(np.append(scale * t, top)), 3)
        expected = by_loops(rows, 0.5)[0]
        np.testing.assert_allclose(MeanKernel(rows)(0.5)[0], expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2])
def test_nodes_do_as_long_as_the_pole_is_outside_of_an_ellipse(angle):
    """About the panel [1/2, 1], of 4.5 for the sum of the half axes in units of 1/4."""
    t = np.linspace(0.51, 1.0, 20)
    kernel = MeanKernel(rows_in([(20, 24)], np.sqrt(t), 3))
    for rho, do in ((4.5 * (1 + 1e-6), True), (4.5 * (1 - 1e-6), False)):
        around = rho * np.exp(1j * angle)
        pole = 0.75 + 0.25 * 0.5 * (around + 1 / around)
        assert (kernel._nodes_for(-1 / pole) is not None) == do


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
