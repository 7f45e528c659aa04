"""Random numbers of compiled code as plain Python, step by step; compiled they are in `test_kernels`."""

import itertools
import math

import numpy as np
import pytest

from rmtland.ensembles import kernels
from tests.ensembles.test_kernels import reference_xoshiro
from tests.plain_kernels import plain_kernels

FULL = 2**64 - 1


@pytest.fixture
def plain(monkeypatch):
    with np.errstate(over="ignore"):  # unsigned numbers that wrap, as compiled
        yield plain_kernels(kernels, monkeypatch)


@pytest.mark.parametrize("entropy", [0, 5, 2**40 + 3, 2**200 + 7])
@pytest.mark.parametrize("spawn_key", [(), (3,), (2, 7)])
def test_states_are_those_of_spawned_seed_sequences(plain, entropy, spawn_key):
    words = [entropy >> (32 * i) & 0xFFFFFFFF for i in range(max(4, -(-entropy.bit_length() // 32)))]
    words = np.array([*words, *spawn_key], dtype=np.uint64)
    for index in (0, 1, 12345):
        state = np.empty(4, dtype=np.uint64)
        plain.seed_state(words, index, state)
        child = np.random.SeedSequence(entropy, spawn_key=(*spawn_key, index))
        np.testing.assert_array_equal(state, child.generate_state(4, np.uint64))


def test_bits_are_those_of_the_generator(plain):
    state = np.random.SeedSequence(3).generate_state(4, np.uint64)
    expected = reference_xoshiro(state, 21)
    assert [int(plain.next_uint64(state)) for _ in range(20)] == expected[:20]
    assert int(plain.next_uint64(state)) == expected[20]


def test_uniform_numbers_are_the_middles_of_cells(plain, monkeypatch):
    for bits in (0, FULL, 1 << 12, 5 << 40):
        monkeypatch.setattr(kernels, "next_uint64", lambda state, bits=bits: np.uint64(bits))
        assert plain.uniform(None) == ((bits >> 12) + 0.5) / 2**52


def layers():
    """Right ends of 256 layers of equal area under exp(-x^2 / 2), from the lowest (its tail made a rectangle) up."""
    x = kernels._TAIL
    area = x * math.exp(-x * x / 2) + math.sqrt(math.pi / 2) * math.erfc(x / math.sqrt(2))
    ends, height = [area / math.exp(-x * x / 2), x], math.exp(-x * x / 2)
    while len(ends) < 256:
        height += area / ends[-1]
        ends.append(math.sqrt(-2 * math.log(height)))
    assert height + area / ends[-1] == pytest.approx(1, abs=1e-12)
    return [*ends, 0.0]


@pytest.mark.parametrize("layer", [0, 1, 2, 100, 255])
@pytest.mark.parametrize("negative", [False, True])
def test_normal_numbers_by_layers(plain, monkeypatch, layer, negative):
    ends = layers()
    sign = -1 if negative else 1

    def bits(share):
        return np.uint64(int(share * 2**52) << 12 | (0 if negative else 256) | layer)

    def drawn(*numbers, uniforms=()):
        queue, others = iter(numbers), iter(uniforms)
        monkeypatch.setattr(kernels, "next_uint64", lambda state: next(queue))
        monkeypatch.setattr(kernels, "uniform", lambda state: next(others))
        x = plain.normal(None)
        assert next(queue, None) is None
        assert next(others, None) is None
        return x

    inside = ends[layer + 1] / ends[layer]
    # Under the layer above: taken at once.
    share = 0.75 * inside if layer < 255 else 0.0
    if layer < 255:
        assert drawn(bits(share)) == pytest.approx(sign * share * ends[layer], rel=1e-12)
    if layer == 0:
        # Marsaglia's tail: x = -log(u) / r, taken where -2 log(v) > x^2.
        r = ends[1]
        found = drawn(bits(0.9999), uniforms=(0.1, 0.99, 0.3, 0.8))
        assert -2 * math.log(0.99) < (math.log(0.1) / r) ** 2
        assert -2 * math.log(0.8) > (math.log(0.3) / r) ** 2
        assert found == pytest.approx(sign * (r - math.log(0.3) / r), rel=1e-12)
        return
    # Beside it: under the curve by a uniform height within the layer, or drawn anew.
    share = inside + 0.5 * (1 - inside)
    x = share * ends[layer]
    low, high = math.exp(-(ends[layer] ** 2) / 2), math.exp(-(ends[layer + 1] ** 2) / 2)
    height = (math.exp(-x * x / 2) - low) / (high - low)
    assert drawn(bits(share), uniforms=(height - 1e-3,)) == pytest.approx(sign * x, rel=1e-9)
    if layer < 255:
        again = drawn(bits(share), bits(0.5 * inside), uniforms=(height + 1e-3,))
        assert again == pytest.approx(sign * 0.5 * inside * ends[layer], rel=1e-9)


@pytest.mark.parametrize("shape", [1.0, 2.5, 40.0, 0.3])
def test_gamma_numbers_by_marsaglia_and_tsang(plain, monkeypatch, shape):
    boost = 0.7 ** (1 / shape) if shape < 1 else 1.0
    d = (shape + 1 if shape < 1 else shape) - 1 / 3
    c = 1 / math.sqrt(9 * d)

    def drawn(normals, uniforms):
        queue, others = iter(normals), iter(([0.7] if shape < 1 else []) + uniforms)
        monkeypatch.setattr(kernels, "normal", lambda state: next(queue))
        monkeypatch.setattr(kernels, "uniform", lambda state: next(others))
        x = plain.gamma(shape, None)
        assert next(queue, None) is None
        assert next(others, None) is None
        return x

    def value(x):
        return boost * d * (1 + c * x) ** 3

    # Quickly, by the bound 1 - 0.0331 x^4 of the acceptance.
    for x in (0.5, -0.3):
        assert drawn([x], [0.9]) == pytest.approx(value(x), rel=1e-12)
    # Where 1 + c x is not positive there is no number.
    assert drawn([-1 / c - 0.1, 0.5], [0.9]) == pytest.approx(value(0.5), rel=1e-12)
    for x in (2.0, -1.5):
        v = (1 + c * x) ** 3
        if v <= 0:
            continue
        bound = math.exp(x * x / 2 + d * (1 - v + math.log(v)))
        assert 1 - 0.0331 * x**4 <= bound
        assert drawn([x], [bound * (1 - 1e-6)]) == pytest.approx(value(x), rel=1e-12)
        assert drawn([x, 0.1], [bound + 1e-6 * (1 - bound), 0.5]) == pytest.approx(value(0.1), rel=1e-12)


def test_a_gamma_number_of_shape_zero_is_zero(plain):
    assert plain.gamma(0.0, None) == 0
    assert plain.gamma(-1.0, None) == 0


def test_replicates_fill_what_they_are_given(plain):
    words = np.array([5, 0, 0, 0], dtype=np.uint64)
    for index in (0, 3):
        state = np.random.SeedSequence(5, spawn_key=(index,)).generate_state(4, np.uint64)
        expected = [plain.normal(state) for _ in range(6)]
        out = np.empty(6)
        plain.normals(words, index, out)
        np.testing.assert_array_equal(out, expected)
        state = np.random.SeedSequence(5, spawn_key=(index,)).generate_state(4, np.uint64)
        expected = [plain.gamma(0.8, state) for _ in range(6)]
        plain.gammas(words, index, 0.8, out)
        np.testing.assert_array_equal(out, expected)
    assert not any(a == b for a, b in itertools.pairwise(expected))
