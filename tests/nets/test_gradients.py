import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rmtland as rl
from rmtland.nets import NetworkLogitGradients, backward, chunks, gradients
from rmtland.nets.budget import Budget
from rmtland.nets.pytrees import check_inputs
from tests.nets.networks import LABELS, NAMES, C, N, build, jacobian


def joined(source):
    return torch.cat([chunk.dense() for chunk in source.chunks()])


@pytest.mark.parametrize("name", NAMES)
def test_every_view_of_the_logit_gradients_against_one_backward_pass_per_output(name):
    module, inputs = build(name)
    expected, outputs = jacobian(module, inputs)
    source = NetworkLogitGradients(module, inputs, LABELS, batch_size=4)
    num_parameters = source.num_parameters
    assert (source.num_examples, source.num_classes, num_parameters) == expected.shape
    chunks = list(source.chunks())
    assert [len(chunk.labels) for chunk in chunks] == [4, 4, 3]
    torch.testing.assert_close(torch.cat([c.logits for c in chunks]), outputs)
    torch.testing.assert_close(joined(source), expected)
    torch.manual_seed(1)
    tangents, cotangents = (
        torch.randn(num_parameters, 3, dtype=torch.float64),
        torch.randn(N, C, 2, dtype=torch.float64),
    )
    torch.testing.assert_close(torch.cat([c.jvp(tangents) for c in chunks]), expected @ tangents)
    pulled = sum(c.vjp(u) for c, u in zip(chunks, cotangents.split(4), strict=True))
    torch.testing.assert_close(pulled, torch.einsum("nkd,nkj->dj", expected, cotangents))


@pytest.mark.parametrize("shape", [(40, 2**17), (3, 2**21), (2**21, 1)])
def test_inputs_are_checked_piece_by_piece_to_the_last(shape, monkeypatch):
    sizes, isfinite = [], torch.Tensor.isfinite
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda part: sizes.append(part.numel()) or isfinite(part))
    inputs = torch.zeros(shape, dtype=torch.float16)
    assert check_inputs((torch.zeros(len(inputs), dtype=torch.int64), inputs)) == len(inputs)
    assert sum(sizes) == inputs.numel()
    assert all(size == min(max(2**20, shape[1]), inputs.numel()) for size in sizes)
    inputs[-1, -1] = float("inf")
    with pytest.raises(ValueError, match="`inputs` must be finite; got NaN or infinite entries"):
        check_inputs(inputs)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ([(3,), (0, 2)], r"must have shape \(N, ...\) with N >= 1; got \[\(3,\), \(0, 2\)\]"),
        ([], r"must have shape \(N, ...\) with N >= 1; got \[\]"),
        ([(0, 4)], r"must have shape \(N, ...\) with N >= 1; got \(0, 4\)"),
        ([(3,), (2,)], r"must hold the same examples in each of their tensors; got shapes \[\(3,\), \(2,\)\]"),
    ],
)
def test_inputs_of_several_tensors_are_told_with_all_their_shapes(shapes, told):
    with pytest.raises(ValueError, match=f"`inputs` {told}$"):
        check_inputs(tuple(torch.zeros(shape) for shape in shapes))
    assert check_inputs((torch.zeros(1), torch.zeros(1, 0))) == 1


@pytest.mark.parametrize("name", ["conv", "tied"])
def test_blocks_of_parameters(name):
    module, inputs = build(name)
    source = NetworkLogitGradients(module, inputs, LABELS)
    (chunk,) = source.chunks()
    whole = chunk.dense()
    size = source.num_parameters
    for block in (
        slice(0, 1),
        slice(3, size // 2),
        slice(size - 2, size),
        slice(None),
        slice(5, 5),
        *source.parameter_groups.values(),
    ):
        torch.testing.assert_close(chunk.dense(block), whole[:, :, block])


def test_parameters_are_laid_out_in_their_own_order():
    module, inputs = build("tied")
    source = NetworkLogitGradients(module, inputs, LABELS)
    assert list(source.parameter_groups) == [
        "a.weight",
        "a.bias",
        "b.bias",
        "unused.weight",
        "unused.bias",
        "head.weight",
    ]
    stops = [group.stop for group in source.parameter_groups.values()]
    assert [g.start for g in source.parameter_groups.values()] == [0, *stops[:-1]]
    assert stops[-1] == source.num_parameters == 16 + 4 + 4 + 4 + 2 + 12
    assert float(joined(source)[:, :, source.parameter_groups["unused.weight"]].abs().max()) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "recurrent"])
