"""The solver of any equation of levels, told only roughly where atoms are, against polynomials."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from rmtland.laws import solver as solvers
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Semicircle, Subordination
from tests.laws.atoms import CASES, exact_point


@dataclass(frozen=True, eq=False)
class Rough(Atoms):
    """Atoms that are told of with every other one off by a share."""

    off: float = 0.0
    exact = False

    def rough_atoms(self):
        return self.t * (1 + self.off * (-1.0) ** np.arange(self.t.size)), self.weights


def rough(case, off=0.1):
    """The solver for a case of which only this much is known."""
    t, w = (case.t[1:], case.w[1:]) if case.variance else (case.t, case.w)
    levels = Rough(t, w, off=off), *([Semicircle(case.variance**0.5, case.dimension)] if case.variance else [])
    return Solver(Subordination(levels, case.dimension))


@pytest.fixture(params=[name for name in CASES if name != "far apart"])
def case(request):
    return CASES[request.param]


@pytest.fixture
def evaluations(monkeypatch):
    calls, real = [], Subordination.evaluate
    monkeypatch.setattr(Subordination, "evaluate", lambda *args, **more: calls.append(args[1]) or real(*args, **more))
    return calls


def places(case):
    """Points of all bands and gaps and beyond."""
    ends = np.sort([float(case.map(u)) for u in case.outer()])
    ends = np.append(0.0, ends) if len(ends) % 2 else ends
    shares = np.array([1e-4, 0.03, 0.4, 0.9])
    inside = (ends[:-1, None] + np.diff(ends)[:, None] * shares).ravel()
    return np.concatenate([inside, ends[-1] * np.array([1.0001, 1.5, 1e4]), ends[0] * np.array([0.1, 0.999])])


@pytest.mark.parametrize("large", [False, True])
def test_solutions_are_roots_of_the_polynomial(case, large, monkeypatch):
    if large:
        monkeypatch.setattr(solvers, "LARGE", 0)
    x = np.unique(places(case))
    x = x[x > 0]
    solver = rough(case)
    expected = np.array([complex(exact_point(case, value)[0]) for value in x])
    np.testing.assert_allclose(solver.solve(x[::-1])[::-1], expected, rtol=1e-8)
    above, below = solver.counts(x)
    np.testing.assert_allclose(above, [float(exact_point(case, value)[1]) for value in x], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(above + below, case.rank, rtol=1e-12)
    # What Newton's method gives up is found by brackets.
    monkeypatch.setattr(solvers.Solver, "_newton", lambda *args: None)
    np.testing.assert_allclose(solver.solve(x), expected, rtol=1e-7)


def test_heights_of_the_curve(case, evaluations):
    solver = rough(case)
    r = np.concatenate([case.t, case.t + 1e-9, case.t * 1.05, [1e-12, 0.15, 0.6, 0.9, 1.3, 3.0, 50.0, -0.05, -2.0]])
    expected = [float(case.height(value)) for value in r]
    found = []
    for value in r[r != 0]:
        del evaluations[:]
        found.append(solver.height(value))
        assert len(evaluations) <= 14
    found, expected = np.array(found), np.array(expected)[r != 0]
    np.testing.assert_array_equal(found == 0, expected == 0)
    # Rounding enters the height's square: beside a hard edge, of height 1e-6, it costs five digits of the height.
    np.testing.assert_allclose(found**2, expected**2, rtol=2e-12, atol=4e-16)


@pytest.mark.parametrize("bounds", [(-math.inf, math.inf), (1e-25, math.inf), (-math.inf, 40.0), (1e-25, 40.0)])
def test_brackets_grow_from_a_guess(bounds):
    solver = rough(CASES["one"])
    for root, near in itertools.product((1e-20, 0.03, 0.9, 1.0001, 1.5, 30.0), (0.0, 1e-30, 0.02, 1.0, 1.03, 1.6)):
        check_bracket(solver, root, near, bounds)


def check_bracket(solver, root, near, bounds):
    calls = []
    top = solver.reach[0] + 2 * solver.reach[1]
    low, high = solver._bounds(lambda r: calls.append(r) or r - root, near, *bounds)
    assert low < root <= high
    if math.isfinite(sum(bounds)):
        assert ((low, high), calls) == (bounds, [])
        return
    near = max(near, bounds[0])
    if near <= 0:
        assert low == -2 * solver.reach[1]
        beyond = 2 ** max(0, math.ceil(math.log2(root / top)))
        assert high == (bounds[1] if math.isfinite(bounds[1]) else top * beyond)
        return
    # By 2% at first, and each stride the square of the one before.
    away = max(abs(math.log(root / near)) / math.log(1.02), 1.0)
    if low > 0 and high < min(top, bounds[1]):
        assert math.log(high / low) / math.log(1.02) <= away + 1.001
        assert len(calls) <= 3 + math.log2(away)
    elif root > near:
        assert near * 1.02 ** (2 * away + 1) > top
        assert (low, high) == (low, bounds[1] if math.isfinite(bounds[1]) else high)
    else:
        assert near * 1.02 ** (-2 * away) < 1e-24
        assert low == (bounds[0] if math.isfinite(bounds[0]) else -2 * solver.reach[1])


@pytest.mark.parametrize("finish", [False, True])
def test_points_with_so_many_eigenvalues_above(case, finish, evaluations, monkeypatch):
    """Few evaluations for each, where what is found brackets the next."""
    goals = case.rank * np.array([0.02, 0.2, 0.45, 0.7, 0.93])
    solver = rough(case)
    if not finish:  # by brackets alone
        monkeypatch.setattr(Solver, "_newton_to", lambda *args: None)
    points = solver.points(goals)
    assert len(evaluations) <= (100 if finish else 1100)
    x = [solver.equation.map(u if u.imag > 0 else u.real, False)[0].real for u in points]
    for value, goal in zip(x, goals, strict=True):
        assert float(exact_point(case, value)[1]) == pytest.approx(goal, rel=1e-8)
    np.testing.assert_allclose(solver.quantiles(goals), x, rtol=1e-8)


def test_gaps_are_looked_for_at_five_places_between_known_bands():
    case = CASES["two bands"]
    solver = rough(case)
    low, high = case.outer()[1:3]  # of the gap
    assert solver.gap(1) is not None
    assert solver.gap(3) is None
    width = 12 * (high - low)
    for share in (0.5, 0.25, 0.75, 0.1, 0.9):
        start = 0.5 * (low + high) - share * width
        solver.__dict__["_plain_gaps"] = np.array([9.0, start]), np.array([9.5, start + width]), np.array([0.0, 1.0])
        assert low < solver.gap(1) < high
        assert solver.boundary(1) == solver.gap(1)
        assert solver.gap(2) is None
    # A share of its own from the ends, where z rises but another number of eigenvalues is above.
    solver.__dict__["_plain_gaps"] = np.array([2.0]), np.array([3.0]), np.array([1.0])
    assert solver.gap(1) is None


@pytest.mark.parametrize("name", ["two bands", "fewer than D", "with a Wigner matrix"])
def test_without_a_gap_a_boundary_is_the_point_with_so_many_above(name):
    solver = rough(CASES[name])
    nothing = np.empty(0)
    solver.__dict__["_plain_gaps"] = nothing, nothing, nothing
    u = solver.boundary(1)
    assert solver.count_above(u) == pytest.approx(1, abs=1e-9)


def test_upper_edges(case):
    edge = rough(case).upper_edge()
    assert edge == pytest.approx(case.outer()[-1], rel=1e-12)


def test_counts_beyond_the_spectrum():
    solver = rough(CASES["more than D"])
    assert solver.count_above(-0.5 + 0j) == CASES["more than D"].rank
    assert solver.count_above(0j) == CASES["more than D"].rank
    assert solver.count_above(5.0 + 0j) == 0
    assert solver.quantiles(np.array([0.99999]) * solver.rank)[0] >= 0


def test_outside_the_spectrum_newtons_method_on_the_axis_is_enough(case, monkeypatch):
    solver = rough(case)
    for x in (1.3 * float(case.map(case.outer()[-1])), 40.0):
        start = case.solution(complex(x)).real
        u = solver._real_newton(1.01 * start, x)
        assert u == pytest.approx(start, rel=1e-9)
    # Where there is no value, or map falls, there is nothing to be found.
    assert solver._real_newton(0.0, 40.0) is None
    assert solver._real_newton(math.inf, 40.0) is None
