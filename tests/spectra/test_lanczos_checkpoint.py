import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.spectra import _checkpoint
from tests.spectra.spectra import of_spectrum

MATRIX = of_spectrum([5.0, 4.0, *np.linspace(-1, 1, 58)])
LONG = of_spectrum([5.0, 4.0, *np.linspace(-1, 1, 598)])

SCRIPT = """
import signal, sys
from types import SimpleNamespace
import rmtland as rl
from rmtland.spectra import _checkpoint
from tests.spectra.test_lanczos_checkpoint import LONG
products = []
_checkpoint.time = SimpleNamespace(monotonic=lambda: len(products))  # writes after each, as writing takes no time
def multiply(block):
    if len(products) == 40:
        print("at work", flush=True)
        signal.pause()  # until it is killed
    products.append(1)
    return LONG @ block
rl.lanczos(rl.SymmetricOperator(multiply, 600, LONG), 600, rng=3, reorthogonalize=sys.argv[2] == "True",
           checkpoint=sys.argv[1], checkpoint_interval=0)
"""


def assert_same_bits(one, other):
    for name in ("alpha", "beta", "restarts", "residual_vector"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.basis is None) == (other.basis is None)
    if one.basis is not None:
        np.testing.assert_array_equal(one.basis, other.basis)


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, reorthogonalize):
    path = tmp_path / "run.npz"
    arguments = [sys.executable, "-c", SCRIPT, str(path), str(reorthogonalize)]
    child = subprocess.Popen(arguments, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    options = {"rng": 3, "reorthogonalize": reorthogonalize, "checkpoint": path}
    try:
        assert child.stdout.readline() == "at work\n"
        with pytest.raises(BlockingIOError, match=f"the lanczos run at .*run.npz is being run by process {child.pid}"):
            rl.lanczos(LONG, 600, **options)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    done = 40
    with np.load(path) as data:
        assert data["alpha"].size == done
    counted = rl.SymmetricOperator.from_matrix(LONG).counted()
    resumed = rl.lanczos(counted, done + 30, **options)
    assert counted.num_products == 31  # the rest, and one that knows the operator again
    assert_same_bits(resumed, rl.lanczos(LONG, done + 30, rng=3, reorthogonalize=reorthogonalize))
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]  # the lock and half-written files are gone


def test_what_killed_runs_left_is_removed_and_nothing_else(tmp_path):
    token = "0123456789abcdef" * 2
    left = tmp_path / f".run.npz.rmtland-{token}.partial"
    link = tmp_path / f".run.npz.rmtland-{token[::-1]}.partial"
    others = [".run.npz.rmtland-1.partial", f".ran.npz.rmtland-{token}.partial", "run.npz.abc.tmp", f"{left.name}.txt"]
    for name in (left.name, *others):
        (tmp_path / name).write_text("half")
    link.symlink_to(tmp_path / others[0])
    rl.lanczos(MATRIX, 3, rng=1, checkpoint=tmp_path / "run.npz")
    assert {file.name for file in tmp_path.iterdir()} == {"run.npz", link.name, *others}


