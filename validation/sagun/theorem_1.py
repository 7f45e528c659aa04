"""Sagun et al., theorem 1: one spike, and for which alpha it holds."""

from __future__ import annotations

import numpy as np

from rmtland.laws.spikes import SpikedCovarianceLaw
from validation import Claim, Outcome, exact, figures, rate
from validation.laws import _outliers
from validation.laws.bbp_fluctuation import deviation

ALPHAS = (0.25, 1.0, 3.0)
SIZES = {
    "smoke": {12: 12_000, 24: 6_000, 48: 2_000, 96: 500},
    "full": {12: 80_000, 24: 40_000, 48: 15_000, 96: 3_000, 192: 400},
}


def spikes(alpha):
    """Below and above the threshold 1 + sqrt(alpha)."""
    return 1 + 0.3 * alpha**0.5, 1 + 4 * alpha**0.5


def draw(scale, rng):
    return {a: [_outliers.draw(a, [s], SIZES[scale], rng) for s in spikes(a)] for a in ALPHAS}


def judge(data, theory):
    checks, lines, spreads = [], [], {}
    for alpha, (below, above) in data.items():
        weak, strong = spikes(alpha)
        is_outlier, places = theory(alpha, np.array([weak, strong]))
        name = f"alpha {alpha:g}"
        checks.append(exact(f"{name}: only the spike above the threshold is an outlier", is_outlier, [0.0, 1.0]))
        checks += _outliers.location_checks(
            f"{name}, above", above, -1, places[1], strong, alpha, detect=0.03 * strong, with_rate=False
        )[:1]
        checks += _outliers.edge_checks(f"{name}, below", below, weak, alpha, places[0])
        sizes = np.array(list(above))
        rows = [np.array([deviation(d.eigenvalues[:, -1]) for d in draws.values()]).T for draws in (below, above)]
        spreads[alpha] = sizes, rows
        # Gaussian outliers fluctuate like n^(-1/2), Tracy-Widom edges like n^(-2/3): the difference is what matters.
        root = rate(f"{name}, above: s.d.", sizes, *rows[1], 0.5, detect=1 / 6, bias=0.02)
        checks.append(root)
        lines.append(
            f"""alpha = {alpha:g}: above the threshold the mean extrapolates to {checks[-4].estimate:.3f} +-
            {checks[-4].standard_error:.3f} (formula {checks[-4].expected:.3f}) and the s.d. falls like
            n^-{root.estimate:.2f} +- {root.standard_error:.2f}; below it the mean stays at the edge and comes to it
            like
            n^-{checks[-2].estimate:.2f} +- {checks[-2].standard_error:.2f}."""
        )

    def plot():
        figure, (left, right) = figures.panels(2, "largest eigenvalue over its limit", "its standard deviation")
        for colour, (alpha, draws) in zip(figures.COLOURS, data.items(), strict=False):
            places = theory(alpha, np.array(spikes(alpha)))[1]
            sizes, rows = spreads[alpha]
            for marker, d, place, label in zip("vo", draws, places, ("below", "above"), strict=True):
                tops = [v.eigenvalues[:, -1] / place for v in d.values()]
                error = [t.std() / len(t) ** 0.5 for t in tops]
                text = rf"$\alpha={alpha:g}$, {label}"
                figures.points(left, sizes, [t.mean() for t in tops], error, colour, text, marker)
            for marker, (spread, error), power in zip("vo", rows, (2 / 3, 0.5), strict=True):
                c = spread[0] * sizes[0] ** power
                figures.convergence(
                    right, sizes, spread, error, colour, None, lambda n, c=c, r=power: c * n**-r, marker
                )
        left.axhline(1, color="black", lw=1.2)
        left.set(xlabel="samples $n$", ylabel=r"$E\,\lambda_1$ / limit")
        figures.log_sizes(left, sizes, log_values=False)
        right.set(xlabel="samples $n$", ylabel=r"s.d. of $\lambda_1$; lines: $n^{-1/2}$, $n^{-2/3}$")
        figures.legend(left)
        return figure

    lines.append("The theorem asks alpha >= 1; nothing in it fails at alpha = 0.25.")
    return Outcome(checks, "\n\n".join(lines), plot)


def law(alpha, values):
    found = SpikedCovarianceLaw(alpha, values)
    return found.is_outlier, found.locations


def only_from_one(alpha, values):
    """The theorem as printed, read as saying that alpha < 1 has no outliers."""
    out, places = law(alpha, values)
    return (out, places) if alpha >= 1 else (np.zeros_like(out), np.full(len(values), (1 + alpha**0.5) ** 2))


CLAIM = Claim(
    statement="""With Sigma = diag(ell, 1, ..., 1) and M/N -> alpha, the largest eigenvalue is at the right edge with
    Tracy-Widom fluctuations for ell < 1 + sqrt(alpha), and for ell > 1 + sqrt(alpha) it is an outlier at ell (1 +
    alpha/(ell - 1)) with Gaussian fluctuations; for every alpha > 0.""",
    source="Sagun et al. (2017), theorem 1, after Baik, Ben Arous and Peche (2005)",
    estimates="mean and s.d. of the largest eigenvalue at alpha = 0.25, 1 and 3",
    reference="location formula and edge; exponents 1/2 (Gauss) above and 2/3 below",
    bias="Location O(1/n) with derived constant; edge as in laws.bbp_transition; exponent of the s.d. within O(1/n).",
    draw=draw,
    judge=judge,
    theory=law,
    mutants={
        "only alpha >= 1": only_from_one,
        "no push": lambda alpha, values: (law(alpha, values)[0], np.maximum(values, (1 + alpha**0.5) ** 2)),
    },
    disagreement="""The theorem asks alpha >= 1, with which alpha < 1 would be excluded; the statement holds for every
    alpha > 0. Baik, Ben Arous and Peche state it for complex matrices; the real case is Baik and Silverstein (2006)
    and Paul (2007).""",
)
