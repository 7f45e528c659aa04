"""Which tests run which lines: pytest with ``-p tools.line_map`` writes it, `LineMap` reads it."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
COMPILERS = re.compile(r"(numba\.)?njit\b|compiled$|inner$")
"""Decorators of functions whose lines leave no trace: Numba's own, and those of `ensembles.kernels`."""
MEASURED: dict[str, Any] = {}


def pytest_configure() -> None:
    """Start coverage where a place to write the map is given."""
    if place := os.environ.get("LINE_MAP"):
        import coverage

        MEASURED["coverage"] = coverage.Coverage(data_file=place, source=["rmtland"], messages=False)
        MEASURED["seconds"] = {}
        MEASURED["coverage"].start()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Note the lines that a test runs, its fixtures included, and how long it takes."""
    begin = time.perf_counter()
    if MEASURED:
        MEASURED["coverage"].switch_context(item.nodeid)
    yield
    if MEASURED:
        MEASURED["seconds"][item.nodeid] = time.perf_counter() - begin


def pytest_unconfigure() -> None:
    """Write the lines, and the seconds beside them."""
    if MEASURED:
        MEASURED["coverage"].stop()
        MEASURED["coverage"].save()
        Path(os.environ["LINE_MAP"] + ".json").write_text(json.dumps(MEASURED["seconds"]))


def statement(tree: ast.Module, line: int) -> tuple[int, int]:
    """First and last line of what runs with this line: the smallest statement that holds it, up to its body."""
    best = (1, 10**9)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno or node.lineno
            if node.lineno <= line <= max(last, node.lineno) and node.lineno >= best[0]:
                best = (node.lineno, max(last, node.lineno))
    return best


class Function(NamedTuple):
    """Where a function stands, and the names that stand in it."""

    path: Path
    name: str
    first: int
    last: int
    words: frozenset[str]
    compiled: bool


@functools.cache
def functions() -> list[Function]:
    """All functions of the package."""
    found = []
    for path in sorted((ROOT / "rmtland").rglob("*.py")):
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                last = node.end_lineno or node.lineno
                words = frozenset(re.findall(r"\w+", "\n".join(lines[node.lineno : last])))
                compiled = any(COMPILERS.match(ast.unparse(decorator)) for decorator in node.decorator_list)
                found.append(Function(path.relative_to(ROOT), node.name, node.body[0].lineno, last, words, compiled))
    return found


class LineMap:
    """The tests of one folder by the lines they run."""

    def __init__(self, place: Path) -> None:
        import coverage

        self.data = coverage.CoverageData(str(place))
        self.data.read()
        self.seconds: dict[str, float] = json.loads(Path(f"{place}.json").read_text())
        self.lines = {
            Path(name).relative_to(ROOT): self.data.contexts_by_lineno(name)
            for name in self.data.measured_files()
            if Path(name).is_relative_to(ROOT)
        }

    def between(self, path: Path, first: int, last: int) -> set[str]:
        """Tests that run one of these lines."""
        lines = self.lines.get(path, {})
        return {test for line in range(first, last + 1) for test in lines.get(line, ()) if test}

    def running(self, path: Path, line: int) -> list[str]:
        """Tests that run this line, those of its own test file first, then the quickest.

        Compiled functions leave no trace, nor do processes that a test starts: theirs are the tests that run a function
        which names them or whose file does.
        """
        found = self.between(path, *statement(ast.parse((ROOT / path).read_text()), line))
        here = functions_at(path, line)
        around, seen = {f for f in here if f.compiled}, set(here)
        while around:
            callers = {g for f in around for g in callers_of(f)} - seen
            seen |= callers
            for f in callers:
                found |= self.between(f.path, f.first, f.last)
            around = {f for f in callers if f.compiled}
        lifted = {f.name for f in here if f.compiled}
        return self.sorted(found | self.naming(lifted), path)

    def near(self, path: Path, line: int) -> list[str]:
        """Tests whose file names what stands at this line, its callers or its module: where none is known to run it."""
        here = functions_at(path, line)
        near = here | {g for f in here for g in callers_of(f)}
        names = {path.stem} | {g.name for f in near for g in (f, *callers_of(f)) if not g.name.startswith("_")}
        return self.sorted(self.naming(names), path)

    def naming(self, names: set[str]) -> set[str]:
        """Tests whose file names one of these."""
        return {test for test in self.seconds if words(test.split("::")[0]) & names}

    def sorted(self, found: set[str], path: Path) -> list[str]:
        """In the order in which they are tried."""
        own = f"test_{path.stem.strip('_')}.py"
        return sorted(found, key=lambda test: (own not in test, self.seconds.get(test, 0.0)))


def functions_at(path: Path, line: int) -> set[Function]:
    """The functions in which a line stands."""
    return {f for f in functions() if f.path == path and f.first <= line <= f.last}


@functools.cache
def callers_of(function: Function) -> list[Function]:
    """Functions that name this one, in its own file or one that imports it or from it."""
    package, name = ".".join(function.path.parent.parts), function.path.stem
    imported = re.compile(rf"{package}\.{name}\b|from {package} import .*\b{name}\b")
    return [
        f
        for f in functions()
        if function.name in f.words and (f.path == function.path or imported.search((ROOT / f.path).read_text()))
    ]


@functools.cache
def words(file: str) -> frozenset[str]:
    """All names in a file of tests."""
    return frozenset(re.findall(r"\w+", (ROOT / file).read_text()))
