"""A source taken a block of parameters at a time, where all its rows would not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rmtland._arrays import to_numpy
from rmtland.logits.accumulate import checked_blocks, same_order
from rmtland.logits.gradients import LogitGradients, LogitGradientsChunk

BLOCK_BYTES = 2**28
"""Memory for one block of rows."""

T = TypeVar("T")


def parameter_blocks(
    source: LogitGradients, num_rows: int, pieces: Callable[[LogitGradientsChunk, slice], T]
) -> Iterator[list[T]]:
    """For each block of parameters, what `pieces` makes of each part of this rank's examples, always in one order.

    Blocks are as wide as `num_rows` rows of float64 in `BLOCK_BYTES` allow; one pass for each.
    """
    examples: npt.NDArray[np.float64] | None = None
    width = max(1, min(source.num_parameters, BLOCK_BYTES // (8 * num_rows)))
    for start in range(0, source.num_parameters, width):
        block = (
            slice(start, min(start + width, source.num_parameters)) if width < source.num_parameters else slice(None)
        )
        parts: list[T] = []
        passed: list[npt.NDArray[np.float64]] = []
        for chunk in checked_blocks(source):
            parts.append(pieces(chunk, block))
            passed.append(np.column_stack([to_numpy(chunk.logits), to_numpy(chunk.labels)]))
        examples = same_order(examples, np.concatenate(passed))
        yield parts
