"""Sample covariance matrices of Gaussian data, without and with spikes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, choice
from rmtland._arrays import told
from rmtland.ensembles._checks import dimension, dyson, spike_array
from rmtland.ensembles._ensemble import Ensemble, normal_matrix
from rmtland.ensembles.kernels import Floats
from rmtland.ensembles.tridiagonal import QD
from rmtland.laws.marchenko_pastur import MarchenkoPastur
from rmtland.laws.spikes import SpikedCovarianceLaw


class _Covariance(Ensemble):
    """S = Sigma^(1/2) X X^T Sigma^(1/2) / n, X p x n standard normal."""

    num_features: int
    num_samples: int
    beta: float

    def _check(self) -> None:
        object.__setattr__(self, "num_features", dimension("num_features", self.num_features))
        object.__setattr__(self, "num_samples", dimension("num_samples", self.num_samples))
        object.__setattr__(self, "beta", dyson(self.beta))

    @property
    def ratio(self) -> float:
        """Features over samples, p / n."""
        return self.num_features / self.num_samples

    @property
    def _model(self) -> tuple[int, int, int]:
        return QD, self.num_samples, self.num_features

    @property
    def _unit(self) -> float:
        return 1 / self.num_samples

    @property
    def _num_zeros(self) -> int:
        return max(0, self.num_features - self.num_samples)

    @property
    def _dense_need(self) -> float:
        return float(self.num_features) * (self.num_features + 3.0 * self.num_samples)

    def _dense(self, rng: Seed, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        p, n = self.num_features, self.num_samples
        x = normal_matrix((p, n), self.beta, rng, dtype)
        roots = np.ones(p)
        roots[: self._spikes.size] = np.sqrt(self._spikes)
        x *= np.tile(roots, x.shape[0] // p).astype(x.real.dtype)[:, None]
        product = x @ x.conj().T
        product /= n
        return np.asarray(product)


@dataclasses.dataclass(frozen=True)
class Wishart(_Covariance):
    """Sample covariance S = X X^T / n of white Gaussian data, X p x n with independent entries of mean square 1.

    Parameters
    ----------
    num_features : int, >= 1
        p.
    num_samples : int, >= 1
        n; may be below p, then p - n eigenvalues are 0.
    beta : float, > 0
        1 real, 2 complex, 4 quaternion; others for all but `matrix` (the beta-Laguerre ensemble).

    Raises
    ------
    ValueError
        If a size is below 1 or beta is not positive.

    Notes
    -----
    Exact in law at any size. The bidiagonal model gives all eigenvalues at O(min(p, n)^2), the extreme ones at soft
    edges at O(min(p, n)^(1/3)).

    References
    ----------
    Dumitriu and Edelman (2002), theorem 3.4. Edelman (1988), theorem 4.1 and corollary 5.1 (smallest eigenvalue of
    square matrices: `smallest` draws from its law from 2^23 rows on, for beta = 1 in the limit, with relative error
    O(1/n)).

    Examples
    --------
    >>> import rmtland as rl
    >>> wishart = rl.Wishart(num_features=1_000_000, num_samples=2_000_000)
    >>> wishart.law()
    MarchenkoPastur(ratio=0.5, sigma=1.0)
    >>> draws = wishart.largest(size=20, rng=0)
    >>> draws.shape, bool(abs(draws - wishart.law().support[1]).max() < 2e-3)
    ((20, 1), True)
    """

    num_features: int
    num_samples: int
    beta: float = 1

    def __post_init__(self) -> None:
        self._check()

    @property
    def _spikes(self) -> Floats:
        return np.empty(0)

    def law(self) -> MarchenkoPastur:
        """Limit of the spectral distribution for p, n -> infinity at fixed p / n."""
        return MarchenkoPastur(self.ratio)


@dataclasses.dataclass(frozen=True, eq=False)
class SpikedCovariance(_Covariance):
    """Sample covariance of Gaussian data whose population covariance has a few eigenvalues other than 1.

    S = Sigma^(1/2) X X^T Sigma^(1/2) / n, X p x n with independent entries of mean square 1, Sigma = diag(spikes, 1,
    ..., 1).

    Parameters
    ----------
    num_features : int, >= 1
        p.
    num_samples : int, >= 1
        n.
    spikes : array_like, shape (r,)
        Population eigenvalues, below 1 too; r <= p. From 1e-15 to 1e15, several within a factor of 1e10 of each other
        and of 1.
    beta : float, > 0
        1 real, 2 complex; with at most one spike any (several make a band, which exists for these two).

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Exact in law at any size, through the threshold too. One spike costs what `Wishart` does; r make a band of width r,
    r^2 times as dear.

    References
    ----------
    Bloemendal and Virag (2013), section 1; (2016), section 1.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.SpikedCovariance(10**9, 2 * 10**9, spikes=[4.0])
    >>> value, overlap = model.largest(rng=0), model.eigenvectors_overlap(rng=0)
    >>> print(value.round(3), model.law().locations.round(3), overlap.round(3), model.law().overlaps.round(3))
    [4.667] [4.667] [[0.81]] [0.81]
    """

    num_features: int
    num_samples: int
    spikes: Floats = dataclasses.field(default_factory=lambda: np.array([4.0]))
    beta: float = 1

    __repr__ = told

    def __post_init__(self) -> None:
        self._check()
        spikes = spike_array(self.spikes, self.num_features, "num_features", positive=True, beta=self.beta)
        object.__setattr__(self, "spikes", spikes)

    @property
    def _spikes(self) -> Floats:
        return self.spikes

    def law(self) -> SpikedCovarianceLaw:
        """Limits of outliers, their fluctuations and overlaps, with the law of the bulk.

        Raises
        ------
        ValueError
            If beta is not 1, 2 or 4.
        """
        beta = int(choice("beta", self.beta, (1, 2, 4)))
        return SpikedCovarianceLaw(self.ratio, self.spikes, num_samples=self.num_samples, beta=beta)
