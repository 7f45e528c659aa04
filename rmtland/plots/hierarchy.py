"""Figures of the hierarchy of G: knock-outs, outliers by what they belong to, traces in training, means on a plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps

from rmtland._arguments import instance
from rmtland.plots._axes import new_or

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"G": "#000000", "A1": "#d55e00", "A2": "#e69f00", "B1": "#0072b2", "B2": "#009e73", "rest": "0.55"}
"""Of Okabe and Ito's palette, told apart by readers of any colour vision."""
SERIES = ("#000000", "#d55e00", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9")
PLACES = {"A1": "A1 + A2", "B1": "B1", "rest": "the rest"}
DECADES = 7
"""How far below the largest eigenvalue spectra are drawn."""


def plot_knock_outs(spectra: Mapping[str, Any], *, attribution: Any = None, ax: Axes | None = None) -> Axes:
    """Spectra of G and of what is left without some of its parts, on logarithmic axes.

    Parameters
    ----------
    spectra : dict
        From labels such as "G - A1 - A2" to eigenvalues, (n,), or to results of `log_spectral_density`.
    attribution : Attribution, optional
        Of the outliers, which are then marked on the axis, coloured by what they belong to.
    ax : Axes, optional
        A new figure's by default.

    Returns
    -------
    Axes
        A line for each spectrum: eigenvalues per bin, a twelfth of a decade wide, or the density of ln |lambda|.
    """
    instance("spectra", spectra, Mapping, "a mapping of labels to eigenvalues or results of log_spectral_density")
    ax = new_or(ax, (6, 4))
    dense = [np.asarray(s, dtype=np.float64) for s in spectra.values() if not hasattr(s, "magnitudes")]
    top = max([float(np.max(values, initial=0.0)) for values in dense], default=0.0) or 1.0
    bins = np.geomspace(top / 10**DECADES, 1.5 * top, 12 * DECADES)
    most = 1
    for i, (label, spectrum) in enumerate(spectra.items()):
        colour = SERIES[i % len(SERIES)]
        if hasattr(spectrum, "magnitudes"):
            ax.plot(spectrum.magnitudes, spectrum.density, color=colour, lw=1.3, label=label)
            continue
        values = np.asarray(spectrum, dtype=np.float64)
        counts = np.histogram(values[values > 0], bins)[0]
        most = max(most, int(counts.max()))
        ax.stairs(counts, bins, color=colour, lw=1.3, label=label)
    if attribution is not None:
        on_axis = ax.get_xaxis_transform()
        for place, label in PLACES.items():
            chosen = attribution.eigenvalues[np.array(attribution.places) == place]
            if chosen.size:
                ax.plot(
                    chosen, np.full(chosen.size, 0.95), "v", ms=7, color=COLOURS[place], transform=on_axis,
                    label=f"{chosen.size} of {label}",
                )  # fmt: skip
    if dense:
        ax.set_ylim(0.5, 3 * most)
    ylabel = "eigenvalues per bin" if dense else r"density of $\ln|\lambda|$"
    ax.set(xscale="log", yscale="log", xlabel=r"eigenvalue $\lambda$", ylabel=ylabel)
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_attribution(attribution: Any, *, ax: Axes | None = None) -> Axes:
    """Each outlier as a bar of its eigenvalue, in the parts that A1 + A2, B1 and the rest add to it.

    Parameters
    ----------
    attribution : Attribution
    ax : Axes, optional

    Returns
    -------
    Axes
        Stacked bars by rank, and the squared overlap with the ranges of A1 and of B1 as points on a second axis, with
        the share of chance as dotted lines.
    """
    ax = new_or(ax, (6, 4))
    values = attribution.eigenvalues[::-1]
    ranks = np.arange(1, values.size + 1)
    base: npt.NDArray[np.float64] = np.zeros(values.size)
    for place, label in PLACES.items():
        part = values * attribution.shares[place][::-1]
        ax.bar(ranks, part, 0.8, bottom=base, color=COLOURS[place], alpha=0.75, label=label)
        base = base + part
    ax.set(xlabel="rank $k$", ylabel=r"eigenvalue $\lambda_k$", xticks=ranks)
    right = ax.twinx()
    for place, marker in (("A1", "o"), ("B1", "s")):
        right.plot(
            ranks, attribution.overlaps[place][::-1], marker, ms=5, mfc="white", color=COLOURS[place],
            label=f"overlap with range of {place}",
        )  # fmt: skip
        right.axhline(attribution.chance[place], color=COLOURS[place], lw=0.9, ls=":")
    right.set(ylim=(0, 1.05), ylabel="squared overlap")
    handles = [*ax.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
    # Above the axes: bars and points fill them.
    right.legend(
        handles=handles, frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3
    )
    return ax


def plot_hierarchy_traces(dataset: Any, *, ax: Axes | None = None) -> Axes:
    """Traces of A1, A2, B1 and B2 while a network trains.

    Parameters
    ----------
    dataset : xarray.Dataset
        Of a training record with the statistic "hierarchy", at one of its splits; for a tensor alone at one of its
        groups, ``dataset.sel(group=...)``.
    ax : Axes, optional

    Returns
    -------
    Axes
        A line for each over the steps, which are spaced like logarithms from step 1 on.

    Raises
    ------
    ValueError
        For a dataset that has no such traces, or several splits.
    """
    ax = new_or(ax, (6, 4))
    parts = ("A1", "A2", "B1", "B2")
    prefix = "group_trace_" if "group" in dataset.coords and dataset["group"].ndim == 0 else "trace_"
    if f"{prefix}A1" not in dataset:
        raise ValueError('`dataset` must be of a training record with statistics=["hierarchy"]; got no trace_A1')
    steps = dataset["step"].to_numpy()
    for part in parts:
        values = dataset[f"{prefix}{part}"].to_numpy()
        if values.ndim != 1:
            raise ValueError(f'`dataset` must be at one split, such as .sel(split="train"); got {values.shape}')
        ax.plot(steps, values, ".-", color=COLOURS[part], lw=1.3, label=part)
    ax.set_xscale("symlog", linthresh=1)
    ax.set(yscale="log", xlabel="step", ylabel="trace")
    ax.legend(frameon=False)
    return ax


def plot_class_embedding(embedding: Any, *, names: Any = None, ax: Axes | None = None) -> Axes:
    """Class means and cross-class means on a plane, coloured by class.

    Parameters
    ----------
    embedding : ClassEmbedding
    names : sequence of str, optional
        Of the classes; by default their numbers.
    ax : Axes, optional

    Returns
    -------
    Axes
        A large circle with its name for each g_c and small ones for its g_{c,c'}, all of one colour.
    """
    ax = new_or(ax, (6, 4))
    num_classes = len(embedding.classes)
    colours = colormaps["tab10" if num_classes <= 10 else "hsv"]
    for c in range(num_classes):
        colour = colours(c if num_classes <= 10 else c / num_classes)
        (x, y), (left, up) = embedding.classes[c], embedding.pairs[c].T
        ax.scatter(left, up, s=18, color=colour, alpha=0.8, lw=0)
        ax.scatter(x, y, s=170, color=colour, edgecolors="black", lw=0.8, zorder=3)
        if np.isfinite(embedding.classes[c]).all():
            name = str(c) if names is None else str(names[c])
            ax.annotate(name, embedding.classes[c], ha="center", va="center", fontsize=8, zorder=4)
    ax.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    return ax
