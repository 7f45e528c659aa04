"""The Zarr store of a training record: arrays over (step, ...) that grow row by row, each row whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import path as named_path
from rmtland._files import replace_text

if TYPE_CHECKING:
    import xarray as xr
    import zarr

FORMAT = 1
CHUNK_STEPS = 64

Rows = Mapping[str, tuple[tuple[str, ...], npt.NDArray[np.float64]]]
"""Name to (names of the axes beyond `step`, numbers)."""


class RecordStore:
    """Rows on disk, appended one at a time.

    A row is written into the arrays first, which are longer on disk. What makes it part of the record is the metadata
    of all arrays together, one file that is replaced in one step: a kill at any moment leaves the rows before, and
    readers see nothing else.

    Parameters
    ----------
    path : Path
        Not there, an empty folder, or a record.
    identity : dict
        What two records that are one must share.

    Raises
    ------
    ValueError
        For a path that holds something else, or a record of another identity.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self.steps: list[int] = []
        self._arrays: dict[str, zarr.Array[Any]] = {}
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            attributes = read_attributes(path)
            if attributes["identity"] != self.identity:
                there = attributes["identity"]
                names = sorted(set(there) | set(self.identity))
                name = next(name for name in names if there.get(name) != self.identity.get(name))
                raise ValueError(
                    f"`path` must hold a record of the same `{name}` to go on with, {self.identity.get(name)!r}; "
                    f"{path} has {there.get(name)!r}"
                )
            for left in path.rglob("*.partial"):
                left.unlink()  # a file that a kill left half written beside the one it was to replace
            self.steps = [int(step) for step in open_record(path)["step"].to_numpy()]

    def append(self, step: int, rows: Rows, coords: Mapping[str, npt.NDArray[Any]]) -> None:
        """Store a row for a step after all others; the arrays are made with the first."""
        if not self.steps and not (self.path / "zarr.json").exists():
            self._create(rows, coords)
        place = len(self.steps)
        everything: dict[str, Any] = {name: values for name, (_, values) in rows.items()} | {"step": step}
        for name, values in everything.items():
            array = self._array(name)
            if array.shape[1:] != np.shape(values):
                raise ValueError(
                    f"`path` must hold a record of the same network and examples; {self.path} has {name} of shape "
                    f"{array.shape[1:]}, not {np.shape(values)}"
                )
            if place >= array.shape[0]:
                array.resize((place + CHUNK_STEPS, *array.shape[1:]))
            array[place] = values
        _commit(self.path, place + 1)
        self.steps.append(step)

    def _array(self, name: str) -> zarr.Array[Any]:
        """An array as it lies on disk, opened once."""
        import zarr

        if name not in self._arrays:
            self._arrays[name] = zarr.open_array(self.path / name, mode="r+")
        return self._arrays[name]

    def _create(self, rows: Rows, coords: Mapping[str, npt.NDArray[Any]]) -> None:
        import zarr

        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".rmtland-", dir=self.path.parent))
        partial.chmod(0o755)
        group = zarr.open_group(partial, mode="w")
        _make(group, "step", ("step",), (0,), "int64")
        for name, values in coords.items():
            kind = str if values.dtype.kind == "U" else values.dtype
            _make(group, name, (name,), values.shape, kind)[:] = values
        for name, (dims, values) in rows.items():
            _make(group, name, ("step", *dims), (0, *values.shape), "float64")
        group.attrs.update({"record_format": FORMAT, "identity": json.dumps(self.identity)})
        with warnings.catch_warnings():
            # Consolidated metadata is zarr's own and xarray's, not yet in the specification of the format.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            zarr.consolidate_metadata(partial)
        try:
            if self.path.is_dir():
                self.path.rmdir()  # an empty folder of the user's
            os.rename(partial, self.path)
        except OSError:
            shutil.rmtree(partial)
            raise ValueError(
                f"`path` must belong to one process alone; another has begun a record in {self.path} meanwhile (of "
                "several ranks one keeps the record)"
            ) from None


def _make(group: zarr.Group, name: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: Any) -> zarr.Array[Any]:
    chunks = (CHUNK_STEPS, *shape[1:]) if dims[0] == "step" else shape
    return group.create_array(
        name,
        shape=shape,
        chunks=tuple(max(n, 1) for n in chunks),
        dtype=dtype,
        fill_value=np.nan if dtype == "float64" else "" if dtype is str else 0,
        dimension_names=dims,
    )


def _commit(path: Path, num_rows: int) -> None:
    """Let readers see so many rows."""
    metadata = json.loads((path / "zarr.json").read_text())
    for array in metadata["consolidated_metadata"]["metadata"].values():
        if array["dimension_names"][0] == "step":
            array["shape"][0] = num_rows
    replace_text(path / "zarr.json", json.dumps(metadata))


def read_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a record; ValueError for anything else."""
    import zarr

    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (OSError, ValueError, KeyError, TypeError):
        attributes = {}
    if attributes.get("record_format") != FORMAT:
        raise ValueError(f"`path` must be new, an empty folder or a training record; got {path}")
    return {**attributes, "identity": json.loads(str(attributes["identity"]))}


def open_record(path: str | os.PathLike[str]) -> xr.Dataset:
    """The record in a folder, as far as it is.

    Parameters
    ----------
    path : path
        As `TrainingRecord` was given it.

    Returns
    -------
    xarray.Dataset
        Over (step, split, ...); numbers are read when they are asked for. `xarray.open_zarr` opens it too.

    Raises
    ------
    ValueError
        For a folder that holds no record.

    Examples
    --------
    >>> import rmtland as rl
    >>> rl.nets.open_record("nowhere")
    Traceback (most recent call last):
        ...
    ValueError: `path` must be new, an empty folder or a training record; got nowhere
    """
    import xarray as xr

    read_attributes(named_path("path", path))
    dataset: xr.Dataset = xr.open_zarr(path, chunks=None, consolidated=True)
    return dataset
