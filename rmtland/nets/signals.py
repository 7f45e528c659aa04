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
    from rmtland.nets.layers import Recording

WRITTEN = 5
"""A weight's gradient of an example is written out where that takes up to so many times the numbers of its factors."""
MOST_ROWS = 2**12
"""Rows that directions are chosen by: every j-th of many positions."""

Bases = dict[str, tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True)
class Outer:
    """Gradients sum_p s_p x_p^T of a weight matrix used at P positions, and sum_p s_p of its bias.

    Inputs (n, P, a), signals (n, C - 1, P, b); `whole` are the inputs in all directions, where these are few.
    """

    inputs: Tensor
    signals: Tensor
    whole: Tensor | None = None

    def pushed(self, tangents: Tensor, bias: Tensor | None) -> Tensor:
        """Tangents (b a, k), and (b, k) of the bias, to (n, C - 1, k)."""
        (n, positions, a), b, k = self.inputs.shape, self.signals.shape[3], tangents.shape[1]
        moved = self.inputs.flatten(0, 1) @ tangents.reshape(b, a, k).transpose(0, 1).reshape(a, b * k)
        moved = moved.reshape(n, positions, b, k)
        return self.signals.flatten(2) @ (moved if bias is None else moved + bias).reshape(n, positions * b, k)

    def _weighed(self, cotangents: Tensor) -> Tensor:
        """Sums over logits of cotangents (n, C - 1, k) times signals, (n, k, P, b)."""
        n, _, positions, b = self.signals.shape
        return (cotangents.mT @ self.signals.flatten(2)).reshape(n, -1, positions, b)

    def pulled(self, cotangents: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents (n, C - 1, k) to their sums over examples, (k, b a), and (k, b) of the bias."""
        weighed = self._weighed(cotangents)
        return _over_examples(weighed, self.inputs).flatten(1), weighed.sum(dim=(0, 2))

    def pulled_whole(self, cotangents: Tensor, left: Tensor) -> Tensor | None:
        """L^T M (k, j, a) of what is pulled back to M (k, q, a) with whole inputs, for L (q, j); None without these."""
        if self.whole is None:
            return None
        return _over_examples(self._weighed(cotangents) @ left.to(self.signals.dtype), self.whole)

    def add_pulled(self, cotangents: Tensor, total: Tensor, bias: Tensor | None) -> None:
        """The same added to totals (k, b a) and (k, b) with any strides between their rows."""
        weighed = self._weighed(cotangents)
        k, b = weighed.shape[1], weighed.shape[3]
        place = total.view(len(total), b, -1)  # of a slice: no copy
        inputs = self.inputs.flatten(0, 1)
        rows = weighed.permute(1, 3, 0, 2).reshape(k, b, len(inputs))
        if total.dtype == inputs.dtype:
            place.baddbmm_(rows, inputs.expand(k, *inputs.shape))
        else:
            place += rows @ inputs
        if bias is not None:
            bias += weighed.sum(dim=(0, 2))

    def overlaps(self, cotangents: Tensor, other: Outer, others: Tensor) -> Tensor:
        """Inner products (k,) of what is pulled back from these examples and from others."""
        if self.inputs.shape[1] > 1:
            return (self.pulled(cotangents)[0] * other.pulled(others)[0]).sum(dim=1)
        here, there = (w.mT @ t.signals[:, :, 0] for w, t in ((cotangents, self), (others, other)))  # (n, k, b)
        signals = here.permute(1, 0, 2) @ there.permute(1, 2, 0)  # (k, n, n)
        return (signals * (self.inputs[:, 0] @ other.inputs[:, 0].T)).sum(dim=(1, 2))

    def chosen(self, examples: Tensor | slice, *, whole: bool = True) -> Outer:
        """Some examples', with their whole inputs or without."""
        kept = None if self.whole is None or not whole else self.whole[examples]
        return Outer(self.inputs[examples], self.signals[examples], kept)

    def reduced(self, left: Tensor | None, right: Tensor | None) -> Outer | Formed:
        """R^T s (Q^T x)^T, written out where that takes few numbers."""
        return _few(self.inputs, self.signals if left is None else self.signals @ left, right)

    def shortest(self) -> Outer | Formed:
        """Written out where several positions take about as many numbers: products are cheaper then."""
        n, num_logits, positions, b = self.signals.shape
        written, kept = num_logits * b * self.inputs.shape[2], self.inputs[0].numel() + self.signals[0].numel()
        if positions == 1 or written > WRITTEN * kept:
            return self
        by_row = self.signals.transpose(2, 3).reshape(n, num_logits * b, positions)
        return Formed((by_row @ self.inputs).reshape(n, num_logits, -1))

    def leading(self, factor: Tensor, tolerance: float) -> tuple[Tensor | None, Tensor | None]:
        """Directions (R, Q) of the signals that the loss weighs, with L (n, C - 1, r), and of the inputs."""
        weighed, inputs = self._weighed(factor).flatten(0, 2), self.inputs.flatten(0, 1)
        weighed, inputs = (rows[:: max(1, len(rows) // MOST_ROWS)] for rows in (weighed, inputs))
        return leading(weighed, SIGNAL_DIRECTIONS, tolerance), leading(inputs, INPUT_DIRECTIONS, tolerance)


def _few(inputs: Tensor, signals: Tensor, right: Tensor | None) -> Outer | Formed:
    """With inputs in few directions."""
    made = Outer(inputs, signals) if right is None else Outer(inputs @ right, signals, inputs)
    return made.shortest()


def _over_examples(weighed: Tensor, inputs: Tensor) -> Tensor:
    """Sums over examples and positions of (n, k, P, b) times (n, P, a), (k, b, a)."""
    n, k, positions, b = weighed.shape
    return (weighed.permute(1, 3, 0, 2).reshape(k * b, n * positions) @ inputs.flatten(0, 1)).reshape(k, b, -1)


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

    def chosen(self, examples: Tensor | slice, *, whole: bool = True) -> Formed:
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
        reduction: Reduction | None = None, *, factored: bool = False,
    ) -> Signals:  # fmt: skip
        """By C - 1 backward passes through a recorded forward pass; in the coordinates of some directions.

        `factored` leaves weights used at several positions as inputs and signals.
        """
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
        few = reduction is not None
        tensors = {
            n: _stacked([pieces[n] for pieces in by_logit], *bases.get(n, (None, None)), factored, few) for n in names
        }
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

    def chosen(self, examples: Tensor | slice, *, whole: bool = True) -> Signals:
        """Those of some examples, with whole inputs or without."""
        return self._like({n: t.chosen(examples, whole=whole) for n, t in self._tensors.items()})

    def with_whole_inputs(self) -> Signals:
        """In few directions of the signals alone, for `overlaps`."""
        return self._like({
            n: Outer(t.whole, t.signals) if isinstance(t, Outer) and t.whole is not None else t
            for n, t in self._tensors.items()
        })  # fmt: skip

    def reduced(self, reduction: Reduction) -> Signals:
        """In the coordinates of some directions of the parameters."""
        bases = reduction.bases
        tensors = {
            n: t.reduced(*bases.get(n, (None, None))) if n in bases or isinstance(t, Outer) else t
            for n, t in self._tensors.items()
        }
        return Signals(tensors, self._biases, reduction.places, reduction.size)

    def pulled_whole(self, cotangents: Tensor, focus: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of weights in few directions, and some signals of each, what is pulled back with whole inputs, (k, j, a)."""
        found: dict[str, Tensor] = {}
        for name, left in focus.items():
            tensor = self._tensors.get(name)
            if isinstance(tensor, Outer) and (image := tensor.pulled_whole(cotangents[:, :-1], left)) is not None:
                found[name] = image
        return found

    def reduction(self, factor: Tensor, shapes: dict[str, torch.Size], tolerance: float) -> Reduction:
        """The subspace that holds most of what gradients are made of: inputs, and signals that the loss weighs.

        `factor` is L (n, C, r), L L^T the loss's Hessian.
        """
        bases: Bases = {}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, Outer):
                bases[name] = tensor.leading(factor[:, :-1], tolerance)
                if name in self._biases:
                    bases[self._biases[name]] = (bases[name][0], None)
        return Reduction(self._places, shapes, bases)

    @property
    def bytes_each(self) -> int:
        """Memory for one example's."""
        tensors = [part for tensor in self._tensors.values() for part in vars(tensor).values() if part is not None]
        return sum(part[0].numel() * part.element_size() for part in tensors)


def _bias_of(name: str, pieces: dict[str, Piece]) -> str | None:
    """The name of a weight's bias where its gradients are the weight's signals."""
    bias = name.removesuffix("weight") + "bias"
    one, other = pieces[name], pieces.get(bias)
    if not (name.endswith("weight") and isinstance(one, MatrixPiece) and isinstance(other, FormedPiece)):
        return None
    once = one.inputs.shape[1] == one.num_positions == 1
    return bias if once and torch.equal(one.signals[:, 0, :, 0], other.gradients) else None


def _stacked(
    pieces: list[Piece], left: Tensor | None, right: Tensor | None, factored: bool, few: bool
) -> Outer | Formed:
    first = pieces[0]
    once = isinstance(first, MatrixPiece) and first.num_positions == 1
    if isinstance(first, MatrixPiece) and first.inputs.shape[1] == 1 and (factored or few or once):
        signals = [piece.signals[:, 0].mT for piece in pieces if isinstance(piece, MatrixPiece)]
        signals = signals if left is None else [some @ left for some in signals]
        inputs = first.inputs[:, 0].mT
        stack = torch.stack(signals, dim=1)
        return _few(inputs, stack, right) if few else Outer(inputs, stack)
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
                self.signals.chosen(some, whole=False).add_pulled(sums[place], columns[some])
