"""Logit laws: how the logits z and the labels y of a model are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from scipy.integrate import quad
from scipy.special import ndtr

from rmtland._arguments import finite_array, integer, real, require_memory
from rmtland._arrays import is_torch, to_numpy, told
from rmtland.laws.random_energy import RandomEnergyModel
from rmtland.logits.losses import CrossEntropy

Draw = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


@runtime_checkable
class LogitLaw(Protocol):
    """Anything that draws logits (N, C) and labels (N,)."""

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """Logits and labels of one draw."""


def normal_logits(num_examples: int, num_classes: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Standard normal logits (N, C); MemoryError where a few arrays of their size do not fit."""
    require_memory(
        f"logits of {num_examples} x {num_classes}", 32.0 * num_examples * num_classes, "take fewer examples"
    )
    return rng.standard_normal((num_examples, num_classes))


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

    @classmethod
    def from_participation(cls, participation: float, num_classes: int, accuracy: float = 0.95) -> GaussianLogits:
        """The law whose mean sum_k p_k^2 is the given one, instead of its logits' standard deviation.

        Parameters
        ----------
        participation : float
            E sum_k p_k^2, from 1/C (sigma = 0) to below 1.
        num_classes : int
            C >= 2.
        accuracy : float

        Returns
        -------
        GaussianLogits

        Raises
        ------
        ValueError
            For a participation out of range, or so near 1 that no sigma up to 1e12 reaches it.

        Notes
        -----
        Exact at finite C, by inverting the random energy model. Training separates the correct class, so that a network
        is more frozen than independent logits of its own spread; matched so, the model has the mean curvature that the
        network has left, E tr A = 1 - participation.

        Examples
        --------
        >>> import rmtland as rl
        >>> round(rl.GaussianLogits.from_participation(0.8978167, num_classes=10).sigma, 4)
        15.0
        """
        count = integer("num_classes", num_classes, at_least=2)
        # A shade below 1/C is the rounding of a measured mean.
        target = real("participation", participation, at_least=(1 - 1e-12) / count, below=1)
        if target <= (1 + 1e-12) / count:
            return cls(0.0, accuracy)
        return cls(RandomEnergyModel.from_participation(target, count).sigma, accuracy)

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """Logits (N, C) and labels (N,)."""
        normal = normal_logits(num_examples, num_classes, rng)
        # Predictions before the scale: they are its limit at sigma = 0, where all logits tie.
        return self.sigma * normal, assign_labels(normal, self.accuracy, rng)


@dataclass(frozen=True)
class MarginLogits:
    """Independent normal logits, that of the correct class shifted: accuracy emerges instead of being assigned.

    z_k ~ N(0, sigma^2), labels y uniform, and z_y gains a margin ~ N(margin, margin_spread^2) of each example.

    Parameters
    ----------
    sigma : float
        Standard deviation >= 0 of the logits.
    margin : float
        Mean shift of the correct class, of either sign.
    margin_spread : float
        Standard deviation >= 0 of the shift between examples.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of range, or no number.

    Notes
    -----
    What training does to logits, to first order: it separates the correct class. A draw of `GaussianLogits` of the
    same overall spread leaves far more examples unfrozen.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.MarginLogits(sigma=2.0, margin=6.0, margin_spread=2.0)
    >>> round(law.accuracy(num_classes=10), 4)
    0.8383
    """

    sigma: float
    margin: float
    margin_spread: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", real("sigma", self.sigma, at_least=0))
        object.__setattr__(self, "margin", real("margin", self.margin))
        object.__setattr__(self, "margin_spread", real("margin_spread", self.margin_spread, at_least=0))

    @classmethod
    def from_logits(cls, logits: npt.ArrayLike, labels: npt.ArrayLike) -> MarginLogits:
        """The law with the scales of logits (N, C) and labels (N,).

        Parameters
        ----------
        logits : array (N, C)
        labels : array (N,)
            Integers in 0..C-1.

        Returns
        -------
        MarginLogits
            sigma^2 is the variance over the wrong classes (ddof 1), averaged over examples; margin and its spread are
            those of z_y less the mean of the wrong classes, whose own variance sigma^2 C / (C - 1) is taken off (a
            spread whose square comes out negative is 0). Two classes have one difference only: sigma is then its
            standard deviation over sqrt 2, and the spread 0.

        Raises
        ------
        ValueError, TypeError
            For logits or labels that do not fit, or fewer than two examples.
        """
        _, own, others = parted(logits, labels)
        num_classes = others.shape[1] + 1
        margins = own - others.mean(axis=1)
        total = float(margins.var(ddof=1))
        if num_classes == 2:
            return cls(math.sqrt(total / 2), float(margins.mean()))
        variance = float(others.var(axis=1, ddof=1).mean())
        spread = math.sqrt(max(total - variance * num_classes / (num_classes - 1), 0.0))
        return cls(math.sqrt(variance), float(margins.mean()), spread)

    def accuracy(self, num_classes: int) -> float:
        """Probability that the correct class has the largest logit; 1/C where all logits are equal."""
        count = integer("num_classes", num_classes, at_least=2)
        if self.sigma == 0:
            if self.margin_spread == 0:
                return 1 / count if self.margin == 0 else float(self.margin > 0)
            return float(ndtr(self.margin / self.margin_spread))
        width = math.hypot(self.sigma, self.margin_spread)

        def integrand(x: float) -> float:
            return math.exp(-x * x / 2) * float(ndtr((self.margin + width * x) / self.sigma)) ** (count - 1)

        # The step of the normal distribution function may be narrow within the range.
        step = min(max(-self.margin / width, -9.0), 9.0)
        return float(quad(integrand, -10, 10, points=[step], limit=200)[0]) / math.sqrt(2 * math.pi)

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """Logits (N, C) and labels (N,)."""
        logits = self.sigma * normal_logits(num_examples, num_classes, rng)
        labels = rng.integers(num_classes, size=num_examples)
        shift = self.margin + self.margin_spread * rng.standard_normal(num_examples)
        logits[np.arange(num_examples), labels] += shift
        return logits, labels


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

    __repr__ = told

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


def parted(
    logits: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[GivenLogits, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Checked logits, each example's own class's (N,) and the others' (N, C - 1); ValueError for fewer than two."""
    given = GivenLogits(logits, labels)  # type: ignore[arg-type]
    num_examples, num_classes = given.logits.shape
    if num_examples < 2:
        raise ValueError(f"`logits` must have at least 2 examples to show a spread; got {num_examples}")
    wrong = np.ones(given.logits.shape, dtype=bool)
    wrong[np.arange(num_examples), given.labels] = False
    return given, given.logits[~wrong], given.logits[wrong].reshape(num_examples, num_classes - 1)


def check_logit_law(law: Any, num_examples: int, num_classes: int) -> None:
    """TypeError for something that is no logit law, ValueError where its sizes do not fit the model."""
    # A class has the method too, but is no law until it has parameters.
    if not isinstance(law, LogitLaw) or isinstance(law, type):
        got = law.__name__ if isinstance(law, type) else type(law).__name__
        raise TypeError(f"`logits` must be a logit law such as GaussianLogits(sigma=15.0); got {got}")
    if isinstance(law, GivenLogits):
        law.check(num_examples, num_classes)
