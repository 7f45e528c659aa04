"""Gram matrices of weighted logit gradients, tensor by tensor, without rows of D numbers.

Rows are r_(mu j) = J_mu^T l_j(mu) for r columns l_j of each example. A weight matrix used once has r = s x^T, so that
the Gram matrix is (X X^T) o (S S^T); used at P positions it is a sum over pairs of positions, or the product of
gradients written out a block of columns at a time, whichever costs less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg.blas import dsyrk
from torch import Tensor

from rmtland._arrays import to_numpy, where_double_is
from rmtland.logits.accumulate import checked_chunks, parts_of, prototype, same_order
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.ranks import gathered, gathered_objects, is_mine, own_examples
from rmtland.logits.rows import RowsChunk
from rmtland.nets.layer_pieces import (
    EmbeddingPiece,
    FormedPiece,
    MatrixPiece,
    Piece,
    better_written,
    finished_on,
    written_numbers,
)
from rmtland.nets.layer_rows import Layers

STORE_BYTES = 2**30
"""Memory for layer inputs and signals of all examples; layers that do not fit wait for another pass."""
BLOCK_BYTES = 2**27
"""Memory for a block of rows written out, or of pairs of positions."""
ELEMENTWISE = 16
"""What a product of two numbers costs outside a matrix product, in multiplications within one."""

Columns = Callable[[Any], Tensor]


class Store(Protocol):
    """The pieces of one tensor for all examples, direction by direction."""

    by_example: ClassVar[tuple[str, ...]]
    """Names of the arrays (N, ...) that are kept."""

    def add(self, example: int, direction: int, piece: Piece) -> None:
        """Put in the pieces of examples from `example` on."""

    def add_to(self, matrix: Tensor, block_bytes: int) -> None:
        """Add the tensor's matrix, at least its lower triangle, with `block_bytes` for blocks of it at work."""

    def products(self, vector: Tensor) -> Tensor:
        """Inner products (N, r) of the rows with a vector (d,), both float64; nothing of use on the other side.

        In float64, or an eigenvector of small eigenvalue would show the rounding in place of its share.
        """


class OuterStore:
    """sum r r^T, (d, d): the smaller side where there are more rows than parameters. Nothing is stored."""

    by_example: ClassVar[tuple[str, ...]] = ()

    def __init__(self, size: int, like: Tensor) -> None:
        self.matrix = like.new_zeros((size, size), dtype=torch.float64)

    def add(self, example: int, direction: int, piece: Piece) -> None:
        """Add examples' rows."""
        rows = piece.formed().double()
        add_gram(self.matrix, rows.T)

    def add_to(self, matrix: Tensor, block_bytes: int) -> None:
        """Add sum r r^T."""
        matrix += self.matrix

    def products(self, vector: Tensor) -> Tensor:
        """The rows are gone."""
        return vector.new_zeros((1, 1))


