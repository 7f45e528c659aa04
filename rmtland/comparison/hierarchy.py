"""The rows of a comparison that tell of A1, A2, B1 and B2: ranks, shares of the trace, top eigenvalues."""

from __future__ import annotations

import math

import numpy as np

from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.model import LandscapeModel
from rmtland.landscape.reduced_draw import num_columns, reduced_draw
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.hierarchy import LOW_RANK, PARTS, hierarchy
from rmtland.spectra.eigenpairs import top_eigenpairs

DRAW_BYTES = 2**28
"""Memory for the logit gradients of a model's draw; models that take more have no such rows."""


def of_source(source: LogitGradients, rng: np.random.Generator) -> dict[str, float]:
    """The rows of a network or a draw; NaN for ranks and eigenvalues where cross-class means take more than 1 GiB."""
    found = hierarchy(source)
    traces = found.traces
    values = {f"{part}_trace_share": traces[part] / traces["G"] if traces["G"] > 0 else math.nan for part in PARTS}
    for part in LOW_RANK:
        known = found.keeps_pairs
        top = found.eigenvalues(part)[-1:] if known else np.array([math.nan])
        values[f"{part}_rank"] = float(found.gram.rank(part)) if known else math.nan
        values[f"{part}_top_eigenvalue"] = float(top[0]) if top.size else 0.0
    # Of a class n C vectors about C means, in a space of n (C - 1) dimensions.
    sizes, count = found.means.class_sizes, source.num_classes
    within = np.minimum(sizes * (count - 1), np.maximum(sizes - 1, 0) * count).sum()
    values["B2_rank"] = float(min(source.num_parameters, within))
    values["B2_top_eigenvalue"] = 0.0
    if traces["B2"] > 1e-12 * traces["G"]:
        values["B2_top_eigenvalue"] = float(top_eigenpairs(found.B2, 1, rng=rng).eigenvalues[0])
    return values


def of_model(model: LandscapeModel, rng: np.random.Generator) -> dict[str, float]:
    """The rows of a draw of a model, exact in law, of clustered gradients at any D; none where it does not fit."""
    clustered = type(model.gradients) is ClusteredGradients
    width = num_columns(model) if clustered else model.num_parameters
    if 8 * model.num_examples * model.num_classes * width > DRAW_BYTES:
        return {}
    return of_source(reduced_draw(model, rng) if clustered else model.sample(rng), rng)
