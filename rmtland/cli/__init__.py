"""The `rmtland` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rmtland._version import __version__
from rmtland.cli.bbp import bbp
from rmtland.cli.compare import compare as compare
from rmtland.cli.landscape import app as landscape_app
from rmtland.cli.measure import measure
from rmtland.cli.networks import parse_widths as parse_widths
from rmtland.cli.output import OutputFolder as OutputFolder
from rmtland.cli.sweep import app as sweep_app
from rmtland.cli.train import train

app = typer.Typer(
    help="Random-matrix theory of neural loss landscapes.", no_args_is_help=True, pretty_exceptions_enable=False,
    add_completion=False,
)  # fmt: skip

EXPECTED_ERRORS = (ValueError, TypeError, OSError, MemoryError, FloatingPointError, ImportError)
"""What a wrong argument or a full disk raises: told in a line, exit code 2. Anything else is a bug and shows itself."""


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False
) -> None:
    """Random-matrix theory of neural loss landscapes."""
    if show:
        typer.echo(f"rmtland {__version__}")
        raise typer.Exit


app.command()(compare)
app.command()(train)
app.command()(measure)
app.command()(bbp)
app.add_typer(landscape_app, name="landscape")
app.add_typer(sweep_app, name="sweep")


def main() -> None:
    """Run the command; expected errors are told in one line, exit code 2."""
    try:
        app()
    except EXPECTED_ERRORS as error:
        print(f"rmtland: {error}", file=sys.stderr)
        raise SystemExit(2) from None
