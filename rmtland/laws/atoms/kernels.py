"""Compiled solver of the generalised Marchenko-Pastur equation, in the coordinate u = -1/g.

With c_i = w_i / D the equation of `GeneralizedMarchenkoPastur` is x = map(u),

    map(u) = u (1 + sum_i c_i t_i / (u - t_i)) = u + sum_i c_i t_i + sum_i a_i / (u - t_i),   a_i = c_i t_i^2,

the subordination of a semicircle (Biane 1997): for every real r there is at most one v > 0 with map(r + iv) real,
namely where h(r, v^2) = sum_i a_i / ((r - t_i)^2 + v^2) equals 1, and x increases with r along that curve (v = 0 where
h(r, 0) <= 1: outside the support). So the right branch can be bracketed: `climb` solves two nested monotone problems of
one real unknown and cannot land on a wrong root. Newton's method from the neighbouring point is what runs nearly
always; whatever it returns has to prove itself on the curve or `climb` takes over.

A Wigner matrix of scale sigma beside them adds sigma^2 / u, a pole of the same kind: t[0] = 0 with a[0] = sigma^2, b[0]
= 0. At the points of the curve the counts need no other change, as they are written in terms of h = 1.

Everywhere: t ascending, distinct and positive but for that, c > 0, both scaled by the caller so that max t <= 1. Sums
over the atoms may be reordered, which lets them run in SIMD (fastmath "reassoc"); NaN and infinities keep their
meaning.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rmtland.laws._law import Complexes, Floats

EPS = 2.220446049250313e-16
ITERATIONS = 200


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def evaluate(r: float, v: float, t: Floats, b: Floats, a: Floats, deficit: float) -> tuple[complex, complex]:
    """map(u) and map'(u) at u = r + iv, v > 0; b = c t, a = c t^2, deficit = 1 - sum c.

    The factor 1 + sum b / (u - t) of map equals deficit + u sum c / (u - t), which cancels nothing for small u.
    """
    s_re = s_im = d_re = d_im = 0.0
    v2 = v * v
    u = complex(r, v)
    low = 2.0 * abs(u) < t[0]
    for i in range(t.size):
        x = r - t[i]
        q = 1.0 / (x * x + v2)
        p = x * q
        m = v * q
        weight = b[i] / t[i] if low else b[i]
        s_re += weight * p
        s_im += weight * m
        d_re += a[i] * (p * p - m * m)
        d_im += a[i] * (p * m)
    factor = complex(s_re, -s_im)
    factor = deficit + u * factor if low else 1.0 + factor
    value = u * factor
    if t[0] == 0.0:
        value += a[0] / u
    return value, complex(1.0 - d_re, 2.0 * d_im)


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def evaluate_real(r: float, t: Floats, b: Floats, a: Floats, deficit: float) -> tuple[float, float]:
    """map(r) and map'(r) at real r away from the atoms; a lone atom may be nearer than rounding lets r say."""
    s = d = 0.0
    low = 2.0 * abs(r) < t[0]
    for i in range(t.size):
        x = r - t[i]
        q = 1.0 / x if x != 0.0 else 1.0 / math.sqrt(a[i])
        s += (b[i] / t[i] if low else b[i]) * q
        d += a[i] * q * q
    value = r * (deficit + r * s if low else 1.0 + s)
    if t[0] == 0.0:
        value += a[0] / r
    return value, 1.0 - d


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def height_sums(r: float, y: float, t: Floats, a: Floats) -> tuple[float, float]:
    """h(r, y) and -dh/dy, y = v^2."""
    h = q2 = 0.0
    for i in range(t.size):
        x = r - t[i]
        q = 1.0 / (x * x + y)
        h += a[i] * q
        q2 += a[i] * q * q
    return h, q2


