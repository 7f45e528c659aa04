import dataclasses

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.nets import dense_second_derivatives, mlp, second_derivatives
from tests.nets.networks import LABELS, NAMES, build, flat, full_hessian


@pytest.mark.parametrize("name", NAMES)
def test_hessian_is_gauss_newton_plus_logit_curvature(name):
    module, inputs = build(name)
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4)
    hessian = rl.nets.hessian(source).to_dense()
    expected = full_hessian(module, inputs, LABELS).numpy()
    if len(expected) == source.num_parameters:  # else rows of unused parameters are missing from the oracle
        np.testing.assert_allclose(hessian, expected, atol=1e-12)
    curvature = rl.nets.logit_curvature(source).to_dense()
    np.testing.assert_allclose(rl.gauss_newton(source).to_dense() + curvature, hessian, atol=1e-12)
    assert np.abs(curvature).max() > 1e-3


def test_the_reversed_sign_of_the_paper_is_told_apart():
    module, inputs = build("mlp")
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS)
    hessian, curvature = rl.nets.hessian(source).to_dense(), rl.nets.logit_curvature(source).to_dense()
    wrong = rl.gauss_newton(source).to_dense() - curvature  # dL/dz = y - p of Fort and Ganguli eq. (6)
    assert np.abs(wrong - hessian).max() > 0.1 * np.abs(hessian).max()


def test_blocks_vectors_and_libraries_agree():
    module, inputs = build("mlp")
    operator = rl.nets.hessian(module, inputs, LABELS, batch_size=5)
    matrix = operator.to_dense()
    block = np.random.default_rng(0).normal(size=(operator.shape[0], 4))
    np.testing.assert_allclose(operator @ block, matrix @ block, atol=1e-12)
    np.testing.assert_allclose(operator @ block[:, 0], matrix @ block[:, 0], atol=1e-12)
    np.testing.assert_allclose(operator.to_scipy() @ block, matrix @ block, atol=1e-12)
    assert isinstance(operator @ torch.ones(operator.shape[0], dtype=torch.float64), torch.Tensor)
    assert operator.dtype == torch.float64
    assert operator.device == torch.device("cpu")


def test_losses_other_than_cross_entropy():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x, y = torch.randn(9, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0, 1, 0, 0])
    for loss, values in (
        (rl.Logistic(), lambda z: torch.nn.functional.binary_cross_entropy_with_logits(z, y.double())),
        (rl.SquaredError(), lambda z: (z - y).square().mean() / 2),
    ):
        source = rl.nets.NetworkLogitGradients(module, x, y, loss=loss)
        parameters = list(module.parameters())
        gradient = torch.cat([
            g.reshape(-1) for g in torch.autograd.grad(values(module(x)[:, 0]), parameters, create_graph=True)
        ])  # fmt: skip
        rows = [
            flat(torch.autograd.grad(g, parameters, retain_graph=True, allow_unused=True), parameters) for g in gradient
        ]
        expected = torch.stack(rows).numpy()
        np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), expected, atol=1e-12)
        split = rl.gauss_newton(source).to_dense() + rl.nets.logit_curvature(source).to_dense()
        np.testing.assert_allclose(split, expected, atol=1e-12)


def test_a_source_comes_with_its_data():
    module, inputs = build("mlp")
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS)
    with pytest.raises(TypeError, match="`inputs`, `labels` and `loss` come with the source"):
        rl.nets.hessian(source, inputs, LABELS)
    with pytest.raises(TypeError, match="`inputs` must be given with a module; got None"):
        rl.nets.logit_curvature(module)


class Branches(torch.nn.Module):
    """Linear layers side by side and one after another, registered in another order than they are called in."""

    def __init__(self):
        super().__init__()
        self.last, self.side = torch.nn.Linear(4, 3), torch.nn.Linear(5, 4)
        self.first, self.middle = torch.nn.Linear(5, 4), torch.nn.Linear(4, 4)
        self.middle.weight.requires_grad_(False)
        self.first.bias.requires_grad_(False)

    def forward(self, x):
        hidden = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.middle(hidden)) * torch.sigmoid(self.side(x)) + hidden)


