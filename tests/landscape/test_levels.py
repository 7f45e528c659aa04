"""A level that only this file knows, solved by the solver as it is: an added level touches one file."""

import dataclasses
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import rmtland as rl
from rmtland.laws.contours import power_above
from rmtland.laws.fluctuations import outliers_std, power_deviation
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Jet, Level, Part, Subordination
from tests.statistical import assert_mean


@dataclass(frozen=True, eq=False)
class Uniform(Level):
    """Psi = weight times the mean of log(1 + m t) over low < t < high: a continuum, no list of atoms."""

    low: float
    high: float
    weight: float
    square: float = 0.0

    @property
    def rank(self):
        return self.weight

    def at(self, point):
        m, width = point.m, self.high - self.low
        if m == 0:
            mean, second = 0.5 * (self.low + self.high), (self.high**3 - self.low**3) / (3 * width)
            terms = [0.0, self.weight * mean, -self.weight * second]
            return Part(Jet(terms[: point.order + 1]), self.square)
        a, b = 1 + m * self.low, 1 + m * self.high
        log = np.log(b / a)
        value = (b * np.log(b + 0j) - a * np.log(a + 0j)) / (m * width) - 1
        first = 1 / m - log / (m * m * width)
        second = -1 / m**2 + 2 * log / (m**3 * width) - (self.high / b - self.low / a) / (m * m * width)
        terms = [self.weight * term for term in (value, first, second)]
        return Part(Jet(terms[: point.order + 1]), self.square * log / (m * width))

    def count_above(self, point):
        share = (self.high + 1 / point.m) / (self.high - self.low)
        return self.weight * min(max(share, 0.0), 1.0)

    def rough_atoms(self):
        places = self.low + (self.high - self.low) * (np.arange(8) + 0.5) / 8
        return places, np.full(8, self.weight / 8)


D, N = 200, 300
SPIKES = np.array([7.0, 9.0, 12.0])
BULK = Uniform(0.5, 1.5, float(N), 2.0)
EQUATION = Subordination((BULK, Atoms(SPIKES, np.ones(3), np.full(3, 1.0))), float(D))


@pytest.fixture(scope="module")
def draws():
    """Eigenvalues and the vector's powers along them, 150 draws."""
    rng = np.random.default_rng(0)
    t = np.append(0.5 + (np.arange(N) + 0.5) / N, SPIKES)
    a = np.sqrt(np.append(np.full(N, 2.0 / N), np.ones(3)))
    values, powers = [], []
    for _ in range(150):
        x = rng.standard_normal((N + 3, D))
        eigenvalues, vectors = np.linalg.eigh((x.T * t) @ x / D)
        square = (vectors.T @ (x.T @ a)) ** 2
        values.append(eigenvalues)
        powers.append(square / square.sum())
    return np.array(values), np.array(powers)


def test_counts_and_outliers_against_draws(draws):
    solver = Solver(EQUATION)
    edge = float(np.real(Solver(Subordination((BULK,), float(D))).upper_edge()))
    values = draws[0]
    gap = 0.2 * solver.quantiles(np.array([2.5]))[0] + 0.8 * values[:, -4].max()
    u = complex(solver.solve(np.array([gap]))[0])
    assert u.imag == 0
    assert u.real > edge
    assert solver.count_above(u) == 3
    assert (np.sum(values > gap, axis=1) == 3).all()
    top = solver.quantiles(np.array([2.5, 1.5, 0.5]))
    assert_mean(values[:, -3:], top, bias=3 / D * top, detect=0.2 * top)
    for x in (1.0, 2.0, 3.0):
        above, below = (float(count[0]) for count in solver.counts(np.array([x])))
        assert_mean(np.sum(values > x, axis=1), above, bias=0.3, detect=0.02 * N)
        assert_mean(np.sum(values <= x, axis=1), below, bias=0.3, detect=0.02 * N)
    wrong = Solver(Subordination((dataclasses.replace(BULK, weight=1.1 * N), *EQUATION.levels[1:]), float(D)))
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(np.sum(values > 2.0, axis=1), wrong.counts(np.array([2.0]))[0][0], bias=0.3, detect=0.02 * N)


def test_quantiles_of_a_bulk_are_found_without_a_search(monkeypatch):
    # Bracketed searches find them too, at some twenty times the evaluations.
    solver = Solver(EQUATION)
    above = np.linspace(10.0, D - 10.0, 9)
    with monkeypatch.context() as patch:
        patch.setattr(Solver, "along", lambda *_: pytest.fail("Newton's method proved nothing"))
        places = solver.quantiles(above)
        np.testing.assert_allclose(solver.counts(places)[0], above, atol=1e-6)


def test_density_and_edge_against_the_law_of_many_atoms():
    # In place of the continuum 30,000 atoms, by the compiled backend.
    t = 0.5 + (np.arange(30_000) + 0.5) / 30_000
    atoms = rl.GeneralizedMarchenkoPastur(
        np.append(t, SPIKES) / D, D, np.append(np.full(30_000, N / 30_000), np.ones(3))
    )
    solver, x = Solver(EQUATION), np.array([0.1, 0.5, 1.3, 2.7, 3.5])
    np.testing.assert_allclose(np.abs((-1 / solver.solve(x)).imag) / np.pi, atoms.pdf(x), rtol=1e-6)
    alone = rl.GeneralizedMarchenkoPastur(t / D, D, np.full(30_000, N / 30_000))
    bulk = Solver(Subordination((BULK,), float(D)))
    assert bulk.equation.map(bulk.upper_edge())[0] == pytest.approx(alone.support[-1, 1], rel=1e-7)
    assert bulk.equation.map(bulk.upper_edge())[1] == pytest.approx(0, abs=1e-6)


def test_power_and_deviations_against_draws(draws):
    values, powers = draws
    solver = Solver(EQUATION)
    boundary = solver.boundary(3)
    share = power_above(solver, boundary, 3)
    above = powers[:, -3:].sum(axis=1)
    # The mean of a ratio is lower by 2 q (1 - q) / D.
    assert_mean(above, share, bias=3 / D, detect=0.1)
    assert power_deviation(solver, boundary) == pytest.approx(above.std(ddof=1), rel=0.25)
    deviations = outliers_std(solver, [solver.boundary(j) for j in (1, 2, 3)])[::-1]
    np.testing.assert_allclose(deviations, values[:, -3:].std(axis=0, ddof=1), rtol=0.25)


def test_an_order_not_asked_for_is_told():
    psi = EQUATION.evaluate(0.1, 1).psi
    assert math.isfinite(psi.first)
    assert math.isnan(psi.second)
    assert math.isnan(psi.value.real)
    assert math.isfinite(EQUATION.evaluate(0.1, 2, logs=True).psi.value.real)


def test_eigenvalues_are_counted_beside_one_that_stops_the_count():
    class OneOrTwo:
        """Eigenvalues 1 and 2; a point within an ulp of one of them is singular."""

        tried = ()

        def count_above(self, point):
            u = float(-1 / point.m.real)
            self.tried += (u,)
            if min(abs(u - 1), abs(u - 2)) < 3e-16:
                raise np.linalg.LinAlgError
            return int(u < 1) + int(u < 2)

    for u, count, tries in ((0.5, 2, 1), (1.0, 1, 2), (1.5, 1, 1), (2.0, 0, 2)):
        level = OneOrTwo()
        assert Subordination.atoms_above(SimpleNamespace(levels=[level]), u) == count
        assert len(level.tried) == tries
        assert level.tried[-1] == pytest.approx(u, rel=2e-15)
