"""Where an eigenvalue t = theta, beside the atoms of a law, takes the one that it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array
from rmtland.laws._law import Floats
from rmtland.laws.atoms.plain import PlainAtoms


class SpikeMap(ABC):
    """Outliers of a law of known atoms."""

    @property
    @abstractmethod
    def _atoms(self) -> PlainAtoms: ...

    @property
    @abstractmethod
    def _unit(self) -> float: ...

    def _map(self, theta: Floats) -> tuple[Floats, Floats]:
        """Location of an outlier and its derivative in units of D (1 for a sample covariance); an outlier iff > 0."""
        value, slope = self._atoms.at_spikes(theta)
        return self._unit * value, slope

    def _spikes(self, theta: npt.ArrayLike) -> tuple[Floats, tuple[int, ...]]:
        array = finite_array("theta", theta)
        if (array <= 0).any():
            raise ValueError(f"`theta` must be > 0; got {array.min()}")
        return array.reshape(-1), array.shape

    def is_outlier(self, theta: npt.ArrayLike) -> Any:
        """Whether t = theta gives an eigenvalue apart from those of the others: D > sum_j w_j t_j^2 / (theta - t_j)^2.

        Parameters
        ----------
        theta : array_like
            Spikes > 0, on the scale of `eigenvalues` (of the population, for a sample covariance); among these or not:
            the sum leaves copies of theta out, so that a law may be asked about its own spikes.

        Returns
        -------
        bool or ndarray of bool, shape of theta
        """
        array, shape = self._spikes(theta)
        return (self._map(array)[1] > 0).reshape(shape)[()]

    def outlier(self, theta: npt.ArrayLike) -> Any:
        """Where the eigenvalue of t = theta goes: theta (D + sum_j w_j t_j / (theta - t_j)).

        Parameters
        ----------
        theta : array_like
            As in `is_outlier`; also between bands and below all of them.

        Returns
        -------
        float64 or ndarray of float64, shape of theta
            NaN where there is no outlier (`is_outlier` is false): the eigenvalue stays with the bulk. To first order;
            spikes that are many or near each other are better served by `locations`.
        """
        array, shape = self._spikes(theta)
        location, slope = self._map(array)
        return np.where(slope > 0, location, np.nan).reshape(shape)[()]

    @property
    def thresholds(self) -> tuple[float, float]:
        """Outermost ends of the spikes that give no outlier: below the first or above the second, theta always does.

        The first is 0, so that nothing is below it, unless N < D. Between bands only `is_outlier` tells.
        """
        low, high = self._atoms.ends
        return max(0.0, low), high

    def place(self, theta: npt.ArrayLike) -> Any:
        """Where the eigenvalue of t = theta stays if it is no outlier.

        Parameters
        ----------
        theta : array_like
            As in `is_outlier`.

        Returns
        -------
        float64 or ndarray of float64, shape of theta
            The edge of the band whose population theta is beyond; where theta is among that population, the point of
            the band that belongs to it; NaN for outliers.
        """
        array, shape = self._spikes(theta)
        result = np.full(array.size, np.nan)
        for j in np.flatnonzero(~(self._map(array)[1] > 0)):
            result[j] = self._unit * self._atoms.place(array[j])
        return result.reshape(shape)[()]
