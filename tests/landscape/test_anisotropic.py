"""Gradient laws of measured means and anisotropic residuals: draws against dense ones and each other, bad input."""

import dataclasses

import numpy as np
import pytest
from scipy.linalg import sqrtm

import rmtland as rl
from rmtland.landscape.kernel_rows import spectrum_of_kernel
from tests import oracles
from tests.statistical import assert_mean

N, C, D = 40, 3, 120
LOGITS, LABELS = rl.GaussianLogits(2.0).draw_logits(N, C, np.random.default_rng(1))
GIVEN = rl.GivenLogits(LOGITS, LABELS)
COVARIANCE = rl.ResidualCovariance.power_law(0.8, cut=100)
FACTORS = 2


def rich_law(**changes):
    """Every option at once."""
    base = np.random.default_rng(0).standard_normal((C * C + FACTORS, 30))
    across = np.random.default_rng(2).standard_normal((N, C, C + 1))
    options = {
        "residual_length": 0.5,
        "covariance": COVARIANCE,
        "residual_scales": np.random.default_rng(3).uniform(0.2, 2.2, N),
        "logit_covariance": across @ across.swapaxes(1, 2) / (C + 1),
        "mean_scales": np.random.default_rng(4).uniform(0.6, 1.4, (N, C)),
        "loadings": 0.5 * np.random.default_rng(5).standard_normal((N, C, FACTORS)),
    }
    return rl.AnisotropicGradients(base @ base.T / 30, **{**options, **changes})


LAW = rich_law()


def model_of(law, num_parameters=D):
    return rl.LandscapeModel(N, C, num_parameters, GIVEN, law)


def statistics(spectrum):
    top = spectrum.eigenvalues[::-1]
    powers = spectrum.powers[::-1]
    return [*top[:4], powers[: C - 1].sum(), top.sum(), (top**2).sum(), spectrum.gradient_norm**2]


@pytest.mark.slow
def test_reduced_draws_are_full_draws_in_law():
    model = model_of(LAW)
    full = [statistics(rl.gauss_newton_spectrum(model.sample(rng=i))) for i in range(40)]
    reduced = [statistics(model.spectrum(rng=i)) for i in range(400)]
    expected = np.mean(reduced, axis=0)
    scale = np.abs(expected)
    bias = 5 * np.std(reduced, axis=0) / 400**0.5
    assert_mean(full, expected, bias=bias, detect=[0.2, 0.2, 0.2, 0.2, 0.4, 0.2, 0.3, 0.3] * scale)
    for change in ({"mean_scales": None}, {"loadings": 2 * LAW.loadings}, {"residual_scales": None}):
        mutant = [statistics(model_of(rich_law(**change)).spectrum(rng=i)) for i in range(60)]
        assert np.max(np.abs(np.mean(mutant, axis=0) / expected - 1)) > 0.05, change


