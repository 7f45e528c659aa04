"""Some eigenpairs of a symmetric operator, each with its residual, and the operator without them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, available_memory, choice, finite_array, generator, integer, real, require_memory
from rmtland._arrays import Array, double, is_torch, like, namespace, to_numpy, told
from rmtland.spectra import _external, _vectors
from rmtland.spectra._progress import counter
from rmtland.spectra._restarted import ROUNDING, Budget, Goal, Order, RestartedLanczos
from rmtland.spectra.operators import SymmetricOperator, as_operator

Floats = npt.NDArray[np.float64]

METHODS = ("lanczos", "arpack", "lobpcg", "subspace")
DOUBLE_TOLERANCE, SINGLE_TOLERANCE = 1e-5, 1e-4
"""Relative residuals that count as converged by default, in float64 and in anything shorter."""
BASIS_BYTES = 2**30
"""Memory that a basis takes by default, where the eigenpairs wanted do not need more."""


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Eigenvalues, eigenvectors, and how good they are.

    Attributes
    ----------
    eigenvalues : ndarray (k,)
        Ascending, float64.
    eigenvectors : array (D, k)
        Orthonormal columns in the operator's library, dtype (at least float32) and device.
    residuals : ndarray (k,)
        |A v - x v|: an eigenvalue lies within it of x. Never below the rounding of the operator's dtype.
    converged : ndarray (k,) of bool
        Whether the residual met the tolerance.
    converged_after : ndarray (k,) of int
        Products done when the pair was first found converged; -1 where it was not.
    num_products : int
        Products with the operator, all told.
    multiplicity_checked : bool
        Whether a random vector was tried for eigenvalues that the search had passed over.
    """

    eigenvalues: Floats
    eigenvectors: Array
    residuals: Floats
    converged: npt.NDArray[np.bool_]
    converged_after: npt.NDArray[np.int64]
    num_products: int
    multiplicity_checked: bool

    __repr__ = told


