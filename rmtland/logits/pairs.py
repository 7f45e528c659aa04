"""Mean cosines over pairs of different examples, from Gram matrices of groups' sums of unit vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PairSums:
    """Sums of cosines over pairs as quadratic forms in the weights of the groups, from which every q-value follows.

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
        return mean(total, (weights @ counts.T) ** 2 - itself)

    def different(self, weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Mean cosine over pairs of different logits at different examples (B,)."""
        cross = self.all_logits - self.same_logit.sum(axis=0)
        counts = weights @ self.counts.T
        pairs = counts.sum(axis=1) ** 2 - (counts**2).sum(axis=1) - weights**2 @ self.within_pairs
        return mean(((weights @ cross) * weights).sum(axis=1) - weights**2 @ self.within, pairs)


def mean(total: npt.NDArray[Any], pairs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Total over pairs; NaN where there is no pair."""
    some = pairs > 0.5
    return np.where(some, total / np.where(some, pairs, 1), np.nan)


def row_mean(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean over the entries of each row that are not NaN."""
    some = ~np.isnan(values)
    return mean(np.where(some, values, 0).sum(axis=1), some.sum(axis=1))
