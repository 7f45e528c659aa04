"""Gradient laws with means as measured and residuals of any covariance, and the kernel law."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rmtland._arguments import finite_array, real, require_memory
from rmtland._arrays import told
from rmtland.landscape._matrices import by_logit, gram_matrix, mixing_matrices, symmetric
from rmtland.landscape.covariance import ResidualCovariance
from rmtland.landscape.gradient_laws import Gradients, QValues
from rmtland.landscape.weighted_rows import WeightedRows, gram_factor, rows_of_examples

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


class StructuredGradients(ABC):
    """A gradient law whose weighted rows are means and normal numbers, for reduced draws and theory."""

    @abstractmethod
    def weighted_rows(self, logits: Floats, labels: Labels, tolerance: float = 1e-10) -> WeightedRows:
        """The rows of the factor of G, given logits (N, C) and labels (N,)."""

    @abstractmethod
    def check(self, num_examples: int, num_classes: int) -> None:
        """ValueError where it is the law of another number of examples or classes."""

    @abstractmethod
    def q_values(self, num_classes: int, labels: npt.ArrayLike | None = None) -> QValues:
        """The clustering that draws of this law have."""


def check_structured(sigma_H: float, cross_terms: bool, shared_rows: bool = False) -> None:
    """ValueError for what these laws have no formula for."""
    if sigma_H > 0:
        raise ValueError(f"`sigma_H` must be 0 with this gradient law; got {sigma_H:g}")
    if not cross_terms:
        raise ValueError("`cross_terms` must be True with this gradient law, whose means are fixed; got False")
    if shared_rows:
        raise ValueError("`rows` must be left out with this gradient law")


@dataclass(frozen=True, eq=False)
class AnisotropicGradients(StructuredGradients):
    """dz_k/dW at example mu = r_mu,k m_{k,y(mu)} + sum_f L_mu,k,f v_f + E_k^mu: measured means, residuals of any shape.

    Parameters
    ----------
    mean_gram : array_like (Q, Q)
        Inner products of the mean rows, Q = C + F or C^2 + F: C means m_k or, in the order m_{1,1}, m_{1,2}, ... (logit
        first, then the class of the example), C^2 of them; then the F shared directions v_f, if any.
    residual_length : float
        Root mean square length of a residual E_k^mu, >= 0, where the shapes below are left out.
    covariance : ResidualCovariance
        Of the residuals in parameter space; by default the same in all directions.
    residual_scales : array_like (N,) or (N, C), optional
        By which the residuals of each example, or of each of its logits, are stretched.
    logit_covariance : array_like (C, C) or (N, C, C), optional
        Covariance of an example's residuals across its logits, in units of residual_length^2: of all examples, or each
        one's own. The identity by default.
    mean_scales : array_like (N,), (N, C) or (N, C, C), optional
        r: by which each example, or each of its logits, stretches its means; as matrices, how it mixes those of its
        logits.
    loadings : array_like (N, C, F), optional
        L: how much each logit gradient has of the shared directions.
    cancelling : array_like (N, C), optional
        b: the residuals are those for which sum_mu,k b_mu,k E_k^mu = 0. With b = p - y the shared directions have all
        that residuals add to the gradient; b is no further number then.

    Raises
    ------
    ValueError, TypeError
        For arrays of the wrong shape, not finite, scales below zero, or matrices that are no Gram matrices.

    Notes
    -----
    The means' directions are fixed in each draw but otherwise random: they have the Gram matrix exactly, and know
    nothing of the directions that the residuals prefer, but for the shared ones. E^mu = B_mu^(1/2) Z Sigma^(1/2): rows
    of one example correlate by B_mu, all residuals share Sigma. Laws with arrays by example belong to `GivenLogits`, as
    they are those of certain examples.

    References
    ----------
    Fort and Ganguli (2019), eqs. (14)-(15), for the law that this replaces; Papyan (2019) for means by class; Baik, Ben
    Arous and Peche (2005) for which shared directions a spectrum shows.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> law = rl.AnisotropicGradients(np.eye(3) + 0.2, 0.5, rl.ResidualCovariance.power_law(0.8, cut=200))
    >>> model = rl.LandscapeModel(50, 3, 10**6, rl.GaussianLogits(1.0), law)
    >>> theory = model.theory(rng=0)
    >>> bool(theory.outliers()[0] > theory.bulk_edge)
    True
    """

    mean_gram: npt.ArrayLike
    residual_length: float = 0.7
    covariance: ResidualCovariance = field(default_factory=ResidualCovariance)
    residual_scales: npt.ArrayLike | None = None
    logit_covariance: npt.ArrayLike | None = None
    mean_scales: npt.ArrayLike | None = None
    loadings: npt.ArrayLike | None = None
    cancelling: npt.ArrayLike | None = None

    __repr__ = told

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean_gram", gram_matrix("mean_gram", self.mean_gram))
        object.__setattr__(self, "residual_length", real("residual_length", self.residual_length, at_least=0))
        if not isinstance(self.covariance, ResidualCovariance):
            raise TypeError(f"`covariance` must be a ResidualCovariance; got {self.covariance!r}")
        for name in ("residual_scales", "mean_scales"):
            value = getattr(self, name)
            if value is not None:
                array = finite_array(name, value)
                matrices = name == "mean_scales" and array.ndim == 3
                if not matrices and (array.ndim not in (1, 2) or (array < 0).any()):
                    raise ValueError(
                        f"`{name}` must have shape (N,) or (N, C) and be >= 0; got {array.shape}, at least "
                        f"{array.min(initial=0.0):g}"
                    )
                object.__setattr__(self, name, array)
        if self.logit_covariance is not None:
            object.__setattr__(
                self, "logit_covariance", gram_matrix("logit_covariance", self.logit_covariance, stacked=True)
            )
        if self.loadings is not None:
            object.__setattr__(self, "loadings", finite_array("loadings", self.loadings, ndim=3))
        if self.cancelling is not None:
            object.__setattr__(self, "cancelling", finite_array("cancelling", self.cancelling, ndim=2))

    @classmethod
    def clustered(
        cls,
        num_classes: int,
        mean_length: float = 1.0,
        residual_length: float = 0.7,
        class_length: float = 0.0,
        covariance: ResidualCovariance | None = None,
    ) -> AnisotropicGradients:
        """Means of equal lengths at right angles, as `ClusteredGradients` has them on average, and any covariance.

        Parameters
        ----------
        num_classes : int
            C.
        mean_length, residual_length, class_length : float
            As of `ClusteredGradients`.
        covariance : ResidualCovariance, optional

        Returns
        -------
        AnisotropicGradients
        """
        mean, own = real("mean_length", mean_length, at_least=0), real("class_length", class_length, at_least=0)
        gram = mean**2 * np.eye(num_classes)
        if own > 0:
            gram = np.kron(gram, np.ones((num_classes, num_classes))) + own**2 * np.eye(num_classes**2)
        return cls(gram, residual_length, ResidualCovariance() if covariance is None else covariance)

    @property
    def num_factors(self) -> int:
        """F, the number of shared directions."""
        return 0 if self.loadings is None else int(np.shape(self.loadings)[2])

    @property
    def num_numbers(self) -> int:
        """How many numbers the law is given."""
        size = len(np.asarray(self.mean_gram))
        own = [self.residual_scales, self.mean_scales, self.loadings]
        total = size * (size + 1) // 2 + 1 + sum(np.size(value) for value in own if value is not None)
        if self.logit_covariance is not None:
            shape = np.shape(self.logit_covariance)
            total += int(np.prod(shape[:-2])) * shape[-1] * (shape[-1] + 1) // 2
        if not self.covariance.isotropic:
            total += int(np.asarray(self.covariance.eigenvalues).size)
        return int(total)

    def check(self, num_examples: int, num_classes: int) -> None:
        """ValueError where it is the law of another number of examples or classes."""
        size, c = len(np.asarray(self.mean_gram)) - self.num_factors, num_classes
        if size not in (c, c * c):
            raise ValueError(
                f"`mean_gram` must have C = {c} or C^2 = {c * c} rows, and one for each of {self.num_factors} shared "
                f"directions; got {size + self.num_factors}"
            )
        wanted = {
            "residual_scales": ((num_examples,), (num_examples, c)),
            "mean_scales": ((num_examples,), (num_examples, c), (num_examples, c, c)),
            "logit_covariance": ((c, c), (num_examples, c, c)),
            "loadings": ((num_examples, c, self.num_factors),),
            "cancelling": ((num_examples, c),),
        }
        for name, shapes in wanted.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) not in shapes:
                told = " or ".join(map(str, shapes))
                raise ValueError(f"`{name}` must have shape {told} for this model; got {np.shape(value)}")

    def _roots(self, num_classes: int) -> Floats:
        """Symmetric roots of the residuals' covariance across logits, (N or 1, C, C)."""
        covariance = np.eye(num_classes)[None]
        if self.logit_covariance is not None:
            covariance = np.reshape(self.logit_covariance, (-1, num_classes, num_classes))
        if self.residual_scales is not None:
            scales = by_logit(self.residual_scales, num_classes)
            covariance = scales[:, :, None] * covariance * scales[:, None, :]
        values, vectors = np.linalg.eigh(covariance)
        roots: Floats = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]) @ vectors.swapaxes(1, 2)
        return self.residual_length * roots

    def weighted_rows(self, logits: Floats, labels: Labels, tolerance: float = 1e-10) -> WeightedRows:
        """The rows of the factor of G, given logits (N, C) and labels (N,)."""
        n, c = logits.shape
        self.check(n, c)
        stretch = None if self.mean_scales is None else mixing_matrices(self.mean_scales, c)
        factors = None if self.loadings is None else np.asarray(self.loadings)
        gram = np.asarray(self.mean_gram)
        roots = self._roots(c)
        balance = self._cancelled(roots)
        return rows_of_examples(logits, labels, roots, (stretch, factors), gram, self.covariance, tolerance, balance)

    def _cancelled(self, roots: Floats) -> Floats | None:
        """The unit vector (N, C) of the combination of normal numbers that is 0; None where there is none."""
        if self.cancelling is None:
            return None
        weights = (roots @ np.asarray(self.cancelling)[:, :, None])[:, :, 0]
        length = float(np.linalg.norm(weights))
        return weights / length if length > 0 else None

    def q_values(self, num_classes: int, labels: npt.ArrayLike | None = None) -> QValues:
        """NaN: the mean cosines of this law have no closed form; `clustering` of a draw measures them."""
        return QValues(math.nan, math.nan, math.nan)

    def draw_gradients(
        self, labels: Labels, num_classes: int, num_parameters: int, rng: np.random.Generator
    ) -> Gradients:
        """Mean logit gradients (C, D), what each example has beside them (N, C, D), and class gradients (C, C, D).

        The second has the residuals, the shared directions and what `mean_scales` change; the first is the mean over
        classes, where there are means by class.
        """
        n, c, d = labels.shape[0], num_classes, num_parameters
        self.check(n, c)
        factor = gram_factor(np.asarray(self.mean_gram))
        if factor.shape[1] > d:
            raise ValueError(f"`mean_gram` must have rank <= D = {d}, the dimension; got {factor.shape[1]}")
        require_memory(f"means of {factor.shape[0]} x {d}", 8.0 * 2 * factor.shape[0] * d, "use model.spectrum()")
        directions = np.linalg.qr(rng.standard_normal((d, factor.shape[1])))[0].T
        means = factor @ directions
        shares, counts = self.covariance.shares(d)
        size = int(counts.sum())
        spread = np.sqrt(np.repeat(shares, counts.astype(np.int64)))
        residuals = np.zeros((n, c, d))
        rng.standard_normal(out=residuals)
        residuals[:, :, size:] = 0.0
        residuals[:, :, :size] *= spread
        roots = self._roots(c)
        balance = self._cancelled(roots)
        if balance is not None:
            residuals -= balance[:, :, None] * np.einsum("nk,nkd->d", balance, residuals)
        residuals = np.matmul(roots, residuals)
        num_means = factor.shape[0] - self.num_factors
        if self.loadings is not None:
            residuals += np.asarray(self.loadings) @ means[num_means:]
        by_class = num_means == c * c
        own = means[:num_means].reshape(c, -1, d)
        if self.mean_scales is not None:
            at_example = own[:, labels].swapaxes(0, 1) if by_class else own[None, :, 0]
            residuals += (mixing_matrices(self.mean_scales, c) - np.eye(c)) @ at_example
        if not by_class:
            return own[:, 0], residuals
        centre = own.mean(axis=1)
        return centre, residuals, own - centre[:, None]