def top_eigenpairs(
    operator: Any,
    k: int,
    *,
    which: str = "largest",
    tolerance: float | None = None,
    max_products: int | None = None,
    rng: Seed = None,
    start: Array | None = None,
    method: str = "lanczos",
    basis_size: int | None = None,
    check_products: int = 8,
    progress: bool = False,
) -> Eigenpairs:
    """The k eigenpairs at an end of the spectrum.

    Parameters
    ----------
    operator : SymmetricOperator, array, SciPy sparse matrix or LinearOperator
        D x D. Vectors stay in its library, dtype (at least float32) and on its device.
    k : int
        1 <= k <= D.
    which : {"largest", "smallest", "both_ends", "magnitude"}
        Largest or smallest with their signs, half from each end (of an odd k the greater half from the top), or largest
        modulus.
    tolerance : float, optional
        A pair has converged with a residual within this fraction of its eigenvalue's modulus, or at the rounding of the
        largest one. By default 1e-5, and 1e-4 where the operator or its vectors are in single precision or less: the
        error of an eigenvalue is of the order of its residual squared over the distance to the next, and rounding is
        the greater part of it then. That of an eigenvector is the residual over this distance: ask for less where
        vectors of close eigenvalues matter.
    max_products : int, optional
        Where to give up, with a RuntimeWarning: by default 1000 + 100 k.
    rng : seed, optional
        Of the start vector and of the vectors after a breakdown.
    start : array (D,), optional
        A start vector of your own. One that is orthogonal to eigenvectors does not find them; a random one does.
    method : {"lanczos", "arpack", "lobpcg", "subspace"}
        Lanczos with thick restarts; SciPy's `eigsh` or `lobpcg` (on NumPy arrays; "largest" or "smallest" only for
        the latter); or `subspace_iteration` ("magnitude" only).
    basis_size : int, optional
        Vectors kept, at least k + 3 (D where that is less); by default what 1 GiB or a quarter of the free memory
        holds, between 2 k + 16 and 4 k + 160. The more, the fewer products. For "lanczos" and "arpack".
    check_products : int
        Products spent, once all have converged, on a random vector orthogonal to them: one start finds one vector of
        each eigenspace. What it shows above the wanted ones is added, and tried again. 0 does without.
    progress : bool
        Count the products on a terminal.

    Returns
    -------
    Eigenpairs

    Raises
    ------
    ValueError
        For an operator that is not square, not symmetric, or gives NaN; k > D; a start that is zero.
    MemoryError
        Where the basis does not fit.

    Notes
    -----
    Ritz values are eigenvalues of a projection on orthonormal vectors, so no eigenvalue comes back more often than it
    is there. A second copy of an eigenvalue x is missed by the check of s products with a probability of at most
    1.65 sqrt(D) exp(-(2 s - 1) sqrt(e)), e = (x - x_k) / (x - x_min) with x_k the last wanted one: raise
    `check_products` where the copies of an eigenvalue near x_k matter.

    References
    ----------
    Wu and Simon (2000), Thick-restart Lanczos method for large symmetric eigenvalue problems. Kuczynski and
    Wozniakowski (1992), theorem 3.1, on random starts.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> pairs = rl.top_eigenpairs(np.diag([5.0, 5.0, 4.0, -7.0, 1.0, 0.0]), 3, rng=0)
    >>> print(pairs.eigenvalues.round(8), pairs.converged.all())
    [4. 5. 5.] True
    """
    matrix = as_operator(operator)
    choice("which", which, tuple(ORDERS))
    choice("method", method, METHODS)
    count = integer("k", k, at_least=1)
    if count > matrix.dimension:
        raise ValueError(f"`k` must be <= D = {matrix.dimension}; got {count}")
    if tolerance is None:
        tolerance = DOUBLE_TOLERANCE if _vectors.epsilon(matrix.prototype) < 1e-10 else SINGLE_TOLERANCE
    goal = Goal(ORDERS[which], count, real("tolerance", tolerance, at_least=0, below=1))
    limit = 1000 + 100 * count if max_products is None else integer("max_products", max_products, at_least=count + 1)
    integer("check_products", check_products, at_least=0)
    random = generator(rng)
    with counter(progress, "eigenpairs", None) as show:
        budget = Budget(limit, show=show)
        if method == "lanczos":
            size = _basis_size(matrix, count, basis_size)
            pairs = _by_lanczos(matrix, goal, budget, random, start, size, check_products)
        elif method == "subspace":
            if which != "magnitude":
                raise ValueError(f'`which` must be "magnitude" with method="subspace"; got {which!r}')
            from rmtland.spectra.subspace import iterate

            pairs = iterate(matrix, goal, budget, random, start, basis_size)
        else:
            ncv = None if basis_size is None else _basis_size(matrix, count, basis_size)
            solve = _external.arpack if method == "arpack" else _external.lobpcg
            pairs = _measured(matrix, solve(matrix, goal, which, budget, random, start, ncv), goal, budget)
    if not pairs.converged.all():
        missing = count - int(pairs.converged.sum())
        warnings.warn(
            f"{missing} of {count} eigenpairs did not converge within {pairs.num_products} products; see `.converged`",
            RuntimeWarning,
            stacklevel=2,
        )
    return pairs


def _interleaved(values: Floats) -> npt.NDArray[np.int64]:
    """Largest, smallest, second largest, second smallest, ..."""
    ascending = np.argsort(values, kind="stable")
    order = np.empty_like(ascending)
    high = (values.size + 1) // 2
    order[0::2], order[1::2] = ascending[::-1][:high], ascending[: values.size - high]
    return order


ORDERS: dict[str, Order] = {
    "largest": lambda values: np.argsort(-values, kind="stable"),
    "smallest": lambda values: np.argsort(values, kind="stable"),
    "both_ends": _interleaved,
    "magnitude": lambda values: np.argsort(-np.abs(values), kind="stable"),
}


