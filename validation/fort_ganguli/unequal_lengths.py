"""Fort and Ganguli, caption of fig. 5: whether unequal lengths of the mean logit gradients give C outliers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from validation import Claim, Outcome, exact, figures
from validation.fort_ganguli._draws import bulk_edge, eigenvalues, softmax, weighted_rows

RESIDUAL, PER_EXAMPLE, MARGIN = 0.5, 10 / 3, 7.0
"""sigma_E sqrt(D), D / N, and the Tracy-Widom units above the bulk's edge where counting begins."""
LENGTHS = {
    "equal": lambda c: np.ones(c),
    "0.7 to 3": lambda c: np.linspace(0.7, 3.0, c),
    "one ten times as long": lambda c: np.where(np.arange(c) == 0, 10.0, 1.0),
    "one zero": lambda c: np.where(np.arange(c) == 0, 0.0, 1.0),
}
CLASS_LENGTH = 3.0
"""Of class-conditional means."""
SIZES = {
    # Draws by N at C = 3, 5, at the paper's sizes, and of class-conditional means by N at C = 3.
    "smoke": ({30: 4, 60: 3, 120: 2}, 1, {100: 3, 200: 2}),
    "full": ({30: 100, 60: 60, 120: 40, 240: 20}, 20, {100: 40, 200: 20, 400: 10}),
}
CLASSES = (3, 5)


def exact_rank(matrix):
    """Rank of a matrix of fractions by elimination: no rounding."""
    rows, rank = [list(row) for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column] != 0), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column] / rows[rank][column]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


def rank_of_mean_part(lengths, num_examples, rng):
    """Rank of c^T P c in D = 2 C parameters, all numbers rational, probabilities random."""
    c = len(lengths)
    weights = rng.integers(1, 100, size=(num_examples, c)).tolist()
    p = [[Fraction(w, sum(row)) for w in row] for row in weights]
    mean = [[sum((q[k] * (k == m) - q[k] * q[m] for q in p), Fraction(0)) for m in range(c)] for k in range(c)]
    rows = rng.integers(-50, 51, size=(c, 2 * c)).tolist()
    rows = [
        [Fraction(float(length)).limit_denominator(1000) * x for x in row]
        for length, row in zip(lengths, rows, strict=True)
    ]
    half = [
        [sum((a * b for a, b in zip(row, column, strict=True)), Fraction(0)) for column in zip(*rows, strict=True)]
        for row in mean
    ]
    whole = [
        [sum((a * b for a, b in zip(i, j, strict=True)), Fraction(0)) for j in zip(*half, strict=True)]
        for i in zip(*rows, strict=True)
    ]
    return exact_rank(whole)


def one(num_examples, num_classes, num_parameters, sigma, lengths, rng, class_length=0.0):
    """Counts above the bulk under eqs. (16) and (10), C-th over the bulk's largest eigenvalue under both, spectrum."""
    n, c, d = num_examples, num_classes, num_parameters
    logits = sigma * rng.standard_normal((n, c))
    p = softmax(logits)
    means = lengths[:, None] * rng.standard_normal((c, d)) / np.sqrt(d)
    residuals = RESIDUAL * rng.standard_normal((n, c, d)) / np.sqrt(d)
    if class_length:
        of_class = class_length * rng.standard_normal((c, c, d)) / np.sqrt(d)
        means = means + of_class[rng.integers(c, size=n)]
    edge = bulk_edge(p, RESIDUAL, d)
    noise = weighted_rows(p, residuals)
    bulk = eigenvalues(noise)
    apart = eigenvalues(noise, weighted_rows(p, means))
    whole = eigenvalues(weighted_rows(p, means + residuals))
    start = edge.place + MARGIN * edge.scale
    counts = [int(np.sum(values > start)) for values in (apart, whole)]
    return counts, [apart[c - 1] / bulk[0], whole[c - 1] / bulk[0]], whole / start


def draw(scale, rng):
    sizes, paper, by_class = SIZES[scale]
    ranks = {(c, name): rank_of_mean_part(make(c), 4, rng) for c in (*CLASSES, 8) for name, make in LENGTHS.items()}
    counted = {
        (c, name, n): [one(n, c, round(PER_EXAMPLE * n), 2.0, make(c), rng) for _ in range(r)]
        for c in CLASSES
        for name, make in LENGTHS.items()
        for n, r in sizes.items()
    }
    name = "0.7 to 3"
    counted[10, name, 300] = [one(300, 10, 1000, 15.0, LENGTHS[name](10), rng) for _ in range(paper)]
    conditional = {
        n: [one(n, 3, 4 * n, 1.0, np.ones(3), rng, CLASS_LENGTH) for _ in range(r)] for n, r in by_class.items()
    }
    return ranks, counted, conditional


