"""Lanczos's tridiagonal matrix of an operator and a start vector, with its orthonormal basis or in three vectors."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh_tridiagonal

from rmtland._arguments import Seed, flag, generator, integer, real, require_memory
from rmtland._arrays import Array, is_torch, namespace, told
from rmtland.spectra import _vectors
from rmtland.spectra._checkpoint import Checkpoint
from rmtland.spectra._progress import counter
from rmtland.spectra.measure import implicit_ql
from rmtland.spectra.operators import SymmetricOperator, as_operator

Floats = npt.NDArray[np.float64]

PROBED_STEPS = 8
"""First steps without reorthogonalisation that test the operator's symmetry; with it every step does for free."""


@dataclass(frozen=True, eq=False)
class LanczosResult:
    """What `lanczos` found: A Q = Q T + r e_m^T with orthonormal columns Q and T tridiagonal.

    Attributes
    ----------
    alpha : ndarray (m,)
        Diagonal of T, float64.
    beta : ndarray (m,)
        beta[j] couples step j to step j + 1 and beta[m - 1] = |r|. Zero marks a breakdown: the vectors so far span an
        invariant subspace.
    restarts : ndarray of int
        The steps that began with a fresh random vector, after a breakdown.
    num_products : int
        Products with the operator, m.
    basis : array (m, D) or None
        Q^T in the operator's library, dtype (at least float32) and device, where it was kept.
    residual_vector : array (D,)
        r.
    stopped_by : {"steps", "tolerance", "time", "exhausted"}
        Why the run ended; "exhausted": an invariant subspace was complete and nothing could be added.
    """

    alpha: Floats
    beta: Floats
    restarts: npt.NDArray[np.int64]
    num_products: int
    basis: Array | None
    residual_vector: Array
    stopped_by: str

    __repr__ = told

    @property
    def invariant(self) -> bool:
        """Whether r = 0: all Ritz values are eigenvalues, up to rounding."""
        return bool(self.beta[-1] == 0)

    @cached_property
    def _quadrature(self) -> tuple[Floats, Floats]:
        # The start vector sees nothing beyond the first breakdown.
        size = int(self.restarts[0]) if self.restarts.size else self.alpha.size
        values, row = tridiagonal_measure(self.alpha[:size], self.beta[: size - 1], 0)
        return values, row**2

    @property
    def nodes(self) -> Floats:
        """Nodes of the Gauss quadrature of the start vector's spectral measure, ascending."""
        return self._quadrature[0]

    @property
    def weights(self) -> Floats:
        """Weights of the quadrature, which add up to 1: sum w f(x) is q^T f(A) q to degree 2 m - 1."""
        return self._quadrature[1]

    @cached_property
    def _ritz(self) -> tuple[Floats, Floats]:
        values, row = tridiagonal_measure(self.alpha, self.beta[:-1], self.alpha.size - 1)
        return values, self.beta[-1] * np.abs(row)

    @property
    def ritz_values(self) -> Floats:
        """Eigenvalues of T (m,), ascending. Without reorthogonalisation some are copies ("ghosts")."""
        return self._ritz[0]

    @property
    def ritz_residuals(self) -> Floats:
        """|A v - x v| of each Ritz pair (m,), from beta[m - 1] |y_m| without the vectors; exact but for rounding."""
        return self._ritz[1]


def tridiagonal_measure(diagonal: Floats, off_diagonal: Floats, index: int) -> tuple[Floats, Floats]:
    """Eigenvalues of a symmetric tridiagonal matrix, ascending, and the `index`-th entry of each eigenvector."""
    values, row = diagonal.copy(), np.zeros(diagonal.size)
    row[index] = 1.0
    if not implicit_ql(values, np.append(off_diagonal, 0.0), row):
        exact: Any = eigh_tridiagonal(diagonal, off_diagonal)
        return np.asarray(exact[0]), np.ascontiguousarray(exact[1][index])
    order = np.argsort(values, kind="stable")
    return values[order], row[order]


