"""A source of logit gradients from arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmtland._arguments import instance, integer, unmasked
from rmtland._arrays import Array, all_finite, at_least_single, is_floating, like, namespace
from rmtland.logits.gradients import default_chunk_size, example_slices, told_source
from rmtland.logits.losses import CrossEntropy, Loss


@dataclass(frozen=True, eq=False)
class DenseChunk:
    """A chunk whose logit gradients lie in memory, (n, C, D); products are taken in their dtype."""

    logits: Array
    labels: Array
    gradients: Array

    def jvp(self, tangents: Array) -> Array:
        """J V, (n, C, k)."""
        n, num_classes, num_parameters = self.gradients.shape
        product = self.gradients.reshape(n * num_classes, num_parameters) @ like(self.gradients, tangents)
        return product.reshape(n, num_classes, -1)

    def vjp(self, cotangents: Array) -> Array:
        """J^T U, (D, k)."""
        n, num_classes, num_parameters = self.gradients.shape
        rows = self.gradients.reshape(n * num_classes, num_parameters)
        return rows.T @ like(self.gradients, cotangents).reshape(n * num_classes, -1)

    def dense(self, parameters: slice = slice(None)) -> Array:
        """A view of J, (n, C, d)."""
        return self.gradients[:, :, parameters]

    def blocks(self) -> Iterator[DenseChunk]:
        """The chunk itself: its logit gradients are in memory."""
        yield self

    def cut(self, examples: slice) -> DenseChunk:
        """Views of some examples."""
        return DenseChunk(self.logits[examples], self.labels[examples], self.gradients[examples])


@dataclass(frozen=True, eq=False, repr=False)
class DenseLogitGradients:
    """A source of logit gradients from arrays: your own, saved ones, or another framework's.

    Parameters
    ----------
    logits : array (N, C)
        Outputs of the network, floating point and finite. NumPy or torch; memory-mapped arrays stay on disk.
    labels : array (N,)
        Integers in 0..C-1 (for `SquaredError` with one output: real targets).
    gradients : array (N, C, D)
        Logit gradients, gradients[mu, k] = dz_k/dW at example mu, finite. Half precision is handed out in float32.
    loss : Loss, optional
        `CrossEntropy()` (default), `Logistic()` or `SquaredError()`.
    chunk_size : int, optional
        Examples handed out at a time; by default as many as 32 MiB of `gradients` hold.
    parameter_groups : mapping, optional
        Name to slice of 0..D; by default one group of all.

    Raises
    ------
    ValueError
        For shapes that do not fit, labels out of range, NaN or infinite entries, C = 1 under softmax, parameter groups
        that are no contiguous slices of 0..D.
    TypeError
        For arrays of two libraries, integers where floating point is needed, a `loss` that is not one.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> rng = np.random.default_rng(0)
    >>> source = rl.DenseLogitGradients(rng.normal(size=(8, 3)), np.arange(8) % 3, rng.normal(size=(8, 3, 5)))
    >>> rl.gradient(source).shape
    (5,)
    """

    logits: Array
    labels: Array
    gradients: Array
    loss: Loss = field(default_factory=CrossEntropy)
    chunk_size: int | None = None
    parameter_groups: Mapping[str, slice] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Loss) or isinstance(self.loss, type):
            raise TypeError(f"`loss` must be a loss such as CrossEntropy(); got {self.loss!r}")
        for name in ("logits", "labels", "gradients"):
            if isinstance(getattr(self, name), np.ma.MaskedArray):
                object.__setattr__(self, name, unmasked(name, getattr(self, name)))
        namespace(self.logits, self.labels, self.gradients, names="`logits`, `labels` and `gradients`")
        self.loss.check(self.logits, self.labels)
        shape = tuple(self.gradients.shape)
        if len(shape) != 3 or shape[:2] != tuple(self.logits.shape) or shape[2] < 1:
            n, num_classes = self.logits.shape
            raise ValueError(f"`gradients` must have shape ({n}, {num_classes}, D) with D >= 1; got {shape}")
        if not is_floating(self.gradients):
            raise TypeError(f"`gradients` must be floating point; got {self.gradients.dtype}")
        size = shape[1] * shape[2] * max(self.gradients.dtype.itemsize, 4)
        if self.chunk_size is None:
            object.__setattr__(self, "chunk_size", default_chunk_size(shape[0], size))
        else:
            object.__setattr__(self, "chunk_size", integer("chunk_size", self.chunk_size, at_least=1))
        groups: Any = self.parameter_groups if self.parameter_groups is not None else {"all": slice(0, shape[2])}
        for name, group in instance("parameter_groups", groups, Mapping, "a mapping of names to slices").items():
            if not isinstance(group, slice) or group.indices(shape[2]) != (group.start, group.stop, 1):
                raise ValueError(
                    f"`parameter_groups` must map names to contiguous slices of 0..{shape[2]}; got {name!r}: {group!r}"
                )
        object.__setattr__(self, "parameter_groups", dict(groups))
        for part in example_slices(shape[0], self.chunk_size or 1):
            if not all_finite(self.gradients[part]):
                raise ValueError("`gradients` must be finite; got NaN or infinite entries")

    __repr__ = told_source

    @property
    def num_examples(self) -> int:
        """N."""
        return int(self.logits.shape[0])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.logits.shape[1])

    @property
    def num_parameters(self) -> int:
        """D."""
        return int(self.gradients.shape[2])

    @property
    def prototype(self) -> Array:
        """Of the dtype that products are computed in, that of `gradients` or float32."""
        return at_least_single(self.gradients[:0, ...])

    def chunks(self) -> Iterator[DenseChunk]:
        """Consecutive slices of `chunk_size` examples."""
        assert self.chunk_size is not None
        for part in example_slices(self.num_examples, self.chunk_size):
            yield DenseChunk(
                at_least_single(self.logits[part]), self.labels[part], at_least_single(self.gradients[part])
            )

    def reduce(self, x: Array) -> Array:
        """`x`: all examples are here."""
        return x
