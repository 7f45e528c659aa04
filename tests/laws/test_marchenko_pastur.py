"""Marchenko-Pastur against Narayana numbers, quadrature at 40 digits, and dense draws."""

import math
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest

import rmtland as rl
from rmtland.laws import _arcs
from tests.statistical import assert_mean

RATIOS = [1e-8, 1e-3, 0.3, 1 - 1e-9, 1.0, 1 + 1e-9, 2.0, 50.0, 1e6]


def masses(ratio, sigma, x):
    """Mass of the density below and above x at 40 digits, by quadrature in the angle of the support."""
    with mp.workdps(40):
        scale, root = mp.mpf(sigma) ** 2, mp.sqrt(mp.mpf(ratio))
        a, b, x = scale * (1 - root) ** 2, scale * (1 + root) ** 2, mp.mpf(x)

        def density(u):
            at = a + (b - a) * mp.sin(u / 2) ** 2
            return ((b - a) / 2 * mp.sin(u)) ** 2 / (2 * mp.pi * scale * ratio * at)

        u = 2 * mp.atan2(mp.sqrt(x - a), mp.sqrt(b - x))
        inner = [u * mp.mpf(10) ** -k for k in (12, 9, 6, 4, 2, 1)]
        return mp.quad(density, [0, *inner, u]), mp.quad(density, [u, mp.pi - (mp.pi - u) / 10, mp.pi])


@pytest.mark.parametrize("ratio", RATIOS)
def test_cdf_and_sf_against_quadrature(ratio):
    law = rl.MarchenkoPastur(ratio, sigma=1.3)
    low, high = law.support
    for u in (1e-6, 0.02, 0.3, 0.7, 1 - 1e-6):
        x = low + (high - low) * u
        below, above = masses(ratio, 1.3, x)
        # Rounding of x and of the edges, in units of the distance to the nearer edge, is all that is lost.
        room = min(u, 1 - u) * (high - low)
        allowed = 1e-14 + 8 * np.finfo(float).eps * high / room
        assert law.cdf(x) == pytest.approx(law.atom + float(below), rel=allowed)
        assert law.sf(x) == pytest.approx(float(above), rel=allowed)


def test_masses_near_the_edges_keep_all_digits_where_series_give_way_to_closed_forms():
    # By Gauss-Legendre in the angle from the nearer edge, where the density is analytic: exact to rounding.
    nodes, weights = np.polynomial.legendre.leggauss(40)
    angle = np.array([0.05, 0.2, 0.28, 0.297, 0.3, 0.31, 0.4])
    u, weight = 0.5 * angle[:, None] * (1 + nodes), 0.5 * angle[:, None] * weights
    depth, own = np.sin(0.5 * angle) ** 2, np.sin(0.5 * u) ** 2
    for ratio in (0.02, 0.2675, 0.7):
        law = rl.MarchenkoPastur(ratio)
        (low, high), width = law.support, 4 * ratio**0.5
        for mass, edge, sign in ((law.cdf, low, 1), (law.sf, high, -1)):
            density = (0.5 * width * np.sin(u)) ** 2 / (2 * np.pi * ratio * (edge + sign * width * own))
            expected = np.sum(weight * density, axis=1)
            # What the rounding of x moves the angle by, three halves of it the mass.
            allowed = 5e-15 + 8e-16 * edge / (width * depth)
            assert np.all(np.abs(mass(edge + sign * width * depth) / expected - 1) < allowed)
    semicircle, expected = rl.Semicircle(), np.sum(weight * 2 / np.pi * np.sin(u) ** 2, axis=1)
    for mass, sign in ((semicircle.cdf, -1), (semicircle.sf, 1)):
        assert np.all(np.abs(mass(sign * (2 - 4 * depth)) / expected - 1) < 5e-15 + 8e-16 / (2 * depth))


