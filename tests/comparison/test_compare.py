import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.comparison import ladder, reporting
from rmtland.comparison.ladder import mean_gradient_outliers
from rmtland.comparison.measured import Measured
from rmtland.comparison.result import QUANTITIES, RUNGS, with_deviation
from rmtland.landscape.theory.continuation import Continuation, NoWay
from rmtland.plots.comparison import plot_stage_spectra

MODEL = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=4, num_parameters=150, sigma_z=3.0, snr=4.0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    return module, torch.randn(30, 5, dtype=torch.float64), torch.arange(30) % 3


@pytest.fixture(scope="module")
def of_network(network):
    return rl.compare(network[0], network[1:], num_draws=3)


@pytest.fixture(scope="module")
def of_draw():
    return rl.compare(MODEL.sample(rng=5), num_draws=12, rng=1)


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
    assert rl.compare(draw, num_draws=2, rng=1).settings["rng"] == "1"
    generator = np.random.default_rng(3)
    state = generator.bit_generator.state
    first = rl.compare(draw, num_draws=2, rng=generator)
    generator.bit_generator.state = state
    for again in (generator, int(first.settings["rng"])):
        other = rl.compare(draw, num_draws=2, rng=again)
        assert other.settings == first.settings
        assert other.table().equals(first.table())
    fresh = rl.compare(draw, num_draws=2)
    assert rl.compare(draw, num_draws=2, rng=int(fresh.settings["rng"])).table().equals(fresh.table())


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
    wrong = rl.compare(mutant.sample(rng=5), num_draws=2).stages["network"].rungs["gauss_newton"]
    assert abs(wrong.mean("q_same_logit") - own.mean("q_same_logit")) > 5 * own.deviation("q_same_logit") + 0.03


def test_more_draws_do_not_change_the_first_ones():
    draw = MODEL.sample(rng=5)
    few, many = (rl.compare(draw, num_draws=n, rng=7).stages["network"].rungs for n in (2, 4))
    for name in ("own_probabilities", "full_model", "class_means"):
        np.testing.assert_array_equal(few[name].eigenvalues, many[name].eigenvalues[:2])
    other = rl.compare(draw, num_draws=2, rng=8).stages["network"].rungs
    assert not np.array_equal(few["full_model"].eigenvalues, other["full_model"].eigenvalues)


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


def test_large_matrices_go_through_their_products(monkeypatch):
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(60, 5, dtype=torch.float64), torch.arange(60) % 3)
    measured, estimated = ("hessian", "gauss_newton"), ("trace", "frobenius_norm", "goldilocks_ratio")
    exact = rl.compare(source, rungs=measured).stages["network"].rungs
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    monkeypatch.setattr(ladder, "EXACT_ROWS", 10)
    comparison = rl.compare(source, rungs=measured, rng=3)
    for name, rung in comparison.stages["network"].rungs.items():
        assert rung.eigenvalues.shape == (1, 10)
        assert not exact[name].errors
        for quantity in QUANTITIES:
            if quantity not in estimated:
                assert rung.mean(quantity) == pytest.approx(exact[name].mean(quantity), rel=1e-6, nan_ok=True), quantity
        for quantity in estimated:
            error = rung.errors[quantity]
            assert 0 <= error < 0.3 * exact[name].mean(quantity)
            assert abs(rung.mean(quantity) - exact[name].mean(quantity)) <= 4 * error + 1e-9
        assert rung.errors["eigenvalue_1"] == rung.errors["top_eigenvalue"] < 1e-3 * rung.mean("eigenvalue_1")
        cell = comparison.table().loc["goldilocks_ratio", ("network", RUNGS[name])]
        assert cell == with_deviation(rung.mean("goldilocks_ratio"), error)
        stored = comparison.to_dict()["stages"]["network"]["rungs"][name]["quantities"]["goldilocks_ratio"]
        assert stored["error"] == error
    other = rl.compare(source, rungs=measured, rng=4).stages["network"].rungs["hessian"]
    assert other.mean("goldilocks_ratio") != comparison.stages["network"].rungs["hessian"].mean("goldilocks_ratio")


