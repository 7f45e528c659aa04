"""The deterministic equivalent of the model's Gauss-Newton matrix, given logits and labels: its equation, evaluated.

Given the logits G = X^T T X with X of independent standard normal rows in R^D, so that with m the Stieltjes transform
and u = -1/m

    z(u) = u + Psi'(m) / D,    Psi(m) = log det(1 + m D T),

a generalised Marchenko-Pastur equation. Lengths (sigma sqrt(D)) rather than sigmas enter: D T does not depend on D.
With s = m residual_length^2 / N, K_y the mean of B over the examples of class y (divided by N) and Lambda the diagonal
matrix of the lengths of the mean logit gradients,

    Psi = sum_mu log det(1 + s A_mu) + sum_y log det(1 + m class_length^2 K_y) + log det(1 + m Lambda L Lambda),
    L = sum_y K_y F_y,    F_y = (1 + m class_length^2 K_y)^(-1),

and the gradient X^T a has

    D a^T (1 + m D T)^(-1) a = (residual_length^2 / N) form + class_length^2 sum_y h_y^T F_y h_y
                               + H^T Lambda M^(-1) Lambda H,    M = 1 + m Lambda L Lambda,    H = sum_y F_y h_y.

Without cross terms (eq. (16) of the paper)
K_y and h_y of each level are those at s = 0, L is their sum and H the sum of h_y.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rmtland.landscape.theory.bulk import bulk_atoms
from rmtland.landscape.theory.examples import Array, ExampleSums, Floats, StructuredExamples, count_negative


def _trace(one: Array, other: Array) -> Any:
    """Sum of the traces of products of symmetric matrices."""
    return np.sum(one * other)


def _log_det(matrices: Array) -> complex:
    """Sum of log det of matrices whose eigenvalues all lie in the closed upper half plane, on the continuous branch."""
    eigenvalues = np.linalg.eigvals(matrices)
    # Rounding may put a negative eigenvalue below the axis, where its logarithm would jump by 2 pi i.
    upper = eigenvalues.real + 1j * np.maximum(np.imag(eigenvalues), 0.0)
    return complex(np.sum(np.log(upper)))


def _rank(matrices: Array) -> float:
    """Number of eigenvalues of positive semidefinite matrices that are not rounding."""
    eigenvalues = np.linalg.eigvalsh(matrices)
    return float(np.sum(eigenvalues > 1e-14 * max(float(eigenvalues.max()), 1e-300)))


@dataclass(frozen=True)
class Evaluation:
    """Psi and its derivatives in m, and D a^T (1 + m D T)^(-1) a; NaN where not asked for."""

    value: complex
    slope: Any
    curvature: Any
    form: Any


class Equation(ABC):
    """z(u) = u + Psi'(-1/u) / D for any Psi(m) = log det(1 + m D T), and what follows from it alone.

    An H-term, an independent Wigner matrix of scale sigma_H, takes D sigma_H^2 m^2 / 2 from Psi and changes nothing
    else.
    """

    num_parameters: float
    sigma_H: float

    def evaluate(self, m: complex | float, order: int = 2, logs: bool = False, form: bool = False) -> Evaluation:
        """Psi (with `logs`), order - 1 of its derivatives and, with `form`, the gradient's form; Im m >= 0."""
        there = self.evaluate_gauss_newton(m, order, logs, form)
        if self.sigma_H == 0:
            return there
        # Free convolution with a semicircle: z gains -sigma_H^2 m (Pastur 1972), and the gradient's form stays.
        change = self.num_parameters * self.sigma_H**2
        return Evaluation(
            there.value - 0.5 * change * m * m, there.slope - change * m, there.curvature - change, there.form
        )

    @abstractmethod
    def evaluate_gauss_newton(
        self, m: complex | float, order: int = 2, logs: bool = False, form: bool = False
    ) -> Evaluation:
        """The same of the Gauss-Newton matrix alone."""

    @abstractmethod
    def atoms_above(self, u: float) -> float:
        """Number of eigenvalues of D T above u > 0."""

    @abstractmethod
    def atoms(self) -> tuple[Floats, Floats, Floats]:
        """Eigenvalues of D T, roughly: those of the bulk, how often each occurs, and the spikes."""

    @property
    @abstractmethod
    def rank_of_t(self) -> float:
        """Number of nonzero eigenvalues of T."""

    @property
    def rank(self) -> float:
        """Number of nonzero eigenvalues of the matrix."""
        return self.num_parameters if self.sigma_H > 0 else min(self.rank_of_t, self.num_parameters)

    @property
    @abstractmethod
    def cost(self) -> float:
        """Entries of the matrix products of one evaluation."""

    def map(self, u: complex | float, slope: bool = True) -> tuple[Any, Any]:
        """z(u) and, with `slope`, dz/du."""
        m = -1 / u
        # At an atom there is no value; who asks there looks at what comes back.
        with np.errstate(all="ignore"):
            there = self.evaluate(m, 3 if slope else 2)
            return u + there.slope / self.num_parameters, self._rate(m, there) if slope else math.nan

    def _rate(self, m: complex | float, there: Evaluation) -> Any:
        return 1 + m * m * there.curvature / self.num_parameters

    def potential(self, u: complex, slope: bool = True) -> tuple[Any, Any, float]:
        """z(u), dz/du and the number of eigenvalues above z(u), for Im u > 0 with z(u) real."""
        m = -1 / u
        there = self.evaluate(m, 3 if slope else 2, logs=True)
        value = u + there.slope / self.num_parameters
        # int D m dz = D log m + m Psi' - Psi, of imaginary part pi D right of the support.
        integral = self.num_parameters * (np.log(m) - 1j * np.pi) + m * there.slope - there.value
        return value, self._rate(m, there) if slope else math.nan, -float(integral.imag) / math.pi

    @cached_property
    def gradient_square(self) -> float:
        """E |gradient|^2 = D |a|^2."""
        return float(self.evaluate(0.0, 1, form=True).form)

    def power_at(self, u: complex) -> Any:
        """The value m a^T (1 + m D T)^(-1) a / |a|^2; its imaginary part over pi is the gradient's density."""
        return -self.evaluate(-1 / u, 1, form=True).form / u / self.gradient_square

    def rates(self, u: complex) -> tuple[Any, Any]:
        """The same times dz/du, and D m dz/du, whose integral counts eigenvalues; of one evaluation."""
        m = -1 / u
        there = self.evaluate(m, 3, form=True)
        rate = m * self._rate(m, there)
        return there.form / self.gradient_square * rate, self.num_parameters * rate

    @cached_property
    def power_sums(self) -> tuple[float, float]:
        """Traces of D T and of its square."""
        there = self.evaluate(0.0, 3)
        return float(there.slope), -float(there.curvature)


