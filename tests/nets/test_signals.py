import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import rmtland as rl
from rmtland.nets import signals as signals_module
from rmtland.nets import weight_signals
from rmtland.nets.importance import Sampled
from rmtland.nets.layer_pieces import EmbeddingPiece, FormedPiece, MatrixPiece
from rmtland.nets.reducer import HELD, Reducer
from rmtland.nets.reduction import Focus, Reduction, leading
from rmtland.nets.weight_signals import Formed, Outer
from tests import oracles
from tests.nets.networks import build, jacobian

NAMES = ("conv", "mlp")
TOLD_OF_200 = (np.arange(3, 200, 8), np.arange(7, 200, 8))  # two halves of those that directions are not chosen by


def sources(name, **options):
    module, inputs = build(name)
    labels = torch.arange(len(inputs)) % 3
    return module, inputs, rl.nets.NetworkLogitGradients(module, inputs, labels, **options)


@pytest.mark.parametrize("name", NAMES)
def test_signals_are_the_dense_logit_gradients_less_those_of_the_last(name):
    module, inputs, source = sources(name)
    gradients = jacobian(module, inputs)[0]
    relative = (gradients - gradients[:, -1:]).numpy()
    chunk = next(iter(source.chunks()))
    view = chunk.softmax_view()
    np.testing.assert_allclose(view.dense(), relative, atol=1e-10)
    np.testing.assert_allclose(view.logits, chunk.logits, atol=1e-10)
    tangents = torch.randn(source.num_parameters, 4, dtype=view.logits.dtype)
    np.testing.assert_allclose(view.jvp(tangents), relative @ tangents.numpy(), atol=1e-8)
    cotangents = torch.randn(*view.logits.shape, 4, dtype=view.logits.dtype)
    cotangents -= cotangents.mean(dim=1, keepdim=True)
    expected = np.einsum("ncd,nck->dk", gradients.numpy(), cotangents.numpy())
    np.testing.assert_allclose(view.vjp(cotangents), expected, atol=1e-8)


@pytest.mark.parametrize("positions", [1, 3])
def test_overlaps_of_factors_are_those_of_gradients_written_out(positions):
    generator = torch.Generator().manual_seed(0)

    def some(n):
        inputs = torch.randn(n, positions, 5, generator=generator, dtype=torch.float64)
        signals = torch.randn(n, 2, positions, 6, generator=generator, dtype=torch.float64)
        gradients = torch.einsum("nlpb,npa->nlba", signals, inputs).flatten(2)
        cotangents = torch.randn(n, 2, 7, generator=generator, dtype=torch.float64)
        return Outer(inputs, signals), gradients, cotangents, torch.einsum("nld,nlk->kd", gradients, cotangents)

    (here, gradients, weights, sums), (there, others, more, other_sums) = some(4), some(3)
    expected = (sums * other_sums).sum(dim=1)
    torch.testing.assert_close(here.overlaps(weights, there, more), expected)
    torch.testing.assert_close(Formed(gradients).overlaps(weights, Formed(others), more), expected)
    tangents = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    for kind in (here, here.shortest(), Formed(gradients)):
        torch.testing.assert_close(kind.pushed(tangents, None), gradients @ tangents)
        torch.testing.assert_close(kind.pulled(weights)[0], sums)
    assert isinstance(here.shortest(), Formed if positions > 1 else Outer)


def test_gradients_are_written_out_where_that_takes_few_numbers():
    rng = np.random.default_rng(0)
    kinds = set()
    shapes = [tuple(int(rng.integers(1, most)) for most in (5, 5, 45, 45)) for _ in range(100)]
    for positions, num_logits, b, a in [(2, 1, 20, 20), *shapes]:  # the first takes just as many
        factors = Outer(torch.randn(2, positions, a).double(), torch.randn(2, num_logits, positions, b).double())
        gradients = torch.einsum("nlpb,npa->nlba", factors.signals, factors.inputs).flatten(2)
        kept = factors.inputs[0].numel() + factors.signals[0].numel()
        few = positions > 1 and gradients[0].numel() <= weight_signals.WRITTEN * kept
        kinds.add((positions, few))
        found = factors.shortest()
        if few:
            torch.testing.assert_close(found.gradients, gradients)
        else:
            assert found is factors
    assert kinds == {(1, False), *((p, few) for p in (2, 3, 4) for few in (True, False))}


