"""Standard deviations over draws with given logits, against draws of the dense matrix and of the reduced sampler."""

import math

import numpy as np
import pytest
from scipy.linalg import eigh

import rmtland as rl
from tests.landscape.dense_theory import dense_t, examples
from tests.statistical import assert_mean


def pair(n, c, d, sigma, law, cross_terms=True, seed=0):
    logits, labels = examples(n, c, sigma, seed)
    model = rl.LandscapeModel(n, c, d, logits=rl.GivenLogits(logits, labels), gradients=law)
    t, a = dense_t(logits, labels, law.mean_lengths(c), law.residual_length, law.class_length, cross_terms)
    return model.theory(cross_terms=cross_terms), t, a


def dense_draws(t, a, d, count, draws, seed=0):
    """Top `count` eigenvalues of X^T T X, the share of X^T a in their eigenvectors, and trace over norm."""
    kept = t > 1e-9 * t[-1]
    root = np.sqrt(t[kept] / d)
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(draws // 500):
        x = rng.standard_normal((500, t.size, d))
        results.append(measured(root[:, None] * x[:, kept], np.tensordot(a / math.sqrt(d), x, (0, 1)), count))
    return np.concatenate(results)


def triangular_draws(t, a, d, count, draws, seed=0):
    """The same in law with the triangular factor of X (Bartlett 1933), whose rotation changes none of these numbers.

    What the gradient has of the directions without curvature is one row more.
    """
    kept = t > 1e-9 * t[-1]
    root, slope = np.sqrt(t[kept] / d), np.append(a[kept], np.linalg.norm(a[~kept])) / math.sqrt(d)
    num_rows = root.size + 1
    rng = np.random.default_rng(seed)
    below, diagonal = np.tril_indices(num_rows, -1), np.arange(num_rows)
    x = np.zeros((500, num_rows, num_rows))
    results = []
    for _ in range(draws // 500):
        x[:, *below] = rng.standard_normal((500, below[0].size))
        x[:, diagonal, diagonal] = np.sqrt(rng.chisquare(d - diagonal, (500, num_rows)))
        results.append(measured(root[:, None] * x[:, :-1], slope @ x, count))
    return np.concatenate(results)


def measured(rows, gradients, count):
    """Of draws of T^(1/2) X (draws, rows, d) and of the gradient (draws, d): what `dense_draws` returns."""
    grams = rows @ rows.swapaxes(1, 2)
    trace, norm = np.trace(grams, axis1=1, axis2=2), np.linalg.norm(grams, axis=(1, 2))
    size = grams.shape[1]
    found = []
    for gram, along in zip(grams, (rows @ gradients[:, :, None])[:, :, 0], strict=True):
        # The eigenvectors of X^T T X are those of the Gram matrix times T^(1/2) X, over the root of their eigenvalue.
        values, vectors = eigh(gram, subset_by_index=[size - count, size - 1], check_finite=False)
        found.append([*values, np.sum((along @ vectors) ** 2 / values)])
    share = np.array(found)[:, -1] / np.sum(gradients**2, axis=1)
    return np.column_stack([np.array(found)[:, :-1], share, trace / norm])


def assert_deviations(samples, expected, *, bias, detect):
    """That samples (draws first) have these standard deviations; `bias` and `detect` are shares of them."""
    samples = np.asarray(samples)
    n = samples.shape[0]
    squares = (samples - samples.mean(axis=0)) ** 2 * (n / (n - 1))
    square = np.square(expected)
    assert_mean(squares, square, bias=2 * bias * square, detect=2 * detect * square)


def check(theory, samples, count, *, bias, detect, near=False):
    """Outliers, power in the top `count` and ratio; and that other formulas would not have passed.

    `near`: the first formula of the power is too near to be told apart.
    """
    outliers, power = theory.outliers_std(), theory.gradient_power_std(count)
    ratio = theory.goldilocks_ratio_std()
    assert_deviations(samples[:, :count], outliers, bias=bias, detect=detect)
    assert_deviations(samples[:, count], power, bias=bias, detect=detect)
    assert_deviations(samples[:, -1], ratio, bias=bias, detect=detect)
    # The first formula of the power: two independent Gaussian vectors.
    q = theory.gradient_power(count)
    wrong = 2 * q * (1 - q) / math.sqrt(theory.num_parameters)
    far = 1 + 2 * detect
    assert (abs(wrong / power - 1) < detect) == near
    others = [(count, power / far), (-1, far * ratio), (0, far * outliers[0]), *([(count, wrong)] * (not near))]
    for column, value in others:
        with pytest.raises(AssertionError, match="against"):
            assert_deviations(samples[:, column], value, bias=bias, detect=math.inf)


CASES = [
    (1.0, rl.ClusteredGradients(1.0, 0.7), True),
    (0.1, rl.ClusteredGradients(1.0, 1.4), True),
    # No gap below the outliers.
    (15.0, rl.ClusteredGradients(1.0, 1.4), True),
    (3.0, rl.ClusteredGradients(1.0, 0.7, 0.5), True),
    (3.0, rl.ClusteredGradients(1.0, 0.7), False),
]


@pytest.mark.parametrize(("sigma", "law", "cross_terms"), CASES[::2])
def test_against_dense_draws(sigma, law, cross_terms):
    theory, t, a = pair(30, 3, 150, sigma, law, cross_terms)
    check(theory, dense_draws(t, a, 150, 2, 4000), 2, bias=0.04, detect=0.3)


def test_power_of_directions_within_the_bulk():
    """The number of directions is given, not the level: each eigenvalue more would bring its power."""
    theory, t, a = pair(30, 3, 150, 15.0, rl.ClusteredGradients(1.0, 3.0))
    samples = dense_draws(t, a, 150, 1, 2000)[:, 1]
    expected = theory.gradient_power_std(1)  # 6% high at D = 150, the next order; 28% without the level's motion
    assert_deviations(samples, expected, bias=0.08, detect=0.5)
    with pytest.raises(AssertionError, match="against"):
        assert_deviations(samples, 1.2 * expected, bias=0.08, detect=math.inf)


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "law", "cross_terms"), CASES[1:])
def test_against_many_draws(sigma, law, cross_terms):
    # To 4% of the standard deviations.
    theory, t, a = pair(30, 3, 150, sigma, law, cross_terms)
    check(theory, triangular_draws(t, a, 150, 2, 18_000), 2, bias=0.04, detect=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("sigma", "snr", "near"), [(0.1, 2.0, True), (15.0, 0.5, False)])
