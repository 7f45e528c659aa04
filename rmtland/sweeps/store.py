"""The Zarr store of a sweep: arrays over (*axes, trial, ...), written chunk by chunk, a completion mask last."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import MemoryStore

from rmtland._files import unused_name
from rmtland.sweeps.grids import Grid
from rmtland.sweeps.work import ERROR_BYTES, Batch, Schema, Variable

MISSING, DONE, FAILED = 0, 1, 2
FORMAT = 1
CHUNK_CELLS, CHUNK_BYTES = 4096, 2**20
ZARR_PARTIAL = re.compile(r"[^.]+\.[0-9a-f]{32}\.partial")
DIRTY_BYTES = 2**26
"""Results that wait in memory for the next flush at most."""


@contextlib.contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """What the system says of a write that fails, and what it means for the sweep."""
    try:
        yield
    except OSError as error:
        told = f"{error.strerror or error} while storing results; all cells stored before are safe, the same call goes"
        raise OSError(error.errno, f"{told} on from there", str(path)) from error


class ChunkedArray:
    """One array of the store, written in whole chunks from memory.

    A chunk holds cells that follow each other, so results that come about in order touch few chunks. Zarr replaces a
    chunk's file in one step: a kill leaves the old or the new one, and cells stored earlier in it are never at risk.

    Parameters
    ----------
    array : zarr.Array
        Of shape (*grid.shape, ...).
    ndim : int
        Number of grid axes, trials included.
    """

    def __init__(self, array: zarr.Array[Any], ndim: int) -> None:
        self.array = array
        self.grid_shape = array.shape[:ndim]
        self.chunk = array.chunks[:ndim]
        self.counts = tuple(-(-n // c) for n, c in zip(self.grid_shape, self.chunk, strict=True))
        self.buffers: dict[int, npt.NDArray[Any]] = {}
        self.dirty: set[int] = set()

    def region(self, number: int) -> tuple[slice, ...]:
        """Where a chunk lies."""
        where = np.unravel_index(number, self.counts)
        return tuple(
            slice(int(i) * c, min((int(i) + 1) * c, n))
            for i, c, n in zip(where, self.chunk, self.grid_shape, strict=True)
        )

    def read(self, number: int) -> npt.NDArray[Any]:
        """A chunk as the store has it, or as it waits to be written."""
        if number in self.buffers:
            return self.buffers[number]
        return np.array(self.array[self.region(number)])

    def put(self, cells: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Results of cells, given by their numbers, into the chunks' buffers."""
        if cells.size == 0:
            return
        where = np.unravel_index(cells, self.grid_shape)
        chunks = np.ravel_multi_index(tuple(i // c for i, c in zip(where, self.chunk, strict=True)), self.counts)
        within = tuple(i % c for i, c in zip(where, self.chunk, strict=True))
        for number in np.unique(chunks).tolist():
            if number not in self.buffers:
                self.buffers[number] = self.read(number)
            here = chunks == number
            self.buffers[number][tuple(i[here] for i in within)] = values[here]
            self.dirty.add(number)

    @property
    def dirty_bytes(self) -> int:
        """Bytes of the chunks that wait."""
        return sum(self.buffers[number].nbytes for number in self.dirty)

    def flush(self) -> None:
        """Write the chunks that have changed; forget those that have not since the last time."""
        for number in sorted(self.dirty):
            self.array[self.region(number)] = self.buffers[number]
        self.buffers = {number: self.buffers[number] for number in self.dirty}
        self.dirty = set()


def chunk_shape(grid_shape: tuple[int, ...], cells: int) -> tuple[int, ...]:
    """Chunks of about `cells` cells that follow each other in C order."""
    chunk, left = [], max(cells, 1)
    for n in reversed(grid_shape):
        chunk.append(min(n, left))
        left = left // n if left >= n else 1
    return tuple(reversed(chunk))


class SweepStore:
    """A sweep on disk, or in memory where `path` is None.

    Written by one process. The order of writing, data before status, makes a kill at any moment harmless: a cell whose
    status is missing is computed again, to the same bytes.
    """

    def __init__(self, group: zarr.Group, grid: Grid, path: Path | None) -> None:
        self.group = group
        self.grid = grid
        self.path = path
        ndim = len(grid.shape)
        self.status = ChunkedArray(_array(group, "status"), ndim)
        self.errors = ChunkedArray(_array(group, "_error"), ndim)
        self.schema = read_schema(group)
        self.variables: dict[str, ChunkedArray] = {}
        if self.schema:
            self._open_variables()
        self.flush_seconds = 0.0

    @classmethod
    def create(cls, path: Path | None, grid: Grid, attributes: dict[str, Any], units: dict[str, str]) -> SweepStore:
        """A new store, which appears whole under its name or not at all."""
        if path is None:
            group = zarr.open_group(MemoryStore(), mode="w")
            _fill(group, grid, attributes, units)
            return cls(group, grid, path)
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
    def open(cls, path: Path, grid: Grid) -> SweepStore:
        """A store that is there, for going on; its settings are compared by the caller."""
        for left in path.rglob("*.partial"):
            # A file that a kill left half written beside the one it was to replace: Zarr's names, nobody else's.
            if ZARR_PARTIAL.fullmatch(left.name) and left.is_file() and not left.is_symlink():
                left.unlink()
        return cls(zarr.open_group(path, mode="r+"), grid, path)

    def set_schema(self, schema: Schema, units: dict[str, str], coords: dict[str, npt.NDArray[Any]]) -> None:
        """Make the arrays that the first result calls for."""
        check_dims(schema, self.grid, coords)
        told = {name: [list(v.dims), list(v.shape), v.is_complex] for name, v in schema.items()}
        with writing(self.path):
            for name, values in coords.items():
                _write_coordinate(self.group, name, values, units)
            # First what is to be made, then the arrays: after a kill in between `open` makes those that are missing.
            self.group.attrs.update({"variables": json.dumps(told), "units": json.dumps(units)})
            self.schema = schema
            self._open_variables()

    def _open_variables(self) -> None:
        units = json.loads(str(self.group.attrs["units"]))
        for name, variable in self.schema.items():
            if name not in self.group:
                self._create_variable(name, variable, units)
            self.variables[name] = ChunkedArray(_array(self.group, name), len(self.grid.shape))

    def _create_variable(self, name: str, variable: Variable, units: dict[str, str]) -> None:
        each = math.prod(variable.shape) * variable.dtype.itemsize
        cells = min(CHUNK_CELLS, max(CHUNK_BYTES // max(each, 1), 1))
        self.group.create_array(
            name,
            shape=self.grid.shape + variable.shape,
            chunks=chunk_shape(self.grid.shape, cells) + tuple(max(n, 1) for n in variable.shape),
            dtype=variable.dtype,
            fill_value=complex(np.nan, np.nan) if variable.is_complex else np.nan,
            dimension_names=self.grid.dims + variable.dims,
            attributes={"units": units[name]} if name in units else {},
        )

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
        for number in range(math.prod(status.counts)):
            region = status.region(number)
            block = status.read(number)
            local = np.nonzero(np.isin(block, states))
            if local[0].size:
                where = tuple(i + r.start for i, r in zip(local, region, strict=True))
                yield np.ravel_multi_index(where, self.grid.shape).astype(np.int64)

    def counts(self) -> dict[int, int]:
        """How many cells are in each state."""
        total = np.zeros(3, dtype=np.int64)
        for number in range(math.prod(self.status.counts)):
            total += np.bincount(self.status.read(number).reshape(-1), minlength=3)
        return {MISSING: int(total[MISSING]), DONE: int(total[DONE]), FAILED: int(total[FAILED])}

    def error(self, cell: int) -> str:
        """What a failed cell raised."""
        return decode_error(self.errors.array[tuple(int(i) for i in np.unravel_index(cell, self.grid.shape))])


def decode_error(row: Any) -> str:
    """A row of the `_error` array as text."""
    return bytes(np.asarray(row, dtype=np.uint8)).rstrip(b"\0").decode(errors="ignore")


def read_schema(group: zarr.Group) -> Schema:
    """The variables that the first result called for; none before there is one."""
    told = json.loads(str(group.attrs.get("variables", "{}")))
    return {name: Variable(tuple(dims), tuple(shape), bool(c)) for name, (dims, shape, c) in told.items()}


def check_dims(schema: Schema, grid: Grid, coords: dict[str, npt.NDArray[Any]]) -> None:
    """ValueError where a result's axes clash with the grid's, with each other or with their coordinates."""
    lengths: dict[str, int] = {name: values.size for name, values in coords.items()}
    for name, variable in schema.items():
        if name in grid.dims or name in coords:
            raise ValueError(f"result `{name}` must not have the name of an axis")
        if len(set(variable.dims)) < len(variable.dims) or set(variable.dims) & {*grid.dims, *schema}:
            raise ValueError(f"axes of `{name}` must have names of their own; got {variable.dims}")
        for dim, length in zip(variable.dims, variable.shape, strict=True):
            if lengths.setdefault(dim, length) != length:
                raise ValueError(f"axis `{dim}` must have one length; got {lengths[dim]} and, in `{name}`, {length}")


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _fill(group: zarr.Group, grid: Grid, attributes: dict[str, Any], units: dict[str, str]) -> None:
    for name, axis in grid.axes.items():
        _write_coordinate(group, name, axis, units)
    group.create_array(
        "status",
        shape=grid.shape,
        chunks=chunk_shape(grid.shape, CHUNK_CELLS),
        dtype="uint8",
        fill_value=MISSING,
        dimension_names=grid.dims,
        attributes={"flag_values": [MISSING, DONE, FAILED], "flag_meanings": "missing done failed"},
    )
    group.create_array(
        "_error",
        shape=(*grid.shape, ERROR_BYTES),
        chunks=(*chunk_shape(grid.shape, 256), ERROR_BYTES),
        dtype="uint8",
        fill_value=0,
        dimension_names=(*grid.dims, "_byte"),
    )
    group.attrs.update({"sweep_format": FORMAT, "axes": json.dumps(list(grid.axes)), **attributes})


def _write_coordinate(group: zarr.Group, name: str, values: npt.NDArray[Any], units: dict[str, str]) -> None:
    array = group.create_array(
        name,
        overwrite=True,  # one that a kill left without its values
        shape=values.shape,
        chunks=(max(values.size, 1),),
        dtype=str if values.dtype.kind == "U" else values.dtype,
        dimension_names=(name,),
        attributes={"units": units[name]} if name in units else {},
    )
    array[:] = values
