"""Band models of ensembles with r >= 2 spikes: the first r coordinates stay, the rest is reduced to a band of width r.

Row i of the model, i from 0, of X X^T (p x n, ``QD``): B_ii = chi of beta (n - i) degrees of freedom over sqrt(beta),
B_i(i-r) likewise of beta (p - i), standard normal entries between them (complex for beta = 2), the first r rows scaled
by the roots of the spikes; the model is M = B^H B, min(p, n) x min(p, n). Of a Gaussian matrix (``TRI``): diagonal N(0,
2/beta), the first r next entries normal, the r-th chi of beta (n - r - i); spikes are added to the first r diagonal
entries. Lower band storage: ``band[j, d]`` is M_(j+d)j.

References
----------
Bloemendal and Virag (2016), Limits of spiked random matrices II, section 1 (band forms).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rmtland.ensembles.kernels import Floats, State, Words, compiled, gamma, inner, normal, seed_state
from rmtland.ensembles.tridiagonal import QD

Complexes = npt.NDArray[np.complex128]
_TOLERANCE = 1e-8
_TINY = 1e-290


@inner
def _entry(beta: float, state: State) -> complex:
    """Standard normal: real for beta = 1, complex with E abs(entry)^2 = 1 for beta = 2."""
    x = normal(state)
    return complex(x, 0.0) if beta == 1.0 else complex(x, normal(state)) * math.sqrt(0.5)


@inner
def fill_band(form: int, n: float, p: float, beta: float, spikes: Floats, first: int, last: int, rows: Complexes,
              state: State) -> None:  # fmt: skip
    """Write rows first..last - 1 of the triangular factor B (QD) or of the lower half of the matrix (TRI).

    ``rows[i, d]`` is the entry in column i - d.
    """
    r = spikes.size
    half, unit = 0.5 * beta, 2.0 / beta
    for i in range(first, last):
        for d in range(r + 1):
            entry = 0j
            if d == 0 and form != QD:
                entry = complex(math.sqrt(unit) * normal(state), 0.0)
                if i < r:
                    entry += spikes[i]
            elif d == 0 or d == r:
                degrees = n - i if d == 0 or form != QD else p - i
                if i >= d and degrees > 0.0:
                    entry = complex(math.sqrt(unit * gamma(half * degrees, state)), 0.0)
            elif i >= d:
                entry = _entry(beta, state)
            if form == QD and i < r:
                entry *= math.sqrt(spikes[i])
            rows[i, d] = entry


@inner
def assemble(form: int, rows: Complexes, num_rows: int, m: int, band: Complexes) -> None:
    """Lower band of the leading m x m block of the model from its `num_rows` first rows."""
    r = rows.shape[1] - 1
    for j in range(m):
        for d in range(r + 1):
            total = 0j
            if j + d < m:
                if form == QD:
                    for i in range(j + d, min(j + r, num_rows - 1) + 1):
                        total += rows[i, i - j - d].conjugate() * rows[i, i - j]
                else:
                    total = rows[j + d, d]
            band[j, d] = total


@inner
def factor(band: Complexes, m: int, x: float, floor: float, work: Complexes) -> int:
    """L D L^H of band - x into `work` (D in column 0, L in the others); returns the number of negative pivots.

    Pivots smaller than `floor` are set to it.
    """
    r = band.shape[1] - 1
    below = 0
    for j in range(m):
        for d in range(r + 1):
            work[j, d] = band[j, d]
        work[j, 0] -= x
    for j in range(m):
        pivot = work[j, 0].real
        if abs(pivot) < floor:
            pivot = -floor
        work[j, 0] = complex(pivot, 0.0)
        below += pivot < 0.0
        reach = min(r, m - 1 - j)
        for d in range(1, reach + 1):
            ratio = work[j, d] / pivot
            for s in range(d, reach + 1):
                work[j + d, s - d] -= work[j, s] * ratio.conjugate()
        for d in range(1, reach + 1):
            work[j, d] /= pivot
    return below


@inner
def band_eigenvalue(band: Complexes, m: int, below: int, low: float, high: float, work: Complexes) -> float:
    """The eigenvalue between `low` and `high` with `below` others under it, by counts of pivots, to rounding."""
    floor = 1e-17 * (high - low)  # below it pivots are noise
    while True:
        x = 0.5 * (low + high)
        if not low < x < high or high - low <= max(4e-16 * max(abs(low), abs(high)), floor):
            return x
        if factor(band, m, x, _TINY, work) <= below:
            low = x
        else:
            high = x


@inner
def band_vector(band: Complexes, m: int, x: float, work: Complexes, vector: Complexes) -> None:
    """Unit eigenvector at the eigenvalue x into `vector`, by inverse iteration."""
    r = band.shape[1] - 1
    factor(band, m, x, 1e-40 * abs(x) + _TINY, work)
    for j in range(m):
        vector[j] = complex(1.0 / (1.0 + j), 0.3 / (2.0 + j))
    for _ in range(3):
        for j in range(m):
            for d in range(1, min(r, m - 1 - j) + 1):
                vector[j + d] -= work[j, d] * vector[j]
        for j in range(m):
            vector[j] /= work[j, 0].real
        norm = 0.0
        for j in range(m - 1, -1, -1):
            for d in range(1, min(r, m - 1 - j) + 1):
                vector[j] -= work[j, d].conjugate() * vector[j + d]
            norm += vector[j].real ** 2 + vector[j].imag ** 2
        norm = 1.0 / math.sqrt(norm)
        for j in range(m):
            vector[j] *= norm


@inner
def reach(band: Complexes, m: int) -> float:
    """A bound on the size of every eigenvalue (the largest row sum)."""
    r = band.shape[1] - 1
    bound = 0.0
    for j in range(m):
        total = abs(band[j, 0])
        for d in range(1, r + 1):
            if j + d < m:
                total += abs(band[j, d])
            if j >= d:
                total += abs(band[j - d, d])
        bound = max(bound, total)
    return bound


@inner
def _residual(form: int, n: float, beta: float, band: Complexes, m: int, vector: Complexes) -> float:
    """Bound on the squared residual, in the whole matrix, of a block's eigenvector."""
    r = band.shape[1] - 1
    tail = 0.0
    for j in range(max(m - r, 0), m):
        tail += vector[j].real ** 2 + vector[j].imag ** 2
    return tail * band[max(m - r - 1, 0), 0].real ** 2 if form == QD else tail * n


