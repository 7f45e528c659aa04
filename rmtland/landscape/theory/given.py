"""Theory of the landscape model given its logits: levels that sum over the examples of one draw, no matrix drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmtland._arguments import Seed, flag, generator, require_memory
from rmtland.landscape.anisotropic import StructuredGradients, check_structured
from rmtland.landscape.theory.examples import GivenExamples, probabilities_in_units
from rmtland.landscape.theory.levels import Model, checked_lengths
from rmtland.landscape.theory.predictions import Theory
from rmtland.landscape.theory.structured import StructuredTheory


@dataclass(frozen=True, eq=False, repr=False)
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
    mean gradients the C - 1 largest eigenvalues are those of the bulk. Lengths and probabilities may have any size, but
    eigenvalues below 1e-10 of the largest are resolved only as far as rounding of the largest lets them: directions of
    the means with less than 1e-14 of the largest curvature count as having none.

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
    return LandscapeTheory.over(examples, law, model.num_parameters, model.sigma_H, flag("cross_terms", cross_terms))


def _structured(model: Model, law: StructuredGradients, rng: Seed, cross_terms: bool) -> StructuredTheory:
    check_structured(model.sigma_H, cross_terms)
    logits, labels = model.logits.draw_logits(model.num_examples, model.num_classes, generator(rng))
    rows = law.weighted_rows(logits, np.asarray(labels, dtype=np.int64))
    return StructuredTheory.over(rows, model.num_parameters, model.num_classes)
