"""Two ranks against one process on the same examples, and what a rank alone pays for being one.

All are timed in turn, the fastest of seven calls: while one process works alone the other rank waits. Beside the time
by the clock, which other work on the machine stretches for two processes more than for one, that on the processor of
the busier rank.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import rmtland as rl
from benchmarks.timing import criterion, print_table

SIZES, N = (784, 256, 256, 10), 10_000


def works(source: Any) -> dict[str, Callable[[], Any]]:
    vector = torch.randn(source.num_parameters, generator=torch.Generator().manual_seed(0))
    gauss_newton, hessian = rl.gauss_newton(source), rl.nets.hessian(source)
    return {
        "gradient": lambda: rl.gradient(source),
        "G v": lambda: gauss_newton @ vector,
        "H v": lambda: hessian @ vector,
        "clustering": lambda: rl.clustering(source).same_logit,
    }


def rank_main(rank: int, size: int, folder: str, small: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    sizes, count = ((20, 8, 3), 60) if small else (SIZES, N)
    network = rl.nets.mlp(sizes, seed=0, dtype=torch.float32)
    inputs = torch.randn(count, sizes[0], generator=torch.Generator().manual_seed(1))
    labels = torch.arange(count) % sizes[-1]
    alone = works(rl.nets.NetworkLogitGradients(network, inputs, labels))
    themselves = [dist.new_group([each]) for each in range(size)]
    single = works(rl.nets.shard(network, inputs, labels, process_group=themselves[rank]))
    shared = works(rl.nets.shard(network, inputs, labels))
    missed = False
    for name in alone:
        values = [np.asarray(work[name]()) for work in (alone, single, shared)]
        for value in values[1:]:
            np.testing.assert_allclose(value, values[0], rtol=1e-4, atol=1e-5 * np.abs(values[0]).max())
        times: dict[str, list[float]] = {"one process": [], "one rank": [], f"{size} ranks": []}
        processor: dict[str, list[float]] = {kind: [] for kind in times}
        for _ in range(3 if small else 7):
            for kind, work in zip(times, (alone, single, shared), strict=True):
                dist.barrier()
                begun, busy = time.perf_counter(), time.process_time()
                if rank == 0 or work is shared:
                    work[name]()
                times[kind].append(time.perf_counter() - begun)
                processor[kind].append(time.process_time() - busy)
        busier = torch.tensor([min(values) for values in processor.values()])
        dist.all_reduce(busier, op=dist.ReduceOp.MAX)
        if rank == 0:
            on_processor = dict(zip(processor, busier.tolist(), strict=True))
            seconds = {kind: min(values) for kind, values in times.items()}
            print_table(name, seconds, "one process")
            print_table(f"{name}, on the processor", on_processor, "one process")
            if not small:
                ratio = {kind: value / seconds["one process"] for kind, value in seconds.items()}
                missed |= not criterion(f"{name}, one rank over one process", ratio["one rank"], at_most=1.1)
                missed |= not criterion(f"{name}, two ranks over one process", ratio[f"{size} ranks"], at_most=0.7)
                share = on_processor[f"{size} ranks"] / on_processor["one process"]
                missed |= not criterion(f"{name}, two ranks over one process, on the processor", share, at_most=0.7)
    sys.stdout.flush()
    os._exit(int(missed))


def main(small: bool = False) -> int:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=rank_main, args=(rank, 2, folder, small)) for rank in range(2)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    return max(abs(process.exitcode or 0) for process in ranks)


if __name__ == "__main__":
    sys.exit(main(small="--small" in sys.argv))
