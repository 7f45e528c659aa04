"""Second derivatives of operations that users have written, held against differences of first ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rmtland.nets.chunks import NetworkChunk
from rmtland.nets.twice import graph_nodes

STEPS = (1e-7, 3e-8)
"""Of the parameters' sizes: too short to meet many kinks, and two of them, which differ where one did or where an
operation computes in less than float64."""
TOLERANCE = 1e-3


def coarsest_spacing(outputs: Tensor) -> float:
    """Spacing at 1 of the half precision that some of a graph is computed in, 0.0 where none is."""
    kinds = {meta.dtype for node in graph_nodes([outputs]) for meta in node._input_metadata}
    return max((torch.finfo(kind).eps for kind in kinds if kind.is_floating_point and kind.itemsize < 4), default=0.0)


def wrong_second_derivatives(chunk: NetworkChunk) -> str | None:
    """Which operations written in Python have second derivatives that are not those of their first; None for none.

    A backward that takes what its forward made, kept with `save_for_backward` or as an attribute of `ctx`, tells
    autograd nothing of how that depends on the inputs: its derivatives come out wrong in silence, and symmetric. An
    operation whose backward is no derivative of its forward, such as a straight-through estimator, means what it says.
    Looked at in float64, where the network runs in it.
    """
    written = {node._forward_cls.__name__ for node in graph_nodes([chunk.recorded()]) if hasattr(node, "_forward_cls")}
    if not written:
        return None
    try:
        differ = _differ(chunk)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError):  # not in float64
        return None
    return ", ".join(sorted(written)) if differ else None


def _differ(chunk: NetworkChunk) -> bool:
    network = chunk.network
    start = {n: p.detach().double() for n, p in network.parameters.items()}
    rng = torch.Generator(device="cpu").manual_seed(0)
    along = {n: _normal(p, rng) * p.square().mean().sqrt() for n, p in start.items()}
    weights: Tensor | None = None

    def slopes(step: float, *, twice: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The weighted sum of outputs at a step, and its slopes there or their derivative along the direction."""
        nonlocal weights
        leaves = {n: (p + step * along[n]).requires_grad_() for n, p in start.items()}
        outputs = _outputs(chunk, leaves)
        if outputs.dtype != torch.float64:
            raise TypeError("the network does not run in float64")
        weights = _normal(outputs, rng) if weights is None else weights
        total = (weights * outputs).sum()
        found = torch.autograd.grad(total, list(leaves.values()), create_graph=twice, materialize_grads=True)
        if twice:
            varying = sum(((g * along[n]).sum() for n, g in zip(leaves, found, strict=True)), torch.zeros_like(total))
            found = torch.autograd.grad(varying, list(leaves.values()), materialize_grads=True)
        return total.detach(), [g.detach() for g in found]

    _, second = slopes(0.0, twice=True)
    _, first = slopes(0.0)
    rises, differences = [], []
    for step in STEPS:
        (above, upper), (below, lower) = slopes(step), slopes(-step)
        rises.append(float(above - below) / (2 * step))
        differences.append([(a - b) / (2 * step) for a, b in zip(upper, lower, strict=True)])
    promised = sum(float((g * v).sum()) for g, v in zip(first, along.values(), strict=True))
    if abs(rises[0] - promised) > TOLERANCE * max(abs(rises[0]), abs(promised)):
        return False
    error, doubt = _distance(differences[0], second), _distance(*differences)
    size = max(_distance(differences[0]), _distance(second), 1e-6 * _distance(first))
    return error > TOLERANCE * size and doubt < error / 10


def _outputs(chunk: NetworkChunk, parameters: Mapping[str, Tensor]) -> Tensor:
    """The network's outputs in float64, whatever it is in."""
    network = chunk.network

    def double(leaf: Tensor) -> Tensor:
        return leaf.double() if leaf.is_floating_point() else leaf

    constants = {n: double(t).clone() for n, t in network.constants.items()}
    return network.outputs({**constants, **parameters}, tree_map(double, chunk.inputs))


def _normal(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, dtype=torch.float64, device="cpu").to(like.device)


def _distance(first: list[Tensor], second: list[Tensor] | None = None) -> float:
    others = [torch.zeros_like(a) for a in first] if second is None else second
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(first, others, strict=True)))
