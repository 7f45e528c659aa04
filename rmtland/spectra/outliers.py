"""How many eigenvalues stand out of the bulk, by a stated rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, finite_array, integer, real

METHODS = ("gap", "ratio", "elbow", "edge")


def count_outliers(
    eigenvalues: npt.ArrayLike, method: str = "gap", *, max_outliers: int | None = None, edge: float | None = None
) -> int:
    """Number of outliers on the right of a spectrum.

    Parameters
    ----------
    eigenvalues : array (n,)
        In any order. Give every eigenvalue or the largest ones; they must be resolved (Ritz values of an
        unreorthogonalised Lanczos run repeat and would be counted as often).
    method : {"gap", "ratio", "elbow", "edge"}
        With eigenvalues sorted downwards, x_1 >= x_2 >= ..., and 1 <= k <= `max_outliers`: "gap", the k of the largest
        difference x_k - x_{k+1}; "ratio", that of the largest x_k / x_{k+1} among the positive ones; "elbow", that at
        which log x_{k+1} lies deepest under the chord from log x_1 to log x_{max_outliers + 1}; "edge", how many exceed
        a bulk edge that a law gives.
    max_outliers : int, optional
        Where to stop looking, n - 1 at most; by default half of the eigenvalues. Spectra that fall to rounding level
        have their largest ratios down there, so state what you would still call a few. Not used by "edge".
    edge : float
        The bulk edge, for "edge" only.

    Returns
    -------
    int
        At least 1 but for "edge": the rules of a gap find the largest one in any spectrum, whether it means something
        or not. Compare methods before believing one.

    Raises
    ------
    ValueError
        For fewer than two eigenvalues, NaN, an unknown method, or "edge" without an edge.

    References
    ----------
    Sagun et al. (2017), Empirical analysis of the Hessian, table 1 (gap and ratio).

    Examples
    --------
    >>> import rmtland as rl
    >>> rl.count_outliers([9.0, 8.0, 7.5, 1.0, 0.9, 0.8])
    3
    >>> rl.count_outliers([9.0, 8.0, 7.5, 1.0, 0.9, 0.8], method="edge", edge=8.5)
    1
    """
    choice("method", method, METHODS)
    values = np.sort(finite_array("eigenvalues", eigenvalues, ndim=1))[::-1]
    if method == "edge":
        if edge is None:
            raise ValueError('`edge` must be given with method="edge"; got None')
        return int(np.count_nonzero(values > real("edge", edge)))
    if values.size < 2:
        raise ValueError(f"`eigenvalues` must hold at least 2 to have a gap; got {values.size}")
    limit = max(1, values.size // 2) if max_outliers is None else integer("max_outliers", max_outliers, at_least=1)
    values = values[: min(limit, values.size - 1) + 1]
    if method == "gap":
        return int(np.argmax(values[:-1] - values[1:])) + 1
    positive = values[values > 0]
    if positive.size < 2:
        raise ValueError(f'`eigenvalues` must hold at least 2 positive ones for method="{method}"; got {positive.size}')
    logs = np.log(positive)
    if method == "ratio":
        return int(np.argmax(logs[:-1] - logs[1:])) + 1
    chord = np.linspace(logs[0], logs[-1], logs.size)
    return max(1, int(np.argmax(chord - logs)))
