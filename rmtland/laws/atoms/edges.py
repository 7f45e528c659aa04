"""Compiled search for the edges of the generalised Marchenko-Pastur law, in the notation of `kernels`.

The complement of the support is the image of the real r with h(r, 0) < 1 (Silverstein and Choi 1995): between
neighbouring atoms h is convex and infinite at both, so each gap is open at one interval of r or nowhere.
The pole at 0 of a Wigner matrix is an atom like the others.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rmtland.laws._law import Floats
from rmtland.laws.atoms.kernels import EPS, ITERATIONS, evaluate_real


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _sums(u: float, first: int, last: int, t: Floats, a: Floats) -> tuple[float, float, float]:
    """Sums of a / (u - t)^k, k = 2, 3, 4, over the atoms first <= i < last.

    At an atom, as where u is within rounding of it: what an edge beside it alone has, sqrt(a) away.
    """
    s2 = s3 = s4 = 0.0
    for i in range(first, last):
        x = u - t[i]
        q = 1.0 / x if x != 0.0 else 1.0 / math.sqrt(a[i])
        w = a[i] * q * q
        s2 += w
        s3 += w * q
        s4 += w * q * q
    return s2, s3, s4


@njit(cache=True, error_model="numpy")
def _valley(k: int, first: int, last: int, t: Floats, a: Floats) -> tuple[float, bool]:
    """A point between the atoms k and k + 1 with h < 1 over the atoms first..last, and whether there is one."""
    low, high = t[k], t[k + 1]
    left, right = a[k] ** (1 / 3), a[k + 1] ** (1 / 3)
    u = low + (high - low) * left / (left + right)
    for _ in range(ITERATIONS):
        if not low < u < high:
            u = 0.5 * (low + high)
        s2, s3, s4 = _sums(u, first, last, t, a)
        if s2 < 1.0:
            return u, True
        # h is convex: its tangent bounds it from below on the bracket.
        if s3 > 0.0:
            low = u
            if s2 - 2.0 * s3 * (high - u) >= 1.0:
                return u, False
        else:
            high = u
            if s2 + 2.0 * s3 * (u - low) >= 1.0:
                return u, False
        new = u + s3 / (3.0 * s4)
        if abs(new - u) <= EPS * abs(u):
            return u, False
        u = new
    return u, False


@njit(cache=True, error_model="numpy")
def _crossing(inside: float, pole: float, own: float, t: Floats, a: Floats) -> float:
    """Where h(u, 0) = 1 between `inside` (h < 1) and the atom at `pole`, whose a is `own`.

    Newton's method on 1/sqrt(h), which is exactly linear for one atom alone.
    """
    sign = 1.0 if inside > pole else -1.0
    # Distances from the pole: h < 1 at `far`, h >= 1 at `near`, as the atom alone brings h to 1 at sqrt(own).
    near, far = math.sqrt(own), abs(inside - pole)
    distance = near
    for _ in range(ITERATIONS):
        u = pole + sign * distance
        s2, s3, _ = _sums(u, 0, t.size, t, a)
        if u == pole:
            if s2 < 1.5:
                return u
            # The others alone, s2 - 1, keep h up: the crossing is not this atom's.
            near, distance = distance, 4.0 * EPS * abs(pole)
            continue
        if s2 >= 1.0:
            near = max(near, distance)
        else:
            far = min(far, distance)
        # d(1/sqrt h)/du = s3 / s2^(3/2)
        step = (1.0 - 1.0 / math.sqrt(s2)) * s2 * math.sqrt(s2) / (sign * s3)
        new = distance + step
        if not near <= new <= far:
            new = 0.5 * (near + far)
        if abs(new - distance) <= 2.0 * EPS * distance:
            return pole + sign * new
        distance = new
    return pole + sign * distance


@njit(cache=True, error_model="numpy")
def outer_crossings(t: Floats, a: Floats, hard: bool) -> tuple[float, float]:
    """Values of u at the lowest and highest edge; `hard` if N = D, when the lowest is 0 itself."""
    spread = math.sqrt(np.sum(a))
    top, bottom = t[-1], t[0]
    right = _crossing(top + 2.0 * spread, top, a[-1], t, a)
    if hard:
        return 0.0, right
    return _crossing(bottom - 2.0 * spread, bottom, a[0], t, a), right


@njit(cache=True, error_model="numpy")
def crossings(low: float, high: float, t: Floats, a: Floats, window: int) -> Floats:
    """Values of u at all edges, (k, 2): the ends of the k intervals of r over which the curve is above the axis.

    A gap between neighbouring atoms is open iff h dips below 1 there. Most are shut already by the two atoms alone,
    most of the rest by those within `window`; only survivors see all atoms.
    """
    result = [low]
    for k in range(t.size - 1):
        width = t[k + 1] - t[k]
        if (a[k] ** (1 / 3) + a[k + 1] ** (1 / 3)) ** 3 >= width * width:
            continue
        if not _valley(k, max(k - window, 0), min(k + 2 + window, t.size), t, a)[1]:
            continue
        inside, is_open = _valley(k, 0, t.size, t, a)
        if is_open:
            result.append(_crossing(inside, t[k], a[k], t, a))
            result.append(_crossing(inside, t[k + 1], a[k + 1], t, a))
    result.append(high)
    return np.array(result).reshape(-1, 2)


@njit(cache=True, error_model="numpy")
def edges(u: Floats, t: Floats, b: Floats, a: Floats, deficit: float) -> tuple[Floats, Floats]:
    """map(u) and |map''(u)| at the edges."""
    value, curvature = np.empty(u.size), np.empty(u.size)
    for j in range(u.size):
        value[j] = evaluate_real(u[j], t, b, a, deficit)[0]
        curvature[j] = 2.0 * abs(_sums(u[j], 0, t.size, t, a)[1])
    return value, curvature
