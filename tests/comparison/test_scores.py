"""Scores of rungs against G, the rungs of measured laws, and the theory beside draws."""

import dataclasses
import json
import math

import numpy as np
import pytest

import rmtland as rl
from rmtland.comparison import measured
from rmtland.comparison.result import BESIDE, RUNGS, Rung
from rmtland.comparison.scores import SCORES, scores_of

N, C, D = 40, 4, 300
LAW = rl.AnisotropicGradients.clustered(C, 1.0, 0.8, 0.6, rl.ResidualCovariance.power_law(0.9, cut=200))
DRAW = rl.LandscapeModel(N, C, D, rl.GaussianLogits(2.0), LAW).sample(rng=0)


@pytest.fixture(scope="module")
def comparison():
    return rl.compare({"one": DRAW, "two": DRAW}, num_draws=4, theory=True)


def rung_of(eigenvalues, power, num_numbers=None):
    values = np.sort(np.atleast_2d(eigenvalues), axis=1)
    sums = values.sum(axis=1)
    ratio = sums / np.linalg.norm(values, axis=1)
    powers = np.full(values.shape[0], power)
    return Rung(
        {"gradient_power_C_minus_1": powers, "goldilocks_ratio": ratio, "trace": sums},
        values, np.zeros_like(values), num_numbers=num_numbers,
    )  # fmt: skip


def test_scores_by_hand():
    real = rung_of([8.0, 4.0, 2.0, 1.0, 0.5, 1e-9], 0.6)
    double = rung_of([[16.0, 8.0, 4.0, 2.0, 1.0, 0.5]], 0.7, 5)
    found = scores_of(double, real, num_classes=3)
    assert found.top_error == pytest.approx(math.log(2))
    assert found.edge_error == pytest.approx(math.log(2))
    assert found.power_difference == pytest.approx(0.1)
    assert found.ratio_difference == pytest.approx(double.mean("goldilocks_ratio") / real.mean("goldilocks_ratio") - 1)
    assert found.spectral_distance == pytest.approx(math.log(2))  # of the five that count
    assert found.num_numbers == 5
    same = scores_of(real, real, num_classes=3)
    assert list(same.to_dict().values())[:5] == [0.0] * 5
    assert math.isnan(same.num_numbers)
    few = scores_of(rung_of([16.0, 8.0], 0.7), real, num_classes=3)
    assert few.top_error == pytest.approx(math.log(2))
    assert math.isnan(few.edge_error)
    # Fewer eigenvalues than G: the missing ones are at the floor.
    assert few.spectral_distance == pytest.approx(
        np.mean([math.log(2)] * 2 + [math.log(v / 8e-6) for v in (2.0, 1.0, 0.5)])
    )
    draws = scores_of(rung_of([[8.0, 4.0, 3.0, 1.0], [8.0, 4.0, 1.0, 1.0]], 0.6), real, num_classes=3)
    assert draws.edge_error == pytest.approx(0.0)  # of the mean over draws


def test_scores_need_as_many_eigenvalues_as_they_name():
    real = rung_of([32.0, 16.0, 8.0, 4.0, 2.0, 1.0], 0.6)
    ours = rung_of([64.0, 32.0, 16.0, 16.0, 8.0, 4.0], 0.6)
    assert scores_of(ours, real, num_classes=2).top_error == pytest.approx(math.log(2))  # of four; three are above it
    assert scores_of(ours, real, num_classes=3).top_error == pytest.approx(math.log(8) / 2)  # of six
    three, two, one = (rung_of([64.0, 32.0, 16.0][:count], 0.6) for count in (3, 2, 1))
    assert scores_of(three, real, num_classes=3).edge_error == pytest.approx(math.log(2))
    assert math.isnan(scores_of(two, real, num_classes=3).edge_error)
    assert scores_of(two, real, num_classes=3).top_error == pytest.approx(math.log(2))
    assert math.isnan(scores_of(one, real, num_classes=3).top_error)
    # An eigenvalue of zero has no logarithm, on either side.
    for rungs in (([4.0, 0.0], [2.0, 1.0]), ([4.0, 1.0], [2.0, 0.0])):
        found = scores_of(*(rung_of(values, 0.6) for values in rungs), num_classes=2)
        assert math.isnan(found.edge_error)
        assert math.isnan(found.top_error)


