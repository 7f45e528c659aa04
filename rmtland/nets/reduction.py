"""A subspace of a network's parameters: weights between leading directions of their layers' inputs and signals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WORTH = 0.7
"""All directions stay unless fewer than this share of them will do."""


class Focus(NamedTuple):
    """The few signals (q, j) and inputs (r, j) of a weight that vectors are made of, in a subspace's coordinates."""

    signals: Tensor
    inputs: Tensor


class Reduction:
    """W = R B Q^T for the weights W (b, a) of some layers; other tensors whole.

    Q (a, r) are leading directions of the layer's inputs, R (b, q) those of the signals at its output, both
    orthonormal; B are the coordinates. Gradients s x^T become R^T s (Q^T x)^T.

    Attributes
    ----------
    bases : dict of str to (Tensor (b, q) or None, Tensor (a, r) or None)
        R and Q, None for the identity.
    places : dict of str to slice
        Of each tensor in the coordinates.
    size : int
        Number of coordinates.
    biases : dict of str to str
        Of weights the bias that their signals are the gradients of.
    every : int
        One example of so many keeps its signals in all directions beside those in few; 0 for none.
    """

    def __init__(
        self,
        groups: dict[str, slice],
        shapes: dict[str, torch.Size],
        bases: dict[str, tuple[Tensor | None, Tensor | None]],
        biases: dict[str, str],
        *,
        every: int,
    ) -> None:
        self.biases, self.every = biases, every
        self.groups, self.bases = groups, {n: pair for n, pair in bases.items() if any(b is not None for b in pair)}
        self.places: dict[str, slice] = {}
        self._whole = {n: (shapes[n][0], shapes[n][1:].numel()) for n in self.bases}
        self._small: dict[str, tuple[int, int]] = {}
        self.size = 0
        for name, group in groups.items():
            width = group.stop - group.start
            if name in self.bases:
                sizes = zip(self.bases[name], self._whole[name], strict=True)
                b, a = (full if basis is None else basis.shape[1] for basis, full in sizes)
                self._small[name], width = (b, a), a * b
            self.places[name] = slice(self.size, self.size + width)
            self.size += width

    def project(self, rows: Tensor) -> Tensor:
        """Coordinates (k, size) of rows (k, D), those of their nearest points in the subspace."""
        out = rows.new_empty((len(rows), self.size))
        for name, group in self.groups.items():
            part = rows[:, group]
            if name in self.bases:
                part = turned(part.reshape(len(part), *self._whole[name]), *self.bases[name]).flatten(1)
            out[:, self.places[name]] = part
        return out

    def lift(self, rows: Tensor) -> Tensor:
        """Rows (k, D) from their coordinates (k, size)."""
        out = rows.new_empty((len(rows), max(group.stop for group in self.groups.values())))
        for name, group in self.groups.items():
            part = rows[:, self.places[name]]
            if name in self.bases:
                left, right = (None if basis is None else basis.T for basis in self.bases[name])
                part = turned(part.reshape(len(part), *self._small[name]), left, right).flatten(1)
            out[:, group] = part
        return out

    def focus(self, vectors: Tensor, tolerance: float) -> dict[str, Focus]:
        """Of each weight what holds all but a share `tolerance` of vectors (size, m)."""
        weights = [name for name in self._small if name not in self.biases.values()]
        lost = tolerance * vectors.shape[1] / max(len(weights), 1)
        found = {}
        for name in weights:
            block = vectors[self.places[name]].T.reshape(-1, *self._small[name])
            found[name] = Focus(_principal(block.mT.flatten(0, 1), lost), _principal(block.flatten(0, 1), lost))
        return found


def _principal(rows: Tensor, lost: float) -> Tensor:
    """The fewest directions (a, r) that leave out no more than `lost` of the squared lengths of rows (j, a)."""
    values, turn = torch.linalg.eigh(rows.T @ rows)
    left = values.clamp(min=0).cumsum(0)
    few: Tensor = turn[:, min(int((left <= lost).sum()), len(values) - 1) :]
    return few


def turned(matrices: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """R^T M Q for matrices M (..., b, a)."""
    if right is not None:
        matrices = matrices @ right.to(matrices.dtype)
    return matrices if left is None else left.to(matrices.dtype).T @ matrices


def leading(vectors: Tensor, most: int, tolerance: float) -> Tensor | None:
    """The fewest directions (a, r) that hold all but a share `tolerance` of the squared lengths of vectors (j, a).

    At most `most`; None where that is most of a. By one step of a randomised power iteration: Halko, Martinsson and
    Tropp (2011), Finding structure with randomness.
    """
    a = vectors.shape[1]
    width = min(most, a)
    start = torch.randn(a, width, generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(vectors)
    found = torch.linalg.qr(vectors.T @ (vectors @ start))[0]
    images = vectors @ found
    values, turn = torch.linalg.eigh(images.T @ images)
    total = float(vectors.square().sum())
    left = total - values.flip(0).cumsum(0)
    rank = min(int((left > tolerance * total).sum()) + 1, width)
    return found @ turn[:, -rank:] if rank <= WORTH * a else None
