"""Figures of a comparison: what was measured as solid lines, the model as dashed ones with a band over draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rmtland.plots._axes import new_or

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "hessian": "#000000",
    "gauss_newton": "#0072b2",
    "mean_gradients": "#009e73",
    "own_probabilities": "#d55e00",
    "full_model": "#cc79a7",
    "margin_logits": "#e69f00",
    "matched_participation": "#56b4e9",
    "class_means": "#7f7f00",
    "unfrozen_logits": "#8c510a",
    "kernel_law": "#5e3c99",
    "measured_means": "#b2182b",
}
"""Okabe and Ito's palette, told apart by readers of any colour vision (its yellow darkened to be seen on white)."""

DECADES = 7
"""How far below the largest eigenvalue the spectra are drawn; below lies what float64 and frozen examples leave."""


def plot_stage_spectra(stage: Any, labels: dict[str, str], *, ax: Axes | None = None) -> Axes:
    """Eigenvalue histograms of the rungs of one stage, on logarithmic axes.

    Parameters
    ----------
    stage : Stage
        A stage of a `Comparison`.
    labels : dict
        Rung to label, `Comparison.rung_labels`.
    ax : Axes, optional
        A new figure's by default.

    Returns
    -------
    Axes
        One step line per rung (eigenvalues per bin and draw, with a band of one s.d. over draws; of a matrix too large
        to diagonalise by its spectral density); ticks for the C - 1 eigenvalues of the mean logit gradients.
    """
    ax = new_or(ax)
    # A draw whose probabilities are all frozen has no eigenvalue that is not zero.
    top = max(rung.eigenvalues.max(initial=0.0) for rung in stage.rungs.values()) or 1.0
    bins = np.geomspace(top / 10**DECADES, 1.5 * top, 12 * DECADES)
    for name, rung in stage.rungs.items():
        colour = COLOURS[name]
        if name == "mean_gradients":
            heights = np.full(rung.eigenvalues.shape[1], 0.6)
            ax.plot(rung.eigenvalues[0], heights, "|", color=colour, markersize=14, mew=2, label=labels[name])
            continue
        if rung.density is None:
            counts = np.array([np.histogram(values[values > 0], bins)[0] for values in rung.eigenvalues], dtype=float)
        else:
            # Smoothed: bins near zero are far narrower than what its quadratures resolve, whose nodes would be spikes.
            counts = np.diff(rung.density.count_below(bins)[0])[None, :]
        mean = counts.mean(axis=0)
        ax.stairs(mean, bins, color=colour, label=labels[name], linestyle=_style(rung), linewidth=1.4)
        if rung.num_draws > 1:
            deviation = counts.std(axis=0, ddof=1)
            low, high = np.maximum(mean - deviation, 0), mean + deviation
            ax.fill_between(
                bins, np.append(low, low[-1]), np.append(high, high[-1]), step="post", color=colour, alpha=0.15, lw=0
            )
    ax.set(xscale="log", yscale="log", ylim=(0.4, None), xlabel=r"eigenvalue $\lambda$", ylabel="eigenvalues per bin")
    return ax


def plot_gradient_power(stage: Any, labels: dict[str, str], *, ax: Axes | None = None) -> Axes:
    """Cumulative share of the squared gradient in the top eigenvectors of each rung of one stage.

    Parameters
    ----------
    stage : Stage
    labels : dict
        Rung to label.
    ax : Axes, optional

    Returns
    -------
    Axes
        One line per rung, with a band of one s.d. over draws; a mark at C - 1 directions.
    """
    ax = new_or(ax)
    for name, rung in stage.rungs.items():
        cumulative = np.cumsum(rung.powers[:, ::-1], axis=1)
        directions = np.arange(1, cumulative.shape[1] + 1)
        mean = cumulative.mean(axis=0)
        marker = "o" if name == "mean_gradients" else None
        ax.plot(directions, mean, color=COLOURS[name], label=labels[name], linestyle=_style(rung), marker=marker, ms=3)
        if rung.num_draws > 1:
            deviation = cumulative.std(axis=0, ddof=1)
            ax.fill_between(directions, mean - deviation, mean + deviation, color=COLOURS[name], alpha=0.15, lw=0)
    ax.axvline(stage.sizes[1] - 1, color="0.6", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="number of top eigenvectors", ylabel="share of squared gradient")
    return ax


