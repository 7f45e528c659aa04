"""The H-term as a band matrix: the law of dense draws, leading rows that are enough, sums of what is never drawn."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg

import rmtland as rl
from rmtland.landscape import h_term
from rmtland.landscape.h_term import HTermBand, draw_h_term, h_term_spectrum
from tests.statistical import assert_mean

MODEL = rl.LandscapeModel.fort_ganguli(20, 3, 400, 1.0, sigma_H=0.05)


def signal(w, top, seed=0):
    """A positive matrix (w, w) with eigenvalues up to `top`, and a gradient."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(w, w)))[0]
    return q @ np.diag(np.linspace(0.0, top, w)) @ q.T, rng.normal(size=w)


def test_the_band_has_the_law_of_dense_draws():
    g, slope = signal(3, 3.0)
    size, draws = 12, 2000
    dense, band = [], []
    for i in range(draws):
        h = draw_h_term(size, 0.8, np.random.default_rng((1, i)))
        h[:3, :3] += g
        values, vectors = np.linalg.eigh(h)
        dense.append((values, (vectors[:3].T @ slope) ** 2))
        values, squares, sums = h_term_spectrum(g, slope, size, 0.8, np.random.default_rng((2, i)), None)
        assert sums is None
        band.append((values, squares))
    for pick in (
        lambda v, s: v[-1], lambda v, s: v[-2], lambda v, s: v[0], lambda v, s: v.sum(), lambda v, s: v @ v,
        lambda v, s: s[-1] / s.sum(), lambda v, s: s[-3:].sum() / s.sum(),
    ):  # fmt: skip
        one, two = (np.array([pick(*draw) for draw in found]) for found in (dense, band))
        assert_mean(one - two, 0.0, detect=0.55 * one.std())
        assert_mean((one - one.mean()) ** 2 - (two - one.mean()) ** 2, 0.0, detect=one.var())


