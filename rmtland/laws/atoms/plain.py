"""x = u + sum_i c_i t_i + sum_i c_i t_i^2 / (u - t_i) + sigma^2 / u for given atoms t_i.

The compiled backend of the general solver: c_i = w_i / D, sigma the scale of a Wigner matrix beside the atoms, which is
one more pole, at 0, of residue sigma^2.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.laws._law import Complexes, Floats
from rmtland.laws.atoms import counts as count_kernels
from rmtland.laws.atoms import edges as edge_kernels
from rmtland.laws.atoms import kernels

_EPS = float(np.finfo(np.float64).eps)
_SMALLEST = 1e-70
"""Eigenvalues below this fraction of the largest count as zero: their squares leave the range of float64."""
_WINDOW = 16


@dataclasses.dataclass(frozen=True, eq=False)
class PlainAtoms:
    """Solutions, edges and counts of the equation; methods take and give x and u as they are, fields are scaled.

    Parameters
    ----------
    t : ndarray of float64, shape (k,)
        Distinct, ascending, positive; with a Wigner matrix after a 0 that stands for it.
    weights : ndarray of float64, shape (k,)
        Multiplicities w > 0; 0 for the Wigner matrix.
    dimension : float
        D.
    scale : float
        The unit of t: the largest, or sigma where that is larger.
    variance : float
        sigma^2 in that unit.
    """

    t: Floats
    weights: Floats
    dimension: float
    scale: float
    variance: float = 0.0

    @classmethod
    def of(
        cls, eigenvalues: Floats, multiplicities: Floats | None, dimension: float, variance: float = 0.0
    ) -> PlainAtoms:
        """Group equal eigenvalues and drop those without weight."""
        weights = np.ones_like(eigenvalues) if multiplicities is None else multiplicities
        scale = max(float(np.max(eigenvalues[weights > 0], initial=0.0)), float(np.sqrt(variance)))
        keep = (eigenvalues > _SMALLEST * scale) & (weights > 1e-100 * dimension)
        order = np.argsort(eigenvalues[keep])
        values, weights = eigenvalues[keep][order], weights[keep][order]
        # Neighbours that differ by rounding only would be poles with nothing representable between them.
        first = np.diff(values, prepend=-1.0) > 4 * _EPS * values
        t, grouped = values[first] / scale, np.add.reduceat(weights, np.flatnonzero(first))
        if variance > 0:
            t, grouped = np.append(0.0, t), np.append(0.0, grouped)
        return cls(t, grouped, dimension, scale, float(np.sqrt(variance) / scale) ** 2)

    @cached_property
    def b(self) -> Floats:
        """Weights c t of the kernels, c = w / D."""
        return self.weights / self.dimension * self.t

    @cached_property
    def a(self) -> Floats:
        """Residues of the poles: c t^2, and sigma^2."""
        residues: Floats = self.b * self.t
        if self.variance > 0:
            residues[0] = self.variance
        return residues

    @cached_property
    def num_vectors(self) -> float:
        """N: all multiplicities."""
        return float(self.weights.sum())

    @property
    def deficit(self) -> float:
        """1 - N / D; exactly 0 at the hard edge, which a Wigner matrix softens."""
        return 1.0 if self.variance > 0 else (self.dimension - self.num_vectors) / self.dimension

    @cached_property
    def rank(self) -> float:
        """Number of nonzero eigenvalues: min(N, D), or D with a Wigner matrix."""
        return self.dimension if self.variance > 0 else min(self.num_vectors, self.dimension)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        low, high = edge_kernels.outer_crossings(self.t, self.a, self.deficit == 0)
        return float(low), float(high)

    @property
    def ends(self) -> tuple[float, float]:
        """Re u of the outermost edges."""
        return self.scale * self._ends[0], self.scale * self._ends[1]

    @cached_property
    def _range(self) -> tuple[float, float]:
        low, high = (kernels.evaluate_real(u, self.t, self.b, self.a, self.deficit)[0] for u in self._ends)
        return max(float(low), self._least), float(high)

    @property
    def range(self) -> tuple[float, float]:
        """The outermost edges."""
        return self.scale * self._range[0], self.scale * self._range[1]

    @property
    def _least(self) -> float:
        """What no eigenvalue is below."""
        return -np.inf if self.variance > 0 else 0.0

    @cached_property
    def _crossings(self) -> Floats:
        ends: Floats = edge_kernels.crossings(*self._ends, self.t, self.a, _WINDOW)
        return ends

    @property
    def crossings(self) -> Floats:
        """Re u of all edges, ascending, shape (k, 2)."""
        return self.scale * self._crossings

    @cached_property
    def _edges(self) -> tuple[Floats, Floats]:
        u = self._crossings.ravel()
        value, curvature = edge_kernels.edges(u, self.t, self.b, self.a, self.deficit)
        # A band may be narrower than rounding.
        ascending = np.maximum.accumulate(np.maximum(value, self._least))
        return ascending.reshape(-1, 2), (curvature * u**4).reshape(-1, 2)

    @property
    def edges(self) -> Floats:
        """All edges, ascending, shape (k, 2)."""
        return self.scale * self._edges[0]

    @property
    def edge_scales(self) -> Floats:
        """Scales of the Tracy-Widom fluctuations there: (|d^2 x / dg^2| / (2 D^2))^(1/3), g = -1/u."""
        return self.scale * np.cbrt(self._edges[1] / (2 * self.dimension**2))

    def _scaled(self, x: Any) -> Any:
        with np.errstate(over="ignore"):
            return x / self.scale

    def inside(self, x: Floats) -> npt.NDArray[np.bool_]:
        """Whether x is strictly between the outermost edges."""
        return self._inside(self._scaled(x))

    def _inside(self, x: Floats) -> npt.NDArray[np.bool_]:
        low, high = self._range
        return (x > low) & (x < high)

    def solve(self, x: Floats) -> Complexes:
        """Solutions u(x + i0) for finite x in any order."""
        return self.scale * self._solve(self._scaled(x))

    def _solve(self, x: Floats) -> Complexes:
        order = np.argsort(x, kind="stable")
        low, high = self._ends
        if x.size and not self._inside(x[order[[0, -1]]]).all():
            spread = 1.001 * (self.b.sum() + np.sqrt(self.a.sum()))
            low, high = min(low, x[order[0]] - spread), max(high, x[order[-1]] + spread)
        u = np.empty(x.size, dtype=np.complex128)
        u[order] = kernels.solve_real(x[order], low, high, self.t, self.b, self.a, self.deficit)
        return u

    def solve_complex(self, z: Complexes) -> Complexes:
        """Solutions u(z) for finite z of Im z >= 0."""
        z = self._scaled(z)
        u = np.empty(z.size, dtype=np.complex128)
        on_axis = z.imag == 0
        u[on_axis] = self._solve(z.real[on_axis])
        u[~on_axis] = kernels.solve_complex(z[~on_axis], self.t, self.b, self.a, self.deficit)
        return self.scale * u

    def counts(self, x: Floats) -> tuple[Floats, Floats]:
        """Expected numbers of nonzero eigenvalues above and below x, each accurate where small; x not NaN."""
        return self._counts(self._scaled(x))

    def _counts(self, x: Floats) -> tuple[Floats, Floats]:
        inside = self._inside(x)
        above = np.where(x >= self._range[1], 0.0, self.rank)
        below = self.rank - above
        found = count_kernels.counts(self._solve(x[inside]), self.t, self.weights, self.dimension, self.rank)
        above[inside], below[inside] = (np.clip(numbers, 0.0, self.rank) for numbers in found)
        return above, below

    def quantiles(self, above: Floats, below: Floats) -> Floats:
        """Smallest x with `above` eigenvalues above them and `below` nonzero ones below (what counts in the tail)."""
        low, high = self._range
        x = np.where(above <= 0, high, np.where(below <= 0, low, np.nan))
        from_above = (above <= below) | (below > count_kernels.TAIL * self.rank)
        for side, levels in ((True, above), (False, below)):
            here = np.flatnonzero((from_above == side) & (levels > 0))
            here = here[np.argsort(levels[here], kind="stable")]
            x[here] = count_kernels.quantiles(
                levels[here], side, *self._ends, self.t, self.b, self.a, self.deficit, self.weights, self.dimension,
                self.rank,
            )  # fmt: skip
        if self.deficit == 0:
            # Near a hard edge the count goes like sqrt(x), on a scale of u that the search by Re u cannot resolve.
            spread = np.sum(self.b / self.t**2)
            start = (np.pi * below / (2 * self.dimension)) ** 2 / spread
            near = (below > 0) & (start < 1e-8 * self.t[0] ** 2 * spread)
            if near.any():
                y, goal = start[near], below[near]
                for _ in range(4):
                    y = y * (goal / self._counts(y)[1]) ** 2
                x[near] = y
        return self.scale * np.clip(x, low, high)

    def evaluate(self, u: complex) -> tuple[complex, complex]:
        """map(u) and map'(u); not finite at a pole."""
        u = self._scaled(u)
        with np.errstate(all="ignore"):
            value = u * (1 + np.sum(self.b / (u - self.t))) + np.divide(self.variance, u)
            return complex(self.scale * value), complex(1 - np.sum(self.a / (u - self.t) ** 2))

    def atoms_above(self, u: float) -> float:
        """Number of atoms above u; of eigenvalues above map(u) if u is outside the support, not 0."""
        if u < 0:
            return self.rank
        return float(self._weights_above[np.searchsorted(self.t, self._scaled(u), side="right")])

    @cached_property
    def _weights_above(self) -> Floats:
        """Of all atoms from the j-th on, and 0."""
        return np.append(np.cumsum(self.weights[::-1])[::-1], 0.0)

    def companion(self, u: Complexes) -> Complexes:
        """Sum of w_i / (u - t_i) / (1 + sum of b_i / (u - t_i)) at each u."""
        values = [np.sum(self.weights / (w - self.t)) / (1 + np.sum(self.b / (w - self.t))) for w in self._scaled(u)]
        return np.array(values, dtype=np.complex128) / self.scale

    def at_spikes(self, theta: Floats) -> tuple[Floats, Floats]:
        """Values map(theta) and map'(theta) without any copy of theta among the atoms; an outlier iff map' > 0."""
        value, slope = np.empty(theta.size), np.empty(theta.size)
        for j, spike in enumerate(self._scaled(theta)):
            distance = np.where(np.abs(spike - self.t) <= 4 * _EPS * spike, np.inf, spike - self.t)
            value[j] = spike * (1 + np.sum(self.b / distance))
            slope[j] = 1 - np.sum(self.a / distance**2)
        return self.scale * value, slope

    def place(self, theta: float) -> float:
        """Where the curve keeps a spike that is no outlier: the edge it is beyond, or its point of the band."""
        spike = self._scaled(theta)
        # Nearest band, as rounding may put the spike just outside of all.
        band = int(np.argmin(np.maximum(self._crossings[:, 0] - spike, spike - self._crossings[:, 1])))
        low, high = self._crossings[band]
        atoms = self.t[(self.t >= low) & (self.t <= high)]
        if atoms[0] <= spike <= atoms[-1]:
            v = kernels.height(spike, 0.0, self.t, self.a)
            value = kernels.evaluate(spike, v, self.t, self.b, self.a, self.deficit)[0].real
            return float(self.scale * value)
        return float(self.edges[band, int(spike > atoms[-1])])
