"""Edges and transitions against eigenvalues of the dense matrices and slopes by differences."""

import numpy as np
import pytest
from scipy.optimize import brentq

from rmtland import ClusteredGradients
from rmtland.landscape.kernels import softmax
from rmtland.landscape.theory.examples import GivenExamples
from rmtland.landscape.theory.transitions import residual_edge, transition_sigma_H, transition_snr
from tests.landscape.dense_theory import curvatures, dense_t, examples

N, C, D = 12, 4, 30
LOGITS, LABELS = examples(N, C, 1.0, 5)
GIVEN = GivenExamples(softmax(LOGITS), LABELS, float(N))
BARE = np.linalg.eigvalsh(curvatures(LOGITS)).ravel() / N


def place(u, length, sigma_H):
    """Where the theory has an eigenvalue of D T: z(u) of residuals and an H-term."""
    t = length**2 * BARE
    return u + np.sum(t * u / (u - t)) / D + sigma_H**2 / u


def slope(u, length, sigma_H):
    step = 1e-5 * u
    return (place(u + step, length, sigma_H) - place(u - step, length, sigma_H)) / (2 * step)


@pytest.mark.parametrize(("length", "sigma_H"), [(0.7, 0.0), (0.7, 0.02), (0.7, 3.0), (1e-3, 1e-8), (20.0, 0.0)])
def test_the_edge_is_where_places_turn(length, sigma_H):
    u, z = residual_edge(GIVEN, length, float(D), sigma_H)
    assert u > length**2 * BARE.max()
    assert z == pytest.approx(place(u, length, sigma_H), rel=1e-9)
    assert abs(slope(u, length, sigma_H)) < 1e-4
    assert slope(1.05 * u, length, sigma_H) > 0


def test_edges_without_residuals_or_anything():
    assert residual_edge(GIVEN, 0.0, float(D), 0.3) == pytest.approx((0.3, 0.6))
    assert residual_edge(GIVEN, 0.0, float(D), 0.0) == (0.0, 0.0)


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize("sigma_H", [0.0, 0.05])
@pytest.mark.parametrize("relative", [None, (0.5, 1.0, 2.0, 1.5), (1.0, 0.0, 2.0, 0.0)])
def test_at_the_transition_an_eigenvalue_is_at_the_edge(relative, sigma_H, cross_terms):
    """The j-th largest of the means' at the j-th ratio of squared lengths, whatever the lengths at hand."""
    law = ClusteredGradients(0.1, 0.7, 0.0, relative)
    found = transition_snr(GIVEN, law, float(D), sigma_H, cross_terms)
    u = residual_edge(GIVEN, 0.7, float(D), sigma_H)[0]
    some = np.isfinite(found)
    assert found.shape == (C - 1,)
    assert some.tolist() == ([True] * 3 if relative is None or all(relative) else [True, True, False])
    assert (np.diff(found[some]) > 0).all()
    for j, snr in enumerate(found[some]):
        lengths = 0.7 * np.sqrt(snr) * (np.ones(C) if relative is None else np.array(relative))
        values = dense_t(LOGITS, LABELS, lengths, 0.7 if cross_terms else 0.0, 0.0, cross_terms)[0]
        assert values[-1 - j] == pytest.approx(u, rel=1e-6)


@pytest.mark.parametrize("cross_terms", [True, False])
@pytest.mark.parametrize(("residual", "relative"), [(0.7, None), (0.0, None), (2.5, (0.2, 1.0, 2.0, 0.1)), (8.0, None)])
def test_an_h_term_swallows_an_outlier_where_its_place_turns(residual, relative, cross_terms):
    law = ClusteredGradients(1.0, residual, 0.0, relative)
    found = transition_sigma_H(GIVEN, law, float(D), cross_terms)
    lengths = law.mean_lengths(C)
    if cross_terms:
        thetas = dense_t(LOGITS, LABELS, lengths, residual, 0.0)[0][1 - C :]
    else:
        thetas = dense_t(LOGITS, LABELS, lengths, 0.0, 0.0)[0][1 - C :]
    expected = []
    for theta in thetas:
        beyond = theta > residual**2 * BARE.max() * (1 + 1e-6) and slope(theta, residual, 0.0) > 0
        expected.append(brentq(lambda s, u=theta: slope(u, residual, s), 0.0, 2 * theta) if beyond else 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    assert (np.diff(found) >= 0).all()


def test_without_means_nothing_is_swallowed():
    assert transition_sigma_H(GIVEN, ClusteredGradients(0.0, 0.7), float(D), True).tolist() == [0.0] * (C - 1)
