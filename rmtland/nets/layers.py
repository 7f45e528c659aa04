"""What a network's layers tell of its logit gradients: inputs and backpropagated signals instead of J.

A forward pass is recorded once per chunk; one backward pass to the layers' outputs (no weight is differentiated) then
gives the pieces of J_mu^T u_mu for all examples at once: Goodfellow (2015), Efficient per-example gradient
computations; Rochette et al. (2019) and Bu et al. (2022) for convolutions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from rmtland.nets.layer_pieces import EmbeddingPiece, FormedPiece, MatrixPiece, Piece
from rmtland.nets.snapshot import single

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORMALISATIONS = tuple(
    getattr(nn, name)
    for name in ("LayerNorm", "GroupNorm", "RMSNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
    if hasattr(nn, name)
)

KnownLayers = dict[nn.Module, dict[str, str]]
"""Layers to the names of their trainable tensors by role."""


@dataclass
class Use:
    """One call of a layer: where it reads, the output its signals are taken at, and the pieces of its tensors."""

    point: Tensor
    pieces: Callable[[Tensor], dict[str, Piece]]  # signals shaped like the output to pieces by the tensors' names


@dataclass
class Head:
    """The linear layer whose output is the network's: the signals at it are the cotangents themselves."""

    layer: nn.Linear
    weight: Tensor  # (C, a)
    own: dict[str, str]  # the names of its trainable tensors by their roles
    inputs: Tensor  # (..., a), in the graph


class Recording:
    """A forward pass of n examples with every layer's uses, ready for backward passes to them."""

    def __init__(self, outputs: Tensor, uses: list[Use], head: Head | None = None, apart: Collection[str] = ()) -> None:
        self.outputs, self.uses, self.head = outputs, uses, head
        self.apart = set(apart)  # tensors of layers that were called on something else than all examples
        self._below = [use for use in uses if use.point is not outputs]

    def below_head(self) -> Recording:
        """The same with a head's inputs for outputs and without its own use: nothing of the size of its outputs."""
        return self if self.head is None else Recording(self.head.inputs, self._below, self.head)

    def pieces(self, cotangents: Tensor) -> dict[str, list[Piece]]:
        """By tensor: the pieces of J_mu^T u_mu for cotangents like the outputs, one for each use."""
        points = [use.point for use in self.uses]
        signals: tuple[Tensor | None, ...] = (None,) * len(points)
        if self.outputs.requires_grad and points:
            with torch.inference_mode(False):
                signals = torch.autograd.grad(
                    self.outputs, points, cotangents.to(self.outputs.dtype), retain_graph=True, allow_unused=True
                )
        found: dict[str, list[Piece]] = {}
        for use, signal in zip(self.uses, signals, strict=True):
            if signal is not None:
                for name, piece in use.pieces(single(signal)).items():
                    found.setdefault(name, []).append(piece)
        return found


def record(module: nn.Module, names: dict[int, str], forward: Callable[[], Tensor], num_examples: int) -> Recording:
    """Run `forward` and note every use of the layers of `module`.

    `names` maps the ids of the module's own trainable tensors to their names. A layer whose output does not lead with
    the examples is not noted, nor one whose inputs are not a single tensor.
    """
    uses: list[Use] = []
    last: list[tuple[Tensor, Tensor, Head]] = []
    apart: set[str] = set()

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if not _of_all(num_examples, arguments, output):
            apart.update(tensors[layer].values())
            return output
        # A copy goes on, so that an activation in place leaves the point alone.
        point = output if output.requires_grad else output.detach().requires_grad_()
        inputs = arguments[0].detach()
        inputs = single(inputs) if inputs.is_floating_point() else inputs
        uses.append(Use(point, _pieces_of(layer, tensors[layer], inputs)))
        passed_on = point.clone()
        if isinstance(layer, nn.Linear) and _is_plain(layer):
            last[:] = [(passed_on, point, Head(layer, layer.weight.detach(), tensors[layer], arguments[0]))]
        return passed_on

    with contextlib.ExitStack() as stack:
        tensors = known_layers(module, names)
        for layer in tensors:
            stack.callback(layer.register_forward_hook(hook).remove)
        with torch.inference_mode(False), torch.enable_grad():
            outputs = forward()
    # The very tensor, and not written to since: nothing lies between this layer and the outputs.
    is_head = bool(last) and last[0][0] is outputs and outputs._version == 0
    # Its own output in place of the copy, which is one more of the logits' size.
    return Recording(last[0][1], uses, last[0][2], apart) if is_head else Recording(outputs, uses, apart=apart)


@contextlib.contextmanager
def watched(tensors: KnownLayers, num_examples: int) -> Iterator[set[str]]:
    """The tensors of layers that are called on something else than all examples, in the passes meanwhile."""
    apart: set[str] = set()

    def hook(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if not _of_all(num_examples, arguments, output):
            apart.update(tensors[layer].values())

    with contextlib.ExitStack() as stack:
        for layer in tensors:
            stack.callback(layer.register_forward_hook(hook).remove)
        yield apart


def _of_all(num_examples: int, arguments: tuple[Any, ...], output: Any) -> bool:
    """Whether a layer is called on one tensor that leads with the examples, and so does its output."""
    if not (len(arguments) == 1 and isinstance(arguments[0], Tensor) and isinstance(output, Tensor)):
        return False
    return bool(output.shape[:1] == arguments[0].shape[:1] == (num_examples,))


def known_layers(module: nn.Module, names: dict[int, str]) -> KnownLayers:
    """Layers whose pieces are known to the names of their trainable tensors by role."""
    found = {}
    for layer in module.modules():
        own = {role: names[id(p)] for role, p in layer.named_parameters(recurse=False) if id(p) in names}
        if own and _known(layer):
            found[layer] = own
    return found


def _is_plain(layer: nn.Linear) -> bool:
    """Whether the output is W x + b and nothing else, for W and b that are the layer's own tensors."""
    own = layer._parameters.keys() == {"weight", "bias"}  # not so where W is made of others, as normalised weights are
    return own and getattr(layer.forward, "__func__", None) is nn.Linear.forward and len(layer._forward_hooks) == 1


def _known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Embedding):
        return not layer.scale_grad_by_freq and layer.max_norm is None
    return isinstance(layer, (nn.Linear, *CONVOLUTIONS, *NORMALISATIONS))


