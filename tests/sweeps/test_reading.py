import numpy as np
import pytest
import xarray as xr
from scipy import stats

import rmtland as rl
from rmtland.sweeps import reading
from rmtland.sweeps.grids import parse_axis

from ..statistical import assert_mean
from .functions import noise, sometimes


def test_numbers_are_read_when_they_are_used(tmp_path, monkeypatch):
    rl.sweep(noise, {"a": [1.0, 2.0]}, 3, store=tmp_path / "s", workers=1)
    dataset = rl.open_sweep(tmp_path / "s")
    assert not dataset.x.variable._in_memory
    assert dataset.x.isel(a=1, trial=2).item() == dataset.load().x.values[1, 2]


def test_what_is_no_sweep_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`store` must be a sweep's folder; found nothing at"):
        rl.open_sweep(tmp_path / "none")
    (tmp_path / "x").mkdir()
    for reader in (rl.open_sweep, rl.sweep_failures):
        with pytest.raises(ValueError, match="`store` must be a sweep's folder; .* is something else"):
            reader(tmp_path / "x")


def dataset(values):
    return xr.Dataset({"x": (("a", "trial"), values)}, coords={"a": np.arange(len(values))})


def test_means_and_errors_against_scipy(monkeypatch):
    values = np.random.default_rng(0).standard_normal((5, 40)) + 1e6
    for block in (1, 2**22):  # in blocks and at once
        monkeypatch.setattr(reading, "BLOCK", block)
        summary = rl.summarize_sweep(dataset(values), num_bootstrap=4000)
        mean, error, low, high = summary.x.sel(statistic=["mean", "standard_error", "low", "high"]).to_numpy()
        np.testing.assert_allclose(mean, values.mean(axis=1), rtol=1e-15)
        np.testing.assert_allclose(error, stats.sem(values, axis=1), rtol=1e-9)
        reference = stats.bootstrap((values,), np.mean, axis=1, method="percentile", n_resamples=4000, rng=0)
        width = reference.confidence_interval.high - reference.confidence_interval.low
        assert np.all(np.abs(low - reference.confidence_interval.low) < 0.06 * width)
        assert np.all(np.abs(high - reference.confidence_interval.high) < 0.06 * width)


def test_intervals_cover_as_they_say():
    """Percentile intervals of 40 trials cover 0.95 - 1 / 40 or so; without the division by root n they cover all."""
    values = np.random.default_rng(1).standard_normal((4000, 40))
    low, high = rl.summarize_sweep(dataset(values)).x.sel(statistic=["low", "high"]).to_numpy()
    assert_mean((low < 0) & (high > 0), 0.94, bias=0.01, detect=0.06)


def test_failed_trials_are_left_out():
    with pytest.warns(RuntimeWarning, match="cells failed") as warned:
        result = rl.sweep(sometimes, {"a": [1, 2, 3]}, 4, workers=1)
    assert [warning.filename for warning in warned] == [__file__]  # it points at the call
    summary = rl.summarize_sweep(result)
    assert summary.num_trials.values.tolist() == [4, 0, 4]
    assert np.isnan(summary.x.sel(a=2)).all()
    half = dataset([[1.0, 3.0, np.nan], [1.0, np.nan, np.nan]])
    statistics = rl.summarize_sweep(half).x.to_numpy()
    np.testing.assert_allclose(statistics[:2], [[2.0, 1.0], [1.0, np.nan]])
    assert statistics[2, 0] == 1.0
    assert statistics[3, 0] == 3.0
    assert np.isnan(statistics[2:, 1]).all()


def test_a_result_and_an_axis_called_count_stay(tmp_path):
    result = rl.sweep(lambda n, rng: {"count": n + rng.random()}, {"n": [1, 2]}, 3, store=tmp_path / "s", workers=1)
    summary = rl.summarize_sweep(result)
    np.testing.assert_allclose(summary["count"].sel(statistic="mean"), result["count"].mean("trial"))
    assert summary.num_trials.values.tolist() == [3, 3]
    axis = rl.summarize_sweep(rl.sweep(lambda count, rng: {"x": rng.random()}, {"count": [5, 6]}, 2, workers=1))
    assert axis["count"].values.tolist() == [5, 6]
    assert axis.x.dims == ("statistic", "count")


