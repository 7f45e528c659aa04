"""Rows of the factor of G against sums over examples written out."""

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.weighted_rows import WeightedRows, _columns, gram_factor, rows_of_examples
from tests import oracles
from tests.statistical import assert_mean

N, C, F = 7, 4, 2
RNG = np.random.default_rng(0)
LOGITS = 1.5 * RNG.standard_normal((N, C))
LABELS = np.array([0, 1, 1, 0, 1, 0, 3])  # no example of the third class, one of the last
STRETCH, FACTORS = RNG.standard_normal((N, C, C)), RNG.standard_normal((N, C, F))
ROOTS = np.array([m @ m.T for m in RNG.standard_normal((N, C, C))])
BALANCE = RNG.standard_normal((N, C))
BALANCE /= np.linalg.norm(BALANCE)


def made(by_class, stretch, factors, each, balance, tolerance=0.0, logits=LOGITS, roots=ROOTS):
    size = (C * C if by_class else C) + (F if factors else 0)
    root = np.random.default_rng(1).standard_normal((size, size))
    gram = root @ root.T
    loadings = STRETCH if stretch else None, FACTORS if factors else None
    rows = rows_of_examples(
        logits, LABELS, roots if each else roots[:1], loadings, gram, rl.ResidualCovariance(), tolerance,
        BALANCE if balance else None,
    )  # fmt: skip
    return rows, gram


def of_example(mu, by_class, stretch, factors, size):
    """What the logit gradients of an example have of the mean rows, (C, size)."""
    at = np.zeros((C, size))
    columns = [k * C + LABELS[mu] for k in range(C)] if by_class else list(range(C))
    at[:, columns] = STRETCH[mu] if stretch else np.eye(C)
    if factors:
        at[:, size - F :] = FACTORS[mu]
    return at


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("by_class", [False, True])
def test_rows_have_the_inner_products_of_sums_over_examples(by_class, stretch, factors, each, balance):
    rows, gram = made(by_class, stretch, factors, each, balance)
    size = len(gram)
    np.testing.assert_allclose(rows.factor @ rows.factor.T, gram, atol=1e-9 * np.abs(gram).max())
    loadings, start = np.zeros((rows.scales.size, size)), 0
    for block in rows.blocks:
        loadings[start : start + len(block.loadings), block.columns] = block.loadings
        start += len(block.loadings)
    np.testing.assert_allclose(rows.means, loadings @ rows.factor, atol=1e-12)
    curvature, variances = np.zeros((size, size)), []
    h, own = np.zeros(size), np.zeros((N, C))
    for mu in range(N):
        root, slopes = ROOTS[mu if each else 0], (oracles.softmax(LOGITS[mu]) - np.eye(C)[LABELS[mu]]) / N
        at, a = of_example(mu, by_class, stretch, factors, size), oracles.curvature(LOGITS[mu]) / N
        curvature += at.T @ a @ at
        variances.extend(np.linalg.eigvalsh(root @ a @ root)[1:])
        h += at.T @ slopes
        own[mu] = root @ slopes
    if balance:
        own -= BALANCE * np.sum(BALANCE * own)
    np.testing.assert_allclose(loadings.T @ loadings, curvature, atol=1e-12)
    np.testing.assert_allclose(np.sort(rows.scales**2), np.sort(variances), rtol=1e-9)
    np.testing.assert_allclose(rows.mean_slopes, h, atol=1e-13)
    assert rows.slopes @ rows.slopes + rows.dropped**2 == pytest.approx(np.sum(own**2), rel=1e-12)
    # Products of rows with the gradient, along the mean rows and of the residuals alone; and with the combination.
    with_means, square, crossed, length = np.zeros(size), 0.0, 0.0, 0.0
    for mu in range(N):
        root, a = ROOTS[mu if each else 0], oracles.curvature(LOGITS[mu]) / N
        with_means += own[mu] @ root @ a @ of_example(mu, by_class, stretch, factors, size)
        square += own[mu] @ root @ a @ root @ own[mu]
        crossed += own[mu] @ root @ a @ root @ BALANCE[mu]
        length += BALANCE[mu] @ root @ a @ root @ BALANCE[mu]
    weights = rows.scales * rows.slopes
    np.testing.assert_allclose(weights @ loadings, with_means, atol=1e-12)
    assert weights @ weights == pytest.approx(square, rel=1e-10)
    if balance:
        assert rows.cancelled_rows @ weights == pytest.approx(crossed, rel=1e-9)
        assert rows.cancelled_rows @ rows.cancelled_rows == pytest.approx(length, rel=1e-10)
    else:
        assert rows.cancelled is None
        assert not rows.cancelled_rows.any()


