"""Residuals alone right of their edge, and the means that leave it, where both are known in closed form."""

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory.residual_part import ResidualPart
from rmtland.landscape.theory.separable import Separable
from rmtland.landscape.weighted_rows import Block, WeightedRows


def white(n, d, t):
    return ResidualPart(np.full(n, t), np.array([1 / d]), np.array([float(d)]))


@pytest.mark.parametrize(("n", "d", "t"), [(20, 80, 1.0), (80, 20, 1e-6), (1, 1000, 3.0), (400, 4, 1e5)])
def test_the_edge_of_white_rows_is_that_of_marchenko_and_pastur(n, d, t):
    part = white(n, d, t)
    assert part.edge == pytest.approx(t * (1 + (n / d) ** 0.5) ** 2, rel=1e-9)
    assert part.steepest == pytest.approx(-np.log(t * (1 + (n / d) ** 0.5)), abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e-7])
@pytest.mark.parametrize("strength", [1e-6, 1e-2, 0.5, 0.99, 1 - 1e-9])
def test_places_right_of_the_edge_solve_both_equations(strength, scale):
    """The root beyond all s_j is the largest eigenvalue of diag(s) and one more rank."""
    rng = np.random.default_rng(0)
    t, s, counts = rng.uniform(0.1, 2, 7), scale * np.array([0.2, 0.1, 0.004]), np.array([1.0, 6.0, 50.0]) / scale
    m = -strength / t.max()
    z, a = ResidualPart(t, s, counts).place(m)
    assert a == pytest.approx(sum(x / (1 + m * x) for x in t), rel=1e-12)
    pulls = np.sqrt(counts * s)
    roots = np.linalg.eigvalsh(np.diag(s) + np.outer(pulls, pulls) / (-a * m))
    assert z == pytest.approx(a * roots[-1], rel=1e-11)


def test_without_residuals_the_resolvent_is_that_of_zero():
    part = ResidualPart(np.zeros(0), np.array([0.5]), np.array([2.0]))
    assert part.place(-4.0) == (0.25, 0.0)
    assert part.edge == 0.0


def rows_with(lengths, n, t):
    """Rows whose means have these squares, in orthogonal combinations of the rows."""
    loadings = np.linalg.qr(np.random.default_rng(1).standard_normal((n, len(lengths))))[0]
    block = Block(np.arange(len(lengths)), loadings)
    return WeightedRows(
        (block,), np.diag(np.sqrt(lengths)), np.full(n, t**0.5), np.zeros(len(lengths)), np.zeros(n), 0.0,
        rl.ResidualCovariance(),
    )  # fmt: skip


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("t", [0.3, 1e-9])
def test_means_leave_white_rows_as_spikes_do(t, unit):
    """Benaych-Georges and Nadakuditi (2012): a square l goes to (l + t) (l + c t) / l if l > t c^(1/2), c = n / D."""
    n, d = 30, 120
    squares = np.array([5.0, 2.0, 0.4, 0.16, 0.14])
    out = squares[squares > t * (n / d) ** 0.5]
    assert out.size == (4 if t == 0.3 else 5)
    equation = Separable(rows_with(unit * squares, n, unit * t), float(d))
    expected = unit * (out + t) * (out + n / d * t) / out
    np.testing.assert_allclose(equation.spikes(9), expected, rtol=1e-4)
    np.testing.assert_allclose(equation.spikes(2), expected[:2], rtol=1e-4)


def test_means_alone_are_where_they_are():
    squares = np.array([3e7, 2.0, 1e-9])
    equation = Separable(rows_with(squares, 6, 0.0), 40.0)
    np.testing.assert_allclose(equation.spikes(3), squares, rtol=1e-4)
