"""Spikes apart against the equation that they come from, and against the dense matrix."""

import dataclasses

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory import spikes as mean_part
from rmtland.landscape.theory.spikes import SpikesApart, spikes_apart
from rmtland.laws.solver import Solver
from tests.landscape.dense_theory import dense_t, examples


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
    t = dense_t(logits, labels, np.ones(25) if lengths is None else np.array(lengths), 0.7, 0.0)[0]
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
