"""Trace and Frobenius norm of an operator, exactly, and the ratio that marks the Goldilocks zone."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmtland._arguments import finite_array
from rmtland._arrays import Array, to_numpy
from rmtland.spectra.operators import SymmetricOperator


def trace_and_norm(operator: SymmetricOperator) -> tuple[float, float]:
    """Trace and Frobenius norm from D products with unit vectors, a block of columns at a time.

    Returns
    -------
    (trace, frobenius_norm) : tuple of float
        Exact up to rounding; O(D) memory per column, never the D x D matrix.
    """
    trace = square = 0.0
    for block, columns in operator.columns():
        part = to_numpy(columns).astype(np.float64, copy=False)
        trace += float(np.trace(part[block]))
        square += float(np.vdot(part, part))
    return trace, float(np.sqrt(square))


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
        Between -sqrt(D) and sqrt(D); NaN for the zero matrix, which has none.

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
        eigenvalues = finite_array("eigenvalues", values, ndim=1)
        trace, norm = float(eigenvalues.sum()), float(np.linalg.norm(eigenvalues))
    return trace / norm if norm > 0 else float("nan")
