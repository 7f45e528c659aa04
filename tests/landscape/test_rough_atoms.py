"""First guesses, ranks and bounds of the levels against the eigenvalues of the dense matrix."""

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.theory import levels as levels_module
from rmtland.landscape.theory.examples import GivenExamples
from rmtland.landscape.theory.levels import ClassGradients, Means
from tests.landscape.dense_theory import dense_t, examples

N, C = 30, 4


def levels(law, sigma=2.0, unit=1.0, cross_terms=True):
    """Those of the theory, and the dense eigenvalues of D T, ascending."""
    logits, labels = examples(N, C, sigma, 3)
    lengths = [unit * length for length in (law.mean_length, law.residual_length, law.class_length)]
    scaled = rl.ClusteredGradients(*lengths, law.relative_lengths)
    theory = rl.LandscapeModel(N, C, 100, rl.GivenLogits(logits, labels), scaled).theory(cross_terms=cross_terms)
    return theory.equation.levels, dense_t(logits, labels, scaled.mean_lengths(C), *lengths[1:], cross_terms)[0]


@pytest.mark.parametrize("unit", [1e-12, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("lengths", [None, (0.5, 1.0, 1.5, 2.0)])
@pytest.mark.parametrize("residual", [0.3, 1.0, 2.5])
def test_means_are_lifted_to_their_eigenvalues(residual, lengths, unit):
    """Where all are above the residuals' they are found but for a thousandth."""
    found, dense = levels(rl.ClusteredGradients(1.0, residual, 0.0, lengths), unit=unit)
    residuals, means = found
    assert isinstance(means, Means)
    places, copies = means.rough_atoms()
    assert copies.tolist() == [1.0] * (C - 1)
    expected = dense[-(C - 1) :]
    assert expected[0] > residuals.clear
    np.testing.assert_allclose(np.sort(places), expected, rtol=1e-3)
    assert expected[-1] < means.clear < 1.3 * expected[-1]


def test_where_it_is_dear_means_are_lifted_once(monkeypatch):
    found, dense = levels(rl.ClusteredGradients(1.0, 1.0))
    at_zero = np.sort(found[1].eigenvalues(0.0)[0])
    monkeypatch.setattr(levels_module, "FEW", 0.0)
    places, expected = np.sort(found[1].rough_atoms()[0]), dense[-(C - 1) :]
    assert np.all(np.abs(places - expected) < 0.3 * np.abs(at_zero - expected))
    assert not np.allclose(places, expected, rtol=1e-4)


def test_means_that_residuals_hide_are_not_lifted():
    found, _ = levels(rl.ClusteredGradients(1e-3, 1.0))
    means = found[1]
    np.testing.assert_array_equal(means.rough_atoms()[0], means.eigenvalues(0.0)[0])
    assert means.clear == means.below.clear


@pytest.mark.parametrize("unit", [1e-4, 1.0])
def test_class_gradients_are_where_those_of_bare_examples_are(unit):
    found, _ = levels(rl.ClusteredGradients(1.0, 0.0, 0.3), unit=unit)
    _, dense = levels(rl.ClusteredGradients(0.0, 0.0, 0.3), unit=unit)
    assert isinstance(found[0], ClassGradients)
    places, copies = found[0].rough_atoms()
    assert copies.tolist() == [1.0] * (C * (C - 1))
    assert places.min() >= 0
    np.testing.assert_allclose(np.sort(places), dense[-places.size :], rtol=1e-9, atol=1e-14 * dense[-1])


def test_every_atom_of_two_classes_occurs():
    """In expectation over them there is no direction but that between both."""
    model = rl.LandscapeModel(N, 2, 100, rl.GaussianLogits(1.0), rl.ClusteredGradients(1.0, 0.0, 0.5))
    atoms = [level.rough_atoms() for level in model.population_theory(sample_size=50).equation.levels]
    assert [copies.tolist() for _, copies in atoms] == [[2.0], [1.0]]


@pytest.mark.parametrize("sigma", [0.5, 10.0])
def test_residuals_have_as_many_atoms_and_their_trace(sigma):
    found, dense = levels(rl.ClusteredGradients(0.0, 0.7), sigma)
    places, copies = found[0].rough_atoms()
    assert copies.sum() == pytest.approx(N * (C - 1))
    assert places @ copies == pytest.approx(dense.sum(), rel=1e-6)
    assert places.max() == pytest.approx(dense[-1], rel=0.1)
    assert dense[-1] < found[0].clear < 1.3 * 0.5 * 0.7**2 / N


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize(
    ("law", "rank"),
    [
        (rl.ClusteredGradients(1.0, 0.5), None),
        (rl.ClusteredGradients(1.0, 0.0), C - 1),
        (rl.ClusteredGradients(0.0, 0.5, 0.3), None),
        (rl.ClusteredGradients(1.0, 0.0, 0.3), None),
        (rl.ClusteredGradients(1.0, 0.0, 0.0, (0.0, 0.0, 1.0, 2.0)), 2),
        (rl.ClusteredGradients(1.0, 0.5, 0.3, (0.0, 0.0, 1.0, 2.0)), None),
    ],
)
def test_the_rank_is_that_of_the_dense_matrix(law, rank, cross_terms):
    """Of a tower no level adds to what spans it; side by side each has its own."""
    for unit in (1e-12, 1e-4, 1.0, 1e4):
        found, dense = levels(law, unit=unit, cross_terms=cross_terms)
        expected = np.count_nonzero(dense > 1e-12 * dense[-1])
        assert rank in (None, expected)
        assert sum(level.rank for level in found) == expected


def test_eigenvalues_ask_for_no_derivatives(monkeypatch):
    asked = []
    seen = GivenExamples.seen
    monkeypatch.setattr(GivenExamples, "seen", lambda self, s, order: asked.append(order) or seen(self, s, order))
    found, _ = levels(rl.ClusteredGradients(1.0, 1.0))
    asked.clear()
    found[1].eigenvalues(-0.1)
    found[1].rough_atoms()
    assert set(asked) == {0}


def test_examples_without_curvature_have_no_eigenvalues():
    frozen = GivenExamples(np.eye(3), np.arange(3), 3.0)
    assert [part.size for part in frozen.curvatures] == [0, 0]
    assert frozen.rank == 0
