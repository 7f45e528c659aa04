"""Several processes against one: the same numbers, and an end for all when one ends."""

import os
import signal
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import rmtland as rl
from rmtland.nets.ranks import RankError
from tests.nets.processes import run

N, C, D = 11, 3, 53


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh(), nn.Linear(5, C)).double()


def data(count=N):
    generator = torch.Generator().manual_seed(1)
    # Sorted labels: the first and last rank each lack a class.
    return torch.randn(count, 6, generator=generator, dtype=torch.float64), (torch.arange(count) * C) // count


def arrays(count=N):
    rng = np.random.default_rng(2)
    return rng.normal(size=(count, C)), (np.arange(count) * C) // count, rng.normal(size=(count, C, 7))


def numbers(result):
    """A result's public numbers as arrays."""
    if isinstance(result, torch.Tensor | np.ndarray):
        return np.asarray(result, dtype=float)
    if isinstance(result, dict):
        return {key: numbers(value) for key, value in result.items()}
    if hasattr(result, "__dict__"):
        return {key: np.asarray(value, dtype=float) for key, value in vars(result).items() if not key.startswith("_")}
    return np.asarray(result, dtype=float)


def block(count, dtype=torch.float64):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(3), dtype=dtype)


def everything(source):
    """Every statistic of any source."""
    logits, labels = gather_logits(source)
    vectors = block(source.num_parameters)
    by_group = rl.measure(source, "gradient", "clustering", by="parameter_groups")
    return {
        "clustering": numbers(rl.clustering(source)),
        "groups": numbers(rl.clustering(source, num_groups=4)),
        "scales": numbers(rl.logit_scales(source)),
        "class scales": numbers(rl.logit_scales(source, class_means=True)),
        "outputs": numbers(rl.output_statistics(source)),
        "gradient": numbers(rl.gradient(source)),
        "gauss_newton": numbers(rl.gauss_newton(source) @ vectors),
        "spectrum": numbers(rl.gauss_newton_spectrum(source)),
        "logits": logits,
        "labels": labels,
        "by group": {f"{g} {name}": numbers(r) for g, m in by_group.items() for name, r in m.items()},
    }


def second_derivatives(source):
    vectors = block(source.num_parameters)
    return {
        "hessian": numbers(rl.nets.hessian(source) @ vectors),
        "logit_curvature": numbers(rl.nets.logit_curvature(source) @ vectors[:, 0]),
    }


def gather_logits(source):
    from rmtland.logits.accumulate import gather_logits

    return gather_logits(source)


def assert_same(got, expected, path=""):
    assert type(got) is type(expected), path
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key], f"{path}/{key}")
    else:
        scale = np.nanmax(np.abs(expected), initial=0.0)
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * max(scale, 1.0), err_msg=path)


def share(values, shares, rank):
    start = sum(shares[:rank])
    return [v[start : start + shares[rank]] for v in values]


def of_network(shares, rank, count=N, **options):
    """The network's source from a rank's own examples."""
    inputs, labels = share(data(count), shares, rank)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=3) if shares[rank] else []
    return rl.nets.shard(network(), loader, **options)


def of_arrays(shares, rank):
    logits, labels, gradients = share(arrays(sum(shares)), shares, rank)
    return rl.nets.DistributedSource(rl.DenseLogitGradients(logits, labels, gradients) if shares[rank] else None)


def everything_by_shares(rank, size):
    results = {}
    for shares in {2: [(8, 3), (11, 0)], 4: [(4, 0, 5, 2)]}[size]:
        source = of_network(shares, rank)
        assert source.first_example == sum(shares[:rank])
        assert source.examples_per_rank == shares
        results["network", shares] = everything(source) | second_derivatives(source)
        results["arrays", shares] = everything(of_arrays(shares, rank))
    cut = rl.nets.shard(network(), *data(), chunk_size=2)
    results["cut", None] = everything(cut) | second_derivatives(cut)
    many = rl.nets.shard(network(), *data(40))  # more rows than parameters: the other side of the spectrum
    results["many", None] = {"spectrum": numbers(rl.gauss_newton_spectrum(many))}
    few = rl.nets.shard(network(), *data(3))
    results["few", None] = {"gradient": numbers(rl.gradient(few))}
    return results


def alone(kind):
    if kind == "arrays":
        return everything(rl.DenseLogitGradients(*arrays()))
    inputs, labels = data({"many": 40, "few": 3}.get(kind, N))
    source = rl.nets.NetworkLogitGradients(network(), inputs, labels)
    if kind == "many":
        return {"spectrum": numbers(rl.gauss_newton_spectrum(source))}
    if kind == "few":
        return {"gradient": numbers(rl.gradient(source))}
    return everything(source) | second_derivatives(source)


@pytest.mark.filterwarnings("ignore:sigma_")
@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_give_the_numbers_of_one(size, tmp_path):
    outcomes = run(everything_by_shares, size, tmp_path)
    expected = {kind: alone(kind) for kind in ("network", "arrays", "cut", "many", "few")}
    for outcome in outcomes:
        assert isinstance(outcome, dict), outcome
        for (kind, shares), result in outcome.items():
            assert_same(result, expected[kind], f"{kind} {shares}")
    for key in outcomes[0]:  # and every rank has the same bits
        for name, value in outcomes[0][key].items():
            for other in outcomes[1:]:
                np.testing.assert_equal(other[key][name], value)
