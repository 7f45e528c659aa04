"""The deterministic equivalent of the model given its logits, against exact draws over thirty sets of parameters."""

from __future__ import annotations

import numpy as np

from rmtland.laws.fluctuations import covariance_of_powers, power_traces_of
from validation import Check, Claim, Outcome, exact, figures
from validation.fort_ganguli import _pairs

SETS = (
    # N, C, D, sigma_z, SNR and draws at full scale; those that smoke takes come first.
    (50, 2, 100, 1.0, 2.0, 2000),
    (50, 3, 400, 3.0, 10.0, 2000),
    (60, 4, 300, 1.0, 0.5, 1500),
    (80, 3, 100, 15.0, 10.0, 2000),
    (50, 5, 1000, 0.1, 2.0, 1000),
    (150, 3, 10**6, 1.0, 0.5, 600),
    (200, 2, 1000, 15.0, 2.0, 800),
    (100, 4, 10**5, 3.0, 2.0, 300),
    (50, 10, 2000, 1.0, 10.0, 150),
    (100, 5, 200, 0.1, 10.0, 400),
    (120, 10, 500, 3.0, 2.0, 150),
    (200, 10, 10_000, 15.0, 10.0, 120),
    (300, 10, 1000, 1.0, 2.0, 40),
    (300, 10, 1000, 15.0, 0.5, 60),
    (250, 5, 10**6, 3.0, 2.0, 60),
    (300, 3, 3000, 0.1, 0.5, 150),
    (50, 30, 1000, 3.0, 2.0, 40),
    (50, 100, 300, 1.0, 2.0, 40),
    (60, 100, 2000, 1.0, 10.0, 16),
    (100, 50, 1000, 1.0, 2.0, 30),
    (100, 20, 10**5, 15.0, 2.0, 120),
    (500, 5, 500, 3.0, 0.5, 120),
    (600, 2, 10**6, 1.0, 2.0, 60),
    (1000, 2, 3000, 0.1, 0.5, 60),
    (1000, 4, 200, 1.0, 2.0, 150),
    (1000, 10, 300, 15.0, 2.0, 60),
    (2000, 3, 1000, 3.0, 2.0, 40),
    (2000, 5, 100, 0.1, 2.0, 200),
    (5000, 2, 1000, 1.0, 0.5, 40),
    (5000, 3, 150, 15.0, 10.0, 150),
)
SMOKE = {0: 300, 1: 300, 2: 250, 3: 300, 4: 150, 5: 60, 6: 120, 7: 30}
"""Draws at smoke scale, by place in SETS."""
QUANTILES = 0.25
"""C - 1 equal spikes fluctuate like the eigenvalues of a Gaussian matrix; the means of these are up to so much /
sqrt(D) from the quantiles of their semicircle (C from 2 to 100, by draws of that matrix)."""


def draw(scale, rng):
    chosen = SMOKE if scale == "smoke" else {i: row[-1] for i, row in enumerate(SETS)}
    pairs = []
    for (i, draws), child in zip(chosen.items(), rng.spawn(len(chosen)), strict=True):
        model = _pairs.given_model(*SETS[i][:5], child)
        pairs.append(_pairs.draw_pair(model, SETS[i][3], draws, child))
    return pairs


def ratio_shift(theory):
    """E tr / norm over tr / root of E norm^2, less 1, to second order in the two, of their exact covariance."""
    (traces, _), d = power_traces_of(theory.equation), theory.num_parameters
    trace, square = d * traces[0], d * traces[0] ** 2 + d * (d + 1) * traces[1]
    _, mixed, second = covariance_of_powers(traces, d)
    return -mixed / (2 * trace * square) + 3 * second / (8 * square**2)


def against(name, samples, expected, bias, detect, sizes, note=""):
    """Means of draws, a list over sets, against numbers."""
    mean = [s.mean() for s in samples]
    error = [s.std(ddof=1) / np.sqrt(len(s)) for s in samples]
    return Check(name, mean, error, expected, bias, detect, sizes, note)


