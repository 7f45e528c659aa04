"""Replicates: one random stream each, in any number of threads, with results that depend on the seed alone."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import config
from numba.extending import get_cython_function_address

from rmtland._arguments import Seed, integer, seed_sequence
from rmtland.ensembles.kernels import Floats, Words

_PIECES, _LONGEST_PIECE = 64, 1024
"""Pieces a run is cut into at least, replicates in one at most: short enough to stop at an interrupt and to keep all
threads busy until the end."""


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """The random streams of replicates 0, 1, ...: replicate i has the i-th spawned child of a SeedSequence.

    Parameters
    ----------
    seed : SeedSequence
        The parent.
    first : int
        Number of children it had spawned before.
    """

    seed: np.random.SeedSequence
    first: int

    @classmethod
    def of(cls, rng: Seed, count: int) -> Streams:
        """The streams of `count` replicates behind `rng`; fresh ones where a Generator or SeedSequence comes again."""
        parent = seed_sequence(rng)
        if type(parent) is not np.random.SeedSequence or parent.pool_size != 4:
            return cls(np.random.SeedSequence(parent.spawn(1)[0].generate_state(8).tolist()), 0)
        first = parent.n_children_spawned
        if parent is rng:  # somebody else holds the parent: mark them as used
            for start in range(0, count, 4096):
                parent.spawn(min(4096, count - start))
        return cls(parent, first)

    @property
    def words(self) -> Words:
        """The parent's entropy and spawn key as the kernels want them."""
        words = [word for part in _parts(self.seed.entropy) for word in _words(int(part))]
        words += [0] * (4 - len(words))
        words += [word for part in self.seed.spawn_key for word in _words(int(part))]
        return np.array(words, dtype=np.uint64)

    def generator(self, index: int) -> np.random.Generator:
        """A NumPy generator of replicate `index`, for code outside the kernels."""
        entropy: Any = self.seed.entropy
        key = (*self.seed.spawn_key, self.first + index)
        return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))


def _parts(entropy: Any) -> Iterator[Any]:
    """The integers of an entropy, which NumPy takes in sequences of any depth, in their order."""
    several = entropy.ndim > 0 if isinstance(entropy, np.ndarray) else isinstance(entropy, Sequence)
    if several and not isinstance(entropy, str):
        for part in entropy:
            yield from _parts(part)
    else:
        yield entropy


def _words(number: int) -> list[int]:
    """Base 2^32 digits, lowest first."""
    digits = [number & 0xFFFFFFFF]
    while number := number >> 32:
        digits.append(number & 0xFFFFFFFF)
    return digits


def check_size(size: int | None) -> int:
    """Number of replicates behind `size`."""
    return 1 if size is None else integer("size", size, at_least=1)


def in_chunks(
    draw: Callable[[Streams, int, int], Floats], num_eigenvalues: int, size: int, chunk_size: int | None, rng: Seed
) -> Iterator[Floats]:
    """What draw(streams, start, stop) gives on pieces that cover `size` replicates, one at a time.

    Arguments are checked at once, and the streams taken. About 2^20 eigenvalues a piece by default.
    """
    count = integer("size", size, at_least=1)
    default = max(1, 2**20 // num_eigenvalues)
    step = default if chunk_size is None else integer("chunk_size", chunk_size, at_least=1)
    streams = Streams.of(rng, count)
    return (draw(streams, start, min(start + step, count)) for start in range(0, count, step))


def num_workers(threads: int | None, count: int) -> int:
    """Threads that `count` replicates are drawn in."""
    settings: Any = config
    asked = int(settings.NUMBA_NUM_THREADS) if threads is None else integer("threads", threads, at_least=1)
    return min(asked, count)


def in_threads(function: Callable[[int, int], Any], count: int, threads: int | None) -> list[Any]:
    """Call function(start, stop) on pieces that cover range(count), over threads; results in order.

    `function` must release the GIL to gain. An exception or an interrupt cancels the pieces not yet begun.
    """
    workers = num_workers(threads, count)
    edges = np.linspace(0, count, min(count, max(_PIECES, count // _LONGEST_PIECE)) + 1).astype(int)
    pieces = [(int(start), int(stop)) for start, stop in pairwise(edges)]
    if workers == 1 or len(pieces) == 1:
        return [function(*piece) for piece in pieces]
    pool = ThreadPoolExecutor(min(workers, len(pieces)))
    try:
        futures = [pool.submit(function, *piece) for piece in pieces]
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done() and future.exception() is not None:
                future.result()
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@cache
def _dsterf() -> Any:
    address = get_cython_function_address("scipy.linalg.cython_lapack", "dsterf")
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(address)


def tridiagonal_eigenvalues(diagonal: Floats, off: Floats) -> Floats:
    """Eigenvalues, ascending, by LAPACK's sterf, without the GIL; overwrites both arguments.

    `scipy.linalg.lapack.dsterf` holds the GIL, so that replicates in threads would wait for each other: a thread beside
    a call of 0.6 s at m = 4,000 ran twice in all that time, beside this one every millisecond or three.

    Parameters
    ----------
    diagonal : ndarray of float64, shape (m,)
    off : ndarray of float64, shape (m - 1,)

    Returns
    -------
    ndarray of float64, shape (m,)
        `diagonal` itself.
    """
    size, info = ctypes.c_int(diagonal.size), ctypes.c_int(0)
    _dsterf()(ctypes.byref(size), diagonal.ctypes.data, off.ctypes.data, ctypes.byref(info))
    if info.value:
        raise np.linalg.LinAlgError(f"sterf left {info.value} off-diagonal entries")
    return diagonal


def squeeze(array: npt.NDArray[Any], size: int | None) -> npt.NDArray[Any]:
    """Without the axis of replicates where none was asked for."""
    return array[0] if size is None else array
