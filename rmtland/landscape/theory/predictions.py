"""Predictions of a landscape model, whether given its logits or in expectation over the logit law.

All follow from z(u) = u + Psi'(-1/u) / D: the density is Im m / pi, m = -1/u; integrals of m dz count eigenvalues,
those of the quadratic form the gradient's power; Psi'(0) and Psi''(0) are the exact sums of eigenvalues and of their
squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rmtland._arguments import real
from rmtland.landscape.theory import transitions
from rmtland.landscape.theory.exact import Sums
from rmtland.landscape.theory.levels import Means, Residuals
from rmtland.landscape.theory.spectral import Spectral
from rmtland.landscape.theory.spikes import spikes_apart
from rmtland.landscape.theory.sums import Floats
from rmtland.laws.contours import power_above
from rmtland.laws.fluctuations import outliers_std, power_deviation
from rmtland.laws.solver import Solver


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


@dataclass(frozen=True, eq=False, repr=False)
class Theory(Sums, Spectral):
    """Predictions that follow from one equation: those of `Sums`, densities, counts, outliers, the gradient's power."""

    @cached_property
    def _fast(self) -> Solver:
        """The same near the outliers, where there are many."""
        equation = spikes_apart(self.equation)
        return self._solver if equation is self.equation else Solver(equation)

    @property
    def _rank(self) -> float:
        return self._solver.rank

    def _densities(self, x: Floats, of_gradient: bool) -> Floats:
        some = x > (-math.inf if self.sigma_H > 0 else 0.0)
        u = self._solver.solve(x[some] / self._unit)
        values = np.zeros(x.size)
        if of_gradient:
            values[some] = [self._power_at(w).imag / (math.pi * self._unit) if w.imag > 0 else 0.0 for w in u.tolist()]
        else:
            values[some] = np.abs((-1 / u).imag) / (math.pi * self._unit)
        return values

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

    def _places(self, goals: Floats) -> Floats:
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
        return transitions.residual_edge(self.examples, length, d, self.sigma_H)

    def transition_snr(self) -> Floats:
        """SNR from which on 1, 2, ..., C - 1 outliers stand apart from the bulk, with these logits, N, C and D.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Ascending: at the first the strongest outlier leaves the bulk, at the last the weakest. SNR is mean_length^2
            / residual_length^2, at the relative lengths at hand. inf for directions without curvature.

        Raises
        ------
        ValueError
            With class gradients, which have a bulk of their own; with an H-term but no residuals, whose length is the
            unit of SNR.

        Notes
        -----
        A direction of the mean part leaves the bulk where its eigenvalue of D T passes the u of `bulk_edge`. With s =
        -residual_length^2 / (N u) that is SNR k = u / residual_length^2, k the eigenvalues of K(s) between the relative
        lengths (of K(0) = P without cross terms). u / residual_length^2 depends on the logits, N, D and sigma_H /
        residual_length^2 alone: a closed form after one edge.
        """
        d = self.equation.num_parameters
        return transitions.transition_snr(self.examples, self.gradients, d, self.sigma_H, self.cross_terms)

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
        mean, own = float(values @ copies) / (self.num_classes - 1), self.sigma_H
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
            Whether or not they stand apart from the bulk (`transition_snr`, `bulk_edge`). Zeros beyond the rank, and
            for those that D < C - 1 lacks, among negative ones where there is an H-term.
        """
        return np.sort(self._outliers)

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
        return deviations[np.argsort(self._outliers, kind="stable")]

    @cached_property
    def _powers(self) -> dict[int, tuple[complex, float]]:
        """Boundaries and the gradient's power above them, of the counts that were asked for."""
        return {}

    def _power(self, count: int) -> float:
        if count not in self._powers:
            u = self._solver.boundary(count)
            gaps = [(k, u.real, power) for k, (u, power) in self._powers.items() if k < count and u.imag == 0]
            self._powers[count] = u, power_above(self._solver, u, count, max(gaps, default=(0, math.inf, 0.0)))
        return self._powers[count][1]

    def _power_std(self, count: int) -> float:
        return power_deviation(self._solver, self._solver.boundary(count))
