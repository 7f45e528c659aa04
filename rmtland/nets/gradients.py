"""Logit gradients of any torch module, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rmtland._arguments import choice, integer
from rmtland.logits.gradients import CHUNK_BYTES, example_slices, told_source
from rmtland.logits.losses import Loss
from rmtland.nets import determinism, pytrees
from rmtland.nets.batches import (
    Arrays,
    Batch,
    Reading,
    Unpack,
    batches,
    check_batch,
    checked_class_weights,
    checked_ignore_index,
)
from rmtland.nets.budget import (
    BATCH_SHARE,
    MEMORY_BUDGET,
    SMALLEST_BATCH,
    Budget,
    GraphBytes,
    give_back_freed_pages,
)
from rmtland.nets.chunks import NetworkChunk, Plan
from rmtland.nets.differences import coarsest_spacing, wrong_second_derivatives
from rmtland.nets.graphs import loss_slope, measure_graphs
from rmtland.nets.layer_gram import Columns, layer_matrices
from rmtland.nets.layers import KnownLayers, known_layers, watched
from rmtland.nets.reducer import Reducer
from rmtland.nets.snapshot import Forward, Snapshot, single
from rmtland.nets.torch_losses import translated
from rmtland.nets.twice import flaws, is_chain

FEW = 8
"""Inputs that sizes and determinism are learnt from."""


class NetworkLogitGradients:
    """The logit gradients of a torch module: a source for every statistic.

    Parameters
    ----------
    module : torch.nn.Module
        Maps inputs (n, ...) to logits (n, C), or (n, T, C) where each of T tokens is an example. Measured in evaluation
        mode, at a copy of its parameters: training may go on afterwards, and its mode, gradients and buffers are left
        as found.
    inputs : tensor or array (N, ...), or a loader
        Finite; a tuple or dict of tensors is passed on as arguments or keywords. Or any object that can be iterated
        over more than once and yields (inputs, labels) batches, such as a `torch.utils.data.DataLoader`. Batches may
        differ in size and order between passes, not in their union. Real numbers and uint8 (images, not scaled) are
        cast to the dtype of the parameters, other integers, being indices, are left alone.
    labels : tensor or array (N,), optional
        Left out with a loader. (N, T) for tokens; (N, C) of real numbers for losses that take soft, several or real
        targets.
    loss : Loss or torch.nn loss, optional
        `CrossEntropy()` by default. `torch.nn.CrossEntropyLoss`, `BCEWithLogitsLoss` and `MSELoss` with their options
        are translated, others refused by name.
    chunk_size : int, optional
        Examples whose dense logit gradients are handled at a time; by default as many as 32 MiB hold, within a
        quarter of the memory budget.
    memory_budget : int, optional
        Bytes that the source takes: its copy of the parameters first, then a loader's examples, logits, and recorded
        forward and gradient computations. What does not fit is read, or recorded, anew in each pass.
    batch_size : int, optional
        Inputs that products handle at a time; by default as many as fill a quarter of the memory budget with the
        activations of a second derivative, 16 MiB at least. Batches of a loader larger than this are cut.
    weights : tensor or array (N,), optional
        Of the examples' losses, >= 0; the loss is their weighted mean. With a loader `unpack` returns them.
    class_weights : tensor or array (C,), optional
        The same for all examples of a class.
    ignore_index : int, optional
        Labels of this value are no examples, such as padding among tokens.
    forward : callable, optional
        `forward(module, inputs)` returns the logits, where `module(inputs)` would not.
    unpack : callable, optional
        Takes a loader's batch apart: returns (inputs, labels) or (inputs, labels, weights).
    nondeterminism : {"raise", "warn"}
        What happens where an example's logits depend on the pass or on the rest of its batch, where the module writes
        to its inputs, or where a loader that is read anew in each pass does not repeat its examples.

    Raises
    ------
    ValueError
        For NaN in inputs or logits, labels out of range or of another length, an empty loader, no trainable
        parameter, outputs that are not (n, C) or (n, T, C), logits that change between passes or with the batch, or do
        not depend on the parameters; in products, for a network that torch cannot differentiate twice.
    TypeError
        For something that is no eager module, is neither arrays nor a loader, or a `loss` that is not one.

    Notes
    -----
    Products run in the dtype of the parameters (float32 for most networks; half precision is handed out and summed in
    float32), sums over chunks of small results in float64. For a float64 measurement pass a module in float64. The
    parameter vector holds the trainable tensors in the order of `module.named_parameters()`, flattened row by row:
    `parameter_groups` tells where each lies.

    Examples
    --------
    >>> import torch
    >>> import rmtland as rl
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> source = rl.nets.NetworkLogitGradients(network, torch.randn(20, 4), torch.arange(20) % 3)
    >>> source.num_parameters, list(source.parameter_groups)
    (67, ['0.weight', '0.bias', '2.weight', '2.bias'])
    >>> rl.clustering(source).num_zero_gradients
    0
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Any,
        labels: Any = None,
        loss: Loss | torch.nn.Module | None = None,
        chunk_size: int | None = None,
        memory_budget: int = MEMORY_BUDGET,
        *,
        batch_size: int | None = None,
        weights: Any = None,
        class_weights: Any = None,
        ignore_index: int | None = None,
        forward: Forward | None = None,
        unpack: Unpack | None = None,
        nondeterminism: str = "raise",
    ) -> None:
        self._nondeterminism = choice("nondeterminism", nondeterminism, determinism.CHOICES)
        self._chunk_size = None if chunk_size is None else integer("chunk_size", chunk_size, at_least=1)
        self._batch_size = None if batch_size is None else integer("batch_size", batch_size, at_least=1)
        self._budget = Budget(integer("memory_budget", memory_budget, at_least=0))
        if forward is not None and not callable(forward):
            raise TypeError(f"`forward` must be callable; got {type(forward).__name__}")
        self.loss, loss_weights, loss_ignores = translated(loss)
        class_weights = checked_class_weights(loss_weights if class_weights is None else class_weights)
        ignore_index = checked_ignore_index(loss_ignores if ignore_index is None else ignore_index)
        self._reading = Reading(self.loss, ignore_index, class_weights)
        self.network = Snapshot(module, forward)
        self._budget.take(min(self.network.num_bytes, self._budget.left))
        self._batches = batches(inputs, labels, weights, unpack)
        # Arrays are in memory already, so their chunks stay; a loader's examples stay if they fit in the budget, else
        # they are streamed in each pass and nothing is kept.
        self._chunks: list[NetworkChunk] | None = []
        self._plan: Plan | None = None
        self._fingerprint = determinism.Fingerprint()
        self._num_classes = self._num_examples = 0
        self.num_inputs = 0  # of the dataset: sequences, not their tokens, and those whose labels are ignored too
        self._all_are_examples = True
        total_weight: Tensor | float = 0.0
        layers = known_layers(self.network.module, self.network.own_names())
        for batch in self._batches:
            total_weight += self._admit(batch, layers)
        if self._num_examples == 0:
            raise ValueError("`inputs` must hold at least one example; got none")
        self._settle_weights(float(total_weight))

    def _admit(self, batch: Batch, layers: KnownLayers) -> float:
        """Check a batch where it enters, and learn the sizes from the first; the sum of its weights."""
        check_batch(batch)
        self.num_inputs += batch.num_inputs
        if self._plan is None:
            self._learn(batch.cut(slice(0, FEW)))
        in_memory = isinstance(self._batches, Arrays)
        if not in_memory:
            self._fingerprint.add(batch)
            if self._chunks is not None:
                if self._budget.take(batch.num_bytes):
                    batch = batch.copied()
                else:
                    self._chunks = None
        total = 0.0
        for chunk in self._cut(batch, self._plan_of(self._chunks is not None)):
            with watched(layers, chunk.num_inputs) as apart:
                self.loss.check(chunk.logits, chunk.targets)
            self.network.apart |= apart
            self._num_examples += int(chunk.labels.shape[0])
            self._all_are_examples &= int(chunk.labels.shape[0]) == chunk.num_inputs  # none ignored
            total += float(chunk.labels.shape[0] if chunk.weights is None else chunk.weights.sum())
            chunk.release()
            if self._chunks is not None:
                self._chunks.append(chunk)
        return total

    def _learn(self, few: Batch) -> None:
        """Number of outputs, what a batch may hold, whether the network can be trusted."""
        few = few.copied()  # a forward pass may write to its inputs, which are the caller's
        inputs = self.network.placed(few.copied().inputs)
        try:
            self.network.find_written_buffers(inputs)
        except Exception as error:
            error.add_note(
                f"raised by `module` on inputs {pytrees.described(inputs)} (integers are not cast; see `forward`)"
            )
            raise
        # Whether logits depend on their own input alone, the same in every pass.
        self.independent = determinism.check_network(self.network, few, self._nondeterminism)
        with torch.inference_mode(False), torch.no_grad():
            outputs = self.network.outputs(self.network.parameters, self.network.placed(few.inputs))
        self._reading = Reading(
            self.loss, self._reading.ignore_index, self._reading.class_weights, tokens=outputs.ndim == 3
        )
        self._num_classes = int(outputs.shape[-1])
        class_weights = self._reading.class_weights
        if class_weights is not None and class_weights.shape[0] != self._num_classes:
            got = tuple(class_weights.shape)
            raise ValueError(f"`class_weights` must have shape ({self._num_classes},); got {got}")
        check_targets(few, outputs, self._reading)
        plan = Plan(self.network, self._reading, GraphBytes(), 1, Budget(0))
        some = NetworkChunk(plan, few)
        if some.labels.shape[0]:
            self.loss.check(some.logits, some.targets)
        one = NetworkChunk(plan, few.cut(slice(0, 2)).copied())
        self.network.flaws = flaws(one, loss_slope(one, 1))
        if not self.network.flaws and (wrong := wrong_second_derivatives(one)) is not None:
            reason = f"the backward of {wrong} takes what its forward made, which autograd takes for constant"
            self.network.flaws = {"second": reason}
        self.network.chained = "second" not in self.network.flaws and is_chain(one, loss_slope(one, 1))
        self._rounding = coarsest_spacing(one.recorded())
        sizes = measure_graphs(plan, few)
        share = max(self._budget.limit // BATCH_SHARE, SMALLEST_BATCH)
        if self._chunk_size is None:
            # Dense logit gradients come with the activations of all outputs, and are copied once.
            dense = self._num_classes * (self.num_parameters * max(self.network.vector.element_size(), 4))
            active = self._num_classes * sizes.forward[1]
            self._chunk_size = max(1, min(CHUNK_BYTES // max(dense, 1), share // max(2 * dense + active, 1)))
        if self._batch_size is None:
            self._batch_size = sizes.batch(share)
        self._plan = Plan(self.network, self._reading, sizes, self._chunk_size, self._budget, share, self._num_classes)

    def _settle_weights(self, total: float) -> None:
        """Divide weights by their mean, so that sums of the loss over N are its weighted mean."""
        assert self._plan is not None
        if self._reading.class_weights is None and total == self._num_examples:
            return
        if total <= 0:
            raise ValueError("`weights` must not all be zero; got weights of sum 0")
        self.divide_weights(total / self._num_examples)

    __repr__ = told_source

    @property
    def fingerprint(self) -> determinism.Fingerprint:
        """Of a loader's examples, whatever their order; of arrays there is none."""
        return self._fingerprint

    @property
    def mean_weight(self) -> float:
        """What the examples' weights are divided by: their mean, or 1."""
        return self._reading.mean_weight

    def divide_weights(self, mean_weight: float) -> None:
        """Divide the examples' weights by another mean: that over all ranks of a distributed source."""
        assert self._plan is not None
        self._reading = self._reading.divided_by(mean_weight)
        plan = self._plan
        self._plan = replace(plan, reading=self._reading)
        if self._chunks is not None:
            self._chunks = [chunk.under(self._plan) for chunk in self._chunks]

    def _plan_of(self, keeps: bool) -> Plan:
        assert self._plan is not None
        plan = self._plan
        return plan if keeps else replace(plan, keep=Budget(0))

    def _cut(self, batch: Batch, plan: Plan) -> Iterator[NetworkChunk]:
        assert self._batch_size is not None
        for part in example_slices(batch.num_inputs, self._batch_size):
            chunk = NetworkChunk(plan, batch.cut(part))
            if chunk.labels.shape[0]:  # not where every label is ignored
                yield chunk

    @property
    def parameter_vector(self) -> Tensor:
        """The trainable parameters, (D,), as they were when the source was made."""
        return self.network.vector

    @property
    def working_bytes(self) -> int:
        """What a computation may hold beside what is kept: what the budget has left, or what small batches need."""
        return max(self._budget.left, BATCH_SHARE * SMALLEST_BATCH)

    def room(self) -> int:
        """The same with recorded graphs forgotten where they take most of it: a pass records them again."""
        if self._budget.left < self._budget.limit // 2:
            self.forget_graphs()
        return self.working_bytes

    @property
    def num_examples(self) -> int:
        """N."""
        return self._num_examples

    @property
    def num_classes(self) -> int:
        """C."""
        return self._num_classes

    @property
    def num_parameters(self) -> int:
        """D, trainable parameters."""
        return int(self.network.vector.numel())

    @property
    def parameter_groups(self) -> Mapping[str, slice]:
        """Each trainable tensor's place in the parameter vector."""
        return self.network.groups

    @property
    def prototype(self) -> Tensor:
        """Of the dtype and on the device that products are handed out in."""
        return single(self.network.vector[:0])

    @property
    def rounding(self) -> float:
        """Spacing at 1 of the half precision that derivatives are computed in, in part at least; else 0."""
        return self._rounding

    def chunks(self) -> Iterator[NetworkChunk]:
        """Yield the examples, those of `batch_size` inputs at most at a time."""
        if self._chunks is not None:
            for chunk in self._chunks:
                try:
                    yield chunk
                finally:
                    chunk.release()
            return
        seen, plan = determinism.Fingerprint(), self._plan_of(False)
        for batch in self._batches:
            seen.add(batch)
            yield from self._cut(batch, plan)
        if not self._fingerprint.same(seen):
            determinism.complain(
                "`inputs` must yield the same examples in every pass, for they do not fit into `memory_budget`; got a "
                "loader that augments, drops or repeats some",
                self._nondeterminism,
            )

    def forget_graphs(self) -> None:
        """Give back the memory of recorded graphs; what comes next records them anew."""
        for chunk in self._chunks or []:
            chunk.forget_graphs()
        self._budget.return_graphs()
        give_back_freed_pages()

    def matrices(
        self, columns: Columns, vector: Tensor, groups: Sequence[Sequence[str]], outer: Sequence[bool]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Gram matrices of weighted logit gradients, layer by layer: see `logits.gauss_newton.GramSource`."""
        layers = next(iter(self.chunks())).layers()
        return layer_matrices(self, layers, columns, vector, groups, outer, self.room())

    def reducer(self, tolerance: float, every: int) -> Reducer | None:
        """For a pass in few directions of the parameters, see `logits.streamed`; None where layers do not allow it."""
        if not (self.independent and self._all_are_examples):
            return None
        first = next(iter(self.chunks()))
        found: Reducer | None = Reducer.of(
            first, self, tolerance, every, self.room() // 2, again=self._chunks is not None
        )
        return found

    def reduce(self, x: Tensor) -> Tensor:
        """`x`: one process."""
        return x


def check_targets(batch: Batch, outputs: Tensor, reading: Reading) -> None:
    """ValueError where labels do not fit outputs (n, C) or (n, T, C), or class weights do not fit labels."""
    shape = tuple(batch.targets.shape)
    want = tuple(outputs.shape[:-1])
    if shape not in (want, tuple(outputs.shape)):
        one = "one per token" if reading.tokens else "one per example"
        whole, got = (", ".join(["N", *map(str, sizes[1:])]) + "," * (len(sizes) == 1) for sizes in (want, shape))
        raise ValueError(f"`labels` must have shape ({whole}), {one}; got ({got})")
    if reading.class_weights is not None and shape != want:
        raise ValueError(
            f"`class_weights` must be left out where labels are no classes; got labels of shape (N, {shape[-1]})"
        )
