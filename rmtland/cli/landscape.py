"""`rmtland landscape`: the paper's model figures, draws beside theory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from rmtland._arguments import integer, real
from rmtland.cli.output import OutputFolder, progress_bar

app = typer.Typer(help="Figures of the random model: draws beside theory.", no_args_is_help=True)

Examples = Annotated[int, typer.Option(help="Examples N.")]
Classes = Annotated[int, typer.Option(help="Classes C.")]
Parameters = Annotated[int, typer.Option(help="Parameters D.")]
SigmaZ = Annotated[float, typer.Option(help="Standard deviation of the logits.")]
Snr = Annotated[float, typer.Option(help="Signal-to-noise ratio of the logit gradients.")]
Draws = Annotated[int, typer.Option(help="Draws of the model.")]
Seed = Annotated[int, typer.Option(help="Seed of all draws.")]
Out = Annotated[Path, typer.Option(help="Folder for the figure and its numbers.")]

PAPER_SNR = 1 / 0.49
"""sigma_c sqrt(D) = 1 and sigma_E sqrt(D) = 0.7."""


@app.command()
def fig3(
    classes: Classes = 3, examples: Examples = 300, draws: Draws = 16, seed: Seed = 0, out: Out = Path("figures")
) -> None:
    """Fig. 3b: probabilities freeze as the logits grow; entropy against sigma_z."""
    from rmtland.landscape.paper.spectrum import freezing_figure

    _sizes(draws, seed, examples=examples, classes=classes)
    _run("fig3", out, lambda: freezing_figure(classes, examples, num_draws=draws, rng=seed))


@app.command()
def fig5(
    sigma_z: SigmaZ = 15.0,
    snr: Snr = PAPER_SNR,
    examples: Examples = 300,
    classes: Classes = 10,
    parameters: Parameters = 1000,
    draws: Draws = 8,
    seed: Seed = 0,
    out: Out = Path("figures"),
) -> None:
    """Fig. 5: the spectrum, bulk and C - 1 outliers."""
    _spectrum("fig5", sigma_z, snr, (examples, classes, parameters), draws, seed, out)


@app.command()
def fig6(
    sigma_z: SigmaZ = 15.0,
    snr: Snr = PAPER_SNR,
    examples: Examples = 300,
    classes: Classes = 10,
    parameters: Parameters = 1000,
    draws: Draws = 8,
    seed: Seed = 0,
    out: Out = Path("figures"),
) -> None:
    """Fig. 6: the gradient among the eigenvectors."""
    _spectrum("fig6", sigma_z, snr, (examples, classes, parameters), draws, seed, out)


def _spectrum(
    name: str, sigma_z: float, snr: float, sizes: tuple[int, int, int], draws: int, seed: int, out: Path
) -> None:
    from rmtland.landscape.model import LandscapeModel
    from rmtland.landscape.paper.spectrum import spectrum_figure

    _sizes(draws, seed, examples=sizes[0], classes=sizes[1], parameters=sizes[2])
    model = LandscapeModel.fort_ganguli(*sizes, real("sigma_z", sigma_z, at_least=0), snr=snr)
    _run(name, out, lambda: spectrum_figure(model, num_draws=draws, rng=seed))


@app.command()
def fig7(
    snr: Snr = PAPER_SNR,
    exponent: Annotated[
        float, typer.Option(help="sigma_c grows as sigma_z to this power; a peak for 0 to 1/2.")
    ] = 0.25,
    examples: Examples = 300,
    classes: Classes = 10,
    parameters: Parameters = 1000,
    draws: Draws = 4,
    seed: Seed = 0,
    out: Out = Path("figures"),
) -> None:
    """Fig. 7: the top eigenvalue against sigma_z."""
    _sweep("fig7", snr, exponent, min(10, parameters), (examples, classes, parameters), draws, seed, out)


@app.command()
def fig8(
    snr: Snr = PAPER_SNR,
    exponent: Annotated[float, typer.Option(help="sigma_c grows as sigma_z to this power.")] = 0.25,
    dimension: Annotated[int, typer.Option(help="Dimension of the random hyperplanes.")] = 10,
    examples: Examples = 300,
    classes: Classes = 10,
    parameters: Parameters = 1000,
    draws: Draws = 4,
    seed: Seed = 0,
    out: Out = Path("figures"),
) -> None:
    """Fig. 8: Trace/||.|| against sigma_z, also on random hyperplanes."""
    _sweep("fig8", snr, exponent, dimension, (examples, classes, parameters), draws, seed, out)


def _sweep(
    name: str,
    snr: float,
    exponent: float,
    dimension: int,
    sizes: tuple[int, int, int],
    draws: int,
    seed: int,
    out: Path,
) -> None:
    from rmtland.landscape.paper.sweeps import sweep_figure

    _sizes(draws, seed, examples=sizes[0], classes=sizes[1], parameters=sizes[2])
    integer("dimension", dimension, at_least=1, at_most=sizes[2])
    real("snr", snr, above=0)
    real("exponent", exponent)
    with _progress(name) as advance:
        _run(
            name,
            out,
            lambda: sweep_figure(
                *sizes, snr, schedule=exponent, num_draws=draws, dimension=dimension, rng=seed, progress=advance
            ),
        )


@app.command()
def phase(
    examples: Examples = 300,
    classes: Classes = 10,
    parameters: Parameters = 1000,
    draws: Annotated[int, typer.Option(help="Logit draws to average the theory over.")] = 1,
    seed: Seed = 0,
    out: Out = Path("figures"),
) -> None:
    """Phase diagram of (sigma_z, SNR): outliers, gradient power, Trace/||.||."""
    from rmtland.landscape.paper.sweeps import phase_figure

    _sizes(draws, seed, fewest=1, examples=examples, classes=classes, parameters=parameters)
    _run("phase", out, lambda: phase_figure(examples, classes, parameters, num_draws=draws, rng=seed))


@app.command("h-term")
def h_term(
    sigma_z: SigmaZ = 15.0,
    snr: Snr = PAPER_SNR,
    examples: Examples = 300,
    classes: Classes = 10,
    parameters: Parameters = 1000,
    draws: Draws = 8,
    seed: Seed = 0,
    out: Out = Path("figures"),
) -> None:
    """Sec. 3.1: outliers swallowed as the H-term grows; draws cost D^3."""
    from rmtland.landscape.model import LandscapeModel
    from rmtland.landscape.paper.h_term import h_term_figure

    _sizes(draws, seed, examples=examples, classes=classes, parameters=parameters)
    model = LandscapeModel.fort_ganguli(
        examples, classes, parameters, real("sigma_z", sigma_z, at_least=0), snr=real("snr", snr, above=0)
    )
    with _progress("h-term") as advance:
        _run("h-term", out, lambda: h_term_figure(model, num_draws=draws, rng=seed, progress=advance))


def _sizes(draws: int, seed: int, *, fewest: int = 2, **sizes: int) -> None:
    """Told before anything is drawn, by the names of the options."""
    for name, size in sizes.items():
        integer(name, size, at_least=1 if name == "parameters" else 2)
    integer("draws", draws, at_least=fewest)
    integer("seed", seed, at_least=0)


class _progress:
    """A bar on a terminal, nothing elsewhere; entered, it is called with (done, total)."""

    def __init__(self, what: str) -> None:
        self.bar = progress_bar(Console(stderr=True))
        self.task = self.bar.add_task(what, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self.bar.start()
        return lambda done, total: self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _run(name: str, out: Path, compute: Callable[[], Any]) -> None:
    """Compute, write NAME.png and NAME.json together, and print the paper's statements beside ours."""
    with OutputFolder(out) as folder:
        result = compute()
        from rmtland.plots import landscape as plots

        others = {"phase": plots.phase_diagram, "h-term": plots.h_term}
        draw = others[name] if name in others else getattr(plots, f"figure{name[-1]}")
        draw(result).savefig(folder / f"{name}.png", dpi=130)
        (folder / f"{name}.json").write_text(json.dumps(_plain(result), allow_nan=False) + "\n")
    for paper, here in result.statements:
        typer.echo(f"paper: {paper}\n here: {here}")
    typer.echo(f"Written to {out}: {name}.json, {name}.png")


def _plain(value: Any) -> Any:
    """Numbers and lists, None for what JSON has no number for; laws by their text."""
    if isinstance(value, np.ndarray):
        return [_plain(entry) for entry in value.tolist()]
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, (int, str)) or value is None:
        return value
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("rmtland.landscape.paper"):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return repr(value)
