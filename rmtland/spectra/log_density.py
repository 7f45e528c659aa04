"""Spectral densities on a logarithmic scale, positive and negative eigenvalues apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, integer, real
from rmtland._arrays import told
from rmtland.spectra.density import gaussians, grid_size, relative_width
from rmtland.spectra.operators import as_operator
from rmtland.spectra.quadrature import MARGIN, mean_and_error, quadratures, widened

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LogSpectralDensity:
    """Density of log(|x| + epsilon) over the eigenvalues x, and its parts.

    Parameters
    ----------
    grid : ndarray (K,)
        Values of log(|x| + epsilon), natural logarithm.
    density, positive, negative : ndarray (K,)
        Per unit of `grid`: of all eigenvalues, which integrates to 1; of those above epsilon; of those below -epsilon.
    standard_error, positive_error, negative_error : ndarray (K,)
        Between probes, NaN of a single one.
    nodes, weights : ndarray (P, m)
        Quadratures of the eigenvalues themselves; weights of a probe add up to 1 - k / D.
    outliers : ndarray (k,)
        Eigenvalues that were taken out first, ascending, each of weight 1 / D.
    epsilon, width : float
        Width of the Gaussians, in units of `grid`.
    dimension, num_products : int
    """

    grid: Floats
    density: Floats
    positive: Floats
    negative: Floats
    standard_error: Floats
    positive_error: Floats
    negative_error: Floats
    nodes: Floats
    weights: Floats
    outliers: Floats
    epsilon: float
    width: float
    dimension: int
    num_products: int

    __repr__ = told

    @property
    def magnitudes(self) -> Floats:
        """|x| + epsilon at the grid; a density per unit of x is that per unit of log x over this."""
        return np.exp(self.grid)


def log_spectral_density(
    operator: Any, *, num_probes: int = 1, num_steps: int = 2048, num_points: int = 1024, kappa: float = 3.0,
    epsilon: float | None = None, deflate: Any = 0, reorthogonalize: bool | None = None, rng: Seed = None,
    progress: bool = False,
) -> LogSpectralDensity:  # fmt: skip
    """Density of f(A), f = log(|x| + epsilon): a spectrum over many orders of magnitude.

    Parameters
    ----------
    operator : SymmetricOperator, array or SciPy LinearOperator
        D x D.
    num_probes, num_points, kappa, deflate, reorthogonalize, rng, progress
        As in `spectral_density`.
    num_steps : int
        Products per probe, D at most. Lanczos resolves the small eigenvalues last.
    epsilon : float, optional
        Eigenvalues are told from 0 down to it; by default 1e-6 of the largest Ritz value in magnitude, about what
        single precision can tell.

    Returns
    -------
    LogSpectralDensity

    Raises
    ------
    ValueError
        As `spectral_density`; for an `epsilon` that is not positive.

    References
    ----------
    Papyan (2018), The full spectrum of deepnet Hessians at scale, sec. 5.6, fig. 4b and appendix C.2.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> decades = np.geomspace(1e-4, 1, 100)
    >>> found = rl.log_spectral_density(np.diag(np.where(np.arange(100) % 4, decades, -decades)), rng=0)
    >>> shares = [float(np.trapezoid(part, found.grid)) for part in (found.density, found.positive, found.negative)]
    >>> round(shares[0], 3), abs(shares[1] - 0.75) < 0.2, found.num_products
    (1.0, True, 100)
    """
    matrix = as_operator(operator)
    probes, steps = integer("num_probes", num_probes, at_least=1), integer("num_steps", num_steps, at_least=2)
    points = grid_size(num_points)
    real("kappa", kappa, above=1)
    if epsilon is not None:
        epsilon = real("epsilon", epsilon, above=0)
    found = quadratures(matrix, probes, steps, deflate, reorthogonalize, rng, progress)
    everything = np.concatenate([found.nodes[found.weights > 0], found.outliers])
    largest = float(np.abs(everything).max())
    floor = epsilon if epsilon is not None else 1e-6 * largest if largest > 0 else 1e-6
    logs = np.log(np.abs(everything) + floor)
    ends = widened((float(logs.min()), float(logs.max())), MARGIN)
    if logs.max() - logs.min() < 1e-6:  # a single magnitude: show it in a decade
        ends = float(logs.min()) - 0.5 * math.log(10), float(logs.max()) + 0.5 * math.log(10)
    width = 0.5 * (ends[1] - ends[0]) * relative_width(found.num_steps, kappa)
    grid = np.linspace(min(ends[0], logs.min() - 8 * width), max(ends[1], logs.max() + 8 * width), points)

    def part(keep: Any) -> tuple[Floats, Floats]:
        return mean_and_error(
            found.samples(lambda x: keep(x)[:, None] * gaussians(grid, np.log(np.abs(x) + floor), width))
        )

    density, error = part(np.ones_like)
    positive, positive_error = part(lambda x: x > floor)
    negative, negative_error = part(lambda x: x < -floor)
    return LogSpectralDensity(
        grid=grid, density=density, positive=positive, negative=negative, standard_error=error,
        positive_error=positive_error, negative_error=negative_error, nodes=found.nodes, weights=found.weights,
        outliers=found.outliers, epsilon=floor, width=width, dimension=found.dimension,
        num_products=found.num_products,
    )  # fmt: skip
