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
            if node.module == "rmtland":
                for alias in node.names:
                    yield f"rmtland.{alias.name}", node.lineno


def wing(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if wing(path) != "__init__")


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
    assert [module for module, _ in imports(file)] == ["rmtland.cli", "torch.nn"]
