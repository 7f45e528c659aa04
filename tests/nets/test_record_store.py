"""Records on disk: no kill hurts them, nothing else is touched, and they do not fill the memory."""

import gc
import os
import runpy
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch import nn

import rmtland as rl
from rmtland.nets import TrainingRecord, mlp, moment, open_record, record_store
from tests.nets.records import C, data, network


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("moment_of_death", ["array", "commit", "measure"])
def test_a_death_in_the_middle_of_a_row_loses_that_row_alone(tmp_path, monkeypatch, moment_of_death):
    def whole(path, seed=5):
        module = mlp([16, C], seed=seed)
        record = TrainingRecord(path, module, data(), every=1, statistics=["outputs", "hessian"])
        plain(module, record)
        return record

    def plain(module, record, start=0):
        x, y = data()
        for _ in range(start, 4):
            loss = nn.functional.cross_entropy(module(x), y)
            gradients = torch.autograd.grad(loss, list(module.parameters()))
            with torch.no_grad():
                for p, g in zip(module.parameters(), gradients, strict=True):
                    p -= 0.1 * g
            record.step()

    reference = whole(tmp_path / "reference").dataset().load()
    deaths = 0

    def die_late(function):
        def dying(*arguments, **options):
            nonlocal deaths
            deaths += 1
            if deaths == {"array": 40, "commit": 5, "measure": 4}[moment_of_death]:
                raise Killed
            return function(*arguments, **options)

        return dying

    import zarr

    with monkeypatch.context() as patch:
        where, name = {
            "array": (zarr.Array, "__setitem__"), "commit": (record_store, "_commit"), "measure": (moment, "hessian"),
        }[moment_of_death]  # fmt: skip
        patch.setattr(where, name, die_late(getattr(where, name)))
        with pytest.raises(Killed):
            whole(tmp_path / "record")
    half = xr.open_zarr(tmp_path / "record", chunks=None).load()
    assert 1 <= half.sizes["step"] < 5
    xr.testing.assert_identical(half.drop_attrs(), reference.isel(step=slice(half.sizes["step"])).drop_attrs())
    # Training starts again from the beginning; what is there is not measured again.
    (tmp_path / "record" / "loss" / "c.partial").write_text("half a file")
    record = whole(tmp_path / "record")
    assert record.steps == [0, 1, 2, 3, 4]
    xr.testing.assert_identical(record.dataset().load().drop_attrs(), reference.drop_attrs())
    assert not list((tmp_path / "record").rglob("*.partial"))


