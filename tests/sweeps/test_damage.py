"""Stores whose files were changed, lost or made by another version; and stores that grow."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

import rmtland as rl
from rmtland.sweeps import engines
from rmtland.sweeps import store as store_module
from rmtland.sweeps.arrays import DamageError

from .functions import deterministic, noise, sometimes, store_bytes

GRID = {"a": [1.0, 2.0, 3.0], "kind": ["u", "v"]}


def kinds(a, kind, *, rng):
    return {**noise(a, rng=rng), "z": 1j * rng.standard_normal()}


def run(store, **options):
    return rl.sweep(kinds, GRID, 4, 7, store, coords={"k": [5, 6, 7]}, workers=1, **options)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A finished sweep of 24 cells in chunks of 4, one for each point."""
    monkeypatch.setattr(store_module, "CHUNK_CELLS", 4)
    run(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "whole")
    return tmp_path / "s"


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def empty(file):
    file.write_bytes(b"")


CHUNK = {"x": "x/c/1/0/0", "y": "y/c/1/0/0/0", "z": "z/c/1/0/0"}
CELLS = r"`{}` of \(a=2.0, kind='u', trial 0\) to \(a=2.0, kind='u', trial 3\)"


@pytest.mark.parametrize("name", CHUNK)
@pytest.mark.parametrize("change", [flip, cut, empty])
def test_a_changed_chunk_is_named_with_its_cells_and_repaired(store, change, name):
    change(store / CHUNK[name])
    dataset = rl.open_sweep(store)
    fine = dataset[name].sel(a=[1.0, 3.0]).to_numpy()
    np.testing.assert_array_equal(fine, rl.open_sweep(store.with_name("whole"))[name].sel(a=[1.0, 3.0]))
    told = CELLS.format(name) + r" cannot be read back.*repair=True\) runs those cells again"
    for selection in ({}, {"a": 2.0}, {"a": 2.0, "kind": "u"}):
        with pytest.raises(OSError, match=told):
            dataset[name].sel(selection).to_numpy()
    done = []
    run(store, repair=True, progress=lambda *counts: done.append(counts))
    assert done[0][0] > 20  # the others are not run again
    assert store_bytes(store) == store_bytes(store.with_name("whole"))


@pytest.mark.parametrize("name", CHUNK)
def test_a_lost_chunk_is_named_with_its_cells_and_repaired(store, name):
    before = rl.open_sweep(store)
    (store / CHUNK[name]).unlink()
    told = CELLS.format(name) + r" is lost; sweep\(..., repair=True\) runs those cells again"
    with pytest.raises(OSError, match=told):
        before[name].sel(a=2.0).to_numpy()
    for call in (rl.open_sweep, run):
        with pytest.raises(DamageError, match=told + "$"):
            call(store)
    run(store, repair=True)
    assert store_bytes(store) == store_bytes(store.with_name("whole"))
    shutil.rmtree(store / name / "c")
    with pytest.raises(OSError, match=r"to \(a=2.0, kind='u', trial 3\) and 3 more chunks is lost"):
        rl.open_sweep(store)


@pytest.mark.parametrize("lost", ["x/zarr.json", "y", "status", "status/zarr.json", "_error/zarr.json"])
def test_a_lost_array_is_named_and_repaired(store, lost):
    path = store / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for call in (rl.open_sweep, rl.sweep_failures, run):
        with pytest.raises(
            DamageError, match=rf"is damaged: `{lost.split('/')[0]}` is lost; sweep\(.*\) runs those cells again$"
        ):
            call(store)
    run(store, repair=True)
    assert store_bytes(store) == store_bytes(store.with_name("whole"))


