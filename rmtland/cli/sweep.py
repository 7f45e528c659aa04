"""`rmtland sweep`: ready-made sweeps, resumable, and a look at what a store holds."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rmtland.cli.options import axis_option, figure_option
from rmtland.cli.output import OutputFolder

if TYPE_CHECKING:
    import xarray as xr

app = typer.Typer(
    help="Ready-made sweeps over grids of parameters: stored as they go, the same command goes on after a stop.",
    no_args_is_help=True,
)

READY = {
    "landscape": ("landscape.sweeps.landscape_cell", "mean_outlier", "Draws of the landscape model, and theory."),
    "theory": ("landscape.sweeps.theory_cell", "mean_outlier", "Theory of the landscape model alone, at any size."),
    "spiked-covariance": ("ensembles.sweeps.spiked_covariance_cell", "top_eigenvalue", "Spiked covariance matrices."),
    "spiked-wigner": ("ensembles.sweeps.spiked_wigner_cell", "top_eigenvalue", "Spiked Wigner matrices."),
    "network": ("nets.sweeps.network_cell", "top_eigenvalue", "Train networks and measure each."),
}
"""Command to function, the result that is drawn unless told, help."""

SOME_FAILED = 3
"""Exit code of a sweep that is complete but for cells that failed."""

OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "trials": (int, 1, "Independent repetitions at each point."),
    "seed": (int, 0, "Seed of all of it."),
    "store": (Path | None, None, "Folder for the numbers; made, or gone on with. Needed unless --dry-run."),
    "workers": (int | None, None, "Processes on this machine; by default one per processor."),
    "scheduler": (str | None, None, "Address of a dask scheduler, tcp://host:8786, to run on its workers instead."),
    "retry_failed": (bool, False, "Run cells again that failed."),
    "repair": (bool, False, "Check every stored number, run cells again whose numbers are damaged or lost."),
    "dry_run": (bool, False, "Print cells, memory and an estimate from one timed cell; run nothing."),
    "plot": (Path | None, None, "Write a figure here once all is done."),
    "variable": (str | None, None, "The result to draw."),
}


def make_command(name: str) -> Callable[..., None]:
    """A command whose options are the parameters of a ready-made sweep, each taking an axis."""
    path, drawn, help_text = READY[name]
    module, _, function_name = path.rpartition(".")
    # Modules of ready-made sweeps are light: they load what they need when they run.
    function = getattr(importlib.import_module(f"rmtland.{module}"), function_name)

    def command(**given: Any) -> None:
        run(function, given, drawn)

    # What typer reads.
    source = inspect.signature(function)
    parameters, annotations = [], {}
    for parameter in source.parameters.values():
        if parameter.name == "rng":
            continue
        if isinstance(parameter.default, str):
            told = f"One name, or several with commas. Default: {parameter.default}."
        else:
            told = f"One value, several like 1,2,5, or first:last:count[:log]. Default: {parameter.default:g}."
        annotations[parameter.name] = Annotated[str | None, typer.Option(help=told)]
    defaults: dict[str, Any] = dict.fromkeys(annotations)
    for option, (kind, default, told) in OPTIONS.items():
        flags = (f"--{option.replace('_', '-')}",) if kind is bool else ()
        annotations[option] = Annotated[kind, typer.Option(*flags, help=told)]
        defaults[option] = default
    for option, annotation in annotations.items():
        parameters.append(
            inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=defaults[option], annotation=annotation)
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = annotations
    command.__doc__ = help_text
    return command


for _name in READY:
    app.command(_name)(make_command(_name))


def parse_parameters(function: Callable[..., Any], given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options as axes (those of several values) and fixed parameters (those of one)."""
    axes: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        text = given.get(name)
        if text is None:
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(parameter.default, str):
            values: Any = text.split(",")
        else:
            values = axis_option(option, text)
            whole = isinstance(parameter.default, int)
            if whole and (values != values.round()).any():
                raise ValueError(f"{option}: must be whole numbers; got {text!r}")
            values = values.astype(int if whole else float)
        if len(values) == 1:
            fixed[name] = values[0] if isinstance(values[0], str) else values[0].item()
        else:
            axes[name] = values
    return axes, fixed


