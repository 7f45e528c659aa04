"""Makes data/tracy_widom.npz, the table behind `TracyWidom`: run ``python -m tools.tabulate_tracy_widom``.

Takes a few minutes and needs mpmath. With V(x, y) = Ai((x + y) / 2) / 2 on (s, infinity) and D-+ = det(I -+ V)
(Ferrari and Spohn 2005; Bornemann 2010, section 6), F1 = D-, F2 = D- D+ and F4 = (D- + D+) / 2, the last in s of
variance 1.0354, sqrt(2) times that of Tracy and Widom.

Centre, LEFT <= s <= RIGHT: both determinants by Gauss-Legendre quadrature at 130 digits, so that log cdf (left of
SPLIT) and log sf (right of it) come out to more digits than a float holds; interpolated on pieces of length 2 at
Chebyshev points, then expanded again on the short pieces that are shipped.
Left of it: the asymptotic series of log D-+ in abs(s)^(-3/2), from Painleve II and the constants of Baik, Buckingham
and DiFranco (2008). At LEFT its error is 1e-16, checked against the determinants.
Right of it: sf to first order in the exponentially small, 1 - F1 = tr V, 1 - F2 = tr V^2 and
1 - F4 = (tr V^2 - tr^2 V) / 2, next order e^(-42); as exp(-c s^(3/2)) s^(-p) times a polynomial in s^(-3/2), good to
s = infinity.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

TABLE = Path(__file__).parent / "data" / "tracy_widom.npz"
LEFT, RIGHT = -12, 16
SPLIT = {1: -2, 2: -2, 4: -4}
RIGHT_LEADING = {
    1: (Fraction(2, 3), Fraction(3, 4)),
    2: (Fraction(4, 3), Fraction(3, 2)),
    4: (Fraction(4, 3), Fraction(3)),
}
PIECES_PER_UNIT, ORDER = 8, 9
BITS = 430
BEYOND = 37  # where the half-line is cut off: Ai(37) = 1e-66


@cache
def airy_series(centre: int) -> list[int]:
    """Taylor coefficients of Ai at centre / 4 in fixed point, from Ai'' = x Ai."""
    import mpmath as mp  # type: ignore[import-untyped]

    x = mp.mpf(centre) / 4
    a = [int(mp.ldexp(value, BITS)) for value in (mp.airyai(x), mp.airyai(x, derivative=1))]
    for k in range(70):
        a.append(((centre * a[k]) // 4 + (a[k - 1] if k else 0)) // ((k + 1) * (k + 2)))
    return a[::-1]


def airy(x: int) -> int:
    """Ai in fixed point."""
    centre = (x + (1 << (BITS - 3))) >> (BITS - 2)
    u = x - (centre << (BITS - 2))
    total = 0
    for a in airy_series(centre):
        total = ((total * u) >> BITS) + a
    return total


def log_determinant(matrix: list[list[int]]) -> Any:
    """Log det of a positive definite matrix in fixed point, given by its lower triangle, by elimination."""
    import mpmath as mp

    rows = [list(row) for row in matrix]
    total = mp.mpf(0)
    while rows:
        pivot = rows.pop(0)[0]
        total += mp.log(mp.ldexp(mp.mpf(pivot), -BITS))
        column = [row.pop(0) for row in rows]
        for i, row in enumerate(rows):
            factor = (column[i] << BITS) // pivot
            rows[i] = [entry - ((factor * other) >> BITS) for entry, other in zip(row, column, strict=False)]
    return total


@cache
def legendre(order: int) -> tuple[list[Any], list[Any]]:
    """Gauss-Legendre nodes and weights on (-1, 1), by Newton's method."""
    import mpmath as mp

    nodes, weights = [], []
    for k in range(order):
        x = mp.cos(mp.pi * (k + mp.mpf(3) / 4) / (order + mp.mpf(1) / 2))
        for _ in range(9):
            before, here = mp.mpf(1), x
            for n in range(2, order + 1):
                before, here = here, ((2 * n - 1) * x * here - (n - 1) * before) / n
            slope = order * (x * here - before) / (x * x - 1)
            x -= here / slope
        nodes.append(x)
        weights.append(2 / ((1 - x * x) * slope**2))
    return nodes, weights


