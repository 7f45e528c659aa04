"""The loss's slope as a part of recorded graphs, and the bytes that these hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rmtland.logits.loss_at import LossAt
from rmtland.logits.losses import Loss
from rmtland.nets.batches import Batch
from rmtland.nets.budget import GraphBytes
from rmtland.nets.chunks import NetworkChunk, Plan
from rmtland.nets.snapshot import single


class _LossSlope(torch.autograd.Function):
    """dl/dz as a function of the outputs, differentiated in closed form: A u, with nothing but the outputs kept."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, at: Callable[[Tensor], LossAt]) -> Tensor:
        ctx.save_for_backward(outputs)
        ctx.at = at
        slopes: Tensor = at(single(outputs)).gradient()
        return slopes.to(outputs.dtype)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (outputs,) = ctx.saved_tensors
        (cotangent,) = cotangents
        product: Tensor = ctx.at(single(outputs)).hessian_product(single(cotangent)[:, :, None])[:, :, 0]
        return product.to(outputs.dtype), None


@dataclass(frozen=True, eq=False)
class LossSlope:
    """The loss's derivative in outputs (n, C) over N, as a differentiable function of them; see `SlopeAlong`."""

    loss: Loss
    targets: Tensor
    weights: Tensor | None
    num_examples: int

    def __call__(self, outputs: Tensor) -> Tensor:
        """(n, C)."""
        slopes: Tensor = _LossSlope.apply(outputs, self._at)  # type: ignore[no-untyped-call]
        return slopes / self.num_examples

    def _at(self, outputs: Tensor) -> LossAt:
        return LossAt(self.loss, outputs, self.targets, self.weights)

    def along(self, outputs: Tensor, tangents: Tensor, examples: slice) -> Tensor:
        """A u / N for tangents (m, C, k) of some of the examples."""
        weights = None if self.weights is None else self.weights[examples]
        product: Tensor = LossAt(self.loss, outputs, self.targets[examples], weights).hessian_product(tangents)
        return product / self.num_examples


def loss_slope(chunk: NetworkChunk, num_examples: int) -> LossSlope:
    """The loss's derivative in a chunk's outputs over N."""
    # Not the chunk itself: the recorded graph holds the slope, and the chunk the graph, a circle through C++ that
    # Python's garbage collector does not see: no Hessian's memory would ever come back.
    return LossSlope(chunk.plan.reading.loss, chunk.targets, chunk.weights, num_examples)


def measure_graphs(plan: Plan, batch: Batch) -> GraphBytes:
    """Bytes that recorded computations hold, from those of one and of several inputs."""
    count = min(batch.num_inputs, 4)
    few, one = (_graph_bytes(plan, batch.cut(slice(0, n))) for n in (count, max(1, count // 2)))
    sizes = {}
    for kind in few:
        span = count - max(1, count // 2)
        each = max((few[kind] - one[kind]) // span, 0) if span else few[kind]
        sizes[kind] = (max(few[kind] - count * each, 0), each + 1)
    return GraphBytes(**sizes)


def _graph_bytes(plan: Plan, batch: Batch) -> dict[str, int]:
    """Bytes of all storages that graphs save, those of parameters and buffers not counted."""
    network = plan.network
    batch = batch.copied()
    chunk = NetworkChunk(plan, batch)
    # Inputs are data, unless each pass makes a copy of them in another dtype or on another device.
    given = torch.utils._pytree.tree_leaves(batch.inputs)
    own = {t.untyped_storage().data_ptr() for t in (network.vector, *network.constants.values(), *given)}
    saved: dict[int, Tensor] = {}  # held, as the next graph would lie where a freed one was

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor.detach()

    def held() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())

    with torch.inference_mode(False), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = chunk.recorded()
        with torch.enable_grad():
            forward = held() + outputs.numel() * outputs.element_size()
            chunk.slopes(outputs, torch.zeros_like(outputs, requires_grad=True))
            jvp = held() - forward
            chunk.slopes(outputs, loss_slope(chunk, 1)(outputs))
            second = held() - jvp - forward
    # What both share was counted with the first; a second derivative keeps at least as much as it.
    return {"forward": forward, "jvp": jvp, "second": max(second, jvp)}
