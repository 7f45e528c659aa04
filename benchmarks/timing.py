"""Side-by-side timing in one process, peak memory in a child, and one way to print both."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int = 7,
    pick: Callable[[list[float]], float] = statistics.median,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each function, called in turn, so that a slow spell of the machine strikes all alike.

    Each is called once beforehand: compilation, caches and page faults are not timed. `pick=min` takes the fastest call
    instead, for functions whose threads wait for each other: where other processes hold a core, their medians tell of
    those processes and differ by factors from run to run. For functions on one thread `clock=time.process_time` counts
    only their own time.
    """
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            function()
            times[name].append(clock() - start)
    return {name: pick(values) for name, values in times.items()}


def print_table(title: str, seconds: Mapping[str, float], reference: str) -> None:
    """One line per name: milliseconds and the ratio to `reference`."""
    width = max(map(len, seconds))
    print(title)
    for name, value in seconds.items():
        print(f"  {name:<{width}}  {1e3 * value:12.2f} ms  {value / seconds[reference]:9.3g} x")


def criterion(what: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> bool:
    """Print the value beside its bound; whether it holds."""
    holds = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    bound = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
    print(f"  {'ok  ' if holds else 'MISS'} {what}: {value:.3g} ({bound})")
    return holds


MEASURE = """
import pathlib, resource, sys
from {module} import {function}
def peak():
    # Linux hands ru_maxrss of the parent down to the child; the high-water mark of /proc starts afresh.
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
{function}(True)  # a small run: imports, compilation and thread buffers are not counted
before = peak()
{function}(False)
print(1024 * (peak() - before))
"""


def peak_memory(module: str, function: str) -> int:
    """Bytes by which the resident memory of a child process peaks above where it stood, in `function(False)`.

    `function(True)` runs first, on little data. All that is resident counts: arrays, BLAS buffers, file pages.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(module=module, function=function)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    return int(done.stdout.split()[-1])
