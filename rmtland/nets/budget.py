"""The bytes that a source may take: what it keeps between products, and how large its batches are."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

MEMORY_BUDGET = 2**30
"""Default of what a source takes: its copy of the parameters, a loader's examples, logits, recorded graphs."""
BATCH_SHARE = 4
"""One batch's largest graph, and one dense block, take at most this part of the budget."""
SMALLEST_BATCH = 2**24
"""Bytes that one batch may take however small the budget: one example at a time would take forever."""
PASS = 6
"""What a batch holds while a backward pass runs through its graph, in bytes of the graph."""
ALLOCATOR = 1.5
"""Resident bytes for each byte that a graph holds: what the allocator loses between tensors of different lives."""


class Budget:
    """Bytes that may be kept; taken once, never exceeded."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._graphs = 0
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """Bytes that are still free."""
        return max(self.limit - self.taken, 0)

    def take(self, num_bytes: int, *, graph: bool = False) -> bool:
        """Whether `num_bytes` are left, and if so take them; `graph` marks what a pickled source leaves behind."""
        with self._lock:
            if num_bytes > self.left:
                return False
            self.taken += num_bytes
            self._graphs += num_bytes if graph else 0
            return True

    def return_graphs(self) -> None:
        """What was taken for graphs is left again: they are forgotten."""
        with self._lock:
            self.taken, self._graphs = self.taken - self._graphs, 0

    def __getstate__(self) -> dict[str, int]:
        return {"limit": self.limit, "taken": self.taken - self._graphs}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]
        self.taken = state["taken"]


ENOUGH = 2**22
"""Freed bytes for which the heap is walked through."""
_freed = 0


def give_back_freed_pages(num_bytes: int = ENOUGH) -> None:
    """Return what has been freed to the system, where the C library can, once the `num_bytes` of calls are enough.

    glibc keeps freed pages that lie between tensors still in use: graphs kept in between the temporaries of their
    recording were measured to hold four times their own size resident. Walking through the heap of a process that holds
    much else takes a hundredth of a second and more, ten times as long as small graphs take to record.
    """
    global _freed
    _freed += num_bytes
    if _trim is not None and _freed >= ENOUGH:
        _freed = 0
        _trim(0)


def _find_trim() -> Callable[[int], int] | None:
    try:
        return cast("Callable[[int], int]", ctypes.CDLL(None).malloc_trim)
    except (AttributeError, OSError, TypeError):  # another C library
        return None


_trim = _find_trim()


@dataclass(frozen=True)
class GraphBytes:
    """What the recorded computation of n examples holds, constant + n per_example bytes, for each kind of product."""

    forward: tuple[int, int] = (0, 0)
    jvp: tuple[int, int] = (0, 0)
    """On top of the forward pass."""
    second: tuple[int, int] = (0, 0)
    """Of a second derivative of the loss, on top of the forward pass."""

    def of(self, kind: str, num_inputs: int) -> int:
        """Bytes of the graph called `kind`."""
        constant, each = getattr(self, kind)
        return int(ALLOCATOR * (constant + num_inputs * each))

    def batch(self, limit: int) -> int:
        """Inputs whose largest graph, with the pass through it, fits into `limit` bytes; >= 1."""
        constant = self.forward[0] + max(self.jvp[0], self.second[0])
        each = self.forward[1] + max(self.jvp[1], self.second[1])
        return max(1, (limit // PASS - constant) // max(each, 1))
