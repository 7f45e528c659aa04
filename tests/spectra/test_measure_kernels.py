"""Kernels of dense spectra and of tails as plain Python, against eigendecompositions and definitions."""

import numpy as np
import pytest

from rmtland.spectra import measure, tails
from tests.plain_kernels import plain_kernels


@pytest.fixture
def plain(monkeypatch):
    return plain_kernels(measure, monkeypatch)


def tridiagonal(diagonal, off_diagonal):
    return np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)


@pytest.mark.parametrize("unit", [1.0, 1e-160, 1e200, 5e-310])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_eigenvalues_and_components_of_a_tridiagonal_matrix(plain, unit, size):
    rng = np.random.default_rng(size)
    diagonal, off_diagonal = rng.normal(size=size), rng.normal(size=size)
    if size == 8:
        off_diagonal[3] = 1e-17  # two blocks but for rounding
        off_diagonal[5] = 0.0
    row = rng.normal(size=size)
    matrix = tridiagonal(diagonal, off_diagonal[:-1])
    values, vectors = np.linalg.eigh(matrix)
    found, others, mine = diagonal * unit, off_diagonal * unit, row.copy()
    others[-1] = 0
    assert plain.implicit_ql(found, others, mine)
    order = np.argsort(found)
    tolerance = 1e-14 if unit != 5e-310 else 1e-13
    np.testing.assert_allclose(
        found[order] / unit, values, rtol=0, atol=100 * tolerance if unit < 1e-300 else tolerance
    )
    np.testing.assert_allclose(mine[order] ** 2, (row @ vectors) ** 2, atol=1e-11)


def test_what_is_no_number_does_not_converge_and_zeros_do(plain):
    for diagonal, off_diagonal in (([1.0, np.nan], [1.0, 0.0]), ([1.0, 2.0], [np.inf, 0.0])):
        assert not plain.implicit_ql(np.array(diagonal), np.array(off_diagonal), np.ones(2))
    zeros = np.zeros(3)
    assert plain.implicit_ql(zeros, np.zeros(3), np.ones(3))
    assert not zeros.any()


def test_an_entry_within_rounding_of_the_norm_is_left(plain):
    # 2.2e-16 of the largest entry: one below it parts the matrix, one above is rotated away.
    for entry, is_left in ((2.0e-16, True), (2.4e-16, False)):
        row = np.array([1.0, 0.0])
        diagonal = np.array([1.0, 1.0])
        assert plain.implicit_ql(diagonal, np.array([entry, 0.0]), row)
        assert (row == [1.0, 0.0]).all() == is_left
    # Of the diagonal or beside it.
    row = np.array([1.0, 0.0, 0.0, 0.0])
    assert plain.implicit_ql(np.array([1.0, 1.0, 0.0, 0.0]), np.array([3e-16, 0.0, 8.0, 0.0]), row)
    assert row[0] == 1


def test_there_may_be_nothing_to_rotate_away(plain):
    # Eigenvalues 0, 0, 5/16: after one rotation the next would be of (1e-200, 0), whose squares are 0.
    found, others, row = np.array([0.0, 0.25, 0.0625]), np.array([1e-200, 0.125, 0.0]), np.array([1.0, 2.0, 3.0])
    values, vectors = np.linalg.eigh(tridiagonal(found, others[:-1]))
    expected = row @ vectors
    plain._iterate(found, others, row, 1e-199)
    order = np.argsort(found)
    np.testing.assert_allclose(found[order], values, atol=1e-16)
    assert row[order[2]] ** 2 == pytest.approx(expected[2] ** 2, rel=1e-14)
    assert row @ row == pytest.approx(14, rel=1e-14)


def test_sixty_steps_without_an_end_are_told(plain, monkeypatch):
    steps = []
    real = measure.math.copysign
    monkeypatch.setattr(measure.math, "copysign", lambda *args: steps.append(1) or real(*args))
    with np.errstate(all="ignore"):
        assert not plain._iterate(np.array([1.0, 2.0]), np.array([0.5, 0.0]), np.ones(2), -1.0)
    assert len(steps) == 60


def test_shifts_make_it_converge_in_few_steps(plain, monkeypatch):
    steps = []
    real = measure.math.copysign
    monkeypatch.setattr(measure.math, "copysign", lambda *args: steps.append(1) or real(*args))
    for size in (2, 10, 40):
        rng = np.random.default_rng(size)
        assert plain.implicit_ql(rng.normal(size=size), np.append(rng.normal(size=size - 1), 0.0), np.ones(size))
    assert len(steps) <= 111


@pytest.mark.parametrize("size", [40, 200])
@pytest.mark.parametrize("ties", [False, True])
def test_the_start_of_a_tail_is_where_the_distance_is_least(size, ties):
    rng = np.random.default_rng(size)
    values = np.sort(rng.pareto(1.5, size) + 1 + rng.normal(size=size) ** 2)
    if ties:
        values = np.ceil(values * 4) / 4
    places = np.unique(np.searchsorted(values, values[: size - 10]))
    places = places[values[places] < values[-1]]

    def law(place):
        start, tail = values[place], values[place:]
        rate = tail.size / np.log(tail / start).sum()
        smaller = np.array([np.count_nonzero(tail < x) for x in tail]) / tail.size
        return np.abs(1 - (tail / start) ** -rate - smaller).max(), 1 + rate

    expected = [law(place) for place in places]
    best = int(np.argmin([distance for distance, _ in expected]))
    for first in (0, 1):
        place, exponent, distance = tails._best_start.py_func(
            values, np.log(values), places[first : first + 1], np.log(values[places[first : first + 1]])
        )
        assert place == places[first]
        assert (distance, exponent) == pytest.approx(expected[first], rel=1e-10)
    for chosen in (places, places[::-1], places[best : best + 1]):
        place, exponent, distance = tails._best_start.py_func(values, np.log(values), chosen, np.log(values[chosen]))
        assert place == places[best]
        assert (distance, exponent) == pytest.approx(expected[best], rel=1e-10)
