"""Subspace iteration with Rayleigh-Ritz: the eigenvalues of largest modulus, with their signs."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmtland._arguments import Seed, integer
from rmtland._arrays import Array, all_finite, is_torch, like, namespace
from rmtland.spectra import _vectors
from rmtland.spectra._restarted import Budget, Goal
from rmtland.spectra.eigenpairs import ORDERS, Eigenpairs, collected, top_eigenpairs
from rmtland.spectra.operators import SymmetricOperator


def subspace_iteration(
    operator: Any,
    k: int,
    *,
    tolerance: float | None = None,
    max_products: int | None = None,
    rng: Seed = None,
    start: Array | None = None,
    block_size: int | None = None,
    progress: bool = False,
) -> Eigenpairs:
    """The k eigenpairs of largest modulus by subspace iteration.

    Parameters
    ----------
    operator : SymmetricOperator, array, SciPy sparse matrix or LinearOperator
        D x D.
    k : int
        1 <= k <= D.
    tolerance : float, optional
        A pair has converged with a residual within this fraction of its eigenvalue's modulus, or at rounding. By
        default as in `top_eigenpairs`.
    max_products : int, optional
        By default 1000 + 100 k. A residual falls by |x_{b+1} / x_i| per `block_size` = b products.
    rng : seed, optional
        Of the first block.
    start : array (D,), optional
        A vector of the first block.
    block_size : int, optional
        Vectors iterated, at least k; k + 8 by default.
    progress : bool
        Count the products on a terminal.

    Returns
    -------
    Eigenpairs
        Of copies of an eigenvalue as many as the block holds, so none is missed that matters.

    Raises
    ------
    ValueError
        As for `top_eigenpairs`, which is the faster way and takes this one as ``method="subspace"``.

    References
    ----------
    Papyan (2018), algorithm 5. Its norms of columns would return 3 for the eigenvalue -3; Ritz values do not.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> rl.subspace_iteration(np.diag([-3.0, 2.0, 0.1, 0.0]), 2, rng=0).eigenvalues.round(8)
    array([-3.,  2.])
    """
    return top_eigenpairs(
        operator, k, which="magnitude", tolerance=tolerance, max_products=max_products, rng=rng, start=start,
        method="subspace", basis_size=block_size, progress=progress,
    )  # fmt: skip


def iterate(
    operator: SymmetricOperator,
    goal: Goal,
    budget: Budget,
    rng: np.random.Generator,
    start: Array | None,
    block_size: int | None,
) -> Eigenpairs:
    """The iteration itself, from a random block."""
    k = goal.count
    width = k + 8 if block_size is None else integer("block_size", block_size, at_least=k)
    width = min(width, operator.dimension)
    _vectors.require_symmetric(operator, rng)
    budget.done += 2
    rows = _vectors.empty(_vectors.working_prototype(operator), (width, operator.dimension))
    noise = max(_vectors.epsilon(rows), _vectors.noise(operator))
    if start is not None:
        rows[0][:] = _vectors.start_vector(operator, rng, start)
    for i in range(0 if start is None else 1, width):
        _vectors.fresh_row(rows, i, rng)
    while True:
        images = _block_product(operator, rows, budget)
        values, residuals = _vectors.ritz_rotation(rows, images)
        picked = ORDERS["magnitude"](values)[:k]
        scale = max(operator.rounding_scale, float(np.abs(values).max()))
        converged = residuals[picked] <= goal.allowed(values[picked], scale, noise)
        if converged.all() or budget.done + width > budget.limit:
            since = np.full(k, -1)
            chosen = rows[picked.tolist()]
            return collected(chosen, values[picked], residuals[picked], since, goal, scale, noise, budget, False)
        rows = namespace(images).linalg.qr(images.T)[0].T


def _block_product(operator: SymmetricOperator, rows: Array, budget: Budget) -> Array:
    images = operator @ rows.T
    budget.done += rows.shape[0]
    budget.show(budget.done)
    if not all_finite(images):
        raise _vectors.not_finite(budget.done)
    images = like(rows, images.detach() if is_torch(images) else images).T
    return images.copy() if isinstance(images, np.ndarray) else images.clone()
