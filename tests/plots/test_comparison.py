import dataclasses
import itertools
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import rmtland as rl
from rmtland.plots.comparison import plot_gradient_power, plot_scores, plot_stage_spectra, plot_stages
from tests.figures import assert_steps_between, band_ends


def distances(band, points):
    """From each point to the nearest corner of a filled band."""
    corners = np.concatenate([path.vertices for path in band.get_paths()])
    return np.abs(corners[None] - points[:, None]).sum(axis=2).min(axis=1)


@pytest.fixture(scope="module")
def comparison():
    model = rl.LandscapeModel.fort_ganguli(num_examples=40, num_classes=3, num_parameters=60, sigma_z=1.0)
    return rl.compare({"early": model.sample(rng=0), "late": model.sample(rng=1)}, num_draws=4, theory=False)


def test_cumulative_power_is_what_is_plotted(comparison):
    stage = comparison.stages["early"]
    ax = plot_gradient_power(stage, comparison.rung_labels)
    lines = {line.get_label(): line for line in ax.lines}
    for name, label in comparison.rung_labels.items():
        expected = np.cumsum(stage.rungs[name].powers[:, ::-1], axis=1).mean(axis=0)
        np.testing.assert_allclose(lines[label].get_ydata(), expected)
    drawn = [name for name, rung in stage.rungs.items() if rung.num_draws > 1]
    assert len(ax.collections) == len(drawn) == 7  # a band for each model rung
    for name, band in zip(drawn, ax.collections, strict=True):
        shares = np.cumsum(stage.rungs[name].powers[:, ::-1], axis=1)
        columns = shares.T.tolist()
        means, deviations = [statistics.mean(x) for x in columns], [statistics.stdev(x) for x in columns]
        for sign in (-1, 1):
            edge = np.array([np.arange(1, len(means) + 1), np.array(means) + sign * np.array(deviations)]).T
            np.testing.assert_allclose(distances(band, edge), 0, atol=1e-9)
    assert ax.get_xlabel() == "number of top eigenvectors"
    assert ax.get_ylabel() == "share of squared gradient"


def test_spectra_hold_every_eigenvalue_in_range(comparison):
    stage = comparison.stages["early"]
    ax = plot_stage_spectra(stage, comparison.rung_labels)
    stairs = {patch.get_label(): patch for patch in ax.patches}
    rung = stage.rungs["gauss_newton"]
    values, edges, _ = stairs[comparison.rung_labels["gauss_newton"]].get_data()
    assert values.sum() == np.count_nonzero(rung.eigenvalues > edges[0])
    drawn = [name for name, rung in stage.rungs.items() if rung.num_draws > 1]
    for name, band in zip(drawn, ax.collections, strict=True):
        counts = [np.histogram(x[x > 0], edges)[0].tolist() for x in stage.rungs[name].eigenvalues]
        for k, column in enumerate(zip(*counts, strict=True)):
            mean, deviation = statistics.mean(column), statistics.stdev(column)
            for height in (max(mean - deviation, 0), mean + deviation):
                np.testing.assert_allclose(distances(band, np.array([[edges[k], height]])), 0, atol=1e-9)
    (ticks,) = [line for line in ax.lines if line.get_label() == comparison.rung_labels["mean_gradients"]]
    np.testing.assert_array_equal(ticks.get_xdata(), stage.rungs["mean_gradients"].eigenvalues[0])
    assert ax.get_xscale() == "log"


def test_stages(comparison):
    ax = Figure().subplots()
    assert plot_stages(comparison, "top_eigenvalue", ax=ax) is ax
    means = {c.get_label(): np.asarray(c.lines[0].get_ydata(), dtype=float) for c in ax.containers}
    for name, label in comparison.rung_labels.items():
        expected = [stage.rungs[name].mean("top_eigenvalue") for stage in comparison.stages.values()]
        np.testing.assert_allclose(means[label], expected)
    for container in ax.containers:
        name = next(name for name, label in comparison.rung_labels.items() if label == container.get_label())
        rungs = [stage.rungs[name] for stage in comparison.stages.values()]
        bars = [segment for bar in container.lines[2] for segment in bar.get_segments()]
        for rung, segment in zip(rungs, bars, strict=False):
            if rung.num_draws > 1:
                half = (segment[1, 1] - segment[0, 1]) / 2
                assert half == pytest.approx(statistics.stdev(rung.values["top_eigenvalue"].tolist()), rel=1e-9)
    assert ax.get_ylabel() == "top eigenvalue"


def test_stages_show_the_errors_of_estimates(comparison):
    stages = {
        name: stage.with_rungs(
            {"gauss_newton": dataclasses.replace(stage.rungs["gauss_newton"], errors={"trace": error})}
        )
        for error, (name, stage) in zip([0.5, 2.0], comparison.stages.items(), strict=True)
    }
    ax = plot_stages(dataclasses.replace(comparison, stages=stages), "trace")
    (found,) = (c for c in ax.containers if c.get_label() == comparison.rung_labels["gauss_newton"])
    bars = [segment for bar in found.lines[2] for segment in bar.get_segments()]
    assert [(bar[1, 1] - bar[0, 1]) / 2 for bar in bars] == pytest.approx([0.5, 2.0])


