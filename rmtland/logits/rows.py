"""One gradient per example, J_mu^T u_mu, without always forming them: lengths, weighted sums, inner products."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rmtland._arrays import Array, all_finite, double, like, namespace, to_numpy, zeros
from rmtland.logits.gradients import LogitGradientsChunk


def require_finite(*sums: Array) -> None:
    """ValueError where NaN or infinite logit gradients have entered a sum."""
    if not all(all_finite(total) for total in sums):
        raise ValueError("the logit gradients of `source` must be finite; got NaN or infinite entries")


class Rows(Protocol):
    """n vectors in the space of d parameters, r_mu = J_mu^T u_mu, known by what is asked of them."""

    def lengths(self) -> Array:
        """|r_mu|, (n,), float64."""

    def sums(self, weights: Array) -> Array:
        """sum_mu w_mu r_mu for weights (n, j), (j, d)."""

    def products(self, vectors: Array) -> Array:
        """r_mu . v for vectors (j, d), (n, j), float64."""

    def formed(self) -> Array:
        """All of them, (n, d)."""

    def chosen(self, examples: Array) -> Rows:
        """The rows of some examples, by their places."""

    def restricted(self, parameters: slice) -> Rows:
        """The same rows in a slice of the parameters."""


@runtime_checkable
class RowsChunk(Protocol):
    """A chunk that knows its rows without `dense`, as networks do layer by layer. An offer, not a duty."""

    def rows(self, cotangents: Array) -> Rows:
        """J_mu^T u_mu for cotangents (n, C)."""

    def parts(self) -> Iterator[LogitGradientsChunk]:
        """The chunk cut into chunks so small that their rows for all C logits may be kept side by side."""


class DenseRows:
    """Rows from a matrix (n, d) in memory; all results in float64."""

    def __init__(self, matrix: Array) -> None:
        self._given = matrix

    @cached_property
    def matrix(self) -> Array:
        """(n, d) in float64."""
        return double(self._given)

    def lengths(self) -> Array:
        """|r_mu|, (n,); relative to the largest entry where squares would underflow or overflow."""
        xp = namespace(self.matrix)
        with np.errstate(over="ignore", invalid="ignore"):
            squares = _squares(self.matrix)
        limits = xp.finfo(self.matrix.dtype)
        safe = float(limits.smallest_normal) / float(limits.eps) ** 2
        if bool(xp.all((squares > safe) & (squares <= limits.max))):
            return xp.sqrt(squares)
        largest = xp.max(xp.abs(self.matrix), axis=1)
        require_finite(largest)
        scale = xp.where(largest > 0, largest, xp.ones_like(largest))
        return largest * xp.sqrt(_squares(self.matrix / scale[:, None]))

    def sums(self, weights: Array) -> Array:
        """sum_mu w_mu r_mu, (j, d)."""
        some = to_numpy(namespace(weights).any(weights != 0, axis=1))
        if 2 * some.sum() <= some.size:  # the examples of one class: the others need not be read
            chosen = namespace(weights).asarray(np.flatnonzero(some), device=weights.device)
            return double(weights)[chosen, :].T @ self.matrix[chosen, :]
        return double(weights).T @ self.matrix

    def products(self, vectors: Array) -> Array:
        """r_mu . v, (n, j)."""
        return self.matrix @ double(like(self._given, vectors)).T

    def formed(self) -> Array:
        """The matrix."""
        return self.matrix

    def chosen(self, examples: Array) -> DenseRows:
        """Some of the rows."""
        return DenseRows(self.matrix[examples, :])

    def restricted(self, parameters: slice) -> DenseRows:
        """A view of some columns."""
        return DenseRows(self._given[:, parameters])


def _squares(rows: Array) -> Array:
    total = zeros(rows, rows.shape[:1])
    # BLAS splits a dot product of more than 10,000 entries between threads, and the threads wait for each other.
    for start in range(0, rows.shape[1], 8192):
        block = rows[:, start : start + 8192]
        total = total + namespace(rows).vecdot(block, block)
    return total


def rows_of(chunk: Any, cotangents: Array, dense: Any) -> Rows:
    """The rows of any chunk: its own where it offers them, else from `dense()`, its logit gradients (n, C, d)."""
    if isinstance(chunk, RowsChunk):
        return chunk.rows(cotangents)
    gradients = dense()
    return DenseRows((like(gradients, cotangents)[:, None, :] @ gradients)[:, 0, :])
