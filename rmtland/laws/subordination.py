"""Laws whose Stieltjes transform m solves z(u) = u + Psi'(m) / D at m = -1/u: Psi as a sum of levels.

For G = X^T T X, X of independent standard normal rows in R^D, Psi(m) = log det(1 + m D T): a generalised
Marchenko-Pastur law. An independent Wigner matrix of scale sigma takes D sigma^2 m^2 / 2 from it. A level is one
term of Psi: it gives its value and first two derivatives at any m, how many of its eigenvalues (of D T) are above
-1/m, roughly where they are, and what it adds to the quadratic form D a^T (1 + m D T)^(-1) a of a vector X^T a.

References
----------
Silverstein (1995); Biane (1997), section 3, for the subordination; Pastur (1972) for the Wigner term.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland.laws._law import Floats

Array = npt.NDArray[Any]
NOTHING = np.empty(0)


class Jet(tuple[Any, ...]):
    """A function of m at one point: (f, f', f''), or fewer where fewer were asked for; numbers or square matrices."""

    __slots__ = ()

    @property
    def value(self) -> Any:
        """F."""
        return self[0]

    @property
    def first(self) -> Any:
        """f'; NaN where it was not asked for."""
        return self[1] if len(self) > 1 else math.nan

    @property
    def second(self) -> Any:
        """f''; NaN where it was not asked for."""
        return self[2] if len(self) > 2 else math.nan

    def plus(self, other: Jet) -> Jet:
        """F + g, to the order that both have."""
        return Jet(one + two for one, two in zip(self, other, strict=False))

    def map(self, function: Callable[[Any], Any]) -> Jet:
        """A linear function of f."""
        return Jet(function(term) for term in self)

    def in_units(self, rate: float) -> Jet:
        """The same in m, of a function of s = rate m."""
        return Jet(term * rate**j for j, term in enumerate(self))

    def times_m(self, m: Any) -> Jet:
        """M f, by the product rule."""
        return Jet([m * self[0], *(j * self[j - 1] + m * self[j] for j in range(1, len(self)))])

    def __matmul__(self, other: Jet) -> Jet:
        """F g for matrices, by the product rule."""
        order = min(len(self), len(other))
        return Jet(
            sum(math.comb(j, i) * (self[i] @ other[j - i]) for i in range(1, j + 1)) + self[0] @ other[j]
            for j in range(order)
        )

    def inverse(self) -> Jet:
        """f^(-1) for matrices; not finite where f is singular."""
        inverse = inverted(self[0])
        terms = [inverse]
        for j in range(1, len(self)):
            # sum_i (j over i) f^(i) g^(j - i) = 0 of f g = 1
            rest = sum(math.comb(j, i) * (self[i] @ terms[j - i]) for i in range(1, j + 1))
            terms.append(-inverse @ rest)
        return Jet(terms)


def inverted(matrices: Array) -> Array:
    """Inverses; not finite where one of the matrices is singular, as 1/0 is for numbers."""
    try:
        inverse: Array = np.linalg.inv(matrices)
    except np.linalg.LinAlgError:
        inverse = np.full_like(matrices, np.nan)
    return inverse


def log_det(matrices: Jet, inverse: Array, copies: Floats, logs: bool) -> Jet:
    """Sum over the first axis, so many `copies` of each, of log det of matrices whose inverses are given.

    With `logs`, on the continuous branch for matrices whose eigenvalues all lie in the closed upper half plane; else
    the value is NaN.
    """
    terms: list[Any] = [math.nan]
    if logs:
        eigenvalues = np.linalg.eigvals(matrices[0])
        # Rounding may put a negative eigenvalue below the axis, where its logarithm would jump by 2 pi i.
        upper = eigenvalues.real + 1j * np.maximum(np.imag(eigenvalues), 0.0)
        terms = [complex(copies @ np.log(upper).sum(axis=-1))]
    if len(matrices) > 1:
        terms.append(copies @ _traces(inverse, matrices[1]))
    if len(matrices) > 2:
        step = inverse @ matrices[1]
        terms.append(copies @ (_traces(inverse, matrices[2]) - _traces(step, step)))
    return Jet(terms)


def _traces(one: Array, other: Array) -> Array:
    """Of products of matrices, (g,)."""
    traces: Array = np.sum(one * np.swapaxes(other, -1, -2), axis=(-1, -2))
    return traces


@dataclass(frozen=True, eq=False)
class Part:
    """What one level gives at one m.

    Attributes
    ----------
    psi : Jet
        Its term of Psi; the value is NaN unless logarithms were asked for.
    quadratic : number
        Its part of D a^T (1 + m D T)^(-1) a.
    passed : callable
        Returns what levels that stand on this one need.
    """

    psi: Jet
    quadratic: Any = 0.0
    passed: Callable[[], Any] | None = None


class Point:
    """One m and what is asked of the levels there; each is evaluated once, however many stand on it.

    Parameters
    ----------
    m : complex or float
        Im m >= 0.
    order : int
        Derivatives of Psi, 0 to 2.
    logs : bool
        Whether the value of Psi is needed.
    """

    def __init__(self, m: complex | float, order: int, logs: bool = False) -> None:
        self.m, self.order, self.logs = m, order, logs
        self._parts: dict[int, Part] = {}

    def part(self, level: Level) -> Part:
        """What the level gives here."""
        if id(level) not in self._parts:
            self._parts[id(level)] = level.at(self)
        return self._parts[id(level)]

    def passed(self, level: Level) -> Any:
        """What the level passes on to those that stand on it."""
        passed = self.part(level).passed
        return passed() if passed is not None else None


class Level:
    """One term of Psi; a subclass overrides what its term has. See `Subordination` for what is made of them."""

    exact = False
    """Whether `rough_atoms` are all there is to it."""
    rank: float = 0.0
    """Number of its eigenvalues of D T that are not 0."""
    variance: float = 0.0
    """sigma^2 of a Wigner matrix."""
    cost: float = 1.0
    """Entries of the matrix products of one evaluation."""

    def at(self, point: Point) -> Part:
        """Its term of Psi at one m, with as many derivatives as the point asks for."""
        raise NotImplementedError

    def count_above(self, point: Point) -> float:
        """Number of its eigenvalues above -1/m, m < 0: of negative ones of its pivot (Haynsworth's inertia)."""
        return 0.0

    def rough_atoms(self) -> tuple[Floats, Floats]:
        """Its eigenvalues, roughly, and how often each occurs."""
        return NOTHING, NOTHING


@dataclass(frozen=True, eq=False)
class Atoms(Level):
    """Psi = sum_i w_i log(1 + m t_i): eigenvalues that are known.

    Parameters
    ----------
    t, weights : ndarray (k,)
        Eigenvalues t >= 0 of D T and how often each occurs.
    amplitudes : ndarray (k,), optional
        D a^2 along each, summed over the copies.
    """

    t: Floats
    weights: Floats
    amplitudes: Floats | None = None
    exact = True

    @property
    def rank(self) -> float:  # type: ignore[override]
        """Number of positive ones."""
        return float(self.weights[self.t > 0].sum())

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Terms of the sums."""
        return float(self.t.size)

    def at(self, point: Point) -> Part:
        """The sums."""
        pivot = 1 + point.m * self.t
        share = self.t / pivot
        value = complex(self.weights @ np.log(pivot + 0j)) if point.logs else math.nan
        psi = Jet([value, self.weights @ share, -(self.weights @ share**2)][: point.order + 1])
        return Part(psi, 0.0 if self.amplitudes is None else np.sum(self.amplitudes / pivot))

    def count_above(self, point: Point) -> float:
        """Number above -1/m."""
        return float(self.weights[1 + point.m * self.t < 0].sum())

    def rough_atoms(self) -> tuple[Floats, Floats]:
        """They themselves."""
        return self.t, self.weights


@dataclass(frozen=True, eq=False)
class Semicircle(Level):
    """Psi = -D sigma^2 m^2 / 2: an independent Wigner matrix, which knows no direction.

    Parameters
    ----------
    sigma : float
        Its scale: its own eigenvalues fill [-2 sigma, 2 sigma].
    num_parameters : float
        D.
    """

    sigma: float
    num_parameters: float
    exact = True

    @property
    def variance(self) -> float:  # type: ignore[override]
        """sigma^2."""
        return self.sigma**2

    def at(self, point: Point) -> Part:
        """The square and its derivatives."""
        strength = self.num_parameters * self.sigma**2
        terms = [-0.5 * strength * point.m**2, -strength * point.m, -strength]
        return Part(Jet(terms[: point.order + 1]))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Psi with its derivatives, and the quadratic form, at one m."""

    psi: Jet
    quadratic: Any


@dataclass(frozen=True, eq=False)
class Subordination:
    """The equation z(u) = u + Psi'(-1/u) / D of a list of levels, and what follows from it alone.

    Parameters
    ----------
    levels : tuple of Level
    num_parameters : float
        D.
    """

    levels: tuple[Level, ...]
    num_parameters: float

    def evaluate(self, m: complex | float, order: int = 1, logs: bool = False) -> Evaluation:
        """Psi with so many derivatives (its value with `logs`) and D a^T (1 + m D T)^(-1) a; Im m >= 0."""
        point = Point(m, order, logs)
        parts = [point.part(level) for level in self.levels]
        psi = parts[0].psi
        for part in parts[1:]:
            psi = psi.plus(part.psi)
        return Evaluation(psi, sum(part.quadratic for part in parts))

    def map(self, u: complex | float, slope: bool = True) -> tuple[Any, Any]:
        """z(u) and, with `slope`, dz/du; not finite at an eigenvalue of D T."""
        m = -1 / u
        with np.errstate(all="ignore"):
            psi = self.evaluate(m, 2 if slope else 1).psi
            return u + psi.first / self.num_parameters, self._slope(m, psi)

    def _slope(self, m: complex | float, psi: Jet) -> Any:
        return 1 + m * m * psi.second / self.num_parameters

    def potential(self, u: complex, slope: bool = True) -> tuple[Any, Any, float]:
        """z(u), dz/du and the number of eigenvalues above z(u), for Im u > 0 with z(u) real."""
        m = -1 / u
        with np.errstate(all="ignore"):
            psi = self.evaluate(m, 2 if slope else 1, logs=True).psi
            # int D m dz = D log m + m Psi' - Psi, of imaginary part pi D right of the support.
            integral = self.num_parameters * (np.log(m) - 1j * np.pi) + m * psi.first - psi.value
            value = u + psi.first / self.num_parameters
        return value, self._slope(m, psi), -float(np.imag(integral)) / math.pi

    @cached_property
    def vector_square(self) -> float:
        """D |a|^2, the mean square of the vector X^T a."""
        return float(np.real(self.evaluate(0.0, 0).quadratic))

    def power_at(self, u: complex) -> Any:
        """The value m a^T (1 + m D T)^(-1) a / |a|^2; its imaginary part over pi is the vector's spectral density."""
        return -self.evaluate(-1 / u, 0).quadratic / u / self.vector_square

    def rates(self, u: complex) -> tuple[Any, Any]:
        """The same times dz/du, and D m dz/du, whose integral counts eigenvalues; of one evaluation."""
        m = -1 / u
        found = self.evaluate(m, 2)
        rate = m * self._slope(m, found.psi)
        return found.quadratic / self.vector_square * rate, self.num_parameters * rate

    @cached_property
    def power_sums(self) -> tuple[float, float]:
        """Traces of D T (exact) and of its square, where a Wigner matrix counts as D sigma^2."""
        psi = self.evaluate(0.0, 2).psi
        return float(np.real(psi.first)), -float(np.real(psi.second))

    @property
    def variance(self) -> float:
        """sigma^2 of all Wigner matrices together."""
        return sum(level.variance for level in self.levels)

    @cached_property
    def rank(self) -> float:
        """Number of nonzero eigenvalues of the matrix."""
        if self.variance > 0:
            return self.num_parameters
        return min(sum(level.rank for level in self.levels), self.num_parameters)

    @property
    def cost(self) -> float:
        """Entries of the matrix products of one evaluation."""
        return sum(level.cost for level in self.levels)

    def atoms_above(self, u: float) -> float:
        """Number of eigenvalues of D T above u > 0: exact, and of a given draw a whole number."""
        for _ in range(4):
            point = Point(-1 / u, 0)
            try:
                with np.errstate(all="ignore"):
                    return float(sum(level.count_above(point) for level in self.levels))
            except np.linalg.LinAlgError:  # u is an eigenvalue to the last digit
                u *= 1 + 4 * float(np.finfo(np.float64).eps)
        return math.nan

    @property
    def exact(self) -> bool:
        """Whether `plain` is the law itself."""
        return all(level.exact for level in self.levels)
