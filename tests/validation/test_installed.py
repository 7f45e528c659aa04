"""`rmtland validate`: the registry from an installed package or a checkout."""

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rmtland.cli import app

command = importlib.import_module("rmtland.cli.validate")  # the package has the function by this name
ROOT = Path(__file__).parents[2]
CLAIM = "laws.random_energy_freezing"


def rmtland(*arguments, cwd, before="pass"):
    code = f"import sys; {before}; import rmtland.cli as c; sys.argv = ['rmtland', *sys.argv[1:]]; c.main()"
    return subprocess.run(
        [sys.executable, "-c", code, "validate", *arguments], cwd=cwd, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
def test_from_anywhere_it_lists_and_names_what_is_unknown(tmp_path):
    done = rmtland("list", CLAIM, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(CLAIM)
    done = rmtland("run", "laws.bbp_locaton", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean laws.bbp_location" in done.stderr
    assert "usage: rmtland validate" in CliRunner().invoke(app, ["validate", "--help"]).output


@pytest.mark.slow
def test_a_wheel_holds_the_claims_where_the_command_looks(tmp_path):
    """Run and reported from a copy laid out as the wheel says, with two workers that find it too."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        included = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert ROOT / included["validation"] == command.INSTALLED / "validation"
    shutil.copytree(ROOT / "validation", tmp_path / "claims" / "validation")
    before = f"import rmtland.cli.validate as v, pathlib; v.INSTALLED = pathlib.Path({str(tmp_path / 'claims')!r})"
    done = rmtland(
        "run", CLAIM, "laws.marchenko_pastur_atom", "--jobs", "2", "--out", "out", cwd=tmp_path, before=before
    )
    assert done.returncode == 0, done.stderr
    assert "2 claims: 2 pass" in done.stdout
    done = rmtland("report", "--out", "out", cwd=tmp_path, before=before)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").read_text().count("<section") == 2


def test_it_says_where_claims_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "INSTALLED", tmp_path)
    monkeypatch.setattr(command.rmtland, "__file__", str(tmp_path / "a" / "b" / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="the claims are not installed"):
        command.validate(typer.Context(typer.main.get_command(app)))
