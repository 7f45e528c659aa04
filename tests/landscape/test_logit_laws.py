from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import rmtland as rl
from rmtland.landscape.logit_laws import LogitLaw, assign_labels
from tests.statistical import assert_mean


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("accuracy", [0.0, 0.35, 0.95, 1.0])
def test_labels_reach_the_asked_accuracy_exactly(accuracy):
    for seed in range(5):
        logits, labels = rl.GaussianLogits(2.0, accuracy).draw_logits(60, 4, rng(seed))
        assert (logits.argmax(axis=1) == labels).sum() == round(accuracy * 60)
        assert labels.dtype == np.int64
        assert labels.min() >= 0
        assert labels.max() < 4


def test_wrong_labels_are_uniform_and_strike_anywhere():
    # Shares over draws: of each other class among the wrong labels, of each example among the mislabelled ones.
    classes, places = [], []
    logits = np.zeros((20, 4))
    logits[:, 1] = 1
    for seed in range(400):
        labels = assign_labels(logits, 0.5, rng(seed))
        wrong = labels != 1
        classes.append([np.mean(labels[wrong] == k) for k in (0, 2, 3)])
        places.append(wrong)
    assert_mean(classes, 1 / 3, detect=0.1)
    assert_mean(places, 0.5, detect=0.3)
    for mutant in ([0.4, 0.3, 0.3], [0.25, 0.375, 0.375]):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(classes, mutant, detect=0.1)


def test_variance_of_the_logits():
    law = rl.GaussianLogits(3.0)
    variances = [np.mean(law.draw_logits(300, 10, rng(seed))[0] ** 2) for seed in range(100)]
    assert_mean(variances, 9.0, detect=0.02 * 9 * 2)
    for mutant in (9 * 1.04, 3.0):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(variances, mutant, detect=0.02 * 9 * 2)


def test_zero_sigma_is_uniform():
    logits, labels = rl.GaussianLogits(0.0, 1.0).draw_logits(5, 3, rng())
    np.testing.assert_array_equal(logits, 0)
    assert len(set(labels.tolist())) > 1  # ties are broken at random


def test_given_logits_are_kept_and_cannot_change():
    logits, labels = rng().normal(size=(5, 3)), np.array([0, 1, 2, 1, 0], dtype=np.uint8)
    law = rl.GivenLogits(logits, labels)
    before = logits.copy()
    logits[:] = 0
    drawn, y = law.draw_logits(5, 3, rng())
    np.testing.assert_array_equal(drawn, before)
    assert y.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        drawn[0, 0] = 1
    from_torch = rl.GivenLogits(torch.tensor(before), torch.tensor([0, 1, 2, 1, 0]))
    np.testing.assert_array_equal(from_torch.logits, before)
    assert isinstance(law, LogitLaw)


def test_participation_is_matched():
    for participation, classes in ((0.15, 10), (0.5, 10), (0.97, 3)):
        law = rl.GaussianLogits.from_participation(participation, classes, accuracy=0.8)
        assert law.accuracy == 0.8
        draws = []
        for seed in range(60):
            weights = np.exp(law.draw_logits(400, classes, rng(seed))[0])
            p = weights / weights.sum(axis=1, keepdims=True)
            draws.append((p**2).sum(axis=1).mean())
        assert_mean(draws, participation, detect=0.03)
    for mutant in (0.94, 1.0):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(draws, mutant, detect=0.03)
    assert rl.GaussianLogits.from_participation(0.25, 4).sigma == 0


@pytest.mark.parametrize(("sigma", "margin", "spread"), [(1.0, 2.0, 0.0), (2.0, 3.0, 2.5), (1.0, -0.5, 0.3)])
def test_accuracy_emerges_from_the_margin(sigma, margin, spread):
    law = rl.MarginLogits(sigma, margin, spread)
    draws = [law.draw_logits(400, 6, rng(seed)) for seed in range(60)]
    shares = [np.mean(logits.argmax(axis=1) == labels) for logits, labels in draws]
    assert_mean(shares, law.accuracy(6), detect=0.05)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(shares, rl.MarginLogits(sigma, margin + 0.2, spread).accuracy(6), detect=0.05)
    assert_mean([np.bincount(labels, minlength=6) / 400 for _, labels in draws], 1 / 6, detect=0.04)


def test_margin_accuracy_in_its_limits():
    assert rl.MarginLogits(1.0, 0.0).accuracy(7) == pytest.approx(1 / 7)
    assert rl.MarginLogits(0.0, 0.0).accuracy(7) == 1 / 7
    assert rl.MarginLogits(0.0, 1.0).accuracy(7) == 1
    assert rl.MarginLogits(0.0, -1.0).accuracy(7) == 0
    assert rl.MarginLogits(0.0, 1.0, 1.0).accuracy(7) == pytest.approx(0.8413447)
    assert rl.MarginLogits(1e-3, 1.0, 1.0).accuracy(7) == pytest.approx(0.8413447, abs=1e-3)
    assert rl.MarginLogits(1.0, 50.0).accuracy(7) == pytest.approx(1)


