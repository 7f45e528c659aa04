"""The Hessian of a network's loss and its logit-curvature term, as operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rmtland._arguments import real, require_memory
from rmtland._arrays import to_numpy
from rmtland.logits.accumulate import checked_chunks, loss_at
from rmtland.logits.gradients import column_slices, rounding
from rmtland.logits.losses import Loss
from rmtland.logits.ranks import in_step, ranked
from rmtland.logits.restriction import RestrictedSource, diagonal_block
from rmtland.nets.budget import MEMORY_BUDGET
from rmtland.nets.chunks import NetworkChunk, Slope
from rmtland.nets.dense_second_derivatives import dense_second_derivative
from rmtland.nets.gradients import NetworkLogitGradients
from rmtland.nets.graphs import loss_slope
from rmtland.nets.snapshot import check_module
from rmtland.spectra.operators import SymmetricOperator


def hessian(
    module: torch.nn.Module | NetworkLogitGradients | RestrictedSource,
    inputs: Any = None,
    labels: Any = None,
    *,
    loss: Loss | torch.nn.Module | None = None,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
    weight_decay: float = 0.0,
) -> SymmetricOperator:
    """Hessian of the mean loss in the trainable parameters.

    Parameters
    ----------
    module : torch.nn.Module or NetworkLogitGradients
        The network; or a source made of it, in which case the other arguments are left out. Of such a source
        `restrict(source, group)` gives the diagonal block of a group of parameters, at the price of whole products.
    inputs, labels, loss, batch_size, memory_budget
        As for `NetworkLogitGradients`; (module, loader) too.
    weight_decay : float
        Adds the Hessian of an l2 term (weight_decay / 2) |W|^2, weight_decay times the identity.

    Returns
    -------
    SymmetricOperator
        D x D, in the dtype and on the device of the parameters; columns of a block are multiplied side by side
        under vmap. `.to_dense()` gives the exact matrix of a small network.

    Notes
    -----
    The gradient's computation is recorded once per chunk and kept within `memory_budget`; each product is one backward
    pass through it. Where the network is a chain of linear layers and activations, which is seen in what its forward
    pass records, the columns of a block share matrix products instead: the same sums in another order.

    References
    ----------
    Pearlmutter (1994), Fast exact multiplication by the Hessian.

    Examples
    --------
    >>> import torch
    >>> import rmtland as rl
    >>> network = torch.nn.Linear(2, 2)
    >>> rl.nets.hessian(network, torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 0])).to_dense().shape
    (6, 6)
    """
    if isinstance(module, RestrictedSource):
        _alone(inputs, labels, loss)
        return diagonal_block(hessian(module.source, weight_decay=weight_decay), module.parameters)  # type: ignore[arg-type]
    source = _source(module, inputs, labels, loss, batch_size, memory_budget)
    decay = real("weight_decay", weight_decay, at_least=0)
    return _second_derivative("hessian", source, lambda chunk: loss_slope(chunk, source.num_examples), decay)


def logit_curvature(
    module: torch.nn.Module | NetworkLogitGradients | RestrictedSource,
    inputs: Any = None,
    labels: Any = None,
    *,
    loss: Loss | torch.nn.Module | None = None,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> SymmetricOperator:
    """The logit-curvature term (H-term) of the Hessian, (1/N) sum_mu sum_k dl/dz_k d2z_k/dW2, with dl/dz held fixed.

    Hess = G + H-term. Computed from the curvature of the logits, not as a difference.

    Parameters
    ----------
    module, inputs, labels, loss, batch_size, memory_budget
        As for `hessian`.

    Returns
    -------
    SymmetricOperator
        D x D.

    References
    ----------
    Fort and Ganguli (2019), eq. (9), with dl/dz = p - y (their eq. (6) has the sign reversed).

    Examples
    --------
    >>> import torch
    >>> import rmtland as rl
    >>> network = torch.nn.Linear(2, 2)  # logits linear in the parameters have no curvature
    >>> float(abs(rl.nets.logit_curvature(network, torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 0])).to_dense()).max())
    0.0
    """
    if isinstance(module, RestrictedSource):
        _alone(inputs, labels, loss)
        return diagonal_block(logit_curvature(module.source), module.parameters)  # type: ignore[arg-type]
    source = _source(module, inputs, labels, loss, batch_size, memory_budget)

    def fixed(chunk: NetworkChunk) -> Slope:
        return _Fixed(loss_at(source, chunk).gradient() / source.num_examples)

    return _second_derivative("logit_curvature", source, fixed)


@dataclass(frozen=True, eq=False)
class _Fixed:
    """Cotangents (n, C) whatever the outputs are; see `SlopeAlong`."""

    slopes: Tensor

    def __call__(self, outputs: Tensor) -> Tensor:
        return self.slopes.to(outputs.dtype)

    def along(self, outputs: Tensor, tangents: Tensor, examples: slice) -> Tensor:
        return torch.zeros_like(tangents)


def _alone(*arguments: Any) -> None:
    if any(argument is not None for argument in arguments):
        raise TypeError("`inputs`, `labels` and `loss` come with the source; give either it or the module and its data")


def _source(
    module: Any,
    inputs: Any,
    labels: Any,
    loss: Loss | torch.nn.Module | None,
    batch_size: int | None,
    memory_budget: int,
) -> NetworkLogitGradients:
    if hasattr(module, "chunks") and hasattr(module, "network"):  # a network's source, or a rank's among several
        _alone(inputs, labels, loss)
        return module  # type: ignore[no-any-return]
    if inputs is None:
        check_module(module)
        raise TypeError("`inputs` must be given with a module; got None")
    return NetworkLogitGradients(module, inputs, labels, loss, batch_size=batch_size, memory_budget=memory_budget)


def _second_derivative(
    name: str, source: NetworkLogitGradients, slope: Callable[[NetworkChunk], Slope], decay: float = 0.0
) -> SymmetricOperator:
    """Sum over chunks of the derivative of J^T slope(outputs) in the parameters, and `decay` times the identity."""

    def multiply(block: Tensor) -> Tensor:
        chunk: Any
        with in_step(source, block), torch.inference_mode(False):
            total, parts = source.network.zeros(block.shape[1])
            for chunk in checked_chunks(source):
                if chunk.labels.shape[0]:  # a rank may be without examples
                    derivative = chunk.second_derivative(name, slope(chunk))
                    for some in column_slices(chunk, block.shape[1]):
                        derivative.add_to([part[some] for part in parts], source.network.split(block[:, some]))
            total = source.reduce(total)
            return total + decay * block if decay else total

    kind, coarse = source.prototype, rounding(source)
    return _SecondDerivative(multiply, source.num_parameters, kind, source, slope, decay, rounding=coarse)


@dataclass(frozen=True, eq=False, repr=False)
class _SecondDerivative(SymmetricOperator):
    """An operator that knows its matrix by a shorter way than column by column."""

    source: NetworkLogitGradients
    slope: Callable[[NetworkChunk], Slope]
    decay: float

    def to_dense(self, block_size: int | None = None) -> npt.NDArray[np.float64]:
        """The matrix (D, D) as a float64 NumPy array, symmetrised against rounding.

        Parameters
        ----------
        block_size : int, optional
            Columns at a time, by products. By default linear layers are summed over examples in one matrix product
            for each pair of them, and only other parameters are multiplied column by column; in several processes
            all are.

        Raises
        ------
        MemoryError
            Where it does not fit; the products, or `to_scipy` with an iterative solver, do without it.
        """
        if block_size is not None or ranked(self.source) is not None:
            return super().to_dense(block_size)
        require_memory(
            f"the dense {self.dimension} x {self.dimension} matrix",
            32.0 * self.dimension**2,
            "use products or to_scipy()",
        )
        probe = self.prototype.new_ones((self.dimension, 1))
        probe[1::2] = -0.5
        expected = self.multiply(probe)
        try:
            matrix = dense_second_derivative(self.source, self.slope, self.multiply, self.decay)
            error, size = (matrix @ probe - expected).abs().max(), torch.linalg.vector_norm(matrix, 1, dim=1).max()
            right = bool(error <= 1e3 * torch.finfo(matrix.dtype).eps * size)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            right = False
        if not right:  # a forward pass that runs layers again in the backward pass (gradient checkpointing), for one
            return super().to_dense()
        return to_numpy(matrix).astype(np.float64, copy=False)
