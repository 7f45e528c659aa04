"""K(m) = F^T P^T (1 + m T)^(-1) P F, what the rows' means are to the equation, by few nodes in place of many rows.

A row enters by 1 / (1 + m t) alone. On a panel t in [l, 2 l] this is interpolated at Chebyshev points, so that the
rows of a panel are replaced by one matrix for each point; the pole, at t = -1/m, says how good that is: the error of n
points falls like rho^(-n), rho the sum of the half axes of the ellipse about the panel that goes through the pole, in
units of half the panel. Where it is not small enough, rows are summed. Derivatives in m are those of the interpolant,
so that the equation of either is stationary at its solution.

References
----------
Trefethen (2013), Approximation Theory and Approximation Practice, theorem 8.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.landscape.weighted_rows import WeightedRows

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

NODES = 10
"""Chebyshev points of a panel."""
PANELS = 12
"""Of twice the width of the next, from the largest t down; one more for all that is smaller."""
NEAREST = 4.5
"""The least rho that is good enough: an error of 3e-7 of K."""
MOST_BYTES = 1.3e8
"""Of the matrices at all nodes."""
CHUNK = 256
"""Rows whose outer products are formed at a time."""
FEW_COLUMNS = 16
"""Up to so many means seen by a row its outer products are kept."""


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Where t is taken, the packed upper triangles there, and centre and half width of the panels."""

    places: Floats
    packed: Floats
    panels: Floats


@dataclass(frozen=True, eq=False)
class MeanKernel:
    """K(m) and its derivatives.

    Parameters
    ----------
    rows : WeightedRows
    """

    rows: WeightedRows

    def __call__(self, m: Any, order: int = 1) -> Array:
        """K and its first derivatives in m, (order, q, q), or (order, k, q, q) for m (k,)."""
        nodes = self._nodes_for(m)
        if nodes is not None:
            return self._from_nodes(nodes, m, order)
        found = self._summed(_weights(self.rows.scales**2, m, order), None)
        factor = self.rows.factor
        return found if self._unit_factor else factor.T @ found @ factor

    def alike(self, m: Any, order: int) -> Array:
        """Matrices whose products have the traces of those of K and its derivatives, the cheapest, (order, r, r)."""
        nodes = self._nodes_for(m)
        if nodes is not None:
            return self._from_nodes(nodes, m, order)
        return self._summed(_weights(self.rows.scales**2, m, order), self._gram)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _summed(self, weights: Array, right: Floats | None) -> Array:
        """P^T diag(weights) P, times a matrix if given, for weights (.., n)."""
        parts = _parts(weights)
        size = self.rows.factor.shape[0]
        found = np.zeros((len(parts), size, size))
        start = 0
        for block, products in zip(self.rows.blocks, self._products, strict=True):
            p, columns = block.loadings, block.columns
            part = parts[:, start : start + p.shape[0]]
            start += p.shape[0]
            if products is None:
                sums = p.T @ (part[:, :, None] * p)
            else:
                sums = (part @ products).reshape(len(parts), p.shape[1], p.shape[1])
            if right is None:
                found[:, columns[:, None], columns] += sums
            else:
                found[:, columns] += sums @ right[columns]
        return _joined(found, weights)

    @cached_property
    def _gram(self) -> Floats:
        gram: Floats = self.rows.factor @ self.rows.factor.T
        return gram

    @cached_property
    def _products(self) -> list[Floats | None]:
        """Outer products of each row's loadings, (r, b^2), where they are few."""
        return [
            None
            if block.loadings.shape[1] > FEW_COLUMNS
            else (block.loadings[:, :, None] * block.loadings[:, None, :]).reshape(len(block.loadings), -1)
            for block in self.rows.blocks
        ]

    @cached_property
    def _unit_factor(self) -> bool:
        factor = self.rows.factor
        return factor.shape[0] == factor.shape[1] and bool(np.array_equal(factor, np.eye(factor.shape[0])))

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _nodes_for(self, m: Any) -> _Nodes | None:
        """The nodes where they do at m, or at all of several."""
        nodes = self._nodes
        poles = np.atleast_1d(np.asarray(m, dtype=np.complex128))
        poles = -1 / poles[poles != 0]
        if nodes is None or not (poles.size and nodes.panels.size):
            return nodes
        u = (poles[:, None] - nodes.panels[0]) / nodes.panels[1]
        root = np.sqrt(u * u - 1)
        return nodes if np.maximum(np.abs(u + root), np.abs(u - root)).min() >= NEAREST else None

    def _from_nodes(self, nodes: _Nodes, m: Any, order: int) -> Array:
        weights = _weights(nodes.places, m, order)
        parts = _parts(weights)
        size = self.rows.factor.shape[1]
        found = np.take(parts @ nodes.packed, self._unpacked, axis=1).reshape(len(parts), size, size)
        return _joined(found, weights)

    @cached_property
    def _unpacked(self) -> npt.NDArray[np.int64]:
        """Place in the packed upper triangle of each entry of the matrix, row by row."""
        size = self.rows.factor.shape[1]
        place = np.zeros((size, size), dtype=np.int64)
        above = np.triu_indices(size)
        place[above] = np.arange(above[0].size)
        place.T[above] = place[above]
        return place.ravel()

    @cached_property
    def _nodes(self) -> _Nodes | None:
        """None where rows themselves are as cheap, or nodes too large."""
        rows = self.rows
        t, size = rows.scales**2, rows.factor.shape[1]
        triangle = size * (size + 1) // 2
        by_rows = sum(block.loadings.size * block.loadings.shape[1] for block in rows.blocks)
        most = min(t.size, NODES * (PANELS + 1))
        if not size or 2 * most * triangle > by_rows or 8.0 * most * triangle > MOST_BYTES:
            return None
        top = float(t.max())
        if not top > 0:
            return None
        ends = np.append(top * 0.5 ** np.arange(PANELS + 1), 0.0)
        of_panel = np.minimum(np.floor(-np.log2(np.maximum(t / top, 1e-300))).astype(np.int64), PANELS)
        means, above = rows.means, np.triu_indices(size)
        places, packed, panels = [], [], []
        for j in np.unique(of_panel).tolist():
            members = np.flatnonzero(of_panel == j)
            if members.size <= NODES:  # no fewer nodes than rows
                places.append(t[members])
                packed.append(means[members][:, above[0]] * means[members][:, above[1]])
                continue
            centre, half = 0.5 * (ends[j] + ends[j + 1]), 0.5 * (ends[j] - ends[j + 1])
            nodes, shares = _lagrange(np.clip((t[members] - centre) / half, -1.0, 1.0))
            sums = np.zeros((NODES, triangle))
            for start in range(0, members.size, CHUNK):
                part = means[members[start : start + CHUNK]]
                sums += shares[start : start + CHUNK].T @ (part[:, above[0]] * part[:, above[1]])
            places.append(centre + half * nodes)
            packed.append(sums)
            panels.append((centre, half))
        return _Nodes(np.concatenate(places), np.concatenate(packed), np.array(panels).reshape(-1, 2).T)


