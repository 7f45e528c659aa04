from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland import _arguments
from rmtland._arrays import is_torch
from rmtland.logits import blocks, exact_spectrum
from rmtland.logits.accumulate import same_order
from tests import oracles


def dense(arrays, **kwargs):
    return rl.DenseLogitGradients(*arrays, **kwargs)


def check(spectrum, matrix, slope):
    """The spectrum against eigh of the matrix: eigenvalues, powers, and that they add up."""
    values, vectors = np.linalg.eigh(matrix)
    size = spectrum.eigenvalues.size
    top = values[-1]
    np.testing.assert_allclose(spectrum.eigenvalues, values[-size:], rtol=1e-9, atol=1e-13 * top)
    np.testing.assert_allclose(values[:-size], 0, atol=1e-13 * top)
    kept = spectrum.eigenvalues > 1e-9 * top
    expected = (vectors[:, -size:].T @ slope) ** 2 / (slope @ slope)
    np.testing.assert_allclose(spectrum.powers[kept], expected[kept], rtol=1e-5, atol=1e-9)
    assert spectrum.powers.sum() + spectrum.null_power == pytest.approx(1, rel=1e-12)
    assert spectrum.gradient_norm == pytest.approx(np.linalg.norm(slope), rel=1e-10)
    assert spectrum.trace == pytest.approx(np.trace(matrix), rel=1e-12)
    assert spectrum.frobenius == pytest.approx(np.linalg.norm(matrix), rel=1e-12)
    assert spectrum.num_parameters == len(matrix)


@given(st.integers(1, 9), st.integers(2, 5), st.integers(1, 30), st.integers(0, 99), st.integers(1, 9), st.booleans())
def test_both_sides_against_loops(n, c, d, seed, chunk_size, in_torch):
    arrays = oracles.examples(n, c, d, seed)
    matrix, slope = oracles.gauss_newton(arrays[0], arrays[2]), oracles.gradient(*arrays)
    source = dense([torch.from_numpy(a) if in_torch else a for a in arrays], chunk_size=chunk_size)
    spectrum = rl.gauss_newton_spectrum(source)
    assert spectrum.eigenvalues.shape == (min(d, n * (c - 1)),)
    check(spectrum, matrix, slope)
    np.testing.assert_allclose(np.asarray(rl.gradient(source)), slope, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(rl.gauss_newton(source).to_dense(), matrix, rtol=1e-9, atol=1e-14)
    v = np.random.default_rng(seed).normal(size=(d, 3))
    np.testing.assert_allclose(rl.gauss_newton(source) @ v, matrix @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("width", [1, 7, 40])
def test_blocks_of_parameters_on_the_gram_side(monkeypatch, width):
    arrays = oracles.examples(6, 3, 40)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 12 * width)
    matrix, slope = oracles.gauss_newton(arrays[0], arrays[2]), oracles.gradient(*arrays)
    check(rl.gauss_newton_spectrum(dense(arrays, chunk_size=4)), matrix, slope)


def test_another_order_between_blocks_is_refused_not_summed(monkeypatch):
    arrays = oracles.examples(50, 3, 300)
    matrix, slope = oracles.gauss_newton(arrays[0], arrays[2]), oracles.gradient(*arrays)
    shuffling = oracles.ScratchSource(*arrays, rl.CrossEntropy())
    check(rl.gauss_newton_spectrum(shuffling), matrix, slope)  # one block, one pass: any order
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * 100 * 150)
    with pytest.raises(RuntimeError, match="`source` must yield its examples in the same order on every pass here"):
        rl.gauss_newton_spectrum(shuffling)
    check(rl.gauss_newton_spectrum(oracles.ScratchSource(*arrays, rl.CrossEntropy(), shuffle=False)), matrix, slope)


def test_examples_differ_once_their_logits_do_by_a_thousandth_of_the_largest():
    before = np.array([1.0, 1.5, 2.0])
    within = before + np.array([0.0, 1.9e-3, -1.9e-3])
    np.testing.assert_array_equal(same_order(before, within), within)
    for now in (before[[1, 0, 2]], *(before + 2.1e-3 * np.eye(3))):
        with pytest.raises(RuntimeError, match="got another order"):
            same_order(before, now)
    np.testing.assert_array_equal(same_order(None, before), before)


