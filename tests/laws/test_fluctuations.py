"""Fluctuations of any equation of levels, against sums over all values of few Gaussian entries."""

import numpy as np
import pytest

from rmtland.laws.contours import _around, circle_points
from rmtland.laws.fluctuations import outliers_std, power_deviation, ratio_deviation
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Semicircle, Subordination


@pytest.mark.parametrize("sigma", [0.0, 0.4, 2.0])
def test_deviation_of_trace_over_norm_by_cubature(sigma):
    """Moments of G = sum_i t_i x_i x_i^T + S in the plane: Gauss-Hermite nodes for each entry are exact."""
    d, t = 2, np.array([1.0, 2.5])
    rules = [np.polynomial.hermite_e.hermegauss(n) for n in (5, 5, 5, 5, *([3, 3, 3] if sigma else []))]
    points = np.array([p.ravel() for p in np.meshgrid(*(nodes for nodes, _ in rules))])
    weight = np.prod([w.ravel() for w in np.meshgrid(*(w / w.sum() for _, w in rules))], axis=0)
    x, y = points[:2], points[2:4]
    matrices = t[0] * x[:, None] * x + t[1] * y[:, None] * y
    if sigma:
        matrices += sigma * d**0.5 * np.array([[2**0.5 * points[4], points[6]], [points[6], 2**0.5 * points[5]]])
    trace, square = matrices[0, 0] + matrices[1, 1], (matrices**2).sum(axis=(0, 1))
    means = np.array([trace @ weight, square @ weight])
    off = np.array([trace, square]) - means[:, None]
    slope = np.array([1 / means[1] ** 0.5, -0.5 * means[0] / means[1] ** 1.5])
    expected = slope @ (off * weight @ off.T) @ slope
    levels = (Atoms(t, np.ones(2)), *([Semicircle(sigma, float(d))] if sigma else []))
    found = ratio_deviation(Subordination(levels, float(d)), float(d))
    assert found == pytest.approx(expected**0.5, rel=1e-9)


