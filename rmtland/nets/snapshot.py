"""A torch module as a pure function of one parameter vector, frozen at one moment of its life."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from rmtland.nets.checkpointing import without_reentrant
from rmtland.nets.pytrees import Inputs, num_inputs, on, row_major

Forward = Callable[[torch.nn.Module, Any], Any]
"""How a module is called on a batch of inputs, where `module(inputs)` will not do."""

SHARDED = {"FullyShardedDataParallel", "DTensor"}
"""Modules and parameters of which each process has a part."""


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


def call(module: torch.nn.Module, inputs: Any) -> Any:
    """`module(inputs)`; tuples become arguments, dicts keywords."""
    if isinstance(inputs, dict):
        return module(**inputs)
    if isinstance(inputs, (tuple, list)):
        return module(*inputs)
    return module(inputs)


class _Called(torch.nn.Module):
    """A module with a forward pass of the user's."""

    def __init__(self, module: torch.nn.Module, forward: Forward) -> None:
        super().__init__()
        self.module, self._forward = module, forward

    def forward(self, inputs: Any) -> Any:
        return self._forward(self.module, inputs)


class Snapshot:
    """A copy of a module's parameters and buffers, and the module's forward pass as a function of them.

    Training may go on after the copy; the module itself is never written to. Frozen parameters (requires_grad False)
    are constants, tied ones appear once.

    Attributes
    ----------
    module : torch.nn.Module
        A copy in evaluation mode whose trainable parameters are views of `vector`; hooks may be put on it. The user's
        own, swapped in and out, where it cannot be copied.
    parameters : dict of str to Tensor
        Trainable tensors, views of `vector` (D,), and `groups`, the place of each in it.
    constants : dict of str to Tensor
        Frozen parameters and buffers.
    working_dtype : torch.dtype
        Of the module's first floating parameter: what real inputs are cast to.
    """

    def __init__(self, module: torch.nn.Module, forward: Forward | None = None) -> None:
        module = eager(module)
        check_module(module)
        self.forward = call if forward is None else forward
        named = dict(module.named_parameters())
        trainable = {n: p for n, p in named.items() if p.requires_grad}
        self.shapes = {n: p.shape for n, p in trainable.items()}
        stops = list(accumulate(p.numel() for p in trainable.values()))
        self.groups = {n: slice(b - p.numel(), b) for (n, p), b in zip(trainable.items(), stops, strict=True)}
        with torch.inference_mode(False):
            self.vector = torch.cat([p.detach().clone().reshape(-1) for p in trainable.values()])
            replica = _with_parameters(module, trainable, self.parameters)
            self.module, self._owned = (module, False) if replica is None else (replica.eval(), True)
            self.constants = self._constants(copied=self._owned)
        for part in self.module.modules() if self._owned else ():
            if isinstance(part, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
                part.sparse = False  # a way of writing gradients, which all else takes as dense
        self._weight_norm = has_weight_norm(module)
        self._called = _Called(self.module, self.forward)
        floating = (p.dtype for p in named.values() if p.is_floating_point())
        self.working_dtype = next(floating, self.vector.dtype)
        # Buffers that a forward pass has written to: a copy for each pass.
        self._written: set[str] = set()
        self.writes_inputs = False
        self.flaws: Mapping[str, str] = {}  # why it cannot be differentiated twice, by the kind of product
        self.chained = False  # whether its second derivatives are those of a chain of layers
        self.apart: set[str] = set()  # tensors of layers called on some of the examples: an expert of a mixture
        self.layers: object = None  # what `layer_rows` finds out about the network, at first use

    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in {"parameters", "leaves", "_called"}}
        if self._owned:  # views of one vector would be pickled as a vector each
            hollow = {n: torch.empty_like(p, device="meta") for n, p in self.leaves.items()}
            state["module"] = _with_parameters(self.module, self.leaves, hollow)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._owned:
            hollow = {n: p for n, p in self.module.named_parameters() if n in self.groups}
            self.module = _with_parameters(self.module, hollow, self.parameters) or self.module
            self.constants = self._constants(copied=True)
        self._called = _Called(self.module, self.forward)

    def _constants(self, *, copied: bool) -> dict[str, Tensor]:
        """Frozen parameters and buffers: those of the copy, or copies."""
        frozen = {n: p.detach() for n, p in self.module.named_parameters() if n not in self.groups}
        frozen |= {n: b.detach() for n, b in self.module.named_buffers()}
        return frozen if copied else {n: t.clone() for n, t in frozen.items()}

    @property
    def num_bytes(self) -> int:
        """Of the copies."""
        return sum(t.numel() * t.element_size() for t in (self.vector, *self.constants.values()))

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """Views of the vector by name."""
        return self.unflatten(self.vector)

    @cached_property
    def leaves(self) -> dict[str, Tensor]:
        """The same views as leaves of autograd's graphs, one set for all graphs."""
        if self._owned:
            return {n: p for n, p in self.module.named_parameters() if n in self.groups}
        with torch.inference_mode(False):
            return {n: p.detach().requires_grad_() for n, p in self.parameters.items()}

    def _plain(self) -> contextlib.ExitStack:
        """Operations in a form that torch differentiates twice, and rightly."""
        with contextlib.ExitStack() as stack:
            # The fused attention kernels have no forward-mode and no second derivatives; the plain one has.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(without_reentrant())
            if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self._weight_norm:
                stack.enter_context(PlainWeightNorm())
            return stack.pop_all()

    def own_names(self) -> dict[int, str]:
        """Of the module's trainable tensors, by their ids."""
        return {id(p): n for n, p in self.module.named_parameters() if n in self.groups}

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """A parameter vector (D,) as named tensors."""
        return {n: vector[group].view(self.shapes[n]) for n, group in self.groups.items()}

    def split(self, block: Tensor) -> list[Tensor]:
        """Columns (D, k) as a tensor (k, *shape) for each parameter, in its dtype."""
        parts = (block[g].T.to(self.vector.dtype).contiguous() for g in self.groups.values())
        parts = (part.clone() if part.is_inference() else part for part in parts)
        return [part.view(block.shape[1], *shape) for part, shape in zip(parts, self.shapes.values(), strict=True)]

    def zeros(self, count: int, groups: Mapping[str, slice] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Columns (D, k) of zeros and a view (k, *shape) of each parameter's part: what products are summed in.

        Of some parameters next to each other alone where their `groups` are given. In float32 at least: no sum over
        batches survives half precision.
        """
        with torch.inference_mode(False):
            groups = self.groups if groups is None else groups
            start, stop = min(g.start for g in groups.values()), max(g.stop for g in groups.values())
            rows = single(self.vector[:0]).new_zeros((count, stop - start))
        places = {n: slice(g.start - start, g.stop - start) for n, g in groups.items()}
        return rows.T, [rows[:, place].view(count, *self.shapes[n]) for n, place in places.items()]

    def outputs(self, parameters: dict[str, Tensor], inputs: Inputs) -> Tensor:
        """Forward pass in evaluation mode, (n, C) or (n, T, C); one output per example may come as (n,)."""
        if self.writes_inputs:
            inputs = tree_map(torch.clone, inputs)
        with evaluating(self.module), self._plain():
            if self._owned and not self._written and parameters is self.leaves:
                # Called as it is: gradient checkpointing calls parts again when the backward pass needs them.
                outputs = self._called(inputs)
            else:
                values = {f"module.{n}": t for n, t in {**self.constants, **parameters}.items()}
                values |= {f"module.{n}": self.constants[n].clone() for n in self._written}
                outputs = functional_call(self._called, values, (inputs,), strict=True)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"`module` must return a tensor of logits; got {type(outputs).__name__} (see `forward`)")
        if not outputs.is_floating_point():
            raise TypeError(f"`module` must return real logits; got {outputs.dtype}")
        if outputs.ndim == 1:
            outputs = outputs[:, None]
        count = num_inputs(inputs)
        if outputs.ndim not in (2, 3) or outputs.shape[0] != count:
            raise ValueError(f"`module` must return shape ({count}, C) or ({count}, T, C); got {tuple(outputs.shape)}")
        return outputs

    def require_derivatives(self, kind: str) -> None:
        """ValueError where products of a kind would be wrong, "jvp" or "second"."""
        if kind in self.flaws:
            raise ValueError(
                f"`module` must be differentiable twice for this product; {self.flaws[kind]} (gradient, clustering, "
                "scales and gauss_newton_spectrum do without)"
            )

    def placed(self, inputs: Inputs) -> Inputs:
        """Inputs on the network's device; real numbers and uint8 in its dtype, other integers as given."""
        return row_major(on(inputs, self.vector.device, self.working_dtype))

    def find_written_buffers(self, inputs: Inputs) -> None:
        """Run once and note which buffers the forward pass writes to; they are put back."""
        before = {n: (t._version, t.clone()) for n, t in self.constants.items()}
        with torch.inference_mode(False), torch.no_grad():
            self.outputs(self.parameters, inputs)
        for name, (version, value) in before.items():
            if self.constants[name]._version != version:
                self._written.add(name)
                self.constants[name] = value


def _with_parameters(
    module: torch.nn.Module, old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> torch.nn.Module | None:
    """A copy of the module with `new` in place of `old` parameters; None where it cannot be copied."""
    memo: dict[int, Any] = {id(p): torch.nn.Parameter(new[n]) for n, p in old.items()}
    try:
        return copy.deepcopy(module, memo)
    except Exception:  # whatever a module's own attributes raise: locks, handles, tensors inside a graph
        return None


class PlainWeightNorm(TorchFunctionMode):
    """Weight normalisation by its formula: torch's own operation has wrong second derivatives (as of torch 2.13)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What `func` returns, or the formula in its place."""
        if func is torch._weight_norm:
            directions, lengths, *dim = args
            dim = dim[0] if dim else (kwargs or {}).get("dim", 0)
            return directions * (lengths / torch.norm_except_dim(directions, 2, dim))
        return func(*args, **(kwargs or {}))


def has_weight_norm(module: torch.nn.Module) -> bool:
    """Whether some weight is normalised, by torch's parametrisation or by the hooks that it had before."""
    hooks = (hook for part in module.modules() for hook in part._forward_pre_hooks.values())
    return bool({type(part).__name__ for part in (*module.modules(), *hooks)} & {"_WeightNorm", "WeightNorm"})


def eager(module: Any) -> Any:
    """The module itself where torch.compile has wrapped it, which has no second derivatives."""
    return module._orig_mod if type(module).__name__ == "OptimizedModule" else module


def single(tensor: Tensor) -> Tensor:
    """The tensor, in float32 where it is in half precision."""
    return tensor.float() if tensor.element_size() < 4 else tensor


def check_module(module: Any) -> None:
    """Refuse what cannot be differentiated as a function of its parameters, by name."""
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module; got {type(module).__name__}")
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("`module` must be an eager torch.nn.Module; got a TorchScript module, which has no such calls")
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    if isinstance(module, wrappers):
        kind = type(module).__name__
        raise TypeError(f"`module` must be the network itself; got {kind}: pass its `.module`")
    # By name: importing the classes imports all of torch.distributed.
    if {type(part).__name__ for part in (*module.modules(), *module.parameters())} & SHARDED:
        raise TypeError("`module` must have its parameters whole on every rank; got sharded ones (FSDP, DTensor)")
    if any(isinstance(p, torch.nn.parameter.UninitializedParameter) for p in module.parameters()):
        raise ValueError("`module` must have its shapes set; got lazy parameters: run it once")
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("`module` must have at least one parameter that requires grad; got none")
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        raise ValueError("`module` must have values; got parameters on the meta device")
    if any(p.is_complex() for p in trainable):
        raise ValueError("`module` must have real parameters; got complex ones")
    kinds = {(p.dtype, p.device) for p in trainable}
    if len(kinds) > 1:
        raise ValueError(f"`module` must have parameters of one dtype on one device; got {sorted(map(str, kinds))}")
