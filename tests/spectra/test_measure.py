import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtland.spectra.measure import implicit_ql, spectral_measure


def expected(matrix, vector):
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return eigenvalues, (vectors.T @ vector) ** 2


@given(st.integers(1, 40), st.integers(0, 99), st.sampled_from([0.0, 1.0, 12.0]))
def test_against_eigh(n, seed, decades):
    # Graded over many decades, as Gauss-Newton matrices of frozen examples are.
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    matrix = basis * 10 ** (-decades * rng.random(n)) @ basis.T
    matrix = (matrix + matrix.T) / 2
    vector = rng.normal(size=n)
    before = matrix.copy()
    eigenvalues, squares = spectral_measure(matrix, vector)
    np.testing.assert_array_equal(matrix, before)
    values, components = expected(matrix, vector)
    np.testing.assert_allclose(eigenvalues, values, atol=1e-13 * values[-1])
    assert squares.sum() == pytest.approx(vector @ vector)
    # Cumulated from the top: neighbours nearer than rounding may share their squares.
    apart = np.append(np.diff(values) > 1e-9 * values[-1], True)
    np.testing.assert_allclose(np.cumsum(squares)[apart], np.cumsum(components)[apart], atol=1e-6 * (vector @ vector))


def test_repeated_eigenvalues_and_vectors_without_components():
    eigenvalues, squares = spectral_measure(np.eye(5), np.arange(5.0))
    np.testing.assert_allclose(eigenvalues, 1, rtol=1e-14)
    assert squares.sum() == pytest.approx(30)
    eigenvalues, squares = spectral_measure(np.diag([1.0, 1.0, 4.0]), np.array([3.0, 4.0, 0.0]))
    np.testing.assert_allclose(eigenvalues, [1, 1, 4])
    np.testing.assert_allclose([squares[:2].sum(), squares[2]], [25, 0], atol=1e-14)
    np.testing.assert_allclose(spectral_measure(np.diag([2.0, 1.0]), np.zeros(2)), [[1, 2], [0, 0]])
    np.testing.assert_array_equal(spectral_measure(np.zeros((3, 3)), np.zeros(3)), 0)
    np.testing.assert_array_equal(spectral_measure(np.array([[7.0]]), np.array([-2.0])), [[7], [4]])


def test_a_long_tail_of_rounding_converges():
    # Rows of weights down to 1e-150, as frozen examples have them: most of the matrix is rounding.
    rng = np.random.default_rng(0)
    rows = 10.0 ** -np.linspace(0, 150, 600)[:, None] * rng.normal(size=(600, 700))
    vector = rows @ rng.normal(size=700)
    eigenvalues, squares = spectral_measure(rows @ rows.T, vector)
    values, components = expected(rows @ rows.T, vector)
    np.testing.assert_allclose(eigenvalues, values, atol=1e-14 * values[-1])
    np.testing.assert_allclose(squares[-6:], components[-6:], rtol=1e-9)


def test_nan_does_not_go_on_for_ever():
    with pytest.raises(FloatingPointError, match="did not converge"):
        spectral_measure(np.full((3, 3), np.nan), np.ones(3))


@pytest.mark.parametrize("exponent", [-1040, -600, -500, 500, 1000])
def test_the_iteration_has_the_same_digits_at_any_scale(exponent):
    rng = np.random.default_rng(1)
    diagonal, off_diagonal = rng.normal(size=30), np.append(rng.normal(size=29), 0.0)
    one, other = (diagonal.copy(), off_diagonal.copy(), np.eye(30)[0]), np.eye(30)[0]
    assert implicit_ql(*one)
    scaled = np.ldexp(diagonal, exponent)
    assert implicit_ql(scaled, np.ldexp(off_diagonal, exponent), other)
    if exponent > -1000:
        np.testing.assert_array_equal(np.ldexp(scaled, -exponent), one[0])
        np.testing.assert_array_equal(other, one[2])
    else:  # subnormal entries have few digits themselves
        np.testing.assert_allclose(np.ldexp(scaled, 1000), np.ldexp(one[0], exponent + 1000), atol=2.0**-60)


def test_the_iteration_of_zeros_and_of_what_is_not_finite():
    row = np.eye(3)[0]
    assert implicit_ql(np.zeros(3), np.zeros(3), row)
    np.testing.assert_array_equal(row, np.eye(3)[0])
    for bad in (np.nan, np.inf):
        assert not implicit_ql(np.array([1.0, bad, 2.0]), np.ones(3), np.eye(3)[0])


def test_without_numba_the_kernel_says_the_same():
    rng = np.random.default_rng(0)
    arguments = rng.normal(size=8), rng.normal(size=8), np.eye(8)[0]
    compiled, plain = (tuple(a.copy() for a in arguments) for _ in range(2))
    assert implicit_ql(*compiled)
    assert implicit_ql.py_func(*plain)
    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-12)
    np.testing.assert_allclose(compiled[2], plain[2], atol=1e-12)
