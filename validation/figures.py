"""How the figures of claims look: theory as a line, numerics as points with error bars of two standard errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart by readers of any colour vision."""
GREY = "#666666"


def panels(count: int, *titles: str, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` rows of `count` panels side by side, row by row; not registered with pyplot."""
    # Imported where it is used: `list` and workers without figures do not need a second of it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * count + 0.4, 3.7 * rows), layout="constrained")
    axes = list(figure.subplots(rows, count, squeeze=False).ravel())
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=10)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def points(
    ax: Axes, x: Any, y: Any, standard_error: Any, colour: str, label: str | None = None, marker: str = "o"
) -> None:
    """Numerics: points with error bars of two standard errors."""
    ax.errorbar(
        x, y, 2 * np.asarray(standard_error), fmt=marker, color=colour, label=label, markersize=4, capsize=2.5, lw=1.2
    )


def means(ax: Axes, x: Any, draws: Any, colour: str, label: str | None = None, marker: str = "o") -> None:
    """Means over draws, such as networks, of (x, draws): points with error bars."""
    rows = [np.asarray(row, dtype=np.float64) for row in draws]
    error = [row.std(ddof=1) / row.size**0.5 for row in rows]
    points(ax, x, [row.mean() for row in rows], error, colour, label, marker)


def convergence(
    ax: Axes,
    sizes: Any,
    errors: Any,
    standard_errors: Any,
    colour: str,
    label: str,
    theory: Any = None,
    marker: str = "o",
) -> None:
    """abs(error) against size on logarithmic axes; the derived term as a line where there is one."""
    sizes, errors, deviations = (np.asarray(v, dtype=np.float64) for v in (sizes, errors, standard_errors))
    size = np.abs(errors)
    # The lower bar ends at a tenth of the value where it would reach zero.
    bars = np.array([np.minimum(2 * deviations, 0.9 * size), 2 * deviations])
    ax.errorbar(sizes, size, bars, fmt=marker, color=colour, label=label, markersize=4, capsize=2.5, lw=1.2)
    if theory is not None:
        fine = np.geomspace(sizes.min(), sizes.max(), 50)
        ax.plot(fine, np.abs([theory(n) for n in fine]), color=colour, lw=1.2)
    log_sizes(ax, sizes)


def log_sizes(ax: Axes, sizes: npt.ArrayLike, log_values: bool = True) -> None:
    """A logarithmic axis of sizes with ticks at the sizes themselves, and one of values too unless told otherwise."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    if log_values:
        ax.set_yscale("log")
    if ax.get_xscale() != "log":
        ax.set_xscale("log")
    before = ax.xaxis.get_major_locator()
    ticks = {float(size) for size in np.ravel(np.asarray(sizes, dtype=np.float64))}
    # Curves with different sizes share the axes.
    ticks |= {float(size) for size in before.locs} if isinstance(before, FixedLocator) else set()
    ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def legend(ax: Axes, **options: Any) -> None:
    """A quiet legend."""
    ax.legend(fontsize=8, frameon=False, **options)
