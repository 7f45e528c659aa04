"""Fort and Ganguli, sec. 3.1: outliers of the G-term are there while the H-term is small, and are swallowed beyond."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, figures, limit
from validation.fort_ganguli._draws import logit_hessians, softmax, weighted_rows

CLASSES, RESIDUAL, SIGMA_Z = 3, 0.7, 1.0
FACTORS = (0.3, 0.6, 1.6)
"""sigma_H over the eigenvalues of the mean part: the weakest for those below 1, the strongest for that above."""
SIZES = {
    "smoke": {50: 400, 100: 200, 200: 100, 400: 30},
    "full": {50: 4000, 100: 2000, 200: 1000, 400: 400, 800: 80},
}


def symmetric(size, rng):
    """Off-diagonal variance 1 / size, twice that on the diagonal."""
    x = rng.standard_normal((size, size))
    return (x + x.T) / np.sqrt(2 * size)


def draw(scale, rng):
    data = {}
    for d, draws in SIZES[scale].items():
        n = d // 2
        logits = SIGMA_Z * rng.standard_normal((n, CLASSES))
        p = softmax(logits)
        strengths = np.linalg.eigvalsh(logit_hessians(p).mean(axis=0))[1:]
        scales = [f * (strengths.min() if f < 1 else strengths.max()) for f in FACTORS]
        tops = np.empty((draws, len(FACTORS), CLASSES - 1))
        for i in range(draws):
            gradients = rng.standard_normal((n, CLASSES, d)) * RESIDUAL / np.sqrt(d)
            rows = weighted_rows(p, gradients + rng.standard_normal((CLASSES, d)) / np.sqrt(d))
            g, h = rows.T @ rows, symmetric(d, rng)
            for j, sigma_H in enumerate(scales):
                tops[i, j] = np.linalg.eigvalsh(g + sigma_H * h)[:-CLASSES:-1]
        data[d] = logits, np.array(scales), tops
    return data


def judge(data, theory):
    sizes = np.array(sorted(data))
    told = {d: [theory(logits, d, s) for s in scales] for d, (logits, scales, _) in data.items()}
    checks, rows = [], {}
    for j, factor in enumerate(FACTORS):
        apart = factor < 1
        samples = [data[d][2][:, j].mean(axis=1) if apart else data[d][2][:, j, 0] for d in sizes]
        expected = np.array([told[d][j][0].mean() if apart else told[d][j][1] for d in sizes])
        ratio = np.array([s.mean() for s in samples]) / expected
        error = np.array([s.std(ddof=1) / s.size**0.5 for s in samples]) / expected
        rows[factor] = ratio, error
        if apart:
            name = f"sigma_H {factor:g} of the weakest: mean outlier over the theory's"
            checks.append(limit(name, sizes, ratio, error, 1.0, powers=(1.0,), detect=0.08))
        else:
            # A spike below its threshold adds orders D^(-1) and so on to the edge's D^(-2/3).
            name = f"sigma_H {factor:g} of the strongest: top eigenvalue over the bulk's edge"
            checks.append(limit(name, sizes, ratio, error, 1.0, powers=(2 / 3, 1.0), detect=0.2))

    def plot():
        figure, (left, right) = figures.panels(2, "apart from the bulk", "swallowed")
        for colour, (factor, (ratio, error)) in zip(figures.COLOURS, rows.items(), strict=False):
            ax = left if factor < 1 else right
            figures.points(ax, sizes, ratio, error, colour, rf"$\sigma_H$ = {factor:g} $\theta$")
        for ax, label in ((left, "mean outlier / theory"), (right, "top eigenvalue / bulk edge")):
            ax.axhline(1, color="black", lw=1.2)
            ax.set(xlabel="parameters $D$", ylabel=label)
            figures.log_sizes(ax, sizes, log_values=False)
            figures.legend(ax)
        return figure

    shifts = [told[sizes[-1]][j][0].mean() / theory(data[sizes[-1]][0], sizes[-1], 0.0)[0].mean() - 1 for j in (0, 1)]
    text = f"""An independent Wigner matrix of scale sigma_H takes the outliers up, by {100 * shifts[0]:.0f}% and
    {100 * shifts[1]:.0f}% where it is 0.3 and 0.6 of the weakest eigenvalue of the mean part, as free convolution with
    a semicircle says: {checks[0].estimate:.3f} +- {checks[0].standard_error:.3f} and {checks[1].estimate:.3f} +-
    {checks[1].standard_error:.3f} of the theory in the limit.

    At 1.6 of the strongest one no eigenvalue is left outside: the largest tends to the edge of the bulk,
    {checks[2].estimate:.3f} +- {checks[2].standard_error:.3f} of it."""
    return Outcome(checks, text, plot)


def with_h_term(logits, num_parameters, sigma_H):
    """Outliers, and the edge of the bulk."""
    model = rl.LandscapeModel(
        len(logits), CLASSES, num_parameters, rl.GivenLogits(logits, np.zeros(len(logits), dtype=np.int64)),
        rl.ClusteredGradients(1.0, RESIDUAL), sigma_H,
    )  # fmt: skip
    theory = model.theory()
    return theory.outliers(), theory.bulk_edge


def side_by_side(logits, num_parameters, sigma_H):
    """The union of both spectra, as if eigenvalues did not repel."""
    outliers, edge = with_h_term(logits, num_parameters, 0.0)
    return outliers, max(edge, 2 * sigma_H)


CLAIM = Claim(
    statement="""The outliers of the Hessian are those of its G-term as long as the H-term is small; as its scale grows,
    its bulk expands and swallows them. For an independent Wigner matrix the outliers lie where free convolution puts
    them and are gone from sigma_H^2 = theta^2 (1 - sum_i t_i^2 / (theta - t_i)^2 / D) on.""",
    source="Fort and Ganguli (2019), sec. 3.1, in words; Pastur (1972), Capitaine et al. (2011) for the formulas",
    estimates="mean of the C - 1 largest eigenvalues, or the largest, of dense G + sigma_H W at growing D = 2N",
    reference="the theory given the same logits: quantiles of the counting function, and the edge of the bulk",
    bias="O(1/D) for the outliers, O(D^(-2/3)) at the edge, fitted along",
    draw=draw,
    judge=judge,
    theory=with_h_term,
    mutants={
        "an H-term that only stands beside": side_by_side,
        "twice the variance": lambda logits, d, sigma_H: with_h_term(logits, d, 2**0.5 * sigma_H),
        "half the variance": lambda logits, d, sigma_H: with_h_term(logits, d, 0.5**0.5 * sigma_H),
    },
)
