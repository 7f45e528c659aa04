import numpy as np
import pytest
import torch
from scipy.stats import norm

import rmtland as rl
from tests.spectra.test_density import rotated

DECADES = np.geomspace(1e-4, 1, 90)
EIGENVALUES = np.concatenate([DECADES, -DECADES[::3], np.zeros(30)])
MATRIX = rotated(EIGENVALUES)


@pytest.mark.parametrize("in_torch", [False, True])
def test_parts_are_those_of_dense_eigenvalues(in_torch):
    matrix = torch.tensor(MATRIX) if in_torch else MATRIX
    found = rl.log_spectral_density(matrix, num_probes=30, kappa=3.0, rng=0)
    assert found.num_products == 30 * 150  # 2048 steps, or all dimensions
    floor = found.epsilon
    assert floor == pytest.approx(1e-6)
    for ours, error, keep, share in (
        (found.density, found.standard_error, np.ones(150, dtype=bool), 1.0),
        (found.positive, found.positive_error, EIGENVALUES > 0, 0.6),
        (found.negative, found.negative_error, EIGENVALUES < 0, 0.2),
    ):
        logs = np.log(np.abs(EIGENVALUES[keep]) + floor)
        oracle = norm.pdf(found.grid[:, None], logs, found.width).sum(axis=1) / 150
        inside = oracle > 1e-3
        # The whole space is spanned: quadratures are exact, and only the probes err.
        scores = (ours - oracle)[inside] / error[inside]
        assert np.sqrt(np.mean(scores**2)) < 2.0
        assert np.mean(error[inside] / oracle[inside]) < 0.5
        assert np.trapezoid(ours, found.grid) == pytest.approx(share, abs=0.02)
    assert np.trapezoid(found.density - found.positive - found.negative, found.grid) == pytest.approx(0.2, abs=0.02)
    np.testing.assert_allclose(np.log(found.magnitudes), found.grid)


def test_grid_reaches_from_epsilon_to_the_largest():
    found = rl.log_spectral_density(MATRIX, epsilon=1e-3, num_points=300, rng=0)
    assert (found.epsilon, found.grid.size) == (1e-3, 300)
    assert found.grid[0] < np.log(1e-3) < np.log(1.0) < found.grid[-1]
    # Below epsilon an eigenvalue has no sign.
    small = np.count_nonzero(np.abs(EIGENVALUES) <= 1e-3) / 150
    rest = np.trapezoid(found.density - found.positive - found.negative, found.grid)
    assert rest == pytest.approx(small, abs=0.15)
    assert np.isnan(found.standard_error).all()


def test_scale_moves_the_density_along():
    plain = rl.log_spectral_density(MATRIX, num_steps=40, rng=0)
    for scale in (1e-12, 1e12):
        moved = rl.log_spectral_density(MATRIX * scale, num_steps=40, rng=0)
        np.testing.assert_allclose(moved.grid, plain.grid + np.log(scale), rtol=1e-6)
        np.testing.assert_allclose(moved.positive, plain.positive, atol=1e-4)
        assert moved.epsilon == pytest.approx(scale * plain.epsilon)
    mirrored = rl.log_spectral_density(-MATRIX, num_steps=40, rng=0)
    np.testing.assert_allclose(mirrored.negative, plain.positive, atol=1e-6)


def test_it_is_the_transform_of_the_density():
    found = rl.log_spectral_density(MATRIX, num_probes=3, num_steps=50, rng=0)
    other = rl.spectral_density(MATRIX, num_probes=3, num_steps=50, rng=0).transform(
        lambda x: np.log(np.abs(x) + found.epsilon)
    )
    np.testing.assert_allclose(other.grid, found.grid, rtol=1e-9)
    np.testing.assert_allclose(other.density, found.density, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(other.standard_error, found.standard_error, rtol=1e-6, atol=1e-12)


def test_deflation_and_degenerate_operators():
    found = rl.log_spectral_density(rotated(np.append(EIGENVALUES[:100], [50.0, 80.0])), deflate=2, rng=0)
    np.testing.assert_allclose(found.outliers, [50, 80], rtol=1e-6)
    assert found.grid[-1] > np.log(80)
    assert found.epsilon == pytest.approx(8e-5)
    zero = rl.log_spectral_density(np.zeros((20, 20)), rng=0)
    assert np.trapezoid(zero.density, zero.grid) == pytest.approx(1, abs=1e-3)
    assert not zero.positive.any()
    assert not zero.negative.any()
    one = rl.log_spectral_density(-np.eye(20), rng=0)
    assert one.magnitudes[np.argmax(one.negative)] == pytest.approx(1, rel=0.05)


def test_a_single_magnitude_is_shown_in_the_decade_around_it():
    for matrix, magnitude in ((-np.eye(20), 1 + 1e-6), (np.zeros((20, 20)), 1e-6)):
        found = rl.log_spectral_density(matrix, kappa=5.0, rng=0)
        ends = np.log([magnitude / np.sqrt(10), magnitude * np.sqrt(10)])
        np.testing.assert_allclose(found.grid[[0, -1]], ends, rtol=1e-12)
        # The Gaussians have fallen to 1 / kappa half-way between two of 20 nodes that are even in the decade.
        assert norm.pdf(np.log(10) / 38, 0, found.width) == pytest.approx(norm.pdf(0, 0, found.width) / 5)


def test_a_power_law_tail_is_found_in_a_log_spectrum():
    # Density x^-1.7 per unit of x is x^-0.7 per unit of log x, which is what is plotted.
    eigenvalues = (1 - np.arange(0.5, 400) / 400) ** (-1 / 0.7)
    found = rl.log_spectral_density(rotated(eigenvalues / eigenvalues.max()), num_probes=20, num_steps=60, rng=0)
    x = found.magnitudes * eigenvalues.max()
    line = rl.power_law_line(x, found.positive, xmin=3.0, xmax=100.0)
    assert line.exponent == pytest.approx(0.7, abs=0.12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_probes": 0}, "`num_probes` must be >= 1; got 0"),
        ({"num_steps": 1}, "`num_steps` must be >= 2; got 1"),
        ({"num_points": 1}, "`num_points` must be >= 2; got 1"),
        ({"kappa": 0.5}, "`kappa` must be > 1; got 0.5"),
        ({"epsilon": 0.0}, "`epsilon` must be > 0; got 0.0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        rl.log_spectral_density(MATRIX, **options)
