"""Sagun et al., example 1: the Hessian of logistic regression."""

from __future__ import annotations

import functools

import numpy as np

from rmtland.laws.marchenko_pastur import MarchenkoPastur
from rmtland.laws.silverstein import GeneralizedMarchenkoPastur
from validation import Check, Claim, Outcome, figures, rate
from validation.expansions import count_shift
from validation.sampling import weighted_covariance

ALPHA, LENGTHS = 0.5, (0.0, 4.0)
LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
SIZES = {
    "smoke": {16: 12_000, 48: 3_000, 144: 600},
    "full": {16: 120_000, 48: 30_000, 144: 4_000, 288: 600},
}
# <w, x> / |w| is standard normal; the trapezoidal rule is exact to rounding for so smooth a function.
_NODES = np.arange(-8, 8.01, 0.1)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()


def curvature(s):
    """Second derivative l'' of the logistic loss."""
    return 0.25 / np.cosh(0.5 * s) ** 2


def weighted(length):
    """Law of (1/N) sum_i l''(<w, x_i>) x_i x_i^T as M and N grow, |w| = length: <w, x> standard normal times that."""
    return GeneralizedMarchenkoPastur(curvature(length * _NODES) * ALPHA, 1.0, _WEIGHTS / ALPHA)


def plain(length):
    """Marchenko-Pastur with the same mean."""
    return MarchenkoPastur(ALPHA, sigma=float(_WEIGHTS @ curvature(length * _NODES)) ** 0.5)


@functools.cache  # as long to find as to draw, and asked for by each mutant
def points(length):
    return weighted(length).ppf(LEVELS)


def draw(scale, rng):
    data = {}
    for length in LENGTHS:
        x = points(length)
        for m, draws in SIZES[scale].items():
            values, _ = weighted_covariance(m, round(m / ALPHA), length, draws, rng)
            data[length, m] = (values[:, :, None] <= x).sum(axis=1), values[:200]
    return data


def judge(data, theory):
    checks, found = [], {}
    for length in LENGTHS:
        sizes = np.array([m for r, m in data if r == length])
        law, x = theory(length), points(length)
        below = law.cdf(x)
        counts = [data[length, m][0] - m * below for m in sizes]
        mean = np.array([c.mean(axis=0) for c in counts])
        error = np.array([c.std(axis=0) / len(c) ** 0.5 for c in counts])
        found[length] = sizes, mean, error
        if length == 0:
            shift = count_shift(x, *plain(0.0).support)
            checks.append(
                Check(
                    "w = 0: eigenvalues below 5 points",
                    mean,
                    error,
                    shift,
                    0.5 / sizes[:, None],
                    0.6,
                    sizes,
                    "less M times the law; the derived 1/4 at the edges is the reference",
                )
            )
        else:
            # Across w the inputs are independent of the weights, so only the row along w is not of the law, and one
            # row moves a count by 1 at most; 1/4 at the edges is that of real entries.
            checks.append(
                Check(
                    f"|w| = {length:g}: eigenvalues below 5 points",
                    mean,
                    error,
                    0.0,
                    1.25,
                    5.0,
                    sizes,
                    "less M times the law; one row is not of it (interlacing: 1), real entries (1/4)",
                )
            )
        root = np.sqrt((mean**2).mean(axis=1) - (error**2).mean(axis=1).clip(0))
        spread = np.sqrt((mean**2 * error**2).mean(axis=1)) / root / len(LEVELS) ** 0.5
        checks.append(
            rate(
                f"|w| = {length:g}: rate of the mean law's error",
                sizes,
                root / sizes,
                spread / sizes,
                1.0,
                detect=0.9,
                bias=0.15,
            )
        )
    # How far plain Marchenko-Pastur is from the truth, the same at every size.
    gap = float(np.abs(plain(LENGTHS[-1]).cdf(points(LENGTHS[-1])) - LEVELS).max())

    def plot():
        figure, axes = figures.panels(3, "w = 0", f"|w| = {LENGTHS[-1]:g}", "mean law's error")
        for ax, length in zip(axes, LENGTHS, strict=False):
            sizes = found[length][0]
            values = data[length, sizes[-1]][1]
            high = float(weighted(length).support.max())
            ax.hist(
                values.ravel(),
                np.linspace(0, 1.1 * high, 80),
                density=True,
                color="#cccccc",
                label=f"draws, M = {sizes[-1]}",
            )
            grid = np.linspace(1e-4, 1.1 * high, 500)
            density = weighted(length).pdf(grid)
            ax.plot(grid, density, color=figures.COLOURS[1], label=r"weights $l''(\langle w,x\rangle)$")
            ax.plot(
                grid, plain(length).pdf(grid), color=figures.COLOURS[0], ls="--", label="Marchenko-Pastur, same mean"
            )
            ax.set(xlabel=r"eigenvalue $\lambda$ of the Hessian", ylabel=r"density per unit of $\lambda$")
            ax.set_ylim(0, 1.15 * float(density.max()))
            figures.legend(ax)
        for colour, (length, (sizes, mean, error)) in zip(figures.COLOURS[1:], found.items(), strict=False):
            worst = np.abs(mean).max(axis=1)
            figures.convergence(
                axes[2],
                sizes,
                worst / sizes,
                error.max(axis=1) / sizes,
                colour,
                f"|w| = {length:g}",
                lambda n, c=worst[0]: c / n,
            )
        axes[2].axhline(gap, color=figures.COLOURS[0], ls="--", lw=1.2, label="Marchenko-Pastur, |w| = 4")
        axes[2].set(xlabel="parameters $M$", ylabel="largest error of $E\\,F_M(x)$; lines: $1/M$")
        figures.legend(axes[2])
        return figure

    text = f"""At w = 0 all weights l'' are 1/4 and the Hessian's spectrum is Marchenko-Pastur, its mean law off by
    the derived O(1/M) (fitted exponent {checks[1].estimate:.2f} +- {checks[1].standard_error:.2f}).

    At |w| = {LENGTHS[-1]:g} the weights depend on <w, x>: the law is a generalised Marchenko-Pastur law with weights
    l'', from
    which the counts differ by at most {np.abs(found[LENGTHS[-1]][1]).max():.2f} eigenvalues at every size (fitted
    exponent of the mean law's
    error {checks[3].estimate:.2f} +- {checks[3].standard_error:.2f}). Marchenko-Pastur with the same mean misplaces
    {100 * gap:.0f}% of all eigenvalues whatever the size."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""The Hessian of logistic regression on Gaussian inputs, (1/N) sum_i l''(<w, x_i>) x_i x_i^T, has a
    Marchenko- Pastur spectrum at w = 0 only; elsewhere a generalised one, with the weights l''.""",
    source="Sagun et al. (2017), example 1; corrected by Silverstein (1995), theorem 1.1",
    estimates="mean number of eigenvalues below five points, at w = 0 and |w| = 4",
    reference="M times the law with weights l''(<w, x>)",
    bias="At w = 0 the derived 1/4 at the edges; else at most 1 + 1/4 eigenvalues by interlacing: O(1/M) for the law.",
    draw=draw,
    judge=judge,
    theory=weighted,
    mutants={
        "Marchenko-Pastur at every w": plain,
        "weights sqrt(l'')": lambda length: GeneralizedMarchenkoPastur(
            curvature(length * _NODES) ** 0.5 * ALPHA, 1.0, _WEIGHTS / ALPHA
        ),
    },
    disagreement="""The example says that logistic regression falls into the classical Marchenko-Pastur law, as the
    weight c(w, x) is positive and free of y; but it depends on x, so that this is so at w = 0 only.""",
)
