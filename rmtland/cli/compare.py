"""`rmtland compare`: a network beside the random model."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rmtland._arguments import choice, integer
from rmtland.cli.networks import (
    DEEP_EXAMPLES,
    DEEP_PRODUCTS,
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
    Width,
    check_training,
    epochs_or_default,
    fewer_for_deep,
    load_data,
)
from rmtland.cli.output import OutputFolder, progress_bar
from rmtland.comparison.result import (
    BESIDE,
    GAP_RULES,
    HIERARCHY,
    QUANTITIES,
    RUNGS,
    Comparison,
    Stage,
    with_deviation,
)
from rmtland.nets.architectures.names import DEEP

STAGES = ("initialisation", "mid training", "end of training")
"""What `training_stages` names."""
COLUMNS = 4
"""Rungs of a table that 80 characters hold, beside G."""
MOST_WORKERS = 6
"""Processes at the most unless told, as each takes seconds to start and half a gigabyte: of each stage two."""
MANY_ROWS = 1000
"""Logit gradients N (C - 1) below which a stage takes less than processes take to start."""
UNBROKEN = "\N{NO-BREAK SPACE}"


def compare(
    data: Data = "digits",
    data_folder: DataFolder = None,
    per_class: Annotated[
        int | None,
        typer.Option(help="Keep so many training examples of every class; by default all, 1,000 for a deep network."),
    ] = None,
    download: Download = False,
    clusters: Clusters = None,
    covariance: Covariance = None,
    network: Network = "mlp",
    hidden: Hidden = None,
    width: Width = 1.0,
    examples: Annotated[
        int | None, typer.Option(help="Training examples to measure on; 300 unless told, 100 of a deep network.")
    ] = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = 0.05,
    batch_size: BatchSize = 32,
    draws: Annotated[int, typer.Option(help="Draws of each model rung.")] = 8,
    rungs: Annotated[
        str | None, typer.Option(help="Rungs to measure, with commas: a,b,g, or names as the JSON has; else all.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Stages to measure, with commas, of initialisation, mid and end; else all.")
    ] = None,
    products: Annotated[
        int | None,
        typer.Option(help="Products with a Hessian too large to diagonalise; 300 unless told, 100 of a deep network."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="parameter_groups: every layer's ladder too, its weights and biases apart.")
    ] = None,
    hierarchy: Annotated[
        bool, typer.Option("--hierarchy", help="Rank, trace share and top eigenvalue of A1, A2, B1 and B2 too.")
    ] = False,
    outliers: Annotated[str, typer.Option(help="Rule that counts outliers: ratio, gap or elbow.")] = "ratio",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes to share stages and rungs among; one per processor where a stage takes long, 1 for "
            "a deep network, whose graphs fill the memory."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, training, chosen examples and draws.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for comparison.json and the figures.")] = Path("report"),
) -> None:
    """Train a network and set it beside the random model, rung by rung."""
    console = Console(highlight=False)
    # Before torch is imported and a network trained, not after.
    widths = check_training(network, hidden, width, learning_rate, batch_size)
    chosen, measured = parse_rungs(rungs), parse_stages(stages)
    settings = {
        "data": data, "per_class": per_class, "network": network,
        "hidden": ",".join(map(str, widths)) if network == "mlp" else None, "width": width,
        "clusters": clusters, "covariance": covariance, "examples": examples, "epochs": epochs,
        "learning_rate": learning_rate, "batch_size": batch_size, "draws": draws, "rungs": list(chosen),
        "stages": list(measured), "by": by, "seed": seed,
    }  # fmt: skip
    told, examples = examples, _default(examples, network, 300, DEEP_EXAMPLES)
    integer("examples", examples, at_least=2)
    if epochs is not None:
        integer("epochs", epochs, at_least=2)
    products = _default(products, network, 300, DEEP_PRODUCTS)
    integer("products", products, at_least=40)
    integer("draws", draws, at_least=2)
    choice("by", by, (None, "parameter_groups"))
    integer("seed", seed, at_least=0)
    choice("outliers", outliers, GAP_RULES)
    if workers is not None:
        integer("workers", workers, at_least=1)
    with OutputFolder(out) as folder:
        from rmtland.comparison.compare import compare as run_comparison
        from rmtland.comparison.workers import Workers
        from rmtland.nets import training_stages

        with ExitStack() as stack, progress_bar(console, "{task.description:45}") as progress:
            dataset = load_data(data, data_folder, per_class, download, clusters, covariance, network, seed)
            if per_class is None:
                dataset, settings["per_class"] = fewer_for_deep(dataset, network, seed)
            count = len(dataset.x_train)
            examples = settings["examples"] = examples if told is not None else min(examples, count)
            if workers is None:
                workers = default_workers(network, examples * (dataset.num_classes - 1))
            processes: int | Workers = workers
            if workers > 1:  # they import what they need while this process trains
                needed = "rmtland.comparison.compare", "rmtland.nets.gradients"
                processes = stack.enter_context(Workers(workers, needed))
            epochs = settings["epochs"] = epochs_or_default(epochs, network, count, batch_size)
            training = progress.add_task(f"epochs over {count:,} examples", total=epochs)
            steps_per_epoch = -(-count // batch_size)
            sources = training_stages(
                dataset, network=network, hidden=widths, width=width, epochs=epochs, num_examples=examples,
                learning_rate=learning_rate, batch_size=batch_size, seed=seed,
                after_step=lambda step: progress.update(training, completed=step / steps_per_epoch),
            )  # fmt: skip
            progress.update(training, completed=epochs)
            measuring = progress.add_task("measuring", total=None)
            comparison = run_comparison(
                sources, num_draws=draws, rungs=chosen, stages=measured, by=by, outlier_method=outliers,
                num_products=products, hierarchy=hierarchy, rng=seed, settings=settings, workers=processes,
                progress=lambda what, done, total: progress.update(
                    measuring, description=what, completed=done, total=total
                ),
            )  # fmt: skip
        comparison.to_json(folder / "comparison.json")
        for name, figure in comparison.plot().items():
            figure.savefig(folder / f"{name}.png", dpi=130)
    print_comparison(comparison, console)
    names = ", ".join(sorted(path.name for path in out.iterdir() if path.suffix in {".json", ".png"}))
    console.print(f"\nWritten to {out}: {names}")


def _default(given: int | None, network: str, usual: int, of_deep: int) -> int:
    return given if given is not None else of_deep if network in DEEP else usual


def default_workers(network: str, num_rows: int) -> int:
    """One per processor where stages of so many logit gradients N (C - 1) take longer than processes take to start."""
    from joblib import cpu_count

    return 1 if network in DEEP or num_rows < MANY_ROWS else min(cpu_count(), MOST_WORKERS)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Tables per stage on the terminal, 80 columns wide: ladder, what is beside it, the theory, scores."""
    frame = comparison.table()
    console.print(
        "From rung to rung there is less of the network and more of the model.\n"
        "0.41(1): mean and standard deviation over draws, or an estimate and its error",
        style="dim",
    )
    labels = "  ".join(label.replace(" ", UNBROKEN) for label in comparison.rung_labels.values())
    console.print(textwrap.fill(labels, 80).replace(UNBROKEN, " "), style="dim")
    stages = list(comparison.stages)
    whole = [name for name in stages if not any(name.startswith(f"{other}: ") for other in stages)]
    for name in whole:
        stage = comparison.stages[name]
        num_examples, num_classes, num_parameters = stage.sizes
        outputs, scales = stage.outputs, stage.scales
        console.print(f"\n{name}", style="bold")
        console.print(
            f"N={num_examples} C={num_classes} D={num_parameters:,}, accuracy {outputs.accuracy:.1%}, "
            f"loss {outputs.loss:.3g}, entropy {outputs.entropy:.3g} nats,\n"
            f"mean top probability {outputs.max_probability:.3f}; measured scales: sigma_z {scales.sigma_z:.3g},\n"
            f"sigma_c {scales.sigma_c:.3g}, sigma_E {scales.sigma_E:.3g}, SNR {scales.snr:.3g}",
        )
        ladder = [rung for rung in stage.rungs if rung not in BESIDE]
        others = [rung for rung in stage.rungs if rung in BESIDE]
        beside = [rung for rung in ("gauss_newton",) if rung in ladder]
        first, later = ladder[:COLUMNS], ladder[COLUMNS:]
        for shown in (first, *([*beside, *part] for part in (*in_parts(later), *in_parts(others)))):
            if shown:
                print_rungs(frame[name], shown, console)
        predicted = [rung for rung, found in stage.rungs.items() if found.theory]
        for rungs in in_parts(predicted, COLUMNS + 1):
            print_rungs(comparison.theory()[name], rungs, console, "what the theory expects")
        print_scores(stage, console)
        layers = [other for other in stages if other.startswith(f"{name}: ")]
        if layers:
            print_layers(comparison, name, layers, console)


