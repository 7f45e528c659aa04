"""Pytest in a fork of a process that has the large libraries loaded: seconds less for each run."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

LIBRARIES = (
    "array_api_compat", "cloudpickle", "hypothesis.strategies", "joblib", "kneed", "matplotlib.figure", "mpmath",
    "numba", "numpy", "pandas", "powerlaw", "scipy.integrate", "scipy.optimize", "scipy.sparse.linalg", "scipy.stats",
    "torch", "torch.func", "typer", "xarray", "zarr",
)  # fmt: skip


def load() -> None:
    """Import what tests import, this package and its tests apart."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class FirstFailure:
    """A plugin that writes the name of the first test that fails."""

    def __init__(self, file: int) -> None:
        self.file = file

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write it."""
        if report.failed:
            os.write(self.file, report.nodeid.encode() + b"\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write what could not even be imported."""
        if report.failed:
            os.write(self.file, report.nodeid.encode() + b"\n")


def detach() -> None:
    """Make a fork the head of a group that `end` ends whole, without the streams of its parent."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)


def end(child: int) -> None:
    """Kill a detached fork with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _child(tree: Path, arguments: list[str], file: int) -> NoReturn:
    code = 3
    try:
        # Pytest collects garbage at its end and warns of what cannot be finalized: not of what the parent left.
        gc.freeze()
        detach()
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        code = int(pytest.main(["--assert=plain", *arguments], plugins=[FirstFailure(file)]))
    finally:
        os._exit(code)


def failure(tree: Path, arguments: list[str], limit: float) -> str | None:
    """The first test that fails of pytest with these arguments in `tree`, "" for none, None where it does not end."""
    told, status = _forked(tree, arguments, limit)
    if status is None:
        return None
    if not told and os.waitstatus_to_exitcode(status) > 2:  # 2 is a KeyboardInterrupt that a test raised
        raise RuntimeError(f"pytest did not run: {arguments}, status {status}")
    return told or ("" if status == 0 else "a signal")


def _forked(tree: Path, arguments: list[str], limit: float) -> tuple[str, int | None]:
    """The first failure, or "", and the status of the fork, None where it was ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _child(tree, arguments, writing)
    os.close(writing)
    last = time.monotonic() + limit
    status = None
    while status is None and time.monotonic() < last:
        done, found = os.waitpid(child, os.WNOHANG)
        if done:
            status = found
        else:
            time.sleep(0.02)
    end(child)  # and what its tests have started
    if status is None:
        os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode().split("\n")[0]
    return told, status