def test_the_errors_of_estimated_ratios_cover_them(monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    matrix = np.diag(np.random.default_rng(0).exponential(size=200))
    exact = np.trace(matrix) / np.linalg.norm(matrix)
    report = reporting.Reporter(3, "ratio")
    scores = []
    for seed in range(60):
        rung = report.operator(rl.SymmetricOperator.from_matrix(matrix), np.ones(200), np.random.default_rng(seed))
        scores.append((rung.mean("goldilocks_ratio") - exact) / rung.errors["goldilocks_ratio"])
    assert 0.6 < np.std(scores) < 1.5
    assert abs(np.mean(scores)) < 0.6


def test_a_hessian_whose_gradient_misses_the_top_eigenvector(monkeypatch):
    # A Krylov space of the gradient never leaves the block that the gradient lies in.
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    matrix = np.diag(np.r_[np.linspace(0.1, 1.0, 400), 10.0])
    slope = np.r_[np.ones(400), 0.0]
    rung = reporting.Reporter(2, "ratio").operator(
        rl.SymmetricOperator.from_matrix(matrix), slope, np.random.default_rng(0)
    )
    assert rung.mean("top_eigenvalue") == pytest.approx(10.0)
    assert rung.powers[0, -1] < 1e-12


def test_many_examples_go_through_the_theory(of_draw, monkeypatch):
    monkeypatch.setattr(ladder, "DRAWN_ROWS", 10)
    names = ("own_probabilities", "full_model", "class_means")
    predicted = rl.compare(MODEL.sample(rng=5), num_draws=12, rng=1, rungs=names).stages["network"].rungs
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
    options = {"num_draws": 2, "rungs": ["gauss_newton", "full_model"]}
    every = rl.compare(sources, **options)
    some = rl.compare(sources, stages={"third", "first"}, **options, progress=lambda *what: told.append(what))
    assert list(some.stages) == ["first", "third"]
    for name, stage in some.stages.items():
        for rung in options["rungs"]:
            expected = every.stages[name].rungs[rung].eigenvalues
            np.testing.assert_array_equal(stage.rungs[rung].eigenvalues, expected)
    assert not any(what.startswith("second") for what, _, _ in told)
    assert told[-1][1:] == (6, 6)


def test_matched_participation_has_the_measured_accuracy():
    law = rl.GaussianLogits(sigma=2.0, accuracy=0.3)
    draw = dataclasses.replace(MODEL, num_examples=400, logits=law).sample(rng=2)
    measured = Measured.of(draw)
    model = ladder.MODEL_RUNGS["matched_participation"](measured)
    assert model.logits.accuracy == measured.outputs.accuracy == pytest.approx(0.3, abs=0.05)
    assert model.logits.sigma == pytest.approx(2.0, rel=0.1)


def test_the_density_of_a_large_matrix_is_kept_and_drawn(monkeypatch):
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(60, 5, dtype=torch.float64), torch.arange(60) % 3)
    exact = np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    comparison = rl.compare(source, rungs=["hessian"])
    stage = comparison.stages["network"]
    density = stage.rungs["hessian"].density
    np.testing.assert_allclose(density.outliers, exact[-10:], rtol=1e-6)
    stored = comparison.to_dict()["stages"]["network"]["rungs"]["hessian"]["density"]
    np.testing.assert_array_equal(stored["grid"], density.grid)
    (stairs,) = plot_stage_spectra(stage, comparison.rung_labels).patches
    values, edges, _ = stairs.get_data()
    # The known ones are counted exactly, the others to the noise of two probes: that of the share of 137 directions.
    assert values[edges[:-1] > 0.9 * exact[-10]].sum() == pytest.approx(10, abs=0.5)
    middle = (edges[:-1] > 1e-3) & (edges[:-1] < 0.5 * exact[-10])
    inside = np.count_nonzero((exact > edges[:-1][middle][0]) & (exact < edges[1:][middle][-1]))
    share = inside / 137
    noise = 137 * np.sqrt(share * (1 - share) / 137)  # of the mean of two Rademacher or Gaussian probes
    assert inside > 20
    assert values[middle].sum() == pytest.approx(inside, abs=4 * noise)


