"""Spectra of the residuals' covariance in parameter space."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from rmtland._arguments import finite_array, real, require_memory
from rmtland._arrays import told

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ResidualCovariance:
    """Eigenvalues of the covariance that all residuals share in parameter space, up to a scale.

    Parameters
    ----------
    eigenvalues : array_like (k,), optional
        >= 0, in any unit: shares of the residuals' squared length are what counts. The D that are not given are 0. By
        default all D are equal, whatever D is.
    multiplicities : array_like (k,), optional
        How many directions have each, whole numbers >= 1, as float64 (1e12 will do); 1 by default.

    Raises
    ------
    ValueError, TypeError
        For eigenvalues that are negative, not finite or all zero, or multiplicities out of range.

    References
    ----------
    Marchenko and Pastur (1967); Silverstein (1995) for a general population spectrum.

    Examples
    --------
    >>> import rmtland as rl
    >>> rl.ResidualCovariance([4.0, 1.0], [1, 4]).effective_dimension
    3.2
    >>> round(rl.ResidualCovariance.power_law(0.8, cut=1000).effective_dimension, 1)
    105.9
    """

    eigenvalues: npt.ArrayLike | None = None
    multiplicities: npt.ArrayLike | None = None
    _shares: tuple[Floats, Floats] | None = field(init=False, repr=False, default=None)

    __repr__ = told

    def __post_init__(self) -> None:
        if self.eigenvalues is None:
            if self.multiplicities is not None:
                raise ValueError("`multiplicities` must be left out without `eigenvalues`")
            return
        values = finite_array("eigenvalues", self.eigenvalues, ndim=1)
        counts = np.ones(values.size)
        if self.multiplicities is not None:
            counts = finite_array("multiplicities", self.multiplicities, ndim=1)
        if counts.shape != values.shape:
            raise ValueError(f"`multiplicities` must have {values.size} entries; got {counts.size}")
        if (counts < 1).any() or (counts != np.floor(counts)).any():
            raise ValueError(f"`multiplicities` must be whole numbers >= 1; got {counts.min():g}")
        if (values < 0).any() or not values.any():
            raise ValueError(f"`eigenvalues` must be >= 0 and not all 0; got {values.min(initial=0.0):g} at least")
        some = values > 0
        values, counts = values[some] / values.max(), counts[some]
        object.__setattr__(self, "_shares", (values / (counts @ values), counts))

    @classmethod
    def power_law(cls, exponent: float, cut: int) -> ResidualCovariance:
        """Eigenvalues j^(-exponent), j = 1, ..., cut.

        Parameters
        ----------
        exponent : float
            >= 0.
        cut : int
            How many there are, >= 1.

        Returns
        -------
        ResidualCovariance
        """
        exponent, cut = real("exponent", exponent, at_least=0), int(real("cut", cut, at_least=1))
        return cls(np.arange(1.0, cut + 1) ** -exponent)

    @classmethod
    def from_effective_dimension(cls, dimension: float, exponent: float = 0.8) -> ResidualCovariance:
        """The power law of this exponent whose effective dimension is the one given.

        Parameters
        ----------
        dimension : float
            (tr Sigma)^2 / tr Sigma^2, >= 1.
        exponent : float
            In [0, 1): from 1 on the effective dimension stays bounded. 0: so many equal eigenvalues, and one smaller.

        Returns
        -------
        ResidualCovariance
            With eigenvalues j^(-exponent), the last of them scaled down so that the dimension is met.

        Raises
        ------
        MemoryError
            Where there are more eigenvalues than fit: of dimension 10^6 3 10^11 and more, for an exponent of 0.8.
        """
        dimension = real("dimension", dimension, at_least=1, at_most=1e6)
        exponent = real("exponent", exponent, at_least=0, below=1)

        def of_first(count: float) -> float:
            values = np.arange(1.0, count + 1) ** -exponent
            return float(values.sum() ** 2 / (values @ values))

        # Fewer have less: their sum is below the integral, their squares' above 1.
        growth = math.log1p((1 - exponent) * (math.sqrt(dimension) - 1)) / (1 - exponent)
        count = float(max(2, math.ceil(dimension), math.floor(math.exp(min(growth, 700.0)))))
        while True:
            require_memory(
                f"a power law of effective dimension {dimension:g}", 24.0 * count, "use an exponent closer to 0"
            )
            if of_first(count) >= dimension:
                break
            count *= 2
        low = 0.0
        while count - low > 1:
            middle = math.floor(0.5 * (low + count))
            low, count = (middle, count) if of_first(middle) < dimension else (low, middle)
        values = np.arange(1.0, count + 1) ** -exponent
        rest, squares = values[:-1].sum(), values[:-1] @ values[:-1]

        def excess(last: float) -> float:
            return float((rest + last) ** 2 / (squares + last**2)) - dimension

        if excess(values[-1]) > 0 > excess(0.0):
            values[-1] = brentq(excess, 0.0, values[-1])
        return cls(values[values > 0])

    @property
    def isotropic(self) -> bool:
        """Whether all directions are alike."""
        return self._shares is None

    @property
    def effective_dimension(self) -> float:
        """(tr Sigma)^2 / tr Sigma^2; inf where all D eigenvalues are equal, for whatever D."""
        if self._shares is None:
            return math.inf
        values, counts = self._shares
        return float(1 / (counts @ values**2))

    def shares(self, num_parameters: int) -> tuple[Floats, Floats]:
        """Positive eigenvalues of trace 1 in D dimensions, largest first, and how many directions have each.

        Parameters
        ----------
        num_parameters : int
            D.

        Returns
        -------
        shares, multiplicities : ndarray (k,)

        Raises
        ------
        ValueError
            For more eigenvalues than D.
        """
        if self._shares is None:
            return np.array([1.0 / num_parameters]), np.array([float(num_parameters)])
        values, counts = self._shares
        if counts.sum() > num_parameters:
            raise ValueError(
                f"`covariance` must have at most D = {num_parameters} positive eigenvalues; got {counts.sum():g}"
            )
        distinct, index = np.unique(-values, return_inverse=True)
        return -distinct, np.bincount(index, weights=counts).astype(np.float64)
