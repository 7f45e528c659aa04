"""Papyan's knock-outs: what is left of G without a part has nothing of that part."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures
from validation.papyan import _hierarchy

STEPS = {"smoke": (0, 300), "full": (0, 50, 500, 3000)}
NAMES = {"G - A1 - A2": ("A1", "A2"), "G - B1": ("B1",), "G - B2": ("B2",)}


def draw(scale, rng):
    found = {}
    for step, source in _hierarchy.digits([4], STEPS[scale], rng):
        found[step] = _hierarchy.dense(source)
    return found


def judge(data, theory):
    spectra, traces, parts_left, negative, ranks, top = {}, [], [], [], [], {}
    for step, arrays in data.items():
        hierarchy = rl.hierarchy(rl.DenseLogitGradients(*arrays))
        *_, parts = _hierarchy.decompose(*arrays)
        left = {name: hierarchy.knock_out(*theory(named)).to_dense() for name, named in NAMES.items()}
        whole = np.trace(parts["G"])
        scale = np.linalg.norm(parts["G"])
        for name, named in NAMES.items():
            values = np.linalg.eigvalsh(left[name])
            spectra[step, name] = values
            gone = sum(np.trace(parts[part]) for part in named)
            traces.append((values.sum() + gone) / whole)
            negative.append(min(values[0], 0.0) / scale)
            # Not the trace alone: along each direction that the part has, exactly its share is gone.
            out = sum(parts[part] for part in named)
            vectors = np.linalg.eigh(out)[1]
            seen = np.sum(vectors * ((parts["G"] - left[name] - out) @ vectors), axis=0)
            parts_left.append(np.max(np.abs(seen)) / scale)
        spectra[step, "G"] = np.linalg.eigvalsh(parts["G"])
        low_rank = spectra[step, "G - B2"]
        ranks.append(np.max(np.abs(low_rank[: -_hierarchy.C * (_hierarchy.C - 1)]), initial=0.0) / scale)
        top[step] = {name: spectra[step, name][-(_hierarchy.C - 1) :].sum() for name in ("G", *NAMES)}
    checks = [
        exact("trace of what is left and of what is named, over that of G", traces, 1.0, tolerance=1e-12),
        exact("what is named, along each of its eigenvectors, less what went, over |G|", parts_left, 0.0,
              tolerance=1e-12),
        exact("negative eigenvalues of what is left, over |G|", negative, 0.0, tolerance=1e-12),
        exact("eigenvalues of G - B2 beyond the C (C - 1) largest, over |G|", ranks, 0.0, tolerance=1e-12),
    ]  # fmt: skip
    first, last = min(data), max(data)

    def plot():
        figure, axes = figures.panels(2, f"step {first}", f"step {last}")
        for ax, step in zip(axes, (first, last), strict=True):
            highest = spectra[step, "G"][-1]
            bins = np.geomspace(1e-6 * highest, 1.5 * highest, 50)
            for colour, name in zip(figures.COLOURS, ("G", *NAMES), strict=False):
                counts, _ = np.histogram(spectra[step, name], bins)
                ax.stairs(counts, bins, color=colour, label=name, lw=1.4)
            ax.set(xscale="log", yscale="symlog", xlabel=r"eigenvalue $\lambda$", ylabel="eigenvalues per bin")
            figures.legend(ax)
        return figure

    begins, ends = ({name: 1 - value / top[step]["G"] for name, value in top[step].items()} for step in (first, last))
    text = f"""What is left without a part has the trace of the rest, no negative eigenvalue, and along the
    directions of the part just what the other parts have there. Of the sum of the C - 1 largest
    eigenvalues of G, taking out A1 and A2
    removes {begins["G - A1 - A2"]:.0%} at initialisation and {ends["G - A1 - A2"]:.0%} at step {last}; B1
    {begins["G - B1"]:.0%} and {ends["G - B1"]:.0%}; B2 {begins["G - B2"]:.0%} and
    {ends["G - B2"]:.0%}. (They need not add up: what one part loses another may hold up.)"""
    return Outcome(checks, text, plot)


def named_alone(named):
    return named


CLAIM = Claim(
    statement="""Knocking A1 and A2, B1 or B2 out of the Gauss-Newton matrix removes that part and nothing else: what is
    left is the sum of the other parts.""",
    source="Papyan (2019), Measurements of three-level hierarchical structure, which attributes outliers by knock-outs",
    estimates="""traces, smallest eigenvalues and quadratic forms of G without each part, for a perceptron on digits at
    initialisation and in training; what goes from the sum of the C - 1 largest eigenvalues""",
    reference="the parts by their definitions, as dense matrices",
    bias="None: an identity, up to rounding.",
    draw=draw,
    judge=judge,
    theory=named_alone,
    mutants={
        "A2 is left where it is": lambda named: tuple(part for part in named if part != "A2") or named,
        "B2 goes for B1": lambda named: ("B2",) if named == ("B1",) else named,
        "A1 goes with every part": lambda named: tuple(dict.fromkeys((*named, "A1"))),
    },
    disagreement="""The paper knocks out A1 alone. A2 lies along the same directions and is C - 1 times as large at
    uniform probabilities: without A1 alone outliers stay.""",
)
