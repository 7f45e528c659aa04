"""The residual part of the model alone: its eigenvalues, binned, and the edge of its law."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from rmtland.landscape.theory.examples import Floats, curvature_eigenvalues, largest_eigenvalue, power_traces

SAMPLE = 5e6
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


def residual_edge(
    p: Floats, residual_length: float, num_examples: float, num_parameters: float, sigma_H: float = 0.0
) -> tuple[float, float]:
    """Upper edge, as u and z(u), of the law of (1/N) sum_mu E_mu^T A_mu E_mu, E the residuals, plus an H-term.

    The u beyond all atoms t = residual_length^2 eigenvalue(A_mu) / N with sum t^2 / (u - t)^2 / D + sigma_H^2 / u^2 =
    1; z(u) = u + (1/D) sum t u / (u - t) + sigma_H^2 / u. (0, 0) without either. `p` may be a sample that stands for N
    examples.
    """
    weight = residual_length**2 / num_examples
    largest = weight * largest_eigenvalue(p)
    if not largest > 0:
        return sigma_H, 2 * sigma_H
    copies = num_examples / p.shape[0] / num_parameters

    def excess(log_u: float) -> float:
        # t / (u - t) = x b with x = weight / u and b the eigenvalues of B.
        x = weight * math.exp(-log_u)
        own = (sigma_H * math.exp(-log_u)) ** 2
        return 0.5 * math.log(copies * x * x * float(power_traces(p, -x)[1]) + own)

    # The largest atom alone brings the sum to 4 D at the lower end, the H-term alone to D.
    low, high = math.log(max(largest * (1 + 0.5 * math.sqrt(copies)), sigma_H)), math.log(2 * largest)
    high = max(high, low + math.log(2))
    while excess(high) >= 0:
        low, high = high, high + math.log(2)
    u = math.exp(float(brentq(excess, low, high, xtol=1e-15, rtol=1e-14)))
    return u, u + copies * weight * float(power_traces(p, -weight / u)[0]) + sigma_H**2 / u
