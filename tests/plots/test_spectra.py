from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rmtland as rl
from rmtland.plots.spectra import plot_density, plot_log_density, plot_ordered_eigenvalues, plot_scree
from tests.figures import assert_between_edges, band_ends, labels

EIGENVALUES = np.append(rl.Wishart(100, 200).eigenvalues(rng=0), [6.0, 7.0])
MATRIX = np.diag(EIGENVALUES)


def test_density_shows_band_law_outliers_and_threshold():
    found = rl.spectral_density(MATRIX, num_probes=3, num_steps=30, deflate=2, rng=0)
    law, count = rl.MarchenkoPastur(0.5), rl.count_outliers(EIGENVALUES)
    ax = plot_density(found, law, count=count)
    density, theory, marks, threshold = ax.lines
    np.testing.assert_array_equal(density.get_ydata(), found.density)
    x, y = theory.get_data()
    np.testing.assert_allclose(y, law.pdf(x))
    assert np.all(np.diff(x) > 0)
    np.testing.assert_allclose(x[[0, -1]], law.support, atol=1e-3)
    assert law.support[0] < x[0] < x[-1] < law.support[1]
    assert_between_edges(x, *law.support)
    np.testing.assert_allclose(marks.get_xdata(), [6, 7])
    np.testing.assert_array_equal(marks.get_ydata(), 0.03)  # of the height of the axes
    assert marks.get_transform() == ax.get_xaxis_transform()
    assert threshold.get_xdata()[0] == count.threshold
    error = found.standard_error
    assert (found.density < 2 * error).any()  # no density is drawn below zero
    expected = [found.grid, np.clip(found.density - 2 * error, 0, None), found.density + 2 * error]
    np.testing.assert_allclose(band_ends(ax.collections[0]), expected)
    assert ax.get_ylim()[0] == 0
    assert labels(ax) == ["3 probes", "law", "2 eigenvalues taken out", "2 above the threshold"]
    assert ax.get_xlabel() == r"eigenvalue $\lambda$"
    assert ax.get_yscale() == "linear"
    single = plot_density(rl.spectral_density(MATRIX, num_steps=30, rng=0), log=True)
    assert not single.collections  # one probe knows no error
    assert single.get_yscale() == "log"
    (line,) = single.lines
    top = line.get_ydata().max()
    assert single.get_ylim() == pytest.approx((1e-7 * top, 3 * top))
    two = rl.GeneralizedMarchenkoPastur.sample_covariance([1.0, 20.0], 0.1)
    of_two = plot_density(found, two)
    assert len(of_two.lines) == 4  # a line for each interval of the support
    for line, interval in zip(of_two.lines[1:3], two.support, strict=True):
        assert_between_edges(line.get_xdata(), *interval)
    assert labels(of_two) == ["3 probes", "law", "2 eigenvalues taken out"]
    assert of_two.lines[1].get_label() == "law"  # told once
    assert plot_density(found, ax=single).get_yscale() == "log"
    single.figure.canvas.draw()


def test_scree_shows_the_largest_downwards():
    count = rl.count_outliers(EIGENVALUES)
    ax = plot_scree(EIGENVALUES, count=count, k=20)
    bulk, outliers = (container.lines[0] for container in ax.containers)
    np.testing.assert_array_equal(outliers.get_xdata(), [1, 2])
    np.testing.assert_array_equal(outliers.get_ydata(), [7, 6])
    np.testing.assert_array_equal(bulk.get_ydata(), np.sort(EIGENVALUES)[-3:-21:-1])
    assert ax.lines[-1].get_ydata()[0] == count.threshold
    assert ax.get_yscale() == "log"
    result = SimpleNamespace(eigenvalues=torch.tensor([-1.0, 2.0, 3.0]), residuals=torch.tensor([0.1, 0.2, 9.0]))
    (points,) = plot_scree(result).containers
    np.testing.assert_array_equal(points.lines[0].get_ydata(), [3, 2])  # -1 has no logarithm
    segments = points.lines[2][0].get_segments()
    np.testing.assert_allclose(segments[1], [[2, 1.8], [2, 2.2]], rtol=1e-6)
    np.testing.assert_allclose(segments[0], [[1, 0.3], [1, 12]], rtol=1e-6)
    (points,) = plot_scree(result, log=False).containers
    np.testing.assert_array_equal(points.lines[0].get_ydata(), [3, 2, -1])