def test_a_ratio_is_set_against_one_that_is_positive():
    single = rung_of([8.0], 0.6)  # whose Trace / Frobenius norm is 1
    assert scores_of(rung_of([3.0, 3.0], 0.6), single, num_classes=2).ratio_difference == pytest.approx(2**0.5 - 1)
    single.values["goldilocks_ratio"] = np.array([0.0])
    assert math.isnan(scores_of(rung_of([3.0, 3.0], 0.6), single, num_classes=2).ratio_difference)


def test_spectral_distances_of_whole_spectra_only():
    def distance(ours, theirs):
        return scores_of(ours, theirs, num_classes=2).spectral_distance

    real, ours = rung_of([1.0, 0.5, 1e-6], 0.6), rung_of([1.0, 1.0, 1.0], 0.6)
    assert distance(ours, real) == pytest.approx(math.log(2) / 2)  # a millionth of the largest is not above it
    assert distance(ours, rung_of([2.0], 0.6)) == pytest.approx(math.log(2))
    frozen = Rung({name: np.zeros(1) for name in ours.values}, np.zeros((1, 3)), np.zeros((1, 3)))
    nothing = Rung(frozen.values, np.zeros((1, 0)), np.zeros((1, 0)))
    assert distance(frozen, real) == pytest.approx((math.log(1e6) + math.log(5e5)) / 2)
    for empty in (frozen, nothing):
        assert math.isnan(distance(ours, empty))
    for rungs in ((ours, real), (real, ours)):
        for place in range(2):
            pair = [dataclasses.replace(rung, values=dict(rung.values)) for rung in rungs]
            pair[place] = dataclasses.replace(pair[place], density=object())
            assert math.isnan(distance(*pair))
    # A top that falls short of its trace is no whole spectrum; rounding is, in whatever unit.
    for unit in (1e-6, 1.0, 1e6):
        real, ours = rung_of([unit, unit / 2], 0.6), rung_of([unit, unit], 0.6)
        for rung in (real, ours):
            whole = rung.values["trace"]
            for share, known in ((0.0, True), (9e-7, True), (1.1e-6, False), (0.5, False)):
                rung.values["trace"] = whole * (1 + share)
                assert math.isnan(distance(ours, real)) != known
            rung.values["trace"] = whole


def test_the_order_is_one_of_explanations(comparison):
    frame = comparison.scores()
    assert list(frame.columns) == list(SCORES)
    assert frame.index.names == ["stage", "rung"]
    order = [
        "hessian", "gauss_newton", "kernel_law", "measured_means", "class_means", "own_probabilities", "full_model",
    ]  # fmt: skip
    assert list(RUNGS) == [*order, *BESIDE]
    assert [label[:3] for label in RUNGS.values()] == [f"({letter})" for letter in "abcdefghijk"]
    for stage in ("one", "two"):
        assert list(frame.loc[stage].index) == [RUNGS[name] for name in (*order[2:], *BESIDE)]


def test_more_numbers_explain_more(comparison):
    frame = comparison.scores().loc["one"]
    informed, plain = frame.loc[RUNGS["measured_means"]], frame.loc[RUNGS["own_probabilities"]]
    assert informed.top_error < 0.1 < plain.top_error
    assert abs(informed.edge_error) < 0.25 < abs(plain.edge_error)
    assert abs(informed.power_difference) < 0.1
    assert abs(informed.ratio_difference) < 0.1
    assert informed.spectral_distance < plain.spectral_distance
    assert informed.num_numbers > plain.num_numbers == N * (C + 1) + 2
    assert frame.loc[RUNGS["full_model"]].num_numbers == 4
    # Six of the logits; two lengths, and what of dimension and spreads the gradients have.
    assert 8 <= frame.loc[RUNGS["unfrozen_logits"]].num_numbers <= 11
    kernel = frame.loc[RUNGS["kernel_law"]]
    assert kernel.num_numbers == N * (C + 1) + N * (N + 1) // 2 + C * (C + 1) // 2


