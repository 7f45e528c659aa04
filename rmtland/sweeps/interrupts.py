"""Ctrl-C while workers are started, results stored, the interpreter ended."""

from __future__ import annotations

import atexit
import contextlib
import functools
import signal
import threading
from collections.abc import Iterator
from typing import Any


@functools.cache
def end_undisturbed() -> None:
    """Ctrl-C is left aside once the interpreter ends, and waits for idle workers: it would print where that was."""
    # Once loky has registered its wait, with its first batch, as it is called before; `atexit` comes after that wait.
    register: Any = getattr(threading, "_register_atexit", atexit.register)
    register(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end of this block: one in the middle of a pool's start would leave it half made.

    Processes started here never see it, as they inherit that: one still at its imports would print a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[Any] = []
    try:
        # What this thread blocks another one takes, if there is any: Zarr's.
        with _answered_by(lambda *_: came.append(True)):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        if came:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A second Ctrl-C is left aside in this block, which ends soon: results are being stored, workers ended."""
    with _answered_by(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _answered_by(handler: Any) -> Iterator[None]:
    """Ctrl-C goes to a handler in this block, where one can be set and put back."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
