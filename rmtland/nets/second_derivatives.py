"""The Hessian of a network's loss and its logit-curvature term, as operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rmtland.logits.accumulate import checked_chunks
from rmtland.logits.losses import Loss
from rmtland.logits.ranks import in_step
from rmtland.nets.gradients import MEMORY_BUDGET, NetworkChunk, NetworkLogitGradients, Product
from rmtland.nets.snapshot import pullback
from rmtland.spectra.operators import SymmetricOperator


def hessian(
    module: torch.nn.Module | NetworkLogitGradients,
    inputs: Any = None,
    labels: Any = None,
    *,
    loss: Loss | None = None,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> SymmetricOperator:
    """Hessian of the mean loss in the trainable parameters.

    Parameters
    ----------
    module : torch.nn.Module or NetworkLogitGradients
        The network; or a source made of it, in which case the other arguments are left out.
    inputs, labels, loss, batch_size, memory_budget
        As for `NetworkLogitGradients`; (module, loader) too.

    Returns
    -------
    SymmetricOperator
        D x D, in the dtype and on the device of the parameters; columns of a block are multiplied side by side
        under vmap. `.to_dense()` gives the exact matrix of a small network.

    Notes
    -----
    The gradient's computation is recorded once per chunk and kept within `memory_budget`; each product is one backward
    pass through it.

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
    source = _source(module, inputs, labels, loss, batch_size, memory_budget)

    def mean_loss(chunk: NetworkChunk) -> Callable[[Tensor], Tensor]:
        def value(outputs: Tensor) -> Tensor:
            result: Tensor = source.loss.value(outputs, chunk.labels).sum() / source.num_examples
            return result

        return value

    return _second_derivative("hessian", source, mean_loss)


def logit_curvature(
    module: torch.nn.Module | NetworkLogitGradients,
    inputs: Any = None,
    labels: Any = None,
    *,
    loss: Loss | None = None,
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
    source = _source(module, inputs, labels, loss, batch_size, memory_budget)

    def fixed_slopes(chunk: NetworkChunk) -> Callable[[Tensor], Tensor]:
        slopes = source.loss.gradient(chunk.logits, chunk.labels) / source.num_examples
        return lambda outputs: (slopes * outputs).sum()

    return _second_derivative("logit_curvature", source, fixed_slopes)


def _source(
    module: Any, inputs: Any, labels: Any, loss: Loss | None, batch_size: int | None, memory_budget: int
) -> NetworkLogitGradients:
    if hasattr(module, "chunks") and hasattr(module, "network"):  # a network's source, or a rank's among several
        if inputs is not None or labels is not None or loss is not None:
            raise TypeError(
                "`inputs`, `labels` and `loss` come with the source; give either it or the module and its data"
            )
        return module  # type: ignore[no-any-return]
    if inputs is None:
        raise TypeError("`inputs` must be given with a module; got None")
    return NetworkLogitGradients(module, inputs, labels, loss, batch_size=batch_size, memory_budget=memory_budget)


def _second_derivative(
    name: str, source: NetworkLogitGradients, scalar: Callable[[NetworkChunk], Callable[[Tensor], Tensor]]
) -> SymmetricOperator:
    """Sum over chunks of the second derivative of scalar(chunk)(outputs) in the parameters."""

    def recorded(chunk: NetworkChunk) -> Product:
        vector, outputs = chunk.recorded()
        with torch.enable_grad():
            slope = torch.autograd.grad(scalar(chunk)(outputs), vector, create_graph=True)[0]
        return pullback(slope, vector, 4 * chunk.bytes)

    def multiply(block: Tensor) -> Tensor:
        total = torch.zeros_like(block)
        chunk: Any
        with in_step(source, block):
            for chunk in checked_chunks(source):
                if chunk.labels.shape[0]:  # a rank may be without examples
                    # A gradient computation holds about four times what its forward pass does.
                    total += chunk.product(name, lambda chunk=chunk: recorded(chunk), 4)(block.T).T
            return source.reduce(total)

    return SymmetricOperator(multiply, source.num_parameters, source.network.vector[:0])
