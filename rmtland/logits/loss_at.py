"""A loss at given outputs and targets, worked out a part of the examples at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rmtland._arguments import require_memory
from rmtland._arrays import Array, double, namespace
from rmtland.logits.losses import Loss

AT_ONCE = 2**19
"""Numbers of a part of (n, C) outputs that the loss is asked for at a time."""
LARGE = 2**28
"""Bytes from which it is asked whether they are free, which takes a millisecond."""


@dataclass(frozen=True, eq=False)
class LossAt:
    """A loss with outputs (n, C), targets and example weights put in; everything per example, nothing averaged.

    Attributes
    ----------
    loss : Loss
    outputs : array (n, C)
    targets : array (n, ...)
        As the loss takes them.
    weights : array (n,), optional
        What each example's loss is multiplied by; 1 where left out.
    in_double : bool
        Whether results are float64 where the device has it, whatever the outputs are.
    """

    loss: Loss
    outputs: Array
    targets: Array
    weights: Array | None = None
    in_double: bool = False

    def parts(self, num_columns: int = 1) -> Iterator[tuple[slice, LossAt]]:
        """Some of the examples at a time, with their slice.

        What is formed on the way takes several times the memory of the outputs, which is much with 50,000 words.
        """
        n, c = self.outputs.shape
        size = max(1, AT_ONCE // (c * num_columns))
        for start in range(0, max(n, 1), size):
            some = slice(start, start + size) if n > size else slice(None)
            outputs = self.outputs[some, :]
            weights = None if self.weights is None else self.weights[some]
            outputs = double(outputs) if self.in_double else outputs
            yield some, LossAt(self.loss, outputs, self.targets[some, ...], weights)

    def _filled(self, shaped: Array, of: Callable[[slice, LossAt], Array], num_columns: int = 1) -> Array:
        """What `of` makes of the parts, in one array shaped like another, which parts do not lie beside."""
        result = None
        for some, part in self.parts(num_columns):
            found = of(some, part)
            if some == slice(None):
                return found
            result = namespace(found).zeros_like(shaped, dtype=found.dtype) if result is None else result
            result[some, ...] = found
        return result

    def _weighted(self, values: Array, power: float = 1.0) -> Array:
        if self.weights is None:
            return values
        xp = namespace(values)
        factor = xp.astype(self.weights, values.dtype) ** power
        return values * xp.reshape(factor, (-1,) + (1,) * (values.ndim - 1))

    def value(self) -> Array:
        """Loss of each example, (n,)."""
        found = [at._weighted(at.loss.value(at.outputs, at.targets)) for _, at in self.parts()]
        return namespace(*found).concat(found)

    def gradient(self) -> Array:
        """Derivative in the outputs, (n, C)."""
        return self._filled(self.outputs, lambda _, at: at._weighted(at.loss.gradient(at.outputs, at.targets)))

    def hessian_product(self, tangents: Array) -> Array:
        """A_mu applied to tangents (n, C, k), (n, C, k)."""

        def of(some: slice, at: LossAt) -> Array:
            return at._weighted(at.loss.hessian_product(at.outputs, tangents[some, :, :]))

        return self._filled(tangents, of, max(int(tangents.shape[2]), 1))

    def hessian_factor(self) -> Array:
        """L of shape (n, C, r) with L L^T = A_mu; MemoryError where C^2 numbers an example do not fit."""
        n, num_classes = self.outputs.shape
        if (needed := 3 * 8.0 * n * num_classes**2) > LARGE:
            what = f"the curvature of {n} examples in {num_classes} logits"
            require_memory(what, needed, "use products with gauss_newton(source), which trace_estimate takes,")
        at = dataclasses.replace(self, outputs=double(self.outputs) if self.in_double else self.outputs)
        return at._weighted(at.loss.hessian_factor(at.outputs), 0.5)
