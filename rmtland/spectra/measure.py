"""Eigenvalues of a dense symmetric matrix and the components of one vector along its eigenvectors, without these."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import cache

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.linalg.blas import dsyr2
from scipy.linalg.lapack import dsytrd, dsytrd_lwork
from threadpoolctl import ThreadpoolController

Floats = npt.NDArray[np.float64]

ONE_THREAD = 2048
"""Matrices up to this size are reduced on one thread."""


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def spectral_measure(matrix: Floats, vector: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues of a symmetric matrix and the squared components of a vector along the eigenvectors.

    Parameters
    ----------
    matrix : ndarray (n, n)
        Symmetric, both triangles filled; not written to.
    vector : ndarray (n,)

    Returns
    -------
    eigenvalues, squares : ndarray (n,)
        Ascending; squares.sum() = vector @ vector. Of a repeated eigenvalue the squares of its eigenspace add up.

    Raises
    ------
    FloatingPointError
        Where the iteration does not converge, as with NaN.

    Notes
    -----
    A reflection takes the vector to the first axis, Householder's reduction leaves that axis alone, and the implicit QL
    iteration carries a single row of the eigenvectors: (4/3) n^3 operations instead of the 4 n^3 or more of a whole
    eigendecomposition, and one copy of the matrix in memory. Absolute errors are about 1e-16 of the norm.

    References
    ----------
    Golub and Welsch (1969), Calculation of Gauss quadrature rules, sec. 4. Golub and Van Loan, Matrix computations,
    sec. 8.3.

    Examples
    --------
    >>> import numpy as np
    >>> eigenvalues, squares = spectral_measure(np.diag([3.0, 1.0, 2.0]), np.array([2.0, 0.0, 1.0]))
    >>> print(eigenvalues, squares.round(12))
    [1. 2. 3.] [0. 1. 4.]
    """
    size = matrix.shape[0]
    length = float(np.linalg.norm(vector))
    reduced = np.array(matrix.T, order="F")  # the transpose of a C-ordered matrix is in LAPACK's order already
    if length > 0:
        reduced = _reflected(reduced, vector / length)
    if size > 1:
        # Half of the reduction is matrix-vector products, which wait for memory: at these sizes threads gain little and
        # on a busy machine lose a factor of five, waiting for each other.
        with _blas().limit(limits=1, user_api="blas") if size <= ONE_THREAD else nullcontext():
            _, diagonal, off_diagonal, _, info = dsytrd(
                reduced, lower=1, lwork=int(dsytrd_lwork(size, lower=1)[0]), overwrite_a=1
            )
        assert info == 0
    else:
        diagonal, off_diagonal = reduced[0], np.zeros(0)
    # Largest first is what comes out where the vector leans to the top eigenvectors; QL wants it last.
    values, rows = diagonal[::-1].copy(), np.zeros(size)
    rows[-1] = 1.0
    if not implicit_ql(values, np.append(off_diagonal[::-1], 0.0), rows):
        if not np.isfinite(matrix).all():
            raise FloatingPointError("the eigenvalue iteration did not converge; the matrix may hold NaN")
        # QL without restarts can stall where entries span many orders of magnitude; LAPACK's does not.
        values, vectors = np.linalg.eigh(matrix)
        return values, (vectors.T @ vector) ** 2
    order = np.argsort(values, kind="stable")
    squares: Floats = (length * rows[order]) ** 2
    return values[order], squares


def _reflected(matrix: Floats, unit: Floats) -> Floats:
    """The lower triangle of H matrix H, in place, with the reflection H that takes `unit` to the first axis."""
    v = unit.copy()
    v[0] += math.copysign(1.0, v[0])
    v /= np.linalg.norm(v)
    product = matrix @ v
    product -= (v @ product) * v
    reflected: Floats = dsyr2(-2.0, v, product, lower=1, a=matrix, overwrite_a=1)
    return reflected


@njit(cache=True, error_model="numpy")
def _iterate(diagonal: Floats, off_diagonal: Floats, row: Floats, small: float) -> bool:
    size = diagonal.size
    for left in range(size):
        for _ in range(60):
            block = left
            while block < size - 1:
                # Against the norm, not the neighbours: the tail that frozen directions leave is rounding, and would
                # not converge to more digits than it has.
                if abs(off_diagonal[block]) <= small:
                    break
                block += 1
            if block == left:
                break
            shift = (diagonal[left + 1] - diagonal[left]) / (2.0 * off_diagonal[left])
            radius = math.sqrt(shift * shift + 1.0)
            shift = diagonal[block] - diagonal[left] + off_diagonal[left] / (shift + math.copysign(radius, shift))
            sine, cosine, lost = 1.0, 1.0, 0.0
            for i in range(block - 1, left - 1, -1):
                first, second = sine * off_diagonal[i], cosine * off_diagonal[i]
                radius = math.sqrt(first * first + shift * shift)
                off_diagonal[i + 1] = radius
                if radius > 0.0:
                    sine, cosine = first / radius, shift / radius
                else:  # nothing to rotate away, as in LAPACK's dlartg
                    sine, cosine = 0.0, 1.0
                shift = diagonal[i + 1] - lost
                radius = (diagonal[i] - shift) * sine + 2.0 * cosine * second
                lost = sine * radius
                diagonal[i + 1] = shift + lost
                shift = cosine * radius - second
                carried = row[i + 1]
                row[i + 1] = sine * row[i] + cosine * carried
                row[i] = cosine * row[i] - sine * carried
            diagonal[left] -= lost
            off_diagonal[left] = shift
            off_diagonal[block] = 0.0
        else:
            return False
    return True


@njit(cache=True, error_model="numpy")
def implicit_ql(diagonal: Floats, off_diagonal: Floats, row: Floats) -> bool:
    """Eigenvalues of a tridiagonal matrix, in place, and `row` times its eigenvectors, in place; whether it converged.

    `off_diagonal` has n entries, the last one unused; it is overwritten. Eigenvalues come out in no order.
    """
    size = diagonal.size
    norm = 0.0
    for i in range(size):
        if not (math.isfinite(diagonal[i]) and math.isfinite(off_diagonal[i])):
            return False
        norm = max(norm, abs(diagonal[i]), abs(off_diagonal[i]))
    if norm == 0.0:
        return True
    # To sizes whose squares are numbers, by a power of two (two of them, as 2^1074 is none), which rounds nothing.
    exponent = math.frexp(norm)[1]
    first_half = exponent // 2
    second_half = exponent - first_half
    diagonal *= math.ldexp(1.0, -first_half)
    diagonal *= math.ldexp(1.0, -second_half)
    off_diagonal *= math.ldexp(1.0, -first_half)
    off_diagonal *= math.ldexp(1.0, -second_half)
    converged = _iterate(diagonal, off_diagonal, row, 2.220446049250313e-16 * math.ldexp(norm, -exponent))
    diagonal *= math.ldexp(1.0, first_half)
    diagonal *= math.ldexp(1.0, second_half)
    return converged
