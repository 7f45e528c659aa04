"""A batch of a network's examples: its products through recorded graphs, and its dense logit gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from rmtland.logits.gradients import example_slices
from rmtland.nets.backward import Backward, quiet_fallbacks
from rmtland.nets.batches import Batch, Reading
from rmtland.nets.budget import Budget, GraphBytes, give_back_freed_pages
from rmtland.nets.chains import Chain
from rmtland.nets.layer_rows import SIDE_BY_SIDE_BYTES, Examples, LayeredPart, LayerRows, Layers
from rmtland.nets.layers import Head, Recording
from rmtland.nets.pass_rows import PassRows
from rmtland.nets.pytrees import Inputs
from rmtland.nets.reduction import Reduction
from rmtland.nets.signals import Signals, SignalsChunk
from rmtland.nets.snapshot import Snapshot, single

UNIT_BYTES = 2**24
"""Memory for cotangents that single out one output of one example each."""

Slope = Callable[[Tensor], Tensor]
"""Outputs (n, C), maybe a graph, to cotangents (n, C)."""
Map = TypeVar("Map", Backward, Backward | Chain)


@dataclass(frozen=True)
class Plan:
    """What all chunks of a source share.

    Attributes
    ----------
    network : Snapshot
    reading : Reading
        How targets become the loss's targets and weights.
    graph_bytes : GraphBytes
    chunk_size : int
        Examples whose dense logit gradients fit into memory.
    keep : Budget
    rows_bytes : int
        Memory for the rows of all logits of a part of a chunk, side by side, and for the columns of a block.
    num_classes : int
        C.
    """

    network: Snapshot
    reading: Reading
    graph_bytes: GraphBytes
    chunk_size: int
    keep: Budget
    rows_bytes: int = SIDE_BY_SIDE_BYTES
    num_classes: int = 1


class NetworkChunk:
    """n examples of a network; recorded graphs are kept while the budget lasts, else made anew when asked for.

    Attributes
    ----------
    network : Snapshot
    """

    def __init__(self, plan: Plan, batch: Batch, rows: slice | None = None) -> None:
        self.network = plan.network
        self.plan = plan
        self._batch, self._rows = batch, rows
        read = plan.reading.read(batch, plan.network.vector.device, rows)
        self.targets, self.labels, self.weights, self._selected = read
        self._made: dict[str, Any] = {}
        self._within_budget: set[str] = set()
        self._recorded = 0  # bytes

    def __getstate__(self) -> dict[str, Any]:
        # Graphs cannot be pickled; they are recorded anew where they are needed.
        logits = {n: v for n, v in self._made.items() if n == "logits" and n in self._within_budget}
        return {**self.__dict__, "_made": logits, "_within_budget": set(logits)}

    def forget_graphs(self) -> None:
        """As if it had been pickled; the source gives their share of the budget back."""
        self.__dict__.update(self.__getstate__())

    def _kept(self, name: str, make: Callable[[], Any], num_bytes: Callable[[Any], int], *, graph: bool) -> Any:
        """What `make` returns, from the first call on until `release`, or for good where the budget has room."""
        if name not in self._made:
            self._made[name] = made = make()
            self._recorded += num_bytes(made)
            if self.plan.keep.take(num_bytes(made), graph=graph):
                self._within_budget.add(name)
        return self._made[name]

    def release(self) -> None:
        """Forget what the budget has no room for; the source calls this when a pass goes on to the next chunk."""
        self._made = {name: made for name, made in self._made.items() if name in self._within_budget}
        if self._recorded:
            give_back_freed_pages(self._recorded)
            self._recorded = 0

    @property
    def num_inputs(self) -> int:
        """Forward passes: the examples, or the sequences that they are tokens of."""
        return self._batch.num_inputs

    @property
    def num_columns(self) -> int:
        """Columns of a product that fit into the memory of a batch: tangents, products, and the outputs' between."""
        vector = self.network.vector
        numbers = 3 * vector.numel() + 6 * self.labels.shape[0] * self.plan.num_classes
        return max(1, self.plan.rows_bytes // (numbers * max(vector.element_size(), 4)))

    @property
    def inputs(self) -> Inputs:
        """(n, ...) on the network's device; real numbers in its dtype, integers, being indices, as they are."""
        return self.network.placed(self._batch.inputs)

    @property
    def logits(self) -> Tensor:
        """(n, C), detached, in float32 at least."""

        def forward() -> Tensor:
            with torch.inference_mode(False), torch.no_grad():
                return single(self.flat_outputs(self.network.parameters))

        logits: Tensor = self._kept("logits", forward, lambda z: z.numel() * z.element_size(), graph=False)
        return logits

    def under(self, plan: Plan) -> NetworkChunk:
        """The same examples by another plan, with the logits that are kept."""
        other = NetworkChunk(plan, self._batch, self._rows)
        other._made, other._within_budget = dict(self._made), set(self._within_budget)
        return other

    def flat_outputs(self, parameters: dict[str, Tensor]) -> Tensor:
        """The network's outputs, (n, C), a row for each example: of tokens those that are not ignored."""
        outputs = self.network.outputs(parameters, self.inputs).flatten(0, -2)
        if self._selected is None or len(self._selected) == len(outputs):
            return outputs
        return outputs.index_select(0, self._selected)  # a copy, and two more going back

    def recorded(self) -> Tensor:
        """The outputs (n, C) as a graph over the network's leaves; every product is read off this one."""

        def forward() -> Tensor:
            with torch.inference_mode(False), torch.enable_grad():
                return self.flat_outputs(self.network.leaves)

        outputs: Tensor = self._kept("forward", forward, lambda _: self._bytes("forward"), graph=True)
        return outputs

    def _bytes(self, *kinds: str) -> int:
        return sum(self.plan.graph_bytes.of(kind, self.num_inputs) for kind in kinds)

    def _map(self, name: str, make: Callable[[Tensor], Map], *kinds: str) -> Map:
        """The linear map called `name`, made at first use from the recorded outputs, with graphs of these kinds."""

        def record() -> Map:
            outputs = self.recorded()
            with torch.inference_mode(False), torch.enable_grad():
                return make(outputs)

        def num_bytes(made: Map) -> int:
            # A map keeps the outputs' graph alive, whether that one was counted or not.
            forward = 0 if "forward" in self._within_budget else self._bytes("forward")
            return forward + (made.num_bytes if isinstance(made, Chain) else self._bytes(*kinds))

        made: Map = self._kept(name, record, num_bytes, graph=True)
        return made

    def pullback(self) -> Backward:
        """Cotangents of the outputs (k, n, C) to those of each parameter."""
        leaves, size = tuple(self.network.leaves.values()), self._bytes("forward")
        return self._map("vjp", lambda outputs: Backward([outputs], leaves, size))

    def pushforward(self) -> Backward:
        """Tangents (k, *shape) to those of the outputs: J^T u is linear in u, J v the derivative of J^T u . v in u."""
        self.network.require_derivatives("jvp")

        def make(outputs: Tensor) -> Backward:
            dummy = torch.zeros_like(outputs, requires_grad=True)
            return Backward(self.slopes(outputs, dummy), [dummy], self._bytes("forward", "jvp"))

        return self._map("jvp", make, "jvp")

    def pushforward_below(self, head: Head) -> Backward:
        """Tangents of each parameter to those of the head's inputs: nothing of the size of the outputs is kept."""

        def make() -> Backward:
            seen: list[Tensor] = []
            handle = head.layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
            try:
                with torch.inference_mode(False), torch.enable_grad():
                    self.flat_outputs(self.network.leaves)
                    inputs = seen[-1]
                    dummy = torch.zeros_like(inputs, requires_grad=True)
                    return Backward(self.slopes(inputs, dummy), [dummy], self._bytes("forward", "jvp"))
            finally:
                handle.remove()

        made: Backward = self._kept("jvp below", make, lambda _: self._bytes("forward", "jvp"), graph=True)
        return made

    def second_derivative(self, name: str, slope: Slope) -> Backward | Chain:
        """Tangents of each parameter to those of J^T slope(outputs)."""
        self.network.require_derivatives("second")

        def make(outputs: Tensor) -> Backward | Chain:
            leaves, size = tuple(self.network.leaves.values()), self._bytes("forward", "second")
            chain = Chain.of(outputs, leaves, slope) if self.network.chained else None
            return chain or Backward(self.slopes(outputs, slope(outputs).to(outputs.dtype)), leaves, size)

        return self._map(name, make, "second")

    def slopes(self, outputs: Tensor, cotangents: Tensor) -> tuple[Tensor, ...]:
        """J^T u of each parameter for cotangents u (n, C), as a graph."""
        leaves = tuple(self.network.leaves.values())
        if not outputs.requires_grad:
            return tuple(torch.zeros_like(leaf, requires_grad=False) for leaf in leaves)
        return torch.autograd.grad(outputs, leaves, cotangents, create_graph=True, materialize_grads=True)

    def jvp(self, tangents: Tensor) -> Tensor:
        """J V for tangents (D, k), (n, C, k)."""
        with torch.inference_mode(False):
            (pushed,) = self.pushforward()(self.network.split(tangents))
        return single(pushed).movedim(0, -1)

    def vjp(self, cotangents: Tensor) -> Tensor:
        """J^T U for cotangents (n, C, k), (D, k)."""
        with torch.inference_mode(False):
            rows = cotangents.movedim(-1, 0).to(self.network.vector.dtype).contiguous()
            rows = rows.clone() if rows.is_inference() else rows
            total, parts = self.network.zeros(rows.shape[0])
            self.pullback().add_to(parts, [rows])
        return total

    def blocks(self) -> Iterator[NetworkChunk]:
        """The same examples, few enough at a time for `dense()`."""
        return self.pieces(self.plan.chunk_size)

    def parts(self) -> Iterator[NetworkChunk]:
        """The same examples, few enough at a time for the `rows` of all logits side by side, or of one of many."""
        size = self.layers().part_size
        self._recorded += self.plan.num_classes * self._bytes("forward")  # in the parts, which are freed by then
        return self.pieces(size) if self.layers().keep else self._whole_inputs(size)

    def _whole_inputs(self, size: int) -> Iterator[NetworkChunk]:
        """The same examples by at most `size` inputs at a time: a sequence's tokens share its pass."""
        if self.num_inputs <= size or self._rows is not None:
            yield self
            return
        start = 0
        for part in example_slices(self.num_inputs, size):
            some = NetworkChunk(self._passing_plan, self._batch.cut(part))
            count = int(some.labels.shape[0])
            if count:
                if "logits" in self._made:
                    some._made["logits"] = self._made["logits"][start : start + count]
                yield some
            start += count

    @property
    def _passing_plan(self) -> Plan:
        """For chunks of a moment, which keep nothing and so may not draw on the budget."""
        return replace(self.plan, keep=Budget(0))

    def cut(self, examples: slice) -> NetworkChunk:
        """Some of the examples; of tokens by a forward pass over all."""
        if self._selected is None:
            return NetworkChunk(self._passing_plan, self._batch.cut(examples))
        first = 0 if self._rows is None else self._rows.start
        return NetworkChunk(self._passing_plan, self._batch, slice(first + examples.start, first + examples.stop))

    def pieces(self, size: int) -> Iterator[NetworkChunk]:
        """The same examples, at most `size` at a time."""
        num_examples = int(self.labels.shape[0])
        if num_examples <= size:
            yield self
            return
        if self._selected is None:
            for part in example_slices(self.num_inputs, size):
                yield NetworkChunk(self._passing_plan, self._batch.cut(part))
            return
        # Whole sequences together while they fit, then parts of one.
        sequences = max(1, size * self.num_inputs // num_examples)
        for part in example_slices(self.num_inputs, sequences):
            some = NetworkChunk(self._passing_plan, self._batch.cut(part))
            count = int(some.labels.shape[0])
            for rows in example_slices(count, max(size, 1)):
                yield some if count <= size else NetworkChunk(self._passing_plan, self._batch.cut(part), rows)

    def _examples(self) -> Examples:
        """An input for each example: of tokens their whole sequences, over and over."""
        if self._selected is None:
            return Examples(self.inputs)
        length = self.sequence_length
        places = self._selected // length
        inputs = torch.utils._pytree.tree_map(lambda leaf: leaf[places], self.inputs)
        return Examples(inputs, self._selected % length if self.plan.reading.tokens else None, length)

    def layers(self) -> Layers:
        """What the network's layers account for, found once."""
        return Layers.of(self.network, self._examples, self.plan.rows_bytes)

    def _layered(self) -> LayeredPart:
        if "layers" not in self._made:  # until `release`
            twin = NetworkChunk(self._passing_plan, self._batch, self._rows)  # itself would be a circle, freed late
            self._made["layers"] = LayeredPart(self.layers(), self._examples(), twin.dense)
        return cast(LayeredPart, self._made["layers"])

    def rows(self, cotangents: Tensor) -> LayerRows | PassRows:
        """J_mu^T u_mu for cotangents (n, C), one row per example, layer by layer."""
        return self._layered().rows(cotangents) if self.layers().keep else PassRows.of(self, cotangents)

    def recording(self) -> Recording:
        """The layers' uses below a head in a pass over the inputs, each once; until `release`."""
        if "recording" not in self._made:
            self._made["recording"] = self.layers().record(Examples(self.inputs)).below_head()
        return cast(Recording, self._made["recording"])

    @property
    def sequence_length(self) -> int:
        """Outputs of each input: T for tokens, else 1."""
        return int(self._batch.targets.shape[1]) if self.plan.reading.tokens else 1

    @property
    def places(self) -> Tensor:
        """Of each example its place among the outputs, (n,), counted through sequences."""
        every = self.labels.shape[0]
        return torch.arange(every, device=self.network.vector.device) if self._selected is None else self._selected

    def softmax_view(self, reduction: Reduction | None = None, *, factored: bool = False) -> SignalsChunk | None:
        """The examples as a softmax sees them, in some directions; None where layers do not account for all.

        `factored`: see `Signals.of`.
        """
        if self._selected is not None or self.plan.num_classes < 2 or not self.layers().complete:
            return None
        groups, size = self.network.groups, int(self.network.vector.shape[0])
        recording = self._layered().recording
        logits = single(recording.outputs.detach())
        made = (recording, self.plan.num_classes, groups, size, reduction, self.weights)
        return SignalsChunk(self, Signals.of(*made, factored=factored), logits)

    def dense(self, parameters: slice = slice(None)) -> Tensor:
        """J for a slice of the parameters, (n, C, d); only the tensors that the slice meets are differentiated."""
        network = self.network
        start, stop, _ = parameters.indices(network.vector.shape[0])
        groups = {n: g for n, g in network.groups.items() if g.start < stop and g.stop > start}
        if not groups:
            return single(network.vector.new_zeros((*self.logits.shape, 0)))
        with torch.inference_mode(False):
            parts = None if self._selected is not None else self._vectorised(list(groups))
            if parts is None:
                parts = self._one_row_after_another(list(groups))
        first = next(iter(groups.values())).start
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return single(joined[:, :, start - first : stop - first])

    def _vectorised(self, names: list[str]) -> list[Tensor] | None:
        """(n, C, size) for each parameter by vmap over examples; None where an operation has no such rule."""
        network = self.network
        rest = {n: p for n, p in network.parameters.items() if n not in names}

        def outputs(parameters: dict[str, Tensor], example: Inputs) -> Tensor:
            one = torch.utils._pytree.tree_map(lambda leaf: leaf[None], example)
            return network.outputs({**rest, **parameters}, one)[0]

        try:
            with quiet_fallbacks():
                gradients = vmap(jacrev(outputs), in_dims=(None, 0))(
                    {n: network.parameters[n] for n in names}, self.inputs
                )
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):
            return None
        return [gradients[n].detach().reshape(*gradients[n].shape[:2], -1) for n in names]

    def _one_row_after_another(self, names: list[str]) -> list[Tensor]:
        """The same by plain backward passes, one for each example and output."""
        leaves = [self.network.leaves[n] for n in names]
        with torch.enable_grad():
            outputs = self.flat_outputs(self.network.leaves)
        pull = Backward([outputs], leaves, self._bytes("forward"))
        n, num_classes = outputs.shape
        rows = []
        width = max(1, min(num_classes, UNIT_BYTES // (outputs.numel() * outputs.element_size())))
        for example in range(n):
            several = []
            for some in example_slices(num_classes, width):  # all units of 50,000 words would take 10 GB an example
                units = outputs.new_zeros((some.stop - some.start, n, num_classes))
                units[:, example, some] = torch.eye(len(units), dtype=outputs.dtype, device=outputs.device)
                several.append([g.reshape(len(units), -1) for g in pull([units])])
            rows.append([torch.cat(parts) for parts in zip(*several, strict=True)])
        return [torch.stack([row[i] for row in rows]) for i in range(len(names))]