@pytest.mark.parametrize(
    "law", [rl.Semicircle(), *(rl.MarchenkoPastur(ratio) for ratio in (1e-6, 0.3, 0.5, 40.0))], ids=str
)
def test_a_quantile_takes_one_evaluation_of_the_mass(law, monkeypatch):
    evaluated, mass = [], _arcs.mass

    def counted(angle, *parameters):
        evaluated.append(np.size(angle))
        return mass(angle, *parameters)

    law.ppf(0.5)  # makes the table that Newton's method starts from
    monkeypatch.setattr(_arcs, "mass", counted)
    q = np.concatenate([np.geomspace(1e-30, 1e-2, 200), np.linspace(0.01, 0.99, 500)])
    for quantiles in (law.ppf, law.isf):
        evaluated.clear()
        x = quantiles(q)
        assert evaluated == [q.size]
        back = law.cdf(x) if quantiles == law.ppf else law.sf(x)
        inside = x > 0 if law.atom else np.isfinite(x)
        np.testing.assert_allclose(back[inside], q[inside], rtol=0, atol=1e-12)


def test_hard_edge_mass_is_relatively_accurate_at_any_depth():
    law = rl.MarchenkoPastur(1.0)
    for x in (1e-300, 1e-100, 1e-20, 1e-5):
        assert law.cdf(x) == pytest.approx(2 / np.pi * np.sqrt(x), rel=1e-5)  # (1/(2 pi)) int 2/sqrt(x)
        assert law.ppf(law.cdf(x)) == pytest.approx(x, rel=1e-13)


def test_moments_are_narayana_polynomials():
    # N(k, j) = C(k, j) C(k, j-1) / k counts Dyck paths of length 2k with j peaks; counted here, not computed.
    def peaks(k):
        paths = {(0, 0): {0: 1}}  # (height, last step was up) -> peaks -> count
        for _ in range(2 * k):
            following = {}
            for (height, up), counts in paths.items():
                for step in (1, -1):
                    if height + step < 0:
                        continue
                    there = following.setdefault((height + step, int(step == 1)), {})
                    for count, ways in counts.items():
                        peak = count + int(up == 1 and step == -1)
                        there[peak] = there.get(peak, 0) + ways
            paths = following
        return paths[(0, 0)]

    for ratio in (0.25, 3.0):
        law = rl.MarchenkoPastur(ratio, sigma=1.5)
        for k in range(1, 9):
            expected = sum(ways * ratio ** (j - 1) for j, ways in peaks(k).items()) * 1.5 ** (2 * k)
            assert law.moment(k) == pytest.approx(expected, rel=1e-14)
    assert rl.MarchenkoPastur(1.0).moment(5) == 42  # Catalan
    assert rl.MarchenkoPastur(0.4).moment(0) == 1


@pytest.mark.parametrize("ratio", [0.2, 1.0, 4.0])
def test_stieltjes_against_quadrature_close_to_the_cut(ratio):
    law = rl.MarchenkoPastur(ratio, sigma=0.8)
    low, high = law.support
    for z in (0.5 * (low + high) + 1e-3j, high + 1e-4 - 1e-4j, low - 1e-6 if low else -1e-6, 1e8, -1e-3 + 1e-9j):
        with mp.workdps(30):
            scale = mp.mpf(0.8) ** 2
            a, b = scale * (1 - mp.sqrt(ratio)) ** 2, scale * (1 + mp.sqrt(ratio)) ** 2
            w = mp.mpc(z)

            def integrand(u, a=a, b=b, w=w, scale=scale):
                x = a + (b - a) * mp.sin(u / 2) ** 2
                return ((b - a) / 2 * mp.sin(u)) ** 2 / (2 * mp.pi * scale * ratio * x) / (x - w)

            near = 2 * mp.atan2(mp.sqrt(max(w.real - a, 0)), mp.sqrt(max(b - w.real, 0)))
            cuts = {mp.mpf(0), mp.pi} | {near + s * mp.mpf(10) ** -k for k in range(7) for s in (-1, 0, 1)}
            cuts = sorted(c for c in cuts if 0 <= c <= mp.pi)
            expected = mp.quad(integrand, cuts) - max(0, 1 - 1 / mp.mpf(ratio)) / w
        assert complex(law.stieltjes(complex(z))) == pytest.approx(complex(expected), rel=1e-10)


