"""The theory over all of its domain, frozen probabilities and lengths far apart included, against dense matrices.

The oracle is T as the (NC) x (NC) matrix it is, built in extended precision from curvatures without cancellation.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Semicircle, Subordination
from tests.landscape.dense_theory import examples


def extended_t(logits, labels, law, cross_terms):
    """D T in extended precision; nothing of the package in it."""
    n, c = logits.shape
    z = logits.astype(np.longdouble)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    blocks = np.zeros((n * c, n * c), np.longdouble)
    for mu, row in enumerate(p):
        a = -np.outer(row, row)
        np.fill_diagonal(a, 0)
        np.fill_diagonal(a, -a.sum(axis=1))
        blocks[mu * c : (mu + 1) * c, mu * c : (mu + 1) * c] = a / n
    parts = []
    if law.residual_length > 0:
        parts.append(law.residual_length * np.eye(n * c, dtype=np.longdouble))
    if law.class_length > 0:
        own = np.zeros((n * c, c * c), np.longdouble)
        for mu, y in enumerate(labels):
            own[mu * c + np.arange(c), y * c + np.arange(c)] = law.class_length
        parts.append(own)
    parts.append(np.tile(np.diag(law.mean_lengths(c)), (n, 1)).astype(np.longdouble))
    if not cross_terms:
        products = [part.T @ blocks @ part for part in parts]
        t = np.zeros((sum(len(q) for q in products),) * 2, np.longdouble)
        at = 0
        for q in products:
            t[at : at + len(q), at : at + len(q)] = q
            at += len(q)
        return t
    factors = np.hstack(parts)
    return factors.T @ blocks @ factors


def oracle(t, d, sigma_H):
    """Trace, root mean squared norm, the exact law of T's eigenvalues and those, in units of the trace."""
    unit = float(np.trace(t)) if sigma_H == 0 else 1.0
    scale = np.trace(t) if sigma_H == 0 else np.longdouble(1)
    scaled = (t / scale).astype(np.float64)
    values = np.maximum(np.linalg.eigvalsh((scaled + scaled.T) / 2), 0)
    values[values < 1e-13 * values[-1]] = 0
    trace, square = float(np.trace(scaled)), float(np.sum(scaled**2)) + d * sigma_H**2
    levels = [Atoms(values[values > 0], np.ones(np.sum(values > 0)))]
    if sigma_H > 0:
        levels.append(Semicircle(sigma_H, float(d)))
    return unit, trace, np.sqrt(trace**2 / d + (1 + 1 / d) * square), Solver(Subordination(tuple(levels), float(d)))


def sums(n, c, d, sigma_z, law, sigma_H, cross_terms, seed):
    """The theory, with its trace, norm and ratio checked, and the oracle's unit and law; None where nothing is left."""
    logits, labels = examples(n, c, sigma_z, seed)
    model = rl.LandscapeModel(n, c, d, rl.GivenLogits(logits, labels), law, sigma_H)
    if (np.sort(logits, axis=1)[:, -2:] @ [-1, 1]).min() > 680:
        with pytest.raises(ValueError, match="must leave some curvature"):
            model.theory(cross_terms=cross_terms)
        return None
    theory = model.theory(cross_terms=cross_terms)
    unit, trace, norm, solver = oracle(extended_t(logits, labels, law, cross_terms), d, sigma_H)
    assert theory.trace == pytest.approx(unit * trace, rel=1e-9, abs=0)
    assert theory.frobenius == pytest.approx(unit * norm, rel=1e-9, abs=0)
    assert theory.goldilocks_ratio() == pytest.approx(trace / norm, rel=1e-9, abs=0)
    return theory, unit, solver