def _basis_size(operator: SymmetricOperator, k: int, asked: int | None) -> int:
    dimension = operator.dimension
    if asked is not None:
        return min(integer("basis_size", asked, at_least=min(k + 3, dimension)), dimension)
    vector = dimension * _vectors.working_prototype(operator).dtype.itemsize
    fits = int(min(BASIS_BYTES, available_memory() / 4) // max(vector, 1))
    return min(max(2 * k + 16, min(fits, 4 * k + 160)), dimension)


def _by_lanczos(
    operator: SymmetricOperator,
    goal: Goal,
    budget: Budget,
    rng: np.random.Generator,
    start: Array | None,
    size: int,
    check_products: int,
) -> Eigenpairs:
    prototype = _vectors.working_prototype(operator)
    if not is_torch(prototype) or prototype.device.type == "cpu":
        needed = float((size + 1) * operator.dimension * prototype.dtype.itemsize)
        require_memory(f"a basis of {size + 1} vectors", needed, "give a smaller `basis_size`")
    rows = _vectors.empty(prototype, (size + 1, operator.dimension))
    k = goal.count
    process = RestartedLanczos(operator, rows, 0, rng, budget)
    process.begin(_vectors.start_vector(operator, rng, start))
    found = process.run(goal, lambda values: goal.order(values)[:k], k)
    values, residuals, vectors = process.ritz()
    picked = goal.order(values)[:k]
    _vectors.rotate(process.rows[: process.size], vectors[:, picked])
    since = process.converged_after if process.converged_after.size == k else np.full(k, -1)
    known = values[picked], residuals[picked], since
    merged, checked = False, found and k == operator.dimension
    while found and check_products and not checked and not budget.spent:
        process = RestartedLanczos(operator, rows, k, rng, budget)
        found, more, known = _look_for_missed(process, goal, known, check_products)
        merged, checked = merged or more, found and not more
    values, residuals, since = known
    if merged:
        since = since[np.argsort(values, kind="stable")]
        if budget.done + k <= budget.limit:
            values, residuals = _rayleigh_ritz(operator, rows[:k], budget)
        else:  # what was locked and what was found beside it couple by their residuals
            values, residuals = np.sort(values), np.full(k, np.linalg.norm(residuals))
            rows[:k] = rows[np.argsort(known[0], kind="stable").tolist()]
    return collected(rows[:k], values, residuals, since, goal, process.scale, process.noise, budget, checked)


Known = tuple[Floats, Floats, npt.NDArray[np.int64]]
"""Eigenvalues, residuals and the products after which they were found, in the order of the locked rows."""


def _look_for_missed(
    process: RestartedLanczos, goal: Goal, known: Known, check_products: int
) -> tuple[bool, bool, Known]:
    """Lanczos from a random vector orthogonal to what is locked.

    Returns whether all that it shows of wanted eigenvalues has converged, whether it shows any, and the wanted ones of
    old and new, whose vectors are locked now.
    """
    values, residuals, since = known
    process.scale = max(process.scale, float(np.abs(values).max()))
    process.begin(None)
    missed = _missed(goal, values, process)
    found = process.run(goal, missed, check_products)
    more, more_residuals, vectors = process.ritz()
    picked = missed(more)
    if not picked.size:
        return found, False, known
    _vectors.rotate(process.rows[: process.size], vectors[:, picked])
    values = np.concatenate([values, more[picked]])
    residuals = np.concatenate([residuals, more_residuals[picked]])
    since = np.concatenate([since, np.full(picked.size, process.budget.done if found else -1)])
    best = goal.order(values)[: goal.count]
    process.all_rows[: goal.count] = process.all_rows[best.tolist()]
    return found, True, (values[best], residuals[best], since[best])


def _missed(goal: Goal, values: Floats, process: RestartedLanczos) -> Any:
    """A function that picks, from other eigenvalues, those wanted more than the `values` known."""

    # With one more eigenvalue one of all is wanted least: unless that is the newcomer, it has been missed.
    def wanted(candidates: Floats) -> npt.NDArray[np.int64]:
        margin = 2 * goal.allowed(candidates, process.scale, process.noise)
        picks = []
        for index in goal.order(candidates):
            together = np.append(values, candidates[index])
            last = goal.order(together)[-1]
            if last != values.size and abs(together[last] - candidates[index]) > margin[index]:
                picks.append(index)
        # Few enough to converge together in the basis that is left; the next round finds the others.
        return np.array(picks[: min(goal.count, max(1, process.capacity // 2))], dtype=np.int64)

    return wanted


def _rayleigh_ritz(operator: SymmetricOperator, rows: Array, budget: Budget) -> tuple[Floats, Floats]:
    """Rotate orthonormal rows to Ritz vectors of their span, in place; Ritz values and measured residuals."""
    images = _vectors.empty(rows, tuple(rows.shape))
    for i in range(rows.shape[0]):
        images[i][:] = budget.multiply(operator, rows[i])
    return _vectors.ritz_rotation(rows, images)


def _measured(operator: SymmetricOperator, rows: Array, goal: Goal, budget: Budget) -> Eigenpairs:
    """Eigenpairs of orthonormal rows from another solver, with residuals of our own."""
    values, residuals = _rayleigh_ritz(operator, rows, budget)
    scale = max(operator.rounding_scale, float(np.abs(values).max()))
    noise = max(_vectors.epsilon(rows), _vectors.noise(operator))
    return collected(rows, values, residuals, np.full(goal.count, -1), goal, scale, noise, budget, False)


def collected(
    rows: Array,
    values: Floats,
    residuals: Floats,
    since: npt.NDArray[np.int64],
    goal: Goal,
    scale: float,
    noise: float,
    budget: Budget,
    checked: bool,
) -> Eigenpairs:
    """The pairs in ascending order, held against the tolerance; their products counted."""
    order = np.argsort(values, kind="stable")
    values = values[order]
    rounding = ROUNDING * noise * scale
    residuals = np.maximum(residuals[order], rounding)
    # Couplings of rounding's size that the steps leave out add up where an invariant subspace is met again and again.
    converged = residuals <= goal.allowed(values, scale, noise) + 8 * rounding
    since = np.where(converged, np.where(since[order] < 0, budget.done, since[order]), -1)
    return Eigenpairs(values, rows[order.tolist()].T, residuals, converged, since, budget.done, checked)


def deflate(operator: Any, eigenpairs: Any) -> SymmetricOperator:
    """The operator A - sum_i x_i v_i v_i^T, without its eigenpairs (x_i, v_i): their eigenvalues become zero.

    Parameters
    ----------
    operator : SymmetricOperator, array, SciPy sparse matrix or LinearOperator
        D x D.
    eigenpairs : Eigenpairs, or a pair of arrays (k,) and (D, k)
        Eigenvalues and orthonormal eigenvectors.

    Returns
    -------
    SymmetricOperator
        In the library, dtype and on the device of `operator`.

    Raises
    ------
    ValueError
        Where shapes do not fit, or the eigenvectors are not orthonormal.

    References
    ----------
    Papyan (2018), section 5.6, low-rank deflation.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> matrix = np.diag([5.0, 1.0, 0.5])
    >>> rest = rl.deflate(matrix, rl.top_eigenpairs(matrix, 1, rng=0))
    >>> np.linalg.eigvalsh(rest.to_dense()).round(8) + 0.0
    array([0. , 0.5, 1. ])
    """
    matrix = as_operator(operator)
    if isinstance(eigenpairs, (tuple, list)) and len(eigenpairs) == 2:
        given, columns = eigenpairs
    elif hasattr(eigenpairs, "eigenvalues") and hasattr(eigenpairs, "eigenvectors"):
        given, columns = eigenpairs.eigenvalues, eigenpairs.eigenvectors
    else:
        kinds = "Eigenpairs or a pair (eigenvalues, eigenvectors)"
        raise TypeError(f"`eigenpairs` must be {kinds}; got {type(eigenpairs).__name__}")
    values = finite_array("eigenvalues", to_numpy(given) if is_torch(given) else given, ndim=1)
    namespace(columns)
    if tuple(columns.shape) != (matrix.dimension, values.size):
        raise ValueError(
            f"`eigenvectors` must have shape ({matrix.dimension}, {values.size}); got {tuple(columns.shape)}"
        )
    vectors = like(_vectors.working_prototype(matrix), columns)
    gram = to_numpy(double(vectors.T @ vectors))
    if not np.abs(gram - np.eye(values.size)).max(initial=0.0) <= 1e-3:
        raise ValueError("`eigenvectors` must be orthonormal; got columns that are not")
    weights = like(vectors, values)

    def multiply(block: Array) -> Array:
        inner = like(vectors, block)
        low_rank = vectors @ (weights[:, None] * (vectors.T @ inner))
        return matrix.multiply(block) - like(matrix.prototype, low_rank)

    scale = matrix.rounding_scale + float(np.abs(values).max(initial=0.0))
    kind, rounding = matrix.prototype, matrix.rounding
    return SymmetricOperator(multiply, matrix.dimension, kind, rounding_scale=scale, rounding=rounding)
