"""`rmtland compare`: a network beside the random model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rmtland._arguments import choice, integer
from rmtland.cli.networks import (
    BatchSize,
    Clusters,
    Covariance,
    Data,
    DataFolder,
    Download,
    Hidden,
    LearningRate,
    Network,
    PerClass,
    Width,
    check_training,
    load_data,
)
from rmtland.cli.output import OutputFolder
from rmtland.comparison.result import GAP_RULES, QUANTITIES, REMEDIES, RUNGS, Comparison


def compare(
    data: Data = "digits",
    data_folder: DataFolder = None,
    per_class: PerClass = None,
    download: Download = False,
    clusters: Clusters = None,
    covariance: Covariance = None,
    network: Network = "mlp",
    hidden: Hidden = None,
    width: Width = 1.0,
    examples: Annotated[int, typer.Option(help="Training examples to measure on.")] = 300,
    epochs: Annotated[
        int, typer.Option(help="Passes of SGD over the training set; mid training is half of them.")
    ] = 20,
    learning_rate: LearningRate = 0.05,
    batch_size: BatchSize = 32,
    draws: Annotated[int, typer.Option(help="Draws of each model rung.")] = 8,
    outliers: Annotated[str, typer.Option(help="Rule that counts outliers: ratio, gap or elbow.")] = "ratio",
    seed: Annotated[int, typer.Option(help="Seed of weights, training, chosen examples and draws.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for comparison.json and the figures.")] = Path("report"),
) -> None:
    """Train a network and set it beside the random model, rung by rung."""
    console = Console()
    # Before torch is imported and a network trained, not after.
    widths = check_training(network, hidden, width, learning_rate, batch_size)
    settings = {
        "data": data, "per_class": per_class, "network": network,
        "hidden": ",".join(map(str, widths)) if network == "mlp" else None, "width": width,
        "clusters": clusters, "covariance": covariance, "examples": examples, "epochs": epochs,
        "learning_rate": learning_rate, "batch_size": batch_size, "draws": draws, "seed": seed,
    }  # fmt: skip
    integer("examples", examples, at_least=2)
    integer("epochs", epochs, at_least=2)
    integer("draws", draws, at_least=2)
    integer("seed", seed, at_least=0)
    choice("outliers", outliers, GAP_RULES)
    with OutputFolder(out) as folder:
        from rmtland.comparison.compare import compare as run_comparison
        from rmtland.nets import training_stages

        with Progress(
            TextColumn("{task.description:45}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        ) as progress:  # fmt: skip
            dataset = load_data(data, data_folder, per_class, download, clusters, covariance, network, seed)
            count = len(dataset.x_train)
            training = progress.add_task(f"epochs over {count:,} examples", total=epochs)
            steps_per_epoch = -(-count // batch_size)
            stages = training_stages(
                dataset, network=network, hidden=widths, width=width, epochs=epochs, num_examples=examples,
                learning_rate=learning_rate, batch_size=batch_size, seed=seed,
                after_step=lambda step: progress.update(training, completed=step / steps_per_epoch),
            )  # fmt: skip
            progress.update(training, completed=epochs)
            measuring = progress.add_task("measuring", total=None)
            comparison = run_comparison(
                stages, num_draws=draws, outlier_method=outliers, rng=seed, settings=settings,
                progress=lambda what, done, total: progress.update(
                    measuring, description=what, completed=done, total=total
                ),
            )  # fmt: skip
        comparison.to_json(folder / "comparison.json")
        for name, figure in comparison.plot().items():
            figure.savefig(folder / f"{name}.png", dpi=130)
    print_comparison(comparison, console)
    names = ", ".join(sorted(path.name for path in out.iterdir() if path.suffix in {".json", ".png"}))
    console.print(f"\nWritten to {out}: {names}", highlight=False)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Two tables per stage on the terminal, 80 columns wide: the ladder, and other laws beside G."""
    frame = comparison.table()
    console.print(
        "Each rung replaces one more real thing by the model; 0.41(1): mean and s.d. over draws.", style="dim"
    )
    console.print("  ".join(comparison.rung_labels.values()), style="dim", highlight=False)
    for name, stage in comparison.stages.items():
        num_examples, num_classes, num_parameters = stage.sizes
        outputs, scales = stage.outputs, stage.scales
        console.print(f"\n{name}", style="bold", highlight=False)
        console.print(
            f"N={num_examples} C={num_classes} D={num_parameters:,}, accuracy {outputs.accuracy:.1%}, "
            f"loss {outputs.loss:.3g}, entropy {outputs.entropy:.3g} nats,\n"
            f"mean top probability {outputs.max_probability:.3f}; measured scales: sigma_z {scales.sigma_z:.3g},\n"
            f"sigma_c {scales.sigma_c:.3g}, sigma_E {scales.sigma_E:.3g}, SNR {scales.snr:.3g}",
            highlight=False,
        )
        # Eight rungs are wider than a terminal: the remedies in a table of their own, beside what they should match.
        for rungs in (
            [rung for rung in stage.rungs if rung not in REMEDIES],
            ["gauss_newton", *(rung for rung in stage.rungs if rung in REMEDIES)],
        ):
            table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            table.add_column("", no_wrap=True)
            for rung in rungs:
                table.add_column(RUNGS[rung][:3], justify="right", no_wrap=True)
            for quantity, label in QUANTITIES.items():
                table.add_row(label, *(str(frame.loc[quantity, (name, RUNGS[rung])]) for rung in rungs))
            console.print(table)
