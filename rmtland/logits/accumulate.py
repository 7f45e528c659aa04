"""One pass over a source for any number of statistics: accumulators, and what they share of each chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, double, like, namespace, to_numpy, widest, zeros
from rmtland.logits.gradients import (
    LogitGradients,
    LogitGradientsChunk,
    PrototypedSource,
    TargetedChunk,
    dense_blocks,
    targets_of,
)
from rmtland.logits.loss_at import LossAt
from rmtland.logits.losses import one_hot
from rmtland.logits.ranks import gathered, in_step
from rmtland.logits.rows import DenseRows, Rows, RowsChunk, require_finite, rows_of

NO_CHUNK = "`source` must yield at least one chunk; got none"

Result = TypeVar("Result", covariant=True)
T = TypeVar("T")


class Accumulator(Protocol[Result]):
    """A statistic as a sum over chunks. One object holds the options, any number of states may be under way.

    `by_example` says which chunks `add` wants: False, as the source yields them; True, small ones, whose rows (one
    gradient per example and logit) may be kept side by side. Either way the result must not depend on their sizes.
    """

    by_example: ClassVar[bool]

    def start(self, source: LogitGradients) -> Any:
        """The state before the first chunk; ValueError where the source cannot be measured."""

    def add(self, state: Any, chunk: SharedChunk) -> Any:
        """The state with a chunk's examples added; the old one may be overwritten."""

    def merge(self, first: Any, second: Any) -> Any:
        """The state of the examples of both; the old ones may be overwritten."""

    def finish(self, state: Any, source: LogitGradients) -> Result:
        """The statistic: states of all ranks added up by `source.reduce`, divided by the global N."""


class SharedChunk:
    """A chunk with what several statistics want of it: each thing computed at first use, and once."""

    def __init__(self, chunk: LogitGradientsChunk, source: LogitGradients) -> None:
        self.chunk, self.source = chunk, source
        self._rows: dict[int, Rows] = {}
        self._cross_class_rows: dict[int, Rows] = {}
        self._dense: Array = None

    @property
    def labels(self) -> Array:
        """(n,)."""
        return self.chunk.labels

    @property
    def targets(self) -> Array:
        """What the loss takes, (n, ...)."""
        return targets_of(self.chunk)

    @property
    def weights(self) -> Array | None:
        """Example weights, (n,), or None."""
        return self.chunk.weights if isinstance(self.chunk, TargetedChunk) else None

    @cached_property
    def logits(self) -> Array:
        """(n, C)."""
        return self.chunk.logits

    @cached_property
    def loss(self) -> LossAt:
        """The source's loss at these examples, in float64."""
        return loss_at(self.source, self)

    def jvp(self, tangents: Array) -> Array:
        """J V, (n, C, k)."""
        return self.chunk.jvp(tangents)

    def vjp(self, cotangents: Array) -> Array:
        """J^T U, (D, k)."""
        return self.chunk.vjp(cotangents)

    def dense(self, parameters: slice = slice(None)) -> Array:
        """J, (n, C, d); all of it is kept."""
        if self._dense is not None:
            return self._dense[:, :, parameters]
        dense = self.chunk.dense(parameters)
        if parameters == slice(None):
            self._dense = dense
        return dense

    @cached_property
    def slopes(self) -> Array:
        """dl/dz / N, (n, C), float64: these cotangents give the gradient of the mean loss."""
        return self.loss.gradient() / self.source.num_examples

    @cached_property
    def own(self) -> Array:
        """Labels as rows of the identity, (n, C), float64; zeros where there is one output and no class."""
        if self.source.num_classes == 1:
            return double(namespace(self.logits).zeros_like(self.logits))
        return one_hot(self.labels, self.source.num_classes, widest(self.logits))

    def rows(self, cotangents: Array) -> Rows:
        """J_mu^T u_mu for cotangents (n, C)."""
        return rows_of(self.chunk, cotangents, self.dense)

    def logit_rows(self, k: int) -> Rows:
        """The gradients of logit k, one row per example."""
        if k not in self._rows:
            if isinstance(self.chunk, SharedChunk):
                self._rows[k] = self.chunk.logit_rows(k)
            elif isinstance(self.chunk, RowsChunk):
                unit = zeros(self.logits, tuple(self.logits.shape))
                unit[:, k] = 1
                self._rows[k] = self.chunk.rows(unit)
            else:
                self._rows[k] = DenseRows(self.dense()[:, k, :])
        return self._rows[k]

    def cross_class_rows(self, step: int, *, keep: bool = False) -> Rows:
        """The rows J_mu^T A_mu e_c', c' being `step` classes on from the label (round from the last to the first)."""
        if step in self._cross_class_rows:
            return self._cross_class_rows[step]
        xp = namespace(self.own)
        tangents = xp.roll(self.own, step, axis=1)
        rows = self.rows(like(self.logits, self.loss.hessian_product(tangents[:, :, None])[:, :, 0]))
        if keep:
            self._cross_class_rows[step] = rows
        return rows

    @cached_property
    def factor_rows(self) -> list[Rows]:
        """The rows L_mu^T J_mu / sqrt(N) of G = Y^T Y, one `Rows` for each column of L_mu, A_mu = L_mu L_mu^T."""
        factor = like(self.logits, self.loss.hessian_factor() / math.sqrt(self.source.num_examples))
        return [self.rows(factor[:, :, j]) for j in range(factor.shape[2])]

    @cached_property
    def trace_terms(self) -> Array:
        """What each example adds to the trace of G = Y^T Y, (n,): the squared lengths of its rows of Y."""
        lengths = [rows.lengths() for rows in self.factor_rows]
        xp = namespace(*lengths)
        return xp.sum(xp.stack(lengths) ** 2, axis=0)

    @cached_property
    def lengths(self) -> Array:
        """Lengths of the logit gradients, (n, C), float64; ValueError where one is not finite."""
        columns = [self.logit_rows(k).lengths() for k in range(self.source.num_classes)]
        lengths = namespace(*columns).stack(columns, axis=1)
        require_finite(lengths)
        return lengths


