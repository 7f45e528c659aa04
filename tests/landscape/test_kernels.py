import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtland.landscape.kernels import apply_logit_hessian, fill_gauss_newton, softmax, weighted_rows
from tests import oracles

SIZES = (st.integers(1, 6), st.integers(2, 7), st.integers(1, 5), st.integers(0, 99), st.sampled_from([0.1, 2.0, 30.0]))


def arrays(n, c, d, seed, scale):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, c)), rng.normal(size=(c, d)), rng.normal(size=(n, c, d))


@given(*SIZES)
def test_softmax(n, c, d, seed, scale):
    logits, _, _ = arrays(n, c, d, seed, scale)
    np.testing.assert_allclose(softmax(logits), [oracles.softmax(z) for z in logits], rtol=1e-14)
    np.testing.assert_allclose(softmax(logits + 1e4), softmax(logits), rtol=1e-10)


@given(*SIZES)
def test_apply_logit_hessian(n, c, d, seed, scale):
    logits, _, tangents = arrays(n, c, d, seed, scale)
    expected = [oracles.curvature(z) @ u for z, u in zip(logits, tangents, strict=True)]
    np.testing.assert_allclose(apply_logit_hessian(softmax(logits), tangents), expected, rtol=1e-9, atol=1e-14)


def test_a_frozen_example_keeps_its_curvature():
    p = np.array([[1.0, 1e-30, 2e-30]])
    u = np.array([[[3.0], [5.0], [-1.0]]])
    # To first order A u = (-sum_j p_j (u_j - u_top), p_j (u_j - u_top)).
    np.testing.assert_allclose(apply_logit_hessian(p, u)[0, :, 0], [6e-30, 2e-30, -8e-30], rtol=1e-14)


@given(*SIZES)
def test_weighted_rows_are_factors_of_the_gauss_newton_matrix(n, c, d, seed, scale):
    logits, means, residuals = arrays(n, c, d, seed, scale)
    centres = np.stack([means, 2 * means, -means])
    groups = np.random.default_rng(seed).integers(0, 3, n)
    rows = weighted_rows(softmax(logits), centres, groups, residuals, n)
    assert rows.shape == (n * (c - 1), d)
    gradients = centres[groups] + residuals
    expected = oracles.gauss_newton(logits, gradients)
    np.testing.assert_allclose(fill_gauss_newton(rows), expected, rtol=1e-10, atol=1e-13)
    # Row by row: L^T J by NumPy's own Cholesky factor, up to a sign, where A is far from singular.
    if scale == 0.1:
        for mu in range(n):
            reduced = np.linalg.cholesky(oracles.curvature(logits[mu])[: c - 1, : c - 1])
            factor = np.vstack([reduced, -reduced.sum(axis=0)])
            np.testing.assert_allclose(
                rows[mu * (c - 1) : (mu + 1) * (c - 1)], factor.T @ gradients[mu] / np.sqrt(n), atol=1e-12
            )


def test_underflowed_probabilities_give_zero_rows():
    p = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    residuals = np.random.default_rng(0).normal(size=(3, 3, 2))
    rows = weighted_rows(p, np.ones((1, 3, 2)), np.zeros(3, dtype=np.int64), residuals, 3)
    np.testing.assert_array_equal(rows, 0)


def test_fill_is_symmetric_to_the_bit():
    rows = np.random.default_rng(0).normal(size=(30, 17))
    matrix = fill_gauss_newton(rows)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix, np.einsum("ia,ib->ab", rows, rows), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kernel", [softmax, apply_logit_hessian, weighted_rows])
def test_without_numba_the_kernels_say_the_same(kernel):
    logits, means, residuals = arrays(3, 4, 2, 0, 1.0)
    given_to = {
        softmax: (logits,),
        apply_logit_hessian: (softmax(logits), residuals),
        weighted_rows: (softmax(logits), means[None], np.zeros(3, dtype=np.int64), residuals, 3),
    }[kernel]
    np.testing.assert_allclose(kernel(*given_to), kernel.py_func(*given_to), rtol=1e-13)
