"""When restarted Lanczos looks at its Ritz values, restarts and ends, by processes whose residuals are made up."""

import numpy as np
import pytest

from rmtland.spectra import eigenpairs
from rmtland.spectra._restarted import Budget, Goal, RestartedLanczos
from rmtland.spectra.eigenpairs import ORDERS, _basis_size, _missed, collected
from rmtland.spectra.operators import SymmetricOperator

GOAL = Goal(ORDERS["largest"], 2, 1e-3)  # of values of 1: residuals of 1e-3 are converged


class Process(RestartedLanczos):
    """Of two pairs whose residuals fall by these factors with each product, from 1."""

    def __init__(self, dimension, capacity, limit, factors):
        operator = SymmetricOperator(None, dimension, np.zeros(0))
        super().__init__(operator, np.broadcast_to(0.0, (capacity + 1, dimension)), 0, None, Budget(limit))
        self.factors, self.looked, self.kept = np.array(factors), [], []

    def step(self):
        self.size += 1
        self.budget.done += 1

    def ritz(self):
        self.looked.append(self.size)
        return np.ones(2), self.factors**self.budget.done, None

    def restart(self, order, keep):
        assert order is GOAL.order
        self.kept.append(keep)
        self.size = keep

    def go(self, at_least=2, wanted=lambda values: np.arange(2)):
        return self.run(GOAL, wanted, at_least)


def test_of_long_vectors_each_step_is_looked_at():
    process = Process(10**6, 10, 100, [0.5, 0.6])
    assert process.go()
    assert process.looked == [*range(2, 11), 7, 8, 9, 10]
    assert process.kept == [6]  # the wanted ones and half of the others
    assert process.budget.done == 14  # 0.6^14 < 1e-3 < 0.6^13
    assert process.converged_after.tolist() == [10, 14]  # 0.5^10 < 1e-3 < 0.5^9


def test_of_short_vectors_looks_are_half_of_what_is_left_apart():
    """0.9^66 < 1e-3 < 0.9^65: at most a fifth of the steps done, from where a look costs more than a step."""
    process = Process(100, 90, 200, [0.5, 0.9])
    assert process.go()
    sizes = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 19, 22, 26, 31, 37, 44, 52, 58, 61, 63, 64, 65, 66]
    assert process.looked == sizes
    assert process.kept == []
    shorter = Process(100, 40, 200, [0.5, 0.9])
    assert shorter.go()
    assert shorter.kept == [2 + 19, 2 + 19]
    assert shorter.looked[: sizes.index(37) + 2] == [*sizes[: sizes.index(37) + 1], 40]
    assert shorter.looked[sizes.index(37) + 2] == 22  # the first after a restart
    assert 66 <= shorter.budget.done <= 68


@pytest.mark.parametrize(("capacity", "kept"), [(2, 1), (3, 2), (4, 3), (5, 3), (20, 11)])
def test_what_a_restart_keeps_leaves_room_for_a_step(capacity, kept):
    process = Process(10**6, capacity, capacity + 3, [1.0, 1.0])
    assert not process.go()
    assert set(process.kept) == {kept}
    assert process.budget.done == capacity + 3


def test_it_ends_with_the_budget_and_not_before_so_many_steps():
    process = Process(10**6, 10, 10, [1.0, 1.0])
    assert not process.go()
    assert (process.budget.done, process.kept) == (10, [])
    process = Process(10**6, 10, 100, [0.0, 0.0])
    assert process.go(at_least=4)
    assert process.looked == [4]
    process = Process(10**6, 5, 100, [0.0, 0.0])
    assert process.go(at_least=9)  # more than it has room for
    assert process.looked == [5]
    process = Process(10**6, 10, 100, [1.0, 1.0])
    assert process.go(at_least=3, wanted=lambda values: np.empty(0, dtype=int))
    assert process.looked == [3]
    process = Process(10**6, 10, 12, [1.0, 1.0])
    assert not process.go(at_least=8)
    assert process.looked == [8, 9, 10, 7, 8]


def test_converged_since_the_last_time_that_it_was_not():
    process = Process(10, 5, 100, [1.0, 1.0])
    for done, converged, since in (
        (5, [True, False], [5, -1]),
        (7, [True, True, False], [5, 7, -1]),
        (9, [False, True], [-1, 7]),
        (11, [True, True], [11, 7]),
    ):
        process.budget.done = done
        process._note(np.array(converged))
        assert process.converged_after.tolist() == since


