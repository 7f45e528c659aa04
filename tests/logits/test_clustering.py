import itertools
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rmtland as rl
from rmtland import _arguments
from rmtland.logits import clustering as module
from tests import oracles
from tests.statistical import assert_mean


def values(q):
    return [q.same_logit_same_class, q.same_logit, q.different_logits]


def errors(q):
    return [q.same_logit_same_class_error, q.same_logit_error, q.different_logits_error]


def measured(gradients, labels, **kwargs):
    logits = np.zeros(gradients.shape[:2])
    return rl.clustering(rl.DenseLogitGradients(logits, labels, gradients, **kwargs))


@given(
    st.integers(2, 14), st.integers(2, 5), st.integers(1, 6), st.integers(0, 99), st.integers(1, 14), st.floats(0, 0.6)
)
def test_against_all_pairs(n, c, d, seed, chunk_size, share_zero):
    # Labels at random: classes absent, of one example, unbalanced; logit gradients of length zero anywhere.
    rng = np.random.default_rng(seed)
    gradients, labels = rng.normal(size=(n, c, d)) + rng.normal(size=(c, d)), rng.integers(0, c, n)
    gradients[rng.random((n, c)) < share_zero] = 0
    q = measured(gradients, labels, chunk_size=chunk_size)
    np.testing.assert_allclose(values(q), oracles.q_values(gradients, labels), rtol=1e-9, atol=1e-12)
    zero = ~gradients.any(axis=2)
    assert q.num_zero_gradients == zero.sum()
    directions = [np.sum((labels == k) & ~zero[:, k]) for k in range(c)]
    assert q.classes_left_out == tuple(k for k in range(c) if directions[k] < 2)
    assert q.num_groups == n


@pytest.mark.parametrize("num_groups", [60, 20, 8, 2])
def test_few_groups_give_the_same_values(num_groups):
    _, labels, gradients = oracles.examples(60, 4, 700)
    source = rl.DenseLogitGradients(np.zeros((60, 4)), labels, gradients, chunk_size=17)
    q = rl.clustering(source, num_groups=num_groups)
    np.testing.assert_allclose(values(q), oracles.q_values(gradients, labels), rtol=1e-10)
    assert q.num_groups == num_groups
    assert rl.clustering(source, num_groups=1000).num_groups == 60


def jackknife(gradients, labels):
    """Delete-one standard errors by leaving each example out and starting over."""
    n = len(labels)
    q = [oracles.q_values(np.delete(gradients, mu, axis=0), np.delete(labels, mu)) for mu in range(n)]
    return [np.sqrt((len(v) - 1) * np.var(v)) for v in (c[~np.isnan(c)] for c in np.array(q).T)]


@pytest.mark.parametrize("zero", [0, 0.3])
@pytest.mark.parametrize("chunk_size", [3, 14])
def test_where_groups_would_not_fit_errors_are_those_of_leaving_each_example_out(monkeypatch, zero, chunk_size):
    _, labels, gradients = oracles.examples(14, 3, 5)
    gradients[np.random.default_rng(1).random((14, 3)) < zero] = 0
    expected = measured(gradients, labels)
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    q = measured(gradients, labels, chunk_size=chunk_size)
    np.testing.assert_allclose(values(q), values(expected), rtol=1e-10)
    np.testing.assert_allclose(errors(q), jackknife(gradients, labels), rtol=1e-9)
    np.testing.assert_allclose(errors(q), errors(expected), rtol=0.7)
    assert q.num_groups == 14


