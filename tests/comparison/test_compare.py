"""The rungs of a network and of draws of the model, and what does not depend on what else is asked for."""

import dataclasses
import json
import math
import pickle
import re
import threading

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.comparison import ladder
from rmtland.comparison.measured import Measured
from rmtland.comparison.result import QUANTITIES, RUNGS
from rmtland.comparison.workers import Words, Workers

MODEL = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=4, num_parameters=150, sigma_z=3.0, snr=4.0)


@pytest.fixture(scope="module")
def of_draw():
    return rl.compare(MODEL.sample(rng=5), num_draws=12, rng=1, theory=False)


def test_every_rung_of_a_network(network, of_network):
    rungs = of_network.stages["network"].rungs
    assert list(rungs) == list(RUNGS)
    assert [rung.num_draws for rung in rungs.values()] == [1, 1, 1, 3, 3, 3, 3, 1, 3, 3, 3]
    source = rl.nets.NetworkLogitGradients(*network)
    hessian, gauss_newton = rl.nets.hessian(source).to_dense(), rl.gauss_newton(source).to_dense()
    slope = rl.gradient(source).numpy()
    for name, matrix in (("hessian", hessian), ("gauss_newton", gauss_newton)):
        eigenvalues, vectors = np.linalg.eigh(matrix)
        powers = (vectors.T @ slope) ** 2 / (slope @ slope)
        rung = rungs[name]
        assert rung.mean("top_eigenvalue") == rung.mean("eigenvalue_1") == pytest.approx(eigenvalues[-1])
        assert rung.mean("eigenvalue_10") == pytest.approx(eigenvalues[-10])
        assert rung.mean("gradient_power_C_minus_1") == pytest.approx(powers[-2:].sum())
        assert rung.mean("gradient_power_C") == pytest.approx(powers[-3:].sum())
        assert rung.mean("goldilocks_ratio") == pytest.approx(np.trace(matrix) / np.linalg.norm(matrix))
        assert rung.mean("trace") == pytest.approx(np.trace(matrix))
        assert rung.mean("frobenius_norm") == pytest.approx(np.linalg.norm(matrix))
        assert rung.mean("num_outliers") == rl.count_outliers(eigenvalues, "ratio", max_outliers=9)
        assert rung.mean("q_same_logit") == rl.clustering(source).same_logit


def test_the_recorded_seed_gives_the_same_again():
    """It was an address for a Generator, and None for none."""
    draw = MODEL.sample(rng=5)
    assert rl.compare(draw, num_draws=2, theory=False, rng=1).settings["rng"] == "1"
    generator = np.random.default_rng(3)
    state = generator.bit_generator.state
    first = rl.compare(draw, num_draws=2, theory=False, rng=generator)
    generator.bit_generator.state = state
    for again in (generator, int(first.settings["rng"])):
        other = rl.compare(draw, num_draws=2, theory=False, rng=again)
        assert other.settings == first.settings
        assert other.table().equals(first.table())
    fresh = rl.compare(draw, num_draws=2, theory=False)
    assert rl.compare(draw, num_draws=2, theory=False, rng=int(fresh.settings["rng"])).table().equals(fresh.table())


def test_the_mean_gradients_alone(network, of_network):
    source = rl.nets.NetworkLogitGradients(*network)
    scales, slope = rl.logit_scales(source), rl.gradient(source).numpy()
    c = scales.mean_gradients.numpy()
    p = torch.softmax(network[0](network[1]), dim=1).detach().numpy()
    curvature = np.mean([np.diag(row) - np.outer(row, row) for row in p], axis=0)
    eigenvalues, vectors = np.linalg.eigh(c.T @ curvature @ c)
    powers = (vectors.T @ slope) ** 2 / (slope @ slope)
    rung = of_network.stages["network"].rungs["mean_gradients"]
    np.testing.assert_allclose(rung.eigenvalues[0], eigenvalues[-2:])
    np.testing.assert_allclose(rung.powers[0], powers[-2:])
    assert abs(eigenvalues[:-2]).max() < 1e-12  # C - 1 outliers, not C
    assert rung.mean("num_outliers") == 2
    assert math.isnan(rung.mean("q_same_logit"))


