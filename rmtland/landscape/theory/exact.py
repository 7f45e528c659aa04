"""The equation of a landscape model and what it says exactly: sums of eigenvalues and of their squares.

Psi'(0) = tr D T and -Psi''(0) = tr (D T)^2: nothing is solved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from rmtland._arguments import integer
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.theory.examples import Examples
from rmtland.landscape.theory.levels import levels_of
from rmtland.laws.fluctuations import ratio_deviation
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Semicircle, Subordination


@dataclass(frozen=True, eq=False, repr=False)
class Sums:
    """An equation, the examples and gradient law behind it, and its exact sums.

    Parameters
    ----------
    equation : Subordination
        The equation of the Hessian, in u = -1/m, m the Stieltjes transform; eigenvalues in units of `examples.unit`.
    examples : Examples
        What it averages over; their `unit` is 1 where there is an H-term.
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
            levels = (*levels, Semicircle(sigma_H, d))
        return cls(Subordination(levels, d), examples, gradients, sigma_H, cross_terms)

    @cached_property
    def _solver(self) -> Solver:
        return Solver(self.equation)

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
