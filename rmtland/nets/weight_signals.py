"""The gradients of one tensor of parameters for all logits of a few examples: factors, or written out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rmtland.nets.importance import Sampled
from rmtland.nets.reduction import Focus, leading

WRITTEN = 5
"""A weight's gradient of an example is written out where that takes up to so many times the numbers of its factors."""
MOST_ROWS = 2**12
"""Rows that directions are chosen by: every j-th of many positions."""


@dataclass(frozen=True)
class Outer:
    """Gradients sum_p s_p x_p^T of a weight matrix used at P positions, and sum_p s_p of its bias.

    Inputs (n, P, a), signals (n, C - 1, P, b); where these are in few directions, `whole_inputs` are those in all and
    `whole_signals` those of all examples or some, or None where they are not kept.
    """

    inputs: Tensor
    signals: Tensor
    whole_inputs: Tensor | None = None
    whole_signals: Tensor | None = None

    def pushed(self, tangents: Tensor, bias: Tensor | None) -> Tensor:
        """Tangents (b a, k), and (b, k) of the bias, to (n, C - 1, k)."""
        (n, positions, a), b, k = self.inputs.shape, self.signals.shape[3], tangents.shape[1]
        inputs, weights = self.inputs.flatten(0, 1), tangents.reshape(b, a, k).transpose(0, 1).reshape(a, b * k)
        moved = inputs @ weights if bias is None else torch.addmm(bias.reshape(-1), inputs, weights)
        return self.signals.flatten(2) @ moved.reshape(n, positions * b, k)

    def pulled(self, cotangents: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents (n, C - 1, k) to their sums over examples, (k, b a), and (k, b) of the bias."""
        weighed = _weighed(self.signals, cotangents)
        return _over_examples(weighed, self.inputs).flatten(1), weighed.sum(dim=(0, 2))

    def pulled_beyond(self, cotangents: Tensor, focus: Focus, told: Sampled | None) -> Beyond:
        """Parts of what is pulled back, M, that lie outside of the few directions; `told`: who has whole signals."""
        wide = tall = bias = None
        if self.whole_inputs is not None:
            weighed = _weighed(self.signals, cotangents) @ focus.signals.to(self.signals.dtype)
            wide = _over_examples(weighed, self.whole_inputs)
        if self.whole_signals is not None:
            inputs = self.inputs @ focus.inputs.to(self.inputs.dtype)
            factors = inputs.new_ones((1, len(inputs)))
            if told is not None:
                factors = torch.stack([told.scales, told.noise]).to(inputs)
                inputs, cotangents = inputs[told.places], cotangents[told.places]
            weighed = _weighed(self.whole_signals, cotangents).transpose(1, 2)
            m, positions, k, b = weighed.shape
            # A bias has an input of one. Few columns: as their transpose, which BLAS takes a tenth of the time for.
            inputs = torch.cat([inputs, inputs.new_ones((m, positions, 1))], dim=2)
            scaled = torch.cat([inputs * factor[:, None, None] for factor in factors], dim=2).flatten(0, 1)
            by_input = scaled.T @ weighed.reshape(m * positions, k * b)
            tall = by_input.reshape(len(factors), -1, k, b).permute(0, 2, 3, 1)
            tall, bias = tall[..., :-1], tall[0, ..., -1]
        return Beyond(wide, tall, bias)

    def add_class_sums(
        self, cotangents: Tensor, order: Tensor, counts: list[int], totals: Tensor, biases: Tensor | None
    ) -> None:
        """The same added class by class to totals (m, k, b a) and (m, k, b) with any strides between their rows.

        `order` puts the examples of one class after those of another, `counts` is how many each class has.
        """
        weighed, inputs = _weighed(self.signals, cotangents)[order], self.inputs[order]
        k, b = weighed.shape[1], weighed.shape[3]
        for c, (rows, columns) in enumerate(
            zip(weighed.split_with_sizes(counts), inputs.split_with_sizes(counts), strict=True)
        ):
            place, columns = totals[c].view(k, b, -1), columns.flatten(0, 1)  # of a slice: no copy
            by_signal = rows.permute(1, 3, 0, 2).reshape(k, b, len(columns))
            if totals.dtype == columns.dtype:
                place.baddbmm_(by_signal, columns.expand(k, *columns.shape))
            else:
                place += by_signal @ columns
            if biases is not None:
                biases[c] += rows.sum(dim=(0, 2))

    def overlaps(self, cotangents: Tensor, other: Outer, others: Tensor) -> Tensor:
        """Inner products (k,) of what is pulled back from these examples and from others."""
        if self.inputs.shape[1] > 1:
            return (self.pulled(cotangents)[0] * other.pulled(others)[0]).sum(dim=1)
        here, there = (w.mT @ t.signals[:, :, 0] for w, t in ((cotangents, self), (others, other)))  # (n, k, b)
        signals = here.permute(1, 0, 2) @ there.permute(1, 2, 0)  # (k, n, n)
        return (signals * (self.inputs[:, 0] @ other.inputs[:, 0].T)).sum(dim=(1, 2))

    def chosen(self, examples: Tensor | slice, *, whole: bool = True) -> Outer:
        """Some examples', with their whole inputs or without."""
        inputs, signals = (
            None if kept is None or not whole else kept[examples] for kept in (self.whole_inputs, self.whole_signals)
        )
        return Outer(self.inputs[examples], self.signals[examples], inputs, signals)

    def seen_beyond(self, focus: Focus) -> list[Outer]:
        """What `pulled_beyond` sees, as the first less the second and the third less the fourth of these."""
        signals = self.signals @ focus.signals.to(self.signals.dtype)
        inputs = self.inputs @ focus.inputs.to(self.inputs.dtype)
        return [
            Outer(self.inputs if self.whole_inputs is None else self.whole_inputs, signals),
            Outer(self.inputs, signals),
            Outer(inputs, self.signals if self.whole_signals is None else self.whole_signals),
            Outer(inputs, self.signals),
        ]

    def reduced(self, left: Tensor | None, right: Tensor | None, whole: Tensor | slice | None) -> Outer | Formed:
        """R^T s (Q^T x)^T, written out where that takes few numbers; beside it the `whole` signals of some examples."""
        if left is None:
            return in_few(self.inputs, self.signals, right)
        # As they lie in memory: one product, not one for each example.
        few = (self.signals.transpose(0, 1) @ left).transpose(0, 1)
        return in_few(self.inputs, few, right, None if whole is None else self.signals[whole])

    def shortest(self) -> Outer | Formed:
        """Written out where several positions take about as many numbers: products are cheaper then."""
        n, num_logits, positions, b = self.signals.shape
        factors = self.inputs.shape[1:].numel() + self.signals.shape[1:].numel()
        if positions == 1 or num_logits * b * self.inputs.shape[2] > WRITTEN * factors:
            return self
        by_row = self.signals.transpose(2, 3).reshape(n, num_logits * b, positions)
        return Formed((by_row @ self.inputs).reshape(n, num_logits, -1))

    def leading(self, factor: Tensor, tolerance: float, most: tuple[int, int]) -> tuple[Tensor | None, Tensor | None]:
        """At most so many directions (R, Q) of the signals that the loss weighs, L (n, C - 1, r), and of the inputs."""
        weighed = _weighed(self.signals, factor)
        loud = weighed.square().sum(dim=(1, 3)).sqrt()[..., None]
        long = self.inputs.square().sum(dim=2).sqrt()[:, None, :, None]
        weighed, inputs = (weighed * long).flatten(0, 2), (self.inputs * loud).flatten(0, 1)
        weighed, inputs = (rows[:: max(1, len(rows) // MOST_ROWS)] for rows in (weighed, inputs))
        return leading(weighed, most[0], tolerance), leading(inputs, most[1], tolerance)


@dataclass(frozen=True)
class Beyond:
    """Sums over examples M, (k, b, a), of a weight beyond few directions R (b, q), Q (a, r) of signals and inputs.

    `wide` is L^T R^T M (k, j, a) for few of the signals, `tall` is M Q K (1 or 2, k, b, j) for few of the inputs, by
    itself or with a draw of its noise, `bias` (k, b); None where all directions are among the few.
    """

    wide: Tensor | None
    tall: Tensor | None
    bias: Tensor | None

    def added_to(self, other: Beyond | None) -> Beyond:
        """In float64, with the sums over other examples."""
        mine = [None if part is None else part.double() for part in (self.wide, self.tall, self.bias)]
        if other is None:
            return Beyond(*mine)
        theirs = (other.wide, other.tall, other.bias)
        return Beyond(*(None if a is None or b is None else a + b for a, b in zip(mine, theirs, strict=True)))


def in_few(
    inputs: Tensor, signals: Tensor, right: Tensor | None, whole_signals: Tensor | None = None
) -> Outer | Formed:
    """With inputs in few directions."""
    if right is None:
        return Outer(inputs, signals, None, whole_signals).shortest()
    return Outer(inputs @ right, signals, inputs, whole_signals).shortest()


def _weighed(signals: Tensor, cotangents: Tensor) -> Tensor:
    """Sums over logits of cotangents (n, C - 1, k) times signals (n, C - 1, P, b), (n, k, P, b)."""
    n, _, positions, b = signals.shape
    return (cotangents.mT @ signals.flatten(2)).reshape(n, -1, positions, b)


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

    def add_class_sums(
        self, cotangents: Tensor, order: Tensor, counts: list[int], totals: Tensor, _: Tensor | None
    ) -> None:
        """The same added class by class to totals (m, k, d)."""
        parts = zip(
            cotangents[order].split_with_sizes(counts),
            self.gradients[order].split_with_sizes(counts),
            totals,
            strict=True,
        )
        for columns, gradients, total in parts:
            total += Formed(gradients).pulled(columns)[0]

    def overlaps(self, cotangents: Tensor, other: Formed, others: Tensor) -> Tensor:
        """Inner products (k,) of what is pulled back from these examples and from others."""
        return (self.pulled(cotangents)[0] * other.pulled(others)[0]).sum(dim=1)

    def chosen(self, examples: Tensor | slice, *, whole: bool = True) -> Formed:
        """Some examples'."""
        return Formed(self.gradients[examples])
