"""Finite-size terms of the limit theorems, derived here and used by no law: the biases that the claims allow.

Everything is for real matrices (beta = 1). The derivations, in short:

**Outliers.** An outlier of S solves f(z) = ell x^T (z - W)^(-1) x / n = 1 with x the spike's row of X and W = Y^T Y / n
from the others. Its limit F has F(rho) = 1; f = F + (h + noise)/..., and to second order E lambda - rho = -(1/F')[corr
+ F'' V / (2 F'^2) - C/F']/n with V = E noise^2 and C = E noise noise'. For Gaussian x, V = -2 ell^2 g' and C = V'/2, so
the last two terms cancel and only corr = ell h remains, h the 1/n term of the trace of the resolvent (Bai and
Silverstein
2004): transform of 1/4 at both edges less half of an arcsine law. In w = ell - 1 it is ratio w / (w^2 - ratio)^2.
That W has p - 1 rows, not p, gives the rest.

**Spikes that stay.** A population with one eigenvalue ell among p moves the edge x(u) = u (1 + (1/n) sum_j t_j/(u -
t_j)), stationary in u, by u (ell/(u - ell) - 1/(u - 1)) / n at u = 1 +- sqrt(ratio).

**Edges.** Near an edge the variable in which eigenvalues follow Airy's function is (3/2 pi N int rho)^(2/3), not x - b.
With rho = A sqrt(y) (1 + B y + ...), y the distance from the edge, it is t - (2/5) B s t^2 for t = (x - b)/s: the
Tracy-Widom variable tau appears as t = tau + (2/5) B s tau^2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rmtland.laws.tracy_widom import TracyWidom

Floats = npt.NDArray[np.float64]


def outlier_shift(spike: float, ratio: float, others: npt.ArrayLike = ()) -> float:
    """Limit of n (E lambda - rho(spike)) for an outlier of a real spiked covariance matrix, right or left.

    Parameters
    ----------
    spike, ratio : float
        With abs(spike - 1) > sqrt(ratio).
    others : array_like
        The other spikes, all different from this one.
    """
    w = spike - 1
    others = np.asarray(others, dtype=np.float64)
    missing = -spike / w + spike * float(np.sum(others / (spike - others) - 1 / w))
    return missing + spike**2 * ratio / (w * (w**2 - ratio))


def edge_shift(spike: float, ratio: float, side: int) -> float:
    """Limit of n (edge with the spike - edge without) for a spike that gives no outlier; side is 1 or -1."""
    u = 1 + side * np.sqrt(ratio)
    return float(u * (spike / (u - spike) - 1 / (u - 1)))


def wigner_outlier_shift(theta: float) -> float:
    """Limit of n (E lambda - theta - 1/theta), theta > 1, for the Gaussian orthogonal ensemble of radius 2."""
    return (2 - theta**2) / (theta * (theta**2 - 1))


def count_shift(x: npt.ArrayLike, low: float, high: float) -> Floats:
    """Limit of E #{eigenvalues <= x} - p F(x) within one band: 1/4 at both edges less half an arcsine law."""
    x = np.asarray(x, dtype=np.float64)
    return 0.25 - 0.5 * (0.5 + np.arcsin((2 * x - low - high) / (high - low)) / np.pi)


def tracy_widom_mean_shift_goe(size: float) -> float:
    """Mean of (lambda_max - 2 sqrt(m)) m^(1/6), m = n - 1/2, less that of the law: B s = -m^(-2/3) / 8."""
    return -0.05 * TracyWidom(1).moment(2) * (size - 0.5) ** (-2 / 3)


def tracy_widom_mean_shift_wishart(num_features: float, num_samples: float, side: int = 1) -> float:
    """Mean of the largest eigenvalue of X X^T in Ma's standardisation less that of the law, to O(n^(-2/3)).

    With side -1 the smallest nonzero one, as (centre - eigenvalue) / scale.
    """
    p, n = num_features - 0.5, num_samples - 0.5
    low, high = (np.sqrt(n) - np.sqrt(p)) ** 2, (np.sqrt(n) + np.sqrt(p)) ** 2
    root = np.sqrt(n) + side * np.sqrt(p)
    scale = abs(root) * abs(1 / np.sqrt(p) + side / np.sqrt(n)) ** (1 / 3)
    # rho is proportional to sqrt((high - x)(x - low)) / x.
    curvature = side / (high if side > 0 else low) - 1 / (2 * (high - low))
    return float(0.4 * curvature * scale * TracyWidom(1).moment(2))
