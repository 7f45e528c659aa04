"""Gradient laws: how the logit gradients dz/dW of a model are drawn, given the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array, integer, real
from rmtland._arrays import told

Gradients = tuple[npt.NDArray[np.float64], ...]
"""Mean logit gradients (C, D), residuals (N, C, D) and, where a law has them, class gradients (C, C, D)."""


@runtime_checkable
class GradientLaw(Protocol):
    """Anything that draws mean logit gradients, residuals and, if it has them, class gradients."""

    def draw_gradients(
        self, labels: npt.NDArray[np.int64], num_classes: int, num_parameters: int, rng: np.random.Generator
    ) -> Gradients:
        """Mean logit gradients (C, D) and residuals (N, C, D) of one draw; class gradients (C, C, D) third, if any."""


class QValues(NamedTuple):
    """Mean cosines between logit gradients of different examples, as a law predicts them.

    The names are those of `Clustering`, which measures them (Fort and Ganguli 2019, eqs. (11)-(13)).
    """

    same_logit_same_class: float
    same_logit: float
    different_logits: float


LONGEST = 1e38
"""Of the lengths: high powers of them are formed."""


@dataclass(frozen=True)
class ClusteredGradients:
    """dz_k/dW at example mu = r_k c_k + d_{k,y(mu)} + E_k^mu, all normal with independent components.

    The paper's law has c and E alone: class_length = 0, all r_k = 1.

    Parameters
    ----------
    mean_length : float
        sigma_c sqrt(D) >= 0, the root mean square length of a mean logit gradient c_k.
    residual_length : float
        sigma_E sqrt(D) >= 0, that of a residual.
    class_length : float
        sigma_d sqrt(D) >= 0, that of a class gradient d_{k,y}, which all examples of class y share in logit k.
    relative_lengths : sequence of C floats, optional
        r_k >= 0, by which the c_k are stretched: mean_length r_k is the root mean square length of the mean logit
        gradient of class k. All 1 by default; kept as a tuple.

    Raises
    ------
    ValueError, TypeError
        For a length that is negative, not finite, or no number.

    Notes
    -----
    Lengths rather than component scales, so that D can be changed alone. The clustering of logit gradients is
    q_SL = SNR / (1 + SNR) with SNR = (mean_length / residual_length)^2; `q_values` has the general case. Class
    gradients lift q_SLSC above q_SL, as in networks, and add C (C - 1) directions between outliers and bulk. Unequal
    r_k do not add an outlier (against the caption of the paper's fig. 5): A 1 = 0 leaves C - 1 whatever the lengths.

    References
    ----------
    Fort and Ganguli (2019), eqs. (14)-(15) and sec. 4; Papyan (2019) for class-conditional means.

    Examples
    --------
    >>> import rmtland as rl
    >>> round(rl.ClusteredGradients(mean_length=1.0, residual_length=0.7).snr, 4)
    2.0408
    >>> law = rl.ClusteredGradients(mean_length=1.0, residual_length=0.3, class_length=0.5)
    >>> print([round(q, 3) for q in law.q_values(num_classes=10)])
    [0.933, 0.765, 0.0]
    """

    mean_length: float = 1.0
    residual_length: float = 0.7
    class_length: float = 0.0
    relative_lengths: tuple[float, ...] | None = None

    __repr__ = told

    def __post_init__(self) -> None:
        for name in ("mean_length", "residual_length", "class_length"):
            object.__setattr__(self, name, real(name, getattr(self, name), at_least=0))
            real(name, getattr(self, name), at_most=LONGEST)
        if self.relative_lengths is not None:
            lengths = finite_array("relative_lengths", self.relative_lengths, ndim=1)
            if (lengths < 0).any():
                raise ValueError(f"`relative_lengths` must be >= 0; got {lengths.min():g}")
            object.__setattr__(self, "relative_lengths", tuple(lengths.tolist()))

    def check(self, num_classes: int) -> None:
        """ValueError where there are `relative_lengths` for another number of classes."""
        if self.relative_lengths is not None and len(self.relative_lengths) != num_classes:
            raise ValueError(
                f"`relative_lengths` must have {num_classes} entries, one per class; got {len(self.relative_lengths)}"
            )

    def mean_lengths(self, num_classes: int) -> npt.NDArray[np.float64]:
        """Root mean square lengths of the mean logit gradients, mean_length r_k, (C,)."""
        self.check(integer("num_classes", num_classes, at_least=1))
        relative = np.ones(num_classes) if self.relative_lengths is None else np.array(self.relative_lengths)
        lengths: npt.NDArray[np.float64] = self.mean_length * relative
        return lengths

    @property
    def snr(self) -> float:
        """(mean_length / residual_length)^2; inf without residuals, NaN where both are zero.

        Of the lengths alone, whatever `class_length` and `relative_lengths` are.
        """
        if self.residual_length > 0:
            return (self.mean_length / self.residual_length) ** 2
        return math.inf if self.mean_length > 0 else math.nan

    def q_values(self, num_classes: int, labels: npt.ArrayLike | None = None) -> QValues:
        """The clustering that draws of this law have, to first order in 1/D.

        Parameters
        ----------
        num_classes : int
            C.
        labels : array_like of int, shape (N,), optional
            Labels in 0..C-1 of at least two examples: unbalanced classes make pairs of one class more frequent. By
            default many examples in classes of equal size.

        Returns
        -------
        QValues
            q_SLSC = (s^2 + sigma_d^2) / (s^2 + sigma_d^2 + sigma_E^2) and q_SL = (s^2 + pi sigma_d^2) / (the same),
            s = r_k sigma_c, averaged over the logits k, pi the share of pairs of examples that are of one class;
            q_DL = 0. Logits without any length are left out, NaN where that leaves none.

        Raises
        ------
        ValueError
            For fewer than two labels, or labels out of range.
        """
        count = integer("num_classes", num_classes, at_least=2)
        same_class = 1.0 / count if labels is None else _same_class_share(labels, count)
        means = self.mean_lengths(count) ** 2
        total = means + self.class_length**2 + self.residual_length**2
        some = total > 0
        if not some.any():
            return QValues(math.nan, math.nan, math.nan)
        means, total = means[some], total[some]
        return QValues(
            float(np.mean((means + self.class_length**2) / total)),
            float(np.mean((means + same_class * self.class_length**2) / total)),
            0.0,
        )

    def draw_gradients(
        self, labels: npt.NDArray[np.int64], num_classes: int, num_parameters: int, rng: np.random.Generator
    ) -> Gradients:
        """Mean logit gradients (C, D), residuals (N, C, D) and, where class_length > 0, class gradients (C, C, D).

        Entry [k, y] of the last is d_{k,y}, of logit k at examples of class y.
        """
        means = rng.standard_normal((num_classes, num_parameters))
        means *= self.mean_lengths(num_classes)[:, None] / math.sqrt(num_parameters)
        residuals = rng.standard_normal((labels.shape[0], num_classes, num_parameters))
        residuals *= self.residual_length / math.sqrt(num_parameters)
        if self.class_length == 0:
            return means, residuals
        of_class = rng.standard_normal((num_classes, num_classes, num_parameters))
        of_class *= self.class_length / math.sqrt(num_parameters)
        return means, residuals, of_class


def _same_class_share(labels: npt.ArrayLike, num_classes: int) -> float:
    """Share of ordered pairs of different examples that have one class."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "iu":
        raise ValueError(f"`labels` must be at least 2 integers in one dimension; got {array.dtype} {array.shape}")
    if array.min() < 0 or array.max() >= num_classes:
        raise ValueError(f"`labels` must be in 0..{num_classes - 1}; got {array.min()}..{array.max()}")
    sizes = np.bincount(array).astype(np.float64)
    return float(np.sum(sizes * (sizes - 1)) / (array.size * (array.size - 1.0)))


def check_gradient_law(law: object, num_classes: int) -> None:
    """TypeError for something that is no gradient law, ValueError where it is one of another number of classes."""
    # A class has the method too, but is no law until it has parameters.
    if not isinstance(law, GradientLaw) or isinstance(law, type):
        got = law.__name__ if isinstance(law, type) else type(law).__name__
        raise TypeError(f"`gradients` must be a gradient law such as ClusteredGradients(); got {got}")
    if isinstance(law, ClusteredGradients):
        law.check(num_classes)
