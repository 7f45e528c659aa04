"""The paper's model figures: draws with a band of one standard deviation, theory as a line. Takes results only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from rmtland.plots._axes import new_or

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"eq. (16)": "#0072b2", "eq. (10)": "#d55e00"}
"""Okabe and Ito's palette."""
THEORY = "#000000"

QUANTITIES = {
    "top_eigenvalue": r"top eigenvalue $\lambda_1$",
    "gradient_power": r"share of squared gradient in top $C-1$",
    "ratio": r"Trace$(H)\,/\,\|H\|_F$",
    "hyperplane_ratio": r"Trace$(H)\,/\,\|H\|_F$ on a hyperplane",
}
"""Of a sweep along sigma_z, to their axis labels."""


def plot_simplex(result: Any, *, ax: Axes | None = None) -> Axes:
    """Probabilities of three classes in the simplex, from blue to red as sigma_z grows (fig. 3b).

    Parameters
    ----------
    result : FreezingFigure
        With C = 3.
    ax : Axes, optional
        A new figure's by default.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        For another number of classes.
    """
    if result.num_classes != 3:
        raise ValueError(f"the simplex of {result.num_classes} classes is no triangle; use 3")
    ax = new_or(ax)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
    ax.plot(*corners[[0, 1, 2, 0]].T, color="0.6", linewidth=0.8)
    from matplotlib import colormaps

    shades = colormaps["coolwarm"](np.linspace(0, 1, len(result.shown)))
    for sigma, p, shade in zip(result.shown, result.probabilities, shades, strict=True):
        ax.plot(*(p @ corners).T, ".", color=shade, markersize=3, label=rf"$\sigma_z = {sigma:.2g}$")
    ax.set(aspect="equal", xticks=[], yticks=[], xlabel="probabilities of three classes")
    ax.set_frame_on(False)
    ax.legend(frameon=False, markerscale=3, fontsize="small", loc="upper left", bbox_to_anchor=(-0.12, 1.02))
    return ax


