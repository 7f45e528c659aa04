"""Reading a sweep: the dataset, its failures, its means with errors over trials."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from rmtland._arguments import Seed, generator, integer, real, real_path, require_memory
from rmtland.sweeps.arrays import DamageError
from rmtland.sweeps.grids import Grid
from rmtland.sweeps.members import read_coordinate, read_json, unreadable
from rmtland.sweeps.store import FAILED, FORMAT, SweepStore

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

BLOCK = 2**22
"""Numbers that a summary reads at a time."""


def is_sweep(path: Path) -> bool:
    """Whether a sweep's store is at `path`."""
    try:
        return "sweep_format" in zarr.open_group(path, mode="r", use_consolidated=False).attrs
    except (OSError, ValueError, KeyError):
        return False


NEEDED = ("axes", "trials", "fixed", "function", "function_sha256", "seed", "versions", "host")
"""Attributes of every store, besides those that come with the first result."""


def open_group(path: Path) -> zarr.Group:
    """The store at `path`, for reading; an error by name where it is no sweep, of another format or damaged."""
    if not path.exists():
        raise FileNotFoundError(f"`store` must be a sweep's folder; found nothing at {path}")
    if not is_sweep(path):
        raise ValueError(f"`store` must be a sweep's folder; {path} is something else")
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    found = group.attrs["sweep_format"]
    if found != FORMAT:
        raise ValueError(
            f"`store` must have format {FORMAT}, which this version of rmtland writes; {path} has {found}: name "
            "another store, or read it with xarray.open_zarr"
        )
    lacking = [key for key in NEEDED if key not in group.attrs]
    if lacking:
        raise DamageError(f"the sweep at {path} is damaged: it lacks its attribute `{lacking[0]}`")
    if not isinstance(group.attrs["trials"], int):
        raise unreadable(group, "trials")
    return group


def read_store(path: Path) -> SweepStore:
    """The store at `path`, for reading."""
    group = open_group(path)
    axes = {name: read_coordinate(group, name, path) for name in read_json(group, "axes", list)}
    trials: Any = group.attrs["trials"]
    return SweepStore(group, Grid(axes, trials, read_json(group, "fixed", dict)), path)


def open_sweep(store: str | os.PathLike[str]) -> xr.Dataset:
    """A sweep as a dataset, lazily: numbers are read when they are used. A run that is still going on can be read too.

    Parameters
    ----------
    store : path
        Folder of the store.

    Returns
    -------
    xarray.Dataset
        Dimensions (*grid, trial, *axes of the result); coordinate `status` (0 missing, 1 done, 2 failed); NaN where a
        cell is not done. Attributes: function, source_sha256, seed, trials, fixed, versions, host (JSON where there are
        several).

    Raises
    ------
    FileNotFoundError, ValueError
        Where no sweep is, or one of another format.
    OSError
        Where the store is damaged (a lost or changed file): here, or where the numbers are used that it concerns; the
        message names their cells. `sweep(..., repair=True)` runs them again.
    """
    return to_dataset(read_store(real_path("store", store)))


def to_dataset(store: SweepStore) -> xr.Dataset:
    """What a sweep wrote as a dataset."""
    import xarray as xr

    from rmtland.sweeps.lazy import SweepBackend

    store.check()
    dataset: xr.Dataset = xr.open_dataset(store, engine=SweepBackend)  # type: ignore[arg-type]
    return dataset


def sweep_failures(store: str | os.PathLike[str]) -> pd.DataFrame:
    """The cells that raised: their parameters, trial and error.

    Parameters
    ----------
    store : path
        Folder of the store.

    Returns
    -------
    pandas.DataFrame
        A row per failed cell with the columns (*grid, trial, error); errors are cut at 512 bytes.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As `open_sweep`.
    """
    import pandas as pd

    kept = read_store(real_path("store", store))
    kept.check()
    cells = np.concatenate([np.empty(0, dtype=np.int64), *kept.cells(FAILED)])
    where = np.stack(np.unravel_index(cells, kept.grid.shape), axis=1)
    table: dict[str, Any] = {name: axis[where[:, i]] for i, (name, axis) in enumerate(kept.grid.axes.items())}
    table["trial"] = where[:, -1]
    table["error"] = [kept.error(cell) for cell in cells.tolist()]
    return pd.DataFrame(table)


