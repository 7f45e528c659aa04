"""Overhead of the sweep engine, its scaling, and memory over many cells."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rmtland as rl
from benchmarks.timing import criterion, peak_memory
from rmtland.landscape.sweeps import landscape_cell
from rmtland.sweeps import store as store_module
from rmtland.sweeps.work import cell_generator


def spin(a: float, milliseconds: float = 1.0, *, rng: np.random.Generator) -> dict[str, float]:
    """A cell that holds its core for a given processor time."""
    end = time.thread_time() + milliseconds / 1e3
    while time.thread_time() < end:
        pass
    return {"x": a + float(rng.standard_normal())}


def quick(a: float, *, rng: np.random.Generator) -> dict[str, float]:
    return {"x": a + float(rng.standard_normal()), "y": a}


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, processor seconds of this process, result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - processor, result


def stream(small: bool) -> None:
    """Cells of a microsecond: all that is timed and held is the engine's."""
    with tempfile.TemporaryDirectory() as folder:
        rl.sweep(quick, {"a": np.arange(200.0 if small else 100_000.0)}, store=Path(folder) / "s", workers=1)


def one_cell_workers() -> None:
    """Start the processes and have them import what they need, which is not what is timed."""
    rl.sweep(spin, {"a": [1.0, 2.0]}, 4, workers=2)


def overhead() -> bool:
    """Two workers at 1 ms a cell: share of their time that is not spent in cells."""
    one_cell_workers()
    cells, best = 6000, np.inf
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            spent: list[float] = []
            inner = store_module.SweepStore.put

            def put(self: Any, batch: Any, inner: Any = inner, spent: list[float] = spent) -> None:
                spent.append(batch.seconds)
                inner(self, batch)

            store_module.SweepStore.put = put  # type: ignore[method-assign]
            wall, own, result = timed(
                lambda folder=folder: rl.sweep(
                    spin, {"a": np.arange(float(cells // 10))}, 10, 0, Path(folder) / "s", workers=2
                )
            )
            store_module.SweepStore.put = inner  # type: ignore[method-assign]
            assert float(result.x[3, 4]) == 3.0 + cell_generator(0, 3, 4).standard_normal()
            assert bool((result.status == 1).all())
            share = 1 - sum(spent) / (2 * wall)
            print(f"  wall {wall:.2f} s, in cells {sum(spent):.2f} s of two workers, this process {own:.2f} s")
            best = min(best, share)
    return criterion("share of two workers' time not in cells of 1 ms", best, at_most=0.05)


def storing() -> bool:
    """Processor time of planning, checking and storing 10^5 cells that cost nothing, and memory."""
    stream(True)
    wall, own, _ = timed(lambda: stream(False))
    _, bare, _ = timed(lambda: [quick(float(a), rng=cell_generator(0, a, 0)) for a in range(100_000)])
    each = 1e6 * (own - bare) / 1e5
    print(f"  10^5 cells in {wall:.2f} s; a cell's generator and function {1e6 * bare / 1e5:.1f} us")
    holds = criterion("microseconds of engine and store per cell", each, at_most=50)
    peak = peak_memory("benchmarks.bench_sweeps", "stream") / 2**20
    return criterion("MiB more for 10^5 cells than for 200", peak, at_most=32) and holds


def scaling() -> bool:
    """The paper's sizes by `model.spectrum`, a part of the 40 x 25 grid: two processes against one."""
    grid = {"sigma_z": np.geomspace(0.1, 30, 4), "snr": [0.5, 1.0, 2.0]}
    # Both processes take a batch beforehand: they import and load kernels, which is not what is timed.
    rl.sweep(landscape_cell, {"sigma_z": [1.0, 2.0]}, 4, workers=2)
    landscape_cell(1.0, 1.0, rng=np.random.default_rng(0))
    two, _, both = timed(lambda: rl.sweep(landscape_cell, grid, 2, workers=2))
    one, _, alone = timed(lambda: rl.sweep(landscape_cell, grid, 2, workers=1))
    assert alone.equals(both)
    print(f"  {alone.status.size} cells: {one:.1f} s in one process, {two:.1f} s in two")
    return criterion("speed-up of two processes", one / two, at_least=1.8)


def main() -> int:
    """Print the criteria; how many are missed."""
    print(f"sweeps, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores before")
    return sum(not part() for part in (overhead, storing, scaling))


if __name__ == "__main__":
    raise SystemExit(main())