def _lagrange(x: Floats) -> tuple[Floats, Floats]:
    """Chebyshev points on [-1, 1], and the polynomials that are 1 at one of them and 0 at the others, (n, NODES)."""
    angles = (np.arange(NODES) + 0.5) * (np.pi / NODES)
    orders = np.arange(NODES)
    scale = np.where(orders == 0, 1.0, 2.0) / NODES
    shares: Floats = np.cos(np.arccos(x)[:, None] * orders) * scale @ np.cos(np.outer(orders, angles))
    return np.cos(angles), shares


def _weights(t: Floats, m: Any, order: int) -> Array:
    """(1 + m t)^(-1) and its derivatives in m, (order, .., n)."""
    pivot = 1 / (1 + np.asarray(m)[..., None] * t)
    found = [pivot]
    for j in range(1, order):
        found.append(-j * found[-1] * t * pivot)
    return np.array(found)


def _parts(weights: Array) -> Floats:
    """Of weights (.., n) real parts, then imaginary ones: real products of real matrices are faster."""
    flat = weights.reshape(-1, weights.shape[-1])
    return np.concatenate([flat.real, flat.imag]) if np.iscomplexobj(flat) else flat


def _joined(found: Floats, weights: Array) -> Array:
    """Real and imaginary parts joined where the weights (.., n) were complex, in their shape."""
    half = len(found) // 2
    whole: Array = found[:half] + 1j * found[half:] if np.iscomplexobj(weights) else found
    return whole.reshape(weights.shape[:-1] + found.shape[1:])