def test_each_chunk_hands_out_its_gradients_once():
    for num_parameters in (5, 400):
        source = oracles.ScratchSource(*oracles.examples(50, 3, num_parameters), rl.CrossEntropy())
        calls = []
        original = oracles.ScratchChunk.dense

        class Counting(oracles.ScratchChunk):
            def dense(self, parameters=slice(None), calls=calls, original=original):
                calls.append(1)
                return original(self, parameters)

        chunks = source.chunks
        source.chunks = lambda chunks=chunks, kind=Counting: (
            kind(chunk.logits, chunk.labels, chunk.gradients) for chunk in chunks()
        )
        rl.gauss_newton_spectrum(source)
        assert len(calls) == 3


def test_float32_sources_are_diagonalised_in_float64():
    logits, labels, gradients = oracles.examples(20, 3, 30)
    as_single = gradients.astype(np.float32)
    matrix = oracles.gauss_newton(logits, as_single.astype(float))
    slope = oracles.gradient(logits, labels, as_single.astype(float))
    for wrap in (np.asarray, torch.from_numpy):
        check(rl.gauss_newton_spectrum(dense([wrap(logits), wrap(labels), wrap(as_single)])), matrix, slope)


@pytest.mark.parametrize("num_parameters", [30, 300])
def test_frozen_examples_keep_their_curvature(num_parameters):
    # Every p is within 1e-17 of 0 or 1, so diag(p) - p p^T taken as written is rounding; the spectrum is not.
    rng = np.random.default_rng(0)
    logits = np.where(np.arange(3) == rng.integers(0, 3, 40)[:, None], 40.0, rng.normal(size=(40, 3)))
    labels = logits.argmax(axis=1)
    gradients = rng.normal(size=(40, 3, num_parameters))
    # With w_j = e^(z_j - z_top), A is the star of the top class with the others up to terms of w^2.
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    relative = gradients - gradients[np.arange(40), labels][:, None, :]
    matrix = np.einsum("nk,nka,nkb->ab", weights, relative, relative) / 40
    slope = np.einsum("nk,nka->a", weights, relative) / 40
    source = dense((logits, labels, gradients))
    spectrum = rl.gauss_newton_spectrum(source)
    check(spectrum, matrix, slope)
    assert spectrum.eigenvalues[-1] < 1e-15
    np.testing.assert_allclose(rl.gradient(source), slope, rtol=1e-9)
    v = rng.normal(size=num_parameters)
    np.testing.assert_allclose(rl.gauss_newton(source) @ v, matrix @ v, rtol=1e-9)
    for method in (rl.gradient(source), rl.gauss_newton(source) @ v):
        assert np.linalg.norm(method) > 0


def test_a_zero_gradient_has_no_powers():
    source = dense((np.zeros((2, 2)), np.array([0, 1]), np.ones((2, 2, 3)) * np.array([1, 2, 3])))
    np.testing.assert_allclose(rl.gradient(source), 0)
    gradients = np.random.default_rng(0).normal(size=(1, 2, 3))
    twice = dense((np.zeros((2, 2)), np.array([0, 1]), np.concatenate([gradients, gradients])))
    spectrum = rl.gauss_newton_spectrum(twice)
    assert spectrum.gradient_norm == 0
    assert np.isnan(spectrum.powers).all()
    assert np.isnan(spectrum.null_power)
    assert np.isnan(spectrum.gradient_power(1))
    assert spectrum.eigenvalues[-1] > 0


def test_no_curvature_at_all():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]])
    source = dense((logits, np.array([1, 0]), np.random.default_rng(0).normal(size=(2, 2, 3))))
    spectrum = rl.gauss_newton_spectrum(source)
    np.testing.assert_array_equal(spectrum.eigenvalues, 0)
    assert np.isnan(spectrum.goldilocks_ratio())
    assert spectrum.null_power == 1  # mislabelled frozen examples: a gradient, but no curvature
    assert spectrum.gradient_norm > 0


def test_gradient_outside_the_range_is_null_power():
    # Frozen and wrong on one example, free on the other: only the latter has curvature.
    logits = np.array([[1e3, 0.0], [0.0, 0.0]])
    gradients = np.array([[[1.0, 0, 0], [0, 0, 0]], [[0, 1.0, 0], [0, 0, 0]]])
    spectrum = rl.gauss_newton_spectrum(dense((logits, np.array([1, 0]), gradients)))
    # rho = (1, -1)/2 and (-1/2, 1/2)/2: squared lengths along the axes 1/4 and 1/16.
    assert spectrum.null_power == pytest.approx(4 / 5)
    assert spectrum.gradient_power(1) == pytest.approx(1 / 5)


