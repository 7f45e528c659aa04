import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import Chebyshev, Legendre, Polynomial
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh

import rmtland as rl
from rmtland import _arguments
from rmtland.spectra import _vectors, operators
from rmtland.spectra.operators import SymmetricOperator, block_width


def symmetric(dimension, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(dimension, dimension))
    return matrix + matrix.T


@given(st.integers(1, 7), st.integers(0, 4), st.sampled_from(["float32", "float64"]), st.booleans())
def test_products_are_those_of_the_matrix(dimension, width, dtype, in_torch):
    matrix = symmetric(dimension).astype(dtype)
    block = np.random.default_rng(1).normal(size=(dimension, width)).astype(dtype)
    operator = rl.SymmetricOperator.from_matrix(torch.from_numpy(matrix) if in_torch else matrix)
    assert operator.shape == (dimension, dimension)
    v = torch.from_numpy(block) if in_torch else block
    product = operator @ v
    assert isinstance(product, torch.Tensor) == in_torch
    assert product.dtype == operator.dtype
    np.testing.assert_allclose(np.asarray(product), matrix @ block, atol=1e-5 if dtype == "float32" else 1e-12)
    if width:
        np.testing.assert_allclose(np.asarray(operator @ v[:, 0]), np.asarray(product)[:, 0], atol=1e-5)


def test_the_product_comes_back_in_the_library_of_the_operand():
    matrix = symmetric(3)
    ours, theirs = rl.SymmetricOperator.from_matrix(matrix), rl.SymmetricOperator.from_matrix(torch.tensor(matrix))
    v = np.arange(3.0)
    assert isinstance(theirs @ v, np.ndarray)
    product = ours @ torch.tensor(v, dtype=torch.float32)
    assert isinstance(product, torch.Tensor)
    assert product.dtype == torch.float32
    np.testing.assert_allclose(theirs @ v, matrix @ v)
    np.testing.assert_allclose(product.numpy(), matrix @ v, rtol=1e-6)
    assert (ours.device, theirs.device) == ("cpu", torch.device("cpu"))
    assert (ours.dtype, theirs.dtype) == (np.float64, torch.float64)


def test_the_operand_may_stand_on_the_left():
    matrix = symmetric(3)
    v, block = np.arange(3.0), np.arange(6.0).reshape(2, 3)
    for operator in (rl.SymmetricOperator.from_matrix(matrix), rl.SymmetricOperator.from_matrix(torch.tensor(matrix))):
        np.testing.assert_allclose(v @ operator, v @ matrix)
        np.testing.assert_allclose(block @ operator, block @ matrix)
        np.testing.assert_allclose((torch.tensor(v) @ operator).numpy(), v @ matrix)
        np.testing.assert_allclose((torch.tensor(block) @ operator).numpy(), block @ matrix)


def test_an_integer_matrix_does_not_round_its_operands():
    operator = rl.SymmetricOperator.from_matrix(np.array([[2, 1], [1, 2]]))
    np.testing.assert_array_equal(operator @ np.array([0.5, 0.25]), [1.25, 1.0])
    np.testing.assert_array_equal(operator @ np.array([1, 0]), [2.0, 1.0])
    assert rl.SymmetricOperator.from_matrix(torch.eye(2, dtype=torch.int64)).dtype == torch.float64


@given(st.integers(1, 12), st.integers(1, 15))
def test_columns_and_dense_give_the_matrix_back_in_any_blocks(dimension, block_size):
    matrix = symmetric(dimension)
    operator = rl.SymmetricOperator.from_matrix(matrix)
    np.testing.assert_allclose(operator.to_dense(block_size), matrix, rtol=1e-15)
    covered = [index for block, _ in operator.columns(block_size) for index in range(block.start, block.stop)]
    assert covered == list(range(dimension))


