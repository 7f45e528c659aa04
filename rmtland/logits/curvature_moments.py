"""Lengths, effective dimension and spread of lengths of logit gradients where the curvature is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rmtland._arrays import told
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
    mean_length_error, residual_length_error, effective_dimension_error, length_spread_error, logit_spread_error : float
        Standard errors over the examples, by leaving out one at a time; the mean logit gradients of other classes or
        networks differ by more. NaN for a number that is 0 or infinite, and for two examples.
    """

    mean_length: float
    residual_length: float
    effective_dimension: float
    length_spread: float
    logit_spread: float
    mean_length_error: float = math.nan
    residual_length_error: float = math.nan
    effective_dimension_error: float = math.nan
    length_spread_error: float = math.nan
    logit_spread_error: float = math.nan

    __repr__ = told


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
    each = _Sums(
        weight=traces,
        own=np.einsum("njnj->n", whole),
        products=np.einsum("nkj,njml,mlk->n", factors, half, curvatures, optimize=True),
        own_products=np.einsum("nkj,njnl,nlk->n", factors, half, curvatures, optimize=True),
        squares=squares.sum(axis=1),
        own_squares=np.diagonal(squares),
        a=np.sum(curvatures**2, axis=(1, 2)),
        b=traces**2,
        curvature=curvatures,
        logits=np.einsum("n,nkml,m->nkl", traces, gram.matrix, traces, optimize=True) / (unit or 1.0),
        own_logits=traces[:, None, None] ** 2 * np.einsum("nknl->nkl", gram.matrix) / (unit or 1.0),
    )
    every = _Sums(*(np.sum(part, axis=0) for part in each))
    numbers = _numbers(every, gram.num_parameters)
    errors = [math.nan] * 5
    if n > 2:
        left = np.array([_numbers(every.without(each, i), gram.num_parameters) for i in range(n)])
        with np.errstate(invalid="ignore"):
            spread = np.sqrt((n - 1) * np.mean((left - left.mean(axis=0)) ** 2, axis=0))
        errors = [float(e) if 0 < x < math.inf else math.nan for x, e in zip(numbers, spread, strict=True)]
    mean, residual, inverse, of_lengths, of_logits = numbers
    dimension = 1 / inverse if inverse > 0 else math.inf
    root = math.sqrt(unit)
    return CurvatureMoments(
        mean * root, residual * root, dimension, of_lengths, of_logits,
        errors[0] * root, errors[1] * root, errors[2] * dimension**2, *errors[3:],
    )  # fmt: skip


class _Sums(NamedTuple):
    """Sums over all pairs of examples, by their first (N, ...) or over these too, and over examples with themselves."""

    weight: Floats  # tr A_mu
    own: Floats  # tr A_mu K_mu,mu
    products: Floats  # tr A_mu K_mu,nu A_nu
    own_products: Floats
    squares: Floats  # |A_mu^(1/2) K_mu,nu A_nu^(1/2)|^2
    own_squares: Floats
    a: Floats  # tr A_mu^2
    b: Floats  # (tr A_mu)^2
    curvature: Floats  # A_mu
    logits: Floats  # tr A_mu K_mu,nu tr A_nu
    own_logits: Floats

    def without(self, each: _Sums, i: int) -> _Sums:
        """Less those of one example, which is the first and the second of pairs."""
        left = _Sums(*(whole - part[i] for whole, part in zip(self, each, strict=True)))
        return left._replace(
            products=left.products - each.products[i] + each.own_products[i],
            squares=left.squares - each.squares[i] + each.own_squares[i],
            logits=left.logits - each.logits[i].T + each.own_logits[i],
        )


def _numbers(sums: _Sums, num_parameters: int) -> tuple[float, float, float, float, float]:
    """The five numbers, of the effective dimension the inverse."""
    num_classes = sums.curvature.shape[0]
    weight, a, b = float(sums.weight), float(sums.a), float(sums.b)
    if not weight > 0:
        return math.nan, math.nan, math.nan, math.nan, math.nan
    pairs, apart = float(np.sum(sums.curvature**2)) - a, weight**2 - b
    # Rounding of the whole sum is no pair of examples: one of them alone has curvature.
    mean = max(float(sums.products - sums.own_products) / pairs, 0.0) if pairs > 1e-12 * a else 0.0
    residual = float(sums.own) / weight - mean
    residual = residual if residual > 1e-12 * mean else 0.0  # else rounding
    of_logits = _spread_of_logits(sums.logits - sums.own_logits) if mean > 0 else 0.0
    alike, together = _over_directions(pairs, apart, of_logits, num_classes)
    a, b = _over_directions(a, b, of_logits, num_classes)
    inverse, of_lengths = 0.0, 0.0
    if residual > 0:
        crossed = 2 * mean * residual / num_parameters
        off = float(sums.squares - sums.own_squares) - mean**2 * alike
        inverse = min(max(off / together - crossed, 0.0) / residual**2, 1.0) if apart > 1e-12 * b else 0.0
        rest = float(sums.own_squares) - (mean**2 + 2 * mean * residual) * a - crossed * (a + b)
        of_lengths = math.sqrt(max(rest / (residual**2 * (a + (a + b) * inverse)) - 1, 0.0))
    return math.sqrt(mean), math.sqrt(residual), inverse, of_lengths, of_logits


def _spread_of_logits(sums: Floats) -> float:
    """Of the mean of K_mu,nu over different examples, less its mean over logits."""
    sums = sums - sums.mean(axis=0)
    sums = sums - sums.mean(axis=1, keepdims=True)
    rank, trace = sums.shape[0] - 1, float(np.trace(sums))
    if not (trace > 0 and rank > 1):
        return 0.0
    return math.sqrt(min(max(rank * float(np.sum((sums / trace) ** 2)) - 1, 0.0), rank - 1.0))


def _over_directions(products: float, traces: float, spread: float, num_classes: int) -> tuple[float, float]:
    """Means of tr A B A' B and tr A B tr A' B over a turned B of mean eigenvalue 1, from tr A A' and tr A tr A'."""
    rank = num_classes - 1
    s = rank * spread**2 / ((rank + 2) * (rank - 1)) if spread > 0 else 0.0
    first = products + s * ((1 - 2 / rank) * products + traces)
    return first, traces + s * (2 * products - 2 / rank * traces)
