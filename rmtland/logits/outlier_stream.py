"""Passes over a source behind `streamed_outliers`: means, directions, products with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import require_memory
from rmtland._arrays import Array, double, like, namespace, to_numpy, zeros
from rmtland.logits.accumulate import SharedChunk, checked_chunks, loss_at, parts_of, prototype
from rmtland.logits.cells import Cells
from rmtland.logits.cross_class import CrossClassMeansAccumulator
from rmtland.logits.gauss_newton import gauss_newton
from rmtland.logits.gradients import (
    Closer,
    CutChunk,
    LogitGradients,
    LogitGradientsChunk,
    Reducer,
    ReducibleSource,
    SlicedChunk,
)
from rmtland.logits.outlier_estimate import (
    SAMPLING,
    Estimate,
    Nystrom,
    apart,
    filled,
    inner_products,
    likely_errors,
    orthonormal,
    outside,
)
from rmtland.logits.ranks import own_examples, ranked
from rmtland.logits.rows import require_finite
from rmtland.logits.scatter import Scatter
from rmtland.spectra import _vectors

Floats = npt.NDArray[np.float64]

FIRST = 2
"""Directions of F that products are taken with, for each eigenvalue."""
MORE = (1, 3)
"""Eigenvectors that are multiplied again beside those asked for, in one pass and in two."""
FOCUS = (2e-2, 1e-3)
"""Share of these that is left out where the last product goes beyond a subspace, in one pass and in two."""
EVERY = 8
"""One example of so many tells what signals beyond a subspace add to it."""
FEW = 16
"""Examples of each class, on average, that directions are found from where an eighth of all would be fewer."""


class OutlierStream:
    """A pass over the source: means, directions, products with them.

    In a subspace all examples are held where they fit into memory: directions and products are then those of all. Else
    directions come from the first examples and products from the rest.
    """

    def __init__(
        self, source: LogitGradients, statistic: CrossClassMeansAccumulator, k: int, num_directions: int | None,
        tolerance: float, passes: int,
    ) -> None:  # fmt: skip
        self.source, self.statistic, self.k, self.passes = source, statistic, k, passes
        self.keeps, self.kind = statistic.keeps(source), prototype(source)
        statistic.start(source)
        if self.keeps:
            size = self.kind.dtype.itemsize * source.num_classes**2 * float(source.num_parameters)
            require_memory(f"two sets of {source.num_classes}^2 cross-class means", 2.5 * size, "use keep_pairs=False")
        self.num_products, self.sampled = 0.0, 0.0
        self.scatter: Scatter | None = None
        self.images: Array = None  # of directions in all parameters
        self.closer: Closer | None = None
        self.added: Array = None
        self.spread: Array = None  # B V
        some = tolerance > 0 and self.keeps and isinstance(source, ReducibleSource)
        self.reducer: Reducer | None = source.reducer(tolerance, EVERY) if some else None  # type: ignore[attr-defined]
        if self.reducer is not None and self.reducer.reduction.size < 2 * (num_directions or FIRST * k):
            self.reducer = None  # too small to be worth it
        self.width = min(num_directions or FIRST * k, source.num_parameters)
        # Parts of all examples.
        self.held: list[Any] | None = [] if self.reducer is not None and self.reducer.held else None
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
        boundary = 0 if directions is not None or self.held is not None else _opening(self.source)
        self.block: Any = directions
        first: Any = None
        state: Any = self._nothing()
        seen = 0
        for chunk in checked_chunks(self.source):
            for piece in _cut_at(chunk, boundary - seen):
                if seen >= boundary and first is None and self.held is None:
                    first, state = self._first_part(state), self._nothing()
                for part in [piece] if self.reducer is None else self.reducer.parts(piece):
                    if self.held is not None:
                        self.held.append(part)
                    elif seen >= boundary:
                        self._multiply(part, seen)
                    for some in parts_of(part):
                        state = self.statistic.add(state, SharedChunk(some, self.source))
                    seen += int(part.labels.shape[0])
        sums, pairs, count = self._reduced(state)
        if self.held is None:
            self._conclude(first, (sums, pairs, count))
            return
        # Directions that were given are filled up with those of F, and where these are few with any.
        turn = self._cells(pairs / self.source.num_examples).turn
        self.block = filled(filled(self.block, self.width, self._leading(sums, turn, self.width)), self.width)

    def _cells(self, weights: Floats) -> Cells:
        """Of pair weights over the number of examples."""
        return Cells.of(weights, self.keeps, _vectors.epsilon(self.kind))

    def _leading(self, sums: Array, turn: Floats, width: int) -> Array:
        """The leading directions of F, (size, m), from sums that `turn` makes its columns of, up to a factor."""
        own = turn @ inner_products(sums) @ turn.T
        require_finite(like(double(self.kind), own))
        values, vectors = np.linalg.eigh(own)
        kept = np.flatnonzero(values > _vectors.epsilon(self.kind) * max(float(values[-1]), 0.0))[-width:]
        return orthonormal(sums.T @ like(sums, turn.T @ (vectors[:, kept] / np.sqrt(values[kept]))))

    def _reduced(self, state: tuple[Array, ...]) -> tuple[Array, Floats, float]:
        """Sums (r, D), pair weights and number of examples of all ranks."""
        sums, pairs, sizes = (self.source.reduce(total) for total in state)
        return sums.reshape(-1, sums.shape[-1]), to_numpy(pairs), float(to_numpy(sizes).sum())

    def _first_part(self, state: tuple[Array, ...]) -> tuple[Array, Floats, float]:
        """Sums over the first examples of all ranks; the directions, where there are none yet, from them."""
        sums, pairs, count = self._reduced(state)
        if self.block is None:
            cells = self._cells(pairs / max(count, 1.0))
            self.block = self._leading(sums, cells.turn, self.width)
            self.scatter = Scatter(self.source.num_classes, int(self.block.shape[1]), self.keeps)
        return sums, pairs, count

    def _curved(self, part: LogitGradientsChunk, block: Array) -> tuple[Array, Array]:
        """J V and A J V of a part's examples, (n, C, m)."""
        pushed = part.jvp(like(self.kind, block))
        if self.reducer is not None:  # as precise as products are: nothing cancels in A v
            return pushed, loss_at(self.source, part, in_double=False).hessian_product(pushed)
        return pushed, like(pushed, loss_at(self.source, part).hessian_product(double(pushed)))

    def _multiply(self, piece: LogitGradientsChunk, seen: int) -> None:
        """Add products of a piece's examples with the directions, and their scatter by groups."""
        if int(self.block.shape[1]) == 0:
            return
        pushed, curved = self._curved(piece, self.block)
        image = piece.vjp(curved)
        self.added = double(image) if self.added is None else self.added + image
        if self.scatter is not None:
            self.scatter.add(SharedChunk(piece, self.source), pushed, seen)

    def _conclude(self, first: tuple[Array, Floats, float] | None, second: tuple[Array, Floats, float]) -> None:
        """The products as those of B = G - F F^T, about the means of all examples."""
        wide, num_examples = double(self.kind), float(self.source.num_examples)
        width = int(self.block.shape[1])
        if self.added is None:  # a rank without examples there
            self.added = zeros(wide, (self.size, width))
        images = self.source.reduce(self.added)
        if self.scatter is not None:
            self.scatter.reduced(self.source.reduce, wide)
        sums, pairs, count = second
        self.sampled = 1.0 - count / num_examples
        self.num_products += width * (1.0 - self.sampled)
        before, before_pairs, _ = first if first is not None else (None, np.zeros_like(pairs), 0.0)
        self.cells = self._cells((pairs + before_pairs) / num_examples)
        self.turn = self.cells.turn / num_examples
        here = self._cells(pairs / max(count, 1.0))
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
        """Products of all examples with other directions, (size, m), orthonormal."""
        images = double(gauss_newton(self.source) @ like(self.kind, block))
        require_finite(images)
        sums = self.sums
        seen = self.turn.T @ (self.turn @ to_numpy(sums @ like(sums, block)).astype(np.float64))
        self.block, self.spread, self.sampled = block, images - double(sums.T @ like(sums, seen)), 0.0
        self.num_products += int(block.shape[1])

    def _search(self, parts: list[Any], count: int) -> Array:
        """The leading eigenvectors of G in the subspace, by products with V and with the eigenvectors that these tell.

        By both together: either alone, the second too, errs several times as much.
        """
        images = double(self._product(self.block, parts))
        require_finite(images)
        before = double(self.block)
        block = apart(Nystrom.of(before, images, images, self.kind).vectors(count), before)
        self.num_products += int(before.shape[1] + block.shape[1])
        xp = namespace(images)
        images = xp.concat([images, double(self._product(block, parts))], axis=1)
        found = Nystrom.of(xp.concat([before, block], axis=1), images, images, self.kind).vectors(count)
        return filled(found, count)

    def _product(self, block: Array, parts: Iterable[Any], closer: Closer | None = None) -> Array:
        """G V in the subspace; `closer` is told of all."""
        total = zeros(double(self.kind), (self.size, int(block.shape[1])))
        for part in parts:
            curved = self._curved(part, block)[1]
            total += double(part.vjp(curved))
            if closer is not None:
                closer.add(part, curved)
        return total / self.source.num_examples

    def _few_parts(self) -> Iterator[Any]:
        """Parts of all examples in the subspace, held or found anew."""
        if self.held is not None:
            yield from self.held
        elif self.reducer is not None:
            for chunk in checked_chunks(self.source):
                yield from self.reducer.parts(chunk)

    def refine(self, num_directions: int | None) -> None:
        """Products with the leading eigenvectors found so far; the last of a subspace see what lies outside of it."""
        again = self.width if self.reducer is None else self.k + MORE[self.passes - 1]
        again = min(num_directions or again, self.source.num_parameters)
        if self.reducer is not None and self.held is not None:
            found = self._search(self.held, again)
            self._look_closer(self.reducer, found, FOCUS[self.passes - 1])
        elif self.passes == 2:
            found = Estimate.of(self, again).vectors(again)
            if self.reducer is None:
                self.exact(found)
            else:
                self._look_closer(self.reducer, found, FOCUS[1])

    def _look_closer(self, reducer: Reducer, block: Array, share: float) -> None:
        """Products of all examples with directions of the subspace that see what lies outside of it."""
        self.closer = reducer.closer(block, share)
        self.within = self._product(block, self._few_parts(), self.closer)
        self.images = self.closer.images(self.within, self.source.num_examples)
        self.noise = self.closer.noise()
        self.block, self.sampled = block, 0.0
        self.num_products += int(block.shape[1])

    def _found(self) -> tuple[Estimate | Nystrom, Floats]:
        """What eigenvalues come from, and eigenvectors along the directions V, (m, k)."""
        if self.images is not None:
            closest = Nystrom.of(self.block, self.images, self.within, self.kind, self.noise)
            return closest, closest.inside(self.k)
        found = Estimate.of(self, self.k)
        return found, to_numpy(double(self.block).T @ found.vectors(self.k))

    def result(self) -> tuple[Floats, Floats, Array]:
        """Eigenvalues, errors and vectors (D, k), by what is known now."""
        k = self.k
        found, inside = self._found()
        values, vectors = found.values[-k:], found.vectors(k)
        unseen = outside(inside) * found.following(k)
        lost = np.zeros(k)
        if self.reducer is not None:
            few = vectors if self.closer is None else double(self.block) @ like(double(self.block), inside)
            lost = to_numpy(self.reducer.left_out(few, self.closer)) / np.where(values > 0, values, 1.0) ** 2
            # From few examples: a small one among them may be so by chance, and their spread is that of the telling.
            lost = np.maximum(lost, max(float(lost.mean()), 0.0)) + lost.std()
            if isinstance(found, Nystrom):
                # What the subspace leaves of u is most of what no product has seen, and far from the next eigenvector.
                energies, error = map(to_numpy, self.reducer.energies(vectors, few))
                unseen = np.minimum(unseen, np.maximum(energies - found.seen_beyond(k), 0.0) + 2 * error)
            else:
                vectors = self.reducer.reduction.lift(few.T).T
        noise = np.zeros(k)
        if self.scatter is not None and self.sampled > 0:
            noise = self.scatter.deviations(self.centres, inside, self.sampled)
        errors = likely_errors(values, found.following(k), unseen, noise) + SAMPLING * lost * values
        if isinstance(found, Nystrom):
            errors += SAMPLING * found.noise * values
        return values, errors, vectors


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
