"""How logit gradients cluster by logit and by class: the q-values, in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator, integer, require_memory
from rmtland._arrays import Array, double, like, namespace, to_numpy, told, widest, zeros
from rmtland.logits.accumulate import NO_CHUNK, SharedChunk, accumulate_one
from rmtland.logits.classes import of_classes
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.jackknife import Jackknife
from rmtland.logits.losses import one_hot
from rmtland.logits.pairs import PairSums, row_mean
from rmtland.logits.ranks import first_example

GROUP_BYTES = 2**25
"""Memory for the running sums of all bootstrap groups together, where the number of groups is left open."""
BLOCK_NUMBERS = 2**17
"""Numbers of the sums that are taken to float64 at a time: all of them would take as much memory as the sums."""
MIN_GROUPS, MAX_GROUPS = 32, 256
"""Errors from g groups are known to 1/sqrt(2 g); where fewer than MIN_GROUPS fit, a second pass takes every example."""


@dataclass(frozen=True)
class Clustering:
    """Mean cosines between logit gradients of different examples, with standard errors over examples.

    Attributes
    ----------
    same_logit_same_class, same_logit, different_logits : float
        q_SLSC, q_SL and q_DL of Fort and Ganguli (2019), eqs. (11) to (13); NaN where no pair exists.
    same_logit_same_class_error, same_logit_error, different_logits_error : float
        Standard errors over examples, by bootstrap or jackknife; NaN where none were asked for.
    num_zero_gradients : int
        Logit gradients of length zero: they have no direction and are left out of all averages.
    classes_left_out : tuple of int
        Classes that q_SLSC does not average over, having fewer than two examples (or fewer than two directions).
    num_groups : int
        Groups of examples that the errors compare; num_examples where each is its own group, as in the jackknife.
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

    __repr__ = told


@dataclass(frozen=True)
class ClusteringAccumulator:
    """`clustering` as an accumulator, for `measure`."""

    num_bootstrap: int = 1000
    rng: Seed = 0
    num_groups: int | None = None
    by_example: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if integer("num_bootstrap", self.num_bootstrap, at_least=0) == 1:
            raise ValueError("`num_bootstrap` must be 0 or >= 2; got 1")
        if self.num_groups is not None:
            integer("num_groups", self.num_groups, at_least=2)

    def start(self, source: LogitGradients) -> _Sums:
        """No sums yet; ValueError for fewer than two examples, MemoryError where the sums will not fit."""
        generator(self.rng)
        if source.num_examples < 2:
            raise ValueError(f"`source` must have at least 2 examples to compare; got {source.num_examples}")
        num_groups = 1
        if self.num_bootstrap:
            num_groups = _default_groups(source) if self.num_groups is None else self.num_groups
            num_groups = min(num_groups, source.num_examples)
        require_memory(
            f"the clustering of {source.num_classes} logit gradients in {source.num_parameters} parameters",
            8.0 * 2 * source.num_classes * num_groups * source.num_parameters,
            "use num_groups=None, num_bootstrap=0, a few `classes` or a source of fewer parameters",
        )
        return _Sums.empty(source.num_examples, num_groups, first_example(source))

    def add(self, state: _Sums, chunk: SharedChunk) -> _Sums:
        """The sums of unit vectors with those of a chunk."""
        state.add(chunk)
        return state

    def merge(self, first: _Sums, second: _Sums) -> _Sums:
        """Sums over the examples of both, group by group."""
        return first.merged(second)

    def finish(self, state: _Sums, source: LogitGradients) -> Clustering:
        """The q-values and their errors; the jackknife, where groups would not fit, passes over the source again."""
        state.reduce(source)
        pairs = state.pair_sums()
        num_groups = pairs.within.shape[0]
        jackknife = self.num_bootstrap > 0 and state.num_groups == 1
        resampled: npt.NDArray[Any] = np.ones((0, num_groups))
        if not jackknife:
            need = 16.0 * num_groups * self.num_bootstrap
            require_memory(f"{self.num_bootstrap} resamplings", need, "take fewer `num_bootstrap`")
            equal = np.full(num_groups, 1 / num_groups)
            resampled = generator(self.rng).multinomial(num_groups, equal, size=self.num_bootstrap)
        weights = np.concatenate([np.ones((1, num_groups)), resampled])
        of_class = pairs.same(weights, of_class=True)
        values = np.stack([row_mean(of_class), row_mean(pairs.same(weights, of_class=False)), pairs.different(weights)])
        if jackknife:
            errors = accumulate_one(source, Jackknife(state.units[:, :, 0, :], pairs, values[:, 0]))
        else:
            # Resampling g groups understates the variance by (g - 1)/g; a single group says nothing of it.
            factor = math.sqrt(num_groups / (num_groups - 1)) if num_groups > 1 else math.nan
            errors = [factor * _deviation(row[1:]) for row in values]
        if source.num_classes == 1:
            values[[0, 2]], errors[0], errors[2] = np.nan, math.nan, math.nan
            of_class = np.zeros_like(of_class)
        same_class, same_logit, different = (float(value) for value in values[:, 0])
        return Clustering(
            same_class,
            same_logit,
            different,
            errors[0],
            errors[1],
            errors[2],
            num_zero_gradients=round(source.num_examples * source.num_classes - pairs.counts.sum()),
            classes_left_out=tuple(int(k) for k in np.flatnonzero(np.isnan(of_class[0]))),
            num_groups=source.num_examples if jackknife else num_groups,
        )


