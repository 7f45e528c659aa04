"""The rows of a network's chunk, J_mu^T u_mu, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rmtland._arrays import widest
from rmtland.nets.layer_pieces import FORMED_POSITIONS, EmbeddingPiece, FormedPiece, Piece, joined, stored_numbers
from rmtland.nets.layers import Recording, known_layers, record
from rmtland.nets.pytrees import Inputs, cut, num_inputs
from rmtland.nets.snapshot import Snapshot

SIDE_BY_SIDE_BYTES = 2**28
"""Memory for the pieces of all logits' rows of a part of a chunk, unless the source's budget says less or more."""
ONE_LOGIT = 6
"""Numbers held for each of a row's own while it is found."""
PROBED = 3
"""Examples on which the layers' pieces are held against autograd, once per source; of large sequences one."""


@dataclass(frozen=True)
class Examples:
    """An input for each example, and which token of its sequence, of some length, the example is, where it is one."""

    inputs: Inputs
    tokens: Tensor | None = None
    length: int = 1

    def __len__(self) -> int:
        return num_inputs(self.inputs)

    def cut(self, part: slice) -> Examples:
        """Some of them."""
        return Examples(cut(self.inputs, part), None if self.tokens is None else self.tokens[part], self.length)

    def outputs(self, network: Snapshot, parameters: dict[str, Tensor]) -> Tensor:
        """(n, C)."""
        return self.picked(network.outputs(parameters, self.inputs))

    def picked(self, outputs: Tensor) -> Tensor:
        """Of outputs (n, T, C) those of the examples' tokens."""
        if self.tokens is None:
            return outputs
        return outputs[torch.arange(len(self), device=outputs.device), self.tokens]


class LayerRows:
    """n rows by their pieces, which `make` finds when they are first asked for."""

    def __init__(self, groups: dict[str, slice], make: Callable[[], dict[str, Piece]], like: Tensor) -> None:
        self.groups, self._make, self._like = groups, make, like
        self._kept: dict[str, Piece] | None = None
        starts = [group.start for group in groups.values()]
        stops = [group.stop for group in groups.values()]
        self.start, self.size = min(starts), max(stops) - min(starts)

    def pieces(self) -> dict[str, Piece]:
        """By tensor."""
        if self._kept is None:
            self._kept = self._make()
        return self._kept

    def lengths(self) -> Tensor:
        """(n,), float64."""
        squares = [piece.squares() for name, piece in self.pieces().items() if name in self.groups]
        total = self._like.new_zeros(self._like.shape[:1], dtype=widest(self._like))
        return torch.stack([total, *squares]).sum(dim=0).sqrt()

    def _placed(self) -> Iterator[tuple[slice, Piece]]:
        for name, piece in self.pieces().items():
            if name in self.groups:
                group = self.groups[name]
                yield slice(group.start - self.start, group.stop - self.start), piece

    def sums(self, weights: Tensor) -> Tensor:
        """(j, d)."""
        out = self._like.new_zeros((weights.shape[1], self.size))
        for place, piece in self._placed():
            out[:, place] = piece.sums(weights)
        return out

    def products(self, vectors: Tensor) -> Tensor:
        """(n, j), float64."""
        vectors = torch.as_tensor(vectors, device=self._like.device)
        out = self._like.new_zeros((len(self._like), len(vectors)), dtype=widest(self._like))
        for place, piece in self._placed():
            out += piece.products(vectors[:, place])
        return out

    def formed(self) -> Tensor:
        """(n, d)."""
        out = self._like.new_zeros((len(self._like), self.size))
        for place, piece in self._placed():
            out[:, place] = piece.formed()
        return out

    def chosen(self, examples: Tensor) -> LayerRows:
        """The rows of some examples."""

        def make() -> dict[str, Piece]:
            return {name: piece.chosen(examples) for name, piece in self.pieces().items() if name in self.groups}

        return LayerRows(self.groups, make, self._like[examples])

    def restricted(self, parameters: slice) -> LayerRows:
        """The same rows in the tensors of a slice of the parameters."""
        start, stop = self.start + parameters.start, self.start + parameters.stop
        groups = {name: g for name, g in self.groups.items() if start <= g.start and g.stop <= stop}
        return LayerRows(groups, self.pieces, self._like)