def test_a_full_draw_has_the_means_inner_products_and_the_residuals_covariances():
    plain = rl.AnisotropicGradients(
        LAW.mean_gram[: C * C, : C * C], 0.5, COVARIANCE, LAW.residual_scales, LAW.logit_covariance
    )
    second = np.zeros((N, C, C))
    for seed in range(120):
        means, residuals, own = plain.draw_gradients(LABELS, C, D, np.random.default_rng(seed))
        second += residuals @ residuals.swapaxes(1, 2) / 120
    stacked = (means[:, None] + own).reshape(C * C, D)
    np.testing.assert_allclose(stacked @ stacked.T, plain.mean_gram, atol=1e-10)
    scales = LAW.residual_scales[:, None, None]
    expected = 0.25 * scales**2 * LAW.logit_covariance
    assert np.abs(second - expected).max() < 0.2 * np.abs(expected).max()
    assert np.abs(second / expected.mean() - expected / expected.mean()).mean() < 0.1
    shares, counts = COVARIANCE.shares(D)
    assert counts.sum() == 100
    along = np.mean([
        np.sum(plain.draw_gradients(LABELS, C, D, np.random.default_rng(s))[1] ** 2, axis=(0, 1)) for s in range(60)
    ], axis=0)  # fmt: skip
    np.testing.assert_allclose(along[:5] / along.sum(), shares[:5], rtol=0.1)
    assert not along[100:].any()


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("shape", [(N,), (N, C), (N, C, C)])
def test_means_as_examples_stretch_and_mix_them(by_class, shape):
    """Without residuals: the inner products of all logit gradients, each example's coefficients written out."""
    count = C * C if by_class else C
    base = np.random.default_rng(0).standard_normal((count + FACTORS, 20))
    scales, loadings = np.random.default_rng(1).uniform(0.5, 2.0, shape), LAW.loadings
    law = rl.AnisotropicGradients(base @ base.T, 0.0, mean_scales=scales, loadings=loadings)
    means, rest, *own = law.draw_gradients(LABELS, C, D, np.random.default_rng(2))
    rows = means + rest + (own[0][:, LABELS].swapaxes(0, 1) if by_class else 0.0)
    coefficients = np.zeros((N, C, count + FACTORS))
    for mu, y in enumerate(LABELS):
        mixing = scales[mu] if len(shape) == 3 else np.diag(np.broadcast_to(scales[mu], C))
        for k in range(C):
            for m in range(C):
                coefficients[mu, k, C * m + y if by_class else m] = mixing[k, m]
        coefficients[mu, :, count:] = loadings[mu]
    expected = (coefficients @ base).reshape(N * C, 20)
    rows = rows.reshape(N * C, D)
    np.testing.assert_allclose(rows @ rows.T, expected @ expected.T, atol=1e-10)


SLOPES = rl.CrossEntropy().gradient(LOGITS, LABELS)
OTHER = 0.2 * np.random.default_rng(7).standard_normal((N, C)) + SLOPES


@pytest.mark.parametrize("cancelling", [SLOPES, OTHER], ids=["gradient", "other"])
def test_residuals_that_cancel(cancelling):
    """Of the gradient's own combination and of one that is neither that nor at right angles to it."""
    law = rich_law(cancelling=cancelling, mean_scales=None, loadings=np.zeros((N, C, FACTORS)))
    residuals = law.draw_gradients(LABELS, C, D, np.random.default_rng(0))[1]
    size = np.abs(cancelling).max() * np.abs(residuals).max()
    assert np.abs(np.einsum("nk,nkd->d", cancelling, residuals)).max() < 1e-12 * N * size
    law = rich_law(cancelling=cancelling)
    model, free = model_of(law), model_of(LAW)
    full = [statistics(rl.gauss_newton_spectrum(model.sample(rng=i))) for i in range(40)]
    reduced = [statistics(model.spectrum(rng=i)) for i in range(400)]
    expected = np.mean(reduced, axis=0)
    assert_mean(full, expected, bias=5 * np.std(reduced, axis=0) / 400**0.5 + 1e-12,
                detect=[0.2, 0.2, 0.2, 0.25, 0.4, 0.2, 0.3, 0.3] * expected)  # fmt: skip
    theory, other = model.theory(), free.theory()
    assert_mean([s[4] for s in reduced], theory.gradient_power(C - 1), bias=0.015, detect=0.08)
    assert_mean([s[5] for s in reduced], theory.trace, detect=0.05 * theory.trace)
    assert_mean([s[6] for s in reduced], theory.frobenius**2, detect=0.1 * theory.frobenius**2)
    square = theory.equation.vector_square
    assert_mean([s[7] for s in reduced], square, bias=1e-12 * square, detect=0.2 * square)
    # What the law without it has.
    assert other.equation.vector_square > 1.005 * theory.equation.vector_square
    assert other.trace > (1.005 if cancelling is OTHER else 1.001) * theory.trace
    if cancelling is SLOPES:
        means = model_of(rich_law(residual_length=0.0)).theory()
        assert theory.equation.vector_square == pytest.approx(means.equation.vector_square)


PLAIN = rl.AnisotropicGradients(
    np.cov(np.random.default_rng(8).standard_normal((C, 9))), 0.7, logit_covariance=np.diag([0.5, 1.0, 2.5])
)


