import numpy as np
import pytest

import rmtland as rl
from rmtland.logits import kronecker
from rmtland.logits.kronecker import GROUPS
from tests import oracles


def positive(size, rng):
    root = rng.normal(size=(size, size + 2))
    return root @ root.T


def rearranged(matrix):
    n, c = matrix.shape[:2]
    return matrix.transpose(0, 2, 1, 3).reshape(n * n, c * c)


def gram_of(matrix):
    n, c = matrix.shape[:2]
    return rl.LogitGradientGram(matrix, np.zeros((n, c)), np.arange(n) % c, 100)


@pytest.mark.parametrize("dense", [1024, 1])
@pytest.mark.parametrize("terms", [1, 3])
def test_against_the_singular_values_of_the_rearrangement(monkeypatch, terms, dense):
    monkeypatch.setattr(kronecker, "DENSE", dense)
    gram = rl.logit_gradient_gram(rl.DenseLogitGradients(*oracles.examples(8, 3, 40)))
    left, values, right = np.linalg.svd(rearranged(gram.matrix), full_matrices=False)
    fit = rl.kronecker_fit(gram, terms)
    np.testing.assert_allclose(fit.shares, values[:terms] ** 2 / np.sum(values**2), rtol=1e-10)
    best = (left[:, :terms] * values[:terms]) @ right[:terms]
    np.testing.assert_allclose(rearranged(fit.matrix()), best, atol=1e-9 * np.abs(best).max())
    for t in range(terms):  # each term at its own place
        alone = np.outer(fit.theta[t], fit.outputs[t])
        np.testing.assert_allclose(alone, values[t] * np.outer(left[:, t], right[t]), atol=1e-9 * np.abs(best).max())
    tiny = rl.kronecker_fit(gram_of(1e-20 * gram.matrix), terms)
    np.testing.assert_allclose(tiny.shares, fit.shares, rtol=1e-10)
    np.testing.assert_allclose(tiny.matrix(), 1e-20 * fit.matrix(), atol=1e-29 * np.abs(best).max())
    assert fit.share == pytest.approx(1 - np.sum((gram.matrix - fit.matrix()) ** 2) / np.sum(gram.matrix**2))
    assert np.trace(fit.outputs[0]) == pytest.approx(3)
    assert np.trace(fit.theta[0]) > 0
    others = ~np.eye(8, dtype=bool)
    rest = (gram.matrix - fit.matrix()).transpose(0, 2, 1, 3)[others]
    assert fit.share_between == pytest.approx(
        1 - np.sum(rest**2) / np.sum(gram.matrix.transpose(0, 2, 1, 3)[others] ** 2)
    )


def test_a_kronecker_product_is_found_exactly():
    rng = np.random.default_rng(0)
    theta, k = positive(6, rng), positive(4, rng)
    matrix = np.einsum("mn,kl->mknl", theta, k)
    fit = rl.kronecker_fit(gram_of(matrix))
    assert fit.share == pytest.approx(1)
    assert fit.share_between == pytest.approx(1)
    np.testing.assert_allclose(fit.outputs[0], 4 * k / np.trace(k), rtol=1e-10)
    np.testing.assert_allclose(fit.theta[0], theta * np.trace(k) / 4, rtol=1e-10)
    second = np.einsum("mn,kl->mknl", 10 * np.eye(6), np.diag([1.0, -1, 0, 0]))
    assert rl.kronecker_fit(gram_of(matrix + second), 1).share < 1 - 1e-4
    assert rl.kronecker_fit(gram_of(matrix + second), 2).share == pytest.approx(1)


def test_errors_are_those_of_draws_of_the_examples():
    rng = np.random.default_rng(1)
    shares, errors = [], []
    for _ in range(60):
        means = np.ones((3, 3)) + np.eye(3)
        lengths = rng.exponential(size=(40, 1, 1))
        gradients = lengths * (means @ np.eye(3, 30)) + 0.3 * rng.normal(size=(40, 3, 30))
        fit = rl.kronecker_fit(rl.DenseLogitGradients(np.zeros((40, 3)), np.arange(40) % 3, gradients))
        shares.append(fit.share)
        errors.append(fit.standard_error[0])
    assert 0.5 < np.mean(errors) / np.std(shares) < 2


@pytest.mark.parametrize("num_examples", [2, 3, 23])
@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_errors_by_groups_are_those_of_fits_without_each(monkeypatch, num_examples, unit):
    logits, labels, gradients = oracles.examples(num_examples, 3, 40)
    source = rl.DenseLogitGradients(logits, labels, unit * gradients)
    by_groups = rl.kronecker_fit(source, 2)
    assert np.isfinite(by_groups.standard_error).all()
    assert (by_groups.standard_error > 1e-6).all() == (num_examples > 2)  # one example alone is a product
    monkeypatch.setattr(kronecker, "BY_GROUPS", 1)
    np.testing.assert_allclose(
        by_groups.standard_error, rl.kronecker_fit(source, 2).standard_error, rtol=1e-8, atol=1e-14
    )


def test_bad_input():
    gram = gram_of(np.zeros((4, 3, 4, 3)))
    with pytest.raises(ValueError, match="not all zero"):
        rl.kronecker_fit(gram)
    with pytest.raises(ValueError, match="`num_terms`"):
        rl.kronecker_fit(gram, 10)
    one = rl.kronecker_fit(gram_of(np.ones((1, 2, 1, 2))))
    assert np.isnan(one.share_between)
    assert np.isnan(one.standard_error).all()


def test_errors_are_those_of_fits_without_a_tenth_of_the_examples():
    """The jackknife by its definition, every fit anew."""
    logits, labels, gradients = oracles.examples(37, 3, 9)
    found = rl.kronecker_fit(rl.DenseLogitGradients(logits, labels, gradients), num_terms=2)
    left = []
    for group in range(GROUPS):
        kept = np.arange(37) % GROUPS != group
        without = rl.DenseLogitGradients(logits[kept], labels[kept], gradients[kept])
        left.append(np.cumsum(rl.kronecker_fit(without, num_terms=2).shares))
    squares = (np.array(left) - np.mean(left, axis=0)) ** 2
    expected = np.sqrt((GROUPS - 1) / GROUPS * squares.sum(axis=0))
    np.testing.assert_allclose(found.standard_error, expected, rtol=1e-8)
