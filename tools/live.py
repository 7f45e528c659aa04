"""Mutants in forks of one pytest that has collected all tests: a second for each that is noticed.

``pytest -p tools.live`` runs no test of itself. For each mutant it forks, gives the functions that are loaded the
changed code, and runs the mutant's tests up to the first that fails. What other processes run and what ran once and was
kept cannot be changed so: who survives here is tried in a tree of its own (`tools.mutants`).
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple, NoReturn, TypeAlias

import pytest

from tools.forked import detach, end

Place: TypeAlias = tuple[str, str, int]
"""File, name and first line of a function."""


class Mutant(NamedTuple):
    """A changed file, the tests to run in this order, and seconds for all of them."""

    number: int
    path: str
    source: str
    tests: list[str]
    limit: float


def killed(root: Path, mutants: Sequence[Mutant], arguments: Sequence[str], jobs: int) -> dict[int, str]:
    """Numbers of the mutants that a test has noticed, and which; `arguments` of pytest collect all tests named."""
    with tempfile.TemporaryDirectory() as folder:
        given, fates = Path(folder) / "mutants", Path(folder) / "fates"
        given.write_bytes(pickle.dumps(list(map(tuple, mutants))))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tools.live", *arguments]
        told = {"LIVE_MUTANTS": str(given), "LIVE_FATES": str(fates), "LIVE_JOBS": str(jobs)}
        done = subprocess.run(command, cwd=root, env=os.environ | told, capture_output=True, text=True, check=False)
        if not fates.exists():
            raise RuntimeError(f"pytest did not collect: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return {int(number): test for number, test in json.loads(fates.read_text()).items()}


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Judge the mutants in place of running tests."""
    waiting = [Mutant(*mutant) for mutant in pickle.loads(Path(os.environ["LIVE_MUTANTS"]).read_bytes())][::-1]
    loaded = _functions(session.config.rootpath), _compiled()
    gc.collect()
    gc.freeze()
    running: dict[int, tuple[Mutant, int, float]] = {}
    fates: dict[int, str] = {}
    while waiting or running:
        while waiting and len(running) < int(os.environ["LIVE_JOBS"]):
            mutant = waiting.pop()
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                _child(session, mutant, *loaded, writing)
            os.close(writing)
            running[child] = mutant, reading, time.monotonic() + mutant.limit
        for child, (mutant, reading, last) in list(running.items()):
            over = os.waitpid(child, os.WNOHANG)[0] != 0
            if over or time.monotonic() > last:
                end(child)  # and what its tests have started
                if not over:
                    os.waitpid(child, 0)
                if test := os.read(reading, 4096).decode():
                    fates[mutant.number] = test
                os.close(reading)
                del running[child]
        time.sleep(0.01)
    Path(os.environ["LIVE_FATES"]).write_text(json.dumps(fates))
    return True


def _place(code: CodeType) -> Place:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _functions(root: Path) -> dict[Place, list[FunctionType]]:
    found: dict[Place, list[FunctionType]] = {}
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename.startswith(str(root)):
            found.setdefault(_place(thing.__code__), []).append(thing)
    return found


def _changed(before: CodeType, after: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Pairs of code objects that differ, functions within functions too."""
    if before != after:
        yield before, after
    inner = [[part for part in code.co_consts if isinstance(part, CodeType)] for code in (before, after)]
    for pair in zip(*inner, strict=True):
        yield from _changed(*pair)


def _compiled() -> list[Any]:
    """All functions that Numba compiles."""
    if "numba" not in sys.modules:
        return []
    from numba.core.dispatcher import Dispatcher

    return [thing for thing in gc.get_objects() if isinstance(thing, Dispatcher)]


def _compile_again(compiled: list[Any], changed: set[Place]) -> None:
    """Let Numba forget, in this process, what it has compiled of the changed functions and of all that call them."""
    from numba.core.caching import NullCache

    stale = [function for function in compiled if _place(function.py_func.__code__) in changed]
    for function in stale:  # grows
        stale += [
            caller
            for caller in compiled
            if any(caller.py_func.__globals__.get(name) is function for name in caller.py_func.__code__.co_names)
            and not any(caller is one for one in stale)
        ]
    for function in stale:
        function._can_compile, function._cache = True, NullCache()  # what lies on disk is of the code as it is
        function._make_finalizer()()
        function._reset_overloads()


def _child(
    session: pytest.Session,
    mutant: Mutant,
    functions: dict[Place, list[FunctionType]],
    compiled: list[Any],
    file: int,
) -> NoReturn:
    try:
        detach()
        path = session.config.rootpath / mutant.path
        before, after = (compile(text, str(path), "exec") for text in (path.read_text(), mutant.source))
        changed = {_place(one): other for one, other in _changed(before, after)}
        for place, code in changed.items():
            for function in functions.get(place, ()):
                function.__code__ = code
        _compile_again(compiled, set(changed))
        failed: list[str] = []

        class Noted:
            def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
                failed.extend([report.nodeid] * report.failed)

        session.config.pluginmanager.register(Noted())
        items = {item.nodeid: item for item in session.items}
        for test in mutant.tests:
            if test in items:
                session.config.hook.pytest_runtest_protocol(item=items[test], nextitem=None)
            if failed:
                os.write(file, failed[0].encode())
                break
    finally:
        os._exit(0)
