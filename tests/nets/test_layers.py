import dataclasses
import gc
import warnings
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rmtland as rl
from rmtland.logits.accumulate import SharedChunk
from rmtland.logits.gradients import example_slices
from rmtland.nets import chunks, layer_pieces, layer_rows
from rmtland.nets.layers import known_layers, record
from tests import oracles
from tests.nets.networks import LABELS, NAMES, C, N, build, jacobian

# What the layers do not account for, tensor by tensor; all else must not fall back.
REST = {
    "recurrent": {"cell.weight_ih_l0", "cell.weight_hh_l0", "cell.bias_ih_l0", "cell.bias_hh_l0"},
    "attention": {
        "layer.self_attn.in_proj_weight",
        "layer.self_attn.in_proj_bias",
        "layer.self_attn.out_proj.weight",
        "layer.self_attn.out_proj.bias",
    },
}


class Zoo(nn.Module):
    """Residual reuse, a tied embedding, dead units, activations in place, grouped and dilated convolutions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4, padding_idx=1)
        self.shared = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2)
        self.circular = nn.Conv1d(6, 4, 2, stride=2, padding=1, padding_mode="circular", bias=False)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, C)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + torch.tanh(self.shared(x))
        x = self.norm(x + torch.relu_(self.shared(x)))
        x = torch.relu_(self.conv(x.mT))
        x = self.circular(x).mean(2) * self.scale
        return self.head(torch.relu(x) @ self.embed.weight.T[:, :4])


class Rounds(nn.Module):
    """Two-dimensional: strides, groups, reflection, batch norm, layer norm over pixels, a layer applied twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.batch = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, (3, 1), padding="same", padding_mode="reflect")
        self.pixels = nn.LayerNorm([4, 5])
        self.group = nn.GroupNorm(2, 4)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.flat = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, C)

    def forward(self, x):
        x = torch.relu(self.batch(self.first(x)))
        x = self.again(torch.tanh(self.again(x)))
        x = self.group(torch.tanh(self.frozen(self.pixels(x)))).mean((2, 3))
        return self.head(self.flat(torch.tanh(x)))


class TiedTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(C, 4)
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, C)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.inner(self.embed(tokens))).mean(1))


class Awkward(nn.Module):
    """A weight that is also read directly, and a layer whose outputs do not lead with the examples."""

    def __init__(self):
        super().__init__()
        self.inner, self.crossed, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, C)

    def forward(self, x):  # (n, 3, 4)
        x = torch.tanh(self.inner(x) + x @ self.inner.weight)
        x = torch.tanh(self.crossed(x.transpose(0, 1))).transpose(0, 1)
        return self.head(x.sum(1))