@pytest.mark.parametrize("short", ["residuals", "both"])
def test_short_rows_are_left_out_but_not_what_they_have_of_the_gradient(short):
    """Short of means and of residuals: a frozen example; not those of which one of both is long."""
    logits = LOGITS.copy()
    roots = ROOTS.copy()
    if short == "both":
        logits[3, LABELS[3]] += 20.0
    else:
        roots[3] *= 1e-6
    whole = made(False, False, False, True, False, 0.0, logits, roots)[0]
    kept = made(False, False, False, True, False, 1e-6, logits, roots)[0]
    assert whole.scales.size == N * (C - 1)
    assert kept.scales.size == N * (C - 1) - (C - 1 if short == "both" else 0)
    for rows in (whole, kept):
        assert rows.slopes @ rows.slopes + rows.dropped**2 == pytest.approx(whole.slopes @ whole.slopes
                                                                            + whole.dropped**2)  # fmt: skip
    np.testing.assert_allclose(kept.mean_slopes, whole.mean_slopes, atol=1e-14)


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_a_frozen_example_of_long_residuals_is_kept(unit):
    """By their share of the longest, whatever the unit is."""
    logits, roots = LOGITS.copy(), unit * ROOTS
    logits[3, LABELS[3]] += 25.0
    sizes = [np.linalg.eigvalsh(root @ oracles.curvature(z) @ root)[1:] for z, root in zip(logits, roots, strict=True)]
    others = max(values[-1] for mu, values in enumerate(sizes) if mu != 3)
    for share, kept in ((1.2e-6, 1), (0.8e-6, 0)):
        roots[3] = unit * ROOTS[3] * (share * others / sizes[3][-1]) ** 0.5
        found = made(False, False, False, True, False, 1e-6, logits, roots)[0]
        assert found.scales.size == (N - 1) * (C - 1) + kept


def test_a_frozen_example_is_kept_by_its_share_of_the_largest_curvature():
    logits = LOGITS.copy()
    logits[3] = [9.0, 0.0, -60.0, -70.0]
    tops = [np.linalg.eigvalsh(oracles.curvature(z))[-1] for z in logits]
    for factor, kept in ((0.95, 1), (1.05, 0)):
        rows = made(False, False, False, True, False, factor * tops[3] / max(tops), logits, 0.0 * ROOTS)[0]
        assert rows.scales.size == (N - 1) * (C - 1) + kept
        assert not rows.scales.any()


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_a_gradient_that_is_the_combination_is_zero(unit):
    own = np.array([ROOTS[mu] @ (oracles.softmax(LOGITS[mu]) - np.eye(C)[LABELS[mu]]) for mu in range(N)])
    rows = rows_of_examples(
        LOGITS, LABELS, unit * ROOTS, (None, None), np.eye(C), rl.ResidualCovariance(), 0.0, own / np.linalg.norm(own)
    )
    assert not rows.slopes.any()
    assert rows.dropped == 0.0
    assert rows.mean_slopes.any()


def test_factors_have_no_column_for_rounding():
    root = np.random.default_rng(1).standard_normal((5, 2))
    factor = gram_factor(root @ root.T)
    assert factor.shape == (5, 2)
    np.testing.assert_allclose(factor @ factor.T, root @ root.T, atol=1e-13)
    assert gram_factor(np.zeros((3, 3))).shape == (3, 0)
    assert gram_factor(1e-40 * np.eye(3)).shape == (3, 3)
    assert gram_factor(np.diag([1.0, 1e-10, 1e-12])).shape == (3, 2)


def test_fixed_rows_are_as_they_are():
    fixed = made(True, True, False, False, False, 0.0, roots=0 * ROOTS)[0]
    rows, gradient = fixed.draw(1, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, fixed.means)
    np.testing.assert_allclose(gradient, fixed.factor.T @ fixed.mean_slopes, rtol=1e-12)
    assert not fixed.spread
    assert made(True, True, False, False, False)[0].spread
    assert fixed.dropped == 0.0


