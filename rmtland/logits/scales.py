"""The scales of the random model, measured on any source: sigma_z, sigma_c, sigma_E."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from rmtland._arrays import Array, double, namespace, to_numpy
from rmtland.logits.accumulate import require_finite, sum_over_chunks
from rmtland.logits.gradients import LogitGradients, LogitGradientsChunk
from rmtland.logits.losses import one_hot


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
    """

    sigma_z: float
    sigma_c: float
    sigma_E: float
    sigma_c_clipped: bool
    mean_gradients: Array
    absent_classes: tuple[int, ...]

    @property
    def snr(self) -> float:
        """sigma_c^2 / sigma_E^2; inf without residuals, NaN where both are zero."""
        if self.sigma_E > 0:
            return (self.sigma_c / self.sigma_E) ** 2
        return math.inf if self.sigma_c > 0 else math.nan


def logit_scales(source: LogitGradients) -> LogitScales:
    """Measure sigma_z, the mean logit gradients, sigma_c, sigma_E and the signal-to-noise ratio.

    Parameters
    ----------
    source : LogitGradients
        C >= 2 outputs with class labels, N >= 2 examples.

    Returns
    -------
    LogitScales

    Raises
    ------
    ValueError
        For C < 2 or N < 2, NaN or infinite logit gradients.

    Warns
    -----
    RuntimeWarning
        Where sigma_c^2 came out negative and is reported as 0.

    Notes
    -----
    Residuals E = dz_k/dW - c_k shrink at the examples that c_k averages and widen at the others, so
    sigma_E^2 = sum |E|^2 / (D sum_k (N - 2 + N/N_k)) and sigma_c^2 = mean_k (|c_k|^2 / D - sigma_E^2 / N_k): a draw of
    the model gives its own parameters back without bias. One pass, O(C D) memory. sigma_E below about 1e-8 sigma_c is
    rounding.

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
    num_examples, num_classes, num_parameters = source.num_examples, source.num_classes, source.num_parameters
    if num_classes < 2:
        raise ValueError(f"`source` must have C >= 2 outputs to tell means from residuals; got C = {num_classes}")
    if num_examples < 2:
        raise ValueError(f"`source` must have at least 2 examples; got {num_examples}")

    def terms(chunk: LogitGradientsChunk) -> tuple[Array, ...]:
        gradients = chunk.dense()
        xp = namespace(gradients)
        own = one_hot(chunk.labels, num_classes, xp.float64)
        every = xp.ones_like(own)
        rows, squares = [], []
        for k in range(num_classes):
            # Class by class in float64: residuals are a small difference of large sums where the SNR is high.
            of_class = double(gradients[:, k, :])
            rows.append(xp.stack([own[:, k], every[:, k]]) @ of_class)
            squares.append(xp.sum(xp.vecdot(of_class, of_class)))
        return (
            xp.stack(rows),  # (C, 2, D): sums over the class, over all
            xp.stack(squares),
            xp.sum(own, axis=0),
            xp.sum(xp.var(double(chunk.logits), axis=1, correction=1), axis=0, keepdims=True),
        )

    sums, squares, class_sizes, variances = sum_over_chunks(source, terms)
    require_finite(squares)
    xp = namespace(sums)
    sizes = to_numpy(class_sizes)
    present = sizes > 0
    averaged = np.where(present, sizes, num_examples)
    divisor = xp.asarray(averaged, device=sums.device)
    mean_gradients = xp.where(class_sizes[:, None] > 0, sums[:, 0, :], sums[:, 1, :]) / divisor[:, None]
    lengths = to_numpy(xp.vecdot(mean_gradients, mean_gradients))
    overlaps = to_numpy(xp.vecdot(mean_gradients, sums[:, 1, :]))
    residual = float(np.sum(to_numpy(squares) - 2 * overlaps + num_examples * lengths))
    variance_E = max(residual, 0.0) / (num_parameters * float(np.sum(num_examples - 2 + num_examples / averaged)))
    variance_c = float(np.mean(lengths / num_parameters - variance_E / averaged))
    if variance_c < 0:
        warnings.warn(
            f"sigma_c^2 came out as {variance_c:.3g}, below zero within its error: no mean logit gradient stands out "
            "of the residuals; sigma_c is reported as 0",
            RuntimeWarning,
            stacklevel=2,
        )
    return LogitScales(
        sigma_z=math.sqrt(float(to_numpy(variances)[0]) / num_examples),
        sigma_c=math.sqrt(max(variance_c, 0.0)),
        sigma_E=math.sqrt(variance_E),
        sigma_c_clipped=variance_c < 0,
        mean_gradients=mean_gradients,
        absent_classes=tuple(int(k) for k in np.flatnonzero(~present)),
    )
