"""Fluctuations of G = R^T R over draws of the residuals: the covariance of log-determinants, integrated around.

For real Gaussian residuals, with Q = (G - z)^(-1) and Q' = (R R^T - z)^(-1) scaled as in `separable`,

    Cov(log det(G_1 - z_1), log det(G_2 - z_2)) = -2 log((1 - kappa)^2 - gamma gamma'),

    gamma = tr Sigma Q_1 Sigma Q_2,    gamma' = tr T Y_1 T Y_2,    Y = (1 + m T + P M (a Sigma - z)^(-1) M^T P^T)^(-1),
    kappa = tr Sigma Q_1 M^T L M Q_2,    L = P^T (1 + m_1 T)^(-1) T (1 + m_2 T)^(-1) P = (K_1 - K_2) / (m_2 - m_1).

G_j = G + e_j g g^T, g the gradient, is one more row, with K_j + eps_j k_j k_j^T, eps = e / (1 + e q), for K_j, and L
with ((eps_2 - eps_1) / (m_2 - m_1) + eps_1 eps_2 theta) k_1 k_2^T more, theta = (q_2 - q_1) / (m_2 - m_1). As g^T Q g
is the derivative of log det(G_j - z) in e_j at 0, both derivatives of the covariance give the gradient's. All traces
are divided differences of a few q x q matrices and vectors of either point. Paths are circles in the plane of z.

References
----------
Hachem, Kharouf, Najim and Silverstein (2012), A CLT for information-theoretic statistics of non-centered Gram random
matrices, theorem 2.2, for z_1 = z_2 and complex residuals.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.landscape.theory.continuation import Continuation
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
ORDER = 6
"""Of the Gauss-Legendre rule on panels that halve towards a boundary in the bulk."""
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
    enough: float = ENOUGH,
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
    number = POINTS
    while 0 < number * min(nearness) < enough and number <= MOST_POINTS:
        number *= 2
    if min(nearness) > 0 and number <= MOST_POINTS:
        return _circle(solver, centre, radius, *_evenly(number, 0.0 if second else 0.5))
    return _circle(solver, centre, radius, *_panels(*nearness), height=1.4 if second else 1.0)


def paths_between(solver: Continuation, low: Boundary, high: tuple[float, float] | None = None) -> tuple[Path, Path]:
    """Both paths, as closely spaced as standard deviations need them."""
    one, two = (path_between(solver, low, high, ENOUGH_FOR_STD, second) for second in (False, True))
    return one, two


def _evenly(number: int, start: float) -> tuple[Floats, Floats]:
    """Angles and weights on the upper half of a circle, of a rule that is its own mirror image."""
    steps = np.arange(number + (start == 0), dtype=np.float64) + start
    weights: Floats = np.where((steps == 0) | (steps == number), 0.5, 1.0) * (math.pi / number)
    return steps * (math.pi / number), weights


def _panels(low: float, high: float) -> tuple[Floats, Floats]:
    """Angles from the far end, 0, to the near one, pi, and weights: panels that halve to either as it is near."""
    nodes, weights = (np.asarray(part, dtype=np.float64) for part in np.polynomial.legendre.leggauss(ORDER))
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


@dataclass(frozen=True, eq=False)
class _Matrices:
    """What the traces are made of, at each point of a path; (p, ...).

    `d` is the diagonal of (a Sigma - z)^(-1), `e` of (1 + m T)^(-1); `eps`, `q`, `k`, `k_slope` (dk/dm) are the
    gradient's; `kernel` is K with its part, `n` is (1 + b K)^(-1) and `own_slope` tr n dK/dm without it.
    """

    m: Array
    d: Array
    e: Array
    b: Array
    eps: Array
    q: Array
    k: Array
    k_slope: Array
    kernel: Array
    n: Array
    own_slope: Array

    @classmethod
    def of(cls, equation: Separable, states: list[State], weight: Floats | None = None) -> _Matrices:
        """At solutions, for G + weight g g^T of a weight at each."""
        m = np.array([state.m for state in states])
        a, z = (np.array([getattr(state, name) for state in states])[:, None] for name in ("a", "z"))
        e = 1 / (1 + m[:, None] * equation.t)
        b = np.array([equation.mean_weight(state) for state in states])
        (kernel, slopes), size = equation.kernel(m, 2), equation.num_means
        q, k, k_slope = np.zeros_like(m), np.zeros((m.size, size), m.dtype), np.zeros((m.size, size), m.dtype)
        eps = np.zeros_like(m)
        if weight is not None:
            found = [equation.slope(at) for at in m]
            q, k, k_slope = (np.array([part[j] for part in found]) for j in (0, 1, 3))
            eps = weight / (1 + weight * q)
            kernel = kernel + eps[:, None, None] * k[:, :, None] * k[:, None, :]
        n = np.linalg.inv(np.eye(size) + b[:, None, None] * kernel)
        own_slope = np.sum(n * slopes, axis=(1, 2))
        return cls(m, 1 / (a * equation.spectrum[0] - z), e, b, eps, q, k, k_slope, kernel, n, own_slope)

    def conjugate(self) -> _Matrices:
        """At the conjugate points."""
        return _Matrices(*(np.conj(getattr(self, field.name)) for field in dataclasses.fields(self)))


def _pairs(one: Array, two: Array) -> Array:
    """Tr A_p B_r for symmetric matrices, (p, r)."""
    return one.reshape(len(one), -1) @ two.reshape(len(two), -1).T


def _covariance(equation: Separable, one: _Matrices, two: _Matrices) -> Array:
    s, w = equation.spectrum
    theta = (two.q[None, :] - one.q[:, None]) / (two.m[None, :] - one.m[:, None])
    gamma = (one.d * (w * s * s)) @ two.d.T
    # tr T D_1 T D_2 of D = (1 + m T)^(-1) with the gradient's row.
    weights = equation.t * equation.rows.slopes**2
    bent = (one.e**2 * weights) @ two.e.T, one.e @ (two.e**2 * weights).T
    eps, other_eps = one.eps[:, None], two.eps[None, :]
    squares = (equation.t**2 * one.e) @ two.e.T + eps * bent[0] + other_eps * bent[1] + eps * other_eps * theta**2
    kappa: Any = 0.0
    if equation.num_means:
        pairs = _pairs(one.n, two.n), _pairs(one.kernel, two.n), _pairs(one.n, two.kernel)
        gamma, kappa, lowered = _with_means(equation, one, two, gamma, pairs)
        squares = squares - lowered - _sandwich(one, two, bent[0], pairs[2])
        squares = squares - _sandwich(two, one, bent[1].T, pairs[1].T).T
    return np.asarray(-2 * np.log((1 - kappa) ** 2 - gamma * squares))


def _with_means(
    equation: Separable, one: _Matrices, two: _Matrices, gamma: Array, pairs: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Gamma, kappa and what both means' parts together take from tr T Y_1 T Y_2; pairs: tr n n, tr K n, tr n K."""
    s, w = equation.spectrum
    d, size = equation.num_parameters, equation.num_means
    nn, kn, nk = pairs
    b, other_b = one.b[:, None], two.b[None, :]
    own, other_own = (np.trace(at.n, axis1=1, axis2=2) for at in (one, two))
    own, other_own = own[:, None], other_own[None, :]
    # X = n K is (1 - n) / b.
    xx = (size - own - other_own + nn) / (b * other_b)
    xn, nx = (other_own - nn) / b, (own - nn) / other_b
    both = (one.d * (w * s)) @ two.d.T / d
    left = (one.d**2 * (w * s * s)) @ two.d.T / d
    right = (one.d * (w * s * s)) @ (two.d**2).T / d
    gamma = gamma - left * (size - own) / b - right * (size - other_own) / other_b + both**2 * xx
    rise = two.m[None, :] - one.m[:, None]
    theta = (two.q[None, :] - one.q[:, None]) / rise
    # L is [K_1 - K_2 + omega k_1 k_2^T] / (m_2 - m_1).
    omega = two.eps[None, :] - one.eps[:, None] * (1 - two.eps[None, :] * theta * rise)
    n, other_n = _times(one.n, one.k), _times(two.n, two.k)
    along = n @ other_n.T
    kappa = both * (xn - nx + omega * along) / rise
    last = (kn - xn) / b + (nk - nx) / other_b - 2 * xx
    last += 2 * omega * ((one.k @ other_n.T - along) / b - (n @ two.k.T - along) / other_b)
    last += omega**2 * np.sum(one.k * n, axis=1)[:, None] * np.sum(two.k * other_n, axis=1)[None, :]
    return gamma, kappa, -b * other_b * last / rise**2