@pytest.mark.parametrize("name", ["x", "status", "_error"])
def test_metadata_that_make_no_sense_are_a_lost_array(store, name):
    (store / name / "zarr.json").write_text("no JSON")
    for call in (rl.open_sweep, rl.sweep_failures, run):
        with pytest.raises(DamageError, match=rf"is damaged: `{name}` is lost; sweep\(.*\) runs those cells again$"):
            call(store)
    run(store, repair=True)
    assert store_bytes(store) == store_bytes(store.with_name("whole"))


def test_chunks_of_a_lost_array_are_not_taken_for_those_of_the_new_one(tmp_path):
    """After more trials the new one's chunks are cut otherwise; and nothing is read of a damaged one."""
    grid = {"a": [1.0, 2.0]}
    rl.sweep(noise, grid, 2, 7, tmp_path / "s", workers=1)
    whole = rl.sweep(noise, grid, 5, 7, tmp_path / "s", workers=1).load()
    (tmp_path / "s" / "x" / "zarr.json").unlink()
    assert rl.sweep(noise, grid, 5, 7, tmp_path / "s", workers=1, repair=True).x.equals(whole.x)
    for file in (tmp_path / "s" / "x" / "c").rglob("0"):
        if file.is_file():
            flip(file)
    (tmp_path / "s" / "x" / "zarr.json").unlink()
    assert rl.sweep(noise, grid, 5, 7, tmp_path / "s", workers=1, repair=True).x.equals(whole.x)


def test_an_axis_of_a_sweep_that_was_stopped_is_repaired(tmp_path):
    def stop(*counts):
        raise KeyboardInterrupt

    grid = {"a": [1.0, 2.0]}
    with pytest.raises(KeyboardInterrupt):
        rl.sweep(noise, grid, 2, 7, tmp_path / "s", workers=1, progress=stop)
    flip(tmp_path / "s" / "a" / "c" / "0")
    with pytest.raises(DamageError, match="axis `a` cannot be read back"):
        rl.sweep(noise, grid, 2, 7, tmp_path / "s", workers=1)
    repaired = rl.sweep(noise, grid, 2, 7, tmp_path / "s", workers=1, repair=True)
    assert repaired.equals(rl.sweep(noise, grid, 2, 7, workers=1))


@pytest.mark.parametrize("file", ["a/c/0", "kind/c/0", "k/c/0"])
def test_an_axis_whose_file_is_lost_is_not_read_as_zeros(store, file):
    (store / file).unlink()
    told = f"axis `{file.split('/')[0]}` cannot be read back .its file is lost.; .*repair=True. writes it again$"
    for call in (rl.open_sweep, run):
        with pytest.raises(DamageError, match=told):
            call(store)
    run(store, repair=True)
    assert store_bytes(store) == store_bytes(store.with_name("whole"))


def test_an_axis_of_zero_is_stored(tmp_path):
    for axis in ([0.0], [0], [False], [""]):
        rl.sweep(lambda a: {"x": 1.0}, {"a": axis}, store=tmp_path / repr(axis), workers=1)
        assert rl.open_sweep(tmp_path / repr(axis)).a.values.tolist() == axis


@pytest.mark.parametrize("change", [flip, cut])
@pytest.mark.parametrize("file", ["status/c/1/0/0", "a/c/0", "kind/c/0", "k/c/0"])
def test_what_says_which_cells_are_done_is_repaired_too(store, change, file):
    change(store / file)
    with pytest.raises(OSError, match=f"(`{file[0]}|axis `{file.split('/')[0]}`).* cannot be read back"):
        run(store)
    run(store, repair=True)
    np.testing.assert_array_equal(rl.open_sweep(store).x, rl.open_sweep(store.with_name("whole")).x)
    assert (rl.open_sweep(store).status == 1).all()
    assert rl.open_sweep(store).k.values.tolist() == [5, 6, 7]