@dataclass(frozen=True, eq=False)
class KernelGradients(StructuredGradients):
    """The kernel law: logit gradients with the Gram matrix J J^T = sum_i Theta_i (x) K_i, and no D.

    Parameters
    ----------
    terms : sequence of pairs of array_like (N, N), (C, C)
        Theta_i, the kernel of the examples, and K_i, that of the logits. Their sum has to be a Gram matrix.
    effective_dimension : float, optional
        So many independent normal columns instead of fixed inner products: J J^T then has the sum as its mean and the
        spread of a sample covariance. By default J J^T is the sum, in every draw.

    Raises
    ------
    ValueError, TypeError
        For no terms, or matrices that are not symmetric, or whose sum has a negative eigenvalue.

    References
    ----------
    Jacot, Gabriel and Hongler (2018); Van Loan and Pitsianis (1993) for sums of Kronecker products.

    Examples
    --------
    >>> import numpy as np
    >>> import rmtland as rl
    >>> law = rl.KernelGradients([(np.eye(20) + 1.0, np.eye(3))])
    >>> model = rl.LandscapeModel(20, 3, 10**6, rl.GaussianLogits(1.0), law)
    >>> model.spectrum(rng=0).outliers().shape
    (2,)
    """

    terms: tuple[tuple[npt.ArrayLike, npt.ArrayLike], ...]
    effective_dimension: float | None = None

    __repr__ = told

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("`terms` must have at least one pair (Theta, K); got none")
        pairs: list[tuple[Floats, Floats]] = []
        for theta, outputs in self.terms:
            pair = symmetric("terms", theta), symmetric("terms", outputs)
            if pairs and (pair[0].shape, pair[1].shape) != (pairs[0][0].shape, pairs[0][1].shape):
                raise ValueError(f"`terms` must all have one shape; got {pair[0].shape} and {pairs[0][0].shape}")
            pairs.append(pair)
        object.__setattr__(self, "terms", tuple(pairs))
        if self.effective_dimension is not None:
            dimension = real("effective_dimension", self.effective_dimension, at_least=1)
            object.__setattr__(self, "effective_dimension", dimension)

    @property
    def num_numbers(self) -> int:
        """How many numbers the law is given."""
        sizes = [len(np.asarray(part)) for pair in self.terms for part in pair]
        return sum(size * (size + 1) // 2 for size in sizes) + (self.effective_dimension is not None)

    def check(self, num_examples: int, num_classes: int) -> None:
        """ValueError where it is the law of another number of examples or classes."""
        sizes = tuple(len(np.asarray(part)) for part in self.terms[0])
        if sizes != (num_examples, num_classes):
            raise ValueError(f"`terms` must be of N = {num_examples} and C = {num_classes}; got {sizes}")

    def q_values(self, num_classes: int, labels: npt.ArrayLike | None = None) -> QValues:
        """Mean cosines between rows, the sum's entries over the lengths; exact.

        The law knows no classes: `labels` choose the pairs of one class.
        """
        gram = self.gram()
        n, c = len(np.asarray(self.terms[0][0])), num_classes
        lengths = np.sqrt(np.diag(gram))
        cosines = (gram / np.outer(lengths, lengths)).reshape(n, c, n, c)
        others = ~np.eye(n, dtype=bool)
        by_logit = np.einsum("nkmk->knm", cosines)
        own = math.nan
        if labels is not None:
            y = np.asarray(labels)
            pairs = (y[:, None] == y) & others
            counted = [by_logit[k][pairs & (y[:, None] == k)] for k in range(c)]
            sizes = [part.mean() for part in counted if part.size]
            own = float(np.mean(sizes)) if sizes else math.nan
        mixed = (cosines.sum(axis=(1, 3)) - by_logit.sum(axis=0))[others]
        return QValues(own, float(by_logit[:, others].mean()), float(mixed.mean() / (c * (c - 1))))

    def gram(self) -> Floats:
        """The sum, (N C, N C); MemoryError where it does not fit, ValueError where it is no Gram matrix."""
        size = math.prod(len(np.asarray(part)) for part in self.terms[0])
        require_memory(f"a kernel of {size} x {size}", 8.0 * 3 * size**2, "take fewer examples")
        total: Floats = np.sum([np.kron(np.asarray(t), np.asarray(k)) for t, k in self.terms], axis=0)
        return total

    def weighted_rows(self, logits: Floats, labels: Labels, tolerance: float = 1e-10) -> WeightedRows:
        """The rows of the factor of G, given logits (N, C) and labels (N,)."""
        from rmtland.landscape.kernel_rows import rows_of_kernel

        self.check(*logits.shape)
        return rows_of_kernel(logits, labels, self.gram(), self.effective_dimension, tolerance)

    def draw_gradients(
        self, labels: Labels, num_classes: int, num_parameters: int, rng: np.random.Generator
    ) -> Gradients:
        """No mean logit gradients, and logit gradients (N, C, D)."""
        n, c, d = labels.shape[0], num_classes, num_parameters
        self.check(n, c)
        factor = gram_factor(self.gram())
        if self.effective_dimension is None:
            if factor.shape[1] > d:
                raise ValueError(f"`terms` must have rank <= D = {d}, the dimension; got {factor.shape[1]}")
            directions = np.linalg.qr(rng.standard_normal((d, factor.shape[1])))[0].T
        else:
            columns = math.floor(self.effective_dimension)
            if columns > d:
                raise ValueError(f"`effective_dimension` must be <= D = {d}; got {self.effective_dimension}")
            directions = np.zeros((factor.shape[1], d))
            directions[:, :columns] = rng.standard_normal((factor.shape[1], columns)) / math.sqrt(columns)
        return np.zeros((c, d)), (factor @ directions).reshape(n, c, d)
