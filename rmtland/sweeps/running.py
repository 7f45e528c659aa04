"""The run of a sweep: batches of cells go out to workers, what comes back goes into the store."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.sweeps.engines import Engine, make_engine
from rmtland.sweeps.interrupts import undisturbed
from rmtland.sweeps.progress import Report, reporter
from rmtland.sweeps.store import DIRTY_BYTES, DONE, FAILED, MISSING, SweepStore
from rmtland.sweeps.work import Batch, Schema, Task, check_schema

BATCH_SECONDS = 0.5
"""What a batch is made to take: long beside the milliseconds of sending it, short beside a human's patience."""
BATCH_BYTES = 2**24


def run(
    store: SweepStore,
    task: Task,
    units: dict[str, str],
    coords: dict[str, npt.NDArray[Any]],
    workers: int | None,
    scheduler: str | None,
    progress: bool | Callable[[int, int, int], None] | None,
) -> None:
    """Run the cells that are missing, and store them as they come."""
    counts = store.counts()
    if counts[MISSING] == 0:
        return
    with (
        reporter(progress, counts[DONE], counts[FAILED], task.grid.size) as report,
        make_engine(task, workers, scheduler, counts[MISSING]) as engine,
    ):
        run = _Run(store, engine, units, coords, counts[MISSING], report)
        try:
            run.work()
        finally:
            # Ctrl-C, a lost scheduler: what has come is kept. After a failed write this fails again, and says why.
            with undisturbed():
                store.flush()


class _Run:
    """The loop that keeps workers busy and the store up to date."""

    def __init__(
        self,
        store: SweepStore,
        engine: Engine,
        units: dict[str, str],
        coords: dict[str, npt.NDArray[Any]],
        missing: int,
        report: Report,
    ) -> None:
        self.store = store
        self.engine = engine
        self.units = units
        self.coords = coords
        self.left = missing  # cells not sent yet
        self.report = report
        self.stream = _Stream(store.cells(MISSING))
        self.size = 1
        self.seconds_per_cell = math.nan
        self.sent: deque[int] = deque()  # first cells of batches that may set the schema, in order
        self.held: dict[int, Batch] = {}
        self.flushed = time.monotonic()

    def work(self) -> None:
        """Until no cell is missing."""
        running = 0
        while True:
            # Two batches per worker: the next one waits there while the last one travels back. Where the first cell,
            # which sets the schema, is slow, the others must not pile up here.
            while running < 2 * self.engine.capacity() and len(self.held) < 1024:
                cells = self.stream.take(self._batch_size())
                if cells.size == 0:
                    break
                if not self.store.schema:
                    self.sent.append(int(cells[0]))
                self.engine.submit(self.store.schema or None, cells)
                self.left -= cells.size
                running += 1
            if running == 0:
                return
            due = self.flushed + max(0.25, 100 * self.store.flush_seconds) - time.monotonic()
            waiting = self.store.dirty_bytes
            if waiting and (due <= 0 or waiting > DIRTY_BYTES):
                self.store.flush()
                self.flushed = time.monotonic()
                continue
            batch = self.engine.result(max(due, 0.01) if waiting else None)
            if batch is not None:
                running -= 1
                self._receive(batch)

    def _batch_size(self) -> int:
        if not self.store.schema or math.isnan(self.seconds_per_cell):
            return 1
        seconds = max(self.seconds_per_cell, 1e-7)
        bytes_per_cell = sum(math.prod(v.shape) * v.dtype.itemsize for v in self.store.schema.values())
        # Towards the end smaller ones, so that the workers finish together.
        share = max(self.left // (4 * self.engine.capacity()), math.ceil(0.02 / seconds))
        goal = min(BATCH_SECONDS / seconds, share, BATCH_BYTES / max(bytes_per_cell, 1), 8 * self.size)
        self.size = max(int(goal), 1)
        return self.size

    def _receive(self, batch: Batch) -> None:
        each = batch.seconds / batch.cells.size
        # A moving average: neighbouring cells cost alike, distant ones need not.
        self.seconds_per_cell = each if math.isnan(self.seconds_per_cell) else 0.5 * self.seconds_per_cell + 0.5 * each
        if self.store.schema:
            self._store(batch)
            return
        # The lowest cell that succeeds sets the schema, whatever the order of arrival.
        self.held[int(batch.cells[0])] = batch
        while self.sent and self.sent[0] in self.held:
            first = self.held.pop(self.sent.popleft())
            if first.schema and not self.store.schema:
                self.store.set_schema(first.schema, self.units, self.coords)
            self._store(first)
            if self.store.schema:
                for other in self.held.values():
                    self._store(other)
                self.held.clear()
                self.sent.clear()

    def _store(self, batch: Batch) -> None:
        batch = conform(batch, self.store.schema)
        self.store.put(batch)
        self.report(batch.cells.size - len(batch.errors), len(batch.errors))


def conform(batch: Batch, schema: Schema) -> Batch:
    """The batch itself, or failures where its cells, sent before there was a schema, turn out to differ from it."""
    if not batch.schema or batch.schema == schema:
        return batch
    try:
        check_schema(schema, batch.schema)
    except ValueError as error:
        errors = {int(cell): f"ValueError: {error}" for cell in batch.cells}
        return Batch(batch.cells, {}, {}, {**errors, **batch.errors}, batch.seconds)
    return batch


class _Stream:
    """Cell numbers from arrays of them, any number at a time."""

    def __init__(self, arrays: Iterator[npt.NDArray[np.int64]]) -> None:
        self.arrays = arrays
        self.rest = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> npt.NDArray[np.int64]:
        """The next `count`, fewer at the end of an array."""
        if self.rest.size == 0:
            self.rest = next(self.arrays, self.rest)
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken
