"""Examples as the levels see them: averages over N examples of what belongs to one s = m residual_length^2 / N.

With B = A (1 + s A)^(-1) the levels that stand on the residuals see K_y(s), the sum of B over the examples of class y
(of all, if nothing asks for classes) divided by N, with its derivatives in s, and what p - y becomes, h_y = (1/N) sum R
(p - y). `GivenExamples` sums over the examples there are; `ExchangeableExamples` takes expectations over a logit law,
where the same matrices are one or two numbers.

All C x C matrices have the vector 1 in their null space and are given on what is orthogonal to it, C - 1 dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rmtland.landscape.kernels import softmax
from rmtland.landscape.theory import sums
from rmtland.landscape.theory.sums import Array, Floats, Labels
from rmtland.laws import taylor
from rmtland.laws.subordination import Jet

BLOCK = 1 << 16
"""Entries (examples times classes) of one block: its buffers stay in the cache."""
RADIUS = 0.8
"""Within this |s| a power series does: its nearest singularity is s = -1 / eigenvalue(A), beyond -2."""
TERMS = 40
"""Terms of the series: (RADIUS / 2)^TERMS is 1e-16."""
FEW_CLASSES = 16
"""Up to so many classes plain loops beat BLAS, whose threads would wait for each other over tiny products."""
SERIES_BYTES = 2**29
"""Memory its coefficients may take; where they would take more, every evaluation sums over the examples."""
FROZEN = 1e-30
"""Where no example has more than this off its most probable class, probabilities are kept in a smaller unit."""
MOST = 1e100
"""In that unit, what the most probable class has at most."""
FACTORIALS = np.array([1.0, -1.0, 2.0])
"""d^j B / ds^j = (-1)^j j! B^(j+1)."""
NO_CURVATURE = 1e-14
"""Directions with less than this share of the largest curvature count as having none: it may be all rounding."""
SAMPLE = 5e6
"""n C^2 of the examples whose eigenvalues `curvatures` computes."""
BINS = 21.0, 2.0
DECADES = 14.0, 56.0
"""Its bins per decade, over so many decades below the largest; smaller eigenvalues count with the smallest."""


def probabilities_in_units(logits: Floats, rescale: bool = True) -> tuple[Floats, float]:
    """Softmax of (N, C) logits, and the unit it is in: 1, but for frozen logits such that squares do not underflow.

    Without `rescale`, as where an H-term sets the scale, always 1.

    Raises
    ------
    ValueError
        Where the probabilities are 0 and 1 to 300 digits.
    """
    logits = np.ascontiguousarray(logits, dtype=np.float64)
    probabilities = softmax(logits)
    off = np.sort(probabilities, axis=1)[:, :-1].sum(axis=1).max()
    if not off > 1e-300:
        raise ValueError("`logits` must leave some curvature; got probabilities that are 0 and 1 in every example")
    if off > FROZEN or not rescale:
        return probabilities, 1.0
    # So that no eigenvalue of A, at most twice what is off the top, is above 1/2.
    unit = 4 * float(off)
    # Beyond that many times the others the most probable class is just that; s times it must not overflow.
    return np.exp(np.minimum(logits - logits.max(axis=1, keepdims=True) - math.log(unit), math.log(MOST))), unit


class Scalars(NamedTuple):
    """Means over the examples of tr B, tr B^2, tr B^3, log det(1 + s A), (p - y)^T R (p - y) and |R (p - y)|^2."""

    traces: Any
    log_det: Any
    quadratic: Any
    square: Any


@dataclass(frozen=True, eq=False)
class Seen(ABC):
    """What a level sees of the levels below it, at one m.

    Attributes
    ----------
    curvature : Jet of ndarray (g, b, b)
        Matrices K_y, so many `copies` (g,) of each.
    errors : ndarray
        h_y, of given examples (g, b); second moments of it, of exchangeable ones (2, g): with its mean, and its spread.
    """

    curvature: Jet
    copies: Floats
    errors: Any

    @abstractmethod
    def over_classes(self) -> Seen:
        """Summed over the classes."""

    @abstractmethod
    def scaled(self, factor: Any) -> Seen:
        """Between lengths: F^T K F and F^T h for a factor of `Examples.factor`, or a number."""

    @abstractmethod
    def quadratic(self, inverse: Array) -> Any:
        """Sum of h^T M^(-1) h."""

    @abstractmethod
    def decomposed(self) -> tuple[Floats, Floats, Floats]:
        """Eigenvalues of real K, how often each occurs and the squares of h along them."""

    @abstractmethod
    def through(self, inverse: Jet, length: float) -> Seen:
        """What a level of this length, already scaled by it, passes on: K F and F h with its F = M^(-1)."""


@dataclass(frozen=True, eq=False)
class SeenByClass(Seen):
    """Matrices and vectors of given examples."""

    def over_classes(self) -> Seen:
        """The sum."""
        if len(self.copies) == 1:
            return self
        summed = self.curvature.map(lambda k: k.sum(axis=0, keepdims=True))
        return SeenByClass(summed, np.ones(1), self.errors.sum(axis=0, keepdims=True))

    def scaled(self, factor: Any) -> Seen:
        """Numbers, or matrices (b, q)."""
        if np.ndim(factor) == 0:
            return replace(self, curvature=self.curvature.map(lambda k: factor**2 * k), errors=factor * self.errors)
        return replace(self, curvature=self.curvature.map(lambda k: factor.T @ k @ factor), errors=self.errors @ factor)

    def quadratic(self, inverse: Array) -> Any:
        """Of vectors."""
        return np.sum(self.errors * (inverse @ self.errors[:, :, None])[:, :, 0])

    def decomposed(self) -> tuple[Floats, Floats, Floats]:
        """One by one."""
        values, vectors = np.linalg.eigh(self.curvature.value)
        along = (np.swapaxes(vectors, 1, 2) @ self.errors[:, :, None])[:, :, 0]
        return values.ravel(), np.repeat(self.copies, values.shape[1]), np.square(along).ravel()

    def through(self, inverse: Jet, length: float) -> Seen:
        """Products of matrices."""
        passed = (self.curvature @ inverse).map(lambda k: k / length**2)
        return SeenByClass(passed, self.copies, (inverse[0] @ self.errors[:, :, None])[:, :, 0] / length)


@dataclass(frozen=True, eq=False)
class Examples(ABC):
    """Probabilities and labels, and averages over them as functions of s.

    Parameters
    ----------
    probabilities : ndarray (n, C)
        In units of `unit`.
    labels : ndarray (n,)
    num_examples : float
        N; the n examples stand for so many.
    by_class : bool
        Whether a level asks for sums over the examples of each class apart.
    unit : float
        Of probabilities and curvatures; s is in units of 1 / unit.
    """

    probabilities: Floats = field(repr=False)
    labels: Labels = field(repr=False)
    num_examples: float
    by_class: bool = False
    unit: float = 1.0

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.probabilities.shape[1])

    @property
    def share(self) -> float:
        """One over the sum of an example's probabilities: the unit, but where they are cut (to a sum of `MOST`).

        All of p - y has one unit then, larger than its own: what counts is its direction.
        """
        return max(self.unit, 1 / MOST)

    @property
    @abstractmethod
    def cost(self) -> float:
        """Entries of the matrix products of one evaluation."""

    @abstractmethod
    def factor(self, lengths: Floats) -> Any:
        """F with F F^T = diag(lengths^2) on zero-sum vectors, for `Seen.scaled`."""

    def seen(self, s: complex | float, order: int) -> Seen:
        """K_y with so many derivatives in s, and h_y."""
        if s == 0:
            return replace(self._seen_at_zero, curvature=Jet(self._seen_at_zero.curvature[: order + 1]))
        return self._seen(s, order)

    @cached_property
    def _seen_at_zero(self) -> Seen:
        return self._seen(0.0, 2)

    @abstractmethod
    def _seen(self, s: complex | float, order: int) -> Seen: ...

    def scalars(self, s: complex | float, logs: bool = False) -> Scalars:
        """What needs no matrix; by a power series where |s| allows, but exactly at 0."""
        if s == 0:
            return self.at_zero
        if abs(s) > RADIUS:
            return self._scalars(s, logs)
        log_det, *others = self._scalar_series.T
        rows = taylor.weights(s, TERMS)
        traces = (rows @ others[0]) / FACTORIALS
        return Scalars(traces, rows[0] @ log_det, rows[0] @ others[1], rows[0] @ others[2])

    def _scalars(self, s: complex | float, logs: bool = False) -> Scalars:
        first, second, third, log_det, quadratic, square = sums.scalar_sums(self.probabilities, self.labels, s, logs)
        n = self.probabilities.shape[0]
        if logs and self.unit != 1:
            log_det += n * math.log(self.share)
        return Scalars(np.array([first, second, third]) / n, log_det / n, quadratic / n, square / n / self.share)

    @cached_property
    def _scalar_series(self) -> Floats:
        """Taylor coefficients in s of log det, tr B and the two forms of p - y, (TERMS, 4)."""
        values = [self._scalars(s) for s in taylor.circle(RADIUS, TERMS).tolist()]
        columns = [[v.traces[0], v.quadratic, v.square] for v in values]
        series = taylor.coefficients(columns, RADIUS, TERMS)
        # d log_det / ds = tr B
        log_det = np.append(0.0, series[:-1, 0] / np.arange(1.0, TERMS))
        return np.column_stack([log_det, series])

    @cached_property
    def at_zero(self) -> Scalars:
        """At s = 0."""
        return self._scalars(0.0)

    def count_above(self, s: float) -> float:
        """Number of eigenvalues of all A_mu above -1/s, s < 0."""
        share = self.num_examples / self.probabilities.shape[0]
        return float(sums.count_negative(self.probabilities, s)) * share if s < 0 else 0.0

    @cached_property
    def rank(self) -> float:
        """Number of nonzero eigenvalues of all A_mu, N (C - 1) as long as no probability underflows."""
        positive = np.maximum(np.sum(self.probabilities > 0, axis=1) - 1, 0)
        return self.num_examples * float(np.mean(positive))

    @cached_property
    def curvatures(self) -> tuple[Floats, Floats]:
        """Eigenvalues of the A_mu, binned by size, and their numbers, which add up to those of N examples.

        Where there are many examples, those of a part of them stand for all: every second, third, ... example.
        """
        p = self.probabilities
        part = np.ascontiguousarray(p[:: max(1, math.ceil(p.size * p.shape[1] / SAMPLE))])
        values = sums.curvature_eigenvalues(part).ravel()
        top = float(values.max())
        if not top > 0:
            return np.empty(0), np.empty(0)
        below = np.log10(top) - np.log10(np.maximum(values, 1e-300))
        fine, coarse = np.minimum(below, DECADES[0]), np.clip(below - DECADES[0], 0.0, DECADES[1])
        bins = np.floor(BINS[0] * fine + BINS[1] * coarse).astype(np.int64)
        count = np.bincount(bins)
        total = np.bincount(bins, weights=values)
        return total[count > 0] / count[count > 0], count[count > 0] * (self.num_examples / part.shape[0])


@dataclass(frozen=True, eq=False)
class GivenExamples(Examples):
    """The examples that there are, N = n."""

    def __post_init__(self) -> None:
        if self.by_class:
            order = np.argsort(self.labels, kind="stable")
            object.__setattr__(self, "labels", self.labels[order])
            object.__setattr__(self, "probabilities", np.ascontiguousarray(self.probabilities[order]))

    @property
    def cost(self) -> float:
        """N C^2."""
        return float(self.probabilities.size) * self.num_classes

    def factor(self, lengths: Floats) -> Any:
        """A number for equal lengths where all directions have curvature, else (C - 1, q), q the rank."""
        c = lengths.size
        factor: Any = float(lengths[0])
        if np.ptp(lengths) > 0:
            shift = 1 / math.sqrt(c)
            v = np.append(1 + shift, np.full(c - 1, shift))
            basis = (np.eye(c) - np.outer(v, v) / (1 + shift))[:, 1:]
            _, values, rotation = np.linalg.svd(lengths[:, None] * basis, full_matrices=False)
            factor = rotation.T * values
        values, vectors = np.linalg.eigh(self.seen(0.0, 0).over_classes().scaled(factor).curvature.value[0])
        some = values > NO_CURVATURE * values[-1]
        return factor if some.all() else np.dot(factor, vectors[:, some])

    def _blocks(self) -> list[tuple[int, slice]]:
        """Groups and the slices of examples that they are summed in."""
        num_examples, num_classes = self.probabilities.shape
        ends = [0, num_examples]
        if self.by_class:
            ends = np.searchsorted(self.labels, np.arange(num_classes + 1)).tolist()
        size = max(BLOCK // num_classes, num_classes, 1)
        return [
            (g, slice(i, min(i + size, ends[g + 1])))
            for g in range(len(ends) - 1)
            for i in range(ends[g], ends[g + 1], size)
        ]

    def matrices(self, s: complex | float, order: int) -> tuple[Array, Array]:
        """Means over all N of B, ..., B^order, in groups (order, g, C, C), and of R (p - y), (g, C).

        Real s give real sums, four times faster.
        """
        c = self.num_classes
        dtype = np.result_type(type(s), np.float64)
        blocks = self._blocks()
        width = max(part.stop - part.start for _, part in blocks)
        left = np.empty((width, (4 if order > 2 else order) * c), dtype)
        right = np.empty((width, (2 if order > 2 else 1) * c), dtype)
        powers = np.zeros((order, c if self.by_class else 1, c, c), dtype)
        apart = np.zeros_like(powers)
        errors = np.zeros(powers.shape[1:3], dtype)
        for group, part in blocks:
            n = part.stop - part.start
            p, labels = self.probabilities[part], self.labels[part]
            sums.example_rows(p, labels, s, left[:n], right[:n], apart[:, group], errors[group])
            if c <= FEW_CLASSES:
                sums.add_products(left[:n], right[:n], apart[:, group])
                continue
            powers[:, group] -= (left[:n, : order * c].T @ right[:n, :c]).reshape(order, c, c)
            if order > 2:
                # Half of it: the transpose is added below.
                powers[2, group] -= 0.5 * (left[:n, 3 * c :].T @ right[:n, c:])
        powers[1:] += np.swapaxes(powers[1:], -1, -2).copy()
        powers += apart + np.swapaxes(apart, -1, -2)
        index = np.arange(c)
        powers[..., index, index] = 0
        powers[..., index, index] = -powers.sum(axis=-1)
        return powers / self.num_examples, errors / (self.num_examples * math.sqrt(self.share))

    @cached_property
    def _series(self) -> Floats | None:
        """Taylor coefficients in s of K and h, (TERMS, g, b, b + 1); None where they would take too much."""
        if 16.0 * TERMS * (self.num_classes if self.by_class else 1) * self.num_classes**2 > SERIES_BYTES:
            return None
        values = [self._reduced(s, 1) for s in taylor.circle(RADIUS, TERMS).tolist()]
        return taylor.coefficients([np.append(k[0], h[:, :, None], axis=2) for k, h in values], RADIUS, TERMS)

    def _reduced(self, s: complex | float, order: int) -> tuple[Array, Array]:
        powers, errors = self.matrices(s, order)
        return zero_sum_matrices(powers), zero_sum_vectors(errors)

    def _seen(self, s: complex | float, order: int) -> Seen:
        """By the power series where |s| allows, but exactly at 0."""
        if s == 0 or abs(s) > RADIUS or self._series is None:
            powers, errors = self._reduced(s, order + 1)
            found = [factor * k for factor, k in zip(FACTORIALS, powers, strict=False)]
        else:
            rows = taylor.weights(s, TERMS, order + 1)
            sums = (rows @ self._series.reshape(TERMS, -1)).reshape(-1, *self._series.shape[1:])
            found, errors = list(sums[..., :-1]), sums[0, ..., -1]
        return SeenByClass(Jet(found), np.ones(len(errors)), errors)


def zero_sum_matrices(matrices: Array) -> Array:
    """Matrices (..., C, C) with 1 in their null space in an orthonormal basis of the rest, by one Householder
    reflection.

    It takes 1 to the first axis, which is left out.
    """
    shift = 1 / math.sqrt(matrices.shape[-1])
    scale = shift / (1 + shift)
    row, corner = scale * matrices[..., 0, 1:], scale**2 * matrices[..., 0, 0]
    reduced: Array = matrices[..., 1:, 1:] - row[..., None, :] - row[..., :, None] + corner[..., None, None]
    return reduced


def zero_sum_vectors(vectors: Array) -> Array:
    """Zero-sum vectors (..., C) in the same basis."""
    shift = 1 / math.sqrt(vectors.shape[-1])
    reduced: Array = vectors[..., 1:] - shift / (1 + shift) * vectors[..., :1]
    return reduced
