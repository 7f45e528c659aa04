"""The H-term of the model: an independent symmetric Gaussian matrix W for what the curvature of the logits adds.

G fills the first w coordinates. A rotation of the others, which the law of W does not see, makes W a band matrix of
width w: normal entries inside the band, chi of D - i degrees of freedom at its end in row i. The largest eigenvalues of
G + W need only its leading rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dsbmv
from scipy.sparse.linalg import LinearOperator

from rmtland._arguments import require_memory
from rmtland.ensembles.wigner import GaussianEnsemble
from rmtland.spectra.eigenpairs import top_eigenpairs
from rmtland.spectra.measure import spectral_measure

Floats = npt.NDArray[np.float64]

DENSE_ROWS = 1500
"""Leading blocks up to this order are diagonalised whole."""

TOLERANCE = 1e-7
"""Residual, relative to the largest eigenvalue, at which the leading block is long enough: eigenvalues are then off by
its square over their distance, 1e-10 at an edge whose eigenvalues lie 1e-4 apart."""

INSTEAD = "use model.theory(), or sigma_H = 0"


def draw_h_term(num_parameters: int, sigma_H: float, rng: np.random.Generator) -> Floats:
    """A symmetric Gaussian matrix, off-diagonal variance sigma_H^2 / D and diagonal variance twice that, (D, D)."""
    size = num_parameters
    require_memory(f"the {size} x {size} H-term", 24.0 * size * size, INSTEAD)
    matrix: Floats = GaussianEnsemble(size).matrix(rng)
    matrix *= sigma_H
    return matrix


@dataclass(eq=False)
class HTermBand:
    """G + W, drawn row by row: `rows[i, d]` is the entry in row i and column i - d.

    Parameters
    ----------
    gauss_newton : ndarray (w, w)
        G in the first coordinates.
    num_parameters : int
        D >= w.
    sigma_H : float
    rng : numpy.random.Generator
        Read row by row, so that a longer leading block begins with the shorter one.
    """

    gauss_newton: Floats
    num_parameters: int
    sigma_H: float
    rng: np.random.Generator
    rows: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.rows = np.empty((0, self.width + 1))

    @property
    def width(self) -> int:
        """w, the number of diagonals below the main one."""
        return len(self.gauss_newton)

    def extend(self, count: int) -> None:
        """Draw rows until there are `count` of them."""
        w, size, begin = self.width, self.num_parameters, self.rows.shape[0]
        if count <= begin:
            return
        require_memory(f"the first {count} rows of {size} x {size} Hessians, {w} wide", 24.0 * count * (w + 1), INSTEAD)
        scale = self.sigma_H / math.sqrt(size)
        longer = np.zeros((count, w + 1))
        longer[:begin] = self.rows
        for i in range(begin, count):
            inside = min(i, w - 1) + 1  # the diagonal and the normal entries left of it
            longer[i, :inside] = scale * self.rng.standard_normal(inside)
            longer[i, 0] *= math.sqrt(2.0)
            if i >= w:
                longer[i, w] = scale * math.sqrt(self.rng.chisquare(float(size - i)))
            if i < w:
                longer[i, : i + 1] += self.gauss_newton[i, i::-1]
        self.rows = longer

    def leading(self, order: int) -> LinearOperator | Floats:
        """The leading block: a matrix, or beyond `DENSE_ROWS` an operator."""
        self.extend(order)
        w = self.width
        # LAPACK's lower band, column by column: band[d, j] is the entry (j + d, j).
        band = np.zeros((w + 1, order), order="F")
        for d in range(min(w, order - 1) + 1):
            band[d, : order - d] = self.rows[d:order, d]
        if order > DENSE_ROWS:
            return LinearOperator((order, order), matvec=lambda v: dsbmv(w, 1.0, band, v.ravel(), lower=1), dtype=float)
        matrix = np.zeros((order, order))
        for d in range(min(w, order - 1) + 1):
            index = np.arange(order - d)
            matrix[index + d, index] = matrix[index, index + d] = band[d, : order - d]
        return matrix

    def residuals(self, vectors: Floats) -> Floats:
        """Norms of the part of H v below the leading block, for its vectors (m, k)."""
        order, w = vectors.shape[0], self.width
        below = min(order + w, self.num_parameters)
        self.extend(below)
        total = np.zeros((below - order, vectors.shape[1]))
        for i in range(order, below):
            reach = np.arange(max(i - order + 1, 1), min(w, i) + 1)
            total[i - order] = self.rows[i, reach] @ vectors[i - reach]
        norms: Floats = np.linalg.norm(total, axis=0)
        return norms

    def sums(self) -> tuple[float, float]:
        """Trace and Frobenius norm of the whole matrix: of the drawn rows, and a draw of what the others add."""
        size, w, drawn = self.num_parameters, self.width, self.rows.shape[0]
        trace = float(self.rows[:, 0].sum())
        square = 2 * float(np.sum(self.rows[:, 1:] ** 2)) + float(np.sum(self.rows[:, 0] ** 2))
        left = size - drawn
        if left > 0:
            variance = self.sigma_H**2 / size
            normal, deviations = self.rng.standard_normal(), self.rng.chisquare(left - 1) if left > 1 else 0.0
            trace += normal * math.sqrt(2 * variance * left)
            square += 2 * variance * (normal**2 + deviations)
            # Off the diagonal row i holds w - 1 normal entries and one of D - i degrees of freedom (drawn >= w here).
            square += 2 * variance * self.rng.chisquare(left * (w - 1) + left * (left + 1) / 2)
        return trace, math.sqrt(square)


def h_term_spectrum(
    gauss_newton: Floats, slope: Floats, num_parameters: int, sigma_H: float, rng: np.random.Generator,
    k: int | None,
) -> tuple[Floats, Floats, tuple[float, float] | None]:  # fmt: skip
    """Eigenvalues of G + W, the squared components of the gradient along them and, of the top alone, trace and norm.

    Parameters
    ----------
    gauss_newton : ndarray (w, w)
        G in coordinates that hold its range and the gradient, w <= D.
    slope : ndarray (w,)
        The gradient.
    num_parameters : int
        D.
    sigma_H : float
    rng : numpy.random.Generator
    k : int, optional
        Only so many of the largest: O(m w) memory and time for the m leading rows that they need, a few w for outliers,
        of order w (D / w)^(1/3) for the edge of the bulk. All of them: O(D^3).

    Returns
    -------
    eigenvalues, squares : ndarray (k,)
        Ascending.
    sums : (float, float), optional

    Raises
    ------
    MemoryError
        Where the rows do not fit.
    """
    if k is None or k >= num_parameters:
        k = None
        require_memory(
            f"the {num_parameters} x {num_parameters} H-term",
            24.0 * num_parameters**2,
            f"ask for its k largest eigenvalues, or {INSTEAD}",
        )
    band = HTermBand(gauss_newton, num_parameters, sigma_H, rng)
    w = band.width
    order = num_parameters if k is None else min(num_parameters, max(3 * w, 20 * k, 200))
    begin: Floats | None = None
    while True:
        block = band.leading(order)
        whole = order == num_parameters
        start = np.zeros(order)
        start[:w] = slope
        if whole and isinstance(block, np.ndarray):
            eigenvalues, squares = spectral_measure(block, start)
        else:
            assert k is not None
            eigenvalues, vectors = _top(block, k, begin)
            squares = (vectors.T @ start) ** 2
            if not whole and band.residuals(vectors).max() > TOLERANCE * np.abs(eigenvalues).max():
                order = min(num_parameters, 2 * order)
                begin = vectors.sum(axis=1)
                continue
        if k is None:
            return eigenvalues, squares, None
        return eigenvalues[-k:], squares[-k:], band.sums()


def _top(block: LinearOperator | Floats, count: int, begin: Floats | None) -> tuple[Floats, Floats]:
    """The largest eigenpairs of a leading block, from those of a shorter one where there is one."""
    if isinstance(block, np.ndarray):
        eigenvalues, vectors = np.linalg.eigh(block)
        return eigenvalues[-count:], vectors[:, -count:]
    rng = np.random.default_rng(0)  # a fixed start, so a fixed result
    start = rng.standard_normal(block.shape[0]) * 1e-3 / math.sqrt(block.shape[0])
    if begin is not None:
        start[: begin.size] += begin
    pairs = top_eigenpairs(block, count, tolerance=0.1 * TOLERANCE, start=start, rng=rng, max_products=20_000)
    return pairs.eigenvalues, pairs.eigenvectors
