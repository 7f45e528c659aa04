"""Reduced draws: flat in the number of parameters, cheaper by frozen rows, and a sweep beside the plain NumPy loop.

Processor time on one BLAS thread, as the clock tells of the neighbours; the sweep also by the clock with all cores, the
plain loop's products and eigh on as many threads, our draws side by side.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

import rmtland as rl
from benchmarks.timing import criterion

SIGMAS = np.geomspace(1e-3, 1e2, 40)
LOOP_DRAWS = 4
"""The plain loop is timed on so many of its 40 x 20 draws, whose time does not depend on sigma_z, and scaled; ours on
one draw at each of the 40, as it gets cheaper where examples freeze."""


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Least processor time of several calls, after one that compiles and fills caches."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def plain_loop(model: rl.LandscapeModel, sigma_z: float, seed: int) -> tuple[float, float, float]:
    """What one writes in NumPy: J, H by a batched product and one large one, dense eigh, three numbers."""
    rng = np.random.default_rng(seed)
    n, c, d = model.num_examples, model.num_classes, model.num_parameters
    z = sigma_z * rng.standard_normal((n, c))
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    y = z.argmax(axis=1)
    wrong = rng.permutation(n)[round(0.95 * n) :]
    y[wrong] = (y[wrong] + rng.integers(1, c, wrong.size)) % c
    jacobian = model.sigma_c * rng.standard_normal((c, d)) + model.sigma_E * rng.standard_normal((n, c, d))
    curvature = p[:, :, None] * (np.eye(c) - p[:, None, :])
    hessian = jacobian.reshape(n * c, d).T @ (curvature @ jacobian).reshape(n * c, d) / n
    slope = (p - np.eye(c)[y]).reshape(-1) @ jacobian.reshape(n * c, d)
    values, vectors = np.linalg.eigh(hessian)
    power = np.sum((vectors[:, 1 - c :].T @ slope) ** 2) / (slope @ slope)
    return values[-1], power, values.sum() / np.linalg.norm(values)


def reduced(seed: int, share: bool) -> list[tuple[float, float, float]]:
    """The three numbers of one draw at every sigma_z, with the same normal rows or new ones at each."""
    rows = rl.SharedRows(seed)
    spectra = (
        rl.LandscapeModel.fort_ganguli(sigma_z=sigma_z).spectrum(seed, k=9, rows=rows if share else None)
        for sigma_z in SIGMAS
    )
    return [(s.eigenvalues[-1], s.gradient_power(9), s.goldilocks_ratio()) for s in spectra]


def check() -> None:
    """Both loops draw from one law: means of 24 draws within 5 standard errors of each other."""
    model = rl.LandscapeModel.fort_ganguli(num_examples=60, num_parameters=200)
    for sigma_z in (1.0, 15.0):
        small = rl.LandscapeModel.fort_ganguli(60, 10, 200, sigma_z)
        spectra = [small.spectrum(seed, k=9) for seed in range(24)]
        ours = np.array([(s.eigenvalues[-1], s.gradient_power(9), s.goldilocks_ratio()) for s in spectra])
        theirs = np.array([plain_loop(model, sigma_z, seed) for seed in range(100, 124)])
        error = np.sqrt((ours.var(axis=0, ddof=1) + theirs.var(axis=0, ddof=1)) / 24)
        assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error), (ours.mean(0), theirs.mean(0))


def theory_curve() -> None:
    for sigma_z in SIGMAS:
        theory = rl.LandscapeModel.fort_ganguli(sigma_z=sigma_z).theory(rng=0)
        theory.outliers(), theory.gradient_power(9), theory.goldilocks_ratio()


def at_once(share: bool) -> float:
    """Wall seconds of a draw at every sigma_z, as many draws at once as there are cores, each on one BLAS thread."""
    cores = os.cpu_count() or 1
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cores) as pool:
        start = time.perf_counter()
        list(pool.map(lambda seed: reduced(seed, share), range(cores)))
        return (time.perf_counter() - start) / cores


def plain(sigma_z: float, draws: int) -> float:
    """Wall seconds of as many draws by the plain loop, its products and eigh on all threads, as NumPy has it."""
    model = rl.LandscapeModel.fort_ganguli()
    start = time.perf_counter()
    for seed in range(draws):
        plain_loop(model, sigma_z, seed)
    return time.perf_counter() - start


def main() -> int:
    check()
    theory_curve()
    sizes = {d: rl.LandscapeModel.fort_ganguli(num_parameters=d) for d in (2700, 10**9)}
    # After everything is loaded: a limit does not reach libraries that come later, and their threads wait busily.
    with threadpool_limits(1, user_api="blas"):
        flat = {d: seconds(lambda model=model: model.spectrum(0)) for d, model in sizes.items()}
        whole = seconds(lambda: sizes[10**9].spectrum(0, tolerance=0.0), repeats=1)
        curve = seconds(theory_curve, repeats=2)
        one = seconds(lambda: plain(1.0, LOOP_DRAWS), repeats=2) / LOOP_DRAWS * 800
        ours_one = seconds(lambda: reduced(0, share=True), repeats=2) * 20
    print("N = 300, C = 10, sigma_z = 15, processor time on one BLAS thread")
    for d, value in flat.items():
        print(f"  model.spectrum at D = {d:<12,} {1e3 * value:10.1f} ms")
    print(f"  the same at D = 10^9, no row dropped {1e3 * whole:10.1f} ms")
    print("40 sigma_z from 1e-3 to 1e2 x 20 draws at N = 300, C = 10, D = 1000; scaled from a share of the draws")
    print("  processor time, one BLAS thread")
    print(f"    plain NumPy loop over eigh {one:8.1f} s")
    print(f"    k=9, shared rows     {ours_one:8.1f} s, {one / ours_one:.2f} times faster")
    print(f"    theory curve               {curve:8.1f} s")
    rounds = [(plain(1.0, LOOP_DRAWS) / LOOP_DRAWS * 800, at_once(True) * 20, at_once(False) * 20) for _ in range(3)]
    loop, ours, alone = (min(times) for times in zip(*rounds, strict=True))
    frozen = plain(30.0, LOOP_DRAWS) / LOOP_DRAWS * 800
    print("  by the clock, all cores")
    print(f"    plain NumPy loop over eigh {loop:8.1f} s (at sigma_z = 30: {frozen:.1f} s)")
    print(f"    model.spectrum(k=9)  {alone:8.1f} s")
    print(f"    the same with shared rows  {ours:8.1f} s")
    met = [
        criterion("time at D = 1e9 / time at D = N (C - 1)", flat[10**9] / flat[2700], at_most=1.3),
        criterion("without / with dropping frozen rows at sigma_z = 15", whole / flat[10**9], at_least=2),
        criterion("plain loop / model.spectrum with shared rows, all cores", loop / ours, at_least=5),
        criterion("plain loop / theory, one thread", one / curve, at_least=100),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
