"""The tool behind `make mutants`: what it changes, and that it tells what tests notice from what they do not."""

import ast
import gc
import os
import sys
from pathlib import Path

import pytest

from tools import forked, line_map, live, mutants

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a + b", ["a - b"]), ("a * b", ["a / b"]), ("a // b", ["a * b"]), ("a @ b", ["a * b"]), ("-a", ["+a"]),
        ("a < b", ["a <= b"]), ("a is not b", ["a is b"]), ("a and b", ["a or b"]), ("not a", ["a"]),
        ("a & b", ["a | b"]), ("a ^ b", ["a | b"]), ("a << b", ["a >> b"]),
        ("True", ["False"]), ("f(2, x=0.5)", ["f(3, x=0.5)", "f(2, x=1.5)"]), ("a < b < c", []), ("'text'", []),
        ("require_memory(2)", []), ("f'{a + b}'", []), ("f(lw=2, figsize=(3, a + b), strict=True)", []),
        ("f(strict=False, ls=2)", ["f(strict=True, ls=2)", "f(strict=False, ls=3)"]),
    ],
)  # fmt: skip
def test_one_thing_is_changed(before, after):
    source = f"X = 1 + 1\n@of(1)\ndef f(a: Literal[1], b=2) -> Literal[3]:\n    '''Say 1.'''\n    return {before}\n"
    made = [mutants.mutated(source, node) for node in mutants.places(ast.parse(source))]
    for (whole, line, told), other in zip(made, after, strict=True):
        assert line == f"return {before}"
        assert told in whole
        assert ast.dump(ast.parse(whole)) == ast.dump(ast.parse(source.replace(line, f"return {other}")))


def test_messages_and_what_types_only_see_are_left_alone():
    source = "def f(x):\n    if TYPE_CHECKING:\n        y = 1\n    assert x > 1\n    raise ValueError(2)\n"
    assert list(mutants.places(ast.parse(source))) == []


def test_draws_are_those_of_the_seed():
    def drawn(*arguments):
        return [(path, node.lineno, node.col_offset) for path, node in mutants.mutants(*arguments)]

    first = drawn(0, 5, "rmtland/laws")
    assert drawn(0, 5, "rmtland/laws") == first
    assert drawn(1, 5, "rmtland/laws") != first
    assert all(path.parts[:2] == ("rmtland", "laws") for path, _, _ in first)
    lines = drawn(0, 5, "rmtland/logits", "axis=1")
    assert len(lines) == 5
    assert all("axis=1" in (ROOT / path).read_text().splitlines()[line - 1] for path, line, _ in lines)


def test_equivalent_mutants_are_those_of_lines_that_are_there():
    """A line that has changed since has to be judged again."""
    made = {}
    for file in {file for file, _ in mutants.EQUIVALENT}:
        source = (ROOT / file).read_text()
        nodes = [node for node in mutants.places(ast.parse(source)) if node.lineno == node.end_lineno]
        made[file] = {mutants.mutated(source, node)[2] for node in nodes}
    assert [(file, after) for file, after in mutants.EQUIVALENT if after not in made[file]] == []


def test_callers_are_those_who_import_a_function_or_its_module():
    callers = {
        function.name: {f"{f.path.stem}.{f.name}" for f in line_map.callers_of(function)}
        for function in line_map.functions()
        if function.name in ("band_extremes", "evaluate_real")
    }
    assert callers == {
        "band_extremes": {"_ensemble._extreme", "_ensemble.piece"},  # which says `banded.band_extremes`
        "evaluate_real": {"counts._quantile", "edges.edges", "kernels.climb", "plain._range"},
    }


CODE = '''"""A package of one function."""


def f(x, low=0):
    if x < low:
        return 2 * low
    return x + 1
'''
TESTS = """
import pytest
from rmtland.laws.x import f

def test_far_below():
    assert f(-5) == 0

def test_above():
    assert f(5) == 6

@pytest.mark.slow
def test_below_another():
    assert f(0, 1) == 2
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tree with one function, and tests that see half of it."""
    for folder in ("rmtland/laws", "tests/laws"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("rmtland/__init__.py", "rmtland/laws/__init__.py"):
        (tmp_path / file).touch()
    (tmp_path / "rmtland/laws/x.py").write_text(CODE)
    (tmp_path / "tests/laws/test_x.py").write_text(TESTS)
    (tmp_path / "tests/test_commands.py").write_text("def test_nothing_of_ours():\n    assert True\n")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nmarkers = slow\naddopts = --import-mode=importlib\n"
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # seconds for each run
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    for module in (mutants, line_map):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "load", lambda: None)
    for module in [module for module in sys.modules if module.split(".")[0] == "rmtland"]:
        monkeypatch.delitem(sys.modules, module)  # forks find the small tree's
    cached = (mutants.line_map, mutants.fails_anyway, line_map.functions, line_map.callers_of, line_map.words)
    for function in cached:
        function.cache_clear()
    yield tmp_path
    for function in cached:
        function.cache_clear()


