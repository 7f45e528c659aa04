"""Where a plot goes: the axes given, or those of a new figure."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def new_or(ax: Axes | None, size: tuple[float, float] | None = None) -> Axes:
    """`ax`, or the axes of a figure of its own, of that size in inches."""
    return Figure(figsize=size, layout="constrained").subplots() if ax is None else ax
