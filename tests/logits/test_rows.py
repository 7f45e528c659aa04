import numpy as np
import pytest
import torch

from rmtland.logits.rows import DenseRows, rows_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("unit", [1e-300, 1e-156, 1e-150, 1.0, 1e153, 1e154, 1e300])
def test_lengths_are_exact_where_squares_leave_float64(library, unit):
    matrix = RNG.normal(size=(4, 3))
    if unit > 1e-151:
        matrix[2] = 0
    found = DenseRows(library(unit * matrix)).lengths()
    np.testing.assert_allclose(np.asarray(found) / unit, np.linalg.norm(matrix, axis=1), rtol=1e-14)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_lengths_of_rows_of_very_unequal_units(library):
    units = np.array([1e-200, 1.0, 1e200])
    found = DenseRows(library(units[:, None] * np.array([[3.0, 4.0]]))).lengths()
    np.testing.assert_allclose(np.asarray(found) / units, 5, rtol=1e-14)
    with pytest.raises(ValueError, match="must be finite"):
        DenseRows(library(np.array([[1.0, np.inf]]))).lengths()


def test_lengths_of_long_rows():
    matrix = RNG.normal(size=(2, 20_001))
    np.testing.assert_allclose(DenseRows(matrix).lengths(), np.linalg.norm(matrix, axis=1), rtol=1e-13)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("some", [[], [1], [0, 2, 3], [0, 1, 2, 3, 4, 5]])
def test_sums_with_any_share_of_zero_weights(library, some):
    matrix, weights = RNG.normal(size=(6, 5)).astype(np.float32), np.zeros((6, 2))
    weights[some] = RNG.normal(size=(len(some), 2))
    if some:
        weights[some[0]] = 0, 1  # a zero beside a weight
    if len(some) == 6:
        weights[:] = 1
    rows = DenseRows(library(matrix))
    found = np.asarray(rows.sums(library(weights)))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, weights.T @ matrix.astype(float), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(rows.products(library(np.eye(5)[:2])), matrix[:, :2])
    np.testing.assert_array_equal(rows.formed(), matrix)
    np.testing.assert_array_equal(rows.chosen([1, 4]).formed(), matrix[[1, 4]])
    np.testing.assert_array_equal(rows.restricted(slice(1, 3)).formed(), matrix[:, 1:3])


def test_rows_of_any_chunk_are_combinations_of_its_logit_gradients():
    gradients, cotangents = RNG.normal(size=(3, 4, 5)), RNG.normal(size=(3, 4))
    found = rows_of(object(), cotangents, lambda: gradients)
    np.testing.assert_allclose(found.formed(), np.einsum("nc,ncd->nd", cotangents, gradients), rtol=1e-12, atol=1e-14)
