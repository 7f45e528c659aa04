"""Networks, inputs and outputs beyond a tensor in and (n, C) out, against plain autograd."""

from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import rmtland as rl
from rmtland.nets import NetworkLogitGradients
from rmtland.nets.checkpointing import without_reentrant
from tests.nets.networks import flat, trainable

N, C = 11, 3
Y = torch.arange(N) % C


def dense(outputs, parameters):
    """(n, C, D) by one backward pass for each output."""
    rows = [
        flat(torch.autograd.grad(z, parameters, retain_graph=True, allow_unused=True), parameters)
        for z in outputs.reshape(-1)
    ]
    return torch.stack(rows).reshape(*outputs.shape, -1)


def second(loss, parameters):
    """Gradient (D,) and Hessian (D, D) by double backward passes."""
    slope = flat(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True), parameters)
    again = {"retain_graph": True, "materialize_grads": True}
    rows = [flat(torch.autograd.grad(g, parameters, **again), parameters) for g in slope]
    return slope.detach(), torch.stack(rows)


def joined(source):
    return torch.cat([block.dense() for chunk in source.chunks() for block in chunk.blocks()])


def check(source, outputs, loss, parameters):
    """Logit gradients, gradient, both parts of the Hessian, as products and as matrices."""
    torch.testing.assert_close(joined(source), dense(outputs, parameters))
    slope, matrix = second(loss, parameters)
    torch.testing.assert_close(rl.gradient(source), slope)
    torch.manual_seed(5)
    v = torch.randn(len(slope), 3, dtype=torch.float64)
    hessian, gauss, curvature = rl.nets.hessian(source), rl.gauss_newton(source), rl.nets.logit_curvature(source)
    for _ in range(2):  # recorded, and read again
        torch.testing.assert_close(hessian @ v, matrix @ v)
        torch.testing.assert_close(gauss @ v + curvature @ v, matrix @ v)
    np.testing.assert_allclose(hessian.to_dense(), matrix, atol=1e-12)
    np.testing.assert_allclose(gauss.to_dense() + curvature.to_dense(), matrix, atol=1e-12)


class Language(nn.Module):
    def __init__(self, vocabulary=7):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 3)
        self.cell = nn.GRU(3, 3, batch_first=True)
        self.head = nn.Linear(3, vocabulary)

    def forward(self, x):
        return self.head(self.cell(self.embed(x))[0])


