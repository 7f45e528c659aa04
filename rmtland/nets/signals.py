"""The gradients of all logits of a few examples, layer by layer: what a softmax sees of J, in products of matrices.

A softmax does not see a change that all logits share, so that its cotangents sum to zero: J^T u is the sum over k < C
of u_k J^T (e_k - e_C). C - 1 backward passes to the layers' outputs give the signals behind these; sums over examples
and products with directions are then products of signals and layer inputs, whatever the number of cotangents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rmtland.nets.importance import Sampled, told_by
from rmtland.nets.layer_pieces import FormedPiece, MatrixPiece, Piece, joined
from rmtland.nets.reduction import Focus, Reduction
from rmtland.nets.weight_signals import Beyond, Formed, Outer, in_few

if TYPE_CHECKING:
    from rmtland.nets.layers import Recording

Bases = dict[str, tuple[Tensor | None, Tensor | None]]


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
    told : Sampled, optional
        Examples that have signals in all directions beside those in few, where not all have.
    """

    def __init__(
        self, tensors: dict[str, Outer | Formed], biases: dict[str, str], places: dict[str, slice], size: int,
        told: Sampled | None = None,
    ) -> None:  # fmt: skip
        self._tensors, self._biases, self._places, self._size = tensors, biases, places, size
        self._told = told

    @classmethod
    def of(
        cls, recording: Recording, num_classes: int, groups: dict[str, slice], size: int,
        reduction: Reduction | None = None, weights: Tensor | None = None, *, factored: bool = False,
    ) -> Signals:  # fmt: skip
        """By C - 1 backward passes through a recorded forward pass; in the coordinates of some directions.

        `factored` leaves weights used at several positions as inputs and signals. `weights` are the examples'.
        """
        told = None if reduction is None else told_by(recording.outputs.detach(), weights, reduction.every)
        whole = _whole(reduction, told)
        outputs = recording.outputs.detach()
        bases: Bases = {} if reduction is None else reduction.bases
        stacks: dict[str, _Stack] = {}
        biases: dict[str, str] = {}
        for k in range(num_classes - 1):
            cotangents = torch.zeros_like(outputs)
            cotangents[:, k], cotangents[:, -1] = 1, -1
            pieces = {name: joined(used) for name, used in recording.pieces(cotangents).items()}
            if k == 0:
                biases = {name: bias for name in pieces if (bias := _bias_of(name, pieces)) is not None}
                names = [name for name in groups if name in pieces and name not in biases.values()]
                for n in names:
                    stacks[n] = _Stack(
                        pieces[n], num_classes - 1, bases.get(n, (None, None)), whole, reduction is not None, factored
                    )
            for name, stack in stacks.items():
                stack.add(k, pieces[name])
        tensors = {name: stack.made() for name, stack in stacks.items()}
        if reduction is None:
            return cls(tensors, biases, groups, size)
        return cls(tensors, biases, reduction.places, reduction.size, told)

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
        pushed = sum(parts[1:], start=parts[0])
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
        return sum(parts, start=cotangents.new_zeros(cotangents.shape[2]))

    def add_class_sums(self, totals: Tensor, cotangents: Tensor, labels: Tensor) -> None:
        """J^T U of the examples of each class added to `totals` (m, k, D), for cotangents (n, C, k), labels < m."""
        order, counts = labels.argsort(), labels.bincount(minlength=len(totals)).tolist()
        for tensor, place, bias in self._each():
            of_bias = None if bias is None else totals[..., bias]
            tensor.add_class_sums(cotangents[:, :-1], order, counts, totals[..., place], of_bias)

    def chosen(self, examples: Tensor | slice, *, whole: bool = True) -> Signals:
        """Those of some examples, with whole inputs or without."""
        return self._like({n: t.chosen(examples, whole=whole) for n, t in self._tensors.items()})

    def seen_beyond(self, focus: dict[str, Focus]) -> list[Signals]:
        """What `pulled_beyond` sees, as the first less the second and the third less the fourth, for `overlaps`."""
        by_tensor = {
            name: tensor.seen_beyond(focus[name])
            for name, tensor in self._tensors.items()
            if isinstance(tensor, Outer) and name in focus
        }
        return [self._like({name: views[i] for name, views in by_tensor.items()}) for i in range(4)]

    def reduced(self, reduction: Reduction, told: Sampled | None) -> Signals:
        """In the coordinates of some directions of the parameters."""
        bases, whole = reduction.bases, _whole(reduction, told)
        tensors = {
            n: t.reduced(*bases.get(n, (None, None)), whole) if isinstance(t, Outer) else t
            for n, t in self._tensors.items()
        }
        return Signals(tensors, self._biases, reduction.places, reduction.size, told)

    def pulled_beyond(self, cotangents: Tensor, focus: dict[str, Focus]) -> dict[str, Beyond]:
        """Of weights in few directions what is pulled back outside of these."""
        return {
            name: tensor.pulled_beyond(cotangents[:, :-1], focus[name], self._told)
            for name, tensor in self._tensors.items()
            if isinstance(tensor, Outer) and name in focus
        }

    def reduction(
        self, factor: Tensor, shapes: dict[str, torch.Size], tolerance: float, most: tuple[int, int], every: int
    ) -> Reduction:
        """The subspace that holds most of what gradients are made of: inputs, and signals that the loss weighs.

        `factor` is L (n, C, r), L L^T the loss's Hessian; `most` directions of signals and of inputs are kept; of one
        example in `every` the signals in all directions stay beside those in few.
        """
        bases: Bases = {}
        for name, tensor in self._tensors.items():
            if isinstance(tensor, Outer):
                bases[name] = tensor.leading(factor[:, :-1], tolerance, most)
                if name in self._biases:
                    bases[self._biases[name]] = (bases[name][0], None)
        return Reduction(self._places, shapes, bases, self._biases, every=every)


