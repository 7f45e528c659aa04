"""The law of a source's own means, shared directions and residuals against the source."""

import itertools

import numpy as np
import pytest

import rmtland as rl
from rmtland.logits.gram import logit_gradient_gram

N, C, D = 60, 4, 500
LAW = rl.AnisotropicGradients.clustered(C, 1.0, 0.8, 0.6, rl.ResidualCovariance.power_law(0.9, cut=400))
DRAW = rl.LandscapeModel(N, C, D, rl.GaussianLogits(2.0), LAW).sample(rng=0)


def model_of(law):
    return rl.LandscapeModel(N, C, D, rl.GivenLogits(DRAW.logits, DRAW.labels), law)


def fixed_products(law):
    """Inner products of what is fixed of the logit gradients: means as mixed, and shared directions as loaded."""
    size = law.loadings.shape[2]
    fixed = np.zeros((N, C, C * C + size))
    for mu, y in enumerate(DRAW.labels):
        fixed[mu][:, np.arange(C) * C + y] = law.mean_scales[mu]
    fixed[:, :, C * C :] = law.loadings
    fixed = fixed.reshape(N * C, -1)
    return fixed @ law.mean_gram @ fixed.T


def test_inner_products_are_kept():
    """Whatever the law takes as it is, is the source's: lengths, means, loadings and their inner products."""
    gram = logit_gradient_gram(DRAW).centered()
    law = rl.measured_gradients(DRAW, num_factors=5)
    whole = gram.matrix.reshape(N * C, N * C)
    ours = fixed_products(law)
    rest = whole - ours
    own = np.einsum("nknl->nkl", rest.reshape(N, C, N, C))
    np.testing.assert_allclose(np.trace(law.logit_covariance.sum(axis=0)), np.trace(own.sum(axis=0)), rtol=0.02)
    assert np.linalg.norm(rest) < 0.8 * np.linalg.norm(whole)
    # Class means of the centred logit gradients, in the law's order.
    dense = DRAW._centres()[0][DRAW.labels] + DRAW.residuals
    dense = dense - dense.mean(axis=1, keepdims=True)
    means = np.array([dense[DRAW.labels == y, k].mean(axis=0) for k in range(C) for y in range(C)])
    np.testing.assert_allclose(law.mean_gram[: C * C, : C * C], means @ means.T, atol=1e-9)


DENSE = DRAW._centres()[0][DRAW.labels] + DRAW.residuals


def without_means(gradients, labels):
    """What no combination of the means of its class has of each example's centred logit gradients."""
    gradients, rest = gradients - gradients.mean(axis=1, keepdims=True), np.empty_like(gradients)
    for mu, y in enumerate(labels):
        means = gradients[labels == y].mean(axis=0)
        rest[mu] = gradients[mu] - np.linalg.lstsq(means.T, gradients[mu].T, rcond=1e-6)[0].T @ means
    return rest


@pytest.mark.parametrize("num_factors", [1, 2, 40])
def test_the_last_direction_is_that_of_the_gradient(num_factors):
    """Of as many as are asked for, the first that residuals add up to, less what the leading ones have of it."""
    law = rl.measured_gradients(DRAW, num_factors)
    assert law.loadings.shape == (N, C, num_factors)
    rest = without_means(DENSE, DRAW.labels)
    slopes = DRAW.probabilities - np.eye(C)[DRAW.labels]
    gradient = np.einsum("nk,nkd->d", slopes, rest)
    length = np.sqrt(np.mean(np.sum((DENSE - DENSE.mean(axis=1, keepdims=True)) ** 2, axis=2)))
    # All of the gradient is along the directions, so that what they have of it are its inner products with the rows.
    along = np.einsum("nkf,f->nk", law.loadings, np.einsum("nk,nkf->f", slopes, law.loadings)) * length**2
    np.testing.assert_allclose(along, rest @ gradient, atol=1e-9 * np.abs(rest @ gradient).max())
    if num_factors == 1:
        expected = rest @ gradient / np.linalg.norm(gradient) / length
        np.testing.assert_allclose(law.loadings[:, :, 0], expected, atol=1e-9)


