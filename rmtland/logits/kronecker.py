"""The best Kronecker fit Theta (x) K of J J^T: how far examples and logits enter it separately."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator, eigsh

from rmtland._arguments import integer
from rmtland._arrays import told
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.gram import LogitGradientGram, gram_of

Floats = npt.NDArray[np.float64]

DENSE = 1024
"""Up to so many entries C^2 of K all terms are found at once; beyond, the first ones by products."""
GROUPS = 10
"""Groups of examples that are left out in turn for an error."""
BY_GROUPS = 256
"""Up to so many entries C^2 the squares of each pair of groups are kept, 52 MiB, and the fit need not be repeated."""


@dataclass(frozen=True, eq=False)
class KroneckerFit:
    """J J^T as a sum of T terms Theta_t (x) K_t, the best in squared error.

    Attributes
    ----------
    theta : ndarray (T, N, N)
        Kernels of the examples; entry [0] is the neural tangent kernel where the law holds.
    outputs : ndarray (T, C, C)
        Kernels K_t of the logits, tr K_0 = C and |K_t| = |K_0|; all are orthogonal to each other.
    shares : ndarray (T,)
        Share of |J J^T|^2 that each term explains.
    share_between : float
        Share that all terms together explain of the inner products of different examples, which alone are left when
        there are many.
    standard_error : ndarray (T,)
        Of the cumulative shares, over draws of the examples.
    """

    theta: Floats = field(repr=False)
    outputs: Floats = field(repr=False)
    shares: Floats
    share_between: float
    standard_error: Floats

    __repr__ = told

    @property
    def share(self) -> float:
        """Share of |J J^T|^2 that all terms explain."""
        return float(self.shares.sum())

    def matrix(self) -> Floats:
        """sum_t Theta_t (x) K_t, (N, C, N, C)."""
        fitted: Floats = np.einsum("tmn,tkl->mknl", self.theta, self.outputs)
        return fitted


def kronecker_fit(source: LogitGradients | LogitGradientGram, num_terms: int = 1) -> KroneckerFit:
    """The best fit of J J^T by Kronecker products of a kernel of the examples and one of the logits.

    Parameters
    ----------
    source : LogitGradients or LogitGradientGram
        `gram.centered()` fits what the Gauss-Newton matrix sees, J less its mean over logits.
    num_terms : int
        T, from 1 to C^2.

    Returns
    -------
    KroneckerFit

    Raises
    ------
    ValueError
        For terms out of range, or logit gradients that are all zero.

    Notes
    -----
    Van Loan's rearrangement puts entry (mu k, nu l) at row (mu, nu) and column (k, l); its leading singular vectors are
    the terms. Errors by leaving out one of 10 groups of examples in turn.

    References
    ----------
    Van Loan and Pitsianis (1993), Approximation with Kronecker products; Jacot, Gabriel and Hongler (2018) for the law.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> rng = np.random.default_rng(0)
    >>> theta, k = np.cov(rng.normal(size=(6, 9))), np.cov(rng.normal(size=(3, 9)))
    >>> matrix = np.kron(theta, k).reshape(6, 3, 6, 3)
    >>> gram = rl.LogitGradientGram(matrix, np.zeros((6, 3)), np.arange(6) % 3, num_parameters=100)
    >>> round(rl.kronecker_fit(gram).share, 12)
    1.0
    """
    gram = gram_of(source)
    matrix, n, c = gram.matrix, gram.num_examples, gram.num_classes
    terms = integer("num_terms", num_terms, at_least=1, at_most=c**2)
    total = float(np.vdot(matrix, matrix))
    if total == 0:
        raise ValueError("`source` must have logit gradients that are not all zero; got an empty Gram matrix")
    squares, vectors = _leading(matrix, terms)
    outputs = vectors.T.reshape(terms, c, c)
    # The sign and the scale by the trace of the first, which is that of two kernels.
    outputs = outputs * np.where(np.trace(outputs, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None, None]
    scale = c / np.trace(outputs[0])
    theta = np.einsum("mknl,tkl->tmn", matrix, outputs, optimize=True) / scale
    left = [np.cumsum(some) for some in _shares_without(matrix, terms, np.arange(n) % GROUPS)]
    count = len(left)
    errors = np.full(terms, math.nan)
    if count > 1:
        errors = (count - 1) / math.sqrt(count) * np.std(left, axis=0, ddof=1)
    return KroneckerFit(theta, outputs * scale, squares / total, _share_between(matrix, theta, outputs * scale), errors)


def _share_between(matrix: Floats, theta: Floats, outputs: Floats) -> float:
    """1 - |rest|^2 / |J J^T|^2 over blocks of different examples; NaN where there is but one example."""
    rest = total = 0.0
    for mu in range(len(matrix)):
        row = matrix[mu].transpose(1, 0, 2)  # (N, C, C)
        fitted = np.einsum("tn,tkl->nkl", theta[:, mu], outputs)
        others = np.arange(len(matrix)) != mu
        rest += float(np.sum((row - fitted)[others] ** 2))
        total += float(np.sum(row[others] ** 2))
    return 1 - rest / total if total > 0 else math.nan


def _shares_without(matrix: Floats, terms: int, group: npt.NDArray[np.int64]) -> Iterator[Floats]:
    """Shares of the terms with one group of examples left out in turn, where others are left."""
    n, c = matrix.shape[:2]
    count = int(group.max()) + 1
    if c**2 > BY_GROUPS:
        for g in range(count):
            kept = np.flatnonzero(group != g)
            if kept.size:
                rest = matrix[kept][:, :, kept]
                yield _leading(rest, terms)[0] / np.vdot(rest, rest)
        return
    # R^T R of the rows of each pair of groups, of which what is left is a sum; matrix is symmetric.
    squares = np.zeros((count, count, c**2, c**2))
    for mu, row in enumerate(matrix):
        blocks = row.transpose(1, 0, 2).reshape(n, c**2)
        for g in range(count):
            squares[group[mu], g] += blocks[group == g].T @ blocks[group == g]
    for g in range(count if count > 1 else 0):
        kept = np.arange(count) != g
        rest = squares[kept][:, kept].sum(axis=(0, 1))
        yield np.linalg.eigvalsh(rest)[::-1][:terms].clip(min=0) / np.trace(rest)


def _leading(matrix: Floats, terms: int) -> tuple[Floats, Floats]:
    """Largest eigenvalues, descending, and eigenvectors (C^2, T) of R^T R for the rearrangement R (N^2, C^2)."""
    c = matrix.shape[1]
    if c**2 <= DENSE:
        square = np.zeros((c**2, c**2))
        for row in matrix:  # an example at a time: the rearrangement is a copy
            blocks = row.transpose(1, 0, 2).reshape(-1, c**2)
            square += blocks.T @ blocks
        values, vectors = np.linalg.eigh(square)
        return np.maximum(values[::-1][:terms], 0), vectors[:, ::-1][:, :terms]

    def multiply(vector: Floats) -> Floats:
        k = vector.reshape(c, c)
        total = np.zeros((c, c))
        for row in matrix:
            theta = np.tensordot(row, k, axes=([0, 2], [0, 1]))
            total += np.tensordot(row, theta, axes=([1], [0]))
        return total.ravel()

    operator = LinearOperator((c**2, c**2), matvec=multiply, dtype=np.float64)
    values, vectors = eigsh(operator, k=terms, which="LA", v0=np.eye(c).ravel())
    return np.maximum(values[::-1], 0), vectors[:, ::-1]
