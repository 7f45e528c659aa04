"""Products and statistics of a network beside one full gradient g over the same examples, and beside other packages.

One process, one thread, default settings; everything is held against an independent computation before it is timed.
curvlinops, PyHessian and hessian-eigenthings take part where they can be imported and are skipped by name where not.

How cheap a block of ten columns of H can be on an MLP, by its multiplications alone. With f_l the one of all examples
through layer l, g takes 3 of each f_l (outputs, weights, signals) but 2 of f_1, whose inputs need no signals. A column
v, with outputs and signals d_l of the gradient kept, takes

    R s_l = V_l a_(l-1) + W_l R a_(l-1)      R d_(l-1) = V_l^T d_l + W_l^T R d_l
    R (d_l a_(l-1)^T) = R d_l a_(l-1)^T + d_l R a_(l-1)^T

6 f_l, but 2 f_1: inputs have no tangent and no signal. Every term differs from column to column, so that columns side
by side in one product save none of them. For 784-256-256-10 that is (2 x 200,704 + 6 x 68,096) / (2 x 200,704 + 3 x
68,096) = 1.34 g a column and 13.4 g for ten by count. `H multiplications alone` measures this floor, with each product
by itself: 11.3 to 12.7 g, as g has more than multiplications in it. The block does just these 14 a column, all columns
side by side where a term allows it (`rmtland.nets.chains`), which is up to 8% faster than one after another and pays
for activations, the loss, sums and copies.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import rmtland as rl
from benchmarks import bench_network_statistics
from benchmarks.timing import criterion, interleaved, print_table

COLUMNS = 10
EVERY = 50
"""The loop of double backward passes computes one row of the Hessian in this many; its time is multiplied."""
PEERS = ("curvlinops", "pyhessian", "hessian_eigenthings")

Product = Callable[[Tensor], Tensor]


def installed() -> dict[str, Any]:
    """The peers that there are, by name."""
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.import_module(name)
        except ImportError as error:
            print(f"  skipped: {name} ({error})")
    return found


def mlp(widths: tuple[int, ...], num_examples: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    inputs = torch.randn(num_examples, widths[0])
    return nn.Sequential(*layers[:-1]), inputs, torch.arange(num_examples) % widths[-1]


def gradient(module: nn.Module, inputs: Tensor, labels: Tensor, **options: Any) -> Tensor:
    loss = nn.functional.cross_entropy(module(inputs), labels)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()), **options)])


def by_hand(module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Product, Product]:
    """H v by two backward passes, G v by a forward-mode and a reverse-mode pass, in float64: the truth for all."""
    module, inputs = module.double(), inputs.double()
    parameters = list(module.parameters())
    names = [name for name, _ in module.named_parameters()]

    def hessian(v: Tensor) -> Tensor:
        slope = gradient(module, inputs, labels, create_graph=True)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(slope, parameters, v.double())])

    def gauss_newton(v: Tensor) -> Tensor:
        parts = dict(zip(names, torch.split(v.double(), [p.numel() for p in parameters]), strict=True))
        tangents = {n: parts[n].view_as(p) for n, p in module.named_parameters()}
        values = {n: p.detach() for n, p in module.named_parameters()}
        outputs = lambda p: torch.func.functional_call(module, p, (inputs,))  # noqa: E731
        z, u = torch.func.jvp(outputs, (values,), (tangents,))
        p = z.softmax(1)
        curved = (p * u - p * (p * u).sum(1, keepdim=True)) / len(inputs)
        found = torch.func.vjp(outputs, values)[1](curved)[0]
        return torch.cat([found[n].reshape(-1) for n in names])

    return hessian, gauss_newton


def curvlinops(package: Any, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Product, Product]:
    arguments = (module, nn.CrossEntropyLoss(), list(module.parameters()), [(inputs, labels)])
    kinds = (package.HessianLinearOperator, package.GGNLinearOperator)
    hessian, gauss_newton = (kind(*arguments, check_deterministic=False) for kind in kinds)
    return lambda v: hessian @ v, lambda v: gauss_newton @ v


def pyhessian(package: Any, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Product, None]:
    known = package.hessian(module, nn.CrossEntropyLoss(), data=(inputs, labels), cuda=False)
    product = importlib.import_module("pyhessian.utils").hessian_vector_product

    def hessian(v: Tensor) -> Tensor:
        parts = torch.split(v, [p.numel() for p in known.params])
        vectors = [part.view_as(p) for part, p in zip(parts, known.params, strict=True)]
        return torch.cat([g.reshape(-1) for g in product(known.gradsH, known.params, vectors)])

    return hessian, None


def hessian_eigenthings(package: Any, module: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Product, Product]:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    hessian = package.HessianOperator(module, [(inputs, labels)], loss)
    gauss_newton = package.GGNOperator(
        module, [(inputs, labels)], lambda model, batch: model(batch[0]),
        lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1]),
    )  # fmt: skip
    return hessian.matvec, gauss_newton.matvec


def multiplications(widths: tuple[int, ...], num_examples: int) -> Callable[[], None]:
    """The matrix products that a block of H cannot do without, on the shapes of an MLP."""
    shapes = [
        (torch.randn(num_examples, a), torch.randn(num_examples, b), torch.randn(b, a)) for a, b in pairwise(widths)
    ]

    def run() -> None:
        for _ in range(COLUMNS):
            for layer, (inputs, signals, weights) in enumerate(shapes):
                for _ in range(2 if layer else 1):
                    inputs @ weights.T
                    signals.T @ inputs
                    if layer:
                        signals @ weights

    return run


def agree(name: str, product: Product, expected: Tensor, v: Tensor) -> None:
    error = float((product(v).detach().double() - expected).norm() / expected.norm())
    assert error < 1e-4, f"{name}: relative error {error:.3g}"


def products(
    peers: dict[str, Any], widths: tuple[int, ...] = (784, 256, 256, 10), num_examples: int = 2000
) -> list[bool]:
    """H and G times a vector and a block of columns."""
    module, inputs, labels = mlp(widths, num_examples)
    source = rl.nets.NetworkLogitGradients(module, inputs, labels)
    operators = rl.nets.hessian(source), rl.gauss_newton(source)
    ours = (lambda v: operators[0] @ v), (lambda v: operators[1] @ v)
    makers = {"curvlinops": curvlinops, "pyhessian": pyhessian, "hessian_eigenthings": hessian_eigenthings}
    kinds: dict[str, Any] = {"rmtland": ours}
    for name, package in peers.items():
        twin = mlp(widths, num_examples)[0]  # PyHessian leaves gradients with graphs in the module
        kinds[name] = makers[name](package, twin, inputs, labels)
    v, block = torch.randn(source.num_parameters), torch.randn(source.num_parameters, COLUMNS)
    exact = by_hand(mlp(widths, num_examples)[0], inputs, labels)
    functions: dict[str, Callable[[], Any]] = {"g": lambda: gradient(module, inputs, labels)}
    for name, pair in kinds.items():
        for letter, product, truth in zip("HG", pair, exact, strict=True):
            if product is None:
                continue
            agree(f"{name} {letter} v", product, truth(v), v)
            functions[f"{letter} v, {name}"] = lambda f=product: f(v)
            if name in ("rmtland", "curvlinops"):
                agree(f"{name} {letter} block", lambda b, f=product: f(b)[:, -1], truth(block[:, -1]), block)
                functions[f"{letter} block of {COLUMNS}, {name}"] = lambda f=product: f(block)
    functions["H multiplications alone"] = multiplications(widths, num_examples)
    seconds = interleaved(functions, repeats=5, clock=time.process_time)
    print_table(f"products, MLP {widths}, {source.num_parameters} parameters, N = {num_examples}", seconds, "g")
    bounds = {"H v": 1.5, "G v": 1.8, f"H block of {COLUMNS}": 13, f"G block of {COLUMNS}": 12}
    met = [
        criterion(f"{what} / g", seconds[f"{what}, rmtland"] / seconds["g"], at_most=most)
        for what, most in bounds.items()
    ]
    for letter in "HG":
        single, many = (seconds[f"{letter} {what}, rmtland"] for what in ("v", f"block of {COLUMNS}"))
        met.append(criterion(f"{letter} block / single products", many / single / COLUMNS, at_most=1.1))
    return met


def exact_hessian(widths: tuple[int, ...] = (100, 30, 30, 50), num_examples: int = 1000) -> list[bool]:
    """The matrix against the plain loop of double backward passes."""
    module, inputs, labels = mlp(widths, num_examples)
    parameters = list(module.parameters())

    def loop() -> Tensor:
        slope = gradient(module, inputs, labels, create_graph=True)
        rows = []
        for i in range(0, len(slope), EVERY):
            found = torch.autograd.grad(slope[i], parameters, retain_graph=True)
            rows.append(torch.cat([g.reshape(-1) for g in found]))
        return torch.stack(rows)

    def ours() -> Any:
        return rl.nets.hessian(module, inputs, labels).to_dense()

    expected = loop().numpy()
    np.testing.assert_allclose(ours()[::EVERY], expected, atol=1e-5 * np.abs(expected).max())
    seconds = interleaved({"loop": loop, "rmtland": ours}, repeats=5, clock=time.process_time)
    seconds["loop"] *= -(-sum(p.numel() for p in parameters) // EVERY) * EVERY / len(expected)
    print_table(f"exact Hessian, MLP {widths}, N = {num_examples}, float32", seconds, "rmtland")
    return [
        criterion("loop of double backward passes / exact Hessian", seconds["loop"] / seconds["rmtland"], at_least=5)
    ]


def main() -> int:
    torch.set_num_threads(1)
    bench_network_statistics.check()
    met = [*products(installed()), *exact_hessian()]
    met += [*bench_network_statistics.statistics(), *bench_network_statistics.spectrum()]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
