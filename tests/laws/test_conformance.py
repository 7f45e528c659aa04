"""Every law against itself: what must hold of any law, whatever its formula. A new law joins by a line in CASES."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import rmtland as rl
from tests.statistical import assert_mean


@dataclass(frozen=True)
class Case:
    """One law under test; `scaled(c)` makes the law of c times its variable where the law has a scale."""

    name: str
    make: Callable[[], Any]
    scaled: Callable[[float], Any] | None = None
    draws: int = 500_000
    tolerance: float = 1e-11  # of masses and moments, relative to 1 and to the scale
    warm: float = 0.0  # how much a value may depend on its neighbours, relative: solvers start from them


def marchenko_pastur(name, ratio, sigma=1.0):
    def scaled(c):
        return rl.MarchenkoPastur(ratio, sigma * np.sqrt(c))

    return Case(name, lambda: rl.MarchenkoPastur(ratio, sigma), scaled)


def generalized(name, eigenvalues, num_parameters, multiplicities=None, **options):
    def scaled(c):
        values = c * np.asarray(eigenvalues)
        return rl.GeneralizedMarchenkoPastur(values, num_parameters, multiplicities, **options)

    return Case(name, lambda: scaled(1.0), scaled, draws=100_000, warm=1e-14)


CASES = [
    marchenko_pastur("mp-flat", 0.001),
    marchenko_pastur("mp-0.3", 0.3, sigma=1.7),
    marchenko_pastur("mp-near-1", 1 - 1e-3),
    marchenko_pastur("mp-hard-edge", 1.0, sigma=0.5),
    marchenko_pastur("mp-just-above-1", 1 + 1e-3),
    marchenko_pastur("mp-atom", 2.5),
    marchenko_pastur("mp-mostly-atom", 40.0, sigma=3.0),
    Case("semicircle", lambda: rl.Semicircle(1.3), lambda c: rl.Semicircle(1.3 * c)),
    Case("tw-1", lambda: rl.TracyWidom(beta=1)),
    Case("tw-2", lambda: rl.TracyWidom(beta=2)),
    Case("tw-4", lambda: rl.TracyWidom(beta=4)),
    Case("tw-4-matrix", lambda: rl.TracyWidom(beta=4, convention="matrix")),
    generalized("generalized-one-atom", [0.002], 500.0, [1500.0]),
    generalized("generalized-hard-edge", [0.1, 0.2, 0.0], 8, [5, 3, 4]),
    generalized("generalized-bands", [0.01, 0.3, 0.31], 100, [30, 5.5, 4]),
    generalized("generalized-covariance", [1.0, 2.0, 9.0, 0.0], 40, [10, 10, 2, 1], covariance=True),
    generalized("generalized-covariance-atom", [0.5, 1.0, 1.5], 30, [20, 20, 20], covariance=True),
]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture
def law(case):
    return case.make()


NODES, WEIGHTS = np.polynomial.legendre.leggauss(600)


def intervals(law):
    """The finite intervals that hold the density, up to 1e-40 of it."""
    found = np.array(np.atleast_2d(law.support), dtype=float)
    found[:, 0] = np.where(np.isinf(found[:, 0]), law.ppf(1e-40), found[:, 0])
    found[:, 1] = np.where(np.isinf(found[:, 1]), law.isf(1e-40), found[:, 1])
    return found


def rule(low, high):
    """Nodes and weights for densities that end like a square root, or rise like one over it."""
    angle = np.pi / 2 * (1 + NODES)
    half = (high - low) / 2
    # Written from the nearer end, so that no node falls on or over it.
    depth = 2 * half * np.sin(angle / 2) ** 2
    height = 2 * half * np.cos(angle / 2) ** 2
    x = np.where(depth < height, low + depth, high - height)
    return x, WEIGHTS * np.pi / 2 * half * np.sin(angle)


def expectation(law, function):
    """E function(x) by quadrature of the density, the atom added."""
    total = law.atom * function(np.zeros(1))[0] if law.atom else 0.0
    for low, high in intervals(law):
        x, weight = rule(low, high)
        total += np.sum(weight * law.pdf(x) * function(x))
    return total


def interior(law, count=41):
    """Points inside the density, close to its ends too."""
    u = np.concatenate([[1e-6, 1e-3], np.linspace(0.01, 0.99, count), [1 - 1e-3, 1 - 1e-6]])
    return np.concatenate([low + (high - low) * u for low, high in intervals(law)])


def scale(law):
    return abs(law.mean()) + law.std()


def test_mass(law, case):
    assert expectation(law, np.ones_like) == pytest.approx(1, abs=case.tolerance)
    assert 0 <= law.atom < 1


def require_stieltjes(law):
    """Every law has a Stieltjes transform but Tracy and Widom's, which belongs to no spectrum."""
    if isinstance(law, rl.TracyWidom):
        pytest.skip("has no Stieltjes transform")