class Mixture(nn.Module):
    """Of two experts, each of which sees the examples that are sent to it, and an offset for all of them."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, C)
        self.offset = nn.Embedding(3, 5)
        self.shifts = nn.ParameterList([torch.rand(5), torch.rand(5)])

    def forward(self, x):
        some = x[:, 0] > 0
        hidden = x.new_zeros(len(x), 5)
        hidden[some] = torch.tanh(self.first(x[some]) + self.shifts[0])
        hidden[~some] = torch.tanh(self.second(x[~some]) + self.shifts[1])
        return self.head(hidden + self.offset(torch.tensor(2)))


EXTRA = {
    "mixture": (
        Mixture,
        lambda: torch.cat([torch.rand(4, 4), -torch.rand(3, 4), torch.randn(N - 7, 4)]),
        {*(f"{expert}.{role}" for expert in ("first", "second") for role in ("weight", "bias"))}
        | {"offset.weight", "shifts.0", "shifts.1"},
    ),
    "zoo": (Zoo, lambda: torch.randint(0, 6, (N, 7)), {"embed.weight", "scale"}),
    "rounds": (Rounds, lambda: torch.randn(N, 2, 7, 9), set()),
    "tied_table": (TiedTable, lambda: torch.randint(0, C, (N, 5)), set()),
    "awkward": (Awkward, lambda: torch.randn(N, 3, 4), {"inner.weight", "crossed.weight", "crossed.bias"}),
}


def network(name, dtype=torch.float64):
    if name in NAMES:
        return *build(name, dtype), REST.get(name, set())
    torch.manual_seed(0)
    make, inputs, rest = EXTRA[name]
    module, x = make().to(dtype), inputs()
    if name == "rounds":
        for _ in range(3):  # running statistics other than 0 and 1
            module(torch.randn(16, 2, 7, 9, dtype=dtype))
    return module.train(), x.to(dtype) if x.is_floating_point() else x, rest


@pytest.mark.parametrize("positions", [0, 2, 8])
@pytest.mark.parametrize("name", [*NAMES, *EXTRA])
def test_rows_are_those_of_the_jacobian(name, positions, monkeypatch):
    monkeypatch.setattr(layer_pieces, "FORMED_POSITIONS", positions)
    monkeypatch.setattr(layer_rows, "FORMED_POSITIONS", positions)
    module, inputs, rest = network(name)
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.arange(N) % C)
    exact, _ = jacobian(module, inputs)
    rng = torch.Generator().manual_seed(1)
    cotangents, weights = torch.randn(N, C, generator=rng).double(), torch.randn(N, 2, generator=rng).double()
    vectors = torch.randn(3, source.num_parameters, generator=rng).double()
    expected = torch.einsum("nk,nkd->nd", cotangents, exact)
    (chunk,) = source.chunks()
    rows = chunk.rows(cotangents)
    assert set(source.network.layers.rest) == rest
    few = torch.tensor([4, 2])

    def check(rows, expected, vectors):
        weights_of = weights[: len(expected)]
        torch.testing.assert_close(rows.lengths(), expected.norm(dim=1), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(rows.sums(weights_of), weights_of.T @ expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rows.formed(), expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(rows.products(vectors), expected @ vectors.T, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rows.lengths(), expected.norm(dim=1), rtol=1e-9, atol=1e-10)

    check(rows, expected, vectors)
    check(chunk.rows(cotangents).chosen(few), expected[few], vectors)
    for group in source.parameter_groups.values():
        check(rows.restricted(group), expected[:, group], vectors[:, group])
        check(rows.restricted(group).chosen(few), expected[few][:, group], vectors[:, group])
    own = torch.zeros(N, 1, dtype=torch.float64)
    own[3] = 2
    torch.testing.assert_close(rows.sums(own)[0], 2 * expected[3], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(rows.sums(0 * own)[0], 0 * expected[3])


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("positions", [1, 2, 8, 9, 19, 20])
def test_gradients_at_many_positions_are_written_out_where_they_are_worth_it(positions, room, monkeypatch):
    """For products and sums; for lengths where they are at hand, or no longer than the overlaps of inputs."""
    n, g, a, b = 6, 2, 20, 3
    generator = torch.Generator().manual_seed(0)
    inputs = 0.01 * torch.randn(n, g, a, positions, generator=generator).double()
    signals = torch.randn(n, g, b, positions, generator=generator).double()
    monkeypatch.setattr(layer_pieces, "FORMED_BYTES", n * g * a * b * 8 - (not room))
    expected = torch.einsum("ngbp,ngap->ngba", signals, inputs).flatten(1)
    weights, vectors = torch.randn(n, 3, generator=generator).double(), torch.randn(4, g * a * b).double()
    weights[:4, 0] = weights[:3, 1] = 0

    many = positions > 8 and room
    for call, right, written in (
        (lambda piece: piece.squares(), expected.square().sum(dim=1), many and positions >= a),
        (lambda piece: (piece.products(vectors), piece.squares())[1], expected.square().sum(dim=1), many),
        (lambda piece: piece.products(vectors), expected @ vectors.T, many),
        (lambda piece: piece.sums(weights), weights.T @ expected, many),
    ):
        piece = layer_pieces.MatrixPiece(inputs, signals)
        torch.testing.assert_close(call(piece), right, rtol=1e-9, atol=1e-13)
        assert (vars(piece).get("_written") is not None) == written
    taken, by_position = [], layer_pieces._by_position
    monkeypatch.setattr(layer_pieces, "_by_position", lambda x: taken.append(len(x)) or by_position(x))
    size = weights.shape[1] * signals.numel()
    for at_once in (True, False):  # examples that are taken, without those of no weight where these are many
        monkeypatch.setattr(layer_pieces, "FEW_NUMBERS", size - (not at_once))
        found = layer_pieces.MatrixPiece(inputs, signals).sums(weights)
        torch.testing.assert_close(found, weights.T @ expected, rtol=1e-9, atol=1e-13)
        assert taken == ([] if many else [6, 6] if at_once else [2, 2, 3, 3, 6, 6])
        taken.clear()
    overlaps = {}
    for factor in (1, 2):  # another logit's signals
        piece = layer_pieces.MatrixPiece(inputs, factor * signals, overlaps)
        torch.testing.assert_close(piece.squares(), factor**2 * expected.square().sum(dim=1), rtol=1e-9, atol=0)


def limit_rows(source, limit):
    chunk = next(iter(source.chunks()))
    source.network.layers = layer_rows.Layers(source.network, chunk._examples(), limit)


def test_the_memory_budget_limits_rows():
    module, inputs, _ = network("conv")
    sizes = []
    for budget in (2**30, 2**27):
        source = rl.nets.NetworkLogitGradients(module, inputs, torch.arange(N) % C, memory_budget=budget)
        sizes.append(next(iter(source.chunks())).layers().part_size)
    assert sizes[0] > 1.9 * sizes[1]


def test_where_not_one_examples_rows_fit_as_many_inputs_go_back_at_once_as_do():
    head = torch.nn.Linear(4, 3000)
    source = rl.nets.NetworkLogitGradients(head, torch.randn(500, 4), torch.arange(500) % 3000)
    limit_rows(source, 10**6)
    layers = source.network.layers
    assert not layers.keep
    assert 1 < layers.part_size <= 10**6 / (4 * 2 * 3000)  # outputs and what goes back from them, at least


@pytest.mark.parametrize("name", ["conv", "attention"])
def test_a_single_example_has_the_rows_that_it_has_among_others(name):
    module, inputs, rest = network(name)
    source, alone = (rl.nets.NetworkLogitGradients(module, inputs[:n], torch.arange(n) % C) for n in (N, 1))
    (chunk,) = alone.chunks()
    rows, cotangents = jacobian(module, inputs[:1])[0][0], torch.linspace(-1, 2, C).double()[None]
    torch.testing.assert_close(chunk.rows(cotangents).formed(), cotangents @ rows, rtol=1e-9, atol=1e-10)
    layers, others = chunk.layers(), next(iter(source.chunks())).layers()
    assert set(layers.rest) == rest
    for tensor in source.parameter_groups:
        assert layers.stored_bytes(tensor, C) == others.stored_bytes(tensor, C)


@pytest.mark.parametrize("name", ["mlp", "conv", "group_norm", "attention", "recurrent"])
def test_as_many_examples_go_together_as_their_pieces_leave_room_for(name, monkeypatch):
    monkeypatch.setattr(layer_rows, "FORMED_POSITIONS", 16)  # of convolutions one has as many, one has more
    monkeypatch.setattr(layer_pieces, "FORMED_POSITIONS", 16)
    module, inputs, rest = network(name)
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.arange(N) % C)
    (chunk,) = source.chunks()
    rows = chunk.rows(torch.ones(N, C).double())
    rows.products(torch.ones(1, source.num_parameters).double())  # which writes gradients out, where that is done
    once, each = {}, {}  # numbers held, for all logits together and for each
    for tensor, group in source.parameter_groups.items():
        held = {} if tensor in rest else vars(rows.pieces()[tensor])
        arrays = {key: getattr(value, "gradients", value) for key, value in held.items()}
        arrays = {key: value.numel() // N for key, value in arrays.items() if isinstance(value, torch.Tensor)}
        once[tensor] = arrays.pop("inputs", 0) + arrays.pop("indices", 0)
        each[tensor] = group.stop - group.start if tensor in rest else sum(arrays.values())
    all_logits = 8 * (sum(once.values()) + C * sum(each.values())) + 1
    for count in (1, 5):
        for limit in (count * all_logits, (count + 1) * all_logits - 1):
            limit_rows(source, limit)
            assert (source.network.layers.keep, source.network.layers.part_size) == (True, count)
    head = list(source.parameter_groups)[-2:]  # whose signals are the logits'
    of_one = [sum(of for tensor, of in numbers.items() if tensor not in head) for numbers in (once, each)]
    for held in (layer_rows.ONE_LOGIT, 0.125):  # several examples' rows only with the latter
        monkeypatch.setattr(layer_rows, "ONE_LOGIT", held)
        one_logit = 8 * of_one[0] + int(8 * held) * (of_one[1] + C) + 1
        for limit in {all_logits - 1, 1, *(k * one_logit - less for k in (2, 3) for less in (0, 1))}:
            if 0 < limit < all_logits:
                limit_rows(source, limit)
                found = source.network.layers
                assert (found.keep, found.part_size) == (False, max(1, limit // one_logit))


@pytest.mark.parametrize("budget", [2**28, 20_000, 1], ids=["one part", "some parts", "not kept"])
@pytest.mark.parametrize("name", ["conv", "zoo", "attention"])
def test_statistics_are_brute_force_however_the_chunks_are_cut(name, budget):
    module, inputs, _ = network(name)
    labels = np.array([0, 0, 2] * 4)[:N]  # a class is absent
    exact, outputs = jacobian(module, inputs)
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.as_tensor(labels), batch_size=7)
    limit_rows(source, budget)
    parts = [len(part.labels) for chunk in source.chunks() for part in chunk.parts()]
    assert max(parts) == 7 if budget == 2**28 else max(parts) < 7
    assert source.network.layers.keep == (budget > 1)
    measured = rl.measure(source, "clustering", "logit_scales")
    q = measured.clustering
    expected = oracles.q_values(exact.numpy(), labels)
    np.testing.assert_allclose([q.same_logit_same_class, q.same_logit, q.different_logits], expected, rtol=1e-8)
    scales = oracles.scales(outputs.numpy(), labels, exact.numpy())
    np.testing.assert_allclose(measured.logit_scales.sigma_E, scales[2], rtol=1e-8)
    np.testing.assert_allclose(measured.logit_scales.mean_gradients.numpy(), scales[3], rtol=1e-8, atol=1e-10)
    assert measured.logit_scales.absent_classes == (1,)


@pytest.mark.parametrize("name", ["conv", "rounds", "tied_table"])
def test_statistics_of_every_tensor(name):
    module, inputs, _ = network(name)
    labels = np.arange(N) % C
    exact, outputs = jacobian(module, inputs)
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.as_tensor(labels), batch_size=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of some tensors no mean stands out
        measured = rl.measure(source, "clustering", "logit_scales", by="parameter_groups")
    for tensor, found in measured.items():
        part = exact[:, :, source.parameter_groups[tensor]].numpy()
        q = found.clustering
        expected = oracles.q_values(part, labels)
        np.testing.assert_allclose([q.same_logit_same_class, q.same_logit, q.different_logits], expected, atol=1e-8)
        scales = oracles.scales(outputs.numpy(), labels, part)
        np.testing.assert_allclose(found.logit_scales.sigma_E, scales[2], atol=1e-8)
        np.testing.assert_allclose(found.logit_scales.mean_gradients.numpy(), scales[3], atol=1e-10)


def test_lengths_of_dead_networks_are_zero():
    module, inputs = build("relu")
    with torch.no_grad():
        module[0].bias.fill_(-100)
    module[2].bias.requires_grad_(False)
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.arange(N) % C)
    q = rl.clustering(source)
    assert q.num_zero_gradients == N * C
    assert np.isnan(q.same_logit)


def test_tiny_signals_do_not_underflow():
    module, inputs = build("conv", torch.float32)
    scaled = nn.Sequential(module, nn.Linear(C, C, bias=False).requires_grad_(False))
    with torch.no_grad():
        scaled[1].weight.copy_(1e-30 * torch.eye(C))
    labels = torch.arange(N) % C
    q = rl.clustering(rl.nets.NetworkLogitGradients(scaled, inputs, labels))
    expected = rl.clustering(rl.nets.NetworkLogitGradients(module, inputs, labels))
    assert q.num_zero_gradients == 0
    assert q.same_logit == pytest.approx(expected.same_logit, rel=1e-4)


@pytest.mark.parametrize("name", ["conv", "group_norm"])
def test_half_precision_is_summed_in_float32(name):
    module, inputs = build(name, torch.float32)
    exact = rl.measure(rl.nets.NetworkLogitGradients(module, inputs, torch.arange(N) % C), "clustering", "logit_scales")
    source = rl.nets.NetworkLogitGradients(module.to(torch.bfloat16), inputs, torch.arange(N) % C)
    half = rl.measure(source, "clustering", "logit_scales")
    assert source.network.layers.rest == ()
    assert half.clustering.same_logit == pytest.approx(exact.clustering.same_logit, abs=0.03)
    assert half.logit_scales.sigma_E == pytest.approx(exact.logit_scales.sigma_E, rel=0.03)


class Words(nn.Module):
    """A causal language model of a few words."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(C + 2, 4), nn.Linear(4, 4), nn.Linear(4, C)

    def forward(self, tokens):
        x = torch.tanh(self.mix(self.embed(tokens)))
        return self.head(x.cumsum(1))


