import functools
import itertools

import numpy as np
import pytest

import rmtland as rl
from rmtland.logits import moments as module
from rmtland.logits.moments import cycle_moments
from tests.statistical import assert_mean

TAU = np.arange(1, 201) ** -0.8
TAU *= 200 / TAU.sum()
NUM_EXAMPLES, NUM_CLASSES = 60, 3
LABELS = np.repeat(np.arange(3), [30, 20, 10])
MEANS = 2 * np.random.default_rng(9).normal(size=(NUM_CLASSES, NUM_CLASSES, TAU.size)) * np.sqrt(TAU)


def by_definition(products, rows, order):
    """Mean of tr(B_12 ... B_p1) / C^p over all p-tuples of the rows in increasing order."""
    traces = []
    for chosen in itertools.combinations(rows, order):
        matrix = np.eye(products.shape[1])
        for a in range(order):
            matrix = matrix @ products[chosen[a], :, chosen[(a + 1) % order], :] / products.shape[1]
        traces.append(np.trace(matrix))
    return np.mean(traces)


@pytest.mark.parametrize("num_logits", [1, 2, 3])
def test_cycles_and_their_jackknife_against_loops(num_logits):
    rows = np.random.default_rng(0).normal(size=(7, num_logits, 5))
    products = np.einsum("ikd,jld->ikjl", rows, rows)
    values, influences = cycle_moments(products, 4)
    orders = range(1, 5)
    np.testing.assert_allclose(values, [by_definition(products, range(7), p) for p in orders], rtol=1e-10)
    left = np.array([[by_definition(products, [j for j in range(7) if j != i], p) for p in orders] for i in range(7)])
    np.testing.assert_allclose(influences, left - left.mean(axis=0), atol=1e-10 * np.abs(left).max())


def gram_of_draw(rng, tau=TAU, lengths=True):
    """Class means and residuals of known covariance; with `lengths` each example's residuals are stretched."""
    stretch = rng.choice([0.5, np.sqrt(1.75)], size=(NUM_EXAMPLES, 1, 1)) if lengths else 1.0
    residuals = stretch * rng.normal(size=(NUM_EXAMPLES, NUM_CLASSES, tau.size)) * np.sqrt(tau)
    gradients = MEANS.transpose(1, 0, 2)[LABELS] + residuals
    logits = rng.normal(size=(NUM_EXAMPLES, NUM_CLASSES))
    return rl.logit_gradient_gram(rl.DenseLogitGradients(logits, LABELS, gradients))


@pytest.fixture(scope="module")
def draws():
    rng = np.random.default_rng(1)
    return [gram_of_draw(rng) for _ in range(120)]


def test_moments_are_those_of_the_covariance_without_bias_and_errors_those_of_draws(draws):
    expected = np.array([np.sum(TAU**p) for p in range(1, 4)])
    found = [rl.residual_moments(gram, 3, rng=i) for i, gram in enumerate(draws)]
    values = np.array([m.values for m in found])
    detect = expected * [0.1, 0.25, 0.6]
    assert_mean(values, expected, detect=detect)
    with pytest.raises(AssertionError, match="against"):  # the square root of 2 missing from the differences
        assert_mean(values, expected * [2, 4, 8], detect=detect)
    errors = np.array([m.standard_error for m in found])
    ratio = np.sqrt((errors**2).mean(axis=0)) / values.std(axis=0, ddof=1)
    assert np.all((ratio > 0.8) & (ratio < 1.5)), ratio
    dimension = TAU.sum() ** 2 / np.sum(TAU**2)
    assert abs(np.mean([m.effective_dimension for m in found]) / dimension - 1) < 0.1
    spread = np.std([m.effective_dimension for m in found])
    assert 0.7 < np.mean([m.effective_dimension_error for m in found]) / spread < 1.6
    assert found[0].num_pairs == 30


def test_the_plug_in_moment_is_rejected(draws):
    # tr S^2 of the covariance of residuals about estimated means: each example with itself is most of it.
    expected = np.array([np.sum(TAU**2)])
    naive = []
    for gram in draws[:40]:
        weights = np.eye(NUM_EXAMPLES)
        for y in range(NUM_CLASSES):
            own = y == LABELS
            weights[np.ix_(own, own)] -= 1 / own.sum()
        residuals = np.einsum("am,mknl,bn->akbl", weights, gram.matrix, weights, optimize=True)
        size = NUM_CLASSES * (NUM_EXAMPLES - NUM_CLASSES)
        naive.append([np.sum(residuals**2) / size**2])
    with pytest.raises(AssertionError, match="against"):
        assert_mean(naive, expected, detect=expected)
    # Nor are products of different examples enough, about estimated means: (tr Sigma / N_k)^2 is left.
    assert np.mean(naive) > 1.2 * expected