def plot_stages(comparison: Any, quantity: str, *, ax: Axes | None = None, ylabel: str | None = None) -> Axes:
    """One quantity of every rung through the stages.

    Parameters
    ----------
    comparison : Comparison
    quantity : str
        A row of its table.
    ax : Axes, optional
    ylabel : str, optional
        By default the quantity's name.

    Returns
    -------
    Axes
        One line per rung, with bars of one s.d. over draws, or of an estimate's error.
    """
    ax = new_or(ax)
    stages = list(comparison.stages)
    for name, label in comparison.rung_labels.items():
        rungs = [comparison.stages[stage].rungs.get(name) for stage in stages]
        means = [np.nan if rung is None else rung.mean(quantity) for rung in rungs]
        deviations = [0.0 if rung is None else _error(rung, quantity) for rung in rungs]
        style = next(_style(rung) for rung in rungs if rung is not None)
        ax.errorbar(
            stages, means, deviations, color=COLOURS[name], label=label, linestyle=style, marker="o", ms=4, capsize=3
        )
    ax.set(ylabel=ylabel or quantity.replace("_", " "))
    return ax


def plot_scores(comparison: Any, score: str, *, ax: Axes | None = None) -> Axes:
    """One score of every rung, the most told rung on top, a mark for each stage; 0 is the network's own G.

    Parameters
    ----------
    comparison : Comparison
    score : str
        A column of its scores.
    ax : Axes, optional

    Returns
    -------
    Axes
        A line of marks per stage.
    """
    ax = new_or(ax)
    frame = comparison.scores()
    labels = list(dict.fromkeys(frame.index.get_level_values("rung")))
    for name in comparison.stages:
        if name in frame.index.get_level_values("stage"):
            values = frame.loc[name][score].reindex(labels)
            ax.plot(values.to_numpy(), np.arange(len(labels)), "o-", ms=4, lw=1.0, label=name)
    ax.axvline(0.0, color="0.6", linewidth=0.8, linestyle=":")
    ax.set(yticks=np.arange(len(labels)), yticklabels=labels, xlabel=score.replace("_", " "))
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    return ax


def plot_comparison(comparison: Any) -> dict[str, Figure]:
    """All figures of a comparison.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    dict
        "spectra" and "gradient_power" (a panel per stage) and, for several stages, "stages" (top eigenvalue and
        Trace/||.||_F) to a Figure.
    """
    labels = comparison.rung_labels
    figures = {
        "spectra": _panels(comparison, lambda stage, ax: plot_stage_spectra(stage, labels, ax=ax)),
        "gradient_power": _panels(comparison, lambda stage, ax: plot_gradient_power(stage, labels, ax=ax)),
    }
    if len(comparison.stages) > 1:
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        plot_stages(comparison, "top_eigenvalue", ax=left, ylabel=r"top eigenvalue $\lambda_1$").set_yscale("log")
        left.yaxis.set_minor_formatter(NullFormatter())
        plot_stages(comparison, "goldilocks_ratio", ax=right, ylabel=r"Trace$(H)\,/\,\|H\|_F$")
        _shared_legend(figure, [left, right])
        figures["stages"] = figure
    if any(stage.scores() for stage in comparison.stages.values()):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        axes = list(figure.subplots(1, 4, sharey=True))
        titles = {
            "top_error": "median |log ratio|, top 2C", "edge_error": "log ratio, bulk edge",
            "power_difference": "difference of power", "ratio_difference": r"Trace$/\|\cdot\|_F$, relative",
        }  # fmt: skip
        for ax, (score, title) in zip(axes, titles.items(), strict=True):
            plot_scores(comparison, score, ax=ax).set_xlabel(title)
        _shared_legend(figure, axes)
        figures["scores"] = figure
    return figures


def _panels(comparison: Any, draw: Any) -> Figure:
    """A panel per stage, `draw(stage, ax)` in each, one legend for all."""
    figure = Figure(figsize=(1.5 + 4.2 * len(comparison.stages), 4.4), layout="constrained")
    axes: npt.NDArray[Any] = figure.subplots(1, len(comparison.stages), sharey=True, squeeze=False)[0]
    for ax, (name, stage) in zip(axes, comparison.stages.items(), strict=True):
        draw(stage, ax).set_title(name)
        ax.label_outer()
        ax.set_xlabel(ax.get_xlabel())
    _shared_legend(figure, list(axes))
    return figure


def _shared_legend(figure: Figure, axes: list[Axes]) -> None:
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=min(len(entries), 4), frameon=False
    )


def _error(rung: Any, quantity: str) -> float:
    """What an estimate's own error is, else the deviation over draws; 0 of one exact matrix."""
    error: float = rung.errors.get(quantity, 0.0 if rung.num_draws == 1 else rung.deviation(quantity))
    return error


def _style(rung: Any) -> str:
    return "--" if rung.num_draws > 1 else "-"
