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
EXACT = 1e-10
"""Error of the number of eigenvalues within, up to which the power is taken: both have the same poles."""
ROUGH = 0.05
"""Error of the places of known atoms, as a share of their distance from the others."""


def power_above(solver: Solver, u: complex, count: int, gap: tuple[int, float, float] = (0, math.inf, 0.0)) -> float:
    """Share of the vector's square above z(u), (1/pi) Im of an integral from u up to beyond the support.

    With u in a gap by `power_between`, from there to a higher `gap` that is known, by count, u and share, or to beyond
    the support. Where that gives up, and with u on the curve, on a circle through u, its conjugate and a point of the
    axis beyond the atoms, by Gauss-Legendre on panels that shrink towards u, where poles come near.
    """
    centre, radius = circle(solver, u)
    if u.imag == 0:
        higher, top, above = gap
        found = power_between(solver, u.real, min(top, centre + radius), higher + 1, count)
        if found is not None:
            return above + found
    angles, weights = panels(u, centre, radius, 10, 0.25)  # to 1e-10
    power = [weight * _rates(solver, centre, radius, a)[0] for a, weight in zip(angles, weights, strict=True)]
    return float(sum(power))


def power_between(solver: Solver, low: float, high: float, first: int, last: int) -> float | None:
    """Share of the vector's square in these eigenvalues, between two gaps; None where other poles are near.

    By the trapezoidal rule on a circle around the atoms in between, which converges exponentially: its intervals are
    doubled until the number of eigenvalues, by the same points, comes out.
    """
    centre, radius = _around(solver, low, high, first, last)
    one, other = (_rates(solver, centre, radius, angle) for angle in (0.0, math.pi))
    power, count = 0.5 * (one[0] + other[0]), 0.5 * (one[1] + other[1])
    intervals, fresh = FEWEST, range(1, FEWEST)
    while True:
        for k in fresh:
            rates = _rates(solver, centre, radius, math.pi * k / intervals)
            power, count = power + rates[0], count + rates[1]
        step = math.pi / intervals
        error = abs(step * count - (last - first + 1))
        if error <= EXACT:
            return step * power
        # Twice the points square the error.
        if not error ** (MOST / intervals) <= EXACT:
            return None
        intervals *= 2
        fresh = range(1, intervals, 2)


def _around(solver: Solver, low: float, high: float, first: int, last: int) -> tuple[float, float]:
    """Centre and radius of a circle far from all atoms as far as they are known, or through both places.

    The atom that brings the j-th eigenvalue is near the point of the curve with j - 1/2 eigenvalues above.
    """
    found = {round(count + 0.5): r for count, r in solver.found if count % 1 == 0.5}
    if all(j in found for j in range(first, last + 1)):
        within = np.array([found[j] for j in range(first, last + 1)])
        others = np.array([found.get(first - 1, high), found.get(last + 1, low)])
    else:
        atoms = solver.plain.t * solver.plain.scale
        inside = (atoms > low) & (atoms < high)
        if abs(float(solver.plain.weights[inside].sum()) - (last - first + 1)) > 0.5:
            return 0.5 * (low + high), 0.5 * (high - low)
        within, others = atoms[inside], atoms[~inside]
    centre = 0.5 * float(within.min() + within.max())
    # Poles at a distance h from the centre and others at g have errors like (h/r)^n and (r/g)^n.
    nearest = float(np.abs(others - centre).min(initial=centre))
    spread = max(float(within.max()) - centre, ROUGH * nearest)
    return centre, math.sqrt(spread * nearest)


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
