"""Sweeps of a claim, kept beside its results: an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

_folder: ContextVar[Path | None] = ContextVar("folder of stores", default=None)


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep the sweeps of what runs inside in a folder; elsewhere they stay in memory."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


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

    seed, folder = int(rng.integers(2**31)), _folder.get()
    store = None if folder is None else folder / f"{name}-{seed}.zarr"
    if folder is not None:
        folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* cells failed", RuntimeWarning)  # it is an error here
        found = rl.sweep(function, grid, trials, seed=seed, store=store, fixed=fixed, workers=1, retry_failed=True)
    failed = int((found.status != 1).sum())
    if failed:
        why = "" if store is None else f": {rl.sweep_failures(store).error.iloc[0]}"
        raise RuntimeError(f"{failed} cells of {name} failed{why}")
    return found