def _whole(reduction: Reduction | None, told: Sampled | None) -> Tensor | slice | None:
    """Examples whose signals are wanted in all directions."""
    if told is not None:
        return told.places
    return slice(None) if reduction is None or reduction.every else None


def _bias_of(name: str, pieces: dict[str, Piece]) -> str | None:
    """The name of a weight's bias where its gradients are the weight's signals."""
    bias = name.removesuffix("weight") + "bias"
    one, other = pieces[name], pieces.get(bias)
    if not (name.endswith("weight") and isinstance(one, MatrixPiece) and isinstance(other, FormedPiece)):
        return None
    once = one.inputs.shape[1] == one.num_positions == 1
    return bias if once and torch.equal(one.signals[:, 0, :, 0], other.gradients) else None


class _Stack:
    """One tensor's gradients of one logit after another, put into few directions at once."""

    def __init__(
        self, first: Piece, count: int, bases: tuple[Tensor | None, Tensor | None], whole: Tensor | slice | None,
        reduced: bool, factored: bool,
    ) -> None:  # fmt: skip
        self._left, self._right = bases
        self._reduced, self._chosen = reduced, whole
        once = isinstance(first, MatrixPiece) and first.num_positions == 1
        self._inputs: Tensor | None = None
        if isinstance(first, MatrixPiece) and first.inputs.shape[1] == 1 and (factored or self._reduced or once):
            self._inputs = first.inputs[:, 0].mT
        if self._inputs is None:
            self._left = None
        rows = self._rows(first)
        self._few: Tensor | None = None
        if self._left is None:
            self._chosen = slice(None)
        else:
            self._few = rows.new_empty((count, *rows.shape[:-1], self._left.shape[1]))
        self._whole: Tensor | None = None
        if self._chosen is not None:
            size = len(rows) if isinstance(self._chosen, slice) else len(self._chosen)
            self._whole = rows.new_empty((count, size, *rows.shape[1:]))

    def _rows(self, piece: Piece) -> Tensor:
        """Signals (n, P, b), or gradients written out, (n, d)."""
        return piece.signals[:, 0].mT if self._inputs is not None and isinstance(piece, MatrixPiece) else piece.formed()

    def add(self, k: int, piece: Piece) -> None:
        """The pieces of logit k."""
        rows = self._rows(piece)
        if self._left is not None:
            assert self._few is not None
            torch.matmul(rows, self._left, out=self._few[k])
        if self._whole is not None:
            self._whole[k] = rows[self._chosen]

    def made(self) -> Outer | Formed:
        """All of them."""
        few, whole = (None if stack is None else stack.transpose(0, 1) for stack in (self._few, self._whole))
        if self._inputs is None:
            assert whole is not None
            return Formed(whole)
        if few is None:
            assert whole is not None
            return in_few(self._inputs, whole, self._right) if self._reduced else Outer(self._inputs, whole)
        return in_few(self._inputs, few, self._right, whole)


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
        signals, labels = self.signals, self.labels - classes.start
        some = (labels >= 0) & (labels < len(classes))
        if not bool(some.all()):
            signals, labels, columns = signals.chosen(some, whole=False), labels[some], columns[some]
        signals.add_class_sums(sums, columns, labels)
