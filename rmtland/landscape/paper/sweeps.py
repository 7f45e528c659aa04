"""The paper's figs. 7 and 8 and a phase diagram as computations: the model along sigma_z and SNR, beside its theory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator, integer, real, spawn
from rmtland.landscape.bartlett import SharedRows
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.logit_laws import GaussianLogits
from rmtland.landscape.model import LandscapeModel
from rmtland.landscape.paper.spectrum import EQUATIONS, Floats, Statement, grid_or, pinned_logits
from rmtland.landscape.reduced import LandscapeSpectrum
from rmtland.landscape.theory.given import LandscapeTheory
from rmtland.laws.random_energy import RandomEnergyModel


@dataclass(frozen=True, eq=False)
class SweepPanel:
    """What one equation gives along sigma_z; arrays (draws, n), theory given the same logits.

    Attributes
    ----------
    top_eigenvalue, gradient_power, ratio, hyperplane_ratio : ndarray (draws, n)
        gradient_power in the top C - 1 eigenvectors; Trace/||.||_F on the whole space and on hyperplanes.
    top_eigenvalue_theory, gradient_power_theory, ratio_theory, hyperplane_ratio_theory : ndarray (draws, n)
    """

    top_eigenvalue: Floats
    gradient_power: Floats
    ratio: Floats
    hyperplane_ratio: Floats
    top_eigenvalue_theory: Floats
    gradient_power_theory: Floats
    ratio_theory: Floats
    hyperplane_ratio_theory: Floats


@dataclass(frozen=True, eq=False)
class SweepFigure:
    """Figs. 7 and 8: top eigenvalue and Goldilocks ratio against sigma_z, under both equations.

    Attributes
    ----------
    model : LandscapeModel
        At the last sigma_z.
    sigma_z, mean_lengths : ndarray (n,)
        The grid, and the schedule sigma_c sqrt(D) on it; sigma_c / sigma_E is constant.
    dimension : int
        Of the random hyperplanes.
    panels : dict
        "eq. (16)" and "eq. (10)" to `SweepPanel`.
    first_order : ndarray (n,)
        Mean outlier to first order for many examples, (mean_length^2 C + residual_length^2 C (C - 1) / D) E p_1 p_2.
    """

    model: LandscapeModel
    sigma_z: Floats
    mean_lengths: Floats
    dimension: int
    panels: dict[str, SweepPanel]
    first_order: Floats

    def peak(self, values: npt.ArrayLike) -> float:
        """sigma_z of the largest of values (n,); NaN where that is an end of the grid: no peak."""
        place = int(np.argmax(np.asarray(values)))
        return float(self.sigma_z[place]) if 0 < place < self.sigma_z.size - 1 else math.nan

    @property
    def slopes(self) -> tuple[Floats, Floats]:
        """Slopes d log sigma_c^2 and -d log E p_1 p_2 over d log sigma_z: the first order peaks where they cross.

        The second rises from 0 to 1, so a schedule sigma_c ~ sigma_z^a has a peak iff 0 < a < 1/2.
        """
        grid, growth = np.log(self.sigma_z), np.log(self.mean_lengths**2)
        pairs = [math.log(RandomEnergyModel(self.model.num_classes, sigma).pair()) for sigma in self.sigma_z]
        return np.gradient(growth, grid), -np.gradient(np.array(pairs), grid)

    @property
    def statements(self) -> list[Statement]:
        """Paper and here, under each equation."""
        lines = []
        for name, panel in self.panels.items():
            ours, theirs = panel.top_eigenvalue.mean(axis=0), panel.top_eigenvalue_theory.mean(axis=0)
            lines.append(
                (
                    "top eigenvalue grows, then shrinks (fig. 7)",
                    f"{name}: peak at sigma_z = {self.peak(ours):.3g} (theory {self.peak(theirs):.3g}, first order "
                    f"{self.peak(self.first_order):.3g})",
                )
            )
            whole, cut = panel.ratio.mean(axis=0), panel.hyperplane_ratio.mean(axis=0)
            lines.append(
                (
                    "Trace/||.|| falls with sigma_z (fig. 8)",
                    f"{name}: {whole[0]:.3g} to {whole[-1]:.3g}; on {self.dimension}-dimensional hyperplanes "
                    f"{cut[0]:.3g} to {cut[-1]:.3g}",
                )
            )
        return lines


def _measured(source: LandscapeSpectrum | LandscapeTheory, dimension: int) -> dict[str, float]:
    """What `SweepPanel` has of a draw and of its theory alike."""
    outliers = source.outliers()
    return {
        "top_eigenvalue": float(outliers[-1]),
        "gradient_power": source.gradient_power(min(outliers.size, source.num_parameters)),
        "ratio": source.goldilocks_ratio(),
        "hyperplane_ratio": source.goldilocks_ratio(dimension),
    }


def sweep_figure(
    num_examples: int = 300,
    num_classes: int = 10,
    num_parameters: int = 1000,
    snr: float = 1 / 0.49,
    sigma_z: npt.ArrayLike | None = None,
    schedule: Callable[[float], float] | float = 0.25,
    num_draws: int = 4,
    dimension: int = 10,
    accuracy: float = 0.95,
    rng: Seed = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SweepFigure:
    """Top eigenvalue, gradient power and Goldilocks ratio along sigma_z, with theory.

    Parameters
    ----------
    num_examples, num_classes, num_parameters : int
        N, C and D.
    snr : float
        sigma_c^2 / sigma_E^2 > 0, constant along the sweep.
    sigma_z : array_like (n,), optional
        By default 21 values from 1e-3 to 1e2, the paper's range.
    schedule : callable or float
        sigma_c sqrt(D) as a function of sigma_z; a number a stands for (sigma_z / 15)^a, 1 at the paper's 15. The paper
        does not print its own.
    num_draws : int
        At least 2; draw i has the same random numbers at all sigma_z.
    dimension : int
        d of the hyperplanes.
    accuracy : float
    rng : seed
    progress : callable, optional
        Called as progress(done, total).

    Returns
    -------
    SweepFigure

    References
    ----------
    Fort and Ganguli (2019), figs. 7 and 8.
    """
    integer("num_draws", num_draws, at_least=2)
    snr = real("snr", snr, above=0)
    grid = grid_or(sigma_z, np.geomspace(1e-3, 1e2, 21))
    lengths = np.array([_scheduled(schedule, float(sigma)) for sigma in grid])
    rng = generator(rng)
    shared = [SharedRows(child) for child in spawn(rng, num_draws)]
    seeds = rng.integers(2**62, size=num_draws)
    shape = (num_draws, grid.size)
    names = [field.name for field in dataclasses.fields(SweepPanel)]
    arrays = {equation: {name: np.empty(shape) for name in names} for equation in EQUATIONS}
    for j, (sigma, length) in enumerate(zip(grid, lengths, strict=True)):
        model = LandscapeModel.fort_ganguli(
            num_examples, num_classes, num_parameters, float(sigma), float(length), snr=snr, accuracy=accuracy
        )
        for i, seed in enumerate(seeds):
            for equation, cross_terms in EQUATIONS.items():
                draw = model.spectrum(seed, cross_terms, k=num_classes, rows=shared[i])
                theory = model.theory(seed, cross_terms)
                for source, ending in ((draw, ""), (theory, "_theory")):
                    for name, value in _measured(source, dimension).items():
                        arrays[equation][name + ending][i, j] = value
            if progress is not None:
                progress(j * num_draws + i + 1, grid.size * num_draws)
    pairs = np.array([RandomEnergyModel(num_classes, sigma).pair() for sigma in grid])
    strength = lengths**2 * (num_classes + num_classes * (num_classes - 1) / (snr * num_parameters))
    return SweepFigure(
        model, grid, lengths, dimension, {name: SweepPanel(**found) for name, found in arrays.items()}, strength * pairs
    )


@dataclass(frozen=True, eq=False)
class PhaseFigure:
    """Phase diagram over (sigma_z, SNR): what the theory gives, averaged over draws of the logits.

    Attributes
    ----------
    sigma_z : ndarray (n,)
    snr : ndarray (m,)
    num_above_edge, gradient_power, ratio : ndarray (m, n)
        Eigenvalues apart from the bulk; gradient power in the top C - 1 eigenvectors; Trace/||.||_F.
    transition : ndarray (2, n)
        SNR from which the strongest and all C - 1 outliers stand apart.
    num_classes : int
    """

    sigma_z: Floats
    snr: Floats
    num_above_edge: Floats
    gradient_power: Floats
    ratio: Floats
    transition: Floats
    num_classes: int

    @property
    def statements(self) -> list[Statement]:
        """Paper and here."""
        first, last = self.transition
        return [
            (
                "high clustering brings outliers by the BBP transition (sec. 3.1)",
                f"first outlier from SNR {first[0]:.3g}, all from {last[0]:.3g} at sigma_z = {self.sigma_z[0]:.3g}; "
                f"{first[-1]:.3g} and {last[-1]:.3g} at {self.sigma_z[-1]:.3g}",
            )
        ]


def phase_figure(
    num_examples: int = 300,
    num_classes: int = 10,
    num_parameters: int = 1000,
    sigma_z: npt.ArrayLike | None = None,
    snr: npt.ArrayLike | None = None,
    num_draws: int = 1,
    cross_terms: bool = True,
    rng: Seed = 0,
) -> PhaseFigure:
    """Number of outliers, gradient power and Goldilocks ratio over a grid of sigma_z and SNR, by the theory.

    Parameters
    ----------
    num_examples, num_classes, num_parameters : int
        N, C and D.
    sigma_z : array_like (n,), optional
        By default 16 values from 0.1 to 100.
    snr : array_like (m,), optional
        By default 16 values from 0.01 to 10.
    num_draws : int
        Logit draws to average over.
    cross_terms : bool
        Eq. (10) or, if false, eq. (16).
    rng : seed

    Returns
    -------
    PhaseFigure
    """
    integer("num_draws", num_draws, at_least=1)
    columns, rows = grid_or(sigma_z, np.geomspace(0.1, 100, 16)), grid_or(snr, np.geomspace(0.01, 10, 16), "snr")
    seeds = generator(rng).integers(2**62, size=num_draws)
    outliers, power, ratio = np.zeros((3, rows.size, columns.size))
    transition = np.zeros((2, columns.size))
    for j, sigma in enumerate(columns):
        for seed in seeds:
            model = LandscapeModel(num_examples, num_classes, num_parameters, logits=GaussianLogits(float(sigma)))
            pinned = pinned_logits(model, np.random.default_rng(seed))
            crossings = pinned.theory(cross_terms=cross_terms).transition_snr()
            transition[:, j] += crossings[[0, -1]] / num_draws
            for i, value in enumerate(rows):
                law = ClusteredGradients(1.0, 1 / math.sqrt(value))
                theory = dataclasses.replace(pinned, gradients=law).theory(cross_terms=cross_terms)
                outliers[i, j] += np.count_nonzero(crossings < value) / num_draws
                power[i, j] += theory.gradient_power(min(num_classes - 1, num_parameters)) / num_draws
                ratio[i, j] += theory.goldilocks_ratio() / num_draws
    return PhaseFigure(columns, rows, outliers, power, ratio, transition, num_classes)


def _scheduled(schedule: Callable[[float], float] | float, sigma: float) -> float:
    value = float(schedule(sigma)) if callable(schedule) else (sigma / 15.0) ** real("schedule", schedule)
    return real("schedule", value, above=0)
