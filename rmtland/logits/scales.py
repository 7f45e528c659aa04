"""The scales of the random model, measured on any source: sigma_z, sigma_c, sigma_E, and sigma_d of class means."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rmtland._arguments import flag, require_memory
from rmtland._arrays import Array, double, namespace, to_numpy, told, zeros
from rmtland.logits.accumulate import SharedChunk, SumAccumulator, accumulate_one, mean_and_error
from rmtland.logits.classes import of_classes
from rmtland.logits.gradients import LogitGradients


@dataclass(frozen=True, eq=False)
class LogitScales:
    """Scales of logits and logit gradients; sigmas are standard deviations per component.

    Attributes
    ----------
    sigma_z : float
        Root of the variance of the logits across classes (ddof 1), averaged over examples.
    sigma_c, sigma_E : float
        Standard deviations of a component of the mean logit gradients and of the residuals, free of the bias that
        averaging over N_k examples brings.
    sigma_c_clipped : bool
        Whether the unbiased estimate of sigma_c^2 came out negative (no mean visible in the noise); sigma_c is then 0.
    mean_gradients : array (C, D)
        c_k, the mean of dz_k/dW over the examples of class k (Fort and Ganguli eq. (15)), float64 in the library of
        the source.
    absent_classes : tuple of int
        Classes without examples: their c_k is the mean over all examples instead.
    sigma_d : float
        Standard deviation of a component of the class gradients d_{k,y}; 0 unless `class_means` was asked for.
    sigma_d_clipped : bool
        Whether the unbiased estimate of sigma_d^2 came out negative.
    sigma_z_error : float
        Standard error over examples.
    sigma_c_error, sigma_E_error, sigma_d_error : float
        Standard errors over logits, each of which has mean and class gradients and residuals of its own: rough for few
        classes. NaN where the scale is 0, and for the residuals of logits that have one example of their class.
    """

    sigma_z: float
    sigma_c: float
    sigma_E: float
    sigma_c_clipped: bool
    mean_gradients: Array = field(repr=False)
    absent_classes: tuple[int, ...]
    sigma_d: float = 0.0
    sigma_d_clipped: bool = False
    sigma_z_error: float = math.nan
    sigma_c_error: float = math.nan
    sigma_E_error: float = math.nan
    sigma_d_error: float = math.nan

    __repr__ = told

    @property
    def snr(self) -> float:
        """sigma_c^2 / sigma_E^2; inf without residuals, NaN where both are zero."""
        if self.sigma_E > 0:
            return (self.sigma_c / self.sigma_E) ** 2
        return math.inf if self.sigma_c > 0 else math.nan

    @property
    def snr_error(self) -> float:
        """Standard error of `snr` over logits, as if those of sigma_c and sigma_E had nothing to do with each other."""
        if not (self.sigma_c > 0 and self.sigma_E > 0):
            return math.nan
        return 2 * self.snr * math.hypot(self.sigma_c_error / self.sigma_c, self.sigma_E_error / self.sigma_E)


@dataclass(frozen=True)
class LogitScalesAccumulator(SumAccumulator[LogitScales]):
    """`logit_scales` as an accumulator, for `measure`."""

    class_means: bool = False
    by_example: ClassVar[bool] = True

    def start(self, source: LogitGradients) -> None:
        """Nothing yet; ValueError for C < 2 or N < 2, MemoryError where the means will not fit."""
        flag("class_means", self.class_means)
        if source.num_classes < 2:
            raise ValueError(
                f"`source` must have C >= 2 outputs to tell means from residuals; got C = {source.num_classes}"
            )
        if source.num_examples < 2:
            raise ValueError(f"`source` must have at least 2 examples; got {source.num_examples}")
        require_memory(
            f"the means of {source.num_classes} logit gradients in {source.num_parameters} parameters",
            8.0 * 3 * source.num_classes * source.num_parameters,
            "name a few `classes`",
        )

    def add(self, state: tuple[Array, ...] | None, chunk: SharedChunk) -> tuple[Array, ...]:
        """Sums of logit gradients and of their squares: over the logit's own class, and over all examples."""
        own, squares = chunk.own, chunk.lengths**2
        xp = namespace(own)
        if state is None:
            num_classes, num_parameters = chunk.source.num_classes, chunk.source.num_parameters
            shapes = ((num_classes, 2, num_parameters), (num_classes, 2), (num_classes,), (2,))
            state = tuple(zeros(own, shape) for shape in shapes)
        sums, square_sums, class_sizes, variances = state
        every = xp.ones_like(own[:, :1])
        for k in range(own.shape[1]):
            # In float64: residuals are a small difference of large sums where the SNR is high.
            sums[k, 0, :] += double(chunk.logit_rows(k).sums(own[:, k : k + 1])[0, :])
            sums[k, 1, :] += double(chunk.logit_rows(k).sums(every)[0, :])
        square_sums += xp.stack([xp.sum(squares, axis=0), xp.sum(own * squares, axis=0)], axis=1)
        class_sizes += xp.sum(own, axis=0)
        logits = double(chunk.logits)
        spread = (logits - xp.mean(logits, axis=1, keepdims=True)) ** 2 / (logits.shape[1] - 1)
        by_example = xp.sum(spread, axis=1)
        variances += xp.stack([xp.sum(by_example), xp.sum(by_example**2)])
        return state

    def conclude(self, sums_of_terms: tuple[Array, ...], source: LogitGradients) -> LogitScales:
        """The scales from the sums of `terms`."""
        sums, squares, class_sizes, variances = sums_of_terms
        num_examples, num_parameters = source.num_examples, source.num_parameters
        xp = namespace(sums)
        sizes = to_numpy(class_sizes)
        present = sizes > 0
        averaged = np.where(present, sizes, num_examples)
        divisor = xp.asarray(averaged, device=sums.device)
        mean_gradients = xp.where(class_sizes[:, None] > 0, sums[:, 0, :], sums[:, 1, :])
        mean_gradients /= divisor[:, None]
        lengths = _inner(mean_gradients, mean_gradients)
        overall = to_numpy(squares)
        total_z, squares_z = to_numpy(variances)[:, None]
        variance_z, error_z = mean_and_error(total_z, squares_z, num_examples)
        sigma_z = math.sqrt(float(variance_z[0]))
        if self.class_means:
            spread = _inner(sums[:, 1, :], sums[:, 1, :]) / num_examples**2
            (variance_c, variance_d, variance_E), errors = _variances_by_class(
                overall[:, 1], lengths, spread, sizes, num_examples, num_parameters
            )
        else:
            overlaps = _inner(mean_gradients, sums[:, 1, :])
            residual = overall[:, 0] - 2 * overlaps + num_examples * lengths
            freedom = num_parameters * (num_examples - 2 + num_examples / averaged)
            variance_E = max(float(np.sum(residual)), 0.0) / float(np.sum(freedom))
            each = lengths / num_parameters - variance_E / averaged
            variance_c, variance_d = float(np.mean(each)), 0.0
            errors = error_of_root(each, variance_c), math.nan, error_of_root(residual / freedom, variance_E)
        for name, variance, what in (("c", variance_c, "mean logit"), ("d", variance_d, "class")):
            if variance < 0:
                warnings.warn(
                    f"sigma_{name}^2 came out as {variance:.3g}, below zero within its error: no {what} gradient "
                    f"stands out of the residuals; sigma_{name} is reported as 0",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return LogitScales(
            sigma_z=sigma_z,
            sigma_c=math.sqrt(max(variance_c, 0.0)),
            sigma_E=math.sqrt(variance_E),
            sigma_c_clipped=variance_c < 0,
            mean_gradients=mean_gradients,
            absent_classes=tuple(int(k) for k in np.flatnonzero(~present)),
            sigma_d=math.sqrt(max(variance_d, 0.0)),
            sigma_d_clipped=variance_d < 0,
            sigma_z_error=float(error_z[0]) / (2 * sigma_z) if sigma_z > 0 else math.nan,
            sigma_c_error=errors[0],
            sigma_E_error=errors[2],
            sigma_d_error=errors[1],
        )


def error_of_root(values: npt.NDArray[np.float64], mean: float) -> float:
    """Of the root of the mean of independent values, or of what is left of these, to first order."""
    return float(np.std(values / mean, ddof=1)) / math.sqrt(values.size) * math.sqrt(mean) / 2 if mean > 0 else math.nan


def _error_of_ratio(values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], mean: float) -> float:
    """Of the root of a ratio of sums of independent values and their weights, to first order."""
    return error_of_root((values - mean * weights) / weights.mean(), mean) if values.size > 1 else math.nan


