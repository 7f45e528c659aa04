import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import to_rgb

import rmtland as rl
from rmtland.plots.hierarchy import (
    COLOURS,
    SERIES,
    plot_attribution,
    plot_class_embedding,
    plot_hierarchy_traces,
    plot_knock_outs,
)
from tests import oracles
from tests.figures import labels

SOURCE = rl.DenseLogitGradients(*oracles.examples(60, 4, 30))
HIERARCHY = rl.hierarchy(SOURCE)
ATTRIBUTION = rl.attribution(HIERARCHY, k=5, rng=0)


def test_knock_outs_count_eigenvalues_and_mark_outliers():
    spectra = {
        "G": rl.gauss_newton_spectrum(SOURCE).eigenvalues,
        "G - A1": np.linalg.eigvalsh(HIERARCHY.knock_out("A1").to_dense()),
    }
    ax = plot_knock_outs(spectra, attribution=ATTRIBUTION)
    for stairs, values in zip(ax.patches, spectra.values(), strict=True):
        counts, edges, _ = stairs.get_data()
        assert counts.sum() == np.count_nonzero(values > edges[0])
    assert labels(ax)[:2] == ["G", "G - A1"]
    marked = np.concatenate([line.get_xdata() for line in ax.lines])
    np.testing.assert_allclose(np.sort(marked), ATTRIBUTION.eigenvalues)
    for line in ax.lines:
        place = next(name for name, colour in COLOURS.items() if colour == line.get_color())
        assert len(line.get_xdata()) == ATTRIBUTION.counts[place]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    ax.figure.canvas.draw()


def test_knock_outs_of_given_eigenvalues():
    spectra = {str(i): 0.02 * np.array([-1.0, 0.0, 1e-9, 1e-6, *[0.3 + i] * (i + 1), 9.0]) for i in range(8)}
    places = SimpleNamespace(eigenvalues=np.array([0.01, 0.02, 0.18]), places=("B1", "A1", "A1"))
    ax = plot_knock_outs(spectra, attribution=places)
    edges = 0.18 * 10 ** np.linspace(-7, np.log10(1.5), 84)  # a twelfth of a decade each, or nearly
    for i, (stairs, values) in enumerate(zip(ax.patches, spectra.values(), strict=True)):
        counts, drawn, _ = stairs.get_data()
        np.testing.assert_allclose(drawn, edges)
        expected = [sum(low <= x < high for x in values.tolist()) for low, high in itertools.pairwise(edges)]
        np.testing.assert_array_equal(counts, expected)
        assert sum(expected) == i + 3  # 1e-9 lies further down, -1 and 0 have no logarithm
        assert stairs.get_edgecolor()[:3] == pytest.approx(to_rgb(SERIES[i % 7]))
    assert ax.get_ylim() == pytest.approx((0.5, 3 * 8))  # the highest bin holds eight
    ours, theirs = ax.lines
    np.testing.assert_array_equal(ours.get_xydata(), [[0.02, 0.95], [0.18, 0.95]])
    np.testing.assert_array_equal(theirs.get_xydata(), [[0.01, 0.95]])
    for line in ax.lines:
        assert line.get_transform() == ax.get_xaxis_transform()  # of the height of the axes
    assert labels(ax) == [*spectra, "2 of A1 + A2", "1 of B1"]
    assert ax.get_ylabel() == "eigenvalues per bin"
    empty = plot_knock_outs({"nothing": np.zeros(3)})
    np.testing.assert_allclose(empty.patches[0].get_data().edges[[0, -1]], [1e-7, 1.5])
    assert empty.get_ylim() == pytest.approx((0.5, 3))


def test_attribution_of_given_shares():
    rng = np.random.default_rng(0)
    parts = ("A1", "B1", "rest")
    given = SimpleNamespace(
        eigenvalues=np.array([1.0, 3.0, 7.0]), shares=dict(zip(parts, rng.dirichlet([1, 1, 1], 3).T, strict=True)),
        overlaps={"A1": rng.random(3), "B1": rng.random(3)}, chance={"A1": 0.1, "B1": 0.2},
    )  # fmt: skip
    ax = plot_attribution(given)
    heights = np.array([(given.eigenvalues * given.shares[part])[::-1] for part in parts])
    for k, container in enumerate(ax.containers):
        bars = [(bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height()) for bar in container]
        np.testing.assert_allclose(bars, np.transpose([[1, 2, 3], heights[:k].sum(axis=0), heights[k]]), atol=1e-15)
        assert all(bar.get_width() < 1 for bar in container)  # next to each other
    np.testing.assert_array_equal(ax.get_xticks(), [1, 2, 3])
    (right,) = (other for other in ax.figure.axes if other is not ax)
    for place, (points, chance) in zip(("A1", "B1"), (right.lines[:2], right.lines[2:]), strict=True):
        np.testing.assert_allclose(points.get_xydata(), np.transpose([[1, 2, 3], given.overlaps[place][::-1]]))
        np.testing.assert_array_equal(chance.get_ydata(), given.chance[place])
    assert right.get_ylim() == (0, 1.05)  # of squared cosines
    assert labels(right)[3:] == ["overlap with range of A1", "overlap with range of B1"]
    stands = right.get_legend().get_bbox_to_anchor().transformed(right.transAxes.inverted())
    np.testing.assert_allclose(stands.p0, [0.5, 1])  # above the axes


