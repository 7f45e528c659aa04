"""A small network and its ladder, measured once for the files that look at it."""

import pytest
import torch

import rmtland as rl


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)).double()
    return module, torch.randn(30, 5, dtype=torch.float64), torch.arange(30) % 3


@pytest.fixture(scope="session")
def of_network(network):
    return rl.compare(network[0], network[1:], num_draws=3)
