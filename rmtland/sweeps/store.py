"""The Zarr store of a sweep: arrays over (*axes, trial, ...), written chunk by chunk, a completion mask last."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from rmtland._arguments import require_memory
from rmtland._files import unused_name
from rmtland.sweeps.arrays import CODECS, ChunkedArray, DamageError, chunk_shape
from rmtland.sweeps.grids import Grid
from rmtland.sweeps.members import (
    REPAIR,
    has_array,
    read_json,
    read_schema,
    stored_array,
    write_coordinate,
)  # fmt: skip
from rmtland.sweeps.work import ERROR_BYTES, Batch, Schema

MISSING, DONE, FAILED = 0, 1, 2
FORMAT = 2
"""1, of the first versions, had no checksums."""
CHUNK_CELLS, CHUNK_BYTES = 4096, 2**20
ZARR_PARTIAL = re.compile(r"[^.]+\.[0-9a-f]{32}\.partial")
DIRTY_BYTES = 2**26
"""Results that wait in memory for the next flush at most."""


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """What the system says of a write that fails, and what it means for the sweep."""
    try:
        yield
    except DamageError:
        raise
    except OSError as error:
        told = f"{error.strerror or error} while storing results; all cells stored before are safe, the same call goes"
        raise OSError(error.errno, f"{told} on from there", str(path)) from error


def _require_disk(path: Path, cells: int, schema: Schema | None = None) -> None:
    """OSError where results of so many cells, which hardly compress, do not fit: days would go by until it is full.

    Before the first cell has told what a result is, it is a number at least.
    """
    each = 8 if schema is None else sum(math.prod(v.shape) * v.dtype.itemsize for v in schema.values())
    needed, place = cells * float(1 + each), path.absolute()
    while not place.exists():
        place = place.parent
    if needed > (free := shutil.disk_usage(place).free):
        raise OSError(
            f"results of {cells} cells need {needed / 2**30:.3g} GiB and {free / 2**30:.3g} GiB are free at {path}; "
            "ask for fewer `trials`, or name a `store` elsewhere"
        )


class SweepStore:
    """A sweep on disk, or in memory where `path` is None.

    Written by one process. The order of writing, data before status, makes a kill at any moment harmless: a cell whose
    status is missing is computed again, to the same bytes.
    """

    def __init__(self, group: zarr.Group, grid: Grid, path: Path | None) -> None:
        self.group = group
        self.grid = grid
        self.path = path
        self.status = self._chunked("status")
        self.errors = self._chunked("_error")
        self.schema = read_schema(group)
        # A kill may have come before all that the first result called for were made.
        self.variables = {name: self._chunked(name) for name in self.schema if has_array(group, name)}
        self.flush_seconds = 0.0

    def _chunked(self, name: str) -> ChunkedArray:
        return ChunkedArray(stored_array(self.group, name, self.path), self.grid, self.path)

    @classmethod
    def create(cls, path: Path | None, grid: Grid, attributes: dict[str, Any], units: dict[str, str]) -> SweepStore:
        """A new store, which appears whole under its name or not at all."""
        if path is None:
            group = zarr.open_group(MemoryStore(), mode="w")
            _fill(group, grid, attributes, units)
            return cls(group, grid, path)
        _require_disk(path, grid.size)
        with writing(path):
            partial = unused_name(path)
            partial.mkdir()  # no other process's, and nothing that was there
            try:
                _fill(zarr.open_group(partial, mode="w"), grid, attributes, units)
                if path.is_dir():
                    path.rmdir()  # an empty folder of the user's
                os.rename(partial, path)
            except BaseException:
                shutil.rmtree(partial)
                raise
        return cls(zarr.open_group(path, mode="r+"), grid, path)

    @classmethod
    def open(cls, path: Path, grid: Grid, repair: bool = False) -> SweepStore:
        """A store that is there, for going on; its settings are compared by the caller.

        Parameters
        ----------
        path : Path
        grid : Grid
            With as many trials as the store has, or more.
        repair : bool
            Have damaged and lost cells run again, instead of DamageError.
        """
        for left in path.rglob("*.partial"):
            # A file that a kill left half written beside the one it was to replace: Zarr's names, nobody else's.
            if ZARR_PARTIAL.fullmatch(left.name) and left.is_file() and not left.is_symlink():
                left.unlink()
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        trials: Any = group.attrs["trials"]
        _require_disk(path, grid.size // grid.trials * (grid.trials - trials), read_schema(group))
        with writing(path):
            if repair:
                _make_masks(group, grid)
            for name in ("status", "_error", *read_schema(group)):
                if has_array(group, name):
                    array = stored_array(group, name, path)
                    if array.shape[: len(grid.shape)] != grid.shape:
                        array.resize((*grid.shape, *array.shape[len(grid.shape) :]))
            if group.attrs["trials"] != grid.trials:
                group.attrs["trials"] = grid.trials  # last: a kill before leaves a store of as many trials as it had
            store = cls(group, grid, path)
            if repair:
                store.repair()
            else:
                store.check()
            store.make_variables()
        store.flush()
        return store

    def set_schema(self, schema: Schema, units: dict[str, str], coords: dict[str, npt.NDArray[Any]]) -> None:
        """Make the arrays that the first result calls for."""
        check_dims(schema, self.grid, coords)
        if self.path is not None:
            _require_disk(self.path, self.grid.size, schema)
        told = {name: [list(v.dims), list(v.shape), v.is_complex] for name, v in schema.items()}
        with writing(self.path):
            for name, values in coords.items():
                write_coordinate(self.group, name, values, units)
            # First what is to be made, then the arrays: after a kill in between `open` makes those that are missing.
            self.group.attrs.update(
                {"variables": json.dumps(told), "units": json.dumps(units), "coords": json.dumps(list(coords))}
            )
            self.schema = schema
            self.make_variables()

    def make_variables(self) -> None:
        """Make the arrays of results that are not there."""
        units = read_json(self.group, "units", dict, "{}")
        if self.path is None:
            each = sum(math.prod(v.shape) * v.dtype.itemsize for v in self.schema.values())
            # Kept here, and once more where they are used.
            needed = (2.0 * each + 1) * self.grid.size
            require_memory(f"results of {self.grid.size} cells", needed, "name a `store` for them")
        for name in self.schema:
            if name not in self.variables:
                self._create(name, units)
                self.variables[name] = self._chunked(name)

    def _create(self, name: str, units: dict[str, str]) -> None:
        variable = self.schema[name]
        each = math.prod(variable.shape) * variable.dtype.itemsize
        cells = min(CHUNK_CELLS, max(CHUNK_BYTES // max(each, 1), 1))
        self.group.create_array(
            name,
            overwrite=True,  # chunks of one whose metadata were lost
            shape=self.grid.shape + variable.shape,
            chunks=chunk_shape(self.grid.shape, cells) + tuple(max(n, 1) for n in variable.shape),
            dtype=variable.dtype,
            compressors=CODECS,
            fill_value=complex(np.nan, np.nan) if variable.is_complex else np.nan,
            dimension_names=self.grid.dims + variable.dims,
            attributes={"units": units[name]} if name in units else {},
        )

    def check(self) -> None:
        """DamageError where numbers of finished cells, or errors of failed ones, are not there."""
        for array, state in self._vouched():
            lost = [number for number in self._chunks(array, state) if not array.exists(number)]
            if lost:
                raise array.damage(lost, "is lost")
        lacking = [name for name in self.schema if name not in self.variables]
        if lacking and self.counts()[DONE]:
            raise DamageError(f"the sweep at {self.path} is damaged: `{lacking[0]}` is lost; {REPAIR}")

    def repair(self) -> None:
        """Read all there is; cells whose numbers are damaged or lost become missing."""
        for number in range(self.status.num_chunks):
            if not _readable(self.status, number):
                self.status.reset(number)
        for array, state in self._vouched():
            bad = [number for number in range(array.num_chunks) if not _readable(array, number)]
            lost = [number for number in self._chunks(array, state) if not array.exists(number)]
            for cells in list(self.cells(state)):
                self._forget(cells[np.isin(array.chunks_of(cells), bad + lost)])
            for number in bad:
                array.reset(number)
        if len(self.variables) < len(self.schema):
            for cells in list(self.cells(DONE)):
                self._forget(cells)

    def _vouched(self) -> list[tuple[ChunkedArray, int]]:
        """Arrays, and the state of the cells that they hold something of."""
        return [*((array, DONE) for array in self.variables.values()), (self.errors, FAILED)]

    def _chunks(self, array: ChunkedArray, state: int) -> list[int]:
        """Chunks of an array with cells in a state."""
        return sorted({number for cells in self.cells(state) for number in np.unique(array.chunks_of(cells)).tolist()})

    def _forget(self, cells: npt.NDArray[np.int64]) -> None:
        self.status.put(cells, np.full(cells.size, MISSING, dtype=np.uint8))

    def consolidate(self) -> None:
        """Copy the metadata of all arrays to the root, where other readers of Zarr look for them first."""
        if self.path is None or "consolidated_metadata" in json.loads((self.path / "zarr.json").read_text()):
            return
        with warnings.catch_warnings(), writing(self.path):
            warnings.simplefilter("ignore", ZarrUserWarning)  # that Zarr's third format does not specify it yet
            zarr.consolidate_metadata(self.group.store)

    def put(self, batch: Batch) -> None:
        """Take a batch; `flush` stores it."""
        failed = np.array(sorted(batch.errors), dtype=np.int64)
        done = np.setdiff1d(batch.cells, failed)
        kept = np.isin(batch.cells, done)
        for name, values in batch.columns.items():
            self.variables[name].put(batch.cells[kept], values[kept])
        if failed.size:
            texts = np.zeros((failed.size, ERROR_BYTES), dtype=np.uint8)
            for row, cell in zip(texts, failed.tolist(), strict=True):
                text = batch.errors[cell].encode()[:ERROR_BYTES]
                row[: len(text)] = np.frombuffer(text, dtype=np.uint8)
            self.errors.put(failed, texts)
        self.status.put(done, np.full(done.size, DONE, dtype=np.uint8))
        self.status.put(failed, np.full(failed.size, FAILED, dtype=np.uint8))

    def clear_errors(self, cells: npt.NDArray[np.int64]) -> None:
        """Forget the errors of cells that are about to run again."""
        self.errors.put(cells, np.zeros((cells.size, ERROR_BYTES), dtype=np.uint8))
        self.status.put(cells, np.full(cells.size, MISSING, dtype=np.uint8))

    @property
    def dirty_bytes(self) -> int:
        """Bytes that wait to be written."""
        return sum(array.dirty_bytes for array in (*self.variables.values(), self.errors, self.status))

    def flush(self) -> None:
        """Write what waits: data, then errors, then the status that vouches for them."""
        start = time.perf_counter()
        with writing(self.path):
            for array in (*self.variables.values(), self.errors, self.status):
                array.flush()
        self.flush_seconds = time.perf_counter() - start

    def cells(self, *states: int) -> Iterator[npt.NDArray[np.int64]]:
        """Numbers of the cells in these states, a chunk of the status at a time, ascending."""
        status = self.status
        for number in range(status.num_chunks):
            region = status.region(number)
            block = status.read(number)
            local = np.nonzero(np.isin(block, states))
            if local[0].size:
                where = tuple(i + r.start for i, r in zip(local, region, strict=True))
                yield np.ravel_multi_index(where, self.grid.shape).astype(np.int64)

    def counts(self) -> dict[int, int]:
        """How many cells are in each state."""
        total = np.zeros(3, dtype=np.int64)
        for number in range(self.status.num_chunks):
            total += np.bincount(self.status.read(number).reshape(-1), minlength=3)
        return {MISSING: int(total[MISSING]), DONE: int(total[DONE]), FAILED: int(total[FAILED])}

    def error(self, cell: int) -> str:
        """What a failed cell raised."""
        number = int(self.errors.chunks_of(np.array([cell]))[0])
        within = np.subtract(np.unravel_index(cell, self.grid.shape), [r.start for r in self.errors.region(number)])
        return bytes(self.errors.read(number)[tuple(within)]).rstrip(b"\0").decode(errors="ignore")


def _readable(array: ChunkedArray, number: int) -> bool:
    try:
        array.read(number)
    except DamageError:
        return False
    return True


def check_dims(schema: Schema, grid: Grid, coords: dict[str, npt.NDArray[Any]]) -> None:
    """ValueError where a result's axes clash with the grid's, with each other or with their coordinates."""
    lengths: dict[str, int] = {name: values.size for name, values in coords.items()}
    unused = [name for name in coords if not any(name in variable.dims for variable in schema.values())]
    if unused:
        own = ", ".join(dict.fromkeys(dim for variable in schema.values() for dim in variable.dims)) or "none"
        raise ValueError(f"`coords` must name axes of the results ({own}); got {', '.join(unused)}")
    for name, variable in schema.items():
        if name in grid.dims or name in coords:
            raise ValueError(f"result `{name}` must not have the name of an axis")
        if len(set(variable.dims)) < len(variable.dims) or set(variable.dims) & {*grid.dims, *schema}:
            raise ValueError(f"axes of `{name}` must have names of their own; got {variable.dims}")
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            if lengths.setdefault(dim, length) != length:
                raise ValueError(f"axis `{dim}` must have one length; got {lengths[dim]} and, in `{name}`, {length}")


def _fill(group: zarr.Group, grid: Grid, attributes: dict[str, Any], units: dict[str, str]) -> None:
    for name, axis in grid.axes.items():
        write_coordinate(group, name, axis, units)
    _make_masks(group, grid)
    group.attrs.update({"sweep_format": FORMAT, "axes": json.dumps(list(grid.axes)), **attributes})


def _make_masks(group: zarr.Group, grid: Grid) -> None:
    """Make the arrays that say what became of each cell, unless they are there."""
    if not has_array(group, "status"):
        group.create_array(
            "status",
            overwrite=True,
            shape=grid.shape,
            chunks=chunk_shape(grid.shape, CHUNK_CELLS),
            dtype="uint8",
            compressors=CODECS,
            fill_value=MISSING,
            dimension_names=grid.dims,
            attributes={"flag_values": [MISSING, DONE, FAILED], "flag_meanings": "missing done failed"},
        )
    if not has_array(group, "_error"):
        group.create_array(
            "_error",
            overwrite=True,
            shape=(*grid.shape, ERROR_BYTES),
            chunks=(*chunk_shape(grid.shape, 256), ERROR_BYTES),
            dtype="uint8",
            compressors=CODECS,
            fill_value=0,
            dimension_names=(*grid.dims, "_byte"),
        )
