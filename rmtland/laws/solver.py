"""Solutions of z(u) = u + Psi'(-1/u) / D: along the real axis, at given counts, in gaps, at edges.

Where all eigenvalues of D T are known the compiled backend (`atoms`) gives the answers. Elsewhere its law of a
few hundred rough atoms gives every first guess in microseconds, Newton's method on the levels takes it from there, and
whatever that returns has to prove itself: in the upper half plane the point of the curve Im z(u) = 0 above each Re u is
unique (Biane 1997), and a real u belongs outside the support iff dz/du > 0 (Silverstein and Choi 1995). What proves
nothing goes to bracketed searches along the curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy.optimize import brentq

from rmtland.laws._law import Complexes, Floats
from rmtland.laws.atoms.plain import PlainAtoms
from rmtland.laws.numerics import Slopes, between, extrapolate
from rmtland.laws.subordination import Subordination

LARGE = 2e7
"""Cost from which on slopes come from differences rather than from another derivative."""
ITERATIONS = 25
SEARCHES = 300
"""Steps of Newton's method, and of a bracketed search at most."""
PATIENCE = 6
"""Steps of Newton's method after which they have to shrink fast."""
STRIDE = 1.02
"""First stride, as a factor, of a search around a guess; each is the square of the one before."""


@dataclass(frozen=True, eq=False)
class Solver:
    """Solutions of one equation.

    Parameters
    ----------
    equation : Subordination
        Not the zero matrix.
    """

    equation: Subordination

    @property
    def rank(self) -> float:
        """Number of nonzero eigenvalues of the matrix."""
        return self.plain.rank if self.equation.exact else self.equation.rank

    @cached_property
    def plain(self) -> PlainAtoms:
        """The law of the levels' rough atoms, compiled: where the first guesses come from, or all there is to it."""
        equation = self.equation
        places, weights = zip(*(level.rough_atoms() for level in equation.levels), strict=True)
        joined = np.concatenate(places), np.concatenate(weights)
        return PlainAtoms.of(*joined, equation.num_parameters, equation.variance)

    @property
    def _large(self) -> bool:
        return self.equation.cost > LARGE

    @cached_property
    def reach(self) -> tuple[float, float]:
        """An upper bound of the atoms of D T and of the height of the curve above the axis."""
        top = 1.05 * self.plain.scale
        while self.equation.atoms_above(top) > 0:
            top *= 1.3
        # sum a / |u - t|^2 <= 1 from the height sqrt(sum a) on.
        return top, math.sqrt(self.equation.power_sums[1] / self.equation.num_parameters)

    # -- along the real axis ---------------------------------------------------------------------------------------

    def solve(self, x: Floats) -> Complexes:
        """u(x + i0) for x in any order, x > 0 without a Wigner matrix: complex on the support, real off it."""
        plain = self.plain
        if self.equation.exact:
            return plain.solve(x)
        result = np.empty(x.size, dtype=np.complex128)
        shifts: list[tuple[float, complex]] = []
        for j in np.argsort(x, kind="stable")[::-1]:
            # What the rough atoms miss varies slowly: it is extrapolated from the neighbours that are done.
            shift = extrapolate(shifts, float(x[j]))
            u = self._newton(self._guess(float(x[j] - shift.real)), float(x[j]))
            if u is None:
                u = self._search(float(x[j]))
            result[j] = u
            z = plain.evaluate(u)[0]
            if math.isfinite(abs(z)):
                shifts = [*shifts[-2:], (float(x[j]), x[j] - z)]
        return result

    def _guess(self, x: float) -> complex:
        least = -math.inf if self.plain.variance > 0 else 1e-300 * self.plain.scale
        return complex(self.plain.solve(np.array([max(x, least)]))[0])

    def _newton(self, u: complex, x: float) -> complex | None:
        """Newton's method for z(u) = x from a guess; None unless the solution proves itself."""
        if u.imag <= 0:
            real = self._real_newton(u.real, x)
            if real is not None:
                return complex(real, 0.0)
            u = complex(u.real, 0.05 * self.reach[1])
        slopes = Slopes(self.equation, self.plain, self._large)
        last = math.inf
        for _ in range(ITERATIONS):
            value, slope = slopes.at(u)
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
            remains = size * min(last / new.imag, 1.0) if self._large else size * size / new.imag
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
        """The v >= 0 of the curve above r: Im z(r + iv) = 0, or 0 where Im z > 0 down to the axis.

        h = 1 - Im z / v falls with v to 0. Newton's method on 1/h in v^2, which is linear for a lone atom, between
        bounds; where z is not finite, an atom is too near.
        """
        top = self.reach[1] * (1 + 1e-9)
        low, high = min(1e-11 * abs(r) + 1e-60 * top, 0.5 * top), top
        v = low
        for iteration in range(SEARCHES):
            value, slope = self.equation.map(complex(r, v))
            h, rise = 1 - value.imag / v, slope.real
            if h >= 1 or not math.isfinite(h):
                low = v
            elif iteration == 0:
                return 0.0
            else:
                high = v
            if high - low <= 1e-13 * high or abs(h - 1) <= 1e-13:
                return v
            fall = 0.5 * (rise - 1 + h)
            # Far from the root the steps are short.
            square = 1 + h * (h - 1) / fall if abs(h - 1) < 0.5 and fall > 0 else math.nan
            new = v * math.sqrt(square) if square > 0 else math.nan
            v = new if low < new < high else math.sqrt(low * high)
        return v

    def along(
        self,
        error: Callable[[complex, float], float],
        rate: Callable[[complex], float],
        near: float = 0.0,
        finish: Callable[[complex], complex | None] | None = None,
        close: float = 0.0,
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> complex:
        """The point of the curve where an error of (u, z(u)), increasing in Re u, changes sign.

        `rate` is d error / d z. Newton's method between bounds that halve on a scale of decades on either side of 0, as
        what is sought may be smaller than the reach by any factor; they are looked for around `near` first, if that is
        > 0, within `bounds`, known to be ones where they are finite. Where `finish` makes something of a point above
        the axis with an error below 1, that is the answer; an error of `close` is none.
        """
        unit = 1e-60 * self.reach[0]

        def at(r: float) -> tuple[complex, float, float]:
            u = complex(r, self.height(r))
            value, slope = self.equation.map(u if u.imag > 0 else r)
            with np.errstate(divide="ignore"):
                climb = abs(slope) ** 2 / np.real(slope) if u.imag > 0 else np.real(slope)
            return u, error(u, float(np.real(value))), float(climb) * rate(u)

        low, high = self._bounds(lambda r: at(r)[1], near, *bounds)
        r, new, last, tried = 0.0, math.nan, math.inf, 1.0
        for _ in range(SEARCHES):
            if not (low < new < high and 2 * abs(new - r) <= last):
                new, last = between(low, high, unit), math.inf
            else:
                last = abs(new - r)
            r = new
            u, wrong, slope = at(r)
            if finish is not None and u.imag > 0 and abs(wrong) < tried:
                tried = 0.01 * abs(wrong)
                done = finish(u)
                if done is not None:
                    return done
            low, high = (r, high) if wrong < 0 else (low, r)
            new = r - wrong / slope if 0 < slope < math.inf else math.nan
            if abs(wrong) <= close or high - low <= 1e-14 * abs(r) or abs(new - r) <= 1e-15 * abs(r):
                break
        return u

    def _bounds(self, error: Callable[[float], float], near: float, low: float, high: float) -> tuple[float, float]:
        """Two r with an error below 0 and not below it: in ever longer strides from `near` > 0, else far apart.

        A `low` or `high` that is finite is one already.
        """
        if math.isfinite(low) and math.isfinite(high):
            return low, high
        bottom, top = max(low, 1e-60 * self.reach[0]), min(high, self.reach[0] + 2 * self.reach[1])
        stride, near = STRIDE, min(max(near, low), high)
        if near > 0 and (near == low or (near < high and error(near) < 0)):
            low = near
            while near * stride < top:
                if error(near * stride) >= 0:
                    return low, near * stride
                low, stride = near * stride, stride**2
        elif near > 0:
            high = near
            while near / stride > bottom:
                if error(near / stride) < 0:
                    return near / stride, high
                high, stride = near / stride, stride**2
        if math.isinf(high):
            high = self.reach[0] + 2 * self.reach[1]
            while error(high) < 0:
                high *= 2
        if math.isinf(low):
            low = -2 * self.reach[1]
            while error(low) > 0:
                low *= 2
        return low, high

    def _search(self, x: float) -> complex:
        u = self.along(lambda _, value: value - x, lambda _: 1.0)
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
        return self.equation.atoms_above(u.real)

    def counts(self, x: Floats) -> tuple[Floats, Floats]:
        """Numbers of nonzero eigenvalues above and below x, x > 0 without a Wigner matrix."""
        if self.equation.exact:
            return self.plain.counts(x)
        above: Floats = np.array([self.count_above(complex(u)) for u in self.solve(x)], dtype=np.float64)
        return above, self.rank - above

    def quantiles(self, above: Floats, below: Floats | None = None) -> Floats:
        """Where so many eigenvalues are above, and `below` nonzero ones below (where these are few); 0 < above < rank.

        Of known atoms also at the ends.
        """
        if self.equation.exact:
            return self.plain.quantiles(above, self.rank - above if below is None else below)
        places = [self.equation.map(u if u.imag > 0 else u.real, False)[0] for u in self.points(above)]
        found = np.real(np.array(places, dtype=np.complex128))
        # The smallest may be rounding of what is left of u.
        return found if self.equation.variance > 0 else np.maximum(found, 0.0)

    def points(self, above: Floats, close: float = 0.0) -> list[complex]:
        """Points u of the curve with `above` eigenvalues above z(u), or so `close`; 0 < above < rank."""
        plain = self.plain
        goals = np.minimum(above, plain.rank * (1 - 1e-12))
        guesses = plain.solve(plain.quantiles(goals, plain.rank - goals))
        if self.equation.exact:
            return [complex(u) for u in guesses]
        return [self._point(float(k), complex(u), close) for k, u in zip(above, guesses, strict=True)]

    @cached_property
    def found(self) -> list[tuple[float, float]]:
        """Counts and Re u of the points found so far; Re u falls as the count rises."""
        return []

    def _point(self, goal: float, u: complex, close: float = 0.0) -> complex:
        found = self._newton_to(goal, u) if u.imag > 0 else None
        if found is None:
            d = self.equation.num_parameters
            found = self.along(
                lambda w, _: goal - self.count_above(w),
                lambda w: d * (-1 / w).imag / math.pi,
                u.real,
                partial(self._newton_to, goal),
                close,
                (
                    max((r for count, r in self.found if count > goal), default=-math.inf),
                    min((r for count, r in self.found if count < goal), default=math.inf),
                ),
            )
        self.found.append((goal, found.real))
        return found

    def _newton_to(self, goal: float, u: complex) -> complex | None:
        """Newton's method for a point with so many eigenvalues above; None unless the solution proves itself."""
        slopes = Slopes(self.equation, self.plain, self._large)
        last = math.inf
        for iteration in range(ITERATIONS):
            value, slope = slopes.at(u, logs=True)
            if not 0 < abs(slope) < math.inf or not abs(value) < math.inf:
                return None
            # Im dz = -Im z and Im(m dz) = pi (count - goal) / D are two real equations for dz.
            m = -1 / u
            rise = math.pi * (slopes.count - goal) / self.equation.num_parameters
            step = complex((rise + m.real * value.imag) / m.imag, -value.imag) / slope
            new = u + step
            size = abs(step)
            if not (size < math.inf and new.imag > 0 and size < 2 * abs(u)):
                return None
            if iteration >= PATIENCE and size > 0.3 * last:  # in a gap it halves the way to the axis at every step
                return None
            u, last = new, size
            # The count tells the branch: it was right at the last point already.
            if size <= 1e-6 * u.imag and abs(slopes.count - goal) < 1e-3:
                return u
        return None

    # -- gaps and edges -----------------------------------------------------------------------------------------------

    def upper_edge(self) -> float:
        """The u of the upper edge: beyond all atoms, with dz/du = 0."""
        top, height = self.reach

        def rise(u: float) -> float:
            # 1 / sqrt(1 - dz/du), which is linear for a lone atom, less 1; from -1 at the largest atom.
            if self.equation.atoms_above(u) > 0:
                return -1.0
            slope = float(np.real(self.equation.map(u)[1]))
            return 1 / math.sqrt(1 - slope) - 1 if -math.inf < slope < 1 else (-1.0 if not slope >= 1 else math.inf)

        # Beyond the largest atom by the height of the curve the slope is positive.
        return float(brentq(rise, 1e-3 * min(top, height), 1.01 * (top + height), xtol=1e-15 * top, rtol=1e-14))

    def gap(self, count: int) -> float | None:
        """A real u in the gap with exactly `count` >= 1 eigenvalues above it; None where there is none."""
        low, high, above = self._plain_gaps
        for j in np.flatnonzero(np.abs(above - count) < 0.5).tolist():
            for share in (0.5, 0.25, 0.75, 0.1, 0.9):
                u = float(low[j] + share * (high[j] - low[j]))
                if self.equation.map(u)[1] > 0 and self.equation.atoms_above(u) == count:
                    return u
        return None

    @cached_property
    def _plain_gaps(self) -> tuple[Floats, Floats, Floats]:
        """Ends of the gaps of the known atoms' law, and how many of these are above."""
        bands = self.plain.crossings
        low, high = bands[:-1, 1], bands[1:, 0]
        return low, high, np.array([self.plain.atoms_above(u) for u in (0.5 * (low + high)).tolist()])

    def boundary(self, count: int) -> complex:
        """The u in the gap with so many eigenvalues above, or the point of the curve where there is none."""
        gap = self.gap(count)
        # At the edge of a narrow gap that the rough atoms do not show, what is above changes by no more than the count.
        return self.points(np.array([float(count)]), 1e-10)[0] if gap is None else complex(gap)