CURVATURES = np.array([np.linalg.eigvalsh(oracles.curvature(z))[-1] for z in LOGITS])
FEW_OF_ONE = np.where(np.arange(N) == 5, 2, LABELS % 2)


@pytest.mark.parametrize("tolerance", [0.0, 0.3])
@pytest.mark.parametrize(
    ("law", "labels"),
    [
        (PLAIN, LABELS),
        (dataclasses.replace(PLAIN, cancelling=np.zeros((N, C))), LABELS),
        (dataclasses.replace(PLAIN, cancelling=1e-4 * SLOPES, mean_scales=LAW.mean_scales), LABELS),
        (LAW, LABELS),
        (rich_law(cancelling=OTHER, mean_scales=np.random.default_rng(9).standard_normal((N, C, C))), LABELS),
        (dataclasses.replace(LAW, mean_gram=LAW.mean_gram[: C * C, : C * C], loadings=None), FEW_OF_ONE),
        # Longer, the less curvature there is: rows that are random and not long.
        (rich_law(residual_length=0.01, residual_scales=CURVATURES**-0.8, logit_covariance=np.eye(C)), LABELS),
    ],
    ids=["plain", "nothing", "gradient", "rich", "other", "by class", "frozen"],
)
def test_rows_are_what_examples_make_of_means_and_normal_numbers(law, labels, tolerance):
    """What no rotation within an example changes, added up over these: all rows, or what they leave of the gradient."""
    rows, slopes = law.weighted_rows(LOGITS, labels, tolerance), rl.CrossEntropy().gradient(LOGITS, labels)
    by_class, size = len(law.mean_gram) > C + FACTORS, len(law.mean_gram)
    total = dict.fromkeys(["loadings", "means", "variance", "crossed", "gradient", "square", "along", "lost"], 0.0)
    roots = []
    for mu in range(N):
        scale = np.ones(1) if law.residual_scales is None else law.residual_scales[mu] * np.ones(1)
        across = law.logit_covariance if law.logit_covariance.ndim == 2 else law.logit_covariance[mu]
        roots.append(law.residual_length * sqrtm(scale**2 * across).real)
    balance, heights, variances = None, [], []
    if law.cancelling is not None and law.cancelling.any():
        balance = np.array([root @ w for root, w in zip(roots, law.cancelling, strict=True)])
        balance /= np.linalg.norm(balance)
    own = np.array([root @ w / N for root, w in zip(roots, slopes, strict=True)])
    if balance is not None:
        own -= balance * np.sum(balance * own)
    for mu, y in enumerate(labels):
        mixing = np.eye(C) if law.mean_scales is None else law.mean_scales[mu]
        mixing = mixing if mixing.ndim == 2 else np.diag(mixing)
        coefficients = np.zeros((C, size))
        coefficients[:, np.arange(C) * C + y if by_class else np.arange(C)] = mixing
        if law.loadings is not None:
            coefficients[:, -FACTORS:] = law.loadings[mu]
        curvature, root = oracles.curvature(LOGITS[mu]), roots[mu]
        values, vectors = (part[..., 1:] for part in np.linalg.eigh(root @ curvature @ root))
        variances.append(values)
        heights.append(np.sum((curvature @ root @ vectors) ** 2, axis=0) / values)
        total["means"] += coefficients.T @ slopes[mu] / N
        total["square"] += own[mu] @ own[mu]
        total["loadings"] += coefficients.T @ curvature @ coefficients / N
        total["variance"] += np.trace(root @ curvature @ root) / N
        total["crossed"] += coefficients.T @ curvature @ root @ root @ curvature @ coefficients / N**2
        total["gradient"] += coefficients.T @ curvature @ root @ own[mu] / N
        total["along"] += own[mu] @ root @ curvature @ root @ own[mu] / N
        if balance is not None:
            total["lost"] += coefficients.T @ curvature @ root @ balance[mu] / N
    dense = np.zeros((rows.scales.size, size))
    start = 0
    for block in rows.blocks:
        dense[start : start + len(block.loadings), block.columns] = block.loadings
        start += len(block.loadings)
    assert start == len(dense)
    # Rows that are as long or as random as others.
    kept = [np.ravel(x) > tolerance * np.max(x) for x in (heights, variances)]
    np.testing.assert_allclose(np.sort(rows.scales**2), np.sort(np.ravel(variances)[kept[0] | kept[1]]) / N)
    found = {"means": rows.mean_slopes, "square": rows.slopes @ rows.slopes + rows.dropped**2}
    if tolerance == 0:
        weights = rows.scales[:, None] * dense
        found |= {"loadings": dense.T @ dense, "variance": rows.scales @ rows.scales, "crossed": weights.T @ weights}
        found |= {"gradient": weights.T @ rows.slopes, "along": np.sum((rows.scales * rows.slopes) ** 2)}
        found |= {"lost": weights.T @ rows.cancelled} if balance is not None else {}
    else:
        assert (rows.dropped > 0) == (total["square"] > 1e-20)
    for name, value in found.items():
        np.testing.assert_allclose(value, total[name], atol=1e-12 * np.abs(total[name]).max() + 1e-18, err_msg=name)