@pytest.mark.parametrize("radius", [1.15, 1.5, 1.9])
def test_a_circle_gets_the_points_that_its_nearest_eigenvalue_asks_for(radius):
    """The trapezoidal rule counts the eigenvalues within, to 1e-10; with half of the points it does not."""
    t = np.array([1.0, 2.0, 4.0, 5.0])  # around 3, at distances 1 and 2
    solver = Solver(Subordination((Atoms(t, np.ones(4)),), 1e6))
    points = circle_points(solver, 3.0, radius)

    def counted(points):
        around = radius * np.exp(1j * np.pi * (np.arange(2 * points) + 0.5) / points)
        return np.sum(around[:, None] / (3.0 + around[:, None] - t)) / (2 * points)

    assert counted(points) == pytest.approx(2, abs=1e-10)
    assert abs(counted(points // 2) - 2) > 1e-8


def test_an_eigenvalue_on_a_circle_asks_for_very_many_points():
    t = np.array([1.0, 2.0, 4.0, 5.0])
    assert circle_points(Solver(Subordination((Atoms(t, np.ones(4)),), 1e6)), 3.0, 1.0) > 10**9


def test_circles_between_gaps_keep_clear_of_what_is_known():
    """Half way, in ratios, from the atoms within to the nearest one outside."""
    t = np.array([1.0, 2.0, 4.0, 5.5])

    def solver():
        return Solver(Subordination((Atoms(t, np.ones(4)),), 1e6))

    assert _around(solver(), 1.5, 4.5, 2, 3) == pytest.approx((3.0, 2**0.5))
    assert _around(solver(), 1.5, 7.0, 1, 3) == pytest.approx((3.75, (1.75 * 2.75) ** 0.5))
    assert _around(solver(), 3.0, 7.0, 1, 2) == pytest.approx((4.75, (0.75 * 2.75) ** 0.5))
    # Of a lone one the place is known to a twentieth of the distance to the others.
    assert _around(solver(), 1.5, 3.5, 3, 3) == pytest.approx((2.0, 0.05**0.5))
    # Another number of eigenvalues than of atoms between: through both places.
    for first, last in ((2, 2), (2, 4), (3, 3), (1, 3)):
        assert _around(solver(), 1.5, 4.5, first, last) == (3.0, 1.5)
    # Places that were found count before atoms: of the second eigenvalue and its neighbours here.
    known = solver()
    known.found.extend([(0.5, 5.5), (1.5, 4.8), (2.5, 1.0), (2.25, 3.0)])
    assert _around(known, 3.0, 5.2, 2, 2) == pytest.approx((4.8, 0.05**0.5 * 0.7))
    assert _around(known, 3.0, 6.0, 1, 2) == pytest.approx((5.15, (0.35 * 0.85) ** 0.5))
    assert _around(known, 0.7, 5.2, 2, 3) == pytest.approx((2.9, (1.9 * 2.2) ** 0.5))
    assert _around(known, 3.0, 5.0, 3, 4) == (4.0, 1.0)  # the fourth is not known, and one atom is between
    assert _around(known, 4.0, 7.0, 1, 1) == pytest.approx((5.5, 0.05**0.5 * 0.7))
    # With no neighbour known, that is where the gaps are.
    alone = solver()
    alone.found.append((1.5, 4.8))
    assert _around(alone, 3.0, 5.2, 2, 2) == pytest.approx((4.8, 0.05**0.5 * 0.4))
    assert _around(alone, 4.6, 5.2, 2, 2) == pytest.approx((4.8, 0.05**0.5 * 0.2))


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_lone_eigenvalues_fluctuate_as_spikes_do(sigma):
    """Var x = 2 t^2 z'(t) / D of each (Bai and Yao 2008), z without its atom, to relative order 1/D."""
    d, t, w = 1e6, np.array([5.0, 3.0, 0.2]), np.array([1.0, 1.0, 3e5])
    levels = Atoms(t, w), *([Semicircle(sigma, d)] if sigma else [])
    solver = Solver(Subordination(levels, d))
    bulk = Subordination((Atoms(t[2:], w[2:]), *levels[1:]), d)
    found = outliers_std(solver, [solver.boundary(1), solver.boundary(2)])
    for deviation, spike in zip(found, t, strict=False):
        assert deviation**2 == pytest.approx(2 * spike**2 * bulk.map(spike)[1] / d, rel=1e-4)


def test_what_is_left_below_the_outliers_is_the_rest_of_the_trace():
    """Of two vectors, of variances 2 t^2 / D each but for what they share, which is of order 1/D^2."""
    d, t = 1e7, np.array([5.0, 3.0])
    solver = Solver(Subordination((Atoms(t, np.ones(2)),), d))
    np.testing.assert_allclose(outliers_std(solver, [solver.boundary(1), 0]) ** 2, 2 * t**2 / d, rtol=1e-5)
    lone = Solver(Subordination((Atoms(t[:1], np.ones(1)),), d))
    np.testing.assert_allclose(outliers_std(lone, [0]) ** 2, 2 * t[:1] ** 2 / d, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_a_vector_fluctuate_as_by_perturbation_theory(count):
    """Of y = sum_i a_i x_i and its part in the top eigenvectors, to first order in x_i . x_j / D - delta_ij.

    The k-th eigenvector takes (y . v_k)^2 = a_k^2 (1 + e_kk) + 2 a_k sum_j a_j e_kj t_k / (t_k - t_j) of y^2.
    """
    d, t, shares = 1e8, np.array([5.0, 3.0, 1.0, 0.5]), np.array([0.4, 0.3, 0.2, 0.1])
    solver = Solver(Subordination((Atoms(t, np.ones(4), 7 * d * shares),), d))
    a, top = np.sqrt(shares), np.arange(4) < count
    variance = 0.0
    for i in range(4):
        variance += 2 / d * (shares[i] * (top[i] - shares[top].sum())) ** 2
        for j in range(i):
            gained = top[i] * t[i] / (t[i] - t[j]) + top[j] * t[j] / (t[j] - t[i])
            variance += 1 / d * (2 * a[i] * a[j] * (gained - shares[top].sum())) ** 2
    assert power_deviation(solver, solver.boundary(count)) ** 2 == pytest.approx(variance, rel=1e-4)
