"""Change the code at random places, one at a time, and see whether the tests notice: ``python -m tools.mutants``.

Each mutant is one changed node of a syntax tree (an operator, a comparison, a number, a truth value), drawn by a seed,
in a copy of the tree. The fast tests run once with their lines noted (`tools.line_map`, some twenty minutes of a core,
kept for the next seed and, folder by folder, until its tests or the code change); of each mutant only those run that
come by its line, up to the first that fails: some of them in a process that has collected them all (`tools.live`); of
what survives that, all of them, the quickest first, in a fork of a process that has the libraries loaded
(`tools.forked`). Several mutants run side by side. Survivors are printed as lines to change back by hand; those that
change nothing a test could see (equivalent mutants) are listed in `equivalent.toml`, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools import live
from tools.forked import failure, load
from tools.line_map import LineMap, functions, functions_at

ROOT = Path(__file__).parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Mod: ast.Add, ast.MatMult: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
UNSEEN = {
    *("strict", "lw", "linewidth", "linewidths", "alpha", "ms", "markersize", "zorder", "frameon", "fontsize"),
    *("mew", "figsize", "dpi", "padding", "capsize"),
}  # fmt: skip
"""Keywords whose values no test could see: of lengths that are equal anyway, and of widths and sizes in figures."""
FEW = 100
"""Tests of a mutant that are tried at once."""
SKIPPED = ("tabulate", "names.py", "_version.py", "__init__.py")
EQUIVALENT = {
    (mutant["file"], mutant["line"]): mutant["why"]
    for mutant in tomllib.loads((ROOT / "tools" / "equivalent.toml").read_text())["mutant"]
}
"""File and changed line, and why no test can tell it from what was there."""


def changed(node: ast.AST) -> ast.AST | None:
    """A copy of the node with one thing changed, or None where there is nothing to change."""
    node = copy.copy(node)
    if isinstance(node, (ast.BinOp, ast.BoolOp)) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)):
        node.op = SWAPPED[type(node.op)]() if type(node.op) in SWAPPED else node.op  # type: ignore[assignment]
        return node
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return node.operand
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        node.ops = [SWAPPED[type(node.ops[0])]()]  # type: ignore[list-item]
        return node
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return ast.Constant(not node.value)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return ast.Constant(node.value + 1)
    return None


def places(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes that a mutant may change: not those of annotations, decorators, messages of errors, module constants, or
    the look of figures (`UNSEEN`).
    """

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.arg, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Assert)):
            return
        if isinstance(node, ast.keyword) and node.arg in UNSEEN and ast.unparse(node) != "strict=False":
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Call) and "require_memory" in ast.unparse(node.func):
            return
        if isinstance(node, ast.expr) and changed(node) is not None:
            yield node
        for name, value in ast.iter_fields(node):
            if name in ("decorator_list", "returns", "annotation"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)

    for part in ast.walk(tree):
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in part.body:
                yield from walk(statement)


