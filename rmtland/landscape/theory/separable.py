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

References
----------
Hachem, Loubaton and Najim (2007), Deterministic equivalents for certain functionals of large random matrices, theorem
2.4; theory of this package for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar

from rmtland.landscape.weighted_rows import WeightedRows

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

ITERATIONS = 40
PRECISION = 1e-6
"""Of the last step of Newton's method, whose error is its square."""
FEW_COLUMNS = 16
"""Up to so many means seen by a row its outer products are kept."""


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
        return _solve(self.hessian, (-self.mixed[0], -self.mixed[1]))


def _solve(hessian: tuple[complex, complex, complex], right: tuple[complex, complex]) -> tuple[complex, complex]:
    mm, ma, aa = hessian
    determinant = mm * aa - ma * ma
    if determinant == 0:
        return complex(math.nan), complex(math.nan)
    return (aa * right[0] - ma * right[1]) / determinant, (mm * right[1] - ma * right[0]) / determinant


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

    def kernel(self, weights: Array) -> Array:
        """F^T P^T diag(weights) P F of weights (n,), or of several (k, n)."""
        rows, size = self.rows, self.rows.factor.shape[0]
        several = np.atleast_2d(weights)
        found = np.zeros((len(several), size, size), several.dtype)
        for columns, sums in self._block_sums(several):
            found[:, columns[:, None], columns] += sums
        if not self._unit_factor:
            found = _real_product(rows.factor.T, found)
            found = _real_product(rows.factor.T, found.swapaxes(1, 2)).swapaxes(1, 2)
        return found if np.ndim(weights) > 1 else found[0]

    def _times_gram(self, weights: Array) -> Array:
        """P^T diag(weights) P F F^T of several weights (k, n): of the eigenvalues of `kernel`, and cheaper."""
        size = self.rows.factor.shape[0]
        found = np.zeros((len(weights), size, size), weights.dtype)
        for columns, sums in self._block_sums(weights):
            part = self._gram[columns]
            product = np.matmul(sums.real, part) + 1j * np.matmul(sums.imag, part)
            found[:, columns] += product if np.iscomplexobj(weights) else product.real
        return found

    @cached_property
    def _gram(self) -> Floats:
        gram: Floats = self.rows.factor @ self.rows.factor.T
        return gram

    def _block_sums(self, weights: Array) -> Iterator[tuple[npt.NDArray[np.int64], Array]]:
        """P^T diag(weights) P of each block, (k, b, b), and its columns."""
        # Real and imaginary parts are real matrices: no product of complex ones.
        split = np.iscomplexobj(weights)
        parts = np.concatenate([weights.real, weights.imag]) if split else weights
        start = 0
        for block, products in zip(self.rows.blocks, self._products, strict=True):
            p = block.loadings
            part = parts[:, start : start + p.shape[0]]
            start += p.shape[0]
            if products is None:
                sums = np.matmul(p.T, part[:, :, None] * p)
            else:
                sums = (part @ products).reshape(len(parts), p.shape[1], p.shape[1])
            yield block.columns, sums[: len(weights)] + 1j * sums[len(weights) :] if split else sums

    @cached_property
    def _products(self) -> list[Floats | None]:
        """Outer products of each row's loadings, (r, b^2), where they are few."""
        return [
            None
            if block.loadings.shape[1] > FEW_COLUMNS
            else (block.loadings[:, :, None] * block.loadings[:, None, :]).reshape(len(block.loadings), -1)
            for block in self.rows.blocks
        ]

    @cached_property
    def _unit_factor(self) -> bool:
        factor = self.rows.factor
        return factor.shape[0] == factor.shape[1] and bool(np.array_equal(factor, np.eye(factor.shape[0])))

    def slope(self, m: Any) -> tuple[Any, Array]:
        """The q and k of the gradient, at m."""
        rows = self.rows
        pivot = 1 + m * self.t
        q = m * (np.sum(rows.slopes**2 / pivot) + rows.dropped**2)
        k = rows.mean_slopes.astype(np.result_type(type(m), np.float64))
        weights = m * rows.scales * rows.slopes / pivot
        start = 0
        for block in rows.blocks:
            stop = start + block.loadings.shape[0]
            k[block.columns] -= weights[start:stop] @ block.loadings
            start = stop
        return q, rows.factor.T @ k

    def omega(self, a: Any, z: Any) -> tuple[Any, Any, Any, Any, Any]:
        """W of means of unit length, with its derivatives in a, (a, a), z and (a, z)."""
        s, w = self.spectrum
        share = w / (a * s - z)
        inverse = 1 / (a * s - z)
        d = self.num_parameters
        first, second, third = share, share * inverse, share * inverse**2
        return (
            first.sum() / d,
            -(s @ second) / d,
            2 * (s * s) @ third / d,
            second.sum() / d,
            -2 * (s @ third) / d,
        )

    def at(self, z: complex, m: complex, a: complex) -> tuple[tuple[complex, complex], State]:
        """The gradient of Phi in (m, a), which a solution makes 0, and all derivatives there."""
        s, w = self.spectrum
        inverse = 1 / (a * s - z)
        share = self.t / (1 + m * self.t)
        of_a = w @ (s * inverse) - m
        of_m = share.sum() - a
        mm, aa, ma = -(share @ share), -(w @ (s * inverse) ** 2), complex(-1.0)
        az, mz = w @ (s * inverse**2), 0j
        trace = w @ inverse
        if self.num_means:
            b, b_a, b_aa, b_z, b_az = self.omega(a, z)
            pivot = 1 / (1 + m * self.t)
            kernels = self._times_gram(np.array([pivot, -pivot * share, 2 * pivot * share**2]))
            inverse_pivot = np.linalg.inv(np.eye(len(self._gram)) + b * kernels[0])
            x, y = inverse_pivot @ kernels[0], inverse_pivot @ kernels[1]
            trace_x, trace_y = np.trace(x), np.trace(y)
            of_m += b * trace_y
            of_a += b_a * trace_x
            mm += b * np.sum(inverse_pivot * kernels[2].T) - b * b * np.sum(y * y.T)
            trace_xx = np.sum(x * x.T)
            aa += b_aa * trace_x - b_a * b_a * trace_xx
            crossed = trace_y - b * np.sum(y * x.T)
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
        some = w > 0
        value = w[some] @ _logs(a * s[some] - z, -1) + np.sum(_logs(1 + m * self.t, 1)) - a * m
        if self.num_means:
            b = self.omega(a, z)[0]
            # 1/b + K has its numerical range in the lower half plane.
            eigenvalues = np.linalg.eigvals(np.eye(self.num_means) / b + self.kernel(1 / (1 + m * self.t)))
            value += np.sum(_logs(eigenvalues, -1)) + self.num_means * complex(_logs(np.array([b]), 1)[0])
        return complex(value)

    def count_above(self, state: State) -> float:
        """Expected number of eigenvalues above z: closed form."""
        return self.num_parameters + self.potential(state).imag / math.pi

    def power(self, state: State) -> complex:
        """g^T Q g, of the mean square `vector_square`."""
        q, k = self.slope(state.m)
        value = complex(q)
        if self.num_means:
            b = self.omega(state.a, state.z)[0]
            pivot = np.eye(self.num_means) + b * self.kernel(1 / (1 + state.m * self.t))
            value += complex(b * (k @ np.linalg.solve(pivot, k)))
        return value

    @cached_property
    def vector_square(self) -> float:
        """Mean square of the gradient: exact."""
        rows = self.rows
        of_means = rows.factor.T @ rows.mean_slopes
        return float(of_means @ of_means + rows.slopes @ rows.slopes + rows.dropped**2)

    @cached_property
    def power_sums(self) -> tuple[float, float]:
        """E tr G and E tr G^2: exact, by Wick's rule."""
        s, w = self.spectrum
        t = self.t
        second = float(w @ s**2)
        of_means = self.kernel(np.ones(t.size))
        heights = (
            np.concatenate([np.sum((b.loadings @ self.rows.factor[b.columns]) ** 2, axis=1) for b in self.rows.blocks])
            if self.num_means
            else np.zeros(t.size)
        )
        length = float(heights.sum())
        square = float(np.sum(of_means**2)) + 2 * float(t.sum()) * length / self.num_parameters
        square += 2 * float(t @ heights) * (1 + 1 / self.num_parameters)
        square += float(t.sum()) ** 2 * second + float(t @ t) * (1 + second)
        return length + float(t.sum()), square

    # -- solutions -----------------------------------------------------------------------------------------------------

    @cached_property
    def reach(self) -> float:
        """Roughly the largest eigenvalue: an upper bound of the mean part's plus of the residual part's."""
        top = 0.0
        if self.num_means:
            top = float(np.linalg.eigvalsh(self.kernel(np.ones(self.t.size)))[-1])
        if self.t.size and self.t.max() > 0:
            s = float(self.spectrum[0].max())
            own = (math.sqrt(s * float(self.t.sum())) + math.sqrt(float(self.t.max()))) ** 2
            top = (math.sqrt(top) + math.sqrt(own)) ** 2
        return top

    def refine(self, z: complex, m: complex, a: complex, iterations: int = ITERATIONS) -> State | None:
        """Newton's method at z from a guess; None where it finds no solution that is a resolvent's."""
        with np.errstate(all="ignore"):
            for _ in range(iterations):
                errors, state = self.at(z, m, a)
                step_m, step_a = _solve(state.hessian, (-errors[0], -errors[1]))
                size = abs(step_m) / max(abs(m), 1e-300) + abs(step_a) / max(abs(a), 1e-300)
                if not size < math.inf:
                    return None
                shrink = min(1.0, 0.5 / size) if size > 0.5 else 1.0
                m, a = m + shrink * step_m, a + shrink * step_a
                if size <= PRECISION:
                    return self.proved(self.at(z, m, a)[1])
        return None

    def proved(self, state: State) -> State | None:
        """The state where it is in the half planes that a resolvent's traces are in; to rounding on the axis."""
        slack = 1e-9
        upper = state.m.imag >= -slack * abs(state.m) and state.trace.imag >= -slack * abs(state.trace)
        return state if upper and state.a.imag <= slack * abs(state.a) else None

    def start(self, x: float) -> State:
        """A solution far above x, where the resolvent is -1/z."""
        height = 4 * self.reach + abs(x)
        for _ in range(20):
            z = complex(x, height)
            state = self.refine(z, -1 / z, complex(self.t.sum()) if self.t.size else 0j)
            if state is not None:
                return state
            height *= 2
        raise RuntimeError(f"no solution found far above {x:g}")

    def follow(self, state: State, z: complex) -> State:
        """The solution at z, by a straight way from one at another place in the upper half plane.

        Raises
        ------
        RuntimeError
            Where steps become too small, as at an edge of the spectrum.
        """
        share, step = 0.0, 1.0
        origin, way = state.z, z - state.z
        while share < 1:
            to = min(share + step, 1.0)
            target = z if to == 1.0 else origin + to * way
            slope_m, slope_a = state.slopes
            move = target - state.z
            guess_m, guess_a = state.m + slope_m * move, state.a + slope_a * move
            good = abs(slope_m * move) < 0.4 * abs(state.m) and abs(slope_a * move) < 0.4 * max(abs(state.a), 1e-300)
            if target.imag > 0:
                good = good and guess_m.imag > 0
            found = self.refine(target, guess_m, guess_a) if good or step < 1e-3 else None
            if found is not None and abs(found.m - guess_m) < 0.5 * abs(found.m):
                state, share, step = found, to, 2 * step
            else:
                step *= 0.4
                if step < 1e-9:
                    raise RuntimeError(f"no way found to {z:g}")
        return state

    def solve(self, x: float) -> State:
        """The solution at x + i0; a real one off the support."""
        state = self.start(x)
        floor = 1e-9 * max(abs(x), 1e-6 * self.reach)
        while state.z.imag > floor:
            state = self.follow(state, complex(x, max(0.15 * state.z.imag, 0.99 * floor)))
        return self.landed(state)

    def beside(self, state: State, x: float) -> State | None:
        """The solution at x + i0 next to one in the bulk; None where another way has to be gone."""
        if state.m.imag < 1e-3 * abs(state.m):
            return None
        move = x - state.z
        slope_m, slope_a = state.slopes
        guess = state.m + slope_m * move, state.a + slope_a * move
        if not abs(slope_m * move) < 0.2 * state.m.imag:
            return None
        found = self.refine(complex(x, 0.0), *guess, 8)
        if found is None or abs(found.m - guess[0]) > 0.2 * abs(guess[0].imag):
            return None
        return found

    def quantile(self, above: float, guess: float) -> State:
        """The point of the axis with so many eigenvalues above it: down the curve of that count.

        In a gap with just that many above, where the resolvent's trace is 0. `guess` may be off by the width of a band.
        """
        state = self.start(guess)
        height = 0.05 * guess
        while True:
            state = self.follow(state, complex(guess, height))
            if abs(self.count_above(state) - above) < 0.4:
                return self._down(state, above)
            height *= 0.3
            if height < 1e-4 * guess:
                return self._bracketed(above, guess)

    def _down(self, state: State, above: float) -> State:
        floor = 1e-7 * state.z.real
        for count in range(200):
            excess = math.pi * (above - self.count_above(state))
            height = state.z.imag
            if height <= floor and abs(excess) < 1e-6:
                break
            settled = abs(excess) < 0.3
            if settled and count % 2 == 1:
                found = self._touched(state, excess, above)
                if found is not None:
                    return found
            # d Im Phi = -Im(trace dz) along dz = (dx, dy).
            down = -0.6 * height if settled and height > floor else 0.0
            dx = -(excess + state.trace.real * down) / state.trace.imag
            if settled and height <= floor and abs(dx) > 10 * height:  # a gap: any place of it will do
                break
            dx = min(max(dx, -0.8 * height), 0.8 * height)
            state = self.follow(state, complex(state.z.real + dx, height + down))
        return self.landed(state)

    def _touched(self, state: State, excess: float, above: float) -> State | None:
        """Newton's method for z on the axis from a point of the curve above; None outside a band."""
        for _ in range(8):
            dx = -(excess - state.trace.real * state.z.imag) / state.trace.imag
            if not abs(dx) < 0.3 * state.z.real:
                return None
            move = complex(dx, -state.z.imag)
            slope_m, slope_a = state.slopes
            guess = state.m + slope_m * move, state.a + slope_a * move
            found = self.refine(complex(state.z.real + dx, 0.0), *guess, 8) if guess[0].imag > 0 else None
            if found is None or found.m.imag < 1e-7 * abs(found.m) or found.trace.imag <= 0:
                return None
            state, excess = found, math.pi * (above - self.count_above(found))
            if abs(excess) < 1e-6:
                return state
        return None

    def landed(self, state: State) -> State:
        """On the axis below; where Newton's method goes elsewhere, where it is."""
        found = self.refine(complex(state.z.real, 0.0), state.m, state.a)
        return found if found is not None and abs(found.m - state.m) < 1e-2 * abs(state.m) else state

    def _bracketed(self, above: float, guess: float) -> State:
        """By brackets on the axis, with Newton's steps in the bulk."""
        low, high = 1e-12 * self.reach, 1.2 * self.reach
        x = min(max(guess, 2 * low), 0.9 * high)
        state: State | None = None
        for _ in range(200):
            near = None if state is None else self.beside(state, x)
            state = self.solve(x) if near is None else near
            count = self.count_above(state)
            low, high = (x, high) if count > above else (low, x)
            if abs(count - above) < 1e-6 or high - low < 1e-9 * high:
                break
            rate = state.trace.imag / math.pi
            step = (count - above) / rate if rate > 1e-3 / x else math.inf
            if low < x + step < high and abs(step) < 0.5 * x:
                x += step
            else:
                x = math.sqrt(low * high) if low < 0.5 * high else 0.5 * (low + high)
        assert state is not None
        return state

    def spikes(self, count: int) -> Floats:
        """Roots of det(1 + K W) right of the residual part's edge, largest first; at most so many.

        The means' effect on m and a, of order 1/D, left out.
        """
        top = self.residual.steepest
        tops: dict[float, Floats] = {}

        def strengths(log_m: float) -> Floats:
            if log_m not in tops:
                m = -math.exp(log_m)
                place, a = self.residual.place(m)
                kernel = self.kernel(1 / (1 + m * self.t))
                tops[log_m] = -self.omega(a, place)[0] * np.linalg.eigvalsh(kernel)[::-1][:count]
            return tops[log_m]

        found: list[float] = []
        for j in range(min(count, self.num_means)):
            low, high = top - 30.0, top
            if strengths(high)[j] <= 1:
                break
            while strengths(low)[j] > 1:
                low -= 10.0
            root = float(brentq(lambda x, j=j: math.log(strengths(x)[j]), low, high, xtol=1e-5))
            found.append(self.residual.place(-math.exp(root))[0])
        return np.array(found)

    @cached_property
    def residual(self) -> ResidualPart:
        """The residual part alone."""
        s, w = self.spectrum
        return ResidualPart(self.t[self.t > 0], s[s > 0], w[s > 0])


