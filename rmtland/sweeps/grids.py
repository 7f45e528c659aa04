"""Grids of parameters: their axes, their cells in order, and what a function has to take."""

from __future__ import annotations

import inspect
import json
import keyword
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import MaskedError, shown, unmasked

RESERVED = ("trial", "rng", "status", "statistic", "num_trials", "_error", "_byte")
"""Names that the store and the results use themselves."""


MOST_CELLS = 2**40
"""Of a sweep: a century at a thousand cells a second."""
MOST_VALUES = 10**7
"""Of an axis given as text: a slip of the finger is told, not computed."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The axes of a sweep, the trials at each of their points, and parameters that stay fixed.

    A cell is one trial at one point; cells are numbered in C order of (*axes, trial).

    Attributes
    ----------
    axes : dict of str to ndarray (k,)
    trials : int
    fixed : dict
    """

    axes: dict[str, npt.NDArray[Any]]
    trials: int
    fixed: dict[str, Any]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, trials last."""
        return (*(axis.size for axis in self.axes.values()), self.trials)

    @cached_property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes, "trial" last."""
        return (*self.axes, "trial")

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    def parameters(self, point: int) -> dict[str, Any]:
        """Parameters at a point of the grid, given by its number in C order without trials."""
        values = {}
        for name, axis in reversed(self.axes.items()):
            point, index = divmod(point, axis.size)
            values[name] = axis[index].item() if axis.dtype.kind in "biuf" else str(axis[index])
        return {**self.fixed, **dict(reversed(values.items()))}

    def describe(self, cell: int) -> str:
        """A cell in words: sigma_z=1.0, snr=0.5, trial 3."""
        point, trial = divmod(int(cell), self.trials)
        parameters = self.parameters(point)
        return ", ".join([*(f"{name}={parameters[name]!r}" for name in self.axes), f"trial {trial}"])


def check_axis(name: str, values: Any) -> npt.NDArray[Any]:
    """One axis as a 1-d array of float64, int64, bool or str."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise TypeError(f"axis `{name}` must be a sequence of values; got {shown(values)}")
    try:
        array = unmasked(name, values)
    except MaskedError:
        raise
    except ValueError:
        raise TypeError(f"axis `{name}` must be a 1-d sequence of numbers or of texts; got {shown(values)}") from None
    if array.ndim != 1 or array.dtype.kind not in "biufU":
        raise TypeError(f"axis `{name}` must be a 1-d sequence of numbers or of texts; got {shown(values)}")
    if array.size == 0:
        raise ValueError(f"axis `{name}` must have at least one value; got none")
    if array.dtype.kind in "iuf":
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)
        if not np.isfinite(array).all():
            raise ValueError(f"axis `{name}` must be finite; got {shown(values)}")
    if np.unique(array).size < array.size:
        raise ValueError(f"axis `{name}` must not repeat a value; got {shown(values)}")
    return array


def check_coords(coords: Any, grid: Grid) -> dict[str, npt.NDArray[Any]]:
    """Coordinates of results' own axes, once they have names of their own."""
    coords = {} if coords is None else coords
    if not isinstance(coords, Mapping):
        raise TypeError(f"`coords` must be a mapping of axes to their coordinates; got {type(coords).__name__}")
    for name in coords:
        if not is_name(name) or name in grid.axes:
            raise ValueError(
                f"`coords` must have Python names other than {', '.join((*grid.axes, *RESERVED))}; got {shown(name)}"
            )
    return {name: check_axis(name, values) for name, values in coords.items()}


def is_name(name: Any) -> bool:
    """Whether a result or an axis may have this name."""
    return isinstance(name, str) and name.isidentifier() and name not in RESERVED


