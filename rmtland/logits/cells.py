"""The part of G that means of gradients make up, F F^T, by the sums that come out of a pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland.logits.cross_class import known_weights

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """F in F F^T <= G, (D, r): means of some gradients, times the roots of their weights over n; F^T = turn @ sums.

    The sums stay as they came: C^2 D numbers are read a few times and never copied.

    Attributes
    ----------
    turn : ndarray (r, s)
    weights : ndarray (r,)
        Of each mean, over n.
    """

    turn: Floats
    weights: Floats

    @classmethod
    def of(cls, pair_weights: Floats, keeps_pairs: bool, rounding: float) -> Cells:
        """From p_{c,c'} / n, (C, C), whether sums are those of pairs (C^2, D) or of classes (C, D), and their error."""
        num_classes = len(pair_weights)
        own = np.eye(num_classes, dtype=bool)
        if keeps_pairs:
            weights = known_weights(pair_weights, rounding).reshape(-1)
            plain = np.diag((~own).ravel().astype(float))
            # sum_c' p_{i,c'} g_{i,c,c'} = 0: the own class's sum is minus that of the others.
            plain[np.flatnonzero(own)] = -np.repeat(np.eye(num_classes), num_classes, axis=1) * ~own.ravel()
        else:
            others = (pair_weights * ~own).sum(axis=1)
            weights = np.concatenate([others, np.diag(pair_weights)])
            plain = np.concatenate([np.eye(num_classes), -np.eye(num_classes)])
        return cls(_inverse_root(weights)[:, None] * plain, weights)

    @property
    def inverse_root(self) -> Floats:
        """1 / sqrt(weights), and zero for zero."""
        return _inverse_root(self.weights)


def _inverse_root(weights: Floats) -> Floats:
    return (weights > 0) / np.sqrt(np.where(weights > 0, weights, 1.0))