def _pieces_of(layer: nn.Module, own: dict[str, str], inputs: Tensor) -> Callable[[Tensor], dict[str, Piece]]:
    """From the signals at a layer's output to the pieces of its tensors; what depends on the inputs is kept."""
    if isinstance(layer, nn.Embedding):
        return _embedding(layer, own, inputs)
    if isinstance(layer, nn.Linear):
        return _linear(own, inputs)
    if isinstance(layer, CONVOLUTIONS):
        return _convolution(layer, own, inputs)
    return _normalisation(layer, own, inputs)


def _linear(own: dict[str, str], inputs: Tensor) -> Callable[[Tensor], dict[str, Piece]]:
    columns = inputs.reshape(len(inputs), -1, inputs.shape[-1]).mT[:, None]  # (n, 1, a, P)
    overlaps: dict[str, Tensor] = {}

    def pieces(signals: Tensor) -> dict[str, Piece]:
        signals = signals.reshape(len(signals), -1, signals.shape[-1]).mT  # (n, b, P)
        found: dict[str, Piece] = {}
        if "weight" in own:
            found[own["weight"]] = MatrixPiece(columns, signals[:, None], overlaps)
        if "bias" in own:
            found[own["bias"]] = FormedPiece(signals[..., 0] if signals.shape[2] == 1 else signals.sum(dim=2))
        return found

    return pieces


def _convolution(layer: Any, own: dict[str, str], inputs: Tensor) -> Callable[[Tensor], dict[str, Piece]]:
    overlaps: dict[str, Tensor] = {}
    kept: list[Tensor] = []
    groups = layer.groups

    def patches() -> Tensor:
        """(n, g, a, P), unfolded at first use."""
        if not kept:
            padded = inputs
            mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
            if any(layer._reversed_padding_repeated_twice):
                padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
            kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
            if len(kernel) == 1:
                padded, kernel, dilation, stride = padded[:, :, None], (1, *kernel), (1, *dilation), (1, *stride)
            unfolded = F.unfold(padded, kernel, dilation=dilation, stride=stride)
            kept.append(unfolded.reshape(len(inputs), groups, -1, unfolded.shape[-1]))
        return kept[0]

    def pieces(signals: Tensor) -> dict[str, Piece]:
        found: dict[str, Piece] = {}
        if "weight" in own:
            grouped = signals.reshape(len(signals), groups, signals.shape[1] // groups, -1)
            found[own["weight"]] = MatrixPiece(patches(), grouped, overlaps)
        if "bias" in own:
            found[own["bias"]] = FormedPiece(signals.flatten(2).sum(dim=2))
        return found

    return pieces


def _embedding(layer: nn.Embedding, own: dict[str, str], inputs: Tensor) -> Callable[[Tensor], dict[str, Piece]]:
    indices = inputs.reshape(len(inputs), -1)

    def pieces(signals: Tensor) -> dict[str, Piece]:
        signals = signals.reshape(len(signals), -1, signals.shape[-1]).mT  # (n, e, P)
        if layer.padding_idx is not None:
            signals = signals * (indices != layer.padding_idx)[:, None, :]
        piece = EmbeddingPiece(indices, signals, layer.num_embeddings)
        return {own["weight"]: piece} if "weight" in own else {}  # of a subclass with others

    return pieces


def _normalisation(layer: Any, own: dict[str, str], inputs: Tensor) -> Callable[[Tensor], dict[str, Piece]]:
    """Y = weight * x^ + bias: x^ is the layer's output at weight 1 and bias 0."""
    neutral = {
        role: torch.full_like(p, role == "weight", dtype=inputs.dtype)
        for role, p in layer.named_parameters(recurse=False)
    }
    buffers = {n: b.to(inputs.dtype) for n, b in layer.named_buffers(recurse=False) if b.is_floating_point()}
    with torch.no_grad():
        tensors = {f"layer.{name}": tensor for name, tensor in (neutral | buffers).items()}
        normalised = functional_call(_Bare(layer), tensors, (inputs,))
    shape = next(iter(neutral.values())).shape
    by_channel = not isinstance(layer, tuple(t for t in NORMALISATIONS if t.__name__ in ("LayerNorm", "RMSNorm")))

    def over_examples(values: Tensor) -> FormedPiece:
        if by_channel:
            return FormedPiece(values.flatten(2).sum(dim=2) if values.ndim > 2 else values)
        return FormedPiece(values.reshape(len(values), -1, shape.numel()).sum(dim=1))

    def pieces(signals: Tensor) -> dict[str, Piece]:
        found: dict[str, Piece] = {}
        if "weight" in own:
            found[own["weight"]] = over_examples(signals * normalised)
        if "bias" in own:
            found[own["bias"]] = over_examples(signals)
        return found

    return pieces


class _Bare(nn.Module):
    """A layer's forward without its hooks."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Any:
        return self.layer.forward(inputs)
