"""What follows from a list of levels, against polynomials, many digits and Cauchy's formula for derivatives."""

import math

import numpy as np
import pytest

from rmtland.laws.subordination import Atoms, Jet, Level, Point, Semicircle, Subordination, inverted, log_det
from tests.laws.atoms import CASES, digits, exact_point

AMPLITUDES = np.array([0.5, 2.0, 0.25])


def equation(case):
    t, w = (case.t[1:], case.w[1:]) if case.variance else (case.t, case.w)
    levels = [Atoms(t, w, AMPLITUDES[: t.size])]
    if case.variance:  # in two parts
        levels += [Semicircle(math.sqrt(0.36 * case.variance), case.dimension)]
        levels += [Semicircle(math.sqrt(0.64 * case.variance), case.dimension)]
    return Subordination(tuple(levels), case.dimension), t


@pytest.mark.parametrize("name", CASES)
def test_maps_counts_and_powers(name):
    case = CASES[name]
    law, t = equation(case)
    amplitudes = AMPLITUDES[: t.size]
    assert law.variance == pytest.approx(case.variance, rel=1e-15)
    assert law.rank == case.rank
    assert law.cost == t.size + (2 if case.variance else 0)
    assert law.exact
    assert not Subordination((*law.levels, Level()), case.dimension).exact
    assert law.vector_square == amplitudes.sum()
    squares = (case.w * case.t**2).sum() + case.dimension * case.variance
    assert law.power_sums == pytest.approx((case.w @ case.t, squares), rel=1e-14)
    for u in (0.7 + 0.2j, -0.3 + 1e-3j, 5.0 + 2j):
        value, slope = (complex(x) for x in digits(case, u))
        assert law.map(u) == (pytest.approx(value, rel=1e-12), pytest.approx(slope, rel=1e-12))
        assert law.map(u, False)[0] == law.map(u)[0]
        assert np.isnan(law.map(u, False)[1])
        power = -np.sum(amplitudes / (u - t)) / amplitudes.sum()
        assert law.power_at(u) == pytest.approx(power, rel=1e-13)
        assert law.rates(u)[0] == pytest.approx(power * slope, rel=1e-12)
        assert law.rates(u)[1] == pytest.approx(-case.dimension / u * slope, rel=1e-12)
    for share in (0.2, 0.6):
        x = share * float(case.map(case.outer()[-1]))
        u, above = exact_point(case, x)
        if u.imag > 0:
            found = law.potential(complex(u))
            assert found[0] == pytest.approx(x, abs=1e-12)
            assert found[1] == pytest.approx(complex(digits(case, u)[1]), rel=1e-12)
            assert found[2] == pytest.approx(float(above), rel=1e-10)
            assert law.potential(complex(u), False)[2] == found[2]
    for u in (0.05, 0.25, 0.45, 0.9, 1.1):
        assert law.atoms_above(u) == case.w[case.t > u].sum()


def test_ranks_count_what_is_positive():
    atoms = Atoms(np.array([0.5, 0.0]), np.array([3.0, 2.0]))
    assert atoms.rank == 3
    assert Subordination((atoms, atoms), 10.0).rank == 6
    assert Subordination((atoms, atoms), 5.0).rank == 5
    assert Subordination((atoms, Semicircle(1e-3, 10.0)), 10.0).rank == 10


@pytest.mark.parametrize("failures", range(6))
def test_a_place_that_is_an_eigenvalue_to_the_last_digit_is_left_by_some_digits(failures):
    places = []

    class Singular(Level):
        def count_above(self, point):
            places.append(-1 / point.m)
            if len(places) <= failures:
                raise np.linalg.LinAlgError
            return 7.0

    found = Subordination((Singular(),), 10.0).atoms_above(3.0)
    assert found == 7 if failures < 4 else math.isnan(found)
    assert len(places) == min(failures + 1, 4)
    np.testing.assert_allclose(places, 3.0, rtol=1e-14)
    assert places[0] == 3.0
    assert (np.diff(places) > 2e-16 * 3).all()


def test_a_level_is_asked_once_at_a_point():
    asked = []

    class Passing(Atoms):
        def at(self, point):
            asked.append(point.order)
            return super().at(point)

    level = Passing(np.array([1.0]), np.array([1.0]))
    point = Point(-0.5, 1)
    assert point.part(level) is point.part(level)
    assert point.passed(level) is None
    assert asked == [1]


