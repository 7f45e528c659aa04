"""Sweeps of a claim, kept beside its results: an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
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


@contextlib.contextmanager
def waiting(name: str) -> Iterator[None]:
    """Wait until no other claim is at work on this store, which would otherwise refuse a second run."""
    kept = _folder.get()
    if kept is None:
        yield
        return
    from filelock import FileLock

    kept.mkdir(exist_ok=True)
    with FileLock(kept / f"{name}.wait"):
        yield


def swept(
    name: str,
    function: Callable[..., Any],
    grid: Mapping[str, Any],
    trials: int,
    rng: np.random.Generator,
    **fixed: Any,
) -> xr.Dataset:
    """A sweep with a seed from `rng`, one process, resumed where `kept_in` has some of it.

    Parameters
    ----------
    name : str
        Of the store, one for each scale of a claim: "sagun.table_1-smoke".
    function, grid, trials
        As `rmtland.sweep` takes them.
    rng : numpy.random.Generator
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
    import rmtland as rl

    seed, kept = int(rng.integers(2**31)), _folder.get()
    # Other sizes are another sweep: results of an earlier version in the same folder are left alone.
    sizes = hashlib.sha256(repr((dict(grid), fixed)).encode()).hexdigest()[:8]
    store = None if kept is None else kept / f"{name}-{sizes}-{seed}.zarr"
    if kept is not None:
        kept.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* cells failed", RuntimeWarning)  # it is an error here
        found = rl.sweep(function, grid, trials, seed=seed, store=store, fixed=fixed, workers=1, retry_failed=True)
    failed = int((found.status != 1).sum())
    if failed:
        why = "" if store is None else f": {rl.sweep_failures(store).error.iloc[0]}"
        raise RuntimeError(f"{failed} cells of {name} failed{why}")
    return found
