"""Fluctuations of G = R^T R over draws of the residuals: the covariance of log-determinants, integrated around.

For real Gaussian residuals, with Q = (G - z)^(-1) and Q' = (R R^T - z)^(-1) scaled as in `separable`,

    Cov(log det(G - z_1), log det(G - z_2)) = -2 log((1 - kappa)^2 - gamma gamma'),

    gamma = tr Sigma Q_1 Sigma Q_2,    gamma' = tr T Y_1 T Y_2,    Y = (1 + m T + P M (a Sigma - z)^(-1) M^T P^T)^(-1),
    kappa = tr Sigma Q_1 M^T L M Q_2,    L = P^T (1 + m_1 T)^(-1) T (1 + m_2 T)^(-1) P = (K_1 - K_2) / (m_2 - m_1).

All traces are divided differences of a few q x q matrices of either point. Paths are circles in the plane of z.

References
----------
Hachem, Kharouf, Najim and Silverstein (2012), A CLT for information-theoretic statistics of non-centered Gram random
matrices, theorem 2.2, for z_1 = z_2 and complex residuals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.landscape.theory.separable import Separable, State

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

POINTS = 24
"""Points on half a circle through a wide gap."""
MOST_POINTS = 48
ENOUGH = 12.0
"""Points times the distance of the spectrum from the circle, in radii: exp(-pi ENOUGH / 2) is the error."""
ORDER = 8
"""Of the Gauss-Legendre rule on panels that halve towards a boundary in the bulk."""


@dataclass(frozen=True, eq=False)
class Path:
    """Points on the upper half of a path around the top eigenvalues, counterclockwise with its mirror image.

    Attributes
    ----------
    states : list of State
    steps : ndarray (p,)
        dz of each.
    even : bool
        Whether the points are evenly spaced.
    """

    states: list[State]
    steps: Array
    even: bool = False

    def integral(self, values: Array) -> Any:
        """-1 / (2 pi i) of the integral of a function with f(conj z) = conj f(z), (p,): over both halves."""
        return -float((self.steps @ values).imag) / math.pi

    @property
    def count(self) -> float:
        """Number of eigenvalues inside."""
        return float(self.integral(np.array([state.trace for state in self.states])))

    def part(self, start: int) -> Path:
        """Every other point, twice the weight; of all around, not of the upper half alone."""
        return Path(self.states[start::2], 2 * self.steps[start::2])


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


def path_around(equation: Separable, boundary: Boundary, share: float, double: bool = False) -> Path:
    """A circle through z of the boundary and a point beyond the spectrum, further by `share` of the distance.

    Through a wide gap by the trapezoidal rule, with `double` of twice the points; else on panels that halve towards it.
    """
    x = boundary.state.z.real
    far = equation.reach + share * (equation.reach - x) + 0.3 * share * equation.reach
    centre, radius = 0.5 * (x + far), 0.5 * (far - x)
    start = equation.follow(equation.start(centre), complex(centre, radius))
    nearness = boundary.distance / radius
    number = POINTS
    while nearness > 0 and number * nearness < ENOUGH and number <= MOST_POINTS:
        number *= 2
    if nearness > 0 and number <= MOST_POINTS:
        number *= 1 + double
        angles: Floats = np.asarray((np.arange(number) + 0.5) * (math.pi / number), dtype=np.float64)
        return _circle(equation, start, centre, radius, angles, np.full(number, math.pi / number))
    shares = [0.0]
    smallest = max(0.15 * nearness, 1e-4)
    while 1 - shares[-1] > smallest:
        shares.append(0.5 * (1 + shares[-1]))
    ends = math.pi * np.array([*shares, 1.0])
    nodes, weights = (np.asarray(part, dtype=np.float64) for part in np.polynomial.legendre.leggauss(ORDER))
    half = 0.5 * np.diff(ends)[:, None]
    angles = (ends[:-1, None] + half * (1 + nodes)).ravel()
    return _circle(equation, start, centre, radius, angles, (half * weights).ravel())


def _circle(equation: Separable, start: State, centre: float, radius: float, angles: Floats, weights: Floats) -> Path:
    turns = np.exp(1j * angles)
    states: list[State | None] = [None] * angles.size
    middle = int(np.argmin(np.abs(angles - 0.5 * math.pi)))
    for order in (range(middle, angles.size), range(middle - 1, -1, -1)):
        state = start
        for j in order:
            state = equation.follow(state, complex(centre + radius * turns[j]))
            states[j] = state
    even = bool(np.ptp(weights) == 0)
    return Path([state for state in states if state is not None], 1j * radius * turns * weights, even)


def covariances(equation: Separable, first: Path, second: Path) -> tuple[Array, Array]:
    """Of log det at the points of two paths, and at those of one and the conjugates of the other, (p, r) each."""
    one, two = _Matrices(equation, first.states), _Matrices(equation, second.states)
    return _covariance(equation, one, two), _covariance(equation, one, two.conjugate())


class _Matrices:
    """What the traces are made of, at each point of a path."""

    def __init__(self, equation: Separable | None, states: list[State] | None, parts: Any = None) -> None:
        if parts is not None:
            self.m, self.d, self.e, self.b, self.k, self.n, self.x, self.trace_slope = parts
            return
        assert equation is not None
        assert states is not None
        s = equation.spectrum[0]
        self.m = np.array([state.m for state in states])
        a, z = (np.array([getattr(state, name) for state in states])[:, None] for name in ("a", "z"))
        self.d = 1 / (a * s - z)
        self.e = 1 / (1 + self.m[:, None] * equation.t)
        size = equation.num_means
        self.b = np.array([equation.omega(state.a, state.z)[0] for state in states])
        self.k = equation.kernel(self.e)
        self.n = np.linalg.inv(np.eye(size) + self.b[:, None, None] * self.k)
        self.x = self.n @ self.k
        slopes = equation.kernel(-(self.e**2) * equation.t)
        self.trace_slope = np.sum(self.n * slopes.swapaxes(1, 2), axis=(1, 2))  # tr N K'

    def conjugate(self) -> _Matrices:
        """At the conjugate points."""
        parts = (self.m, self.d, self.e, self.b, self.k, self.n, self.x, self.trace_slope)
        return _Matrices(None, None, [np.conj(part) for part in parts])


def _pairs(one: Array, two: Array) -> Array:
    """Tr A_p B_r for symmetric matrices, (p, r)."""
    return one.reshape(len(one), -1) @ two.reshape(len(two), -1).T


def _covariance(equation: Separable, one: _Matrices, two: _Matrices) -> Array:
    s, w = equation.spectrum
    d = equation.num_parameters
    rise = two.m[None, :] - one.m[:, None]
    gamma = (one.d * (w * s * s)) @ two.d.T
    squares = (equation.t**2 * one.e) @ two.e.T
    kappa: Any = 0.0
    if equation.num_means:
        traces = np.trace(one.x, axis1=1, axis2=2)[:, None], np.trace(two.x, axis1=1, axis2=2)[None, :]
        both = (one.d * (w * s)) @ two.d.T / d
        left = (one.d**2 * (w * s * s)) @ two.d.T / d
        right = (one.d * (w * s * s)) @ (two.d**2).T / d
        xx = _pairs(one.x, two.x)
        gamma = gamma - left * traces[0] - right * traces[1] + both**2 * xx
        xn, nx = _pairs(one.x, two.n), _pairs(one.n, two.x)
        nk, kn = _pairs(one.n, two.k), _pairs(one.k, two.n)
        kappa = both * (xn - nx) / rise
        # tr N L of either, tr N K' and tr N_1 L N_2 L, by divided differences.
        own = np.trace(one.n @ one.k, axis1=1, axis2=2)[:, None], np.trace(two.n @ two.k, axis1=1, axis2=2)[None, :]
        first = one.b[:, None] * (-(nk - own[0]) / rise + one.trace_slope[:, None]) / -rise
        second = two.b[None, :] * ((kn - own[1]) / rise + two.trace_slope[None, :]) / rise
        kx = (_pairs(one.k - one.x, two.n) / one.b[:, None]) + (_pairs(one.n, two.k - two.x) / two.b[None, :])
        last = one.b[:, None] * two.b[None, :] * (kx - 2 * xx) / rise**2
        squares = squares - first - second + last
    return np.asarray(-2 * np.log((1 - kappa) ** 2 - gamma * squares))


def covariance_of_sums(
    equation: Separable, first: Path, second: Path, left: Array | None = None, right: Array | None = None
) -> float:
    """Covariance of the sums of f over the eigenvalues that two paths go around, by the slopes f' at their points.

    Of the eigenvalues themselves by default.
    """
    one = first.steps if left is None else first.steps * left
    two = second.steps if right is None else second.steps * right
    direct, mirrored = covariances(equation, first, second)
    # Over both halves of both paths, (1 / 2 pi i)^2.
    total = one @ direct @ two - one @ mirrored @ np.conj(two)
    return float(-2 * total.real / (4 * math.pi**2))


def outliers_std(equation: Separable, boundaries: list[Boundary]) -> Floats:
    """Standard deviations of the eigenvalues between neighbouring boundaries, the largest eigenvalue first."""
    variances = []
    before: Path | None = None
    last = 0.0
    for boundary in boundaries:
        inner, outer = _two_paths(equation, boundary)
        variance = covariance_of_sums(equation, inner, outer)
        shared = 0.0 if before is None else covariance_of_sums(equation, before, outer)
        variances.append(variance - 2 * shared + last)
        last, before = variance, inner
    deviations: Floats = np.sqrt(np.maximum(variances, 0.0))
    return deviations


def _two_paths(equation: Separable, boundary: Boundary) -> tuple[Path, Path]:
    """Two paths that meet at most at the boundary: every other point of one circle through a gap, or two circles."""
    path = path_around(equation, boundary, 0.5, double=True)
    if path.even:
        return path.part(0), path.part(1)
    return path, path_around(equation, boundary, 0.8)


def ratio_deviation(equation: Separable) -> float:
    """Standard deviation of tr G / |G|_F, to first order (delta method)."""
    reach = equation.reach
    paths = []
    for radius in (1.6 * reach, 2.2 * reach):
        start = equation.follow(equation.start(0.5 * reach), complex(0.5 * reach, radius))
        angles: Floats = np.asarray((np.arange(POINTS) + 0.5) * (math.pi / POINTS), dtype=np.float64)
        paths.append(_circle(equation, start, 0.5 * reach, radius, angles, np.full(POINTS, math.pi / POINTS)))
    first, second = paths
    slopes = [2 * np.array([state.z for state in path.states]) for path in paths]
    of_trace = covariance_of_sums(equation, first, second)
    mixed = covariance_of_sums(equation, first, second, None, slopes[1])
    of_square = covariance_of_sums(equation, first, second, slopes[0], slopes[1])
    trace, square = equation.power_sums
    relative = of_trace / trace**2 - mixed / (trace * square) + of_square / (4 * square**2)
    return trace / math.sqrt(square) * math.sqrt(max(relative, 0.0))
