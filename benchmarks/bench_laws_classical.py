"""Classical laws against plain NumPy, scikit-rmt and the TracyWidom package, in one run."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import rmtland as rl
from benchmarks.peers import SCIKIT_RMT, TRACY_WIDOM, PeerError, run_peer
from benchmarks.timing import criterion, interleaved, print_table

RATIO = 0.5
POINTS = 10_000
QUANTILES = 100

PEER_QUANTILES = f"""
import numpy
from skrmt.ensemble.spectral_law import MarchenkoPasturDistribution
law = MarchenkoPasturDistribution(ratio={RATIO})
q = numpy.linspace(0.005, 0.995, {QUANTILES})
x = numpy.linspace(0.01, 3.5, {POINTS})
print(json.dumps({{
    "ppf": median_time(lambda: law.ppf(q), repeats=3),
    "pdf": median_time(lambda: law.pdf(x), repeats=15),
    "values": law.ppf(q).tolist(),
}}))
"""

PEER_TRACY_WIDOM = f"""
import numpy
from TracyWidom import TracyWidom
x = numpy.linspace(-6, 4, {POINTS})
found = {{}}
for beta in (1, 2, 4):
    law = TracyWidom(beta=beta)
    found[str(beta)] = {{"time": median_time(lambda: law.cdf(x), repeats=31), "values": law.cdf(x).tolist()}}
print(json.dumps(found))
"""


def plain_pdf(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.sqrt(np.maximum((high - x) * (x - low), 0)) / (2 * np.pi * RATIO * x)


def density() -> bool:
    law = rl.MarchenkoPastur(RATIO)
    low, high = law.support
    x = np.linspace(0.01, 3.5, POINTS)
    np.testing.assert_allclose(law.pdf(x), plain_pdf(x, low, high), rtol=1e-14)
    # Tens of microseconds: a hundred calls at a time, so that a timing is not one slice of the scheduler.
    functions = {
        "plain NumPy": lambda: [plain_pdf(x, low, high) for _ in range(100)],
        "MarchenkoPastur.pdf": lambda: [law.pdf(x) for _ in range(100)],
    }
    seconds = interleaved(functions, repeats=15)
    print_table(f"Marchenko-Pastur density, {POINTS} points, 100 calls", seconds, "plain NumPy")
    ratio = seconds["MarchenkoPastur.pdf"] / seconds["plain NumPy"]
    return criterion("pdf / plain NumPy", ratio, at_most=1.5)


def quantiles() -> bool:
    law = rl.MarchenkoPastur(RATIO)
    q = np.linspace(0.005, 0.995, QUANTILES)
    assert np.max(np.abs(law.cdf(law.ppf(q)) - q)) < 1e-14
    # Our time on both sides of theirs, the worse counting: the peer cannot take turns with us in one process.
    ours = {"ppf": lambda: [law.ppf(q) for _ in range(50)]}
    before = interleaved(ours)["ppf"] / 50
    peer = run_peer(PEER_QUANTILES, SCIKIT_RMT)
    after = interleaved(ours)["ppf"] / 50
    assert np.max(np.abs(np.array(peer["values"]) - law.ppf(q))) < 1e-4
    seconds = {"scikit-rmt ppf": peer["ppf"], "MarchenkoPastur.ppf": max(before, after)}
    print_table(f"Marchenko-Pastur quantiles, {QUANTILES} points", seconds, "scikit-rmt ppf")
    return criterion("scikit-rmt / ours", peer["ppf"] / max(before, after), at_least=1000)


def determinants(x: np.ndarray, order: int = 60) -> dict[int, np.ndarray]:
    """The three distribution functions by Bornemann's determinants in double precision, absolutely good to 1e-14."""
    from scipy.special import airy

    nodes, weights = np.polynomial.legendre.leggauss(order)
    found: dict[str, list[float]] = {"minus": [], "plus": []}
    for s in x:
        half = (max(16, 24 - s) - s) / 2  # the kernel falls off in x + y
        y = s + half * (1 + nodes)
        root = np.sqrt(half * weights / 2)
        kernel = root[:, None] * airy((y[:, None] + y) / 2)[0] * root
        found["minus"].append(np.linalg.det(np.eye(order) - kernel))
        found["plus"].append(np.linalg.det(np.eye(order) + kernel))
    minus, plus = np.array(found["minus"]), np.array(found["plus"])
    return {1: minus, 2: minus * plus, 4: (minus + plus) / 2}


def convention_of(values: np.ndarray, x: np.ndarray) -> rl.TracyWidom:
    """Our law of beta = 4 in the scale that the peer's values have."""
    laws = [rl.TracyWidom(4, convention=name) for name in ("tracy-widom", "matrix")]
    return min(laws, key=lambda law: np.max(np.abs(law.cdf(x) - values)))


def tracy_widom() -> bool:
    x, few = np.linspace(-6, 4, POINTS), slice(None, None, 250)
    laws: dict[int, Any] = {1: rl.TracyWidom(1), 2: rl.TracyWidom(2)}
    functions = {beta: (lambda law=law: law.cdf(x)) for beta, law in (laws | {4: rl.TracyWidom(4)}).items()}
    before = interleaved(functions, repeats=31)
    peer = run_peer(PEER_TRACY_WIDOM, TRACY_WIDOM)
    after = interleaved(functions, repeats=31)
    laws[4] = convention_of(np.array(peer["4"]["values"]), x)
    exact = determinants(x[few])
    exact[4] = determinants(x[few] * laws[4]._scale)[4]
    met = []
    for beta, law in laws.items():
        theirs = np.max(np.abs(np.array(peer[str(beta)]["values"])[few] - exact[beta]))
        ours = np.max(np.abs(law.cdf(x[few]) - exact[beta]))
        assert ours < 1e-12, f"beta {beta}: our cdf is off by {ours}"
        mine = max(before[beta], after[beta])
        seconds = {"TracyWidom package": peer[str(beta)]["time"], "TracyWidom.cdf": mine}
        print_table(f"Tracy-Widom cdf, beta = {beta}, {POINTS} points", seconds, "TracyWidom package")
        print(f"  largest error: package {theirs:.1e}, ours {ours:.1e} (against determinants in double precision)")
        met.append(criterion("time, ours / package", mine / peer[str(beta)]["time"], at_most=2))
        met.append(criterion("error, package / ours", theirs / max(ours, 1e-16), at_least=1e6))
    return all(met)


def main() -> int:
    met = [density()]
    for comparison in (quantiles, tracy_widom):
        try:
            met.append(comparison())
        except PeerError as error:
            print(f"  MISS {comparison.__name__} not compared: {error}")
            met.append(False)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
