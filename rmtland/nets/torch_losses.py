"""Losses of torch.nn as losses of the package: translated where they mean the same, else refused by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rmtland.logits.losses import CrossEntropy, Logistic, Loss, SquaredError

KNOWN = "CrossEntropy(), Logistic(), SquaredError(), or torch.nn's CrossEntropyLoss, BCEWithLogitsLoss or MSELoss"


def translated(loss: Any) -> tuple[Loss, Tensor | None, int | None]:
    """The loss, its class weights and the label that it ignores.

    Raises
    ------
    TypeError
        For something that is no loss, a class in place of an instance, a torch.nn loss that is not among those known.
    ValueError
        For an option that has no meaning here: a reduction other than the mean, class weights with label smoothing.
    """
    if loss is None:
        return CrossEntropy(), None, None
    if isinstance(loss, type):
        raise TypeError(f"`loss` must be an instance such as {loss.__name__}(); got the class {loss.__name__}")
    if isinstance(loss, nn.Module):
        return _translated(loss)
    if not isinstance(loss, Loss):
        got = getattr(loss, "__name__", None) or repr(loss)
        raise TypeError(f"`loss` must be {KNOWN}; got {got}")
    return loss, None, None


def _translated(loss: nn.Module) -> tuple[Loss, Tensor | None, int | None]:
    name = type(loss).__name__
    # Their subclasses compute something else: a focal loss is not its parent.
    if type(loss) not in (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MSELoss):
        raise TypeError(f"`loss` must be {KNOWN}; got {name}, whose Hessian in the outputs is not known here")
    if loss.reduction != "mean":
        raise ValueError(f'`loss` must have reduction="mean", the mean over examples; got {loss.reduction!r} in {name}')
    if isinstance(loss, nn.MSELoss):
        return SquaredError(mean=True), None, None
    if isinstance(loss, nn.BCEWithLogitsLoss):
        if loss.weight is not None or loss.pos_weight is not None:
            raise ValueError("`loss` must have neither weight nor pos_weight; got them in BCEWithLogitsLoss")
        return Logistic(mean=True), None, None
    assert isinstance(loss, nn.CrossEntropyLoss)
    smoothing = float(loss.label_smoothing)
    weight: Tensor | None = loss.weight
    if weight is not None and smoothing > 0:
        raise ValueError("`loss` must not have both weight and label_smoothing; got both in CrossEntropyLoss")
    ignore = int(loss.ignore_index)
    with torch.inference_mode(False):
        return CrossEntropy(label_smoothing=smoothing), None if weight is None else weight.detach().clone(), ignore
