"""Fort and Ganguli, property 4 of section 4: the Hessian on random hyperplanes."""

from __future__ import annotations

import math

import numpy as np

import rmtland as rl
from rmtland.landscape.reduced import hyperplane_ratio
from validation import Check, Claim, Outcome, exact, figures, rate
from validation.fort_ganguli._draws import root_hessians, softmax, sums

EXAMPLES, CLASSES, PARAMETERS, RESIDUAL = 12, 4, 64, 0.7
"""Of the small draws: N, C, D and sigma_E / sigma_c."""
SIGMAS = (1.0, 20.0)
PAPER = (0.1, 100.0)
"""sigma_z at N = 300, C = 10, D = 1000, d = 10."""
SIZES = {
    # Draws by d, and projections of a draw of the paper's sizes.
    "smoke": ({5: 1_500, 10: 1_200, 20: 800, 40: 400}, 12),
    "full": ({5: 30_000, 10: 20_000, 20: 12_000, 40: 6_000}, 150),
}


def planes(d, num_parameters, draws, rng):
    """Orthonormal bases of uniformly random subspaces, (draws, D, d)."""
    return np.linalg.qr(rng.standard_normal((draws, num_parameters, d)))[0]


def small_draws(logits, d, draws, rng):
    """Trace, squared norm, largest eigenvalue: D parameters projected on d, and d parameters drawn; (2, 3, draws)."""
    roots = root_hessians(softmax(logits))
    out = []
    for block in np.array_split(np.arange(draws), max(1, draws // 200)):
        pair = []
        for size in (PARAMETERS, d):
            # Components of the same variance 1 / D in both.
            c = rng.standard_normal((block.size, 1, CLASSES, size)) / math.sqrt(PARAMETERS)
            e = RESIDUAL * rng.standard_normal((block.size, EXAMPLES, CLASSES, size)) / math.sqrt(PARAMETERS)
            y = (roots @ (c + e)).reshape(block.size, -1, size)
            if size != d:
                y = y @ planes(d, size, block.size, rng)
            gram = y.swapaxes(1, 2) @ y if d < y.shape[1] else y @ y.swapaxes(1, 2)
            pair.append([*sums(y), np.linalg.eigvalsh(gram)[:, -1]])
        out.append(pair)
    return np.concatenate(out, axis=2)


def draw(scale, rng):
    sizes, projections = SIZES[scale]
    logits = {s: s * rng.standard_normal((EXAMPLES, CLASSES)) for s in SIGMAS}
    small = {(s, d): small_draws(logits[s], d, draws, rng) for s in SIGMAS for d, draws in sizes.items()}
    z = rng.standard_normal((300, 10))
    paper = {}
    for sigma in PAPER:
        # One draw of all D parameters, projected many times: the whole matrix's trace and norm are known.
        roots = root_hessians(softmax(sigma * z))
        j = rng.standard_normal((1, 10, 1000)) + RESIDUAL * rng.standard_normal((300, 10, 1000))
        y = (roots @ (j / math.sqrt(1000))).reshape(-1, 1000)
        whole = y.T @ y
        cut = np.array([sums((y @ planes(10, 1000, 1, rng)[0])[None]) for _ in range(projections)])[:, :, 0].T
        paper[sigma] = np.trace(whole), np.sum(whole**2), cut
    return logits, small, paper


def model_of(logits, d):
    """The same model with D replaced by d: lengths shrink, as components keep their variance."""
    scale = math.sqrt(d / PARAMETERS)
    law = rl.ClusteredGradients(scale, RESIDUAL * scale)
    return rl.LandscapeModel(EXAMPLES, CLASSES, d, rl.GivenLogits(logits, logits.argmax(axis=1)), law)


def judge(data, theory):
    moments, of_whole = theory
    logits, small, paper = data
    sizes = np.array(sorted({d for _, d in small}))
    checks, found = [], {}
    for s in SIGMAS:
        name = f"sigma_z = {s:g}"
        draws = [small[s, d] for d in sizes]
        mean = np.array([v.mean(axis=2) for v in draws])
        error = np.array([v.std(axis=2) / v.shape[2] ** 0.5 for v in draws])
        wanted = np.array([moments(model_of(logits[s], d)) for d in sizes])
        checks += [
            Check(f"{name}: trace and squared norm on the plane, over the model's", mean[:, 0, :2] / wanted,
                  error[:, 0, :2] / wanted, 1.0, 0.0, 0.5, sizes),
            Check(f"{name}: largest eigenvalue on the plane, over that drawn with d parameters",
                  mean[:, 0, 2] / mean[:, 1, 2] - 1, np.hypot(error[:, 0, 2], error[:, 1, 2]) / mean[:, 1, 2], 0.0, 0.0,
                  0.4, sizes),
        ]  # fmt: skip
        rows = []
        for v, (trace, square) in zip(draws, wanted, strict=True):
            a, b = v[0, 0] / trace - 1, v[0, 1] / square - 1
            # What is linear in trace and squared norm has a known mean.
            rest = (1 + a) / np.sqrt(1 + b) - 1 - (a - b / 2)
            rows.append((rest.mean(), rest.std() / rest.size**0.5))
        off, wobble = np.array(rows).T
        checks.append(rate(f"{name}: rate of the ratio's bias", sizes, off, wobble, 1.0, detect=1.2, bias=0.3))
        found[s] = off, wobble
    levels = {}
    for sigma, (trace, square, cut) in paper.items():
        ratio = cut[0] / np.sqrt(cut[1])
        known = of_whole(trace, math.sqrt(square), 1000, 10)
        levels[sigma] = ratio.mean(), ratio.std(ddof=1) / ratio.size**0.5, known
    ours, error, known = np.array(list(levels.values())).T
    checks += [
        Check("the paper's sizes, d = 10: ratio over that of the whole matrix's formula", ours / known, error / known,
              1.0, 0.06, 0.5, None, "bias of a ratio of means, O(1/d) times the relative variance"),
        exact("the paper's sizes, d = 10: whether the ratio rises with sigma_z", float(ours[-1] > ours[0]), 0.0),
    ]  # fmt: skip

    def plot():
        figure, (left, right) = figures.panels(2, "Trace/||.|| on random hyperplanes", "mean ratio less ratio of means")
        fine = np.unique(np.geomspace(2, PARAMETERS, 30).round())
        for colour, (s, (off, wobble)) in zip(figures.COLOURS, found.items(), strict=False):
            for i, (marker, label) in enumerate((("o", f"of D = {PARAMETERS}"), ("x", "drawn with d"))):
                values = [(small[s, d][i, 0] / np.sqrt(small[s, d][i, 1])).mean() for d in sizes]
                left.plot(sizes, values, marker, ms=6, mfc="none", color=colour, label=rf"$\sigma_z$ = {s:g}: {label}")
            theirs = np.array([moments(model_of(logits[s], int(d))) for d in fine])
            left.plot(fine, theirs[:, 0] / np.sqrt(theirs[:, 1]), color=colour, lw=1.2)
            figures.convergence(right, sizes, off, wobble, colour, rf"$\sigma_z$ = {s:g}")
            right.plot(sizes, np.abs(off[-1]) * sizes[-1] / sizes, color=colour, lw=1.2)
        left.set(xlabel="dimension $d$ of the plane", ylabel="Trace/||.||; lines: exact means")
        figures.log_sizes(left, sizes, log_values=False)
        right.set(xlabel="dimension $d$", ylabel=r"relative bias; lines: $1/d$")
        figures.legend(left)
        figures.legend(right)
        return figure

    listed = ", ".join(f"{value:.3f} +- {e:.3f} at sigma_z = {s:g}" for s, (value, e, _) in levels.items())
    text = f"""On random d-dimensional hyperplanes the Hessian has the trace, norm and largest eigenvalue of the model
    drawn with d parameters of the same component scales, d from {sizes[0]} up: rows of J times an orthonormal basis are
    normal again.

    At the paper's sizes and d = 10 the ratio is {listed}: it falls with sigma_z there as on the whole space, as the
    paper says, but from 2.5 and not from 4.4."""
    return Outcome(checks, text, plot)


def exact_moments(model):
    """Means of the trace and of the squared norm."""
    theory = model.theory()
    return theory.trace, theory.frobenius**2


def unprojected(model):
    """As if the plane did not matter: the ratio of D parameters, trace scaled by d / D."""
    share = model.num_parameters / PARAMETERS
    law = rl.ClusteredGradients(1.0, RESIDUAL)
    trace, square = exact_moments(rl.LandscapeModel(EXAMPLES, CLASSES, PARAMETERS, model.logits, law))
    return share * trace, share**2 * square


CLAIM = Claim(
    statement="""Projected on a random d-dimensional hyperplane, the Hessian of the model is that of the model with D
    replaced by d; its Trace/||.||_F falls with sigma_z too, d = 10.""",
    source="Fort and Ganguli (2019), property 4 of section 4; Fort and Scherlis (2019)",
    estimates="""trace, squared norm and largest eigenvalue on planes of growing d, and in draws with d parameters; the
    ratio of one matrix of the paper's sizes on many planes of d = 10""",
    reference="""E tr G = d tr T, E ||G||^2 = d (tr T)^2 + d (d + 1) tr T^2; for one matrix, the mean over the
    orthogonal group""",
    bias="""None: J O is normal with the same component variance, O having orthonormal columns. The mean of the ratio is
    off by the relative variances of trace and norm, O(1/d).""",
    draw=draw,
    judge=judge,
    theory=(exact_moments, hyperplane_ratio),
    mutants={
        "the ratio of the whole space": (unprojected, lambda trace, norm, size, d: trace / norm),
        "norm scaled by d / D": (exact_moments, lambda trace, norm, size, d: trace / norm * math.sqrt(d / size)),
    },
)