def test_examples_without_which_no_pair_is_left_are_not_counted(monkeypatch):
    _, _, gradients = oracles.examples(7, 3, 5)
    labels = np.array([0, 0, 1, 2, 1, 1, 1])
    gradients[labels == 1, 1] = 0  # the only pair is that of the first two
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    q = measured(gradients, labels)
    np.testing.assert_allclose(errors(q), jackknife(gradients, labels), rtol=1e-9, atol=1e-12)
    assert q.same_logit_same_class_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_errors_are_the_spread_over_resampled_examples(seed):
    """With w copies of an example, a pair counts as often as it has copies, and copies of one example do not pair."""
    _, labels, gradients = oracles.examples(8, 3, 5)
    cosines = oracles.cosines(gradients)
    drawn = []
    for w in np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8), size=25):
        pairs = np.outer(w, w) - np.diag(w**2)

        def mean(k, other, some, pairs=pairs):
            chosen = pairs * np.outer(some, some)
            return np.sum(chosen * cosines[:, k, :, other]) / chosen.sum() if chosen.sum() else np.nan

        every = np.ones(8)
        one = [mean(k, k, labels == k) for k in range(3)]
        drawn.append((
            np.nanmean(one) if np.isfinite(one).any() else np.nan,
            np.mean([mean(k, k, every) for k in range(3)]),
            np.mean([mean(k, other, every) for k in range(3) for other in range(3) if k != other]),
        ))  # fmt: skip
    found = rl.clustering(
        rl.DenseLogitGradients(np.zeros((8, 3)), labels, gradients), num_bootstrap=25, num_groups=8, rng=seed
    )
    np.testing.assert_allclose(errors(found), np.nanstd(drawn, axis=0, ddof=1) * np.sqrt(8 / 7), rtol=1e-9)


def test_two_groups_have_errors():
    _, labels, gradients = oracles.examples(9, 3, 5)
    source = rl.DenseLogitGradients(np.zeros((9, 3)), labels, gradients)
    assert np.isfinite(errors(rl.clustering(source, num_groups=2))).all()


def test_groups_of_a_sorted_file_are_as_good_as_those_of_a_shuffled_one():
    # Twelve kinds of examples, sorted: consecutive blocks would be all of a kind, groups dealt in turn all alike.
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(12), 40)
    gradients = rng.normal(size=(12, 1, 30))[kinds] + rng.normal(size=(1, 4, 30)) + rng.normal(size=(480, 4, 30))
    labels = kinds % 4
    source = rl.DenseLogitGradients(np.zeros((480, 4)), labels, gradients)
    single = errors(rl.clustering(source, num_groups=480))
    sorted_groups = errors(rl.clustering(source, num_groups=60))
    np.testing.assert_allclose(sorted_groups, single, rtol=0.35)


def test_order_of_examples_does_not_matter():
    _, labels, gradients = oracles.examples(40, 3, 5)
    order = np.random.default_rng(2).permutation(40)
    np.testing.assert_allclose(
        values(measured(gradients, labels)), values(measured(gradients[order], labels[order])), rtol=1e-12
    )


def test_lengths_do_not_matter():
    _, labels, gradients = oracles.examples(12, 3, 5)
    scaled = gradients * np.random.default_rng(2).uniform(0.1, 10, size=(12, 3, 1))
    np.testing.assert_allclose(values(measured(scaled, labels)), values(measured(gradients, labels)), rtol=1e-12)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-25), ("float32", 1e25), ("float64", 1e-200), ("float64", 1e200)]
)
def test_squares_that_underflow_or_overflow_are_no_zero_gradients(library, dtype, scale):
    logits, labels, gradients = oracles.examples(12, 3, 5)
    gradients[4, 1] = 0
    scaled = (gradients * scale).astype(dtype)
    scaled[5] = gradients[5]  # small beside ordinary ones
    wrap = torch.from_numpy if library == "torch" else np.asarray
    q = rl.clustering(rl.DenseLogitGradients(wrap(logits), wrap(labels), wrap(scaled)))
    assert q.num_zero_gradients == 1
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(values(q), oracles.q_values(gradients, labels), rtol=tolerance, atol=tolerance / 10)


def test_two_examples():
    gradients = oracles.examples(2, 2, 5)[2]
    q = measured(gradients, np.array([0, 1]))
    np.testing.assert_allclose(values(q), oracles.q_values(gradients, np.array([0, 1])))
    assert np.isnan(q.same_logit_same_class)
    assert q.classes_left_out == (0, 1)
    q = measured(gradients, np.array([1, 1]))
    cosine = oracles.cosines(gradients)
    assert q.same_logit_same_class == pytest.approx(cosine[0, 1, 1, 1])
    assert q.same_logit == pytest.approx((cosine[0, 0, 1, 0] + cosine[0, 1, 1, 1]) / 2)
    assert q.different_logits == pytest.approx((cosine[0, 0, 1, 1] + cosine[0, 1, 1, 0]) / 2)
    assert q.classes_left_out == (0,)


