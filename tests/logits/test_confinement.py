from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.logits import confinement as module
from tests import oracles

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(40, 40))
MATRIX = MATRIX + MATRIX.T
SLOPE = RNG.normal(size=40)


def by_definition(matrix, slope, k):
    values, vectors = np.linalg.eigh(matrix)
    return values[-k:], (vectors[:, -k:].T @ slope) ** 2 / (slope @ slope)


@pytest.mark.parametrize("limit", [module.DENSE_LIMIT, 10], ids=["dense", "iterative"])
@pytest.mark.parametrize("k", [1, 5])
def test_against_eigh(monkeypatch, limit, k):
    monkeypatch.setattr(module, "DENSE_LIMIT", limit)
    values, powers = by_definition(MATRIX, SLOPE, k)
    for operator, slope in (
        (MATRIX, SLOPE),
        (rl.SymmetricOperator.from_matrix(MATRIX), 7 * SLOPE),
        (rl.SymmetricOperator.from_matrix(torch.tensor(MATRIX)), torch.tensor(SLOPE, requires_grad=True)),
    ):
        got = rl.confinement(operator, slope, k)
        np.testing.assert_allclose(got.eigenvalues, values, rtol=1e-8)
        np.testing.assert_allclose(got.powers, powers, rtol=1e-6, atol=1e-10)
        assert float(got) == got.power == pytest.approx(powers.sum())


def test_all_directions_hold_all_of_it():
    assert float(rl.confinement(MATRIX, SLOPE, 40)) == pytest.approx(1)


def test_top_means_algebraically_largest():
    assert float(rl.confinement(np.diag([-5.0, 1.0, 2.0]), np.array([1.0, 0.0, 0.0]), 2)) == 0


def test_an_integer_matrix():
    assert float(rl.confinement(np.diag([1, 2, 3]), np.array([0.0, 3.0, 4.0]), 1)) == pytest.approx(0.64)


def test_the_iterative_solver_finds_directions_that_the_gradient_does_not_touch(monkeypatch):
    # The gradient is itself an eigenvector, of the second largest eigenvalue: its Krylov space is one-dimensional.
    monkeypatch.setattr(module, "DENSE_LIMIT", 10)
    diagonal = np.concatenate([np.linspace(0, 1, 60), [5.0, 9.0]])
    slope = np.zeros(62)
    slope[-2] = 1.0
    got = rl.confinement(np.diag(diagonal), slope, 2)
    np.testing.assert_allclose(got.eigenvalues, [5, 9])
    np.testing.assert_allclose(got.powers, [1, 0], atol=1e-12)
    # And where it fills an invariant subspace of fair size without the top direction.
    slope = np.where(np.arange(62) < 50, 1.0, 0.0)
    np.testing.assert_allclose(rl.confinement(np.diag(diagonal), slope, 2).eigenvalues, [5, 9])


def test_a_spectrum_knows_its_gradient():
    arrays = oracles.examples(8, 3, 30)
    source = rl.DenseLogitGradients(*arrays)
    spectrum = rl.gauss_newton_spectrum(source)
    ours = rl.confinement(spectrum, None, 3)
    theirs = rl.confinement(rl.gauss_newton(source), rl.gradient(source), 3)
    np.testing.assert_allclose(ours.eigenvalues, theirs.eigenvalues)
    np.testing.assert_allclose(ours.powers, theirs.powers, rtol=1e-7)
    assert float(ours) == pytest.approx(spectrum.gradient_power(3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((MATRIX, SLOPE, 0), ValueError, "`k` must be >= 1 and <= 40; got 0"),
        ((MATRIX, SLOPE, 41), ValueError, "`k` must be >= 1 and <= 40; got 41"),
        ((MATRIX, SLOPE, 2.0), TypeError, "`k` must be an integer"),
        ((MATRIX, None, 2), ValueError, "`gradient` must be given with an operator; got None"),
        ((MATRIX, 0 * SLOPE, 2), ValueError, "`gradient` must not be zero: it has no direction"),
        ((MATRIX, SLOPE[:-1], 2), ValueError, r"`gradient` must have shape \(40,\); got \(39,\)"),
        ((MATRIX, MATRIX, 2), ValueError, "`gradient` must have 1 dimension"),
        ((MATRIX, np.nan * SLOPE, 2), ValueError, "`gradient` must be finite"),
        ((MATRIX[:-1], SLOPE, 2), ValueError, "`matrix` must be square"),
        (([[1.0]], SLOPE, 2), TypeError, "`operator_or_spectrum`.* must be NumPy arrays or torch tensors"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        rl.confinement(*arguments)


def test_k_of_a_spectrum():
    spectrum = rl.gauss_newton_spectrum(rl.DenseLogitGradients(*oracles.examples(8, 3, 30)))
    with pytest.raises(ValueError, match="`k` must be >= 1 and <= 16; got 17"):
        rl.confinement(spectrum, None, 17)
    single = SimpleNamespace(eigenvalues=[2.0], powers=[0.25])
    assert float(rl.confinement(single, None, 1)) == 0.25
    with pytest.raises(ValueError, match="`k` must be >= 1 and <= 1; got 2"):
        rl.confinement(single, None, 2)


def test_a_gradient_of_any_size():
    for scale in (1e-200, 1.0, 1e200):
        share = float(rl.confinement(np.diag([1.0, 2.0, 3.0]), scale * np.array([0.0, 3.0, 4.0]), 1))
        assert share == pytest.approx(0.64, rel=1e-12)
