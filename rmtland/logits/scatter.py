"""How far the spread within classes, known from some of the examples, may be off along given directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, double, like, namespace, to_numpy
from rmtland.logits.accumulate import SharedChunk

Floats = npt.NDArray[np.float64]

NUM_GROUPS = 16
"""Groups of examples whose scatter tells the error of their mean."""


@dataclass
class Scatter:
    """Sums over groups of examples of p_{i,c'} (g_{i,c,c'} . v)^2 about any centres, for directions v.

    Examples are dealt to the groups in turn, so that sums do not depend on chunks.

    Parameters
    ----------
    num_classes, width : int
        C, and directions m.
    by_pair : bool
        Centres are those of pairs of classes, or of each class for the others and for itself.
    """

    num_classes: int
    width: int
    by_pair: bool
    squares: Floats = field(init=False)  # (groups, m, m)
    sums: Floats = field(init=False)  # (groups, cells, m)
    weights: Floats = field(init=False)  # (groups, cells)
    sizes: Floats = field(init=False)  # (groups,)

    def __post_init__(self) -> None:
        cells = self.num_classes * (self.num_classes if self.by_pair else 2)
        self.squares = np.zeros((NUM_GROUPS, self.width, self.width))
        self.sums = np.zeros((NUM_GROUPS, cells, self.width))
        self.weights = np.zeros((NUM_GROUPS, cells))
        self.sizes = np.zeros(NUM_GROUPS)

    def add(self, chunk: SharedChunk, pushed: Array, seen: int) -> None:
        """Add examples with J V (n, C, m), the first of them number `seen`."""
        chances = chunk.loss.loss.probabilities(double(chunk.logits))
        along = double(pushed)
        along = along - namespace(along).sum(chances[:, :, None] * along, axis=1, keepdims=True)  # g_{i,c,c'} . v
        if chunk.weights is not None:
            chances = double(chunk.weights)[:, None] * chances
        weighed = chances[:, :, None] * along
        for group in range(NUM_GROUPS):
            some = slice((group - seen) % NUM_GROUPS, None, NUM_GROUPS)
            one, other, own = weighed[some, ...], along[some, ...], chunk.own[some, ...]
            n = int(one.shape[0])
            if n == 0:
                continue
            self.squares[group] += to_numpy(one.reshape(-1, self.width).T @ other.reshape(-1, self.width))
            of_pairs = to_numpy(own.T @ one.reshape(n, -1)).reshape(self.num_classes, self.num_classes, self.width)
            self.sums[group] += self._by_cell(of_pairs)
            self.weights[group] += self._by_cell(to_numpy(own.T @ chances[some, ...])[:, :, None])[:, 0]
            self.sizes[group] += n

    def _by_cell(self, of_pairs: Floats) -> Floats:
        """(C, C, j) to (cells, j)."""
        if self.by_pair:
            return of_pairs.reshape(self.num_classes**2, -1)
        own = of_pairs[np.arange(self.num_classes), np.arange(self.num_classes)]
        return np.concatenate([of_pairs.sum(axis=1) - own, own])

    def reduced(self, reduce: Callable[[Array], Array], kind: Array) -> None:
        """Sums over ranks."""
        for name in ("squares", "sums", "weights", "sizes"):
            setattr(self, name, to_numpy(reduce(like(kind, getattr(self, name)))).astype(np.float64))

    def deviations(self, centres: Floats, inside: Floats, share: float) -> Floats:
        """Standard deviations (k,) of the mean over these examples, for u = V `inside`, (m, k).

        `centres` are the cells' means along V, (cells, m); `share` is the share of the examples that are not here:
        where it is 0 the mean is no estimate.
        """
        known = self.sizes > 0
        if known.sum() < 2 or not inside.size:
            return np.zeros(inside.shape[1])
        middle = centres @ inside
        q = np.einsum("gij,ik,jk->gk", self.squares, inside, inside)
        q = q - 2 * np.einsum("gck,ck->gk", self.sums @ inside, middle) + self.weights @ middle**2
        means = q[known] / self.sizes[known][:, None]
        deviations: Floats = means.std(axis=0, ddof=1) * np.sqrt(share / known.sum())
        return deviations
