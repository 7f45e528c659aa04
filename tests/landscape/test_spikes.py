"""Spikes apart against the equation that they come from, and against the dense matrix."""

import dataclasses

import numpy as np
import pytest
from scipy.optimize import brentq

import rmtland as rl
from rmtland.landscape.kernels import softmax
from rmtland.landscape.theory import spikes as mean_part
from rmtland.landscape.theory.examples import GivenExamples, zero_sum_vectors
from rmtland.landscape.theory.spikes import SpikesApart, spikes_apart
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Point, Subordination
from tests.landscape.dense_theory import curvatures, dense_t, examples, matrix_and_slope


@pytest.fixture
def eager(monkeypatch):
    monkeypatch.setattr(mean_part, "CHEAP", 0.0)


def equation(n, c, d, sigma, law):
    logits, labels = examples(n, c, sigma, 0)
    model = rl.LandscapeModel(n, c, d, logits=rl.GivenLogits(logits, labels), gradients=law)
    return model.theory().equation, logits, labels


def check(whole, apart, c):
    assert isinstance(apart, SpikesApart)
    u = apart.spikes[len(apart.spikes) // 2] * np.array([0.8 + 0.3j, 1.0 + 0.02j, 3.0 + 0.1j])
    for at in u.tolist():
        np.testing.assert_allclose(apart.potential(at), whole.potential(at), rtol=1e-8, atol=1e-8)
    above = np.arange(c - 1, 0, -1) - 0.5
    places = [Solver(e).quantiles(above) for e in (whole, apart)]
    np.testing.assert_allclose(places[1], places[0], rtol=1e-7)


@pytest.mark.parametrize("lengths", [None, tuple(np.linspace(0.5, 2.0, 25))])
@pytest.mark.parametrize("sigma", [0.5, 3.0, 15.0])
def test_against_the_whole_equation(eager, monkeypatch, sigma, lengths):
    # Groups smaller than the number of classes, so that there are several.
    monkeypatch.setattr(mean_part, "GROUP", 8)
    monkeypatch.setattr(mean_part, "PADDING", 6)
    whole, logits, labels = equation(60, 25, 5000, sigma, rl.ClusteredGradients(1.0, 0.7, 0.0, lengths))
    apart = spikes_apart(whole)
    check(whole, apart, 25)
    lengths = np.ones(25) if lengths is None else np.array(lengths)
    t = np.linalg.eigvalsh(matrix_and_slope(logits, labels, lengths, 0.7, 0.0)[0])
    # The spikes are eigenvalues of the dense matrix; those near the radius need not be exact.
    nearest = np.abs(t[None, :] - apart.spikes[:, None]).min(axis=1)
    np.testing.assert_allclose(nearest / apart.spikes, 0, atol=1e-7)


def test_few_examples_and_spikes_in_the_bulk(eager):
    whole, _, _ = equation(30, 20, 200, 1.0, rl.ClusteredGradients(1.0, 2.0))
    apart = spikes_apart(whole)
    if apart is not whole:
        check(whole, apart, 20)
    theory = rl.LandscapeModel.fort_ganguli(100, 30, 1000, sigma_z=3.0).theory(0)
    assert isinstance(theory._fast.equation, SpikesApart)
    slow = dataclasses.replace(theory)
    object.__setattr__(slow, "_fast", slow._solver)
    np.testing.assert_allclose(theory.outliers(), slow.outliers(), rtol=1e-7)
    np.testing.assert_allclose(theory.outliers_std(), slow.outliers_std(), rtol=1e-3)


def test_what_is_not_proved_is_not_used(eager, monkeypatch):
    whole, _, _ = equation(100, 20, 500, 1.0, rl.ClusteredGradients(1.0, 0.7))
    honest = mean_part._spikes

    def missing(*arguments):
        spikes, vectors = honest(*arguments)
        return spikes[1:], vectors[1:]

    monkeypatch.setattr(mean_part, "_spikes", missing)
    assert spikes_apart(whole) is whole
    misplaced = lambda *arguments: (honest(*arguments)[0] * (1 + 1e-6), honest(*arguments)[1])  # noqa: E731
    monkeypatch.setattr(mean_part, "_spikes", misplaced)
    # Polished, they are right again.
    check(whole, spikes_apart(whole), 20)


def test_where_it_does_not_pay_or_apply(eager, monkeypatch):
    for law in (rl.ClusteredGradients(1.0, 0.7, 0.5), rl.ClusteredGradients(1.0, 0.0), rl.ClusteredGradients(0.0, 0.7)):
        whole = equation(20, 5, 50, 1.0, law)[0]
        assert spikes_apart(whole) is whole
    whole = equation(20, 5, 50, 1.0, rl.ClusteredGradients())[0]
    monkeypatch.setattr(mean_part, "MEMORY", 1000)
    assert spikes_apart(whole) is whole
    monkeypatch.setattr(mean_part, "CHEAP", 1e9)
    assert spikes_apart(whole) is whole


def test_it_pays_from_so_many_entries_on(monkeypatch):
    """N C^3 of them, and what the means add."""
    whole = equation(60, 25, 5000, 3.0, rl.ClusteredGradients(1.0, 0.7))[0]
    monkeypatch.setattr(mean_part, "CHEAP", 60 * 25.0**3)
    assert isinstance(spikes_apart(whole), SpikesApart)
    monkeypatch.setattr(mean_part, "CHEAP", 1.01 * 60 * 25**3)
    assert spikes_apart(whole) is whole


@pytest.mark.parametrize(("weight", "inside"), [(0.8, 9), (0.05, 12)])
@pytest.mark.parametrize("group", [20, 11, 3])
def test_spikes_within_a_radius_come_with_their_eigenvectors(monkeypatch, weight, inside, group):
    """Of a matrix of known curve: a spike is an eigenvalue u at s = -weight / u; what lies beyond is left out.

    Small groups are solved for among few neighbours, which leaves the rest of the matrix out.
    """
    monkeypatch.setattr(mean_part, "GROUP", group)
    monkeypatch.setattr(mean_part, "PADDING", 2)
    slope = np.random.default_rng(0).standard_normal((12, 12))
    matrices = np.array([np.diag(np.append([0.1, 0.2, 0.3], np.arange(1.0, 10.0))), 0.02 * (slope + slope.T)])
    spikes, vectors = mean_part._spikes(matrices, weight, 1.6)
    assert spikes.shape == (inside,)
    assert vectors.shape == (inside, 12)
    assert (np.diff(spikes) > 0).all()
    for u, vector in zip(spikes, vectors, strict=True):
        matrix = matrices[0] - weight / u * matrices[1]
        np.testing.assert_allclose(matrix @ vector, u * vector, atol=1e-7 if group == 20 else 0.08)


def test_a_spike_beyond_the_radius_stays_in_the_power_series():
    """K(s) = diag(c) / (1 + s / 2): spikes at c + weight / 2, and a slope of log det(1 + m K) in closed form."""
    c, weight, terms = np.array([0.7, 1.0, 2.0]), 0.8, 30
    matrices = np.array([np.diag(c) * (-0.5) ** k for k in range(terms)])
    found = mean_part._series(matrices, weight, 0.6, 3)
    assert found is not None
    spikes, series, radius = found
    np.testing.assert_allclose(spikes, c[1:] + weight / 2, rtol=1e-9)
    assert radius == pytest.approx(0.8 * 0.6)
    s = 0.9 * radius * np.exp(1j * np.linspace(0, np.pi, 5))
    rest = (c[0] + weight / 2) / (1 + s / weight * (c[0] + weight / 2)) - 3 * (weight / 2) / (1 + s / 2)
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(s, series), rest, rtol=1e-8)


