"""The gradients of all logits of a few examples, layer by layer: what a softmax sees of J, in products of matrices.

A softmax does not see a change that all logits share, so that its cotangents sum to zero: J^T u is the sum over k < C
of u_k J^T (e_k - e_C). C - 1 backward passes to the layers' outputs give the signals behind these; sums over examples
and products with directions are then products of signals and layer inputs, whatever the number of cotangents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rmtland.nets.layer_pieces import FormedPiece, MatrixPiece, Piece, joined
from rmtland.nets.reduction import INPUT_DIRECTIONS, SIGNAL_DIRECTIONS, Reduction, leading, turned

if TYPE_CHECKING:
    from rmtland.nets.chunks import NetworkChunk
    from rmtland.nets.layer_rows import Layers
    from rmtland.nets.layers import Recording
    from rmtland.nets.snapshot import Snapshot

PART_BYTES = 2**26
"""Signals of a part of a chunk: of smaller parts, what each adds to sums over examples costs more than it spares."""
SMALLEST_PART = 64
SAMPLE = 256
"""Examples that directions are chosen by."""

Bases = dict[str, tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True)
class Outer:
    """Gradients s x^T of a weight matrix used once, and s of its bias: inputs (n, a), signals (n, C - 1, b)."""

    inputs: Tensor
    signals: Tensor

    def pushed(self, tangents: Tensor, bias: Tensor | None) -> Tensor:
        """Tangents (b a, k), and (b, k) of the bias, to (n, C - 1, k)."""
        (n, a), b, k = self.inputs.shape, self.signals.shape[2], tangents.shape[1]
        moved = (self.inputs @ tangents.T.reshape(k * b, a).T).reshape(n, k, b)
        return self.signals @ (moved if bias is None else moved + bias.T).mT

    def pulled(self, cotangents: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents (n, C - 1, k) to their sums over examples, (k, b a), and (k, b) of the bias."""
        weighed = cotangents.mT @ self.signals  # (n, k, b)
        n, k, b = weighed.shape
        return (weighed.reshape(n, k * b).T @ self.inputs).reshape(k, -1), weighed.sum(dim=0)

    def add_pulled(self, cotangents: Tensor, total: Tensor, bias: Tensor | None) -> None:
        """The same added to totals (k, b a) and (k, b) with any strides between their rows."""
        weighed = (cotangents.mT @ self.signals).permute(1, 2, 0)  # (k, b, n)
        place = total.view(len(total), self.signals.shape[2], -1)  # of a slice: no copy
        inputs = self.inputs.expand(len(weighed), *self.inputs.shape)
        if total.dtype == inputs.dtype:
            place.baddbmm_(weighed, inputs)
        else:
            place += weighed @ inputs
        if bias is not None:
            bias += weighed.sum(dim=2)

    def overlaps(self, cotangents: Tensor, other: Outer, others: Tensor) -> Tensor:
        """Inner products (k,) of what is pulled back from these examples and from others."""
        here, there = (w.mT @ t.signals for w, t in ((cotangents, self), (others, other)))  # (n, k, b)
        signals = here.permute(1, 0, 2) @ there.permute(1, 2, 0)  # (k, n, n)
        return (signals * (self.inputs @ other.inputs.T)).sum(dim=(1, 2))

    def chosen(self, examples: Tensor | slice) -> Outer:
        """Some examples'."""
        return Outer(self.inputs[examples], self.signals[examples])

    def reduced(self, left: Tensor | None, right: Tensor | None) -> Outer:
        """R^T s (Q^T x)^T."""
        inputs = self.inputs if right is None else self.inputs @ right
        return Outer(inputs, self.signals if left is None else self.signals @ left)