def test_few_examples_are_probed_and_one_where_sequences_are_long(monkeypatch):
    torch.manual_seed(0)
    module, tokens, length = Words().double(), torch.randint(0, C + 2, (4, 50)), 50
    sources = [
        rl.nets.NetworkLogitGradients(module, tokens, torch.zeros(4, length, dtype=torch.int64)),
        rl.nets.NetworkLogitGradients(nn.Linear(4, C).double(), torch.randn(4, 4).double(), torch.arange(4) % C),
    ]
    probed, one_by_one = [], layer_rows._one_by_one
    monkeypatch.setattr(layer_rows, "_one_by_one", lambda *args: probed.append(args[1]) or one_by_one(*args))
    room = layer_rows.PROBED * layer_rows.ONE_LOGIT * length * C * 8  # with which outputs are propagated back
    for source, limit, counts in ((sources[0], room, [1, 3]), (sources[0], room - 1, [1]), (sources[1], 1, [1, 3])):
        probed.clear()
        limit_rows(source, limit)
        assert [len(examples) for examples in probed] == counts
        if source is sources[0]:
            assert probed[0].tokens.tolist() == [length - 1]  # which may depend on all of the sequence


@pytest.mark.parametrize("budget", [2**28, 5000, 1], ids=["one part", "some parts", "not kept"])
def test_tokens_are_examples(budget):
    torch.manual_seed(0)
    module, tokens, labels = Words().double(), torch.randint(0, C + 2, (4, 5)), torch.randint(0, C, (4, 5))
    labels[1, 2:] = labels[3] = -1
    source = rl.nets.NetworkLogitGradients(module, tokens, labels, ignore_index=-1)
    limit_rows(source, budget)
    gradients = []
    for row in range(4):
        for place in range(5):
            if labels[row, place] >= 0:
                z = module(tokens[row : row + 1])[0, place]
                each = [torch.autograd.grad(one, module.parameters(), retain_graph=True) for one in z]
                gradients.append([torch.cat([g.reshape(-1) for g in one]).numpy() for one in each])
    kept = labels[labels >= 0].numpy()
    q = rl.clustering(source)
    expected = oracles.q_values(np.array(gradients), kept)
    np.testing.assert_allclose([q.same_logit_same_class, q.same_logit, q.different_logits], expected, rtol=1e-9)
    assert source.network.layers.rest == ()
    matrix = sum(
        np.einsum("ka,kl,lb->ab", g, oracles.curvature(z), g)
        for g, z in zip(np.array(gradients), torch.cat([c.logits for c in source.chunks()]).numpy(), strict=True)
    ) / len(kept)
    values = np.linalg.eigvalsh(matrix)
    found = rl.gauss_newton_spectrum(source).eigenvalues
    np.testing.assert_allclose(found, np.maximum(values, 0)[-len(found) :], atol=1e-12)


