"""Outliers of spiked covariance matrices over growing sizes, for the claims on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmtland.laws.spikes import SpikedCovarianceLaw
from rmtland.laws.tracy_widom import TracyWidom
from validation import Check, limit, rate
from validation.expansions import edge_shift, outlier_shift, tracy_widom_mean_shift_wishart
from validation.sampling import SpikedDraws, controlled_mean, spiked_covariance

SMOKE = {16: 20_000, 32: 8_000, 64: 2_000, 128: 300}
FULL = {16: 200_000, 32: 80_000, 64: 25_000, 128: 5_000, 256: 600}
SIZES = {"smoke": SMOKE, "full": FULL}
"""Draws by n."""


def draw(
    ratio: float,
    spikes: list[float],
    sizes: dict[int, int],
    rng: np.random.Generator,
    outlier_indices: tuple[int, ...] | None = None,
) -> dict[int, SpikedDraws]:
    """Draws at p = ratio n, for every n."""
    return {n: spiked_covariance(round(ratio * n), n, spikes, r, rng, outlier_indices) for n, r in sizes.items()}


def mean_by_size(draws: dict[int, SpikedDraws], index: int) -> np.ndarray:
    """Mean and standard error (2, sizes) of an eigenvalue, the fluctuations of the spikes' rows taken out."""
    return np.array([controlled_mean(d.eigenvalues[:, index], d.controls) for d in draws.values()]).T


def location_checks(
    name: str,
    draws: dict[int, SpikedDraws],
    index: int,
    location: float,
    spike: float,
    ratio: float,
    *,
    detect: float,
    others: Any = (),
    rate_bias: float = 0.1,
    with_rate: bool = True,
) -> list[Check]:
    """The limit of an outlier's mean, the derived constant of its 1/n error, and the exponent of that error."""
    sizes = np.array(list(draws))
    mean, error = mean_by_size(draws, index)
    shift = outlier_shift(spike, ratio, others)
    # What is left once the derived term is gone is O(n^-2), and the next one O(n^-3).
    checks = [
        limit(f"{name}: limit", sizes, mean - shift / sizes, error, location, powers=(2.0,), detect=detect),
        limit(
            f"{name}: n (mean - limit)",
            sizes,
            sizes * (mean - location),
            sizes * error,
            shift,
            powers=(1.0,),
            detect=max(0.8 * abs(shift), 0.2),
        ),
    ]
    if with_rate:
        checks.append(rate(f"{name}: rate", sizes, mean - location, error, 1.0, detect=0.8, bias=rate_bias))
    return checks


def edge_mean(draws: dict[int, SpikedDraws], ratio: float, spike: float) -> np.ndarray:
    """Mean and standard error (2, sizes) of the largest eigenvalue in Tracy-Widom units, the derived terms removed.

    The spike is one that gives no outlier; 1 is none at all. What stays is O(n^(-2/3)).
    """
    rows = []
    for n, d in draws.items():
        centre, scale = SpikedCovarianceLaw(ratio, [1.0], num_samples=n).edge()
        values = (d.eigenvalues[:, -1] - centre - edge_shift(spike, ratio, 1) / n) / scale
        rows.append((values.mean() - tracy_widom_mean_shift_wishart(ratio * n, n), values.std() / len(values) ** 0.5))
    return np.array(rows).T


def edge_checks(name: str, draws: dict[int, SpikedDraws], spike: float, ratio: float, edge: float) -> list[Check]:
    """That the largest eigenvalue stays at the edge: Tracy-Widom mean, and the rate n^(-2/3) of its approach."""
    sizes = np.array(list(draws))
    mean, error = edge_mean(draws, ratio, spike)
    largest = np.array([d.eigenvalues[:, -1].mean() for d in draws.values()])
    deviation = np.array([d.eigenvalues[:, -1].std() / len(d.eigenvalues) ** 0.5 for d in draws.values()])
    # Second-order centring and the spike's pull are O(1/n) and derived.
    known = np.array([SpikedCovarianceLaw(ratio, [1.0], num_samples=n).edge()[0] for n in sizes])
    known = known - (1 + ratio**0.5) ** 2 + edge_shift(spike, ratio, 1) / sizes
    return [
        limit(
            f"{name}: mean in Tracy-Widom units", sizes, mean, error, TracyWidom(1).mean(), powers=(2 / 3,), detect=0.8
        ),
        rate(f"{name}: rate", sizes, largest - known - edge, deviation, 2 / 3, detect=1 / 3, bias=0.05),
    ]
