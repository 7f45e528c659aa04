"""Top eigenvalues of the Gauss-Newton matrix from one or two passes over the examples, without an eigensolver."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, flag, integer, real, require_memory
from rmtland._arrays import Array, all_finite, double, like, namespace, to_numpy, told, zeros
from rmtland.logits.accumulate import SharedChunk, checked_chunks, parts_of, prototype
from rmtland.logits.cells import Cells
from rmtland.logits.cross_class import CrossClassMeansAccumulator
from rmtland.logits.gauss_newton import GradientAccumulator, gauss_newton
from rmtland.logits.gradients import (
    CutChunk,
    LogitGradients,
    LogitGradientsChunk,
    Reducer,
    ReducibleSource,
    SlicedChunk,
    check_source,
)
from rmtland.logits.outlier_estimate import UNSEEN, Estimate, inner_products, likely_errors, orthonormal
from rmtland.logits.ranks import in_step, own_examples, ranked
from rmtland.logits.rows import require_finite
from rmtland.logits.scatter import Scatter
from rmtland.spectra import _vectors

Floats = npt.NDArray[np.float64]

FEW = 16
"""Examples of each class, on average, that directions are found from where an eighth of all would be fewer."""


@dataclass(frozen=True, eq=False)
class StreamedOutliers:
    """The largest eigenvalues of G with their errors.

    Attributes
    ----------
    eigenvalues : ndarray (k,)
        Ascending, float64.
    errors : ndarray (k,)
        How far off each may be, for about 95 of 100 eigenvalues: three standard deviations of what the sampled
        examples leave open, and a bound to first order of what no product has seen, twice.
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

    __repr__ = told

    @property
    def gradient_power(self) -> float:
        """Share of the squared gradient in the span of the eigenvectors."""
        return float(self.powers.sum())


