"""How outputs become probabilities, and the loss's gradient and Hessian in the outputs.

Written once for NumPy arrays and torch tensors. Shapes: outputs (n, C), labels (n,), tangents (n, C, k).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rmtland._arguments import real
from rmtland._arrays import Array, all_finite, is_floating, namespace


@runtime_checkable
class Loss(Protocol):
    """What the statistics ask of a loss: everything per example, nothing averaged."""

    def check(self, outputs: Array, labels: Array) -> None:
        """Raise ValueError or TypeError where outputs (n, C) and labels (n,) do not fit this loss."""

    def probabilities(self, outputs: Array) -> Array:
        """Mean of the label given the outputs, (n, C)."""

    def value(self, outputs: Array, labels: Array) -> Array:
        """Loss of each example, (n,)."""

    def gradient(self, outputs: Array, labels: Array) -> Array:
        """Derivative of the loss in the outputs, (n, C)."""

    def hessian_product(self, outputs: Array, tangents: Array) -> Array:
        """A_mu applied to tangents (n, C, k), (n, C, k)."""

    def hessian_factor(self, outputs: Array) -> Array:
        """L of shape (n, C, r) with L L^T = A_mu and r the rank."""

    def predictions(self, outputs: Array) -> Array:
        """The predicted label of each example, (n,)."""


def one_hot(labels: Array, num_classes: int, dtype: Any) -> Array:
    """Labels (n,) as rows of the identity, (n, C)."""
    xp = namespace(labels)
    # In int64: a label array of uint8 cannot count up to 300 classes.
    classes = xp.arange(num_classes, dtype=xp.int64, device=labels.device)
    return xp.astype(xp.astype(labels, xp.int64)[:, None] == classes[None, :], dtype)


def check_outputs(outputs: Array, labels: Array) -> None:
    """Refuse outputs that are not a finite float (n, C) array, and labels of another length."""
    namespace(outputs, labels, names="`logits` and `labels`")
    if outputs.ndim != 2 or 0 in outputs.shape:
        raise ValueError(f"`logits` must have shape (N, C) with N, C >= 1; got {tuple(outputs.shape)}")
    if not is_floating(outputs):
        raise TypeError(f"`logits` must be floating point; got {outputs.dtype}")
    if not all_finite(outputs):
        raise ValueError("`logits` must be finite; got NaN or infinite entries")
    if tuple(labels.shape) not in ((outputs.shape[0],), tuple(outputs.shape)):
        raise ValueError(f"`labels` must have shape ({outputs.shape[0]},), one per example; got {tuple(labels.shape)}")


def _check_targets(labels: Array, what: str, low: float, high: float) -> None:
    """Refuse targets (n, C) that are not real numbers between `low` and `high`."""
    if not is_floating(labels):
        raise TypeError(f"`labels` of shape (n, C) must be floating point; got {labels.dtype}")
    if not all_finite(labels):
        raise ValueError("`labels` must be finite targets; got NaN or infinite entries")
    xp = namespace(labels)
    least, most = float(xp.min(labels)), float(xp.max(labels))
    if least < low or most > high:
        raise ValueError(f"`labels` must be {what}; got {least if least < low else most:g}")


def _check_classes(labels: Array, num_classes: int) -> None:
    xp = namespace(labels)
    if not xp.isdtype(labels.dtype, "integral"):
        raise TypeError(f"`labels` must be integers; got {labels.dtype}")
    low, high = int(xp.min(labels)), int(xp.max(labels))
    if low < 0 or high >= num_classes:
        raise ValueError(f"`labels` must be in 0..{num_classes - 1}; got {low if low < 0 else high}")


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy on softmax probabilities of C >= 2 logits, in nats.

    Gradient p - y (Fort and Ganguli 2019 eq. (6) has the sign reversed), Hessian A = diag(p) - p p^T (eq. (7)),
    of rank C - 1 since A 1 = 0. Labels are classes (n,), or the probability of each class (n, C).

    Parameters
    ----------
    label_smoothing : float
        This share of each label is spread evenly over all C classes, in 0..1, as in `torch.nn.CrossEntropyLoss`.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> rl.CrossEntropy().gradient(np.zeros((1, 2)), np.array([0]))
    array([[-0.5,  0.5]])
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        real("label_smoothing", self.label_smoothing, at_least=0, at_most=1)

    def check(self, outputs: Array, labels: Array) -> None:
        """ValueError for C < 2 or labels outside 0..C-1, TypeError for labels that are not integers.

        Of labels (n, C): real numbers in 0..1, each row of sum 1.
        """
        check_outputs(outputs, labels)
        if outputs.shape[1] < 2:
            raise ValueError(
                "`logits` must have C >= 2 classes under softmax (one output: use loss=Logistic()); got C = 1"
            )
        if labels.ndim == 1:
            _check_classes(labels, outputs.shape[1])
            return
        _check_targets(labels, "probabilities in 0..1", 0, 1)
        xp = namespace(labels)
        error = float(xp.max(xp.abs(xp.sum(labels, axis=1) - 1)))
        if error > 1e-3:
            raise ValueError(f"`labels` of shape (n, C) must be probabilities of sum 1; got sums off by {error:.3g}")

    def _targets(self, outputs: Array, labels: Array) -> Array:
        """The probability that the label gives each class, (n, C)."""
        xp = namespace(outputs)
        num_classes = outputs.shape[1]
        hard = one_hot(labels, num_classes, outputs.dtype) if labels.ndim == 1 else xp.astype(labels, outputs.dtype)
        return (1 - self.label_smoothing) * hard + self.label_smoothing / num_classes

    def _top(self, outputs: Array, dtype: Any) -> Array:
        # The most probable class as one-hot rows: 1 - p of a frozen example survives only where it is set apart.
        return one_hot(namespace(outputs).argmax(outputs, axis=1), outputs.shape[1], dtype)

    def log_probabilities(self, outputs: Array) -> Array:
        """Log softmax, (n, C), finite where a probability underflows and to full precision where it is nearly 1."""
        xp = namespace(outputs)
        shifted = outputs - xp.max(outputs, axis=1, keepdims=True)
        return shifted - xp.log1p(
            xp.sum(xp.exp(shifted) * (1 - self._top(outputs, outputs.dtype)), axis=1, keepdims=True)
        )

    def probabilities(self, outputs: Array) -> Array:
        """Softmax, (n, C)."""
        xp = namespace(outputs)
        weights = xp.exp(outputs - xp.max(outputs, axis=1, keepdims=True))
        return weights / xp.sum(weights, axis=1, keepdims=True)

    def value(self, outputs: Array, labels: Array) -> Array:
        """-log p_y, (n,); its mean over the targets where these are soft."""
        return -namespace(outputs).sum(self._targets(outputs, labels) * self.log_probabilities(outputs), axis=1)

    def gradient(self, outputs: Array, labels: Array) -> Array:
        """Probabilities minus the one-hot label, p - y, (n, C); each row sums to zero."""
        if labels.ndim > 1 or self.label_smoothing > 0:
            return self.probabilities(outputs) - self._targets(outputs, labels)
        own = one_hot(labels, outputs.shape[1], outputs.dtype)
        others = self.probabilities(outputs) * (1 - own)
        # p_y - 1 as minus the sum of the others, which does not cancel at a frozen example.
        return others - own * namespace(outputs).sum(others, axis=1, keepdims=True)

    def hessian_product(self, outputs: Array, tangents: Array) -> Array:
        """Product A u = p u - p (p.u), (n, C, k)."""
        xp = namespace(outputs)
        p = self.probabilities(outputs)[:, :, None]
        # A 1 = 0, so the tangent of the top class may be taken off first: then nothing cancels where p is near 1.
        relative = tangents - self._top(outputs, tangents.dtype)[:, None, :] @ tangents
        return p * (relative - xp.sum(p * relative, axis=1, keepdims=True))

    def hessian_factor(self, outputs: Array) -> Array:
        """The Cholesky factor of A in closed form, (n, C, C - 1).

        With tails q_k = sum_{j > k} p_j: L_kk = sqrt(p_k q_k / q_{k-1}), L_ik = -p_i sqrt(p_k / (q_k q_{k-1})) for
        i > k (Tanabe and Sagae 1992). Sums of positive terms only, so it is accurate where 1 - p cancels.
        """
        xp = namespace(outputs)
        p = self.probabilities(outputs)
        tails = xp.flip(xp.cumulative_sum(xp.flip(p, axis=1), axis=1), axis=1)  # tails[:, k] = q_{k-1}
        before, after, own = tails[:, :-1], tails[:, 1:], p[:, :-1]
        positive = after > 0  # an underflowed tail has no curvature left to factor
        before = xp.where(positive, before, xp.ones_like(before))
        safe = xp.where(positive, after, xp.ones_like(after))
        diagonal = xp.sqrt(own) * xp.sqrt(after / before)
        scale = xp.where(positive, xp.sqrt(own / before) / xp.sqrt(safe), xp.zeros_like(after))
        below = xp.tril(-p[:, :, None] * scale[:, None, :], k=-1)
        classes = xp.arange(p.shape[1], device=p.device)
        on_diagonal = classes[None, :, None] == classes[None, None, :-1]
        return below + xp.where(on_diagonal, diagonal[:, None, :], xp.zeros_like(below))

    def predictions(self, outputs: Array) -> Array:
        """Argmax, (n,)."""
        return namespace(outputs).argmax(outputs, axis=1)


@dataclass(frozen=True)
class Logistic:
    """Cross-entropy of Bernoulli labels, one for each output, in nats: gradient s - y, Hessian s (1 - s).

    With one output labels are 0 or 1, (n,); with C outputs, each a question of its own, probabilities in 0..1, (n, C).

    Parameters
    ----------
    mean : bool
        False: the sum over outputs. True: their mean, as in `torch.nn.BCEWithLogitsLoss`.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> rl.Logistic().gradient(np.zeros((1, 1)), np.array([1]))
    array([[-0.5]])
    """

    mean: bool = False

    def check(self, outputs: Array, labels: Array) -> None:
        """ValueError for labels other than 0 and 1 of one output, or outside 0..1 of several."""
        check_outputs(outputs, labels)
        if labels.ndim == 1 and outputs.shape[1] != 1:
            raise ValueError(
                f"`logits` must have one output under Logistic() with labels (n,); got C = {outputs.shape[1]}"
            )
        if labels.ndim == 1 and not is_floating(labels):
            _check_classes(labels, 2)
        else:
            _check_targets(labels, "probabilities in 0..1", 0, 1)

    def _scale(self, outputs: Array) -> float:
        return 1 / outputs.shape[1] if self.mean else 1.0

    def _targets(self, outputs: Array, labels: Array) -> Array:
        targets = namespace(outputs).astype(labels, outputs.dtype)
        return targets[:, None] if labels.ndim == 1 else targets

    def _both(self, outputs: Array) -> tuple[Array, Array]:
        # s and 1 - s, each without cancellation.
        xp = namespace(outputs)
        small = xp.exp(-xp.abs(outputs))
        large, little = 1 / (1 + small), small / (1 + small)
        return xp.where(outputs >= 0, large, little), xp.where(outputs >= 0, little, large)

    def probabilities(self, outputs: Array) -> Array:
        """Sigmoid, the probability of label 1, (n, C)."""
        return self._both(outputs)[0]

    def value(self, outputs: Array, labels: Array) -> Array:
        """log(1 + e^z) - y z, summed over outputs, (n,)."""
        xp = namespace(outputs)
        z, y = outputs, self._targets(outputs, labels)
        each = xp.maximum(z, xp.zeros_like(z)) - y * z + xp.log1p(xp.exp(-xp.abs(z)))
        return xp.sum(each, axis=1) * self._scale(outputs)

    def gradient(self, outputs: Array, labels: Array) -> Array:
        """Probability minus the label, s - y, (n, C)."""
        success, failure = self._both(outputs)
        y = self._targets(outputs, labels)
        # s - y without cancellation at labels 0 and 1.
        return (success * (1 - y) - failure * y) * self._scale(outputs)

    def hessian_product(self, outputs: Array, tangents: Array) -> Array:
        """Product s (1 - s) u, (n, C, k)."""
        success, failure = self._both(outputs)
        return (success * failure * self._scale(outputs))[:, :, None] * tangents

    def hessian_factor(self, outputs: Array) -> Array:
        """Diagonal of sqrt(s (1 - s)), (n, C, C)."""
        success, failure = self._both(outputs)
        xp = namespace(outputs)
        roots = xp.sqrt(success) * xp.sqrt(failure) * self._scale(outputs) ** 0.5
        return roots[:, :, None] * xp.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)

    def predictions(self, outputs: Array) -> Array:
        """1 where the output is positive, (n,) of one output, (n, C) of several."""
        xp = namespace(outputs)
        positive = xp.astype(outputs > 0, xp.int64)
        return positive[:, 0] if outputs.shape[1] == 1 else positive


@dataclass(frozen=True)
class SquaredError:
    """Half the squared distance, |z - y|^2 / 2, so that the Hessian in the outputs is the identity.

    With one output the label is the real target; with C >= 2 outputs integer labels are class indices and the target
    is their one-hot vector, and labels (n, C) are the targets themselves.

    Parameters
    ----------
    mean : bool
        True: 2 / C times this, the mean of the squared differences over outputs, as in `torch.nn.MSELoss`.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> rl.SquaredError().value(np.array([[3.0]]), np.array([1.0]))
    array([2.])
    """

    mean: bool = False

    def check(self, outputs: Array, labels: Array) -> None:
        """ValueError for labels outside 0..C-1 (C >= 2) or targets that are not finite (C = 1)."""
        check_outputs(outputs, labels)
        if labels.ndim == 2:
            _check_targets(labels, "finite", -float("inf"), float("inf"))
        elif outputs.shape[1] > 1:
            _check_classes(labels, outputs.shape[1])
        elif not all_finite(labels):
            raise ValueError("`labels` must be finite targets; got NaN or infinite entries")

    def _scale(self, outputs: Array) -> float:
        return 2 / outputs.shape[1] if self.mean else 1.0

    def _targets(self, outputs: Array, labels: Array) -> Array:
        if labels.ndim == 2:
            return namespace(outputs).astype(labels, outputs.dtype)
        if outputs.shape[1] > 1:
            return one_hot(labels, outputs.shape[1], outputs.dtype)
        return namespace(outputs).astype(labels, outputs.dtype)[:, None]

    def probabilities(self, outputs: Array) -> Array:
        """ValueError: outputs of a regression are no probabilities."""
        raise ValueError("SquaredError() has no probabilities; entropy and top probability need a classification loss")

    def value(self, outputs: Array, labels: Array) -> Array:
        """|z - y|^2 / 2, (n,)."""
        difference = outputs - self._targets(outputs, labels)
        return namespace(outputs).sum(difference**2, axis=1) * (self._scale(outputs) / 2)

    def gradient(self, outputs: Array, labels: Array) -> Array:
        """Output minus the target, z - y, (n, C)."""
        return (outputs - self._targets(outputs, labels)) * self._scale(outputs)

    def hessian_product(self, outputs: Array, tangents: Array) -> Array:
        """The tangents themselves, unless scaled."""
        return tangents * self._scale(outputs) if self.mean else tangents

    def hessian_factor(self, outputs: Array) -> Array:
        """Identities, (n, C, C), unless scaled."""
        xp = namespace(outputs)
        identity = xp.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device) * self._scale(outputs) ** 0.5
        return xp.broadcast_to(identity, (outputs.shape[0], *identity.shape))

    def predictions(self, outputs: Array) -> Array:
        """Argmax of several outputs, the output itself of one, (n,)."""
        return namespace(outputs).argmax(outputs, axis=1) if outputs.shape[1] > 1 else outputs[:, 0]
