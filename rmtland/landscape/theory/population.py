"""The model for many examples: the same levels with expectations over the logit law for the sums over examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmtland._arguments import Seed, flag, generator, integer
from rmtland.landscape.logit_laws import GivenLogits
from rmtland.landscape.theory.examples import probabilities_in_units
from rmtland.landscape.theory.exchangeable import ExchangeableExamples
from rmtland.landscape.theory.levels import Model, checked_lengths
from rmtland.landscape.theory.predictions import Theory

ENTRIES = 200_000
"""Probabilities in the sample of the logit law, unless told."""


@dataclass(frozen=True, eq=False, repr=False)
class PopulationTheory(Theory):
    """Theory with expectations over the logit law for the logits of one draw; `LandscapeModel.population_theory`.

    N stays a parameter, in residual_length^2 / N: what goes to infinity is the number of examples averaged over, so
    that K, and with it every outlier's T-eigenvalue, is the same in all C - 1 directions.

    Notes
    -----
    Against the theory given logits this leaves out the spread of the eigenvalues of P = (1/N) sum_mu A_mu, of order
    sqrt(C / N): outliers come out too equal, at sigma_z = 15 and N = 300 the largest by 30%. The mean outlier, trace
    and norm have errors of order 1/N; the mean gradient power one of order 1 / C, as it is a ratio of means. With class
    gradients the C (C - 1) class directions have two strengths, and classes are of equal size.
    Expectations are means over a sample of the logit law: relative errors of order (1 / sample size)^(1/2).
    """


def population_of(
    model: Model, rng: Seed = 0, cross_terms: bool = True, sample_size: int | None = None
) -> PopulationTheory:
    """The limit for a model; see `LandscapeModel.population_theory`."""
    law = checked_lengths(model)
    if isinstance(model.logits, GivenLogits):
        raise ValueError("`logits` must be a law to take expectations over; got GivenLogits, for which use theory()")
    c = model.num_classes
    size = max(ENTRIES // c, 200) if sample_size is None else integer("sample_size", sample_size, at_least=2)
    logits, labels = model.logits.draw_logits(size, c, generator(rng))
    probabilities, unit = probabilities_in_units(logits, rescale=model.sigma_H == 0)
    examples = ExchangeableExamples(
        probabilities, np.asarray(labels, dtype=np.int64), float(model.num_examples), law.class_length > 0, unit
    )
    return PopulationTheory.over(examples, law, model.num_parameters, model.sigma_H, flag("cross_terms", cross_terms))
