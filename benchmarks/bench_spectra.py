"""Eigenpairs of a network's Hessian in few products, beside SciPy and PyHessian; what a Lanczos step costs beyond its
product, beside ARPACK; and the memory of the recurrence in three vectors.

The network is that of the peers: 784-256-256-10 with ReLU, 269,322 parameters in float32, cross-entropy on 2,000 random
inputs. Its Hessian's product is one backward pass through a kept graph, the same for everybody.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

import rmtland as rl
from benchmarks.peers import PeerError, run_peer
from benchmarks.timing import criterion, interleaved, peak_memory

K = 10
SEEDS = range(10)
STEPS = 64
D_STEP, D_LARGE, LARGE_STEPS = 300_000, 30_000_000, 128
PYHESSIAN = ("PyHessian==0.1", "torch==2.13.0", "numpy")
CURVLINOPS = ("curvlinops-for-pytorch==3.0.1", "torch==2.13.0")

WORKLOAD = """
import torch
def workload(seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(784, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(256, 10))
    return network, torch.randn(2000, 784), torch.randint(0, 10, (2000,))
"""

RUN_PYHESSIAN = """
from pyhessian import hessian
network, inputs, labels = workload()
count = [0]
module = sys.modules["pyhessian.hessian"]  # the package gives its class the module's name
original = module.hessian_vector_product
def counted(*arguments):
    count[0] += 1
    return original(*arguments)
module.hessian_vector_product = counted
values, _ = hessian(network, torch.nn.CrossEntropyLoss(), data=(inputs, labels), cuda=False).eigenvalues(top_n=10)
print(json.dumps({"values": sorted(float(v) for v in values), "products": count[0]}))
"""

RUN_CURVLINOPS = """
import numpy as np
from curvlinops import HessianLinearOperator
from scipy.sparse.linalg import LinearOperator, eigsh
network, inputs, labels = workload()
parameters = [p for p in network.parameters() if p.requires_grad]
operator = HessianLinearOperator(network, torch.nn.CrossEntropyLoss(), parameters, [(inputs, labels)]).to_scipy()
count = [0]
def multiply(v):
    count[0] += 1
    return operator @ v.reshape(-1).astype(np.float32)
linear = LinearOperator(operator.shape, matvec=multiply, dtype=np.float64)
values = eigsh(linear, k=10, which="LA", return_eigenvectors=False)
print(json.dumps({"values": sorted(float(v) for v in values), "products": count[0]}))
"""


def network_hessian() -> rl.SymmetricOperator:
    scope: dict[str, Callable[[], tuple[torch.nn.Module, torch.Tensor, torch.Tensor]]] = {}
    exec(WORKLOAD, scope)
    network, inputs, labels = scope["workload"]()
    parameters = list(network.parameters())
    loss = torch.nn.functional.cross_entropy(network(inputs), labels)
    slope = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])

    def multiply(block: torch.Tensor) -> torch.Tensor:
        columns = []
        for v in block.T:
            parts = torch.autograd.grad(slope, parameters, v.contiguous(), retain_graph=True)
            columns.append(torch.cat([part.reshape(-1) for part in parts]))
        return torch.stack(columns, 1)

    return rl.SymmetricOperator(multiply, slope.numel(), torch.zeros(0))


def eigsh_products(operator: rl.SymmetricOperator, tolerance: float) -> tuple[np.ndarray, int]:
    """What `eigsh` gives in float64 vectors, and its products."""
    counted = operator.counted()
    linear = LinearOperator(operator.shape, matvec=lambda v: counted @ v.reshape(-1), dtype=np.float64)
    start = np.random.default_rng(0).normal(size=operator.dimension)
    values = eigsh(linear, k=K, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return np.sort(values), counted.num_products


def products() -> list[bool]:
    operator = network_hessian()
    reference, _ = eigsh_products(operator, 1e-9)
    worst, most = 0.0, 0
    print(f"top {K} of the Hessian, D = {operator.dimension}, float32: products, largest relative error")
    for seed in SEEDS:
        begun = time.perf_counter()
        pairs = rl.top_eigenpairs(operator, K, rng=seed)
        seconds = time.perf_counter() - begun
        assert pairs.converged.all()
        error = float(np.abs(pairs.eigenvalues / reference - 1).max())
        print(f"  default tolerance, seed {seed}: {pairs.num_products:4d}  {error:.1e}  {seconds:.1f} s")
        worst, most = max(worst, error), max(most, pairs.num_products)
    pairs = rl.top_eigenpairs(operator, K, rng=0, tolerance=1e-5)
    print(f"  tolerance 1e-5, seed 0: {pairs.num_products:4d}  {np.abs(pairs.eigenvalues / reference - 1).max():.1e}")
    for name, tolerance in (("eigsh, float64, default", 0.0), ("eigsh, float64, tol=1e-5", 1e-5)):
        values, count = eigsh_products(operator, tolerance)
        print(f"  {name}: {count:4d}  {np.abs(values / reference - 1).max():.1e}")
    for name, script, needed in (
        ("PyHessian, default", RUN_PYHESSIAN, PYHESSIAN),
        ("curvlinops + eigsh", RUN_CURVLINOPS, CURVLINOPS),
    ):
        try:
            peer = run_peer(WORKLOAD + script, needed, timeout=900)
            print(f"  {name}: {peer['products']:4d}  {np.abs(np.array(peer['values']) / reference - 1).max():.1e}")
        except PeerError as error:
            print(f"  {name}: not run, {error}")
    return [
        criterion("products, the most of all seeds", most, at_most=90),
        criterion("relative error, the largest", worst, at_most=1e-6),
    ]


def repeat(product: Callable[[], object]) -> None:
    for _ in range(STEPS):
        product()


def overhead() -> list[bool]:
    """Milliseconds of one thread per step beyond the product, ARPACK's with as many vectors in its basis."""
    met = []
    for dtype in (np.float32, np.float64):
        diagonal = (np.linspace(-1, 1, D_STEP) ** 3).astype(dtype)
        operator = rl.SymmetricOperator(lambda block, d=diagonal: d[:, None] * block, D_STEP, diagonal)
        start = np.random.default_rng(0).normal(size=D_STEP).astype(dtype)
        count = [0]

        def multiply(v: np.ndarray, d: np.ndarray = diagonal, count: list[int] = count) -> np.ndarray:
            count[0] += 1
            return d * v

        linear = LinearOperator(operator.shape, matvec=multiply, dtype=dtype)

        def arpack(linear: LinearOperator = linear, start: np.ndarray = start, count: list[int] = count) -> None:
            count[0] = 0
            with contextlib.suppress(ArpackNoConvergence):
                eigsh(linear, K, which="LA", ncv=STEPS, maxiter=1, tol=1e-30, v0=start, return_eigenvectors=False)

        runs = {full: rl.lanczos(operator, STEPS, start=start, reorthogonalize=full) for full in (True, False)}
        np.testing.assert_allclose(runs[True].alpha[:8], runs[False].alpha[:8], atol=1e-6)
        seconds = interleaved(
            {
                "arpack": arpack,
                "with": lambda o=operator, s=start: rl.lanczos(o, STEPS, start=s),
                "without": lambda o=operator, s=start: rl.lanczos(o, STEPS, start=s, reorthogonalize=False),
                "product": lambda o=operator, s=start: repeat(lambda: o @ s),
                "product of arpack": lambda f=multiply, s=start: repeat(lambda: f(s)),
            },
            clock=time.process_time,
        )
        arpack()
        theirs = seconds["arpack"] / count[0] - seconds["product of arpack"] / STEPS
        mine, short = ((seconds[name] - seconds["product"]) / STEPS for name in ("with", "without"))
        print(f"overhead of a step, D = {D_STEP}, {np.dtype(dtype).name}, {STEPS} vectors, median of 7, one thread")
        print(f"  ARPACK {1e3 * theirs:.2f} ms, lanczos {1e3 * mine:.2f} ms, without a basis {1e3 * short:.2f} ms")
        met.append(criterion("lanczos / ARPACK", mine / theirs, at_most=1))
        met.append(criterion("without reorthogonalisation / ARPACK", short / theirs, at_most=0.5))
    return met


def differences(block: np.ndarray) -> np.ndarray:
    """Second differences, an operator without memory of its own: one vector, the product."""
    result = 2 * block
    result[1:] -= block[:-1]
    result[:-1] -= block[1:]
    return result


def large(small: bool) -> None:
    """A run in three vectors; measured in a child process."""
    size = 1000 if small else D_LARGE
    operator = rl.SymmetricOperator(differences, size, np.zeros(0, dtype=np.float32))
    result = rl.lanczos(operator, 4 if small else LARGE_STEPS, rng=0, reorthogonalize=False)
    assert small or (3.9 < result.ritz_values[-1] < 4 and 0 < result.ritz_values[0] < 0.1)


def memory() -> list[bool]:
    peak = peak_memory("benchmarks.bench_spectra", "large")
    vectors = peak / (4 * D_LARGE)
    print(f"D = {D_LARGE:.0e}, float32, {LARGE_STEPS} steps without reorthogonalisation: {peak / 2**20:.0f} MiB")
    return [criterion("peak memory in vectors, the product's result among them", vectors, at_most=4)]


def main() -> int:
    met = overhead() + memory() + products()
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
