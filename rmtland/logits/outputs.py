"""What the outputs alone tell: loss, accuracy, entropy, how frozen the probabilities are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rmtland._arrays import Array, namespace, to_numpy, told
from rmtland.logits.accumulate import SharedChunk, SumAccumulator, accumulate_one, mean_and_error
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.loss_at import LossAt
from rmtland.logits.losses import CrossEntropy, Loss


@dataclass(frozen=True)
class OutputStatistics:
    """Means over examples.

    Attributes
    ----------
    loss : float
        Mean loss, nats.
    accuracy : float
        Share of examples whose most probable class is their label.
    entropy : float
        Mean entropy of the class probabilities, nats.
    max_probability : float
        Mean of the largest probability.
    participation : float
        Mean of sum_k p_k^2, between 1/C (uniform) and 1 (frozen).
    loss_error, accuracy_error, entropy_error, max_probability_error, participation_error : float
        Standard errors over examples (ddof 1); NaN for a single one.
    """

    loss: float
    accuracy: float
    entropy: float
    max_probability: float
    participation: float
    loss_error: float = math.nan
    accuracy_error: float = math.nan
    entropy_error: float = math.nan
    max_probability_error: float = math.nan
    participation_error: float = math.nan

    __repr__ = told


@dataclass(frozen=True)
class OutputAccumulator(SumAccumulator[OutputStatistics]):
    """`output_statistics` as an accumulator, for `measure`."""

    def start(self, source: LogitGradients) -> None:
        """Nothing yet; ValueError for a loss without softmax."""
        if not isinstance(source.loss, CrossEntropy):
            raise ValueError(f"`source` must have softmax outputs (CrossEntropy); got {source.loss!r}")

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Sums over the chunk of the five quantities and of their squares, (2, 5) in float64 whatever the device."""
        parts = [_by_example(at, chunk.source.loss, chunk.labels[some]) for some, at in chunk.loss.parts()]
        xp = namespace(parts[0])
        rows = xp.concat(parts, axis=1)
        totals = xp.sum(rows, axis=1)
        # About the chunk's own means: in single precision the difference of plain sums of squares loses their errors.
        count = max(int(rows.shape[1]), 1)
        spread = xp.sum((rows - (totals / count)[:, None]) ** 2, axis=1)
        totals, spread = (to_numpy(part).astype(np.float64) for part in (totals, spread))
        return (np.stack([totals, spread + totals**2 / count]),)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> OutputStatistics:
        """Means over all examples, and their errors."""
        total, squares = to_numpy(sums[0])
        means, errors = mean_and_error(total, squares, source.num_examples)
        return OutputStatistics(*means.tolist(), *errors.tolist())


class LossAccumulator(SumAccumulator[tuple[float, float]]):
    """Mean loss and its standard error over examples, of any loss."""

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Sums of the loss and of its square, (2,)."""
        values = chunk.loss.value()
        xp = namespace(values)
        return (xp.stack([xp.sum(values), xp.sum(values**2)]),)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> tuple[float, float]:
        """Mean over all examples, and its error."""
        total, squares = to_numpy(sums[0])
        mean, error = mean_and_error(total, squares, source.num_examples)
        return float(mean), float(error)


def _by_example(at: LossAt, loss: Loss, labels: Array) -> Array:
    """Loss, whether the prediction is right, entropy, top probability and participation of each example, (5, n)."""
    assert isinstance(loss, CrossEntropy)
    logits, xp = at.outputs, namespace(at.outputs)
    p, log_p = loss.probabilities(logits), loss.log_probabilities(logits)
    right = loss.predictions(logits) == labels
    entropy = -xp.sum(p * log_p, axis=1)
    return xp.stack([at.value(), xp.astype(right, logits.dtype), entropy, xp.max(p, axis=1), xp.sum(p * p, axis=1)])


def output_statistics(source: LogitGradients) -> OutputStatistics:
    """Mean loss, accuracy, entropy, top probability and participation of a source with softmax outputs.

    Parameters
    ----------
    source : LogitGradients
        With `CrossEntropy` as its loss.

    Returns
    -------
    OutputStatistics

    Raises
    ------
    ValueError
        For another loss.

    References
    ----------
    Fort and Ganguli (2019), sec. 3.3 (entropy there in bits: divide by ln 2).

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> source = rl.DenseLogitGradients(np.zeros((2, 4)), np.array([0, 1]), np.ones((2, 4, 3)))
    >>> rl.output_statistics(source).max_probability
    0.25
    """
    return accumulate_one(source, OutputAccumulator())
