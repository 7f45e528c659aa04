"""Outliers of spiked covariance matrices over growing sizes, for the claims on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from validation import Check, limit, rate
from validation.expansions import outlier_shift
from validation.sampling import SpikedDraws, controlled_mean, spiked_covariance

SMOKE = {16: 30_000, 32: 12_000, 64: 3_000, 128: 500}
FULL = {16: 400_000, 32: 200_000, 64: 60_000, 128: 10_000, 256: 1_200}
SIZES = {"smoke": SMOKE, "full": FULL}
"""Draws by n."""


def draw(
    ratio: float, spikes: list[float], sizes: dict[int, int], rng: np.random.Generator,
    outlier_indices: tuple[int, ...] | None = None,
) -> dict[int, SpikedDraws]:  # fmt: skip
    """Draws at p = ratio n, for every n."""
    return {n: spiked_covariance(round(ratio * n), n, spikes, r, rng, outlier_indices) for n, r in sizes.items()}


def mean_by_size(draws: dict[int, SpikedDraws], index: int) -> np.ndarray:
    """Mean and standard error (2, sizes) of the eigenvalue of this index, fluctuations of the spikes' rows taken out."""
    return np.array([controlled_mean(d.eigenvalues[:, index], d.controls) for d in draws.values()]).T


def location_checks(
    name: str, draws: dict[int, SpikedDraws], index: int, location: float, spike: float, ratio: float, *,
    detect: float, others: Any = (), rate_bias: float = 0.1, with_rate: bool = True,
) -> list[Check]:  # fmt: skip
    """The limit of an outlier's mean, the derived constant of its 1/n error, and the exponent of that error."""
    sizes = np.array(list(draws))
    mean, error = mean_by_size(draws, index)
    shift = outlier_shift(spike, ratio, others)
    # What is left once the derived term is gone is O(n^-2), and the next one O(n^-3).
    checks = [
        limit(f"{name}: limit", sizes, mean - shift / sizes, error, location, powers=(2.0,), detect=detect),
        limit(f"{name}: n (mean - limit)", sizes, sizes * (mean - location), sizes * error, shift, powers=(1.0,),
              detect=max(0.8 * abs(shift), 0.2)),
    ]  # fmt: skip
    if with_rate:
        checks.append(rate(f"{name}: rate", sizes, mean - location, error, 1.0, detect=0.8, bias=rate_bias))
    return checks