def test_groups_of_parameters_are_stages_of_their_own(network, of_network):
    source = rl.nets.NetworkLogitGradients(*network)
    comparison = rl.compare(source, num_draws=3, by="parameter_groups")
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


def test_products_on_the_way_are_told(network, monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    steps = []
    rl.compare(network[0], network[1:], rungs=["hessian"], progress=lambda *step: steps.append(step))
    start, begun, *on_the_way, last = steps
    assert (start[0], begun[0]) == ("network: clustering and scales", "network: (a) Hessian")
    assert last == ("network: (a) Hessian", 1, 1)
    products = [int(what.removeprefix("network: (a) Hessian, ").removesuffix(" products")) for what, *_ in on_the_way]
    assert products == sorted(products)
    assert products[-1] > 50
    assert {(done, total) for _, done, total in on_the_way} == {(0, 1)}


def test_products_are_a_budget_that_errors_answer_to(network, monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3)).double()
    source = rl.nets.NetworkLogitGradients(module, torch.randn(60, 5, dtype=torch.float64), torch.arange(60) % 3)
    exact = np.linalg.eigvalsh(rl.nets.hessian(source).to_dense())
    found = {}
    for most in (40, 300):
        told = []
        comparison = rl.compare(
            source, rungs=["hessian"], num_products=most, progress=lambda *step, told=told: told.append(step[0])
        )
        spent = [int(what.split(", ")[1].split()[0]) for what in told if what.endswith(" products")]
        assert 0.6 * most < spent[-1] <= most + 5  # and what tries the symmetry
        assert comparison.settings["num_products"] == most
        found[most] = comparison.stages["network"].rungs["hessian"]
    few, many = found[40], found[300]
    assert few.errors["eigenvalue_9"] > 10 * many.errors["eigenvalue_9"]
    for rung in (few, many):
        for i in range(1, 11):
            off = abs(exact - rung.mean(f"eigenvalue_{i}")).min()
            assert off <= rung.errors[f"eigenvalue_{i}"] + 1e-12
    assert many.errors["trace"] < few.errors["trace"]
    # Eigenvalues that did not converge are in the density, and drawn once.
    assert few.density.outliers.size < many.density.outliers.size == 10
    for rung in (few, many):
        (stairs,) = plot_stage_spectra(
            dataclasses.replace(comparison.stages["network"], rungs={"hessian": rung}), RUNGS
        ).patches
        values, edges, _ = stairs.get_data()
        above = edges[:-1] > 0.2 * exact[-1]
        # Two probes count ten eigenvalues with a standard deviation of 3; ten counted twice are too many.
        assert values[above].sum() == pytest.approx(np.count_nonzero(exact > edges[:-1][above][0]), abs=7)


def test_table_json_and_xarray_hold_the_same_numbers(of_network, tmp_path):
    frame = of_network.table()
    assert list(frame.index) == list(QUANTITIES)
    assert frame.columns.names == ["stage", "rung"]
    rung = of_network.stages["network"].rungs["full_model"]
    cell = frame.loc["top_eigenvalue", ("network", RUNGS["full_model"])]
    assert cell == with_deviation(rung.mean("top_eigenvalue"), rung.deviation("top_eigenvalue"))
    assert frame.loc["q_same_logit", ("network", RUNGS["mean_gradients"])] == ""
    of_network.to_json(tmp_path / "c.json")
    read = json.loads((tmp_path / "c.json").read_text())
    assert read["versions"]["rmtland"] == rl.__version__
    assert read["settings"]["num_draws"] == 3
    stored = read["stages"]["network"]["rungs"]["full_model"]["quantities"]["top_eigenvalue"]
    assert stored["draws"] == rung.values["top_eigenvalue"].tolist()
    assert read["stages"]["network"]["rungs"]["mean_gradients"]["quantities"]["q_same_logit"]["mean"] is None
    dataset = of_network.to_xarray()
    assert dict(dataset.sizes) == {"stage": 1, "rung": len(RUNGS), "draw": 3}
    np.testing.assert_array_equal(
        dataset["top_eigenvalue"].sel(stage="network", rung="full_model"), rung.values["top_eigenvalue"]
    )
    assert np.isnan(dataset["top_eigenvalue"].sel(rung="hessian").values[0, 1:]).all()


