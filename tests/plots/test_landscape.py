import statistics

import numpy as np
import pytest
from matplotlib.figure import Figure

import rmtland as rl
from rmtland.landscape.paper.h_term import h_term_figure
from rmtland.landscape.paper.spectrum import freezing_figure, spectrum_figure
from rmtland.landscape.paper.sweeps import phase_figure, sweep_figure
from rmtland.plots import landscape as plots


@pytest.fixture(scope="module")
def spectrum():
    return spectrum_figure(rl.LandscapeModel.fort_ganguli(30, 3, 60, sigma_z=1.0), num_draws=3, num_points=50)


@pytest.fixture(scope="module")
def sweep():
    return sweep_figure(30, 3, 60, sigma_z=[0.1, 1.0, 10.0], num_draws=2, dimension=4)


@pytest.fixture(scope="module")
def freezing():
    return freezing_figure(num_examples=20, sigma_z=[0.1, 1.0, 10.0], num_draws=2)


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_spectrum_shows_draws_and_theory(spectrum):
    panel = spectrum.panels["eq. (16)"]
    ax = plots.plot_landscape_spectrum(panel)
    (stairs,) = ax.patches
    heights, edges, _ = stairs.get_data()
    assert heights.sum() == pytest.approx(np.mean((panel.eigenvalues >= edges[0]).sum(axis=1)))
    # Theory in the same unit, eigenvalues per bin: the areas agree.
    x, y = lines(ax)["theory"].get_data()
    bins = np.log(edges[-1] / edges[0]) / heights.size
    assert np.trapezoid(y, np.log(x)) / bins == pytest.approx(heights.sum(), rel=0.15)
    np.testing.assert_allclose(lines(ax)["outliers, theory"].get_xdata(), panel.outliers_theory.mean(axis=0))


def test_gradient_is_cumulated(spectrum):
    panel = spectrum.panels["eq. (10)"]
    ax = plots.plot_cumulative_power(panel)
    np.testing.assert_allclose(lines(ax)["draws, mean and s.d."].get_ydata()[2], panel.power(3).mean())
    np.testing.assert_allclose(lines(ax)["theory"].get_ydata(), panel.power_theory.mean(axis=0))
    cosines = plots.plot_gradient_cosines(panel).lines[0].get_ydata()
    np.testing.assert_allclose(cosines[0] ** 2, panel.powers[0, -1])


@pytest.mark.parametrize("quantity", plots.QUANTITIES)
def test_sweeps(sweep, quantity):
    ax = plots.plot_landscape_sweep(sweep, quantity)
    for name, panel in sweep.panels.items():
        np.testing.assert_allclose(lines(ax)[f"{name}, draws"].get_ydata(), getattr(panel, quantity).mean(axis=0))
        theory = getattr(panel, f"{quantity}_theory").mean(axis=0)
        np.testing.assert_allclose(lines(ax)[f"{name}, theory"].get_ydata(), theory)
    assert ax.get_ylabel() == plots.QUANTITIES[quantity]
    for band, panel in zip(ax.collections, sweep.panels.values(), strict=True):
        corners = band.get_paths()[0].vertices.tolist()
        for sigma, column in zip(sweep.sigma_z.tolist(), getattr(panel, quantity).T.tolist(), strict=True):
            ends = sorted(y for x, y in corners if x == sigma)
            mean, deviation = statistics.mean(column), statistics.stdev(column)
            assert [ends[0], ends[-1]] == pytest.approx([mean - deviation, mean + deviation], rel=1e-9)


def test_every_figure_is_one(spectrum, sweep, freezing, tmp_path):
    phase = phase_figure(30, 3, 60, sigma_z=[0.5, 5.0], snr=[0.1, 1.0])
    swallowed = h_term_figure(rl.LandscapeModel.fort_ganguli(30, 3, 60, 1.0), [0.05, 0.2, 0.4], num_draws=2)
    made = {
        "3": plots.figure3(freezing),
        "5": plots.figure5(spectrum),
        "6": plots.figure6(spectrum),
        "7": plots.figure7(sweep),
        "8": plots.figure8(sweep),
        "phase": plots.phase_diagram(phase),
        "h-term": plots.h_term(swallowed),
    }
    for name, figure in made.items():
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
    drawn = lines(plots.plot_swallowed_power(swallowed))
    np.testing.assert_allclose(drawn["draws"].get_ydata(), swallowed.power.mean(axis=0))
    np.testing.assert_allclose(drawn["theory"].get_ydata(), swallowed.power_theory)
    ax = plots.plot_swallowed_outliers(swallowed)
    assert ax.get_xlim() == (0.05, 0.4)
    marked = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert marked == [scale for scale in swallowed.transition if 0.05 <= scale <= 0.4]
    mesh = plots.plot_phase(phase, "ratio").collections[0]
    np.testing.assert_allclose(mesh.get_array().ravel(), phase.ratio.ravel())


def test_the_simplex_is_for_three_classes(freezing):
    points = plots.plot_simplex(freezing).lines[-1].get_xydata()
    np.testing.assert_allclose(points, freezing.probabilities[-1] @ [[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    four = freezing_figure(4, 20, [0.1, 1.0], num_draws=2)
    assert len(plots.figure3(four).axes) == 1
    with pytest.raises(ValueError, match="the simplex of 4 classes is no triangle; use 3"):
        plots.plot_simplex(four)