def test_all_gradients_zero():
    q = measured(np.zeros((4, 2, 3)), np.array([0, 0, 1, 1]))
    assert np.isnan(values(q)).all()
    assert np.isnan(errors(q)).all()
    assert q.num_zero_gradients == 8


def test_identical_examples_cluster_perfectly_without_error():
    gradients = np.broadcast_to(np.eye(3), (9, 3, 3))
    q = measured(gradients, np.arange(9) % 3)
    np.testing.assert_allclose(values(q), [1, 1, 0], atol=1e-14)
    np.testing.assert_allclose(errors(q), 0, atol=1e-12)


def test_one_pass_over_the_source_and_a_second_for_the_jackknife(monkeypatch):
    source = oracles.ScratchSource(*oracles.examples(50, 3, 4), rl.CrossEntropy())
    passes, chunks = [], source.chunks
    source.chunks = lambda: passes.append(1) or chunks()
    rl.clustering(source)
    assert len(passes) == 1
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    rl.clustering(source)
    assert len(passes) == 3


def test_the_seed_moves_the_errors_only():
    source = rl.DenseLogitGradients(*oracles.examples(40, 3, 5))
    first, again, other = rl.clustering(source), rl.clustering(source, rng=0), rl.clustering(source, rng=1)
    assert astuple(first) == astuple(again)
    assert values(first) == values(other)
    assert errors(first) != errors(other)
    np.testing.assert_allclose(errors(first), errors(other), rtol=0.2)


def test_without_bootstrap_there_is_one_group_and_no_error():
    logits, labels, gradients = oracles.examples(40, 3, 5)
    q = rl.clustering(rl.DenseLogitGradients(logits, labels, gradients), num_bootstrap=0)
    np.testing.assert_allclose(values(q), oracles.q_values(gradients, labels), rtol=1e-12)
    assert np.isnan(errors(q)).all()
    assert q.num_groups == 1


def test_ranks_share_groups():
    logits, labels, gradients = oracles.examples(30, 3, 5)
    dense = measured(gradients, labels)
    first, second = oracles.on_ranks(
        rl.clustering, (logits, labels, gradients), rl.CrossEntropy(), [np.arange(10), np.arange(10, 30)]
    )
    assert astuple(first) == astuple(second)
    np.testing.assert_allclose(values(first), values(dense), rtol=1e-12)
    assert first.num_groups == 20  # the last ten of 30 groups stay empty and are not resampled
    np.testing.assert_allclose(errors(first), errors(dense), rtol=0.5)


class FixedMeans(rl.ClusteredGradients):
    """The same mean logit gradients in every draw: only the examples are new."""

    def draw_gradients(self, labels, num_classes, num_parameters, rng):
        means, _ = super().draw_gradients(labels, num_classes, num_parameters, np.random.default_rng(0))
        _, residuals = super().draw_gradients(labels, num_classes, num_parameters, rng)
        # Lengths of the residuals that differ between examples, and within a class a common part: without them the
        # q-values of so few parameters would hardly vary between draws.
        residuals *= rng.uniform(0.3, 2, size=(len(labels), 1, 1))
        return means, residuals


@pytest.mark.parametrize("num_groups", [150, 30, None], ids=["single", "groups of 5", "jackknife"])
def test_standard_errors_are_the_spread_over_new_examples(monkeypatch, num_groups):
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    model = rl.LandscapeModel(
        150, 4, 40, logits=rl.GaussianLogits(1.0, 0.5), gradients=FixedMeans(mean_length=1.0, residual_length=1.2)
    )
    draws = [rl.clustering(model.sample(seed), num_bootstrap=200, num_groups=num_groups) for seed in range(200)]
    assert draws[0].num_groups == (num_groups or 150)
    spread = np.std([values(q) for q in draws], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([np.square(errors(q)) for q in draws], axis=0))
    np.testing.assert_allclose(claimed, spread, rtol=0.25)


def clustering_of_draws(model, count=60):
    return np.array([values(rl.clustering(model.sample(seed), num_bootstrap=0)) for seed in range(count)])


