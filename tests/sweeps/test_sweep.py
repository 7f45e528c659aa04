import contextlib
import errno
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import rmtland as rl
from rmtland._lock import RunLock
from rmtland.sweeps import engines, interrupts, work
from rmtland.sweeps import running as running_module
from rmtland.sweeps import store as store_module
from rmtland.sweeps.progress import reporter
from rmtland.sweeps.provenance import fingerprint, qualified_name
from rmtland.sweeps.work import Batch, Variable, cell_generator, run_cells

from .functions import deterministic, dies, dies_once, held_noise, noise, product, ragged, sometimes, store_bytes
from .functions import threads as count_threads

ROOT = Path(__file__).parents[2]
GRID = {"a": [1.0, 2.0, 3.0], "b": [0, 1]}


def test_each_number_is_the_functions_own(tmp_path):
    result = rl.sweep(noise, GRID, 4, 7, tmp_path / "s", workers=1)
    assert result.x.dims == ("a", "b", "trial")
    assert result.y.dims == ("a", "b", "trial", "k")
    point = 0
    for a in GRID["a"]:
        for b in GRID["b"]:
            for trial in range(4):
                expected = noise(a, b, rng=cell_generator(7, point, trial))
                cell = result.sel(a=a, b=b).isel(trial=trial)
                assert float(cell.x) == expected["x"]
                np.testing.assert_array_equal(cell.y, expected["y"][1])
            point += 1
    assert (result.status == 1).all()


def test_generators_of_cells_differ():
    firsts = {cell_generator(0, point, trial).random() for point in range(30) for trial in range(30)}
    assert len(firsts) == 900
    assert cell_generator(0, 1, 2).random() == cell_generator(0, 1, 2).random()


def test_attributes_say_where_the_numbers_come_from(tmp_path):
    units = {"a": "1/s", "x": "m"}
    result = rl.sweep(noise, {"a": [1.0]}, 1, 3, tmp_path / "s", fixed={"b": 2.0}, units=units, workers=1)
    assert result.attrs["function"] == "tests.sweeps.functions.noise"
    assert result.attrs["seed"] == 3
    assert result.attrs["fixed"] == '{"b": 2.0}'
    assert len(result.attrs["function_sha256"]) == 64
    assert '"numpy": "' in result.attrs["versions"]
    assert result.a.attrs["units"] == "1/s"
    assert result.x.attrs["units"] == "m"
    for trace in (str(ROOT), str(tmp_path), str(Path.home())):
        assert trace not in str(result.attrs)
    result.load().to_netcdf(tmp_path / "s.nc")


def test_batches_take_half_a_second_and_at_least_one_cell():
    store = SimpleNamespace(schema={"x": np.empty(())}, cells=lambda _: np.arange(8))
    run = running_module._Run(store, SimpleNamespace(capacity=lambda: 1), {}, {}, 10**6, None)
    assert run._batch_size() == 1  # nothing is known of them yet
    sizes = {}
    for seconds in (10.0, 0.01):
        run.size, run.seconds_per_cell = 100, seconds
        sizes[seconds] = run._batch_size()
    assert sizes == {10.0: 1, 0.01: 50}
    # A slow first cell, as of one that compiles, is forgotten.
    run._store = lambda batch: None
    for seconds in [60.0] + [0.01] * 40:
        run._receive(Batch(np.arange(4), {}, {}, {}, 4 * seconds))
    run.size = 100
    assert run._batch_size() in (49, 50)
    # At most eight times the last one, 16 MiB of results, and towards the end a quarter of each worker's share.
    run.size, run.seconds_per_cell = 3, 1e-9
    assert [run._batch_size() for _ in range(3)] == [24, 192, 1536]
    run.seconds_per_cell = 0.01
    for number, left, workers, size in ((2**20, 10**6, 1, 2), (1, 48, 3, 4), (1, 5, 3, 2), (1, 0, 3, 2)):
        run.size, run.left, run.engine = 100, left, SimpleNamespace(capacity=lambda workers=workers: workers)
        store.schema = {"x": np.empty((1, number)), "y": np.empty((0, 3))}
        assert run._batch_size() == size