def test_columns_have_the_inner_products_of_as_many_as_there_are():
    """Of directions with one share each, apart from each other, of several alike, and of those without residuals."""
    shares, counts = np.array([0.3, 0.05, 0.1, 0.15, 0.0]), np.array([1.0, 6.0, 1.0, 2.0, 30.0])
    widths = [1, 5, 1, 2, 2]
    rng = np.random.default_rng(0)
    draws = [_columns(2, 3, shares, counts, widths, rng) for _ in range(500)]
    means, noise = (np.array(part) for part in zip(*draws, strict=True))
    assert means.shape == (500, 2, 11)
    assert noise.shape == (500, 3, 11)
    own, other, mixed = noise @ noise.swapaxes(1, 2), means @ means.swapaxes(1, 2), noise @ means.swapaxes(1, 2)
    assert_mean(own, np.eye(3), detect=0.4)
    assert_mean(other, 40 * np.eye(2), detect=6.0)
    assert_mean(mixed, 0.0, detect=0.6)
    # Squares of inner products are traces of the covariance and of its square.
    trace = counts @ shares**2
    assert_mean((own - np.eye(3)) ** 2, trace * (1 + np.eye(3)), detect=0.5)
    assert_mean(mixed**2, 1.0, detect=1.0)
    assert_mean((other - 40 * np.eye(2)) ** 2, 40 * (1 + np.eye(2)), detect=80.0)


@pytest.mark.parametrize("dropped", [0.6, 0.0])
def test_a_combination_is_taken_from_rows_and_what_the_gradient_has_stays(dropped):
    """Residual covariances of draws: T less an outer product, and that of the gradient with each row."""
    along, scales = np.array([0.5, -0.4, 0.3]), np.array([1.0, 0.5, 2.0])
    slopes = np.array([0.6, 0.3, 0.2])
    slopes -= 0.0 if dropped else along * (along @ slopes) / (along @ along)
    rows = WeightedRows(
        (), np.zeros((0, 0)), scales, np.zeros(0), slopes, dropped, rl.ResidualCovariance([1.0, 3.0], [4, 2]), along
    )
    rng = np.random.default_rng(0)
    draws = [rows.draw(8, rng) for _ in range(600)]
    products = np.array([np.vstack([r, g]) @ np.vstack([r, g]).T for r, g in draws])
    lost = scales * along
    np.testing.assert_allclose(rows.cancelled_rows, lost)
    assert_mean(products[:, :3, :3], np.diag(scales**2) - np.outer(lost, lost), detect=0.4 * np.outer(scales, scales))
    assert_mean(products[:, 3, :3], scales * slopes, detect=0.5 * scales)
    assert_mean(products[:, 3, 3], slopes @ slopes + dropped**2, detect=0.5)


def test_a_combination_of_rows_alone_is_zero_in_every_draw():
    along = np.array([0.6, 0.0, -0.8])
    rows = WeightedRows(
        (), np.zeros((0, 0)), np.array([1.0, 0.5, 2.0]), np.zeros(0), np.array([0.8, 0.3, 0.6]), 0.0,
        rl.ResidualCovariance(), along,
    )  # fmt: skip
    drawn, _ = rows.draw(10, np.random.default_rng(0))
    np.testing.assert_allclose((along / rows.scales) @ drawn, 0.0, atol=1e-14)


def test_means_of_draws_keep_their_inner_products():
    noisy, gram = made(True, True, True, True, False, roots=1e-9 * ROOTS)
    drawn, gradient = noisy.draw(300, np.random.default_rng(0))
    np.testing.assert_allclose(drawn @ drawn.T, noisy.means @ noisy.means.T, atol=1e-6)
    np.testing.assert_allclose(gradient @ gradient, noisy.mean_slopes @ gram @ noisy.mean_slopes, rtol=1e-5)
    np.testing.assert_allclose(drawn @ gradient, noisy.means @ (noisy.factor.T @ noisy.mean_slopes), atol=1e-6)
    with pytest.raises(ValueError, match=f"`mean_gram` must have rank <= D = {len(gram) - 1}, the dimension; got"):
        noisy.draw(len(gram) - 1, np.random.default_rng(0))
    assert noisy.draw(len(gram), np.random.default_rng(0))[0].shape[1] == len(gram)


def test_one_row_without_means_has_one_column_of_all_directions():
    rng = np.random.default_rng(0)
    means, noise = _columns(0, 1, np.array([0.5, 0.0]), np.array([4.0, 7.0]), [1, 0], rng)
    assert means.shape == (0, 1)
    assert noise == np.sqrt(0.5 * np.random.default_rng(0).chisquare(4.0))
    again = np.random.default_rng(0)
    again.chisquare(4.0)
    assert rng.normal() == again.normal()  # directions without residuals take no numbers
