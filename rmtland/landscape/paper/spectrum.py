"""The paper's model figures as computations: draws of the model beside its theory, paired on the same logits.

Every function returns arrays; `rmtland.plots.landscape` draws them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, finite_array, integer, spawn
from rmtland.landscape.kernels import softmax
from rmtland.landscape.logit_laws import GivenLogits
from rmtland.landscape.model import LandscapeModel
from rmtland.laws.random_energy import RandomEnergyModel

Floats = npt.NDArray[np.float64]

EQUATIONS = {"eq. (16)": False, "eq. (10)": True}
"""Name to `cross_terms`: the paper draws eq. (16), the Hessian of its model is eq. (10)."""

Statement = tuple[str, str]
"""What the paper says, and what the numbers here say."""


@dataclass(frozen=True, eq=False)
class FreezingFigure:
    """Fig. 3b: class probabilities freeze onto the corners of the simplex as sigma_z grows.

    Attributes
    ----------
    num_classes : int
    sigma_z : ndarray (n,)
    entropy, participation : ndarray (draws, n)
        Means over the examples of a draw; entropy in bits.
    entropy_theory, participation_theory : ndarray (n,)
        Random energy model at this number of classes.
    freezing_sigma : float
        sqrt(2 ln C).
    shown : ndarray (m,)
        Values of sigma_z whose probabilities are kept.
    probabilities : ndarray (m, N, C)
        One draw, the same logits at every sigma_z up to scale.
    """

    num_classes: int
    sigma_z: Floats
    entropy: Floats
    participation: Floats
    entropy_theory: Floats
    participation_theory: Floats
    freezing_sigma: float
    shown: Floats
    probabilities: Floats

    @property
    def statements(self) -> list[Statement]:
        """Paper and here."""
        half = float(np.interp(-0.5 * math.log2(self.num_classes), -self.entropy_theory, self.sigma_z))
        return [
            (
                "sigma_z^2 is an inverse temperature (sec. 3.3)",
                f"sigma_z is: freezing at sqrt(2 ln C) = {self.freezing_sigma:.3f}; entropy halves at {half:.3g}",
            )
        ]


def freezing_figure(
    num_classes: int = 3,
    num_examples: int = 300,
    sigma_z: npt.ArrayLike | None = None,
    num_draws: int = 16,
    rng: Seed = 0,
) -> FreezingFigure:
    """Entropy of softmax probabilities against sigma_z, with the random energy model, and points of the simplex.

    Parameters
    ----------
    num_classes, num_examples : int
        C and N.
    sigma_z : array_like (n,), optional
        By default 60 values from 0.01 to 100.
    num_draws : int
        At least 2.
    rng : seed

    Returns
    -------
    FreezingFigure

    References
    ----------
    Fort and Ganguli (2019), fig. 3b and sec. 3.3; Derrida (1980).
    """
    num_draws = integer("num_draws", num_draws, at_least=2)
    grid = grid_or(sigma_z, np.geomspace(0.01, 100, 60))
    shown = np.geomspace(0.1, 30, 6)
    logits = [
        child.standard_normal((integer("num_examples", num_examples, at_least=2), num_classes))
        for child in spawn(rng, num_draws)
    ]
    entropy, participation = np.empty((num_draws, grid.size)), np.empty((num_draws, grid.size))
    for i, z in enumerate(logits):
        for j, sigma in enumerate(grid):
            p = softmax(sigma * z)
            entropy[i, j] = -np.sum(p * np.log2(np.where(p > 0, p, 1))) / num_examples
            participation[i, j] = np.sum(p * p) / num_examples
    theory = [RandomEnergyModel(num_classes, sigma) for sigma in grid]
    return FreezingFigure(
        num_classes=num_classes,
        sigma_z=grid,
        entropy=entropy,
        participation=participation,
        entropy_theory=np.array([law.entropy(base=2) for law in theory]),
        participation_theory=np.array([law.participation() for law in theory]),
        freezing_sigma=theory[0].freezing_sigma,
        shown=shown,
        probabilities=np.array([softmax(sigma * logits[0]) for sigma in shown]),
    )


@dataclass(frozen=True, eq=False)
class SpectrumPanel:
    """Eigenvalues and gradient of one equation: draws, and the theory given the same logits.

    Attributes
    ----------
    eigenvalues, powers : ndarray (draws, r)
        The r largest eigenvalues, ascending, zeros where a draw has fewer, and the gradient's share along each.
    outliers_theory : ndarray (draws, C - 1)
    x, density_theory : ndarray (n,)
        Expected number of eigenvalues per unit of eigenvalue, averaged over the draws' logits.
    directions : ndarray (k,)
        Numbers of top eigenvectors.
    power_theory : ndarray (draws, k)
        Share of the squared gradient in so many.
    """

    eigenvalues: Floats
    powers: Floats
    outliers_theory: Floats
    x: Floats
    density_theory: Floats
    directions: npt.NDArray[np.int64]
    power_theory: Floats

    @property
    def outliers(self) -> Floats:
        """The C - 1 largest eigenvalues of each draw, (draws, C - 1)."""
        return self.eigenvalues[:, self.eigenvalues.shape[1] - self.outliers_theory.shape[1] :]

    def power(self, num_directions: int) -> Floats:
        """Share of the squared gradient in the top eigenvectors, (draws,)."""
        share: Floats = self.powers[:, self.powers.shape[1] - num_directions :].sum(axis=1)
        return share


@dataclass(frozen=True, eq=False)
class SpectrumFigure:
    """Figs. 5 and 6: bulk and outliers, and where the gradient lies, under both equations.

    Attributes
    ----------
    model : LandscapeModel
    panels : dict
        "eq. (16)" and "eq. (10)" to `SpectrumPanel`.
    """

    model: LandscapeModel
    panels: dict[str, SpectrumPanel]

    @property
    def statements(self) -> list[Statement]:
        """Paper and here, under each equation."""
        c, d = self.model.num_classes, self.model.num_parameters
        lines = []
        for name, panel in self.panels.items():
            ours, theirs = panel.outliers.mean(axis=0), panel.outliers_theory.mean(axis=0)
            lines.append(
                (
                    "bulk + C - 1 outliers (fig. 5)",
                    f"{name}: outliers {c - 1}, from {ours[0]:.3g} to {ours[-1]:.3g} (theory {theirs[0]:.3g} to "
                    f"{theirs[-1]:.3g})",
                )
            )
            top = int(panel.directions[panel.directions <= min(c, d)][-1])
            power, theory = panel.power(top), panel.power_theory[:, list(panel.directions).index(top)]
            lines.append(
                (
                    "71% of the gradient in the top C (fig. 6)",
                    f"{name}: {power.mean():.1%}, s.d. {power.std(ddof=1):.1%} over draws (theory {theory.mean():.1%})",
                )
            )
        return lines


def spectrum_figure(
    model: LandscapeModel | None = None, num_draws: int = 16, num_points: int = 200, rng: Seed = 0
) -> SpectrumFigure:
    """Spectrum and gradient of draws of the model beside the theory given their logits.

    Parameters
    ----------
    model : LandscapeModel, optional
        By default the paper's, of section 4.
    num_draws : int
        At least 2.
    num_points : int
        Of the density.
    rng : seed

    Returns
    -------
    SpectrumFigure

    References
    ----------
    Fort and Ganguli (2019), figs. 5 and 6.
    """
    model = LandscapeModel.fort_ganguli() if model is None else model
    num_draws = integer("num_draws", num_draws, at_least=2)
    integer("num_points", num_points, at_least=2)
    children = spawn(rng, num_draws)
    pinned = [pinned_logits(model, child) for child in children]
    panels = {}
    for name, cross_terms in EQUATIONS.items():
        draws = [m.spectrum(child, cross_terms) for m, child in zip(pinned, children, strict=True)]
        theories = [m.theory(cross_terms=cross_terms) for m in pinned]
        size = max(draw.eigenvalues.size for draw in draws)
        eigenvalues, powers = np.zeros((num_draws, size)), np.zeros((num_draws, size))
        for i, draw in enumerate(draws):
            eigenvalues[i, size - draw.eigenvalues.size :] = draw.eigenvalues
            powers[i, size - draw.powers.size :] = draw.powers
        top = eigenvalues.max()
        x = np.geomspace(top * 1e-4, 1.2 * top, num_points)
        directions = _directions(model.num_classes, size)
        panels[name] = SpectrumPanel(
            eigenvalues=eigenvalues,
            powers=powers,
            outliers_theory=np.array([theory.outliers() for theory in theories]),
            x=x,
            density_theory=model.num_parameters * np.mean([theory.pdf(x) for theory in theories], axis=0),
            directions=directions,
            power_theory=np.array([[theory.gradient_power(int(k)) for k in directions] for theory in theories]),
        )
    return SpectrumFigure(model, panels)


def _directions(num_classes: int, size: int) -> npt.NDArray[np.int64]:
    """Some of the outliers, C - 1 and C, and five per decade beyond: each takes the theory some 50 ms."""
    outliers = np.unique(np.geomspace(1, num_classes, 6).astype(np.int64))
    beyond = np.geomspace(num_classes, max(size, num_classes), 11).astype(np.int64)
    chosen = np.unique(np.concatenate([outliers, [num_classes - 1, num_classes], beyond]))
    return chosen[chosen <= size]


def pinned_logits(model: LandscapeModel, rng: np.random.Generator) -> LandscapeModel:
    """The model given one draw of its logits, so that draws and theory are paired."""
    logits, labels = model.logits.draw_logits(model.num_examples, model.num_classes, rng)
    return dataclasses.replace(model, logits=GivenLogits(logits, labels))


def grid_or(values: npt.ArrayLike | None, default: Floats, name: str = "sigma_z") -> Floats:
    """`values` if they are an ascending grid of positive numbers, `default` for None."""
    if values is None:
        return default
    grid = finite_array(name, values, ndim=1)
    if grid.size < 2 or not (grid[0] > 0 and (np.diff(grid) > 0).all()):
        raise ValueError(f"`{name}` must be at least 2 ascending values > 0; got {grid.tolist()}")
    return grid
