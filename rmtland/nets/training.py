"""Plain training by stochastic gradient descent, the same every time from one seed, that can stop and go on."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.sgd import sgd

from rmtland._arguments import choice, function, instance, integer, real
from rmtland.nets import pytrees
from rmtland.nets.architectures.choose import build_network
from rmtland.nets.architectures.names import NETWORKS
from rmtland.nets.datasets import Dataset
from rmtland.nets.gradients import NetworkLogitGradients


class Training:
    """Cross-entropy lowered by SGD with momentum; iterate over it for one step at a time.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; in training mode while a step is taken, in its own outside.
    inputs : array (N, ...)
        Cast to the dtype of the parameters.
    labels : array (N,)
        Class labels, one per input.
    epochs : int
        Passes over the data, >= 0.
    learning_rate, momentum, weight_decay : float
    batch_size : int
        The last batch of an epoch is smaller; where it would hold one example, which batch norm cannot take, that one
        joins the batch before.
    seed : int
        Of the order of examples; the same seed gives the same network on the same machine.

    Attributes
    ----------
    step : int
        Steps taken.
    num_steps, steps_per_epoch : int
        Steps in all and in an epoch.
    learning_rate, momentum, weight_decay : float
        Of the next step; set `learning_rate` to anneal.

    Raises
    ------
    ValueError
        For settings out of range, no examples, labels of another shape than (N,) or that are no class labels.
    FloatingPointError
        While iterating, where the loss becomes NaN or infinite.

    Notes
    -----
    Steps are those of `torch.optim.SGD`, bit for bit. `state_dict` holds the weights, the optimiser's state and the
    step, so that a training that goes on from it takes the same steps as one that was never stopped (bit for bit on the
    same machine, unless the module draws random numbers, as dropout does).

    Examples
    --------
    >>> import rmtland as rl
    >>> digits = rl.nets.load_dataset("digits", per_class=10)
    >>> training = rl.nets.Training(rl.nets.mlp([64, 8, 10]), digits.x_train, digits.y_train, epochs=2)
    >>> [step for step in training]
    [1, 2, 3, 4, 5, 6, 7, 8]
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Any,
        labels: Any,
        *,
        epochs: int,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        integer("epochs", epochs, at_least=0)
        self.batch_size = integer("batch_size", batch_size, at_least=1)
        self.learning_rate = real("learning_rate", learning_rate, above=0)
        self.seed = integer("seed", seed, at_least=0)
        self.module = module
        parameter = next(instance("module", module, torch.nn.Module, "a torch.nn.Module").parameters(), None)
        if parameter is None:
            raise ValueError("`module` must have parameters to train; got none")
        self.inputs: Tensor = _inputs(inputs, parameter)
        self.labels: Tensor = pytrees.tensor("labels", labels).to(parameter.device)
        _check(self.inputs, self.labels)
        self.momentum = real("momentum", momentum, at_least=0, below=1)
        self.weight_decay = real("weight_decay", weight_decay, at_least=0)
        # The function, as making a torch.optim.Optimizer imports torch's compiler, more than a second in each process.
        self._weights = list(module.parameters())
        self._velocities: list[Tensor | None] = [None] * len(self._weights)
        self.steps_per_epoch = len(self._batches(torch.arange(len(self.inputs), device="cpu")))
        self.num_steps = epochs * self.steps_per_epoch
        self.step = 0

    def __repr__(self) -> str:
        return f"Training(step {self.step} of {self.num_steps}, {len(self.inputs)} examples)"

    def _batches(self, order: Tensor) -> list[Tensor]:
        batches = list(torch.split(order, self.batch_size))
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def __iter__(self) -> Iterator[int]:
        """Take a step and yield its number, from where the training stands to its end."""
        # Orders of earlier epochs are drawn too, so that an epoch's order does not depend on where one went on.
        generator = torch.Generator("cpu").manual_seed(self.seed)
        for epoch in range(self.num_steps // self.steps_per_epoch):
            order = torch.randperm(len(self.inputs), generator=generator, device="cpu")
            if self.step >= (epoch + 1) * self.steps_per_epoch:
                continue
            total = 0.0
            for batch in self._batches(order)[self.step - epoch * self.steps_per_epoch :]:
                total += self._take_step(batch)
                self.step += 1
                yield self.step
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"training diverged in epoch {epoch + 1}; lower `learning_rate` = {self.learning_rate:g}"
                )

    def _take_step(self, batch: Tensor) -> float:
        mode = self.module.training
        self.module.train()
        try:
            self._forget_gradients()
            loss = torch.nn.functional.cross_entropy(self.module(self.inputs[batch]), self.labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            self._descend()
        finally:
            self.module.train(mode)
            self._forget_gradients()
        return float(loss.detach())

    def _descend(self) -> None:
        moved = [i for i, weight in enumerate(self._weights) if weight.grad is not None]
        velocities = [self._velocities[i] for i in moved]
        with torch.no_grad():
            sgd(
                [self._weights[i] for i in moved], [cast(Tensor, self._weights[i].grad) for i in moved], velocities,
                lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay,
                dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip
        for i, velocity in zip(moved, velocities, strict=True):  # those of a first step are made by it
            self._velocities[i] = velocity

    def _forget_gradients(self) -> None:
        for weight in self._weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from: "module", "optimiser", "step"; tensors are not copied."""
        optimiser = {"learning_rate": self.learning_rate, "velocities": list(self._velocities)}
        return {"module": self.module.state_dict(), "optimiser": optimiser, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; ValueError for a step that this training does not have."""
        step = integer("step", state["step"], at_least=0, at_most=self.num_steps)
        self.module.load_state_dict(state["module"])
        self.learning_rate = float(state["optimiser"]["learning_rate"])
        self._velocities = [
            velocity if velocity is None else velocity.to(weight.device, weight.dtype, copy=True)
            for weight, velocity in zip(self._weights, state["optimiser"]["velocities"], strict=True)
        ]
        self.step = step


def _inputs(inputs: Any, parameter: Tensor) -> Tensor:
    """Real and finite, in the parameters' dtype and where they lie."""
    given = pytrees.tensor("inputs", inputs)
    if given.is_complex():
        raise TypeError(f"`inputs` must be real numbers; got {given.dtype}")
    pytrees.check_inputs(given)
    # Of images in channels-last format torch's backward pass wrote beyond its memory, too.
    return cast(Tensor, pytrees.row_major(pytrees.on(given, parameter.device, parameter.dtype))).to(parameter.dtype)


def _check(inputs: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or len(labels) != len(inputs):
        raise ValueError(f"`labels` must have shape ({len(inputs)},), one per example; got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or int(labels.min()) < 0:
        raise ValueError(f"`labels` must hold class labels 0, 1, ...; got {labels.dtype} from {labels.min().item()}")


def train(
    module: torch.nn.Module,
    inputs: Any,
    labels: Any,
    *,
    epochs: int,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    batch_size: int = 32,
    seed: int = 0,
    after_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """Train in place on cross-entropy by SGD with momentum.

    Parameters
    ----------
    module, inputs, labels, epochs, learning_rate, momentum, weight_decay, batch_size, seed
        As `Training` takes them.
    after_epoch : callable, optional
        Called with the number of epochs done, 1 to `epochs`.
    after_step : callable, optional
        Called with the number of steps done.

    Raises
    ------
    ValueError
        For settings out of range, or labels that do not fit the inputs.
    FloatingPointError
        Where the loss becomes NaN or infinite.

    Examples
    --------
    >>> import rmtland as rl
    >>> digits = rl.nets.load_dataset("digits", per_class=10)
    >>> network = rl.nets.mlp([64, 8, 10])
    >>> rl.nets.train(network, digits.x_train, digits.y_train, epochs=2)
    """
    function("after_epoch", after_epoch, optional=True)
    function("after_step", after_step, optional=True)
    training = Training(
        module, inputs, labels, epochs=epochs, learning_rate=learning_rate, momentum=momentum,
        weight_decay=weight_decay, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    for step in training:
        if after_step is not None:
            after_step(step)
        if after_epoch is not None and step % training.steps_per_epoch == 0:
            after_epoch(step // training.steps_per_epoch)


def network_and_data(
    dataset: Dataset,
    network: str | torch.nn.Module = "mlp",
    *,
    hidden: Sequence[int] = (16, 16),
    width: float = 1.0,
    seed: int = 0,
) -> tuple[torch.nn.Module, Dataset]:
    """A network for a data set, by name or the caller's own, and the data set in the shape that the network takes.

    Parameters
    ----------
    dataset : Dataset
    network : str or torch.nn.Module
        A name as `build_network` takes it; or a module, which takes (n, channels, height, width) where the data set
        holds images and (n, d) where it holds vectors.
    hidden, width, seed
        As `build_network` takes them.

    Returns
    -------
    module, dataset

    Raises
    ------
    ValueError
        For an unknown name, a data set of one class, or one whose examples the network cannot take.
    """
    instance("dataset", dataset, Dataset, "a Dataset")
    if dataset.num_classes < 2:
        raise ValueError(f"`dataset` must have at least 2 classes; got {dataset.num_classes}")
    vectors = dataset.x_train.ndim == 2
    if isinstance(network, torch.nn.Module):
        return network, dataset if vectors else dataset.as_images()
    choice("network", network, NETWORKS)
    if network != "mlp" and vectors:
        raise ValueError(f"`network` must be 'mlp' for vectors, which {dataset.name} holds; got {network!r}")
    # A fully connected network flattens whatever comes, so data that are no images of known channels are its own too.
    shaped = dataset if network == "mlp" else dataset.as_images()
    module = build_network(
        network, shaped.x_train.shape[1:], dataset.num_classes, hidden=hidden, width=width, seed=seed
    )
    return module, shaped


def training_stages(
    dataset: Dataset,
    *,
    network: str | torch.nn.Module = "mlp",
    hidden: Sequence[int] = (16, 16),
    width: float = 1.0,
    epochs: int = 20,
    num_examples: int = 300,
    learning_rate: float = 0.05,
    batch_size: int = 32,
    seed: int = 0,
    after_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> dict[str, NetworkLogitGradients]:
    """Train a network and measure it at initialisation, half-way and at the end.

    Parameters
    ----------
    dataset : Dataset
        Trained on all of x_train.
    network : str or torch.nn.Module
        A name as `build_network` takes it, or your own module, trained in place.
    hidden : sequence of int
        Widths of the hidden layers of "mlp" (ReLU between).
    width : float
        Multiplies channels and hidden widths of a network given by name.
    epochs : int
        At least 2; half-way is after epochs // 2.
    num_examples : int
        How many training examples the sources hold, chosen at random from the seed, the same at every stage.
    learning_rate : float
    batch_size : int
    seed : int
        Of the initial weights, the order of examples and the choice of those measured.
    after_epoch, after_step : callable, optional
        Called with the number of epochs, or steps, done.

    Returns
    -------
    dict
        "initialisation", "mid training" and "end of training" to a source in the dtype of the network.

    Raises
    ------
    ValueError
        For more examples than there are, a data set of one class, a network that cannot take the examples.
    MemoryError
        For a network that does not fit.
    """
    integer("epochs", epochs, at_least=2)
    instance("dataset", dataset, Dataset, "a Dataset")
    function("after_epoch", after_epoch, optional=True)
    function("after_step", after_step, optional=True)
    integer("num_examples", num_examples, at_least=2, at_most=len(dataset.x_train))
    module, dataset = network_and_data(dataset, network, hidden=hidden, width=width, seed=seed)
    chosen = choose_examples(len(dataset.x_train), num_examples, seed)
    x, y = (pytrees.tensor(n, a[chosen]) for n, a in (("inputs", dataset.x_train), ("labels", dataset.y_train)))
    stages = {"initialisation": NetworkLogitGradients(module, x, y)}

    def measure(epoch: int) -> None:
        if epoch == epochs // 2:
            stages["mid training"] = NetworkLogitGradients(module, x, y)
        if after_epoch is not None:
            after_epoch(epoch)

    train(
        module, dataset.x_train, dataset.y_train, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size,
        seed=seed, after_epoch=measure, after_step=after_step,
    )  # fmt: skip
    stages["end of training"] = NetworkLogitGradients(module, x, y)
    return stages


def choose_examples(available: int, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers of `count` of `available` examples, chosen at random, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(available)[:count])


MOST_PROBES = 300
"""Examples to measure on unless told."""


def choose_probes(dataset: Dataset, examples: int | None, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Examples of the training and, where there is one, the test set, chosen at random."""
    if examples is None:
        examples = min(MOST_PROBES, len(dataset.x_train))
    integer("examples", examples, at_least=2, at_most=len(dataset.x_train))
    probes = {}
    for split, x, y in (("train", dataset.x_train, dataset.y_train), ("test", dataset.x_test, dataset.y_test)):
        if len(x) >= 2:
            chosen = choose_examples(len(x), examples, seed)
            probes[split] = pytrees.tensor("inputs", x[chosen]), pytrees.tensor("labels", y[chosen])
    return probes


def save_checkpoint(training: Training, path: Path) -> None:
    """The state of a training in place of the file's last, in one step."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".checkpoint-", delete=False) as file:
        try:
            torch.save(training.state_dict(), file)
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)


def load_checkpoint(training: Training, path: Path) -> None:
    """Go on from what `save_checkpoint` wrote; nothing in the file is run."""
    training.load_state_dict(torch.load(path, weights_only=True))
