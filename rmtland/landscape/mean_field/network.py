"""A fully connected network at initialisation: its kernels at large width, and the random model they give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, finite_array, flag, integer, real
from rmtland._arrays import told
from rmtland.landscape.mean_field.activations import Activation, activation_of
from rmtland.landscape.mean_field.kernels import MeanFieldKernels

Floats = npt.NDArray[np.float64]

INITIALISATIONS: dict[str, Callable[[int, int], float]] = {
    "torch": lambda fan_in, fan_out: 1 / (3 * fan_in),
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
}
"""Variances of the weights by name; of the biases, "torch" alone."""

UNITS = 4096
"""Units drawn for averages over four inputs at a time: their error is about 2%."""


@dataclass(frozen=True)
class MeanFieldNetwork:
    """A fully connected network whose weights and biases are independent, of mean 0 and given variances.

    z = W_L phi(... phi(W_1 x + b_1) ...) + b_L, in the parametrisation of the training framework itself: parameters are
    the entries of W and b, no factors 1 / sqrt(n) in front of them.

    Parameters
    ----------
    widths : sequence of int
        Inputs, hidden layers, C outputs: [784, 1024, 10].
    activation : str or Activation
        "relu", "erf", "tanh", "gelu", "silu", "sigmoid", "linear", or one of your own.
    weight_variances : str, float, or sequence of L floats
        Of the entries of each W_l, >= 0; or an initialisation by name: "torch" (1 / (3 fan_in), PyTorch's default),
        "he" (2 / fan_in), "glorot" (2 / (fan_in + fan_out)), "lecun" (1 / fan_in).
    bias_variances : str, float, or sequence of L floats
        Likewise; "torch" is 1 / (3 fan_in).
    biases : bool
        Whether there are biases at all, which are parameters too.

    Raises
    ------
    ValueError, TypeError
        For fewer than two widths, variances that are negative or not one for each layer, names that are none, bias
        variances without biases.

    Notes
    -----
    Everything it predicts holds to leading order in the widths; errors fall as 1 / width, but for the spread of the
    outputs' kernel, of ratio C / width, that `MeanFieldKernels` draws.

    References
    ----------
    Neal (1996); Cho and Saul (2009); Jacot, Gabriel and Hongler (2018); Karakida, Akaho and Amari (2019).

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> network = rl.MeanFieldNetwork([64, 256, 10], "relu")
    >>> network.num_parameters
    19210
    >>> kernels = network.kernels(np.random.default_rng(0).normal(size=(20, 64)))
    >>> round(kernels.logit_variance, 3), kernels.theta.shape
    (0.056, (20, 20))
    """

    widths: Sequence[int]
    activation: str | Activation = "relu"
    weight_variances: str | float | Sequence[float] = "torch"
    bias_variances: str | float | Sequence[float] = "torch"
    biases: bool = True

    __repr__ = told

    def __post_init__(self) -> None:
        widths = tuple(integer("widths", width, at_least=1) for width in self.widths)
        if len(widths) < 2:
            raise ValueError(f"`widths` must name inputs and outputs at least; got {list(widths)}")
        if widths[-1] < 2:
            raise ValueError(f"`widths` must end with C >= 2 outputs; got {widths[-1]}")
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "activation", activation_of(self.activation))
        object.__setattr__(self, "biases", flag("biases", self.biases))
        object.__setattr__(self, "weight_variances", self._variances("weight_variances", self.weight_variances))
        none = not self.biases and self.bias_variances in ("torch", 0)
        variances = (0.0,) * self.depth if none else self._variances("bias_variances", self.bias_variances)
        if not self.biases and any(variances):
            raise ValueError("`bias_variances` must be left out without biases")
        object.__setattr__(self, "bias_variances", variances)

    def _variances(self, name: str, given: Any) -> tuple[float, ...]:
        """One for each layer."""
        if isinstance(given, str):
            names = tuple(INITIALISATIONS) if name == "weight_variances" else ("torch",)
            rule = INITIALISATIONS[choice(name, given, names)]
            return tuple(rule(a, b) for a, b in pairwise(self.widths))
        if np.ndim(given) == 0:
            return (real(name, given, at_least=0),) * self.depth
        variances = tuple(real(name, variance, at_least=0) for variance in given)
        if len(variances) != self.depth:
            raise ValueError(f"`{name}` must have {self.depth} entries, one for each layer; got {len(variances)}")
        return variances

    @property
    def depth(self) -> int:
        """L, layers of weights."""
        return len(self.widths) - 1

    @property
    def num_classes(self) -> int:
        """C."""
        return self.widths[-1]

    @property
    def num_parameters(self) -> int:
        """D."""
        return sum(b * (a + self.biases) for a, b in pairwise(self.widths))

    def scaled(self, radius: float) -> MeanFieldNetwork:
        """The network with all parameters multiplied by `radius` > 0: as one moves radially out in weight space."""
        factor = real("radius", radius, above=0) ** 2
        weights, biases = ([factor * v for v in variances] for variances in self._per_layer)
        return dataclasses.replace(self, weight_variances=weights, bias_variances=biases if self.biases else 0)

    def kernels(self, inputs: npt.ArrayLike) -> MeanFieldKernels:
        """Covariance of the logits and neural tangent kernel of given inputs.

        Parameters
        ----------
        inputs : array_like (N, ...)
            Flattened to (N, widths[0]).

        Returns
        -------
        MeanFieldKernels

        Raises
        ------
        ValueError
            For NaN or infinite inputs, or another number of them.

        Notes
        -----
        S^l = v_l H^(l-1) + b_l, H^l = n_l E[phi phi](S^l), D^l = E[phi' phi'](S^l), and layer l's part of the kernel is
        (H^(l-1) + 1) prod_(l' >= l) n_l' v_(l'+1) D^l', all products entry by entry. O(L N^2), and O(N^2 k) with k
        Hermite terms where the activation has no closed form.
        """
        x = finite_array("inputs", inputs)
        x = x.reshape(x.shape[0], -1) if x.ndim else x
        if x.ndim != 2 or x.shape[1] != self.widths[0] or not x.shape[0]:
            raise ValueError(f"`inputs` must have shape (N, {self.widths[0]}) with N >= 1; got {np.shape(inputs)}")
        activation = activation_of(self.activation)
        weights, biases = self._per_layer
        features: Floats = x @ x.T  # H^(l-1)
        layers: list[Floats] = []
        units: list[Floats] = []
        for layer, (v, b) in enumerate(zip(weights, biases, strict=True)):
            covariance = v * features + b
            layers = [*layers, features + float(self.biases)]
            if layer + 1 < self.depth:
                value, slope = activation.averages(covariance)
                width = self.widths[layer + 1]
                units.append(_unit_weights(activation, covariance, np.sum(layers, axis=0)))
                features = width * value
                layers = [theta * (width * weights[layer + 1] * slope) for theta in layers]
        sampled = np.array(units).reshape(len(units), -1)
        return MeanFieldKernels(covariance, np.array(layers), sampled, self.widths, self.num_parameters)  # type: ignore[arg-type]

    @property
    def _per_layer(self) -> tuple[list[float], list[float]]:
        """Variances of weights and of biases, as numbers."""
        return [float(v) for v in self.weight_variances], [float(b) for b in self.bias_variances]  # type: ignore[union-attr]


def _unit_weights(activation: Activation, covariance: Floats, kernel: Floats) -> Floats:
    """For units drawn at random, sum over pairs of inputs of phi' phi' times the kernel from below; over its mean."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    # A fixed seed: an average over units, by sampling because it takes four inputs at a time.
    drawn = root @ np.random.default_rng(0).standard_normal((len(root), UNITS))
    slopes = activation.derivative(drawn)
    through: Floats = np.sum(slopes * (kernel @ slopes), axis=0)
    mean = float(through.mean())
    return through / mean if mean > 0 else np.ones_like(through)
