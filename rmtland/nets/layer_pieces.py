"""Gradients of one tensor of parameters, one per example, from layer inputs and backpropagated signals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from rmtland._arrays import double, where_double_is, widest

FORMED_POSITIONS = 8
"""Weights used at more positions than this (pixels, tokens) are worth a gradient per example, written out."""
FORMED_BYTES = 2**28
"""Unless these gradients would take more memory than this."""
FEW_NUMBERS = 2**18
"""Signals, times their weights, up to which one product of all is faster than a product of those that each weighs."""


def _squares(rows: Tensor, dim: int) -> Tensor:
    """Squared lengths in float64."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=dim, dtype=widest(rows))
    return lengths**2


def _by_position(values: Tensor) -> Tensor:
    """(n, g, a, P) as a matrix for each group, (g, n P, a)."""
    return values.permute(1, 0, 3, 2).reshape(values.shape[1], -1, values.shape[2])


class FormedPiece:
    """Gradients written out, (n, d): biases, normalisation layers, and whatever has no shorter form."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients

    def squares(self) -> Tensor:
        """Squared lengths (n,), float64."""
        return _squares(self.gradients, 1)

    def sums(self, weights: Tensor) -> Tensor:
        """sum_mu w_mu g_mu for weights (n, j), (j, d)."""
        return weights.to(self.gradients.dtype).T @ self.gradients

    def products(self, vectors: Tensor) -> Tensor:
        """g_mu . v for vectors (j, d), (n, j)."""
        return self.gradients @ vectors.to(self.gradients.dtype).T

    def formed(self) -> Tensor:
        """(n, d)."""
        return self.gradients

    def chosen(self, examples: Tensor) -> FormedPiece:
        """Some examples' gradients."""
        return FormedPiece(self.gradients[examples])


class MatrixPiece:
    """Gradients sum_p s_p x_p^T of a weight matrix used at P positions: inputs (n, g, a, P), signals (n, g, b, P).

    A weight is used at several positions by a convolution (pixels), in sequences (tokens), and where it is tied or its
    layer reused: uses are then joined as further positions, so that their gradients are summed before squaring. Groups
    g are those of grouped convolutions; d = g b a.
    """

    def __init__(
        self, inputs: Tensor, signals: Tensor, overlaps: dict[str, Tensor] | None = None, shared: bool = True
    ) -> None:
        self.inputs, self.signals = inputs, signals
        self.shared = shared  # whether the inputs are the same whatever is propagated back
        self._overlaps = {} if overlaps is None else overlaps

    @property
    def num_positions(self) -> int:
        """P."""
        return int(self.inputs.shape[3])

    @cached_property
    def _written(self) -> FormedPiece | None:
        n, g, a, positions = self.inputs.shape
        size = n * g * a * self.signals.shape[2] * self.signals.element_size()
        return FormedPiece(self.formed()) if positions > FORMED_POSITIONS and size <= FORMED_BYTES else None

    def squares(self) -> Tensor:
        """Squared lengths (n,), float64."""
        if self.num_positions == 1:
            if "squares" not in self._overlaps:
                self._overlaps["squares"] = _squares(self.inputs[..., 0], 2)
            return (self._overlaps["squares"] * _squares(self.signals[..., 0], 2)).sum(dim=1)
        at_hand = "_written" in self.__dict__ or self.num_positions >= self.inputs.shape[2]
        if at_hand and self._written is not None:
            return self._written.squares()
        # sum over pairs of positions of (x_p . x_q)(s_p . s_q); the first factor is the same for every logit.
        if "inputs" not in self._overlaps:
            inputs: Tensor = double(self.inputs)
            self._overlaps["inputs"] = inputs.mT @ inputs
        signals: Tensor = double(self.signals)
        return (self._overlaps["inputs"] * (signals.mT @ signals)).sum(dim=(1, 2, 3)).clamp(min=0)

    def sums(self, weights: Tensor) -> Tensor:
        """sum_mu w_mu g_mu for weights (n, j), (j, d)."""
        if self._written is not None:
            return self._written.sums(weights)
        g, b, a = self.signals.shape[1], self.signals.shape[2], self.inputs.shape[2]
        if weights.shape[1] * self.signals.numel() <= FEW_NUMBERS:
            each = weights.to(self.signals.dtype).T.repeat_interleave(self.num_positions, dim=1)[:, None, :, None]
            together = (each * _by_position(self.signals)).mT @ _by_position(self.inputs)
            return together.reshape(len(together), -1)
        out = self.signals.new_zeros((weights.shape[1], g, b, a))
        for row, column in zip(out, weights.to(self.signals.dtype).T, strict=True):
            some = column.nonzero()[:, 0]
            piece, scale = (self, column) if 2 * len(some) > len(column) else (self.chosen(some), column[some])
            row[...] = _by_position(piece.signals * scale[:, None, None, None]).mT @ _by_position(piece.inputs)
        return out.reshape(len(out), -1)

    def products(self, vectors: Tensor) -> Tensor:
        """g_mu . v for vectors (j, d), (n, j)."""
        if self._written is not None:
            return self._written.products(vectors)
        g, b, a = self.signals.shape[1], self.signals.shape[2], self.inputs.shape[2]
        matrices = vectors.to(self.signals.dtype).reshape(-1, g, b, a)
        inputs, signals = _by_position(self.inputs), _by_position(self.signals)
        columns = [(inputs @ matrix.mT * signals).sum(dim=2) for matrix in matrices]  # (g, n P) each
        return torch.stack(columns).reshape(len(matrices), g, -1, self.num_positions).sum(dim=(1, 3)).T

    def formed(self) -> Tensor:
        """(n, d)."""
        return (self.signals @ self.inputs.mT).reshape(len(self.signals), -1)

    def chosen(self, examples: Tensor) -> MatrixPiece:
        """Some examples' gradients."""
        return MatrixPiece(self.inputs[examples], self.signals[examples], shared=self.shared)


