"""A source as seen from some of its parameters: the statistics of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rmtland._arguments import choice
from rmtland._arrays import Array, zeros
from rmtland.logits.accumulate import SharedChunk, parts_of, prototype
from rmtland.logits.gradients import LogitGradients, check_source, dense_blocks, rounding, told_source
from rmtland.logits.losses import Loss
from rmtland.logits.rows import Rows
from rmtland.spectra.operators import SymmetricOperator


class RestrictedChunk(SharedChunk):
    """A chunk whose logit gradients are those in a slice of the parameters."""

    def __init__(self, whole: SharedChunk, source: RestrictedSource) -> None:
        super().__init__(whole, source)
        self.whole, self.parameters = whole, source.parameters

    @property
    def slopes(self) -> Array:
        """dl/dz / N, (n, C): they do not depend on the parameters looked at."""
        return self.whole.slopes

    def blocks(self) -> Iterator[RestrictedChunk]:
        """Pieces whose `dense()` fits into memory."""
        for block in dense_blocks(self.whole.chunk):
            yield RestrictedChunk(SharedChunk(block, self.whole.source), self.source)  # type: ignore[arg-type]

    def jvp(self, tangents: Array) -> Array:
        """J V, (n, C, k), the other parameters at rest."""
        full = zeros(tangents, (self.whole.source.num_parameters, *tangents.shape[1:]))
        full[self.parameters, ...] = tangents
        return self.whole.jvp(full)

    def vjp(self, cotangents: Array) -> Array:
        """J^T U, (d, k)."""
        return self.whole.vjp(cotangents)[self.parameters, ...]

    def dense(self, parameters: slice = slice(None)) -> Array:
        """J, (n, C, d)."""
        size = self.parameters.stop - self.parameters.start
        start, stop, _ = parameters.indices(size)
        return self.whole.dense(slice(self.parameters.start + start, self.parameters.start + stop))

    def rows(self, cotangents: Array) -> Rows:
        """J_mu^T u_mu."""
        return self.whole.rows(cotangents).restricted(self.parameters)

    @property
    def factor_rows(self) -> list[Rows]:
        """The rows of G = Y^T Y."""
        return [rows.restricted(self.parameters) for rows in self.whole.factor_rows]

    def logit_rows(self, k: int) -> Rows:
        """The gradients of logit k."""
        return self.whole.logit_rows(k).restricted(self.parameters)

    def cross_class_rows(self, step: int, *, keep: bool = True) -> Rows:
        """The rows behind cross-class means; kept, for the other groups of parameters."""
        return self.whole.cross_class_rows(step, keep=keep).restricted(self.parameters)

    def parts(self) -> Iterator[RestrictedChunk]:
        """Smaller chunks."""
        for part in parts_of(self.whole.chunk):
            yield RestrictedChunk(SharedChunk(part, self.whole.source), self.source)  # type: ignore[arg-type]


class RestrictedSource:
    """A source of the logit gradients in some of the parameters: what `restrict` returns."""

    def __init__(self, source: LogitGradients, name: str, parameters: slice) -> None:
        self.source, self.parameters = source, parameters
        self.num_parameters = parameters.stop - parameters.start
        self.parameter_groups: Mapping[str, slice] = {name: slice(0, self.num_parameters)}

    __repr__ = told_source

    @property
    def num_examples(self) -> int:
        """N."""
        return self.source.num_examples

    @property
    def num_classes(self) -> int:
        """C."""
        return self.source.num_classes

    @property
    def loss(self) -> Loss:
        """The source's."""
        return self.source.loss

    @property
    def prototype(self) -> Array:
        """The source's: a restricted chunk of a network would differentiate a tensor to learn it."""
        return prototype(self.source)

    @property
    def rounding(self) -> float:
        """The source's."""
        return rounding(self.source)

    def chunks(self) -> Iterator[RestrictedChunk]:
        """The source's chunks, seen from these parameters."""
        for chunk in self.source.chunks():
            yield RestrictedChunk(SharedChunk(chunk, self.source), self)

    def reduce(self, x: Array) -> Array:
        """Sum over ranks."""
        return self.source.reduce(x)


def restrict(source: LogitGradients, group: str) -> RestrictedSource:
    """One group of parameters of a source, such as a layer's weights, as a source of its own.

    Parameters
    ----------
    source : LogitGradients
        Any.
    group : str
        One of `source.parameter_groups`.

    Returns
    -------
    RestrictedSource
        Its Gauss-Newton matrix is the group's diagonal block, its gradient the group's part, and so on; of a network
        `nets.hessian` and `nets.logit_curvature` take it too.

    Raises
    ------
    ValueError
        For a name that no group has.

    Examples
    --------
    >>> import torch
    >>> import rmtland as rl
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> source = rl.nets.NetworkLogitGradients(network, torch.randn(20, 4), torch.arange(20) % 3)
    >>> rl.gauss_newton(rl.restrict(source, "2.weight")).shape
    (24, 24)
    """
    check_source(source)
    choice("group", group, tuple(source.parameter_groups))
    return RestrictedSource(source, group, source.parameter_groups[group])


def restricted_sources(source: LogitGradients) -> dict[Any, RestrictedSource]:
    """All groups of parameters, by name."""
    check_source(source)
    return {name: restrict(source, name) for name in source.parameter_groups}


def diagonal_block(operator: SymmetricOperator, group: slice) -> SymmetricOperator:
    """The diagonal block of a group of parameters, each product one with the whole."""

    def multiply(block: Array) -> Array:
        full = zeros(block, (operator.dimension, block.shape[1]))
        full[group, ...] = block
        return operator.multiply(full)[group, ...]

    return SymmetricOperator(multiply, group.stop - group.start, operator.prototype, rounding=operator.rounding)
