"""SciPy's solvers behind the same call: orthonormal vectors, as rows in the operator's library."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse.linalg
from scipy.linalg import LinAlgWarning
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator

from rmtland._arrays import Array, like, to_numpy
from rmtland.spectra import _vectors
from rmtland.spectra._restarted import Budget, Goal
from rmtland.spectra.operators import SymmetricOperator

eigsh: Any = scipy.sparse.linalg.eigsh
scipy_lobpcg: Any = scipy.sparse.linalg.lobpcg
ARPACK_NAMES = {"largest": "LA", "smallest": "SA", "both_ends": "BE", "magnitude": "LM"}


def _linear(operator: SymmetricOperator, prototype: Array, budget: Budget) -> LinearOperator:
    def multiply(block: Any) -> Any:
        images = operator @ np.ascontiguousarray(block)
        budget.done += 1 if block.ndim == 1 else block.shape[1]
        budget.show(budget.done)
        if not np.isfinite(images).all():
            raise _vectors.not_finite(budget.done)
        return images

    dtype = to_numpy(prototype).dtype
    return LinearOperator(operator.shape, matvec=lambda v: multiply(v.reshape(-1)), matmat=multiply, dtype=dtype)


def _as_rows(operator: SymmetricOperator, prototype: Array, columns: Any, k: int, rng: np.random.Generator) -> Array:
    """Orthonormal rows of the solver's vectors, filled up with random ones where it gave too few."""
    rows = _vectors.empty(prototype, (k, operator.dimension))
    given = np.linalg.qr(columns)[0] if columns.shape[1] else columns
    for i in range(k):
        if i < given.shape[1]:
            rows[i][:] = like(rows, np.ascontiguousarray(given[:, i]))
        else:
            _vectors.fresh_row(rows, i, rng)
    return rows


def arpack(
    operator: SymmetricOperator,
    goal: Goal,
    which: str,
    budget: Budget,
    rng: np.random.Generator,
    start: Array | None,
    size: int | None,
) -> Array:
    """Vectors (k, D) by `scipy.sparse.linalg.eigsh`."""
    if goal.count >= operator.dimension:
        raise ValueError(f'`k` must be < D = {operator.dimension} with method="arpack"; got {goal.count}')
    _vectors.require_symmetric(operator, rng)
    budget.done += 2
    prototype = _vectors.working_prototype(operator)
    first = to_numpy(_vectors.start_vector(operator, rng, start))
    ncv = size or min(operator.dimension, max(2 * goal.count + 1, 20))
    cycles = max(1, (budget.limit - budget.done - goal.count) // (ncv - goal.count))
    try:
        columns = eigsh(
            _linear(operator, prototype, budget), k=goal.count, which=ARPACK_NAMES[which], v0=first, ncv=ncv,
            maxiter=cycles, tol=goal.tolerance,
        )[1]  # fmt: skip
    except ArpackNoConvergence as error:
        columns = error.eigenvectors
    except ArpackError as error:
        raise ValueError(f'`method` must be "lanczos" for this operator; got "arpack", which stops: {error}') from error
    return _as_rows(operator, prototype, columns, goal.count, rng)


def lobpcg(
    operator: SymmetricOperator,
    goal: Goal,
    which: str,
    budget: Budget,
    rng: np.random.Generator,
    start: Array | None,
    size: int | None,
) -> Array:
    """Vectors (k, D) by `scipy.sparse.linalg.lobpcg` from a random block."""
    if which not in ("largest", "smallest"):
        raise ValueError(f'`which` must be "largest" or "smallest" with method="lobpcg"; got {which!r}')
    if start is not None:
        raise ValueError('`start` must be left out with method="lobpcg", which begins with a random block; got one')
    if 5 * goal.count >= operator.dimension:
        raise ValueError(f'`k` must be < D / 5 = {operator.dimension / 5:g} with method="lobpcg"; got {goal.count}')
    _vectors.require_symmetric(operator, rng)
    budget.done += 2
    prototype = _vectors.working_prototype(operator)
    block = rng.standard_normal((operator.dimension, goal.count)).astype(to_numpy(prototype).dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its own word on convergence; we measure
        warnings.simplefilter("ignore", LinAlgWarning)
        # Its tolerance is absolute, and needs the size of the operator.
        images = operator @ block
        size_of = float(np.linalg.norm(images) / np.linalg.norm(block))
        budget.done += goal.count
        tolerance = 0.1 * goal.tolerance * size_of
        if operator.rounding:  # below which it would go on to the last product; relative to the largest eigenvalue
            largest = float(np.linalg.norm(operator @ images) / max(np.linalg.norm(images), np.finfo(float).tiny))
            tolerance = max(tolerance, operator.rounding * largest)
            budget.done += goal.count
        # SciPy's takes a block before the first iteration and two after the last, residuals of our own another one.
        iterations = max(1, (budget.limit - budget.done) // goal.count - 4)
        columns = scipy_lobpcg(
            _linear(operator, prototype, budget), block, largest=which == "largest", maxiter=iterations,
            tol=max(tolerance, np.finfo(float).tiny),
        )[1]  # fmt: skip
    return _as_rows(operator, prototype, np.asarray(columns), goal.count, rng)
