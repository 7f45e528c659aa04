"""The deterministic equivalent of G = R^T R, R = P M + T^(1/2) Z Sigma^(1/2): two functions of z instead of one.

With Q = (G - z)^(-1), Phi = E log det(G - z) is, to first order, stationary in m = tr(Sigma Q) and in a:

    Phi = sum_j w_j log(a s_j - z) + sum_i log(1 + m t_i) + log det(1 + K(m) W(a, z)) - a m,

    K(m) = P^T (1 + m T)^(-1) P,    W = M (a Sigma - z)^(-1) M^T = F F^T (1/D) sum_j w_j / (a s_j - z),

s_j the eigenvalues of Sigma (trace 1, w_j of each), F F^T the means' Gram matrix, whose directions have nothing to do
with Sigma's. The derivative in m is a = sum_i t_i / (1 + m t_i) + (means); in a it is m = sum_j w_j s_j / (a s_j - z) +
(means). Residuals, means and covariance are the levels of it; more of a kind are more terms. Where all s_j = 1/D, m is
the trace of Q over D, and without the means' part of a and m this is z(u) = u + Psi'(m) / D of the other levels.

A weight 1 + e v v^T on the rows adds e times the gradient's square, R^T v the gradient: log(1 + e q) to Phi and
e k k^T / (1 + e q) to K, with q = m sum_i alpha_i^2 / (1 + m t_i) and k = h - m P^T T^(1/2) (1 + m T)^(-1) alpha. The
derivative at e = 0 is g^T Q g = q + k^T W (1 + K W)^(-1) k.

Why this is no list of levels of `laws.subordination`, whose solver rests on z being a function of m = tr Q / D that
maps upper half plane to upper half plane off the curve Im z = 0. Residuals alone do have such a function, for any
Sigma: with the p that solves p = sum_i m_1 t_i / (1 + m_1 t_i) = sum_j w_j a_1 s_j / (1 + a_1 s_j), m p = a_1 m_1 (1 -
p / D), one more scalar equation, Psi'(m) = p / m (their law is compound free Poisson, of jumps the free product of T
and Sigma). Means of a fixed Gram matrix have not. One mean of square l in D directions with weak residuals has tr Q / D
= (1/D) / (l - z) - (1 - 1/D) / z, and its derivative vanishes at z = l / (1 -+ i (D - 1)^(-1/2)), off the real axis:
two z have the same m, and none of both is a function of it. Weak residuals move that point a little (the tests find
it), and tr(Sigma Q) has one as well. Means that are drawn (`levels.Means`) broaden a mean's eigenvalue just so far that
this point lies on the other side of the curve; the broadening is of order (q / D)^(1/2), a third of its size for C^2
means in 10^3 parameters, and a measured Gram matrix has none of it.

References
----------
Hachem, Loubaton and Najim (2007), Deterministic equivalents for certain functionals of large random matrices, theorem
2.4; theory of this package for the gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.optimize import brentq

from rmtland.landscape.theory.mean_kernel import MeanKernel
from rmtland.landscape.theory.residual_part import ResidualPart
from rmtland.landscape.weighted_rows import WeightedRows

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class State:
    """A solution at one z: m = tr(Sigma Q), a, and what follows.

    Attributes
    ----------
    z, m, a : complex
    trace : complex
        Tr Q, -dPhi/dz.
    hessian : tuple
        Second derivatives of Phi in (m, m), (m, a), (a, a).
    mixed : tuple
        In (m, z) and (a, z).
    """

    z: complex
    m: complex
    a: complex
    trace: complex
    hessian: tuple[complex, complex, complex]
    mixed: tuple[complex, complex]

    @property
    def slopes(self) -> tuple[complex, complex]:
        """Derivatives dm/dz and da/dz along the solution."""
        return self.step(self.mixed)

    def step(self, errors: tuple[complex, complex]) -> tuple[complex, complex]:
        """Newton's step in (m, a) from the gradient of Phi."""
        mm, ma, aa = self.hessian
        determinant = mm * aa - ma * ma
        if determinant == 0:
            return complex(math.nan), complex(math.nan)
        return (ma * errors[1] - aa * errors[0]) / determinant, (ma * errors[0] - mm * errors[1]) / determinant

    def moved(self, m: complex, a: complex) -> State:
        """The state a small step further, the trace to first order: of second derivatives it is a solution's."""
        return replace(self, m=self.m + m, a=self.a + a, trace=self.trace - self.mixed[0] * m - self.mixed[1] * a)

    @property
    def real(self) -> State:
        """With rounding off the axis taken away."""
        z, m, a, trace, *hessian = (
            complex(value.real) for value in (self.z, self.m, self.a, self.trace, *self.hessian, *self.mixed)
        )
        return State(z, m, a, trace, (hessian[0], hessian[1], hessian[2]), (hessian[3], hessian[4]))