def test_stieltjes_keeps_its_digits_where_one_of_its_forms_cancels():
    # ratio > 1 close to the atom, and any ratio far away: both in exact arithmetic.
    law = rl.MarchenkoPastur(3.0)
    for z in (-1e-12, 1e-9, -1e12, 1e15):
        with mp.workdps(60):
            w = mp.mpf(z)
            linear, product = w + 2, (w - (1 - mp.sqrt(3)) ** 2) * (w - (1 + mp.sqrt(3)) ** 2)
            root = mp.sqrt(product) * (1 if w > 1 else -1)
            expected = float((root - linear) / (6 * w))
        assert law.stieltjes(z) == pytest.approx(expected, rel=1e-14)
    assert law.stieltjes(0.0) == np.inf
    assert rl.MarchenkoPastur(1.0).stieltjes(0.0) == np.inf
    assert rl.MarchenkoPastur(0.5).stieltjes(0.0) == pytest.approx(2.0, rel=1e-14)  # E 1/x = 1 / (1 - ratio)
    assert rl.MarchenkoPastur(0.5).stieltjes(-0.0) == pytest.approx(2.0, rel=1e-14)


def test_real_points_on_the_cut_lie_on_its_upper_side():
    law = rl.MarchenkoPastur(0.5)
    value = law.stieltjes(1.0)
    assert value.imag == pytest.approx(np.pi * law.pdf(1.0), rel=1e-14)
    assert law.stieltjes(complex(1.0, -0.0)) == np.conj(value)
    assert law.stieltjes([1.0, 5.0]).dtype == np.complex128
    assert law.stieltjes([-1.0, 5.0]).dtype == np.float64
    assert law.stieltjes(complex(np.nan, 1)) != law.stieltjes(complex(np.nan, 1))
    assert law.stieltjes(complex(np.inf, 1)) == 0


def test_hard_edge_density():
    law = rl.MarchenkoPastur(1.0)
    assert law.pdf(0.0) == np.inf
    assert law.pdf(-0.0) == np.inf
    assert law.pdf(1.0) == pytest.approx(np.sqrt(3) / (2 * np.pi), rel=1e-15)
    np.testing.assert_array_equal(law.pdf([-1.0, 4.5, np.inf, -np.inf]), 0)


def test_quantiles_with_an_atom():
    law = rl.MarchenkoPastur(4.0)
    np.testing.assert_array_equal(law.ppf([0, 0.5, 0.75]), 0)
    assert law.ppf(0.75 + 1e-12) == pytest.approx(1.0, abs=1e-6)
    assert law.ppf(1.0) == 9
    assert law.isf(0.25) == 0
    assert law.isf(0.25 - 1e-12) == pytest.approx(1.0, abs=1e-6)


# Traps seen in other packages.


def test_trap_sigma_is_a_standard_deviation():
    law = rl.MarchenkoPastur(0.25, sigma=2.0)
    assert law.mean() == 4.0
    assert law.support == (1.0, 9.0)


def test_trap_mass_one_with_ratio_above_one():
    law = rl.MarchenkoPastur(2.0)
    assert law.atom == 0.5
    low, high = law.support
    x = np.linspace(low, high, 200_001)
    density = np.trapezoid(law.pdf(x), x)
    assert density == pytest.approx(0.5, abs=1e-6)  # what is left without the atom
    assert law.cdf(high) == 1
    assert np.mean(law.rvs(100_000, rng=1) == 0) == pytest.approx(0.5, abs=0.01)


def test_trap_rvs_and_ppf_know_their_seed():
    law = rl.MarchenkoPastur(0.5)
    np.testing.assert_array_equal(law.rvs(10, rng=3), law.rvs(10, rng=3))
    assert np.all(law.rvs(10, rng=3) != law.rvs(10, rng=4))
    np.testing.assert_array_equal(law.ppf([0.1, 0.9]), law.ppf([0.1, 0.9]))


def test_trap_branch_of_stieltjes_on_the_real_axis():
    # The wrong root has the right equation; only the sign and the decay tell.
    law = rl.MarchenkoPastur(0.5)
    low, high = law.support
    assert law.stieltjes(low / 2) > 0
    assert law.stieltjes(-1.0) > 0
    assert law.stieltjes(high * 1.5) < 0
    assert law.stieltjes(-1e6) == pytest.approx(1e-6, rel=1e-5)


