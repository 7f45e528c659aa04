"""Predictions of a landscape model, whether given its logits or in expectation over the logit law.

All follow from z(u) = u + Psi'(-1/u) / D: the density is Im m / pi, m = -1/u; integrals of m dz count eigenvalues,
those of the quadratic form the gradient's power; Psi'(0) and Psi''(0) are the exact sums of eigenvalues and of their
squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array, integer, real
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.theory import transitions
from rmtland.landscape.theory.examples import Examples
from rmtland.landscape.theory.fluctuations import outliers_std, power_deviation, ratio_deviation
from rmtland.landscape.theory.levels import Means, Residuals, levels_of
from rmtland.landscape.theory.spikes import spikes_apart
from rmtland.landscape.theory.sums import Floats
from rmtland.laws._law import Complexes
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Semicircle, Subordination


@dataclass(frozen=True)
class FirstOrder:
    """Mean outlier to first order, in closed form, and how far that is from the full theory.

    Attributes
    ----------
    mean_outlier : float
        mean_length^2 tr P / (C - 1) + residual_length^2 tr P / D (the lengths of unequal means by the mean of their
        squares), P = (1/N) sum_mu A_mu: D sigma_c^2 C E p_1 p_2 + sigma_E^2 C (C - 1) E p_1 p_2 with the averages of
        the logits at hand. With an H-term sigma_H^2 over the first of these comes on top, or sigma_H where that is
        larger than the first: such outliers are swallowed.
    error : float
        mean_outlier over the mean of the outliers of the full theory, less 1; NaN where that is 0.
    """

    mean_outlier: float
    error: float


@dataclass(frozen=True, eq=False)
class Theory:
    """Predictions that follow from one equation.

    Parameters
    ----------
    equation : Subordination
        The equation of the Hessian, in u = -1/m, m the Stieltjes transform; eigenvalues in units of `examples.unit`.
    examples : Examples
        What it averages over.
    gradients : ClusteredGradients
        The gradient law.
    sigma_H : float
        Scale of the H-term.
    cross_terms : bool
        Whether products of means, class gradients and residuals are in it.
    """

    equation: Subordination
    examples: Examples = field(repr=False)
    gradients: ClusteredGradients
    sigma_H: float
    cross_terms: bool

    @classmethod
    def over(
        cls, examples: Examples, gradients: ClusteredGradients, num_parameters: int, sigma_H: float, cross_terms: bool
    ) -> Self:
        """The theory of these examples.

        Raises
        ------
        ValueError
            Where the gradients have no length that the logits' curvature sees.
        """
        levels, d = levels_of(examples, gradients, cross_terms), float(num_parameters)
        if not (levels and Subordination(levels, d).power_sums[0] > 0):
            raise ValueError("`gradients` must have a positive length where the logits have curvature; got none")
        if sigma_H > 0:
            levels = (*levels, Semicircle(sigma_H / examples.unit, d))
        return cls(Subordination(levels, d), examples, gradients, sigma_H, cross_terms)

    @cached_property
    def _solver(self) -> Solver:
        return Solver(self.equation)

    @cached_property
    def _fast(self) -> Solver:
        """The same near the outliers, where there are many."""
        equation = spikes_apart(self.equation)
        return self._solver if equation is self.equation else Solver(equation)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.examples.num_classes

    @property
    def _unit(self) -> float:
        return self.examples.unit

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
        some = points.reshape(-1) > (-math.inf if self.sigma_H > 0 else 0.0)
        return self._solver.solve(points.reshape(-1)[some] / self._unit), some, points.shape

    def pdf(self, x: npt.ArrayLike) -> Any:
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
        u, some, shape = self._solutions(x)
        values = np.zeros(some.size)
        values[some] = np.abs((-1 / u).imag) / (math.pi * self._unit)
        return values.reshape(shape)[()]

    def gradient_pdf(self, x: npt.ArrayLike) -> Any:
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
        u, some, shape = self._solutions(x)
        values = np.zeros(some.size)
        values[some] = [self._power_at(w).imag / (math.pi * self._unit) if w.imag > 0 else 0.0 for w in u.tolist()]
        return values.reshape(shape)[()]

    def _power_at(self, u: complex) -> complex:
        return complex(self.equation.power_at(u)) if self.equation.vector_square > 0 else complex(math.nan, math.nan)

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
        x = real("x", x, at_least=None if self.sigma_H > 0 else 0) / self._unit
        if x == 0 and not self.sigma_H > 0:
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

    def _quantiles(self, goals: Floats, solver: Solver) -> Floats:
        some = goals < solver.rank
        values = np.zeros(goals.size)
        values[some] = self._unit * solver.quantiles(goals[some])
        return values

    @cached_property
    def bulk_edge(self) -> float:
        """Upper edge of the asymptotic law of (1/N) sum_mu E_mu^T A_mu E_mu, the residual part, plus the H-term.

        z(u) = u + (1/D) sum_i t_i u / (u - t_i) + sigma_H^2 / u at the u beyond all t_i with sum_i t_i^2 / (u - t_i)^2
        / D + sigma_H^2 / u^2 = 1, the t_i being residual_length^2 / N times the eigenvalues of all A_mu: eq. (16)'s
        bulk. Cross terms push the bulk down by a share of order C / N of it at most, and class gradients have
        eigenvalues of their own above it. 0 without residuals and H-term.
        """
        return self._unit * self._edge[1]

    @cached_property
    def _edge(self) -> tuple[float, float]:
        length, d = self.gradients.residual_length, self.equation.num_parameters
        return transitions.residual_edge(self.examples, length, d, self.sigma_H / self._unit)

    def _transition_snr(self) -> Floats:
        d, own = self.equation.num_parameters, self.sigma_H / self._unit
        return transitions.transition_snr(self.examples, self.gradients, d, own, self.cross_terms)

    def transition_sigma_H(self) -> Floats:
        """Scale of the H-term from which on each outlier is swallowed by the bulk, with everything else as it is.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Ascending, in the order of `outliers`. 0 for directions that no bulk leaves out, whatever its H-term.

        Raises
        ------
        ValueError
            With class gradients, which have a bulk of their own.

        Notes
        -----
        An H-term leaves the eigenvalues theta of D T alone and adds sigma_H^2 / u to z(u). The outlier of theta is
        there as long as z has a positive slope at theta: sigma_H^2 < theta^2 (1 - sum_i t_i^2 / (theta - t_i)^2 / D),
        the sum over the residual part. Without residuals that is sigma_H < theta, the threshold of a spike on a Wigner
        matrix.

        References
        ----------
        Fort and Ganguli (2019), sec. 3.1, describe the transition in words. Peche (2006), theorem 1.1, and Capitaine,
        Donati-Martin, Feral and Fevrier (2011), theorem 8.1, for spikes on a Wigner matrix and on a general bulk plus
        one; here with a bulk and spikes of one matrix.
        """
        d = self.equation.num_parameters
        return self._unit * transitions.transition_sigma_H(self.examples, self.gradients, d, self.cross_terms)

    def first_order(self) -> FirstOrder:
        """The mean outlier in closed form, and its error against `outliers`."""
        factor = self.examples.factor(self.gradients.mean_lengths(self.num_classes))
        values, copies = Means(Residuals(self.examples, 0.0), factor).eigenvalues(0.0)
        mean, own = float(values @ copies) / (self.num_classes - 1), self.sigma_H / self._unit
        lengths = self.gradients.residual_length**2 + self.gradients.class_length**2
        value = mean + lengths * float(self.examples.at_zero.traces[0]) / self.num_parameters
        if own > 0 and mean > 0:
            value += own * min(own / mean, 1.0)
        mean = float(self.outliers().mean())
        return FirstOrder(self._unit * value, self._unit * value / mean - 1 if mean != 0 else math.nan)

    @cached_property
    def _outliers(self) -> Floats:
        return self._quantiles(np.arange(self.num_classes - 1.0, 0.0, -1.0) - 0.5, self._fast)

    def outliers(self) -> Floats:
        """The C - 1 largest eigenvalues, ascending: the j-th largest where the theory has j - 1/2 eigenvalues above.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Whether or not they stand apart from the bulk (`transition_snr`, `bulk_edge`). Zero beyond the rank.
        """
        return self._outliers.copy()

    def outliers_std(self) -> Floats:
        """Standard deviations of the outliers over draws with the same logits.

        Returns
        -------
        ndarray of float64, shape (C - 1,)

        Notes
        -----
        To first order in 1/D and 1/N, whether they stand apart from the bulk or not: from the covariance of
        log-determinants (`fluctuations.outliers_std` has the formula), each outlier between its neighbours'
        quantiles. Within 4% of draws from N = 30, C = 3, D = 150 on.
        """
        deviations = np.zeros(self.num_classes - 1)
        rank = self._solver.rank
        count = min(self.num_classes - 1, math.ceil(rank))
        boundaries = [self._fast.boundary(j) if j < rank else 0j for j in range(1, count + 1)]
        deviations[self.num_classes - 1 - count :] = self._unit * outliers_std(self._fast, boundaries)[::-1]
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
        if not self.equation.vector_square > 0:
            return math.nan
        if count == 0:
            return 0.0
        if count >= self._solver.rank:
            return 1.0
        return min(max(self._solver.power_above(self._solver.boundary(count)), 0.0), 1.0)

    def gradient_power_std(self, num_directions: int) -> float:
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
        if not self.equation.vector_square > 0:
            return math.nan
        if count == 0 or count >= self._solver.rank:
            return 0.0
        return power_deviation(self._solver, self._solver.boundary(count))

    @property
    def trace(self) -> float:
        """Mean of the trace over draws with these logits: exact."""
        return self._unit * self.equation.power_sums[0]

    @property
    def frobenius(self) -> float:
        """Root of the mean of the squared Frobenius norm: exact."""
        first, second = self.equation.power_sums
        d = self.equation.num_parameters
        return self._unit * math.sqrt(first**2 / d + (1 + 1 / d) * second)

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

    def goldilocks_ratio_std(self, dimension: int | None = None) -> float:
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