def test_a_draw_of_the_model_agrees_with_its_own_rungs(of_draw):
    stage = of_draw.stages["network"]
    assert list(stage.rungs) == list(RUNGS)[1:]
    real, own = stage.rungs["gauss_newton"], stage.rungs["own_probabilities"]
    # Same probabilities, gradients of the measured scales: one more draw of (nearly) the same model.
    for quantity in ("eigenvalue_1", "eigenvalue_3", "goldilocks_ratio", "q_same_logit", "gradient_power_C_minus_1"):
        spread = 5 * own.deviation(quantity) + 0.03 * abs(own.mean(quantity))
        assert abs(real.mean(quantity) - own.mean(quantity)) < spread, quantity
    assert own.mean("num_outliers") == real.mean("num_outliers") == 3
    mutant = dataclasses.replace(MODEL, gradients=rl.ClusteredGradients(1.0, 0.7))
    wrong = rl.compare(mutant.sample(rng=5), rungs=["gauss_newton"]).stages["network"].rungs["gauss_newton"]
    assert abs(wrong.mean("q_same_logit") - own.mean("q_same_logit")) > 5 * own.deviation("q_same_logit") + 0.03


def test_more_draws_do_not_change_the_first_ones():
    draw = MODEL.sample(rng=5)
    few, many = (rl.compare(draw, num_draws=n, rng=7, theory=False).stages["network"].rungs for n in (2, 4))
    for name in ("own_probabilities", "full_model", "class_means"):
        np.testing.assert_array_equal(few[name].eigenvalues, many[name].eigenvalues[:2])
    other = rl.compare(draw, num_draws=2, rng=8, theory=False).stages["network"].rungs
    assert not np.array_equal(few["full_model"].eigenvalues, other["full_model"].eigenvalues)


@pytest.mark.slow
def test_saved_arrays_are_compared_as_their_network_is(network, of_network):
    source = rl.nets.NetworkLogitGradients(*network)
    (chunk,) = source.chunks()
    saved = rl.DenseLogitGradients(chunk.logits.numpy(), chunk.labels.numpy(), chunk.dense().numpy())
    rungs = rl.compare(saved, num_draws=3).stages["network"].rungs
    assert "hessian" not in rungs
    for name in ("gauss_newton", "mean_gradients", "own_probabilities", "full_model"):
        for quantity in QUANTITIES:
            expected = of_network.stages["network"].rungs[name].values[quantity]
            np.testing.assert_allclose(rungs[name].values[quantity], expected, rtol=1e-7, atol=1e-10)


def test_many_examples_go_through_the_theory(of_draw, monkeypatch):
    monkeypatch.setattr(ladder, "DRAWN_ROWS", 10)
    names, told = ("own_probabilities", "full_model", "class_means"), []
    compared = rl.compare(
        MODEL.sample(rng=5), num_draws=12, rng=1, rungs=names, progress=lambda *what: told.append(what)
    )
    predicted = compared.stages["network"].rungs
    assert told[-1][1:] == (36, 36)  # though one theory serves for all draws of given logits
    for name in names:
        drawn, rung = of_draw.stages["network"].rungs[name], predicted[name]
        assert rung.eigenvalues.shape == (12, 3)  # the C - 1 outliers
        for quantity in ("eigenvalue_1", "eigenvalue_3", "trace", "frobenius_norm", "gradient_power_C_minus_1"):
            spread = 4 * drawn.deviation(quantity) / 12**0.5
            assert abs(rung.mean(quantity) - drawn.mean(quantity)) < spread + 0.02 * abs(drawn.mean(quantity))
        assert rung.mean("num_above_edge") == drawn.mean("num_outliers") == 3
        assert math.isnan(rung.mean("num_outliers"))  # a rule of gaps has no bulk to look at
        assert rung.mean("gradient_power_C") > rung.mean("gradient_power_C_minus_1")
        assert math.isnan(rung.mean("eigenvalue_4"))
    assert predicted["full_model"].deviation("eigenvalue_1") > 0  # another draw of logits each
    assert predicted["own_probabilities"].deviation("eigenvalue_1") < 1e-9  # the network's own


def test_batches_are_data_of_a_module_too(network):
    module, x, y = network
    batches = [(x[:15], y[:15]), (x[15:], y[15:])]  # two of them are no pair of inputs and labels
    for data in (batches, tuple(batches)[:1] + tuple(batches)[1:] + ((x[:3], y[:3]),)):
        count = sum(len(labels) for _, labels in data)
        stage = rl.compare(module, data, rungs=["mean_gradients"]).stages["network"]
        assert stage.sizes == (count, 3, 66)
    inputs, labels = torch.cat([x, x[:3]]), torch.cat([y, y[:3]])
    expected = rl.compare(module, (inputs, labels), rungs=["mean_gradients"]).stages["network"].rungs["mean_gradients"]
    np.testing.assert_allclose(stage.rungs["mean_gradients"].eigenvalues, expected.eigenvalues, rtol=1e-9)


