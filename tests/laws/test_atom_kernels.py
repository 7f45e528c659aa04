"""Kernels of the solver for atoms as plain Python, against polynomials, searches and many digits."""

import itertools

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import brentq

from rmtland.laws.atoms import kernels
from tests.laws.atoms import CASES, Atoms, digits
from tests.plain_kernels import counted

POINTS = [0.7 + 0.2j, -0.3 + 1e-3j, 2.0 + 5j, 0.05 + 0.5j, 0.01 + 0.02j]


@pytest.mark.parametrize("u", [*POINTS, 1e-9 + 1e-9j, 0.03j, 1e-14 + 3e-12j])
def test_the_map_and_its_slope(plain, case, u):
    value, slope = plain.evaluate(u.real, u.imag, *case.given)
    expected, rate = digits(case, u)
    assert abs(value - complex(expected)) <= 1e-13 * abs(expected)
    assert abs(slope - complex(rate)) <= 1e-14 * (1 + abs(rate))


@pytest.mark.parametrize("r", [-0.5, 1e-9, -1e-12, 0.02, 0.7, 3.0])
def test_the_map_of_real_points(plain, case, r):
    value, slope = plain.evaluate_real(r, *case.given)
    expected, rate = digits(case, r)
    assert value == pytest.approx(float(expected), rel=1e-13, abs=0)
    assert slope == pytest.approx(float(rate), rel=1e-13, abs=1e-14)


def test_the_edge_of_a_lone_atom_nearer_than_rounding(plain):
    # Its own edge is at t + sqrt(a), which rounds to t: map is t + b + 2 sqrt(a) there, flat.
    lone = Atoms([0.5], [1e-36], 1)
    assert np.sqrt(lone.a[0]) + 0.5 == 0.5
    assert plain.evaluate_real(0.5, *lone.given) == pytest.approx((0.5, 0.0), rel=1e-15, abs=1e-15)
    # With a weight that does not vanish beside the sum: sum b q = c t / sqrt(c t^2) = sqrt(c).
    lone = Atoms([0.5], [0.04], 1)
    assert plain.evaluate_real(0.5, *lone.given) == pytest.approx((0.5 * (1 + 0.2), 0.0), rel=1e-15, abs=1e-15)
    assert plain._sums(0.5, 0, 1, lone.t, lone.a) == pytest.approx((1.0, 10.0, 100.0))


@pytest.mark.parametrize("r", [-0.1, 0.0, 0.15, 0.2, 0.4, 1.0, 1.2, 3.0])
@pytest.mark.parametrize("guess", [0.0, 1e-4, 0.3, 100.0])
def test_the_height_of_the_curve(plain, case, r, guess, monkeypatch):
    if r > 0:
        h, slope = plain.height_sums(r, 0.09, case.t, case.a)
        assert h == pytest.approx(case.h(r, 0.09), rel=1e-14)
        assert slope == pytest.approx((case.h(r, 0.09 - 1e-5) - case.h(r, 0.09 + 1e-5)) / 2e-5, rel=1e-6)
    calls = counted(monkeypatch, kernels, "height_sums")
    assert plain.height(r, guess, case.t, case.a) == pytest.approx(case.height(r), rel=1e-12, abs=0)
    assert len(calls) <= 12


