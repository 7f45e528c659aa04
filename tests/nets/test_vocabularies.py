"""A few words of a vocabulary: signals in these rows of the head only, sequences run once for all their tokens."""

import dataclasses
import functools
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import rmtland as rl
from rmtland.nets.chunks import NetworkChunk
from rmtland.nets.layer_rows import Layers
from tests import oracles
from tests.nets.networks import units

V, WORDS = 40, [3, 11, 30]


class Adapted(nn.Linear):
    """Of low rank beside its weights."""

    def __init__(self, a, b):
        super().__init__(a, b)
        self.down, self.up = nn.Linear(a, 2, bias=False), nn.Linear(2, b, bias=False)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


class Language(nn.Module):
    """Tokens that see those before them, and a linear head: tied to the embedding, frozen in part, or bent after."""

    def __init__(self, kind):
        super().__init__()
        self.embed, self.mix, self.norm = nn.Embedding(V, 5), nn.Linear(5, 5), nn.LayerNorm(5)
        self.head = nn.Linear(5, V, bias=kind != "no bias")
        self.kind = kind
        if kind == "adapted head":
            self.head = Adapted(5, V)
        if kind == "parametrised head":
            nn.utils.parametrizations.weight_norm(self.head)
        if kind == "normalised head":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                nn.utils.weight_norm(self.head)
        if kind == "hooked head":
            self.head.register_forward_hook(lambda layer, arguments, outputs: outputs * 2)
        if kind == "tied":
            self.head.weight = self.embed.weight
        if kind == "frozen head":
            self.head.weight.requires_grad_(False)
        if kind == "frozen below":
            for layer in (self.embed, self.mix, self.norm):
                layer.requires_grad_(False)
        if kind == "unknown":
            self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 5))

    def forward(self, x):
        x = self.norm(torch.tanh(self.mix(self.embed(x))).cumsum(1))
        outputs = self.head(x * self.scale if self.kind == "unknown" else x)
        if self.kind == "scaled in place":
            outputs.mul_(3)
        return outputs


KINDS = [
    "plain",
    "no bias",
    "tied",
    "frozen head",
    "frozen below",
    "unknown",
    "scaled in place",
    "adapted head",
    "hooked head",
    "parametrised head",
    "normalised head",
]


def language(kind):
    torch.manual_seed(0)
    module, tokens = Language(kind).double(), torch.randint(V, (4, 6))
    labels = torch.tensor([*WORDS, 7])[torch.randint(4, (4, 6))]
    labels[1, 2:] = labels[2] = -100
    return module, tokens, labels


def source_of(kind, rows_bytes=1):
    module, tokens, labels = language(kind)
    source = rl.nets.NetworkLogitGradients(module, tokens, labels, ignore_index=-100)
    plan = dataclasses.replace(source._plan, rows_bytes=rows_bytes)
    source._chunks = [chunk.under(plan) for chunk in source._chunks]
    return source


@functools.cache
def brute_force(kind):
    """Logit gradients of all words (n, V, D) by a backward pass each, and labels."""
    module, tokens, labels = language(kind)
    trained = [p for p in module.parameters() if p.requires_grad]
    rows = []
    for row, place in (labels >= 0).nonzero().tolist():
        z = module(tokens[row : row + 1])[0, place]
        each = [torch.autograd.grad(z, trained, unit, retain_graph=True, materialize_grads=True) for unit in units(z)]
        rows.append(torch.stack([torch.cat([g.reshape(-1) for g in one]) for one in each]))
    return torch.stack(rows), labels[labels >= 0]


