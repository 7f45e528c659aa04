"""Fluctuations over draws of X of eigenvalues, sums and a vector's power, for any equation of levels."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmtland.laws import taylor
from rmtland.laws._law import Floats
from rmtland.laws.contours import CIRCLE_POINTS, circle, circle_points
from rmtland.laws.numerics import panels
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Array, Subordination

TERMS = 32


def power_traces_of(equation: Subordination) -> tuple[Floats, float]:
    """Traces of D T, its square, cube and fourth power in units of its size, and that size, 0 without any.

    They are the Taylor coefficients of Psi', by the trapezoidal rule.
    """
    own = Subordination(tuple(level for level in equation.levels if level.variance == 0), equation.num_parameters)
    if not (own.levels and own.power_sums[0] > 0):
        return np.zeros(4), 0.0
    unit = Solver(own).reach[0]
    slopes = [own.evaluate(s / unit).psi.first / unit for s in taylor.circle(0.5, TERMS).tolist()]
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    traces: Floats = signs * taylor.coefficients(slopes, 0.5, TERMS, keep=4)
    return traces, unit


def covariance_of_powers(traces: Floats, d: float) -> tuple[float, float, float]:
    """Var tr G, Cov(tr G, tr G^2) and Var tr G^2 of G = sum_i t_i x_i x_i^T, x_i in R^d; traces: of T^1..T^4. Exact.

    From the moments of |x_i|^2 and (x_i . x_j)^2; the covariance is 2 d/da of E tr G^2 under t -> t + a t^2.
    """
    t1, t2, t3, t4 = traces.tolist()
    first = 2 * d * t2
    mixed = 4 * d * (t1 * t2 + (d + 1) * t3)
    second = 8 * d * (d + 2) * (d + 3) * t4 + 16 * d * (d + 2) * (t3 * t1 - t4)
    second += 4 * d * (d + 3) * (t2**2 - t4) + 8 * d * (t2 * t1**2 - 2 * t1 * t3 + 2 * t4 - t2**2)
    return first, mixed, second


def ratio_deviation(equation: Subordination, dimension: float) -> float:
    """Standard deviation of tr G / |G|_F in `dimension` parameters, to first order (delta method)."""
    d = float(dimension)
    traces, unit = power_traces_of(equation)
    # The H-term's variance per off-diagonal entry, in units of D T; all in the larger of both sizes.
    own = equation.num_parameters * equation.variance
    size = max(unit, math.sqrt(own))
    traces, own = traces * (unit / size) ** np.arange(1, 5), own / size**2
    t1, t2 = traces[0], traces[1]
    trace, square = d * t1, d * t1**2 + d * (d + 1) * t2
    first, mixed, second = covariance_of_powers(traces, d)
    # Of tr(G + S)^2 = tr G^2 + 2 tr G S + tr S^2, S Gaussian: Var(tr G S) = 2 own E tr G^2, all else independent.
    first += 2 * d * own
    mixed += 4 * d * own * t1
    second += 8 * own * square + 4 * d * (d + 1) * own**2
    square += d * (d + 1) * own
    variance = first / square - mixed * trace / square**2 + second * trace**2 / (4 * square**3)
    return math.sqrt(max(float(variance), 0.0))


def outliers_std(solver: Solver, boundaries: list[complex]) -> Floats:
    """Standard deviations of the eigenvalues between neighbouring boundaries, the largest eigenvalue first.

    The sums of the top 1, 2, ... eigenvalues are integrals of log det (G - z) around them, of covariance -2 log(1 - w)
    (see `power_deviation`); each eigenvalue is the difference of two. A boundary of 0 stands for the trace, which is
    all there is beyond the rank.
    """
    equation = solver.equation
    d = equation.num_parameters
    trace, square = equation.power_sums
    variances, before = [], None
    last_variance = 0.0
    for u in boundaries:
        pair = None if u == 0 else _paths(solver, u, False)
        if pair is None:
            variance, shared = 2 / d * square, _with_trace(before, trace, d)
        else:
            variance, shared = _of_sums(*pair, d), _of_sums(before, pair[1], d)
        variances.append(variance - 2 * shared + last_variance)
        last_variance, before = variance, None if pair is None else pair[0]
    deviations: Floats = np.sqrt(np.maximum(variances, 0.0))
    return deviations


def _of_sums(first: _Path | None, second: _Path, d: float) -> float:
    """Covariance of the sums of the eigenvalues that two paths go around; 0 without the first."""
    if first is None:
        return 0.0
    # The real part at the mirror images of both points is the same.
    first = first.half(second)
    m, n = first.m[:, None], second.m[None, :]
    rest = 1 + m * n * (first.slope[:, None] - second.slope) / (m - n) / d
    return float(second.integral(first.integral(-2 * np.log(rest))).real)


def _with_trace(path: _Path | None, trace: float, d: float) -> float:
    """The same of one sum and the trace."""
    return 0.0 if path is None else float(path.integral(2 / d * (trace - path.slope)).real)


def power_deviation(solver: Solver, u: complex) -> float:
    """Standard deviation of the gradient's share above z(u), or in as many top eigenvectors where u is on the curve.

    Y(z) = g^T (G - z)^(-1) g of the gradient g is the derivative in e of log det(X^T (T + e a a^T) X - z), and for
    real Gaussian X

        Cov(log det(G_1 - z_1), log det(G_2 - z_2)) = -2 log(1 - w),    w = tr((1 - E_1)(1 - E_2)) / D,

    E_j = (1 + m_j D T_j)^(-1), to first order in 1/D (Bai and Silverstein 2004, theorem 1.1, with a T for each of the
    two). Both derivatives of it, m_j moving with e at fixed z_j, integrated over two paths around the eigenvalues, are
    the variance of the power above; all traces and quadratic forms are divided differences of Psi' and of the
    gradient's.
    """
    equation = solver.equation
    d = equation.num_parameters
    first, second = _paths(solver, u, True)
    rate = 0.0
    if u.imag > 0:
        # The number of directions is given, not the level: each eigenvalue more or less brings its power.
        m = -1 / u
        rate = float((m * equation.evaluate(m, 0).quadratic / equation.vector_square).imag / (d * m.imag))
    first, second = first.at_given_count(rate), second.at_given_count(rate)
    share = float(first.integral(first.m * first.quadratic).real)
    of_both = first.integral(
        2 / d * (first.move * (first.quadratic - first.double) / first.m + first.m * first.quadratic**2)
    )
    half = first.half(second)
    variance = second.integral(half.integral(_covariance(half, second, d)))
    total = variance - 2 * share * of_both + share**2 * 2 / d
    return math.sqrt(max(float(total.real), 0.0))


def _paths(solver: Solver, u: complex, with_vector: bool) -> tuple[_Path, _Path]:
    """Two paths around the eigenvalues above z(u) that meet at z(u) and its conjugate only, if there."""
    centre, radius = circle(solver, u)
    points = 2 * circle_points(solver, centre, radius)
    if u.imag == 0 and points <= 2 * CIRCLE_POINTS:
        # Every other point is one path, the points between the other.
        angles = (np.arange(points // 2) + 0.5) * (2 * math.pi / points)
        whole = _Path.around(solver.equation, centre, radius, angles, 2 * math.pi / points, with_vector)
        return whole.every_other(0), whole.every_other(1)
    wider = circle(solver, u, 1.5)
    return (
        _Path.around(solver.equation, centre, radius, *panels(u, centre, radius, 8), with_vector),
        _Path.around(solver.equation, *wider, *panels(u, *wider, 8), with_vector),
    )


@dataclass(frozen=True)
class _Path:
    """Points of a path around the top eigenvalues that is its own mirror image, and what the equation has there.

    With alpha = a / |a|: `slope` = tr D T E, `square` = tr (D T E)^2, `quadratic` = alpha^T E alpha and `double` =
    alpha^T E^2 alpha; `move` is dm/de at fixed z, `drift` dm/dz; `steps` = dz.
    """

    m: Array
    steps: Array
    slope: Array
    square: Array
    quadratic: Array
    double: Array
    move: Array
    drift: Array

    @classmethod
    def around(
        cls, equation: Subordination, centre: float, radius: float, angles: Array, weights: Any, with_vector: bool
    ) -> _Path:
        """At these angles and their opposites; without `with_vector` what belongs to the gradient is NaN."""
        turn: Array = np.exp(1j * angles)
        norm = equation.vector_square if with_vector else 1.0
        m = -1 / (centre + radius * turn)
        rows = []
        for at in m.tolist():
            found = equation.evaluate(at, 2)
            change = math.nan
            if with_vector:
                # The poles are on the axis.
                step = 3e-4 * at.imag
                ahead, behind = (equation.evaluate(at + h, 0).quadratic for h in (step, -step))
                change = (ahead - behind) / (2 * step)
            double = found.quadratic + at * change
            rows.append((found.psi.first, -found.psi.second, found.quadratic / norm, double / norm))
        slope, square, quadratic, double = np.array(rows).T
        rate = 1 / m**2 - square / equation.num_parameters
        steps: Array = rate * m**2 * (1j * radius) * turn * weights
        move = -double / equation.num_parameters / rate
        upper: list[Array] = [m, slope, square, quadratic, double, move, 1 / rate]
        both = [np.concatenate([x, np.conj(x[::-1])]) for x in upper]
        return cls(both[0], np.concatenate([steps, -np.conj(steps[::-1])]), *both[1:])

    def half(self, other: _Path) -> _Path:
        """The points above the axis, with twice the weight, where both paths are their own mirror images."""
        if any(path.m[0] != path.m[-1].conjugate() for path in (self, other)):
            return self
        return self._for_all(slice(self.m.size // 2))

    def every_other(self, start: int) -> _Path:
        """Half of the points, with twice the weight."""
        return self._for_all(slice(start, None, 2))

    def _for_all(self, half: slice) -> _Path:
        """Half of the points for all of them."""
        path = _Path(*(getattr(self, f.name)[half] for f in dataclasses.fields(self)))
        return dataclasses.replace(path, steps=2 * path.steps)

    def at_given_count(self, rate: float) -> _Path:
        """With `rate` times the resolvent's trace taken off: that is another motion of m."""
        return dataclasses.replace(self, move=self.move + rate * self.drift)

    def integral(self, values: Array) -> Any:
        """-1 / (2 pi i) of the integral over z, along the first axis."""
        return -self.steps @ values / (2j * math.pi)