def run(function: Callable[..., Any], given: dict[str, Any], drawn: str) -> None:
    """Run, plan or draw a ready-made sweep as the options say."""
    import warnings

    import rmtland as rl

    axes, fixed = parse_parameters(function, given)
    common = {"trials": given["trials"], "seed": given["seed"], "fixed": fixed}
    if given["dry_run"]:
        print(rl.plan_sweep(function, axes, workers=given["workers"], **common))
        return
    store = given["store"]
    if store is None:
        raise ValueError("`--store` must name a folder for the numbers (or use --dry-run)")
    if given["plot"] is not None and not 1 <= len(axes) <= 2:
        raise ValueError(f"`--plot` needs one or two axes of several values; got {len(axes)}")
    if given["plot"] is not None:
        figure_option("--plot", given["plot"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # failed cells are told below, and by the exit code
            dataset = rl.sweep(
                function, axes, store=store, workers=given["workers"], scheduler=given["scheduler"],
                retry_failed=given["retry_failed"], repair=given["repair"], **common,
            )  # fmt: skip
    except (KeyboardInterrupt, SystemExit) as error:
        told = "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
        print(f"rmtland: {told}; what was done is in {store}, the same command goes on", file=sys.stderr)
        raise
    except RuntimeError as error:  # workers that die, or every cell failed
        print(f"rmtland: {error}", file=sys.stderr)
        raise typer.Exit(SOME_FAILED) from None
    failed = int((dataset.status == 2).sum())
    print_sweep(dataset, Console(highlight=False))
    if given["plot"] is not None:
        write_plot(dataset, given["variable"] or drawn, given["plot"])
    if failed:
        print(
            f"rmtland: {failed} of {dataset.status.size} cells failed, `rmtland sweep show {store}` tells how; "
            "--retry-failed runs them again",
            file=sys.stderr,
        )
        raise typer.Exit(SOME_FAILED)


def write_plot(dataset: xr.Dataset, variable: str, path: Path) -> None:
    """The summary of one result as a figure, theory overlaid where the sweep has it."""
    import rmtland as rl
    from rmtland.plots.sweeps import plot_sweep

    if variable not in dataset.data_vars:
        raise ValueError(f"`--variable` must be one of {', '.join(map(str, dataset.data_vars))}; got {variable!r}")
    theory = f"theory_{variable}"
    summary = rl.summarize_sweep(dataset)
    ax = plot_sweep(summary, variable, theory=theory if theory in dataset.data_vars else None)
    with OutputFolder(path.parent) as folder:
        figure: Any = ax.figure
        figure.savefig(folder / path.name, dpi=130)
    print(f"Written to {path}")


@app.command()
def show(
    store: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    plot: Annotated[Path | None, typer.Option(help="Write a figure here.")] = None,
    variable: Annotated[str | None, typer.Option(help="The result to draw.")] = None,
) -> None:
    """What a store holds: axes, settings, how far it is, failed cells."""
    import rmtland as rl

    if plot is not None:
        figure_option("--plot", plot)
    dataset = rl.open_sweep(store)
    console = Console(highlight=False)
    attributes = dataset.attrs
    for key in ("function", "seed", "trials", "fixed", "versions", "host"):
        value = str(attributes.get(key, ""))
        if value.startswith("{"):
            value = ", ".join(f"{k} {v}" for k, v in json.loads(value).items()) or "none"
        console.print(f"{key:9} {value}", soft_wrap=True)
    print_sweep(dataset, console)
    failures = rl.sweep_failures(store)
    if len(failures):
        table = Table("failed cell", "error", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for _, row in failures.head(10).iterrows():
            where = ", ".join(f"{name}={row[name]}" for name in failures.columns[:-1])
            table.add_row(where, str(row["error"]))
        console.print(table)
        if len(failures) > 10:
            console.print(f"and {len(failures) - 10} more")
    if plot is not None:
        if variable is None and not dataset.data_vars:
            raise ValueError(f"`--plot` needs results; no cell of {store} is done")
        write_plot(dataset, variable or str(next(iter(dataset.data_vars))), plot)


def print_sweep(dataset: xr.Dataset, console: Console) -> None:
    """Axes, progress and the range of each result, in 80 columns."""
    states = [int((dataset.status == state).sum()) for state in (0, 1, 2)]
    for name in dataset.status.dims:
        if name in dataset.coords:
            axis = dataset[name].to_numpy()
            ends = f"{axis[0]} .. {axis[-1]}" if axis.dtype.kind not in "f" else f"{axis[0]:g} .. {axis[-1]:g}"
            console.print(f"{name!s:9} {axis.size} values, {ends}")
    console.print(f"cells     {sum(states):,}: {states[1]:,} done, {states[0]:,} missing, {states[2]:,} failed")
    table = Table("result", "axes", "mean", "min", "max", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, variable in dataset.data_vars.items():
        own = [f"{d} {variable.sizes[d]}" for d in variable.dims if d not in dataset.status.dims]
        told = ["", "", ""]
        if variable.dtype.kind == "f" and variable.size <= 10**7 and bool(variable.notnull().any()):
            told = [f"{float(value):.4g}" for value in (variable.mean(), variable.min(), variable.max())]
        table.add_row(str(name), ", ".join(own), *told)
    console.print(table)
