from types import SimpleNamespace

import numba
import numpy as np
import pytest
import xarray as xr
from scipy import stats
from threadpoolctl import threadpool_limits

import rmtland as rl
from rmtland.sweeps import planning, reading
from rmtland.sweeps.grids import parse_axis
from rmtland.sweeps.work import cell_generator

from ..statistical import assert_mean
from .functions import noise, sometimes
from .functions import threads as count_threads


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


def test_blocks_of_a_summary_hold_few_numbers(monkeypatch):
    """Of values and of their resamples, of which an eighth counts; a row at least."""
    sizes = []
    statistics = reading._statistics

    def noted(values, draws, level):
        sizes.append(values.shape[1])
        return statistics(values, draws, level)

    monkeypatch.setattr(reading, "_statistics", noted)
    wide = xr.Dataset({"x": (("a", "k", "trial"), np.random.default_rng(0).random((12, 5, 3)))})
    for block, expected in ((1, [5] * 12), (4 * 5 * 20, [20] * 3), (5 * 5 * 20 - 1, [20] * 3), (10**6, [60])):
        sizes.clear()
        monkeypatch.setattr(reading, "BLOCK", block)
        rl.summarize_sweep(wide, num_bootstrap=160)
        assert sizes == expected


def test_intervals_cover_as_they_say():
    """Percentile intervals of 40 trials cover 0.95 - 1 / 40 or so; without the division by root n they cover all."""
    values = np.random.default_rng(1).standard_normal((4000, 40))
    low, high = rl.summarize_sweep(dataset(values)).x.sel(statistic=["low", "high"]).to_numpy()
    assert_mean((low < 0) & (high > 0), 0.94, bias=0.01, detect=0.06)


def test_intervals_of_few_trials_are_bounded_by_them():
    """Three of the largest are drawn in 1 of 27 resamples, none in 8 of 27."""
    summary = rl.summarize_sweep(dataset([[0.0, 0.0, 9.0], [0.0, -9.0, 0.0]])).x.to_numpy()
    np.testing.assert_allclose(summary, [[3.0, -3.0], [3.0, 3.0], [0.0, -9.0], [9.0, 0.0]], atol=1e-12)


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


def test_a_plan_times_the_cell_in_the_middle_with_one_thread():
    before, calls = numba.get_num_threads(), []

    def function(a, b, rng):
        calls.append((a, b, rng.random(), numba.get_num_threads()))
        return {"x": a}

    rl.plan_sweep(function, {"a": [1, 2, 3], "b": [10, 20, 30]}, 5, seed=2**100)
    assert calls == [(2, 20, cell_generator(2**100, 4, 2).random(), 1)] * 2
    assert numba.get_num_threads() == before


def test_a_plan_is_for_the_processors_that_there_are(monkeypatch):
    def workers(**of_os):
        monkeypatch.setattr(planning, "os", SimpleNamespace(**of_os))
        return rl.plan_sweep(lambda a: {"x": a}, {"a": [1, 2]}).workers

    assert workers(sched_getaffinity=lambda pid: {0: range(3)}[pid], cpu_count=lambda: 8) == 3
    assert workers(cpu_count=lambda: 8) == 8
    assert workers(cpu_count=lambda: None) == 1
    with threadpool_limits(2):
        plan = rl.plan_sweep(lambda a: {f"t{count_threads(a, rng=None)['threads']}": a}, {"a": [1, 2]}, workers=1)
    assert plan.results == {"t1": ""}


def test_a_plan_runs_a_slow_cell_once(monkeypatch):
    for seconds, runs in ((2.0, 2), (2.5, 1)):
        clock, calls = [0.0], []
        monkeypatch.setattr(planning.time, "perf_counter", lambda clock=clock: clock[0])

        def function(a, clock=clock, calls=calls, seconds=seconds):
            calls.append(a)
            clock[0] += seconds
            return {"x": a, "y": np.zeros(3)}

        plan = rl.plan_sweep(function, {"a": [1, 2, 3, 4]}, workers=1)
        assert calls == [3] * runs
        assert (plan.seconds_per_cell, plan.seconds) == (seconds, 4 * seconds)
        assert plan.num_bytes == 4 * (8 + 24 + 1)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.125, "0.12 seconds"),
        (119.0, "1.2e+02 seconds"),
        (120.0, "2.0 minutes"),
        (7199.0, "120.0 minutes"),
        (7200.0, "2.0 hours"),
        (172799.0, "48.0 hours"),
        (172800.0, "2.0 days"),
        (864000.0, "10.0 days"),
    ],
)
def test_a_plan_tells_its_time_from_two_of_a_unit_on(seconds, told):
    plan = planning.SweepPlan({"a": 2, "trial": 3}, 100, seconds / 3, 2, {"x": ""})
    assert f"estimate  {told} with 2 workers" in str(plan)


def test_a_plan_says_what_fits_in_nine_tenths_of_the_memory(monkeypatch):
    monkeypatch.setattr(planning, "available_memory", lambda: 10 * 2**20)
    fits, larger = (str(planning.SweepPlan({"trial": 1}, 9 * 2**20 - less, 1.0, 1, {"x": ""})) for less in (1, 0))
    assert "size      9.0 MiB before compression; they fit in memory\n" in fits
    assert "they do not fit in memory: open_sweep reads in parts\n" in larger
    assert larger.endswith("with 1 worker")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,5", [1, 2, 5]),
        ("0.5", [0.5]),
        ("1:3:3", [1, 2, 3]),
        ("0:1:3", [0.0, 0.5, 1.0]),
        ("-1:3:3:lin", [-1, 1, 3]),
        ("1:-3:3", [1, -1, -3]),
        ("-1.0:3:3", [-1.0, 1.0, 3.0]),
        ("2:5:1", [2]),
        ("2:5:1:log", [2.0]),
        (f"0:{2**53 - 1}:2", [0, 2**53 - 1]),
        (f"0:{2**53}:2", [0.0, 2.0**53]),  # from here on not every whole number is a float
        ("0.001:100:6:log", [0.001, 0.01, 0.1, 1, 10, 100]),
        ("1:0.01:3:log", [1, 0.1, 0.01]),
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
    with pytest.raises(ValueError, match="a logarithmic axis must have ends > 0; got '1:0:3:log'"):
        parse_axis("1:0:3:log")


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