def in_parts(rungs: Sequence[str], size: int = COLUMNS) -> list[Sequence[str]]:
    """As many rungs at a time as fit a table."""
    return [rungs[start : start + size] for start in range(0, len(rungs), size)]


def print_rungs(frame: Any, rungs: Sequence[str], console: Console, title: str | None = None) -> None:
    """One table of some rungs of one stage, without the rows that none of them has."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title)
    table.add_column("", no_wrap=True)
    for rung in rungs:
        table.add_column(RUNGS[rung].split()[0], justify="right", no_wrap=True)
    for quantity in frame.index:
        cells = [str(frame.loc[quantity, RUNGS[rung]]) for rung in rungs]
        if any(cells):
            table.add_row({**QUANTITIES, **HIERARCHY}[quantity], *cells)
    console.print(table)


def print_scores(stage: Stage, console: Console) -> None:
    """A line for each rung: how near it is to G, and how much it was told."""
    found = stage.scores()
    if not found:
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="beside (b) G")
    table.add_column("", no_wrap=True)
    for title in ("top 2C", "edge", "power", "ratio", "W1", "numbers"):
        table.add_column(title, justify="right", no_wrap=True)
    for rung, scores in found.items():
        values = list(scores.to_dict().values())
        cells = [
            "" if math.isnan(value) else f"{value:{sign}.3f}" for value, sign in zip(values[:5], " +++ ", strict=True)
        ]
        table.add_row(RUNGS[rung], *cells, "" if math.isnan(values[5]) else f"{values[5]:,.0f}")
    console.print(table)


def print_layers(comparison: Comparison, of: str, layers: Sequence[str], console: Console) -> None:
    """A line for each layer of a stage: its size, clustering, scales, and the top and trace of a measured matrix."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rung = next((name for name in comparison.rung_labels if name in ("hessian", "gauss_newton")), None)
    shown = {} if rung is None else {name: QUANTITIES[name] for name in ("top_eigenvalue", "trace", "goldilocks_ratio")}
    of_rung = "" if rung is None else f"; eigenvalue and traces of {RUNGS[rung].split()[0]}"
    table.title = f"{of}, layer by layer{of_rung}"
    table.add_column("", overflow="fold")
    for title in ("D", "q_SLSC", "q_SL", "SNR", *shown.values()):
        table.add_column(title, justify="right", no_wrap=True)
    frame = comparison.table()
    for name in layers:
        stage, q = comparison.stages[name], comparison.stages[name].clustering
        cells = [] if rung is None else [str(frame.loc[row, (name, RUNGS[rung])]) for row in shown]
        clustered = with_deviation(q.same_logit_same_class, q.same_logit_same_class_error)
        table.add_row(
            name.removeprefix(f"{of}: "), f"{stage.sizes[2]:,}", clustered,
            with_deviation(q.same_logit, q.same_logit_error), f"{stage.scales.snr:.3g}", *cells,
        )  # fmt: skip
    console.print(table)


def parse_rungs(text: str | None) -> tuple[str, ...]:
    """Rungs by letter or name, with commas; all where there is no text."""
    if text is None:
        return tuple(RUNGS)
    letters = {label[1]: name for name, label in RUNGS.items()}
    names = [letters.get(part.strip(), part.strip()) for part in text.split(",")]
    for name in names:
        if name not in RUNGS:
            raise ValueError(f"`rungs` must be letters a to {max(letters)} or {', '.join(RUNGS)}; got {name!r}")
    return tuple(name for name in RUNGS if name in names)


def parse_stages(text: str | None) -> tuple[str, ...]:
    """Stages by their names or the first words of these, with commas; all where there is no text."""
    if text is None:
        return STAGES
    first_words = {name.split()[0]: name for name in STAGES}
    names = [first_words.get(part.strip(), part.strip()) for part in text.split(",")]
    for name in names:
        if name not in STAGES:
            raise ValueError(f"`stages` must be {', '.join(first_words)}, with commas between; got {name!r}")
    return tuple(name for name in STAGES if name in names)
