"""Papyan, eq. (4): G is the sum of A1, A2, B1 and B2, and of what ranks these are."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures
from validation.papyan import _hierarchy

CASES = ("balanced", "unbalanced", "absent class, zero probabilities")
STEPS = {"smoke": (0, 200), "full": (0, 50, 500, 3000)}


def draw(scale, rng):
    found = {case: _hierarchy.arrays(rng, case) for case in CASES}
    for step, source in _hierarchy.digits([4], STEPS[scale], rng):
        found[f"digits, step {step}"] = _hierarchy.dense(source)
    return found


def rank(matrix, scale):
    return float(np.count_nonzero(np.linalg.eigvalsh(matrix) > 1e-11 * scale))


def judge(data, theory):
    centre, balanced = theory
    names, sums, ours, ranks, expected, parts_seen = list(data), [], [], [], [], {}
    for name, arrays in data.items():
        weights, _, _, parts = _hierarchy.decompose(*arrays, centre=centre, balanced=balanced)
        scale = np.linalg.norm(parts["G"])
        sums.append(np.linalg.norm(sum(parts[p] for p in ("A1", "A2", "B1", "B2")) - parts["G"]) / scale)
        hierarchy = rl.hierarchy(rl.DenseLogitGradients(*arrays))
        ours.append(
            [np.linalg.norm(getattr(hierarchy, p).to_dense() - parts[p]) / scale for p in ("A1", "A2", "B1", "B2")]
        )
        ours[-1].append(hierarchy.residual_norm)
        pairs = (weights > 0) & ~np.eye(len(weights), dtype=bool)
        classes = np.count_nonzero(pairs.any(axis=1))
        largest = parts["G"].shape[0]
        expected.append([min(classes, largest), min(pairs.sum() - classes, largest), min(pairs.sum(), largest)])
        low_rank = parts["A1"] + parts["A2"] + parts["B1"]
        top = np.linalg.eigvalsh(parts["G"])[-1]
        ranks.append([hierarchy.gram.rank("A1"), hierarchy.gram.rank("B1"), rank(low_rank, 1e-4 * top)])
        parts_seen[name] = parts
    tame = [i for i, name in enumerate(names) if name in CASES]  # trained networks have eigenvalues of any smallness
    checks = [
        exact("|A1 + A2 + B1 + B2 - G| / |G|, matrices by their definitions", sums, 0.0, tolerance=1e-12),
        exact("operators of the package against those, and their residual norm", ours, 0.0, tolerance=1e-12),
        exact("ranks of A1 and B1", np.array(ranks)[:, :2], np.array(expected)[:, :2]),
        exact("rank of A1 + A2 + B1", np.array(ranks)[tame, 2], np.array(expected)[tame, 2]),
    ]

    def plot():
        figure, axes = figures.panels(2, names[1], names[-1])
        for ax, name in zip(axes, (names[1], names[-1]), strict=True):
            for part, matrix in parts_seen[name].items():
                values = np.linalg.eigvalsh(matrix)[::-1]
                ax.plot(np.arange(1, values.size + 1), values, ".-", ms=3, lw=0.8, label=part)
            ax.set(xlabel="rank", ylabel="eigenvalue", xscale="log", yscale="log", ylim=(1e-8 * values[0], None))
            figures.legend(ax)
        return figure

    text = f"""The four parts add up to G within {max(sums):.1e} of its norm, with balanced and unbalanced classes, a
    class without examples, probabilities that underflow, and for a perceptron on digits; the package's operators are
    these matrices within {np.max(ours):.1e}. A1 has the rank of the classes that have examples, B1 that of the pairs
    with a weight less one for each class, and all three together that of the pairs: C (C - 1) at most."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""The Gauss-Newton matrix is the sum of A1 (class means g_c), A2 (g_{c,c}), B1 (g_{c,c'} about g_c) and
    B2 (examples about g_{c,c'}), of ranks C, C, C (C - 2) and the rest.""",
    source="""Papyan (2019), Measurements of three-level hierarchical structure, eq. (4); summary, eq. (7);
    Papyan (2018), eq. (25)""",
    estimates="distance of the sum from G in Frobenius norm, of the package's operators from the definitions; ranks",
    reference="dense matrices by their definitions, G by its own formula; counts of pairs of classes with a weight",
    bias="None: an identity, up to rounding.",
    draw=draw,
    judge=judge,
    theory=(_hierarchy.own_centre, False),
    mutants={
        "the printed centre of Sigma_c, g_c'": (_hierarchy.printed_centre, False),
        "no centre": (lambda class_means, pair_means, c, k: 0.0, False),
        "n C in place of N, classes of one size": (_hierarchy.own_centre, True),
    },
    disagreement="""The centre of Sigma_c is printed as g_c'; with it the parts do not add up. The normaliser n C holds
    for classes of one size only; in general it is the number of examples.""",
)