def test_frozen_examples_have_no_rows():
    frozen = np.concatenate([[[1000.0, 0.0, 0.0]], LOGITS[1:]])
    assert LAW.weighted_rows(frozen, LABELS, 0.0).scales.size == (N - 1) * (C - 1)


@pytest.mark.slow
def test_the_second_moment_of_few_rows_that_cancel():
    """Of two examples the combination that is left out is a large part of the rows."""
    logits, labels = LOGITS[:2], np.array([0, 1])
    slopes = rl.CrossEntropy().gradient(logits, labels)
    law = rl.AnisotropicGradients(np.eye(C), 3.0, COVARIANCE, cancelling=slopes)
    model = rl.LandscapeModel(2, C, D, rl.GivenLogits(logits, labels), law)
    theory = model.theory()
    rows, rng = law.weighted_rows(logits, labels), np.random.default_rng(0)
    draws = [rows.draw(D, rng)[0] for _ in range(4000)]
    squares = [np.sum((y @ y.T) ** 2) for y in draws]
    np.testing.assert_allclose(squares[0], np.sum(model.spectrum(rng=0).eigenvalues ** 2))
    assert_mean(squares, theory.frobenius**2, detect=0.07 * theory.frobenius**2)
    lost = theory.equation.rows.cancelled_rows
    assert 2 * (lost @ lost) ** 2 * (1 + 1 / 100) > 0.1 * theory.frobenius**2  # as much as a wrong sign would add


def test_the_isotropic_law_is_the_clustered_one_of_fixed_means():
    """At large D means of ClusteredGradients have their mean Gram matrix."""
    one = rl.LandscapeModel(N, C, 10**7, GIVEN, rl.AnisotropicGradients.clustered(C, 1.0, 0.6, 0.4))
    two = rl.LandscapeModel(N, C, 10**7, GIVEN, rl.ClusteredGradients(1.0, 0.6, 0.4))
    first, second = one.spectrum(rng=0), two.spectrum(rng=0)
    np.testing.assert_allclose(first.outliers(6), second.outliers(6), rtol=5e-3)
    assert first.gradient_power(2) == pytest.approx(second.gradient_power(2), abs=5e-3)
    by_class = rl.AnisotropicGradients.clustered(C, 1.0, 0.6, 0.0)
    assert by_class.mean_gram.shape == (C, C)


@pytest.mark.parametrize("multiplicity", [1, 400])
def test_equal_eigenvalues_are_turned_into_few_columns(multiplicity):
    """Given one by one or together, they make the same law."""
    values = np.repeat([3.0, 1.0], [200, 300]) if multiplicity == 1 else [3.0, 1.0]
    counts = None if multiplicity == 1 else [200, 300]
    law = rl.AnisotropicGradients.clustered(C, 1.0, 0.6, 0.0, rl.ResidualCovariance(values, counts))
    draws = [statistics(model_of(law, 1000).spectrum(rng=i)) for i in range(200)]
    together = rl.AnisotropicGradients.clustered(C, 1.0, 0.6, 0.0, rl.ResidualCovariance([3.0, 1.0], [200, 300]))
    other = [statistics(model_of(together, 1000).spectrum(rng=1000 + i)) for i in range(200)]
    expected = np.mean(other, axis=0)
    assert_mean(draws, expected, bias=5 * np.std(other, axis=0) / 200**0.5, detect=0.1 * expected)
    rows = together.weighted_rows(LOGITS, LABELS)
    assert rows.draw(10**12, np.random.default_rng(0))[0].shape[1] <= 2 * (N * (C - 1) + C + 1) + C


