"""Sagun et al., appendix B and figure 9: the Hessian of logistic regression on one blob and on two."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from rmtland.laws.silverstein import GeneralizedMarchenkoPastur
from validation import Claim, Outcome, figures, limit
from validation.sagun.example_1 import curvature

ALPHAS = (0.02, 1.0, 2.0)
"""The paper's ratios M / N of parameters to examples."""
DISTANCE = 2.0
"""Of each of two blobs from the origin, in standard deviations; w, of length |w|, is along the line through both."""
CASES = {
    "one blob, |w| = 1": (0.0, 1.0),
    "two blobs, w = 0": (DISTANCE, 0.0),
    "two blobs, |w| = 0.5": (DISTANCE, 0.5),
    "two blobs, |w| = 1": (DISTANCE, 1.0),
}
SIZES = {
    "smoke": {16: 2000, 32: 1000, 64: 500, 128: 120},
    "full": {16: 40_000, 32: 20_000, 64: 10_000, 128: 3_000, 256: 800},
}
REPEATS = {0.02: 0.25, 1.0: 4.0, 2.0: 7.0}
"""Times these: the more examples a dimension has, the dearer is a draw, and the steadier."""
SHOWN = 40
"""Spectra kept for the figure, of the largest matrices."""
_GRID = np.arange(-12, 12.01, 0.05)


class Prediction(NamedTuple):
    """The bulk's law and where the direction of w and of the blobs puts an eigenvalue; NaN where it stays."""

    law: GeneralizedMarchenkoPastur
    outlier: float


def atoms(distance, length):
    """Coordinate xi = <x, w> / |w| of the mixture, its weights, and l''(<w, x>)."""
    density = np.exp(-0.5 * (_GRID - distance) ** 2) + np.exp(-0.5 * (_GRID + distance) ** 2)
    return _GRID, density / density.sum(), curvature(length * _GRID)


def predicted(alpha, distance, length, corrected=True):
    """Bulk and outlier of (1/N) sum_i l''(<w, x_i>) x_i x_i^T, M = alpha N.

    All coordinates but xi are standard normal and independent of the weights t = l''(|w| xi): the generalised
    Marchenko-Pastur law of the weights. By Schur's complement the coordinate xi has an eigenvalue at the z beyond the
    bulk with z = E[t xi^2 / (1 - t m(z))], m(z) = (1/N) tr (z - bulk)^-1: the resolvent of the examples' N x N matrix
    is 1 / (z (1 - t m(z))) on its diagonal (Silverstein 1995).
    """
    xi, weights, t = atoms(distance, length)
    law = GeneralizedMarchenkoPastur(t * alpha, 1.0, weights / alpha)
    edge = float(law.support.max())
    second = float(weights @ (t * xi**2))
    if not corrected:
        return Prediction(law, second if second > edge else np.nan)

    def excess(z):
        m = -alpha * float(np.real(law.stieltjes(z + 0j)))
        return z - float(weights @ (t * xi**2 / (1 - t * m)))

    start = edge * (1 + 1e-6)
    if excess(start) >= 0:
        return Prediction(law, np.nan)
    return Prediction(law, brentq(excess, start, 10 * edge + 10 * second * (1 + alpha)))