def test_mean_gradients_alone_are_given_logits_labels_and_inner_products():
    (rung,) = rl.compare(DRAW, num_draws=2, rungs=["mean_gradients"]).stages["network"].rungs.values()
    logits, pairs = [*DRAW.logits.ravel(), *DRAW.labels], [(k, m) for k in range(C) for m in range(k + 1)]
    assert rung.num_numbers == len(logits) + len(pairs)


def test_the_theory_stands_beside_the_draws(comparison):
    rungs = comparison.stages["one"].rungs
    for name in ("measured_means", "own_probabilities", "class_means", "full_model"):
        rung = rungs[name]
        for quantity in ("eigenvalue_1", "eigenvalue_3", "goldilocks_ratio", "gradient_power_C_minus_1"):
            spread = 5 * rung.deviation(quantity) + 0.03 * rung.mean(quantity)
            assert abs(rung.theory[quantity] - rung.mean(quantity)) < spread, (name, quantity)
    assert not rungs["gauss_newton"].theory
    chosen = ["own_probabilities", "measured_means"]
    silent, default = (
        rl.compare(DRAW, num_draws=4, rungs=chosen, theory=t).stages["network"].rungs for t in (False, None)
    )
    assert not any(rung.theory for rung in silent.values())
    # By default where it takes seconds.
    expected = rungs["own_probabilities"].theory["eigenvalue_1"]
    assert default["own_probabilities"].theory["eigenvalue_1"] == pytest.approx(expected)
    of_means = default["measured_means"].theory
    assert of_means["gradient_power_C"] == rungs["measured_means"].theory["gradient_power_C"]
    # Asking for it leaves the draws as they are.
    for name in chosen:
        np.testing.assert_array_equal(silent[name].eigenvalues, default[name].eigenvalues)
    frame = comparison.theory()
    assert ("one", RUNGS["measured_means"]) in frame.columns
    assert float(frame.loc["eigenvalue_1", ("two", RUNGS["full_model"])]) == pytest.approx(
        comparison.stages["two"].rungs["full_model"].theory["eigenvalue_1"], rel=1e-3
    )
    assert frame.loc["q_same_logit", ("one", RUNGS["full_model"])] != ""
    assert rl.compare(DRAW, num_draws=2, rungs=["gauss_newton"]).theory().empty


def test_draws_are_counted_beyond_the_edge_of_their_theory(comparison):
    rungs = comparison.stages["one"].rungs
    own = rl.LandscapeModel.from_source(DRAW)
    own = dataclasses.replace(own, logits=rl.GivenLogits(DRAW.logits, DRAW.labels))
    eigenvalues, edge = rungs["own_probabilities"].eigenvalues, own.theory().bulk_edge
    expected = [np.count_nonzero(row > edge) for row in eigenvalues]
    np.testing.assert_array_equal(rungs["own_probabilities"].values["num_above_edge"], expected)
    outliers = np.count_nonzero(own.theory().outliers() > edge)
    assert rungs["own_probabilities"].theory["num_above_edge"] == pytest.approx(outliers, abs=0.2)
    # A rule of gaps needs no theory, a matrix has no edge.
    assert math.isnan(rungs["gauss_newton"].mean("num_above_edge"))
    assert "num_outliers" not in rungs["full_model"].theory


def test_eigenvalues_of_class_gradients_are_expected_beyond_the_edge():
    gradients = rl.ClusteredGradients(mean_length=1.0, residual_length=0.5, class_length=0.8)
    draw = rl.LandscapeModel(150, 4, 2000, rl.GaussianLogits(sigma=4.0, accuracy=0.9), gradients).sample(rng=0)
    rungs = rl.compare(draw, num_draws=4, rungs=["class_means", "measured_means"], theory=True).stages["network"].rungs
    for rung in rungs.values():
        drawn = rung.mean("num_above_edge")
        assert drawn > 6  # more than the C - 1 = 3 outliers
        assert rung.theory["num_above_edge"] == pytest.approx(drawn, abs=1.0)