def test_no_more_derivatives_are_asked_for_than_are_used():
    asked = []

    class Recorded(Atoms):
        def at(self, point):
            asked.append((point.order, point.logs))
            return super().at(point)

        def count_above(self, point):
            asked.append((point.order, point.logs))
            return super().count_above(point)

    law = Subordination((Recorded(np.array([1.0]), np.array([1.0]), np.array([1.0])),), 4.0)
    u = 0.3 + 0.2j
    for call, order in (
        (lambda: law.map(u), (2, False)),
        (lambda: law.map(u, False), (1, False)),
        (lambda: law.potential(u), (2, True)),
        (lambda: law.potential(u, False), (1, True)),
        (lambda: law.vector_square, (0, False)),
        (lambda: law.power_at(u), (0, False)),
        (lambda: law.rates(u), (2, False)),
        (lambda: law.power_sums, (2, False)),
        (lambda: law.atoms_above(0.5), (0, False)),
        (lambda: law.evaluate(u), (1, False)),
    ):
        call()
        assert asked == [order]
        del asked[:]


SERIES = np.random.default_rng(0).normal(size=(2, 3, 4, 4))
SERIES[:, 0] += 8 * np.eye(4)


def polynomial(which, m):
    a, b, c = SERIES[which]
    return a + m * b + m * m * c


def jet(which, m, order=2):
    a, b, c = SERIES[which]
    return Jet([a + m * b + m * m * c, b + 2 * m * c, 2 * c][: order + 1])


def derivatives(function, m):
    """A function and two derivatives by the trapezoidal rule on a circle."""
    turns = 0.05 * np.exp(2j * np.pi * np.arange(32) / 32)
    values = np.array([function(m + turn) for turn in turns])
    powers = [np.tensordot(turns**-j, values, 1) / 32 for j in range(3)]
    return [powers[0], powers[1], 2 * powers[2]]


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(
    ("operation", "function"),
    [
        (lambda f, g, m: f.plus(g), lambda f, g, m: f + g),
        (lambda f, g, m: f @ g, lambda f, g, m: f @ g),
        (lambda f, g, m: f.inverse(), lambda f, g, m: np.linalg.inv(f)),
        (lambda f, g, m: f.times_m(m), lambda f, g, m: m * f),
        (lambda f, g, m: f.map(lambda x: 3 * x), lambda f, g, m: 3 * f),
    ],
    ids=["sum", "product", "inverse", "times m", "linear"],
)
def test_derivatives_of_what_is_made_of_functions(order, operation, function):
    m = 0.3 + 0.1j
    found = operation(jet(0, m, order), jet(1, m, order), m)
    expected = derivatives(lambda at: function(polynomial(0, at), polynomial(1, at), at), m)
    assert len(found) == order + 1
    for one, other in zip(found, expected, strict=False):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


def test_derivatives_in_other_units_and_orders():
    assert Jet([2.0, 3.0, 5.0]).in_units(10.0) == (2.0, 30.0, 500.0)
    assert Jet([1.0, 2.0, 3.0]).plus(Jet([1.0, 2.0])) == (2.0, 4.0)
    one = Jet([4.0])
    assert (one.value, math.isnan(one.first), math.isnan(one.second)) == (4.0, True, True)
    two = Jet([4.0, 5.0])
    assert (two.first, math.isnan(two.second)) == (5.0, True)
    assert len(jet(0, 0.1, 2) @ jet(1, 0.1, 1)) == 2


@pytest.mark.parametrize("order", [0, 1, 2])
def test_logarithms_of_determinants(order):
    m, copies = 0.2 + 0.3j, np.array([2.0, 3.0])
    a, b, c = (x @ np.swapaxes(x, -1, -2) for x in np.swapaxes(SERIES, 0, 1))  # eigenvalues in the upper half plane
    stacked = Jet([a + m * b + m * m * c, b + 2 * m * c, 2 * c][: order + 1])
    found = log_det(stacked, inverted(stacked[0]), copies, True)
    expected = derivatives(lambda at: copies @ np.log(np.linalg.eigvals(a + at * b + at * at * c)).sum(axis=1), m)
    np.testing.assert_allclose(found, expected[: order + 1], rtol=1e-10)
    assert math.isnan(log_det(stacked, inverted(stacked[0]), copies, False)[0])
    # On the branch of the upper half plane, whatever rounding made of a negative eigenvalue.
    below = log_det(Jet([np.array([[[-2.0 - 1e-17j]]])]), np.ones((1, 1, 1)), np.ones(1), True)
    assert below[0] == pytest.approx(math.log(2) + 1j * math.pi)
    assert np.isnan(inverted(np.zeros((1, 2, 2)))).all()