def test_every_mean_and_deviation_is_that_of_its_draws(of_network, tmp_path):
    """And what is said of a draw is what its eigenvalues and powers say."""
    of_network.to_json(tmp_path / "c.json")
    stage = json.loads((tmp_path / "c.json").read_text())["stages"]["network"]
    dataset, frame = of_network.to_xarray().sel(stage="network"), of_network.table()["network"]
    seen = 0
    for name, rung in stage["rungs"].items():
        draws = rung["num_draws"]
        for quantity, told in rung["quantities"].items():
            values = told["draws"]
            assert len(values) == draws
            np.testing.assert_array_equal(
                dataset[quantity].sel(rung=name)[:draws], [np.nan if x is None else x for x in values]
            )
            if None in values:
                assert told["mean"] is None
                continue
            assert told["mean"] == pytest.approx(statistics.mean(values), rel=1e-12)
            if draws == 1:
                assert told["sd"] is None
                continue
            deviation = statistics.stdev(values)
            assert told["sd"] == pytest.approx(deviation, rel=1e-9, abs=1e-14)
            assert frame.loc[quantity, RUNGS[name]] == with_deviation(told["mean"], told["sd"])
            seen += deviation > 0
        for i, (eigenvalues, powers) in enumerate(zip(rung["eigenvalues"], rung["powers"], strict=True)):
            values = {quantity: told["draws"][i] for quantity, told in rung["quantities"].items()}
            if name == "mean_gradients":
                continue
            assert values["trace"] == pytest.approx(math.fsum(eigenvalues), rel=1e-9)
            assert values["frobenius_norm"] == pytest.approx(math.hypot(*eigenvalues), rel=1e-9)
            assert values["goldilocks_ratio"] == pytest.approx(values["trace"] / values["frobenius_norm"], rel=1e-9)
            assert values["top_eigenvalue"] == max(eigenvalues)
            order = np.argsort(eigenvalues)
            for count, quantity in ((2, "gradient_power_C_minus_1"), (3, "gradient_power_C")):
                assert values[quantity] == pytest.approx(math.fsum(np.array(powers)[order[-count:]]), rel=1e-9)
            for k in range(1, 4):
                assert values[f"eigenvalue_{k}"] == pytest.approx(sorted(eigenvalues)[-k], rel=1e-12)
    assert seen > 50


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (0.32521, 0.00031, "0.3252(3)"),
        (15.81, 0.82, "15.8(8)"),
        (19.31, 2.1, "19(2)"),
        (193.4, 21.0, "190(20)"),
        (0.4, 0.097, "0.4(1)"),
        (-0.0007, 0.0021, "-0.001(2)"),
        (9.0, 0.0, "9(0)"),
        (0.7585187790397777, 1.1e-16, "0.759(0)"),
        (1.4968194462, 3e-10, "1.4968(0)"),
        (0.00321, 0.0004, "0.0032(4)"),
        (6.97e-13, 8.2e-13, "7(8)e-13"),
        (-3.214e-7, 4.1e-8, "-3.2(4)e-07"),
    ],
)
def test_a_mean_with_its_deviation(mean, deviation, text):
    assert with_deviation(mean, deviation) == text


