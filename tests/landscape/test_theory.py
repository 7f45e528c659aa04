import dataclasses
import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland.landscape.theory.levels import checked_lengths
from rmtland.laws.fluctuations import covariance_of_powers, power_traces_of
from rmtland.laws.solver import Solver
from tests import oracles
from tests.landscape.dense_theory import dense_t, examples
from tests.statistical import assert_mean

LAWS = [
    rl.ClusteredGradients(1.0, 0.7),
    rl.ClusteredGradients(1.0, 0.7, 0.5),
    rl.ClusteredGradients(1.0, 0.3, 0.5, (0.7, 2.0, 0.0, 3.0)),
    rl.ClusteredGradients(1.0, 0.0),
    rl.ClusteredGradients(1.0, 0.0, 0.3),
    rl.ClusteredGradients(0.0, 0.7),
]


def pair(n, c, d, sigma, law, seed=0, cross_terms=True):
    """The theory, the general law of the dense T's eigenvalues, and those with the gradient's amplitudes."""
    logits, labels = examples(n, c, sigma, seed)
    model = rl.LandscapeModel(n, c, d, logits=rl.GivenLogits(logits, labels), gradients=law)
    t, a = dense_t(logits, labels, law.mean_lengths(c), law.residual_length, law.class_length, cross_terms)
    t = np.where(t > 1e-14 * t[-1], t, 0)
    return model.theory(cross_terms=cross_terms), rl.GeneralizedMarchenkoPastur(t / d, d), t, a


class Frozen(Exception):
    """All examples are: the oracle's diag(p) - p p^T has no digits left."""


def check(n, c, d, sigma, law, seed=0, cross_terms=True):
    theory, law_of_t, t, _ = pair(n, c, d, sigma, law, seed, cross_terms)
    if t[-1] < 1e-6:
        raise Frozen
    top = law_of_t.support[-1, 1]
    x = np.concatenate([np.linspace(0.013, 1.07, 23) * top, np.geomspace(1e-3, 0.1, 5) * top, [-1.0, 0.0]])
    density = theory.pdf(x)
    expected = np.where(x > 0, law_of_t.pdf(x), 0)
    np.testing.assert_allclose(density, expected, rtol=1e-6, atol=1e-8 * expected.max())
    # Near an edge Im u, and with it the count, is known to the root of the rounding only.
    inside = [x for x in x[:23] if np.abs(law_of_t.support - x).min() > 1e-4 * x]
    counts = [theory.count_above(x) for x in inside]
    np.testing.assert_allclose(counts, d * law_of_t.sf(np.array(inside)), rtol=1e-7, atol=1e-6)
    above = np.arange(c - 1, 0, -1) - 0.5
    there = above < d
    np.testing.assert_allclose(theory.outliers()[there], law_of_t.isf(above[there] / d), rtol=1e-8, atol=1e-8 * top)


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("sigma", [0.1, 3.0, 15.0])
def test_against_the_general_law_of_the_dense_matrix(sigma, law, cross_terms):
    for d in (30, 600):
        check(40, 4, d, sigma, law, 1, cross_terms)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(2, 5),
    st.integers(1, 300),
    st.sampled_from([0.0, 0.5, 4.0, 40.0]),
    st.floats(0, 3),
    st.floats(0.01, 3),
    st.sampled_from([0.0, 0.6]),
    st.integers(0, 99),
)
def test_any_parameters(n, c, d, sigma, mean, residual, of_class, seed):
    try:
        check(n, c, d, sigma, rl.ClusteredGradients(mean, residual, of_class), seed)
    except Frozen:
        reject()


@pytest.mark.parametrize("law", LAWS[:3])
def test_search_by_brackets_says_the_same(monkeypatch, law):
    # What Newton's method does not prove goes along the curve by brackets.
    theory, law_of_t, _, _ = pair(20, 3, 60, 1.0, dataclasses.replace(law, relative_lengths=None))
    monkeypatch.setattr(Solver, "_newton", lambda self, u, x: None)
    x = np.linspace(0.2, 1.1, 4) * law_of_t.support[-1, 1]
    np.testing.assert_allclose(theory.pdf(x), law_of_t.pdf(x), rtol=1e-5, atol=1e-7 * law_of_t.pdf(x).max())
    solver = theory._solver
    monkeypatch.setattr("rmtland.laws.solver.ITERATIONS", 0)
    assert solver.quantiles(np.array([1.5]))[0] == pytest.approx(law_of_t.isf(1.5 / 60), rel=1e-8)


