"""Theory of the landscape model given its logits: density, outliers, gradient and Goldilocks ratio, no matrix drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, finite_array, generator, integer, real, require_memory
from rmtland.landscape.bulk import residual_edge
from rmtland.landscape.equivalent import DeterministicEquivalent, Equation
from rmtland.landscape.fluctuations import outlier_deviations, ratio_deviation
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.kernels import softmax
from rmtland.landscape.logit_laws import LogitLaw
from rmtland.landscape.solver import Solver
from rmtland.landscape.structured import Floats, StructuredExamples
from rmtland.laws._law import Complexes


class Model(Protocol):
    """What the theory needs to know of a `LandscapeModel`."""

    @property
    def num_examples(self) -> int:
        """N."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def num_parameters(self) -> int:
        """D."""

    @property
    def logits(self) -> LogitLaw:
        """The logit law."""

    @property
    def gradients(self) -> object:
        """The gradient law."""


@dataclass(frozen=True)
class FirstOrder:
    """Mean outlier to first order, in closed form, and how far that is from the full theory.

    Attributes
    ----------
    mean_outlier : float
        mean_length^2 tr P / (C - 1) + residual_length^2 tr P / D (the lengths of unequal means by the mean of their
        squares), P = (1/N) sum_mu A_mu: D sigma_c^2 C E p_1 p_2 + sigma_E^2 C (C - 1) E p_1 p_2 with the averages of
        the logits at hand.
    error : float
        mean_outlier over the mean of the outliers of the full theory, less 1.
    """

    mean_outlier: float
    error: float


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

    @property
    def num_parameters(self) -> int:
        """D."""
        return int(self.equation.num_parameters)

    @property
    def atom(self) -> float:
        """Share of the D eigenvalues that are zero."""
        return 1.0 - self._solver.rank / self.equation.num_parameters

    def _solutions(self, x: npt.ArrayLike) -> tuple[Complexes, npt.NDArray[np.bool_], tuple[int, ...]]:
        """Solutions u at the positive x, where those are, and the shape of x."""
        points = finite_array("x", x)
        positive = points.reshape(-1) > 0
        return self._solver.solve(points.reshape(-1)[positive]), positive, points.shape

    def density(self, x: npt.ArrayLike) -> Any:
        """Density of the eigenvalues of the D x D matrix: bulk and outliers, without the atom at 0.

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
        u, positive, shape = self._solutions(x)
        values = np.zeros(positive.size)
        values[positive] = (-1 / u).imag / math.pi
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
        u, positive, shape = self._solutions(x)
        values = np.zeros(positive.size)
        values[positive] = [self._power_at(w).imag / math.pi if w.imag > 0 else 0.0 for w in u.tolist()]
        return values.reshape(shape)[()]

    def _power_at(self, u: complex) -> complex:
        return complex(self.equation.power_at(u)) if self.equation.gradient_square > 0 else complex(math.nan, math.nan)

    def count_above(self, x: float) -> float:
        """Expected number of eigenvalues above x >= 0; a whole number in the gaps of the spectrum.

        Parameters
        ----------
        x : float
            An eigenvalue; at 0, the number of nonzero ones.

        Returns
        -------
        float
        """
        x = real("x", x, at_least=0)
        if x == 0:
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
        there = goals < self._solver.rank
        values = np.zeros(goals.size)
        values[there] = [
            float(np.real(self.equation.map(u if u.imag > 0 else u.real, False)[0]))
            for u in self._solver.quantiles(goals[there])
        ]
        return values

    @cached_property
    def _outliers(self) -> Floats:
        above = np.arange(self.num_classes - 1, 0, -1) - 0.5
        values = np.zeros(above.size)
        values[above < self.num_parameters] = self.quantiles(above[above < self.num_parameters])
        return values

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
        A lone outlier of T-eigenvalue theta has the variance (2/D) theta^2 z'(theta) (Bai and Yao 2008). C - 1 close
        ones repel: the eigenvalues of diag(z(theta)) plus Gaussian noise of that covariance (its off-diagonal of half
        the variance), a (C - 1) x (C - 1) matrix whose eigenvalues are drawn here with a fixed seed. For outliers that
        stand apart from the bulk; to about 10%.
        """
        return outlier_deviations(self.equation)

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
        from the point of the curve with that count. Of the means of both squares; the mean of their ratio differs by
        terms of order q (1 - q) / D.
        """
        count = integer("num_directions", num_directions, at_least=0, at_most=self.num_parameters)
        if not self.equation.gradient_square > 0:
            return math.nan
        if count == 0:
            return 0.0
        if count >= self._solver.rank:
            return 1.0
        gap = self._solver.gap(count)
        u = self._solver.quantiles(np.array([float(count)]))[0] if gap is None else complex(gap)
        return min(max(self._solver.integral(u, self.equation.power_rate), 0.0), 1.0)

    def gradient_power_deviation(self, num_directions: int) -> float:
        """Standard deviation of that share over draws with the same logits and labels, 2 q (1 - q) / sqrt(D).

        Parameters
        ----------
        num_directions : int
            0..D.

        Returns
        -------
        float

        Notes
        -----
        As if the shares inside and outside were the squares of two independent Gaussian vectors in R^D; they are where
        the top directions are those of the means and stand apart from the bulk.
        """
        q = self.gradient_power(num_directions)
        return 2 * q * (1 - q) / math.sqrt(self.num_parameters)

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
        """
        return ratio_deviation(self.equation, self._dimension(dimension))

    def _dimension(self, dimension: int | None) -> int:
        if dimension is None:
            return self.num_parameters
        return integer("dimension", dimension, at_least=1, at_most=self.num_parameters)


