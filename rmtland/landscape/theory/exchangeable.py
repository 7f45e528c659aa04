"""Examples in expectation over a logit law, whose classes are exchangeable: one or two numbers for every matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rmtland.landscape.theory import sums
from rmtland.landscape.theory.examples import FACTORIALS, RADIUS, TERMS, Examples, Seen
from rmtland.landscape.theory.sums import Array, Floats
from rmtland.laws import taylor
from rmtland.laws.subordination import Jet


@dataclass(frozen=True, eq=False)
class SeenInExpectation(Seen):
    """Numbers per direction, as exchangeable classes have them: matrices of 1 x 1, in `directions` = C - 1
    dimensions.
    """

    directions: int

    def over_classes(self) -> Seen:
        """A multiple of 1 in all C - 1 directions: h_y has a mean that drops out of the sum."""
        share = self.copies / self.directions
        summed = self.curvature.map(lambda k: np.tensordot(share, k, 1)[None])
        spread = share @ self.errors[1]
        copies = np.array([float(self.directions)])
        return replace(self, curvature=summed, copies=copies, errors=np.array([[spread], [spread]]))

    def scaled(self, factor: Any) -> Seen:
        """Numbers, or one for each of the directions (q,)."""
        if np.ndim(factor) == 0:
            return replace(self, curvature=self.curvature.map(lambda k: factor**2 * k), errors=factor**2 * self.errors)
        stretched = self.curvature.map(lambda k: factor[:, None, None] ** 2 * k)
        return replace(self, curvature=stretched, copies=np.ones(factor.size), errors=self.errors * factor**2)

    def quadratic(self, inverse: Array) -> Any:
        """Of second moments."""
        return np.sum(self.copies * self.errors[0] * inverse[:, 0, 0])

    def decomposed(self) -> tuple[Floats, Floats, Floats]:
        """The numbers themselves."""
        return self.curvature.value[:, 0, 0], self.copies, self.copies * self.errors[0]

    def through(self, inverse: Jet, length: float) -> Seen:
        """Products of numbers."""
        passed = (self.curvature @ inverse).map(lambda k: k / length**2)
        return replace(self, curvature=passed, errors=self.errors * inverse[0][:, 0, 0] ** 2 / length**2)


@dataclass(frozen=True, eq=False)
class ExchangeableExamples(Examples):
    """A sample of a logit law, for expectations over it.

    K = E B is a multiple of 1. K_y keeps its form under permutations of the other classes: own on the projection of
    e_y, other on the C - 2 directions orthogonal to that, two numbers.
    """

    @property
    def cost(self) -> float:
        """Entries of the sample."""
        return float(self.probabilities.size)

    def factor(self, lengths: Floats) -> Any:
        """A number for equal lengths, else the roots of the eigenvalues (C - 1,)."""
        if np.ptp(lengths) == 0:
            return float(lengths[0])
        centred = lengths[:, None] * (np.eye(lengths.size) - 1 / lengths.size)
        return np.linalg.svd(centred, compute_uv=False)[:-1][::-1]

    def _seen(self, s: complex | float, order: int) -> Seen:
        """Means over the sample."""
        scalars = self.scalars(s)
        n, c = self.num_examples, self.num_classes
        traces = FACTORIALS[: order + 1] * scalars.traces[: order + 1] / (c - 1)
        if not self.by_class:
            spread = scalars.square / (n * (c - 1))
            moments = np.array([[spread], [spread]])
            return SeenInExpectation(Jet(traces.reshape(-1, 1, 1, 1)), np.array([c - 1.0]), moments, c - 1)
        entries, mean, square = self._at_label(s)
        # The unit vector along e_y - 1/C has the entry sqrt(1 - 1/C) at y, and a zero-sum vector x the product x_y /
        # that.
        own = FACTORIALS[: order + 1] * entries[: order + 1] / (c - 1)
        other = ((c - 1) / c * traces - own) / max(c - 2, 1)
        copies = np.array([float(c), c * (c - 2.0)])
        mean, square = mean / math.sqrt(1 - 1 / c), square / (1 - 1 / c)
        rest = (scalars.square - square) / n / max(copies[1], 1.0)
        spread = square / n / c
        moments = np.array([[mean**2 / c * (1 - 1 / n) / c + spread, rest], [spread, rest]])
        return SeenInExpectation(Jet(np.stack([own, other], axis=1)[:, :, None, None]), copies, moments, c - 1)

    def _at_label(self, s: complex | float) -> tuple[Array, Any, Any]:
        """Means of (B^j)_yy, and of x_y and x_y^2, x = R (p - y)."""
        if s == 0 or abs(s) > RADIUS:
            return self._label_sums(s)
        rows = taylor.weights(s, TERMS)
        entry, mean, square = self._label_series.T
        return (rows @ entry) / FACTORIALS, rows[0] @ mean, rows[0] @ square

    def _label_sums(self, s: complex | float) -> tuple[Array, Any, Any]:
        *entries, mean, square = sums.label_sums(self.probabilities, self.labels, s)
        n = self.probabilities.shape[0]
        return np.array(entries) / n, mean / n / math.sqrt(self.share), square / n / self.share

    @cached_property
    def _label_series(self) -> Floats:
        """Taylor coefficients in s of B_yy, x_y and x_y^2, (TERMS, 3)."""
        values = [self._label_sums(s) for s in taylor.circle(RADIUS, TERMS).tolist()]
        return taylor.coefficients([[b[0], x, xx] for b, x, xx in values], RADIUS, TERMS)
