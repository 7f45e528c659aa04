"""The equation near the outliers with every spike apart: many classes at the price of a sum over them.

The means' log det(1 + m F^T K F) is zero at m = -1/u_j, the u_j being the eigenvalues of D T that they bring: those
where an eigenvalue of F^T K(-weight / u) F is u. So

    Psi'(m) = sum_j u_j / (1 + m u_j) + a power series in s = m weight,

whose nearest singularities are the eigenvalues of the A_mu, |s| >= 2. A few evaluations on a circle give the power
series, and say by their negative Fourier coefficients whether a spike is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh

from rmtland.landscape.theory.examples import GivenExamples, zero_sum_matrices
from rmtland.landscape.theory.levels import Means, Residuals
from rmtland.landscape.theory.sums import Floats
from rmtland.laws import taylor
from rmtland.laws.subordination import Atoms, Evaluation, Jet, Level, Part, Point, Subordination

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
class PowerSeries(Level):
    """Psi' = a power series in s = m weight.

    Parameters
    ----------
    series : ndarray (terms,)
    weight : float
    atoms : tuple of ndarray
        Rough eigenvalues that it stands for, and how often each occurs.
    """

    series: Floats
    weight: float
    atoms: tuple[Floats, Floats]

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Terms of the sum."""
        return float(self.series.size)

    def at(self, point: Point) -> Part:
        """The sum; nothing is known of the gradient."""
        exponents = np.arange(self.series.size)
        power = np.asarray(point.m * self.weight) ** exponents
        value = complex(point.m * (power @ (self.series / (exponents + 1)))) if point.logs else math.nan
        second = self.weight * (power[:-1] @ (exponents[1:] * self.series[1:]))
        return Part(Jet([value, power @ self.series, second][: point.order + 1]), math.nan)

    def rough_atoms(self) -> tuple[Floats, Floats]:
        """As given."""
        return self.atoms


@dataclass(frozen=True, eq=False)
class SpikesApart(Subordination):
    """Levels that sum over spikes where |s| <= `radius`; elsewhere, and for counts, the equation they were made of.

    Parameters
    ----------
    whole : Subordination
    weight, radius : float
    """

    whole: Subordination
    weight: float
    radius: float

    @property
    def spikes(self) -> Floats:
        """Eigenvalues of D T."""
        level = self.levels[0]
        assert isinstance(level, Atoms)
        return level.t

    def evaluate(self, m: complex | float, order: int = 1, logs: bool = False) -> Evaluation:
        """By the spikes where that is known to hold."""
        if abs(m) * self.weight <= self.radius:
            return super().evaluate(m, order, logs)
        return self.whole.evaluate(m, order, logs)

    def atoms_above(self, u: float) -> float:
        """As the equation it was made of."""
        return self.whole.atoms_above(u)

    @property
    def rank(self) -> float:
        """As the equation it was made of."""
        return self.whole.rank


def spikes_apart(whole: Subordination) -> Subordination:
    """The equation with its spikes apart where that pays and proves itself; else the equation as it is."""
    means = next((level for level in whole.levels if isinstance(level, Means)), None)
    if means is None or not isinstance(means.below, Residuals) or not means.below.length > 0:
        return whole
    residuals, examples = means.below, means.below.examples
    if not isinstance(examples, GivenExamples) or whole.cost * examples.num_classes < CHEAP:
        return whole
    weight = residuals.weight
    rough = np.sort(means.rough_atoms()[0])
    most = MEMORY / (16.0 * examples.num_classes**2)
    if most < 4:
        return whole
    lowest = float(rough[rough > 1e-12 * rough[-1]][0])
    radius = min(1.3 * weight / lowest, LARGEST, 2 * PRECISION ** (1 / (most - 2)))
    terms = math.ceil(math.log(PRECISION) / math.log(radius / 2)) + 1
    matrices, own = _taylor(examples, means.factor, radius, terms)
    found = _series(matrices, weight, radius, rough.size)
    if found is None:
        return whole
    spikes, series, radius = found
    series[:terms] += residuals.length**2 * own
    values, weights = residuals.rough_atoms()
    rest = rough[: rough.size - spikes.size]
    atoms = np.append(values, rest), np.append(weights, np.ones(rest.size))
    others = tuple(level for level in whole.levels if level not in (means, residuals))
    levels = (Atoms(spikes, np.ones(spikes.size)), PowerSeries(series, weight, atoms), *others)
    return SpikesApart(levels, whole.num_parameters, whole, weight, radius)