@njit(cache=True, error_model="numpy")
def height(r: float, guess: float, t: Floats, a: Floats) -> float:
    """The v >= 0 of the curve above r: h(r, v^2) = 1, or 0 where h(r, 0) <= 1.

    1/h is concave and increasing in y = v^2, so Newton's method on it converges from the left without fail; a bracket
    in log y keeps the approach short where atoms of very different size compete.
    """
    k = int(np.searchsorted(t, r))
    low = 0.0
    for i in range(max(k - 1, 0), min(k + 1, t.size)):
        low = max(low, a[i] - (r - t[i]) * (r - t[i]))
    if low == 0.0:
        h, slope = height_sums(r, 0.0, t, a)
        if h <= 1.0:
            return 0.0
        low = h * (h - 1.0) / slope
    high = math.inf
    y = guess * guess
    if not y > low:
        y = low
    for iteration in range(ITERATIONS):
        h, slope = height_sums(r, y, t, a)
        if h >= 1.0:
            low = max(low, y)
        else:
            high = min(high, y)
        new = y + h * (h - 1.0) / slope
        if abs(h - 1.0) < 1e-8:
            return math.sqrt(max(new, 0.0))
        if not low <= new <= high:
            new = low
        if iteration >= 3 and abs(h - 1.0) > 0.5:
            # y h(y) is on the root's side of y: it bounds the root from the other side as soon as there is none.
            top = high if high < math.inf else 2.0 * new
            new = max(new, math.sqrt(low * top)) if h > 1.0 else math.sqrt(low * top)
        if abs(new - y) <= EPS * y:
            return math.sqrt(new)
        y = new
    return math.sqrt(y)


@njit(cache=True, error_model="numpy")
def height_off_axis(r: float, eta: float, guess: float, top: float, t: Floats, a: Floats) -> float:
    """The v > 0 with Im map(r + iv) = v (1 - h(r, v^2)) = eta > 0: unique, as v (1 - h) increases where positive."""
    low, high = 0.0, top
    v = min(max(guess, eta), top)
    last = math.inf
    for _ in range(ITERATIONS):
        h, slope = height_sums(r, v * v, t, a)
        error = v * (1.0 - h) - eta
        if error < 0.0:
            low = v
        else:
            high = v
        step = -error / (1.0 - h + 2.0 * v * v * slope)
        new = v + step
        if not low < new < high or h >= 1.0 or 2.0 * abs(step) > last:
            new = math.sqrt(max(low, 1e-300) * high) if high > 4.0 * low else 0.5 * (low + high)
            last = math.inf
        else:
            last = abs(step)
        if abs(new - v) <= 2.0 * EPS * v:
            return new
        v = new
    return v


@njit(cache=True, error_model="numpy")
def climb(
    x: float, eta: float, low: float, high: float, guess: complex, t: Floats, b: Floats, a: Floats, deficit: float
) -> tuple[complex, complex]:
    """Solution of map(u) = x + i eta (eta = 0: from above), low <= Re u <= high, by bracketing; also map'(u)."""
    spread = math.sqrt(np.sum(a))
    r, v = guess.real, guess.imag
    if not low < r < high:
        r = 0.5 * (low + high)
    last = high - low
    for _ in range(ITERATIONS):
        v = height(r, v, t, a) if eta == 0.0 else height_off_axis(r, eta, v, eta + spread, t, a)
        if v > 0.0:
            value, slope = evaluate(r, v, t, b, a, deficit)
            here, rate = value.real, (slope.real * slope.real + slope.imag * slope.imag) / slope.real
        else:
            here, rate = evaluate_real(r, t, b, a, deficit)
            slope = complex(rate, 0.0)
        error = here - x
        if error == 0.0:
            break
        if error < 0.0:
            low = r
        else:
            high = r
        step = -error / rate
        new = r + step
        if not low < new < high or not 2.0 * abs(step) <= last:
            new = 0.5 * (low + high)
            last = high - low
        else:
            last = abs(step)
        if new in (r, low, high) or abs(new - r) <= EPS * abs(r):
            break
        r = new
    return complex(r, v), slope


@njit(cache=True, error_model="numpy")
def on_curve(u: complex, t: Floats, a: Floats) -> bool:
    """Whether u is where the curve passes, to a thousandth of its height: a real root that Newton fell into is not."""
    y = u.imag * u.imag
    h, slope = height_sums(u.real, y, t, a)
    return h * abs(h - 1.0) <= 1e-3 * slope * y


