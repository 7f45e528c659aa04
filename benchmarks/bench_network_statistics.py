"""What the statistics of a network cost beside one full gradient g over the same examples, on one thread; their memory.

The clustering with its errors and the scales together, for a fully connected and a convolutional network, and the exact
Gauss-Newton spectrum of the latter apart from its Gram product and eigenproblem, which are timed beside it. First each
is held against brute force on a network small enough for it.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from scipy.linalg.blas import dsyrk
from torch import nn

import rmtland as rl
from benchmarks.timing import criterion, interleaved, peak_memory, print_table
from rmtland.logits.accumulate import loss_at
from rmtland.nets import layer_gram
from rmtland.spectra.measure import spectral_measure
from tests import oracles
from tests.nets.networks import build, jacobian

C = 10
EVERY = 8
"""One in this many columns of the written out rows is multiplied."""


def mlp() -> tuple[nn.Module, torch.Tensor]:
    """784-120-40-10: 99,450 parameters, 5,000 examples."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, 120), nn.ReLU(), nn.Linear(120, 40), nn.ReLU(), nn.Linear(40, C)]
    return nn.Sequential(*layers), torch.randn(5000, 784)


def cnn() -> tuple[nn.Module, torch.Tensor]:
    """Two convolutions and two linear layers: 55,338 parameters, 500 examples."""
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1568, 32), nn.ReLU(), nn.Linear(32, C)),
    ]
    return nn.Sequential(*layers), torch.randn(500, 1, 28, 28)


def wide(width: int = 1500, num_examples: int = 500) -> tuple[nn.Module, torch.Tensor]:
    """784-1500-1500-10: 3.4 million parameters, 500 examples."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, C)]
    return nn.Sequential(*layers), torch.randn(num_examples, 784)


def source_of(module: nn.Module, inputs: torch.Tensor) -> rl.nets.NetworkLogitGradients:
    return rl.nets.NetworkLogitGradients(module, inputs, torch.arange(len(inputs)) % C)


def full_gradient(module: nn.Module, inputs: torch.Tensor) -> object:
    loss = nn.functional.cross_entropy(module(inputs), torch.arange(len(inputs)) % C)
    return torch.autograd.grad(loss, list(module.parameters()))


def both(small: bool) -> None:
    """Clustering and scales of the wide network; measured in a child process."""
    module, inputs = wide(20, 20) if small else wide()
    rl.measure(source_of(module, inputs), "clustering", "logit_scales")


def check() -> None:
    """Brute force: all pairs of logit gradients, residuals written out, the dense matrix."""
    for name in ("conv", "mlp", "attention"):
        module, inputs = build(name)
        labels = np.arange(len(inputs)) % 3
        gradients, outputs = (array.numpy() for array in jacobian(module, inputs))
        source = rl.nets.NetworkLogitGradients(module, inputs, torch.as_tensor(labels))
        measured = rl.measure(source, "clustering", "logit_scales")
        q = measured.clustering
        found = [q.same_logit_same_class, q.same_logit, q.different_logits]
        np.testing.assert_allclose(found, oracles.q_values(gradients, labels), rtol=1e-8)
        np.testing.assert_allclose(
            measured.logit_scales.sigma_E, oracles.scales(outputs, labels, gradients)[2], rtol=1e-8
        )
        values = np.linalg.eigvalsh(oracles.gauss_newton(outputs, gradients))
        eigenvalues = rl.gauss_newton_spectrum(source).eigenvalues
        np.testing.assert_allclose(eigenvalues, values[-len(eigenvalues) :], atol=1e-12 * values[-1])


def statistics() -> list[bool]:
    """Ratios of the clustering and the scales to C full gradients."""
    met = []
    for network in (mlp, cnn):
        module, inputs = network()
        source = source_of(module, inputs)
        functions = {
            "full gradient": lambda m=module, x=inputs: full_gradient(m, x),
            "clustering": lambda s=source: rl.clustering(s),
            "logit_scales": lambda s=source: rl.logit_scales(s),
            "both": lambda s=source: rl.measure(s, "clustering", "logit_scales"),
        }
        seconds = interleaved(functions, repeats=5, clock=time.process_time)
        print_table((network.__doc__ or "").strip(), seconds, "full gradient")
        ratio = seconds["both"] / seconds["full gradient"] / C
        met.append(
            criterion(f"clustering with errors and scales / (C full gradients), {network.__name__}", ratio, at_most=3)
        )
    return met


def spectrum() -> list[bool]:
    """The whole against 2 C full gradients, the Gram product of rows written out and the eigenproblem.

    The Gram product takes half a minute: of one column in `EVERY` it takes that share of it.
    """
    module, inputs = cnn()
    source = source_of(module, inputs)
    groups = source.parameter_groups
    rows = len(inputs) * (C - 1)
    factor = np.random.default_rng(0).standard_normal((rows, source.num_parameters // EVERY))
    gram = dsyrk(1.0, factor.T, trans=1)
    gram = np.triu(gram) + np.triu(gram, 1).T

    def columns(chunk: object) -> torch.Tensor:
        return loss_at(source, chunk).hessian_factor().float()

    def pieces() -> object:
        """What precedes the Gram product: the gradient, and all layers' inputs and signals."""
        return rl.gradient(source), layer_gram._collect(source, columns, dict.fromkeys(groups, False), None)

    functions = {
        "full gradient": lambda: full_gradient(module, inputs),
        "gauss_newton_spectrum": lambda: rl.gauss_newton_spectrum(source),
        "of it, gradient, inputs and signals": pieces,
        "Gram product of rows written out": lambda: dsyrk(1.0, factor.T, trans=1),
        "eigenvalues and powers": lambda: spectral_measure(gram, factor[:, 0]),
    }
    seconds = interleaved(functions, repeats=2, clock=time.process_time)
    seconds["Gram product of rows written out"] *= source.num_parameters / factor.shape[1]
    print_table(f"exact spectrum, {(cnn.__doc__ or '').strip()}", seconds, "full gradient")
    gradient, whole, before, product, eigenproblem = seconds.values()
    bound = 2 * C * gradient + product + eigenproblem
    return [
        criterion("spectrum / (2 C full gradients + Gram product + eigenproblem)", whole / bound, at_most=1),
        criterion("gradient, inputs and signals / (C full gradients)", before / gradient / C, at_most=2),
    ]


def main() -> int:
    check()
    torch.set_num_threads(1)
    met = [*statistics(), *spectrum()]
    module, _ = wide()
    sums = 4 * C * sum(p.numel() for p in module.parameters())
    peak = peak_memory("benchmarks.bench_network_statistics", "both")
    full = 500 * sums
    print(f"  {(wide.__doc__ or '').strip()} Logit gradients {full / 2**30:.0f} GiB, peak {peak / 2**30:.2f} GiB")
    met.append(criterion("peak of clustering and scales / (C D numbers in float32)", peak / sums, at_most=12))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
