"""The spectral measure as random vectors see it: Gauss quadratures by Lanczos, one per probe, and Chebyshev moments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, integer, spawn
from rmtland._arrays import Array, all_finite, like, to_numpy
from rmtland.spectra import _vectors
from rmtland.spectra.eigenpairs import deflate, top_eigenpairs
from rmtland.spectra.lanczos import lanczos
from rmtland.spectra.operators import SymmetricOperator

Floats = npt.NDArray[np.float64]

BASIS_BYTES = 2**28
"""Lanczos vectors are kept and reorthogonalised, unless told otherwise, where they take no more than this."""

DEFLATION_TOLERANCE = 1e-10
"""Relative residual of the eigenpairs taken out, or the rounding of the operator's dtype: they are taken as exact."""

NORMALIZATION_STEPS, MARGIN = 32, 0.05
"""M0 and tau of Papyan's algorithm 4."""


@dataclass(frozen=True, eq=False)
class Quadratures:
    """Nodes and weights of each probe, and the eigenvalues that were taken out before.

    Parameters
    ----------
    nodes, weights : ndarray (P, m)
        Of P probes; weights of a probe add up to 1 - k / D. Shorter runs are filled up with weights 0.
    outliers : ndarray (k,)
        Eigenvalues taken out, ascending; each has weight 1 / D.
    bounds : tuple of float
        Extreme Ritz values of all probes, each widened by its residual.
    num_steps, dimension, num_products : int
    """

    nodes: Floats
    weights: Floats
    outliers: Floats
    bounds: tuple[float, float]
    num_steps: int
    dimension: int
    num_products: int

    def samples(self, function: Callable[[Floats], Any]) -> Floats:
        """Sum of weight * function(eigenvalue) for each probe, (P, ...); `function` maps (m,) to (m, ...)."""
        taken = np.asarray(function(self.outliers), dtype=np.float64).sum(axis=0) / self.dimension
        return np.array(
            [
                np.tensordot(w, np.asarray(function(x), dtype=np.float64), 1) + taken
                for x, w in zip(self.nodes, self.weights, strict=True)
            ]
        )


def mean_and_error(samples: Floats) -> tuple[Floats, Floats]:
    """Mean over probes and its standard error, NaN of a single probe."""
    count = samples.shape[0]
    if count == 1:
        return samples[0], np.full(samples.shape[1:], math.nan)
    # In units of the largest: a density of eigenvalues near 1e-200 has no square.
    unit = float(np.abs(samples).max(initial=0.0)) or 1.0
    return samples.mean(axis=0), (samples / unit).std(axis=0, ddof=1) * (unit / math.sqrt(count))


@dataclass(frozen=True, eq=False)
class Complement:
    """An operator on the space that is left when some eigenvectors are taken out."""

    operator: SymmetricOperator
    eigenvalues: Floats
    vectors: Any  # (D, k) or None
    residual: float  # Frobenius norm of A V - V X, below which nothing is known of what is left
    num_products: int

    @classmethod
    def of(cls, operator: SymmetricOperator, deflated: Any, rng: np.random.Generator) -> Complement:
        """Take out the `deflated` eigenpairs, or as many of largest magnitude as it says; or what is one already."""
        if isinstance(deflated, cls):
            return deflated
        if not hasattr(deflated, "eigenvectors"):
            count = integer("deflate", deflated, at_least=0, at_most=operator.dimension - 1)
            if count == 0:
                return cls(operator, np.empty(0), None, 0.0, 0)
            deflated = top_eigenpairs(operator, count, which="magnitude", tolerance=DEFLATION_TOLERANCE, rng=rng)
        failed = np.count_nonzero(~np.asarray(deflated.converged, dtype=bool))
        if failed:
            raise ValueError(
                f"`deflate` must be eigenpairs that converge; got {failed} of {len(deflated.eigenvalues)} that did not"
            )
        values = np.asarray(to_numpy(deflated.eigenvalues), dtype=np.float64)
        vectors = like(_vectors.working_prototype(operator), deflated.eigenvectors)
        residual = float(np.linalg.norm(to_numpy(deflated.residuals)))
        return cls(deflate(operator, deflated), np.sort(values), vectors, residual, int(deflated.num_products))

    @property
    def share(self) -> float:
        """Of all dimensions, those that are left."""
        return 1 - self.eigenvalues.size / self.operator.dimension

    def start(self, rng: np.random.Generator) -> Array:
        """A vector whose direction is even in the space."""
        return self.projected(self.projected(_normal(self.operator, rng)))

    def projected(self, vector: Array) -> Array:
        """The part of a vector in the space."""
        return vector if self.vectors is None else vector - self.vectors @ (self.vectors.T @ vector)

    def nothing_left(self, start: Array) -> bool:
        """Whether products are errors of what was taken out, which have no spectrum and no symmetry."""
        if self.eigenvalues.size == 0:
            return False
        floor = 100 * _vectors.epsilon(start) * float(np.abs(self.eigenvalues).max())
        # In half precision residuals are no more than a bound of rounding, of which a random vector sees little.
        seen = (self.eigenvalues.size / self.operator.dimension) ** 0.5 if self.operator.rounding else 1.0
        floor += 2 * self.residual * seen
        return _vectors.norm(_vectors.product(self.operator, start)) <= floor * _vectors.norm(start)


