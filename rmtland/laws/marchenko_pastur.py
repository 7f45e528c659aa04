"""The Marchenko-Pastur law of sample covariance matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from rmtland._arguments import integer, real, require_memory
from rmtland.laws._arcs import Arc, stieltjes_of_interval
from rmtland.laws._law import EXACT_LOG, EXACT_ORDER, Complexes, Floats, Law, moment_of_log


@dataclass(frozen=True)
class MarchenkoPastur(Law):
    """Law of the eigenvalues of X X^T / n, X p x n with independent entries of variance sigma^2, as p and n grow.

    The density is sqrt((b - x)(x - a)) / (2 pi sigma^2 ratio x) on [a, b] = sigma^2 (1 -+ sqrt(ratio))^2; where
    ratio > 1, p - n eigenvalues vanish: an atom of mass 1 - 1/ratio at 0, which `cdf`, `ppf`, `rvs` and moments know.

    Parameters
    ----------
    ratio : float, > 0
        Limit of p / n, dimension over samples.
    sigma : float, > 0
        Standard deviation (not variance) of an entry of X; 1 by default.

    Raises
    ------
    ValueError
        If `ratio` or `sigma` is not positive and finite.

    Notes
    -----
    The limit p, n -> infinity at fixed p / n. At finite size the mean spectral distribution is off by O(1/n) inside
    and the extreme eigenvalues by O(n^(-2/3)), with the `TracyWidom` law.

    Masses come from a closed form in the angle of the support that loses no digits to cancellation, so `cdf` and `sf`
    are relatively accurate up to the edges; quantiles from Newton's method on it.

    References
    ----------
    Marchenko and Pastur (1967), Distribution of eigenvalues for some sets of random matrices, Mat. Sb. 72, eq. (1.14).
    Bai and Silverstein (2010), Spectral Analysis of Large Dimensional Random Matrices, section 3.1.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.MarchenkoPastur(ratio=4.0)
    >>> law.support, law.atom
    ((1.0, 9.0), 0.75)
    >>> print(law.cdf(0.5), law.ppf(0.5), law.sf(9.0))
    0.75 0.0 0.0
    >>> print(law.mean(), law.var())
    1.0 4.0
    """

    ratio: float
    sigma: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", real("ratio", self.ratio, above=0))
        object.__setattr__(self, "sigma", real("sigma", self.sigma, above=0))

    @property
    def support(self) -> tuple[float, float]:
        """Edges a < b of the density; the atom at 0 of ratio > 1 is not within."""
        return self._scale * self._arc.low, self._scale * self._arc.high

    @property
    def atom(self) -> float:
        """Mass 1 - 1/ratio of the point 0 where ratio > 1, else 0."""
        return max(0.0, (self.ratio - 1) / self.ratio)

    def mean(self) -> float:
        """E x = sigma^2."""
        return self.sigma**2

    def var(self) -> float:
        """Variance ratio sigma^4."""
        return self.ratio * self.sigma**4

    def moment(self, k: int) -> float:
        """E x^k: sigma^(2k) times the Narayana polynomial sum_j N(k, j) ratio^(j-1).

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
        MemoryError
            For so many terms that they do not fit.

        References
        ----------
        Bai and Silverstein (2010), lemma 3.1.
        """
        k = integer("k", k, at_least=0)
        log_ratio, log_scale = math.log(self.ratio), 2 * k * math.log(self.sigma)
        if k <= EXACT_ORDER and k * abs(log_ratio) < EXACT_LOG and abs(log_scale) < EXACT_LOG:
            term = total = 1.0
            for j in range(1, k):
                term *= self.ratio * (k - j) * (k - j + 1) / (j * (j + 1))
                total += term
            return float(total * self.sigma ** (2 * k))
        require_memory(f"{k} terms", 64.0 * k, "take a smaller `k`")
        i = np.arange(k)
        # binom(k, i) binom(k, i + 1) / k
        logs = 2 * gammaln(k + 1) - gammaln(i + 1) - gammaln(k - i + 1) - gammaln(i + 2) - gammaln(k - i) - math.log(k)
        return moment_of_log(k, float(logsumexp(logs + i * log_ratio)) + log_scale)

    def stieltjes(self, z: npt.ArrayLike) -> Any:
        """Stieltjes transform E[1 / (x - z)], atom included.

        The solution of ratio z m^2 + (z + ratio - 1) m + 1 = 0 that decays like -1/z.

        Parameters
        ----------
        z : array_like, real or complex
            Points of the plane. On the cut, the support, the sign of the imaginary part's zero tells the side:
            ``complex(x, 0.0)`` is its upper side and ``complex(x, -0.0)`` its lower. Real numbers lie above.

        Returns
        -------
        float64, complex128 or an ndarray of them, shape of z
            Real if z is real and off the support, complex if any point of z is complex or on the cut. Infinite at
            z = 0 where ratio >= 1.
        """
        scale = self.sigma**2
        low, high = self.support
        return stieltjes_of_interval(self._stieltjes, z, low / scale, high / scale, scale)

    def _stieltjes(self, z: Complexes, root: Complexes) -> Complexes:
        linear = z + (self.ratio - 1)
        plus, minus = linear + root, linear - root
        # Both are the same number; each loses its digits where its own sum of two cancels.
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(np.abs(plus) >= np.abs(minus), -2 / plus, -minus / (2 * self.ratio * z))
        return np.where((z == 0) & (self.ratio >= 1), np.inf, value)

    @cached_property
    def _arc(self) -> Arc:
        """The density in units of `_scale`, where the law of ratio > 1 is that of 1/ratio."""
        ratio = min(self.ratio, 1 / self.ratio)
        t = ratio**0.5
        return Arc(t, gap=(1 - ratio) / (1 + t))

    @property
    def _scale(self) -> float:
        return self.sigma**2 * max(1.0, self.ratio)

    @property
    def _weight(self) -> float:
        """Mass of the density."""
        return min(1.0, 1 / self.ratio)

    def _pdf(self, x: Floats) -> Floats:
        low, high = self.support
        with np.errstate(over="ignore", divide="ignore"):
            if low == 0:  # the hard edge, where the density grows like 1 / sqrt(x)
                inside = np.maximum(high / (x + 0.0) - 1, 0)
                return np.sqrt(inside) / (2 * np.pi * self.sigma**2)
            if not 1e-70 < self.sigma < 1e70:  # products of two of x leave the range of float64
                scale = self.sigma**2
                return MarchenkoPastur(self.ratio)._pdf(x / scale) / scale
            density, other = high - x, x - low
            density *= other
            np.maximum(density, 0, out=density)
            np.sqrt(density, out=density)
            np.maximum(x, low, out=other)
            other *= 2 * np.pi * self.sigma**2 * self.ratio
            density /= other
        return density

    def _cdf(self, x: Floats) -> Floats:
        below = self._arc.masses(x / self._scale)[0]
        return np.where(x < 0, 0.0, self.atom + self._weight * below)

    def _sf(self, x: Floats) -> Floats:
        above = self._arc.masses(x / self._scale)[1]
        return np.where(x < 0, 1.0, self._weight * above)

    def _ppf(self, q: Floats) -> Floats:
        return self._quantiles(q, 1 - q)

    def _isf(self, q: Floats) -> Floats:
        return self._quantiles(1 - q, q)

    def _quantiles(self, below: Floats, above: Floats) -> Floats:
        if not self.atom:
            return self._arc.quantiles(below, above) * self._scale
        x = self._arc.quantiles(np.maximum(below - self.atom, 0) / self._weight, above / self._weight)
        return np.where(below <= self.atom, 0.0, x) * self._scale