def test_ignored_examples_and_tuples_of_inputs():
    module, inputs = build("conv")
    labels = torch.arange(N) % C
    labels[::3] = -100

    def forward(module, inputs):
        return module(inputs["image"])

    some = rl.nets.NetworkLogitGradients(module, {"image": inputs}, labels, ignore_index=-100, forward=forward)
    expected = rl.nets.NetworkLogitGradients(module, inputs[labels >= 0], labels[labels >= 0])
    for found, exact in zip(
        rl.clustering(some).__dict__.values(), rl.clustering(expected).__dict__.values(), strict=True
    ):
        np.testing.assert_allclose(found, exact, rtol=1e-9)


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.sampled_from(["zeros", "replicate"]),
    st.integers(1, 5),
    st.integers(0, 9),
)
def test_convolutions_of_any_shape(groups, width, kernel, stride, padding, dilation, mode, batch_size, positions):
    torch.manual_seed(groups + 10 * width + 100 * kernel)
    module = nn.Sequential(
        nn.Conv2d(groups, groups * width, (kernel, 2), stride, padding, dilation, groups, padding_mode=mode),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(2),
    ).double()
    inputs = torch.randn(5, groups, 8, 6).double()
    module(inputs)
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.tensor([0, 1, 0, 1, 1]), batch_size=batch_size)
    exact, _ = jacobian(module, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_pieces, "FORMED_POSITIONS", positions)
        lengths = torch.cat([SharedChunk(chunk, source).lengths for chunk in source.chunks()])
    torch.testing.assert_close(lengths, exact.norm(dim=2), rtol=1e-9, atol=1e-12)
    assert source.network.layers.rest == ()


