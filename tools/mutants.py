"""Change the code at random places, one at a time, and see whether the tests notice: ``python -m tools.mutants``.

Each mutant is one changed node of a syntax tree (an operator, a comparison, a number, a truth value), drawn by a seed,
in a copy of the tree. The tests of the mutated module run first, then those of its wing. Survivors are printed as
lines to change back by hand; those that change nothing that matters (an equivalent mutant) are for the reader to tell.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Mod: ast.Add, ast.MatMult: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip
SKIPPED = ("tabulate", "names.py", "_version.py", "__init__.py")


def changed(node: ast.AST) -> ast.AST | None:
    """The node with one thing changed, or None where there is nothing to change."""
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
    """Nodes that a mutant may change: not those of annotations, decorators, messages of errors, module constants."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, (ast.Raise, ast.JoinedStr, ast.arg, ast.AnnAssign, ast.Import, ast.ImportFrom, ast.Assert)):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Call) and "require_memory" in ast.unparse(node.func):
            return
        if isinstance(node, ast.expr) and changed(copy.deepcopy(node)) is not None:
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


def mutants(seed: int, count: int, only: str) -> list[tuple[Path, ast.AST]]:
    """`count` places drawn by the seed from all files whose path holds `only`."""
    every = []
    for path in sorted((ROOT / "rmtland").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if only in name and not any(part in name for part in SKIPPED):
            seen = set()
            for node in places(ast.parse(path.read_text())):
                where = (node.lineno, node.col_offset, node.end_col_offset)  # type: ignore[attr-defined]
                if where not in seen and node.lineno == node.end_lineno:  # type: ignore[attr-defined]
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


def suites(path: Path) -> list[list[str]]:
    """Arguments of pytest: the module's own tests, by name or for what they call of it, then its wing's."""
    wing = path.parts[1].removesuffix(".py")
    folder = Path("tests") / wing
    tree = ast.parse((ROOT / path).read_text())
    names = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_"}
    uses: dict[str, int] = {}
    for file in sorted((ROOT / folder).rglob("test_*.py")):
        words = re.findall(r"\w+", file.read_text())
        mentions = sum(word in names or word == path.stem for word in words)
        if mentions or file.stem == f"test_{path.stem.strip('_')}":
            uses[str(file.relative_to(ROOT))] = mentions + 1000 * (file.stem == f"test_{path.stem.strip('_')}")
    own = sorted(uses, key=lambda file: -uses[file])[:3]
    wider = [str(folder)] if (ROOT / folder).is_dir() else ["tests/test_arguments.py", "tests/test_files.py"]
    if wing == "cli":
        wider = [
            "tests/test_cli.py",
            "tests/test_cli_train.py",
            "tests/sweeps/test_command.py",
            "tests/test_options.py",
        ]
        own = wider[:1]
    return [suite for suite in ([*own, str(path)], wider) if suite]


def fate(tree: Path, path: Path, own: bool, limit: float, environment: dict[str, str]) -> str:
    """Whether a test fails in the mutated tree, none does, or they do not end in time."""
    for suite in suites(path)[: 1 if own else None]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *suite]
        try:
            done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return "hung"
        if done.returncode not in (0, 5):
            return "killed"
    return "SURVIVED"


def main() -> None:
    """Print each mutant's fate and the share killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--only", default="", help="part of the paths to mutate, such as rmtland/laws")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a suite; one that takes longer hangs")
    parser.add_argument("--own", action="store_true", help="the tests of the mutated module alone: a lower bound")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no mutant after this long")
    given = parser.parse_args()
    begin, fates = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "report", "results"))
        for path, node in mutants(given.seed, given.count, given.only):
            if time.monotonic() - begin > 60 * given.minutes:
                break
            source = (tree / path).read_text()
            changed_source, before, after = mutated(source, node)
            (tree / path).write_text(changed_source)
            environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
            if "njit" in source:  # compiled callers in other files would go on with what they know
                environment["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(dir=folder)
            fates.append(fate(tree, path, given.own, given.limit, environment))
            (tree / path).write_text(source)
            row = node.lineno  # type: ignore[attr-defined]
            told = fates[-1] if fates[-1] == "killed" else f"{fates[-1]}\n    - {before}\n    + {after}"
            print(f"{path}:{row} {told}", flush=True)
    lost = fates.count("killed")
    print(f"{lost} of {len(fates)} killed ({100 * lost / max(len(fates), 1):.0f}%), {fates.count('hung')} hung")


if __name__ == "__main__":
    main()
