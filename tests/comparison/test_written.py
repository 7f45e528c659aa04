"""A comparison as table, JSON and xarray, and the progress that is told."""

import dataclasses
import json
import math
import statistics

import numpy as np
import pytest

import rmtland as rl
from rmtland.comparison.result import QUANTITIES, RUNGS, Rung, with_deviation

MODEL = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=4, num_parameters=150, sigma_z=3.0, snr=4.0)


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
        (1934.0, 210.0, "1900(200)"),
        (-0.3, 2.1, "-0(2)"),
        (1.0, 5e-6, "1.000000(5)"),
        (1e-4, 1e-5, "0.00010(1)"),
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


def test_two_draws_have_a_deviation_and_one_has_none():
    two, one = (Rung({"trace": np.array(x)}, np.zeros((len(x), 1)), np.zeros((len(x), 1))) for x in ([1.0, 3.0], [1.0]))
    assert two.deviation("trace") == pytest.approx(2**0.5)
    for rung, quantity in ((one, "trace"), (two, "frobenius_norm"), (one, "frobenius_norm")):
        assert math.isnan(rung.deviation(quantity))


def test_rungs_that_are_added_stand_in_the_order_of_the_ladder(of_network):
    stage = of_network.stages["network"]
    some = dataclasses.replace(stage, rungs={name: stage.rungs[name] for name in ("full_model", "gauss_newton")})
    added = some.with_rungs({"hessian": stage.rungs["hessian"], "gauss_newton": stage.rungs["kernel_law"]})
    expected = {name: stage.rungs[name] for name in ("hessian", "kernel_law", "full_model")}
    assert list(added.rungs) == ["hessian", "gauss_newton", "full_model"]
    assert list(added.rungs.values()) == list(expected.values())


def test_what_is_no_number_of_json_is_refused(of_network, tmp_path):
    of_network.to_json(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text().startswith('{\n "settings": {\n  "num_draws": 3,')
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(of_network, settings={"learning_rate": math.nan}).to_json(tmp_path / "d.json")
    assert not (tmp_path / "d.json").exists()


def test_stages_come_as_a_mapping_and_progress_is_told():
    steps = []
    sources = {"a": MODEL.sample(rng=0), "b": MODEL.sample(rng=1)}
    comparison = rl.compare(sources, num_draws=2, theory=False, progress=lambda *step: steps.append(step))
    assert list(comparison.stages) == ["a", "b"]
    begun = ["a: clustering and scales", "a: (a) Hessian", "a: (a) Hessian", "a: (b) G", "a: (b) G"]
    assert [what for what, *_ in steps[:5]] == begun  # and done
    assert [done for _, done, _ in steps[:5]] == [0, 0, 1, 1, 2]
    assert sorted({done for _, done, _ in steps}) == list(range(37))
    assert steps == sorted(steps, key=lambda step: step[1])
    assert {total for *_, total in steps} == {36}
    assert set(comparison.plot()) == {"spectra", "gradient_power", "stages", "scores"}
