"""Power laws in the tail of a spectrum: maximum likelihood, goodness of fit, rivals, and a line in log-log axes."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.stats import linregress

from rmtland._arguments import Seed, choice, finite_array, integer, real, spawn
from rmtland._arrays import is_torch, to_numpy, told

Floats = npt.NDArray[np.float64]

RIVALS = ("lognormal", "exponential")

MAX_CANDIDATES = 500
"""Thresholds that the search for the start of the tail tries, at most."""

MIN_TAIL = 10
"""Eigenvalues that a tail holds at least: the distance of a few from any law is small by chance."""


@dataclass(frozen=True)
class PowerLawLine:
    """A line through log density against log eigenvalue: density = exp(log_prefactor) x^-exponent.

    Parameters
    ----------
    exponent, standard_error : float
        Minus the slope, and its error from the scatter about the line, which knows nothing of the errors of the points.
    log_prefactor : float
    r_squared : float
        Share of the variance of log density that the line explains; near 1 for many curves that are no power laws.
    xmin, xmax : float
        Ends of the points used.
    num_points : int
    """

    exponent: float
    standard_error: float
    log_prefactor: float
    r_squared: float
    xmin: float
    xmax: float
    num_points: int

    def density(self, x: npt.ArrayLike) -> Floats:
        """The line at x > 0."""
        return np.exp(self.log_prefactor - self.exponent * np.log(np.asarray(x, dtype=np.float64)))


@dataclass(frozen=True)
class Rival:
    """A power law against another law in the same tail, by the ratio of their likelihoods.

    Parameters
    ----------
    log_ratio : float
        Log-likelihood of the power law less that of the rival; below 0 the rival is the likelier one.
    normalized : float
        The same over its standard deviation.
    p_value : float
        Of a ratio so far from 0 if both were equally far from the truth (Vuong); above 0.1 the sign means nothing.
    parameters : dict
        "mu" and "sigma" of the logarithm of a lognormal, "rate" of an exponential; both cut off below `xmin`.
    """

    log_ratio: float
    normalized: float
    p_value: float
    parameters: dict[str, float]


@dataclass(frozen=True)
class PowerLawFit:
    """A power-law tail: density proportional to x^-exponent from `xmin` on.

    Parameters
    ----------
    exponent, standard_error : float
        By maximum likelihood; the error, (exponent - 1) / sqrt(num_tail), is that of independent values.
    xmin : float
        Where the tail begins.
    num_tail, num_values : int
        Eigenvalues in the tail, and positive ones in all.
    distance : float
        Kolmogorov-Smirnov distance of the tail from the law.
    p_value, p_value_error : float
        Share of bootstrap samples further from their own fit than the data, and its binomial error. Small: the tail is
        no power law. NaN without bootstrap.
    rivals : dict of str to Rival
        "lognormal" and "exponential".
    line : PowerLawLine or None
        Through the logarithmically binned density of the tail; None where fewer than three bins hold eigenvalues.
    sign : {"positive", "negative"}
    remarks : tuple of str
        What the package powerlaw warned of.
    """

    exponent: float
    standard_error: float
    xmin: float
    num_tail: int
    num_values: int
    distance: float
    p_value: float
    p_value_error: float
    rivals: dict[str, Rival]
    line: PowerLawLine | None
    sign: str
    remarks: tuple[str, ...]

    __repr__ = told


def fit_power_law(
    eigenvalues: Any,
    *,
    sign: str = "positive",
    xmin: float | None = None,
    num_bootstrap: int = 200,
    bins_per_decade: int = 10,
    rng: Seed = 0,
) -> PowerLawFit:
    """Fit a power law to the tail of a spectrum, say how well it fits, and set rivals beside it.

    Parameters
    ----------
    eigenvalues : array (n,), or a result with `eigenvalues`
        In any order; those of the other sign, and zeros, are left out.
    sign : {"positive", "negative"}
        Which tail; of negative eigenvalues the absolute values.
    xmin : float, optional
        Where the tail begins. By default where the law fits best in the Kolmogorov-Smirnov distance (Clauset et al.),
        among at most 500 eigenvalues, those in between tried on a grid even in the logarithm of the rank.
    num_bootstrap : int
        Bootstrap samples behind the p-value, 0 for none. Each costs one search for `xmin`: 2 ms for 1000 eigenvalues.
        The p-value is known to 0.5 / sqrt(num_bootstrap) at worst.
    bins_per_decade : int
        Of the density through which the line is drawn.
    rng : optional
        Of the resampling; anything `numpy.random.default_rng` takes.

    Returns
    -------
    PowerLawFit

    Raises
    ------
    ValueError
        For NaN, fewer than 10 eigenvalues of that sign (from `xmin` on), or a tail of one value.

    Notes
    -----
    The goodness of fit is a semi-parametric bootstrap: below `xmin` values are drawn from the data, from `xmin` on from
    the law fitted, and the whole fit is repeated. It takes values as independent. Eigenvalues of one matrix repel,
    their counts vary less than those of independent values, and so a p-value near 1 proves little; a small one stands.

    Exponents are those of the density. Papyan's plots of log spectra, and counts per logarithmic bin, have one less.

    References
    ----------
    Clauset, Shalizi and Newman (2009), Power-law distributions in empirical data, sections 3.1, 3.3, 4.1 and 5.1; Vuong
    (1989). Maximum likelihood and ratios by the package powerlaw (Alstott, Bullmore and Plenz 2014). The line: Papyan
    (2018), The full spectrum of deepnet Hessians at scale, fig. 4.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> eigenvalues = 2.0 * np.random.default_rng(0).pareto(1.5, 3000) + 2.0  # density x^-2.5 from 2 on
    >>> fit = rl.fit_power_law(eigenvalues, num_bootstrap=20, rng=1)
    >>> abs(fit.exponent - 2.5) < 3 * fit.standard_error, fit.p_value > 0.1
    (True, True)
    >>> fit.rivals["exponential"].log_ratio > 0
    True
    """
    choice("sign", sign, ("positive", "negative"))
    count = integer("num_bootstrap", num_bootstrap, at_least=0)
    integer("bins_per_decade", bins_per_decade, at_least=1)
    values = getattr(eigenvalues, "eigenvalues", eigenvalues)
    values = finite_array("eigenvalues", to_numpy(values) if is_torch(values) else values, ndim=1)
    values = np.sort(values[values > 0] if sign == "positive" else -values[values < 0])
    start = None if xmin is None else real("xmin", xmin, above=0)
    inside = values.size if start is None else int(np.count_nonzero(values >= start))
    if inside < MIN_TAIL:
        raise ValueError(
            f"`eigenvalues` must hold at least {MIN_TAIL} {sign} ones in the tail; got {inside} of {values.size}"
        )
    if values[-1] == values[-inside]:
        raise ValueError(f"`eigenvalues` must differ in the tail; got {inside} equal ones")
    # In units of the largest: logs of values near 1e-300 are as good as any, their powers are not.
    unit = float(values[-1])
    scaled, given = values / unit, None if start is None else start / unit
    place, exponent, distance = _search(scaled, given)
    first = scaled[place] if given is None else given
    children = spawn(rng, count, "num_bootstrap")
    beyond = sum(_replicate(scaled, place, first, exponent, given, child) >= distance for child in children)
    share = beyond / count if count else math.nan
    tail = values[place:]
    fitted, rivals, remarks = _likelihoods(tail / unit, first, unit)
    return PowerLawFit(
        exponent=fitted, standard_error=(fitted - 1) / math.sqrt(tail.size),
        xmin=float(values[place]) if start is None else start, num_tail=tail.size,
        num_values=values.size, distance=distance, p_value=share,
        p_value_error=math.sqrt(share * (1 - share) / count) if count else math.nan,
        rivals=rivals, line=_line_of_values(tail, values.size, bins_per_decade), sign=sign, remarks=remarks,
    )  # fmt: skip


def power_law_line(
    x: npt.ArrayLike, density: npt.ArrayLike, *, xmin: float | None = None, xmax: float | None = None
) -> PowerLawLine:
    """Papyan's line: least squares of log density against log eigenvalue.

    Parameters
    ----------
    x, density : array (n,)
        A density and where it is known; points where either is not positive are left out.
    xmin, xmax : float, optional
        The part to fit, both ends included.

    Returns
    -------
    PowerLawLine

    Raises
    ------
    ValueError
        For arrays of different lengths, NaN, or fewer than three points.

    Notes
    -----
    Quick, and what papers plot; but no estimate of known error. `fit_power_law` says whether there is a power law.

    References
    ----------
    Papyan (2018), The full spectrum of deepnet Hessians at scale, fig. 4. Against it: Clauset et al. (2009), app. A.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> x = np.geomspace(0.1, 10, 50)
    >>> line = rl.power_law_line(x, 3.0 * x**-2.2)
    >>> round(line.exponent, 6), round(line.r_squared, 6), line.density([1.0, 2.0]).round(6)
    (2.2, 1.0, array([3.      , 0.652913]))
    """
    points, heights = finite_array("x", x, ndim=1), finite_array("density", density, ndim=1)
    if points.size != heights.size:
        raise ValueError(f"`density` must have the {points.size} entries of `x`; got {heights.size}")
    keep = (points > 0) & (heights > 0)
    if xmin is not None:
        keep &= points >= real("xmin", xmin)
    if xmax is not None:
        keep &= points <= real("xmax", xmax)
    if np.unique(points[keep]).size < 3:
        raise ValueError(f"`x` must hold at least 3 points with a positive density; got {np.unique(points[keep]).size}")
    line = linregress(np.log(points[keep]), np.log(heights[keep]))
    return PowerLawLine(
        exponent=-float(line.slope), standard_error=float(line.stderr), log_prefactor=float(line.intercept),
        r_squared=float(line.rvalue) ** 2, xmin=float(points[keep].min()), xmax=float(points[keep].max()),
        num_points=int(keep.sum()),
    )  # fmt: skip


def _line_of_values(tail: Floats, count: int, bins_per_decade: int) -> PowerLawLine | None:
    """The line through the binned density of a tail; densities are of all `count` values, as the law's would be."""
    decades = math.log10(tail[-1] / tail[0])
    edges = np.geomspace(tail[0], tail[-1], max(2, math.ceil(decades * bins_per_decade)) + 1)
    edges[0], edges[-1] = tail[0], tail[-1]
    numbers, _ = np.histogram(tail, edges)
    if np.count_nonzero(numbers) < 3:
        return None
    return power_law_line(np.sqrt(edges[1:]) * np.sqrt(edges[:-1]), numbers / count / np.diff(edges))


