"""Fluctuations of G = R^T R over draws of the residuals: the covariance of log-determinants, integrated around.

`determinants` has the covariance. Paths are circles in the plane of z.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.landscape.theory.continuation import Continuation
from rmtland.landscape.theory.determinants import Matrices, determinants_covariance
from rmtland.landscape.theory.separable import Separable, State

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

POINTS = 12
"""Points on half a circle through wide gaps."""
MOST_POINTS = 48
ENOUGH, ENOUGH_FOR_STD = 8.0, 5.0
"""Points times the distance of the spectrum from the circle, in radii: exp(-2 ENOUGH) is the error."""
AROUND = 12
"""Points on half a circle around everything."""
ORDER, ORDER_IN_GAPS = 6, 5
"""Of the Gauss-Legendre rule on panels that halve towards a boundary: (3 + 8^(1/2))^(-2 ORDER) is the error between
gaps; less on the axis, where bands are near, and of double integrals, logarithmic where two paths meet."""
CLOSEST = 1e-3
"""The last panel, as a share of a quarter of the circle."""
STEP = 0.03
"""By which z, m and a move, relatively, for derivatives in e by differences: errors of its square over six, while on
panels close to the axis rounding grows with its inverse square."""


@dataclass(frozen=True, eq=False)
class Path:
    """Points on the upper half of a path around eigenvalues, counterclockwise with its mirror image.

    Attributes
    ----------
    states : list of State
    steps : ndarray (p,)
        dz of each; half of it on the axis.
    """

    states: list[State]
    steps: Array

    def integral(self, values: Array) -> float:
        """-1 / (2 pi i) of the integral of a function with f(conj z) = conj f(z), (p,): over both halves."""
        return -float((self.steps @ values).imag) / math.pi


@dataclass(frozen=True)
class Boundary:
    """A point of the axis between eigenvalues.

    Attributes
    ----------
    state : State
    distance : float
        How far the spectrum is, roughly; 0 in the bulk.
    """

    state: State
    distance: float

    @property
    def x(self) -> float:
        """Where it is."""
        return self.state.z.real


def path_between(
    solver: Continuation,
    low: Boundary,
    high: tuple[float, float] | None = None,
    for_std: bool = False,
    second: bool = False,
) -> Path:
    """A path around the eigenvalues above a boundary, up to another place (x, distance).

    Through wide gaps a circle, by the trapezoidal rule from one of two starts; else an ellipse, or a higher one, on
    panels that halve towards both ends. The `second` meets the first at most at these places.
    """
    reach = solver.equation.reach
    far = reach + 0.5 * (reach - low.x) + 0.15 * reach
    x, distance = (far, far - reach) if high is None else high
    centre, radius = 0.5 * (low.x + x), 0.5 * (x - low.x)
    nearness = low.distance / radius, distance / radius
    enough = ENOUGH_FOR_STD if for_std else ENOUGH
    order = ORDER if for_std or min(nearness) == 0 else ORDER_IN_GAPS
    number = POINTS
    while 0 < number * min(nearness) < enough and number <= MOST_POINTS:
        number *= 2
    if min(nearness) > 0 and number <= MOST_POINTS:
        return _circle(solver, centre, radius, *_evenly(number, 0.0 if second else 0.5))
    return _circle(solver, centre, radius, *_panels(*nearness, order), height=1.4 if second else 1.0)


def paths_between(solver: Continuation, low: Boundary, high: tuple[float, float] | None = None) -> tuple[Path, Path]:
    """Both paths, as closely spaced as standard deviations need them."""
    one, two = (path_between(solver, low, high, True, second) for second in (False, True))
    return one, two


def _evenly(number: int, start: float) -> tuple[Floats, Floats]:
    """Angles and weights on the upper half of a circle, of a rule that is its own mirror image."""
    steps = np.arange(number + (start == 0), dtype=np.float64) + start
    weights: Floats = np.where((steps == 0) | (steps == number), 0.5, 1.0) * (math.pi / number)
    return steps * (math.pi / number), weights


def _panels(low: float, high: float, order: int) -> tuple[Floats, Floats]:
    """Angles from the far end, 0, to the near one, pi, and weights: panels that halve to either as it is near."""
    nodes, weights = (np.asarray(part, dtype=np.float64) for part in np.polynomial.legendre.leggauss(order))
    sides = []
    for nearness in (high, low):
        shares = [0.0]
        while 1 - shares[-1] > max(0.5 * nearness, CLOSEST):
            shares.append(0.5 * (1 + shares[-1]))
        ends = 0.5 * math.pi * np.array([*shares, 1.0])
        half = 0.5 * np.diff(ends)[:, None]
        sides.append(((ends[:-1, None] + half * (1 + nodes)).ravel(), (half * weights).ravel()))
    (far, far_weights), (near, near_weights) = sides
    angles: Floats = np.concatenate([0.5 * math.pi - far[::-1], 0.5 * math.pi + near])
    return angles, np.concatenate([far_weights[::-1], near_weights])


def _circle(
    solver: Continuation, centre: float, radius: float, angles: Floats, weights: Floats, height: float = 1.0
) -> Path:
    """A circle, or an ellipse of this height over width."""
    # Rounding must not put the ends of a half circle beside the axis.
    sines = np.where(np.sin(angles) > 1e-15, np.sin(angles), 0.0)
    places = centre + radius * (np.cos(angles) + 1j * height * sines)
    steps = radius * (-np.sin(angles) + 1j * height * np.cos(angles)) * weights
    middle = int(np.argmin(np.abs(angles - 0.5 * math.pi)))
    states = [solver.at(complex(places[middle]))]
    for place in places[middle + 1 :].tolist():
        states.append(solver.onward(states, place))
    states.reverse()
    for place in places[:middle][::-1].tolist():
        states.append(solver.onward(states, place))
    states.reverse()
    return Path(states, steps)


def path_around(solver: Continuation, radius: float) -> Path:
    """A circle around the whole spectrum and 0, of this radius in units of the reach."""
    reach = solver.equation.reach
    return _circle(solver, 0.5 * reach, radius * reach, *_evenly(AROUND, 0.5))


def covariance_of_sums(
    equation: Separable, first: Path, second: Path, left: Array | None = None, right: Array | None = None
) -> float:
    """Covariance of the sums of f over the eigenvalues that two paths go around, by the slopes f' at their points.

    Of the eigenvalues themselves by default.
    """
    one, two = (Matrices.of(equation, path.states) for path in (first, second))
    direct = determinants_covariance(equation, one, two)
    mirrored = determinants_covariance(equation, one, two.conjugate())
    return _both_halves(
        first.steps if left is None else first.steps * left,
        second.steps if right is None else second.steps * right,
        direct, mirrored,
    )  # fmt: skip


def _both_halves(one: Array, two: Array, direct: Array, mirrored: Array) -> float:
    """(1 / 2 pi i)^2 of the integral over both halves of both paths."""
    total = one @ direct @ two - one @ mirrored @ np.conj(two)
    return float(-2 * total.real / (4 * math.pi**2))


def outliers_std(solver: Continuation, boundaries: list[Boundary], top: float) -> Floats:
    """Standard deviations of the eigenvalues between neighbouring boundaries, the largest, near `top`, first."""
    variances = []
    first = boundaries[0]
    high = (2 * top - first.x, first.distance) if first.distance > 0 else None
    for low in boundaries:
        paths = paths_between(solver, low, high)
        variances.append(covariance_of_sums(solver.equation, *paths))
        high = low.x, low.distance
    deviations: Floats = np.sqrt(np.maximum(variances, 0.0))
    return deviations


def ratio_deviation(solver: Continuation) -> float:
    """Standard deviation of tr G / |G|_F, to first order (delta method)."""
    equation = solver.equation
    first, second = (path_around(solver, radius) for radius in (1.6, 2.2))
    slopes = [2 * np.array([state.z for state in path.states]) for path in (first, second)]
    of_trace = covariance_of_sums(equation, first, second)
    mixed = covariance_of_sums(equation, first, second, None, slopes[1])
    of_square = covariance_of_sums(equation, first, second, slopes[0], slopes[1])
    trace, square = equation.power_sums
    relative = of_trace / trace**2 - mixed / (trace * square) + of_square / (4 * square**2)
    return trace / math.sqrt(square) * math.sqrt(max(relative, 0.0))


def power_deviation(solver: Continuation, boundary: Boundary) -> float:
    """Standard deviation of the gradient's share above a boundary, of as many top eigenvectors where that is in a band.

    To first order that of P / S, P the square above and S all of it, whose variance is closed.
    """
    equation = solver.equation
    first, second = paths_between(solver, boundary)
    # The number of directions is given, not the level: each eigenvalue more or less brings its power. None in a gap.
    at_boundary = boundary.state
    rate = equation.power(at_boundary).imag / at_boundary.trace.imag if at_boundary.trace.imag > 0 else 0.0
    mean = equation.vector_square
    share = first.integral(np.array([equation.power(state) for state in first.states])) / mean
    moved = _Moved.of(equation, first, rate)
    of_power = moved.covariance(_Moved.of(equation, second, rate))
    of_both = moved.covariance(_Moved.of(equation, path_around(solver, 1.6), 0.0))
    variance = of_power - 2 * share * of_both + share**2 * equation.vector_square_variance
    return math.sqrt(max(variance, 0.0)) / mean


@dataclass(frozen=True, eq=False)
class _Moved:
    """Matrices of a path on either side of e = 0 at fixed z, or at z + rate e; `step` is e at each point."""

    equation: Separable
    steps: Array
    step: Floats
    ahead: Matrices
    behind: Matrices

    @classmethod
    def of(cls, equation: Separable, path: Path, rate: float) -> _Moved:
        """By differences that move z, m and a by a small share of them."""
        motions, steps = [], []
        for state in path.states:
            power, of_m, of_a = equation.power_slopes(state)
            dm, da = state.step((of_m + rate * state.mixed[0], of_a + rate * state.mixed[1]))
            motions.append((state, dm, da))
            sizes = (dm / state.m, da / state.a, equation.slope(state.m)[0], power, rate / (state.z.imag or math.inf))
            steps.append(STEP / max(abs(size) for size in sizes))
        step = np.array(steps)
        ahead, behind = (
            Matrices.of(
                equation,
                [
                    dataclasses.replace(state, z=state.z + e * rate, m=state.m + e * dm, a=state.a + e * da)
                    for (state, dm, da), e in zip(motions, weights.tolist(), strict=True)
                ],
                weights,
            )
            for weights in (step, -step)
        )
        return cls(equation, path.steps, step, ahead, behind)

    def covariance(self, other: _Moved) -> float:
        """Of the squared gradient inside two paths, less `rate` times the number of eigenvalues inside."""
        direct: Any = 0.0
        mirrored: Any = 0.0
        for sign, left in ((1, self.ahead), (-1, self.behind)):
            for other_sign, right in ((1, other.ahead), (-1, other.behind)):
                direct = direct + sign * other_sign * determinants_covariance(self.equation, left, right)
                mirrored = mirrored + sign * other_sign * determinants_covariance(
                    self.equation, left, right.conjugate()
                )
        unit = 4 * np.outer(self.step, other.step)
        return _both_halves(self.steps, other.steps, direct / unit, mirrored / unit)
