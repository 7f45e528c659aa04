"""Figures of ensembles: limit laws as lines, draws with error bars or bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rmtland.plots._axes import new_or

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THEORY, DRAWS = "#d55e00", "#0072b2"
"""Two of Okabe and Ito's colours."""


def _size(number: int) -> str:
    """A dimension for mathtext: 10^9, or its digits."""
    power = len(str(number)) - 1
    return f"10^{power}" if power > 2 and number == 10**power else str(number)


def plot_spectrum(eigenvalues: Any, law: Any = None, *, bins: Any = 60, ax: Axes | None = None) -> Axes:
    """Spectral density of draws, with the density of a law.

    Parameters
    ----------
    eigenvalues : SpectralHistogram, or array_like of shape (R, N) or (N,)
        Of an array, error bars are taken between its R matrices; exact zeros are left to the atom.
    law : optional
        With `pdf` and `support`.
    bins : int or array_like, optional
        For an array.
    ax : Axes, optional
        A new figure's by default.

    Returns
    -------
    Axes
        Steps for the draws, with a band of two standard errors if there are several matrices; a line for the law.
    """
    ax = new_or(ax, (6, 4))
    if hasattr(eigenvalues, "edges"):
        edges, density, error = eigenvalues.edges, eigenvalues.density, eigenvalues.standard_error
    else:
        sets = np.atleast_2d(np.asarray(eigenvalues, dtype=float))
        edges = np.histogram_bin_edges(sets[sets != 0], bins)
        shares = np.array([np.histogram(row[row != 0], edges)[0] for row in sets]) / sets.shape[1] / np.diff(edges)
        density = shares.mean(axis=0)
        error = shares.std(axis=0, ddof=1) / len(sets) ** 0.5 if len(sets) > 1 else None
    ax.stairs(density, edges, fill=True, color=DRAWS, alpha=0.35, label="draws")
    if error is not None:
        low, high = np.maximum(density - 2 * error, 0), density + 2 * error
        ax.fill_between(
            edges, np.append(low, low[-1]), np.append(high, high[-1]), step="post", color=DRAWS, alpha=0.5, lw=0
        )
    if law is not None:
        support = np.reshape(law.support, (-1, 2))
        for i, (low, high) in enumerate(support):
            # Square roots at the edges: points crowd there.
            x = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.linspace(0, np.pi, 400)[1:-1])
            ax.plot(x, law.pdf(x), color=THEORY, lw=1.6, label="law" if i == 0 else None)
    ax.set(xlabel=r"eigenvalue $\lambda$", ylabel=r"density $\rho(\lambda)$")
    ax.legend(frameon=False)
    return ax


def plot_transition(result: Any, *, quantity: str = "eigenvalue", ax: Axes | None = None) -> Axes:
    """Outlier location or overlap against spike strength.

    Parameters
    ----------
    result : BBPTransition
        Of `bbp_transition`.
    quantity : {"eigenvalue", "overlap"}
    ax : Axes, optional

    Returns
    -------
    Axes
        The limit as a line, kink at the threshold (dotted) and all; means over draws as points, with a band of one
        standard deviation.

    Raises
    ------
    ValueError
        If `quantity` is neither.
    """
    if quantity not in ("eigenvalue", "overlap"):
        raise ValueError(f"`quantity` must be one of 'eigenvalue', 'overlap'; got {quantity!r}")
    ax = new_or(ax, (6, 4))
    which, draws, label = {
        "eigenvalue": (0, result.eigenvalues, r"largest eigenvalue $\lambda_1$"),
        "overlap": (1, result.overlaps, r"squared overlap $|\langle u_1, e\rangle|^2$"),
    }[quantity]
    order = np.argsort(result.spikes)
    x, mean, deviation = result.spikes[order], draws.mean(axis=1)[order], draws.std(axis=1, ddof=1)[order]
    fine = np.union1d(np.linspace(x[0], x[-1], 400), np.clip([*x, result.threshold], x[0], x[-1]))
    ax.plot(fine, result.limits(fine)[which], color=THEORY, lw=1.6, label="limit")
    ax.plot(
        x, mean, "o", ms=3.5, color=DRAWS, label=f"mean of {draws.shape[1]} draws, $p = {_size(result.num_features)}$"
    )
    ax.fill_between(x, mean - deviation, mean + deviation, color=DRAWS, alpha=0.25, lw=0, label="standard deviation")
    ax.axvline(result.threshold, color="0.5", lw=0.8, ls=":", label=r"threshold $1 + \sqrt{p/n}$")
    ax.set(xlabel=r"spike $\ell$ (bulk variance 1)", ylabel=label)
    ax.legend(framealpha=0.85, edgecolor="none")  # over the line of the threshold
    return ax


def plot_edge(standardised: Any, law: Any = None, *, bins: int = 40, ax: Axes | None = None) -> Axes:
    """Extreme eigenvalues in Tracy-Widom units.

    Parameters
    ----------
    standardised : array_like, shape (R,)
        (largest eigenvalue - centre) / scale of R matrices.
    law : optional
        With `pdf`, such as `TracyWidom`.
    bins : int, optional
    ax : Axes, optional

    Returns
    -------
    Axes
        Points with two standard errors (binomial) at the middles of bins; a line for the law.
    """
    ax = new_or(ax, (6, 4))
    values = np.ravel(np.asarray(standardised, dtype=float))
    counts, edges = np.histogram(values, bins)
    width, share = np.diff(edges), counts / values.size
    error = np.sqrt(share * (1 - share) / values.size) / width
    middle = 0.5 * (edges[1:] + edges[:-1])
    ax.errorbar(middle, share / width, 2 * error, fmt="o", ms=3.5, lw=1, color=DRAWS, label=f"{values.size} draws")
    if law is not None:
        x = np.linspace(edges[0] - 0.5, edges[-1] + 0.5, 400)
        ax.plot(x, law.pdf(x), color=THEORY, lw=1.6, label="law")
    ax.set(xlabel=r"$(\lambda_1 - \mu)/s$, Tracy-Widom units", ylabel="density")
    ax.legend(frameon=False)
    return ax
