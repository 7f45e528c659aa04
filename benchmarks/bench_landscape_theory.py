"""Theory of the landscape model: the four properties over sigma_z, large problems, the limit of many examples."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

import rmtland as rl
from benchmarks.timing import criterion, peak_memory


def check() -> None:
    """Trace and norm by the formulas with P, and the outliers against the general law of T's own eigenvalues."""
    model = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=4, num_parameters=300, sigma_z=3.0)
    logits, _ = model.logits.draw_logits(60, 4, np.random.default_rng(0))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    blocks = np.zeros((240, 240))
    for mu, row in enumerate(p):
        part = slice(4 * mu, 4 * mu + 4)
        blocks[part, part] = (np.diag(row) - np.outer(row, row)) / 60
    mean = np.tile(np.eye(4), (60, 1))
    values, vectors = np.linalg.eigh(model.sigma_E**2 * np.eye(240) + model.sigma_c**2 * mean @ mean.T)
    half = (vectors * np.sqrt(values)) @ vectors.T
    t = np.maximum(np.linalg.eigvalsh(half @ blocks @ half), 0)
    theory = model.theory(rng=0)
    np.testing.assert_allclose(theory.trace, 300 * t.sum(), rtol=1e-12)
    law = rl.GeneralizedMarchenkoPastur(t, 300)
    np.testing.assert_allclose(theory.outliers(), law.isf(np.array([2.5, 1.5, 0.5]) / 300), rtol=1e-9)


def four_properties() -> None:
    for sigma_z in np.geomspace(1e-2, 1e2, 200):
        theory = rl.LandscapeModel.fort_ganguli(sigma_z=float(sigma_z)).theory(rng=0)
        theory.outliers()
        theory.gradient_power(9)
        theory.goldilocks_ratio()
        theory.goldilocks_ratio(10)


def density(num_examples: int, num_classes: int, num_points: int) -> rl.LandscapeTheory:
    model = rl.LandscapeModel.fort_ganguli(num_examples, num_classes, 100_000, sigma_z=15.0)
    theory = model.theory(rng=0)
    top = 1.5 * theory.first_order().mean_outlier if num_classes <= 10 else 3 * theory.trace / num_classes
    theory.pdf(np.linspace(0, top, num_points + 1)[1:])
    return theory


def large(warm_up: bool) -> None:
    density(*(300, 10, 5) if warm_up else (50_000, 100, 200))


def wide(warm_up: bool) -> None:
    density(*(300, 10, 5) if warm_up else (10_000, 1000, 20))


def population(num_examples: int, num_classes: int, num_parameters: int) -> None:
    model = rl.LandscapeModel.fort_ganguli(num_examples, num_classes, num_parameters, sigma_z=15.0)
    theory = model.population_theory()
    theory.outliers()
    theory.gradient_power(num_classes - 1)
    theory.goldilocks_ratio()
    theory.pdf(np.linspace(0, 3 * theory.trace / num_classes, 21)[1:])


def structured() -> None:
    """All predictions of anisotropic residuals with C^2 means and 1,000 eigenvalues of the covariance."""
    logits, labels = rl.GaussianLogits(3.0).draw_logits(300, 10, np.random.default_rng(0))
    law = rl.AnisotropicGradients.clustered(10, 1.0, 0.7, 0.4, rl.ResidualCovariance.power_law(0.8, 1000))
    theory = rl.LandscapeModel(300, 10, 10_000, rl.GivenLogits(logits, labels), law).theory()
    x = np.linspace(0.1, 1.1, 40) * theory.bulk_edge
    theory.pdf(x)
    theory.gradient_pdf(x)
    theory.count_above(theory.bulk_edge)
    theory.outliers()
    theory.outliers_std()
    theory.gradient_power(9)
    theory.gradient_power_std(9)
    theory.goldilocks_ratio()
    theory.goldilocks_ratio_std()


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    function()
    return clock() - start


def main() -> int:
    check()
    large(True)
    population(300, 10, 1000)
    print("Theory of the landscape model")
    holds = [
        criterion("four properties at 200 sigma_z, N = 300, C = 10, s", seconds(four_properties), at_most=20),
        criterion("anisotropic residuals, N = 300, C = 10, CPU s", seconds(structured, time.process_time), at_most=10),
        criterion("population, N = 50,000, C = 100, s", seconds(lambda: population(50_000, 100, 10**6)), at_most=5),
        criterion("population, N = 10,000, C = 1000, s", seconds(lambda: population(10_000, 1000, 10**6)), at_most=5),
        criterion("density of 200 points, N = 50,000, C = 100, s", seconds(lambda: large(False)), at_most=180),
        criterion("density of 20 points, N = 10,000, C = 1000, s", seconds(lambda: wide(False)), at_most=600),
    ]
    for name in ("large", "wide"):
        memory = peak_memory("benchmarks.bench_landscape_theory", name) / 2**30
        holds.append(criterion(f"peak memory of {name}, GiB", memory, at_most=4))
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
