"""Eigenvalues of what one pass or two tell of G, and how far off they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, double, like, namespace, to_numpy
from rmtland.spectra import _vectors

Floats = npt.NDArray[np.float64]

SAMPLING, UNSEEN = 3.0, 2.0
"""How many standard deviations of what was sampled, and how much of what no product has seen, errors stand for."""


class Known(Protocol):
    """F F^T and products of B = G - F F^T with some directions.

    Attributes
    ----------
    kind : array
        In the library and dtype of products.
    sums : array (r, D)
        `turn` times these are the columns of F.
    turn : ndarray (q, r)
    own : ndarray (q, q)
        F^T F.
    block : array (D, m)
        V, orthonormal.
    spread : array (D, m)
        B V.
    """

    kind: Array
    sums: Array
    turn: Floats
    own: Floats
    block: Array
    spread: Array


@dataclass(frozen=True, eq=False)
class Estimate:
    """F F^T + N N^T by the Gram matrix of the columns of F and N."""

    run: Known
    nystrom: Array  # N, (D, m)
    values: Floats  # ascending, all of them
    combinations: Floats
    k: int

    @classmethod
    def of(cls, run: Known, k: int) -> Estimate:
        """With N = B V (V^T B V)^-1/2, less what of V^T B V is rounding."""
        block, spread = double(run.block), run.spread
        core = to_numpy(block.T @ spread)
        sizes, turn = np.linalg.eigh((core + core.T) / 2) if core.size else (np.zeros(0), np.zeros((0, 0)))
        scale = max(float(np.trace(run.own)), float(sizes.max(initial=0.0)))
        kept = sizes > 10 * _vectors.epsilon(run.kind) * scale
        sizes, turn = sizes[kept], turn[:, kept]
        nystrom = spread @ like(spread, turn / np.sqrt(sizes))
        values, combinations = np.linalg.eigh(_bordered(run, nystrom))
        values = np.concatenate([np.zeros(max(k + 1 - values.size, 0)), np.maximum(values, 0.0)])
        return cls(run, nystrom, values, combinations, k)

    @property
    def following(self) -> float:
        """The eigenvalue after the `k` largest."""
        return float(self.values[-self.k - 1])

    def vectors(self, count: int) -> Array:
        """Orthonormal eigenvectors (D, count) of the largest eigenvalues, ascending."""
        run, r = self.run, len(self.run.own)
        count = min(count, self.combinations.shape[1])
        chosen = self.combinations[:, self.combinations.shape[1] - count :]
        from_means = run.sums.T @ like(run.sums, run.turn.T @ chosen[:r])
        return orthonormal(double(from_means) + self.nystrom @ like(self.nystrom, chosen[r:]))


def _bordered(run: Known, columns: Array) -> Floats:
    """The Gram matrix of the columns of F and others."""
    cross = run.turn @ to_numpy(run.sums @ like(run.sums, columns)).astype(np.float64)
    return np.block([[run.own, cross], [cross.T, to_numpy(columns.T @ columns)]])


def inner_products(rows: Array) -> Floats:
    """Inner products of rows, (r, r), float64: sums in blocks of the rows' own dtype."""
    width = 2**16
    total = np.zeros((rows.shape[0], rows.shape[0]))
    for start in range(0, rows.shape[1], width):
        part = to_numpy(rows[:, start : start + width])
        total += part @ part.T  # NumPy knows that this is symmetric
    return total


def orthonormal(block: Array) -> Array:
    """An orthonormal basis; the last columns are those that change least."""
    if block.shape[1] == 0:
        return block
    xp = namespace(block)
    return xp.flip(xp.linalg.qr(xp.flip(block, axis=1))[0], axis=1)


def likely_errors(values: Floats, following: float, outside: Floats, noise: Floats) -> Floats:
    """What covers 95 of 100 errors: of what was sampled, and of what no product has seen.

    The rest of G, R = G - (F F^T + N N^T), is positive semidefinite and R V = 0, so that an eigenvalue errs by
    u^T R u <= |u outside V|^2 |R| to first order; R is no larger than about the next eigenvalue, and one nearby turns
    u. The two factors were set on networks of digits.
    """
    gap = np.maximum(values - following, 0.1 * values)
    turned = values / np.where(gap > 0, gap, 1.0)
    errors: Floats = SAMPLING * noise + UNSEEN * outside * following * turned + 1e-6 * values[-1]
    return errors
