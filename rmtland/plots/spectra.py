"""Figures of spectra: densities with errors, laws and outliers; eigenvalues by rank; both on logarithmic scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import LogLocator, NullFormatter

from rmtland._arrays import is_torch, to_numpy
from rmtland.plots._axes import new_or

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THEORY, NUMERICS, SECOND, THIRD, MARK = "#d55e00", "#0072b2", "#009e73", "#cc79a7", "0.35"
"""Of Okabe and Ito's palette, told apart by readers of any colour vision."""

DECADES = 7
"""How far below its maximum a density is drawn on a logarithmic axis."""


def _values(eigenvalues: Any) -> npt.NDArray[np.float64]:
    values = getattr(eigenvalues, "eigenvalues", eigenvalues)
    return np.asarray(to_numpy(values) if is_torch(values) else values, dtype=np.float64)


def _band(ax: Axes, x: Any, mean: Any, error: Any, colour: str) -> None:
    """Two standard errors, where these are known."""
    if np.isfinite(error).all():
        ax.fill_between(x, np.maximum(mean - 2 * error, 0), mean + 2 * error, color=colour, alpha=0.25, lw=0)


def plot_density(result: Any, law: Any = None, *, count: Any = None, log: bool = False, ax: Axes | None = None) -> Axes:
    """A spectral density, with the density of a law and the outliers.

    Parameters
    ----------
    result : SpectralDensity
    law : optional
        With `pdf` and `support`, such as `MarchenkoPastur`: the bulk.
    count : OutlierCount, optional
        Whose threshold to draw.
    log : bool
        Whether the density axis is logarithmic: single eigenvalues of many do not show on a linear one.
    ax : Axes, optional
        A new figure's by default.

    Returns
    -------
    Axes
        A line for the density, with a band of two standard errors if there were several probes; a dashed line for the
        law; triangles on the axis at the eigenvalues that were taken out; a dotted line at the threshold.
    """
    ax = new_or(ax, (6, 4))
    ax.plot(result.grid, result.density, color=NUMERICS, lw=1.2, label=f"{result.nodes.shape[0]} probes")
    _band(ax, result.grid, result.density, result.standard_error, NUMERICS)
    if law is not None:
        for i, (low, high) in enumerate(np.reshape(law.support, (-1, 2))):
            # Square roots at the edges: points crowd there.
            x = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.linspace(0, np.pi, 400)[1:-1])
            ax.plot(x, law.pdf(x), color=THEORY, lw=1.4, ls="--", label="law" if i == 0 else None)
    if result.outliers.size:
        on_axis = ax.get_xaxis_transform()
        ax.plot(
            result.outliers, np.full(result.outliers.size, 0.03), "v", ms=5, color=MARK, transform=on_axis,
            label=f"{result.outliers.size} eigenvalues taken out",
        )  # fmt: skip
    if count is not None:
        ax.axvline(count.threshold, color=MARK, lw=0.9, ls=":", label=f"{int(count)} above the threshold")
    top = float(result.density.max())
    if log:
        ax.set(yscale="log", ylim=(top / 10**DECADES, 3 * top))
    elif ax.get_yscale() == "linear":
        ax.set_ylim(0, None)
    ax.set(xlabel=r"eigenvalue $\lambda$", ylabel=r"density $\rho(\lambda)$")
    ax.legend(frameon=False)
    return ax


