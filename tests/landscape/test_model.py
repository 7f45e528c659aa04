import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland import _arguments
from rmtland.landscape.draw import mean_curvature
from rmtland.logits import gradients
from tests import oracles
from tests.statistical import assert_mean

SMALL = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=4, num_parameters=30, sigma_z=2.0)


BY_CLASS = dataclasses.replace(SMALL, gradients=rl.ClusteredGradients(1.0, 0.7, 0.9, (1.0, 0.5, 0.0, 2.0)))


def as_arrays(draw):
    gradients = draw.mean_gradients + draw.residuals
    if draw.class_gradients is not None:
        for mu, y in enumerate(draw.labels):
            gradients[mu] += draw.class_gradients[:, y]
    return draw.logits, draw.labels, gradients


def test_a_draw_is_a_source():
    draw = SMALL.sample(0)
    assert isinstance(draw, rl.LogitGradients)
    assert (draw.num_examples, draw.num_classes, draw.num_parameters) == (20, 4, 30)
    assert draw.parameter_groups == {"all": slice(0, 30)}
    np.testing.assert_allclose(draw.probabilities, [oracles.softmax(z) for z in draw.logits], rtol=1e-13)


@given(st.integers(2, 9), st.integers(2, 5), st.integers(1, 8), st.integers(0, 99), st.sampled_from([0.5, 15.0]))
def test_hessian_against_loops(n, c, d, seed, sigma_z):
    model = rl.LandscapeModel.fort_ganguli(n, c, d, sigma_z=sigma_z)
    draw = model.sample(seed)
    logits, _, jacobians = as_arrays(draw)
    np.testing.assert_allclose(draw.hessian(), oracles.gauss_newton(logits, jacobians), rtol=1e-9, atol=1e-14)
    # Eq. (16): the mean part and the residual part alone.
    apart = oracles.gauss_newton(logits, draw.residuals) + oracles.gauss_newton(
        logits, np.broadcast_to(draw.mean_gradients, jacobians.shape)
    )
    np.testing.assert_allclose(draw.hessian(cross_terms=False), apart, rtol=1e-9, atol=1e-14)
    expected = np.mean([oracles.curvature(z) for z in logits], axis=0)
    np.testing.assert_allclose(mean_curvature(logits), expected, rtol=1e-9, atol=1e-15)


def test_hessian_with_class_gradients():
    draw = BY_CLASS.sample(0)
    logits, labels, jacobians = as_arrays(draw)
    np.testing.assert_allclose(draw.hessian(), oracles.gauss_newton(logits, jacobians), rtol=1e-9, atol=1e-14)
    parts = (
        np.broadcast_to(draw.mean_gradients, jacobians.shape),
        draw.class_gradients[:, labels].swapaxes(0, 1),
        draw.residuals,
    )
    apart = sum(oracles.gauss_newton(logits, part) for part in parts)
    np.testing.assert_allclose(draw.hessian(cross_terms=False), apart, rtol=1e-9, atol=1e-14)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99), st.sampled_from([0.0, 1.0]))