@dataclass(frozen=True)
class Formed:
    """Gradients written out, (n, C - 1, d)."""

    gradients: Tensor

    def pushed(self, tangents: Tensor, _: Tensor | None) -> Tensor:
        """Tangents (d, k) to (n, C - 1, k)."""
        return self.gradients @ tangents

    def pulled(self, cotangents: Tensor) -> tuple[Tensor, None]:
        """Cotangents (n, C - 1, k) to their sum over examples, (k, d)."""
        return cotangents.flatten(0, 1).T @ self.gradients.flatten(0, 1), None

    def add_pulled(self, cotangents: Tensor, total: Tensor, _: Tensor | None) -> None:
        """The same added to `total`, (k, d)."""
        total += self.pulled(cotangents)[0]

    def overlaps(self, cotangents: Tensor, other: Formed, others: Tensor) -> Tensor:
        """Inner products (k,) of what is pulled back from these examples and from others."""
        return (self.pulled(cotangents)[0] * other.pulled(others)[0]).sum(dim=1)

    def chosen(self, examples: Tensor | slice) -> Formed:
        """Some examples'."""
        return Formed(self.gradients[examples])

    def reduced(self, left: Tensor | None, right: Tensor | None) -> Formed:
        """R^T M Q for gradients M of weights."""
        b, a = (-1 if basis is None else len(basis) for basis in (left, right))
        return Formed(turned(self.gradients.reshape(*self.gradients.shape[:2], b, a), left, right).flatten(2))


class Signals:
    """J of n examples but for what all logits share: J_k - J_C for k < C, by tensors of parameters.

    Parameters
    ----------
    tensors : dict of str to Outer or Formed
    biases : dict of str to str
        Of weights the bias that their signals are the gradients of.
    places : dict of str to slice
    size : int
        D.
    """

    def __init__(
        self, tensors: dict[str, Outer | Formed], biases: dict[str, str], places: dict[str, slice], size: int
    ) -> None:
        self._tensors, self._biases, self._places, self._size = tensors, biases, places, size

    @classmethod
    def of(
        cls, recording: Recording, num_classes: int, groups: dict[str, slice], size: int,
        reduction: Reduction | None = None,
    ) -> Signals:  # fmt: skip
        """By C - 1 backward passes through a recorded forward pass; in the coordinates of some directions."""
        outputs = recording.outputs.detach()
        by_logit: list[dict[str, Piece]] = []
        for k in range(num_classes - 1):
            cotangents = torch.zeros_like(outputs)
            cotangents[:, k], cotangents[:, -1] = 1, -1
            by_logit.append({name: joined(used) for name, used in recording.pieces(cotangents).items()})
        biases = {name: bias for name in by_logit[0] if (bias := _bias_of(name, by_logit[0])) is not None}
        names = [name for name in groups if name in by_logit[0] and name not in biases.values()]
        bases: Bases = {} if reduction is None else reduction.bases
        # Reduced before they are stacked: a copy of few directions instead of all.
        tensors = {n: _stacked([pieces[n] for pieces in by_logit], *bases.get(n, (None, None))) for n in names}
        if reduction is None:
            return cls(tensors, biases, groups, size)
        return cls(tensors, biases, reduction.places, reduction.size)

    def _each(self) -> Iterator[tuple[Outer | Formed, slice, slice | None]]:
        """Tensors, their places and those of their biases."""
        for name, tensor in self._tensors.items():
            yield tensor, self._places[name], self._places[self._biases[name]] if name in self._biases else None

    def _like(self, tensors: dict[str, Outer | Formed]) -> Signals:
        return Signals(tensors, self._biases, self._places, self._size)

    def jvp(self, tangents: Tensor) -> Tensor:
        """J V less the last logit's row, (n, C, k), for tangents (D, k)."""
        parts = [
            tensor.pushed(tangents[place], None if bias is None else tangents[bias])
            for tensor, place, bias in self._each()
        ]
        pushed = torch.stack(parts).sum(dim=0)
        return torch.cat([pushed, torch.zeros_like(pushed[:, :1])], dim=1)

    def vjp(self, cotangents: Tensor) -> Tensor:
        """J^T U, (D, k), for cotangents (n, C, k) that sum to zero over logits."""
        total = cotangents.new_zeros((cotangents.shape[2], self._size))
        for tensor, place, bias in self._each():
            total[:, place], of_bias = tensor.pulled(cotangents[:, :-1])
            if bias is not None and of_bias is not None:
                total[:, bias] = of_bias
        return total.T

    def overlaps(self, cotangents: Tensor, other: Signals, others: Tensor) -> Tensor:
        """Inner products (k,) in weights of J^T U of these examples with that of others, cotangents (n, C, k)."""
        parts = [
            tensor.overlaps(cotangents[:, :-1], other._tensors[name], others[:, :-1])  # type: ignore[arg-type]
            for name, tensor in self._tensors.items()
        ]
        return torch.stack(parts).sum(dim=0)

    def add_pulled(self, total: Tensor, cotangents: Tensor) -> None:
        """J^T U added to `total` (k, D), for cotangents (n, C, k)."""
        for tensor, place, bias in self._each():
            tensor.add_pulled(cotangents[:, :-1], total[:, place], None if bias is None else total[:, bias])

    def chosen(self, examples: Tensor | slice) -> Signals:
        """Those of some examples."""
        return self._like({n: t.chosen(examples) for n, t in self._tensors.items()})

    def reduced(self, reduction: Reduction) -> Signals:
        """In the coordinates of some directions of the parameters."""
        bases = reduction.bases
        tensors = {n: t.reduced(*bases[n]) if n in bases else t for n, t in self._tensors.items()}
        return Signals(tensors, self._biases, reduction.places, reduction.size)

    def reduction(self, factor: Tensor, shapes: dict[str, torch.Size], tolerance: float) -> Reduction:
        """The subspace that holds most of what gradients are made of: inputs, and signals that the loss weighs.

        `factor` is L (n, C, r), L L^T the loss's Hessian.
        """
        bases: Bases = {}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, Outer):
                weighed = (factor[:, :-1].mT @ tensor.signals).flatten(0, 1)
                left = leading(weighed, SIGNAL_DIRECTIONS, tolerance)
                bases[name] = (left, leading(tensor.inputs, INPUT_DIRECTIONS, tolerance))
                if name in self._biases:
                    bases[self._biases[name]] = (left, None)
        return Reduction(self._places, shapes, bases)


