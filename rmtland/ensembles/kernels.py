"""Random numbers inside compiled code: one stream per replicate, normal and chi-square draws.

The stream of replicate i is xoshiro256++ started from the state that NumPy's `SeedSequence` gives its i-th spawned
child, worked out here so that neither generators nor seeds of all replicates are ever held, and so that threads share
nothing. A state is a uint64 array of length 4.

References
----------
O'Neill (2015), Developing a seed_seq alternative (the hash of `numpy.random.SeedSequence`). Blackman and Vigna (2021),
Scrambled linear pseudorandom number generators, ACM Trans. Math. Softw. 47. Marsaglia and Tsang (2000), The ziggurat
method for generating random variables, J. Stat. Softw. 5; A simple method for generating gamma variables, ACM Trans.
Math. Softw. 26.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, uint64

Floats = npt.NDArray[np.float64]
State = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint64]

_OPTIONS: Any = {"cache": True, "error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}
compiled: Any = njit(**_OPTIONS)
"""For kernels that Python calls."""
_INNER: Any = {**_OPTIONS, "no_cpython_wrapper": True}
inner: Any = njit(**_INNER)
"""For kernels that kernels call: a quarter less to compile."""

_POOL = 4
_INIT_A, _MULT_A = np.uint64(0x43B0D7E5), np.uint64(0x931E8875)
_INIT_B, _MULT_B = np.uint64(0x8B51F9DD), np.uint64(0x58F38DED)
_MIX_L, _MIX_R = np.uint64(0xCA01F9DD), np.uint64(0x4973F715)
_HALF, _WORD, _MASK = np.uint64(16), np.uint64(32), np.uint64(0xFFFFFFFF)


def _ziggurat() -> tuple[Floats, Floats, float]:
    """Widths x_i (256 layers of equal area under exp(-x^2/2)), heights exp(-x_i^2/2), and the start of the tail."""
    layers = 256

    def closes(r: float) -> tuple[float, list[float]]:
        """How far the layers with tail from r miss the peak (< 0: too few fit below it), and their widths."""
        area = r * math.exp(-r * r / 2) + math.sqrt(math.pi / 2) * math.erfc(r / math.sqrt(2))
        widths = [area / math.exp(-r * r / 2), r]
        for _ in range(layers - 2):
            height = area / widths[-1] + math.exp(-(widths[-1] ** 2) / 2)
            if height >= 1:
                return 1.0, widths
            widths.append(math.sqrt(-2 * math.log(height)))
        return area / widths[-1] + math.exp(-(widths[-1] ** 2) / 2) - 1, widths

    low, high = 3.0, 4.0  # areas shrink as the tail starts further out
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if closes(middle)[0] > 0 else (low, middle)
    widths = np.array([*closes(high)[1], 0.0])
    return widths, np.exp(-(widths**2) / 2), high


_WIDTHS, _HEIGHTS, _TAIL = _ziggurat()


@compiled
def seed_state(words: Words, index: int, state: State) -> None:
    """Write to `state` what child `index` of a SeedSequence gives as `generate_state(4, uint64)`.

    `words` are the parent's entropy (padded to 4) and spawn key in base 2^32.
    """
    pool = np.empty(_POOL, dtype=np.uint64)
    constant: Any = _INIT_A
    total = words.size + 1
    # One loop over all uses of the hash: fill the pool, stir it, stir the remaining words in.
    for step in range(_POOL + _POOL * _POOL + _POOL * (total - _POOL)):
        source, target = step - _POOL, step
        if step >= _POOL:
            source, target = (step - _POOL) // _POOL, (step - _POOL) % _POOL
            if source == target:
                continue
        else:
            source = step
        value: Any = np.uint64(index)
        if _POOL <= step < _POOL + _POOL * _POOL:
            value = pool[source]
        elif source < words.size:
            value = words[source]
        value ^= constant
        constant = (constant * _MULT_A) & _MASK
        value = (value * constant) & _MASK
        value ^= value >> _HALF
        if step >= _POOL:
            value = (_MIX_L * pool[target] - _MIX_R * value) & _MASK
            value ^= value >> _HALF
        pool[target] = value
    constant = _INIT_B
    for i in range(2 * _POOL):
        value = pool[i % _POOL] ^ constant
        constant = (constant * _MULT_B) & _MASK
        value = (value * constant) & _MASK
        value ^= value >> _HALF
        if i % 2:
            state[i // 2] |= value << _WORD
        else:
            state[i // 2] = value


@inner
def next_uint64(state: State) -> Any:
    """The next 64 bits of xoshiro256++."""
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    total = s0 + s3
    result = ((total << uint64(23)) | (total >> uint64(41))) + s0
    shifted = s1 << uint64(17)
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= shifted
    s3 = (s3 << uint64(45)) | (s3 >> uint64(19))
    state[0], state[1], state[2], state[3] = s0, s1, s2, s3
    return result


@inner
def uniform(state: State) -> float:
    """Uniform on (0, 1), never 0."""
    return (float(next_uint64(state) >> uint64(12)) + 0.5) * 2.0**-52


@inner
def normal(state: State) -> float:
    """Standard normal, by the ziggurat with 256 layers."""
    while True:
        bits = next_uint64(state)
        layer = bits & uint64(255)
        sign = 1.0 if bits & uint64(256) else -1.0
        x = float(bits >> uint64(12)) * 2.0**-52 * _WIDTHS[layer]
        if x < _WIDTHS[layer + uint64(1)]:
            return float(sign * x)
        if layer == 0:  # the tail beyond x = r, by Marsaglia's method
            while True:
                x = -math.log(uniform(state)) / _TAIL
                y = -math.log(uniform(state))
                if y + y > x * x:
                    return sign * (_TAIL + x)
        low, high = _HEIGHTS[layer], _HEIGHTS[layer + uint64(1)]
        if low + uniform(state) * (high - low) < math.exp(-0.5 * x * x):
            return float(sign * x)


@inner
def gamma(shape: float, state: State) -> float:
    """Gamma variable of any shape >= 0 and scale 1; 0 at shape 0."""
    if shape <= 0.0:
        return 0.0
    boost = 1.0
    if shape < 1.0:
        boost = uniform(state) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        x = normal(state)
        v = 1.0 + c * x
        if v <= 0.0:
            continue
        v = v * v * v
        u = uniform(state)
        square = x * x
        if u < 1.0 - 0.0331 * square * square or math.log(u) < 0.5 * square + d * (1.0 - v + math.log(v)):
            return float(boost * d * v)


@compiled
def normals(words: Words, index: int, out: Floats) -> None:
    """Fill `out` with standard normals of replicate `index`."""
    state = np.empty(4, dtype=np.uint64)
    seed_state(words, index, state)
    for i in range(out.size):
        out[i] = normal(state)


@compiled
def gammas(words: Words, index: int, shape: float, out: Floats) -> None:
    """Fill `out` with gamma variables of replicate `index`."""
    state = np.empty(4, dtype=np.uint64)
    seed_state(words, index, state)
    for i in range(out.size):
        out[i] = gamma(shape, state)