class Layers:
    """Which of a network's tensors its layers account for; the rest are differentiated example by example.

    Attributes
    ----------
    rest : tuple of str
        Tensors whose pieces are not what autograd finds: used outside a known layer, or in one that does not lead with
        the examples.
    keep : bool
        Whether one example's rows for all logits fit into `limit` bytes; else they are found anew each time they are
        asked for.
    part_size : int
        Examples whose rows for all logits fit; where not one's do, inputs (sequences) whose backward pass does.
    """

    def __init__(self, network: Snapshot, examples: Examples, limit: int = SIDE_BY_SIDE_BYTES) -> None:
        self.network = network
        # One example first: a sequence's last token, which may depend on all of it.
        last = 0 if examples.tokens is None else int(examples.tokens.argmax())
        few = examples.cut(slice(last, last + 1))
        cotangents, exact = _one_by_one(network, few)
        outputs = few.length * cotangents.shape[1]  # numbers of an input
        if PROBED * ONE_LOGIT * outputs * network.vector.element_size() <= limit or few.length == 1:
            few = examples.cut(slice(0, PROBED))
            cotangents, exact = _one_by_one(network, few)
        self.rest = tuple(network.groups)  # as far as is known
        below: list[Piece] | None = None  # without the head's, whose signals are the cotangents
        try:
            recording = self.record(few)
            found = {n: joined(p) for n, p in recording.pieces(cotangents).items()}
            if recording.head is not None:
                signals = torch.zeros_like(recording.head.inputs)
                below = [joined(p) for p in recording.below_head().pieces(signals).values()]
        except RuntimeError:  # a forward pass that hooks disturb
            found = {}
        largest = _largest(exact)
        # What no known layer has, and these examples do not use, others may.
        own = known_layers(network.module, network.own_names()).values()
        untold = network.groups.keys() - {n for names in own for n in names.values()} - found.keys() | network.apart
        self.rest = tuple(
            n for n, g in network.groups.items() if n in untold or not _agree(found.get(n), exact[:, g], largest)
        )
        per_logit = sum(_numbers(p)[1] for n, p in found.items() if n not in self.rest)
        per_logit += sum(network.parameters[n].numel() for n in self.rest)
        shared = sum(_numbers(p)[0] for p in found.values())
        itemsize = network.vector.element_size()
        self._stored = {n: stored_numbers(p) for n, p in found.items()}
        self._stored |= {n: (0, network.parameters[n].numel()) for n in self.rest}
        all_logits = itemsize * (shared + cotangents.shape[1] * per_logit) * PROBED / len(few) + 1
        self.keep = all_logits <= limit
        # With the outputs, what is propagated back from them, and copies of both.
        if below is not None:
            shared, per_logit = (sum(numbers) for numbers in zip((0, 0), *map(_numbers, below), strict=True))
            per_logit += sum(network.parameters[n].numel() for n in self.rest)
        one_logit = itemsize * (shared + ONE_LOGIT * (per_logit + outputs)) + 1
        self.part_size = max(1, int(limit / (all_logits if self.keep else one_logit)))

    @property
    def complete(self) -> bool:
        """Whether layers account for every tensor, and all logits' rows of an example fit into memory."""
        return self.keep and not self.rest and self.network.vector.element_size() >= 4

    def stored_bytes(self, name: str, num_directions: int) -> int:
        """Memory for one example's inputs and signals of a tensor."""
        shared, per_row = self._stored.get(name, (0, 0))
        return self.network.vector.element_size() * (shared + num_directions * per_row)

    @classmethod
    def of(cls, network: Snapshot, examples: Callable[[], Examples], limit: int) -> Layers:
        """Those of a network, found once."""
        if network.layers is None:
            network.layers = cls(network, examples(), limit)
        assert isinstance(network.layers, cls)
        return network.layers

    def record(self, examples: Examples) -> Recording:
        """One forward pass with the layers' uses noted.

        Raises
        ------
        RuntimeError
            Where a layer is called on some of the examples that the source found called on all: its examples changed.
        """
        network, inputs = self.network, examples.inputs
        recording = record(
            network.module, network.own_names(), lambda: network.outputs(network.parameters, inputs), len(examples)
        )
        if late := sorted(recording.apart.difference(self.rest)):
            raise RuntimeError(
                "`module` must call its layers on the same examples in each pass; one with "
                f"{', '.join(late)} takes some of them only, and took all before (a loader that shuffles?)"
            )
        recording.outputs = examples.picked(recording.outputs)
        return recording