def test_cdf_is_the_integral_of_pdf(law, case):
    for low, high in intervals(law):
        points = np.linspace(low, high, 8)
        for a, b in pairwise(points):
            x, weight = rule(a, b)
            assert law.cdf(b) - law.cdf(a) == pytest.approx(np.sum(weight * law.pdf(x)), abs=case.tolerance)
            assert law.sf(a) - law.sf(b) == pytest.approx(np.sum(weight * law.pdf(x)), abs=case.tolerance)


def test_nothing_off_the_support(law):
    finite = np.atleast_2d(law.support)[np.isfinite(np.atleast_2d(law.support)).all(axis=1)]
    if finite.size == 0:
        assert isinstance(law, rl.TracyWidom)
        pytest.skip("lives on the whole line")
    ends = np.sort(finite, axis=0)
    beyond = np.array([ends[0, 0] - 1, ends[0, 0] - 1e-3, ends[-1, 1] + 1e-3, ends[-1, 1] + 1, 1e300])
    np.testing.assert_array_equal(law.pdf(beyond), 0)
    np.testing.assert_array_equal(law.sf(beyond[2:]), 0)
    np.testing.assert_array_equal(law.cdf(beyond[2:]), 1)
    np.testing.assert_array_equal(law.cdf(np.minimum(beyond[:2], -1e-300)), 0)


def test_atom_is_a_jump_of_the_cdf_at_zero(law):
    jump = law.cdf(0.0) - law.cdf(-1e-300)
    assert jump == pytest.approx(law.atom, abs=1e-14)
    if law.atom:
        assert law.sf(0.0) == pytest.approx(1 - law.atom, abs=1e-14)
        np.testing.assert_array_equal(law.ppf([0.0, law.atom / 2]), 0)


def test_cdf_and_sf_add_up(law):
    x = interior(law)
    np.testing.assert_allclose(law.cdf(x) + law.sf(x), 1, rtol=0, atol=1e-14)


def test_ppf_inverts_cdf(law):
    q = law.atom + (1 - law.atom) * np.concatenate([[1e-9, 1e-4], np.linspace(0.01, 0.99, 50), [1 - 1e-4, 1 - 1e-9]])
    x = law.ppf(q)
    assert np.all(np.diff(x) > 0)
    # Rounding x moves the mass by pdf(x) times a rounding error of x.
    allowed = 1e-13 + 8 * np.finfo(float).eps * np.abs(x) * law.pdf(x)
    assert np.all(np.abs(law.cdf(x) - q) <= allowed)
    p = np.array([1e-12, 1e-6, 0.1, 0.5]) * (1 - law.atom)
    x = law.isf(p)
    allowed = 1e-11 * p + 8 * np.finfo(float).eps * np.abs(x) * law.pdf(x)
    assert np.all(np.abs(law.sf(x) - p) <= allowed)


def test_ppf_of_cdf_returns(law):
    x = interior(law)
    x = x[(law.pdf(x) > 1e-3 / scale(law)) & (law.cdf(x) < 1)]
    np.testing.assert_allclose(law.ppf(law.cdf(x)), x, rtol=0, atol=1e-11 * scale(law))
    np.testing.assert_allclose(law.isf(law.sf(x)), x, rtol=0, atol=1e-11 * scale(law))


