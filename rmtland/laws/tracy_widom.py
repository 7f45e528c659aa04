"""The Tracy-Widom laws of the largest eigenvalue, from a table of Fredholm determinants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, integer
from rmtland.laws._law import Floats, Law, invert, points, too_large

_FILE = Path(__file__).parent / "data" / "tracy_widom.npz"
# Determinants know one variable s; beta = 4 has it in two scales.
_SCALES = {"tracy-widom": 2**0.5, "matrix": 2 ** (2 / 3)}


@dataclass(frozen=True)
class TracyWidom(Law):
    """Limit law of the largest eigenvalue of a random matrix at a soft edge, centred and scaled.

    For beta = 1 and 2 it is the law of (lambda_max - 2 sqrt(n)) n^(1/6) as n grows, lambda_max the largest eigenvalue
    of the n x n Gaussian ensemble with off-diagonal E abs(entry)^2 = 1 (semicircle of radius 2 sqrt(n)); for beta = 4
    in the convention "matrix" too.

    Parameters
    ----------
    beta : {1, 2, 4}
        Dyson index: real, complex or quaternion matrices.
    convention : {"tracy-widom", "matrix"}
        Scale for beta = 4; both are the same for beta = 1 and 2. "tracy-widom" is that of Tracy and Widom (1996), mean
        -2.30688 and variance 0.51772. "matrix" is 2^(1/6) narrower, mean -2.05520 and variance 0.41092: the one that
        quaternion matrices follow in the formula above.

    Raises
    ------
    ValueError
        If `beta` or `convention` is not one of these.

    Notes
    -----
    The limit n -> infinity. At finite n the distribution is off by O(n^(-2/3)) for beta = 2, and so it is for beta = 1
    once n is replaced by n - 1/2 in the centring (Johnstone and Ma 2012), else by O(n^(-1/3)).

    Values come from determinants computed ahead at 130 digits (``tools/tabulate_tracy_widom.py``), as pieces of
    log cdf and log sf, continued by their asymptotic series to both infinities: absolute errors below 1e-14, relative
    errors of cdf, sf and pdf below 1e-12 as far as these are above 1e-300; `logcdf` and `logsf` go on.

    References
    ----------
    Tracy and Widom (1996), On orthogonal and symplectic matrix ensembles, Comm. Math. Phys. 177, eqs. (52)-(54).
    Ferrari and Spohn (2005), A determinantal formula for the GOE Tracy-Widom distribution, J. Phys. A 38, eq. (2).
    Bornemann (2010), On the numerical evaluation of distributions in random matrix theory, Markov Proc. 16, section 6.
    Baik, Buckingham and DiFranco (2008), Asymptotics of Tracy-Widom distributions, Comm. Math. Phys. 280, theorem 1.

    Examples
    --------
    >>> import rmtland as rl
    >>> law = rl.TracyWidom(beta=1)
    >>> print(f"{law.mean():.10f} {law.var():.10f} {law.ppf(0.95):.6f} {law.logsf(50.0):.6f}")
    -1.2065335746 1.6077810346 0.979316 -240.597340
    """

    beta: int = 1
    convention: str = "tracy-widom"

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", choice("beta", integer("beta", self.beta), (1, 2, 4)))
        choice("convention", self.convention, tuple(_SCALES))

    @property
    def support(self) -> tuple[float, float]:
        """The real line."""
        return -np.inf, np.inf

    def logcdf(self, x: npt.ArrayLike) -> Any:
        """Logarithm of `cdf`, also where that underflows; takes and returns what `cdf` does."""
        return self._logarithm(points("x", x), left=True)

    def logsf(self, x: npt.ArrayLike) -> Any:
        """Logarithm of `sf`, also where that underflows; takes and returns what `sf` does."""
        return self._logarithm(points("x", x), left=False)

    def moment(self, k: int) -> float:
        """E x^k.

        Parameters
        ----------
        k : int, >= 0

        Returns
        -------
        float

        Raises
        ------
        OverflowError
            Where that is beyond float64.
        """
        k = integer("k", k, at_least=0)
        grid, weights = self._table.quadrature
        some = weights > 0
        with np.errstate(over="ignore"):
            moment = float(weights[some] @ (grid[some] / self._scale) ** k)
        if not np.isfinite(moment):
            raise too_large(k)
        return moment

    def var(self) -> float:
        """Variance of x."""
        return self._central(2)

    def skewness(self) -> float:
        """Third central moment over the 3/2 power of the variance."""
        return float(self._central(3) / self.var() ** 1.5)

    def kurtosis(self) -> float:
        """Excess kurtosis, 0 for a Gaussian: fourth central moment over the squared variance, less 3."""
        return self._central(4) / self.var() ** 2 - 3

    def _central(self, k: int) -> float:
        grid, weights = self._table.quadrature
        return float(weights @ (grid / self._scale - self.moment(1)) ** k)

    @property
    def _scale(self) -> float:
        return _SCALES[self.convention] if self.beta == 4 else 1.0

    @property
    def _table(self) -> _Table:
        return _table(self.beta)

    def _logarithm(self, x: Floats, left: bool) -> Any:
        s = self._variable(x.reshape(-1))
        value = self._table.log_mass(s)
        with np.errstate(under="ignore"):
            other = np.log1p(-np.exp(value))
        return np.where(self._table.is_left(s) == left, value, other).reshape(x.shape)[()]

    def _variable(self, x: Floats) -> Floats:
        """The variable of the determinants."""
        with np.errstate(over="ignore"):
            return x * self._scale

    def _masses(self, x: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        s = self._variable(x)
        with np.errstate(under="ignore"):
            return np.exp(self._table.log_mass(s)), self._table.is_left(s)

    def _pdf(self, x: Floats) -> Floats:
        value, slope = self._table.log_mass_and_slope(self._variable(x))
        with np.errstate(under="ignore", invalid="ignore"):
            mass = np.exp(value)
            # Where the mass underflows the slope may be infinite: 0 * infinity.
            return np.where(mass == 0, 0.0, mass * np.abs(slope) * self._scale)

    def _cdf(self, x: Floats) -> Floats:
        mass, left = self._masses(x)
        return np.where(left, mass, 1 - mass)

    def _sf(self, x: Floats) -> Floats:
        mass, left = self._masses(x)
        return np.where(left, 1 - mass, mass)

    def _ppf(self, q: Floats) -> Floats:
        return self._table.quantiles(q, 1 - q) / self._scale

    def _isf(self, q: Floats) -> Floats:
        return self._table.quantiles(1 - q, q) / self._scale


_Tails = tuple[tuple[Callable[[Floats], tuple[Floats, Floats]], npt.NDArray[np.bool_]], ...]


class _Table:
    """Log cdf left of `split` and log sf right of it, in the variable s of the determinants."""

    def __init__(self, beta: int) -> None:
        with np.load(_FILE) as data:
            self.beta = beta
            self.low, self.high, self.density = (float(data[k]) for k in ("left", "right", "pieces_per_unit"))
            # Points are told apart by their place on the table, so that rounding cannot part a point from its piece.
            self.first_right = (float(data[f"split_{beta}"]) - self.low) * self.density
            self.rate, self.power = float(data[f"rate_{beta}"]), float(data[f"power_{beta}"])
            self.left_series = data["minus"], data["plus"]
            self.right_series = _powers(data[f"right_{beta}"][None])[:, 0]
            # Powers of the place within a piece, highest first; one empty piece for s = high and above.
            pieces = _powers(data[f"centre_{beta}"])[::-1]
            self.pieces = np.append(pieces, np.zeros((len(pieces), 1)), axis=1)

    def _position(self, s: Floats) -> Floats:
        """Distance from the left end of the table in pieces. All that tells points apart goes by it."""
        with np.errstate(over="ignore"):
            return (s - self.low) * self.density

    def is_left(self, s: Floats) -> npt.NDArray[np.bool_]:
        """Where `log_mass` is log cdf."""
        return np.asarray(self._position(s) < self.first_right)

    def _place(self, s: Floats) -> tuple[npt.NDArray[np.intp], Floats, _Tails]:
        """Piece and place within it, from -1 to 1, and where the tails go on; NaN is a place in the first piece."""
        position, count = self._position(s), self.pieces.shape[1] - 1
        tails = (self._left_tail, position < 0), (self._right_tail, position >= count)
        np.maximum(position, 0, out=position)
        np.minimum(position, count, out=position)
        piece = np.fmax(position, 0).astype(np.intp)
        position -= piece
        position *= 2
        position -= 1
        return piece, position, tails

    def log_mass(self, s: Floats) -> Floats:
        """Log cdf or log sf at s of one dimension."""
        piece, place, tails = self._place(s)
        value: Floats = self.pieces[0].take(piece)
        for coefficients in self.pieces[1:]:
            value *= place
            value += coefficients.take(piece)
        for tail, outside in tails:
            if outside.any():
                value[outside] = tail(s[outside])[0]
        return value

    def log_mass_and_slope(self, s: Floats) -> tuple[Floats, Floats]:
        """Log cdf or log sf at s of one dimension, and its derivative."""
        piece, place, tails = self._place(s)
        value, slope = self.pieces[0].take(piece), np.zeros(s.shape)
        for coefficients in self.pieces[1:]:
            slope = slope * place + value
            value = value * place + coefficients.take(piece)
        slope *= 2 * self.density
        for tail, outside in tails:
            if outside.any():
                value[outside], slope[outside] = tail(s[outside])
        return value, slope

    def _left_tail(self, s: Floats) -> tuple[Floats, Floats]:
        """Log cdf and its slope below the table, from the series of both determinants."""
        x = -s
        with np.errstate(over="ignore"):
            root, power = np.sqrt(x), x**1.5
        logs, slopes = [], []
        for sign, series in zip((-1, 1), self.left_series, strict=True):
            tail, bend = _horner(series, 1 / power)
            with np.errstate(over="ignore"):
                logs.append(power * (sign / 18**0.5 - power / 24) - np.log(x) / 16 + tail)
                slopes.append(root * (power / 8 - sign / 8**0.5) + 1 / (16 * x) + 1.5 / (power * x) * bend)
        if self.beta == 1:
            return logs[0], slopes[0]
        if self.beta == 2:
            return logs[0] + logs[1], slopes[0] + slopes[1]
        # F4 = (D- + D+) / 2; the share of D- is not yet nothing where the table ends.
        with np.errstate(under="ignore"):
            share = np.exp(-(2**0.5) / 3 * power + _horner(self.left_series[0] - self.left_series[1], 1 / power)[0])
            more = np.minimum(root, 1e100) * share / (2**0.5 * (1 + share))
            return logs[1] + np.log1p(share) - np.log(2), slopes[1] + more

    def _right_tail(self, s: Floats) -> tuple[Floats, Floats]:
        """Log sf and its slope above the table."""
        with np.errstate(over="ignore"):
            root, power = np.sqrt(s), s**1.5
            place = 2 * self.high**1.5 / power - 1
            tail, bend = _horner(self.right_series, place)
            value = -self.rate * power - self.power * np.log(s) + tail
            slope = -1.5 * self.rate * root - self.power / s - 1.5 * (place + 1) / s * bend
        return value, slope

    def quantiles(self, below: Floats, above: Floats) -> Floats:
        """The s with mass `below` below it and `above` above it, of which the smaller counts."""
        grid, left_logs, right_logs = self._start
        result = np.where(below == 0, -np.inf, np.where(above == 0, np.inf, np.nan))
        solve = (below > 0) & (above > 0)
        left = below[solve] <= np.exp(left_logs[-1])
        goal = np.log(np.where(left, below[solve], above[solve]))
        sign = np.where(left, 1.0, -1.0)  # log cdf rises, log sf falls
        size = left_logs.size
        ends = np.where(left, grid[0], grid[size]), np.where(left, grid[size - 1], grid[-1])
        start = np.where(
            left,
            np.interp(goal, left_logs, grid[:size]),
            np.interp(-goal, right_logs, grid[size:]),
        )

        def function(s: Floats, sign: Floats) -> tuple[Floats, Floats]:
            value, slope = self.log_mass_and_slope(s)
            return sign * value, sign * slope

        result[solve] = invert(function, sign * goal, *ends, start, (sign,), settled=1e-9)
        return result

    @cached_property
    def _start(self) -> tuple[Floats, Floats, Floats]:
        """Points from one end of the float range of masses to the other, log cdf at the left, -log sf at the right."""
        split = self.low + self.first_right / self.density
        last = self.low + np.nextafter(self.first_right, 0) / self.density
        left, right = np.append(np.arange(-30, split, 1 / 16), last), np.arange(split, 120, 1 / 16)
        return np.append(left, right), self.log_mass(left), -self.log_mass(right)

    @cached_property
    def quadrature(self) -> tuple[Floats, Floats]:
        """Points and weights of expectations: the trapezoidal rule, exact to rounding for a smooth density."""
        step = 1 / 16
        grid = np.arange(-30, 120, step)
        value, slope = self.log_mass_and_slope(grid)
        with np.errstate(under="ignore"):
            return grid, step * np.exp(value) * np.abs(slope)


@cache
def _table(beta: int) -> _Table:
    return _Table(beta)


def _powers(chebyshev: Floats) -> Floats:
    """Rows of Chebyshev coefficients as columns of coefficients of powers, lowest first."""
    order = chebyshev.shape[1]
    change = np.zeros((order, order))
    for k, unit in enumerate(np.eye(order)):
        powers = np.polynomial.chebyshev.cheb2poly(unit[: k + 1])
        change[: powers.size, k] = powers
    return np.asarray(change @ chebyshev.T)


def _horner(coefficients: Floats, u: Floats) -> tuple[Floats, Floats]:
    """Polynomial with coefficients from the lowest, and its derivative, at u."""
    value, slope = np.full(u.shape, coefficients[-1]), np.zeros(u.shape)
    for c in coefficients[-2::-1]:
        slope = slope * u + value
        value = value * u + c
    return value, slope
