"""Derrida, as Fort and Ganguli use him: softmax probabilities freeze at sigma = sqrt(2 ln C)."""

from __future__ import annotations

import math

import numpy as np

from rmtland.laws.random_energy import RandomEnergyLimit, RandomEnergyModel
from validation import Check, Claim, Outcome, figures
from validation.sampling import softmax_draws

RELATIVE = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
"""sigma / sqrt(2 ln C) of the draws."""
SIZES = {
    "smoke": {10: 20_000, 100: 10_000, 1000: 5_000},
    "full": {10: 400_000, 100: 100_000, 1000: 20_000, 10_000: 3_000},
}
STATES = tuple(10**k for k in (10, 20, 40, 80))
"""The quadrature runs at any C, and the approach is as slow as 1 / ln C."""
FROZEN, LIQUID = (2.0, 3.0, 4.0), (0.2, 0.3, 0.4)


def freezing(num_states):
    return math.sqrt(2 * math.log(num_states))


def draw(scale, rng):
    return {
        (states, r): softmax_draws(states, r * freezing(states), draws, rng)
        for states, draws in SIZES[scale].items()
        for r in RELATIVE
    }


def exponent(logs, values):
    """Minus the slope of log abs(values) against log(logs), by least squares."""
    return -float(np.polyfit(np.log(logs), np.log(np.abs(values)), 1)[0])


