"""When an estimate agrees with a reference: within its error and its derived bias, and only if it could have failed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import curve_fit
from scipy.special import stdtrit

ALPHA = 1e-6
"""Chance that one number of a true claim is rejected. A run looks at a few hundred numbers."""

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"


@dataclasses.dataclass(frozen=True)
class Check:
    """Estimates beside their references, and what follows.

    Parameters
    ----------
    name : str
        What is compared, in a few words.
    estimate, standard_error, expected : array_like
        Numbers of one shape; a standard error of 0 is an exact number.
    bias : array_like
        By how much the expectation of the estimate may be off, derived.
    detect : array_like
        The smallest deviation that matters. What allows more than half of it proves nothing: inconclusive.
    sizes : array_like, optional
        Matrix size of each row of the estimates, or a row of numbers for each.
    note : str
        Where the bias comes from, or what `detect` is.
    draws : array_like
        How many independent draws each standard error was estimated from, >= 2: the fewer, the more it may be too small
        itself. Infinite (the default) where it is known, or there are so many that it does not matter (500: 1%).
    """

    name: str
    estimate: Any
    standard_error: Any
    expected: Any
    bias: Any = 0.0
    detect: Any = np.inf
    sizes: Any = None
    note: str = ""
    draws: Any = np.inf

    def __post_init__(self) -> None:
        shape = np.shape(self.estimate)
        for field in ("estimate", "standard_error", "expected", "bias", "detect", "draws"):
            value = np.broadcast_to(np.asarray(getattr(self, field), dtype=np.float64), shape)
            object.__setattr__(self, field, value)
        if not np.all(self.draws >= 2):
            raise ValueError(f"`draws` of check {self.name!r} must be >= 2; got {np.min(self.draws):g}")
        if self.sizes is not None and np.shape(self.sizes)[:1] != shape[:1]:
            raise ValueError(
                f"`sizes` of check {self.name!r} must have a row for each of the estimates; got shape "
                f"{np.shape(self.sizes)} for {shape}"
            )

    @property
    def error(self) -> npt.NDArray[np.float64]:
        """Estimate less reference."""
        return self.estimate - self.expected

    @property
    def allowed(self) -> npt.NDArray[np.float64]:
        """The largest error that passes, z SE + bias with z the two-sided quantile of Student's law at `ALPHA`."""
        return -stdtrit(self.draws - 1, ALPHA / 2) * self.standard_error + self.bias

    @property
    def verdict(self) -> str:
        """Fail, if any number is off by more than allowed; inconclusive, if any could not have failed; else pass."""
        # Written so that NaN fails.
        if not np.all(np.abs(self.error) <= self.allowed):
            return FAIL
        return PASS if np.all(self.allowed <= self.detect / 2) else INCONCLUSIVE

    @property
    def summary(self) -> str:
        """The row that came nearest to failing, in one line."""
        with np.errstate(divide="ignore", invalid="ignore"):
            used = np.where(self.error == 0, 0.0, np.abs(self.error) / self.allowed)
        worst = int(np.argmax(np.where(np.isnan(used), np.inf, used)))
        estimate, expected, allowed = (np.ravel(v)[worst] for v in (self.estimate, self.expected, self.allowed))
        many = f"worst of {self.estimate.size}: " if self.estimate.size > 1 else ""
        return f"{many}{estimate:.5g} against {expected:.5g}, allowed {allowed:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, as lists and strings."""
        names = ("estimate", "standard_error", "expected", "bias", "detect", "error", "allowed", "draws")
        numbers = {name: getattr(self, name).tolist() for name in names}
        sizes = None if self.sizes is None else np.asarray(self.sizes).tolist()
        return {"name": self.name, "verdict": self.verdict, "summary": self.summary, "sizes": sizes, **numbers,
                "note": self.note}  # fmt: skip


def means(
    name: str, samples: Any, expected: Any, *, bias: Any = 0.0, detect: Any, sizes: Any = None, note: str = ""
) -> Check:
    """Check means over independent draws.

    Parameters
    ----------
    name : str
        What is compared.
    samples : sequence of array_like, each of shape (draws,) or (draws, k)
        Draws of each size.
    expected, bias, detect : array_like
        Of the means, one row per size.
    sizes, note
        As in `Check`.

    Returns
    -------
    Check
    """
    arrays = [np.asarray(s, dtype=np.float64) for s in samples]
    if min(map(len, arrays)) < 2:
        raise ValueError(f"means of check {name!r} need at least 2 draws each; got {min(map(len, arrays))}")
    estimate = np.array([s.mean(axis=0) for s in arrays])
    error = np.array([s.std(axis=0, ddof=1) / np.sqrt(len(s)) for s in arrays])
    draws = np.array([len(s) for s in arrays], dtype=np.float64).reshape(-1, *[1] * (estimate.ndim - 1))
    return Check(name, estimate, error, expected, bias, detect, sizes, note, draws)


