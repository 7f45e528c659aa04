"""Papyan, fig. 5: the top eigenvalues taken out first, the bulk is resolved."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

import rmtland as rl
from validation import Check, Claim, Outcome, exact, figures

KAPPA, OUTLIERS = 3.0, np.geomspace(20.0, 100.0, 10)
LOWER, UPPER, GAP = (0.0, 0.4), (0.8, 1.2), (0.5, 0.7)
"""The bulk lies in two intervals; how much of it the estimate puts in between tells its resolution."""
SIZES = {"smoke": (1000, 16, (64, 128, 256)), "full": (10_000, 60, (64, 128, 256))}


def bulk(size):
    half = (size - OUTLIERS.size) // 2
    return np.concatenate([np.linspace(*LOWER, size - OUTLIERS.size - half), np.linspace(*UPPER, half)])


def draw(scale, rng):
    size, probes, steps = SIZES[scale]
    eigenvalues = np.concatenate([bulk(size), OUTLIERS])
    # Diagonal: with probes that have no preferred direction, that is no restriction.
    operator = rl.SymmetricOperator(lambda v: eigenvalues[:, None] * v, size, eigenvalues)
    found = {}
    for deflate in (0, OUTLIERS.size):
        for count in steps:
            found[deflate > 0, count] = rl.spectral_density(
                operator, num_probes=probes, num_steps=count, kappa=KAPPA, deflate=deflate, rng=rng
            )
    return size, found


def shares(x, eigenvalues, width):
    """Share of the Gaussians around each eigenvalue between two points."""
    return ndtr((x[1] - eigenvalues) / width) - ndtr((x[0] - eigenvalues) / width)


def judge(data, theory):
    size, found = data
    inside = bulk(size)
    steps = sorted({count for _, count in found})
    checks, error = [], {}
    for deflated in (False, True):
        mass, spread, expected, widths = [], [], [], []
        for count in steps:
            density = found[deflated, count]
            samples = np.array(
                [np.sum(w * shares(GAP, x, density.width)) for x, w in zip(density.nodes, density.weights, strict=True)]
            )
            low, high = density.bounds
            width = theory(0.5 * (high - low), count, deflated)
            mass.append(samples.mean())
            spread.append(samples.std(ddof=1) / len(samples) ** 0.5)
            expected.append(np.sum(shares(GAP, inside, width)) / size)
            widths.append(width)
            error[deflated, count] = bulk_error(density, inside)
        name = "deflated" if deflated else "as it is"
        # Nodes stand for eigenvalues up to a width away.
        checks.append(
            Check(
                f"{name}: share of the spectrum in the gap of the bulk", mass, spread, expected, bias=0.003, detect=0.1,
                sizes=steps, note="a share of 0.17 in the gap is no gap at all",
            )
        )  # fmt: skip
    ratio = [error[True, m] / error[False, m] for m in steps]
    checks.append(
        Check(
            "distance of the bulk from the truth, deflated over not", ratio, 0.0, 0.0, bias=0.2, detect=0.4,
            sizes=steps, note="0 would be perfect; the claim is that it is far below 1",
        )
    )  # fmt: skip
    plain, top = found[False, steps[-1]], found[True, steps[-1]].outliers
    seen = np.sort([plain.nodes[0][np.argmin(np.abs(plain.nodes[0] - value))] for value in OUTLIERS])
    checks.append(exact("eigenvalues taken out, relative to the outliers", top / OUTLIERS, 1.0, tolerance=1e-6))
    checks.append(exact("outliers without deflation, relative to those taken out", seen / top, 1.0, tolerance=1e-6))
    beyond = [found[True, m].count_below(10.0)[0] for m in steps]
    checks.append(exact("eigenvalues below the outliers, deflated", beyond, size - 10.0, tolerance=1e-6 * size))

    def plot():
        figure, axes = figures.panels(2, f"{steps[-1]} steps as it is", f"{steps[-1]} steps, deflated")
        for ax, deflated in zip(axes, (False, True), strict=True):
            density = found[deflated, steps[-1]]
            x = np.linspace(-0.4, 1.6, 1000)
            heights = np.array([np.exp(-0.5 * ((x - n) / density.width) ** 2) for n in density.nodes.ravel()])
            heights = density.weights.ravel() @ heights / len(density.nodes) / density.width / np.sqrt(2 * np.pi)
            ax.hist(
                inside, 100, weights=np.full(inside.size, 1 / size / 0.012), color=figures.COLOURS[4], label="exact"
            )
            ax.plot(x, heights, color=figures.COLOURS[1], lw=1.2, label="Lanczos")
            ax.set(xlabel=r"eigenvalue $\lambda$", ylabel="density", xlim=(-0.4, 1.6))
            figures.legend(ax)
        return figure

    last = steps[-1]
    text = f"""The bulk has nothing between 0.4 and 0.8. With outliers up to 100 setting the width, {last} steps put
    {checks[0].estimate[-1]:.3f} of the spectrum between 0.5 and 0.7, with the ten outliers taken out
    {checks[1].estimate[-1]:.4f}. The Wasserstein distance of the bulk from the truth falls from
    {error[False, last]:.3f} to {error[True, last]:.4f}. The top eigenvalues are those that plain Lanczos sees too."""
    return Outcome(checks, text, plot)


def bulk_error(density, inside):
    """Wasserstein distance of the smoothed density from the bulk, over what is not outliers."""
    x = np.linspace(-2.0, 8.0, 4001)
    share = density.cdf(x) * density.dimension / inside.size
    exact_share = np.searchsorted(inside, x, side="right") / inside.size
    return float(np.trapezoid(np.abs(share - exact_share), x))


def papyans_width(half_range, steps, deflated):
    return 2 / ((steps - 1) * np.sqrt(8 * np.log(KAPPA))) * half_range


CLAIM = Claim(
    statement="""Taking out the top eigenvalues first (by subspace iteration, or any solver) locates them and
    improves the resolution of the bulk, as the width of the Gaussians goes with the range of what is left.""",
    source="Papyan (2018), The full spectrum of deepnet Hessians at scale, fig. 5, sec. 5.7 and algorithms 3 to 5",
    estimates="""share of the spectrum that the density puts into a gap of the bulk, with ten outliers up to 100 and
    without them, over probes; Wasserstein distance of the bulk from the truth; the eigenvalues taken out""",
    reference="the dense eigenvalues under Gaussians of algorithm 3's width; the outliers themselves",
    bias="0.003: a quadrature moves weight by about the distance of its nodes, a few thousandths of the bulk",
    draw=draw,
    judge=judge,
    theory=papyans_width,
    mutants={
        "no sqrt(8 ln kappa)": lambda half, steps, deflated: 2 / (steps - 1) * half,
        "the range before deflation": lambda half, steps, deflated: papyans_width(max(half, 55.0), steps, deflated),
        "base-10 logarithm": lambda half, steps, deflated: papyans_width(half, steps, deflated) * np.sqrt(np.log(10)),
    },
)