def test_dense_draws_follow_the_law():
    # Per draw: the share of eigenvalues below the median of the law, in the limit 1/2.
    rng = np.random.default_rng(7)
    p, n = 60, 200
    law = rl.MarchenkoPastur(p / n, sigma=1.5)
    median = law.ppf(0.5)
    draws = (1.5 * rng.standard_normal((p, n)) for _ in range(400))
    spectra = np.array([np.linalg.eigvalsh(x @ x.T / n) for x in draws])
    share = np.mean(spectra < median, axis=1)
    assert_mean(share, 0.5, bias=1 / n, detect=0.05)
    assert_mean(np.mean(spectra, axis=1), law.mean(), detect=0.02 * law.mean())
    wrong = np.mean(spectra < rl.MarchenkoPastur(p / n, sigma=1.5**2).ppf(0.5), axis=1)
    with pytest.raises(AssertionError, match="off by"):  # the mutant: variance for standard deviation
        assert_mean(wrong, 0.5, bias=1 / n, detect=0.05)


@pytest.mark.parametrize("ratio", [0, -0.5, np.nan, np.inf])
def test_bad_ratio(ratio):
    with pytest.raises(ValueError, match="`ratio` must be > 0; got"):
        rl.MarchenkoPastur(ratio)


@pytest.mark.parametrize("sigma", [0, -1.0, np.nan, np.inf])
def test_bad_sigma(sigma):
    with pytest.raises(ValueError, match="`sigma` must be > 0; got"):
        rl.MarchenkoPastur(0.5, sigma=sigma)


def test_parameters_that_are_no_numbers():
    with pytest.raises(TypeError, match="`ratio` must be a real number; got 'x'"):
        rl.MarchenkoPastur("x")
    with pytest.raises(TypeError, match="`sigma` must be a real number; got None"):
        rl.MarchenkoPastur(0.5, sigma=None)


def test_extreme_scales_neither_warn_nor_break():
    for sigma in (1e-70, 1e70):
        law = rl.MarchenkoPastur(0.5, sigma=sigma)
        assert law.cdf(law.ppf(0.3)) == pytest.approx(0.3, rel=1e-12)
        assert math.isfinite(law.pdf(law.ppf(0.3)))
    assert rl.MarchenkoPastur(0.5).pdf(1e200) == 0
    for ratio in (1e-310, 1e-200, 1e200, 1e307):
        law = rl.MarchenkoPastur(ratio)
        spread = law.ppf([0.999, 1.0]) / max(1.0, ratio)
        assert np.all((spread == 0) | (spread == 1) if ratio > 1 else spread == 1)
        np.testing.assert_array_equal(law.cdf(np.array([-1.0, 2.0 * max(1.0, ratio)])), [0, 1])


@pytest.mark.parametrize("sigma", [1e-100, 1e100])
def test_density_at_any_scale(sigma):
    law, unit = rl.MarchenkoPastur(0.5, sigma), rl.MarchenkoPastur(0.5)
    x = np.array([0.05, 0.2, 1.0, 2.5, 4.0])
    np.testing.assert_allclose(law.pdf(x * sigma**2) * sigma**2, unit.pdf(x), rtol=1e-12)


@pytest.mark.parametrize(
    ("k", "ratio", "sigma"), [(101, 0.5, 1.0), (700, 0.5, 0.5), (60, 1e10, 1e-5), (60, 1e-10, 2.0), (99, 4.0, 0.01)]
)
def test_moments_whose_factors_leave_float64(k, ratio, sigma):
    r, s = Fraction(ratio), Fraction(sigma)
    exact = sum(Fraction(math.comb(k, j) * math.comb(k, j + 1), k) * r**j for j in range(k)) * s ** (2 * k)
    assert rl.MarchenkoPastur(ratio, sigma).moment(k) == pytest.approx(float(exact), rel=1e-11)


def test_moments_beyond_float64_are_refused():
    with pytest.raises(OverflowError, match="`k` must leave E x\\^k within the range of float64; got 1000"):
        rl.MarchenkoPastur(0.5).moment(1000)
    with pytest.raises(MemoryError, match="10000000000 terms needs .* take a smaller `k` instead"):
        rl.MarchenkoPastur(0.5).moment(10**10)