def judge(data, theory):
    ranks, counted, conditional = data
    checks = [
        exact(
            "exact rank of the mean part, rational numbers",
            list(ranks.values()),
            [theory(c, LENGTHS[name](c), 0.0) for c, name in ranks],
        )
    ]
    for name, make in LENGTHS.items():
        found, wanted, sizes = [], [], []
        for (c, which, n), draws in counted.items():
            if which == name:
                for counts, _, _ in draws:
                    found.append(counts)
                    wanted.append([theory(c, make(c), 0.0)] * 2)
                    sizes.append(n)
        checks.append(exact(f"lengths {name}: eigenvalues above the bulk", found, wanted, sizes=sizes))
    ratios = np.array([r for draws in counted.values() for _, r, _ in draws])
    above = float(np.sum(ratios > 1 + 1e-9))
    checks.append(exact("draws whose C-th eigenvalue is above the bulk's own largest", above, 0.0))
    sizes = [n for n, draws in conditional.items() for _ in draws]
    checks.append(
        exact(
            "class-conditional means: eigenvalues above the bulk",
            [counts[1] for draws in conditional.values() for counts, _, _ in draws],
            theory(3, np.ones(3), CLASS_LENGTH),
            sizes=sizes,
        )
    )

    def plot():
        figure, (left, right) = figures.panels(
            2, "C = 5: largest eigenvalues, C - 1 = 4 outliers", "C = 3: class-conditional means"
        )
        last = max(n for c, _, n in counted if c == CLASSES[-1])
        for colour, marker, name in zip(figures.COLOURS, "osv^", LENGTHS, strict=False):
            values = np.mean([v[:9] for _, _, v in counted[CLASSES[-1], name, last]], axis=0)
            left.plot(np.arange(1, 10), values, marker, ms=5, color=colour, label=f"lengths {name}")
        for colour, marker, (n, draws) in zip(figures.COLOURS, "osv", conditional.items(), strict=False):
            values = np.mean([v[:12] for _, _, v in draws], axis=0)
            right.plot(np.arange(1, 13), values, marker, ms=5, color=colour, label=f"N = {n}")
        for ax, rank in ((left, CLASSES[-1] - 1), (right, 6)):
            ax.axhline(1, color="black", lw=1.0, label="edge of the bulk")
            ax.axvline(rank + 0.5, color=figures.GREY, lw=0.8, ls=":")
            ax.set(xlabel="rank of the eigenvalue", ylabel=r"eigenvalue / edge of the bulk", yscale="log")
            figures.legend(ax)
        return figure

    fewest = min(n for _, _, n in counted)
    text = f"""Whatever the lengths, the mean part has rank C - 1 in exact arithmetic, also where one of them is zero,
    and every draw has C - 1 eigenvalues above the bulk, N from {fewest} up and at the paper's sizes. The C-th
    eigenvalue is never above the largest of the residual part of the same draw (at most {ratios.max():.4f} of it):
    that is a theorem, not a matter of size.

    Means that depend on the example's class too do give more: {theory(3, np.ones(3), CLASS_LENGTH)} = C(C - 1) at
    C = 3."""
    return Outcome(checks, text, plot)


def rank(num_classes, lengths, class_length):
    """C - 1, or C (C - 1) with class-conditional means; the law of the gradients does not matter."""
    return num_classes * (num_classes - 1) if class_length > 0 else num_classes - 1


def caption(num_classes, lengths, class_length):
    """As the caption of fig. 5 has it."""
    return num_classes if np.ptp(lengths) > 0 else rank(num_classes, lengths, class_length)


def by_nonzero(num_classes, lengths, class_length):
    """One less than there are means that are not zero."""
    return rank(num_classes, lengths, class_length) - int(np.sum(np.asarray(lengths) == 0))


CLAIM = Claim(
    statement="""The mean logit gradients give C - 1 outliers whether their lengths are equal or not. C outliers or more
    need means that depend on the example's class.""",
    source="Fort and Ganguli (2019), caption of fig. 5, corrected; section 3.2",
    estimates="""rank of the mean part in rational arithmetic; number of eigenvalues above the bulk in draws at growing
    N and D, four sets of lengths, with cross terms and without, and with class-conditional means""",
    reference="C - 1; C (C - 1) with class-conditional means",
    bias="None: an exact rank, and counts of which all draws have to agree.",
    draw=draw,
    judge=judge,
    theory=rank,
    mutants={
        "C outliers from unequal lengths": caption,
        "a mean that is zero costs an outlier": by_nonzero,
        "class-conditional means give C outliers": lambda c, lengths, s: c if s > 0 else rank(c, lengths, s),
    },
    disagreement="""The caption of fig. 5 says that mean logit gradients c_k of unequal lengths give C outliers (data
    not shown). They cannot: A_mu 1 = 0 for every example, so that P = (1/N) sum_mu A_mu has rank C - 1, and so has
    sum_kl c_k P_kl c_l whatever the c_k are. Nor do the cross terms help: with F = (1/N) sum_mu A_mu E_mu, whose
    columns lie in the range of P, the Hessian is that of the residuals plus (c + P^+ F)^T P (c + P^+ F) - F^T P^+ F, of
    which the first has rank C - 1 and the second lowers all eigenvalues; by Weyl's inequality the C-th eigenvalue is
    not above the largest of the residual part.""",
)
