"""The house's floors: arrows point down only, and torch lives in one wing."""

import ast
from pathlib import Path

import pytest

import rmtland

PACKAGE = Path(rmtland.__file__).parent
FLOORS = {
    "cli": 6,
    "report": 5,
    "comparison": 4,
    "landscape": 3,
    "nets": 3,
    "logits": 2,
    "spectra": 1,
    "ensembles": 1,
    "laws": 0,
    "plots": 0,
    "sweeps": 0,
    "_arguments": -1,  # the cellar: argument checks, for everybody
    "_arrays": -1,
    "_files": -1,
    "_lock": -1,
    "_version": -1,
}
ALONE = {"laws", "plots", "sweeps"}  # import nothing of ours but the cellar


def imports(path):
    """(module imported, line) for every import in the file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            yield node.module, node.lineno
            if node.module.split(".")[0] == "rmtland":
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno


def wing(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if wing(path) not in {"__init__", "__main__"})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    here = wing(path)
    assert here in FLOORS, f"{here} has no floor yet: give it one in this test and in CONTRIBUTING.md"
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] != "rmtland" or len(parts) == 1:
            continue
        there = parts[1]
        where = f"{path.name}:{line} imports {module}"
        if there == here:
            continue
        assert there in FLOORS, where
        assert not (here in ALONE and FLOORS[there] >= 0), f"{where}: {here} stands alone"
        assert FLOORS[there] < FLOORS[here], f"{where}: arrows point down only"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_torch_lives_in_nets(path):
    if wing(path) == "nets":
        return
    for module, line in imports(path):
        assert module.split(".")[0] != "torch", f"{path.name}:{line} imports torch outside rmtland/nets"


def test_the_check_sees_an_arrow_up(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from rmtland.cli import main\n    import torch.nn\n")
    assert [module for module, _ in imports(file)] == ["rmtland.cli", "rmtland.cli.main", "torch.nn"]


MOST_FLOORS = 6  # that a reader meets inside one folder


def floors(files):
    """Floor of each module of a folder, counted over imports within it; a circle is an error."""
    package = ".".join(files[0].parent.relative_to(PACKAGE.parent).parts)
    below = {f"{package}.{path.stem}": set() for path in files}
    for path in files:
        below[f"{package}.{path.stem}"] = {name for name, _ in imports(path)} & set(below)
    return {name: 1 + len(chain) for name, chain in _descents(below).items()}


def _descents(below):
    """The longest chain of imports under each module."""
    longest = {}

    def descend(name, above):
        assert name not in above, f"a circle of imports: {' -> '.join([*above, name])}"
        if name not in longest:
            chains = [[other, *descend(other, [*above, name])] for other in below[name]]
            longest[name] = max(chains, key=len, default=[])
        return longest[name]

    for name in below:
        descend(name, [])
    return longest


@pytest.mark.parametrize("folder", ["laws", "laws/atoms", "landscape", "landscape/theory", "landscape/paper"])
def test_few_floors_inside_a_folder(folder):
    files = [path for path in (PACKAGE / folder).glob("*.py") if path.stem != "__init__"]
    found = floors(files)
    assert max(found.values()) <= MOST_FLOORS, {name: floor for name, floor in found.items() if floor > MOST_FLOORS}


def test_the_floors_are_counted(monkeypatch, tmp_path):
    folder = tmp_path / "rmtland" / "wing"
    folder.mkdir(parents=True)
    monkeypatch.setattr("tests.test_layers.PACKAGE", tmp_path / "rmtland")
    for i in range(4):
        (folder / f"m{i}.py").write_text(
            f"from rmtland.wing import m{i + 1}\n" if i % 2 else f"from rmtland.wing.m{i + 1} import x\n"
        )
    (folder / "m4.py").write_text("import math\n")
    files = sorted(folder.glob("*.py"))
    assert floors(files) == {f"rmtland.wing.m{i}": 5 - i for i in range(5)}
    (folder / "m4.py").write_text("from rmtland.wing.m0 import x\n")
    with pytest.raises(AssertionError, match="a circle of imports"):
        floors(files)