def judge(data, theory):
    beta, freeze = theory
    models = {(c, r): RandomEnergyModel(c, beta(r * freezing(c))) for c, r in data}
    checks = []
    for row, name, detect in ((1, "participation", 0.06), (0, "entropy in nats", 0.25)):
        samples = [values[row] for values in data.values()]
        want = [m.participation() if row else m.entropy() for m in models.values()]
        mean = np.array([s.mean() for s in samples])
        error = np.array([s.std() / len(s) ** 0.5 for s in samples])
        checks.append(Check(f"draws against quadrature: {name}", mean, error, want, 0.0, detect, [c for c, _ in data]))

    # Frozen: 1 - freezing / sigma, less the derived ln ln C / ln C; what is left falls like 1 / ln C.
    logs = np.array([math.log(c) for c in STATES])
    term = (np.log(logs) + math.log(4 * math.pi)) / (4 * logs)
    frozen = {}
    for r in FROZEN:
        exact = np.array([RandomEnergyModel(c, r * freezing(c)).participation() for c in STATES])
        limits = np.array([RandomEnergyLimit(beta(r * freezing(c)) / freeze(c)).participation() for c in STATES])
        rest = exact - limits - term / r
        frozen[r] = exact - limits
        checks.append(
            Check(
                f"frozen at {r:g}: exponent of ln C beyond the derived term", exponent(logs, rest), 0.0, 1.0, 0.2, 0.8
            )
        )
        checks.append(
            Check(
                f"frozen at {r:g}: participation at C = 1e80",
                exact[-1],
                0.0,
                limits[-1] + term[-1] / r,
                0.5 / logs[-1],
                0.02,
                note="beyond the derived term O(1/ln C)",
            )
        )

    # Liquid: participation C^(2 r^2 - 1) and entropy (1 - r^2) ln C, with the derived correction.
    liquid = {}
    for r in LIQUID:
        counts = tuple(10**k for k in (4, 8, 12))
        some = np.array([math.log(c) for c in counts])
        effective = np.array([beta(r * freezing(c)) / freeze(c) for c in counts])
        exact = [RandomEnergyModel(c, r * freezing(c)) for c in counts]
        participation = np.log([m.participation() for m in exact]) / some
        checks.append(
            Check(
                f"liquid at {r:g}: ln participation / ln C",
                participation[-1],
                0.0,
                2 * effective[-1] ** 2 - 1,
                0.001,
                0.02,
            )
        )
        error = np.array([m.entropy() for m in exact]) - (1 - effective**2) * some
        variance = 2 * effective**2 * some
        derived = (np.exp(variance) * (variance - 0.5) + 0.5) * np.exp(-some)
        checks.append(
            Check(
                f"liquid at {r:g}: entropy less (1 - r^2) ln C, over the derived term",
                error[0] / derived[0],
                0.0,
                1.0,
                0.1,
                0.5,
                note="C = 1e4; the rest is of order C^(4 r^2 - 2)",
            )
        )
        liquid[r] = (counts, error, derived)

    def plot():
        figure, (left, right) = figures.panels(
            2, "participation across the freezing point", "approach to the frozen limit"
        )
        fine = np.linspace(0.05, 4.2, 120)
        states = sorted({c for c, _ in data})
        for colour, c in zip(figures.COLOURS, states, strict=False):
            left.plot(fine, [RandomEnergyModel(c, r * freezing(c)).participation() for r in fine], color=colour, lw=1.2)
            values = [data[c, r][1] for r in RELATIVE]
            mean = [v.mean() for v in values]
            error = [v.std() / len(v) ** 0.5 for v in values]
            figures.points(left, RELATIVE, mean, error, colour, f"C = {c:g}")
        left.plot(fine, [max(0, 1 - 1 / r) for r in fine], color="black", ls="--", lw=1.2, label=r"$C\to\infty$")
        left.set(xlabel=r"$\sigma_z/\sqrt{2\,\ln C}$", ylabel=r"$E\sum_k p_k^2$; lines: quadrature")
        figures.legend(left)
        for colour, (r, error) in zip(figures.COLOURS, frozen.items(), strict=False):
            right.plot(logs, np.abs(error) * r, "o", ms=4, color=colour, label=rf"$\sigma_z = {r:g}\,\sqrt{{2\ln C}}$")
        right.plot(logs, term, color="black", lw=1.2, label=r"$(\ln\ln C+\ln 4\pi)/(4\ln C)$")
        figures.log_sizes(right, np.round(logs))
        right.set(xlabel=r"$\ln C$", ylabel=r"error of $E\sum_k p_k^2$, times $\sigma_z/\sqrt{2\ln C}$")
        figures.legend(right)
        return figure

    text = f"""Draws at C up to {max(c for c, _ in data):,} agree with the quadrature. Above sigma_z = sqrt(2 ln C) the
    participation tends to 1 - sqrt(2 ln C)/sigma_z, but only as slowly as (ln ln C + ln 4 pi)/(4 ln C), derived, with a
    rest of order 1/ln C (fitted exponents {", ".join(f"{c.estimate:.2f}" for c in checks[2:8:2])}): at C = 10 and
    twice the
    freezing point it is {RandomEnergyModel(10, 2 * freezing(10)).participation():.3f}, not 0.5. Below, it falls like
    C^(2 r^2 - 1), r = sigma_z / sqrt(2 ln C), for r < 1/2, and the entropy is (1 - r^2) ln C.

    The inverse temperature is sigma_z. With sigma_z^2 in its place, as the source has it, neither the draws nor the
    freezing point fit."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""Softmax probabilities of C independent N(0, sigma_z^2) logits are those of the random energy model at
    inverse temperature sigma_z: they freeze onto few classes at sigma_z = sqrt(2 ln C), where the entropy per ln C
    reaches 0.""",
    source="Derrida (1980); Gross and Mezard (1984); used by Fort and Ganguli (2019), section 3.3",
    estimates="mean of sum p^2 and of the entropy over draws; the quadrature at C up to 1e80",
    reference="the quadrature; the limits 1 - sqrt(2 ln C)/sigma_z above freezing and 1 - r^2 below",
    bias="""Frozen participation: r^-1 (ln ln C + ln 4 pi)/(4 ln C), as the largest of C logits is at sqrt(2 ln C)
    less (ln ln C + ln 4 pi)/(2 sqrt(2 ln C)); then O(1/ln C). Liquid entropy: (e^(sigma^2) (sigma^2 - 1/2) + 1/2)/C,
    by expanding ln Z around its mean; then O(C^(4 r^2 - 2)).""",
    draw=draw,
    judge=judge,
    theory=(lambda sigma: sigma, freezing),
    mutants={
        "sigma^2 as inverse temperature": (lambda sigma: sigma**2, freezing),
        "freezing point in bits": (lambda sigma: sigma, lambda c: math.sqrt(2 * math.log2(c))),
    },
    disagreement="""Fort and Ganguli (2019), section 3.3, put sigma_z^2 for the inverse temperature; it is
    sigma_z.""",
)
