"""The random model of Hessians and gradients: a logit law and a gradient law, and draws of the pair."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, choice, generator, integer, real, require_memory
from rmtland.landscape.gradient_laws import ClusteredGradients, GradientLaw, check_gradient_law
from rmtland.landscape.kernels import fill_gauss_newton, softmax, weighted_rows
from rmtland.landscape.logit_laws import GaussianLogits, LogitLaw, MarginLogits, check_logit_law
from rmtland.landscape.reduced import LandscapeSpectrum, reduced_spectrum
from rmtland.logits.accumulate import gather_logits
from rmtland.logits.gradients import LogitGradients, default_chunk_size, example_slices
from rmtland.logits.losses import CrossEntropy
from rmtland.logits.outputs import output_statistics
from rmtland.logits.scales import LogitScales, logit_scales

if TYPE_CHECKING:
    from rmtland.landscape.band import TheoryBand
    from rmtland.landscape.population import PopulationTheory
    from rmtland.landscape.theory import LandscapeTheory


@dataclass(frozen=True)
class LandscapeModel:
    """A random model of the gradient and the Hessian of N examples, C classes, D parameters.

    Parameters
    ----------
    num_examples : int
        N >= 2.
    num_classes : int
        C >= 2.
    num_parameters : int
        D >= 1.
    logits : LogitLaw
        How logits and labels are drawn.
    gradients : GradientLaw
        How logit gradients are drawn, given the labels.

    Raises
    ------
    ValueError, TypeError
        For sizes out of range, or laws that are none.

    References
    ----------
    Fort and Ganguli (2019), Emergent properties of the local geometry of neural loss landscapes, sec. 3 and 4.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli()
    >>> round(model.snr / (1 + model.snr), 2)  # the clustering q_SL of their section 4
    0.67
    """

    num_examples: int
    num_classes: int
    num_parameters: int
    logits: LogitLaw = field(default_factory=lambda: GaussianLogits(sigma=15.0))
    gradients: GradientLaw = field(default_factory=ClusteredGradients)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_examples", integer("num_examples", self.num_examples, at_least=2))
        object.__setattr__(self, "num_classes", integer("num_classes", self.num_classes, at_least=2))
        object.__setattr__(self, "num_parameters", integer("num_parameters", self.num_parameters, at_least=1))
        check_logit_law(self.logits, self.num_examples, self.num_classes)
        check_gradient_law(self.gradients, self.num_classes)

    @classmethod
    def fort_ganguli(
        cls,
        num_examples: int = 300,
        num_classes: int = 10,
        num_parameters: int = 1000,
        sigma_z: float = 15.0,
        mean_length: float = 1.0,
        residual_length: float = 0.7,
        snr: float | None = None,
        accuracy: float = 0.95,
    ) -> LandscapeModel:
        """The model of the paper's section 4, at its parameters unless told.

        Parameters
        ----------
        num_examples, num_classes, num_parameters : int
            N, C and D.
        sigma_z : float
            Standard deviation of the logits.
        mean_length, residual_length : float
            sigma_c sqrt(D) and sigma_E sqrt(D).
        snr : float, optional
            sigma_c^2 / sigma_E^2 > 0; replaces `residual_length`.
        accuracy : float
            Share of examples whose label is the argmax.

        Returns
        -------
        LandscapeModel

        Raises
        ------
        ValueError, TypeError
            For a parameter out of range, or no number.
        """
        if snr is not None:
            residual_length = real("mean_length", mean_length, at_least=0) / math.sqrt(real("snr", snr, above=0))
        return cls(
            num_examples,
            num_classes,
            num_parameters,
            logits=GaussianLogits(sigma_z, accuracy),
            gradients=ClusteredGradients(mean_length, residual_length),
        )

    @classmethod
    def from_source(
        cls, source: LogitGradients, *, logit_law: str = "spread", class_means: bool = False
    ) -> LandscapeModel:
        """The full Gaussian model with its scales measured on a network or a draw.

        Parameters
        ----------
        source : LogitGradients
            With cross-entropy loss.
        logit_law : {"spread", "participation", "margin"}
            `GaussianLogits` of the measured logit spread sigma_z (the paper's) and accuracy; those of the measured mean
            sum p^2; or `MarginLogits` with the measured margin.
        class_means : bool
            Whether the model has class gradients too, of the sigma_d measured.

        Returns
        -------
        LandscapeModel

        Raises
        ------
        ValueError
            For another loss or `logit_law`; with "participation" where all probabilities are 0 or 1.
        """
        choice("logit_law", logit_law, ("spread", "participation", "margin"))
        outputs = output_statistics(source)
        scales = logit_scales(source, class_means=class_means)
        model = cls.from_scales(scales, source.num_examples, source.num_parameters, outputs.accuracy)
        if logit_law == "participation":
            law = GaussianLogits.matching_participation(outputs.participation, model.num_classes, outputs.accuracy)
            return dataclasses.replace(model, logits=law)
        if logit_law == "margin":
            return dataclasses.replace(model, logits=MarginLogits.from_logits(*gather_logits(source)))
        return model

    @classmethod
    def from_scales(
        cls, scales: LogitScales, num_examples: int, num_parameters: int, accuracy: float
    ) -> LandscapeModel:
        """The full Gaussian model of scales that are measured already; C is that of their mean logit gradients."""
        root = math.sqrt(num_parameters)
        return cls(
            num_examples,
            int(scales.mean_gradients.shape[0]),
            num_parameters,
            logits=GaussianLogits(scales.sigma_z, accuracy),
            gradients=ClusteredGradients(scales.sigma_c * root, scales.sigma_E * root, scales.sigma_d * root),
        )

    def _clustered(self) -> ClusteredGradients:
        if not isinstance(self.gradients, ClusteredGradients):
            raise TypeError(
                f"sigma_c, sigma_E, sigma_d and snr belong to ClusteredGradients; this model has {self.gradients!r}"
            )
        return self.gradients

    @property
    def sigma_c(self) -> float:
        """Standard deviation of a component of the mean logit gradients."""
        return self._clustered().mean_length / math.sqrt(self.num_parameters)

    @property
    def sigma_E(self) -> float:
        """Standard deviation of a component of the residuals."""
        return self._clustered().residual_length / math.sqrt(self.num_parameters)

    @property
    def sigma_d(self) -> float:
        """Standard deviation of a component of the class gradients."""
        return self._clustered().class_length / math.sqrt(self.num_parameters)

    @property
    def snr(self) -> float:
        """sigma_c^2 / sigma_E^2."""
        return self._clustered().snr

    def theory(self, rng: Seed = None, cross_terms: bool = True) -> LandscapeTheory:
        """What to expect of draws with the logits that this one draws: density, outliers, gradient, Goldilocks ratio.

        Parameters
        ----------
        rng : seed
            Anything `numpy.random.default_rng` takes; draws the logits and labels (`GivenLogits` fixes them).
        cross_terms : bool
            As in `LandscapeDraw.hessian`: eq. (10), or eq. (16) without the products of c and E.

        Returns
        -------
        LandscapeTheory

        Raises
        ------
        TypeError
            For a gradient law other than `ClusteredGradients`.
        ValueError
            Where all its lengths are zero.
        """
        from rmtland.landscape.theory import LandscapeTheory

        return LandscapeTheory.of(self, rng, cross_terms)

    def theory_band(self, size: int = 16, rng: Seed = None, cross_terms: bool = True) -> TheoryBand:
        """Mean and standard deviation of every prediction over draws of the logits.

        Parameters
        ----------
        size : int
            Draws of the logits, >= 2.
        rng : seed
            Anything `numpy.random.default_rng` takes; draw i comes from its i-th child.
        cross_terms : bool
            As in `theory`.

        Returns
        -------
        TheoryBand
        """
        from rmtland.landscape.band import TheoryBand

        return TheoryBand.of(self, size, rng, cross_terms)

    def population_theory(
        self, rng: Seed = 0, cross_terms: bool = True, sample_size: int | None = None
    ) -> PopulationTheory:
        """The limit of averaging over many examples: expectations over the logit law, N a parameter of the residuals.

        Parameters
        ----------
        rng : seed
            Anything `numpy.random.default_rng` takes; draws the sample that the expectations are means over.
        cross_terms : bool
            As in `theory`.
        sample_size : int, optional
            Examples in that sample; by default 200,000 / C, at least 200.

        Returns
        -------
        PopulationTheory

        Raises
        ------
        TypeError
            For a gradient law other than `ClusteredGradients`.
        ValueError
            For class gradients, and for `GivenLogits`, which are no law to take expectations over.
        """
        from rmtland.landscape.population import PopulationTheory

        return PopulationTheory.of(self, rng, cross_terms, sample_size)

    def sample(self, rng: Seed = None) -> LandscapeDraw:
        """One draw of logits, labels and logit gradients.

        Parameters
        ----------
        rng : seed
            Anything `numpy.random.default_rng` takes.

        Returns
        -------
        LandscapeDraw
            A source of logit gradients that every statistic reads as it reads a network.

        Raises
        ------
        MemoryError
            Where the N x C x D residuals do not fit.
        """
        size = self.num_examples * self.num_classes * self.num_parameters
        require_memory(
            f"the logit gradients of {self.num_examples} x {self.num_classes} x {self.num_parameters}",
            8.0 * size,
            "draw a model with fewer parameters or examples",
        )
        rng = generator(rng)
        logits, labels = self.logits.draw_logits(self.num_examples, self.num_classes, rng)
        return LandscapeDraw(
            logits, labels, *self.gradients.draw_gradients(labels, self.num_classes, self.num_parameters, rng)
        )

    def spectrum(self, rng: Seed = None, cross_terms: bool = True, *, tolerance: float = 1e-10) -> LandscapeSpectrum:
        """Eigenvalues of one draw's Hessian and the gradient's power in each, at a cost that D does not raise.

        In law what `sample` followed by `gauss_newton_spectrum` gives, without a single logit gradient.

        Parameters
        ----------
        rng : seed
            Anything `numpy.random.default_rng` takes. A seed does not give the logits' draw the same gradients as in
            `sample`; under one seed models that differ in sigma_z alone share the directions of their logits and their
            mean logit gradients.
        cross_terms : bool
            True: eq. (10). False: eq. (16), without the products of c and E (nor, if there are class gradients, of
            either with these). The gradient is the same.
        tolerance : float
            Rows of A_mu / N, one per example and direction of its logits, whose eigenvalue is not above `tolerance`
            times the largest leave the eigenproblem: examples with frozen probabilities. All eigenvalues are too small
            by at most that, times D (sigma_c^2 + sigma_E^2) and the number of examples. Their part of the gradient
            stays: it is counted in `null_power`. 0 keeps every row that has any weight.

        Returns
        -------
        LandscapeSpectrum

        Raises
        ------
        TypeError
            For a gradient law other than `ClusteredGradients`.
        MemoryError
            Where the Gram matrix of the kept rows does not fit.

        Notes
        -----
        Up to a rotation of the parameters, G and the gradient depend on the standard normal rows behind c and E only
        through their inner products. The Bartlett factor of these N (C - 1) + C rows stands in for them, so the cost is
        O((N (C - 1))^3) from D = N (C - 1) on, and less below. Exact in law at any D; rounding is 1e-16 of the largest
        eigenvalue.

        References
        ----------
        Fort and Ganguli (2019), eqs. (10) and (16); Bartlett (1933).

        Examples
        --------
        >>> import rmtland as rl
        >>> model = rl.LandscapeModel.fort_ganguli(num_examples=40, num_classes=5, num_parameters=10**12)
        >>> spectrum = model.spectrum(rng=0)
        >>> spectrum.outliers().shape, round(float(spectrum.powers.sum() + spectrum.null_power), 12)
        ((4,), 1.0)
        """
        law = self.gradients
        if not isinstance(law, ClusteredGradients):
            raise TypeError(f"`gradients` must be ClusteredGradients for a reduced draw, not {law!r}; use sample()")
        rng = generator(rng)
        logits, labels = self.logits.draw_logits(self.num_examples, self.num_classes, rng)
        return reduced_spectrum(logits, labels, law, self.num_parameters, rng, cross_terms, tolerance)


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
    """

    logits: npt.NDArray[np.float64] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    mean_gradients: npt.NDArray[np.float64] = field(repr=False)
    residuals: npt.NDArray[np.float64] = field(repr=False)
    class_gradients: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    loss: CrossEntropy = field(default_factory=CrossEntropy, kw_only=True)

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
        """The model's Hessian: its Gauss-Newton matrix.

        Parameters
        ----------
        cross_terms : bool
            True: eq. (10), all of (1/N) sum_mu (c + E)^T A (c + E). False: eq. (16), without the products of c and E;
            at the paper's sizes that lowers the outliers by 2 to 7% at sigma_z = 15 and by less than 0.5% at 1. With
            class gradients d every product of two different ones of c, d and E is left out.

        Returns
        -------
        ndarray (D, D)
            Symmetric, of rank at most N (C - 1).

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
        if cross_terms:
            return fill_gauss_newton(weighted_rows(probabilities, *self._centres(), self.residuals, self.num_examples))
        nothing = np.zeros((1, self.num_classes, side))
        hessian = fill_gauss_newton(weighted_rows(probabilities, nothing, groups, self.residuals, self.num_examples))
        hessian += self.mean_gradients.T @ mean_curvature(self.logits) @ self.mean_gradients
        if self.class_gradients is not None:
            for y in np.unique(self.labels):
                own = self.class_gradients[:, y]
                share = np.mean(self.labels == y)
                hessian += share * (own.T @ mean_curvature(self.logits[self.labels == y]) @ own)
        return hessian


def mean_curvature(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P = (1/N) sum_mu A_mu, (C, C), the matrix of eq. (16)'s first term."""
    # Through the factors of A_mu: diag(p) - p p^T would cancel where the probabilities are frozen.
    factor = CrossEntropy().hessian_factor(logits)
    columns = np.moveaxis(factor, 1, 0).reshape(logits.shape[1], -1)
    matrix: npt.NDArray[np.float64] = columns @ columns.T / logits.shape[0]
    return matrix
