"""Spectral densities of operators known by their products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from rmtland._arguments import Seed, choice, finite_array, integer, real, require_memory, seed_sequence, several, shown
from rmtland._arrays import told
from rmtland.spectra.operators import SymmetricOperator, as_operator
from rmtland.spectra.quadrature import (
    MARGIN,
    NORMALIZATION_STEPS,
    Complement,
    Quadratures,
    chebyshev,
    mean_and_error,
    widened,
)
from rmtland.spectra.quadrature import quadratures as lanczos_quadratures

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """A spectral density, smoothed, and the quadratures that it was made from.

    Parameters
    ----------
    grid, density, standard_error : ndarray (K,)
        The density integrates to 1. The error is that between probes, NaN of a single one; it knows nothing of the
        smoothing.
    nodes, weights : ndarray (P, m)
        Gauss quadrature of each probe's spectral measure, its weights adding up to 1 - k / D.
    outliers : ndarray (k,)
        Eigenvalues that were taken out first, ascending, each of weight 1 / D. They are part of the density.
    bounds : tuple of float
        Between which the rest of the spectrum lies: the extreme Ritz values widened by residuals and margin.
    width : float
        Standard deviation of the Gaussians that stand for the nodes.
    dimension, num_products : int
    method : {"lanczos", "kpm"}
    """

    grid: Floats
    density: Floats
    standard_error: Floats
    nodes: Floats
    weights: Floats
    outliers: Floats
    bounds: tuple[float, float]
    width: float
    dimension: int
    num_products: int
    method: str

    __repr__ = told

    def cdf(self, x: npt.ArrayLike) -> Floats:
        """Share of eigenvalues up to x, smoothed like the density, of x's shape."""
        return self._at_most(x)[0]

    def count_below(self, x: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Number of eigenvalues up to x, smoothed like the density, and its standard error, both of x's shape.

        In a gap of the spectrum the number is that of the eigenvalues left of it up to the error between probes: the
        weight that a probe gives to k eigenvalues fluctuates by sqrt(2 k) / D. Eigenvalues taken out are exact.
        """
        share, error = self._at_most(x)
        return share * self.dimension, error * self.dimension

    def _at_most(self, x: npt.ArrayLike) -> tuple[Floats, Floats]:
        points = finite_array("x", x)
        flat = points.reshape(-1)
        shares = self._quadratures().samples(lambda nodes: ndtr((flat - nodes[:, None]) / self.width))
        mean, error = mean_and_error(shares)
        return mean.reshape(points.shape), error.reshape(points.shape)

    def expectation(self, function: Callable[[Floats], Any]) -> tuple[float, float]:
        """Mean of f over the eigenvalues, tr f(A) / D, and its standard error, from the quadratures, without smoothing.

        Parameters
        ----------
        function : callable
            Vectorised f. Unbiased for polynomials of degree 2 m - 1, and as good for what these approximate.

        References
        ----------
        Ubaru, Chen and Saad (2017), Fast estimation of tr f(A) via stochastic Lanczos quadrature.
        """
        mean, error = mean_and_error(self._quadratures().samples(function))
        return float(mean), float(error)

    def transform(self, function: Callable[[Floats], Any], *, num_points: int = 1024) -> SpectralDensity:
        """Density of f(A), with the same weights at f(node): no factor from the slope of f, no further product.

        Raises
        ------
        ValueError
            Where f is not finite on the spectrum.
        """
        given = self._quadratures()
        mapped = [finite_array("function(nodes)", function(x)) for x in (given.nodes, given.outliers)]
        inside = mapped[0][given.weights > 0]
        ends = widened((float(inside.min()), float(inside.max())), MARGIN, float(np.abs(mapped[1]).max(initial=0.0)))
        scale = 0.5 * (ends[1] - ends[0]) / (0.5 * (self.bounds[1] - self.bounds[0]))
        moved = Quadratures(mapped[0], given.weights, np.sort(mapped[1]), ends, given.num_steps, self.dimension, 0)
        return _smoothed(moved, ends, self.width * scale, grid_size(num_points), None, self)

    def _quadratures(self) -> Quadratures:
        return Quadratures(
            self.nodes, self.weights, self.outliers, self.bounds, self.nodes.shape[1], self.dimension, self.num_products
        )


def spectral_density(
    operator: Any, *, num_probes: int = 1, num_steps: int = 128, num_points: int = 1024, kappa: float = 3.0,
    grid: npt.ArrayLike | None = None, bounds: tuple[float, float] | None = None, margin: float = MARGIN,
    method: str = "lanczos", deflate: Any = 0, reorthogonalize: bool | None = None, rng: Seed = None,
    progress: bool = False,
) -> SpectralDensity:  # fmt: skip
    """Density of the eigenvalues of an operator of any size.

    Parameters
    ----------
    operator : SymmetricOperator, array or SciPy LinearOperator
        D x D.
    num_probes : int
        Random vectors, n_vec. One is enough for the shape at large D, where the error is of order D^(-1/2); errors and
        bands need two.
    num_steps : int
        Products per probe, M, the dimension of what is left at most. Resolution is range / M.
    num_points : int
        Points of the grid, K.
    kappa : float
        The Gaussians have fallen to 1 / kappa half-way to the next node at the mean distance of nodes: their width is 2
        / ((M - 1) sqrt(8 ln kappa)) times half the range.
    grid : array, optional
        Where to evaluate the density, ascending. By default even between the bounds, wide enough for every Ritz value
        of every probe, and close around each eigenvalue taken out.
    bounds : (float, float), optional
        Ends of the range. By default the extreme Ritz values of all probes, widened by their residuals and the margin.
    margin : float
        tau, on each side, as a share of the range.
    method : {"lanczos", "kpm"}
        "kpm": the kernel polynomial method with Jackson's kernel, for comparison; it takes two moments per product.
    deflate : int or eigenpairs
        That many eigenpairs of largest magnitude are computed and taken out first, or those given: a range that
        outliers no longer set resolves the bulk. What is left below the residuals of these pairs counts as zero.
    reorthogonalize : bool, optional
        By default where the vectors take no more than 256 MiB. Without, three vectors are in memory, and eigenvalues
        show up several times as ghosts that share their weight: densities and sums do not see them.
    rng : optional
        Anything `numpy.random.default_rng` takes. Probe i depends on the seed and i alone.
    progress : bool
        Show a bar with the time left for each probe, on a terminal.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    ValueError
        For arguments out of range, bounds that do not contain the spectrum (of what is left, with `deflate`),
        eigenpairs to deflate that do not converge.

    Notes
    -----
    Defaults are Papyan's. He scales the operator to [-1, 1] first, by 32 steps of his algorithm 4; Lanczos does not
    depend on scale and shift, and the M steps themselves bound the range more closely, so those 32 products are saved
    ("kpm" needs them). A probe's weights are squared first components of the eigenvectors of its tridiagonal matrix.

    References
    ----------
    Papyan (2018), The full spectrum of deepnet Hessians at scale, algorithms 3 and 4 and appendix C.2. Lin, Saad and
    Yang (2016), Approximating spectral densities of large matrices. Golub and Welsch (1969). Weisse et al. (2006), The
    kernel polynomial method, sec. II.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> found = rl.spectral_density(np.diag(np.append(np.linspace(-1, 1, 997), [3.0, 4.0, 5.0])), num_probes=8, rng=0)
    >>> round(float(np.trapezoid(found.density, found.grid)), 4), bool(found.grid[-1] > 5), found.num_products
    (1.0, True, 1024)
    >>> above, error = found.count_below(2.0)
    >>> bool(abs(above - 997) < 4 * error)
    True
    """
    choice("method", method, ("lanczos", "kpm"))
    matrix = as_operator(operator)
    probes, steps = integer("num_probes", num_probes, at_least=1), integer("num_steps", num_steps, at_least=2)
    points = grid_size(num_points)
    real("kappa", kappa, above=1)
    real("margin", margin, at_least=0)
    if bounds is not None:
        bounds = several("bounds", bounds)
        if len(bounds) != 2:
            raise ValueError(f"`bounds` must be two numbers; got {shown(bounds)}")
        bounds = (real("bounds[0]", bounds[0]), real("bounds[1]", bounds[1], above=float(bounds[0])))
    if grid is not None:
        grid = finite_array("grid", grid, ndim=1)
        if grid.size == 0 or (np.diff(grid) <= 0).any():
            raise ValueError(f"`grid` must be ascending; got {grid.size} points that are not")
    if method == "kpm":
        return _kernel_polynomial(matrix, probes, steps, points, grid, bounds, margin, deflate, rng)
    found = lanczos_quadratures(matrix, probes, steps, deflate, reorthogonalize, rng, progress)
    ends = _containing(bounds, found, margin)
    width = 0.5 * (ends[1] - ends[0]) * relative_width(found.num_steps, kappa)
    return _smoothed(found, ends, width, points, grid, None)


def relative_width(num_steps: int, kappa: float) -> float:
    """Papyan's sigma, in units of half the range."""
    return 2 / (max(num_steps - 1, 1) * math.sqrt(8 * math.log(kappa)))


def _containing(bounds: tuple[float, float] | None, found: Quadratures, margin: float) -> tuple[float, float]:
    if bounds is None:
        return widened(found.bounds, margin, float(np.abs(found.outliers).max(initial=0.0)))
    low, high = found.nodes.min(), found.nodes.max()
    if not (bounds[0] <= low and high <= bounds[1]):
        raise ValueError(
            f"`bounds` must contain the spectrum; got {bounds[0]:.6g} to {bounds[1]:.6g} and Ritz values from "
            f"{low:.6g} to {high:.6g}"
        )
    return bounds


def grid_size(num_points: int) -> int:
    """The points of a grid that fits in memory with what is evaluated on it."""
    count = integer("num_points", num_points, at_least=2)
    require_memory(f"a grid of {count} points", 80.0 * count, "take fewer `num_points`")
    return count


def _smoothed(
    found: Quadratures, ends: tuple[float, float], width: float, num_points: int, grid: Any, before: Any
) -> SpectralDensity:
    """Gaussians in the place of nodes; `before` is the density that this one is a transform of."""
    if grid is None:
        low, high = min(ends[0], found.nodes.min() - 8 * width), max(ends[1], found.nodes.max() + 8 * width)
        grid = _with_outliers(np.linspace(low, high, num_points), found.outliers, width)
    samples = found.samples(lambda x: gaussians(grid, x, width))
    density, error = mean_and_error(samples)
    return SpectralDensity(
        grid=grid, density=density, standard_error=error, nodes=found.nodes, weights=found.weights,
        outliers=found.outliers, bounds=ends, width=width, dimension=found.dimension,
        num_products=found.num_products if before is None else before.num_products,
        method="lanczos" if before is None else before.method,
    )  # fmt: skip


def _with_outliers(grid: Floats, outliers: Floats, width: float) -> Floats:
    """The grid and points around each outlier, as far as a Gaussian reaches.

    An even grid may have no point there, and what is not 0 at the ends would be spread over the gap by whoever
    integrates.
    """
    return np.unique(np.concatenate([grid, (outliers[:, None] + width * np.linspace(-8, 8, 65)).ravel()]))


def gaussians(grid: Floats, nodes: Floats, width: float) -> Floats:
    """Normal densities around the nodes (m,) at the grid (K,), (m, K)."""
    distance = (grid - nodes[:, None]) / width
    return np.exp(-0.5 * distance * distance) / (width * math.sqrt(2 * math.pi))


def _kernel_polynomial(
    operator: SymmetricOperator, num_probes: int, num_steps: int, num_points: int, grid: Any,
    bounds: tuple[float, float] | None, margin: float, deflate: Any, rng: Seed,
) -> SpectralDensity:  # fmt: skip
    of_bounds, of_moments, of_complement = seed_sequence(rng).spawn(3)
    complement = Complement.of(operator, deflate, np.random.default_rng(of_complement))
    outliers = complement.eigenvalues
    spent = num_probes * num_steps + complement.num_products
    if bounds is None:
        first = lanczos_quadratures(operator, 1, NORMALIZATION_STEPS, complement, False, of_bounds)
        bounds = widened(first.bounds, margin, float(np.abs(outliers).max(initial=0.0)))
        spent += first.num_products - complement.num_products
    moments = complement.share * chebyshev(complement, num_probes, num_steps, bounds, of_moments)
    count = moments.shape[1]
    k = np.arange(count)
    turn = math.pi / (count + 1)
    jackson = ((count - k + 1) * np.cos(turn * k) + np.sin(turn * k) / math.tan(turn)) / (count + 1)
    terms = moments * jackson * np.where(k == 0, 1.0, 2.0)
    centre, half = 0.5 * (bounds[0] + bounds[1]), 0.5 * (bounds[1] - bounds[0])
    width = math.pi * half / (count + 1)  # of Jackson's kernel, in the middle
    if grid is None:
        grid = _with_outliers(np.linspace(*bounds, num_points), outliers, width)
    # As a quadrature too, at the Chebyshev points, which integrates what it is made of exactly.
    angles = (np.arange(4 * count) + 0.5) * math.pi / (4 * count)
    weights = terms @ np.cos(k[:, None] * angles) / (4 * count)
    # At the ends the density is 0 / 0, and a grid point within their rounding would be a spike.
    inside = np.abs(grid - centre) < half * (1 - 1e-9)
    places = np.arccos(np.clip((grid - centre) / half, -1, 1))
    with np.errstate(divide="ignore"):
        heights = np.where(inside, terms @ np.cos(k[:, None] * places) / (math.pi * half * np.sin(places)), 0.0)
    peaks = gaussians(grid, outliers, width).sum(axis=0) / operator.dimension
    density, error = mean_and_error(heights + peaks)
    nodes = np.broadcast_to(centre + half * np.cos(angles), weights.shape)
    return SpectralDensity(
        grid=grid, density=density, standard_error=error, nodes=nodes[:, ::-1], weights=weights[:, ::-1],
        outliers=outliers, bounds=bounds, width=half * math.pi / (4 * count), dimension=operator.dimension,
        num_products=spent, method="kpm",
    )  # fmt: skip