def test_rows_of_all_logits_come_side_by_side_where_operations_allow_it(name, monkeypatch):
    def one_after_another(*_):
        raise AssertionError("it must not fall back")

    module, inputs = build(name)
    source = NetworkLogitGradients(module, inputs, LABELS)
    assert source.prototype.shape == (0,)
    monkeypatch.setattr(chunks.NetworkChunk, "_one_row_after_another", one_after_another)
    torch.testing.assert_close(joined(source), jacobian(module, inputs)[0])


def test_rows_one_after_another_are_few_enough_at_a_time(monkeypatch):
    module, inputs = build("recurrent")
    (chunk,) = NetworkLogitGradients(module, inputs, LABELS).chunks()
    several, call = [], backward.Backward.__call__
    monkeypatch.setattr(backward.Backward, "__call__", lambda map, rows: several.append(rows[0]) or call(map, rows))
    for num_bytes, width in ((2**24, 3), (2 * 8 * N * C, 2), (2 * 8 * N * C - 1, 1), (1, 1)):
        monkeypatch.setattr(chunks, "UNIT_BYTES", num_bytes)
        several.clear()
        torch.testing.assert_close(chunk.dense(), jacobian(module, inputs)[0])
        assert max(len(rows) for rows in several) == width
        assert torch.equal(sum(rows.sum(dim=0) for rows in several), torch.ones(N, C))  # each output once


def network_of(num_parameters, dtype=torch.float32):
    """Of few activations, 4 logits, and a little more than as many parameters."""
    return nn.Linear(num_parameters // 4, 4, dtype=dtype)


def largest_block(module, inputs, **options):
    source = NetworkLogitGradients(module, inputs, torch.arange(len(inputs)) % 3, **options)
    return max(len(block.labels) for chunk in source.chunks() for block in chunk.blocks()), source


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_rows_take_32_mebibytes_and_a_quarter_of_the_budget_with_their_copy(dtype):
    each = 4 * 10_004 * dtype.itemsize  # of one example: 4 logits, 10,004 parameters
    module, inputs = network_of(10_000, dtype), torch.randn(250, 2500, dtype=dtype)
    found, source = largest_block(module, inputs, batch_size=250)
    assert source.num_parameters == 10_004
    assert found == 2**25 // each
    found, _ = largest_block(module, inputs, batch_size=250, memory_budget=2**27)
    activations = 4 * source._plan.graph_bytes.forward[1]
    assert found * (2 * each + activations) <= 2**25 < (found + 1) * (2 * each + activations)


def test_dense_rows_leave_room_for_the_activations_of_all_outputs():
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    found, source = largest_block(module, torch.randn(150, 1, 34, 34), memory_budget=0, batch_size=150)
    dense = 4 * 4 * source.num_parameters
    activations = 4 * 4 * 8 * 32**2  # the tanh's outputs, for each of 4 logits
    assert found == pytest.approx(2**24 / (2 * dense + activations), rel=0.05)  # 124


def test_one_example_at_a_time_at_least(monkeypatch):
    monkeypatch.setattr(gradients, "CHUNK_BYTES", 1)
    module, inputs = build("mlp")
    assert largest_block(module, inputs)[0] == 1


def test_batches_fill_a_quarter_of_the_budget_and_16_mebibytes_at_least():
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    inputs = torch.randn(32, 1, 34, 34)
    sizes = []
    for budget in (0, 2**25, 2**27):
        source = NetworkLogitGradients(module, inputs, torch.arange(32) % 3, memory_budget=budget)
        sizes.append(max(chunk.num_inputs for chunk in source.chunks()))
    assert sizes[0] == sizes[1] == pytest.approx(sizes[2] / 2, abs=1)
    assert 2 <= sizes[0] < sizes[2] < 32


def test_the_module_is_left_as_found():
    module, inputs = build("conv")
    module[5].eval()  # a mode of its own
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    source = NetworkLogitGradients(module, inputs, LABELS, batch_size=5)
    rl.clustering(source)
    rl.gauss_newton(source) @ torch.ones(source.num_parameters, dtype=torch.float64)
    rl.nets.hessian(source) @ torch.ones(source.num_parameters, dtype=torch.float64)
    assert [m.training for m in module] == [True] * 5 + [False, True]
    assert module.training
    assert float(module[0].weight.grad.min()) == 1
    assert module[6].weight.grad is None
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_error_in_the_forward_pass_restores_the_mode():
    module, _ = build("conv")
    with pytest.raises(RuntimeError) as raised:
        NetworkLogitGradients(module, torch.randn(3, 5, dtype=torch.float64), torch.tensor([0, 1, 2]))
    assert raised.value.__notes__[0].startswith("raised by `module` on inputs (n, 5) torch.float64 (integers")
    assert all(m.training for m in module.modules())


def test_training_may_go_on_after_the_copy():
    module, inputs = build("mlp")
    source = NetworkLogitGradients(module, inputs, LABELS)
    before = joined(source)
    with torch.no_grad():
        for p in module.parameters():
            p += 1
    torch.testing.assert_close(joined(source), before)
    assert not torch.allclose(joined(NetworkLogitGradients(module, inputs, LABELS)), before)


@pytest.mark.parametrize("memory_budget", [0, 3000, 2**30])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loader_of_unequal_batches_is_the_same_data(memory_budget, shuffle):
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, C)).double()
    x, y = torch.randn(50, 6, dtype=torch.float64), torch.arange(50) % C
    loader = DataLoader(TensorDataset(x, y), batch_size=24, shuffle=shuffle)  # 24, 24, 2
    source = NetworkLogitGradients(module, loader, memory_budget=memory_budget)
    arrays = NetworkLogitGradients(module, x, y)
    assert source.num_examples == 50
    v = torch.randn(source.num_parameters, 2, dtype=torch.float64)
    for operator in (rl.gauss_newton, rl.nets.hessian, rl.nets.logit_curvature):
        product = operator(source)
        torch.testing.assert_close(product @ v, operator(arrays) @ v)
        torch.testing.assert_close(product @ v, operator(arrays) @ v)  # a second pass, kept or not
    torch.testing.assert_close(rl.gradient(source), rl.gradient(arrays))
    assert rl.clustering(source).same_logit == pytest.approx(rl.clustering(arrays).same_logit, rel=1e-12)


