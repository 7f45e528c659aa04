"""Papyan's hierarchy of the Gauss-Newton matrix, G = A1 + A2 + B1 + B2: operators, explicit factors, traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import choice, integer, require_memory
from rmtland._arrays import Array, double, like, namespace, to_numpy, zeros
from rmtland.logits.accumulate import (
    accumulate_by,
    accumulate_one,
    loss_at,
    prototype,
    sum_over_chunks,
)
from rmtland.logits.cross_class import (
    PAIRS_BYTES,
    CrossClassMeans,
    CrossClassMeansAccumulator,
    PairRowsAccumulator,
)
from rmtland.logits.gauss_newton import gauss_newton
from rmtland.logits.gradients import LogitGradients, LogitGradientsChunk, rounding
from rmtland.logits.pair_factor import PairFactor, at_own_class, pair_factor
from rmtland.logits.pair_gram import PairGram
from rmtland.logits.ranks import in_step
from rmtland.logits.restriction import RestrictedChunk, restricted_sources
from rmtland.logits.traces import ClassTraceAccumulator
from rmtland.spectra.operators import SymmetricOperator

Floats = npt.NDArray[np.float64]

LOW_RANK = ("A1", "A2", "B1")
PARTS = (*LOW_RANK, "B2")
"""The parts of G; those of low rank are made of means."""

PROBES = 4
"""Random vectors with which the sum of the parts is held against G."""


class Factors(Mapping[str, Array]):
    """Explicit factors F of the low-rank parts, A = F F^T, made when asked for; float64 in the library of the source.

    "A1" and "A2" are (D, C), "B1" is (D, C (C - 1)), by c, then c' != c; "A1 + A2 + B1" is (D, C^2), columns
    sqrt(p_{c,c'} / N) g_{c,c'} by c, then c'.
    """

    KEYS = (*LOW_RANK, "A1 + A2 + B1")

    __eq__, __hash__ = object.__eq__, object.__hash__  # a mapping's own would ask arrays whether they are true

    def __init__(self, means: CrossClassMeans) -> None:
        self._means = means

    def __repr__(self) -> str:
        return f"Factors({', '.join(self)}; of {self._means.num_classes} classes)"

    def __getitem__(self, part: str) -> Array:
        """A factor; MemoryError where the cross-class means that it takes were not kept, or it does not fit."""
        means = self._means
        if part not in self.KEYS:
            raise KeyError(part)
        if part == "A1":
            return means.class_factor.T
        if part == "A2":
            return means.own_factor.T
        rows = means.kept_factor(f"factors[{part!r}]")
        num_classes, _, size = rows.shape
        if part != "B1":
            return rows.reshape(-1, size).T
        require_memory("the factor of B1", 8.0 * num_classes**2 * size, "use products with B1")
        columns = zeros(rows, (num_classes, num_classes - 1, size))
        for c in range(num_classes):
            columns[c, :c, :], columns[c, c:, :] = rows[c, :c, :], rows[c, c + 1 :, :]
            shares = like(rows, np.delete(means.pair_shares[c], c))
            columns[c, ...] -= shares[:, None] * means.class_factor[c, :]
        return columns.reshape(-1, size).T

    def __iter__(self) -> Iterator[str]:
        """The keys."""
        return iter(self.KEYS)

    def __len__(self) -> int:
        """Four."""
        return len(self.KEYS)


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """G = A1 + A2 + B1 + B2: means of classes, means of pairs of classes, and examples about these.

    With g_{i,c,c'} = J_i^T (e_c' - p_i) and its means g_{c,c'} and g_c (`CrossClassMeans`):
    A1 = sum_c (p_c / N) g_c g_c^T, A2 = sum_c (p_{c,c} / N) g_{c,c} g_{c,c}^T,
    B1 = sum_{c' != c} (p_{c,c'} / N) (g_{c,c'} - g_c) (g_{c,c'} - g_c)^T and
    B2 = sum_i sum_c' (p_{i,c'} / N) (g_{i,c,c'} - g_{c,c'}) (g_{i,c,c'} - g_{c,c'})^T.

    Attributes
    ----------
    source : LogitGradients
    means : CrossClassMeans
        g_c, g_{c,c'} and their weights.
    """

    source: LogitGradients
    means: CrossClassMeans = field(repr=False)
    _class_traces: Callable[[], Floats] | None = field(default=None, repr=False)
    _known: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once.

        For what passes over the source: `cached_property` of Python 3.11 holds a
        lock meanwhile, which threads that wait for each other's sums cannot share.
        """
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]

    @cached_property
    def _pairs(self) -> PairFactor:
        return pair_factor(self.source, self.means)

    @cached_property
    def gram(self) -> PairGram:
        """Inner products of the cross-class means: eigenvalues, ranks and ranges of the low-rank parts."""
        return PairGram.of(self.means)

    @cached_property
    def gauss_newton(self) -> SymmetricOperator:
        """G."""
        return gauss_newton(self.source)

    @property
    def keeps_pairs(self) -> bool:
        """Whether the cross-class means are in memory."""
        return self.means.pair_factor is not None

    @property
    def factors(self) -> Factors:
        """Explicit factors of A1, A2, B1 and of their sum, by name."""
        return Factors(self.means)

    @cached_property
    def A1(self) -> SymmetricOperator:
        """sum_c (p_c / N) g_c g_c^T, of rank at most C."""
        return self._from_rows(self.means.class_factor)

    @cached_property
    def A2(self) -> SymmetricOperator:
        """sum_c (p_{c,c} / N) g_{c,c} g_{c,c}^T, whose range is that of A1."""
        return self._from_rows(self.means.own_factor)

    @cached_property
    def B1(self) -> SymmetricOperator:
        """The spread of g_{c,c'} about g_c over c' != c, of rank at most C (C - 2)."""
        means, classes = self.means, self.means.class_factor
        shares = like(classes, means.pair_shares)[:, :, None]
        others = like(classes, 1 - np.eye(means.num_classes))[:, :, None]  # pairs of a class with itself are A2's

        def multiply(block: Array) -> Array:
            along_means = (classes @ like(classes, block))[:, None, :]
            central = others * (self._pairs.coefficients(block) - shares * along_means)
            over_others = namespace(classes).sum(shares * central, axis=1)
            return self._pairs.combination(central) - classes.T @ over_others

        return self._operator(multiply)

    @cached_property
    def low_rank(self) -> SymmetricOperator:
        """A1 + A2 + B1 = F F^T, of rank at most C (C - 1)."""
        return self._operator(lambda block: self._pairs.combination(self._pairs.coefficients(block)))

    @cached_property
    def B2(self) -> SymmetricOperator:
        """The spread of the examples' g_{i,c,c'} about g_{c,c'}."""
        return self._within(None)

    def B2_of(self, c: int) -> SymmetricOperator:
        """What the examples of class `c` add to B2: B2 is the sum over classes."""
        return self._within(integer("c", c, at_least=0, at_most=self.means.num_classes - 1))

    def _within(self, c: int | None) -> SymmetricOperator:
        source = self.source
        unweighted = np.sqrt(self.means.num_examples) * np.sqrt(self.means.inverse_pair_weights)

        def multiply(block: Array) -> Array:
            along_pairs = self._pairs.coefficients(block)
            along_pairs = along_pairs * like(along_pairs, unweighted)[:, :, None]  # g_{c,c'} . v

            def terms(chunk: LogitGradientsChunk) -> tuple[Array, ...]:
                # A_i 1 = 0, so that A_i (J_i v - m) = p_i (g_i . v - m) less its mean: what B2 sums over examples.
                pushed = double(chunk.jvp(block)) - at_own_class(chunk, along_pairs)
                curved = loss_at(source, chunk).hessian_product(pushed) / source.num_examples
                if c is not None:
                    curved = curved * double(chunk.labels == c)[:, None, None]
                return (chunk.vjp(like(chunk.logits, curved)),)

            return sum_over_chunks(source, terms)[0]

        return self._operator(multiply)

    def knock_out(self, *parts: str) -> SymmetricOperator:
        """G without some of its parts, such as G - A1 - A2.

        Parameters
        ----------
        *parts : {"A1", "A2", "B1", "B2"}
            G - A1 still holds A2, which lies in the same directions: take out both.

        Returns
        -------
        SymmetricOperator

        Raises
        ------
        ValueError
            For another name, none at all, or all four.
        """
        for part in parts:
            choice("parts", part, PARTS)
        rest = tuple(part for part in PARTS if part not in parts)
        if rest in ((), PARTS):
            raise ValueError(f"`parts` must be one to three of {', '.join(PARTS)}; got {parts!r}")
        if "B2" not in parts:
            return self.gauss_newton - self._sum(tuple(part for part in LOW_RANK if part in parts))
        return self._sum(rest)  # of means alone, without a pass over the examples

    def _sum(self, parts: tuple[str, ...]) -> SymmetricOperator:
        if parts == LOW_RANK:
            return self.low_rank
        total: SymmetricOperator = getattr(self, parts[0])
        for part in parts[1:]:
            total = total + getattr(self, part)
        return total

    @property
    def residual_norm(self) -> float:
        """|A1 + A2 + B1 + B2 - G| / |G|, Frobenius norms by four random vectors: the rounding of products.

        Two passes over the source, more where the cross-class means are not kept.
        """
        found: float = self._once("residual_norm", self._residual_norm)
        return found

    def _residual_norm(self) -> float:
        probes = np.random.default_rng(0).standard_normal((self.gauss_newton.dimension, PROBES))
        whole = to_numpy(self.gauss_newton @ probes)
        total = sum(to_numpy(getattr(self, part) @ probes) for part in PARTS)
        size = float(np.linalg.norm(whole))
        difference = float(np.linalg.norm(total - whole))
        return difference / size if size > 0 else difference

    def eigenvalues(self, *parts: str) -> Floats:
        """Eigenvalues of A1, A2, B1 or a sum of some, ascending; by default of A1 + A2 + B1. See `PairGram`."""
        return self.gram.eigenvalues(*parts)

    @property
    def class_traces(self) -> Floats:
        """What the examples of each class add to the trace of G, (C,); one pass."""
        make = self._class_traces or (lambda: accumulate_one(self.source, ClassTraceAccumulator()))
        found: Floats = self._once("class", make)
        return found

    @property
    def low_rank_traces(self) -> dict[str, Floats]:
        """Traces of what each class adds to "A1", "A2" and "B1", (C,) each."""
        found: dict[str, Floats] = self._once("low rank", self._low_rank_traces)
        return found

    @property
    def traces(self) -> dict[str, float]:
        """Traces of "A1", "A2", "B1", "B2" and "G", exactly.

        Cross-class means that were not kept are found anew, 1 GiB of them in each pass.
        """
        low_rank = {part: float(values.sum()) for part, values in self.low_rank_traces.items()}
        whole = float(self.class_traces.sum())
        return {**low_rank, "B2": whole - sum(low_rank.values()), "G": whole}

    @property
    def B2_traces(self) -> Floats:
        """Traces of `B2_of` every class, (C,)."""
        return self.class_traces - sum(self.low_rank_traces.values())

    def _low_rank_traces(self) -> dict[str, Floats]:
        means = self.means
        classes, shares = means.class_factor, means.pair_shares
        between = np.zeros(means.num_classes)
        for c, rows in self._rows_by_class():
            for k in range(means.num_classes):
                if k != c:
                    row = rows[k, :] - float(shares[c, k]) * classes[c, :]
                    between[c] += float(row @ row)
        xp = namespace(classes)
        own = means.own_factor
        squares = [to_numpy(xp.stack([row @ row for row in rows])) for rows in (classes, own)]
        return {"A1": squares[0], "A2": squares[1], "B1": between}

    def _rows_by_class(self) -> Iterator[tuple[int, Array]]:
        """Each class with its rows (C, D) of F."""
        means = self.means
        if means.pair_factor is not None:
            yield from enumerate(means.pair_factor)
            return
        width = max(1, PAIRS_BYTES // (8 * means.num_classes * means.num_parameters))
        for start in range(0, means.num_classes, width):
            classes = range(start, min(start + width, means.num_classes))
            yield from zip(classes, accumulate_one(self.source, PairRowsAccumulator(classes=classes)), strict=True)

    def by_group(self) -> dict[str, Hierarchy]:
        """The hierarchy of each group of parameters, such as a network's tensors, by its name.

        The diagonal blocks of G and of its parts, from the same means; traces of all groups come from one pass.
        """
        views = restricted_sources(self.source)
        traces: dict[str, Any] = {}

        def of(name: str) -> Floats:
            if not traces:
                traces.update(accumulate_by(self.source, views, RestrictedChunk, {None: ClassTraceAccumulator()}))
            found: Floats = traces[name][None]
            return found

        return {
            name: Hierarchy(view, self.means.restricted(view.parameters), partial(of, name))
            for name, view in views.items()
        }

    def _from_rows(self, rows: Array) -> SymmetricOperator:
        return self._operator(lambda block: rows.T @ (rows @ like(rows, block)))

    def _operator(self, multiply: Callable[[Array], Array]) -> SymmetricOperator:
        kind = prototype(self.source)

        def product(block: Array) -> Array:
            with in_step(self.source, block):
                return like(kind, multiply(block))

        size, scale = self.means.num_parameters, self._scale
        return SymmetricOperator(product, size, kind, rounding_scale=scale, rounding=rounding(self.source))

    @cached_property
    def _scale(self) -> float:
        """About the norm of G: parts and knock-outs are differences of matrices of this size."""
        factor = self.means.class_factor
        own = self.means.own_factor
        return float(sum(float(row @ row) for rows in (factor, own) for row in rows))


def hierarchy(source: LogitGradients, *, keep_pairs: bool | None = None) -> Hierarchy:
    """Papyan's hierarchy of the Gauss-Newton matrix of any source with softmax outputs.

    Parameters
    ----------
    source : LogitGradients
        A draw, a network, arrays; training or test examples. Any loss with a softmax (`CrossEntropy`, also smoothed,
        weighted or with soft labels, which belong to the class that they favour).
    keep_pairs : bool, optional
        Whether all C^2 cross-class means are kept, 8 C^2 D bytes; by default where that is no more than 1 GiB. Without
        them products with B1 and B2 take another pass over the source, and eigenvalues and ranges of B1 cannot be had.

    Returns
    -------
    Hierarchy

    Raises
    ------
    ValueError
        For another loss, NaN or infinite logit gradients.
    MemoryError
        Where the means asked for do not fit.

    Notes
    -----
    One pass of C - 1 backward passes, of a single one without the cross-class means; everything else is computed when
    it is asked for. Three slips of the papers are mended. The centre of Sigma_c is g_c; with the printed g_c' the four
    parts do not add up to G. The normaliser is N, not n C, for classes of any sizes. And sum_c' p_{i,c'} g_{i,c,c'} = 0
    makes g_{c,c} = -(p_c / p_{c,c}) g_c exactly: A2 is parallel to A1, class by class, and A1 + A2 + B1 has rank
    C (C - 1) at most.

    References
    ----------
    Papyan (2018), The full spectrum of deepnet Hessians at scale, eq. (25); Papyan (2019), Measurements of three-level
    hierarchical structure in the outliers in the spectrum of deepnet Hessians, eq. (7) of its summary.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=60, num_classes=4, num_parameters=200).sample(rng=0)
    >>> parts = rl.hierarchy(draw)
    >>> parts.residual_norm < 1e-12, parts.factors["B1"].shape, parts.eigenvalues().shape
    (True, (200, 12), (12,))
    """
    return Hierarchy(source, accumulate_one(source, CrossClassMeansAccumulator(keep_pairs)))