def check_grid(function: Callable[..., Any], grid: Any, trials: int, fixed: Any) -> Grid:
    """The grid, once its names are known to be parameters of the function."""
    if not callable(function):
        raise TypeError(f"`function` must be callable; got {shown(function)}")
    if not isinstance(grid, Mapping):
        raise TypeError(f"`grid` must be a mapping of parameter names to values; got {type(grid).__name__}")
    fixed = {} if fixed is None else fixed
    if not isinstance(fixed, Mapping):
        raise TypeError(f"`fixed` must be a mapping of parameter names to values; got {type(fixed).__name__}")
    for name in (*grid, *fixed):
        if not is_name(name) or keyword.iskeyword(name):
            raise ValueError(
                f"parameter names must be Python names other than {', '.join(RESERVED)}; got {shown(name)}"
            )
    both = sorted(set(grid) & set(fixed))
    if both:
        raise ValueError(f"a parameter must be in `grid` or in `fixed`; got {', '.join(both)} in both")
    try:
        json.dumps(dict(fixed), allow_nan=False)
    except (TypeError, ValueError):
        raise TypeError(f"`fixed` must hold numbers, texts, None or lists of them; got {shown(fixed)}") from None
    axes = {name: check_axis(name, values) for name, values in grid.items()}
    _check_signature(function, (*grid, *fixed), trials)
    cells = Grid(axes, trials, dict(fixed))
    if cells.size > MOST_CELLS:
        raise ValueError(f"`grid` and `trials` must make at most 2^40 cells; got {shown(cells.size)}")
    return cells


def takes_rng(function: Callable[..., Any]) -> bool:
    """Whether the function has a parameter `rng`, or takes any."""
    return _accepts(_parameters(function), "rng")


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise TypeError(f"`function` must have a signature to check the grid against; got {shown(function)}") from None


def _accepts(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    kinds = {parameter.kind for parameter in parameters.values()}
    positional = name in parameters and parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY
    return (name in parameters and not positional) or inspect.Parameter.VAR_KEYWORD in kinds


def _check_signature(function: Callable[..., Any], names: tuple[str, ...], trials: int) -> None:
    parameters = _parameters(function)
    unknown = [name for name in names if not _accepts(parameters, name)]
    told = ", ".join(parameters) or "none"
    if unknown:
        raise ValueError(f"`grid` and `fixed` must name parameters of the function ({told}); got {', '.join(unknown)}")
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    missing = [name for name in required if name not in names and name != "rng"]
    if missing:
        raise ValueError(f"`grid` or `fixed` must give every parameter without default; lacks {', '.join(missing)}")
    if trials > 1 and not takes_rng(function):
        raise ValueError(f"`trials` must be 1 for a function without `rng`, all trials would agree; got {trials}")


def parse_axis(text: str) -> npt.NDArray[Any]:
    """An axis from text: `0.5,1,2` or `first:last:count` with equal steps, `first:last:count:log` with equal ratios.

    Parameters
    ----------
    text : str
        Values that are all whole numbers become integers.

    Returns
    -------
    ndarray (k,)

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> parse_axis("0.01:100:5:log").tolist()
    [0.01, 0.1, 1.0, 10.0, 100.0]
    >>> parse_axis("10,20").tolist()
    [10, 20]
    """
    wrong = ValueError(f"an axis must read 0.5,1,2 or first:last:count or first:last:count:log; got {text!r}")
    if ":" not in text:
        try:
            try:
                return np.array([int(part) for part in text.split(",")], dtype=np.int64)
            except ValueError:
                return np.array([float(part) for part in text.split(",")])
        except (ValueError, OverflowError):
            raise wrong from None
    parts = text.split(":")
    try:
        first, last, count = float(parts[0]), float(parts[1]), int(parts[2])
    except (ValueError, IndexError):
        raise wrong from None
    if len(parts) > 4 or (len(parts) == 4 and parts[3] not in ("log", "lin")) or count < 1:
        raise wrong
    if count > MOST_VALUES:
        raise ValueError(f"an axis must have at most {MOST_VALUES:,} values; got {text!r}")
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"an axis must have finite ends; got {text!r}")
    if parts[3:] == ["log"]:
        if not (first > 0 and last > 0):
            raise ValueError(f"a logarithmic axis must have ends > 0; got {text!r}")
        return np.geomspace(first, last, count)
    values = np.linspace(first, last, count)
    whole = all(part.removeprefix("-").isdigit() for part in parts[:2]) and (values == np.round(values)).all()
    return values.astype(np.int64) if whole and abs(values).max() < 2**53 else values