def test_what_is_taken_for_graphs_comes_back_with_them():
    budget = Budget(100)
    assert [budget.take(30), budget.take(50, graph=True), budget.take(21), budget.take(20)] == [True, True, False, True]
    assert (budget.taken, budget.left) == (100, 0)
    assert pickle.loads(pickle.dumps(budget)).left == 50  # pickles have no graphs
    for _ in range(2):
        budget.return_graphs()
        assert budget.left == 50
        assert budget.take(10, graph=True)


def test_graphs_that_are_forgotten_are_recorded_anew():
    passes = []

    def forward(module, x):
        passes.append(len(x))
        return module(x)

    module, inputs = build("mlp")
    source = NetworkLogitGradients(module, inputs, LABELS, forward=forward)
    v = torch.ones(source.num_parameters, 1, dtype=torch.float64)
    first = next(iter(source.chunks())).jvp(v)
    passes.clear()
    again = next(iter(source.chunks())).jvp(v)
    assert not passes  # graphs are kept
    source.forget_graphs()
    anew = next(iter(source.chunks())).jvp(v)
    assert passes == [N]
    assert torch.equal(first, again)
    assert torch.equal(first, anew)


def test_the_budget_is_kept():
    module, inputs = build("mlp")
    source = NetworkLogitGradients(module, inputs, LABELS, batch_size=1, memory_budget=1500)
    rl.gauss_newton(source) @ np.ones(source.num_parameters)
    kept = [len(chunk._made) for chunk in source.chunks()]
    assert N < sum(kept) < 4 * N  # all logits, some graphs
    assert source._budget.taken <= 1500


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_agree_with_the_dense_arrays_of_the_same_network(dtype):
    module, inputs = build("relu", dtype)
    source = NetworkLogitGradients(module, inputs.double(), LABELS.numpy(), batch_size=3)
    gradients, logits = jacobian(module, inputs)
    dense = rl.DenseLogitGradients(logits.double().numpy(), LABELS.numpy(), gradients.double().numpy())
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    a, b = rl.clustering(source), rl.clustering(dense)
    assert a.same_logit_same_class == pytest.approx(b.same_logit_same_class, rel=tolerance)
    assert a.different_logits == pytest.approx(b.different_logits, rel=tolerance, abs=tolerance)
    assert rl.logit_scales(source).snr == pytest.approx(rl.logit_scales(dense).snr, rel=tolerance)
    np.testing.assert_allclose(rl.gradient(source), rl.gradient(dense), atol=tolerance)
    np.testing.assert_allclose(
        rl.gauss_newton_spectrum(source).eigenvalues, rl.gauss_newton_spectrum(dense).eigenvalues, atol=tolerance
    )
    v = np.linspace(-1, 1, source.num_parameters)
    product = rl.gauss_newton(source) @ v
    assert isinstance(product, np.ndarray)
    np.testing.assert_allclose(product, rl.gauss_newton(dense) @ v, atol=tolerance)