def test_what_a_logarithmic_scree_leaves_out_and_takes_for_outliers():
    count = SimpleNamespace(threshold=2.0, method="gap")
    ax = plot_scree([-1.0, 0.0, 0.5, 2.0, 3.0], count=count)
    bulk, outliers = (container.lines[0] for container in ax.containers)
    np.testing.assert_array_equal(bulk.get_xydata(), [[2, 2], [3, 0.5]])  # at the threshold is not above it
    np.testing.assert_array_equal(outliers.get_xydata(), [[1, 3]])
    assert sorted(labels(ax)) == ["eigenvalues", "outliers", "threshold (gap)"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("rank $k$", r"eigenvalue $\lambda_k$")
    linear = plot_scree([-1.0, 0.0, 0.5, 2.0, 3.0], count=count, log=False).containers[0].lines[0]
    np.testing.assert_array_equal(linear.get_ydata(), [2, 0.5, 0, -1])
    assert not plot_scree([-1.0, -2.0], count=count).containers  # no eigenvalue has a logarithm


@pytest.mark.parametrize(("ratio", "multiples"), [(29.9, {1, 2, 3, 5}), (30, {1}), (30.5, {1}), (1000, {1})])
def test_a_short_scree_names_more_than_powers_of_ten(ratio, multiples):
    axis = plot_scree([2.0, 2.0 * ratio]).yaxis
    ticks = np.array([tick for tick in axis.get_major_locator().tick_values(2, 2 * ratio) if 0.99 < tick < 1001])
    assert set(np.round(ticks / 10 ** np.floor(np.log10(ticks) + 1e-9)).tolist()) == multiples
    if len(multiples) > 1:
        assert axis.get_major_formatter()(20.0) == "20"
        assert axis.get_minor_formatter()(30.0) == ""


def test_log_density_shows_both_signs_and_the_fit():
    found = rl.log_spectral_density(
        np.diag(np.append(np.geomspace(1e-3, 1, 60), -np.geomspace(1e-3, 1, 40))), num_probes=3, rng=0
    )
    line = rl.power_law_line(found.magnitudes, found.positive, xmin=1e-2, xmax=0.5)
    ax = plot_log_density(found, line=line)
    everything, positive, negative, fit, epsilon = ax.lines
    for drawn, part in ((everything, found.density), (positive, found.positive), (negative, found.negative)):
        np.testing.assert_array_equal(drawn.get_xdata(), found.magnitudes)
        np.testing.assert_array_equal(drawn.get_ydata(), part)
    x, y = fit.get_data()
    np.testing.assert_allclose(np.log(x), np.linspace(np.log(line.xmin), np.log(line.xmax), 50))
    np.testing.assert_allclose(y, line.density(x))
    assert epsilon.get_xdata()[0] == found.epsilon
    parts = ((found.positive, found.positive_error), (found.negative, found.negative_error))
    for band, (part, error) in zip(ax.collections, parts, strict=True):
        expected = [found.magnitudes, np.clip(part - 2 * error, 0, None), part + 2 * error]
        np.testing.assert_allclose(band_ends(band), expected, atol=1e-15)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_ylim() == pytest.approx((1e-7 * found.density.max(), 3 * found.density.max()))
    fitted = rf"$|\lambda|^{{-{line.exponent:.2f}}}$"
    assert labels(ax) == ["all", "positive", "negative", fitted, r"$\epsilon$"]
    ax.figure.canvas.draw()
    only = plot_log_density(rl.log_spectral_density(np.eye(20), rng=0))
    assert "negative" not in labels(only)
    assert not only.collections


def test_ordered_eigenvalues():
    ax = plot_ordered_eigenvalues(EIGENVALUES[::-1])
    ranks, values = ax.lines[0].get_data()
    np.testing.assert_array_equal(ranks, np.arange(1, 103))
    np.testing.assert_array_equal(values, np.sort(EIGENVALUES))
    assert ax.get_legend() is None
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), 0)  # a line that parts the signs
    ax = plot_ordered_eigenvalues({"start": EIGENVALUES, "end": SimpleNamespace(eigenvalues=[2.0, 1.0])}, percent=True)
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), [50, 100])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [1, 2])
    assert labels(ax) == ["start", "end"]
    assert ax.get_xlabel() == "rank, per cent"
