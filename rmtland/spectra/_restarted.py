"""Thick-restart Lanczos: wanted eigenpairs in a basis of bounded size, with a test for those that one start misses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, double, namespace, to_numpy
from rmtland.spectra import _vectors
from rmtland.spectra.operators import SymmetricOperator

Floats = npt.NDArray[np.float64]
Order = Callable[[Floats], npt.NDArray[np.int64]]
"""Indices of eigenvalues, the most wanted one first."""

ROUNDING = 8
"""Units of the operator's size in the last place that a residual is known to."""


@dataclass
class Budget:
    """Products done, and how many there may be."""

    limit: int
    done: int = 0
    show: Callable[[int], None] = lambda done: None

    @property
    def spent(self) -> bool:
        """Whether no product is left."""
        return self.done >= self.limit

    def multiply(self, operator: SymmetricOperator, vector: Array) -> Array:
        """One product, counted."""
        result = _vectors.product(operator, vector)
        self.done += 1
        self.show(self.done)
        return result


@dataclass
class Goal:
    """What is wanted: `order`, how many, and how exactly."""

    order: Order
    count: int
    tolerance: float

    def allowed(self, values: Floats, scale: float, epsilon: float) -> Floats:
        """Residuals that count as converged: relative to each eigenvalue, but not below rounding."""
        return np.maximum(
            np.maximum(self.tolerance * np.abs(values), 2 * ROUNDING * epsilon * scale), np.finfo(float).tiny
        )


