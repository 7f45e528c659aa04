"""The Baik-Ben Arous-Peche transition, drawn at any dimension and set beside its limit."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, choice, finite_array, integer, real, require_memory, seed_sequence
from rmtland._arguments import path as named_path
from rmtland._arrays import told
from rmtland._files import replace_text
from rmtland.ensembles._checks import dimension
from rmtland.ensembles.kernels import Floats
from rmtland.ensembles.wishart import SpikedCovariance
from rmtland.laws.spikes import SpikedCovarianceLaw

_COLUMNS = (
    "spike",
    "eigenvalue",
    "eigenvalue_error",
    "eigenvalue_sd",
    "location",
    "overlap",
    "overlap_error",
    "overlap_limit",
)


@dataclasses.dataclass(frozen=True, eq=False)
class BBPTransition:
    """Largest eigenvalue and overlap of its eigenvector with the spike's, for each spike strength.

    Parameters
    ----------
    ratio : float
        p / n as drawn.
    num_features, num_samples : int
    beta : int
    spikes : ndarray, shape (m,)
    eigenvalues, overlaps : ndarray, shape (m, R)
        Draws.
    locations, overlap_limits : ndarray, shape (m,)
        Their limits, see `limits`.
    threshold : float
        1 + sqrt(ratio).
    """

    ratio: float
    num_features: int
    num_samples: int
    beta: int
    spikes: Floats
    eigenvalues: Floats
    overlaps: Floats
    locations: Floats
    overlap_limits: Floats
    threshold: float

    __repr__ = told

    @property
    def num_draws(self) -> int:
        """Draws per spike, R."""
        return int(self.eigenvalues.shape[1])

    def limits(self, spikes: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Limits of the largest eigenvalue and of its overlap at any spikes.

        Parameters
        ----------
        spikes : array_like, shape (k,)
            Population eigenvalues > 0.

        Returns
        -------
        tuple of two ndarray, shape (k,)
            Location and overlap of the outlier above the threshold; below it, and so for spikes that leave to the left,
            the right edge of the bulk and 0.
        """
        return _limits(self.ratio, spikes)

    def rows(self) -> list[dict[str, float]]:
        """One dict per spike: means, standard errors, standard deviation, limits."""
        root = np.sqrt(self.num_draws)
        sd, overlap_sd = self.eigenvalues.std(axis=1, ddof=1), self.overlaps.std(axis=1, ddof=1)
        columns = (
            self.spikes, self.eigenvalues.mean(axis=1), sd / root, sd, self.locations, self.overlaps.mean(axis=1),
            overlap_sd / root, self.overlap_limits,
        )  # fmt: skip
        return [dict(zip(_COLUMNS, map(float, row), strict=True)) for row in zip(*columns, strict=True)]

    def table(self) -> str:
        """The rows as aligned text."""
        lines = [
            f"p = {self.num_features}, n = {self.num_samples}, beta = {self.beta}, {self.num_draws} draws, "
            f"threshold {self.threshold:.6g}",
            "     spike   eigenvalue +- error         s.d.        limit    overlap +- error     limit",
        ]
        for row in self.rows():
            lines.append(
                f"{row['spike']:10.5g} {row['eigenvalue']:12.7g} +- {row['eigenvalue_error']:7.1e} "
                f"{row['eigenvalue_sd']:11.2e} {row['location']:12.7g} {row['overlap']:10.6f} +- "
                f"{row['overlap_error']:7.1e} {row['overlap_limit']:9.6f}"
            )
        return "\n".join(lines)

    def to_json(self, path: str | Path) -> None:
        """Write parameters, rows and draws as JSON; the file appears whole or not at all."""
        data = {
            "ratio": self.ratio, "num_features": self.num_features, "num_samples": self.num_samples,
            "beta": self.beta, "num_draws": self.num_draws, "threshold": self.threshold, "rows": self.rows(),
            "eigenvalues": self.eigenvalues.tolist(), "overlaps": self.overlaps.tolist(),
        }  # fmt: skip
        replace_text(named_path("path", path), json.dumps(data, indent=1) + "\n")

    @classmethod
    def from_json(cls, path: str | Path) -> BBPTransition:
        """Read what `to_json` wrote."""
        data: Any = json.loads(Path(path).read_text())

        def column(name: str) -> Floats:
            return np.array([row[name] for row in data["rows"]])

        return cls(
            data["ratio"], data["num_features"], data["num_samples"], data["beta"], column("spike"),
            np.array(data["eigenvalues"]), np.array(data["overlaps"]), column("location"), column("overlap_limit"),
            data["threshold"],
        )  # fmt: skip


def bbp_transition(
    ratio: float,
    spikes: npt.ArrayLike,
    num_features: int,
    num_draws: int,
    rng: Seed = None,
    *,
    beta: int = 1,
    threads: int | None = None,
) -> BBPTransition:
    """Draw the largest eigenvalue and its overlap through the transition.

    One-spike sample covariance matrices of Gaussian data, bulk variance 1, exact in law; see `SpikedCovariance`.

    Parameters
    ----------
    ratio : float, > 0
        Features over samples; num_samples is the nearest integer, at least 1.
    spikes : array_like, shape (m,)
        Population eigenvalues > 0; the largest eigenvalue leaves the bulk above 1 + sqrt(ratio).
    num_features : int
        p; time grows as min(p, n)^(1/3).
    num_draws : int, >= 2
        Draws per spike.
    rng : optional
        Anything `numpy.random.default_rng` takes.
    beta : {1, 2, 4}
    threads : int, optional
        The result is the same for any number.

    Returns
    -------
    BBPTransition

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from rmtland.ensembles.transition import bbp_transition
    >>> result = bbp_transition(0.5, [1.2, 3.0], num_features=10**6, num_draws=20, rng=0)
    >>> print(result.eigenvalues.mean(axis=1).round(2), result.locations.round(2))
    [2.91 3.75] [2.91 3.75]
    """
    ratio = real("ratio", ratio, above=0)
    strengths = finite_array("spikes", spikes, ndim=1)
    if not strengths.size:
        raise ValueError("`spikes` must hold at least one; got none")
    num_features = dimension("num_features", num_features)
    num_draws = integer("num_draws", num_draws, at_least=2)
    choice("beta", beta, (1, 2, 4))
    if not num_features / ratio <= 2**53:
        raise ValueError(f"`ratio` must be >= num_features / 2^53 = {num_features / 2**53:.3g}; got {ratio:g}")
    num_samples = max(1, round(num_features / ratio))
    require_memory(f"{num_draws} draws", 32.0 * num_draws * strengths.size, "take fewer `num_draws`")
    source = seed_sequence(rng)
    ratio = num_features / num_samples
    values, overlaps = [], []
    for spike in strengths:
        model = SpikedCovariance(num_features, num_samples, spikes=np.array([spike]), beta=beta)
        value, overlap = model._extreme(True, 1, num_draws, source, threads, overlaps=True)
        values.append(value[:, 0])
        overlaps.append(overlap[:, 0, 0])
    return BBPTransition(
        ratio, num_features, num_samples, beta, strengths, np.array(values), np.array(overlaps),
        *_limits(ratio, strengths), 1 + math.sqrt(ratio),
    )  # fmt: skip


def _limits(ratio: float, spikes: npt.ArrayLike) -> tuple[Floats, Floats]:
    law = SpikedCovarianceLaw(ratio, spikes)  # type: ignore[arg-type]
    right = law.is_outlier & (law.spikes > 1)
    _, edge = law.bulk.support
    return np.where(right, law.locations, edge), np.where(right, law.overlaps, 0.0)
