"""The theory over all of its domain: frozen probabilities, lengths and H-terms far apart, against dense matrices.

The oracle is the law of the exact eigenvalues of D T, which `graded` finds in extended precision, and draws.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Semicircle, Subordination
from tests.landscape import graded
from tests.landscape.dense_theory import examples

FLOOR = 1e-10
"""Of the largest eigenvalue: what the theory resolves, as its docstring says."""


def theory_and_law(n, c, d, sigma_z, law, sigma_H, cross_terms, seed):
    """The model, its theory, the oracle's law and the unit of that; None where nothing has curvature."""
    logits, labels = examples(n, c, sigma_z, seed)
    model = rl.LandscapeModel(n, c, d, rl.GivenLogits(logits, labels), law, sigma_H)
    t = graded.eigenvalues(logits, labels, law, cross_terms)
    p = np.sort(np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.longdouble)), axis=1)
    if not (p[:, :-1].sum(axis=1) / p.sum(axis=1)).max() > 1e-300:
        with pytest.raises(ValueError, match="must leave some curvature"):
            model.theory(cross_terms=cross_terms)
        return None
    theory = model.theory(cross_terms=cross_terms)
    unit = 1.0 if sigma_H > 0 else float(t[-1])
    scaled = (t / np.longdouble(unit)).astype(np.float64)
    levels = [Atoms(scaled[scaled > 0], np.ones(np.sum(scaled > 0)))]
    if sigma_H > 0:
        levels.append(Semicircle(sigma_H, float(d)))
    return model, theory, Solver(Subordination(tuple(levels), float(d))), unit


def check_sums(model, theory, solver, unit):
    d, (first, second) = model.num_parameters, solver.equation.power_sums
    norm = np.sqrt(first**2 / d + (1 + 1 / d) * second)
    assert theory.trace == pytest.approx(unit * first, rel=1e-9, abs=0)
    assert theory.frobenius == pytest.approx(unit * norm, rel=1e-9, abs=0)
    assert theory.goldilocks_ratio() == pytest.approx(first / norm, rel=1e-9, abs=0)
    assert np.isfinite(theory.goldilocks_ratio_std())


def gaps(solver):
    """Ends of the gaps above the floor, and a point in each."""
    edges = solver.plain.edges
    reach = np.abs(edges).max()
    for low, high in zip(edges[:-1, 1], edges[1:, 0], strict=True):
        if high > FLOOR * reach and high - low > 1e-3 * max(abs(low), abs(high)):
            x = np.sqrt(max(low, FLOOR * high) * high) if low >= 0 else 0.5 * (low + high)
            if x > FLOOR * reach or low < 0:
                yield low, high, x


def check_counts(theory, solver, unit):
    """Quantiles, counts in gaps and bands, densities."""
    edges = solver.plain.edges
    reach = np.abs(edges).max()
    above = np.arange(theory.num_classes - 1, 0, -1) - 0.5
    # Zeros beyond the rank; below the floor that may be one more or one less.
    quantiles = np.append(np.zeros(np.sum(above >= solver.rank)), solver.quantiles(above[above < solver.rank]))
    np.testing.assert_allclose(theory.outliers() / unit, np.sort(quantiles), rtol=1e-6, atol=1e-9 * reach)
    for _, _, x in gaps(solver):
        assert theory.count_above(unit * x) == pytest.approx(solver.counts(np.array([x]))[0][0], abs=1e-6)
    counts = np.append(0.5, np.linspace(0.1, 0.9, 5) * solver.rank)
    x = solver.quantiles(counts)
    width = np.array([np.min((edges[:, 1] - edges[:, 0])[(edges[:, 0] <= at) & (at <= edges[:, 1])]) for at in x])
    near = np.abs(edges[None] - x[:, None, None]).min(axis=(1, 2))
    # Where Im u is no rounding.
    some = (np.abs(x) > FLOOR * reach) & (near > 1e-4 * np.minimum(width, np.abs(x))) & (width > 1e-6 * np.abs(x))
    x = x[some]
    np.testing.assert_allclose([theory.count_above(unit * at) for at in x], counts[some], rtol=1e-5, atol=1e-5)
    density = np.abs((-1 / solver.solve(x)).imag) / np.pi
    np.testing.assert_allclose(theory.pdf(unit * x) * unit, density, rtol=1e-4)


def check_draw(model, theory, solver, unit, cross_terms):
    """Wide gaps of the law are gaps of a draw, with as many eigenvalues above."""
    values = None
    for low, high, x in gaps(solver):
        if high > 1e5 * abs(low):
            if values is None:
                values = np.linalg.eigvalsh(model.sample(1).hessian(cross_terms))
            assert np.sum(values > unit * x) == pytest.approx(theory.count_above(unit * x), abs=1e-6)


def check_rest(model, theory, deviations):
    count = min(theory.num_classes - 1, model.num_parameters)
    power = theory.gradient_power(count)
    assert np.isnan(power) or 0 <= power <= 1
    assert theory.bulk_edge >= 2 * model.sigma_H * (1 - 1e-9)
    assert np.isfinite(theory.first_order().mean_outlier)
    if deviations:
        assert np.isfinite(theory.outliers_std()).all()
        assert np.isnan(power) or np.isfinite(theory.gradient_power_std(count))
    if model.gradients.class_length == 0:
        swallowed = theory.transition_sigma_H()
        assert (np.diff(swallowed) >= -1e-9 * swallowed.max()).all()
        if model.sigma_H == 0 or model.gradients.residual_length > 0:
            assert (theory.transition_snr() > 0).all()