def test_layers_are_left_as_found():
    module, inputs, _ = network("rounds")
    before = {n: t.clone() for n, t in module.state_dict().items()}
    rl.clustering(rl.nets.NetworkLogitGradients(module, inputs, torch.arange(N) % C))
    assert all(not layer._forward_hooks and layer.training for layer in module.modules())
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, before[name])
    assert all(p.grad is None for p in module.parameters())


class RecurrentWords(nn.Module):
    """A recurrent cell, which is no known layer, under a head."""

    def __init__(self, vocabulary=7):
        super().__init__()
        self.embed, self.cell = nn.Embedding(vocabulary, 4), nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, vocabulary)

    def forward(self, x):
        return self.head(self.cell(self.embed(x))[0])


def test_rows_of_many_logits_that_do_not_fit_are_found_without_logit_gradients(monkeypatch):
    torch.manual_seed(0)
    module, inputs, labels = RecurrentWords().double(), torch.randint(7, (5, 4)), torch.randint(7, (5, 4))
    labels[0, 1:] = -100
    exact = rl.nets.NetworkLogitGradients(module, inputs, labels, ignore_index=-100)
    expected = rl.measure(exact, "clustering", "logit_scales")
    source = rl.nets.NetworkLogitGradients(module, inputs, labels, ignore_index=-100)
    plan = dataclasses.replace(source._plan, rows_bytes=1)
    source._chunks = [chunk.under(plan) for chunk in source._chunks]
    monkeypatch.setattr(type(source._chunks[0]), "dense", lambda *_: pytest.fail("no logit gradients"))
    found = rl.measure(source, "clustering", "logit_scales")
    assert not source.network.layers.keep
    assert source.network.layers.rest  # the cell's weights
    assert found.clustering.same_logit == pytest.approx(expected.clustering.same_logit, rel=1e-9)
    assert found.logit_scales.snr == pytest.approx(expected.logit_scales.snr, rel=1e-9)


