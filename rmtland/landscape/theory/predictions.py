"""Predictions that follow from a deterministic equivalent, whether of given logits or of the logit law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array, integer, real
from rmtland.landscape.theory.equivalent import Equation
from rmtland.landscape.theory.examples import Array, Floats
from rmtland.landscape.theory.fluctuations import outlier_deviations, power_deviation, ratio_deviation
from rmtland.landscape.theory.solver import Solver
from rmtland.landscape.theory.spikes import spikes_apart
from rmtland.laws._law import Complexes


@dataclass(frozen=True, eq=False)
class Theory:
    """Predictions that follow from one deterministic equivalent.

    Parameters
    ----------
    equation : Equation
        The equation of the Gauss-Newton matrix.
    num_classes : int
        C.
    """

    equation: Equation
    num_classes: int

    @cached_property
    def _solver(self) -> Solver:
        return Solver(self.equation)

    @cached_property
    def _fast(self) -> Solver:
        """The same near the outliers, where there are many."""
        equation = spikes_apart(self.equation)
        return self._solver if equation is self.equation else Solver(equation)

    @property
    def num_parameters(self) -> int:
        """D."""
        return int(self.equation.num_parameters)

    @property
    def atom(self) -> float:
        """Share of the D eigenvalues that are zero."""
        return 1.0 - self._solver.rank / self.equation.num_parameters

    def _solutions(self, x: npt.ArrayLike) -> tuple[Complexes, npt.NDArray[np.bool_], tuple[int, ...]]:
        """Solutions u at the x where there may be eigenvalues other than 0, where those are, and the shape of x."""
        points = finite_array("x", x)
        there = points.reshape(-1) > (-math.inf if self._has_h_term else 0.0)
        return self._solver.solve(points.reshape(-1)[there]), there, points.shape

    @property
    def _has_h_term(self) -> bool:
        return self.equation.sigma_H > 0

    def density(self, x: npt.ArrayLike) -> Any:
        """Density of the eigenvalues of the D x D Hessian: bulk and outliers, without the atom at 0.

        Parameters
        ----------
        x : array_like
            Eigenvalues.

        Returns
        -------
        float64 or ndarray of float64, shape of x
            Of mass 1 - `atom`; 0 outside the support.

        Raises
        ------
        ValueError
            For x that are not finite.
        """
        u, there, shape = self._solutions(x)
        values = np.zeros(there.size)
        values[there] = np.abs((-1 / u).imag) / math.pi
        return values.reshape(shape)[()]

    def gradient_density(self, x: npt.ArrayLike) -> Any:
        """Density of the squared gradient over the eigenvalues: its share along eigenvectors with eigenvalues near x.

        Parameters
        ----------
        x : array_like
            Eigenvalues.

        Returns
        -------
        float64 or ndarray of float64, shape of x
            Of mass 1 where no probability underflows. NaN where the gradient is zero.

        Raises
        ------
        ValueError
            For x that are not finite.
        """
        u, there, shape = self._solutions(x)
        values = np.zeros(there.size)
        values[there] = [self._power_at(w).imag / math.pi if w.imag > 0 else 0.0 for w in u.tolist()]
        return values.reshape(shape)[()]

    def _power_at(self, u: complex) -> complex:
        return complex(self.equation.power_at(u)) if self.equation.gradient_square > 0 else complex(math.nan, math.nan)

    def count_above(self, x: float) -> float:
        """Expected number of eigenvalues above x; a whole number in the gaps of the spectrum.

        Parameters
        ----------
        x : float
            An eigenvalue, >= 0 without an H-term; at 0 then the number of nonzero ones.

        Returns
        -------
        float
        """
        x = real("x", x, at_least=None if self._has_h_term else 0)
        if x == 0 and not self._has_h_term:
            return self._solver.rank
        return self._solver.count_above(complex(self._solver.solve(np.array([x]))[0]))

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
        return self._quantiles(goals, self._solver)

    def _quantiles(self, goals: Array, solver: Solver) -> Floats:
        there = goals < solver.rank
        values = np.zeros(goals.size)
        values[there] = [
            float(np.real(solver.equation.map(u if u.imag > 0 else u.real, False)[0]))
            for u in solver.quantiles(goals[there])
        ]
        return values

    @cached_property
    def _outliers(self) -> Floats:
        return self._quantiles(np.arange(self.num_classes - 1, 0, -1) - 0.5, self._fast)

    def outliers(self) -> Floats:
        """The C - 1 largest eigenvalues, ascending: the j-th largest where the theory has j - 1/2 eigenvalues above.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Whether or not they stand apart from the bulk (`transition_snr`, `bulk_edge`). Zero beyond the rank.
        """
        return self._outliers.copy()

    def outlier_deviations(self) -> Floats:
        """Standard deviations of the outliers over draws with the same logits.

        Returns
        -------
        ndarray of float64, shape (C - 1,)

        Notes
        -----
        To first order in 1/D and 1/N, whether they stand apart from the bulk or not: from the covariance of
        log-determinants (`fluctuations.outlier_deviations` has the formula), each outlier between its neighbours'
        quantiles. Within 4% of draws from N = 30, C = 3, D = 150 on.
        """
        deviations = np.zeros(self.num_classes - 1)
        rank = self._solver.rank
        count = min(self.num_classes - 1, math.ceil(rank))
        boundaries = [self._fast.boundary(j) if j < rank else 0j for j in range(1, count + 1)]
        deviations[self.num_classes - 1 - count :] = outlier_deviations(self._fast, boundaries)[::-1]
        return deviations

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
        if not self.equation.gradient_square > 0:
            return math.nan
        if count == 0:
            return 0.0
        if count >= self._solver.rank:
            return 1.0
        return min(max(self._solver.power_above(self._solver.boundary(count)), 0.0), 1.0)

    def gradient_power_deviation(self, num_directions: int) -> float:
        """Standard deviation of that share over draws with the same logits and labels.

        Parameters
        ----------
        num_directions : int
            0..D.

        Returns
        -------
        float

        Notes
        -----
        To first order in 1/D and 1/N, from the covariance of log-determinants (`fluctuations.power_deviation` has the
        formula). Larger than the 2 q (1 - q) / sqrt(D) of two independent Gaussian vectors in R^D, as the directions
        are drawn along with the gradient. Within 3% of draws from N = 30, C = 3, D = 150 on.
        """
        count = integer("num_directions", num_directions, at_least=0, at_most=self.num_parameters)
        if not self.equation.gradient_square > 0:
            return math.nan
        if count == 0 or count >= self._solver.rank:
            return 0.0
        return power_deviation(self._solver, self._solver.boundary(count))

    @property
    def trace(self) -> float:
        """Mean of the trace over draws with these logits: exact."""
        return self.equation.power_sums[0]

    @property
    def frobenius(self) -> float:
        """Root of the mean of the squared Frobenius norm: exact."""
        first, second = self.equation.power_sums
        d = self.equation.num_parameters
        return math.sqrt(first**2 / d + (1 + 1 / d) * second)

    def goldilocks_ratio(self, dimension: int | None = None) -> float:
        """Trace over Frobenius norm, by the exact means of the trace and of the squared norm.

        Parameters
        ----------
        dimension : int, optional
            The matrix projected on a random hyperplane through the origin of this dimension, 1..D; all of it by
            default. Such a projection is the same model with D replaced.

        Returns
        -------
        float

        References
        ----------
        Fort and Scherlis (2019); Fort and Ganguli (2019), sec. 2.4 and fig. 8.
        """
        d = self._dimension(dimension)
        first, second = self.equation.power_sums
        return first * math.sqrt(d) / math.sqrt(first**2 + (d + 1) * second)

    def goldilocks_deviation(self, dimension: int | None = None) -> float:
        """Standard deviation of the ratio over draws, by the exact covariance of trace and squared norm (delta method).

        Parameters
        ----------
        dimension : int, optional
            As in `goldilocks_ratio`.

        Returns
        -------
        float

        Notes
        -----
        Too large where the ratio's relative fluctuations are not small: by 4% at D = 300, by 15% at D = 100.
        """
        return ratio_deviation(self.equation, self._dimension(dimension))

    def _dimension(self, dimension: int | None) -> int:
        if dimension is None:
            return self.num_parameters
        return integer("dimension", dimension, at_least=1, at_most=self.num_parameters)