def _one_by_one(network: Snapshot, examples: Examples) -> tuple[Tensor, Tensor]:
    """Random cotangents (n, C) and J_mu^T u_mu (n, D) by autograd, each example in a forward pass of its own."""
    leaves = tuple(network.leaves.values())
    rows, drawn = network.vector.new_zeros((len(examples), len(network.vector))), []
    generator = torch.Generator("cpu").manual_seed(0)
    for i in range(len(examples)):
        with torch.inference_mode(False), torch.enable_grad():
            logits = examples.cut(slice(i, i + 1)).outputs(network, network.leaves)[0]
        drawn.append(torch.randn(len(logits), generator=generator, device="cpu").to(logits))
        if logits.requires_grad:
            parts = torch.autograd.grad(logits, leaves, drawn[-1], materialize_grads=True)
            for group, part in zip(network.groups.values(), parts, strict=True):
                rows[i, group] = part.reshape(-1)
            del logits, parts  # as much as a row, and the next one's
    return torch.stack(drawn), rows


def _largest(values: Tensor) -> float:
    """Without a copy of them."""
    return float(torch.linalg.vector_norm(values, torch.inf)) if values.numel() else 0.0


def _agree(piece: Piece | None, exact: Tensor, largest: float) -> bool:
    """Whether a tensor's pieces are its rows, up to rounding of themselves or of the largest number of all."""
    precision = torch.finfo(exact.dtype).eps
    relative = min(30 * precision**0.5, 0.2)
    tolerance = max(relative * _largest(exact), 10 * precision * largest)
    got = torch.zeros_like(exact) if piece is None else piece.formed()
    return got.shape == exact.shape and _largest(got - exact) <= tolerance


def _numbers(piece: Piece) -> tuple[int, int]:
    """Numbers kept per example: of inputs, shared by all logits, and of each logit."""
    if isinstance(piece, FormedPiece):
        return 0, piece.gradients[0].numel()
    if isinstance(piece, EmbeddingPiece):
        return piece.indices[0].numel(), piece.signals[0].numel()
    _, g, b, _ = piece.signals.shape
    written = g * b * piece.inputs.shape[2] if piece.num_positions > FORMED_POSITIONS else 0
    return piece.inputs[0].numel(), piece.signals[0].numel() + written


class LayeredPart:
    """The rows of a few examples; the forward pass is recorded at first use."""

    def __init__(self, layers: Layers, examples: Examples, dense: Callable[[slice], Tensor]) -> None:
        self.layers, self.examples, self.dense = layers, examples, dense

    @cached_property
    def recording(self) -> Recording:
        """The forward pass."""
        return self.layers.record(self.examples)

    @cached_property
    def _rest(self) -> dict[str, Tensor]:
        """Logit gradients (n, C, d) of what layers do not account for; neighbours differentiated together."""
        groups, found = self.layers.network.groups, {}
        runs: list[list[str]] = []
        for name in self.layers.rest:
            if runs and groups[runs[-1][-1]].stop == groups[name].start:
                runs[-1].append(name)
            else:
                runs.append([name])
        for run in runs:
            start = groups[run[0]].start
            gradients = self.dense(slice(start, groups[run[-1]].stop))
            for name in run:
                found[name] = gradients[:, :, groups[name].start - start : groups[name].stop - start]
        return found

    def rows(self, cotangents: Tensor) -> LayerRows:
        """J_mu^T u_mu for cotangents (n, C)."""
        return LayerRows(self.layers.network.groups, lambda: self._pieces(cotangents), cotangents)

    def _pieces(self, cotangents: Tensor) -> dict[str, Piece]:
        rest = self.layers.rest
        used = self.recording.pieces(cotangents) if len(rest) < len(self.layers.network.groups) else {}
        pieces: dict[str, Piece] = {name: joined(used[name]) for name in used if name not in rest}
        for name, gradients in self._rest.items():
            pieces[name] = FormedPiece((cotangents[:, None, :].to(gradients) @ gradients)[:, 0, :])
        return pieces
