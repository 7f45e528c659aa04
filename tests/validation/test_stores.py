"""Sweeps of claims: in memory, or kept in a folder and gone on with."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rmtland as rl
from validation import networks
from validation.fort_ganguli import figure_3a
from validation.results import run_claim
from validation.stores import kept_in, swept

ROOT = Path(__file__).parents[2]


def cell(a, log, broken, rng):
    with open(log, "a") as file:
        file.write(f"{a}\n")
    if broken != "no" and a == 3 and not Path(broken).read_text():
        raise ValueError("not yet")
    return {"x": a + rng.random()}


def run(log, trials=2, broken="no", seed=5):
    return swept("a.b-smoke", cell, {"a": [1, 2, 3]}, trials, np.random.default_rng(seed), log=str(log), broken=broken)


def test_in_memory_nothing_is_kept(tmp_path):
    first, second = run(tmp_path / "log"), run(tmp_path / "log")
    np.testing.assert_array_equal(first.x, second.x)
    assert len((tmp_path / "log").read_text().split()) == 12
    assert not np.array_equal(run(tmp_path / "log", seed=6).x, first.x)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_an_interrupted_run_goes_on(tmp_path):
    log, stores, broken = tmp_path / "log", tmp_path / "stores", tmp_path / "broken"
    broken.write_text("")
    with kept_in(stores):
        with pytest.raises(
            RuntimeError, match="cells of 1 of 3 parts of a.b-smoke failed, the first with ValueError: not yet"
        ):
            run(log, broken=str(broken))
        assert len(log.read_text().split()) == 6
        broken.write_text("mended")
        found = run(log, broken=str(broken))
    assert log.read_text().split()[6:] == ["3", "3"]  # what had failed, and nothing else
    np.testing.assert_array_equal(found.x, run(log).x)
    assert found.a.to_numpy().tolist() == [1, 2, 3]
    assert len(list(stores.iterdir())) == 3  # a part for each value of the first axis
    # Another seed of the run is another store, and outside nothing is kept.
    with kept_in(stores):
        run(log, seed=6)
    run(log, seed=7)
    assert len(list(stores.iterdir())) == 6


def test_parts_are_joined_in_the_order_of_the_grid(tmp_path):
    def told(name, size, k, rng):
        return {"at": (("axis",), np.array([size, k])), "drawn": rng.random()}

    grid = {"name": ["z", "a"], "size": [3, 1, 2], "k": [5, 6]}
    found = [
        swept("a.b", told, grid, 2, np.random.default_rng(1), shared_axes=shared).transpose("name", "size", "k", ...)
        for shared in (1, 2, 3)
    ]
    for one in found:
        assert one.name.to_numpy().tolist() == grid["name"]
        np.testing.assert_array_equal(one["at"][..., 0].values[:, :, :, 0], [[[3, 3], [1, 1], [2, 2]]] * 2)
        np.testing.assert_array_equal(one["at"][..., 1].values[:, :, :, 1], [[[5, 6]] * 3] * 2)
        assert np.unique(one.drawn).size == 24, "draws of parts are independent"


def drawn(a, b, scale, log, rng):
    with open(log, "a") as file:
        file.write(f"{a} {b}\n")
    return {"x": scale * rng.random()}


def test_parts_in_common_are_the_same_whatever_else_the_grid_has(tmp_path):
    log = tmp_path / "log"

    def grid(a, scale=1.0, seed=1):
        rng = np.random.default_rng(seed)
        return swept("a.b", drawn, {"a": a, "b": [5, 6]}, 2, rng, common=True, scale=scale, log=str(log)).x.to_numpy()

    with kept_in(tmp_path / "stores"):
        first, second = grid([1, 2]), grid([3, 2, 1])
        np.testing.assert_array_equal(second[[2, 1]], first)
        assert log.read_text().split("\n")[8:-1] == ["3 5", "3 5", "3 6", "3 6"]
        assert np.unique(second).size == 12, "draws of parts are independent"
        assert not np.isin(grid([1], seed=2), first).any()
        assert not np.isin(grid([1], scale=2.0) / 2, first).any()
    np.testing.assert_array_equal(grid([2]), first[1:])  # in memory too


def claim(out, log, last=0):
    """Three networks at three stages each, and a line in the log for each training and measurement, before the last."""
    recipe = networks.Recipe(data="digits", classes=3, examples=60, hidden=(4,), stages=(0, 2, 4))
    statistics, stepping, calls = rl.output_statistics, networks.stepping, []

    def counted(source):
        calls.append(1)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as file:
            file.write("measured\n")
        return statistics(source)

    def logged(*arguments):
        with log.open("a") as file:
            file.write("trained\n")
        return stepping(*arguments)

    out.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figure_3a.RECIPES, "smoke", recipe)
        patch.setattr(rl, "output_statistics", counted)
        patch.setattr(networks, "stepping", logged)
        result = run_claim("fort_ganguli.figure_3a", "smoke", 0, out)
    assert result["error"] is None, result["error"]


KILLED = """
import sys
from pathlib import Path
from tests.validation.test_stores import claim
claim(Path(sys.argv[1]), Path(sys.argv[2]), last=5)
"""


@pytest.mark.slow
def test_a_claim_killed_in_the_middle_goes_on(tmp_path):
    """The first run dies in the second stage of the second network."""
    log, whole = tmp_path / "log", tmp_path / "whole.log"
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(log)], cwd=ROOT, capture_output=True, text=True
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not list((tmp_path / "out").glob("*.json"))
    before = log.read_text().split()
    assert before == ["trained"] * 3 + ["measured"] * 4
    claim(tmp_path / "out", log)
    again = log.read_text().split()[len(before) :]
    assert "trained" not in again
    # The first network's measurements are there; of the second's one may not have been written yet.
    assert 5 <= len(again) <= 6
    claim(tmp_path / "other", whole)
    first, second = (
        json.loads((tmp_path / folder / "fort_ganguli.figure_3a.json").read_text()) for folder in ("out", "other")
    )
    assert [c["estimate"] for c in first["checks"]] == [c["estimate"] for c in second["checks"]]
    assert first["conclusions"] == second["conclusions"]


SHARING = """
import os, sys, time
from pathlib import Path
import numpy as np
from validation import stores

def cell(a, log, rng):
    with open(log, "a") as file:
        file.write(f"{a} {os.getpid()}\\n")
    # Until the other run has come, so that it finds this part taken.
    while len({line.split()[1] for line in Path(log).read_text().splitlines() if " " in line}) < 2:
        time.sleep(0.01)
    return {"x": a + rng.random()}

with stores.kept_in(Path(sys.argv[1])):
    found = stores.swept("a.b", cell, {"a": list(range(6))}, 1, np.random.default_rng(0), log=sys.argv[2])
print(found.x.values.tolist())
"""


@pytest.mark.slow
def test_two_runs_share_a_sweep(tmp_path):
    log = tmp_path / "log"
    log.touch()
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SHARING, str(tmp_path / "stores"), str(log)], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert told[0][0] == told[1][0]
    cells, processes = zip(*(line.split() for line in log.read_text().splitlines()), strict=True)
    assert sorted(cells) == list("012345"), "every cell once"
    assert len(set(processes)) == 2
