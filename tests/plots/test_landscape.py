import itertools
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import rmtland as rl
from rmtland.landscape.paper.h_term import h_term_figure
from rmtland.landscape.paper.spectrum import freezing_figure, spectrum_figure
from rmtland.landscape.paper.sweeps import phase_figure, sweep_figure
from rmtland.plots import landscape as plots
from tests.figures import band_ends, labels


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


@pytest.mark.slow
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


# Results made up of a few numbers: what is drawn of them is worked out by hand.

SIGMAS = np.array([0.1, 1.0, 10.0])


def draws(seed, *shape):
    return np.random.default_rng(seed).uniform(0.1, 1, shape)


def panel(seed):
    return SimpleNamespace(
        x=np.geomspace(0.01, 10, 7), density_theory=draws(seed, 7), power_theory=draws(seed + 1, 2, 3),
        eigenvalues=[np.array([0.0, 0.02, 0.5, 0.5, 3.0]), np.array([0.02, 0.4, 0.5, 5.0, 99.0])],
        outliers=np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0]]), directions=np.array([1, 2, 4]),
        outliers_theory=np.array([[1.5, 2.5, 3.5], [2.5, 3.5, 5.5]]), powers=draws(seed + 2, 2, 5),
    )  # fmt: skip


def model_sweep():
    quantities = ("top_eigenvalue", "gradient_power", "ratio", "hyperplane_ratio")
    panels = {
        name: SimpleNamespace(
            **{quantity: draws(10 * i + k, 4, 3) for k, quantity in enumerate(quantities)},
            **{f"{quantity}_theory": draws(10 * i + k + 5, 2, 3) for k, quantity in enumerate(quantities)},
        )
        for i, name in enumerate(("eq. (16)", "eq. (10)"))
    }
    return SimpleNamespace(sigma_z=SIGMAS, panels=panels, slopes=draws(40, 2, 3), dimension=4)


def entropies(num_classes):
    probabilities = draws(50, 3, 6, num_classes)
    return SimpleNamespace(
        num_classes=num_classes, sigma_z=SIGMAS, shown=[0.5, 2.0, 12.345], entropy=draws(51, 4, 3), freezing_sigma=1.5,
        entropy_theory=draws(52, 3), probabilities=probabilities / probabilities.sum(axis=2, keepdims=True),
    )  # fmt: skip


def assert_band_over_draws(ax, place, x, values):
    """The line at `place` is the mean of `values`, (R, n), the first filled band its standard deviation both ways."""
    columns = values.T.tolist()
    means, deviations = np.array([statistics.mean(c) for c in columns]), [statistics.stdev(c) for c in columns]
    np.testing.assert_allclose(ax.lines[place].get_xydata(), np.transpose([x, means]))
    bands = [band_ends(band) for band in ax.collections]
    expected = np.array([x, means - deviations, means + deviations])
    assert any(band.shape == expected.shape and np.allclose(band, expected) for band in bands)


def test_a_histogram_of_few_eigenvalues():
    given = panel(0)
    ax = plots.plot_landscape_spectrum(given)
    heights, edges, _ = ax.patches[0].get_data()
    np.testing.assert_allclose(edges, 10 ** np.linspace(-2, 1, 61))
    both = np.concatenate(given.eigenvalues).tolist()
    expected = [sum(low <= x < high for x in both) / 2 for low, high in itertools.pairwise(edges)]
    np.testing.assert_array_equal(heights, expected)
    assert sum(expected) == 4  # of five each, 0 and 99 lie beyond
    assert ax.patches[0].get_fill()
    theory, drawn, predicted = ax.lines
    np.testing.assert_allclose(theory.get_xdata(), given.x)
    np.testing.assert_allclose(theory.get_ydata(), given.density_theory * given.x * np.log(1000) / 60)
    np.testing.assert_allclose(drawn.get_xydata(), [[1.5, 0.16], [3, 0.16], [4, 0.16]])
    np.testing.assert_allclose(predicted.get_xydata(), [[2, 0.11], [3, 0.11], [4.5, 0.11]])
    assert ax.get_ylim() == pytest.approx((0.08, 3))  # twice the highest bin, three of two draws
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert labels(ax) == ["draws, mean", "theory", "outliers, draws", "outliers, theory"]


