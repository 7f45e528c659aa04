"""The equation near the outliers with every spike apart: many classes at the price of a sum over them.

The mean part's log det(1 + m Lambda K Lambda) is zero at m = -1/u_j, the u_j being the eigenvalues of D T that it
brings: those where an eigenvalue of Lambda K(-weight / u) Lambda is u. So

    Psi'(m) = sum_j u_j / (1 + m u_j) + a power series in m,

whose nearest singularities are the eigenvalues of the A_mu, |s| >= 2. A few evaluations on a circle give the power
series, and say by their negative Fourier coefficients whether a spike is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh

from rmtland.landscape.theory import taylor
from rmtland.landscape.theory.equivalent import DeterministicEquivalent, Equation, Evaluation
from rmtland.landscape.theory.examples import Floats

CHEAP = 5e6
"""N C^3 below which the plain equation is fast enough."""
LARGEST = 1.6
"""Spikes beyond this |s| stay in the power series, which then serves up to `SHARE` of it only."""
SHARE = 0.8
PRECISION = 1e-13
MEMORY = 2**30
"""Bytes that coefficients of the C x C matrices may take."""
WRONG = 1e-10
"""Negative coefficients, as a share of the spikes' sum, that mean a spike missing or misplaced."""
ATTEMPTS = 4
"""The last of which fails unless the spikes are proved."""
GROUP = 20
"""Neighbouring spikes solved for in one small space."""
PADDING = 20
"""and the neighbours to either side whose directions the space has too."""


@dataclass(frozen=True, eq=False)
class SpikesApart(Equation):
    """An equation that sums over spikes where |s| <= `radius`, and elsewhere asks the one it was made of.

    Parameters
    ----------
    whole : DeterministicEquivalent
    spikes : ndarray (k,)
        Eigenvalues u_j of D T.
    series : ndarray (terms,)
        Taylor coefficients in s of the rest of Psi'.
    radius : float
    """

    whole: DeterministicEquivalent
    spikes: Floats
    series: Floats
    radius: float

    @property
    def num_parameters(self) -> float:  # type: ignore[override]
        """D."""
        return self.whole.num_parameters

    @property
    def sigma_H(self) -> float:  # type: ignore[override]
        """Of the H-term."""
        return self.whole.sigma_H

    def evaluate_gauss_newton(
        self, m: complex | float, order: int = 2, logs: bool = False, form: bool = False
    ) -> Evaluation:
        """By the spikes, unless the gradient's form is asked for."""
        weight = self.whole.weight
        s = m * weight
        if form or abs(s) > self.radius:
            return self.whole.evaluate_gauss_newton(m, order, logs, form)
        level = 1 + m * self.spikes
        share = self.spikes / level
        exponents = np.arange(self.series.size)
        power = np.asarray(s) ** exponents
        value = complex(np.sum(np.log(level + 0j)) + m * (power @ (self.series / (exponents + 1)))) if logs else 0j
        slope = np.sum(share) + power @ self.series
        curvature = weight * (power[:-1] @ (exponents[1:] * self.series[1:])) - np.sum(share * share)
        return Evaluation(value, slope, curvature, math.nan)

    def atoms_above(self, u: float) -> float:
        """As the equation it was made of."""
        return self.whole.atoms_above(u)

    def atoms(self) -> tuple[Floats, Floats, Floats]:
        """The same, with spikes that are exact."""
        values, weights, spikes = self.whole.atoms()
        exact = np.sort(spikes)
        exact[exact.size - self.spikes.size :] = self.spikes
        return values, weights, exact

    @property
    def rank_of_t(self) -> float:
        """Number of nonzero eigenvalues of T."""
        return self.whole.rank_of_t

    @property
    def cost(self) -> float:
        """Terms of the sums."""
        return float(self.spikes.size + self.series.size)


def spikes_apart(whole: Equation) -> Equation:
    """The equation with its spikes apart where that pays and proves itself; else the equation as it is."""
    if not isinstance(whole, DeterministicEquivalent) or whole.class_length > 0:
        return whole
    if whole.cost * whole.num_classes < CHEAP:
        return whole
    if not (whole.weight > 0 and whole.cross_terms and whole.mean_lengths.any()):
        return whole
    rough = whole.atoms()[2]
    lowest = float(rough[rough > 1e-12 * rough[-1]][0])
    most = MEMORY / (16.0 * whole.num_classes**2)
    if most < 4:
        return whole
    radius = min(1.3 * whole.weight / lowest, LARGEST, 2 * PRECISION ** (1 / (most - 2)))
    terms = math.ceil(math.log(PRECISION) / math.log(radius / 2)) + 1
    size = 2 * math.ceil(terms / 2) + 4
    nodes = taylor.circle(radius, size)
    sums = np.array([whole.examples.sums(s, logs=False).powers[0][0] for s in nodes.tolist()])
    matrices = taylor.coefficients(sums, radius, size, keep=terms)
    del sums
    own = whole.residual_length**2 * np.einsum("tkk->t", matrices)
    matrices *= whole.mean_lengths[:, None] * whole.mean_lengths
    spikes, vectors = _spikes(matrices, whole.weight, radius)
    # What the spikes leave of the mean part's slope has a power series, and no negative powers if all are right. Other
    # spikes than these are beyond, at a larger |s|, and ask for a smaller circle and more terms.
    rest_terms = terms
    if spikes.size < rough.size:
        radius *= SHARE
        rest_terms = max(terms, math.ceil(math.log(PRECISION) / math.log(SHARE)))
        size = 2 * math.ceil(rest_terms / 2) + 4
        nodes = taylor.circle(radius, size)
    slopes = np.array([_slope(matrices, s, whole.weight) for s in nodes.tolist()])
    for attempt in range(ATTEMPTS):
        rest = slopes - np.sum(spikes / (1 + nodes[:, None] / whole.weight * spikes), axis=1)
        coefficients = np.fft.hfft(rest, n=size) / size
        if np.all(np.abs(coefficients[-3:]) < WRONG * np.sum(spikes)):
            break
        if attempt == ATTEMPTS - 1:
            return whole
        spikes, vectors = _polished(matrices, whole.weight, spikes, vectors)
    series = coefficients[:rest_terms] * radius ** -np.arange(float(rest_terms))
    series[:terms] += own
    return SpikesApart(whole, spikes, series, radius)