@pytest.mark.parametrize(
    ("flushing", "most", "least"),
    [
        (0.0, 2**26, 0.25),
        (0.01, 2**26, 1.0),  # a hundredth of the time is spent on it
        (0.01, 20, 0.0),  # what waits is large
    ],
)
def test_results_are_stored_soon_but_not_all_the_time(monkeypatch, flushing, most, least):
    """Cells of a tenth of a second by a clock that stands still elsewhere, in batches of two at most."""
    now, times, flush = [100.0], [100.0], store_module.SweepStore.flush

    def timed(task, schema, cells):
        now[0] += 0.1 * cells.size
        batch = run_cells(task, schema, cells)
        batch.seconds = 0.1 * cells.size
        return batch

    def flushed(store):
        flush(store)
        times.append(now[0])

    monkeypatch.setattr(running_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    clock = itertools.count(7, flushing)
    monkeypatch.setattr(store_module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(running_module, "DIRTY_BYTES", most)
    monkeypatch.setattr(running_module, "BATCH_SECONDS", 0.2)
    monkeypatch.setattr(engines, "run_cells", timed)
    monkeypatch.setattr(store_module.SweepStore, "flush", flushed)
    rl.sweep(deterministic, {"a": np.arange(40)}, workers=1)
    first, *waits = np.diff(times[:-1])  # the last time is the end
    assert min(0.25, least) <= first < 0.251 + 0.2
    assert len(waits) >= 2
    assert (np.array(waits) > least - 1e-9).all()
    assert (np.array(waits) < least + 0.201).all()


@given(
    axes=st.lists(st.integers(1, 5), max_size=3),
    trials=st.integers(1, 5),
    seed=st.integers(0, 2**40),
    chunk=st.integers(1, 30),
)
@settings(max_examples=15)
def test_any_grid_any_chunking(axes, trials, seed, chunk):
    def value(rng, **parameters):
        return {"x": sum((i + 1) * v for i, v in enumerate(parameters.values())) + rng.random()}

    grid = {f"p{i}": np.arange(n) for i, n in enumerate(axes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "CHUNK_CELLS", chunk)
        result = rl.sweep(value, grid, trials, seed, workers=1)
    assert result.x.shape == (*axes, trials)
    expected = np.empty(result.x.shape)
    for point, index in enumerate(np.ndindex(*axes)):
        for trial in range(trials):
            parameters = {f"p{i}": j for i, j in enumerate(index)}
            expected[(*index, trial)] = value(cell_generator(seed, point, trial), **parameters)["x"]
    np.testing.assert_array_equal(result.x, expected)


def test_workers_batches_and_order_change_no_byte(tmp_path):
    one = rl.sweep(product, {"a": [1.0, 2.0]}, 10, 5, tmp_path / "one", workers=1)
    two = rl.sweep(product, {"a": [1.0, 2.0]}, 10, 5, tmp_path / "two", workers=2)
    assert one.equals(two)
    assert store_bytes(tmp_path / "one") == store_bytes(tmp_path / "two")


def test_functions_of_a_script_reach_the_workers():
    shift = 3
    result = rl.sweep(lambda a, rng: {"x": a + shift}, {"a": [1, 2]}, 3, workers=2)
    np.testing.assert_array_equal(result.x, [[4] * 3, [5] * 3])


def test_workers_have_one_thread():
    for workers in (1, 2):
        assert (rl.sweep(count_threads, {"a": [1, 2]}, 2, workers=workers).threads == 1).all()


def test_text_axes_and_empty_grids(tmp_path):
    named = rl.sweep(lambda kind: {"n": len(kind)}, {"kind": ["ab", "c"]}, store=tmp_path / "s", workers=1)
    assert named.n.sel(kind="ab").item() == 2
    assert named.kind.dtype == np.array(["ab", "c"]).dtype  # fixed width, which every reader knows
    again = rl.sweep(lambda rng: {"x": rng.random()}, {}, 3, workers=1)
    assert again.x.shape == (3,)


def test_complex_results_and_axes_with_coordinates(tmp_path):
    def transform(a):
        return {"g": (("z",), np.array([a, 1j]))}

    arguments = {"store": tmp_path / "s", "coords": {"z": [0.5, 1.5]}, "workers": 1}
    result = rl.sweep(transform, {"a": [1, 2]}, **arguments)
    assert result.g.sel(z=1.5, a=2).item() == 1j
    np.testing.assert_array_equal(result.z, [0.5, 1.5])
    with pytest.raises(ValueError, match=r"made with `z` \[0.5, 1.5\] \(2 values\), not \[0.5, 2.5\]"):
        rl.sweep(transform, {"a": [1, 2]}, **{**arguments, "coords": {"z": [0.5, 2.5]}})


def test_large_results_have_chunks_of_their_own(tmp_path):
    def wide(a, rng):
        return {"w": rng.standard_normal(100_000)}

    result = rl.sweep(wide, {"a": [1, 2]}, 2, store=tmp_path / "s", workers=1)
    np.testing.assert_array_equal(result.w[1, 0], cell_generator(0, 1, 0).standard_normal(100_000))
    assert zarr.open_group(tmp_path / "s", mode="r")["w"].chunks == (1, 1, 100_000)


# --- resuming


def test_a_finished_sweep_runs_nothing(tmp_path):
    rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")}
    rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*")} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


KILLS = """
import os, signal, sys
from rmtland.sweeps import running, store
import rmtland as rl
from tests.sweeps.functions import noise

flush = store.ChunkedArray.flush
store.CHUNK_CELLS = 5
running.DIRTY_BYTES = 0  # a flush after each batch

def killing(self):
    global left
    if self.dirty:
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
    flush(self)

store.ChunkedArray.flush = killing
for write in range(WRITES):
    child = os.fork()
    if child == 0:
        left = write
        rl.sweep(noise, {"a": [1.0, 2.0, 3.0], "b": [0, 1]}, 4, 7, sys.argv[1] + f"/{write}", workers=1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


@pytest.mark.slow
def test_a_kill_between_any_two_writes(tmp_path, monkeypatch):
    """SIGKILL instead of the n-th write of an array: between data and status, between two variables, anywhere."""
    script = KILLS.replace("WRITES", "9")
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, timeout=100, check=True)
    monkeypatch.setattr(store_module, "CHUNK_CELLS", 5)
    whole = rl.sweep(noise, GRID, 4, 7, tmp_path / "whole", workers=1)
    halves = 0
    for write in range(9):
        store = tmp_path / str(write)
        before = rl.open_sweep(store)
        done = (before.status == 1).to_numpy()
        assert done.sum() < 24
        if before.data_vars:
            np.testing.assert_array_equal(before.x.values[done], whole.x.values[done])
            halves += bool(np.isfinite(before.x.values[~done]).any())
        rl.sweep(noise, GRID, 4, 7, store, workers=1)
        assert store_bytes(store) == store_bytes(tmp_path / "whole")
    assert halves, "no kill came between data and status"


RUN = """
import sys
import rmtland as rl
from tests.sweeps.functions import held_noise
rl.sweep(held_noise, {"a": [float(i) for i in range(20)]}, 10, 3, sys.argv[1], workers=2)
"""


@pytest.fixture
def running(tmp_path):
    """A run with two workers in a process group of its own, some of its cells stored, others never ending."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "s")], cwd=ROOT, start_new_session=True,
        env={**os.environ, "SWEEP_TEST_HOLD": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(FileNotFoundError, ValueError, OSError):
                if (rl.open_sweep(tmp_path / "s").status == 1).any():
                    break
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[1]
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_the_end_of(group):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("workers outlive their run")


@pytest.mark.slow
def test_a_run_with_workers_that_is_killed_goes_on(tmp_path, running):
    store = tmp_path / "s"
    with pytest.raises(BlockingIOError, match=f"is being run by process {running.pid} on .*; one run at a time"):
        rl.sweep(held_noise, {"a": np.arange(20.0)}, 10, 3, store)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert 0 < int((rl.open_sweep(store).status == 1).sum()) < 200
    # The lock went with the process, although its workers live for another second.
    rl.sweep(held_noise, {"a": np.arange(20.0)}, 10, 3, store, workers=2)
    rl.sweep(held_noise, {"a": np.arange(20.0)}, 10, 3, tmp_path / "whole", workers=1)
    assert store_bytes(store) == store_bytes(tmp_path / "whole")
    assert not (tmp_path / "s.lock").exists()
    wait_for_the_end_of(running.pid)


ENDING = """
import os, signal, threading
import rmtland as rl

def cell(a, rng):
    return {"x": a}

def interrupted_wait(thread, timeout=None):
    print("waits", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    return join(thread, timeout)

if __name__ == "__main__":
    rl.sweep(cell, {"a": [1.0, 2.0]}, 2, workers=2)
    join, threading.Thread.join = threading.Thread.join, interrupted_wait
"""


@pytest.mark.slow
def test_ctrl_c_while_the_interpreter_ends_prints_nothing(tmp_path):
    (tmp_path / "ending.py").write_text(ENDING)
    done = subprocess.run([sys.executable, "ending.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == {"waits"}


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done_and_ends_the_workers(tmp_path, running):
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode in (-signal.SIGINT, 130)
    assert stderr.count("KeyboardInterrupt") == 1
    wait_for_the_end_of(running.pid)
    assert 0 < int((rl.open_sweep(tmp_path / "s").status == 1).sum()) < 200


def test_leftovers_of_a_kill_are_cleared(tmp_path):
    rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)
    whole = store_bytes(tmp_path / "s")
    (tmp_path / "s" / "x" / "c" / "0" / "0" / f"0.{'ab' * 16}.partial").write_bytes(b"half")
    rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)
    assert store_bytes(tmp_path / "s") == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "`seed` 1, not 2"),
        ({"trials": 1}, "`trials` 2, not 1"),
        ({"function": held_noise}, r"`function` tests.sweeps.functions.noise, not tests.sweeps.functions.held_noise"),
        ({"grid": {"a": [1.0, 2.0, 3.0]}}, "axes a, b, not a"),
        ({"grid": {"a": [1.0, 2.0, 4.0], "b": [0, 1]}}, r"`a` \[1.0, 2.0, 3.0\] \(3 values\), not \[1.0, 2.0, 4.0\]"),
        ({"grid": {"a": [1.0, 2.0, 3.0], "b": ["0", "1"]}}, r"`b` \[0, 1\] \(2 values\), not \[0, 1\]"),
        ({"grid": {"a": [1.0]}, "fixed": {"b": 1}}, r"`fixed` \{\}, not \{\"b\": 1\}"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, message):
    arguments = {"function": noise, "grid": GRID, "trials": 2, "seed": 1, "store": tmp_path / "s", "workers": 1}
    rl.sweep(**arguments)
    before = store_bytes(tmp_path / "s")
    with pytest.raises(ValueError, match=f"was made with {message}.*; name another store"):
        rl.sweep(**{**arguments, **change})
    assert store_bytes(tmp_path / "s") == before


def test_long_axes_are_told_by_their_ends(tmp_path):
    for size, told in ((6, "[0, 1, 2, 3, 4, 5] (6 values)"), (7, "[0, 1, 2, ..., 5, 6] (7 values)")):
        arguments = {"store": tmp_path / str(size), "workers": 1}
        rl.sweep(deterministic, {"a": np.arange(size)}, **arguments)
        with pytest.raises(ValueError, match=re.escape(f"was made with `a` {told}, not [9] (1 values)")):
            rl.sweep(deterministic, {"a": [9]}, **arguments)


def test_fixed_parameters_are_the_same_in_any_order(tmp_path):
    def function(a, b, c):
        return {"x": a + 2 * b + 3 * c}

    first = rl.sweep(function, {"a": [1, 2]}, store=tmp_path / "s", fixed={"c": 5, "b": 7}, workers=1)
    again = rl.sweep(function, {"a": [1, 2]}, store=tmp_path / "s", fixed={"b": 7, "c": 5}, workers=1)
    np.testing.assert_array_equal(again.x.to_numpy().ravel(), [30, 31])
    assert again.equals(first)


def test_bound_arguments_are_named_by_their_value_where_it_is_short_and_plain():
    def function(*values, **named):
        pass

    short, long = "s" * 38, "s" * 39  # with quotes 40 and 41
    bound = functools.partial(function, 1, 2.5, None, True, 1j, short, long, [1], LARGE, k=3, t=(1,))
    name = f"{__name__}.{function.__qualname__}"
    expected = f"{name}(1, 2.5, None, True, 1j, '{short}', str, list, ndarray, k=3, t=tuple)"
    assert qualified_name(bound) == expected


def test_another_source_text_is_refused(tmp_path, monkeypatch):
    rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)

    def noise_of_another_day(a, b=0.0, *, rng):
        return {"x": a}

    noise_of_another_day.__qualname__, noise_of_another_day.__module__ = noise.__qualname__, noise.__module__
    with pytest.raises(ValueError, match="another source text of tests.sweeps.functions.noise"):
        rl.sweep(noise_of_another_day, GRID, 2, 1, tmp_path / "s", workers=1)


class Scaled:
    """A callable object."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, a):
        return {"x": self.factor * a}


def scaled(factor, offset=0.0):
    def function(a):
        return {"x": factor * a + offset}

    return function


def bound(a, table):
    return {"x": a + table[500]}


LARGE = np.zeros(1000)
ALMOST = np.where(np.arange(1000) == 500, 1.0, 0.0)  # NumPy's text of both is the same
TWO = [lambda a: {"x": a}, lambda a: {"x": -a}]  # fmt: skip
OTHERS = {
    "partial": lambda i: functools.partial(bound, table=(LARGE, ALMOST)[i]),
    "object": lambda i: Scaled((1.0, 2.0)[i]),
    "method": lambda i: Scaled((1.0, 2.0)[i]).__call__,
    "lambdas on a line": lambda i: TWO[i],
    "closure": lambda i: scaled((1.0, 2.0)[i]),
    "closure of an array": lambda i: scaled((LARGE[:1], ALMOST[500:501])[i]),
    "closure of a set": lambda i: scaled({"a": 1.0}.get, frozenset({(1, "b"), (2, f"c{i}")})),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_functions_that_hold_other_values_are_other_functions(kind):
    one, same, other = (fingerprint(OTHERS[kind](i)) for i in (0, 0, 1))
    assert one == same != other


def test_arrays_are_known_by_their_values_whatever_their_order_and_kind():
    table = np.arange(6.0).reshape(2, 3)
    assert fingerprint(scaled(np.asfortranarray(table))) == fingerprint(scaled(table))
    assert fingerprint(scaled(table.reshape(3, 2))) != fingerprint(scaled(table))
    assert fingerprint(scaled(table.astype(np.float32))) != fingerprint(scaled(table))
    objects = [scaled(np.array([f"{i}{10**j}", None], dtype=object)) for i in (1, 1, 2) for j in (20,)]
    one, same, other = map(fingerprint, objects)
    assert one == same != other


def test_a_lambda_is_known_by_its_text_whatever_a_compiler_makes_of_it():
    compiled = [types.FunctionType(f.__code__.replace(co_consts=(*f.__code__.co_consts, "spare")), {}) for f in TWO]
    assert [fingerprint(f) for f in compiled] == [fingerprint(f) for f in TWO]


@pytest.mark.parametrize("kind", ["partial", "object", "lambdas on a line", "closure"])
def test_another_function_does_not_pass_for_the_stored_one(tmp_path, kind):
    first = rl.sweep(OTHERS[kind](0), {"a": [1.0, 2.0]}, store=tmp_path / "s", workers=1)
    assert rl.sweep(OTHERS[kind](0), {"a": [1.0, 2.0]}, store=tmp_path / "s", workers=1).equals(first)
    with pytest.raises(ValueError, match=r"another source text of .*, or with other values bound to it"):
        rl.sweep(OTHERS[kind](1), {"a": [1.0, 2.0]}, store=tmp_path / "s", workers=1)


HASHES = """
import json
from tests.sweeps import test_sweep as t
print(json.dumps([t.fingerprint(make(i)) for make in t.OTHERS.values() for i in (0, 1)]))
"""


def test_a_function_is_itself_in_another_process(tmp_path):
    """Texts are hashed with another salt there, objects lie elsewhere."""
    runs = [subprocess.run([sys.executable, "-c", HASHES], cwd=ROOT, capture_output=True, check=True) for _ in "12"]
    assert runs[0].stdout == runs[1].stdout
    assert len(set(json.loads(runs[0].stdout))) == 2 * len(OTHERS)


def test_versions_that_go_on_with_a_store_are_noted(tmp_path, monkeypatch):
    rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)
    monkeypatch.setattr("rmtland.sweeps.provenance.versions", lambda: '{"numpy": "9.9"}')
    for _ in range(2):
        result = rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)
    assert result.attrs["resumed_with"] == '["{\\"numpy\\": \\"9.9\\"}"]'
    monkeypatch.setattr("rmtland.sweeps.provenance.versions", lambda: "later")
    result = rl.sweep(noise, GRID, 2, 1, tmp_path / "s", workers=1)
    assert json.loads(result.attrs["resumed_with"]) == ['{"numpy": "9.9"}', "later"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("chapter 1")
    with pytest.raises(ValueError, match="`store` must be a new folder or a sweep's"):
        rl.sweep(noise, GRID, 1, 1, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is something else"):
        rl.sweep(noise, GRID, 1, 1, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert rl.sweep(noise, GRID, 1, 1, tmp_path / "empty", workers=1).x.size == 6


def test_what_lies_beside_and_within_a_store_is_left_alone(tmp_path):
    mine = {"s.partial/thesis.txt": "chapter 1", "s.lock.txt": "2", "s/x/notes.partial": "3", "t.json.partial": "4"}
    rl.sweep(noise, GRID, 1, 1, tmp_path / "s", workers=1)
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "link.partial").symlink_to(tmp_path / "s.partial")
    for store in ("s", "t", "link"):
        rl.sweep(noise, GRID, 1, 1, tmp_path / store, workers=1)
    assert {name: (tmp_path / name).read_text() for name in mine} == mine
    made = {"s", "t", "link", "link.partial", "s.partial", "s.lock.txt", "t.json.partial"}
    assert {path.name for path in tmp_path.iterdir()} == made


@pytest.mark.parametrize("kind", ["text", "empty", "link", "link to nothing", "folder", "pipe"])
def test_a_lock_of_somebody_else_is_left_alone_and_named(tmp_path, kind):
    lock, target = tmp_path / "s.lock", tmp_path / "thesis.txt"
    target.write_text("chapter 1")
    make = {
        "text": lambda: lock.write_text("mine"),
        "empty": lock.touch,
        "link": lambda: lock.symlink_to(target),
        "link to nothing": lambda: lock.symlink_to(tmp_path / "nothing"),
        "folder": lock.mkdir,
        "pipe": lambda: os.mkfifo(lock),
    }
    make[kind]()
    before = os.lstat(lock)
    with pytest.raises(FileExistsError, match=r"needs the name .*s\.lock for its lock, and something else has it"):
        rl.sweep(noise, GRID, 1, 1, tmp_path / "s", workers=1)
    after = os.lstat(lock)
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert target.read_text() == "chapter 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.lock", "thesis.txt"]


def test_a_store_behind_a_link_has_one_lock(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with RunLock(tmp_path / "disk", "sweep"), pytest.raises(BlockingIOError, match="one run at a time"):
        rl.sweep(noise, GRID, 1, 1, tmp_path / "link", workers=1)
    rl.sweep(noise, GRID, 1, 1, tmp_path / "link", workers=1)
    assert (tmp_path / "link").is_symlink()
    assert rl.open_sweep(tmp_path / "disk").x.size == 6
    (tmp_path / "loose").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="`store` must not be a link to nothing; .*loose is one"):
        rl.sweep(noise, GRID, 1, 1, tmp_path / "loose", workers=1)


def test_one_holder_at_a_time(tmp_path):
    with (
        RunLock(tmp_path / "s", "sweep"),
        pytest.raises(BlockingIOError, match=f"run by process {os.getpid()} on"),
        RunLock(tmp_path / "s", "sweep"),
    ):
        pass
    with RunLock(tmp_path / "s", "sweep"):
        assert (tmp_path / "s.lock").exists()
    assert not (tmp_path / "s.lock").exists()
    with RunLock(tmp_path / "s", "sweep"):
        left = (tmp_path / "s.lock").read_bytes()
    (tmp_path / "s.lock").write_bytes(left)  # as after a kill
    rl.sweep(noise, GRID, 1, 1, tmp_path / "s", workers=1)
    assert not (tmp_path / "s.lock").exists()


# --- failures


def test_failed_cells_are_recorded_and_run_again_on_request(tmp_path, monkeypatch):
    store = tmp_path / "s"
    told = r"3 of 9 cells failed, the first: \(a=2, trial 0\) ZeroDivisionError: two"
    with pytest.warns(RuntimeWarning, match=told) as warned:
        result = rl.sweep(sometimes, {"a": [1, 2, 3]}, 3, 1, store, workers=1)
    assert warned[0].filename == __file__  # it points at the call
    assert np.isnan(result.x.sel(a=2)).all()
    assert (result.status.sel(a=2) == 2).all()
    assert np.isfinite(result.x.sel(a=[1, 3])).all()
    failures = rl.sweep_failures(store)
    assert failures[["a", "trial"]].to_numpy().tolist() == [[2, 0], [2, 1], [2, 2]]
    assert set(failures["error"]) == {"ZeroDivisionError: two is hard"}
    monkeypatch.setenv("SWEEP_TEST_WELL", "1")
    with pytest.warns(RuntimeWarning, match="3 of 9"):  # not without being asked
        rl.sweep(sometimes, {"a": [1, 2, 3]}, 3, 1, store, workers=1)
    rl.sweep(sometimes, {"a": [1, 2, 3]}, 3, 1, store, workers=1, retry_failed=True)
    rl.sweep(sometimes, {"a": [1, 2, 3]}, 3, 1, tmp_path / "well", workers=1)
    assert store_bytes(store) == store_bytes(tmp_path / "well")
    assert rl.sweep_failures(store).empty


def test_a_table_of_failures_has_a_column_for_each_axis(tmp_path):
    grid = {"a": [2, 3], "b": ["u", "v", "w"]}
    with pytest.warns(RuntimeWarning, match="12 of 24 cells failed"):
        rl.sweep(lambda a, b, rng: {"x": 1 / (a - 2)}, grid, 4, store=tmp_path / "s", workers=1)
    failures = rl.sweep_failures(tmp_path / "s")
    assert list(failures) == ["a", "b", "trial", "error"]
    assert failures[["a", "b", "trial"]].to_numpy().tolist() == [[2, b, trial] for b in "uvw" for trial in range(4)]


@pytest.mark.parametrize("workers", [1, 2])
def test_ragged_results_are_failures_of_their_cells(tmp_path, workers):
    with pytest.warns(RuntimeWarning, match=r"4 of 6 cells failed.*must have shape \(3,\).*got \(1,\)"):
        result = rl.sweep(ragged, {"a": [3, 1, 2]}, 2, 1, tmp_path / "s", workers=workers)
    assert result.x.shape == (3, 2, 3)
    assert np.isfinite(result.x.sel(a=3)).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "TypeError: result `x` must be numeric; got 'text'"),
        (None, "TypeError: result `x` must be numeric; got None"),
        ([[1], [2, 3]], "TypeError: result `x` must be a number or an array; got a ragged sequence"),
        (2**60, r"ValueError: result `x` must be within 2\^53"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), "ValueError: result `x` must have no masked entries; got 1 of 2"),
        (np.datetime64("2026-01-01"), "TypeError: result `x` must be numeric"),
        ((("k", "l"), [1.0]), "ValueError: result `x` must have an axis for each of"),
    ],
)
def test_results_that_are_no_numbers(value, message):
    with pytest.raises(RuntimeError, match=f"all 2 cells failed, the first: .* {message}"):
        rl.sweep(lambda a: {"x": value}, {"a": [1, 2]}, workers=1)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3.0, "the function must return a dict of numbers or arrays; got float"),
        ({"a b": 1}, "results must have Python names"),
        ({"trial": 1}, "results must have Python names other than trial"),
        ({"_error": 1}, "results must have Python names other than trial.*, _error.*; got '_error'"),
        ({"x": (("status",), [1.0])}, r"axes of `x` must have Python names other than trial, .*; got \('status',\)"),
    ],
)
def test_results_that_have_no_names(result, message):
    with pytest.raises(RuntimeError, match=message):
        rl.sweep(lambda a: result, {"a": [1]}, workers=1)


@pytest.mark.parametrize(
    ("value", "dims", "shape"),
    [
        (2, (), ()),
        ((1.0, 2.0), ("x_0",), (2,)),
        (([1.0, 2.0], [3.0, 4.0]), ("x_0", "x_1"), (2, 2)),
        ((("k", 1.0)), ("k",), None),
        (("k", [1.0, 2.0]), ("k",), (2,)),
        ((["k", "l"], [[1.0, 2.0, 3.0]]), ("k", "l"), (1, 3)),
        (SimpleNamespace(dims=["k"], values=np.array([True])), ("k",), (1,)),
        (np.array([2**53, -(2**53)]), ("x_0",), (2,)),
    ],
)
def test_results_with_and_without_names_of_their_axes(value, dims, shape):
    if shape is None:
        with pytest.raises(ValueError, match=r"result `x` must have an axis for each of \('k',\); got shape \(\)"):
            work.checked_result({"x": value})
        return
    ((variable, stored),) = work.checked_result({"x": value}).values()
    assert variable == Variable(dims, shape, False)
    assert stored.dtype == np.float64
    assert stored.shape == shape


def test_other_names_and_kinds_in_later_cells():
    def changing(a):
        return {1: {"x": 1.0}, 2: {"y": 1.0}, 3: {"x": 1j}, 4: {"x": 2}}[a]

    with pytest.warns(RuntimeWarning, match="every cell must return x, as the first does; got y"):
        result = rl.sweep(changing, {"a": [1, 2, 3, 4]}, workers=1)
    np.testing.assert_array_equal(result.status[:, 0], [1, 2, 2, 1])


def test_cells_sent_before_there_was_a_schema_conform_or_fail():
    cells, x, z = np.array([3, 4]), Variable((), (), False), Variable((), (), True)
    same = Batch(cells, {"x": x}, {"x": np.ones(2)}, {}, 0.5)
    failed = Batch(cells, {}, {}, {3: "a", 4: "b"}, 0.5)
    real = Batch(cells, {"x": x}, {"x": np.ones(2)}, {}, 0.5)
    assert running_module.conform(same, {"x": x}) is same
    assert running_module.conform(failed, {"x": x}) is failed
    assert running_module.conform(real, {"x": z}) is real  # real numbers are complex ones
    found = running_module.conform(Batch(cells, {"x": z}, {"x": np.ones(2)}, {4: "its own"}, 0.5), {"x": x})
    assert (found.schema, found.columns, found.seconds) == ({}, {}, 0.5)
    assert found.errors[3].startswith("ValueError: result `x` must be real, as in the first cell")
    assert (list(found.errors), found.errors[4]) == ([3, 4], "its own")
    np.testing.assert_array_equal(found.cells, cells)


@pytest.mark.parametrize("name", ["a", "status", "_error", "trial", "num_trials", "_byte", "statistic", 3, "k l"])
def test_coordinates_keep_clear_of_what_is_there(tmp_path, name):
    """The axis of the grid was relabelled, the mask of finished cells overwritten."""
    with pytest.raises(ValueError, match=f"`coords` must have Python names other than a, trial, .*; got {name!r}"):
        rl.sweep(noise, {"a": [1.0, 2.0, 3.0]}, 1, 1, tmp_path / "s", coords={name: [7, 8, 9]}, workers=1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="`coords` must be a mapping of axes to their coordinates; got list"):
        rl.sweep(noise, {"a": [1.0]}, coords=[name], workers=1)


def test_coordinates_of_no_result(tmp_path):
    with pytest.raises(ValueError, match=r"`coords` must name axes of the results \(k\); got l"):
        rl.sweep(noise, {"a": [1.0, 2.0]}, 1, 1, tmp_path / "s", coords={"l": [7, 8, 9]}, workers=1)
    rl.sweep(noise, {"a": [1.0, 2.0]}, 1, 1, tmp_path / "s", workers=1)
    with pytest.raises(ValueError, match="was made with no coordinates `k`; name another store"):
        rl.sweep(noise, {"a": [1.0, 2.0]}, 1, 1, tmp_path / "s", coords={"k": [7, 8, 9]}, workers=1)


class Unspeakable(Exception):
    def __str__(self):
        raise ZeroDivisionError


def test_errors_whose_text_is_no_text(tmp_path):
    def function(a):
        if a == 1:
            raise ValueError("caf\udce9 \ud800")
        if a == 2:
            raise Unspeakable
        if a == 3:
            raise SystemExit(5)
        if a == 4:
            raise ValueError("é" * 1000)
        return {"x": a}

    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="4 of 5 cells failed"):
            rl.sweep(function, {"a": [0, 1, 2, 3, 4]}, store=tmp_path / "s", workers=1)
    first, second, third, fourth = rl.sweep_failures(tmp_path / "s")["error"]
    assert first == r"ValueError: caf\udce9 \ud800"
    assert second == "Unspeakable: (its text cannot be had: ZeroDivisionError)"
    assert third == "SystemExit: 5"
    assert fourth == "ValueError: " + "é" * 250


@pytest.mark.parametrize(
    ("result", "coords", "message"),
    [
        ({"a": 1}, {}, "result `a` must not have the name of an axis"),
        ({"x": (("a",), [1.0])}, {}, "axes of `x` must have names of their own"),
        ({"x": (("k",), [1.0]), "y": (("k",), [1.0, 2.0])}, {}, "axis `k` must have one length; got 1 and, in `y`, 2"),
        ({"x": (("k",), [1.0])}, {"k": [1, 2]}, "axis `k` must have one length; got 2 and, in `x`, 1"),
    ],
)
def test_axes_that_clash(result, coords, message):
    with pytest.raises(ValueError, match=message):
        rl.sweep(lambda a: result, {"a": [1]}, coords=coords, workers=1)


def test_a_worker_that_dies_is_replaced(tmp_path):
    grid, flag = {"a": [1, 2, 3, 4]}, str(tmp_path / "flag")
    result = rl.sweep(dies_once, grid, 3, 1, tmp_path / "s", fixed={"flag": flag}, workers=2)
    whole = rl.sweep(dies_once, grid, 3, 1, fixed={"flag": flag}, workers=1)
    np.testing.assert_array_equal(result.x, whole.x)


class Pool:
    """Processes that do as they are told: None never ends, an exception breaks, else it is the batch."""

    def __init__(self, *outcomes):
        self.outcomes, self.sent = list(outcomes), []

    def submit(self, function, payload, schema, cells):
        if not self.outcomes:
            raise BrokenProcessPool
        assert (function, payload, schema) == (engines.run_batch, "task", None)
        self.sent.append(cells)
        future, outcome = Future(), self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        elif outcome is not None:
            future.set_result(outcome)
        return future


def local_engine(first, *others):
    """An engine whose pools are these, one after the other, and those that are left."""
    engine, left = object.__new__(engines.LocalEngine), list(others)
    engine.payload, engine.workers, engine.executor, engine.pool = "task", 2, first, lambda: left.pop(0)
    engine.waiting, engine.running = engines.deque(), {}
    return engine, left


def attempts(engine):
    return [(cells, attempt) for _, cells, attempt in engine.running.values()]


def test_a_pool_that_breaks_when_it_is_given_a_batch_is_made_again_three_times():
    engine, left = local_engine(Pool(), Pool(), Pool(), Pool("done"), Pool())
    engine.submit(None, [0])
    assert engine.result() == "done"
    assert len(left) == 1
    engine, left = local_engine(*(Pool() for _ in range(8)))
    engine.submit(None, [0])
    assert (len(left), len(engine.waiting)) == (4, 1)
    with pytest.raises(RuntimeError, match="workers cannot be started; all that was stored is safe"):
        engine.result()
    assert len(left) == 1
    # While others run there they fail first, and `result` makes the next pool.
    engine, left = local_engine(Pool(None), Pool())
    engine.submit(None, [0])
    engine.submit(None, [1])
    assert attempts(engine) == [([0], 1)]
    assert (len(left), len(engine.waiting)) == (1, 1)


def test_batches_of_a_pool_that_broke_are_tried_again_in_order_and_the_last_time_alone():
    broken = BrokenProcessPool()
    pools = Pool(broken, broken), Pool(None, "second"), Pool(broken), Pool("first"), Pool()
    engine, left = local_engine(*pools)
    engine.submit(None, [0])
    engine.submit(None, [1])
    assert engine.result(timeout=0) == "second"
    assert pools[1].sent == [[0], [1]]
    assert attempts(engine) == [([0], 2)]
    assert engine.result(timeout=0) is None
    engine.submit(None, [2])
    next(iter(engine.running)).set_exception(broken)
    with pytest.raises(RuntimeError, match=r"a worker died 3 times while it ran cells 0 to 0 \(out of memory\?\)"):
        engine.result()
    assert pools[2].sent == [[0]]
    assert len(left) == 1


def test_a_cell_that_kills_every_worker_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"a worker died 3 times while it ran cells \d+ to \d+ \(out of memory"):
        rl.sweep(dies, {"a": [1, 2, 3, 4]}, 3, 1, tmp_path / "s", workers=2)


@pytest.mark.parametrize("writes", [2, 14, 18, 30])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, writes):
    """While the store is made, while its arrays are, while cells are stored."""
    import zarr.storage._local as local

    put, left = local._put, writes

    def filling(path, value, exclusive=False):
        nonlocal left
        left -= 1
        if left < 0:
            if left == -1:  # writes beside it would bring back folders that are cleared away meanwhile
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_name(f"0.{left % 2**128:032x}.partial").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(path, value, exclusive)

    monkeypatch.setattr(store_module, "CHUNK_CELLS", 2)
    monkeypatch.setattr(local, "_put", filling)
    with pytest.raises(OSError, match="No space left on device while storing results; all cells stored before are"):
        rl.sweep(noise, GRID, 4, 1, tmp_path / "s", workers=1)
    monkeypatch.setattr(local, "_put", put)
    rl.sweep(noise, GRID, 4, 1, tmp_path / "s", workers=1)
    rl.sweep(noise, GRID, 4, 1, tmp_path / "t", workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "t"]
    assert store_bytes(tmp_path / "s") == store_bytes(tmp_path / "t")


def test_more_trials_than_the_disk_has_room_for_are_refused(tmp_path, monkeypatch):
    """Before the first cell, once that says how large a result is, and to grow; not where a store only goes on."""
    with pytest.raises(OSError, match=r"results of 600000000000 cells need .+ GiB are free at .*s; ask for fewer"):
        rl.sweep(noise, GRID, 10**11, 1, tmp_path / "s", workers=1)
    cells = math.prod(map(len, GRID.values()))
    first = rl.sweep(noise, GRID, 3, 1, tmp_path / "t", workers=1)
    each = 1 + sum(first[name].nbytes for name in first.data_vars) // (3 * cells)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * cells * each))
    rl.sweep(noise, GRID, 5, 1, tmp_path / "t", workers=1)
    with pytest.raises(OSError, match=f"results of {3 * cells} cells need"):
        rl.sweep(noise, GRID, 8, 1, tmp_path / "t", workers=1)
    assert rl.sweep(noise, GRID, 5, 1, tmp_path / "t", workers=1).sizes["trial"] == 5
    with pytest.raises(OSError, match=f"results of {3 * cells} cells need"):
        rl.sweep(noise, GRID, 3, 1, tmp_path / "u", workers=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"grid": {"c": [1]}}, ValueError, r"must name parameters of the function \(a, b, rng\); got c"),
        ({"fixed": {"c": 1}}, ValueError, "must name parameters of the function"),
        ({"grid": {"b": [1]}}, ValueError, "must give every parameter without default; lacks a"),
        ({"grid": {"a": []}}, ValueError, "axis `a` must have at least one value; got none"),
        ({"grid": {"a": 1.0}}, TypeError, "axis `a` must be a sequence of values; got 1.0"),
        ({"grid": {"a": [[1]]}}, TypeError, "axis `a` must be a 1-d sequence"),
        ({"grid": {"a": [1, None]}}, TypeError, "axis `a` must be a 1-d sequence of numbers or of texts"),
        ({"grid": {"a": [1, 1]}}, ValueError, "axis `a` must not repeat a value"),
        ({"grid": {"a": [1, np.nan]}}, ValueError, "axis `a` must be finite"),
        ({"grid": {"trial": [1]}}, ValueError, "parameter names must be Python names other than trial"),
        ({"grid": [1]}, TypeError, "`grid` must be a mapping of parameter names to values; got list"),
        ({"fixed": [1]}, TypeError, "`fixed` must be a mapping of parameter names to values; got list"),
        ({"fixed": {"a": 1}}, ValueError, "a parameter must be in `grid` or in `fixed`; got a in both"),
        ({"fixed": {"b": object()}}, TypeError, "`fixed` must hold numbers, texts, None or lists of them"),
        ({"trials": 0}, ValueError, "`trials` must be >= 1; got 0"),
        ({"seed": -1}, ValueError, "`seed` must be >= 0; got -1"),
        ({"seed": None}, TypeError, "`seed` must be an integer; got None"),
        ({"workers": 0}, ValueError, "`workers` must be >= 1; got 0"),
        (
            {"workers": 10**9, "trials": 10**7},
            MemoryError,
            "starting 20000000 processes needs .*ask for fewer `workers`",
        ),
        ({"trials": 2**40}, ValueError, r"`grid` and `trials` must make at most 2\^40 cells; got 2199023255552"),
        ({"trials": 10**400}, ValueError, r"`trials` must be at most 2\^63 - 1 in size; got 1000"),
        ({"grid": {"a": np.ma.array([1, 2], mask=[0, 1])}}, ValueError, "`a` must have no masked entries; got 1 of 2"),
        ({"grid": {"a": [[1], [1, 2]]}}, TypeError, "axis `a` must be a 1-d sequence of numbers or of texts"),
        (
            {"grid": {"a": [10**400]}},
            TypeError,
            "axis `a` must be a 1-d sequence of numbers or of texts; got .*[.]{3}$",
        ),
        ({"grid": {"a": np.array(["2026"], "M8[Y]")}}, TypeError, "axis `a` must be a 1-d sequence of numbers"),
        ({"store": 3.0}, TypeError, "`store` must be a path; got 3.0"),
        ({"units": [1]}, TypeError, "`units` must be a mapping of names to units; got list"),
        ({"units": {"a": 3}}, TypeError, "`units` must be a mapping of names to units; got 3 for 'a'"),
        ({"scheduler": 3.0}, ValueError, "`scheduler` must be an address like tcp://host:8786; got 3.0"),
        (
            {"progress": "yes"},
            TypeError,
            "`progress` must be None, True, False or a function of three counts; got 'yes'",
        ),
        ({"retry_failed": "no"}, TypeError, "`retry_failed` must be True or False; got 'no'"),
        ({"repair": 1}, TypeError, "`repair` must be True or False; got 1"),
        ({"function": 3}, TypeError, "`function` must be callable; got 3"),
        ({"function": deterministic, "trials": 2}, ValueError, "`trials` must be 1 for a function without `rng`"),
    ],
)
def test_bad_input_is_named_before_anything_is_made(tmp_path, arguments, error, message):
    call = {"function": noise, "grid": {"a": [1.0, 2.0]}, "store": tmp_path / "s", **arguments}
    with pytest.raises(error, match=message):
        rl.sweep(**call)
    assert list(tmp_path.rglob("status/c")) == []  # nothing that was computed
    if error is not MemoryError and "scheduler" not in arguments:
        assert list(tmp_path.iterdir()) == []


def test_functions_that_cannot_travel():
    held = threading.Lock()
    with pytest.raises(TypeError, match="`function` must be picklable to reach the workers"):
        rl.sweep(lambda a: {"x": held.locked()}, {"a": [1, 2]}, workers=2)


def test_results_that_fit_no_memory_want_a_store(tmp_path):
    with pytest.raises(
        MemoryError, match="results of 10000 cells needs .*GiB are free; name a `store` for them instead"
    ):
        rl.sweep(lambda rng: {"x": np.zeros(10**7)}, {}, 10**4, workers=1)


def test_ctrl_c_waits_while_a_pool_is_made(monkeypatch):
    """Which another thread takes while this one blocks it."""
    end, seen, (told, wakes) = threading.Event(), [], socket.socketpair()
    told.settimeout(10)
    wakes.setblocking(False)
    other = threading.Thread(target=end.wait)
    other.start()

    def interrupted(error=None):
        with interrupts.interrupts_held():
            seen.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))  # what processes inherit
            os.kill(os.getpid(), signal.SIGINT)
            told.recv(1)
            seen.append("went on")
            if error:
                raise error

    before, wakened = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(wakes.fileno())
    try:
        for error in (None, BrokenProcessPool()):
            with pytest.raises(KeyboardInterrupt):
                interrupted(error)
            assert seen == [{signal.SIGINT}, "went on"]
            seen.clear()
            told.recv(1)
            assert signal.getsignal(signal.SIGINT) is before
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    finally:
        end.set()
        signal.set_wakeup_fd(wakened)
        told.close()
        wakes.close()
    with interrupts.interrupts_held():
        pass
    monkeypatch.delattr(signal, "pthread_sigmask")  # as on Windows
    with interrupts.interrupts_held():
        pass


def test_a_second_ctrl_c_is_left_aside_where_it_can_be(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with interrupts.undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

    def elsewhere():
        with interrupts.undisturbed():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(elsewhere).result() is before
    # A handler that is not Python's could not be put back.
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: 1 / 0)
    with interrupts.undisturbed():
        pass


def test_threads_are_limited_again_once_more_libraries_are_there(monkeypatch):
    calls = []
    monkeypatch.setattr("threadpoolctl.threadpool_limits", lambda count: calls.append(("libraries", count)))
    monkeypatch.setattr("numba.set_num_threads", lambda count: calls.append(("numba", count)))
    monkeypatch.setattr(work, "_modules_seen", 0)
    for number in (1, 1, 2):
        monkeypatch.setitem(sys.modules, f"another{number}", types)
        work.limit_threads()
    assert calls == [("libraries", 1), ("numba", 1)] * 2


def test_one_cell_runs_in_this_process(monkeypatch):
    monkeypatch.setattr("rmtland.sweeps.engines.LocalEngine", lambda task, count: 1 / 0)
    for workers in (None, 4):
        result = rl.sweep(lambda a: {"process": os.getpid()}, {"a": [1]}, workers=workers)
        assert int(result.process.item()) == os.getpid()
    assert engines.SerialEngine(None).capacity() == 1


def test_engines_are_those_asked_for_and_are_ended(monkeypatch):
    made, asked, threads = [], [], [7]

    class Made:
        def __init__(self, task, what):
            made.append([task, what])

        def close(self, broken):
            made[-1].append("broken" if broken else "whole")

    monkeypatch.setattr(engines, "LocalEngine", Made)
    monkeypatch.setattr(engines, "DaskEngine", Made)
    monkeypatch.setattr(engines, "require_memory", lambda what, size, instead: asked.append((what, size)))
    monkeypatch.setattr("numba.get_num_threads", lambda: threads[-1])
    monkeypatch.setattr("numba.set_num_threads", threads.append)
    limits = []
    monkeypatch.setattr(
        "threadpoolctl.threadpool_limits", lambda count: limits.append(count) or contextlib.nullcontext()
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0: {2, 5, 6}}[process], raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for workers, scheduler, missing, expected in (
        (None, None, 100, 3), (None, None, 2, 2), (5, None, 100, 5), (5, None, 3, 3), (5, "tcp://x:1", 9, "tcp://x:1"),
    ):  # fmt: skip
        with engines.make_engine("task", workers, scheduler, missing) as engine:
            assert isinstance(engine, Made)
        with pytest.raises(ZeroDivisionError), engines.make_engine("task", workers, scheduler, missing):
            raise ZeroDivisionError
        assert made == [["task", expected, "whole"], ["task", expected, "broken"]]
        assert asked == ([] if scheduler else [(f"starting {expected} processes", 1e8 * expected)] * 2)
        made.clear()
        asked.clear()
    for workers, missing in ((1, 100), (5, 1), (None, 1)):
        with contextlib.suppress(KeyError), engines.make_engine("task", workers, None, missing) as engine:
            assert (type(engine), engine.task) == (engines.SerialEngine, "task")
            assert (threads, limits) == ([7, 1], [1])
            raise KeyError
        assert threads == [7, 1, 7]
        del threads[1:], limits[:]
    monkeypatch.delattr(os, "sched_getaffinity")  # as on a Mac
    for processors, expected in ((4, 4), (None, None)):
        monkeypatch.setattr(os, "cpu_count", lambda processors=processors: processors)
        with engines.make_engine("task", None, None, 100) as engine:
            assert isinstance(engine, Made if expected else engines.SerialEngine)
        if expected:
            assert made.pop() == ["task", expected, "whole"]


def test_a_cluster_is_asked_for_its_threads_once_a_second(monkeypatch):
    pytest.importorskip("distributed")
    engine, now, asked = object.__new__(engines.DaskEngine), [50.0], []
    answers = iter([{}, {"a": 2, "b": 3}, {"a": 1}])
    monkeypatch.setattr(engines, "time", SimpleNamespace(monotonic=lambda: now[0]))
    engine.client = SimpleNamespace(nthreads=lambda: asked.append(now[0]) or next(answers))
    engine.threads, engine.asked = 0, -math.inf
    found = []
    for now[0] in (50.0, 50.9, 51.1, 52.0, 52.2):
        found.append(engine.capacity())
    assert found == [1, 1, 5, 5, 1]  # one where there are none, so that an adaptive cluster gets going
    assert asked == [50.0, 51.1, 52.2]


def test_no_more_processes_than_cells(monkeypatch):
    counts = []
    monkeypatch.setattr("rmtland.sweeps.engines.LocalEngine", lambda task, count: counts.append(count) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rl.sweep(noise, {"a": [1.0, 2.0]}, workers=10**9)
    assert counts == [2]


def test_progress_reaches_a_function():
    seen = []
    rl.sweep(noise, GRID, 2, workers=1, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (12, 0, 12)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_progress_tells_done_and_failed_cells_apart():
    seen = []
    with pytest.warns(RuntimeWarning, match="5 of 15 cells failed"):
        rl.sweep(sometimes, {"a": [1, 2, 3]}, 5, workers=1, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (10, 5, 15)
    told = [done + failed for done, failed, _ in seen]
    assert told == sorted(set(told))
    assert all(failed <= 5 and total == 15 for _, failed, total in seen)


def test_a_bar_counts_all_cells_and_names_the_failed_ones(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    for progress in (True, None):
        with reporter(progress, 3, 0, 10) as report:
            report(2, 0)
        shown = capsys.readouterr().err
        assert "sweep" in shown
        assert " 5/10" in shown
        assert "failed" not in shown
        with reporter(progress, 3, 1, 10) as report:
            for more, lost in ((1, 0), (1, 1), (1, 0)):
                report(more, lost)
        shown = capsys.readouterr().err
        assert " 8/10" in shown
        assert "2 failed" in shown
        assert "cells/s" in shown
        assert shown.endswith("\r\x1b[1A\x1b[2K")  # one line up, which is wiped
    with reporter(True, 3, 1, 10):
        pass
    assert " 4/10" in capsys.readouterr().err
    with reporter(False, 3, 1, 10) as report:
        report(2, 1)
    assert capsys.readouterr().err == ""


def test_nothing_is_printed_off_a_terminal(capfd):
    for progress in (None, True):
        rl.sweep(noise, GRID, 2, workers=1, progress=progress)
        assert capfd.readouterr() == ("", "")


def test_more_results_than_memory():
    with pytest.raises(
        MemoryError, match="the results of 1000000000000 cells needs .*; give a `store`, or ask for fewer"
    ):
        rl.sweep(noise, {"a": [1.0]}, 10**12)
