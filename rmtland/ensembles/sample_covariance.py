"""Sample covariance of any population, with entries that need not be Gaussian: universality and its limits."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, choice, finite_array, generator, integer, real, real_dtype, require_memory
from rmtland._arrays import told
from rmtland.ensembles.kernels import Floats
from rmtland.ensembles.replicates import Streams, check_size, in_chunks, in_threads, num_workers, squeeze
from rmtland.laws.silverstein import GeneralizedMarchenkoPastur

_PART = 2**22
"""Entries of X held at once, or 256 rows or columns of it where these are more."""


class Entries(Protocol):
    """Law of one entry of X."""

    @property
    def has_variance(self) -> bool:
        """Whether draws have variance 1 (else they are not scaled)."""

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Independent entries of mean 0, and of variance 1 where there is one."""


@dataclasses.dataclass(frozen=True)
class GaussianEntries:
    """Standard normal entries."""

    has_variance = True

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Independent entries, float64 of `shape`."""
        return np.asarray(generator.standard_normal(shape))


@dataclasses.dataclass(frozen=True)
class RademacherEntries:
    """Entries +1 or -1 with equal probability: the edge is as for Gaussian ones, linear statistics vary less."""

    has_variance = True

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Independent entries, float64 of `shape`."""
        return np.asarray(2.0 * generator.integers(0, 2, shape, dtype=np.int8) - 1.0, dtype=np.float64)


def _warn_of_heavy_tails(name: str, index: float) -> None:
    if index <= 4:
        what = "largest eigenvalues leave the bulk" if index > 2 else "there is no variance, so no Marchenko-Pastur law"
        warnings.warn(f"`{name}` = {index:g} has fewer than four moments: {what}", UserWarning, stacklevel=4)


@dataclasses.dataclass(frozen=True)
class StudentTEntries:
    """Student's t entries, scaled to variance 1 where they have one.

    Parameters
    ----------
    degrees : float, > 0
        Degrees of freedom. Warns at 4 and below, where the largest eigenvalues follow the largest entries.

    References
    ----------
    Bai, Silverstein and Yin (1988), A note on the largest eigenvalue of a large dimensional sample covariance matrix:
    four moments are needed and suffice for the largest eigenvalue to come to the edge.
    """

    degrees: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "degrees", real("degrees", self.degrees, above=0))
        _warn_of_heavy_tails("degrees", self.degrees)

    @property
    def has_variance(self) -> bool:
        """Whether degrees > 2."""
        return self.degrees > 2

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Independent entries, float64 of `shape`."""
        scale = np.sqrt((self.degrees - 2) / self.degrees) if self.has_variance else 1.0
        return np.asarray(scale * generator.standard_t(self.degrees, shape))


@dataclasses.dataclass(frozen=True)
class ParetoEntries:
    """Symmetric entries with P(abs(x) > t) = t^(-index) for t >= 1, scaled to variance 1 where they have one.

    Parameters
    ----------
    index : float, > 0
        Tail index. Warns at 4 and below.

    References
    ----------
    Papyan (2019), Measurements of three-level hierarchical structure in the outliers in the spectrum of deepnet
    Hessians, takes them for a heavy-tailed check of spectral densities.
    """

    index: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", real("index", self.index, above=0))
        _warn_of_heavy_tails("index", self.index)

    @property
    def has_variance(self) -> bool:
        """Whether index > 2."""
        return self.index > 2

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Independent entries, float64 of `shape`."""
        size = (1 - generator.random(shape)) ** (-1 / self.index)
        scale = np.sqrt((self.index - 2) / self.index) if self.has_variance else 1.0
        return np.asarray(scale * size * (2.0 * generator.integers(0, 2, shape, dtype=np.int8) - 1))


_NAMED: dict[str, type[Any]] = {"gaussian": GaussianEntries, "rademacher": RademacherEntries}


