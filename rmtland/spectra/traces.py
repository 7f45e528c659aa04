"""Trace, Frobenius norm and diagonal of an operator, exactly or from random probes with their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, choice, finite_array, generator, integer
from rmtland._arrays import Array, double, is_torch, namespace, to_numpy, told, widest, zeros
from rmtland.spectra._vectors import require_symmetric_products
from rmtland.spectra.operators import SymmetricOperator, as_operator, block_width
from rmtland.spectra.probes import NUM_PRODUCTS, Run, exchange, products, rademacher

Floats = npt.NDArray[np.float64]

METHODS = ("hutch++", "hutchinson", "xtrace")

EXACT_RATIO = 4096
"""Dimension up to which `goldilocks_ratio` takes as many products as the operator has dimensions."""


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random products.

    Parameters
    ----------
    estimate, standard_error : float
        The error is 0 where the number is exact up to rounding.
    num_products : int
        Products with single vectors that were spent.
    converged : bool
        Whether the tolerance was met; True without one.
    scale : float
        The Frobenius norm of the operator, estimated from the same products: what errors near 0 are relative to.
    """

    estimate: float
    standard_error: float
    num_products: int
    converged: bool
    scale: float

    def __float__(self) -> float:
        """The estimate."""
        return self.estimate


@dataclass(frozen=True)
class FrobeniusEstimate(Estimate):
    """A Frobenius norm, and its square, which is the one that is estimated without bias.

    Parameters
    ----------
    square, square_standard_error : float
        Of ||A||_F^2. Underflows below 1e-154, unlike `estimate`.
    """

    square: float
    square_standard_error: float


@dataclass(frozen=True, eq=False)
class DiagonalEstimate:
    """A diagonal estimated from random products.

    Parameters
    ----------
    estimate, standard_error : array of float64, shape (D,)
        In the operator's library, on its device; the error is 0 where the diagonal is exact.
    num_products : int
    """

    estimate: Array
    standard_error: Array
    num_products: int

    __repr__ = told


class GoldilocksRatio(float):
    """A float that knows its error.

    Attributes
    ----------
    standard_error : float
        0 where the ratio is exact.
    num_products : int
        Products spent; 0 where the eigenvalues were given.
    """

    standard_error: float
    num_products: int

    def __new__(cls, value: float, standard_error: float = 0.0, num_products: int = 0) -> GoldilocksRatio:
        """The ratio, its error and its cost."""
        self = super().__new__(cls, value)
        self.standard_error, self.num_products = standard_error, num_products
        return self

    def __getnewargs__(self) -> tuple[float, float, int]:  # type: ignore[override]
        return float(self), self.standard_error, self.num_products


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


