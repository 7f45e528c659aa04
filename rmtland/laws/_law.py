"""What the limit laws share: how points come in and go out, and the one inverse of a distribution function."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator, shape

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]

_EPS = float(np.finfo(np.float64).eps)
_SQRT_EPS = _EPS**0.5

EXACT_ORDER, EXACT_LOG = 100, 300.0
"""Of moments by products: up to this order, and where no factor has a logarithm beyond; else by logarithms, which lose
a digit or three."""


def moment_of_log(k: int, log_moment: float) -> float:
    """E x^k, given its logarithm."""
    if log_moment > math.log(np.finfo(np.float64).max):
        raise too_large(k)
    return math.exp(log_moment)


def too_large(k: int) -> OverflowError:
    """The error for a moment beyond float64."""
    return OverflowError(f"`k` must leave E x^k within the range of float64; got {k}")


def as_array(name: str, value: Any) -> npt.NDArray[Any]:
    """`value` as an array of whatever kind."""
    try:
        return np.asarray(value)
    except ValueError:
        raise TypeError(f"`{name}` must be an array of numbers; got a ragged {type(value).__name__}") from None


def points(name: str, value: Any) -> Floats:
    """`value` as a float64 array of its own shape; NaN and infinities stay, as these are where one evaluates."""
    array = as_array(name, value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"`{name}` must be real numbers; got {array.dtype} from {type(value).__name__}")
    return array.astype(np.float64, copy=False)


def probabilities(name: str, value: Any) -> Floats:
    """`value` as a float64 array within [0, 1]; NaN stays."""
    array = points(name, value)
    outside = (array < 0) | (array > 1)
    if outside.any():
        raise ValueError(f"`{name}` must be >= 0 and <= 1; got {array[outside].flat[0]}")
    return array


def invert(
    function: Callable[..., tuple[Floats, Floats]],
    target: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    start: npt.ArrayLike | None = None,
    args: tuple[Any, ...] = (),
    settled: float = _EPS,
) -> Floats:
    """Solve function(x) = target between `low` and `high` for increasing functions, many points at once.

    Newton's method where it stays within the bracket and at least halves its step, bisection elsewhere, so that it
    ends for any increasing function, at rounding error of `x` or of the value, whichever comes first.

    Parameters
    ----------
    function : callable
        ``function(x, *args)`` returns the value and the slope at x, both of x's shape. The slope may be 0 or infinite.
    target : array_like, shape (m,)
        Values to reach, function(low) <= target <= function(high).
    low, high : array_like, shape (m,) or scalar
        Finite bracket of each solution.
    start : array_like, shape (m,), optional
        First guess; the middle of the bracket by default.
    args : tuple of ndarray, each of shape (m,), or of scalars
        What else `function` needs to know; arrays shrink with x as points are finished.
    settled : float
        A Newton step below this times abs(x) is taken to be the last. By default that is rounding error; larger where
        Newton's quadratic convergence is known to have set in by then.

    Returns
    -------
    ndarray of float64, shape (m,)
        The solutions; NaN where target, start or args are NaN.
    """
    goal = np.asarray(target, dtype=np.float64)
    lower, upper = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    first = 0.5 * (lower + upper) if start is None else np.minimum(np.maximum(start, lower), upper)
    x: Floats = np.array(np.broadcast_to(first, goal.shape)) if first.shape != goal.shape else first
    # Bounds, widths and steps may be scalars until they differ between points: most calls end before.
    last = width = upper - lower
    newton = np.zeros((), dtype=bool)
    solution, left = x, np.arange(goal.size)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        while left.size:
            value, slope = function(x, *args)
            error = goal - value
            step = error / slope
            new = x + step
            if np.all((np.abs(step) <= settled * np.abs(x)) & (new >= lower) & (new <= upper)):
                return _put(solution, left, new)
            lower, upper = np.where(error >= 0, x, lower), np.where(error <= 0, x, upper)
            # Written so that NaN, from 0/0, counts as a bad step.
            halves = 2 * np.abs(step) <= last
            # Newton steps that were small and shrink no further are noise of the function: done.
            noise = newton & ~halves & ((last <= _SQRT_EPS * np.abs(x)) | (last <= 8 * _EPS * width))
            before, newton = newton, halves & (new >= lower) & (new <= upper)
            new = np.where(newton, new, 0.5 * (lower + upper))
            new = np.where(noise | (error == 0), x, new)
            new[np.isnan(error)] = np.nan
            # Two Newton steps foretell the third, step (step / last)^2, if they converge quadratically, and come
            # within a small factor of it if they converge linearly, as at an edge.
            sure = before & newton & (np.abs(step) ** 3 <= _EPS * np.abs(x) * last**2)
            last = np.abs(new - x)
            solution = _put(solution, left, new)
            sure |= newton & (last <= settled * np.abs(x))
            going = ~sure & (last > _EPS * np.abs(x)) & (np.abs(error) > _EPS * np.abs(goal))
            left, x, goal, last, newton = left[going], new[going], goal[going], last[going], newton[going]
            lower, upper, width, *rest = (a[going] if np.ndim(a) else a for a in (lower, upper, width, *args))
            args = tuple(rest)
    return solution


def _put(solution: Floats, where: npt.NDArray[np.intp], values: Floats) -> Floats:
    """`solution` with `values` at the places `where`."""
    if where.size == solution.size:
        return values
    solution[where] = values
    return solution


class Law(abc.ABC):
    """A law on the real line: public methods here, formulas in the private methods of each law.

    The private methods `_pdf`, `_cdf`, `_sf`, `_ppf` and `_isf` get a float64 array of one dimension that may hold NaN
    and infinities (probabilities: NaN) and return one of the same shape, NaN at NaN and the limits at the infinities.
    """

    @property
    @abc.abstractmethod
    def support(self) -> Any:
        """Where the density lives; an atom at 0 is not counted."""

    @property
    def atom(self) -> float:
        """Mass of the point 0."""
        return 0.0

    def pdf(self, x: npt.ArrayLike) -> Any:
        """Density of the continuous part at x.

        Parameters
        ----------
        x : array_like
            Points on the real line.

        Returns
        -------
        float64 or ndarray of float64, shape of x
            0 off the support; an atom does not show.
        """
        return _apply(self._pdf, points("x", x))

    def cdf(self, x: npt.ArrayLike) -> Any:
        """Probability of (-infinity, x], atoms included; takes and returns what `pdf` does."""
        return _apply(self._cdf, points("x", x))

    def sf(self, x: npt.ArrayLike) -> Any:
        """Probability of (x, infinity), accurate where it is small; takes and returns what `pdf` does."""
        return _apply(self._sf, points("x", x))

    def ppf(self, q: npt.ArrayLike) -> Any:
        """Quantiles: the smallest x with cdf(x) >= q.

        Parameters
        ----------
        q : array_like
            Probabilities in [0, 1]; 0 gives the lower end of the law, 1 the upper.

        Returns
        -------
        float64 or ndarray of float64, shape of q

        Raises
        ------
        ValueError
            If a probability is outside [0, 1].
        """
        return _apply(self._ppf, probabilities("q", q))

    def isf(self, q: npt.ArrayLike) -> Any:
        """Inverse of `sf`, accurate where q is small; takes and returns what `ppf` does."""
        return _apply(self._isf, probabilities("q", q))

    @abc.abstractmethod
    def moment(self, k: int) -> float:
        """E x^k, for integer k >= 0."""

    def mean(self) -> float:
        """E x."""
        return self.moment(1)

    @abc.abstractmethod
    def var(self) -> float:
        """Variance of x."""

    def std(self) -> float:
        """Standard deviation of x."""
        return float(np.sqrt(self.var()))

    def rvs(self, size: int | tuple[int, ...] | None = None, rng: Seed = None) -> Any:
        """Independent draws.

        Parameters
        ----------
        size : int or tuple of int, optional
            Shape of the result; one number by default.
        rng : optional
            Anything `numpy.random.default_rng` takes.

        Returns
        -------
        float64 or ndarray of float64, shape `size`
        """
        # A uniform of exactly 0 has probability 2^-53 and would be an infinite draw where the support is unbounded.
        return self.ppf(np.maximum(generator(rng).random(shape("size", size)), 2.0**-54))

    @abc.abstractmethod
    def _pdf(self, x: Floats) -> Floats: ...

    @abc.abstractmethod
    def _cdf(self, x: Floats) -> Floats: ...

    def _sf(self, x: Floats) -> Floats:
        return 1 - self._cdf(x)

    @abc.abstractmethod
    def _ppf(self, q: Floats) -> Floats: ...

    def _isf(self, q: Floats) -> Floats:
        return self._ppf(1 - q)


def _apply(function: Callable[[Floats], Floats], array: Floats) -> Any:
    """`function` of the flattened array in the shape of the array, a NumPy scalar for a scalar."""
    return function(array.reshape(-1)).reshape(array.shape)[()]