def logit_scales(
    source: LogitGradients, *, class_means: bool = False, classes: Sequence[int] | None = None
) -> LogitScales:
    """Measure sigma_z, the mean logit gradients, sigma_c, sigma_E and the signal-to-noise ratio.

    Parameters
    ----------
    source : LogitGradients
        C >= 2 outputs with class labels, N >= 2 examples.
    class_means : bool
        False: the scales of J = c_k + E, everything but the mean logit gradients being residual. True: those of
        J = c_k + d_{k,y} + E, which matches both q_SLSC and q_SL.
    classes : sequence of int, optional
        Logits that are looked at, and classes; by default all. Of a vocabulary of 50,000 words a few will do.
        `mean_gradients` (J, D) and `absent_classes` are then those of J classes in the order given, and sigma_z is
        the spread of these logits alone.

    Returns
    -------
    LogitScales

    Raises
    ------
    ValueError
        For C < 2 or N < 2, NaN or infinite logit gradients. With `class_means`, where no class has two examples or only
        one class has any: then residuals and class gradients cannot be told apart.

    MemoryError
        Where 3 C D numbers do not fit.

    Warns
    -----
    RuntimeWarning
        Where sigma_c^2 or sigma_d^2 came out negative and is reported as 0.

    Notes
    -----
    Residuals E = dz_k/dW - c_k shrink at the examples that c_k averages and widen at the others, so
    sigma_E^2 = sum |E|^2 / (D sum_k (N - 2 + N/N_k)) and sigma_c^2 = mean_k (|c_k|^2 / D - sigma_E^2 / N_k): a draw of
    the model gives its own parameters back without bias. One pass, O(C D) memory. sigma_E below about 1e-8 sigma_c is
    rounding.

    With class gradients these formulas would mix sigma_d into sigma_E. Then, with o_k the mean of dz_k/dW over class k
    and a_k that over all examples, sigma_E^2 = sum |dz_k/dW - o_k|^2 / (D sum_k (N_k - 1)) over the examples of class k
    alone, and sigma_c^2 and sigma_d^2 solve mean_k (|o_k|^2 / D - sigma_E^2 / N_k) = sigma_c^2 + sigma_d^2 and
    mean_k |a_k|^2 / D - sigma_E^2 / N = sigma_c^2 + sigma_d^2 sum_y (N_y / N)^2: no bias either. In a network, where
    logit gradients of other classes have other lengths, all three are those of a logit at its own class's examples.

    References
    ----------
    Fort and Ganguli (2019), eqs. (14)-(15), fig. 4.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=5, num_parameters=400, snr=2.0)
    >>> abs(rl.logit_scales(model.sample(rng=0)).snr / 2.0 - 1) < 0.2
    True
    """
    return accumulate_one(of_classes(source, classes), LogitScalesAccumulator(class_means))