def told(monkeypatch, capsys, folder, *options):
    monkeypatch.setattr(sys, "argv", ["mutants", "--maps", str(folder / "maps"), "--count", "9", *options])
    mutants.main()
    *lines, share = capsys.readouterr().out.splitlines()
    return lines, share


@pytest.mark.slow
def test_kills_and_survivors_are_told_apart(small, monkeypatch, capsys):
    monkeypatch.setitem(
        mutants.EQUIVALENT, ("rmtland/laws/x.py", "if (x <= low):"), "as if no test could see a bound of its own"
    )
    lines, share = told(monkeypatch, capsys, small, "--jobs", "2")
    fates = {" ".join(line.split()[2:]) for line in lines if not line.startswith("    ")}
    changes = {line.strip() for line in lines if line.startswith("    +")}
    assert fates == {
        "killed by tests/laws/test_x.py::test_above", "killed by tests/laws/test_x.py::test_far_below", "SURVIVED",
        "equivalent as if no test could see a bound of its own",
    }  # fmt: skip
    assert changes == {"+ return (3) * low", "+ if (x <= low):"}
    assert share == "3 of 4 killed (75%), 0 by hanging; 1 are equivalent"
    # Lines are kept for as long as tests and code are what they were.
    kept = set((small / "maps").iterdir())
    assert [line.split()[0] for line in told(monkeypatch, capsys, small, "--skip", "4", "--own")[0][:1]] == ["4"]
    assert set((small / "maps").iterdir()) == kept
    scanned = told(monkeypatch, capsys, small, "--at-once", "--lines", "2 .* low")
    assert scanned[1] == "1 of 2 killed (50%), 0 by hanging; 0 are equivalent"
    assert [line.strip() for line in scanned[0] if line.startswith("    +")] == ["+ return (3) * low"]
    (small / "tests/laws/test_x.py").write_text(TESTS.replace("slow", "usefixtures()"))
    mutants.line_map.cache_clear()
    assert told(monkeypatch, capsys, small, "--lines", "2 .* low")[1].startswith("2 of 2 killed (100%)")
    assert len(set((small / "maps").iterdir()) - kept) == 2  # of the folder whose tests changed


@pytest.mark.slow
def test_what_does_not_end_is_told(small):
    test = small / "tests/laws/test_x.py"
    assert forked.failure(small, ["-q", "-p", "no:cacheprovider", str(test)], 100) == ""
    test.write_text("def test_it():\n    while True:\n        pass\n")
    assert forked.failure(small, ["-q", "-p", "no:cacheprovider", str(test)], 1) is None
    test.write_text("import nothing_of_that_name\n")
    assert forked.failure(small, ["-q", "-p", "no:cacheprovider", str(test)], 100) == "tests/laws/test_x.py"


class LeftBehind:
    """Garbage that a fork must not collect: there its finalizer fails."""

    def __init__(self):
        self.itself, self.process = self, os.getpid()

    def __del__(self):
        assert os.getpid() == self.process


@pytest.mark.filterwarnings("error")
def test_garbage_of_the_parent_is_no_failure(small):
    left = LeftBehind()
    gc.collect()  # old objects are collected at the end only
    gc.collect()
    del left
    assert forked.failure(small, ["-q", "-p", "no:cacheprovider", "tests/test_commands.py"], 100) == ""


@pytest.mark.slow
def test_changes_of_functions_that_are_loaded(small):
    path, names = "rmtland/laws/x.py", [f"tests/laws/test_x.py::test_{which}" for which in ("above", "far_below")]
    endless = CODE.replace("return x + 1", "while True: pass")
    changes = [
        (CODE.replace("x + 1", "x - 1"), names), (CODE.replace("2 * low", "3 * low"), names),
        (CODE.replace("2 * low", "2 + low"), names[:1]), (CODE.replace("2 * low", "2 + low"), names), (endless, names),
    ]  # fmt: skip
    given = [live.Mutant(number, path, source, tests, 3.0) for number, (source, tests) in enumerate(changes)]
    assert live.killed(small, given, ["tests/laws"], 2) == {0: names[0], 3: names[1]}
    with pytest.raises(RuntimeError, match="pytest did not collect: (?s:.*)tests/nothing"):
        live.killed(small, given, ["tests/nothing"], 1)


COMPILED = """from numba import njit

@njit(cache=True)
def part(x):
    return x + 1

@njit(cache=True)
def f(x, low=0):
    if x < low:
        return 2 * low
    return part(x)
"""


@pytest.mark.slow
def test_what_is_compiled_is_compiled_again_with_what_calls_it(small):
    path, names = "rmtland/laws/x.py", ["tests/laws/test_x.py::test_above"]
    (small / path).write_text(COMPILED)
    changes = [COMPILED.replace("x + 1", "x - 1"), COMPILED.replace("2 * low", "3 * low"), COMPILED]
    given = [live.Mutant(number, path, source, names, 100.0) for number, source in enumerate(changes)]
    for _ in range(2):  # the second finds what the first has kept on disk
        assert live.killed(small, given, ["tests/laws"], 1) == {0: names[0]}