def mutants(seed: int, count: int, only: str, lines: str = "") -> list[tuple[Path, ast.AST]]:
    """`count` places drawn by the seed from all files whose path holds `only`, in lines that match `lines`."""
    every = []
    for path in sorted((ROOT / "rmtland").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if only in name and not any(part in name for part in SKIPPED):
            seen = set()
            text = path.read_text()
            wanted = {number for number, line in enumerate(text.splitlines(), 1) if re.search(lines, line)}
            for node in places(ast.parse(text)):
                where = (node.lineno, node.col_offset, node.end_col_offset)  # type: ignore[attr-defined]
                if where not in seen and node.lineno == node.end_lineno and node.lineno in wanted:  # type: ignore[attr-defined]
                    seen.add(where)
                    every.append((path.relative_to(ROOT), node))
    return random.Random(seed).sample(every, min(count, len(every)))


def mutated(source: str, node: ast.AST) -> tuple[str, str, str]:
    """The source with the node changed, and its line before and after."""
    lines = source.splitlines(keepends=True)
    row = node.lineno - 1  # type: ignore[attr-defined]
    line = lines[row].encode()
    start, stop = node.col_offset, node.end_col_offset  # type: ignore[attr-defined]
    other = changed(ast.parse(line[start:stop].decode(), mode="eval").body)
    assert other is not None
    after = (line[:start] + f"({ast.unparse(other)})".encode() + line[stop:]).decode()
    lines[row] = after
    return "".join(lines), line.decode().strip(), after.strip()


def folders(path: Path) -> list[list[str]]:
    """Arguments of pytest, a folder of tests each: that of the module's wing first, then those of who stands on it.

    Commands, keywords and hostile calls, which reach every wing, come last.
    """
    wing = path.parts[1].removesuffix(".py")
    commands = [str(test.relative_to(ROOT)) for test in sorted((ROOT / "tests").glob("test_*.py"))]
    every = {
        folder.name: [
            str(folder.relative_to(ROOT)),
            *(["rmtland/" + folder.name] * (ROOT / "rmtland" / folder.name).is_dir()),
        ]
        for folder in sorted((ROOT / "tests").iterdir())
        if folder.is_dir() and folder.name not in ("notebooks", "validation", "__pycache__")
    }
    own = every.pop(wing, commands)
    return [own, *every.values(), *([commands] if own is not commands else [])]


def digest(arguments: tuple[str, ...]) -> str:
    """Of the code, these tests and what all tests share: where they are the same, so are the lines that tests run."""
    found = hashlib.sha256(str(ROOT).encode())
    for path in sorted([*(ROOT / "rmtland").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        name = str(path.relative_to(ROOT))
        if not path.name.startswith("test_") or name.startswith(arguments):
            found.update(name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


@functools.cache
def line_map(arguments: tuple[str, ...], maps: Path) -> LineMap:
    """The lines that these fast tests run: measured once, then read."""
    place = maps / f"{arguments[0].replace('/', '_')}-{digest(arguments)}"
    if not place.exists():
        command = [*PYTEST, "-p", "tools.line_map", *arguments]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"LINE_MAP": str(place)}, capture_output=True, check=False)
    return LineMap(place)


def tests_of(path: Path, line: int, given: argparse.Namespace) -> list[dict[str, float]]:
    """The fast tests that come by a line, and how long each takes: of the module's own folder, then of all others.

    Where no test is known to, those whose files name what stands there.
    """
    own, *others = folders(path)
    stages = [[line_map(tuple(tests), given.maps) for tests in stage] for stage in ([own], [] if given.own else others)]
    found: list[dict[str, float]] = []
    for way in (LineMap.running, LineMap.near):
        found = [
            {test: known.seconds.get(test, 0.0) for known in maps for test in way(known, path, line)} for maps in stages
        ]
        if any(found):
            break
    return found


def fate(tree: Path, path: Path, line: int, given: argparse.Namespace) -> str:
    """Whether a test fails in the mutated tree, none does, or they do not end in time."""
    own, others = tests_of(path, line, given)
    for found in (own, dict(sorted(others.items(), key=lambda one: one[1]))):
        tests, seconds = [], 0.0
        for test in found:
            seconds += found[test]
            if tests and seconds > given.limit / 3:
                break
            tests.append(test)
        if not tests:
            continue
        lost = failure(tree, [*PYTEST[3:], "-x", *tests], given.limit + 3 * seconds)
        if lost is None:
            return "hung"
        if lost and fails_anyway(lost, given.limit):
            print(f"{lost} fails without a mutant, too", file=sys.stderr)
            lost = failure(tree, [*PYTEST[3:], "-x", "--deselect", lost, *tests], given.limit)
        if lost is None or lost:
            return "hung" if lost is None else f"killed by {lost}"
    return "SURVIVED"


@functools.cache
def fails_anyway(test: str, limit: float) -> bool:
    """Whether a test fails in the tree as it is: such a one kills nothing."""
    return "::" in test and failure(ROOT, [*PYTEST[3:], test], limit) != ""


def touch_callers(tree: Path, path: Path) -> None:
    """Make Numba compile again what calls the functions of this file: its cache looks at one file only."""
    changed_files = {path}
    while True:
        names = {f.name for f in functions() if f.path in changed_files}
        more = {f.path for f in functions() if f.words & names and f.compiled}
        if more <= changed_files:
            break
        changed_files |= more
    for file in changed_files:
        (tree / file).touch()


def equivalent(path: Path, source: str, after: str) -> str | None:
    """Why no test could see the change, if so it is."""
    same = ast.dump(ast.parse(source)) == ast.dump(ast.parse((ROOT / path).read_text()))
    return "nothing changed" if same else EQUIVALENT.get((str(path), after))


def noticed_at_once(drawn: list[tuple[int, tuple[Path, ast.AST]]], given: argparse.Namespace) -> dict[int, str]:
    """Which mutants one of a few tests notices, and which test: one of each function, those of the own file first."""
    mutants = []
    for number, (path, node) in drawn:
        source, _, after = mutated((ROOT / path).read_text(), node)
        line = node.lineno  # type: ignore[attr-defined]
        if equivalent(path, source, after):
            continue
        patience = 120 if any(f.compiled for f in functions_at(path, line)) else 20
        own_folder, others = tests_of(path, line, given)
        every = own_folder | others
        own = f"test_{path.stem.strip('_')}.py"
        seen: dict[str, int] = {}
        ranks = {}
        for test, seconds in sorted(every.items(), key=lambda one: one[1]):
            name = test.split("[")[0]
            ranks[test] = seen.get(name, 0), own not in test, seconds
            seen[name] = seen.get(name, 0) + 1
        few, spent = [], 0.0
        for test in sorted(ranks, key=lambda test: ranks[test])[:FEW]:
            if not few or spent + every[test] <= given.limit / 30:
                few.append(test)
                spent += every[test]
        mutants.append(live.Mutant(number, str(path), source, few, patience + 5 * spent))
    arguments = [name for folder in folders(Path("rmtland/laws")) for name in folder]
    return live.killed(ROOT, mutants, [*PYTEST[6:], *arguments], given.jobs)


def told(
    folder: Path, number: int, place: tuple[Path, ast.AST], given: argparse.Namespace, at_once: dict[int, str]
) -> str:
    """The fate of a mutant, printed: its place, and what was changed there where no test has noticed."""
    path, node = place
    row = node.lineno  # type: ignore[attr-defined]
    source, before, after = mutated((ROOT / path).read_text(), node)
    reason = equivalent(path, source, after)
    if reason or (number in at_once and not fails_anyway(at_once[number], given.limit)):
        found = "equivalent" if reason else f"killed by {at_once[number]}"
    elif given.at_once:
        found = "SURVIVED"
    else:
        tree = folder / f"tree{number}"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "report", "results"))
        (tree / path).write_text(source)
        if any(function.compiled and function.path == path for function in functions()):
            touch_callers(tree, path)
        found = fate(tree, path, row, given)
        shutil.rmtree(tree)
    change = "" if found.startswith("killed") else f" {reason or ''}\n    - {before}\n    + {after}"
    print(f"{number} {path}:{row} {found}{change}", flush=True)
    return found


