"""The random model of Hessians and gradients: a logit law and a gradient law, and draws of the pair."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from rmtland._arguments import Seed, choice, generator, instance, integer, real, require_memory, spawn
from rmtland._arrays import told
from rmtland.landscape.anisotropic import StructuredGradients, check_structured
from rmtland.landscape.bartlett import SharedRows
from rmtland.landscape.draw import LandscapeDraw
from rmtland.landscape.gradient_laws import ClusteredGradients, GradientLaw, check_gradient_law
from rmtland.landscape.h_term import draw_h_term
from rmtland.landscape.logit_laws import GaussianLogits, LogitLaw, MarginLogits, check_logit_law
from rmtland.landscape.reduced import LandscapeSpectrum, reduced_spectrum, spectrum_of_rows
from rmtland.landscape.theory.band import TheoryBand
from rmtland.landscape.theory.given import theory_of
from rmtland.landscape.theory.population import PopulationTheory, population_of
from rmtland.landscape.unfrozen_logits import UnfrozenLogits
from rmtland.logits.accumulate import gather_logits
from rmtland.logits.curvature_scales import CurvatureScales, curvature_scales
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.outputs import output_statistics
from rmtland.logits.scales import LogitScales, logit_scales


@dataclass(frozen=True)
class LandscapeModel:
    """A random model of the gradient and the Hessian of N examples, C classes, D parameters.

    Parameters
    ----------
    num_examples, num_classes, num_parameters : int
        N >= 2, C >= 2 and D >= 1.
    logits : LogitLaw
        How logits and labels are drawn.
    gradients : GradientLaw
        How logit gradients are drawn, given the labels.
    sigma_H : float
        Scale of the H-term >= 0: what the curvature of the logits adds to the Gauss-Newton matrix in the Hessian, as an
        independent symmetric Gaussian matrix of off-diagonal variance sigma_H^2 / D, whose own eigenvalues fill
        [-2 sigma_H, 2 sigma_H]. 0, as in the paper's section 4, by default: the Hessian is the Gauss-Newton matrix.

    Raises
    ------
    ValueError, TypeError
        For sizes or a scale out of range, or laws that are none.

    References
    ----------
    Fort and Ganguli (2019), Emergent properties of the local geometry of neural loss landscapes, sec. 3 and 4; sec. 3.1
    for the H-term.

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
    sigma_H: float = 0.0

    __repr__ = told

    def __post_init__(self) -> None:
        for name, least in (("num_examples", 2), ("num_classes", 2), ("num_parameters", 1)):
            object.__setattr__(self, name, integer(name, getattr(self, name), at_least=least))
        check_logit_law(self.logits, self.num_examples, self.num_classes)
        check_gradient_law(self.gradients, self.num_classes)
        if isinstance(self.gradients, StructuredGradients):
            self.gradients.check(self.num_examples, self.num_classes)
        object.__setattr__(self, "sigma_H", real("sigma_H", self.sigma_H, at_least=0))

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
        sigma_H: float = 0.0,
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
        sigma_H : float
            Scale of an H-term, as in the class.

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
            sigma_H=sigma_H,
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
        logit_law : {"spread", "participation", "margin", "unfrozen"}
            `GaussianLogits` of the measured logit spread sigma_z (the paper's) and accuracy; those of the measured mean
            sum p^2; `MarginLogits` with the measured margin; or `UnfrozenLogits` fitted to the examples that are not
            frozen, with the lengths of their logit gradients (`curvature_scales`; `UnevenGradients` has more of them).
        class_means : bool
            Whether the model has class gradients too, of the sigma_d measured.

        Returns
        -------
        LandscapeModel

        Raises
        ------
        ValueError
            For another loss or `logit_law`; with "participation" or "unfrozen" where all probabilities are 0 or 1; with
        "unfrozen" and `class_means`, for which these lengths are not measured.
        """
        choice("logit_law", logit_law, ("spread", "participation", "margin", "unfrozen"))
        if logit_law == "unfrozen" and class_means:
            raise ValueError('`class_means` must be False with logit_law="unfrozen"; got True')
        outputs = output_statistics(source)
        scales = logit_scales(source, class_means=class_means)
        model = cls.from_scales(scales, source.num_examples, source.num_parameters, outputs.accuracy)
        if logit_law == "participation":
            law = GaussianLogits.from_participation(outputs.participation, model.num_classes, outputs.accuracy)
            return dataclasses.replace(model, logits=law)
        if logit_law == "margin":
            return dataclasses.replace(model, logits=MarginLogits.from_logits(*gather_logits(source)))
        if logit_law == "unfrozen":
            return model.unfrozen(UnfrozenLogits.from_logits(*gather_logits(source)), curvature_scales(source))
        return model

    @classmethod
    def from_scales(
        cls, scales: LogitScales, num_examples: int, num_parameters: int, accuracy: float
    ) -> LandscapeModel:
        """The full Gaussian model of scales that are measured already; C is that of their mean logit gradients."""
        instance("scales", scales, LogitScales, "what `logit_scales` gives")
        root = math.sqrt(integer("num_parameters", num_parameters, at_least=1))
        return cls(
            num_examples,
            int(scales.mean_gradients.shape[0]),
            num_parameters,
            logits=GaussianLogits(scales.sigma_z, accuracy),
            gradients=ClusteredGradients(scales.sigma_c * root, scales.sigma_E * root, scales.sigma_d * root),
        )

    def unfrozen(self, law: UnfrozenLogits, scales: CurvatureScales) -> LandscapeModel:
        """The model with a logit law of the examples that are not frozen, and the lengths of their logit gradients."""
        lengths = ClusteredGradients(scales.mean_length, scales.residual_length)
        return dataclasses.replace(self, logits=law, gradients=lengths)

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

    def theory(self, rng: Seed = None, cross_terms: bool = True) -> Any:
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
            Or a `StructuredTheory`, of the same predictions, for `AnisotropicGradients` and `KernelGradients`.

        Raises
        ------
        TypeError
            For a gradient law that is none of the package's.
        ValueError
            Where all lengths are zero or too short for float64, or rounding loses residuals beside the means; for a
            law with measured means, with an H-term or without cross terms.
        """
        return theory_of(self, rng, cross_terms)

    def theory_band(self, num_draws: int = 16, rng: Seed = None, cross_terms: bool = True) -> TheoryBand:
        """Mean and standard deviation of every prediction over draws of the logits.

        Parameters
        ----------
        num_draws : int
            Draws of the logits, >= 2; draw i comes from the i-th child of `rng`.
        rng : seed
            Anything `numpy.random.default_rng` takes.
        cross_terms : bool
            As in `theory`.

        Returns
        -------
        TheoryBand
        """
        children = spawn(rng, integer("num_draws", num_draws, at_least=2))
        return TheoryBand(tuple(self.theory(child, cross_terms) for child in children))

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
            For `GivenLogits`, which are no law to take expectations over.
        """
        return population_of(self, rng, cross_terms, sample_size)

    def sample(self, rng: Seed = None) -> LandscapeDraw:
        """One draw of logits, labels and logit gradients.

        Parameters
        ----------
        rng : seed
            Anything `numpy.random.default_rng` takes.

        Returns
        -------
        LandscapeDraw
            A source of logit gradients, read as a network is: statistics of the Gauss-Newton matrix leave the H-term
            out, `LandscapeDraw.hessian` has it.

        Raises
        ------
        MemoryError
            Where the N x C x D residuals, or the D x D H-term, do not fit.
        """
        size = self.num_examples * self.num_classes * self.num_parameters
        require_memory(
            f"the logit gradients of {self.num_examples} x {self.num_classes} x {self.num_parameters}",
            8.0 * size,
            "draw a model with fewer parameters or examples",
        )
        rng = generator(rng)
        logits, labels = self.logits.draw_logits(self.num_examples, self.num_classes, rng)
        drawn = self.gradients.draw_gradients(labels, self.num_classes, self.num_parameters, rng)
        h_term = draw_h_term(self.num_parameters, self.sigma_H, rng) if self.sigma_H > 0 else None
        return LandscapeDraw(logits, labels, *drawn, h_term=h_term)

    def spectrum(
        self,
        rng: Seed = None,
        cross_terms: bool = True,
        *,
        tolerance: float = 1e-10,
        k: int | None = None,
        rows: SharedRows | None = None,
    ) -> LandscapeSpectrum:
        """Eigenvalues of one draw's Hessian and the gradient's power in each, at a cost that D does not raise.

        In law what `sample` followed by `gauss_newton_spectrum` gives, without a single logit gradient.

        Parameters
        ----------
        rng : seed
            Anything `numpy.random.default_rng` takes; other gradients than `sample` draws. Under one seed models that
            differ in sigma_z alone share the directions of their logits and their mean logit gradients.
        cross_terms : bool
            As in `LandscapeDraw.hessian`; the gradient is the same.
        tolerance : float
            Rows of A_mu / N, one per example and direction of its logits, whose eigenvalue is not above `tolerance`
            times the largest leave the eigenproblem: examples with frozen probabilities. All eigenvalues are too small
            by at most that, times D (sigma_c^2 + sigma_E^2) and the number of examples. Their part of the gradient
            stays: it is counted in `null_power`. 0 keeps every row that has any weight.
        k : int, optional
            Only so many of the largest eigenvalues, of the same draw: about half the time at the paper's sizes. Trace,
            norm and their ratio are still those of the whole matrix; `null_power` is then all other power.
        rows : SharedRows, optional
            Normal rows in common with other draws (common random numbers); logits and labels come from `rng`.

        Returns
        -------
        LandscapeSpectrum

        Raises
        ------
        TypeError
            For a gradient law that is none of the package's.
        ValueError
            For a law with measured means, with an H-term, without cross terms or with `rows`.
        MemoryError
            Where the Gram matrix of the kept rows, or with an H-term and without `k` D x D, does not fit.

        Notes
        -----
        With an H-term the eigenvalues are those of the whole Hessian, negative ones too: all D of them cost O(D^3), `k`
        of them the leading rows of a band matrix (`h_term`), trace and norm with a draw of what the others add.

        Up to a rotation of the parameters, G and the gradient depend on the normal rows behind c and E through their
        inner products alone, whose Bartlett factor stands in for them: O((N (C - 1))^3) from D = N (C - 1) on, and less
        below, exact in law at any D. Rounding is 1e-16 of the largest eigenvalue.

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
        law: object = self.gradients
        if not isinstance(law, ClusteredGradients | StructuredGradients):
            needed = "ClusteredGradients, or another law of this package, for a reduced draw"
            raise TypeError(f"`gradients` must be {needed}, not {law!r}; use sample()")
        rng = generator(rng)
        logits, labels = self.logits.draw_logits(self.num_examples, self.num_classes, rng)
        if isinstance(law, StructuredGradients):
            check_structured(self.sigma_H, cross_terms, rows is not None)
            drawn = law.weighted_rows(logits, labels, tolerance).draw(self.num_parameters, rng)
            return spectrum_of_rows(*drawn, self.num_parameters, self.num_classes, k)
        return reduced_spectrum(
            logits, labels, law, self.num_parameters, rng, cross_terms, tolerance, k, rows, self.sigma_H
        )