def judge(data, theory_of):
    theories = [theory_of(pair.model) for pair in data]
    sizes = [[p.model.num_examples, p.model.num_classes, p.model.num_parameters] for p in data]
    n, c, d = np.array(sizes, dtype=float).T
    small = 1 / n + 1 / d
    pairs = list(zip(data, theories, strict=True))
    outliers = [t.outliers() for t in theories]
    q = np.array([t.gradient_power(p.model.num_classes - 1) for p, t in pairs])
    shift = np.array([ratio_shift(t) for t in theories])
    counted, gaps = [], []
    for pair, theory in pairs:
        for gap in _pairs.wide_gaps(theory):
            counted += (pair.top > gap.level).sum(axis=1).tolist()
            gaps += [gap.count] * len(pair.top)
    each = [p.outliers / o for p, o in zip(data, outliers, strict=True)]
    worst = [int(np.argmax(np.abs(e.mean(axis=0) - 1))) for e in each]
    # Squares of deviations in units of the predicted ones, over all sets together; C - 1 outliers weigh as one.
    units = {
        "outliers": [np.mean(unit_squares(p.outliers, t.outliers_std()), axis=1) for p, t in pairs],
        "gradient power": [unit_squares(p.power, t.gradient_power_std(p.model.num_classes - 1)) for p, t in pairs],
        "ratio": [unit_squares(p.ratio, t.goldilocks_ratio_std()) for p, t in pairs],
    }
    checks = [
        against(
            "trace over its prediction", [p.trace / t.trace for p, t in pairs], 1, 1e-12, 0.25, sizes, "no bias: exact"
        ),
        against(
            "mean outlier over its prediction",
            [p.outliers.mean(axis=1) / o.mean() for p, o in zip(data, outliers, strict=True)],
            1, 0.5 * small, 0.3, sizes, "bias O(1/N^2 + 1/D^2), bounded by (1/N + 1/D) / 2",
        ),
        against(
            "the outlier farthest from its prediction, over that",
            [e[:, j] for e, j in zip(each, worst, strict=True)],
            1, QUANTILES / np.sqrt(d) + 0.5 * small, 0.4, sizes,
            "bias: quantiles for means, at most 0.25 / sqrt(D), for equal spikes",
        ),
        against(
            "gradient power in the top C - 1 eigenvectors",
            [p.power for p in data],
            q - 2 * q * (1 - q) / d, q * (1 - q) / d + 0.1 * small, 0.12, sizes, "bias -2 q (1 - q) / D, derived",
        ),
        against(
            "ratio over its prediction",
            [p.ratio / t.goldilocks_ratio() for p, t in pairs],
            1 + shift, 0.5 * np.abs(shift) + 0.1 * small, 0.1, sizes, "bias of a ratio of means, to second order",
        ),
        exact("eigenvalues above levels in gaps", counted, gaps),
        *(
            against(
                f"squared deviation over the predicted variance: {name}", [np.concatenate(squares)], 1, bias, 1.0, None,
                "all sets together",
            )
            for (name, squares), bias in zip(units.items(), (0.1, 0.05, 0.25), strict=True)
        ),
    ]  # fmt: skip
    error = [abs(e[:, j].mean() - 1) for e, j in zip(each, worst, strict=True)]
    spread = [f"{check.estimate[0]:.3f} +- {check.standard_error[0]:.3f}" for check in checks[-3:]]
    draws = sum(len(p.power) for p in data)
    conclusions = f"""Over {len(data)} sets with N = {n.min():.0f}..{n.max():.0f}, C = {c.min():.0f}..{c.max():.0f} and
    D = {d.min():.0f}..{d.max():.0f}, theory and {draws} draws on the same logits and labels: the mean outlier is within
    {100 * np.abs(checks[1].error).max():.2f}%, single outliers within {100 * max(error):.1f}% (at D =
    {d[int(np.argmax(error))]:.0f}), the gradient's power within {np.abs(checks[3].estimate - q).max():.4f}, the ratio
    within {100 * np.abs(checks[4].estimate - 1).max():.2f}%, noise included; {len(gaps)} counts in gaps are right to
    the unit.

    Predicted standard deviations hold too: mean squared deviation over predicted variance {spread[0]} for the outliers,
    {spread[1]} for the power, {spread[2]} for the ratio."""

    def plot():
        figure, axes = figures.panels(3, "mean outlier", "gradient power above the bulk", "trace over norm")
        places = np.arange(len(data))
        for ax, check, scale in zip(axes, (checks[1], checks[3], checks[4]), (100.0, 1.0, 100.0), strict=True):
            middle = 1.0 if scale == 100 else q
            figures.points(
                ax, places, scale * (check.estimate - middle), scale * check.standard_error, figures.COLOURS[0]
            )
            derived = scale * (check.expected - middle)
            ax.plot(places, derived, "_", ms=9, mew=1.6, color=figures.COLOURS[1], label="derived bias")
            ax.set_xticks(places[:: max(1, len(places) // 10)])
            ax.set_xlabel("set, in the order of the table of results")
        axes[0].set_ylabel("draws less theory, %")
        axes[1].set_ylabel("draws less theory, share of |gradient|$^2$")
        axes[2].set_ylabel("draws less theory, %")
        figures.legend(axes[1])
        return figure

    return Outcome(checks, conclusions, plot)


def unit_squares(samples, deviation):
    """Squared deviations from the draws' own mean, without its bias, in units of predicted variances."""
    return (samples - samples.mean(axis=0)) ** 2 * (len(samples) / (len(samples) - 1)) / np.square(deviation)


CLAIM = Claim(
    statement="""Given logits and labels, the spectrum of the model's Hessian and its gradient follow from one
    generalised Marchenko-Pastur equation: outliers, the gradient's power in them, trace, Goldilocks ratio, counts in
    gaps, and the standard deviations of these over draws of the logit gradients.""",
    source="Fort and Ganguli (2019), section 3, eq. (10); Silverstein and Bai (1995), eq. (1.4); this package",
    estimates="""means and variances over draws of the reduced sampler, which is exact in law, on fixed logits and
    labels""",
    reference="the theory of the same logits and labels",
    bias="""Trace: none. Power: -2 q (1 - q) / D, the mean of a ratio. Ratio: second order of the delta method with the
    exact covariance of trace and squared norm. Mean outlier: the law's own term of first order, (1/2) log(m^2 dz/dm)
    integrated around the outliers, is 0 numerically where they have a gap, and quantiles for means leave O(1/D):
    (1/N + 1/D) / 2 is allowed. Single outliers: 0.25 / sqrt(D) at most for equal spikes, for the same reason.""",
    draw=draw,
    judge=judge,
    theory=_pairs.THEORY,
    mutants=_pairs.MUTANTS,
)