def streamed_outliers(
    source: LogitGradients, passes: int = 1, k: int | None = None, *, num_directions: int | None = None,
    start: Array | None = None, keep_pairs: bool | None = None, tolerance: float = 0.01,
) -> StreamedOutliers:  # fmt: skip
    """Top eigenvalues of the Gauss-Newton matrix, and their vectors, from class means: one pass or two, no iteration.

    Parameters
    ----------
    source : LogitGradients
        With softmax outputs (`CrossEntropy`): a draw, a network, arrays. With one pass and no `start`, its first eighth
        tells the directions: shuffle examples that are sorted. Of several ranks, the first eighth of each.
    passes : {1, 2}
        Two passes: the second takes exact products with the directions that the first found.
    k : int, optional
        How many eigenvalues, C - 1 by default, min(D, C (C - 1)) at most.
    num_directions : int, optional
        Vectors that products are taken with, 2 k by default, k at least. More make errors smaller; in a subspace each
        costs about a hundredth of the pass.
    start : array (D, m), optional
        Directions from before, such as the `eigenvectors` of a step ago: products are taken with their span, over all
        examples in the same pass that finds the means.
    keep_pairs : bool, optional
        Whether all C^2 cross-class means are kept, twice 8 C^2 D bytes; by default where once is at most 1 GiB. The
        class means alone, 8 C D bytes, will do, with larger errors.
    tolerance : float
        Share of the inputs of a network's layers, and of the signals that come back to them, that may be left out in
        one pass: eigenvectors are then sought among weights between the leading directions of both, up to 96 and 64,
        which makes the pass several times faster. 0 leaves nothing out, nor is anything left out over several ranks.

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
    comes from the first eighth of the examples (half of few) and B V from the rest, about the means of all: the noise
    of B V is the greater part of the error, so that most examples go there.

    A pass costs C - 1 backward passes for the means and, per direction, one product with J and one with J^T. In a
    network whose layers account for all parameters C - 1 backward passes to the layers' outputs serve all of it, in
    coordinates of a subspace (`tolerance`); what it leaves out is told from 256 examples and is part of the errors.
    An eigenvector far from all means is missed, and the errors do not know.

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
    check_source(source)
    if start is not None:
        namespace(start, names="`start`")
    choice("passes", passes, (1, 2))
    if num_directions is not None:
        num_directions = integer("num_directions", num_directions)
    if keep_pairs is not None:
        flag("keep_pairs", keep_pairs)
    statistic = CrossClassMeansAccumulator(keep_pairs)
    most = most_outliers(source, statistic)
    wanted = integer("k", source.num_classes - 1 if k is None else k, at_least=1, at_most=most)
    width = 2 * wanted if num_directions is None else num_directions
    width = min(integer("num_directions", width, at_least=wanted), source.num_parameters)
    tolerance = real("tolerance", tolerance, at_least=0, below=1)
    kind = prototype(source)
    if start is not None:
        if start.ndim != 2 or start.shape[0] != source.num_parameters or not 1 <= start.shape[1] <= start.shape[0]:
            raise ValueError(
                f"`start` must have shape (D, m) with D = {source.num_parameters}; got {tuple(start.shape)}"
            )
        if not all_finite(start):
            raise ValueError("`start` must be finite; got NaN or infinite entries")
    with in_step(source, start):
        run = _Stream(source, statistic, width, tolerance if passes == 1 else 0.0)
        run.pass_over(None if start is None else run.coordinates(like(kind, start)))
        found = run.estimate(wanted)
        if passes == 2:
            run.exact(found.vectors(width))
            found = run.estimate(wanted)
    return run.result(found, passes)


def most_outliers(source: LogitGradients, statistic: CrossClassMeansAccumulator) -> int:
    """How many eigenvalues the means may have."""
    ranks = source.num_classes * (source.num_classes - 1 if statistic.keeps(source) else 1)
    return min(source.num_parameters, ranks)


class _Stream:
    """A pass over the source: means, directions, products with them, and the gradient."""

    def __init__(
        self, source: LogitGradients, statistic: CrossClassMeansAccumulator, width: int, tolerance: float
    ) -> None:
        self.source, self.statistic, self.width = source, statistic, width
        self.keeps, self.kind = statistic.keeps(source), prototype(source)
        statistic.start(source)
        if self.keeps:
            size = self.kind.dtype.itemsize * source.num_classes**2 * float(source.num_parameters)
            require_memory(f"two sets of {source.num_classes}^2 cross-class means", 2.5 * size, "use keep_pairs=False")
        self.num_products, self.sampled = 0.0, 0.0
        self.scatter: Scatter | None = None
        self.images: Array = None
        some = tolerance > 0 and self.keeps and isinstance(source, ReducibleSource)
        self.reducer: Reducer | None = source.reducer(tolerance) if some else None  # type: ignore[attr-defined]
        # Of what is summed up: parameters, or coordinates in a subspace.
        self.size = source.num_parameters if self.reducer is None else self.reducer.reduction.size

    def _nothing(self) -> tuple[Array, ...]:
        """The state of `statistic` before the first example, in the dtype of products: half the traffic of float64."""
        num_classes = self.source.num_classes
        between = (num_classes, num_classes) if self.keeps else (num_classes,)
        wide = double(self.kind)
        shapes = ((num_classes, num_classes), (num_classes,))
        sums = zeros(self.kind, (*between, self.size))
        return (sums, *(zeros(wide, shape) for shape in shapes))

    def coordinates(self, start: Array) -> Array:
        """An orthonormal basis of given directions (D, m), or of their projections."""
        return orthonormal(start if self.reducer is None else self.reducer.reduction.project(start.T).T)

    def pass_over(self, directions: Array | None) -> None:
        """The means of all, and products of the examples that come after the directions are known."""
        boundary = 0 if directions is not None else _opening(self.source)
        slope_of = GradientAccumulator()
        slope: Any = None
        self.block: Any = directions
        first: Any = None
        state: Any = self._nothing()
        seen = 0
        for chunk in checked_chunks(self.source):
            for piece in _cut_at(chunk, boundary - seen):
                if seen >= boundary and first is None:
                    first, state = self._first_part(state), self._nothing()
                for whole, part in self._parts(piece):
                    if seen >= boundary:
                        self._multiply(part, seen)
                    for some in parts_of(part):
                        state = self.statistic.add(state, SharedChunk(some, self.source))
                    slope = slope_of.add(slope, SharedChunk(whole, self.source))
                    seen += int(part.labels.shape[0])
        self.gradient = double(slope_of.finish(slope, self.source))
        self._conclude(first, self._reduced(state))

    def _parts(self, piece: LogitGradientsChunk) -> Iterator[tuple[LogitGradientsChunk, LogitGradientsChunk]]:
        """A piece in parts, each in all parameters and in what is summed up."""
        if self.reducer is None:
            yield piece, piece
        else:
            yield from self.reducer.parts(piece)

    def _reduced(self, state: tuple[Array, ...]) -> tuple[Array, Floats, float]:
        """Sums (r, D), pair weights and number of examples of all ranks."""
        sums, pairs, sizes = (self.source.reduce(total) for total in state)
        return sums.reshape(-1, sums.shape[-1]), to_numpy(pairs), float(to_numpy(sizes).sum())

    def _first_part(self, state: tuple[Array, ...]) -> tuple[Array, Floats, float]:
        """Sums over the first examples of all ranks; the directions, where there are none yet, from them."""
        sums, pairs, count = self._reduced(state)
        if self.block is None:
            cells = Cells.of(pairs / max(count, 1.0), self.keeps)
            turn = cells.turn / max(count, 1.0)
            values, vectors = np.linalg.eigh(turn @ inner_products(sums) @ turn.T)
            kept = np.flatnonzero(values > _vectors.epsilon(self.kind) * max(float(values[-1]), 0.0))[-self.width :]
            self.block = orthonormal(sums.T @ like(sums, turn.T @ (vectors[:, kept] / np.sqrt(values[kept]))))
            self.scatter = Scatter(self.source.num_classes, int(self.block.shape[1]), self.keeps)
        return sums, pairs, count

    def _multiply(self, piece: LogitGradientsChunk, seen: int) -> None:
        """Add products of a piece's examples with the directions, and their scatter by groups."""
        width = int(self.block.shape[1])
        if width == 0:
            return
        shared = SharedChunk(piece, self.source)
        pushed = piece.jvp(like(self.kind, self.block))
        image = piece.vjp(like(pushed, shared.loss.hessian_product(double(pushed))))
        self.images = double(image) if self.images is None else self.images + image
        if self.scatter is not None:
            self.scatter.add(shared, pushed, seen)

    def _conclude(self, first: tuple[Array, Floats, float] | None, second: tuple[Array, Floats, float]) -> None:
        """The products as those of B = G - F F^T, about the means of all examples."""
        wide, num_examples = double(self.kind), float(self.source.num_examples)
        width = int(self.block.shape[1])
        if self.images is None:  # a rank without examples there
            self.images = zeros(wide, (self.size, width))
        images = self.source.reduce(self.images)
        if self.scatter is not None:
            self.scatter.reduced(self.source.reduce, wide)
        sums, pairs, count = second
        self.sampled = 1.0 - count / num_examples
        self.num_products += width * (1.0 - self.sampled)
        before, before_pairs, _ = first if first is not None else (None, np.zeros_like(pairs), 0.0)
        self.cells = Cells.of((pairs + before_pairs) / num_examples, self.keeps)
        self.turn = self.cells.turn / num_examples
        here = Cells.of(pairs / max(count, 1.0), self.keeps)
        # Second moments about the means of all: the sum of g g^T less sum g times the mean, less its transpose, plus
        # that of the mean. Coefficients (r, m) first, then two products with the sums.
        block = like(sums, self.block)
        later = to_numpy(sums @ block).astype(np.float64)
        earlier = 0.0 if before is None else to_numpy(before @ block).astype(np.float64)
        seen, theirs = self.turn @ (later + earlier), (here.turn / max(count, 1.0)) @ later
        root, unscaled = np.sqrt(here.weights)[:, None], self.cells.inverse_root[:, None]
        of_here = root * unscaled * seen
        of_all = unscaled * (root * theirs - root**2 * unscaled * seen)
        lost = self.turn.T @ of_all
        coefficients = (here.turn / max(count, 1.0)).T @ of_here + lost
        subtracted = double(sums.T @ like(sums, coefficients))
        if before is not None:
            subtracted = subtracted + double(before.T @ like(sums, lost))
            sums += before
        self.centres = unscaled * seen  # of all means, along V
        self.sums = sums
        self.spread = images / max(count, 1.0) - subtracted
        self.own = self.turn @ inner_products(sums) @ self.turn.T
        require_finite(self.spread, like(wide, self.own))

    def exact(self, block: Array) -> None:
        """Products of all examples with other directions, (D, m), orthonormal."""
        images = double(gauss_newton(self.source) @ like(self.kind, block))
        require_finite(images)
        sums = self.sums
        seen = self.turn.T @ (self.turn @ to_numpy(sums @ like(sums, block)).astype(np.float64))
        self.block, self.sampled = block, 0.0
        self.spread = images - double(sums.T @ like(sums, seen))
        self.num_products += int(block.shape[1])

    def estimate(self, k: int) -> Estimate:
        """The eigenvalues of what is known of G."""
        return Estimate.of(self, k)

    def result(self, found: Estimate, passes: int) -> StreamedOutliers:
        """All that is handed out."""
        vectors = found.vectors(found.k)
        inside = to_numpy(double(self.block).T @ vectors)
        left_out = np.zeros(found.k)
        if self.reducer is not None:
            left_out = np.abs(to_numpy(self.reducer.left_out(vectors)))
            vectors = self.reducer.reduction.lift(vectors.T).T
        norm = float(np.linalg.norm(to_numpy(self.gradient)))
        seen = to_numpy(vectors.T @ self.gradient)
        powers = (seen / norm) ** 2 if norm > 0 else np.full(found.k, math.nan)
        noise = np.zeros(found.k)
        if self.scatter is not None and self.sampled > 0:
            noise = self.scatter.deviations(self.centres, inside, self.sampled)
        outside = np.maximum(1.0 - np.sum(inside**2, axis=0), 0.0)
        values = found.values[-found.k :]
        errors = likely_errors(values, found.following, outside, noise)
        errors += UNSEEN * left_out / np.where(values > 0, values, 1.0)
        return StreamedOutliers(values, errors, vectors, powers, passes, self.num_products)


def _opening(source: LogitGradients) -> int:
    """How many examples of this rank go before: an eighth, half of few."""
    own = own_examples(source) if ranked(source) is not None else None
    if own is None:
        alone = int(to_numpy(source.reduce(zeros(double(prototype(source)), (1,)) + 1))[0]) == 1
        # A source that sums over ranks and does not say how many examples each has is asked.
        own = own_examples(source) if alone else sum(int(chunk.labels.shape[0]) for chunk in source.chunks())
    return max(own // 8, min(own // 2, FEW * source.num_classes))


def _cut_at(chunk: LogitGradientsChunk, place: int) -> Iterator[LogitGradientsChunk]:
    """The chunk, in two pieces or more where the place lies within it and it can be cut."""
    if 0 < place < chunk.labels.shape[0]:
        for part in (slice(0, place), slice(place, int(chunk.labels.shape[0]))):
            yield chunk.cut(part) if isinstance(chunk, CutChunk) else SlicedChunk(chunk, part)
    else:
        yield chunk
