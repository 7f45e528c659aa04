"""A chunk's maps, parts and memory, and the network's snapshot under it, called directly."""

import math
import threading

import pytest
import torch
from torch import nn

import rmtland as rl
from rmtland.nets import NetworkLogitGradients, backward, chunks, determinism, layer_rows, twice
from rmtland.nets.backward import Backward
from rmtland.nets.batches import Batch
from rmtland.nets.determinism import Fingerprint
from rmtland.nets.snapshot import Snapshot, single
from tests.nets.networks import C, N, build

LABELS = torch.arange(N) % C


def source_of(name="mlp", **options):
    module, inputs = build(name)
    return NetworkLogitGradients(module, inputs, LABELS, **options)


def one_chunk(name="mlp", **options):
    return next(iter(source_of(name, **options).chunks()))


@pytest.mark.parametrize("num_outputs", [1, 2, 3])
def test_a_softmax_of_two_outputs_has_a_view_and_one_of_one_has_none(num_outputs):
    module, inputs = nn.Linear(4, num_outputs).double(), torch.randn(N, 4).double()
    loss = rl.Logistic() if num_outputs == 1 else rl.CrossEntropy()
    (chunk,) = NetworkLogitGradients(module, inputs, torch.arange(N) % 2, loss).chunks()
    view = chunk.softmax_view()
    assert (view is None) == (num_outputs == 1)
    if view is not None:
        torch.testing.assert_close(view.dense(), chunk.dense() - chunk.dense()[:, -1:])
        (some,) = NetworkLogitGradients(module, inputs, torch.arange(N) % 2, loss, ignore_index=1).chunks()
        assert some.softmax_view() is None


def test_what_parts_free_is_given_back_with_their_chunk(monkeypatch):
    freed = []
    monkeypatch.setattr(chunks, "give_back_freed_pages", freed.append)
    chunk = one_chunk()
    chunk.release()
    freed.clear()
    chunk.release()
    assert not freed
    assert sum(len(part.labels) for part in chunk.parts()) == N
    chunk.release()
    chunk.release()
    assert freed == [C * chunk._bytes("forward")]
    assert freed[0] > 0


def test_columns_of_a_product_fill_the_memory_that_they_may_take():
    for dtype, size in ((torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 4)):
        chunk = one_chunk()
        module, inputs = build("mlp", dtype)
        (chunk,) = NetworkLogitGradients(module, inputs, LABELS).chunks()
        v = chunk.network.vector.numel()
        # Tangents, products and sums of these; outputs, tangents and cotangents of them, each with a copy.
        column = size * (3 * v + 6 * N * C)
        for count in (1, 2, 5):
            for less in (0, 1):
                object.__setattr__(chunk.plan, "rows_bytes", count * column - less)
                assert chunk.num_columns == max(1, count - less)


def test_room_is_made_where_graphs_take_most_of_the_budget(monkeypatch):
    source = source_of(memory_budget=10**9)
    forgotten = []
    monkeypatch.setattr(source, "forget_graphs", lambda: forgotten.append(source._budget.taken))
    for taken, forgets in ((0, False), (499_999_999, False), (500_000_000, False), (500_000_001, True), (10**9, True)):
        source._budget.taken = taken
        forgotten.clear()
        assert source.room() == max(10**9 - taken, 2**26)
        assert bool(forgotten) == forgets


@pytest.mark.parametrize("width", [1, 2, 3, 100])
def test_rows_go_back_as_many_at_once_as_fit(width, monkeypatch):
    monkeypatch.setattr(backward, "CACHE_BYTES", 10 * width + 9)
    x, y = torch.randn(3).double().requires_grad_(), torch.randn(2).double().requires_grad_()
    values = [x**2, torch.zeros(4), (x[:2] * y).sum()[None]]
    back, passed = Backward(values, [x, y], 10), []
    plain = back._pass
    back._pass = lambda rows, batched: passed.append(len(rows[0]) if batched else 0) or plain(rows, batched=batched)
    rows = [torch.randn(5, *value.shape).double() for value in values]
    found = back(rows)
    of_x = 2 * x * rows[0]
    of_x[:, :2] += y * rows[2]
    torch.testing.assert_close(found[0], of_x.detach())
    torch.testing.assert_close(found[1], (x[:2] * rows[2]).detach())
    assert passed == {1: [0] * 5, 2: [2, 2, 0], 3: [3, 2], 100: [5]}[width]  # 0: by itself
    back.add_to(found, rows)
    torch.testing.assert_close(found[0], 2 * of_x.detach())
    constant = Backward([torch.zeros(4)], [x], 10)([rows[1]])
    assert torch.equal(constant[0], torch.zeros(5, 3).double())
    assert Backward(values, [x], 0)._width == 10 * width + 9


