"""Spiked ensembles as functions that `rmtland.sweep` runs over spike and ratio."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rmtland._arguments import integer, real

if TYPE_CHECKING:
    import numpy as np


def spiked_covariance_cell(
    spike: float = 4.0, ratio: float = 0.5, num_samples: int = 1000, beta: int = 1, *, rng: np.random.Generator
) -> dict[str, float]:
    """Top eigenvalue and overlap of one spiked sample covariance matrix, and their limits.

    Parameters
    ----------
    spike : float
        Population eigenvalue >= 1, the others being 1.
    ratio : float
        p / n > 0; p is rounded to a whole number.
    num_samples : int
        n.
    beta : {1, 2, 4}
        Real, complex or quaternion.
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to float
        top_eigenvalue, overlap (squared cosine of its eigenvector and the spike's); theory_top_eigenvalue and
        theory_overlap, the limits at the rounded ratio.
    """
    from rmtland.ensembles.wishart import SpikedCovariance

    num_samples = integer("num_samples", num_samples, at_least=1)
    num_features = max(round(real("ratio", ratio, above=0) * num_samples), 1)
    model = SpikedCovariance(num_features, num_samples, [real("spike", spike, at_least=1)], beta)  # type: ignore[arg-type]
    return _top(model, model.law().bulk.support[1], rng)


def spiked_wigner_cell(
    spike: float = 2.0, n: int = 1000, beta: int = 1, *, rng: np.random.Generator
) -> dict[str, float]:
    """Top eigenvalue and overlap of one spiked Wigner matrix of semicircle radius 2, and their limits.

    Parameters
    ----------
    spike : float
        theta >= 0.
    n : int
        Order of the matrix.
    beta : {1, 2, 4}
        Real, complex or quaternion.
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to float
        As `spiked_covariance_cell`.
    """
    from rmtland.ensembles.wigner import SpikedWigner

    model = SpikedWigner(n, [real("spike", spike, at_least=0)], beta)  # type: ignore[arg-type]
    return _top(model, 2.0, rng)


def _top(model: Any, edge: float, rng: np.random.Generator) -> dict[str, float]:
    law = model.law()
    seed = int(rng.integers(2**63))  # one matrix for both numbers
    location = float(law.locations[0]) if law.is_outlier[0] else math.nan
    return {
        "top_eigenvalue": float(model.largest(rng=seed)[0]),
        "overlap": float(model.eigenvectors_overlap(rng=seed)[0, 0]),
        "theory_top_eigenvalue": edge if math.isnan(location) else location,
        "theory_overlap": float(law.overlaps[0]),
    }