def exact(
    name: str, estimate: Any, expected: Any, *, tolerance: float = 0.0, sizes: Any = None, note: str = ""
) -> Check:
    """Check numbers without chance, such as counts, up to rounding."""
    return Check(name, np.asarray(estimate, dtype=np.float64), 0.0, expected, tolerance, np.inf, sizes, note)


def rate(
    name: str,
    sizes: Any,
    errors: Any,
    standard_errors: Any,
    exponent: float,
    *,
    detect: float,
    bias: float = 0.0,
    draws: float = np.inf,
) -> Check:
    """Check that errors fall like sizes^-exponent: weighted least squares of c sizes^-exponent, c and exponent free.

    Parameters
    ----------
    name : str
        Whose error.
    sizes, errors, standard_errors : array_like, shape (k,)
        k >= 3 sizes; the errors with their sign.
    exponent : float
        The claim.
    detect : float
        The smallest error of the exponent that matters: half the way to the next exponent that would be a theorem.
    bias : float
        By how much terms of higher order may move the exponent at these sizes.
    draws : float
        Behind each standard error, the fewest.

    Returns
    -------
    Check
        The fitted exponent against the claimed one.
    """
    sizes, errors, deviations = (np.asarray(v, dtype=np.float64) for v in (sizes, errors, standard_errors))
    if sizes.size < 3:
        raise ValueError(f"a rate needs at least 3 sizes; got {sizes.size}")
    middle = float(np.exp(np.log(sizes).mean()))
    start = [float(np.average(errors * (sizes / middle) ** exponent, weights=deviations**-2)), exponent]
    try:
        (_, fitted), covariance = curve_fit(
            lambda n, c, r: c * (n / middle) ** -r, sizes, errors, start, deviations, absolute_sigma=True
        )
    except RuntimeError:
        # No optimum: the errors know no exponent.
        fitted, covariance = exponent, np.full((2, 2), np.inf)
    return Check(name, fitted, np.sqrt(covariance[1, 1]), exponent, bias, detect, None, "fitted exponent", draws)


def limit(
    name: str, sizes: Any, estimates: Any, standard_errors: Any, expected: float, *, powers: tuple[float, ...],
    detect: float, bias: float = 0.0, draws: float = np.inf,
) -> Check:  # fmt: skip
    """Check a limit of which only the order of the finite-size error is known, by extrapolation.

    Parameters
    ----------
    name : str
        What is compared.
    sizes, estimates, standard_errors : array_like, shape (k,)
        More sizes than powers.
    expected : float
        The limit claimed.
    powers : tuple of float
        Exponents r of the finite-size terms sizes^-r that are fitted along.
    detect, bias : float
        Of the limit. To the bias is added what terms beyond `powers` seem to contribute: twice what the limit changes
        when the smallest size is left out, beyond the standard error of that change. Terms of higher order at least
        halve as the smallest size doubles, so that twice the change bounds them; it is 0 where noise hides them.
    draws : float
        Behind each standard error, the fewest.

    Returns
    -------
    Check
        The extrapolated limit against the claimed one.
    """
    sizes, estimates, deviations = (np.asarray(v, dtype=np.float64) for v in (sizes, estimates, standard_errors))
    if sizes.size <= len(powers):
        raise ValueError(f"{len(powers)} powers need more sizes than that; got {sizes.size}")

    def fit(rows: slice) -> tuple[float, float]:
        design = np.column_stack([np.ones_like(sizes), *(sizes**-r for r in powers)])[rows] / deviations[rows, None]
        covariance = np.linalg.inv(design.T @ design)
        return float((covariance @ (design.T @ (estimates / deviations)[rows]))[0]), float(covariance[0, 0])

    found, variance = fit(slice(None))
    if sizes.size - 1 > len(powers):
        # Sizes ascend. The variance of the change is the difference of variances, as one fit uses part of the other.
        fewer, more_variance = fit(slice(1, None))
        change = abs(fewer - found) - np.sqrt(max(more_variance - variance, 0.0))
        bias += 2 * max(float(change), 0.0)
    return Check(name, found, np.sqrt(variance), expected, bias, detect, None, "extrapolated limit", draws)
