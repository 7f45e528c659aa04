"""What the outputs alone tell: loss, accuracy, entropy, how frozen the probabilities are."""

from __future__ import annotations

from dataclasses import dataclass

from rmtland._arrays import Array, double, namespace, to_numpy
from rmtland.logits.accumulate import SharedChunk, SumAccumulator, accumulate_one
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.losses import CrossEntropy


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
    """

    loss: float
    accuracy: float
    entropy: float
    max_probability: float
    participation: float


@dataclass(frozen=True)
class OutputAccumulator(SumAccumulator[OutputStatistics]):
    """`output_statistics` as an accumulator, for `measure`."""

    def start(self, source: LogitGradients) -> None:
        """Nothing yet; ValueError for a loss without softmax."""
        if not isinstance(source.loss, CrossEntropy):
            raise ValueError(f"`source` must have softmax outputs (CrossEntropy); got {source.loss!r}")

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Sums over the chunk of the five quantities, (5,)."""
        loss = chunk.source.loss
        assert isinstance(loss, CrossEntropy)
        logits = double(chunk.logits)
        xp = namespace(logits)
        p, log_p = loss.probabilities(logits), loss.log_probabilities(logits)
        right = loss.predictions(logits) == chunk.labels
        per_example = (
            chunk.loss.value(),
            xp.astype(right, logits.dtype),
            -xp.sum(p * log_p, axis=1),
            xp.max(p, axis=1),
            xp.sum(p * p, axis=1),
        )
        return (xp.stack([xp.sum(values, axis=0) for values in per_example]),)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> OutputStatistics:
        """Means over all examples."""
        return OutputStatistics(*(float(total) / source.num_examples for total in to_numpy(sums[0])))


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
