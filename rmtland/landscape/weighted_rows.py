"""Rows of the factor of G as a gradient law makes them of means, residuals and independent normal numbers.

G = R^T R with R = P M + T^(1/2) Z Sigma^(1/2), one row for each example and direction of its logits: P what it has of
the fixed mean rows M = F O (F F^T their Gram matrix, O orthonormal rows in a random direction), T its residual
variance, Z standard normal. The gradient is M^T h + Sigma^(1/2) (Z^T slopes + dropped z).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from rmtland._arguments import require_memory
from rmtland.landscape.bartlett import bartlett_factor
from rmtland.landscape.covariance import ResidualCovariance
from rmtland.logits.losses import CrossEntropy

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that see the same mean rows: `loadings` (r, b) on the columns (b,) of P."""

    columns: npt.NDArray[np.int64]
    loadings: Floats


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """What the spectrum of G and the gradient depend on.

    Attributes
    ----------
    blocks : tuple of Block
        P (n, Q), block by block in the order of the rows; none where there are no means.
    factor : ndarray (Q, q)
        F.
    scales : ndarray (n,)
        Roots of T.
    mean_slopes : ndarray (Q,)
        h.
    slopes : ndarray (n,)
    dropped : float
    covariance : ResidualCovariance
    cancelled : ndarray (n,), optional
        What the unit vector of a combination of the normal numbers that is 0 has of those of the rows.
    """

    blocks: tuple[Block, ...]
    factor: Floats
    scales: Floats
    mean_slopes: Floats
    slopes: Floats
    dropped: float
    covariance: ResidualCovariance
    cancelled: Floats | None = None

    @property
    def means(self) -> Floats:
        """P F, (n, q)."""
        parts = [block.loadings @ self.factor[block.columns] for block in self.blocks]
        return np.concatenate(parts) if parts else np.zeros((self.scales.size, 0))

    @property
    def spread(self) -> bool:
        """Whether there are residuals."""
        return bool(self.scales.any() or self.slopes.any() or self.dropped > 0)

    def draw(self, num_parameters: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """R and the gradient of one draw, exact in law up to a rotation of the D parameters.

        Returns
        -------
        rows, gradient : ndarray (n, w), (w,)
            w <= D columns: those of directions with equal share of the residuals are turned into each other, so that
            (q + n + 1) of them do, however many there are.
        """
        num_rows, num_means = self.scales.size, self.factor.shape[1]
        self.check(num_parameters)
        if not self.spread:  # fixed inner products: any turn of them will do
            return self.means, self.mean_slopes @ self.factor
        shares, counts = self.covariance.shares(num_parameters)
        beyond = num_parameters - float(counts.sum())
        own = num_rows + (1 if self.cancelled is None else 2)
        widths = [int(min(num_means + own, count)) for count in counts] + [int(min(num_means, beyond))]
        require_memory(
            f"a draw with {num_means + num_rows} x {sum(widths)} rows",
            8.0 * 3 * (num_means + num_rows) * sum(widths),
            "draw fewer examples, or use model.theory()",
        )
        means, noise = _columns(num_means, own, np.append(shares, 0.0), np.append(counts, beyond), widths, rng)
        if num_means:
            # Orthonormal rows: L^(-1) X with L L^T = X X^T.
            means = solve_triangular(np.linalg.cholesky(means @ means.T), means, lower=True)
        rows = self.means @ means
        gradient = (self.mean_slopes @ self.factor) @ means
        rows += self.scales[:, None] * noise[:num_rows]
        gradient += self.slopes @ noise[:num_rows] + self.dropped * noise[num_rows]
        if self.cancelled is not None:
            # The gradient's part is at right angles to the combination: so far as rows do not do it, what it dropped.
            dropped = -float(self.cancelled @ self.slopes) / self.dropped if self.dropped > 0 else 0.0
            rest = math.sqrt(max(1.0 - float(self.cancelled @ self.cancelled) - dropped**2, 0.0))
            zero = self.cancelled @ noise[:num_rows] + dropped * noise[num_rows] + rest * noise[num_rows + 1]
            rows -= (self.scales * self.cancelled)[:, None] * zero
        return rows, gradient

    @property
    def cancelled_rows(self) -> Floats:
        """T^(1/2) times the combination: the rows' residual covariance is T less its outer product, (n,)."""
        return np.zeros(self.scales.size) if self.cancelled is None else self.scales * self.cancelled

    def check(self, num_parameters: int) -> None:
        """ValueError where the means have a larger rank than D; rows of fixed inner products alone need no D."""
        if self.spread and self.factor.shape[1] > num_parameters:
            raise ValueError(
                f"`mean_gram` must have rank <= D = {num_parameters}, the dimension; got {self.factor.shape[1]}"
            )


def _columns(
    num_means: int, num_rows: int, shares: Floats, counts: Floats, widths: list[int], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Standard normal rows of the means and normal rows of the residuals, (num_means, w) and (num_rows, w)."""
    means, noise = np.zeros((num_means, sum(widths))), np.zeros((num_rows, sum(widths)))
    start = 0
    single = int(np.count_nonzero(counts[:-1] == 1))
    if single:
        # One column each: nothing to turn. They need not be neighbours, as no column differs but by its share.
        apart = np.flatnonzero(counts[:-1] == 1)
        means[:, :single] = rng.standard_normal((num_means, single))
        noise[:, :single] = rng.standard_normal((num_rows, single)) * np.sqrt(shares[apart])
        start = single
    for share, count, width in zip(shares, counts, widths, strict=True):
        if (count == 1 and share > 0) or width == 0:
            continue
        part = slice(start, start + width)
        height = num_means + (num_rows if share > 0 else 0)
        normal = bartlett_factor(height, int(count), rng)
        means[:, part] = normal[:num_means]
        if share > 0:
            noise[:, part] = math.sqrt(share) * normal[num_means:]
        start += width
    return means, noise


def rows_of_examples(
    logits: Floats,
    labels: npt.NDArray[np.int64],
    roots: Floats,
    loadings: tuple[Floats | None, Floats | None],
    gram: Floats,
    covariance: ResidualCovariance,
    tolerance: float = 1e-10,
    balance: Floats | None = None,
) -> WeightedRows:
    """The rows of a law.

    Parameters
    ----------
    logits, labels : ndarray (N, C), (N,)
    roots : ndarray (N, C, C) or (1, C, C)
        Symmetric roots of the residuals' covariance across an example's logits.
    loadings : (scales (N, C, C) or None, factors (N, C, F) or None)
        By which an example mixes the means of its class, and its loadings on further mean rows.
    gram : ndarray (Q, Q)
        Of C or C^2 means, and F further rows.
    covariance : ResidualCovariance
    tolerance : float
        Rows of less than this share of the largest, means and residuals alike, are left out; what they have of the
        gradient is not.
    balance : ndarray (N, C), optional
        Unit vector of the combination of normal numbers that is 0.
    """
    n, c = logits.shape
    curvature = CrossEntropy().hessian_factor(logits)
    # B^(1/2) L = U diag(b^(1/2)) V^T; the rows V^T L^T J then have independent residuals of variances b.
    left, sizes, right = np.linalg.svd(roots @ curvature, full_matrices=False)
    turned = curvature @ right.swapaxes(1, 2)  # (N, C, C - 1)
    slopes = CrossEntropy().gradient(logits, labels) / n
    own = (np.broadcast_to(roots, (n, c, c)) @ slopes[:, :, None])[:, :, 0]
    whole = float(np.sum(own**2))
    cancelled = None
    if balance is not None:
        own = own - balance * float(np.sum(balance * own))
        cancelled = np.einsum("nkj,nk->nj", left, balance)
        if np.sum(own**2) <= 1e-20 * whole:  # rounding
            own = np.zeros_like(own)
    along = np.einsum("nkj,nk->nj", left, own)
    stretch = loadings[0]
    scaled = turned if stretch is None else stretch.swapaxes(1, 2) @ turned
    heights = np.sum(turned**2, axis=1)
    kept = (heights > tolerance * heights.max()) | (sizes**2 > tolerance * max(float(sizes.max()) ** 2, 1e-300))
    blocks, mean_slopes, order = _blocks(scaled, turned, slopes, labels, loadings, len(gram), kept)
    everyone = np.concatenate(order)
    used = along[everyone][kept[everyone]]
    total = float(np.sum(own**2))
    rest = total - float(used @ used)
    return WeightedRows(
        blocks=blocks,
        factor=gram_factor(gram),
        scales=sizes[everyone][kept[everyone]] / math.sqrt(n),
        mean_slopes=mean_slopes,
        slopes=used,
        dropped=math.sqrt(rest) if rest > 1e-13 * total else 0.0,
        covariance=covariance,
        cancelled=None if cancelled is None else cancelled[everyone][kept[everyone]],
    )


def _blocks(
    scaled: Floats,
    turned: Floats,
    slopes: Floats,
    labels: npt.NDArray[np.int64],
    loadings: tuple[Floats | None, Floats | None],
    num_rows: int,
    kept: npt.NDArray[np.bool_],
) -> tuple[tuple[Block, ...], Floats, list[npt.NDArray[np.int64]]]:
    """Blocks of the kept rows, what the gradient has of the mean rows, and the examples in the order of the blocks."""
    n, c = slopes.shape
    stretch, factors = loadings
    num_means = num_rows - (0 if factors is None else factors.shape[2])
    by_class = num_means == c * c
    groups = [np.flatnonzero(labels == y) for y in range(c)] if by_class else [np.arange(n)]
    blocks, order = [], []
    mean_slopes = np.zeros(num_rows)
    for y, members in enumerate(groups):
        if members.size == 0:
            continue
        columns = np.arange(c) * c + y if by_class else np.arange(c)
        direct = slopes[members] if stretch is None else np.einsum("nk,nkl->nl", slopes[members], stretch[members])
        mean_slopes[columns] += direct.sum(axis=0)
        rows = scaled[members].swapaxes(1, 2)
        if factors is not None:
            columns = np.append(columns, np.arange(num_means, num_rows))
            rows = np.concatenate([rows, turned[members].swapaxes(1, 2) @ factors[members]], axis=2)
            mean_slopes[num_means:] += np.einsum("nk,nkf->f", slopes[members], factors[members])
        some = kept[members]
        blocks.append(Block(columns, rows[some] / math.sqrt(n)))
        order.append(members)
    return tuple(blocks), mean_slopes, order


def gram_factor(gram: Floats) -> Floats:
    """F (Q, q) with F F^T the Gram matrix, q its rank: no column for what is rounding."""
    values, vectors = np.linalg.eigh(gram)
    some = values > 1e-11 * max(float(values[-1]), 0.0)
    factor: Floats = vectors[:, some] * np.sqrt(values[some])
    return factor
