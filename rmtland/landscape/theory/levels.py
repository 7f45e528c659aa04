"""The landscape model's levels: residuals, class gradients, means.

Given the logits G = X^T T X, and with s = m residual_length^2 / N and F F^T the Gram matrix of the mean logit
gradients,

    Psi = sum_mu log det(1 + s A_mu) + sum_y log det(1 + m class_length^2 K_y) + log det(1 + m F^T L F),
    L = sum_y K_y F_y,    F_y = (1 + m class_length^2 K_y)^(-1),

while the gradient X^T a has, with h_y of `examples`,

    D a^T (1 + m D T)^(-1) a = (residual_length^2 / N^2) sum_mu (p - y)^T (1 + s A_mu)^(-1) (p - y)
                               + class_length^2 sum_y h_y^T F_y h_y + H^T F (1 + m F^T L F)^(-1) F^T H,   H = sum_y
                               F_y h_y.

Each level stands on the one below and sees what that passes on. Without cross terms (eq. (16) of the paper) all stand
on the bare examples, where K_y and h_y are those at s = 0. Lengths (sigma sqrt(D)) rather than sigmas enter: D T does
not depend on D.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.logit_laws import LogitLaw
from rmtland.landscape.theory.examples import NO_CURVATURE, Examples, Seen
from rmtland.landscape.theory.sums import Floats
from rmtland.laws.subordination import NOTHING, Atoms, Jet, Level, Part, Point, inverted, log_det

SHORTEST = 1e-70
"""Length below which squares of eigenvalues leave float64, unless an H-term is larger."""
WEAKEST = 1e-30
"""Of residuals beside the longest part: their bulk, at its square, is told apart from zero."""
FEW = 5e6
"""Cost of an evaluation times the square of the number of eigenvalues up to which each has a guess of its own."""
SECANTS = 4
"""Steps towards it."""


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

    @property
    def sigma_H(self) -> float:
        """Scale of the H-term."""


@dataclass(frozen=True, eq=False)
class Residuals(Level):
    """Psi = sum_mu log det(1 + s A_mu), s = m length^2 / N; of length 0 the bare examples, which have no term.

    Parameters
    ----------
    examples : Examples
    length : float
        residual_length.
    """

    examples: Examples
    length: float

    @property
    def weight(self) -> float:
        """The factor s / m."""
        return self.length**2 / self.examples.num_examples

    @property
    def spans(self) -> bool:
        """Whether it has every direction that levels above could add."""
        return self.length > 0

    @cached_property
    def rank(self) -> float:  # type: ignore[override]
        """Number of nonzero eigenvalues of the A_mu."""
        return self.examples.rank if self.spans else 0.0

    @property
    def cost(self) -> float:  # type: ignore[override]
        """As of the examples."""
        return self.examples.cost

    def at(self, point: Point) -> Part:
        """Sums over the examples."""
        s = point.m * self.weight

        def passed() -> Seen:
            seen = self.examples.seen(s, point.order)
            return replace(seen, curvature=seen.curvature.in_units(self.weight))

        if not self.spans:
            return Part(Jet([0.0, 0.0, 0.0][: point.order + 1]), 0.0, passed)
        scalars = self.examples.scalars(s, point.logs)
        n = self.examples.num_examples
        value = n * scalars.log_det if point.logs else np.nan
        terms = [value, n * self.weight * scalars.traces[0], -n * self.weight**2 * scalars.traces[1]]
        return Part(Jet(terms[: point.order + 1]), self.weight * scalars.quadratic, passed)

    def count_above(self, point: Point) -> float:
        """Sylvester's law of inertia, example by example."""
        return self.examples.count_above(float(np.real(point.m)) * self.weight) if self.spans else 0.0

    def rough_atoms(self) -> tuple[Floats, Floats]:
        """Binned eigenvalues of the A_mu."""
        if not self.spans:
            return NOTHING, NOTHING
        values, weights = self.examples.curvatures
        return self.weight * values, weights

    @property
    def clear(self) -> float:
        """Somewhat more than what no eigenvalue is above, here and below; none of A is above 1/2."""
        return 0.6 * self.weight


