"""The rows on A1, A2, B1 and B2."""

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.comparison import hierarchy as rows
from rmtland.comparison.result import HIERARCHY, QUANTITIES, RUNGS
from tests import oracles

ARRAYS = oracles.examples(40, 3, 30)
SOURCE = rl.DenseLogitGradients(*ARRAYS)


def test_rows_of_a_source_by_brute_force():
    expected = oracles.hierarchy(*ARRAYS)
    found = rows.of_source(SOURCE, np.random.default_rng(0))
    assert set(found) == set(HIERARCHY)
    whole = np.trace(oracles.gauss_newton(ARRAYS[0], ARRAYS[2]))
    for part in ("A1", "A2", "B1", "B2"):
        assert found[f"{part}_trace_share"] == pytest.approx(np.trace(expected[part]) / whole)
        assert found[f"{part}_top_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(expected[part])[-1], rel=1e-6)
    assert [found[f"{part}_rank"] for part in ("A1", "A2", "B1", "B2")] == [3, 3, 3, 30]
    wide = rl.DenseLogitGradients(*oracles.examples(10, 3, 60))
    values = np.linalg.eigvalsh(oracles.hierarchy(*oracles.examples(10, 3, 60))["B2"])
    assert rows.of_source(wide, np.random.default_rng(0))["B2_rank"] == np.count_nonzero(values > 1e-12 * values[-1])


def test_nothing_within_classes_and_nothing_kept(monkeypatch):
    logits, _, gradients = (array[:2] for array in ARRAYS)
    alone = rows.of_source(rl.DenseLogitGradients(logits, np.array([0, 1]), gradients), np.random.default_rng(0))
    assert alone["B2_top_eigenvalue"] == 0 == alone["B2_rank"]
    monkeypatch.setattr("rmtland.logits.cross_class.PAIRS_BYTES", 0)
    found = rows.of_source(SOURCE, np.random.default_rng(0))
    assert np.isnan(found["B1_rank"])
    assert np.isnan(found["A1_top_eigenvalue"])
    assert found["B1_trace_share"] > 0


def test_rows_are_there_when_asked_for():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(40, 5).double(), torch.arange(40) % 3)
    asked = rl.compare(source, num_draws=3, hierarchy=True, rungs=["gauss_newton", "mean_gradients", "class_means"])
    plain = rl.compare(source, num_draws=3, rungs=["gauss_newton", "mean_gradients", "class_means"])
    frame, stage = asked.table(), asked.stages["network"]
    assert list(plain.table().index) == list(QUANTITIES)
    assert list(frame.index) == [*QUANTITIES, *HIERARCHY]
    assert frame.loc["A1_rank", ("network", RUNGS["mean_gradients"])] == ""
    for name in ("gauss_newton", "class_means"):
        rung = stage.rungs[name]
        assert sum(rung.mean(f"{part}_trace_share") for part in ("A1", "A2", "B1", "B2")) == pytest.approx(1)
        for quantity in QUANTITIES:  # the others are what they were
            np.testing.assert_array_equal(rung.values[quantity], plain.stages["network"].rungs[name].values[quantity])
    assert stage.rungs["class_means"].values["B1_top_eigenvalue"].shape == (3,)
    assert np.ptp(stage.rungs["class_means"].values["B1_top_eigenvalue"]) > 0
    dataset = asked.to_xarray()
    assert dataset.B1_rank.sel(rung="gauss_newton").values[0, 0] == 3
    stored = asked.to_dict()["stages"]["network"]["rungs"]["gauss_newton"]["quantities"]["B1_trace_share"]
    assert stored["mean"] == stage.rungs["gauss_newton"].mean("B1_trace_share")
    assert asked.settings["hierarchy"] is True


def test_class_means_tell_b1_apart():
    # Without class gradients a model's B1 has what the means have; with them more, as the source of both has.
    law = rl.ClusteredGradients(mean_length=0.5, residual_length=0.5, class_length=1.0)
    draw = rl.LandscapeModel(60, 4, 400, rl.GaussianLogits(sigma=1.0), law).sample(rng=0)
    stage = rl.compare(draw, num_draws=6, hierarchy=True, rungs=["gauss_newton", "own_probabilities", "class_means"])
    rungs = stage.stages["network"].rungs
    share, plain, by_class = (
        rungs[name].mean("B2_trace_share") for name in ("gauss_newton", "own_probabilities", "class_means")
    )
    assert abs(by_class - share) < 0.3 * abs(plain - share)


def test_models_that_do_not_fit_have_no_rows(monkeypatch):
    model = rl.LandscapeModel.fort_ganguli(num_examples=40, num_classes=3, num_parameters=10**6)
    assert set(rows.of_model(model, np.random.default_rng(0))) == set(HIERARCHY)
    monkeypatch.setattr(rows, "DRAW_BYTES", 1000)
    assert rows.of_model(model, np.random.default_rng(0)) == {}


def test_another_gradient_law_is_drawn_as_it_is(monkeypatch):
    class Law(rl.ClusteredGradients):
        pass

    model = rl.LandscapeModel(20, 3, 30, rl.GaussianLogits(sigma=2.0), Law(mean_length=1.0, residual_length=0.5))
    found = rows.of_model(model, np.random.default_rng(0))
    assert found["A1_rank"] == 3
    assert sum(found[f"{part}_trace_share"] for part in ("A1", "A2", "B1", "B2")) == pytest.approx(1)
    for limit, fits in ((8 * 20 * 3 * 30, True), (8 * 20 * 3 * 30 - 1, False)):
        monkeypatch.setattr(rows, "DRAW_BYTES", limit)
        assert bool(rows.of_model(model, np.random.default_rng(0))) == fits


def test_every_rung_can_be_asked(monkeypatch):
    every = rl.compare(SOURCE, num_draws=2, hierarchy=True, theory=False).stages["network"].rungs
    for name, rung in every.items():
        assert np.isnan(rung.mean("A1_rank")) == (name in ("hessian", "mean_gradients", "kernel_law")), name
    monkeypatch.setattr(rows, "DRAW_BYTES", 1000)
    asked = rl.compare(SOURCE, num_draws=2, hierarchy=True, rungs=["gauss_newton", "full_model"])
    assert np.isnan(asked.stages["network"].rungs["full_model"].mean("A1_rank"))


def test_bad_input():
    with pytest.raises(TypeError, match="`hierarchy` must be"):
        rl.compare(SOURCE, hierarchy="yes")