def test_ends_of_ppf(law):
    support = np.atleast_2d(law.support)
    assert law.ppf(0.0) == (0.0 if law.atom else pytest.approx(support.min(), rel=1e-12))
    assert law.ppf(1.0) == pytest.approx(support.max(), rel=1e-12)
    assert law.isf(0.0) == law.ppf(1.0)
    assert law.isf(1.0) == law.ppf(0.0)


def test_moments(law, case):
    unit = scale(law)
    for k in range(5):
        expected = expectation(law, lambda x, k=k: x**k)
        assert law.moment(k) == pytest.approx(expected, abs=case.tolerance * max(1, unit) ** k, rel=case.tolerance)
    assert law.mean() == pytest.approx(law.moment(1), rel=1e-13, abs=1e-14)
    assert law.var() == pytest.approx(expectation(law, lambda x: (x - law.mean()) ** 2), rel=case.tolerance)
    assert law.std() == pytest.approx(np.sqrt(law.var()), rel=1e-15)


def test_stieltjes_is_an_expectation(law, case):
    require_stieltjes(law)
    low, high = intervals(law).min(), intervals(law).max()
    width = high - low
    for z in (low - width + 0j, high + width + 0j, 0.5 * (low + high) + 0.3j * width, low - 0.2j * width, 1e4j * high):
        expected = expectation(law, lambda x, z=z: 1 / (x - z))
        assert law.stieltjes(z) == pytest.approx(expected, rel=10 * case.tolerance)


def test_stieltjes_inversion_on_both_sides(law):
    require_stieltjes(law)
    x = interior(law)
    above = law.stieltjes(x + 0j)
    np.testing.assert_allclose(above.imag / np.pi, law.pdf(x), rtol=1e-9)
    np.testing.assert_array_equal(law.stieltjes(np.conj(x + 0j)), np.conj(above))
    np.testing.assert_array_equal(law.stieltjes(x), above)


def test_stieltjes_on_the_real_axis_off_the_support(law):
    require_stieltjes(law)
    low, high = intervals(law).min(), intervals(law).max()
    low = min(low, 0.0) if law.atom else low
    left, right = low - np.geomspace(1e-3, 1e9, 40), high + np.geomspace(1e-3, 1e9, 40)
    for x, sign in ((left, 1), (right, -1)):
        value = law.stieltjes(x)
        assert value.dtype == np.float64
        assert np.all(sign * value > 0)
        assert np.all(np.diff(np.abs(value)) < 0)
        assert value[-1] * -x[-1] == pytest.approx(1, abs=1e-6)
    assert law.stieltjes(np.inf) == 0
    assert np.isnan(law.stieltjes(np.nan))
    with pytest.raises(TypeError, match="`z` must be real or complex numbers"):
        law.stieltjes("z")


def test_scaling(case, law):
    if case.scaled is None:
        pytest.skip("has no scale")
    c = 7.3
    other, x = case.scaled(c), interior(law)
    np.testing.assert_allclose(other.pdf(c * x) * c, law.pdf(x), rtol=1e-6)
    np.testing.assert_allclose(other.cdf(c * x), law.cdf(x), rtol=0, atol=1e-13)
    np.testing.assert_allclose(other.ppf([0.2, 0.9]), c * law.ppf([0.2, 0.9]), rtol=1e-13)
    assert other.moment(3) == pytest.approx(c**3 * law.moment(3), rel=1e-13)
    if not isinstance(law, rl.TracyWidom):  # the one law without a Stieltjes transform
        assert other.stieltjes(c * (1 + 1j)) * c == pytest.approx(law.stieltjes(1 + 1j), rel=1e-13)


@pytest.mark.parametrize("exponent", [-40, 40])
def test_the_unit_moves_no_digit(case, law, exponent):
    if case.scaled is None:
        pytest.skip("has no scale")
    q, unit = [1e-6, 0.1, 0.5, 0.9, 1 - 1e-6], 2.0**exponent
    other = case.scaled(unit)
    np.testing.assert_allclose(other.ppf(q), unit * law.ppf(q), rtol=1e-13)
    np.testing.assert_allclose(other.isf(q), unit * law.isf(q), rtol=1e-13)


