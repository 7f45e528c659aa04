"""The law of few directions and unequal lengths: full draws, reduced draws, theory, and the source that it is of."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats

import rmtland as rl
from rmtland.landscape.uneven_gradients import _across_logits, _lengths, covariance_of_dimension
from tests.statistical import assert_mean

N, C, D = 40, 3, 120
LOGITS, LABELS = rl.GaussianLogits(2.0).draw_logits(N, C, np.random.default_rng(1))
GIVEN = rl.GivenLogits(LOGITS, LABELS)
LAW = rl.UnevenGradients(1.0, 0.9, effective_dimension=15.0, length_spread=1.5, logit_spread=0.5)


def model_of(law, num_parameters=D):
    return rl.LandscapeModel(N, C, num_parameters, GIVEN, law)


def statistics(spectrum):
    top = spectrum.eigenvalues[::-1]
    return [*top[:4], spectrum.powers[::-1][: C - 1].sum(), top.sum(), (top**2).sum()]


def test_reduced_draws_are_full_draws_in_law():
    full = [statistics(rl.gauss_newton_spectrum(model_of(LAW).sample(rng=i))) for i in range(80)]
    reduced = [statistics(model_of(LAW).spectrum(rng=i)) for i in range(400)]
    expected = np.mean(reduced, axis=0)
    bias = 5 * np.std(reduced, axis=0) / 400**0.5
    assert_mean(full, expected, bias=bias, detect=[0.2, 0.2, 0.5, 0.4, 0.4, 0.2, 0.4] * np.abs(expected))
    for name, value in (("effective_dimension", math.inf), ("length_spread", 0.0), ("logit_spread", 0.0)):
        mutant = dataclasses.replace(LAW, **{name: value})
        other = [statistics(model_of(mutant).spectrum(rng=i)) for i in range(60)]
        assert np.max(np.abs(np.mean(other, axis=0) / expected - 1)) > 0.1


def test_the_theory_is_the_mean_of_draws():
    theory = model_of(LAW, 10**5).theory()
    spectra = [model_of(LAW, 10**5).spectrum(rng=i) for i in range(100)]
    assert_mean([s.eigenvalues[-1] for s in spectra], theory.outliers()[-1], bias=0.03 * theory.outliers()[-1],
                detect=0.15 * theory.outliers()[-1])  # fmt: skip
    assert_mean([s.trace for s in spectra], theory.trace, detect=0.1 * theory.trace)


def test_lengths_and_directions_are_those_asked_for():
    law = rl.UnevenGradients(0.0, 1.0, effective_dimension=15.0, length_spread=0.8)
    draws = [law.draw_gradients(LABELS, C, 2000, np.random.default_rng(i))[1] for i in range(20)]
    squares = np.mean(np.square(draws).sum(axis=3), axis=(0, 2))
    assert squares.mean() == pytest.approx(1.0, rel=0.05)
    assert squares.std() / squares.mean() == pytest.approx(0.8, rel=0.1)
    inner = [e.reshape(N * C, -1) @ e.reshape(N * C, -1).T for e in draws]
    apart = np.kron(~np.eye(N, dtype=bool), np.ones((C, C), dtype=bool))
    assert 1 / np.mean([np.mean(i[apart] ** 2) for i in inner]) == pytest.approx(15, rel=0.1)
    # The largest spread that so many lengths can have, and a power law that D has no room for.
    wide = rl.UnevenGradients(length_spread=1e3).at(N, C)
    assert np.square(wide.residual_scales).mean() == pytest.approx(1.0)
    assert np.square(wide.residual_scales).std() == pytest.approx((N - 1) ** 0.5, rel=0.01)
    for dimension in (30.0, 119.0, 500.0):
        law = rl.UnevenGradients(1.0, 0.8, dimension)
        shares, counts = law.at(N, C).covariance.shares(D)
        assert counts.sum() <= D
        assert 1 / (counts @ shares**2) == pytest.approx(min(dimension, D), rel=0.01)
        assert model_of(law).spectrum(rng=0).trace > 0


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("spread", [1e-3, 0.3, 0.9])
def test_squared_lengths_are_quantiles_of_a_lognormal_law(count, spread):
    """Of mean 1 and the spread asked for, at the probabilities of the middles of equal parts."""
    lengths = _lengths(count, spread)
    squares = np.sort(lengths**2)
    assert squares.mean() == pytest.approx(1.0, rel=1e-12)
    assert squares.std() == pytest.approx(spread if count > 1 else 0.0, rel=1e-9)
    law = scipy.stats.lognorm(s=1.0)
    exact = np.log(law.ppf((np.arange(count) + 0.5) / count))
    found = np.log(squares / squares[-1])
    scale = found[0] / (exact[0] - exact[-1]) if count > 1 else 1.0
    assert scale > 0
    np.testing.assert_allclose(found, scale * (exact - exact[-1]), atol=1e-9 * scale)
    if count > 2:  # in an order of its own, the same every time
        assert not (np.diff(lengths) >= 0).all()


def test_at_the_largest_spread_one_is_longer_than_all_others():
    for count in (2, 5):
        squares = np.sort(_lengths(count, 1e5) ** 2)
        np.testing.assert_allclose(squares[-1], count, rtol=1e-3)
        assert squares[-2] > 0


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_logits_are_unequal_but_for_their_sum(num_classes):
    across = _across_logits(num_classes, 0.5)
    np.testing.assert_allclose(across @ np.ones(num_classes), 1.0, rtol=1e-12)
    values, vectors = np.linalg.eigh(across)
    alone = np.abs(vectors.sum(axis=0)) > 1e-9  # of the eigenvectors that are not the vector 1, none has a sum
    others = values[~alone] if alone.sum() == 1 else np.ones(num_classes - 1)
    np.testing.assert_allclose(np.sort(others), np.sort(_lengths(num_classes - 1, 0.5) ** 2), rtol=1e-9)
    if num_classes > 3:  # they prefer no logit
        assert np.all(np.max(vectors**2, axis=0) < 0.9)


@pytest.mark.parametrize("law", [LAW, dataclasses.replace(LAW, logit_spread=0.0), rl.UnevenGradients(1.0, 0.9)])
def test_twice_the_lengths_are_twice_the_draw(law):
    long = dataclasses.replace(law, mean_length=2.0, residual_length=1.8)
    draws = [of.draw_gradients(LABELS, C, D, np.random.default_rng(0)) for of in (law, long)]
    for once, twice in zip(*draws, strict=True):
        if once is not None:
            np.testing.assert_allclose(twice, 2 * once, rtol=1e-9, atol=1e-12)


def test_means_have_the_lengths_and_angles_of_the_law():
    """(C, D) mean logit gradients across logits, residuals beside them with the same."""
    law = rl.UnevenGradients(2.0, 0.5, logit_spread=0.8)
    means, residuals, *_ = law.draw_gradients(LABELS, C, 5000, np.random.default_rng(0))
    across = _across_logits(C, 0.8)
    np.testing.assert_allclose(means @ means.T, 4 * across, atol=0.25)
    found = np.mean(residuals @ residuals.swapaxes(1, 2), axis=0)
    np.testing.assert_allclose(found, 0.25 * across, atol=0.01)


def test_two_logits_are_as_long_as_each_other():
    """Their sum has no say, and nothing is unequal about one difference."""
    uneven, even = rl.UnevenGradients(logit_spread=2.0), rl.UnevenGradients()
    assert uneven.q_values(2) == even.q_values(2)
    assert uneven.at(5, 2).logit_covariance is None


@pytest.mark.parametrize("unit", [0.1, 1.0])
@pytest.mark.parametrize("logit_spread", [0.0, 1.0])
@pytest.mark.parametrize("length_spread", [0.0, 0.7, 1.0])
def test_how_examples_of_unequal_lengths_cluster(length_spread, logit_spread, unit):
    """Means over pairs of examples, and of logits, of the cosines of their means with all there is."""
    law = rl.UnevenGradients(1.5 * unit, 1.2 * unit, length_spread=length_spread, logit_spread=logit_spread)
    own = 1.2 * (_lengths(N, length_spread) if length_spread else np.ones(N))
    whole = np.hypot(1.5, own)
    pairs = np.mean(1.5**2 / np.outer(whole, whole))
    across = _across_logits(C, logit_spread) if logit_spread else np.eye(C)
    others = [across[k, j] / (across[k, k] * across[j, j]) ** 0.5 for k in range(C) for j in range(C) if j != k]
    found = law.q_values(C, LABELS)
    assert found.same_logit == found.same_logit_same_class == pytest.approx(pairs, rel=1e-12)
    assert found.different_logits == pytest.approx(pairs * np.mean(others), rel=1e-12)
    # Without labels as of many.
    assert law.q_values(C).same_logit == pytest.approx(law.q_values(C, np.zeros(3000, dtype=int)).same_logit, rel=2e-3)
    written = law.at(N, C)
    assert (written.residual_scales is None) == (length_spread == 0)
    assert (written.logit_covariance is None) == (logit_spread == 0)
    if length_spread:
        assert np.std(written.residual_scales**2) == pytest.approx(length_spread)


def test_nothing_has_no_direction():
    assert math.isnan(rl.UnevenGradients(0.0, 0.0).q_values(C).same_logit)


@pytest.mark.parametrize(("dimension", "exponent"), [(3.0, 0.8), (100.0, 0.8), (1500.0, 0.2), (1e5, 0.0)])
def test_the_covariance_of_a_dimension_is_as_steep_as_there_is_room(dimension, exponent):
    law = covariance_of_dimension(dimension)
    shares, counts = law.shares(10**9)
    assert 1 / (counts @ shares**2) == pytest.approx(dimension, rel=1e-3)
    assert counts @ shares == pytest.approx(1.0)
    ranks = np.append(0, np.cumsum(counts))[:-1] + 1
    if counts.max() == 1:
        assert counts.sum() <= 2048
        slope = np.log(shares[-2] / shares[0]) / np.log(ranks[-2] / ranks[0])  # the last is cut down
        assert slope == pytest.approx(-exponent, abs=0.02)
    for room in (dimension * 0.5, dimension):
        assert covariance_of_dimension(dimension, room).shares(10**6)[0].size == 1  # all directions alike
    few = covariance_of_dimension(dimension, 1.5 * dimension).shares(10**9)
    assert few[1].sum() <= 1.5 * dimension


def test_the_clustering_of_draws():
    law = rl.UnevenGradients(1.0, 0.8, effective_dimension=1000.0, length_spread=1.5)
    found = [rl.clustering(model_of(law, 3000).sample(rng=i)) for i in range(10)]
    q = law.q_values(C, LABELS)
    assert np.mean([f.same_logit for f in found]) == pytest.approx(q.same_logit, rel=0.03)
    assert np.mean([f.same_logit_same_class for f in found]) == pytest.approx(q.same_logit_same_class, rel=0.03)
    assert q.different_logits == 0
    wide = rl.UnevenGradients(1.0, 0.3, 1000.0, 0.0, 1.0)
    drawn = [rl.clustering(model_of(wide, 3000).sample(rng=i)).different_logits for i in range(10)]
    assert np.mean(drawn) == pytest.approx(wide.q_values(C).different_logits, abs=0.01)
    assert abs(wide.q_values(C).different_logits) > 0.05
    even = rl.UnevenGradients(1.0, 0.8).q_values(C)
    assert even.same_logit == pytest.approx(rl.ClusteredGradients(1.0, 0.8).q_values(C).same_logit)
    assert abs(q.same_logit / even.same_logit - 1) > 0.05
    larger = rl.UnevenGradients(3.0, 2.4, effective_dimension=1000.0, length_spread=1.5).q_values(C, LABELS)
    assert larger.same_logit == pytest.approx(q.same_logit)  # whatever the unit


def test_a_source_keeps_its_trace_and_norm():
    """Where few examples carry the curvature and are of unequal lengths; isotropic residuals miss the norm."""
    rng = np.random.default_rng(3)
    base = rl.AnisotropicGradients.clustered(C, 1.0, 1.0, covariance=rl.ResidualCovariance.power_law(0.9, 60))
    draw = model_of(base).sample(rng=2)
    stretch = np.exp(0.9 * rng.standard_normal(N))[:, None, None]
    source = rl.DenseLogitGradients(LOGITS, LABELS, draw.mean_gradients + stretch * draw.residuals)
    real = rl.gauss_newton_spectrum(source)
    scales = rl.curvature_scales(source)
    laws = (rl.UnevenGradients.from_source(source), rl.ClusteredGradients(scales.mean_length, scales.residual_length))
    errors = []
    for law in laws:
        spectra = []
        for i in range(60):  # which example has which length is left to chance
            order = np.random.default_rng(i).permutation(N)
            model = rl.LandscapeModel(N, C, D, rl.GivenLogits(LOGITS[order], LABELS[order]), law)
            spectra.append(model.spectrum(rng=i))
        assert np.mean([s.trace for s in spectra]) == pytest.approx(real.eigenvalues.sum(), rel=0.08)
        errors.append(np.mean([s.frobenius**2 for s in spectra]) / np.sum(real.eigenvalues**2) - 1)
    assert abs(errors[0]) < 0.12
    assert errors[1] < -0.25


def test_numbers_given_and_bad_input():
    assert LAW.num_numbers == 5
    assert rl.UnevenGradients(1.0, 0.0).num_numbers == 1
    assert rl.UnevenGradients().effective_dimension == math.inf
    with pytest.raises(ValueError, match="`effective_dimension` must be >= 1; got 0.5"):
        rl.UnevenGradients(effective_dimension=0.5)
    with pytest.raises(ValueError, match="`length_spread` must be >= 0"):
        rl.UnevenGradients(length_spread=-1.0)
    with pytest.raises(ValueError, match="`mean_length` must be >= 0"):
        rl.UnevenGradients(-1.0)
    for name in ("length_spread", "logit_spread"):
        with pytest.raises(ValueError, match=f"`{name}` must be >= 0 and <= 1e\\+?06; got 1000000.5"):
            rl.UnevenGradients(**{name: 1e6 + 0.5})
    with pytest.raises(TypeError, match="`residual_length`"):
        rl.UnevenGradients(residual_length="1")


def test_what_is_kept_for_the_next_call_cannot_be_written_to():
    for kept in (_lengths(12, 1.0), _across_logits(3, 0.5)):
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 9.0
