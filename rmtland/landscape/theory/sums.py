"""Compiled sums over examples of resolvents of A_mu, without any (NC) x (NC) matrix: what the levels are made of.

With d = 1 + s p, q = p / d and S = sum_k q_k of one example, R = (1 + s A)^(-1) has (Sherman-Morrison, twice)

    log det(1 + s A) = sum_k log d_k + log S,    B = R A = diag(q) - q q^T / S,    R (p - y) = (q / S - e_y) / d_y,

and the powers of B, which are its derivatives in s (dB/ds = -B^2), stay sums of few outer products: with
m = sum_k q_k^2 / S and n = sum_k q_k^3 / S, off the diagonal

    (B^2)_kl = -q_k q_l (q_k + q_l - m) / S,
    (B^3)_kl = -q_k q_l (f_k + f_l + q_k q_l) / S,    f = q^2 - m q + (m^2 - n) / 2.

The q of the most probable class may be huge (d passes 0 between s = -2 and -1, where A has no eigenvalue) and would
cancel, so its row is added apart, from formulas without it. B 1 = 0, so each diagonal entry is minus the rest
of its row: nothing cancels at frozen examples. All is homogeneous: p may come in any unit, 1 / s and A with it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]


@njit(cache=True, error_model="numpy")
def example_rows(p: Floats, labels: Labels, s: Any, left: Array, right: Array, powers: Array, errors: Array) -> None:
    """Rows [q, q (q - m/2), q f, q^2] and [q / S, q^2 / S] of each example, 0 at its most probable class.

    powers: (j, C, C), j = 1, 2 or 3, gets what that class has with the others in B^1..B^j; left: (n, j C), or (n, 4 C)
    with j = 3; right: (n, C), or (n, 2 C) with j = 3. Adds R (p - y) of the examples to `errors` (C,).
    """
    num_examples, num_classes = p.shape
    order = powers.shape[0]
    for mu in range(num_examples):
        top = np.argmax(p[mu])
        s1 = 0.0 * s
        s2 = 0.0 * s
        s3 = 0.0 * s
        for k in range(num_classes):
            q = p[mu, k] / (1.0 + s * p[mu, k])
            left[mu, k] = q
            if k != top:
                s1 += q
                s2 += q * q
                s3 += q * q * q
        a = left[mu, top]
        left[mu, top] = 0.0
        inverse = 1.0 / (a + s1)
        share = a * inverse
        m = share * a + s2 * inverse
        short = share * s1 - s2 * inverse  # a - m
        half = share * inverse * (2.0 * a * s2 - s3) - share * share * a * s1 + (s2 * s2 - s3 * s1) * inverse * inverse
        rest = share * share * (s1 * s1 + s2) - share * inverse * (s2 * s1 + s3)
        rest += (s2 * s2 - s3 * s1) * inverse * inverse
        half *= 0.5
        y = labels[mu]
        at_label = 1.0 / (1.0 + s * p[mu, y])
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
                others += w
                errors[k] += w * at_label
        # -sum_(k != y) q_k / (S d_y): all terms of one sign.
        errors[y] -= others * at_label


@njit(cache=True, error_model="numpy")
def add_products(left: Array, right: Array, powers: Array) -> None:
    """Subtract the outer products of the rows of `example_rows` from the upper triangles of `powers`, (j, C, C)."""
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
        others = 0.0
        top = np.argmax(p[mu])
        for k in range(p.shape[1]):
            if k != top:
                others += p[mu, k]
        low, high = best, 2.0 * others  # the trace is less
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
    """The C - 1 eigenvalues of each A_mu that are not zero by structure, (n, C - 1), to a millionth of each.

    They are the roots of sum_k p_k / (x - p_k), one between neighbouring probabilities.
    """
    num_examples, num_classes = p.shape
    values = np.empty((num_examples, num_classes - 1))
    for mu in range(num_examples):
        ordered = np.sort(p[mu])
        for j in range(num_classes - 1):
            low, high = ordered[j], ordered[j + 1]
            if low == 0.0:
                values[mu, j] = 0.0
                continue
            while high - low > 1e-6 * high:
                x = 0.5 * (low + high) if high < 4.0 * low else math.sqrt(low) * math.sqrt(high)
                if not low < x < high:  # neighbours among subnormal numbers, further apart than a millionth
                    break
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
def scalar_sums(p: Floats, labels: Labels, s: Any, logs: bool) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Sums over the examples of tr B, tr B^2, tr B^3, log det(1 + s A), (p - y)^T R (p - y) and |R (p - y)|^2.

    The last without conjugation; log det is a complex number, 0 unless `logs`, at real s without its branch. With a = q
    of the most probable class and sigma_j the sum of q^j over the others, tr B = (2 a sigma_1 + sigma_1^2 - sigma_2) /
    S, and likewise for its powers: nothing cancels where a is large (d near 0) or all there is (a frozen example).
    """
    first = second = third = quadratic = square = 0.0 * s
    log_det = 0j
    for mu in range(p.shape[0]):
        top = np.argmax(p[mu])
        a = p[mu, top] / (1.0 + s * p[mu, top])
        s1 = s2 = s3 = s4 = 0.0 * s
        for k in range(p.shape[1]):
            d = 1.0 + s * p[mu, k]
            if logs:
                # Both d and S keep to one half plane each, so that the principal branch is the continuous one.
                log_det += np.log(d + 0j)
            if k != top:
                q = p[mu, k] / d
                s1 += q
                s2 += q * q
                s3 += q * q * q
                s4 += q * q * q * q
        total = a + s1
        if logs:
            log_det += np.log(total + 0j)
        inverse = 1.0 / total
        share = a * inverse
        first += 2.0 * share * s1 + (s1 * s1 - s2) * inverse
        second += share * share * (s1 * s1 + 3.0 * s2) + 2.0 * share * inverse * (s1 * s2 - s3)
        second += inverse * inverse * (s2 * s1 * s1 - 2.0 * s3 * s1 + s2 * s2)
        third += share * share * share * (s1 * s1 * s1 + 3.0 * s1 * s2 + 4.0 * s3)
        third += share * share * inverse * (6.0 * s1 * s3 - 3.0 * s4 - 3.0 * s2 * s2)
        third += share * inverse * inverse * 3.0 * (s1 * s1 * s3 - 2.0 * s1 * s4 + s2 * s3)
        third += (
            inverse * inverse * inverse * (s3 * s1 * s1 * s1 - 3.0 * s4 * s1 * s1 + 3.0 * s1 * s2 * s3 - s2 * s2 * s2)
        )
        y = labels[mu]
        at_label = 1.0 / (1.0 + s * p[mu, y])
        wrong = 0.0
        rest = 0.0 * s
        squares = 0.0 * s
        for k in range(p.shape[1]):
            if k != y:
                z = p[mu, k] / (1.0 + s * p[mu, k]) * inverse
                wrong += p[mu, k]
                rest += z
                squares += z * z
                quadratic += z * p[mu, k] * at_label
        quadratic += wrong * rest * at_label
        square += (squares + rest * rest) * at_label * at_label
    return first, second, third, log_det, quadratic, square