def test_monotone(law):
    x = np.sort(np.concatenate([interior(law, 2001), np.linspace(*intervals(law)[[0, -1], [0, 1]], 3000)]))
    assert np.all(np.diff(law.cdf(x)) >= -1e-15)
    assert np.all(np.diff(law.sf(x)) <= 1e-15)
    assert np.all(np.diff(law.ppf(np.linspace(0, 1, 2001))) >= 0)


def test_infinities_give_the_limits(law):
    ends = np.array([-np.inf, np.inf])
    np.testing.assert_array_equal(law.pdf(ends), [0, 0])
    np.testing.assert_array_equal(law.cdf(ends), [0, 1])
    np.testing.assert_array_equal(law.sf(ends), [1, 0])


def test_nan_stays_where_it_was(law):
    x = law.ppf([0.9, 0.95, 0.99])
    for method, values in ((law.pdf, x), (law.cdf, x), (law.sf, x), (law.ppf, [0.9] * 3), (law.isf, [0.1] * 3)):
        given = np.array(values)
        given[1] = np.nan
        np.testing.assert_array_equal(np.isnan(method(given)), [False, True, False])
        assert np.isnan(method(np.nan))


def test_shapes(law, case):
    for method in (law.pdf, law.cdf, law.sf, law.ppf, law.isf):
        assert type(method(0.5)) is np.float64
        assert type(method(1)) is np.float64
        assert type(method(np.array(0.5))) is np.float64
        assert method([0.25, 0.5]).shape == (2,)
        assert method(np.full((2, 3), 0.5)).shape == (2, 3)
        assert method(np.full((4, 6), 0.5)[::2, ::3].T).shape == (2, 2)
        assert method([]).shape == (0,)
        assert method(np.array([0.5], dtype=np.float32)).dtype == np.float64
        np.testing.assert_allclose(method([0.25, 0.5]), [method(0.25), method(0.5)], rtol=case.warm)
    given = np.array([0.3, 0.6])
    law.pdf(given), law.cdf(given), law.ppf(given)
    np.testing.assert_array_equal(given, [0.3, 0.6])


@pytest.mark.parametrize("q", [-0.1, 1.0000001, np.inf])
def test_probabilities_outside_the_unit_interval(law, q):
    for method in (law.ppf, law.isf):
        with pytest.raises(ValueError, match="`q` must be >= 0 and <= 1; got"):
            method([0.5, q])


def test_points_that_are_not_numbers(law):
    for method in (law.pdf, law.cdf, law.sf):
        for bad in (1j, "x", [True], None):
            with pytest.raises(TypeError, match="`x` must be real numbers; got"):
                method(bad)
    with pytest.raises(TypeError, match="`k` must be an integer; got"):
        law.moment(1.5)
    with pytest.raises(ValueError, match="`k` must be >= 0.*; got"):
        law.moment(-1)


def test_rvs_follow_the_seed_and_the_law(law, case):
    first = law.rvs(case.draws, rng=5)
    np.testing.assert_array_equal(first, law.rvs(case.draws, rng=np.random.default_rng(5)))
    assert np.any(first != law.rvs(case.draws, rng=6))
    assert np.isfinite(first).all()
    squares = (first - law.mean()) ** 2
    detect = 0.02 * law.var()
    # The rare large eigenvalues of a nearly empty law need more draws than a test has.
    if np.std(squares) * 5 / np.sqrt(first.size) > detect / 2:
        detect *= 10
    assert_mean(squares, law.var(), detect=detect)
    with pytest.raises(AssertionError, match="off by"):  # the mutant: the detectable share too much variance
        assert_mean(squares * (1 + detect / law.var()), law.var(), detect=detect * 1.1)
    assert type(law.rvs(rng=1)) is np.float64
    assert law.rvs((2, 3), rng=1).shape == (2, 3)
    with pytest.raises(TypeError, match="`rng` must be"):
        law.rvs(3, rng="seed")


def test_laws_are_values(law, case):
    assert law == case.make()
    with pytest.raises(FrozenInstanceError):
        setattr(law, fields(law)[0].name, 2)
    law.ppf(0.5)
    again = pickle.loads(pickle.dumps(law))
    assert again == law
    assert again.ppf(0.25) == law.ppf(0.25)
