"""How much of the gradient lies among the top eigenvectors of a curvature matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import eigsh

from rmtland._arguments import finite_array, integer
from rmtland._arrays import Array, namespace, to_numpy, told
from rmtland.spectra.operators import SymmetricOperator

DENSE_LIMIT = 4096
"""Up to this D the dense eigenproblem is solved: seconds, and nothing to converge."""


@dataclass(frozen=True, eq=False)
class Confinement:
    """Power of the gradient in the top eigenvectors; `float()` of it is the total.

    Attributes
    ----------
    eigenvalues : ndarray (k,)
        The k largest, ascending.
    powers : ndarray (k,)
        Squared cosine between the gradient and each of their eigenvectors.
    """

    eigenvalues: npt.NDArray[np.float64]
    powers: npt.NDArray[np.float64]

    __repr__ = told

    @property
    def power(self) -> float:
        """Share of the squared gradient in their span."""
        return float(self.powers.sum())

    def __float__(self) -> float:
        return self.power


def confinement(operator_or_spectrum: SymmetricOperator | Any, gradient: Array | None, k: int) -> Confinement:
    """Share of the squared gradient in the span of the k largest eigenvectors.

    Parameters
    ----------
    operator_or_spectrum : SymmetricOperator, symmetric array (D, D), or spectrum
        A spectrum is anything with `.eigenvalues` and `.powers` (ascending), as `gauss_newton_spectrum` returns; it
        knows its gradient already.
    gradient : array (D,) or None
        Ignored, and best None, for a spectrum.
    k : int
        Number of directions, 1 <= k <= D; of a spectrum at most its number of eigenvalues.

    Returns
    -------
    Confinement

    Raises
    ------
    ValueError
        For a zero gradient, which has no direction (a spectrum of one has NaN powers and so has the result), k out of
        range, or shapes that do not fit.
    RuntimeError
        Where the iterative solver (D > 4096) does not converge.

    Notes
    -----
    "Top" means algebraically largest, so for a Hessian negative curvature is not among it.

    References
    ----------
    Gur-Ari, Roberts and Dyer (2018), Gradient descent happens in a tiny subspace; Fort and Ganguli (2019), fig. 6.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> round(float(rl.confinement(np.diag([1.0, 2.0, 3.0]), np.array([0.0, 3.0, 4.0]), k=1)), 12)
    0.64
    """
    spectrum: Any = operator_or_spectrum
    if hasattr(spectrum, "powers"):
        count = integer("k", k, at_least=1, at_most=max(1, len(spectrum.eigenvalues)))
        return Confinement(np.asarray(spectrum.eigenvalues)[-count:], np.asarray(spectrum.powers)[-count:])
    operator = operator_or_spectrum
    if not isinstance(operator, SymmetricOperator):
        namespace(operator, names="`operator_or_spectrum`, unless it has powers,")
        operator = SymmetricOperator.from_matrix(operator)
    if gradient is None:
        raise ValueError("`gradient` must be given with an operator; got None")
    direction = finite_array("gradient", to_numpy(gradient), ndim=1)
    if direction.shape[0] != operator.dimension:
        raise ValueError(f"`gradient` must have shape ({operator.dimension},); got {direction.shape}")
    if not direction.any():
        raise ValueError("`gradient` must not be zero: it has no direction")
    # In units of its largest entry, whose square no float may hold.
    direction = direction / np.abs(direction).max()
    direction /= np.linalg.norm(direction)
    count = integer("k", k, at_least=1, at_most=operator.dimension)
    if operator.dimension <= DENSE_LIMIT:
        eigenvalues, vectors = np.linalg.eigh(operator.to_dense())
    else:
        # Not from the gradient: a Krylov space never leaves an invariant subspace that its start lies in, and where the
        # gradient has no power in the top directions they would be missed. A fixed start, so a fixed result.
        start = np.random.default_rng(0).standard_normal(operator.dimension)
        eigenvalues, vectors = eigsh(operator.to_scipy(), k=count, which="LA", v0=start)
    order = np.argsort(eigenvalues)[-count:]
    return Confinement(eigenvalues[order], (vectors[:, order].T @ direction) ** 2)
