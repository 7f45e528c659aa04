"""Rows of a chunk too large to keep side by side, from passes that its examples share: large vocabularies, tokens.

Sums over examples are vector-Jacobian products and products Jacobian-vector ones, one pass for any number of examples.
Only lengths ask for each example's own signals: as many backward passes as a sequence has tokens, each for one token of
every sequence, and none of them of the size of the vocabulary where a linear head ends the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rmtland._arrays import widest
from rmtland.nets.backward import Backward
from rmtland.nets.budget import give_back_freed_pages
from rmtland.nets.layer_pieces import EmbeddingPiece, FormedPiece, MatrixPiece, Piece, joined
from rmtland.nets.pytrees import cut
from rmtland.nets.snapshot import single

if TYPE_CHECKING:
    from rmtland.nets.chunks import NetworkChunk
from rmtland.nets.layers import Head

FEW_WORDS = 32
"""Rows of a head's weights that are written out, rather than signals at all of its outputs."""


class PassRows:
    """J_mu^T u_mu for some of a chunk's examples, in a range of the parameters.

    Parameters
    ----------
    chunk : NetworkChunk
    examples : Tensor (n,)
        Places of the rows' examples in the chunk.
    words : Tensor (J,)
        The outputs that cotangents may differ from zero at.
    values : Tensor (n, J)
        The cotangents there.
    groups : dict of str to slice
        Tensors that the rows are made of, next to each other.
    """

    def __init__(
        self, chunk: NetworkChunk, examples: Tensor, words: Tensor, values: Tensor, groups: dict[str, slice]
    ) -> None:
        self.chunk, self.examples, self.words, self.values, self.groups = chunk, examples, words, values, groups
        self._range = slice(min(g.start for g in groups.values()), max(g.stop for g in groups.values()))

    @classmethod
    def of(cls, chunk: NetworkChunk, cotangents: Tensor) -> PassRows:
        """The rows of all examples for cotangents (n, C)."""
        words = (cotangents != 0).any(dim=0).nonzero()[:, 0]
        examples = torch.arange(len(cotangents), device=cotangents.device)
        return cls(chunk, examples, words, cotangents[:, words], chunk.network.groups)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return int(self._range.stop - self._range.start)

    def _cotangents(self, values: Tensor) -> Tensor:
        """Values (n, J) as cotangents of the whole chunk, (n, C)."""
        every = self.chunk.network.vector.new_zeros(self.chunk.logits.shape)
        every[self.examples[:, None], self.words] = values.to(every.dtype)
        return every

    def lengths(self) -> Tensor:
        """(n,), float64."""
        total = self.values.new_zeros(len(self.examples), dtype=widest(self.values))
        for which, pieces in self._by_token():
            for piece in pieces.values():
                total[which] += piece.squares().to(total.dtype)
        return total.sqrt()

    def sums(self, weights: Tensor) -> Tensor:
        """(j, d)."""
        total, parts = self.chunk.network.zeros(weights.shape[1], self.groups)
        pullback: Backward | None = None
        for i, column in enumerate(weights.to(self.values.dtype).T):
            if bool(column.any()) and len(self.words):
                cotangents = self._cotangents(self.values * column[:, None])
                with torch.inference_mode(False):
                    pullback = pullback or self._pullback()
                    pullback.add_to([part[i : i + 1] for part in parts], [cotangents[None]])
                freed = cotangents.nbytes
                del cotangents
                give_back_freed_pages(freed)  # holes of the logits' size, which the next pass does not fit into
        return total.T

    def _pullback(self) -> Backward:
        """Cotangents of the outputs to those of the rows' own tensors: gradients of no others are made."""
        network = self.chunk.network
        if self.groups == network.groups:
            return self.chunk.pullback()
        leaves = [network.leaves[name] for name in self.groups]
        return Backward([self.chunk.recorded()], leaves, network.vector.numel())  # one column is asked for at a time

    def products(self, vectors: Tensor) -> Tensor:
        """(n, j), float64."""
        vectors = torch.as_tensor(vectors, device=self.values.device)
        out = self.values.new_zeros((len(self.examples), len(vectors)), dtype=widest(self.values))
        head = self.chunk.recording().head
        for column, vector in zip(out.T, vectors, strict=True):
            tangents = self.values.new_zeros((self.chunk.network.vector.shape[0], 1))
            tangents[self._range, 0] = vector.to(tangents.dtype)
            if head is None:
                every = self.chunk.jvp(tangents)
                freed, pushed = every.nbytes, every[self.examples[:, None], self.words, 0]
                del every
            else:
                pushed = self._through_head(head, tangents)
                freed = pushed.nbytes
            column[...] = (pushed.to(out.dtype) * self.values).sum(dim=1)
            give_back_freed_pages(freed + tangents.nbytes)
        return out

    def _through_head(self, head: Head, tangents: Tensor) -> Tensor:
        """J v at the words (n, J), by the product rule at the last layer."""
        network = self.chunk.network
        parts = dict(zip(network.groups, network.split(tangents), strict=True))
        with torch.inference_mode(False):
            (below,) = self.chunk.pushforward_below(head)(list(parts.values()))
        places, width = self.chunk.places[self.examples], head.inputs.shape[-1]
        pushed = single(below[0].reshape(-1, width)[places]) @ single(head.weight[self.words]).T
        for role, name in head.own.items():
            own = single(parts[name][0][self.words])
            if role == "weight":
                pushed = pushed + single(head.inputs.detach().reshape(-1, width)[places]) @ own.T
            else:
                pushed = pushed + own
        return pushed

    def formed(self) -> Tensor:
        """(n, d)."""
        out = self.values.new_zeros((len(self.examples), self.size))
        for which, pieces in self._by_token():
            for name, piece in pieces.items():
                group = self.groups[name]
                out[which, group.start - self._range.start : group.stop - self._range.start] = piece.formed().to(out)
        return out

    def pieces(self) -> dict[str, Piece]:
        """By tensor, for those who need each example's inputs and signals."""
        found: dict[str, list[tuple[Tensor, Piece]]] = {}
        for which, pieces in self._by_token(by_word=False):
            for name, piece in pieces.items():
                found.setdefault(name, []).append((which, piece))
        return {name: _assembled(some) for name, some in found.items()}

    def chosen(self, examples: Tensor) -> PassRows:
        """The rows of some examples."""
        return PassRows(self.chunk, self.examples[examples], self.words, self.values[examples], self.groups)

    def restricted(self, parameters: slice) -> PassRows:
        """The same rows in the tensors of a slice of the parameters."""
        start, stop = self._range.start + parameters.start, self._range.start + parameters.stop
        groups = {name: g for name, g in self.groups.items() if start <= g.start and g.stop <= stop}
        return PassRows(self.chunk, self.examples, self.words, self.values, groups)

    def _by_token(self, *, by_word: bool = True) -> Iterator[tuple[Tensor, dict[str, Piece]]]:
        """Some rows at a time, by their places, with their pieces by tensor; all of a tensor's pieces come together."""
        rest = self.chunk.layers().rest
        known = [name for name in self.groups if name not in rest]
        length = self.chunk.sequence_length
        tokens = self.chunk.places[self.examples] % length
        for token in range(length if known else 0):
            which = (tokens == token).nonzero()[:, 0]
            if len(which):
                yield which, self._pieces(which, known, length, by_word=by_word)
        if len(known) < len(self.groups):
            yield from self._one_by_one([name for name in self.groups if name in rest], length)

    def _pieces(self, which: Tensor, names: list[str], length: int, *, by_word: bool) -> dict[str, Piece]:
        """By one backward pass to the layers' outputs."""
        recording, places = self.chunk.recording(), self.chunk.places[self.examples[which]]
        head, values = recording.head, self.values[which]
        top: dict[str, Piece] = {}
        if head is None:
            cotangents = recording.outputs.new_zeros(recording.outputs.shape)
            flat = cotangents.view(-1, cotangents.shape[-1])
            flat[places[:, None], self.words] = values.to(flat.dtype)
            used = recording.pieces(cotangents)
        else:
            top = self._of_head(head, places, values, by_word=by_word)
            signals = head.inputs.new_zeros(head.inputs.shape)
            below = values.to(head.weight.dtype) @ head.weight[self.words]
            signals.view(-1, signals.shape[-1])[places] = below.to(signals.dtype)
            used = recording.pieces(signals)
        sequences = places // length
        every = sequences.tolist() == list(range(self.chunk.num_inputs))  # such pieces know what they have in common
        pieces: dict[str, Piece] = {}
        for name in names:
            uses = [joined(used[name])] if name in used else []
            uses = uses if every else [piece.chosen(sequences) for piece in uses]
            uses += [top[name]] if name in top else []
            if uses:
                pieces[name] = joined(uses)
        return pieces

    def _of_head(self, head: Head, places: Tensor, values: Tensor, *, by_word: bool) -> dict[str, Piece]:
        """The head's own gradients: rows of its weights for few words, where asked for, else signals at all outputs."""
        inputs = single(head.inputs.detach().reshape(-1, head.inputs.shape[-1])[places])  # (n, a)
        values, num_words = values.to(inputs.dtype), len(head.weight)
        found: dict[str, Piece] = {}
        if by_word and len(self.words) <= FEW_WORDS and len(self.words) * inputs.shape[1] <= num_words:
            indices = self.words.expand(len(places), -1)
            found["weight"] = EmbeddingPiece(indices, inputs[:, :, None] * values[:, None, :], num_words)
            found["bias"] = EmbeddingPiece(indices, values[:, None, :], num_words)
        else:
            signals = inputs.new_zeros((len(places), num_words))
            signals[:, self.words] = values
            found["weight"] = MatrixPiece(inputs[:, None, :, None], signals[:, None, :, None])
            found["bias"] = FormedPiece(signals)
        return {name: found[role] for role, name in head.own.items()}

    def _one_by_one(self, names: list[str], length: int) -> Iterator[tuple[Tensor, dict[str, Piece]]]:
        """What layers do not account for: a backward pass for each example, a forward pass for each sequence."""
        network = self.chunk.network
        leaves = [network.leaves[name] for name in names]
        places = self.chunk.places[self.examples]
        for sequence in sorted(set((places // length).tolist())):
            with torch.inference_mode(False), torch.enable_grad():
                outputs = network.outputs(network.leaves, cut(self.chunk.inputs, slice(sequence, sequence + 1)))
            flat = outputs.reshape(-1, outputs.shape[-1])
            for row in (places // length == sequence).nonzero()[:, 0].tolist():
                found = [torch.zeros_like(leaf, requires_grad=False) for leaf in leaves]
                if outputs.requires_grad:
                    cotangents = torch.zeros_like(flat)
                    cotangents[int(places[row]) % length, self.words] = self.values[row].to(flat.dtype)
                    found = list(
                        torch.autograd.grad(flat, leaves, cotangents, retain_graph=True, materialize_grads=True)
                    )
                pieces: dict[str, Piece] = {
                    name: FormedPiece(single(g).reshape(1, -1)) for name, g in zip(names, found, strict=True)
                }
                yield torch.tensor([row], device=places.device), pieces


def _assembled(found: list[tuple[Tensor, Piece]]) -> Piece:
    """The pieces of some rows at a time as one, in the rows' order."""
    order = torch.cat([which for which, _ in found]).argsort()
    pieces = [piece for _, piece in found]

    def together(name: str) -> Tensor:
        return torch.cat([getattr(piece, name) for piece in pieces])[order]

    first = pieces[0]
    if isinstance(first, FormedPiece):
        return FormedPiece(together("gradients"))
    if isinstance(first, EmbeddingPiece):
        return EmbeddingPiece(together("indices"), together("signals"), first.num_entries)
    return MatrixPiece(together("inputs"), together("signals"), shared=first.shared)