class FormedStore:
    """Rows written out, (N, r, d): no more numbers than the signals they come from."""

    by_example: ClassVar[tuple[str, ...]] = ("rows",)

    def __init__(self, num_examples: int, num_directions: int, size: int, like: Tensor) -> None:
        self.rows = like.new_zeros((num_examples, num_directions, size))

    def add(self, example: int, direction: int, piece: Piece) -> None:
        """Put in examples' rows."""
        formed = piece.formed()
        self.rows[example : example + len(formed), direction] = formed

    def add_to(self, matrix: Tensor, block_bytes: int) -> None:
        """Add R R^T, some columns at a time."""
        rows = self.rows.flatten(0, 1)
        width = max(1, block_bytes // (8 * len(rows)))
        for block in torch.split(rows, width, dim=1):
            add_gram(matrix, block.double())

    def products(self, vector: Tensor) -> Tensor:
        """R v."""
        return torch.stack([rows.double() @ vector for rows in self.rows])


class PairStore:
    """Inputs (N, g, a, P) and signals (N, r, g, b, P) of a weight matrix."""

    by_example: ClassVar[tuple[str, ...]] = ("inputs", "signals")

    def __init__(self, num_examples: int, num_directions: int) -> None:
        self.num_examples, self.num_directions = num_examples, num_directions
        self.inputs = self.signals = torch.empty(0, device="cpu")  # made with the first piece, which knows the shapes

    def add(self, example: int, direction: int, piece: Piece) -> None:
        """Put in examples' signals, and their inputs: once where all directions share them, else for each."""
        assert isinstance(piece, MatrixPiece)
        own = 1 if piece.shared else self.num_directions
        if not self.signals.numel():
            self.inputs = piece.inputs.new_zeros((self.num_examples, own, *piece.inputs.shape[1:]))
            self.signals = piece.signals.new_zeros((self.num_examples, self.num_directions, *piece.signals.shape[1:]))
        part = slice(example, example + len(piece.signals))
        self.signals[part, direction] = piece.signals
        if direction < own:
            self.inputs[part, direction] = piece.inputs

    def add_to(self, matrix: Tensor, block_bytes: int) -> None:
        """Add the Gram matrix, group by group of a grouped convolution."""
        inputs, signals = self.inputs, self.signals
        if inputs.shape[1] > 1:  # each direction with inputs of its own counts as an example
            inputs, signals = inputs.flatten(0, 1)[:, None], signals.flatten(0, 1)[:, None]
        num_examples, num_directions = signals.shape[:2]
        for group in range(inputs.shape[2]):
            x, s = inputs[:, 0, group], signals[:, :, group]  # (n, a, P), (n, r, b, P)
            (a, positions), b = x.shape[1:], s.shape[2]
            by_pairs = positions**2 * (b + a / num_directions**2 + ELEMENTWISE)
            if by_pairs <= a * b:
                add_pairs(matrix, _inner(x.mT.flatten(0, 1), positions), s, block_bytes)
            else:
                width = max(1, block_bytes // (8 * num_examples * num_directions * a))
                for block in torch.split(s, width, dim=2):
                    rows = block.flatten(1, 2) @ x.mT  # (n, r width, a)
                    add_gram(matrix, rows.reshape(num_examples * num_directions, -1).double())

    def products(self, vector: Tensor) -> Tensor:
        """sum_p s_p . V x_p, V the vector as a matrix."""
        found = []
        matrices = vector.reshape(self.signals.shape[2], self.signals.shape[3], -1)  # (g, b, a)
        for inputs, signals in zip(self.inputs, self.signals, strict=True):
            found.append(((matrices @ inputs.double()) * signals.double()).sum(dim=(1, 2, 3)))
        return torch.stack(found)


class EmbeddingStore:
    """Indices (N, P) and signals (N, r, e, P) of a table."""

    by_example: ClassVar[tuple[str, ...]] = ("indices", "signals")

    def __init__(self, num_examples: int, num_directions: int) -> None:
        self.num_examples, self.num_directions = num_examples, num_directions
        self.indices = self.signals = torch.empty(0, device="cpu")

    def add(self, example: int, direction: int, piece: Piece) -> None:
        """Put in examples' signals, and which entries they looked up."""
        assert isinstance(piece, EmbeddingPiece)
        if not self.signals.numel():
            self.indices = piece.indices.new_zeros((self.num_examples, *piece.indices.shape[1:]))
            self.signals = piece.signals.new_zeros((self.num_examples, self.num_directions, *piece.signals.shape[1:]))
        part = slice(example, example + len(piece.signals))
        self.signals[part, direction], self.indices[part] = piece.signals, piece.indices

    def add_to(self, matrix: Tensor, block_bytes: int) -> None:
        """Add the Gram matrix: signals meet where they go to the same entry."""

        def kernel(first: slice, second: slice) -> Tensor:
            return (self.indices[first][:, :, None, None] == self.indices[second][None, None]).double()

        add_pairs(matrix, kernel, self.signals, block_bytes)

    def products(self, vector: Tensor) -> Tensor:
        """sum_p s_p . v at the entry looked up."""
        table = vector.reshape(-1, self.signals.shape[2])
        pairs = zip(self.indices, self.signals, strict=True)
        return torch.stack([(table[looked].T * signals.double()).sum(dim=(1, 2)) for looked, signals in pairs])


def _inner(rows: Tensor, positions: int) -> Callable[[slice, slice], Tensor]:
    def kernel(first: slice, second: slice) -> Tensor:
        parts = [rows[s.start * positions : s.stop * positions].double() for s in (first, second)]
        return (parts[0] @ parts[1].T).reshape(first.stop - first.start, positions, -1, positions)

    return kernel


def add_pairs(
    matrix: Tensor, kernel: Callable[[slice, slice], Tensor], signals: Tensor, block_bytes: int = BLOCK_BYTES
) -> None:
    """Add sum_pq kernel(mu p, nu q) (s_(mu j p) . s_(nu i q)) for signals (n, r, b, P) to the lower triangle."""
    n, r, _, positions = signals.shape
    rows = signals.mT  # (n, r, P, b)
    size = max(1, math.isqrt(block_bytes // 8) // (r * positions))
    blocks = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    for i, first in enumerate(blocks):
        left = rows[first].flatten(0, 2).double()
        for second in blocks[: i + 1]:
            right = rows[second].flatten(0, 2).double()
            shape = (first.stop - first.start, r, positions, second.stop - second.start, r, positions)
            products = (left @ right.T).reshape(shape)
            products *= kernel(first, second)[:, None, :, :, None, :]
            block = products.sum(dim=(2, 5)) if positions > 1 else products[:, :, 0, :, :, 0]
            matrix[first.start * r : first.stop * r, second.start * r : second.stop * r] += block.reshape(
                shape[0] * r, shape[3] * r
            )


def add_gram(matrix: Tensor, rows: Tensor) -> None:
    """Add rows rows^T (float64) to the lower triangle of `matrix`."""
    if matrix.device.type == "cpu":
        # The library's symmetric product does half the work, in place. Its matrices are stored by columns.
        transposed = rows.numpy().T
        dsyrk(1.0, transposed, beta=1.0, c=matrix.numpy().T, trans=1, lower=0, overwrite_c=1)
    else:
        matrix.addmm_(rows, rows.T)


def _store(piece: Piece, num_examples: int, num_directions: int, outer: bool) -> Store:
    if outer:
        first = piece.chosen(torch.zeros(1, dtype=torch.int64, device="cpu")).formed()
        return OuterStore(first.shape[1], first)
    if isinstance(piece, EmbeddingPiece):
        return EmbeddingStore(num_examples, num_directions)
    if isinstance(piece, FormedPiece):
        return FormedStore(num_examples, num_directions, piece.gradients.shape[1], piece.gradients)
    if better_written(piece):
        return FormedStore(num_examples, num_directions, written_numbers(piece), piece.signals)
    return PairStore(num_examples, num_directions)


def _symmetric(matrix: Tensor, size: int = 1024) -> Tensor:
    """The lower triangle put into the upper, in place: of 10,000 rows a copy would take 800 MB."""
    for start in range(0, len(matrix), size):
        block = slice(start, start + size)
        corner = matrix[block, block]
        matrix[block, block] = corner.tril() + corner.tril(-1).T
        matrix[block, start + size :] = matrix[start + size :, block].T
    return matrix


def layer_matrices(
    source: LogitGradients,
    layers: Layers | None,
    columns: Columns,
    vector: Tensor,
    lists: Sequence[Sequence[str]],
    outer: Sequence[bool],
    memory: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each list of tensors: its matrix in float64, and the rows' inner products with `vector`.

    Parameters
    ----------
    source : LogitGradients
        Of a network.
    layers : Layers
        Of the same; None on a rank without examples.
    columns : callable
        From a chunk to its cotangents (n, C, r).
    vector : tensor (D,)
        The gradient.
    lists : sequence of sequences of str
        Tensors of parameters.
    outer : sequence of bool
        For each list, which side: the Gram matrix (N r, N r) of its rows, or (lists of a single tensor) sum r r^T.
    memory : int, optional
        Bytes for layer inputs and signals, where that is less than `STORE_BYTES`, with at most an eighth for blocks.

    Yields
    ------
    matrix, products : tensor
        Products (N r,), float64; zeros with the other side.

    Raises
    ------
    RuntimeError
        Where a source changes the order of its examples between passes, of which large networks take several.
    """
    block_bytes = BLOCK_BYTES if memory is None else min(BLOCK_BYTES, memory // 8)
    store_bytes = STORE_BYTES if memory is None else min(STORE_BYTES, memory - block_bytes)
    vector = where_double_is(vector)
    wanted = [name for one in lists for name in one]
    sides = {name: side for one, side in zip(lists, outer, strict=True) for name in one}
    before: npt.NDArray[np.float64] | None = None
    stores: dict[str, Store] = {}
    collected: set[str] = set()
    num_rows = 0
    for one, side in zip(lists, outer, strict=True):
        matrix = seen = vector[:0]
        for name in one:
            if name not in collected:
                batch = _batch(source, layers, [n for n in wanted if n not in collected], sides, store_bytes)
                # The first rank with examples decides.
                batch = next(names for names in gathered_objects(source, batch) if names)
                found, num_rows, before = _collect(source, columns, {n: sides[n] for n in batch}, before)
                stores |= found
                collected |= set(batch)
            group = source.parameter_groups[name]
            if not len(matrix):
                size = group.stop - group.start if side else num_rows
                matrix = vector.new_zeros((size, size), dtype=torch.float64)
                seen = vector.new_zeros(num_rows, dtype=torch.float64)
            if name in stores:  # a tensor that nothing uses has none
                store = stores.pop(name)
                if side:
                    store.add_to(matrix, block_bytes)
                elif is_mine(source, wanted.index(name)):
                    store.add_to(matrix, block_bytes)
                    seen += store.products(vector[group].double()).flatten()
        matrix = _symmetric(matrix)
        yield (matrix, seen) if side else (source.reduce(matrix), source.reduce(seen))


def _batch(
    source: LogitGradients, layers: Layers | None, names: list[str], sides: dict[str, bool], store_bytes: int
) -> list[str]:
    """As many of the next tensors as the store holds, at least one."""
    held = 0.0
    batch: list[str] = []
    for name in names if layers is not None else []:
        assert layers is not None
        held += 0 if sides[name] else source.num_examples * layers.stored_bytes(name, source.num_classes)
        if batch and held > store_bytes:
            break
        batch.append(name)
    return batch


def _collect(
    source: LogitGradients, columns: Columns, sides: dict[str, bool], before: npt.NDArray[np.float64] | None
) -> tuple[dict[str, Store], int, npt.NDArray[np.float64]]:
    """One pass: stores of some tensors, the number of rows, and the order of the examples."""
    stores: dict[str, Store] = {}
    passed: list[npt.NDArray[np.float64]] = []
    example, r, count = 0, 0, own_examples(source)
    for chunk in checked_chunks(source):
        for part in parts_of(chunk):
            cotangents = columns(part)
            r = cotangents.shape[2]
            passed.append(np.column_stack([to_numpy(part.logits), to_numpy(part.labels)]))
            if not len(cotangents):
                continue
            assert isinstance(part, RowsChunk)
            for j in range(r):
                pieces = part.rows(cotangents[:, :, j]).pieces()  # type: ignore[attr-defined]
                for name in sides:
                    if name in pieces:
                        piece = finished_on(pieces[name])
                        if name not in stores:
                            stores[name] = _store(piece, count, r, sides[name])
                        stores[name].add(example, j, piece)
            example += len(cotangents)
    return (
        _of_all_ranks(source, stores, list(sides)),
        source.num_examples * r,
        same_order(before, np.concatenate(passed)),
    )


def _of_all_ranks(source: LogitGradients, stores: dict[str, Store], names: Sequence[str]) -> dict[str, Store]:
    """Stores with the examples of all ranks in place of this one's, in rank order."""
    found = gathered_objects(source, {name: type(stores[name]) for name in names if name in stores})
    for name in names:
        kinds = {kinds[name] for kinds in found if name in kinds}
        if len(kinds) > 1:
            raise RuntimeError(f"every rank must find the same layers; {name!r} is found in other ones on some")
        for kind in kinds:
            if name not in stores and kind.by_example:
                stores[name] = kind.__new__(kind)  # of a rank without examples
            for array in kind.by_example:
                mine = getattr(stores[name], array, prototype(source))
                setattr(stores[name], array, gathered(source, mine))
    return stores
