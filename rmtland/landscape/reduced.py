"""Draws of the landscape model's spectrum and gradient that cost the same at any number of parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import eigsh

from rmtland._arguments import flag, instance, integer, real, require_memory
from rmtland._arrays import told
from rmtland.landscape.bartlett import SharedRows
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.h_term import h_term_spectrum
from rmtland.logits.exact_spectrum import GaussNewtonSpectrum
from rmtland.logits.losses import CrossEntropy
from rmtland.spectra.measure import spectral_measure

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LandscapeSpectrum(GaussNewtonSpectrum):
    """Spectrum and gradient of one draw of a landscape model.

    Attributes
    ----------
    eigenvalues : ndarray (r,)
        The nonzero ones, ascending, less those that only dropped rows would give; at most min(D, N (C - 1)). With an
        H-term all D.
    powers : ndarray (r,)
        Share of the squared gradient along each eigenvector; NaN where the gradient is zero.
    null_power : float
        The rest: powers.sum() + null_power = 1.
    num_parameters : int
        D.
    gradient_norm : float
        Length of the gradient.
    num_classes : int
        C.
    sums : (float, float), optional
        Trace and Frobenius norm of the whole matrix where only its top eigenvalues are kept; `powers` are then those of
        these, and `null_power` is all the rest.
    """

    num_classes: int
    sums: tuple[float, float] | None = None

    __repr__ = told

    @property
    def trace(self) -> float:
        """Sum of all eigenvalues."""
        return super().trace if self.sums is None else self.sums[0]

    @property
    def frobenius(self) -> float:
        """Root of the sum of the squares of all eigenvalues."""
        return super().frobenius if self.sums is None else self.sums[1]

    def outliers(self, k: int | None = None) -> Floats:
        """The C - 1 (or k) largest eigenvalues, ascending; with zeros for those that D < k lacks.

        Raises
        ------
        ValueError
            For more than `spectrum` kept (its `k`).
        """
        number = integer("k", self.num_classes - 1 if k is None else k, at_least=0)
        self._require_kept("k", number)
        missing = max(number - self.eigenvalues.size, 0)
        top: Floats = self.eigenvalues[self.eigenvalues.size - number + missing :]
        return np.sort(np.append(np.zeros(missing), top))

    def gradient_power(self, num_directions: int) -> float:
        """Share of the squared gradient in the span of the `num_directions` top eigenvectors.

        Raises
        ------
        ValueError
            For more than `spectrum` kept (its `k`), or than D.
        """
        power = super().gradient_power(num_directions)
        self._require_kept("num_directions", num_directions)
        return power

    def _require_kept(self, name: str, number: int) -> None:
        if self.sums is not None and number > self.eigenvalues.size:
            raise ValueError(f"`{name}` must be <= {self.eigenvalues.size}, as many as were asked for; got {number}")

    def goldilocks_ratio(self, dimension: int | None = None) -> float:
        """Trace over Frobenius norm, on the whole space or on a random hyperplane.

        Parameters
        ----------
        dimension : int, optional
            d in 1..D of a hyperplane through the origin in a uniformly random direction.

        Returns
        -------
        float
            E trace / root of E norm^2 over hyperplanes, exact for these eigenvalues; NaN for the zero matrix.

        References
        ----------
        Fort and Scherlis (2019), The Goldilocks zone. Collins and Sniady (2006) for moments over the orthogonal group.
        """
        if dimension is None:
            return self.trace / self.frobenius if self.frobenius > 0 else math.nan
        return hyperplane_ratio(self.trace, self.frobenius, self.num_parameters, dimension)


def hyperplane_ratio(trace: float, frobenius: float, num_parameters: int, dimension: int) -> float:
    """E tr / root of E norm^2 of O^T G O with O uniform among the D x d matrices of orthonormal columns.

    With P = O O^T, E P_ij P_kl = a delta_ij delta_kl + b (delta_ik delta_jl + delta_il delta_jk); a and b follow from
    tr P = d and P^2 = P.
    """
    size = float(num_parameters)
    d = float(integer("dimension", dimension, at_least=1, at_most=num_parameters))
    if not frobenius > 0:
        return math.nan
    if num_parameters == 1:
        return 1.0
    crossed = d * (1 - d / size) / ((size - 1) * (size + 2))
    direct = d / size - crossed * (1 + size)
    return d / size * trace / math.sqrt((direct + crossed) * frobenius**2 + crossed * trace**2)


@dataclass(frozen=True, eq=False)
class _Sources:
    """G = Y^T Y and the gradient as combinations of independent standard normal rows.

    m rows stand for the mean gradients, n for the residuals of kept rows and one for those of dropped ones: Y = [own
    mean; mixing mean + weights residual] and gradient = mean_slopes mean + slopes residual + dropped last.
    """

    own: Floats  # (q, m): rows of Y made of mean gradients alone
    mixing: Floats  # (n, m)
    weights: Floats  # (n,)
    mean_slopes: Floats  # (m,)
    slopes: Floats  # (n,)
    dropped: float


def reduced_spectrum(
    logits: Floats,
    labels: npt.NDArray[np.int64],
    gradients: ClusteredGradients,
    num_parameters: int,
    rng: np.random.Generator,
    cross_terms: bool = True,
    tolerance: float = 1e-10,
    k: int | None = None,
    shared: SharedRows | None = None,
    sigma_H: float = 0.0,
) -> LandscapeSpectrum:
    """One draw of spectrum and gradient given logits (N, C) and labels (N,); see `LandscapeModel.spectrum`."""
    tolerance = real("tolerance", tolerance, at_least=0, below=1)
    if k is not None:
        k = integer("k", k, at_least=1)
    sources = _sources(logits, labels, gradients, num_parameters, cross_terms, tolerance)
    rows, slope = _rows(sources, num_parameters, SharedRows(rng) if shared is None else shared)
    if sigma_H > 0:
        return _with_h_term(rows, slope, (num_parameters, sigma_H), rng, logits.shape[1], k)
    return spectrum_of_rows(rows, slope, num_parameters, logits.shape[1], k)


def spectrum_of_rows(
    rows: Floats, slope: Floats, num_parameters: int, num_classes: int, k: int | None = None
) -> LandscapeSpectrum:
    """The spectrum of G = rows^T rows and of the gradient `slope` (w,) in it; rows (n, w), w <= D."""
    norm = float(np.linalg.norm(slope))
    if rows.shape[0] == 0:
        return LandscapeSpectrum(
            np.empty(0), np.empty(0), 1.0 if norm > 0 else math.nan, num_parameters, norm, num_classes
        )
    by_examples = rows.shape[0] <= rows.shape[1]
    gram = rows @ rows.T if by_examples else rows.T @ rows
    start = rows @ slope if by_examples else slope
    eigenvalues, squares, sums = _measure(gram, start, k)
    positive = eigenvalues > float(eigenvalues[-1]) * len(gram) * float(np.finfo(np.float64).eps)
    if by_examples:  # the eigenvector of G is Y^T u / sqrt(eigenvalue)
        squares = np.divide(squares, eigenvalues, out=np.zeros_like(squares), where=positive)
    powers = np.where(positive, squares / norm**2, 0.0) if norm > 0 else np.full(eigenvalues.size, math.nan)
    return _spectrum(np.maximum(eigenvalues, 0.0), powers, norm, num_parameters, num_classes, sums)


def _with_h_term(
    rows: Floats, slope: Floats, law: tuple[int, float], rng: np.random.Generator, num_classes: int,
    k: int | None,
) -> LandscapeSpectrum:  # fmt: skip
    """The spectrum of rows^T rows + H-term of `law` = (D, sigma_H)."""
    num_parameters, sigma_H = law
    if slope.size == 0:  # a model without lengths
        rows, slope = np.zeros((0, 1)), np.zeros(1)
    norm = float(np.linalg.norm(slope))
    eigenvalues, squares, sums = h_term_spectrum(rows.T @ rows, slope, num_parameters, sigma_H, rng, k)
    powers = squares / norm**2 if norm > 0 else np.full(eigenvalues.size, math.nan)
    return _spectrum(eigenvalues, powers, norm, num_parameters, num_classes, sums)


def _spectrum(
    eigenvalues: Floats, powers: Floats, norm: float, num_parameters: int, num_classes: int,
    sums: tuple[float, float] | None,
) -> LandscapeSpectrum:  # fmt: skip
    # Rounding may leave the sum of the powers an ulp above 1.
    null = max(1.0 - float(powers.sum()), 0.0) if norm > 0 else math.nan
    return LandscapeSpectrum(eigenvalues, powers, null, num_parameters, norm, num_classes=num_classes, sums=sums)


def _measure(matrix: Floats, vector: Floats, k: int | None) -> tuple[Floats, Floats, tuple[float, float] | None]:
    """`spectral_measure`, of the top alone if asked for; then also trace and norm of the whole matrix."""
    if k is None or k >= len(matrix):
        return *spectral_measure(matrix, vector), None
    sums = float(np.trace(matrix)), float(np.linalg.norm(matrix))
    if 10 * k < len(matrix) and sums != (0.0, 0.0):
        return *_top_measure(matrix, vector, k), sums
    eigenvalues, squares = spectral_measure(matrix, vector)
    return eigenvalues[-k:], squares[-k:], sums


def _top_measure(gram: Floats, vector: Floats, count: int) -> tuple[Floats, Floats]:
    """As `spectral_measure`, of the `count` largest eigenvalues alone, by Lanczos iteration."""
    # A fixed start, so a fixed result; not the vector, whose Krylov space may miss a direction.
    begin = np.random.default_rng(0).standard_normal(len(gram))
    width = min(len(gram), max(4 * count, 40))
    eigenvalues, vectors = eigsh(gram, k=count, which="LA", v0=begin, ncv=width)
    order = np.argsort(eigenvalues)
    squares: Floats = (vectors[:, order].T @ vector) ** 2
    return eigenvalues[order], squares


def _rows(sources: _Sources, num_parameters: int, shared: SharedRows) -> tuple[Floats, Floats]:
    """Y and the gradient, in the columns of the Bartlett factor of all source rows."""
    num_means, num_kept = sources.mean_slopes.size, sources.slopes.size
    count = num_means + num_kept + (sources.dropped > 0)
    width = min(count, num_parameters)
    require_memory(
        f"a draw with {num_kept} x {width} rows",
        8.0 * (2 * count * width + 2 * min(num_kept, width) ** 2),
        "raise `tolerance`, draw fewer examples, or use model.theory()",
    )
    factor = instance("rows", shared, SharedRows, "SharedRows").factor(count, num_parameters)
    means, residuals = factor[:num_means], factor[num_means : num_means + num_kept]
    slope = sources.mean_slopes @ means + sources.slopes @ residuals
    if sources.dropped > 0:
        slope += sources.dropped * factor[-1]
    residuals = residuals * sources.weights[:, None]
    residuals[:, :num_means] += sources.mixing @ means[:, :num_means]
    if sources.own.shape[0] == 0:
        return residuals, slope
    return np.concatenate([sources.own @ means, residuals]), slope


def _sources(
    logits: Floats,
    labels: npt.NDArray[np.int64],
    law: ClusteredGradients,
    num_parameters: int,
    cross_terms: bool,
    tolerance: float,
) -> _Sources:
    num_examples, num_classes = logits.shape
    root = math.sqrt(num_parameters)
    sigma = law.residual_length / root
    # A_mu / N = V diag(roots^2) V^T through the factor of A_mu, which knows a frozen example's 1 - p.
    factor = CrossEntropy().hessian_factor(logits) / math.sqrt(num_examples)
    vectors, roots, _ = np.linalg.svd(factor, full_matrices=False)
    vectors = vectors.swapaxes(1, 2)  # (N, C - 1, C), an eigenvector per row
    slopes = CrossEntropy().gradient(logits, labels) / num_examples
    along = np.einsum("njk,nk->nj", vectors, slopes)
    kept = (roots > 0) & (roots**2 > tolerance * roots.max() ** 2)
    groups = [(np.ones(num_examples, dtype=bool), law.mean_lengths(num_classes) / root)]
    if law.class_length > 0:
        scales = np.full(num_classes, law.class_length / root)
        groups += [(labels == y, scales) for y in np.unique(labels)]
    if sigma == 0:  # what is left is made of the means, dropped rows too
        kept[:] = False
    blocks: list[Floats] = []
    own: list[Floats] = []
    mean_slopes: list[Floats] = []
    which = np.nonzero(kept)
    for members, scales in groups:
        basis = _basis(scales)
        # Columns of unit length times the rows' scale: v^T diag(scales) basis.
        mean_slopes.append((slopes[members].sum(axis=0) * scales) @ basis)
        mixed = roots[:, :, None] * (vectors @ (scales[:, None] * basis))
        mixed[~members] = 0.0
        own.append(mixed.reshape(num_examples * (num_classes - 1), basis.shape[1]))
        blocks.append(mixed[which])
    used = along[which]
    total = float(np.sum(slopes**2))
    # What no kept row carries: dropped ones and, where probabilities have underflowed, what lies outside all rows.
    rest = total - float(np.sum(used**2))
    num_means = sum(block.shape[1] for block in blocks)
    if flag("cross_terms", cross_terms) and sigma > 0:
        apart = np.empty((0, num_means))
        mixing = np.concatenate(blocks, axis=1)
    else:
        apart = _apart([np.concatenate(own, axis=1)] if cross_terms else own)
        mixing = np.zeros((used.size, num_means))
    return _Sources(
        own=apart,
        mixing=mixing,
        weights=sigma * roots[which],
        mean_slopes=np.concatenate(mean_slopes),
        slopes=sigma * used,
        dropped=sigma * math.sqrt(rest) if rest > 1e-13 * total else 0.0,
    )


def _basis(scales: Floats) -> Floats:
    """Orthonormal basis (C, q) of diag(scales) times the zero-sum vectors: where A 1 = 0 leaves the mean gradients."""
    size = scales.size
    if not scales.any():
        return np.empty((size, 0))
    zero_sum = np.eye(size)[:, 1:] - 1 / size
    vectors, values, _ = np.linalg.svd(scales[:, None] * zero_sum, full_matrices=False)
    basis: Floats = vectors[:, values > 1e-12 * values[0]]
    return basis


def _apart(blocks: list[Floats]) -> Floats:
    """Block diagonal matrix of the triangular factors of the blocks: eq. (16), no products between groups."""
    factors = [np.asarray(np.linalg.qr(block, mode="r")) for block in blocks]
    out = np.zeros((sum(f.shape[0] for f in factors), sum(f.shape[1] for f in factors)))
    row = column = 0
    for f in factors:
        out[row : row + f.shape[0], column : column + f.shape[1]] = f
        row, column = row + f.shape[0], column + f.shape[1]
    return out
