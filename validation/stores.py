"""Sweeps of a claim, kept beside its results: an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

_folder: ContextVar[Path | None] = ContextVar("folder of stores", default=None)
_seed: ContextVar[int] = ContextVar("seed of the run", default=0)
WAIT_SECONDS = 0.5
"""Between two looks at what another run is at work on."""


@contextlib.contextmanager
def kept_in(folder: Path, seed: int = 0) -> Iterator[None]:
    """Keep the sweeps of what runs inside in a folder; elsewhere they stay in memory. `seed` is that of the run."""
    tokens = _folder.set(folder), _seed.set(seed)
    try:
        yield
    finally:
        _folder.reset(tokens[0])
        _seed.reset(tokens[1])


def folder() -> Path | None:
    """Where sweeps are kept."""
    return _folder.get()


def run_seed() -> int:
    """What the seeds of networks follow from that several claims share; a claim's own generator is no one else's."""
    return _seed.get()


def swept(
    name: str,
    function: Callable[..., Any],
    grid: Mapping[str, Any],
    trials: int,
    rng: np.random.Generator,
    *,
    shared_axes: int = 1,
    common: bool = False,
    **fixed: Any,
) -> xr.Dataset:
    """A sweep with a seed from `rng`, in parts that machines share, resumed where `kept_in` has some of it.

    Parameters
    ----------
    name : str
        Of the store, one for each scale of a claim: "sagun.table_1-smoke".
    function, grid, trials
        As `rmtland.sweep` takes them.
    rng : numpy.random.Generator
    shared_axes : int
        Each point of so many leading axes of the grid is a part with a store of its own. A run leaves out the parts
        that another run, here or on a machine that sees the same folder, is at work on, and waits for these in the
        end.
    common : bool
        Whether seed and store of a part follow from its own point and from `fixed` alone: sweeps of the same name over
        other points have it in common.
    **fixed
        Parameters that are the same everywhere.

    Returns
    -------
    xarray.Dataset

    Raises
    ------
    RuntimeError
        Where a cell failed; the same run tries it again.
    """
    seed, kept = int(rng.integers(2**31)), _folder.get()
    leading = list(grid)[:shared_axes]
    points = list(itertools.product(*(list(grid[axis]) for axis in leading)))
    # Other sizes are another sweep: results of an earlier version in the same folder are left alone.
    sizes = hashlib.sha256(repr((dict(grid), fixed)).encode()).hexdigest()[:8]
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    found: dict[int, xr.Dataset] = {}
    failed: list[str] = []
    waiting = list(range(len(points)))
    while waiting:
        busy = []
        for part in waiting:
            own = {**grid, **{axis: [value] for axis, value in zip(leading, points[part], strict=True)}}
            stem, child = f"{name}-{sizes}-{seed}", seed
            if common:
                digest = hashlib.sha256(repr((own, fixed)).encode()).hexdigest()[:8]
                stem = f"{name}-{digest}-{seed}"
                child = int(np.random.default_rng([seed, int(digest, 16)]).integers(2**31))
            elif len(points) > 1:
                stem, child = f"{stem}-{part}", int(np.random.default_rng([seed, part]).integers(2**31))
            store = None if kept is None else kept / f"{stem}.zarr"
            try:
                found[part] = _part(function, own, trials, child, store, fixed, failed)
            except BlockingIOError:
                busy.append(part)
        if busy == waiting:
            time.sleep(WAIT_SECONDS)
        waiting = busy
    if failed:
        # The sweep names parameters too, a recipe's in full: what went wrong is what one looks for.
        why = failed[0].partition(", trial ")[2].partition(") ")[2] or failed[0]
        raise RuntimeError(f"cells of {len(failed)} of {len(points)} parts of {name} failed, the first with {why}")
    return _joined([found[part] for part in range(len(points))], [(axis, len(grid[axis])) for axis in leading])


def _part(
    function: Callable[..., Any],
    grid: Mapping[str, Any],
    trials: int,
    seed: int,
    store: Path | None,
    fixed: Mapping[str, Any],
    failed: list[str],
) -> Any:
    """The sweep of one part; what of it failed is told in `failed`."""
    import rmtland as rl

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            found = rl.sweep(function, grid, trials, seed=seed, store=store, fixed=fixed, workers=1, retry_failed=True)
        except RuntimeError as error:  # all of its cells
            failed.append(str(error))
            return None
    for warning in told:
        if "cells failed" in str(warning.message):
            failed.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return found


def _joined(parts: list[xr.Dataset], axes: list[tuple[str, int]]) -> xr.Dataset:
    """Parts in the order of the grid as one sweep."""
    import xarray as xr

    for axis, length in reversed(axes):
        if length > 1:
            parts = [
                xr.concat(
                    parts[i : i + length], axis, data_vars="minimal", coords="minimal", compat="override",
                    join="exact", combine_attrs="override",
                )
                for i in range(0, len(parts), length)
            ]  # fmt: skip
    return parts[0]
