"""Eigenvalues of what one pass or two tell of G, and how far off they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, double, like, namespace, to_numpy
from rmtland.logits.rows import require_finite
from rmtland.spectra import _vectors

Floats = npt.NDArray[np.float64]

SAMPLING, UNSEEN = 3.0, 0.7
"""How many standard deviations of what was sampled, and how much of what no product has seen, errors stand for."""
CLOSE = 1e-6
"""Vectors that are images of eigenvectors are orthogonal to rounding unless eigenvalues differ by more than this."""


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

    @classmethod
    def of(cls, run: Known, k: int) -> Estimate:
        """With N = B V (V^T B V)^-1/2; at least k + 1 eigenvalues."""
        core = to_numpy(double(run.block).T @ run.spread)
        nystrom = run.spread @ like(run.spread, _inverse_root(core, run.kind, float(np.trace(run.own)))[0])
        values, combinations = np.linalg.eigh(_bordered(run, nystrom))
        return cls(run, nystrom, _padded(values, k + 1), combinations)

    def following(self, k: int) -> float:
        """The eigenvalue after the `k` largest."""
        return float(self.values[-k - 1])

    def vectors(self, count: int) -> Array:
        """Orthonormal eigenvectors (D, count) of the largest eigenvalues, ascending."""
        run, r = self.run, len(self.run.own)
        count = min(count, self.combinations.shape[1])
        chosen = self.combinations[:, self.combinations.shape[1] - count :]
        from_means = run.sums.T @ like(run.sums, run.turn.T @ chosen[:r])
        return orthonormal(double(from_means) + self.nystrom @ like(self.nystrom, chosen[r:]))


@dataclass(frozen=True, eq=False)
class Nystrom:
    """N N^T with N = G V (V^T G V)^-1/2, by the Gram matrix of N, and less what noise in G V adds to it."""

    images: Array  # G V, (D, m)
    root: Floats  # (V^T G V)^-1/2
    along: Floats  # V^T N
    values: Floats  # ascending
    lengths: Floats  # of N times the combinations: the values' roots, with noise
    combinations: Floats
    noise: float  # standard deviation of the values from that of G V, relative

    @classmethod
    def of(
        cls, block: Array, images: Array, within: Array, kind: Array, noise: tuple[Array, Array] | None = None
    ) -> Nystrom:
        """Of G V in all parameters, and `within` the coordinates that V, the block, has; noise as of `Closer`."""
        root, along = _inverse_root(to_numpy(double(block).T @ within), kind, 0.0)
        squares = to_numpy(images.T @ images)
        require_finite(like(double(kind), squares))
        whole, combinations = np.linalg.eigh(root.T @ squares @ root)
        bias = drawn = np.zeros(len(whole))
        if noise is not None:
            made = root @ combinations
            bias, drawn = (np.sum(made * (to_numpy(n) @ made), axis=0) for n in noise)
        order = np.argsort(whole - bias, kind="stable")
        whole, values = np.maximum(whole[order], 0.0), (whole - bias)[order]
        size = int(block.shape[1])
        relative = 2 * drawn[order] / np.where(whole > 0, whole, 1.0)
        # Where G has fewer eigenvalues than there are directions, the first are zeros of any vectors.
        combinations = np.pad(combinations[:, order], ((0, 0), (size - len(order), 0)))
        return cls(
            images, root, along, _padded(values, size), np.sqrt(_padded(whole, size)), combinations,
            float(np.sqrt(np.mean(relative**2))) if relative.size else 0.0,
        )  # fmt: skip

    def following(self, k: int) -> float:
        """The eigenvalue after the `k` largest; without any the last of these."""
        return float(self.values[-min(k + 1, self.values.size)])

    def vectors(self, count: int) -> Array:
        """Orthonormal eigenvectors (D, count) of the largest eigenvalues, ascending."""
        chosen, lengths = self.root @ self.combinations[:, -count:], self.lengths[-count:]
        if lengths.min() ** 2 <= CLOSE * lengths.max() ** 2:
            return orthonormal(self.images @ like(self.images, chosen))
        rows = self.images.T  # as they lie in memory
        return (like(rows, (chosen / lengths).T) @ rows).T

    def seen_beyond(self, count: int) -> Floats:
        """|N^T v|^2 for what eigenvectors have outside of V, (count,)."""
        along = self.combinations[:, -count:] * self.lengths[-count:]  # N^T u
        squares: Floats = np.sum((along - self.along.T @ self.inside(count)) ** 2, axis=0)
        return squares

    def inside(self, count: int) -> Floats:
        """The eigenvectors along V, (m, count)."""
        lengths = np.maximum(self.lengths[-count:], CLOSE**0.5 * self.lengths.max())
        found: Floats = self.along @ self.combinations[:, -count:] / np.where(lengths > 0, lengths, 1.0)
        return found


def _padded(values: Floats, count: int) -> Floats:
    return np.concatenate([np.zeros(max(count - values.size, 0)), np.maximum(values, 0.0)])


def _inverse_root(core: Floats, kind: Array, scale: float) -> tuple[Floats, Floats]:
    """K^-1/2, (m, r), and K^1/2 of K, positive semidefinite; less what is rounding."""
    sizes, turn = np.linalg.eigh((core + core.T) / 2)
    kept = sizes > 10 * _vectors.epsilon(kind) * max(scale, float(sizes.max(initial=0.0)))
    roots = np.sqrt(sizes[kept])
    return turn[:, kept] / roots, turn[:, kept] * roots


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


def apart(block: Array, before: Array) -> Array:
    """An orthonormal basis (D, m) of what directions have that others (D, j), orthonormal, have not: m <= D - j."""
    block = block[:, max(int(block.shape[1] + before.shape[1] - block.shape[0]), 0) :]
    for _ in range(2):  # the second for rounding
        block = orthonormal(block - before @ (before.T @ block))
    return block


def filled(block: Array | None, count: int, others: Array | None = None) -> Array:
    """Orthonormal columns (D, j), up to `count` of them, with the last of `others`; by default unit vectors."""
    if block is None:
        assert others is not None
        return others
    more = count - int(block.shape[1])
    if more <= 0:
        return block
    if others is None:
        others = like(block, np.eye(int(block.shape[0]), count))
    found = apart(others, block)
    return namespace(block).concat([block, found[:, max(int(found.shape[1]) - more, 0) :]], axis=1)


def outside(inside: Floats) -> Floats:
    """|u outside V|^2, (k,), for u that is `inside` along V, (m, k)."""
    share: Floats = np.maximum(1.0 - np.sum(inside**2, axis=0), 0.0)
    return share


def likely_errors(values: Floats, following: float, unseen: Floats, noise: Floats) -> Floats:
    """What covers 95 of 100 errors: of what was sampled, and of what no product has seen.

    The rest of G, R = G - (F F^T + N N^T), is positive semidefinite and R V = 0, so that an eigenvalue errs by
    u^T R u <= |u outside V|^2 |R| to first order, `unseen` or more; R is no larger than about the next eigenvalue, and
    one nearby turns u. The two factors were set on networks of digits.
    """
    gap = np.maximum(values - following, 0.1 * values)
    turned = values / np.where(gap > 0, gap, 1.0)
    errors: Floats = SAMPLING * noise + UNSEEN * unseen * turned + 1e-6 * values[-1]
    return errors
