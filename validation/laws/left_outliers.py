"""Bloemendal, Knowles, Yau and Yin: outliers left of the bulk."""

from __future__ import annotations

import numpy as np

from rmtland.laws.spikes import SpikedCovarianceLaw
from validation import Claim, Outcome, exact, figures, limit, rate
from validation.expansions import edge_shift, outlier_shift, tracy_widom_mean_shift_wishart
from validation.laws import _outliers
from validation.sampling import controlled_mean

RATIO, SPIKE = 0.25, 0.15
STAYS = ((0.25, 0.85), (2.5, 0.15))
"""Ratios and spikes that give no left outlier: above 1 - sqrt(ratio), and any spike where ratio > 1."""
SIZES = {
    "smoke": {16: 18_000, 32: 8_000, 64: 3_000, 128: 600},
    "full": {16: 120_000, 32: 60_000, 64: 20_000, 128: 4_000, 256: 500},
}


def draw(scale, rng):
    out = _outliers.draw(RATIO, [SPIKE], SIZES[scale], rng, (0,))
    return out, [_outliers.draw(ratio, [spike], SIZES[scale], rng) for ratio, spike in STAYS]


def smallest(draws, ratio, spike):
    """Mean and standard error of the smallest nonzero eigenvalue less derived terms.

    These are the spike's pull on the edge and the shift of the centre, both O(1/n), and the bend of the density,
    O(n^(-4/3)).
    """
    rows = []
    for n, d in draws.items():
        centre, scale = SpikedCovarianceLaw(ratio, [1.0], num_samples=n).edge("left")
        known = edge_shift(spike, ratio, -1) / n + centre - (1 - ratio**0.5) ** 2
        values = d.eigenvalues[:, 0] - known + scale * tracy_widom_mean_shift_wishart(ratio * n, n, -1)
        rows.append((values.mean(), values.std() / len(values) ** 0.5))
    return np.array(rows).T


def judge(data, theory):
    out, stays = data
    sizes = np.array(list(out))
    found = theory(RATIO, SPIKE)
    checks = _outliers.location_checks("location", out, 0, found.locations[0], SPIKE, RATIO, detect=0.05)
    overlap, error = np.array([controlled_mean(d.overlaps[:, 0], d.controls) for d in out.values()]).T
    checks.append(limit("overlap", sizes, overlap, error, found.overlaps[0], powers=(1.0, 2.0), detect=0.1))
    edges = []
    for (ratio, spike), draws in zip(STAYS, stays, strict=True):
        law, name = theory(ratio, spike), f"ratio {ratio:g}, spike {spike:g}"
        checks.append(exact(f"{name}: no outlier", law.is_outlier.astype(float), [0.0]))
        mean, error = smallest(draws, ratio, spike)
        width = abs(1 - ratio**0.5)
        edge = float(law.locations[0])
        # Tracy-Widom: n^(-2/3), and n^(-4/3) at a left edge, where only the logarithm has second-order centring.
        checks.append(limit(f"{name}: edge", sizes, mean, error, edge, powers=(2 / 3, 4 / 3), detect=0.25 * width**2))
        checks.append(rate(f"{name}: rate", sizes, mean - edge, error, 2 / 3, detect=0.4, bias=0.1))
        edges.append((ratio, spike, mean, error, edge))

    def plot():
        figure, (left, right) = figures.panels(2, "smallest nonzero eigenvalue", "distance from the limit")
        mean, error = _outliers.mean_by_size(out, 0)
        label = rf"$\gamma={RATIO:g}$, $\ell={SPIKE:g}$: outlier"
        place, shift = float(found.locations[0]), outlier_shift(SPIKE, RATIO)
        figures.points(left, sizes, mean, error, figures.COLOURS[0], label)
        left.axhline(place, color=figures.COLOURS[0], lw=1.2)
        figures.convergence(right, sizes, mean - place, error, figures.COLOURS[0], label, lambda n: shift / n)
        for colour, (ratio, spike, m, e, edge) in zip(figures.COLOURS[1:], edges, strict=False):
            label = rf"$\gamma={ratio:g}$, $\ell={spike:g}$: stays"
            figures.points(left, sizes, m, e, colour, label)
            left.axhline(edge, color=colour, lw=1.2)
            c = (m[0] - edge) * sizes[0] ** (2 / 3)
            figures.convergence(right, sizes, m - edge, e, colour, label, lambda n, c=c: c * n ** (-2 / 3))
        left.set(xlabel="samples $n$", ylabel=r"$E\,\lambda_{\min}$; lines: limit")
        figures.log_sizes(left, sizes, log_values=True)
        right.set(xlabel="samples $n$", ylabel=r"|error|; lines: derived $1/n$, and $n^{-2/3}$")
        figures.legend(left)
        return figure

    text = f"""At ratio {RATIO:g} the spike {SPIKE:g} gives an outlier left of the bulk, whose mean extrapolates to
    {checks[0].estimate:.5f} +- {checks[0].standard_error:.5f} (formula {checks[0].expected:.5f}); the error falls like
    n^-{checks[2].estimate:.2f} +- {checks[2].standard_error:.2f} with the derived constant, and the squared cosine is
    {checks[3].estimate:.4f} +- {checks[3].standard_error:.4f} (formula {checks[3].expected:.4f}).

    A spike of 0.85 > 1 - sqrt(ratio) stays at the edge, and so does 0.15 at ratio 2.5: for p > n no spike, however
    small,
    gives a left outlier among the nonzero eigenvalues."""
    return Outcome(checks, text, plot)


class _ThresholdAnywhere:
    """A law without the condition ratio < 1: spikes below abs(1 - sqrt(ratio)) are taken to give outliers."""

    def __init__(self, ratio, spike):
        law = SpikedCovarianceLaw(ratio, [spike])
        self.is_outlier = np.array([spike < abs(1 - ratio**0.5)])
        inside = spike * (1 + ratio / (spike - 1))
        self.locations = np.where(self.is_outlier, inside, law.locations)
        self.overlaps = law.overlaps


class _StraySqrt:
    """The right condition, sqrt(ratio) for ratio in the formula."""

    def __init__(self, ratio, spike):
        law = SpikedCovarianceLaw(ratio, [spike])
        self.is_outlier, self.overlaps = law.is_outlier, law.overlaps
        self.locations = np.where(law.is_outlier, spike * (1 + ratio**0.5 / (spike - 1)), law.locations)


CLAIM = Claim(
    statement="""A population eigenvalue ell < 1 - sqrt(ratio) gives a sample eigenvalue at ell (1 + ratio/(ell - 1)),
    left of the bulk, and an eigenvector along it; this needs ratio = p/n < 1.""",
    source="Baik and Silverstein (2006), theorem 1.1; Bloemendal, Knowles, Yau and Yin (2016), theorems 2.3 and 2.9",
    estimates="mean of the smallest nonzero eigenvalue; mean squared cosine of its vector with the spike",
    reference="formula below the threshold; the left edge (1 - sqrt(ratio))^2 where there is no outlier",
    bias="""Outlier: O(1/n) with derived constant. Staying: the spike's pull on the edge, derived, O(1/n), and
    Tracy-Widom fluctuations of order n^-2/3 whose constants are fitted along.""",
    draw=draw,
    judge=judge,
    theory=lambda ratio, spike: SpikedCovarianceLaw(ratio, [spike]),
    mutants={"left outliers for ratio > 1 too": _ThresholdAnywhere, "stray sqrt(ratio)": _StraySqrt},
)
