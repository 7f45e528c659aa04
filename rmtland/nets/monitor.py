"""The largest eigenvalues of a network's curvature, followed while it trains at a small share of the loop's time."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from rmtland._arguments import integer, real
from rmtland._arrays import double, to_numpy
from rmtland.logits.cross_class import CrossClassMeansAccumulator
from rmtland.logits.gauss_newton import gradient
from rmtland.logits.streamed import most_outliers, streamed_outliers
from rmtland.nets.gradients import NetworkLogitGradients
from rmtland.nets.moment import pair, powers_along, undisturbed, weight_norm
from rmtland.nets.second_derivatives import hessian
from rmtland.nets.training_hook import TrainingHook
from rmtland.spectra.lanczos import lanczos

if TYPE_CHECKING:
    import xarray as xr

SHARPNESS_STEPS = 6
"""Lanczos steps from the last top eigenvector of the Hessian."""


class OutlierMonitor(TrainingHook):
    """Follows the outliers of a network's curvature in any training loop, in memory.

    Make it before the loop and call `step` after each step of the optimiser; the training is, bit for bit, the same as
    without.

    Parameters
    ----------
    module : torch.nn.Module
        Measured in evaluation mode at a copy of its parameters; modes, gradients, buffers and random states are left
        as found.
    inputs : array (N, ...), a loader, or a pair (inputs, labels)
        Examples to measure on, shuffled: a few hundred, the same each time.
    labels : array (N,), optional
    share : float
        Measure as often as keeps the time for it within this share of the loop's own. The first measurement is at the
        first step and is made up for.
    every : int, optional
        Measure at each multiple instead, whatever the time: the same steps in every run.
    k : int, optional
        How many of the largest eigenvalues of G; C - 1 by default.
    sharpness : bool
        Whether the largest eigenvalue of the Hessian is followed too: 6 of its products, about half the time.
    **options
        Of `NetworkLogitGradients`: loss, batch_size, memory_budget, forward, unpack and so on.

    Attributes
    ----------
    steps : list of int
        Steps that were measured.
    seconds : float
        Spent in `step` so far.

    Raises
    ------
    ValueError
        For settings out of range, another loss than cross-entropy.
    TypeError
        For something that is no module.

    Notes
    -----
    Each measurement is one pass of `streamed_outliers` that takes products with 2 k eigenvectors of the one before, and
    six steps of Lanczos on the Hessian from its last top eigenvector: subspaces move little between steps, and what
    they missed once is in the next products. The gradient, for its power along them, is one more pass. Where a weight
    is not finite all numbers are NaN.

    Examples
    --------
    >>> import torch
    >>> import rmtland as rl
    >>> digits = rl.nets.load_dataset("digits", per_class=10)
    >>> inputs, labels = torch.as_tensor(digits.x_train), torch.as_tensor(digits.y_train)
    >>> module = rl.nets.mlp([64, 8, 10])
    >>> optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> monitor = rl.nets.OutlierMonitor(module, inputs, labels, every=2)
    >>> for _ in range(4):
    ...     optimiser.zero_grad()
    ...     torch.nn.functional.cross_entropy(module(inputs), labels).backward()
    ...     optimiser.step()
    ...     _ = monitor.step()
    >>> monitor.steps, monitor.dataset().eigenvalues.shape
    ([2, 4], (2, 9))
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Any,
        labels: Any = None,
        *,
        share: float = 0.2,
        every: int | None = None,
        k: int | None = None,
        sharpness: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(module)
        self._data, self._options = pair(inputs, labels), options
        self._share = real("share", share, above=0, below=1)
        self._every = None if every is None else integer("every", every, at_least=1)
        self._k = None if k is None else integer("k", k, at_least=1)
        self._sharpness = sharpness
        self._steps: list[int] = []
        self.seconds = 0.0
        self._rows: list[dict[str, npt.NDArray[np.float64]]] = []
        self._directions: Any = None
        self._top: Any = None
        with undisturbed(module):  # what would be refused at the first measurement is refused before the loop
            CrossClassMeansAccumulator().start(self._source())
        self._begun, self._last = time.monotonic(), 0.0

    def _source(self) -> NetworkLogitGradients:
        return NetworkLogitGradients(self._module, *self._data, **self._options)

    @property
    def steps(self) -> list[int]:
        """Steps that were measured."""
        return list(self._steps)

    def _due(self, before: int, now: int) -> bool:
        if self._every is not None:
            return now // self._every > before // self._every
        loop = time.monotonic() - self._begun - self.seconds
        return not self.steps or self.seconds + self._last <= self._share * loop

    def _record(self, number: int) -> None:
        begun = time.monotonic()
        self._rows.append(self._measure())
        self._steps.append(number)
        self._last = time.monotonic() - begun
        self.seconds += self._last

    def _measure(self) -> dict[str, npt.NDArray[np.float64]]:
        if not math.isfinite(weight_norm(self._module)):
            if not self._rows:
                raise ValueError("`module` must have finite parameters when first measured; got NaN or infinite ones")
            self._directions = self._top = None
            return {name: np.full_like(values, math.nan) for name, values in self._rows[-1].items()}
        with undisturbed(self._module):
            source = self._source()
            k = source.num_classes - 1 if self._k is None else self._k
            # Twice as many are followed as told: which are the largest changes.
            most = max(k, min(2 * k, most_outliers(source, CrossClassMeansAccumulator())))
            # Without directions to start from the second pass is worth its price: once.
            passes = 2 if self._directions is None else 1
            found = streamed_outliers(source, passes, most, num_directions=most, start=self._directions)
            self._directions = found.eigenvectors
            powers = powers_along(to_numpy(found.eigenvectors[:, -k:]), to_numpy(double(gradient(source))))
            row = {
                "eigenvalues": found.eigenvalues[-k:],
                "errors": found.errors[-k:],
                "powers": powers,
                "gradient_power": np.asarray(powers.sum()),
            }
            if self._sharpness:
                row |= self._sharpest(source, found.eigenvectors[:, -1])
        return row

    def _sharpest(self, source: NetworkLogitGradients, fallback: Any) -> dict[str, npt.NDArray[np.float64]]:
        """The Hessian's largest eigenvalue and its residual."""
        start = fallback if self._top is None else self._top
        run = lanczos(hessian(source), min(SHARPNESS_STEPS, source.num_parameters), start=start)
        coefficients = np.linalg.eigh(np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1))[1]
        assert run.basis is not None
        self._top = run.basis.T @ torch.as_tensor(coefficients[:, -1], device="cpu").to(run.basis)
        return {
            "sharpness": np.asarray(run.ritz_values[-1]),
            "sharpness_residual": np.asarray(run.ritz_residuals[-1]),
        }

    def dataset(self) -> xr.Dataset:
        """What was measured.

        Returns
        -------
        xarray.Dataset
            Over (step, rank), rank 1 being the largest: eigenvalues of G with their `errors`, `powers` of the gradient
            along their vectors, their sum `gradient_power`; `sharpness`, the largest eigenvalue of the Hessian, and
            `sharpness_residual`, within which one of its eigenvalues lies.

        Raises
        ------
        RuntimeError
            Where nothing was measured yet.
        """
        import xarray as xr

        if not self._rows:
            raise RuntimeError("nothing was measured yet: `step` was not called, or not often enough for `every`")
        arrays = {name: np.stack([row[name] for row in self._rows]) for name in self._rows[0]}
        ranks = np.arange(arrays["eigenvalues"].shape[1], 0, -1)
        return xr.Dataset(
            {name: (("step", "rank")[: values.ndim], values) for name, values in arrays.items()},
            coords={"step": self.steps, "rank": ranks},
        )
