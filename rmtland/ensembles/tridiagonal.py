"""Tridiagonal models of the classical ensembles: their entries, extreme eigenvalues, and how many rows these need.

Two forms, both filled from the top row down, each row from its own random numbers, so that a leading block of m rows
is the same whether or not more rows follow:

- ``QD`` (Wishart): M = B^T B with B bidiagonal, q_j = B_jj^2 and e_j = B_(j+1)j^2; M_jj = q_j + e_j and M_j(j+1)^2 =
  e_j q_(j+1). q_j is chi^2 of beta (n - j) degrees of freedom over beta and e_j of beta (p - 1 - j), j from 0; a spike
  ell multiplies q_0. Everything works on q and e, so small eigenvalues come out with small relative errors.
- ``TRI`` (Gaussian): diagonal N(0, 2/beta), squared off-diagonal chi^2 of beta (n - 1 - j) degrees over beta.

Eigenvalues: Laguerre's method from outside the spectrum for the extreme one (monotone, cubic; all sums are of positive
terms), Sturm counts for the others.

Notes
-----
How many rows. Both edges of the spectrum of rows j, j+1, ... move inwards as j grows, so extreme eigenvectors sit at
the top: near a soft edge they follow the Airy equation, with length L = abs(1/sqrt(p) +- 1/sqrt(n))^(-2/3) rows (+ for
the largest, - for the smallest, n^(1/3) for Gaussian matrices). `block_length` starts with y L rows, y = a_k + 1 +
max(10, (48/beta)^(2/3)), a_k the size of the k-th Airy zero: rows beyond have an eigenvalue above the k-th of the block
with probability of order exp(-(2/3) beta (y - a_k)^(3/2)) < 1e-14. Each draw is then checked: with u the eigenvector of
the k-th eigenvalue of the block, the padded vector has residual eta = abs(M_m(m+1) u_m), so an eigenvalue of the whole
lies within eta, and, at distance delta of all others, within eta^2/delta (Kato and Temple); eta <= 1e-8 Tracy-Widom
scales is asked for, and the block grows until it holds. Where it would reach all rows nothing is cut: the hard edge.

References
----------
Dumitriu and Edelman (2002), Matrix models for beta ensembles, theorems 2.1 and 3.4. Bloemendal and Virag (2013),
section 1 (one spike). Edelman and Persson (2005), Numerical methods for eigenvalue distributions of random matrices
(truncation). Ramirez, Rider and Virag (2011), theorem 1.1 (the Airy limit). Fernando and Parlett (1994), the qd
recurrences. Kato (1949); Temple (1928).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rmtland.ensembles.kernels import Floats, State, Words, compiled, gamma, inner, normal, seed_state

QD, TRI = 0, 1
_TOLERANCE = 1e-8
_TINY = 1e-290


def airy_zero(k: int) -> float:
    """Size of the k-th zero of the Airy function, to 2%."""
    return float((3 * math.pi * (4 * k - 1) / 8) ** (2 / 3))


def block_length(length: float, k: int, beta: float, num_rows: int) -> int:
    """Rows to start with for the k extreme eigenvalues at an edge of Airy length `length`; see the module's notes."""
    rows = length * (airy_zero(k) + 1 + max(10.0, (48 / beta) ** (2 / 3))) + 2 * k + 2
    return num_rows if not rows < num_rows else math.ceil(rows)


@inner
def fill(form: int, n: float, p: float, beta: float, spike: float, sign: float, first: int, last: int,
         a: Floats, b: Floats, state: State) -> None:  # fmt: skip
    """Write rows first..last - 1: (q, e) for QD; (sign * diagonal, squared off-diagonal) for TRI, which has no p."""
    half, unit = 0.5 * beta, 2.0 / beta
    spread = sign * math.sqrt(unit)
    for i in range(2 * first, 2 * last):
        j = i >> 1
        if i & 1:
            b[j] = unit * gamma(half * ((p if form == QD else n) - 1.0 - j), state)
        elif form == QD:
            a[j] = unit * gamma(half * (n - j), state)
        else:
            a[j] = spread * normal(state)
    if first == 0:
        if form == QD:
            a[0] *= spike
        else:
            a[0] += sign * spike


@inner
def count_below(form: int, a: Floats, b: Floats, m: int, x: float) -> int:
    """Number of eigenvalues of the leading m x m block below x (Sturm)."""
    below = 0
    if form == QD:
        d = a[0] - x
        for j in range(m):
            pivot = d + b[j]
            if abs(pivot) < _TINY:
                pivot = -_TINY
            if pivot < 0.0:
                below += 1
            if j + 1 < m:
                d = a[j + 1] * (d / pivot) - x
    else:
        pivot = a[0] - x
        for j in range(m):
            if abs(pivot) < _TINY:
                pivot = -_TINY
            if pivot < 0.0:
                below += 1
            if j + 1 < m:
                pivot = a[j + 1] - x - b[j] / pivot
    return below