def plot_scree(eigenvalues: Any, *, count: Any = None, k: int = 50, log: bool = True, ax: Axes | None = None) -> Axes:
    """The largest eigenvalues against their rank, downwards.

    Parameters
    ----------
    eigenvalues : array_like, shape (n,), or a result with `eigenvalues`
        In any order; bars for its `residuals` if it has them.
    count : OutlierCount, optional
        Whose threshold to draw.
    k : int
        How many at most.
    log : bool
        Whether the eigenvalue axis is logarithmic; eigenvalues below zero are left out there.
    ax : Axes, optional

    Returns
    -------
    Axes
        Points, those above the threshold in another colour, which is a dotted line.
    """
    ax = new_or(ax, (6, 4))
    values = _values(eigenvalues)
    order = np.argsort(values)[::-1][:k]
    ranks, shown = np.arange(1, order.size + 1), values[order]
    residuals = getattr(eigenvalues, "residuals", None)
    errors = np.zeros(order.size) if residuals is None else _values(residuals)[order]
    keep = shown > 0 if log else np.ones(order.size, dtype=bool)
    above = keep & (shown > count.threshold) if count is not None else np.zeros(order.size, dtype=bool)
    for part, colour, label in ((keep & ~above, NUMERICS, "eigenvalues"), (above, THEORY, "outliers")):
        if part.any():
            # A lower bar that reaches zero has no end on a logarithmic axis.
            bars = np.array([np.minimum(errors, 0.9 * np.abs(shown)) if log else errors, errors])[:, part]
            ax.errorbar(ranks[part], shown[part], bars, fmt="o", ms=4, lw=1, color=colour, label=label)
    if count is not None:
        ax.axhline(count.threshold, color=MARK, lw=0.9, ls=":", label=f"threshold ({count.method})")
    if log:
        ax.set_yscale("log")
        kept = shown[keep]
        if kept.size and kept.max() < 30 * kept.min():  # too few powers of ten for an axis to be read by them
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="rank $k$", ylabel=r"eigenvalue $\lambda_k$")
    ax.legend(frameon=False)
    return ax


def plot_log_density(result: Any, *, line: Any = None, ax: Axes | None = None) -> Axes:
    """Density of the logarithms of positive and negative eigenvalues, on logarithmic axes, as Papyan draws it.

    Parameters
    ----------
    result : LogSpectralDensity
    line : PowerLawLine, optional
        A fit to it, drawn where it was fitted.
    ax : Axes, optional

    Returns
    -------
    Axes
        A line each for positive and negative eigenvalues, with bands of two standard errors if there were several
        probes; a grey one for all; the fit dashed. What lies at epsilon is told apart from 0 no longer.
    """
    ax = new_or(ax, (6, 4))
    x = result.magnitudes
    ax.plot(x, result.density, color="0.75", lw=2.5, label="all")
    for part, error, colour, label in (
        (result.positive, result.positive_error, THEORY, "positive"),
        (result.negative, result.negative_error, NUMERICS, "negative"),
    ):
        if part.any():
            ax.plot(x, part, color=colour, lw=1.2, label=label)
            _band(ax, x, part, error, colour)
    if line is not None:
        ends = np.geomspace(line.xmin, line.xmax, 50)
        ax.plot(ends, line.density(ends), "--", color="black", lw=1.4, label=rf"$|\lambda|^{{-{line.exponent:.2f}}}$")
    ax.axvline(result.epsilon, color=MARK, lw=0.9, ls=":", label=r"$\epsilon$")
    top = float(result.density.max())
    ax.set(
        xscale="log", yscale="log", ylim=(top / 10**DECADES, 3 * top), xlabel=r"$|\lambda| + \epsilon$",
        ylabel=r"density of $\ln(|\lambda| + \epsilon)$",
    )  # fmt: skip
    ax.legend(frameon=False)
    return ax


def plot_ordered_eigenvalues(spectra: Any, *, percent: bool = False, ax: Axes | None = None) -> Axes:
    """Eigenvalues in ascending order against their rank, as Sagun et al. draw them: degeneracy and scale in one figure.

    Parameters
    ----------
    spectra : array_like, shape (n,), or dict of str to such
        Whole spectra, or several, by what they are.
    percent : bool
        Whether the rank is in per cent, which sets spectra of different sizes beside each other.
    ax : Axes, optional

    Returns
    -------
    Axes
        A line of points per spectrum.

    References
    ----------
    Sagun et al. (2017), Empirical analysis of the Hessian, figs. 1 to 6.
    """
    ax = new_or(ax, (6, 4))
    several = spectra if isinstance(spectra, dict) else {"": spectra}
    for colour, (label, given) in zip([NUMERICS, THEORY, SECOND, THIRD] * len(several), several.items(), strict=False):
        values = np.sort(_values(given))
        ranks = np.arange(1, values.size + 1) * (100 / values.size if percent else 1)
        ax.plot(ranks, values, ".-", ms=3, lw=0.6, color=colour, label=label or None)
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel="rank, per cent" if percent else "rank", ylabel=r"eigenvalue $\lambda$")
    if isinstance(spectra, dict):
        ax.legend(frameon=False)
    return ax
