"""Where batches run: in this process, in processes of this machine, on a dask cluster."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import queue
import time
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rmtland._arguments import require_memory, shown
from rmtland.sweeps.interrupts import end_undisturbed, interrupts_held, undisturbed
from rmtland.sweeps.work import (
    THREAD_VARIABLES,
    Batch,
    Schema,
    Task,
    pickle_task,
    run_batch,
    run_cells,
    start_worker,
    told,
)  # fmt: skip

CONNECT_SECONDS = 10.0
WORKER_BYTES = 1e8
"""What a worker takes before it does anything."""
ATTEMPTS = 3
"""How often a batch is tried whose worker dies."""


_Work = tuple[Schema | None, npt.NDArray[np.int64], int]
"""A batch and the number of its attempt."""


class Engine(Protocol):
    """Runs batches of cells, in any order."""

    def capacity(self) -> int:
        """How many cells can run at once, now."""

    def submit(self, schema: Schema | None, cells: npt.NDArray[np.int64]) -> None:
        """Have a batch run."""

    def result(self, timeout: float | None = None) -> Batch | None:
        """The next finished batch, waiting for it; None where none is finished in time."""


class SerialEngine:
    """Everything in this process, one cell after the other; for debugging and for cells of microseconds."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.waiting: list[tuple[Schema | None, npt.NDArray[np.int64]]] = []

    def capacity(self) -> int:
        """1."""
        return 1

    def submit(self, schema: Schema | None, cells: npt.NDArray[np.int64]) -> None:
        """Keep a batch for `result`."""
        self.waiting.append((schema, cells))

    def result(self, timeout: float | None = None) -> Batch | None:
        """Run the oldest batch."""
        return run_cells(self.task, *self.waiting.pop(0))


class LocalEngine:
    """Processes of this machine, by joblib's loky."""

    def __init__(self, task: Task, workers: int) -> None:
        from joblib.externals.loky import get_reusable_executor

        self.payload = pickle_task(task)
        self.workers = workers
        pool: Any = get_reusable_executor  # no annotations there
        self.pool: Any = lambda: pool(
            max_workers=workers,
            timeout=300,  # idle workers stay warm for the next sweep: a fresh one takes seconds to import
            env=dict.fromkeys(THREAD_VARIABLES, "1"),
            initializer=start_worker,
            initargs=(os.getpid(),),
        )
        # loky replaces workers that were idle for long or have grown; no batch is lost, so nobody need be told.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
        self.executor = self._make()
        self.waiting: deque[_Work] = deque()
        self.running: dict[Any, _Work] = {}

    def _make(self) -> Any:
        with interrupts_held():
            return self.pool()

    def capacity(self) -> int:
        """The number of workers."""
        return self.workers

    def submit(self, schema: Schema | None, cells: npt.NDArray[np.int64]) -> None:
        """Send a batch to the processes."""
        self.waiting.append((schema, cells, 1))
        self._send()
        end_undisturbed()

    def _send(self) -> None:
        """What waits goes to the processes; a batch in its last attempt goes alone, so that it is known who kills."""
        from concurrent.futures.process import BrokenProcessPool

        restarts = 0
        while self.waiting:
            alone = any(attempt == ATTEMPTS for _, _, attempt in (self.waiting[0], *self.running.values()))
            if alone and self.running:
                return
            schema, cells, _ = self.waiting[0]
            try:
                with interrupts_held():
                    future = self.executor.submit(run_batch, self.payload, schema, cells)
            except BrokenProcessPool:
                # A process died since. Batches that were with it fail in `result`, which restarts the pool.
                if self.running or restarts == ATTEMPTS:
                    return
                restarts += 1
                self.executor = self._make()
                continue
            self.running[future] = self.waiting.popleft()

    def result(self, timeout: float | None = None) -> Batch | None:
        """The next batch; where a process died, all its pool's batches go to a fresh pool."""
        from concurrent.futures import FIRST_COMPLETED, wait
        from concurrent.futures.process import BrokenProcessPool

        while True:
            if not self.running:
                self._send()
                if not self.running:
                    raise RuntimeError("workers cannot be started; all that was stored is safe")
            done = wait(self.running, timeout, FIRST_COMPLETED).done
            if not done:
                return None
            future = next(iter(done))
            try:
                batch: Batch = future.result()
            except BrokenProcessPool:
                self._restart()
                continue
            del self.running[future]
            self._send()
            return batch

    def _restart(self) -> None:
        self.executor = self._make()  # waits for the end of the broken pool: all its futures are settled then
        lost, self.running = self.running, {}
        again: list[_Work] = []
        for future, (schema, cells, attempt) in lost.items():
            if future.exception() is None:
                self.running[future] = (schema, cells, attempt)
            elif attempt == ATTEMPTS:
                raise RuntimeError(
                    f"a worker died {ATTEMPTS} times while it ran cells {cells[0]} to {cells[-1]} (out of memory?); "
                    "all that was stored is safe"
                )
            else:
                again.append((schema, cells, attempt + 1))
        self.waiting.extendleft(reversed(again))
        self._send()

    def close(self, broken: bool) -> None:
        """Leave the processes warm for the next sweep, or end them at once."""
        if broken:
            with undisturbed():
                self.executor.shutdown(wait=True, kill_workers=True)