def _search(values: Floats, start: float | None) -> tuple[int, float, float]:
    """Place of the tail's first value among ascending ones, exponent, and distance from the law."""
    if start is None:
        first = np.searchsorted(values, values)  # of equal values, the first
        ranks = np.arange(MIN_TAIL, values.size + 1)
        if ranks.size > MAX_CANDIDATES:
            ranks = np.unique(np.geomspace(MIN_TAIL, values.size, MAX_CANDIDATES).round().astype(np.int64))
        places = np.unique(first[values.size - ranks])
        places = places[values[places] < values[-1]]
        starts = values[places]
    else:
        places, starts = np.searchsorted(values, [start]), np.array([start])
    best, exponent, distance = _best_start(values, np.log(values), places, np.log(starts))
    return int(best), float(exponent), float(distance)


@njit(cache=True, error_model="numpy")
def _best_start(
    values: Floats, logs: Floats, places: npt.NDArray[np.int64], starts: Floats
) -> tuple[int, float, float]:
    """The place of least Kolmogorov-Smirnov distance, with exponent and distance there; `starts` are logs of xmin.

    The distance is that of the package powerlaw: the largest of |law - share of smaller ones| at the values.
    """
    size = values.size
    sums = np.empty(size + 1)  # of logs from each place on
    sums[size] = 0.0
    for i in range(size - 1, -1, -1):
        sums[i] = sums[i + 1] + logs[i]
    best, best_exponent, best_distance = -1, 0.0, np.inf
    for k in range(places.size):
        place, start = places[k], starts[k]
        count = size - place
        rate = count / (sums[place] - count * start)  # exponent - 1
        distance = 0.0
        # A coarse pass first: most places are ruled out by a few values.
        for step in (max(1, count // 64), 1):
            distance = 0.0
            i = place
            while i < size and distance < best_distance:
                j = i
                while j > place and values[j - 1] == values[j]:
                    j -= 1
                law = -np.expm1(-rate * (logs[i] - start))
                distance = max(distance, abs(law - (j - place) / count))
                i += step
            if distance >= best_distance:
                break
        if distance < best_distance:
            best, best_exponent, best_distance = place, 1.0 + rate, distance
    return best, best_exponent, best_distance


def _replicate(
    values: Floats, place: int, start: float, exponent: float, given: float | None, rng: np.random.Generator
) -> float:
    """Distance from its own fit of a sample that is the data below the tail and the law from there on."""
    size = values.size
    # With a given start the tail keeps its size, as one conditions on it.
    in_tail = size - place
    if given is None:
        in_tail = max(int(rng.binomial(size, in_tail / size)), MIN_TAIL)
    drawn = start * (1.0 - rng.random(in_tail)) ** (-1.0 / (exponent - 1.0))
    below = rng.choice(values[:place], size - in_tail) if place else np.empty(0)
    return _search(np.concatenate([np.sort(below), np.sort(drawn)]), given)[2]


def _likelihoods(tail: Floats, start: float, unit: float) -> tuple[float, dict[str, Rival], tuple[str, ...]]:
    """Exponent and rivals by the package powerlaw, and what it warned of; `tail` and `start` in units of `unit`."""
    # Imported where it is used: it takes pyplot along.
    import powerlaw

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Its default range of the exponent ends at 3 and cuts steeper tails off.
        fit = powerlaw.Fit(tail, xmin=start, parameter_ranges={"alpha": (1.0, None)}, verbose=0)
        exponent = float(fit.power_law.alpha)
        rivals = {}
        for name in RIVALS:
            ratio, p_value = fit.distribution_compare("power_law", name)
            normalized, _ = fit.distribution_compare("power_law", name, normalized_ratio=True)
            rival = getattr(fit, name)
            if name == "lognormal":
                parameters = {"mu": float(rival.mu) + math.log(unit), "sigma": float(rival.sigma)}
            else:
                parameters = {"rate": float(rival.Lambda) / unit}
            rivals[name] = Rival(float(ratio), float(normalized), float(p_value), parameters)
    return exponent, rivals, tuple(dict.fromkeys(str(warning.message) for warning in caught))
