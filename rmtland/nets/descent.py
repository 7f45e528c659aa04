"""Steps of stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from rmtland._arguments import real


class Descent:
    """The steps of `torch.optim.SGD`, bit for bit, by the function behind it.

    Making a `torch.optim.Optimizer` imports torch's compiler, more than a second in each process.

    Parameters
    ----------
    weights : iterable of Tensor
        Changed in place; those without a gradient stay.
    momentum, weight_decay : float

    Attributes
    ----------
    velocities : list of Tensor or None
        Of each weight; None before its first step, and without momentum.
    """

    def __init__(self, weights: Iterable[Tensor], momentum: float, weight_decay: float) -> None:
        self._weights = list(weights)
        self._momentum = real("momentum", momentum, at_least=0, below=1)
        self._weight_decay = real("weight_decay", weight_decay, at_least=0)
        self.velocities: list[Tensor | None] = [None] * len(self._weights)

    def step(self, learning_rate: float) -> None:
        """Along the gradients that the weights hold."""
        moved = [i for i, weight in enumerate(self._weights) if weight.grad is not None]
        velocities = [self.velocities[i] for i in moved]
        with torch.no_grad():
            sgd(
                [self._weights[i] for i in moved], [cast(Tensor, self._weights[i].grad) for i in moved], velocities,
                lr=learning_rate, momentum=self._momentum, weight_decay=self._weight_decay,
                dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip
        for i, velocity in zip(moved, velocities, strict=True):  # those of a first step are made by it
            self.velocities[i] = velocity

    def forget_gradients(self) -> None:
        """Before a backward pass, which adds to them."""
        for weight in self._weights:
            weight.grad = None

    def load(self, velocities: Iterable[Any]) -> None:
        """Go on with copies of these velocities."""
        self.velocities = [
            velocity if velocity is None else velocity.to(weight.device, weight.dtype, copy=True)
            for weight, velocity in zip(self._weights, velocities, strict=True)
        ]
