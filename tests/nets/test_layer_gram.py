import numpy as np
import pytest
import torch
from torch import nn

import rmtland as rl
from rmtland.logits.gauss_newton import GramSource
from rmtland.nets import layer_gram
from rmtland.nets.layer_pieces import FormedPiece, MatrixPiece
from tests import oracles
from tests.nets.networks import NAMES, C, N, build, jacobian
from tests.nets.test_layers import EXTRA, network

LABELS = torch.arange(N) % C


def exact(module, inputs, part=slice(None)):
    gradients, outputs = jacobian(module, inputs)
    gradients = gradients[:, :, part].numpy()
    return oracles.gauss_newton(outputs.numpy(), gradients), oracles.gradient(
        outputs.numpy(), LABELS.numpy(), gradients
    )


def check(spectrum, matrix, slope):
    """Eigenvalues, and the gradient's power up to each of them, against the dense matrix."""
    values, vectors = np.linalg.eigh(matrix)
    top = values[-1]
    size = len(spectrum.eigenvalues)
    np.testing.assert_allclose(spectrum.eigenvalues, np.maximum(values, 0)[-size:], atol=1e-12 * top)
    assert np.abs(values[:-size]).max(initial=0) < 1e-12 * top
    norm = np.linalg.norm(slope)
    assert spectrum.gradient_norm == pytest.approx(norm, rel=1e-10)
    count = int((values > 1e-9 * top).sum())
    powers = ((vectors[:, ::-1].T @ slope) / norm) ** 2
    np.testing.assert_allclose(
        [spectrum.gradient_power(k) for k in range(count + 1)], np.append(0, powers.cumsum()[:count]), atol=1e-7
    )
    assert spectrum.num_parameters == len(matrix)


@pytest.mark.parametrize("elementwise", [0, 16, 1e9], ids=["pairs", "by cost", "written out"])
@pytest.mark.parametrize("name", [*NAMES, *EXTRA])
def test_spectrum_of_the_whole_and_of_every_tensor(name, elementwise, monkeypatch):
    monkeypatch.setattr(layer_gram, "ELEMENTWISE", elementwise)
    module, inputs, _ = network(name)
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4)
    assert isinstance(source, GramSource)
    check(rl.gauss_newton_spectrum(source), *exact(module, inputs))
    # The Gram side also where the other would be smaller.
    spectra = rl.gauss_newton_spectrum(source, by="parameter_groups")
    assert list(spectra) == list(source.parameter_groups)
    trace = 0
    traces = rl.measure(source, "gauss_newton_trace", by="parameter_groups")
    assert rl.gauss_newton_trace(source) == pytest.approx(np.trace(exact(module, inputs)[0]), rel=1e-10)
    for tensor, spectrum in spectra.items():
        matrix, slope = exact(module, inputs, source.parameter_groups[tensor])
        trace += spectrum.trace
        assert traces[tensor].gauss_newton_trace == pytest.approx(np.trace(matrix), rel=1e-9, abs=1e-15)
        if matrix.any():
            check(spectrum, matrix, slope)
        else:
            assert not spectrum.eigenvalues.any()
    assert trace == pytest.approx(np.trace(exact(module, inputs)[0]))


class TiedWords(torch.nn.Module):
    """Logits by the table that the words were looked up in."""

    def __init__(self):
        super().__init__()
        self.table, self.head = torch.nn.Embedding(7, 5), torch.nn.Linear(5, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words):
        return self.head(torch.tanh(self.table(words).mean(dim=1)))


def test_a_table_of_words_that_is_the_head_too():
    """Its gradients have inputs of their own for each logit."""
    torch.manual_seed(0)
    module, words = TiedWords().double(), torch.randint(0, 7, (len(LABELS), 3))
    source = rl.nets.NetworkLogitGradients(module, words, LABELS, batch_size=4)
    rows = jacobian(module, words)[0].flatten(0, 1).numpy()
    check(rl.gauss_newton_spectrum(source), *exact(module, words))
    # The whole is one tensor: the same through its Gram matrix.
    check(rl.gauss_newton_spectrum(source, by="parameter_groups")["table.weight"], *exact(module, words))
    np.testing.assert_allclose(rl.logit_gradient_gram(source).matrix.reshape(len(rows), -1), rows @ rows.T, atol=1e-12)


@pytest.mark.parametrize(("store", "block", "passes"), [(2**30, 2**27, 1), (1, 2**27, 9), (2**30, 1, 1)])
def test_stores_and_blocks_of_any_size(store, block, passes, monkeypatch):
    monkeypatch.setattr(layer_gram, "STORE_BYTES", store)
    monkeypatch.setattr(layer_gram, "BLOCK_BYTES", block)
    module, inputs, _ = network("rounds")
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS)
    counted, collect = [], layer_gram._collect
    monkeypatch.setattr(layer_gram, "_collect", lambda *args: counted.append(1) or collect(*args))
    check(rl.gauss_newton_spectrum(source), *exact(module, inputs))
    assert len(counted) >= passes
    assert passes > 1 or len(counted) == 1