def test_axes_of_an_unfinished_sweep_are_repaired(tmp_path, monkeypatch):
    result, left = engines.SerialEngine.result, iter([False, False, True])

    def interrupted(engine, timeout=None):
        if next(left):
            raise KeyboardInterrupt
        return result(engine, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(engines.SerialEngine, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "s")
    assert 0 < int((rl.open_sweep(tmp_path / "s").status == 1).sum()) < 24
    flip(tmp_path / "s" / "a" / "c" / "0")
    run(tmp_path / "s", repair=True)
    run(tmp_path / "whole")
    assert store_bytes(tmp_path / "s") == store_bytes(tmp_path / "whole")


def test_failures_are_told_with_their_parameters_and_trial(tmp_path):
    def function(a, kind, rng):
        if a == 2 and rng.random() < 0.5:
            raise ZeroDivisionError(kind)
        return {"x": a}

    with pytest.warns(RuntimeWarning, match="cells failed"):
        result = rl.sweep(function, GRID, 4, 7, tmp_path / "s", workers=1)
    failures = rl.sweep_failures(tmp_path / "s")
    expected = [[GRID["a"][i], GRID["kind"][j], t] for i, j, t in np.argwhere(result.status.to_numpy() == 2)]
    assert len({(kind, trial) for _, kind, trial in expected}) > 2
    assert failures[["a", "kind", "trial"]].to_numpy().tolist() == expected
    assert failures["error"].tolist() == [f"ZeroDivisionError: {kind}" for _, kind, _ in expected]


@pytest.mark.parametrize("change", [flip, lambda file: file.unlink()])
def test_errors_of_failed_cells_are_repaired(tmp_path, change):
    with pytest.warns(RuntimeWarning, match="2 of 6 cells failed"):
        rl.sweep(sometimes, {"a": [1, 2, 3]}, 2, 1, tmp_path / "s", workers=1)
    whole = store_bytes(tmp_path / "s")
    change(next(file for file in (tmp_path / "s" / "_error" / "c").rglob("*") if file.is_file()))
    with pytest.raises(OSError, match="`_error` of .* (is lost|cannot be read back)"):
        rl.sweep_failures(tmp_path / "s")
    with pytest.warns(RuntimeWarning, match="2 of 6 cells failed"):
        rl.sweep(sometimes, {"a": [1, 2, 3]}, 2, 1, tmp_path / "s", workers=1, repair=True)
    assert store_bytes(tmp_path / "s") == whole


def test_results_that_are_nan_everywhere_are_not_lost(tmp_path):
    rl.sweep(lambda a: {"x": np.nan}, {"a": [1, 2]}, store=tmp_path / "s", workers=1)
    assert np.isnan(rl.open_sweep(tmp_path / "s").x).all()


def edit(store, **changes):
    document = json.loads((store / "zarr.json").read_text())
    for key, value in changes.items():
        if value is None:
            del document["attributes"][key]
        else:
            document["attributes"][key] = value
    (store / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("version", [1, 99, "2"])
def test_another_format_is_named(store, version):
    edit(store, sweep_format=version)
    for call in (rl.open_sweep, rl.sweep_failures, run):
        with pytest.raises(ValueError, match=f"`store` must have format 2, which .*; .* has {version}: name another"):
            call(store)


@pytest.mark.parametrize("key", ["axes", "trials", "fixed", "function", "function_sha256", "seed", "versions"])
def test_a_lost_attribute_is_named(store, key):
    edit(store, **{key: None})
    for call in (rl.open_sweep, run):
        with pytest.raises(OSError, match=f"is damaged: it lacks its attribute `{key}`"):
            call(store)


@pytest.mark.parametrize(
    ("key", "value"),
    [("axes", "{["), ("axes", "3"), ("coords", "{["), ("variables", "{["), ("variables", '{"x": 3}'), ("trials", "4")],
)
def test_an_attribute_that_says_nothing_is_named(store, key, value):
    edit(store, **{key: value})
    for call in (rl.open_sweep, run):
        with pytest.raises(OSError, match=f"is damaged: its attribute `{key}` cannot be read"):
            call(store)


def test_an_array_that_is_none_is_named(store):
    shutil.rmtree(store / "x")
    zarr.open_group(store / "x", mode="w")
    with pytest.raises(OSError, match="is damaged: `x` is no array; name another store"):
        rl.open_sweep(store)


# --- other readers, more trials


def test_a_finished_store_opens_elsewhere_without_a_word(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = xr.open_zarr(store, chunks=None)
    np.testing.assert_array_equal(plain.x, rl.open_sweep(store).x)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    run(store)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_lazy_selections_are_those_of_numpy(store):
    dataset, whole = rl.open_sweep(store), rl.open_sweep(store).load()
    for selection in ({"a": slice(None, None, -1)}, {"trial": [3, 0]}, {"a": 1, "k": slice(1, None)}, {"trial": -1}):
        xr.testing.assert_identical(dataset.isel(selection, missing_dims="ignore").load(), whole.isel(selection))
    a = xr.DataArray([0, 2, 2], dims="pick")
    xr.testing.assert_identical(dataset.isel(a=a, trial=a).load(), whole.isel(a=a, trial=a))
    assert dataset.y[2, 1, 3, 1].item() == whole.y.values[2, 1, 3, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_trials_grow(store, workers):
    rl.sweep(kinds, GRID, 11, 7, store, coords={"k": [5, 6, 7]}, workers=workers)
    whole = rl.sweep(kinds, GRID, 11, 7, coords={"k": [5, 6, 7]}, workers=1)
    grown = rl.open_sweep(store)
    assert grown.attrs["trials"] == 11
    for name in ("x", "y", "z", "status"):
        np.testing.assert_array_equal(grown[name], whole[name])
    np.testing.assert_array_equal(xr.open_zarr(store, chunks=None).x, whole.x)
    with pytest.raises(ValueError, match="was made with `trials` 11, not 4; name another store, or ask for no fewer"):
        run(store)
    with pytest.raises(ValueError, match="`trials` must be 1 for a function without `rng`"):
        rl.sweep(deterministic, {"a": [1]}, 2, store=store)


def test_a_kill_while_trials_grow(store, monkeypatch):
    """Some arrays have room, the others not yet: as many trials as before, and both ways on are open."""
    resize, left = zarr.Array.resize, 2

    def dying(self, shape):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        resize(self, shape)

    monkeypatch.setattr(zarr.Array, "resize", dying)
    with pytest.raises(KeyboardInterrupt):
        rl.sweep(kinds, GRID, 6, 7, store, coords={"k": [5, 6, 7]}, workers=1)
    monkeypatch.undo()
    monkeypatch.setattr(store_module, "CHUNK_CELLS", 4)
    half = rl.open_sweep(store)
    assert half.sizes["trial"] == 4
    assert half.load().equals(rl.open_sweep(store.with_name("whole")).load())
    shutil.copytree(store, store.with_name("t"))
    run(store)
    assert store_bytes(store) == store_bytes(store.with_name("whole"))
    grown = rl.sweep(kinds, GRID, 6, 7, store.with_name("t"), coords={"k": [5, 6, 7]}, workers=1)
    np.testing.assert_array_equal(grown.x, rl.sweep(kinds, GRID, 6, 7, workers=1).x)


def test_a_lost_chunk_of_wide_results_costs_its_own_cells(tmp_path):
    calls = []

    def wide(a):
        calls.append(a)
        return {"w": np.full(200_000, float(a))}

    rl.sweep(wide, {"a": [1, 2, 3]}, store=tmp_path / "s", workers=1)
    (tmp_path / "s" / "w" / "c" / "1" / "0" / "0").unlink()
    calls.clear()
    with pytest.raises(OSError, match=re.escape("`w` of (a=2, trial 0) is lost")):
        rl.open_sweep(tmp_path / "s")
    rl.sweep(wide, {"a": [1, 2, 3]}, store=tmp_path / "s", workers=1, repair=True)
    assert calls == [2]
