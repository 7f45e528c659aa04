"""Top eigenvalues of the Gauss-Newton matrix from one or two passes over the examples, without an eigensolver."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, integer, require_memory
from rmtland._arrays import Array, all_finite, double, like, namespace, to_numpy, zeros
from rmtland.logits.accumulate import SharedChunk, checked_chunks, parts_of, prototype
from rmtland.logits.cross_class import CrossClassMeans, CrossClassMeansAccumulator
from rmtland.logits.gauss_newton import GradientAccumulator, gauss_newton
from rmtland.logits.gradients import CutChunk, LogitGradients, LogitGradientsChunk, SlicedChunk
from rmtland.logits.pair_factor import at_own_class
from rmtland.logits.ranks import in_step, own_examples, ranked
from rmtland.logits.rows import require_finite

Floats = npt.NDArray[np.float64]

NUM_GROUPS = 16
"""Groups of examples whose scatter tells the error of a half of the examples."""


@dataclass(frozen=True, eq=False)
class StreamedOutliers:
    """The largest eigenvalues of G with their errors.

    Attributes
    ----------
    eigenvalues : ndarray (k,)
        Ascending, float64.
    errors : ndarray (k,)
        How far off each may be: the error is smaller in 95 of 100 cases, on networks like those that it was set on.
    eigenvectors : array (D, k)
        Orthonormal columns, float64 in the library of the source.
    powers : ndarray (k,)
        Share of the squared gradient along each; NaN where the gradient is zero.
    num_passes : int
        Passes over the examples.
    num_products : float
        Products with single vectors, J^T A J v over all examples; half of one where half of the examples took part.
    """

    eigenvalues: Floats
    errors: Floats
    eigenvectors: Array = field(repr=False)
    powers: Floats = field(repr=False)
    num_passes: int
    num_products: float

    @property
    def gradient_power(self) -> float:
        """Share of the squared gradient in the span of the eigenvectors."""
        return float(self.powers.sum())


@dataclass(frozen=True, eq=False)
class _Cells:
    """F in F F^T <= G: each column is the mean of some gradients, times the root of their weight over n."""

    rows: Array  # (r, D), F^T
    weights: Floats  # (r,)
    count: float  # n

    @classmethod
    def of(cls, means: CrossClassMeans) -> _Cells:
        if means.pair_factor is not None:
            rows = means.pair_factor.reshape(-1, means.num_parameters)
            return cls(rows, means.pair_weights.reshape(-1), means.num_examples)
        rows = namespace(means.class_sums).concat([means.class_factor, means.own_factor])
        weights = np.concatenate([means.class_weights, np.diag(means.pair_weights)])
        return cls(rows, weights, means.num_examples)

    def within(self, others: _Cells, products: Array, block: Array) -> Array:
        """B V for V (D, m), where B = G - F F^T as `others` see it: of their examples, about the means of all.

        `products` is G V of their examples.
        """
        root = like(self.rows, np.sqrt(others.weights / others.count))[:, None]
        unscaled = like(self.rows, _inverse_root(self.weights / self.count))[:, None]
        seen, theirs = self.rows @ block, others.rows @ block
        # About any centre: the sum of g g^T less sum g times the centre, less its transpose, plus that of the centre.
        first = others.rows.T @ (root * unscaled * seen)
        second = self.rows.T @ (unscaled * (root * theirs - root**2 * unscaled * seen))
        return products - first - second


def _inverse_root(weights: Floats) -> Floats:
    return (weights > 0) / np.sqrt(np.where(weights > 0, weights, 1.0))


def streamed_outliers(
    source: LogitGradients, passes: int = 1, k: int | None = None, *, num_directions: int | None = None,
    start: Array | None = None, keep_pairs: bool | None = None,
) -> StreamedOutliers:  # fmt: skip
    """Top eigenvalues of the Gauss-Newton matrix, and their vectors, from class means: one pass or two, no iteration.

    Parameters
    ----------
    source : LogitGradients
        With softmax outputs (`CrossEntropy`): a draw, a network, arrays. With one pass and no `start`, its first half
        stands for all: shuffle examples that are sorted.
    passes : {1, 2}
        Two passes: the second takes exact products with the directions that the first found.
    k : int, optional
        How many eigenvalues, C - 1 by default, min(D, C (C - 1)) at most.
    num_directions : int, optional
        Vectors that products are taken with, 2 k by default; k at least.
    start : array (D, m), optional
        Directions from before, such as the `eigenvectors` of a step ago: products are taken with their span, over all
        examples in the same pass that finds the means.
    keep_pairs : bool, optional
        Whether all C^2 cross-class means are kept, twice 8 C^2 D bytes; by default where once is at most 1 GiB. The
        class means alone, 8 C D bytes, will do, with larger errors.

    Returns
    -------
    StreamedOutliers

    Raises
    ------
    ValueError
        For another loss than cross-entropy, k or directions out of range, a start of another shape, NaN or infinite
        logit gradients.
    MemoryError
        Where the means do not fit.

    Notes
    -----
    The means make up F F^T = A1 + A2 + B1 (`cross_class_means`) and G = F F^T + B with B positive semidefinite, the
    spread within classes, which aligns with the means during training. Of B the products with the leading directions V
    of F are taken, and the eigenvalues are those of F F^T + B V (V^T B V)^-1 V^T B: F F^T in full and the part of B
    that V reaches, half a power iteration better than Rayleigh-Ritz on V, and below G in any direction. In one pass V
    comes from the first half of the examples and B V from the second, about the means of all.

    A pass costs C - 1 backward passes for the means and, per direction, one product with J and one with J^T, for half
    of the examples in the first pass. An eigenvector far from all means is missed, and the errors do not know.

    References
    ----------
    Papyan (2019), Measurements of three-level hierarchical structure in the outliers in the spectrum of deepnet
    Hessians, on F. Williams and Seeger (2001), Using the Nystroem method to speed up kernel machines.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=300, num_classes=5, num_parameters=400, sigma_z=1.0)
    >>> draw = model.sample(rng=0)
    >>> found = rl.streamed_outliers(draw, passes=2)
    >>> exact = rl.gauss_newton_spectrum(draw).outliers(4)
    >>> bool((abs(found.eigenvalues - exact) <= found.errors).all()), bool((found.errors < 0.05 * exact).all())
    (True, True)
    """
    choice("passes", passes, (1, 2))
    statistic = CrossClassMeansAccumulator(keep_pairs)
    ranks = source.num_classes * (source.num_classes - 1 if statistic.keeps(source) else 1)
    most = min(source.num_parameters, ranks)
    wanted = integer("k", source.num_classes - 1 if k is None else k, at_least=1, at_most=most)
    width = 2 * wanted if num_directions is None else num_directions
    width = min(integer("num_directions", width, at_least=wanted), source.num_parameters)
    kind = prototype(source)
    if start is not None:
        if start.ndim != 2 or start.shape[0] != source.num_parameters or not 1 <= start.shape[1] <= start.shape[0]:
            raise ValueError(
                f"`start` must have shape (D, m) with D = {source.num_parameters}; got {tuple(start.shape)}"
            )
        if not all_finite(start):
            raise ValueError("`start` must be finite; got NaN or infinite entries")
    with in_step(source, start):
        run = _Stream(source, statistic, width)
        run.pass_over(None if start is None else _orthonormal(double(like(kind, start))))
        found = run.estimate(wanted)
        if passes == 2:
            run.exact(found.vectors(width))
            found = run.estimate(wanted)
    return run.result(found, passes)


class _Stream:
    """A pass over the source: means, directions, products with them, and the gradient."""

    def __init__(self, source: LogitGradients, statistic: CrossClassMeansAccumulator, width: int) -> None:
        self.source, self.statistic, self.width = source, statistic, width
        self.slope = GradientAccumulator()
        self.kind = prototype(source)
        self.num_products, self.sampled = 0.0, 0.0
        if statistic.keeps(source):
            size = 16.0 * source.num_classes**2 * source.num_parameters
            require_memory(f"two sets of {source.num_classes}^2 cross-class means", 1.5 * size, "use keep_pairs=False")

    def pass_over(self, directions: Array | None) -> None:
        """The means of all, and products of the examples that come after the directions are known."""
        boundary = 0 if directions is not None else _own_half(self.source)
        halves: list[Any] = [self.statistic.start(self.source) for _ in range(2)]
        slope: Any = self.slope.start(self.source)
        self.directions, self.centres = directions, None
        self.images: Array = None
        self.grouped = np.zeros((NUM_GROUPS, 1, 1))
        self.sizes = np.zeros(NUM_GROUPS)
        seen, first = 0, None
        for chunk in checked_chunks(self.source):
            for piece in _cut_at(chunk, boundary - seen):
                if seen >= boundary and first is None:
                    first = self._first_half(halves[0])
                half = int(seen >= boundary)
                if half:
                    self._multiply(piece, seen)
                for part in parts_of(piece):
                    halves[half] = self.statistic.add(halves[half], SharedChunk(part, self.source))
                slope = self.slope.add(slope, SharedChunk(piece, self.source))
                seen += int(piece.labels.shape[0])
        self.gradient = double(self.slope.finish(slope, self.source))
        self._conclude(first, halves[1])

    def _first_half(self, state: Any) -> tuple[Array, ...] | None:
        """Sums over the first half of all ranks; the directions, where there are none yet, from them."""
        sums = self._reduced(state)
        if self.directions is None:
            copies = tuple(namespace(s).asarray(s, copy=True) for s in sums)
            cells = self._cells(copies)
            self.directions = _leading(cells.rows, self.width)
            self.centres = None
            if self.statistic.keeps(self.source):
                means = like(cells.rows, _inverse_root(cells.weights / cells.count))[:, None]
                seen = (means * (cells.rows @ self.directions)).reshape(
                    self.source.num_classes, self.source.num_classes, -1
                )
                self.centres = seen
        return sums

    def _reduced(self, state: Any) -> tuple[Array, ...]:
        if state is None:  # a rank without examples here
            state = self._empty()
        return tuple(self.source.reduce(total) for total in state)

    def _empty(self) -> tuple[Array, ...]:
        num_classes, kind = self.source.num_classes, double(self.kind)
        between = (num_classes, num_classes) if self.statistic.keeps(self.source) else (num_classes,)
        shapes = ((*between, self.source.num_parameters), (num_classes, num_classes), (num_classes,))
        return tuple(zeros(kind, shape) for shape in shapes)

    def _cells(self, sums: tuple[Array, ...]) -> _Cells:
        count = float(to_numpy(sums[2]).sum())
        return _Cells.of(CrossClassMeans.from_sums(max(count, 1e-300), sums[2], sums[1], sums[0]))

    def _multiply(self, piece: LogitGradientsChunk, seen: int) -> None:
        """Add A-weighted products of a piece's examples with the directions."""
        if self.directions is None or self.directions.shape[1] == 0:
            return
        shared = SharedChunk(piece, self.source)
        pushed = piece.jvp(like(self.kind, self.directions))
        curved = shared.loss.hessian_product(double(pushed))
        image = double(piece.vjp(like(pushed, curved)))
        self.images = image if self.images is None else self.images + image
        centred = double(pushed)
        if self.centres is not None:
            centred = centred - at_own_class(piece, self.centres)
        weighed = shared.loss.hessian_product(centred)
        width = centred.shape[2]
        if self.grouped.shape[1] != width:
            self.grouped = np.zeros((NUM_GROUPS, width, width))
        for group in range(NUM_GROUPS):  # the examples in turn, whatever the chunks
            some = slice((group - seen) % NUM_GROUPS, None, NUM_GROUPS)
            one, other = (array[some, ...].reshape(-1, width) for array in (centred, weighed))
            self.grouped[group] += to_numpy(one.T @ other)
            self.sizes[group] += len(one) // self.source.num_classes

    def _conclude(self, first: tuple[Array, ...] | None, second: Any) -> None:
        sums = self._reduced(second)
        if first is None:
            first = self._first_half(None)
        width = 0 if self.directions is None else int(self.directions.shape[1])
        if self.images is None:
            self.images = zeros(double(self.kind), (self.source.num_parameters, width))
        images = self.source.reduce(self.images)
        require_finite(images)
        grouped = self.grouped if self.grouped.shape[1] == width else np.zeros((NUM_GROUPS, width, width))
        reference = double(self.kind)
        self.grouped = to_numpy(self.source.reduce(like(reference, grouped)))
        self.sizes = to_numpy(self.source.reduce(like(reference, self.sizes)))
        total = tuple(a + b for a, b in zip(first, sums, strict=True))
        tiny = 0.0
        self.cells = _Cells.of(
            CrossClassMeans.from_sums(self.source.num_examples, total[2], total[1], total[0], tiny=tiny)
        )
        others = self._cells(sums)
        share = others.count / self.source.num_examples
        self.num_products += width * share
        self.sampled = 1.0 - share
        self.block = self.directions
        if width and others.count > 0:
            self.spread = self.cells.within(others, images / others.count, self.directions)
        else:
            self.block = zeros(self.cells.rows, (self.source.num_parameters, 0))
            self.spread = self.block

    def exact(self, block: Array) -> None:
        """Products of all examples with other directions, (D, m), orthonormal."""
        images = double(gauss_newton(self.source) @ like(self.kind, block))
        require_finite(images)
        self.block, self.sampled = block, 0.0
        self.spread = images - self.cells.rows.T @ (self.cells.rows @ block)
        self.num_products += int(block.shape[1])

    def estimate(self, k: int) -> _Estimate:
        """The eigenvalues of what is known of G."""
        return _Estimate.of(
            self.cells.rows, self.block, self.spread, k, float(namespace(self.kind).finfo(self.kind.dtype).eps)
        )

    def result(self, found: _Estimate, passes: int) -> StreamedOutliers:
        """All that is handed out."""
        vectors = found.vectors(found.k)
        norm = float(np.linalg.norm(to_numpy(self.gradient)))
        seen = to_numpy(vectors.T @ self.gradient)
        powers = (seen / norm) ** 2 if norm > 0 else np.full(found.k, math.nan)
        noise = np.zeros(found.k)
        if self.sampled > 0 and self.block.shape[1]:
            noise = self._noise(to_numpy(self.block.T @ vectors))
        values = found.values[-found.k :]
        return StreamedOutliers(values, _errors(found, noise), vectors, powers, passes, self.num_products)

    def _noise(self, inside: Floats) -> Floats:
        """Standard deviations of u^T B u, B known from some of the examples, for u of components (m, k) in V."""
        known = self.sizes > 0
        means = np.einsum("gij,ik,jk->gk", self.grouped[known], inside, inside) / self.sizes[known][:, None]
        if len(means) < 2:
            return np.zeros(inside.shape[1])
        variance: Floats = means.var(axis=0, ddof=1) / len(means) * self.sampled
        return np.sqrt(variance)


