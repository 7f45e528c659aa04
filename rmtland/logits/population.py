"""A covariance's spectrum from its moments: the smoothest one that they allow, and how far others may differ."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog, nnls

from rmtland._arguments import Seed, generator, instance, integer, real, require_memory
from rmtland._arrays import told
from rmtland.logits.moments import ResidualMoments

Floats = npt.NDArray[np.float64]

GRID = 160
"""Points, evenly spaced in the logarithm, that eigenvalues may sit on."""
LOWEST = 1e-4
"""The smallest of them relative to the largest."""
TRUST = 1e-2
"""Relative error below which no moment, nor combination of them, is believed: the covariance of their errors is itself
an estimate."""


@dataclass(frozen=True, eq=False)
class PopulationSpectrum:
    """Eigenvalues of the residuals' covariance (units of a squared gradient length) as their moments tell them.

    Attributes
    ----------
    eigenvalues : ndarray (m,)
        Ascending, those that carry any variance.
    multiplicities : ndarray (m,)
        How many eigenvalues sit at each, not whole numbers; sum of both is tr Sigma. Eigenvalues below 1e-4 of the
        largest count as that, so that their number is a lower bound.
    standard_error : ndarray (m,)
        Of the number of eigenvalues at or above each, from the errors of the moments.
    moments : ResidualMoments
        What it was recovered from.
    misfit : float
        Root mean square of (moment of these eigenvalues - measured) / error.
    """

    eigenvalues: Floats
    multiplicities: Floats
    standard_error: Floats = field(repr=False)
    moments: ResidualMoments = field(repr=False)
    misfit: float

    __repr__ = told

    @property
    def trace(self) -> float:
        """Sum of all eigenvalues."""
        return float(self.eigenvalues @ self.multiplicities)

    def count_above(self, x: float) -> float:
        """Number of eigenvalues larger than `x` > 0."""
        return float(self.multiplicities[self.eigenvalues > real("x", x, above=0)].sum())

    def top(self, k: int) -> Floats:
        """The `k` largest eigenvalues, descending: where the number above passes 1/2, 3/2, ...; then 0."""
        wanted = integer("k", k, at_least=1)
        above = np.cumsum(self.multiplicities[::-1])
        places = np.searchsorted(above, np.arange(wanted) + 0.5)
        inside = places < above.size
        values: Floats = np.where(inside, self.eigenvalues[::-1][np.minimum(places, above.size - 1)], 0.0)
        return values

    def variance_bounds(self, threshold: float, *, errors: float = 2.0) -> tuple[float, float]:
        """Least and largest share of the variance in eigenvalues >= `threshold` that any spectrum may have.

        Parameters
        ----------
        threshold : float
            > 0.
        errors : float
            By how many standard errors its moments may differ from the measured ones; > 0.

        Returns
        -------
        low, high : float
            Over all spectra with such moments: what the moments alone do not decide.
        """
        limit, allowed = real("threshold", threshold, above=0), real("errors", errors, above=0)
        return _bounds(self.moments, limit, allowed)


def recover_spectrum(moments: ResidualMoments, *, num_draws: int = 50, rng: Seed = 0) -> PopulationSpectrum:
    """The spectrum of the residuals' covariance from its moments, with errors.

    Parameters
    ----------
    moments : ResidualMoments
        From `residual_moments`.
    num_draws : int
        Sets of moments, drawn within their errors, that the errors are the spread over; >= 2.
    rng : seed
        Anything `numpy.random.default_rng` takes; draws them.

    Returns
    -------
    PopulationSpectrum

    Raises
    ------
    ValueError
        Where tr Sigma or tr Sigma^2 did not come out positive: more examples are needed.

    Notes
    -----
    Eigenvalues of weight >= 0 on a grid even in the logarithm, of the largest second differences' smallest norm that
    keeps every moment within about its error (Kong and Valiant (2017) take any such solution of a linear programme,
    which has few points). P moments tell little of what carries a small share of tr Sigma^2: `variance_bounds` has what
    they leave open, `standard_error` only what their noise does.

    References
    ----------
    Kong and Valiant (2017), Spectrum estimation from samples, Ann. Statist. 45, algorithm 1.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=3, num_parameters=200).sample(rng=0)
    >>> spectrum = rl.recover_spectrum(rl.residual_moments(draw))  # 200 equal eigenvalues
    >>> 100 < spectrum.count_above(0.5 * spectrum.trace / 200) < 400
    True
    """
    count = integer("num_draws", num_draws, at_least=2)
    require_memory(f"{count} spectra", 8.0 * 2 * GRID * count, "take fewer `num_draws`")
    instance("moments", moments, ResidualMoments, "what `residual_moments` gives")
    if not (moments.values[:2] > 0).all():
        raise ValueError(
            f"`moments` must have tr Sigma and tr Sigma^2 > 0 to show a spectrum; got {moments.values[:2]}: measure on "
            "more examples"
        )
    grid = _grid(moments)
    whitener = _whitener(moments)
    matrix, target = whitener @ _powers(grid, moments), whitener @ moments.values
    shares, stiffness = _smoothest(matrix, target, moments.values[0])
    rng = generator(rng)
    scale, relative = _relative(moments)
    drawn = moments.values + scale * rng.multivariate_normal(np.zeros(scale.size), relative, size=count, method="eigh")
    above = np.array([_above(_fitted(matrix, whitener @ v, moments.values[0], stiffness), grid) for v in drawn])
    kept = shares > 1e-9 * shares.max()
    residuals = matrix @ shares - target
    return PopulationSpectrum(
        grid[kept],
        (shares / grid)[kept],
        above.std(axis=0, ddof=1)[kept],
        moments,
        float(np.sqrt(np.mean(residuals**2))),
    )


def _grid(moments: ResidualMoments) -> Floats:
    """Up to the largest eigenvalue that the moments allow: lambda^p <= tr Sigma^p for each p."""
    orders = np.arange(1, moments.values.size + 1)
    highest = np.maximum(moments.values, 0) + 2 * moments.standard_error
    top = float(np.min(highest ** (1 / orders)))
    grid: Floats = top * np.logspace(np.log10(LOWEST), 0, GRID)
    return grid


def _powers(grid: Floats, moments: ResidualMoments) -> Floats:
    """Moments (P,) are this matrix times the variance at each point of the grid."""
    powers: Floats = grid[None, :] ** np.arange(moments.values.size)[:, None]
    return powers


def _relative(moments: ResidualMoments) -> tuple[Floats, Floats]:
    """The size of each moment, and the covariance in these units: those of high and low ones differ by many digits."""
    scale = np.maximum(np.abs(moments.values), moments.standard_error)
    return scale, moments.covariance / np.outer(scale, scale)


def _whitener(moments: ResidualMoments) -> Floats:
    """The matrix that makes errors of the moments independent and of unit variance: those of high ones go together."""
    scale, relative = _relative(moments)
    whitener: Floats = np.linalg.inv(np.linalg.cholesky(relative + TRUST**2 * np.eye(scale.size))) / scale
    return whitener


def _above(shares: Floats, grid: Floats) -> Floats:
    """Number of eigenvalues at or above each point."""
    above: Floats = np.cumsum((shares / grid)[::-1])[::-1]
    return above


def _fitted(matrix: Floats, target: Floats, scale: float, stiffness: float) -> Floats:
    """Variance >= 0 at the grid's points: least squares plus `stiffness` times the bends."""
    bend = np.diff(np.eye(matrix.shape[1]), 2, axis=0) * matrix.shape[1]
    design = np.vstack([matrix * scale, stiffness * bend])
    padded = np.append(target, np.zeros(len(bend)))
    shares: Floats = nnls(design, padded, maxiter=50 * matrix.shape[1])[0]
    return shares * scale


