"""A source as seen from some of its logits: what a few words of a large vocabulary tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from rmtland._arguments import integer, several
from rmtland._arrays import Array, namespace, zeros
from rmtland.logits.accumulate import SharedChunk, checked_chunks, parts_of
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.rows import Rows


class _Unchecked:
    """In place of a loss, which knows all logits only: the source has checked the examples against its own."""

    def check(self, outputs: Array, labels: Array) -> None:
        """Nothing is left to check."""


class ClassesChunk(SharedChunk):
    """A chunk of which only some logits are looked at; labels are their places among these, -1 for other classes."""

    def __init__(self, whole: SharedChunk, source: ClassesSource) -> None:
        super().__init__(whole, source)
        self.whole, self.classes = whole, source.classes

    @cached_property
    def logits(self) -> Array:
        """(n, J)."""
        return self.whole.logits[:, list(self.classes)]

    @cached_property
    def labels(self) -> Array:
        """(n,)."""
        xp, labels = namespace(self.whole.labels), self.whole.labels
        places = xp.astype(labels, xp.int64) * 0 - 1
        for place, k in enumerate(self.classes):
            places = xp.where(labels == k, xp.full_like(places, place), places)
        return places

    def dense(self, parameters: slice = slice(None)) -> Array:
        """J, (n, J, d)."""
        return self.whole.dense(parameters)[:, list(self.classes), :]

    def rows(self, cotangents: Array) -> Rows:
        """J_mu^T u_mu for cotangents (n, J)."""
        every = zeros(cotangents, tuple(self.whole.logits.shape))
        every[:, list(self.classes)] = cotangents
        return self.whole.rows(every)

    def logit_rows(self, k: int) -> Rows:
        """The gradients of the k-th of the chosen logits."""
        return self.whole.logit_rows(self.classes[k])

    def parts(self) -> Iterator[ClassesChunk]:
        """Smaller chunks."""
        for part in parts_of(self.whole.chunk):
            yield ClassesChunk(SharedChunk(part, self.whole.source), self.source)  # type: ignore[arg-type]


class ClassesSource:
    """A source of some logits of another: for statistics of logit gradients, not for those of the loss."""

    def __init__(self, source: LogitGradients, classes: tuple[int, ...]) -> None:
        self.source, self.classes = source, classes
        self.num_examples, self.num_parameters = source.num_examples, source.num_parameters
        self.num_classes = len(classes)
        self.parameter_groups: Mapping[str, slice] = source.parameter_groups
        self.loss: Any = _Unchecked()

    def chunks(self) -> Iterator[ClassesChunk]:
        """The source's chunks, seen from these logits."""
        for chunk in checked_chunks(self.source):
            yield ClassesChunk(SharedChunk(chunk, self.source), self)

    def reduce(self, x: Array) -> Array:
        """Sum over ranks."""
        return self.source.reduce(x)


def of_classes(source: LogitGradients, classes: Sequence[int] | None) -> Any:
    """The source itself, or its logits of some classes; ValueError for classes that it does not have, or twice."""
    if classes is None:
        return source
    chosen = tuple(
        integer("classes", k, at_least=0, at_most=source.num_classes - 1) for k in several("classes", classes)
    )
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"`classes` must be different classes, at least one; got {list(chosen)}")
    return ClassesSource(source, chosen)
