"""The one inverse of the laws, on functions that a law need not be as kind as."""

import numpy as np
import pytest
from scipy import special

from rmtland.laws._law import invert, points, probabilities


def counted(function):
    def wrapped(*args):
        wrapped.calls += 1
        wrapped.sizes.append(np.size(args[0]))
        return function(*args)

    wrapped.calls, wrapped.sizes = 0, []
    return wrapped


def gaussian(x):
    return special.ndtr(x), np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def test_a_smooth_function():
    q = np.concatenate([10.0 ** -np.arange(20, 0, -1), np.linspace(0.2, 0.999, 50)])
    function = counted(gaussian)
    np.testing.assert_allclose(invert(function, q, -40, 10), special.ndtri(q), rtol=1e-14, atol=1e-15)
    assert function.calls < 80
    assert function.sizes[-1] < q.size  # points that are done cost nothing


def test_a_good_start_needs_one_call():
    q = np.linspace(0.2, 0.8, 7)
    function = counted(gaussian)
    start = special.ndtri(q) * (1 + 1e-10)
    np.testing.assert_allclose(
        invert(function, q, -5, 5, start, settled=1e-9), special.ndtri(q), rtol=1e-14, atol=1e-17
    )
    assert function.calls == 1


@pytest.mark.parametrize("power", [0.2, 0.5, 1.5, 3, 9])
def test_roots_where_the_slope_is_zero_or_infinite(power):
    def function(x):
        return x**power, power * x ** (power - 1)

    target = np.array([0.0, 1e-30, 1e-9, 0.3, 1.0])
    found = invert(function, target, 0, 1)
    np.testing.assert_allclose(found**power, target, rtol=1e-12, atol=1e-30)


def test_a_step_ends_in_bisection():
    found = invert(lambda x: (np.where(x < 0.3, 0.0, 1.0), np.zeros_like(x)), np.array([0.5]), 0, 1)
    assert found[0] == pytest.approx(0.3, rel=1e-14)


def test_noise_does_not_keep_it_busy():
    rng = np.random.default_rng(0)
    function = counted(lambda x: (x + 1e-12 * rng.standard_normal(x.size), np.ones_like(x)))
    np.testing.assert_allclose(invert(function, np.linspace(0.1, 0.9, 99), 0, 1), np.linspace(0.1, 0.9, 99), atol=1e-10)
    assert function.calls < 100


def test_infinite_values_and_nan():
    def log(x):
        return np.log(x), 1 / x

    found = invert(log, np.array([-3.0, np.nan, 0.0]), 0, 2, start=np.array([0.0, 1.0, np.nan]))
    np.testing.assert_allclose(found[0], np.exp(-3), rtol=1e-14)
    assert np.isnan(found[1:]).all()
    assert invert(log, np.array([]), 0, 1).size == 0


def test_arguments_follow_their_points():
    power = np.array([1.0, 2.0, 5.0])
    found = invert(lambda x, p, c: (c * x**p, c * p * x ** (p - 1)), np.full(3, 0.5), 0, 1, args=(power, 2.0))
    np.testing.assert_allclose(found, 0.25 ** (1 / power), rtol=1e-14)


def test_numbers_that_are_float64_are_not_copied():
    x = np.linspace(0.1, 0.9, 5)
    assert points("x", x) is x
    assert probabilities("q", x) is x
    assert points("x", x.astype(np.float32)).dtype == np.float64


def test_points_and_probabilities_at_the_door():
    assert points("x", 3).dtype == np.float64
    assert np.isnan(probabilities("q", [np.nan, 0.5])).tolist() == [True, False]
    with pytest.raises(TypeError, match="`x` must be real numbers; got complex128 from complex"):
        points("x", 1j)
    with pytest.raises(ValueError, match="`q` must be >= 0 and <= 1; got 1.5"):
        probabilities("q", [0.5, 1.5])
