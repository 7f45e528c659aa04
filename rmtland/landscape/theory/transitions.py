"""Where outliers leave the bulk: the edge of the residual part, and the scales at which the means' eigenvalues pass it.

The edge is the u beyond all eigenvalues t_i of D T's residual part with sum_i t_i^2 / (u - t_i)^2 / D + sigma_H^2 /
u^2 = 1. A direction of the means is an eigenvalue theta of D T where one of F^T L(-1 / theta) F is theta, and an
outlier where dz/du > 0 at theta without it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.theory.examples import Examples
from rmtland.landscape.theory.levels import Means, Residuals
from rmtland.landscape.theory.sums import Floats, largest_eigenvalue
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Level, Semicircle, Subordination


def residual_edge(
    examples: Examples, residual_length: float, num_parameters: float, sigma_H: float = 0.0
) -> tuple[float, float]:
    """Upper edge, as u and z(u), of the law of (1/N) sum_mu E_mu^T A_mu E_mu plus an H-term; (0, 0) without either."""
    levels: list[Level] = []
    if residual_length > 0:
        levels.append(Residuals(examples, residual_length))
    if sigma_H > 0:
        levels.append(Semicircle(sigma_H, num_parameters))
    if not levels:
        return 0.0, 0.0
    equation = Subordination(tuple(levels), num_parameters)
    u = Solver(equation).upper_edge()
    return u, float(np.real(equation.map(u, False)[0]))


def transition_snr(
    examples: Examples, gradients: ClusteredGradients, num_parameters: float, sigma_H: float, cross_terms: bool
) -> Floats:
    """SNR from which on 1, 2, ..., C - 1 outliers stand apart, ascending; inf for directions without curvature.

    For residuals of length 1: u of the edge over the eigenvalues of L between the relative lengths, so that one edge
    does.
    """
    if gradients.class_length > 0:
        raise ValueError(f"`class_length` must be 0 for a transition of the outliers; got {gradients.class_length}")
    if sigma_H > 0 and gradients.residual_length == 0:
        raise ValueError(
            "`residual_length` must be > 0 for a transition in SNR where there is an H-term; see transition_sigma_H()"
        )
    own = sigma_H / gradients.residual_length**2 if sigma_H > 0 else 0.0
    u = residual_edge(examples, 1.0, num_parameters, own)[0]
    below = Residuals(examples, 1.0 if cross_terms else 0.0)
    lengths = ClusteredGradients(1.0, relative_lengths=gradients.relative_lengths).mean_lengths(examples.num_classes)
    curvatures = _spikes(Means(below, examples.factor(lengths)), u, examples.num_classes - 1)
    positive = curvatures > 1e-14 * curvatures[-1]
    return np.where(positive, u / np.where(positive, curvatures, 1.0), math.inf)[::-1]


def transition_sigma_H(
    examples: Examples, gradients: ClusteredGradients, num_parameters: float, cross_terms: bool
) -> Floats:
    """Scale of the H-term from which on each outlier is swallowed, ascending; 0 for those the bulk never leaves out."""
    if gradients.class_length > 0:
        raise ValueError(f"`class_length` must be 0 for a transition of the outliers; got {gradients.class_length}")
    count, lengths = examples.num_classes - 1, gradients.mean_lengths(examples.num_classes)
    scales = np.zeros(count)
    if not lengths.any():
        return scales
    residuals = Residuals(examples, gradients.residual_length)
    means = Means(residuals if cross_terms else Residuals(examples, 0.0), examples.factor(lengths))
    largest = residuals.weight * float(largest_eigenvalue(examples.probabilities))
    beyond = float(np.sum(lengths**2)) + 2 * largest
    low = largest * (1 + 1e-9) + 1e-12 * beyond
    equation = Subordination((residuals,), num_parameters)
    for j, at_low in enumerate(_spikes(means, low, count).tolist()):
        if at_low > low:
            theta = float(brentq(lambda u, j=j: u - _spikes(means, u, count)[j], low, beyond, xtol=1e-13 * beyond,
                                 rtol=1e-14))  # fmt: skip
            scales[j] = theta * math.sqrt(max(float(np.real(equation.map(theta)[1])), 0.0))
    return scales


def _spikes(means: Means, u: float, count: int) -> Floats:
    """The means' eigenvalues at m = -1/u, ascending, zeros for directions without length, (count,)."""
    values, copies = means.eigenvalues(-1 / u)
    found = np.sort(np.repeat(values, copies.astype(np.int64)))
    return np.append(np.zeros(count - found.size), found)