@pytest.mark.parametrize(
    ("given", "kept"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("bfloat16", "float32")]
)
def test_vectors_are_kept_in_single_precision_at_least(given, kept):
    libraries = [torch] if given == "bfloat16" else [np, torch]
    for library in libraries:
        operator = SymmetricOperator(None, 5, library.ones((5, 2), dtype=getattr(library, given)))
        prototype = _vectors.working_prototype(operator)
        assert type(prototype) is type(operator.prototype)
        assert (tuple(prototype.shape), prototype.dtype) == ((0,), getattr(library, kept))
        # Residuals are known to eight times the noise: what an operator says of its rounding, or its dtype.
        exact = SymmetricOperator(None, 5, operator.prototype, rounding=0.5)
        assert 8 * _vectors.noise(exact) == 0.5
        assert _vectors.noise(operator) == library.finfo(operator.dtype).eps


@pytest.mark.parametrize(
    ("dimension", "width"), [(0, 2**23), (1, 2**23), (3, 2796202), (2897, 2895), (10**5, 83), (2**23, 1), (10**8, 1)]
)
def test_blocks_are_as_wide_as_64_mebibytes_hold(dimension, width):
    assert block_width(dimension) == width
    assert width == 1 or 8 * dimension * width <= 2**26 < 8 * max(dimension, 1) * (width + 1)


def test_columns_come_in_such_blocks(monkeypatch):
    monkeypatch.setattr(operators, "block_width", lambda dimension: dimension // 2)
    slices = [block for block, _ in SymmetricOperator.from_matrix(np.eye(5)).columns()]
    assert slices == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert [block for block, _ in SymmetricOperator.from_matrix(np.eye(5)).columns(3)] == [slice(0, 3), slice(3, 5)]


def test_dense_is_symmetric_to_the_bit():
    matrix = symmetric(5).astype(np.float32)
    lopsided = rl.SymmetricOperator(lambda v: np.tril(matrix) @ v + np.triu(matrix, 1) @ v * (1 + 1e-6), 5, matrix)
    dense = lopsided.to_dense()
    assert dense.dtype == np.float64
    np.testing.assert_array_equal(dense, dense.T)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_scipy_solvers_take_it(library):
    matrix = symmetric(30)
    operator = rl.SymmetricOperator.from_matrix(matrix if library == "numpy" else torch.tensor(matrix))
    linear = operator.to_scipy()
    assert isinstance(linear, LinearOperator)
    assert linear.dtype == np.float64
    np.testing.assert_allclose(linear @ np.eye(30), matrix)
    np.testing.assert_allclose(linear.H @ np.ones((30, 1)), matrix @ np.ones((30, 1)))
    np.testing.assert_allclose(eigsh(linear, k=3, which="LA")[0], np.linalg.eigvalsh(matrix)[-3:])


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.zeros((2, 3)), ValueError, r"`matrix` must be square; got shape \(2, 3\)"),
        (np.zeros(4), ValueError, r"`matrix` must be square; got shape \(4,\)"),
        (np.array([[1.0, 2.0], [2.1, 1.0]]), ValueError, "`matrix` must be symmetric; got one that differs"),
        (1e-30 * np.array([[1.0, 2.0], [2.1, 1.0]]), ValueError, "`matrix` must be symmetric"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), ValueError, "`matrix` must be finite; got NaN"),
        (np.array([[np.inf, 0.0], [0.0, 1.0]]), ValueError, "`matrix` must be finite"),
        (np.eye(2) * 1j, TypeError, "`matrix` must be real; got complex128"),
        ([[1.0]], TypeError, "must be NumPy arrays or torch tensors.*got list"),
    ],
)
def test_bad_matrices(matrix, error, message):
    with pytest.raises(error, match=message):
        rl.SymmetricOperator.from_matrix(matrix)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor, scipy.sparse.csr_array])
def test_a_matrix_is_symmetric_to_a_millionth_of_its_largest_entry(wrap, scale):
    def lopsided(share):
        return wrap(scale * np.array([[4.0, 1.0 + 4 * share], [1.0, -2.0]]))

    assert rl.as_operator(lopsided(0.99e-6)).shape == (2, 2)
    with pytest.raises(ValueError, match="`operator` must be symmetric; got one that differs from its transpose"):
        rl.as_operator(lopsided(1.01e-6))
    with pytest.raises(ValueError, match="must be symmetric"):
        rl.as_operator(lopsided(0.25))