@dataclass(frozen=True, eq=False)
class Standing(Level):
    """Psi = log det(1 + m K) of small matrices K made of what the level below passes on.

    Parameters
    ----------
    below : Residuals or Standing
    """

    below: Any

    @abstractmethod
    def sees(self, point: Point) -> Seen:
        """What enters its matrices, between its lengths."""

    def _pivot(self, seen: Seen, m: Any) -> Jet:
        identity = np.eye(seen.curvature[0].shape[-1])
        first, *others = seen.curvature.times_m(m)
        return Jet([identity + first, *others])

    def at(self, point: Point) -> Part:
        """Determinants and inverses of its pivots 1 + m K."""
        seen = self.sees(point)
        pivot = self._pivot(seen, point.m)
        inverse = inverted(pivot[0])
        psi = log_det(pivot, inverse, seen.copies, point.logs)
        return Part(psi, seen.quadratic(inverse), lambda: self.passes(seen, pivot.inverse()))

    def passes(self, seen: Seen, inverse: Jet) -> Seen:
        """What levels that stand on it see."""
        raise NotImplementedError(f"nothing stands on {type(self).__name__}")

    def count_above(self, point: Point) -> float:
        """Negative eigenvalues of the pivots."""
        seen = self.sees(point)
        negative: Floats = np.sum(np.linalg.eigvalsh(self._pivot(seen, point.m)[0]) < 0.0, axis=1, dtype=np.float64)
        return float(seen.copies @ negative)

    @cached_property
    def rank(self) -> float:  # type: ignore[override]
        """Eigenvalues that are not rounding; none where the level below spans them already."""
        if self.below.spans:
            return 0.0
        seen = self.sees(Point(0.0, 0))
        values = np.linalg.eigvalsh(seen.curvature[0])
        return float(seen.copies @ np.sum(values > 1e-14 * values.max(), axis=1))

    @property
    def spans(self) -> bool:
        """Whether it has every direction that levels above could add."""
        return True

    def rough_atoms(self) -> tuple[Floats, Floats]:
        """Eigenvalues of K at m = 0, lifted towards those of K(-1/u) = u where that is safe."""
        values, copies = self.eigenvalues(0.0)
        u = float(values @ copies / copies.sum())
        if u > self.below.clear:
            values, copies = self.eigenvalues(-1 / u)
            if self.below.cost * values.size**2 < FEW:
                values = np.array([self._lifted(j, max(u, self.below.clear)) for j, u in enumerate(values.tolist())])
        return np.maximum(values, 0.0), copies

    def _lifted(self, j: int, u: float) -> float:
        """The u that is the j-th eigenvalue of K(-1/u), by secants from a guess: it falls as u grows."""
        before, excess_before = u, u - float(self.eigenvalues(-1 / u)[0][j])
        u -= 0.9 * excess_before
        for _ in range(SECANTS):
            u = max(u, self.below.clear)
            excess = u - float(self.eigenvalues(-1 / u)[0][j])
            slope = (excess - excess_before) / (u - before) if u != before else 1.0
            before, excess_before = u, excess
            u -= excess / max(slope, 1.0)
            if abs(u - before) <= 1e-3 * u:
                break
        return u

    def eigenvalues(self, m: float) -> tuple[Floats, Floats]:
        """Of K at a real m, ascending for each matrix, and how often each occurs."""
        return self.sees(Point(m, 0)).decomposed()[:2]

    def settled(self) -> Level:
        """Itself, or its eigenvalues where what it stands on is the same at every m."""
        if not isinstance(self.below, Residuals) or self.below.spans:
            return self
        values, copies, squares = self.sees(Point(0.0, 0)).decomposed()
        return Atoms(np.where(values > NO_CURVATURE * values.max(), values, 0.0), copies, squares)

    @cached_property
    def clear(self) -> float:
        """As in `Residuals`, roughly."""
        return max(1.2 * float(np.max(self.rough_atoms()[0], initial=0.0)), float(self.below.clear))


@dataclass(frozen=True, eq=False)
class ClassGradients(Standing):
    """K = length^2 K_y for each class y.

    Parameters
    ----------
    below : Residuals
    length : float
        class_length > 0.
    """

    length: float

    def sees(self, point: Point) -> Seen:
        """K_y and h_y."""
        seen: Seen = point.passed(self.below).scaled(self.length)
        return seen

    def passes(self, seen: Seen, inverse: Jet) -> Seen:
        """K_y F_y and F_y h_y."""
        return seen.through(inverse, self.length)

    def rough_atoms(self) -> tuple[Floats, Floats]:
        """Not lifted: they are in the bulk."""
        values, copies = self.eigenvalues(0.0)
        some = copies > 0
        return np.maximum(values[some], 0.0), copies[some]


@dataclass(frozen=True, eq=False)
class Means(Standing):
    """K = F^T L F, F F^T the Gram matrix of the mean logit gradients (of their lengths alone, for independent ones).

    Parameters
    ----------
    below : Residuals or ClassGradients
    factor : float or ndarray
        F on zero-sum vectors, of `Examples.factor`.
    """

    factor: Any

    def sees(self, point: Point) -> Seen:
        """L and H."""
        seen: Seen = point.passed(self.below).over_classes().scaled(self.factor)
        return seen


def levels_of(examples: Examples, gradients: ClusteredGradients, cross_terms: bool) -> tuple[Level, ...]:
    """The levels of a model's Gauss-Newton matrix: a tower for eq. (10), side by side on the examples for eq. (16)."""
    bare = below = Residuals(examples, 0.0)
    tower: list[Any] = []
    if gradients.residual_length > 0:
        tower.append(Residuals(examples, gradients.residual_length))
        below = tower[-1] if cross_terms else bare
    if gradients.class_length > 0:
        tower.append(ClassGradients(below, gradients.class_length))
        below = tower[-1] if cross_terms else bare
    lengths = gradients.mean_lengths(examples.num_classes)
    factor = examples.factor(lengths)
    if np.any(np.square(factor) > 0):
        tower.append(Means(below, factor))
    # What stands on nothing that changes, and under nothing, is known once and for all.
    free = [level for level in tower if isinstance(level, Standing) and (level is tower[-1] or not cross_terms)]
    return tuple(level.settled() if level in free else level for level in tower)


def checked_lengths(model: Model) -> ClusteredGradients:
    """The gradient law, which has to be one that the theory knows and not the zero matrix's."""
    law = model.gradients
    if not isinstance(law, ClusteredGradients):
        raise TypeError(f"`gradients` must be ClusteredGradients for the theory; got {law!r}")
    if not (law.residual_length > 0 or law.class_length > 0 or np.any(law.mean_lengths(model.num_classes) > 0)):
        raise ValueError("`gradients` must have a positive length; got zero for all")
    longest = max(law.class_length, law.residual_length, float(np.max(law.mean_lengths(model.num_classes))))
    if model.sigma_H == 0 and longest < SHORTEST:
        raise ValueError(f"`gradients` must have a length >= {SHORTEST:g}, or squares leave float64; got {law!r}")
    if model.sigma_H == 0 and 0 < law.residual_length < WEAKEST * longest:
        raise ValueError(
            f"`gradients` must have a `residual_length` of 0 or >= {WEAKEST:g} times the longest; got {law!r}"
        )
    return law
