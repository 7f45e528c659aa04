"""How long the logit gradients are, logit by logit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, namespace, to_numpy, told
from rmtland.logits.accumulate import SharedChunk, SumAccumulator, accumulate_one, mean_and_error
from rmtland.logits.classes import of_classes
from rmtland.logits.gradients import LogitGradients


@dataclass(frozen=True, eq=False)
class LogitGradientLengths:
    """Mean lengths |dz_k/dW|.

    Attributes
    ----------
    overall : ndarray (C,)
        Over all examples.
    own_class : ndarray (C,)
        Over the examples of class k; NaN for a class without examples.
    overall_error, own_class_error : ndarray (C,)
        Standard errors over examples (ddof 1); NaN for fewer than two.
    """

    overall: npt.NDArray[np.float64]
    own_class: npt.NDArray[np.float64]
    overall_error: npt.NDArray[np.float64]
    own_class_error: npt.NDArray[np.float64]

    __repr__ = told


class LengthAccumulator(SumAccumulator[LogitGradientLengths]):
    """`logit_gradient_lengths` as an accumulator, for `measure`."""

    by_example: ClassVar[bool] = True

    def terms(self, chunk: SharedChunk) -> tuple[Array, ...]:
        """Sums of lengths and squares over all examples and over each logit's own class, and the classes' sizes."""
        lengths, own = chunk.lengths, chunk.own
        xp = namespace(lengths)
        parts = (lengths, lengths**2, own * lengths, own * lengths**2, own)
        return (xp.stack([xp.sum(part, axis=0) for part in parts]),)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> LogitGradientLengths:
        """Means of the sums, and their errors."""
        overall, squares, own, own_squares, sizes = to_numpy(sums[0])
        whole = mean_and_error(overall, squares, source.num_examples)
        of_class = mean_and_error(own, own_squares, sizes)
        return LogitGradientLengths(whole[0], of_class[0], whole[1], of_class[1])


def logit_gradient_lengths(source: LogitGradients, *, classes: Sequence[int] | None = None) -> LogitGradientLengths:
    """Mean length of the gradient of each logit, over all examples and over those of its class.

    Parameters
    ----------
    source : LogitGradients
    classes : sequence of int, optional
        Logits that are looked at, and classes; by default all. Of a vocabulary of 50,000 words a few will do.

    Returns
    -------
    LogitGradientLengths

    Raises
    ------
    ValueError
        For NaN or infinite logit gradients.

    References
    ----------
    Fort and Ganguli (2019), sec. 3.1, where the lengths of the mean logit gradients set the outliers.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> source = rl.DenseLogitGradients(np.zeros((2, 2)), np.array([0, 1]), np.ones((2, 2, 9)))
    >>> rl.logit_gradient_lengths(source).overall
    array([3., 3.])
    """
    return accumulate_one(of_classes(source, classes), LengthAccumulator())