def first_chunk(source: LogitGradients) -> LogitGradientsChunk:
    """One chunk, to learn library, dtype and device from; RuntimeError where there is none."""
    for chunk in source.chunks():
        return chunk
    raise RuntimeError(NO_CHUNK)


def checked_chunks(source: LogitGradients) -> Iterator[LogitGradientsChunk]:
    """The chunks of one pass, each held against what the source says of itself.

    Raises
    ------
    ValueError, TypeError
        For a chunk whose logits or labels do not fit the source's loss (NaN, labels out of range) or its C.
    RuntimeError
        At the end, where the chunks do not hold `num_examples` examples over all ranks. A loader that drops or repeats
        examples would otherwise be divided by the wrong N in silence.
    """
    seen, last = 0, None
    for chunk in source.chunks():
        if chunk.labels.shape[0]:  # a rank may be without examples
            source.loss.check(chunk.logits, targets_of(chunk))
        if chunk.logits.shape[1] != source.num_classes:
            raise ValueError(
                f"`source` has num_classes = {source.num_classes} but a chunk's logits have shape "
                f"{tuple(chunk.logits.shape)}"
            )
        seen += int(chunk.logits.shape[0])
        last = chunk.logits
        yield chunk
    if last is None:
        raise RuntimeError(NO_CHUNK)
    total = int(to_numpy(source.reduce(zeros(last, (1,), widest(last)) + seen)).item())
    if total != source.num_examples:
        raise RuntimeError(f"`source` has num_examples = {source.num_examples} but its chunks hold {total}")


def parts_of(chunk: Any) -> Iterator[LogitGradientsChunk]:
    """The chunk in parts whose rows may be kept side by side: its own cut where it offers one."""
    if isinstance(chunk, RowsChunk):
        yield from chunk.parts()
    else:
        yield from dense_blocks(chunk)


def checked_blocks(source: LogitGradients) -> Iterator[LogitGradientsChunk]:
    """The examples of one pass in pieces whose `dense()` fits into memory, checked like `checked_chunks`."""
    for chunk in checked_chunks(source):
        yield from dense_blocks(chunk)


def loss_at(source: LogitGradients, chunk: LogitGradientsChunk, *, in_double: bool = True) -> LossAt:
    """The source's loss at a chunk's examples: their logits, targets and weights put in.

    Every statistic that needs dl/dz or A_mu takes it from here, so that example weights and soft targets enter each.
    """
    weights = chunk.weights if isinstance(chunk, TargetedChunk) else None
    return LossAt(source.loss, chunk.logits, targets_of(chunk), weights, in_double)


def prototype(source: LogitGradients) -> Array:
    """An empty array of the library, dtype and device that the source's products are computed in."""
    if isinstance(source, PrototypedSource):
        return source.prototype[:0]
    return first_chunk(source).dense(slice(0, 1))[:0, ...]


def accumulate(source: LogitGradients, statistics: Mapping[Any, Accumulator[Any]]) -> dict[Any, Any]:
    """The results of all accumulators, by the keys they came with, from one pass over the source.

    Parameters
    ----------
    source : LogitGradients
        The examples.
    statistics : mapping
        Any key to accumulator. What two of them want of a chunk is computed once, and each result is bit for bit what
        it is alone.

    Returns
    -------
    dict
    """
    return accumulate_by(source, {None: source}, lambda chunk, _: chunk, statistics)[None]


def accumulate_by(
    source: LogitGradients,
    views: Mapping[Any, LogitGradients],
    view: Callable[[SharedChunk, Any], SharedChunk],
    statistics: Mapping[Any, Accumulator[Any]],
) -> dict[Any, dict[Any, Any]]:
    """The results for each of several views of a source, such as parts of its parameters, from one pass.

    `view(chunk, views[name])` is a chunk of the source as that view has it.
    """
    with in_step(source):
        return _accumulate_by(source, views, view, statistics)