def test_one_output_without_a_column():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    source = NetworkLogitGradients(module, x, y, loss=rl.Logistic())
    assert source.num_classes == 1
    p = torch.sigmoid(module(x))[:, None]
    ones = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(rl.gradient(source), (ones.T @ (p - y[:, None]))[:, 0].detach() / 7)


def test_squared_error_is_half_of_torchs_sum():
    torch.manual_seed(0)
    module = nn.Linear(3, 1).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    loss = (module(x)[:, 0] - y).square().sum() / (2 * 6)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
    torch.testing.assert_close(rl.gradient(NetworkLogitGradients(module, x, y, loss=rl.SquaredError())), expected)


def test_dead_logit_gradients_are_counted():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        module[0].bias.zero_()
    x = torch.tensor([[1.0, 1], [2, 1], [-1, -1], [1, 3]], dtype=torch.float64)
    q = rl.clustering(NetworkLogitGradients(module, x, torch.tensor([0, 1, 0, 1])))
    assert q.num_zero_gradients == 2  # both logits of the third example


X, Y = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, Y[:3]), ValueError, r"`labels` must have shape \(4,\), one per example; got \(3,\)"),
        ((X, Y + 1), ValueError, r"`labels` must be in 0..2; got 3"),
        ((X, Y - 1), ValueError, r"`labels` must be in 0..2; got -1"),
        ((X, Y.double()), TypeError, "`labels` must be integers; got torch.float64"),
        ((X * float("nan"), Y), ValueError, "`inputs` must be finite; got NaN or infinite entries"),
        ((np.ma.masked_greater(X.numpy(), 0), Y), ValueError, "`inputs` must have no masked entries; got"),
        ((X, np.ma.masked_equal(Y.numpy(), 2)), ValueError, "`labels` must have no masked entries; got 1 of 4"),
        ((X[:0], Y[:0]), ValueError, r"`inputs` must have shape \(N, ...\) with N >= 1; got \(0, 6\)"),
        (([],), ValueError, "`inputs` must hold at least one example; got none"),
        ((X,), TypeError, "`labels` must be given with arrays of inputs; got None"),
        ((iter([(X, Y)]),), TypeError, "`inputs` must be arrays, or a loader that can be iterated over repeatedly"),
        ((3,), TypeError, "`inputs` must be arrays, or a loader that can be iterated over repeatedly; got int"),
        ((torch.tensor(1.0), Y), ValueError, r"`inputs` must have shape \(N, ...\) with N >= 1; got \(\)"),
        ((X, Y[:, None]), ValueError, r"`labels` must have shape \(N,\), one per example; got \(N, 1\)"),
        ((X.to("meta"), Y), TypeError, "`inputs` must be dense .* got one that is on the meta device"),
        ((X, Y.to("meta")), TypeError, "`labels` must be dense .* got one that is on the meta device"),
        ((X.to_sparse(), Y), TypeError, "`inputs` must be dense tensors with values; got one that is sparse"),
    ],
)  # fmt: skip
def test_bad_data(arguments, error, message):
    module, _ = build("mlp")
    with pytest.raises(error, match=message):
        NetworkLogitGradients(module, *arguments)


def test_what_may_not_be_written_to_or_has_a_graph_is_read():
    module, _ = build("mlp")
    array, labels = X.numpy().copy(), torch.softmax(X[:, :3], dim=1).requires_grad_()
    array.flags.writeable = False  # of memory-mapped files, and of pandas
    found = rl.gradient(NetworkLogitGradients(module, array, labels))
    torch.testing.assert_close(found, rl.gradient(NetworkLogitGradients(module, X, labels.detach())))


