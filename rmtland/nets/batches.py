"""Examples as they come: arrays, loaders of any kind of batch, tokens, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rmtland._arguments import integer
from rmtland.logits.losses import CrossEntropy, Loss
from rmtland.nets import pytrees
from rmtland.nets.pytrees import Inputs

Unpack = Callable[[Any], tuple[Any, ...]]
"""A loader's batch to (inputs, labels) or (inputs, labels, weights)."""


@dataclass(frozen=True)
class Batch:
    """Inputs with what belongs to each: targets (n, ...) and, where examples have any, weights (n,) or (n, T)."""

    inputs: Inputs
    targets: Tensor
    weights: Tensor | None = None

    @property
    def num_inputs(self) -> int:
        """How many there are."""
        return int(self.targets.shape[0])

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return pytrees.num_bytes([self.inputs, self.targets, *([] if self.weights is None else [self.weights])])

    def cut(self, part: slice) -> Batch:
        """Some of the inputs."""
        weights = None if self.weights is None else self.weights[part]
        return Batch(pytrees.cut(self.inputs, part), self.targets[part], weights)

    def copied(self) -> Batch:
        """In memory of its own: a loader may write its next batch over this one."""
        weights = None if self.weights is None else self.weights.clone()
        return Batch(torch.utils._pytree.tree_map(torch.clone, self.inputs), self.targets.clone(), weights)


@dataclass(frozen=True)
class Reading:
    """How a batch's targets and weights become those of the examples.

    Attributes
    ----------
    loss : Loss
    ignore_index : int, optional
        Labels of this value are no examples.
    class_weights : Tensor (C,), optional
    mean_weight : float
        Over the source, by which weights are divided.
    tokens : bool
        Whether outputs are (n, T, C), with an example for each token.
    """

    loss: Loss
    ignore_index: int | None = None
    class_weights: Tensor | None = None
    mean_weight: float = 1.0
    tokens: bool = False

    def divided_by(self, mean_weight: float) -> Reading:
        """With weights of mean 1."""
        return replace(self, mean_weight=mean_weight)

    def read(
        self, batch: Batch, device: torch.device, rows: slice | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Targets, labels (n,), weights (n,) or None, and which rows of the flat outputs are examples (None: all)."""
        targets, weights = batch.targets, batch.weights
        if self.tokens:
            if weights is not None:
                weights = weights.reshape(*weights.shape, *[1] * (2 - weights.ndim)).expand(targets.shape[:2])
                weights = weights.reshape(-1)
            targets = targets.flatten(0, 1)
        selected = None
        if self.tokens or self.ignore_index is not None:
            every = torch.arange(targets.shape[0], device=targets.device)
            if self.ignore_index is not None and targets.ndim == 1:
                every = every[targets != self.ignore_index]
            if self.tokens or every.shape[0] < targets.shape[0]:
                selected = every if rows is None else every[rows]
                targets = targets[selected]
                weights = None if weights is None else weights[selected]
                selected = selected.to(device)
        targets = targets.to(device)
        # Soft targets belong to the class that they favour.
        soft = targets.ndim == 2 and isinstance(self.loss, CrossEntropy)
        labels = targets.argmax(dim=1) if soft else targets
        if weights is not None:
            weights = weights.to(device)
        if self.class_weights is not None:
            own = self.class_weights.to(device)[labels]
            weights = own if weights is None else weights * own
        return targets, labels, None if weights is None else weights / self.mean_weight, selected


class Arrays:
    """One batch of everything, for inputs and labels in memory."""

    def __init__(self, inputs: Any, labels: Any, weights: Any) -> None:
        self.inputs = pytrees.tensors("inputs", inputs)
        self.labels = pytrees.tensor("labels", labels)
        self.weights = None if weights is None else pytrees.tensor("weights", weights)

    def __iter__(self) -> Iterator[Batch]:
        yield Batch(self.inputs, self.labels, self.weights)


class Loader:
    """The batches of a loader, unpacked anew in each pass."""

    def __init__(self, loader: Any, unpack: Unpack | None) -> None:
        self._loader, self._unpack = loader, unpack

    def __iter__(self) -> Iterator[Batch]:
        for item in self._loader:
            parts = item if self._unpack is None else self._unpack(item)
            what = "`inputs` must yield (inputs, labels) batches" if self._unpack is None else "`unpack` must return"
            if not isinstance(parts, (tuple, list)) or len(parts) not in ((2,) if self._unpack is None else (2, 3)):
                got = f"{len(parts)} items" if isinstance(parts, (tuple, list)) else type(parts).__name__
                advice = (
                    "; name what is what by `unpack`, which returns (inputs, labels) or (inputs, labels, weights)"
                    if self._unpack is None
                    else " (inputs, labels) or (inputs, labels, weights)"
                )
                raise TypeError(f"{what}{advice}; got {got}")
            weights = None if len(parts) == 2 else pytrees.tensor("weights", parts[2])
            yield Batch(pytrees.tensors("inputs", parts[0]), pytrees.tensor("labels", parts[1]), weights)


def batches(inputs: Any, labels: Any, weights: Any, unpack: Unpack | None) -> Arrays | Loader:
    """Arrays or a loader as something to iterate over again and again."""
    if labels is not None:
        if unpack is not None:
            raise TypeError("`unpack` must be left out with arrays; it takes a loader's batches apart")
        return Arrays(inputs, labels, weights)
    if isinstance(inputs, Tensor) or hasattr(inputs, "__array__"):
        raise TypeError("`labels` must be given with arrays of inputs; got None")
    if not hasattr(inputs, "__iter__") or hasattr(inputs, "__next__"):
        kind = type(inputs).__name__
        raise TypeError(f"`inputs` must be arrays, or a loader that can be iterated over repeatedly; got {kind}")
    if weights is not None:
        raise TypeError("`weights` must be left out with a loader; its `unpack` returns (inputs, labels, weights)")
    if unpack is not None and not callable(unpack):
        raise TypeError(f"`unpack` must be callable; got {type(unpack).__name__}")
    return Loader(inputs, unpack)


def check_batch(batch: Batch) -> None:
    """ValueError for NaN, lengths that do not fit, weights below zero."""
    count = pytrees.check_inputs(batch.inputs)
    if batch.targets.ndim == 0 or batch.targets.shape[0] != count:
        got = tuple(batch.targets.shape)
        raise ValueError(f"`labels` must have shape ({count},), one per example; got {got}")
    if batch.weights is None:
        return
    shape = tuple(batch.weights.shape)
    if not shape or shape[0] != count or shape != tuple(batch.targets.shape[: len(shape)]):
        raise ValueError(f"`weights` must have shape ({count},), one per example; got {shape}")
    if not bool(batch.weights.isfinite().all()) or bool((batch.weights < 0).any()):
        raise ValueError(f"`weights` must be finite and >= 0; got {float(batch.weights.min())}")


def checked_class_weights(weights: Any) -> Tensor | None:
    """Finite, >= 0, (C,)."""
    if weights is None:
        return None
    values = pytrees.tensor("class_weights", weights)
    if values.ndim != 1 or not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError("`class_weights` must be (C,) finite numbers >= 0; got " + str(values.tolist()))
    return values


def checked_ignore_index(index: Any) -> int | None:
    """An integer or None."""
    return None if index is None else integer("ignore_index", index)
