"""The quantities that every rung reports: from all eigenvalues, from products alone, or from the theory."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rmtland._arrays import Array, to_numpy
from rmtland.comparison.result import NUM_TOP, QUANTITIES, Rung
from rmtland.logits.confinement import DENSE_LIMIT
from rmtland.spectra.density import spectral_density
from rmtland.spectra.eigenpairs import Eigenpairs
from rmtland.spectra.operators import SymmetricOperator
from rmtland.spectra.outliers import count_outliers
from rmtland.spectra.partial import partial_spectrum

Floats = npt.NDArray[np.float64]

NUM_PRODUCTS = 300
"""Products with a matrix too large to diagonalise, unless told: enough for some thirty eigenpairs to converge."""


class Clustered(Protocol):
    """q-values, measured or predicted."""

    @property
    def same_logit_same_class(self) -> float:
        """q_SLSC."""

    @property
    def same_logit(self) -> float:
        """q_SL."""

    @property
    def different_logits(self) -> float:
        """q_DL."""


class Predictions(Protocol):
    """What a theory of the landscape says of outliers, gradient and ratio."""

    @property
    def num_parameters(self) -> int:
        """D."""

    @property
    def bulk_edge(self) -> float:
        """Right edge of the bulk."""

    def count_above(self, x: float) -> float:
        """Expected number of eigenvalues above x."""

    def outliers(self) -> Floats:
        """The C - 1 largest eigenvalues, ascending."""

    def gradient_power(self, num_directions: int) -> float:
        """Share of the squared gradient in the top directions."""

    @property
    def trace(self) -> float:
        """Mean trace."""

    @property
    def frobenius(self) -> float:
        """Root mean squared Frobenius norm."""


@dataclass(frozen=True)
class Reporter:
    """Makes rungs of spectra.

    Attributes
    ----------
    num_classes : int
        C.
    method : str
        Rule of `count_outliers`.
    num_products : int
        Products for a matrix too large to diagonalise: half of them at the most for its top, a fifth for trace and
        norm, the rest for its density.
    hierarchy : bool
        Whether G and its models are to say what A1, A2, B1 and B2 are like.
    with_theory : bool, optional
        Whether the theory's predictions are to stand beside a model's draws; None: where they take seconds.
    """

    num_classes: int
    method: str
    num_products: int = NUM_PRODUCTS
    hierarchy: bool = False
    with_theory: bool | None = False

    def spectrum(
        self,
        eigenvalues: Floats,
        powers: Floats,
        q: Clustered | None = None,
        sums: tuple[float, float] | None = None,
    ) -> Rung:
        """Report one matrix whose nonzero eigenvalues (r,) are all known, with the gradient's powers (r,) in each.

        Or the top of one, with trace and norm of the whole in `sums`.
        """
        if sums is None:
            sums = float(eigenvalues.sum()), float(np.linalg.norm(eigenvalues))
        return self._rung(eigenvalues, powers, sums, q)

    def operator(
        self,
        operator: SymmetricOperator,
        slope: Floats,
        rng: np.random.Generator,
        q: Clustered | None = None,
        trace: float | None = None,
        told: Callable[[int | None], None] | None = None,
    ) -> Rung:
        """Report a matrix known by its products: exactly up to `DENSE_LIMIT` parameters, else its top and estimates.

        The 3 C + 1 largest eigenvalues come from a Lanczos iteration with a random start, each with the norm of its
        residual as error, large where the products did not suffice for it; the rest of the spectrum, its trace (unless
        given) and its norm from random probes beyond them, with standard errors. `told` hears of every product.
        """
        norm = float(np.linalg.norm(slope))
        if operator.dimension <= DENSE_LIMIT:
            eigenvalues, vectors = np.linalg.eigh(operator.to_dense())
            return self.spectrum(eigenvalues, _powers(vectors, slope, norm), q)
        if told is not None:
            operator = _telling(operator, told)
        of_top, of_density = rng.spawn(2)
        half, fifth = self.num_products // 2, self.num_products // 5
        count = min(3 * self.num_classes + 1, operator.dimension - 1, half - 8)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*eigenpairs did not converge", RuntimeWarning)  # their errors tell
            found = partial_spectrum(operator, count, trace=trace, num_probes=fifth, max_products=half, rng=of_top)
        pairs = found.pairs
        steps = (self.num_products - half - fifth) // 2
        density = spectral_density(operator, num_probes=2, num_steps=steps, deflate=_converged(pairs), rng=of_density)
        powers = _powers(to_numpy(pairs.eigenvectors).astype(np.float64, copy=False), slope, norm)
        rung = self._rung(pairs.eigenvalues, powers, (found.trace, found.frobenius), q)
        top = pairs.residuals[::-1]
        errors = {f"eigenvalue_{i + 1}": float(top[i]) for i in range(min(NUM_TOP, top.size))}
        errors |= {"top_eigenvalue": float(top[0]), "trace": found.trace_error}
        errors |= {"frobenius_norm": found.frobenius_error, "goldilocks_ratio": found.ratio_error}
        return Rung(rung.values, rung.eigenvalues, rung.powers, errors, density)

    def theory(self, theory: Predictions, q: Clustered | None = None) -> Rung:
        """Report what the theory expects: the C - 1 outliers, and the power up to each."""
        outliers, predicted = theory.outliers(), self.predicted(theory)
        # A layer may have fewer parameters than there are outliers.
        cumulative = [theory.gradient_power(min(k, theory.num_parameters)) for k in range(1, outliers.size)]
        powers = np.diff([*cumulative, predicted["gradient_power_C_minus_1"]], prepend=0.0)[::-1]
        return _rung_of({**_q_values(q), **predicted}, outliers, powers)

    def predicted(self, theory: Predictions) -> dict[str, float]:
        """The same but for the power up to each outlier, which takes an integral for every one of them."""
        outliers, most = theory.outliers(), theory.num_parameters
        found = {f"eigenvalue_{i + 1}": float(x) for i, x in enumerate(outliers[::-1][:NUM_TOP])}
        found |= {
            "top_eigenvalue": float(outliers[-1]),
            "num_above_edge": _count_above_edge(theory),
            "gradient_power_C_minus_1": theory.gradient_power(min(outliers.size, most)),
            "gradient_power_C": theory.gradient_power(min(self.num_classes, most)),
            "trace": theory.trace,
            "frobenius_norm": theory.frobenius,
            "goldilocks_ratio": theory.trace / theory.frobenius if theory.frobenius > 0 else math.nan,
        }
        return found

    def _rung(self, eigenvalues: Floats, powers: Floats, sums: tuple[float, float], q: Clustered | None) -> Rung:
        trace, norm = sums
        top = eigenvalues[::-1]
        values = _q_values(q)
        values |= {f"eigenvalue_{i + 1}": float(top[i]) for i in range(min(NUM_TOP, top.size))}
        values["num_outliers"] = self._count(eigenvalues)
        values["gradient_power_C_minus_1"] = float(powers[::-1][: self.num_classes - 1].sum())
        values["gradient_power_C"] = float(powers[::-1][: self.num_classes].sum())
        values["trace"], values["frobenius_norm"] = trace, norm
        values["goldilocks_ratio"] = trace / norm if norm > 0 else math.nan
        values["top_eigenvalue"] = float(top[0]) if top.size else 0.0
        return _rung_of(values, eigenvalues, powers)

    def _count(self, eigenvalues: Floats) -> float:
        if np.count_nonzero(eigenvalues > 0) < 2:
            return math.nan
        if eigenvalues.size < self.num_classes:  # rung (h) has nothing but its outliers
            return float(np.count_nonzero(eigenvalues > eigenvalues[-1] * 1e-12))
        return float(count_outliers(eigenvalues, self.method, max_outliers=3 * self.num_classes))


def _count_above_edge(theory: Predictions) -> float:
    """Expected number of eigenvalues beyond the bulk of the residuals: class gradients have some beside the C - 1."""
    edge = theory.bulk_edge
    return theory.count_above(edge) if math.isfinite(edge) else 0.0 if edge > 0 else math.nan


def _q_values(q: Clustered | None) -> dict[str, float]:
    names = () if q is None else ("same_logit_same_class", "same_logit", "different_logits")
    return {f"q_{name}": getattr(q, name) for name in names}


def _rung_of(values: dict[str, float], eigenvalues: Floats, powers: Floats) -> Rung:
    """One matrix or one theory, with NaN for what it does not have."""
    arrays = {quantity: np.array([values.get(quantity, math.nan)]) for quantity in QUANTITIES}
    return Rung(arrays, eigenvalues[None, :], powers[None, :])


def _telling(operator: SymmetricOperator, told: Callable[[int | None], None]) -> SymmetricOperator:
    """The operator, telling how many products it has done."""
    done = 0

    def multiply(block: Array) -> Array:
        nonlocal done
        product = operator.multiply(block)
        done += int(block.shape[1])
        told(done)
        return product

    return SymmetricOperator(multiply, operator.dimension, operator.prototype, rounding=operator.rounding)


def _converged(pairs: Eigenpairs) -> Eigenpairs | int:
    """Those that converged, or 0 where none did: what the density may take out."""
    kept = pairs.converged
    if not kept.any():
        return 0
    columns = np.flatnonzero(kept).tolist()
    return dataclasses.replace(
        pairs, eigenvalues=pairs.eigenvalues[kept], eigenvectors=pairs.eigenvectors[:, columns],
        residuals=pairs.residuals[kept], converged=pairs.converged[kept], converged_after=pairs.converged_after[kept],
    )  # fmt: skip


def _powers(vectors: Floats, slope: Floats, norm: float) -> Floats:
    """Share of the squared gradient along each column; NaN for a gradient of zero."""
    if norm == 0:
        return np.full(vectors.shape[1], math.nan)
    powers: Floats = (vectors.T @ (slope / norm)) ** 2
    return powers


def stacked(draws: list[Rung]) -> Rung:
    """Single draws as one rung; reduced draws leave out zeros, as many as they please, which are filled in."""
    size = max(draw.eigenvalues.shape[1] for draw in draws)

    def padded(values: Floats) -> Floats:
        return np.pad(values, ((0, 0), (size - values.shape[1], 0)))

    return Rung(
        {quantity: np.concatenate([draw.values[quantity] for draw in draws]) for quantity in draws[0].values},
        np.concatenate([padded(draw.eigenvalues) for draw in draws]),
        np.concatenate([padded(draw.powers) for draw in draws]),
    )