@pytest.mark.parametrize("zeros", [np.zeros((2, 2)), scipy.sparse.coo_array(([0.0, 0.0], ([0, 1], [1, 1])))])
def test_zeros_are_symmetric(zeros):
    np.testing.assert_array_equal(rl.as_operator(zeros).to_dense(), np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("operand", "error", "message"),
    [
        (np.zeros(4), ValueError, r"the operand must have shape \(3,\) or \(3, k\); got \(4,\)"),
        (np.zeros((4, 3)), ValueError, r"got \(4, 3\)"),
        (np.zeros((3, 1, 1)), ValueError, r"got \(3, 1, 1\)"),
        (np.array(1.0), ValueError, r"got \(\)"),
        (np.zeros(3) * 1j, TypeError, "the operand must be real; got complex128"),
        ([1.0, 2.0, 3.0], TypeError, "must be NumPy arrays or torch tensors.*got list"),
        (2.0, TypeError, "must be NumPy arrays or torch tensors.*got float"),
    ],
)
def test_bad_operands(operand, error, message):
    operator = rl.SymmetricOperator.from_matrix(np.eye(3))
    with pytest.raises(error, match=message):
        operator @ operand


def test_block_size_is_checked():
    operator = rl.SymmetricOperator.from_matrix(np.eye(3))
    with pytest.raises(ValueError, match="`block_size` must be >= 1; got 0"):
        operator.to_dense(0)


def test_a_dense_matrix_that_does_not_fit_says_so():
    operator = rl.SymmetricOperator(lambda v: v, 10**9, np.zeros(1))
    message = r"the dense 1000000000 x 1000000000 matrix needs 1.49e\+10 GiB and .* free; use products or to_scipy\(\)"
    with pytest.raises(MemoryError, match=message):
        operator.to_dense()


def test_memory_is_that_which_is_free(monkeypatch):
    monkeypatch.setattr(_arguments, "available_memory", lambda: 1600)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    operator = rl.SymmetricOperator.from_matrix(np.eye(10))
    with pytest.raises(MemoryError, match="10 x 10"):
        operator.to_dense()
    assert rl.SymmetricOperator.from_matrix(np.eye(9)).to_dense().shape == (9, 9)


LIBRARIES = [np.asarray, torch.tensor]


@pytest.mark.parametrize("left", LIBRARIES)
@pytest.mark.parametrize("right", LIBRARIES)
def test_operators_add_and_scale_as_matrices_do(left, right):
    a, b = symmetric(5), symmetric(5, seed=1)
    one, other = rl.as_operator(left(a)), rl.as_operator(right(b))
    for combined, expected in (
        (one + other, a + b),
        (one - other, a - b),
        (one - right(b), a - b),
        (2 * one, 2 * a),
        (one * np.float64(2), 2 * a),
        (one / 4, a / 4),
        (one / 1, a),
        (-one, -a),
        (one.shifted(0.5), a - 0.5 * np.eye(5)),
        (3 * (one - other.shifted(1.0)) / 2 - one, 1.5 * (a - b + np.eye(5)) - a),
    ):
        assert isinstance(combined, rl.SymmetricOperator)
        np.testing.assert_allclose(combined.to_dense(), expected, atol=1e-13)
        np.testing.assert_allclose(combined @ np.arange(5.0), expected @ np.arange(5.0), atol=1e-13)
    in_torch = left is torch.tensor or right is torch.tensor
    assert isinstance((one + other).prototype, torch.Tensor if in_torch else np.ndarray)
    assert len((one + other).prototype) == 0
    np.testing.assert_allclose((b + one).to_dense(), a + b)
    np.testing.assert_allclose((b - one).to_dense(), b - a)