def test_operations_without_a_rule_for_rows_side_by_side_go_one_by_one():
    class Cubed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, u):
            assert math.isfinite(float(u.sum()))  # a number for all rows together there is not
            return 3 * ctx.saved_tensors[0] ** 2 * u

    x, rows = torch.randn(3).double().requires_grad_(), torch.randn(4, 3).double()
    back = Backward([Cubed.apply(x)], [x], 1)
    torch.testing.assert_close(back([rows])[0], 3 * x.detach() ** 2 * rows)
    assert back._width == 1


def test_a_snapshot_holds_vectors_as_its_tensors():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 4, bias=False)).double()
    module[1].weight.requires_grad_(False)
    network = Snapshot(module)
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    assert list(network.groups) == names
    constants = [module[1].weight, *module.buffers()]
    assert network.num_bytes == 8 * 18 + sum(t.numel() * t.element_size() for t in constants)
    vector = torch.arange(18.0).double()
    for name, part in network.unflatten(vector).items():
        assert torch.equal(part.reshape(-1), vector[network.groups[name]])
        assert part.shape == dict(module.named_parameters())[name].shape
    block = torch.randn(18, 2)
    for name, part in zip(names, network.split(block), strict=True):
        assert part.dtype == torch.float64
        assert torch.equal(part.reshape(2, -1), block[network.groups[name]].T.double())
    for some in (names, names[1:], names[1:3], names[2:3]):
        groups = {name: network.groups[name] for name in some}
        first, last = groups[some[0]].start, groups[some[-1]].stop
        total, parts = network.zeros(2, None if some == names else groups)
        assert total.shape == (last - first, 2)
        assert total.dtype == torch.float64
        assert not total.any()
        assert len(parts) == len(some)
        for name, part in zip(some, parts, strict=True):
            part += torch.randn(2, *network.shapes[name])
            group = groups[name]
            assert torch.equal(total[group.start - first : group.stop - first], part.reshape(2, -1).T)
    assert Snapshot(module.half()).zeros(1)[0].dtype == torch.float32


