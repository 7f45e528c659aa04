"""Fort and Ganguli, fig. 5: the bulk and C - 1 outliers, and fewer at low signal-to-noise ratio."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import rmtland as rl
from rmtland.laws.tracy_widom import TracyWidom
from validation import Claim, Outcome, exact, figures, limit
from validation.fort_ganguli._draws import Edge, bulk_edge, eigenvalues, logit_hessians, softmax, weighted_rows

RESIDUAL, SIGMA, PER_EXAMPLE = 0.7, 2.0, 10 / 3
"""sigma_E sqrt(D), sigma_z and D / N of the growing draws."""
MARGIN = 7.0
"""Tracy-Widom units above the edge where counting begins: the bulk reaches there once in a million draws."""
CASES = ("none", "some", "all")
FACTOR = 4.0
"""By how much the SNR is below or above the transition."""
SIZES = {
    # Draws by N: at each number of classes and case; of the bulk alone at 5 classes; at the paper's sizes.
    "smoke": ({30: 4, 60: 3, 120: 2}, {20: 1000, 40: 500, 80: 180}, 1),
    "full": ({30: 60, 60: 40, 120: 30, 240: 12}, {20: 8000, 40: 4000, 80: 2000, 160: 500}, 20),
}
CLASSES = (3, 5, 10)


class Drawn(NamedTuple):
    """One draw: its model given the logits, and the counts under eqs. (16) and (10)."""

    model: Any
    counts: tuple[int, int]
    top: float  # largest eigenvalue of eq. (16)
    edge: Edge


def one(num_examples, num_classes, num_parameters, sigma, case, rng):
    """A draw whose SNR is chosen by the logits: all, none or some directions of the mean part above the threshold."""
    n, c, d = num_examples, num_classes, num_parameters
    logits = sigma * rng.standard_normal((n, c))
    p = softmax(logits)
    edge = bulk_edge(p, RESIDUAL, d)
    # Some: half of the logits have short means, so that their directions stay in the bulk.
    lengths = np.where(np.arange(c) < c // 2, 1.0, 0.1 if case == "some" else 1.0)
    strengths = np.linalg.eigvalsh(lengths[:, None] * logit_hessians(p).mean(axis=0) * lengths)[:0:-1]
    if case == "paper":
        square = 1.0
    elif case == "some":
        square = edge.threshold / np.sqrt(strengths[c // 2 - 1] * strengths[c // 2])
    else:
        square = edge.threshold * (1 / FACTOR / strengths[0] if case == "none" else FACTOR / strengths[-1])
    means = np.sqrt(square / d) * lengths[:, None] * rng.standard_normal((c, d))
    residuals = RESIDUAL / np.sqrt(d) * rng.standard_normal((n, c, d))
    apart = eigenvalues(weighted_rows(p, residuals), weighted_rows(p, means))
    whole = eigenvalues(weighted_rows(p, means + residuals))
    start = edge.place + MARGIN * edge.scale
    model = rl.LandscapeModel(
        n, c, d, rl.GivenLogits(logits, p.argmax(axis=1)),
        rl.ClusteredGradients(np.sqrt(square), RESIDUAL, relative_lengths=tuple(lengths)),
    )  # fmt: skip
    return Drawn(model, (int(np.sum(apart > start)), int(np.sum(whole > start))), float(apart[0]), edge)


def draw(scale, rng):
    sizes, alone, paper = SIZES[scale]
    counted = {
        (c, n, case): [one(n, c, round(PER_EXAMPLE * n), SIGMA, case, rng) for _ in range(r)]
        for c in CLASSES
        for n, r in sizes.items()
        for case in CASES
    }
    bulk = {}
    for n, r in alone.items():
        d = round(PER_EXAMPLE * n)
        rows = []
        for _ in range(r):
            p = softmax(SIGMA * rng.standard_normal((n, 5)))
            y = weighted_rows(p, RESIDUAL / np.sqrt(d) * rng.standard_normal((n, 5, d)))
            rows.append((eigenvalues(y)[0], *bulk_edge(p, RESIDUAL, d)[:2]))
        bulk[n] = np.array(rows).T
    return counted, bulk, [one(300, 10, 1000, 15.0, "paper", rng) for _ in range(paper)]


def judge(data, theory):
    counted, bulk, paper = data
    checks, found = [], {}
    for case in CASES:
        worst, wanted, sizes = [], [], []
        for (c, n, which), draws in counted.items():
            if which != case:
                continue
            both = np.array([d.counts for d in draws])
            expected = np.array([[theory(d.model, crossed)[1] for crossed in (False, True)] for d in draws])
            # The draw that is furthest off, under each equation.
            place = np.argmax(np.abs(both - expected), axis=0)
            worst.append(both[place, [0, 1]])
            wanted.append(expected[place, [0, 1]])
            sizes.append(n)
            found[c, n, case] = both, expected
        checks.append(exact(f"{case} above the transition: eigenvalues above the bulk", worst, wanted, sizes=sizes))
    counts = [both for (c, _, case), (both, _) in found.items() if case == "all" for both in both - (c - 1)]
    checks.append(exact("all above the transition: count less C - 1, all draws", np.ravel(counts), 0.0))
    ours = np.array([d.counts for d in paper])
    theirs = np.array([[theory(d.model, crossed)[1] for crossed in (False, True)] for d in paper])
    checks.append(exact("the paper's sizes: eigenvalues above the bulk", ours, theirs))

    edges = [[theory(d.model, False)[0], d.edge.place] for d in [v[0] for v in counted.values()] + paper]
    given, own = np.array(edges).T
    checks.append(exact("edge of the bulk, relative to that of the atoms one by one", given / own, 1.0, tolerance=1e-6))
    sizes = np.array(list(bulk))
    units = [(top - edge) / scale for top, edge, scale in bulk.values()]
    mean = np.array([u.mean() for u in units])
    error = np.array([u.std() / u.size**0.5 for u in units])
    checks.append(
        limit(
            "bulk alone: largest eigenvalue in Tracy-Widom units",
            sizes,
            mean,
            error,
            TracyWidom(1).mean(),
            powers=(1 / 3,),
            detect=4.0,
        )
    )
    distance = [(1 - top / edge) for top, edge, _ in bulk.values()]
    below = np.array([v.mean() for v in distance])
    width = np.array([v.std() / v.size**0.5 for v in distance])

    def plot():
        figure, (left, right) = figures.panels(2, "eigenvalues above the bulk", "bulk alone: largest eigenvalue")
        shifts = dict(zip(CLASSES, (0.96, 1.0, 1.04), strict=True))
        for colour, c in zip(figures.COLOURS, CLASSES, strict=False):
            for marker, case in zip("vso", CASES, strict=True):
                places = [n for k, n, which in found if (k, which) == (c, case)]
                values = [found[c, n, case][0].mean() for n in places]
                left.plot(np.array(places) * shifts[c], values, marker, ms=5, color=colour)
            left.axhline(c - 1, color=colour, lw=1.0, label=f"C = {c}")
        for marker, label in zip("vso", ("none above", "half the lengths above", "all above"), strict=True):
            left.plot([], [], marker, ms=5, color="black", label=label)
        left.set(xlabel="examples $N$", ylabel="eigenvalues above the bulk; lines: $C-1$", ylim=(-0.5, 14))
        figures.log_sizes(left, [n for _, n, _ in found], log_values=False)
        figures.legend(left, ncols=2, loc="upper left")
        units = np.array([(scale / edge).mean() for _, edge, scale in bulk.values()]) * -TracyWidom(1).mean()
        figures.convergence(right, of_bulk, below, width, figures.COLOURS[0], "draws")
        right.plot(of_bulk, units, color=figures.COLOURS[0], lw=1.2)
        right.set(xlabel="examples $N$", ylabel=r"1 - $E\,\lambda_1$ / edge; line: Tracy-Widom")
        figures.legend(right)
        return figure

    of_bulk = sizes
    fewest = min(n for _, n, _ in found)
    snr = np.mean([d.model.theory(cross_terms=False).transition_snr()[[0, -1]] for d in paper], axis=0)
    text = f"""Where the weakest direction of the mean part is {FACTOR:g} times above the threshold, every draw has
    exactly C - 1 eigenvalues above the bulk, C = {", ".join(map(str, CLASSES))} and N from {fewest} up,
    with cross terms and without; {FACTOR:g} times below it, none; with half of the means short, as many as there are
    long ones.

    The paper's sizes give {ours[0, 0]}: there the outliers leave the bulk between SNR {snr[0]:.3f} and {snr[1]:.3f},
    far below its 2.04. The bulk ends where the derived edge is, its largest eigenvalue at
    {checks[-1].estimate:.2f} +- {checks[-1].standard_error:.2f} Tracy-Widom units from it as N grows (mean of the law
    -1.21)."""
    return Outcome(checks, text, plot)


def predicted(model, cross_terms):
    """Edge of the bulk, and how many outliers stand apart from it."""
    theory = model.theory(cross_terms=cross_terms)
    return theory.bulk_edge, int(np.sum(theory.transition_snr() < model.snr))


def marchenko_pastur(model, cross_terms):
    """Edge as if all eigenvalues of the A_mu were the same."""
    n, c, d = model.num_examples, model.num_classes, model.num_parameters
    trace = np.trace(logit_hessians(softmax(model.logits.logits)).mean(axis=0)) * RESIDUAL**2
    return trace / d * (1 + np.sqrt(d / (n * (c - 1)))) ** 2, predicted(model, cross_terms)[1]


CLAIM = Claim(
    statement="""The Hessian of the model has a bulk and exactly C - 1 outliers at high SNR = sigma_c^2 / sigma_E^2.
    Below a transition the outliers are in the bulk: each direction of the mean part leaves it where its strength
    passes a threshold.""",
    source="""Fort and Ganguli (2019), property 1 of section 4, fig. 5, and the end of section 3.2; Baik, Ben Arous and
    Peche (2005); Bai and Yao (2012)""",
    estimates="""number of eigenvalues above the bulk in draws at growing N and D, C = 3, 5, 10, above, below and across
    the transition, with cross terms and without; place of the bulk's largest eigenvalue""",
    reference="the number of directions above the transition SNR; the edge of the bulk; Tracy-Widom",
    bias="""None in the counts, of which all draws have to agree. The bulk's largest eigenvalue: Tracy-Widom in units of
    (z''/2)^(1/3) D^(-2/3), beyond them O(N^(-1/3)), as the centring for real entries is O(1/N) off the edge.""",
    draw=draw,
    judge=judge,
    theory=predicted,
    mutants={
        "C outliers": lambda model, x: (predicted(model, x)[0], predicted(model, x)[1] + 1),
        "no transition": lambda model, x: (predicted(model, x)[0], model.num_classes - 1),
        "Marchenko-Pastur with the mean weight": marchenko_pastur,
    },
    disagreement="""Section 3.2 says that the term of rank C in eq. (16) yields C outliers; fig. 5 of the same paper
    has C - 1. As A_mu annihilates (1, ..., 1), that term has rank C - 1.""",
)
