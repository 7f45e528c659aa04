import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland import _arguments
from rmtland.logits.accumulate import SharedChunk, accumulate_one
from rmtland.logits.cross_class import CrossClassMeans, CrossClassMeansAccumulator, PairRowsAccumulator
from tests import oracles
from tests.nets.networks import build

ARRAYS = oracles.examples(50, 4, 15)


def absent(logits, labels, gradients):
    """Class 1 without examples, and class 2 with a single one."""
    labels = np.where(labels == 1, 0, labels)
    labels[labels == 2] = 3
    labels[-1] = 2
    return logits, labels, gradients


def frozen(logits, labels, gradients):
    """Probabilities that underflow to zero, whole pairs of classes among them."""
    logits = logits.copy()
    logits[:, 3] -= 800 * (labels != 3)
    logits[:, 0] += 900 * (labels == 0)
    return logits, labels, gradients


def mistaken(logits, labels, gradients):
    """Examples of classes 1 and 2 that have next to no probability of them."""
    return logits - 6 * np.eye(4)[labels] * np.isin(labels, (1, 2))[:, None], labels, gradients


CASES = {
    "unbalanced": ARRAYS, "absent": absent(*ARRAYS), "frozen": frozen(*ARRAYS), "mistaken": mistaken(*ARRAYS),
}  # fmt: skip