@njit(cache=True, error_model="numpy")
def newton(x: complex, u: complex, t: Floats, b: Floats, a: Floats, deficit: float) -> tuple[complex, complex, bool]:
    """Newton's method for map(u) = x within the upper half plane: u, map'(u), and whether it converged."""
    for _ in range(12):
        value, slope = evaluate(u.real, u.imag, t, b, a, deficit)
        if not (0.0 < abs(slope) < math.inf and abs(value) < math.inf):
            # Numba raises where a complex number is divided by 0.
            return u, slope, False
        step = (value - x) / slope
        new = u - step
        size = abs(step)
        if new.imag <= 0.0:
            new = complex(new.real, 0.1 * u.imag)
        elif size <= 1e-9 * u.imag or size <= 4.0 * EPS * abs(u):
            # The step is taken: what is left is its square.
            return new, slope, True
        u = new
    return u, slope, False


@njit(cache=True, error_model="numpy")
def solve_real(x: Floats, low: float, high: float, t: Floats, b: Floats, a: Floats, deficit: float) -> Complexes:
    """Solution u(x + i0) for ascending x between the outer edges map(low) and map(high)."""
    result = np.empty(x.size, dtype=np.complex128)
    u = complex(0.5 * (low + high), 0.0)
    slope = complex(1.0, 0.0)
    start = low
    hard = np.sum(b / (t * t)) if deficit == 0.0 else 0.0
    for j in range(x.size):
        done = False
        if u.imag > 0.0 and abs(slope) > 0.0:
            first = u + (x[j] - x[j - 1]) / slope
            if first.imag <= 0.0:
                first = complex(first.real, 0.5 * u.imag)
            new, rate, done = newton(complex(x[j], 0.0), first, t, b, a, deficit)
            done = done and start <= new.real <= high and on_curve(new, t, a)
            if done:
                u, slope = new, rate
        if not done and hard > 0.0 and x[j] > 0.0:
            # At a hard edge u is i sqrt(x / sum c/t) to first order, and soon too small for h to resolve it.
            first = complex(0.0, math.sqrt(x[j] / hard))
            if first.imag < 1e-3 * t[0]:
                u, slope, done = newton(complex(x[j], 0.0), first, t, b, a, deficit)
        if not done:
            u, slope = climb(x[j], 0.0, start, high, u, t, b, a, deficit)
            if u.imag > 0.0:
                # Along the curve v is known to rounding of h only; Newton's method in the plane does better.
                new, rate, done = newton(complex(x[j], 0.0), u, t, b, a, deficit)
                if done and abs(new - u) <= 1e-3 * u.imag:
                    u, slope = new, rate
        # r increases with x; a hair of slack, as the last point is known to rounding only.
        start = max(low, u.real - 16.0 * EPS * abs(u.real))
        result[j] = u
    return result


@njit(cache=True, error_model="numpy")
def solve_complex(z: Complexes, t: Floats, b: Floats, a: Floats, deficit: float) -> Complexes:
    """Solution u(z) for any z of Im z >= 0; real z mean the limit from above."""
    result = np.empty(z.size, dtype=np.complex128)
    shift = np.sum(b)
    spread = math.sqrt(np.sum(a))
    u = complex(0.0, 0.0)
    for j in range(z.size):
        x, eta = z[j].real, z[j].imag
        centre = x - shift
        done = False
        if eta > 0.0:
            # Off the axis the solution in the upper half plane is unique: converging there is proof enough.
            near = j > 0 and abs(z[j] - z[j - 1]) < 0.5 * eta
            first = u if near else complex(centre, eta)
            new, _, done = newton(z[j], first, t, b, a, deficit)
            if done:
                u = new
        if not done:
            # |sum a / (u - t)| <= sqrt(sum a) wherever h <= 1 (Cauchy-Schwarz).
            slack = 1e-12 * (abs(centre) + spread + shift)
            u, _ = climb(
                x, eta, centre - spread - slack, centre + spread + slack, complex(centre, eta), t, b, a, deficit
            )
        result[j] = u
    return result