def test_combinations_of_the_logits_change_no_moment(draws, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 30)
    expected = np.array([np.sum(TAU**p) for p in (1, 2)])
    values = [rl.residual_moments(gram, 2, rng=i).values for i, gram in enumerate(draws)]
    assert_mean(values, expected, detect=expected * [0.12, 0.35])


def test_moments_of_means_without_bias(draws):
    expected = np.array([np.sum(MEANS**2 * TAU**p) / NUM_CLASSES**2 for p in range(3)])
    found = [rl.mean_moments(gram, 2, num_splits=2, rng=i) for i, gram in enumerate(draws)]
    values = np.array([m.values for m in found])
    detect = expected * [0.05, 0.3, 0.8]
    assert_mean(values, expected, detect=detect)
    noise = np.mean([1 / np.sum(y == LABELS) for y in range(NUM_CLASSES)]) * np.array(
        [np.sum(TAU**p) for p in (1, 2, 3)]
    )
    with pytest.raises(AssertionError, match="against"):  # the naive one: the mean's own noise added
        assert_mean(values, expected + noise, detect=detect)
    errors = np.array([m.standard_error for m in found])
    ratio = np.sqrt((errors**2).mean(axis=0)) / values.std(axis=0, ddof=1)
    assert np.all((ratio > 0.7) & (ratio < 2.5)), ratio
    alignment = expected[1] / expected[0] * TAU.sum() / np.sum(TAU**2)
    assert abs(np.mean([m.alignment for m in found]) / alignment - 1) < 0.15
    assert alignment > 0.7


