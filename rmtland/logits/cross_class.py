"""Class means and cross-class means of logit gradients: what the hierarchy of G is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from rmtland._arguments import flag, require_memory
from rmtland._arrays import Array, double, like, namespace, to_numpy, told, zeros
from rmtland.logits.accumulate import SharedChunk, SumAccumulator, accumulate_one, prototype
from rmtland.logits.gradients import LogitGradients, SoftmaxChunk, SoftmaxView
from rmtland.logits.losses import CrossEntropy
from rmtland.logits.rows import RowsChunk, require_finite

PAIRS_BYTES = 2**30
"""Cross-class means are kept unasked where all C^2 of them take no more than this."""


@dataclass(frozen=True, eq=False)
class CrossClassMeans:
    """Class means g_c and cross-class means g_{c,c'} of the examples' gradients, with their weights.

    g_{i,c,c'} = J_i^T (e_c' - p_i) is minus the loss gradient of example i, of class c, were its label c'. g_{c,c'} is
    its mean over class c with weights p_{i,c'}; g_c is the mean of g_{c,c'} over c' != c with weights p_{c,c'}. A mean
    whose weights are all zero is zero. Where pairs are kept, so are p_{c,c} and g_{c,c} of a class whose examples are
    mistaken so surely that sums over the others know nothing of it.

    Attributes
    ----------
    num_examples : float
        N, or the sum of the examples' weights; what everything is divided by.
    class_sizes : ndarray (C,)
        Examples of each class, whatever their weights.
    pair_weights : ndarray (C, C)
        p_{c,c'} = sum_i p_{i,c'} over class c. Their sum is N.
    class_sums : array (C, D)
        p_c g_c, float64 in the library of the source.
    pair_factor : array (C, C, D) or None
        sqrt(p_{c,c'} / N) g_{c,c'}, float64: the columns of F in A1 + A2 + B1 = F F^T. None where it was not kept.
    """

    num_examples: float
    class_sizes: npt.NDArray[np.float64]
    pair_weights: npt.NDArray[np.float64]
    class_sums: Array
    pair_factor: Array | None = None

    __repr__ = told

    @classmethod
    def from_sums(
        cls, num_examples: float, class_sizes: Array, pair_weights: Array, sums: Array, *, tiny: float = 0.0,
        rounding: float = 2.0**-52,
    ) -> CrossClassMeans:  # fmt: skip
        """The means from what `CrossClassMeansAccumulator` adds up, over all examples or some.

        Parameters
        ----------
        num_examples : float
            How many went in, or the sum of their weights.
        class_sizes : array (C,)
        pair_weights : array (C, C)
        sums : array (C, C, D) or (C, D)
            p_{c,c'} g_{c,c'} for c' != c (the diagonal is not read), which `pair_factor` overwrites; or p_c g_c.
        tiny : float
            Weights up to this are taken for zeros.
        rounding : float
            Relative, of the sums over pairs: that of the own class is known from the others' alone.

        Returns
        -------
        CrossClassMeans

        Raises
        ------
        ValueError
            For sums that are not finite.
        """
        require_finite(sums)
        weights = to_numpy(pair_weights).astype(np.float64)
        weights = np.where(weights > tiny, weights, 0.0)
        sizes = to_numpy(class_sizes).astype(np.float64)
        if sums.ndim == 2:
            return cls(num_examples, sizes, weights, sums)
        weights = known_weights(weights, rounding)
        class_sums = zeros(sums, (sums.shape[0], sums.shape[2]))
        for c in range(sums.shape[0]):
            class_sums[c, :] = _to_factor(sums[c, ...], c, num_examples * weights[c])
        return cls(num_examples, sizes, weights, class_sums, sums)

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.pair_weights.shape[0])

    @property
    def num_parameters(self) -> int:
        """D."""
        return int(self.class_sums.shape[1])

    @property
    def class_weights(self) -> npt.NDArray[np.float64]:
        """p_c, the sum of p_{c,c'} over c' != c, (C,): small where the class is told from the others."""
        others = self.pair_weights * (1 - np.eye(self.num_classes))
        total: npt.NDArray[np.float64] = others.sum(axis=1)
        return total

    @property
    def inverse_pair_weights(self) -> npt.NDArray[np.float64]:
        """1 / p_{c,c'}, (C, C), and zero for zero."""
        return _inverse(self.pair_weights)

    @property
    def pair_shares(self) -> npt.NDArray[np.float64]:
        """Roots of p_{c,c'} / p_c, (C, C), zero at c' = c: sqrt(p_c) g_c is their sum of sqrt(p_{c,c'}) g_{c,c'}."""
        others = self.pair_weights * (1 - np.eye(self.num_classes))
        shares: npt.NDArray[np.float64] = np.sqrt(others * _inverse(self.class_weights)[:, None])
        return shares

    @property
    def class_means(self) -> Array:
        """g_c, (C, D)."""
        return self._scaled(self.class_sums, _inverse(self.class_weights))

    @property
    def pair_means(self) -> Array:
        """g_{c,c'}, (C, C, D), class first; another C^2 D numbers.

        Raises
        ------
        MemoryError
            Where `pair_factor` was not kept, or a copy of it does not fit.
        """
        factor = self.kept_factor("pair_means")
        require_memory(f"{self.num_classes}^2 cross-class means", 8.0 * np.prod(factor.shape), "use pair_factor")
        return self._scaled(factor, np.sqrt(self.num_examples * self.inverse_pair_weights))

    @property
    def class_factor(self) -> Array:
        """sqrt(p_c / N) g_c, (C, D): the columns of F in A1 = F F^T."""
        return self._scaled(self.class_sums, np.sqrt(_inverse(self.class_weights) / self.num_examples))

    @property
    def own_factor(self) -> Array:
        """sqrt(p_{c,c} / N) g_{c,c}, (C, D): the columns of F in A2 = F F^T.

        Parallel to `class_factor`: g_{c,c} = -(p_c / p_{c,c}) g_c.
        """
        return self._scaled(self.class_sums, -np.sqrt(_inverse(np.diag(self.pair_weights)) / self.num_examples))

    def kept_factor(self, what: str = "pair_factor") -> Array:
        """`pair_factor`; MemoryError where it was not kept."""
        if self.pair_factor is None:
            gigabytes = 8 * self.num_classes**2 * self.num_parameters / 2**30
            raise MemoryError(
                f"`{what}` needs the {self.num_classes}^2 cross-class means, {gigabytes:.3g} GiB, which were not kept: "
                "keep_pairs=True keeps them; or use products with the operators instead"
            )
        return self.pair_factor

    def restricted(self, parameters: slice) -> CrossClassMeans:
        """The same in some of the parameters; views, no copies."""
        factor = None if self.pair_factor is None else self.pair_factor[:, :, parameters]
        return CrossClassMeans(
            self.num_examples, self.class_sizes, self.pair_weights, self.class_sums[:, parameters], factor
        )

    def _scaled(self, vectors: Array, scale: npt.NDArray[np.float64]) -> Array:
        return vectors * like(vectors, scale)[..., None]


def known_weights(weights: npt.NDArray[np.float64], rounding: float) -> npt.NDArray[np.float64]:
    """Pair weights (C, C), zero for an own class whose mean is lost in the rounding of sums over the others."""
    own = np.eye(len(weights), dtype=bool)
    others = np.sum(weights * ~own, axis=1, keepdims=True)
    return np.where(own & (weights <= rounding * others), 0.0, weights)


def _to_factor(sums: Array, c: int, weights: npt.NDArray[np.float64]) -> Array:
    """The sums p_{c,c'} g_{c,c'} of a class (C, D) made into rows of the factor, in place; p_c g_c.

    `weights` are N p_{c,c'}, (C,).
    """
    total = zeros(sums, tuple(sums.shape[1:]))
    for other in range(sums.shape[0]):
        if other == c or weights[other] == 0:
            sums[other, :] = 0
            continue
        total += sums[other, :]
        sums[other, :] /= float(np.sqrt(weights[other]))
    if weights[c] > 0:
        # sum_c' p_{i,c'} g_{i,c,c'} = 0: the own class's sum is minus that of the others.
        sums[c, :] = total / -float(np.sqrt(weights[c]))
    return total


def _inverse(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / weights, and zero for zero."""
    inverse: npt.NDArray[np.float64] = (weights > 0) / np.where(weights > 0, weights, 1.0)
    return inverse


@dataclass(frozen=True)
class CrossClassMeansAccumulator(SumAccumulator[Any]):
    """The sums behind the hierarchy as an accumulator, for `measure`.

    Parameters
    ----------
    keep_pairs : bool, optional
        Whether all C^2 cross-class means are kept, C^2 D numbers, at the price of C - 1 gradients; else the C class
        means are, at the price of one. By default they are kept up to 1 GiB.

    Notes
    -----
    The state is (sums, pair weights, class sizes), which add up: what `CrossClassMeans.from_sums` takes.
    """

    keep_pairs: bool | None = None
    by_example: ClassVar[bool] = True

    def start(self, source: LogitGradients) -> None:
        """Nothing yet; ValueError for a loss without softmax, MemoryError where what is kept will not fit."""
        if self.keep_pairs is not None:
            flag("keep_pairs", self.keep_pairs)
        if not isinstance(source.loss, CrossEntropy):
            raise ValueError(f"`source` must have softmax outputs (CrossEntropy); got {source.loss!r}")
        if not self.keeps(source):
            require_memory(
                f"the means of {source.num_classes} classes in {source.num_parameters} parameters",
                8.0 * 2 * source.num_classes * source.num_parameters,
                "take a source of fewer classes or parameters",
            )
        else:
            require_memory(
                f"the {source.num_classes}^2 cross-class means in {source.num_parameters} parameters",
                8.0 * source.num_classes * (len(self._classes(source.num_classes)) + 2) * source.num_parameters,
                "use keep_pairs=False",
            )

    def keeps(self, source: LogitGradients) -> bool:
        """Whether the cross-class means of this source are kept."""
        if self.keep_pairs is None:
            return 8 * source.num_classes**2 * source.num_parameters <= PAIRS_BYTES
        return self.keep_pairs

    def add(self, state: tuple[Array, ...] | None, chunk: SharedChunk) -> tuple[Array, ...]:
        """The sums with those of a chunk."""
        own = double(chunk.own)
        num_classes, source = chunk.source.num_classes, chunk.source
        keeps = self.keeps(source)
        classes = self._classes(num_classes)
        if state is None:
            between = (len(classes), num_classes) if keeps else (num_classes,)
            shapes = ((*between, source.num_parameters), (num_classes, num_classes), (num_classes,))
            state = tuple(zeros(own, shape) for shape in shapes)
        sums, pair_weights, class_sizes = state
        xp = namespace(own)
        weighted = own if chunk.weights is None else own * like(own, chunk.weights)[:, None]
        pair_weights += weighted.T @ chunk.loss.loss.probabilities(double(chunk.logits))
        class_sizes += xp.sum(own, axis=0)
        if not own.shape[0]:  # a rank may be without examples
            return state
        if not keeps:
            sums += double(chunk.rows(like(chunk.logits, -_own_columns(chunk, own))).sums(own))
        elif (view := _softmax_view(chunk)) is not None:
            columns = chunk.loss.hessian_product(_identities(own))
            view.add_class_sums(sums, like(chunk.logits, columns), classes)
        elif isinstance(chunk, RowsChunk) or isinstance(chunk.chunk, RowsChunk):
            for step in range(1, num_classes):
                by_class = chunk.cross_class_rows(step).sums(own[:, classes.start : classes.stop])
                for place, c in enumerate(classes):
                    sums[place, (c + step) % num_classes, :] += double(by_class[place, :])
        else:
            _add_dense(sums, chunk, classes)
        return state

    def _classes(self, num_classes: int) -> range:
        """Of which classes all pairs are kept."""
        return range(num_classes)

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> CrossClassMeans:
        """The means, and the weights of the examples to scale them by."""
        return CrossClassMeans.from_sums(source.num_examples, sums[2], sums[1], sums[0], **_limits(source))


@dataclass(frozen=True)
class PairRowsAccumulator(CrossClassMeansAccumulator):
    """The rows of `pair_factor` of some classes, (m, C, D), as an accumulator: all of them, a block at a time."""

    keep_pairs: bool | None = True
    classes: range = range(0)

    def _classes(self, num_classes: int) -> range:
        return self.classes

    def conclude(self, sums: tuple[Array, ...], source: LogitGradients) -> Any:
        """The rows."""
        rows, weights = sums[0], to_numpy(sums[1])
        require_finite(rows)
        limits = _limits(source)
        weights = known_weights(np.where(weights > limits["tiny"], weights, 0.0), limits["rounding"])
        weights *= source.num_examples
        for place, c in enumerate(self.classes):
            _to_factor(rows[place, ...], c, weights[c])
        return rows


def _limits(source: LogitGradients) -> dict[str, float]:
    """Of the dtype of products: `tiny` weights are zeros, as a pair whose probabilities underflow has no known mean."""
    products = prototype(source)
    limits = namespace(products).finfo(products.dtype)
    return {"tiny": float(limits.smallest_normal) / float(limits.eps), "rounding": float(limits.eps)}


def _own_columns(chunk: SharedChunk, own: Array) -> Array:
    """A_mu e_y, (n, C)."""
    return chunk.loss.hessian_product(own[:, :, None])[:, :, 0]


def _identities(own: Array) -> Array:
    """The identity for each example, (n, C, C)."""
    n, num_classes = own.shape
    return namespace(own).broadcast_to(like(own, np.eye(num_classes)), (n, num_classes, num_classes))


def _softmax_view(chunk: SharedChunk) -> SoftmaxView | None:
    return chunk.chunk.softmax_view() if isinstance(chunk.chunk, SoftmaxChunk) else None


def _add_dense(sums: Array, chunk: SharedChunk, classes: range) -> None:
    """Add the sums of a chunk whose logit gradients lie in memory: a matrix product for each class."""
    gradients = chunk.dense()
    num_classes = sums.shape[1]
    labels = to_numpy(chunk.labels)
    xp = namespace(sums)
    columns = chunk.loss.hessian_product(_identities(chunk.own))
    for place, c in enumerate(classes):
        some = xp.asarray(np.flatnonzero(labels == c), device=sums.device)
        rows = double(gradients[some, ...]).reshape(-1, gradients.shape[2])
        sums[place, ...] += columns[some, ...].reshape(-1, num_classes).T @ rows


def cross_class_means(source: LogitGradients, *, keep_pairs: bool | None = None) -> CrossClassMeans:
    """Class means, cross-class means and their weights: the low-rank part of the Gauss-Newton matrix.

    Parameters
    ----------
    source : LogitGradients
        With softmax outputs (`CrossEntropy`): a draw, a network, arrays; training or test examples.
    keep_pairs : bool, optional
        Whether all C^2 cross-class means are kept, 8 C^2 D bytes; by default where that is no more than 1 GiB.

    Returns
    -------
    CrossClassMeans

    Raises
    ------
    ValueError
        For another loss, NaN or infinite logit gradients.
    MemoryError
        Where the means asked for do not fit.

    Notes
    -----
    One pass. The sum of p_{i,c'} g_{i,c,c'} over a class is that of J_i^T A_i e_c': C - 1 backward passes, whose sums
    over examples are taken class by class, and one for the class means alone.

    References
    ----------
    Papyan (2019), Measurements of three-level hierarchical structure in the outliers in the spectrum of deepnet
    Hessians, eq. (7) of the summary. The number of examples divides, not n C: classes may differ in size.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=5, num_parameters=400).sample(rng=0)
    >>> means = rl.cross_class_means(draw)
    >>> means.pair_means.shape, round(float(means.pair_weights.sum()), 12)
    ((5, 5, 400), 100.0)
    """
    means: CrossClassMeans = accumulate_one(source, CrossClassMeansAccumulator(keep_pairs))
    return means