def test_what_a_spectrum_answers():
    spectrum = rl.gauss_newton_spectrum(dense(oracles.examples(6, 3, 40)))
    np.testing.assert_array_equal(spectrum.outliers(2), spectrum.eigenvalues[-2:])
    assert spectrum.outliers(0).shape == (0,)
    assert spectrum.gradient_power(0) == 0
    assert spectrum.gradient_power(3) == pytest.approx(spectrum.powers[-3:].sum())
    assert spectrum.gradient_power(40) == pytest.approx(1 - spectrum.null_power)
    with pytest.raises(ValueError, match="`k` must be >= 0 and <= 12; got 13"):
        spectrum.outliers(13)
    with pytest.raises(ValueError, match="`num_directions` must be >= 0 and <= 40; got 41"):
        spectrum.gradient_power(41)
    with pytest.raises(TypeError, match="`num_directions` must be an integer"):
        spectrum.gradient_power(1.5)


def test_a_spectrum_that_does_not_fit(monkeypatch):
    source = dense(oracles.examples(6, 3, 40))
    monkeypatch.setattr(_arguments, "available_memory", lambda: 1000)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    message = r"the spectrum of a 12 x 12 matrix needs .* GiB .* use products with gauss_newton\(source\) instead"
    with pytest.raises(MemoryError, match=message):
        rl.gauss_newton_spectrum(source)


def test_the_operator_is_scale_free_in_its_breakdown():
    # A tiny operator is as good as any: nothing is compared with an absolute threshold.
    logits, labels, gradients = oracles.examples(10, 3, 8)
    big, tiny = dense((logits, labels, gradients)), dense((logits, labels, 1e-60 * gradients))
    np.testing.assert_allclose(
        rl.gauss_newton_spectrum(tiny).eigenvalues * 1e120, rl.gauss_newton_spectrum(big).eigenvalues, rtol=1e-10
    )
    np.testing.assert_allclose(rl.gauss_newton_spectrum(tiny).powers, rl.gauss_newton_spectrum(big).powers, rtol=1e-8)


@pytest.mark.parametrize(("width", "expected"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (7, [5])])
def test_a_chunk_is_given_no_more_columns_than_it_takes(width, expected):
    arrays = oracles.examples(10, 3, 6)
    given = []

    class Narrow(oracles.ScratchChunk):
        num_columns = width

        def jvp(self, tangents):
            given.append(tangents.shape[1])
            return super().jvp(tangents)

    source = oracles.ScratchSource(*arrays, rl.CrossEntropy(), sizes=(10,))
    source.chunks = lambda: iter([Narrow(*arrays)])
    block = np.random.default_rng(0).normal(size=(6, 5))
    found = rl.gauss_newton(source) @ block
    np.testing.assert_allclose(found, oracles.gauss_newton(arrays[0], arrays[2]) @ block, rtol=1e-10)
    assert given == expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_prototype_is_empty(dtype):
    source = rl.DenseLogitGradients(*(a.astype(dtype) if a.dtype.kind == "f" else a for a in oracles.examples(5, 3, 4)))
    assert source.prototype.size == 0
    assert source.prototype.dtype == max(np.dtype(dtype), np.dtype(np.float32))


def test_products_of_a_source_that_are_no_transposes_of_each_other_are_refused():
    arrays = oracles.examples(20, 3, 30)

    class Lopsided(oracles.ScratchChunk):
        def vjp(self, cotangents):
            return super().vjp(cotangents) * np.linspace(1, 1.01, 30)[:, None]

    source = oracles.ScratchSource(*arrays, rl.CrossEntropy(), sizes=(20,))
    source.chunks = lambda: iter([Lopsided(*arrays)])
    with pytest.raises(ValueError, match="`operator` must be symmetric; got"):
        rl.top_eigenpairs(rl.gauss_newton(source), 2, rng=0)


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on another device than the processor."""

    device = property(lambda self: SimpleNamespace(type="elsewhere"))


def test_eigenvalues_of_a_matrix_on_another_device_are_found_there():
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=(6, 6)), rng.normal(size=6)
    matrix += matrix.T
    assert is_torch(torch.tensor(matrix).as_subclass(Elsewhere))
    there = [torch.tensor(x).as_subclass(Elsewhere) for x in (matrix, vector)]
    values, parts = exact_spectrum._eigenvalues_and_overlaps(*there)
    expected, vectors = np.linalg.eigh(matrix)
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_allclose(np.abs(parts), np.abs(vectors.T @ vector), rtol=1e-10)