class Counting(nn.Module):
    """Whose buffer each pass writes to, whose logits depend on it, and which keeps what its first pass made."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.kept = None

    def forward(self, x):
        self.passes += 1
        self.kept = torch.full((2,), 3.0) if self.kept is None else self.kept
        return self.layer(x) * self.passes * self.scale * self.kept


@pytest.mark.parametrize("owned", [True, False])
def test_every_pass_begins_with_the_buffers_of_the_snapshot(owned):
    module, x = Counting(), torch.randn(4, 3)
    if not owned:
        module.lock = threading.Lock()  # cannot be copied
    network = Snapshot(module)
    assert network._owned is owned
    expected = 3 * module.layer(x)
    network.find_written_buffers(x)
    assert network._written == {"passes"}
    for parameters in (network.leaves, network.parameters, network.leaves):
        torch.testing.assert_close(network.outputs(parameters, x), expected)
    torch.autograd.grad(network.outputs(network.leaves, x).sum(), list(network.leaves.values()))
    assert float(network.constants["passes"]) == float(module.passes) == 0


def test_half_precision_alone_is_widened():
    for dtype, wide in (
        (torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):  # fmt: skip
        tensor = torch.ones(2, dtype=dtype)
        assert single(tensor).dtype == wide
        assert (single(tensor) is tensor) == (dtype == wide)


def test_second_derivatives_of_what_does_not_depend_on_a_tensor_are_zero():
    x, y, z = (torch.randn(3).double().requires_grad_() for _ in range(3))
    slopes = torch.autograd.grad((x**3 * y.detach()).sum() + (2 * y).sum(), (x, y, z), create_graph=True,
                                 materialize_grads=True)  # fmt: skip
    vector = [torch.ones(3).double()] * 3
    product = twice._product(slopes, (x, y, z), vector)
    for found, expected in zip(product, (6 * x * y, 0 * x, 0 * x), strict=True):
        torch.testing.assert_close(found, expected.detach())
    constant = twice._product([slope.detach() for slope in slopes], (x, y, z), vector)
    assert [float(part.abs().max()) for part in constant] == [0, 0, 0]
    x, y, z = x.detach(), y.detach(), z.detach()
    assert twice._inner([x, y], [x, z]) == pytest.approx(float(x @ x + y @ z))


def test_rows_to_compare_with_come_from_forward_passes_over_single_examples():
    network = Snapshot(nn.Linear(3, 2).double())
    inputs, seen = torch.randn(4, 3).double(), []
    plain = network.outputs
    network.outputs = lambda parameters, x: seen.append(len(x)) or plain(parameters, x)
    cotangents, rows = layer_rows._one_by_one(network, layer_rows.Examples(inputs))
    assert seen == [1] * 4
    assert cotangents.shape == (4, 2)
    assert len(cotangents.unique()) == 8
    expected = torch.cat([torch.einsum("nb,na->nba", cotangents, inputs).flatten(1), cotangents], dim=1)
    torch.testing.assert_close(rows, expected)
    tokens = layer_rows.Examples(torch.randn(2, 5, 3).double(), torch.tensor([4, 1]), 5)
    cotangents, rows = layer_rows._one_by_one(network, tokens)
    picked = tokens.inputs[torch.arange(2), tokens.tokens]
    torch.testing.assert_close(rows[:, :6], torch.einsum("nb,na->nba", cotangents, picked).flatten(1))
    # A tensor without numbers agrees with nothing.
    assert layer_rows._agree(None, torch.zeros(3, 0), 1.0)


@pytest.mark.parametrize("name", ["mlp", "recurrent"])
def test_dense_rows_of_any_parameters_are_those_columns(name):
    """Side by side, or one after another."""
    chunk = one_chunk(name)
    every = chunk.dense()
    size, starts = every.shape[2], [group.start for group in chunk.network.groups.values()]
    assert not chunk.logits.is_inference()
    for part in (slice(0, 0), slice(3, 3), slice(size, None), slice(1, 2), slice(0, starts[1]), slice(starts[1], -1)):
        torch.testing.assert_close(chunk.dense(part), every[:, :, part])
    for start in starts[1:]:
        torch.testing.assert_close(chunk.dense(slice(start - 1, start + 1)), every[:, :, start - 1 : start + 1])


def test_passes_know_their_examples_in_any_order_and_cut():
    x, y = 1e6 * torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    x[0], x[3] = 0, 2e6  # two of a class
    order = torch.tensor([3, 1, 5, 0, 2, 4])

    def of(*cuts, inputs=x, labels=y, weights=None):
        found = Fingerprint()
        for cut in cuts:
            found.add(Batch(inputs[cut], labels[cut], None if weights is None else weights[cut]))
        return found

    whole, nothing = of(slice(None)), Fingerprint()
    for same in (of(slice(0, 2), slice(2, 6)), of(order[:4], order[4:]), of(slice(None))):
        assert whole.same(same)
        assert same.same(whole)
    other, swapped, moved = x.clone(), y.clone(), x.clone()
    other[2, 1] *= 1 + 1e-6
    alike = torch.cat([torch.tensor([[2e6, 0]]), x[1:3], torch.tensor([[2e6, 0]]), x[4:]])  # whose sums are the same
    swapped[:2] = y[:2].flip(0)
    moved[:2] = x[:2].flip(0)
    for others in (
        of(slice(0, 5)), of(slice(None), slice(0, 1)), of(slice(None), inputs=other), of(slice(None), labels=swapped),
        of(slice(None), inputs=moved), of(slice(None), inputs=alike), of(slice(None), weights=torch.ones(6)), nothing,
    ):  # fmt: skip
        assert not whole.same(others)
        assert not others.same(whole)
    assert not nothing.same(nothing)
    ones = torch.ones(6)
    assert not of(slice(None), weights=ones).same(of(slice(None), labels=swapped, weights=ones))
    alone = of(slice(None), labels=0 * y, weights=torch.arange(6.0))
    assert not alone.same(of(slice(None), labels=0 * y, weights=torch.arange(6.0).flip(0)))
    weighed = of(slice(None), weights=torch.arange(6.0))
    assert weighed.same(of(order, weights=torch.arange(6.0)))
    assert not weighed.same(of(slice(None), weights=torch.arange(6.0).flip(0)))


TOLERANCES = [(1.49e-7, torch.float64), (3.45e-3, torch.float32), (0.1, torch.bfloat16)]


@pytest.mark.parametrize(("tolerance", "dtype"), TOLERANCES)
def test_logits_are_the_same_up_to_ten_roots_of_the_precision_and_a_tenth(tolerance, dtype):
    """Of the largest of all."""
    first = torch.tensor([[0.0, -4.0], [1.0, 0.5]], dtype=torch.float64)
    for off, same in ((0.0, True), (0.9, True), (1.15, False), (-0.9, True), (-1.15, False)):
        second = first + torch.tensor([[0.0, 0.0], [0.0, 4 * tolerance * off]], dtype=torch.float64)
        # What is compared may be finer than the dtype that tells the tolerance.
        a = first.to(dtype)
        assert determinism._same(a, second) == same
    assert determinism._same(0 * first, 0 * first)
    assert determinism._same(first * math.nan, first)  # which the loss tells
    assert not determinism._same(0 * first, first)
