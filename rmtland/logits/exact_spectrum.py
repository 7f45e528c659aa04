"""Exact eigenvalues of a Gauss-Newton matrix and the gradient's powers, from either side of its factor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland._arguments import integer
from rmtland._arrays import Array, is_torch, namespace, to_numpy, told
from rmtland.logits.rows import require_finite
from rmtland.spectra.measure import spectral_measure
from rmtland.spectra.traces import goldilocks_ratio


@dataclass(frozen=True, eq=False)
class GaussNewtonSpectrum:
    """Exact eigenvalues of a Gauss-Newton matrix and where the gradient lies among its eigenvectors.

    Attributes
    ----------
    eigenvalues : ndarray (r,)
        Ascending, r = min(D, N rank(A)); the other D - r are exactly zero.
    powers : ndarray (r,)
        Share of the squared gradient along each eigenvector; 0 for eigenvalues that are zero to rounding, whose
        eigenvectors are arbitrary. NaN where the gradient is zero.
    null_power : float
        The rest: powers.sum() + null_power = 1.
    num_parameters : int
        D.
    gradient_norm : float
        Length of the gradient.
    """

    eigenvalues: npt.NDArray[np.float64]
    powers: npt.NDArray[np.float64]
    null_power: float
    num_parameters: int
    gradient_norm: float

    __repr__ = told

    @property
    def trace(self) -> float:
        """Sum of the eigenvalues."""
        return float(self.eigenvalues.sum())

    @property
    def frobenius(self) -> float:
        """Root of the sum of their squares."""
        return float(np.linalg.norm(self.eigenvalues))

    def goldilocks_ratio(self) -> float:
        """Trace over Frobenius norm; NaN for the zero matrix."""
        return goldilocks_ratio(self.eigenvalues)

    def outliers(self, k: int) -> npt.NDArray[np.float64]:
        """The k largest eigenvalues, ascending."""
        size = self.eigenvalues.size
        return self.eigenvalues[size - integer("k", k, at_least=0, at_most=size) :]

    def gradient_power(self, num_directions: int) -> float:
        """Share of the squared gradient in the span of the `num_directions` top eigenvectors."""
        count = integer("num_directions", num_directions, at_least=0, at_most=self.num_parameters)
        return float(self.powers[max(self.powers.size - count, 0) :].sum())


def from_parameters(matrix: Array, slope: Array) -> GaussNewtonSpectrum:
    """From Y^T Y and the gradient."""
    require_finite(matrix)
    values, overlaps = _eigenvalues_and_overlaps(matrix, slope)
    return _spectrum(values, overlaps, float(np.linalg.norm(to_numpy(slope))), matrix.shape[0])


def from_rows(gram: Array, seen: Array, norm: float, num_parameters: int) -> GaussNewtonSpectrum:
    """From Y Y^T, Y times the gradient, and the gradient's length."""
    require_finite(gram)
    values, components = _eigenvalues_and_overlaps(gram, seen)
    # The unit eigenvector of G is Y^T u / sqrt(lambda).
    lengths = np.sqrt(np.where(values > _rounding(values), values, 1.0))
    return _spectrum(values, components / lengths, norm, num_parameters)


def _eigenvalues_and_overlaps(matrix: Array, vector: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Eigenvalues, and the vector's components along the eigenvectors up to their signs."""
    if is_torch(matrix) and matrix.device.type != "cpu":  # where it lies
        eigenvalues, vectors = namespace(matrix).linalg.eigh(matrix)
        return to_numpy(eigenvalues), to_numpy(vectors.T @ vector)
    values, squares = spectral_measure(to_numpy(matrix), to_numpy(vector))
    return values, np.sqrt(squares)


def _rounding(eigenvalues: npt.NDArray[np.float64]) -> float:
    return float(eigenvalues[-1]) * eigenvalues.size * float(np.finfo(np.float64).eps)


def _spectrum(
    eigenvalues: npt.NDArray[np.float64], overlaps: npt.NDArray[np.float64], norm: float, num_parameters: int
) -> GaussNewtonSpectrum:
    null = eigenvalues <= _rounding(eigenvalues)
    powers = np.where(null, 0.0, (overlaps / norm) ** 2) if norm > 0 else np.full(eigenvalues.size, math.nan)
    # Rounding may leave the sum an ulp above 1.
    return GaussNewtonSpectrum(
        eigenvalues=np.maximum(eigenvalues, 0.0),
        powers=powers,
        null_power=max(1.0 - float(powers.sum()), 0.0) if norm > 0 else math.nan,
        num_parameters=num_parameters,
        gradient_norm=norm,
    )
