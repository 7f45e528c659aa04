"""Spectral densities and linear statistics accumulated over draws, with standard errors between draws.

Eigenvalues of one matrix repel, so errors are taken between matrices, never between eigenvalues.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, finite_array, instance, integer
from rmtland._arrays import told
from rmtland.ensembles.kernels import Floats


class _Moments:
    """Running mean and covariance of row vectors, merged chunk by chunk."""

    def __init__(self, full: bool) -> None:
        self.count, self.full = 0, full
        self.mean: Any = 0.0
        self.scatter: Any = 0.0

    def add(self, rows: Floats) -> None:
        count, mean = len(rows), rows.mean(axis=0)
        centred = rows - mean
        scatter = centred.T @ centred if self.full else (centred**2).sum(axis=0)
        total, step = self.count + count, mean - self.mean
        square = np.multiply.outer(step, step) if self.full else step**2
        self.scatter = self.scatter + scatter + square * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def covariance(self) -> Floats:
        if self.count < 2:
            raise ValueError(f"`num_draws` must be >= 2 for standard errors; got {self.count} matrices")
        return np.asarray(self.scatter / (self.count - 1))


def sets_of(source: Any, num_draws: int | None, rng: Seed, threads: int | None) -> Iterator[Floats]:
    """Chunks (draws, eigenvalues) of an ensemble, an array of that shape, or an iterable of them or of rows."""
    if hasattr(source, "iterate_eigenvalues"):
        yield from source.iterate_eigenvalues(integer("num_draws", num_draws, at_least=1), rng, threads=threads)
        return
    if num_draws is not None:
        raise ValueError(f"`num_draws` must be None where eigenvalues are given; got {num_draws}")
    chunks: Iterable[Any] = [source] if isinstance(source, np.ndarray) else source
    for chunk in chunks:
        array = np.atleast_2d(finite_array("source", chunk))
        if array.ndim != 2:
            raise ValueError(f"`source` must hold arrays (draws, eigenvalues); got shape {array.shape}")
        yield array


@dataclasses.dataclass(frozen=True, eq=False)
class SpectralHistogram:
    """Empirical spectral density over draws.

    Parameters
    ----------
    edges : ndarray, shape (bins + 1,)
    density : ndarray, shape (bins,)
        Mean over draws of (eigenvalues in the bin) / (all eigenvalues) / width. Eigenvalues that are exactly 0 are
        in `atom` instead.
    standard_error : ndarray, shape (bins,)
        Of `density`, between draws.
    atom : float
        Mean share of eigenvalues that are 0.
    outside : float
        Mean share of the others that no bin holds.
    num_draws : int
    """

    edges: Floats
    density: Floats
    standard_error: Floats
    atom: float
    outside: float
    num_draws: int

    __repr__ = told

    @property
    def centers(self) -> Floats:
        """Middles of the bins."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])


def empirical_density(
    source: Any,
    bins: npt.ArrayLike,
    num_draws: int | None = None,
    rng: Seed = None,
    *,
    threads: int | None = None,
) -> SpectralHistogram:
    """Spectral density of an ensemble, or of eigenvalues of several matrices, with error bars.

    Parameters
    ----------
    source : ensemble, ndarray of shape (R, N), or iterable of such arrays
        Chunks are looked at once and let go: memory does not grow with R.
    bins : array_like, shape (bins + 1,)
        Edges, increasing.
    num_draws : int, optional
        Number of draws of an ensemble.
    rng, threads : optional
        As for its `eigenvalues`.

    Returns
    -------
    SpectralHistogram

    Raises
    ------
    ValueError
        If the edges do not increase or there are fewer than two matrices.

    Examples
    --------
    >>> import numpy as np, rmtland as rl
    >>> found = rl.empirical_density(rl.GaussianEnsemble(50), np.linspace(-2, 2, 5), num_draws=200, rng=0)
    >>> print(found.density.round(1), found.standard_error.round(3))
    [0.2 0.3 0.3 0.2] [0.001 0.001 0.001 0.001]
    """
    edges = finite_array("bins", bins, ndim=1)
    if edges.size < 2 or (np.diff(edges) <= 0).any():
        raise ValueError(f"`bins` must be at least two increasing edges; got {edges}")
    moments = _Moments(full=False)
    for chunk in sets_of(source, num_draws, rng, threads):
        rows = np.empty((len(chunk), edges.size + 1))
        for row, values in zip(rows, chunk, strict=True):
            nonzero = values[values != 0]
            counts = np.histogram(nonzero, edges)[0]
            row[:-2] = counts / values.size / np.diff(edges)
            row[-2:] = 1 - nonzero.size / values.size, (nonzero.size - counts.sum()) / values.size
        moments.add(rows)
    error = np.sqrt(moments.covariance() / moments.count)
    mean = moments.mean
    return SpectralHistogram(edges, mean[:-2], error[:-2], float(mean[-2]), float(mean[-1]), moments.count)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearStatistics:
    """Means of sums over eigenvalues.

    Parameters
    ----------
    names : tuple of str
    mean, standard_error : ndarray, shape (k,)
        Over and between draws.
    covariance : ndarray, shape (k, k)
        Between the statistics of one matrix.
    num_draws : int
    """

    names: tuple[str, ...]
    mean: Floats
    standard_error: Floats
    covariance: Floats
    num_draws: int

    __repr__ = told


def linear_statistics(
    source: Any,
    functions: Mapping[str, Callable[[Floats], Any]],
    num_draws: int | None = None,
    rng: Seed = None,
    *,
    threads: int | None = None,
) -> LinearStatistics:
    """Mean, standard error and covariance of sum_i f(lambda_i) over draws.

    Parameters
    ----------
    source, num_draws, rng, threads
        As for `empirical_density`.
    functions : dict
        Name to function of an array of eigenvalues, element by element.

    Returns
    -------
    LinearStatistics

    Raises
    ------
    ValueError
        If no function is given, if one does not act element by element or is not finite on the eigenvalues, or there
        are fewer than two matrices.

    Examples
    --------
    >>> import rmtland as rl
    >>> found = rl.linear_statistics(rl.Wishart(10, 40), {"trace": lambda x: x, "square": lambda x: x**2}, 2000, rng=0)
    >>> print(found.names, found.mean.round(1))
    ('trace', 'square') [10.  12.7]
    """
    instance("functions", functions, Mapping, "a mapping of names to functions")
    if not functions:
        raise ValueError("`functions` must name at least one; got none")
    moments = _Moments(full=True)
    for chunk in sets_of(source, num_draws, rng, threads):
        moments.add(np.column_stack([_sums(name, f, chunk) for name, f in functions.items()]))
    covariance = moments.covariance()
    error = np.sqrt(np.diag(covariance) / moments.count)
    return LinearStatistics(tuple(functions), np.asarray(moments.mean), error, covariance, moments.count)


def _sums(name: str, function: Callable[[Floats], Any], chunk: Floats) -> Floats:
    """Sum of `function` over the eigenvalues of each matrix of a chunk."""
    with np.errstate(all="ignore"):
        values = np.asarray(function(chunk), dtype=np.float64)
    if values.shape != chunk.shape:
        raise ValueError(
            f"`functions` must act element by element; got shape {values.shape} of {name!r} for {chunk.shape}"
        )
    if not np.isfinite(values).all():
        where = float(chunk[~np.isfinite(values)][0])
        raise ValueError(f"`functions` must be finite on the eigenvalues; got {name!r} infinite or NaN at {where:g}")
    return np.asarray(values.sum(axis=1))
