"""The residual part of the model alone: its eigenvalues, binned, and the edge of its law."""

from __future__ import annotations

import math

import numpy as np

from rmtland.landscape.structured import Floats, curvature_eigenvalues, largest_eigenvalue, power_traces

SAMPLE = 3e7
"""n C^2 of the examples whose eigenvalues `bulk_atoms` computes."""
BINS = 300
DECADES = 14.0
"""Its bins and the range they cover; smaller eigenvalues count with the smallest."""


def bulk_atoms(p: Floats, weight: float, num_examples: float) -> tuple[Floats, Floats]:
    """Eigenvalues of the A_mu times `weight`, binned by size, and their numbers, which add up to those of N examples.

    Of every so manieth example only, where there are many.
    """
    if not weight > 0:
        return np.empty(0), np.empty(0)
    part = np.ascontiguousarray(p[:: max(1, math.ceil(p.size * p.shape[1] / SAMPLE))])
    bulk = weight * curvature_eigenvalues(part).ravel()
    top = float(bulk.max())
    if not top > 0:
        return np.empty(0), np.empty(0)
    bins = np.floor(np.log10(np.maximum(bulk, top * 10**-DECADES) / top) * (-BINS / DECADES)).astype(np.int64)
    count = np.bincount(bins)
    total = np.bincount(bins, weights=bulk)
    return total[count > 0] / count[count > 0], count[count > 0] * (num_examples / part.shape[0])


def residual_edge(p: Floats, residual_length: float, num_examples: float, num_parameters: float) -> tuple[float, float]:
    """Upper edge, as u and z(u), of the law of (1/N) sum_mu E_mu^T A_mu E_mu, E the residuals; (0, 0) without.

    The u beyond all atoms t = residual_length^2 eigenvalue(A_mu) / N with sum t^2 / (u - t)^2 = D; z(u) = u + (1/D)
    sum t u / (u - t). By Newton's method on 1/sqrt of that sum. `p` may be a sample that stands for N examples.
    """
    weight = residual_length**2 / num_examples
    largest = weight * largest_eigenvalue(p)
    if not largest > 0:
        return 0.0, 0.0
    copies = num_examples / p.shape[0] / num_parameters

    def height(u: float) -> tuple[float, float]:
        # t / (u - t) = x b with x = weight / u and b the eigenvalues of B.
        x = weight / u
        _, second, third = power_traces(p, -x)
        return copies * x * x * second, -2 * copies * (x * x * second + x**3 * third) / u

    near, far = largest, 2 * largest
    while height(far)[0] >= 1:
        near, far = far, 2 * far
    u = far
    for _ in range(200):
        h, change = height(u)
        near, far = (u, far) if h >= 1 else (near, u)
        new = u + 2 * h / change * (1 - math.sqrt(h))
        if not near < new < far:
            new = 0.5 * (near + far)
        if abs(new - u) <= 1e-14 * u:
            break
        u = new
    return u, u + copies * weight * power_traces(p, -weight / u)[0]
