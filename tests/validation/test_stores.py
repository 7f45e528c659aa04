"""Sweeps of claims: in memory, or kept in a folder and gone on with."""

from pathlib import Path

import numpy as np
import pytest

from validation.stores import kept_in, swept


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
        with pytest.raises(RuntimeError, match="2 cells of a.b-smoke failed: .*not yet"):
            run(log, broken=str(broken))
        assert len(log.read_text().split()) == 6
        broken.write_text("mended")
        found = run(log, broken=str(broken))
    assert log.read_text().split()[6:] == ["3", "3"]  # what had failed, and nothing else
    np.testing.assert_array_equal(found.x, run(log).x)
    assert len(list(stores.iterdir())) == 1
    # Another seed of the run is another store, and outside nothing is kept.
    with kept_in(stores):
        run(log, seed=6)
    run(log, seed=7)
    assert len(list(stores.iterdir())) == 2
