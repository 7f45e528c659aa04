"""Passes over a network's examples in a few directions of its parameters, and a closer look at what was found there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rmtland.logits.accumulate import loss_at
from rmtland.nets.importance import Sampled, curvatures, told_by
from rmtland.nets.reduction import Reduction
from rmtland.nets.signals import SignalsChunk
from rmtland.nets.weight_signals import Beyond

if TYPE_CHECKING:
    from rmtland.logits.gradients import LogitGradients
    from rmtland.nets.chunks import NetworkChunk

SAMPLE, LARGE_SAMPLE = 256, 512
"""Examples that directions are chosen by; the more where so many take no more memory than a part, of which they are
chosen in turn."""
PART_BYTES = 2**26
"""Signals of a part of a chunk: of smaller parts, what each adds to sums over examples costs more than it spares."""
SMALLEST_PART = 64
TOLD = 4
"""One example of so many of these does not choose directions but tells what they leave out."""
HELD = 1.3
"""Memory for what is held, over that for it as a whole."""
MOST, MOST_HELD = (64, 96), (48, 48)
"""Directions of a layer's signals and of its inputs, at most; of examples that are held as a whole beside these."""


class Reducer:
    """Examples of a network in a few directions of its parameters.

    Parameters
    ----------
    first : NetworkChunk
        Whose first examples directions are chosen by.
    loss : Loss
    tolerance : float
        Share of inputs and signals that may be left out.
    every : int
        Where examples are held, one of so many keeps its signals in all directions.
    memory : int
        Bytes that signals of all examples may take.
    again : bool
        Whether `first` will be the same object in the next pass, so that its first examples need not be found anew.

    Attributes
    ----------
    reduction : Reduction
    held : bool
        Whether all examples fit into memory, in the directions and as a whole.
    """

    def __init__(
        self, first: NetworkChunk, source: LogitGradients, tolerance: float, every: int, memory: int, *, again: bool
    ) -> None:
        network, layers, num_logits = first.network, first.layers(), source.num_classes - 1
        each = max(sum(layers.stored_bytes(name, num_logits) for name in network.groups), 1)
        fits = PART_BYTES // each
        self._part_size = min(layers.part_size, max(SMALLEST_PART, fits))
        count = int(first.labels.shape[0])
        size = max(SAMPLE, min(self._part_size if again else LARGE_SAMPLE, fits))
        self._first = first if again else None
        # Examples of all the chunk, whatever their order.
        self._stride = -(-count // size)
        self._sample = first.cut(slice(0, None, self._stride))
        self.held = HELD * each * source.num_examples <= memory
        view = self._sample.softmax_view(factored=True)
        assert view is not None
        self._logits = view.logits
        most = MOST_HELD if self.held else MOST
        every = every if self.held else 0
        drawn = Sampled.of(curvatures(view.logits, view.weights), max(SAMPLE, min(LARGE_SAMPLE, fits)))
        # What a subspace leaves out is told from other examples than those that it was made for.
        order = torch.arange(len(drawn.places), device=drawn.places.device)
        telling = torch.cat([order[TOLD - 1 :: 2 * TOLD], order[2 * TOLD - 1 :: 2 * TOLD]])
        choosing = order[order % TOLD != TOLD - 1]
        chosen, told = drawn.places[choosing], drawn.places[telling]
        factor = loss_at(source, view).hessian_factor().to(view.logits)[drawn.places]
        factor *= (drawn.scales.to(factor) * (len(order) / len(view.logits))).sqrt()[:, None, None]
        made = view.signals.chosen(chosen)
        self.reduction = made.reduction(factor[choosing], network.shapes, tolerance, most, every)
        self._small = view.signals.reduced(self.reduction, told_by(view.logits, view.weights, every))
        self._factor, self._whole = factor[telling], view.signals.chosen(told)
        self._telling = self._whole.reduced(self.reduction, None)

    @classmethod
    def of(
        cls, first: NetworkChunk, source: LogitGradients, tolerance: float, every: int, memory: int, *, again: bool
    ) -> Any:
        """None where layers do not account for all parameters, or examples are tokens."""
        if first.cut(slice(0, 1)).softmax_view() is None:
            return None
        return cls(first, source, tolerance, every, memory, again=again)

    def parts(self, chunk: NetworkChunk) -> Iterator[SignalsChunk]:
        """The examples of a chunk, part by part, in the directions."""
        rest, stride = 0, -(-int(chunk.labels.shape[0]) // self._part_size)
        if chunk is self._first:
            yield SignalsChunk(self._sample, self._small, self._logits)
            rest, stride = 1, self._stride
        for start in range(rest, stride):
            for part in chunk.cut(slice(start, None, stride)).pieces(self._part_size):
                view = part.softmax_view(self.reduction)
                assert view is not None
                yield view

    def closer(self, vectors: Tensor, share: float) -> Closer:
        """For products with vectors (size, k) beyond the subspace; `share` of them may be left out there."""
        return Closer(self.reduction, vectors, share)

    def left_out(self, vectors: Tensor, closer: Closer | None = None) -> Tensor:
        """|R u|^2, (k,), for vectors u (size, k) in the subspace, R u being the part of G u that is not in it.

        The inner product of R u from two halves of some examples, in which the noise of either has mean zero: it may be
        negative. Biases are left to their weights. `closer`: not counting what it sees of u.
        """
        half = len(self._factor) // 2
        if half == 0:
            return vectors.new_zeros(vectors.shape[1])
        small = self._telling
        pushed = small.jvp(vectors.to(self._factor))
        curved = self._factor @ (self._factor.mT @ pushed) / half
        first, second = slice(0, half), slice(half, 2 * half)
        views = [(1, self._whole), (-1, small)]
        if closer is not None:
            views += zip((-1, 1, -1, 1), small.seen_beyond(closer.focus), strict=True)
        overlaps = [
            sign * some.chosen(first).overlaps(curved[first], some.chosen(second), curved[second])
            for sign, some in views
        ]
        return torch.stack(overlaps).sum(dim=0)

    def energies(self, vectors: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """v^T G v, (k,), from the same examples, and its standard error.

        v (D, k) are `vectors` in all parameters less those known in the subspace, (size, k).
        """
        if len(self._factor) < 2:
            return vectors.new_zeros(vectors.shape[1]), vectors.new_full((vectors.shape[1],), float("inf"))
        less = self._telling.jvp(known.to(self._factor))
        pushed = self._factor.mT @ (self._whole.jvp(vectors.to(self._factor)) - less)
        each = pushed.double().square().sum(dim=1)
        return each.mean(dim=0), each.std(dim=0) / len(each) ** 0.5


class Closer:
    """Products G u for vectors u of a subspace: beyond its inputs and signals too, along those that u is made of.

    Parameters
    ----------
    reduction : Reduction
    vectors : Tensor (size, k)
    share : float
        How much of them may be left out.
    """

    def __init__(self, reduction: Reduction, vectors: Tensor, share: float) -> None:
        self._reduction, self.focus = reduction, reduction.focus(vectors, share)
        self._sums: dict[str, Beyond] = {}
        self._dtype = vectors.dtype
        self._noise = vectors.new_zeros((2, vectors.shape[1], vectors.shape[1]))

    def add(self, part: SignalsChunk, cotangents: Tensor) -> None:
        """Add J^T U of a part's examples, U (n, C, k)."""
        self._dtype = cotangents.dtype
        for name, beyond in part.signals.pulled_beyond(cotangents, self.focus).items():
            self._sums[name] = beyond.added_to(self._sums.get(name))

    def images(self, within: Tensor, num_examples: int) -> Tensor:
        """Means over examples, all in all, (D, k), with what they are `within` the subspace, (size, k)."""
        reduction = self._reduction
        rows = reduction.lift(within.T.to(self._dtype))  # no more precise than what was added
        for name, beyond in self._sums.items():
            left, right = (None if basis is None else basis.double() for basis in reduction.bases[name])
            signals, inputs = (
                few.double() if basis is None else basis @ few.double()
                for few, basis in zip(self.focus[name], (left, right), strict=True)
            )
            place = rows[:, reduction.groups[name]].view(len(rows), len(signals), len(inputs))  # of a slice: no copy
            if beyond.wide is not None and right is not None:
                wide = (beyond.wide - beyond.wide @ right @ right.T) / num_examples
                place += signals.to(rows) @ wide.to(rows)
            if beyond.tall is not None and left is not None:
                tall, *noise = (beyond.tall - left @ (left.T @ beyond.tall)) / num_examples
                place += tall.to(rows) @ inputs.T.to(rows)
                for drawn in noise:
                    self._noise += torch.stack([drawn.flatten(1), tall.flatten(1)]) @ drawn.flatten(1).T
            if beyond.bias is not None and left is not None and name in reduction.biases:
                bias = (beyond.bias - beyond.bias @ left @ left.T) / num_examples
                rows[:, reduction.groups[reduction.biases[name]]] += bias.to(rows)
        return rows.double().T

    def noise(self) -> tuple[Tensor, Tensor]:
        """Of the noise E in `images`, from the examples sampled: E^T E, and a draw of images^T E, (k, k)."""
        return self._noise[0], self._noise[1]
