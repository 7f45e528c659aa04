"""The trace of the Gauss-Newton matrix, whole and by classes, exactly and without products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, double, like, namespace, to_numpy
from rmtland.logits.accumulate import SharedChunk, SumAccumulator, accumulate_one
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.rows import require_finite

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GaussNewtonTraceAccumulator(SumAccumulator[float]):
    """`gauss_newton_trace` as an accumulator, for `measure`."""

    by_example: ClassVar[bool] = True

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Squared lengths of the chunk's rows of Y, (1,)."""
        return (namespace(chunk.trace_terms).sum(chunk.trace_terms, axis=0, keepdims=True),)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> float:
        """The trace; ValueError where it is not finite."""
        require_finite(sums[0])
        return float(to_numpy(sums[0])[0])


@dataclass(frozen=True)
class ClassTraceAccumulator(SumAccumulator[Floats]):
    """What the examples of each class add to the trace of G, (C,), as an accumulator for `measure`."""

    by_example: ClassVar[bool] = True

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Squared lengths of the rows of Y, class by class."""
        own = double(chunk.own)
        return (own.T @ like(own, chunk.trace_terms),)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> Floats:
        """The shares of the trace; ValueError where one is not finite."""
        require_finite(sums[0])
        traces: Floats = to_numpy(sums[0]).astype(np.float64)
        return traces


def gauss_newton_trace(source: LogitGradients) -> float:
    """Trace of the Gauss-Newton matrix, exactly: the squared lengths of weighted logit gradients.

    Parameters
    ----------
    source : LogitGradients
        Any source with any loss.

    Returns
    -------
    float
        tr G = (1/N) sum_mu sum_j |J_mu^T l_j|^2 with A_mu = sum_j l_j l_j^T: no random vectors and no error but
        rounding. `measure(source, "gauss_newton_trace", by="parameter_groups")` gives that of every layer.

    Raises
    ------
    ValueError
        For NaN or infinite logit gradients.

    Notes
    -----
    For a network about C backward passes to the layers' outputs, in which no weight is differentiated.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=3, num_parameters=50).sample(rng=0)
    >>> abs(rl.gauss_newton_trace(draw) / rl.gauss_newton_spectrum(draw).trace - 1) < 1e-12
    True
    """
    return accumulate_one(source, GaussNewtonTraceAccumulator())
