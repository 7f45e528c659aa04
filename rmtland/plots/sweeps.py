"""Figures of a sweep: lines with bands over one axis, a heat map with contours over two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

BLUE, RED = "#0072b2", "#d55e00"
"""Of Okabe and Ito's palette."""


def plot_sweep(
    summary: xr.Dataset, variable: str, *, theory: str | xr.DataArray | None = None, ax: Axes | None = None
) -> Axes:
    """One result of a sweep over its axes.

    Parameters
    ----------
    summary : xarray.Dataset
        From `summarize_sweep`; further axes have to be selected before: `summary.sel(num_classes=10)`.
    variable : str
        The result to draw.
    theory : str or DataArray, optional
        What to draw it against: another variable of the summary, or values over the same axes.
    ax : Axes, optional
        A new figure's by default.

    Returns
    -------
    Axes
        One axis: the mean as a line with its interval as a band, theory as a dashed line. Two axes: the mean as a heat
        map over (second, first) with contours, those of the theory dashed. Axes of values with equal ratios are
        logarithmic.

    Raises
    ------
    ValueError
        For a result that is not there, or one of no axis or more than two.
    """
    if "statistic" not in summary.dims:
        raise ValueError("`summary` must come from summarize_sweep; it has no dimension `statistic`")
    if variable not in summary.data_vars:
        raise ValueError(f"`variable` must be one of {', '.join(map(str, summary.data_vars))}; got {variable!r}")
    values = summary[variable]
    dims = [str(dim) for dim in values.dims if dim != "statistic"]
    if len(dims) not in (1, 2):
        raise ValueError(f"`{variable}` must have one or two axes; got {', '.join(dims) or 'none'}: select the others")
    if ax is None:
        ax = Figure(figsize=(6, 4), layout="constrained").subplots()
    prediction = _prediction(summary, theory, dims)
    (_lines if len(dims) == 1 else _map)(ax, values, prediction, dims)
    return ax


def _prediction(summary: xr.Dataset, theory: str | xr.DataArray | None, dims: list[str]) -> npt.NDArray[Any] | None:
    if theory is None:
        return None
    if isinstance(theory, str):
        if theory not in summary.data_vars:
            raise ValueError(f"`theory` must be one of {', '.join(map(str, summary.data_vars))}; got {theory!r}")
        theory = summary[theory].sel(statistic="mean")
    if set(theory.dims) != set(dims):
        raise ValueError(f"`theory` must have the axes {', '.join(dims)}; got {', '.join(map(str, theory.dims))}")
    return theory.transpose(*dims).to_numpy()


def _lines(ax: Axes, values: xr.DataArray, prediction: npt.NDArray[Any] | None, dims: list[str]) -> None:
    x = values[dims[0]].to_numpy()
    low, high = (values.sel(statistic=name).to_numpy() for name in ("low", "high"))
    ax.plot(x, values.sel(statistic="mean").to_numpy(), color=BLUE, marker="o", markersize=3, label="mean over trials")
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
    if prediction is not None:
        ax.plot(x, prediction, color=RED, linestyle="--", label="theory")
        ax.legend(frameon=False)
    ax.set(xscale=_scale(x), xlabel=_label(values[dims[0]], dims[0]), ylabel=_label(values, str(values.name)))


def _map(ax: Axes, values: xr.DataArray, prediction: npt.NDArray[Any] | None, dims: list[str]) -> None:
    mean = values.sel(statistic="mean").transpose(*dims).to_numpy()
    axes = [values[dim].to_numpy() for dim in dims]
    y, x = (axis if axis.dtype.kind in "iuf" else np.arange(axis.size) for axis in axes)
    image = ax.pcolormesh(_edges(x), _edges(y), np.ma.masked_invalid(mean), cmap="viridis", rasterized=True)
    assert ax.figure is not None
    ax.figure.colorbar(image, ax=ax, label=_label(values, str(values.name)))
    if min(mean.shape) > 1 and np.nanmax(mean) > np.nanmin(mean):
        lines = ax.contour(x, y, mean, colors="white", linewidths=0.8)
        if prediction is not None:
            ax.contour(x, y, prediction, levels=lines.levels, colors=RED, linewidths=0.8, linestyles="--")
            ax.plot([], [], color="0.7", linewidth=0.8, label="mean over trials")
            ax.plot([], [], color=RED, linewidth=0.8, linestyle="--", label="theory")
            ax.legend(loc="upper right", fontsize="small")
    ax.set(xscale=_scale(x), yscale=_scale(y))
    ax.set(xlabel=_label(values[dims[1]], dims[1]), ylabel=_label(values[dims[0]], dims[0]))
    for axis, told in zip((ax.yaxis, ax.xaxis), axes, strict=True):
        if told.dtype.kind not in "iuf" or told.size <= 8:  # few values are named themselves
            number = told.dtype.kind in "iuf"
            axis.set_ticks(told if number else range(told.size), [f"{v:.3g}" if number else str(v) for v in told])
            axis.set_minor_locator(NullLocator())


def _edges(axis: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Half-way between neighbours, on the scale that the axis is drawn in."""
    logarithmic = _scale(axis) == "log"
    points = np.log(axis) if logarithmic else axis.astype(np.float64)
    if points.size == 1:
        return np.array([points[0] - 0.5, points[0] + 0.5])
    middle = (points[1:] + points[:-1]) / 2
    edges = np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])
    return np.exp(edges) if logarithmic else edges


def _scale(axis: npt.NDArray[Any]) -> str:
    """Logarithmic where values have equal ratios and not equal steps."""
    if axis.dtype.kind not in "iuf" or axis.size < 3 or axis.min() <= 0:
        return "linear"
    ratios, steps = axis[1:] / axis[:-1], np.diff(axis)
    equal_ratios = np.allclose(ratios, ratios[0], rtol=0.01)
    return "log" if equal_ratios and not np.allclose(steps, steps[0], rtol=0.01) else "linear"


SYMBOLS = {
    "sigma_z": r"logit spread $\sigma_z$",
    "snr": r"SNR $\sigma_c^2/\sigma_E^2$",
    "num_examples": "examples $N$",
    "num_classes": "classes $C$",
    "num_parameters": "parameters $D$",
    "top_eigenvalue": r"top eigenvalue $\lambda_1$",
    "mean_outlier": r"mean of the $C - 1$ outliers $\lambda$",
    "gradient_power": "share of the squared gradient",
    "goldilocks_ratio": r"Trace$(H)\,/\,\|H\|_F$",
    "overlap": "squared cosine",
    "ratio": "ratio $p/n$",
}


def _label(values: xr.DataArray, name: str) -> str:
    told = SYMBOLS.get(name, name.replace("_", " "))
    return f"{told} [{values.attrs['units']}]" if "units" in values.attrs else told
