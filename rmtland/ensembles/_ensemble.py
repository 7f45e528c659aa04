"""What the ensembles share: eigenvalues, extreme ones and overlaps of replicates, from tridiagonal and band models."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvals_banded

from rmtland._arguments import Seed, choice, generator, integer, real_dtype, require_memory
from rmtland.ensembles import banded, tridiagonal
from rmtland.ensembles.kernels import Floats
from rmtland.ensembles.replicates import Streams, check_size, in_chunks, in_threads, squeeze, tridiagonal_eigenvalues
from rmtland.ensembles.tridiagonal import QD, TRI

_SMALLEST_BETA = 0.1
"""chi^2 of this many degrees of freedom is below 1e-290 with probability 3e-15."""


class Ensemble(abc.ABC):
    """Random matrices whose eigenvalues have a tridiagonal (0 or 1 spike) or band model."""

    beta: float

    @property
    @abc.abstractmethod
    def _model(self) -> tuple[int, int, int]:
        """Form (QD or TRI), n, p of the model's entries."""

    @property
    @abc.abstractmethod
    def _unit(self) -> float:
        """Eigenvalue of the ensemble over eigenvalue of the model."""

    @property
    @abc.abstractmethod
    def _num_zeros(self) -> int:
        """Eigenvalues that vanish and are not in the model."""

    @property
    @abc.abstractmethod
    def _spikes(self) -> Floats:
        """Spikes in the model's unit."""

    @abc.abstractmethod
    def law(self) -> Any:
        """The limit law."""

    @property
    @abc.abstractmethod
    def _dense_need(self) -> float:
        """Entries held at once while a dense matrix is made."""

    @abc.abstractmethod
    def _dense(self, rng: Seed, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """`matrix`, once it is known to exist and to fit."""

    # Sizes of the model.

    @property
    def _num_rows(self) -> int:
        form, n, p = self._model
        return min(n, p) if form == QD else n

    @property
    def num_eigenvalues(self) -> int:
        """Number of eigenvalues of a matrix, with multiplicity, those fixed at 0 included."""
        return self._num_rows + self._num_zeros

    def _edge(self, above: bool) -> tuple[float, float, float]:
        """Place, Tracy-Widom scale and Airy length in rows of an edge of the model; scale and length only roughly."""
        form, n, p = self._model
        if form == TRI:
            return 2 * math.sqrt(n), n ** (-1 / 6), n ** (1 / 3)
        sign = 1 if above else -1
        spread = abs(math.sqrt(n) + sign * math.sqrt(p))
        bend = abs(1 / math.sqrt(p) + sign / math.sqrt(n))
        if not spread:  # the hard edge: eigenvalues of order 1/n
            return 0.0, 1 / n, math.inf
        return spread**2, spread * bend ** (1 / 3), bend ** (-2 / 3)

    # Draws.

    def matrix(self, rng: Seed = None, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        """One dense matrix.

        Parameters
        ----------
        rng : optional
            Anything `numpy.random.default_rng` takes. Not the matrix whose eigenvalues `eigenvalues` gives for it.
        dtype : {float64, float32}
            Precision of the entries.

        Returns
        -------
        ndarray, shape (N, N)
            N = `num_eigenvalues`. Real symmetric for beta = 1, complex Hermitian for beta = 2. For beta = 4, shape (2N,
            2N): quaternions as 2 x 2 complex blocks [[A, B], [-B*, A*]], each eigenvalue twice. Spikes along the first
            coordinates.

        Raises
        ------
        ValueError
            If beta is not 1, 2 or 4.
        MemoryError
            If it does not fit.
        """
        if self.beta not in (1, 2, 4):
            raise ValueError(f"`beta` must be 1, 2 or 4 for a dense matrix; got {self.beta}")
        real_dtype("dtype", dtype)
        need = self._dense_need * {1: 1, 2: 2, 4: 8}[int(self.beta)] * np.dtype(dtype).itemsize
        require_memory("`matrix`", need, "use `eigenvalues`, `largest` or `smallest`, which need no matrix,")
        return self._dense(rng, dtype)

    def eigenvalues(self, size: int | None = None, rng: Seed = None, *, threads: int | None = None) -> Floats:
        """All eigenvalues, exact in law, without a dense matrix.

        Parameters
        ----------
        size : int, optional
            Number of independent replicates R; one, without their axis, by default.
        rng : optional
            Anything `numpy.random.default_rng` takes. Replicate i depends on the seed and i alone; `largest` and
            `smallest` with the same seed give eigenvalues of the same matrices.
        threads : int, optional
            The result is the same for any number; NUMBA_NUM_THREADS by default.

        Returns
        -------
        ndarray of float64, shape (R, N) or (N,)
            Ascending, N = `num_eigenvalues`; absolute errors of rounding times the largest (`smallest` gives small ones
            with small relative error).

        Raises
        ------
        MemoryError
            If the result does not fit: use `iterate_eigenvalues`.
        """
        count = check_size(size)
        self._require(count, "use `iterate_eigenvalues` or `largest`")
        return squeeze(self._all(Streams.of(rng, count), 0, count, threads), size)

    def iterate_eigenvalues(
        self, size: int, rng: Seed = None, *, chunk_size: int | None = None, threads: int | None = None
    ) -> Iterator[Floats]:
        """`eigenvalues` of many replicates in chunks, never all in memory.

        Parameters
        ----------
        size : int
            Number of replicates.
        rng, threads : optional
            As for `eigenvalues`, which the chunks add up to.
        chunk_size : int, optional
            Replicates at once; about 2^20 numbers by default.

        Yields
        ------
        ndarray of float64, shape (chunk, N)

        Raises
        ------
        MemoryError
            If a chunk does not fit.
        """

        def draw(streams: Streams, start: int, stop: int) -> Floats:
            self._require(stop - start, "take a smaller `chunk_size`")
            return self._all(streams, start, stop, threads)

        return in_chunks(draw, self.num_eigenvalues, size, chunk_size, rng)

    def largest(self, k: int = 1, size: int | None = None, rng: Seed = None, *, threads: int | None = None) -> Floats:
        """The k largest eigenvalues, from a leading block of the model.

        Parameters
        ----------
        k : int
            At most the number of eigenvalues that are not fixed at 0.
        size, rng, threads : optional
            As for `eigenvalues`.

        Returns
        -------
        ndarray of float64, shape (R, k) or (k,)
            Ascending.

        Notes
        -----
        At a soft edge the block has of the order of dimension^(1/3) rows, chosen and then checked for each draw so that
        an eigenvalue of the whole lies within 1e-8 Tracy-Widom scales (by Kato and Temple within about 1e-16 / gap,
        gap in such scales) and none is missed but with probability 1e-14; see `rmtland.ensembles.tridiagonal`. Rounding
        adds some 1e-16 times the largest eigenvalue.

        Raises
        ------
        ValueError
            If k is out of range.
        MemoryError
            If the result does not fit.
        """
        return squeeze(self._extreme(True, k, size, rng, threads)[0], size)

    def smallest(self, k: int = 1, size: int | None = None, rng: Seed = None, *, threads: int | None = None) -> Floats:
        """The k smallest eigenvalues, those fixed at 0 (more features than samples) left out.

        Parameters and errors as for `largest`. Nothing can be cut near the hard edge of a sample covariance, as many
        features as samples: cost and memory are then of the order of the dimension.

        Returns
        -------
        ndarray of float64, shape (R, k) or (k,)
            Ascending; with small relative errors if there is at most one spike and beta >= 0.1.

        Raises
        ------
        ValueError
            If k is out of range.
        MemoryError
            If a matrix at the hard edge does not fit, or the result.
        """
        return squeeze(self._extreme(False, k, size, rng, threads)[0], size)

    def eigenvectors_overlap(
        self,
        k: int | None = None,
        size: int | None = None,
        rng: Seed = None,
        *,
        side: str = "largest",
        threads: int | None = None,
    ) -> Floats:
        """Squared cosines between eigenvectors of extreme eigenvalues and the directions of the spikes.

        Parameters
        ----------
        k : int, optional
            How many eigenvectors; as many as spikes by default.
        size, rng, threads : optional
            As for `eigenvalues`; the same seed gives the eigenvalues of `largest` or `smallest`.
        side : {"largest", "smallest"}

        Returns
        -------
        ndarray of float64, shape (R, k, r) or (k, r)
            Eigenvalues ascending, r spikes in the order given.

        Raises
        ------
        ValueError
            If there are no spikes or k is out of range.
        MemoryError
            As for `largest` and `smallest`.
        """
        if not self._spikes.size:
            raise ValueError("`spikes` must not be empty for overlaps; got none")
        choice("side", side, ("largest", "smallest"))
        k = min(self._spikes.size, self._num_rows) if k is None else k
        return squeeze(self._extreme(side == "largest", k, size, rng, threads, overlaps=True)[1], size)

    def _extreme(
        self, above: bool, k: int, size: int | None, rng: Seed, threads: int | None, *,
        overlaps: bool = False, cut: bool = True,
    ) -> tuple[Floats, Floats]:  # fmt: skip
        """Values (R, k) and overlaps (R, k, r); without cutting if `cut` is false."""
        k = integer("k", k, at_least=1, at_most=self._num_rows)
        count = check_size(size)
        form, n, p = self._model
        spikes, total = self._spikes, self._num_rows
        edge, scale, length = self._edge(above)
        block = tridiagonal.block_length(length, k, self.beta, total) if cut else total
        exact = self._at_hard_edge(above, k, count, rng, overlaps)
        if exact is not None:
            return exact, np.empty((count, k, 0))
        work = 16.0 * block * (1 + 4 * spikes.size * (spikes.size > 1))
        held = 16.0 * count * k * (1 + spikes.size * overlaps)
        if held > work:
            require_memory(f"a result of {count} x {k} eigenvalues", held, "take a smaller `k` or `size`")
        else:
            require_memory(
                f"a block of {block} rows", work, "no row can be cut at the hard edge: take a smaller matrix"
            )
        streams = Streams.of(rng, count)
        # Of so few degrees of freedom entries vanish in float64, on which the recurrences of q and e rely.
        vanishing = form == QD and block == total and self.beta < _SMALLEST_BETA and spikes.size < 2
        if vanishing and overlaps:
            raise ValueError(f"`beta` must be >= {_SMALLEST_BETA} for overlaps of so few rows; got {self.beta}")
        if vanishing or (block == total and k > 8 + total // 32 and not overlaps):  # sterf is faster
            self._require(count, "take a smaller `k` or `size`")
            every = self._all(streams, 0, count, threads)[:, self._num_zeros :]
            return np.ascontiguousarray(every[:, -k:] if above else every[:, :k]), np.empty((count, k, 0))
        values = np.empty((count, k))
        seen = np.empty((count if overlaps else 0, k, spikes.size))
        words = streams.words
        flip = form == TRI and not above

        def piece(start: int, stop: int) -> None:
            out, squares = values[start:stop], seen[start:stop]
            if spikes.size < 2:
                spike = spikes[0] if spikes.size else float(form == QD)
                kernel = tridiagonal.outermost if k == 1 else tridiagonal.extremes
                kernel(
                    form, float(n), float(p), float(self.beta), spike, -1.0 if flip else 1.0, total, block, edge,
                    scale, above or flip, k, words, streams.first + start, out,
                    squares[:, :, 0] if overlaps else np.empty((0, 0)),
                )  # fmt: skip
            else:
                banded.band_extremes(
                    form, float(n), float(p), float(self.beta), spikes, total, block, scale, above, k, words,
                    streams.first + start, out, squares,
                )  # fmt: skip

        in_threads(piece, count, threads)
        if flip and spikes.size < 2:
            values = -values
        if form == QD:  # where it is 0 but for rounding
            np.maximum(values, 0, out=values)
        np.clip(seen, 0, 1, out=seen)
        if above:  # the outermost came first
            values, seen = values[:, ::-1], seen[:, ::-1]
        return np.ascontiguousarray(values) * self._unit, np.ascontiguousarray(seen)

    def _at_hard_edge(self, above: bool, k: int, count: int, rng: Seed, overlaps: bool) -> Floats | None:
        """Edelman's law of the smallest eigenvalue of a huge square matrix; None where it does not serve."""
        form, n, p = self._model
        if form == TRI or above or n != p or k != 1 or n < 2**23 or self._spikes.size or overlaps:
            return None
        if self.beta not in (1, 2):
            return None
        streams = Streams.of(rng, count)
        draws = np.array([streams.generator(i).standard_exponential() for i in range(count)])
        if self.beta == 1:
            draws = 4 * draws**2 / (1 + np.sqrt(1 + 2 * draws)) ** 2
        return draws[:, None] / n * self._unit

    def _require(self, count: int, instead: str) -> None:
        """Check that all eigenvalues of `count` replicates fit."""
        each, work = 8.0 * self.num_eigenvalues, 24.0 * self._num_rows * (1 + 2 * self._spikes.size)
        require_memory("`eigenvalues` of 1 replicate", each + work, "use `largest` or `smallest`")
        if count > 1:
            require_memory(f"`eigenvalues` of {count} replicates", count * each + work, instead)

    def _all(self, streams: Streams, first: int, last: int, threads: int | None) -> Floats:
        """All eigenvalues of replicates first..last - 1."""
        form, n, p = self._model
        spikes, total, zeros = self._spikes, self._num_rows, self._num_zeros
        words = streams.words
        result = np.zeros((last - first, self.num_eigenvalues))

        def piece(start: int, stop: int) -> None:
            for i in range(start, stop):
                index = streams.first + first + i
                if spikes.size < 2:
                    a, b = np.empty(total), np.empty(total)
                    spike = spikes[0] if spikes.size else float(form == QD)
                    tridiagonal.draw(form, float(n), float(p), float(self.beta), spike, total, words, index, a, b)
                    if form == QD:
                        off = np.sqrt(b[:-1] * a[1:])
                        a += b
                    else:
                        off = np.sqrt(b[:-1])
                    result[i, zeros:] = tridiagonal_eigenvalues(a, off)
                else:
                    num_rows = min(p, total + spikes.size) if form == QD else total
                    rows = np.empty((num_rows, spikes.size + 1), dtype=np.complex128)
                    band = np.empty((total, spikes.size + 1), dtype=np.complex128)
                    banded.draw_band(form, float(n), float(p), float(self.beta), spikes, words, index, rows, band)
                    lower = band.T if self.beta == 2 else band.real.T
                    result[i, zeros:] = eigvals_banded(lower[:total], lower=True)

        in_threads(piece, last - first, threads)
        result[:, zeros:] *= self._unit
        if form == QD:
            np.maximum(result, 0, out=result)
        return result


def normal_matrix(shape: tuple[int, int], beta: float, rng: Seed, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Independent standard entries, E abs(entry)^2 = 1: real, complex, or quaternion as 2 x 2 complex blocks."""
    draw: Any = generator(rng).standard_normal
    kind: Any = choice("dtype", np.dtype(dtype), (np.dtype(np.float32), np.dtype(np.float64))).type
    if beta == 1:
        return np.asarray(draw(shape, dtype=kind))
    parts = [draw(shape, dtype=kind) + 1j * draw(shape, dtype=kind) for _ in range(1 if beta == 2 else 2)]
    scale = kind(beta**-0.5)
    if beta == 2:
        return np.asarray(scale * parts[0])
    x, y = (scale * part for part in parts)
    return np.block([[x, y], [-y.conj(), x.conj()]])
