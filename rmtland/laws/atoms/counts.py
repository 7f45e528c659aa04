"""Compiled counts of eigenvalues and their inverse, in the notation of `kernels`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from rmtland.laws._law import Complexes, Floats
from rmtland.laws.atoms.kernels import EPS, ITERATIONS, evaluate, evaluate_real, height

TAIL = 0.05
"""Fraction of the eigenvalues that count as the lower tail, where counts from below are worth their price."""


@njit(cache=True, error_model="numpy")
def excess(opposite: float, adjacent: float) -> float:
    """Angle less sin(angle) cos(angle), for the angle of (adjacent, opposite >= 0); accurate where small."""
    if opposite < 0.1 * adjacent:
        q = opposite / adjacent
        s = q * q
        series = 10 / 11 - s * (12 / 13 - s * (14 / 15 - s * (16 / 17)))
        return q * s * (2 / 3 - s * (4 / 5 - s * (6 / 7 - s * (8 / 9 - s * series))))
    square = opposite * opposite + adjacent * adjacent
    return math.atan2(opposite, adjacent) - opposite * adjacent / square


@njit(cache=True, error_model="numpy")
def count_above(u: complex, t: Floats, weights: Floats, dimension: float) -> float:
    """Number of eigenvalues above x from u = u(x + i0); exact sums of the weights where u is real.

    The closed form (1/pi) Im [-D log g + sum_i w_i (log(1 + t_i g) + 1/(1 + t_i g))] in the angles beta of u and
    gamma_i of (u - t_i)/u. With h = 1 it is (D f(beta) + sum_i w_i f(gamma_i)) / pi, f(x) = x - sin x cos x: nothing
    cancels, so it is accurate at the upper edge too.
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
    square = r * r + v * v
    for i in range(t.size):
        total += weights[i] * excess(t[i] * v, square - t[i] * r)
    return (total + dimension * excess(v, r)) / math.pi


@njit(cache=True, error_model="numpy")
def rise(first: float, step: float) -> float:
    """F(first + step) - F(first) of F = (x - sin x cos x) / sin(x)^2, by quadrature where it would cancel."""
    last = first + step
    if step < 0.2:
        total = 0.0
        for node, weight in ((0.33998104358485626, 0.6521451548625461), (0.8611363115940526, 0.34785484513745385)):
            for sign in (-1.0, 1.0):
                x = first + 0.5 * step * (1.0 + sign * node)
                sine, cosine = math.sin(x), math.cos(x)
                # F' = 2 (1 - F cos / sin)
                total += weight * (1.0 - excess(sine, cosine) / (sine * sine) * cosine / sine)
        return total * step
    lower, upper = math.sin(first), math.sin(last)
    return excess(upper, math.cos(last)) / (upper * upper) - excess(lower, math.cos(first)) / (lower * lower)


@njit(cache=True, error_model="numpy")
def count_below(u: complex, t: Floats, weights: Floats, dimension: float, rank: float) -> float:
    """Number of eigenvalues in (0, x], accurate at the lowest edge; rank - count_above anywhere.

    There, without a Wigner matrix (N < D: beta < pi - gamma_i; else gamma_i < pi - beta) the difference is a sum of
    positive terms.
    """
    r, v = u.real, u.imag
    if v == 0.0 or r > t[0] or t[0] == 0.0:
        return rank - count_above(u, t, weights, dimension)
    square = r * r + v * v
    total = 0.0
    for i in range(t.size):
        opposite, adjacent = t[i] * v, square - t[i] * r
        # The third angle of the triangle 0, t_i, u.
        third = math.atan2(v, t[i] - r)
        first = math.atan2(v, r) if rank < dimension else math.atan2(opposite, adjacent)
        total += weights[i] * rise(first, third) * opposite * opposite / (opposite * opposite + adjacent * adjacent)
    return total / math.pi


