"""Whether a network can be differentiated twice: torch does not always say where it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rmtland.nets.chains import Chain
from rmtland.nets.chunks import NetworkChunk, Slope

_ONCE = once_differentiable(lambda ctx: None).__code__
"""What `backward` of an autograd.Function has for code where it is marked once_differentiable."""


def flaws(chunk: NetworkChunk, slope: Slope) -> dict[str, str]:
    """Why products of the kinds "jvp" and "second" would fail or be wrong, as seen on a few examples.

    Torch leaves out in silence what lies behind a backward marked once_differentiable where gradients are asked for by
    name, and some operations' second derivatives are wrong, which shows as a Hessian that is not symmetric.

    Raises
    ------
    ValueError
        For a network that has no first derivatives in its parameters.
    """
    leaves = tuple(chunk.network.leaves.values())
    with torch.inference_mode(False), torch.enable_grad():
        outputs = chunk.recorded()
        if not outputs.requires_grad:
            raise ValueError(
                "`module` must return logits that depend on its parameters; got ones that do not (torch.no_grad or "
                "detach in its forward pass?)"
            )
        try:
            slopes = chunk.slopes(outputs, slope(outputs).to(outputs.dtype))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = str(error).split(". ")[0]
            raise ValueError(f"`module` must be differentiable in its parameters; torch says: {said}") from error
        for node in graph_nodes([outputs, *slopes]):
            function: Any = getattr(node, "_forward_cls", None)  # of an operation written in Python
            if function is not None and getattr(function.backward, "__code__", None) is _ONCE:
                return dict.fromkeys(("jvp", "second"), f"the backward of {function.__name__} is once_differentiable")
            if node.name() == "torch::autograd::Error":
                return dict.fromkeys(("jvp", "second"), "one of its operations is differentiable once only")
        start = [slope.detach() for slope in slopes]
        try:
            product = _product(slopes, leaves, start)
            again = _product(slopes, leaves, product)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # NotImplementedError is one
            return dict.fromkeys(("jvp", "second"), f"torch says: {str(error).split('. ')[0].rstrip('.')}")
    if outputs.element_size() < 4:  # too coarse to tell
        return {}
    length, other = _inner(product, product), _inner(start, again)
    if abs(length - other) > 30 * torch.finfo(outputs.dtype).eps ** 0.5 * length:
        return {"second": "its second derivatives by torch are not symmetric"}
    return {}


def is_chain(chunk: NetworkChunk, slope: Slope) -> bool:
    """Whether second derivatives by a chain of layers are those of automatic differentiation, on a few examples."""
    leaves = tuple(chunk.network.leaves.values())
    with torch.inference_mode(False), torch.enable_grad():
        outputs = chunk.recorded()
        try:
            chain = Chain.of(outputs, leaves, slope)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # what gradient checkpointing says where it is asked for what it does not keep
            return False
        if chain is None:
            return False
        slopes = chunk.slopes(outputs, slope(outputs))
        start = [slope.detach() for slope in slopes]
        expected = _product(slopes, leaves, start)
    found = [torch.zeros_like(leaf, requires_grad=False)[None] for leaf in leaves]
    chain.add_to(found, [part[None] for part in start])
    wrong = [a[0].sub_(b) for a, b in zip(found, expected, strict=True)]
    return _inner(wrong, wrong) <= torch.finfo(outputs.dtype).eps * _inner(expected, expected)


def _product(slopes: Sequence[Tensor], leaves: Sequence[Tensor], vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """H v, the slopes' derivative along v."""
    varying = [i for i, slope in enumerate(slopes) if slope.requires_grad]
    if not varying:
        return tuple(torch.zeros_like(leaf, requires_grad=False) for leaf in leaves)
    values, cotangents = [slopes[i] for i in varying], [vector[i] for i in varying]
    return torch.autograd.grad(values, leaves, cotangents, retain_graph=True, materialize_grads=True)


def _inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return sum(float((a * b).sum()) for a, b in zip(first, second, strict=True))


def graph_nodes(values: Sequence[Tensor]) -> Iterator[Any]:
    """Every node of the graphs behind some values, once."""
    waiting = [value.grad_fn for value in values]
    seen: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [parent for parent, _ in node.next_functions]
