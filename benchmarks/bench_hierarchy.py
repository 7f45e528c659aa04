"""The hierarchy of G: what class means and cross-class means cost beside full gradients on one thread, and memory.

784-256-256-10 on 5,000 examples. First each mean and each part is held against loops over examples and pairs of classes
on networks small enough for it, and the sum of the parts against G on the large one.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from torch import nn

import rmtland as rl
from benchmarks.timing import criterion, interleaved, peak_memory, print_table
from tests import oracles
from tests.nets.networks import build, jacobian

C = 10
MANY = 100
"""Classes of the network whose cross-class means would not fit: 22 GiB."""


def mlp(num_classes: int = C, num_examples: int = 5000) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """784-256-256-10: 269,322 parameters, 5,000 examples."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, num_classes)]
    return nn.Sequential(*layers), torch.randn(num_examples, 784), torch.arange(num_examples) % num_classes


def full_gradient(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> object:
    loss = nn.functional.cross_entropy(module(inputs), labels)
    return torch.autograd.grad(loss, list(module.parameters()))


def kept(small: bool) -> None:
    """All cross-class means of ten classes; measured in a child process."""
    rl.cross_class_means(rl.nets.NetworkLogitGradients(*mlp(num_examples=20 if small else 5000)), keep_pairs=not small)


def streamed(small: bool) -> None:
    """Class means of a hundred classes, traces left out, and a product with every part."""
    source = rl.nets.NetworkLogitGradients(*mlp(2 if small else MANY, 200))
    if small:
        rl.gradient(source)
        return
    parts = rl.hierarchy(source)
    assert not parts.keeps_pairs
    assert parts.residual_norm < 1e-5


def check() -> None:
    """Brute force."""
    for name in ("conv", "mlp", "attention"):
        module, inputs = build(name)
        labels = np.arange(len(inputs)) % 3
        gradients, outputs = (array.numpy() for array in jacobian(module, inputs))
        expected = oracles.hierarchy(outputs, labels, gradients)
        for keep_pairs in (True, False):
            source = rl.nets.NetworkLogitGradients(module, inputs, torch.as_tensor(labels))
            parts = rl.hierarchy(source, keep_pairs=keep_pairs)
            np.testing.assert_allclose(parts.means.class_means, expected["cls"], atol=1e-10)
            for part in ("A1", "A2", "B1", "B2"):
                np.testing.assert_allclose(getattr(parts, part).to_dense(), expected[part], atol=1e-12)
    large = rl.hierarchy(rl.nets.NetworkLogitGradients(*mlp(num_examples=500)))
    assert large.residual_norm < 1e-5, large.residual_norm


def main() -> int:
    check()
    torch.set_num_threads(1)
    network = mlp()
    source = rl.nets.NetworkLogitGradients(*network)
    functions = {
        "full gradient": lambda: full_gradient(*network),
        "cross-class means": lambda: rl.cross_class_means(source, keep_pairs=True),
        "class means alone": lambda: rl.cross_class_means(source, keep_pairs=False),
    }
    seconds = interleaved(functions, repeats=3, clock=time.process_time)
    print_table((mlp.__doc__ or "").strip(), seconds, "full gradient")
    gradient, pairs, classes = seconds.values()
    size = source.num_parameters
    met = [
        criterion("cross-class means / (C full gradients)", pairs / gradient / C, at_most=2),
        criterion("class means alone / full gradient", classes / gradient, at_most=4),
    ]
    peak = peak_memory("benchmarks.bench_hierarchy", "kept")
    met.append(criterion("peak of the cross-class means / (C^2 D float64)", peak / (8 * C**2 * size), at_most=4))
    many = sum(p.numel() for p in mlp(MANY, 1)[0].parameters())
    peak = peak_memory("benchmarks.bench_hierarchy", "streamed")
    print(f"  {MANY} classes: cross-class means {8 * MANY**2 * many / 2**30:.0f} GiB, peak {peak / 2**30:.2f} GiB")
    met.append(criterion("peak of the parts of G, streamed / (C D float64)", peak / (8 * MANY * many), at_most=8))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