@pytest.mark.parametrize("weight", [0.25, 4.0])
def test_within_the_radius_spikes_do_and_beyond_the_whole_equation(weight):
    """|m| times the weight is what the radius is of; counts are always the whole equation's."""
    whole = Subordination((Atoms(np.array([1.0]), np.array([5.0])),), 10.0)
    apart = SpikesApart((Atoms(np.array([2.0]), np.array([1.0])),), 10.0, whole, weight, 1.6)
    for s in (0.4, 1.5, -1.5, 1.2j, 0.9 + 0.9j, 1.7, -2.0, 1.7j, 1.3 + 1.3j):
        of = apart.evaluate(s / weight, 2, True).psi
        t, copies = (2.0, 1.0) if abs(s) <= 1.6 else (1.0, 5.0)
        pivot = 1 + s / weight * t
        np.testing.assert_allclose(of, [copies * np.log(pivot + 0j), copies * t / pivot, -copies * (t / pivot) ** 2])
    assert apart.rank == 5.0
    assert [apart.atoms_above(u) for u in (0.9, 1.5)] == [5.0, 0.0]
    assert apart.spikes.tolist() == [2.0]


def test_a_power_series_comes_with_its_integral_and_slope():
    """In m, of coefficients in m times the weight: log(1 + m w / 3), up to terms too small to see."""
    weight, terms = 0.7, 40
    coefficients = weight / 3 * (-1 / 3) ** np.arange(terms)
    series = mean_part.PowerSeries(coefficients, weight, (np.array([1.0]), np.array([2.0])))
    for m in (0.0, 0.8, -0.5, 0.3 + 0.9j):
        pivot = 1 + m * weight / 3
        expected = [np.log(pivot + 0j), weight / 3 / pivot, -((weight / 3 / pivot) ** 2)]
        for order in range(3):
            psi = series.at(Point(m, order, True)).psi
            assert len(psi) == order + 1
            np.testing.assert_allclose(psi, expected[: order + 1], rtol=1e-12, atol=1e-15)
        assert np.isnan(series.at(Point(m, 2)).psi[0])
    assert series.cost == terms
    assert [part.tolist() for part in series.rough_atoms()] == [[1.0], [2.0]]