def test_a_sum_works_in_the_longer_dtype():
    matrix = symmetric(4)
    for cast in (lambda x, t: x.astype(t), lambda x, t: torch.tensor(x, dtype=getattr(torch, t))):
        single, double = (rl.as_operator(cast(matrix, dtype)) for dtype in ("float32", "float64"))
        for combined in (single + double, double + single):
            assert combined.dtype == double.dtype
            np.testing.assert_allclose(combined.to_dense(), 2 * matrix, rtol=1e-6, atol=1e-6)
        assert (single + single).dtype == single.dtype


def test_the_scale_of_rounding_follows_the_algebra():
    """Products of A - s 1 are differences of vectors s times as long as the operand."""
    shifted, other = rl.as_operator(symmetric(3)).shifted(-6.0), rl.as_operator(symmetric(3)).shifted(0.5)
    scales = [x.rounding_scale for x in (shifted / 4, shifted / -4, -2 * shifted, shifted + other, other - shifted)]
    assert scales == [1.5, 1.5, 12.0, 6.5, 6.5]
    assert shifted.shifted(1.0).counted().rounding_scale == 7.0


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_a_polynomial_does_not_matter(scale):
    matrix = scale * symmetric(30)
    pairs = rl.top_eigenpairs(rl.as_operator(matrix).composed(Polynomial([0.0, -1.0])), 2, rng=0, tolerance=1e-9)
    np.testing.assert_allclose(pairs.eigenvalues, -np.linalg.eigvalsh(matrix)[[1, 0]], rtol=1e-12)
    assert np.all(pairs.residuals <= 1e-9 * pairs.eigenvalues)


def test_operators_are_compared_by_identity():
    operator = rl.as_operator(symmetric(3))
    assert operator == operator
    assert operator != rl.as_operator(symmetric(3))
    assert operator in {operator}


@pytest.mark.parametrize(
    "polynomial",
    [
        Polynomial([0.5]),
        Polynomial([1.0, 0.5]),
        Polynomial([1.0, -2.0, 0.5, 0.25]),
        Polynomial([1.0, -2.0, 0.5], domain=[-3, 5]),
        Chebyshev([0.5]),
        Chebyshev([1.0, 0.5], domain=[-2, 7]),
        Chebyshev([1.0, 0.0, 0.3, -0.7, 0.2], domain=[-5, 4]),
        Legendre([0.2, 1.0, -0.4], domain=[-4, 4]),
    ],
    ids=lambda p: f"{type(p).__name__}-{p.degree()}",
)
def test_polynomials_of_an_operator(polynomial):
    matrix = symmetric(6) / 3
    values, vectors = np.linalg.eigh(matrix)
    for array in (matrix, torch.tensor(matrix)):
        counted = rl.as_operator(array).counted()
        composed = counted.composed(polynomial)
        np.testing.assert_allclose(composed.to_dense(), (vectors * polynomial(values)) @ vectors.T, atol=1e-12)
        assert counted.num_products == 6 * polynomial.degree()
        assert composed.rounding_scale == 0  # what it gives says how large it is


def test_a_chebyshev_series_is_stable_to_high_degree():
    matrix = symmetric(20)
    values, vectors = np.linalg.eigh(matrix)
    series = Chebyshev.interpolate(lambda x: np.exp(-(x**2)), 200, domain=[values[0] - 1, values[-1] + 1])
    expected = (vectors * np.exp(-(values**2))) @ vectors.T
    np.testing.assert_allclose(rl.as_operator(matrix).composed(series).to_dense(), expected, atol=1e-12)


def test_products_are_counted_by_vectors():
    counted = rl.as_operator(symmetric(4)).counted()
    assert isinstance(counted, rl.CountingOperator)
    counted @ np.ones(4)
    counted @ np.ones((4, 3))
    (2 * counted + symmetric(4)) @ np.ones(4)
    assert counted.num_products == 5
    assert counted.counted().num_products == 0


