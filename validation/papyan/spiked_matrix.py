"""Papyan, fig. 8a: Lanczos without reorthogonalisation gives the spectrum of a spiked matrix, ghosts and all."""

from __future__ import annotations

import numpy as np

from validation import Check, Claim, Outcome, exact, figures, rate
from validation.papyan import _runs

SPIKES = (5.0, 4.0, 3.0)
TOGETHER = 10
"""Probes that are averaged, n_vec."""
SIZES = {
    # Size of the matrix, probes, and steps: those of the rate, and of the comparison.
    "smoke": (400, 60, (10, 20, 40, 80, 128)),
    "full": (2000, 100, (16, 32, 64, 128, 256)),
}


def identity(x):
    return x


def draw(scale, rng):
    size, probes, steps = SIZES[scale]
    z = rng.standard_normal((size, size))
    matrix = z @ z.T / (10 * size)  # (1/20000) Z Z^T at the paper's 2000
    matrix[range(3), range(3)] += SPIKES
    return steps, _runs.run(matrix, probes, steps, rng)


def judge(data, theory):
    steps, runs = data
    size = runs.eigenvalues.size
    most = steps[-1]
    checks, errors, text = [], {}, []
    for kept in (True, False):
        name = "reorthogonalised" if kept else "no reorthogonalisation"
        errors[kept] = _runs.quadrature_errors(runs, steps, kept, identity, theory)
        groups = _runs.group_distances(runs, most, kept, TOGETHER, identity, theory)
        difference = groups[:, 0] - groups[:, 1]
        checks.append(
            Check(
                f"{name}: Wasserstein distance of {TOGETHER} probes from the dense spectrum", groups[:, 0].mean(),
                difference.std(ddof=1) / len(groups) ** 0.5, groups[:, 1].mean(), bias=errors[kept][0][-1],
                detect=0.5 * groups[:, 1].mean(),
                note="against that of the probes' exact measures; they differ by the quadrature's own distance at most",
            )
        )  # fmt: skip
        # Up to a fifth of the size, where the steps do not see yet that the spectrum is discrete.
        few = [i for i, m in enumerate(steps) if m <= size / 5]
        found = rate(
            f"{name}: distance of a quadrature from its measure, against steps", [steps[i] for i in few],
            errors[kept][0][few], errors[kept][1][few], 1.0, detect=0.8, bias=0.25,
        )  # fmt: skip
        checks.append(found)
        above = np.array(
            [
                size * theory(w, x)[x > 1.0].sum()
                for x, w in zip(runs.nodes[kept, most], runs.weights[kept, most], strict=True)
            ]
        )
        checks.append(
            Check(
                f"{name}: weight beyond the bulk, times the size", above.mean(), above.std(ddof=1) / len(above) ** 0.5,
                3.0, detect=6.0,
            )
        )  # fmt: skip
        text.append(
            f"""With {most} steps, {name}, {TOGETHER} probes are {groups[:, 0].mean():.5f} from the dense spectrum in
            Wasserstein distance, their exact measures {groups[:, 1].mean():.5f}: probes err, Lanczos hardly does. A
            quadrature's own distance falls like steps^-{found.estimate:.2f}. The weight beyond the bulk is
            {above.mean():.2f} +- {above.std(ddof=1) / len(above) ** 0.5:.2f} eigenvalues."""
        )
    copies, weight = ghosts(runs, most)
    checks.append(
        exact(
            "ghosts: weight of all copies of the largest eigenvalue, relative to that of the one", weight, 1.0,
            tolerance=1e-6,
        )
    )  # fmt: skip
    checks.append(exact("ghosts: smallest number of copies is at least 2", np.minimum(copies, 2), 2.0))
    text.append(
        f"""The largest eigenvalue shows up {copies.min()} to {copies.max()} times without reorthogonalisation; all
        copies together have the weight of the one, to {np.abs(weight - 1).max():.0e}."""
    )

    def plot():
        figure, (left, right) = figures.panels(2, f"{size} x {size}, {most} steps", "quadrature error")
        bins = np.linspace(-0.1, 5.6, 101)
        left.hist(runs.eigenvalues, bins, density=True, color=figures.COLOURS[4], label="dense")
        x, w = runs.nodes[False, most], runs.weights[False, most]
        height, _ = np.histogram(x.ravel(), bins, weights=np.ravel([theory(b, a) for a, b in zip(x, w, strict=True)]))
        left.stairs(height / len(x) / np.diff(bins), bins, color=figures.COLOURS[1], label="Lanczos, with ghosts")
        left.set(xlabel=r"eigenvalue $\lambda$", ylabel=r"density", yscale="log")
        figures.legend(left)
        for kept, colour, label in ((True, figures.COLOURS[0], "reorthogonalised"), (False, figures.COLOURS[1], "not")):
            mean, error = errors[kept]
            figures.convergence(right, steps, mean, error, colour, label, lambda m, c=mean[0] * steps[0]: c / m)
        right.set(xlabel="steps $m$", ylabel=r"Wasserstein distance; lines: $1/m$")
        figures.legend(right)
        return figure

    return Outcome(checks, "\n\n".join(text), plot)


def ghosts(runs, steps):
    """Copies of the largest eigenvalue in each run, and their weight over that of the one of a proper run."""
    top = runs.eigenvalues[-1]
    copies, weight = [], []
    for probe in range(len(runs.measures)):
        near = {k: np.abs(runs.nodes[k, steps][probe] - top) < 1e-8 * top for k in (True, False)}
        copies.append(near[False].sum())
        weight.append(
            runs.weights[False, steps][probe][near[False]].sum() / runs.weights[True, steps][probe][near[True]].sum()
        )
    return np.array(copies), np.array(weight)


CLAIM = Claim(
    statement="""Lanczos without reorthogonalisation approximates the spectrum of X + Z Z^T / 20000, Z 2000 x 2000, X
    with entries 5, 4, 3: its eigenvalues with the squared first components of the eigenvectors of the tridiagonal
    matrix as weights, averaged over ten probes. Multiple copies of eigenvalues do no harm.""",
    source="Papyan (2018), The full spectrum of deepnet Hessians at scale, fig. 8a and sec. 5.5, algorithms 2 and 3",
    estimates="""Wasserstein distance of order 1 of ten probes from the dense spectrum; of each quadrature from the
    measure of its probe along the dense eigenvectors, over growing numbers of steps; the weight beyond the bulk; the
    weight of all copies of the largest eigenvalue""",
    reference="""the distance of the probes' exact measures; 1/steps; the number of spikes; the weight of the one
    eigenvalue under reorthogonalisation""",
    bias="""The distance from the dense spectrum by the quadrature's own at most (triangle inequality), measured. That
    is at most the range over steps times a constant; the exponent 1 up to 0.25 at these steps, as the hard edge of the
    bulk at 0 is resolved faster.""",
    draw=draw,
    judge=judge,
    theory=lambda weights, nodes: weights,
    mutants={
        "equal weights": lambda weights, nodes: np.full_like(weights, 1 / weights.size),
        "first components not squared": lambda weights, nodes: np.sqrt(weights) / np.sqrt(weights).sum(),
        "a slope of f": lambda weights, nodes: weights / np.abs(nodes) / np.sum(weights / np.abs(nodes)),
    },
)