@pytest.mark.parametrize("factor", [0.6, np.random.default_rng(2).standard_normal((3, 2))])
def test_taylor_coefficients_are_those_of_the_sums_over_examples(factor):
    """F^T K F and the trace of K at one s, from inverses of C x C matrices."""
    logits, labels = examples(7, 4, 2.0, 1)
    given_to = GivenExamples(softmax(logits), labels, 7.0)
    matrices, own = mean_part._taylor(given_to, factor, 1.2, 60)
    assert matrices.shape[0] == own.size == 60
    assert np.isrealobj(matrices)
    basis = np.linalg.svd(np.eye(4) - 0.25)[0][:, :3]
    ours = zero_sum_vectors(basis.T).T  # from the one basis of zero-sum vectors to the other
    for s in (0.0, -1.0, 0.8j, 0.5 - 0.9j):
        dense = np.mean([np.linalg.inv(np.eye(4) + s * a) @ a for a in curvatures(logits)], axis=0)
        reduced = ours @ (basis.T @ dense @ basis) @ ours.T
        expected = factor**2 * reduced if np.ndim(factor) == 0 else factor.T @ reduced @ factor
        powers = np.asarray(s) ** np.arange(60)
        np.testing.assert_allclose(np.tensordot(powers, matrices, 1), expected, atol=1e-10)
        np.testing.assert_allclose(powers @ own, np.trace(dense), rtol=1e-10)


def made_up(size):
    """Coefficients of K(s), falling as s grows, and the spikes of it with their eigenvectors, by bisection."""
    rng = np.random.default_rng(4)
    slope, bend = (root @ root.T / size for root in rng.standard_normal((2, size, size)))
    matrices = np.array([np.diag(np.arange(2.0, 2.0 + size)), -0.5 * slope, 0.1 * bend])
    weight, places, vectors = 0.8, [], []

    def eigen(u):
        return np.linalg.eigh(sum((-weight / u) ** k * part for k, part in enumerate(matrices)))

    for j in range(size):
        places.append(brentq(lambda u, j=j: u - eigen(u)[0][j], 1.0, 30.0, xtol=1e-14, rtol=1e-15))
        vectors.append(eigen(places[-1])[1][:, j])
    return matrices, weight, np.array(places), np.array(vectors)


