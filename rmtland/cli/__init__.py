"""The `rmtland` command."""

from __future__ import annotations

import dis
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Annotated, NoReturn

import typer

from rmtland._version import __version__
from rmtland.cli.bbp import bbp
from rmtland.cli.compare import compare as compare
from rmtland.cli.landscape import app as landscape_app
from rmtland.cli.measure import measure
from rmtland.cli.networks import parse_widths as parse_widths
from rmtland.cli.output import TERMINATED
from rmtland.cli.output import OutputFolder as OutputFolder
from rmtland.cli.sweep import app as sweep_app
from rmtland.cli.train import train
from rmtland.cli.validate import validate

app = typer.Typer(
    help="Random-matrix theory of neural loss landscapes.", no_args_is_help=True, pretty_exceptions_enable=False,
    add_completion=False,
)  # fmt: skip

EXPECTED_ERRORS = (OSError, MemoryError, FloatingPointError, ImportError)
"""What a full disk or a lacking package raises: told in a line, exit code 2. So are a ValueError and a TypeError that
this package raises itself, by name, for a wrong argument. Anything else is a bug and shows itself."""

_settings = {"debug": False}


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error was raised.")] = False,
) -> None:
    """Random-matrix theory of neural loss landscapes."""
    _settings["debug"] = debug
    if show:
        typer.echo(f"rmtland {__version__}")
        raise typer.Exit


app.command()(compare)
app.command()(train)
app.command()(measure)
app.command()(bbp)
# What follows is the registry's own: its arguments, and its help.
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)(validate)
app.add_typer(landscape_app, name="landscape")
app.add_typer(sweep_app, name="sweep")


def main() -> None:
    """Run the command; errors that name what was wrong are told in one line, exit code 2."""
    _settings["debug"] = False
    with signals_end_once():
        try:
            app()
        except (*EXPECTED_ERRORS, ValueError, TypeError) as error:
            if _settings["debug"] or not (isinstance(error, EXPECTED_ERRORS) or is_named(error)):
                raise
            print(f"rmtland: {error}", file=sys.stderr)
            raise SystemExit(2) from None


def is_named(error: BaseException) -> bool:
    """Whether a `raise` of this package made the error, rather than something that it called."""
    place: TracebackType | None = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return False
    inside = str(place.tb_frame.f_globals.get("__name__")).partition(".")[0] == "rmtland"
    # A NumPy function has no frame: what it raises seems to come from the line that called it.
    return inside and place.tb_frame.f_code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


@contextmanager
def signals_end_once() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, files cleared away; what comes after either does not disturb the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ignore_the_next() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        ignore_the_next()
        raise KeyboardInterrupt

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        ignore_the_next()
        raise SystemExit(TERMINATED)

    ours = {signal.SIGTERM: terminate}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a job in the background
        ours[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is ours[number]:  # not after a signal: workers are still being ended then
                signal.signal(number, handler)
