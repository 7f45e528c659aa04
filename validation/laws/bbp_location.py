"""Baik and Silverstein: where the outlier of a spike is."""

from __future__ import annotations

import numpy as np

from rmtland.laws.spikes import SpikedCovarianceLaw
from validation import Claim, Outcome, figures
from validation.expansions import outlier_shift
from validation.laws import _outliers

CASES = ((0.5, 4.0), (2.0, 10.0))
"""ratio and spike, below and above ratio 1."""
SIZES = {
    "smoke": {12: 40_000, 24: 15_000, 48: 4_000, 96: 400},
    "full": {12: 300_000, 24: 150_000, 48: 50_000, 96: 8_000, 192: 800},
}


def draw(scale, rng):
    return [_outliers.draw(ratio, [spike], SIZES[scale], rng) for ratio, spike in CASES]


def judge(data, theory):
    checks, lines = [], []
    for (ratio, spike), draws in zip(CASES, data, strict=True):
        name = f"ratio {ratio:g}, spike {spike:g}"
        checks += _outliers.location_checks(name, draws, -1, theory(ratio, spike), spike, ratio, detect=0.02 * spike)
        found, constant, slope = checks[-3:]
        lines.append(
            f"""At {name} the mean outlier extrapolates to {found.estimate:.4f} +- {found.standard_error:.4f} (formula
            {found.expected:.4f}); n times its error tends to {constant.estimate:.3f} +- {constant.standard_error:.3f}
            (derived {constant.expected:.3f}); fitted exponent {slope.estimate:.3f} +- {slope.standard_error:.3f}."""
        )

    def plot():
        figure, (left, right) = figures.panels(2, "mean of the largest eigenvalue", "distance from the limit")
        for colour, (ratio, spike), draws in zip(figures.COLOURS, CASES, data, strict=False):
            sizes = np.array(list(draws))
            mean, error = _outliers.mean_by_size(draws, -1)
            location, shift = theory(ratio, spike), outlier_shift(spike, ratio)
            label = rf"$p/n={ratio:g}$, $\ell={spike:g}$"
            left.axhline(1.0, color=colour, lw=1.2)
            figures.points(left, sizes, mean / location, error / location, colour, label)
            figures.convergence(right, sizes, mean - location, error, colour, label, lambda n, c=shift: c / n)
        left.set(xlabel="samples $n$", ylabel=r"$E\,\lambda_1\,/\,\ell(1+\gamma/(\ell-1))$")
        figures.log_sizes(left, sizes, log_values=False)
        right.set(xlabel="samples $n$", ylabel=r"$|E\,\lambda_1-\rho(\ell)|$; lines: derived $1/n$ term")
        figures.legend(left)
        return figure

    return Outcome(checks, "\n\n".join(lines), plot)


def location(ratio, spike):
    return float(SpikedCovarianceLaw(ratio, [spike]).locations[0])


CLAIM = Claim(
    statement="""A population eigenvalue ell above 1 + sqrt(ratio), the others being 1, gives a sample eigenvalue at
    ell (1 + ratio/(ell - 1)), right of the bulk, for ratio = p/n below and above 1.""",
    source="Baik and Silverstein (2006), theorem 1.1; Baik, Ben Arous and Peche (2005), theorem 1.1 (complex)",
    estimates="mean of the largest eigenvalue, the fluctuation of the spike's row taken out by regression",
    reference="the limit, and n times the distance from it",
    bias="""O(1/n) with constant -ell/(ell - 1) + ell^2 ratio / ((ell - 1)((ell - 1)^2 - ratio)) for one spike and
    real entries, derived in validation/expansions.py; then O(1/n^2), fitted along.""",
    draw=draw,
    judge=judge,
    theory=location,
    mutants={
        "stray sqrt(ratio)": lambda ratio, spike: spike * (1 + ratio**0.5 / (spike - 1)),
        "no push": lambda ratio, spike: spike,
        "ell for ell - 1": lambda ratio, spike: spike * (1 + ratio / spike),
    },
)