def check(case, deviations=False):
    found = theory_and_law(*case)
    if found is None:
        return
    model, theory, solver, unit = found
    check_sums(*found)
    check_counts(theory, solver, unit)
    if model.num_parameters <= 50:
        check_draw(*found, case[-2])
    check_rest(model, theory, deviations)


@st.composite
def cases(draw):
    """N, C, D, sigma_z, the gradient law, sigma_H, cross terms and a seed."""
    lengths = st.sampled_from([0.0, 1e-3, 0.05, 0.7, 1.0, 1e3, 1e6])
    mean, residual = draw(lengths), draw(lengths)
    of_class = draw(lengths) if draw(st.booleans()) else 0.0
    num_classes = draw(st.integers(2, 6))
    if max(mean, residual, of_class) == 0:
        mean = 1.0
    relative = draw(st.none() | st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=num_classes, max_size=num_classes))
    return (
        draw(st.integers(2, 8)),
        num_classes,
        draw(st.sampled_from([1, 2, 3, 5, 8, 50, 1000, 10**6])),
        draw(st.sampled_from([0.0, 0.3, 3.0, 30.0, 84.0, 100.0, 300.0, 1000.0, 1e4])),
        rl.ClusteredGradients(mean, residual, of_class, relative),
        draw(st.sampled_from([0.0, 0.0, 1e-3, 0.1, 10.0, 1e6])),
        draw(st.booleans()),
        draw(st.integers(0, 999)),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_sums_are_exact_anywhere(case):
    found = theory_and_law(*case)
    if found is not None:
        check_sums(*found)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(cases())
def test_counts_quantiles_and_densities_anywhere(case):
    check(case)


def uniform_case(seed):
    """The same with every value as likely as any other."""
    rng = np.random.default_rng(seed)
    lengths = [0.0, 1e-3, 0.05, 0.7, 1.0, 1e3, 1e6]
    mean, residual, of_class = rng.choice(lengths, 3) * [1, 1, rng.integers(2)]
    num_classes = int(rng.integers(2, 7))
    relative = rng.choice([0.5, 1.0, 3.0], num_classes).tolist() if rng.integers(2) else None
    return (
        int(rng.integers(2, 9)),
        num_classes,
        int(rng.choice([1, 2, 3, 5, 8, 50, 1000, 10**6])),
        float(rng.choice([0.0, 0.3, 3.0, 30.0, 84.0, 100.0, 300.0, 1000.0, 1e4])),
        rl.ClusteredGradients(mean if max(mean, residual, of_class) > 0 else 1.0, residual, of_class, relative),
        float(rng.choice([0.0, 0.0, 1e-3, 0.1, 10.0, 1e6])),
        bool(rng.integers(2)),
        seed,
    )


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(30), range(30, 60)])
def test_counts_quantiles_densities_and_fluctuations_anywhere_at_length(seeds):
    for seed in seeds:
        check(uniform_case(seed), deviations=True)


HARD = [
    # Residuals below all that rounding of the means leaves.
    (4, 4, 8, 100.0, rl.ClusteredGradients(1e6, 1e-3, 1.0, (0.5, 1.0, 0.5, 3.0)), 0.0, False, 896),
    (8, 6, 10**6, 1e4, rl.ClusteredGradients(1e-3, 1.0, 1e6), 0.0, False, 858),
    # Curvature that no float of its square holds, beside an H-term.
    (4, 6, 1, 1000.0, rl.ClusteredGradients(0.05, 1.0, 1e-3), 0.1, False, 346),
    (5, 5, 5, 1e4, rl.ClusteredGradients(1e6, 0.0), 0.1, False, 425),
    # One example that carries all, so that no guess is near.
    (8, 6, 50, 1000.0, rl.ClusteredGradients(1e-3, 1e-3), 0.0, True, 704),
    (2, 5, 8, 300.0, rl.ClusteredGradients(0.7, 0.7), 0.0, True, 200),
    # Gradients whose fourth power is beyond float64.
    (2, 2, 50, 1000.0, rl.ClusteredGradients(1e6, 0.7, 0.05), 0.0, False, 558),
    (3, 20, 2, 84.0, rl.ClusteredGradients(1.0, 1e-3), 0.1, True, 0),
    (3, 20, 2, 84.0, rl.ClusteredGradients(1e3, 1e-3), 0.1, False, 0),
    # Subnormal probabilities, whose eigenvalue lies between neighbouring numbers.
    (7, 6, 1, 300.0, rl.ClusteredGradients(0.7, 1.0), 0.1, True, 218),
    # The most probable class more than 1e250 times the others.
    (5, 4, 1000, 1000.0, rl.ClusteredGradients(0.0, 1e-3), 0.0, True, 618),
    # A slope of 0 to rounding at a half.
    (2, 3, 1, 84.0, rl.ClusteredGradients(0.0, 1e-3), 0.0, True, 912),
]


@pytest.mark.parametrize("case", HARD)
def test_what_went_wrong(case):
    check(case, deviations=True)


def test_the_population_knows_relative_lengths():
    law = rl.ClusteredGradients(1.0, 0.7, relative_lengths=(0.5, 1.0, 1.5, 2.0))
    model = rl.LandscapeModel(6000, 4, 10_000, rl.GaussianLogits(1.0), law)
    np.testing.assert_allclose(
        model.population_theory(sample_size=60_000).transition_snr(), model.theory(0).transition_snr(), rtol=0.05
    )
