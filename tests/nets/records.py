"""A network, examples and a loop to record, for the tests of training records."""

import random

import numpy as np
import torch
from torch import nn

N, C = 24, 3


def data(seed=0, n=N, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % C
    return torch.randn(n, 1, 4, 4, generator=generator, dtype=dtype) + 2 * y[:, None, None, None], y


def network(dtype=torch.float64):
    """With everything that notices being looked at: batch norm's buffers, dropout's random numbers, a frozen layer."""
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(12, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, C),
    )  # fmt: skip
    return module.to(dtype)


def loop(module, record=None, steps=6, start=0):
    x, y = data()
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module.train()
    module[1].eval()  # modes differ from layer to layer
    for step in range(start + 1, steps + 1):
        optimiser.zero_grad()
        noise = 0.01 * torch.randn(x.shape, dtype=x.dtype) * random.random() * np.random.rand()
        nn.functional.cross_entropy(module(x + noise), y).backward()
        optimiser.step()
        if record is not None:
            record.step(step)


def seeded():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