def plot_freezing(result: Any, *, ax: Axes | None = None) -> Axes:
    """Entropy of the probabilities against sigma_z, with the random energy model and its freezing point.

    Parameters
    ----------
    result : FreezingFigure
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_or(ax)
    _band(ax, result.sigma_z, result.entropy, COLOURS["eq. (10)"], "draws, mean and s.d.")
    ax.plot(result.sigma_z, result.entropy_theory, color=THEORY, linewidth=1, label="random energy model")
    ax.axvline(result.freezing_sigma, color="0.6", linestyle=":", linewidth=1, label=r"$\sqrt{2\,\ln C}$")
    ax.set(xscale="log", xlabel=r"logit standard deviation $\sigma_z$", ylabel="entropy (bits)", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def plot_landscape_spectrum(panel: Any, *, ax: Axes | None = None, colour: str = COLOURS["eq. (10)"]) -> Axes:
    """Histogram of the eigenvalues of all draws, theory as a line (fig. 5).

    Parameters
    ----------
    panel : SpectrumPanel
    ax : Axes, optional
    colour : str

    Returns
    -------
    Axes
        Eigenvalues per bin and draw, on logarithmic bins; ticks at the mean outliers, of the draws and of the theory.
    """
    ax = new_or(ax)
    bins = np.geomspace(panel.x[0], panel.x[-1], 61)
    counts = np.array([np.histogram(values, bins)[0] for values in panel.eigenvalues])
    ax.stairs(counts.mean(axis=0), bins, color=colour, fill=True, alpha=0.35, label="draws, mean")
    # Eigenvalues per logarithmic bin: density times x times the bin's width in log x.
    width = np.log(bins[1] / bins[0])
    ax.plot(panel.x, panel.density_theory * panel.x * width, color=THEORY, linewidth=1, label="theory")
    outliers, theory = panel.outliers.mean(axis=0), panel.outliers_theory.mean(axis=0)
    ax.plot(outliers, np.full(outliers.size, 0.16), "|", color=colour, markersize=12, mew=1.5, label="outliers, draws")
    ax.plot(theory, np.full(theory.size, 0.11), "|", color=THEORY, markersize=12, mew=1.5, label="outliers, theory")
    ax.set(
        xscale="log",
        yscale="log",
        ylim=(0.08, 2 * counts.mean(axis=0).max()),
        xlabel=r"eigenvalue $\lambda$",
        ylabel="eigenvalues per bin",
    )
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_gradient_cosines(panel: Any, *, ax: Axes | None = None, colour: str = COLOURS["eq. (10)"]) -> Axes:
    """Cosine between the gradient and each eigenvector of the first draw, the largest eigenvalue first (fig. 6).

    Parameters
    ----------
    panel : SpectrumPanel
    ax : Axes, optional
    colour : str

    Returns
    -------
    Axes
        Absolute values: an eigenvector has no sign.
    """
    ax = new_or(ax)
    cosines = np.sqrt(panel.powers[0, ::-1])
    ax.plot(np.arange(1, cosines.size + 1), cosines, ".", color=colour, markersize=4)
    ax.set(xscale="log", xlabel="eigenvector, by falling eigenvalue", ylabel="|cosine| with the gradient")
    return ax


def plot_cumulative_power(panel: Any, *, ax: Axes | None = None, colour: str = COLOURS["eq. (10)"]) -> Axes:
    """Share of the squared gradient in the top eigenvectors, over draws and by theory.

    Parameters
    ----------
    panel : SpectrumPanel
    ax : Axes, optional
    colour : str

    Returns
    -------
    Axes
    """
    ax = new_or(ax)
    cumulative = np.cumsum(panel.powers[:, ::-1], axis=1)
    _band(ax, np.arange(1, cumulative.shape[1] + 1), cumulative, colour, "draws, mean and s.d.")
    ax.plot(panel.directions, panel.power_theory.mean(axis=0), "o", color=THEORY, markersize=3, label="theory")
    ax.axvline(panel.outliers_theory.shape[1], color="0.6", linestyle=":", linewidth=1, label=r"$C-1$")
    ax.set(xscale="log", ylim=(0, 1.03), xlabel="number of top eigenvectors", ylabel="share of squared gradient")
    ax.legend(frameon=False, loc="lower right")
    return ax


def plot_landscape_sweep(result: Any, quantity: str, *, ax: Axes | None = None) -> Axes:
    """One quantity against sigma_z under both equations: draws with a band, theory as a line (figs. 7 and 8).

    Parameters
    ----------
    result : SweepFigure
    quantity : {"top_eigenvalue", "gradient_power", "ratio", "hyperplane_ratio"}
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_or(ax)
    for name, panel in result.panels.items():
        _band(ax, result.sigma_z, getattr(panel, quantity), COLOURS[name], f"{name}, draws")
        theory = getattr(panel, f"{quantity}_theory").mean(axis=0)
        style = "-" if name == "eq. (16)" else "--"
        ax.plot(result.sigma_z, theory, style, color=THEORY, linewidth=1, label=f"{name}, theory")
    ax.set(xscale="log", xlabel=r"logit standard deviation $\sigma_z$", ylabel=QUANTITIES[quantity])
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_peak_condition(result: Any, *, ax: Axes | None = None) -> Axes:
    """The two slopes whose crossing is the first-order peak of the top eigenvalue.

    Parameters
    ----------
    result : SweepFigure
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_or(ax)
    growth, freezing = result.slopes
    ax.plot(result.sigma_z, growth, color=COLOURS["eq. (10)"], label=r"growth, d log $\sigma_c^2$ / d log $\sigma_z$")
    ax.plot(
        result.sigma_z, freezing, color=COLOURS["eq. (16)"], label=r"freezing, $-$d log E $p_1p_2$ / d log $\sigma_z$"
    )
    ax.set(xscale="log", xlabel=r"logit standard deviation $\sigma_z$", ylabel="logarithmic slope")
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_phase(result: Any, quantity: str, *, ax: Axes | None = None) -> Axes:
    """One quantity over (sigma_z, SNR), with the lines where the first and all outliers leave the bulk.

    Parameters
    ----------
    result : PhaseFigure
    quantity : {"num_above_edge", "gradient_power", "ratio"}
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_or(ax)
    labels = {
        "num_above_edge": "outliers",
        "gradient_power": r"gradient power in top $C-1$",
        "ratio": QUANTITIES["ratio"],
    }
    mesh = ax.pcolormesh(_edges(result.sigma_z), _edges(result.snr), getattr(result, quantity), cmap="viridis")
    ax.figure.colorbar(mesh, ax=ax, label=labels[quantity])
    for line, style, what in zip(result.transition, ("-", "--"), ("first outlier", r"all $C-1$"), strict=True):
        ax.plot(result.sigma_z, line, style, color="w", linewidth=1.5, label=what)
    ax.set(
        xscale="log",
        yscale="log",
        ylim=(result.snr[0], result.snr[-1]),
        xlabel=r"logit standard deviation $\sigma_z$",
        ylabel=r"SNR $\sigma_c^2/\sigma_E^2$",
    )
    ax.legend(loc="upper left", fontsize="small", facecolor="0.35", labelcolor="w")
    return ax