@pytest.mark.parametrize("positions", [1, 3])
def test_directions_are_chosen_by_both_factors_of_what_the_loss_weighs(positions, monkeypatch):
    """Signals count by the lengths of their inputs, inputs by those of the weighed signals; of many rows some do."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(10, positions, 7, generator=generator).double()
    signals = torch.randn(10, 2, positions, 6, generator=generator).double()
    factor = torch.randn(10, 2, 4, generator=generator).double()
    asked = []
    monkeypatch.setattr(weight_signals, "leading", lambda rows, *settings: asked.append(settings) or rows)
    rows = Outer(inputs, signals).leading(factor, 0.3, (5, 9))
    assert asked == [(5, 0.3), (9, 0.3)]
    moments = [torch.zeros(size, size).double() for size in (6, 7)]
    for x, s, root in zip(inputs, signals, factor, strict=True):
        for p in range(positions):
            for column in root.T:
                gradient = torch.outer(column @ s[:, p], x[p])
                moments[0] += gradient @ gradient.T
                moments[1] += gradient.T @ gradient
    for found, moment in zip(rows, moments, strict=True):
        torch.testing.assert_close(found.T @ found, moment)
    for most in (3, 10, 10 * positions, 1000):
        monkeypatch.setattr(weight_signals, "MOST_ROWS", most)
        for some, found in zip(Outer(inputs, signals).leading(factor, 0.3, (5, 9)), rows, strict=True):
            assert min(most, len(found)) <= len(some) < 2 * most
            assert any(some.shape == found[::j].shape and torch.allclose(some, found[::j]) for j in range(1, 41))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sums_by_class(name, dtype):
    module, inputs, source = sources(name)
    view = next(iter(source.chunks())).softmax_view()
    gradients = jacobian(module, inputs)[0].numpy()
    columns = torch.randn(len(inputs), 3, 3, dtype=torch.float64)
    columns -= columns.mean(dim=1, keepdim=True)
    for classes in (range(1, 3), range(1, 2), range(2), range(3)):
        sums = torch.ones(len(classes), 3, source.num_parameters, dtype=dtype)
        view.add_class_sums(sums, columns, classes)
        for place, c in enumerate(classes):
            some = np.arange(len(inputs)) % 3 == c
            expected = 1 + np.einsum("nkd,nkc->cd", gradients[some], columns.numpy()[some])
            np.testing.assert_allclose(sums[place], expected, atol=1e-8 if dtype == torch.float64 else 1e-3)


def wide(seed=0, num_examples=160):
    """A network of float64 whose inputs and signals have leading directions."""
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(50, 24), nn.Tanh(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    labels = torch.arange(num_examples) % 4
    spread = torch.linspace(0, 6, 50).neg().exp()
    inputs = torch.randn(num_examples, 50).double() * spread + torch.randn(4, 50).double()[labels] * spread
    return module, inputs, labels


def test_a_reduction_is_a_projection_and_its_chunks_those_of_the_subspace():
    module, inputs, labels = wide()
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    reducer = source.reducer(0.01, 1)
    reduction = reducer.reduction
    assert reduction.size < source.num_parameters
    assert sum(place.stop - place.start for place in reduction.places.values()) == reduction.size
    rows = torch.randn(5, source.num_parameters).double()
    coordinates = reduction.project(rows)
    lifted = reduction.lift(coordinates)
    np.testing.assert_allclose(reduction.project(lifted), coordinates, atol=1e-12)
    np.testing.assert_allclose(torch.sum((rows - lifted) * lifted, dim=1), 0, atol=1e-9)
    parts = [small.dense() for chunk in source.chunks() for small in reducer.parts(chunk)]
    gradients = jacobian(module, inputs)[0]
    relative = (gradients - gradients[:, -1:]).flatten(0, 1)
    np.testing.assert_allclose(torch.cat(parts).flatten(0, 1), reduction.project(relative), atol=1e-10)


@pytest.mark.parametrize("names", [("a.weight", "a.bias", "b.weight"), ("a.weight", "a.bias"), ()])
def test_a_focus_leaves_out_an_equal_share_of_every_weight(names):
    """The fewest signals and inputs that do, by singular values; biases follow their weights, others are whole."""
    shapes = {"a.weight": (12, 10), "a.bias": (12,), "b.weight": (9, 12), "c.weight": (3, 9), "c.bias": (3,)}
    shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
    stops = np.cumsum([shape.numel() for shape in shapes.values()]).tolist()
    groups = {
        name: slice(stop - shape.numel(), stop) for (name, shape), stop in zip(shapes.items(), stops, strict=True)
    }
    unit = torch.eye(12).double()
    bases = {"a.weight": (unit[:, :7], unit[:10, :6]), "a.bias": (unit[:, :7], None), "b.weight": (None, unit[:, :8])}
    bases = {name: bases[name] for name in names}
    reduction = Reduction(groups, shapes, bases, {"a.weight": "a.bias", "c.weight": "c.bias"}, every=0)
    weights = {name: size for name, size in {"a.weight": (7, 6), "b.weight": (9, 8)}.items() if name in names}
    vectors = torch.zeros(reduction.size, 5).double()
    for name, (b, a) in weights.items():
        spread = 0.5 ** (torch.arange(b)[:, None] + torch.arange(a)).double()
        blocks = torch.randn(5, b, a, generator=torch.Generator().manual_seed(b)).double() * spread
        vectors[reduction.places[name]] = blocks.flatten(1).T
    vectors /= vectors.norm(dim=0).clamp(min=1e-9)
    for tolerance in (0.1, 1e-3, 1e-6):
        focus = reduction.focus(vectors, tolerance)
        assert list(focus) == list(weights)
        for name, (b, a) in weights.items():
            blocks = vectors[reduction.places[name]].T.reshape(5, b, a)
            for few, rows in ((focus[name].signals, blocks.mT), (focus[name].inputs, blocks)):
                rows = rows.reshape(-1, rows.shape[-1])
                torch.testing.assert_close(few.T @ few, torch.eye(few.shape[1]).double())
                left = (rows - rows @ few @ few.T).square().sum()
                others = torch.linalg.svdvals(rows)[few.shape[1] - 1 :].square().sum()  # with one direction fewer
                assert left <= tolerance * 5 / len(weights) < others
    for one in reduction.focus(vectors, 2.0).values():
        assert one.signals.shape[1] == one.inputs.shape[1] == 1


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize(
    ("fits", "part", "sample", "part_sample"),
    [(5, 10, 20, 20), (30, 30, 30, 30), (70, 70, 50, 70), (500, 160, 50, 160)],
)
def test_parts_and_samples_are_as_large_as_memory_allows(fits, part, sample, part_sample, again, monkeypatch):
    """A sample that is a part of the next pass, as large as a part."""
    for name, value in {"SAMPLE": 20, "LARGE_SAMPLE": 50, "SMALLEST_PART": 10}.items():
        monkeypatch.setattr(f"rmtland.nets.reducer.{name}", value)
    module, inputs, labels = wide(num_examples=160)
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    (chunk,) = source.chunks()
    outputs = module(inputs).detach()
    each = sum(chunk.layers().stored_bytes(name, 3) for name in source.parameter_groups)
    monkeypatch.setattr("rmtland.nets.reducer.PART_BYTES", (fits + 1) * each - 1)
    stride = math.ceil(160 / (part_sample if again else sample))
    whole = math.ceil(HELD * each * 160)
    for memory, held in ((whole, True), (whole - 1, False)):
        reducer = Reducer.of(chunk, source, 0.05, 1, memory, again=again)
        assert reducer.held is held
        torch.testing.assert_close(reducer._logits, outputs[::stride])
        seen = [part.logits for part in reducer.parts(chunk)]
        torch.testing.assert_close(torch.cat(seen).sort(dim=0)[0], outputs.sort(dim=0)[0])
        even = math.ceil(160 / math.ceil(160 / part))
        assert max(map(len, seen)) == (max(even, len(outputs[::stride])) if again else even)


def test_what_a_subspace_leaves_out_is_told_by_examples_that_had_no_say_in_it():
    module, inputs, labels = wide(num_examples=200)

    def bases(inputs):
        pairs = rl.nets.NetworkLogitGradients(module, inputs, labels).reducer(0.05, 1).reduction.bases.values()
        return [basis for pair in pairs for basis in pair if basis is not None]

    plain, others = bases(inputs), inputs.clone()
    others[np.concatenate(TOLD_OF_200)] = torch.randn(
        len(inputs) // 4, 50, generator=torch.Generator().manual_seed(0)
    ).double()
    for one, same in zip(plain, bases(others), strict=True):
        torch.testing.assert_close(one @ one.T, same @ same.T)
    others = inputs.clone()
    others[[0, 1, 2]] *= 20
    assert any(
        a.shape != b.shape or not torch.allclose(a @ a.T, b @ b.T) for a, b in zip(plain, bases(others), strict=True)
    )


def test_what_a_draw_tells_is_told_of_all_examples(monkeypatch):
    monkeypatch.setattr("rmtland.nets.reducer.SAMPLE", 100)
    monkeypatch.setattr("rmtland.nets.reducer.LARGE_SAMPLE", 100)
    module, inputs, labels = wide(num_examples=400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))  # classes that do not take turns
    with torch.no_grad():
        module[-1].weight *= 6  # curvatures that differ
    source = rl.nets.NetworkLogitGradients(module, inputs[order], labels[order])
    reducer = source.reducer(0.05, 1)
    assert len(reducer._logits) == 400
    assert 20 < len(reducer._factor) < 30  # a quarter of those drawn
    vectors = torch.randn(source.num_parameters, 3, generator=torch.Generator().manual_seed(0)).double()
    exact = (vectors * (rl.gauss_newton(source) @ vectors)).sum(dim=0)
    found, error = reducer.energies(vectors, torch.zeros(reducer.reduction.size, 3).double())
    assert bool((error < 0.25 * exact).all())
    assert bool(((found - exact).abs() < 3 * error).all())


def test_what_a_subspace_leaves_out_of_products():
    module, inputs, labels = wide(num_examples=200)
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    reducer = source.reducer(0.05, 1)
    reduction = reducer.reduction
    vectors = torch.linalg.qr(torch.randn(reduction.size, 3).double())[0]
    gradients, outputs = (array.numpy() for array in jacobian(module, inputs))
    halves = []
    weights = np.concatenate([np.arange(g.start, g.stop) for n, g in source.parameter_groups.items() if "weight" in n])
    for some in TOLD_OF_200:
        dense = oracles.gauss_newton(outputs[some], gradients[some])
        image = torch.as_tensor(dense) @ reduction.lift(vectors.T).T
        halves.append((image - reduction.lift(reduction.project(image.T)).T).numpy()[weights])
    np.testing.assert_allclose(reducer.left_out(vectors), np.sum(halves[0] * halves[1], axis=0), rtol=1e-6, atol=1e-14)


def test_leading_directions_hold_what_they_say():
    vectors = torch.randn(500, 40).double() @ torch.diag(0.7 ** torch.arange(40)).double()
    basis = leading(vectors, 30, 1e-3)
    lost = 1 - float((vectors @ basis).square().sum() / vectors.square().sum())
    sizes = torch.linalg.svdvals(vectors) ** 2
    assert 0 < lost <= 1e-3
    assert basis.shape[1] == int(((sizes.sum() - sizes.cumsum(0)) > 1e-3 * sizes.sum()).sum()) + 1
    assert leading(vectors, 5, 1e-9).shape == (40, 5)
    assert leading(torch.randn(100, 20), 30, 1e-3) is None


@pytest.mark.parametrize("sizes", [(160, 64), (128, 50)])
def test_outliers_in_a_subspace_are_those_of_all_parameters(sizes):
    module, inputs, labels = wide()
    values = np.linalg.eigvalsh(rl.gauss_newton(rl.nets.NetworkLogitGradients(module, inputs, labels)).to_dense())[-3:]
    found = []
    for size in sizes:
        source = rl.nets.NetworkLogitGradients(module, inputs, labels, batch_size=size)
        found.append(rl.streamed_outliers(source))
        np.testing.assert_allclose(found[-1].eigenvalues, values, rtol=0.03)
        assert (np.abs(found[-1].eigenvalues - values) <= found[-1].errors).all()
        vectors = found[-1].eigenvectors
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-10)
        whole = rl.streamed_outliers(source, tolerance=0)
        assert np.abs(whole.eigenvalues / found[-1].eigenvalues - 1).max() > 1e-7
        np.testing.assert_allclose(whole.eigenvalues, values, rtol=0.03)


def test_more_outliers_than_examples_have_in_a_subspace():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(60, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    inputs, labels = torch.randn(3, 60).double(), torch.arange(3)
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    values = rl.gauss_newton_spectrum(source).eigenvalues
    assert len(values) == 9
    for passes in (1, 2):
        found = rl.streamed_outliers(source, passes, k=12, num_directions=12)
        np.testing.assert_allclose(found.eigenvalues, [0, 0, 0, *values], rtol=1e-9, atol=1e-15 * values[-1])
        np.testing.assert_allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(12), atol=1e-10)


def test_networks_that_layers_do_not_account_for_go_the_long_way():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(6, 3), nn.Parameter(torch.ones(3))

        def forward(self, inputs):
            return self.layer(inputs) * self.scale

    torch.manual_seed(0)
    source = rl.nets.NetworkLogitGradients(Scaled().double(), torch.randn(60, 6).double(), torch.arange(60) % 3)
    assert source.reducer(0.01, 1) is None
    assert next(iter(source.chunks())).softmax_view() is None
    exact = np.linalg.eigvalsh(rl.gauss_newton(source).to_dense())[-2:]
    np.testing.assert_allclose(rl.streamed_outliers(source).eigenvalues, exact, rtol=0.1)


def wide_convolutions(num_examples=120):
    """A network of float64 whose patches have leading directions, and weights used at several positions."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(72, 4)]
    module = nn.Sequential(*layers).double()
    labels = torch.arange(num_examples) % 4
    coarse = torch.randn(num_examples, 2, 2, 2).double() + torch.randn(4, 2, 2, 2).double()[labels]
    return module, nn.functional.interpolate(coarse, size=(7, 7), mode="bilinear"), labels