def test_rungs_are_chosen_and_do_not_depend_on_each_other(of_draw):
    few = rl.compare(MODEL.sample(rng=5), num_draws=12, rng=1, rungs=["class_means", "gauss_newton"])
    rungs = few.stages["network"].rungs
    assert list(rungs) == ["gauss_newton", "class_means"]  # the ladder's order
    for name, rung in rungs.items():
        np.testing.assert_array_equal(rung.eigenvalues, of_draw.stages["network"].rungs[name].eigenvalues)
    assert list(few.rung_labels) == list(rungs)
    assert set(few.plot()) == {"spectra", "gradient_power", "scores"}


def test_stages_are_chosen_and_do_not_depend_on_each_other():
    told = []
    sources = {name: MODEL.sample(rng=seed) for seed, name in enumerate(["first", "second", "third"])}
    options = {"num_draws": 2, "rungs": ["gauss_newton", "full_model"], "theory": False}
    every = rl.compare(sources, **options)
    some = rl.compare(sources, stages={"third", "first"}, **options, progress=lambda *what: told.append(what))
    assert list(some.stages) == ["first", "third"]
    for name, stage in some.stages.items():
        for rung in options["rungs"]:
            expected = every.stages[name].rungs[rung].eigenvalues
            np.testing.assert_array_equal(stage.rungs[rung].eigenvalues, expected)
    assert not any(what.startswith("second") for what, _, _ in told)
    assert told[-1][1:] == (6, 6)


@pytest.mark.slow  # two processes that import everything
def test_numbers_do_not_depend_on_the_workers(network):
    told = []
    sources = {"network": rl.nets.NetworkLogitGradients(*network), "draw": MODEL.sample(rng=1)}
    options = {"num_draws": 2, "rungs": ["hessian", "gauss_newton", "full_model", "unfrozen_logits"], "hierarchy": True}
    alone = rl.compare(sources, **options)
    with Workers(2, ("rmtland.nets.gradients",)) as running:
        shared = rl.compare(sources, **options, workers=running, progress=lambda *what: told.append(what))
        # They go on.
        by_groups = {"rungs": ["gauss_newton", "mean_gradients"], "by": "parameter_groups", "workers": running}
        grouped, again = (rl.compare(sources["network"], **by_groups) for _ in range(2))
    assert json.dumps(shared.to_dict()) == json.dumps(alone.to_dict())
    assert list(shared.stages) == list(alone.stages)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1:] == (12, 12)
    assert {what.split(":")[0] for what, _, _ in told} == {"network", "draw"}
    assert json.dumps(grouped.to_dict()) == json.dumps(again.to_dict())
    assert list(grouped.stages)[:2] == ["network", "network: 0.weight"]
    assert all(list(stage.rungs) == ["gauss_newton", "mean_gradients"] for stage in grouped.stages.values())


@pytest.mark.slow
def test_what_a_worker_raises_is_raised():
    draw = rl.LandscapeModel.fort_ganguli(30, 3, 60, sigma_z=1e9).sample(rng=0)  # frozen: no theory
    with pytest.raises((ValueError, ArithmeticError)) as alone:
        rl.compare(draw, num_draws=2, rungs=["full_model", "own_probabilities"], theory=True)
    with pytest.raises(alone.type, match=re.escape(str(alone.value))):
        rl.compare(draw, num_draws=2, rungs=["full_model", "own_probabilities"], theory=True, workers=2)


def test_what_workers_cannot_share_is_refused(network, monkeypatch):
    source = rl.nets.NetworkLogitGradients(*network)
    source.lock = threading.Lock()
    with pytest.raises(TypeError, match="must be picklable to be shared among `workers`; got"):
        rl.compare(source, num_draws=2, workers=2)
    ranked = MODEL.sample(rng=0)
    monkeypatch.setattr("rmtland.comparison.compare.ranked", lambda source: source)
    with pytest.raises(ValueError, match="`workers` must be 1 for a source of several ranks"):
        rl.compare(ranked, num_draws=2, workers=2)
    with pytest.raises(ValueError, match="`workers` must be >= 1"):
        rl.compare(source, num_draws=2, workers=0)


