"""Lengths of mean logit gradients and residuals where the curvature is: examples weighed by their A_mu."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rmtland._arrays import Array, double, like, namespace, to_numpy, told
from rmtland.logits.accumulate import SharedChunk, SumAccumulator, accumulate_one
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.rows import require_finite
from rmtland.logits.scales import error_of_root


@dataclass(frozen=True)
class CurvatureScales:
    """Root mean square lengths of the parts of dz_k/dW = c_k + E, as the Gauss-Newton matrix weighs them.

    Attributes
    ----------
    mean_length, residual_length : float
        sigma_c sqrt(D) and sigma_E sqrt(D); NaN where every A_mu vanishes.
    mean_clipped : bool
        Whether the unbiased estimate of the squared mean length came out negative; it is then 0.
    residual_clipped : bool
        Likewise of the residuals: means that explain more than all there is.
    mean_length_error, residual_length_error : float
        Standard errors: of the mean over the C - 1 combinations of logits that A_mu sees, rough for few classes and NaN
        for two; of the residuals over examples, too large where they are shorter than the means, as inner products of
        both are counted (`curvature_moments` leaves out one example at a time instead). NaN for a length of 0, and for
        residuals whose fourth power leaves float64.
    """

    mean_length: float
    residual_length: float
    mean_clipped: bool
    residual_clipped: bool
    mean_length_error: float = math.nan
    residual_length_error: float = math.nan

    __repr__ = told


class CurvatureScalesAccumulator(SumAccumulator[CurvatureScales]):
    """`curvature_scales` as an accumulator, for `measure`."""

    by_example: ClassVar[bool] = True

    def start(self, source: LogitGradients) -> None:
        """Nothing yet; ValueError for N < 2."""
        if source.num_examples < 2:
            raise ValueError(f"`source` must have at least 2 examples; got {source.num_examples}")

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Sums of A J (C, D) and of A (C, C) over the examples; of |A J|^2 and |A|^2, (2, C); of t = tr A J J^T and
        w = tr A, and of t^2, t w and w^2.
        """
        factor = chunk.loss.hessian_factor()
        xp = namespace(factor)
        curvature = factor @ xp.matrix_transpose(factor)
        count = curvature.shape[1]
        rows = [chunk.rows(like(chunk.logits, curvature[:, k, :])) for k in range(count)]
        every = xp.ones((curvature.shape[0], 1), dtype=curvature.dtype, device=curvature.device)
        sums = xp.stack([double(part.sums(every)[0, :]) for part in rows])
        squares = xp.stack([xp.sum(double(part.lengths()) ** 2) for part in rows])
        # tr A J J^T = N tr Y^T Y.
        traces = double(chunk.trace_terms) * chunk.source.num_examples
        weights = xp.astype(xp.sum(factor**2, axis=(1, 2)), traces.dtype)
        with np.errstate(over="ignore", under="ignore"):  # of very long or short gradients: they have no errors then
            numbers = xp.stack([xp.sum(x) for x in (traces, weights, traces**2, traces * weights, weights**2)])
        by_logit = xp.stack([squares, xp.sum(curvature**2, axis=(0, 2))])
        return sums, xp.sum(curvature, axis=0), by_logit, numbers

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> CurvatureScales:
        """The scales; ValueError for gradients that are not finite."""
        require_finite(*sums[:3], sums[3][:2])
        products = np.array([float(to_numpy(row @ row)) for row in sums[0]])
        curvature, (own_products, own_curvature) = to_numpy(sums[1]), to_numpy(sums[2])
        trace, weight, *squares = (float(x) for x in to_numpy(sums[3]))
        if not weight > 0:  # every example frozen
            return CurvatureScales(math.nan, math.nan, False, False)
        pairs = np.sum(curvature**2, axis=1) - own_curvature
        # Rounding of the whole sum is no pair of examples: one of them alone has curvature.
        several = float(pairs.sum()) > 1e-12 * float(own_curvature.sum())
        mean = float(np.sum(products - own_products)) / float(pairs.sum()) if several else 0.0
        total = trace / weight
        residual = total - max(mean, 0.0)
        errors = [math.nan, math.nan]
        if several and pairs.size > 2:
            off = (products - own_products - mean * pairs) / pairs.mean()
            # Of logits of zero sum all variances are (C - 2) / (C - 1) of those of as many independent ones.
            errors[0] = error_of_root(off, mean) * math.sqrt((pairs.size - 1) / (pairs.size - 2))
        if residual > 0 and 0 < squares[0] < math.inf:
            n = source.num_examples
            # total^2 may leave float64 where it times the weights' squares does not.
            scatter = max(squares[0] - 2 * total * squares[1] + total * (total * squares[2]), 0.0)
            errors[1] = math.sqrt(n / (n - 1) * scatter) / weight / (2 * math.sqrt(residual))
        return CurvatureScales(
            math.sqrt(max(mean, 0.0)), math.sqrt(max(residual, 0.0)), mean < 0, residual < 0, *errors
        )


def curvature_scales(source: LogitGradients) -> CurvatureScales:
    """Lengths of mean logit gradients and residuals, examples and logits weighed by their curvature A_mu.

    Parameters
    ----------
    source : LogitGradients
        N >= 2 examples; any loss with more than one output.

    Returns
    -------
    CurvatureScales

    Raises
    ------
    ValueError
        For N < 2, or NaN or infinite logit gradients.

    Notes
    -----
    mean_length^2 = sum_{mu != nu} tr(A_mu J_mu J_nu^T A_nu) / sum_{mu != nu} tr(A_mu A_nu), and mean_length^2 +
    residual_length^2 = sum tr(A_mu J_mu J_mu^T) / sum tr A_mu: without bias for logit gradients that do not depend on
    the logits. One pass, O(C D) memory. `logit_scales` measures each logit at the examples of its own class, frozen or
    not; after training the examples that are not frozen have shorter logit gradients (in a small MNIST network 19
    against 33), and these alone enter the Gauss-Newton matrix. A model of these lengths has the trace that the source's
    Gauss-Newton matrix has, given its logits.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(200, 5, 2000, sigma_z=3.0, mean_length=1.0, residual_length=0.7)
    >>> scales = rl.curvature_scales(model.sample(rng=0))
    >>> abs(scales.mean_length - 1.0) < 0.05 and abs(scales.residual_length - 0.7) < 0.02
    True
    """
    return accumulate_one(source, CurvatureScalesAccumulator())
