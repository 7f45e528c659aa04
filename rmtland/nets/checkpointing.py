"""Gradient checkpointing of the reentrant kind, which gives no gradients but those of .backward()."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.utils.checkpoint

_torch: Any = torch.utils.checkpoint
_REENTRANT = _torch.CheckpointFunction
_lock = threading.Lock()
_inside = 0


class _Other:
    """In the place of `torch.utils.checkpoint.CheckpointFunction`: the same segment, of the kind that knows all."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return _torch.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state)


@contextlib.contextmanager
def without_reentrant() -> Iterator[None]:
    """Segments checkpointed with `use_reentrant=True`, torch's default, are checkpointed with False meanwhile.

    Reentrant ones raise in `torch.autograd.grad`, and their parameters have no gradient at all, with a warning, where
    none of a segment's inputs has one. Both kinds compute the same numbers; other threads may meet this one.
    """
    global _inside
    with _lock:
        _inside += 1
        _torch.CheckpointFunction = _Other
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _torch.CheckpointFunction = _REENTRANT
