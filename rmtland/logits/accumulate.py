"""Sums over a source's chunks: the one loop behind every statistic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, all_finite, double, to_numpy, widest, zeros
from rmtland.logits.gradients import (
    LogitGradients,
    LogitGradientsChunk,
    PrototypedSource,
    TargetedChunk,
    dense_blocks,
    targets_of,
)
from rmtland.logits.losses import LossAt

NO_CHUNK = "`source` must yield at least one chunk; got none"


def first_chunk(source: LogitGradients) -> LogitGradientsChunk:
    """One chunk, to learn library, dtype and device from; RuntimeError where there is none."""
    for chunk in source.chunks():
        return chunk
    raise RuntimeError(NO_CHUNK)


def require_finite(*sums: Array) -> None:
    """ValueError where NaN or infinite logit gradients have entered a sum."""
    if not all(all_finite(total) for total in sums):
        raise ValueError("the logit gradients of `source` must be finite; got NaN or infinite entries")


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
    count = zeros(last, (1,), widest(last)) + seen
    total = int(to_numpy(source.reduce(count))[0])
    if total != source.num_examples:
        raise RuntimeError(f"`source` has num_examples = {source.num_examples} but its chunks hold {total}")


def checked_blocks(source: LogitGradients) -> Iterator[LogitGradientsChunk]:
    """The examples of one pass in pieces whose `dense()` fits into memory, checked like `checked_chunks`."""
    for chunk in checked_chunks(source):
        yield from dense_blocks(chunk)


def loss_at(source: LogitGradients, chunk: LogitGradientsChunk, *, in_double: bool = True) -> LossAt:
    """The source's loss at a chunk's examples: their logits, targets and weights put in.

    Every statistic that needs dl/dz or A_mu takes it from here, so that example weights and soft targets enter each.
    """
    outputs = double(chunk.logits) if in_double else chunk.logits
    weights = chunk.weights if isinstance(chunk, TargetedChunk) else None
    return LossAt(source.loss, outputs, targets_of(chunk), weights)


def prototype(source: LogitGradients) -> Array:
    """An empty array of the library, dtype and device that the source's products are computed in."""
    if isinstance(source, PrototypedSource):
        return source.prototype[:0]
    return first_chunk(source).dense(slice(0, 1))[:0, ...]


def sum_over_chunks(
    source: LogitGradients, terms: Callable[[LogitGradientsChunk], tuple[Array, ...]], *, dense: bool = False
) -> tuple[Array, ...]:
    """Each of the arrays that `terms` returns for a chunk, summed over all examples of all ranks.

    Parameters
    ----------
    source : LogitGradients
        The examples.
    terms : callable
        Takes a chunk of any size, returns a tuple of arrays whose shapes do not depend on that size.
    dense : bool
        Whether `terms` calls `dense()`: chunks then come in pieces that hold it.

    Returns
    -------
    tuple of array
        In the dtypes that `terms` returns; each reduced over ranks once.
    """
    totals: tuple[Array, ...] | None = None
    for chunk in checked_blocks(source) if dense else checked_chunks(source):
        parts = terms(chunk)
        totals = parts if totals is None else tuple(t + p for t, p in zip(totals, parts, strict=True))
    assert totals is not None
    return tuple(source.reduce(total) for total in totals)


def gather_logits(source: LogitGradients) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """All logits (N, C) and labels (N,) of this process, as NumPy arrays in the order of one pass."""
    pairs = [(to_numpy(chunk.logits), to_numpy(chunk.labels)) for chunk in checked_chunks(source)]
    return np.concatenate([p[0] for p in pairs]).astype(np.float64), np.concatenate([p[1] for p in pairs])
