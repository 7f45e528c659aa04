"""A trained network's landscape as a function that `rmtland.sweep` runs over widths, classes and weight scales."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from rmtland._arguments import integer, real

if TYPE_CHECKING:
    from rmtland.nets.datasets import Dataset


def network_cell(
    width: int = 16,
    num_classes: int = 10,
    weight_scale: float = 1.0,
    depth: int = 2,
    epochs: int = 10,
    num_examples: int = 200,
    data: str = "digits",
    *,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Train a fully connected network and measure its logits, logit gradients and Gauss-Newton spectrum.

    Parameters
    ----------
    width : int
        Of each hidden layer.
    num_classes : int
        The first so many classes of the data set.
    weight_scale : float
        Initial weights and biases times this.
    depth : int
        Number of hidden layers.
    epochs : int
        Passes over the training set; 0 measures the network as initialised.
    num_examples : int
        Training examples to measure on, chosen at random.
    data : str
        As `load_dataset` takes.
    rng : numpy.random.Generator
        Of the weights, the order of examples and the choice of those measured: a trial is a seed.

    Returns
    -------
    dict of str to float
        accuracy, loss, sigma_z, snr, clustering (q_SLSC), top_eigenvalue, gradient_power in the top C - 1 eigenvectors
        and goldilocks_ratio of the Gauss-Newton matrix.

    Raises
    ------
    ValueError
        For sizes out of range.
    """
    import torch

    from rmtland.logits.clustering import clustering
    from rmtland.logits.gauss_newton import gauss_newton_spectrum
    from rmtland.logits.outputs import output_statistics
    from rmtland.logits.scales import logit_scales
    from rmtland.nets.architectures.perceptrons import mlp
    from rmtland.nets.datasets import load_dataset
    from rmtland.nets.gradients import NetworkLogitGradients
    from rmtland.nets.training import train

    integer("width", width, at_least=1)
    integer("depth", depth, at_least=0)
    dataset = first_classes(load_dataset(data), num_classes)
    integer("num_examples", num_examples, at_least=2, at_most=len(dataset.x_train))
    seed = int(rng.integers(2**31))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch has a pool of its own that workers of a sweep must not use either
    try:
        inputs = int(np.prod(dataset.x_train.shape[1:]))
        module = mlp([inputs, *[width] * depth, dataset.num_classes], seed=seed)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(real("weight_scale", weight_scale, above=0))
        train(module, dataset.x_train, dataset.y_train, epochs=epochs, seed=seed)
        chosen = np.sort(rng.permutation(len(dataset.x_train))[:num_examples])
        source = NetworkLogitGradients(module, dataset.x_train[chosen], dataset.y_train[chosen])
        outputs, scales, spectrum = output_statistics(source), logit_scales(source), gauss_newton_spectrum(source)
        return {
            "accuracy": float(outputs.accuracy),
            "loss": float(outputs.loss),
            "sigma_z": float(scales.sigma_z),
            "snr": float(scales.snr),
            "clustering": float(clustering(source).same_logit_same_class),
            "top_eigenvalue": float(spectrum.eigenvalues[-1]),
            "gradient_power": float(np.sum(spectrum.powers[-(dataset.num_classes - 1) :])),
            "goldilocks_ratio": float(spectrum.goldilocks_ratio()),
        }
    finally:
        torch.set_num_threads(threads)


def first_classes(dataset: Dataset, num_classes: int) -> Dataset:
    """The data set without the classes from number `num_classes` on."""
    integer("num_classes", num_classes, at_least=2, at_most=dataset.num_classes)
    if num_classes == dataset.num_classes:
        return dataset
    training, test = dataset.y_train < num_classes, dataset.y_test < num_classes
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[training],
        y_train=dataset.y_train[training],
        x_test=dataset.x_test[test],
        y_test=dataset.y_test[test],
    )