def test_each_draw_of_the_logits_has_an_edge_of_its_own(monkeypatch):
    edges, theory = [], rl.LandscapeModel.theory

    def overheard(model, rng):
        found = theory(model, rng)
        edges.append(found.bulk_edge)
        return found

    monkeypatch.setattr(rl.LandscapeModel, "theory", overheard)
    draw = rl.LandscapeModel.fort_ganguli(60, 4, 150, sigma_z=3.0, snr=0.1).sample(rng=0)  # outliers near the edge
    rung = rl.compare(draw, num_draws=6, rungs=["full_model"], theory=True).stages["network"].rungs["full_model"]
    assert len(set(edges)) == 6
    counts = [np.count_nonzero(row > edge) for row, edge in zip(rung.eigenvalues, edges, strict=True)]
    assert len(set(counts)) > 1
    np.testing.assert_array_equal(rung.values["num_above_edge"], counts)


def test_scores_are_written(comparison, tmp_path):
    comparison.to_json(tmp_path / "comparison.json")
    stored = json.loads((tmp_path / "comparison.json").read_text())["stages"]["two"]
    frame = comparison.scores()
    for name, scores in stored["scores"].items():
        assert scores["top_error"] == pytest.approx(frame.loc[("two", RUNGS[name]), "top_error"])
    assert stored["rungs"]["own_probabilities"]["theory"]["eigenvalue_1"] > 0
    assert stored["rungs"]["full_model"]["num_numbers"] == 4
    data = comparison.to_xarray()
    value = data["edge_error"].sel(stage="one", rung="measured_means").item()
    assert value == frame.loc[("one", RUNGS["measured_means"]), "edge_error"]
    assert np.isnan(data["top_error"].sel(stage="one", rung="gauss_newton").item())
    assert "scores" in comparison.plot()


def test_without_g_there_are_no_scores():
    comparison = rl.compare(DRAW, num_draws=2, rungs=["full_model"])
    assert comparison.scores().empty
    assert comparison.stages["network"].scores() == {}
    assert "scores" not in comparison.plot()


def test_too_many_gradients_leave_the_measured_laws_out(monkeypatch):
    monkeypatch.setattr("rmtland.comparison.measured.GRAM_ROWS", 10)
    rungs = (
        rl.compare(DRAW, num_draws=2, rungs=["kernel_law", "measured_means", "gauss_newton"]).stages["network"].rungs
    )
    assert list(rungs) == ["gauss_newton"]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_measured_means_predict_trained_networks(activation):
    """The numbers that the law of measured means has to reach, on networks of the digits at three stages."""
    import torch

    from rmtland.nets.datasets import load_dataset

    torch.manual_seed(7)
    between = torch.nn.Tanh if activation == "tanh" else torch.nn.ReLU
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 24), between(), torch.nn.Linear(24, 10)
    ).double()
    stages = rl.nets.training_stages(load_dataset("digits"), network=module, epochs=8, num_examples=120, seed=3)
    chosen = ["gauss_newton", "measured_means", "own_probabilities"]
    frame = rl.compare(stages, num_draws=4, rungs=chosen, theory=False).scores()
    for stage in stages:
        measured, plain = (frame.loc[(stage, RUNGS[name])] for name in chosen[1:])
        first = stage == "initialisation"
        assert measured.top_error < (0.05 if first else 0.15), stage
        assert abs(measured.edge_error) < (0.05 if first else 0.25), stage
        assert abs(measured.power_difference) < (0.05 if first else 0.1), stage
        assert abs(measured.ratio_difference) < (0.05 if first else 0.1), stage
        assert plain.top_error > 2 * measured.top_error, stage


def test_unfrozen_logits_have_uneven_gradients_where_inner_products_are_formed(monkeypatch):
    few = ["unfrozen_logits"]
    rung = rl.compare(DRAW, num_draws=6, rungs=few).stages["network"].rungs["unfrozen_logits"]
    law = rl.UnevenGradients.from_source(DRAW)
    model = dataclasses.replace(rl.LandscapeModel.from_source(DRAW, logit_law="unfrozen"), gradients=law)
    expected = [model.spectrum(rng=i).trace for i in range(60)]
    assert rung.mean("trace") == pytest.approx(np.mean(expected), abs=5 * np.std(expected) / 6**0.5)
    assert rung.num_numbers == 6 + law.num_numbers
    assert rung.theory["trace"] == pytest.approx(rung.mean("trace"), rel=0.2)
    monkeypatch.setattr(measured, "GRAM_ROWS", 10)
    plain = rl.compare(DRAW, num_draws=6, rungs=few).stages["network"].rungs["unfrozen_logits"]
    assert plain.num_numbers == 6 + 2