@dataclasses.dataclass(frozen=True, eq=False)
class SampleCovariance:
    """S = Sigma^(1/2) X X^T Sigma^(1/2) / n, Sigma diagonal, X p x n with independent entries of mean 0 and variance 1.

    Parameters
    ----------
    population : array_like, shape (p,)
        Eigenvalues of Sigma, >= 0, not all 0.
    num_samples : int, >= 1
        n.
    entries : {"gaussian", "rademacher"}, GaussianEntries, RademacherEntries, StudentTEntries or ParetoEntries
        Law of the entries of X; or any object with their `draw` and `has_variance`. Only for Gaussian ones is the
        choice of a diagonal Sigma none.
    dtype : {float64, float32}
        Precision in which matrices are formed and solved; single takes half the memory, with errors of about 1e-6
        times the largest eigenvalue.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If `entries` is no law of entries.

    Notes
    -----
    Dense on the smaller side: min(p, n)^2 max(p, n) time and min(p, n)^2 memory per thread (p^2 for `matrix`), as X is
    drawn in parts. For white or spiked Gaussian data `Wishart` and `SpikedCovariance` need neither.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.SampleCovariance([1.0] * 50 + [10.0] * 50, num_samples=1000, entries="rademacher")
    >>> values = model.eigenvalues(size=4, rng=0)
    >>> values.shape, model.law().support.round(2)
    ((4, 100), array([[ 0.56,  1.43],
           [ 6.09, 15.03]]))
    """

    population: Floats
    num_samples: int
    entries: Any = "gaussian"
    dtype: npt.DTypeLike = np.float64

    __repr__ = told

    def __post_init__(self) -> None:
        population = finite_array("population", self.population, ndim=1).copy()
        if (population < 0).any():
            raise ValueError(f"`population` must be >= 0; got {population.min()}")
        if not population.any():
            raise ValueError(f"`population` must hold a positive eigenvalue; got {population.size} entries, none")
        object.__setattr__(self, "population", population)
        object.__setattr__(self, "num_samples", integer("num_samples", self.num_samples, at_least=1))
        if isinstance(self.entries, str):
            object.__setattr__(self, "entries", _NAMED[choice("entries", self.entries, tuple(_NAMED))]())
        if isinstance(self.entries, type):
            raise TypeError(f"`entries` must be a law, not its class; got {self.entries.__name__} without parameters")
        if not (hasattr(self.entries, "draw") and hasattr(self.entries, "has_variance")):
            raise TypeError(
                f"`entries` must be a name or have `draw` and `has_variance`; got {type(self.entries).__name__}"
            )
        kind = choice("dtype", real_dtype("dtype", self.dtype), (np.dtype(np.float32), np.dtype(np.float64)))
        object.__setattr__(self, "dtype", kind)

    @property
    def num_features(self) -> int:
        """Length of the population, p."""
        return int(self.population.size)

    @property
    def num_eigenvalues(self) -> int:
        """Number of eigenvalues of S, zeros included: p."""
        return self.num_features

    def law(self) -> GeneralizedMarchenkoPastur:
        """Limit of the spectral distribution for p, n -> infinity at fixed p / n, for all entries of variance 1.

        Raises
        ------
        ValueError
            If the entries have no variance.
        """
        if not self.entries.has_variance:
            raise ValueError(f"`entries` must have a variance for this law; got {self.entries}")
        return GeneralizedMarchenkoPastur.sample_covariance(self.population, self.num_features / self.num_samples)

    def matrix(self, rng: Seed = None) -> npt.NDArray[Any]:
        """One dense S, shape (p, p), in `dtype`; `rng` is anything `numpy.random.default_rng` takes."""
        self._require(1, 1, self.num_features)
        return self._gram(generator(rng), over_samples=True)

    def eigenvalues(self, size: int | None = None, rng: Seed = None, *, threads: int | None = None) -> Floats:
        """All eigenvalues of independent replicates.

        Parameters
        ----------
        size : int, optional
            Number of replicates R; one, without their axis, by default.
        rng : optional
            Anything `numpy.random.default_rng` takes; replicate i depends on the seed and i alone.
        threads : int, optional
            The result is the same for any number; NUMBA_NUM_THREADS by default.

        Returns
        -------
        ndarray of float64, shape (R, p) or (p,)
            Ascending, zeros included.

        Raises
        ------
        MemoryError
            If the result or a dense matrix of the smaller side for every thread does not fit.
        """
        count = check_size(size)
        self._require(count, threads)
        return squeeze(self._all(Streams.of(rng, count), 0, count, threads), size)

    def iterate_eigenvalues(
        self, size: int, rng: Seed = None, *, chunk_size: int | None = None, threads: int | None = None
    ) -> Iterator[Floats]:
        """`eigenvalues` of `size` replicates in chunks of `chunk_size`, never all in memory."""

        def draw(streams: Streams, start: int, stop: int) -> Floats:
            self._require(stop - start, threads)
            return self._all(streams, start, stop, threads)

        return in_chunks(draw, self.num_features, size, chunk_size, rng)

    def largest(self, k: int = 1, size: int | None = None, rng: Seed = None, *, threads: int | None = None) -> Floats:
        """The k largest of `eigenvalues` with the same seed, ascending, shape (R, k) or (k,); k <= min(p, n)."""
        k = integer("k", k, at_least=1, at_most=self._side)
        return np.ascontiguousarray(self.eigenvalues(size, rng, threads=threads)[..., -k:])

    def smallest(self, k: int = 1, size: int | None = None, rng: Seed = None, *, threads: int | None = None) -> Floats:
        """The k smallest eigenvalues that no n < p forces to 0, ascending, shape (R, k) or (k,); k <= min(p, n)."""
        zeros = self.num_features - self._side
        k = integer("k", k, at_least=1, at_most=self._side)
        return np.ascontiguousarray(self.eigenvalues(size, rng, threads=threads)[..., zeros : zeros + k])

    @property
    def _side(self) -> int:
        return min(self.num_features, self.num_samples)

    def _require(self, count: int, threads: int | None, side: int | None = None) -> None:
        """Check that `count` spectra and, for every thread, matrices of the given side (the smaller) fit."""
        side = side or self._side
        each = 3.0 * np.dtype(self.dtype).itemsize * side**2 + 32.0 * max(_PART, 256 * side)
        need = 8.0 * count * self.num_features + num_workers(threads, count) * each
        instead = "use `SpikedCovariance` where the population is 1 but for a few, fewer threads, or single precision"
        require_memory(f"`SampleCovariance` of shape {self.num_features} x {self.num_samples}", need, instead)

    def _gram(self, source: np.random.Generator, *, over_samples: bool) -> npt.NDArray[Any]:
        """S, a sum over samples; or the n x n matrix with the same nonzero eigenvalues, a sum over features."""
        p, n = self.num_features, self.num_samples
        length, side = (n, p) if over_samples else (p, n)
        step = max(_PART // side, 256)
        roots = np.sqrt(self.population / n)[:, None]
        total: Any = None
        for start in range(0, length, step):
            stop = min(start + step, length)
            shape = (p, stop - start) if over_samples else (stop - start, n)
            x: Any = self.entries.draw(source, shape)
            x *= roots if over_samples else roots[start:stop]
            x = np.asarray(x, dtype=self.dtype)
            product = x @ x.T if over_samples else x.T @ x
            total = product if total is None else np.add(total, product, out=total)
        return np.asarray(total)

    def _all(self, streams: Streams, first: int, last: int, threads: int | None) -> Floats:
        result = np.zeros((last - first, self.num_features))
        over_samples = self.num_features <= self.num_samples

        def piece(start: int, stop: int) -> None:
            for i in range(start, stop):
                gram = self._gram(streams.generator(first + i), over_samples=over_samples)
                result[i, self.num_features - self._side :] = np.maximum(np.linalg.eigvalsh(gram), 0)

        in_threads(piece, last - first, threads)
        return result