def clustering(
    source: LogitGradients,
    *,
    num_bootstrap: int = 1000,
    rng: Seed = 0,
    num_groups: int | None = None,
    classes: Sequence[int] | None = None,
) -> Clustering:
    """The clustering q-values of any source of logit gradients.

    Parameters
    ----------
    source : LogitGradients
        A draw, a network, arrays. Labels are classes 0..C-1; with C = 1 only `same_logit` is defined.
    num_bootstrap : int
        Resamples behind the standard errors, at least 2; 0 for no errors.
    rng : seed
        Seed of the resampling only; the q-values do not depend on it.
    num_groups : int, optional
        Groups of examples for the bootstrap, at least 2: their running sums take 2 C D numbers each. By default as many
        as 32 MiB hold, up to 256 or N; where these would be fewer than 32, the errors come from the jackknife instead,
        in a second pass over the source and with the memory of a single group.
    classes : sequence of int, optional
        Logits that are looked at, and classes; by default all. Of a vocabulary of 50,000 words a few will do.
        `classes_left_out` then counts among them.

    Returns
    -------
    Clustering

    Raises
    ------
    ValueError
        For fewer than two examples, which have no pair, NaN or infinite logit gradients.
    MemoryError
        Where the running sums of all groups do not fit.

    Notes
    -----
    O(N C D) operations and O(C D) memory: with unit vectors u, sum_{mu != nu} u^mu.u^nu = |sum u|^2 - N, and
    for different logits |sum_k u_k|^2 - C is taken off per example. Never all pairs, never all logit gradients at once:
    networks give lengths and sums layer by layer. Pairs of different logits are pooled over (k, l), which for nonzero
    gradients is the average (13).

    Standard errors over examples. Bootstrap: examples are dealt to groups at random (always the same way, in the order
    in which they come), the groups are resampled with replacement, and pairs of copies of one example are left out.
    With g groups the error itself is known to about 1/sqrt(2 g). Jackknife: u . sum u of every example, from a second
    pass, gives the q-values without it exactly; ((N - 1)/N) sum (q_without - mean)^2 is the squared error (Efron 1982),
    known to about 1/sqrt(2 N). A source that yields other examples in its second pass gets other errors.

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
    return accumulate_one(of_classes(source, classes), ClusteringAccumulator(num_bootstrap, rng, num_groups))


def _default_groups(source: LogitGradients) -> int:
    """As many groups as their memory allows; 1, for the jackknife, where that leaves too few."""
    by_sums = GROUP_BYTES // (2 * source.num_classes * source.num_parameters * 8)
    by_grams = max(MIN_GROUPS, math.isqrt(GROUP_BYTES // (16 * source.num_classes)))
    num_groups = min(by_sums, by_grams, MAX_GROUPS, source.num_examples)
    return num_groups if num_groups >= min(MIN_GROUPS, source.num_examples) else 1


def _deviation(values: npt.NDArray[Any]) -> float:
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) if values.size > 1 else float("nan")


@dataclass
class _Sums:
    """Running sums of unit vectors by group, and the scalars that go with them."""

    groups: npt.NDArray[Any]  # (N,) the group of the i-th example that comes
    num_groups: int
    seen: int
    units: Array  # (2, C, g, D) over all examples, and over those of the logit's own class; in the dtype of the rows
    scalars: Array  # (g, 2 C + 3) float64: counts, counts of own class, within, within_pairs, examples

    @classmethod
    def empty(cls, num_examples: int, num_groups: int, first: int = 0) -> _Sums:
        # At random, or the groups of a sorted file would be all of one kind; in turn, or they would differ in size.
        # Where each example is its own group there is nothing to deal.
        order = np.arange(num_examples)
        if 1 < num_groups < num_examples:
            order = np.random.default_rng(0).permutation(num_examples)
        return cls((order % num_groups).astype(np.min_scalar_type(num_groups)), num_groups, first, None, None)

    def add(self, chunk: SharedChunk) -> None:
        lengths, own = chunk.lengths, chunk.own
        n, num_classes = lengths.shape
        xp = namespace(lengths)
        has_direction = xp.astype(lengths > 0, lengths.dtype)
        inverse = has_direction / xp.where(lengths > 0, lengths, xp.ones_like(lengths))
        dealt = xp.asarray(
            np.take(self.groups, np.arange(self.seen, self.seen + n), mode="wrap"), device=lengths.device
        )
        self.seen += n
        deal = one_hot(dealt, self.num_groups, lengths.dtype)
        for k in range(num_classes):
            rows = chunk.logit_rows(k)
            for kind, of_kind in enumerate((inverse[:, k], inverse[:, k] * own[:, k])):
                part = rows.sums(of_kind[:, None] * deal)
                if self.units is None:
                    self.units = zeros(part, (2, num_classes, *part.shape))
                    self.scalars = zeros(lengths, (self.num_groups, 2 * num_classes + 3))
                self.units[kind, k, ...] += part
                del part  # as long as the parameters: not beside the next one
        per_example = xp.sum(has_direction, axis=1)
        across = chunk.rows(like(chunk.logits, inverse)).lengths() ** 2
        scalars = [across - per_example, per_example * (per_example - 1), xp.ones_like(per_example)]
        columns = xp.concat([has_direction, has_direction * own, xp.stack(scalars, axis=1)], axis=1)
        self.scalars += deal.T @ columns

    def merged(self, other: _Sums) -> _Sums:
        if self.units is None or other.units is None:
            return other if self.units is None else self
        self.units += other.units
        self.scalars += other.scalars
        self.seen += other.seen
        return self

    def reduce(self, source: LogitGradients) -> None:
        """Sums over all ranks in place of those of this one."""
        if self.units is None:
            raise RuntimeError(NO_CHUNK)
        self.units, self.scalars = source.reduce(self.units), source.reduce(self.scalars)

    def pair_sums(self) -> PairSums:
        """Gram matrices of the groups' sums, in float64."""
        scalars = to_numpy(self.scalars).T
        num_classes, num_groups = self.units.shape[1], self.num_groups
        filled = scalars[-1] > 0  # several ranks deal into the same groups and may leave the last ones empty
        grams, all_logits = np.zeros((2, num_classes, num_groups, num_groups)), np.zeros((num_groups, num_groups))
        step = max(1, BLOCK_NUMBERS // num_groups)
        for start in range(0, self.units.shape[3], step):
            block = self.units[..., start : start + step]
            total = zeros(self.units, tuple(block.shape[2:]), widest(self.units))
            for k in range(num_classes):
                every, of_class = double(block[0, k, ...]), double(block[1, k, ...])
                grams[0, k] += to_numpy(every @ every.T)
                grams[1, k] += to_numpy(of_class @ of_class.T)
                total += every
            all_logits += to_numpy(total @ total.T)
        return PairSums(
            same_logit=grams[0][:, filled][:, :, filled],
            same_class=grams[1][:, filled][:, :, filled],
            all_logits=all_logits[filled][:, filled],
            counts=scalars[:num_classes, filled],
            class_counts=scalars[num_classes : 2 * num_classes, filled],
            within=scalars[-3, filled],
            within_pairs=scalars[-2, filled],
        )
