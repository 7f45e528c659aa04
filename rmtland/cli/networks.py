"""Options that name data and a network, shared by the commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from rmtland._arguments import choice, integer, real
from rmtland.nets.architectures.names import DEEP, NETWORKS

if TYPE_CHECKING:
    from rmtland.nets import Dataset

Data = Annotated[
    str,
    typer.Option(
        help="digits, clusters, mnist, fashion, cifar10, cifar100, or an .npz file of x_train, y_train, x_test, y_test."
    ),
]
DataFolder = Annotated[
    Path | None, typer.Option(help="Folder of the collections' files; by default the one that RMTLAND_DATA names.")
]
PerClass = Annotated[int | None, typer.Option(help="Keep so many training examples of every class; by default all.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch mnist, fashion or cifar10 from OpenML if not there.")]
Clusters = Annotated[int | None, typer.Option(help="Number of clusters of --data clusters; 10 unless told.")]
Covariance = Annotated[
    float | None, typer.Option(help="Covariance within the clusters of --data clusters; 1 unless told.")
]
Network = Annotated[
    str, typer.Option(help="mlp, cnn, lenet, alexnet, vgg11, resnet18, resnet20, densenet40 or transformer.")
]
Hidden = Annotated[
    str | None, typer.Option(help="Widths of the hidden layers of --network mlp, with commas; 16,16 unless told.")
]
Width = Annotated[float, typer.Option(help="Multiplies the network's channels and hidden widths.")]
LearningRate = Annotated[float, typer.Option(help="Of SGD with momentum 0.9.")]
BatchSize = Annotated[int, typer.Option(help="Examples in a step of training.")]


Epochs = Annotated[
    int | None,
    typer.Option(help="Passes of SGD over the training set; 20 unless told, 5 of a deep network, at most 6,000 steps."),
]
MOST_STEPS = 6000
DEEP_PER_CLASS, DEEP_EXAMPLES, DEEP_PRODUCTS = 1000, 100, 100
"""What `compare` trains a deep network on and measures it by unless told. Added up from parts, ResNet-20 takes about a
quarter of an hour on two cores so, and two hours with all of CIFAR-10, 300 examples and 300 products."""


def epochs_or_default(epochs: int | None, network: str, num_examples: int, batch_size: int) -> int:
    """How many epochs to train; by default what a minute or a few allow, and never fewer than two."""
    if epochs is not None:
        return epochs
    steps_per_epoch = -(-num_examples // batch_size)
    return max(2, min(5 if network in DEEP else 20, MOST_STEPS // steps_per_epoch))


def check_training(
    network: str | None,
    hidden: str | None,
    width: float,
    learning_rate: float | None = None,
    batch_size: int | None = None,
) -> list[int]:
    """The hidden widths; wrong settings are told before torch is imported. A network of None is the user's own."""
    if network is not None:
        choice("network", network, NETWORKS)
    real("width", width, above=0)
    if learning_rate is not None:
        real("learning_rate", learning_rate, above=0)
    if batch_size is not None:
        integer("batch_size", batch_size, at_least=1)
    if hidden is not None and network != "mlp":
        raise ValueError(f"`hidden` must be left out for {network or 'a network of your own'}; got {hidden!r}")
    return parse_widths("16,16" if hidden is None else hidden)


def parse_widths(text: str) -> list[int]:
    """Widths like 16,16 as a list; an empty text is a network without hidden layers."""
    try:
        widths = [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise ValueError(f"`hidden` must be whole numbers with commas, like 16,16; got {text!r}") from None
    if any(width < 1 for width in widths):
        raise ValueError(f"`hidden` must be >= 1 everywhere; got {text!r}")
    return widths


def fewer_for_deep(dataset: Dataset, network: str, seed: int) -> tuple[Dataset, int | None]:
    """As many examples of each class as `compare` takes of a deep network by default, and their number; else all."""
    smallest = int(np.bincount(dataset.y_train, minlength=dataset.num_classes).min())
    if network not in DEEP or smallest <= DEEP_PER_CLASS:
        return dataset, None
    return dataset.per_class(DEEP_PER_CLASS, seed), DEEP_PER_CLASS


def load_data(
    data: str,
    folder: Path | None,
    per_class: int | None,
    download: bool,
    clusters: int | None,
    covariance: float | None,
    network: str,
    seed: int,
) -> Dataset:
    """The data set that the options name, in the precision that the network trains in."""
    from rmtland.nets import gaussian_clusters, load_dataset

    if data != "clusters":
        for name, given in (("clusters", clusters), ("covariance", covariance)):
            if given is not None:
                raise ValueError(f"`{name}` must be left out for --data {data}; got {given}")
        dtype = "float64" if network == "mlp" else "float32"
        return load_dataset(data, folder, per_class=per_class, seed=seed, download=download, dtype=dtype)
    dataset = gaussian_clusters(
        10 if clusters is None else clusters, covariance=1.0 if covariance is None else covariance, seed=seed
    )
    return dataset if per_class is None else dataset.per_class(per_class, seed)
