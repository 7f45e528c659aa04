"""Fluctuations of the deterministic equivalent where they are known: of sums over all, and of few rows."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory.continuation import Continuation
from rmtland.landscape.theory.separable import Separable
from rmtland.landscape.theory.structured import StructuredTheory
from rmtland.landscape.theory.structured_fluctuations import (
    Boundary,
    _Moved,
    covariance_of_sums,
    path_around,
    path_between,
    ratio_deviation,
)
from rmtland.landscape.weighted_rows import Block, WeightedRows
from tests.landscape.test_anisotropic import LABELS, LAW, LOGITS, D


class Places:
    """In the place of solutions, each reached from the one beside it."""

    def __init__(self, reach):
        self.equation, self.way = SimpleNamespace(reach=reach), []

    def at(self, z):
        assert z.imag > 0
        return SimpleNamespace(z=z)

    def onward(self, states, z):
        self.way.append((states[-1].z, z))
        return SimpleNamespace(z=z)


def poles_inside(path, poles):
    """How many of these: the sum of their 1 / (pole - z), integrated."""
    return path.integral(np.array([np.sum(1 / (poles - state.z)) for state in path.states]))


def counterclockwise(solver, path):
    """From the right to the left above the axis, every place once, reached from the one before or after it."""
    z = np.array([state.z for state in path.states])
    steps = list(itertools.pairwise(z.tolist()))
    assert set(solver.way) <= {*steps, *((after, before) for before, after in steps)}
    return (np.diff(z.real) < 0).all() and (z.imag >= 0).all() and len(solver.way) == len(steps)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        ((0.3, 0.1), (0.7, 0.1)),  # both gaps wide
        ((0.3, 0.1), (0.7, 0.008)),  # one of them narrow
        ((0.3, 0.001), (0.7, 0.1)),
        ((0.3, 0.1), None),  # up to what is beyond all
        ((0.3, 0.004), None),
        ((0.9, 0.1), None),
        ((0.3, 0.0), None),  # from within a band
        ((0.3, 0.0), (0.7, 0.1)),
    ],
)
def test_paths_go_around_what_is_between_their_ends(low, high, unit):
    spectrum = [0.0, 0.3 - (low[1] or 0.1), 0.3 + (low[1] or 0.1), 0.5, 1.0]
    spectrum += [] if high is None else [high[0] - high[1], high[0] + high[1]]
    poles = unit * np.array(spectrum)
    place = None if high is None else (unit * high[0], unit * high[1])
    boundary = Boundary(SimpleNamespace(z=complex(unit * low[0])), unit * low[1])
    inside = np.sum(poles > unit * low[0]) - (0 if high is None else np.sum(poles > unit * high[0]))
    for for_std, error in ((False, 2e-6), (True, 1e-3)):
        places = []
        for second in (False, True):
            solver = Places(unit)
            path = path_between(solver, boundary, place, for_std, second)
            assert poles_inside(path, poles) == pytest.approx(inside, abs=error)
            assert counterclockwise(solver, path)
            assert len(path.states) < 220
            places.append([state.z for state in path.states])
            if high is not None:
                assert path.steps.sum().real == pytest.approx(unit * (low[0] - high[0]), rel=1e-2)
        assert not set(places[0]) & set(places[1])


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("radius", [0.8, 1.6, 2.2])
def test_a_path_around_everything_has_its_radius(radius, unit):
    solver = Places(unit)
    path = path_around(solver, radius)
    assert poles_inside(path, unit * np.array([0.0, 0.2, 1.0])) == pytest.approx(3, abs=1e-4)
    assert counterclockwise(solver, path)
    np.testing.assert_allclose([abs(state.z - 0.5 * unit) for state in path.states], radius * unit, rtol=1e-12)


def test_white_rows_have_the_moments_of_a_wishart_matrix():
    """Leading terms of Var tr W, Cov(tr W, tr W^2) and Var tr W^2, W of n x D standard normal numbers."""
    n, d, scale = 30, 50, 7.0
    slopes = np.random.default_rng(0).standard_normal(n)
    rows = WeightedRows((), np.zeros((0, 0)), np.full(n, scale), np.zeros(0), slopes, 2.0, rl.ResidualCovariance())
    solver = Continuation(Separable(rows, float(d)))
    trace, square = n * d, n * d * (n + d + 1)
    of_trace, mixed = 2 * n * d, 4 * n * d * (n + d)
    of_square = 4 * n * d * (2 * n**2 + 5 * n * d + 2 * d**2)
    relative = of_trace / trace**2 - mixed / (trace * square) + of_square / (4 * square**2)
    expected = trace / math.sqrt(square) * math.sqrt(relative)
    assert ratio_deviation(solver) == pytest.approx(expected, rel=1e-11)


def test_around_everything_are_the_trace_and_the_squared_gradient():
    """Both have variances in closed form, with means and unequal variances across rows and parameters."""
    equation = Separable(LAW.weighted_rows(LOGITS, LABELS), float(D))
    solver = Continuation(equation)
    one, two = path_around(solver, 1.6), path_around(solver, 2.2)
    shares, counts = equation.spectrum
    heights = np.sum(equation.rows.means**2, axis=1)
    of_trace = 2 * np.sum(equation.t**2) * np.sum(counts * shares**2) + 4 * np.sum(equation.t * heights) / D
    assert covariance_of_sums(equation, one, two) == pytest.approx(of_trace, rel=1e-10)
    first, second = (_Moved.of(equation, path, rate) for path, rate in ((one, 0.0), (two, 0.01)))
    assert first.covariance(second) == pytest.approx(equation.vector_square_variance, rel=1e-4)


def test_the_variance_of_the_squared_gradient():
    """Coordinate by coordinate, over all turns of the means by one coordinate; with what no row has of it."""
    rng = np.random.default_rng(1)
    d, factor, of_means = 12, rng.standard_normal((2, 2)), rng.standard_normal(2)
    covariance = rl.ResidualCovariance([5.0, 2.0, 1.0], [1, 3, 4])
    rows = WeightedRows((), factor, np.ones(3), of_means, np.array([0.5, -1.5, 0.8]), 1.5, covariance)
    equation = Separable(rows, float(d))
    variances = 5.39 * np.array([5.0, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0]) / 15
    mean = np.append(factor.T @ of_means, np.zeros(d - 2))
    turned = np.array([np.roll(mean, j) for j in range(d)])
    assert equation.vector_square == pytest.approx(mean @ mean + variances.sum())
    expected = np.mean(np.sum(2 * variances**2 + 4 * turned**2 * variances, axis=1))
    assert equation.vector_square_variance == pytest.approx(expected)


def few(seed, scale):
    """Rows of four examples and three classes, with unequal means, in many dimensions."""
    rng = np.random.default_rng(seed)
    logits, labels = 2 * rng.standard_normal((4, 3)), np.array([0, 1, 2, 0])
    base = rng.standard_normal((3, 8)) * scale
    covariance = rl.ResidualCovariance([1.0], [DIRECTIONS])
    law = rl.AnisotropicGradients(base @ base.T / 8, 0.6 * scale, covariance)
    return rl.LandscapeModel(4, 3, PARAMETERS, rl.GivenLogits(logits, labels), law)


DIRECTIONS, PARAMETERS = 10**6, 10**7


def by_inner_products(rows, count):
    """Outliers, powers of so many of them together and ratio, and standard deviations of them.

    Rows and gradient are combinations of q orthonormal vectors, n + 1 independent normal vectors; functions of their
    inner products, whose deviations from the unit matrix are small, independent and Gaussian.
    """
    n, q = rows.means.shape
    own, of_gradient = np.diag(rows.scales), np.append(rows.slopes, rows.dropped)
    combinations = np.block([[rows.means, own, np.zeros((n, 1))], [rows.mean_slopes @ rows.factor, of_gradient]])
    size = q + n + 1

    def statistics(inner):
        gram = combinations @ inner @ combinations.T
        values, vectors = np.linalg.eigh(gram[:n, :n])
        values, vectors = values[::-1], vectors[:, ::-1]
        powers = (vectors.T @ gram[:n, n]) ** 2 / values / gram[n, n]
        return np.array([*values[:count], *np.cumsum(powers)[:count], values.sum() / np.sqrt(np.sum(values**2))])

    variance = 0.0
    for i in range(size):
        for j in range(max(i, q), size):
            step = np.zeros((size, size))
            step[i, j] = step[j, i] = 1e-5
            slope = (statistics(np.eye(size) + step) - statistics(np.eye(size) - step)) / 2e-5
            variance += slope**2 * (1 / PARAMETERS if i < q else (1 + (i == j)) / DIRECTIONS)
    return statistics(np.eye(size)), np.sqrt(variance)


@pytest.mark.parametrize("scale", [300.0, 1e-3])
def test_few_rows_in_many_dimensions(scale):
    theory = few(0, scale).theory()
    means, deviations = by_inner_products(theory.equation.rows, 2)
    np.testing.assert_allclose(theory.outliers()[::-1], means[:2], rtol=1e-5)
    np.testing.assert_allclose([theory.gradient_power(k) for k in (1, 2)], means[2:4], rtol=1e-5)
    np.testing.assert_allclose(theory.outliers_std()[::-1], deviations[:2], rtol=1e-4)
    np.testing.assert_allclose([theory.gradient_power_std(k) for k in (1, 2)], deviations[2:4], rtol=1e-3)
    assert theory.goldilocks_ratio() == pytest.approx(means[-1], rel=1e-5)
    assert theory.goldilocks_ratio_std() == pytest.approx(deviations[-1], rel=1e-4)


@pytest.mark.parametrize(("num_parameters", "gap"), [(60, False), (1000, True)])
def test_few_examples_without_means_as_the_other_theory_has_them(num_parameters, gap):
    """Within bands, where the number of directions is given, and in a gap that no mean makes."""
    logits, labels = 2 * np.random.default_rng(2).standard_normal((2, 3)), np.array([0, 1])
    given = rl.GivenLogits(logits, labels)
    law, same = rl.AnisotropicGradients(np.zeros((3, 3)), 5.0), rl.ClusteredGradients(0.0, 5.0)
    ours, other = (rl.LandscapeModel(2, 3, num_parameters, given, either).theory() for either in (law, same))
    assert ((ours._boundary(1).distance > 0), (ours._boundary(2).distance > 0)) == (False, gap)
    for count in (1, 2):
        assert ours.gradient_power_std(count) == pytest.approx(other.gradient_power_std(count), rel=2e-3)
    np.testing.assert_allclose(ours.outliers_std(), other.outliers_std(), rtol=1e-5)
    boundary = ours._boundary(2)
    apart = boundary.x + boundary.distance * np.array([-1.0, 1.0])
    assert (ours.pdf(apart) == 0).tolist() == [gap, gap]


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.7, 0.85])
def test_a_gap_is_looked_for_in_several_places(share):
    """Two rows of squares 1.01 and 0.81, and an interval of which one of these places alone is between them."""
    block = Block(np.arange(2), np.eye(2))
    covariance = rl.ResidualCovariance([1.0], [DIRECTIONS])
    factor, scales = np.diag([1.0, 0.8**0.5]), np.full(2, 0.1)
    rows = WeightedRows((block,), factor, scales, np.zeros(2), np.ones(2), 0.0, covariance)
    theory = StructuredTheory.over(rows, PARAMETERS, 2)
    low, high = 0.91 - 0.9 * share, 0.91 + 0.9 * (1 - share)
    found = theory._gap(1, low, high)
    assert found is not None
    assert found.x == pytest.approx(0.91)
    assert found.distance == pytest.approx(0.5 * min(found.x - low, high - found.x))
    assert theory._gap(1, 1.05, 1.3) is None


def test_within_a_band_there_is_no_gap_in_any_unit():
    logits, labels = 2 * np.random.default_rng(2).standard_normal((2, 3)), np.array([0, 1])
    law = rl.AnisotropicGradients(np.zeros((3, 3)), 300.0)
    theory = rl.LandscapeModel(2, 3, 60, rl.GivenLogits(logits, labels), law).theory()
    x = theory.quantiles([2.0])[0]
    assert theory.count_above(x) == pytest.approx(2.0, abs=1e-5)
    assert theory._gap(2, x, x) is None


@pytest.mark.parametrize("radius", [0.8, 1.6])
def test_points_move_along_the_solution_by_a_small_share_of_them(radius):
    """Without a gradient, what moves with the place alone is the solution there."""
    rows = LAW.weighted_rows(LOGITS, LABELS)
    none = np.zeros_like(rows.mean_slopes)
    equation = Separable(dataclasses.replace(rows, slopes=np.zeros_like(rows.slopes), mean_slopes=none), float(D))
    solver, rate = Continuation(equation), 3.0
    path = path_around(solver, radius)
    found = _Moved.of(equation, path, rate)
    share, z = equation.spectrum[0][0], np.array([state.z for state in path.states])
    moved, largest = z + rate * found.step, rate * found.step / z.imag
    for name, at in (("m", found.ahead.m), ("a", (1 / found.ahead.d[:, 0] + moved) / share)):
        before = np.array([getattr(state, name) for state in path.states])
        there = np.array([getattr(solver.at(complex(place)), name) for place in moved])
        assert np.all(np.abs(at - there) < 0.05 * np.abs(there - before))
        largest = np.maximum(largest, np.abs(at / before - 1))
    np.testing.assert_allclose(largest, 0.03)


def test_the_one_outlier_of_two_classes():
    """A row of a mean and of normal numbers: its square has the variance of both."""
    length, variance, block = 1.0, 0.2, Block(np.array([0]), np.ones((1, 1)))
    rows = WeightedRows(
        (block,), np.full((1, 1), length**0.5), np.full(1, variance**0.5), np.zeros(1), np.ones(1), 0.0,
        rl.ResidualCovariance(),
    )  # fmt: skip
    theory = StructuredTheory.over(rows, 10**6, 2)
    assert theory.outliers()[0] == pytest.approx(length + variance, rel=1e-5)
    expected = math.sqrt((4 * length * variance + 2 * variance**2) / 10**6)
    np.testing.assert_allclose(theory.outliers_std(), [expected], rtol=1e-4)
