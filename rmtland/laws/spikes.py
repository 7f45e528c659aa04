"""Outliers of spiked covariance and Wigner matrices: where they are, how they fluctuate, what their vectors see."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, finite_array, instance, real
from rmtland._arrays import told
from rmtland.laws._law import Floats
from rmtland.laws._spikes import Bools, Spikes, edge_shift
from rmtland.laws.marchenko_pastur import MarchenkoPastur
from rmtland.laws.semicircle import Semicircle
from rmtland.laws.silverstein import GeneralizedMarchenkoPastur


@dataclasses.dataclass(frozen=True, eq=False)
class SpikedCovarianceLaw(Spikes):
    """Outliers of S = Sigma^(1/2) X X^T Sigma^(1/2) / n, X p x n standard, for Sigma with a few eigenvalues off a bulk.

    The bulk of Sigma is 1, or any population through `on_bulk`. A spike ell leaves the bulk of S iff |ell - 1| >
    sqrt(ratio): to the right, or to the left where ratio < 1.

    Parameters
    ----------
    ratio : float
        p / n > 0.
    spikes : array_like, shape (k,)
        Eigenvalues ell > 0 of Sigma; repeat one that is repeated.
    num_samples : float, optional
        n, which sets the size of fluctuations; `locations_std` and `edge` need it.
    beta : {1, 2, 4}
        Entries of X real, complex or quaternion.
    general_bulk : GeneralizedMarchenkoPastur, optional
        The law of S without the spikes, in its sample covariance form and of the same ratio, where the bulk of Sigma is
        not 1.

    Raises
    ------
    ValueError
        If an argument is out of range or `general_bulk` does not fit.

    Notes
    -----
    Limits for p, n -> infinity and k fixed. Locations are off by O(1/n) for a simple spike, and the formulas fail
    within O(n^(-1/3)) of a threshold, where the law goes from Gauss to Tracy-Widom (Baik, Ben Arous and Peche).

    References
    ----------
    Baik, Ben Arous and Peche (2005), theorem 1.1 (threshold, beta = 2). Baik and Silverstein (2006), theorem 1.1
    (locations, left and right). Paul (2007), theorems 3 and 4 (fluctuations, overlaps). Benaych-Georges and Nadakuditi
    (2012). Bai and Yao (2008; 2012), general bulk. Bloemendal, Knowles, Yau and Yin (2016), section 2.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.SpikedCovarianceLaw(ratio=0.25, spikes=[0.1, 1.4, 5.0], num_samples=1000)
    >>> law.threshold, law.is_outlier
    (1.5, array([ True, False,  True]))
    >>> law.locations
    array([0.07222222, 2.25      , 5.3125    ])
    >>> law.overlaps.round(4)
    array([0.9573, 0.    , 0.9265])
    >>> law.locations_std.round(4)
    array([0.0037, 0.0274, 0.2219])
    """

    ratio: float
    spikes: Floats
    num_samples: float | None = None
    beta: int = 1
    general_bulk: GeneralizedMarchenkoPastur | None = None

    __repr__ = told

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", real("ratio", self.ratio, above=0))
        spikes = finite_array("spikes", self.spikes, ndim=1)
        if (spikes <= 0).any():
            raise ValueError(f"`spikes` must be > 0; got {spikes.min()}")
        object.__setattr__(self, "spikes", spikes.copy())
        if self.num_samples is not None:
            object.__setattr__(self, "num_samples", real("num_samples", self.num_samples, at_least=1))
        choice("beta", self.beta, (1, 2, 4))
        if self.general_bulk is not None:
            if not isinstance(self.general_bulk, GeneralizedMarchenkoPastur):
                raise TypeError(
                    f"`general_bulk` must be a GeneralizedMarchenkoPastur; got {type(self.general_bulk).__name__}"
                )
            if not self.general_bulk.covariance:
                raise ValueError("`general_bulk` must be made by `sample_covariance`; got the law of sum t x x^T")
            if abs(self.general_bulk.ratio - self.ratio) > 1e-9 * self.ratio:
                raise ValueError(f"`general_bulk` must have ratio {self.ratio:g}; got {self.general_bulk.ratio:g}")

    @classmethod
    def on_bulk(
        cls, bulk: GeneralizedMarchenkoPastur, spikes: npt.ArrayLike, num_samples: float | None = None, beta: int = 1
    ) -> SpikedCovarianceLaw:
        """Spikes on a general population.

        Parameters
        ----------
        bulk : GeneralizedMarchenkoPastur
            From `GeneralizedMarchenkoPastur.sample_covariance`.
        spikes, num_samples, beta
            As in the class; spikes may lie anywhere, between bands too.

        Returns
        -------
        SpikedCovarianceLaw

        Examples
        --------
        >>> bulk = GeneralizedMarchenkoPastur.sample_covariance([1.0, 10.0], ratio=0.1)
        >>> law = SpikedCovarianceLaw.on_bulk(bulk, [4.0, 20.0])
        >>> print(law.bulk.support.round(3).tolist(), law.locations.round(3))
        [[0.561, 1.427], [6.085, 15.027]] [ 3.733 21.053]
        """
        instance("bulk", bulk, GeneralizedMarchenkoPastur, "a GeneralizedMarchenkoPastur")
        return cls(bulk.ratio, np.asarray(spikes), num_samples, beta, bulk)

    @cached_property
    def bulk(self) -> MarchenkoPastur | GeneralizedMarchenkoPastur:
        """Law of the eigenvalues of S without the spikes."""
        return MarchenkoPastur(self.ratio) if self.general_bulk is None else self.general_bulk

    @property
    def threshold(self) -> float:
        """Spikes above it give outliers right of the bulk: 1 + sqrt(ratio) for the plain bulk."""
        return 1 + self.ratio**0.5 if self.general_bulk is None else self.general_bulk.thresholds[1]

    @property
    def left_threshold(self) -> float:
        """Spikes below it give outliers left of the bulk: 1 - sqrt(ratio) for the plain bulk, 0 if ratio >= 1."""
        return max(0.0, 1 - self.ratio**0.5) if self.general_bulk is None else self.general_bulk.thresholds[0]

    @cached_property
    def _map(self) -> tuple[Floats, Floats]:
        """Location and its derivative in the spike, as if all were outliers; an outlier iff the derivative is > 0."""
        if self.general_bulk is not None:
            return self.general_bulk._map(self.spikes)
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = self.ratio / (self.spikes - 1)
            return self.spikes * (1 + pull), 1 - pull / (self.spikes - 1)

    @property
    def is_outlier(self) -> Bools:
        """Whether each spike gives an eigenvalue off the bulk, bool of shape (k,)."""
        result: Bools = self._map[1] > 0
        return result

    @cached_property
    def locations(self) -> Floats:
        """Limit of the eigenvalue of each spike, float64 of shape (k,).

        ell (1 + ratio / (ell - 1)) for an outlier; else the edge of the bulk that it sticks to, the right one for
        ell >= 1. On a general bulk a spike among the population of a band has no edge: its place in the band is given.
        """
        if self.general_bulk is None:
            low, high = self.bulk.support
            place = np.where(self.spikes < 1, low, high)
        else:
            place = self._places
        result: Floats = np.where(self.is_outlier, self._map[0], place)
        return result

    @cached_property
    def _places(self) -> Floats:
        """Where spikes that are no outliers stay on a general bulk; NaN for outliers."""
        assert self.general_bulk is not None
        places: Floats = self.general_bulk.place(self.spikes)
        return places

    @property
    def overlaps(self) -> Floats:
        """Squared cosine between each outlier's eigenvector and the spike's (the spike's space, if repeated).

        (1 - ratio / (ell - 1)^2) / (1 + ratio / (ell - 1)), in general ell map'(ell) / map(ell); 0 for no outlier.
        """
        location, slope = self._map
        result: Floats = np.zeros(self.spikes.size)
        outlier = self.is_outlier
        result[outlier] = self.spikes[outlier] * slope[outlier] / location[outlier]
        return result

    @property
    def _dimension(self) -> tuple[str, float | None]:
        return "num_samples", self.num_samples

    def _variances(self) -> Floats:
        result: Floats = 2 / self.beta * self.spikes**2 * self._map[1]
        return result

    def _sides(self) -> tuple[Bools, Bools]:
        if self.general_bulk is None:
            return self.spikes < 1, self.spikes >= 1
        low, high = self.general_bulk.support[0, 0], self.general_bulk.support[-1, 1]
        return self._places == low, self._places == high

    def edge(self, side: str = "right") -> tuple[float, float]:
        """Centre and scale of the Tracy-Widom fluctuations of the bulk's extreme eigenvalue.

        The largest is centre + scale * TW in law, the smallest (nonzero) centre - scale * TW, TW the `TracyWidom` of
        this beta (``convention="matrix"``).

        Parameters
        ----------
        side : {"right", "left"}

        Returns
        -------
        centre, scale : float
            For the plain bulk with n and p shifted by 1/2 - 1/beta, which makes the right edge accurate to O(n^(-2/3)).
            The left edge is so accurate only for log(eigenvalue). A hard left edge (p = n) has scale 0. For a general
            bulk of the first order, O(n^(-1/3)).

        Raises
        ------
        ValueError
            If `num_samples` was not given.

        References
        ----------
        Johnstone (2001), theorem 1.1; Ma (2012), theorems 1 and 2; El Karoui (2007), theorem 1.
        """
        sign = 1 if choice("side", side, ("right", "left")) == "right" else -1
        n = self._size()
        if self.general_bulk is not None:
            where = (-1, 1) if sign > 0 else (0, 0)
            shrink = (self.general_bulk.num_parameters / n) ** (2 / 3)
            return (
                float(self.general_bulk.support[where]),
                float(self.general_bulk.edge_scales[where]) * shrink,
            )
        # A dimension below 1/2 is none; the limit serves there.
        roots = [max(size + edge_shift(self.beta), 0.5) ** 0.5 for size in (n, self.ratio * n)]
        spread = roots[0] + sign * roots[1]
        scale = abs(spread) * abs(1 / roots[1] + sign / roots[0]) ** (1 / 3)
        return spread**2 / n, scale / n


@dataclasses.dataclass(frozen=True, eq=False)
class SpikedWignerLaw(Spikes):
    """Outliers of W / sqrt(n) + sum_j theta_j v_j v_j^T, W symmetric with off-diagonal E |entry|^2 = sigma^2.

    A spike theta leaves the semicircle [-2 sigma, 2 sigma] iff |theta| > sigma, to the side of its sign.

    Parameters
    ----------
    sigma : float
        Standard deviation of an off-diagonal entry of W, > 0 (diagonal variance 2 sigma^2 / beta).
    spikes : array_like, shape (k,)
        theta_j, of either sign; v_j orthonormal. Repeat one that is repeated.
    n : float, optional
        Of the matrix, which sets the size of fluctuations; `locations_std` and `edge` need it.
    beta : {1, 2, 4}
        W real, complex or quaternion.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Limits for n -> infinity and k fixed. The Gaussian fluctuations are those of Gaussian W, or of any W if the v_j are
    spread over many entries: spikes along a coordinate see the law of that entry (Capitaine, Donati-Martin and Feral
    2009).

    References
    ----------
    Peche (2006), theorem 1.1; Benaych-Georges and Nadakuditi (2011), theorems 2.1 and 2.2; Capitaine, Donati-Martin and
    Feral (2009). Fort and Ganguli (2019), section 3.1, see outliers of a Hessian this way.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.SpikedWignerLaw(sigma=1.0, spikes=[-3.0, 0.5, 2.0], n=1000)
    >>> print(law.locations.round(4), law.overlaps.round(4))
    [-3.3333  2.      2.5   ] [0.8889 0.     0.75  ]
    >>> law.locations_std.round(4)
    array([0.0422, 0.0127, 0.0387])
    """

    sigma: float = 1.0
    spikes: Floats = dataclasses.field(default_factory=lambda: np.array([2.0]))
    n: float | None = None
    beta: int = 1

    __repr__ = told

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", real("sigma", self.sigma, above=0))
        object.__setattr__(self, "spikes", finite_array("spikes", self.spikes, ndim=1).copy())
        if self.n is not None:
            object.__setattr__(self, "n", real("n", self.n, at_least=1))
        choice("beta", self.beta, (1, 2, 4))

    @property
    def bulk(self) -> Semicircle:
        """Law of the eigenvalues without the spikes."""
        return Semicircle(self.sigma)

    @property
    def threshold(self) -> float:
        """Spikes above it in absolute value give outliers: sigma."""
        return self.sigma

    @property
    def is_outlier(self) -> Bools:
        """Whether each spike gives an eigenvalue off the bulk, bool of shape (k,)."""
        result: Bools = np.abs(self.spikes) > self.sigma
        return result

    @property
    def locations(self) -> Floats:
        """Limit of the eigenvalue of each spike, float64 of shape (k,): theta + sigma^2 / theta for an outlier, else
        the edge on the side of its sign (the right one for 0).
        """
        edge = np.where(self.spikes < 0, -2.0, 2.0) * self.sigma
        with np.errstate(divide="ignore"):
            return np.where(self.is_outlier, self.spikes + self.sigma**2 / self.spikes, edge)

    @property
    def overlaps(self) -> Floats:
        """Squared cosine between each outlier's eigenvector and the spike's (the spike's space, if repeated).

        1 - sigma^2 / theta^2; 0 for no outlier.
        """
        with np.errstate(divide="ignore"):
            return np.maximum(1 - (self.sigma / self.spikes) ** 2, 0.0)

    @property
    def _dimension(self) -> tuple[str, float | None]:
        return "n", self.n

    def _variances(self) -> Floats:
        result: Floats = 2 / self.beta * self.sigma**2 * self.overlaps
        return result

    def _sides(self) -> tuple[Bools, Bools]:
        return self.spikes < 0, self.spikes >= 0

    def edge(self, side: str = "right") -> tuple[float, float]:
        """Centre and scale of the Tracy-Widom fluctuations of the bulk's extreme eigenvalue.

        The largest is centre + scale * TW in law, the smallest centre - scale * TW, TW the `TracyWidom` of this beta
        (``convention="matrix"``).

        Parameters
        ----------
        side : {"right", "left"}

        Returns
        -------
        centre, scale : float
            With n shifted by 1/2 - 1/beta, accurate to O(n^(-2/3)).

        Raises
        ------
        ValueError
            If `n` was not given.

        References
        ----------
        Johnstone and Ma (2012), theorem 1.
        """
        sign = 1 if choice("side", side, ("right", "left")) == "right" else -1
        n = self._size()
        shifted = n + edge_shift(self.beta)  # 1/2 at least
        return sign * 2 * self.sigma * (shifted / n) ** 0.5, self.sigma * shifted ** (-1 / 6) / n**0.5