@pytest.fixture(scope="module")
def all_rows():
    """Top eigenpairs of all rows of a band."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h_term, "DENSE_ROWS", 3000)
        band = HTermBand(signal(5, 10.0)[0], 3000, 1.0, np.random.default_rng(4))
        return scipy.linalg.eigh(band.leading(3000), subset_by_index=(2997, 2999))


@pytest.mark.parametrize("dense_rows", [1500, 50])
def test_leading_rows_are_enough(dense_rows, monkeypatch, all_rows):
    monkeypatch.setattr(h_term, "DENSE_ROWS", dense_rows)
    g, slope = signal(5, 10.0)
    values, squares, _ = h_term_spectrum(g, slope, 3000, 1.0, np.random.default_rng(4), 3)
    whole, vectors = all_rows
    np.testing.assert_allclose(values, whole, rtol=1e-10)
    np.testing.assert_allclose(squares, (vectors[:5].T @ slope) ** 2, rtol=1e-6)


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e4])
def test_rows_are_taken_until_they_are_enough(monkeypatch, unit):
    """At once for what stands far out; for the edge of the bulk, again and again twice as many; in any unit."""
    asked, leading = [], HTermBand.leading
    monkeypatch.setattr(HTermBand, "leading", lambda band, order: asked.append(order) or leading(band, order))
    h_term_spectrum(*signal(5, 50.0 * unit), 3000, unit, np.random.default_rng(0), 2)
    assert asked == [200]
    asked.clear()
    h_term_spectrum(np.zeros((2, 2)), np.ones(2), 10**5, unit, np.random.default_rng(0), 3)
    assert asked == [200, 400, 800]


def test_eigenpairs_of_long_blocks_are_exact_to_a_tenth_of_the_tolerance(monkeypatch):
    """So that what is left below the block decides whether it is long enough."""
    monkeypatch.setattr(h_term, "DENSE_ROWS", 50)
    for seed in range(6):
        block = HTermBand(signal(5, 3.0)[0], 4000, 1.0, np.random.default_rng(seed)).leading(400)
        values, vectors = h_term._top(block, 3, None)
        left = [np.linalg.norm(block @ v - value * v) for value, v in zip(values, vectors.T, strict=True)]
        assert max(left) < 2e-8 * values[-1]


def test_the_edge_of_the_bulk_takes_more_rows():
    # Nothing stands out: the largest eigenvalue is that of the Gaussian ensemble.
    g, slope = np.zeros((2, 2)), np.ones(2)
    top = [h_term_spectrum(g, slope, 2000, 1.0, np.random.default_rng((3, i)), 1)[0][-1] for i in range(100)]
    reference = rl.GaussianEnsemble(2000).largest(size=100, rng=5)[:, -1]
    assert_mean(np.array(top) - np.asarray(reference), 0.0, detect=0.01)


@pytest.mark.parametrize(("w", "order"), [(3, 5), (5, 2), (3, 11), (4, 10)])
def test_what_a_leading_block_leaves_out(w, order):
    size = 12
    band = HTermBand(signal(w, 2.0)[0], size, 0.5, np.random.default_rng(0))
    vectors = np.random.default_rng(1).normal(size=(order, 2))
    left = band.residuals(vectors)
    np.testing.assert_allclose(left, np.linalg.norm(band.leading(size)[order:, :order] @ vectors, axis=0))


class MeansForDraws:
    """A generator all of whose squares are their means."""

    def standard_normal(self, size=None):
        return -1.0 if size is None else np.ones(size)

    def chisquare(self, degrees):
        assert degrees > 0
        return degrees


@pytest.mark.parametrize("drawn", [3, 6, 9, 10, 11])
def test_means_of_sums_however_many_rows_are_drawn(drawn):
    """D diagonal entries of variance 2 sigma_H^2 / D, D (D - 1) others of half of that."""
    size, sigma_H = 11, 0.3
    band = HTermBand(np.zeros((3, 3)), size, sigma_H, MeansForDraws())
    band.extend(drawn)
    trace, norm = band.sums()
    assert norm**2 == pytest.approx(sigma_H**2 * (2 + size - 1), rel=1e-12)
    deviation = sigma_H * math.sqrt(2 / size)
    assert trace == pytest.approx(deviation * (drawn - math.sqrt(size - drawn)), rel=1e-12)


@pytest.mark.slow
def test_sums_of_rows_that_are_not_drawn():
    g, slope = signal(3, 10.0)
    size, draws = 500, 1000
    found, exact = [], []
    for i in range(draws):
        *_, sums = h_term_spectrum(g, slope, size, 1.0, np.random.default_rng((5, i)), 1)
        found.append(sums)
        diagonal = np.random.default_rng((6, i)).standard_normal(size) * math.sqrt(2 / size)
        diagonal[:3] += np.diag(g)
        exact.append(diagonal.sum())
    trace, norm = np.array(found).T
    assert_mean(trace, np.trace(g), detect=0.6 * math.sqrt(2))
    assert np.std(trace) == pytest.approx(math.sqrt(2), rel=0.1)
    assert np.std(exact) == pytest.approx(np.std(trace), rel=0.15)
    expected = np.sum(g**2) + 2 + (size - 1)  # D diagonal entries of 2 / D, D (D - 1) others of 1 / D
    assert_mean(norm**2, expected, detect=0.01 * expected)
    variance = 8 * np.sum(g**2) / size + 4 * (1 + 1 / size)  # tr W^2 is chi^2 of D (D + 1) / 2 degrees, times 2 / D
    assert np.var(norm**2) == pytest.approx(variance, rel=0.15)


@pytest.mark.slow
def test_top_eigenvalues_at_a_million_parameters_agree_with_the_theory():
    model = dataclasses.replace(MODEL, num_parameters=10**6)
    draws = [model.spectrum(rng=(7, i), k=2) for i in range(40)]
    theories = [model.theory(rng=(7, i)) for i in range(40)]
    for pick, other, spread in (
        (lambda s: s.outliers().mean(), lambda t: t.outliers().mean(), 0.02),
        (lambda s: s.gradient_power(2), lambda t: t.gradient_power(2), 0.03),
        (lambda s: s.goldilocks_ratio(), lambda t: t.goldilocks_ratio(), 0.1),
    ):
        found, expected = np.array([pick(s) for s in draws]), np.array([other(t) for t in theories])
        assert abs(np.mean(found - expected)) < spread * abs(np.mean(expected))
    assert draws[0].num_parameters == 10**6


def test_a_model_without_lengths_is_its_h_term():
    model = dataclasses.replace(MODEL, gradients=rl.ClusteredGradients(0.0, 0.0))
    draw = model.spectrum(rng=0, k=2)
    assert draw.eigenvalues.shape == (2,)
    assert draw.eigenvalues[-1] == pytest.approx(0.1, rel=0.1)  # 2 sigma_H
    assert math.isnan(draw.null_power)


def test_a_model_without_lengths_is_a_tridiagonal_matrix():
    """Of Dumitriu and Edelman (2002), with sigma_H^2 / D times chi squares of D - i off the diagonal."""
    given = rl.GivenLogits(np.zeros((4, 3)), np.array([0, 1, 2, 0]))
    size, rng = 15, np.random.default_rng(1)
    model = rl.LandscapeModel(4, 3, size, given, rl.ClusteredGradients(0.0, 0.0), sigma_H=0.3)
    rng.integers(2**63, size=4)  # the seed of the rows, of which there are none
    diagonal, beside = np.zeros(size), np.zeros(size)
    for i in range(size):
        diagonal[i] = rng.standard_normal() * math.sqrt(2)
        if i:
            beside[i] = math.sqrt(rng.chisquare(size - i))
    scale = 0.3 / math.sqrt(size)
    expected = scipy.linalg.eigh_tridiagonal(scale * diagonal, scale * beside[1:], eigvals_only=True)
    np.testing.assert_allclose(model.spectrum(rng=1).eigenvalues, expected, rtol=1e-12)


def test_all_eigenvalues_of_a_large_hessian_are_refused_by_name():
    with pytest.raises(
        MemoryError,
        match="the 1000000 x 1000000 H-term needs .* ask for its k largest eigenvalues, or use model.theory",
    ):
        dataclasses.replace(MODEL, num_parameters=10**6).spectrum(rng=0)
    with pytest.raises(MemoryError, match="the first .* rows of 1000000 x 1000000 Hessians, 200000 wide"):
        HTermBand(np.broadcast_to(0.0, (200000, 200000)), 10**6, 1.0, np.random.default_rng(0)).extend(600000)


@pytest.mark.parametrize("w", [1, 3, 9])
def test_leading_blocks_of_any_order_are_those_of_the_whole(w):
    size = 12
    band = HTermBand(signal(w, 2.0)[0], size, 0.5, np.random.default_rng(0))
    whole = band.leading(size).copy()
    for order in range(1, size):
        np.testing.assert_array_equal(band.leading(order), whole[:order, :order])
