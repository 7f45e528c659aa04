"""When restarted Lanczos looks at its Ritz values, restarts and ends, by processes whose residuals are made up."""

import numpy as np
import pytest

from rmtland.spectra._restarted import Budget, Goal, RestartedLanczos, _steps_to_go
from rmtland.spectra.eigenpairs import ORDERS
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


@pytest.mark.parametrize(("capacity", "kept"), [(3, 2), (4, 3), (5, 3), (20, 11)])
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


@pytest.mark.parametrize(
    ("before", "now", "steps"),
    [
        (None, (100, 1e4), 10),
        (None, (5, 1e4), 1),
        ((90, 1e6), (100, 1.1e4), 10),  # two decades in ten steps, four to go
        ((80, 1e6), (100, 1.1e4), 20),
        ((70, 1e6), (100, 1e4), 20),  # a fifth at most
        ((20, 1e6), (30, 1e4), 6),
        ((90, 1e8), (100, 1.01), 1),
        ((90, 1e4), (100, 1e4), 10),  # they do not fall
        ((90, 1e4), (100, 1.0), 10),
        ((90, 1e4), (100, 1.5), 1),
    ],
)
def test_steps_are_half_of_those_that_the_fall_so_far_promises(before, now, steps):
    assert _steps_to_go(before, now) == steps