@dataclass(frozen=True, eq=False)
class Separable:
    """The equation of weighted rows in D parameters.

    Parameters
    ----------
    rows : WeightedRows
    num_parameters : float
        D.
    """

    rows: WeightedRows
    num_parameters: float

    @cached_property
    def t(self) -> Floats:
        """Residual variances of the rows."""
        return self.rows.scales**2

    @cached_property
    def spectrum(self) -> tuple[Floats, Floats]:
        """Eigenvalues s_j of Sigma and how many of each, zeros too."""
        shares, counts = self.rows.covariance.shares(int(self.num_parameters))
        return np.append(shares, 0.0), np.append(counts, self.num_parameters - float(counts.sum()))

    @property
    def num_means(self) -> int:
        """Rank of the means."""
        return int(self.rows.factor.shape[1])

    # -- functions of m and of (a, z) ----------------------------------------------------------------------------------

    @cached_property
    def kernel(self) -> MeanKernel:
        """K of m, and its derivatives."""
        return MeanKernel(self.rows)

    def slope(self, m: Any) -> tuple[Any, Array, Any, Array]:
        """The q and k of the gradient at m, and their derivatives in m."""
        rows = self.rows
        pivot = 1 / (1 + m * self.t)
        squares = rows.slopes**2 * pivot
        weights = rows.scales * rows.slopes * pivot
        sums = np.zeros((2, rows.factor.shape[0]), np.result_type(type(m), np.float64))
        start = 0
        for block in rows.blocks:
            stop = start + block.loadings.shape[0]
            sums[:, block.columns] += np.array([weights[start:stop], (weights * pivot)[start:stop]]) @ block.loadings
            start = stop
        dropped = rows.dropped**2
        k, k_slope = rows.factor.T @ (rows.mean_slopes - m * sums[0]), -rows.factor.T @ sums[1]
        return m * (squares.sum() + dropped), k, squares @ pivot + dropped, k_slope

    @cached_property
    def _moments(self) -> Floats:
        s, w = self.spectrum
        return np.array([w, w * s, w * s * s])

    def sums(self, a: Any, z: Any) -> Array:
        """Sums of w s^i / (a s - z)^(j + 1) over the spectrum of Sigma, (3, 3)."""
        inverse = 1 / (a * self.spectrum[0] - z)
        square = inverse * inverse
        powers = np.array([inverse, square, square * inverse])
        # Real products; copies, as strided matrices would go past BLAS.
        return np.asarray(self._moments @ powers.real.copy().T + 1j * (self._moments @ powers.imag.copy().T))

    def mean_weight(self, state: State) -> complex:
        """W of means of unit length."""
        return complex(self._mean_weight(state.a, state.z))

    def _mean_weight(self, a: Any, z: Any) -> Any:
        s, w = self.spectrum
        return np.sum(w / (a * s - z)) / self.num_parameters

    def at(self, z: complex, m: complex, a: complex) -> tuple[tuple[complex, complex], State]:
        """The gradient of Phi in (m, a), which a solution makes 0, and all derivatives there."""
        sums = self.sums(a, z)
        pivot = 1 / (1 + m * self.t)
        share = self.t * pivot
        of_m, of_a = share.sum() - a, sums[1, 0] - m
        mm, ma, aa = -(share @ share), complex(-1.0), -sums[2, 1]
        mz, az, trace = 0j, sums[1, 1], sums[0, 0]
        if self.num_means:
            b, b_a, b_aa, b_z, b_az = (
                np.array([sums[0, 0], -sums[1, 1], 2 * sums[2, 2], sums[0, 1], -2 * sums[1, 2]]) / self.num_parameters
            )
            kernels = self.kernel.alike(m, 3)
            rest = np.linalg.inv(np.eye(len(kernels[0])) + b * kernels[0])
            y = rest @ kernels[1]
            # (1 + b K)^(-1) K = (1 - rest) / b.
            trace_y, own, size = np.trace(y), np.trace(rest), len(rest)
            trace_x, trace_xx = (size - own) / b, (size - 2 * own + np.sum(rest * rest.T)) / b**2
            crossed = np.sum(y * rest.T)
            of_m += b * trace_y
            of_a += b_a * trace_x
            mm += b * np.sum(rest * kernels[2].T) - b * b * np.sum(y * y.T)
            aa += b_aa * trace_x - b_a * b_a * trace_xx
            ma += b_a * crossed
            az += b_az * trace_x - b_a * b_z * trace_xx
            mz += b_z * crossed
            trace = trace - b_z * trace_x
        return (complex(of_m), complex(of_a)), State(
            z, m, a, complex(trace), (complex(mm), complex(ma), complex(aa)), (complex(mz), complex(az))
        )

    def potential(self, state: State) -> complex:
        """Phi at a solution with Im z >= 0, on the branch of E log det(G - z), continuous in the upper half plane."""
        s, w = self.spectrum
        z, m, a = state.z, state.m, state.a
        value = w @ _logs(a * s - z, -1) + np.sum(_logs(1 + m * self.t, 1)) - a * m
        if self.num_means:
            b = self.mean_weight(state)
            value += _log_det_below(np.eye(self.num_means) / b + self.kernel(m)[0])
            value += self.num_means * complex(_logs(np.array([b]), 1)[0])
        return complex(value)

    def count_above(self, state: State) -> float:
        """Expected number of eigenvalues above z: closed form."""
        return self.num_parameters + self.potential(state).imag / math.pi

    def power(self, state: State) -> complex:
        """g^T Q g, of the mean square `vector_square`."""
        return self.power_slopes(state)[0]

    def power_slopes(self, state: State) -> tuple[complex, complex, complex]:
        """g^T Q g and its derivatives in m and a at fixed z."""
        q, k, q_slope, k_slope = self.slope(state.m)
        if not self.num_means:
            return complex(q), complex(q_slope), 0j
        sums = self.sums(state.a, state.z) / self.num_parameters
        b, b_a = sums[0, 0], -sums[1, 1]
        kernel, slope = self.kernel(state.m, 2)
        n = np.linalg.solve(np.eye(self.num_means) + b * kernel, k)
        of_m = q_slope + b * (2 * (k_slope @ n) - b * (n @ slope @ n))
        return complex(q + b * (k @ n)), complex(of_m), complex(b_a * (n @ n))

    @cached_property
    def vector_square(self) -> float:
        """Mean square of the gradient: exact."""
        rows = self.rows
        of_means = rows.factor.T @ rows.mean_slopes
        return float(of_means @ of_means + rows.slopes @ rows.slopes + rows.dropped**2)

    @cached_property
    def vector_square_variance(self) -> float:
        """Variance of the gradient's square: of a Gaussian vector of covariance `own` times Sigma about its mean."""
        s, w = self.spectrum
        own = float(self.rows.slopes @ self.rows.slopes) + self.rows.dropped**2
        return 4 * own * (self.vector_square - own) / self.num_parameters + 2 * own**2 * float(w @ s**2)

    @cached_property
    def power_sums(self) -> tuple[float, float]:
        """E tr G and E tr G^2: exact, by Wick's rule."""
        s, w = self.spectrum
        t = self.t
        second = float(w @ s**2)
        of_means = self.kernel(0.0)[0]
        blocks = self.rows.blocks
        seen = [b.loadings @ self.rows.factor[b.columns] for b in blocks] if self.num_means else []
        heights = np.concatenate([np.sum(part**2, axis=1) for part in seen]) if seen else np.zeros(t.size)
        # T less the outer product of the combination that is 0.
        lost = self.rows.cancelled_rows
        own, mixed = float(lost @ lost), float(np.sum((lost @ np.concatenate(seen)) ** 2)) if seen else 0.0
        trace, squares = float(t.sum()) - own, float(t @ t) - 2 * float(t @ lost**2) + own**2
        length = float(heights.sum())
        square = float(np.sum(of_means**2)) + 2 * trace * length / self.num_parameters
        square += 2 * (float(t @ heights) - mixed) * (1 + 1 / self.num_parameters)
        square += trace**2 * second + squares * (1 + second)
        return length + trace, square

    @cached_property
    def mean_squares(self) -> Floats:
        """Eigenvalues of G without residuals, ascending, (q,)."""
        return np.linalg.eigvalsh(self.kernel(0.0)[0])

    @cached_property
    def reach(self) -> float:
        """Roughly the largest eigenvalue: an upper bound of the mean part's plus of the residual part's."""
        top = float(self.mean_squares[-1]) if self.num_means else 0.0
        return (math.sqrt(top) + math.sqrt(self.residual_reach)) ** 2

    @cached_property
    def residual_reach(self) -> float:
        """That of the residual part."""
        if not (self.t.size and self.t.max() > 0):
            return 0.0
        s = float(self.spectrum[0].max())
        return (math.sqrt(s * float(self.t.sum())) + math.sqrt(float(self.t.max()))) ** 2

    @cached_property
    def outside(self) -> float:
        """Share of Sigma outside of what the rows span: -z tr(Sigma Q) as z goes to 0, where a m = number of rows."""
        s, w = self.spectrum
        s, w = s[s > 0], w[s > 0]
        count = int(np.count_nonzero(self.t))
        if count >= w.sum():
            return 0.0
        # Right of 0 it is sum w s / (1 + count s / x) of itself, x; at most the trace, 1.
        return float(brentq(lambda x: w @ (s / (x + count * s)) - 1, 0.0, 1.0)) if count else 1.0

    @cached_property
    def residual(self) -> ResidualPart:
        """The residual part alone."""
        s, w = self.spectrum
        return ResidualPart(self.t[self.t > 0], s[s > 0], w[s > 0])

    def spikes(self, count: int) -> Floats:
        """Rough places of at most so many eigenvalues that the means take out of the bulk, largest first."""

        def strengths(m: float, z: float, a: float) -> Floats:
            of_unit = float(self._mean_weight(a, z))
            found: Floats = -of_unit * np.linalg.eigvalsh(self.kernel(m)[0])[::-1]
            return found

        return self.residual.spikes(strengths, min(count, self.num_means))


def _logs(values: Array, side: int) -> Array:
    """Logarithms of values in one closed half plane, upper (1) or lower (-1), rounding across the axis undone."""
    # The sign of a zero says which side it is on.
    angles = np.arctan2(np.copysign(np.maximum(side * values.imag, 0.0), side), values.real)
    logs: Array = np.log(np.abs(values)) + 1j * angles
    return logs


def _log_det_below(matrix: Array) -> complex:
    """The sum of the logarithms of the eigenvalues of X - i Y, Y >= 0: of those of Y^(-1/2) X Y^(-1/2) less i."""
    try:
        root = np.linalg.cholesky(-matrix.imag)
    except np.linalg.LinAlgError:
        return complex(np.sum(_logs(np.linalg.eigvals(matrix), -1)))
    half = solve_triangular(root, matrix.real, lower=True)
    values = np.linalg.eigvalsh(solve_triangular(root, half.T, lower=True))
    return complex(np.sum(_logs(values - 1j, -1)) + 2 * np.sum(np.log(np.diag(root))))