@inner
def _laguerre_sums(form: int, a: Floats, b: Floats, m: int, x: float, above: bool) -> tuple[bool, float, float]:
    """Whether x is outside the spectrum (above it, else below), and sum 1/(x - l), sum 1/(x - l)^2 over eigenvalues."""
    sign = -1.0 if above else 1.0
    first, second = 0.0, 0.0
    slope, bend = -1.0, 0.0
    if form == QD:
        d = a[0] - x
        for j in range(m):
            pivot = d + b[j]
            if not sign * pivot > 0.0:
                return False, 0.0, 0.0
            inverse = 1.0 / pivot
            ratio = slope * inverse
            first += ratio
            second += ratio * ratio - bend * inverse
            if j + 1 < m:
                factor = a[j + 1] * inverse
                d = factor * d - x
                factor *= b[j] * inverse
                bend = factor * (bend - 2.0 * slope * ratio)
                slope = factor * slope - 1.0
    else:
        pivot = a[0] - x
        for j in range(m):
            if not sign * pivot > 0.0:
                return False, 0.0, 0.0
            inverse = 1.0 / pivot
            ratio = slope * inverse
            first += ratio
            second += ratio * ratio - bend * inverse
            if j + 1 < m:
                factor = b[j] * inverse
                pivot = a[j + 1] - x - factor
                factor *= inverse
                bend = factor * (bend - 2.0 * slope * ratio)
                slope = factor * slope - 1.0
    return True, first, second


@inner
def extreme(form: int, a: Floats, b: Floats, m: int, start: float, width: float, above: bool) -> float:
    """Largest (`above`) or smallest eigenvalue of the leading block, from about `start`, to rounding."""
    outward = 1.0 if above else -1.0
    x, step, approaching, before = start, 0.0, False, abs(start)
    for _ in range(200):
        if form == QD and not above and x <= 0.0:
            x = 0.0
        outside, first, second = _laguerre_sums(form, a, b, m, x, above)
        if outside:
            approaching = True
            step = m / (abs(first) + math.sqrt(max((m - 1.0) * (m * second - first * first), 0.0)))
            if step <= 4e-16 * abs(x):
                break
            before = abs(x)
            x -= outward * step
        elif approaching and above and form == QD and before > 8.0 * abs(x):
            # Passed, but within rounding of a point much further out: from nearby it is found to its own rounding.
            x += 4e-16 * before
            before = abs(x)
        elif approaching or x == 0.0:  # within rounding of the eigenvalue, as exact steps never pass it
            break
        else:
            x += outward * width
            width *= 8.0
    return x


@inner
def bisect(form: int, a: Floats, b: Floats, m: int, below: int, low: float, high: float) -> float:
    """The eigenvalue with `below` others under it, by Sturm counts, to rounding; low <= it <= high need only roughly
    hold.
    """
    width = max(high - low, 1e-3 * max(abs(high), abs(low), 1e-300))
    x, stage = low, 0
    while abs(x) < 1e300:  # counts of what is no number would be waited for for ever
        under = count_below(form, a, b, m, x) <= below
        if stage == 0:  # is low low enough?
            if under:
                x, stage = high, 1
                continue
            high, low = low, low - width
            width *= 2.0
            x = low
            continue
        if stage == 1 and under:  # high is not high enough
            low, high = high, high + width
            width *= 2.0
            x = high
            continue
        if stage == 1:
            stage = 2
        elif under:
            low = x
        else:
            high = x
        x = 0.5 * (low + high)
        if not low < x < high or high - low <= 4e-16 * max(abs(low), abs(high)):
            return x
    return math.nan


@inner
def ends(form: int, a: Floats, b: Floats, m: int, x: float) -> tuple[float, float]:
    """Squared first and last entry of the unit eigenvector of the leading block at its eigenvalue x.

    By the recurrence from the bottom up, stable as extreme eigenvectors decay downwards. For QD the first is that of
    B M^(-1/2) u, the eigenvector of B B^T: its entry along the spike.
    """
    norm, decay = 1.0, 1.0
    if form == QD:
        g = (b[m - 1] if m > 0 else 0.0) - x
        for j in range(m - 2, -1, -1):
            pivot = a[j + 1] + g
            if abs(pivot) < _TINY:
                pivot = -_TINY
            factor = b[j] / pivot
            g = factor * g - x
            factor *= a[j + 1] / pivot
            norm = 1.0 + factor * norm
            decay *= factor
        return a[0] / (x * norm) if x > 0.0 else 0.0, decay / norm
    pivot = a[m - 1] - x
    for j in range(m - 2, -1, -1):
        if abs(pivot) < _TINY:
            pivot = -_TINY
        factor = b[j] / pivot
        norm = 1.0 + (factor / pivot) * norm
        decay *= factor / pivot
        pivot = a[j] - x - factor
    return 1.0 / norm, decay / norm


