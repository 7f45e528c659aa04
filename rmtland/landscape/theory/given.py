"""Theory of the landscape model given its logits: levels that sum over the examples of one draw, no matrix drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rmtland._arguments import Seed, generator, require_memory
from rmtland.landscape.anisotropic import StructuredGradients, check_structured
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.logit_laws import LogitLaw
from rmtland.landscape.theory.examples import GivenExamples, probabilities_in_units
from rmtland.landscape.theory.predictions import Theory
from rmtland.landscape.theory.structured import StructuredTheory
from rmtland.landscape.theory.sums import Floats


class Model(Protocol):
    """What the theory needs to know of a `LandscapeModel`."""

    @property
    def num_examples(self) -> int:
        """N."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def num_parameters(self) -> int:
        """D."""

    @property
    def logits(self) -> LogitLaw:
        """The logit law."""

    @property
    def gradients(self) -> object:
        """The gradient law."""

    @property
    def sigma_H(self) -> float:
        """Scale of the H-term."""


@dataclass(frozen=True, eq=False)
class LandscapeTheory(Theory):
    """Theory of a landscape model given the logits and labels of one draw of them; made by `LandscapeModel.theory`.

    Given the logits, the Gauss-Newton matrix is G = X^T T X with X of independent standard normal rows: a generalised
    Marchenko-Pastur matrix (in free convolution with a semicircle where there is an H-term), whose equation is a sum of
    levels, evaluated example by example, O(N C^2) a point, with no matrix of examples times classes.

    Notes
    -----
    Predictions are means over draws of logit gradients with these logits, to first order in 1/D and 1/N; trace and
    Frobenius norm are exact. Other logits shift them much more (the outliers at N = 300 by up to 40%): pair draws and
    theory on the same logits, or use `LandscapeModel.theory_band`. Without residuals the matrix has rank C - 1, without
    mean gradients the C - 1 largest eigenvalues are those of the bulk.

    References
    ----------
    Silverstein and Bai (1995), eq. (1.4); Fort and Ganguli (2019), eqs. (10), (15), (16). The reduction of the model to
    it, and all that is said of the gradient, is this package's.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=4, num_parameters=400, sigma_z=1.0)
    >>> theory = model.theory(rng=0)
    >>> theory.outliers().shape, bool(theory.outliers()[0] > theory.bulk_edge)
    ((3,), True)
    >>> theory.count_above(0.5 * (theory.bulk_edge + theory.outliers()[0]))
    3.0
    """

    def transition_snr(self) -> Floats:
        """SNR from which on 1, 2, ..., C - 1 outliers stand apart from the bulk, with these logits, N, C and D.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Ascending: at the first the strongest outlier leaves the bulk, at the last the weakest. SNR is mean_length^2
            / residual_length^2, at the relative lengths at hand. inf for directions without curvature.

        Raises
        ------
        ValueError
            With class gradients, which have a bulk of their own; with an H-term but no residuals, whose length is the
            unit of SNR.

        Notes
        -----
        A direction of the mean part leaves the bulk where its eigenvalue of D T passes the u of `bulk_edge`. With s =
        -residual_length^2 / (N u) that is SNR k = u / residual_length^2, k the eigenvalues of K(s) between the relative
        lengths (of K(0) = P without cross terms). u / residual_length^2 depends on the logits, N, D and sigma_H /
        residual_length^2 alone: a closed form after one edge.
        """
        return self._transition_snr()


def theory_of(model: Model, rng: Seed = None, cross_terms: bool = True) -> LandscapeTheory | StructuredTheory:
    """The theory of a model, given the logits that it draws; see `LandscapeModel.theory`."""
    if isinstance(model.gradients, StructuredGradients):
        return _structured(model, model.gradients, rng, cross_terms)
    law = checked_lengths(model)
    n, c = model.num_examples, model.num_classes
    logits, labels = model.logits.draw_logits(n, c, generator(rng))
    by_class = law.class_length > 0
    if by_class:
        require_memory("theory with class gradients", 320.0 * c**3, "use class_length = 0 or fewer classes")
    probabilities, unit = probabilities_in_units(logits, rescale=model.sigma_H == 0)
    examples = GivenExamples(probabilities, np.asarray(labels, dtype=np.int64), float(n), by_class, unit)
    return LandscapeTheory.over(examples, law, model.num_parameters, model.sigma_H, bool(cross_terms))


def _structured(model: Model, law: StructuredGradients, rng: Seed, cross_terms: bool) -> StructuredTheory:
    check_structured(model.sigma_H, cross_terms)
    logits, labels = model.logits.draw_logits(model.num_examples, model.num_classes, generator(rng))
    rows = law.weighted_rows(logits, np.asarray(labels, dtype=np.int64))
    return StructuredTheory.over(rows, model.num_parameters, model.num_classes)


def checked_lengths(model: Model) -> ClusteredGradients:
    """The gradient law, which has to be one that the theory knows and not the zero matrix's."""
    law = model.gradients
    if not isinstance(law, ClusteredGradients):
        raise TypeError(f"`gradients` must be ClusteredGradients for the theory; got {law!r}")
    if not (law.residual_length > 0 or law.class_length > 0 or np.any(law.mean_lengths(model.num_classes) > 0)):
        raise ValueError("`gradients` must have a positive length; got zero for all")
    return law