def main() -> None:
    """Print each mutant's fate and the share killed of those that are not equivalent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of them, which ran before")
    parser.add_argument("--only", default="", help="part of the paths to mutate, such as rmtland/laws")
    parser.add_argument("--lines", default="", help="a regular expression of the lines to mutate, such as ddof")
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds for the tests of a mutant, folder by folder"
    )
    parser.add_argument(
        "--own", action="store_true", help="the tests of the mutated module's wing alone: a lower bound"
    )
    parser.add_argument(
        "--maps", type=Path, help="folder that keeps the lines of each test; by default one for all trees"
    )
    parser.add_argument(
        "--at-once", action="store_true", help="try no further what survives a few tests in forks: a quick scan"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time; a core each by default")
    given = parser.parse_args()
    load()
    drawn = list(enumerate(mutants(given.seed, given.count, given.only, given.lines)))[given.skip :]
    given.maps = given.maps or Path(tempfile.gettempdir()) / "rmtland-lines"
    given.maps.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        needed = {tuple(tests) for _, (path, _) in drawn for tests in folders(path)[: 1 if given.own else None]}
        list(pool.map(functools.partial(line_map, maps=given.maps), sorted(needed)))
        at_once = noticed_at_once(drawn, given)
        fates = list(pool.map(lambda mutant: told(Path(folder), *mutant, given, at_once), drawn))
    hung, count = fates.count("hung"), len(fates) - fates.count("equivalent")
    lost = sum(fate.startswith("killed") for fate in fates) + hung  # what never ends is noticed
    share = 100 * lost / max(count, 1)
    print(f"{lost} of {count} killed ({share:.0f}%), {hung} by hanging; {len(fates) - count} are equivalent")


if __name__ == "__main__":
    main()
