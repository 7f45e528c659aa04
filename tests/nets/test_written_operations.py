"""Operations that users have written, whose second derivatives autograd may get wrong in silence."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rmtland as rl
from rmtland.nets import NetworkLogitGradients
from rmtland.nets.snapshot import PlainWeightNorm
from tests.nets.test_any_network import check, second
from tests.nets.test_twice import Between, Y, by_differences, data


class ByInput(torch.autograd.Function):
    """x tanh x, from an input that is an attribute of `ctx`."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * torch.tanh(x)

    @staticmethod
    def backward(ctx, cotangent):
        t = torch.tanh(ctx.x)
        return cotangent * (t + ctx.x * (1 - t * t))


class ByOutput(torch.autograd.Function):
    """tanh x, from its output."""

    @staticmethod
    def forward(ctx, x):
        ctx.out = torch.tanh(x)
        return ctx.out

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * (1 - ctx.out**2)


class BySaved(torch.autograd.Function):
    """x tanh x, from something between input and output: its derivative is wrong."""

    @staticmethod
    def forward(ctx, x):
        t = torch.tanh(x)
        ctx.save_for_backward(x, t)
        return x * t

    @staticmethod
    def backward(ctx, cotangent):
        x, t = ctx.saved_tensors
        return cotangent * (t + x * (1 - t * t))


class ByAttribute(BySaved):
    """The same as attributes."""

    @staticmethod
    def forward(ctx, x):
        ctx.saved = x.detach(), torch.tanh(x)
        return x * ctx.saved[1]

    @staticmethod
    def backward(ctx, cotangent):
        x, t = ctx.saved
        return cotangent * (t + x * (1 - t * t))


class StraightThrough(torch.autograd.Function):
    """A sign whose backward is that of the identity."""

    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


class InSingle(torch.autograd.Function):
    """x tanh x in float32, whatever comes in."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x.float() * torch.tanh(x.float())).to(x.dtype)

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        t = torch.tanh(x.float())
        return cotangent * (t + x.float() * (1 - t * t)).to(x.dtype)


@pytest.mark.parametrize("function", [ByInput, ByOutput])
def test_inputs_and_outputs_may_be_kept_in_any_way(function):
    module, x = Between(function.apply), data()
    plain = Between(torch.tanh if function is ByOutput else lambda t: t * torch.tanh(t))
    outputs = plain(x)
    check(NetworkLogitGradients(module, x, Y), outputs, F.cross_entropy(outputs, Y), tuple(plain.parameters()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", [BySaved, ByAttribute])
def test_what_a_forward_pass_made_is_no_constant(function, dtype):
    module, x = Between(function.apply).to(dtype), data().to(dtype)
    plain = Between(lambda t: t * torch.tanh(t))
    source = NetworkLogitGradients(module, x, Y)
    slope, matrix = second(F.cross_entropy(plain(data()), Y), tuple(plain.parameters()))
    torch.testing.assert_close(rl.gradient(source).double(), slope, atol=1e-6, rtol=1e-4)
    v = torch.ones(source.num_parameters, dtype=dtype)
    assert float((rl.gauss_newton(source) @ v).norm()) > 0  # linear in what goes back: right all the same
    for operator in (rl.nets.hessian, rl.nets.logit_curvature):
        with pytest.raises(ValueError, match=f"the backward of {function.__name__} takes what its forward made"):
            operator(source) @ v
    # What it would have been: far off, and symmetric, so that nothing else would tell.
    outputs = Between(function.apply)
    _, wrong = second(F.cross_entropy(outputs(data()), Y), tuple(outputs.parameters()))
    assert (wrong - matrix).abs().max() > 0.1 * matrix.abs().max()
    assert (wrong - wrong.T).abs().max() < 1e-12
    vector = torch.ones(len(matrix), dtype=torch.float64)
    torch.testing.assert_close(matrix @ vector, by_differences(plain, data(), vector), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("function", [StraightThrough, InSingle])
def test_operations_that_differences_cannot_judge(function):
    module, x = Between(function.apply), data()
    source = NetworkLogitGradients(module, x, Y)
    _, matrix = second(F.cross_entropy(module(x), Y), tuple(module.parameters()))
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), matrix, atol=1e-6)


class AtKink(Between):
    """One of its numbers is where a ReLU bends."""

    def __init__(self):
        super().__init__(ByInput.apply)
        self.bend = nn.Parameter(torch.tensor([0.0, 1.0], dtype=torch.float64))

    def forward(self, x):
        return super().forward(x) * (1 + 1e-5 * torch.relu(self.bend).sum())


def test_a_kink_proves_nothing():
    module, x = AtKink(), data()
    outputs = module(x)
    check(NetworkLogitGradients(module, x, Y), outputs, F.cross_entropy(outputs, Y), tuple(module.parameters()))


class Odd(Between):
    """Outputs of another size, one of them zero; a parameter at zero, one without use."""

    def __init__(self, function, factor):
        super().__init__(function)
        self.factor = factor
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x):
        outputs = self.factor * super().forward(x) * (1 + self.shift)
        return torch.cat([torch.zeros_like(outputs[:, :1]), outputs[:, 1:]], dim=1)


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e6])
def test_the_size_of_outputs_and_parameters_hides_nothing(factor):
    v = torch.ones(NetworkLogitGradients(Odd(ByInput.apply, factor), data(), Y).num_parameters, dtype=torch.float64)
    assert (rl.nets.hessian(NetworkLogitGradients(Odd(ByInput.apply, factor), data(), Y)) @ v).isfinite().all()
    with pytest.raises(ValueError, match="the backward of BySaved takes what its forward made"):
        rl.nets.hessian(NetworkLogitGradients(Odd(BySaved.apply, factor), data(), Y)) @ v


class Steep(Between):
    """Beside the operation something linear that is much larger."""

    def __init__(self, function):
        super().__init__(function)
        self.slope = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x):
        return super().forward(x) + 1e4 * self.slope


def test_a_large_linear_part_hides_nothing():
    source = NetworkLogitGradients(Steep(BySaved.apply), data(), Y)
    v = torch.ones(source.num_parameters, dtype=torch.float64)
    with pytest.raises(ValueError, match="the backward of BySaved takes what its forward made"):
        rl.nets.hessian(source) @ v


def test_weights_are_normalised_along_any_axis():
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    rows, columns = torch.arange(1.0, 4)[:, None].double(), torch.arange(1.0, 5)[None].double()
    by_row, by_column = (g * v / v.square().sum(dim=d, keepdim=True).sqrt() for g, d in ((rows, 1), (columns, 0)))
    with PlainWeightNorm():
        for found, expected in (
            (torch._weight_norm(v, rows), by_row),
            (torch._weight_norm(v, rows, 0), by_row),
            (torch._weight_norm(v, columns, 1), by_column),
            (torch._weight_norm(v, columns, dim=1), by_column),
        ):
            torch.testing.assert_close(found, expected)
