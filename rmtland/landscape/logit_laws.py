"""Logit laws: how the logits z and the labels y of a model are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array, real
from rmtland._arrays import is_torch, to_numpy
from rmtland.logits.losses import CrossEntropy

Draw = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


@runtime_checkable
class LogitLaw(Protocol):
    """Anything that draws logits (N, C) and labels (N,)."""

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """Logits and labels of one draw."""


@dataclass(frozen=True)
class GaussianLogits:
    """Independent normal logits; labels assigned to reach an accuracy.

    Parameters
    ----------
    sigma : float
        Standard deviation sigma_z >= 0 of each logit: the inverse temperature of a random energy model.
    accuracy : float
        Share of examples, rounded to whole ones, whose label is the argmax of their logits; the others get a label
        drawn uniformly among the remaining classes. In [0, 1].

    Raises
    ------
    ValueError, TypeError
        For a sigma or an accuracy out of range, or no number.

    References
    ----------
    Fort and Ganguli (2019), sec. 3.3 and 4; Derrida (1980).

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> logits, labels = rl.GaussianLogits(sigma=15.0, accuracy=0.9).draw_logits(10, 3, np.random.default_rng(0))
    >>> int((logits.argmax(axis=1) == labels).sum())
    9
    """

    sigma: float
    accuracy: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", real("sigma", self.sigma, at_least=0))
        object.__setattr__(self, "accuracy", real("accuracy", self.accuracy, at_least=0, at_most=1))

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """Logits (N, C) and labels (N,)."""
        logits = self.sigma * rng.standard_normal((num_examples, num_classes))
        return logits, assign_labels(logits, self.accuracy, rng)


def assign_labels(logits: npt.NDArray[np.float64], accuracy: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Labels that make round(accuracy N) of the predictions right, the wrong ones uniform among the other classes."""
    num_examples, num_classes = logits.shape
    labels: npt.NDArray[np.int64] = logits.argmax(axis=1).astype(np.int64)
    wrong = rng.permutation(num_examples)[round(accuracy * num_examples) :]
    labels[wrong] = (labels[wrong] + rng.integers(1, num_classes, size=wrong.size)) % num_classes
    return labels


@dataclass(frozen=True, eq=False)
class GivenLogits:
    """Logits and labels that are what they are: a network's own, or those of another draw.

    Parameters
    ----------
    logits : array (N, C)
    labels : array (N,)
        Integers in 0..C-1.

    Raises
    ------
    ValueError, TypeError
        For logits that are no finite (N, C) array with C >= 2, labels of another length, out of range or not integer.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> law = rl.GivenLogits(np.zeros((4, 2)), np.array([0, 1, 0, 1]))
    >>> rl.LandscapeModel(4, 2, 10, logits=law).sample(rng=0).labels
    array([0, 1, 0, 1])
    """

    logits: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        # Through to_numpy: a torch tensor on a GPU or with a graph is taken too.
        logits = to_numpy(self.logits) if is_torch(self.logits) else self.logits
        labels = to_numpy(self.labels) if is_torch(self.labels) else np.asarray(self.labels)
        logits = finite_array("logits", logits, ndim=2).copy()
        CrossEntropy().check(logits, labels)
        labels = labels.astype(np.int64)
        logits.flags.writeable = labels.flags.writeable = False
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "labels", labels)

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """The logits and labels themselves; ValueError where the model has other sizes."""
        self.check(num_examples, num_classes)
        return self.logits, self.labels

    def check(self, num_examples: int, num_classes: int) -> None:
        """ValueError where these are not N x C logits."""
        if self.logits.shape != (num_examples, num_classes):
            raise ValueError(f"`logits` must have shape ({num_examples}, {num_classes}); got {self.logits.shape}")


def check_logit_law(law: Any, num_examples: int, num_classes: int) -> None:
    """TypeError for something that is no logit law, ValueError where its sizes do not fit the model."""
    # A class has the method too, but is no law until it has parameters.
    if not isinstance(law, LogitLaw) or isinstance(law, type):
        got = law.__name__ if isinstance(law, type) else type(law).__name__
        raise TypeError(f"`logits` must be a logit law such as GaussianLogits(sigma=15.0); got {got}")
    if isinstance(law, GivenLogits):
        law.check(num_examples, num_classes)