@pytest.mark.parametrize("name", [*NAMES, *EXTRA])
def test_stores_take_the_memory_that_is_reckoned_with(name):
    module, inputs, _ = network(name)
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4)
    layers = next(iter(source.chunks())).layers()
    unit = torch.eye(C).double()
    for r in (C - 1, C):
        columns = lambda chunk, r=r: unit[:, :r].expand(len(chunk.labels), C, r)  # noqa: E731
        stores, num_rows, _ = layer_gram._collect(source, columns, dict.fromkeys(source.parameter_groups, False), None)
        assert num_rows == N * r
        for tensor in source.parameter_groups:
            arrays = [getattr(stores[tensor], array) for array in stores[tensor].by_example] if tensor in stores else []
            assert sum(array.nbytes for array in arrays) == N * layers.stored_bytes(tensor, r), tensor


@pytest.mark.parametrize("positions", [1, 40])
@pytest.mark.parametrize("kind", ["formed", "inputs shared", "inputs of its own"])
def test_blocks_fill_the_memory_that_they_may_take(kind, positions, monkeypatch):
    n, r, b, a = 4, 2, 50, 30
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn(r, n, 1, b, positions, generator=generator)
    inputs = torch.randn(r, n, 1, a, positions, generator=generator)
    if kind != "inputs of its own":
        inputs[:] = inputs[:1].clone()
    formed = kind == "formed"
    store = layer_gram.FormedStore(n, r, a * b, inputs) if formed else layer_gram.PairStore(n, r)
    pieces = [MatrixPiece(x, s, shared=kind == "inputs shared") for x, s in zip(inputs, signals, strict=True)]
    for j, piece in enumerate(pieces):
        store.add(0, j, FormedPiece(piece.formed()) if formed else piece)
    rows = torch.stack([piece.formed() for piece in pieces], dim=1).flatten(0, 1)
    taken, add_gram = [], layer_gram.add_gram
    monkeypatch.setattr(
        layer_gram, "add_gram", lambda matrix, rows: taken.append(rows.nbytes) or add_gram(matrix, rows)
    )
    monkeypatch.setattr(layer_gram, "ELEMENTWISE", 1e9)  # no pairs of positions
    columns = 8 * n * r * (1 if formed else a)
    for width in (1, 7, 1000):
        taken.clear()
        matrix = torch.zeros(n * r, n * r).double()
        store.add_to(matrix, columns * width + 1)
        count = a * b if formed else b
        assert taken == [columns * len(part) for part in torch.arange(count).split(width)]
        torch.testing.assert_close(matrix.tril(), (rows.double() @ rows.double().T).tril(), rtol=1e-5, atol=1e-4)


def test_a_gram_matrix_is_found_the_way_that_takes_fewer_multiplications(monkeypatch):
    """Of signals, of inputs, and of the two by each other, at pairs of positions; or of gradients written out."""
    taken = []
    monkeypatch.setattr(layer_gram, "add_pairs", lambda *_: taken.append("pairs"))
    monkeypatch.setattr(layer_gram, "add_gram", lambda *_: taken.append("written"))
    monkeypatch.setattr(layer_gram, "ELEMENTWISE", 5)
    rng, n = np.random.default_rng(0), 2
    for _ in range(300):
        r, positions, a, b = (int(rng.integers(1, most)) for most in (4, 9, 30, 30))
        store = layer_gram.PairStore(n, r)
        piece = MatrixPiece(torch.zeros(n, 1, a, positions), torch.zeros(n, 1, b, positions))
        for j in range(r):
            store.add(0, j, piece)
        taken.clear()
        store.add_to(torch.zeros(0), 2**20)
        x, s = (n * positions) ** 2, (n * r * positions) ** 2
        pairs, written = s * b + x * a + 5 * s, (n * r) ** 2 * a * b
        assert taken == ["pairs" if pairs <= written else "written"], (r, positions, a, b)


@pytest.mark.parametrize("positions", [1, 3])
def test_blocks_of_pairs_fill_the_memory_that_they_may_take(positions):
    n, r, b = 11, 2, 5
    signals = torch.randn(n, r, b, positions, generator=torch.Generator().manual_seed(0)).double()
    weights = torch.arange(1.0, n * positions + 1).double().reshape(n, positions)
    flat = signals.mT * weights[:, None, :, None]
    rows = flat.sum(dim=2).flatten(0, 1)  # of a kernel that is a product
    for size in (1, 4, n, 100):
        seen = []

        def kernel(first, second, seen=seen):
            seen.append(((first.stop - first.start) * (second.stop - second.start), first.start, second.start))
            return weights[first][:, :, None, None] * weights[second][None, None]

        matrix = torch.zeros(n * r, n * r).double()
        layer_gram.add_pairs(matrix, kernel, signals, 8 * (size * r * positions) ** 2)
        torch.testing.assert_close(matrix.tril(), (rows @ rows.T).tril())
        starts = range(0, n, size)
        assert [place[1:] for place in seen] == [(i, j) for i in starts for j in starts if j <= i]
        assert max(count for count, *_ in seen) == min(size, n) ** 2