def lanczos(
    operator: Any,
    num_steps: int,
    *,
    rng: Seed = None,
    start: Array | None = None,
    reorthogonalize: bool = True,
    tolerance: float | None = None,
    time_budget: float | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_interval: float = 60.0,
    progress: bool = False,
    keep_basis: bool | None = None,
) -> LanczosResult:
    """Lanczos's recurrence for a symmetric operator.

    Parameters
    ----------
    operator : SymmetricOperator, array, SciPy sparse matrix or LinearOperator
        D x D. Vectors stay in its library, dtype (at least float32) and on its device.
    num_steps : int
        Steps, each one product; with reorthogonalisation D at most, more are not taken.
    rng : seed, optional
        Of the start vector, independent standard normal entries, and of the vectors after a breakdown.
    start : array (D,), optional
        A start vector of your own, of any length but zero.
    reorthogonalize : bool
        Keep every vector orthogonal to all before, (num_steps + 1) D numbers in memory. Without, three vectors are all
        there is (FastLanczos): converged eigenvalues come back as copies in `ritz_values`, while `nodes` and `weights`
        remain a good quadrature, and a breakdown ends the run.
    tolerance : float, optional
        Stop once the largest and the smallest Ritz value have residuals within this fraction of the larger modulus.
    time_budget : float, optional
        Stop after the step that ends past so many seconds.
    checkpoint : path, optional
        A file that holds the state of the run, written every now and then and at the end. The same call goes on from
        there with the bits of an uninterrupted run; a finished run is continued by more steps. Its folder is made where
        there is none.
    checkpoint_interval : float
        Seconds between two writes; longer where writing would take more than a twentieth of the time.
    progress : bool
        Show a bar with the time left, on a terminal.
    keep_basis : bool, optional
        Return Q: by default where there is one, with reorthogonalisation. True without costs its memory again.

    Returns
    -------
    LanczosResult

    Raises
    ------
    ValueError
        For an operator that is not square, not symmetric (every step compares q^T A p with p^T A q), or gives NaN; a
        start that is zero; a checkpoint of another operator, seed or start.
    MemoryError
        Where the basis does not fit.
    FileExistsError
        Where `checkpoint` names a file that is none of ours, or the name of its lock is taken; it is left alone.
    BlockingIOError
        Where another run, of this process or another, is writing `checkpoint`.

    Notes
    -----
    Coefficients, norms and residuals are sums in float64, whatever the dtype of the vectors. Each step subtracts the
    two neighbours, then once the projection on all vectors, and again where that shortened it by more than a factor of
    sqrt(2) ("twice is enough"). Breakdown is beta <= 10 eps |T|, relative to the operator's own size.

    References
    ----------
    Lanczos (1950). Paige (1972), Computational variants of the Lanczos method, on the order of the subtractions.
    Daniel, Gragg, Kaufman and Stewart (1976) on the second pass. Papyan (2018), algorithms 1 and 2. Golub and Welsch
    (1969) on the quadrature.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> result = rl.lanczos(np.diag([1.0, 2.0, 3.0, 4.0]), 4, rng=0)
    >>> print(result.ritz_values.round(10), result.invariant)
    [1. 2. 3. 4.] True
    """
    matrix = as_operator(operator)
    steps = integer("num_steps", num_steps, at_least=1)
    if tolerance is not None:
        tolerance = real("tolerance", tolerance, above=0, below=1)
    if time_budget is not None:
        time_budget = real("time_budget", time_budget, above=0)
    real("checkpoint_interval", checkpoint_interval, at_least=0)
    if matrix.dimension < 1:
        raise ValueError("`operator` must have a dimension >= 1; got 0")
    flag("reorthogonalize", reorthogonalize)
    keep = reorthogonalize if keep_basis is None else flag("keep_basis", keep_basis)
    random = generator(rng)
    saved = None if checkpoint is None else Checkpoint(checkpoint, checkpoint_interval, seed_given=rng is not None)
    with saved or contextlib.nullcontext():
        run = Recurrence(matrix, steps, random, reorthogonalize, keep)
        begun = time.monotonic()
        if saved is None or not saved.resume(run, start):
            run.begin(_vectors.start_vector(matrix, random, start))
        stopped = _advance(run, tolerance, None if time_budget is None else begun + time_budget, saved, progress)
        if saved is not None:
            saved.write(run)
    return run.result(stopped)


def _advance(
    run: Recurrence, tolerance: float | None, deadline: float | None, saved: Checkpoint | None, progress: bool
) -> str:
    """Steps until one of the rules ends the run; which."""
    next_check = 2
    with counter(progress, "lanczos", run.num_steps, run.size) as show:
        while True:
            if run.exhausted:
                return "exhausted"
            if tolerance is not None and run.size >= next_check:
                next_check = run.size + 1 + run.size // 20
                if run.ends_converged(tolerance):
                    return "tolerance"
            if run.size >= run.num_steps:
                return "steps"
            if deadline is not None and run.size and time.monotonic() >= deadline:
                return "time"
            run.step()
            show(run.size)
            if saved is not None:
                saved.write_when_due(run)


