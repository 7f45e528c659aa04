"""The semicircle against Catalan numbers, quadrature and dense draws."""

import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

import rmtland as rl
from tests.statistical import assert_mean


def test_cdf_against_quadrature():
    law = rl.Semicircle(0.7)
    for u in (-0.999999, -0.6, 0.0, 0.3, 0.999999):
        x = 1.4 * u
        with mp.workdps(30):
            sigma = mp.mpf(0.7)

            def density(y, sigma=sigma):
                return mp.sqrt(4 * sigma**2 - y * y) / (2 * mp.pi * sigma**2)

            below, above = mp.quad(density, [-2 * sigma, mp.mpf(x)]), mp.quad(density, [mp.mpf(x), 2 * sigma])
        room = (1 - abs(u)) * 1.4
        allowed = 1e-13 + 8 * np.finfo(float).eps * 1.4 / room
        assert law.cdf(x) == pytest.approx(float(below), rel=allowed)
        assert law.sf(x) == pytest.approx(float(above), rel=allowed)


def test_moments_are_catalan_numbers():
    catalan = [1]
    for n in range(15):
        catalan.append(sum(catalan[i] * catalan[n - i] for i in range(n + 1)))  # Segner's recurrence
    law = rl.Semicircle(2.0)
    for k, expected in enumerate(catalan):
        assert law.moment(2 * k) == expected * 4.0**k
        assert law.moment(2 * k + 1) == 0
    assert law.moment(100) == float(math.comb(100, 50) // 51) * 2.0**100  # the last one from whole numbers


def test_edges_and_values():
    law = rl.Semicircle(3.0)
    assert law.support == (-6.0, 6.0)
    assert law.atom == 0
    assert law.pdf(0.0) == pytest.approx(1 / (3 * np.pi), rel=1e-15)
    assert law.pdf(6.0) == 0
    assert law.mean() == 0
    assert law.var() == 9
    x = np.linspace(-6, 6, 101)
    np.testing.assert_allclose(law.cdf(-x), law.sf(x), rtol=1e-13)
    np.testing.assert_allclose(law.ppf([0.2, 0.5]), [-law.isf(0.2), 0], atol=4e-15)


def test_stieltjes_at_published_points():
    law = rl.Semicircle(1.0)
    assert law.stieltjes(2.5) == pytest.approx(-0.5, rel=1e-15)  # theta = 2: m(theta + 1/theta) = -1/theta
    assert law.stieltjes(-2.5) == pytest.approx(0.5, rel=1e-15)
    assert law.stieltjes(2.0) == -1
    assert law.stieltjes(1e200) == pytest.approx(-1e-200, rel=1e-15)
    assert law.stieltjes(0.0) == pytest.approx(1j, rel=1e-15)
    assert law.stieltjes(complex(0.0, -0.0)) == pytest.approx(-1j, rel=1e-15)


def test_dense_draws_follow_the_law():
    # Per draw: the share of eigenvalues above sigma, 1/3 - sqrt(3)/(4 pi) in the limit.
    rng = np.random.default_rng(3)
    n, sigma = 120, 1.5
    law = rl.Semicircle(sigma)
    assert law.sf(sigma) == pytest.approx(1 / 3 - np.sqrt(3) / (4 * np.pi), rel=1e-14)
    shares = []
    for _ in range(200):
        g = rng.standard_normal((n, n)) * sigma
        shares.append(np.mean(np.linalg.eigvalsh((g + g.T) / np.sqrt(2 * n)) > sigma))
    assert_mean(shares, law.sf(sigma), bias=1 / n, detect=0.03)
    with pytest.raises(AssertionError, match="off by"):  # the mutant: radius 2 sigma^2
        assert_mean(shares, rl.Semicircle(sigma**2).sf(sigma), bias=1 / n, detect=0.03)


@pytest.mark.parametrize("sigma", [0, -1.0, np.nan, np.inf])
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match="`sigma` must be > 0; got"):
        rl.Semicircle(sigma)


def test_sigma_that_is_no_number():
    with pytest.raises(TypeError, match="`sigma` must be a real number; got '1'"):
        rl.Semicircle("1")


@pytest.mark.parametrize(("k", "sigma"), [(102, 0.5), (2000, 0.5), (1200, 0.4), (100, 1e-3)])
def test_moments_whose_factors_leave_float64(k, sigma):
    exact = Fraction(math.comb(k, k // 2) // (k // 2 + 1)) * Fraction(sigma) ** k
    assert rl.Semicircle(sigma).moment(k) == pytest.approx(float(exact), rel=1e-11)


def test_moments_beyond_float64_are_refused():
    with pytest.raises(OverflowError, match="`k` must leave E x\\^k within the range of float64; got 2000"):
        rl.Semicircle().moment(2000)


def test_ragged_points_are_named():
    for law in (rl.Semicircle(), rl.GeneralizedMarchenkoPastur([1.0, 2.0], 30)):
        with pytest.raises(TypeError, match="`z` must be an array of numbers; got a ragged list"):
            law.stieltjes([[1], [1, 2]])
