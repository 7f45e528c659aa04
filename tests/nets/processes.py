"""Several gloo processes on this machine, for the tests of distributed sources."""

import multiprocessing
import os
import pickle
import traceback
import warnings

import torch.distributed as dist

PRELOAD = [
    "rmtland.comparison.compare",
    "torch._dynamo",  # torch itself imports this at the first is_grads_batched
    "rmtland.logits.measure",
    "rmtland.nets.distributed",
    "rmtland.nets.second_derivatives",
    "rmtland.nets.training",
]


def _work(function, rank, size, folder):
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "sigma_")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    try:
        outcome = function(rank, size)
    except BaseException:
        outcome = traceback.format_exc()
    (folder / f"{rank}.part").write_bytes(pickle.dumps(outcome))
    os.replace(folder / f"{rank}.part", folder / f"{rank}.pickle")
    os._exit(0)  # a group that has lost a rank waits for it at exit


def run(function, size, folder, limit=60):
    """function(rank, size) in `size` processes; what each returned, or its traceback, None where it died."""
    context = multiprocessing.get_context("forkserver")  # torch is imported once, not by every process
    context.set_forkserver_preload(PRELOAD)
    processes = [context.Process(target=_work, args=(function, rank, size, folder)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(limit)
            assert process.exitcode is not None, f"a rank did not end within {limit} s"
    finally:
        for process in processes:
            process.kill()
    files = [folder / f"{rank}.pickle" for rank in range(size)]
    return [pickle.loads(file.read_bytes()) if file.exists() else None for file in files]
