"""Products with F of A1 + A2 + B1 = F F^T, its columns in memory or by passes over the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, double, like
from rmtland.logits.accumulate import loss_at, sum_over_chunks
from rmtland.logits.cross_class import CrossClassMeans
from rmtland.logits.gradients import LogitGradients, LogitGradientsChunk
from rmtland.logits.losses import one_hot


class PairFactor(Protocol):
    """F (D, C^2), columns sqrt(p_{c,c'} / N) g_{c,c'}."""

    def coefficients(self, block: Array) -> Array:
        """F^T V for V (D, k), (C, C, k), float64."""

    def combination(self, coefficients: Array) -> Array:
        """F Y for Y (C, C, k), (D, k), float64."""


@dataclass(frozen=True, eq=False)
class _Kept:
    rows: Array  # (C, C, D)

    def coefficients(self, block: Array) -> Array:
        num_classes, _, size = self.rows.shape
        return (self.rows.reshape(-1, size) @ like(self.rows, block)).reshape(num_classes, num_classes, -1)

    def combination(self, coefficients: Array) -> Array:
        size = self.rows.shape[2]
        return self.rows.reshape(-1, size).T @ coefficients.reshape(-1, coefficients.shape[2])


@dataclass(frozen=True, eq=False)
class _Streamed:
    """Its columns are sums of J_i^T A_i e_c' over a class, over sqrt(N p_{c,c'})."""

    source: LogitGradients
    scale: npt.NDArray[np.float64]  # (C, C)

    def coefficients(self, block: Array) -> Array:
        def terms(chunk: LogitGradientsChunk) -> tuple[Array, ...]:
            curved = loss_at(self.source, chunk).hessian_product(double(chunk.jvp(block)))
            n, num_classes, width = curved.shape
            own = one_hot(chunk.labels, num_classes, curved.dtype)
            # No -1: a rank may be without examples.
            return ((own.T @ curved.reshape(n, num_classes * width)).reshape(num_classes, num_classes, width),)

        total = sum_over_chunks(self.source, terms)[0]
        return total * like(total, self.scale)[:, :, None]

    def combination(self, coefficients: Array) -> Array:
        scaled = coefficients * like(coefficients, self.scale)[:, :, None]

        def terms(chunk: LogitGradientsChunk) -> tuple[Array, ...]:
            curved = loss_at(self.source, chunk).hessian_product(at_own_class(chunk, scaled))
            return (chunk.vjp(like(chunk.logits, curved)),)

        return double(sum_over_chunks(self.source, terms)[0])


def pair_factor(source: LogitGradients, means: CrossClassMeans) -> PairFactor:
    """The factor of a source's means: from memory where they were kept."""
    if means.pair_factor is not None:
        return _Kept(means.pair_factor)
    return _Streamed(source, np.sqrt(means.inverse_pair_weights / means.num_examples))


def at_own_class(chunk: LogitGradientsChunk, values: Array) -> Array:
    """values[y_mu] of each example for values (C, ...), (n, ...)."""
    own = one_hot(chunk.labels, values.shape[0], values.dtype)
    return (own @ values.reshape(values.shape[0], -1)).reshape(own.shape[0], *values.shape[1:])
