"""Compiled solver of the generalised Marchenko-Pastur equation, in the coordinate u = -1/g.

With c_i = w_i / D the equation of `GeneralizedMarchenkoPastur` is x = map(u),

    map(u) = u (1 + sum_i c_i t_i / (u - t_i)) = u + sum_i c_i t_i + sum_i a_i / (u - t_i),   a_i = c_i t_i^2,

the subordination of a semicircle (Biane 1997): for every real r there is at most one v > 0 with map(r + iv) real,
namely where h(r, v^2) = sum_i a_i / ((r - t_i)^2 + v^2) equals 1, and x increases with r along that curve (v = 0 where
h(r, 0) <= 1: outside the support). So the right branch can be bracketed: `climb` solves two nested monotone problems of
one real unknown and cannot land on a wrong root. Newton's method from the neighbouring point is what runs nearly
always; whatever it returns has to prove itself on the curve or `climb` takes over.

Everywhere: t ascending, distinct and positive, c > 0, both scaled by the caller so that max t = 1. Sums over the atoms
may be reordered, which lets them run in SIMD (fastmath "reassoc"); NaN and infinities keep their meaning.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rmtland.laws._law import Complexes, Floats

EPS = 2.220446049250313e-16
ITERATIONS = 200


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def evaluate(r: float, v: float, t: Floats, b: Floats, a: Floats) -> tuple[complex, complex]:
    """map(u) and map'(u) at u = r + iv, v > 0; b = c t, a = c t^2."""
    s_re = s_im = d_re = d_im = 0.0
    v2 = v * v
    for i in range(t.size):
        x = r - t[i]
        q = 1.0 / (x * x + v2)
        p = x * q
        m = v * q
        s_re += b[i] * p
        s_im += b[i] * m
        d_re += a[i] * (p * p - m * m)
        d_im += a[i] * (p * m)
    u = complex(r, v)
    return u * complex(1.0 + s_re, -s_im), complex(1.0 - d_re, 2.0 * d_im)


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def evaluate_real(r: float, t: Floats, b: Floats, a: Floats) -> tuple[float, float]:
    """map(r) and map'(r) at real r away from the atoms."""
    s = d = 0.0
    for i in range(t.size):
        q = 1.0 / (r - t[i])
        s += b[i] * q
        d += a[i] * q * q
    return r * (1.0 + s), 1.0 - d


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


@njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract"})
def count_above(u: complex, x: float, t: Floats, weights: Floats, dimension: float) -> float:
    """Number of eigenvalues above x from u = u(x + i0); exact sums of the weights where u is real.

    The closed form in its stationary version: -Im(x/u) in place of sum_i Im 1/(1 + t_i g), equal on the solution, makes
    an error of u count only in second order.
    """
    r, v = u.real, u.imag
    total = 0.0
    if v == 0.0:
        if r < 0.0:
            return dimension
        for i in range(t.size):
            if t[i] > r:
                total += weights[i]
        return total
    own = math.atan2(v, r)
    for i in range(t.size):
        total += weights[i] * (math.atan2(v, r - t[i]) - own)
    return (total + dimension * (own - x * v / (r * r + v * v))) / math.pi


@njit(cache=True, error_model="numpy")
def height(r: float, guess: float, t: Floats, a: Floats) -> float:
    """The v >= 0 of the curve above r: h(r, v^2) = 1, or 0 where h(r, 0) <= 1.

    1/h is concave and increasing in y = v^2, so Newton's method on it converges from the left without fail; a bracket
    in log y keeps the approach short where atoms of very different size compete.
    """
    k = int(np.searchsorted(t, r))
    low = 0.0
    nearest = math.inf
    for i in range(max(k - 1, 0), min(k + 1, t.size)):
        gap = (r - t[i]) * (r - t[i])
        nearest = min(nearest, gap)
        low = max(low, a[i] - gap)
    if low == 0.0:
        if nearest == 0.0:
            return 0.0
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
        if not (new >= low and new <= high):
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
        if not (new > low and new < high) or h >= 1.0 or 2.0 * abs(step) > last:
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
    x: float, eta: float, low: float, high: float, guess: complex, t: Floats, b: Floats, a: Floats
) -> tuple[complex, complex]:
    """Solution of map(u) = x + i eta (eta = 0: from above), low <= Re u <= high, by bracketing; also map'(u)."""
    spread = math.sqrt(np.sum(a))
    r, v = guess.real, guess.imag
    if not (r > low and r < high):
        r = 0.5 * (low + high)
    last = high - low
    slope = complex(1.0, 0.0)
    for _ in range(ITERATIONS):
        v = height(r, v, t, a) if eta == 0.0 else height_off_axis(r, eta, v, eta + spread, t, a)
        if v > 0.0:
            value, slope = evaluate(r, v, t, b, a)
            here, rate = value.real, (slope.real * slope.real + slope.imag * slope.imag) / slope.real
        else:
            here, rate = evaluate_real(r, t, b, a)
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
        if not (new > low and new < high) or not 2.0 * abs(step) <= last:
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
def newton(x: complex, u: complex, t: Floats, b: Floats, a: Floats) -> tuple[complex, complex, bool]:
    """Newton's method for map(u) = x within the upper half plane: u, map'(u), and whether it converged."""
    slope = complex(1.0, 0.0)
    for _ in range(12):
        value, slope = evaluate(u.real, u.imag, t, b, a)
        step = (value - x) / slope
        new = u - step
        size = abs(step)
        if not size < math.inf:
            return u, slope, False
        if new.imag <= 0.0:
            new = complex(new.real, 0.1 * u.imag)
        elif size <= 1e-9 * u.imag or size <= 4.0 * EPS * abs(u):
            # The step is taken: what is left is its square.
            return new, slope, True
        u = new
    return u, slope, False


