"""What statistics ask of a source whose examples are shared out over several processes (ranks)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from rmtland._arrays import Array
from rmtland.logits.gradients import check_source


@runtime_checkable
class RankedSource(Protocol):
    """A source whose `chunks` are those of one rank among several. An offer, not a duty."""

    @property
    def rank(self) -> int:
        """Which this is."""

    @property
    def examples_per_rank(self) -> tuple[int, ...]:
        """How many examples each rank has."""

    def gather(self, x: Array) -> Array:
        """Rows (n, ...) of all ranks, in rank order."""

    def gather_objects(self, thing: Any) -> list[Any]:
        """A Python object of each rank."""

    def announce(self, operand: Array) -> None:
        """Have `operand` compared with that of the other ranks at the next sum."""

    def report(self, error: BaseException) -> None:
        """Tell the other ranks that this one gives up; does not wait for them."""


def ranked(source: Any) -> RankedSource | None:
    """The ranked source itself, or the one that a view of it looks at; None in one process."""
    while source is not None and not isinstance(source, RankedSource):
        source = getattr(source, "source", None)
    return source


def gathered(source: Any, x: Array) -> Array:
    """Rows (n, ...) of all ranks in rank order; `x` itself in one process."""
    ranks = ranked(source)
    return x if ranks is None else ranks.gather(x)


def first_example(source: Any) -> int:
    """Where in rank order this process's examples begin; 0 in one process."""
    ranks = ranked(source)
    return 0 if ranks is None else sum(ranks.examples_per_rank[: ranks.rank])


def own_examples(source: Any) -> int:
    """How many examples this process has; all of them in one process."""
    ranks = ranked(source)
    count: int = source.num_examples if ranks is None else ranks.examples_per_rank[ranks.rank]
    return count


def gathered_objects(source: Any, thing: Any) -> list[Any]:
    """A Python object of each rank, in rank order; `thing` alone in one process."""
    ranks = ranked(source)
    return [thing] if ranks is None else ranks.gather_objects(thing)


def is_mine(source: Any, task: int) -> bool:
    """Whether this rank does the `task`-th of several tasks that ranks share; in one process it does all."""
    ranks = ranked(source)
    return ranks is None or task % len(ranks.examples_per_rank) == ranks.rank


@contextmanager
def in_step(source: Any, operand: Array = None) -> Iterator[None]:
    """A pass, after which the ranks meet: an error on one of them ends it on all.

    Parameters
    ----------
    source : LogitGradients
        Any; nothing happens in one process.
    operand : array, optional
        What the pass multiplies by, which must be the same on all ranks: two ranks whose random vectors differ would
        add up products of different things.
    """
    check_source(source)
    ranks = ranked(source)
    if ranks is None:
        yield
        return
    if operand is not None:
        ranks.announce(operand)
    try:
        yield
    except BaseException as error:
        ranks.report(error)
        raise
