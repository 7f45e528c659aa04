"""Second derivatives of chains of layers beside automatic differentiation, which takes any graph."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import rmtland as rl
from rmtland.nets import chains
from tests.nets.networks import LABELS, C, N, full_hessian


class Called(nn.Module):
    """A module that calls some layers as a function says."""

    def __init__(self, forward, *layers):
        super().__init__()
        self.layers, self.call = nn.ModuleList(layers), forward

    def forward(self, x):
        return self.call(self.layers, x)


def frozen(layer, *names):
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(not names or name not in names)
    return layer


def tied():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    return nn.Sequential(a, nn.Tanh(), b, nn.Sigmoid(), nn.Linear(4, C))


ACTIVATIONS = {
    "Elu": nn.ELU(0.7),
    "Gelu": nn.GELU(),
    "Hardswish": nn.Hardswish(),
    "Hardtanh": nn.Hardtanh(-0.3, 0.4),
    "LeakyRelu": nn.LeakyReLU(0.3),
    "LogSigmoid": nn.LogSigmoid(),
    "Mish": nn.Mish(),
    "Relu": nn.ReLU(inplace=True),
    "Sigmoid": nn.Sigmoid(),
    "Silu": nn.SiLU(),
    "Sin": Called(lambda _, x: torch.sin(x)),
    "Softplus": nn.Softplus(2.0),
    "Tanh": nn.Tanh(),
}
CHAINS = {
    **{n: lambda f=f: nn.Sequential(nn.Linear(4, 5), f, nn.Linear(5, C)) for n, f in ACTIVATIONS.items()},
    "one layer": lambda: nn.Linear(4, C),
    "linear": lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, C, bias=False)),
    "two activations, one at the end": lambda: nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Softplus(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, C), nn.Tanh()
    ),
    "dropout and reshaped inputs": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 5), nn.Dropout(), nn.GELU(), nn.Linear(5, C)
    ),
    "tied": tied,
    "frozen below": lambda: nn.Sequential(
        frozen(nn.Linear(4, 5), "weight", "bias"), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, C)
    ),
    "frozen between": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), frozen(nn.Linear(5, 4), "weight", "bias"), nn.Tanh(), nn.Linear(4, C)
    ),
    "frozen weight between": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), frozen(nn.Linear(5, 4), "weight"), nn.Sigmoid(), nn.Linear(4, C)
    ),
    "frozen biases": lambda: nn.Sequential(frozen(nn.Linear(4, 5), "bias"), nn.Tanh(), frozen(nn.Linear(5, C), "bias")),
}


def hooked(layers, x):
    hidden = layers[0](x)
    if hidden.requires_grad:
        hidden.register_hook(lambda slope: 2 * slope)
    return layers[1](hidden)


def through(layers, x):
    return layers[1](checkpoint(lambda v: layers[2](torch.tanh(layers[0](v))), x, use_reentrant=False))


OTHERS = {
    "residual": Called(lambda layers, x: layers[1](x + torch.tanh(layers[0](x))), nn.Linear(4, 4), nn.Linear(4, C)),
    "scaled": Called(lambda layers, x: layers[1](2 * layers[0](x)), nn.Linear(4, 5), nn.Linear(5, C)),
    "transposed": Called(lambda layers, x: layers[1](x @ layers[0].weight), nn.Linear(4, 4), nn.Linear(4, C)),
    "batch norm": nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, C)),
    "softmax": nn.Sequential(nn.Linear(4, 5), nn.Softmax(1), nn.Linear(5, C)),
    "slope changed by a hook": Called(hooked, nn.Linear(4, 5), nn.Linear(5, C)),
    "checkpointed": Called(through, nn.Linear(4, 5), nn.Linear(5, C), nn.Linear(5, 5)),
}


def inputs_of(dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(N, 4, dtype=dtype)


def made(network, dtype=torch.float64):
    torch.manual_seed(0)
    return network().to(dtype)


def sources(module, inputs, **options):
    """As a chain, and the same by automatic differentiation alone."""
    pair = [rl.nets.NetworkLogitGradients(module, inputs, LABELS, **options) for _ in range(2)]
    assert pair[0].network.chained
    pair[1].network.chained = False
    return pair


@pytest.mark.parametrize("name", CHAINS)
def test_chains_beside_automatic_differentiation(name, monkeypatch):
    module, inputs = made(CHAINS[name]), inputs_of()
    weights = np.linspace(0.2, 3.0, N)
    pair = sources(module, inputs, batch_size=7, weights=weights)
    block = torch.randn(pair[0].num_parameters, 5, dtype=torch.float64)
    monkeypatch.setattr(chains, "EXAMPLES", 3)
    for num_bytes in (1, chains.CACHE_BYTES):  # a column and three examples at a time, and all of them
        monkeypatch.setattr(chains, "CACHE_BYTES", num_bytes)
        for kind in (rl.nets.hessian, rl.nets.logit_curvature):
            ours, plain = (kind(source) @ block for source in pair)
            torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(kind(pair[0]) @ block[:, 1], plain[:, 1], rtol=1e-12, atol=1e-14)
    for chunk in pair[0].chunks():
        assert type(chunk.second_derivative("hessian", None)) is chains.Chain  # kept: no slope is asked for again


@pytest.mark.parametrize("name", ["two activations, one at the end", "tied"])
def test_chains_beside_the_matrix(name):
    module, inputs = made(CHAINS[name]), inputs_of()
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS)
    assert source.network.chained
    product = rl.nets.hessian(source) @ torch.eye(source.num_parameters, dtype=torch.float64)
    torch.testing.assert_close(product, full_hessian(module, inputs, LABELS), rtol=1e-12, atol=1e-14)


def test_chains_in_single_precision_are_as_exact_as_automatic_differentiation():
    module, inputs = made(CHAINS["Tanh"]), inputs_of()
    exact = rl.nets.hessian(module, inputs, LABELS) @ torch.eye(sum(p.numel() for p in module.parameters())).double()
    pair = sources(module.float(), inputs.float())
    block = torch.eye(pair[0].num_parameters)
    ours, plain = ((rl.nets.hessian(source) @ block - exact).norm() for source in pair)
    assert ours < 3 * plain


@pytest.mark.parametrize("loss", [rl.SquaredError(), rl.Logistic(), nn.CrossEntropyLoss(label_smoothing=0.2)])
def test_losses_of_chains(loss):
    labels = torch.nn.functional.one_hot(LABELS, C).double()
    module = made(CHAINS["Gelu"])
    pair = [rl.nets.NetworkLogitGradients(module, inputs_of(), labels, loss=loss, batch_size=4) for _ in range(2)]
    pair[1].network.chained = False
    block = torch.randn(pair[0].num_parameters, 3, dtype=torch.float64)
    ours, plain = (rl.nets.hessian(source) @ block for source in pair)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_left_to_automatic_differentiation(name):
    module = OTHERS[name].double()
    source = rl.nets.NetworkLogitGradients(module, inputs_of(), LABELS, nondeterminism="warn")
    assert not source.network.chained
    if name != "slope changed by a hook":
        block = torch.eye(source.num_parameters, dtype=torch.float64)
        torch.testing.assert_close(
            rl.nets.hessian(source) @ block, full_hessian(module, inputs_of(), LABELS), rtol=1e-10, atol=1e-13
        )


def test_half_precision_is_left_to_automatic_differentiation():
    source = rl.nets.NetworkLogitGradients(made(CHAINS["Tanh"], torch.bfloat16), inputs_of(torch.bfloat16), LABELS)
    assert not source.network.chained


def test_chains_count_what_they_keep():
    source = rl.nets.NetworkLogitGradients(made(CHAINS["Tanh"]), inputs_of(), LABELS)
    before = source._budget.taken
    rl.nets.hessian(source) @ torch.ones(source.num_parameters, dtype=torch.float64)
    chunk = next(iter(source.chunks()))
    # Of the hidden layer f', f'' times the loss's slopes and the signals, of the last one the signals.
    held = 8 * N * (3 * 5 + C)
    assert chunk.second_derivative("hessian", None).num_bytes == held
    assert source._budget.taken - before == held + source._plan.graph_bytes.of("forward", N)


@pytest.mark.parametrize(
    ("numbers", "columns", "examples"),
    [
        (1, [1] * 5, [3, 3, 3, 2]),  # EXAMPLES at a time at least
        (2 * 3 * 56 - 1, [1] * 5, [4, 4, 3]),  # a column of five examples, shared out
        (2 * 3 * 56, [2, 2, 1], [3, 3, 3, 2]),
        (5 * 6 * 56 - 1, [5], [4, 4, 3]),
        (5 * 6 * 56, [5], [6, 5]),
        (10**6, [5], [11]),
    ],
)
def test_columns_and_examples_at_a_time_fill_the_cache(numbers, columns, examples, monkeypatch):
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, C)).double()
    source, _ = sources(module, inputs_of())
    monkeypatch.setattr(chains, "EXAMPLES", 3)
    # Of each column and example: 2 x 6 tangents before and after the tanh, 5 and 3 after it, 2 x 12 that are passed
    # back, 4 x 3 at the outputs.
    assert 2 * 6 + 5 + 3 + 2 * 12 + 4 * 3 == 56
    monkeypatch.setattr(chains, "CACHE_BYTES", 8 * numbers)
    seen, add = [], chains.Chain._add_examples

    def noted(chain, sums, rows, part):
        seen.append((len(rows[0]), len(range(N)[part])))
        add(chain, sums, rows, part)

    monkeypatch.setattr(chains.Chain, "_add_examples", noted)
    rl.nets.hessian(source) @ torch.ones(source.num_parameters, 5, dtype=torch.float64)
    assert seen == [(k, n) for k in columns for n in examples]
