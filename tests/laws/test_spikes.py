"""Outlier laws against dense draws, each with the mutant it must reject."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from tests.statistical import assert_mean


def covariance_draws(population, num_samples, draws, rng, beta=1, vectors=()):
    """Eigenvalues (draws, p), and squared overlaps of the extreme eigenvectors with coordinates, of diagonal Sigma."""
    p = len(population)
    values, overlaps = [], []
    for _ in range(draws):
        x = rng.standard_normal((p, num_samples))
        if beta == 2:
            x = (x + 1j * rng.standard_normal((p, num_samples))) / np.sqrt(2)
        x *= np.sqrt(population)[:, None]
        w, v = np.linalg.eigh(x @ x.conj().T / num_samples)
        values.append(w)
        overlaps.append([abs(v[coordinate, index]) ** 2 for coordinate, index in vectors])
    return np.array(values), np.array(overlaps)


# Covariance.


def test_textbook_case():
    law = rl.SpikedCovarianceLaw(ratio=0.4, spikes=[5.0], num_samples=1000)
    assert law.locations[0] == pytest.approx(5.5)
    assert law.overlaps[0] == pytest.approx((1 - 0.4 / 16) / (1 + 0.4 / 4))
    assert law.locations_std[0] == pytest.approx(0.2208, abs=5e-5)


@pytest.mark.parametrize("beta", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_outliers_of_dense_matrices(beta):
    rng = np.random.default_rng(beta)
    p, n = 100, 250
    population = np.ones(p)
    population[0], population[1] = 5.0, 0.15
    law = rl.SpikedCovarianceLaw(p / n, [5.0, 0.15], num_samples=n, beta=beta)
    assert law.is_outlier.all()
    values, overlaps = covariance_draws(population, n, 1200, rng, beta, vectors=[(0, -1), (1, 0)])
    found = values[:, [-1, 0]]
    location = law.locations
    # Corrections of relative order 1/n.
    assert_mean(found, location, bias=4 * location / n, detect=np.array([0.12, 0.2]) * location)
    assert_mean(overlaps, law.overlaps, bias=4 / n, detect=0.06)
    square = (found - found.mean(axis=0)) ** 2
    variance = law.locations_std**2
    # To the left there is less room: the relative correction is of order n^(-1/2) from both sides of zero.
    bias, detect = np.array([0.06, 0.15]) * variance, np.array([0.6, 0.85]) * variance
    assert_mean(square, variance, bias=bias, detect=detect)
    with pytest.raises(AssertionError, match="off by"):  # a stray sqrt(ratio) on the standard deviation
        assert_mean(square, variance * p / n, bias=bias, detect=detect)
    with pytest.raises(AssertionError, match="off by"):  # the formula of the other beta
        assert_mean(square, variance * (2 if beta == 2 else 0.5), bias=bias, detect=detect)
    with pytest.raises(AssertionError, match="off by"):  # overlap without its denominator
        assert_mean(overlaps, law.overlaps * law.locations / [5.0, 0.15], bias=4 / n, detect=0.06)


def test_thresholds():
    law = rl.SpikedCovarianceLaw(0.25, [1.49, 1.51, 0.51, 0.49, 2.24])
    assert law.threshold == 1.5  # of a spike; (1 + sqrt(ratio))^2 = 2.25 is the edge it then leaves
    assert law.left_threshold == 0.5
    assert law.is_outlier.tolist() == [False, True, False, True, True]
    np.testing.assert_allclose(law.locations[[0, 2]], [2.25, 0.25])
    np.testing.assert_array_equal(law.overlaps[[0, 2]], 0)
    assert (law.locations[[1, 4]] > 2.25).all()
    assert law.locations[3] < 0.25
    assert law.bulk == rl.MarchenkoPastur(0.25)


@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_no_left_outliers_where_there_is_no_room(ratio):
    law = rl.SpikedCovarianceLaw(ratio, [0.001, 0.5, 1 + ratio**0.5 + 0.1])
    assert law.left_threshold == 0
    assert law.is_outlier.tolist() == [False, False, True]
    np.testing.assert_allclose(law.locations[:2], (1 - ratio**0.5) ** 2)


def test_across_the_threshold_all_is_continuous():
    ratio = 0.3
    spikes = 1 + ratio**0.5 + np.array([-1e-9, 0.0, 1e-9])
    law = rl.SpikedCovarianceLaw(ratio, spikes)
    np.testing.assert_allclose(law.locations, (1 + ratio**0.5) ** 2, rtol=1e-12)
    np.testing.assert_allclose(law.overlaps, 0, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(ratio=st.floats(0.01, 10), spikes=st.lists(st.floats(0.01, 50), min_size=1, max_size=5))
def test_outliers_are_off_the_bulk_and_the_rest_at_its_edges(ratio, spikes):
    law = rl.SpikedCovarianceLaw(ratio, spikes)
    low, high = law.bulk.support
    inside = (law.locations >= low) & (law.locations <= high)
    far = np.abs(np.abs(np.array(spikes) - 1) - ratio**0.5) > 1e-6
    assert (inside[far] == ~law.is_outlier[far]).all()
    assert ((law.overlaps >= 0) & (law.overlaps < 1)).all()
    assert ((law.overlaps > 0) == law.is_outlier).all()
    general = rl.SpikedCovarianceLaw.on_bulk(rl.GeneralizedMarchenkoPastur.sample_covariance([1.0], ratio), spikes)
    away = far & (np.abs(np.array(spikes) - 1) > 1e-9)
    np.testing.assert_array_equal(general.is_outlier[away], law.is_outlier[away])
    np.testing.assert_allclose(general.locations[away], law.locations[away], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(general.overlaps[away], law.overlaps[away], rtol=1e-6, atol=1e-12)


def batches(p, n, draws, rng, beta=1):
    """Extreme eigenvalues of null sample covariance matrices."""
    found = []
    for _ in range(draws // 1000):
        x = rng.standard_normal((1000, p, n))
        if beta == 2:
            x = (x + 1j * rng.standard_normal((1000, p, n))) / np.sqrt(2)
        values = np.linalg.eigvalsh(x @ x.conj().swapaxes(1, 2) / n)
        found.append(values[:, [0, -1]])
    return np.concatenate(found)


@pytest.mark.parametrize("beta", [1, 2])
def test_below_threshold_the_edge_follows_tracy_widom_to_second_order(beta):
    rng = np.random.default_rng(40 + beta)
    p, n = 16, 64
    law = rl.SpikedCovarianceLaw(p / n, [1.2, 0.9], num_samples=n, beta=beta)
    tracy_widom = rl.TracyWidom(beta)
    extremes = batches(p, n, 20_000, rng, beta)
    centre, scale = law.edge()
    units = (extremes[:, 1] - centre) / scale
    assert_mean(units, tracy_widom.mean(), bias=0.03, detect=0.16)
    squares = (units - units.mean()) ** 2
    assert_mean(squares, tracy_widom.var(), bias=0.06, detect=0.4)
    left, narrow = law.edge("left")
    assert_mean((left - extremes[:, 0]) / narrow, tracy_widom.mean(), bias=0.25, detect=0.7)
    assert left < centre
    assert narrow < scale
    if beta == 1:
        # Mutants: plain n and p; the scale's power 3/2 for the scale.
        plain = (extremes[:, 1] * n - (n**0.5 + p**0.5) ** 2) / ((n**0.5 + p**0.5) * (n**-0.5 + p**-0.5) ** (1 / 3))
        with pytest.raises(AssertionError, match="off by"):
            assert_mean(plain, tracy_widom.mean(), bias=0.03, detect=0.16)
    wrong = (extremes[:, 1] - centre) / (scale * n) ** 1.5 * n
    with pytest.raises(AssertionError, match="off by"):
        assert_mean((wrong - wrong.mean()) ** 2, tracy_widom.var(), bias=0.06, detect=0.4)
    np.testing.assert_allclose(law.locations_std, [scale * tracy_widom.std(), narrow * tracy_widom.std()])


def test_edge_is_johnstones_at_large_sizes():
    n, p = 10**8, 10**7
    for beta in (1, 2, 4):
        centre, scale = rl.SpikedCovarianceLaw(p / n, [1.0], num_samples=n, beta=beta).edge()
        assert centre == pytest.approx((1 + (p / n) ** 0.5) ** 2, rel=1e-6)
        assert n * scale == pytest.approx((n**0.5 + p**0.5) * (n**-0.5 + p**-0.5) ** (1 / 3), rel=1e-6)
    # Down to one sample and one feature, each shifted to 1/2 for real matrices; less than 1/2 is never taken.
    assert rl.SpikedCovarianceLaw(1.0, [], num_samples=1).edge() == pytest.approx((2.0, 2.0))
    assert rl.SpikedCovarianceLaw(0.25, [], num_samples=1, beta=2).edge()[0] == pytest.approx((1 + 0.5**0.5) ** 2)
    # The general bulk gives the same without the shifts.
    bulk = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0], p / n)
    general = rl.SpikedCovarianceLaw.on_bulk(bulk, [1.1, 0.9], num_samples=n)
    plain = rl.SpikedCovarianceLaw(p / n, [1.1, 0.9], num_samples=n)
    for side in ("left", "right"):
        np.testing.assert_allclose(general.edge(side), plain.edge(side), rtol=1e-6)
    np.testing.assert_allclose(general.locations_std, plain.locations_std, rtol=1e-6)
    hard = rl.SpikedCovarianceLaw(1.0, [0.5], num_samples=100)
    assert hard.edge("left") == (0.0, 0.0)
    np.testing.assert_array_equal(hard.locations_std, 0)


def test_repeated_spikes():
    rng = np.random.default_rng(6)
    p, n = 60, 400
    population = np.ones(p)
    population[:3] = 6.0
    law = rl.SpikedCovarianceLaw(p / n, [6.0, 6.0, 6.0], num_samples=n)
    single = rl.SpikedCovarianceLaw(p / n, [6.0], num_samples=n)
    assert law.locations_std[0] == pytest.approx(single.locations_std[0] * 2**0.5)  # 1 + (3 - 1) / 2
    values, _ = covariance_draws(population, n, 1500, rng)
    top = values[:, -3:]
    mean_square = ((top - law.locations[0]) ** 2).mean(axis=1)
    expected = law.locations_std[0] ** 2
    assert_mean(mean_square, expected, bias=0.06 * expected, detect=0.5 * expected)
    with pytest.raises(AssertionError, match="off by"):  # as if each were alone
        assert_mean(mean_square, expected / 2, bias=0.06 * expected, detect=0.5 * expected)
    # The mean of the group is Gaussian with a third of the simple variance.
    group = (top.mean(axis=1) - top.mean()) ** 2
    variance = single.locations_std[0] ** 2 / 3
    assert_mean(group, variance, bias=0.06 * variance, detect=0.5 * variance)


def test_spikes_on_a_general_bulk():
    rng = np.random.default_rng(12)
    p, n = 120, 360
    population = np.repeat([1.0, 8.0], [100, 20])
    population[0], population[1], population[-1] = 0.25, 3.4, 30.0
    bulk = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 8.0], p / n, weights=[98, 19])
    law = rl.SpikedCovarianceLaw.on_bulk(bulk, [0.25, 3.4, 30.0], num_samples=n)
    assert law.is_outlier.all()
    assert law.ratio == pytest.approx(p / n)
    assert law.threshold == bulk.thresholds[1]
    assert law.left_threshold == bulk.thresholds[0]
    values, overlaps = covariance_draws(population, n, 800, rng, vectors=[(0, 0), (1, 99), (119, 119)])
    found = values[:, [0, 99, 119]]
    # The three spikes shift the bulk's weights by 1/40: its own bias.
    assert_mean(found, law.locations, bias=0.03 * law.locations, detect=0.12 * law.locations)
    assert_mean(overlaps, law.overlaps, bias=0.04, detect=0.12)
    variance = law.locations_std**2
    square = (found - found.mean(axis=0)) ** 2
    assert_mean(square, variance, bias=0.12 * variance, detect=variance)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(square, 0.5 * variance, bias=0.12 * variance, detect=variance)
    # As if the bulk were 1 the middle spike would be elsewhere.
    plain = rl.SpikedCovarianceLaw(p / n, [0.25, 3.4, 30.0])
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(found[:, 1], plain.locations[1], bias=0.03 * found[:, 1].mean(), detect=0.12 * found[:, 1].mean())


def test_spikes_within_a_general_bulk():
    bulk = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], 0.5)
    law = rl.SpikedCovarianceLaw.on_bulk(bulk, [0.8, 1.5, 2.4], num_samples=1000)
    assert not law.is_outlier.any()
    assert law.locations[0] == bulk.support[0, 0]
    assert bulk.support[0, 0] < law.locations[1] < bulk.support[-1, 1]
    assert law.locations[2] == bulk.support[-1, 1]
    assert law.locations_std[1] == 0
    assert law.locations_std[2] == pytest.approx(law.edge()[1] * rl.TracyWidom(1).std())
    np.testing.assert_array_equal(law.overlaps, 0)


# Wigner.


def wigner(n, beta, rng):
    x = rng.standard_normal((n, n))
    if beta == 2:
        x = (x + 1j * rng.standard_normal((n, n))) / np.sqrt(2)
    return (x + x.conj().T) / np.sqrt(2)


@pytest.mark.parametrize("beta", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_outliers_of_dense_wigner_matrices(beta):
    rng = np.random.default_rng(20 + beta)
    n, sigma = 120, 1.5
    law = rl.SpikedWignerLaw(sigma, [4.0, -3.0], n=n, beta=beta)
    u = np.linalg.qr(rng.standard_normal((n, 2)))[0]
    found, overlaps = [], []
    for _ in range(1200):
        w, v = np.linalg.eigh(sigma * wigner(n, beta, rng) / n**0.5 + u @ np.diag([4.0, -3.0]) @ u.T)
        found.append([w[-1], w[0]])
        overlaps.append([abs(v[:, -1] @ u[:, 0]) ** 2, abs(v[:, 0] @ u[:, 1]) ** 2])
    found = np.array(found)
    assert_mean(found, law.locations, bias=4 / n, detect=0.2)
    assert_mean(overlaps, law.overlaps, bias=4 / n, detect=0.12)
    variance = law.locations_std**2
    square = (found - found.mean(axis=0)) ** 2
    assert_mean(square, variance, bias=0.06 * variance, detect=0.6 * variance)
    with pytest.raises(AssertionError, match="off by"):  # a missing sqrt(2)
        assert_mean(square, variance * 2, bias=0.06 * variance, detect=0.6 * variance)
    with pytest.raises(AssertionError, match="off by"):  # the spike itself for its eigenvalue
        assert_mean(found, [4.0, -3.0], bias=4 / n, detect=0.2)


def test_wigner_formulas():
    law = rl.SpikedWignerLaw(2.0, [4.0, 1.9, -1.9, 0.0, -4.0, 2.0])
    assert law.threshold == 2.0
    assert law.is_outlier.tolist() == [True, False, False, False, True, False]
    np.testing.assert_allclose(law.locations, [5, 4, -4, 4, -5, 4])
    np.testing.assert_allclose(law.overlaps, [0.75, 0, 0, 0, 0.75, 0])
    assert law.bulk == rl.Semicircle(2.0)
    assert rl.SpikedWignerLaw().locations.tolist() == [2.5]


def test_wigner_edges_are_in_units_of_sigma():
    """Of the plain Gaussian unitary ensemble: n^(1/6) (extreme / sqrt(n) - 2 sqrt(n)), without any shift."""
    tracy_widom = rl.TracyWidom(2)
    for n, sigma in ((1, 3.0), (64, 0.5)):
        law = rl.SpikedWignerLaw(sigma, [0.0, -0.1], n=n, beta=2)
        assert law.edge() == (pytest.approx(2 * sigma), pytest.approx(sigma * n ** (-2 / 3)))
        assert law.edge("left") == (-law.edge()[0], law.edge()[1])
        np.testing.assert_allclose(law.locations_std, sigma * n ** (-2 / 3) * tracy_widom.std())
    # Johnstone and Ma's n - 1/2 of real matrices, down to the smallest.
    assert rl.SpikedWignerLaw(n=1).edge() == (pytest.approx(2**0.5), pytest.approx(2 ** (1 / 6)))


def test_edge_of_the_gaussian_orthogonal_ensemble():
    rng = np.random.default_rng(31)
    n = 24
    law = rl.SpikedWignerLaw(1.0, [0.5, -0.5], n=n)
    x = rng.standard_normal((24_000, n, n))
    values = np.linalg.eigvalsh((x + x.swapaxes(1, 2)) / np.sqrt(2 * n))
    tracy_widom = rl.TracyWidom(1)
    for side, extreme in (("right", values[:, -1]), ("left", values[:, 0])):
        centre, scale = law.edge(side)
        sign = 1 if side == "right" else -1
        assert_mean(sign * (extreme - centre) / scale, tracy_widom.mean(), bias=0.05, detect=0.2)
    centre, scale = law.edge()
    with pytest.raises(AssertionError, match="off by"):  # centred with n for n - 1/2
        assert_mean((values[:, -1] - 2) / scale, tracy_widom.mean(), bias=0.05, detect=0.2)
    assert law.locations_std[0] == pytest.approx(scale * tracy_widom.std())
    np.testing.assert_allclose(law.locations_std[0], law.locations_std[1])


# Both.


def test_results_keep_the_order_given():
    law = rl.SpikedCovarianceLaw(0.2, [1.1, 9.0, 0.1, 3.0, 9.0], num_samples=100)
    assert law.locations.shape == law.overlaps.shape == law.locations_std.shape == (5,)
    assert law.locations[1] == law.locations[4] == 9.0 * (1 + 0.2 / 8)
    assert law.locations_std[1] == law.locations_std[4]
    empty = rl.SpikedCovarianceLaw(0.2, [], num_samples=100)
    assert empty.locations.shape == empty.locations_std.shape == (0,)


def test_laws_are_values():
    assert rl.SpikedCovarianceLaw(0.2, [3.0]) == rl.SpikedCovarianceLaw(0.2, np.array([3.0]))
    assert rl.SpikedCovarianceLaw(0.2, [3.0]) != rl.SpikedCovarianceLaw(0.2, [3.0], num_samples=10)
    assert rl.SpikedWignerLaw(1.0, [3.0]) != rl.SpikedCovarianceLaw(1.0, [3.0])
    spikes = np.array([3.0])
    law = rl.SpikedWignerLaw(1.0, spikes)
    spikes[0] = 7
    assert law.spikes[0] == 3


def test_fluctuations_need_a_size():
    law = rl.SpikedCovarianceLaw(0.2, [3.0])
    with pytest.raises(ValueError, match=r"`num_samples` must be given for fluctuations; got None"):
        law.locations_std  # noqa: B018
    with pytest.raises(ValueError, match=r"`num_samples` must be given"):
        law.edge()
    with pytest.raises(ValueError, match=r"`n` must be given for fluctuations; got None"):
        rl.SpikedWignerLaw().locations_std  # noqa: B018
    with pytest.raises(ValueError, match=r"`n` must be given"):
        rl.SpikedWignerLaw().edge("left")
    with pytest.raises(ValueError, match=r"`side` must be one of 'right', 'left'; got 'top'"):
        rl.SpikedWignerLaw(n=10).edge("top")
    with pytest.raises(ValueError, match=r"`side` must be one of 'right', 'left'; got 'top'"):
        rl.SpikedCovarianceLaw(0.2, [3.0], num_samples=10).edge("top")


def test_bad_input():
    for spikes in ([0.0], [-1.0, 2.0]):
        with pytest.raises(ValueError, match=r"`spikes` must be > 0; got"):
            rl.SpikedCovarianceLaw(0.5, spikes)
    with pytest.raises(ValueError, match=r"`spikes` must be finite; got 1 NaN"):
        rl.SpikedCovarianceLaw(0.5, [np.nan])
    with pytest.raises(ValueError, match=r"`spikes` must have 1 dimension; got shape \(\)"):
        rl.SpikedCovarianceLaw(0.5, 3.0)
    with pytest.raises(ValueError, match=r"`ratio` must be > 0; got -0.5"):
        rl.SpikedCovarianceLaw(-0.5, [3.0])
    with pytest.raises(ValueError, match=r"`num_samples` must be >= 1; got 0"):
        rl.SpikedCovarianceLaw(0.5, [3.0], num_samples=0)
    for law in (rl.SpikedCovarianceLaw, rl.SpikedWignerLaw):
        with pytest.raises(ValueError, match=r"`beta` must be one of 1, 2, 4; got 3"):
            law(0.5, [3.0], beta=3)
    with pytest.raises(ValueError, match=r"`sigma` must be > 0; got 0"):
        rl.SpikedWignerLaw(0.0)
    with pytest.raises(ValueError, match=r"`spikes` must be finite"):
        rl.SpikedWignerLaw(1.0, [np.inf])
    with pytest.raises(ValueError, match=r"`n` must be >= 1; got 0"):
        rl.SpikedWignerLaw(n=0)
    bulk = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], 0.5)
    with pytest.raises(ValueError, match=r"`general_bulk` must have ratio 0.3; got 0.5"):
        rl.SpikedCovarianceLaw(0.3, [5.0], general_bulk=bulk)
    for ratio in (0.01, 100.0):  # to nine digits, whatever the ratio
        bulk = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 2.0], ratio)
        assert rl.SpikedCovarianceLaw(ratio * (1 + 5e-10), [5.0], general_bulk=bulk).general_bulk == bulk
        with pytest.raises(ValueError, match=f"`general_bulk` must have ratio {ratio:g}; got {ratio:g}"):
            rl.SpikedCovarianceLaw(ratio * (1 + 2e-9), [5.0], general_bulk=bulk)
    with pytest.raises(ValueError, match=r"`general_bulk` must be made by `sample_covariance`; got the law of sum"):
        rl.SpikedCovarianceLaw.on_bulk(rl.GeneralizedMarchenkoPastur([1.0, 2.0], 4), [5.0])
    with pytest.raises(TypeError, match=r"`bulk` must be a GeneralizedMarchenkoPastur; got MarchenkoPastur"):
        rl.SpikedCovarianceLaw.on_bulk(rl.MarchenkoPastur(0.5), [5.0])
