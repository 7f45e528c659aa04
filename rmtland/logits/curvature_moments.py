"""Lengths, effective dimension and spread of lengths of logit gradients where the curvature is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland.logits.gradients import LogitGradients
from rmtland.logits.gram import LogitGradientGram, gram_of
from rmtland.logits.losses import CrossEntropy

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CurvatureMoments:
    """First and second moments of dz_k/dW = c_k + E_k, as the Gauss-Newton matrix weighs them.

    Attributes
    ----------
    mean_length, residual_length : float
        Root mean square lengths, those of `curvature_scales`; NaN where every A_mu vanishes.
    effective_dimension : float
        (tr Sigma)^2 / tr Sigma^2 of the residuals' covariance; inf where pairs of examples have no more in common than
        independent directions.
    length_spread : float
        Coefficient of variation, over the examples, of the squared lengths of their residuals.
    logit_spread : float
        Coefficient of variation of the C - 1 eigenvalues of the mean logit gradients' Gram matrix, less their mean over
        logits: 0 where all are equally long and at right angles.
    """

    mean_length: float
    residual_length: float
    effective_dimension: float
    length_spread: float
    logit_spread: float


def curvature_moments(source: LogitGradients | LogitGradientGram) -> CurvatureMoments:
    """Five numbers of the logit gradients, examples and logits weighed by their curvature A_mu.

    Parameters
    ----------
    source : LogitGradients or LogitGradientGram
        Of N >= 2 examples with cross-entropy loss; the Gram matrix of N C rows is formed where a source is given.

    Returns
    -------
    CurvatureMoments

    Raises
    ------
    ValueError
        For N < 2, or NaN or infinite logit gradients.

    Notes
    -----
    With K_mu,nu = J_mu J_nu^T (C x C), |A_mu^(1/2) K_mu,nu A_nu^(1/2)|^2 summed over all pairs is N^2 |G|_F^2. The
    mean of K_mu,nu over different examples, weighed by tr A_mu tr A_nu, is the means' Gram matrix, without bias; its
    eigenvalues give the spread of the logits. The squares over pairs of different examples then give the effective
    dimension, those of an example with itself the spread of lengths: for normal residuals of any covariance and
    independent lengths, means in directions of their own, and rows of both with one covariance B across logits, in no
    direction that logits prefer,

        sum_{mu != nu} |..|^2 = m^4 P + (e^4 / d + 2 m^2 e^2 / D) T,

        sum_mu |..|^2 = (m^4 + 2 m^2 e^2) a + e^4 (1 + spread^2) (a + (a + b) / d) + 2 m^2 e^2 (a + b) / D,

    m and e the lengths, d the effective dimension, and P, T, a and b the means over the directions of B of the sums of
    tr A_mu B A_nu B, tr A_mu B tr A_nu B, tr (A_mu B)^2 and (tr A_mu B)^2. A law with these five has the trace and, on
    average, the squared norm of the source's G, given its logits.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.AnisotropicGradients.clustered(3, 1.0, 0.7, covariance=rl.ResidualCovariance([1.0], [20]))
    >>> model = rl.LandscapeModel(200, 3, 300, rl.GaussianLogits(1.0), law)
    >>> found = rl.curvature_moments(model.sample(rng=0))
    >>> 15 < found.effective_dimension < 25, found.length_spread < 0.3
    (True, True)
    """
    gram = gram_of(source)
    n = gram.num_examples
    if n < 2:
        raise ValueError(f"`source` must have at least 2 examples; got {n}")
    factors = CrossEntropy().hessian_factor(gram.logits)  # L (N, C, r), A = L L^T
    curvatures = factors @ factors.swapaxes(1, 2)
    traces = np.einsum("nkk->n", curvatures)
    weight = float(traces.sum())
    if not weight > 0:
        return CurvatureMoments(*[math.nan] * 5)
    # In their own unit, so that no fourth power over- or underflows.
    unit = float(np.einsum("nknk->", gram.matrix)) / (n * gram.num_classes)
    half = np.einsum("nkj,nkml->njml", factors, gram.matrix / (unit or 1.0), optimize=True)
    whole = np.einsum("njml,mli->njmi", half, factors, optimize=True)  # L_mu^T K L_nu
    squares = np.einsum("njmi,njmi->nm", whole, whole)
    own = float(np.einsum("njnj->", whole))
    products = float(np.einsum("nkj,njml,mlk->", factors, half, curvatures, optimize=True))
    own_products = float(np.einsum("nkj,njnl,nlk->", factors, half, curvatures, optimize=True))
    total = curvatures.sum(axis=0)
    a, b = float(np.sum(curvatures**2)), float(traces @ traces)
    pairs, apart = float(np.sum(total**2)) - a, weight**2 - b
    # Rounding of the whole sum is no pair of examples: one of them alone has curvature.
    mean = max((products - own_products) / pairs, 0.0) if pairs > 1e-12 * a else 0.0
    residual = max(own / weight - mean, 0.0)
    of_logits = _spread_of_logits(gram, traces) if mean > 0 else 0.0
    alike, together = _over_directions(pairs, apart, of_logits, gram.num_classes)
    a, b = _over_directions(a, b, of_logits, gram.num_classes)
    dimension, of_lengths = math.inf, 0.0
    if residual > 0:
        crossed = 2 * mean * residual / gram.num_parameters
        off = float(squares.sum() - np.trace(squares)) - mean**2 * alike
        inverse = max(off / together - crossed, 0.0) / residual**2 if apart > 1e-12 * b else 0.0
        dimension = max(1 / inverse, 1.0) if inverse > 0 else math.inf
        rest = float(np.trace(squares)) - (mean**2 + 2 * mean * residual) * a - crossed * (a + b)
        of_lengths = math.sqrt(max(rest / (residual**2 * (a + (a + b) / dimension)) - 1, 0.0))
    return CurvatureMoments(math.sqrt(mean * unit), math.sqrt(residual * unit), dimension, of_lengths, of_logits)


def _spread_of_logits(gram: LogitGradientGram, weights: Floats) -> float:
    """Of the mean of K_mu,nu over different examples, less its mean over logits."""
    sums = np.einsum("n,nkml,m->kl", weights, gram.matrix, weights, optimize=True)
    sums -= np.einsum("n,nknl->kl", weights**2, gram.matrix)
    sums -= sums.mean(axis=0)
    sums -= sums.mean(axis=1, keepdims=True)
    rank, trace = gram.num_classes - 1, float(np.trace(sums))
    if not (trace > 0 and rank > 1):
        return 0.0
    return math.sqrt(min(max(rank * float(np.sum((sums / trace) ** 2)) - 1, 0.0), rank - 1.0))


def _over_directions(products: float, traces: float, spread: float, num_classes: int) -> tuple[float, float]:
    """Means of tr A B A' B and tr A B tr A' B over a turned B of mean eigenvalue 1, from tr A A' and tr A tr A'."""
    rank = num_classes - 1
    s = rank * spread**2 / ((rank + 2) * (rank - 1)) if spread > 0 else 0.0
    first = products + s * ((1 - 2 / rank) * products + traces)
    return first, traces + s * (2 * products - 2 / rank * traces)
