"""Mass of the Marchenko-Pastur and semicircle laws beyond an edge, in an angle and without cancellation.

On the support [a, b] put x = a + (b - a) sin^2(angle / 2), or b minus the same from the other edge. Marchenko-Pastur
of ratio <= 1 then has the density (2 / pi) sin^2(angle) / (1 + t^2 - 2 t cos(angle)) in the angle, t = sqrt(ratio) from
the lower edge and -sqrt(ratio) from the upper one; t = 0 is the semicircle. The closed form of its integral below adds
terms that do not cancel, so a mass keeps its relative accuracy at both edges, where it vanishes like angle^3, and down
to ratio 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.laws._law import Complexes, Floats, as_array, invert

_SMALL = 0.3
_CELLS = 256
# x - sin x = x^3 sum SINE_k x^(2k), highest power first, and x - arctan x likewise: the second series converges so
# slowly at _SMALL that its Chebyshev economization saves half of the terms.
_SINE = [(-1) ** k / math.factorial(2 * k + 3) for k in reversed(range(6))]
_ARCTAN = (
    np.polynomial.Polynomial([(-1) ** k / (2 * k + 3) for k in range(18)])
    .convert(domain=[0, _SMALL**2], kind=np.polynomial.Chebyshev)
    .truncate(10)
    .convert(kind=np.polynomial.Polynomial)
    .coef[::-1]
    .tolist()
)


def _short_by(x: Floats, value: Floats, series: list[float]) -> Floats:
    """X - value, by x^3 times the series in x^2 where x is small and the difference would cancel."""
    difference = x - value
    small = np.abs(x) < _SMALL
    if small.any():
        y = x[small]
        square = y * y
        tail = np.full(y.shape, series[0])
        for coefficient in series[1:]:
            tail *= square
            tail += coefficient
        difference[small] = y * square * tail
    return difference


def mass(angle: Floats, t: Floats | float, gap: Floats | float, weight: Floats | float) -> tuple[Floats, Floats]:
    """Mass within `angle` of an edge and its density in the angle, for angles in [0, pi/2].

    `gap` is 1 - t and `weight` (1 - t^2) / t^2, 0 for t = 0, both without cancellation.
    """
    # At angle 0 of the hard edge 0/0 would come up; the mass there is far below any rounding.
    angle = np.maximum(angle, 1e-100)
    sine = np.sin(angle)
    versine = np.square(np.sin(0.5 * angle))
    versine *= 2
    tilt = t * versine
    below = gap + tilt  # 1 - t cos(angle)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        y = t * sine
        y /= below
        total = weight * _short_by(y, np.arctan(y), _ARCTAN)
        versine *= sine
        versine /= below
        versine *= 1 + t
        total += versine
        total += _short_by(angle, sine, _SINE)
        total *= 1 / np.pi
        below += tilt
        below -= t * gap  # 1 - 2 t cos(angle) + t^2
        density = sine * sine
        density /= below
        density *= 2 / np.pi
    return total, density


class Arc:
    """Marchenko-Pastur law of ratio t^2 <= 1 on [(1 - t)^2, (1 + t)^2], or for t = 0 the semicircle on [-2, 2].

    Arrays of two rows, or entries, belong to the lower and the upper edge.
    """

    def __init__(self, t: float, gap: float) -> None:
        self.low, self.high = (gap**2, (1 + t) ** 2) if t > 0 else (-2.0, 2.0)
        # The term that they weigh is of order t: nothing long before 1 / t^2 overflows.
        weights = [gap * (1 + t) / t**2, (1 - t) * (1 + t) / t**2] if t > 1e-100 else [0.0, 0.0]
        self.parameters = np.array([[t, -t], [gap, 1 + t], weights])

    @cached_property
    def _table(self) -> tuple[Floats, Floats]:
        """Cube roots of the masses at _CELLS + 1 angles and the slopes of the angles in them.

        The cube root of the mass is smooth at an edge, and linear at the hard edge, where any start will do.
        """
        angles = np.tile(np.linspace(0, np.pi / 2, _CELLS + 1), (2, 1))
        masses, density = mass(angles, *self.parameters[:, :, None])
        roots = np.cbrt(masses)
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = 3 * roots**2 / density
        slopes[:, 0] = np.cbrt(1.5 * np.pi * self.parameters[1] ** 2)
        return roots, slopes

    def masses(self, x: Floats) -> tuple[Floats, Floats]:
        """Mass below and above each x, both accurate where small; NaN at NaN."""
        left, right = np.sqrt(np.maximum(x - self.low, 0)), np.sqrt(np.maximum(self.high - x, 0))
        upper = left > right
        angle = 2 * np.arctan2(np.minimum(left, right), np.maximum(left, right))
        near = mass(angle, *self._of(upper))[0] * (angle != 0)
        far = 1 - near
        return np.where(upper, far, near), np.where(upper, near, far)

    def quantiles(self, below: Floats, above: Floats) -> Floats:
        """The x with mass `below` below it and `above` above it, of which the one on the nearer edge's side counts."""
        upper = below > self._table[0][0, -1] ** 3
        target = np.where(upper, above, below)
        angle = invert(mass, target, 0, np.pi / 2, self._start(target, upper), self._of(upper), settled=1e-9)
        depth = (self.high - self.low) * np.square(np.sin(0.5 * angle))
        return np.where(upper, self.high - depth, self.low + depth)

    def _of(self, upper: npt.NDArray[np.bool_]) -> tuple[Floats, ...]:
        return tuple(np.where(upper, other, one) for one, other in self.parameters)

    def _start(self, target: Floats, upper: npt.NDArray[np.bool_]) -> Floats:
        """Angles of mass `target` by cubic interpolation in the table of their edge."""
        root = np.cbrt(target)
        roots, slopes = self._table
        before = np.searchsorted(roots[0, 1:-1], root)
        before = np.where(upper, np.searchsorted(roots[1, 1:-1], root), before)
        edge = upper.astype(np.intp)
        start, end = roots[edge, before], roots[edge, before + 1]
        rise = end - start
        u = (root - start) / rise
        v = 1 - u
        bend = v * slopes[edge, before] - u * slopes[edge, before + 1]
        return np.asarray((before + u * u * (1 + 2 * v)) * (0.5 * np.pi / _CELLS) + rise * u * v * bend)


def stieltjes_of_interval(
    function: Callable[[Complexes, Complexes], Complexes], z: npt.ArrayLike, low: float, high: float, scale: float
) -> Any:
    """Stieltjes transform at z of `scale` times a law on [low, high]; `function` takes points and their root.

    The root is the square root of (z - low)(z - high) that grows like z and jumps on the interval only.
    """
    given = as_array("z", z)
    if given.dtype.kind not in "fiuc":
        raise TypeError(f"`z` must be real or complex numbers; got {given.dtype} from {type(z).__name__}")
    point = np.atleast_1d(given).astype(np.complex128)
    # Part by part: a complex division would lose the sign of a zero imaginary part and turn infinity into NaN.
    point.view(np.float64)[...] /= scale
    finite = np.isfinite(point)
    inside = np.where(finite, point, high + 1)
    value = np.where(finite, function(inside, np.sqrt(inside - low) * np.sqrt(inside - high)), 0)
    value[np.isnan(point)] = np.nan
    value.view(np.float64)[...] /= scale
    value = value.reshape(given.shape)
    # Like numpy.emath: a real question has a real answer unless a point lies on the cut.
    real = given.dtype.kind != "c" and not np.any((given > low * scale) & (given < high * scale))
    return (value.real if real else value)[()]