def test_other_libraries_product():
    # The symmetric product of SciPy, in place, against the plain one that other devices take.
    rows = torch.randn(7, 5, dtype=torch.float64)
    matrix = torch.randn(7, 7, dtype=torch.float64)
    expected = (matrix + rows @ rows.T).tril()
    layer_gram.add_gram(matrix, rows)
    torch.testing.assert_close(matrix.tril(), expected)
    symmetric = layer_gram._symmetric(matrix, 3)
    torch.testing.assert_close(symmetric, expected + expected.tril(-1).T)


def test_float32_networks_are_exact_to_their_own_rounding():
    module, inputs = build("conv", torch.float32)
    source = rl.nets.NetworkLogitGradients(module, inputs, LABELS)
    double, _ = build("conv")
    matrix, _ = exact(double, inputs.double())
    spectrum = rl.gauss_newton_spectrum(source)
    values = np.linalg.eigvalsh(matrix)[-22:]
    assert (np.abs(spectrum.eigenvalues - values) < 3e-6 * np.sqrt(values[-1] * np.maximum(values, 1e-14))).all()
    assert spectrum.gradient_power(2) == pytest.approx(
        rl.gauss_newton_spectrum(rl.nets.NetworkLogitGradients(double, inputs.double(), LABELS)).gradient_power(2),
        abs=1e-5,
    )


def test_a_loader_that_shuffles_between_passes(monkeypatch):
    monkeypatch.setattr(layer_gram, "STORE_BYTES", 1)
    module, inputs = build("conv")
    order = np.random.default_rng(0)

    class Loader:
        def __iter__(self):
            permuted = order.permutation(N)
            yield inputs[permuted], LABELS[permuted]

    source = rl.nets.NetworkLogitGradients(module, Loader(), memory_budget=0)
    with pytest.raises(RuntimeError, match="must yield its examples in the same order on every pass"):
        rl.gauss_newton_spectrum(source)


def test_no_row_of_all_parameters_is_written_out():
    # A million parameters and 60 rows: dense rows would take 240 MB in float64.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 4))
    inputs, labels = torch.randn(20, 1000), torch.arange(20) % 4
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    source.chunks = lambda chunks=source.chunks: (_no_dense(chunk) for chunk in chunks())
    spectrum = rl.gauss_newton_spectrum(source)
    assert spectrum.eigenvalues.shape == (60,)
    v = torch.randn(source.num_parameters)
    quotient = v @ (rl.gauss_newton(source) @ v) / (v @ v)
    assert 0 < quotient < spectrum.eigenvalues[-1]
    # tr G^2 from products with G along the gradient's direction is bounded by the top; the trace is exact.
    labels_of = rl.measure(source, "clustering", "logit_scales")
    assert labels_of.logit_scales.sigma_E > 0


def _no_dense(chunk):
    def dense(*_):
        raise AssertionError("dense rows of a million parameters")

    chunk.dense = dense
    return chunk


@pytest.mark.parametrize("by", ["layer", 1])
def test_bad_arguments(by):
    source = rl.DenseLogitGradients(*oracles.examples(5, 2, 3))
    with pytest.raises(ValueError, match="`by` must be one of None, 'parameter_groups'; got"):
        rl.gauss_newton_spectrum(source, by=by)


def test_by_groups_of_a_dense_source():
    logits, labels, gradients = oracles.examples(6, 3, 40)
    source = rl.DenseLogitGradients(logits, labels, gradients, parameter_groups={"a": slice(0, 30), "b": slice(30, 40)})
    for name, spectrum in rl.gauss_newton_spectrum(source, by="parameter_groups").items():
        part = gradients[:, :, source.parameter_groups[name]]
        values = np.linalg.eigvalsh(oracles.gauss_newton(logits, part))
        np.testing.assert_allclose(spectrum.eigenvalues, values[-len(spectrum.eigenvalues) :], atol=1e-12)


@pytest.mark.parametrize("store", [2**30, 0], ids=["one pass", "a pass for each layer"])
@pytest.mark.parametrize("name", NAMES)
def test_inner_products_of_all_logit_gradients(name, store, monkeypatch):
    monkeypatch.setattr(layer_gram, "STORE_BYTES", store)
    module, inputs = build(name)
    gradients, outputs = jacobian(module, inputs)
    gram = rl.logit_gradient_gram(rl.nets.NetworkLogitGradients(module, inputs, LABELS, batch_size=4))
    expected = np.einsum("mkd,nld->mknl", gradients.numpy(), gradients.numpy())
    np.testing.assert_allclose(gram.matrix, expected, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_allclose(gram.logits, outputs.numpy(), atol=1e-12)
    np.testing.assert_array_equal(gram.labels, LABELS.numpy())


def test_inner_products_of_ten_million_parameters():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(784, 12_600), nn.ReLU(), nn.Linear(12_600, 10))
    source = rl.nets.NetworkLogitGradients(module, torch.randn(20, 784), torch.arange(20) % 10)
    assert source.num_parameters > 10**7
    gram = rl.logit_gradient_gram(source)
    lengths = rl.logit_gradient_lengths(source).overall
    np.testing.assert_allclose(np.sqrt(np.einsum("mkmk->mk", gram.matrix)).mean(axis=0), lengths, rtol=1e-6)