def test_bad_modules():
    with pytest.raises(TypeError, match=r"`module` must be a torch.nn.Module; got function"):
        NetworkLogitGradients(lambda x: x, X, Y)
    with pytest.raises(ValueError, match="`module` must have at least one parameter that requires grad; got none"):
        NetworkLogitGradients(nn.Flatten(), X, Y)
    mixed = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3).double())
    with pytest.raises(
        ValueError, match="`module` must have parameters of one dtype on one device; got .*float32.*float64"
    ):
        NetworkLogitGradients(mixed, X, Y)
    with pytest.raises(ValueError, match=r"`labels` must have shape \(N, 2\), one per token; got \(N,\)"):
        NetworkLogitGradients(nn.Linear(3, 3).double(), X.reshape(4, 2, 3), Y)
    with pytest.raises(ValueError, match=r"`module` must return shape \(4, C\) or \(4, T, C\); got \(4, 1, 2, 3\)"):
        NetworkLogitGradients(nn.Linear(3, 3).double(), X.reshape(4, 1, 2, 3), Y)
    with pytest.raises(ValueError, match="`logits` must have C >= 2 classes under softmax .*; got C = 1"):
        NetworkLogitGradients(nn.Linear(6, 1).double(), X, Y * 0)

    class Odd(nn.Linear):
        def forward(self, x):
            return {"logits": super().forward(x)}

    with pytest.raises(TypeError, match="`module` must return a tensor of logits; got dict"):
        NetworkLogitGradients(Odd(6, 3).double(), X, Y)

    with pytest.raises(ValueError, match="`module` must have real parameters; got complex ones"):
        NetworkLogitGradients(nn.Linear(6, 3, dtype=torch.complex64), X, Y)

    class Choosing(nn.Linear):
        def forward(self, x):
            return super().forward(x).argsort(dim=1)

    with pytest.raises(TypeError, match="`module` must return real logits; got torch.int64"):
        NetworkLogitGradients(Choosing(6, 3).double(), X, Y)

    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(ValueError, match="`module` must return logits that depend on its parameters; got ones that"):
        NetworkLogitGradients(Detached(6, 3).double(), X, Y)

    class Diverging(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 0

    with pytest.raises(ValueError, match="`logits` must be finite; got NaN or infinite entries"):
        NetworkLogitGradients(Diverging(6, 3).double(), X, Y)


def test_bad_sizes():
    module, inputs = build("mlp")
    with pytest.raises(ValueError, match="`chunk_size` must be >= 1; got 0"):
        NetworkLogitGradients(module, inputs, LABELS, chunk_size=0)
    with pytest.raises(ValueError, match="`memory_budget` must be >= 0; got -1"):
        NetworkLogitGradients(module, inputs, LABELS, memory_budget=-1)


def test_a_loader_that_changes_its_size_is_told():
    module, inputs = build("mlp")

    class Shrinking:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield (inputs, LABELS) if self.passes == 1 else (inputs[:5], LABELS[:5])

    source = NetworkLogitGradients(module, Shrinking(), memory_budget=0)
    with pytest.raises(ValueError, match="`inputs` must yield the same examples in every pass"):
        rl.gradient(source)
    source = NetworkLogitGradients(module, Shrinking(), memory_budget=0, nondeterminism="warn")
    with (
        pytest.warns(RuntimeWarning, match="a loader that augments, drops or repeats some"),
        pytest.raises(RuntimeError, match="num_examples = 11 but its chunks hold 5"),
    ):
        rl.gradient(source)


SEEN = set()


class Strides(torch.nn.Module):
    """A network that notes how its images lie in memory."""

    def __init__(self, channels):
        super().__init__()
        self.layer = torch.nn.Linear(channels * 9, 3)

    def forward(self, x):
        SEEN.add(x.stride()[1:])
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("images", ["channels last", "an axis of one channel put in and chosen from"])
def test_images_lie_in_memory_as_their_shape_says(images):
    """In another format torch's second derivatives of convolutions on a CPU write where they may not, which kills."""
    rng = np.random.default_rng(0)
    if images == "channels last":
        x = torch.as_tensor(rng.standard_normal((6, 2, 3, 3))).to(memory_format=torch.channels_last)
    else:
        x = torch.as_tensor(rng.standard_normal((6, 3, 3))[:, None][rng.permutation(6)])
        assert x.stride()[1] == 1
    SEEN.clear()
    module, labels = Strides(x.shape[1]).double(), np.arange(6) % 3
    source = rl.nets.NetworkLogitGradients(module, x, labels, chunk_size=2)
    vector = rng.standard_normal(source.num_parameters)
    product = rl.nets.hessian(source) @ torch.as_tensor(vector)
    assert {x.contiguous().flatten().view(x.shape).stride()[1:]} == SEEN
    plain = rl.nets.hessian(module, np.ascontiguousarray(x.numpy()).reshape(6, -1).reshape(x.shape), labels)
    np.testing.assert_allclose(product, plain @ torch.as_tensor(vector), rtol=1e-12)
    SEEN.clear()
    rl.nets.train(module, x, labels, epochs=1, batch_size=2)
    assert {x.contiguous().flatten().view(x.shape).stride()[1:]} == SEEN
