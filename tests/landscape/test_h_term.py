"""The H-term: an independent Gaussian symmetric matrix on top of the Gauss-Newton matrix."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland.landscape.h_term import draw_h_term
from tests.landscape.dense_theory import dense_t, examples
from tests.statistical import assert_mean

LAW = rl.ClusteredGradients(1.0, 0.7)


def given_logits(n, c, d, sigma, sigma_H, law=LAW, seed=0):
    logits, labels = examples(n, c, sigma, seed)
    return rl.LandscapeModel(n, c, d, logits=rl.GivenLogits(logits, labels), gradients=law, sigma_H=sigma_H)


def roots_of_the_equation(t, d, sigma_H, x):
    """The u at x + i0 among all roots of x = u + sum t u / (u - t) / d + sigma_H^2 / u.

    They are the eigenvalues of an arrow matrix: x - mean - u - sum a / (u - pole) is its Schur complement.
    """
    poles, residues = np.append(t, 0.0), np.append(t**2 / d, sigma_H**2)
    arrow = np.diag(np.append(poles, x - t.sum() / d)).astype(complex)
    arrow[:-1, -1], arrow[-1, :-1] = 1j * np.sqrt(residues), 1j * np.sqrt(residues)
    roots = np.linalg.eigvals(arrow)
    return roots[np.argmax(roots.imag)]


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize("sigma_H", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("law", [LAW, rl.ClusteredGradients(1.0, 0.5, 0.6), rl.ClusteredGradients(1.0, 0.0)])
def test_the_density_against_all_roots_of_the_equation(law, sigma_H, cross_terms):
    model = given_logits(6, 3, 40, 1.0, sigma_H, law)
    theory = model.theory(cross_terms=cross_terms)
    t, a = dense_t(*model.logits.draw_logits(6, 3, None), law.mean_lengths(3), law.residual_length, law.class_length,
                   cross_terms)  # fmt: skip
    there = t > 1e-12 * t[-1]
    x = np.linspace(-2.4 * sigma_H - 0.1, 2.2 * sigma_H + 1.5, 61)
    # Near an edge a double root is known to the root of the rounding only.
    u = np.array([roots_of_the_equation(t[there], 40, sigma_H, value) for value in x])
    far = (np.abs(u.imag) > 1e-3) | (np.abs(u.imag) < 1e-9)
    density = np.where(u.imag > 1e-9, (-1 / u).imag / np.pi, 0.0)
    np.testing.assert_allclose(theory.pdf(x)[far], density[far], rtol=1e-5, atol=1e-6)
    # The gradient's: m sum a^2 / (1 + m t).
    m = -1 / u
    power = (m * (a**2 / (1 + m[:, None] * t)).sum(axis=1)).imag / np.pi / (a @ a)
    np.testing.assert_allclose(theory.gradient_pdf(x)[far], np.where(u.imag > 1e-9, power, 0.0)[far],
                               rtol=1e-5, atol=1e-6)  # fmt: skip


def integral(x, values):
    return float(np.sum(0.5 * (values[1:] + values[:-1]) * np.diff(x)))


@pytest.mark.parametrize("sigma_H", [0.02, 0.2, 1.0])
def test_mass_counts_and_powers_are_those_of_the_density(sigma_H):
    theory = given_logits(40, 4, 200, 3.0, sigma_H).theory()
    low, high = theory.quantiles([200 - 1e-3, 1e-3])
    pad = 0.1 * (high - low)
    levels, fiftieth = [-sigma_H, 0.0, 0.5 * sigma_H], theory.quantiles([50.0])[0]
    x = np.union1d(np.linspace(low - pad, high + pad, 1200), [*levels, fiftieth])
    density, power = theory.pdf(x), theory.gradient_pdf(x)
    assert theory.atom == 0
    np.testing.assert_allclose(integral(x, density), 1, atol=2e-3)
    np.testing.assert_allclose(integral(x, power), 1, atol=2e-3)
    np.testing.assert_allclose(integral(x, x * density) * 200, theory.trace, atol=4e-3 * theory.frobenius)
    np.testing.assert_allclose(integral(x, x**2 * density) * 200, theory.frobenius**2, rtol=1e-2)  # Theory has 1/D more
    for at in levels:
        right = x >= at
        np.testing.assert_allclose(theory.count_above(at), 200 * integral(x[right], density[right]), atol=0.3)
    assert theory.count_above(low - pad) == 200
    assert theory.count_above(high + pad) == 0
    np.testing.assert_allclose(theory.count_above(fiftieth), 50, rtol=1e-8)
    right = x >= fiftieth
    np.testing.assert_allclose(theory.gradient_power(50), integral(x[right], power[right]), atol=3e-3)


def test_a_vanishing_h_term_leaves_the_model_without():
    with_term, without = (given_logits(40, 4, 200, 3.0, s).theory() for s in (1e-9, 0.0))
    np.testing.assert_allclose(with_term.outliers(), without.outliers(), rtol=1e-9)
    np.testing.assert_allclose(with_term.gradient_power(3), without.gradient_power(3), rtol=1e-9)
    np.testing.assert_allclose(with_term.goldilocks_ratio(), without.goldilocks_ratio(), rtol=1e-9)
    np.testing.assert_allclose(with_term.bulk_edge, without.bulk_edge, rtol=1e-9)
    np.testing.assert_allclose(with_term.transition_snr(), without.transition_snr(), rtol=1e-6)
    np.testing.assert_allclose(with_term.gradient_power_std(3), without.gradient_power_std(3), rtol=1e-6)


def test_a_large_h_term_leaves_its_semicircle():
    theory = given_logits(40, 4, 2000, 3.0, 100.0).theory()
    x = np.linspace(-210, 210, 22)
    np.testing.assert_allclose(theory.pdf(x), rl.Semicircle(100.0).pdf(x), atol=1e-7)
    assert theory.bulk_edge == pytest.approx(200, rel=1e-6)


def test_without_residuals_an_outlier_is_a_spike_on_a_wigner_matrix():
    """One direction, C = 2, so that no other outlier pulls."""
    model = given_logits(30, 2, 10**9, 1.0, 0.0, rl.ClusteredGradients(1.0, 0.0))
    spike = model.theory().outliers()[0]
    for share in (0.3, 0.7):
        theory = dataclasses.replace(model, sigma_H=share * spike).theory()
        law = rl.SpikedWignerLaw(share * spike, [spike])
        np.testing.assert_allclose(theory.outliers(), law.locations, rtol=1e-6)
        np.testing.assert_allclose(theory.bulk_edge, 2 * share * spike, rtol=1e-9)
        # The gradient lies along the spike, so its power there is the overlap of the eigenvector.
        np.testing.assert_allclose(theory.gradient_power(1), law.overlaps[0], rtol=1e-5)
        np.testing.assert_allclose(theory.transition_sigma_H(), [spike], rtol=1e-6)
        np.testing.assert_allclose(theory.first_order().error, 0, atol=1e-6)


@pytest.mark.parametrize("law", [LAW, rl.ClusteredGradients(1.0, 0.7, relative_lengths=(0.5, 1.0, 1.5, 2.0))])
def test_outliers_are_swallowed_where_the_transition_says(law):
    model = given_logits(60, 4, 10**6, 1.0, 0.0, law)
    for j, scale in enumerate(model.theory().transition_sigma_H()):
        gone, there = (dataclasses.replace(model, sigma_H=f * scale).theory() for f in (1.02, 0.98))
        np.testing.assert_allclose(gone.transition_sigma_H()[j], scale, rtol=1e-12)
        # Of D large the gap closes at the edge of the bulk.
        assert there.count_above(there.bulk_edge + 1e-4 * scale) >= 3 - j - 0.5
        assert gone.count_above(gone.bulk_edge + 1e-4 * scale) < 3 - j - 0.5
        # Seen along SNR the same point is a transition too: the mean lengths are those of SNR.
        edge = dataclasses.replace(model, sigma_H=scale).theory()
        np.testing.assert_allclose(edge.transition_snr()[2 - j], law.snr, rtol=1e-4)


@pytest.fixture(scope="module")
def paired_draws():
    """A model whose H-term has swallowed none, one, or all of its outliers, given its logits, with 400 draws."""
    result = {}
    for sigma_H in (0.03, 0.11, 0.2):
        model = given_logits(50, 4, 150, 3.0, sigma_H)
        result[sigma_H] = model.theory(), [model.spectrum(rng=(1, i)) for i in range(400)]
    return result


@pytest.mark.parametrize("sigma_H", [0.03, 0.11, 0.2])
def test_draws_agree_with_the_theory(paired_draws, sigma_H):
    theory, draws = paired_draws[sigma_H]
    assert_mean([s.trace for s in draws], theory.trace, detect=0.6 * theory.goldilocks_ratio_std() * theory.frobenius)
    square = theory.frobenius**2
    assert_mean([s.frobenius**2 for s in draws], square, detect=(0.15 if sigma_H < 0.1 else 0.03) * square)
    mean = theory.outliers().mean()
    assert_mean([s.outliers().mean() for s in draws], mean, bias=0.01 * mean, detect=0.06 * mean)
    power = theory.gradient_power(3)
    assert_mean([s.gradient_power(3) for s in draws], power, bias=0.01, detect=0.08)
    ratio = theory.goldilocks_ratio()
    assert_mean(
        [s.goldilocks_ratio() for s in draws],
        ratio,
        bias=0.01 * ratio,
        detect=0.6 * theory.goldilocks_ratio_std() + 0.02 * ratio,
    )
    level = 0.5 * sigma_H
    counts = [np.sum(s.eigenvalues > level) for s in draws]
    assert_mean(counts, theory.count_above(level), bias=0.2, detect=1.0)
    for found, told in (
        (np.std([s.goldilocks_ratio() for s in draws], ddof=1), theory.goldilocks_ratio_std()),
        (np.std([s.gradient_power(3) for s in draws], ddof=1), theory.gradient_power_std(3)),
    ):
        np.testing.assert_allclose(told, found, rtol=0.25)
    if sigma_H == 0.03:
        found = np.std([s.outliers() for s in draws], axis=0, ddof=1)
        np.testing.assert_allclose(theory.outliers_std(), found, rtol=0.25)


def test_an_h_term_of_another_variance_is_rejected(paired_draws):
    theory = given_logits(50, 4, 150, 3.0, 0.2 * 1.02).theory()
    _, draws = paired_draws[0.2]
    with pytest.raises(AssertionError):
        assert_mean([s.frobenius**2 for s in draws], theory.frobenius**2, detect=0.02 * theory.frobenius**2)


@pytest.mark.slow
def test_the_exact_spectrum_is_that_of_dense_draws_in_law():
    model = rl.LandscapeModel.fort_ganguli(12, 3, 30, 2.0, sigma_H=0.1)
    exact = [model.spectrum(rng=(2, i)) for i in range(900)]
    dense = []
    for i in range(900):
        draw = model.sample(rng=(3, i))
        values, vectors = np.linalg.eigh(draw.hessian())
        slope = rl.gradient(draw)
        dense.append((values, (vectors.T @ slope) ** 2 / (slope @ slope)))
    for pick, other in (
        (lambda s: s.eigenvalues[-1], lambda v: v[0][-1]),
        (lambda s: s.eigenvalues[0], lambda v: v[0][0]),
        (lambda s: s.powers[-2:].sum(), lambda v: v[1][-2:].sum()),
        (lambda s: s.frobenius**2, lambda v: v[0] @ v[0]),
        (lambda s: s.trace**2, lambda v: v[0].sum() ** 2),
    ):
        one, two = np.array([pick(s) for s in exact]), np.array([other(v) for v in dense])
        assert_mean(one - two, 0.0, detect=0.75 * one.std())
        assert_mean((one - one.mean()) ** 2 - (two - two.mean()) ** 2, 0.0, detect=1.5 * one.var())
    assert np.shape(exact[0].eigenvalues) == (30,)
    assert exact[0].powers.sum() + exact[0].null_power == pytest.approx(1)


def test_top_eigenvalues_alone_are_those_of_the_same_draw():
    model = rl.LandscapeModel.fort_ganguli(20, 3, 80, 2.0, sigma_H=0.1)
    whole, top = model.spectrum(rng=0), model.spectrum(rng=0, k=3)
    np.testing.assert_allclose(top.eigenvalues, whole.eigenvalues[-3:], rtol=1e-10)
    np.testing.assert_allclose(top.powers, whole.powers[-3:], rtol=1e-8)
    np.testing.assert_allclose([top.trace, top.frobenius], [whole.trace, whole.frobenius], rtol=1e-10)


def test_variances_of_the_h_term():
    rng = np.random.default_rng(0)
    draws = np.array([draw_h_term(20, 3.0, rng) for _ in range(400)])
    np.testing.assert_array_equal(draws, np.swapaxes(draws, 1, 2))
    assert_mean([np.mean(d[~np.eye(20, dtype=bool)] ** 2) for d in draws], 9 / 20, detect=0.05 * 9 / 20)
    assert_mean([np.mean(np.diag(d) ** 2) for d in draws], 18 / 20, detect=0.2 * 18 / 20)


def test_the_hessian_of_a_draw_has_the_h_term_and_its_statistics_do_not():
    model = rl.LandscapeModel.fort_ganguli(12, 3, 30, 2.0, sigma_H=0.1)
    draw = model.sample(rng=0)
    without = dataclasses.replace(draw, h_term=None)
    for cross_terms in (True, False):
        np.testing.assert_allclose(draw.hessian(cross_terms) - without.hessian(cross_terms), draw.h_term, atol=1e-12)
    np.testing.assert_array_equal(
        rl.gauss_newton_spectrum(draw).eigenvalues, rl.gauss_newton_spectrum(without).eigenvalues
    )
    assert dataclasses.replace(model, sigma_H=0.0).sample(rng=0).h_term is None


@settings(max_examples=25)
@given(
    st.integers(2, 12), st.integers(2, 5), st.integers(5, 300), st.floats(1e-3, 1e3), st.floats(0, 50),
    st.booleans(), st.integers(0, 3),
)  # fmt: skip
def test_any_parameters(n, c, d, sigma_H, sigma_z, cross_terms, which):
    law = [LAW, rl.ClusteredGradients(1.0, 0.0), rl.ClusteredGradients(0.0, 1.0), rl.ClusteredGradients(1.0, 1.0, 0.5)]
    model = given_logits(n, c, d, sigma_z, sigma_H, law[which])
    theory = model.theory(cross_terms=cross_terms)
    outliers = theory.outliers()
    assert np.isfinite(outliers).all()
    assert (np.diff(outliers) >= -1e-9 * sigma_H).all()
    counts = [theory.count_above(x) for x in np.linspace(-3 * sigma_H, 3 * sigma_H + 3, 7)]
    assert (np.diff(counts) <= 1e-6 * d).all()
    assert counts[0] == pytest.approx(d)
    power = theory.gradient_power(min(c, d))
    assert 0 <= power <= 1 or (np.isnan(power) and theory.equation.vector_square == 0)
    assert np.isfinite(theory.pdf(np.linspace(-2 * sigma_H, 2 * sigma_H, 5))).all()


def test_bad_input():
    with pytest.raises(ValueError, match=r"`sigma_H` must be >= 0; got -1"):
        rl.LandscapeModel.fort_ganguli(sigma_H=-1)
    with pytest.raises(MemoryError, match=r"the 1000000 x 1000000 H-term .*use model.theory\(\), or sigma_H = 0"):
        rl.LandscapeModel.fort_ganguli(30, 3, 10**6, sigma_H=0.1).spectrum(rng=0)
    no_residuals = given_logits(20, 3, 50, 1.0, 0.1, rl.ClusteredGradients(1.0, 0.0))
    with pytest.raises(ValueError, match=r"> 0 for a transition in SNR where .*; see transition_sigma_H"):
        no_residuals.theory().transition_snr()
    with pytest.raises(ValueError, match=r"`class_length` must be 0 for a transition of the outliers; got 0.5"):
        given_logits(20, 3, 50, 1.0, 0.1, rl.ClusteredGradients(1.0, 0.7, 0.5)).theory().transition_sigma_H()
    with pytest.raises(ValueError, match=r"`residual_length` must be > 0 for a transition in SNR where there is an H"):
        rl.LandscapeModel.fort_ganguli(20, 3, 50, residual_length=0, sigma_H=0.1).population_theory().transition_snr()


def test_many_examples():
    """The limit of many examples against the mean over draws of many logits."""
    model = rl.LandscapeModel.fort_ganguli(3000, 4, 10_000, 1.0, sigma_H=0.05)
    population, given = model.population_theory(), model.theory(rng=0)
    np.testing.assert_allclose(population.outliers().mean(), given.outliers().mean(), rtol=0.01)
    np.testing.assert_allclose(population.bulk_edge, given.bulk_edge, rtol=1e-3)
    np.testing.assert_allclose(population.transition_snr(), given.transition_snr().mean(), rtol=0.03)
    np.testing.assert_allclose(population.frobenius, given.frobenius, rtol=1e-3)


def test_outliers_ascend_where_there_are_fewer_parameters_than_classes():
    model = rl.LandscapeModel(30, 8, 4, rl.GaussianLogits(1.0), rl.ClusteredGradients(1.0, 0.7), 0.3)
    theory, spectrum = model.theory(0), model.spectrum(0)
    for outliers in (theory.outliers(), spectrum.outliers()):
        assert (np.diff(outliers) >= 0).all()
        assert np.sum(outliers == 0) == 3
        assert outliers[0] < 0
    # Zeros stay with what D lacks, deviations with what they belong to.
    np.testing.assert_array_equal(theory.outliers_std() == 0, theory.outliers() == 0)
