"""The landscape model's properties as functions that `rmtland.sweep` runs over its parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from rmtland.landscape.model import LandscapeModel


def landscape_cell(
    sigma_z: float = 15.0,
    snr: float = 1 / 0.49,
    num_examples: int = 300,
    num_classes: int = 10,
    num_parameters: int = 1000,
    accuracy: float = 0.95,
    mean_length: float = 1.0,
    sigma_H: float = 0.0,
    *,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Properties of one draw of the Fort-Ganguli model, and what theory says of draws with the same logits.

    Parameters
    ----------
    sigma_z : float
        Standard deviation of the logits.
    snr : float
        sigma_c^2 / sigma_E^2 > 0.
    num_examples, num_classes, num_parameters : int
        N, C and D.
    accuracy : float
        Share of examples whose label is the argmax.
    mean_length : float
        sigma_c sqrt(D).
    sigma_H : float
        Scale of an H-term; with one a draw costs D^3.
    rng : numpy.random.Generator

    Returns
    -------
    dict of str to float
        top_eigenvalue, mean_outlier and last_outlier (of the C - 1 largest), gradient_power in their eigenvectors,
        goldilocks_ratio; the same with `theory_` before the name, and theory_bulk_edge, the upper edge of the bulk's
        law. Each is a number, so the sizes may be axes too.
    """
    drawn = _drawn_logits(sigma_z, snr, num_examples, num_classes, num_parameters, accuracy, mean_length, sigma_H, rng)
    spectrum = drawn.spectrum(rng)
    outliers = spectrum.outliers()
    num = min(drawn.num_classes - 1, spectrum.powers.size)
    results = {
        "top_eigenvalue": float(outliers[-1]),
        "mean_outlier": float(outliers.mean()),
        "last_outlier": float(outliers[0]),
        "gradient_power": float(spectrum.powers[spectrum.powers.size - num :].sum()),
        "goldilocks_ratio": spectrum.goldilocks_ratio(),
    }
    return {**results, **{f"theory_{name}": value for name, value in _theory(drawn).items()}}


def theory_cell(
    sigma_z: float = 15.0,
    snr: float = 1 / 0.49,
    num_examples: int = 300,
    num_classes: int = 10,
    num_parameters: int = 1000,
    accuracy: float = 0.95,
    mean_length: float = 1.0,
    sigma_H: float = 0.0,
    *,
    rng: np.random.Generator,
) -> dict[str, float]:
    """What theory says of the Fort-Ganguli model given one draw of its logits; no matrix is drawn.

    Parameters
    ----------
    sigma_z, snr, num_examples, num_classes, num_parameters, accuracy, mean_length, sigma_H, rng
        As in `landscape_cell`; the same generator gives the same logits.

    Returns
    -------
    dict of str to float
        As `landscape_cell` has them, without the prefix; bulk_edge.
    """
    return _theory(
        _drawn_logits(sigma_z, snr, num_examples, num_classes, num_parameters, accuracy, mean_length, sigma_H, rng)
    )


def _drawn_logits(
    sigma_z: float,
    snr: float,
    num_examples: int,
    num_classes: int,
    num_parameters: int,
    accuracy: float,
    mean_length: float,
    sigma_H: float,
    rng: np.random.Generator,
) -> LandscapeModel:
    """The model of one draw of the logits: draws and theory are compared on the same logits."""
    from rmtland.landscape.model import LandscapeModel
    from rmtland.landscape.paper.spectrum import pinned_logits

    model = LandscapeModel.fort_ganguli(
        num_examples, num_classes, num_parameters, sigma_z, mean_length, snr=snr, accuracy=accuracy, sigma_H=sigma_H
    )
    return pinned_logits(model, rng)


def _theory(drawn: Any) -> dict[str, float]:
    theory = drawn.theory()
    outliers = theory.outliers()
    num = min(drawn.num_classes - 1, drawn.num_parameters)
    return {
        "top_eigenvalue": float(outliers[-1]),
        "mean_outlier": float(outliers.mean()),
        "last_outlier": float(outliers[0]),
        "gradient_power": float(theory.gradient_power(num)),
        "goldilocks_ratio": float(theory.goldilocks_ratio()),
        "bulk_edge": float(theory.bulk_edge) if math.isfinite(theory.bulk_edge) else math.nan,
    }