@pytest.mark.parametrize(
    "wrap",
    [
        aslinearoperator,
        scipy.sparse.csr_array,
        scipy.sparse.dia_array,
        scipy.sparse.coo_matrix,
        torch.tensor,
        rl.SymmetricOperator.from_matrix,
        lambda m: LinearOperator(m.shape, matvec=lambda v: m @ v),
    ],
)
def test_as_operator_takes_what_has_products(wrap):
    matrix = symmetric(5)
    operator = rl.as_operator(wrap(matrix))
    assert operator.dtype in (np.float64, torch.float64)
    np.testing.assert_allclose(operator.to_dense(), matrix)
    np.testing.assert_allclose(operator @ np.arange(5.0), matrix @ np.arange(5.0))
    assert rl.as_operator(operator) is operator


def test_scipy_dtypes_are_kept_where_they_float():
    assert rl.as_operator(scipy.sparse.eye_array(3, dtype=np.float32)).dtype == np.float32
    assert rl.as_operator(scipy.sparse.eye_array(3, dtype=np.float32)).prototype.size == 0
    assert rl.as_operator(scipy.sparse.eye_array(3, dtype=np.int64)).dtype == np.float64
    assert rl.as_operator(scipy.sparse.csr_array((3, 3))).shape == (3, 3)  # nothing stored
    zeros = scipy.sparse.csr_array((np.zeros(2), ([0, 1], [1, 2])), shape=(3, 3))  # two zeros stored
    assert not rl.as_operator(zeros).to_dense().any()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_sparse_matrix_may_differ_from_its_transpose_by_rounding_of_its_size(scale):
    for off, allowed in ((1e-8, True), (1e-5, False)):
        matrix = scipy.sparse.csr_array(scale * np.array([[1.0, 0.5], [0.5 + off, -1.0]]))
        if allowed:
            np.testing.assert_allclose(rl.as_operator(matrix).to_dense(), matrix.toarray(), rtol=1e-7)
        else:
            with pytest.raises(ValueError, match="`operator` must be symmetric; got one that differs"):
                rl.as_operator(matrix)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rl.as_operator([[1.0]]), TypeError, "`operator` must be a SymmetricOperator, an array.*; got list"),
        (lambda: rl.as_operator(None, "left"), TypeError, "`left` must be a SymmetricOperator.*; got NoneType"),
        (lambda: rl.as_operator(scipy.sparse.csr_array((2, 3))), ValueError, r"must be square; got shape \(2, 3\)"),
        (lambda: rl.as_operator(scipy.sparse.eye_array(2) * 1j), TypeError, "must be real; got complex128"),
        (
            lambda: rl.as_operator(scipy.sparse.csr_array([[0.0, 1.0], [0.0, 0.0]])),
            ValueError,
            "`operator` must be symmetric; got one that differs",
        ),
        (
            lambda: rl.as_operator(scipy.sparse.csr_array([[np.nan, 1.0], [1.0, 0.0]])),
            ValueError,
            "`operator` must be finite; got NaN",
        ),
        (lambda: rl.as_operator(np.eye(2)) + 1.0, TypeError, "a number is no operator, `shifted` subtracts"),
        (lambda: rl.as_operator(np.eye(2)) + np.eye(3), ValueError, r"`other` must have shape \(2, 2\); got \(3, 3\)"),
        (lambda: rl.as_operator(np.eye(2)) * np.inf, ValueError, "`factor` must be finite; got inf"),
        (lambda: rl.as_operator(np.eye(2)) * "2", TypeError, "`factor` must be a real number"),
        (lambda: rl.as_operator(np.eye(2)) / 0, ValueError, "`divisor` must be nonzero; got 0"),
        (lambda: rl.as_operator(np.eye(2)).shifted(np.nan), ValueError, "`shift` must be finite"),
        (
            lambda: rl.as_operator(np.eye(2)).composed(np.exp),
            TypeError,
            "`polynomial` must be one of numpy.polynomial's",
        ),
        (
            lambda: rl.as_operator(np.eye(2)).composed(Polynomial([1j, 1.0])),
            TypeError,
            "`polynomial` must have real coefficients",
        ),
    ],
)
def test_bad_algebra(make, error, message):
    with pytest.raises(error, match=message):
        make()
