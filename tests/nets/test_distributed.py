"""Several processes against one: the same numbers, and an end for all when one ends."""

import os
import re
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import rmtland as rl
from rmtland.nets.layer_gram import FormedStore, PairStore, _of_all_ranks
from rmtland.nets.ranks import RankError
from tests.nets.networks import LABELS, NAMES, build
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
        "gram": numbers(rl.logit_gradient_gram(source)),
        "trace": numbers(rl.gauss_newton_trace(source)),
        "cross-class means": numbers(rl.cross_class_means(source)),
        "hierarchy": hierarchies(source, vectors),
        "streamed": streamed(source, start=vectors, tolerance=0),
        "logits": logits,
        "labels": labels,
        "by group": {f"{g} {name}": numbers(r) for g, m in by_group.items() for name, r in m.items()},
    }


def streamed(source, **options):
    """Outliers without an eigensolver, and lengths of the gradient along them, which have no sign."""
    found = rl.streamed_outliers(source, **options)
    # Errors of a sample are told from groups of examples, which ranks deal out otherwise than one process.
    names = ("eigenvalues", "powers", *(["errors"] if "start" in options else []))
    return {name: numbers(getattr(found, name)) for name in names}


def hierarchies(source, vectors):
    """Products of the parts and their traces, with cross-class means kept and streamed."""
    found = {}
    for keep_pairs in (True, False):
        parts = rl.hierarchy(source, keep_pairs=keep_pairs)
        products = {part: numbers(getattr(parts, part) @ vectors) for part in ("A1", "A2", "B1", "B2")}
        found[str(keep_pairs)] = {**products, "traces": numbers(parts.traces)}
        assert parts.residual_norm < 1e-12
    return found


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
        scale = np.abs(np.nan_to_num(expected)).max(initial=0.0)
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


class Failing:
    """A loader that raises in its passes from the `fails_from`-th on, those of its source's construction included."""

    def __init__(self, batches, fails_from):
        self.batches, self.fails_from, self.passes = batches, fails_from, 0

    def __iter__(self):
        self.passes += 1
        yield self.batches[0]
        if self.fails_from and self.passes >= self.fails_from:
            raise OSError("the disk is gone")
        yield from self.batches[1:]