@pytest.mark.parametrize("name", ["conv", "attention"])
def test_what_a_part_holds_goes_with_it_and_waits_for_no_garbage_collector(name):
    """Recordings of deep networks take gigabytes, and Python looks for circles after many thousand new objects."""
    module, inputs = build(name)
    chunk = next(rl.nets.NetworkLogitGradients(module, inputs, LABELS).chunks())
    chunk.layers().part_size = 2
    expected = jacobian(module, inputs)[0][:, 0].norm(dim=1)
    chunk.dense()  # torch keeps the frames of its first vmap
    held, lengths = [], []
    gc.disable()
    try:
        for part in chunk.parts():
            rows = part.rows(torch.eye(C, dtype=torch.float64)[:1].repeat(len(part.labels), 1))
            lengths.append(rows.lengths())
            held += [weakref.ref(part), weakref.ref(part._layered().recording)]
            del part, rows
            assert all(one() is None for one in held[:-2])
    finally:
        gc.enable()
    assert len(held) > 4
    torch.testing.assert_close(torch.cat(lengths), expected)


def test_units_of_some_outputs_at_a_time(monkeypatch):
    module, inputs = build("recurrent")
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS)
    expected = jacobian(module, inputs)[0]
    sizes = []

    def noted(*counts):
        sizes.append(counts)
        return example_slices(*counts)

    monkeypatch.setattr(chunks, "example_slices", noted)
    monkeypatch.setattr(chunks, "UNIT_BYTES", 2 * N * C * 8)
    torch.testing.assert_close(next(source.chunks()).dense(), expected)
    assert sizes.count((C, 2)) == N


