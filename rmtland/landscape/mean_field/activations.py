"""Activations and their Gaussian averages E[phi(u) phi(v)] and E[phi'(u) phi'(v)], entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erf, expit, ndtr

from rmtland._arguments import choice

Floats = npt.NDArray[np.float64]
Function = Callable[[Floats], Floats]
Dual = Callable[[Floats, Floats, Floats], tuple[Floats, Floats]]

RANGE = 12.0
"""Standard deviations that averages go out to: beyond lies 1e-32 of a normal distribution."""
STEP = 1 / 256
"""Of the trapezoidal rule, whose error for analytic functions is far below rounding while the activation at the scale
of its argument varies over more than a few steps."""
TERMS = 1024
"""Hermite terms at most."""
ACCURACY = 1e-9
"""Of the Hermite series, relative to the largest entry."""


@dataclass(frozen=True)
class Activation:
    """A function between layers, with its derivative.

    Parameters
    ----------
    name : str
    function, derivative : callable
        Of arrays, entry by entry.
    dual : callable, optional
        (q1, q2, c) to E[phi(u) phi(v)] and E[phi'(u) phi'(v)] where (u, v) are normal with variances q1, q2 and
        covariance c, arrays of one shape; by quadrature where left out.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> cubic = rl.Activation("cubic", lambda x: x**3, lambda x: 3 * x**2)
    >>> np.round(cubic.averages(np.array([[1.0, 0.5], [0.5, 1.0]]))[0], 6)  # E u^3 v^3 = 9 c + 6 c^3
    array([[15.  ,  5.25],
           [ 5.25, 15.  ]])
    """

    name: str
    function: Function
    derivative: Function
    dual: Dual | None = None

    def __repr__(self) -> str:
        return f"Activation({self.name!r})"

    def averages(self, covariance: Floats) -> tuple[Floats, Floats]:
        """E[phi phi'] and E[phi' phi''] for all pairs of the normal variables of a covariance matrix (N, N)."""
        variances = np.diag(covariance)
        if self.dual is not None:
            return self.dual(variances[:, None], variances[None, :], covariance)
        deviations = np.sqrt(variances)
        product = np.outer(deviations, deviations)
        cosines = np.divide(covariance, product, out=np.zeros_like(product), where=product > 0)
        first, second = (
            by_quadrature(f, deviations, np.clip(cosines, -1, 1)) for f in (self.function, self.derivative)
        )
        return first, second


def by_quadrature(function: Function, deviations: Floats, cosines: Floats) -> Floats:
    """E[f(u_i) f(u_j)] of normal variables of given standard deviations (N,) and correlations (N, N).

    Mehler's formula: the sum over k of rho^k times the Hermite coefficients of f at the two scales. The diagonal, where
    the series is slowest, is one integral. Terms are added until what is left, by Parseval's identity and the largest
    correlation between different variables, is below `ACCURACY` of the largest entry, or they run out.
    """
    nodes = np.arange(-RANGE, RANGE, STEP)
    weights = np.exp(-(nodes**2) / 2) * (STEP / math.sqrt(2 * math.pi))
    values = function(deviations[:, None] * nodes[None, :])
    squares = (values**2) @ weights
    off = cosines - np.diag(np.diag(cosines))
    closest = float(np.abs(off).max())
    total = np.zeros_like(cosines)
    power = np.ones_like(cosines)
    kept = np.zeros_like(squares)
    before, hermite = np.zeros_like(nodes), np.ones_like(nodes)
    for k in range(TERMS):
        left = float(np.max(squares - kept))
        if left * closest**k <= ACCURACY * float(squares.max()):
            break
        coefficients = values @ (weights * hermite)
        total += np.outer(coefficients, coefficients) * power
        kept += coefficients**2
        power *= off
        before, hermite = hermite, (nodes * hermite - math.sqrt(k) * before) / math.sqrt(k + 1)
    np.fill_diagonal(total, squares)
    return total


def _relu_dual(first: Floats, second: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Arc-cosine kernels (Cho and Saul 2009), half of kappa_1 and kappa_0."""
    scale = np.sqrt(first * second)
    cosine = np.clip(np.divide(c, scale, out=np.zeros_like(c), where=scale > 0), -1, 1)
    angle = np.arccos(cosine)
    value = scale * (np.sqrt(1 - cosine**2) + (math.pi - angle) * cosine) / (2 * math.pi)
    return value, (math.pi - angle) / (2 * math.pi)


def _erf_dual(first: Floats, second: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Williams (1997)."""
    product = (1 + 2 * first) * (1 + 2 * second)
    value = (2 / math.pi) * np.arcsin(np.clip(2 * c / np.sqrt(product), -1, 1))
    # Not product - 4 c^2, which rounding makes negative where long inputs are alike.
    left = 1 + 2 * (first + second) + 4 * np.maximum(first * second - c**2, 0.0)
    return value, (4 / math.pi) / np.sqrt(left)


def _linear_dual(first: Floats, second: Floats, c: Floats) -> tuple[Floats, Floats]:
    return c.copy(), np.ones_like(c)


def _gelu_slope(x: Floats) -> Floats:
    slope: Floats = ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return slope


def _silu_slope(x: Floats) -> Floats:
    slope: Floats = expit(x) * (1 + x * expit(-x))
    return slope


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("relu", lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float64), _relu_dual),
        Activation("erf", erf, lambda x: 2 / math.sqrt(math.pi) * np.exp(-(x**2)), _erf_dual),
        Activation("linear", lambda x: x, np.ones_like, _linear_dual),
        Activation("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2),
        Activation("gelu", lambda x: x * ndtr(x), _gelu_slope),
        Activation("silu", lambda x: x * expit(x), _silu_slope),
        Activation("sigmoid", expit, lambda x: expit(x) * expit(-x)),
    )
}
"""By name. GELU is the exact one, x times the normal distribution function."""


def activation_of(activation: Any) -> Activation:
    """The activation of a name, or the one given; ValueError for an unknown name, TypeError for anything else."""
    if isinstance(activation, Activation):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"`activation` must be a name or an Activation; got {type(activation).__name__}")
    return ACTIVATIONS[choice("activation", activation, tuple(ACTIVATIONS))]
