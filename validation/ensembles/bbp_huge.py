"""Baik, Ben Arous and Peche at p = 1e6 and 1e9: through the threshold, and within its critical window."""

from __future__ import annotations

import math

import numpy as np

from rmtland.ensembles.transition import bbp_transition
from rmtland.ensembles.wishart import SpikedCovariance
from rmtland.laws.spikes import SpikedCovarianceLaw
from rmtland.laws.tracy_widom import TracyWidom
from validation import Claim, Outcome, figures, means
from validation.expansions import edge_shift, outlier_shift

RATIO = 0.5
SIZES = (10**6, 10**9)
STRENGTHS = (0.5, 1.5, 3.0)
"""(ell - 1) / sqrt(ratio); the threshold is at 1."""
WINDOW = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
"""w of ell = 1 + sqrt(ratio) (1 + w p^(-1/3))."""
DRAWS = {"smoke": {10**6: 1_000, 10**9: 400}, "full": {10**6: 20_000, 10**9: 4_000}}


def _largest(p, spike, draws, rng, beta=1):
    model = SpikedCovariance(p, round(p / RATIO), spikes=np.array([spike]), beta=beta)
    return model.largest(size=draws, rng=rng)[:, 0]


def _standard(p, values, beta=1):
    centre, width = SpikedCovarianceLaw(RATIO, [1.0], num_samples=round(p / RATIO), beta=beta).edge()
    return (values - centre) / width


def draw(scale, rng):
    far = {}
    window, critical = {}, {}
    for p in SIZES:
        draws, paired = DRAWS[scale][p], min(DRAWS[scale].values())
        found = bbp_transition(RATIO, 1 + np.array(STRENGTHS) * RATIO**0.5, p, draws, rng)
        far[p] = list(zip(found.eigenvalues, found.overlaps, strict=True))
        spikes = [1 + RATIO**0.5 * (1 + w * p ** (-1 / 3)) for w in WINDOW]
        window[p] = [_standard(p, _largest(p, spike, paired, rng)) for spike in spikes]
        critical[p] = _standard(p, _largest(p, 1 + RATIO**0.5, draws, rng, beta=2), beta=2)
    return far, window, critical


