"""Counts and quantiles of the solver for atoms as plain Python, against many digits."""

import mpmath as mp
import numpy as np
import pytest

from rmtland.laws.atoms import counts
from tests.laws.atoms import CASES, exact_point
from tests.plain_kernels import counted

ANGLES = [1e-8, 1e-3, 0.03, 0.0996, 0.0999, 0.12, 0.5, 0.8, 1.2, np.pi / 2, 2.0, 3.0, np.pi - 1e-3]


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("length", [1.0, 1e-5, 300.0])
def test_an_angle_less_its_sine_times_its_cosine(plain, angle, length):
    opposite, adjacent = length * np.sin(angle), length * np.cos(angle)
    with mp.workdps(50):
        x = mp.atan2(opposite, adjacent)
        expected = x - mp.sin(x) * mp.cos(x)
    assert plain.excess(opposite, adjacent) == pytest.approx(float(expected), rel=2e-14, abs=0)
    assert plain.excess(0.0, length) == 0


@pytest.mark.parametrize("first", [1e-6, 0.01, 0.4, 1.0, 2.0])
@pytest.mark.parametrize("step", [1e-9, 1e-3, 0.1, 0.19, 0.21, 0.6, 1.0])
def test_rises_of_a_ratio_of_angles(plain, first, step):
    with mp.workdps(50):
        f = lambda x: (x - mp.sin(x) * mp.cos(x)) / mp.sin(x) ** 2  # noqa: E731
        expected = f(mp.mpf(first) + mp.mpf(step)) - f(mp.mpf(first))
    assert plain.rise(first, step) == pytest.approx(float(expected), rel=3e-9, abs=0)


@pytest.mark.parametrize("share", [1e-8, 1e-3, 0.1, 0.5, 0.9])
def test_counts_between_the_edges(plain, case, share):
    ends = np.array(plain.outer_crossings(case.t, case.a, case.deficit == 0))
    low, high = plain.edges(ends, *case.given)[0]
    x = low + share * (high - low)
    u, above = exact_point(case, x)
    point = complex(u)
    if u.imag == 0:  # in a gap the sum of the weights above
        above = case.w[case.t > u.real].sum()
    assert plain.count_above(point, case.t, case.w, case.dimension) == pytest.approx(float(above), rel=1e-10)
    below = float(case.rank - above)
    found = plain.count_below(point, case.t, case.w, case.dimension, case.rank)
    assert found == pytest.approx(below, rel=1e-7, abs=1e-13 if case.variance else 0)
    above_many, below_many = plain.counts(np.array([point, point]), case.t, case.w, case.dimension, case.rank)
    np.testing.assert_allclose(above_many, float(above), rtol=1e-7)
    np.testing.assert_allclose(below_many, below, rtol=1e-7, atol=1e-13 if case.variance else 0)


def test_counts_in_gaps_are_sums_of_weights(plain, case):
    for r, number in ((-1.0, case.dimension), (case.t[-1] + 1, 0.0), (case.t[-1], 0.0), (case.t[0], case.w[1:].sum())):
        assert plain.count_above(complex(r), case.t, case.w, case.dimension) == number
    if not case.variance:
        assert (
            plain.count_below(complex(0.5 * case.t[0]), case.t, case.w, case.dimension, case.rank)
            == case.rank - case.w.sum()
        )
    u = np.array([case.t[-1] + 1 + 0j])
    assert [x[0] for x in plain.counts(u, case.t, case.w, case.dimension, case.rank)] == [0, case.rank]


def test_the_lower_tail_is_counted_from_below(plain, monkeypatch):
    case = CASES["fewer than D"]
    seen = []
    monkeypatch.setattr(counts, "count_below", lambda *args: seen.append(args[0]) or 0.125)
    monkeypatch.setattr(counts, "count_above", lambda u, *args: u.real)
    u = np.array([5.69 + 1j, 5.71 + 1j, 1 + 1j])  # a twentieth of 6 is 0.3
    above, below = plain.counts(u, case.t, case.w, case.dimension, case.rank)
    assert seen == [5.71 + 1j]
    np.testing.assert_allclose(above, [5.69, 5.875, 1])
    np.testing.assert_allclose(below, [0.31, 0.125, 5])