def trace_estimate(
    operator: Any, *, method: str = "hutch++", num_products: int | None = None, tolerance: float | None = None,
    rng: Seed = None,
) -> Estimate:  # fmt: skip
    """Trace of a symmetric operator from few products, with a standard error.

    Parameters
    ----------
    operator : SymmetricOperator, array or SciPy LinearOperator
        D x D.
    method : {"hutch++", "hutchinson", "xtrace"}
        "hutchinson": the mean of x^T A x over Rademacher vectors x; a block of 64 MiB in memory. "hutch++": the trace
        on the range of A S, S a third of the products, exactly, and such a mean on the rest: as good where the spectrum
        is flat, far better where a few eigenvalues carry it; two thirds of the products in memory while the range is
        found. "xtrace": the same idea with every product used for both parts in turn; the least error of the three,
        twice the products in memory, and a standard error that is itself approximate, as the terms of its mean depend
        on each other.
    num_products : int, optional
        Products to spend; with a tolerance the most to spend. By default 120, and 3000 with a tolerance. From D on the
        trace is computed exactly, by D products.
    tolerance : float, optional
        Stop once the standard error is below tolerance * max(abs(estimate), ||A||_F), both as estimated by then. The
        error is looked at after 30 products and each time these have doubled.
    rng : optional
        Anything `numpy.random.default_rng` takes.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        For an unknown method, fewer than 6 products, a tolerance that is not positive, products that are not finite or
        not those of a symmetric operator, p^T A q != q^T A p for two of the probes.
    MemoryError
        Where the vectors that `method` keeps do not fit; "hutchinson" keeps none.

    Notes
    -----
    Given the number of products the estimate is unbiased. With a tolerance it stops where the error seems small, which
    is so where it errs low too: the true error exceeds the one stated somewhat more often than a normal law's.

    A tolerance relative to the trace alone is never met where the trace is 0 (running means of indefinite operators
    cross 0 and look small, or are negative and always look converged). The Frobenius norm is what Hutchinson's error is
    made of: one probe has at most sqrt(2) ||A||_F. A trace of k equal eigenvalues is sqrt(k) ||A||_F.

    References
    ----------
    Hutchinson (1989). Meyer, Musco, Musco and Woodruff (2021), Hutch++, algorithm 1. Epperly, Tropp and Webber (2024),
    XTrace: making the most of every sample in stochastic trace estimation, sections 2.1 and 2.3.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> found = rl.trace_estimate(np.diag(1.0 / np.arange(1, 1001) ** 2), rng=0)  # pi^2 / 6 - 0.001
    >>> round(found.estimate, 2), found.standard_error < 0.01, found.num_products
    (1.64, True, 120)
    """
    choice("method", method, METHODS)
    run = Run(as_operator(operator), num_products, tolerance, rng)
    for spend in run.stages():
        if spend is None:
            trace, norm = trace_and_norm(run.operator)
            return Estimate(trace, 0.0, run.spent, True, norm)
        if method == "xtrace":
            value, error, norm = exchange(run, spend)
        else:
            probes = run.probe(spend, deflate=method == "hutch++")
            value, error = probes.trace()
            norm = math.sqrt(probes.square()[0]) * probes.unit
        if run.met(error, max(abs(value), norm)):
            break
    return Estimate(value, error, run.spent, run.converged, norm)


def frobenius_estimate(
    operator: Any, *, method: str = "hutch++", num_products: int | None = None, tolerance: float | None = None,
    rng: Seed = None,
) -> FrobeniusEstimate:  # fmt: skip
    """Frobenius norm of a symmetric operator from few products, with a standard error.

    Parameters
    ----------
    operator : SymmetricOperator, array or SciPy LinearOperator
        D x D.
    method : {"hutch++", "hutchinson"}
        As in `trace_estimate`, for ||A||_F^2 = tr A^2: the mean of ||A x||^2, on the whole space, or beyond the range
        of A S, where the norm is taken exactly.
    num_products, tolerance, rng
        As in `trace_estimate`; the tolerance is relative to the norm itself.

    Returns
    -------
    FrobeniusEstimate

    Raises
    ------
    ValueError, MemoryError
        As in `trace_estimate`.

    Notes
    -----
    The square is unbiased. Its root is low by standard_error^2 / (2 ||A||_F) to first order; the error of the root is
    that of the square over 2 ||A||_F.

    References
    ----------
    Meyer, Musco, Musco and Woodruff (2021), Hutch++, algorithm 1, applied to A^2 through ||A x||^2.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> found = rl.frobenius_estimate(np.diag(np.linspace(-1, 1, 3000)), num_products=300, rng=0)
    >>> abs(found.square - 1000) < 4 * found.square_standard_error
    True
    """
    choice("method", method, METHODS[:2])
    run = Run(as_operator(operator), num_products, tolerance, rng)
    for spend in run.stages():
        if spend is None:
            _, norm = trace_and_norm(run.operator)
            return FrobeniusEstimate(norm, 0.0, run.spent, True, norm, norm**2, 0.0)
        probes = run.probe(spend, deflate=method == "hutch++")
        square, error = probes.square()
        root = math.sqrt(square)
        if run.met(0.5 * error / root if root > 0 else 0.0, root):
            break
    unit = probes.unit
    norm = root * unit
    deviation = 0.5 * error / root * unit if root > 0 else 0.0
    return FrobeniusEstimate(norm, deviation, run.spent, run.converged, norm, square * unit**2, error * unit**2)