def _inner(first: Array, second: Array) -> npt.NDArray[np.float64]:
    """Inner products of rows (C, D), (C,), one after another: torch would make another C D numbers of them."""
    xp = namespace(first)
    return to_numpy(xp.stack([xp.vecdot(first[k, :], second[k, :]) for k in range(first.shape[0])]))


def _variances_by_class(
    squares: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
    overall: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    num_examples: int,
    num_parameters: int,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """sigma_c^2, sigma_d^2, sigma_E^2 from |dz_k|^2 summed over class k, |o_k|^2 and |a_k|^2, each (C,).

    Then the errors of their roots. Absent classes have an o_k of other examples, and are left out of what it enters.
    """
    present = sizes > 0
    pairs = float(np.sum(sizes[present] - 1))
    balance = float(np.sum((sizes / num_examples) ** 2))
    if pairs < 1 or np.count_nonzero(present) < 2:
        raise ValueError(
            "`source` must have two examples of one class and two classes to tell class gradients from residuals; got "
            f"classes of {sizes.astype(int).tolist()}"
        )
    counts, lengths = sizes[present], own[present]
    residuals = np.maximum(squares[present] - counts * lengths, 0.0) / num_parameters
    variance_E = float(residuals.sum()) / pairs
    at_own_class = lengths / num_parameters - variance_E / counts
    anywhere = overall / num_parameters - variance_E / num_examples
    variance_d = float(np.mean(at_own_class) - np.mean(anywhere)) / (1 - balance)
    variance_c = float(np.mean(at_own_class)) - max(variance_d, 0.0)
    # The same of each logit.
    each_d = (at_own_class - anywhere[present]) / (1 - balance)
    several = counts > 1
    errors = (
        error_of_root(at_own_class - (each_d if variance_d > 0 else 0.0), variance_c),
        error_of_root(each_d, variance_d),
        _error_of_ratio(residuals[several], counts[several] - 1, variance_E),
    )
    return (variance_c, variance_d, variance_E), errors