def test_products_of_a_chunk_without_storing_the_sum(width, d, seed, class_length):
    draw = rl.LandscapeModel(7, 3, d, gradients=rl.ClusteredGradients(class_length=class_length)).sample(seed)
    assert (draw.class_gradients is None) == (class_length == 0)
    _, _, jacobians = as_arrays(draw)
    rng = np.random.default_rng(seed)
    v, u = rng.normal(size=(d, width)), rng.normal(size=(7, 3, width))
    (chunk,) = draw.chunks()
    np.testing.assert_allclose(chunk.jvp(v), np.einsum("nkd,dj->nkj", jacobians, v), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(chunk.vjp(u), np.einsum("nkd,nkj->dj", jacobians, u), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(chunk.dense(), jacobians, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(chunk.dense(slice(0, 1)), chunk.dense()[:, :, :1])


@pytest.mark.parametrize("model", [SMALL, BY_CLASS])
@pytest.mark.parametrize("num_parameters", [30, 300])
@pytest.mark.parametrize("chunk_bytes", [gradients.CHUNK_BYTES, 8 * 4 * 300 * 7])
def test_the_fused_rows_give_the_spectrum_of_the_arrays(monkeypatch, num_parameters, chunk_bytes, model):
    monkeypatch.setattr(gradients, "CHUNK_BYTES", chunk_bytes)
    draw = dataclasses.replace(model, num_parameters=num_parameters).sample(0)
    assert all(isinstance(chunk, gradients.WeightedChunk) for chunk in draw.chunks())
    ours, theirs = rl.gauss_newton_spectrum(draw), rl.gauss_newton_spectrum(rl.DenseLogitGradients(*as_arrays(draw)))
    np.testing.assert_allclose(ours.eigenvalues, theirs.eigenvalues, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(ours.powers, theirs.powers, rtol=1e-6, atol=1e-10)
    assert ours.gradient_norm == pytest.approx(theirs.gradient_norm)


def test_chunks_of_a_large_draw_are_slices():
    draw = rl.LandscapeModel.fort_ganguli(10, 2, 2**18).sample(0)  # 4 MiB an example
    assert [len(chunk.labels) for chunk in draw.chunks()] == [8, 2]
    assert np.shares_memory(next(draw.chunks()).residuals, draw.residuals)


def test_same_seed_same_draw():
    for seed in (0, np.random.SeedSequence(3), 12345):
        again = np.random.SeedSequence(3) if isinstance(seed, np.random.SeedSequence) else seed
        for one, other in zip(as_arrays(SMALL.sample(seed)), as_arrays(SMALL.sample(again)), strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(as_arrays(SMALL.sample(0)), as_arrays(SMALL.sample(1)), strict=True):
        assert not np.array_equal(one, other)
    assert not np.array_equal(SMALL.sample().residuals, SMALL.sample().residuals)
    generator = np.random.default_rng(0)
    first, second = SMALL.sample(generator), SMALL.sample(generator)
    np.testing.assert_array_equal(first.residuals, SMALL.sample(0).residuals)
    assert not np.array_equal(first.residuals, second.residuals)


def test_parameters_of_the_paper():
    model = rl.LandscapeModel.fort_ganguli()
    assert (model.num_examples, model.num_classes, model.num_parameters) == (300, 10, 1000)
    assert model.sigma_c == pytest.approx(1 / np.sqrt(1000))
    assert model.sigma_E == pytest.approx(0.7 / np.sqrt(1000))
    assert model.snr == pytest.approx(1 / 0.49)
    by_snr = rl.LandscapeModel.fort_ganguli(mean_length=2.0, snr=4.0)
    assert (by_snr.gradients.residual_length, by_snr.snr) == (1.0, 4.0)
    assert rl.LandscapeModel(3, 2, 4).gradients == rl.ClusteredGradients()
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.num_examples = 3


def gaps(model, count):
    """Per draw: the ratio of the (C-1)-th largest eigenvalue to the C-th, and of the (C-2)-th to the (C-1)-th."""
    values = [rl.gauss_newton_spectrum(model.sample(seed)).eigenvalues for seed in range(count)]
    c = model.num_classes
    return np.array([[v[-(c - 1)] / v[-c], v[-(c - 2)] / v[-(c - 1)]] for v in values])


def test_one_outlier_less_than_classes():
    # A 1 = 0, so the mean part has rank C - 1. The gap opens below the (C-1)-th eigenvalue, not above it.
    model = rl.LandscapeModel.fort_ganguli(120, 6, 400, sigma_z=1.0, snr=8.0)
    draws = gaps(model, 20)
    assert np.all(draws[:, 0] > 3)
    assert np.all(draws[:, 1] < 1.5)
    for seed in range(3):
        draw = model.sample(seed)
        mean_part = draw.mean_gradients.T @ mean_curvature(draw.logits) @ draw.mean_gradients
        assert np.linalg.matrix_rank(mean_part) == 5
    # Without mean gradients there is no gap: what is tested is the model's structure, not the test.
    assert np.all(gaps(rl.LandscapeModel.fort_ganguli(120, 6, 400, sigma_z=1.0, mean_length=0.0), 5)[:, 0] < 1.5)


@pytest.mark.parametrize("cross_terms", [True, False])
def test_mean_trace_given_the_logits(cross_terms):
    # E tr G = D tr T with tr T = (sigma_c^2 + sigma_E^2) sum_mu tr A_mu / N, with the cross terms and without them.
    logits, labels = rl.GaussianLogits(1.5, 0.8).draw_logits(40, 4, np.random.default_rng(0))
    model = rl.LandscapeModel(40, 4, 100, logits=rl.GivenLogits(logits, labels))
    traces = [np.trace(model.sample(seed).hessian(cross_terms)) for seed in range(200)]
    curvature = np.mean([np.trace(oracles.curvature(z)) for z in logits])
    expected = 100 * (model.sigma_c**2 + model.sigma_E**2) * curvature
    assert_mean(traces, expected, detect=0.08 * expected)
    for mutant in (1.08 * expected, 100 * (model.sigma_c + model.sigma_E) ** 2 * curvature):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(traces, mutant, detect=0.08 * expected)


def test_mean_frobenius_norm_given_the_logits():
    # E |G|_F^2 = D (tr T)^2 + D (D + 1) tr T^2, tr T^2 of theory section 5: exact at any size.
    logits, labels = rl.GaussianLogits(1.5, 0.8).draw_logits(30, 3, np.random.default_rng(0))
    model = rl.LandscapeModel(30, 3, 50, logits=rl.GivenLogits(logits, labels))
    c2, e2, d, n = model.sigma_c**2, model.sigma_E**2, 50, 30
    a = np.array([oracles.curvature(z) for z in logits]) / n
    trace = (c2 + e2) * np.einsum("nkk->", a)
    p = a.sum(axis=0)
    square = (e2**2 + 2 * e2 * c2) * np.einsum("nkl,nlk->", a, a) + c2**2 * np.sum(p * p)
    expected = d * trace**2 + d * (d + 1) * square
    draws = [np.sum(model.sample(seed).hessian() ** 2) for seed in range(400)]
    assert_mean(draws, expected, detect=0.2 * expected)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(draws, d * trace**2 + d * (d + 1) * (e2**2 * np.einsum("nkl,nlk->", a, a)), detect=0.2 * expected)


def test_from_source_measures_a_draw():
    model = rl.LandscapeModel.fort_ganguli(200, 5, 400, sigma_z=3.0, snr=2.0, accuracy=0.8)
    again = rl.LandscapeModel.from_source(model.sample(0))
    assert (again.num_examples, again.num_classes, again.num_parameters) == (200, 5, 400)
    assert again.logits.accuracy == 0.8
    assert again.logits.sigma == pytest.approx(3.0, rel=0.1)
    assert again.gradients.mean_length == pytest.approx(1.0, rel=0.1)
    assert again.gradients.residual_length == pytest.approx(np.sqrt(0.5), rel=0.02)
    regression = rl.DenseLogitGradients(*oracles.examples(5, 2, 3), loss=rl.SquaredError())
    with pytest.raises(ValueError, match="`source` must have softmax outputs"):
        rl.LandscapeModel.from_source(regression)


def test_from_source_with_other_logit_laws():
    law = rl.MarginLogits(2.0, 4.0, 1.0)
    draw = rl.LandscapeModel(300, 5, 50, logits=law).sample(0)
    margin = rl.LandscapeModel.from_source(draw, logit_law="margin").logits
    assert margin.margin == pytest.approx(4.0, abs=0.6)
    matched = rl.LandscapeModel.from_source(draw, logit_law="participation").logits
    participation = rl.output_statistics(draw).participation
    assert rl.RandomEnergyModel(5, matched.sigma).participation() == pytest.approx(participation)
    # Separated classes are more frozen than independent logits of their spread.
    assert matched.sigma > 1.2 * rl.LandscapeModel.from_source(draw).logits.sigma
    with pytest.raises(
        ValueError, match="`logit_law` must be one of 'spread', 'participation', 'margin', 'unfrozen'; got 'x'"
    ):
        rl.LandscapeModel.from_source(draw, logit_law="x")


class OneSided:
    """A gradient law of the reader's own: all gradients along one axis."""

    def draw_gradients(self, labels, num_classes, num_parameters, rng):
        means = np.zeros((num_classes, num_parameters))
        residuals = np.zeros((len(labels), num_classes, num_parameters))
        residuals[:, :, 0] = rng.standard_normal((len(labels), num_classes))
        return means, residuals


def test_laws_of_ones_own():
    model = rl.LandscapeModel(10, 3, 5, gradients=OneSided(), logits=rl.GaussianLogits(1.0))
    spectrum = rl.gauss_newton_spectrum(model.sample(0))
    assert np.linalg.matrix_rank(model.sample(0).hessian()) == 1
    assert spectrum.gradient_power(1) == pytest.approx(1)
    with pytest.raises(
        TypeError, match="sigma_c, sigma_E, sigma_d and snr belong to ClusteredGradients; this model has"
    ):
        _ = model.sigma_c


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rl.LandscapeModel(1, 2, 3), ValueError, "`num_examples` must be >= 2; got 1"),
        (lambda: rl.LandscapeModel(2, 1, 3), ValueError, "`num_classes` must be >= 2; got 1"),
        (lambda: rl.LandscapeModel(2, 2, 0), ValueError, "`num_parameters` must be >= 1; got 0"),
        (lambda: rl.LandscapeModel(2.0, 2, 3), TypeError, "`num_examples` must be an integer"),
        (
            lambda: rl.LandscapeModel(2, 2, 3, logits=15.0),
            TypeError,
            r"`logits` must be a logit law such as GaussianLogits\(sigma=15.0\); got float",
        ),
        (
            lambda: rl.LandscapeModel(2, 2, 3, logits=rl.GaussianLogits),
            TypeError,
            "`logits` must be a logit law .* got GaussianLogits$",
        ),
        (
            lambda: rl.LandscapeModel(2, 2, 3, gradients=rl.GaussianLogits(1.0)),
            TypeError,
            r"`gradients` must be a gradient law such as ClusteredGradients\(\); got GaussianLogits",
        ),
        (
            lambda: rl.LandscapeModel(2, 2, 3, gradients=rl.ClusteredGradients),
            TypeError,
            "`gradients` must be a gradient law .* got ClusteredGradients$",
        ),
        (
            lambda: rl.LandscapeModel(3, 2, 3, logits=rl.GivenLogits(np.zeros((2, 2)), [0, 1])),
            ValueError,
            r"`logits` must have shape \(3, 2\); got \(2, 2\)",
        ),
        (lambda: rl.LandscapeModel.fort_ganguli(snr=0.0), ValueError, "`snr` must be > 0; got 0.0"),
        (lambda: rl.LandscapeModel.fort_ganguli(snr=2.0, mean_length=-1), ValueError, "`mean_length` must be >= 0"),
        (lambda: rl.LandscapeModel.fort_ganguli(sigma_z=-1.0), ValueError, "`sigma` must be >= 0; got -1.0"),
        (lambda: rl.LandscapeModel.fort_ganguli(accuracy=2), ValueError, "`accuracy` must be >= 0 and <= 1; got 2"),
        (lambda: SMALL.sample("seed"), TypeError, "`rng` must be something numpy.random.default_rng takes; got 'seed'"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_logit_gradients_that_do_not_fit():
    model = rl.LandscapeModel.fort_ganguli(num_parameters=10**9)
    message = (
        r"the logit gradients of 300 x 10 x 1000000000 needs 2.24e\+04 GiB and .* GiB are free; "
        "draw a model with fewer parameters or examples instead"
    )
    with pytest.raises(MemoryError, match=message):
        model.sample(0)


@pytest.mark.parametrize(
    "logits", [rl.GaussianLogits(1.0), rl.MarginLogits(1.0, 1.0), rl.UnfrozenLogits(3.0, 4.0, 3.0)]
)
def test_logits_that_do_not_fit(logits):
    model = rl.LandscapeModel(10**11, 10, 100, logits)
    for call in (model.spectrum, model.theory):
        with pytest.raises(MemoryError, match="logits of 100000000000 x 10 needs .* take fewer examples instead"):
            call(0)


def test_a_hessian_that_does_not_fit(monkeypatch):
    draw = SMALL.sample(0)
    monkeypatch.setattr(_arguments, "available_memory", lambda: 1000)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    message = r"the 30 x 30 Hessian needs .* GiB are free; use gauss_newton_spectrum\(draw\) instead"
    with pytest.raises(MemoryError, match=message):
        draw.hessian()
