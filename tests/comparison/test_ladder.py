"""Parts of the ladder, with small sources."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import rmtland as rl
from rmtland.comparison import compare as module
from rmtland.comparison import ladder
from rmtland.comparison.measured import Measured
from rmtland.comparison.result import RUNGS
from tests import oracles


def source_of(num_examples=12, num_classes=3, num_parameters=20, labels=None):
    logits, drawn, gradients = oracles.examples(num_examples, num_classes, num_parameters)
    return rl.DenseLogitGradients(logits, drawn if labels is None else np.array(labels), gradients)


def test_progress_counts_rungs_and_draws_and_tells_what_is_going_on(monkeypatch):
    class NoWorkers:  # one worker takes no processes
        __init__ = None

    monkeypatch.setattr(module, "Workers", NoWorkers)
    both = {"one": source_of(), "two": source_of(num_examples=9)}
    assert list(rl.compare(both, num_draws=2, rungs=("mean_gradients",)).stages) == ["one", "two"]
    heard = []
    rungs = ("gauss_newton", "full_model", "mean_gradients")
    rl.compare(source_of(), num_draws=2, rungs=rungs, theory=False, progress=lambda *word: heard.append(word))
    b, g, h = (RUNGS[name] for name in rungs)
    begins = [(f"network: {what}", done) for what, done in (("clustering and scales", 0), (b, 0), (g, 1), (h, 3))]
    ends = [(f"network: {what}", done) for what, done in ((b, 1), (g, 2), (g, 3), (h, 4))]
    expected = [*begins[:2], ends[0], begins[2], *ends[1:3], begins[3], ends[3]]
    assert heard == [(*word, 4) for word in expected]


def test_progress_tells_of_products_and_groups():
    heard = []
    source = dataclasses.replace(source_of(), parameter_groups={"a": slice(0, 5), "b": slice(5, 20)})
    rl.compare(
        source, num_draws=2, rungs=("gauss_newton",), by="parameter_groups", progress=lambda *word: heard.append(word)
    )
    b = RUNGS["gauss_newton"]
    assert [word[0] for word in heard if word[0].endswith(b)] == [
        f"{part}: {b}" for part in ("network", "network: a", "network: b") for _ in range(2)
    ]
    assert heard[-1][1:] == (3, 3)


def test_class_means_are_measured_where_a_class_has_two_examples():
    assert Measured.of(source_of(3, 3, labels=[0, 1, 2])).class_scales is None
    few = Measured.of(source_of(3, 3, labels=[0, 1, 0]))
    assert few.class_scales is not None
    assert few.num_rows == 3 * 2
    assert few.sizes == (3, 3, 20)
    assert ladder._class_means(Measured.of(source_of(3, 3, labels=[0, 1, 2]))) is None


def test_numbers_that_models_are_given():
    plain = rl.LandscapeModel.fort_ganguli(num_examples=7, num_classes=3, num_parameters=50)
    assert ladder.numbers_of(plain) == 2 + 2  # sigma_z and accuracy, two lengths
    given = dataclasses.replace(plain, logits=rl.GivenLogits(np.zeros((7, 3)), np.zeros(7, dtype=int)))
    assert ladder.numbers_of(given) == 7 * 3 + 7 + 2  # logits, labels
    law = rl.ClusteredGradients(1.0, 0.0, 0.5)
    assert ladder.numbers_of(dataclasses.replace(given, gradients=law)) == 28 + 2
    law = rl.AnisotropicGradients.clustered(3, 1.0, 0.8, 0.6, rl.ResidualCovariance.power_law(0.9, cut=20))
    assert law.num_numbers > 2
    assert ladder.numbers_of(dataclasses.replace(given, gradients=law)) == 28 + law.num_numbers


def test_draws_have_a_thread_each_and_none_inside():
    def measure(child):
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert pools
        return max(pools), child

    steps = []
    found = ladder._side_by_side(measure, list(range(6)), lambda: steps.append(1))
    assert found == [(1, child) for child in range(6)]
    assert len(steps) == 6


@pytest.mark.parametrize(("side", "exact"), [(("EXACT_ROWS", 20), True), (("EXACT_ROWS", 19), False)])
def test_g_is_diagonalised_up_to_so_many_rows(side, exact, monkeypatch):
    monkeypatch.setattr(ladder, *side)
    source = source_of()  # 24 rows, 20 parameters
    told = []
    report = SimpleNamespace(
        hierarchy=False,
        operator=lambda operator, slope, rng, q, trace, told: ("operator", trace),
        spectrum=lambda values, powers, q: ("spectrum", values.sum()),
    )
    measured = Measured.of(source)
    kind, trace = ladder._gauss_newton_rung(measured, report, np.random.default_rng(0), told.append)
    assert kind == ("spectrum" if exact else "operator")
    dense = oracles.gauss_newton(source.logits, source.gradients)
    assert trace == pytest.approx(np.trace(dense))


def test_mean_gradients_have_the_power_of_their_eigenvectors():
    rng = np.random.default_rng(0)
    logits, means, slope = rng.normal(size=(9, 4)), rng.normal(size=(4, 6)), rng.normal(size=6)
    curvature = np.mean([oracles.curvature(z) for z in logits], axis=0)
    values, vectors = np.linalg.eigh(means.T @ curvature @ means)
    scales = SimpleNamespace(mean_gradients=means)
    found, powers = ladder.mean_gradient_outliers(scales, logits, slope)
    np.testing.assert_allclose(found, values[-3:], rtol=1e-10)
    np.testing.assert_allclose(powers, (vectors[:, -3:].T @ slope) ** 2 / (slope @ slope), rtol=1e-8)
    # Means of one length along each other: one eigenvalue, and none of the power elsewhere.
    means = np.outer([1.0, 2.0, 3.0, 5.0], np.eye(6)[0])
    found, powers = ladder.mean_gradient_outliers(SimpleNamespace(mean_gradients=means), logits, np.ones(6))
    np.testing.assert_allclose(found[-1], (means @ means.T @ curvature).trace(), rtol=1e-10)
    np.testing.assert_allclose(found[:-1], 0, atol=1e-13)
    np.testing.assert_allclose(powers, [0, 0, 1 / 6], atol=1e-12)
    found, powers = ladder.mean_gradient_outliers(scales, logits, np.zeros(6))
    assert all(map(math.isnan, powers))
    np.testing.assert_allclose(found, values[-3:], rtol=1e-10)


def test_theories_that_are_cheap():
    trace = SimpleNamespace(values={"trace": np.array([1.0, 2.0])})
    zero = SimpleNamespace(values={"trace": np.array([1.0, 0.0])})

    def model(num_classes, num_examples=10, **lengths):
        return SimpleNamespace(num_classes=num_classes, num_examples=num_examples, gradients=SimpleNamespace(**lengths))

    cheap = ladder._theory_is_cheap
    assert cheap(model(20), trace)
    assert not cheap(model(21), trace)
    assert not cheap(model(20), zero)  # a frozen draw
    assert cheap(model(12, class_length=1.0), trace)
    assert not cheap(model(13, class_length=1.0), trace)
    assert cheap(model(13, class_length=0.0), trace)
    law = rl.AnisotropicGradients.clustered(4, 1.0, 0.8, 0.6, rl.ResidualCovariance.power_law(0.9, cut=20))
    many = SimpleNamespace(num_classes=4, num_examples=500, gradients=law)
    assert cheap(many, trace)
    many.num_examples = 501
    assert not cheap(many, trace)


@pytest.mark.parametrize(("participation", "frozen"), [(1 - 1e-10, True), (1 - 1e-8, False), (0.5, False)])
def test_no_sigma_is_looked_for_where_all_is_frozen(participation, frozen):
    outputs = SimpleNamespace(participation=participation, accuracy=0.9)
    model = rl.LandscapeModel.fort_ganguli(num_examples=7, num_classes=3, num_parameters=50)
    found = ladder._matched_participation(
        SimpleNamespace(outputs=outputs, source=SimpleNamespace(num_classes=3), full_model=model)
    )
    assert (found is None) == frozen
    if found is not None:
        assert found.gradients == model.gradients
        assert found.logits == rl.GaussianLogits.from_participation(participation, 3, 0.9)
