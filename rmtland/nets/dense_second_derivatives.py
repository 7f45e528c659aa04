"""A small network's Hessian as a matrix, by what linear layers make of it rather than column by column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations, combinations_with_replacement
from typing import Any

import torch
from torch import Tensor, nn

from rmtland.logits.accumulate import checked_chunks
from rmtland.logits.gradients import example_slices
from rmtland.nets.backward import Backward
from rmtland.nets.chunks import NetworkChunk, Slope
from rmtland.nets.gradients import NetworkLogitGradients

WORK_BYTES = 2**24
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
            if not arguments:  # called by keyword
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
    # In the order of the forward pass: no layer's inputs depend on a later one's outputs.
    used = [n for n in passed.inputs if n not in passed.repeated and passed.inputs[n].ndim == 2]
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
    source: NetworkLogitGradients, slope: SlopeOf, columns: Callable[[Tensor], Tensor], decay: float = 0.0
) -> Tensor:
    """The sum over examples of the second derivative of the loss (or of what else `slope` differentiates), (D, D).

    For two linear layers with inputs a, outputs s and ds = dl/ds, the second (') not before the first,

        d2l / dW_ij dW'_kq = a_j (a'_q d2l / ds_i ds'_k + ds'_k da'_q / ds_i)

    an example: products summed over examples by one matrix product, in place of a backward pass for each of their
    parameters. All other parameters are multiplied column by column.

    Parameters
    ----------
    source : NetworkLogitGradients
    slope : callable
        Of a chunk, the cotangents of its outputs.
    columns : callable
        The products with a block (D, k), for parameters of other layers.
    decay : float
        What these have on the diagonal beside the derivative.
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
                        some = block[:, these, :, those]
                        matrix[rows, columns_of].view(some.shape).copy_(some)
                        if rows != columns_of:
                            matrix[columns_of, rows] = matrix[rows, columns_of].T
        known = matrix.diagonal()
        known += decay * ~rest
        return matrix


def _blocks(
    source: NetworkLogitGradients, slope: SlopeOf, layers: list[_Layer]
) -> Iterator[tuple[_Layer, _Layer, Tensor]]:
    """Two layers and the block of their parameters, (outputs, inputs, outputs', inputs'), for each pair."""
    sums = _Sums([(layer.outputs, layer.inputs) for layer in layers])
    few = max(1, WORK_BYTES // (sums.largest * source.network.vector.element_size()))
    chunk: Any
    for chunk in checked_chunks(source):
        for part in example_slices(chunk.num_inputs, few):
            _add_examples(sums, NetworkChunk(chunk.plan, chunk._batch.cut(part)), slope, layers)
    for one, other in combinations_with_replacement(range(len(layers)), 2):
        yield layers[one], layers[other], source.reduce(sums.block(one, other))


class _Sums:
    """Sums over examples for each pair of layers, each a matrix product of what the two give."""

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        self.shapes = shapes  # (outputs, inputs) of each layer
        self._sums: dict[tuple[int, int], Tensor] = {}

    @property
    def largest(self) -> int:
        """Numbers that an example's part of the largest product takes."""
        pairs = [o * p * q for (o, _), (p, q) in combinations(self.shapes, 2)]
        return max([*pairs, *((o * (o + 1) + i * (i + 1)) // 2 for o, i in self.shapes)])

    def add_within(self, layer: int, second: Tensor, a: Tensor) -> None:
        """a_j a_q d2l/ds_i ds_k: symmetric in i and k, and in j and q, half of each."""
        i, k = torch.triu_indices(*second.shape[1:], device=second.device)
        j, q = torch.triu_indices(a.shape[1], a.shape[1], device=a.device)
        self._add((layer, layer), second[:, i, k], a[:, j] * a[:, q])

    def add_between(self, one: int, other: int, a: Tensor, rest: Tensor) -> None:
        """a_j times what else there is, `rest` (n, outputs, outputs', inputs')."""
        self._add((one, other), a, rest.flatten(1))

    def _add(self, key: tuple[int, int], left: Tensor, right: Tensor) -> None:
        if key in self._sums:
            self._sums[key].addmm_(left.T, right)
        else:
            self._sums[key] = left.T @ right

    def block(self, one: int, other: int) -> Tensor:
        """(outputs, inputs, outputs', inputs')."""
        (o, i), (p, q) = self.shapes[one], self.shapes[other]
        total = self._sums.pop((one, other))
        if one != other:
            return total.reshape(i, o, p, q).transpose(0, 1)
        return total[_symmetric(o, total.device)][:, :, _symmetric(i, total.device)].permute(0, 2, 1, 3)


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
    derivatives: list[
        list[Tensor]
    ] = []  # of each layer's inputs in the outputs of those before it, (inputs, n, outputs)
    for other, (a, layer) in enumerate(zip(inputs, layers, strict=True)):
        passed_on = a.requires_grad and layer.with_weight
        derivatives.append(Backward([a], added[:other], row_bytes)([_units(a)]) if other and passed_on else [])
    for one in range(len(layers)):
        seconds = Backward([slopes[one]], added[one:], row_bytes)([_units(slopes[one])])
        sums.add_within(one, seconds[0].transpose(0, 1), padded[one])
        for other in range(one + 1, len(layers)):
            second = seconds[other - one].transpose(0, 1).contiguous()  # else what comes of it is copied once more
            rest = second[..., None] * padded[other][:, None, None, :]
            if derivatives[other]:
                derivative = derivatives[other][one]
                slope_of = slopes[other].detach()[:, None, :, None]
                rest[..., : len(derivative)].addcmul_(slope_of, derivative.permute(1, 2, 0).contiguous()[:, :, None, :])
            sums.add_between(one, other, padded[one], rest)


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
