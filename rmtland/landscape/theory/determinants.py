"""Cov(log det(G_1 - z_1), log det(G_2 - z_2)) over draws of the residuals, and with the gradient as one more row.

For real Gaussian residuals, with Q = (G - z)^(-1) and Q' = (R R^T - z)^(-1) scaled as in `separable`,

    Cov(log det(G_1 - z_1), log det(G_2 - z_2)) = -2 log((1 - kappa)^2 - gamma gamma'),

    gamma = tr Sigma Q_1 Sigma Q_2,    gamma' = tr T Y_1 T Y_2,    Y = (1 + m T + P M (a Sigma - z)^(-1) M^T P^T)^(-1),
    kappa = tr Sigma Q_1 M^T L M Q_2,    L = P^T (1 + m_1 T)^(-1) T (1 + m_2 T)^(-1) P = (K_1 - K_2) / (m_2 - m_1).

G_j = G + e_j g g^T, g the gradient, is one more row, with K_j + eps_j k_j k_j^T, eps = e / (1 + e q), for K_j, and L
with ((eps_2 - eps_1) / (m_2 - m_1) + eps_1 eps_2 theta) k_1 k_2^T more, theta = (q_2 - q_1) / (m_2 - m_1). As g^T Q g
is the derivative of log det(G_j - z) in e_j at 0, both derivatives of the covariance give the gradient's. All traces
are divided differences of a few q x q matrices and vectors of either point.

References
----------
Hachem, Kharouf, Najim and Silverstein (2012), A CLT for information-theoretic statistics of non-centered Gram random
matrices, theorem 2.2, for z_1 = z_2 and complex residuals.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.landscape.theory.separable import Separable, State

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Matrices:
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
    def of(cls, equation: Separable, states: list[State], weight: Floats | None = None) -> Matrices:
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

    def conjugate(self) -> Matrices:
        """At the conjugate points."""
        return Matrices(*(np.conj(getattr(self, field.name)) for field in dataclasses.fields(self)))


def _pairs(one: Array, two: Array) -> Array:
    """Tr A_p B_r for symmetric matrices, (p, r)."""
    return one.reshape(len(one), -1) @ two.reshape(len(two), -1).T


def determinants_covariance(equation: Separable, one: Matrices, two: Matrices) -> Array:
    """The covariance at all pairs of points, (p, r)."""
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
    equation: Separable, one: Matrices, two: Matrices, gamma: Array, pairs: tuple[Array, Array, Array]
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


def _sandwich(one: Matrices, two: Matrices, bent: Array, crossed: Array) -> Array:
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
    # What k_2 has of n_1 is in both, and drops out.
    found = -(one.own_slope[:, None] + (own - eps * kn - crossed) / rise) / rise
    found = found + other_eps * (kn - 2 * other_kn) / rise**2
    ahead = (kn - other_kn) / rise
    found = found + 2 * eps * (-(slope_n + ahead) / rise + other_eps * theta * ahead)
    return np.asarray(one.b[:, None] * (found + eps**2 * (bent + other_eps * theta**2) * kn))


def _times(matrices: Array, vectors: Array) -> Array:
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])