def test_large_problems_take_slopes_from_differences(monkeypatch):
    theory, law_of_t, _, _ = pair(40, 4, 100, 1.0, LAWS[0])
    monkeypatch.setattr("rmtland.laws.solver.LARGE", 0.0)
    x = np.linspace(0.02, 1.05, 30) * law_of_t.support[-1, 1]
    np.testing.assert_allclose(theory.pdf(x), law_of_t.pdf(x), rtol=1e-6, atol=1e-8 * law_of_t.pdf(x).max())
    np.testing.assert_allclose(theory.outliers(), law_of_t.isf(np.array([2.5, 1.5, 0.5]) / 100), rtol=1e-9)


@pytest.mark.parametrize("law", LAWS[:3])
@pytest.mark.parametrize("sigma", [0.1, 3.0, 15.0])
def test_gradient_power_is_the_mass_of_its_density(sigma, law):
    theory, law_of_t, t, a = pair(40, 4, 500, sigma, law)
    # By the definition, on the general law's own solutions, by quadrature between the edges.
    for count in (1, 3, 4, 9):
        low = float(law_of_t.isf(count / 500))
        grid = []
        for left, right in law_of_t.support:
            if right > low * (1 + 1e-6):
                left = max(left, low)
                nodes, weights = np.polynomial.legendre.leggauss(400)
                angle = np.pi / 4 * (1 + nodes)
                # x = left + (right - left) sin^2: the square roots at both edges go.
                grid.append(
                    (
                        left + (right - left) * np.sin(angle) ** 2,
                        weights * np.sin(2 * angle) * (right - left) * np.pi / 4,
                    )
                )
        x, w = (np.concatenate(part) for part in zip(*grid, strict=True))
        m = law_of_t.stieltjes(x + 0j)
        mass = np.sum(w * np.imag(m[:, None] * a**2 / (1 + m[:, None] * t)).sum(axis=1)) / np.pi / np.sum(a**2)
        assert theory.gradient_power(count) == pytest.approx(mass, abs=2e-5)
        # Not within rounding of an edge, where Im u is known to the root of it only.
        inner = np.arange(x.size).reshape(-1, 400)[:, 60:340:70].ravel()
        expected = np.imag(m[:, None] * a**2 / (1 + m[:, None] * t)).sum(axis=1)[inner] / np.pi / np.sum(a**2)
        np.testing.assert_allclose(theory.gradient_pdf(x[inner]), expected, rtol=1e-6, atol=1e-7 * expected.max())
    assert theory.gradient_power(0) == 0
    assert theory.gradient_power(500) == 1


def test_exact_moments_and_the_hyperplane():
    theory, law_of_t, t, _ = pair(30, 4, 80, 3.0, LAWS[1])
    d, t = 80, t / 80
    assert theory.trace == pytest.approx(d * t.sum(), rel=1e-12)
    assert theory.trace == pytest.approx(d * law_of_t.mean(), rel=1e-10)
    assert theory.frobenius**2 == pytest.approx(d * t.sum() ** 2 + d * (d + 1) * np.sum(t**2), rel=1e-12)
    assert theory.goldilocks_ratio() == pytest.approx(theory.trace / theory.frobenius, rel=1e-12)
    assert theory.goldilocks_ratio(10) == pytest.approx(
        10 * t.sum() / math.sqrt(10 * t.sum() ** 2 + 110 * np.sum(t**2)), rel=1e-12
    )
    traces, unit = power_traces_of(theory.equation)
    np.testing.assert_allclose(traces, [np.sum((80 * t / unit) ** k) for k in (1, 2, 3, 4)], rtol=1e-9)