def test_sources_with_ignored_examples_go_the_long_way():
    """Wherever the first of them is."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    inputs, labels = torch.randn(100, 20, dtype=torch.float64), torch.arange(100) % 4
    labels[-3] = -100
    source = rl.nets.NetworkLogitGradients(module, inputs, labels, loss=nn.CrossEntropyLoss(), batch_size=32)
    found = rl.streamed_outliers(source, passes=2)
    others = np.delete(np.arange(100), -3)
    expected = rl.streamed_outliers(rl.nets.NetworkLogitGradients(module, inputs[others], labels[others]), passes=2)
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, rtol=0.01)


@pytest.mark.parametrize("network", [wide, wide_convolutions])
def test_positions_are_summed_and_parts_of_any_size_agree(network):
    module, inputs, labels = network()
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    gradients = jacobian(module, inputs)[0]
    relative = (gradients - gradients[:, -1:]).flatten(0, 1)
    chunk = next(iter(source.chunks()))
    factored = chunk.softmax_view(factored=True)
    np.testing.assert_allclose(factored.dense().flatten(0, 1), relative, atol=1e-10)
    columns = torch.randn(len(inputs), 4, 4).double()
    columns -= columns.mean(dim=1, keepdim=True)
    sums = [torch.zeros(4, 4, source.num_parameters).double() for _ in range(2)]
    chunk.softmax_view().add_class_sums(sums[0], columns, range(4))
    factored.add_class_sums(sums[1], columns, range(4))
    np.testing.assert_allclose(sums[0], sums[1], atol=1e-9)
    np.testing.assert_allclose(factored.vjp(columns), chunk.vjp(columns), atol=1e-9)
    reducer = source.reducer(0.02, 1)
    assert any(right is not None for _, right in reducer.reduction.bases.values())
    parts = [small.dense() for chunk in source.chunks() for small in reducer.parts(chunk)]
    np.testing.assert_allclose(torch.cat(parts).flatten(0, 1), reducer.reduction.project(relative), atol=1e-10)


def beyond(reduction, image, name, shape):
    """Of one weight what no closer look sees: outside of the few signals and of the few inputs alike."""
    left, right = (0 if basis is None else basis @ basis.T for basis in reduction.bases[name])
    whole = image.reshape(-1, *shape)
    rest = whole - left @ whole if torch.is_tensor(left) else torch.zeros_like(whole)
    return rest - rest @ right if torch.is_tensor(right) else torch.zeros_like(whole)


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_a_closer_look_sees_inputs_and_signals_in_full(again, held, monkeypatch):
    module, inputs, labels = wide(num_examples=80)
    monkeypatch.setattr("rmtland.nets.reducer.HELD", 1.0 if held else 1e9)
    monkeypatch.setattr("rmtland.nets.reducer.MOST_HELD", (9, 20))
    source = rl.nets.NetworkLogitGradients(module, inputs, labels, batch_size=30)
    reducer = source.reducer(0.05, 1)
    assert reducer.held is held
    if not again:
        reducer._first = None
    reduction = reducer.reduction
    vectors = torch.linalg.qr(torch.randn(reduction.size, 8).double())[0]  # all inputs and signals
    closer = reducer.closer(vectors, 0.0)
    within = torch.zeros(reduction.size, 8).double()
    for chunk in source.chunks():
        for part in reducer.parts(chunk):
            p = part.logits.softmax(dim=1)
            pushed = part.jvp(vectors)
            curved = p[:, :, None] * (pushed - (p[:, :, None] * pushed).sum(dim=1, keepdim=True)) / 80
            within += part.vjp(curved)
            closer.add(part, curved)
    gradients, outputs = (array.numpy() for array in jacobian(module, inputs))
    image = torch.as_tensor(oracles.gauss_newton(outputs, gradients) @ reduction.lift(vectors.T).T.numpy()).T
    np.testing.assert_allclose(within, reduction.project(image).T, atol=1e-10)
    # By definition. Held: of each weight all but what is neither in the subspace's signals nor in its inputs, biases in
    # full. Else what lies in the subspace's signals, whatever the inputs; other tensors projected.
    expected = image.clone() if held else reduction.lift(reduction.project(image))
    shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    seen = 0
    for name, (left, right) in reduction.bases.items():
        group = source.parameter_groups[name]
        if "weight" in name and held:
            missed = beyond(reduction, image[:, group], name, shapes[name])
            seen += bool(missed.abs().max() > 1e-6 * image.abs().max())
            expected[:, group] -= missed.flatten(1)
        elif right is not None and not held:
            whole = image[:, group].reshape(8, *shapes[name])
            expected[:, group] = (whole if left is None else left @ (left.T @ whole)).flatten(1)
            seen += 1
    assert seen > 0
    np.testing.assert_allclose(closer.images(within, 1), expected.T, atol=1e-10)


def test_what_a_closer_look_leaves_out_and_what_single_vectors_have(monkeypatch):
    module, inputs, labels = wide(num_examples=200)
    monkeypatch.setattr("rmtland.nets.reducer.MOST_HELD", (9, 20))
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    reducer = source.reducer(0.05, 1)
    assert reducer.held
    reduction = reducer.reduction
    vectors = torch.linalg.qr(torch.randn(reduction.size, 8).double())[0]  # all inputs and signals
    gradients, outputs = (array.numpy() for array in jacobian(module, inputs))
    shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    halves = []
    for some in TOLD_OF_200:
        image = torch.as_tensor(
            oracles.gauss_newton(outputs[some], gradients[some]) @ reduction.lift(vectors.T).T.numpy()
        )
        halves.append({
            name: beyond(reduction, image[source.parameter_groups[name]].T, name, shapes[name])
            for name in reduction.bases if "weight" in name
        })  # fmt: skip
    expected = sum((halves[0][name] * halves[1][name]).sum(dim=(1, 2)) for name in halves[0])
    assert float(expected.abs().max()) > 1e-12
    np.testing.assert_allclose(reducer.left_out(vectors, reducer.closer(vectors, 0.0)), expected, rtol=1e-5, atol=1e-14)
    told = np.concatenate(TOLD_OF_200)
    single, known = torch.randn(source.num_parameters, 2).double(), torch.randn(reduction.size, 2).double()
    curvatures = [oracles.curvature(z) for z in outputs[told]]
    pushed = gradients[told] @ (single - reduction.lift(known.T).T).numpy()
    each = np.einsum("nck,ncd,ndk->nk", pushed, curvatures, pushed)
    energies, error = reducer.energies(single, known)
    np.testing.assert_allclose(energies, np.mean(each, axis=0), rtol=1e-9)
    np.testing.assert_allclose(error, np.std(each, axis=0, ddof=1) / np.sqrt(50), rtol=1e-9)


def test_signals_beyond_the_subspace_are_told_by_some_of_the_examples(monkeypatch):
    """A draw of them for all, in proportion to their curvatures, with a draw of the noise of that."""
    monkeypatch.setattr("rmtland.nets.importance.FEWEST", 1)
    module, inputs, labels = wide(num_examples=80)
    monkeypatch.setattr("rmtland.nets.reducer.MOST_HELD", (8, 50))
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    reducer = source.reducer(1e-9, 4)  # all inputs, few signals
    reduction = reducer.reduction
    vectors = torch.linalg.qr(torch.randn(reduction.size, 8).double())[0]
    gradients, outputs = (array.numpy() for array in jacobian(module, inputs))
    curvatures = np.array([oracles.curvature(z) for z in outputs])
    pushed = np.einsum("nce,ncd,dk->nek", curvatures, gradients, reduction.lift(vectors.T).T)
    each = torch.as_tensor(np.einsum("ncd,nck->nkd", gradients, pushed)) / 80
    drawn = Sampled.of(torch.as_tensor(np.trace(curvatures, axis1=1, axis2=2)), 20)
    assert len(drawn.places) == 20
    assert drawn.scales.min() < drawn.scales.max()
    told = (drawn.scales[:, None, None] * each[drawn.places]).sum(dim=0)
    noise = (drawn.noise[:, None, None] * each[drawn.places]).sum(dim=0)

    def beyond_signals(image):
        rest = torch.zeros_like(image)
        for name, (left, _) in reduction.bases.items():
            if left is not None:
                matrices = image[:, source.parameter_groups[name]].reshape(8, len(left), -1)
                rest[:, source.parameter_groups[name]] = (matrices - left @ (left.T @ matrices)).flatten(1)
        return rest

    exact = each.sum(dim=0)
    expected = exact - beyond_signals(exact) + beyond_signals(told)
    closer = reducer.closer(vectors, 0.0)
    (part,) = reducer.parts(next(iter(source.chunks())))
    closer.add(part, torch.as_tensor(curvatures) @ part.jvp(vectors))
    images = closer.images(reduction.project(exact).T, 80)
    np.testing.assert_allclose(images, expected.T, atol=1e-12)
    assert float((images - exact.T).abs().max()) > 1e-3 * float(exact.abs().max())
    weights = torch.zeros(source.num_parameters).double()
    for name, group in source.parameter_groups.items():
        weights[group] = float("weight" in name)
    apart, drawn = beyond_signals(noise) * weights, beyond_signals(told) * weights
    squares, products = closer.noise()
    np.testing.assert_allclose(squares, apart @ apart.T, atol=1e-12)
    np.testing.assert_allclose(products, drawn @ apart.T, atol=1e-12)
    assert not any(noise.any() for noise in source.reducer(1e-9, 1).closer(vectors, 0.0).noise())


def test_a_start_has_a_product_in_the_subspace_before_the_last():
    """From a direction that holds little of the outliers; without that product errors are above 0.5 per cent."""
    module, inputs, labels = wide(num_examples=200)
    with torch.no_grad():
        for p in module.parameters():
            p *= 3  # much spread within classes
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    exact = np.linalg.eigvalsh(rl.gauss_newton(source).to_dense())[-3:]
    torch.manual_seed(0)
    found = rl.streamed_outliers(source, start=torch.randn(source.num_parameters, 1).double())
    assert np.abs(found.eigenvalues / exact - 1).max() < 1e-3
    assert found.num_products == 6 + 4 + 4  # filled up with directions of F


@pytest.mark.slow
@pytest.mark.parametrize("network", [wide, wide_convolutions])
def test_two_passes_are_better_than_one_whatever_the_memory_and_the_chunks(network):
    module, inputs, labels = network(num_examples=200)
    exact = np.linalg.eigvalsh(rl.gauss_newton(rl.nets.NetworkLogitGradients(module, inputs, labels)).to_dense())[-3:]
    found = {}
    for size in (200, 37):
        for budget in (2**30, 0):
            source = rl.nets.NetworkLogitGradients(module, inputs, labels, batch_size=size, memory_budget=budget)
            assert source.reducer(0.01, 1).held  # the least that a source may take holds so few
            for passes in (1, 2):
                found[size, budget, passes] = rl.streamed_outliers(source, passes)
    for (size, budget, passes), one in found.items():
        assert (one.eigenvalues <= exact * (1 + 1e-9)).all()
        assert np.abs(one.eigenvalues / exact - 1).max() < (0.01 if size == 200 else 0.05)
        np.testing.assert_allclose(one.eigenvalues, found[size, 2**30, passes].eigenvalues, rtol=1e-9)
        vectors = one.eigenvectors
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-10)
        assert one.num_products == {1: 2 * 3 + 2 * 4, 2: 2 * 3 + 2 * 6}[passes]
        if passes == 2:
            before = np.abs(found[size, budget, 1].eigenvalues / exact - 1).mean()
            assert np.abs(one.eigenvalues / exact - 1).mean() < before


@pytest.mark.parametrize("count", [1, 4])
def test_what_is_left_out_is_not_told_of_fewer_than_two_examples(count):
    module, inputs, labels = wide(num_examples=count)
    reducer = rl.nets.NetworkLogitGradients(module, inputs, labels).reducer(0.01, 1)
    vectors = torch.randn(reducer.reduction.size, 3).double()
    torch.testing.assert_close(reducer.left_out(vectors), torch.zeros(3).double(), rtol=0, atol=0)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_the_unit_of_the_parameters_does_not_matter():
    """Neither to the outliers nor to whether they are looked at again; powers of two change no digit."""
    module, inputs, labels = wide(num_examples=200)
    found = []
    for factor in (2.0**10, 2.0**-10):  # the outliers are 0.05 to 0.6
        layers = []
        for layer in copy.deepcopy(module):
            layers += [layer, Times(factor)] if isinstance(layer, nn.Linear) else [layer]
        scaled = nn.Sequential(*layers)
        with torch.no_grad():
            for p in scaled.parameters():
                p /= factor
        source = rl.nets.NetworkLogitGradients(scaled, inputs, labels)
        found.append(rl.streamed_outliers(source, passes=1, k=8).eigenvalues / factor**2)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def test_what_is_not_held_is_found_anew(monkeypatch):
    module, inputs, labels = wide(num_examples=400)
    exact = np.linalg.eigvalsh(rl.gauss_newton(rl.nets.NetworkLogitGradients(module, inputs, labels)).to_dense())[-3:]
    source = rl.nets.NetworkLogitGradients(module, inputs, labels, batch_size=150)
    held = {passes: rl.streamed_outliers(source, passes).eigenvalues for passes in (1, 2)}
    monkeypatch.setattr("rmtland.nets.reducer.HELD", 1e9)
    streamed = {passes: rl.streamed_outliers(source, passes) for passes in (1, 2)}
    errors = {passes: np.abs(one.eigenvalues / exact - 1).mean() for passes, one in streamed.items()}
    assert errors[2] < errors[1] < 0.05
    assert np.abs(held[1] / exact - 1).mean() < errors[1]
    np.testing.assert_allclose(streamed[2].eigenvalues, held[2], rtol=1e-3)
    assert (np.abs(streamed[1].eigenvalues - exact) <= streamed[1].errors).all()


@pytest.mark.parametrize("scale", [0.0, 1e9])
def test_a_network_that_tells_nothing(scale):
    """Without weights in the last layer but its own gradients, and with examples that are all frozen."""
    module, inputs, labels = wide(num_examples=60)
    with torch.no_grad():
        module[-1].weight *= scale
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    exact = np.linalg.eigvalsh(rl.gauss_newton(source).to_dense())[-3:]
    for passes in (1, 2):
        found = rl.streamed_outliers(source, passes)
        np.testing.assert_allclose(found.eigenvalues, exact, rtol=0.02, atol=1e-12)
        np.testing.assert_allclose(found.eigenvectors.T @ found.eigenvectors, np.eye(3), atol=1e-10)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + 100 * len(shape))).double()


@pytest.mark.parametrize("weighed", ["signals", "inputs", "both", "neither"])
@pytest.mark.parametrize("positions", [1, 3])
def test_examples_are_chosen_with_all_that_is_kept_of_them(positions, weighed):
    """Whole inputs and signals where they are kept and asked for."""
    rows = {"inputs": random(6, positions, 4), "signals": random(6, 2, positions, 3)}
    if weighed in ("inputs", "both"):
        rows["whole_inputs"] = random(6, positions, 9)
    if weighed in ("signals", "both"):
        rows["whole_signals"] = random(6, 2, positions, 8)
    for examples in (torch.tensor([4, 1]), slice(2, 5)):
        for whole in (True, False):
            found = Outer(**rows).chosen(examples, whole=whole)
            for name in ("inputs", "signals", "whole_inputs", "whole_signals"):
                if name in rows and (whole or "whole" not in name):
                    assert torch.equal(getattr(found, name), rows[name][examples])
                else:
                    assert getattr(found, name) is None
        assert torch.equal(Formed(rows["inputs"]).chosen(examples).gradients, rows["inputs"][examples])


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("turns", [(True, True), (True, False), (False, True), (False, False)])
def test_gradients_in_few_directions_are_turned_ones(positions, turns):
    """Beside them all inputs, where these are in few, and the signals asked for, where those are."""
    n, logits, b, a = 6, 2, 8, 9
    inputs, signals = random(n, positions, a), random(n, logits, positions, b)
    left, right = (torch.linalg.qr(random(size, few))[0] if turn else None for size, few, turn in
                   zip((b, a), (5, 6), turns, strict=True))  # fmt: skip
    matrices = torch.einsum("nlpb,npa->nlba", signals, inputs)
    expected = matrices if left is None else torch.einsum("bq,nlba->nlqa", left, matrices)
    expected = (expected if right is None else expected @ right).flatten(2)
    for whole in (None, slice(None), torch.tensor([5, 0])):
        for factors in (10**9, 0):
            # Written out or not.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(weight_signals, "WRITTEN", factors)
                found = Outer(inputs, signals).reduced(left, right, whole)
            unit = torch.eye(expected.shape[2]).double()
            torch.testing.assert_close(found.pushed(unit, None), expected)
            if positions > 1 and factors:
                assert isinstance(found, Formed)
                continue
            if right is None:
                assert found.whole_inputs is None
            else:
                torch.testing.assert_close(found.whole_inputs, inputs)
            if left is None or whole is None:
                assert found.whole_signals is None
            else:
                torch.testing.assert_close(found.whole_signals, signals[whole])


@pytest.mark.parametrize("positions", [1, 3])
def test_what_outer_products_push_and_pull_with_their_biases(positions):
    n, logits, b, a, k = 7, 2, 4, 5, 3
    inputs, signals = random(n, positions, a), random(n, logits, positions, b)
    matrices, biases = torch.einsum("nlpb,npa->nlba", signals, inputs).flatten(2), signals.sum(dim=2)
    tangents, of_bias, cotangents = random(b * a, k), random(b, k), random(n, logits, k)
    rows = Outer(inputs, signals)
    torch.testing.assert_close(rows.pushed(tangents, None), matrices @ tangents)
    torch.testing.assert_close(rows.pushed(tangents, of_bias), matrices @ tangents + biases @ of_bias)
    for found, each in zip(rows.pulled(cotangents), (matrices, biases), strict=True):
        torch.testing.assert_close(found, torch.einsum("nlk,nld->kd", cotangents, each))
    labels = torch.tensor([1, 0, 3, 1, 0, 1, 3])  # class 2 is empty
    order, counts = labels.argsort(), labels.bincount(minlength=4).tolist()
    for dtype in (torch.float64, torch.float32):
        for kind in (rows, Formed(matrices)):
            sums = torch.ones(4, k, b * a + b, dtype=dtype)  # with strides between rows
            own = sums[..., b * a :] if kind is rows else None
            kind.add_class_sums(cotangents, order, counts, sums[..., : b * a], own)
            for c in range(4):
                some = labels == c
                expected = torch.einsum("nlk,nld->kd", cotangents[some], torch.cat([matrices, biases], dim=2)[some])
                if own is None:
                    expected[:, b * a :] = 0
                torch.testing.assert_close(sums[c].double() - 1, expected, rtol=1e-4, atol=1e-4)
    sums = torch.zeros(4, k, b * a).double()
    rows.add_class_sums(cotangents, order, counts, sums, None)
    torch.testing.assert_close(sums.sum(dim=0), rows.pulled(cotangents)[0])


def test_sums_beyond_few_directions_are_added_in_double_precision():
    parts = [random(2, 3, 4).float(), random(1, 2, 3, 4).float(), random(2, 3).float()]
    others = [part.flip(-1) / 3 for part in parts]
    for missing in range(4):
        mine = [None if place == missing else part for place, part in enumerate(parts)]
        theirs = [None if place == missing else part for place, part in enumerate(others)]
        one = weight_signals.Beyond(*mine).added_to(None)
        both = weight_signals.Beyond(*theirs).added_to(one)
        for name, a, b in zip(("wide", "tall", "bias"), mine, theirs, strict=True):
            if a is None:
                assert getattr(one, name) is getattr(both, name) is None
            else:
                torch.testing.assert_close(getattr(one, name), a.double(), rtol=0, atol=0)
                torch.testing.assert_close(getattr(both, name), a.double() + b.double(), rtol=0, atol=0)


def test_a_bias_goes_with_its_weight_where_its_gradients_are_the_weights_signals():
    n, b = 5, 3

    def pieces(positions=1, groups=1, a=1, bias=None, name="layer."):
        weight = MatrixPiece(random(n, groups, a, positions), random(n, groups, b, positions))
        own = FormedPiece(weight.signals.sum(dim=(1, 3)) if bias is None else bias)
        return {f"{name}weight": weight, f"{name}bias": own, "weight.other": weight}

    for name in ("layer.", ""):
        for a in (1, 4):
            found = pieces(a=a, name=name)
            assert signals_module._bias_of(f"{name}weight", found) == f"{name}bias"
            assert signals_module._bias_of("weight.other", found) is None
            assert signals_module._bias_of(f"{name}bias", found) is None
            del found[f"{name}bias"]
            assert signals_module._bias_of(f"{name}weight", found) is None
    for other in (pieces(positions=2), pieces(groups=2), pieces(bias=random(n, b) + 1), pieces(a=4, bias=random(n, 7))):
        assert signals_module._bias_of("layer.weight", other) is None
    found = pieces()
    assert signals_module._bias_of("layer.weight", {**found, "layer.weight": found["layer.bias"]}) is None
    assert signals_module._bias_of("layer.weight", {**found, "layer.bias": found["layer.weight"]}) is None


@pytest.mark.parametrize("form", ["matrix", "groups", "formed", "table"])
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize(("reduced", "factored"), [(False, False), (False, True), (True, False)])
def test_logits_stacked_one_after_another_are_those_gradients_turned(form, positions, reduced, factored):
    n, count, b, a = 5, 3, 4, 6
    groups = 2 if form == "groups" else 1

    def piece(k):
        scale = random(n, groups, b // groups, positions) + k
        matrix = MatrixPiece(random(n, groups, a, positions), scale)
        looked = torch.arange(n * positions).reshape(n, positions) % b
        forms = {
            "formed": FormedPiece(matrix.formed()),
            "table": EmbeddingPiece(looked, random(n, a, positions) + k, b),
        }
        return forms.get(form, matrix)

    gradients = torch.stack([piece(k).formed() for k in range(count)], dim=1)
    left, right = torch.linalg.qr(random(b, 3))[0], torch.linalg.qr(random(a, 4))[0]
    unit = torch.eye(b * a).double()
    for bases in [(left, right), (None, right), (left, None), (None, None)] if reduced else [(None, None)]:
        for whole in (None, slice(None), torch.tensor([3, 1])):
            stack = signals_module._Stack(piece(0), count, bases, whole, reduced, factored)
            for k in range(count):
                stack.add(k, piece(k))
            made = stack.made()
            factors = form == "matrix" and (positions == 1 or factored or reduced)
            if not factors:
                assert isinstance(made, Formed)
                torch.testing.assert_close(made.gradients, gradients)
                continue
            expected = gradients.reshape(n, count, b, a)
            expected = expected if bases[0] is None else bases[0].T @ expected
            expected = (expected if bases[1] is None else expected @ bases[1]).flatten(2)
            torch.testing.assert_close(made.pushed(unit[: expected.shape[2], : expected.shape[2]], None), expected)
            assert isinstance(made, Outer) or (reduced and positions > 1)
            if isinstance(made, Outer) and reduced and whole is not None and bases[0] is not None:
                every = torch.stack([piece(k).signals[:, 0].mT for k in range(count)], dim=1)
                torch.testing.assert_close(made.whole_signals, every[whole])
            elif isinstance(made, Outer):
                assert made.whole_signals is None
            if isinstance(made, Outer) and bases[1] is not None:
                torch.testing.assert_close(made.whole_inputs, piece(0).inputs[:, 0].mT)


@pytest.mark.parametrize("kept", ["both", "inputs", "signals", "neither"])
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("sampled", [True, False])
def test_sums_beyond_few_directions_are_those_of_whole_inputs_and_of_whole_signals(positions, kept, sampled):
    n, logits, k, (b, q, j), (a, r, i) = 7, 2, 3, (8, 5, 2), (9, 6, 4)
    left, right = torch.linalg.qr(random(b, q))[0], torch.linalg.qr(random(a, r))[0]
    whole = {"inputs": random(n, positions, a), "signals": random(n, logits, positions, b)}
    told = Sampled(torch.tensor([1, 4, 6]), random(3).abs(), random(3)) if sampled else None
    places = torch.arange(n) if told is None else told.places
    few = Outer(
        whole["inputs"] @ right, whole["signals"] @ left,
        whole["inputs"] if kept in ("both", "inputs") else None,
        whole["signals"][places] if kept in ("both", "signals") else None,
    )  # fmt: skip
    focus, cotangents = Focus(random(q, j), random(r, i)), random(n, logits, k)
    found = few.pulled_beyond(cotangents, focus, told)
    each = torch.einsum("nlk,nlpb,npa->nkba", cotangents, whole["signals"], whole["inputs"])  # gradients in full
    if kept in ("both", "inputs"):
        expected = torch.einsum("bj,nkba->kja", left @ focus.signals, each)
        torch.testing.assert_close(found.wide, expected)
    else:
        assert found.wide is None
    if kept in ("both", "signals"):
        factors = torch.ones(1, n).double() if told is None else torch.stack([told.scales, told.noise])
        expected = torch.einsum("fn,nkba,ai->fkbi", factors, each[places], right @ focus.inputs)
        torch.testing.assert_close(found.tall, expected)
        biases = torch.einsum("n,nlk,nlpb->kb", factors[0], cotangents[places], whole["signals"][places])
        torch.testing.assert_close(found.bias, biases)
    else:
        assert found.tall is found.bias is None
    if sampled and kept in ("both", "signals"):
        return
    # The same as factors, the first less the second and the third less the fourth: beyond the few of the other side.
    views = [view.pushed(torch.eye(view.inputs.shape[2] * view.signals.shape[3]).double(), None)
             for view in few.seen_beyond(focus)]  # fmt: skip
    matrices = torch.einsum("nlpb,npa->nlba", whole["signals"], whole["inputs"])
    wide, tall = (left @ focus.signals).T @ matrices, matrices @ right @ focus.inputs
    for view, full, turned, kind in (
        (0, wide, wide @ right, "inputs"), (1, wide, wide @ right, None),
        (2, tall, left.T @ tall, "signals"), (3, tall, left.T @ tall, None),
    ):  # fmt: skip
        expected = full if kind is not None and kept in ("both", kind) else turned
        torch.testing.assert_close(views[view], expected.flatten(2))
