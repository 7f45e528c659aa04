"""Paul: how far an outlier's eigenvector points along its spike."""

from __future__ import annotations

import numpy as np

from rmtland.laws.spikes import SpikedCovarianceLaw
from validation import Claim, Outcome, figures, limit, rate
from validation.laws import _outliers
from validation.sampling import controlled_mean

CASES = ((0.8, 5.0), (2.0, 8.0))
SIZES = {
    "smoke": {10: 20_000, 20: 12_000, 40: 4_000, 80: 600},
    "full": {10: 200_000, 20: 120_000, 40: 40_000, 80: 6_000, 160: 600},
}


def draw(scale, rng):
    return [_outliers.draw(ratio, [spike], SIZES[scale], rng, (-1,)) for ratio, spike in CASES]


def judge(data, theory):
    checks, lines, series = [], [], []
    for (ratio, spike), draws in zip(CASES, data, strict=True):
        name, expected = f"ratio {ratio:g}, spike {spike:g}", theory(ratio, spike)
        sizes = np.array(list(draws))
        mean, error = np.array([controlled_mean(d.overlaps[:, 0], d.controls) for d in draws.values()]).T
        series.append((sizes, mean, error, expected))
        checks.append(limit(f"{name}: limit", sizes, mean, error, expected, powers=(1.0, 2.0), detect=0.1))
        checks.append(rate(f"{name}: rate", sizes, mean - expected, error, 1.0, detect=0.9, bias=0.2))
        lines.append(
            f"""At {name} the squared cosine extrapolates to {checks[-2].estimate:.4f} +-
            {checks[-2].standard_error:.4f}
            (formula {expected:.4f}); fitted exponent {checks[-1].estimate:.2f} +- {checks[-1].standard_error:.2f}."""
        )

    def plot():
        figure, (left, right) = figures.panels(2, "squared cosine", "distance from the limit")
        for colour, (ratio, spike), (sizes, mean, error, expected) in zip(figures.COLOURS, CASES, series, strict=False):
            label = rf"$p/n={ratio:g}$, $\ell={spike:g}$"
            left.axhline(expected, color=colour, lw=1.2)
            figures.points(left, sizes, mean, error, colour, label)
            scale = sizes[0] * (mean[0] - expected)
            figures.convergence(right, sizes, mean - expected, error, colour, label, lambda n, c=scale: c / n)
        left.set(xlabel="samples $n$", ylabel=r"$E\,\langle v, e\rangle^2$; lines: limit")
        figures.log_sizes(left, sizes, log_values=False)
        right.set(xlabel="samples $n$", ylabel=r"|error|; lines: $1/n$ through the first point")
        figures.legend(left)
        return figure

    return Outcome(checks, "\n\n".join(lines), plot)


def overlap(ratio, spike):
    return float(SpikedCovarianceLaw(ratio, [spike]).overlaps[0])


CLAIM = Claim(
    statement="""The eigenvector of an outlier makes with the population's spike direction the squared cosine (1 -
    ratio / (ell - 1)^2) / (1 + ratio / (ell - 1)), which is 0 at the threshold and below 1 for every finite ell.""",
    source="Paul (2007), theorem 4; Benaych-Georges and Nadakuditi (2011), theorem 2.2",
    estimates="mean squared cosine, the fluctuation of the spike's row taken out by regression",
    reference="the formula, and the exponent 1 of the distance from it",
    bias="O(1/n), order derived (the cosine is a smooth function of resolvents of order 1/n), constant fitted along.",
    draw=draw,
    judge=judge,
    theory=overlap,
    mutants={
        "cosine for its square": lambda ratio, spike: overlap(ratio, spike) ** 0.5,
        "numerator alone": lambda ratio, spike: 1 - ratio / (spike - 1) ** 2,
        "stray sqrt(ratio)": lambda ratio, spike: (1 - ratio**0.5 / (spike - 1) ** 2) / (1 + ratio**0.5 / (spike - 1)),
    },
)