def test_all_figures(comparison):
    figures = comparison.plot()
    assert {name: len(figure.axes) for name, figure in figures.items()} == {
        "spectra": 2,
        "gradient_power": 2,
        "stages": 2,
        "scores": 4,
    }
    for name, figure in figures.items():
        figure.canvas.draw()  # nothing that the layout engine warns about
        marks = comparison.stages if name == "scores" else comparison.rung_labels
        assert len(figure.legends[0].get_texts()) == len(marks)
        assert not figure.legends[0].get_frame_on()
    first, *others = figures["scores"].axes
    for ax in (first, *others):
        assert ax.yaxis_inverted()  # the most told rung on top
        assert first.get_shared_y_axes().joined(first, ax)
    assert set(dataclasses.replace(comparison, stages={"late": comparison.stages["late"]}).plot()) == {
        "spectra",
        "gradient_power",
        "scores",
    }


def test_scores_of_every_stage_are_marked(comparison):
    frame, ax = comparison.scores(), plot_scores(comparison, "ratio_difference")
    rungs = [label.get_text() for label in ax.get_yticklabels()]
    for line, name in zip(ax.lines, comparison.stages, strict=False):
        x, y = line.get_data()
        assert line.get_label() == name
        np.testing.assert_array_equal(y, np.arange(len(rungs)))
        np.testing.assert_array_equal(x, [frame.loc[(name, rung), "ratio_difference"] for rung in rungs])
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), 0)  # the network's own G
    assert ax.yaxis_inverted()
    assert ax.get_xlabel() == "ratio difference"


def rung_of(eigenvalues, powers=None, density=None):
    rows = np.array(eigenvalues)
    return SimpleNamespace(eigenvalues=rows, powers=powers, density=density, num_draws=len(rows))


def test_spectra_of_given_eigenvalues():
    counts = SimpleNamespace(count_below=lambda x: (40 * x, 0 * x))
    rungs = {
        "hessian": rung_of([[0.1, 0.2]], density=counts),
        "gauss_newton": rung_of([[-0.1, 0.0, 1e-8, 0.3, 0.3, 0.5]]),
        "own_probabilities": rung_of([[6.5e-8, 1e-4, 0.3, 0.3], [6.5e-8, 0.1, 0.3, 0.4]]),
        "mean_gradients": rung_of([[0.2, 0.4]]),
    }
    ax = plot_stage_spectra(SimpleNamespace(rungs=rungs), {name: name for name in rungs})
    edges = 0.5 * 10 ** np.linspace(-7, np.log10(1.5), 84)
    heights = {patch.get_label(): patch.get_data().values for patch in ax.patches}
    assert list(heights) == ["hessian", "gauss_newton", "own_probabilities"]
    for patch in ax.patches:
        np.testing.assert_allclose(patch.get_data().edges, edges)
        assert patch.get_linestyle() == ("--" if patch.get_label() == "own_probabilities" else "-")

    def in_bins(values):
        return np.array([sum(low <= x < high for x in values) for low, high in itertools.pairwise(edges.tolist())])

    np.testing.assert_allclose(heights["hessian"], 40 * np.diff(edges))
    np.testing.assert_array_equal(heights["gauss_newton"], in_bins([0.3, 0.3, 0.5]))
    one, other = in_bins([6.5e-8, 1e-4, 0.3, 0.3]), in_bins([6.5e-8, 0.1, 0.3, 0.4])
    mean, deviation = (one + other) / 2, abs(one - other) / 2**0.5
    np.testing.assert_array_equal(heights["own_probabilities"], mean)
    (band,) = ax.collections
    assert_steps_between(band, edges, np.clip(mean - deviation, 0, None), mean + deviation)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0.2, 0.6], [0.4, 0.6]])
    assert ax.get_ylim()[0] == 0.4
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    frozen = SimpleNamespace(rungs={name: rung_of([[0.0, 0.0]]) for name in ("gauss_newton", "mean_gradients")})
    edges = plot_stage_spectra(frozen, {name: name for name in rungs}).patches[0].get_data().edges
    np.testing.assert_allclose(edges[[0, -1]], [1e-7, 1.5])


def test_cumulative_power_of_given_shares():
    powers = {
        "gauss_newton": np.array([[0.1, 0.2, 0.6]]), "mean_gradients": np.array([[0.3, 0.5]]),
        "own_probabilities": np.array([[0.0, 0.1, 0.5], [0.2, 0.3, 0.3]]),
    }  # fmt: skip
    rungs = {name: rung_of(shares, shares) for name, shares in powers.items()}
    ax = plot_gradient_power(SimpleNamespace(rungs=rungs, sizes=(20, 4, 60)), {name: name for name in rungs})
    sums = {"gauss_newton": [0.6, 0.8, 0.9], "mean_gradients": [0.5, 0.8], "own_probabilities": [0.4, 0.6, 0.7]}
    for line, (name, y) in zip(ax.lines, sums.items(), strict=False):
        np.testing.assert_allclose(line.get_xydata(), [[k + 1, share] for k, share in enumerate(y)])
        assert line.get_label() == name
        assert line.get_linestyle() == ("--" if name == "own_probabilities" else "-")
        assert line.get_marker() == ("o" if name == "mean_gradients" else "None")
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), 3)  # C - 1
    deviations = np.array([0.2, 0.0, 0.2]) / 2**0.5
    y = np.array(sums["own_probabilities"])
    np.testing.assert_allclose(band_ends(ax.collections[0]), [[1, 2, 3], y - deviations, y + deviations])
    assert ax.get_ylim() == (0, 1.02)
    assert ax.get_xscale() == "log"
