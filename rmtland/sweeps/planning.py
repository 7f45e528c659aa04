"""What a sweep would take, before it is run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rmtland._arguments import available_memory, integer
from rmtland.sweeps.grids import check_grid
from rmtland.sweeps.work import Schema, Task, check_schema, checked_result


@dataclass(frozen=True)
class SweepPlan:
    """Size and cost of a sweep.

    Attributes
    ----------
    shape : dict of str to int
        Lengths of the axes and number of trials.
    num_bytes : int
        Of the results, before compression, the status included.
    seconds_per_cell : float
        As the one timed cell took, in the middle of the grid; others may differ.
    workers : int
    results : dict of str to str
        Results to their own axes.
    """

    shape: dict[str, int]
    num_bytes: int
    seconds_per_cell: float
    workers: int
    results: dict[str, str]

    @property
    def num_cells(self) -> int:
        """Points of the grid times trials."""
        return math.prod(self.shape.values())

    @property
    def seconds(self) -> float:
        """Estimate for the whole sweep."""
        return self.num_cells * self.seconds_per_cell / self.workers

    def __str__(self) -> str:
        sizes = " x ".join(f"{name} {length:,}" for name, length in self.shape.items())
        results = ", ".join(f"{name}{axes}" for name, axes in self.results.items())
        free = available_memory()
        fits = "fit in memory" if self.num_bytes < 0.9 * free else "do not fit in memory: open_sweep reads in parts"
        return (
            f"cells     {self.num_cells:,} ({sizes})\n"
            f"results   {results}\n"
            f"size      {self.num_bytes / 2**20:,.1f} MiB before compression; they {fits}\n"
            f"one cell  {self.seconds_per_cell:.3g} s (in the middle of the grid, one thread)\n"
            f"estimate  {told_time(self.seconds)} with {self.workers} worker{'s' * (self.workers > 1)}"
        )


def told_time(seconds: float) -> str:
    """Seconds in words."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} seconds"


def plan_sweep(
    function: Callable[..., Any],
    grid: Mapping[str, Any],
    trials: int = 1,
    seed: int = 0,
    *,
    fixed: Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> SweepPlan:
    """Cells, memory and time of a sweep, from one timed cell; nothing is stored.

    Parameters
    ----------
    function, grid, trials, seed, fixed
        As in `sweep`.
    workers : int, optional
        To estimate for; by default the processors of this machine.

    Returns
    -------
    SweepPlan

    Raises
    ------
    ValueError, TypeError
        As `sweep`. What the function raises in the timed cell is raised.

    Examples
    --------
    >>> plan_sweep(lambda x, rng: {"y": x + rng.normal()}, {"x": [1, 2, 3]}, trials=4).num_cells
    12
    """
    trials = integer("trials", trials, at_least=1)
    cells = check_grid(function, grid, trials, fixed)
    task = Task(function, cells, integer("seed", seed, at_least=0, unbounded=True))
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    integer("workers", workers, at_least=1)
    seconds, schema = _timed(task)
    each = sum(math.prod(v.shape) * v.dtype.itemsize for v in schema.values()) + 1
    results = {name: f"[{', '.join(f'{d} {n}' for d, n in zip(v.dims, v.shape, strict=True))}]" if v.dims else ""
               for name, v in schema.items()}  # fmt: skip
    return SweepPlan(dict(zip(cells.dims, cells.shape, strict=True)), cells.size * each, seconds, workers, results)


def _timed(task: Task) -> tuple[float, Schema]:
    import numba
    from threadpoolctl import threadpool_limits

    cell = task.grid.size // 2
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            schemas = []
            # The first call compiles and loads; only where it was quick is there time for one that does not.
            for _ in range(2):
                start = time.perf_counter()
                checked = checked_result(task.run(cell))
                seconds = time.perf_counter() - start
                schemas.append({name: variable for name, (variable, _) in checked.items()})
                check_schema(schemas[0], schemas[-1])
                if seconds > 2.0:
                    break
    finally:
        numba.set_num_threads(threads)
    return seconds, schemas[0]
