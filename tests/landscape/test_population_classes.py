"""Class gradients in the limit of many examples."""

import dataclasses
import itertools

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory import population as module
from rmtland.landscape.theory.examples import GivenExamples
from rmtland.landscape.theory.exchangeable import ExchangeableExamples
from rmtland.landscape.theory.levels import levels_of
from rmtland.landscape.theory.sums import label_sums
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Semicircle, Subordination
from tests import oracles
from tests.statistical import assert_mean


def every_permutation(num_classes, sigma, count, seed=0):
    """Probabilities and labels of some examples with all permutations of the classes: K_y is exactly symmetric."""
    rng = np.random.default_rng(seed)
    logits = sigma * rng.normal(size=(count, num_classes))
    labels = rng.integers(0, num_classes, count)
    many = []
    for order in itertools.permutations(range(num_classes)):
        place = np.argsort(order)
        many += [(z[list(order)], place[y]) for z, y in zip(logits, labels, strict=True)]
    z, y = (np.array(values) for values in zip(*many, strict=True))
    return np.array([oracles.softmax(row) for row in z]), y


def pair(num_classes, sigma, residual, of_class, cross_terms, mean=1.0, sigma_H=0.0):
    p, labels = every_permutation(num_classes, sigma, 5)
    law = rl.ClusteredGradients(mean, residual, of_class)
    given, population = (
        Subordination(
            (*levels_of(kind(p, labels, float(len(p)), True), law, cross_terms), Semicircle(sigma_H, 50.0)), 50.0
        )
        for kind in (GivenExamples, ExchangeableExamples)
    )
    return given, population


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize(("residual", "of_class", "mean"), [(0.7, 0.5, 1.0), (0.0, 0.5, 1.0), (2.0, 0.4, 0.0)])
@pytest.mark.parametrize("sigma", [0.5, 15.0])
def test_against_all_permutations_of_examples(num_classes, sigma, residual, of_class, mean, cross_terms):
    given, population = pair(num_classes, sigma, residual, of_class, cross_terms, mean)
    assert population.rank == given.rank
    assert [level.rank for level in population.levels] == [level.rank for level in given.levels]
    top = Solver(given).plain.scale
    for m in (0.0, 0.3 / top, -0.3 / top, (0.7 + 0.4j) / top, (-1.5 + 0.2j) / top, (-20 + 9j) / top):
        one, two = (e.evaluate(m, 2, logs=np.imag(m) > 0).psi for e in (given, population))
        np.testing.assert_allclose(two.first, one.first, rtol=1e-9)
        np.testing.assert_allclose(two.second, one.second, rtol=1e-9)
        if np.imag(m) > 0:
            np.testing.assert_allclose(two.value, one.value, rtol=1e-9)
    for share in (0.02, 0.3, 0.9, 1.2):
        assert population.atoms_above(share * top) == given.atoms_above(share * top)


@pytest.mark.parametrize("s", [0.0, 0.8, 3.0 + 1j])
def test_entries_at_the_label(s):
    p, labels = every_permutation(4, 2.0, 3)
    sums = np.zeros(5, dtype=complex)
    for row, y in zip(p, labels, strict=True):
        a = np.diag(row) - np.outer(row, row)
        r = np.linalg.inv(np.eye(4) + s * a)
        b, x = r @ a, r @ (row - np.eye(4)[y])
        sums += [b[y, y], (b @ b)[y, y], (b @ b @ b)[y, y], x[y], x[y] ** 2]
    np.testing.assert_allclose(label_sums(p, labels, s), sums, rtol=1e-10)


def dense_expectations(p, labels, n, law, cross_terms, m):
    """Psi, the mean of the gradient's form over draws of n examples, and L F F^T, every C x C matrix written out."""
    c = p.shape[1]
    one, centred = np.eye(c), np.eye(c) - 1 / c
    gram = centred * law.mean_lengths(c) ** 2 @ centred
    s = law.residual_length**2 * m / n
    value, form = 0.0, 0.0
    curvature, firsts, seconds = np.zeros((c, c, c), complex), np.zeros((c, c), complex), np.zeros((c, c, c), complex)
    for row, y in zip(p, labels, strict=True):
        a, e = np.diag(row) - np.outer(row, row), row - one[y]
        value = value + n * np.log(np.linalg.det(one + s * a) + 0j) / len(p)
        r = np.linalg.inv(one + s * a)
        form = form + law.residual_length**2 / n * (e @ r @ e) / len(p)
        r = r if cross_terms else one
        curvature[y] += r @ a / len(p)
        firsts[y] += r @ e / len(p)
        seconds[y] += np.outer(r @ e, r @ e) / len(p)
    seen, square = np.zeros((c, c)), np.zeros((c, c))
    for k, x, xx in zip(curvature, firsts, seconds, strict=True):
        pivot = one + m * law.class_length**2 * k
        f = np.linalg.inv(pivot)
        value += np.log(np.linalg.det(pivot))
        form += law.class_length**2 * np.trace(f @ (xx / n + (1 - 1 / n) * np.outer(x, x)))
        f = f if cross_terms else one
        # The classes' means add up to 0: examples are independent.
        seen, square = seen + k @ f, square + f @ xx @ f / n
    pivot = one + m * seen @ gram
    form += np.trace(gram @ np.linalg.solve(pivot, square))
    return value + np.log(np.linalg.det(pivot) + 0j), form, seen @ gram


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize("m", [-0.01, 0.4, 0.3 + 0.8j])
@pytest.mark.parametrize(
    ("law", "num_classes"),
    [
        (rl.ClusteredGradients(1.0, 3.0, relative_lengths=(0.5, 1.5, 1.0, 1.25)), 4),
        (rl.ClusteredGradients(1.0, 3.0, 1.7, relative_lengths=(0.5, 1.5, 1.0, 2.0)), 4),
        (rl.ClusteredGradients(1.5, 3.0, 1.7), 4),
        (rl.ClusteredGradients(1.5, 0.0, 1.7), 3),
        (rl.ClusteredGradients(1.5, 3.0, 1.7), 2),
    ],
)
def test_expectations_against_dense_matrices(law, num_classes, m, cross_terms):
    p, labels = every_permutation(num_classes, 2.0, 3)
    n = 7.0
    levels = levels_of(ExchangeableExamples(p, labels, n, law.class_length > 0), law, cross_terms)
    value, form, seen = dense_expectations(p, labels, n, law, cross_terms, m)
    found = Subordination(levels, 50.0).evaluate(m, 1, logs=np.imag(m) > 0)
    if np.imag(m) > 0:
        assert found.psi.value == pytest.approx(value, rel=1e-10)
    step = 1e-5
    ahead, behind = (dense_expectations(p, labels, n, law, cross_terms, m + h)[0] for h in (step, -step))
    assert found.psi.first == pytest.approx((ahead - behind) / (2 * step), rel=1e-7)
    assert found.quadratic == pytest.approx(form, rel=1e-10)
    if np.isreal(m) and cross_terms:
        values, copies = levels[-1].eigenvalues(m)
        expected = np.sort(np.linalg.eigvals(seen).real)[1:]
        np.testing.assert_allclose(np.repeat(values, copies.astype(int)), expected, rtol=1e-10)