def test_powers_of_few_eigenvectors():
    given = panel(0)
    cosines = plots.plot_gradient_cosines(given)
    drawn = cosines.lines[0].get_xydata()
    np.testing.assert_allclose(drawn, [[k + 1, given.powers[0, 4 - k] ** 0.5] for k in range(5)])
    assert cosines.get_xscale() == "log"
    ax = plots.plot_cumulative_power(given)
    sums = np.array([[sum(row[-k:]) for k in range(1, 6)] for row in given.powers.tolist()])
    assert_band_over_draws(ax, 0, [1, 2, 3, 4, 5], sums)
    np.testing.assert_allclose(ax.lines[1].get_xydata(), np.transpose([[1, 2, 4], given.power_theory.mean(axis=0)]))
    np.testing.assert_array_equal(ax.lines[2].get_xdata(), 3)  # C - 1
    assert ax.get_ylim() == (0, 1.03)
    assert ax.get_xscale() == "log"
    assert labels(ax) == ["draws, mean and s.d.", "theory", "$C-1$"]


def test_entropy_and_simplex_of_given_probabilities():
    given = entropies(3)
    figure = plots.figure3(given)
    simplex, freezing = figure.axes
    assert [len(plots.figure3(entropies(count)).axes) for count in (2, 4)] == [1, 1]
    corners = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
    np.testing.assert_allclose(simplex.lines[0].get_xydata(), corners[[0, 1, 2, 0]])
    for line, p, colour in zip(simplex.lines[1:], given.probabilities, (0.0, 0.5, 1.0), strict=True):
        np.testing.assert_allclose(line.get_xydata(), p @ corners)
        assert to_hex(line.get_color()) == to_hex(colormaps["coolwarm"](colour))  # from blue to red
    assert labels(simplex) == [r"$\sigma_z = 0.5$", r"$\sigma_z = 2$", r"$\sigma_z = 12$"]
    stands = simplex.get_legend().get_bbox_to_anchor().transformed(simplex.transAxes.inverted())
    np.testing.assert_allclose(stands.p0, [0, 1], atol=0.2)  # in the corner that the triangle leaves free
    assert (simplex.get_aspect(), simplex.get_frame_on()) == (1, False)
    assert simplex.get_xticks().size == simplex.get_yticks().size == 0
    assert_band_over_draws(freezing, 0, SIGMAS, given.entropy)
    np.testing.assert_allclose(freezing.lines[1].get_xydata(), np.transpose([SIGMAS, given.entropy_theory]))
    np.testing.assert_array_equal(freezing.lines[2].get_xdata(), 1.5)
    assert freezing.get_ylim()[0] == 0
    assert freezing.get_xscale() == "log"
    assert labels(freezing) == ["draws, mean and s.d.", "random energy model", r"$\sqrt{2\,\ln C}$"]


def test_each_panel_of_a_spectrum_has_its_place():
    panels = {"eq. (16)": panel(0), "eq. (10)": panel(7)}
    spectra, powers = (make(SimpleNamespace(panels=panels)) for make in (plots.figure5, plots.figure6))
    assert [ax.get_title() for ax in spectra.axes] == ["eq. (16)", "eq. (10)"]
    assert [ax.get_title() for ax in powers.axes] == ["eq. (16), one draw", "eq. (16)", "eq. (10)"]
    np.testing.assert_allclose(powers.axes[0].lines[0].get_ydata() ** 2, panels["eq. (16)"].powers[0, ::-1])
    for name, spectrum, power in zip(panels, spectra.axes, powers.axes[1:], strict=True):
        assert spectrum.lines[1].get_color() == power.lines[0].get_color() == plots.COLOURS[name]
        np.testing.assert_allclose(
            spectrum.lines[0].get_ydata()[-1], panels[name].density_theory[-1] * np.log(1000) / 6
        )
        np.testing.assert_allclose(power.lines[0].get_ydata()[0], panels[name].powers[:, -1].mean())