def summarize_sweep(dataset: xr.Dataset, *, level: float = 0.95, num_bootstrap: int = 999, rng: Seed = 0) -> xr.Dataset:
    """Means over trials with standard errors and bootstrap intervals.

    Parameters
    ----------
    dataset : xarray.Dataset
        From `sweep` or `open_sweep`. Real results only; complex ones are left out.
    level : float
        Coverage of the intervals, between 0 and 1.
    num_bootstrap : int
        Of the trials, for the intervals.
    rng : seed
        Of the resampling, the same at every point.

    Returns
    -------
    xarray.Dataset
        The variables with `trial` replaced by `statistic`: "mean", "standard_error", "low", "high"; and `num_trials`
        (*grid), the number of trials done. NaN results count as absent. Of fewer than two, standard errors and
        intervals are NaN.

    Raises
    ------
    ValueError
        For a dataset without `trial`, or arguments out of range.

    Notes
    -----
    Intervals are quantiles of the means of trials drawn with replacement (percentile bootstrap): with n trials narrower
    than they should be by about 1 / (2 n), and bounded by the smallest and the largest trial.

    References
    ----------
    Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.
    """
    import xarray as xr

    level = real("level", level, above=0, below=1)
    num_bootstrap = integer("num_bootstrap", num_bootstrap, at_least=1)
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"`dataset` must be an xarray.Dataset; got {type(dataset).__name__}")
    if "trial" not in dataset.dims:
        raise ValueError(f"`dataset` must have a dimension `trial`; got {', '.join(map(str, dataset.dims))}")
    taken = sorted({"statistic", "num_trials"} & {*map(str, dataset.variables), *map(str, dataset.dims)})
    if taken:
        raise ValueError(f"`dataset` must leave the names statistic and num_trials to the summary; it has {taken[0]}")
    trials = dataset.sizes["trial"]
    require_memory(
        f"{num_bootstrap} resamples of {trials} trials", 16.0 * num_bootstrap * trials, "take fewer `num_bootstrap`"
    )
    # How often each trial is drawn; shared by all points, so memory and cost stay those of one matrix product.
    draws = generator(rng).multinomial(trials, np.full(trials, 1 / trials), size=num_bootstrap).astype(np.float64)
    summaries = {}
    for name, variable in dataset.data_vars.items():
        if "trial" not in variable.dims or variable.dtype.kind == "c":
            continue
        others = tuple(d for d in variable.dims if d != "trial")
        shape = tuple(variable.sizes[d] for d in others)
        values = np.empty((4, *shape))
        # Along the first axis in blocks, so that a store larger than memory can be summarised.
        step = max(BLOCK // max(math.prod(shape[1:]) * max(trials, num_bootstrap // 8), 1), 1)
        for start in range(0, shape[0] if shape else 1, step):
            block = variable.isel({others[0]: slice(start, start + step)}) if shape else variable
            part = block.transpose("trial", *others).to_numpy()
            target = values[:, start : start + step] if shape else values
            target[...] = _statistics(part.reshape(trials, -1), draws, level).reshape(target.shape)
        summaries[name] = (("statistic", *others), values, variable.attrs)
    labels = {"statistic": ["mean", "standard_error", "low", "high"]}
    coords = {name: c for name, c in dataset.coords.items() if "trial" not in c.dims}
    summary = xr.Dataset(summaries, coords={**coords, **labels}, attrs={**dataset.attrs, "level": level})
    if "status" in dataset.coords:
        summary["num_trials"] = (dataset["status"] == 1).sum("trial")
    return summary


def _statistics(values: npt.NDArray[Any], draws: npt.NDArray[np.float64], level: float) -> npt.NDArray[np.float64]:
    """(trials, m) to (4, m): mean, standard error, low, high."""
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    filled = np.where(present, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / count
        squares = np.where(present, (values - mean) ** 2, 0.0).sum(axis=0)
        error = np.sqrt(squares / (count - 1) / count)
        # About their mean, so that a large offset does not cost digits.
        means = mean + (draws @ np.where(present, values - mean, 0.0)) / (draws @ present)
    few = count < 2
    error[few] = np.nan
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if not few.all():
        # A resample without any trial that is present has no mean.
        tails = np.nanquantile(means[:, ~few], [(1 - level) / 2, (1 + level) / 2], axis=0)
        low[~few], high[~few] = tails
    return np.stack([mean, error, low, high])
