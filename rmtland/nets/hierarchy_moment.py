"""The hierarchy of a network at one moment, as named arrays for a training record."""

from __future__ import annotations

import numpy as np

from rmtland.logits.attribution import PLACES, attribution
from rmtland.logits.hierarchy import LOW_RANK, PARTS, hierarchy
from rmtland.nets.gradients import NetworkLogitGradients

Values = dict[str, tuple[tuple[str, ...], np.ndarray]]


def hierarchy_values(source: NetworkLogitGradients, rng: np.random.Generator) -> Values:
    """Traces of A1, A2, B1 and B2, whole and by tensor, their top eigenvalues, and what outliers of G belong to.

    Where the cross-class means do not fit into 1 GiB, eigenvalues and overlaps are NaN.
    """
    found = hierarchy(source)
    values: Values = {f"trace_{part}": ((), np.asarray(found.traces[part])) for part in PARTS}
    groups = found.by_group()
    for part in PARTS:
        traces = [group.traces[part] for group in groups.values()] if found.keeps_pairs else [np.nan] * len(groups)
        values[f"group_trace_{part}"] = ("group",), np.array(traces)
    count = min(source.num_classes - 1, source.num_parameters)
    places = attribution(found, rng=rng) if found.keeps_pairs else None
    for part in LOW_RANK:
        top = found.eigenvalues(part)[-1:] if found.keeps_pairs else np.array([np.nan])
        values[f"top_eigenvalue_{part}"] = (), np.asarray(top[0] if top.size else 0.0)
    for place in PLACES:
        nothing = np.full(count, np.nan)
        values[f"outlier_shares_{place}"] = ("outlier",), nothing if places is None else places.shares[place]
        values[f"outlier_overlaps_{place}"] = ("outlier",), nothing if places is None else places.overlaps[place]
        values[f"outliers_in_{place}"] = (), np.asarray(np.nan if places is None else float(places.counts[place]))
    return values
