"""A draw of the random model: logits, labels and logit gradients, as a source for every statistic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rmtland._arguments import flag, require_memory
from rmtland.landscape.kernels import apply_logit_hessian, fill_gauss_newton, softmax, weighted_rows
from rmtland.logits.gradients import default_chunk_size, example_slices
from rmtland.logits.losses import CrossEntropy


@dataclass(frozen=True)
class _CompiledCrossEntropy(CrossEntropy):
    """Cross-entropy on a draw's NumPy arrays, its products with the logit Hessian in one compiled sweep."""

    def hessian_product(
        self, outputs: npt.NDArray[np.float64], tangents: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """P u - p (p.u), (n, C, k)."""
        product: npt.NDArray[np.float64] = apply_logit_hessian(softmax(np.ascontiguousarray(outputs)), tangents)
        return product


@dataclass(frozen=True, eq=False)
class _DrawChunk:
    """A slice of a draw; the sum of means and residuals is taken in products, stored only where `dense` is asked for.

    `centres` (G, C, D) are the means of J: one for all examples (G = 1), or one per class; `groups` (n,) says which.
    """

    logits: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    centres: npt.NDArray[np.float64]
    groups: npt.NDArray[np.int64]
    residuals: npt.NDArray[np.float64]

    def jvp(self, tangents: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """J V, (n, C, k)."""
        n, num_classes, num_parameters = self.residuals.shape
        rows = self.residuals.reshape(n * num_classes, num_parameters) @ tangents
        product: npt.NDArray[np.float64] = rows.reshape(n, num_classes, -1) + (self.centres @ tangents)[self.groups]
        return product

    def vjp(self, cotangents: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """J^T U, (D, k)."""
        n, num_classes, num_parameters = self.residuals.shape
        rows = self.residuals.reshape(n * num_classes, num_parameters)
        product: npt.NDArray[np.float64] = rows.T @ cotangents.reshape(n * num_classes, -1)
        for group, centre in enumerate(self.centres):
            product += centre.T @ cotangents[self.groups == group].sum(axis=0)
        return product

    def weighted_rows(self, num_examples: int) -> npt.NDArray[np.float64]:
        """L_mu^T J_mu / sqrt(num_examples), (n (C - 1), D), in one sweep over the residuals."""
        return weighted_rows(
            softmax(np.ascontiguousarray(self.logits)), self.centres, self.groups, self.residuals, num_examples
        )

    def dense(self, parameters: slice = slice(None)) -> npt.NDArray[np.float64]:
        """J, (n, C, d)."""
        gradients: npt.NDArray[np.float64] = self.centres[:, :, parameters][self.groups]
        gradients += self.residuals[:, :, parameters]
        return gradients


@dataclass(frozen=True, eq=False)
class LandscapeDraw:
    """One draw of a landscape model; a source of logit gradients.

    Attributes
    ----------
    logits : ndarray (N, C)
    labels : ndarray (N,)
    mean_gradients : ndarray (C, D)
        The c_k that were drawn (`logit_scales(draw).mean_gradients` is their estimate from the draw).
    residuals : ndarray (N, C, D)
        E; the logit gradients are mean_gradients + residuals.
    class_gradients : ndarray (C, C, D), optional
        Entry [k, y] is d_{k,y}, added to logit k at the examples of class y.
    h_term : ndarray (D, D), optional
        What the curvature of the logits adds to the Gauss-Newton matrix in the Hessian; not seen by the source's
        statistics.
    """

    logits: npt.NDArray[np.float64] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    mean_gradients: npt.NDArray[np.float64] = field(repr=False)
    residuals: npt.NDArray[np.float64] = field(repr=False)
    class_gradients: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    h_term: npt.NDArray[np.float64] | None = field(default=None, repr=False, kw_only=True)
    loss: CrossEntropy = field(default_factory=_CompiledCrossEntropy, kw_only=True)

    @property
    def num_examples(self) -> int:
        """N."""
        return int(self.residuals.shape[0])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.residuals.shape[1])

    @property
    def num_parameters(self) -> int:
        """D."""
        return int(self.residuals.shape[2])

    @property
    def parameter_groups(self) -> Mapping[str, slice]:
        """One group of all: a draw has no layers."""
        return {"all": slice(0, self.num_parameters)}

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Softmax of the logits, (N, C)."""
        return softmax(np.ascontiguousarray(self.logits))

    def chunks(self) -> Iterator[_DrawChunk]:
        """Slices of the arrays, 32 MiB of logit gradients each."""
        size = default_chunk_size(self.num_examples, 8 * self.num_classes * self.num_parameters)
        centres, groups = self._centres()
        for part in example_slices(self.num_examples, size):
            yield _DrawChunk(self.logits[part], self.labels[part], centres, groups[part], self.residuals[part])

    def _centres(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Means of the logit gradients (G, C, D), of all examples or of each class, and which an example has (N,)."""
        if self.class_gradients is None:
            return self.mean_gradients[None], np.zeros(self.num_examples, dtype=np.int64)
        # Class first, so that an example's (C, D) lies in one piece.
        return np.ascontiguousarray((self.mean_gradients[:, None] + self.class_gradients).swapaxes(0, 1)), self.labels

    def reduce(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """`x`: a draw lives in one process."""
        return x

    def hessian(self, cross_terms: bool = True) -> npt.NDArray[np.float64]:
        """The model's Hessian: its Gauss-Newton matrix and, where the model has one, the H-term.

        Parameters
        ----------
        cross_terms : bool
            True: eq. (10), all of (1/N) sum_mu (c + E)^T A (c + E). False: eq. (16), without the products of c and E;
            at the paper's sizes that lowers the outliers by 2 to 7% at sigma_z = 15 and by less than 0.5% at 1. With
            class gradients d every product of two different ones of c, d and E is left out.

        Returns
        -------
        ndarray (D, D)
            Symmetric, without an H-term of rank at most N (C - 1).

        Raises
        ------
        MemoryError
            Where D x D does not fit; use `gauss_newton(draw)` or `gauss_newton_spectrum(draw)` instead.

        References
        ----------
        Fort and Ganguli (2019), eqs. (10) and (16).
        """
        side = self.num_parameters
        rows = self.num_examples * (self.num_classes - 1)
        require_memory(
            f"the {side} x {side} Hessian", 8.0 * (side * side + rows * side), "use gauss_newton_spectrum(draw)"
        )
        probabilities = self.probabilities
        groups = np.zeros(self.num_examples, dtype=np.int64)
        if flag("cross_terms", cross_terms):
            whole = weighted_rows(probabilities, *self._centres(), self.residuals, self.num_examples)
            return self._with_h_term(fill_gauss_newton(whole))
        nothing = np.zeros((1, self.num_classes, side))
        hessian = fill_gauss_newton(weighted_rows(probabilities, nothing, groups, self.residuals, self.num_examples))
        hessian += self.mean_gradients.T @ mean_curvature(self.logits) @ self.mean_gradients
        if self.class_gradients is not None:
            for y in np.unique(self.labels):
                own = self.class_gradients[:, y]
                share = np.mean(self.labels == y)
                hessian += share * (own.T @ mean_curvature(self.logits[self.labels == y]) @ own)
        return self._with_h_term(hessian)

    def _with_h_term(self, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.h_term is not None:
            matrix += self.h_term
        return matrix


def mean_curvature(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P = (1/N) sum_mu A_mu, (C, C), the matrix of eq. (16)'s first term."""
    # Through the factors of A_mu: diag(p) - p p^T would cancel where the probabilities are frozen.
    factor = CrossEntropy().hessian_factor(logits)
    columns = np.moveaxis(factor, 1, 0).reshape(logits.shape[1], -1)
    matrix: npt.NDArray[np.float64] = columns @ columns.T / logits.shape[0]
    return matrix
