"""Papyan, fig. 8b: the log spectrum of a matrix with Pareto entries."""

from __future__ import annotations

import numpy as np

from validation import Check, Claim, Outcome, figures
from validation.papyan import _runs

TOGETHER = 10
EPSILON = 1e-9
"""Of the largest eigenvalue, where logarithms end."""
SIZES = {
    # Rows of Z (columns are twice as many), probes, steps.
    "smoke": (200, 60, (25, 50, 100, 200)),
    "full": (500, 60, (62, 125, 250, 500)),
}


def logs(x):
    return np.log(np.abs(x) + EPSILON)


def draw(scale, rng):
    rows, probes, steps = SIZES[scale]
    z = 1 + rng.pareto(1.0, (rows, 2 * rows))
    matrix = z @ z.T
    # In units of the largest eigenvalue, about (2 rows)^4: logs are shifted, and no distance changes.
    return steps, _runs.run(matrix / np.linalg.eigvalsh(matrix)[-1], probes, steps, rng)


def judge(data, theory):
    steps, runs = data
    checks, errors, text = [], {}, []
    spread = np.ptp(logs(runs.eigenvalues))
    for kept in (True, False):
        name = "reorthogonalised" if kept else "no reorthogonalisation"
        errors[kept] = _runs.quadrature_errors(runs, steps, kept, logs, theory)
        mean, error = errors[kept]
        groups = _runs.group_distances(runs, steps[-1], kept, TOGETHER, logs, theory)
        difference = groups[:, 0] - groups[:, 1]
        # As many steps as dimensions, reorthogonalised: exact up to what rounding leaves of small eigenvalues.
        checks.append(
            Check(
                f"{name}: Wasserstein distance of {TOGETHER} probes from the dense log spectrum", groups[:, 0].mean(),
                difference.std(ddof=1) / len(groups) ** 0.5, groups[:, 1].mean(), bias=mean[-1] if not kept else 1e-3,
                detect=np.inf if not kept else 0.3 * groups[:, 1].mean(),
                note="against that of the probes' exact measures",
            )
        )  # fmt: skip
        checks.append(
            Check(
                f"{name}: distance of a quadrature from its measure at {steps[-1]} steps, over that at {steps[0]}",
                mean[-1] / mean[0], error[-1] / mean[0], 0.0, bias=1e-3 if kept else 0.5, detect=2.0,
                note="0 would be exact; without reorthogonalisation ghosts take the place of small eigenvalues",
            )
        )  # fmt: skip
        text.append(
            f"""{name.capitalize()}: ten probes are {groups[:, 0].mean():.3f} from the dense log spectrum, which spans
            {spread:.1f} e-folds, and their exact measures {groups[:, 1].mean():.3f}. A quadrature's own distance falls
            from {mean[0]:.3f} at {steps[0]} steps to {mean[-1]:.2g} at {steps[-1]}, the number of dimensions."""
        )

    def plot():
        figure, (left, right) = figures.panels(2, f"{runs.eigenvalues.size} eigenvalues", "quadrature error")
        bins = np.linspace(logs(runs.eigenvalues).min() - 0.5, logs(runs.eigenvalues).max() + 0.5, 101)
        left.hist(logs(runs.eigenvalues), bins, density=True, color=figures.COLOURS[4], label="dense")
        x, w = runs.nodes[False, steps[-1]], runs.weights[False, steps[-1]]
        shown = np.ravel([theory(b, a) for a, b in zip(x, w, strict=True)])
        height, _ = np.histogram(logs(x).ravel(), bins, weights=shown)
        left.stairs(height / len(x) / np.diff(bins), bins, color=figures.COLOURS[1], label="Lanczos, with ghosts")
        left.set(xlabel=r"$\ln(\lambda / \lambda_1)$", ylabel="density", yscale="log")
        figures.legend(left)
        for kept, colour, label in ((True, figures.COLOURS[0], "reorthogonalised"), (False, figures.COLOURS[1], "not")):
            figures.convergence(right, steps, *errors[kept], colour, label)
        right.set(xlabel="steps $m$", ylabel="Wasserstein distance of logarithms")
        figures.legend(right)
        return figure

    return Outcome(checks, "\n\n".join(text), plot)


CLAIM = Claim(
    statement="""The density of log(|x| + epsilon) over the spectrum of Z Z^T / 1000, Z with Pareto entries of index 1,
    is approximated by Lanczos: logarithms of its eigenvalues, with the squared first components as weights.""",
    source="Papyan (2018), The full spectrum of deepnet Hessians at scale, fig. 8b and sec. 5.6",
    estimates="""Wasserstein distance of order 1, between logarithms, of ten probes from the dense spectrum and of each
    quadrature from the measure of its probe along the dense eigenvectors""",
    reference="the distance of the probes' exact measures; no distance with as many steps as dimensions",
    bias="""Exact at full dimension with reorthogonalisation, up to rounding. Without, the quadrature's own distance,
    measured; it has to halve at least from the fewest steps on.""",
    draw=draw,
    judge=judge,
    theory=lambda weights, nodes: weights,
    mutants={
        "a factor 1/theta from the slope of the logarithm": lambda weights, nodes: (
            weights / np.abs(nodes) / np.sum(weights / np.abs(nodes))
        ),
        "equal weights": lambda weights, nodes: np.full_like(weights, 1 / weights.size),
        "first components not squared": lambda weights, nodes: np.sqrt(weights) / np.sqrt(weights).sum(),
    },
    disagreement="""The caption has Y 1000 x 1000 and Z 500 x 1000, which do not fit: Z Z^T is 500 x 500. Eq. (7) for
    log spectra divides weights by theta; the density of f(A) has the weights of that of A.""",
)
