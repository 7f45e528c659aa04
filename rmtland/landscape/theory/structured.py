"""Predictions for gradient laws of means and anisotropic residuals, given the logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rmtland._arguments import integer, real
from rmtland.landscape.theory import structured_fluctuations as fluctuations
from rmtland.landscape.theory.continuation import Continuation
from rmtland.landscape.theory.separable import Separable, State
from rmtland.landscape.theory.spectral import Spectral
from rmtland.landscape.weighted_rows import WeightedRows

Floats = npt.NDArray[np.float64]

SMALLEST = 1e-76
"""Largest eigenvalue whose powers, and their inverses, stay within float64."""
WEAKEST = 1e-11
"""Of the residuals' largest eigenvalue beside all: below it means and residuals are not told apart."""
LEAST = 1e-14
"""Of the means' largest eigenvalue: less is rounding."""
NEAR = 1e-6
"""From a whole number: a count in a gap."""


@dataclass(frozen=True, eq=False, repr=False)
class StructuredTheory(Spectral):
    """Theory of a landscape model with `AnisotropicGradients` or `KernelGradients`; made by `LandscapeModel.theory`.

    Attributes
    ----------
    equation : Separable
        The deterministic equivalent.
    num_classes : int
        C.

    Notes
    -----
    Predictions are means over draws of the residuals, given logits, labels and the means' Gram matrix, to first order
    in 1/N and one over the effective dimension; trace and Frobenius norm are exact. Where a combination of residuals is
    0 (`cancelling`), the gradient and these two know it; the rest takes the rows' covariance as it is without that one
    of N (C - 1) directions. Where the law has no residuals (`KernelGradients` without an effective dimension), all is
    exact, and there is no density.

    References
    ----------
    Hachem, Loubaton and Najim (2007) for the equivalent; Hachem, Kharouf, Najim and Silverstein (2012) for its
    fluctuations; the gradient's part is this package's.
    """

    equation: Separable = field(repr=False)
    num_classes: int

    @classmethod
    def over(cls, rows: WeightedRows, num_parameters: int, num_classes: int) -> StructuredTheory:
        """The theory of such rows in D parameters.

        Raises
        ------
        ValueError
            Where the rows are zero, or so short that powers of eigenvalues leave float64; where the residuals are lost
            beside the means, or the means have a larger rank than D.
        """
        rows.check(num_parameters)
        equation = Separable(rows, float(num_parameters))
        if not (rows.scales.size and equation.power_sums[0] > 0):
            raise ValueError("`gradients` must have a positive length where the logits have curvature; got none")
        top, own = equation.reach, equation.residual_reach
        if top < SMALLEST:
            raise ValueError(
                f"`gradients` must be so long that the largest eigenvalue is >= {SMALLEST:g}, or powers of it leave "
                f"float64; got about {top:g}"
            )
        if 0 < own < WEAKEST * top:
            raise ValueError(
                f"`gradients` must have no residuals, or some whose eigenvalues float64 holds beside the means', "
                f">= {WEAKEST:g} times the largest; got {own:.1g} and {top:.1g}"
            )
        return cls(equation, num_classes)

    @property
    def num_parameters(self) -> int:
        """D."""
        return int(self.equation.num_parameters)

    @cached_property
    def _points(self) -> tuple[Floats, Floats] | None:
        """Eigenvalues, descending, and shares of the gradient, where nothing is random."""
        equation = self.equation
        if equation.rows.spread:
            return None
        values, vectors = np.linalg.eigh(equation.kernel(0.0)[0])
        gradient = equation.rows.mean_slopes @ equation.rows.factor
        square = equation.vector_square
        powers = (vectors.T @ gradient) ** 2 / square if square > 0 else np.full(values.size, math.nan)
        return np.maximum(values[::-1], 0.0), powers[::-1]

    def _require_density(self) -> None:
        if self._points is not None:
            raise ValueError("`gradients` must have residuals for a density: its eigenvalues are fixed, see spectrum()")

    @cached_property
    def _solver(self) -> Continuation:
        return Continuation(self.equation)

    def _along(self, x: Floats) -> list[State]:
        """Solutions at x + i0, x > 0 in any order; those of the last call are kept."""
        if self._last and np.array_equal(self._last[0][0], x):
            return self._last[0][1]
        found: dict[int, State] = {}
        before: State | None = None
        for j in np.argsort(x)[::-1].tolist():
            state = None if before is None else self._solver.beside(before, float(x[j]))
            found[j] = before = self._solver.solve(float(x[j])) if state is None else state
        self._last[:] = [(x, [found[j] for j in range(x.size)])]
        return self._last[0][1]

    @cached_property
    def _last(self) -> list[tuple[Floats, list[State]]]:
        return []

    def _densities(self, x: Floats, of_gradient: bool) -> Floats:
        self._require_density()
        values = np.zeros(x.size)
        some = np.flatnonzero((x > 0) & (x < 1.5 * self.equation.reach))
        square = self.equation.vector_square
        if of_gradient and not square > 0:
            values[some] = math.nan
            return values
        for j, state in zip(some.tolist(), self._along(x[some]), strict=True):
            found = self.equation.power(state) / square if of_gradient else state.trace / self.num_parameters
            values[j] = max(found.imag / math.pi, 0.0)
        return values

    def count_above(self, x: float) -> float:
        """Expected number of eigenvalues above x; a whole number in the gaps of the spectrum.

        Parameters
        ----------
        x : float
            >= 0.

        Returns
        -------
        float
        """
        x = real("x", x, at_least=0)
        if self._points is not None:
            return float(np.count_nonzero(self._points[0] > x))
        return self.equation.count_above(self._solver.solve(max(x, 1e-9 * self.equation.reach)))

    @cached_property
    def bulk_edge(self) -> float:
        """Upper edge of the law of the residual part alone; 0 without residuals."""
        return self.equation.residual.edge

    @cached_property
    def _spikes(self) -> Floats:
        """Rough places of eigenvalues that the means take out of the bulk, largest first."""
        return self.equation.spikes(2 * self.num_classes + 2)

    def _places(self, goals: Floats) -> Floats:
        return np.array([self._quantile(goal) for goal in goals.tolist()])

    def _quantile(self, goal: float) -> float:
        if self._points is not None:
            index = math.ceil(goal) - 1
            return float(self._points[0][index]) if index < self._points[0].size else 0.0
        return self._at_count(goal).z.real if goal < self._rank else 0.0

    @cached_property
    def _rank(self) -> float:
        """At most so many eigenvalues are not 0: of residuals, and of means that rows see."""
        equation = self.equation
        shares, counts = equation.spectrum
        own = min(float(np.count_nonzero(equation.t)), float(counts[shares > 0].sum()))
        squares = equation.mean_squares
        means = int(np.count_nonzero(squares > LEAST * squares.max(initial=0.0)))
        return float(min(equation.t.size, self.num_parameters, own + means))

    def _at_count(self, goal: float) -> State:
        key = round(goal, 9)
        if key not in self._states:
            index = math.ceil(goal) - 1
            near = self._spikes[index] if index < self._spikes.size else self.bulk_edge
            self._states[key] = self._solver.quantile(goal, float(near) or 0.5 * self.equation.reach)
        return self._states[key]

    @cached_property
    def _states(self) -> dict[float, State]:
        return {}

    def outliers(self, k: int | None = None) -> Floats:
        """The C - 1 (or `k`) largest eigenvalues, ascending: the j-th where j - 1/2 eigenvalues are above.

        Parameters
        ----------
        k : int, optional

        Returns
        -------
        ndarray of float64, shape (k,)
        """
        number = integer("k", self.num_classes - 1 if k is None else k, at_least=1)
        return self.quantiles(np.arange(float(number), 0.0, -1.0) - 0.5)

    def _boundary(self, count: int) -> fluctuations.Boundary:
        """A point of the axis with so many eigenvalues above it: in the gap, or where there is none in the bulk."""
        if count not in self._boundaries:
            self._boundaries[count] = self._find_boundary(count)
        return self._boundaries[count]

    @cached_property
    def _boundaries(self) -> dict[int, fluctuations.Boundary]:
        return {}

    def _find_boundary(self, count: int) -> fluctuations.Boundary:
        high = self._at_count(count - 0.5).z.real
        low = float(self._spikes[count]) if count < self._spikes.size else min(self.bulk_edge, high)
        found = self._gap(count, low, high)
        if found is not None:
            return found
        state = self._at_count(float(count))
        if not state.trace.imag > 0:  # a gap that no mean makes, between eigenvalues of unequal residuals
            found = self._gap(count, self._quantile(count + 0.5), high)
        return found or fluctuations.Boundary(state, 0.0)

    def _gap(self, count: int, low: float, high: float) -> fluctuations.Boundary | None:
        """A point between two places with no eigenvalue near and so many above, if one of a few is."""
        for share in (0.5, 0.3, 0.7, 0.15, 0.85):
            state = self._solver.solve(low + share * (high - low))
            if abs(state.m.imag) < NEAR * abs(state.m) and abs(self.equation.count_above(state) - count) < 1e-3:
                distance = 0.5 * min(share, 1 - share) * (high - low)
                return fluctuations.Boundary(state.real, distance)
        return None

    def _power(self, count: int) -> float:
        if self._points is not None:
            return float(self._points[1][:count].sum())
        if count not in self._powers:
            self._powers[count] = self._find_power(count)
        return self._powers[count]

    @cached_property
    def _powers(self) -> dict[int, float]:
        return {}

    def _find_power(self, count: int) -> float:
        """From the nearest gap above of which it is known, if it is from a gap itself; else of all there is above."""
        boundary = self._boundary(count)
        above = 0.0
        high: tuple[float, float] | None = None
        known = [k for k in self._powers if k < count and self._boundary(k).distance > 0]
        if known and boundary.distance > 0:
            top = self._boundary(max(known))
            above, high = self._powers[max(known)], (top.x, top.distance)
        path = fluctuations.path_between(self._solver, boundary, high)
        powers = np.array([self.equation.power(state) for state in path.states])
        return above + path.integral(powers) / self.equation.vector_square

    def _power_std(self, count: int) -> float:
        return 0.0 if self._points is not None else fluctuations.power_deviation(self._solver, self._boundary(count))

    @property
    def _null_power(self) -> float:
        """Share of the gradient outside of the rows' span: of what no kept row carries, which has all directions."""
        return self.equation.rows.dropped**2 * self.equation.outside / self.equation.vector_square

    @property
    def trace(self) -> float:
        """Mean of the trace over draws: exact."""
        return self.equation.power_sums[0]

    @property
    def frobenius(self) -> float:
        """Root of the mean of the squared Frobenius norm: exact."""
        return math.sqrt(self.equation.power_sums[1])

    def goldilocks_ratio(self) -> float:
        """Trace over Frobenius norm, by the exact means of the trace and of the squared norm.

        References
        ----------
        Fort and Scherlis (2019); Fort and Ganguli (2019), sec. 2.4.
        """
        return self.trace / self.frobenius

    def outliers_std(self) -> Floats:
        """Standard deviations of the C - 1 largest eigenvalues over draws with the same logits and means.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Ascending, as `outliers`. To first order; 0 without residuals.
        """
        if self._points is not None:
            return np.zeros(self.num_classes - 1)
        boundaries = [self._boundary(j) for j in range(1, self.num_classes)]
        return fluctuations.outliers_std(self._solver, boundaries, self._at_count(0.5).z.real)[::-1]

    def goldilocks_ratio_std(self) -> float:
        """Standard deviation of the ratio over draws, to first order (delta method); 0 without residuals."""
        if self._points is not None:
            return 0.0
        return fluctuations.ratio_deviation(self._solver)