def quadratures(
    operator: SymmetricOperator,
    num_probes: int,
    num_steps: int,
    deflated: Any,
    reorthogonalize: bool | None,
    rng: Seed,
    progress: bool = False,
) -> Quadratures:
    """Lanczos from `num_probes` random vectors; probe i depends on the seed and i alone."""
    of_complement, *probes = spawn(rng, 1 + num_probes, "num_probes")
    complement = Complement.of(operator, deflated, of_complement)
    steps = min(num_steps, operator.dimension - complement.eigenvalues.size)
    if reorthogonalize is None:
        reorthogonalize = steps * operator.dimension * operator.prototype.dtype.itemsize <= BASIS_BYTES
    nodes, weights = np.zeros((num_probes, steps)), np.zeros((num_probes, steps))
    low, high, spent = math.inf, -math.inf, complement.num_products
    for i, child in enumerate(probes):
        start = complement.start(child)
        spent += int(complement.eigenvalues.size > 0)  # the product that tells whether anything is left
        if complement.nothing_left(start):
            weights[i, 0] = complement.share
            low, high = min(low, 0.0), max(high, 0.0)
            continue
        run = lanczos(
            complement.operator,
            steps,
            start=start,
            rng=child,
            reorthogonalize=reorthogonalize,
            progress=progress,
        )
        count = len(run.nodes)
        nodes[i], weights[i, :count] = run.nodes[-1], complement.share * np.asarray(run.weights)
        nodes[i, :count] = run.nodes
        spent += run.num_products
        # Every run's ends, not their mean: a run that misses the largest eigenvalue must not cut it off another's.
        low = min(low, float(run.ritz_values[0] - run.ritz_residuals[0]))
        high = max(high, float(run.ritz_values[-1] + run.ritz_residuals[-1]))
    return Quadratures(nodes, weights, complement.eigenvalues, (low, high), steps, operator.dimension, spent)


def widened(bounds: tuple[float, float], margin: float, scale: float = 0.0) -> tuple[float, float]:
    """Bounds with a margin, a share of their distance, on both sides; never of no length.

    `scale` is the size of what was taken out: what is left may be its rounding errors.
    """
    low, high = bounds
    room = margin * (high - low)
    largest = max(abs(low), abs(high))
    # A multiple of the identity is one point, known up to rounding.
    if high - low <= 1e-6 * largest or largest <= 1e-14 * scale:
        room = max(1e-3 * largest, 1e-6 * scale) or 1.0
    return low - room, high + room


def chebyshev(
    complement: Complement, num_probes: int, num_steps: int, bounds: tuple[float, float], rng: np.random.Generator
) -> Floats:
    """Moments (P, 2 num_steps) of the Chebyshev polynomials in the operator scaled from `bounds` to [-1, 1].

    On the space that is left, so that the first one is 1. Two for every product, as 2 T_j T_k = T_{j+k} + T_{abs(j-k)}.
    """
    low, high = bounds
    centre, half = 0.5 * (low + high), 0.5 * (high - low)

    def scaled(vector: Array) -> Array:
        # Rounding brings back what was taken out, whose eigenvalue is 0 now: outside of the bounds it would grow.
        return complement.projected((_vectors.product(complement.operator, vector) - centre * vector) / half)

    moments = np.zeros((num_probes, 2 * num_steps))
    for row, child in zip(moments, spawn(rng, num_probes, "num_probes"), strict=True):
        vector = complement.start(child)
        vector = vector / _vectors.norm(vector)
        before, now = vector, scaled(vector)
        row[:2] = 1.0, _vectors.dot(vector, now)
        for k in range(1, num_steps):
            before, now = now, 2 * scaled(now) - before
            row[2 * k] = 2 * _vectors.dot(before, before) - row[0]
            row[2 * k + 1] = 2 * _vectors.dot(before, now) - row[1]
            # abs(T_k) <= 1 on [-1, 1] and grows exponentially beyond.
            if not (all_finite(now) and abs(row[2 * k]) < 1 + 1e-3):
                raise ValueError(f"`bounds` must contain the spectrum, without NaN; got {low:.6g} to {high:.6g}")
    return moments


def _normal(operator: SymmetricOperator, rng: np.random.Generator) -> Array:
    """Standard normal entries (D,) in the operator's library, dtype (at least float32) and device."""
    return like(_vectors.working_prototype(operator), rng.standard_normal(operator.dimension))
