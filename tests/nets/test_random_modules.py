"""Random small modules of many shapes against dense plain autograd in float64."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import rmtland as rl
from tests.nets.networks import trainable
from tests.nets.test_any_network import dense, second


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Attending(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(width * heads, heads, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Last(nn.Module):
    """The last state of a recurrent cell."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        return self.cell(x)[0][:, -1]


class TiedHead(nn.Module):
    """A weight used twice, a norm frozen between."""

    def __init__(self, width, num_classes):
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)
        self.b.weight = self.a.weight
        self.norm, self.head = nn.LayerNorm(width).requires_grad_(False), nn.Linear(width, num_classes, bias=False)

    def forward(self, x):
        return self.head(self.norm(torch.tanh(self.b(torch.tanh(self.a(x))))))


@st.composite
def cases(draw):
    """(module, inputs): of one of the kinds, in sizes that differ."""
    kind = draw(st.sampled_from(["dense", "convolution", "residual", "attention", "recurrent", "tied"]))
    width, num_classes, n = draw(st.integers(1, 4)), draw(st.integers(2, 4)), draw(st.integers(1, 6))
    activation = draw(st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU]))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    if kind == "dense":
        depth = draw(st.integers(0, 2))
        hidden = [part for _ in range(depth) for part in (nn.Linear(width, width), activation())]
        module, inputs = nn.Sequential(*hidden, nn.Linear(width, num_classes)), torch.randn(n, width)
    elif kind == "convolution":
        channels, side = 2 * width, draw(st.integers(3, 6))
        kernel, stride, padding = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 1))
        groups = draw(st.sampled_from([1, 2]))
        norm = draw(st.sampled_from([nn.BatchNorm2d(channels), nn.GroupNorm(1, channels), nn.Identity()]))
        convolution = nn.Conv2d(2, channels, kernel, stride, padding, groups=groups, bias=draw(st.booleans()))
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
        module, inputs = nn.Sequential(convolution, norm, activation(), pool), torch.randn(n, 2, side, side)
    elif kind == "residual":
        body = nn.Sequential(nn.LayerNorm(width + 1), nn.Linear(width + 1, width + 1), activation())
        module = nn.Sequential(
            Residual(body), Residual(nn.Linear(width + 1, width + 1)), nn.Linear(width + 1, num_classes)
        )
        inputs = torch.randn(n, width + 1)
    elif kind == "attention":
        heads, length = draw(st.integers(1, 2)), draw(st.integers(1, 3))
        size = width * heads
        module = nn.Sequential(Attending(width, heads), nn.Flatten(), nn.Linear(size * length, num_classes))
        inputs = torch.randn(n, length, size)
    elif kind == "recurrent":
        cell = draw(st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]))(2, width, batch_first=True)
        module, inputs = nn.Sequential(Last(cell), nn.Linear(width, num_classes)), torch.randn(n, 3, 2)
    else:
        module, inputs = TiedHead(width + 1, num_classes), torch.randn(n, width + 1)
    return module.double().eval(), inputs.double(), torch.randint(num_classes, (n,))


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), batch_size=st.integers(1, 4))
def test_random_modules(case, batch_size):
    module, inputs, labels = case
    source = rl.nets.NetworkLogitGradients(module, inputs, labels, batch_size=batch_size)
    parameters = trainable(module)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivatives
        outputs = module(inputs)
    gradients = dense(outputs, parameters)
    slope, matrix = second(F.cross_entropy(outputs, labels), parameters)
    p = outputs.detach().softmax(dim=1)
    curved = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    gauss = torch.einsum("nka,nkl,nlb->ab", gradients, curved, gradients) / len(inputs)
    torch.testing.assert_close(rl.gradient(source), slope, atol=1e-12, rtol=1e-9)
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), matrix, atol=1e-11)
    block = torch.randn(len(slope), 3, dtype=torch.float64)
    torch.testing.assert_close(rl.nets.hessian(source) @ block, matrix @ block, atol=1e-11, rtol=1e-8)
    torch.testing.assert_close(rl.gauss_newton(source) @ block, gauss @ block, atol=1e-11, rtol=1e-8)
    np.testing.assert_allclose(rl.nets.logit_curvature(source).to_dense(), matrix - gauss, atol=1e-11)
    spectrum = rl.gauss_newton_spectrum(source)
    values = np.linalg.eigvalsh(gauss.numpy())[-len(spectrum.eigenvalues) :]
    np.testing.assert_allclose(spectrum.eigenvalues, values, atol=1e-12 + 1e-10 * abs(values[-1]))
    lengths = rl.logit_gradient_lengths(source).overall
    np.testing.assert_allclose(lengths, gradients.norm(dim=2).mean(dim=0), rtol=1e-9, atol=1e-12)
