"""Fluctuations of the model over draws of the logit gradients, given the logits."""

from __future__ import annotations

import math

import numpy as np

from rmtland.landscape.equivalent import Equation
from rmtland.landscape.structured import Floats

DRAWS = 1024
WORK = 4e9
"""Draws of the small matrix of the outliers, fewer where their cubes would add up to more than this."""
TERMS = 32


def power_traces_of(equation: Equation) -> Floats:
    """Traces of D T, its square, cube and fourth power: the Taylor coefficients of Psi', by the trapezoidal rule."""
    values, _, spikes = equation.atoms()
    top = 1.05 * max(float(np.max(values, initial=0.0)), float(np.max(spikes, initial=0.0)))
    while equation.atoms_above(top) > 0:
        top *= 1.3
    radius = 0.5 / top
    nodes = radius * np.exp(2j * np.pi * np.arange(TERMS // 2 + 1) / TERMS)
    slopes = np.array([equation.evaluate(m).slope for m in nodes.tolist()])
    coefficients = np.fft.hfft(slopes, n=TERMS)[:4] / TERMS / radius ** np.arange(4.0)
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    traces: Floats = signs * coefficients
    return traces


def covariance_of_powers(traces: Floats, d: float) -> tuple[float, float, float]:
    """Var tr G, Cov(tr G, tr G^2) and Var tr G^2 of G = sum_i t_i x_i x_i^T, x_i in R^d; traces: of T^1..T^4. Exact.

    From the moments of |x_i|^2 and (x_i . x_j)^2; the covariance is 2 d/da of E tr G^2 under t -> t + a t^2.
    """
    t1, t2, t3, t4 = traces.tolist()
    first = 2 * d * t2
    mixed = 4 * d * (t1 * t2 + (d + 1) * t3)
    second = 8 * d * (d + 2) * (d + 3) * t4 + 16 * d * (d + 2) * (t3 * t1 - t4)
    second += 4 * d * (d + 3) * (t2**2 - t4) + 8 * d * (t2 * t1**2 - 2 * t1 * t3 + 2 * t4 - t2**2)
    return first, mixed, second


def ratio_deviation(equation: Equation, dimension: float) -> float:
    """Standard deviation of tr G / |G|_F in `dimension` parameters, to first order (delta method)."""
    d = float(dimension)
    traces = power_traces_of(equation)
    t1, t2 = traces[0], traces[1]
    trace, square = d * t1, d * t1**2 + d * (d + 1) * t2
    first, mixed, second = covariance_of_powers(traces, d)
    relative = first / trace**2 - mixed / (trace * square) + second / (4 * square**2)
    return float(trace / math.sqrt(square) * math.sqrt(max(relative, 0.0)))


def outlier_deviations(equation: Equation) -> Floats:
    """Standard deviations of the outliers: those of the eigenvalues of a small Gaussian matrix around its diagonal."""
    values, weights, spikes = equation.atoms()
    d = equation.num_parameters
    if spikes[-1] == 0:
        return np.zeros(spikes.size)
    apart = spikes[:, None] - values
    below = apart > 1e-9 * spikes[:, None]
    apart = np.where(below, apart, np.inf)
    places = spikes * (1 + np.sum(weights * values / apart, axis=1) / d)
    slopes = np.maximum(1 - np.sum(weights * (values / apart) ** 2, axis=1) / d, 0.0)
    scale = np.sqrt(spikes * np.sqrt(slopes / d))
    size = spikes.size
    draws = int(min(max(WORK / size**3, 16), DRAWS))
    rng = np.random.default_rng(0)
    eigenvalues = []
    for _ in range(0, draws, 16):
        noise = rng.standard_normal((16, size, size))
        noise = (noise + np.swapaxes(noise, 1, 2)) / math.sqrt(2)
        eigenvalues.append(np.linalg.eigvalsh(np.diag(places) + scale[:, None] * noise * scale))
    deviations: Floats = np.std(np.concatenate(eigenvalues), axis=0, ddof=1)
    return deviations
