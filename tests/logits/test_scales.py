import math
import statistics
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from tests import oracles
from tests.statistical import assert_mean


@given(st.integers(2, 14), st.integers(2, 5), st.integers(1, 6), st.integers(0, 99), st.integers(1, 14), st.booleans())
def test_against_the_definitions(n, c, d, seed, chunk_size, in_torch):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, c)), rng.integers(0, c, n)
    gradients = rng.normal(size=(n, c, d)) + rng.normal(size=(c, d))
    wrap = torch.from_numpy if in_torch else np.asarray
    source = rl.DenseLogitGradients(wrap(logits), wrap(labels), wrap(gradients), chunk_size=chunk_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        got = rl.logit_scales(source)
    sigma_z, sigma_c, sigma_E, means = oracles.scales(logits, labels, gradients)
    np.testing.assert_allclose([got.sigma_z, got.sigma_E], [sigma_z, sigma_E], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.sigma_c**2, sigma_c**2, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.asarray(got.mean_gradients), means, rtol=1e-9, atol=1e-12)
    assert isinstance(got.mean_gradients, torch.Tensor) == in_torch
    assert got.absent_classes == tuple(k for k in range(c) if not np.any(labels == k))


def test_float32_sources_are_summed_in_float64():
    # Residuals a thousandth of the means: a float32 sum of squares would be off by a tenth of their variance.
    logits, labels, gradients = oracles.examples(400, 3, 50)
    rng = np.random.default_rng(0)
    gradients = (100 * rng.normal(size=(3, 50)) + 0.05 * rng.normal(size=(400, 3, 50))).astype(np.float32)
    expected = oracles.scales(logits, labels, gradients.astype(float))
    for wrap in (np.asarray, torch.from_numpy):
        source = rl.DenseLogitGradients(wrap(logits), wrap(labels), wrap(gradients), chunk_size=64)
        assert rl.logit_scales(source).sigma_E == pytest.approx(expected[2], rel=1e-6)


def scales_of_draws(model, count):
    scales = [rl.logit_scales(model.sample(seed)) for seed in range(count)]
    return np.array([[s.sigma_z**2, s.sigma_c**2, s.sigma_E**2] for s in scales])


def test_a_draw_gives_its_own_parameters_back_without_bias():
    model = rl.LandscapeModel.fort_ganguli(
        num_examples=60,
        num_classes=5,
        num_parameters=300,
        sigma_z=2.0,
        mean_length=1.0,
        residual_length=1.5,
        accuracy=0.7,
    )
    draws = scales_of_draws(model, 100)
    expected = np.square([2.0, model.sigma_c, model.sigma_E])
    detect = np.array([0.12, 0.08, 0.02]) * expected
    assert_mean(draws, expected, detect=detect)
    # The mutants: 5% on sigma_z^2; 4% on sigma_c^2 and the 1% that a division by N C D would take off sigma_E^2.
    for mutant in (expected * [1.06, 1, 1], expected * [1, 1.04, 1], expected * [1, 1, 1.01]):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(draws, mutant, detect=detect)


def test_the_naive_estimates_are_rejected():
    # |c_k|^2 / D without taking off the noise of the mean, sigma_E^2 / N_k, and the mean square of the residuals, which
    # off-class examples widen: both some per cent high.
    model = rl.LandscapeModel.fort_ganguli(60, 5, 300, residual_length=1.0, sigma_z=1.0)
    draws, naive = [], []
    for seed in range(100):
        draw = model.sample(seed)
        scales = rl.logit_scales(draw)
        draws.append([scales.sigma_c**2, scales.sigma_E**2])
        residuals = draw.mean_gradients + draw.residuals - scales.mean_gradients
        naive.append([np.mean(scales.mean_gradients**2), np.mean(residuals**2)])
    expected = np.square([model.sigma_c, model.sigma_E])
    assert_mean(draws, expected, detect=[0.06, 0.02] * expected)
    for index, detect in enumerate([0.06, 0.02] * expected):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(np.array(naive)[:, index], expected[index], detect=detect)
    assert np.mean(naive, axis=0)[1] / expected[1] == pytest.approx(1.056, abs=0.01)


def by_class(logits, labels, gradients):
    """sigma_c^2, sigma_d^2, sigma_E^2 at own-class examples, by loops over classes."""
    n, c, d = gradients.shape
    within, pairs, own, anywhere, balance = 0.0, 0, [], [], 0.0
    for k in range(c):
        balance += np.mean(labels == k) ** 2
        anywhere.append(np.sum(gradients[:, k].mean(axis=0) ** 2) / d)
        of_class = gradients[labels == k, k]
        if len(of_class):
            within += np.sum((of_class - of_class.mean(axis=0)) ** 2)
            pairs += len(of_class) - 1
            own.append((np.sum(of_class.mean(axis=0) ** 2) / d, len(of_class)))
    variance = within / (d * pairs)
    both = np.mean([square - variance / size for square, size in own])
    variance_d = (both - np.mean(anywhere) + variance / n) / (1 - balance)
    return both - max(variance_d, 0), variance_d, variance


@given(st.integers(4, 14), st.integers(2, 5), st.integers(1, 6), st.integers(0, 99), st.booleans())
def test_class_means_against_the_definitions(n, c, d, seed, in_torch):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, c)), rng.integers(0, c, n)
    labels[:3] = [0, 0, 1]
    gradients = rng.normal(size=(n, c, d)) + rng.normal(size=(c, d)) + rng.normal(size=(c, c, d))[labels]
    wrap = torch.from_numpy if in_torch else np.asarray
    source = rl.DenseLogitGradients(wrap(logits), wrap(labels), wrap(gradients), chunk_size=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        got = rl.logit_scales(source, class_means=True)
    expected = by_class(logits, labels, gradients)
    np.testing.assert_allclose(
        [got.sigma_c**2, got.sigma_d**2, got.sigma_E**2], np.maximum(expected, 0), rtol=1e-9, atol=1e-12
    )
    assert (got.sigma_c_clipped, got.sigma_d_clipped) == (expected[0] < 0, expected[1] < 0)


def test_class_means_of_draws_without_bias():
    # Unbalanced: GaussianLogits draw classes at random, and an accuracy below one mixes them further.
    law = rl.ClusteredGradients(1.0, 0.6, class_length=0.8)
    model = rl.LandscapeModel(40, 4, 300, logits=rl.GaussianLogits(2.0, 0.7), gradients=law)
    draws, simple = [], []
    for seed in range(150):
        source = model.sample(seed)
        scales = rl.logit_scales(source, class_means=True)
        draws.append([scales.sigma_c**2, scales.sigma_d**2, scales.sigma_E**2])
        simple.append(rl.logit_scales(source).sigma_E ** 2)
    expected = np.square([model.sigma_c, model.sigma_d, model.sigma_E])
    detect = np.array([0.12, 0.12, 0.04]) * expected
    assert_mean(draws, expected, detect=detect)
    for mutant in (expected * [1.12, 1, 1], expected * [1, 1.12, 1], expected * [1, 1, 1.04]):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(draws, mutant, detect=detect)
    # The formula of the simple model calls the class gradients residuals.
    assert np.mean(simple) > 2 * expected[2]
    again = rl.LandscapeModel.from_source(model.sample(0), class_means=True)
    assert again.gradients.class_length == pytest.approx(0.8, rel=0.15)
    assert rl.LandscapeModel.from_source(model.sample(0)).gradients.class_length == 0


def test_class_means_need_pairs():
    source = rl.DenseLogitGradients(np.zeros((2, 2)), np.array([0, 1]), np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match=r"`source` must have two examples of one class and two .*; got .* \[1, 1\]"):
        rl.logit_scales(source, class_means=True)
    source = rl.DenseLogitGradients(np.zeros((2, 2)), np.array([1, 1]), np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match=r"`source` must have two examples of one class .*; got classes of \[0, 2\]"):
        rl.logit_scales(source, class_means=True)


def test_without_class_gradients_none_are_seen():
    source = rl.DenseLogitGradients(np.zeros((4, 2)), np.array([0, 0, 1, 1]), np.ones((4, 2, 3)))
    assert rl.logit_scales(source, class_means=True).sigma_d == 0
    gradients = np.array([[[1.0], [1.0]], [[0.5], [1.0]], [[1.0], [1.0]], [[1.0], [1.0]]])
    source = rl.DenseLogitGradients(np.zeros((4, 2)), np.array([0, 0, 1, 1]), gradients)
    with pytest.warns(RuntimeWarning, match=r"sigma_d\^2 came out as -.*no class gradient .*sigma_d is reported as 0"):
        assert rl.logit_scales(source, class_means=True).sigma_d_clipped


def test_without_residuals():
    model = rl.LandscapeModel.fort_ganguli(30, 3, 20, residual_length=0.0)
    scales = rl.logit_scales(model.sample(0))
    assert scales.sigma_E < 1e-7 * scales.sigma_c
    exact = rl.DenseLogitGradients(np.zeros((4, 2)), np.array([0, 0, 1, 1]), np.ones((4, 2, 3)))
    assert rl.logit_scales(exact).snr == math.inf
    assert math.isnan(
        rl.logit_scales(rl.DenseLogitGradients(np.zeros((4, 2)), np.array([0, 0, 1, 1]), np.zeros((4, 2, 3)))).snr
    )


def test_a_negative_variance_is_reported_as_zero():
    # Two examples of a class that cancel: the mean is zero and its noise is not.
    gradients = np.array([[[1.0], [1.0]], [[-1.0], [1.0]], [[1.0], [1.0]], [[1.0], [-1.0]]])
    source = rl.DenseLogitGradients(np.zeros((4, 2)), np.array([0, 0, 1, 1]), gradients)
    with pytest.warns(RuntimeWarning, match=r"sigma_c\^2 came out as -.*sigma_c is reported as 0"):
        scales = rl.logit_scales(source)
    assert scales.sigma_c == 0
    assert scales.sigma_c_clipped
    assert scales.snr == 0


def test_absent_classes_take_the_mean_of_all():
    logits, _, gradients = oracles.examples(20, 4, 6)
    labels = np.arange(20) % 2
    scales = rl.logit_scales(rl.DenseLogitGradients(logits, labels, gradients))
    assert scales.absent_classes == (2, 3)
    np.testing.assert_allclose(scales.mean_gradients[2:], gradients[:, 2:].mean(axis=0))


def test_one_example():
    source = rl.DenseLogitGradients(np.zeros((1, 2)), np.array([0]), np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="`source` must have at least 2 examples; got 1"):
        rl.logit_scales(source)


def test_errors_are_the_scatter_of_estimates():
    """Of as many draws of a model: the stated errors are the standard deviations, and neither half nor twice."""
    model = rl.LandscapeModel.fort_ganguli(40, 12, 60, sigma_z=3.0, snr=2.0)
    found = [rl.logit_scales(model.sample(rng=seed)) for seed in range(120)]
    check_errors(found, "sigma_z", "sigma_c", "sigma_E", "snr")


def check_errors(found, *names):
    for name in names:
        scatter = np.std([getattr(scales, name) for scales in found], ddof=1)
        stated = np.sqrt(np.mean([getattr(scales, f"{name}_error") ** 2 for scales in found]))
        assert 0.8 < stated / scatter < 1.25, (name, stated / scatter)


def test_errors_with_class_gradients_are_the_scatter_too():
    law = rl.ClusteredGradients(1.0, 0.6, class_length=0.8)
    model = rl.LandscapeModel(60, 10, 50, logits=rl.GaussianLogits(2.0, 0.7), gradients=law)
    found = [rl.logit_scales(model.sample(rng=seed), class_means=True) for seed in range(150)]
    check_errors(found, "sigma_c", "sigma_d", "sigma_E")


def test_no_error_where_there_is_no_scale():
    source = rl.DenseLogitGradients(np.zeros((4, 2)), np.array([0, 1, 0, 1]), np.ones((4, 2, 3)))
    scales = rl.logit_scales(source)
    assert scales.sigma_z == scales.sigma_E == 0
    assert np.isnan([scales.sigma_z_error, scales.sigma_E_error, scales.snr_error]).all()
    assert scales.sigma_c_error == 0
    assert np.isnan(rl.logit_scales(rl.LandscapeModel.fort_ganguli(40, 4, 60).sample(rng=0)).sigma_d_error)
    by_class = rl.logit_scales(source, class_means=True)
    assert by_class.sigma_c_error == 0
    assert np.isnan([by_class.sigma_d_error, by_class.sigma_E_error]).all()


def test_in_a_line():
    draw = rl.LandscapeModel.fort_ganguli(40, 4, 60).sample(rng=0)
    assert "mean_gradients" not in repr(rl.logit_scales(draw))
    told = "40 examples, 4 classes, 60 parameters"
    assert repr(draw).startswith(f"LandscapeDraw({told}, ")
    assert repr(rl.restrict(draw, *draw.parameter_groups)).startswith(f"RestrictedSource({told}, ")
    dense = rl.DenseLogitGradients(np.zeros((4, 2)), np.array([0, 1, 0, 1]), np.ones((4, 2, 3)))
    assert repr(dense) == "DenseLogitGradients(4 examples, 2 classes, 3 parameters, CrossEntropy(label_smoothing=0.0))"
    band = rl.LandscapeModel.fort_ganguli(40, 4, 60).theory_band(2, rng=0)
    assert repr(band) == "TheoryBand(2 x LandscapeTheory(4 classes, 60 parameters))"


def test_errors_are_spreads_over_the_logits():
    """Each logit gives an estimate of its own; of three, N - 1 and not N matters."""
    rng = np.random.default_rng(5)
    labels = np.arange(12) % 3
    means = rng.normal(size=(3, 40))
    gradients = means + 0.3 * rng.normal(size=(12, 3, 40))
    scales = rl.logit_scales(rl.DenseLogitGradients(rng.normal(size=(12, 3)), labels, gradients))
    squares = [math.fsum(row**2) / 40 for row in scales.mean_gradients]
    assert scales.sigma_c_error == pytest.approx(statistics.stdev(squares) / 3**0.5 / (2 * scales.sigma_c), rel=1e-9)
    # A residual's variance logit by logit, with as many degrees of freedom for each, averages to that of all.
    centred = [np.sum((gradients[:, k] - scales.mean_gradients[k]) ** 2) for k in range(3)]
    variances = [scales.sigma_E**2 * x / np.mean(centred) for x in centred]
    assert scales.sigma_E_error == pytest.approx(statistics.stdev(variances) / 3**0.5 / (2 * scales.sigma_E), rel=1e-9)


def test_errors_with_class_gradients_leave_absent_classes_and_single_examples_out():
    rng = np.random.default_rng(6)
    labels = np.array([0, 0, 0, 1, 1, 2, 0, 1])  # one example of class 2, none of class 3
    gradients = 3 * rng.normal(size=(4, 30)) + 2 * rng.normal(size=(4, 4, 30))[labels] + rng.normal(size=(8, 4, 30))
    scales = rl.logit_scales(rl.DenseLogitGradients(rng.normal(size=(8, 4)), labels, gradients), class_means=True)
    sizes, noise = [4, 3, 1], scales.sigma_E**2
    own = [np.mean(gradients[labels == k, k].mean(axis=0) ** 2) - noise / size for k, size in enumerate(sizes)]
    anywhere = [np.mean(gradients[:, k].mean(axis=0) ** 2) - noise / 8 for k in range(3)]
    of_class = [(a - b) / (1 - (16 + 9 + 1) / 64) for a, b in zip(own, anywhere, strict=True)]
    of_means = [a - b for a, b in zip(own, of_class, strict=True)]
    for name, values in (("sigma_d", of_class), ("sigma_c", of_means)):
        expected = statistics.stdev(values) / 3**0.5 / (2 * getattr(scales, name))
        assert getattr(scales, f"{name}_error") == pytest.approx(expected, rel=1e-9)
    # Residuals: a ratio of sums over the two logits with several examples, of 3 and 2 degrees of freedom.
    parts = [np.sum((gradients[labels == k, k] - gradients[labels == k, k].mean(axis=0)) ** 2) / 30 for k in range(2)]
    off = [parts[0] - 3 * noise, parts[1] - 2 * noise]
    expected = statistics.stdev(off) / 2**0.5 / 2.5 / (2 * scales.sigma_E)
    assert scales.sigma_E_error == pytest.approx(expected, rel=1e-9)