@dataclass(frozen=True, eq=False)
class DeterministicEquivalent(Equation):
    """Equation of the Gauss-Newton matrix given the logits.

    Parameters
    ----------
    examples : StructuredExamples
        Grouped by class if `class_length` > 0.
    mean_lengths : ndarray (C,)
        Lengths of the mean logit gradients.
    residual_length, class_length : float
        Lengths of residuals and of class gradients.
    num_parameters : float
        D.
    cross_terms : bool
        Whether products of means, class gradients and residuals are there.
    relative_lengths : ndarray (C,), optional
        `mean_lengths` in units of the law's mean_length, where they are not all 1.
    sigma_H : float
        Scale of the H-term.
    """

    examples: StructuredExamples
    mean_lengths: Floats
    residual_length: float
    class_length: float
    num_parameters: float
    cross_terms: bool = True
    relative_lengths: Floats | None = None
    sigma_H: float = 0.0

    @property
    def num_examples(self) -> int:
        """N."""
        return int(self.examples.probabilities.shape[0])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.examples.probabilities.shape[1])

    @property
    def weight(self) -> float:
        """residual_length^2 / N: s = m weight."""
        return self.residual_length**2 / self.num_examples

    @cached_property
    def at_zero(self) -> ExampleSums:
        """The sums at s = 0."""
        return self.examples.sums(0.0, logs=False)

    def evaluate_gauss_newton(
        self, m: complex | float, order: int = 2, logs: bool = False, form: bool = False
    ) -> Evaluation:
        """Psi (with `logs`), `order` of its derivatives and, with `form`, the gradient's form at m, Im m >= 0."""
        weight = self.weight
        sums = self.examples.at(m * weight, order, logs)
        derivatives = [sums.powers[0]]
        if order > 1:
            derivatives.append(-weight * sums.powers[1])
        if order > 2:
            derivatives.append(2 * weight**2 * sums.powers[2])
        total = self.num_examples * sums.log_det
        changes = [self.residual_length**2 * np.trace(d, axis1=1, axis2=2).sum() for d in derivatives]
        shape = weight * sums.form
        pull = sums.pull
        if not self.cross_terms:
            zero = self.at_zero
            derivatives = [zero.powers[0], *(np.zeros_like(zero.powers[0]) for _ in derivatives[1:])]
            pull = zero.pull
        inner = [d.sum(axis=0) for d in derivatives]
        outer = pull.sum(axis=0)
        if self.class_length > 0:
            delta = self.class_length**2
            level, resolvent = self._level(m, [delta * d for d in derivatives])
            if logs:
                total += _log_det(level)
            self._add(changes, m, [delta * d for d in derivatives], resolvent)
            pulled = (resolvent @ pull[:, :, None])[:, :, 0]
            shape += delta * np.sum(pull * pulled)
            if self.cross_terms:
                inner = [d.sum(axis=0) for d in self._through(m, derivatives, resolvent)]
                outer = pulled.sum(axis=0)
        scaled = [self.mean_lengths[:, None] * d * self.mean_lengths for d in inner]
        level, resolvent = self._level(m, scaled)
        if logs:
            total += _log_det(level)
        self._add(changes, m, scaled, resolvent)
        if form:
            outer = self.mean_lengths * outer
            shape += outer @ resolvent @ outer
        slopes = [*changes, math.nan, math.nan][:3]
        return Evaluation(total, slopes[0], slopes[1], shape)

    @staticmethod
    def _level(m: complex | float, matrices: list[Array]) -> tuple[Array, Array]:
        """1 + m K and its inverse."""
        level = np.eye(matrices[0].shape[-1]) + m * matrices[0]
        return level, np.linalg.inv(level)

    @staticmethod
    def _add(changes: list[Any], m: complex | float, matrices: list[Array], inverse: Array) -> None:
        """Add the derivatives of log det(1 + m K) to `changes`; matrices = K, K', K'' as far as known."""
        if len(matrices) < 2:
            return
        first = matrices[0] + m * matrices[1]
        changes[0] = changes[0] + _trace(inverse, first)
        if len(matrices) > 2:
            product = inverse @ first
            changes[1] = (
                changes[1]
                + _trace(inverse, 2 * matrices[1] + m * matrices[2])
                - _trace(product, np.swapaxes(product, -1, -2))
            )

    def _through(self, m: complex | float, derivatives: list[Array], resolvent: Array) -> list[Array]:
        """K F = (K^(-1) + m delta)^(-1) and its derivatives in m, for each class; F = (1 + m delta K)^(-1)."""
        delta = self.class_length**2
        through = [derivatives[0] @ resolvent]
        if len(derivatives) > 1:
            through.append(resolvent @ derivatives[1] @ resolvent - delta * through[0] @ through[0])
        if len(derivatives) > 2:
            change = -delta * resolvent @ (derivatives[0] + m * derivatives[1]) @ resolvent
            half = change @ derivatives[1] @ resolvent - delta * through[1] @ through[0]
            through.append(resolvent @ derivatives[2] @ resolvent + half + np.swapaxes(half, -1, -2))
        return through

    @property
    def cost(self) -> float:
        """N C^2."""
        return float(self.num_examples) * self.num_classes**2

    @cached_property
    def rank_of_t(self) -> float:
        """Number of nonzero eigenvalues of T, N (C - 1) as long as no probability underflows."""
        zero = self.at_zero.powers[0]
        residual, of_class, cross = self.residual_length > 0, self.class_length > 0, self.cross_terms
        vectors = 0.0
        if residual:
            vectors += float(np.sum(np.maximum(np.sum(self.examples.probabilities > 0, axis=1) - 1, 0)))
        # With cross terms a level adds no rank of its own to one below it that is full.
        if of_class and not (residual and cross):
            vectors += _rank(zero)
        if self.mean_lengths.any() and not ((residual or of_class) and cross):
            vectors += _rank(self.mean_lengths[:, None] * zero.sum(axis=0) * self.mean_lengths)
        return vectors

    def atoms(self) -> tuple[Floats, Floats, Floats]:
        """Binned eigenvalues of the A_mu and all of the class gradients' part; eigenvalues of the mean part.

        With cross terms the spikes are lifted by one step towards u = eigenvalue(Lambda L(u) Lambda), where it is safe.
        """
        values, weights = bulk_atoms(self.examples.probabilities, self.weight, self.num_examples)
        own = 0.0
        zero = self.at_zero.powers[0]
        if self.class_length > 0:
            levels = self.class_length**2 * np.linalg.eigvalsh(zero)[:, 1:]
            own = float(levels.max())
            values, weights = np.concatenate([values, levels.ravel()]), np.concatenate([weights, np.ones(levels.size)])
        matrix = zero.sum(axis=0)
        u = float(np.trace(self.mean_lengths[:, None] * matrix * self.mean_lengths)) / (self.num_classes - 1)
        if self.cross_terms and u > 2 * max(own, self.weight):
            lifted = self.examples.at(-self.weight / u, logs=False).powers[0]
            if own > 0:
                lifted = lifted @ np.linalg.inv(np.eye(self.num_classes) - self.class_length**2 / u * lifted)
            matrix = lifted.sum(axis=0)
        spikes = np.linalg.eigvalsh(self.mean_lengths[:, None] * matrix * self.mean_lengths)[1:]
        return values, weights, np.maximum(spikes, 0.0)

    def atoms_above(self, u: float) -> float:
        """Number of eigenvalues of D T above u > 0, exactly, by inertia (Haynsworth)."""
        m = -1 / u
        s = m * self.weight
        above = count_negative(self.examples.probabilities, s) if s < 0 else 0
        zero = self.at_zero
        own = self.examples.at(s, logs=False) if self.cross_terms else zero
        inner = own.powers[0].sum(axis=0)
        if self.class_length > 0:
            level, resolvent = self._level(m, [self.class_length**2 * own.powers[0]])
            above += int(np.sum(np.linalg.eigvalsh(level) < 0))
            if self.cross_terms:
                inner = (own.powers[0] @ resolvent).sum(axis=0)
        scaled = self.mean_lengths[:, None] * inner * self.mean_lengths
        return float(above + np.sum(np.linalg.eigvalsh(np.eye(self.num_classes) + m * scaled) < 0))
