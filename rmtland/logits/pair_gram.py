"""What the inner products of cross-class means tell of A1, A2 and B1: eigenvalues, ranks, and overlaps with ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, require_memory
from rmtland._arrays import to_numpy
from rmtland.logits.cross_class import CrossClassMeans

Floats = npt.NDArray[np.float64]

ROUNDING = 1e-11
"""Eigenvalues of the Gram matrix of unit columns below this share of the largest are rounding."""


@dataclass(frozen=True, eq=False)
class PairGram:
    """The C^2 x C^2 Gram matrix F^T F of A1 + A2 + B1 = F F^T; the factors of A1, A2 and B1 are combinations F T^T.

    Attributes
    ----------
    matrix : ndarray (C^2, C^2)
        Inner products of sqrt(p_{c,c'} / N) g_{c,c'}, by c, then c'.
    shares : ndarray (C, C)
        Roots of p_{c,c'} / p_c, zero at c' = c.
    num_parameters : int
        D.
    """

    matrix: Floats = field(repr=False)
    shares: Floats = field(repr=False)
    num_parameters: int

    @classmethod
    def of(cls, means: CrossClassMeans) -> PairGram:
        """Of cross-class means; MemoryError where these were not kept or the matrix does not fit."""
        rows = means.kept_factor("gram")
        num_pairs = means.num_classes**2
        require_memory(f"the {num_pairs} x {num_pairs} Gram matrix", 40.0 * num_pairs**2, "use products with low_rank")
        rows = rows.reshape(num_pairs, -1)
        return cls(to_numpy(rows @ rows.T), means.pair_shares, means.num_parameters)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.shares)

    def combinations(self, *parts: str) -> Floats:
        """T of shape (r, C^2), such that F T^T is a factor of the sum of some parts; the identity for all three."""
        parts = self._checked(parts)
        num_classes = self.num_classes
        own = np.arange(num_classes) * (num_classes + 1)
        pairs = np.eye(num_classes**2)
        if len(parts) == 3:
            return pairs
        means = np.zeros((num_classes, num_classes**2))
        for c in range(num_classes):
            means[c, c * num_classes : (c + 1) * num_classes] = self.shares[c]
        central = -self.shares.reshape(-1)[:, None] * np.repeat(means, num_classes, axis=0)
        # 1 - p_{c,c'} / p_c as the share of the others, which does not cancel where one pair has all the weight.
        others = (self.shares**2) @ (1 - np.eye(num_classes))
        np.fill_diagonal(central, others)
        central = np.delete(central, own, axis=0)
        rows = {"A1": means, "A2": pairs[own], "B1": central}
        return np.concatenate([rows[part] for part in parts])

    def _checked(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        for part in parts:
            choice("parts", part, ("A1", "A2", "B1"))
        return tuple(part for part in ("A1", "A2", "B1") if part in parts or not parts)

    def _max_rank(self, parts: tuple[str, ...]) -> int:
        num_classes = self.num_classes
        if "B1" not in parts:
            return min(num_classes, self.num_parameters)  # A2 lies within the range of A1
        rank = num_classes * (num_classes - 1 if len(parts) > 1 else num_classes - 2)
        return min(rank, self.num_parameters)

    def eigenvalues(self, *parts: str) -> Floats:
        """Eigenvalues of A1, A2, B1 or the sum of some, ascending, float64.

        Parameters
        ----------
        *parts : {"A1", "A2", "B1"}
            By default all three.

        Returns
        -------
        ndarray (r,)
            As many as its rank may be: min(D, C) of A1, A2 and their sum, min(D, C (C - 2)) of B1, min(D, C (C - 1)) of
            other sums. All others are zero.

        Raises
        ------
        ValueError
            For another name.
        """
        rows = self.combinations(*parts)
        values = np.linalg.eigvalsh(rows @ self.matrix @ rows.T)
        rank = self._max_rank(self._checked(parts))
        top: Floats = np.maximum(values[values.size - rank :], 0.0)
        return top

    def range_basis(self, *parts: str) -> Floats:
        """Q (rank, C^2) such that the rows of Q F^T are an orthonormal basis of the range of some parts' sum.

        Columns are scaled to unit length first: the range does not depend on the weights of pairs, which differ by many
        orders of magnitude in a trained network.
        """
        rows = self.combinations(*parts)
        squares: Floats = np.maximum(np.einsum("ij,ij->i", rows @ self.matrix, rows), 0)
        # A column that is zero but for rounding, such as the only pair of two classes about its own mean, is no column.
        whole = np.einsum("ij,j,ij->i", rows, np.diag(self.matrix), rows)
        known = squares > ROUNDING * whole
        unit: npt.NDArray[Any] = rows[known] / np.sqrt(squares[known])[:, None]
        if not unit.size:
            return unit
        values, vectors = np.linalg.eigh(unit @ self.matrix @ unit.T)
        kept = values > ROUNDING * values[-1]
        # Where classes are mistaken all but surely, means cancel, and rounding is larger than that.
        kept[: max(kept.size - self._max_rank(self._checked(parts)), 0)] = False
        basis: Floats = (vectors[:, kept] / np.sqrt(values[kept])).T @ unit
        return basis

    def rank(self, *parts: str) -> int:
        """Dimension of the range of A1, A2, B1 or the sum of some, to rounding."""
        return int(self.range_basis(*parts).shape[0])