class EmbeddingPiece:
    """Gradients of a table of vectors looked up at P positions: indices (n, P), signals (n, e, P), V entries."""

    def __init__(self, indices: Tensor, signals: Tensor, num_entries: int) -> None:
        self.indices, self.signals, self.num_entries = indices, signals, num_entries

    def squares(self) -> Tensor:
        """Squared lengths (n,), float64."""
        signals: Tensor = double(self.signals)
        same = self.indices[:, :, None] == self.indices[:, None, :]
        return (same * (signals.mT @ signals)).sum(dim=(1, 2)).clamp(min=0)

    def sums(self, weights: Tensor) -> Tensor:
        """sum_mu w_mu g_mu for weights (n, j), (j, d)."""
        rows = self.signals.mT  # (n, P, e)
        out = rows.new_zeros((weights.shape[1], self.num_entries, rows.shape[2]))
        for total, column in zip(out, weights.to(rows.dtype).T, strict=True):
            total.index_add_(0, self.indices.reshape(-1), (rows * column[:, None, None]).reshape(-1, rows.shape[2]))
        return out.reshape(len(out), -1)

    def products(self, vectors: Tensor) -> Tensor:
        """g_mu . v for vectors (j, d), (n, j)."""
        tables = vectors.to(self.signals.dtype).reshape(-1, self.num_entries, self.signals.shape[1])
        return torch.stack([(t[self.indices] * self.signals.mT).sum(dim=(1, 2)) for t in tables], dim=1)

    def formed(self) -> Tensor:
        """(n, d)."""
        n, e = self.signals.shape[:2]
        out = self.signals.new_zeros((n * self.num_entries, e))
        first = self.num_entries * torch.arange(n, device=self.indices.device)
        out.index_add_(0, (first[:, None] + self.indices).reshape(-1), self.signals.mT.reshape(-1, e))
        return out.reshape(n, -1)

    def chosen(self, examples: Tensor) -> EmbeddingPiece:
        """Some examples' gradients."""
        return EmbeddingPiece(self.indices[examples], self.signals[examples], self.num_entries)

    def as_matrix(self) -> MatrixPiece:
        """The same with the entries written as rows of the identity: b = V, a = e."""
        hot = torch.nn.functional.one_hot(self.indices, self.num_entries).to(self.signals.dtype)
        return MatrixPiece(self.signals[:, None], hot.mT[:, None], shared=False)


Piece = FormedPiece | MatrixPiece | EmbeddingPiece


def joined(pieces: Sequence[Piece]) -> Piece:
    """The gradients of a tensor used several times: the sum over its uses."""
    if len(pieces) == 1:
        return pieces[0]
    if all(isinstance(piece, EmbeddingPiece) for piece in pieces):
        indices = torch.cat([p.indices for p in pieces if isinstance(p, EmbeddingPiece)], dim=1)
        signals = torch.cat([p.signals for p in pieces if isinstance(p, EmbeddingPiece)], dim=2)
        assert isinstance(pieces[0], EmbeddingPiece)
        return EmbeddingPiece(indices, signals, pieces[0].num_entries)
    pieces = [piece.as_matrix() if isinstance(piece, EmbeddingPiece) else piece for piece in pieces]
    matrices = [piece for piece in pieces if isinstance(piece, MatrixPiece)]
    if len(matrices) == len(pieces) and len({(*m.inputs.shape[:3], m.signals.shape[2]) for m in matrices}) == 1:
        inputs, signals = (torch.cat([getattr(m, name) for m in matrices], 3) for name in ("inputs", "signals"))
        return MatrixPiece(inputs, signals, shared=all(m.shared for m in matrices))
    return FormedPiece(torch.stack([piece.formed() for piece in pieces]).sum(dim=0))


def finished_on(piece: Piece) -> Piece:
    """The piece where its inner products can be taken in float64."""
    if isinstance(piece, FormedPiece):
        return FormedPiece(where_double_is(piece.gradients))
    if isinstance(piece, EmbeddingPiece):
        return EmbeddingPiece(where_double_is(piece.indices), where_double_is(piece.signals), piece.num_entries)
    return MatrixPiece(where_double_is(piece.inputs), where_double_is(piece.signals), shared=piece.shared)


def stored_numbers(piece: Piece) -> tuple[int, int]:
    """Numbers per example and per row that a tensor's store holds."""
    if isinstance(piece, FormedPiece):
        return 0, piece.gradients[0].numel()
    if isinstance(piece, EmbeddingPiece):
        return piece.indices[0].numel(), piece.signals[0].numel()
    size, signals, inputs = written_numbers(piece), piece.signals[0].numel(), piece.inputs[0].numel()
    if better_written(piece):
        return 0, size
    return (inputs, signals) if piece.shared else (0, inputs + signals)


def written_numbers(piece: MatrixPiece) -> int:
    """Numbers in one example's gradient, d."""
    return piece.signals.shape[1] * piece.signals.shape[2] * piece.inputs.shape[2]


def better_written(piece: MatrixPiece) -> bool:
    """Whether a gradient written out takes no more numbers than the signals it comes from."""
    return written_numbers(piece) <= piece.signals[0].numel()