@pytest.mark.parametrize("num_factors", [4, 40])
def test_leading_directions_are_those_of_residuals_weighed_by_curvature(num_factors):
    """All but the last: right singular vectors of the residuals written out, each row by the root of its tr A_mu."""
    law = rl.measured_gradients(DRAW, num_factors)
    rest = without_means(DENSE, DRAW.labels).reshape(N * C, D)
    curvature = 1 - np.sum(DRAW.probabilities**2, axis=1)
    weights = np.repeat(curvature + 1e-3 * curvature.mean(), C)  # frozen examples keep a little
    vectors = np.linalg.svd(np.sqrt(weights)[:, None] * rest, full_matrices=False)[2][: num_factors - 1]
    centred = DENSE - DENSE.mean(axis=1, keepdims=True)
    means = np.array([centred[DRAW.labels == y, k].mean(axis=0) for k in range(C) for y in range(C)])
    length = np.sqrt(np.mean(np.sum(centred**2, axis=2)))
    found = law.loadings.reshape(N * C, num_factors)[:, -2::-1]
    signs = np.sign(np.sum(found * (rest @ vectors.T), axis=0))
    np.testing.assert_allclose(found * signs, rest @ vectors.T / length, atol=1e-7)
    overlaps = law.mean_gram[: C * C, C * C :][:, -2::-1]
    np.testing.assert_allclose(overlaps * signs, means @ vectors.T * length, atol=1e-7)
    np.testing.assert_allclose(law.mean_gram[C * C :, C * C :], length**2 * np.eye(num_factors), atol=1e-9)
    # What is left is each example's own covariance, and adds nothing to the gradient.
    left = (
        rest - law.loadings.reshape(N * C, -1) @ np.linalg.lstsq(law.loadings.reshape(N * C, -1), rest, rcond=None)[0]
    )
    np.testing.assert_allclose(law.cancelling, DRAW.probabilities - np.eye(C)[DRAW.labels], atol=1e-14)
    assert law.residual_length == 1.0
    assert np.linalg.norm(left) <= np.sqrt(np.trace(law.logit_covariance.sum(axis=0))) * (1 + 1e-9)


@pytest.mark.parametrize("examples", [range(N), [3, 7]])
def test_the_rest_has_the_effective_dimension_of_its_inner_products(examples):
    """By loops over pairs of examples; all directions alike where it is half of D or more."""
    examples = list(examples)
    labels = DRAW.labels[examples] if len(examples) > 2 else np.zeros(2, dtype=int)
    source = rl.DenseLogitGradients(DRAW.logits[examples], labels, DENSE[examples])
    rest = without_means(DENSE[examples], labels)
    squares = lengths = 0.0
    for m, n in itertools.permutations(range(len(examples)), 2):
        squares += np.sum((rest[m] @ rest[n].T) ** 2)
        lengths += np.sum(rest[m] ** 2) * np.sum(rest[n] ** 2)
    dimension = lengths / squares
    gram = rl.logit_gradient_gram(source)
    for num_parameters, isotropic in ((round(2.1 * dimension), False), (round(1.9 * dimension), True)):
        other = rl.LogitGradientGram(gram.matrix, gram.logits, gram.labels, num_parameters)
        found = rl.measured_gradients(other, num_factors=0).covariance
        assert found.isotropic == isotropic
        if not isotropic:
            assert found.effective_dimension == pytest.approx(dimension, rel=1e-6)