def test_without_residuals_nothing_is_random():
    law = rl.AnisotropicGradients(np.eye(C) + 0.3, 0.0)
    first, second = (model_of(law).spectrum(rng=i) for i in range(2))
    np.testing.assert_allclose(first.eigenvalues, second.eigenvalues)
    full = rl.gauss_newton_spectrum(model_of(law).sample(rng=0))
    np.testing.assert_allclose(full.eigenvalues[-2:], first.eigenvalues[-2:], rtol=1e-9)
    np.testing.assert_allclose(full.powers[-2:], first.powers[-2:], atol=1e-9)


def kernels():
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((N, 50)), rng.standard_normal((C, 5))
    return [(x @ x.T / 50 + 1, w @ w.T / 5 + 0.2), (np.diag(rng.uniform(0.1, 0.5, N)), np.eye(C))]


def test_the_kernel_law_has_its_gram_matrix():
    law = rl.KernelGradients(kernels())
    gram = sum(np.kron(theta, k) for theta, k in kernels())
    draw = model_of(law, 400).sample(rng=0)
    rows = draw.residuals.reshape(N * C, 400)
    np.testing.assert_allclose(rows @ rows.T, gram, atol=1e-9)
    full, reduced = rl.gauss_newton_spectrum(draw), model_of(law, 10**9).spectrum(rng=5)
    np.testing.assert_allclose(full.eigenvalues, reduced.eigenvalues, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(full.powers, reduced.powers, atol=1e-8)
    assert reduced.gradient_norm == pytest.approx(full.gradient_norm)
    eigenvalues, powers = spectrum_of_kernel(LOGITS, LABELS, gram)  # without eigenvectors
    count = min(eigenvalues.size, reduced.eigenvalues.size)
    np.testing.assert_allclose(eigenvalues[-count:], reduced.eigenvalues[-count:], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(powers[-count:], reduced.powers[-count:], atol=1e-8)
    assert np.isnan(spectrum_of_kernel(LOGITS, LABELS, 0 * gram)[1]).all()
    one = rl.KernelGradients(kernels()[:1])
    assert model_of(one).spectrum(rng=0).trace < 0.95 * reduced.trace  # the second term is seen


def test_the_kernel_law_of_few_columns():
    law = rl.KernelGradients(kernels(), effective_dimension=60)
    full = [statistics(rl.gauss_newton_spectrum(model_of(law).sample(rng=i))) for i in range(150)]
    reduced = [statistics(model_of(law).spectrum(rng=i)) for i in range(500)]
    expected = np.mean(reduced, axis=0)
    bias = 5 * np.std(reduced, axis=0) / 500**0.5
    assert_mean(full, expected, bias=bias, detect=[0.3, 0.3, 0.2, 0.2, 0.3, 0.2, 0.5, 0.4] * expected)
    fixed = statistics(model_of(rl.KernelGradients(kernels())).spectrum(rng=0))
    assert expected[6] > 1.05 * fixed[6]  # columns that are few spread the eigenvalues


def test_tolerance_leaves_rows_of_the_kernel_law_out():
    """Eigenvalues not above that share of the largest go, and their part of the gradient stays beside the others."""
    theta = np.diag(np.geomspace(1, 1e-6, N))
    law = rl.KernelGradients([(theta, np.eye(C))])
    whole = model_of(law).spectrum(rng=0, tolerance=0.0)
    some = model_of(law).spectrum(rng=0, tolerance=1e-3)
    kept = whole.eigenvalues > 1e-3 * whole.eigenvalues[-1]
    assert 10 < kept.sum() < whole.eigenvalues.size - 10
    np.testing.assert_allclose(some.eigenvalues, whole.eigenvalues[kept], rtol=1e-9)
    np.testing.assert_allclose(some.powers, whole.powers[kept], rtol=1e-9)
    assert some.null_power == pytest.approx(1 - whole.powers[kept].sum(), rel=1e-9)
    columns = rl.KernelGradients([(theta, np.eye(C))], effective_dimension=50)
    assert model_of(columns).spectrum(rng=0, tolerance=1e-3).eigenvalues.size == min(kept.sum(), 50)


@pytest.mark.parametrize("unit", [1.0, 1e-16])
def test_eigenvalues_of_the_kernel_law_are_left_out_by_their_share_of_the_largest(unit):
    law = rl.KernelGradients([(unit * np.diag(np.geomspace(1, 1e-6, N)), np.eye(C))])
    whole = model_of(law).spectrum(rng=0, tolerance=0.0)
    assert whole.eigenvalues.size == N * (C - 1)
    for place in (20, 50):
        tolerance = whole.eigenvalues[place] / whole.eigenvalues[-1]
        for factor, first in ((0.9999, place), (1.0001, place + 1)):
            some = model_of(law).spectrum(rng=0, tolerance=factor * tolerance)
            np.testing.assert_allclose(some.eigenvalues, whole.eigenvalues[first:], rtol=1e-9)
            assert some.null_power == pytest.approx(1 - whole.powers[first:].sum(), rel=1e-9)


def test_the_kernel_law_knows_rounding_from_rank():
    inputs = np.random.default_rng(0).standard_normal((N, 2))
    low = np.kron(inputs @ inputs.T, np.eye(C))
    law = rl.KernelGradients([(inputs @ inputs.T, np.eye(C))])
    assert model_of(law).spectrum(rng=0, tolerance=0.0).eigenvalues.size == 2 * (C - 1)
    assert spectrum_of_kernel(LOGITS, LABELS, low)[0].size == 2 * (C - 1)
    with pytest.raises(ValueError, match="`terms` must add up to a Gram matrix; got a negative eigenvalue"):
        spectrum_of_kernel(LOGITS, LABELS, low - 1e-4 * np.eye(N * C))
    assert spectrum_of_kernel(LOGITS, LABELS, 0 * low)[0].size == 0
    assert model_of(rl.KernelGradients([(np.zeros((N, N)), np.eye(C))])).spectrum(rng=0).eigenvalues.size == 0
    # Two examples whose gradients are opposite to the last bit.
    values, powers = spectrum_of_kernel(np.zeros((2, C)), np.zeros(2, int), np.kron([[1, -1], [-1, 1]], np.eye(C)))
    assert values.size == C - 1
    assert np.isnan(powers).all()


def test_clustering_of_the_kernel_law():
    law = rl.KernelGradients(kernels())
    measured = rl.clustering(model_of(law, 400).sample(rng=0))
    q = law.q_values(C, LABELS)
    assert q.same_logit == pytest.approx(measured.same_logit)
    assert q.different_logits == pytest.approx(measured.different_logits, abs=1e-9)
    assert q.same_logit_same_class == pytest.approx(measured.same_logit_same_class, rel=0.05)


def test_how_many_numbers_laws_are_given():
    assert rl.AnisotropicGradients(np.eye(3)).num_numbers == 6 + 1
    size = C * C + FACTORS
    own = N + N * C + N * C * FACTORS + N * C * (C + 1) // 2 + 100
    assert LAW.num_numbers == size * (size + 1) // 2 + 1 + own
    assert rl.KernelGradients(kernels()[:1], 5).num_numbers == N * (N + 1) // 2 + C * (C + 1) // 2 + 1


def test_covariances():
    assert rl.ResidualCovariance().effective_dimension == np.inf
    assert rl.ResidualCovariance([2.0, 1.0, 0.0], [1, 2, 5]).effective_dimension == pytest.approx(16 / 6)
    for dimension in (1.5, 30.0, 106.3):
        for exponent in (0.0, 0.8):
            law = rl.ResidualCovariance.from_effective_dimension(dimension, exponent)
            assert law.effective_dimension == pytest.approx(dimension)
    shares, counts = rl.ResidualCovariance([1.0, 2.0, 1.0], [2, 1, 3]).shares(10)
    np.testing.assert_allclose(shares * counts, [2 / 7, 5 / 7])
    assert counts.tolist() == [1, 5]


@pytest.mark.parametrize(("exponent", "cut"), [(0.8, 7), (0.0, 3), (2.5, 1)])
def test_a_power_law_has_its_eigenvalues(exponent, cut):
    law = rl.ResidualCovariance.power_law(exponent, cut)
    powers = [1 / j**exponent for j in range(1, cut + 1)]
    np.testing.assert_allclose(law.eigenvalues, powers, rtol=1e-14)
    assert law.effective_dimension == pytest.approx(sum(powers) ** 2 / sum(x * x for x in powers))


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.8, 0.999])
@pytest.mark.parametrize("dimension", [1.0, 1.5, 2.0, 7.3, 30.0])
def test_a_dimension_has_the_fewest_eigenvalues_of_its_power_law(dimension, exponent):
    """All are those of the law but the last, which is smaller."""
    if exponent == 0.999 and dimension > 10:
        return  # 5e5 eigenvalues and more
    law = rl.ResidualCovariance.from_effective_dimension(dimension, exponent)
    found = np.asarray(law.eigenvalues)
    powers = [1 / j**exponent for j in range(1, found.size + 1)]
    np.testing.assert_allclose(found[:-1], powers[:-1], rtol=1e-14)
    assert 0 < found[-1] <= powers[-1]
    assert sum(found) ** 2 / sum(found**2) == pytest.approx(dimension, rel=1e-9)
    fewer = np.array(powers[:-1])
    assert found.size == 1 or sum(fewer) ** 2 / sum(fewer**2) < dimension