def _taylor(examples: GivenExamples, factor: Any, radius: float, terms: int) -> tuple[Floats, Floats]:
    """Coefficients in s of F^T K F (terms, b, b) and of tr K (terms,)."""
    size = _circle_size(terms)
    sums = np.array([zero_sum_matrices(examples.matrices(s, 1)[0][0, 0]) for s in taylor.circle(radius, size).tolist()])
    matrices = taylor.coefficients(sums, radius, size, keep=terms)
    own = np.einsum("tkk->t", matrices)
    return (factor**2 * matrices if np.ndim(factor) == 0 else factor.T @ matrices @ factor), own


def _circle_size(terms: int) -> int:
    return 2 * math.ceil(terms / 2) + 4


def _series(matrices: Floats, weight: float, radius: float, count: int) -> tuple[Floats, Floats, float] | None:
    """Spikes, the power series of what they leave of the means' slope and its radius; None if they prove nothing.

    The rest has no negative powers if all spikes are right. Others than these are beyond, at a larger |s|, and ask
    for a smaller circle and more terms.
    """
    terms = len(matrices)
    spikes, vectors = _spikes(matrices, weight, radius)
    if spikes.size < count:
        radius *= SHARE
        terms = max(terms, math.ceil(math.log(PRECISION) / math.log(SHARE)))
    size = _circle_size(terms)
    nodes = taylor.circle(radius, size)
    slopes = np.array([_slope(matrices, s, weight) for s in nodes.tolist()])
    for _ in range(ATTEMPTS):
        rest = slopes - np.sum(spikes / (1 + nodes[:, None] / weight * spikes), axis=1)
        coefficients = np.fft.hfft(rest, n=size) / size
        if np.all(np.abs(coefficients[-3:]) < WRONG * np.sum(spikes)):
            return spikes, coefficients[:terms] * radius ** -np.arange(float(terms)), radius
        spikes, vectors = _polished(matrices, weight, spikes, vectors)
    return None


def _matrix(matrices: Floats, s: complex | float) -> Any:
    """F^T K(s) F of its Taylor coefficients."""
    return np.tensordot(np.asarray(s) ** np.arange(len(matrices)), matrices, 1)


def _derivative(matrices: Floats, s: complex | float) -> Any:
    exponents = np.arange(1, len(matrices))
    return np.tensordot(exponents * np.asarray(s) ** (exponents - 1), matrices[1:], 1)


def _slope(matrices: Floats, s: complex, weight: float) -> Any:
    """Derivative of log det(1 + m F^T K F) in m = s / weight."""
    matrix = _matrix(matrices, s)
    change = matrix + s * _derivative(matrices, s)
    return np.sum(np.linalg.inv(np.eye(len(matrix)) + s / weight * matrix) * change)


def _spikes(matrices: Floats, weight: float, radius: float) -> tuple[Floats, Floats]:
    """The u with an eigenvalue u of F^T K(-weight / u) F, weight / u <= radius, ascending, and eigenvectors.

    As u grows every sorted eigenvalue falls, so that each meets u once. They are followed in the space of a group's
    eigenvectors, and of some neighbours', at the s of its middle.
    """
    size = matrices.shape[1]
    found: list[float] = []
    rows: list[Floats] = []
    s = -radius
    u = float(eigh(_matrix(matrices, 0.0), eigvals_only=True, subset_by_index=[size - 1, size - 1])[0])
    for high in range(size - 1, -1, -GROUP):
        low = max(high - GROUP + 1, 0)
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
    least = weight / radius
    for _ in range(50):
        s = -weight / u
        values, vectors = np.linalg.eigh(_matrix(small, s))
        vector = vectors[:, index]
        step = _step(small, s, vector, u - float(values[index]), weight)
        if u == least and step > 0:
            return None
        if abs(step) <= 1e-13 * u:
            return u, vector
        u = max(u - step, least)
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