@pytest.mark.parametrize("count", [1, 9])
def test_the_matrix_of_branches_and_of_layers_called_in_any_order(count, monkeypatch):
    torch.manual_seed(0)
    module = Branches().double()
    inputs, labels = torch.randn(count, 5, dtype=torch.float64), LABELS[:count]
    if count > 1:  # in several parts
        monkeypatch.setattr("rmtland.nets.dense_second_derivatives.WORK_BYTES", 2000)
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    expected = full_hessian(module, inputs, labels).numpy()
    gauss = rl.gauss_newton(source).to_dense()

    def column_by_column(*_):
        raise AssertionError("it must not fall back")

    monkeypatch.setattr(rl.spectra.operators.SymmetricOperator, "to_dense", column_by_column)
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), expected, atol=1e-13)
    np.testing.assert_allclose(gauss + rl.nets.logit_curvature(source).to_dense(), expected, atol=1e-13)


@pytest.mark.parametrize("widths", [(2, 9, 3), (20, 3), (2, 20)], ids=["pairs", "inputs", "outputs"])
def test_products_of_a_few_examples_fill_the_memory_for_them(widths, monkeypatch):
    torch.manual_seed(0)
    module = mlp(widths)
    numbers, add = [], dense_second_derivatives._Sums._add

    def noted(sums, key, left, right):
        numbers.append((len(left), max(left.shape[1] + right.shape[1] if key[0] == key[1] else right.shape[1], 1)))
        add(sums, key, left, right)

    monkeypatch.setattr(dense_second_derivatives._Sums, "_add", noted)
    source = rl.nets.NetworkLogitGradients(
        module, torch.randn(13, widths[0], dtype=torch.float64), torch.arange(13) % 3
    )
    whole = rl.nets.hessian(source).to_dense()
    assert {examples for examples, _ in numbers} == {13}
    largest = max(each for _, each in numbers)
    numbers.clear()
    monkeypatch.setattr(dense_second_derivatives, "WORK_BYTES", 8 * 6 * largest)
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), whole, atol=1e-13)
    assert max(examples for examples, _ in numbers) == 6
    numbers.clear()
    monkeypatch.setattr(dense_second_derivatives, "WORK_BYTES", 1)
    np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), whole, atol=1e-13)
    assert {examples for examples, _ in numbers} == {1}


def test_other_parameters_some_columns_at_a_time(monkeypatch):
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(9, 5, dtype=torch.float64), LABELS[:9])
    operator, multiplied = rl.nets.hessian(source), []
    expected, plain = operator @ np.eye(source.num_parameters), second_derivatives.dense_second_derivative

    def counted(source, slope, columns, decay):
        return plain(source, slope, lambda block: multiplied.append(block.shape[1]) or columns(block), decay)

    monkeypatch.setattr(second_derivatives, "dense_second_derivative", counted)
    for num_bytes, widths in ((3 * 8 * 47, [3, 3, 2]), (3 * 8 * 47 - 1, [2] * 4), (1, [1] * 8)):
        monkeypatch.setattr(dense_second_derivatives, "WORK_BYTES", num_bytes)
        multiplied.clear()
        np.testing.assert_allclose(rl.nets.hessian(source).to_dense(), expected, atol=1e-13)
        assert multiplied == widths  # of the norm's 8 parameters, with 47 entries each


def test_blocks_some_columns_at_a_time(monkeypatch):
    module, inputs = build("mlp")
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4)
    assert next(source.chunks()).num_columns > 1000
    block = torch.randn(source.num_parameters, 5, dtype=torch.float64)
    whole = [operator @ block for operator in (rl.nets.hessian(source), rl.gauss_newton(source))]
    for rows_bytes, width in ((1, 1), (2 * 8 * (3 * source.num_parameters + 6 * 4 * 3), 2)):
        plan = rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4)._plan
        narrow = rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4)
        narrow._chunks = [chunk.under(dataclasses.replace(plan, rows_bytes=rows_bytes)) for chunk in narrow._chunks]
        assert next(narrow.chunks()).num_columns == width
        torch.testing.assert_close(rl.nets.hessian(narrow) @ block, whole[0])
        torch.testing.assert_close(rl.gauss_newton(narrow) @ block, whole[1])


def test_parameters_of_linear_layers_are_not_multiplied_column_by_column(monkeypatch):
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(9, 5, dtype=torch.float64), LABELS[:9])
    plain, multiplied = second_derivatives.dense_second_derivative, []

    def counted(source, slope, columns, decay):
        return plain(source, slope, lambda block: multiplied.append(block.shape[1]) or columns(block), decay)

    monkeypatch.setattr(second_derivatives, "dense_second_derivative", counted)
    for decay in (0.0, 0.3):
        operator = rl.nets.hessian(source, weight_decay=decay)
        np.testing.assert_allclose(operator.to_dense(), operator.to_dense(block_size=7), atol=1e-13)
    assert multiplied == [8, 8]  # the norm's


