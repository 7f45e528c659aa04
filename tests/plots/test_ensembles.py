import itertools
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import rmtland as rl
from rmtland.plots.ensembles import plot_edge, plot_spectrum, plot_transition
from tests.figures import assert_between_edges, assert_steps_between, band_ends, labels


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
        shares = [np.histogram(row, edges)[0] / 30 / 0.25 for row in values]
        errors = [statistics.stdev(column) / 20**0.5 for column in zip(*shares, strict=True)]
        np.testing.assert_allclose(histogram.standard_error, errors, rtol=1e-9)
        low = np.maximum(histogram.density - 2 * np.array(errors), 0)
        assert set(np.round(low, 9)) <= set(np.round(band, 9))
        x, y = axes.lines[0].get_data()
        np.testing.assert_allclose(y, law.pdf(x))
        assert "eigenvalue" in axes.get_xlabel()
        assert "density" in axes.get_ylabel()
    assert not plot_spectrum(values[0]).collections
    two = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 20.0], 0.1)
    assert len(plot_spectrum(values, two).lines) == 2


def test_spectrum_of_a_few_eigenvalues_leaves_zeros_to_the_atom():
    flat = SimpleNamespace(support=((0.0, 1.0), (2.0, 5.0)), pdf=lambda x: x / 12)
    ax = plot_spectrum([[0, 0, 1, 2, 5], [0, 1, 3, 3, 5]], flat, bins=4)
    heights, edges, _ = ax.patches[0].get_data()
    np.testing.assert_allclose(edges, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(heights, [0.2, 0.1, 0.2, 0.2])  # of five eigenvalues, zeros counted
    assert ax.patches[0].get_fill()
    # Standard errors of two shares: half of their distance.
    error = np.array([0.0, 0.1, 0.2, 0.0])
    assert_steps_between(ax.collections[0], edges, [0.2, 0, 0, 0.2], heights + 2 * error)
    for line, interval in zip(ax.lines, flat.support, strict=True):
        assert_between_edges(line.get_xdata(), *interval)
        np.testing.assert_allclose(line.get_ydata(), line.get_xdata() / 12)
    assert labels(ax) == ["draws", "law"]
    assert ax.lines[0].get_label() == "law"  # told once
    assert labels(plot_spectrum([1.0, 2.0])) == ["draws"]


@pytest.mark.parametrize(("number", "told"), [(100, "100"), (1000, "10^3"), (2000, "2000"), (10**6, "10^6")])
def test_transition_between_given_spikes(number, told):
    result = SimpleNamespace(
        spikes=np.array([4.0, 1.0, 2.0]), threshold=1.5, num_features=number,
        eigenvalues=np.array([[9.0, 11.0, 13.0], [1.0, 2.0, 3.0], [4.0, 4.0, 7.0]]),
        overlaps=np.array([[0.6, 0.8, 1.0], [0.0, 0.0, 0.0], [0.3, 0.4, 0.5]]),
        limits=lambda spikes: (spikes**2, 1 / spikes),
    )  # fmt: skip
    for quantity, means, deviations, curve in (
        ("eigenvalue", [2, 5, 11], [1, 3**0.5, 2], lambda x: x**2),
        ("overlap", [0, 0.4, 0.8], [0, 0.1, 0.2], lambda x: 1 / x),
    ):
        ax = plot_transition(result, quantity=quantity)
        limit, points, threshold = ax.lines
        x = sorted({*np.linspace(1, 4, 400).tolist(), 2.0, 1.5})
        np.testing.assert_array_equal(limit.get_xdata(), x)
        np.testing.assert_allclose(limit.get_ydata(), curve(np.array(x)))
        np.testing.assert_allclose(points.get_xydata(), np.transpose([[1, 2, 4], means]))
        expected = [[1, 2, 4], np.subtract(means, deviations), np.add(means, deviations)]
        np.testing.assert_allclose(band_ends(ax.collections[0]), expected, atol=1e-15)
        np.testing.assert_array_equal(threshold.get_xdata(), 1.5)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[:2] == ["limit", f"mean of 3 draws, $p = {told}$"]
    assert texts[2:] == ["standard deviation", r"threshold $1 + \sqrt{p/n}$"]


def test_transition_shows_limit_and_draws():
    result = rl.bbp_transition(0.5, [3.0, 1.2], 1000, 10, rng=0)
    for quantity, draws, limit, below in (
        ("eigenvalue", result.eigenvalues, result.locations, (1 + 0.5**0.5) ** 2),
        ("overlap", result.overlaps, result.overlap_limits, 0.0),
    ):
        ax = plot_transition(result, quantity=quantity)
        line, points, threshold = ax.lines
        x, y = line.get_data()
        np.testing.assert_array_equal(y[np.isin(x, result.spikes)], limit[::-1])
        np.testing.assert_allclose(y[x <= result.threshold], below)  # the kink is where it belongs
        assert result.threshold in x
        assert (np.diff(y[x >= result.threshold]) > 0).all()
        np.testing.assert_array_equal(points.get_ydata(), draws.mean(axis=1)[::-1])
        (band,) = ax.collections
        for spike, row in zip(result.spikes, draws.tolist(), strict=True):
            mean, deviation = statistics.mean(row), statistics.stdev(row)
            ends = sorted({y for x, y in band.get_paths()[0].vertices.tolist() if x == spike})
            assert [ends[0], ends[-1]] == pytest.approx([mean - deviation, mean + deviation], rel=1e-12)
        assert threshold.get_xdata()[0] == result.threshold
        assert "$p = 10^3$" in ax.get_legend().get_texts()[1].get_text()
    other = rl.bbp_transition(0.5, [3.0], 1234, 2, rng=0)
    assert "$p = 1234$" in plot_transition(other).get_legend().get_texts()[1].get_text()
    with pytest.raises(ValueError, match="`quantity` must be one of 'eigenvalue', 'overlap'; got 'angle'"):
        plot_transition(result, quantity="angle")


def test_edge_shows_density_and_law():
    law = rl.TracyWidom(1)
    ax = plot_edge(law.rvs(500, rng=0), law, bins=10)
    points, curve = ax.lines[0], ax.lines[-1]
    assert points.get_ydata().shape == (10,)
    # Two binomial standard errors of each bin, both ways.
    counts, edges = np.histogram(law.rvs(500, rng=0), 10)
    (bars,) = ax.containers[0].lines[2]
    for segment, count, width in zip(bars.get_segments(), counts, np.diff(edges), strict=True):
        deviation = stats.binom(500, count / 500).std() / 500 / width
        assert segment[:, 1].tolist() == pytest.approx(
            [count / 500 / width - 2 * deviation, count / 500 / width + 2 * deviation], rel=1e-9, abs=1e-12
        )
    np.testing.assert_allclose(curve.get_ydata(), law.pdf(curve.get_xdata()))
    np.testing.assert_allclose(points.get_xdata(), [(a + b) / 2 for a, b in itertools.pairwise(edges)])
    np.testing.assert_allclose(points.get_ydata(), counts / 500 / np.diff(edges))
    np.testing.assert_allclose(curve.get_xdata(), np.linspace(edges[0] - 0.5, edges[-1] + 0.5, 400))
    assert labels(ax) == ["law", "500 draws"]
    assert labels(plot_edge(np.arange(9.0))) == ["9 draws"]
