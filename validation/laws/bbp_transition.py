"""Baik, Ben Arous and Peche: through the threshold."""

from __future__ import annotations

import numpy as np

from rmtland.laws.spikes import SpikedCovarianceLaw
from validation import Claim, Outcome, exact, figures
from validation.laws import _outliers

RATIOS = (0.25, 2.0)
STRENGTHS = (0.3, 0.6, 1.0, 1.5, 2.5, 4.0)
"""(ell - 1) / sqrt(ratio); the threshold is at 1."""
SIZES = {
    "smoke": {16: 8_000, 32: 3_000, 64: 800, 128: 120},
    "full": {16: 40_000, 32: 20_000, 64: 6_000, 128: 1_200, 256: 120},
}
CHECKED = (0.3, 2.5, 4.0)
"""Far enough from the threshold for the derived finite-size terms; the others are drawn in the figure only."""


def spikes(ratio):
    return 1 + np.array(STRENGTHS) * ratio**0.5


def draw(scale, rng):
    def sizes(strength):
        # The figure needs fewer draws than the checks.
        return {n: draws if strength in CHECKED else draws // 4 for n, draws in SIZES[scale].items()}

    return [
        [_outliers.draw(ratio, [s], sizes(k), rng) for k, s in zip(STRENGTHS, spikes(ratio), strict=True)]
        for ratio in RATIOS
    ]


def judge(data, theory):
    checks, left_behind = [], []
    for ratio, rows in zip(RATIOS, data, strict=True):
        is_outlier, locations = theory(ratio, spikes(ratio))
        for strength, spike, out, place, draws in zip(
            STRENGTHS, spikes(ratio), is_outlier, locations, rows, strict=True
        ):
            if strength not in CHECKED:
                continue
            name = f"ratio {ratio:g}, spike {spike:.3g}"
            if out:
                checks += _outliers.location_checks(
                    name, draws, -1, place, spike, ratio, detect=0.05 * spike, with_rate=False
                )[:1]
            else:
                checks += _outliers.edge_checks(name, draws, spike, ratio, place)
                left_behind.append(checks[-1])
        # The threshold itself needs no draws: where the formula meets the edge with slope 0.
        grid = 1 + ratio**0.5 * np.array([1 - 1e-9, 1 + 1e-9])
        checks.append(exact(f"ratio {ratio:g}: outliers begin at 1 + sqrt(ratio)", theory(ratio, grid)[0], [0, 1]))

    def plot():
        figure, axes = figures.panels(2, *(f"ratio p/n = {ratio:g}" for ratio in RATIOS))
        for ax, ratio, rows in zip(axes, RATIOS, data, strict=True):
            fine = np.linspace(1, 1 + 4.2 * ratio**0.5, 300)
            ax.plot(fine, theory(ratio, fine)[1], color="black", lw=1.4, label="limit")
            ax.axvline(1 + ratio**0.5, color=figures.GREY, lw=0.8, ls=":")
            for colour, n in zip(figures.COLOURS, list(rows[0])[::2], strict=False):
                tops = [d[n].eigenvalues[:, -1] for d in rows]
                mean = [t.mean() for t in tops]
                deviation = np.array([t.std() for t in tops])
                ax.errorbar(
                    spikes(ratio), mean, deviation, fmt="o", ms=4, capsize=2.5, lw=1, color=colour, label=f"n = {n}"
                )
            ax.set(xlabel=r"spike $\ell$ (bulk variance 1)", ylabel=r"$\lambda_1$, mean and s.d. over draws")
        axes[0].annotate(r"$1+\sqrt{\gamma}$", (1.52, 0.02), xycoords=("data", "axes fraction"), color=figures.GREY)
        figures.legend(axes[0])
        return figure

    exponents = ", ".join(f"{c.estimate:.2f} +- {c.standard_error:.2f}" for c in left_behind)
    text = f"""Spikes at 2.5 and four times the threshold's strength give outliers where the formula puts them;
    those at
    0.3 of it leave the largest eigenvalue at the edge, with the Tracy-Widom mean, to which it comes like n^-2/3 (fitted
    exponents {exponents}).

    Within n^(-1/3) of the threshold neither limit holds at finite n: the figure's points at strengths 1 and 1.5 lie off
    the line at small n and come nearer as n grows."""
    return Outcome(checks, text, plot)


def law(ratio, values):
    found = SpikedCovarianceLaw(ratio, values)
    return found.is_outlier, found.locations


def square_threshold(ratio, values):
    """Outliers only beyond the right edge (1 + sqrt(ratio))^2 itself."""
    edge = (1 + ratio**0.5) ** 2
    return values > edge, np.where(values > edge, law(ratio, values)[1], edge)


def no_threshold(ratio, values):
    return np.ones(len(values), dtype=bool), values * (1 + ratio / (values - 1 + 1e-300))


CLAIM = Claim(
    statement="""The largest eigenvalue of a sample covariance matrix with one spike ell stays at the right edge of
    the bulk, with Tracy-Widom fluctuations, for ell < 1 + sqrt(ratio), and leaves it for ell > 1 + sqrt(ratio).""",
    source="Baik, Ben Arous and Peche (2005), theorem 1.1; Baik and Silverstein (2006), theorem 1.1 (real)",
    estimates="mean of the largest eigenvalue below and above the threshold, at ratio 0.25 and 2",
    reference="location formula above; edge and mean of the Tracy-Widom law below",
    bias="""Above O(1/n) with derived constant; below the pull of the spike on the edge, derived, O(1/n), and
    O(n^-2/3) in Tracy-Widom units beyond the second-order centring, of which the leading term is derived.""",
    draw=draw,
    judge=judge,
    theory=law,
    mutants={"threshold (1 + sqrt(ratio))^2": square_threshold, "no threshold": no_threshold},
)