def test_knock_outs_of_large_networks_by_their_densities():
    density = rl.log_spectral_density(HIERARCHY.knock_out("B1"), num_probes=2, num_steps=10, rng=0)
    ax = plot_knock_outs({"G - B1": density}, ax=None)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), density.density)
    assert "density" in ax.get_ylabel()
    plot_knock_outs({"nothing": np.zeros(3)}).figure.canvas.draw()


def test_attribution_stacks_shares_up_to_the_eigenvalue():
    ax = plot_attribution(ATTRIBUTION)
    heights = np.array([[bar.get_height() for bar in container] for container in ax.containers])
    np.testing.assert_allclose(heights.sum(axis=0), ATTRIBUTION.eigenvalues[::-1])
    np.testing.assert_allclose(heights[0], (ATTRIBUTION.eigenvalues * ATTRIBUTION.shares["A1"])[::-1])
    right = next(other for other in ax.figure.axes if other is not ax)
    overlaps, chance = right.lines[:2]
    np.testing.assert_array_equal(overlaps.get_ydata(), ATTRIBUTION.overlaps["A1"][::-1])
    assert chance.get_ydata()[0] == ATTRIBUTION.chance["A1"]
    assert labels(right)[:3] == ["A1 + A2", "B1", "the rest"]
    ax.figure.canvas.draw()


def test_traces_of_the_network_and_of_a_tensor():
    rng = np.random.default_rng(0)
    parts = ("A1", "A2", "B1", "B2")
    dataset = xr.Dataset(
        {f"trace_{part}": (("step", "split"), rng.random((4, 1))) for part in parts}
        | {f"group_trace_{part}": (("step", "split", "group"), rng.random((4, 1, 2))) for part in parts},
        coords={"step": [0, 1, 2, 4], "split": ["train"], "group": ["a", "b"]},
    )
    at = dataset.sel(split="train")
    for chosen, prefix in ((at, "trace_"), (at.sel(group="b"), "group_trace_")):
        ax = plot_hierarchy_traces(chosen)
        for part, line in zip(parts, ax.lines, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), np.transpose([[0, 1, 2, 4], chosen[f"{prefix}{part}"]]))
        assert labels(ax) == list(parts)
        assert (ax.get_xscale(), ax.get_yscale()) == ("symlog", "log")
        assert ax.xaxis.get_transform().linthresh == 1
    with pytest.raises(TypeError, match="`spectra` must be a mapping of labels to eigenvalues or results of log_spec"):
        plot_knock_outs(np.ones(3))
    with pytest.raises(ValueError, match="`dataset` must be of a training record"):
        plot_hierarchy_traces(xr.Dataset())
    with pytest.raises(ValueError, match="`dataset` must be at one split"):
        plot_hierarchy_traces(dataset)


def test_embedding_keeps_the_colour_of_the_class():
    embedding = rl.class_embedding(HIERARCHY)
    ax = plot_class_embedding(embedding, names=["cat", "dog", "frog", "ship"])
    small, large = ax.collections[::2], ax.collections[1::2]
    for c in range(4):
        np.testing.assert_array_equal(small[c].get_facecolor()[0, :3], large[c].get_facecolor()[0, :3])
        np.testing.assert_array_equal(large[c].get_offsets(), embedding.classes[c][None])
    assert [text.get_text() for text in ax.texts] == ["cat", "dog", "frog", "ship"]
    for c in range(4):
        np.testing.assert_array_equal(small[c].get_offsets(), embedding.pairs[c])
        assert small[c].get_zorder() < large[c].get_zorder() < ax.texts[c].get_zorder()
    many = rl.ClassEmbedding(np.full((12, 2), np.nan), np.full((12, 12, 2), np.nan))
    assert not plot_class_embedding(many).texts


@pytest.mark.parametrize("count", [10, 11])
def test_embedding_of_more_classes_than_colours(count):
    points = np.arange(2.0 * count).reshape(count, 2)
    points[1] = np.nan  # a class without examples
    ax = plot_class_embedding(rl.ClassEmbedding(points, np.zeros((count, count, 2))))
    for c, large in enumerate(ax.collections[1::2]):
        expected = colormaps["tab10"](c) if count == 10 else colormaps["hsv"](c / 11)
        np.testing.assert_allclose(large.get_facecolor()[0], expected)
    assert [text.get_text() for text in ax.texts] == [str(c) for c in range(count) if c != 1]
    assert [text.xy[0] for text in ax.texts] == [2 * c for c in range(count) if c != 1]
