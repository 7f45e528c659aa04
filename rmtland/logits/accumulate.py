"""Sums over a source's chunks: the one loop behind every statistic."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rmtland._arrays import Array, namespace, to_numpy, zeros
from rmtland.logits.gradients import LogitGradients, LogitGradientsChunk


def checked_chunks(source: LogitGradients) -> Iterator[LogitGradientsChunk]:
    """The chunks of one pass; RuntimeError at the end where they do not hold `num_examples` examples over all ranks.

    A loader that drops or repeats examples would otherwise be divided by the wrong N in silence.
    """
    seen, last = 0, None
    for chunk in source.chunks():
        seen += int(chunk.logits.shape[0])
        last = chunk.logits
        yield chunk
    if last is None:
        raise RuntimeError("`source` yielded no chunk")
    count = zeros(last, (1,), namespace(last).float64) + seen
    total = int(to_numpy(source.reduce(count))[0])
    if total != source.num_examples:
        raise RuntimeError(f"`source` has num_examples = {source.num_examples} but its chunks hold {total}")


def sum_over_chunks(
    source: LogitGradients, terms: Callable[[LogitGradientsChunk], tuple[Array, ...]]
) -> tuple[Array, ...]:
    """Each of the arrays that `terms` returns for a chunk, summed over all examples of all ranks."""
    totals: tuple[Array, ...] | None = None
    for chunk in checked_chunks(source):
        parts = terms(chunk)
        totals = parts if totals is None else tuple(t + p for t, p in zip(totals, parts, strict=True))
    assert totals is not None
    return tuple(source.reduce(total) for total in totals)


def gather_logits(source: LogitGradients) -> tuple[Array, Array]:
    """All logits (N, C) and labels (N,) of this process, as NumPy arrays in the order of one pass."""
    import numpy as np

    pairs = [(to_numpy(chunk.logits), to_numpy(chunk.labels)) for chunk in checked_chunks(source)]
    return np.concatenate([p[0] for p in pairs]).astype(np.float64), np.concatenate([p[1] for p in pairs])