def log_determinants(s: Any, order: int) -> tuple[Any, Any]:
    """Log det(I - V) and log det(I + V) on (s, BEYOND)."""
    import mpmath as mp

    nodes, weights = legendre(order)
    half = (BEYOND - s) / 2
    x = [int(mp.ldexp(s + half * (1 + node), BITS)) for node in nodes]
    root = [int(mp.ldexp(mp.sqrt(half * weight / 2), BITS)) for weight in weights]
    kernel = [
        [(((root[i] * root[j]) >> BITS) * airy((x[i] + x[j]) >> 1)) >> BITS for j in range(i + 1)] for i in range(order)
    ]
    one = 1 << BITS
    signed = [
        [[(one if i == j else 0) + sign * kernel[i][j] for j in range(i + 1)] for i in range(order)] for sign in (-1, 1)
    ]
    return log_determinant(signed[0]), log_determinant(signed[1])


def log_cdf_and_sf(minus: Any, plus: Any) -> dict[int, tuple[Any, Any]]:
    """Log cdf and log sf of each beta from log D-+."""
    import mpmath as mp

    cdf = {1: mp.exp(minus), 2: mp.exp(minus + plus), 4: (mp.exp(minus) + mp.exp(plus)) / 2}
    return {beta: (mp.log(value), mp.log(1 - value)) for beta, value in cdf.items()}


def chebyshev(values: list[Any]) -> list[Any]:
    """Chebyshev coefficients of the interpolant through values at cos(pi (k + 1/2) / n)."""
    import mpmath as mp

    n = len(values)
    cosine = [mp.cos(mp.pi * k / (2 * n)) for k in range(4 * n)]
    sums = [2 * sum(value * cosine[j * (2 * k + 1) % (4 * n)] for k, value in enumerate(values)) / n for j in range(n)]
    return [sums[0] / 2, *sums[1:]]


def clenshaw(coefficients: list[Any], u: Any) -> Any:
    """Chebyshev series at u."""
    one = two = 0 * u
    for c in reversed(coefficients[1:]):
        one, two = 2 * u * one - two + c, one
    return u * one - two + coefficients[0]


def nodes(n: int) -> list[Any]:
    """Chebyshev points of (-1, 1)."""
    import mpmath as mp

    return [mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]


def long_piece(left: int, order: int, points: int) -> dict[int, list[Any]]:
    """Chebyshev coefficients on [left, left + 2] of log cdf or log sf, whichever is tabulated there."""
    found = [log_cdf_and_sf(*log_determinants(left + 1 + u, order)) for u in nodes(points)]
    return {beta: chebyshev([value[beta][left >= SPLIT[beta]] for value in found]) for beta in SPLIT}


def short_pieces(coefficients: list[Any]) -> list[list[float]]:
    """A long piece expanded on its short pieces, left to right, lowest order first."""
    import mpmath as mp

    count = 2 * PIECES_PER_UNIT
    return [
        [float(c) for c in chebyshev([clenshaw(coefficients, mp.mpf(2 * k + 1 + u) / count - 1) for u in nodes(ORDER)])]
        for k in range(count)
    ]


def _real(fraction: Fraction) -> Any:
    import mpmath as mp

    return mp.mpf(fraction.numerator) / fraction.denominator


def left_tail() -> tuple[list[float], list[float]]:
    """Series of log D-+ at s = -x in powers of x^(-3/2), beyond -x^3/24 -+ x^(3/2)/(3 sqrt 2) - log(x)/16."""
    import mpmath as mp

    # q(-x) = sqrt(x/2) sum a_k x^(-3k), the Hastings-McLeod solution of q'' = s q + 2 q^3; log F2'' = -q^2.
    a: list[Fraction] = [Fraction(1)]
    while len(a) < 13:
        k = len(a)
        power = Fraction(1, 2) - 3 * (k - 1)
        known = a[k - 1] * power * (power - 1)
        a.append(Fraction(0))
        cube = sum((a[i] * a[j] * a[k - i - j] for i in range(k + 1) for j in range(k + 1 - i)), Fraction(0))
        a[k] = (known - cube) / 2
    square = [sum((a[i] * a[k - i] for i in range(k + 1)), Fraction(0)) for k in range(len(a))]
    # Twice integrated, with the constants of log F2 and of int q from infinity.
    even = {2 * (k - 1): -square[k] / (2 * (2 - 3 * k) * (3 - 3 * k)) for k in range(2, len(a))}
    odd = {2 * k - 1: a[k] / (Fraction(3, 2) - 3 * k) for k in range(1, len(a))}
    constant = mp.log(2) / 24 + mp.zeta(-1, derivative=1)
    series: tuple[list[float], list[float]] = ([], [])
    for sign, coefficients in zip((-1, 1), series, strict=True):
        coefficients.append(float((constant + sign * mp.log(2) / 2) / 2))
        for k in range(1, 18):
            term = sign * _real(odd[k]) / mp.sqrt(2) if k % 2 else _real(even[k])
            coefficients.append(float(term / 2))
    return series


