"""Are these matrices' eigenvalues from this law? The unit is the matrix."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, finite_array, function, generator, integer, real, require_memory, seed_sequence
from rmtland._arrays import told
from rmtland.ensembles.kernels import Floats
from rmtland.ensembles.sample_covariance import SampleCovariance
from rmtland.ensembles.wigner import GaussianEnsemble, SpikedWigner
from rmtland.ensembles.wishart import SpikedCovariance, Wishart
from rmtland.laws.marchenko_pastur import MarchenkoPastur
from rmtland.laws.semicircle import Semicircle
from rmtland.laws.silverstein import GeneralizedMarchenkoPastur
from rmtland.laws.spikes import SpikedCovarianceLaw, SpikedWignerLaw

_WHAT = {
    "means": "the sums of Chebyshev polynomials over eigenvalues are off",
    "spread": "these sums vary between matrices as they should not",
    "edge": "the extreme eigenvalues are off",
}


@dataclasses.dataclass(frozen=True, eq=False)
class GoodnessOfFit:
    """Outcome of `goodness_of_fit`.

    Parameters
    ----------
    p_value : float
        That of all tests together (smallest times their number, at most 1).
    p_values : dict
        Of each: "means" and "spread" of linear statistics, "edge".
    alpha : float
        Level of `rejected`.
    power : float
        Estimated chance of a rejection at `alpha` if all eigenvalues were `alternative` times as large; NaN if not
        asked for.
    alternative : float
    num_draws, num_calibration : int
    """

    p_value: float
    p_values: dict[str, float]
    alpha: float
    power: float
    alternative: float
    num_draws: int
    num_calibration: int

    __repr__ = told

    @property
    def rejected(self) -> bool:
        """Whether p_value <= alpha."""
        return self.p_value <= self.alpha

    def __str__(self) -> str:
        """The outcome in plain words."""
        many = f"{self.num_draws} matri{'x' if self.num_draws == 1 else 'ces'}"
        reference = f"{self.num_calibration} draws of the matching ensemble"
        if self.rejected:
            least = min(self.p_values.values())
            reasons = "; ".join(_WHAT[name] for name, p in self.p_values.items() if p == least)
            return f"Not this law (p = {self.p_value:.2g}, {many} against {reference}): {reasons}."
        if np.isnan(self.power):
            return f"No sign against this law (p = {self.p_value:.2g}, {many} against {reference})."
        percent, way = 100 * abs(self.alternative - 1), "larger" if self.alternative >= 1 else "smaller"
        weak = " That is little: take more matrices or draws." if self.power < 0.5 else ""
        return (
            f"No sign against this law (p = {self.p_value:.2g}, {many} against {reference}); eigenvalues {percent:g}% "
            f"{way} would have been noticed with probability {self.power:.2f}.{weak}"
        )


def matching_ensemble(law: Any, num_nonzero: int) -> tuple[Any, float]:
    """The Gaussian ensemble of real matrices with this limit law and number of nonzero eigenvalues, and a factor."""
    if isinstance(law, (Semicircle, SpikedWignerLaw)):
        if isinstance(law, Semicircle):
            return GaussianEnsemble(num_nonzero), law.sigma
        return SpikedWigner(num_nonzero, law.spikes / law.sigma, beta=law.beta), law.sigma
    if isinstance(law, (MarchenkoPastur, SpikedCovarianceLaw)):
        p = num_nonzero if law.ratio <= 1 else round(num_nonzero * law.ratio)
        n = num_nonzero if law.ratio > 1 else max(num_nonzero, round(num_nonzero / law.ratio))
        if isinstance(law, MarchenkoPastur):
            return Wishart(p, n), law.sigma**2
        if law.general_bulk is None:
            return SpikedCovariance(p, n, law.spikes, beta=law.beta), 1.0
    if isinstance(law, GeneralizedMarchenkoPastur) and law.covariance:
        weights = np.ones_like(law.eigenvalues) if law.multiplicities is None else law.multiplicities
        size = num_nonzero if law.ratio <= 1 else round(num_nonzero * law.ratio)
        # Quantiles of the population, as many as there are features.
        order = np.argsort(law.eigenvalues)
        cumulative = np.cumsum(weights[order]) / weights.sum()
        places = np.searchsorted(cumulative, (np.arange(size) + 0.5) / size)
        return SampleCovariance(law.eigenvalues[order][places], max(1, round(size / law.ratio))), 1.0
    raise TypeError(f"`ensemble` must be given for a law of type {type(law).__name__}; got None")


def _features(sets: Floats, low: float, high: float, num_moments: int) -> tuple[Floats, Floats]:
    """Chebyshev sums (R, num_moments) and extremes (R, 2) of each matrix."""
    middle, half = 0.5 * (high + low), 0.5 * (high - low)
    sums, extremes = np.empty((len(sets), num_moments)), np.empty((len(sets), 2))
    for i, values in enumerate(sets):
        # An outlier shall not drown all else in its sixth power.
        y = np.clip((values - middle) / half, -2, 2)
        sums[i] = np.polynomial.chebyshev.chebvander(y, num_moments)[:, 1:].sum(axis=0)
        extremes[i] = values.max(), values.min()
    return sums, extremes


def _p_values(
    sums: Floats, extremes: Floats, count: int, num_permutations: int, source: np.random.Generator
) -> dict[str, float]:
    """Permutation tests of the first `count` rows against the others: exact, as under the law all are exchangeable."""
    total = len(sums)
    centred = sums - sums.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / total)
    keep = values > 1e-10 * values[-1]
    white = centred @ (vectors[:, keep] / np.sqrt(values[keep]))
    square = (white**2).sum(axis=1)
    ranks = extremes.argsort(axis=0).argsort(axis=0) - 0.5 * (total - 1)
    if count == 1:  # all permutations
        require_memory(f"calibration by {total} draws", 8.0 * total**2, "take a smaller `num_calibration`")
        groups = np.eye(total)
    else:
        need = 32.0 * num_permutations * total
        require_memory(f"{num_permutations} permutations of {total} draws", need, "take fewer `num_permutations`")
        groups = np.zeros((num_permutations + 1, total))
        groups[0, :count] = 1 / count
        order = source.random((num_permutations, total)).argpartition(count - 1, axis=1)[:, :count]
        np.put_along_axis(groups[1:], order, 1 / count, axis=1)
    statistics = {
        "means": ((groups @ white) ** 2).sum(axis=1),
        "edge": np.abs(groups @ ranks).max(axis=1),
    }
    if count > 1:
        statistics["spread"] = np.abs(np.log(np.maximum(groups @ square, 1e-300) / white.shape[1]))
    return {name: float(np.mean(s >= s[0] * (1 - 1e-12))) for name, s in statistics.items()}


def goodness_of_fit(
    law: Any,
    eigenvalue_sets: npt.ArrayLike,
    *,
    ensemble: Any = None,
    num_moments: int = 6,
    num_calibration: int | None = None,
    num_permutations: int = 1999,
    alpha: float = 0.05,
    alternative: float | None = 1.02,
    rng: Seed = None,
    threads: int | None = None,
) -> GoodnessOfFit:
    """Test whether the eigenvalues of one or more matrices come from a law.

    Each matrix gives its sums of Chebyshev polynomials over eigenvalues (on the support of the law) and its two extreme
    eigenvalues; these are held against draws of the matching ensemble by permutation tests of whole matrices.

    Parameters
    ----------
    law : MarchenkoPastur, Semicircle, GeneralizedMarchenkoPastur (sample covariance form), SpikedCovarianceLaw or
            SpikedWignerLaw
        Another with a `support` if `ensemble` is given.
    eigenvalue_sets : array_like, shape (R, N) or (N,)
        All eigenvalues of each of R independent matrices; zeros may be left out.
    ensemble : optional
        What to calibrate with, in the units of the data: anything with `eigenvalues(size, rng=, threads=)`. By default
        real Gaussian matrices with that limit law and as many nonzero eigenvalues.
    num_moments : int, >= 1
        Chebyshev polynomials T_1, ..., T_num_moments.
    num_calibration : int, optional
        Draws of the ensemble; 199 or 2 R, whichever is more, by default. One matrix gives no p-value below
        1 / (num_calibration + 1), times the number of tests.
    num_permutations : int, >= 1
    alpha : float
        Level of `rejected`.
    alternative : float or None, > 0
        Factor on all eigenvalues for which the power is estimated; None saves the time for that.
    rng, threads : optional
        Of calibration draws and permutations.

    Returns
    -------
    GoodnessOfFit
        Its ``str`` is the outcome in plain words.

    Raises
    ------
    ValueError
        If the sets are empty, not finite or all 0, or an option is out of range.
    TypeError
        If no ensemble matches the law.

    Notes
    -----
    Exact level under the hypothesis that data and ensemble have one law, at any size: finite-size effects are in the
    calibration, not in a limit theorem. Independent draws from the law are rejected, as they do not repel ("spread");
    a Kolmogorov-Smirnov test on the eigenvalues of one matrix would pass anything of nearly that shape, so none is
    offered.

    References
    ----------
    Bai and Silverstein (2004), theorem 1.1 (linear statistics vary by O(1)). Johansson (1998), theorem 2.4 (Chebyshev
    sums are nearly independent).

    Examples
    --------
    >>> import rmtland as rl
    >>> data = rl.Wishart(100, 200).eigenvalues(20, rng=1)
    >>> print(rl.goodness_of_fit(rl.MarchenkoPastur(0.5), data, rng=0).rejected)
    False
    >>> print(rl.goodness_of_fit(rl.MarchenkoPastur(0.5), 1.02 * data, rng=0).rejected)
    True
    """
    sets = np.atleast_2d(finite_array("eigenvalue_sets", eigenvalue_sets))
    if sets.ndim != 2 or not sets.size:
        raise ValueError(f"`eigenvalue_sets` must have shape (R, N), R and N >= 1; got {sets.shape}")
    if not sets.any():
        raise ValueError("`eigenvalue_sets` must hold eigenvalues other than 0; got none")
    num_moments = integer("num_moments", num_moments, at_least=1)
    num_permutations = integer("num_permutations", num_permutations, at_least=1)
    alpha = real("alpha", alpha, above=0, below=1)
    factor_tried = None if alternative is None else real("alternative", alternative, above=0)
    count = len(sets)
    needed = 16.0 * num_moments * (sets.shape[1] + count)
    require_memory(f"{num_moments} polynomials", needed, "take fewer `num_moments`")
    default = max(199, 2 * count)
    size = default if num_calibration is None else integer("num_calibration", num_calibration, at_least=count + 8)
    seeds = seed_sequence(rng)
    source = generator(seeds)

    zero = 1e-12 * np.abs(sets).max()
    num_nonzero = int((np.abs(sets) > zero).sum(axis=1).max())
    factor = 1.0
    if ensemble is None:
        ensemble, factor = matching_ensemble(law, num_nonzero)
    function("ensemble.eigenvalues", getattr(ensemble, "eigenvalues", None))
    draws = factor * ensemble.eigenvalues(size, rng=seeds, threads=threads)
    bulk = getattr(law, "bulk", law)
    low, high = (float(edge) for edge in np.ravel(bulk.support)[[0, -1]])

    def nonzero(values: Floats) -> Floats:
        """The `num_nonzero` largest in size of each matrix, ascending; exact zeros go."""
        if values.shape[1] == num_nonzero:
            return values
        order = np.argsort(np.abs(values), axis=1, kind="stable")[:, -num_nonzero:]
        return np.sort(np.take_along_axis(values, order, axis=1), axis=1)

    sets, draws = nonzero(sets), nonzero(draws)
    features = _features(np.concatenate([sets, draws]), low, high, num_moments)
    p_values = _p_values(*features, count, num_permutations, source)
    together = min(1.0, len(p_values) * min(p_values.values()))

    if factor_tried is None:
        return GoodnessOfFit(together, p_values, alpha, np.nan, np.nan, count, size)

    # Power: draws play the data, scaled, against the other draws.
    reference = tuple(f[count:] for f in features)
    scaled = _features(factor_tried * draws, low, high, num_moments)
    trials, hits = 60, 0
    for _ in range(trials):
        order = source.permutation(size)
        sums, extremes = (
            np.concatenate([s[order[:count]], r[order[count:]]]) for s, r in zip(scaled, reference, strict=True)
        )
        found = _p_values(sums, extremes, count, min(num_permutations, 199), source)
        hits += len(found) * min(found.values()) <= alpha
    return GoodnessOfFit(together, p_values, alpha, hits / trials, factor_tried, count, size)
