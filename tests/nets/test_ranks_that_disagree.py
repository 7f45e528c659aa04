"""Ranks that do not fit together, or do not do the same, are refused on all."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import rmtland as rl
from rmtland.logits.accumulate import gather_logits
from rmtland.nets.layer_gram import FormedStore, PairStore, _of_all_ranks
from tests.nets.processes import run
from tests.nets.shares import C, D, data, half, message, network


def refusals(rank, size):
    """What two ranks that do not fit together are told, by the case's name."""
    Network, Distributed = rl.nets.NetworkLogitGradients, rl.nets.DistributedSource
    inputs, labels = data()
    mine = half(rank)
    told = {}
    other = network()
    with torch.no_grad():
        if rank:
            other[3].weight[-1, -1] = other[3].weight[-1, -1].nextafter(torch.tensor(9.0, dtype=torch.float64))
    told["parameter"] = message(rl.nets.shard, other, inputs, labels)
    other = network()
    other[1].running_mean[2] += rank
    told["buffer"] = message(rl.nets.shard, other, inputs, labels)
    wide = nn.Sequential(nn.Linear(6, C + rank)).double()
    told["classes"] = message(lambda: Distributed(Network(wide, *mine)))
    told["loss"] = message(lambda: Distributed(Network(network(), *mine, rl.SquaredError() if rank else None)))
    told["same"] = message(lambda: Distributed(Network(network(), inputs, labels)))
    shuffled = DataLoader(TensorDataset(inputs, labels), 3, shuffle=True, generator=torch.Generator().manual_seed(rank))
    told["shuffled"] = message(rl.nets.shard, network(), shuffled)
    told["halves"] = message(rl.nets.shard, network(), *half(rank, 10))
    told["size"] = message(lambda: Distributed(Network(network(), *mine), num_examples=12))
    told["nothing"] = message(rl.nets.shard, network(), [])
    dataset = TensorDataset(inputs, labels)
    padded = DataLoader(dataset, batch_size=3, sampler=DistributedSampler(dataset, shuffle=False))
    told["padded"] = message(rl.nets.shard, network(), padded)
    bad = inputs.clone()
    bad[-1] = torch.nan  # of the last rank
    told["nan"] = message(rl.nets.shard, network(), bad, labels)
    told["count"] = message(lambda: Distributed(Network(network(), *mine), num_examples=0 if rank else 11))
    told["timeout"] = message(rl.nets.shard, network(), inputs, labels, timeout=0)

    source = rl.nets.shard(network(), inputs, labels)
    operator = rl.gauss_newton(source)
    start = torch.randn(D, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    told["start"] = message(lambda: operator @ start)
    told["hessian start"] = message(lambda: rl.nets.hessian(source) @ start)
    told["lanczos start"] = message(rl.lanczos, operator, 5, rng=None)
    told["order"] = message((rl.gradient, rl.output_statistics)[rank], source)
    told["kinds"] = message((gather_logits, rl.gradient)[rank], source)
    told["dtypes"] = message(source.gather, torch.zeros(2, dtype=(torch.float64, torch.float32)[rank]))
    stores = {"3.weight": (PairStore(1, 1), FormedStore(1, 1, 1, torch.zeros(1)))[rank]}
    told["layers"] = message(_of_all_ranks, source, stores, ["3.weight"])
    told["in step again"] = message(rl.gradient, source)
    return told


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    outcomes = run(refusals, 2, tmp_path_factory.mktemp("refusals"))
    assert all(isinstance(outcome, dict) for outcome in outcomes), outcomes
    return outcomes


EVERYWHERE = {
    "parameter": "ValueError: `module` must have the same .*; '3.weight' of rank 1 differs from .* rank 0",
    "buffer": "ValueError: `module` must have the same .* on every rank; '1.running_mean' of rank 1 differs",
    "classes": "ValueError: `source` must have the same num_classes on every rank; got 3 on rank 0 and 4 on rank 1",
    "loss": "ValueError: `source` must have the same loss on every rank; got CrossEntropy on rank 0 and SquaredError",
    "same": "ValueError: `source` must have examples of its own on every rank; ranks 0 and 1 have the same ones",
    "shuffled": "ValueError: `source` must have examples of its own on every rank; ranks 0 and 1 have the same ones",
    "halves": "ValueError: `inputs` and `labels` must be the whole dataset, the same on every rank; got",
    "size": "ValueError: `num_examples` must be what the ranks have together; got a dataset of 12 and 11 examples on 2",
    "nothing": "ValueError: `source` must have at least one example on some rank; got none",
    "padded": "ValueError: .*a dataset of 11 and 12 examples on 2 ranks .DistributedSampler repeats",
    "timeout": "ValueError: `timeout` must be > 0; got 0",
    "start": "RankError: .* the operand must be the same on every rank; that of rank 1 differs .*same `rng`",
    "hessian start": "RankError: .* the operand must be the same on every rank; that of rank 1 differs",
    "lanczos start": "RankError: .* the operand must be the same on every rank; that of rank 1 differs",
    "order": r"RankError: .*same order; rank 0 is at a sum of shape \(53,\) .* and rank 1 at a sum of shape \(2, 5\)",
    "kinds": "RankError: .*same order; rank 0 is at gathered rows of shape .* and rank 1 at a sum of shape",
    "dtypes": "RankError: .*arrays of one dtype must be gathered; got float32, float64",
    "layers": "RuntimeError: every rank must find the same layers; '3.weight' is found in other ones on some",
    "in step again": "nothing: $",
}


@pytest.mark.parametrize("case", EVERYWHERE)
def test_ranks_that_do_not_fit_together_are_refused_on_all(told, case):
    for outcome in told:
        assert re.match(EVERYWHERE[case], ": ".join(outcome[case]))


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        (
            "nan",
            "RankError: rank 0 of 2: rank 1 failed, .* ValueError: `inputs` must be finite",
            "ValueError: `inputs`",
        ),
        ("count", "RankError: rank 0 of 2: rank 1 failed, .*`num_examples`", "ValueError: `num_examples` must be >= 1"),
    ],
)
def test_an_error_on_one_rank_reaches_the_other(told, case, first, second):
    assert re.match(first, ": ".join(told[0][case]))
    assert re.match(second, ": ".join(told[1][case]))
