"""Gaussian symmetric matrices, without and with spikes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, choice
from rmtland._arrays import told
from rmtland.ensembles._checks import dimension, dyson, spike_array
from rmtland.ensembles._ensemble import Ensemble, normal_matrix
from rmtland.ensembles.kernels import Floats
from rmtland.ensembles.tridiagonal import TRI
from rmtland.laws.semicircle import Semicircle
from rmtland.laws.spikes import SpikedWignerLaw


class _Gaussian(Ensemble):
    """H = W / sqrt(n), W Gaussian with off-diagonal E abs(entry)^2 = 1 and diagonal variance 2 / beta."""

    n: int
    beta: float

    def _check(self) -> None:
        object.__setattr__(self, "n", dimension("n", self.n))
        object.__setattr__(self, "beta", dyson(self.beta))

    @property
    def _model(self) -> tuple[int, int, int]:
        return TRI, self.n, self.n

    @property
    def _unit(self) -> float:
        return 1 / math.sqrt(self.n)

    @property
    def _num_zeros(self) -> int:
        return 0

    @property
    def _thetas(self) -> Floats:
        return np.empty(0)

    @property
    def _spikes(self) -> Floats:
        return self._thetas * math.sqrt(self.n)

    @property
    def _dense_need(self) -> float:
        return 3.0 * self.n**2

    def _dense(self, rng: Seed, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        n = self.n
        x = normal_matrix((n, n), self.beta, rng, dtype)
        x = (x + x.conj().T) / x.real.dtype.type(math.sqrt(2 * n))
        for i, theta in enumerate(self._thetas):
            for j in range(i, x.shape[0], n):
                x[j, j] += theta
        return np.asarray(x)


@dataclasses.dataclass(frozen=True)
class GaussianEnsemble(_Gaussian):
    """Gaussian orthogonal, unitary or symplectic ensemble, scaled so that the semicircle has radius 2.

    H = W / sqrt(n), W symmetric with off-diagonal E abs(entry)^2 = 1 and diagonal variance 2 / beta.

    Parameters
    ----------
    n : int, >= 1
        Order of the matrix.
    beta : float, > 0
        1 real, 2 complex, 4 quaternion (each eigenvalue is given once); others for all but `matrix` (the beta-Hermite
        ensemble).

    Raises
    ------
    ValueError
        If n is below 1 or beta is not positive.

    Notes
    -----
    Exact in law at any size: tridiagonal, the diagonal of variance 2 / beta where the squared off-diagonal is chi^2 of
    beta k degrees of freedom over beta. With diagonal variance 1 the bulk would look right and the edge be wrong.

    References
    ----------
    Dumitriu and Edelman (2002), theorem 2.1.

    Examples
    --------
    >>> import rmtland as rl
    >>> ensemble = rl.GaussianEnsemble(1000, beta=2)
    >>> ensemble.law().support
    (-2.0, 2.0)
    >>> print(f"{(ensemble.eigenvalues(rng=0) ** 2).mean():.2f}")
    1.00
    """

    n: int
    beta: float = 1

    def __post_init__(self) -> None:
        self._check()

    def law(self) -> Semicircle:
        """Limit of the spectral distribution for n -> infinity."""
        return Semicircle(1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class SpikedWigner(_Gaussian):
    """A Gaussian matrix with a few added directions: W / sqrt(n) + sum_j theta_j v_j v_j^T.

    W as in `GaussianEnsemble`, semicircle of radius 2; v_j orthonormal, the first coordinates.

    Parameters
    ----------
    n : int, >= 1
        Order of the matrix.
    spikes : array_like, shape (r,)
        theta_j of either sign; r <= n. They give outliers where abs(theta_j) > 1.
    beta : float, > 0
        1 real, 2 complex; with at most one spike any (several make a band, which exists for these two).

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Bloemendal and Virag (2013), section 1; (2016), section 1. Fort and Ganguli (2019), section 3.1, take the Hessian
    for such a matrix.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.SpikedWigner(10**8, spikes=[2.0])
    >>> print(model.largest(rng=0).round(2), model.law().locations)
    [2.5] [2.5]
    """

    n: int
    spikes: Floats = dataclasses.field(default_factory=lambda: np.array([2.0]))
    beta: float = 1

    __repr__ = told

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "spikes", spike_array(self.spikes, self.n, "n", positive=False, beta=self.beta))

    @property
    def _thetas(self) -> Floats:
        return self.spikes

    def law(self) -> SpikedWignerLaw:
        """Limits of outliers, their fluctuations and overlaps, with the law of the bulk.

        Raises
        ------
        ValueError
            If beta is not 1, 2 or 4.
        """
        beta = int(choice("beta", self.beta, (1, 2, 4)))
        return SpikedWignerLaw(1.0, self.spikes, n=self.n, beta=beta)
