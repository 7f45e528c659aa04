"""Class gradients in the limit of many examples: the examples of a class have a direction of their own, and C - 2 more.

For exchangeable logits the mean K_y of B over the examples of class y (divided by C) keeps its form under permutations
of the other classes. With 1 in its null space it is own P_y + other Q_y, P_y the projection on e_y - 1/C and Q_y that
on what is orthogonal to it and to 1: two numbers. Summed over y the projections are C / (C - 1) and C (C - 2) / (C - 1)
times 1 - 11^T / C, so that every level of the equation stays a number per direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from rmtland.landscape.theory import taylor
from rmtland.landscape.theory.examples import RADIUS, TERMS, Floats


@njit(cache=True, error_model="numpy")
def label_sums(p: Floats, labels: npt.NDArray[np.int64], s: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Sums over the examples of the entries (y, y) of B, B^2, B^3, B = R A, and of x_y and x_y^2, x = R (p - y).

    As Laplacians, without cancellation where a probability is near 1.
    """
    one = two = three = pull = square = 0.0 * s
    for mu in range(p.shape[0]):
        y = labels[mu]
        own = p[mu, y] / (1.0 + s * p[mu, y])
        s1 = s2 = s3 = 0.0 * s
        for k in range(p.shape[1]):
            if k != y:
                q = p[mu, k] / (1.0 + s * p[mu, k])
                s1 += q
                s2 += q * q
                s3 += q * q * q
        inverse = 1.0 / (own + s1)
        share = own * inverse
        one += share * s1
        two += share * share * (s1 * s1 + s2)
        # (B e_y)^T B (B e_y), B the Laplacian of weights q_k q_l / S.
        three += share * share * share * (s1 * s1 * s1 + 2.0 * s1 * s2 + s3)
        three += share * share * inverse * (s3 * s1 - s2 * s2)
        x = -s1 * inverse / (1.0 + s * p[mu, y])
        pull += x
        square += x * x
    return one, two, three, pull, square


class OfClass(NamedTuple):
    """K_y's two numbers with two derivatives in s, and moments of x = R (p - y): E x along P_y, E x^2 along it."""

    own: list[Any]
    other: list[Any]
    pull: Any
    square: Any


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Means over a sample of the logit law, class by class.

    Parameters
    ----------
    probabilities, labels : ndarray (n, C), (n,)
    """

    probabilities: Floats
    labels: npt.NDArray[np.int64]

    @cached_property
    def _series(self) -> Floats:
        """Taylor coefficients in s of B_yy, x_y and x_y^2, (terms, 3)."""
        nodes = taylor.circle(RADIUS, TERMS).tolist()
        columns = np.array([label_sums(self.probabilities, self.labels, s) for s in nodes])[:, [0, 3, 4]]
        return taylor.coefficients(columns / len(self.probabilities), RADIUS, TERMS)

    def at(self, s: complex | float, traces: list[Any]) -> OfClass:
        """At s, given C - 1 times the `traces` per direction of the mean of B over all examples and its derivatives."""
        n, c = self.probabilities.shape
        if abs(s) <= RADIUS:
            rows = taylor.weights(s, TERMS)
            b, pull, square = self._series.T
            entry = list(rows @ b)
            pull, square = rows[0] @ pull, rows[0] @ square
        else:
            one, two, three, pull, square = (x / n for x in label_sums(self.probabilities, self.labels, s))
            entry = [one, -two, 2 * three]
        # The unit vector of P_y has the entry sqrt(1 - 1/C) at y, and a vector of zero sum the product x_y / that.
        own = [x / (c - 1) for x in entry]
        other = [((c - 1) / c * t - x) / max(c - 2, 1) for t, x in zip(traces, own, strict=True)]
        return OfClass(own, other, pull / (1 - 1 / c) ** 0.5, square / (1 - 1 / c))


def level(m: complex | float, strength: float, k: list[Any]) -> tuple[Any, Any, Any, list[Any]]:
    """Of one direction: 1 + m strength k, the derivatives of its logarithm, and k / (1 + m strength k) with its own."""
    value = 1 + m * strength * k[0]
    f = 1 / value
    change = strength * (k[0] + m * k[1]) * f
    slope = f * f * (k[1] - strength * k[0] ** 2)
    bend = f * f * (k[2] - 2 * strength * k[0] * k[1]) - 2 * change * slope
    return value, change, strength * (2 * k[1] + m * k[2]) * f - change**2, [k[0] * f, slope, bend]