def _bias_of(name: str, pieces: dict[str, Piece]) -> str | None:
    """The name of a weight's bias where its gradients are the weight's signals."""
    bias = name.removesuffix("weight") + "bias"
    one, other = pieces[name], pieces.get(bias)
    if not (name.endswith("weight") and isinstance(one, MatrixPiece) and isinstance(other, FormedPiece)):
        return None
    once = one.inputs.shape[1] == one.num_positions == 1
    return bias if once and torch.equal(one.signals[:, 0, :, 0], other.gradients) else None


def _stacked(pieces: list[Piece], left: Tensor | None, right: Tensor | None) -> Outer | Formed:
    first = pieces[0]
    if isinstance(first, MatrixPiece) and first.inputs.shape[1] == first.num_positions == 1:
        signals = [piece.signals[:, 0, :, 0] for piece in pieces if isinstance(piece, MatrixPiece)]
        signals = signals if left is None else [some @ left for some in signals]
        inputs = first.inputs[:, 0, :, 0]
        return Outer(inputs if right is None else inputs @ right, torch.stack(signals, dim=1))
    return Formed(torch.stack([piece.formed() for piece in pieces], dim=1))


class SignalsChunk:
    """Examples of a network as a softmax sees them, in all parameters or in some directions.

    A chunk for statistics whose cotangents sum to zero over logits, as those of cross-entropy do; `jvp` leaves out what
    all logits share.
    """

    def __init__(self, chunk: Any, signals: Signals, logits: Tensor) -> None:
        self.signals, self.logits = signals, logits
        self.labels: Tensor = chunk.labels
        self.targets, self.weights = chunk.targets, chunk.weights

    def softmax_view(self) -> SignalsChunk:
        """The chunk itself."""
        return self

    def jvp(self, tangents: Tensor) -> Tensor:
        """J V for tangents (D, k), (n, C, k), but for what all logits share."""
        return self.signals.jvp(tangents)

    def vjp(self, cotangents: Tensor) -> Tensor:
        """J^T U for cotangents (n, C, k) that sum to zero over logits, (D, k)."""
        return self.signals.vjp(cotangents)

    def dense(self, parameters: slice = slice(None)) -> Tensor:
        """J but for what all logits share, (n, C, d)."""
        unit = torch.eye(self.signals._size, dtype=self.logits.dtype, device=self.logits.device)
        return self.signals.jvp(unit[:, parameters])

    def add_class_sums(self, sums: Tensor, columns: Tensor, classes: range) -> None:
        """Add sum_mu J_mu^T u_mu,c' over the examples of each class to sums (len(classes), C, D)."""
        for place, c in enumerate(classes):
            some = (self.labels == c).nonzero()[:, 0]
            if len(some):
                self.signals.chosen(some).add_pulled(sums[place], columns[some])


