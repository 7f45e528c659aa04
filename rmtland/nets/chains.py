"""Networks that are linear layers and activations one after the other: second derivatives of many columns at once.

Automatic differentiation takes one column at a time, with a matrix product, an addition and a new tensor for each term.
Where the recorded graph is a chain, the terms are known: columns lie side by side in one matrix product for all of
them, sums grow in place, and some examples at a time keep what lies between in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from rmtland.nets.backward import DEVICE_BYTES

ACTIVATIONS = (
    "Elu", "Gelu", "Hardswish", "Hardtanh", "LeakyRelu", "LogSigmoid", "Mish", "Relu", "Sigmoid", "Silu", "Sin",
    "Softplus", "Tanh",
)  # fmt: skip
ELEMENTWISE = frozenset(f"{name}Backward0" for name in ACTIVATIONS)
"""Nodes of a graph whose outputs' entries depend on the same entry of their inputs alone."""
CACHE_BYTES = 2**24
"""What lies between layers, of all columns and some examples: in a processor's shared cache."""
EXAMPLES = 256
"""At least as many examples at a time: of fewer, sums of weights' gradients are read and written more than added to."""


@runtime_checkable
class SlopeAlong(Protocol):
    """Cotangents of outputs that know their own derivative."""

    def __call__(self, outputs: Tensor) -> Tensor:
        """Of outputs (n, C), (n, C)."""

    def along(self, outputs: Tensor, tangents: Tensor, examples: slice) -> Tensor:
        """Their derivative along tangents (m, C, k) of some of the examples, outputs (m, C)."""


@dataclass(frozen=True)
class _Link:
    """A linear layer s = W a + b and the activations after it, of n examples.

    Attributes
    ----------
    weight, bias : int, optional
        Their places among the leaves; None where frozen, and where there is none.
    matrix : Tensor
        W, (outputs, inputs).
    inputs : Tensor or None
        a, (n, inputs); None where the weight is frozen.
    slopes, bends : Tensor or None
        f'(s), and f''(s) da for the loss's derivative da in f(s), (n, outputs); None for 1 and 0.
    signals : Tensor
        The loss's derivative in s, (n, outputs).
    """

    weight: int | None
    bias: int | None
    matrix: Tensor
    inputs: Tensor | None
    slopes: Tensor | None
    bends: Tensor | None
    signals: Tensor

    @property
    def width(self) -> int:
        return int(self.matrix.shape[0])


