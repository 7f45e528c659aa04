"""The Gram matrix J J^T of all logit gradients of a source, exact, without a dense J for networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array, require_memory
from rmtland._arrays import Array, double, like, namespace, to_numpy, told, zeros
from rmtland.logits.accumulate import prototype
from rmtland.logits.blocks import parameter_blocks
from rmtland.logits.gauss_newton import GramSource
from rmtland.logits.gradients import LogitGradients, LogitGradientsChunk, check_source
from rmtland.logits.ranks import gathered, in_step, own_examples
from rmtland.logits.rows import require_finite

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LogitGradientGram:
    """Inner products of all logit gradients, with the logits and labels of the same examples.

    Attributes
    ----------
    matrix : ndarray (N, C, N, C)
        dz_k^mu/dW . dz_l^nu/dW, float64.
    logits : ndarray (N, C)
    labels : ndarray (N,)
    num_parameters : int
        D.

    Raises
    ------
    ValueError
        For arrays that do not fit each other, NaN or infinite entries.
    """

    matrix: Floats
    logits: Floats
    labels: npt.NDArray[Any]
    num_parameters: int

    __repr__ = told

    def __post_init__(self) -> None:
        object.__setattr__(self, "logits", finite_array("logits", self.logits, ndim=2))
        object.__setattr__(self, "matrix", finite_array("matrix", self.matrix, ndim=4))
        object.__setattr__(self, "labels", np.asarray(self.labels))
        shape = self.logits.shape
        if self.matrix.shape != shape + shape or self.labels.shape != shape[:1]:
            raise ValueError(
                f"`matrix` and `labels` must have shapes {shape + shape} and {shape[:1]}; got {self.matrix.shape} and "
                f"{self.labels.shape}"
            )

    @property
    def num_examples(self) -> int:
        """N."""
        return int(self.logits.shape[0])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.logits.shape[1])

    def centered(self) -> LogitGradientGram:
        """The Gram matrix of dz_k/dW less their mean over the logits k: all that A_mu, with A_mu 1 = 0, lets G see."""
        matrix = self.matrix - self.matrix.mean(axis=1, keepdims=True)
        matrix -= matrix.mean(axis=3, keepdims=True)
        return LogitGradientGram(matrix, self.logits, self.labels, self.num_parameters)


def logit_gradient_gram(source: LogitGradients) -> LogitGradientGram:
    """All inner products of logit gradients, J J^T.

    Parameters
    ----------
    source : LogitGradients
        Networks form it layer by layer, from layer inputs and backpropagated signals; other sources from blocks of
        parameters of 256 MiB, one pass for each block, which need the same order of examples in each.

    Returns
    -------
    LogitGradientGram
        In several processes each gets that of all examples.

    Raises
    ------
    MemoryError
        Where N C x N C numbers do not fit: measure on fewer examples.
    ValueError
        For NaN or infinite logit gradients.
    RuntimeError
        Where a source changes the order of its examples between passes that need the same, or one of several
        processes cannot gather rows (`rl.nets.DistributedSource` can).

    Notes
    -----
    What `residual_moments`, `mean_moments` and `kronecker_fit` are computed from: hand it to each of them and it is
    formed once. Exact for any D; a float32 network's logit gradients carry their own rounding.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=3, num_parameters=50).sample(rng=0)
    >>> rl.logit_gradient_gram(draw).matrix.shape
    (20, 3, 20, 3)
    """
    check_source(source)
    rows = source.num_examples * source.num_classes
    require_memory(f"the Gram matrix of {rows} logit gradients", 16.0 * rows**2, "measure on fewer examples")
    with in_step(source):
        matrix, logits, labels = _by_layers(source) if isinstance(source, GramSource) else _by_blocks(source)
        require_finite(matrix)
        if matrix.shape[0] != rows:
            raise RuntimeError(
                f"`source` must gather the rows of all its processes here; got {matrix.shape[0]} of {rows}"
            )
        shape = (source.num_examples, source.num_classes) * 2
        return LogitGradientGram(
            to_numpy(matrix).reshape(shape),
            gathered(source, logits),
            gathered(source, labels),
            source.num_parameters,
        )


def gram_of(source: LogitGradients | LogitGradientGram) -> LogitGradientGram:
    """The Gram matrix itself, or that of a source."""
    return source if isinstance(source, LogitGradientGram) else logit_gradient_gram(source)


def _by_layers(source: GramSource) -> tuple[Array, Floats, npt.NDArray[Any]]:
    seen: list[tuple[Floats, npt.NDArray[Any]]] = []

    def columns(chunk: LogitGradientsChunk) -> Array:
        # Logits and labels as this very pass has them: another pass might have another order.
        seen.append((to_numpy(double(chunk.logits)), to_numpy(chunk.labels)))
        n, num_classes = chunk.logits.shape
        return zeros(chunk.logits, (n, num_classes, num_classes)) + like(chunk.logits, np.eye(num_classes))

    vector = zeros(prototype(source), (source.num_parameters,))
    matrix, _ = next(iter(source.matrices(columns, vector, [list(source.parameter_groups)], [False])))
    # Large networks take several passes, all of the same order.
    count = own_examples(source)
    return matrix, *_first(seen, count)


def _by_blocks(source: LogitGradients) -> tuple[Array, Floats, npt.NDArray[Any]]:
    gram: Array = None
    seen: list[tuple[Floats, npt.NDArray[Any]]] = []

    def pieces(chunk: LogitGradientsChunk, parameters: slice) -> Array:
        seen.append((to_numpy(double(chunk.logits)), to_numpy(chunk.labels)))
        gradients = double(chunk.dense(parameters))
        return gradients.reshape(-1, gradients.shape[2])

    for parts in parameter_blocks(source, source.num_examples * source.num_classes, pieces):
        stacked = namespace(*parts).concat(parts)
        products = stacked @ gathered(source, stacked).T
        gram = products if gram is None else gram.__iadd__(products)
    return gathered(source, gram), *_first(seen, own_examples(source))


def _first(seen: list[tuple[Floats, npt.NDArray[Any]]], count: int) -> tuple[Floats, npt.NDArray[Any]]:
    """Logits and labels of the first pass."""
    pairs: Iterator[tuple[Any, ...]] = zip(*seen, strict=True)
    logits, labels = (np.concatenate(arrays)[:count] for arrays in pairs)
    return logits, labels
