import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from rmtland.plots.sweeps import plot_sweep
from tests.figures import labels

STATISTICS = ["mean", "standard_error", "low", "high"]


def summary(*axes):
    shape = tuple(len(values) for _, values in axes)
    mean = np.arange(np.prod(shape), dtype=float).reshape(shape)
    values = np.stack([mean, mean * 0 + 0.1, mean - 0.2, mean + 0.3])
    dims = ("statistic", *(name for name, _ in axes))
    theory = np.stack([mean + 0.5] * 4)
    return xr.Dataset({"x": (dims, values), "t": (dims, theory)}, coords={**dict(axes), "statistic": STATISTICS})


def test_lines_with_bands_and_theory():
    data = summary(("sigma_z", [0.1, 1.0, 10.0]))
    ax = plot_sweep(data, "x", theory="t")
    mean, theory = ax.lines
    np.testing.assert_array_equal(mean.get_xydata(), [[0.1, 0], [1, 1], [10, 2]])
    np.testing.assert_array_equal(theory.get_ydata(), [0.5, 1.5, 2.5])
    assert theory.get_linestyle() == "--"
    band = ax.collections[0].get_paths()[0].vertices
    assert {(0.1, -0.2), (0.1, 0.3), (10.0, 1.8), (10.0, 2.3)} <= {tuple(v) for v in band.round(12)}
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == r"logit spread $\sigma_z$"
    assert ax.get_ylabel() == "x"
    assert labels(ax) == ["mean over trials", "theory"]
    data["x"].attrs["units"] = "bits"
    data["x"].loc[{"statistic": ["low", "high"]}] = np.nan  # of one trial
    alone = plot_sweep(data, "x")
    assert not alone.collections
    assert alone.get_legend() is None
    assert alone.get_ylabel() == "x [bits]"


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1, 2, 4], "log"),
        ([1, 2, 4, 8], "log"),
        ([1.0, 2.0, 4.02], "log"),  # rounded
        ([1.0, 2.0, 4.0402], "linear"),
        ([1, 2, 5], "linear"),
        ([1, 2, 3], "linear"),
        ([1, 2, 4, 9], "linear"),
        ([1, 10], "linear"),  # two values have equal ratios and equal steps
        ([0, 1, 2], "linear"),
        ([-4, -2, -1], "linear"),
        ([1.0, 1.001, 1.002001], "linear"),  # steps are equal as well
        ((1.01005 ** np.arange(3)).tolist(), "log"),
    ],
)
def test_the_scale_of_an_axis(values, scale):
    assert plot_sweep(summary(("n", values)), "x").get_xscale() == scale


def test_few_values_of_an_axis_are_named_and_contours_need_a_slope():
    eight, nine = [float(k * k) for k in range(1, 9)], list(range(9))
    data = summary(("snr", eight), ("sigma_z", nine))
    data["snr"].attrs["units"] = "decibels"
    ax = plot_sweep(data, "x")
    np.testing.assert_array_equal(ax.get_yticks(), eight)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "4", "9", "16", "25", "36", "49", "64"]
    assert ax.get_xticks().tolist() != nine
    assert ax.yaxis.get_minorticklocs().size == 0
    assert ax.get_xlabel() == r"logit spread $\sigma_z$"
    assert ax.get_ylabel() == r"SNR $\sigma_c^2/\sigma_E^2$ [decibels]"
    mesh, contours = ax.collections
    assert mesh.get_rasterized()  # cells without number in a drawing of lines
    assert ax.get_legend() is None
    assert contours.levels.size > 2
    names = plot_sweep(summary(("kind", list("abcdefghi")), ("n", [1, 2])), "x")
    assert [label.get_text() for label in names.get_yticklabels()] == list("abcdefghi")
    assert len(names.collections) == 2  # two by nine have contours
    one = plot_sweep(summary(("m", [3.0]), ("n", [1, 2])), "x")
    assert len(one.collections) == 1
    np.testing.assert_allclose(one.collections[0].get_coordinates()[:, 0], [[0.5, 2.5], [0.5, 3.5]])
    flat = summary(("m", [1, 2]), ("n", [1, 2]))
    flat["x"][:] = 3.0
    assert len(plot_sweep(flat, "x").collections) == 1


def test_heat_map_with_contours():
    data = summary(("snr", [1.0, 2.0, 3.0]), ("sigma_z", [0.1, 1.0, 10.0, 100.0]))
    ax = plot_sweep(data, "x", theory=data["t"].sel(statistic="mean").transpose("sigma_z", "snr"))
    mesh, drawn, theory = ax.collections
    np.testing.assert_array_equal(mesh.get_array(), data.x.sel(statistic="mean"))
    corners = mesh.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], 10.0 ** np.array([-1.5, -0.5, 0.5, 1.5, 2.5]))
    np.testing.assert_allclose(corners[:, 0, 1], [0.5, 1.5, 2.5, 3.5])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    np.testing.assert_array_equal(drawn.levels, theory.levels)
    # At sigma_z = 0.1 theory is 1/2 at SNR 1 and 9/2 at SNR 2; its lines of levels in between start there.
    level = next(value for value in theory.levels if 0.6 < value < 4.4)
    line = theory.get_paths()[list(theory.levels).index(level)].vertices
    np.testing.assert_allclose(line[np.isclose(line[:, 0], 0.1), 1], [1 + (level - 0.5) / 4])
    assert ax.figure.axes[1].get_ylabel() == "x"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mean over trials", "theory"]


def test_texts_as_an_axis_and_holes():
    data = summary(("kind", ["a", "b"]), ("n", [1, 2, 3]))
    data["x"][:, 0, 0] = np.nan
    ax = plot_sweep(data, "x")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.collections[0].get_array().mask.sum() == 1


def test_it_draws_where_it_is_told():
    ax = Figure().subplots()
    assert plot_sweep(summary(("n", [1, 2])), "x", ax=ax) is ax


@pytest.mark.parametrize(
    ("data", "variable", "theory", "message"),
    [
        (xr.Dataset({"x": 1}), "x", None, "`summary` must come from summarize_sweep"),
        (summary(("n", [1, 2])), "z", None, "`variable` must be one of x, t; got 'z'"),
        (summary(("n", [1, 2])), "x", "z", "`theory` must be one of x, t; got 'z'"),
        (summary(), "x", None, "`x` must have one or two axes; got none"),
        (summary(("n", [1]), ("m", [1]), ("k", [1])), "x", None, "must have one or two axes; got n, m, k: select"),
        (summary(("n", [1, 2])), "x", xr.DataArray(1.0), "`theory` must have the axes n"),
    ],
)
def test_bad_input(data, variable, theory, message):
    with pytest.raises(ValueError, match=message):
        plot_sweep(data, variable, theory=theory)