@njit(cache=True, error_model="numpy")
def solve_real(x: Floats, low: float, high: float, t: Floats, b: Floats, a: Floats) -> Complexes:
    """Solution u(x + i0) for ascending x between the outer edges map(low) and map(high)."""
    result = np.empty(x.size, dtype=np.complex128)
    u = complex(0.5 * (low + high), 0.0)
    slope = complex(1.0, 0.0)
    start = low
    for j in range(x.size):
        done = False
        if j > 0 and u.imag > 0.0:
            first = u + (x[j] - x[j - 1]) / slope
            if first.imag <= 0.0:
                first = complex(first.real, 0.5 * u.imag)
            new, rate, done = newton(complex(x[j], 0.0), first, t, b, a)
            done = done and new.real >= start and new.real <= high and on_curve(new, t, a)
            if done:
                u, slope = new, rate
        if not done:
            guess = u if j > 0 else complex(0.5 * (low + high), 0.5 * (high - low))
            u, slope = climb(x[j], 0.0, start, high, guess, t, b, a)
        # r increases with x; a hair of slack, as the last point is known to rounding only.
        start = max(low, u.real - 16.0 * EPS * abs(u.real))
        result[j] = u
    return result


@njit(cache=True, error_model="numpy")
def solve_complex(z: Complexes, t: Floats, b: Floats, a: Floats) -> Complexes:
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
            first = complex(centre, eta)
            if u.imag > 0.0 and abs(z[j] - z[j - 1]) < 0.5 * eta:
                first = u
            if first == u or abs(first) > 4.0 * (1.0 + spread):
                new, _, done = newton(z[j], first, t, b, a)
                if done:
                    u = new
        if not done:
            # |sum a / (u - t)| <= sqrt(sum a) wherever h <= 1 (Cauchy-Schwarz).
            slack = 1e-12 * (abs(centre) + spread + shift)
            u, _ = climb(x, eta, centre - spread - slack, centre + spread + slack, complex(centre, eta), t, b, a)
        result[j] = u
    return result


@njit(cache=True, error_model="numpy")
def counts(u: Complexes, x: Floats, t: Floats, weights: Floats, dimension: float) -> Floats:
    """`count_above` for many points."""
    result = np.empty(x.size)
    for j in range(x.size):
        result[j] = count_above(u[j], x[j], t, weights, dimension)
    return result


@njit(cache=True, error_model="numpy")
def quantiles(
    above: Floats, low: float, high: float, t: Floats, b: Floats, a: Floats, weights: Floats, dimension: float
) -> Floats:
    """Points with `above` eigenvalues above them, for ascending `above`; at the count of a gap, the gap's lower end.

    One bracketed Newton iteration in r = Re u, along which the count falls and x rises.
    """
    result = np.empty(above.size)
    tail = 0.0
    k = t.size
    ceiling = high
    for j in range(above.size):
        goal = above[j]
        slack = 4.0 * EPS * goal
        lower, upper = low, ceiling
        # Where bands do not overlap the level belongs to one atom; the search starts there.
        while k > 0 and tail < goal:
            k -= 1
            tail += weights[k]
        r = t[k] if t[k] > lower and t[k] < upper else 0.5 * (lower + upper)
        v = 0.0
        x = math.nan
        last = upper - lower
        for _ in range(ITERATIONS):
            v = height(r, v, t, a)
            if v > 0.0:
                value, slope = evaluate(r, v, t, b, a)
                x = value.real
                climb_rate = (slope.real * slope.real + slope.imag * slope.imag) / slope.real
                rate = climb_rate * dimension * v / (math.pi * (r * r + v * v))
            else:
                x, climb_rate = evaluate_real(r, t, b, a)
                rate = 0.0
            error = count_above(complex(r, v), x, t, weights, dimension) - goal
            if error > slack:
                lower = r
            else:
                upper = r
            step = error / rate if rate > 0.0 else math.nan
            new = r + step
            if abs(step) <= 1e-8 * v and new >= lower and new <= upper:
                # All is smooth on the scale v: what a last step in x leaves is its square.
                x += climb_rate * step
                r = new
                break
            if not (new > lower and new < upper) or not 2.0 * abs(step) <= last:
                new = 0.5 * (lower + upper)
                last = upper - lower
            else:
                last = abs(step)
            if new in (lower, upper) or abs(new - r) <= EPS * abs(r):
                break
            r = new
        ceiling = min(high, r + 16.0 * EPS * abs(r))
        result[j] = x
    return result
