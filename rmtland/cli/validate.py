"""`rmtland validate`: the registry of claims, from an installed package or a checkout."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

import rmtland

INSTALLED = Path(rmtland.__file__).parent / "claims"
"""Where the wheel puts the folder `validation`: not beside the package, where it would take a general name."""


def validate(context: typer.Context) -> None:
    """Theorems, figures and tables of the literature against draws and networks: list, run or report."""
    places = (INSTALLED, Path(rmtland.__file__).parents[1])
    home = next((place for place in places if (place / "validation" / "claims.py").is_file()), None)
    if home is None:
        raise FileNotFoundError("the claims are not installed: no folder `validation` in this package or beside it")
    # Worker processes are told the path too.
    sys.path.insert(0, str(home))
    try:
        command = importlib.import_module("validation.__main__")
        raise typer.Exit(command.main(context.args, prog="rmtland validate"))
    finally:
        sys.path.remove(str(home))
