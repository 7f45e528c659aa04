"""A torch module as a pure function of one parameter vector, frozen at one moment of its life."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import accumulate

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

COLUMN_BYTES = 2**28
"""Memory for the intermediate results of products that run side by side."""


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for the duration, each submodule's own mode restored after."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


class Snapshot:
    """A copy of a module's parameters and buffers, and the module's forward pass as a function of them.

    Training may go on after the copy; the module itself is never written to. Frozen parameters (requires_grad False)
    are constants, tied ones appear once.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"`module` must be a torch.nn.Module; got {type(module).__name__}")
        trainable = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError("`module` must have at least one parameter that requires grad; got none")
        kinds = {(p.dtype, p.device) for p in trainable.values()}
        if len(kinds) > 1:
            raise ValueError(f"`module` must have parameters of one dtype on one device; got {sorted(map(str, kinds))}")
        self.module = module
        self.constants = {n: p.detach().clone() for n, p in module.named_parameters() if not p.requires_grad}
        self.constants |= {n: b.detach().clone() for n, b in module.named_buffers()}
        self.parameters = trainable
        stops = list(accumulate(p.numel() for p in trainable.values()))
        self.groups = {n: slice(b - p.numel(), b) for (n, p), b in zip(trainable.items(), stops, strict=True)}
        self.vector = torch.cat([p.reshape(-1) for p in trainable.values()])
        self.layers: object = None  # what `layer_rows` finds out about the network, at first use

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """A parameter vector (D,) as named tensors."""
        return {n: vector[self.groups[n]].view(p.shape) for n, p in self.parameters.items()}

    def outputs(self, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """Forward pass in evaluation mode, (n, C); one output per example may come as (n,)."""
        # The fused attention kernels have no forward-mode and no second derivatives; the plain one has.
        with evaluating(self.module), sdpa_kernel(SDPBackend.MATH):
            outputs = functional_call(self.module, {**self.constants, **parameters}, (inputs,), strict=True)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"`module` must return a tensor of logits; got {type(outputs).__name__}")
        if outputs.ndim == 1:
            outputs = outputs[:, None]
        if outputs.ndim != 2 or outputs.shape[0] != inputs.shape[0]:
            raise ValueError(f"`module` must return shape ({inputs.shape[0]}, C); got {tuple(outputs.shape)}")
        return outputs

    def bytes_per_example(self, inputs: Tensor) -> int:
        """Bytes that one example's forward pass saves for a backward pass, parameters not counted."""
        own = {p.untyped_storage().data_ptr() for p in self.parameters.values()}
        own |= {c.untyped_storage().data_ptr() for c in self.constants.values()}
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        parameters = {n: p.detach().requires_grad_() for n, p in self.parameters.items()}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = self.outputs(parameters, inputs)
        return (sum(saved.values()) + outputs.numel() * outputs.element_size()) // inputs.shape[0] + 1


def pullback(values: Tensor, point: Tensor, bytes_per_row: int) -> Callable[[Tensor], Tensor]:
    """The map of rows u to u . d(values)/d(point), for rows (k, *values.shape), through the stored graph of `values`.

    Reverse mode throughout: a graph recorded once serves every later product, each about the price of one backward
    pass, and second derivatives in reverse mode are what every torch operation supports best. (Forward mode and
    `torch.func.linearize` are no faster on a CPU, and gave wrong products or none for recurrent cells and group
    normalisation.)
    """
    if not values.requires_grad:  # constant in the parameters: a linear network's gradient of the logits
        return lambda rows: rows.new_zeros((rows.shape[0], *point.shape))
    width = max(1, COLUMN_BYTES // max(bytes_per_row, 1))

    def one(row: Tensor) -> Tensor:
        return torch.autograd.grad(values, point, row, retain_graph=True, materialize_grads=True)[0]

    def side_by_side(rows: Tensor) -> Tensor:
        return torch.autograd.grad(
            values, point, rows, retain_graph=True, materialize_grads=True, is_grads_batched=True
        )[0]

    def product(rows: Tensor) -> Tensor:
        if rows.shape[0] > 1 and width > 1:
            try:
                return torch.cat([side_by_side(block) for block in torch.split(rows, width)])
            except (RuntimeError, NotImplementedError):
                pass  # an operation without a batching rule, a fused recurrent cell for one: row by row then
        return torch.stack([one(row) for row in rows])

    return product
