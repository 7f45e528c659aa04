"""What every theory of a spectrum says: densities, quantiles, the gradient's power and how it fluctuates.

The arguments are checked here; `predictions` and `structured` say how each is found.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy.typing as npt

from rmtland._arguments import finite_array, integer
from rmtland.landscape.theory.sums import Floats


class Spectral(ABC):
    """Predictions as functions of checked arguments; a subclass has an `equation`, D and how each is found."""

    equation: Any
    """With the gradient's mean square, `vector_square`."""
    num_classes: Any
    """C."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_classes} classes, {self.num_parameters:g} parameters)"

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """D."""

    @property
    @abstractmethod
    def _rank(self) -> float:
        """Number of eigenvalues that are not 0, or what it is at most."""

    @property
    def _null_power(self) -> float:
        """Share of the gradient outside of as many directions."""
        return 0.0

    @abstractmethod
    def _densities(self, x: Floats, of_gradient: bool) -> Floats:
        """Of eigenvalues, or of the squared gradient, at finite x (k,)."""

    @abstractmethod
    def _places(self, goals: Floats) -> Floats:
        """Where so many eigenvalues are above, each > 0 and <= D."""

    @abstractmethod
    def _power(self, count: int) -> float:
        """Share of the squared gradient along the top eigenvectors, 0 < count < rank."""

    @abstractmethod
    def _power_std(self, count: int) -> float:
        """Its standard deviation."""

    def pdf(self, x: npt.ArrayLike) -> Any:
        """Density of the eigenvalues of the D x D matrix: bulk and outliers, without the atom at 0.

        Parameters
        ----------
        x : array_like
            Eigenvalues.

        Returns
        -------
        float64 or ndarray of float64, shape of x
            Of mass 1 less the atom; 0 outside the support.

        Raises
        ------
        ValueError
            For x that are not finite; for a law whose eigenvalues are fixed.
        """
        return self._density_at(x, of_gradient=False)

    def gradient_pdf(self, x: npt.ArrayLike) -> Any:
        """Density of the squared gradient over the eigenvalues: its share along eigenvectors with eigenvalues near x.

        Parameters
        ----------
        x : array_like
            Eigenvalues.

        Returns
        -------
        float64 or ndarray of float64, shape of x
            Of mass 1 less what lies in the null space, which is 0 where no probability underflows. NaN where the
            gradient is zero.

        Raises
        ------
        ValueError
            For x that are not finite; for a law whose eigenvalues are fixed.
        """
        return self._density_at(x, of_gradient=True)

    def _density_at(self, x: npt.ArrayLike, of_gradient: bool) -> Any:
        points = finite_array("x", x)
        return self._densities(points.reshape(-1), of_gradient).reshape(points.shape)[()]

    def quantiles(self, above: npt.ArrayLike) -> Floats:
        """Where the counting function leaves the given numbers of eigenvalues above; 0 where there are not as many.

        Parameters
        ----------
        above : array_like, shape (k,)
            Numbers > 0, at most D.

        Returns
        -------
        ndarray of float64, shape (k,)

        Raises
        ------
        ValueError
            For numbers out of range.
        """
        goals = finite_array("above", above, ndim=1)
        if goals.size and not (goals.min() > 0 and goals.max() <= self.num_parameters):
            raise ValueError(f"`above` must be > 0 and <= D = {self.num_parameters}; got {goals.min()}..{goals.max()}")
        return self._places(goals)

    def gradient_power(self, num_directions: int) -> float:
        """Share of the squared gradient in the span of the `num_directions` top eigenvectors.

        Parameters
        ----------
        num_directions : int
            0..D.

        Returns
        -------
        float
            NaN where the gradient is zero.

        Notes
        -----
        A contour integral: through the gap of the spectrum with that many eigenvalues above it, or where there is none
        from the point of the curve with that count. Of the means of both squares; the mean of their ratio is lower by
        about 2 q (1 - q) / D.
        """
        count = integer("num_directions", num_directions, at_least=0, at_most=self.num_parameters)
        if not self.equation.vector_square > 0:
            return math.nan
        if count == 0:
            return 0.0
        if count >= self._rank:
            return 1.0 - self._null_power
        return min(max(self._power(count), 0.0), 1.0)

    def gradient_power_std(self, num_directions: int) -> float:
        """Standard deviation of that share over draws with the same logits, labels and, if measured, means.

        Parameters
        ----------
        num_directions : int
            0..D.

        Returns
        -------
        float
            NaN where the gradient is zero.

        Notes
        -----
        To first order in 1/D and 1/N, from the covariance of log-determinants (`fluctuations.power_deviation` and
        `structured_fluctuations` have the formulas). Larger than the 2 q (1 - q) / sqrt(D) of two independent Gaussian
        vectors in R^D, as the directions are drawn along with the gradient. In gaps within 3% of draws from N = 30, C =
        3, D = 150 on. Of the top eigenvector alone where it lies inside the bulk 6 (1)% high there, at sizes twice and
        four times as large, of the same bulk, 4 (1)% and -1 (2)%: a term of the next order in 1/D. Of two of them 3%,
        of four 1.5%.
        """
        count = integer("num_directions", num_directions, at_least=0, at_most=self.num_parameters)
        if not self.equation.vector_square > 0:
            return math.nan
        return 0.0 if count == 0 or count >= self._rank else self._power_std(count)
