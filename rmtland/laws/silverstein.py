"""Generalised Marchenko-Pastur law: the spectrum of sum_i t_i x_i x_i^T for any t_i >= 0 (Silverstein 1995)."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array, flag, integer, real, require_memory
from rmtland._arrays import told
from rmtland.laws._law import Complexes, Floats, Law, as_array, points
from rmtland.laws._spike_map import SpikeMap
from rmtland.laws._values import Value
from rmtland.laws.atoms.plain import PlainAtoms
from rmtland.laws.solver import Solver
from rmtland.laws.subordination import Atoms, Subordination

_EPS = float(np.finfo(np.float64).eps)
LEAST_RATIO = 1e-99
"""Of vectors to parameters; atoms of a weight below 1e-100 of these are as good as none."""


@dataclasses.dataclass(frozen=True, eq=False)
class GeneralizedMarchenkoPastur(Value, SpikeMap, Law):
    """Law of the eigenvalues of G = sum_i t_i x_i x_i^T with x_i ~ N(0, I_D) independent.

    G is D x D; t_i may carry a multiplicity w_i, so N = sum_i w_i vectors enter. No normalisation is hidden: E tr G / D
    = sum_i w_i t_i. The form usual in statistics, p x p and n samples, comes from `sample_covariance`.

    Parameters
    ----------
    eigenvalues : array_like, shape (k,)
        The t_i >= 0, in any order; at least one positive. Equal ones are grouped.
    num_parameters : float
        D > 0, the dimension of the vectors x_i; need not be an integer.
    multiplicities : array_like, shape (k,), optional
        w_i >= 0, real; all 1 by default.
    covariance : bool, optional
        If true, the law is that of the N x N matrix T^(1/2) X X^T T^(1/2) / D, X of shape (N, D), T with eigenvalues
        t_i: the nonzero eigenvalues of G / D. This is what `sample_covariance` sets.

    Raises
    ------
    ValueError
        If eigenvalues or multiplicities are negative, not finite, of different length, or leave nothing positive.

    Notes
    -----
    With m the Stieltjes transform and g = D m, z = -D/g + sum_i w_i t_i / (1 + t_i g). The solution in the upper half
    plane is unique; on the real axis it is found along the curve described in `rmtland.laws.atoms.kernels`, where
    it can be bracketed, so no mass is lost at weak, narrow or nearly touching bands. All methods but `support` and
    `edge_scales` cost O(k) per point.

    The law is the deterministic equivalent of G: an average over the sampling noise for D and N large, with errors of
    order 1/D in linear statistics. Outliers and single eigenvalues are meant to first order.

    Eigenvalues below 1e-70 of the largest count as zero.

    References
    ----------
    Marchenko and Pastur (1967); Silverstein (1995), theorem 1.1; Silverstein and Choi (1995), theorems 4.1 and 4.2
    (support); Biane (1997), section 3 (the curve); Bai and Yao (2012), theorem 4.1 (outliers).

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.GeneralizedMarchenkoPastur([1.0, 50.0], num_parameters=1000, multiplicities=[300, 4])
    >>> law.support.round(1)
    array([[  202.7,  2389.1],
           [44182. , 56830.3]])
    >>> print(law.atom, law.count_below(10_000.0))
    0.696 996.0
    """

    eigenvalues: Floats
    num_parameters: float
    multiplicities: Floats | None = None
    covariance: bool = dataclasses.field(default=False, kw_only=True)

    __repr__ = told

    def __post_init__(self) -> None:
        values = finite_array("eigenvalues", self.eigenvalues, ndim=1)
        dimension = real("num_parameters", self.num_parameters, above=0)
        if self.multiplicities is None:
            weights = np.ones_like(values)
        else:
            weights = finite_array("multiplicities", self.multiplicities, ndim=1)
        if weights.shape != values.shape:
            raise ValueError(
                f"`multiplicities` must be as many as `eigenvalues`; got {weights.size} for {values.size} eigenvalues"
            )
        for name, array in (("eigenvalues", values), ("multiplicities", weights)):
            if (array < 0).any():
                raise ValueError(f"`{name}` must be >= 0; got {array.min()}")
        if not (values * weights > 0).any():
            raise ValueError(
                f"`eigenvalues` must hold a positive entry of positive multiplicity; got {values.size} entries, none"
            )
        if not weights.sum() > LEAST_RATIO * dimension:
            raise ValueError(
                f"`multiplicities` must add up to more than {LEAST_RATIO:g} of `num_parameters`; got "
                f"{weights.sum():g} of {dimension:g}"
            )
        # Copies: the caller's arrays may change later.
        object.__setattr__(self, "eigenvalues", values.copy())
        object.__setattr__(self, "num_parameters", dimension)
        object.__setattr__(self, "multiplicities", None if self.multiplicities is None else weights.copy())
        object.__setattr__(self, "covariance", flag("covariance", self.covariance))

    @classmethod
    def sample_covariance(
        cls, population: npt.ArrayLike, ratio: float, weights: npt.ArrayLike | None = None
    ) -> GeneralizedMarchenkoPastur:
        """Law of the p x p sample covariance matrix S = Sigma^(1/2) X X^T Sigma^(1/2) / n, X p x n standard normal.

        Parameters
        ----------
        population : array_like, shape (k,)
            Eigenvalues of Sigma, >= 0.
        ratio : float
            p / n > 0.
        weights : array_like, shape (k,), optional
            How often each occurs, >= 0; all 1 by default. Only their proportions matter to the law; p = sum of the
            weights is the number of eigenvalues in `count_below` and `classical_locations`, and n = p / ratio sets
            the `edge_scales`.

        Returns
        -------
        GeneralizedMarchenkoPastur
            With eigenvalues = population, num_parameters = n = p / ratio, multiplicities = weights and covariance =
            True: the nonzero eigenvalues of S are those of G / n = (1/n) sum_i sigma_i x_i x_i^T, x_i in R^n, but there
            are p eigenvalues in all, so p m_S(z) = n m_(G/n)(z) + (n - p)/z. One atom gives Marchenko-Pastur.

        Examples
        --------
        >>> law = GeneralizedMarchenkoPastur.sample_covariance([1.0], ratio=0.25)
        >>> law.support
        array([[0.25, 2.25]])
        """
        values = finite_array("population", population, ndim=1)
        counts = np.ones_like(values) if weights is None else finite_array("weights", weights, ndim=1)
        total = float(counts.sum()) if counts.size else 1.0
        ratio = real("ratio", ratio, above=LEAST_RATIO)
        if weights is not None and not total > 0:
            raise ValueError(f"`weights` must have a positive sum; got {total}")
        return cls(values, total / ratio, None if weights is None else counts, covariance=True)

    @cached_property
    def _solver(self) -> Solver:
        """Of G / D, whose atoms of D T are the t_i."""
        weights = np.ones_like(self.eigenvalues) if self.multiplicities is None else self.multiplicities
        return Solver(Subordination((Atoms(self.eigenvalues, weights),), self.num_parameters))

    @property
    def _atoms(self) -> PlainAtoms:
        return self._solver.plain

    @property
    def _unit(self) -> float:
        """The unit of x in the equation."""
        return 1.0 if self.covariance else self.num_parameters

    @property
    def size(self) -> float:
        """Number of eigenvalues of the matrix, zeros included: D, or N (all multiplicities) if `covariance`."""
        if not self.covariance:
            return self.num_parameters
        return float(self.eigenvalues.size if self.multiplicities is None else self.multiplicities.sum())

    @property
    def ratio(self) -> float:
        """Number of vectors over number of parameters, N / D; the p / n of the sample covariance form."""
        total = self.eigenvalues.size if self.multiplicities is None else self.multiplicities.sum()
        return float(total) / self.num_parameters

    @cached_property
    def support(self) -> Floats:
        """Intervals on which the density is positive, ascending, float64 of shape (k, 2); without the atom at 0.

        A gap between neighbouring t_i costs O(k), and only where it may be open: at most about sqrt(D) of them are,
        times the number of e-folds over which t spreads.
        """
        return self._unit * self._atoms.edges

    @cached_property
    def edge_scales(self) -> Floats:
        """Scale s of the Tracy-Widom fluctuations at each edge of `support`, same shape.

        The largest eigenvalue at a right edge b is b + s TW_beta and the smallest at a left edge a is a - s TW_beta, in
        law and to first order; TW_1 for the real vectors of this class. s^(-3/2) = pi lim n(x) / sqrt(|x - edge|) with
        n the density of the number of eigenvalues. With one atom, s is Johnstone's (sqrt(n) + sqrt(p)) (1/sqrt(n) +
        1/sqrt(p))^(1/3). A hard edge at 0 (N = D), where there is no Tracy-Widom law, gets 0.

        References
        ----------
        El Karoui (2007), theorem 1; Lee and Schnelli (2016), theorem 2.4.
        """
        return self._unit * self._atoms.edge_scales

    @property
    def atom(self) -> float:
        """Mass of the point 0: 1 - min(N, D) / size, N the number of vectors with t > 0."""
        return 1 - self._solver.rank / self.size

    def _scaled(self, x: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return x / self._unit

    def _pdf(self, x: Floats) -> Floats:
        scaled = self._scaled(x)
        inside = self._atoms.inside(scaled)
        density = np.where(np.isnan(x), np.nan, 0.0)
        if self._atoms.range[0] == 0:
            density[x == 0] = np.inf
        u = self._solver.solve(scaled[inside])
        density[inside] = self.num_parameters / self.size / self._unit * u.imag / (np.pi * np.abs(u) ** 2)
        return density

    def _counts(self, x: Floats) -> tuple[Floats, Floats]:
        """Expected numbers of eigenvalues > x and <= x."""
        known = ~np.isnan(x)
        above, below = np.full((2, x.size), np.nan)
        above[known], below[known] = self._solver.counts(self._scaled(x[known]))
        zeros = self.size - self._solver.rank
        return np.where(x < 0, above + zeros, above), np.where(x < 0, below, below + zeros)

    def _cdf(self, x: Floats) -> Floats:
        return self._counts(x)[1] / self.size

    def _sf(self, x: Floats) -> Floats:
        return self._counts(x)[0] / self.size

    def count_below(self, x: npt.ArrayLike) -> Any:
        """Expected number of eigenvalues <= x, out of `size`; exact in the gaps of the support.

        Parameters
        ----------
        x : array_like
            Points on the real line.

        Returns
        -------
        float64 or ndarray of float64, shape of x
            In a gap, the sum of multiplicities below it (less the N - D that G cannot hold, if N > D).
        """
        array = points("x", x)
        return self._counts(array.reshape(-1))[1].reshape(array.shape)[()]

    def _quantiles(self, above: Floats, below: Floats) -> Floats:
        """Smallest points with `above` eigenvalues above and `below` at or below them; 0 within the atom."""
        zeros = self.size - self._solver.rank
        slack = 4 * _EPS * self.size
        x = self._unit * self._solver.quantiles(above, below - zeros)
        return np.where(below <= zeros + slack, 0.0, x) if zeros > 0 else x

    def _ppf(self, q: Floats) -> Floats:
        return self._quantiles(self.size * (1 - q), self.size * q)

    def _isf(self, q: Floats) -> Floats:
        return self._quantiles(self.size * q, self.size * (1 - q))

    def classical_locations(self, k: int | None = None) -> Floats:
        """Classical locations of the eigenvalues: the j-th largest where the law has j - 1/2 eigenvalues above.

        Parameters
        ----------
        k : int, optional
            Only the k largest; all `size` of them by default.

        Returns
        -------
        ndarray of float64, shape (k,)
            Ascending; eigenvalues of the atom at 0 included.

        Raises
        ------
        ValueError
            If k is outside 0 .. size.
        MemoryError
            If all are asked for and there are too many.
        """
        size = int(np.floor(self.size * (1 + 4 * _EPS)))
        if k is None:
            require_memory(f"all {size} locations", 32.0 * size, "ask for the k largest by `classical_locations(k)`")
        k = size if k is None else integer("k", k, at_least=0, at_most=size)
        above = np.arange(k, 0.0, -1) - 0.5
        return self._quantiles(above, self.size - above)

    def moment(self, k: int) -> float:
        """E x^k for integer k >= 0, exact: through free cumulants, D^(k-1) sum_i w_i t_i^k for G.

        Parameters
        ----------
        k : int
            Order, 0 to 300: the time grows like k^4.

        Returns
        -------
        float
        """
        k = integer("k", k, at_least=0, at_most=300)
        if k == 0:
            return 1.0
        cumulants = [float(np.sum(self._atoms.b * self._atoms.t**j)) for j in range(k)]
        # m_n = sum_s kappa_s [y^(n-s)] M(y)^s, M(y) = sum_n m_n y^n: a sum of positive terms.
        moments = np.zeros(k + 1)
        moments[0] = 1.0
        for n in range(1, k + 1):
            power = np.ones(1)
            for s in range(1, n + 1):
                power = np.convolve(power, moments[:n])[:n]
                moments[n] += cumulants[s - 1] * (power[n - s] if n - s < power.size else 0.0)
        return float(self.num_parameters / self.size * moments[k] * (self._unit * self._atoms.scale) ** k)

    def var(self) -> float:
        """Variance: D sum_i w_i t_i^2 for G; population variance + ratio * mean^2 for a sample covariance."""
        t, weights, unit = self._atoms.t, self._atoms.weights, self._unit * self._atoms.scale
        if not self.covariance:
            return float(unit**2 * np.sum(self._atoms.a))
        mean = np.sum(weights * t) / self.size
        zeros = self.size - self._atoms.num_vectors
        spread = (np.sum(weights * (t - mean) ** 2) + zeros * mean**2) / self.size
        return float(unit**2 * (spread + self.ratio * mean**2))

    def stieltjes(self, z: npt.ArrayLike) -> Any:
        """Stieltjes transform E[1 / (x - z)]: negative right of the support, Im of the sign of Im z.

        Parameters
        ----------
        z : array_like of complex
            Points of the plane. On the support the sign of the imaginary part's zero tells the side of the cut:
            ``complex(x, 0.0)`` is above it, ``complex(x, -0.0)`` below. Real numbers lie above.

        Returns
        -------
        float64, complex128 or an ndarray of them, shape of z
            Real if z is real and off the support, complex if any point of z is complex or on the cut. Infinite at z = 0
            where there is an atom or N = D.
        """
        given = as_array("z", z)
        if given.dtype.kind not in "fiuc":
            raise TypeError(f"`z` must be real or complex numbers; got {given.dtype} from {type(z).__name__}")
        flat = given.astype(np.complex128).reshape(-1)
        finite = np.isfinite(flat)
        value = np.where(np.isnan(flat), np.nan, 0j)
        point = flat[finite] / self._unit
        lower = np.signbit(point.imag)
        upper = np.where(lower, point.conj(), point)
        u = self._atoms.solve_complex(upper)
        transform = self._stieltjes(upper, u)
        value[finite] = np.where(lower, transform.conj(), transform)
        value = value.reshape(given.shape)
        real = given.dtype.kind != "c" and not np.any(u.imag > 0)
        return (value.real if real else value)[()]

    def _stieltjes(self, z: Complexes, u: Complexes) -> Complexes:
        """The transform from u(z), z in units of x."""
        zeros = self.size - self._atoms.num_vectors
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.covariance:
                # Sum over the population instead of n m_(G/n) + (n - p)/z, whose two terms cancel near 0.
                result = -self._atoms.companion(u) - (zeros / z if zeros > 0 else 0)
            else:
                result = -self.num_parameters / u
            result = result / (self.size * self._unit)
            return np.where((z == 0) & ((self.atom > 0) | (self._atoms.range[0] == 0)), np.inf, result)
