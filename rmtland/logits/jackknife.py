"""Standard errors of the q-values from every example's influence, without groups: a second pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, like, namespace, to_numpy
from rmtland.logits.accumulate import SharedChunk, SumAccumulator
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.pairs import PairSums, mean, row_mean


@dataclass(frozen=True, eq=False)
class Jackknife(SumAccumulator[list[float]]):
    """Delete-one errors of q_SLSC, q_SL and q_DL.

    Without example mu every sum over pairs loses 2 (u_mu . sum u - 1), so u_mu . sum u is all that is asked of it.
    """

    units: Array  # (2, C, D) sums of unit vectors over all examples, and over those of the logit's own class
    pairs: PairSums  # of a single group
    values: npt.NDArray[Any]  # (3,) the q-values of all examples
    by_example: ClassVar[bool] = True

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """How many, sum and sum of squares of q_without - q for each q-value, (3, 3)."""
        lengths, own = chunk.lengths, chunk.own
        xp = namespace(lengths)
        inverse = xp.where(lengths > 0, 1 / xp.where(lengths > 0, lengths, xp.ones_like(lengths)), 0)
        overlaps, own_overlaps = np.zeros((2, *lengths.shape))
        for k in range(lengths.shape[1]):
            rows, chosen = chunk.logit_rows(k), np.flatnonzero(to_numpy(own[:, k]))
            overlaps[:, k] = to_numpy(inverse[:, k] * rows.products(self.units[0, k : k + 1, :])[:, 0])
            if chosen.size:
                theirs = rows.chosen(xp.asarray(chosen, device=lengths.device)).products(self.units[1, k : k + 1, :])
                own_overlaps[chosen, k] = to_numpy(inverse[:, k])[chosen] * to_numpy(theirs[:, 0])
        across = chunk.rows(like(chunk.logits, inverse))
        total = namespace(self.units).sum(self.units[0, ...], axis=0)
        changes = self._changes(
            to_numpy(lengths) > 0,
            to_numpy(own) > 0,
            (overlaps, own_overlaps, to_numpy(across.products(total[None, :])[:, 0])),
            to_numpy(across.lengths()) ** 2,
        )
        return (like(lengths, changes.astype(to_numpy(lengths[:0]).dtype)),)

    def _changes(
        self,
        some: npt.NDArray[np.bool_],
        own: npt.NDArray[np.bool_],
        overlaps: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]],
        squares: npt.NDArray[Any],
    ) -> npt.NDArray[Any]:
        pairs = self.pairs

        def without(full: npt.NDArray[Any], counts: npt.NDArray[Any], has: Any, overlap: Any) -> npt.NDArray[Any]:
            left = counts - has
            return row_mean(mean(full - counts - 2 * (overlap - has), left * (left - 1)))

        has, number = some.astype(float), some.sum(axis=1)
        counts, class_counts = pairs.counts[:, 0], pairs.class_counts[:, 0]
        # Of different logits: |sum_k u_k|^2 over all, less the pairs of one logit, less those at one example.
        within = squares - number
        cross = pairs.all_logits[0, 0] - pairs.same_logit.sum() - pairs.within[0]
        left = counts - has
        num_pairs = left.sum(axis=1) ** 2 - (left**2).sum(axis=1) - (pairs.within_pairs[0] - number * (number - 1))
        q = np.stack(
            [
                without(pairs.same_class[:, 0, 0], class_counts, (some & own).astype(float), overlaps[1]),
                without(pairs.same_logit[:, 0, 0], counts, has, overlaps[0]),
                mean(cross - 2 * (overlaps[2] - overlaps[0].sum(axis=1)) + 2 * within, num_pairs),
            ]
        )
        changes = q - self.values[:, None]
        known = ~np.isnan(changes)
        changes = np.where(known, changes, 0)
        return np.stack([known.sum(axis=1), changes.sum(axis=1), (changes**2).sum(axis=1)])

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> list[float]:
        """Root of (N - 1)/N sum (q_without - mean)^2 for each."""
        number, first, second = to_numpy(sums[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = np.where(number > 1, (number - 1) / number * (second - first**2 / number), np.nan)
        return [float(error) for error in np.sqrt(np.maximum(squares, 0))]
