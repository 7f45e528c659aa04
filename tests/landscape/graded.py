"""Eigenvalues of D T in extended precision, each to relative accuracy, however far apart lengths and logits put them.

The oracle of `test_domain`; uses nothing of the package.
"""

from __future__ import annotations

import numpy as np


def curvature_rows(logits):
    """Rows (N, C - 1, C) whose outer products add up to A_mu / N, without cancellation (Tanabe and Sagae 1992)."""
    n, c = logits.shape
    z = logits.astype(np.longdouble)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.zeros((n, c - 1, c), np.longdouble)
    for k in range(c - 1):
        tail = p[:, k + 1 :].sum(axis=1)
        some = np.where(tail > 0, tail, 1)
        scale = np.sqrt(p[:, k] * tail / (p[:, k] + some) / n)
        rows[:, k, k] = scale
        rows[:, k, k + 1 :] = -scale[:, None] * p[:, k + 1 :] / some[:, None]
    return rows


def squared_singular_values(rows):
    """Of a matrix whose rows are graded: one-sided Jacobi, all pairs of a round at once, the longest rows first."""
    rows = rows[np.any(rows != 0, axis=1)]
    if len(rows) < 2:
        return np.sum(rows**2, axis=1)
    if len(rows) % 2:
        rows = np.vstack([rows, np.zeros_like(rows[:1])])
    n = len(rows)
    order = np.arange(n)
    for _ in range(60):
        rows = rows[np.argsort(-np.sum(rows**2, axis=1))]
        worst = 0.0
        for _ in range(n - 1):
            i, j = np.sort([order[: n // 2], order[n // 2 :][::-1]], axis=0)
            x, y = rows[i], rows[j]
            a, b, both = np.sum(x * x, axis=1), np.sum(y * y, axis=1), np.sum(x * y, axis=1)
            with np.errstate(all="ignore"):
                cosine = np.nan_to_num(np.abs(both) / np.sqrt(a) / np.sqrt(b))
                zeta = (b - a) / (2 * both)
                tangent = np.where(zeta < 0, -1, 1) / (np.abs(zeta) + np.sqrt(1 + zeta * zeta))
            tangent = np.where(cosine > 1e-19, tangent, 0)[:, None]
            # Rows of rounding turn for ever.
            worst = max(worst, float(np.max(cosine, initial=0.0, where=np.minimum(a, b) > 1e-34 * np.max(a + b))))
            c = 1 / np.sqrt(1 + tangent**2)
            rows[i], rows[j] = c * (x - tangent * y), c * (tangent * x + y)
            order = np.append(order[:1], np.roll(order[1:], 1))
        if worst < 1e-17:
            return np.sum(rows**2, axis=1)
    raise AssertionError("Jacobi's rotations did not end")


def eigenvalues(logits, labels, law, cross_terms):
    """The positive ones, ascending; those below 1e-32 of the largest are rounding."""
    rows = curvature_rows(logits)
    n, directions, c = rows.shape
    parts = []
    if law.residual_length > 0:
        own = np.zeros((n, directions, n, c), np.longdouble)
        own[np.arange(n), :, np.arange(n), :] = rows
        parts.append(law.residual_length * own.reshape(n * directions, n * c))
    if law.class_length > 0:
        own = np.zeros((n, directions, c, c), np.longdouble)
        own[np.arange(n), :, labels] = rows
        parts.append(law.class_length * own.reshape(n * directions, c * c))
    parts.append(rows.reshape(n * directions, c) * law.mean_lengths(c).astype(np.longdouble))
    if cross_terms:
        parts = [np.hstack(parts)]
    values = np.sort(np.concatenate([squared_singular_values(part) for part in parts]))
    return values[values > 1e-32 * np.max(values, initial=0.0)]