class Recurrence:
    """A run of Lanczos's recurrence: its coefficients and the vectors that the next step needs.

    Vectors are rows: with a basis row j is q_j, without one two rows take turns, and the product is the third vector.
    """

    def __init__(
        self, operator: SymmetricOperator, num_steps: int, rng: np.random.Generator, full: bool, keep: bool
    ) -> None:
        self.operator, self.rng, self.full, self.keep = operator, rng, full, keep
        self.num_steps = min(num_steps, operator.dimension) if full else num_steps
        prototype = _vectors.working_prototype(operator)
        self.has_basis = full or keep
        rows = self.num_steps + 1 if self.has_basis else 2
        if not is_torch(prototype) or prototype.device.type == "cpu":
            needed = float(rows * operator.dimension * prototype.dtype.itemsize)
            require_memory(f"a basis of {rows} vectors", needed, "take fewer steps, or reorthogonalize=False,")
        # Not zeros: pages that a run never reaches are never touched.
        self.rows = _vectors.empty(prototype, (rows, operator.dimension))
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.restarts: list[int] = []
        self.scale = operator.rounding_scale
        self.epsilon = _vectors.epsilon(prototype)
        self.asymmetry = _vectors.asymmetry(operator)
        self.exhausted = False

    @property
    def size(self) -> int:
        """Steps done."""
        return len(self.alpha)

    def row(self, step: int) -> Array:
        """Where q of a step lies."""
        return self.rows[step if self.has_basis else step % 2]

    def begin(self, start: Array) -> None:
        """Set the first vector."""
        self.row(0)[:] = start

    def step(self) -> None:
        """One product, one more row and column of T."""
        j = self.size
        q, out = self.row(j), self.row(j + 1)
        coupling = self.beta[-1] if j else 0.0
        before = self.row(j - 1) if coupling > 0 else q
        product = _vectors.product(self.operator, q)
        probe = _vectors.dot(before, product) if coupling > 0 and j <= PROBED_STEPS else coupling
        alpha = _vectors.subtract(out, product, coupling, before, q)
        if not math.isfinite(alpha):
            raise _vectors.not_finite(j + 1)
        beta = _vectors.norm(out, _vectors.subtract(out, out, alpha, q, out))
        self.scale = max(self.scale, abs(alpha) + coupling, beta)
        # Of a near breakdown the vectors are known too badly to compare.
        if coupling > math.sqrt(self.epsilon) * self.scale:
            # Normalisation has divided the rounding of the product before by the coupling: q is known that badly.
            self._require_symmetric(probe, coupling, self.scale * (1 + self.scale / (8 * coupling)))
        if self.full:
            beta = self._orthogonalize(out, j + 1, beta)
        elif beta < math.sqrt(self.epsilon) * self.scale:
            # Rounding dominates near a breakdown; without a basis `out` has taken the place of the vector before q.
            beta = _vectors.norm(out, _vectors.subtract(out, out, _vectors.dot(q, out), q, out))
        self.alpha.append(alpha)
        self._close(out, beta)

    def _orthogonalize(self, w: Array, count: int, length: float) -> float:
        """Subtract the projection on all rows; the length left.

        The coefficients are rounding, of sums in the vectors' own dtype: T is better without them.
        """
        rows = self.rows[:count]
        while True:
            coefficients = _vectors.orthogonalize(w, rows)
            left = _vectors.norm(w)
            if count > 2:
                self._require_symmetric(float(namespace(w).max(namespace(w).abs(coefficients[:-2]))), 0.0, self.scale)
            if not left < 0.7 * length:
                return left
            length = left

    def _require_symmetric(self, one_way: float, other_way: float, scale: float) -> None:
        _vectors.require_equal(one_way, other_way, self.asymmetry * scale)

    def _close(self, out: Array, beta: float) -> None:
        """Normalise the next vector, or begin a new block after a breakdown."""
        complete = self.full and self.size == self.operator.dimension
        if beta > 10 * self.epsilon * self.scale and not complete:
            out /= beta
            self.beta.append(beta)
            return
        self.beta.append(0.0)
        self.reopen()

    def reopen(self) -> None:
        """After a breakdown: a fresh vector, where more steps are wanted and possible."""
        if self.beta[-1] != 0 or self.restarts[-1:] == [self.size]:
            return
        if not self.full or self.size == self.operator.dimension:
            self.exhausted = True
        elif self.size < self.num_steps:
            _vectors.fresh_row(self.rows, self.size, self.rng)
            self.restarts.append(self.size)

    def ends_converged(self, tolerance: float) -> bool:
        """Whether the residuals of both extreme Ritz values are within the tolerance."""
        alpha, beta = np.array(self.alpha), np.array(self.beta)
        values, row = tridiagonal_measure(alpha, beta[:-1], alpha.size - 1)
        residual = beta[-1] * max(abs(row[0]), abs(row[-1]))
        return bool(residual <= tolerance * max(abs(values[0]), abs(values[-1])))

    def result(self, stopped_by: str) -> LanczosResult:
        """The result; the run is over."""
        return LanczosResult(
            np.array(self.alpha),
            np.array(self.beta),
            np.array(self.restarts, dtype=np.int64),
            self.size,
            self.rows[: self.size] if self.keep else None,
            self.row(self.size) * self.beta[-1],
            stopped_by,
        )
