"""Fort and Ganguli, section 3.2: clustering of logit gradients at a given signal-to-noise ratio."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln, hyp2f1

import rmtland as rl
from validation import Check, Claim, Outcome, exact, figures, limit, rate
from validation.sampling import controlled_mean

SNRS = (0.25, 1 / 0.49, 8.0)
CLASSES, EXAMPLES = 3, 4
"""Of the small draws; neither enters the mean of q_SL."""
SIZES = {
    "smoke": ({8: 6_000, 16: 6_000, 32: 4_000, 64: 3_000, 128: 1_500}, 3),
    "full": ({8: 100_000, 16: 100_000, 32: 60_000, 64: 40_000, 128: 20_000, 256: 10_000}, 30),
}


def correlation(snr):
    """q_SL for many parameters."""
    return snr / (1 + snr)


def finite(q, d):
    """E cos of two Gaussian vectors in R^d whose components have the correlation q (Hotelling 1953)."""
    root = math.exp(2 * (gammaln((d + 1) / 2) - gammaln(d / 2)))
    return 2 * q / d * root * float(hyp2f1(0.5, 0.5, d / 2 + 1, q * q))


def small_draws(snr, d, draws, rng):
    """q_SL and q_DL over all pairs, and controls of mean zero: J = c + E of variance 1, (draws,), (draws,), (draws, 2).

    Every pair is taken, none by a one-pass formula.
    """
    q = snr / (1 + snr)
    same, different, controls = [], [], []
    for block in np.array_split(np.arange(draws), max(1, draws * d // 100_000)):
        shape = (block.size, CLASSES, EXAMPLES, d)
        j = math.sqrt(q) * rng.standard_normal((*shape[:2], 1, d)) + math.sqrt(1 - q) * rng.standard_normal(shape)
        rows = j.reshape(block.size, CLASSES * EXAMPLES, d)
        inner = rows @ rows.transpose(0, 2, 1)
        lengths = np.sqrt(np.einsum("bii->bi", inner))
        shape = (block.size, CLASSES, EXAMPLES, CLASSES, EXAMPLES)
        cosines = (inner / lengths[:, :, None] / lengths[:, None, :]).reshape(shape)
        inner = inner.reshape(shape) / d
        others, own = ~np.eye(EXAMPLES, dtype=bool), np.eye(CLASSES, dtype=bool)
        of_pairs = cosines.transpose(0, 1, 3, 2, 4)[..., others].mean(axis=-1)
        products = inner.transpose(0, 1, 3, 2, 4)[:, own][..., others].mean(axis=(1, 2))
        same.append(of_pairs[:, own].mean(axis=1))
        different.append(of_pairs[:, ~own].mean(axis=1))
        squares = np.einsum("bkmkm->b", inner) / (CLASSES * EXAMPLES)
        controls.append(np.stack([products - q, squares - 1], axis=1))
    return np.concatenate(same), np.concatenate(different), np.concatenate(controls)


def draw(scale, rng):
    sizes, draws = SIZES[scale]
    small = {(snr, d): small_draws(snr, d, n, rng) for snr in SNRS for d, n in sizes.items()}
    model = rl.LandscapeModel.fort_ganguli()
    paper = [rl.clustering(model.sample(child), num_bootstrap=0) for child in rng.spawn(draws)]
    return small, np.array([[q.same_logit, q.same_logit_same_class, q.different_logits] for q in paper])


def judge(data, theory):
    small, paper = data
    limit_of, constant, spread_of = theory
    sizes = np.array(sorted({d for _, d in small}))
    checks, lines = [], {}
    for snr in SNRS:
        q, name = correlation(snr), f"SNR {snr:.3g}"
        mean, error = np.array([controlled_mean(small[snr, d][0], small[snr, d][2]) for d in sizes]).T
        lines[snr] = mean, error
        off = q * (1 - q * q) / 2
        checks += [
            limit(f"{name}: limit of q_SL", sizes, mean, error, limit_of(snr), powers=(1.0, 2.0), detect=0.05),
            limit(
                f"{name}: D (q_SL - limit)",
                sizes,
                sizes * (mean - q),
                sizes * error,
                constant(q),
                powers=(1.0,),
                detect=off,
            ),
            rate(f"{name}: rate of q_SL", sizes, mean - q, error, 1.0, detect=0.8, bias=0.1),
            Check(
                f"{name}: q_SL at each D",
                mean,
                error,
                [finite(q, d) for d in sizes],
                0.0,
                0.05,
                sizes,
                "E cos of two Gaussian vectors, exact",
            ),
        ]
        values = [small[snr, d][1] for d in sizes]
        mean = np.array([v.mean() for v in values])
        spread = np.array([np.sqrt(np.mean(v**2)) for v in values])
        draws = np.array([v.size for v in values])
        # s.d. of the s.d. by the fourth moment, as q_DL is no normal variable at small D.
        wobble = np.array([np.sqrt((np.mean(v**4) / np.mean(v**2) ** 2 - 1) / v.size) / 2 for v in values]) * spread
        checks += [
            Check(f"{name}: q_DL over its s.d.", mean / spread, draws**-0.5, 0.0, 0.0, 0.5, sizes),
            Check(
                f"{name}: s.d. of q_DL times sqrt(D)",
                spread * sizes**0.5,
                wobble * sizes**0.5,
                [spread_of(finite(q, d), CLASSES, EXAMPLES) for d in sizes],
                0.0,
                0.5 * spread_of(q, CLASSES, EXAMPLES),
                sizes,
            ),
            rate(f"{name}: rate of q_DL", sizes, spread, wobble, 0.5, detect=0.4, bias=0.05),
        ]
        lines[snr] += (spread, wobble)
    snr = rl.LandscapeModel.fort_ganguli().snr
    q = correlation(snr)
    n, c, d = 300, 10, 1000
    # All pairs of examples share c_k, whose length and direction make the spread: s.d. of q_SL below 2/sqrt(C D).
    wide = 2 / math.sqrt(c * d) / len(paper) ** 0.5
    checks.append(
        Check(
            "paper's parameters: q_SL and q_SLSC",
            paper[:, :2].mean(axis=0),
            wide,
            limit_of(snr),
            q * (1 - q * q) / 2 / d,
            0.2,
            note="s.d. at most 2 / sqrt(C D), as c_k alone is shared by all examples",
        )
    )
    apart = spread_of(finite(q, d), c, n) / math.sqrt(d)
    checks.append(Check("paper's parameters: q_DL", paper[:, 2].mean(), apart / len(paper) ** 0.5, 0.0, 0.0, 0.1))
    checks.append(exact("paper's parameters: q_SL prints as 0.67", round(limit_of(snr), 2), 0.67))

    def plot():
        figure, (left, right) = figures.panels(2, r"same logit: $q^{SL}$ less its limit", r"different logits: $q^{DL}$")
        for colour, (snr, (mean, error, spread, wobble)) in zip(figures.COLOURS, lines.items(), strict=False):
            q = correlation(snr)
            label = f"SNR = {snr:.3g}, limit {q:.3f}"
            figures.convergence(left, sizes, mean - q, error, colour, label, lambda d, q=q: constant(q) / d)
            figures.convergence(
                right,
                sizes,
                spread,
                wobble,
                colour,
                f"SNR = {snr:.3g}",
                lambda d, q=q: spread_of(q, CLASSES, EXAMPLES) / math.sqrt(d),
            )
        left.set(xlabel="parameters $D$", ylabel=r"limit less $E\,q^{SL}$; lines: $q(1-q^2)/(2D)$")
        right.set(xlabel="parameters $D$", ylabel=r"s.d. of $q^{DL}$; lines: derived, $D^{-1/2}$")
        figures.legend(left)
        figures.legend(right)
        return figure

    found = "; ".join(
        f"SNR {snr:.3g}: {checks[7 * i].estimate:.4f} +- {checks[7 * i].standard_error:.5f} ({correlation(snr):.4f})"
        for i, snr in enumerate(SNRS)
    )
    text = f"""q_SL extrapolates to SNR/(1 + SNR) ({found}). At D parameters it is too small by q(1 - q^2)/(2 D), the
    cosine of two correlated Gaussian vectors, whatever N and C are; {q * (1 - q * q) / 2 / d:.5f} at the paper's D.

    q_DL has mean zero exactly and a standard deviation that falls like D^-1/2: at the paper's parameters {apart:.4f}.
    There q_SL is {paper[:, 0].mean():.4f} in draws, their 0.67, and q_SLSC {paper[:, 1].mean():.4f}: the model has no
    clustering by class, which networks do have."""
    return Outcome(checks, text, plot)


def spread(q, num_classes, num_examples):
    """sqrt(D) times the s.d. of q_DL, exact with q = E cos of one logit's gradients.

    Pairs (k, mu), (l, nu) share one, both or no example with another pair: E (u.v)(u'.v') = E u.u' E v.v' / D.
    """
    n = num_examples
    pairs = n * (n - 1)
    shared = 2 * pairs * (n - 2)
    total = pairs + q * shared + q * q * (pairs**2 - pairs - shared)
    return math.sqrt(2 / (num_classes * (num_classes - 1)) * total) / pairs


def constant(q):
    """Limit of D (E q_SL - q)."""
    return -q * (1 - q * q) / 2


CLAIM = Claim(
    statement="""Logit gradients c_k + E with SNR = sigma_c^2 / sigma_E^2 cluster by logit, q_SL = SNR/(1 + SNR), and
    those of different logits are orthogonal, q_DL = 0, as D grows; 0.67 at the paper's parameters.""",
    source="Fort and Ganguli (2019), eqs. (11)-(13), section 3.2, and section 4, first paragraph",
    estimates="""mean of q_SL and standard deviation of q_DL over all pairs, D from 8 up, at three SNR; both in draws
    of the paper's sizes""",
    reference="SNR/(1 + SNR); mean zero and the derived standard deviation of q_DL, of order D^(-1/2)",
    bias="""q_SL: -q (1 - q^2)/(2 D) + O(D^-2), the mean cosine of two Gaussian vectors of correlation q, which
    Hotelling's formula has exactly; any pair has it, so that N and C do not matter. q_DL: none, by symmetry.""",
    draw=draw,
    judge=judge,
    theory=(correlation, constant, spread),
    mutants={
        "ratio of lengths instead of squares": (lambda snr: snr**0.5 / (1 + snr**0.5), constant, spread),
        "cosine with the mean": (lambda snr: math.sqrt(snr / (1 + snr)), constant, spread),
        "bias of a share of power, -2 q (1 - q)": (correlation, lambda q: -2 * q * (1 - q), spread),
        "q_DL as if examples were independent": (
            correlation,
            constant,
            lambda q, c, n: math.sqrt(2 / (c * (c - 1) * n * (n - 1))),
        ),
    },
)