@pytest.mark.parametrize("ratio", [1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("guess", [0.0, 1e-15, 1.0])
def test_heights_where_atoms_of_very_different_size_compete(plain, ratio, guess, monkeypatch):
    calls = counted(monkeypatch, kernels, "height_sums")
    many = Atoms(ratio ** np.linspace(1, 0, 7), np.full(7, 2), 10)
    for r in [0.5 * ratio, *many.t, *(1.1 * many.t), 3.0]:
        del calls[:]
        assert plain.height(r, guess, many.t, many.a) == pytest.approx(many.height(r), rel=1e-10, abs=0)
        assert len(calls) <= 25


@pytest.mark.parametrize("r", [-1.0, 0.1, 0.45, 1.0, 2.5])
@pytest.mark.parametrize("eta", [1e-9, 1e-3, 0.2, 3.0])
@pytest.mark.parametrize("guess", [0.0, 0.3, 50.0])
def test_heights_off_the_axis(plain, case, r, eta, guess, monkeypatch):
    calls = counted(monkeypatch, kernels, "height_sums")
    v = plain.height_off_axis(r, eta, guess, eta + case.spread, case.t, case.a)
    low, high = case.height(r), eta + case.spread
    exact = brentq(
        lambda x: x * (1 - case.h(r, x * x)) - eta, max(low, 1e-300), high * (1 + 1e-9), xtol=1e-300, rtol=1e-15
    )
    assert v == pytest.approx(exact, rel=1e-10)
    assert len(calls) <= 80


GRID = np.array([-0.3, -0.05, 0.02, 0.13, 0.35, 0.61, 0.97, 1.4, 2.2, 3.6, 6.0])


@pytest.mark.parametrize("guess", [0.5 + 0.3j, 1e9 + 0j])
def test_a_climb_ends_at_the_root_of_the_right_branch(plain, case, guess):
    outer = case.outer()
    for x in GRID:
        expected = case.solution(complex(x))
        low, high = outer[0] - 10, outer[-1] + 10
        u, slope = plain.climb(x, 0.0, low, high, guess, *case.given)
        if expected.imag == 0 and not (u.real < outer[0] or u.real > outer[-1]):
            continue
        assert abs(u - expected) <= 1e-6 * abs(expected)
        assert abs(slope - case.slope(u)) <= 1e-5 * abs(slope)
        assert abs(case.map(u) - x) <= 1e-7 * max(1, abs(x))
        for eta in (1e-3, 0.5):
            expected = case.solution(complex(x, eta))
            low, high = x - case.b.sum() - case.spread - 1e-9, x - case.b.sum() + case.spread + 1e-9
            u, slope = plain.climb(x, eta, low, high, guess, *case.given)
            assert abs(u - expected) <= 1e-11 * abs(expected)
            assert abs(slope - case.slope(expected)) <= 1e-9 * abs(slope)


def test_a_point_is_on_the_curve_to_a_thousandth_of_its_height(plain, case):
    for x in GRID:
        u = case.solution(complex(x))
        if u.imag > 0:
            r, v = u.real, case.height(u.real)
            for off in (-4.9e-4, -1e-5, 0.0, 1e-5, 4.9e-4):
                assert plain.on_curve(complex(r, v * (1 + off)), case.t, case.a)
            for off in (-0.5, -6e-4, 6e-4, 0.5, 5.0):
                assert not plain.on_curve(complex(r, v * (1 + off)), case.t, case.a)


@pytest.mark.parametrize("z", [0.5 + 0.4j, 3 + 1e-3j, -0.2 + 2j])
def test_newtons_method_ends_in_the_upper_half_plane(plain, case, z):
    expected = case.solution(z)
    for start in (expected * 1.01, expected + 0.05j, expected + 0.3 * expected.imag):
        u, slope, done = plain.newton(z, start, *case.given)
        assert done
        assert abs(u - expected) <= 1e-13 * abs(expected)
        assert abs(slope - case.slope(expected)) <= 1e-7 * abs(slope)


def test_newtons_method_says_where_it_gives_up(plain, monkeypatch):
    one = Atoms([1.0], [1], 4)
    # map' vanishes at t +- sqrt(a) = 1.5, and there is no value at t itself.
    for start in (1.5 + 0j, 1 + 0j):
        u, _, done = plain.newton(1.0 + 0j, start, *one.given)
        assert (u, done) == (start, False)
    calls = counted(monkeypatch, kernels, "evaluate")
    # Above 50 there is no spectrum, so no root in the upper half plane.
    assert not plain.newton(50.0 + 0j, 1 + 1j, *one.given)[2]
    assert len(calls) == 12
    heights = [v for _, v, *_ in calls]
    assert any(b == pytest.approx(0.1 * a, rel=1e-15) for a, b in itertools.pairwise(heights))
    assert min(heights) > 0


@pytest.mark.parametrize("step", [0.05, 1.0])
def test_solutions_at_real_points(plain, case, step):
    # Close points follow each other by Newton's method, distant ones by climbs.
    u_low, u_high = plain.outer_crossings(case.t, case.a, case.deficit == 0)
    low, high = (plain.edges(np.array([u_low, u_high]), *case.given)[0]).tolist()
    x = np.concatenate([[low + 1e-9 * high], np.arange(low + 0.3 * step, high, step), [high - 1e-6 * high]])
    u = plain.solve_real(x, u_low, u_high, *case.given)
    for j, value in enumerate(x):
        expected = case.solution(complex(value))
        if expected.imag > 0:
            assert abs(u[j] - expected) <= 1e-5 * abs(expected)
        assert abs(case.map(u[j]) - value) <= 3e-8 * max(1, case.spread, abs(value))
        assert case.h(u[j].real, u[j].imag ** 2) <= 1 + 1e-4 or abs(u[j]) < 1e-3
    assert np.all(np.diff(u.real) >= -1e-14)


def test_a_polished_solution_that_went_elsewhere_is_not_taken(plain, monkeypatch):
    case = CASES["one"]
    x = np.array([1.0])
    u_low, u_high = plain.outer_crossings(case.t, case.a, False)
    right = plain.solve_real(x, u_low, u_high, *case.given)[0]
    for off, taken in ((9e-4j, True), (-9e-4, True), (1.1e-3j, False), (0.5, False), (-0.5j, False)):
        found = right + off * right.imag
        monkeypatch.setattr(kernels, "newton", lambda *args, found=found: (found, 1 + 0j, True))
        near = plain.solve_real(x, u_low, u_high, *case.given)[0]
        assert abs(near - (found if taken else right)) <= 1e-7 * abs(right)
    monkeypatch.setattr(kernels, "newton", lambda *args: (right * (1 + 1e-5j), 1 + 0j, False))
    assert abs(plain.solve_real(x, u_low, u_high, *case.given)[0] - right) <= 1e-7 * abs(right)


def test_a_neighbour_that_went_elsewhere_is_not_taken(plain, monkeypatch):
    case = CASES["two bands"]
    ends = plain.outer_crossings(case.t, case.a, False)
    x = np.array([1.0, 1.01])
    right = plain.solve_real(x, *ends, *case.given)
    # A root left of the last one, one beyond the last edge, one off the curve: each is refused, and climbed instead.
    for wrong in (complex(right[0].real - 0.1, right[1].imag), complex(ends[1] + 0.1, 0.1), right[1] * 1.1):
        answers = [(right[0], 1 + 0j, True), (wrong, 1 + 0j, True)]
        monkeypatch.setattr(
            kernels, "newton", lambda *args, answers=answers: answers.pop(0) if answers else (0j, 1 + 0j, False)
        )
        np.testing.assert_allclose(plain.solve_real(x, *ends, *case.given), right, rtol=1e-7)
        assert not answers


@pytest.mark.parametrize("eta", [0.0, 1e-4, 0.3, 20.0])
def test_solutions_anywhere(plain, case, eta):
    outer = [x for x in GRID if case.solution(complex(x)).imag > 0 or abs(x) > 2]
    z = np.repeat(np.array(outer), 2) + 1j * eta
    z[1::2] += 0.1 * eta
    for given in (z, z[::-1], 100 * z):
        u = plain.solve_complex(given, *case.given)
        for value, point in zip(given, u, strict=True):
            expected = case.solution(value)
            if expected.imag > 0:
                assert abs(point - expected) <= (1e-11 if eta else 1e-5) * abs(expected)
            assert abs(case.map(point) - value) <= 3e-8 * max(1, abs(value))


def test_solvers_take_few_sums_over_the_atoms(plain, monkeypatch):
    # Whatever makes a search go a longer way shows here; the numbers are those that the searches take today.
    sums, heights = counted(monkeypatch, kernels, "height_sums"), counted(monkeypatch, kernels, "height")
    taken = {}
    for case in [*CASES.values(), Atoms(1e-6 ** np.linspace(1, 0, 7), np.full(7, 2), 10)]:
        spread = case.spread
        for r in (-0.1, 1e-7, 0.15, 0.4, 1.01):
            for guess in (0.0, 1e-4, 0.3, 100.0):
                plain.height(r, guess, case.t, case.a)
            taken["heights"] = taken.get("heights", 0) + len(sums)
            del sums[:]
            known = case.height(r)
            plain.height(r, known, case.t, case.a)
            taken["known heights"] = taken.get("known heights", 0) + len(sums)
            del sums[:]
            for eta in (1e-9, 1e-3, 0.3):
                for guess in (0.0, 0.2, 50.0):
                    plain.height_off_axis(r, eta, guess, eta + spread, case.t, case.a)
            taken["off the axis"] = taken.get("off the axis", 0) + len(sums)
            del sums[:], heights[:]
            for guess in (complex(r, known), 0.5 + 0.3j, 1e9 + 0j):
                plain.climb(case.map(complex(r, known or 1e-3)).real, 0.0, -3.0, 4.0, guess, *case.given)
            taken["climbs"] = taken.get("climbs", 0) + len(heights)
            del sums[:]
    for c, step in (
        (0.3, 1000),
        (1, 1000),
        (0.6, 100),
    ):  # atoms of many sizes, each of which would be the one to follow
        case = Atoms(step ** -np.arange(9.0, -1, -1), np.full(10, c), 1)
        for r in (1e-30, 0.5 * case.t[0], 1.3 * case.t[3], 0.6 * case.t[6], 1.0):
            for guess in (0.0, 1e-4, 1.0, 100.0):
                found = plain.height(r, guess, case.t, case.a)
                assert found == pytest.approx(case.height(r), rel=1e-9)
    taken["many sizes"] = len(sums)
    today = {"many sizes": 687, "heights": 470, "known heights": 45, "off the axis": 8404, "climbs": 765}
    assert all(taken[name] <= 1.02 * number for name, number in today.items()), taken


def test_neighbouring_solutions_take_few_sums(plain, monkeypatch):
    sums, heights = counted(monkeypatch, kernels, "evaluate"), counted(monkeypatch, kernels, "height_sums")
    taken = {}
    for case in CASES.values():
        ends = plain.outer_crossings(case.t, case.a, case.deficit == 0)
        low, high = plain.edges(np.array(ends), *case.given)[0]
        for name, count in (("close", 300), ("far", 12)):
            plain.solve_real(np.linspace(low, high, count + 2)[1:-1], *ends, *case.given)
            taken[name] = taken.get(name, 0) + len(sums) + len(heights)
            del sums[:], heights[:]
        for name, eta in (("beside each other", 0.05), ("one by one", 1e-3), ("on the axis", 0.0)):
            plain.solve_complex(np.linspace(low, high, 60) + 1j * eta, *case.given)
            taken[name] = taken.get(name, 0) + len(sums) + len(heights)
            del sums[:], heights[:]
        plain.solve_complex((np.linspace(low, high, 60) + 1j) * 30, *case.given)
        taken["far away"] = taken.get("far away", 0) + len(sums) + len(heights)
        del sums[:], heights[:]
    today = {
        "close": 8023,
        "far": 541,
        "beside each other": 5884,
        "one by one": 29842,
        "on the axis": 6738,
        "far away": 1254,
    }
    assert all(taken[name] <= 1.02 * number for name, number in today.items()), taken


@pytest.mark.parametrize("x", [1e-28, 1e-16, 1e-11, 3e-9, 1e-6])
def test_solutions_at_a_hard_edge_have_all_their_digits(plain, x):
    case = CASES["as many as D"]
    weights = [mp.mpf(w) / 10 for w in case.w]
    with mp.workdps(60):
        t = [mp.mpf(v) for v in case.t]
        # u sum c u / (u - t) = x, u = i sqrt(x / sum c / t) to first order.
        start = 1j * mp.sqrt(x / sum(c / v for c, v in zip(weights, t, strict=True)))
        exact = mp.findroot(lambda u: u * sum(c * u / (u - v) for c, v in zip(weights, t, strict=True)) - x, start)
    for before in ([], [0.5 * x], [1e-3 * x, 0.999 * x]):
        given = np.array([*before, x])
        found = plain.solve_real(given, 0.0, plain.outer_crossings(case.t, case.a, True)[1], *case.given)[-1]
        assert abs(found.imag / float(exact.imag) - 1) <= 1e-12
        assert abs(found - complex(exact)) <= 1e-12 * abs(exact)
