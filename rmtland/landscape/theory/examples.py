"""Sums over examples of resolvents of A_mu, without any (NC) x (NC) matrix: what the theory of the model is made of.

With d = 1 + s p, q = p / d and S = sum_k q_k of one example, R = (1 + s A)^(-1) has (Sherman-Morrison, twice)

    log det(1 + s A) = sum_k log d_k + log S,    B = R A = diag(q) - q q^T / S,    R (p - y) = (q / S - e_y) / d_y,

and the powers of B, which are its derivatives in s (dB/ds = -B^2), stay sums of few outer products: with
m = sum_k q_k^2 / S and n = sum_k q_k^3 / S, off the diagonal

    (B^2)_kl = -q_k q_l (q_k + q_l - m) / S,
    (B^3)_kl = -q_k q_l (f_k + f_l + q_k q_l) / S,    f = q^2 - m q + (m^2 - n) / 2.

The q of the most probable class may be huge (d passes 0 between s = -2 and -1, where A has no eigenvalue) and would
cancel, so its row is added apart, from formulas without it. B 1 = 0, so each diagonal entry is minus the rest
of its row: nothing cancels at frozen examples. One evaluation is O(N C^2), in matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from rmtland.landscape.theory import taylor

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]

BLOCK = 1 << 16
"""Entries (examples times classes) of one block: its buffers stay in the cache."""
RADIUS = 0.8
"""Within this |s| a power series does: its nearest singularity is s = -1 / eigenvalue(A), beyond -2."""
TERMS = 40
"""Terms of the series: (RADIUS / 2)^TERMS is 1e-16."""
FACTORIALS = np.array([1.0, -1.0, 0.5])
"""(-1)^j / j!"""
FEW_CLASSES = 16
"""Up to so many classes plain loops beat BLAS, whose threads would wait for each other over tiny products."""
SERIES_BYTES = 2**29
"""Memory its coefficients may take; where they would take more, every evaluation sums over the examples."""


@njit(cache=True, error_model="numpy")
def example_terms(
    p: Floats, labels: npt.NDArray[np.int64], s: Any, left: Array, right: Array, powers: Array, pull: Array, logs: bool
) -> tuple[Any, Any]:
    """Rows [q, q (q - m/2), q f, q^2] and [q / S, q^2 / S] of each example, 0 at its most probable class.

    powers: (j, C, C), j = 1, 2 or 3, gets what that class has with the others in B^1..B^j; left: (n, j C), or (n, 4 C)
    with j = 3; right: (n, C), or (n, 2 C) with j = 3. Adds R (p - y) of the examples to `pull` (C,); returns the sums
    of log det(1 + s A), a complex number (0 unless `logs`; at real s without its branch), and of (p - y)^T R (p - y).
    """
    num_examples, num_classes = p.shape
    order = powers.shape[0]
    log_det = 0j
    form = 0.0 * s
    for mu in range(num_examples):
        top = np.argmax(p[mu])
        s1 = 0.0 * s
        s2 = 0.0 * s
        s3 = 0.0 * s
        for k in range(num_classes):
            d = 1.0 + s * p[mu, k]
            if logs:
                # Both d and S keep to one half plane each, so that the principal branch is the continuous one.
                log_det += np.log(d + 0j)
            q = p[mu, k] / d
            left[mu, k] = q
            if k != top:
                s1 += q
                s2 += q * q
                s3 += q * q * q
        a = left[mu, top]
        left[mu, top] = 0.0
        inverse = 1.0 / (a + s1)
        if logs:
            log_det += np.log(a + s1 + 0j)
        share = a * inverse
        m = share * a + s2 * inverse
        short = share * s1 - s2 * inverse  # a - m
        half = share * inverse * (2.0 * a * s2 - s3) - share * share * a * s1 + (s2 * s2 - s3 * s1) * inverse * inverse
        rest = share * share * (s1 * s1 + s2) - share * inverse * (s2 * s1 + s3)
        rest += (s2 * s2 - s3 * s1) * inverse * inverse
        half *= 0.5
        y = labels[mu]
        at_label = 1.0 / (1.0 + s * p[mu, y])
        wrong = 0.0
        others = 0.0 * s
        for k in range(num_classes):
            q = left[mu, k]
            z = q * inverse
            right[mu, k] = z
            if order > 1:
                left[mu, num_classes + k] = q * (q - 0.5 * m)
            if order > 2:
                square = q * q
                left[mu, 2 * num_classes + k] = q * (square - m * q + half)
                left[mu, 3 * num_classes + k] = square
                right[mu, num_classes + k] = square * inverse
            if k != top:
                own = -q * share
                powers[0, k, top] += own
                if order > 1:
                    powers[1, k, top] += own * (q + short)
                if order > 2:
                    powers[2, k, top] += own * (q * (q + short) + rest)
            if k != y:
                w = z if k != top else share
                wrong += p[mu, k]
                others += w
                form += w * p[mu, k] * at_label
                pull[k] += w * at_label
        # sum_(k != y) q_k (1 - p_y + p_k) / (S d_y) and -sum_(k != y) q_k / (S d_y): all terms of one sign.
        form += wrong * others * at_label
        pull[y] -= others * at_label
    return log_det, form


@njit(cache=True, error_model="numpy")
def add_products(left: Array, right: Array, powers: Array) -> None:
    """Subtract the outer products of the rows of `example_terms` from the upper triangles of `powers`, (j, C, C)."""
    order, c = powers.shape[0], powers.shape[1]
    for mu in range(left.shape[0]):
        for k in range(c):
            for other in range(k + 1, c):
                z = right[mu, other]
                powers[0, k, other] -= left[mu, k] * z
                if order > 1:
                    mine = right[mu, k]
                    powers[1, k, other] -= left[mu, c + k] * z + left[mu, c + other] * mine
                    if order > 2:
                        powers[2, k, other] -= left[mu, 2 * c + k] * z + left[mu, 2 * c + other] * mine
                        powers[2, k, other] -= left[mu, 3 * c + k] * right[mu, c + other]


@njit(cache=True, error_model="numpy")
def count_negative(p: Floats, s: float) -> int:
    """Number of negative eigenvalues of 1 + s A over all examples, s < 0: of eigenvalues of A above -1/s.

    1 + s A = diag(d) + |s| p p^T; a positive rank-one term lifts one negative d_k above 0 iff S < 0.
    """
    negative = 0
    for mu in range(p.shape[0]):
        total = 0.0
        for k in range(p.shape[1]):
            d = 1.0 + s * p[mu, k]
            negative += d < 0
            total += p[mu, k] / d
        negative -= total < 0
    return negative


@njit(cache=True, error_model="numpy")
def largest_eigenvalue(p: Floats) -> float:
    """The largest eigenvalue of all A_mu, by bisection at the few examples that raise it."""
    best = 0.0
    for mu in range(p.shape[0]):
        row = p[mu : mu + 1]
        if best > 0.0 and count_negative(row, -1.0 / (best * (1 + 1e-12))) == 0:
            continue
        # It is at least the second probability (interlacing) and at most the trace and 1/2.
        top = np.argmax(p[mu])
        second = others = 0.0
        for k in range(p.shape[1]):
            if k != top:
                second = max(second, p[mu, k])
                others += p[mu, k]
        if second == 0.0:
            continue
        low, high = max(best, second * (1 - 1e-15)), min(0.5 * (1 + 1e-15), 2.0 * others)
        for _ in range(60):
            middle = 0.5 * (low + high)
            if count_negative(row, -1.0 / middle) > 0:
                low = middle
            else:
                high = middle
        best = max(best, high)
    return best


@njit(cache=True, error_model="numpy")
def curvature_eigenvalues(p: Floats) -> Floats:
    """The C - 1 eigenvalues of each A_mu that are not zero by structure, (n, C - 1), to 1e-12 of the largest.

    They are the roots of sum_k p_k / (x - p_k), one between neighbouring probabilities.
    """
    num_examples, num_classes = p.shape
    values = np.empty((num_examples, num_classes - 1))
    for mu in range(num_examples):
        ordered = np.sort(p[mu])
        for j in range(num_classes - 1):
            low, high = ordered[j], ordered[j + 1]
            while high - low > 1e-12 * ordered[-1] and high - low > 1e-6 * high:
                x = 0.5 * (low + high)
                total = 0.0
                for k in range(num_classes):
                    total += ordered[k] / (x - ordered[k])
                if total > 0.0:
                    low = x
                else:
                    high = x
            values[mu, j] = 0.5 * (low + high)
    return values


@njit(cache=True, error_model="numpy")
def power_traces(p: Floats, s: Any) -> tuple[Any, Any]:
    """Sums of tr B and tr B^2 over the examples, without cancellation.

    With a = q of the most probable class and sigma_j the sum of q^j over the others, tr B = (2 a sigma_1 + sigma_1^2 -
    sigma_2) / S, and likewise for tr B^2: a may be large (d near 0) or all there is (a frozen example).
    """
    first = second = 0.0 * s
    for mu in range(p.shape[0]):
        top = np.argmax(p[mu])
        a = p[mu, top] / (1.0 + s * p[mu, top])
        s1 = s2 = s3 = 0.0 * s
        for k in range(p.shape[1]):
            if k != top:
                q = p[mu, k] / (1.0 + s * p[mu, k])
                s1 += q
                s2 += q * q
                s3 += q * q * q
        inverse = 1.0 / (a + s1)
        share = a * inverse
        first += 2.0 * share * s1 + (s1 * s1 - s2) * inverse
        second += share * share * (s1 * s1 + 3.0 * s2) + 2.0 * share * inverse * (s1 * s2 - s3)
        second += inverse * inverse * (s2 * s1 * s1 - 2.0 * s3 * s1 + s2 * s2)
    return first, second


def _laplacian(off_diagonal: Array) -> Array:
    """The symmetric matrices (..., C, C) with these off-diagonal entries and rows of sum zero."""
    index = np.arange(off_diagonal.shape[-1])
    off_diagonal[..., index, index] = 0
    off_diagonal[..., index, index] = -off_diagonal.sum(axis=-1)
    return off_diagonal


@dataclass(frozen=True, eq=False)
class ExampleSums:
    """Means over all N examples of what belongs to one s, in groups g of examples.

    Attributes
    ----------
    powers : tuple of ndarray (groups, C, C)
        (1/N) sum_mu B^j, j = 1, 2, 3, as many as were asked for; K is the first.
    pull : ndarray (groups, C)
        (1/N) sum_mu R (p - y).
    form : complex or float
        (1/N) sum_mu (p - y)^T R (p - y), over all groups.
    log_det : complex
        (1/N) sum_mu log det(1 + s A), over all groups.
    """

    powers: tuple[Array, ...]
    pull: Array
    form: Any
    log_det: Any


@dataclass(frozen=True, eq=False)
class StructuredExamples:
    """Probabilities and labels of N examples, and the sums over them as functions of s.

    Parameters
    ----------
    probabilities : ndarray (N, C)
    labels : ndarray (N,)
    by_class : bool
        Sums for each class of labels apart (groups = C) rather than for all examples (groups = 1).
    """

    probabilities: Floats = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    by_class: bool = False

    def __post_init__(self) -> None:
        if self.by_class:
            order = np.argsort(self.labels, kind="stable")
            object.__setattr__(self, "labels", self.labels[order])
            object.__setattr__(self, "probabilities", np.ascontiguousarray(self.probabilities[order]))

    @property
    def num_groups(self) -> int:
        """C, or 1."""
        return int(self.probabilities.shape[1]) if self.by_class else 1

    def _blocks(self) -> list[tuple[int, slice]]:
        """Groups and the slices of examples that they are summed in."""
        num_examples, num_classes = self.probabilities.shape
        classes = np.searchsorted(self.labels, np.arange(num_classes + 1)).tolist()
        ends = classes if self.by_class else [0, num_examples]
        size = max(BLOCK // num_classes, num_classes, 1)
        return [
            (g, slice(i, min(i + size, ends[g + 1])))
            for g in range(len(ends) - 1)
            for i in range(ends[g], ends[g + 1], size)
        ]

    def sums(self, s: complex | float, order: int = 1, logs: bool = True) -> ExampleSums:
        """Sum over the examples, `order` powers of B; without `logs`, log_det is 0.

        Real s give real sums (log_det apart), four times faster.
        """
        num_examples, num_classes = self.probabilities.shape
        dtype = np.result_type(type(s), np.float64)
        blocks = self._blocks()
        width = max((part.stop - part.start for _, part in blocks), default=0)
        c = num_classes
        left = np.empty((width, (4 if order > 2 else order) * c), dtype)
        right = np.empty((width, (2 if order > 2 else 1) * c), dtype)
        powers = np.zeros((order, self.num_groups, c, c), dtype)
        apart = np.zeros_like(powers)
        pull = np.zeros((self.num_groups, c), dtype)
        log_det, form = 0j, 0.0 * s
        for group, part in blocks:
            n = part.stop - part.start
            p, labels = self.probabilities[part], self.labels[part]
            terms = example_terms(p, labels, s, left[:n], right[:n], apart[:, group], pull[group], logs)
            log_det, form = log_det + terms[0], form + terms[1]
            if c <= FEW_CLASSES:
                add_products(left[:n], right[:n], apart[:, group])
                continue
            products = (left[:n, : order * c].T @ right[:n, :c]).reshape(order, c, c)
            powers[:, group] -= products
            if order > 2:
                # Half of it: the transpose is added below.
                powers[2, group] -= 0.5 * (left[:n, 3 * c :].T @ right[:n, c:])
        powers[1:] += np.swapaxes(powers[1:], -1, -2).copy()
        powers += apart + np.swapaxes(apart, -1, -2)
        powers = _laplacian(powers)
        powers /= num_examples
        return ExampleSums(tuple(powers), pull / num_examples, form / num_examples, log_det / num_examples)

    @cached_property
    def _series(self) -> tuple[Floats, Floats, Floats, Floats] | None:
        """Taylor coefficients in s of K (TERMS, groups, C, C), the pull, the form and log det; None where too large.

        By the trapezoidal rule on the circle |s| = RADIUS, exact to rounding for coefficients of this decay.
        """
        num_classes = self.probabilities.shape[1]
        if 16.0 * TERMS * self.num_groups * num_classes**2 > SERIES_BYTES:
            return None
        values = [self.sums(s, logs=False) for s in taylor.circle(RADIUS, TERMS).tolist()]
        matrices = taylor.coefficients([value.powers[0] for value in values], RADIUS, TERMS)
        # d log_det / ds = tr K
        traces = np.einsum("tgkk->t", matrices)
        log_det = np.concatenate([[0.0], traces[:-1] / np.arange(1.0, TERMS)])
        pulls, forms = (
            taylor.coefficients([getattr(value, name) for value in values], RADIUS, TERMS) for name in ("pull", "form")
        )
        return matrices, pulls, forms, log_det

    def at(self, s: complex | float, order: int = 1, logs: bool = True) -> ExampleSums:
        """The same as `sums`, by the power series where |s| allows."""
        if abs(s) > RADIUS or self._series is None:
            return self.sums(s, order, logs)
        matrices, pulls, forms, log_dets = self._series
        rows = taylor.weights(s, TERMS, order)
        power = rows[0]
        # d^j K / ds^j = (-1)^j j! (1/N) sum B^(j+1)
        flat = (FACTORIALS[:order, None] * rows) @ matrices.reshape(TERMS, -1)
        powers = flat.reshape(order, *matrices.shape[1:])
        pull = (power @ pulls.reshape(TERMS, -1)).reshape(pulls.shape[1:])
        return ExampleSums(tuple(powers), pull, power @ forms, power @ log_dets)
