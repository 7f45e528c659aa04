"""A law of a few hundred atoms near those of D T, which gives every first guess in microseconds.

With atoms t and weights w it is map(u) = u + sum_i w_i t_i / D + sum_i a_i / (u - t_i), a_i = w_i t_i^2 / D. An H-term
adds sigma_H^2 / u, one more pole at 0. That is no generalised Marchenko-Pastur law, but one in other coordinates: moved
to the right, all poles are positive atoms, of weights D a_i / t_i^2 at their new places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.optimize import brentq

from rmtland.landscape.theory.examples import Floats
from rmtland.laws import silverstein_kernels as kernels
from rmtland.laws._law import Complexes
from rmtland.laws.silverstein_equation import SilversteinEquation


class Surrogate(Protocol):
    """What first guesses need."""

    @property
    def scale(self) -> float:
        """The largest atom, or sigma_H where that is larger."""

    @property
    def poles(self) -> Floats:
        """Of map, ascending."""

    @property
    def crossings(self) -> Floats:
        """Re u at the edges of the support, ascending, (k, 2)."""

    def atoms_above(self, u: float) -> float:
        """Number of eigenvalues above map(u), u in a gap."""

    def solve(self, x: float) -> complex:
        """u(x + i0)."""

    def map(self, u: complex) -> complex:
        """map(u); not finite at a pole."""

    def slope(self, u: complex) -> complex:
        """map'(u)."""

    def quantiles(self, above: Floats) -> Complexes:
        """Points u of the curve with so many eigenvalues above."""


@dataclass(frozen=True, eq=False)
class MarchenkoPasturSurrogate:
    """Without an H-term: a generalised Marchenko-Pastur law."""

    law: SilversteinEquation

    @property
    def scale(self) -> float:
        """The largest atom."""
        return self.law.scale

    @property
    def poles(self) -> Floats:
        """The atoms."""
        return self.law.t * self.law.scale

    @property
    def crossings(self) -> Floats:
        """Re u at the edges of the support, ascending, (k, 2)."""
        return self.law.crossings * self.law.scale

    def atoms_above(self, u: float) -> float:
        """Number of eigenvalues above map(u), u in a gap."""
        return float(self.law.weights[np.searchsorted(self.poles, u) :].sum())

    def solve(self, x: float) -> complex:
        """u(x + i0); the least positive x for those that are not."""
        return complex(self.law.solve(np.array([max(x / self.scale, 1e-300)]))[0]) * self.scale

    def map(self, u: complex) -> complex:
        """map(u); not finite at a pole."""
        v = u / self.scale
        with np.errstate(all="ignore"):
            return complex(v * (1 + np.sum(self.law.b / (v - self.law.t)))) * self.scale

    def slope(self, u: complex) -> complex:
        """map'(u)."""
        with np.errstate(all="ignore"):
            return complex(1 - np.sum(self.law.a / (u / self.scale - self.law.t) ** 2))

    def quantiles(self, above: Floats) -> Complexes:
        """Points u of the curve with so many eigenvalues above."""
        x = self.law.quantiles(above, self.law.rank - above)
        points: Complexes = self.law.solve(x) * self.scale
        return points


@dataclass(frozen=True, eq=False)
class HTermSurrogate:
    """With an H-term of scale sigma_H > 0.

    Parameters
    ----------
    t, weights : ndarray (k,)
        Positive atoms and their numbers.
    dimension, sigma_H : float
    """

    t: Floats
    weights: Floats
    dimension: float
    sigma_H: float

    @cached_property
    def scale(self) -> float:
        """The largest atom, or sigma_H where that is larger."""
        return max(float(np.max(self.t, initial=0.0)), self.sigma_H)

    @cached_property
    def poles(self) -> Floats:
        """0 and the atoms."""
        return np.append(0.0, np.sort(self.t))

    @property
    def _shift(self) -> float:
        # As far as the poles spread: nearer 0 their weights would differ by orders of magnitude.
        return self.scale

    @cached_property
    def _moved(self) -> SilversteinEquation:
        places = np.append(0.0, self.t) + self._shift
        residues = np.append(self.sigma_H**2, self.weights * self.t**2 / self.dimension)
        return SilversteinEquation.of(places, self.dimension * residues / places**2, self.dimension)

    @cached_property
    def _offset(self) -> float:
        """What map of the moved law has at u + shift beyond map(u)."""
        moved = self._moved
        return self._shift + float(np.sum(moved.b)) * moved.scale - self._mean

    @cached_property
    def _mean(self) -> float:
        return float(np.sum(self.weights * self.t)) / self.dimension

    @property
    def crossings(self) -> Floats:
        """Re u at the edges of the support, ascending, (k, 2)."""
        return self._moved.crossings * self._moved.scale - self._shift

    def atoms_above(self, u: float) -> float:
        """Number of eigenvalues above map(u), u in a gap."""
        return float(self.weights[self.t > u].sum()) if u > 0 else self.dimension

    def solve(self, x: float) -> complex:
        """u(x + i0)."""
        scale = self._moved.scale
        return complex(self._moved.solve(np.array([(x + self._offset) / scale]))[0]) * scale - self._shift

    def map(self, u: complex) -> complex:
        """map(u); not finite at a pole."""
        with np.errstate(all="ignore"):
            pulls = np.sum(self.weights * self.t**2 / (u - self.t)) / self.dimension
            return complex(u + self._mean + pulls + np.divide(self.sigma_H**2, u))

    def slope(self, u: complex) -> complex:
        """map'(u)."""
        with np.errstate(all="ignore"):
            pulls = np.sum(self.weights * (self.t / (u - self.t)) ** 2) / self.dimension
            return complex(1 - pulls - np.square(np.divide(self.sigma_H, u)))

    def _count(self, u: complex) -> float:
        if u.imag == 0:
            return self.atoms_above(u.real)
        m = -1 / u
        there = 1 + m * self.t
        # As in `Equation.potential`: D log m + m Psi' - Psi of the imaginary part pi times the number below.
        terms = np.sum(self.weights * (m * self.t / there - np.log(there)))
        integral = self.dimension * (np.log(m) - 1j * np.pi - 0.5 * (self.sigma_H * m) ** 2) + terms
        return -float(integral.imag) / math.pi

    def quantiles(self, above: Floats) -> Complexes:
        """Points u of the curve with so many eigenvalues above."""
        moved = self._moved
        low, high = moved.ends

        def at(r: float) -> complex:
            height = float(kernels.height(r, 0.0, moved.t, moved.a))
            return complex(r, height) * moved.scale - self._shift

        points = [
            at(float(brentq(lambda r, goal=goal: self._count(at(r)) - goal, low, high, xtol=1e-12)))
            for goal in above.tolist()
        ]
        return np.array(points, dtype=np.complex128)


def surrogate_of(
    atoms: tuple[Floats, Floats, Floats], dimension: float, sigma_H: float
) -> MarchenkoPasturSurrogate | HTermSurrogate:
    """The surrogate of `Equation.atoms()`."""
    values, weights, spikes = atoms
    t = np.concatenate([values, spikes])
    weights = np.concatenate([weights, np.ones(spikes.size)])
    if sigma_H > 0:
        some = t > 0
        return HTermSurrogate(t[some], weights[some], dimension, sigma_H)
    return MarchenkoPasturSurrogate(SilversteinEquation.of(t, weights, dimension))