def _accumulate_by(
    source: LogitGradients,
    views: Mapping[Any, LogitGradients],
    view: Callable[[SharedChunk, Any], SharedChunk],
    statistics: Mapping[Any, Accumulator[Any]],
) -> dict[Any, dict[Any, Any]]:
    states = {
        (name, key): statistic.start(seen) for name, seen in views.items() for key, statistic in statistics.items()
    }

    def add(chunk: SharedChunk, by_example: bool) -> None:
        for name, seen in views.items():
            part = view(chunk, seen)
            for key, statistic in statistics.items():
                if statistic.by_example == by_example:
                    states[name, key] = statistic.add(states[name, key], part)

    kinds = {statistic.by_example for statistic in statistics.values()}
    for chunk in checked_chunks(source):
        if False in kinds:
            add(SharedChunk(chunk, source), by_example=False)
        if True in kinds:
            for part in parts_of(chunk):
                add(SharedChunk(part, source), by_example=True)
    return {
        name: {key: statistic.finish(states[name, key], seen) for key, statistic in statistics.items()}
        for name, seen in views.items()
    }


def accumulate_one(source: LogitGradients, statistic: Accumulator[T]) -> T:
    """The result of a single accumulator."""
    result: T = accumulate(source, {None: statistic})[None]
    return result


class SumAccumulator(Generic[Result]):
    """An accumulator whose state is a tuple of arrays that add up: write `terms` and `conclude`."""

    by_example: ClassVar[bool] = False

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Arrays of a chunk, of shapes that do not depend on its number of examples."""
        raise NotImplementedError

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> Result:
        """The result from the sums of `terms` over all examples of all ranks."""
        raise NotImplementedError

    def start(self, source: LogitGradients) -> tuple[Array, ...] | None:
        """Nothing yet."""
        return None

    def add(self, state: tuple[Array, ...] | None, chunk: SharedChunk) -> tuple[Array, ...]:
        """Sums with a chunk's terms added."""
        terms = self.terms(chunk)
        return terms if state is None else tuple(s + t for s, t in zip(state, terms, strict=True))

    def merge(self, first: tuple[Array, ...] | None, second: tuple[Array, ...] | None) -> tuple[Array, ...] | None:
        """Sums over the examples of both."""
        if first is None or second is None:
            return second if first is None else first
        return tuple(a + b for a, b in zip(first, second, strict=True))

    def finish(self, state: tuple[Array, ...] | None, source: LogitGradients) -> Result:
        """The result; RuntimeError where no chunk came."""
        if state is None:
            raise RuntimeError(NO_CHUNK)
        return self.conclude(tuple(source.reduce(total) for total in state), source)


class _Terms(SumAccumulator[tuple[Array, ...]]):
    def __init__(self, terms: Callable[[LogitGradientsChunk], tuple[Array, ...]]) -> None:
        self._terms = terms

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        return self._terms(chunk)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> tuple[Array, ...]:
        return sums


def sum_over_chunks(
    source: LogitGradients, terms: Callable[[LogitGradientsChunk], tuple[Array, ...]]
) -> tuple[Array, ...]:
    """Each of the arrays that `terms` returns for a chunk, summed over all examples of all ranks.

    Parameters
    ----------
    source : LogitGradients
        The examples.
    terms : callable
        Takes a chunk of any size, returns a tuple of arrays whose shapes do not depend on that size.

    Returns
    -------
    tuple of array
        In the dtypes that `terms` returns; each reduced over ranks once.
    """
    return accumulate_one(source, _Terms(terms))


def mean_and_error(
    total: npt.NDArray[np.float64], squares: npt.NDArray[np.float64], count: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means and their standard errors (ddof 1; NaN below two) from sums and sums of squares over `count` examples."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        # Rounding may leave a variance of -1e-16 of the mean square.
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0) / (count - 1))


def gather_logits(source: LogitGradients) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """All logits (N, C) and labels (N,), NumPy arrays in the order of one pass; of several processes rank by rank."""
    with in_step(source):
        pairs = [(to_numpy(chunk.logits), to_numpy(chunk.labels)) for chunk in checked_chunks(source)]
        logits, labels = np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])
        return gathered(source, logits.astype(np.float64)), gathered(source, labels)


def same_order(before: npt.NDArray[np.float64] | None, now: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logits and labels of this pass; RuntimeError where another pass had other ones.

    Inner products are summed over blocks of parameters, a pass for each: in another order they would be summed over
    different pairs of examples. Networks repeat their logits only up to rounding, hence the tolerance.
    """
    if before is not None and not np.allclose(before, now, rtol=0, atol=1e-3 * float(np.abs(before).max())):
        raise RuntimeError(
            "`source` must yield its examples in the same order on every pass here (a loader without shuffling); got "
            "another order"
        )
    return now
