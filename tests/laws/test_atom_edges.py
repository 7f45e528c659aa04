"""Edges of the solver for atoms as plain Python, against polynomials and grids."""

import numpy as np
import pytest

from rmtland.laws.atoms import edges
from tests.laws.atoms import CASES
from tests.plain_kernels import counted


def test_edges_are_where_the_height_vanishes(plain, case):
    every = case.outer()
    ends = plain.outer_crossings(case.t, case.a, case.deficit == 0)
    assert ends[1] == pytest.approx(every[-1], rel=1e-12)
    assert ends[0] == (0 if case.deficit == 0 else pytest.approx(every[0], rel=1e-7))
    assert plain.outer_crossings(case.t, case.a, True) == (0.0, ends[1])
    found = plain.crossings(*ends, case.t, case.a, 1)
    assert found.shape[1] == 2
    np.testing.assert_allclose(found.ravel()[1:], every[1:], rtol=1e-7)
    np.testing.assert_array_equal(plain.crossings(*ends, case.t, case.a, 100), found)
    x, curvature = plain.edges(found.ravel(), *case.given)
    np.testing.assert_allclose(x, case.map(found.ravel()), rtol=1e-9, atol=1e-15)
    second = sum(2 * a / (found.ravel() - t) ** 3 for a, t in zip(case.a, case.t, strict=True))
    np.testing.assert_allclose(curvature, np.abs(second), rtol=1e-12)


def test_sums_over_a_range_of_atoms(plain):
    case = CASES["fewer than D"]
    for first, last in ((0, 3), (1, 3), (0, 2), (1, 2)):
        powers = [sum(case.a[first:last] / (0.7 - case.t[first:last]) ** k) for k in (2, 3, 4)]
        assert plain._sums(0.7, first, last, case.t, case.a) == pytest.approx(powers, rel=1e-13)


def lowest(first, last, k, t, a):
    """The least h over some atoms between the atoms k and k + 1."""
    grid = t[k] + (t[k + 1] - t[k]) * np.linspace(0, 1, 20002)[1:-1]
    return np.sum(a[first:last] / (grid[:, np.newaxis] - t[first:last]) ** 2, axis=1).min()


@pytest.mark.parametrize(("first_last", "few"), [((0, 6), 231), ((1, 5), 221), ((2, 4), 150)])
def test_a_valley_between_two_atoms_is_found_where_there_is_one(plain, first_last, few, monkeypatch):
    sums = counted(monkeypatch, edges, "_sums")
    taken = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(size=6))
        a = 10 ** rng.uniform(-4, 0, 6)
        a /= lowest(*first_last, 2, t, a)
        for height in (0.3, 0.9, 0.9999, 1.0001, 1.1, 3.0):
            del sums[:]
            u, is_open = plain._valley(2, *first_last, t, height * a)
            taken += len(sums)
            assert is_open == (height < 1)
            if is_open:
                assert t[2] < u < t[3]
                assert plain._sums(u, *first_last, t, height * a)[0] < 1
            if is_open and first_last == (0, 6):
                for k in (2, 3):
                    end = plain._crossing(u, t[k], height * a[k], t, height * a)
                    assert plain._sums(end, 0, 6, t, height * a)[0] == pytest.approx(1, rel=1e-9)
                    assert min(u, t[k]) < end < max(u, t[k])
    assert taken <= few


@pytest.mark.parametrize("window", [1, 2, 9])
def test_gaps_are_looked_at_with_as_few_atoms_as_will_do(plain, window, monkeypatch):
    valleys = counted(monkeypatch, edges, "_valley")
    for seed in range(12):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(size=8))
        a = 10 ** rng.uniform(-3, 0, 8)
        a *= 10 ** rng.uniform(-1, 1) / np.median([lowest(0, 8, k, t, a) for k in range(7)])
        expected, ends = [], []
        for k in range(7):
            near = max(k - window, 0), min(k + 2 + window, 8)
            alone, windowed, whole = (lowest(*part, k, t, a) for part in ((k, k + 2), near, (0, 8)))
            assert min(abs(x - 1) for x in (alone, windowed, whole)) > 1e-4
            if alone < 1:
                expected.append((k, *near))
            if windowed < 1:
                expected.append((k, 0, 8))
            if whole < 1:
                grid = np.linspace(t[k], t[k + 1], 4001)[1:-1]
                h = np.sum(a / (grid[:, np.newaxis] - t) ** 2, axis=1)
                ends += [grid[h < 1][0], grid[h < 1][-1]]
        del valleys[:]
        found = plain.crossings(-9.0, 9.0, t, a, window)
        assert [call[:3] for call in valleys] == expected
        assert found.shape == (1 + len(ends) // 2, 2)
        np.testing.assert_allclose(found.ravel(), [-9.0, *ends, 9.0], atol=1e-3)


def test_edges_take_few_sums(plain, monkeypatch):
    sums = counted(monkeypatch, edges, "_sums")
    taken = {}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        t = np.sort(rng.uniform(size=12))
        a = (10 ** rng.uniform(-2, 0, 12) * np.diff(t).min()) ** 2 * 10 ** (seed / 10)
        spread = np.sqrt(a.sum())
        plain.outer_crossings(t, a, False)
        taken["outer"] = taken.get("outer", 0) + len(sums)
        del sums[:]
        for window in (2, 20):
            plain.crossings(t[0] - spread, t[-1] + spread, t, a, window)
            taken[window] = taken.get(window, 0) + len(sums)
            del sums[:]
    today = {"outer": 944, 2: 7849, 20: 7860}
    assert all(taken[name] <= 1.02 * number for name, number in today.items()), taken


def test_a_crossing_nearer_to_its_atom_than_rounding(plain):
    # Alone the atom's edge is at its place; where another keeps h up, the crossing is found further out.
    t = np.array([0.5, 0.5 + 1e-3])
    assert plain._crossing(0.4, 0.5, 1e-40, t, np.array([1e-40, 1e-12])) == 0.5
    a = np.array([1e-40, 4e-6])
    found = plain._crossing(0.3, 0.5, 1e-40, t, a)
    assert found == pytest.approx(0.5 - 1e-3, rel=1e-12)
    assert plain._crossing(0.7, t[1], a[1], t, a) == pytest.approx(t[1] + 2e-3, rel=1e-12)
