"""Tasks of a comparison shared among processes of this machine, with word of how far each is."""

from __future__ import annotations

import importlib
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rmtland.sweeps.interrupts import interrupts_held
from rmtland.sweeps.work import THREAD_VARIABLES, start_worker

HEARD_SECONDS = 0.2
"""How often the processes' words are read."""


class Workers:
    """Processes of one thread each, which end with the block that they are opened for.

    Parameters
    ----------
    count : int
    modules : sequence of str
        What they import at once, in seconds of theirs, while this process does something else.
    """

    def __init__(self, count: int, modules: Sequence[str] = ()) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.count = count
        # Draws, too, are to keep to one thread there: see `joblib.cpu_count`.
        environment = dict.fromkeys((*THREAD_VARIABLES, "LOKY_MAX_CPU_COUNT"), "1")
        with interrupts_held():
            self._pool = ProcessPoolExecutor(
                max_workers=count, env=environment, initializer=_start, initargs=(os.getpid(), tuple(modules))
            )
            if modules:
                self._pool.submit(int)  # the first task starts them all

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)

    def run(
        self, function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], told: Callable[..., None]
    ) -> list[Any]:
        """Results of function(*task, told=...) for all tasks, in their order.

        Parameters
        ----------
        function : callable
            Of a module.
        tasks : sequence of tuple
            What can be pickled; TypeError for what cannot.
        told : callable
            Hears in this process what the tasks tell in picklable words, in the order of each.
        """
        from concurrent.futures import FIRST_EXCEPTION, wait

        import cloudpickle

        try:
            payloads = [cloudpickle.dumps(task) for task in tasks]
        except Exception as error:
            message = f"`source_or_module` must be picklable to be shared among `workers`; got {error}"
            raise TypeError(message) from error
        with tempfile.TemporaryDirectory(prefix="rmtland-") as folder:
            words = [Words(Path(folder) / str(i)) for i in range(len(tasks))]
            with interrupts_held():
                futures = [
                    self._pool.submit(_run, function, payload, word.path)
                    for payload, word in zip(payloads, words, strict=True)
                ]
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, HEARD_SECONDS, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                for some in words:
                    for word in some.new():
                        told(*word)
            return [future.result() for future in futures]


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


def _start(parent: int, modules: tuple[str, ...]) -> None:
    start_worker(parent)
    for module in modules:
        importlib.import_module(module)


def _run(function: Callable[..., Any], payload: bytes, path: Path) -> Any:
    return function(*pickle.loads(payload), told=Words(path).add)
