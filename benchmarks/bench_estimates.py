"""Densities, traces and norms from few products: which method makes the most of them, and what it costs beside them.

Densities by stochastic Lanczos quadrature and by kernel polynomials, at equal products, against all eigenvalues, in the
Wasserstein distance. Traces by Hutch++ and XTrace against the plain mean of Hutchinson, at equal products, in the root
mean square error over seeds. Operators of known eigenvalues, turned by a random orthogonal matrix, so that no method
can make use of the axes.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

import rmtland as rl
from benchmarks.timing import criterion, interleaved, print_table

D, SEEDS = 1000, range(12)
PROBES, STEPS = 4, 64
PRODUCTS = 120
Floats = npt.NDArray[np.float64]


def spectra() -> dict[str, Floats]:
    rng = np.random.default_rng(0)
    bulk = rl.MarchenkoPastur(ratio=0.5).rvs(D - 9, rng=rng)
    return {
        "bulk and 9 outliers": np.append(bulk, np.linspace(8, 30, 9)),
        "semicircle": rl.Semicircle(1.0).ppf((np.arange(D) + 0.5) / D),
        "power law i^-2": 1.0 / np.arange(1, D + 1) ** 2,
        "indefinite, two masses": np.repeat([-1.0, 0.0, 2.0], [D // 4, D // 2, D // 4]),
    }


def turned(eigenvalues: Floats) -> Floats:
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    matrix = (basis * eigenvalues) @ basis.T
    return np.asarray((matrix + matrix.T) / 2)


def distance(density: rl.SpectralDensity, eigenvalues: Floats) -> float:
    """Wasserstein distance of the density from the eigenvalues, over their standard deviation: int |F - F_true| dx."""
    low, high = density.grid[0] - 8 * density.width, density.grid[-1] + 8 * density.width
    x = np.linspace(low, high, 8001)
    true = np.searchsorted(np.sort(eigenvalues), x, side="right") / eigenvalues.size
    share = density.cdf(x)
    assert abs(share[-1] - 1) < 1e-9
    return float(np.trapezoid(np.abs(share - true), x) / eigenvalues.std())


def densities() -> list[bool]:
    print(f"densities, D = {D}, {PROBES * STEPS} products: Wasserstein distance over standard deviation, mean of seeds")
    met = []
    ways: dict[str, dict[str, Any]] = {
        "lanczos": {"method": "lanczos"},
        "kpm": {"method": "kpm"},
        "lanczos, 9 deflated": {"method": "lanczos", "deflate": 9},
    }
    for name, eigenvalues in spectra().items():
        matrix, found = turned(eigenvalues), {}
        for way, options in ways.items():
            steps = STEPS
            if "deflate" in options:
                if name != "bulk and 9 outliers":
                    continue
                spent = rl.top_eigenpairs(matrix, 9, which="magnitude", rng=0).num_products
                steps = max(2, STEPS - spent // PROBES)  # equal products again
            if way == "kpm":  # pays for its bounds
                steps = STEPS - 32 // PROBES
            runs = [rl.spectral_density(matrix, num_probes=PROBES, num_steps=steps, rng=s, **options) for s in SEEDS]
            assert max(run.num_products for run in runs) <= PROBES * STEPS + 8
            means = np.array([run.expectation(lambda x: x) for run in runs])
            scores = (means[:, 0] - eigenvalues.mean()) / np.maximum(means[:, 1], 1e-9)
            assert np.abs(np.median(scores)) < 2, (name, way, scores)
            found[way] = float(np.mean([distance(run, eigenvalues) for run in runs]))
        print(f"  {name}: " + ", ".join(f"{way} {value:.2e}" for way, value in found.items()))
        # On a smooth density polynomials of the same degree do as well: between probes lies the rest of the error.
        met.append(criterion(f"lanczos / kpm, {name}", found["lanczos"] / found["kpm"], at_most=1.2))
    matrix = turned(spectra()["semicircle"])
    seconds = interleaved(
        {
            "dense eigenvalues": lambda: np.linalg.eigvalsh(matrix),
            "lanczos": lambda: rl.spectral_density(matrix, num_probes=PROBES, num_steps=STEPS, rng=0),
            "kpm": lambda: rl.spectral_density(matrix, num_probes=PROBES, num_steps=STEPS, rng=0, method="kpm"),
        },
        repeats=5,
    )
    print_table(f"  the same, time of {PROBES * STEPS} products and all else", seconds, "dense eigenvalues")
    return met


def traces() -> list[bool]:
    print(f"traces, D = {D}, {PRODUCTS} products: root mean square error over ||A||_F, {len(SEEDS)} seeds")
    met = []
    # On a flat spectrum a third of the products is left for probing (two thirds, XTrace): sqrt(3) and sqrt(2) at most.
    bounds = {"bulk and 9 outliers": 0.95, "power law i^-2": 0.05}
    for name, eigenvalues in spectra().items():
        matrix, errors = turned(eigenvalues), {}
        size = float(np.linalg.norm(eigenvalues))
        for method in ("hutchinson", "hutch++", "xtrace"):
            runs = [rl.trace_estimate(matrix, method=method, num_products=PRODUCTS, rng=s) for s in SEEDS]
            assert all(run.num_products <= PRODUCTS for run in runs)
            misses = np.array([run.estimate - eigenvalues.sum() for run in runs])
            scores = misses / np.maximum([run.standard_error for run in runs], 1e-9 * size)
            assert 0.4 < math.sqrt(np.mean(scores**2)) < 1.8, (name, method, scores)
            errors[method] = math.sqrt(np.mean(misses**2)) / size
        print(f"  {name}: " + ", ".join(f"{method} {value:.2e}" for method, value in errors.items()))
        for method in ("hutch++", "xtrace"):
            ratio = errors[method] / max(errors["hutchinson"], 1e-12)
            met.append(criterion(f"{method} / hutchinson, {name}", ratio, at_most=bounds.get(name, 2.2)))
    diagonal = np.linspace(-1, 1, 100_000, dtype=np.float32)
    operator = rl.SymmetricOperator(lambda block: diagonal[:, None] * block, diagonal.size, diagonal)
    seconds = interleaved(
        {
            m: lambda m=m: rl.trace_estimate(operator, method=m, num_products=60, rng=0)
            for m in ("hutchinson", "hutch++")
        }
        | {"xtrace": lambda: rl.trace_estimate(operator, method="xtrace", num_products=60, rng=0)},
        repeats=3,
    )
    print_table("  beside 60 products that cost nothing, D = 1e5, float32", seconds, "hutchinson")
    return met


def main() -> int:
    met = densities() + traces()
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
