"""Networks whose second derivatives torch does not have, gets wrong, or has only in another form."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

import rmtland as rl
from rmtland.nets import NetworkLogitGradients, twice
from tests.nets.networks import C, N
from tests.nets.test_any_network import Square, check

Y = torch.arange(N) % C


def data(seed=0):
    return torch.randn(N, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Between(nn.Module):
    """Something between two layers."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(4, 5), nn.Linear(5, C), function
        self.double()

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def by_differences(module, x, vector, step=1e-6):
    """The Hessian's product as a central difference of gradients, which no second derivative enters."""

    def slope(sign):
        parts, start = {}, 0
        for name, p in module.named_parameters():
            moved = p.detach() + sign * step * vector[start : start + p.numel()].view_as(p)
            parts[name], start = moved.requires_grad_(), start + p.numel()
        loss = F.cross_entropy(functional_call(module, parts, (x,)), Y)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(parts.values()))])

    return (slope(1) - slope(-1)) / (2 * step)


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@pytest.mark.parametrize("kind", [nn.utils.parametrizations.weight_norm, old_weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_normalisation(kind, dim):
    torch.manual_seed(0)
    norm = kind if dim == 0 else lambda layer: nn.utils.parametrizations.weight_norm(layer, dim=dim)
    module, x = nn.Sequential(norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, C)).double(), data()
    source = NetworkLogitGradients(module, x, Y, batch_size=4)
    v = torch.randn(source.num_parameters, dtype=torch.float64)
    expected = by_differences(module, x, v)
    for _ in range(2):
        torch.testing.assert_close(rl.nets.hessian(source) @ v, expected, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(rl.gauss_newton(source) @ v + rl.nets.logit_curvature(source) @ v, expected,
                               atol=1e-8, rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense() @ v.numpy(), expected, atol=1e-8)


class Once(Square):
    backward = staticmethod(once_differentiable(Square.backward))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.EmbeddingBag(7, 4), nn.Linear(4, C)

    def forward(self, x):
        return self.head(torch.tanh(self.table(x)))


class Plain(Bag):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 4, _weight=self.table.weight.data)

    def forward(self, x):
        return self.head(torch.tanh(self.table(x).mean(dim=1)))


@pytest.mark.parametrize(
    ("module", "twin", "reason"),
    [
        (Between(Once.apply), Between(torch.square), "the backward of Once is once_differentiable"),
        (Bag(), Plain(), "torch says: the derivative for '_embedding_bag_backward' is not implemented"),
    ],
)
def test_networks_that_are_differentiable_once(module, twin, reason):
    x = data() if isinstance(module, Between) else torch.arange(3 * N).reshape(N, 3) % 7
    source, other = NetworkLogitGradients(module, x, Y), NetworkLogitGradients(twin, x, Y)
    ones = torch.ones(source.num_parameters, dtype=source.prototype.dtype)
    message = f"`module` must be differentiable twice for this product; {reason}"
    for operator in (rl.nets.hessian, rl.nets.logit_curvature, rl.gauss_newton):
        with pytest.raises(ValueError, match=message):
            operator(source) @ ones
        with pytest.raises(ValueError, match=message):
            operator(source).to_dense()
    torch.testing.assert_close(rl.gradient(source), rl.gradient(other))
    assert rl.clustering(source).same_logit == pytest.approx(rl.clustering(other).same_logit, rel=1e-5)
    spectrum, expected = (rl.gauss_newton_spectrum(s).eigenvalues for s in (source, other))
    np.testing.assert_allclose(spectrum, expected, atol=1e-6 * expected[-1])


class Normalised(nn.Module):
    """By an operation whose second derivative is wrong, which only the Hessian shows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lengths, self.directions = nn.Parameter(torch.rand(C, 1)), nn.Parameter(torch.randn(C, 4))

    def forward(self, x):
        return x @ torch._weight_norm(self.directions, self.lengths, 0).T


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivatives_that_are_not_symmetric_are_refused(dtype):
    module, x = Normalised().to(dtype), data().to(dtype)
    source = NetworkLogitGradients(module, x, Y)
    for operator in (rl.nets.hessian, rl.nets.logit_curvature):
        with pytest.raises(ValueError, match="its second derivatives by torch are not symmetric"):
            operator(source) @ torch.ones(15, dtype=dtype)
    assert rl.gauss_newton(source).to_dense().shape == (15, 15)  # J by J^T alone is right


class Never(Square):
    @staticmethod
    def backward(ctx, cotangent):
        raise RuntimeError("There is no way back. Sorry")


def test_operations_without_a_derivative_are_refused():
    message = "`module` must be differentiable in its parameters; torch says: There is no way back$"
    with pytest.raises(ValueError, match=message):
        NetworkLogitGradients(Between(Never.apply), data(), Y)


def compiled(module):
    """As torch.compile wraps it: what is compiled has no second derivatives, and must not be run."""

    def backend(graph, inputs):
        raise AssertionError("compiled")

    return torch.compile(module, backend=backend)


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_networks_run_as_they_were_written(whole):
    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, C)).double(), data()
    module = compiled(plain) if whole else nn.Sequential(plain[0], compiled(plain[1]), compiled(plain[2]))
    source = NetworkLogitGradients(module, x, Y)
    if whole:
        assert list(source.parameter_groups) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    outputs = plain(x)
    check(source, outputs, F.cross_entropy(outputs, Y), list(plain.parameters()))


def test_embeddings_with_sparse_gradients():
    x, results = torch.arange(3 * N).reshape(N, 3) % 7, []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(7, 4, sparse=sparse)
        module = nn.Sequential(table, nn.Flatten(), nn.Tanh(), nn.Linear(12, C)).double()
        source = NetworkLogitGradients(module, x, Y)
        results.append([rl.gradient(source), torch.from_numpy(rl.nets.hessian(source).to_dense())])
        assert table.sparse == sparse
    torch.testing.assert_close(*results)


class ByKeyword(Between):
    def forward(self, x):
        return self.b(torch.tanh(self.a(input=x)))


def test_layers_called_by_keyword():
    module, x = ByKeyword(None), data()
    outputs = module(x)
    check(NetworkLogitGradients(module, x, Y), outputs, F.cross_entropy(outputs, Y), list(module.parameters()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_asymmetry_of_thirty_roots_of_the_precision_is_a_flaw(dtype, monkeypatch):
    """H v . H v and v . H H v are the same number for a symmetric H."""
    module, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, C)).to(dtype), data().to(dtype)
    (chunk,) = NetworkLogitGradients(module, x, Y).chunks()
    share = {torch.float64: 4.47e-7, torch.float32: 0.01036, torch.bfloat16: math.inf}[dtype]
    for off in (0.0, *((0.9 * share, 1.1 * share, -0.9 * share, -1.1 * share) if share < 1 else (100.0,))):
        calls = []

        def product(slopes, leaves, vector, off=off, calls=calls):
            calls.append([part.double() for part in vector])
            if len(calls) == 1:
                return [part.double() + 1 for part in vector]
            length, start = (sum(float(part.square().sum()) for part in one) for one in (calls[1], calls[0]))
            return [(1 + off) * length / start * part for part in calls[0]]

        monkeypatch.setattr(twice, "_product", product)
        flawed = abs(off) > share
        assert twice.flaws(chunk, lambda outputs: outputs) == (
            {"second": "its second derivatives by torch are not symmetric"} if flawed else {}
        )
        assert len(calls) == 2
