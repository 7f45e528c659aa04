"""`rmtland measure`: networks from checkpoints, measured after the fact."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rmtland._arguments import integer
from rmtland.cli.networks import (
    Clusters,
    Covariance,
    Data,
    DataFolder,
    Download,
    Hidden,
    PerClass,
    Width,
    check_training,
    load_data,
)
from rmtland.cli.train import Examples, Statistics, parse_statistics, print_record


def measure(
    checkpoints: Annotated[list[Path], typer.Argument(help="Files by torch.save; nothing in them is run.")],
    module: Annotated[
        str | None, typer.Option(help="pkg.mod:build, a function that makes the network; or else --network.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="A network of ours by name, as `rmtland train` has it, instead of --module.")
    ] = None,
    hidden: Hidden = None,
    width: Width = 1.0,
    data: Data = "digits",
    data_folder: DataFolder = None,
    per_class: PerClass = None,
    download: Download = False,
    clusters: Clusters = None,
    covariance: Covariance = None,
    flatten: Annotated[bool, typer.Option("--flatten", help="Give the network of --module flat vectors.")] = False,
    examples: Examples = None,
    statistics: Statistics = None,
    seed: Annotated[int, typer.Option(help="Seed of chosen examples and probes.")] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for the record; checkpoints that it has already are not measured again.")
    ] = Path("measured"),
) -> None:
    """Measure a network at one or more checkpoints, in the order they are named."""
    if module is not None and network is not None:
        raise ValueError(f"`module` or `network` must be given, not both; got {module!r} and {network!r}")
    if module is None and network is None:
        raise ValueError(
            f"`module` or `network` must say which network the checkpoints are of; got neither{hint(checkpoints[0])}"
        )
    widths = check_training(network, hidden, width)
    if examples is not None:
        integer("examples", examples, at_least=2)
    integer("seed", seed, at_least=0)
    for path in checkpoints:
        if not path.is_file():
            raise FileNotFoundError(f"`checkpoints` must be files; found none at {path}")
    build = None if module is None else import_builder(module)
    from rmtland.nets import measure_checkpoints
    from rmtland.nets.training import choose_probes, network_and_data

    # The precision of a network of ours is the one it trains in; another's inputs are cast to its own.
    dataset = load_data(data, data_folder, per_class, download, clusters, covariance, network or "cnn", seed)
    if network is not None:
        built, dataset = network_and_data(dataset, network, hidden=widths, width=width, seed=seed)
        build = lambda: built  # noqa: E731
    elif dataset.x_train.ndim > 2 and not flatten:
        dataset = dataset.as_images()
    probes = choose_probes(dataset, examples, seed)
    if flatten:
        probes = {split: (x.flatten(1), y) for split, (x, y) in probes.items()}
    names = parse_statistics(statistics)
    assert build is not None
    try:
        record = measure_checkpoints(
            checkpoints, build, probes["train"], test=probes.get("test"), path=out, statistics=names, seed=seed,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"rmtland: interrupted; what was measured is in {out}, the same command goes on", file=sys.stderr)
        raise
    console = Console(highlight=False)
    print_record(record, console)
    console.print(f"\nWritten to {out}")


def hint(checkpoint: Path) -> str:
    """The options that fit a checkpoint of `rmtland train`, from the settings beside it; nothing for another's."""
    try:
        settings = json.loads((checkpoint.parent / "settings.json").read_text())
        settings["hidden"] = ",".join(map(str, settings["hidden"])) if settings["hidden"] else None
        names = ("network", "hidden", "width", "data", "data_folder", "per_class", "clusters", "covariance", "seed")
        options = [f"--{name.replace('_', '-')} {settings[name]}" for name in names if settings[name] is not None]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f". That of {checkpoint} was trained with {' '.join(options)}"


def import_builder(text: str) -> Callable[[], Any]:
    """The function that pkg.mod:build names, looked for in the current folder too."""
    name, colon, attribute = text.partition(":")
    if not colon or not name or not attribute:
        raise ValueError(f"`module` must be pkg.mod:build; got {text!r}")
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there, and misses another
        raise ModuleNotFoundError(f"`module` must name a module that can be imported; found no {name}") from None
    finally:
        sys.path.remove("")
    build = getattr(found, attribute, None)
    if not callable(build):
        raise ValueError(f"`module` must name a function of {name}; found no callable {attribute!r}")
    return build  # type: ignore[no-any-return]
