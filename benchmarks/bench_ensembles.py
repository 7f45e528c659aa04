"""Samplers of ensembles against LAPACK, SciPy, scikit-rmt and DPPy; threads, memory and compile time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from scipy.linalg import eigh_tridiagonal

import rmtland as rl
from benchmarks.peers import SCIKIT_RMT, PeerError, run_peer
from benchmarks.timing import criterion, interleaved, peak_memory, print_table
from rmtland.ensembles import tridiagonal
from rmtland.ensembles.replicates import Streams, tridiagonal_eigenvalues

P, N = 1000, 3000
DPPY = ("dppy==0.3.3", "numpy==1.26.4", "scipy==1.12.0", "setuptools<81")
SIZES = {10**4: 200, 10**6: 50, 10**8: 12, 10**9: 6}
"""Features and replicates per call."""

PEER_SCIKIT_RMT = f"""
import numpy
from skrmt.ensemble.wishart_ensemble import WishartEnsemble
def draw(banded):
    return numpy.sort(WishartEnsemble(beta=1, p={P}, n={N}, tridiagonal_form=banded).eigvals())
print(json.dumps({{"dense": median_time(lambda: draw(False)), "banded": median_time(lambda: draw(True)),
                   "top": float(draw(True)[-1])}}))
"""
PEER_DPPY = f"""
import numpy
from dppy.beta_ensembles import LaguerreEnsemble
def draw():
    model = LaguerreEnsemble(beta=1)
    model.sample_banded_model(size_N={P}, size_M={N})
    return numpy.sort(model.list_of_samples[-1])
print(json.dumps({{"banded": median_time(draw), "top": float(draw()[-1])}}))
"""
FIRST_CALL = """
import time
import rmtland as rl
model = rl.Wishart(10_000, 20_000)
start = time.process_time(), time.perf_counter()
model.largest(rng=0, threads=1)
print(time.process_time() - start[0], time.perf_counter() - start[1])
"""


def rows(p: int, n: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of the first `count` rows of a draw."""
    a, b = np.empty(count), np.empty(count)
    tridiagonal.draw(tridiagonal.QD, float(n), float(p), 1.0, 1.0, count, Streams.of(seed, 1).words, 0, a, b)
    return a + b, np.sqrt(b[:-1] * a[1:])


def whole_spectrum() -> bool:
    model = rl.Wishart(P, N)
    diagonal, off = rows(P, N, P, 0)
    np.testing.assert_allclose(tridiagonal_eigenvalues(diagonal.copy(), off.copy()) / N, model.eigenvalues(rng=0))
    generator = np.random.default_rng(0)

    def dense() -> np.ndarray:
        x = generator.standard_normal((P, N))
        return np.linalg.eigvalsh(x @ x.T / N)

    functions = {
        "LAPACK sterf, same matrix": lambda: tridiagonal_eigenvalues(diagonal.copy(), off.copy()),
        "Wishart.eigenvalues": lambda: model.eigenvalues(rng=0),
        "NumPy dense": dense,
    }
    seconds = interleaved(functions, repeats=9, clock=time.process_time)
    for name, script, needs in (("scikit-rmt", PEER_SCIKIT_RMT, SCIKIT_RMT), ("DPPy", PEER_DPPY, DPPY)):
        try:
            found = run_peer(script, needs)
        except PeerError as error:
            print(f"  no {name}: {error}")
            continue
        seconds |= {f"{name} {kind}": value for kind, value in found.items() if kind != "top"}
    print_table(
        f"all eigenvalues, p = {P}, n = {N} (peers in processes of their own)", seconds, "LAPACK sterf, same matrix"
    )
    ours = seconds["Wishart.eigenvalues"]
    holds = criterion("ours / sterf", ours / seconds["LAPACK sterf, same matrix"], at_most=1.2)
    return criterion("NumPy dense / ours", seconds["NumPy dense"] / ours, at_least=6) and holds


def top_eigenvalue() -> bool:
    holds = True
    for p, count in SIZES.items():
        model = rl.Wishart(p, 2 * p)
        block = tridiagonal.block_length(model._edge(True)[2], 1, 1, p)
        diagonal, off = rows(p, 2 * p, block, 0)
        last = {"select": "i", "select_range": (block - 1, block - 1), "eigvals_only": True}
        np.testing.assert_allclose(eigh_tridiagonal(diagonal, off, **last) / (2 * p), model.largest(rng=0), rtol=1e-13)

        def scipy_top(diagonal=diagonal, off=off, last=last, count=count) -> None:
            for _ in range(count):
                eigh_tridiagonal(diagonal, off, **last)

        functions = {
            "eigh_tridiagonal, same block": scipy_top,
            "Wishart.largest": lambda model=model, count=count: model.largest(size=count, rng=0, threads=1),
        }
        seconds = {
            name: value / count for name, value in interleaved(functions, repeats=5, clock=time.process_time).items()
        }
        print_table(f"top eigenvalue, p = {p:.0e}, per replicate", seconds, "eigh_tridiagonal, same block")
        ratio = seconds["eigh_tridiagonal, same block"] / seconds["Wishart.largest"]
        holds &= criterion("SciPy / ours, sampling included", ratio, at_least=3)
    return holds


def threads() -> bool:
    model, count = rl.Wishart(10_000, 20_000), 100_000
    np.testing.assert_array_equal(model.largest(size=300, rng=0, threads=1), model.largest(size=300, rng=0, threads=2))
    functions = {f"{k} thread{'s' * (k > 1)}": lambda k=k: model.largest(size=count, rng=0, threads=k) for k in (1, 2)}
    seconds = interleaved(functions, repeats=3, pick=min)
    print_table(f"{count} replicates at p = 1e4", seconds, "1 thread")
    return criterion("speed-up of two threads", seconds["1 thread"] / seconds["2 threads"], at_least=1.8)


def many_replicates(small: bool) -> None:
    rl.Wishart(10_000 if small else 10**9, 2 * 10**9).largest(size=2, rng=0, threads=1)
    rl.Wishart(10_000, 20_000).largest(size=10 if small else 50_000, rng=0, threads=1)


def memory() -> bool:
    need = peak_memory("benchmarks.bench_ensembles", "many_replicates")
    return criterion("MiB for 5e4 replicates at p = 1e4 and two at 1e9", need / 2**20, at_most=4)


def compile_time() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        times = []
        for _ in range(3):
            done = subprocess.run(
                [sys.executable, "-c", FIRST_CALL], env=environment, capture_output=True, text=True, check=True
            )
            times.append([float(word) for word in done.stdout.split()])
    cold, cached = times[0], min(times[1:])
    print(f"first call in a fresh process: {cold[1]:.2f} s of wall time, cached {cached[1]:.2f} s")
    holds = criterion("processor seconds of a first call", cold[0], at_most=3)
    return criterion("processor seconds once cached", cached[0], at_most=0.3) and holds


def main() -> int:
    results = [check() for check in (whole_spectrum, top_eigenvalue, threads, memory, compile_time)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