@pytest.mark.parametrize("num_factors", [0, 12])
def test_the_law_has_the_spectrum_of_its_source(num_factors):
    real = rl.gauss_newton_spectrum(DRAW)
    law = rl.measured_gradients(DRAW, num_factors)
    spectra = [model_of(law).spectrum(rng=i) for i in range(20)]
    top = np.mean([s.eigenvalues[::-1][:6] for s in spectra], axis=0)
    np.testing.assert_allclose(top, real.eigenvalues[::-1][:6], rtol=0.12)
    assert np.mean([s.gradient_power(3) for s in spectra]) == pytest.approx(real.gradient_power(3), abs=0.06)
    assert np.mean([s.goldilocks_ratio() for s in spectra]) == pytest.approx(real.goldilocks_ratio(), rel=0.05)
    # A law of one length for all is further off.
    scales = rl.logit_scales(DRAW)
    plain = model_of(rl.ClusteredGradients(scales.sigma_c * D**0.5, scales.sigma_E * D**0.5))
    other = np.mean([plain.spectrum(rng=i).eigenvalues[::-1][:6] for i in range(20)], axis=0)
    errors = [np.median(np.abs(np.log(t / real.eigenvalues[::-1][:6]))) for t in (top, other)]
    assert errors[0] < 0.5 * errors[1]


def test_all_directions_are_the_source_itself():
    law = rl.measured_gradients(DRAW, num_factors=N * C)
    real = rl.gauss_newton_spectrum(DRAW)
    spectrum = model_of(law).spectrum(rng=0)
    np.testing.assert_allclose(spectrum.eigenvalues[-20:], real.eigenvalues[-20:], rtol=1e-5)
    assert spectrum.gradient_power(3) == pytest.approx(real.gradient_power(3), abs=1e-4)


def test_sources_without_residuals_and_with_absent_classes():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((3, 50))
    labels = np.array([0, 0, 1, 1, 0])
    alike = rl.DenseLogitGradients(rng.standard_normal((5, 3)), labels, np.broadcast_to(means, (5, 3, 50)).copy())
    law = rl.measured_gradients(alike)
    assert law.residual_length == 0
    given = rl.GivenLogits(alike.logits, labels)
    real = rl.gauss_newton_spectrum(alike).eigenvalues[-2:]
    np.testing.assert_allclose(rl.LandscapeModel(5, 3, 50, given, law).spectrum(rng=0).outliers(), real, rtol=1e-6)
    noisy = rl.DenseLogitGradients(alike.logits, labels, means + rng.standard_normal((5, 3, 50)))
    top = rl.LandscapeModel(5, 3, 50, given, rl.measured_gradients(noisy)).spectrum(rng=0).outliers()
    np.testing.assert_allclose(top, rl.gauss_newton_spectrum(noisy).eigenvalues[-2:], rtol=0.3)
    assert rl.measured_gradients(DRAW).loadings.shape[2] == 6 * C
    nothing = rl.measured_gradients(rl.DenseLogitGradients(alike.logits, labels, np.zeros((5, 3, 50))))
    assert (nothing.residual_length, nothing.mean_gram.any()) == (0, False)
    with pytest.raises(ValueError, match="`num_factors` must be"):
        rl.measured_gradients(noisy, num_factors=16)


@pytest.mark.parametrize("scale", [1e-60, 1e-20, 1e-10, 1e10, 1e30])
def test_the_law_does_not_depend_on_the_unit_of_the_parameters(scale):
    """Means far shorter or longer than 1 beside directions: one Gram matrix holds both."""
    gram = rl.logit_gradient_gram(DRAW)
    other = rl.LogitGradientGram(gram.matrix * scale**2, gram.logits, gram.labels, gram.num_parameters)
    one, two = (rl.measured_gradients(g, num_factors=5) for g in (gram, other))
    expected = fixed_products(one)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(fixed_products(two) / scale**2, expected, rtol=0, atol=1e-9 * largest)
    np.testing.assert_allclose(two.logit_covariance / scale**2, one.logit_covariance, rtol=0, atol=1e-9 * largest)
    real = rl.gauss_newton_spectrum(DRAW)
    assert model_of(two).spectrum(rng=0).trace / scale**2 == pytest.approx(real.trace, rel=0.02)