def test_against_draws_with_ten_classes(sigma, snr, near):
    logits, labels = rl.GaussianLogits(sigma).draw_logits(120, 10, np.random.default_rng(1))
    law = rl.ClusteredGradients(1.0, 1 / math.sqrt(snr))
    model = rl.LandscapeModel(120, 10, 400, logits=rl.GivenLogits(logits, labels), gradients=law)
    spectra = [model.spectrum(seed, k=9) for seed in range(500)]
    samples = [[*s.outliers(), s.gradient_power(9), s.goldilocks_ratio()] for s in spectra]
    check(model.theory(), np.array(samples), 9, bias=0.04, detect=0.5, near=near)


def test_the_last_of_few_eigenvalues_is_the_trace_less_the_others():
    """Without residuals: two far apart, the smaller by the trace's variance and what that has with the larger."""
    theory, t, a = pair(30, 3, 400, 0.5, rl.ClusteredGradients(1.0, 0.0, 0.0, (1.0, 3.0, 0.3)))
    samples, expected = triangular_draws(t, a, 400, 2, 4000)[:, :2], theory.outliers_std()
    assert expected[0] < 0.1 * expected[1]
    assert_deviations(samples, expected, bias=0.02, detect=0.2)
    with pytest.raises(AssertionError, match="against"):
        assert_deviations(samples, 1.2 * expected, bias=0.02, detect=math.inf)


def test_two_classes_and_ranks():
    # Beyond the rank there is nothing; at it, the rest of the trace.
    tiny = rl.LandscapeModel.fort_ganguli(20, 6, 2).theory(0)
    np.testing.assert_array_equal(tiny.outliers_std()[:3], 0)
    assert np.all(tiny.outliers_std()[3:] > 0)
    # No residuals, two classes: G is one chi-squared variable times its mean, all the gradient along it.
    pure = rl.LandscapeModel.fort_ganguli(20, 2, 50, residual_length=0.0).theory(0)
    np.testing.assert_allclose(pure.outliers_std(), pure.outliers() * math.sqrt(2 / 50), rtol=1e-2)
    assert pure.gradient_power_std(1) == pure.gradient_power_std(0) == 0