@pytest.mark.parametrize(("margin", "spread"), [(1.0, 2.0), (-17.0, 3.7), (30.0, 50.0)])
def test_margin_accuracy_where_logits_hardly_spread(margin, spread):
    """The margin alone decides, whatever the number of classes: P(N(margin, spread^2) > 0), small as it may be."""
    expected = NormalDist().cdf(margin / spread)
    assert rl.MarginLogits(0.0, margin, spread).accuracy(7) == pytest.approx(expected, rel=1e-9)
    assert rl.MarginLogits(1e-9, margin, spread).accuracy(7) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("sigma", "margin", "spread"), [(1.0, 2.0, 0.0), (2.0, -3.0, 2.5), (0.7, 0.5, 3.0)])
def test_margin_accuracy_of_two_and_three_classes(sigma, margin, spread):
    """Of two the sign of one normal number; of three that of two, whose correlation is that of a shared z_y."""
    law, variance = rl.MarginLogits(sigma, margin, spread), 2 * sigma**2 + spread**2
    assert law.accuracy(2) == pytest.approx(NormalDist(0, variance**0.5).cdf(margin), rel=1e-7)
    shared = sigma**2 + spread**2
    both = multivariate_normal([0.0, 0.0], [[variance, shared], [shared, variance]]).cdf([margin, margin])
    assert law.accuracy(3) == pytest.approx(both, rel=1e-5)


@pytest.mark.parametrize("law", [rl.MarginLogits(2.0, 3.0, 1.5), rl.MarginLogits(2.0, -3.0, 0.0)])
def test_margins_are_measured_back(law):
    measured = [rl.MarginLogits.from_logits(*law.draw_logits(300, 5, rng(seed))) for seed in range(100)]
    samples = np.array([[m.sigma**2, m.margin, m.margin_spread**2] for m in measured])
    # A spread that is zero is cut off at zero, which leaves half the noise.
    bias = np.array([0, 0, 0.3 if law.margin_spread == 0 else 0])
    expected = np.array([law.sigma**2, law.margin, law.margin_spread**2])
    assert_mean(samples, expected, bias=bias, detect=[0.5, 0.5, 1.1])
    with pytest.raises(AssertionError, match="against"):
        assert_mean(samples[:, 0], 1.25 * expected[0], detect=1.0)


def test_margins_of_two_classes():
    law = rl.MarginLogits.from_logits([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]], [1, 0, 1])
    assert (law.margin, law.margin_spread) == (2.0, 0.0)
    assert law.sigma == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rl.GaussianLogits(-1.0), ValueError, "`sigma` must be >= 0; got -1.0"),
        (lambda: rl.GaussianLogits(np.nan), ValueError, "`sigma` must be >= 0; got nan"),
        (lambda: rl.GaussianLogits("1"), TypeError, "`sigma` must be a real number"),
        (lambda: rl.GaussianLogits(1.0, 1.01), ValueError, "`accuracy` must be >= 0 and <= 1; got 1.01"),
        (lambda: rl.GaussianLogits(1.0, -0.1), ValueError, "`accuracy` must be >= 0 and <= 1; got -0.1"),
        (lambda: rl.MarginLogits(-1.0, 0.0), ValueError, "`sigma` must be >= 0; got -1.0"),
        (lambda: rl.MarginLogits(1.0, np.inf), ValueError, "`margin` must be finite; got inf"),
        (lambda: rl.MarginLogits(1.0, 0.0, -1.0), ValueError, "`margin_spread` must be >= 0; got -1.0"),
        (lambda: rl.MarginLogits(1.0, 0.0).accuracy(1), ValueError, "`num_classes` must be >= 2; got 1"),
        (lambda: rl.MarginLogits.from_logits([[0.0, 1.0]], [0]), ValueError, "`logits` must have at least 2 examples"),
        (lambda: rl.GaussianLogits.from_participation(0.05, 10), ValueError, "`participation` must be >= 0.1"),
        (lambda: rl.GaussianLogits.from_participation(1.0, 10), ValueError, "`participation` must be .* < 1"),
        (lambda: rl.GivenLogits(np.zeros((2, 2)), [0]), ValueError, r"`labels` must have shape \(2,\)"),
        (lambda: rl.GivenLogits(np.zeros((2, 2)), [0, 2]), ValueError, r"`labels` must be in 0..1; got 2"),
        (lambda: rl.GivenLogits(np.zeros((2, 2)), [0.0, 1.0]), TypeError, "`labels` must be integers"),
        (lambda: rl.GivenLogits([[0.0, np.nan]], [0]), ValueError, "`logits` must be finite; got 1 NaN"),
        (lambda: rl.GivenLogits(np.zeros(2), [0, 1]), ValueError, "`logits` must have 2 dimensions"),
        (lambda: rl.GivenLogits(np.zeros((2, 1)), [0, 0]), ValueError, r"`logits` must have C >= 2 classes"),
        (lambda: rl.GivenLogits("ab", [0, 0]), TypeError, "`logits` must be an array of real numbers"),
        (
            lambda: rl.GivenLogits(np.zeros((2, 2)), [0, 1]).draw_logits(3, 2, rng()),
            ValueError,
            r"`logits` must have shape \(3, 2\); got \(2, 2\)",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_labels_at_sigma_zero_are_the_limit_of_small_sigma():
    zero, small = (
        rl.GaussianLogits(sigma, accuracy=0.8).draw_logits(400, 5, np.random.default_rng(1)) for sigma in (0, 1e-9)
    )
    assert not zero[0].any()
    np.testing.assert_array_equal(zero[1], small[1])
    assert np.bincount(zero[1], minlength=5).min() > 50  # not all of class 0
