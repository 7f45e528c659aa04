import math

import numpy as np
import pytest
from scipy import stats

from rmtland.ensembles import kernels
from rmtland.ensembles.replicates import Streams
from tests.ensembles.lift import lift
from tests.statistical import assert_mean

WORDS = Streams.of(11, 1).words


def reference_xoshiro(state, count):
    """xoshiro256++ as published, in Python integers."""
    mask = (1 << 64) - 1
    s = [int(x) for x in state]

    def rotate(x, k):
        return ((x << k) | (x >> (64 - k))) & mask

    out = []
    for _ in range(count):
        out.append((rotate((s[0] + s[3]) & mask, 23) + s[0]) & mask)
        t = (s[1] << 17) & mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotate(s[3], 45)
    return out


@pytest.mark.parametrize("entropy", [0, 7, 2**40 + 3, 10**60, [1, 2, 3], [2**70, 5]])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_states_are_those_of_numpy_children(entropy, depth):
    parent = np.random.SeedSequence(entropy)
    for _ in range(depth):
        parent = parent.spawn(3)[2]
    words = Streams.of(parent, 1).words
    children = np.random.SeedSequence(entropy, spawn_key=parent.spawn_key).spawn(6)
    state = np.empty(4, dtype=np.uint64)
    for i, child in enumerate(children):
        kernels.seed_state(words, i, state)
        np.testing.assert_array_equal(state, child.generate_state(4, np.uint64))


def test_generator_is_xoshiro():
    state = np.array([1, 2**63, 12345, 2**40 + 9], dtype=np.uint64)
    step = lift(kernels.next_uint64)
    expected = reference_xoshiro(state, 200)
    assert [int(step(state)) for _ in range(200)] == expected


def test_ziggurat_layers_have_equal_areas():
    widths, heights, tail = kernels._ziggurat()
    areas = widths[1:-1] * np.diff(heights[1:])
    base = tail * math.exp(-(tail**2) / 2) + math.sqrt(math.pi / 2) * math.erfc(tail / math.sqrt(2))
    assert widths.size == 257
    assert np.all(np.diff(widths) < 0)
    np.testing.assert_allclose(areas[:-1], base, rtol=1e-10)
    np.testing.assert_allclose(areas[-1], base, rtol=1e-6)  # the last one closes at the peak
    assert widths[0] * heights[1] == pytest.approx(base, rel=1e-14)  # the tail, as a rectangle


def test_normals():
    x = np.empty(1_000_000)
    kernels.normals(WORDS, 0, x)
    assert stats.kstest(x, "norm").pvalue > 1e-4
    # Signs, every layer's wedge and the tail beyond it.
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        assert_mean(x**power, expected, detect=0.06 * power**2)
    far = np.abs(x) > kernels._TAIL
    assert_mean(far * 1.0, 2 * stats.norm.sf(kernels._TAIL), detect=2e-4)
    assert stats.kstest(np.abs(x[far]), lambda y: 1 - stats.norm.sf(y) / stats.norm.sf(kernels._TAIL)).pvalue > 1e-4


@pytest.mark.parametrize("shape", [0.05, 0.5, 1.0, 1.5, 40.0, 5e8])
def test_gammas(shape):
    x = np.empty(200_000)
    kernels.gammas(WORDS, 1, shape, x)
    assert stats.kstest(x, stats.gamma(shape).cdf).pvalue > 1e-4
    assert_mean((x - shape) / shape**0.5, 0, detect=0.05)
    assert_mean((x - shape) ** 2 / shape, 1, detect=0.5 if shape < 1 else 0.1)


def test_gamma_of_shape_zero_is_zero():
    x = np.ones(3)
    kernels.gammas(WORDS, 0, 0.0, x)
    assert not x.any()


def test_replicates_are_independent_streams():
    x, y = np.empty(100_000), np.empty(100_000)
    kernels.normals(WORDS, 0, x)
    kernels.normals(WORDS, 1, y)
    assert_mean(x * y, 0, detect=0.05)
    assert_mean(x[1:] * x[:-1], 0, detect=0.05)