def test_covariance_of_trace_and_square():
    t, d = np.array([1.0, 0.5, 0.5, 0.2, 2.0]), 4
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60_000, 5, d))
    gram = np.sqrt(np.outer(t, t)) * (x @ x.transpose(0, 2, 1))
    traces, squares = np.einsum("nii->n", gram), np.sum(gram**2, axis=(1, 2))
    first, mixed, second = covariance_of_powers(np.array([np.sum(t**k) for k in (1, 2, 3, 4)]), d)
    a, b = traces - d * t.sum(), squares - (d * t.sum() ** 2 + d * (d + 1) * np.sum(t**2))
    batches = [np.array([a * a, a * b, b * b]).reshape(3, 200, -1).mean(axis=2).T][0]
    assert_mean(batches, [first, mixed, second], detect=0.3 * np.array([first, mixed, second]))
    with pytest.raises(AssertionError, match="against"):
        assert_mean(batches[:, 0], 1.3 * first, detect=0.3 * first)


def drawn(model, seeds):
    """Outliers, power in the top C - 1, trace and ratio of draws."""
    c = model.num_classes
    spectra = [rl.gauss_newton_spectrum(model.sample(seed)) for seed in range(seeds)]
    return (
        np.array([s.outliers(c - 1) for s in spectra]),
        np.array([s.gradient_power(c - 1) for s in spectra]),
        np.array([s.trace for s in spectra]),
        np.array([s.goldilocks_ratio() for s in spectra]),
    )


