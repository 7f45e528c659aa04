"""Sources travel to other processes, before and after products, and cells of sweeps may name `rl.nets`."""

import pickle

import cloudpickle
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rmtland as rl
from rmtland.nets import NetworkLogitGradients
from tests.nets.networks import LABELS, NAMES, C, N, build
from tests.nets.test_any_network import Locked


def used(source):
    v = torch.ones(source.num_parameters, dtype=torch.float64)
    return [
        rl.nets.hessian(source) @ v,
        rl.gauss_newton(source) @ v,
        rl.nets.logit_curvature(source) @ v,
        rl.gradient(source),
        torch.tensor(rl.clustering(source, num_bootstrap=0).same_logit),
    ]


def travels(source, by=pickle):
    before = by.loads(by.dumps(source))
    expected = used(source)
    after = by.loads(by.dumps(source))
    for copy in (before, after, by.loads(by.dumps(after))):
        for mine, theirs in zip(used(copy), expected, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert after._budget.taken <= source._budget.taken
    return source, after


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("memory_budget", [0, 2**30])
def test_networks_of_every_kind(name, memory_budget):
    module, inputs = build(name)
    travels(NetworkLogitGradients(module, inputs, LABELS, batch_size=4, memory_budget=memory_budget))


@pytest.mark.parametrize("memory_budget", [0, 2**30])
def test_loaders_weights_and_losses_of_torch(memory_budget):
    module, inputs = build("mlp")
    loader = DataLoader(TensorDataset(inputs, LABELS), batch_size=4)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    travels(NetworkLogitGradients(module, loader, loss=loss, memory_budget=memory_budget))


def test_a_callable_of_the_users_by_cloudpickle():
    module, inputs = build("mlp")
    travels(NetworkLogitGradients(module, inputs, LABELS, forward=lambda m, x: m(2 * x)), cloudpickle)


def test_parameters_are_pickled_once():
    module = nn.Sequential(nn.Linear(300, 300), nn.Tanh(), nn.Linear(300, C)).double()
    source = NetworkLogitGradients(module, torch.randn(N, 300), LABELS)
    used(source)
    assert len(pickle.dumps(source)) < 1.5 * 8 * source.num_parameters + 50_000


def test_what_no_pickle_takes_says_so():
    source = NetworkLogitGradients(Locked().double(), torch.randn(N, 4).double(), LABELS)
    used(source)
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(source)


def test_operators_travel_with_their_source():
    module, inputs = build("mlp")
    operator = rl.nets.hessian(module, inputs, LABELS)
    v = torch.ones(operator.shape[0], dtype=torch.float64)
    expected = operator @ v
    torch.testing.assert_close(cloudpickle.loads(cloudpickle.dumps(operator)) @ v, expected)


def cell(width, rng):
    """Names functions of `rl.nets`, of which some once had the name of a module."""
    module = rl.nets.mlp((4, width, 3), seed=0)
    inputs, labels = torch.as_tensor(rng.standard_normal((9, 4))), torch.arange(9) % 3
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    top = rl.nets.hessian(source).to_dense().max()
    return {
        "top": top,
        "curvature": rl.nets.logit_curvature(source).to_dense().max(),
        "loss": rl.gradient(source).norm(),
    }


@pytest.mark.slow
def test_cells_of_sweeps_that_name_the_wing(tmp_path):
    results = [
        rl.sweep(cell, {"width": [2, 3]}, trials=2, seed=1, store=tmp_path / f"{workers}.zarr", workers=workers)
        for workers in (1, 2)
    ]
    assert results[0]["top"].notnull().all()
    assert results[0].equals(results[1])
