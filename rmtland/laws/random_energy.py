"""Random energy model (Derrida 1980): softmax probabilities of independent Gaussian logits, at any number of states."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import digamma, gamma, gammainc, ndtr, ndtri

from rmtland._arguments import integer, real
from rmtland.laws._law import Floats

# Step of the trapezoidal sums. All integrands continue analytically to |Im| < pi/2 in log t, so that the error is
# about exp(-pi^2 / step): 4e-22.
_STEP = 0.2
_NEGLIGIBLE = 46.0
"""Minus the logarithm of what is left out of a range: 1e-20."""
_NODES: Floats
_WEIGHTS: Floats
_NODES, _WEIGHTS = leggauss(16)


@dataclasses.dataclass(frozen=True)
class RandomEnergyModel:
    """Moments of p = softmax(z), z of `num_states` independent N(0, sigma^2) logits.

    sigma is the inverse temperature (not sigma^2): at sigma = sqrt(2 ln C) the probabilities freeze onto few states.

    Parameters
    ----------
    num_states : int
        C >= 2, the number of classes; 1e100 at most.
    sigma : float
        Standard deviation of a logit, > 0.

    Raises
    ------
    ValueError
        If `num_states` < 2 or `sigma` <= 0.

    Notes
    -----
    Exact at finite C, through Laplace transforms: with phi_k(t) = E (t e^z)^k exp(-t e^z), E p_1^2 = int phi_2
    phi_0^(C-1) dlog t and E p_1 p_2 = int phi_1^2 phi_0^(C-2) dlog t, by trapezoidal sums that converge exponentially.
    Relative errors are below 1e-14 for C up to 1e6 and sigma from 1e-3 to 1e3, and the model runs far beyond.
    Where 1 - participation is small take it as C (C - 1) `pair`, which keeps its digits.

    References
    ----------
    Derrida (1980), Random-energy model: limit of a family of disordered models. Gross and Mezard (1984), the frozen
    phase. Fort and Ganguli (2019), section 3.3: their sigma_z is this sigma (they put sigma_z^2 for the inverse
    temperature, a slip).

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.RandomEnergyModel(num_states=10, sigma=15.0)
    >>> print(f"{model.participation():.7f} {model.max_probability():.4f} {model.freezing_sigma:.3f}")
    0.8978167 0.9285 2.146
    >>> round(rl.RandomEnergyModel.from_participation(0.5, num_states=10).sigma, 3)
    2.69
    """

    num_states: int
    sigma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_states", integer("num_states", self.num_states, at_least=2, at_most=10**100))
        object.__setattr__(self, "sigma", real("sigma", self.sigma, above=0))

    @classmethod
    def from_participation(cls, participation: float, num_states: int) -> RandomEnergyModel:
        """The model whose `participation` is the given one: the sigma that fits an observed mean of sum p^2.

        Parameters
        ----------
        participation : float
            E sum_k p_k^2, above 1/C (all states equal, sigma -> 0) and below 1 (one state, sigma -> infinity).
        num_states : int
            C >= 2.

        Returns
        -------
        RandomEnergyModel

        Raises
        ------
        ValueError
            If the participation is not between 1/C and 1, or so near to one of them that sigma would leave 1e-6 to
            1e12.

        Notes
        -----
        sigma has a relative error of about 1e-15 / (C participation - 1) near the lower end.
        """
        states = cls(num_states, 1.0).num_states  # checked
        target = real("participation", participation, above=1 / states, below=1)

        def excess(log_sigma: float) -> float:
            model = cls(states, math.exp(log_sigma))
            return _logit(model.participation(), model._pair_mass, states) - _logit(target, 1 - target, states)

        low = high = math.log(math.sqrt(2 * math.log(states)))
        while excess(low) > 0:
            low -= 1.0
            if low < math.log(1e-6):
                break
        while excess(high) < 0:
            high += 1.0
            if high > math.log(1e12):
                break
        if not excess(low) <= 0 <= excess(high):
            raise ValueError(
                f"`participation` must be reached by a sigma between 1e-6 and 1e12 at {states} states; got {target}"
            )
        return cls(states, math.exp(float(brentq(excess, low, high, xtol=1e-15, rtol=1e-14))))

    @property
    def freezing_sigma(self) -> float:
        """sqrt(2 ln C), where the model freezes as C -> infinity."""
        return math.sqrt(2 * math.log(self.num_states))

    @property
    def limit(self) -> RandomEnergyLimit:
        """The model at the same sigma / freezing_sigma and C -> infinity."""
        return RandomEnergyLimit(self.sigma / self.freezing_sigma)

    def participation(self) -> float:
        """E sum_k p_k^2: 1/C for equal probabilities, 1 for a single state; 1 / (effective number of states)."""
        phi0, phi2 = self._log_phi0, self._phi[1]
        return float(self.num_states * self._step * np.sum(phi2 * np.exp((self.num_states - 1) * phi0)))

    def pair(self) -> float:
        """E p_1 p_2 of two different states, (1 - participation) / (C (C - 1)) without the cancellation."""
        phi0, phi1 = self._log_phi0, self._phi[0]
        return float(self._step * np.sum(phi1 * phi1 * np.exp((self.num_states - 2) * phi0)))

    @property
    def _pair_mass(self) -> float:
        """1 - participation; in this order, as C^2 may overflow."""
        return (self.num_states - 1) * (self.num_states * self.pair())

    def entropy(self, base: float = math.e) -> float:
        """E of the entropy - sum_k p_k log p_k.

        Parameters
        ----------
        base : float, optional
            Of the logarithm, > 1: e gives nats, 2 bits.

        Returns
        -------
        float
            From ln C nats at small sigma to 0 at large; absolute error about 1e-15 ln C.
        """
        base = real("base", base, above=1)
        # -d/ds of E sum p^s = C int phi_s phi_0^(C-1) dlog t / Gamma(s) at s = 1.
        phi1, tilted = self._phi[0], self._phi[2]
        weight = np.exp((self.num_states - 1) * self._log_phi0)
        nats = -self.num_states * self._step * np.sum((np.euler_gamma * phi1 + tilted) * weight)
        return float(nats / math.log(base))

    def max_probability(self) -> float:
        """E max_k p_k, the mean top probability."""
        # C int dlog t E[t e^z exp(-t e^z) L(z)^(C-1)] with L(z) = E[exp(-t e^z') ; z' < z] = 1 - (1 - phi_0) - the part
        # above z, summed from the right by Gauss-Legendre panels and their integration matrix.
        sigma, states = self.sigma, self.num_states
        tau = self._tau
        width = min(1.0, sigma / max(1.0, 0.5 * self.freezing_sigma))
        edges, step = self._panels(width)
        fine = edges[:, None] + step * 0.5 * (_NODES + 1)
        total = 0.0
        # One block of t at a time keeps the arrays small.
        for block in range(0, tau.size, 64):
            t = tau[block : block + 64, None, None]
            y = fine + (t if sigma <= 1 else 0.0)
            density = np.exp(-0.5 * ((y - t) / sigma) ** 2 - np.exp(np.minimum(y, 6.0)))
            density *= step / (sigma * math.sqrt(2 * math.pi))
            panels = density @ (0.5 * _WEIGHTS)
            right = np.cumsum(panels[:, ::-1], axis=1)[:, ::-1] - panels
            above = right[:, :, None] + density @ _INTEGRATION.T
            inside = np.maximum(above - np.expm1(self._log_phi0[block : block + 64])[:, None, None], 0.0)
            with np.errstate(divide="ignore"):
                power = np.exp((states - 1) * np.log1p(-np.minimum(inside, 1.0)))
            total += float(np.sum(density * np.exp(y) * power * (0.5 * _WEIGHTS)))
        return states * self._step * total

    # The transforms.

    @cached_property
    def _step(self) -> float:
        """Step in log t: the integrands vary on the scale of the logits' extremes, or 1 if that is less."""
        return _STEP * max(1.0, self.sigma / self.freezing_sigma)

    @cached_property
    def _tau(self) -> Floats:
        """The grid of log t."""
        sigma, log_states = self.sigma, math.log(self.num_states)
        reach = log_states + _NEGLIGIBLE
        # Below: C (1 - phi_0) < 1e-20, by 1 - phi_0 <= t e^(sigma^2/2) and <= P(t e^z > e^-reach) + e^-reach.
        low = max(-reach - 0.5 * sigma**2, -reach - sigma * math.sqrt(2 * reach))
        # Above: phi_2 < 1e-20, or phi_0^C < 1e-20 as C P(t e^z > 1) is large.
        high = 4.5 + sigma * math.sqrt(2 * _NEGLIGIBLE)
        if self.num_states > 1000:
            high = min(high, sigma * float(ndtri(150 / self.num_states)) + 4.5)
        # Not np.arange(low, high, step), whose step is off by the rounding of `low`.
        grid: Floats = low + self._step * np.arange(math.ceil((high - low) / self._step) + 1.0)
        return grid

    def _panels(self, width: float) -> tuple[Floats, float]:
        """Left ends and width of panels that cover y = log t + z where it counts: y itself, or z for sigma <= 1."""
        reach = math.log(self.num_states) + _NEGLIGIBLE
        if self.sigma <= 1:
            # As far as the largest of C logits may go; sigma^2 more by the tilt of t e^z.
            low, high = -10 * self.sigma, self.sigma * math.sqrt(2 * reach) + 2 * self.sigma**2
        else:
            low, high = -reach, 4.5
        count = math.ceil((high - low) / width)
        step = (high - low) / count
        ends: Floats = low + step * np.arange(float(count))
        return ends, step

    def _nodes(self) -> tuple[Floats, float]:
        """Nodes and step of the sums over y, or over z for sigma <= 1."""
        return self._panels(_STEP * min(1.0, self.sigma))  # at the ends there is nothing left

    @cached_property
    def _phi(self) -> tuple[Floats, Floats, Floats]:
        """phi_1, phi_2 and E y e^y exp(-e^y) on the grid, y = log t + z."""
        sigma, tau = self.sigma, self._tau[:, None]
        y, step = self._nodes()
        scale = step / (sigma * math.sqrt(2 * math.pi))
        if sigma <= 1:
            weight = scale * np.exp(-0.5 * (y / sigma) ** 2)
            y = tau + y
            first = np.exp(y - np.exp(np.minimum(y, 6.0))) * weight
            return first.sum(axis=1), (first * np.exp(y)).sum(axis=1), (first * y).sum(axis=1)
        density = scale * np.exp(-0.5 * ((y - tau) / sigma) ** 2)
        first = np.exp(y - np.exp(y))
        return density @ first, density @ (first * np.exp(y)), density @ (first * y)

    @cached_property
    def _log_phi0(self) -> Floats:
        """Logarithm of phi_0 on the grid, through 1 - phi_0 where that is small, so that its C-th power is good."""
        sigma, tau = self.sigma, self._tau[:, None]
        y, step = self._nodes()
        if sigma <= 1:
            weight = step / (sigma * math.sqrt(2 * math.pi)) * np.exp(-0.5 * (y / sigma) ** 2)
            grown = np.exp(np.minimum(tau + y, 6.0))
            rest, phi0 = -np.expm1(-grown) @ weight, np.exp(-grown) @ weight
        else:
            gumbel = step * np.exp(y - np.exp(y))
            rest, phi0 = ndtr((tau - y) / sigma) @ gumbel, ndtr((y - tau) / sigma) @ gumbel
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(rest < 0.5, np.log1p(-np.minimum(rest, 0.5)), np.log(np.maximum(phi0, 1e-300)))