@pytest.mark.parametrize(("chunk_size", "weighted"), [(1, False), (3, True), (12, False), (100, True)])
def test_tokens_are_examples_and_padding_is_none(chunk_size, weighted):
    torch.manual_seed(0)
    module = Language().double()
    x, y = torch.randint(7, (6, 5)), torch.randint(7, (6, 5))
    y[0], y[3, 2:] = -100, -100  # a sequence of nothing but padding, and the end of another
    weights = torch.rand(6, dtype=torch.float64) + 0.1 if weighted else None
    source = NetworkLogitGradients(
        module, x, y, nn.CrossEntropyLoss(), chunk_size=chunk_size, batch_size=2, weights=weights
    )
    kept = (y != -100).reshape(-1)
    assert source.num_examples == int(kept.sum()) == 22
    assert max(b.labels.shape[0] for c in source.chunks() for b in c.blocks()) <= chunk_size
    outputs = module(x).reshape(-1, 7)
    each = F.cross_entropy(outputs, y.reshape(-1), reduction="none")
    w = torch.ones(30).double() if weights is None else weights.repeat_interleave(5)
    check(source, outputs[kept], (w * each)[kept].sum() / w[kept].sum(), trainable(module))


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_tokens_with_soft_targets_and_weights_of_sequences_or_tokens(shape):
    torch.manual_seed(0)
    module, x = Language(4).double(), torch.randint(4, (3, 4))
    y, weights = torch.rand(3, 4, 4).double().softmax(2), torch.rand(*shape).double()
    source = NetworkLogitGradients(module, x, y, nn.CrossEntropyLoss(), weights=weights)
    outputs = module(x).reshape(-1, 4)
    each = -(y.reshape(-1, 4) * outputs.log_softmax(1)).sum(dim=1)
    w = weights.reshape(-1) if len(shape) == 2 else weights.repeat_interleave(4)
    check(source, outputs, (w * each).sum() / w.sum(), trainable(module))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # Sequences have 0, 5, 5, 2, 5 and 5 examples: whole ones together while they fit, as they do on average.
        (22, [(6, 22)]),
        (11, [(3, 10), (3, 11), (3, 1)]),
        (10, [(2, 5), (2, 7), (2, 10)]),
        (3, [(1, 3), (1, 2), (1, 3), (1, 2), (1, 2), (1, 3), (1, 2), (1, 3), (1, 2)]),
        (1, [(1, 1)] * 22),
        (0, [(1, 1)] * 22),
    ],
)
def test_pieces_of_tokens_are_whole_sequences_or_parts_of_one(size, expected):
    module, x, y = Language().double(), torch.randint(7, (6, 5)), torch.randint(7, (6, 5))
    y[0], y[3, 2:] = -100, -100
    source = NetworkLogitGradients(module, x, y, nn.CrossEntropyLoss(), chunk_size=100, batch_size=6)
    (chunk,) = source.chunks()
    pieces = list(chunk.pieces(size))
    assert [(piece.num_inputs, len(piece.labels)) for piece in pieces] == expected
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), y[y != -100])
    part = chunk.cut(slice(3, 9))
    assert torch.equal(part.labels, y[y != -100][3:9])
    assert torch.equal(part.cut(slice(1, 3)).labels, y[y != -100][4:6])


def test_tokens_from_a_loader_with_class_weights():
    torch.manual_seed(0)
    module = Language(4).double()
    x, y = torch.randint(4, (7, 3)), torch.randint(4, (7, 3))
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=1)
    for budget in (0, 2**30):
        source = NetworkLogitGradients(
            module, DataLoader(TensorDataset(x, y), batch_size=3), loss=loss, memory_budget=budget
        )
        kept = (y != 1).reshape(-1)
        outputs = module(x).reshape(-1, 4)
        check(source, outputs[kept], loss(outputs, y.reshape(-1)), trainable(module))


class Two(nn.Module):
    """Two inputs: numbers, and which of several tables they belong to."""

    def __init__(self):
        super().__init__()
        self.a, self.table, self.head = nn.Linear(4, 5), nn.Embedding(3, 5), nn.Linear(5, C)

    def forward(self, numbers, kind):
        return self.head(torch.tanh(self.a(numbers) + self.table(kind)))


@pytest.mark.parametrize("form", ["tuple", "dict", "mapping", "loader", "unpacked", "forward"])
@pytest.mark.parametrize("memory_budget", [0, 2**30])
def test_inputs_of_several_tensors(form, memory_budget):
    torch.manual_seed(0)
    module = Two().double()
    x, kind, w = torch.randn(N, 4).double(), torch.arange(N) % 3, torch.rand(N).double() + 0.1
    options = {"batch_size": 4, "memory_budget": memory_budget}
    if form == "tuple":
        source = NetworkLogitGradients(module, (x, kind.numpy()), Y, weights=w, **options)
    elif form in ("dict", "mapping"):  # what tokenisers return is a UserDict
        kinds = {"dict": dict, "mapping": UserDict}[form]
        source = NetworkLogitGradients(module, kinds(numbers=x, kind=kind), Y, weights=w, **options)
    elif form == "loader":
        w = torch.ones(N).double()
        source = NetworkLogitGradients(module, [((x[:7], kind[:7]), Y[:7]), ((x[7:], kind[7:]), Y[7:])], **options)
    elif form == "unpacked":
        loader = DataLoader(TensorDataset(x, kind, Y, w), batch_size=3, shuffle=True)
        source = NetworkLogitGradients(module, loader, unpack=lambda b: ((b[0], b[1]), b[2], b[3]), **options)
        order = torch.argsort(torch.cat([c.inputs[0] for c in source.chunks()])[:, 0])
        assert len(order) == N
    else:
        source = NetworkLogitGradients(
            module, {"x": x, "k": kind}, Y, weights=w, forward=lambda m, b: m(b["x"], b["k"]), **options
        )
    outputs = module(x, kind)
    loss = (w * F.cross_entropy(outputs, Y, reduction="none")).sum() / w.sum()
    if form == "unpacked":  # in an order of its own
        torch.testing.assert_close(rl.gradient(source), second(loss, trainable(module))[0])
    else:
        check(source, outputs, loss, trainable(module))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, C)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.head(self.cell(packed)[1][0][-1])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, C)

    def forward(self, x):
        return self.b(checkpoint(lambda t: torch.tanh(self.a(t)), x, use_reentrant=False))