def plot_swallowed_outliers(result: Any, *, ax: Axes | None = None) -> Axes:
    """Top eigenvalues over the bulk's edge against the scale of the H-term, and where each outlier is swallowed.

    Parameters
    ----------
    result : HTermFigure
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_or(ax)
    edge = result.bulk_edge
    for k in range(result.eigenvalues.shape[2]):
        names = ("draws", "theory") if k == 0 else ("_", "_")
        _band(ax, result.sigma_H, result.eigenvalues[:, :, k] / edge, COLOURS["eq. (10)"], names[0])
        ax.plot(result.sigma_H, result.eigenvalues_theory[:, k] / edge, color=THEORY, linewidth=1, label=names[1])
    ax.axhspan(0, 1, color="0.5", alpha=0.25, lw=0, label="bulk")
    ax.set(ylabel=r"$C-1$ largest eigenvalues / bulk edge", ylim=(0.85, None))
    return _along_h_term(result, ax)


def plot_swallowed_power(result: Any, *, ax: Axes | None = None) -> Axes:
    """Share of the squared gradient in the top C - 1 eigenvectors against the scale of the H-term.

    Parameters
    ----------
    result : HTermFigure
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    ax = new_or(ax)
    _band(ax, result.sigma_H, result.power, COLOURS["eq. (10)"], "draws")
    ax.plot(result.sigma_H, result.power_theory, color=THEORY, linewidth=1, label="theory")
    ax.set(ylabel=QUANTITIES["gradient_power"], ylim=(0, None))
    return _along_h_term(result, ax)


def _along_h_term(result: Any, ax: Axes) -> Axes:
    first, last = result.sigma_H[[0, -1]]
    for scale in result.transition:
        if first <= scale <= last:
            ax.axvline(scale, color="0.5", linestyle=":", linewidth=0.8)
    ax.set(xlabel=r"scale of the H-term $\sigma_H$", xlim=(first, last))
    ax.legend(frameon=False, loc="upper right")
    return ax


def figure3(result: Any) -> Figure:
    """Fig. 3b: the simplex (for three classes) and the entropy."""
    if result.num_classes != 3:
        figure, axes = _row(1)
        plot_freezing(result, ax=axes[0])
        return figure
    figure, axes = _row(2)
    plot_simplex(result, ax=axes[0])
    plot_freezing(result, ax=axes[1])
    return figure


def figure5(result: Any) -> Figure:
    """Fig. 5: the spectrum under both equations."""
    figure, axes = _row(len(result.panels))
    for ax, (name, panel) in zip(axes, result.panels.items(), strict=True):
        plot_landscape_spectrum(panel, ax=ax, colour=COLOURS[name]).set_title(name)
    return figure


def figure6(result: Any) -> Figure:
    """Fig. 6: cosines of one draw under the paper's eq. (16), and the cumulative power under both equations."""
    figure, axes = _row(1 + len(result.panels))
    plot_gradient_cosines(result.panels["eq. (16)"], ax=axes[0], colour=COLOURS["eq. (16)"]).set_title(
        "eq. (16), one draw"
    )
    for ax, (name, panel) in zip(axes[1:], result.panels.items(), strict=True):
        plot_cumulative_power(panel, ax=ax, colour=COLOURS[name]).set_title(name)
    return figure


def figure7(result: Any) -> Figure:
    """Fig. 7: the top eigenvalue, and the condition for its peak."""
    figure, axes = _row(2)
    plot_landscape_sweep(result, "top_eigenvalue", ax=axes[0]).set_yscale("log")
    plot_peak_condition(result, ax=axes[1])
    return figure


def figure8(result: Any) -> Figure:
    """Fig. 8: Trace/||.||_F on the whole space and on hyperplanes."""
    figure, axes = _row(2)
    plot_landscape_sweep(result, "ratio", ax=axes[0])
    plot_landscape_sweep(result, "hyperplane_ratio", ax=axes[1]).set_title(f"d = {result.dimension}")
    return figure


def phase_diagram(result: Any) -> Figure:
    """Outliers, gradient power and Goldilocks ratio over (sigma_z, SNR)."""
    figure, axes = _row(3)
    for ax, quantity in zip(axes, ("num_above_edge", "gradient_power", "ratio"), strict=True):
        plot_phase(result, quantity, ax=ax)
    return figure


def h_term(result: Any) -> Figure:
    """Section 3.1: outliers and the gradient's power among them as the H-term grows."""
    figure, axes = _row(2)
    plot_swallowed_outliers(result, ax=axes[0])
    plot_swallowed_power(result, ax=axes[1])
    return figure


def _row(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(0.6 + 4.9 * count, 4.0), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _band(ax: Axes, x: Any, draws: Any, colour: str, label: str) -> None:
    mean, deviation = draws.mean(axis=0), draws.std(axis=0, ddof=1)
    ax.plot(x, mean, color=colour, linewidth=2.2, alpha=0.8, label=label)
    ax.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)


def _edges(centres: Any) -> Any:
    """Ends of the cells around points of a logarithmic grid."""
    logs = np.log(centres)
    inner = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - inner[0]], inner, [2 * logs[-1] - inner[-1]]]))