@pytest.mark.parametrize("from_above", [True, False])
@pytest.mark.parametrize("many", [3, 40])
def test_quantiles_have_so_many_eigenvalues_beyond_them(plain, case, from_above, many, monkeypatch):
    goals = case.rank * np.concatenate([[1e-6], (np.arange(many) + 0.5) / many])
    ends = plain.outer_crossings(case.t, case.a, case.deficit == 0)
    calls = counted(monkeypatch, counts, "height")
    x = plain.quantiles(goals, from_above, *ends, *case.given, case.w, case.dimension, case.rank)
    assert np.all(np.diff(x) < 0) if from_above else np.all(np.diff(x) > 0)
    for goal, value in zip(goals, x, strict=True):
        above = exact_point(case, value)[1]
        number = float(above if from_above else case.rank - above)
        assert number == pytest.approx(goal, rel=1e-7)
    assert len(calls) <= (6 if many == 40 else 20) * goals.size


def test_one_quantile_and_its_rate(plain, case):
    ends = plain.outer_crossings(case.t, case.a, case.deficit == 0)
    given = (*case.given, case.w, case.dimension, case.rank)
    for goal in 0.3 * case.rank, 0.77 * case.rank:
        for from_above in (True, False):
            x, r, v, rate = plain._quantile(goal, from_above, 0.5 * sum(ends), 0.0, *ends, *given)
            u = case.solution(complex(x))
            assert abs(complex(r, v) - u) <= 1e-6 * abs(u)
            above = exact_point(case, x)[1]
            assert float(above if from_above else case.rank - above) == pytest.approx(goal, rel=1e-12)
            # d count/dx = (D / pi) Im(-1 / u) in absolute value, as the count falls along dr = dx / map'.
            ahead = abs(plain._quantile(goal * (1 + 1e-5), from_above, r, v, *ends, *given)[1] - r)
            assert rate == pytest.approx(1e-5 * goal / ahead, rel=1e-3)


def test_quantiles_take_few_steps(plain, monkeypatch):
    heights = counted(monkeypatch, counts, "height")
    taken = {}
    for case in CASES.values():
        ends = plain.outer_crossings(case.t, case.a, case.deficit == 0)
        given = (*case.given, case.w, case.dimension, case.rank)
        for many in (3, 15, 60):
            for from_above in (True, False):
                plain.quantiles(case.rank * (np.arange(many) + 0.5) / many, from_above, *ends, *given)
                name = many, from_above
                taken[name] = taken.get(name, 0) + len(heights)
                del heights[:]
    today = {(3, True): 145, (3, False): 162, (15, True): 473, (15, False): 630, (60, True): 1916, (60, False): 1723}
    assert all(taken[name] <= 1.02 * number for name, number in today.items()), taken


def test_quantiles_of_levels_in_a_gap_are_an_edge_of_it(plain):
    case = CASES["two bands"]
    ends = plain.outer_crossings(case.t, case.a, False)
    edge = plain.edges(plain.crossings(*ends, case.t, case.a, 9).ravel(), *case.given)[0]
    given = (*ends, *case.given, case.w, case.dimension, case.rank)
    goals = np.array([0.4, 1.0, 1.7])
    above, below = plain.quantiles(goals, True, *given), plain.quantiles(goals, False, *given)
    assert edge[1] * (1 - 1e-6) <= above[1] <= edge[2] * (1 + 1e-6)
    assert edge[1] * (1 - 1e-6) <= below[1] <= edge[2] * (1 + 1e-6)
    assert edge[0] < above[2] < edge[1] < edge[2] < above[0] < edge[3]
    assert edge[0] < below[0] < edge[1] < edge[2] < below[2] < edge[3]
