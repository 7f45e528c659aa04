"""Inputs that are a tensor, or tuples and dicts of tensors with examples first."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from rmtland._arguments import MaskedError, unmasked

Inputs = Any
"""A tensor (n, ...), or a tuple, list or dict of them."""


def tensor(name: str, value: Any) -> Tensor:
    """An array or tensor as a tensor where it lies, whatever torch's default device is."""
    if isinstance(value, Tensor):
        if value.is_meta or value.layout != torch.strided or value.is_nested:
            kind = "on the meta device" if value.is_meta else "nested" if value.is_nested else "sparse"
            raise TypeError(f"`{name}` must be dense tensors with values; got one that is {kind}")
        return value.detach()
    try:
        array = unmasked(name, value)
        if array.dtype == object:
            raise TypeError("an array of objects")
        with warnings.catch_warnings():
            # Nothing here writes to what it is given; a memory-mapped or a pandas array need not be copied.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.as_tensor(array, device="cpu")
    except MaskedError as error:
        raise ValueError(str(error)) from None
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"`{name}` must be arrays or tensors; got {type(value).__name__}") from None


def tensors(name: str, values: Any) -> Inputs:
    """Every leaf of `values` as a tensor; lists of numbers are one."""
    if isinstance(values, PackedSequence):
        raise TypeError(f"`{name}` must be padded sequences and their lengths, packed in `forward`; got PackedSequence")
    if isinstance(values, Mapping):
        return {key: tensors(name, value) for key, value in values.items()}
    if isinstance(values, (tuple, list)) and any(isinstance(v, (Tensor, np.ndarray, dict, tuple)) for v in values):
        return tuple(tensors(name, value) for value in values)
    return tensor(name, values)


def num_inputs(inputs: Inputs) -> int:
    """n, of the first leaf."""
    return int(tree_leaves(inputs)[0].shape[0])


def described(inputs: Inputs) -> str:
    """Shapes, without the examples, and dtypes of all leaves."""
    leaves = [f"(n{''.join(f', {size}' for size in leaf.shape[1:])}) {leaf.dtype}" for leaf in tree_leaves(inputs)]
    return " and ".join(leaves)


def cut(inputs: Inputs, part: slice) -> Inputs:
    """Some of the examples."""
    return tree_map(lambda leaf: leaf[part], inputs)


def num_bytes(inputs: Inputs) -> int:
    """Of all leaves."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(inputs))


def on(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """On the device; real numbers and uint8 (images) in `dtype`, other integers as they are."""

    def move(leaf: Tensor) -> Tensor:
        real = leaf.is_floating_point() or leaf.dtype == torch.uint8
        moved = leaf.detach().to(device, dtype if real else leaf.dtype)
        if leaf.is_floating_point() and torch.finfo(leaf.dtype).max > torch.finfo(dtype).max:
            largest = float(leaf.abs().max()) if leaf.numel() else 0.0
            if largest > torch.finfo(dtype).max:
                raise ValueError(f"`inputs` must be finite in {dtype}, the network's; got up to {largest:g}")
        # Autograd may not save tensors of inference mode.
        return moved.clone() if moved.is_inference() else moved

    with torch.inference_mode(False):
        return tree_map(move, inputs)


def row_major(inputs: Inputs) -> Inputs:
    """The same on a CPU with the strides that their shapes have by themselves.

    Others are another memory format to torch, even where only an axis of length 1 has another stride, as after
    `images[:, None][order]` in NumPy. On a CPU its second derivatives of convolutions in channels-last format write
    beyond their memory (2.13, oneDNN): a ResNet's Hessian product ended the process.
    """

    def plain(leaf: Tensor) -> Tensor:
        return leaf.contiguous().flatten().view(leaf.shape) if leaf.device.type == "cpu" else leaf

    return tree_map(plain, inputs)


def check_inputs(inputs: Inputs) -> int:
    """n; ValueError for no examples, leaves of different lengths, NaN."""
    leaves = tree_leaves(inputs)
    shapes = [tuple(leaf.shape) for leaf in leaves]
    if any(len(shape) == 0 or shape[0] == 0 for shape in shapes) or not shapes:
        got = shapes[0] if len(shapes) == 1 else shapes
        raise ValueError(f"`inputs` must have shape (N, ...) with N >= 1; got {got}")
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"`inputs` must hold the same examples in each of their tensors; got shapes {shapes}")
    real = [leaf for leaf in leaves if leaf.is_floating_point()]
    # Piece by piece: `isfinite` makes copies.
    rows = [max(1, 2**20 // max(1, leaf[0].numel())) for leaf in real]
    if any(not bool(p.isfinite().all()) for leaf, n in zip(real, rows, strict=True) for p in leaf.split(n)):
        raise ValueError("`inputs` must be finite; got NaN or infinite entries")
    return int(shapes[0][0])
