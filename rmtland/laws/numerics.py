"""What searches along the curve of solutions share: slopes, midpoints, panels of a circle, extrapolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rmtland.laws._law import Floats
from rmtland.laws.atoms.plain import PlainAtoms
from rmtland.laws.subordination import Subordination


class Slopes:
    """z and dz/du along a Newton iteration; by differences where another derivative would cost too much."""

    def __init__(self, equation: Subordination, plain: PlainAtoms, by_differences: bool) -> None:
        self._equation, self._plain, self._by_differences = equation, plain, by_differences
        self._last: tuple[complex, complex] | None = None
        self.count = math.nan

    def at(self, u: complex, logs: bool = False) -> tuple[complex, complex]:
        """z(u) and dz/du; with `logs` also the number of eigenvalues above, in `count`."""
        exact = not self._by_differences
        if logs:
            value, slope, self.count = self._equation.potential(u, exact)
        else:
            value, slope = self._equation.map(u, exact)
        if not exact:
            if self._last is not None and self._last[0] != u:
                slope = (value - self._last[1]) / (u - self._last[0])
            else:
                slope = self._plain.evaluate(u)[1]
        self._last = (u, value)
        return complex(value), complex(slope)


def panels(u: complex, centre: float, radius: float, order: int, ratio: float = 0.5) -> tuple[Floats, Floats]:
    """Angles and weights, from the far end of a circle to u, of Gauss-Legendre rules on panels that shrink towards u.

    What is left of the way is `ratio` times as long after each panel.
    """
    angle = math.atan2(u.imag, u.real - centre)
    shares = [0.0]
    while (1 - shares[-1]) * angle * radius > max(0.5 * u.imag, 1e-4 * abs(u)):
        shares.append(1 - ratio * (1 - shares[-1]))
    ends: Floats = angle * np.array([*shares, 1.0])
    nodes, weights = (np.asarray(part, dtype=np.float64) for part in np.polynomial.legendre.leggauss(order))
    half: Floats = 0.5 * np.diff(ends)[:, None]
    angles: Floats = (ends[:-1, None] + half * (1 + nodes)).ravel()
    return angles, (half * weights).ravel()


def between(low: float, high: float, unit: float) -> float:
    """Half way between two bounds: on a scale of decades on either side of 0, or plainly once they are near."""
    if low > 0 and high < 2 * low:  # that scale's rounding is a hundred times that of the bounds
        return 0.5 * (low + high)
    return unit * math.sinh(0.5 * (math.asinh(low / unit) + math.asinh(high / unit)))


def extrapolate(points: Sequence[tuple[complex, complex]], x: complex) -> complex:
    """Polynomial through the last points, at x."""
    total = 0j
    for j, (at, value) in enumerate(points):
        weight: complex = 1.0
        for k, (other, _) in enumerate(points):
            if k != j:
                weight *= (x - other) / (at - other) if at != other else 0.0
        total += weight * value
    return total
