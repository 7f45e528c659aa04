"""`rmtland bbp`: the transition of Baik, Ben Arous and Peche, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtland.cli.options import axis_option
from rmtland.cli.output import OutputFolder


def bbp(
    ratio: Annotated[float, typer.Option(help="Features over samples.")] = 0.5,
    spikes: Annotated[str, typer.Option(help="Population spikes, 1.5,2,3 or first:last:count[:log].")] = "1:6:40",
    features: Annotated[int, typer.Option(help="Number of features p.")] = 1_000_000,
    draws: Annotated[int, typer.Option(help="Draws per spike.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for bbp.json, bbp.txt and bbp.png.")] = Path("bbp"),
) -> None:
    """Draw the largest eigenvalue and its eigenvector through the transition, beside the theory."""
    strengths = axis_option("--spikes", spikes)
    if strengths.size < 2:
        raise ValueError(f"`--spikes` must name at least 2 strengths; got {spikes!r}")
    with OutputFolder(out) as folder:
        from matplotlib.figure import Figure

        from rmtland.ensembles.transition import bbp_transition
        from rmtland.plots.ensembles import plot_transition

        result = bbp_transition(ratio, strengths, features, draws, seed)
        result.to_json(folder / "bbp.json")
        (folder / "bbp.txt").write_text(result.table() + "\n")
        figure = Figure(figsize=(10, 4), layout="constrained")
        for ax, quantity in zip(figure.subplots(1, 2), ("eigenvalue", "overlap"), strict=True):
            plot_transition(result, quantity=quantity, ax=ax)
        figure.savefig(folder / "bbp.png", dpi=130)
    typer.echo(result.table())
    typer.echo(f"\nWritten to {out}: bbp.json, bbp.png, bbp.txt")