@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 4.5e-7), (torch.float32, 0.0104), (torch.bfloat16, 0.2)])
def test_pieces_agree_with_rows_to_thirty_roots_of_the_precision_and_a_fifth_at_most(dtype, share):
    exact = torch.tensor([[1.0, -4.0], [0.5, 0.0]], dtype=dtype)
    for factor, agree in ((0.9, True), (1.15, False)):
        got = exact.double() + torch.tensor([[0.0, 4 * share * factor], [0.0, 0.0]], dtype=torch.float64)
        piece = type("Piece", (), {"formed": lambda self, got=got: got})()
        assert layer_rows._agree(piece, exact, 0.0) == agree
    # What is small beside the largest number of all may be rounding.
    noise = 5 * torch.finfo(dtype).eps
    assert layer_rows._agree(None, torch.full((2, 2), noise, dtype=dtype), 1.0)
    assert not layer_rows._agree(None, torch.full((2, 2), 3 * noise, dtype=dtype), 1.0)
    assert not layer_rows._agree(type("Piece", (), {"formed": lambda self: exact[:1]})(), exact, 100.0)


class Adapted(nn.Linear):
    """With layers of its own inside."""

    def __init__(self):
        super().__init__(4, 4)
        self.down, self.table = nn.Linear(4, 2, bias=False), nn.Embedding(3, 4)

    def forward(self, x):
        return super().forward(x) + self.down(x).sum(dim=-1, keepdim=True)


class Scaled(nn.Embedding):
    """With a parameter of its own and a layer inside."""

    def __init__(self):
        super().__init__(3, 4)
        self.scale, self.inner = nn.Parameter(torch.rand(4)), nn.Linear(4, 4)

    def forward(self, x):
        return super().forward(x) + self.scale


class Mixed(nn.Module):
    """Convolutions over what leads with the examples on one side alone, and on neither."""

    def __init__(self):
        super().__init__()
        self.off, self.on, self.adapted = nn.Conv1d(N, 2, 1), nn.Conv1d(2, N, 1), Adapted()
        self.words, self.scaled, self.pair = nn.Embedding(3, 4), Scaled(), nn.Bilinear(4, 4, 4)
        self.head = nn.Linear(4, C)

    def forward(self, x):
        x = x + self.on(torch.tanh(self.off(x)))
        x = self.pair(x, x) + self.words(torch.zeros(1, dtype=torch.int64))
        return self.head(self.adapted(x + self.scaled(torch.arange(len(x)) % 3)))


@pytest.mark.parametrize("frozen", [(), ("adapted.weight",), ("head.bias",), ("scaled.weight",)])
def test_uses_are_noted_of_layers_with_examples_first_and_by_their_own_tensors(frozen):
    module = Mixed().double()
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)).double()
    recording = record(module, names, lambda: module(x), N)
    cotangents = torch.randn(N, C, generator=torch.Generator().manual_seed(1)).double()
    found = recording.pieces(cotangents)
    expected = {"adapted.weight", "adapted.bias", "adapted.down.weight", "head.weight", "head.bias", "scaled.weight"}
    assert set(found) == expected - set(frozen)
    assert recording.apart == {"off.weight", "off.bias", "on.weight", "on.bias", "words.weight"}
    own = known_layers(module, names)
    assert set(own[module.scaled]) == {"weight", "scale"} - {name.removeprefix("scaled.") for name in frozen}
    assert set(own[module.adapted]) == {"weight", "bias"} - {name.removeprefix("adapted.") for name in frozen}
    assert {name for _, name in recording.head.own.items()} == {"head.weight", "head.bias"} - set(frozen)
    assert set(recording.head.own) == {name.removeprefix("head.") for name in recording.head.own.values()}
    parameters = [module.get_parameter(name) for name in found]
    torch.testing.assert_close(recording.outputs, module(x))
    sums = torch.autograd.grad(module(x), parameters, cotangents)
    for name, total in zip(found, sums, strict=True):
        (piece,) = found[name]
        torch.testing.assert_close(piece.formed().sum(dim=0), total.reshape(-1))


def test_examples_that_go_to_other_layers_than_before_are_told():
    """As a loader that shuffles may send them: a few seen first went to one expert all."""
    module, inputs, _ = network("mixture")
    source = rl.nets.NetworkLogitGradients(module, inputs, torch.arange(N) % C)
    assert source.network.apart == {name for name in source.parameter_groups if name[:4] not in ("head", "shif")}
    source.network.apart -= {"first.weight", "first.bias"}
    (chunk,) = source.chunks()
    with pytest.raises(RuntimeError, match="one with first.bias, first.weight takes some of them only, and took all"):
        chunk.rows(torch.ones(N, C).double()).lengths()
    few = rl.nets.NetworkLogitGradients(module, inputs[:4], torch.arange(4) % C)
    assert few.network.apart == {"offset.weight", "second.weight", "second.bias"}
