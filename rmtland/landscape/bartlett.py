"""Bartlett factors: as many standard normal rows as needed, without their rotation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator

Floats = npt.NDArray[np.float64]


class SharedRows:
    """Normal rows that several draws have in common, such as those along a sweep of sigma_z at one D.

    The first rows of a Bartlett factor are the factor of so many rows, so that each draw takes as many as it needs:
    each is exact in law, and differences between them are free of most of their noise.

    Parameters
    ----------
    rng : seed

    Examples
    --------
    >>> import rmtland as rl
    >>> rows = SharedRows(rng=0)
    >>> models = [rl.LandscapeModel.fort_ganguli(30, 3, 50, sigma_z=sigma_z) for sigma_z in (1.0, 1.1)]
    >>> low, high = (model.spectrum(rng=1, rows=rows).outliers()[-1] for model in models)
    >>> bool(abs(low - high) / low < 0.1)
    True
    """

    def __init__(self, rng: Seed = None) -> None:
        # A stream of its own, which `factor` rewinds: the caller's goes on, and its later numbers are others.
        self._rng = np.random.default_rng(generator(rng).integers(2**63, size=4))
        self._factor: Floats = np.empty((0, 0))
        self._num_columns = 0

    def __repr__(self) -> str:
        return f"SharedRows({' x '.join(map(str, self._factor.shape))} drawn)"

    def factor(self, num_rows: int, num_columns: int) -> Floats:
        """The Bartlett factor of num_rows x num_columns, not to be written to."""
        if self._num_columns not in (0, num_columns):
            raise ValueError(f"`rows` must be shared at one D; got {num_columns} after {self._num_columns}")
        if num_rows > self._factor.shape[0]:
            # Row by row from one stream: what was drawn before stays.
            self._num_columns = num_columns
            state = self._rng.bit_generator.state
            self._factor = bartlett_factor(num_rows, num_columns, self._rng)
            self._rng.bit_generator.state = state
        return self._factor[:num_rows, : min(num_rows, num_columns)]


def bartlett_factor(num_rows: int, num_columns: int, rng: np.random.Generator) -> Floats:
    """Lower trapezoidal factor of a standard normal num_rows x num_columns matrix, without its rotation.

    Parameters
    ----------
    num_rows, num_columns : int
        Columns may be 1e12: those beyond the rows cost nothing.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray (num_rows, min(num_rows, num_columns))
        L with L L^T in law X X^T; normal below the diagonal, chi_{num_columns - i} on it.

    References
    ----------
    Bartlett (1933), On the theory of statistical regression.

    Examples
    --------
    >>> import numpy as np
    >>> bartlett_factor(3, 10**12, np.random.default_rng(0)).shape
    (3, 3)
    """
    width = min(num_rows, num_columns)
    factor = np.zeros((num_rows, width))
    # Row by row, the diagonal entry too: more rows from the same stream begin with the same ones.
    for i in range(num_rows):
        rng.standard_normal(out=factor[i, : min(i, width)])
        if i < width:
            factor[i, i] = math.sqrt(rng.chisquare(float(num_columns - i)))
    return factor
