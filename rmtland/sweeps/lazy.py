"""A sweep's store as xarray sees it: numbers are read when they are used, and what is damaged is named then."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from rmtland.sweeps.arrays import ChunkedArray
from rmtland.sweeps.members import read_coordinate, read_json
from rmtland.sweeps.store import DONE, SweepStore

INTERNAL = ("variables", "units", "axes", "coords", "sweep_format")
"""Attributes that say how the store is built."""


class StoredArray(BackendArray):
    """An array of the store; `status` vouches for its cells where given."""

    def __init__(self, chunked: ChunkedArray, status: ChunkedArray | None) -> None:
        self.chunked = chunked
        self.status = status
        # In the midst of more trials being made room for, arrays differ in length.
        self.shape = (*chunked.grid_shape, *chunked.array.shape[len(chunked.grid_shape) :])
        self.dtype = chunked.array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        lost = []
        if self.status is not None:
            absent = [number for number in self.chunked.touched(key) if not self.chunked.exists(number)]
            lost = [n for n in absent if (np.asarray(self.status.array[self.chunked.region(n)]) == DONE).any()]
        if lost:
            raise self.chunked.damage(lost, "is lost")
        # Not beyond the cells that there are: of arrays that grow, some are longer already.
        within = [slice(*part.indices(n)) if isinstance(part, slice) else part
                  for part, n in zip(key, self.shape, strict=True)]  # fmt: skip
        try:
            return np.asarray(self.chunked.array.oindex[tuple(within)])
        except (OSError, MemoryError):
            raise
        except Exception:  # whatever the codecs say
            for number in self.chunked.touched(key):
                self.chunked.read(number)  # which names the cells of the damaged one
            raise


class SweepBackend(BackendEntrypoint):
    """What `xarray.open_dataset` asks for a dataset."""

    def open_dataset(self, store: SweepStore, *, drop_variables: Any = None) -> xr.Dataset:  # type: ignore[override]
        """Axes and status as coordinates, results in the order of the function."""
        group, path = store.group, store.path

        def lazy(chunked: ChunkedArray, dims: tuple[str, ...], status: ChunkedArray | None) -> xr.Variable:
            array = StoredArray(chunked, status)
            return xr.Variable(dims, indexing.LazilyIndexedArray(array), dict(chunked.array.attrs))

        names = [*store.grid.axes, *read_json(group, "coords", list, "[]")]
        coords = {
            name: xr.Variable((name,), read_coordinate(group, name, path), dict(group[name].attrs)) for name in names
        }
        coords["status"] = lazy(store.status, store.grid.dims, None)
        results = {
            name: lazy(chunked, store.grid.dims + store.schema[name].dims, store.status)
            for name, chunked in store.variables.items()
        }
        attributes = {key: value for key, value in group.attrs.items() if key not in INTERNAL}
        return xr.Dataset(results, coords, attributes)