def matrices(m, alpha, distance, length, draws, rng):
    """Eigenvalues (draws, M) of the Hessian; the first coordinate is along w and through the blobs."""
    n = round(m / alpha)
    out = np.zeros((draws, m))
    # Many small ones at once; of fewer examples than parameters the matrix of examples has all but zeros.
    batch = max(2**18 // (n * m), 1)
    for start in range(0, draws, batch):
        count = min(batch, draws - start)
        x = rng.standard_normal((count, n, m))
        x[..., 0] += distance * rng.choice([-1.0, 1.0], (count, n))
        rows = np.sqrt(curvature(length * x[..., 0]))[..., None] * x
        gram = rows @ rows.swapaxes(1, 2) if n < m else rows.swapaxes(1, 2) @ rows
        out[start : start + count, -min(n, m) :] = np.linalg.eigvalsh(gram / n)
    return out


def draw(scale, rng):
    data = {}
    for case, (distance, length) in CASES.items():
        for alpha in ALPHAS:
            for m, draws in SIZES[scale].items():
                found = matrices(m, alpha, distance, length, round(draws * REPEATS[alpha]), rng)
                data[case, alpha, m] = found[:, -1], found[:SHOWN]
    return data


def judge(data, theory):
    checks, found = [], {}
    sizes = sorted({m for *_, m in data})
    for case, (distance, length) in CASES.items():
        for alpha in ALPHAS:
            law, outlier = theory(alpha, distance, length)
            top = [data[case, alpha, m][0] for m in sizes]
            mean = np.array([t.mean() for t in top])
            error = np.array([t.std(ddof=1) / t.size**0.5 for t in top])
            edge = float(law.support.max())
            found[case, alpha] = law, outlier, mean, error
            if np.isnan(outlier):
                # The largest eigenvalue goes to the edge; its Tracy-Widom shift is of the order M^-2/3.
                checks.append(
                    limit(f"{case}, alpha = {alpha:g}: largest eigenvalue over edge", sizes, mean / edge, error / edge,
                          1.0, powers=(2 / 3, 4 / 3), detect=0.1)
                )  # fmt: skip
            else:
                checks.append(
                    limit(f"{case}, alpha = {alpha:g}: outlier", sizes, mean / outlier, error / outlier, 1.0,
                          powers=(1.0, 2.0), detect=0.06)
                )  # fmt: skip

    def plot():
        figure, axes = figures.panels(len(CASES), *CASES)
        for ax, case in zip(axes, CASES, strict=True):
            for colour, alpha in zip(figures.COLOURS, ALPHAS, strict=False):
                law, outlier, *_ = found[case, alpha]
                values = data[case, alpha, sizes[-1]][1].ravel()
                values = values[values > 1e-8]
                high = 1.15 * max(values.max(), 1.0 if np.isnan(outlier) else outlier)
                bins = np.geomspace(1e-3, high, 70)
                share = alpha if alpha > 1 else 1.0  # the atom at zero is left out
                weight = np.full(values.size, 1 / (values.size * share))
                counts = np.histogram(values, bins, weights=weight)[0]
                ax.stairs(counts / np.diff(np.log(bins)), bins, color=colour, alpha=0.5)
                grid = np.geomspace(1e-3, high, 600)
                ax.plot(grid, grid * law.pdf(grid), color=colour, label=f"alpha = {alpha:g}")
                if not np.isnan(outlier):
                    ax.axvline(outlier, color=colour, ls=":", lw=1.2)
            ax.set(xscale="log", xlabel=r"eigenvalue $\lambda$ of the Hessian", xlim=(5e-3, None), ylim=(0, 2.8),
                   ylabel=r"density per unit of $\ln\lambda$")  # fmt: skip
            figures.legend(ax)
        return figure

    def told(case, alpha):
        _, outlier, mean, error = found[case, alpha]
        if np.isnan(outlier):
            return f"alpha = {alpha:g}: none predicted"
        return f"alpha = {alpha:g}: {outlier:.3f} predicted, {mean[-1]:.3f} +- {error[-1]:.3f} at M = {sizes[-1]}"

    text = f"""On one blob there is no outlier at any alpha: the largest eigenvalue goes to the edge of the generalised
    Marchenko-Pastur law of the weights l''(<w, x>).

    On two blobs, at +- {DISTANCE:g} standard deviations, one eigenvalue leaves the bulk where the formula says.
    {" ".join(f"{case}: " + "; ".join(told(case, alpha) for alpha in ALPHAS) + "." for case in list(CASES)[1:])}
    The weights l'' are small where the blobs are: as |w| grows the outlier sinks, and with many parameters an example
    it is back in the bulk at |w| = 1."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""The Hessian of logistic regression on a single Gaussian blob has a bulk and no outlier; on two blobs
    one eigenvalue leaves it, at M / N = 0.02, 1 and 2, at w = 0; on the way to a trained w it may go back.""",
    source="""Sagun et al. (2017), appendix B and fig. 9 (10 in the other version of the preprint); bulk and outlier by
    Silverstein (1995)""",
    estimates="mean largest eigenvalue over growing M, at the three ratios, for one blob and two, at w = 0 and |w| = 1",
    reference="edge of the law with weights l''(<w, x>), or the z with z = E[t xi^2 / (1 - t m(z))]",
    bias="O(1/M) for an outlier, O(M^-2/3) for an edge: extrapolated with two powers.",
    draw=draw,
    judge=judge,
    theory=predicted,
    mutants={
        "outlier of the population": lambda *case: predicted(*case, corrected=False),
        "Marchenko-Pastur weights: l'' = 1/4 at every w": lambda alpha, distance, _: predicted(alpha, distance, 0.0),
    },
    disagreement="""The paper puts the outliers of fig. 9 at 454.4, 819.5 and 92.7 for alpha = 1, 2 and 0.02 but prints
    neither the distance of the blobs nor N; it says that the single blob is classical Marchenko-Pastur, which holds at
    w = 0 only.""",
)