def split_by_definition(gradients, split, order):
    """m1^T S_1 ... S_p m2 for all increasing p-tuples of pairs, then tr S and tr S S'; classes of four or more."""
    first, second, pairs = [], [], []
    for members in split:
        quarter = len(members) // 4
        if quarter == 0:
            continue
        first.append(gradients[members[:quarter]].mean(axis=0))
        second.append(gradients[members[quarter : 2 * quarter]].mean(axis=0))
        rest = members[2 * quarter :]
        of_class = [(rest[2 * i], rest[2 * i + 1]) for i in range(len(rest) // 2)]
        pairs += [(i / len(of_class), len(first), one) for i, one in enumerate(of_class)]  # classes take turns
    matrices = []
    for _, _, (i, j) in sorted(pairs, key=lambda pair: pair[:2]):
        residual = (gradients[i] - gradients[j]) / np.sqrt(2)
        matrices.append(residual.T @ residual / len(residual))
    one, two = np.concatenate(first), np.concatenate(second)
    values = [np.mean(np.sum(one * two, axis=1))]
    for p in range(1, order + 1):
        products = [functools.reduce(np.matmul, some) for some in itertools.combinations(matrices, p)]
        values.append(np.mean([np.mean(np.sum((one @ product) * two, axis=1)) for product in products]))
    both = [np.trace(a @ b) for a, b in itertools.combinations(matrices, 2)]
    return np.array([*values, np.mean([np.trace(a) for a in matrices]), np.mean(both)])


@pytest.mark.parametrize("order", [1, 3])
def test_moments_of_means_by_the_definition(order):
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat(np.arange(4), [4, 3, 13, 9]))  # three of a class are left out
    gradients = rng.normal(size=(29, 4, 6)) * np.arange(1, 7) + 5 * rng.normal(size=(4, 4, 6))[labels]
    source = rl.DenseLogitGradients(rng.normal(size=(29, 4)), labels, gradients)
    found = rl.mean_moments(source, order, num_splits=2, rng=3)
    classes = [np.flatnonzero(labels == y) for y in (0, 2, 3)]
    splits = [[child.permutation(members) for members in classes] for child in np.random.default_rng(3).spawn(3)[1:]]
    expected = np.mean([split_by_definition(gradients, split, order) for split in splits], axis=0)
    np.testing.assert_allclose(found.values, expected[: order + 1], rtol=1e-9)
    assert found.alignment == pytest.approx(expected[1] / expected[0] / (expected[-1] / expected[-2]), rel=1e-9)
    assert np.all(found.standard_error > 0)


def test_the_error_of_the_effective_dimension_is_to_first_order_in_those_of_the_moments():
    covariance = np.array([[0.04, 0.01, 0.3], [0.01, 0.02, 0.1], [0.3, 0.1, 9.0]])
    found = rl.ResidualMoments(np.array([3.0, 0.5, 0.2]), covariance, num_pairs=10)
    assert found.effective_dimension == pytest.approx(18.0, rel=1e-12)

    def dimension(first, second):
        return first**2 / second

    step = 1e-6
    slope = np.array([dimension(3 + step, 0.5) - dimension(3 - step, 0.5),
                      dimension(3, 0.5 + step) - dimension(3, 0.5 - step)]) / (2 * step)  # fmt: skip
    error = np.sqrt(slope @ covariance[:2, :2] @ slope)
    assert found.effective_dimension_error == pytest.approx(error, rel=1e-8)
    np.testing.assert_allclose(found.standard_error, [0.2, np.sqrt(0.02), 3.0], rtol=1e-12)


def test_means_anywhere_are_not_aligned():
    rng = np.random.default_rng(3)
    tau = np.append(np.full(10, 20.0), np.zeros(2000))
    gradients = rng.normal(size=(NUM_CLASSES, tau.size))[None] + rng.normal(size=(90, 3, tau.size)) * np.sqrt(tau)
    source = rl.DenseLogitGradients(rng.normal(size=(90, 3)), np.arange(90) % 3, gradients)
    found = rl.mean_moments(source)
    assert abs(found.alignment - 10 / 2010) < 4 * found.alignment_error
    assert found.alignment_error < 0.1


def test_other_pairings_give_other_values_within_errors(draws):
    one, two = (rl.residual_moments(draws[0], 3, rng=seed) for seed in (0, 1))
    assert np.all(one.values != two.values)
    assert np.all(np.abs(one.values - two.values) < 3 * one.standard_error)
    many = rl.residual_moments(draws[0], 3, num_pairings=12, rng=0)
    assert many.covariance[1, 1] <= 1.2 * one.covariance[1, 1]


def test_bad_input(draws):
    with pytest.raises(ValueError, match="`max_order` must be >= 2"):
        rl.residual_moments(draws[0], 1)
    with pytest.raises(ValueError, match="`num_pairings` must be >= 2"):
        rl.residual_moments(draws[0], num_pairings=1)
    with pytest.raises(MemoryError, match="1000000000000 random streams needs .* take fewer `num_pairings`"):
        rl.residual_moments(draws[0], num_pairings=10**12)
    with pytest.raises(ValueError, match="`max_order` must be >= 1"):
        rl.mean_moments(draws[0], 0)
    with pytest.raises(ValueError, match="`num_splits` must be >= 1"):
        rl.mean_moments(draws[0], num_splits=0)
    with pytest.raises(MemoryError, match="1000000000001 random streams needs .* take fewer `num_splits`"):
        rl.mean_moments(draws[0], num_splits=10**12)
    rng = np.random.default_rng(0)
    few = rl.DenseLogitGradients(rng.normal(size=(8, 4)), np.arange(8) % 4, rng.normal(size=(8, 4, 5)))
    with pytest.raises(ValueError, match="more than 5 pairs"):
        rl.residual_moments(few)
    with pytest.raises(ValueError, match="must leave more than 3 pairs"):
        rl.mean_moments(few)
    labels = np.repeat(np.arange(4), 4)  # a pair of each class
    few = rl.DenseLogitGradients(rng.normal(size=(16, 4)), labels, rng.normal(size=(16, 4, 5)))
    with pytest.raises(ValueError, match="must leave more than 4 pairs of examples, .* up to order 4; got 4"):
        rl.mean_moments(few, 4)


def test_errors_of_moments_of_means_are_those_of_a_jackknife(draws, monkeypatch):
    """Sixteen groups left out in turn, by the definition, from what is found without each."""
    masks, found = [], []
    split_moments = module._split_moments

    def noted(matrix, splits, left_out, order):
        masks.append(left_out)
        found.append(split_moments(matrix, splits, left_out, order))
        return found[-1]

    monkeypatch.setattr(module, "_split_moments", noted)
    moments = rl.mean_moments(draws[0], 1, num_splits=1, rng=0)
    np.testing.assert_array_equal(masks[0], False)
    assert len(masks) == 17
    np.testing.assert_array_equal(np.sum(masks, axis=0), 1)  # each example is left out once
    child = np.random.default_rng(0).spawn(2)[0]
    dealt = 0
    for y in range(NUM_CLASSES):  # in turn, in a random order, from where the class before has ended
        for place in child.permutation(np.flatnonzero(y == LABELS)):
            assert masks[1 + dealt % 16][place]
            dealt += 1
        lost = [np.sum(mask[y == LABELS]) for mask in masks[1:]]
        assert max(lost) - min(lost) <= 1
    np.testing.assert_array_equal(moments.values, found[0][:2])

    def jackknife(values):
        return np.sqrt(15 / 16 * sum((v - sum(values) / 16) ** 2 for v in values))

    np.testing.assert_allclose(moments.standard_error, jackknife([v[:2] for v in found[1:]]), rtol=1e-10)
    alignments = [v[1] / v[0] / (v[3] / v[2]) for v in found]
    assert moments.alignment == pytest.approx(alignments[0], rel=1e-12)
    assert moments.alignment_error == pytest.approx(jackknife(alignments[1:]), rel=1e-10)


def test_pairings_are_averaged_and_what_they_differ_by_is_taken_off(monkeypatch):
    """The covariance of one pairing, less (1 - 1/R) of that between R; as it is where that is not smaller."""
    rng = np.random.default_rng(0)
    told = rng.normal([10.0, 50.0], 1.0, size=(5, 2))
    for spread, kept in ((3.0, True), (0.01, False)):
        influences = spread * rng.normal(size=(5, 30, 2))
        answers = iter(zip(told, influences, strict=True))
        monkeypatch.setattr(module, "cycle_moments", lambda products, order, answers=answers: next(answers))
        draw = rl.LandscapeModel.fort_ganguli(60, 3, 20).sample(rng=0)
        found = rl.residual_moments(draw, max_order=2, num_pairings=5)
        n = found.num_pairs
        one = sum((n - 1) / n * x.T @ x for x in influences) / 5
        between = 0.8 * (told - told.mean(axis=0)).T @ (told - told.mean(axis=0)) / 4
        np.testing.assert_allclose(found.values, told.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.covariance, one - between if kept else one, rtol=1e-10)


def test_moments_of_means_are_sums_over_increasing_pairs(monkeypatch):
    """From the vectors themselves: two means of a quarter each, the rest in pairs, of classes in turn."""
    sizes = [3, 12, 8, 4]  # the first is too small, the last as soon as one of it is left out
    labels = np.repeat(np.arange(4), sizes)
    rng = np.random.default_rng(5)
    gradients = rng.normal(size=(labels.size, 4, 6)) + 2 * rng.normal(size=(4, 4, 6))[labels]
    source = rl.DenseLogitGradients(rng.normal(size=(labels.size, 4)), labels, gradients)
    calls = []
    split_moments = module._split_moments

    def noted(matrix, splits, left_out, order):
        calls.append((splits, left_out, split_moments(matrix, splits, left_out, order)))
        return calls[-1][-1]

    monkeypatch.setattr(module, "_split_moments", noted)
    found = rl.mean_moments(source, 3, num_splits=2, rng=0)
    assert len(calls) == 17
    dealt = np.array([left_out for _, left_out, _ in calls])
    np.testing.assert_array_equal(dealt.sum(axis=0), labels > 0)
    np.testing.assert_array_equal(sorted(dealt.sum(axis=1)), [0, *[1] * 8, *[2] * 8])  # 24 examples in 16 groups
    used = []
    for splits, left_out, values in calls:
        assert len(splits) == 2
        assert any(np.any(a != b) for a, b in zip(*splits, strict=True))
        expected = []
        for split in splits:
            assert [sorted(members) for members in split] == [list(np.flatnonzero(labels == y)) for y in (1, 2, 3)]
            means, residuals = [], []
            for members in split:
                kept = [mu for mu in members if not left_out[mu]]
                if len(kept) < 4:
                    continue
                quarter = len(kept) // 4
                means.append([gradients[kept[a : a + quarter]].mean(axis=0) for a in (0, quarter)])
                rest = kept[2 * quarter :]
                count = len(rest) // 2
                for a in range(count):
                    row = (gradients[rest[2 * a]] - gradients[rest[2 * a + 1]]) / np.sqrt(2)
                    residuals.append((a / count, len(means), row))
            used.append(len(means))
            covariances = [row.T @ row / 4 for *_, row in sorted(residuals, key=lambda place: place[:2])]
            told = [np.mean([np.sum(one * two) / 4 for one, two in means])]
            for p in (1, 2, 3):
                paths = [functools.reduce(np.matmul, path) for path in itertools.combinations(covariances, p)]
                told.append(np.mean([np.trace(one @ path @ two.T) / 4 for path in paths for one, two in means]))
            told.append(np.mean([np.trace(one) for one in covariances]))
            told.append(np.mean([np.trace(one @ two) for one, two in itertools.combinations(covariances, 2)]))
            expected.append(told)
        np.testing.assert_allclose(values, np.mean(expected, axis=0), rtol=1e-9)
    assert set(used) == {2, 3}
    np.testing.assert_array_equal(found.values, calls[0][-1][:4])
    with pytest.raises(ValueError, match="more than 5 pairs .* up to order 5; got 5$"):  # without one of the last class
        rl.mean_moments(source, 5, num_splits=2, rng=0)
