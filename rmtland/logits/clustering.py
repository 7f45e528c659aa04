"""How logit gradients cluster by logit and by class: the q-values, in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator, integer, require_memory
from rmtland._arrays import Array, double, namespace, to_numpy, zeros
from rmtland.logits.accumulate import checked_blocks, require_finite
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.losses import one_hot

GROUP_BYTES = 2**25
"""Memory for the running sums of all bootstrap groups together; fewer, larger groups where D is large."""
BLOCK_BYTES = 2**22
"""Memory for the unit vectors that are summed at a time: what a cache holds."""
MIN_GROUPS, MAX_GROUPS = 8, 256


@dataclass(frozen=True)
class Clustering:
    """Mean cosines between logit gradients of different examples, with standard errors over examples.

    Attributes
    ----------
    same_logit_same_class, same_logit, different_logits : float
        q_SLSC, q_SL and q_DL of Fort and Ganguli (2019), eqs. (11) to (13); NaN where no pair exists.
    same_logit_same_class_error, same_logit_error, different_logits_error : float
        Bootstrap standard errors over examples; NaN without a bootstrap.
    num_zero_gradients : int
        Logit gradients of length zero: they have no direction and are left out of all averages.
    classes_left_out : tuple of int
        Classes that q_SLSC does not average over, having fewer than two examples (or fewer than two directions).
    num_groups : int
        Groups of examples that the bootstrap resampled; num_examples where each is its own group.
    """

    same_logit_same_class: float
    same_logit: float
    different_logits: float
    same_logit_same_class_error: float
    same_logit_error: float
    different_logits_error: float
    num_zero_gradients: int
    classes_left_out: tuple[int, ...]
    num_groups: int


@dataclass(frozen=True)
class _GroupSums:
    """Quadratic forms in the weights of the groups, from which every q-value follows.

    With w_g copies of group g, sums over pairs of different examples are w^T gram w minus the pairs of an example
    with itself, w^2 . self.
    """

    same_logit: npt.NDArray[Any]  # (C, g, g) inner products of the groups' sums of unit vectors
    same_class: npt.NDArray[Any]  # (C, g, g) the same over the examples of class k for logit k
    all_logits: npt.NDArray[Any]  # (g, g) of the sums over logits
    counts: npt.NDArray[Any]  # (C, g) directions of logit k
    class_counts: npt.NDArray[Any]  # (C, g) directions of logit k at examples of class k
    within: npt.NDArray[Any]  # (g,) cosines of different logits at one example, summed over ordered pairs
    within_pairs: npt.NDArray[Any]  # (g,) how many such pairs

    def same(self, weights: npt.NDArray[Any], of_class: bool) -> npt.NDArray[Any]:
        """Mean cosine per logit (B, C) at group weights (B, g); NaN where there is no pair."""
        gram, counts = (self.same_class, self.class_counts) if of_class else (self.same_logit, self.counts)
        itself = weights**2 @ counts.T
        # Logit by logit: all at once would take B C g numbers, gigabytes at C = 1000.
        total = np.stack([((weights @ of_logit) * weights).sum(axis=1) for of_logit in gram], axis=1) - itself
        return _mean(total, (weights @ counts.T) ** 2 - itself)

    def different(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Mean cosine over pairs of different logits at different examples (B,)."""
        cross = self.all_logits - self.same_logit.sum(axis=0)
        counts = weights @ self.counts.T
        pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1) - weights**2 @ self.within_pairs
        return _mean(((weights @ cross) * weights).sum(axis=1) - weights**2 @ self.within, pairs)