def test_stages_come_as_a_mapping_and_progress_is_told():
    steps = []
    sources = {"a": MODEL.sample(rng=0), "b": MODEL.sample(rng=1)}
    comparison = rl.compare(sources, num_draws=2, progress=lambda *step: steps.append(step))
    assert list(comparison.stages) == ["a", "b"]
    begun = ["a: clustering and scales", "a: (a) Hessian", "a: (a) Hessian", "a: (b) G", "a: (b) G"]
    assert [what for what, *_ in steps[:5]] == begun  # and done
    assert [done for _, done, _ in steps[:5]] == [0, 0, 1, 1, 2]
    assert sorted({done for _, done, _ in steps}) == list(range(37))
    assert steps == sorted(steps, key=lambda step: step[1])
    assert {total for *_, total in steps} == {36}
    assert set(comparison.plot()) == {"spectra", "gradient_power", "stages", "scores"}


def test_an_absent_class_and_a_fitted_network_are_no_obstacle():
    rng = np.random.default_rng(0)
    source = rl.DenseLogitGradients(rng.normal(size=(12, 4)), np.arange(12) % 3, 3 + rng.normal(size=(12, 4, 30)))
    stage = rl.compare(source, num_draws=2).stages["network"]
    assert stage.scales.absent_classes == (3,)
    assert stage.clustering.classes_left_out == (3,)
    labels = np.arange(12) % 4
    fitted = rl.DenseLogitGradients(1000.0 * np.eye(4)[labels], labels, 3 + rng.normal(size=(12, 4, 30)))
    comparison = rl.compare(fitted, num_draws=2)
    rung = comparison.stages["network"].rungs["gauss_newton"]
    assert rung.mean("top_eigenvalue") < 1e-100
    # No sigma_z freezes every probability.
    assert "matched_participation" not in comparison.stages["network"].rungs
    assert math.isnan(rung.mean("gradient_power_C"))  # the gradient is zero to rounding
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_remedies_are_the_laws_they_name():
    # A source with a margin and class-conditional means: the remedies see both, the full model neither.
    law = rl.ClusteredGradients(1.0, 0.5, class_length=1.5)
    draw = rl.LandscapeModel(120, 4, 150, logits=rl.MarginLogits(3.0, 8.0, 1.0), gradients=law).sample(0)
    stage = rl.compare(draw, num_draws=10).stages["network"]
    top = {name: rung.mean("top_eigenvalue") for name, rung in stage.rungs.items()}
    real = top["gauss_newton"]
    assert top["full_model"] > 1.3 * real
    assert abs(top["margin_logits"] - real) < 0.6 * (top["full_model"] - real)
    assert abs(top["matched_participation"] - real) < 0.6 * (top["full_model"] - real)
    assert abs(np.log(top["class_means"] / real)) < abs(np.log(top["own_probabilities"] / real))
    q = stage.rungs["class_means"]
    assert q.mean("q_same_logit_same_class") == pytest.approx(stage.clustering.same_logit_same_class, abs=0.05)
    assert q.mean("q_same_logit") == pytest.approx(stage.clustering.same_logit, abs=0.05)


def test_mean_gradient_outliers_of_a_zero_gradient():
    draw = MODEL.sample(rng=0)
    eigenvalues, powers = mean_gradient_outliers(rl.logit_scales(draw), draw.logits, np.zeros(150))
    assert np.isnan(powers).all()
    assert (eigenvalues > 0).all()


