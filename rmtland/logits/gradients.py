"""The interface that every statistic reads: a source, its chunks, and what they may offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from rmtland._arguments import shown
from rmtland._arrays import Array, zeros
from rmtland.logits.losses import Loss

CHUNK_BYTES = 2**25
"""Default size of one chunk's dense logit gradients: 32 MiB, large enough for BLAS, small beside any J."""


class LogitGradientsChunk(Protocol):
    """n examples of a source: their logits, labels and the linear map from parameters to logits."""

    @property
    def logits(self) -> Array:
        """(n, C)."""

    @property
    def labels(self) -> Array:
        """(n,)."""

    def jvp(self, tangents: Array) -> Array:
        """J V: tangents (D, k) to (n, C, k)."""

    def vjp(self, cotangents: Array) -> Array:
        """J^T U summed over examples and classes: cotangents (n, C, k) to (D, k)."""

    def dense(self, parameters: slice = slice(None)) -> Array:
        """J itself for a slice of the parameters, (n, C, d)."""


@runtime_checkable
class WeightedChunk(Protocol):
    """A chunk that also knows its rows of the factor Y of G = Y^T Y, cheaper than by `dense`. An offer, not a duty."""

    def weighted_rows(self, num_examples: int) -> Array:
        """L_mu^T J_mu / sqrt(num_examples) with L_mu L_mu^T the loss's Hessian, (n rank, D), float64."""


@runtime_checkable
class BlockedChunk(Protocol):
    """A chunk that can be cut small enough for `dense`. An offer, not a duty.

    Products want as many examples as memory holds, dense logit gradients as few: C D numbers for each.
    """

    def blocks(self) -> Iterator[LogitGradientsChunk]:
        """The same examples in the same order, in pieces whose `dense()` fits into memory."""


@runtime_checkable
class NarrowChunk(Protocol):
    """A chunk that says how many columns its products take at a time. An offer, not a duty."""

    @property
    def num_columns(self) -> int:
        """Columns whose tangents, outputs and products fit into memory together, >= 1."""


@runtime_checkable
class CutChunk(Protocol):
    """A chunk of which some examples can be had at their share of the cost. An offer, not a duty."""

    def cut(self, examples: slice) -> LogitGradientsChunk:
        """Consecutive examples, `examples` with start and stop within the chunk."""


@runtime_checkable
class TargetedChunk(Protocol):
    """A chunk whose loss compares with more than its labels, or weighs its examples. An offer, not a duty."""

    @property
    def targets(self) -> Array:
        """What the loss takes in place of `labels`: these themselves, or (n, C) soft, several or real ones."""

    @property
    def weights(self) -> Array | None:
        """(n,) the weight of each example's loss, of mean 1 over the source; None where all are 1."""


@runtime_checkable
class PrototypedSource(Protocol):
    """A source that says what its products are computed in. An offer, not a duty."""

    @property
    def prototype(self) -> Array:
        """Any array of the library, dtype and device of products."""


class SoftmaxView(Protocol):
    """n examples as a softmax sees them: all that logits share is left out of J. Cotangents sum to zero over logits."""

    def add_class_sums(self, sums: Array, columns: Array, classes: range) -> None:
        """Add sum_mu J_mu^T u_mu,c' over the examples of class c to sums (len(classes), C, D).

        The cotangents u_mu,c' are columns[mu, :, c'] for columns (n, C, C).
        """


@runtime_checkable
class SoftmaxChunk(Protocol):
    """A chunk that sums cross-class gradients over the examples of each class at once. An offer, not a duty."""

    def softmax_view(self) -> SoftmaxView | None:
        """The same examples; None where it has no such sums after all."""


class Reduction(Protocol):
    """A subspace of the parameters, and coordinates in it."""

    @property
    def size(self) -> int:
        """How many coordinates."""

    def project(self, rows: Array) -> Array:
        """Rows (..., D) to coordinates (..., size)."""

    def lift(self, rows: Array) -> Array:
        """Coordinates (..., size) to rows (..., D)."""


class Closer(Protocol):
    """Products G u for vectors u of a subspace, beyond it."""

    def add(self, part: LogitGradientsChunk, cotangents: Array) -> None:
        """Add J^T U of a part's examples, U (n, C, k)."""

    def images(self, within: Array, num_examples: int) -> Array:
        """Means over examples, all in all, (D, k), with what they are `within` the subspace, (size, k)."""

    def noise(self) -> tuple[Array, Array]:
        """Of the noise E in `images`, from the examples sampled: E^T E, and a draw of images^T E, (k, k)."""


class Reducer(Protocol):
    """Chunks of a source in a subspace of the parameters."""

    @property
    def reduction(self) -> Reduction:
        """The subspace."""

    @property
    def held(self) -> bool:
        """Whether the parts of all examples fit into memory."""

    def parts(self, chunk: LogitGradientsChunk) -> Iterator[LogitGradientsChunk]:
        """A chunk part by part in the coordinates."""

    def closer(self, vectors: Array, share: float) -> Closer:
        """For products with vectors (size, k), of which a share may be left out beyond the subspace."""

    def left_out(self, vectors: Array, closer: Any = None) -> Array:
        """About |R u|^2, (k,), for u = vectors (size, k), R u being the part of G u outside of the subspace.

        Or outside of what a `Closer`, made for vectors whose span u lies in, sees of u.
        """

    def energies(self, vectors: Array, known: Array) -> tuple[Array, Array]:
        """About v^T G v, (k,), and its standard error: v are vectors (D, k) less those known in coordinates."""