@pytest.mark.parametrize("cross_terms", [True, False])
def test_the_gradients_form_is_its_mean_over_logits(cross_terms):
    law = rl.ClusteredGradients(1.0, 0.7, 0.8)
    model = rl.LandscapeModel(240, 4, 200, rl.GaussianLogits(2.0), law)
    population = model.population_theory(sample_size=100_000, cross_terms=cross_terms).equation
    given = [model.theory((7, i), cross_terms).equation for i in range(150)]
    for m in (0.0, 3.0, 30.0):
        expected = float(np.real(population.evaluate(m, 0).quadratic))
        # At m = 0 it is the mean; elsewhere K_y, which is in the denominators, varies with the logits: O(1/N).
        bias = 0.005 if m == 0 else 7 / 240
        samples = [float(np.real(e.evaluate(m, 0).quadratic)) for e in given]
        assert_mean(samples, expected, bias=bias * expected, detect=0.14 * expected)
        with pytest.raises(AssertionError, match="against"):
            assert_mean(samples, 1.14 * expected, bias=bias * expected, detect=0.14 * expected)


def test_the_population_with_class_gradients_is_the_limit_of_many_examples():
    law = rl.ClusteredGradients(1.0, 0.7, 0.9)
    model = rl.LandscapeModel(6000, 4, 400, rl.GaussianLogits(1.0), law)
    population, given = model.population_theory(sample_size=60_000), model.theory(rng=0)
    assert population.trace == pytest.approx(given.trace, rel=0.02)
    assert population.frobenius == pytest.approx(given.frobenius, rel=0.02)
    assert population.goldilocks_ratio() == pytest.approx(given.goldilocks_ratio(), rel=0.01)
    np.testing.assert_allclose(population.outliers(), given.outliers(), rtol=0.05)
    # Outliers, then C (C - 1) class directions less the C - 1 that the outliers share, then the bulk.
    for count in (3, 12):
        assert population.quantiles([count - 0.5])[0] == pytest.approx(given.quantiles([count - 0.5])[0], rel=0.05)
    assert population.gradient_power(12) == pytest.approx(given.gradient_power(12), abs=0.02)
    vanishing = dataclasses.replace(model, gradients=rl.ClusteredGradients(1.0, 0.7, 1e-9)).population_theory()
    without = dataclasses.replace(model, gradients=rl.ClusteredGradients(1.0, 0.7)).population_theory()
    np.testing.assert_allclose(vanishing.outliers(), without.outliers(), rtol=1e-9)
    np.testing.assert_allclose(vanishing.gradient_power(3), without.gradient_power(3), rtol=1e-6)


def test_no_transition_with_class_gradients():
    model = rl.LandscapeModel(60, 4, 200, rl.GaussianLogits(2.0), rl.ClusteredGradients(1.0, 0.7, 0.8))
    with pytest.raises(ValueError, match=r"`class_length` must be 0 for a transition of the outliers; got 0.8"):
        model.population_theory().transition_snr()


@pytest.mark.parametrize(("num_classes", "sample_size", "expected"), [(10, None, 300), (50, None, 200), (10, 70, 70)])
def test_so_many_examples_are_drawn_for_expectations(monkeypatch, num_classes, sample_size, expected):
    monkeypatch.setattr(module, "ENTRIES", 3000)
    model = rl.LandscapeModel.fort_ganguli(100, num_classes, 1000, sigma_z=3.0)
    asked, real = [], type(model.logits).draw_logits
    monkeypatch.setattr(
        type(model.logits), "draw_logits", lambda law, size, *args: asked.append(size) or real(law, size, *args)
    )
    model.population_theory(sample_size=sample_size)
    assert asked == [expected]
