"""Functions that the tests sweep, importable by workers in other processes."""

import os
import time

import numpy as np


def noise(a, b=0.0, *, rng):
    """A number and a named array that show parameters and generator."""
    return {"x": a + b + rng.standard_normal(), "y": (("k",), a * rng.standard_normal(3))}


def held_noise(a, b=0.0, *, rng):
    """As `noise`, but never ends beyond a = 2 while an environment variable is set."""
    while a > 2 and "SWEEP_TEST_HOLD" in os.environ:
        time.sleep(0.05)
    return noise(a, b, rng=rng)


def sometimes(a, *, rng):
    """Fails where a is 2, unless an environment variable is set."""
    if a == 2 and "SWEEP_TEST_WELL" not in os.environ:
        raise ZeroDivisionError("two is hard")
    return {"x": a + rng.standard_normal()}


def ragged(a, *, rng):
    return {"x": rng.standard_normal(int(a))}


def product(a, *, rng):
    """A matrix product whose last bits depend on the number of BLAS threads."""
    m = rng.standard_normal((200, 200))
    return {"x": np.linalg.eigvalsh(m @ m.T)[-3:] * a}


def deterministic(a):
    return {"square": a**2}


def threads(a, *, rng):
    from threadpoolctl import threadpool_info

    return {"threads": max([pool["num_threads"] for pool in threadpool_info()], default=1)}


def dies_once(a, flag, *, rng):
    """Takes its process with it the first time that a is 3."""
    if a == 3 and not os.path.exists(flag):
        open(flag, "w").close()
        os._exit(9)
    return {"x": a + rng.standard_normal()}


def dies(a, *, rng):
    if a == 3:
        os._exit(9)
    return {"x": a + rng.standard_normal()}


def store_bytes(path):
    """Every file of a store to its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def often_fails(n, kind, *, rng):
    """Fails where n is 1 to 12, whatever the kind; else a number, an array and a whole number."""
    if 1 <= n <= 12:
        raise ValueError(f"{n} is too many")
    return {"x": n + (1.0 if kind == "b" else 0.25), "y": (("k",), np.array([1.0, -2.0, 4.0])), "count": int(n)}