def test_a_slope_is_the_difference_of_log_determinants():
    matrices, weight, _, _ = made_up(5)
    log_det = lambda m: np.log(np.linalg.det(np.eye(5) + m * mean_part._matrix(matrices, m * weight)))  # noqa: E731
    for m in (0.1 + 0.3j, -0.02 + 0.1j):
        step = 1e-5
        assert mean_part._slope(matrices, m * weight, weight) == pytest.approx(
            (log_det(m + step) - log_det(m - step)) / (2 * step), rel=1e-7
        )


@pytest.mark.parametrize("start", [0.5, 1.0, 1.5, 3.0])
def test_a_spike_is_found_from_guesses_on_either_side(start):
    matrices, weight, places, vectors = made_up(5)
    for j, (place, vector) in enumerate(zip(places, vectors, strict=True)):
        u, found = mean_part._spike(matrices, j, start * place, weight, 1.6)
        assert u == pytest.approx(place, rel=1e-12)
        assert abs(found @ vector) == pytest.approx(1.0, rel=1e-10)
        # Beyond a radius there is none; just within it there is.
        assert mean_part._spike(matrices, j, 2 * place, weight, 0.98 * weight / place) is None
        assert mean_part._spike(matrices, j, 2 * place, weight, 1.02 * weight / place)[0] == pytest.approx(place)


def test_one_step_squares_the_error():
    matrices, weight, places, vectors = made_up(5)
    noise = np.random.default_rng(1).standard_normal(vectors.shape)
    rough = vectors + 1e-4 * noise
    rough /= np.linalg.norm(rough, axis=1, keepdims=True)
    better, rows = mean_part._polished(matrices, weight, places * (1 + 1e-6), rough)
    np.testing.assert_allclose(better, places, rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(rows * vectors, axis=1)), 1.0, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-14)


SMALL = [
    (0.5, rl.ClusteredGradients(1.0, 0.7), 0.0),
    (3.0, rl.ClusteredGradients(1.0, 0.5, 0.0, (0.5, 1.0, 2.0, 1.5, 0.8)), 0.3),
    (15.0, rl.ClusteredGradients(2e-3, 1e-3), 0.0),
    (1.0, rl.ClusteredGradients(1.0, 0.7, 0.0, (1.0, 1.0, 0.0, 0.0, 0.0)), 0.0),
]


@pytest.mark.parametrize(("sigma", "law", "sigma_H"), SMALL)
def test_all_of_a_small_equation_is_kept(eager, sigma, law, sigma_H):
    """Psi with both derivatives wherever spikes are apart, rough eigenvalues, an H-term; spikes are exact."""
    logits, labels = examples(12, 5, sigma, 0)
    whole = rl.LandscapeModel(12, 5, 300, rl.GivenLogits(logits, labels), law, sigma_H=sigma_H).theory().equation
    apart = spikes_apart(whole)
    assert isinstance(apart, SpikesApart)
    assert apart.whole is whole
    assert apart.variance == whole.variance
    assert 0 < apart.radius <= 1.6
    assert apart.weight == pytest.approx(law.residual_length**2 / 12)
    for share in (0.0, 0.05, -0.3, 0.7j, 0.6 + 0.6j, -0.9 + 0.2j):
        m = share * apart.radius / apart.weight
        one, two = (e.evaluate(m, 2, np.imag(share) > 0).psi for e in (whole, apart))
        if np.imag(share) > 0:
            assert two[0] == pytest.approx(one[0], rel=1e-9)
        np.testing.assert_allclose(two[1:], one[1:], rtol=1e-8)
    dense = dense_t(logits, labels, law.mean_lengths(5), law.residual_length, 0.0)[0]
    found = apart.spikes
    np.testing.assert_allclose(found, dense[-found.size :], rtol=1e-9)
    # All that can be resolved are apart: the next is close to the others' bulk.
    assert found.size == 4 or dense[-found.size - 1] * apart.radius < 1.3 * apart.weight
    rough = [np.concatenate(parts) for parts in zip(*(e.rough_atoms() for e in apart.levels), strict=True)]
    before = [np.concatenate(parts) for parts in zip(*(e.rough_atoms() for e in whole.levels), strict=True)]
    assert rough[1].sum() == pytest.approx(before[1].sum())
    assert rough[0] @ rough[1] == pytest.approx(before[0] @ before[1], rel=1e-3)


