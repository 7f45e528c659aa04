"""Random vectors, the range that an operator's products with them span, and what they say about trace and norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator, integer, real, require_memory
from rmtland._arrays import Array, all_finite, double, is_torch, like, namespace, to_numpy
from rmtland.spectra import _vectors
from rmtland.spectra.operators import SymmetricOperator, block_width

Floats = npt.NDArray[np.float64]

NUM_PRODUCTS = 120
"""Products that an estimate takes where neither their number nor a tolerance is given."""

MOST_PRODUCTS = 3000
"""Products at which an estimate with a tolerance gives up, unless told otherwise."""

FIRST_STAGE = 30
"""Products of an estimate with a tolerance before it looks at its error for the first time."""


def rademacher(operator: SymmetricOperator, width: int, rng: np.random.Generator) -> Array:
    """Vectors (D, width) of independent signs, in the operator's library, dtype (at least float32) and device."""
    signs = rng.integers(0, 2, (operator.dimension, width), dtype=np.int8)
    return like(_vectors.working_prototype(operator), 2 * signs - 1)


def gaussian(operator: SymmetricOperator, width: int, rng: np.random.Generator) -> Array:
    """Vectors (D, width) of standard normal entries, in the operator's library, dtype (at least float32) and device."""
    return like(
        _vectors.working_prototype(operator), rng.standard_normal((operator.dimension, width), dtype=np.float32)
    )


def products(operator: SymmetricOperator, vectors: Array) -> Array:
    """The operator's products with vectors (D, k), refused where it is not finite."""
    result = _vectors.product(operator, vectors)
    if not all_finite(result):
        raise ValueError("`operator` must give finite products; got NaN or infinite entries")
    return result


