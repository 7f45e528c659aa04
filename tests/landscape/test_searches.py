"""Points of the curve that rough atoms guess badly: found in few evaluations, where brackets alone find them."""

import math

import numpy as np
import pytest

import rmtland as rl
from rmtland.laws.contours import FEWEST, circle, power_above
from rmtland.laws.numerics import between, panels
from rmtland.laws.subordination import Subordination


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count = [0]
    whole = Subordination.evaluate

    def counted(self, *arguments, **options):
        count[0] += 1
        return whole(self, *arguments, **options)

    monkeypatch.setattr(Subordination, "evaluate", counted)
    return count


def model() -> rl.LandscapeModel:
    # Class gradients, whose rough atoms are off by a tenth: no band is where they say.
    return rl.LandscapeModel(
        80, 5, 4000, logits=rl.GaussianLogits(8.0, 0.9),
        gradients=rl.ClusteredGradients(mean_length=8.0, residual_length=20.0, class_length=15.0),
    )  # fmt: skip


def test_points_are_those_of_brackets_alone_at_less_cost(evaluations: list[int]) -> None:
    theory = model().theory(0)
    solver, d = theory._fast, model().num_parameters
    goals = np.array([0.5, 1.5, 2.0, 2.5, 3.5, 4.0])
    before = evaluations[0]
    found = solver.points(goals)
    cost = evaluations[0] - before
    slow = []
    for goal in goals:
        slow.append(
            solver.along(lambda u, _, goal=goal: goal - solver.count_above(u), lambda u: d * (-1 / u).imag / math.pi)
        )
    assert cost < 0.75 * (evaluations[0] - before - cost)
    assert evaluations[0] - before - cost < 1000  # six searches over 60 decades, as Newton's steps end them
    places = [[solver.equation.map(u if u.imag > 0 else u.real)[0].real for u in us] for us in (found, slow)]
    for goal, ours, theirs in zip(goals, *places, strict=True):
        if goal % 1:  # a whole number of eigenvalues is above any point of a gap
            assert ours == pytest.approx(theirs, rel=1e-10)
    for goal, u in zip(goals, found, strict=True):
        assert solver.count_above(u) == pytest.approx(goal, abs=1e-9)


@pytest.mark.parametrize("low", [1e-50, 1.0, 1.952508203371911, 3e40])
def test_halving_reaches_the_last_digits(low: float) -> None:
    high, unit = low * (1 + 1e-13), 1e-60
    while high - low > 1e-14 * low:
        middle = between(low, high, unit)
        assert low < middle < high
        low = middle


def test_halving_goes_by_decades_across_zero() -> None:
    assert between(-1.0, 1.0, 1e-60) == 0.0
    assert 1e-11 < between(1e-20, 1.0, 1e-60) < 1e-9
    assert abs(between(-1e-60, 1.0, 1e-60)) < 1e-25


def test_shrinking_panels_integrate_what_halving_ones_do() -> None:
    solver = model().theory(1)._solver
    for count in range(1, 6):
        u = solver.boundary(count)
        centre, radius = circle(solver, u)
        angles, weights = panels(u, centre, radius, 24)
        turns = np.exp(1j * angles)
        rates = [solver.equation.rates(centre + radius * turn)[0] for turn in turns]
        expected = -float(weights @ (np.array(rates) * 1j * radius * turns).imag) / math.pi
        assert power_above(solver, u, count) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("snr", [None, 4.0])
def test_power_from_gap_to_gap_is_that_of_one_circle_each(snr: float | None, evaluations: list[int]) -> None:
    # Bands that touch, and outliers that stand apart.
    spread = rl.LandscapeModel.fort_ganguli(
        num_examples=80, num_classes=5, num_parameters=4000, sigma_z=8.0, snr=snr, accuracy=0.9
    ) if snr else model()  # fmt: skip
    theory, counts = spread.theory(0), range(1, 6)
    theory.outliers()
    before = evaluations[0]
    stepwise = [theory.gradient_power(count) for count in counts]
    cost = evaluations[0] - before
    # A theory that knows neither outliers nor lower counts goes on panels around all of the spectrum above.
    solvers = [spread.theory(0)._solver for _ in counts]
    before = evaluations[0]
    apart = []
    for solver, count in zip(solvers, counts, strict=True):
        u = solver.boundary(count)
        centre, radius = circle(solver, u)
        angles, weights = panels(u, centre, radius, 24)
        rates = [solver.equation.rates(centre + radius * turn)[0] for turn in np.exp(1j * angles)]
        apart.append(-float(weights @ (np.array(rates) * 1j * radius * np.exp(1j * angles)).imag) / math.pi)
    assert stepwise == pytest.approx(apart, abs=1e-8)
    assert cost < 0.5 * (evaluations[0] - before)


def test_a_lone_largest_eigenvalue_takes_the_fewest_points_of_a_circle(evaluations: list[int]) -> None:
    apart = rl.LandscapeModel.fort_ganguli(80, 5, 4000, sigma_z=8.0, snr=4.0, accuracy=0.9)
    solver = apart.theory(0)._solver  # that has looked for nothing yet: its rough atoms say what lies where
    u = solver.boundary(1)
    before = evaluations[0]
    power_above(solver, u, 1)
    assert evaluations[0] - before < 2 * FEWEST
