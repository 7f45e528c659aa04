"""Logit gradients of any torch module, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vjp, vmap

from rmtland._arguments import integer
from rmtland.logits.gradients import default_chunk_size, example_slices
from rmtland.logits.losses import CrossEntropy, Loss
from rmtland.nets.layer_gram import Columns, layer_matrices
from rmtland.nets.layer_rows import LayeredPart, LayerRows, Layers
from rmtland.nets.snapshot import Snapshot, pullback

MEMORY_BUDGET = 2**30
"""Bytes that a source keeps between products."""

Product = Callable[[Tensor], Tensor]


class Budget:
    """Bytes that may be kept; taken once, never exceeded."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, num_bytes: int) -> bool:
        """Whether `num_bytes` are left, and if so take them."""
        if num_bytes > self.left:
            return False
        self.left -= num_bytes
        return True


class NetworkChunk:
    """n examples of a network; linearised products are kept while the budget lasts, else made anew when asked for."""

    def __init__(
        self,
        network: Snapshot,
        inputs: Tensor,
        labels: Tensor,
        bytes_per_example: int,
        keep: Budget,
        chunk_size: int = 1,
    ) -> None:
        self.network = network
        self._bytes_per_example, self._chunk_size = bytes_per_example, chunk_size
        self.bytes = bytes_per_example * int(inputs.shape[0])
        self.labels = labels.to(network.vector.device)
        self._inputs = inputs
        self._keep = keep
        self._products: dict[str, Product] = {}

    @property
    def inputs(self) -> Tensor:
        """(n, ...) on the network's device; real numbers in its dtype, integers, being indices, as they are."""
        vector = self.network.vector
        return self._inputs.to(vector.device, vector.dtype if self._inputs.is_floating_point() else self._inputs.dtype)

    def blocks(self) -> Iterator[NetworkChunk]:
        """The same examples, few enough at a time for `dense()`."""
        for part in example_slices(int(self.labels.shape[0]), self._chunk_size):
            yield NetworkChunk(
                self.network,
                self._inputs[part],
                self.labels[part],
                self._bytes_per_example,
                Budget(0),
                self._chunk_size,
            )

    def parts(self) -> Iterator[NetworkChunk]:
        """The same examples, few enough at a time for `rows` of all logits side by side."""
        size = Layers.of(self.network, self.inputs).part_size
        for part in example_slices(int(self.labels.shape[0]), size):
            yield NetworkChunk(
                self.network,
                self._inputs[part],
                self.labels[part],
                self._bytes_per_example,
                Budget(0),
                self._chunk_size,
            )

    @cached_property
    def _layered(self) -> LayeredPart:
        return LayeredPart(Layers.of(self.network, self.inputs), self.inputs, self.dense)

    def rows(self, cotangents: Tensor) -> LayerRows:
        """J_mu^T u_mu for cotangents (n, C), one row per example, layer by layer."""
        return self._layered.rows(cotangents)

    def product(self, name: str, make: Callable[[], Product], cost: int) -> Product:
        """The linear map called `name`, made at first use; `cost` is its memory in forward passes."""
        if name in self._products:
            return self._products[name]
        product = make()
        if self._keep.take(cost * self.bytes):
            self._products[name] = product
        return product

    @cached_property
    def logits(self) -> Tensor:
        """(n, C), detached."""
        with torch.no_grad():
            return self.network.outputs(self.network.parameters, self.inputs)

    def recorded(self) -> tuple[Tensor, Tensor]:
        """A parameter vector that requires grad and the outputs as a graph over it."""
        vector = self.network.vector.clone().requires_grad_()
        with torch.enable_grad():
            return vector, self.network.outputs(self.network.unflatten(vector), self.inputs)

    def _pull(self) -> Product:
        vector, outputs = self.recorded()
        return pullback(outputs, vector, self.bytes)

    def _push(self) -> Product:
        # J^T u is linear in u, so J v is the derivative of (J^T u) . v in u.
        vector, outputs = self.recorded()
        dummy = torch.zeros_like(outputs, requires_grad=True)
        with torch.enable_grad():
            pulled = torch.autograd.grad(outputs, vector, dummy, create_graph=True)[0]
        return pullback(pulled, dummy, 2 * self.bytes)

    def jvp(self, tangents: Tensor) -> Tensor:
        """J V for tangents (D, k), (n, C, k)."""
        return self.product("jvp", self._push, 2)(tangents.T).movedim(0, -1)

    def vjp(self, cotangents: Tensor) -> Tensor:
        """J^T U for cotangents (n, C, k), (D, k)."""
        return self.product("vjp", self._pull, 1)(cotangents.movedim(-1, 0)).T

    def dense(self, parameters: slice = slice(None)) -> Tensor:
        """J for a slice of the parameters, (n, C, d); only the tensors that the slice meets are differentiated."""
        network = self.network
        start, stop, _ = parameters.indices(network.vector.shape[0])
        groups = {n: g for n, g in network.groups.items() if g.start < stop and g.stop > start}
        met = {n: network.parameters[n] for n in groups}
        rest = {n: p for n, p in network.parameters.items() if n not in met}
        gradients = self._gradients(met, rest)
        first = next(iter(groups.values())).start if groups else start
        parts = [g.reshape(*g.shape[:2], -1) for g in gradients.values()]
        return torch.cat(parts, dim=2)[:, :, start - first : stop - first].detach()

    def _gradients(self, met: dict[str, Tensor], rest: dict[str, Tensor]) -> dict[str, Tensor]:
        def outputs(parameters: dict[str, Tensor], example: Tensor) -> Tensor:
            return self.network.outputs({**rest, **parameters}, example[None])[0]

        try:
            gradients: dict[str, Tensor] = vmap(jacrev(outputs), in_dims=(None, 0))(met, self.inputs)
        except (RuntimeError, NotImplementedError):
            # No batching rule: one reverse pass per example and output.
            each = [_gradients_one_by_one(outputs, met, example) for example in self.inputs]
            gradients = {n: torch.stack([g[n] for g in each]) for n in met}
        return gradients


