"""Linear maps read off recorded computations: one backward pass a row, side by side where that pays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

CACHE_BYTES = 2**23
"""Side by side on a CPU only while intermediate results of all rows stay about this small: larger ones are read from
memory again and again, and one row after another is faster."""
DEVICE_BYTES = 2**28
"""The same for devices with launch latencies to hide."""


class Backward:
    """The map of cotangents of `values` to cotangents of `points`, through the stored graph of `values`.

    Reverse mode throughout: a graph recorded once serves every later product, each about the price of one backward
    pass, and second derivatives in reverse mode are what every torch operation supports best. (Forward mode and
    `torch.func.linearize` are no faster on a CPU, and gave wrong products or none for recurrent cells and group
    normalisation.)

    Parameters
    ----------
    values, points : sequence of Tensor
        Values that do not depend on the points are left out: they add nothing.
    bytes_per_row : int
        Intermediate results of one row.
    """

    def __init__(self, values: Sequence[Tensor], points: Sequence[Tensor], bytes_per_row: int) -> None:
        self.points = tuple(points)
        self._varying = [i for i, value in enumerate(values) if value.requires_grad]
        # Edges of the graph in place of the values: a slope in D parameters is not kept for each graph.
        self._values = [_edge(values[i]) for i in self._varying]
        limit = CACHE_BYTES if self.points[0].device.type == "cpu" else DEVICE_BYTES
        self._width = max(1, limit // max(bytes_per_row, 1))

    def __call__(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Rows (k, *value.shape) of each value to (k, *point.shape) of each point."""
        count = rows[0].shape[0]
        totals = [point.new_zeros((count, *point.shape)) for point in self.points]
        self.add_to(totals, rows)
        return totals

    def add_to(self, totals: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
        """The same added to `totals`, (k, *point.shape) for each point."""
        count = rows[0].shape[0]
        if not self._values:  # constant in the points: a linear network's slopes, for one
            return
        cotangents = [rows[i] for i in self._varying]
        start = 0
        while start < count:
            width = min(self._width, count - start)
            several = self._side_by_side([c[start : start + width] for c in cotangents]) if width > 1 else None
            if several is None:
                width = 1
                several = tuple(r[None] for r in self._pass([c[start] for c in cotangents], batched=False))
            for total, result in zip(totals, several, strict=True):
                total[start : start + width] += result
            start += width

    def _pass(self, cotangents: list[Tensor], *, batched: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            self._values, self.points, cotangents, retain_graph=True, materialize_grads=True, is_grads_batched=batched
        )

    def _side_by_side(self, cotangents: list[Tensor]) -> tuple[Tensor, ...] | None:
        """All rows in one pass; None where an operation cannot, which is remembered."""
        try:
            with quiet_fallbacks():
                return self._pass(cotangents, batched=True)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError):
            self._width = 1  # an operation without a batching rule, a fused recurrent cell for one
            return None


def _edge(value: Tensor) -> Any:
    return value if value.is_leaf else get_gradient_edge(value)


class quiet_fallbacks(warnings.catch_warnings):
    """Without torch's notes that an operation has no batching rule: slower, not wrong, and not the user's doing."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")
