"""Lanczos runs beside the dense eigendecomposition of the same matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import wasserstein_distance

from rmtland.spectra.lanczos import lanczos


class Runs(NamedTuple):
    """Quadratures of probes and the measures that they are quadratures of."""

    eigenvalues: np.ndarray  # (n,) dense
    measures: np.ndarray  # (P, n) squared components of each probe along the dense eigenvectors
    nodes: dict  # (reorthogonalised or not, number of steps) -> (P, m)
    weights: dict


def run(matrix, num_probes, steps, rng):
    """Runs with reorthogonalisation and without, of each number of steps, from the same probes."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    probes = rng.standard_normal((num_probes, eigenvalues.size))
    probes /= np.linalg.norm(probes, axis=1)[:, None]
    nodes, weights = {}, {}
    for kept in (True, False):
        for count in steps:
            found = [lanczos(matrix, count, start=probe, reorthogonalize=kept, rng=0) for probe in probes]
            nodes[kept, count] = _even([f.nodes for f in found])
            weights[kept, count] = _even([f.weights for f in found], 0.0)
    return Runs(eigenvalues, (probes @ vectors) ** 2, nodes, weights)


def _even(rows, filling=None):
    """Rows of one length: a run that ended early is filled up with its last node, of weight 0."""
    longest = max(len(row) for row in rows)
    return np.array(
        [np.pad(row, (0, longest - len(row)), constant_values=filling or row[-1] * (filling is None)) for row in rows]
    )


def distance(values, weights, others, other_weights=None):
    """Wasserstein distance of order 1, in the units of the values."""
    return wasserstein_distance(values, others, weights, other_weights)


def quadrature_errors(runs, steps, kept, function, reweighted):
    """Distance of each probe's quadrature from the measure it stands for, in f(x): mean and error, by steps."""
    found = []
    for count in steps:
        pairs = zip(runs.nodes[kept, count], runs.weights[kept, count], runs.measures, strict=True)
        found.append([distance(function(x), reweighted(w, x), function(runs.eigenvalues), m) for x, w, m in pairs])
    found = np.array(found)
    return found.mean(axis=1), found.std(axis=1, ddof=1) / found.shape[1] ** 0.5


def group_distances(runs, steps, kept, size, function, reweighted):
    """Distance from the dense spectrum of `size` probes together, and of their exact measures: one row per group."""
    target = function(runs.eigenvalues)
    rows = []
    for start in range(0, len(runs.measures) - size + 1, size):
        part = slice(start, start + size)
        x, w = runs.nodes[kept, steps][part], runs.weights[kept, steps][part]
        new = np.array([reweighted(b, a) for a, b in zip(x, w, strict=True)])
        ours = distance(function(x).ravel(), new.ravel(), target)
        rows.append((ours, distance(target, runs.measures[part].mean(axis=0), target)))
    return np.array(rows)