def test_each_quantity_of_a_sweep_has_its_place():
    given = model_sweep()
    top, peak = plots.figure7(given).axes
    ratio, hyperplane = plots.figure8(given).axes
    for ax, quantity in ((top, "top_eigenvalue"), (ratio, "ratio"), (hyperplane, "hyperplane_ratio")):
        for i, (name, style) in enumerate((("eq. (16)", "-"), ("eq. (10)", "--"))):
            assert_band_over_draws(ax, 2 * i, SIGMAS, getattr(given.panels[name], quantity))
            theory = ax.lines[2 * i + 1]
            expected = getattr(given.panels[name], f"{quantity}_theory").mean(axis=0)
            np.testing.assert_allclose(theory.get_xydata(), np.transpose([SIGMAS, expected]))
            assert theory.get_linestyle() == style
        assert labels(ax) == ["eq. (16), draws", "eq. (16), theory", "eq. (10), draws", "eq. (10), theory"]
        assert ax.get_ylabel() == plots.QUANTITIES[quantity]
    for line, slope in zip(peak.lines, given.slopes, strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.transpose([SIGMAS, slope]))
    assert [text.split(",")[0] for text in labels(peak)] == ["growth", "freezing"]
    assert [ax.get_yscale() for ax in (top, peak, ratio, hyperplane)] == ["log", "linear", "linear", "linear"]
    assert {ax.get_xscale() for ax in (top, peak, ratio, hyperplane)} == {"log"}
    assert hyperplane.get_title() == "d = 4"


def test_a_phase_diagram_has_a_map_of_each_quantity():
    snr, quantities = np.array([0.01, 0.04, 0.16, 0.64]), ("num_above_edge", "gradient_power", "ratio")
    given = SimpleNamespace(
        sigma_z=SIGMAS,
        snr=snr,
        transition=draws(60, 2, 3),
        **{name: draws(i, 4, 3) for i, name in enumerate(quantities)},
    )
    figure = plots.phase_diagram(given)
    drawn = [ax for ax in figure.axes if ax.lines]
    bars = [ax for ax in figure.axes if not ax.lines]
    assert [ax.get_ylabel() for ax in bars] == ["outliers", r"gradient power in top $C-1$", plots.QUANTITIES["ratio"]]
    for ax, name in zip(drawn, quantities, strict=True):
        (mesh,) = ax.collections
        np.testing.assert_array_equal(mesh.get_array(), getattr(given, name))
        corners = mesh.get_coordinates()
        np.testing.assert_allclose(corners[0, :, 0], 10.0 ** np.array([-1.5, -0.5, 0.5, 1.5]))
        np.testing.assert_allclose(corners[:, 0, 1], 0.01 * 4.0 ** np.array([-0.5, 0.5, 1.5, 2.5, 3.5]))
        for line, points, style in zip(ax.lines, given.transition, ("-", "--"), strict=True):
            np.testing.assert_allclose(line.get_xydata(), np.transpose([SIGMAS, points]))
            assert line.get_linestyle() == style
        assert ax.get_ylim() == pytest.approx((0.01, 0.64))
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["first outlier", "all $C-1$"]


def test_outliers_over_the_edge_along_the_h_term():
    scales = np.array([0.1, 0.2, 0.4])
    given = SimpleNamespace(
        sigma_H=scales, bulk_edge=np.array([1.0, 2.0, 4.0]), eigenvalues=draws(1, 5, 3, 2),
        eigenvalues_theory=draws(2, 3, 2), power=draws(3, 5, 3), power_theory=draws(4, 3),
        transition=[0.05, 0.1, 0.3, 0.4, 0.5],
    )  # fmt: skip
    outliers, power = plots.h_term(given).axes
    for k in range(2):
        assert_band_over_draws(outliers, 2 * k, scales, given.eigenvalues[:, :, k] / [1, 2, 4])
        expected = np.transpose([scales, given.eigenvalues_theory[:, k] / [1, 2, 4]])
        np.testing.assert_allclose(outliers.lines[2 * k + 1].get_xydata(), expected)
    (bulk,) = outliers.patches
    assert (bulk.get_y(), bulk.get_height()) == (0, 1)
    assert outliers.get_ylim()[0] == 0.85
    assert labels(outliers) == ["draws", "theory", "bulk"]  # told once, whatever their number
    assert outliers.lines[0].get_label() == "draws"
    assert_band_over_draws(power, 0, scales, given.power)
    np.testing.assert_allclose(power.lines[1].get_xydata(), np.transpose([scales, given.power_theory]))
    assert power.get_ylim()[0] == 0
    assert labels(power) == ["draws", "theory"]
    for ax, places in ((outliers, 4), (power, 2)):
        assert [line.get_xdata()[0] for line in ax.lines[places:]] == [0.1, 0.3, 0.4]  # those in sight, the ends too
        assert ax.get_xlim() == (0.1, 0.4)
