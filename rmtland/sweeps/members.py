"""What is in a sweep's store by name, attributes and arrays: damage to either is a named error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from rmtland.sweeps.arrays import CODECS, DamageError
from rmtland.sweeps.work import Schema, Variable

REPAIR = "sweep(..., repair=True) runs those cells again"


def read_json(group: zarr.Group, key: str, kind: type, default: str | None = None) -> Any:
    """What an attribute of the store says, a list or a dict; DamageError where it says nothing."""
    try:
        found = json.loads(str(group.attrs.get(key, default)))
    except ValueError:
        found = None
    if not isinstance(found, kind):
        raise unreadable(group, key)
    return found


def unreadable(group: zarr.Group, key: str) -> DamageError:
    """The error for an attribute that makes no sense."""
    where = getattr(group.store, "root", "memory")
    return DamageError(f"the sweep at {where} is damaged: its attribute `{key}` cannot be read")


def read_schema(group: zarr.Group) -> Schema:
    """The variables that the first result called for; none before there is one."""
    told = read_json(group, "variables", dict, "{}")
    try:
        return {name: Variable(tuple(dims), tuple(shape), bool(c)) for name, (dims, shape, c) in told.items()}
    except (TypeError, ValueError):
        raise unreadable(group, "variables") from None


def has_array(group: zarr.Group, name: str) -> bool:
    """Whether something of this name is in the store, with metadata that can be read."""
    try:
        return name in group
    except (OSError, MemoryError):
        raise
    except Exception:  # whatever becomes of metadata that make no sense
        return False


def stored_array(group: zarr.Group, name: str, path: Path | None) -> zarr.Array[Any]:
    """An array of the store; DamageError where it is lost."""
    if not has_array(group, name):
        raise DamageError(f"the sweep at {path} is damaged: `{name}` is lost; {REPAIR}")
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise DamageError(f"the sweep at {path} is damaged: `{name}` is no array; name another store")
    # A chunk that was stored is there, even if its results are all NaN. Errors are forgotten where cells run again.
    return array if name == "_error" else array.with_config({"write_empty_chunks": True})


def read_coordinate(group: zarr.Group, name: str, path: Path | None) -> npt.NDArray[Any]:
    """Values of an axis; DamageError where they are lost or damaged."""
    array = stored_array(group, name, path)
    try:
        # Zarr takes a file that is not there for zeros.
        if path is not None and not (path / name / array.metadata.encode_chunk_key((0,))).exists():
            raise ValueError("its file is lost")
        values = np.asarray(array[:])
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise DamageError(
            f"the sweep at {path} is damaged: axis `{name}` cannot be read back ({error}); "
            "sweep(..., repair=True) writes it again"
        ) from None
    return np.array(values.tolist()) if values.dtype.kind in "OT" else values  # texts


def write_coordinate(group: zarr.Group, name: str, values: npt.NDArray[Any], units: dict[str, str]) -> None:
    """Write the values of an axis, in place of any that are there."""
    array = group.create_array(
        name,
        overwrite=True,  # one that a kill left without its values
        shape=values.shape,
        chunks=values.shape,
        dtype=str if values.dtype.kind == "U" else values.dtype,
        compressors=CODECS,
        dimension_names=(name,),
        attributes={"units": units[name]} if name in units else {},
        config={"write_empty_chunks": True},
    )
    array[:] = values
