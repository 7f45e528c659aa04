"""How near each rung is to the network's G: one number for each thing that a spectrum is known by."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rmtland.comparison.result import Rung

Floats = npt.NDArray[np.float64]

SCORES = {
    "top_error": "top 2C, median |log|",
    "edge_error": "bulk edge, log",
    "power_difference": "power in top C-1",
    "ratio_difference": "Trace/||.||_F",
    "spectral_distance": "W1 of log spectra",
    "num_numbers": "numbers given",
}
"""The columns of a table of scores, to their labels."""

RANGE = 1e-6
"""Eigenvalues of less than this share of the largest are frozen examples and rounding: no spectrum to compare."""


@dataclass(frozen=True)
class RungScores:
    """A rung beside G; means over draws, NaN for what the rung or G does not have.

    Attributes
    ----------
    top_error : float
        Median of |log(rung's / G's)| over the 2 C largest eigenvalues, or as many as both know; at least C - 1.
    edge_error : float
        The log of that ratio for the C-th largest, the first that the class means do not account for.
    power_difference : float
        Of the shares of the gradient in the top C - 1 eigenvectors, rung less G.
    ratio_difference : float
        Of Trace / Frobenius norm, rung over G less 1.
    spectral_distance : float
        Wasserstein distance of the logarithms of the eigenvalues, of those of G that are above a millionth of its
        largest and of as many of the rung, none taken to be smaller than that.
    num_numbers : float
        How many numbers the rung was given, beside N, C and D; NaN for the network's own matrices.
    """

    top_error: float
    edge_error: float
    power_difference: float
    ratio_difference: float
    spectral_distance: float
    num_numbers: float

    def to_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def scores_of(rung: Rung, reference: Rung, num_classes: int) -> RungScores:
    """A rung's scores against G.

    Parameters
    ----------
    rung, reference : Rung
    num_classes : int
        C.

    Returns
    -------
    RungScores
    """
    ours, theirs = (np.mean(r.eigenvalues, axis=0)[::-1] for r in (rung, reference))
    count = min(2 * num_classes, ours.size, theirs.size)
    logs = _log_ratios(ours[:count], theirs[:count])
    edge = logs[num_classes - 1] if count >= num_classes else math.nan
    mean, real = rung.mean("goldilocks_ratio"), reference.mean("goldilocks_ratio")
    return RungScores(
        top_error=float(np.median(np.abs(logs))) if count >= num_classes - 1 else math.nan,
        edge_error=float(edge),
        power_difference=rung.mean("gradient_power_C_minus_1") - reference.mean("gradient_power_C_minus_1"),
        ratio_difference=mean / real - 1 if real > 0 else math.nan,
        spectral_distance=_distance(rung, reference),
        num_numbers=math.nan if rung.num_numbers is None else float(rung.num_numbers),
    )


def _log_ratios(ours: Floats, theirs: Floats) -> Floats:
    """Logarithms of ratios; NaN where either is not positive."""
    both = (ours > 0) & (theirs > 0)
    logs = np.full(ours.size, math.nan)
    logs[both] = np.log(ours[both] / theirs[both])
    return logs


def _distance(rung: Rung, reference: Rung) -> float:
    """The mean over draws of the Wasserstein distance; NaN where not all eigenvalues are known."""
    if rung.density is not None or reference.density is not None:
        return math.nan
    theirs = reference.eigenvalues[0][::-1]
    if not (theirs.size and theirs[0] > 0):
        return math.nan
    floor = RANGE * theirs[0]
    theirs = theirs[theirs > floor]
    known = reference.mean("trace")
    # Eigenvalues that only the top is known of do not add up to their trace.
    if abs(float(reference.eigenvalues[0].sum()) - known) > 1e-6 * known:
        return math.nan
    distances = []
    for draw, trace in zip(rung.eigenvalues, rung.values["trace"], strict=True):
        if not abs(float(draw.sum()) - trace) <= 1e-6 * abs(trace):
            return math.nan
        ours = np.full(theirs.size, floor)
        top = draw[::-1][: theirs.size]
        ours[: top.size] = np.maximum(top, floor)
        distances.append(float(np.mean(np.abs(np.log(ours / theirs)))))
    return float(np.mean(distances))
