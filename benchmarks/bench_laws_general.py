"""The generalised Marchenko-Pastur law against freealg and against its size limits; the random energy model's time."""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

import rmtland as rl
from benchmarks.peers import PeerError, run_peer
from benchmarks.timing import criterion, interleaved, print_table

FREEALG = ("freealg==0.12.2",)
RATIO = 0.5
POINTS = 1000
PEER_ATOMS = (2, 20, 60)

PEER = f"""
import numpy
from freealg.distributions import DeformedMarchenkoPastur
found = {{}}
for size in {PEER_ATOMS}:
    atoms = numpy.linspace(1.0, 3.0, size)
    law = DeformedMarchenkoPastur(atoms, numpy.full(size, 1 / size), {RATIO})
    x = numpy.linspace(0.01, 12, {POINTS})
    start = time.perf_counter()
    density = law.density(x)
    took = time.perf_counter() - start
    found[size] = {{
        "time": took if size > 2 else median_time(lambda: law.density(x), repeats=3),
        "mass": float(numpy.sum((density[1:] + density[:-1]) / 2 * numpy.diff(x))),
        "values": density.tolist(),
    }}
print(json.dumps(found))
"""


def population(size: int) -> np.ndarray:
    return np.linspace(1.0, 3.0, size)


def mass(law: rl.GeneralizedMarchenkoPastur, nodes: int = 400) -> float:
    """Atom and integral of the density, by Gauss-Legendre in the angle of each band."""
    node, weight = np.polynomial.legendre.leggauss(nodes)
    angle = np.pi / 2 * (1 + node)
    total = law.atom
    for low, high in law.support:
        x = np.where(
            angle < np.pi / 2,
            low + (high - low) * np.sin(angle / 2) ** 2,
            high - (high - low) * np.cos(angle / 2) ** 2,
        )
        total += np.sum(weight * law.pdf(x) * np.sin(angle)) * (high - low) * np.pi / 4
    return float(total)


def against_freealg() -> bool:
    laws = {size: rl.GeneralizedMarchenkoPastur.sample_covariance(population(size), RATIO) for size in PEER_ATOMS}
    x = np.linspace(0.01, 12, POINTS)
    # Our time on both sides of theirs, the worse counting: the peer cannot take turns with us in one process.
    functions = {str(size): lambda law=law: [law.pdf(x) for _ in range(10)] for size, law in laws.items()}
    before = interleaved(functions)
    peer = run_peer(PEER, FREEALG)
    after = interleaved(functions)
    # It smears edges by its distance from the real axis; in between it is the same law.
    assert np.median(np.abs(np.array(peer["2"]["values"]) - laws[2].pdf(x))) < 1e-4, "not the same law"
    seconds = {}
    for size in PEER_ATOMS:
        seconds[f"freealg, {size} atoms"] = peer[str(size)]["time"]
        seconds[f"GeneralizedMarchenkoPastur, {size} atoms"] = max(before[str(size)], after[str(size)]) / 10
    print_table(f"density at {POINTS} points", seconds, "freealg, 2 atoms")
    for size in PEER_ATOMS:
        print(f"  mass at {size} atoms: freealg {peer[str(size)]['mass']:.6f}, ours {mass(laws[size]):.12f}")
    ratio = peer["2"]["time"] / seconds["GeneralizedMarchenkoPastur, 2 atoms"]
    return criterion("freealg / ours at 2 atoms", ratio, at_least=50)


def sizes() -> bool:
    holds = True
    rng = np.random.default_rng(0)
    for size, bound, repeats in ((3000, 0.5, 5), (100_000, 20.0, 3)):
        for name, values in (("even", population(size)), ("exponential", rng.exponential(size=size))):
            law = rl.GeneralizedMarchenkoPastur(values, size / RATIO)
            low, high = law.support[0, 0], law.support[-1, 1]
            x = np.linspace(low, high, POINTS)
            g = law.num_parameters * law.stieltjes(x[POINTS // 3 : POINTS // 3 + 3])
            z = [-law.num_parameters / y + np.sum(values / (1 + values * y)) for y in g]
            np.testing.assert_allclose(z, x[POINTS // 3 : POINTS // 3 + 3], rtol=1e-12)
            seconds = interleaved({"pdf": lambda law=law, x=x: law.pdf(x)}, repeats)["pdf"]
            holds &= criterion(f"{size} {name} atoms x {POINTS} points, s", seconds, at_most=bound)
    for size in (1, 20, 100, 3000, 100_000):
        law = rl.GeneralizedMarchenkoPastur(population(size), size / RATIO)
        holds &= criterion(f"mass - 1 at {size} atoms", abs(mass(law) - 1), at_most=1e-8)
    law = rl.GeneralizedMarchenkoPastur(population(2700), 1000)
    seconds = interleaved({"ten": lambda: law.classical_locations(10), "all": law.classical_locations}, 3)
    print_table("classical locations, 2700 atoms, 1000 parameters", seconds, "ten")
    return holds


def random_energy() -> bool:
    def moments() -> None:
        model = rl.RandomEnergyModel(10**6, 5.0)
        together = model.participation() + (10**6 * (10**6 - 1)) * model.pair()
        assert abs(together - 1) < 1e-12
        model.entropy()
        model.max_probability()

    moments()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        moments()
        times.append(time.perf_counter() - start)
    return criterion("random energy moments at C = 1e6, s", statistics.median(times), at_most=0.1)


def main() -> int:
    holds = sizes()
    holds &= random_energy()
    try:
        holds &= against_freealg()
    except PeerError as error:
        print(f"  freealg left out: {error}")
        holds = False
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