def test_means_and_columns_that_just_fit():
    """As many dimensions as means, or as independent columns, are enough for a draw."""
    means = rl.AnisotropicGradients(np.eye(C * C) + 0.1, 0.0)
    drawn, _, own = means.draw_gradients(LABELS, C, C * C, np.random.default_rng(0))
    whole = (drawn[:, None] + own).reshape(C * C, C * C)
    np.testing.assert_allclose(whole @ whole.T, means.mean_gram, atol=1e-12)
    kernel = rl.KernelGradients(kernels())
    rows = kernel.draw_gradients(LABELS, C, N * C, np.random.default_rng(0))[1].reshape(N * C, N * C)
    np.testing.assert_allclose(rows @ rows.T, kernel.gram(), atol=1e-9)
    few = rl.KernelGradients(kernels(), effective_dimension=20.9)
    squares = [np.sum(few.draw_gradients(LABELS, C, 20, np.random.default_rng(seed))[1] ** 2) for seed in range(30)]
    assert_mean(squares, np.trace(kernel.gram()), detect=0.3 * np.trace(kernel.gram()))
    one = rl.KernelGradients(kernels(), effective_dimension=1)
    assert not np.any(one.draw_gradients(LABELS, C, 5, np.random.default_rng(0))[1][:, :, 1:])


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: rl.ResidualCovariance([1.0, -1.0]), ValueError, "`eigenvalues` must be >= 0 and not all 0"),
        (lambda: rl.ResidualCovariance([0.0]), ValueError, "not all 0"),
        (lambda: rl.ResidualCovariance([1.0], [0.5]), ValueError, "`multiplicities` must be whole numbers"),
        (lambda: rl.ResidualCovariance([1.0], [1.5]), ValueError, "must be whole numbers >= 1; got 1.5"),
        (lambda: rl.ResidualCovariance([1.0], [0]), ValueError, "must be whole numbers >= 1; got 0"),
        (lambda: rl.ResidualCovariance([1.0], [1, 2]), ValueError, "`multiplicities` must have 1 entries"),
        (lambda: rl.ResidualCovariance(None, [1]), ValueError, "`multiplicities` must be left out"),
        (lambda: rl.ResidualCovariance.from_effective_dimension(9, 1.0), ValueError, "`exponent` must be"),
        (lambda: rl.ResidualCovariance.power_law(-0.1, 5), ValueError, "`exponent` must be >= 0; got -0.1"),
        (lambda: rl.ResidualCovariance.power_law(0.8, 0), ValueError, "`cut` must be >= 1; got 0"),
        (lambda: rl.KernelGradients(kernels(), 0.9), ValueError, "`effective_dimension` must be >= 1; got 0.9"),
        (lambda: rl.ResidualCovariance.from_effective_dimension(0.5), ValueError, "`dimension` must be"),
        (lambda: rl.ResidualCovariance.from_effective_dimension(1e6), MemoryError, "dimension 1e.06 needs"),
        (lambda: rl.ResidualCovariance.from_effective_dimension(1e6, 1 - 1e-12), MemoryError, "exponent closer to 0"),
        (lambda: model_of(rl.AnisotropicGradients(np.eye(C), 1.0, rl.ResidualCovariance(np.ones(D + 1)))).spectrum(),
         ValueError, "at most D = 120 positive eigenvalues; got 121"),
        (lambda: rl.AnisotropicGradients(np.diag([1.0, -1.0])), ValueError, "`mean_gram` must have no negative"),
        (lambda: rl.AnisotropicGradients([[1.0, 0.5], [0.0, 1.0]]), ValueError, "`mean_gram` must be symmetric"),
        (lambda: rl.AnisotropicGradients(np.ones((2, 3))), ValueError, "`mean_gram` must be square"),
        (lambda: rl.AnisotropicGradients(np.eye(C), logit_covariance=np.ones((N, 2, 3))), ValueError,
         "`logit_covariance` must be square; got"),
        (lambda: rl.AnisotropicGradients(np.eye(C), covariance=1.0), TypeError, "`covariance` must be a Residual"),
        (lambda: rl.AnisotropicGradients(np.eye(C), mean_scales=[-1.0]), ValueError, "`mean_scales` must have shape"),
        (lambda: model_of(rl.AnisotropicGradients(np.eye(C + 1))), ValueError, "`mean_gram` must have C = 3 or"),
        (lambda: model_of(rl.AnisotropicGradients(np.eye(C), residual_scales=np.ones(N + 1))), ValueError,
         "`residual_scales` must have shape"),
        (lambda: model_of(rl.AnisotropicGradients(np.eye(C * C)), 5).spectrum(), ValueError, "rank <= D = 5"),
        (lambda: model_of(rl.AnisotropicGradients(np.eye(C * C)), 5).sample(), ValueError, "rank <= D = 5"),
        (lambda: model_of(LAW).spectrum(cross_terms=False), ValueError, "`cross_terms` must be True"),
        (lambda: model_of(LAW).spectrum(rows=rl.SharedRows(0)), ValueError, "`rows` must be left out"),
        (lambda: rl.LandscapeModel(N, C, D, GIVEN, LAW, sigma_H=1.0).spectrum(), ValueError, "`sigma_H` must be 0"),
        (lambda: rl.KernelGradients([]), ValueError, "`terms` must have at least one pair"),
        (lambda: rl.KernelGradients([(np.eye(3), np.eye(2)), (np.eye(4), np.eye(2))]), ValueError, "have one shape"),
        (lambda: model_of(rl.KernelGradients([(np.eye(N), np.eye(C + 1))])), ValueError, "must be of N = 40"),
        (lambda: model_of(rl.KernelGradients([(-np.eye(N), np.eye(C))])).spectrum(), ValueError, "add up to a Gram"),
        (lambda: model_of(rl.KernelGradients([(np.eye(N), np.eye(C))]), 50).sample(), ValueError, "rank <= D = 50"),
        (lambda: model_of(rl.KernelGradients(kernels(), 121)).sample(), ValueError,
         "`effective_dimension` must be <= D = 120; got 121"),
    ],
)  # fmt: skip
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match):
        make()