@pytest.mark.parametrize("snr", [0.25, 2.0])
def test_the_models_own_clustering(snr):
    # Cosines of D = 4,000 components: the ratio of means differs from the mean of ratios by O(1/D).
    model = rl.LandscapeModel.fort_ganguli(30, 4, 4000, snr=snr)
    draws = clustering_of_draws(model)
    expected = snr / (1 + snr)
    detect = 0.03 * expected
    assert_mean(draws[:, 1], expected, bias=2 / 4000, detect=detect)
    assert_mean(draws[:, 0], expected, bias=2 / 4000, detect=detect)
    assert_mean(draws[:, 2], 0, bias=2 / 4000, detect=0.03)
    # The mutants: SNR taken as a ratio of standard deviations, and the example paired with itself (1/N too high).
    for mutant in (np.sqrt(snr) / (1 + np.sqrt(snr)), expected + (1 - expected) / 30):
        with pytest.raises(AssertionError, match="against"):
            assert_mean(draws[:, 1], mutant, bias=2 / 4000, detect=detect)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: rl.clustering(s, num_bootstrap=1), ValueError, "`num_bootstrap` must be 0 or >= 2; got 1"),
        (lambda s: rl.clustering(s, num_bootstrap=-1), ValueError, "`num_bootstrap` must be >= 0; got -1"),
        (lambda s: rl.clustering(s, num_bootstrap=1.5), TypeError, "`num_bootstrap` must be an integer"),
        (lambda s: rl.clustering(s, num_groups=1), ValueError, "`num_groups` must be >= 2; got 1"),
        (lambda s: rl.clustering(s, rng="x"), TypeError, "`rng` must be something"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(rl.DenseLogitGradients(*oracles.examples(5, 2, 3)))


def test_one_example_has_no_pair():
    source = rl.DenseLogitGradients(np.zeros((1, 2)), np.array([0]), np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="`source` must have at least 2 examples to compare; got 1"):
        rl.clustering(source)


def test_running_sums_that_do_not_fit(monkeypatch):
    source = rl.DenseLogitGradients(*oracles.examples(20, 2, 300))
    monkeypatch.setattr(_arguments, "available_memory", lambda: 50_000)
    monkeypatch.setattr(_arguments, "LITTLE", 0)
    message = "the clustering of 2 logit gradients in 300 parameters needs 7.15e-05 GiB.*use num_groups=None"
    with pytest.raises(MemoryError, match=message):
        rl.clustering(source, num_groups=8)  # 8 x 2 x 2 x 300 x 8 bytes
    monkeypatch.setattr(module, "GROUP_BYTES", 1)
    assert rl.clustering(source).num_groups == 20


def test_memory_stays_bounded_for_many_classes():
    # C = 400 with as many examples: 2 C g^2 numbers must not grow to N^2 per logit.
    labels = np.arange(400)
    rng = np.random.default_rng(0)
    source = rl.DenseLogitGradients(np.zeros((400, 400)), labels, rng.normal(size=(400, 400, 2)))
    q = rl.clustering(source, num_bootstrap=10)
    assert 8 <= q.num_groups < 100
    pairs = list(itertools.islice(itertools.combinations(range(400), 2), 300))
    cosine = [oracles.cosines(source.gradients[[m, n]])[0, :, 1, :] for m, n in pairs[:5]]
    assert abs(q.different_logits) < max(np.abs(c).max() for c in cosine)


def test_more_resamplings_than_memory():
    draw = rl.LandscapeModel.fort_ganguli(20, 3, 30).sample(0)
    with pytest.raises(MemoryError, match="1000000000000 resamplings needs .*; take fewer `num_bootstrap` instead"):
        rl.clustering(draw, num_bootstrap=10**12)


@pytest.mark.parametrize("num_groups", [None, 5])
def test_one_output_has_cosines_of_one_logit_alone(num_groups):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 1, 5)) + 1
    source = rl.DenseLogitGradients(rng.normal(size=(20, 1)), np.arange(20) % 2, rows, loss=rl.Logistic())
    found = rl.clustering(source, num_groups=num_groups)
    unit = rows[:, 0] / np.linalg.norm(rows[:, 0], axis=1, keepdims=True)
    assert found.same_logit == pytest.approx((unit @ unit.T)[~np.eye(20, dtype=bool)].mean(), rel=1e-12)
    assert 0 < found.same_logit_error < 0.2
    others = [
        found.same_logit_same_class, found.different_logits,
        found.same_logit_same_class_error, found.different_logits_error,
    ]  # fmt: skip
    assert np.isnan(others).all()
    assert found.classes_left_out == ()
