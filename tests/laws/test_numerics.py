"""Power series from values on a circle, and what searches along the curve share."""

import math

import numpy as np
import pytest

from rmtland.laws import taylor
from rmtland.laws.atoms.plain import PlainAtoms
from rmtland.laws.contours import circle
from rmtland.laws.numerics import Slopes, extrapolate, panels
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Subordination

SERIES = np.array([2.0, -1.0, 0.5, 3.0, 0.0, -0.25, 1.5])


@pytest.mark.parametrize("size", [8, 9, 32])
@pytest.mark.parametrize("radius", [0.8, 2.0])
def test_coefficients_of_a_polynomial(radius, size):
    points = taylor.circle(radius, size)
    np.testing.assert_allclose(np.abs(points), radius, rtol=1e-14)
    assert points.size == size // 2 + 1
    np.testing.assert_allclose(points**size, radius**size, rtol=1e-10)
    values = np.polynomial.polynomial.polyval(points, SERIES)
    found = taylor.coefficients(values, radius, size)
    np.testing.assert_allclose(found, np.pad(SERIES, (0, size - 7)), atol=1e-10)
    np.testing.assert_allclose(taylor.coefficients(values, radius, size, keep=3), SERIES[:3], atol=1e-12)
    both = taylor.coefficients(np.stack([values, 2 * values], 1), radius, size, keep=7)
    np.testing.assert_allclose(both, np.stack([SERIES, 2 * SERIES], 1), atol=1e-10)


@pytest.mark.parametrize("s", [0.0, 0.7, 0.3 - 0.4j])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_weights_give_a_series_and_its_derivatives(s, order):
    series = np.polynomial.Polynomial(SERIES)
    rows = taylor.weights(s, SERIES.size, order)
    assert rows.shape == (order, SERIES.size)
    np.testing.assert_allclose(rows @ SERIES, [series(s), series.deriv()(s), series.deriv(2)(s)][:order], atol=1e-13)


def test_extrapolation_is_that_of_the_polynomial():
    points = [(x, 2 - x + 0.5 * x**2) for x in (1.0, 2.0, 4.0)]
    for x in (0.0, 3.0, 5.0 + 1j):
        assert extrapolate(points, x) == pytest.approx(2 - x + 0.5 * x**2)
        assert extrapolate(points[:2], x) == pytest.approx(points[0][1] + (x - 1) * (points[1][1] - points[0][1]))
        assert extrapolate(points[:1], x) == points[0][1]
    assert extrapolate([], 3.0) == 0


T, W, D = np.array([0.5, 1.0]), np.array([3.0, 2.0]), 10.0


@pytest.mark.parametrize("logs", [False, True])
def test_slopes_by_differences_begin_with_those_of_known_atoms(logs):
    equation, plain = Subordination((Atoms(T, W),), D), PlainAtoms.of(1.1 * T, W, D)
    exact, other = Slopes(equation, plain, False), Slopes(equation, plain, True)
    points = [0.7 + 0.2j, 0.8 + 0.2j, 0.8 + 0.2j, 0.9 + 0.1j]
    found = []
    for u in points:
        value, slope = exact.at(u, logs)
        assert value == pytest.approx(complex(equation.map(u)[0]))
        assert slope == pytest.approx(complex(equation.map(u)[1]))
        found.append(other.at(u, logs))
        assert found[-1][0] == value
        assert other.count == exact.count if logs else math.isnan(other.count)
    first, second, third, fourth = (slope for _, slope in found)
    assert first == plain.evaluate(points[0])[1]
    assert second == pytest.approx((found[1][0] - found[0][0]) / 0.1)
    assert third == plain.evaluate(points[2])[1]  # the same place again says nothing
    assert fourth == pytest.approx((found[3][0] - found[2][0]) / (0.1 - 0.1j))


@pytest.mark.parametrize("u", [0.8 + 0.1j, 0.8 + 1e-6j, 0.3 + 0.6j])
@pytest.mark.parametrize(("order", "ratio"), [(8, 0.5), (10, 0.25)])
def test_panels_end_at_u_and_integrate_what_has_poles_near_it(u, order, ratio):
    centre = 2.0
    radius = abs(u - centre)
    angles, weights = panels(u, centre, radius, order, ratio)
    end = math.atan2(u.imag, u.real - centre)
    assert angles.size % order == 0
    assert ((angles > 0) & (angles < end)).all()
    assert weights.sum() == pytest.approx(end, rel=1e-12)
    # The last panel is no longer than what is left to the axis, or a few times a thousandth of the way.
    last = weights[-order:].sum() * radius
    shortest = max(0.5 * u.imag, 1e-4 * abs(u))
    assert ratio * shortest < last <= shortest
    lengths = weights.reshape(-1, order).sum(axis=1)
    np.testing.assert_allclose(lengths[1:-1] / lengths[:-2], ratio, rtol=1e-9)
    away = u + 0.3 * (u - centre) / radius
    expected = (np.log(u - away) - np.log(centre + radius - away)) / 1j
    turned = radius * np.exp(1j * angles)
    assert np.sum(weights * turned / (centre + turned - away)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("u", [0.7 + 0.2j, 1.2 + 0j, 0.1 + 0.05j])
def test_circles_go_through_u_and_beyond_all_atoms(u):
    solver = Solver(Subordination((Atoms(T, W),), D))
    top, height = solver.reach
    beyond = []
    for share in (0.5, 1.5):
        centre, radius = circle(solver, u, share)
        assert abs(u - centre) == pytest.approx(radius, rel=1e-13)
        beyond.append(centre + radius - top)
    assert circle(solver, u) == circle(solver, u, 0.5)
    assert beyond[1] == pytest.approx(3 * beyond[0], rel=1e-9)
    assert beyond[0] >= max(0.5 * (top - u.real), height, 0.05 * top)  # as far as u is, or the curve is high