def message(call, *args, **kwargs):
    """What the call raises, as (type name, text)."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def half(rank, count=N):
    inputs, labels = share(data(count), (count - count // 2, count // 2), rank)
    return inputs, labels


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


def failing_pass(rank, size):
    """A loader too large to keep raises on rank 1 in its second pass, and is well again in its third."""
    inputs, labels = half(rank)
    loader = Failing([(inputs[:2], labels[:2]), (inputs[2:], labels[2:])], 0)
    source = rl.nets.shard(network(), loader, memory_budget=0)
    before = numbers(rl.gradient(source))
    loader.fails_from = loader.passes + 1 if rank == 1 else 0
    told = [message(rl.clustering, source), message(lambda: rl.nets.hessian(source) @ torch.ones(D))]
    loader.fails_from = 0
    return told, np.array_equal(before, numbers(rl.gradient(source)))


def test_an_error_inside_a_pass_ends_it_on_all_and_they_stay_in_step(tmp_path):
    outcomes = run(failing_pass, 2, tmp_path)
    assert all(isinstance(outcome, tuple) for outcome in outcomes), outcomes
    (first, again), (second, also_again) = outcomes
    for outcome in second:
        assert outcome == ("OSError", "the disk is gone")
    for kind, text in first:
        assert kind == "RankError"
        assert text == "rank 0 of 2: rank 1 failed, so all give up: OSError: the disk is gone"
    assert again
    assert also_again


class Killed(Failing):
    def __iter__(self):
        for batch in super().__iter__():
            yield batch
            if self.fails_from and self.passes >= self.fails_from:
                os.kill(os.getpid(), signal.SIGKILL)


def killed_rank(rank, size):
    inputs, labels = share(data(), (4, 4, 3), rank)
    loader = Killed([(inputs[:2], labels[:2]), (inputs[2:], labels[2:])], 0)
    source = rl.nets.shard(network(), loader, memory_budget=0)
    operator = rl.gauss_newton(source)
    vector = operator @ torch.ones(D)
    loader.fails_from = loader.passes + 2 if rank == 1 else 0  # in the midst of the second product
    return [message(lambda: [operator @ vector for _ in range(4)]), message(rl.gradient, source)]


def test_a_killed_rank_ends_the_others_with_its_number(tmp_path):
    outcomes = run(killed_rank, 3, tmp_path)  # which does not wait for the half hour of the time-out
    assert outcomes[1] is None
    for told in (outcomes[0], outcomes[2]):  # at once: the time-out would say that rank 1 did not come
        assert told[0][0] == told[1][0] == "RankError"
        assert re.search("rank 1 died or closed the connection", told[0][1])
        assert re.search("ranks were lost earlier; start them all again", told[1][1])


def late_rank(rank, size, events):
    dist.barrier()  # how late a rank starts is no matter of the time-out
    source = rl.nets.shard(network(), *data(), timeout=3)
    events = dist.FileStore(str(events), size)
    if rank == 1:
        events.wait(["rank 0 has given up"])
    told = message(rl.gradient, source)
    if rank == 0:
        events.set("rank 0 has given up", "")
    # Both are alive: a new source makes new connections.
    return told, numbers(rl.gradient(rl.nets.shard(network(), *data())))


def test_a_rank_that_does_not_come_in_time_is_named(tmp_path):
    (told, value), (_, other) = run(partial(late_rank, events=tmp_path / "events"), 2, tmp_path)
    assert told == ("RankError", "rank 0 of 2: rank 1 did not come to the sum within 3 s (`timeout`)")
    np.testing.assert_array_equal(value, other)
    expected = numbers(rl.gradient(rl.nets.NetworkLogitGradients(network(), *data())))
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)


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


STEPS = 12


def checkpointed(rank, size, steps_before_crash, path):
    source = rl.nets.shard(network(), *data())
    operator = rl.gauss_newton(source)
    products = 0

    def multiply(block):
        nonlocal products
        products += 1
        if rank == 1 and products > steps_before_crash:
            os.kill(os.getpid(), signal.SIGKILL)
        return operator @ block

    watched = type(operator)(multiply, D, operator.prototype)
    # Rank 0 writes its checkpoint now and then, rank 1 never: they stand at different steps.
    mine = source.checkpoint(path)
    try:
        result = rl.lanczos(watched, STEPS, rng=1, checkpoint=mine, checkpoint_interval=1e9 if rank else 0)
    except RankError as error:
        return str(error), products
    return [np.asarray(result.alpha), np.asarray(result.beta)], products


def test_a_checkpointed_run_goes_on_where_rank_0_stood(tmp_path):
    file = tmp_path / "run.npz"
    for name in ("crash", "resumed"):
        (tmp_path / name).mkdir()
    outcomes = run(partial(checkpointed, steps_before_crash=9, path=file), 2, tmp_path / "crash")
    assert outcomes[1] is None
    assert re.search("rank 1 died", outcomes[0][0])
    with np.load(file) as saved:
        stood = saved["alpha"].size
    assert 1 <= stood < STEPS
    resumed = run(partial(checkpointed, steps_before_crash=99, path=file), 2, tmp_path / "resumed")
    expected = rl.lanczos(rl.gauss_newton(rl.nets.NetworkLogitGradients(network(), *data())), STEPS, rng=1)
    for (alpha, beta), products in resumed:
        assert products == STEPS - stood + 1  # and one of these checks that the operator is the same
        np.testing.assert_allclose(alpha, expected.alpha, rtol=1e-8)
        np.testing.assert_allclose(beta, expected.beta, rtol=1e-8)


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
def test_the_script_of_the_readme_runs_under_torchrun():
    pytest.importorskip("sklearn")
    script = Path(__file__).with_name("measure_digits.py")
    printed = []
    for count in (1, 3):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.splitlines())
    assert printed[0][0] == "1000 examples on 1 ranks: (1000,)"
    assert printed[1][0] == "1000 examples on 3 ranks: (333, 333, 334)"
    assert printed[0][1:] == printed[1][1:]
    assert len(printed[0]) == 4