def _smoothest(matrix: Floats, target: Floats, scale: float) -> tuple[Floats, float]:
    """Variance at the grid's points and the stiffness: the largest that fits as well as the smallest, within errors."""
    fits = [(stiffness, _fitted(matrix, target, scale, stiffness)) for stiffness in 10.0 ** np.arange(-4, 3)]
    misfits = [float(np.sum((matrix @ shares - target) ** 2)) for _, shares in fits]
    allowed = min(misfits) + target.size
    stiffness, shares = next(fit for fit, misfit in zip(fits[::-1], misfits[::-1], strict=True) if misfit <= allowed)
    return shares, stiffness


def _bounds(moments: ResidualMoments, threshold: float, allowed: float) -> tuple[float, float]:
    """By linear programming over the variance at each point of the grid."""
    grid = _grid(moments)
    whitener, scale = _whitener(moments), moments.values[0]
    upper, target = whitener @ _powers(grid, moments) * scale, whitener @ moments.values
    # Noisy moments may be those of no spectrum: as far as the nearest is always allowed.
    nearest = float(np.abs(upper @ (_smoothest(upper / scale, target, scale)[0] / scale) - target).max())
    room = max(allowed, 1.01 * nearest)
    inside = (grid >= threshold).astype(np.float64)
    limits = []
    for sign in (1.0, -1.0):
        found = linprog(
            sign * inside,
            A_ub=np.vstack([upper, -upper]),
            b_ub=np.concatenate([target + room, room - target]),
            A_eq=np.ones((1, grid.size)),
            b_eq=[1.0],
        )
        limits.append(sign * float(found.fun) if found.fun is not None and found.success else float("nan"))
    return limits[0], limits[1]
