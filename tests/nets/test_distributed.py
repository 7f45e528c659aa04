"""Several processes against one: the same numbers."""

import re
import runpy
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rmtland as rl
from tests.nets.networks import LABELS, NAMES, build
from tests.nets.processes import run
from tests.nets.shares import (
    N,
    arrays,
    assert_same,
    block,
    data,
    everything,
    message,
    network,
    numbers,
    second_derivatives,
    share,
    streamed,
)


def of_network(shares, rank, count=N, **options):
    """The network's source from a rank's own examples."""
    inputs, labels = share(data(count), shares, rank)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=3) if shares[rank] else []
    return rl.nets.shard(network(), loader, **options)


def of_arrays(shares, rank):
    logits, labels, gradients = share(arrays(sum(shares)), shares, rank)
    return rl.nets.DistributedSource(rl.DenseLogitGradients(logits, labels, gradients) if shares[rank] else None)


NETWORKS = {2: ("tied", "attention"), 4: ("conv",)}

WEIGHTS = torch.linspace(0.1, 2, N, dtype=torch.float64)


def of_layers(source):
    """What is formed layer by layer."""
    by_tensor = rl.gauss_newton_spectrum(source, by="parameter_groups")
    return {
        "clustering": numbers(rl.clustering(source)),
        "spectrum": numbers(rl.gauss_newton_spectrum(source)),
        "gram": numbers(rl.logit_gradient_gram(source)),
        "by tensor": {name: numbers(spectrum) for name, spectrum in by_tensor.items()},
    }


def weighted(source):
    vector = block(source.num_parameters)
    return {
        "gradient": numbers(rl.gradient(source)),
        "gauss_newton": numbers(rl.gauss_newton(source) @ vector),
        "hessian": numbers(rl.nets.hessian(source) @ vector),
    }


def everything_by_shares(rank, size):
    results = {}
    for shares in {2: [(8, 3), (11, 0)], 4: [(4, 0, 5, 2)]}[size]:
        source = of_network(shares, rank)
        assert source.examples_per_rank == shares
        results["network", shares] = everything(source) | second_derivatives(source)
        results["arrays", shares] = everything(of_arrays(shares, rank))
    cut = rl.nets.shard(network(), *data(), chunk_size=2)
    results["cut", None] = everything(cut) | second_derivatives(cut)
    for name in NETWORKS[size]:
        results[name, None] = of_layers(rl.nets.shard(*build(name), LABELS))
    results["weighted", None] = weighted(rl.nets.shard(network(), *data(), weights=WEIGHTS))
    if size == 4:
        few = torch.tensor([[2.0**24, 1.0, -(2.0**24), 1.0][rank]])
        total = source.reduce(few)  # added in float64, or a one would be lost
        assert total.dtype == torch.float32
        assert float(total) == 2
        assert float(few) == [2.0**24, 1, -(2.0**24), 1][rank]
        assert source.reduce(np.array([rank])).tolist() == [6]
        pair = dist.new_group([1, 3])
        if rank in (1, 3):
            source = rl.nets.shard(network(), *data(), process_group=pair)
            assert source.examples_per_rank == (5, 6)
            assert list(rl.nets.rank_range(N, pair)) == list(range(5) if rank == 1 else range(5, N))
            assert_same(numbers(rl.gradient(source)), alone("everything")["gradient"])
        else:
            told = message(rl.nets.shard, network(), *data(), process_group=pair)
            assert re.match("`process_group` must be a group that this rank belongs to", told[1]), told
    many = rl.nets.shard(network(), *data(40))  # more rows than parameters: the other side of the spectrum
    results["many", None] = {"spectrum": numbers(rl.gauss_newton_spectrum(many))}
    results["many", None] |= {f"streamed {p}": streamed(many, passes=p) for p in (1, 2)}
    few = rl.nets.shard(network(), *data(3))
    results["few", None] = {"gradient": numbers(rl.gradient(few))}
    return results


