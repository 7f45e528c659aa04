"""The semicircle law of Wigner matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import integer, real
from rmtland.laws._arcs import Arc, stieltjes_of_interval
from rmtland.laws._law import EXACT_LOG, EXACT_ORDER, Floats, Law, moment_of_log


@dataclass(frozen=True)
class Semicircle(Law):
    """Law of the eigenvalues of W / sqrt(n), W symmetric n x n with off-diagonal variance sigma^2, as n grows.

    The density is sqrt(4 sigma^2 - x^2) / (2 pi sigma^2) on [-2 sigma, 2 sigma].

    Parameters
    ----------
    sigma : float, > 0
        Standard deviation of an off-diagonal entry of W, and of the law.

    Raises
    ------
    ValueError
        If `sigma` is not positive and finite.

    Notes
    -----
    The limit n -> infinity; at finite n the mean spectral distribution is off by O(1/n) inside, and eigenvalues leave
    the support by O(n^(-2/3)), with the `TracyWidom` law.

    References
    ----------
    Wigner (1958), On the distribution of the roots of certain symmetric matrices, Annals of Mathematics 67.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.Semicircle(sigma=1.0)
    >>> law.support
    (-2.0, 2.0)
    >>> print(f"{law.cdf(0.0):.12f}", law.moment(4))
    0.500000000000 2.0
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", real("sigma", self.sigma, above=0))

    @property
    def support(self) -> tuple[float, float]:
        """The interval [-2 sigma, 2 sigma]."""
        return -2 * self.sigma, 2 * self.sigma

    def var(self) -> float:
        """Variance sigma^2."""
        return self.sigma**2

    def moment(self, k: int) -> float:
        """E x^k: sigma^k times the Catalan number of k/2 for even k, 0 for odd k.

        Parameters
        ----------
        k : int, >= 0

        Returns
        -------
        float

        Raises
        ------
        OverflowError
            Where that is beyond float64.
        """
        k = integer("k", k, at_least=0)
        if k % 2:
            return 0.0
        half = k // 2
        log_moment = math.lgamma(k + 1) - 2 * math.lgamma(half + 1) - math.log(half + 1) + k * math.log(self.sigma)
        if k <= EXACT_ORDER and abs(k * math.log(self.sigma)) < EXACT_LOG:
            return float(math.comb(k, half) // (half + 1)) * self.sigma**k
        return moment_of_log(k, log_moment)

    def stieltjes(self, z: npt.ArrayLike) -> Any:
        """Stieltjes transform E[1 / (x - z)], the solution of sigma^2 m^2 + z m + 1 = 0 that decays like -1/z.

        Parameters
        ----------
        z : array_like, real or complex
            Points of the plane. On the cut, the support, the sign of the imaginary part's zero tells the side:
            ``complex(x, 0.0)`` is its upper side and ``complex(x, -0.0)`` its lower. Real numbers lie above.

        Returns
        -------
        float64, complex128 or an ndarray of them, shape of z
            Real if z is real and off the support, complex if any point of z is complex or on the cut.
        """
        return stieltjes_of_interval(lambda z, root: -2 / (z + root), z, -2.0, 2.0, self.sigma)

    @cached_property
    def _arc(self) -> Arc:
        return Arc(t=0.0, gap=1.0)

    def _pdf(self, x: Floats) -> Floats:
        y = x / self.sigma
        with np.errstate(over="ignore"):
            return np.sqrt(np.maximum((2 - y) * (2 + y), 0)) / (2 * np.pi * self.sigma)

    def _cdf(self, x: Floats) -> Floats:
        return self._arc.masses(x / self.sigma)[0]

    def _sf(self, x: Floats) -> Floats:
        return self._arc.masses(x / self.sigma)[1]

    def _ppf(self, q: Floats) -> Floats:
        return self._arc.quantiles(q, 1 - q) * self.sigma

    def _isf(self, q: Floats) -> Floats:
        return self._arc.quantiles(1 - q, q) * self.sigma
