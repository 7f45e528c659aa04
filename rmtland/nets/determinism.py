"""Whether an example has the same logits in each pass, alone and in a batch, and whether a loader repeats itself."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rmtland._arrays import to_numpy
from rmtland.nets.batches import Batch
from rmtland.nets.pytrees import cut
from rmtland.nets.snapshot import Snapshot

CHOICES = ("raise", "warn")


def complain(message: str, action: str) -> None:
    """Raise a ValueError, or warn where the user asked for that."""
    if action == "raise":
        raise ValueError(f'{message}. `nondeterminism="warn"` goes on all the same')
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def check_network(network: Snapshot, batch: Batch, action: str) -> bool:
    """Compare two passes over a few inputs, and each of two inputs alone with itself among the others.

    Returns whether all agree; where they do not, raises or warns.
    """
    inputs = network.placed(batch.copied().inputs)
    before = [leaf.clone() for leaf in tree_leaves(inputs)]
    with torch.inference_mode(False), torch.no_grad():
        together = network.outputs(network.parameters, inputs).clone()
        if not all(torch.equal(a, b) for a, b in zip(before, tree_leaves(inputs), strict=True)):
            message = "`module` must not write to its inputs: each pass would start from the last one's; it does"
            complain(f"{message} (clone them in `forward`)", action)
            network.writes_inputs = True
            inputs = network.placed(batch.inputs)
        again = network.outputs(network.parameters, inputs)
        if not _same(together, again):
            complain(
                "`module` must give the same logits in every pass, in evaluation mode; two passes differ by "
                f"{_difference(together, again):.3g} (dropout or noise that evaluation mode does not turn off?)",
                action,
            )
            return False
        for index in {0, batch.num_inputs - 1}:
            try:
                alone = network.outputs(network.parameters, cut(inputs, slice(index, index + 1)))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                complain(f"`module` must take an example alone as it does in a batch; it raises: {error}", action)
                return False
            if not _same(together[index : index + 1], alone):
                complain(
                    "`module` must give an example the same logits alone and in a batch; they differ by "
                    f"{_difference(together[index : index + 1], alone):.3g} (batch normalisation without running "
                    "statistics, or outputs that depend on other examples?)",
                    action,
                )
                return False
    return True


def _same(a: Tensor, b: Tensor) -> bool:
    if not bool(a.isfinite().all()):
        return True  # the loss's check says so in better words
    tolerance = min(0.1, 10 * math.sqrt(torch.finfo(a.dtype).eps))
    return bool(_difference(a, b) <= tolerance * float(a.abs().max()) + torch.finfo(a.dtype).tiny)


def _difference(a: Tensor, b: Tensor) -> float:
    return float(np.abs(to_numpy(a).astype(np.float64) - to_numpy(b).astype(np.float64)).max())


class Fingerprint:
    """Sums over the examples of one pass of a loader, which no order and no cut into batches changes."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, batch: Batch) -> None:
        """Another batch: what the examples' means, squares, products with targets and weights add up to."""
        own = [batch.targets, *([] if batch.weights is None else [batch.weights])]
        leaves = [*tree_leaves(batch.inputs), *own]
        rows = [leaf.detach().to("cpu").double().reshape(leaf.shape[0], -1) for leaf in leaves]
        means = torch.stack([row.mean(dim=1) for row in rows])
        squares = torch.stack([row.square().mean(dim=1) for row in rows])
        products = [means * each for each in means[-len(own) :]]
        values = torch.cat([torch.ones_like(means[:1]), means, squares, means**2, *products])
        sums = torch.stack([values.sum(dim=1), values.abs().sum(dim=1)])
        self._sums = sums if self._sums is None else self._sums + sums

    def same(self, other: Fingerprint) -> bool:
        """Whether both passes had the same examples, to rounding."""
        if self._sums is None or other._sums is None or self._sums.shape != other._sums.shape:
            return False
        return bool(((self._sums[0] - other._sums[0]).abs() <= 1e-9 * self._sums[1]).all())