def alone(kind, ranks=1):
    """By one process, what depends on the order of examples in that of several ranks."""
    if kind in NAMES:
        return of_layers(rl.nets.NetworkLogitGradients(*build(kind), LABELS))
    if kind == "weighted":
        return weighted(rl.nets.NetworkLogitGradients(network(), *data(), weights=WEIGHTS))
    if kind == "arrays":
        return everything(rl.DenseLogitGradients(*arrays()))
    inputs, labels = data({"many": 40, "few": 3}.get(kind, N))
    source = rl.nets.NetworkLogitGradients(network(), inputs, labels)
    if kind == "many":
        results = {"spectrum": numbers(rl.gauss_newton_spectrum(source))}
        sizes = [len(part) for part in np.array_split(np.arange(40), ranks)]
        parts = [np.arange(40)[sum(sizes[:r]) : sum(sizes[: r + 1])] for r in range(ranks)]
        first = np.concatenate([part[: len(part) // 2] for part in parts])  # half of a rank's few
        order = np.concatenate([first, np.setdiff1d(np.arange(40), first)])
        source = rl.nets.NetworkLogitGradients(network(), inputs[order], labels[order])
        return results | {f"streamed {p}": streamed(source, passes=p, tolerance=0) for p in (1, 2)}
    if kind == "few":
        return {"gradient": numbers(rl.gradient(source))}
    return everything(source) | second_derivatives(source)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:sigma_")
@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_give_the_numbers_of_one(size, tmp_path):
    outcomes = run(everything_by_shares, size, tmp_path)
    assert all(isinstance(outcome, dict) for outcome in outcomes), outcomes
    expected = {kind: alone(kind, size) for kind, _ in outcomes[0]}
    for outcome in outcomes:
        for (kind, shares), result in outcome.items():
            assert_same(result, expected[kind], f"{kind} {shares}")
    for key in outcomes[0]:  # and every rank has the same bits
        for name, value in outcomes[0][key].items():
            for other in outcomes[1:]:
                np.testing.assert_equal(other[key][name], value)


def test_one_process_without_a_group_is_told_what_to_do():
    with pytest.raises(
        RuntimeError, match=r"torch.distributed must be initialised first: start the script by torchrun"
    ):
        rl.nets.shard(network(), *data())
    with pytest.raises(RuntimeError, match=r"torch.distributed must be initialised first"):
        rl.nets.rank_range(10)


def spectra(rank, size):
    """Iterations on operators of several ranks, each of which does the same."""
    source = rl.nets.shard(nn.parallel.DistributedDataParallel(network()), *data())
    return iterations(source)


def iterations(source):
    hessian = rl.nets.hessian(source)
    pairs = rl.top_eigenpairs(hessian, 3, rng=0)
    run = rl.lanczos(rl.gauss_newton(source), 12, rng=1)
    return {"eigenvalues": numbers(pairs.eigenvalues), "alpha": numbers(run.alpha), "beta": numbers(run.beta)}


def test_lanczos_and_eigenpairs_on_several_ranks(tmp_path):
    outcomes = run(spectra, 2, tmp_path)
    expected = iterations(rl.nets.NetworkLogitGradients(network(), *data()))
    for outcome in outcomes:
        assert isinstance(outcome, dict), outcome
        for name, value in expected.items():  # Lanczos multiplies rounding
            np.testing.assert_allclose(outcome[name], value, rtol=1e-8, atol=1e-10, err_msg=name)


def test_sharded_parameters_are_named(tmp_path):
    assert run(sharded_parameters, 1, tmp_path) == [
        ("TypeError", "`module` must have its parameters whole on every rank; got sharded ones (FSDP, DTensor)")
    ]


def sharded_parameters(rank, size):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module = network()
    warnings.simplefilter("ignore")
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    return message(rl.nets.NetworkLogitGradients, module, *data())


@pytest.mark.slow
def test_the_script_of_the_readme_runs_under_torchrun(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    script = Path(__file__).with_name("measure_digits.py")
    # A rank alone, as torchrun starts it.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": 1,
        "RANK": 0,
        "LOCAL_RANK": 0,
    }.items():
        monkeypatch.setenv(name, str(value))
    runpy.run_path(str(script), run_name="__main__")
    printed = [capsys.readouterr().out.splitlines()]
    monkeypatch.undo()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    printed.append(done.stdout.splitlines())
    assert printed[0][0] == "1000 examples on 1 ranks: (1000,)"
    assert printed[1][0] == "1000 examples on 2 ranks: (500, 500)"
    assert printed[0][1:] == printed[1][1:]
    assert len(printed[0]) == 4
