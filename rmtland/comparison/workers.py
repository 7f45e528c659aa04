"""Tasks of a comparison shared among processes of this machine, with word of how far each is."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rmtland.sweeps.engines import interrupts_held
from rmtland.sweeps.work import THREAD_VARIABLES, start_worker

HEARD_SECONDS = 0.2
"""How often the processes' words are read."""

Told = Callable[..., None]
"""Hears of a step, in picklable words."""


def shared(run: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], workers: int, told: Told) -> list[Any]:
    """Results of run(*task, told=...) for all tasks, in their order.

    Parameters
    ----------
    run : callable
        A function of a module.
    tasks : sequence of tuple
        What can be pickled; TypeError for what cannot.
    workers : int
        Processes, each with one thread.
    told : callable
        Hears in this process what the tasks tell, in the order of each.
    """
    from concurrent.futures import FIRST_EXCEPTION, wait

    import cloudpickle
    from joblib.externals.loky import ProcessPoolExecutor

    try:
        payloads = [cloudpickle.dumps(task) for task in tasks]
    except Exception as error:
        raise TypeError(f"`source_or_module` must be picklable to be shared among `workers`; got {error}") from error
    # Draws, too, are to keep to one thread there: see `joblib.cpu_count`.
    environment = dict.fromkeys((*THREAD_VARIABLES, "LOKY_MAX_CPU_COUNT"), "1")
    with interrupts_held():
        pool = ProcessPoolExecutor(
            max_workers=min(workers, len(tasks)), env=environment, initializer=start_worker, initargs=(os.getpid(),)
        )
    with tempfile.TemporaryDirectory(prefix="rmtland-") as folder:
        words = [Words(Path(folder) / str(i)) for i in range(len(tasks))]
        try:
            with interrupts_held():
                futures = [pool.submit(_run, run, payload, w.path) for payload, w in zip(payloads, words, strict=True)]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, HEARD_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                for some in words:
                    for word in some.new():
                        told(*word)
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, kill_workers=True)


class Words:
    """A file of pickled words that one process adds to and another reads."""

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0

    def add(self, *word: Any) -> None:
        """A word more."""
        with self.path.open("ab") as file:
            file.write(pickle.dumps(word))

    def new(self) -> Iterator[tuple[Any, ...]]:
        """The words since the last call; one that is only half written comes next time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._read)
            while True:
                try:
                    word = pickle.load(file)
                except (EOFError, pickle.UnpicklingError):
                    return
                self._read = file.tell()
                yield word


def _run(run: Callable[..., Any], payload: bytes, path: Path) -> Any:
    return run(*pickle.loads(payload), told=Words(path).add)