@njit(cache=True, error_model="numpy")
def label_sums(p: Floats, labels: Labels, s: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Sums over the examples of the entries (y, y) of B, B^2, B^3, B = R A, and of x_y and x_y^2, x = R (p - y).

    As Laplacians, without cancellation where a probability is near 1.
    """
    one = two = three = mean = square = 0.0 * s
    for mu in range(p.shape[0]):
        y = labels[mu]
        own = p[mu, y] / (1.0 + s * p[mu, y])
        s1 = s2 = s3 = 0.0 * s
        for k in range(p.shape[1]):
            if k != y:
                q = p[mu, k] / (1.0 + s * p[mu, k])
                s1 += q
                s2 += q * q
                s3 += q * q * q
        inverse = 1.0 / (own + s1)
        share = own * inverse
        one += share * s1
        two += share * share * (s1 * s1 + s2)
        # (B e_y)^T B (B e_y), B the Laplacian of weights q_k q_l / S.
        three += share * share * share * (s1 * s1 * s1 + 2.0 * s1 * s2 + s3)
        if s1 != 0:
            # s3 s1 - s2^2, about the mean of q, as one of them may be all there is.
            mean_q = s2 / s1
            for k in range(p.shape[1]):
                if k != y:
                    q = p[mu, k] / (1.0 + s * p[mu, k])
                    three += share * share * inverse * s1 * q * (q - mean_q) * (q - mean_q)
        x = -s1 * inverse / (1.0 + s * p[mu, y])
        mean += x
        square += x * x
    return one, two, three, mean, square
