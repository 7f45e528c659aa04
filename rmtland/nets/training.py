"""Plain training by stochastic gradient descent, the same every time from one seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmtland._arguments import integer, real, require_memory
from rmtland.nets.architectures import mlp
from rmtland.nets.datasets import Dataset
from rmtland.nets.gradients import NetworkLogitGradients


def train(
    module: torch.nn.Module,
    inputs: Any,
    labels: Any,
    *,
    epochs: int,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    batch_size: int = 32,
    seed: int = 0,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train in place on cross-entropy by SGD with momentum.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; left in the mode it came in.
    inputs : array (N, ...)
        Cast to the dtype of the parameters.
    labels : array (N,)
    epochs : int
        Passes over the data, >= 0.
    learning_rate, momentum : float
    batch_size : int
    seed : int
        Of the order of examples; the same seed gives the same network on the same machine.
    after_epoch : callable, optional
        Called with the number of epochs done, 1 to `epochs`.

    Raises
    ------
    FloatingPointError
        Where the loss becomes NaN or infinite.
    """
    integer("epochs", epochs, at_least=0)
    integer("batch_size", batch_size, at_least=1)
    learning_rate = real("learning_rate", learning_rate, above=0)
    momentum = real("momentum", momentum, at_least=0, below=1)
    parameter = next(module.parameters())
    x: Tensor = torch.as_tensor(inputs).to(parameter)
    y: Tensor = torch.as_tensor(labels).to(parameter.device)
    optimiser = torch.optim.SGD(module.parameters(), lr=learning_rate, momentum=momentum)
    order = torch.Generator().manual_seed(seed)
    mode = module.training
    module.train()
    try:
        for epoch in range(1, epochs + 1):
            total = 0.0
            for batch in torch.split(torch.randperm(len(x), generator=order), batch_size):
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(module(x[batch]), y[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                total += float(loss.detach())
            if not torch.isfinite(torch.tensor(total)):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch}; lower `learning_rate` = {learning_rate:g}"
                )
            if after_epoch is not None:
                after_epoch(epoch)
    finally:
        module.train(mode)
        optimiser.zero_grad()


def training_stages(
    dataset: Dataset,
    *,
    hidden: Sequence[int] = (16, 16),
    epochs: int = 20,
    num_examples: int = 300,
    learning_rate: float = 0.05,
    seed: int = 0,
    after_epoch: Callable[[int], None] | None = None,
) -> dict[str, NetworkLogitGradients]:
    """Train a fully connected network and measure it at initialisation, half-way and at the end.

    Parameters
    ----------
    dataset : Dataset
        Trained on all of x_train.
    hidden : sequence of int
        Widths of the hidden layers (ReLU between).
    epochs : int
        At least 2; half-way is after epochs // 2.
    num_examples : int
        How many training examples the sources hold, chosen at random from the seed, the same at every stage.
    learning_rate : float
    seed : int
        Of the initial weights, the order of examples and the choice of those measured.
    after_epoch : callable, optional
        Called with the number of epochs done.

    Returns
    -------
    dict
        "initialisation", "mid training" and "end of training" to a source in float64.

    Raises
    ------
    ValueError
        For more examples than there are, or a data set of one class.
    MemoryError
        For a network that does not fit.
    """
    integer("epochs", epochs, at_least=2)
    integer("num_examples", num_examples, at_least=2, at_most=len(dataset.x_train))
    if dataset.num_classes < 2:
        raise ValueError(f"`dataset` must have at least 2 classes; got {dataset.num_classes}")
    sizes = [int(np.prod(dataset.x_train.shape[1:])), *hidden, dataset.num_classes]
    parameters = sum((before + 1) * after for before, after in pairwise(sizes))
    # Weights, gradients, momentum and the copies of three stages, in float64.
    require_memory(f"training {parameters:,} parameters", 64.0 * parameters, "name fewer or narrower hidden layers")
    module = mlp(sizes, seed=seed)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset.x_train))[:num_examples])
    x, y = dataset.x_train[chosen], dataset.y_train[chosen]
    stages = {"initialisation": NetworkLogitGradients(module, x, y)}

    def measure(epoch: int) -> None:
        if epoch == epochs // 2:
            stages["mid training"] = NetworkLogitGradients(module, x, y)
        if after_epoch is not None:
            after_epoch(epoch)

    train(
        module, dataset.x_train, dataset.y_train, epochs=epochs, learning_rate=learning_rate, seed=seed,
        after_epoch=measure,
    )  # fmt: skip
    stages["end of training"] = NetworkLogitGradients(module, x, y)
    return stages