@dataclass(frozen=True, eq=False)
class _Estimate:
    """F F^T + N N^T by its rows [F^T; N^T] and their Gram matrix."""

    parts: tuple[Array, Array]  # (r, D), (D, m)
    values: Floats  # ascending, all of them
    combinations: Floats
    lower: Floats  # of F F^T + V V^T B V V^T
    k: int

    @classmethod
    def of(cls, rows: Array, block: Array, spread: Array, k: int, epsilon: float) -> _Estimate:
        own = to_numpy(rows @ rows.T)
        core = to_numpy(block.T @ spread)
        sizes, turn = np.linalg.eigh((core + core.T) / 2) if core.size else (np.zeros(0), np.zeros((0, 0)))
        scale = max(float(np.trace(own)), float(sizes.max(initial=0.0)))
        kept = sizes > 10 * epsilon * scale
        sizes, turn = sizes[kept], turn[:, kept]
        nystrom = spread @ like(spread, turn / np.sqrt(sizes))
        plain = block @ like(block, turn * np.sqrt(sizes))
        values, combinations = np.linalg.eigh(_bordered(own, rows, nystrom))
        lower = np.linalg.eigvalsh(_bordered(own, rows, plain))
        size = max(values.size, k)
        values, lower = (np.concatenate([np.zeros(size - v.size), np.maximum(v, 0.0)]) for v in (values, lower))
        return cls((rows, nystrom), values, combinations, lower, k)

    def vectors(self, count: int) -> Array:
        """Orthonormal eigenvectors (D, count) of the largest eigenvalues, ascending; fewer where there are fewer."""
        rows, nystrom = self.parts
        count = min(count, self.combinations.shape[1])
        chosen = self.combinations[:, self.combinations.shape[1] - count :]
        r = rows.shape[0]
        block = rows.T @ like(rows, chosen[:r]) + nystrom @ like(rows, chosen[r:])
        return _orthonormal(block)


