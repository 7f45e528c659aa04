"""Moments of the covariance of residuals, and of the means in it, without bias: from products of different examples.

Residuals are differences of two examples of one class over sqrt 2: they have the covariance of an example's logit
gradients about their class mean, whatever that mean is and whatever the distribution, so that no error of an estimated
mean enters. tr Sigma^p is then the mean of tr(B_12 B_23 ... B_p1) / C^p over p different pairs, B_ij the C x C inner
products of two of them (Kong and Valiant 2017, for one row per example).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, integer, spawn
from rmtland._arrays import told
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.gram import LogitGradientGram, gram_of

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

MOST_ROWS = 1024
"""Rows of residuals that moments are computed from; where there are more, random combinations of the logits."""
GROUPS = 16
"""Groups of examples that are left out in turn for an error."""


@dataclass(frozen=True, eq=False)
class ResidualMoments:
    """Moments tr Sigma^p of the covariance (D x D) of one residual, the mean of those of the C logits.

    Attributes
    ----------
    values : ndarray (P,)
        tr Sigma, tr Sigma^2, ..., without bias: single estimates may come out negative.
    covariance : ndarray (P, P)
        Of their errors.
    num_pairs : int
        Pairs of examples in each of the pairings that they are means over.
    """

    values: Floats
    covariance: Floats = field(repr=False)
    num_pairs: int

    __repr__ = told

    @property
    def standard_error(self) -> Floats:
        """Of `values`, (P,)."""
        errors: Floats = np.sqrt(np.diag(self.covariance))
        return errors

    @property
    def effective_dimension(self) -> float:
        """(tr Sigma)^2 / tr Sigma^2; NaN where the estimate of tr Sigma^2 is not positive."""
        first, second = self.values[:2]
        return float(first**2 / second) if second > 0 else math.nan

    @cached_property
    def effective_dimension_error(self) -> float:
        """Standard error of `effective_dimension`, to first order."""
        first, second = self.values[:2]
        slope = np.array([2 / first, -1 / second]) if second > 0 else np.full(2, math.nan)
        return float(self.effective_dimension * math.sqrt(slope @ self.covariance[:2, :2] @ slope))


@dataclass(frozen=True, eq=False)
class MeanMoments:
    """How the class means of logit gradients lie in the residuals' covariance.

    Attributes
    ----------
    values : ndarray (P + 1,)
        Mean over logits k and classes y of m_{k,y}^T Sigma^p m_{k,y}, p = 0, 1, ..., without bias.
    standard_error : ndarray (P + 1,)
    alignment : float
        (m^T Sigma m / |m|^2) / (tr Sigma^2 / tr Sigma): 1 where means lie in the residuals' directions as the
        residuals themselves do, tr(Sigma)^2 / (D tr Sigma^2) where they point anywhere.
    alignment_error : float
        Its standard error.
    """

    values: Floats
    standard_error: Floats
    alignment: float
    alignment_error: float

    __repr__ = told


def residual_moments(
    source: LogitGradients | LogitGradientGram, max_order: int = 5, *, num_pairings: int = 4, rng: Seed = 0
) -> ResidualMoments:
    """Moments tr Sigma^p of the residuals' covariance, without bias, and their effective dimension.

    Parameters
    ----------
    source : LogitGradients or LogitGradientGram
        With class labels.
    max_order : int
        P >= 2, the highest power p.
    num_pairings : int
        Random pairings of the examples of each class that the result is the mean of; >= 2.
    rng : seed
        Anything `numpy.random.default_rng` takes; draws the pairings.

    Returns
    -------
    ResidualMoments

    Raises
    ------
    ValueError
        Where the classes hold fewer than `max_order` + 1 pairs of examples, or for orders out of range.

    Notes
    -----
    The naive moments of residuals about estimated means count each example with itself: at N examples tr Sigma^2 then
    comes out high by about (tr Sigma)^2 / (N C), and by (tr Sigma)^2 / N_k^2 from the means. Errors are by leaving
    out one pair in turn, less what averaging over pairings gains; the jackknife errs high (by up to p in the variance)
    where the number of pairs is far below the effective dimension. Of more than 1,024 residuals n C, r < C random
    orthonormal combinations of the logits stand for all, drawn for each pair: unbiased as well.

    References
    ----------
    Kong and Valiant (2017), Spectrum estimation from samples, Ann. Statist. 45.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=3, num_parameters=200).sample(rng=0)
    >>> moments = rl.residual_moments(draw)
    >>> abs(moments.effective_dimension - 200) < 3 * moments.effective_dimension_error
    True
    """
    order = integer("max_order", max_order, at_least=2)
    count = integer("num_pairings", num_pairings, at_least=2)
    gram = gram_of(source)
    classes = _classes(gram.labels)
    num_pairs = sum(members.size // 2 for members in classes)
    if num_pairs <= order:
        raise ValueError(
            f"`source` must hold more than {order} pairs of examples of one class for moments up to order {order}; got "
            f"{num_pairs}"
        )
    children = spawn(rng, count, "num_pairings")
    values, covariances = np.zeros((count, order)), np.zeros((count, order, order))
    for i, child in enumerate(children):
        residuals = _pair_products(gram.matrix, classes, child)
        values[i], influences = cycle_moments(residuals, order)
        covariances[i] = (num_pairs - 1) / num_pairs * influences.T @ influences
    covariance = covariances.mean(axis=0)
    gained = (1 - 1 / count) * np.cov(values.T)
    # What the pairings share can not be negative, nor can it be known better than to be there.
    if np.all(np.linalg.eigvalsh(covariance - gained) > 0):
        covariance = covariance - gained
    return ResidualMoments(values.mean(axis=0), covariance, num_pairs)


def cycle_moments(products: npt.NDArray[np.float64], max_order: int) -> tuple[Floats, Floats]:
    """Mean of tr(B_12 B_23 ... B_p1) / C^p over increasing p-tuples of rows, and what leaving each row out changes.

    Parameters
    ----------
    products : ndarray (n, C, n, C)
        Inner products of n independent rows of C vectors each, in a random order.
    max_order : int
        P.

    Returns
    -------
    values : ndarray (P,)
    influences : ndarray (n, P)
        Centred: the values without row i, less their mean.
    """
    n, num_logits = products.shape[:2]
    size = n * num_logits
    whole = products.reshape(size, size) / num_logits
    upper = np.triu(np.ones((n, n)), 1)[:, None, :, None] * products / num_logits
    forward = [np.eye(size)]  # powers of the strictly upper triangle: sums over increasing paths
    for _ in range(max_order - 1):
        forward.append(forward[-1] @ upper.reshape(size, size))
    closed = [whole, *(power @ whole for power in forward[1:])]
    values, influences = np.zeros(max_order), np.zeros((n, max_order))
    for p in range(1, max_order + 1):
        # Row i at place a + 1 of the cycle: a steps lead to it, p - 1 - a on and the last one back to the first.
        through = sum(np.sum(closed[p - 1 - a] * forward[a].T, axis=1) for a in range(p))
        per_row = np.asarray(through).reshape(n, num_logits).sum(axis=1)
        total = per_row.sum() / p
        values[p - 1] = total / math.comb(n, p)
        without = (total - per_row) / math.comb(n - 1, p)
        influences[:, p - 1] = without - without.mean()
    return values, influences


def _classes(labels: npt.NDArray[np.int_]) -> list[Integers]:
    """The examples of each class that has two."""
    found = (np.flatnonzero(labels == y) for y in np.unique(labels))
    return [members for members in found if members.size > 1]


def _pairs(classes: list[Integers], rng: np.random.Generator) -> Integers:
    """A random pairing within each class, (n, 2), in random order."""
    pairs = []
    for members in classes:
        shuffled = rng.permutation(members)
        pairs.append(shuffled[: 2 * (members.size // 2)].reshape(-1, 2))
    return rng.permutation(np.concatenate(pairs))


def _differences(matrix: Floats, pairs: Integers) -> Floats:
    """Inner products (n, C, n, C) of (x_i - x_j) / sqrt 2 over pairs i, j."""
    rows = matrix[pairs[:, 0]] - matrix[pairs[:, 1]]
    products: Floats = (rows[:, :, pairs[:, 0]] - rows[:, :, pairs[:, 1]]) / 2
    return products


def _pair_products(matrix: Floats, classes: list[Integers], rng: np.random.Generator) -> Floats:
    """Inner products of the residuals of a random pairing, (n, r, n, r)."""
    products = _differences(matrix, _pairs(classes, rng))
    n, num_logits = products.shape[:2]
    kept = max(1, min(num_logits, MOST_ROWS // n))
    if kept == num_logits:
        return products
    # E U U^T = (kept / C) I for r orthonormal columns in a random position.
    normal = rng.standard_normal((n, num_logits, kept))
    mixing = np.linalg.qr(normal)[0]
    half = np.matmul(mixing.transpose(0, 2, 1), products.reshape(n, num_logits, -1))
    turned = half.reshape(n, kept, n, num_logits).transpose(2, 3, 0, 1).reshape(n, num_logits, -1)
    mixed: Floats = np.matmul(mixing.transpose(0, 2, 1), turned).reshape(n, kept, n, kept)
    return mixed


def mean_moments(
    source: LogitGradients | LogitGradientGram, max_order: int = 3, *, num_splits: int = 4, rng: Seed = 0
) -> MeanMoments:
    """m^T Sigma^p m of the class means m of logit gradients in the covariance of residuals, without bias.

    Parameters
    ----------
    source : LogitGradients or LogitGradientGram
        With class labels; classes of fewer than four examples are left out.
    max_order : int
        P >= 1, the highest power of Sigma.
    num_splits : int
        Random splits of the examples that the result is the mean of: a quarter for each of two independent means, the
        rest in pairs for the residuals. >= 1.
    rng : seed
        Anything `numpy.random.default_rng` takes; draws the splits.

    Returns
    -------
    MeanMoments

    Raises
    ------
    ValueError
        Where fewer than `max_order` + 1 pairs are left.

    Notes
    -----
    The naive m^T Sigma m with one estimated mean and the same examples' covariance counts the mean's own noise:
    tr Sigma^2 / N_k is added, more than the truth where means have no preferred direction. Errors by leaving out one of
    16 groups of examples in turn.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=200, num_classes=3, num_parameters=100).sample(rng=0)
    >>> moments = rl.mean_moments(draw)  # means of the model have no preferred direction
    >>> abs(moments.alignment - 1.0) < 3 * moments.alignment_error
    True
    """
    order = integer("max_order", max_order, at_least=1)
    count = integer("num_splits", num_splits, at_least=1)
    gram = gram_of(source)
    dealer, *children = spawn(rng, count + 1, "num_splits")
    classes = [m for m in _classes(gram.labels) if m.size >= 4]
    splits = [[child.permutation(members) for members in classes] for child in children]
    # Groups are dealt out to the shuffled classes one after another: all classes lose alike, and all groups are alike.
    group = np.full(gram.num_examples, GROUPS)
    dealt = np.concatenate([np.arange(0), *(dealer.permutation(members) for members in classes)])
    group[dealt] = np.arange(dealt.size) % GROUPS
    everything = np.zeros(gram.num_examples, dtype=bool)
    values = _split_moments(gram.matrix, splits, everything, order)
    left = np.array([_split_moments(gram.matrix, splits, group == g, order) for g in range(GROUPS)])
    spread = (GROUPS - 1) / math.sqrt(GROUPS)  # jackknife: (g - 1) / g times the sum of squares is (g - 1)^2 / g s^2
    return MeanMoments(
        values[:-2],
        spread * left[:, :-2].std(axis=0, ddof=1),
        float(_alignment(values)),
        float(spread * np.std(_alignment(left), ddof=1)),
    )


def _alignment(values: Floats) -> Floats:
    """From m^T Sigma^p m followed by tr Sigma and tr Sigma^2, (..., P + 3)."""
    aligned: Floats = values[..., 1] / values[..., 0] * values[..., -2] / values[..., -1]
    return aligned


def _split_moments(matrix: Floats, splits: list[list[Integers]], left_out: npt.NDArray[np.bool_], order: int) -> Floats:
    """Mean over splits of the moments without some examples, then of tr Sigma and tr Sigma^2, (order + 3,)."""
    mean: Floats = np.mean([_moments_of_split(matrix, split, left_out, order) for split in splits], axis=0)
    return mean


def _moments_of_split(matrix: Floats, split: list[Integers], left_out: npt.NDArray[np.bool_], order: int) -> Floats:
    num_examples, num_logits = matrix.shape[:2]
    weights = np.zeros((2, len(split), num_examples))
    pairs, used = [], []
    for y, members in enumerate(split):
        kept = members[~left_out[members]]
        if kept.size < 4:
            continue
        quarter = kept.size // 4
        for half in range(2):
            weights[half, y, kept[half * quarter : (half + 1) * quarter]] = 1 / quarter
        rest = kept[2 * quarter :]
        pairs.append(rest[: 2 * (rest.size // 2)].reshape(-1, 2))
        used.append(y)
    n = sum(len(of_class) for of_class in pairs)
    if n <= order:
        raise ValueError(
            f"`source` must leave more than {order} pairs of examples, of classes of four or more, for moments up to "
            f"order {order}; got {n}"
        )
    # Pairs of different classes alternate: paths visit them in increasing order.
    places = np.concatenate([np.arange(len(of_class)) / len(of_class) for of_class in pairs])
    chosen = np.concatenate(pairs)[np.argsort(places, kind="stable")]
    first, second = weights[:, used]
    flat = matrix.reshape(num_examples, -1)
    means = [(half @ flat).reshape(len(used), num_logits, num_examples, num_logits) for half in (first, second)]
    values = np.zeros(order + 1)
    # v . v' at p = 0: of the same class and logit.
    values[0] = np.einsum("ykml,ym->k", means[0] * np.eye(num_logits)[None, :, None, :], second).sum()
    ends = [
        ((m[:, :, chosen[:, 0]] - m[:, :, chosen[:, 1]]) / math.sqrt(2)).reshape(len(used) * num_logits, -1)
        for m in means
    ]
    products = _differences(matrix, chosen) / num_logits
    trace = np.trace(products.reshape(n * num_logits, -1)) / n
    upper = np.triu(np.ones((n, n)), 1)[:, None, :, None] * products
    step = upper.reshape(n * num_logits, -1)
    reached = ends[1].T / num_logits
    for p in range(1, order + 1):
        values[p] = np.sum(ends[0].T * reached) / math.comb(n, p)
        reached = step @ reached
    found: Floats = np.append(values / (len(used) * num_logits), [trace, np.sum(step**2) / math.comb(n, 2)])
    return found