def check(means, arrays, weights=None):
    logits, labels, gradients = arrays
    expected = oracles.hierarchy(logits, labels, gradients, weights)
    size = np.abs(gradients).max()
    np.testing.assert_allclose(means.pair_weights, expected["p"], rtol=1e-12, atol=1e-290)
    np.testing.assert_allclose(np.asarray(means.class_means), expected["cls"], rtol=1e-10, atol=1e-12 * size)
    pairs = means.pair_factor * np.sqrt(means.num_examples)
    known = expected["p"] > 1e-290
    np.testing.assert_allclose(
        np.asarray(pairs), np.sqrt(expected["p"])[:, :, None] * expected["pair"] * known[:, :, None], atol=1e-12 * size
    )
    np.testing.assert_allclose(np.asarray(means.pair_means)[known], expected["pair"][known], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_means_by_loops(case, library):
    arrays = CASES[case]
    check(rl.cross_class_means(rl.DenseLogitGradients(*map(library, arrays))), arrays)
    sizes = np.bincount(arrays[1], minlength=4)
    np.testing.assert_array_equal(rl.cross_class_means(rl.DenseLogitGradients(*arrays)).class_sizes, sizes)


@pytest.mark.parametrize("case", CASES)
def test_class_means_alone_take_no_pairs(case):
    source = rl.DenseLogitGradients(*CASES[case], chunk_size=7)
    means, kept = rl.cross_class_means(source, keep_pairs=False), rl.cross_class_means(source)
    assert means.pair_factor is None
    for name in ("class_means", "class_factor", "own_factor", "pair_weights"):
        np.testing.assert_allclose(getattr(means, name), getattr(kept, name), rtol=1e-9, atol=1e-12)
    with pytest.raises(MemoryError, match=r"`pair_means` needs the 4\^2 cross-class means, .* keep_pairs=True"):
        _ = means.pair_means


@pytest.mark.parametrize("case", CASES)
def test_own_class_mean_is_parallel_to_the_class_mean(case):
    # Slip 10 of the theory document, with g_{c,c} by its definition.
    expected = oracles.hierarchy(*CASES[case])
    means = rl.cross_class_means(rl.DenseLogitGradients(*CASES[case]))
    own = np.array([expected["pair"][c, c] for c in range(4)])
    np.testing.assert_allclose(means.own_factor, np.sqrt(np.diag(expected["p"]) / 50)[:, None] * own, atol=1e-12)
    np.testing.assert_allclose(means.own_factor, [means.pair_factor[c, c] for c in range(4)], rtol=1e-12)


@pytest.mark.parametrize(("dtype", "gap"), [(np.float64, 50), (np.float64, 300), (np.float32, 40)])
@pytest.mark.parametrize("keep_pairs", [True, False])
def test_a_class_that_is_surely_mistaken_for_others_is_no_outlier(dtype, gap, keep_pairs):
    """Its own mean is no quotient of two roundings."""
    logits, labels, gradients = (np.asarray(a) for a in oracles.examples(20, 4, 30))
    logits = logits - gap * np.eye(4)[2] * (labels == 2)[:, None]
    logits, gradients = logits.astype(dtype), gradients.astype(dtype)
    expected = oracles.hierarchy(logits.astype(float), labels, gradients.astype(float))
    whole = oracles.gauss_newton(logits.astype(float), gradients.astype(float))
    source = rl.DenseLogitGradients(logits, labels, gradients)
    size = np.abs(whole).max() * np.finfo(dtype).eps
    found = rl.hierarchy(source, keep_pairs=keep_pairs)
    for name in ("A1", "A2", "B2"):
        np.testing.assert_allclose(getattr(found, name).to_dense(), expected[name], atol=20 * size, err_msg=name)
    for passes, error in ((1, 0.3), (2, 1e-5)):  # from below in two
        outliers = rl.streamed_outliers(source, passes, keep_pairs=keep_pairs).eigenvalues
        assert (outliers <= np.linalg.eigvalsh(whole)[-3:] * (1 + error)).all()
    rows = accumulate_one(source, PairRowsAccumulator(classes=range(1, 3)))
    np.testing.assert_allclose(rows, rl.cross_class_means(source, keep_pairs=True).pair_factor[1:3], atol=size)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_no_number_depends_on_the_chunks(data):
    cuts = sorted(data.draw(st.sets(st.integers(1, 49), max_size=8)))
    sizes = tuple(np.diff([0, *cuts, 50]).tolist())
    source = oracles.ScratchSource(*CASES["absent"], rl.CrossEntropy(), sizes=sizes)
    check(rl.cross_class_means(source), CASES["absent"])


@pytest.mark.parametrize("keep_pairs", [True, False])
def test_ranks_add_up(keep_pairs):
    parts = [np.arange(0, 20), np.arange(20, 21), np.arange(0), np.arange(21, 50)]  # one without examples
    whole = rl.cross_class_means(rl.DenseLogitGradients(*ARRAYS), keep_pairs=keep_pairs)
    for got in oracles.on_ranks(
        lambda source: rl.cross_class_means(source, keep_pairs=keep_pairs), ARRAYS, rl.CrossEntropy(), parts
    ):
        np.testing.assert_allclose(got.pair_weights, whole.pair_weights, rtol=1e-12)
        np.testing.assert_allclose(got.class_means, whole.class_means, rtol=1e-10)


def test_half_of_the_examples():
    # What a stream has seen so far: the state holds sums, `from_sums` makes means of them.
    source = rl.DenseLogitGradients(*ARRAYS, chunk_size=20)
    statistic = CrossClassMeansAccumulator()
    chunks = iter(source.chunks())
    state = statistic.start(source)
    for _ in range(2):
        state = statistic.add(state, SharedChunk(next(chunks), source))
    sums, weights, sizes = state
    half = CrossClassMeans.from_sums(40, sizes, weights, sums.copy())
    check(half, tuple(array[:40] for array in ARRAYS))
    whole = statistic.finish(statistic.add(state, SharedChunk(next(chunks), source)), source)
    check(whole, ARRAYS)


@pytest.mark.parametrize("name", ["mlp", "conv", "tied", "attention"])
def test_networks_layer_by_layer(name):
    module, inputs = build(name)
    labels = torch.arange(len(inputs)) % 3
    weights = torch.linspace(0.2, 2.0, len(inputs), dtype=torch.float64)
    source = rl.nets.NetworkLogitGradients(module, inputs, labels, weights=weights, batch_size=4)
    chunks = [(c.logits.numpy(), c.labels.numpy(), c.dense().numpy(), c.weights.numpy()) for c in source.chunks()]
    logits, labels, gradients, weights = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    assert len(chunks) > 1
    means = rl.cross_class_means(source)
    check(means, (logits, labels, gradients), weights)
    np.testing.assert_array_equal(means.class_sizes, np.bincount(labels, minlength=3))
    np.testing.assert_allclose(
        rl.cross_class_means(source, keep_pairs=False).class_sums, means.class_sums, rtol=1e-9, atol=1e-12
    )
    by_group = rl.measure(source, "cross_class_means", by="parameter_groups")
    for group, part in source.parameter_groups.items():
        for got in (by_group[group].cross_class_means, rl.cross_class_means(rl.restrict(source, group))):
            np.testing.assert_allclose(got.pair_factor, means.restricted(part).pair_factor, rtol=1e-9, atol=1e-12)


def test_soft_labels_and_smoothing_leave_it_alone():
    # A_mu does not depend on the targets, only classes do.
    module, inputs = build("mlp")
    labels = torch.arange(len(inputs)) % 3
    soft = torch.nn.functional.one_hot(labels, 3).double() * 0.7 + 0.1
    hard = rl.cross_class_means(rl.nets.NetworkLogitGradients(module, inputs, labels))
    smooth = torch.nn.CrossEntropyLoss(label_smoothing=0.3)
    for source in (
        rl.nets.NetworkLogitGradients(module, inputs, soft),
        rl.nets.NetworkLogitGradients(module, inputs, labels, loss=smooth),
    ):
        np.testing.assert_allclose(rl.cross_class_means(source).pair_factor, hard.pair_factor, rtol=1e-12)


def test_a_loss_without_softmax():
    source = rl.DenseLogitGradients(*ARRAYS, loss=rl.SquaredError())
    with pytest.raises(ValueError, match=r"`source` must have softmax outputs \(CrossEntropy\); got SquaredError"):
        rl.cross_class_means(source)


def test_nan_is_refused():
    logits, labels, gradients = ARRAYS
    gradients = gradients.copy()
    gradients[3, 1, 2] = np.nan
    source = oracles.ScratchSource(logits, labels, gradients, rl.CrossEntropy())
    with pytest.raises(ValueError, match="must be finite; got NaN"):
        rl.cross_class_means(source)


def test_what_does_not_fit_is_not_kept(monkeypatch):
    class Large(oracles.ScratchSource):
        num_parameters = property(lambda self: 10**9, lambda self, value: None)

    source = Large(*ARRAYS, rl.CrossEntropy())
    assert not CrossClassMeansAccumulator().keeps(source)
    with pytest.raises(MemoryError, match=r"the 4\^2 cross-class means .* use keep_pairs=False instead"):
        rl.cross_class_means(source, keep_pairs=True)
    monkeypatch.setattr(_arguments, "available_memory", lambda: 5e10)
    with pytest.raises(MemoryError, match=r"the means of 4 classes in 1000000000 parameters needs 59.6 GiB"):
        rl.hierarchy(source, keep_pairs=False)
    with pytest.raises(MemoryError, match=r"the means of 4 logit gradients .*; name a few `classes` instead"):
        rl.logit_scales(source)


def test_means_that_were_not_kept_are_told_with_their_size():
    class_sums = np.broadcast_to(0.0, (100, 2**27))  # 100^2 2^27 numbers of 8 bytes are 10^4 GiB
    means = CrossClassMeans(1, np.ones(100), np.ones((100, 100)), class_sums, None)
    for read, name in ((lambda: means.pair_means, "pair_means"), (means.kept_factor, "pair_factor")):
        with pytest.raises(MemoryError, match=rf"^`{name}` needs the 100\^2 cross-class means, 1e\+04 GiB, which were"):
            read()


def test_measured_beside_others_it_is_what_it_is_alone():
    source = rl.DenseLogitGradients(*ARRAYS, chunk_size=17)
    beside = rl.measure(source, "clustering", "cross_class_means", "logit_scales").cross_class_means
    np.testing.assert_array_equal(beside.pair_factor, rl.cross_class_means(source).pair_factor)
    # Two halves, as two workers would have them, are the whole.
    statistic = CrossClassMeansAccumulator()
    states = [statistic.add(statistic.start(source), SharedChunk(chunk, source)) for chunk in source.chunks()]
    merged = statistic.merge(statistic.merge(states[0], states[1]), statistic.merge(states[2], None))
    check(statistic.finish(merged, source), ARRAYS)
    with pytest.raises(RuntimeError, match="`source` must yield at least one chunk; got none"):
        statistic.finish(statistic.start(source), source)
