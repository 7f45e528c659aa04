"""Solutions of the deterministic equivalent: along the real axis, at given counts, and contours through gaps.

A law of a few hundred atoms near those of D T (the surrogate: spikes of the mean part, binned eigenvalues of the A_mu)
gives every first guess in microseconds, see `surrogate`. Newton's method on the structured equation takes it
from there; whatever it returns has to prove itself: in the upper half plane the point of the curve Im z(u) = 0 above
each Re u is unique, and a real u belongs outside the support iff dz/du > 0 (Silverstein and Choi 1995). What proves
nothing goes to bracketed searches along the curve (`rmtland.laws.silverstein_kernels` explains it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from rmtland.landscape.theory.equivalent import Equation
from rmtland.landscape.theory.examples import Floats
from rmtland.landscape.theory.surrogate import Surrogate, surrogate_of
from rmtland.laws._law import Complexes

LARGE = 2e7
"""N C^2 from which on slopes come from differences rather than from a third matrix product."""
ITERATIONS = 25
CIRCLE_POINTS = 96
"""Points on half a circle beyond which panels take over."""


@dataclass(frozen=True, eq=False)
class Solver:
    """Solutions of one equation.

    Parameters
    ----------
    equation : Equation
        Not the zero matrix.
    """

    equation: Equation

    @cached_property
    def surrogate(self) -> Surrogate:
        """The law of the first guesses."""
        equation = self.equation
        return surrogate_of(equation.atoms(), equation.num_parameters, equation.sigma_H)

    @cached_property
    def rank(self) -> float:
        """Number of nonzero eigenvalues of the matrix."""
        return self.equation.rank

    @property
    def _large(self) -> bool:
        return self.equation.cost > LARGE

    @cached_property
    def reach(self) -> tuple[float, float]:
        """An upper bound of the atoms of D T and of the height of the curve above the axis."""
        top = 1.05 * self.surrogate.scale
        while self.equation.atoms_above(top) > 0:
            top *= 1.3
        # h <= 1 from the height sqrt(sum t^2 / D) on.
        return top, math.sqrt(self.equation.power_sums[1] / self.equation.num_parameters)

    # -- along the real axis ---------------------------------------------------------------------------------------

    def solve(self, x: Floats) -> Complexes:
        """u(x + i0) for x > 0 in any order: complex on the support, real off it."""
        result = np.empty(x.size, dtype=np.complex128)
        shifts: list[tuple[float, complex]] = []
        for j in np.argsort(x, kind="stable")[::-1]:
            # What the surrogate misses varies slowly: it is extrapolated from the neighbours that are done.
            shift = _extrapolate(shifts, float(x[j]))
            u = self._newton(self.surrogate.solve(float(x[j] - shift.real)), float(x[j]))
            if u is None:
                u = self._search(float(x[j]))
            result[j] = u
            z = self.surrogate.map(u)
            if math.isfinite(abs(z)):
                shifts = [*shifts[-2:], (float(x[j]), x[j] - z)]
        return result

    def _newton(self, u: complex, x: float) -> complex | None:
        """Newton's method for z(u) = x from a guess; None unless the solution proves itself."""
        if u.imag <= 0:
            real = self._real_newton(u.real, x)
            if real is not None:
                return complex(real, 0.0)
            u = complex(u.real, 0.05 * self.reach[1])
        previous: tuple[complex, complex] | None = None
        slope = complex(1.0)
        last = math.inf
        for _ in range(ITERATIONS):
            exact = not self._large
            value, derivative = self.equation.map(u, exact)
            if exact:
                slope = derivative
            elif previous is not None and previous[0] != u:
                slope = (value - previous[1]) / (u - previous[0])
            else:
                slope = self.surrogate.slope(u)
            previous = (u, value)
            if not 0 < abs(slope) < math.inf or not abs(value) < math.inf:
                return None
            step = (value - x) / slope
            size = abs(step)
            new = u - step
            if new.imag <= 0:
                if u.imag < 1e-7 * abs(u):
                    break
                u = complex(new.real if abs(new.real - u.real) < 0.5 * abs(u) else u.real, 0.1 * u.imag)
                last = math.inf
                continue
            # Quadratic convergence leaves the square of the step, slopes by differences the product of two steps.
            remains = size * size / new.imag if exact else size * min(last / new.imag, 1.0)
            u, last = new, size
            # A real root that Newton's method falls into is approached with steps as large as Im u.
            if size <= 1e-2 * u.imag and (remains <= 1e-10 * u.imag or size <= 1e-13 * abs(u)):
                return u
        real = self._real_newton(u.real, x)
        return None if real is None else complex(real, 0.0)

    def _real_newton(self, u: float, x: float) -> float | None:
        """A real u with z(u) = x and dz/du > 0: x is outside the support; None where Newton's method finds none."""
        for _ in range(ITERATIONS):
            if not 1e-60 * self.reach[0] < abs(u) < math.inf:
                return None
            value, slope = self.equation.map(u)
            if not 0 < slope < math.inf or not abs(value) < math.inf:
                return None
            step = (value - x) / slope
            u -= step
            if abs(step) <= 1e-12 * abs(u):
                return u
        return None

    # -- along the curve, by brackets --------------------------------------------------------------------------------

    def height(self, r: float) -> float:
        """The v >= 0 of the curve above r: Im z(r + iv) = 0, or 0 where Im z > 0 down to the axis."""
        top = self.reach[1] * (1 + 1e-9)

        def excess(log_v: float) -> float:
            v = math.exp(log_v)
            return float(np.imag(self.equation.map(complex(r, v), False)[0])) / v

        low, high = math.log(min(1e-11 * abs(r) + 1e-60 * top, 0.5 * top)), math.log(top)
        if not excess(low) < 0:
            return 0.0
        if not excess(high) > 0:
            return top
        return math.exp(float(brentq(excess, low, high, xtol=1e-13, rtol=1e-14, maxiter=1000)))

    def _along(self, error: Callable[[complex, float], float]) -> complex:
        """The point of the curve where an error, decreasing in Re u, changes sign; polished by nobody."""
        low, high = -2 * self.reach[1], self.reach[0] + 2 * self.reach[1]

        def at(r: float) -> float:
            u = complex(r, self.height(r))
            value = self.equation.map(u if u.imag > 0 else r, False)[0]
            return error(u, float(np.real(value)))

        while at(high) > 0:
            high *= 2
        while at(low) < 0:
            low *= 2
        r = float(brentq(at, low, high, xtol=1e-13 * self.reach[0], rtol=1e-14, maxiter=1000))
        return complex(r, self.height(r))

    def _search(self, x: float) -> complex:
        u = self._along(lambda _, value: x - value)
        if u.imag > 0:
            return u
        real = self._real_newton(u.real, x)
        return complex(u.real if real is None else real, 0.0)

    # -- counts ------------------------------------------------------------------------------------------------------

    def count_above(self, u: complex) -> float:
        """Number of eigenvalues above z(u) for a solution u; whole numbers in gaps."""
        if u.imag > 0:
            return self.equation.potential(u, False)[2]
        if u.real <= 0:
            return self.rank
        return float(self.equation.atoms_above(u.real))

    def quantiles(self, above: Floats) -> list[complex]:
        """Points u of the curve with `above` eigenvalues above z(u); 0 < above < rank."""
        guesses = self.surrogate.quantiles(above)
        return [self._quantile(float(k), complex(u)) for k, u in zip(above, guesses, strict=True)]

    def _quantile(self, goal: float, u: complex) -> complex:
        d = self.equation.num_parameters
        previous: tuple[complex, complex] | None = None
        if u.imag > 0:
            slope = self.surrogate.slope(u)
            for _ in range(ITERATIONS):
                value, derivative, count = self.equation.potential(u, not self._large)
                if not self._large:
                    slope = derivative
                elif previous is not None and previous[0] != u:
                    slope = (value - previous[1]) / (u - previous[0])
                previous = (u, value)
                if not 0 < abs(slope) < math.inf or not abs(value) < math.inf:
                    break
                # Im dz = -Im z and Im(m dz) = pi (count - goal) / D are two real equations for dz.
                m = -1 / u
                rise = math.pi * (count - goal) / d
                change = complex((rise + m.real * value.imag) / m.imag, -value.imag)
                step = change / slope
                new = u + step
                if not (abs(step) < math.inf and new.imag > 0 and abs(step) < 2 * abs(u)):
                    break
                u = new
                # The count tells the branch: it was right at the last point already.
                if abs(step) <= 1e-6 * u.imag and abs(count - goal) < 1e-3:
                    return u
        return self._along(lambda w, _: self.count_above(w) - goal)

    # -- gaps and contours -------------------------------------------------------------------------------------------

    def gap(self, count: int) -> float | None:
        """A real u in the gap of the spectrum with exactly `count` eigenvalues above it; None where there is none."""
        if count == 0:
            return self.reach[0] + 3 * self.reach[1]
        bands = self.surrogate.crossings
        for j in range(bands.shape[0] - 1):
            above = self.surrogate.atoms_above(0.5 * (bands[j, 1] + bands[j + 1, 0]))
            if abs(above - count) < 0.5:
                for share in (0.5, 0.25, 0.75, 0.1, 0.9):
                    u = float(bands[j, 1] + share * (bands[j + 1, 0] - bands[j, 1]))
                    if self.equation.map(u)[1] > 0 and self.equation.atoms_above(u) == count:
                        return u
        return None

    def boundary(self, count: int) -> complex:
        """The u in the gap with so many eigenvalues above, or the point of the curve where there is none."""
        gap = self.gap(count)
        return self.quantiles(np.array([float(count)]))[0] if gap is None else complex(gap)

    def power_above(self, u: complex) -> float:
        """Share of the squared gradient above z(u), (1/pi) Im of an integral from u up to beyond the support.

        On a circle through u, its conjugate and a point of the axis beyond the atoms. With u in a gap the trapezoidal
        rule converges exponentially: 24 points, or as many as the surrogate's atoms ask for, and the number of
        eigenvalues above, by the same points, has to come out whole. Where that asks for more than 192, and with u on
        the curve, by Gauss-Legendre on panels that halve towards u, where poles come near.
        """
        centre, radius = self.circle(u)

        def rule(angles: Floats, weights: Floats) -> tuple[float, float]:
            power = count = 0.0
            for a, w in zip(angles.tolist(), weights.tolist(), strict=True):
                turn = complex(math.cos(a), math.sin(a))
                rates = self.equation.rates(centre + radius * turn)
                power += w * (rates[0] * 1j * radius * turn).imag
                count += w * (rates[1] * 1j * radius * turn).imag
            # The angles run from the far end back to u.
            return -power / math.pi, -count / math.pi

        if u.imag == 0:
            points = self.circle_points(centre, radius)
            if points <= CIRCLE_POINTS:
                turns: Floats = (np.arange(points, dtype=np.float64) + 0.5) * (math.pi / points)
                power, count = rule(turns, np.full(points, math.pi / points))
                if abs(count - round(count)) <= 1e-6:
                    return power
        return rule(*panels(u, centre, radius, 10))[0]

    def circle(self, u: complex, share: float = 0.5) -> tuple[float, float]:
        """Centre and radius of the circle through u and a point of the axis beyond the atoms, further by `share`."""
        top, height = self.reach
        far = top + max(share * (top - u.real), 4 * share * height, 0.1 * share * top)
        centre = (far * far - abs(u) ** 2) / (2 * (far - u.real))
        return centre, far - centre

    def circle_points(self, centre: float, radius: float) -> int:
        """Points on its upper half that the trapezoidal rule needs, as the surrogate's atoms are near it or far."""
        ratio = np.abs(self.surrogate.poles - centre) / radius
        slowest = float(np.max(np.minimum(ratio, 1 / np.maximum(ratio, 1e-300))))
        return max(12, math.ceil(0.6 * math.log(1e-10) / math.log(min(slowest, 1 - 1e-9))))


def panels(u: complex, centre: float, radius: float, order: int) -> tuple[Floats, Floats]:
    """Angles and weights, from the far end of a circle to u, of Gauss-Legendre rules on panels that halve towards u."""
    angle = math.atan2(u.imag, u.real - centre)
    shares = [0.0]
    while (1 - shares[-1]) * angle * radius > max(0.5 * u.imag, 1e-4 * abs(u)):
        shares.append(0.5 * (1 + shares[-1]))
    ends: Floats = angle * np.array([*shares, 1.0])
    nodes, weights = (np.asarray(part, dtype=np.float64) for part in np.polynomial.legendre.leggauss(order))
    half: Floats = 0.5 * np.diff(ends)[:, None]
    angles: Floats = (ends[:-1, None] + half * (1 + nodes)).ravel()
    return angles, (half * weights).ravel()


def _extrapolate(points: list[tuple[float, complex]], x: float) -> complex:
    """Polynomial through the last points, at x."""
    total = 0j
    for j, (at, value) in enumerate(points):
        weight = 1.0
        for k, (other, _) in enumerate(points):
            if k != j:
                weight *= (x - other) / (at - other) if at != other else 0.0
        total += weight * value
    return total