def inner(a: Array, b: Array) -> Floats:
    """a^T b (j, k) summed in float64, of arrays (D, j) and (D, k) of any dtype, without a copy of either."""
    rows = max(1, 2**22 // max(a.shape[1] + b.shape[1], 1))
    total = np.zeros((a.shape[1], b.shape[1]))
    for start in range(0, a.shape[0], rows):
        part = slice(start, start + rows)
        total += to_numpy(double(a[part]).T @ double(b[part]))
    return total


def squares(a: Array, unit: float) -> Floats:
    """Squared lengths (k,) of the columns of a (D, k), in units of unit^2, summed in float64."""
    scaled = double(a) / unit
    return to_numpy(namespace(a).sum(scaled * scaled, axis=0))


@dataclass
class Samples:
    """Independent samples of what probes say beyond what is known exactly.

    Parameters
    ----------
    exact_trace, exact_square : float
        On the space that was taken out.
    traces, squared : ndarray (n,)
        Unbiased samples of tr A and ||A||_F^2 on the rest. Traces, like `exact_trace`, are in units of `unit`, squares
        of unit^2.
    unit : float
        Size of the products' entries: squares of 1e-170 underflow.
    """

    exact_trace: float
    exact_square: float
    traces: Floats
    squared: Floats
    unit: float

    def trace(self) -> tuple[float, float]:
        """Estimate and standard error."""
        error = self.traces.std(ddof=1) / math.sqrt(self.traces.size)
        return float(self.exact_trace + self.traces.mean()) * self.unit, float(error) * self.unit

    def square(self) -> tuple[float, float]:
        """Estimate and standard error of ||A||_F^2, in units of unit^2."""
        error = self.squared.std(ddof=1) / math.sqrt(self.squared.size)
        return float(self.exact_square + self.squared.mean()), float(error)

    def ratio(self) -> tuple[float, float]:
        """Estimate and standard error of tr A / ||A||_F, to first order in the errors."""
        trace, norm = self.exact_trace + self.traces.mean(), math.sqrt(self.square()[0])
        if norm == 0:
            return math.nan, math.nan
        terms = self.traces / norm - 0.5 * trace / norm**3 * self.squared
        return float(trace / norm), float(terms.std(ddof=1) / math.sqrt(terms.size))


@dataclass
class Run:
    """An estimate on its way: what may be spent, what was, and whether the tolerance is met."""

    operator: SymmetricOperator
    num_products: int | None
    tolerance: float | None
    seed: Seed
    spent: int = 0
    converged: bool = True
    rng: np.random.Generator = field(init=False)
    limit: int = field(init=False)
    unit: float = field(init=False, default=0.0)
    _basis: Array = field(init=False, default=None)  # orthonormal (D, k): the space taken out
    _largest: float = field(init=False, default=0.0)
    _exact: list[float] = field(init=False, default_factory=lambda: [0.0, 0.0])
    _samples: list[Floats] = field(init=False, default_factory=list)
    _checked: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.rng = generator(self.seed)
        default = NUM_PRODUCTS if self.tolerance is None else MOST_PRODUCTS
        self.limit = integer("num_products", default if self.num_products is None else self.num_products, at_least=6)
        if self.tolerance is not None:
            real("tolerance", self.tolerance, above=0)

    def stages(self) -> Iterator[int | None]:
        """Products of each stage; None where as many products as there are dimensions are the better way."""
        size = self.operator.dimension
        while True:
            total = self.limit if self.tolerance is None else min(max(FIRST_STAGE, 2 * self.spent), self.limit)
            if total >= size and self.spent + size <= max(self.limit, size):
                self.spent += size
                self.converged = True
                yield None
                return
            before, self.spent = self.spent, total
            yield total - before
            if self.spent >= self.limit:
                return

    def met(self, error: float, scale: float) -> bool:
        """Whether the tolerance is met by a standard error, with what it is relative to."""
        self.converged = self.tolerance is None or error <= self.tolerance * scale
        return self.converged

    def probe(self, spend: int, deflate: bool) -> Samples:
        """Spend products on Hutchinson's samples; with `deflate`, two thirds of them on taking a space out first."""
        if deflate:
            third = spend // 3
            self.require_memory(2 * third)
            for width in self._blocks(third):
                self.take_out(self.products(rademacher(self.operator, width, self.rng)))
            spend -= 2 * third
        for width in self._blocks(spend):
            if self._basis is None:
                probes, weights = rademacher(self.operator, width, self.rng), np.ones(width)
            else:
                # Directions even in all of the rest, of length sqrt(D - k): the identity has no error.
                probes = gaussian(self.operator, width, self.rng)
                probes = probes - self._basis @ (self._basis.T @ probes)
                weights = (self.operator.dimension - self.num_kept) / squares(probes, 1.0)
            images = self.products(probes)
            xp = namespace(images)
            terms = to_numpy(xp.sum(double(images) / self.unit * double(probes), axis=0))
            self._samples.append(weights * np.array([terms, squares(images, self.unit)]))
        traces, squared = np.concatenate(self._samples, axis=1)
        return Samples(self._exact[0], self._exact[1], traces, squared, self.unit)

    def products(self, vectors: Array) -> Array:
        """The operator's products; the first ones set the unit."""
        result = products(self.operator, vectors)
        if not self._checked and vectors.shape[1] > 1:
            _vectors.require_symmetric_products(self.operator, vectors, result)
            self._checked = True
        if self.unit == 0:
            largest = float(namespace(result).max(namespace(result).abs(result)))
            # A power of two, so that scaling by it rounds nothing.
            self.unit = 2.0 ** math.frexp(largest)[1] if largest > 0 else 1.0
        return result

    @property
    def num_kept(self) -> int:
        """Dimension of the space taken out."""
        return 0 if self._basis is None else int(self._basis.shape[1])

    def take_out(self, images: Array) -> None:
        """Add the span of some products to the space on which trace and norm are taken exactly."""
        xp = namespace(images)
        images = images / self.unit
        self._largest = max(self._largest, float(squares(images, 1.0).max()) ** 0.5)
        # Samples so far belong to a smaller space.
        self._samples = []
        for _ in range(2 if self._basis is not None else 0):
            images = images - self._basis @ (self._basis.T @ images)
        new, triangle = xp.linalg.qr(images)
        # A product within the space so far leaves rounding errors, which are no direction. Columns of `new` in their
        # place are arbitrary and hold parts of later products: the singular vectors know which directions are real.
        turn, sizes, _ = xp.linalg.svd(triangle)
        floor = 100 * float(xp.finfo(images.dtype).eps) * self._largest
        new = new @ turn[:, sizes > floor]
        if new.shape[1] == 0:
            return
        if self._basis is not None:
            new = xp.linalg.qr(new - self._basis @ (self._basis.T @ new))[0]
        images = self.products(new)
        self._exact[0] += float(to_numpy(xp.sum(double(images) / self.unit * double(new))))
        self._exact[1] += float(squares(images, self.unit).sum())
        self._basis = new if self._basis is None else xp.concat([self._basis, new], axis=1)

    def _blocks(self, count: int) -> Iterator[int]:
        width = block_width(self.operator.dimension)
        for start in range(0, count, width):
            yield min(width, count - start)

    def require_memory(self, vectors: int) -> None:
        """Refuse to keep more vectors than fit."""
        if not is_torch(self.operator.prototype) or self.operator.device.type == "cpu":
            size = self.operator.prototype.dtype.itemsize * float(self.operator.dimension)
            require_memory(
                f"a space of {self.num_kept + vectors} vectors",
                (self.num_kept + vectors) * size,
                'use method="hutchinson"',
            )


def exchange(run: Run, spend: int) -> tuple[float, float, float]:
    """XTrace: each probe tests the space that the products with the others span. Estimate, error and ||A||_F.

    References
    ----------
    Epperly, Tropp and Webber (2024), sections 2.1 (the estimator), 2.2 (one basis for all leave-one-out spaces) and 2.3
    (probes on a sphere, normalised in the complement).
    """
    operator, count = run.operator, spend // 2
    size = operator.dimension
    run.require_memory(4 * count)
    probes = gaussian(operator, count, run.rng)
    xp = namespace(probes)
    probes = probes / like(probes, np.sqrt(squares(probes, 1.0) / size))
    images = run.products(probes) / run.unit
    basis, triangle = xp.linalg.qr(images)
    sizes = to_numpy(xp.linalg.svdvals(triangle))
    if sizes[-1] <= 100 * float(xp.finfo(images.dtype).eps) * sizes[0]:
        # The products of some span those of all: there is nothing to test, but the space may be used as it is.
        held = run.num_kept
        run.take_out(images * run.unit)
        samples = run.probe(max(2, spend - count - (run.num_kept - held)), deflate=False)
        return (*samples.trace(), math.sqrt(samples.square()[0]) * run.unit)
    second = run.products(basis) / run.unit
    core, seen, tested = inner(basis, second), inner(basis, probes), inner(second, probes)
    core = 0.5 * (core + core.T)
    # Column i: the direction of the basis that only product i reaches.
    own = np.linalg.inv(to_numpy(triangle).astype(np.float64)).T
    own = own / np.linalg.norm(own, axis=0)
    inside = seen - own * np.sum(own * seen, axis=0)
    outer = to_numpy(xp.sum(double(images) * double(probes), axis=0))
    remainder = outer - 2 * np.sum(tested * inside, axis=0) + np.sum(inside * (core @ inside), axis=0)
    lengths = size - np.sum(inside**2, axis=0)
    terms = np.trace(core) - np.sum(own * (core @ own), axis=0) + (size - count + 1) * remainder / lengths
    norm = math.sqrt(float(squares(images, 1.0).mean())) * run.unit
    return float(terms.mean()) * run.unit, float(terms.std(ddof=1)) / math.sqrt(count) * run.unit, norm