@inner
def _seen(form: int, rows: Complexes, vector: Complexes, x: float, overlap: Floats) -> None:
    """Squared entries of the eigenvector along each of the r spikes."""
    r = rows.shape[1] - 1
    for i in range(r):
        total = vector[i] if i < vector.size else 0j
        if form == QD:
            total = 0j
            for d in range(i + 1):
                if i - d < vector.size:
                    total += rows[i, d] * vector[i - d]
        overlap[i] = (total.real**2 + total.imag**2) / (x if form == QD else 1.0)


@inner
def _grown(rows: Complexes, size: int, filled: int) -> Complexes:
    longer = np.zeros((size, rows.shape[1]), dtype=np.complex128)
    for i in range(filled):
        for d in range(rows.shape[1]):
            longer[i, d] = rows[i, d]
    return longer


@compiled
def band_extremes(form: int, n: float, p: float, beta: float, spikes: Floats, num_columns: int, block: int,
                  scale: float, above: bool, k: int, words: Words, start: int, values: Floats,
                  overlaps: Floats) -> int:  # fmt: skip
    """The k largest (`above`) or smallest eigenvalues, from the outermost inwards, of replicates start, start + 1, ...

    `block` is the block to start with, `num_columns` the order of the whole model, `scale` the Tracy-Widom scale.
    `overlaps` (R, k, r) or with no replicates, gets the squared entries along the spikes. Returns the longest block.
    """
    r = spikes.size
    total_rows = int(p) if form == QD and p < num_columns + r else num_columns + (r if form == QD else 0)
    rows = np.zeros((1, r + 1), dtype=np.complex128)
    state = np.empty(4, dtype=np.uint64)
    longest = block
    for i in range(values.shape[0]):
        seed_state(words, start + i, state)
        m, filled = block, 0
        while True:
            needed = min(total_rows, m + r) if form == QD else m
            if needed > rows.shape[0]:
                rows = _grown(rows, needed, filled)
            fill_band(form, n, p, beta, spikes, filled, needed, rows, state)
            filled = needed
            band = np.zeros((m, r + 1), dtype=np.complex128)
            work = np.zeros((m, r + 1), dtype=np.complex128)
            vector = np.zeros(m, dtype=np.complex128)
            assemble(form, rows, needed, m, band)
            bound = reach(band, m) * (1.0 + 1e-12)
            last = bound if above else (0.0 if form == QD else -bound)
            for j in range(k):
                low, high = (-bound * (form != QD), last) if above else (last, bound)
                x = band_eigenvalue(band, m, m - 1 - j if above else j, low, high, work)
                values[i, j] = x
                last = x + 1e-15 * bound if above else x - 1e-15 * bound
                if overlaps.shape[0] or (j == k - 1 and m < num_columns):
                    band_vector(band, m, x, work, vector)
                if overlaps.shape[0]:
                    _seen(form, rows, vector, x, overlaps[i, j])
            longest = max(longest, m)
            if m == num_columns or _residual(form, n, beta, band, m, vector) <= (_TOLERANCE * scale) ** 2:
                break
            m = min(num_columns, m + m // 2 + 1)
    return longest


@compiled
def draw_band(form: int, n: float, p: float, beta: float, spikes: Floats, words: Words, index: int, rows: Complexes,
              band: Complexes) -> None:  # fmt: skip
    """The whole band of replicate `index` into `band`; `rows` is work space with all rows of the model."""
    state = np.empty(4, dtype=np.uint64)
    seed_state(words, index, state)
    fill_band(form, n, p, beta, spikes, 0, rows.shape[0], rows, state)
    assemble(form, rows, rows.shape[0], band.shape[0], band)
