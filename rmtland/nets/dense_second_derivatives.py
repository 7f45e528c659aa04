"""A small network's Hessian as a matrix, by what linear layers make of it rather than column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor, nn

from rmtland.logits.accumulate import checked_chunks
from rmtland.logits.gradients import example_slices
from rmtland.nets.backward import Backward
from rmtland.nets.chunks import NetworkChunk, Slope
from rmtland.nets.gradients import NetworkLogitGradients

WORK_BYTES = 2**26
"""Memory for what a few examples contribute."""

SlopeOf = Callable[[NetworkChunk], Slope]


@dataclass(frozen=True)
class _Layer:
    """A linear layer of the network: its name, and the place of each weight and bias in the parameter vector."""

    name: str
    outputs: int
    parts: tuple[tuple[slice, slice], ...]  # place in the parameter vector, columns of (outputs, inputs + 1)
    with_weight: bool
    with_bias: bool

    @property
    def inputs(self) -> int:
        """One more for a bias."""
        return int(self.parts[-1][1].stop)


@dataclass
class _Passed:
    """One forward pass with something added to each layer's outputs s: the inputs a, and what was added."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    added: dict[str, Tensor] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)


def _run(chunk: NetworkChunk, names: list[str], parameters: dict[str, Tensor]) -> tuple[Tensor, _Passed]:
    """Outputs as a graph over zeros added to the outputs of each named layer."""
    passed = _Passed()

    def hook(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def add(_: nn.Module, arguments: Any, outputs: Tensor) -> Tensor:
            if name in passed.inputs:
                passed.repeated.add(name)
                return outputs
            passed.inputs[name] = arguments[0]
            passed.added[name] = torch.zeros_like(outputs, requires_grad=True)
            return outputs + passed.added[name]

        return add

    modules = dict(chunk.network.module.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in names]
    try:
        with torch.enable_grad():
            return chunk.flat_outputs(parameters), passed
    finally:
        for handle in handles:
            handle.remove()


def linear_layers(chunk: NetworkChunk) -> list[_Layer]:
    """Layers W a + b that each example passes once and whose parameters serve nothing else.

    That is seen, not assumed: sum_mu ds (x) a must be all of the parameters' gradient.
    """
    network = chunk.network
    names = [n for n, m in network.module.named_modules() if type(m) is nn.Linear]
    outputs, passed = _run(chunk, names, network.leaves)
    if not outputs.requires_grad:
        return []
    cotangents = torch.ones_like(outputs).cumsum(dim=1)
    used = [n for n in names if n in passed.inputs and n not in passed.repeated and passed.inputs[n].ndim == 2]
    used = [n for n in used if passed.inputs[n].shape[0] == outputs.shape[0]]
    added = [passed.added[n] for n in used]
    leaves = list(network.leaves.values())
    try:
        found = torch.autograd.grad(outputs, [*added, *leaves], cotangents, materialize_grads=True)
    except RuntimeError:  # gradient checkpointing runs layers again, and does not find them as it left them
        return []
    signals, gradients = (
        dict(zip(used, found, strict=False)),
        dict(zip(network.leaves, found[len(used) :], strict=True)),
    )
    layers = []
    for name in used:
        a, s = passed.inputs[name], signals[name]
        prefix = f"{name}." if name else ""
        names_of, parts, good, width = (f"{prefix}weight", f"{prefix}bias"), [], True, 0
        for part, expected in zip(names_of, (s.T @ a, s.sum(dim=0)), strict=True):
            if part in gradients:
                tolerance = 1e3 * torch.finfo(s.dtype).eps * float(expected.detach().abs().max())
                good &= bool((gradients[part] - expected).abs().max() <= tolerance)
                start, width = width, width + (a.shape[1] if part == names_of[0] else 1)
                parts.append((network.groups[part], slice(start, width)))
        if good and parts:
            layers.append(_Layer(name, s.shape[1], tuple(parts), names_of[0] in gradients, names_of[1] in gradients))
    return layers


def dense_second_derivative(
    source: NetworkLogitGradients, slope: SlopeOf, columns: Callable[[Tensor], Tensor]
) -> Tensor:
    """The sum over examples of the second derivative of the loss (or of what else `slope` differentiates), (D, D).

    For two linear layers with inputs a, outputs s and ds = dl/ds,

        d2l / dW_ij dW'_kq = a_j a'_q d2l / ds_i ds'_k + ds'_k a_j da'_q / ds_i + ds_i a'_q da_j / ds'_k

    an example: products of small matrices summed over examples by one matrix product, in place of a backward pass for
    each of their parameters. All other parameters are multiplied column by column.

    Parameters
    ----------
    source : NetworkLogitGradients
    slope : callable
        Of a chunk, the cotangents of its outputs.
    columns : callable
        The products with a block (D, k), for parameters of other layers.
    """
    first: Any = next(iter(source.chunks()))
    with torch.inference_mode(False):
        few = next(iter(NetworkChunk(first.plan, first._batch.cut(slice(0, 4))).blocks()))
        layers = linear_layers(few) if source.independent else []
        size = source.num_parameters
        matrix = source.prototype.new_empty((size, size))  # every block of it is written below
        rest = torch.ones(size, dtype=torch.bool, device=matrix.device)
        for place, _ in (part for layer in layers for part in layer.parts):
            rest[place] = False
        for index in torch.split(torch.nonzero(rest)[:, 0], max(1, WORK_BYTES // (8 * size))):
            units = matrix.new_zeros((size, index.shape[0]))
            units[index, torch.arange(index.shape[0], device=index.device)] = 1
            products = columns(units)
            matrix[:, index], matrix[index] = products, products.T
        others = torch.nonzero(rest)[:, 0]
        among = matrix[others[:, None], others]
        matrix[others[:, None], others] = (among + among.T) / 2
        if layers:
            for one, other, block in _blocks(source, slope, layers):
                for rows, these in one.parts:
                    for columns_of, those in other.parts:
                        some = block[:, these, :, those].reshape(rows.stop - rows.start, -1)
                        matrix[rows, columns_of], matrix[columns_of, rows] = some, some.T
        return matrix


def _blocks(
    source: NetworkLogitGradients, slope: SlopeOf, layers: list[_Layer]
) -> Iterator[tuple[_Layer, _Layer, Tensor]]:
    """Two layers and the block of their parameters, (outputs, inputs, outputs', inputs'), for each pair."""
    sums = _Sums([(layer.outputs, layer.inputs) for layer in layers])
    numbers = sum(shape[0] + shape[1] for shape in sums.shapes) ** 2
    few = max(1, WORK_BYTES // (numbers * source.network.vector.element_size()))
    chunk: Any
    for chunk in checked_chunks(source):
        for part in example_slices(chunk.num_inputs, few):
            _add_examples(sums, NetworkChunk(chunk.plan, chunk._batch.cut(part)), slope, layers)
    for one, other in combinations_with_replacement(range(len(layers)), 2):
        yield layers[one], layers[other], source.reduce(sums.block(one, other))


class _Sums:
    """Sums over examples of the three terms, each a matrix product of what two layers give."""

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        self.shapes = shapes  # (outputs, inputs) of each layer
        self._curved: dict[tuple[int, int], Tensor] = {}
        self._passed_on: dict[tuple[int, int], Tensor] = {}

    def add_curvature(self, one: int, other: int, second: Tensor, a: Tensor, b: Tensor) -> None:
        """a_j b_q d2l/ds_i ds'_k: `second` (n, outputs, outputs'), a and b the layers' inputs."""
        if one == other:  # symmetric in i and k, and in j and q: half of each
            i, k = torch.triu_indices(*second.shape[1:], device=second.device)
            j, q = torch.triu_indices(a.shape[1], a.shape[1], device=a.device)
            self._add(self._curved, (one, other), second[:, i, k], a[:, j] * a[:, q])
            return
        right = (a[:, :, None] * b[:, None, :]).flatten(1)
        self._add(self._curved, (one, other), second.flatten(1), right)

    def add_passed_on(self, up: int, down: int, slopes: Tensor, a: Tensor, derivative: Tensor) -> None:
        """ds'_k a_j da'_q/ds_i: `derivative` (n, inputs of the layer below, outputs of the one above)."""
        left = (slopes[:, :, None] * a[:, None, :]).flatten(1)
        self._add(self._passed_on, (up, down), left, derivative.flatten(1))

    def _add(self, sums: dict[tuple[int, int], Tensor], key: tuple[int, int], left: Tensor, right: Tensor) -> None:
        if key in sums:
            sums[key].addmm_(left.T, right)
        else:
            sums[key] = left.T @ right

    def block(self, one: int, other: int) -> Tensor:
        """(outputs, inputs, outputs', inputs')."""
        (o, i), (p, q) = self.shapes[one], self.shapes[other]
        total = self._curved.pop((one, other))
        if one == other:
            whole = total[_symmetric(o, total.device)][:, :, _symmetric(i, total.device)]
        else:
            whole = total.reshape(o, p, i, q)
        block = whole.permute(0, 2, 1, 3)
        if (one, other) in self._passed_on:  # (outputs', inputs | inputs', outputs)
            block = block + self._passed_on.pop((one, other)).reshape(p, i, q, o).permute(3, 1, 0, 2)
        if (other, one) in self._passed_on:  # (outputs, inputs' | inputs, outputs')
            block = block + self._passed_on.pop((other, one)).reshape(o, q, i, p).permute(0, 2, 3, 1)
        return block


def _symmetric(size: int, device: torch.device) -> Tensor:
    """Where each entry of a symmetric matrix lies among those of its upper triangle, (size, size)."""
    rows, columns = torch.triu_indices(size, size, device=device)
    place = torch.empty((size, size), dtype=torch.int64, device=device)
    place[rows, columns] = place[columns, rows] = torch.arange(len(rows), device=device)
    return place


def _add_examples(sums: _Sums, chunk: NetworkChunk, slope: SlopeOf, layers: list[_Layer]) -> None:
    outputs, passed = _run(chunk, [layer.name for layer in layers], chunk.network.parameters)
    added = [passed.added[layer.name] for layer in layers]
    inputs = [passed.inputs[layer.name] for layer in layers]
    with torch.enable_grad():
        slopes = torch.autograd.grad(outputs, added, slope(chunk)(outputs), create_graph=True, materialize_grads=True)
    padded = [_padded(a.detach(), layer) for a, layer in zip(inputs, layers, strict=True)]
    row_bytes = chunk._bytes("forward", "second")
    for one in range(len(layers)):
        seconds = Backward([slopes[one]], added[one:], row_bytes)([_units(slopes[one])])
        for other, second in enumerate(seconds, start=one):
            sums.add_curvature(one, other, second.transpose(0, 1), padded[one], padded[other])
        if not inputs[one].requires_grad:
            continue
        derivatives = Backward([inputs[one]], added, row_bytes)([_units(inputs[one])])
        for up, derivative in enumerate(derivatives):
            if up != one:
                filled = derivative.new_zeros((derivative.shape[1], padded[one].shape[1], derivative.shape[2]))
                if layers[one].with_weight:
                    filled[:, : derivative.shape[0]] = derivative.transpose(0, 1)
                sums.add_passed_on(up, one, slopes[one].detach(), padded[up], filled)


def _units(values: Tensor) -> Tensor:
    """Cotangents of values (n, d) that single out each of the d for all examples at once, (d, n, d)."""
    n, d = values.shape
    return torch.eye(d, dtype=values.dtype, device=values.device)[:, None].expand(d, n, d).contiguous()


def _padded(inputs: Tensor, layer: _Layer) -> Tensor:
    """A layer's inputs, with a column of ones for its bias."""
    parts = [inputs] if layer.with_weight else []
    if layer.with_bias:
        parts.append(torch.ones_like(inputs[:, :1]))
    return torch.cat(parts, dim=1)
