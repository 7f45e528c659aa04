"""`rmtland validate` finds the claims, hands over its arguments and gives back the exit code."""

import importlib
import sys

import pytest

import rmtland

validate = importlib.import_module("rmtland.cli.validate")  # the package has the function under this name

CLAIMS = """
import sys

def main(arguments, prog):
    print(prog, arguments, sys.path[0])
    return 7
"""


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """A folder of claims that says what it was given; the real ones are not loaded, or put back."""
    for module in [name for name in sys.modules if name.split(".")[0] == "validation"]:
        monkeypatch.delitem(sys.modules, module)
    home = tmp_path / "home"
    (home / "validation").mkdir(parents=True)
    for name, text in (("__init__", ""), ("claims", ""), ("__main__", CLAIMS)):
        (home / "validation" / f"{name}.py").write_text(text)
    yield home
    for module in [name for name in sys.modules if name.split(".")[0] == "validation"]:
        del sys.modules[module]


@pytest.mark.parametrize("place", ["installed", "checkout"])
def test_claims_are_found_beside_the_package_or_in_it(claims, monkeypatch, tmp_path, run, place):
    before = list(sys.path)
    if place == "installed":
        monkeypatch.setattr(validate, "INSTALLED", claims)
        (tmp_path / "elsewhere" / "validation").mkdir(parents=True)
        (tmp_path / "elsewhere" / "validation" / "__main__.py").write_text("raise SystemExit")
        monkeypatch.syspath_prepend(tmp_path / "elsewhere")
        before = list(sys.path)
    else:
        monkeypatch.setattr(validate, "INSTALLED", tmp_path / "nowhere")
        monkeypatch.setattr(rmtland, "__file__", str(claims / "rmtland" / "__init__.py"))
    done = run("validate", "run", "--some", "thing")
    assert done.returncode == 7
    assert done.stdout.split() == ["rmtland", "validate", "['run',", "'--some',", "'thing']", str(claims)]
    assert sys.path == before


def test_claims_that_are_nowhere(claims, monkeypatch, tmp_path, run):
    monkeypatch.setattr(validate, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(rmtland, "__file__", str(claims / "a" / "b" / "__init__.py"))
    done = run("validate", "list")
    assert done.returncode == 2
    assert "the claims are not installed" in done.stderr
