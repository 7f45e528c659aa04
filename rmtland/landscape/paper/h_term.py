"""Section 3.1 of the paper as a computation: the H-term grows and swallows the outliers of the Gauss-Newton matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator, integer
from rmtland.landscape.model import LandscapeModel
from rmtland.landscape.paper.spectrum import Floats, Statement, grid_or, pinned_logits


@dataclass(frozen=True, eq=False)
class HTermFigure:
    """Top eigenvalues of the Hessian and the gradient's power among them, against the scale of the H-term.

    One draw of the logits, with draws of logit gradients and H-term: the transition depends on the logits.

    Attributes
    ----------
    model : LandscapeModel
        With its logits given, and the last sigma_H.
    sigma_H : ndarray (n,)
    eigenvalues : ndarray (draws, n, C - 1)
        The C - 1 largest, ascending.
    power : ndarray (draws, n)
        Share of the squared gradient in their eigenvectors.
    eigenvalues_theory : ndarray (n, C - 1)
    power_theory, bulk_edge : ndarray (n,)
    transition : ndarray (C - 1,)
        sigma_H at which each outlier is swallowed.
    """

    model: LandscapeModel
    sigma_H: Floats
    eigenvalues: Floats
    power: Floats
    eigenvalues_theory: Floats
    power_theory: Floats
    bulk_edge: Floats
    transition: Floats

    @property
    def num_above_edge(self) -> npt.NDArray[np.int64]:
        """Outliers that the theory leaves apart from the bulk, (n,)."""
        apart: npt.NDArray[np.int64] = np.sum(self.transition[None, :] > self.sigma_H[:, None], axis=1)
        return apart

    @property
    def statements(self) -> list[Statement]:
        """Paper and here."""
        return [
            (
                "as the scale of the H-term grows its bulk swallows the outliers (sec. 3.1)",
                f"the weakest at sigma_H = {self.transition[0]:.3g}, the strongest at {self.transition[-1]:.3g}; "
                f"gradient power in the top C - 1: {self.power_theory[0]:.3g} to {self.power_theory[-1]:.3g}",
            )
        ]


def h_term_figure(
    model: LandscapeModel | None = None,
    sigma_H: npt.ArrayLike | None = None,
    num_draws: int = 8,
    rng: Seed = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HTermFigure:
    """The C - 1 largest eigenvalues and the gradient's power in their eigenvectors as the H-term grows, with theory.

    Parameters
    ----------
    model : LandscapeModel, optional
        The paper's by default; its own sigma_H is not used.
    sigma_H : array_like (n,), optional
        At least 2 ascending values > 0; by default 13 around the transition, of 0.15 to 1.5 times the largest.
    num_draws : int
        At least 2; draw i has the same random numbers at all sigma_H.
    rng : seed
    progress : callable, optional
        Called as progress(done, total).

    Returns
    -------
    HTermFigure

    Raises
    ------
    ValueError
        For a `sigma_H` of fewer than two values or that does not ascend; for a model without outliers and none.

    References
    ----------
    Fort and Ganguli (2019), sec. 3.1.
    """
    integer("num_draws", num_draws, at_least=2)
    rng = generator(rng)
    model = dataclasses.replace(
        pinned_logits(LandscapeModel.fort_ganguli() if model is None else model, rng), sigma_H=0
    )
    transition = model.theory().transition_sigma_H()
    if sigma_H is None and not transition[-1] > 0:
        raise ValueError("`sigma_H` must be given for a model without outliers; got None")
    grid = grid_or(sigma_H, np.linspace(0.15, 1.5, 13) * transition[-1], "sigma_H")
    seeds = rng.integers(2**62, size=num_draws)
    count = model.num_classes - 1
    eigenvalues, power = np.empty((num_draws, grid.size, count)), np.empty((num_draws, grid.size))
    eigenvalues_theory, power_theory, edge = np.empty((grid.size, count)), np.empty(grid.size), np.empty(grid.size)
    for j, scale in enumerate(grid.tolist()):
        here = dataclasses.replace(model, sigma_H=scale)
        theory = here.theory()
        eigenvalues_theory[j], power_theory[j] = theory.outliers(), theory.gradient_power(count)
        edge[j] = theory.bulk_edge
        for i, seed in enumerate(seeds):
            draw = here.spectrum(seed, k=count)
            eigenvalues[i, j], power[i, j] = draw.outliers(), draw.gradient_power(count)
            if progress is not None:
                progress(j * num_draws + i + 1, grid.size * num_draws)
    return HTermFigure(here, grid, eigenvalues, power, eigenvalues_theory, power_theory, edge, transition)
