import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland.spectra.traces import trace_and_norm


@given(st.integers(1, 8), st.integers(0, 10**6), st.sampled_from(["float32", "float64"]))
def test_trace_and_norm_of_an_operator(dimension, seed, dtype):
    matrix = np.random.default_rng(seed).normal(size=(dimension, dimension))
    matrix = (matrix + matrix.T).astype(dtype)
    for array in (matrix, torch.from_numpy(matrix)):
        trace, norm = trace_and_norm(rl.SymmetricOperator.from_matrix(array))
        assert trace == pytest.approx(np.trace(matrix.astype(float)), rel=1e-12, abs=1e-12)
        assert norm == pytest.approx(np.linalg.norm(matrix.astype(float)), rel=1e-12)


def test_ratio_of_operator_eigenvalues_and_spectrum_agree():
    draw = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=4, num_parameters=30).sample(0)
    spectrum = rl.gauss_newton_spectrum(draw)
    expected = np.trace(draw.hessian()) / np.linalg.norm(draw.hessian())
    for given_as in (
        rl.gauss_newton(draw),
        spectrum,
        spectrum.eigenvalues,
        spectrum.eigenvalues.tolist(),
        torch.tensor(spectrum.eigenvalues, requires_grad=True),
        spectrum.eigenvalues[spectrum.eigenvalues > 0],
    ):
        assert rl.goldilocks_ratio(given_as) == pytest.approx(expected, rel=1e-12)
    assert spectrum.goldilocks_ratio() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1.0, 1e170, 1e300])
def test_the_ratio_does_not_depend_on_the_scale(scale):
    # Squares of 1e-170 underflow and those of 1e170 overflow; an absolute threshold would call the former zero.
    eigenvalues = scale * np.array([3.0, 4.0])
    assert rl.goldilocks_ratio(eigenvalues) == pytest.approx(7 / 5, rel=1e-14)
    assert rl.goldilocks_ratio(rl.SymmetricOperator.from_matrix(np.diag(eigenvalues))) == pytest.approx(1.4, rel=1e-14)


def test_ends_of_the_range():
    assert rl.goldilocks_ratio(np.ones(16)) == 4
    assert rl.goldilocks_ratio(-np.ones(16)) == -4
    assert rl.goldilocks_ratio([1.0, -1.0]) == 0
    assert math.isnan(rl.goldilocks_ratio(np.zeros(3)))
    assert math.isnan(rl.goldilocks_ratio(rl.SymmetricOperator.from_matrix(np.zeros((2, 2)))))


@pytest.mark.parametrize(
    ("eigenvalues", "error", "message"),
    [
        ([1.0, np.nan], ValueError, "`eigenvalues` must be finite; got 1 NaN"),
        (np.eye(2), ValueError, r"`eigenvalues` must have 1 dimension; got shape \(2, 2\)"),
        ("abc", TypeError, "`eigenvalues` must be an array of real numbers; got str"),
    ],
)
def test_bad_eigenvalues(eigenvalues, error, message):
    with pytest.raises(error, match=message):
        rl.goldilocks_ratio(eigenvalues)
