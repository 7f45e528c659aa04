"""Run as a script: how far a fresh process's resident memory peaks during each call, as JSON in MiB."""

import gc
import json
import pathlib
import sys

import torch
from torch import nn

import rmtland as rl
from rmtland.nets.budget import give_back_freed_pages

PROC = pathlib.Path("/proc/self")
N, C, COLUMNS = 1500, 10, 24


def status(key):
    lines = (PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def source_of(width, num_examples, **options):
    torch.manual_seed(0)
    layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, C)]
    inputs, labels = torch.randn(num_examples, 784), torch.arange(num_examples) % C
    return rl.nets.NetworkLogitGradients(nn.Sequential(*layers), inputs, labels, **options)


def calls(source, few, block):
    gauss_newton, hessian = rl.gauss_newton(source), rl.nets.hessian(source)
    return {
        "gradient": lambda: rl.gradient(source),
        "G v": lambda: gauss_newton @ block[:, 0],
        "H v": lambda: hessian @ block[:, 0],
        "G block": lambda: gauss_newton @ block,
        "H block": lambda: hessian @ block,
        "H block again": lambda: hessian @ block,
        "clustering": lambda: rl.clustering(source),
        "spectrum": lambda: rl.gauss_newton_spectrum(few),
    }


def main(budget):
    torch.set_num_threads(1)
    small = source_of(20, 30)
    for call in calls(small, small, torch.ones(small.num_parameters, 2)).values():
        call()  # imports, thread buffers
    source, few = (source_of(512, n, memory_budget=budget * 2**20) for n in (N, 150))
    block = torch.randn(source.num_parameters, COLUMNS)
    gc.collect()
    give_back_freed_pages()
    base, peaks = status("VmRSS"), {}
    for name, call in calls(source, few, block).items():
        (PROC / "clear_refs").write_text("5")  # the high-water mark starts anew
        call()
        peaks[name] = status("VmHWM") - base
        give_back_freed_pages()
    print(json.dumps({"D": source.num_parameters, "taken": source._budget.taken / 2**20, "peaks": peaks}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
