"""What a worker does: run cells, check what they return, say what it cost. It sees no store."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import MaskedError, unmasked
from rmtland.sweeps.grids import RESERVED, Grid, is_name, takes_rng

ERROR_BYTES = 512
"""What is kept of a failed cell's error."""


@dataclass(frozen=True)
class Variable:
    """Names and lengths of a result's own axes, and whether it is complex."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    is_complex: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """complex128 or float64."""
        return np.dtype(np.complex128 if self.is_complex else np.float64)


Schema = dict[str, Variable]


@dataclass(frozen=True, eq=False)
class Task:
    """All that a worker must know; the same for every batch, so it is pickled once.

    Attributes
    ----------
    function : callable
    grid : Grid
    seed : int
    """

    function: Callable[..., Any]
    grid: Grid
    seed: int

    @cached_property
    def _takes_rng(self) -> bool:
        return takes_rng(self.function)  # reading a signature takes as long as a small cell

    def run(self, cell: int) -> Any:
        """What the function returns in a cell, with the generator that belongs to it."""
        point, trial = divmod(cell, self.grid.trials)
        keywords = self.grid.parameters(point)
        if self._takes_rng:
            keywords["rng"] = cell_generator(self.seed, point, trial)
        return self.function(**keywords)


@dataclass(eq=False)
class Batch:
    """Results of some cells.

    Attributes
    ----------
    cells : ndarray (n,)
    schema : dict
        Of the columns; empty where every cell failed and none was known.
    columns : dict of str to ndarray (n, ...)
        NaN at failed cells.
    errors : dict of int to str
        Cell to what it raised.
    seconds : float
        Spent in the cells and in checking their results.
    """

    cells: npt.NDArray[np.int64]
    schema: Schema
    columns: dict[str, npt.NDArray[Any]]
    errors: dict[int, str]
    seconds: float


def cell_generator(seed: int, point: int, trial: int) -> np.random.Generator:
    """The generator of a trial at a point: it depends on these three alone, never on workers, batches or order."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(point, trial)))


def run_batch(payload: bytes, schema: Schema | None, cells: npt.NDArray[np.int64]) -> Batch:
    """Run cells of a pickled `Task`; runs in the worker.

    Exceptions of the function become errors of their cells. With `schema` None a cell sets it.
    """
    task = _unpickle(payload)
    limit_threads()
    return run_cells(task, schema, cells)


def run_cells(task: Task, schema: Schema | None, cells: npt.NDArray[np.int64]) -> Batch:
    """Run cells of a task in this process."""
    start = time.perf_counter()
    columns: dict[str, npt.NDArray[Any]] = {}
    errors: dict[int, str] = {}
    known = schema
    if known is not None:
        columns = _empty_columns(known, cells.size)
    for position, cell in enumerate(cells.tolist()):
        try:
            values = checked_result(task.run(cell))
            if known is None:
                known = {name: variable for name, (variable, _) in values.items()}
                columns = _empty_columns(known, cells.size)
            check_schema(known, {name: variable for name, (variable, _) in values.items()})
        except (Exception, SystemExit) as error:
            errors[cell] = told(error)
            continue
        for name, (_, value) in values.items():
            columns[name][position] = value
    return Batch(cells, known or {}, columns, errors, time.perf_counter() - start)


def told(error: BaseException) -> str:
    """Kind and text of an error, whatever its text is made of."""
    try:
        text = str(error)
    except Exception as second:
        text = f"(its text cannot be had: {type(second).__name__})"
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()


def _empty_columns(schema: Schema, count: int) -> dict[str, npt.NDArray[Any]]:
    return {name: np.full((count, *v.shape), np.nan, dtype=v.dtype) for name, v in schema.items()}


def checked_result(result: Any) -> dict[str, tuple[Variable, npt.NDArray[Any]]]:
    """What a function returned as arrays of float64 or complex128 with named axes.

    A value is a number, an array (its axes are named `<name>_0`, `<name>_1`, ...) or a pair (names, array) as in
    xarray.
    """
    if not isinstance(result, Mapping) or not result:
        raise TypeError(f"the function must return a dict of numbers or arrays; got {type(result).__name__}")
    checked = {}
    for name, value in result.items():
        if not is_name(name):
            raise ValueError(f"results must have Python names other than {', '.join(RESERVED)}; got {name!r}")
        dims: Any = None
        if isinstance(value, tuple) and len(value) == 2 and _names(value[0]):
            dims, value = value
            dims = (dims,) if isinstance(dims, str) else tuple(dims)
        elif hasattr(value, "dims") and hasattr(value, "values"):
            dims, value = tuple(value.dims), value.values
        try:
            array = unmasked(name, value)
        except MaskedError as error:
            raise ValueError(f"result {error}") from None
        except ValueError:
            raise TypeError(f"result `{name}` must be a number or an array; got a ragged sequence") from None
        if array.dtype.kind not in "biufc":
            raise TypeError(f"result `{name}` must be numeric; got {value!r:.80}")
        is_complex = array.dtype.kind == "c"
        stored = array.astype(np.complex128 if is_complex else np.float64)
        if array.dtype.kind in "iu" and array.size and np.abs(stored).max() > 2.0**53:
            raise ValueError(f"result `{name}` must be within 2^53, it is stored as float64; got {value!r:.80}")
        if dims is None:
            dims = tuple(f"{name}_{axis}" for axis in range(array.ndim))
        if not all(map(is_name, dims)):
            raise ValueError(f"axes of `{name}` must have Python names other than {', '.join(RESERVED)}; got {dims}")
        if len(dims) != array.ndim:
            raise ValueError(f"result `{name}` must have an axis for each of {dims}; got shape {array.shape}")
        checked[name] = (Variable(dims, array.shape, is_complex), stored)
    return checked


def _names(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (tuple, list)) and all(isinstance(v, str) for v in value))


def check_schema(known: Schema, found: Schema) -> None:
    """ValueError naming how a cell's results differ in name, axes or kind from those of the first cell."""
    if known.keys() != found.keys():
        raise ValueError(f"every cell must return {', '.join(known)}, as the first does; got {', '.join(found)}")
    for name, variable in found.items():
        first = known[name]
        if (variable.dims, variable.shape) != (first.dims, first.shape):
            raise ValueError(
                f"result `{name}` must have shape {first.shape} {first.dims} in every cell, as in the first; "
                f"got {variable.shape} {variable.dims}"
            )
        if variable.is_complex and not first.is_complex:
            raise ValueError(f"result `{name}` must be real, as in the first cell; got complex numbers")


@lru_cache(maxsize=4)
def _unpickle(payload: bytes) -> Task:
    import pickle

    task = pickle.loads(payload)
    assert isinstance(task, Task)
    return task


def pickle_task(task: Task) -> bytes:
    """The task as bytes, functions of a script or a notebook by value."""
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(task))
    except Exception as error:
        raise TypeError(f"`function` must be picklable to reach the workers; got {task.function!r}: {error}") from None


_modules_seen = 0


def limit_threads() -> None:
    """One BLAS, OpenMP and Numba thread from now on in this process, for libraries loaded since the last call too."""
    global _modules_seen
    if len(sys.modules) == _modules_seen:  # looking through the libraries costs milliseconds
        return
    import numba
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    numba.set_num_threads(1)
    _modules_seen = len(sys.modules)


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
                    "NUMBA_NUM_THREADS")  # fmt: skip
"""Environment of workers started here: libraries read them when they are loaded."""


def start_worker(parent: int) -> None:
    """Set up a local worker: the parent answers Ctrl-C, and no worker outlives a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
