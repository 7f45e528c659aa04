"""How many eigenvalues stand out of the bulk, by a stated rule, and where the rule drew the line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, finite_array, integer, real
from rmtland._arrays import is_torch, to_numpy

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

METHODS = ("gap", "ratio", "elbow", "edge")

ELBOW_AMONG = 1000
"""Eigenvalues that "elbow" looks at by default, at most: it compares them pair by pair."""


class OutlierCount(int):
    """A number of outliers: an int that knows the line it was counted with.

    Attributes
    ----------
    threshold : float
        Eigenvalues above it are the outliers.
    method : str
        The rule that drew it.
    """

    threshold: float
    method: str

    def __new__(cls, count: int, threshold: float, method: str) -> OutlierCount:
        """The count, the line it was counted with, and the rule."""
        self = super().__new__(cls, count)
        self.threshold, self.method = float(threshold), method
        return self

    def __getnewargs__(self) -> tuple[int, float, str]:  # type: ignore[override]
        return int(self), self.threshold, self.method


def count_outliers(
    eigenvalues: Any,
    method: str = "gap",
    *,
    max_outliers: int | None = None,
    edge: Any = None,
    scale: float | None = None,
    law: Any = None,
    alpha: float | None = None,
    residuals: npt.ArrayLike | None = None,
) -> OutlierCount:
    """Number of outliers on the right of a spectrum.

    Parameters
    ----------
    eigenvalues : array (n,), or the result of an eigensolver
        In any order, every eigenvalue or the largest ones. Of a result, such as that of `top_eigenpairs`, the
        `eigenvalues`, `residuals` and `converged` are read.
    method : {"gap", "ratio", "elbow", "edge"}
        With eigenvalues sorted downwards, x_1 >= x_2 >= ..., and 1 <= k <= `max_outliers`: "gap", the k of the largest
        difference x_k - x_{k+1}; "ratio", that of the largest x_k / x_{k+1} among the positive ones; "elbow", those
        before the elbow which Kneedle finds in the scree plot; "edge", how many exceed the edge that a law gives.
    max_outliers : int, optional
        Where to stop looking, n - 1 at most; by default half of the eigenvalues ("elbow": 1000 at most). Spectra that
        fall to rounding level have their largest ratios down there, so state what you would still call a few. Not used
        by "edge".
    edge : float, or a law with `edge()`, optional
        For "edge" only: where the bulk ends; of a law, such as `SpikedCovarianceLaw`, ``edge()`` gives edge and scale.
    scale, law, alpha : float, law with `ppf`, float, optional
        For "edge" only: the bulk's largest eigenvalue is edge + scale * X, X of the law, ``TracyWidom(1)`` for real
        matrices; what exceeds the quantile of this at 1 - alpha counts. Then a bulk without outliers shows one with
        probability `alpha`, 0.01 unless told otherwise. Without `law`, what exceeds the edge itself counts, and a bulk
        alone shows one or more in most draws.
    residuals : array (n,), optional
        Norms ||A v - x v|| of Ritz pairs, by which eigenvalues may be off.

    Returns
    -------
    OutlierCount
        An int with `threshold` and `method`. At least 1 for "gap" and "ratio": these find the largest gap in any
        spectrum, whether it means something or not, and put the threshold in its middle (its geometric middle); 0 where
        all values looked at are the same. 0 for "elbow" where the scree plot has none. Compare methods before believing
        one.

    Raises
    ------
    ValueError
        For fewer than two eigenvalues, NaN, an unknown method, "edge" without an edge; for Ritz values that did not
        converge, or whose residual reaches across the threshold; for a `lanczos` result without its basis, as
        eigenvalues show up several times without reorthogonalisation.

    Notes
    -----
    On 30 spectra of the landscape model with 9 outliers among 1000 eigenvalues, Kneedle finds 9 in all of them if it
    looks at 30, in 97% at 100 and in 57% at 500; the point furthest below the chord of log x, in 100%, 90% and 10%.

    References
    ----------
    Sagun et al. (2017), Empirical analysis of the Hessian, table 1 (gap, ratio, elbow). Satopaa et al. (2011), Finding
    a "kneedle" in a haystack, through the package kneed. Johnstone (2001), theorem 1.1 (edge).

    Examples
    --------
    >>> import rmtland as rl
    >>> count = rl.count_outliers([9.0, 8.0, 7.5, 1.0, 0.9, 0.8])
    >>> count, count.threshold
    (3, 4.25)
    >>> rl.count_outliers([9.0, 8.0, 7.5, 1.0, 0.9, 0.8], method="edge", edge=8.5)
    1
    >>> bulk = rl.Wishart(200, 400).eigenvalues(rng=0)
    >>> edge = rl.SpikedCovarianceLaw(0.5, [], num_samples=400)
    >>> count = rl.count_outliers([9.0, *bulk], method="edge", edge=edge, law=rl.TracyWidom(1), alpha=0.01)
    >>> count, round(count.threshold, 2)
    (1, 2.99)
    """
    choice("method", method, METHODS)
    values, errors, converged = _resolved(eigenvalues, residuals)
    if method == "edge":
        threshold = _edge_threshold(edge, scale, law, alpha)
        looked_at = values.size
    else:
        if any(argument is not None for argument in (edge, scale, law, alpha)):
            raise ValueError(f'`edge`, `scale`, `law` and `alpha` must be left out with method="{method}"; got some')
        if values.size < 2:
            raise ValueError(f"`eigenvalues` must hold at least 2 to have a gap; got {values.size}")
        limit = max(1, values.size // 2)
        if method == "elbow":
            limit = min(limit, ELBOW_AMONG)
        if max_outliers is not None:
            limit = integer("max_outliers", max_outliers, at_least=1)
        looked_at = min(limit, values.size - 1) + 1
        threshold = RULES[method](values[:looked_at])
    _require_certain(values[:looked_at], errors[:looked_at], converged[:looked_at], threshold)
    return OutlierCount(int(np.count_nonzero(values[:looked_at] > threshold)), threshold, method)


def _resolved(eigenvalues: Any, residuals: Any) -> tuple[Floats, Floats, Bools]:
    """Eigenvalues downwards with their residuals and whether they converged."""
    given = eigenvalues
    if hasattr(given, "ritz_values"):  # of a Lanczos run
        if given.basis is None:
            raise ValueError(
                "`eigenvalues` must be resolved; got a Lanczos run without its basis, which may repeat eigenvalues"
            )
        eigenvalues = given.ritz_values
        residuals = given.ritz_residuals if residuals is None else residuals
    elif hasattr(given, "eigenvalues"):
        eigenvalues = given.eigenvalues
        residuals = getattr(given, "residuals", None) if residuals is None else residuals
    values = finite_array("eigenvalues", to_numpy(eigenvalues) if is_torch(eigenvalues) else eigenvalues, ndim=1)
    errors = np.zeros(values.size)
    if residuals is not None:
        errors = finite_array("residuals", to_numpy(residuals) if is_torch(residuals) else residuals, ndim=1)
    if errors.size != values.size or (errors < 0).any():
        raise ValueError(f"`residuals` must be {values.size} numbers >= 0; got shape {errors.shape}")
    converged = np.broadcast_to(np.asarray(getattr(given, "converged", True), dtype=bool), values.shape)
    order = np.argsort(values, kind="stable")[::-1]
    return values[order], errors[order], converged[order]


def _require_certain(values: Floats, errors: Floats, converged: Bools, threshold: float) -> None:
    """Refuse a count that unconverged values could change."""
    if not converged.all():
        raise ValueError(
            f"`eigenvalues` must have converged; got {np.count_nonzero(~converged)} of {values.size} that did not"
        )
    across = (errors > 0) & (np.abs(values - threshold) <= errors)
    if across.any():
        worst = int(np.argmax(errors * across))
        raise ValueError(
            f"`eigenvalues` must be known well enough to count; got {np.count_nonzero(across)} whose residual reaches "
            f"across the threshold {threshold:.6g}, such as {values[worst]:.6g} with residual {errors[worst]:.2g}"
        )


def _edge_threshold(edge: Any, scale: float | None, law: Any, alpha: float | None) -> float:
    if edge is None:
        raise ValueError('`edge` must be given with method="edge"; got None')
    if hasattr(edge, "edge"):
        edge, own = edge.edge()
        scale = own if scale is None else scale
    place = real("edge", edge)
    if law is None:
        if alpha is not None:
            raise ValueError("`law` must be given with `alpha`, such as TracyWidom(1); got None")
        return place
    if not hasattr(law, "ppf"):
        raise TypeError(f"`law` must have ppf, such as TracyWidom(1); got {type(law).__name__}")
    if scale is None:
        raise ValueError("`scale` must be given with `law`; got None")
    rate = 0.01 if alpha is None else real("alpha", alpha, above=0, below=1)
    return place + real("scale", scale, at_least=0) * float(law.ppf(1 - rate))


def _largest_gap(values: Floats) -> float:
    k = int(np.argmax(values[:-1] - values[1:]))
    return float(_between(values[k], values[k + 1], 0.5 * values[k] + 0.5 * values[k + 1]))


def _largest_ratio(values: Floats) -> float:
    positive = values[values > 0]
    if positive.size < 2:
        raise ValueError(f'`eigenvalues` must hold at least 2 positive ones for method="ratio"; got {positive.size}')
    logs = np.log(positive)
    k = int(np.argmax(logs[:-1] - logs[1:]))
    return float(_between(positive[k], positive[k + 1], np.sqrt(positive[k]) * np.sqrt(positive[k + 1])))


def _elbow(values: Floats) -> float:
    if values.size < 3 or values[0] == values[-1]:  # no scree plot bends in two points
        return float(values[0])
    # Imported where it is used: it takes SciPy's signal processing and matplotlib along, most of a second.
    from kneed import KneeLocator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of curves without an elbow, which is an answer
        # online: the elbow that holds to the end of the curve, not the first dent among the outliers.
        found = KneeLocator(np.arange(values.size), values, curve="convex", direction="decreasing", online=True).knee
    if not found:
        return float(values[0])
    k = int(found)
    return float(_between(values[k - 1], values[k], 0.5 * values[k - 1] + 0.5 * values[k]))


def _between(above: float, below: float, middle: float) -> float:
    """`middle`, unless rounding put it on `above` or under `below`."""
    return middle if below <= middle < above else below


RULES: dict[str, Callable[[Floats], float]] = {"gap": _largest_gap, "ratio": _largest_ratio, "elbow": _elbow}