class Reentrant(Checkpointed):
    """Checkpointed in the way that torch takes by default, its first segment too, whose inputs have no gradient."""

    def forward(self, x):
        inner = checkpoint(lambda t: torch.tanh(self.a(t)), x, use_reentrant=True)
        return checkpoint(self.b, inner, use_reentrant=True)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 2 * x * cotangent


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, C)

    def forward(self, x):
        return self.b(Square.apply(self.a(x)))


class Counting(nn.Module):
    """Writes to a buffer of its own, and depends on it."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, C)
        self.register_buffer("calls", torch.ones(()))

    def forward(self, x):
        self.calls += 1
        return self.a(x) * self.calls


class Differentiating(nn.Module):
    """Whose hidden layer is a derivative in the inputs, as of an energy."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, C)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(torch.tanh(self.a(x)).sum(), x, create_graph=True)
        return self.b(slope)


class Locked(Custom):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.handle = (i for i in range(3))


class Reused(nn.Module):
    """A layer passed twice, one whose weight serves again, biases and weights frozen, a norm, a residual."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, C)
        self.c.bias.requires_grad_(False)
        self.d.weight.requires_grad_(False)

    def forward(self, x):
        x = torch.tanh(self.a(torch.tanh(self.a(x))))
        x = self.b(x) @ self.b.weight
        return self.head(self.norm(x + self.d(torch.tanh(self.c(x)))))


@pytest.mark.parametrize("kind", [Packed, Checkpointed, Reentrant, Custom, Counting, Differentiating, Locked, Reused])
def test_modules_that_functional_transforms_do_not_take(kind):
    torch.manual_seed(0)
    module = kind().double()
    x = torch.randn(N, 4).double()
    inputs = (x,) if kind is not Packed else (torch.randn(N, 5, 4).double(), 1 + torch.arange(N) % 5)
    source = NetworkLogitGradients(module, inputs, Y, batch_size=4)
    if kind is Counting:
        assert float(module.calls) == 1
    state = {n: t.clone() for n, t in module.state_dict().items()}
    twin = (Checkpointed if kind is Reentrant else kind)().double()
    twin.load_state_dict(state)
    outputs = twin(*inputs)
    check(source, outputs, F.cross_entropy(outputs, Y), trainable(twin))
    assert all(torch.equal(t, state[n]) for n, t in module.state_dict().items())


def test_reentrant_checkpoints_are_replaced_until_the_last_is_done_with():
    own = torch.utils.checkpoint.CheckpointFunction
    with without_reentrant():
        replaced = torch.utils.checkpoint.CheckpointFunction
        with without_reentrant():
            pass
        assert torch.utils.checkpoint.CheckpointFunction is replaced
        assert replaced is not own
    assert torch.utils.checkpoint.CheckpointFunction is own


def test_packed_sequences_are_packed_by_the_network():
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    with pytest.raises(TypeError, match=r"`inputs` must be padded sequences .* got PackedSequence"):
        NetworkLogitGradients(Packed(), packed, Y[:2])


def test_a_network_that_writes_over_what_it_was_trained_on_is_measured_as_it_was():
    torch.manual_seed(0)
    module, x = Checkpointed().double(), torch.randn(N, 4).double()
    source = NetworkLogitGradients(module, x, Y)
    v = torch.ones(source.num_parameters, dtype=torch.float64)
    before = rl.nets.hessian(source) @ v
    with torch.no_grad():
        for p in module.parameters():
            p += 1
    torch.testing.assert_close(rl.nets.hessian(source) @ v, before)


def test_images_in_bytes():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, C)).double()
    x = torch.randint(0, 256, (N, 1, 6, 6), dtype=torch.uint8)
    source = NetworkLogitGradients(module, x, Y, forward=lambda m, images: m(images / 255), batch_size=4)
    outputs = module(x.double() / 255)
    check(source, outputs, F.cross_entropy(outputs, Y), trainable(module))
    assert next(source.chunks())._batch.inputs.dtype == torch.uint8  # kept in bytes


def test_a_frozen_backbone_in_half_precision_under_a_head_in_single():
    torch.manual_seed(0)
    module = nn.ModuleDict({"body": nn.Linear(4, 8).half().requires_grad_(False), "head": nn.Linear(8, C)})
    forward = lambda m, x: m["head"](torch.relu(m["body"](x)).float())  # noqa: E731
    x = torch.randn(N, 4)
    source = NetworkLogitGradients(module, x, Y, forward=forward)
    outputs = forward(module, x.half())
    torch.testing.assert_close(joined(source), dense(outputs, trainable(module)), atol=2e-3, rtol=0)
    slope, matrix = second(F.cross_entropy(outputs, Y), trainable(module))
    torch.testing.assert_close(rl.gradient(source), slope, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), matrix, atol=1e-5)


def test_bfloat16_throughout():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, C)).bfloat16()
    x, y = torch.randn(40, 10), torch.arange(40) % C
    half = NetworkLogitGradients(module, x, y, batch_size=7)
    single = NetworkLogitGradients(module.float(), x.bfloat16(), y)
    from scipy.sparse.linalg import eigsh

    for operator in (rl.gauss_newton, rl.nets.hessian):
        mine, exact = operator(half), operator(single)
        assert mine.dtype == torch.float32
        np.testing.assert_allclose(eigsh(mine.to_scipy(), k=2)[0], eigsh(exact.to_scipy(), k=2)[0], rtol=0.02)
        np.testing.assert_allclose(mine.to_dense(), exact.to_dense(), atol=0.01)
    assert rl.clustering(half).same_logit == pytest.approx(rl.clustering(single).same_logit, rel=0.02)
    assert rl.logit_scales(half).snr == pytest.approx(rl.logit_scales(single).snr, rel=0.05)
    np.testing.assert_allclose(rl.gauss_newton_spectrum(half).trace, rl.gauss_newton_spectrum(single).trace, rtol=0.02)


def test_inference_mode_makes_no_difference():
    torch.manual_seed(0)
    with torch.inference_mode():
        module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, C)).double()
        x, y = torch.randn(N, 4).double(), torch.arange(N) % C
        source = NetworkLogitGradients(module, x, y)
        v = torch.ones(source.num_parameters, dtype=torch.float64)
        inside = [rl.nets.hessian(source) @ v, rl.gauss_newton(source) @ v, rl.gradient(source)]
        matrix = rl.nets.hessian(source).to_dense()
        rl.clustering(source)
    outside = [rl.nets.hessian(source) @ v, rl.gauss_newton(source) @ v, rl.gradient(source)]
    for a, b in zip(inside, outside, strict=True):
        torch.testing.assert_close(a.clone(), b.clone())
    chunk = next(source.chunks())
    for product in (chunk.logits, chunk.jvp(v[:, None]), chunk.vjp(chunk.logits[..., None]), chunk.dense()):
        assert not product.is_inference()
    np.testing.assert_allclose(matrix @ v.numpy(), inside[0].numpy(), atol=1e-12)
