"""The paper's gradient law, uneven over directions, examples and logits: five numbers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri

from rmtland._arguments import real
from rmtland.landscape.anisotropic import AnisotropicGradients, StructuredGradients
from rmtland.landscape.covariance import ResidualCovariance
from rmtland.landscape.gradient_laws import LONGEST, Gradients, QValues
from rmtland.landscape.weighted_rows import WeightedRows
from rmtland.logits.curvature_moments import curvature_moments
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.gram import LogitGradientGram

Floats = npt.NDArray[np.float64]

MOST_DIRECTIONS = 2048
"""Of a power law, each a column of a draw; flatter ones of the same effective dimension have fewer."""
EXPONENTS = (0.8, 0.6, 0.4, 0.2, 0.0)
"""Of the power laws that stand for an effective dimension, the first that D has room for."""


@dataclass(frozen=True)
class UnevenGradients(StructuredGradients):
    """dz_k/dW = c_k + r_mu E_k: residuals in few directions, examples and logits of unequal lengths.

    Parameters
    ----------
    mean_length, residual_length : float
        Root mean square lengths >= 0, as of `ClusteredGradients`.
    effective_dimension : float
        (tr Sigma)^2 / tr Sigma^2 >= 1 of the residuals' covariance in parameter space, a power law; inf for all
        directions alike, whatever D is.
    length_spread : float
        Coefficient of variation >= 0 of the squared lengths r_mu^2, whose mean is 1: quantiles of a lognormal law, the
        same N in every draw, in an order that has nothing to do with the labels.
    logit_spread : float
        Coefficient of variation >= 0 of the eigenvalues of the covariance across logits, of the c_k and of the E_k
        alike: quantiles of a lognormal law of mean 1 in fixed directions that prefer no logit.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of range, or no number.

    Notes
    -----
    What `ClusteredGradients` lacks of networks: residuals of different examples share directions, single examples have
    logit gradients several times as long as others, and a last hidden layer not much wider than C leaves some
    combinations of logits shorter than others. Nothing here belongs to an example or a class, so that it goes with any
    logit law.

    References
    ----------
    Fort and Ganguli (2019), eqs. (14)-(15), for the law without the last three numbers.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.UnevenGradients(1.0, 0.7, effective_dimension=40, length_spread=1.0)
    >>> model = rl.LandscapeModel(300, 10, 10**6, rl.UnfrozenLogits(3.0, 4.0, 3.0), law)
    >>> model.spectrum(rng=0).outliers().shape
    (9,)
    """

    mean_length: float = 1.0
    residual_length: float = 0.7
    effective_dimension: float = math.inf
    length_spread: float = 0.0
    logit_spread: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mean_length", "residual_length"):
            object.__setattr__(self, name, real(name, getattr(self, name), at_least=0, at_most=LONGEST))
        dimension = self.effective_dimension
        if not (isinstance(dimension, float) and dimension == math.inf):  # np.float64 is one
            dimension = real("effective_dimension", dimension, at_least=1)
        object.__setattr__(self, "effective_dimension", dimension)
        for name in ("length_spread", "logit_spread"):
            object.__setattr__(self, name, real(name, getattr(self, name), at_least=0, at_most=1e6))

    @classmethod
    def from_source(cls, source: LogitGradients | LogitGradientGram) -> UnevenGradients:
        """The law with the measured `curvature_moments`.

        Parameters
        ----------
        source : LogitGradients or LogitGradientGram

        Returns
        -------
        UnevenGradients

        Raises
        ------
        ValueError
            Where every example is frozen, so that there is no curvature to weigh by.
        """
        found = curvature_moments(source)
        if math.isnan(found.mean_length):
            raise ValueError("`source` must leave some curvature; got probabilities that are 0 and 1 in every example")
        return cls(*dataclasses.astuple(found)[:5])

    @property
    def num_numbers(self) -> int:
        """How many numbers the law is given."""
        given = (self.mean_length > 0, self.residual_length > 0, self.effective_dimension < math.inf)
        return sum(given) + (self.length_spread > 0) + (self.logit_spread > 0)

    def check(self, num_examples: int, num_classes: int) -> None:
        """A law of any number of examples and classes."""

    def at(self, num_examples: int, num_classes: int) -> AnisotropicGradients:
        """The same law with its N lengths written out.

        Parameters
        ----------
        num_examples, num_classes : int
            N, C.

        Returns
        -------
        AnisotropicGradients
        """
        law = AnisotropicGradients.clustered(
            num_classes, self.mean_length, self.residual_length, 0.0, _OfDimension(dimension=self.effective_dimension)
        )
        lengths = _lengths(num_examples, self.length_spread) if self.length_spread > 0 else None
        if self.logit_spread == 0 or num_classes == 2:
            return replace(law, residual_scales=lengths)
        across = _across_logits(num_classes, self.logit_spread)
        gram = self.mean_length**2 * across
        return replace(law, mean_gram=gram, residual_scales=lengths, logit_covariance=across)

    def weighted_rows(self, logits: Floats, labels: npt.NDArray[np.int64], tolerance: float = 1e-10) -> WeightedRows:
        """The rows of the factor of G, given logits (N, C) and labels (N,)."""
        return self.at(*logits.shape).weighted_rows(logits, labels, tolerance)

    def q_values(self, num_classes: int, labels: npt.ArrayLike | None = None) -> QValues:
        """The clustering that draws of this law have, to first order in one over the effective dimension."""
        n = 1000 if labels is None else np.size(labels)
        squares = np.ones(1) if self.length_spread == 0 else np.square(_lengths(n, self.length_spread))
        whole = self.mean_length**2 + self.residual_length**2 * squares
        same = float(np.mean(self.mean_length / np.sqrt(whole))) ** 2 if whole.min() > 0 else math.nan
        if self.logit_spread == 0 or num_classes == 2:
            return QValues(same, same, 0.0)
        across = _across_logits(num_classes, self.logit_spread)
        lengths = np.sqrt(np.diag(across))
        cosines = (across / np.outer(lengths, lengths))[~np.eye(num_classes, dtype=bool)]
        return QValues(same, same, same * float(cosines.mean()))

    def draw_gradients(
        self, labels: npt.NDArray[np.int64], num_classes: int, num_parameters: int, rng: np.random.Generator
    ) -> Gradients:
        """Mean logit gradients (C, D) and residuals (N, C, D)."""
        return self.at(labels.shape[0], num_classes).draw_gradients(labels, num_classes, num_parameters, rng)


@lru_cache(maxsize=16)
def _lengths(count: int, spread: float) -> Floats:
    """R_mu, whose squares have mean 1 and this coefficient of variation, or nearly the largest that so many have."""
    normal = ndtri((np.arange(count) + 0.5) / count)

    def squares(sigma: float) -> Floats:
        exponents = sigma * (normal - normal[-1])
        values = np.exp(exponents)
        found: Floats = values / values.mean()
        return found

    def excess(sigma: float) -> float:
        return float(squares(sigma).std()) - spread

    most = 50.0
    sigma = brentq(excess, 0.0, most) if excess(most) > 0 else most
    lengths: Floats = np.random.default_rng(0).permutation(np.sqrt(squares(sigma)))
    lengths.flags.writeable = False  # kept for the next call
    return lengths


@lru_cache(maxsize=16)
def _across_logits(num_classes: int, spread: float) -> Floats:
    """A covariance (C, C) with 1 as an eigenvector, of eigenvalue 1, and this spread of the others about their mean 1.

    In turned directions, the same for every draw.
    """
    normal = np.random.default_rng(0).standard_normal((num_classes, num_classes))
    normal[:, 0] = 1.0
    basis = np.linalg.qr(normal)[0]
    values = np.append(1.0, np.square(_lengths(num_classes - 1, spread)))
    found: Floats = (basis * values) @ basis.T
    found.flags.writeable = False  # kept for the next call
    return found


@dataclass(frozen=True, eq=False)
class _OfDimension(ResidualCovariance):
    """`covariance_of_dimension` of whatever D it is asked for."""

    dimension: float = math.inf

    def shares(self, num_parameters: int) -> tuple[Floats, Floats]:
        """Of trace 1 in D dimensions, and how many directions have each."""
        return covariance_of_dimension(self.dimension, num_parameters).shares(num_parameters)


def covariance_of_dimension(dimension: float, num_parameters: float = math.inf) -> ResidualCovariance:
    """A power law of this effective dimension, as steep as D has room for; all D directions alike where it has none."""
    if not dimension < num_parameters:
        return ResidualCovariance()
    dimension = min(max(dimension, 1.0), 1e6)
    room = int(min(num_parameters, MOST_DIRECTIONS))
    # Asked of as many directions as there are: a steep law of a large dimension would fill the memory.
    fitting = (e for e in EXPONENTS if ResidualCovariance.power_law(e, room).effective_dimension >= dimension)
    return ResidualCovariance.from_effective_dimension(dimension, next(fitting, EXPONENTS[-1]))