def _bordered(own: Floats, rows: Array, columns: Array) -> Floats:
    """The Gram matrix of rows and columns."""
    cross = to_numpy(rows @ columns)
    return np.block([[own, cross], [cross.T, to_numpy(columns.T @ columns)]])


def _leading(rows: Array, width: int) -> Array:
    """The leading left singular vectors of F = rows^T, (D, width), as many as it has."""
    values, vectors = np.linalg.eigh(to_numpy(rows @ rows.T))
    kept = np.flatnonzero(values > 1e-12 * max(values[-1], 0.0))[-width:]
    if values[-1] <= 0:
        kept = kept[:0]
    block = rows.T @ like(rows, vectors[:, kept] / np.sqrt(values[kept]))
    return _orthonormal(block)


def _orthonormal(block: Array) -> Array:
    """An orthonormal basis; the last columns are those that change least."""
    if block.shape[1] == 0:
        return block
    xp = namespace(block)
    return xp.flip(xp.linalg.qr(xp.flip(block, axis=1))[0], axis=1)


def _own_half(source: LogitGradients) -> int:
    """Half of the examples of this rank."""
    if ranked(source) is None:
        alone = int(to_numpy(source.reduce(zeros(double(prototype(source)), (1,)) + 1))[0]) == 1
        if not alone:  # a source that sums over ranks and does not say how many examples each has
            return sum(int(chunk.labels.shape[0]) for chunk in source.chunks()) // 2
    return own_examples(source) // 2


def _cut_at(chunk: LogitGradientsChunk, place: int) -> Iterator[LogitGradientsChunk]:
    """The chunk, in two pieces or more where the place lies within it and it can be cut."""
    if 0 < place < chunk.labels.shape[0]:
        for part in (slice(0, place), slice(place, int(chunk.labels.shape[0]))):
            yield chunk.cut(part) if isinstance(chunk, CutChunk) else SlicedChunk(chunk, part)
    else:
        yield chunk


def _errors(found: _Estimate, noise: Floats) -> Floats:
    k = found.k
    gain = found.values[-k:] - found.lower[-k:]
    return 2.2 * noise + 1.5 * np.maximum(gain, 0.0) + 1e-6 * found.values[-1]