def test_weight_decay_adds_the_derivatives_of_an_l2_term():
    module = Branches().double()
    inputs = torch.randn(9, 5, dtype=torch.float64)
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS[:9], batch_size=4)
    parameters = torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])
    torch.testing.assert_close(rl.gradient(source, weight_decay=0.3), rl.gradient(source) + 0.3 * parameters)
    identity = np.eye(source.num_parameters)
    for operator in (rl.nets.hessian, rl.gauss_newton):
        plain, decayed = operator(source), operator(source, weight_decay=0.3)
        np.testing.assert_allclose(decayed.to_dense(), plain.to_dense() + 0.3 * identity, atol=1e-13)
        np.testing.assert_allclose(
            decayed @ identity[:, :3], plain @ identity[:, :3] + 0.3 * identity[:, :3], atol=1e-13
        )
        with pytest.raises(ValueError, match="`weight_decay` must be >= 0; got -1"):
            operator(source, weight_decay=-1)
    arrays = rl.DenseLogitGradients(np.zeros((2, 2)), np.array([0, 1]), np.ones((2, 2, 3)))
    with pytest.raises(
        TypeError, match="`weight_decay` must be 0 for a source that does not know its parameters; got 0.1"
    ):
        rl.gradient(arrays, weight_decay=0.1)
    np.testing.assert_allclose(rl.gauss_newton(arrays, weight_decay=0.1) @ np.ones(3), np.full(3, 0.1))


@pytest.mark.parametrize("function", [rl.nets.hessian, rl.nets.logit_curvature])
def test_diagonal_blocks_of_groups(function):
    module, inputs = build("mlp")
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS)
    whole = function(source).to_dense()
    for group, place in source.parameter_groups.items():
        block = function(rl.restrict(source, group))
        np.testing.assert_allclose(block.to_dense(), whole[place, place], atol=1e-13)
        assert block.dtype == torch.float64
    if function is rl.nets.hessian:
        decayed = rl.nets.hessian(rl.restrict(source, group), weight_decay=0.5).to_dense()
        np.testing.assert_allclose(decayed, whole[place, place] + 0.5 * np.eye(len(decayed)), atol=1e-13)
    with pytest.raises(TypeError, match="`inputs`, `labels` and `loss` come with the source"):
        function(rl.restrict(source, group), inputs, LABELS)
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module; got DenseLogitGradients"):
        function(rl.DenseLogitGradients(np.zeros((2, 2)), np.array([0, 1]), np.ones((2, 2, 3))))


@pytest.mark.parametrize("counts", [(1,), (5,), (3, 2)])
def test_sums_of_layers_are_those_over_examples_one_after_another(counts):
    """Of each pair of layers; what a layer has with itself is symmetric in its outputs and in its inputs."""
    rng, shapes = torch.Generator().manual_seed(0), [(2, 3), (4, 1), (3, 5)]
    sums = dense_second_derivatives._Sums(shapes)
    # What an example's part of a product takes: its symmetric halves, or all of the rest beside the first's inputs.
    halves = [o * (o + 1) // 2 + i * (i + 1) // 2 for o, i in shapes]
    assert sums.largest == max(2 * 4 * 1, 2 * 3 * 5, 4 * 3 * 5, *halves)
    expected = {}
    for n in counts:
        for one, (o, i) in enumerate(shapes):
            a = torch.randn(n, i, generator=rng).double()
            second = torch.randn(n, o, o, generator=rng).double()
            second = second + second.mT
            sums.add_within(one, second, a)
            expected[one, one] = expected.get((one, one), 0) + torch.einsum("nij,np,nq->ipjq", second, a, a)
            for other in range(one + 1, len(shapes)):
                rest = torch.randn(n, o, *shapes[other], generator=rng).double()
                sums.add_between(one, other, a, rest)
                expected[one, other] = expected.get((one, other), 0) + torch.einsum("ni,nopq->oipq", a, rest)
    for pair, block in expected.items():
        torch.testing.assert_close(sums.block(*pair), block)
    wide = dense_second_derivatives._Sums([(20, 3), (1, 2)])
    assert wide.largest == 20 * 21 // 2 + 3 * 4 // 2