def _mean(total: npt.NDArray[Any], pairs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    some = pairs > 0.5
    return np.where(some, total / np.where(some, pairs, 1), np.nan)


def _row_mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean over the entries of each row that are not NaN."""
    some = ~np.isnan(values)
    return _mean(np.where(some, values, 0).sum(axis=1), some.sum(axis=1))


def clustering(source: LogitGradients, *, num_bootstrap: int = 1000, rng: Seed = 0) -> Clustering:
    """The clustering q-values of any source of logit gradients.

    Parameters
    ----------
    source : LogitGradients
        A draw, a network, arrays. Labels are classes 0..C-1; with C = 1 only `same_logit` is defined.
    num_bootstrap : int
        Resamples behind the standard errors, at least 2; 0 for none, which needs the least memory.
    rng : seed
        Seed of the resampling only; the q-values do not depend on it.

    Returns
    -------
    Clustering

    Raises
    ------
    ValueError
        For fewer than two examples, which have no pair, NaN or infinite logit gradients.
    MemoryError
        Where the running sums, 2 C D numbers for each of at least eight groups (one without bootstrap), do not fit.

    Notes
    -----
    One pass, O(N C D) operations and O(C D) memory: with unit vectors u, sum_{mu != nu} u^mu.u^nu = |sum u|^2 - N, and
    for different logits |sum_k u_k|^2 - C is taken off per example. Never all pairs, never all logit gradients at once.
    Pairs of different logits are pooled over (k, l), which for nonzero gradients is the average (13). Lengths are
    relative to each gradient's largest entry where their squares would underflow or overflow.

    Standard errors: examples are dealt into groups whose sums are kept (as many groups as 32 MiB hold, each example its
    own group if they all fit, never below eight) and the groups are resampled with replacement; pairs of copies of
    one example are left out. With g groups the standard error itself is known to about 1/sqrt(2 g).

    References
    ----------
    Fort and Ganguli (2019), Emergent properties of the local geometry of neural loss landscapes, eqs. (11)-(13).

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=5, num_parameters=400)
    >>> q = rl.clustering(model.sample(rng=0))
    >>> abs(q.same_logit - model.snr / (1 + model.snr)) < 0.05
    True
    """
    if integer("num_bootstrap", num_bootstrap, at_least=0) == 1:
        raise ValueError("`num_bootstrap` must be 0 or >= 2; got 1")
    if source.num_examples < 2:
        raise ValueError(f"`source` must have at least 2 examples to compare; got {source.num_examples}")
    sums, num_zero = _group_sums(source, grouped=num_bootstrap > 0)
    num_groups = sums.within.shape[0]
    resampled = generator(rng).multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=num_bootstrap)
    weights = np.concatenate([np.ones((1, num_groups)), resampled])
    of_class = sums.same(weights, of_class=True)
    values = np.stack([_row_mean(of_class), _row_mean(sums.same(weights, of_class=False)), sums.different(weights)])
    if source.num_classes == 1:
        values[[0, 2]] = np.nan
        of_class = np.zeros_like(of_class)
    # Resampling g groups understates the variance by (g - 1)/g; a single group says nothing of it.
    factor = math.sqrt(num_groups / (num_groups - 1)) if num_groups > 1 else math.nan
    errors = [factor * _deviation(row[1:]) for row in values]
    return Clustering(
        same_logit_same_class=float(values[0, 0]),
        same_logit=float(values[1, 0]),
        different_logits=float(values[2, 0]),
        same_logit_same_class_error=errors[0],
        same_logit_error=errors[1],
        different_logits_error=errors[2],
        num_zero_gradients=num_zero,
        classes_left_out=tuple(int(k) for k in np.flatnonzero(np.isnan(of_class[0]))),
        num_groups=num_groups,
    )


def _deviation(values: npt.NDArray[Any]) -> float:
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")


def _num_groups(source: LogitGradients, itemsize: int) -> int:
    by_sums = GROUP_BYTES // (2 * source.num_classes * source.num_parameters * itemsize)
    by_grams = math.isqrt(GROUP_BYTES // (16 * source.num_classes))
    return min(source.num_examples, int(np.clip(min(by_sums, by_grams), MIN_GROUPS, MAX_GROUPS)))


def _squares(gradients: Array) -> Array:
    """Squared lengths (n, C) of logit gradients (n, C, D)."""
    xp = namespace(gradients)
    total = zeros(gradients, gradients.shape[:2])
    # BLAS splits a dot product of more than 10,000 entries between threads, and the threads wait for each other.
    for start in range(0, gradients.shape[2], 8192):
        block = gradients[:, :, start : start + 8192]
        total = total + xp.vecdot(block, block)
    return total


def _unit_vectors(gradients: Array) -> tuple[Array, Array]:
    """Logit gradients (n, C, D) divided by their lengths, zero ones staying zero, and which are not zero (n, C)."""
    xp = namespace(gradients)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = _squares(gradients)
    limits = xp.finfo(gradients.dtype)
    safe = float(limits.smallest_normal) / float(limits.eps) ** 2
    if not bool(xp.all((squares > safe) & (squares <= limits.max))):
        # Zero, or so small or large that the squares underflow or overflow: measured by the largest entry instead.
        largest = xp.maximum(xp.max(gradients, axis=2), -xp.min(gradients, axis=2))
        require_finite(largest)
        gradients = gradients / xp.where(largest > 0, largest, xp.ones_like(largest))[:, :, None]
        squares = _squares(gradients)
    inverse = 1 / xp.sqrt(xp.where(squares > 0, squares, xp.ones_like(squares)))
    return gradients * inverse[:, :, None], squares > 0


def _group_sums(source: LogitGradients, grouped: bool) -> tuple[_GroupSums, int]:
    """One pass over the source: group sums of unit vectors, then their Gram matrices in float64."""
    num_classes, num_parameters = source.num_classes, source.num_parameters
    unit_sums: Array = None
    first = 0
    for chunk in checked_blocks(source):
        gradients, labels = chunk.dense(), to_numpy(chunk.labels)
        xp = namespace(gradients)
        n = int(gradients.shape[0])
        if unit_sums is None:
            itemsize = gradients.dtype.itemsize
            num_groups = _num_groups(source, itemsize) if grouped else 1
            require_memory(
                f"the clustering of {num_classes} logit gradients in {num_parameters} parameters",
                2.0 * num_classes * num_groups * num_parameters * itemsize,
                "use num_bootstrap=0 (a single group), or a source of fewer parameters,",
            )
            # Per group and logit, over all examples and (second) those of the logit's own class. In the source's dtype:
            # 1e-7 of a mean of unit vectors is far below its sampling error; Gram matrices are taken in float64.
            unit_sums = zeros(gradients, (num_groups, 2, num_classes, num_parameters))
            scalars = zeros(gradients, (num_groups, 2 * num_classes + 3), xp.float64)
        own = xp.zeros_like(gradients[:, :, 0])
        if num_classes > 1:
            own = one_hot(chunk.labels, num_classes, gradients.dtype)
        # Dealt out in turn, so that examples sorted by class do not end up in groups of one class; few examples at a
        # time, which stay in the cache. Element by element: products as thin as these would wait for BLAS threads.
        few = num_groups * max(1, BLOCK_BYTES // (num_classes * num_parameters * itemsize))
        for start in (begin + offset for offset in range(min(n, num_groups)) for begin in range(0, n - offset, few)):
            group, part = (first + start) % num_groups, slice(start, start + few, num_groups)
            units, some = _unit_vectors(gradients[part, ...])  # (m, C, D), (m, C)
            unit_sums[group, 0, ...] += xp.sum(units, axis=0)
            for example, label in enumerate(labels[part] if num_classes > 1 else ()):
                unit_sums[group, 1, int(label), :] += units[example, int(label), :]
            across = xp.sum(units, axis=1)
            has_direction = xp.astype(some, gradients.dtype)
            per_example = xp.sum(has_direction, axis=1)
            scalars[group, :] += xp.concat(
                [
                    xp.sum(double(has_direction), axis=0),
                    xp.sum(double(own[part, :] * has_direction), axis=0),
                    xp.sum(double(xp.sum(across * across, axis=1) - per_example), axis=0, keepdims=True),
                    xp.sum(double(per_example * (per_example - 1)), axis=0, keepdims=True),
                    xp.sum(xp.ones_like(double(per_example)), axis=0, keepdims=True),
                ]
            )
        first += n
    unit_sums, scalars = source.reduce(unit_sums), to_numpy(source.reduce(scalars))
    scalars = scalars.T
    filled = scalars[-1] > 0  # several ranks deal into the same groups and may leave the last ones empty
    grams = np.empty((2, num_classes, num_groups, num_groups))
    total = zeros(unit_sums, (num_groups, num_parameters), namespace(unit_sums).float64)
    for k in range(num_classes):
        every, of_class = double(unit_sums[:, 0, k, :]), double(unit_sums[:, 1, k, :])
        grams[0, k], grams[1, k] = to_numpy(every @ every.T), to_numpy(of_class @ of_class.T)
        total = total + every
    counts = scalars[:num_classes]
    sums = _GroupSums(
        same_logit=grams[0][:, filled][:, :, filled],
        same_class=grams[1][:, filled][:, :, filled],
        all_logits=to_numpy(total @ total.T)[filled][:, filled],
        counts=counts[:, filled],
        class_counts=scalars[num_classes : 2 * num_classes, filled],
        within=scalars[-3, filled],
        within_pairs=scalars[-2, filled],
    )
    return sums, round(source.num_examples * num_classes - counts.sum())
