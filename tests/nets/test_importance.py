import numpy as np
import pytest
import torch

from rmtland.nets.importance import Sampled, curvatures, told_by
from tests import oracles


def probabilities(shares, count):
    """min(1, c a) of sum `count`, c by bisection."""
    low, high = 0.0, 1e9
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(1, c * shares).sum() < count else (low, c)
    return np.minimum(1, c * shares)


@pytest.mark.parametrize("count", [1, 7, 40, 99])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_examples_are_drawn_in_proportion_and_stand_for_all(count, spread):
    rng = np.random.default_rng(count)
    shares = np.exp(spread * rng.normal(size=100))
    drawn = Sampled.of(torch.as_tensor(shares), count)
    expected = probabilities(shares, count)
    places = drawn.places.numpy()
    assert len(places) == count
    assert (np.diff(places) > 0).all()
    np.testing.assert_allclose(1 / drawn.scales, expected[places], rtol=1e-6)
    assert np.isin(np.flatnonzero(expected > 1 - 1e-9), places).all()
    likely, noise = expected[places], drawn.noise.numpy() * expected[places]
    assert np.abs(noise[likely > 1 - 1e-9]).max(initial=0) == 0
    uncertain = likely < 1 - 1e-9
    signs, odds = np.sign(noise[uncertain]), 1 - likely[uncertain]
    assert (signs[1:] == -signs[:-1]).all()
    pairs = odds.size // 2 * 2
    means = np.repeat(odds[:pairs].reshape(-1, 2).mean(axis=1), 2)
    np.testing.assert_allclose(noise[uncertain] ** 2, np.concatenate([means, odds[pairs:]]), rtol=1e-6)


def test_sums_over_what_is_drawn_are_those_over_all_in_the_mean_and_their_noise_is_told():
    rng = np.random.default_rng(0)
    shares = np.exp(2 * rng.normal(size=300))
    off, noise = [], []
    for _ in range(400):  # an order each: steps along the sum are a draw
        order = rng.permutation(300)
        values = (shares * rng.uniform(0.5, 1.5, 300))[order]
        drawn = Sampled.of(torch.as_tensor(shares[order]), 60)
        chosen = values[drawn.places]
        off.append(drawn.scales.numpy() @ chosen - values.sum())
        noise.append(drawn.noise.numpy() @ chosen)
    assert abs(np.mean(off)) < 4 * np.std(off) / 20
    # Equal steps are a little better than what is told.
    assert 0.8 < np.mean(np.square(noise)) / np.mean(np.square(off)) < 1.6


def test_who_has_no_curvature_is_not_drawn_and_where_nobody_has_all_are_alike():
    shares = torch.zeros(50)
    shares[[3, 20]] = 1.0
    drawn = Sampled.of(shares, 10)
    assert drawn.places.tolist() == [3, 20]
    assert drawn.scales.tolist() == [1, 1]
    drawn = Sampled.of(torch.zeros(50), 10)
    assert (len(drawn.places), set(drawn.scales.tolist())) == (10, {5.0})
    assert Sampled.of(shares, 50).places.tolist() == list(range(50))


def test_sorted_classes_share_out_the_draws():
    drawn = Sampled.of(torch.ones(1000), 100)
    assert np.bincount(np.arange(1000)[drawn.places] // 100).tolist() == [10] * 10


def test_curvatures_are_traces():
    logits = torch.randn(20, 4).double() * 5
    weights = torch.rand(20).double()
    expected = [np.trace(oracles.curvature(z)) for z in logits.numpy()]
    np.testing.assert_allclose(curvatures(logits, None), expected, rtol=1e-9)
    np.testing.assert_allclose(curvatures(logits, weights), weights.numpy() * expected, rtol=1e-9)


def test_one_of_every_few_is_drawn_but_256_at_least():
    logits = torch.zeros(1001, 3)
    assert told_by(logits, None, 0) is told_by(logits, None, 1) is None
    assert [len(told_by(logits, None, every).places) for every in (2, 3, 10)] == [501, 334, 256]