def _covariance(first: _Path, second: _Path, d: float) -> Array:
    """Covariance of Y (less its share of the trace) at two points of two paths, (points of one, of the other)."""
    m, n = first.m[:, None], second.m[None, :]
    move, other_move = first.move[:, None], second.move[None, :]

    def differences(one: Array, two: Array, both: Array) -> tuple[Array, Array, Array]:
        """Of E_1^2 E_2, E_1 E_2^2 and E_1^2 E_2^2, from E_1^2, E_2^2 and E_1 E_2: E_1 E_2 = [m E_1 - n E_2]/(m - n)."""
        left = (m * one[:, None] - n * both) / (m - n)
        right = (m * both - n * two[None, :]) / (m - n)
        return left, right, (m * left - n * right) / (m - n)

    quadratic = (m * first.quadratic[:, None] - n * second.quadratic[None, :]) / (m - n)
    quadratic_left, quadratic_right, quadratic_all = differences(first.double, second.double, quadratic)
    trace = -(first.slope[:, None] - second.slope[None, :]) / (m - n)
    # tr (D T)^2 E_1^2 and the like.
    trace_left, trace_right, trace_all = differences(first.square, second.square, trace)
    left = move * n * trace_left + m * (first.double[:, None] - quadratic_left)
    right = other_move * m * trace_right + n * (second.double[None, :] - quadratic_right)
    mixed = move * other_move * trace_all + m * n * quadratic**2
    mixed += move * n / m * (quadratic_right - quadratic_all) + other_move * m / n * (quadratic_left - quadratic_all)
    rest = d - m * n * trace
    covariance: Array = 2 * (mixed / rest + left * right / rest**2)
    return covariance
