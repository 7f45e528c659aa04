"""Papyan's attribution of outliers to A1: what part of them it is, at initialisation and after training."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, means
from validation.papyan import _hierarchy

C = _hierarchy.C
SIZES = {
    # Networks, steps, examples measured.
    "smoke": (12, (0, 500), 300),
    "full": (24, (0, 10, 30, 100, 300, 1000, 3000), 600),
}
WIDTHS = [20]
MARGINS = (0.0, 30.0)
"""Of the label's logit, where classes are alike: nothing learnt, and everything."""


def alike(margin):
    """Ten classes of the same size whose logit gradients are the same ten orthonormal vectors: the two limits."""
    labels = np.repeat(np.arange(C), 3)
    gradients = np.broadcast_to(np.eye(C), (labels.size, C, C))
    return rl.DenseLogitGradients(margin * np.eye(C)[labels], labels, np.array(gradients))


def share_of_means(found):
    """A1 + A2 in what the means hold of the outliers: B2's part shrinks as there are more examples."""
    first, second = found.eigenvalues @ found.shares["A1"], found.eigenvalues @ found.shares["B1"]
    return first / (first + second)


def draw(scale, rng):
    count, steps, num_measured = SIZES[scale]
    rows = {step: [] for step in steps}
    for child in rng.spawn(count):
        for step, source in _hierarchy.digits(WIDTHS, steps, child, num_measured):
            rows[step].append(rl.attribution(rl.hierarchy(source), rng=0))
    limits = []
    for margin in MARGINS:
        hierarchy = rl.hierarchy(alike(margin))
        limits.append(share_of_means(rl.attribution(hierarchy, hierarchy.gauss_newton.to_dense(), rng=0)))
    return rows, limits


def judge(data, theory):
    rows, limits = data
    steps = list(rows)
    first, last = steps[0], steps[-1]
    share = {step: np.array([share_of_means(found) for found in rows[step]]) for step in steps}
    start, end = theory(C)
    checks = [
        exact("share of A1 + A2 where classes are alike, nothing and everything learnt", limits, [start, end],
              tolerance=1e-9),
        means("share of A1 + A2 in what the means hold of the outliers, at initialisation", [share[first]], [start],
              bias=0.004, detect=0.06, note="p is uniform, and class means are alike, to some per cent"),
        means("the same, after training", [share[last]], [end], bias=0.1, detect=0.5,
              note="some pairs of classes are mistaken for each other more than others"),
    ]  # fmt: skip

    def over(step, kind, place):
        return np.array([getattr(found, kind)[place].mean() for found in rows[step]])

    def plot():
        figure, (left, right) = figures.panels(2, "share of the outliers", "squared overlap with the range")
        for place, colour in (("A1", figures.COLOURS[1]), ("B1", figures.COLOURS[0]), ("rest", figures.COLOURS[2])):
            name = {"A1": "A1 + A2", "B1": "B1", "rest": "B2"}[place]
            for ax, kind in ((left, "shares"), (right, "overlaps")):
                if kind == "overlaps" and place == "rest":
                    continue
                values = np.array([over(step, kind, place) for step in steps])
                error = values.std(axis=1, ddof=1) / values.shape[1] ** 0.5
                figures.points(ax, steps, values.mean(axis=1), error, colour, name if ax is left else place)
            if place != "rest":
                right.axhline(rows[first][0].chance[place], color=colour, ls=":", lw=1)
        for level in (start, end):
            left.axhline(level, color=figures.COLOURS[1], ls="--", lw=1)
        for ax, label in ((left, "mean over C - 1 outliers; limits dashed"), (right, "mean; chance dotted")):
            ax.set_xscale("symlog", linthresh=10)
            ax.set(xlabel="step", xlim=(-1, None), ylim=(0, 1.03), ylabel=label)
            figures.legend(ax)
        return figure

    most = np.mean([found.counts["A1"] for found in rows[last]])
    text = f"""Of what the means hold of the C - 1 outliers of G, A1 + A2 make up {share[first].mean():.4f} at
    initialisation (1 / (C - 1) = {start:.4f} where logit gradients do not know the class and p is uniform) and
    {share[last].mean():.3f} at step {last} (C / (2 (C - 1)) = {end:.4f} where every example is right and all mistakes
    are as likely). So outliers come from B1 at first, and pass to A1 by half: B1 keeps (C - 2) / (2 (C - 1)) of them
    however long training goes on, unless classes are mistaken for one other class only. {most:.1f} of {C - 1} owe A1
    more than any other part in the end.

    Angles do not tell: at initialisation the squared overlap of outliers with the range of A1 is
    {over(first, "overlaps", "A1").mean():.2f} already, against {rows[first][0].chance["A1"]:.3f} by chance, and that
    with the range of B1 is {over(first, "overlaps", "B1").mean():.2f}; after training they are
    {over(last, "overlaps", "A1").mean():.2f} and {over(last, "overlaps", "B1").mean():.2f}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""The C - 1 outliers of the Gauss-Newton matrix belong to B1 at initialisation, and to A1 after training:
    the share of A1 + A2 goes from 1 / (C - 1) to C / (2 (C - 1)).""",
    source="""Papyan (2019), Measurements of three-level hierarchical structure, which attributes outliers to A1 after
    training; the two limits are derived here""",
    estimates="""v^T (A1 + A2) v over v^T (A1 + A2 + B1) v, summed over the C - 1 top eigenvectors v of G, means over
    networks trained on digits; squared overlaps with the ranges of A1 and B1""",
    reference="""With the same mean logit gradients m_k in all classes, g_{c,c'} = m_c' - sum_k p_k m_k. Uniform p: A2
    is 1/C of A1 + A2 + B1, A1 is 1 / (C - 1) of A2. p near the label, mistakes equally likely: g_c is C / (C - 1)
    times the distance of m_c from the mean of all, and A1 + B1 has 2 C sum_k of the squares that A1 has C^2 / (C - 1)
    of.""",
    bias="""0.004 at initialisation: class means differ by some per cent. 0.1 after training: with weights w of the
    other classes the share is (1 + sum w^2) / 2 for orthogonal m_k, up to 0.1 more or less on digits.""",
    draw=draw,
    judge=judge,
    theory=lambda num_classes: (1 / (num_classes - 1), num_classes / (2 * (num_classes - 1))),
    mutants={
        "A1 alone, A2 left out": lambda n: (1 / (n * (n - 1)), n / (2 * (n - 1))),
        "A2 alone at initialisation": lambda n: (1 / n, n / (2 * (n - 1))),
        "all to A1 after training": lambda n: (1 / (n - 1), 1.0),
        "B1 as before after training": lambda n: (1 / (n - 1), 1 / (n - 1)),
    },
    disagreement="""Outliers are said to be due to A1. By their eigenvalues it is half of them at best that A1 holds
    where mistakes spread over all classes; and Papyan's code leaves A2 out, nine tenths at initialisation of what
    lies along the class means.""",
)