@pytest.mark.parametrize(
    ("law", "room", "limit"),
    [
        (rl.ClusteredGradients(3.0, 0.1), 1e6, "lowest"),
        (rl.ClusteredGradients(1.0, 0.7, 0.0, (0.6, 1.0, 2.0, 4.0, 8.0)), 1e6, "lowest"),
        (rl.ClusteredGradients(0.3, 0.7), 1e6, "largest"),
        (rl.ClusteredGradients(0.3, 0.7), 40, "memory"),
        (rl.ClusteredGradients(0.3, 0.7), 4.1, "memory"),
        (rl.ClusteredGradients(0.3, 0.7), 3.9, None),
    ],
)
def test_circles_reach_as_far_as_is_of_use_and_memory_holds(eager, monkeypatch, law, room, limit):
    """Somewhat beyond the spike of the smallest eigenvalue, with terms enough for the precision and no more."""
    whole, logits, labels = equation(12, 5, 300, 1.0, law)
    monkeypatch.setattr(mean_part, "MEMORY", room * 16 * 25)
    counts = []
    taylor = mean_part._taylor
    monkeypatch.setattr(mean_part, "_taylor", lambda *a: counts.append(a[2:]) or taylor(*a))
    apart = spikes_apart(whole)
    if limit is None:
        assert apart is whole
        assert not counts
        return
    ((radius, terms),) = counts
    weight = law.residual_length**2 / 12
    lowest = dense_t(logits, labels, law.mean_lengths(5), law.residual_length, 0.0)[0][-4]
    if limit == "lowest":
        assert 1.25 * weight / lowest < radius < 1.35 * weight / lowest
    elif limit == "largest":
        assert radius == 1.6
        assert 1.25 * weight / lowest > 1.6
    else:
        assert room - 1.5 < terms <= room
    assert (radius / 2) ** (terms - 1) <= 1.001e-13 < 1.002 * (radius / 2) ** (terms - 2)
    if isinstance(apart, SpikesApart):
        assert apart.radius == (radius if apart.spikes.size == 4 else pytest.approx(0.8 * radius))
        m = -0.5 * apart.radius / weight
        np.testing.assert_allclose(apart.evaluate(m, 2).psi[1:], whole.evaluate(m, 2).psi[1:], rtol=1e-8)
    assert isinstance(apart, SpikesApart) or limit == "memory"


def test_what_has_no_spikes_over_given_examples_stays_as_it_is(eager):
    """No means, no residuals below them, no sums over examples."""
    for law in (rl.ClusteredGradients(0.0, 0.7), rl.ClusteredGradients(1.0, 0.0), rl.ClusteredGradients(1.0, 0.7, 0.5)):
        whole = equation(12, 5, 300, 1.0, law)[0]
        assert spikes_apart(whole) is whole
    apart = rl.LandscapeModel(12, 5, 300, rl.GaussianLogits(1.0), rl.ClusteredGradients(1.0, 0.7))
    for whole in (apart.population_theory(sample_size=20).equation, apart.theory(0, cross_terms=False).equation):
        assert spikes_apart(whole) is whole


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_a_proof_does_not_depend_on_the_unit(eager, monkeypatch, unit):
    """A missing spike is noticed, a misplaced one mended."""
    whole = equation(12, 5, 300, 1.0, rl.ClusteredGradients(unit, 0.7 * unit))[0]
    honest, right = mean_part._spikes, spikes_apart(whole).spikes

    def missing(*arguments):
        spikes, vectors = honest(*arguments)
        return spikes[1:], vectors[1:]

    monkeypatch.setattr(mean_part, "_spikes", missing)
    assert spikes_apart(whole) is whole
    polished = []
    polish = mean_part._polished
    monkeypatch.setattr(
        mean_part, "_spikes", lambda *arguments: (honest(*arguments)[0] * 1.0001, honest(*arguments)[1])
    )
    monkeypatch.setattr(mean_part, "_polished", lambda *arguments: polished.append(1) or polish(*arguments))
    np.testing.assert_allclose(spikes_apart(whole).spikes, right, rtol=1e-11)
    assert 1 <= len(polished) <= 2