@pytest.mark.parametrize(
    ("n", "c", "d", "seeds"), [(60, 4, 300, 60), pytest.param(300, 10, 1000, 40, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("sigma", "snr"), [(1.0, 2.0), (15.0, 10.0)])
def test_against_draws(n, c, d, seeds, sigma, snr):
    logits, labels = rl.GaussianLogits(sigma).draw_logits(n, c, np.random.default_rng(1))
    law = rl.ClusteredGradients(1.0, 1 / math.sqrt(snr))
    model = rl.LandscapeModel(n, c, d, logits=rl.GivenLogits(logits, labels), gradients=law)
    theory = model.theory()
    outliers, powers, traces, ratios = drawn(model, seeds)
    mean = theory.outliers()
    large = n == 300
    # Finite size: 2% at the paper's sizes, a few percent at a fifth of them.
    bias = (0.02 if large else 0.06) * mean
    assert_mean(outliers, mean, bias=bias, detect=0.3 * mean)
    assert_mean(outliers.mean(axis=1), mean.mean(), bias=0.005 * mean.mean(), detect=0.1 * mean.mean())
    assert_mean(powers, theory.gradient_power(c - 1), bias=0.003, detect=0.08)
    assert_mean(traces, theory.trace, detect=0.15 * theory.trace)
    assert_mean(ratios, theory.goldilocks_ratio(), bias=0.005 * ratios.mean(), detect=0.1 * ratios.mean())
    # Mutants: labels of others (the gradient's sign turned is another |p - y|), D and N swapped.
    other = dataclasses.replace(model, logits=rl.GivenLogits(logits, (labels + 1) % c)).theory()
    swapped = dataclasses.replace(model, num_parameters=n).theory()
    with pytest.raises(AssertionError, match="against"):
        assert_mean(powers, other.gradient_power(c - 1), bias=0.003, detect=0.08)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(ratios, swapped.goldilocks_ratio(), bias=0.005 * ratios.mean(), detect=0.1 * ratios.mean())


def test_cross_terms_lift_the_outliers():
    model = rl.LandscapeModel.fort_ganguli(60, 4, 300, sigma_z=15.0)
    with_them, without = model.theory(0), model.theory(0, cross_terms=False)
    assert np.all(without.outliers() < 0.99 * with_them.outliers())
    draws = []
    logits, labels = model.logits.draw_logits(60, 4, np.random.default_rng(0))
    for seed in range(60):
        draw = dataclasses.replace(model, logits=rl.GivenLogits(logits, labels)).sample(seed)
        draws.append([np.linalg.eigvalsh(draw.hessian(cross))[-3:].mean() for cross in (True, False)])
    expected = np.array([with_them.outliers().mean(), without.outliers().mean()])
    assert_mean(draws, expected, bias=0.01 * expected, detect=0.15 * expected)
    # Drawn with one set of normals for both, the difference is sharper than either.
    change = np.diff(draws, axis=1)[:, 0]
    assert_mean(change, np.diff(expected)[0], bias=0.1 * np.abs(np.diff(expected)[0]), detect=0.002)
    with pytest.raises(AssertionError, match="against"):
        assert_mean(change, 0.0, bias=0.1 * np.abs(np.diff(expected)[0]), detect=0.002)
    assert with_them.trace == pytest.approx(without.trace)


def test_transition():
    model = rl.LandscapeModel.fort_ganguli(100, 4, 200, sigma_z=3.0)
    transition = model.theory(0).transition_snr()
    assert np.all(np.diff(transition) > 0)
    # A little above each, the general law of the dense T has as many atoms beyond the edge; a little below, one less.
    logits, labels = model.logits.draw_logits(100, 4, np.random.default_rng(0))
    for j, snr in enumerate(transition):
        for factor, outside in ((0.98, j), (1.02, j + 1)):
            law = rl.ClusteredGradients(1.0, 1 / math.sqrt(factor * snr))
            theory = dataclasses.replace(model, gradients=law).theory(0)
            t = dense_t(logits, labels, np.ones(4), law.residual_length, 0.0)[0]
            u = theory._edge[0]
            assert np.sum(t > u) == outside
    # The model's own lengths do not matter: they are what the SNR would be.
    other = rl.LandscapeModel.fort_ganguli(100, 4, 200, sigma_z=3.0, mean_length=3.0, residual_length=0.2)
    np.testing.assert_allclose(other.theory(0).transition_snr(), transition, rtol=1e-6)
    assert dataclasses.replace(model, num_parameters=20_000).theory(0).transition_snr()[-1] < transition[-1]


def test_limits():
    # Without residuals: rank C - 1, all gradient in it. Without means: no spikes, and no outliers above the edge.
    pure = rl.LandscapeModel.fort_ganguli(50, 4, 100, residual_length=0.0).theory(0)
    assert pure.atom == pytest.approx(0.97)
    assert pure.bulk_edge == 0
    assert pure.gradient_power(3) == pytest.approx(1)
    assert (pure.quantiles([2.99, 3.0, 3.01]) > 0).tolist() == [True, False, False]
    np.testing.assert_array_equal(pure.transition_snr() > 0, True)
    bulk = rl.LandscapeModel.fort_ganguli(50, 4, 100, mean_length=0.0).theory(0)
    assert bulk.outliers()[-1] < bulk.bulk_edge
    assert np.all(bulk.outliers_std() > 0)
    # Fewer parameters than outliers: what is beyond the rank is 0.
    tiny = rl.LandscapeModel.fort_ganguli(20, 6, 2).theory(0)
    np.testing.assert_array_equal(tiny.outliers()[:3], 0)
    assert np.all(tiny.outliers()[3:] > 0)
    # p = y in every digit: there is no gradient to confine.
    logits = 1e4 * np.eye(3)[[0, 1, 2, 0]]
    logits[3] = 0.0
    sure = rl.LandscapeModel(3, 3, 10, logits=rl.GivenLogits(logits[:3], np.arange(3)))
    with pytest.raises(ValueError, match="`logits` must leave some curvature"):
        sure.theory()


def test_band_and_population():
    model = rl.LandscapeModel.fort_ganguli(60, 4, 300, sigma_z=3.0)
    band = model.theory_band(4, rng=0)
    np.testing.assert_array_equal(model.theory_band(3, rng=0).theories[2].outliers(), band.theories[2].outliers())
    values = [theory.trace for theory in band.theories]
    assert band.trace.mean == pytest.approx(np.mean(values))
    assert band.trace.std == pytest.approx(np.std(values, ddof=1))
    assert band.outliers().mean.shape == band.transition_snr().mean.shape == (3,)
    spreads = {
        "frobenius": (band.frobenius, lambda theory: theory.frobenius),
        "bulk_edge": (band.bulk_edge, lambda theory: theory.bulk_edge),
        "outliers": (band.outliers(), lambda theory: theory.outliers()),
        "transition_snr": (band.transition_snr(), lambda theory: theory.transition_snr()),
        "gradient_power": (band.gradient_power(3), lambda theory: theory.gradient_power(3)),
        "goldilocks_ratio": (band.goldilocks_ratio(5), lambda theory: theory.goldilocks_ratio(5)),
        "pdf": (band.pdf([0.01, 0.1]), lambda theory: theory.pdf([0.01, 0.1])),
        "gradient_pdf": (band.gradient_pdf([0.01, 0.1]), lambda theory: theory.gradient_pdf([0.01, 0.1])),
    }
    for name, (spread, quantity) in spreads.items():
        values = [np.asarray(quantity(theory)).tolist() for theory in band.theories]
        columns = np.reshape(values, (4, -1)).T.tolist()
        np.testing.assert_allclose(np.ravel(spread.mean), [statistics.mean(x) for x in columns], 1e-12, 0, err_msg=name)
        np.testing.assert_allclose(np.ravel(spread.std), [statistics.stdev(x) for x in columns], 1e-8, 0, err_msg=name)
    # Variances add up: that of the means over logits, and the mean of those given the logits.
    total = band.total(rl.LandscapeTheory.outliers, rl.LandscapeTheory.outliers_std)
    given_logits = np.mean([theory.outliers_std() ** 2 for theory in band.theories], axis=0)
    np.testing.assert_allclose(total.std**2, band.outliers().std ** 2 + given_logits, rtol=1e-12)
    np.testing.assert_array_equal(total.mean, band.outliers().mean)
    assert band.theories[0].gradient_power_std(3) > 0
    assert abs(band.theories[0].first_order().error) < 0.2


@pytest.mark.parametrize("sigma_H", [0.0, 0.02, 0.5])
def test_first_order_by_hand(sigma_H):
    """Means at right angles and their curvature, what residuals and class gradients add, and an H-term's share."""
    logits = np.random.default_rng(4).normal(size=(30, 4))
    given = rl.GivenLogits(logits, np.arange(30) % 4)
    law = rl.ClusteredGradients(1.0, 0.7, 0.6, (0.7, 2.0, 0.5, 3.0))
    theory = rl.LandscapeModel(30, 4, 50, given, law, sigma_H=sigma_H).theory()
    curvature = np.mean([oracles.curvature(z) for z in logits], axis=0)
    mean = float(np.diag(curvature) @ law.mean_lengths(4) ** 2) / 3
    expected = mean + (0.7**2 + 0.6**2) * float(np.trace(curvature)) / 50 + sigma_H * min(sigma_H / mean, 1.0)
    found = theory.first_order()
    assert found.mean_outlier == pytest.approx(expected, rel=1e-12)
    assert found.error == pytest.approx(expected / theory.outliers().mean() - 1, rel=1e-9)


@pytest.mark.parametrize("law", [LAWS[0], LAWS[3], rl.ClusteredGradients(1.0, 0.5, 0.0, (1.0, 2.0, 0.5, 1.0))])
def test_the_population_is_the_limit_of_many_examples(law):
    sigma, few, many = 2.0, 50, 6000
    model = rl.LandscapeModel(many, 4, 400, rl.GaussianLogits(sigma), law)
    population, given_logits = model.population_theory(sample_size=60_000), model.theory(0)
    np.testing.assert_allclose(population.outliers(), given_logits.outliers(), rtol=0.04)
    assert population.trace == pytest.approx(given_logits.trace, rel=0.02)
    assert population.goldilocks_ratio() == pytest.approx(given_logits.goldilocks_ratio(), rel=0.01)
    assert population.bulk_edge == pytest.approx(given_logits.bulk_edge, rel=0.02)
    if law.residual_length > 0 and law.relative_lengths is None:
        assert population.transition_snr() == pytest.approx(given_logits.transition_snr().mean(), rel=0.05)
        exact = rl.RandomEnergyModel(4, sigma).pair() * 12
        expected = (law.mean_length**2 + law.residual_length**2) * exact
        assert population.trace == pytest.approx(expected, rel=0.02)
    small = rl.LandscapeModel(few, 4, 400, rl.GaussianLogits(sigma), law)
    assert 0 < small.population_theory(sample_size=2000).gradient_power(3) <= 1


SMALL = rl.LandscapeModel.fort_ganguli(10, 3, 20, sigma_z=1.0)


@pytest.mark.parametrize(
    "lengths", [(0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5), (1e3, 1e-27, 0.0), (1e-70, 0.0)]
)
def test_lengths_that_a_theory_takes(lengths):
    law = rl.ClusteredGradients(*lengths)
    assert checked_lengths(dataclasses.replace(SMALL, gradients=law)) is law


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((1e3, 0.99e-27, 0.0), "`residual_length` of 0 or >= 1e-30 times the longest"),
        ((0.0, 1e-4, 1e27), "`residual_length` of 0 or >= 1e-30 times the longest"),
        ((0.99e-70, 0.0, 0.0), "must have a length >= 1e-70"),
        ((0.0, 0.0, 0.99e-70), "must have a length >= 1e-70"),
        ((0.0, 0.0, 0.0), "must have a positive length; got zero for all"),
    ],
)
def test_lengths_that_no_theory_takes(lengths, message):
    model = dataclasses.replace(SMALL, gradients=rl.ClusteredGradients(*lengths))
    with pytest.raises(ValueError, match=message):
        checked_lengths(model)
    if any(lengths):  # an H-term sets the scale
        assert checked_lengths(dataclasses.replace(model, sigma_H=1.0)) is model.gradients


