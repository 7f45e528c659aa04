"""Which part of the hierarchy outliers of a curvature matrix belong to: shares of eigenvalues, overlaps with ranges."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, instance, integer, several, shown
from rmtland._arrays import Array, like, to_numpy, told
from rmtland.logits.hierarchy import Hierarchy
from rmtland.spectra.eigenpairs import Eigenpairs, top_eigenpairs

Floats = npt.NDArray[np.float64]

RANGES = ("A1", "B1")
PLACES = (*RANGES, "rest")
"""Where an outlier may lie. The range of A2 is that of A1, and both count as A1; the rest is what neither they nor B1
hold."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Outliers of a curvature matrix and the ranges of A1 and B1.

    Attributes
    ----------
    eigenvalues : ndarray (k,)
        Ascending.
    shares : dict
        "A1", "B1" and "rest" to ndarray (k,): what A1 + A2, B1 and everything else (B2, of a Hessian also the H-term)
        add to each eigenvalue, v^T A v / (v^T M v); the three add up to 1.
    overlaps : dict
        The same keys: the squared cosine of the angle between each eigenvector and the range of A1, the range of B1,
        and what is orthogonal to both. The ranges are not orthogonal to each other, so that the three may add up to
        more than 1: a vector in the range of A1 may owe A1 little of its eigenvalue.
    principal_overlaps : dict
        "A1" and "B1" to the squared cosines of the principal angles between the span of all k eigenvectors and the
        range, ascending, min(k, rank) of them: these do not change where eigenvalues are close and eigenvectors turn.
    ranks : dict
        "A1" and "B1", and "A1 + B1" for both together, to the dimension of the range.
    num_parameters : int
        D.
    """

    eigenvalues: Floats
    shares: Mapping[str, Floats]
    overlaps: Mapping[str, Floats]
    principal_overlaps: Mapping[str, Floats] = field(repr=False)
    ranks: Mapping[str, int]
    num_parameters: int

    __repr__ = told

    @property
    def chance(self) -> dict[str, float]:
        """The mean squared overlap with a random subspace of the same dimension, rank / D."""
        return {
            **{part: self.ranks[part] / self.num_parameters for part in RANGES},
            "rest": 1 - self.ranks["A1 + B1"] / self.num_parameters,
        }

    @property
    def chance_std(self) -> dict[str, float]:
        """The standard deviation of that overlap: of a Beta distribution of rank / 2 and (D - rank) / 2."""
        size = self.num_parameters
        return {name: math.sqrt(2 * share * (1 - share) / (size + 2)) for name, share in self.chance.items()}

    @property
    def places(self) -> tuple[str, ...]:
        """Which of "A1", "B1" and "rest" gives each eigenvalue its greatest share."""
        return tuple(PLACES[i] for i in np.argmax([self.shares[place] for place in PLACES], axis=0))

    @property
    def counts(self) -> dict[str, int]:
        """How many outliers belong to each place."""
        found = Counter(self.places)
        return {place: found[place] for place in PLACES}

    @property
    def place(self) -> str:
        """Where most of them belong; of several the first of "A1", "B1", "rest"."""
        return max(PLACES, key=lambda place: self.counts[place])


def attribution(
    hierarchy: Hierarchy, matrix: Any = None, k: int | None = None, *, rng: Seed = None, **options: Any
) -> Attribution:
    """Attribute outliers of the Hessian, of G, or of another curvature matrix to A1, to B1, or to neither.

    Parameters
    ----------
    hierarchy : Hierarchy
        With its cross-class means kept.
    matrix : operator, array (D, D) or Eigenpairs, optional
        Whose outliers, G by default: `rl.nets.hessian(...)` for those of the Hessian, a test set's G for its own. Of
        eigenpairs all are taken.
    k : int, optional
        How many of the largest eigenvalues; by default C - 1.
    rng, **options
        Of `top_eigenpairs`.

    Returns
    -------
    Attribution

    Raises
    ------
    ValueError
        For k out of range, k together with eigenpairs, vectors of another length.
    MemoryError
        Where the cross-class means were not kept.

    Notes
    -----
    Shares of the eigenvalue decide, not angles: at initialisation three quarters of an outlier's squared length lie in
    the range of A1 (perceptrons on digits), although A1 and A2 make up a tenth of its eigenvalue and B1 the rest.

    References
    ----------
    Papyan (2019), Measurements of three-level hierarchical structure in the outliers in the spectrum of deepnet
    Hessians, attributes outliers to A1 by knocking it out.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=4, num_parameters=300).sample(rng=0)
    >>> found = rl.attribution(rl.hierarchy(draw), rng=0)
    >>> found.eigenvalues.shape, sorted(found.ranks.items())
    ((3,), [('A1', 4), ('A1 + B1', 12), ('B1', 8)])
    """
    instance("hierarchy", hierarchy, Hierarchy, "what `hierarchy` gives")
    if isinstance(matrix, Eigenpairs):
        if k is not None or options:
            raise ValueError(
                f"`k` and options must be left out with eigenpairs, which are taken as they are; got {k!r}"
            )
        pairs = matrix
    else:
        size = hierarchy.means.num_parameters
        count = min(hierarchy.means.num_classes - 1, size) if k is None else integer("k", k, at_least=1, at_most=size)
        operator = hierarchy.gauss_newton if matrix is None else matrix
        pairs = top_eigenpairs(operator, count, rng=rng, **options)
    return attributed(hierarchy, pairs.eigenvalues, pairs.eigenvectors)


def attributed(hierarchy: Hierarchy, eigenvalues: Floats, vectors: Array) -> Attribution:
    """The attribution of eigenvectors (D, k), orthonormal."""
    means = hierarchy.means
    rows = means.kept_factor("attribution").reshape(-1, means.num_parameters)
    if vectors.shape[0] != means.num_parameters:
        raise ValueError(
            f"`matrix` must have eigenvectors of length {means.num_parameters}; got shape {tuple(vectors.shape)}"
        )
    seen = to_numpy(rows @ like(rows, vectors))  # F^T V
    bases = {name: hierarchy.gram.range_basis(*name.split(" + ")) for name in ("A1", "B1", "A1 + B1")}
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = {
            place: np.sum((hierarchy.gram.combinations(*names) @ seen) ** 2, axis=0) / eigenvalues
            for place, names in (("A1", ("A1", "A2")), ("B1", ("B1",)))
        }
    shares = {**parts, "rest": 1 - parts["A1"] - parts["B1"]}
    along = {name: basis @ seen for name, basis in bases.items()}
    overlaps = {name: np.clip(np.sum(part**2, axis=0), 0, 1) for name, part in along.items()}
    overlaps["rest"] = 1 - overlaps.pop("A1 + B1")
    principal = {part: np.sort(np.linalg.svd(along[part], compute_uv=False) ** 2) for part in RANGES}
    ranks = {name: int(basis.shape[0]) for name, basis in bases.items()}
    return Attribution(
        np.asarray(eigenvalues, dtype=np.float64), shares, overlaps, principal, ranks, means.num_parameters
    )


def attribution_changes(steps: Any, counts: Any = None) -> list[tuple[int, str, str]]:
    """When most outliers pass from one place to another in training.

    Parameters
    ----------
    steps : sequence of int, or xarray.Dataset
        A dataset is that of a training record with the statistic "hierarchy", at one of its splits.
    counts : array (len(steps), 3), optional
        How many outliers belong to "A1", "B1" and "rest" at each step, without a dataset. NaNs are passed over.

    Returns
    -------
    list of (step, before, after)
        Each change of where most of them lie, at the first step recorded after it. Ties go to the first of the three.

    Raises
    ------
    ValueError
        For counts of another shape.

    Examples
    --------
    >>> import rmtland as rl
    >>> rl.attribution_changes([0, 1, 2, 4], [[0, 9, 0], [2, 7, 0], [8, 1, 0], [9, 0, 0]])
    [(2, 'B1', 'A1')]
    """
    if counts is None:
        dataset, steps = steps, steps["step"].to_numpy()
        counts = np.stack([dataset[f"outliers_in_{place}"].to_numpy() for place in PLACES], axis=-1)
    steps = [integer("steps", step) for step in several("steps", steps)]
    try:
        table = np.asarray(counts, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"`counts` must be numbers (steps, {len(PLACES)}); got {shown(counts)}") from None
    if table.shape != (len(steps), len(PLACES)):
        raise ValueError(f"`counts` must have shape ({len(steps)}, {len(PLACES)}); got {table.shape}")
    changes: list[tuple[int, str, str]] = []
    before: str | None = None
    for step, row in zip(steps, table, strict=True):
        if np.isnan(row).any():
            continue
        after = PLACES[int(np.argmax(row))]
        if before is not None and after != before:
            changes.append((int(step), before, after))
        before = after
    return changes
