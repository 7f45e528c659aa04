"""Trace and Frobenius norm of an operator, exactly, and the ratio that marks the Goldilocks zone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array
from rmtland._arrays import Array, is_torch, to_numpy
from rmtland.spectra.operators import SymmetricOperator


def trace_and_norm(operator: SymmetricOperator) -> tuple[float, float]:
    """Trace and Frobenius norm from D products with unit vectors, a block of columns at a time.

    Parameters
    ----------
    operator : SymmetricOperator
        D x D.

    Returns
    -------
    (trace, frobenius_norm) : tuple of float
        Exact up to rounding, summed in float64; a block of columns in memory, never the D x D matrix.
    """
    trace = norm = 0.0
    for block, columns in operator.columns():
        part = to_numpy(columns).astype(np.float64, copy=False)
        trace += float(np.trace(part[block]))
        # Norms of blocks, not sums of squares: those of a frozen network's 1e-170 underflow.
        norm = float(np.hypot(norm, _norm(part)))
    return trace, norm


def _norm(values: npt.NDArray[np.float64]) -> float:
    """Frobenius norm of entries of any size."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest * float(np.linalg.norm(values / largest)) if largest > 0 else 0.0


def goldilocks_ratio(operator_or_eigenvalues: SymmetricOperator | Array | Any) -> float:
    """Trace(H) / ||H||_F, the measure of excess positive curvature.

    Parameters
    ----------
    operator_or_eigenvalues : SymmetricOperator, array (k,), or a spectrum
        An operator (exact: D products), the eigenvalues (zero ones change nothing and may be left out), or anything
        with `.eigenvalues`.

    Returns
    -------
    float
        Between -sqrt(D) and sqrt(D), whatever the scale of the matrix; NaN for the zero matrix, which has none.

    Raises
    ------
    ValueError
        For eigenvalues that are not a finite (k,) array.

    References
    ----------
    Fort and Scherlis (2018), The Goldilocks zone, sec. 3; Fort and Ganguli (2019), fig. 8.

    Examples
    --------
    >>> import rmtland as rl
    >>> rl.goldilocks_ratio([1.0, 1.0, 1.0, 1.0])
    2.0
    """
    if isinstance(operator_or_eigenvalues, SymmetricOperator):
        trace, norm = trace_and_norm(operator_or_eigenvalues)
    else:
        values = getattr(operator_or_eigenvalues, "eigenvalues", operator_or_eigenvalues)
        eigenvalues = finite_array("eigenvalues", to_numpy(values) if is_torch(values) else values, ndim=1)
        trace, norm = float(eigenvalues.sum()), _norm(eigenvalues)
    return trace / norm if norm > 0 else float("nan")