def test_axes_of_results_stay():
    summary = rl.summarize_sweep(rl.sweep(noise, {"a": [1.0, 2.0], "b": [0, 1]}, 5, workers=1))
    assert summary.y.dims == ("statistic", "a", "b", "k")
    assert summary.attrs["seed"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 1.0}, "`level` must be > 0 and < 1; got 1.0"),
        ({"num_bootstrap": 0}, "`num_bootstrap` must be >= 1; got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        rl.summarize_sweep(dataset([[1.0, 2.0]]), **arguments)
    with pytest.raises(
        MemoryError, match="1000000000000 resamples of 2 trials needs .*take fewer `num_bootstrap` instead"
    ):
        rl.summarize_sweep(dataset([[1.0, 2.0]]), num_bootstrap=10**12)
    with pytest.raises(TypeError, match="`dataset` must be an xarray.Dataset; got list"):
        rl.summarize_sweep([1.0])
    for name in ("num_trials", "statistic"):
        with pytest.raises(ValueError, match=f"leave the names statistic and num_trials to the summary; it has {name}"):
            rl.summarize_sweep(dataset([[1.0, 2.0]]).rename(x=name))
    with pytest.raises(ValueError, match="`dataset` must have a dimension `trial`; got a"):
        rl.summarize_sweep(dataset([[1.0]]).isel(trial=0))


def test_a_plan_counts_and_runs_nothing_else(tmp_path):
    calls = []

    def function(a, b, rng):
        calls.append(a)
        return {"x": 1.0, "y": (("k",), np.zeros(7))}

    plan = rl.plan_sweep(function, {"a": np.arange(1000), "b": np.arange(100)}, 10, workers=4)
    assert plan.num_cells == 10**6
    assert plan.num_bytes == 10**6 * (8 + 56 + 1)
    assert plan.seconds == pytest.approx(10**6 * plan.seconds_per_cell / 4)
    assert len(calls) == 2
    text = str(plan)
    assert "cells     1,000,000 (a 1,000 x b 100 x trial 10)" in text
    assert "y[k 7]" in text
    assert "with 4 workers" in text
    with pytest.raises(ValueError, match="lacks b"):
        rl.plan_sweep(function, {"a": [1]})
    with pytest.raises(ZeroDivisionError):
        rl.plan_sweep(lambda a: {"x": 1 / a}, {"a": [0]})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,5", [1, 2, 5]),
        ("0.5", [0.5]),
        ("1:3:3", [1, 2, 3]),
        ("0:1:3", [0.0, 0.5, 1.0]),
        ("0.001:100:6:log", [0.001, 0.01, 0.1, 1, 10, 100]),
    ],
)
def test_axes_from_text(text, values):
    np.testing.assert_allclose(parse_axis(text), values, rtol=1e-15)
    assert parse_axis(text).dtype == np.array(values).dtype


@pytest.mark.parametrize("text", ["", "a", "1:2", "1:2:x", "1:2:3:cubic", "1:2:3:log:5", "1:2:0", "1,,2"])
def test_text_that_is_no_axis(text):
    with pytest.raises(ValueError, match="an axis must read"):
        parse_axis(text)


@pytest.mark.parametrize("text", ["1:inf:3", "-inf:1:3", "nan:1:3", "0:1e999:2"])
def test_both_ends_of_an_axis_are_finite(text):
    with pytest.raises(ValueError, match="an axis must have finite ends"):
        parse_axis(text)


def test_logarithmic_axes_are_positive():
    with pytest.raises(ValueError, match="a logarithmic axis must have ends > 0; got '0:1:3:log'"):
        parse_axis("0:1:3:log")


@pytest.mark.slow
def test_a_hundred_thousand_cells_in_little_memory(tmp_path):
    import tracemalloc

    tracemalloc.start()
    try:
        grid = {"a": np.arange(400), "b": np.arange(250)}
        rl.sweep(lambda a, b: {"x": a * b}, grid, store=tmp_path / "s", workers=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    result = rl.open_sweep(tmp_path / "s")
    np.testing.assert_array_equal(result.x[..., 0], np.outer(np.arange(400), np.arange(250)))