class RestartedLanczos:
    """A Lanczos process in rows [locked eigenvectors | Krylov basis | next vector] of one preallocated array.

    `projected` is Q^T A Q on the basis: tridiagonal, but for a diagonal and one border column after a restart.
    """

    def __init__(
        self, operator: SymmetricOperator, rows: Array, num_locked: int, rng: np.random.Generator, budget: Budget
    ) -> None:
        self.operator, self.all_rows, self.rng, self.budget = operator, rows, rng, budget
        self.locked = num_locked
        self.capacity = min(rows.shape[0] - 1 - num_locked, operator.dimension - num_locked)
        self.projected = np.zeros((self.capacity + 1, self.capacity + 1))
        self.size = 0
        self.border = 0  # Ritz vectors at the front that couple to row `border` itself
        self.scale = operator.rounding_scale
        self.epsilon = _vectors.epsilon(rows)
        self.noise = max(self.epsilon, _vectors.noise(operator))
        self.asymmetry = max(_vectors.asymmetry(operator), 512 * self.epsilon)
        self.converged_after = np.empty(0, dtype=np.int64)

    @property
    def rows(self) -> Array:
        """The basis and the next vector."""
        return self.all_rows[self.locked :]

    def begin(self, start: Array | None) -> None:
        """Set the first vector: the start, or a random one orthogonal to what is locked."""
        if start is None:
            _vectors.fresh_row(self.all_rows, self.locked, self.rng)
        else:
            self.rows[0][:] = start

    @property
    def residual(self) -> float:
        """Length of the part of the last product outside of the basis."""
        return float(self.projected[self.size - 1, self.size])

    def step(self) -> None:
        """One product; the basis grows by one."""
        j = self.size
        q, out = self.rows[j], self.rows[j + 1]
        product = self.budget.multiply(self.operator, q)
        after_restart = self.border == j  # or at the start, where no vector is before
        coupling = 0.0 if after_restart else float(self.projected[j - 1, j])
        alpha = _vectors.subtract(out, product, coupling, self.rows[j - 1] if coupling else q, q)
        if not math.isfinite(alpha):
            raise _vectors.not_finite(self.budget.done)
        length = _vectors.norm(out, _vectors.subtract(out, out, alpha, q, out))
        borders = float(np.linalg.norm(self.projected[:j, j]))
        self.scale = max(self.scale, abs(alpha) + borders, 0.0 if after_restart else length)
        beta = self._orthogonalize(out, j, length, after_restart)
        self.projected[j, j] = alpha
        self.scale = max(self.scale, beta)
        self.size = j + 1
        full = self.locked + self.size == self.operator.dimension
        if beta > 10 * self.epsilon * self.scale and not full:
            out /= beta
            self.projected[j, j + 1] = self.projected[j + 1, j] = beta
        elif not full:
            _vectors.fresh_row(self.all_rows, self.locked + self.size, self.rng)

    def _orthogonalize(self, w: Array, j: int, length: float, after_restart: bool) -> float:
        rows, first = self.all_rows[: self.locked + j + 1], True
        while True:
            coefficients = _vectors.orthogonalize(w, rows)
            left = _vectors.norm(w)
            if not after_restart or not first:
                self._require_symmetric(coefficients[self.locked : -2])
            elif j:
                self._require_coupled(coefficients[self.locked : -1], j)
            if not left < 0.7 * length:
                return left
            length, first = left, False

    def _require_symmetric(self, coefficients: Array) -> None:
        if coefficients.shape[0]:
            worst = float(namespace(coefficients).max(namespace(coefficients).abs(coefficients)))
            _vectors.require_equal(worst, 0.0, self.asymmetry * self.scale)

    def _require_coupled(self, coefficients: Array, j: int) -> None:
        """After a restart the product must hold the kept Ritz vectors as they held it."""
        found = to_numpy(double(coefficients))
        worst = int(np.argmax(np.abs(found - self.projected[:j, j])))
        _vectors.require_equal(float(found[worst]), float(self.projected[worst, j]), self.asymmetry * self.scale)

    def ritz(self) -> tuple[Floats, Floats, Floats]:
        """Ritz values (n,) ascending, their residuals (n,) and coefficients (n, n) in the basis."""
        values, vectors = np.linalg.eigh(self.projected[: self.size, : self.size])
        self.scale = max(self.scale, float(np.abs(values).max()))
        return values, self.residual * np.abs(vectors[-1]), vectors

    def restart(self, order: Order, keep: int) -> None:
        """Keep the Ritz vectors that are wanted most and the next vector."""
        values, _, vectors = self.ritz()
        kept = order(values)[:keep]
        couplings = self.residual * vectors[-1, kept]
        following = self.size
        _vectors.rotate(self.rows[:following], vectors[:, kept])
        self.rows[keep][:] = self.rows[following]
        self.projected[:] = 0.0
        self.projected[np.arange(keep), np.arange(keep)] = values[kept]
        self.projected[:keep, keep] = self.projected[keep, :keep] = couplings
        self.size = self.border = keep

    def run(self, goal: Goal, wanted: Callable[[Floats], npt.NDArray[np.int64]], at_least: int) -> bool:
        """Steps until all that `wanted` picks among the Ritz values have converged; whether they have.

        Not before `at_least` steps, and not after the budget is spent.
        """
        next_check = min(at_least, self.capacity)
        before: tuple[int, float] | None = None
        while not self.budget.spent:
            self.step()
            full = self.size == self.capacity
            if self.size < next_check and not full:
                continue
            values, residuals, _ = self.ritz()
            picked = wanted(values)
            ratios = residuals[picked] / goal.allowed(values[picked], self.scale, self.noise)
            self._note(ratios <= 1)
            worst = float(ratios.max(initial=0.0))
            if worst <= 1 and self.size >= min(at_least, self.capacity):
                return True
            steps = 1 if self._looks_cost_little() else _steps_to_go(before, (self.size, worst))
            next_check, before = self.size + steps, (self.size, worst)
            if full and not self.budget.spent:
                keep = min(picked.size + (self.capacity - picked.size) // 2, self.capacity - 1)
                self.restart(goal.order, keep)
                next_check, before = keep + 1, None
        return False

    def _looks_cost_little(self) -> bool:
        """Whether the Ritz values, some 10 n^3 operations, cost less than orthogonalising a step's vector, 4 n D."""
        return 10 * self.size**2 <= 4 * self.operator.dimension

    def _note(self, converged: npt.NDArray[np.bool_]) -> None:
        """Since how many products the i-th most wanted pair has been converged."""
        before = np.append(self.converged_after, np.full(converged.size, -1))[: converged.size]
        self.converged_after = np.where(converged, np.where(before < 0, self.budget.done, before), -1)


def _steps_to_go(before: tuple[int, float] | None, now: tuple[int, float]) -> int:
    """Steps to the next look at the Ritz values: half of those that the residuals' fall so far promises."""
    if before is None or not 1 < now[1] < before[1]:
        return max(1, now[0] // 10)
    rate = math.log(before[1] / now[1]) / (now[0] - before[0])
    return max(1, min(int(math.log(now[1]) / rate / 2), now[0] // 5))
