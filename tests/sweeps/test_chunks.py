"""Arrays written chunk by chunk, against an array that is written at once."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from rmtland.sweeps.arrays import ChunkedArray, DamageError, chunk_shape
from rmtland.sweeps.grids import Grid
from rmtland.sweeps.planning import SweepPlan, told_time

GRID = Grid({"a": np.array([1, 2, 3])}, 5, {})


class Stored:
    """What Zarr does for such an array."""

    path, chunks, ndim, fill_value, dtype = "x", (2, 3, 2), 3, -1.0, np.dtype(np.float64)

    def __init__(self):
        self.shape, self.values, self.writes = (3, 5, 2), np.full((3, 5, 2), -1.0), []

    def __getitem__(self, region):
        return self.values[region]

    def __setitem__(self, region, values):
        self.writes.append(region)
        self.values[region] = values


def chunk_of(i, j):
    return (i // 2) * 2 + j // 3


def test_chunks_are_where_their_cells_are():
    array = ChunkedArray(Stored(), GRID, None)
    assert (array.num_chunks, array.counts) == (4, (2, 2))
    expected = [chunk_of(i, j) for i, j in itertools.product(range(3), range(5))]
    np.testing.assert_array_equal(array.chunks_of(np.arange(15)), expected)
    for number in range(4):
        cells = np.arange(15).reshape(3, 5)[array.region(number)]
        assert cells.ravel().tolist() == [cell for cell in range(15) if expected[cell] == number]
    picks = (slice(None), slice(0, 3)), (2, 4), (np.array([0, 1]), slice(3, None)), (slice(2, 3), np.array([0, 4]))
    for key in picks:
        rows, columns = (np.atleast_1d(np.arange(n)[part]) for part, n in zip(key, (3, 5), strict=True))
        picked = np.arange(15).reshape(3, 5)[np.ix_(rows, columns)]
        assert array.touched(key) == sorted({expected[cell] for cell in picked.ravel()})


def test_what_was_put_is_read_before_and_after_it_is_written():
    stored, rng, whole = Stored(), np.random.default_rng(0), np.full((15, 2), -1.0)
    array = ChunkedArray(stored, GRID, None)
    order = rng.permutation(15)
    done = []
    for part in (order[:1], order[1:4], order[:0], order[4:11], order[2:6]):
        whole[part] = rng.normal(size=(part.size, 2))
        array.put(part, whole[part])
        changed = {chunk_of(*divmod(int(cell), 5)) for cell in part}
        done.append(sorted(changed))
        assert array.dirty == changed
        assert array.dirty_bytes == sum(whole.reshape(3, 5, 2)[array.region(n)].nbytes for n in changed)
        for number in range(4):
            np.testing.assert_array_equal(array.read(number), whole.reshape(3, 5, 2)[array.region(number)])
        del stored.writes[:]
        array.flush()
        assert stored.writes == [array.region(number) for number in sorted(changed)]
        assert array.dirty_bytes == 0
        np.testing.assert_array_equal(stored.values.reshape(15, 2), whole)
        # What has just been written may be written to again: it is kept until the next time.
        assert set(array.buffers) == changed
    assert [array.exists(number) for number in range(4)] == [number in set().union(*done) for number in range(4)]
    array.reset(0)
    assert (array.read(0) == -1).all()
    array.flush()
    assert (stored.values[:2, :3] == -1).all()


def test_damage_names_three_chunks_by_their_cells():
    array = ChunkedArray(Stored(), GRID, Path("here"))
    assert isinstance(array.damage([0], "is lost"), DamageError)
    told = str(array.damage([3], "is lost"))
    assert told.startswith("the sweep at here is damaged: `x` of (a=3, trial 3) to (a=3, trial 4) is lost; sweep(...")
    told = str(array.damage([0, 1, 2], "is lost"))
    assert "(a=1, trial 0) to (a=2, trial 2), (a=1, trial 3) to (a=2, trial 4), (a=3, trial 0) to" in told
    assert "more" not in told
    assert "trial 2) and 1 more chunks is lost" in str(array.damage([0, 1, 2, 3], "is lost"))
    single = Stored()
    single.chunks = (1, 1, 2)
    assert "`x` of (a=2, trial 1) is lost" in str(ChunkedArray(single, GRID, None).damage([6], "is lost"))


@pytest.mark.parametrize(
    ("cells", "shape"),
    [(0, (1, 1, 1)), (1, (1, 1, 1)), (4, (1, 1, 4)), (5, (1, 1, 5)), (9, (1, 1, 5)), (10, (1, 2, 5)), (19, (1, 3, 5)),
     (20, (1, 4, 5)), (39, (1, 4, 5)), (40, (2, 4, 5)), (60, (3, 4, 5)), (10**6, (3, 4, 5))],
)  # fmt: skip
def test_chunks_hold_cells_that_follow_each_other(cells, shape):
    assert chunk_shape((3, 4, 5), cells) == shape
    assert chunk_shape((), cells) == ()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0123, "0.012 seconds"),
        (119.4, "1.2e+02 seconds"),
        (120.0, "2.0 minutes"),
        (7199.0, "120.0 minutes"),
        (7200.0, "2.0 hours"),
        (172799.0, "48.0 hours"),
        (172800.0, "2.0 days"),
        (1e7, "115.7 days"),
    ],
)
def test_times_are_told_in_the_largest_unit_of_which_there_are_two(seconds, told):
    assert told_time(seconds) == told


def test_a_plan_in_words(monkeypatch):
    monkeypatch.setattr("rmtland.sweeps.planning.available_memory", lambda: 2**20)
    plan = SweepPlan({"a": 3000, "trial": 4}, int(0.89 * 2**20), 0.25, 2, {"x": "", "y": "[k 3]"})
    assert (plan.num_cells, plan.seconds) == (12000, 1500.0)
    assert str(plan) == (
        "cells     12,000 (a 3,000 x trial 4)\n"
        "results   x, y[k 3]\n"
        "size      0.9 MiB before compression; they fit in memory\n"
        "one cell  0.25 s (in the middle of the grid, one thread)\n"
        "estimate  25.0 minutes with 2 workers"
    )
    more = SweepPlan({"trial": 1}, int(0.91 * 2**20), 1.0, 1, {"x": ""})
    assert "they do not fit in memory: open_sweep reads in parts" in str(more)
    assert str(more).endswith("estimate  1 seconds with 1 worker")