def _sandwich(one: _Matrices, two: _Matrices, bent: Array, crossed: Array) -> Array:
    """B_1 tr n_1 P^T D_1 T D_2 T D_1 P, (p, r); `crossed` is tr n_1 K_2."""
    rise = two.m[None, :] - one.m[:, None]
    own = np.sum(one.n * one.kernel, axis=(1, 2))[:, None]
    if not (one.eps.any() or two.eps.any()):
        return np.asarray(-one.b[:, None] * (one.own_slope[:, None] + (own - crossed) / rise) / rise)
    eps, other_eps = one.eps[:, None], two.eps[None, :]
    theta = (two.q[None, :] - one.q[:, None]) / rise
    n = _times(one.n, one.k)
    kn, slope_n = np.sum(one.k * n, axis=1)[:, None], np.sum(one.k_slope * n, axis=1)[:, None]
    other_kn = n @ two.k.T
    squares = _pairs(one.n, two.k[:, :, None] * two.k[:, None, :])
    own, crossed = own - eps * kn, crossed - other_eps * squares
    found = -(one.own_slope[:, None] + (own - crossed) / rise) / rise
    found = found + other_eps * (kn - 2 * other_kn + squares) / rise**2
    ahead = (kn - other_kn) / rise
    found = found + 2 * eps * (-(slope_n + ahead) / rise + other_eps * theta * ahead)
    return np.asarray(one.b[:, None] * (found + eps**2 * (bent + other_eps * theta**2) * kn))


def _times(matrices: Array, vectors: Array) -> Array:
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])


def covariance_of_sums(
    equation: Separable, first: Path, second: Path, left: Array | None = None, right: Array | None = None
) -> float:
    """Covariance of the sums of f over the eigenvalues that two paths go around, by the slopes f' at their points.

    Of the eigenvalues themselves by default.
    """
    one, two = (_Matrices.of(equation, path.states) for path in (first, second))
    direct, mirrored = _covariance(equation, one, two), _covariance(equation, one, two.conjugate())
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
    # The number of directions is given, not the level: each eigenvalue more or less brings its power.
    at_boundary = boundary.state
    rate = equation.power(at_boundary).imag / at_boundary.trace.imag if boundary.distance == 0 else 0.0
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
    ahead: _Matrices
    behind: _Matrices

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
            _Matrices.of(
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
                direct = direct + sign * other_sign * _covariance(self.equation, left, right)
                mirrored = mirrored + sign * other_sign * _covariance(self.equation, left, right.conjugate())
        unit = 4 * np.outer(self.step, other.step)
        return _both_halves(self.steps, other.steps, direct / unit, mirrored / unit)
