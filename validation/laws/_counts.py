"""Mean numbers of eigenvalues below fixed points, for the claims on the Marchenko-Pastur bulk."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmtland.laws.marchenko_pastur import MarchenkoPastur
from validation import Check, Outcome, exact, figures, rate
from validation.expansions import count_shift
from validation.sampling import wishart

LEVELS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
"""Shares of the nonzero eigenvalues at which they are counted."""


def draw(ratio: float, sizes: dict[int, int], rng: np.random.Generator) -> dict[str, Any]:
    """Counts below the points by size K = min(p, n): arrays (draws, 5); one draw of the largest size for the figure."""
    law = MarchenkoPastur(ratio)
    x = law.ppf(law.atom + (1 - law.atom) * LEVELS)
    counts, zeros, last = {}, {}, None
    for size, draws in sizes.items():
        p, n = (size, round(size / ratio)) if ratio <= 1 else (round(size * ratio), size)
        last = wishart(p, n, draws, rng)
        counts[size] = (last[:, :, None] <= x).sum(axis=1)
        # The sampler leaves the zeros out, so they are counted in matrices of full size.
        full = rng.standard_normal((4, p, n))
        zeros[size] = (np.linalg.eigvalsh(full @ full.transpose(0, 2, 1) / n) < 1e-9).sum(axis=1)
    return {"ratio": ratio, "x": x, "counts": counts, "zeros": zeros, "sample": last[:200]}


def judge(data: dict[str, Any], theory: Any) -> Outcome:
    """Counts against ``theory(ratio).cdf`` and the derived term; the rate of the mean spectral distribution."""
    ratio, x, counts = data["ratio"], data["x"], data["counts"]
    law, true = theory(ratio), MarchenkoPastur(ratio)
    shift = count_shift(x, *true.support)
    sizes = np.array(list(counts))
    dimensions = np.array([round(k * max(ratio, 1)) for k in sizes])
    found = [c + z.mean() for c, z in zip(counts.values(), data["zeros"].values(), strict=True)]
    mean = np.array([c.mean(axis=0) for c in found])
    error = np.array([c.std(axis=0, ddof=1) / len(c) ** 0.5 for c in found])
    expected = dimensions[:, None] * law.cdf(x)
    zeros = np.array(list(data["zeros"].values())).mean(axis=1)
    checks = [
        exact("number of zeros, p - n or 0", zeros, dimensions * law.atom, tolerance=1e-9),
        Check(
            "eigenvalues counted below 5 points",
            mean,
            error,
            expected + shift,
            0.5 / sizes[:, None],
            0.6,
            sizes,
            "beyond the derived term O(1/K), bounded by 1/(2K); half an eigenvalue matters",
        ),
    ]
    # The error of the distribution along the derived term: one number per size, and it falls like 1/p.
    along = [(c - e) @ shift / (shift @ shift) / p for c, e, p in zip(found, expected, dimensions, strict=True)]
    amplitude = np.array([a.mean() for a in along])
    deviation = np.array([a.std(ddof=1) / len(a) ** 0.5 for a in along])
    checks.append(
        rate("rate of the mean distribution's error", dimensions, amplitude, deviation, 1.0, detect=0.8, bias=0.05)
    )

    def plot() -> Any:
        figure, (left, right) = figures.panels(2, "density", "mean distribution less the law, in eigenvalues")
        low, high = true.support
        grid = np.linspace(max(low, 1e-3), high, 400)
        left.hist(data["sample"].ravel(), 60, density=True, color="#cccccc", label=f"draws, K = {sizes[-1]}")
        left.plot(grid, law.pdf(grid) / (1 - law.atom), color=figures.COLOURS[1], label="law, of nonzero eigenvalues")
        left.set(xlabel=r"eigenvalue $\lambda$ (entries of variance 1)", ylabel=r"density per unit of $\lambda$")
        figures.legend(left)
        inner = np.linspace(low, high, 300)[1:-1]
        right.plot(
            inner, count_shift(inner, low, high), color="black", lw=1.2, label="derived: 1/4 at edges less arcsine/2"
        )
        for colour, size, m, e, want in zip(figures.COLOURS, sizes, mean, error, expected, strict=False):
            figures.points(right, x, m - want, e, colour, f"K = {size}")
        right.set(xlabel=r"$x$", ylabel=r"$E\,\#\{\lambda\leq x\} - p\,F(x)$")
        figures.legend(right)
        return figure

    slope = checks[-1]
    text = f"""At p/n = {ratio:g} the mean number of eigenvalues below five points follows p F(x) to within
    {np.abs(mean - expected).max():.2f} eigenvalues at every size, and what is left is the derived term
    (largest difference {np.abs(mean - expected - shift).max():.3f}). The error of the mean distribution therefore falls
    like p^-{float(slope.estimate):.2f} +- {float(slope.standard_error):.2f}; p^-1 is derived, p^-1/2 would be that of
    independent points.

    Every draw has {"exactly p - n zeros: the atom 1 - 1/ratio is exact at every size" if ratio > 1 else "no zero"}."""
    return Outcome(checks, text, plot)