class WholeChunk:
    """The same examples in all parameters, for one cotangent after another: a backward pass to the layers each."""

    def __init__(self, chunk: NetworkChunk, logits: Tensor) -> None:
        self._chunk, self.logits, self.labels = chunk, logits, chunk.labels
        self.targets, self.weights = chunk.targets, chunk.weights

    def vjp(self, cotangents: Tensor) -> Tensor:
        """J^T U for cotangents (n, C, k), (D, k)."""
        every = cotangents.new_ones((len(cotangents), 1))
        return torch.cat([self._chunk.rows(column).sums(every) for column in cotangents.unbind(dim=2)]).T


class Reducer:
    """Examples of a network in a few directions of its parameters.

    Parameters
    ----------
    sample : SignalsChunk
        The examples that directions are chosen by.
    factor : Tensor (n, C, r)
        L L^T is the loss's Hessian at them.
    network : Snapshot
    layers : Layers
    tolerance : float
        Share of inputs and signals that may be left out.

    Attributes
    ----------
    reduction : Reduction
    """

    def __init__(
        self, sample: SignalsChunk, factor: Tensor, network: Snapshot, layers: Layers, tolerance: float
    ) -> None:
        self._whole, self._factor = sample.signals, factor.to(sample.logits)
        self.reduction = self._whole.reduction(self._factor, network.shapes, tolerance)
        self._small = self._whole.reduced(self.reduction)
        numbers = sum(layers.stored_bytes(name, sample.logits.shape[1] - 1) for name in network.groups)
        self._part_size = min(layers.part_size, max(SMALLEST_PART, PART_BYTES // max(numbers, 1)))

    def parts(self, chunk: NetworkChunk) -> Iterator[tuple[WholeChunk, SignalsChunk]]:
        """The examples of a chunk, part by part, in all parameters and in the directions."""
        for part in chunk.pieces(self._part_size):
            view = part.softmax_view(self.reduction)
            assert view is not None
            yield WholeChunk(part, view.logits), view

    def left_out(self, vectors: Tensor) -> Tensor:
        """|R u|^2, (k,), for vectors u (size, k) in the subspace, R u being the part of G u that is not in it.

        The inner product of R u from two halves of the sample, in which the noise of either has mean zero: it may be
        negative. Biases are left to their weights.
        """
        half = len(self._factor) // 2
        if half == 0:
            return vectors.new_zeros(vectors.shape[1])
        pushed = self._small.jvp(vectors.to(self._factor))
        curved = self._factor @ (self._factor.mT @ pushed) / half
        first, second = slice(0, half), slice(half, 2 * half)
        overlaps = [
            signals.chosen(first).overlaps(curved[first], signals.chosen(second), curved[second])
            for signals in (self._whole, self._small)
        ]
        return overlaps[0] - overlaps[1]