def judge(data, theory):
    far, window, critical = data
    formula, critical_cdf = theory
    checks = []
    for i, strength in enumerate(STRENGTHS):
        spike = 1 + strength * RATIO**0.5
        is_outlier, location, overlap = formula(RATIO, spike)
        for p in SIZES:
            n = round(p / RATIO)
            values, overlaps = far[p][i]
            if is_outlier:
                # In units of n^(-1/2), where fluctuations are of order 1.
                units = (values - location) * n**0.5
                bias = 2 * abs(outlier_shift(spike, RATIO)) / n**0.5
                checks.append(means(f"outlier, spike {spike:.3g}", [units], [0.0], bias=bias, detect=8.0, sizes=[p]))
                checks.append(
                    means(f"overlap, spike {spike:.3g}", [overlaps], [overlap], bias=20 / n, detect=0.01, sizes=[p])
                )
            else:
                width = SpikedCovarianceLaw(RATIO, [1.0], num_samples=n).edge()[1]
                pulled = _standard(p, values) - edge_shift(spike, RATIO, 1) / n / width
                reference = TracyWidom(1).mean() + (location - (1 + RATIO**0.5) ** 2) / width
                checks.append(
                    means(f"edge, spike {spike:.3g}", [pulled], [reference], bias=0.01, detect=1.0, sizes=[p])
                )
                checks.append(means(f"no overlap, spike {spike:.3g}", [overlaps], [0.0], bias=1e-3, detect=0.01,
                                    sizes=[p]))  # fmt: skip
    quantiles = TracyWidom(2).ppf([0.1, 0.5, 0.9])
    for p in SIZES:
        below = (critical[p][:, None] <= quantiles) * 1.0
        checks.append(means("complex, at the threshold: distribution function", [below], [critical_cdf(quantiles)],
                            bias=p ** (-1 / 3), detect=0.45, sizes=[p]))  # fmt: skip
    small, large = (window[p] for p in SIZES)
    for w, x, y in zip(WINDOW, small, large, strict=True):
        checks.append(means(f"window collapses, w = {w:g}", [x - y], [0.0], bias=0.05, detect=2.8,
                            sizes=[SIZES[0]]))  # fmt: skip

    def plot():
        figure, (left, right) = figures.panels(2, "critical window, real", "complex, at the threshold")
        for colour, p in zip(figures.COLOURS, SIZES, strict=False):
            mean = [x.mean() for x in window[p]]
            error = [x.std() / len(x) ** 0.5 for x in window[p]]
            figures.points(left, WINDOW, mean, error, colour, f"$p = 10^{{{math.log10(p):.0f}}}$")
        left.axhline(TracyWidom(1).mean(), color=figures.GREY, lw=0.8, ls=":", label="Tracy-Widom")
        left.set(xlabel=r"$w = ((\ell-1)/\sqrt{\gamma} - 1)\,p^{1/3}$", ylabel=r"mean $(\lambda_1-\mu)/s$")
        figures.legend(left)
        grid = np.linspace(*np.percentile(critical[SIZES[0]], [0, 100]), 200)
        for colour, p in zip(figures.COLOURS, SIZES, strict=False):
            values = np.sort(critical[p])
            right.step(
                values,
                (np.arange(values.size) + 0.5) / values.size,
                color=colour,
                lw=1,
                label=f"$p = 10^{{{math.log10(p):.0f}}}$",
            )
        right.plot(grid, TracyWidom(1).cdf(grid) ** 2, color="black", lw=1.2, ls="--", label=r"$F_1^2$")
        right.plot(grid, TracyWidom(2).cdf(grid), color=figures.GREY, lw=0.8, ls=":", label=r"$F_2$")
        right.set(xlabel=r"$(\lambda_1-\mu)/s$", ylabel="distribution function")
        figures.legend(right)
        return figure

    middle = WINDOW.index(0.0)
    text = f"""Outliers, overlaps and the edge below the threshold are as the limit says at p = 1e6 and 1e9. Within
    p^(-1/3) of the threshold the standardised eigenvalue has one law for both: at w = 0 its mean is
    {small[middle].mean():.3f} and {large[middle].mean():.3f} (Tracy-Widom {TracyWidom(1).mean():.3f}), at w = 2
    {small[middle + 2].mean():.3f} and {large[middle + 2].mean():.3f}. For complex matrices exactly at the threshold
    that law is the square of the Tracy-Widom law of beta = 1, as the paper says."""
    return Outcome(checks, text, plot)


def law(ratio, spike):
    found = SpikedCovarianceLaw(ratio, [spike])
    return bool(found.is_outlier[0]), float(found.locations[0]), float(found.overlaps[0])


def square_of_goe(s):
    return TracyWidom(1).cdf(s) ** 2


def no_threshold(ratio, spike):
    return True, spike * (1 + ratio / (spike - 1)), law(ratio, spike)[2]


def late_threshold(ratio, spike):
    edge = (1 + ratio**0.5) ** 2
    return (True, *law(ratio, spike)[1:]) if spike > edge else (False, edge, 0.0)


CLAIM = Claim(
    statement="""With one spike ell the largest eigenvalue of a sample covariance matrix leaves the bulk for ell > 1 +
    sqrt(ratio); within p^(-1/3) of that threshold, standardised, it has a law of its own in ((ell - 1)/sqrt(ratio) - 1)
    p^(1/3), which for complex matrices exactly at the threshold is F_1^2.""",
    source="Baik, Ben Arous and Peche (2005), theorem 1.1; Bloemendal and Virag (2013), theorem 1.5 (real)",
    estimates="location, overlap and edge at p = 1e6 and 1e9; means through the window; distribution at the threshold",
    reference="location and overlap formulas, Tracy-Widom mean, F_1^2; one size against the other within the window",
    bias="""Outliers O(1/n) and the pull on the edge O(1/n), both derived in validation/expansions.py; within the window
    O(p^(-1/3)), 0.01 at p = 1e6.""",
    draw=draw,
    judge=judge,
    theory=(law, square_of_goe),
    mutants={
        "no threshold": (no_threshold, square_of_goe),
        "threshold (1 + sqrt(ratio))^2": (late_threshold, square_of_goe),
        "Tracy-Widom at the threshold": (law, TracyWidom(2).cdf),
    },
)
