"""`sweep`: a function over a grid, trial by trial, stored as it goes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import zarr

from rmtland._arguments import flag, integer, real_path, require_memory, shown
from rmtland._lock import RunLock
from rmtland.sweeps import provenance
from rmtland.sweeps.arrays import DamageError
from rmtland.sweeps.grids import Grid, check_coords, check_grid
from rmtland.sweeps.members import read_coordinate, read_json, write_coordinate
from rmtland.sweeps.reading import is_sweep, open_group, to_dataset
from rmtland.sweeps.running import run
from rmtland.sweeps.store import DONE, FAILED, SweepStore, writing
from rmtland.sweeps.work import Task

if TYPE_CHECKING:
    import xarray as xr


def sweep(
    function: Callable[..., Any],
    grid: Mapping[str, Any],
    trials: int = 1,
    seed: int = 0,
    store: str | os.PathLike[str] | None = None,
    *,
    fixed: Mapping[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    coords: Mapping[str, npt.ArrayLike] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    retry_failed: bool = False,
    repair: bool = False,
    progress: bool | Callable[[int, int, int], None] | None = None,
) -> xr.Dataset:
    """Run a function over a grid of parameters, several trials at each point, resumably.

    Called again after an interruption, it computes only the cells that are missing and ends with the same bytes as a
    run that nothing disturbed. A cell is one trial at one point.

    Parameters
    ----------
    function : callable
        `function(**parameters, rng=numpy.random.Generator)`, returning a dict of names to numbers or arrays. The axes
        of an array `x` are called x_0, x_1, ...; a pair (names, array) names them. Names, shapes and axes are the same
        in every cell. Stored as float64 or complex128. Must be picklable (functions of a script or notebook and lambdas
        are) and depend on its arguments alone. A function without `rng` is deterministic: one trial.
    grid : mapping of str to sequence
        Parameter names to their values: numbers or texts. They become dimensions of the result, in this order.
    trials : int
        Independent repetitions at each point. A stored sweep may be gone on with, finished or not, with more of them.
    seed : int
        >= 0. Trial t at point i (C order of the grid) draws from SeedSequence(seed, spawn_key=(i, t)), whoever runs it.
    store : path, optional
        Folder of the Zarr store; made, or gone on with. None keeps everything in memory.
    fixed : mapping, optional
        Parameters that are the same everywhere; recorded.
    units : mapping, optional
        Name of an axis or a result to its unit.
    coords : mapping, optional
        Name of a result's own axis to its coordinates; no axis of the grid.
    workers : int, optional
        Processes on this machine (joblib's loky), by default one per processor; 1 runs everything in this process.
        Each has one BLAS, OpenMP and Numba thread.
    scheduler : str, optional
        Address of a dask.distributed scheduler, like tcp://host:8786, whose workers run the cells instead. This process
        alone writes the store: workers need no common file system.
    retry_failed : bool
        Run cells again that raised in an earlier call.
    repair : bool
        Read every number of the store first, and run those cells again whose numbers are lost or damaged.
    progress : bool or callable, optional
        A bar on the terminal (by default where there is one), or a function of (done, failed, total).

    Returns
    -------
    xarray.Dataset
        As `open_sweep` gives: dimensions (*grid, trial, *axes of the result), NaN at failed cells, the coordinate
        `status` (1 done, 2 failed), provenance in the attributes.

    Raises
    ------
    ValueError, TypeError
        For parameters that the function does not take, empty axes, a store made with other settings, ...
    BlockingIOError
        Where another run holds the store.
    FileExistsError
        Where a file or a link that this package did not make has the name of the store's lock, `<store>.lock`.
    OSError
        Where the results of all cells, a number each until the first says how large one is, are larger than what is
        free on the store's disk. Where the store cannot be written: nothing that was stored before is lost. Where it is
        damaged (a lost or changed file): the message names the cells, here or where their numbers are used.
    ConnectionError
        Where the scheduler cannot be reached, or is lost.
    RuntimeError
        Where every cell failed, workers keep dying or lack this package.

    Warns
    -----
    RuntimeWarning
        Where cells raised. Their errors are stored (`sweep_failures`), the others are not disturbed.

    Notes
    -----
    Cells are sent in batches of about half a second and stored within about a second of being done, each chunk of the
    store in one step, their status after their data: a kill at any moment loses at most that second. (Against a power
    cut only the file system protects.) Results that differ in shape from those of the first cell, or are not numbers,
    are failures of their cells. Memory does not grow with the number of cells.

    Examples
    --------
    >>> import rmtland as rl
    >>> def largest(n, rng):
    ...     return {"edge": rl.GaussianEnsemble(n).largest(rng=rng)[0]}
    >>> result = rl.sweep(largest, {"n": [10, 100, 1000]}, trials=20, workers=1)
    >>> dict(result.sizes)
    {'n': 3, 'trial': 20}
    >>> rl.summarize_sweep(result).edge.sel(statistic="mean").round(1).values
    array([1.7, 1.9, 2. ])
    """
    trials = integer("trials", trials, at_least=1)
    seed = integer("seed", seed, at_least=0, unbounded=True)
    if workers is not None:
        workers = integer("workers", workers, at_least=1)
    cells = check_grid(function, grid, trials, fixed)
    task = Task(function, cells, seed)
    told = _check_units(units)
    flag("retry_failed", retry_failed)
    flag("repair", repair)
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"`progress` must be None, True, False or a function of three counts; got {shown(progress)}")
    axes = check_coords(coords, cells)
    attributes = settings(task)
    if store is None:
        require_memory(
            f"the results of {cells.size} cells", 17.0 * cells.size, "give a `store`, or ask for fewer cells,"
        )
        kept = SweepStore.create(None, cells, attributes, told)
        run(kept, task, told, axes, workers, scheduler, progress)
        return _finished(kept)
    path = real_path("store", store)
    with RunLock(path, "sweep"):
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            check_settings(path, cells, attributes, axes, told, repair)
            kept = SweepStore.open(path, cells, repair)
            _note_versions(kept)
        else:
            kept = SweepStore.create(path, cells, attributes, told)
        if retry_failed:
            for failed in kept.cells(FAILED):
                kept.clear_errors(failed)
            kept.flush()
        run(kept, task, told, axes, workers, scheduler, progress)
        return _finished(kept)


def _check_units(units: Any) -> dict[str, str]:
    if units is not None and not isinstance(units, Mapping):
        raise TypeError(f"`units` must be a mapping of names to units; got {type(units).__name__}")
    for name, unit in (units or {}).items():
        if not isinstance(name, str) or not isinstance(unit, str):
            raise TypeError(f"`units` must be a mapping of names to units; got {shown(unit)} for {shown(name)}")
    return dict(units or {})


def settings(task: Task) -> dict[str, Any]:
    """Attributes of a store: what determines its numbers, and where they come from."""
    return {
        "function": provenance.qualified_name(task.function),
        "function_sha256": provenance.fingerprint(task.function),
        "seed": task.seed,
        "trials": task.grid.trials,
        "fixed": json.dumps(task.grid.fixed, sort_keys=True),
        "versions": provenance.versions(),
        "host": provenance.host(),
    }


def check_settings(
    path: Path,
    grid: Grid,
    attributes: dict[str, Any],
    coords: dict[str, npt.NDArray[Any]],
    units: dict[str, str],
    repair: bool,
) -> None:
    """ValueError naming how the store at `path` differs from what is asked for; damaged axes are repaired, if asked."""
    if not is_sweep(path):
        raise ValueError(f"`store` must be a new folder or a sweep's; {path} is something else")
    group = open_group(path)
    refused = f"the sweep at {path} was made with"
    elsewhere = "; name another store, or ask for the same"
    for key in ("function", "seed", "fixed"):
        if group.attrs[key] != attributes[key]:
            raise ValueError(f"{refused} `{key}` {group.attrs[key]}, not {attributes[key]}{elsewhere}")
    trials: Any = group.attrs["trials"]
    if trials > grid.trials:
        raise ValueError(f"{refused} `trials` {trials}, not {grid.trials}; name another store, or ask for no fewer")
    names = read_json(group, "axes", list)
    if names != list(grid.axes):
        raise ValueError(
            f"{refused} axes {', '.join(names) or 'none'}, not {', '.join(grid.axes) or 'none'}{elsewhere}"
        )
    own = read_json(group, "coords", list, "[]")
    for name in coords:
        if "variables" in group.attrs and name not in own:
            raise ValueError(f"{refused} no coordinates `{name}`{elsewhere}")
    for name, axis in {**grid.axes, **{k: v for k, v in coords.items() if k in own}}.items():
        try:
            stored = read_coordinate(group, name, path)
        except DamageError:
            if not repair:
                raise
            with writing(path):
                write_coordinate(zarr.open_group(path, mode="r+", use_consolidated=False), name, axis, units)
            continue
        same_kind = (stored.dtype.kind == "U") == (axis.dtype.kind == "U")
        if not same_kind or stored.shape != axis.shape or not (stored == axis).all():
            raise ValueError(f"{refused} `{name}` {_short(stored)}, not {_short(axis)}{elsewhere}")
    if group.attrs["function_sha256"] != attributes["function_sha256"]:
        raise ValueError(
            f"{refused} another source text of {attributes['function']}, or with other values bound to it{elsewhere}"
        )


def _short(values: npt.NDArray[Any]) -> str:
    told = [str(value) for value in values.tolist()]
    shown = told if len(told) <= 6 else [*told[:3], "...", *told[-2:]]
    return f"[{', '.join(shown)}] ({len(told)} values)"


def _note_versions(store: SweepStore) -> None:
    """Versions that a later call goes on with, where they are others."""
    known = [store.group.attrs["versions"], *read_json(store.group, "resumed_with", list, "[]")]
    now = provenance.versions()
    if now not in known:
        store.group.attrs["resumed_with"] = json.dumps([*known[1:], now])


def _finished(store: SweepStore) -> xr.Dataset:
    store.consolidate()
    counts = store.counts()
    if counts[FAILED]:
        first = int(next(store.cells(FAILED))[0])
        told = f"({store.grid.describe(first)}) {store.error(first)}"
        if counts[DONE] == 0:
            raise RuntimeError(f"all {counts[FAILED]} cells failed, the first: {told}")
        warnings.warn(
            f"{counts[FAILED]} of {store.grid.size} cells failed, the first: {told}; retry_failed=True runs them again",
            RuntimeWarning,
            stacklevel=3,
        )
    return to_dataset(store)
