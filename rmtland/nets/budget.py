"""The bytes that a source may take: what it keeps between products, and how large its batches are."""

from __future__ import annotations

import threading
from dataclasses import dataclass

MEMORY_BUDGET = 2**30
"""Default of what a source takes: its copy of the parameters, a loader's examples, logits, recorded graphs."""
BATCH_SHARE = 4
"""One batch's largest graph, and one dense block, take at most this part of the budget."""


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

    def __getstate__(self) -> dict[str, int]:
        return {"limit": self.limit, "taken": self.taken - self._graphs}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]
        self.taken = state["taken"]


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
        return int(constant + num_inputs * each)

    def batch(self, limit: int) -> int:
        """Inputs whose largest graph, with as much again for the pass through it, fits into `limit` bytes; >= 1."""
        constant = self.forward[0] + max(self.jvp[0], self.second[0])
        each = self.forward[1] + max(self.jvp[1], self.second[1])
        return max(1, (limit // 2 - constant) // max(each, 1))