def test_a_word_half_written_comes_when_it_is_whole(tmp_path):
    words = Words(tmp_path / "words")
    assert list(words.new()) == []
    words.add("one", 1, None)
    whole = pickle.dumps(("two", 2, None))
    with words.path.open("ab") as file:
        file.write(whole[:-3])
    assert list(words.new()) == [("one", 1, None)]
    with words.path.open("ab") as file:
        file.write(whole[-3:])
    assert list(words.new()) == [("two", 2, None)]
    assert list(words.new()) == []


def test_a_stage_gives_back_the_memory_of_its_graphs(network):
    one, other, alone = (rl.nets.NetworkLogitGradients(*network) for _ in range(3))
    rl.compare({"one": one, "other": other}, rungs=["hessian"])
    rl.compare(alone, rungs=["hessian"])
    assert one._budget.taken == other._budget.taken < alone._budget.taken
    v = np.random.default_rng(0).normal(size=one.num_parameters)
    np.testing.assert_allclose(rl.nets.hessian(one) @ v, rl.nets.hessian(alone) @ v)
    assert one._budget.taken <= alone._budget.taken


def test_matched_participation_has_the_measured_accuracy():
    law = rl.GaussianLogits(sigma=2.0, accuracy=0.3)
    draw = dataclasses.replace(MODEL, num_examples=400, logits=law).sample(rng=2)
    measured = Measured.of(draw)
    model = ladder.MODEL_RUNGS["matched_participation"](measured)
    assert model.logits.accuracy == measured.outputs.accuracy == pytest.approx(0.3, abs=0.05)
    assert model.logits.sigma == pytest.approx(2.0, rel=0.1)


def test_groups_of_parameters_are_stages_of_their_own(network, of_network):
    source = rl.nets.NetworkLogitGradients(*network)
    comparison = rl.compare(source, num_draws=3, by="parameter_groups", theory=False)
    names = ["network", *(f"network: {group}" for group in source.parameter_groups)]
    assert list(comparison.stages) == names
    for name, rung in of_network.stages["network"].rungs.items():  # the whole does not depend on its parts
        np.testing.assert_array_equal(rung.eigenvalues, comparison.stages["network"].rungs[name].eigenvalues)
    hessian, gauss_newton = rl.nets.hessian(source).to_dense(), rl.gauss_newton(source).to_dense()
    slope = rl.gradient(source).numpy()
    for group, place in source.parameter_groups.items():
        stage = comparison.stages[f"network: {group}"]
        assert stage.sizes == (30, 3, place.stop - place.start)
        for name, matrix in (("hessian", hessian), ("gauss_newton", gauss_newton)):
            values, vectors = np.linalg.eigh(matrix[place, place])
            rung = stage.rungs[name]
            assert rung.mean("eigenvalue_1") == pytest.approx(values[-1])
            assert rung.mean("trace") == pytest.approx(values.sum())
            power = ((vectors[:, -3:].T @ slope[place]) ** 2).sum() / (slope[place] @ slope[place])
            assert rung.mean("gradient_power_C") == pytest.approx(power)
        alone = rl.compare(rl.restrict(source, group), num_draws=3, rungs=["gauss_newton", "class_means"])
        expected = alone.stages["network"]
        assert stage.clustering == expected.clustering
        assert stage.rungs["class_means"].mean("q_same_logit") == expected.rungs["class_means"].mean("q_same_logit")
    first, second = (comparison.stages[name].rungs["own_probabilities"] for name in names[1:3])
    assert not np.array_equal(first.values["eigenvalue_1"], second.values["eigenvalue_1"])


def test_remedies_are_the_laws_they_name():
    # A source with a margin and class-conditional means: the remedies see both, the full model neither.
    law = rl.ClusteredGradients(1.0, 0.5, class_length=1.5)
    draw = rl.LandscapeModel(120, 4, 150, logits=rl.MarginLogits(3.0, 8.0, 1.0), gradients=law).sample(0)
    stage = rl.compare(draw, num_draws=10, theory=False).stages["network"]
    top = {name: rung.mean("top_eigenvalue") for name, rung in stage.rungs.items()}
    real = top["gauss_newton"]
    assert top["full_model"] > 1.3 * real
    assert abs(top["margin_logits"] - real) < 0.6 * (top["full_model"] - real)
    assert abs(top["matched_participation"] - real) < 0.6 * (top["full_model"] - real)
    assert abs(np.log(top["class_means"] / real)) < abs(np.log(top["own_probabilities"] / real))
    q = stage.rungs["class_means"]
    assert q.mean("q_same_logit_same_class") == pytest.approx(stage.clustering.same_logit_same_class, abs=0.05)
    assert q.mean("q_same_logit") == pytest.approx(stage.clustering.same_logit, abs=0.05)
