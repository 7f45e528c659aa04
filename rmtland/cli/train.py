"""`rmtland train`: train a network and measure it as it trains; stopped, the same command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rmtland._arguments import integer
from rmtland.cli.networks import (
    BatchSize,
    Clusters,
    Covariance,
    Data,
    DataFolder,
    Download,
    Epochs,
    Hidden,
    LearningRate,
    Network,
    PerClass,
    Width,
    check_training,
    epochs_or_default,
    load_data,
)
from rmtland.cli.output import progress_bar

if TYPE_CHECKING:
    import xarray as xr

    from rmtland.nets import Training

INTERRUPTED = 130

Every = Annotated[
    int | None, typer.Option(help="Measure every so many steps; by default at 0, 1, 2, 4, 8, ... and at the end.")
]
Statistics = Annotated[
    str | None,
    typer.Option(
        help="Of outputs, logit_scales, lengths, clustering, gauss_newton, hessian (all of these unless told) and "
        "hierarchy, with commas."
    ),
]
Examples = Annotated[
    int | None,
    typer.Option(help="Examples to measure on, of the training and of the test set; 300 unless told, or all."),
]


def train(
    data: Data = "digits",
    data_folder: DataFolder = None,
    per_class: PerClass = None,
    download: Download = False,
    clusters: Clusters = None,
    covariance: Covariance = None,
    network: Network = "mlp",
    hidden: Hidden = None,
    width: Width = 1.0,
    epochs: Epochs = None,
    learning_rate: LearningRate = 0.05,
    batch_size: BatchSize = 32,
    examples: Examples = None,
    every: Every = None,
    statistics: Statistics = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, training, chosen examples and probes.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for record, checkpoint.pt and settings.json.")] = Path("training"),
) -> None:
    """Train a network and measure it at chosen steps; after Ctrl-C or a kill the same command goes on."""
    widths = check_training(network, hidden, width, learning_rate, batch_size)
    if examples is not None:
        integer("examples", examples, at_least=2)
    if epochs is not None:
        integer("epochs", epochs, at_least=1)
    integer("seed", seed, at_least=0)
    if every is not None:
        integer("every", every, at_least=1)
    settings = {
        "data": data, "data_folder": None if data_folder is None else str(data_folder), "per_class": per_class,
        "clusters": clusters, "covariance": covariance, "network": network,
        "hidden": widths if network == "mlp" else None, "width": width, "epochs": epochs,
        "learning_rate": learning_rate, "batch_size": batch_size, "examples": examples, "every": every,
        "statistics": statistics, "seed": seed,
    }  # fmt: skip
    # What can be told before data are read is told then.
    later = ("epochs", None), ("examples", None)
    check_folder(out, {name: value for name, value in settings.items() if (name, value) not in later})
    from rmtland.nets import Training
    from rmtland.nets.training import MOST_PROBES, choose_probes, network_and_data

    dataset = load_data(data, data_folder, per_class, download, clusters, covariance, network, seed)
    module, dataset = network_and_data(dataset, network, hidden=widths, width=width, seed=seed)
    epochs = settings["epochs"] = epochs_or_default(epochs, network, len(dataset.x_train), batch_size)
    examples = settings["examples"] = min(MOST_PROBES, len(dataset.x_train)) if examples is None else examples
    check_folder(out, settings)
    training = Training(
        module, dataset.x_train, dataset.y_train, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size,
        seed=seed,
    )  # fmt: skip
    probes = choose_probes(dataset, examples, seed)
    names = parse_statistics(statistics)
    prepare_folder(out, settings)
    console = Console(highlight=False)
    if run(training, probes, names, every, seed, out, console):
        print(f"rmtland: interrupted after step {training.step}; the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    from rmtland.nets import open_record

    print_record(open_record(out / "record"), console)
    console.print(f"\nWritten to {out}: checkpoint.pt, record, settings.json")


def run(
    training: Training,
    probes: dict[str, Any],
    statistics: tuple[str, ...],
    every: int | None,
    seed: int,
    out: Path,
    console: Console,
) -> bool:
    """Train to the end, a checkpoint after each epoch; True where Ctrl-C stopped it, with a checkpoint there too."""
    from rmtland.nets import TrainingRecord
    from rmtland.nets.training import load_checkpoint, save_checkpoint

    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        load_checkpoint(training, checkpoint)
        console.print(f"going on after step {training.step} of {training.num_steps}")
    each, last = training.steps_per_epoch, training.num_steps
    chosen = range(0, last, every) if every is not None else [0, *(2**i for i in range(last.bit_length()))]
    record = TrainingRecord(
        out / "record", training.module, probes["train"], test=probes.get("test"), steps={*chosen, last},
        start=training.step, statistics=statistics, seed=seed,
    )  # fmt: skip
    with progress_bar(console) as progress, stopping() as stop:
        task = progress.add_task("steps", total=last, completed=training.step)
        for step in training:
            record.step(step)
            progress.update(task, completed=step)
            if step % each == 0 or stop:
                save_checkpoint(training, checkpoint)
            if stop and step < last:
                return True
    return False


@contextlib.contextmanager
def stopping() -> Iterator[list[int]]:
    """A list that Ctrl-C puts something into, so that no step is left half done; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def check_folder(out: Path, settings: dict[str, Any]) -> None:
    """ValueError for a folder that holds something else than this training."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        there = json.loads((out / "settings.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"`out` must be new, an empty folder or a training to go on with; got {out}") from None
    for name, value in settings.items():
        if there.get(name) != value:
            raise ValueError(
                f"`out` must be a training with the same settings to go on with; {out} has {name} = "
                f"{there.get(name)!r}, not {value!r}"
            )


def prepare_folder(out: Path, settings: dict[str, Any]) -> None:
    """The folder with its settings, told before the work begins where it cannot be made."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "settings.json"
    if not path.exists():
        waiting = out / ".settings.json"
        waiting.write_text(json.dumps(settings, indent=1) + "\n")
        os.replace(waiting, path)


def parse_statistics(text: str | None) -> tuple[str, ...]:
    """Names with commas, all where there is no text; ValueError for another name."""
    from rmtland.nets.moment import STATISTICS, checked_statistics

    return STATISTICS if text is None else checked_statistics([name.strip() for name in text.split(",")])


SHOWN = {
    "loss": "loss", "accuracy": "acc", "logit_variance": "var z", "q_same_logit_same_class": "q_SLSC",
    "hessian": "Hess 1", "gauss_newton": "G 1", "gauss_newton_gradient_power": "power",
    "gauss_newton_goldilocks_ratio": "Tr/|G|",
}  # fmt: skip
"""Numbers of a record that are printed, and what they are called in 80 columns."""


def print_record(record: xr.Dataset, console: Console) -> None:
    """A line for each step and split."""
    columns = {}
    for name, title in SHOWN.items():
        if name in record:
            columns[title] = record[name]
        elif f"{name}_eigenvalues" in record:
            columns[title] = record[f"{name}_eigenvalues"].sel(rank=1)
    named = "checkpoint" in record.coords
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("checkpoint" if named else "step", "split", *columns):
        table.add_column(title, no_wrap=title != "checkpoint", overflow="fold")
    for place, step in enumerate(record["step"].to_numpy()):
        for split in record["split"].to_numpy():
            numbers = [f"{float(values.isel(step=place).sel(split=split)):.3g}" for values in columns.values()]
            table.add_row(str(record["checkpoint"].to_numpy()[place]) if named else str(step), str(split), *numbers)
    console.print(table)