def _matrix(matrices: Floats, s: complex | float) -> Any:
    """Lambda K(s) Lambda of its Taylor coefficients."""
    return np.tensordot(np.asarray(s) ** np.arange(len(matrices)), matrices, 1)


def _derivative(matrices: Floats, s: complex | float) -> Any:
    exponents = np.arange(1, len(matrices))
    return np.tensordot(exponents * np.asarray(s) ** (exponents - 1), matrices[1:], 1)


def _slope(matrices: Floats, s: complex, weight: float) -> Any:
    """Derivative of log det(1 + m Lambda K Lambda) in m = s / weight."""
    matrix = _matrix(matrices, s)
    change = matrix + s * _derivative(matrices, s)
    return np.sum(np.linalg.inv(np.eye(len(matrix)) + s / weight * matrix) * change)


def _spikes(matrices: Floats, weight: float, radius: float) -> tuple[Floats, Floats]:
    """The u with an eigenvalue u of Lambda K(-weight / u) Lambda, weight / u <= radius, ascending, and eigenvectors.

    As u grows every sorted eigenvalue falls, so that each meets u once. They are followed in the space of a group's
    eigenvectors, and of some neighbours', at the s of its middle.
    """
    size = matrices.shape[1]
    found: list[float] = []
    rows: list[Floats] = []
    s = -radius
    u = float(eigh(_matrix(matrices, 0.0), eigvals_only=True, subset_by_index=[size - 1, size - 1])[0])
    for high in range(size - 1, 0, -GROUP):
        low = max(high - GROUP + 1, 1)
        first, last = max(low - PADDING, 0), min(high + PADDING, size - 1)
        for _ in range(10):
            before, s = s, -min(weight / u, radius)
            values, vectors = eigh(_matrix(matrices, s), subset_by_index=[first, last])
            u = max(float(values[(low + high) // 2 - first]), weight / radius)
            if abs(s - before) <= 0.02 * abs(s):
                break
        small = np.einsum("bi,tij,jc->tbc", vectors.T, matrices, vectors, optimize=True)
        for j in range(high, low - 1, -1):
            root = _spike(small, j - first, max(float(values[j - first]), weight / radius), weight, radius)
            if root is None:
                return np.array(found[::-1]), np.array(rows[::-1])
            found.append(root[0])
            rows.append(vectors @ root[1])
    return np.array(found[::-1]), np.array(rows[::-1])


def _spike(small: Floats, index: int, u: float, weight: float, radius: float) -> tuple[float, Floats] | None:
    """One of them and its eigenvector, by Newton's method; None if it is beyond the radius."""
    for _ in range(50):
        s = -weight / u
        values, vectors = np.linalg.eigh(_matrix(small, s))
        vector = vectors[:, index]
        step = _step(small, s, vector, u - float(values[index]), weight)
        if u - step < weight / radius and u == weight / radius:
            return None
        if abs(step) <= 1e-13 * u:
            return u - step, vector
        u = max(u - step, weight / radius)
    return None


def _step(matrices: Floats, s: float, vector: Floats, excess: float, weight: float) -> float:
    """Newton's for u less the eigenvalue at s = -weight / u, which is `excess` now."""
    return excess / (1 - float(vector @ _derivative(matrices, s) @ vector) * s * s / weight)


def _polished(matrices: Floats, weight: float, spikes: Floats, vectors: Floats) -> tuple[Floats, Floats]:
    """Each by one step of inverse iteration in the whole space, which squares the error of its direction."""
    better, rows = [], []
    for u, vector in zip(spikes.tolist(), vectors, strict=True):
        s = -weight / u
        matrix = _matrix(matrices, s)
        shift = float(vector @ matrix @ vector) * (1 + 1e-13)
        direction = np.linalg.solve(matrix - shift * np.eye(len(vector)), vector)
        direction /= np.linalg.norm(direction)
        better.append(u - _step(matrices, s, direction, u - float(direction @ matrix @ direction), weight))
        rows.append(direction)
    return np.array(better), np.array(rows)