def test_one_run_at_a_time_and_a_lock_of_somebody_else_is_left(tmp_path):
    path = tmp_path / "new folder" / "run.npz"

    def multiply(block):
        with pytest.raises(BlockingIOError, match=f"run by process {os.getpid()} on .*; one run at a time"):
            rl.lanczos(MATRIX, 3, rng=1, checkpoint=path)
        return MATRIX @ block

    rl.lanczos(rl.SymmetricOperator(multiply, 60, MATRIX), 3, rng=1, checkpoint=path)
    lock = path.with_name("run.npz.lock")
    assert not lock.exists()
    lock.write_text("mine")
    with pytest.raises(FileExistsError, match=r"needs the name .*run\.npz\.lock for its lock, and something else"):
        rl.lanczos(MATRIX, 4, rng=1, checkpoint=path)
    assert lock.read_text() == "mine"
    with pytest.raises(TypeError, match="`checkpoint` must be"):
        rl.lanczos(MATRIX, 4, checkpoint=3)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match="`checkpoint` must not be a link to nothing"):
        rl.lanczos(MATRIX, 4, checkpoint=tmp_path / "link")


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("in_torch", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_finished_run_is_continued(tmp_path, reorthogonalize, in_torch, dtype):
    matrix = torch.tensor(MATRIX, dtype=getattr(torch, dtype)) if in_torch else MATRIX.astype(dtype)
    options = {"rng": 1, "reorthogonalize": reorthogonalize}
    path = tmp_path / "run.npz"
    first = rl.lanczos(matrix, 9, checkpoint=path, **options)
    assert_same_bits(first, rl.lanczos(matrix, 9, **options))
    longer = rl.lanczos(matrix, 21, checkpoint=path, **options)
    assert_same_bits(longer, rl.lanczos(matrix, 21, **options))
    same = rl.lanczos(matrix, 21, checkpoint=path, **options)
    assert_same_bits(same, longer)
    assert [file.name for file in tmp_path.iterdir()] == ["run.npz"]


def test_breakdowns_before_and_at_the_cut_are_continued(tmp_path):
    matrix = of_spectrum([2.0] * 3 + [0.0] * 27)
    whole = rl.lanczos(matrix, 12, rng=1)
    assert whole.restarts[:2].tolist() == [2, 4]
    for cut in (1, 2, 3, 4, 5):
        path = tmp_path / f"{cut}.npz"
        rl.lanczos(matrix, cut, rng=1, checkpoint=path)
        assert_same_bits(rl.lanczos(matrix, 12, rng=1, checkpoint=path), whole)


def test_without_a_seed_the_files_own_is_taken(tmp_path):
    path = tmp_path / "run.npz"
    first = rl.lanczos(MATRIX, 5, checkpoint=path)
    longer = rl.lanczos(MATRIX, 8, checkpoint=path)
    np.testing.assert_array_equal(longer.alpha[:5], first.alpha)
    with_start = tmp_path / "start.npz"
    rl.lanczos(MATRIX, 5, start=np.ones(60), checkpoint=with_start)
    resumed = rl.lanczos(MATRIX, 8, start=np.ones(60), checkpoint=with_start)
    np.testing.assert_array_equal(resumed.alpha, rl.lanczos(MATRIX, 8, start=np.ones(60)).alpha)


@pytest.mark.parametrize("bits", ["PCG64", "MT19937", "Philox"])
def test_any_random_bits_are_resumed(tmp_path, bits):
    matrix = of_spectrum([2.0] * 3 + [0.0] * 27)  # draws a vector after each breakdown

    def rng():
        return np.random.Generator(getattr(np.random, bits)(5))

    path = tmp_path / "run.npz"
    rl.lanczos(matrix, 3, rng=rng(), checkpoint=path)
    assert_same_bits(rl.lanczos(matrix, 9, rng=rng(), checkpoint=path), rl.lanczos(matrix, 9, rng=rng()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"operator": 1.001 * MATRIX}, r"same operator; got one with q\^T A q = "),
        ({"operator": -MATRIX}, "same operator"),
        ({"operator": of_spectrum([5.0, 4.0, *np.linspace(-1, 1, 58)], seed=1)}, "same operator"),
        ({"operator": np.eye(59)}, "another dimension: 60 instead of 59"),
        ({"operator": MATRIX.astype(np.float32)}, "another dtype: 'float64' instead of 'float32'"),
        ({"rng": 2}, "another rng"),
        ({"rng": np.random.Generator(np.random.MT19937(1))}, "another rng"),
        ({"start": np.ones(60)}, "another start"),
        ({"reorthogonalize": False}, "another reorthogonalize: True instead of False"),
        ({"num_steps": 4}, "`num_steps` must be >= 6, the steps in the checkpoint; got 4"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_and_left(tmp_path, changed, message):
    path = tmp_path / "run.npz"
    arguments = {"operator": MATRIX, "num_steps": 6, "rng": 1, "checkpoint": path}
    rl.lanczos(**arguments)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        rl.lanczos(**arguments | changed)
    assert path.read_bytes() == before


def test_a_file_of_somebody_else_is_refused_and_left(tmp_path):
    notes, arrays, empty = tmp_path / "notes.txt", tmp_path / "arrays.npz", tmp_path / "empty"
    notes.write_text("all my results")
    np.savez(arrays, alpha=np.ones(3), header=np.array('{"format": "mine"}'))
    empty.touch()
    for path in (notes, arrays, empty):
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match="`checkpoint` must name a new file or one that lanczos made; got"):
            rl.lanczos(MATRIX, 3, rng=1, checkpoint=path)
        assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_with_a_program_in_it_does_not_run_it(tmp_path):
    np.savez(tmp_path / "arrays.npz", header=np.array([Planted(str(tmp_path / "made"))], dtype=object))
    with pytest.raises(FileExistsError, match="`checkpoint` must name a new file or one that lanczos made"):
        rl.lanczos(MATRIX, 3, rng=1, checkpoint=tmp_path / "arrays.npz")
    assert not (tmp_path / "made").exists()


def test_a_file_that_appears_meanwhile_is_left(tmp_path):
    for name, options in (("new", {}), ("old", {"checkpoint_interval": 0})):
        path = tmp_path / name

        def multiply(block, path=path, calls=[]):  # noqa: B006
            calls.append(1)
            if len(calls) == 5:
                path.unlink(missing_ok=True)
                path.write_text("mine")
            return MATRIX @ block

        operator = rl.SymmetricOperator(multiply, 60, MATRIX)
        with pytest.raises(FileExistsError, match="must name a new file|was replaced while the run went on"):
            rl.lanczos(operator, 50, rng=1, checkpoint=path, **options)
        assert path.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_write_that_fails_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    rl.lanczos(MATRIX, 5, rng=1, checkpoint=path)
    before = path.read_bytes()
    monkeypatch.setattr(_checkpoint.os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        rl.lanczos(MATRIX, 9, rng=1, checkpoint=path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_the_interval_is_kept(tmp_path, monkeypatch):
    clock = [0.0]

    def monotonic():
        return clock[0]

    def multiply(block):
        clock[0] += 1.0
        return MATRIX @ block

    monkeypatch.setattr(_checkpoint.time, "monotonic", monotonic)
    written = []
    write = _checkpoint.Checkpoint.write
    monkeypatch.setattr(_checkpoint.Checkpoint, "write", lambda self, run: (written.append(run.size), write(self, run)))
    operator = rl.SymmetricOperator(multiply, 60, MATRIX)
    rl.lanczos(operator, 20, rng=1, checkpoint=tmp_path / "run.npz", checkpoint_interval=6)
    assert written == [6, 12, 18, 20]


def test_a_single_step_is_written(tmp_path):
    first = rl.lanczos(MATRIX, 1, rng=1, checkpoint=tmp_path / "run.npz")
    assert_same_bits(rl.lanczos(MATRIX, 1, rng=1, checkpoint=tmp_path / "run.npz"), first)
    calls = []
    operator = rl.SymmetricOperator(lambda block: calls.append(1) or MATRIX @ block, 60, MATRIX)
    assert rl.lanczos(operator, 2, rng=1, checkpoint=tmp_path / "run.npz").alpha[0] == first.alpha[0]
    assert len(calls) == 2  # one that the operator is known by, and the second step
