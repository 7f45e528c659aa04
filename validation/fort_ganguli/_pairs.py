"""Draws of the landscape model and its theory on the same logits and labels, for the claims that compare them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

import rmtland as rl

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Draws:
    """Independent draws of logit gradients with the logits and labels of `model` (a `GivenLogits`).

    `top` (draws, C) are the C largest eigenvalues, ascending, `power` (draws,) the gradient's share in the C - 1 top
    eigenvectors.
    """

    model: rl.LandscapeModel
    sigma_z: float
    top: Floats
    power: Floats
    trace: Floats
    ratio: Floats

    @property
    def outliers(self) -> Floats:
        """The C - 1 largest eigenvalues of each draw, ascending."""
        return self.top[:, 1:]


def given_model(n: int, c: int, d: int, sigma_z: float, snr: float, rng: np.random.Generator) -> rl.LandscapeModel:
    """The paper's model with one draw of logits and labels kept."""
    model = rl.LandscapeModel.fort_ganguli(n, c, d, sigma_z=sigma_z, snr=snr)
    return dataclasses.replace(model, logits=rl.GivenLogits(*model.logits.draw_logits(n, c, rng)))


def draw_pair(model: rl.LandscapeModel, sigma_z: float, draws: int, rng: np.random.Generator) -> Draws:
    """Draws by the reduced sampler, exact in law at any D."""
    c = model.num_classes
    top, power, trace, ratio = np.zeros((draws, c)), np.empty(draws), np.empty(draws), np.empty(draws)
    for i, child in enumerate(rng.spawn(draws)):
        spectrum = model.spectrum(child, k=c)
        found = spectrum.eigenvalues[-c:]
        top[i, c - found.size :] = found
        power[i] = spectrum.gradient_power(c - 1)
        trace[i], ratio[i] = spectrum.trace, spectrum.goldilocks_ratio()
    return Draws(model, sigma_z, top, power, trace, ratio)


@dataclasses.dataclass(frozen=True)
class Gap:
    """A level that the theory puts between two outliers, or below all, and the eigenvalues it has above."""

    level: float
    count: float


def wide_gaps(theory: rl.LandscapeTheory, deviations: float = 6.0) -> list[Gap]:
    """Gaps below outliers that are so many standard deviations of a lone outlier wide, sqrt(2/D) of it, to either side.

    Repulsion makes those of close outliers smaller.
    """
    outliers, d = theory.outliers(), theory.num_parameters
    if not outliers[0] > 0 or outliers.size + 1 >= d:
        return []
    # Below the outliers comes the edge of the next band.
    lower = np.append(theory.quantiles([outliers.size + 1e-3]), outliers[:-1])
    found = []
    for low, high in zip(lower.tolist(), outliers.tolist(), strict=True):
        if high - low > deviations * np.sqrt(2 / d) * (high + low):
            level = low + (high - low) * low / (low + high)
            found.append(Gap(level, theory.count_above(level)))
    return found


def swapped(model: rl.LandscapeModel) -> rl.LandscapeModel:
    """N and D exchanged where the theory has them: N divides residual_length^2, D is the number of parameters."""
    n, d = model.num_examples, model.num_parameters
    law = model.gradients
    other = dataclasses.replace(law, residual_length=law.residual_length * math.sqrt(n / d))
    return dataclasses.replace(model, num_parameters=n, gradients=other)


def inverted(model: rl.LandscapeModel) -> rl.LandscapeModel:
    """SNR turned over: mean gradients of the residuals' length and the other way round."""
    law = model.gradients
    other = dataclasses.replace(law, mean_length=law.residual_length, residual_length=law.mean_length)
    return dataclasses.replace(model, gradients=other)


def without_mistakes(model: rl.LandscapeModel) -> rl.LandscapeModel:
    """Each label the most probable class."""
    logits = model.logits.logits
    return dataclasses.replace(model, logits=rl.GivenLogits(logits, np.argmax(logits, axis=1)))


THEORY = rl.LandscapeModel.theory
MUTANTS = {
    "cross terms dropped": lambda model: model.theory(cross_terms=False),
    "N and D swapped": lambda model: swapped(model).theory(),
    "SNR inverted": lambda model: inverted(model).theory(),
    "mistakes left out": lambda model: without_mistakes(model).theory(),
}
