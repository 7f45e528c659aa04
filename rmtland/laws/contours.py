"""Integrals over circles that cross the real axis in gaps of a spectrum, or end on its curve: a vector's power."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rmtland.laws.numerics import panels

if TYPE_CHECKING:
    from rmtland.laws.solver import Solver

CIRCLE_POINTS = 96
"""Points on half a circle beyond which panels take over."""
FEWEST, MOST = 12, 48
"""Intervals of half a circle between two gaps: to begin with, doubled up to."""
WHOLE = 1e-10
"""How far from whole the number of eigenvalues within may be: poles of both integrands are the same."""


def power_above(solver: Solver, u: complex, known: tuple[complex, float] | None = None) -> float:
    """Share of the vector's square above z(u), (1/pi) Im of an integral from u up to beyond the support.

    On a circle through u, its conjugate and a point of the axis beyond the atoms, or, with u in a gap, where it is
    `known` above another gap, a point of that: `power_between`. Where that gives up, and with u on the curve, by
    Gauss-Legendre on panels that shrink towards u, where poles come near.
    """
    centre, radius = circle(solver, u)
    if u.imag == 0:
        far, above = (centre + radius, 0.0) if known is None or known[0].imag > 0 else (known[0].real, known[1])
        found = power_between(solver, u.real, far)
        if found is not None:
            return above + found
    angles, weights = panels(u, centre, radius, 10, 0.25)  # to 1e-10
    power = [weight * _rates(solver, centre, radius, a)[0] for a, weight in zip(angles, weights, strict=True)]
    return float(sum(power))


def power_between(solver: Solver, low: float, high: float) -> float | None:
    """Share of the vector's square between z of two real u, in gaps or beyond the support; None where poles are near.

    By the trapezoidal rule on the circle through both, which converges exponentially: its intervals are doubled until
    the number of eigenvalues within, by the same points, comes out whole.
    """
    centre, radius = 0.5 * (low + high), 0.5 * (high - low)
    if not radius > 0:
        return 0.0
    one, other = (_rates(solver, centre, radius, angle) for angle in (0.0, math.pi))
    power, count = 0.5 * (one[0] + other[0]), 0.5 * (one[1] + other[1])
    intervals, fresh = FEWEST, range(1, FEWEST)
    while True:
        for k in fresh:
            rates = _rates(solver, centre, radius, math.pi * k / intervals)
            power, count = power + rates[0], count + rates[1]
        step = math.pi / intervals
        error = abs(step * count - round(step * count)) if math.isfinite(count) else 1.0
        if error <= WHOLE:
            return step * power
        # Twice the points square the error.
        if not error ** (MOST / intervals) <= WHOLE:
            return None
        intervals *= 2
        fresh = range(1, intervals, 2)


def _rates(solver: Solver, centre: float, radius: float, angle: float) -> tuple[float, float]:
    """Power and number of eigenvalues above, by angle on the circle."""
    turn = complex(math.cos(angle), math.sin(angle))
    power, count = solver.equation.rates(centre + radius * turn)
    return -(power * 1j * radius * turn).imag / math.pi, -(count * 1j * radius * turn).imag / math.pi


def circle(solver: Solver, u: complex, share: float = 0.5) -> tuple[float, float]:
    """Centre and radius of the circle through u and a point of the axis beyond the atoms, further by `share`."""
    top, height = solver.reach
    far = top + max(share * (top - u.real), 4 * share * height, 0.1 * share * top)
    centre = (far * far - abs(u) ** 2) / (2 * (far - u.real))
    return centre, far - centre


def circle_points(solver: Solver, centre: float, radius: float) -> int:
    """Points on its upper half that the trapezoidal rule needs, as the atoms are near it or far."""
    plain = solver.plain
    ratio = np.abs(plain.t * plain.scale - centre) / radius
    slowest = float(np.max(np.minimum(ratio, 1 / np.maximum(ratio, 1e-300))))
    return max(12, math.ceil(0.6 * math.log(1e-10) / math.log(min(slowest, 1 - 1e-9))))
