"""Atoms of the general law, and the kernels of its solver, for all who test it."""

import types

import numpy as np
import pytest

from rmtland.laws.atoms import counts, edges, kernels
from tests.laws.atoms import CASES
from tests.plain_kernels import plain_kernels


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def plain(monkeypatch):
    """All kernels of the solver as Python."""
    every = {}
    for module in (kernels, counts, edges):
        every |= vars(plain_kernels(module, monkeypatch))
    with np.errstate(all="ignore"):  # as compiled
        yield types.SimpleNamespace(**every)
