"""Gradient laws: how the logit gradients dz/dW of a model are drawn, given the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rmtland._arguments import real

Gradients = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


@runtime_checkable
class GradientLaw(Protocol):
    """Anything that draws mean logit gradients (C, D) and residuals (N, C, D)."""

    def draw_gradients(
        self, labels: npt.NDArray[np.int64], num_classes: int, num_parameters: int, rng: np.random.Generator
    ) -> Gradients:
        """Mean logit gradients and residuals of one draw."""


@dataclass(frozen=True)
class ClusteredGradients:
    """dz_k/dW at example mu = c_k + E_k^mu, both normal with independent components.

    Parameters
    ----------
    mean_length : float
        sigma_c sqrt(D) >= 0, the root mean square length of a mean logit gradient c_k.
    residual_length : float
        sigma_E sqrt(D) >= 0, that of a residual.

    Raises
    ------
    ValueError, TypeError
        For a length that is negative, not finite, or no number.

    Notes
    -----
    Lengths rather than component scales, so that D can be changed alone. The clustering of logit gradients is
    q_SL = SNR / (1 + SNR) with SNR = (mean_length / residual_length)^2.

    References
    ----------
    Fort and Ganguli (2019), eqs. (14)-(15) and sec. 4.

    Examples
    --------
    >>> import rmtland as rl
    >>> round(rl.ClusteredGradients(mean_length=1.0, residual_length=0.7).snr, 4)
    2.0408
    """

    mean_length: float = 1.0
    residual_length: float = 0.7

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean_length", real("mean_length", self.mean_length, at_least=0))
        object.__setattr__(self, "residual_length", real("residual_length", self.residual_length, at_least=0))

    @property
    def snr(self) -> float:
        """(mean_length / residual_length)^2; inf without residuals, NaN where both are zero."""
        if self.residual_length > 0:
            return (self.mean_length / self.residual_length) ** 2
        return math.inf if self.mean_length > 0 else math.nan

    def draw_gradients(
        self, labels: npt.NDArray[np.int64], num_classes: int, num_parameters: int, rng: np.random.Generator
    ) -> Gradients:
        """Mean logit gradients (C, D) and residuals (N, C, D)."""
        means = rng.standard_normal((num_classes, num_parameters))
        means *= self.mean_length / math.sqrt(num_parameters)
        residuals = rng.standard_normal((labels.shape[0], num_classes, num_parameters))
        residuals *= self.residual_length / math.sqrt(num_parameters)
        return means, residuals


def check_gradient_law(law: object) -> None:
    """TypeError for something that is no gradient law."""
    # A class has the method too, but is no law until it has parameters.
    if not isinstance(law, GradientLaw) or isinstance(law, type):
        got = law.__name__ if isinstance(law, type) else type(law).__name__
        raise TypeError(f"`gradients` must be a gradient law such as ClusteredGradients(); got {got}")