def _right_integration() -> Floats:
    """Matrix of int_x^1 / 2 at the Gauss nodes x, exact for polynomials through them."""
    vandermonde = np.polynomial.legendre.legvander(_NODES, _NODES.size - 1)
    antiderivatives = []
    for k in range(_NODES.size):
        integral = np.polynomial.legendre.legint(np.eye(_NODES.size)[k])
        values = np.polynomial.legendre.legval(_NODES, integral)
        antiderivatives.append(0.5 * (np.polynomial.legendre.legval(1.0, integral) - values))
    matrix: Floats = np.asarray(np.linalg.solve(vandermonde.T, np.array(antiderivatives)).T, dtype=np.float64)
    return matrix


_INTEGRATION = _right_integration()


def _logit(participation: float, rest: float, states: int) -> float:
    """Map P to log((P - 1/C) / (1 - P)), over all reals and nearly linear in log sigma at both ends."""
    return math.log(max(participation - 1 / states, 1e-300)) - math.log(max(rest, 1e-300))


@dataclasses.dataclass(frozen=True)
class RandomEnergyLimit:
    """The random energy model for C -> infinity at fixed sigma / freezing_sigma.

    Below the freezing point every probability vanishes; above it the ordered probabilities follow the Poisson-Dirichlet
    law PD(m, 0), m = freezing_sigma / sigma.

    Parameters
    ----------
    relative_sigma : float
        sigma / sqrt(2 ln C) > 0.

    Notes
    -----
    Corrections at finite C are of order ln ln C / ln C: the limit shows the transition, `RandomEnergyModel` the
    numbers.

    References
    ----------
    Derrida (1980), eqs. (10)-(13); Gross and Mezard (1984); Pitman and Yor (1997), section 3 (largest of PD(m, 0)).

    Examples
    --------
    >>> limit = RandomEnergyLimit(relative_sigma=2.0)
    >>> limit.participation(), round(limit.entropy(), 6)
    (0.5, 1.386294)
    """

    relative_sigma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "relative_sigma", real("relative_sigma", self.relative_sigma, above=0))

    @property
    def is_frozen(self) -> bool:
        """Whether sigma is above the freezing point."""
        return self.relative_sigma > 1

    def participation(self) -> float:
        """E sum_k p_k^2: 0, and 1 - freezing_sigma / sigma above freezing."""
        return max(0.0, 1 - 1 / self.relative_sigma)

    def entropy(self, base: float = math.e) -> float:
        """E of the entropy: infinite, and digamma(1) - digamma(1 - m) nats above freezing."""
        base = real("base", base, above=1)
        if not self.is_frozen:
            return math.inf
        return float(digamma(1.0) - digamma(self.participation())) / math.log(base)

    def entropy_density(self) -> float:
        """Limit of entropy / ln C: 1 - (sigma / freezing_sigma)^2, and 0 above freezing."""
        return max(0.0, 1 - self.relative_sigma**2)

    def max_probability(self) -> float:
        """E max_k p_k: 0, and the mean largest atom of PD(m, 0) above freezing."""
        if not self.is_frozen:
            return 0.0
        m = 1 / self.relative_sigma

        def integrand(s: float) -> float:
            # E exp(-s Z / e^max): relative to the top one the states have intensity E m x^(-m-1) on (0, 1), E
            # exponential of mean 1, so that it is e^-s / (1 + m int_0^1 (1 - e^(-s x)) x^(-m-1) dx).
            others = float(gamma(1 - m) * gammainc(1 - m, s))
            return float(math.exp(-s) / (math.exp(-s) + s**m * others))

        return float(quad(integrand, 0, 60, epsabs=1e-13, epsrel=1e-12, limit=200)[0])