class Chain:
    """The second derivative of a loss through a chain of layers, as `Backward` has it for other graphs.

    Parameters
    ----------
    links : sequence of _Link
        In the order of the forward pass.
    outputs : Tensor (n, C)
    slope : SlopeAlong
    """

    def __init__(self, links: Sequence[_Link], outputs: Tensor, slope: SlopeAlong) -> None:
        self._links, self._outputs, self._slope = tuple(links), outputs, slope

    @classmethod
    def of(cls, outputs: Tensor, leaves: Sequence[Tensor], slope: Any) -> Chain | None:
        """From recorded outputs; None where their graph is another one, or too coarse to be summed in place."""
        if not isinstance(slope, SlopeAlong) or outputs.element_size() < 4 or outputs.ndim != 2:
            return None
        places = {id(leaf): place for place, leaf in enumerate(leaves)}
        found: list[_Link] = []  # from the last to the first
        after = outputs.grad_fn
        slopes_at_outputs = slope(outputs.detach()).to(outputs.dtype)
        while after is not None:
            node: Any = after
            while node is not None and node.name() in ELEMENTWISE:
                node = node.next_functions[0][0]
            read = None if node is None else _read(node, places)
            if read is None:
                return None
            weight, bias, matrix, inputs, before = read
            signals = found[-1].signals @ found[-1].matrix if found else slopes_at_outputs
            slopes, bends = _activation(after, node, signals)
            signals = signals if slopes is None else signals * slopes
            found.append(_Link(weight, bias, matrix, inputs, slopes, bends, signals))
            after = before
        return cls(found[::-1], outputs.detach(), slope) if found else None

    @property
    def num_bytes(self) -> int:
        """Of what it holds beside the graph."""
        held = [t for link in self._links for t in (link.slopes, link.bends, link.signals) if t is not None]
        return sum(t.numel() * t.element_size() for t in held)

    @torch.no_grad()
    def add_to(self, totals: Sequence[Tensor], rows: Sequence[Tensor]) -> None:
        """For tangents `rows`, (k, *shape) of each parameter, the products added to `totals`, of the same shapes."""
        count, num_examples = rows[0].shape[0], self._outputs.shape[0]
        # Tangents of every layer, what is passed back between the widest, outputs with what the loss makes of them.
        widths = [link.width * (2 if link.bends is not None else 1) for link in self._links]
        widths += 2 * [max(widths)] + 4 * [self._links[-1].width]
        each = sum(widths) * self._outputs.element_size()
        limit = CACHE_BYTES if self._outputs.device.type == "cpu" else DEVICE_BYTES
        some = min(EXAMPLES, num_examples)
        width = max(1, min(count, limit // (some * each)))
        size = max(some, limit // (width * each))
        size = -(-num_examples // -(-num_examples // size))  # parts of about equal size
        for start in range(0, count, width):
            columns = slice(start, start + width)
            self._add_columns([t[columns] for t in totals], [r[columns].contiguous() for r in rows], size)

    def _add_columns(self, totals: list[Tensor], rows: list[Tensor], size: int) -> None:
        # A block's totals lie a whole parameter vector apart, and one product fills those of all columns.
        sums = [t if t.is_contiguous() else torch.zeros_like(r) for t, r in zip(totals, rows, strict=True)]
        for start in range(0, self._outputs.shape[0], size):
            self._add_examples(sums, rows, slice(start, start + size))
        for total, added in zip(totals, sums, strict=True):
            if total is not added:
                total += added

    def _add_examples(self, sums: list[Tensor], rows: list[Tensor], examples: slice) -> None:
        """Of some examples; columns lie side by side, (n, k width), which is (n k, width) as well."""
        count = rows[0].shape[0]
        tangents, bent = self._forward(rows, examples)
        outputs = self._outputs[examples]
        along = self._slope.along(outputs, tangents[-1].view(len(outputs), count, -1).mT, examples)
        back = along.to(outputs.dtype).mT.reshape(len(outputs), -1)
        for place, link in reversed(list(enumerate(self._links))):
            each = back.view(len(outputs), count, link.width)
            if link.slopes is not None:
                each *= link.slopes[examples, None]
            if link.bends is not None:
                each.addcmul_(link.bends[examples, None], bent[place].view_as(each))
            before = tangents[place - 1] if place else None
            self._add_sums(link, sums, back, before, examples)
            if before is not None:
                back = _passed_back(link, rows, back, examples)

    def _forward(self, rows: list[Tensor], examples: slice) -> tuple[list[Tensor], list[Tensor]]:
        """Of each layer the tangents (n, k width) of what comes after its activations, and of what before."""
        count = rows[0].shape[0]
        after: list[Tensor] = []
        bent: list[Tensor] = []
        for link in self._links:
            tangent = _own_tangent(link, rows, examples)
            if after:
                passed = after[-1].view(-1, link.matrix.shape[1])
                if tangent is None:
                    tangent = (passed @ link.matrix.T).view(-1, count * link.width)
                else:
                    tangent.view(-1, link.width).addmm_(passed, link.matrix.T)
            assert tangent is not None  # the first layer has something to be differentiated in
            bent.append(tangent)
            if link.slopes is not None:
                each, slopes = tangent.view(-1, count, link.width), link.slopes[examples, None]
                tangent = (each.mul_(slopes) if link.bends is None else each * slopes).view_as(tangent)
            after.append(tangent)
        return after, bent

    def _add_sums(self, link: _Link, sums: list[Tensor], back: Tensor, before: Tensor | None, examples: slice) -> None:
        """What a layer's parameters get of signals' tangents (n, k width), and of its inputs' (n, k inputs)."""
        if link.bias is not None:
            sums[link.bias].view(-1).addmv_(back.T, back.new_ones(len(back)))
        if link.weight is None or link.inputs is None:
            return
        total, signals = sums[link.weight], link.signals[examples].T
        total.view(back.shape[1], -1).addmm_(back.T, link.inputs[examples])
        if before is not None:
            for column, tangent in zip(total, torch.split(before, total.shape[2], dim=1), strict=True):
                column.addmm_(signals, tangent)


def _own_tangent(link: _Link, rows: list[Tensor], examples: slice) -> Tensor | None:
    """What tangents of the layer's own parameters do to its outputs, (n, k width)."""
    bias = None if link.bias is None else rows[link.bias].view(-1)
    if link.weight is not None and link.inputs is not None:
        inputs, weights = link.inputs[examples], rows[link.weight].flatten(0, 1).T
        return inputs @ weights if bias is None else torch.addmm(bias, inputs, weights)
    return None if bias is None else bias.repeat(len(link.signals[examples]), 1)


def _passed_back(link: _Link, rows: list[Tensor], back: Tensor, examples: slice) -> Tensor:
    """The signals' tangents (n, k width) before the layer, (n, k inputs)."""
    inputs, signals = link.matrix.shape[1], link.signals[examples]
    through = back.view(-1, link.width)
    if link.weight is None:
        return (through @ link.matrix).view(len(signals), -1)
    passed = back.new_empty((len(signals), len(rows[link.weight]) * inputs))
    for column, weight in zip(torch.split(passed, inputs, dim=1), rows[link.weight], strict=True):
        torch.mm(signals, weight, out=column)
    passed.view(-1, inputs).addmm_(through, link.matrix)
    return passed


def _read(node: Any, places: dict[int, int]) -> tuple[int | None, int | None, Tensor, Tensor | None, Any] | None:
    """Of a linear layer the weight's and the bias's places, W, the inputs and the node before; None of any other."""
    bias = None
    if node.name() == "AddmmBackward0" and node._saved_alpha == node._saved_beta == 1:
        (bias, _), (before, _), (transposed, _) = node.next_functions
        saved = "_saved_mat1"
    elif node.name() == "MmBackward0":
        (before, _), (transposed, _) = node.next_functions
        saved = "_saved_self"
    else:
        return None
    weight = None
    if transposed is not None:
        weight = _leaf(transposed.next_functions[0][0]) if transposed.name() == "TBackward0" else None
        if weight is None or id(weight) not in places:
            return None
        inputs, again = getattr(node, saved), getattr(node, saved)
        if inputs.data_ptr() != again.data_ptr():  # made anew each time: gradient checkpointing
            return None
        matrix, inputs = weight.detach(), inputs.detach()
    elif before is not None:
        matrix, inputs = node._saved_mat2.detach().T, None
    else:
        return None
    shift = None if bias is None else _leaf(bias)
    if bias is not None and (shift is None or id(shift) not in places or shift.shape != matrix.shape[:1]):
        return None
    return _place(weight, places), _place(shift, places), matrix, inputs, before


def _leaf(node: Any) -> Tensor | None:
    return getattr(node, "variable", None)


def _place(leaf: Tensor | None, places: dict[int, int]) -> int | None:
    return None if leaf is None else places[id(leaf)]


def _activation(after: Any, linear: Any, slopes_after: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """f'(s), and f''(s) times the loss's slopes in f(s), of what lies between two nodes; None for 1 and for zeros."""
    if after is linear:
        return None, None
    ends = [GradientEdge(after, 0)], [GradientEdge(linear, 0)]
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(*ends, [torch.ones_like(slopes_after)], create_graph=True)
        bends = None
        if slopes.requires_grad:
            (bends,) = torch.autograd.grad([slopes], ends[1], [slopes_after], retain_graph=True, allow_unused=True)
    return slopes.detach(), bends if bends is not None and bool(bends.any()) else None