@pytest.mark.parametrize("size", range(8))
def test_orders_of_what_is_wanted(size):
    values = np.random.default_rng(size).permutation(np.arange(size) - 2.5)
    left, taken = sorted(values), []
    while left:
        taken.append(left.pop() if len(taken) % 2 == 0 else left.pop(0))
    np.testing.assert_array_equal(values[ORDERS["both_ends"](values)], taken)
    np.testing.assert_array_equal(values[ORDERS["largest"](values)], sorted(values)[::-1])
    np.testing.assert_array_equal(values[ORDERS["smallest"](values)], sorted(values))
    np.testing.assert_array_equal(values[ORDERS["magnitude"](values)], sorted(values, key=lambda v: (-abs(v), 0)))


@pytest.mark.parametrize(("capacity", "most"), [(20, 2), (4, 2), (3, 1), (1, 1)])
def test_missed_are_those_wanted_more_than_one_that_is_known(capacity, most):
    process = Process(100, capacity, 100, [1.0, 1.0])
    candidates = np.array([3.0, 4.5, 4.007, 6.0, 4.0, 4.1])
    missed = _missed(GOAL, np.array([5.0, 4.0]), process)
    assert missed(candidates).tolist() == [3, 1][:most]  # largest first, of no more than are wanted
    assert missed(candidates[[0, 2, 4]]).tolist() == []  # the fourth is known, to its tolerance
    assert missed(candidates[[0, 5]]).tolist() == [1]
    assert missed(np.array([4.009])).tolist() == [0]  # twice the tolerance is 0.008
    ends = Goal(ORDERS["both_ends"], 3, 1e-3)  # of which the second largest is wanted least
    missed = _missed(ends, np.array([1.0, 5.0, 4.0]), process)
    assert missed(np.array([4.5])).tolist() == [0]
    assert missed(np.array([2.0])).tolist() == []
    assert missed(np.array([0.5])).tolist() == [0]


def test_pairs_are_held_against_the_tolerance_and_rounding():
    rows, budget = np.eye(4)[[2, 0, 1, 3]], Budget(100, 40)
    goal = Goal(ORDERS["largest"], 4, 1e-2)
    values, residuals, since = [2.0, 0.0, 1.0, 3.0], [0.019, 7.9e-8, 0.011, 1e-12], [7, -1, 3, -1]
    pairs = collected(rows, np.array(values), np.array(residuals), np.array(since), goal, 2.0, 5e-10, budget, True)
    assert pairs.eigenvalues.tolist() == [0.0, 1.0, 2.0, 3.0]
    np.testing.assert_array_equal(pairs.eigenvectors, rows[[1, 2, 0, 3]].T)
    assert pairs.residuals.tolist() == [7.9e-8, 0.011, 0.019, 8e-9]  # rounding is eight times the noise
    assert pairs.converged.tolist() == [True, False, True, True]  # 7.9e-8 < 16e-9 + 64e-9
    assert pairs.converged_after.tolist() == [40, -1, 7, 40]
    assert (pairs.num_products, pairs.multiplicity_checked) == (40, True)
    worse = collected(rows, np.array(values), np.full(4, 8.1e-8), np.array(since), goal, 2.0, 5e-10, budget, False)
    assert worse.converged.tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("dimension", "k", "asked", "vectors", "size"),
    [
        (10**4, 3, None, 10**6, 172),
        (10**4, 3, None, 30, 30),
        (10**4, 3, None, 10, 22),
        (50, 3, None, 10**6, 50),
        (10**4, 3, 6, 0, 6),
        (50, 3, 90, 0, 50),
        (5, 3, 5, 0, 5),
    ],
)
def test_a_basis_takes_a_quarter_of_the_memory_at_most(dimension, k, asked, vectors, size, monkeypatch):
    monkeypatch.setattr(eigenpairs, "available_memory", lambda: 4 * vectors * dimension * 8)
    assert _basis_size(SymmetricOperator(None, dimension, np.zeros(0)), k, asked) == size
    if asked == 6:
        with pytest.raises(ValueError, match="`basis_size` must be >= 6; got 5"):
            _basis_size(SymmetricOperator(None, dimension, np.zeros(0)), k, 5)
