import itertools
from statistics import NormalDist, mean, stdev, variance

import numpy as np
import pytest

import rmtland as rl
from rmtland.landscape.draw import mean_curvature
from tests.statistical import assert_mean


def statistics(logits):
    """E u, E u^2 with u = 1 - sum p^2, and the share of the second largest p in 1 - max p, weighted by u."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = np.sort(weights / weights.sum(axis=1, keepdims=True), axis=1)
    u, some = 1 - np.sum(p**2, axis=1), p[:, -2] > 0
    share = np.ones(len(p))
    share[some] = p[some, -2] / np.sum(p[some, :-1], axis=1)
    return np.mean(u), np.mean(np.square(u)), np.average(share, weights=u)


@pytest.mark.parametrize(("sigma", "margin", "spread"), [(3.0, 6.0, 4.0), (2.0, 2.5, 1.0), (5.0, 9.0, 3.5)])
@pytest.mark.parametrize("num_classes", [3, 10])
def test_a_draw_gives_its_own_law_back(sigma, margin, spread, num_classes):
    law = rl.UnfrozenLogits(sigma, margin, spread)
    logits, labels = law.draw_logits(30_000, num_classes, np.random.default_rng(0))
    fitted = rl.UnfrozenLogits.from_logits(logits, labels)
    assert fitted.margin == pytest.approx(margin, rel=0.06)
    assert fitted.margin_spread == pytest.approx(spread, rel=0.06)
    assert fitted.sigma == pytest.approx(sigma, rel=0.25)
    right = np.mean(logits.argmax(axis=1) == labels)
    assert right == pytest.approx(law.accuracy(num_classes), abs=0.01)
    others = np.where(np.eye(num_classes, dtype=bool)[labels], -np.inf, logits).max(axis=1)
    margins = logits[np.arange(30_000), labels] - others
    assert margins.mean() == pytest.approx(margin, abs=0.1)
    assert margins.std() == pytest.approx(spread, rel=0.03)


def test_fitted_to_the_examples_that_are_not_frozen():
    # Nine in ten examples frozen for good, which no normal margin of the measured mean and spread has.
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=4000)
    logits = 2 * rng.normal(size=(4000, 10))
    logits[np.arange(4000), labels] += np.where(rng.random(4000) < 0.1, 5.0, 60.0)
    law = rl.UnfrozenLogits.from_logits(logits, labels)
    drawn, _ = law.draw_logits(20_000, 10, rng)
    np.testing.assert_allclose(statistics(drawn), statistics(logits), rtol=0.1)
    # The mutant: measured moments of the margin, nothing fitted.
    others = np.where(np.eye(10, dtype=bool)[labels], -np.inf, logits).max(axis=1)
    margins = logits[np.arange(4000), labels] - others
    moments, _ = rl.UnfrozenLogits(law.sigma, margins.mean(), margins.std()).draw_logits(20_000, 10, rng)
    assert abs(np.log(statistics(moments)[0] / statistics(logits)[0])) > np.log(1.5)
    # And the margin over the mean of the wrong classes.
    margin, _ = rl.MarginLogits.from_logits(logits, labels).draw_logits(20_000, 10, rng)
    assert abs(np.log(statistics(margin)[0] / statistics(logits)[0])) > np.log(1.5)


def test_what_probabilities_leave_open_stays_as_measured():
    rng = np.random.default_rng(1)
    logits, labels = 0.1 * rng.normal(size=(500, 10)), rng.integers(10, size=500)
    law = rl.UnfrozenLogits.from_logits(logits, labels)
    others = np.where(np.eye(10, dtype=bool)[labels], -np.inf, logits).max(axis=1)
    assert law.margin == pytest.approx(np.mean(logits[np.arange(500), labels] - others), abs=0.1)
    assert law.accuracy(10) == pytest.approx(np.mean(logits.argmax(axis=1) == labels), abs=0.1)
    frozen = rl.UnfrozenLogits.from_logits(1e6 * logits, labels)
    assert frozen.sigma == pytest.approx(1e5, rel=0.1)


def test_two_classes_and_many():
    rng = np.random.default_rng(2)
    law = rl.UnfrozenLogits(0.0, 3.0, 2.0)
    fitted = rl.UnfrozenLogits.from_logits(*law.draw_logits(20_000, 2, rng))
    assert fitted.margin == pytest.approx(3, rel=0.08)
    assert fitted.margin_spread == pytest.approx(2, rel=0.08)
    assert fitted.sigma == 0
    many = rl.UnfrozenLogits(2.0, 4.0, 2.0)
    fitted = rl.UnfrozenLogits.from_logits(*many.draw_logits(500, 1000, rng))
    assert fitted.margin == pytest.approx(4, abs=0.8)


def test_labels_of_a_given_accuracy_change_no_logit():
    plain, given = rl.UnfrozenLogits(3.0, 4.0, 3.0), rl.UnfrozenLogits(3.0, 4.0, 3.0, label_accuracy=0.7)
    logits, labels = plain.draw_logits(1000, 5, np.random.default_rng(0))
    same, relabelled = given.draw_logits(1000, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(logits, same)
    right = logits.argmax(axis=1) == relabelled
    assert right.sum() == 700
    assert given.accuracy(5) == 0.7
    # The wrong ones have the smallest margins, and the runner-up as their label.
    others = np.where(np.eye(5, dtype=bool)[labels], -np.inf, logits).max(axis=1)
    margins = logits[np.arange(1000), labels] - others
    assert margins[~right].max() < margins[right].min()
    np.testing.assert_array_equal(relabelled[~right], np.argsort(logits[~right], axis=1)[:, -2])
    everything = rl.UnfrozenLogits(3.0, 4.0, 3.0, label_accuracy=1.0).draw_logits(1000, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(everything[1], logits.argmax(axis=1))
    # Fitted, it is the measured one.
    assert rl.UnfrozenLogits.from_logits(logits, relabelled).accuracy(5) == 0.7


def test_accuracy_without_spread():
    assert rl.UnfrozenLogits(0.0, 0.0).accuracy(4) == 0.25
    assert rl.UnfrozenLogits(1.0, 0.0).accuracy(4) == 0.5
    assert rl.UnfrozenLogits(1.0, -1.0).accuracy(4) == 0.0
    assert rl.UnfrozenLogits(1.0, 1.0).accuracy(4) == 1.0


@pytest.mark.parametrize(("margin", "spread"), [(1.0, 2.0), (-1.0, 1.0), (0.0, 3.0), (0.5, 0.25)])
def test_accuracy_is_the_share_of_positive_margins(margin, spread):
    law = rl.UnfrozenLogits(2.0, margin, spread)
    assert law.accuracy(5) == pytest.approx(1 - NormalDist(margin, spread).cdf(0.0))


def test_a_model_from_a_source():
    model = rl.LandscapeModel.fort_ganguli(200, 5, 500, sigma_z=3.0, mean_length=1.0, residual_length=0.5)
    source = model.sample(0)
    fitted = rl.LandscapeModel.from_source(source, logit_law="unfrozen")
    assert isinstance(fitted.logits, rl.UnfrozenLogits)
    assert fitted.gradients.mean_length == pytest.approx(1.0, rel=0.1)
    assert fitted.gradients.residual_length == pytest.approx(0.5, rel=0.1)
    trace = np.mean([fitted.spectrum(seed).trace for seed in range(5)])
    assert trace == pytest.approx(rl.gauss_newton_trace(source), rel=0.1)
    with pytest.raises(ValueError, match="`class_means` must be False"):
        rl.LandscapeModel.from_source(source, logit_law="unfrozen", class_means=True)


def test_bad_input():
    with pytest.raises(ValueError, match="`sigma` must be >= 0"):
        rl.UnfrozenLogits(-1.0, 1.0)
    with pytest.raises(ValueError, match="`margin_spread` must be >= 0"):
        rl.UnfrozenLogits(1.0, 1.0, -1.0)
    with pytest.raises(ValueError, match="`label_accuracy` must be >= 0 and <= 1"):
        rl.UnfrozenLogits(1.0, 1.0, label_accuracy=2.0)
    with pytest.raises(TypeError, match="`margin`"):
        rl.UnfrozenLogits(1.0, "1")
    with pytest.raises(ValueError, match="at least 2 examples"):
        rl.UnfrozenLogits.from_logits(np.zeros((1, 3)), np.array([0]))
    with pytest.raises(ValueError, match="`num_classes` must be >= 2"):
        rl.UnfrozenLogits(1.0, 1.0).accuracy(1)


def mean_top(model, count=6):
    return np.mean([model.spectrum(seed, k=1).eigenvalues[-1] for seed in range(count)])


def test_frozen_examples_with_longer_gradients_do_not_raise_the_top():
    # As training leaves it: a margin, and logit gradients of confident examples twice as long.
    law = rl.LandscapeModel(200, 5, 400, rl.UnfrozenLogits(3.0, 5.0, 4.0), rl.ClusteredGradients(1.0, 0.7))
    draw = law.sample(0)
    frozen = draw.probabilities.max(axis=1) > 0.98
    gradients = np.where(frozen, 3.0, 1.0)[:, None, None] * (draw.mean_gradients + draw.residuals)
    source = rl.DenseLogitGradients(draw.logits, draw.labels, gradients)
    real = rl.gauss_newton_spectrum(source).eigenvalues[-1]
    tops = {name: mean_top(rl.LandscapeModel.from_source(source, logit_law=name)) / real for name in LAWS}
    assert 1 / 1.3 < tops["unfrozen"] < 1.3, tops
    assert min(tops[name] for name in LAWS[:-1]) > 2, tops


LAWS = ("spread", "margin", "participation", "unfrozen")


@pytest.mark.slow
def test_a_trained_network_within_a_factor_of_one_and_a_half():
    import torch

    torch.manual_seed(0)
    data = rl.nets.load_dataset("digits", dtype=np.float32)
    inputs, labels = torch.from_numpy(data.x_train).flatten(1), torch.from_numpy(data.y_train)
    network = rl.nets.mlp([64, 32, 32, 10], dtype=torch.float32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(20):
        order = torch.randperm(len(inputs))
        for part in torch.split(order, 64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(inputs[part]), labels[part]).backward()
            optimizer.step()
    source = rl.nets.NetworkLogitGradients(network.double(), inputs[:150].double(), labels[:150])
    real = rl.gauss_newton_spectrum(source).eigenvalues[-1]
    tops = {name: mean_top(rl.LandscapeModel.from_source(source, logit_law=name), 10) / real for name in LAWS}
    assert tops["unfrozen"] < 1.5, tops
    assert tops["unfrozen"] > 0.4, tops
    assert tops["spread"] > 2.5, tops


@pytest.fixture
def spreads_as_measured(monkeypatch):
    """Margins and spreads are not fitted, which is most of the time and has no say in what examples share."""
    monkeypatch.setattr("rmtland.landscape.unfrozen_logits._fitted", lambda target, start, num_classes: (1.0, 1.0, 1.0))


@pytest.mark.usefixtures("spreads_as_measured")
def test_what_examples_share_is_measured_and_leaves_each_example_as_it_is():
    law = rl.UnfrozenLogits(3.0, 1.0, 2.0, shared=0.4)
    shares, spreads = [], []
    for seed in range(60):
        logits, labels = law.draw_logits(300, 10, np.random.default_rng(seed))
        shares.append(rl.UnfrozenLogits.from_logits(logits, labels).shared)
        wrong = np.ones(logits.shape, dtype=bool)
        wrong[np.arange(300), labels] = False
        spreads.append(np.mean(logits[wrong] ** 2))
    # The bias of one draw has 10 numbers: its variance scatters by sqrt(2/9); the labels here depend on no bias.
    assert_mean(shares, 0.4, bias=0.03, detect=0.3)
    assert_mean(spreads, 9.0, detect=4.5)
    alike = [
        rl.UnfrozenLogits.from_logits(*rl.UnfrozenLogits(3.0, 1.0, 2.0).draw_logits(300, 10, np.random.default_rng(i)))
        for i in range(10)
    ]
    assert max(fitted.shared for fitted in alike) < 0.02
    # All examples favour the same classes: the mean curvature is less even.
    curved = []
    for share in (0.0, 0.8):
        logits, _ = rl.UnfrozenLogits(3.0, 1.0, 2.0, shared=share).draw_logits(300, 10, np.random.default_rng(1))
        curved.append(np.ptp(np.linalg.eigvalsh(mean_curvature(logits))[1:]))
    assert curved[1] > 2 * curved[0]
    with pytest.raises(ValueError, match="`shared` must be >= 0 and <= 1; got 1.5"):
        rl.UnfrozenLogits(1.0, 1.0, shared=1.5)


@pytest.mark.usefixtures("spreads_as_measured")
def test_classes_taken_for_each_other_are_measured_and_symmetric():
    law = rl.UnfrozenLogits(3.0, 4.0, 3.0, shared=0.2, shared_by_class=0.5)
    fitted, turned = [], []
    for seed in range(80):
        logits, labels = law.draw_logits(400, 10, np.random.default_rng(seed))
        found = rl.UnfrozenLogits.from_logits(logits, labels)
        fitted.append((found.shared, found.shared_by_class))
        means = np.array([logits[labels == y].mean(axis=0) for y in range(10)])
        means -= np.nanmean(np.where(np.eye(10, dtype=bool), np.nan, means), axis=0)
        pairs = ~np.eye(10, dtype=bool)
        turned.append(np.corrcoef(means[pairs], means.T[pairs])[0, 1])
    # Of ten numbers and of 45 in each draw.
    assert_mean(np.array(fitted), [0.2, 0.5], bias=0.03, detect=[0.2, 0.3])
    assert np.mean(turned) > 0.5
    without = [
        rl.UnfrozenLogits.from_logits(*rl.UnfrozenLogits(3.0, 4.0, 3.0).draw_logits(400, 6, np.random.default_rng(i)))
        for i in range(10)
    ]
    assert max(f.shared_by_class for f in without) < 0.02
    with pytest.raises(ValueError, match="`shared_by_class` must be >= 0 and <= 0.8; got 0.9"):
        rl.UnfrozenLogits(1.0, 1.0, shared=0.2, shared_by_class=0.9)


MIXED = np.random.default_rng(3).normal(size=(2, 8, 4))
PAIRED = [0, 1, 1, 2, 3, 3, 3, 0]


@pytest.mark.parametrize("unit", [1e5, 1e-2])
@pytest.mark.parametrize(
    ("labels", "logits"),
    [
        (PAIRED, MIXED[0, 7] + MIXED[0, PAIRED] + 0.7 * MIXED[1] + 0.3),
        (PAIRED, 2 * MIXED[0, PAIRED] + 0.3 * MIXED[1]),
        (PAIRED, 0.1 * MIXED[0, 7] + MIXED[1]),  # less in common than none
        ([2, 2, 2], MIXED[0, 5] + 0.5 * MIXED[1, :3]),
        ([0, 1, 2, 3], MIXED[0, 7] + 0.5 * MIXED[1, :4]),
        ([0, 1], np.array([[0.0, 0.0, 1.0, -1.0]] * 2)),  # all of it at the classes that are wrong in both
        ([0, 0, 0, 1], np.diag([1.0, 1.0, 1.0, 1e-3]) @ MIXED[0, [7] * 4]),  # all of it in one class
    ],
)
def test_shared_parts_are_those_of_pairs_of_examples(labels, logits, unit):
    """By loops over the pairs and the classes that are wrong in both."""
    wrong = [[k for k in range(4) if k != y] for y in labels]
    centred = [{k: z[k] - mean(z[j] for j in ks) for k in ks} for z, ks in zip(logits, wrong, strict=True)]
    products = {True: [], False: []}
    for m, n in itertools.permutations(range(len(labels)), 2):
        products[labels[m] == labels[n]] += [centred[m][k] * centred[n][k] for k in wrong[m] if k in wrong[n]]
    scale = mean(x**2 for example in centred for x in example.values())
    alike, apart = (mean(products[same]) / scale if products[same] else 0.0 for same in (True, False))
    shared = min(max(apart, 0.0), 1.0)
    found = rl.UnfrozenLogits.from_logits(unit * logits, np.array(labels))
    assert found.shared == pytest.approx(shared, abs=1e-10)
    assert found.shared_by_class == pytest.approx(min(max(alike - shared, 0.0), 1 - shared), abs=1e-10)


def test_one_example_of_a_class_shares_nothing():
    rng = np.random.default_rng(0)
    law = rl.UnfrozenLogits.from_logits(rng.normal(size=(4, 4)), np.arange(4))
    assert law.shared_by_class == 0


@pytest.mark.parametrize("num_classes", [2, 4])
def test_frozen_examples_have_the_spreads_of_a_sample(num_classes):
    """No curvature to fit: margin, its spread and that of the wrong classes as they are, N - 1 and C - 2 of them."""
    logits = 1e4 * np.random.default_rng(0).normal(size=(3, num_classes))
    labels = np.array([0, 1, 1])
    found = rl.UnfrozenLogits.from_logits(logits, labels)
    margins, variances = [], []
    for z, y in zip(logits, labels, strict=True):
        wrong = [float(x) for x in np.delete(z, y)]
        margins.append(float(z[y]) - max(wrong))
        variances.append(variance(wrong) if num_classes > 2 else 0.0)
    assert found.margin == pytest.approx(mean(margins), rel=1e-12)
    assert found.margin_spread == pytest.approx(stdev(margins), rel=1e-12)
    assert found.sigma == pytest.approx(mean(variances) ** 0.5, rel=1e-12)


def test_two_classes_share_nothing():
    """One wrong class has no spread about its mean that examples could have in common."""
    found = rl.UnfrozenLogits.from_logits(np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2)
    assert (found.sigma, found.shared, found.shared_by_class) == (0.0, 0.0, 0.0)


def test_two_classes_are_fitted_too():
    """They have no spread of wrong classes, and that is no reason to take margins as they are."""
    rng = np.random.default_rng(0)
    margins = np.where(rng.uniform(size=4000) < 0.5, 40.0, rng.normal(1.0, 2.0, 4000))
    logits, labels = np.column_stack([margins, np.zeros(4000)]), np.zeros(4000, dtype=int)
    law = rl.UnfrozenLogits.from_logits(logits, labels)
    assert law.sigma == 0
    drawn, _ = law.draw_logits(20_000, 2, rng)
    assert statistics(drawn)[0] == pytest.approx(statistics(logits)[0], rel=0.1)
    plain, _ = rl.UnfrozenLogits(0.0, margins.mean(), margins.std()).draw_logits(20_000, 2, rng)
    assert statistics(plain)[0] < 0.8 * statistics(logits)[0]


def test_equal_margins_have_no_spread():
    logits = np.array([[1.5, 0.0, -1.0], [1.0, -0.5, -3.0], [2.5, 1.0, 1.0]])
    found = rl.UnfrozenLogits.from_logits(logits, np.zeros(3, dtype=int))
    assert (found.margin, found.margin_spread) == (1.5, 0.0)
    assert found.sigma == pytest.approx(np.sqrt((0.5 + 3.125) / 3))
