"""The random energy model against mpmath, the logistic-normal integral for two states, and draws."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland.laws import random_energy
from tests.statistical import assert_mean

CORNERS = [(states, sigma) for states in (2, 10, 1000, 10**6) for sigma in (1e-3, 1.0, 1.0001, 4.0, 15.0, 1e3)]


def two_states(sigma, function):
    """E function(p) of two states by one integral over the difference of their logits, d = sigma sqrt(2) x, x > 0.

    `function` takes the smaller probability q and symmetric moments are functions of it.
    """
    with mpmath.workdps(30):
        scale = mpmath.mpf(sigma) * mpmath.sqrt(2)
        cuts = sorted(
            {mpmath.mpf(0), *(c / scale for c in (1, 3, 10, 30, 60)), *map(mpmath.mpf, (0.5, 1, 2, 4, 8, 13))}
        )
        cuts = [c for c in cuts if c <= 13]
        return mpmath.quad(lambda x: 2 * mpmath.npdf(x) * function(1 / (1 + mpmath.exp(scale * x))), cuts)


@pytest.mark.parametrize("sigma", [1e-3, 0.05, 1.0, 3.0, 100.0, 1e3])
def test_two_states(sigma):
    model = rl.RandomEnergyModel(2, sigma)
    assert model.pair() == pytest.approx(float(two_states(sigma, lambda q: q * (1 - q))), rel=1e-13)
    assert model.max_probability() == pytest.approx(float(two_states(sigma, lambda q: 1 - q)), rel=1e-14)
    entropy = float(two_states(sigma, lambda q: -q * mpmath.log(q) - (1 - q) * mpmath.log1p(-q)))
    assert model.entropy() == pytest.approx(entropy, rel=1e-13, abs=5e-15)
    # What is small, in relative terms: excess participation at small sigma, its lack at large.
    small = float(two_states(sigma, lambda q: (1 - 2 * q) ** 2 / 2))
    assert model.participation() == pytest.approx(0.5 + small, rel=1e-14)
    assert model.participation() - 0.5 == pytest.approx(small, rel=1e-9)


@pytest.mark.parametrize(("states", "sigma"), [(5, 1.0), (40, 2.5), (7, 30.0), (1000, 10.0), (10**6, 4.0)])
def test_transforms_by_dense_sums(states, sigma):
    # The same expectations with nothing clever: 5600 points of z at each of some hundred t.
    x = np.arange(-14, 14, 0.005)
    weight = np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * 0.005
    step = 0.1 * max(1, sigma / 4)
    participation = entropy = 0.0
    for tau in np.arange(-60 - 8 * sigma, 8 + 8 * sigma, step):
        y = tau + sigma * x
        grown = np.exp(np.minimum(y, 300))
        first = weight * grown * np.exp(-grown)
        rest = np.sum(weight * -np.expm1(-grown))
        if rest < 1:
            others = states * step * np.exp((states - 1) * np.log1p(-rest))
            participation += np.sum(first * np.minimum(grown, 1e3)) * others
            entropy -= np.sum(first * (np.euler_gamma + y)) * others
    model = rl.RandomEnergyModel(states, sigma)
    assert model.participation() == pytest.approx(participation, rel=1e-11)
    assert model.entropy() == pytest.approx(entropy, rel=1e-11)


def test_transforms_by_mpmath():
    states, sigma = 5, 1.0

    def phi(k, tau):
        def integrand(x):
            y = tau + sigma * x
            return mpmath.npdf(x) * mpmath.exp(k * y - mpmath.exp(y))

        return mpmath.quad(integrand, [-10, -3, 3, 10], maxdegree=5)

    with mpmath.workdps(15):
        grid = np.arange(-18, 8, 0.5)
        expected = states * 0.5 * sum(phi(2, tau) * phi(0, tau) ** (states - 1) for tau in grid)
    assert rl.RandomEnergyModel(states, sigma).participation() == pytest.approx(float(expected), rel=1e-8)


def test_published_values():
    assert rl.RandomEnergyModel(10, 15.0).participation() == pytest.approx(0.8978167, abs=5e-8)
    assert rl.RandomEnergyModel(10, 1.0).participation() == pytest.approx(0.1946874, abs=5e-8)
    assert rl.RandomEnergyModel(1000, 10.0).participation() == pytest.approx(0.679483, abs=5e-7)


@pytest.mark.parametrize(("states", "sigma"), CORNERS)
def test_probabilities_add_up(states, sigma):
    model = rl.RandomEnergyModel(states, sigma)
    together = states * (model.participation() / states) + states * (states - 1) * model.pair()
    assert together == pytest.approx(1, abs=1e-12)
    assert 1 / states < model.participation() < 1
    assert model.participation() < model.max_probability() < 1
    assert 0 < model.entropy() < math.log(states)
    # Jensen: entropy >= Renyi-2 entropy of the mean, and max p >= participation >= (max p)^2.
    assert model.entropy() >= -math.log(model.participation()) - 1e-12
    assert model.participation() >= model.max_probability() ** 2


@pytest.mark.parametrize(("states", "sigma"), CORNERS)
def test_a_finer_grid_changes_nothing(monkeypatch, states, sigma):
    coarse = rl.RandomEnergyModel(states, sigma)
    before = coarse.participation(), coarse.pair(), coarse.entropy(), coarse.max_probability()
    monkeypatch.setattr(random_energy, "_STEP", 0.11)
    fine = rl.RandomEnergyModel(states, sigma)
    after = fine.participation(), fine.pair(), fine.entropy(), fine.max_probability()
    np.testing.assert_allclose(before, after, rtol=1e-12)
    # Sensitivity: a grid that is too coarse is seen.
    monkeypatch.setattr(random_energy, "_STEP", 3.0)
    bad = rl.RandomEnergyModel(states, sigma)
    assert abs(bad.participation() + states * (states - 1) * bad.pair() - 1) > 1e-9


@pytest.mark.parametrize("states", [2, 10, 1000, 10**6])
def test_small_sigma(states):
    # p_k = (1 + z_k - mean z + ...) / C: the first two terms of each moment, second order in sigma^2.
    sigma = 1e-3
    model = rl.RandomEnergyModel(states, sigma)
    assert states * model.participation() - 1 == pytest.approx(sigma**2 * (1 - 1 / states), rel=1e-5)
    assert math.log(states) - model.entropy() == pytest.approx(0.5 * sigma**2 * (1 - 1 / states), rel=1e-5)


@pytest.mark.parametrize(("states", "sigma"), [(3, 0.5), (10, 15.0), (10, 1.0), (50, 3.0), (1000, 5.0)])
def test_draws(states, sigma):
    rng = np.random.default_rng(states)
    z = sigma * rng.standard_normal((min(200_000, 4_000_000 // states), states))
    z -= z.max(axis=1, keepdims=True)
    weight = np.exp(z)
    total = weight.sum(axis=1, keepdims=True)
    p = weight / total
    model = rl.RandomEnergyModel(states, sigma)
    rows = np.stack(
        [
            (p**2).sum(axis=1),
            p.max(axis=1),
            np.log(total[:, 0]) - (p * z).sum(axis=1),
            (p * np.roll(p, 1, axis=1)).sum(axis=1) * states,
        ],
        1,
    )
    expected = np.array([model.participation(), model.max_probability(), model.entropy(), model.pair() * states**2])
    detect = np.array([0.05, 0.05, 0.08, 3.0]) * expected * (2 if states > 100 else 1)
    assert_mean(rows, expected, detect=detect)
    # The mutant: freezing at sqrt(ln C) for sqrt(2 ln C), which is sigma times sqrt(2).
    mutant = rl.RandomEnergyModel(states, sigma * 2**0.5).participation()
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(rows[:, 0], mutant, detect=detect[0])


def test_freezing_is_in_sigma_not_its_square():
    model = rl.RandomEnergyModel(1000, 7.0)
    assert model.freezing_sigma == pytest.approx(math.sqrt(2 * math.log(1000)), rel=1e-15)
    assert model.limit.relative_sigma == pytest.approx(7.0 / model.freezing_sigma)
    # As C grows at fixed sigma / freezing_sigma, participation tends to 1 - freezing_sigma / sigma and to 0.
    for ratio in (0.6, 2.0):
        limit = rl.RandomEnergyLimit(ratio)
        errors = []
        for states in (10**2, 10**6, 10**30, 10**100):
            model = rl.RandomEnergyModel(states, ratio * math.sqrt(2 * math.log(states)))
            errors.append(abs(model.participation() - limit.participation()))
            density = model.entropy() / math.log(states)
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.01
        assert density == pytest.approx(limit.entropy_density(), abs=0.02)
    assert model.entropy() == pytest.approx(limit.entropy(), rel=0.03)
    assert model.max_probability() == pytest.approx(limit.max_probability(), rel=0.01)


@pytest.mark.parametrize("ratio", [1.2, 2.0, 6.0])
def test_limit_is_poisson_dirichlet(ratio):
    # PD(m, 0) by size-biased stick breaking: sticks Beta(1 - m, j m); the largest by sorting what was broken off.
    limit, m = rl.RandomEnergyLimit(ratio), 1 / ratio
    rng = np.random.default_rng(2)
    j = np.arange(1, 2001 if ratio < 1.5 else 301)
    sticks = rng.beta(1 - m, j * m, size=(2000, j.size))
    rest = np.cumprod(1 - sticks, axis=1)
    p = sticks * np.concatenate([np.ones((2000, 1)), rest[:, :-1]], axis=1)
    largest, square = p.max(axis=1), (p**2).sum(axis=1)
    assert_mean(square, limit.participation(), bias=1e-4, detect=0.4 * limit.participation())
    assert_mean(largest, limit.max_probability(), bias=1e-4, detect=0.25 * limit.max_probability())
    if ratio > 1.5:
        entropy = -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0), axis=1)
        assert_mean(entropy, limit.entropy(), bias=0.03, detect=0.5)


@pytest.mark.parametrize("ratio", [1.2, 2.0, 6.0])
def test_largest_of_poisson_dirichlet_by_its_transform(ratio):
    # E exp(-s / p_max + s) = 1 / 1F1(-m; 1 - m; -s) (Pitman and Yor 1997), integrated over s.
    m = 1 / mpmath.mpf(ratio)
    expected = mpmath.quad(lambda s: mpmath.exp(-s) / mpmath.hyp1f1(-m, 1 - m, -s), [0, 1, 4, 16, 60])
    assert rl.RandomEnergyLimit(ratio).max_probability() == pytest.approx(float(expected), rel=1e-12)


def test_matrix_of_integrals_is_exact_for_polynomials():
    nodes, matrix = random_energy._NODES, random_energy._right_integration()
    for k in range(16):
        np.testing.assert_allclose(matrix @ nodes**k, 0.5 * (1 - nodes ** (k + 1)) / (k + 1), atol=1e-13)


def test_limit_below_freezing():
    limit = rl.RandomEnergyLimit(0.5)
    assert (limit.participation(), limit.max_probability(), limit.entropy()) == (0.0, 0.0, math.inf)
    assert limit.entropy_density() == 0.75
    assert not limit.is_frozen
    point = rl.RandomEnergyLimit(1.0)
    assert (point.is_frozen, point.participation(), point.max_probability()) == (False, 0.0, 0.0)
    assert (point.entropy(), point.entropy_density()) == (math.inf, 0.0)
    frozen = rl.RandomEnergyLimit(4.0)
    assert frozen.is_frozen
    assert frozen.participation() == 0.75
    assert frozen.entropy_density() == 0
    assert frozen.entropy(base=2) == pytest.approx(frozen.entropy() / math.log(2))


def test_entropy_in_bits():
    model = rl.RandomEnergyModel(8, 1e-6)
    assert model.entropy(base=2) == pytest.approx(3, abs=1e-11)
    assert model.entropy(base=8) == pytest.approx(1, abs=1e-11)


@settings(max_examples=25, deadline=None)
@given(states=st.integers(2, 10**6), log_sigma=st.floats(-4, 7))
def test_matching_inverts_participation(states, log_sigma):
    model = rl.RandomEnergyModel(states, math.exp(log_sigma))
    again = rl.RandomEnergyModel.from_participation(model.participation(), states)
    assert again.num_states == states
    # Near 1/C the participation itself does not hold more digits.
    lost = 1e-14 / (states * model.participation() - 1) + 1e-14 / (1 - model.participation())
    assert again.sigma == pytest.approx(model.sigma, rel=1e-10 + 10 * lost)


def test_matching_takes_few_models(monkeypatch):
    """Where the participation is near 1/C, too, and where near 1."""
    participation, calls = rl.RandomEnergyModel.participation, []
    for states in (2, 10, 1000):
        for sigma in (1e-4, 1e6):
            target = rl.RandomEnergyModel(states, sigma).participation()
            with monkeypatch.context() as patch:
                patch.setattr(rl.RandomEnergyModel, "participation", lambda m: calls.append(m) or participation(m))
                found = rl.RandomEnergyModel.from_participation(target, states)
            assert found.sigma == pytest.approx(sigma, rel=1e-6)
    assert len(calls) <= 140


@settings(max_examples=25, deadline=None)
@given(states=st.integers(2, 10**8), sigma=st.floats(1e-2, 1e3), factor=st.floats(1.01, 2))
def test_monotone_in_sigma(states, sigma, factor):
    low, high = rl.RandomEnergyModel(states, sigma), rl.RandomEnergyModel(states, sigma * factor)
    assert low.participation() < high.participation()
    assert low.max_probability() < high.max_probability()
    assert low.entropy() > high.entropy()


def test_a_million_states():
    """From nearly uniform to frozen, where the limit of many states is near."""
    models = [rl.RandomEnergyModel(10**6, sigma) for sigma in (0.5, 3.0, 50.0)]
    assert models[0].participation() == pytest.approx(math.exp(0.25) / 1e6, rel=1e-3)  # E p^2 of lognormal weights
    assert models[0].entropy() == pytest.approx(math.log(1e6) - 0.125, rel=1e-3)
    limit = models[2].limit
    assert models[2].participation() == pytest.approx(limit.participation(), abs=0.03)
    assert models[2].max_probability() == pytest.approx(limit.max_probability(), abs=0.03)
    for model in models:
        assert 1e-6 < model.participation() <= model.max_probability() < 1


def test_bad_input():
    with pytest.raises(ValueError, match=r"`num_states` must be >= 2 and <= 1000.*; got 1$"):
        rl.RandomEnergyModel(1, 1.0)
    for make in (lambda n: rl.RandomEnergyModel(n, 1.0), lambda n: rl.RandomEnergyModel.from_participation(0.5, n)):
        assert make(10**100).num_states == 10**100
        with pytest.raises(ValueError, match=r"`num_states` must be >= 2 and <= 10{100}; got 10+\.\.\.$"):
            make(10**100 + 1)
    with pytest.raises(TypeError, match=r"`num_states` must be an integer; got 2.5"):
        rl.RandomEnergyModel(2.5, 1.0)
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"`sigma` must be > 0; got"):
            rl.RandomEnergyModel(10, sigma)
    with pytest.raises(ValueError, match=r"`base` must be > 1; got 1"):
        rl.RandomEnergyModel(10, 1.0).entropy(base=1)
    for participation in (0.1, 0.05, 1.0, 2.0, math.nan):
        with pytest.raises(ValueError, match=r"`participation` must be > 0.1 and < 1; got"):
            rl.RandomEnergyModel.from_participation(participation, 10)
    for participation in (np.nextafter(1.0, 0), np.nextafter(0.1, 1)):
        with pytest.raises(
            ValueError, match=r"`participation` must be reached by a sigma between 1e-6 and 1e12 at 10 states"
        ):
            rl.RandomEnergyModel.from_participation(participation, 10)
    for sigma in (5e-6, 5e11):
        model = rl.RandomEnergyModel(10, sigma)
        assert rl.RandomEnergyModel.from_participation(model.participation(), 10).sigma == pytest.approx(
            sigma, rel=1e-2
        )
    with pytest.raises(ValueError, match=r"`relative_sigma` must be > 0; got 0"):
        rl.RandomEnergyLimit(0.0)
    with pytest.raises(ValueError, match=r"`base` must be > 1; got 0.5"):
        rl.RandomEnergyLimit(2.0).entropy(base=0.5)