def check(n, c, d, sigma_z, law, sigma_H, cross_terms, seed):
    found = sums(n, c, d, sigma_z, law, sigma_H, cross_terms, seed)
    if found is None:
        return
    theory, unit, solver = found
    reach = max(solver.equation.plain.range[1], 2 * sigma_H)
    outliers = theory.outliers() / unit
    above = np.arange(c - 1, 0, -1) - 0.5
    some = above < min(solver.rank, theory._solver.rank)
    np.testing.assert_allclose(outliers[some], solver.quantiles(above[some]), rtol=1e-6, atol=1e-7 * reach)
    # Counts in the gaps are whole and exact, in bands those of the law.
    bands = solver.equation.plain.edges[0] * solver.equation.plain.scale
    gaps = bands[1:, 0] - bands[:-1, 1]
    for low, high in zip(bands[:-1, 1][gaps > 1e-3 * reach], bands[1:, 0][gaps > 1e-3 * reach], strict=True):
        x = 0.5 * (low + high)
        exact = solver.equation.plain.counts(np.array([x / solver.equation.plain.scale]))[0][0]
        assert theory.count_above(unit * x) == pytest.approx(exact, abs=1e-9)
    inside = [x for x in np.linspace(0.05, 1.2, 6) * reach if np.abs(bands - x).min() > 1e-3 * reach]
    expected = solver.equation.plain.counts(np.array(inside) / solver.equation.plain.scale)[0]
    np.testing.assert_allclose([theory.count_above(unit * x) for x in inside], expected, rtol=1e-5, atol=1e-5)
    densities = theory.pdf(unit * np.array(inside)) * unit
    u = solver.solve(np.array(inside))
    np.testing.assert_allclose(densities, np.abs((-1 / u).imag) / np.pi, rtol=1e-4, atol=1e-5 / reach)
    power = theory.gradient_power(min(c - 1, d))
    assert np.isnan(power) or 0 <= power <= 1
    assert theory.bulk_edge >= 2 * sigma_H * (1 - 1e-9)
    first = theory.first_order()
    assert np.isfinite(first.mean_outlier)
    assert np.isfinite(theory.outliers_std()).all()
    if law.class_length == 0:
        swallowed = theory.transition_sigma_H()
        assert (np.diff(swallowed) >= -1e-9 * swallowed.max()).all()
        if sigma_H == 0 or law.residual_length > 0:
            assert (theory.transition_snr() > 0).all()


def cases(lengths, scales, sigmas):
    """Sizes, sigma_z, mean, residual and class lengths, sigma_H, cross terms and a seed."""
    return (
        st.integers(2, 8),
        st.integers(2, 6),
        st.sampled_from([1, 2, 5, 50, 1000, 10**6]),
        st.sampled_from(sigmas),
        *(st.sampled_from(lengths) for _ in range(3)),
        st.sampled_from(scales),
        st.booleans(),
        st.integers(0, 999),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(*cases([0.0, 1e-3, 0.7, 1e3, 1e6], [0.0, 1e-3, 0.1, 1e6], [0.0, 3.0, 30.0, 100.0, 300.0, 1000.0, 1e4]))
def test_sums_are_exact_anywhere(n, c, d, sigma_z, mean, residual, of_class, sigma_H, cross_terms, seed):
    if max(mean, residual, of_class) > 0:
        sums(n, c, d, sigma_z, rl.ClusteredGradients(mean, residual, of_class), sigma_H, cross_terms, seed)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(*cases([0.05, 0.7, 1.0], [0.0, 0.1, 10.0], [0.0, 0.3, 3.0, 30.0, 84.0]))
def test_counts_and_densities(n, c, d, sigma_z, mean, residual, of_class, sigma_H, cross_terms, seed):
    law = rl.ClusteredGradients(mean, residual, of_class if seed % 3 == 0 else 0.0)
    check(n, c, d, sigma_z, law, sigma_H, cross_terms, seed)


def test_an_h_term_beside_tiny_residuals():
    for cross_terms in (True, False):
        for length in (1e-3, 1.0, 1e3):
            check(3, 20, 2, 84.0, rl.ClusteredGradients(length, 1e-3), 0.1, cross_terms, 0)


def test_the_population_knows_relative_lengths():
    law = rl.ClusteredGradients(1.0, 0.7, relative_lengths=(0.5, 1.0, 1.5, 2.0))
    model = rl.LandscapeModel(6000, 4, 10_000, rl.GaussianLogits(1.0), law)
    np.testing.assert_allclose(
        model.population_theory(sample_size=60_000).transition_snr(), model.theory(0).transition_snr(), rtol=0.05
    )