class Other:
    def draw_gradients(self, labels, num_classes, num_parameters, rng):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SMALL.theory("seed"), TypeError, "`rng` must be something"),
        (lambda: SMALL.theory(0).pdf([np.nan]), ValueError, "`x` must be finite"),
        (lambda: SMALL.theory(0).count_above(-1.0), ValueError, "`x` must be >= 0; got -1.0"),
        (lambda: SMALL.theory(0).quantiles([0.0]), ValueError, "`above` must be > 0 and <= D = 20"),
        (lambda: SMALL.theory(0).gradient_power(21), ValueError, "`num_directions` must be >= 0 and <= 20; got 21"),
        (lambda: SMALL.theory(0).goldilocks_ratio(0), ValueError, "`dimension` must be >= 1 and <= 20; got 0"),
        (lambda: SMALL.theory_band(1), ValueError, "`num_draws` must be >= 2; got 1"),
        (lambda: SMALL.population_theory(sample_size=1), ValueError, "`sample_size` must be >= 2"),
        (
            lambda: dataclasses.replace(SMALL, gradients=Other()).theory(),
            TypeError,
            "`gradients` must be ClusteredGradients for the theory; got",
        ),
        (
            lambda: dataclasses.replace(SMALL, gradients=rl.ClusteredGradients(0.0, 0.0)).theory(),
            ValueError,
            "`gradients` must have a positive length; got zero for all",
        ),
        (
            lambda: dataclasses.replace(SMALL, gradients=rl.ClusteredGradients(1e-76, 7e-77)).theory(),
            ValueError,
            "`gradients` must have a length >= 1e-70",
        ),
        (
            lambda: dataclasses.replace(SMALL, gradients=rl.ClusteredGradients(1, 1e-40)).theory(),
            ValueError,
            "`gradients` must have a `residual_length` of 0 or >= 1e-30 times the longest",
        ),
        (
            lambda: dataclasses.replace(SMALL, gradients=rl.ClusteredGradients(1, 1, 1)).theory(0).transition_snr(),
            ValueError,
            "`class_length` must be 0 for a transition",
        ),
        (
            lambda: rl.LandscapeModel(
                2, 2, 5, logits=rl.GivenLogits(np.zeros((2, 2)), np.zeros(2, int))
            ).population_theory(),
            ValueError,
            "`logits` must be a law to take expectations over; got GivenLogits",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_is_frozen_is_what_is_not_in_a_smaller_unit():
    """Margins of 20 and of 380, where squares of probabilities off the top underflow; predictions scale with them."""
    theories = []
    for margin in (20.0, 380.0):
        law = rl.UnfrozenLogits(1.0, margin, 0.5)
        model = rl.LandscapeModel(12, 3, 60, law, rl.ClusteredGradients(1.0, 0.7))
        theories.append([model.theory(rng=0), model.population_theory(rng=0, sample_size=30)])
    for plain, frozen in zip(*theories, strict=True):
        assert plain.examples.unit == 1.0
        for quantity in ("trace", "frobenius", "bulk_edge"):
            share = getattr(frozen, quantity) / getattr(plain, quantity)
            assert share == pytest.approx(math.exp(-360.0), rel=1e-6, abs=0.0)
        np.testing.assert_allclose(frozen.outliers(), math.exp(-360.0) * plain.outliers(), rtol=1e-6)
        assert frozen.goldilocks_ratio() == pytest.approx(plain.goldilocks_ratio(), rel=1e-6)
        assert frozen.gradient_power(2) == pytest.approx(plain.gradient_power(2), rel=1e-5)
        np.testing.assert_allclose(frozen.transition_snr(), plain.transition_snr(), rtol=1e-6)


def test_beside_an_h_term_what_is_frozen_is_nothing():
    """Its own unit would put the H-term out of float64; the gradient, whose square underflows, is nowhere."""
    law = rl.UnfrozenLogits(1.0, 380.0, 0.5)
    model = rl.LandscapeModel(12, 3, 60, law, rl.ClusteredGradients(1.0, 0.7), sigma_H=0.5)
    for theory in (model.theory(rng=0), model.population_theory(rng=0, sample_size=30)):
        assert theory.bulk_edge == pytest.approx(1.0, rel=1e-9)
        assert theory.pdf(0.0) == pytest.approx(1 / (0.5 * math.pi), rel=1e-9)
        assert theory.frobenius == pytest.approx(0.5 * 61**0.5, rel=0.02)
        assert np.isnan(theory.gradient_pdf([0.0, 0.5])).all()
        assert math.isnan(theory.gradient_power(2))
        assert math.isnan(theory.gradient_power_std(2))


def test_counts_fall_from_the_rank_to_none():
    theory = rl.LandscapeModel.fort_ganguli(8, 3, 30, sigma_z=1.0).theory(rng=0)
    assert theory.outliers()[-1] < 0.9
    assert [theory.count_above(x) for x in (0.0, 1.0, 2.0)] == pytest.approx([16.0, 0.0, 0.0], abs=1e-9)
    assert theory.atom == pytest.approx(14 / 30)
    with pytest.raises(ValueError, match="`x` must be >= 0"):
        theory.count_above(-0.1)


def test_powers_are_the_same_whatever_was_asked_before():
    law = rl.ClusteredGradients(1.0, 0.05, 0.0, (3.0, 2.0, 0.5, 1.0))
    model = rl.LandscapeModel(10, 4, 200, rl.GaussianLogits(1.0), law)
    alone = {count: model.theory(rng=0).gradient_power(count) for count in (1, 2, 3)}
    for order in itertools.permutations(alone):
        theory = model.theory(rng=0)
        for count in order:
            assert theory.gradient_power(count) == pytest.approx(alone[count], rel=1e-7)


def test_lengths_where_no_logit_has_curvature():
    """Of a class whose probability underflows; with the least of another class there is some."""
    given = rl.GivenLogits(np.array([[0.0, 1.0, -800.0], [1.0, 0.0, -900.0]]), np.array([0, 1]))
    for lengths, some in (((0.0, 0.0, 1.0), False), ((1e-3, 0.0, 1.0), True)):
        law = rl.ClusteredGradients(1.0, 0.0, 0.0, lengths)
        model = rl.LandscapeModel(2, 3, 10, given, law)
        for sigma_H in (0.0, 0.5):
            here = dataclasses.replace(model, sigma_H=sigma_H)
            if some:
                assert here.theory().trace == pytest.approx(1e-6 * oracles.curvature(np.array([0.0, 1.0]))[0, 0])
            else:
                with pytest.raises(ValueError, match="positive length where the logits have curvature"):
                    here.theory()


def test_lengths_whose_curvature_underflows_beside_an_h_term():
    """Of frozen examples, in the H-term's unit: longer ones have some."""
    given = rl.GivenLogits(np.array([[600.0, 0.0], [0.0, 610.0]]), np.array([0, 1]))
    for length, some in ((1e-38, False), (1.0, True)):
        model = rl.LandscapeModel(2, 2, 10, given, rl.ClusteredGradients(0.0, length), sigma_H=0.5)
        if some:
            assert model.theory().bulk_edge == pytest.approx(1.0)
        else:
            with pytest.raises(ValueError, match="positive length where the logits have curvature"):
                model.theory()