@dataclass(frozen=True, eq=False)
class LandscapeTheory(Theory):
    """Theory of a landscape model given the logits and labels of one draw of them; made by `LandscapeModel.theory`.

    Given the logits, the Gauss-Newton matrix is G = X^T T X with X of independent standard normal rows: a generalised
    Marchenko-Pastur matrix, whose deterministic equivalent is evaluated here example by example, O(N C^2) a point, with
    no matrix of examples times classes.

    Attributes
    ----------
    equation : DeterministicEquivalent
        Its equation, in u = -1/m, m the Stieltjes transform.
    num_classes : int
        C.

    Notes
    -----
    Predictions are means over draws of logit gradients with these logits, to first order in 1/D and 1/N; trace and
    Frobenius norm are exact. Other logits shift them much more (the outliers at N = 300 by up to 40%): pair draws and
    theory on the same logits, or use `LandscapeModel.theory_band`. Without residuals the matrix has rank C - 1, without
    mean gradients the C - 1 largest eigenvalues are those of the bulk.

    References
    ----------
    Silverstein and Bai (1995), eq. (1.4); Fort and Ganguli (2019), eqs. (10), (15), (16). The reduction of the model to
    it, and all that is said of the gradient, is this package's.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=4, num_parameters=400, sigma_z=1.0)
    >>> theory = model.theory(rng=0)
    >>> theory.outliers().shape, bool(theory.outliers()[0] > theory.bulk_edge)
    ((3,), True)
    >>> theory.count_above(0.5 * (theory.bulk_edge + theory.outliers()[0]))
    3.0
    """

    equation: DeterministicEquivalent

    @classmethod
    def of(cls, model: Model, rng: Seed = None, cross_terms: bool = True) -> LandscapeTheory:
        """The theory of a model, given the logits that it draws."""
        lengths = checked_lengths(model)
        logits, labels = model.logits.draw_logits(model.num_examples, model.num_classes, generator(rng))
        probabilities = softmax(np.ascontiguousarray(logits, dtype=np.float64))
        by_class = lengths.class_length > 0
        if by_class:
            require_memory(
                "theory with class gradients", 320.0 * model.num_classes**3, "use class_length = 0 or fewer classes"
            )
        examples = StructuredExamples(probabilities, np.asarray(labels, dtype=np.int64), by_class)
        theory = cls(
            DeterministicEquivalent(
                examples,
                lengths.mean_lengths(model.num_classes),
                lengths.residual_length,
                lengths.class_length,
                float(model.num_parameters),
                bool(cross_terms),
                None if lengths.relative_lengths is None else np.array(lengths.relative_lengths),
            ),
            model.num_classes,
        )
        if not theory.equation.power_sums[0] > 0:
            raise ValueError(
                "`logits` must leave some curvature; got probabilities that are 0 and 1 in every example"
                if np.all(np.isin(probabilities, (0, 1)))
                else "`gradients` must have a positive length where the logits have curvature; got none"
            )
        return theory

    @cached_property
    def bulk_edge(self) -> float:
        """Upper edge of the asymptotic law of the residual part alone, (1/N) sum_mu E_mu^T A_mu E_mu; 0 without it.

        z(u) = u + (1/D) sum_i t_i u / (u - t_i) at the u beyond all t_i with sum_i t_i^2 / (u - t_i)^2 = D, the t_i
        being residual_length^2 / N times the eigenvalues of all A_mu: eq. (16)'s bulk. Cross terms push the bulk down
        by a share of order C / N of it at most, and class gradients have eigenvalues of their own above it.
        """
        return self._edge[1]

    @cached_property
    def _edge(self) -> tuple[float, float]:
        e = self.equation
        return residual_edge(e.examples.probabilities, e.residual_length, e.num_examples, e.num_parameters)

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
            With class gradients, which have a bulk of their own.

        Notes
        -----
        A direction of the mean part leaves the bulk where its eigenvalue of D T passes the u of `bulk_edge`. With s =
        -residual_length^2 / (N u) that is SNR k = u / residual_length^2, k the eigenvalues of K(s) between the relative
        lengths (of K(0) = P without cross terms). u / residual_length^2 depends on the logits, N and D alone: a closed
        form after one edge.
        """
        e = self.equation
        if e.class_length > 0:
            raise ValueError(f"`class_length` must be 0 for a transition of the outliers; got {e.class_length}")
        relative = np.ones(e.num_classes) if e.relative_lengths is None else e.relative_lengths
        u = residual_edge(e.examples.probabilities, 1.0, e.num_examples, e.num_parameters)[0]
        if u == 0:
            return np.zeros(e.num_classes - 1)
        matrix = e.examples.at(-1.0 / (e.num_examples * u) if e.cross_terms else 0.0, logs=False).powers[0][0]
        curvatures = np.linalg.eigvalsh(relative[:, None] * matrix * relative)[1:]
        positive = curvatures > 1e-14 * curvatures[-1]
        return np.where(positive, u / np.where(positive, curvatures, 1.0), math.inf)[::-1]

    def first_order(self) -> FirstOrder:
        """The mean outlier in closed form, and its error against `outliers`."""
        e = self.equation
        curvature = e.at_zero.powers[0].sum(axis=0)
        trace = float(np.trace(curvature))
        mean = float(np.trace(e.mean_lengths[:, None] * curvature * e.mean_lengths)) / (self.num_classes - 1)
        value = mean + (e.residual_length**2 + e.class_length**2) * trace / e.num_parameters
        return FirstOrder(value, value / float(self.outliers().mean()) - 1)


def checked_lengths(model: Model) -> ClusteredGradients:
    """The gradient law, which has to be one that the theory knows and not the zero matrix's."""
    law = model.gradients
    if not isinstance(law, ClusteredGradients):
        raise TypeError(f"`gradients` must be ClusteredGradients for the theory; got {law!r}")
    if not (law.residual_length > 0 or law.class_length > 0 or np.any(law.mean_lengths(model.num_classes) > 0)):
        raise ValueError("`gradients` must have a positive length; got zero for all")
    return law