class DaskEngine:
    """Workers of a dask.distributed scheduler, however many there are at any time."""

    def __init__(self, task: Task, address: str) -> None:
        try:
            import distributed
        except ImportError:
            raise ImportError("`scheduler` needs dask.distributed: pip install 'rmtland[cluster]'") from None
        check_address(address)
        self.payload = pickle_task(task)
        self.address = address
        try:
            ask_scheduler(address)
            connect: Any = distributed.Client
            self.client = connect(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConnectionError(f"`scheduler` {address} cannot be reached: {error}") from None
        self.finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.running: dict[Any, npt.NDArray[np.int64]] = {}
        self.threads, self.asked = 0, -math.inf
        try:
            self._check_workers()
        except BaseException:
            self.client.close()
            raise

    def _check_workers(self) -> None:
        """RuntimeError naming the workers that cannot import this package."""
        # By name, so that one without this package can answer.
        answers = self.client.run(importlib.import_module, "rmtland.sweeps.work", on_error="return")
        lacking = {worker: answer for worker, answer in answers.items() if isinstance(answer, BaseException)}
        if lacking:
            worker, answer = next(iter(lacking.items()))
            raise RuntimeError(
                f"{len(lacking)} of {len(answers)} workers cannot import rmtland, {worker} for one ({told(answer)}); "
                "install it there in the same version"
            )

    def capacity(self) -> int:
        """Threads of all workers that are there; 1 where there are none yet, so that an adaptive cluster gets going."""
        if time.monotonic() > self.asked + 1.0:
            with self._connected():
                self.threads = int(sum(self.client.nthreads().values()))
            self.asked = time.monotonic()
        return max(self.threads, 1)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        from distributed import CancelledError

        try:
            yield
        except (OSError, CancelledError) as error:
            raise ConnectionError(
                f"the connection was lost to the scheduler at {self.address}; all that was stored is safe"
            ) from error

    def submit(self, schema: Schema | None, cells: npt.NDArray[np.int64]) -> None:
        """Send a batch to the scheduler."""
        with self._connected():
            future = self.client.submit(run_batch, self.payload, schema, cells, pure=False)
        self.running[future] = cells
        future.add_done_callback(self.finished.put)

    def result(self, timeout: float | None = None) -> Batch | None:
        """The next batch; the scheduler itself gives those of a lost worker to others."""
        while True:
            try:
                future = self.finished.get(timeout=1.0 if timeout is None else min(timeout, 1.0))
            except queue.Empty:
                if timeout is None:
                    continue
                return None
            cells = self.running.pop(future)
            try:
                with self._connected():
                    batch: Batch = future.result()
            except ConnectionError:
                raise
            except Exception as error:
                raise RuntimeError(
                    f"workers could not run cells {cells[0]} to {cells[-1]}: {type(error).__name__}: {error}; "
                    "all that was stored is safe"
                ) from error
            return batch

    def close(self, broken: bool) -> None:
        """Leave the scheduler; what runs there for us is cancelled."""
        with undisturbed():
            if broken:
                with contextlib.suppress(Exception):
                    self.client.cancel(list(self.running), force=True)
            self.client.close()


def check_address(address: str) -> None:
    """ValueError for what is no address: a client that was made for it would take half a minute to give up."""
    from distributed.comm.addressing import parse_host_port
    from distributed.comm.registry import get_backend

    try:
        if not isinstance(address, str):
            raise ValueError
        scheme, separator, where = address.partition("://")
        get_backend(scheme)
        known = bool(separator and where) and (scheme not in ("tcp", "tls") or parse_host_port(where)[1] is not None)
    except (AttributeError, ValueError):
        known = False
    if not known:
        raise ValueError(f"`scheduler` must be an address like tcp://host:8786; got {shown(address)}")


def ask_scheduler(address: str) -> None:
    """OSError where no scheduler answers in time: a client would wait for ever for one that accepts and is silent."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from distributed.comm.core import connect

    async def identity() -> Any:
        connecting: Any = connect  # no annotations there
        comm = await connecting(address, timeout=CONNECT_SECONDS)
        try:
            await comm.write({"op": "identity", "reply": True})
            return await comm.read()
        finally:
            comm.abort()

    async def in_time() -> Any:
        return await asyncio.wait_for(identity(), CONNECT_SECONDS)

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a loop already
            answer = thread.submit(asyncio.run, in_time()).result()
    except TimeoutError:
        raise TimeoutError(f"no answer in {CONNECT_SECONDS:g} s") from None
    except OSError:
        raise
    except Exception as error:  # whatever a text of another protocol looks like in that of a scheduler
        raise OSError(f"what answers there is no scheduler ({told(error)})") from None
    if not isinstance(answer, dict) or answer.get("type") != "Scheduler":
        raise OSError("what answers there is no scheduler")


@contextlib.contextmanager
def make_engine(task: Task, workers: int | None, scheduler: str | None, missing: int) -> Iterator[Engine]:
    """The engine that was asked for, with its end taken care of."""
    if scheduler is not None:
        cluster = DaskEngine(task, scheduler)
        broken = True
        try:
            yield cluster
            broken = False
        finally:
            cluster.close(broken)
        return
    count = len(os.sched_getaffinity(0)) if workers is None and hasattr(os, "sched_getaffinity") else workers
    count = min(count or os.cpu_count() or 1, missing)
    if count == 1:
        import numba
        from threadpoolctl import threadpool_limits

        # As in a worker: one thread, or matrix products would differ in their last bits.
        threads = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            with threadpool_limits(1):
                yield SerialEngine(task)
        finally:
            numba.set_num_threads(threads)
        return
    require_memory(f"starting {count} processes", WORKER_BYTES * count, "ask for fewer `workers`")
    pool = LocalEngine(task, count)
    broken = True
    try:
        yield pool
        broken = False
    finally:
        pool.close(broken)