@dataclass(frozen=True, eq=False)
class ResidualPart:
    """T^(1/2) Z Sigma^(1/2) alone, right of its edge: z as a function of m < 0.

    Parameters
    ----------
    t, s, w : ndarray
        Positive eigenvalues of T; of Sigma, and how many of each.
    """

    t: Floats
    s: Floats
    w: Floats

    def place(self, m: float) -> tuple[float, float]:
        """Z and a; without residuals m = -1/z and a = 0."""
        if self.t.size == 0:
            return -1 / m, 0.0
        a = float(np.sum(self.t / (1 + m * self.t)))
        goal = -a * m
        # v = z / a right of all s_j with sum w s / (v - s) = goal.
        low, high = float(self.s[0]), float(self.s[0]) + float(self.w @ self.s) / goal
        v = high
        for _ in range(100):
            gap = v - self.s
            value = float(self.w @ (self.s / gap)) - goal
            low, high = (v, high) if value > 0 else (low, v)
            slope = -float(self.w @ (self.s / gap**2))
            new = v - value / slope
            new = new if low < new < high else 0.5 * (low + high)
            if abs(new - v) <= 1e-14 * v:
                break
            v = new
        return a * v, a

    @cached_property
    def steepest(self) -> float:
        """The log(-m) of the edge, where z is least; of a far lower place without residuals."""
        if self.t.size == 0:
            return 700.0
        top = float(self.t.max())
        found = minimize_scalar(
            lambda x: math.log(self.place(-math.exp(x))[0]),
            bounds=(math.log(1e-12 / top), math.log((1 - 1e-12) / top)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return float(found.x)

    @property
    def edge(self) -> float:
        """Upper edge of its spectrum; 0 without residuals."""
        return self.place(-math.exp(self.steepest))[0] if self.t.size else 0.0


def _real_product(matrix: Floats, several: Array) -> Array:
    """A real matrix times others, without a product of complex ones."""
    if np.iscomplexobj(several):
        return np.asarray(np.matmul(matrix, several.real) + 1j * np.matmul(matrix, several.imag))
    return np.asarray(np.matmul(matrix, several))


def _logs(values: Array, side: int) -> Array:
    """Logarithms of values in one closed half plane, upper (1) or lower (-1), rounding across the axis undone."""
    imaginary = np.maximum(values.imag, 0.0) if side > 0 else np.minimum(values.imag, -0.0)
    angles = np.arctan2(imaginary, values.real)
    if side < 0:
        angles = np.where((imaginary == 0) & (values.real < 0), -math.pi, angles)
    logs: Array = np.log(np.abs(values)) + 1j * angles
    return logs
