"""Papyan's A2 beside A1: the two are parallel, class by class."""

from __future__ import annotations

import numpy as np

from validation import Claim, Outcome, exact, figures
from validation.papyan import _hierarchy

CASES = ("balanced", "unbalanced")
STEPS = {"smoke": (0, 200), "full": (0, 50, 500, 3000)}


def draw(scale, rng):
    found = {case: _hierarchy.arrays(rng, case) for case in CASES}
    for step, source in _hierarchy.digits([4], STEPS[scale], rng):
        found[f"digits, step {step}"] = _hierarchy.dense(source)
    return found


def judge(data, theory):
    errors, beyond, shares, factors = [], [], {}, {}
    for name, arrays in data.items():
        weights, means, class_means, parts = _hierarchy.decompose(*arrays)
        num_classes = len(weights)
        totals = weights.sum(axis=1) - np.diag(weights)
        factor, rank = theory(totals, np.diag(weights), num_classes)
        own = means[np.arange(num_classes), np.arange(num_classes)]
        # On the scale of g_c: that of g_{c,c} is small where examples are right.
        errors.append(
            np.max(np.linalg.norm(own - factor[:, None] * class_means, axis=1) / np.linalg.norm(class_means, axis=1))
        )
        values = np.linalg.eigvalsh(parts["A1"] + parts["A2"] + parts["B1"])[::-1]
        top = values[: num_classes**2]
        # How many eigenvalues stand out of rounding, against the rank claimed.
        beyond.append([np.max(np.abs(top[rank:]), initial=0.0) / top[0], float(top[rank - 1] > 1e-13 * top[0])])
        shares[name] = np.trace(parts["A2"]) / np.trace(parts["A1"])
        factors[name] = np.linalg.norm(own, axis=1) / np.linalg.norm(class_means, axis=1), totals / np.diag(weights)
    checks = [
        exact("|g_{c,c} - factor g_c| / |g_c|, largest over classes", errors, 0.0, tolerance=1e-10),
        exact(
            "eigenvalues of A1 + A2 + B1 beyond the rank claimed, over the largest", np.array(beyond)[:, 0], 0.0,
            tolerance=1e-14,
        ),
        exact("whether the last one within it stands out of rounding", np.array(beyond)[:, 1], 1.0),
    ]  # fmt: skip

    def plot():
        figure, (ax,) = figures.panels(1, "lengths of the means")
        for name, (lengths, ratio) in factors.items():
            ax.plot(ratio, lengths, "o", ms=5, label=name)
        ends = np.array([min(r.min() for _, r in factors.values()), max(r.max() for _, r in factors.values())])
        ax.plot(ends, ends, color="0.6", lw=1, zorder=0)
        ax.set(xlabel=r"$p_c / p_{c,c}$", ylabel=r"$|g_{c,c}| / |g_c|$", xscale="log", yscale="log")
        figures.legend(ax)
        return figure

    start = next(name for name in shares if name.endswith("step 0"))
    last = list(shares)[-1]
    text = f"""g_(c,c) is -(p_c / p_(c,c)) g_c to {max(errors):.0e} in every class, because the gradients of an example
    with each of the labels, weighted by their probabilities, add up to zero. So A2 has the range of A1, and
    A1 + A2 + B1 no more than C (C - 1) eigenvalues. A2 is not small: its trace is {shares[start]:.1f} times that of A1
    at initialisation (C - 1 = 9 where probabilities are uniform), {shares[last]:.2g} times at the last step."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""A2 is parallel to A1: g_{c,c} = -(p_c / p_{c,c}) g_c, so that the rank of A1 + A2 + B1 is at most
    C (C - 1), and no eigenvalues are due to A2.""",
    source="""Papyan (2019), Measurements of three-level hierarchical structure, which speaks of "final C eigenvalues
    due to A2"; theory of this project, from sum_c' p_{i,c'} g_{i,c,c'} = 0""",
    estimates="g_{c,c} and g_c by their definitions; eigenvalues of A1 + A2 + B1 by the dense matrix",
    reference="the factor -p_c / p_{c,c}; C (C - 1) eigenvalues that are not zero",
    bias="None: an identity, up to rounding.",
    draw=draw,
    judge=judge,
    theory=lambda totals, own, num_classes: (-totals / own, num_classes * (num_classes - 1)),
    mutants={
        "the same sign": lambda totals, own, num_classes: (totals / own, num_classes * (num_classes - 1)),
        "equal lengths": lambda totals, own, num_classes: (-np.ones_like(own), num_classes * (num_classes - 1)),
        "the factor upside down": lambda totals, own, num_classes: (-own / totals, num_classes * (num_classes - 1)),
        "C eigenvalues due to A2": lambda totals, own, num_classes: (-totals / own, num_classes**2),
    },
    disagreement="""The papers leave A2 out of the code and give it C eigenvalues of its own. It has none: it lies in
    the span of the g_c, where at uniform probabilities it is C - 1 times as large as A1.""",
)
