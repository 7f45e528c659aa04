"""Solutions of `separable` by continuation: followed from far above the spectrum to where they are asked for.

No equation in one unknown proves a solution (see `separable`), so that each is reached by a way from -1/z far above,
in steps that Newton's method confirms; on the axis inside the support, where all is smooth, by one step from above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rmtland.landscape.theory.separable import Separable, State
from rmtland.laws.numerics import extrapolate

ITERATIONS = 40
PRECISION = 1e-6
"""Of the last step of Newton's method, whose error is its square."""
ALONG = 1e-4
"""The same for points of a path, whose sums need no more than eight digits."""
FLOOR = 1e-9
"""Height above the axis, as a share of x, from where it is reached in one step wherever it is."""
ORDER = 5
"""Places that the next is extrapolated from."""
WAYPOINTS = 400
"""Solutions that are kept to start from."""


class NoWay(ArithmeticError):
    """No solution is found: no steps lead on to where it is asked for."""


@dataclass(frozen=True, eq=False)
class Continuation:
    """Solutions of one equation.

    Parameters
    ----------
    equation : Separable
    """

    equation: Separable
    _known: list[State] = field(default_factory=list, repr=False)
    _counts: list[tuple[float, float]] = field(default_factory=list, repr=False)

    def refine(
        self, z: complex, m: complex, a: complex, iterations: int = ITERATIONS, precision: float = PRECISION
    ) -> State | None:
        """Newton's method at z from a guess; None where it finds no solution that is a resolvent's."""
        with np.errstate(all="ignore"):
            for _ in range(iterations):
                errors, state = self.equation.at(z, m, a)
                step_m, step_a = state.step(errors)
                size = abs(step_m) / max(abs(m), 1e-300) + abs(step_a) / max(abs(a), 1e-300)
                if not size < math.inf:
                    return None
                if size <= precision:
                    return self.proved(state.moved(step_m, step_a))
                shrink = min(1.0, 0.5 / size)
                m, a = m + shrink * step_m, a + shrink * step_a
        return None

    def proved(self, state: State) -> State | None:
        """The state where it is in the half planes that a resolvent's traces are in; to rounding on the axis."""
        slack = 1e-9
        upper = state.m.imag >= -slack * abs(state.m) and state.trace.imag >= -slack * abs(state.trace)
        return state if upper and state.a.imag <= slack * abs(state.a) else None

    def start(self, x: float) -> State:
        """A solution far above x, where the resolvent is -1/z."""
        t = self.equation.t
        height = 4 * self.equation.reach + abs(x)
        for _ in range(20):
            z = complex(x, height)
            state = self.refine(z, -1 / z, complex(t.sum()) if t.size else 0j)
            if state is not None:
                return state
            height *= 2
        raise NoWay(f"no solution found far above {x:g}")

    def at(self, z: complex) -> State:
        """The solution at z, Im z > 0."""
        return self.follow(self.above(z.real, z.imag), z)

    def above(self, x: float, height: float) -> State:
        """A solution at x + i height or above, by way of the nearest known that is further up than away."""
        near = [s for s in self._known if s.z.imag >= max(height, 0.7 * abs(s.z.real - x))]
        if not near:
            state = self.start(x)
        else:
            best = min(near, key=lambda s: s.z.imag)
            state = self.follow(best, complex(x, best.z.imag)) if best.z.real != x else best
        self._keep(state)
        while state.z.imag > height:
            state = self.follow(state, complex(x, max(0.1 * state.z.imag, height)))
            self._keep(state)
        return state

    def _keep(self, state: State) -> None:
        if len(self._known) >= WAYPOINTS:
            del self._known[: WAYPOINTS // 2]
        self._known.append(state)

    def follow(self, state: State, z: complex) -> State:
        """The solution at z, by a straight way from one at another place in the upper half plane.

        Raises
        ------
        NoWay
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
                    raise NoWay(f"no way found to {z:g}")
        return state

    def onward(self, states: Sequence[State], z: complex) -> State:
        """The solution at z from those at the last places of a way, the nearest last, extrapolated."""
        points = states[-ORDER:]
        guess_m, guess_a = (extrapolate([(s.z, getattr(s, name)) for s in points], z) for name in ("m", "a"))
        slope = states[-1].slopes[0]
        found = self.refine(z, guess_m, guess_a, 4, ALONG) if len(points) > 1 else None
        if found is None or abs(found.m - guess_m) > 0.1 * abs(slope * (z - states[-1].z)):
            return self.follow(states[-1], z)
        return found

    def solve(self, x: float) -> State:
        """The solution at x + i0; a real one off the support."""
        floor = FLOOR * max(abs(x), 1e-6 * self.equation.reach)
        height = 0.1 * abs(x) + floor
        while True:
            state = self.above(x, height)
            found = self.beside(state, x)
            if found is not None:
                return found
            if height <= floor:
                return self.landed(state)
            height = max(0.1 * height, 0.99 * floor)

    def beside(self, state: State, x: float) -> State | None:
        """The solution at x + i0 by one step from one nearby; None where another way has to be gone.

        One in the half planes of a resolvent's traces there is only once, and off the support one real one with their
        slopes: none of others is taken for it.
        """
        move = x - state.z
        slope_m, slope_a = state.slopes
        if not abs(slope_m * move) < abs(state.m):
            return None
        found = self.refine(complex(x, 0.0), state.m + slope_m * move, state.a + slope_a * move, 8)
        if found is None:
            return None
        if abs(found.m.imag) < FLOOR * abs(found.m):
            found = found.real
            slope_m, slope_a = found.slopes
            return found if slope_m.real > 0 >= slope_a.real else None
        return found if found.m.imag > 1e-7 * abs(found.m) and found.trace.imag > 0 else None

    def quantile(self, above: float, guess: float) -> State:
        """The point of the axis with so many eigenvalues above it: by Newton's method, between brackets.

        In a gap with just that many above, where the resolvent's trace is 0. What was found for others brackets it.
        """
        least, most = 1e-12 * self.equation.reach, 1.2 * self.equation.reach
        low = max((x for x, count in self._counts if count > above), default=least)
        high = min((x for x, count in self._counts if count < above), default=most)
        x = guess if low < guess < high else _middle(low, high)
        grow = 0.01
        state: State | None = None
        for _ in range(200):
            near = None if state is None else self.beside(state, x)
            state = self.solve(x) if near is None else near
            count = self.equation.count_above(state)
            self._counts.append((x, count))
            low, high = (x, high) if count > above else (low, x)
            if abs(count - above) < 1e-6 or high - low < 1e-9 * high:
                break
            rate = state.trace.imag / math.pi
            step = (count - above) / rate if rate > 1e-3 / x else math.inf
            if low < x + step < high and abs(step) < 0.5 * x:
                x += step
            elif (low == least) != (high == most):  # not yet on both sides of it
                x = min(x * (1 + grow), 0.5 * (x + high)) if high == most else max(x / (1 + grow), 0.5 * (x + low))
                grow *= 3
            else:
                x = _middle(low, high)
        assert state is not None
        return state

    def landed(self, state: State) -> State:
        """On the axis below, real where that is rounding; where Newton's method goes elsewhere, where it is."""
        found = self.refine(complex(state.z.real, 0.0), state.m, state.a)
        if found is None or not abs(found.m - state.m) < 1e-2 * abs(state.m):
            return state
        return found.real if abs(found.m.imag) < FLOOR * abs(found.m) else found


def _middle(low: float, high: float) -> float:
    return math.sqrt(low * high) if low < 0.5 * high else 0.5 * (low + high)
