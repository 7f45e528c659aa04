"""Arrays of a sweep's store: read and written in whole chunks, with checksums, damage named with its cells."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from rmtland.sweeps.grids import Grid

CODECS = (ZstdCodec(level=0), Crc32cCodec())
"""What every chunk goes through; the checksum is of the bytes on disk."""


class DamageError(OSError):
    """What a store holds is not what was written there."""


class ChunkedArray:
    """One array of the store, written in whole chunks from memory.

    A chunk holds cells that follow each other, so results that come about in order touch few chunks. Zarr replaces a
    chunk's file in one step: a kill leaves the old or the new one, and cells stored earlier in it are never at risk.

    Parameters
    ----------
    array : zarr.Array
        Of shape (*grid.shape, ...).
    grid : Grid
        To name cells by.
    path : Path or None
        Folder of the store; None in memory.
    """

    def __init__(self, array: zarr.Array[Any], grid: Grid, path: Path | None) -> None:
        self.array = array
        self.grid = grid
        self.path = path
        self.grid_shape = grid.shape
        ndim = len(grid.shape)
        self.chunk = array.chunks[:ndim]
        self.counts = tuple(-(-n // c) for n, c in zip(self.grid_shape, self.chunk, strict=True))
        self.buffers: dict[int, npt.NDArray[Any]] = {}
        self.dirty: set[int] = set()
        self.stored: set[int] = set()  # in memory; on disk there is a file for each

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
        if not self.exists(number):
            return self._fresh(number)
        try:
            return np.array(self.array[self.region(number)])
        except (OSError, MemoryError):
            raise
        except Exception as error:  # whatever the codecs say
            raise self.damage([number], f"cannot be read back ({error})") from None

    @property
    def num_chunks(self) -> int:
        """How many chunks there are."""
        return math.prod(self.counts)

    def chunks_of(self, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The chunk of each cell."""
        where = np.unravel_index(cells, self.grid_shape)
        parts = tuple(i // c for i, c in zip(where, self.chunk, strict=True))
        return np.asarray(np.ravel_multi_index(parts, self.counts), dtype=np.int64)

    def exists(self, number: int) -> bool:
        """Whether a chunk has ever been stored."""
        where = tuple(map(int, np.unravel_index(number, self.counts)))
        rest = (0,) * (self.array.ndim - len(where))
        if self.path is None:
            return number in self.stored
        return (self.path / self.array.path / self._key((*where, *rest))).exists()

    def _key(self, where: tuple[int, ...]) -> str:
        return self.array.metadata.encode_chunk_key(where)

    def damage(self, numbers: list[int], told: str) -> DamageError:
        """The error that names the cells of damaged chunks."""
        cells = []
        for number in numbers[:3]:
            region = self.region(number)
            first = np.ravel_multi_index([r.start for r in region], self.grid_shape)
            last = np.ravel_multi_index([r.stop - 1 for r in region], self.grid_shape)
            ends = (self.grid.describe(int(first)), self.grid.describe(int(last)))
            cells.append(f"({ends[0]})" if first == last else f"({ends[0]}) to ({ends[1]})")
        more = f" and {len(numbers) - 3} more chunks" if len(numbers) > 3 else ""
        return DamageError(
            f"the sweep at {self.path} is damaged: `{self.array.path}` of {', '.join(cells)}{more} {told}; "
            "sweep(..., repair=True) runs those cells again"
        )

    def reset(self, number: int) -> None:
        """Have a chunk of a damaged file start afresh."""
        self.buffers[number] = self._fresh(number)
        self.dirty.add(number)

    def _fresh(self, number: int) -> npt.NDArray[Any]:
        shape = tuple(r.stop - r.start for r in self.region(number)) + self.array.shape[len(self.grid_shape) :]
        return np.full(shape, self.array.fill_value, dtype=self.array.dtype)

    def touched(self, key: tuple[Any, ...]) -> list[int]:
        """Numbers of the chunks that an outer selection of cells reads."""
        per_axis = [
            np.unique(np.atleast_1d(np.arange(n)[part]) // c)
            for part, n, c in zip(key, self.grid_shape, self.chunk, strict=False)
        ]
        return [int(np.ravel_multi_index(where, self.counts)) for where in itertools.product(*per_axis)]

    def put(self, cells: npt.NDArray[np.int64], values: npt.NDArray[Any]) -> None:
        """Results of cells, given by their numbers, into the chunks' buffers."""
        if cells.size == 0:
            return
        where = np.unravel_index(cells, self.grid_shape)
        chunks = self.chunks_of(cells)
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
            if self.path is None:
                self.stored.add(number)
        self.buffers = {number: self.buffers[number] for number in self.dirty}
        self.dirty = set()


def chunk_shape(grid_shape: tuple[int, ...], cells: int) -> tuple[int, ...]:
    """Chunks of about `cells` cells that follow each other in C order."""
    chunk, left = [], max(cells, 1)
    for n in reversed(grid_shape):
        chunk.append(min(n, left))
        left = left // n if left >= n else 1
    return tuple(reversed(chunk))
