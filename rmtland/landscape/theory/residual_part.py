"""Residuals alone, T^(1/2) Z Sigma^(1/2), right of their edge, and the eigenvalues that means bring there.

With m = tr(Sigma Q) < 0, a = sum_i t_i / (1 + m t_i) and z = a v, where sum_j w_j s_j / (v - s_j) = -a m has one root
beyond all s_j; the edge is the least z. A mean is outside where an eigenvalue of -W K(m) reaches 1, its effect on m and
a, of order 1/D, left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ResidualPart:
    """T^(1/2) Z Sigma^(1/2) alone, right of its edge: z as a function of m < 0.

    Parameters
    ----------
    t, s, w : ndarray
        Positive eigenvalues of T; of Sigma, and how many of each.
    """

    t: Floats
    s: Floats
    w: Floats

    def place(self, m: float) -> tuple[float, float]:
        """Z and a; without residuals m = -1/z and a = 0."""
        if self.t.size == 0:
            return -1 / m, 0.0
        a = float(np.sum(self.t / (1 + m * self.t)))
        goal = -a * m
        # v = z / a right of all s_j with sum w s / (v - s) = goal: from its left Newton's steps rise to it.
        v = float(self.s[0]) * (1 + float(self.w[0]) / goal)
        for _ in range(100):
            gap = v - self.s
            step = (float(self.w @ (self.s / gap)) - goal) / float(self.w @ (self.s / gap**2))
            v += step
            if abs(step) <= 1e-14 * v:
                break
        return a * v, a

    @cached_property
    def steepest(self) -> float:
        """The log(-m) of the edge, where z is least; of a far lower place without residuals."""
        if self.t.size == 0:
            return 300.0
        top = float(self.t.max())
        found = minimize_scalar(
            lambda x: math.log(self.place(-math.exp(x))[0]),
            bounds=(math.log(1e-12 / top), math.log((1 - 1e-12) / top)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        return float(found.x)

    @property
    def edge(self) -> float:
        """Upper edge of its spectrum; 0 without residuals."""
        return self.place(-math.exp(self.steepest))[0] if self.t.size else 0.0

    def spikes(self, strengths: Callable[[float, float, float], Floats], count: int) -> Floats:
        """Places right of the edge where one of descending strengths, functions of (m, z, a), is 1; largest first."""
        top = self.steepest
        known: dict[float, Floats] = {}

        def at(log_m: float) -> Floats:
            if log_m not in known:
                known[log_m] = strengths(-math.exp(log_m), *self.place(-math.exp(log_m)))
            return known[log_m]

        found: list[float] = []
        for j in range(min(count, at(top).size)):
            low = top - 30.0
            if at(top)[j] <= 1:
                break
            while at(low)[j] > 1:
                low -= 10.0
            root = float(brentq(lambda x, j=j: math.log(at(x)[j]), low, top, xtol=1e-5))
            found.append(self.place(-math.exp(root))[0])
        return np.array(found)