def airy_integral(s: Any, ai: Any, slope: Any) -> Any:
    """Integral of Ai over (s, infinity), s >= RIGHT: by parts, Ai = Ai''/x again and again, to 1e-27 relative."""
    import mpmath as mp

    total, factor, n = mp.mpf(0), mp.mpf(1), 0
    while True:
        total += factor * (-slope / s ** (n + 1) - (n + 1) * ai / s ** (n + 2))
        factor, n = factor * (n + 1) * (n + 2), n + 3
        if (n + 1) * (n + 2) >= s**3 or factor / s**n < mp.mpf(10) ** -60:
            return total


def right_tail() -> dict[int, list[float]]:
    """Polynomials in s^(-3/2), in Chebyshev form on [0, RIGHT^(-3/2)]: log sf less its leading terms."""
    import mpmath as mp

    values: dict[int, list[Any]] = {1: [], 2: [], 4: []}
    for u in nodes(14):
        t = (1 + u) / 2 / mp.mpf(RIGHT) ** mp.mpf("1.5")
        s = t ** (-mp.mpf(2) / 3)
        ai, slope = mp.airyai(s), mp.airyai(s, derivative=1)
        trace = airy_integral(s, ai, slope) / 2
        square = (2 * s * s * ai * ai - 2 * s * slope * slope - ai * slope) / 3
        for beta, sf in {1: trace, 2: square, 4: (square - trace**2) / 2}.items():
            rate, power = RIGHT_LEADING[beta]
            values[beta].append(mp.log(sf) + _real(rate) * s ** mp.mpf("1.5") + _real(power) * mp.log(s))
    return {beta: [float(c) for c in chebyshev(found)] for beta, found in values.items()}


def main() -> None:
    """Compute the table, check how it converged and where its parts meet, write it."""
    import mpmath as mp

    mp.mp.prec = BITS
    lefts = range(LEFT, RIGHT, 2)
    long = {left: long_piece(left, 100 if left < -6 else 80, 44) for left in lefts}
    centre = {beta: np.array([piece for left in lefts for piece in short_pieces(long[left][beta])]) for beta in SPLIT}
    worst = max(np.max(np.abs(pieces[:, -1])) for pieces in centre.values())
    print(f"last coefficient of a short piece: {worst:.1e}")
    minus, plus = (np.array(series) for series in left_tail())
    right = {beta: np.array(series) for beta, series in right_tail().items()}
    arrays: dict[str, Any] = {
        "left": LEFT,
        "right": RIGHT,
        "pieces_per_unit": PIECES_PER_UNIT,
        "minus": minus,
        "plus": plus,
    }
    for beta in SPLIT:
        rate, power = (float(x) for x in RIGHT_LEADING[beta])
        arrays |= {f"centre_{beta}": centre[beta], f"right_{beta}": right[beta]}
        arrays |= {f"split_{beta}": SPLIT[beta], f"rate_{beta}": rate, f"power_{beta}": power}
        tail = float(clenshaw(list(right[beta]), 1.0)) - rate * RIGHT**1.5 - power * math.log(RIGHT)
        print(f"beta = {beta}: parts meet at {RIGHT} within {abs(tail - np.sum(centre[beta][-1])):.1e} of log sf")
    x = -float(LEFT)
    for sign, series, exact in zip((-1, 1), (minus, plus), log_determinants(mp.mpf(LEFT), 100), strict=True):
        lead = -(x**3) / 24 + sign * x**1.5 / (3 * math.sqrt(2)) - math.log(x) / 16
        tail = lead + float(np.polynomial.polynomial.polyval(x**-1.5, series))
        print(f"determinant {sign:+d}: parts meet at {LEFT} within {abs(tail - float(exact)):.1e} of log cdf")
    TABLE.parent.mkdir(exist_ok=True)
    np.savez_compressed(TABLE, **arrays)
    print(f"{TABLE}: {TABLE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