def test_bad_arguments(network):
    draw = MODEL.sample(rng=0)
    module, x, y = network
    with pytest.raises(ValueError, match="`num_draws` must be >= 2; got 1"):
        rl.compare(draw, num_draws=1)
    with pytest.raises(ValueError, match="`outlier_method` must be one of 'ratio', 'gap', 'elbow'; got 'edge'"):
        rl.compare(draw, outlier_method="edge")
    with pytest.raises(ValueError, match="`by` must be one of None, 'parameter_groups'; got 'layers'"):
        rl.compare(draw, by="layers")
    with pytest.raises(ValueError, match="`rungs` must be one of 'hessian', .* got 'hesian'"):
        rl.compare(draw, rungs=["hesian"])
    for empty in ("hessian", []):
        with pytest.raises(ValueError, match="`rungs` must be a collection of at least one of 'hessian', .* got "):
            rl.compare(draw, rungs=empty)
    with pytest.raises(ValueError, match="`stages` must be one of 'network'; got 'end'"):
        rl.compare(draw, stages=["end"])
    with pytest.raises(ValueError, match="`stages` must be a collection of at least one of 'network'; got 'network'"):
        rl.compare(draw, stages="network")
    with pytest.raises(ValueError, match="`source_or_module` must name at least one stage; got an empty mapping"):
        rl.compare({})
    with pytest.raises(TypeError, match="`data` must be left out with a mapping of sources"):
        rl.compare({"a": draw}, (x, y))
    with pytest.raises(TypeError, match="`data` must be left out with a source, which has its own"):
        rl.compare(draw, (x, y))
    with pytest.raises(
        TypeError, match=r"`data` must be given with a module: \(inputs, labels\) or a loader; got None"
    ):
        rl.compare(module)
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module; got str"):
        rl.compare("network", (x, y))
    with pytest.raises(TypeError, match="stage 'a' must be a source of logit gradients; got int"):
        rl.compare({"a": 3})
    regression = rl.DenseLogitGradients(np.zeros((4, 2)), np.zeros(4, int), np.ones((4, 2, 3)), loss=rl.SquaredError())
    with pytest.raises(
        ValueError, match="stage 'network' must have CrossEntropy as its loss to be compared; got SquaredError"
    ):
        rl.compare(regression)
    single = rl.DenseLogitGradients(np.zeros((1, 2)), np.zeros(1, int), np.ones((1, 2, 3)))
    with pytest.raises(ValueError, match="stage 'network' must have at least 2 examples; got 1"):
        rl.compare(single)


def test_more_draws_than_memory():
    with pytest.raises(MemoryError, match="1000000000 draws needs .*; take fewer `num_draws` instead"):
        rl.compare(rl.LandscapeModel.fort_ganguli(20, 3, 30).sample(0), num_draws=10**9)


@pytest.mark.parametrize("scale", [1e-10, 1e-20, 1e-35, 1e10, 1e35])
def test_a_rung_does_not_depend_on_the_unit_of_the_parameters(scale):
    rng = np.random.default_rng(0)
    logits, labels, gradients = rng.normal(size=(20, 3)), np.arange(20) % 3, rng.normal(size=(20, 3, 7))
    one, other = (
        next(iter(rl.compare(rl.DenseLogitGradients(logits, labels, g), num_draws=2).stages.values())).rungs
        for g in (gradients, gradients * scale)
    )
    assert list(one) == list(other)
    for name, rung in one.items():
        for quantity, power in (("trace", 2), ("goldilocks_ratio", 0)):
            np.testing.assert_allclose(
                other[name].values[quantity], rung.values[quantity] * scale**power, rtol=1e-5, err_msg=name
            )


def test_draws_stay_where_their_theory_is_not_found(monkeypatch):
    def nowhere(*_):
        raise NoWay("no way found to 1")

    rng = np.random.default_rng(0)
    source = rl.DenseLogitGradients(rng.normal(size=(20, 3)), np.arange(20) % 3, rng.normal(size=(20, 3, 7)))
    monkeypatch.setattr(Continuation, "start", nowhere)
    compared = rl.compare(source, num_draws=2, rungs=["measured_means"])
    rung = next(iter(compared.stages.values())).rungs["measured_means"]
    assert rung.theory == {}
    assert rung.mean("trace") > 0
    with pytest.raises(ArithmeticError, match="no way found to 1"):
        rl.compare(source, num_draws=2, rungs=["measured_means"], theory=True)


@pytest.mark.parametrize("scale", [1e-40, 1e40, 1e150])
def test_lengths_whose_powers_are_no_numbers_are_named(scale):
    rng = np.random.default_rng(0)
    source = rl.DenseLogitGradients(rng.normal(size=(8, 3)), np.arange(8) % 3, scale * rng.normal(size=(8, 3, 7)))
    with pytest.raises(ValueError, match="the logit gradients of `source` must be 1e-38 to 1e\\+38 long, .* got "):
        rl.compare(source, num_draws=2)
