"""Numba kernels as Python runs them: no compiler to wait for, and every step seen."""

import math
import types


def plain_kernels(module, monkeypatch, **replaced):
    """The kernels of a module, which call each other, and what is put in the place of others."""
    kernels = {name: thing.py_func for name, thing in vars(module).items() if hasattr(thing, "py_func")} | replaced
    for name, kernel in kernels.items():
        monkeypatch.setattr(module, name, kernel)
    return types.SimpleNamespace(**kernels)


def plain_draws():
    """Chi-square draws as their degrees of freedom, normal ones as the next numbers of the state."""
    return {"gamma": lambda shape, state: shape, "normal": lambda state: float(next(state))}


def counting():
    """A state of `plain_draws`: 1, 2, 3, ..."""
    return iter(range(1, 10**6))


def waves():
    """Draws that go up and down with their number, from another start for every replicate and seed."""

    def wave(state):
        state[0] += 1
        return math.sin(1.3 * float(state[0]))

    def seed_state(words, index, state):
        state[:] = 1000 * index + words[0]

    return {"normal": wave, "gamma": lambda shape, state: shape * (1 + 0.1 * wave(state)), "seed_state": seed_state}


def counted(monkeypatch, module, name):
    """A list that grows by the arguments of each call of a kernel."""
    calls, real = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args: calls.append(args) or real(*args))
    return calls