@njit(cache=True, error_model="numpy")
def counts(u: Complexes, t: Floats, weights: Floats, dimension: float, rank: float) -> tuple[Floats, Floats]:
    """Numbers of eigenvalues above and below (zeros not counted) for many points."""
    above, below = np.empty(u.size), np.empty(u.size)
    for j in range(u.size):
        above[j] = count_above(u[j], t, weights, dimension)
        below[j] = rank - above[j]
        if below[j] < TAIL * rank:
            below[j] = count_below(u[j], t, weights, dimension, rank)
            above[j] = rank - below[j]
    return above, below


@njit(cache=True, error_model="numpy")
def _quantile(
    goal: float,
    from_above: bool,
    r: float,
    v: float,
    lower: float,
    upper: float,
    t: Floats,
    b: Floats,
    a: Floats,
    deficit: float,
    weights: Floats,
    dimension: float,
    rank: float,
) -> tuple[float, float, float, float]:
    """The x of one goal with lower <= r <= upper, from a guess r + iv; r, v and the rate of the count there.

    One bracketed Newton iteration in r = Re u, along which the count falls and x rises.
    """
    slack = 4.0 * EPS * goal
    x, rate = math.nan, 0.0
    last = upper - lower
    for _ in range(ITERATIONS):
        v = height(r, v, t, a)
        if v > 0.0:
            value, slope = evaluate(r, v, t, b, a, deficit)
            x = value.real
            climb_rate = (slope.real * slope.real + slope.imag * slope.imag) / slope.real
            rate = climb_rate * dimension * v / (math.pi * (r * r + v * v))
        else:
            x, climb_rate = evaluate_real(r, t, b, a, deficit)
            rate = 0.0
        if from_above:
            error = count_above(complex(r, v), t, weights, dimension) - goal
        else:
            error = goal - count_below(complex(r, v), t, weights, dimension, rank)
        if error > slack:
            lower = r
        else:
            upper = r
        step = error / rate if 0.0 < rate < math.inf else math.nan
        new = r + step
        if abs(step) <= 1e-8 * v and lower <= new <= upper:
            # All is smooth on the scale v: what a last step in x leaves is its square.
            return x + climb_rate * step, new, v, rate
        if not lower < new < upper or not 2.0 * abs(step) <= last:
            new = 0.5 * (lower + upper)
            last = upper - lower
        else:
            last = abs(step)
        if new in (lower, upper) or abs(new - r) <= EPS * abs(r):
            break
        r = new
    return x, r, v, rate


@njit(cache=True, error_model="numpy")
def quantiles(
    goals: Floats,
    from_above: bool,
    low: float,
    high: float,
    t: Floats,
    b: Floats,
    a: Floats,
    deficit: float,
    weights: Floats,
    dimension: float,
    rank: float,
) -> Floats:
    """Smallest x with `goals` eigenvalues above them, or `goals` nonzero ones below; 0 < goals < rank, ascending."""
    result = np.empty(goals.size)
    tails = np.cumsum(weights[::-1])
    known = high if from_above else low
    r = v = rate = 0.0
    for j in range(goals.size):
        goal = goals[j]
        lower, upper = (low, known) if from_above else (known, high)
        # The last quantile's neighbour, if near on the scale v; else, as where bands do not overlap, the atom that the
        # level belongs to.
        ahead = (goal - goals[j - 1]) / rate if j > 0 and v > 0.0 else math.inf
        if ahead <= 0.5 * v:
            r = r - ahead if from_above else r + ahead
        else:
            k = max(0, t.size - 1 - int(np.searchsorted(tails, goal if from_above else rank - goal)))
            r, v = t[k], 0.0
        if not lower < r < upper:
            r, v = 0.5 * (lower + upper), 0.0
        result[j], r, v, rate = _quantile(
            goal, from_above, r, v, lower, upper, t, b, a, deficit, weights, dimension, rank
        )
        slack = 16.0 * EPS * abs(r)
        known = min(high, r + slack) if from_above else max(low, r - slack)
    return result
