"""A logit law fitted to the examples whose probabilities are not frozen: all that curves the loss after training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import ndtr, ndtri

from rmtland._arguments import integer, real
from rmtland.landscape.logit_laws import Draw, normal_logits, parted
from rmtland.logits.losses import CrossEntropy

Floats = npt.NDArray[np.float64]

SAMPLE = 4096
"""Examples that expectations are means over, when there are few classes."""
FROZEN = 1e-12
"""Mean 1 - sum p^2 below which there is nothing to fit."""
PULL = 0.03
"""Weight of the measured moments beside the fitted quantities, whose logarithms then err by about 1%: they decide what
the probabilities leave open, as before training."""


@dataclass(frozen=True)
class UnfrozenLogits:
    """Normal logits of the wrong classes, and a margin of the correct class over the largest of them.

    z_k ~ N(0, sigma^2) for k != y, y uniform, and z_y = max_{k != y} z_k + m with m ~ N(margin, margin_spread^2). A
    part of z_k may be the same in all examples, a bias of the network towards some classes.

    Parameters
    ----------
    sigma : float
        Standard deviation >= 0 of the logits of wrong classes: how far the runner-up stands out of the others.
    margin : float
        Mean margin over the runner-up, of either sign.
    margin_spread : float
        Standard deviation >= 0 of the margin between examples.
    label_accuracy : float, optional
        Share of examples in [0, 1], rounded to whole ones, whose label is the argmax of their logits: those of the
        smallest margins get the runner-up as their label, all others the argmax. By default labels are what the margins
        say.
    shared : float
        Share in [0, 1] of sigma^2 that all examples of a draw have in common. Each example by itself has the same law
        whatever it is; all of them together favour the same few classes. A population theory is that of one draw of it.
    shared_by_class : float
        Share, at most 1 less the one above, that the examples of a class have in common, the same for both of a pair of
        classes: which ones are taken for each other.

    Raises
    ------
    ValueError, TypeError
        For a parameter out of range, or no number.

    Notes
    -----
    Beside `MarginLogits`, whose margin is over the mean of the wrong classes: what is left of the curvature after
    training is that of examples with a small margin over the runner-up, the tail of one normal distribution here.

    Examples
    --------
    >>> import rmtland as rl
    >>> round(rl.UnfrozenLogits(sigma=3.0, margin=6.0, margin_spread=4.0).accuracy(num_classes=10), 4)
    0.9332
    """

    sigma: float
    margin: float
    margin_spread: float = 0.0
    label_accuracy: float | None = None
    shared: float = 0.0
    shared_by_class: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", real("sigma", self.sigma, at_least=0))
        object.__setattr__(self, "margin", real("margin", self.margin))
        object.__setattr__(self, "margin_spread", real("margin_spread", self.margin_spread, at_least=0))
        if self.label_accuracy is not None:
            share = real("label_accuracy", self.label_accuracy, at_least=0, at_most=1)
            object.__setattr__(self, "label_accuracy", share)
        object.__setattr__(self, "shared", real("shared", self.shared, at_least=0, at_most=1))
        rest = 1 - self.shared
        by_class = real("shared_by_class", self.shared_by_class, at_least=0, at_most=rest)
        object.__setattr__(self, "shared_by_class", by_class)

    @classmethod
    def from_logits(cls, logits: npt.ArrayLike, labels: npt.ArrayLike) -> UnfrozenLogits:
        """The law with the distribution of 1 - sum p^2, and of the runner-up, of logits (N, C) and labels (N,).

        Parameters
        ----------
        logits : array (N, C)
        labels : array (N,)
            Integers in 0..C-1.

        Returns
        -------
        UnfrozenLogits
            With the measured mean and mean square of u = 1 - sum_k p_k^2, and the measured mean share, weighted by u,
            of the second largest probability in 1 - max p. What these leave open is decided by the measured mean and
            spread of the margin and the spread of the wrong classes' logits, which have all the say where every u
            vanishes. The labels have the measured accuracy, the logits the measured shares of their variance that all
            examples, and those of one class, have in common, without bias. Two classes have no spread of wrong classes:
            sigma is 0.

        Raises
        ------
        ValueError, TypeError
            For logits or labels that do not fit, or fewer than two examples.

        Notes
        -----
        E u is the mean curvature E tr A, and (E u)^2 / E u^2 the share of the examples that carry it. Some pairs of the
        two no normal margin has; the nearest is taken then. The tail of the fitted margin below zero may be larger than
        the share of wrong labels, and frozen examples of wrong labels would hold much of the gradient: hence labels of
        the measured accuracy.

        Examples
        --------
        >>> import numpy as np
        >>> import rmtland as rl
        >>> law = rl.UnfrozenLogits(sigma=3.0, margin=6.0, margin_spread=4.0)
        >>> draw = law.draw_logits(20_000, 10, np.random.default_rng(0))
        >>> fitted = rl.UnfrozenLogits.from_logits(*draw)
        >>> abs(fitted.margin - 6.0) < 0.2 and abs(fitted.margin_spread - 4.0) < 0.2
        True
        """
        given, own, others = parted(logits, labels)
        num_classes = others.shape[1] + 1
        margins = own - others.max(axis=1)
        start = np.array([margins.mean(), margins.std(ddof=1), 0.0])
        if num_classes > 2:
            start[2] = math.sqrt(float(others.var(axis=1, ddof=1).mean()))
        target = _unfrozen(given.logits)
        right = float(np.mean(given.logits.argmax(axis=1) == given.labels))
        common = _shared(given.logits, given.labels)
        if target[0] < FROZEN or start[1] == 0 or (start[2] == 0 and num_classes > 2):
            return cls(float(start[2]), float(start[0]), float(start[1]), right, *common)
        return cls(*_fitted(np.log(target), start, num_classes), right, *common)

    def accuracy(self, num_classes: int) -> float:
        """Probability that the correct class has the largest logit, whatever C; 1/C where all logits are equal."""
        count = integer("num_classes", num_classes, at_least=2)
        if self.label_accuracy is not None:
            return self.label_accuracy
        if self.margin_spread == 0:
            if self.margin == 0:
                return 1 / count if self.sigma == 0 else 0.5
            return float(self.margin > 0)
        return float(ndtr(self.margin / self.margin_spread))

    def draw_logits(self, num_examples: int, num_classes: int, rng: np.random.Generator) -> Draw:
        """Logits (N, C) and labels (N,)."""
        normal = normal_logits(num_examples, num_classes, rng)
        labels = rng.integers(num_classes, size=num_examples)
        own = np.arange(num_examples), labels
        margins = self.margin + self.margin_spread * normal[own]
        logits = self.sigma * math.sqrt(max(1 - self.shared - self.shared_by_class, 0.0)) * normal
        if self.shared > 0:
            logits += self.sigma * math.sqrt(self.shared) * rng.standard_normal(num_classes)
        if self.shared_by_class > 0:
            favoured = rng.standard_normal((num_classes, num_classes))
            favoured = (favoured + favoured.T) * math.sqrt(0.5)
            logits += self.sigma * math.sqrt(self.shared_by_class) * favoured[labels]
        logits[own] = -math.inf
        logits[own] = logits.max(axis=1) + margins
        if self.label_accuracy is not None:
            labels = np.argmax(logits, axis=1)
            wrong = np.argsort(margins)[: num_examples - round(self.label_accuracy * num_examples)]
            labels[wrong] = np.argpartition(logits[wrong], -2, axis=1)[:, -2]
        return logits, labels


def _shared(logits: Floats, labels: npt.NDArray[np.integer]) -> tuple[float, float]:
    """Shares of the variance of the wrong classes' logits, over the classes: of all examples, of those of one class.

    Products of different examples at the classes that are wrong in both, of two classes and of one: no variance of one
    example enters.
    """
    count = logits.shape[1]
    wrong = np.arange(count) != labels[:, None]
    centred = np.where(wrong, logits - (logits * wrong).sum(axis=1, keepdims=True) / (count - 1), 0.0)
    own = float(np.sum(centred**2))
    members = np.eye(count)[labels]
    sums, sizes = members.T @ centred, members.T @ wrong  # by class
    same, same_pairs = float(np.sum(sums**2)) - own, float(np.sum(sizes**2) - wrong.sum())
    others = float(np.sum(centred.sum(axis=0) ** 2) - np.sum(sums**2))
    other_pairs = float(np.sum(wrong.sum(axis=0) ** 2) - np.sum(sizes**2))
    if not own > 0:
        return 0.0, 0.0
    variance = own / float(wrong.sum())
    shared = min(max(others / (other_pairs * variance), 0.0), 1.0) if other_pairs else 0.0
    together = same / (same_pairs * variance) if same_pairs else 0.0
    return shared, min(max(together - shared, 0.0), 1 - shared)


def _unfrozen(logits: Floats) -> Floats:
    """Mean and mean square of u = 1 - sum p^2, and the share of the second largest p in 1 - max p, weighted by u."""
    ordered = np.sort(CrossEntropy().probabilities(logits), axis=1)
    rest = ordered[:, :-1].sum(axis=1)  # 1 - max p without cancellation
    unfrozen = np.sum(ordered[:, :-1] * (1 - ordered[:, :-1]), axis=1) + ordered[:, -1] * rest
    share = np.divide(ordered[:, -2], rest, out=np.ones_like(rest), where=rest > 0)
    mean = float(unfrozen.mean())
    runner_up = float(np.mean(unfrozen * share)) / mean if mean > 0 else 1.0
    return np.array([mean, float(np.mean(unfrozen**2)), runner_up])


def _fitted(target: Floats, start: Floats, num_classes: int) -> tuple[float, float, float]:
    """Sigma, margin and its spread whose expectations have these logarithms; `start` is margin, spread, sigma."""
    count = max(256, min(SAMPLE, 2**22 // num_classes))
    rng = np.random.default_rng(0)
    others = rng.standard_normal((count, num_classes - 1))
    quantiles = rng.permutation(ndtri((np.arange(count) + 0.5) / count))
    free = 3 if num_classes > 2 else 2
    origin = np.append(start[0], np.log(start[1:free]))

    def parameters(x: Floats) -> tuple[float, float, float]:
        spread, sigma = math.exp(x[1]), math.exp(x[2]) if free == 3 else 0.0
        return sigma, float(x[0]), spread

    def misfit(x: Floats) -> Floats:
        sigma, margin, spread = parameters(x)
        logits = np.empty((count, num_classes))
        logits[:, 1:] = sigma * others
        logits[:, 0] = logits[:, 1:].max(axis=1) + margin + spread * quantiles
        with np.errstate(divide="ignore"):
            fits = np.log(np.maximum(_unfrozen(logits), 1e-300)) - target
        pull = (x - origin) / np.append(start[1], np.ones(free - 1))
        misfits: Floats = np.append(fits[:free], PULL * pull)
        return misfits

    # Margins move on the scale of their spread, spreads by factors; e^3 either way is as far as anything measured goes.
    scale = np.append(start[1], np.full(free - 1, 0.3))
    reach = np.append(20 * start[1], np.full(free - 1, 3.0))
    found = least_squares(misfit, origin, x_scale=scale, bounds=(origin - reach, origin + reach))
    return parameters(found.x)
