import numpy as np
import pytest
import xarray as xr

import rmtland as rl
from rmtland.plots.hierarchy import (
    COLOURS,
    plot_attribution,
    plot_class_embedding,
    plot_hierarchy_traces,
    plot_knock_outs,
)
from tests import oracles

SOURCE = rl.DenseLogitGradients(*oracles.examples(60, 4, 30))
HIERARCHY = rl.hierarchy(SOURCE)
ATTRIBUTION = rl.attribution(HIERARCHY, k=5, rng=0)


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


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
            np.testing.assert_array_equal(line.get_ydata(), chosen[f"{prefix}{part}"])
        assert labels(ax) == list(parts)
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
    many = rl.ClassEmbedding(np.full((12, 2), np.nan), np.full((12, 12, 2), np.nan))
    assert not plot_class_embedding(many).texts
