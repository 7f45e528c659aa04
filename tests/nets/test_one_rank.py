"""A process group of one rank, in the process of the test: what several do with each other is in `test_distributed`."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

import rmtland as rl
from rmtland.nets import ranks as ranks_module
from rmtland.nets.distributed import EmptyChunk, EmptySource, _is_empty, _prototype
from rmtland.nets.ranks import RankError, Ranks, place_in
from rmtland.nets.snapshot import Snapshot
from tests.nets.shares import C, D, data, network


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.fixture
def ranks(group):
    return Ranks.of(None, 20.0)


def test_ranks_of_a_group_are_made_once_for_each_time_out(ranks, group):
    assert Ranks.of(group, 20.0) is ranks
    assert Ranks.of(None, 30.0) is not ranks
    assert (ranks.rank, ranks.size, ranks.timeout) == (0, 1, 20.0)
    assert place_in(None) == (0, 1)
    with pytest.raises(ValueError, match="a group that this rank belongs to"):
        place_in(dist.GroupMember.NON_GROUP_MEMBER)
    for size in (0, 1, 5):
        assert rl.nets.rank_range(size) == range(size)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (0, 4)])
def test_sums_and_gathered_rows_of_one_rank_are_its_own(ranks, monkeypatch, dtype, shape):
    monkeypatch.setattr(ranks_module, "BLOCK_ENTRIES", 4)
    x = torch.arange(int(np.prod(shape)) + 1.0)[1:].reshape(shape).to(dtype)
    for found in (ranks.sum(x, 1), *([ranks.gather(x, 1)] if shape else [])):
        assert found.dtype == dtype
        assert found.shape == x.shape
        assert torch.equal(found, x)
    assert ranks.gather_objects({"a": x.shape}) == [{"a": x.shape}]


@pytest.mark.parametrize("content", [None, b"", b"0123456789" * 7])
def test_a_file_of_rank_0_stays_as_it_is(ranks, monkeypatch, tmp_path, content):
    monkeypatch.setattr(ranks_module, "BLOCK_ENTRIES", 4)
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    ranks.copy_file(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [content] * (content is not None)


def test_what_is_reported_ends_the_next_sum_once(ranks):
    error = ValueError("something")
    ranks.report(error)
    ranks.report(error)
    assert len(ranks._pending) == 1
    note = ranks._note("error", 0)
    note["failed"], note["said"] = 1, b"ValueError: something"
    with pytest.raises(RankError, match="rank 0 of 1: rank 0 failed, so all give up: ValueError: something") as told:
        ranks._check(note[None])
    ranks.report(told.value)  # everybody knows
    assert len(ranks._pending) == 1
    assert torch.equal(ranks.sum(torch.ones(2), 1), torch.ones(2))
    assert ranks._pending == []


def test_lost_ranks_stay_lost_and_new_ones_are_made(ranks, monkeypatch):
    monkeypatch.setattr(ranks_module, "GRACE", 0.0)
    late = ranks._lost(RuntimeError("Timed out waiting 20000ms"))
    assert str(late) == "rank 0 of 1: another rank did not come to the sum within 20 s (`timeout`)"
    with pytest.raises(RankError, match="ranks were lost earlier; start them all again"):
        ranks.sum(torch.ones(1), 1)
    ranks.report(ValueError("nobody hears it"))
    assert ranks._pending == []
    again = Ranks.of(None, 20.0)
    assert again is not ranks
    assert "another rank died or closed the connection" in str(again._lost(RuntimeError("Connection closed by peer")))


def test_ranks_that_do_not_answer_are_named(ranks, monkeypatch):
    class Store:
        def __init__(self):
            self.keys = {"rmtland/left/2"}

        def set(self, key, value):
            self.keys.add(key)

        def check(self, keys):
            return set(keys) <= self.keys

    store = Store()
    ranks.rank, ranks.size = 1, 5
    ranks._control = type("Control", (), {"get_group_store": lambda self: store})()
    monkeypatch.setattr(ranks_module, "GRACE", 0.1)
    assert str(ranks._lost(RuntimeError("closed"))).startswith("rank 1 of 5: ranks 0, 3, 4 died or closed")
    assert "rmtland/left/1" in store.keys
    store.keys |= {"rmtland/left/0", "rmtland/left/3"}
    ranks._control = type("Control", (), {"get_group_store": lambda self: store})()
    assert str(ranks._lost(RuntimeError("closed"))).startswith("rank 1 of 5: rank 4 died")


def test_operands_are_held_against_each_other_at_the_next_meeting_alone(ranks):
    x = torch.tensor([3.0, -4.0], dtype=torch.float64)
    ranks.announce(x)
    np.testing.assert_allclose(ranks.meet("sum", 1, x)["operand"][0, :2], [-1, 5])
    np.testing.assert_array_equal(ranks.meet("sum", 1, x)["operand"], np.zeros((1, 3)))
    gathered = ranks.meet("gather", 7, torch.ones(4, 2, 3))[0]
    assert (gathered["kind"], gathered["source"], gathered["rows"], gathered["dtype"]) == (b"gather", 7, 4, b"float32")
    assert gathered["shape"].tolist() == [2, 2, 3, 0, 0, 0]


def test_a_source_of_one_rank_gives_the_numbers_of_the_source(group):
    inputs, labels = data()
    weights = torch.linspace(0.5, 2, len(labels), dtype=torch.float64)
    alone = rl.nets.NetworkLogitGradients(network(), inputs, labels, weights=weights)
    shared = rl.nets.shard(network(), inputs, labels, weights=weights)
    assert (shared.num_examples, shared.num_classes, shared.num_parameters) == (len(labels), C, D)
    assert shared.examples_per_rank == (len(labels),)
    assert dict(shared.parameter_groups) == dict(alone.parameter_groups)
    np.testing.assert_allclose(rl.gradient(shared), rl.gradient(alone), rtol=1e-12)
    spectra = [rl.gauss_newton_spectrum(source).eigenvalues for source in (shared, alone)]
    np.testing.assert_allclose(*spectra, rtol=1e-10, atol=1e-12)
    another = rl.nets.shard(network(), inputs, labels)
    assert another._number == shared._number + 1  # each source has a number of its own
    with pytest.raises(ValueError, match=f"a dataset of {len(labels) + 1} and {len(labels)} examples on 1 ranks"):
        rl.nets.DistributedSource(alone, num_examples=len(labels) + 1)
    with pytest.raises(ValueError, match="at least one example on some rank"):
        rl.nets.DistributedSource(None)


@pytest.mark.parametrize("prototype", [np.empty(0), torch.empty(0, dtype=torch.float32)], ids=["numpy", "torch"])
def test_a_chunk_without_examples_has_the_shapes_of_one(prototype):
    source = type("Source", (), {"prototype": prototype, "num_classes": 3, "num_parameters": 7})()
    chunk = EmptyChunk(source)
    tangents, cotangents = np.ones((7, 2)), np.ones((0, 3, 4))
    assert chunk.logits.shape == (0, 3)
    assert chunk.labels.shape == (0,)
    assert "int" in str(chunk.labels.dtype)
    assert chunk.jvp(tangents).shape == (0, 3, 2)
    assert chunk.dense().shape == (0, 3, 7)
    assert chunk.dense(slice(1, 5)).shape == (0, 3, 4)
    assert chunk.dense(slice(-2, None)).shape == (0, 3, 2)
    zero = chunk.vjp(cotangents)
    assert zero.shape == (7, 4)
    assert not zero.any()
    assert {type(x) for x in (zero, chunk.logits, chunk.labels)} == {type(prototype)}


@pytest.mark.parametrize(("device", "kind"), [(None, np.ndarray), ("cpu", torch.Tensor)])
def test_a_rank_without_examples_computes_with_what_the_others_have(device, kind):
    made = _prototype(EmptySource(), {"dtype": "float32", "device": device})
    assert isinstance(made, kind)
    assert str(made.dtype).endswith("float32")
    assert made.shape == (0,)


def test_a_rank_without_examples_computes_as_its_network_does():
    made = _prototype(EmptySource(Snapshot(network())), {"dtype": "float64", "device": "cpu"})
    assert (made.shape, made.dtype) == ((0,), torch.float64)


def test_loaders_with_a_length_and_without_are_empty_or_not():
    assert [_is_empty(loader) for loader in ([], [1], iter([]), iter([0]))] == [True, False, True, False]


def test_a_sampler_that_repeats_examples_is_told_from_the_dataset_it_deals_out(group):
    dataset = torch.utils.data.TensorDataset(*data())
    sampler = torch.utils.data.DistributedSampler(dataset, num_replicas=2, rank=0, shuffle=False)  # 6 of 11
    with pytest.raises(ValueError, match="a dataset of 11 and 6 examples on 1 ranks$"):
        rl.nets.shard(network(), torch.utils.data.DataLoader(dataset, 3, sampler=sampler))
    told = rl.nets.shard(network(), torch.utils.data.DataLoader(dataset, 3, sampler=sampler), num_examples=6)
    assert told.num_examples == 6


def test_time_outs_of_less_than_a_second(group):
    assert Ranks.of(None, 0.5).timeout == 0.5


@pytest.mark.parametrize(
    ("backends", "direct"),
    [
        ("cpu:gloo,cuda:nccl", {"cuda"}),
        ("cpu:gloo,cuda:gloo", set()),
        ("cpu:mpi,cuda:nccl,xpu:fake", {"cpu", "cuda"}),
        ("", set()),
    ],
)
def test_tensors_are_summed_where_they_lie_by_backends_that_can(group, monkeypatch, backends, direct):
    monkeypatch.setattr(dist, "get_backend_config", lambda group: backends)
    ranks, x = Ranks(group, 20.0), torch.ones(2)
    assert ranks._direct == direct
    carried, through = ranks._carried(x)
    assert torch.equal(carried, x)
    assert through is (group if "cpu" in direct else ranks._control)


def test_all_ranks_take_as_much_memory_as_the_least_of_them_has(group, monkeypatch):
    inputs, labels = data()
    alone = rl.nets.NetworkLogitGradients(network(), inputs, labels)
    shared, taken = rl.nets.DistributedSource(alone), []
    monkeypatch.setattr("rmtland.nets.distributed.layer_matrices", lambda *given: taken.append(given[-1]) or iter(()))
    for everyone, least in (([None, 7, None, 5], 5), ([None, None], None), ([alone.room()], alone.room())):
        rooms = iter([[(), None], everyone])
        monkeypatch.setattr(shared, "gather_objects", lambda thing, rooms=rooms: next(rooms))
        shared._matrices(None, None, [], [])
        assert taken.pop() == least
    asked = []
    monkeypatch.setattr(shared, "gather_objects", lambda thing: asked.append(thing) or [thing])
    shared._matrices(None, None, [], [])
    assert asked[1] == taken.pop() == alone.room()


def test_tokens_and_ignored_labels_are_no_other_dataset(group):
    """The size that is compared is the dataset's: sequences count once, and inputs whose labels are ignored too."""
    module, inputs, labels = torch.nn.Linear(4, C).double(), torch.randn(5, 6, 4).double(), torch.zeros(5, 6).long()
    labels[1, 2:] = labels[3] = -100
    dataset = torch.utils.data.TensorDataset(inputs, labels)
    sampler = torch.utils.data.DistributedSampler(dataset, 1, 0, shuffle=False)
    for given in ((inputs, labels), (torch.utils.data.DataLoader(dataset, 2, sampler=sampler),)):
        source = rl.nets.shard(module, *given, ignore_index=-100)
        assert source.num_examples == 30 - 4 - 6
    flat = rl.nets.shard(module, inputs[:, 0], labels[:, 0], ignore_index=-100)
    assert flat.num_examples == 4
    rl.nets.DistributedSource(rl.nets.NetworkLogitGradients(module, *given, ignore_index=-100), num_examples=5)
    with pytest.raises(ValueError, match="a dataset of 6 and 5 examples"):
        rl.nets.DistributedSource(rl.nets.NetworkLogitGradients(module, *given, ignore_index=-100), num_examples=6)


@pytest.mark.parametrize("means", [[1.0, 1.0, 1.0], [1.0, 2.0, 5.0], [0.5, 0.5, 0.5], [1.0, 1.0, 4.0]])
@pytest.mark.parametrize("own", [0, 3])
def test_weights_are_divided_by_their_mean_over_all_ranks_examples(own, means):
    """On every rank that has some, where any has weights; the source that was given stays as it is."""
    divided, counts = [], [3, 2, 5]
    local = type("Local", (), {"num_examples": own, "divide_weights": lambda self, by: divided.append((self, by))})()
    source = object.__new__(rl.nets.DistributedSource)
    source._local, source.num_examples = local, sum(counts)
    everyone = [{"mean_weight": m, "num_examples": n} for m, n in zip(means, counts, strict=True)]
    source._weigh(everyone)
    if own and means != [1, 1, 1]:
        ((told, by),) = divided
        assert by == pytest.approx(np.average(means, weights=counts))
        assert told is source._local is not local
    else:
        assert not divided
        assert source._local is local
