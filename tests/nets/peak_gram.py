"""Run as a script: how far resident memory (MiB) of a fresh process peaks in a Gram matrix after products, as JSON."""

import gc
import json
import sys

import torch
from torch import nn

import rmtland as rl
from rmtland.nets.budget import give_back_freed_pages
from tests.nets.peak_memory import PROC, status

CHANNELS, SIZE, C, N = 64, 64, 3, 150


def source_of(num_examples, **options):
    torch.manual_seed(0)
    # Graphs keep what the large images pass, matrices the inputs and signals of the wide layers after them.
    wide = [layer for _ in range(20) for layer in (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.Tanh())]
    first = [nn.Conv2d(1, 1, 1), *(nn.Tanh() for _ in range(8)), nn.AdaptiveAvgPool2d(4), nn.Conv2d(1, CHANNELS, 1)]
    network = nn.Sequential(*first, *wide, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, C))
    inputs = torch.randn(num_examples, 1, SIZE, SIZE)
    return rl.nets.NetworkLogitGradients(network, inputs, torch.arange(num_examples) % C, **options)


def main(budget):
    torch.set_num_threads(1)
    small = source_of(6)
    rl.nets.hessian(small) @ torch.ones(small.num_parameters)
    rl.gauss_newton_spectrum(small)  # imports, thread buffers
    source = source_of(N, memory_budget=budget * 2**20)
    gc.collect()
    give_back_freed_pages()
    base = status("VmRSS")
    rl.nets.hessian(source) @ torch.ones(source.num_parameters)
    kept = source._budget.taken / 2**20
    (PROC / "clear_refs").write_text("5")  # the high-water mark starts anew
    rl.gauss_newton_spectrum(source)
    vector = 4 * source.num_parameters / 2**20
    print(json.dumps({"kept": kept, "vector": vector, "peak": status("VmHWM") - base}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
