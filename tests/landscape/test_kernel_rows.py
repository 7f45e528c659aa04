"""Rows and spectra of the kernel law against logit gradients with its Gram matrix written out."""

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.kernel_rows import rows_of_kernel, spectrum_of_kernel
from tests import oracles

N, C, D = 5, 3, 12
RNG = np.random.default_rng(0)
LOGITS, LABELS = 1.3 * RNG.standard_normal((N, C)), np.array([0, 2, 1, 1, 0])
J = RNG.standard_normal((N, C, D))
GRAM = J.reshape(N * C, D) @ J.reshape(N * C, D).T


def dense(gradients):
    """G and the gradient, summed over examples."""
    matrix, gradient = np.zeros((D, D)), np.zeros(D)
    for z, y, own in zip(LOGITS, LABELS, gradients, strict=True):
        matrix += own.T @ oracles.curvature(z) @ own / N
        gradient += own.T @ (oracles.softmax(z) - np.eye(C)[y]) / N
    return matrix, gradient


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e20])
def test_the_spectrum_is_that_of_gradients_with_these_inner_products(unit):
    matrix, gradient = dense(J)
    values, vectors = np.linalg.eigh(matrix)
    rank = min(D, N * (C - 1))
    powers = (vectors.T @ gradient) ** 2 / (gradient @ gradient)
    found, shares = spectrum_of_kernel(LOGITS, LABELS, unit**2 * GRAM)
    np.testing.assert_allclose(found, unit**2 * values[-rank:], rtol=1e-9)
    np.testing.assert_allclose(shares, powers[-rank:], rtol=1e-7, atol=1e-12)
    rows = rows_of_kernel(LOGITS, LABELS, unit**2 * GRAM, None, 0.0)
    assert not rows.spread
    drawn, slope = rows.draw(1, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.svd(drawn)[1] ** 2, unit**2 * values[::-1][:rank], rtol=1e-9)
    assert slope @ slope == pytest.approx(unit**2 * gradient @ gradient, rel=1e-12)
    squares = (drawn @ slope) ** 2 / np.diag(drawn @ drawn.T) / (slope @ slope)
    np.testing.assert_allclose(squares, powers[::-1][:rank], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("dimension", [40.0, 3.9])
def test_so_many_columns_have_these_products_as_their_mean(dimension):
    rows = rows_of_kernel(LOGITS, LABELS, GRAM, dimension, 0.0)
    matrix, gradient = dense(J)
    values, vectors = np.linalg.eigh(matrix)
    rank = min(D, N * (C - 1))
    np.testing.assert_allclose(rows.scales**2, values[::-1][:rank], rtol=1e-9)
    np.testing.assert_allclose(rows.slopes**2, (vectors.T @ gradient)[::-1][:rank] ** 2, rtol=1e-7)
    shares, counts = rows.covariance.shares(100)
    columns = int(dimension)
    assert (shares.tolist(), counts.tolist()) == ([1 / columns], [columns])
    assert rows.dropped**2 == pytest.approx(gradient @ gradient - rows.slopes @ rows.slopes, abs=1e-9)
    assert (rows.factor.shape, rows.mean_slopes.size, rows.blocks) == ((0, 0), 0, ())
    for unit in (1e-6, 1.0, 1e6):  # rounding is nothing that rows do not carry
        assert rows_of_kernel(LOGITS, LABELS, unit**2 * GRAM, dimension, 0.0).dropped == 0.0


def test_small_eigenvalues_are_left_out_and_the_gradient_keeps_its_length():
    matrix, gradient = dense(J)
    values = np.linalg.eigvalsh(matrix)[::-1]
    tolerance = np.sqrt(values[2] * values[3]) / values[0]
    for dimension in (None, 20.0):
        rows = rows_of_kernel(LOGITS, LABELS, GRAM, dimension, tolerance)
        if dimension:
            assert rows.scales.size == 3
            length = rows.slopes @ rows.slopes + rows.dropped**2
        else:
            drawn, slope = rows.draw(1, np.random.default_rng(0))
            assert drawn.shape == (3, 4)
            np.testing.assert_allclose(drawn @ drawn.T, np.diag(values[:3]), atol=1e-12)
            length = slope @ slope
        assert length == pytest.approx(gradient @ gradient, rel=1e-12)


def test_a_sum_that_is_no_gram_matrix_is_refused():
    values, vectors = np.linalg.eigh(GRAM)
    wrong = (vectors * np.where(values > values[-1] / 2, values, values - 0.1 * values[-1])) @ vectors.T
    for make in (spectrum_of_kernel, lambda *a: rows_of_kernel(*a, None, 0.0)):
        with pytest.raises(ValueError, match="`terms` must add up to a Gram matrix; got a negative eigenvalue -"):
            make(LOGITS, LABELS, wrong)


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_what_all_logits_have_in_common_is_not_seen(unit):
    """Logit gradients that do not tell classes apart have no curvature; beside others they change nothing."""
    alike = unit * np.kron(np.eye(N) + 0.5, np.ones((C, C)))
    found, powers = spectrum_of_kernel(LOGITS, LABELS, alike)
    assert found.size == powers.size == 0
    rows = rows_of_kernel(LOGITS, LABELS, alike, None, 0.0)
    assert rows.scales.size == 0
    both, shares = spectrum_of_kernel(LOGITS, LABELS, 1e3 * alike + unit * GRAM)
    own, powers = spectrum_of_kernel(LOGITS, LABELS, unit * GRAM)
    np.testing.assert_allclose(both, own, rtol=1e-8)
    np.testing.assert_allclose(shares, powers, rtol=1e-6, atol=1e-10)


def test_a_model_whose_logits_are_all_alike_has_no_theory():
    law = rl.KernelGradients([(np.eye(N) + 0.5, np.ones((C, C)))])
    model = rl.LandscapeModel(N, C, 50, rl.GivenLogits(LOGITS, LABELS), law)
    assert model.spectrum(rng=0).outliers().tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="positive length where the logits have curvature; got none"):
        model.theory()
