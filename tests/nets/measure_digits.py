"""Measure a network on all GPUs, or on several processes of one machine.

    torchrun --nproc-per-node 2 tests/nets/measure_digits.py

On several nodes the same file runs by ``torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint
HOST:PORT``: nothing in it depends on the number of ranks.
"""

import os

import torch
import torch.distributed as dist

import rmtland as rl


def main():
    gpus = torch.cuda.is_available()
    dist.init_process_group("nccl" if gpus else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)

    data = rl.nets.load_dataset("digits")
    inputs, labels = data.x_train[:1000], data.y_train[:1000]
    network = rl.nets.mlp([64, 32, 10], seed=0).to(device)
    if dist.get_rank() == 0:
        rl.nets.train(network, inputs, labels, epochs=3)
    for tensor in network.state_dict().values():
        dist.broadcast(tensor, 0)
    source = rl.nets.shard(network, inputs, labels, timeout=600)

    measured = rl.measure(source, "clustering", "output_statistics")
    top = rl.top_eigenpairs(rl.nets.hessian(source), 10, rng=0)  # a seed: every rank does the same
    if dist.get_rank() == 0:
        print(f"{source.num_examples} examples on {dist.get_world_size()} ranks: {source.examples_per_rank}")
        print(f"accuracy {measured.output_statistics.accuracy:.4f}")
        print(f"q same logit {measured.clustering.same_logit:.10f}")
        print(f"largest eigenvalue {top.eigenvalues[-1]:.10f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
