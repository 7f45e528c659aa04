import numpy as np
import pytest

import rmtland as rl
from rmtland.plots.ensembles import plot_edge, plot_spectrum, plot_transition


def test_spectrum_shows_density_band_and_law():
    law = rl.MarchenkoPastur(0.5)
    values = rl.Wishart(30, 60).eigenvalues(20, rng=0)
    edges = np.linspace(0, 3, 13)
    ax = plot_spectrum(values, law, bins=edges)
    histogram = rl.empirical_density(values, edges)
    for axes in (ax, plot_spectrum(histogram, law)):
        np.testing.assert_allclose(axes.patches[0].get_data().values, histogram.density)
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.max() == pytest.approx((histogram.density + 2 * histogram.standard_error).max())
        x, y = axes.lines[0].get_data()
        np.testing.assert_allclose(y, law.pdf(x))
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert not plot_spectrum(values[0]).collections
    two = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 20.0], 0.1)
    assert len(plot_spectrum(values, two).lines) == 2


def test_transition_shows_limit_and_draws():
    result = rl.bbp_transition(0.5, [3.0, 1.2], 1000, 10, rng=0)
    for quantity, draws, limit in (
        ("eigenvalue", result.eigenvalues, result.locations),
        ("overlap", result.overlaps, result.overlap_limits),
    ):
        line, points, threshold = plot_transition(result, quantity=quantity).lines
        np.testing.assert_array_equal(line.get_ydata(), limit[::-1])
        np.testing.assert_array_equal(points.get_ydata(), draws.mean(axis=1)[::-1])
        assert threshold.get_xdata()[0] == result.threshold
    with pytest.raises(ValueError, match="`quantity` must be one of 'eigenvalue', 'overlap'; got 'angle'"):
        plot_transition(result, quantity="angle")


def test_edge_shows_density_and_law():
    law = rl.TracyWidom(1)
    ax = plot_edge(law.rvs(500, rng=0), law, bins=10)
    points, curve = ax.lines[0], ax.lines[-1]
    assert points.get_ydata().shape == (10,)
    np.testing.assert_allclose(curve.get_ydata(), law.pdf(curve.get_xdata()))