@pytest.mark.parametrize("rows_bytes", [1, 2**28], ids=["sequence by sequence", "at once"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_clustering_of_a_few_words_is_that_of_their_gradients(kind, rows_bytes, monkeypatch):
    gradients, labels = brute_force(kind)
    source = source_of(kind)
    layers = next(source.chunks()).layers()
    assert not layers.keep
    layers.part_size = 1 if rows_bytes == 1 else 4
    monkeypatch.setattr(NetworkChunk, "dense", lambda *_: pytest.fail("no logit gradients"))
    monkeypatch.setattr("rmtland.logits.clustering.GROUP_BYTES", 0)
    found = rl.clustering(source, classes=WORDS)
    some = gradients[:, WORDS].numpy()
    places = np.array([WORDS.index(k) if k in WORDS else -1 for k in labels.tolist()])
    expected = oracles.q_values(some, places)
    q = [found.same_logit_same_class, found.same_logit, found.different_logits]
    np.testing.assert_allclose(q, expected, rtol=1e-9, atol=1e-14)  # of the head alone q_DL is 0
    dense = rl.DenseLogitGradients(np.zeros((len(some), V)), labels.numpy(), gradients.numpy())
    exact = rl.clustering(dense, classes=WORDS)
    for name in ("same_logit_same_class_error", "same_logit_error", "different_logits_error"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-6, abs=1e-14)
    lengths = rl.logit_gradient_lengths(source, classes=WORDS).overall
    np.testing.assert_allclose(lengths, np.linalg.norm(some, axis=2).mean(0), rtol=1e-9)


@pytest.mark.parametrize("words", [WORDS, list(range(V))], ids=["few", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_tokens_are_those_of_the_jacobian(kind, words):
    gradients, labels = brute_force(kind)
    (chunk,) = source_of(kind).chunks()
    rng = torch.Generator().manual_seed(1)
    cotangents = torch.zeros(len(labels), V, dtype=torch.float64)
    cotangents[:, words] = torch.randn(len(labels), len(words), generator=rng).double()
    weights = torch.randn(len(labels), 2, generator=rng).double()
    vectors = torch.randn(3, gradients.shape[2], generator=rng).double()
    rows, expected = chunk.rows(cotangents), torch.einsum("nk,nkd->nd", cotangents, gradients)
    few = torch.tensor([9, 2, 5])

    def check(rows, expected, vectors):
        torch.testing.assert_close(rows.lengths(), expected.norm(dim=1), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(rows.formed(), expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(rows.sums(weights[: len(expected)]), weights[: len(expected)].T @ expected)
        torch.testing.assert_close(rows.products(vectors), expected @ vectors.T)

    check(rows, expected, vectors)
    check(rows.chosen(few), expected[few], vectors)
    for group in chunk.network.groups.values():
        check(rows.restricted(group), expected[:, group], vectors[:, group])
    *_, second, last = chunk.network.groups.values()
    both, within = slice(second.start, last.stop), slice(last.start - second.start, last.stop - second.start)
    check(rows.restricted(both), expected[:, both], vectors[:, both])
    check(rows.restricted(both).restricted(within).chosen(few), expected[few][:, last], vectors[:, last])
    for name, piece in rows.pieces().items():
        torch.testing.assert_close(piece.formed(), expected[:, chunk.network.groups[name]])


class Sizes(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that an operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in torch.utils._pytree.tree_leaves(result):
            if isinstance(made, torch.Tensor):
                self.largest = max(self.largest, made.untyped_storage().nbytes() // made.element_size())
        return result


def test_sums_of_a_layer_take_no_memory_for_the_others():
    columns = 30
    (chunk,) = source_of("plain").chunks()
    rows = chunk.rows(torch.ones_like(chunk.logits))
    weights = torch.randn(len(chunk.labels), columns, generator=torch.Generator().manual_seed(1)).double()
    every, group = rows.sums(weights), chunk.network.groups["mix.weight"]  # and the graph is recorded
    outputs = chunk.sequence_length * chunk.num_inputs * V
    with Sizes() as sizes:
        found = rows.restricted(group).sums(weights)
    torch.testing.assert_close(found, every[:, group])
    assert sizes.largest <= max(columns * 25, outputs) < columns * every.shape[1] / 10
    (wide,) = source_of("plain").chunks()  # nothing of it is recorded
    torch.testing.assert_close(wide.rows(torch.ones_like(wide.logits)).restricted(group).sums(weights), found)


def test_a_sequence_runs_once_for_all_its_tokens():
    source = source_of("plain")
    Layers.of(source.network, next(source.chunks())._examples, 1)
    calls = []
    source.network.module.register_forward_hook(lambda *_: calls.append(1))
    rl.logit_gradient_lengths(source, classes=WORDS)
    assert len(calls) <= 3  # sequences with examples, one at a time, of logits that are kept


@pytest.mark.parametrize("without", [0, 2])
def test_examples_of_no_weight_are_stored_beside_the_others(without):
    """Their cotangents are zero at all outputs, and their rows of the same form nevertheless."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, V)).double()
    inputs, labels, weights = torch.randn(6, 4).double(), torch.arange(6), torch.ones(6).double()
    weights[without] = 0
    source, others = (
        rl.nets.NetworkLogitGradients(module, inputs[some], labels[some], weights=weights[some])
        for some in (slice(None), weights > 0)
    )
    chunk = next(source.chunks())
    source.network.layers = Layers(source.network, chunk._examples(), 2000)
    assert not chunk.layers().keep
    for by in (None, "parameter_groups"):
        found, expected = (rl.gauss_newton_spectrum(one, by=by) for one in (source, others))
        pairs = [(found, expected)] if by is None else [(found[name], expected[name]) for name in expected]
        for one, other in pairs:
            size = other.eigenvalues.size
            np.testing.assert_allclose(one.eigenvalues[-size:], other.eigenvalues, rtol=1e-9, atol=1e-15)
