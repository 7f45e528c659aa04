"""The law of known atoms: what it makes of its arguments, and that everything goes along with their scale."""

import numpy as np
import pytest

from rmtland.laws.atoms.plain import PlainAtoms
from tests.laws.atoms import CASES, exact_point


def of(case, scale=1.0):
    t, w = (case.t[1:], case.w[1:]) if case.variance else (case.t, case.w)
    return PlainAtoms.of(scale * t, w, case.dimension, scale**2 * case.variance)


@pytest.mark.parametrize("name", CASES)
def test_everything_goes_along_with_the_scale(name):
    """By a power of two, which rounds nothing."""
    case = CASES[name]
    plain, large = of(case), of(case, 8.0)
    low, high = plain.range
    x = np.linspace(max(low, 0.0), 1.1 * high, 9)[1:]
    count = case.rank * np.array([1e-6, 0.2, 0.7, 0.99])
    for attribute in ("ends", "range", "crossings", "edges", "edge_scales"):
        np.testing.assert_array_equal(np.array(getattr(large, attribute)), 8 * np.array(getattr(plain, attribute)))
    np.testing.assert_array_equal(large.inside(8 * x), plain.inside(x))
    np.testing.assert_array_equal(large.solve(8 * x), 8 * plain.solve(x))
    z = np.append(x, x + 0.1j)
    np.testing.assert_array_equal(large.solve_complex(8 * z), 8 * plain.solve_complex(z))
    np.testing.assert_array_equal(large.counts(8 * x), plain.counts(x))
    np.testing.assert_array_equal(
        large.quantiles(count, case.rank - count), 8 * plain.quantiles(count, case.rank - count)
    )
    u = np.array([0.7 + 0.2j, 3.0 + 0j])
    assert large.evaluate(8 * u[0]) == (8 * plain.evaluate(u[0])[0], plain.evaluate(u[0])[1])
    np.testing.assert_array_equal(large.companion(8 * u), plain.companion(u) / 8)
    assert [large.atoms_above(8 * y) for y in (-0.1, 0.35, 2.0)] == [plain.atoms_above(y) for y in (-0.1, 0.35, 2.0)]
    theta = np.array([0.35, 1.0, 2.5])
    np.testing.assert_array_equal(large.at_spikes(8 * theta)[0], 8 * plain.at_spikes(theta)[0])
    np.testing.assert_array_equal(large.at_spikes(8 * theta)[1], plain.at_spikes(theta)[1])
    assert large.place(8.0) == 8 * plain.place(1.0)
    # In units of the largest it is the law of the polynomials.
    np.testing.assert_allclose(plain.crossings.ravel()[-case.outer().size :], case.outer(), rtol=1e-9, atol=1e-7)
    for value, number in zip(plain.quantiles(count, case.rank - count), count, strict=True):
        assert float(exact_point(case, value)[1]) == pytest.approx(number, rel=1e-7)


def test_equal_and_missing_atoms():
    given = (
        np.array([2.0, 1.0, 2.0 * (1 + 4e-16), 0.0, 1e-80, 5.0, 4.0]),
        np.array([1.0, 2.0, 3.0, 9.0, 9.0, 0.0, 1e-99]),
    )
    plain = PlainAtoms.of(*given, 1.0)
    assert (plain.scale, plain.variance, plain.dimension) == (4.0, 0.0, 1.0)
    np.testing.assert_allclose(plain.t, [0.25, 0.5, 1.0], rtol=1e-15)
    np.testing.assert_array_equal(plain.weights, [2.0, 4.0, 1e-99])
    again = PlainAtoms.of(given[0], None, 12.0, 100.0)
    np.testing.assert_array_equal(again.t, [0.0, 0.1, 0.2, 0.4, 0.5])
    np.testing.assert_array_equal(again.weights, [0.0, 1.0, 2.0, 1.0, 1.0])
    assert (again.scale, again.variance, again.rank, again.num_vectors, again.deficit) == (10.0, 1.0, 12.0, 5.0, 1.0)
    np.testing.assert_allclose(again.a, [1.0, 0.01 / 12, 0.08 / 12, 0.16 / 12, 0.25 / 12], rtol=1e-14)
    for number, rank, deficit in ((3.0, 3.0, 0.4), (5.0, 5.0, 0.0), (20.0, 5.0, -3.0)):
        law = PlainAtoms.of(np.array([1.0]), np.array([number]), 5.0)
        assert (law.rank, law.deficit) == (rank, pytest.approx(deficit, abs=1e-15))