@runtime_checkable
class ReducibleSource(Protocol):
    """A source whose products are cheaper in a subspace of the parameters. An offer, not a duty."""

    def reducer(self, tolerance: float, every: int) -> Reducer | None:
        """For one pass; None where it has none. `tolerance` is the share of inputs and signals that may be lost.

        A `Closer` sees signals beyond the subspace in one example of `every`.
        """


@runtime_checkable
class ParametrisedSource(Protocol):
    """A source that knows the parameters themselves, as networks do. An offer, not a duty."""

    @property
    def parameter_vector(self) -> Array:
        """W, (D,)."""


def dense_blocks(chunk: LogitGradientsChunk) -> Iterator[LogitGradientsChunk]:
    """The chunk in pieces whose `dense()` fits into memory; the chunk itself where it offers none."""
    if isinstance(chunk, BlockedChunk):
        yield from chunk.blocks()
    else:
        yield chunk


def column_slices(chunk: LogitGradientsChunk, num_columns: int) -> Iterator[slice]:
    """Consecutive slices of the columns of a product, as many at a time as the chunk takes."""
    width = chunk.num_columns if isinstance(chunk, NarrowChunk) else num_columns
    yield from example_slices(num_columns, max(width, 1))


def targets_of(chunk: LogitGradientsChunk) -> Array:
    """What the loss takes: the chunk's targets where it has any, else its labels."""
    return chunk.targets if isinstance(chunk, TargetedChunk) else chunk.labels


@runtime_checkable
class LogitGradients(Protocol):
    """A source of logits, labels and logit gradients dz/dW, chunk by chunk.

    Every statistic is a sum over `chunks()` of something a chunk gives, passed through `reduce` once and divided by
    the global N. Chunks may differ in size and order between passes; their union is the same examples each time.
    """

    @property
    def num_examples(self) -> int:
        """Global N, over all ranks."""

    @property
    def num_classes(self) -> int:
        """C, the number of outputs."""

    @property
    def num_parameters(self) -> int:
        """D."""

    @property
    def parameter_groups(self) -> Mapping[str, slice]:
        """Name to slice of 0..D."""

    @property
    def loss(self) -> Loss:
        """How outputs become probabilities, gradient and Hessian."""

    def chunks(self) -> Iterator[LogitGradientsChunk]:
        """Yield the examples of this rank."""

    def reduce(self, x: Array) -> Array:
        """Sum over ranks; the identity in one process."""


def check_source(source: Any) -> None:
    """TypeError for what is no source."""
    if isinstance(source, type) or not callable(getattr(source, "chunks", None)) or not hasattr(source, "reduce"):
        raise TypeError(f"`source` must be a source of logit gradients; got {shown(source)}")


def told_source(source: LogitGradients) -> str:
    """What a source is, in a line."""
    sizes = f"{source.num_examples} examples, {source.num_classes} classes, {source.num_parameters} parameters"
    return f"{type(source).__name__}({sizes}, {source.loss!r})"


class SlicedChunk:
    """Some examples of a chunk that cannot be cut: it computes with all of them."""

    def __init__(self, chunk: LogitGradientsChunk, examples: slice) -> None:
        self.chunk, self.examples = chunk, examples

    @property
    def logits(self) -> Array:
        """(n, C)."""
        return self.chunk.logits[self.examples]

    @property
    def labels(self) -> Array:
        """(n,)."""
        return self.chunk.labels[self.examples]

    @property
    def targets(self) -> Array:
        """What the loss takes, (n, ...)."""
        return targets_of(self.chunk)[self.examples]

    @property
    def weights(self) -> Array | None:
        """(n,) or None."""
        weights = self.chunk.weights if isinstance(self.chunk, TargetedChunk) else None
        return None if weights is None else weights[self.examples]

    def jvp(self, tangents: Array) -> Array:
        """J V, (n, C, k)."""
        return self.chunk.jvp(tangents)[self.examples, ...]

    def vjp(self, cotangents: Array) -> Array:
        """J^T U, (D, k)."""
        whole = zeros(cotangents, (int(self.chunk.labels.shape[0]), *cotangents.shape[1:]))
        whole[self.examples, ...] = cotangents
        return self.chunk.vjp(whole)

    def dense(self, parameters: slice = slice(None)) -> Array:
        """J, (n, C, d)."""
        return self.chunk.dense(parameters)[self.examples, ...]


def example_slices(num_examples: int, chunk_size: int) -> Iterator[slice]:
    """Consecutive slices of at most `chunk_size` examples."""
    for start in range(0, num_examples, chunk_size):
        yield slice(start, min(start + chunk_size, num_examples))


def default_chunk_size(num_examples: int, bytes_per_example: int) -> int:
    """Examples whose dense logit gradients fill about `CHUNK_BYTES`, at least one."""
    return max(1, min(num_examples, CHUNK_BYTES // max(bytes_per_example, 1)))


def rounding(source: LogitGradients) -> float:
    """Spacing at 1 of the numbers that the source computes in where coarser than its products' dtype, else 0."""
    return float(getattr(source, "rounding", 0.0))