SCRIPT = """
import sys, torch
import rmtland as rl
from rmtland.nets import moment
moment.EXACT = 10  # eigenpairs and traces from products and random probes
digits = rl.nets.load_dataset("digits", per_class=4)
module = rl.nets.mlp([64, 3, 10])
training = rl.nets.Training(module, digits.x_train, digits.y_train, epochs=1, batch_size=8)
record = rl.nets.TrainingRecord(sys.argv[1], module, digits.x_train, digits.y_train, every=1,
                                statistics=["outputs", "clustering", "hessian"])
for step in training:
    record.step(step)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_record_outlives_sigkill(tmp_path, monkeypatch):
    script = tmp_path / "loop.py"
    script.write_text(SCRIPT)
    for lines in (2, 3):
        process = subprocess.Popen([sys.executable, script, tmp_path / "killed"], stdout=subprocess.PIPE, text=True)
        for _ in range(lines):
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        steps = xr.open_zarr(tmp_path / "killed", chunks=None).load().step.values.tolist()
        assert steps == list(range(len(steps)))
        assert len(steps) >= last + 1
    # Two processes that die are enough: what they have left is gone on with here, which spares imports.
    monkeypatch.setattr(moment, "EXACT", moment.EXACT)  # which the script sets
    for name in ("killed", "whole"):
        monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / name)])
        runpy.run_path(str(script))
    found, expected = (open_record(tmp_path / name).load().drop_attrs() for name in ("killed", "whole"))
    xr.testing.assert_identical(found, expected)
    assert found.sizes["step"] == 6


def test_two_processes_that_begin_one_record(tmp_path, monkeypatch):
    """As the ranks of a training do that all keep a record: the first has it, and the others are told."""
    path, made = tmp_path / "record", record_store._make

    def late(group, name, *arguments):
        if name == "step" and not path.exists():
            monkeypatch.setattr(record_store, "_make", made)
            TrainingRecord(path, mlp([16, C]), data(), statistics="outputs")
        return made(group, name, *arguments)

    monkeypatch.setattr(record_store, "_make", late)
    with pytest.raises(ValueError, match="`path` must belong to one process alone; .*of several ranks one keeps the"):
        TrainingRecord(path, mlp([16, C]), data(), statistics="outputs")
    assert [p.name for p in tmp_path.iterdir()] == ["record"]
    assert open_record(path).sizes["step"] == 1


def test_nothing_else_is_touched(tmp_path):
    module = mlp([16, C])
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    store = tmp_path / "sweep"
    rl.sweep(lambda a, rng: {"x": a}, {"a": [1.0]}, 1, store=store, workers=1)
    for path in (file, folder, store):
        with pytest.raises(ValueError, match="`path` must be new, an empty folder or a training record; got .*"):
            TrainingRecord(path, module, data())
    assert file.read_text() == (folder / "mine.txt").read_text() == "mine"
    assert float(rl.open_sweep(store).x.mean()) == 1
    with pytest.raises(ValueError, match="`path` must be new, an empty folder or a training record"):
        open_record(folder)
    (tmp_path / "empty").mkdir()
    TrainingRecord(tmp_path / "empty", module, data(), statistics="outputs")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "folder", "sweep"]


def test_a_record_of_other_settings_is_not_gone_on_with(tmp_path):
    module, path = mlp([16, C]), tmp_path / "record"
    TrainingRecord(path, module, data(), statistics="outputs")
    for options, message in (
        ({"statistics": "lengths"}, r"the same `statistics` to go on with, \['lengths'\]; .* has \['outputs'\]"),
        ({"seed": 1}, "the same `seed` to go on with, 1; .* has 0"),
        ({"k": 2}, "the same `k` to go on with, 2; .* has None"),
        ({"test": data()}, r"the same `splits` to go on with, \['train', 'test'\]; .* has \['train'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainingRecord(path, module, data(), **{"statistics": "outputs", **options})
    with pytest.raises(ValueError, match="the same `num_parameters` to go on with, 77; .* has 51"):
        TrainingRecord(path, mlp([16, 3, 5, 1]), data(), statistics="outputs")
    lengths = TrainingRecord(tmp_path / "lengths", mlp([15, 4]), (torch.zeros(4, 15), torch.arange(4)), every=1,
                             statistics="lengths")  # fmt: skip
    other = TrainingRecord(lengths.path, mlp([63, 1]), (torch.zeros(4, 63), torch.arange(4) % 2), every=1,
                           statistics="lengths", loss=rl.Logistic(), start=1)  # fmt: skip
    with pytest.raises(ValueError, match="record of the same network and examples; .* of shape"):
        other.step()


def test_memory_does_not_grow_with_the_steps(tmp_path):
    record = TrainingRecord(tmp_path / "record", network(), data(), every=1)

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    counts = []
    record.step()
    gc.collect()
    gc.freeze()  # what was there before is not gone through again each time
    try:
        for _ in range(4):
            record.step()
            counts.append(tensors())
    finally:
        gc.unfreeze()
    assert counts[-1] <= counts[0]


def test_a_record_that_dies_before_its_first_row_has_no_step(tmp_path, monkeypatch):
    store = record_store.RecordStore(tmp_path / "record", {"k": 1})
    rows = {"loss": (("split",), np.array([0.5, 0.25]))}
    coords = {"split": np.array(["train", "test"])}

    def die(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store, "_array", die)
        with pytest.raises(Killed):
            store.append(3, rows, coords)
    assert open_record(tmp_path / "record").sizes == {"step": 0, "split": 2}
    again = record_store.RecordStore(tmp_path / "record", {"k": 1})
    assert again.steps == []
    again.append(3, rows, coords)
    again.append(5, rows, coords)
    assert zarr.open_array(tmp_path / "record" / "loss").chunks == (record_store.CHUNK_STEPS, 2)
    found = open_record(tmp_path / "record")
    assert found["step"].values.tolist() == [3, 5]
    assert found["split"].values.tolist() == ["train", "test"]
    assert found["loss"].values.tolist() == [[0.5, 0.25]] * 2
    for step in range(6, record_store.CHUNK_STEPS + 5):  # to the first row of the second chunk
        again.append(step, {"loss": (("split",), np.array([step, -step]))}, coords)
    found = open_record(tmp_path / "record")
    assert found["step"].values[1:].tolist() == list(range(5, record_store.CHUNK_STEPS + 5))
    assert found["loss"].values[-2:].tolist() == [[step, -step] for step in found["step"].values[-2:].tolist()]
    assert record_store.RecordStore(tmp_path / "record", {"k": 1}).steps == again.steps
    with pytest.raises(ValueError, match=r"has loss of shape \(2,\), not \(3,\)"):
        again.append(100, {"loss": (("split",), np.zeros(3))}, coords)