def _gradients_one_by_one(
    outputs: Callable[[dict[str, Tensor], Tensor], Tensor], parameters: dict[str, Tensor], example: Tensor
) -> dict[str, Tensor]:
    values, pull, *_ = vjp(lambda p: outputs(p, example), parameters)
    rows = [pull(unit)[0] for unit in torch.eye(len(values), dtype=values.dtype, device=values.device)]
    return {n: torch.stack([row[n] for row in rows]) for n in parameters}


class NetworkLogitGradients:
    """The logit gradients of a torch module: a source for every statistic.

    Parameters
    ----------
    module : torch.nn.Module
        Maps inputs (n, ...) to logits (n, C). Measured in evaluation mode, at a copy of its parameters: training may
        go on afterwards, and its mode, gradients and buffers are left as found.
    inputs : tensor or array (N, ...), or a loader
        Finite; or any object that can be iterated over more than once and yields (inputs, labels) batches, such as
        a `torch.utils.data.DataLoader`. Batches may differ in size and order between passes, not in their union.
    labels : tensor or array (N,), optional
        Left out with a loader.
    loss : Loss, optional
        `CrossEntropy()` by default.
    chunk_size : int, optional
        Examples handled at a time; by default as many as hold 32 MiB of dense logit gradients. Batches of a loader
        larger than this are cut.
    memory_budget : int, optional
        Bytes kept between products: a loader's examples first, then linearised forward passes. What does not fit is
        read, or linearised, anew in each pass.

    Raises
    ------
    ValueError
        For NaN in inputs or logits, labels out of range or of another length, an empty loader, no trainable
        parameter, outputs that are not (n, C).
    TypeError
        For something that is no module, or is neither arrays nor a loader.

    Notes
    -----
    Products run in the dtype of the parameters (float32 for most networks), sums over chunks of small results in
    float64. For a float64 measurement pass a module in float64. The parameter vector holds the trainable tensors in
    the order of `module.named_parameters()`, flattened row by row: `parameter_groups` tells where each lies.

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
        loss: Loss | None = None,
        chunk_size: int | None = None,
        memory_budget: int = MEMORY_BUDGET,
        *,
        batch_size: int | None = None,
    ) -> None:
        self._batch_size = None if batch_size is None else integer("batch_size", batch_size, at_least=1)
        self.loss: Loss = CrossEntropy() if loss is None else loss
        self.network = Snapshot(module)
        if chunk_size is not None:
            chunk_size = integer("chunk_size", chunk_size, at_least=1)
        self._budget = Budget(integer("memory_budget", memory_budget, at_least=0))
        self._batches = _batches(inputs, labels)
        # Arrays are in memory already, so their chunks stay; a loader's examples stay if they fit in the budget, else
        # they are streamed in each pass and nothing is kept.
        self._chunks: list[NetworkChunk] | None = []
        self._chunk_size = chunk_size
        self._bytes_per_example = 0
        self._num_classes = 0
        self._num_examples = 0
        for batch_inputs, batch_labels in self._batches:
            self._admit(torch.as_tensor(batch_inputs), torch.as_tensor(batch_labels))
        if self._num_examples == 0:
            raise ValueError("`inputs` must hold at least one example; got none")

    def _admit(self, inputs: Tensor, labels: Tensor) -> None:
        """Check a batch where it enters, and learn the sizes from the first."""
        if inputs.ndim == 0 or inputs.shape[0] == 0:
            raise ValueError(f"`inputs` must have shape (N, ...) with N >= 1; got {tuple(inputs.shape)}")
        if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            raise ValueError("`inputs` must be finite; got NaN or infinite entries")
        if labels.ndim != 1 or labels.shape[0] != inputs.shape[0]:
            got = tuple(labels.shape)
            raise ValueError(f"`labels` must have shape ({inputs.shape[0]},), one per example; got {got}")
        if self._num_classes == 0:
            self._measure(inputs[:8], labels[:8])
        for chunk in self._cut(inputs, labels, self._budget):
            self.loss.check(chunk.logits, chunk.labels)
            if self._chunks is not None:
                self._chunks.append(chunk)
        in_memory = isinstance(self._batches, _Arrays)
        if not in_memory and not self._budget.take(inputs.numel() * inputs.element_size()):
            self._chunks = None
        self._num_examples += int(inputs.shape[0])

    def _measure(self, inputs: Tensor, labels: Tensor) -> None:
        few = NetworkChunk(self.network, inputs, labels, 0, Budget(0))
        self._num_classes = int(few.logits.shape[1])
        self._bytes_per_example = self.network.bytes_per_example(few.inputs)
        if self._chunk_size is None:
            dense = self._num_classes * self.num_parameters * self.network.vector.element_size()
            self._chunk_size = default_chunk_size(2**62, dense)
        if self._batch_size is None:
            self._batch_size = max(1, self._budget.left // (16 * self._bytes_per_example))

    def _cut(self, inputs: Tensor, labels: Tensor, keep: Budget) -> Iterator[NetworkChunk]:
        assert self._chunk_size is not None
        assert self._batch_size is not None
        for part in example_slices(int(inputs.shape[0]), self._batch_size):
            yield NetworkChunk(
                self.network, inputs[part], labels[part], self._bytes_per_example, keep, self._chunk_size
            )

    @property
    def prototype(self) -> Tensor:
        """Of the dtype and on the device that products are computed in."""
        return self.network.vector[:0]

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

    def chunks(self) -> Iterator[NetworkChunk]:
        """Yield the examples, `chunk_size` at most at a time."""
        if self._chunks is not None:
            yield from self._chunks
            return
        for inputs, labels in self._batches:
            yield from self._cut(torch.as_tensor(inputs), torch.as_tensor(labels), Budget(0))

    def matrices(
        self, columns: Columns, vector: Tensor, groups: Sequence[Sequence[str]], outer: Sequence[bool]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Gram matrices of weighted logit gradients, layer by layer: see `logits.gauss_newton.GramSource`."""
        chunk = next(iter(self.chunks()))
        return layer_matrices(self, Layers.of(self.network, chunk.inputs), columns, vector, groups, outer)

    def reduce(self, x: Tensor) -> Tensor:
        """`x`: one process."""
        return x


class _Arrays:
    """One batch of everything, for inputs and labels in memory."""

    def __init__(self, inputs: Any, labels: Any) -> None:
        self.inputs, self.labels = torch.as_tensor(inputs), torch.as_tensor(labels)
        if self.inputs.ndim and self.inputs.shape[0] == 0:
            raise ValueError("`inputs` must hold at least one example; got none")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.inputs, self.labels


def _batches(inputs: Any, labels: Any) -> Any:
    """Arrays or a loader as something to iterate over again and again."""
    if labels is not None:
        return _Arrays(inputs, labels)
    if isinstance(inputs, Tensor) or hasattr(inputs, "__array__"):
        raise TypeError("`labels` must be given with arrays of inputs; got None")
    if not hasattr(inputs, "__iter__") or hasattr(inputs, "__next__"):
        kind = type(inputs).__name__
        raise TypeError(f"`inputs` must be arrays, or a loader that can be iterated over repeatedly; got {kind}")
    return inputs