@inner
def solve(form: int, a: Floats, b: Floats, m: int, edge: float, scale: float, above: bool, k: int,
          values: Floats) -> None:  # fmt: skip
    """The k largest (`above`) or smallest eigenvalues of the leading block, from the outermost inwards."""
    outward = scale if above else -scale
    x = extreme(form, a, b, m, edge + 6.0 * outward, 6.0 * scale, above)
    values[0] = x
    for j in range(1, k):
        inward = x - 3.0 * outward
        low, high = min(x, inward), max(x, inward)
        x = bisect(form, a, b, m, m - 1 - j if above else j, low, high)
        values[j] = x


@inner
def _grown(array: Floats, size: int, filled: int) -> Floats:
    longer = np.empty(size)
    for j in range(filled):  # a slice here would take seconds to compile
        longer[j] = array[j]
    return longer


@inner
def _cut(form: int, n: float, a: Floats, b: Floats, m: int, x: float) -> float:
    """Squared residual of the block's eigenvector at x in the whole matrix, the next row taken at its mean."""
    off = b[m - 1] * (n - m) if form == QD else b[m - 1]
    return float(ends(form, a, b, m, x)[1] * off)


@compiled
def outermost(form: int, n: float, p: float, beta: float, spike: float, sign: float, num_rows: int, rows: int,
             edge: float, scale: float, above: bool, k: int, words: Words, start: int, values: Floats,
             overlaps: Floats) -> int:  # fmt: skip
    """`extremes` for k = 1: half the code, as most calls want no more and the first one waits for the compiler."""
    a, b = np.empty(rows), np.empty(rows)
    state = np.empty(4, dtype=np.uint64)
    for i in range(values.shape[0]):
        seed_state(words, start + i, state)
        m, filled = rows, 0
        while True:
            fill(form, n, p, beta, spike, sign, filled, m, a, b, state)
            values[i, 0] = extreme(form, a, b, m, edge + (6.0 * scale if above else -6.0 * scale), 6.0 * scale, above)
            if m == num_rows or _cut(form, n, a, b, m, values[i, 0]) <= (_TOLERANCE * scale) ** 2:
                break
            filled = m
            m = min(num_rows, m + m // 2 + 1)
            if m > a.size:
                a, b = _grown(a, m, filled), _grown(b, m, filled)
        if overlaps.size:
            overlaps[i, 0] = ends(form, a, b, m, values[i, 0])[0]
    return int(a.size)


@compiled
def extremes(form: int, n: float, p: float, beta: float, spike: float, sign: float, num_rows: int, rows: int,
             edge: float, scale: float, above: bool, k: int, words: Words, start: int, values: Floats,
             overlaps: Floats) -> int:  # fmt: skip
    """The k largest (`above`) or smallest eigenvalues of replicates start, start + 1, ... into `values` (R, k).

    From the outermost inwards. `rows` is the block to start with, `edge` and `scale` where and how widely the extreme
    eigenvalue is expected without a spike. `overlaps` (same shape, or empty) gets the squared entries along the spike.
    Returns the longest block used. TRI knows its largest only: its smallest are minus the
    largest at `sign` -1.
    """
    a, b = np.empty(rows), np.empty(rows)
    state = np.empty(4, dtype=np.uint64)
    for i in range(values.shape[0]):
        seed_state(words, start + i, state)
        m, filled = rows, 0
        while True:
            fill(form, n, p, beta, spike, sign, filled, m, a, b, state)
            solve(form, a, b, m, edge, scale, above, k, values[i])
            if m == num_rows or _cut(form, n, a, b, m, values[i, k - 1]) <= (_TOLERANCE * scale) ** 2:
                break
            filled = m
            m = min(num_rows, m + m // 2 + 1)
            if m > a.size:
                a, b = _grown(a, m, filled), _grown(b, m, filled)
        if overlaps.size:
            for j in range(k):
                overlaps[i, j] = ends(form, a, b, m, values[i, j])[0]
    return int(a.size)


@compiled
def draw(form: int, n: float, p: float, beta: float, spike: float, num_rows: int, words: Words, index: int,
         a: Floats, b: Floats) -> None:  # fmt: skip
    """All rows of replicate `index`."""
    state = np.empty(4, dtype=np.uint64)
    seed_state(words, index, state)
    fill(form, n, p, beta, spike, 1.0, 0, num_rows, a, b, state)


@inner
def square_qd(a: Floats, b: Floats) -> None:
    """Make q, e of an (m + 1) x m bidiagonal B those of the square upper bidiagonal R with R^T R = B^T B, in place."""
    m = a.size
    d = a[0]
    for j in range(m):
        pivot = d + b[j]
        if j + 1 < m:
            ratio = a[j + 1] / pivot if pivot > 0.0 else 0.0
            off = b[j] * ratio
            d *= ratio
        else:
            off = 0.0
        a[j], b[j] = pivot, off


def dense_block(form: int, a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """The tridiagonal matrix of rows (a, b) as a dense array; for tests and small uses."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    diagonal = a + b if form == QD else a
    off = np.sqrt(b[:-1] * a[1:] if form == QD else b[:-1])
    return np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