def diagonal_estimate(operator: Any, *, num_products: int = NUM_PRODUCTS, rng: Seed = None) -> DiagonalEstimate:
    """Diagonal of a symmetric operator from random products, with a standard error for every entry.

    Parameters
    ----------
    operator : SymmetricOperator, array or SciPy LinearOperator
        D x D.
    num_products : int
        Products to spend, at least 2. From D on the diagonal is computed exactly, by D products.
    rng : optional
        Anything `numpy.random.default_rng` takes.

    Returns
    -------
    DiagonalEstimate
        The mean of x * (A x) over Rademacher vectors x, unbiased; the variance of entry i is the sum over j != i of
        A_ij^2, over the number of products.

    Raises
    ------
    ValueError
        For fewer than 2 products, and products that are not finite or not symmetric, as in `trace_estimate`.

    References
    ----------
    Bekas, Kokiopoulou and Saad (2007), An estimator for the diagonal of a matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> rl.diagonal_estimate(np.diag(np.arange(500.0)), num_products=2).estimate[:4]
    array([0., 1., 2., 3.])
    """
    matrix = as_operator(operator)
    count, source = integer("num_products", num_products, at_least=2), generator(rng)
    xp = namespace(matrix.prototype)
    if count >= matrix.dimension:
        diagonal = zeros(matrix.prototype, (matrix.dimension,), widest(matrix.prototype))
        for block, columns in matrix.columns():
            diagonal[block] = double(xp.linalg.diagonal(columns[block, :]))
        return DiagonalEstimate(diagonal, 0.0 * diagonal, matrix.dimension)
    mean = zeros(matrix.prototype, (matrix.dimension,), widest(matrix.prototype))
    spread, seen = mean, 0  # Welford's sums by blocks: squares of means would cancel
    while seen < count:
        width = min(block_width(matrix.dimension), count - seen)
        probes = rademacher(matrix, width, source)
        images = products(matrix, probes)
        if not seen and width > 1:
            require_symmetric_products(matrix, probes, images)
        terms = double(images) * double(probes)
        centre = xp.mean(terms, axis=1)
        spread = spread + xp.sum((terms - centre[:, None]) ** 2, axis=1)
        spread = spread + (centre - mean) ** 2 * (seen * width / (seen + width))
        mean = mean + (centre - mean) * (width / (seen + width))
        seen += width
    return DiagonalEstimate(mean, xp.sqrt(spread / (count * (count - 1))), count)


def goldilocks_ratio(
    operator_or_eigenvalues: SymmetricOperator | Array | Any, *, num_products: int | None = None, rng: Seed = None
) -> GoldilocksRatio:
    """Trace(H) / ||H||_F, the measure of excess positive curvature.

    Parameters
    ----------
    operator_or_eigenvalues : SymmetricOperator, array (k,), or a spectrum
        An operator, the eigenvalues (zero ones change nothing and may be left out), or anything with `.eigenvalues`.
    num_products : int, optional
        Products to spend on an operator. By default D, and an exact result, up to D = 4096; 120 and an estimate above.
    rng : optional
        Anything `numpy.random.default_rng` takes; for estimates.

    Returns
    -------
    GoldilocksRatio
        A float between -sqrt(D) and sqrt(D), whatever the scale of the matrix, with its `standard_error`, 0 where it is
        exact. NaN for the zero matrix, which has none. An estimate may leave the range by its error, and has a bias of
        the order of standard_error^2.

    Raises
    ------
    ValueError
        For eigenvalues that are not a finite (k,) array, fewer than 6 products, products that are not finite.

    Notes
    -----
    Estimates take trace and norm from the same products, by Hutch++ (see `trace_estimate`): their errors go together
    and partly cancel in the ratio.

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
        operator = operator_or_eigenvalues
        if num_products is None and operator.dimension <= EXACT_RATIO:
            num_products = max(operator.dimension, 6)
        run = Run(operator, num_products, None, rng)
        (spend,) = run.stages()
        if spend is not None:
            return GoldilocksRatio(*run.probe(spend, deflate=True).ratio(), run.spent)
        trace, norm = trace_and_norm(operator)
        spent = run.spent
    elif hasattr(operator_or_eigenvalues, "frobenius"):  # a spectrum, which may keep its largest eigenvalues only
        trace, norm, spent = float(operator_or_eigenvalues.trace), float(operator_or_eigenvalues.frobenius), 0
    else:
        values = getattr(operator_or_eigenvalues, "eigenvalues", operator_or_eigenvalues)
        eigenvalues = finite_array("eigenvalues", to_numpy(values) if is_torch(values) else values, ndim=1)
        trace, norm, spent = float(eigenvalues.sum()), _norm(eigenvalues), 0
    return GoldilocksRatio(trace / norm if norm > 0 else float("nan"), 0.0, spent)
