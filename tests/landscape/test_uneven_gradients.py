"""The law of few directions and unequal lengths: full draws, reduced draws, theory, and the source that it is of."""

import dataclasses
import math

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.uneven_gradients import _across_logits, _lengths
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
    spectra = [model_of(LAW, 10**5).spectrum(rng=i) for i in range(300)]
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
