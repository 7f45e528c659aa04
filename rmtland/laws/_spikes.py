"""What spiked covariance and spiked Wigner laws share: one row of results per spike, and how they fluctuate."""

from __future__ import annotations

import abc
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rmtland.laws._law import Floats
from rmtland.laws._values import Value
from rmtland.laws.tracy_widom import TracyWidom

Bools = npt.NDArray[np.bool_]


def edge_shift(beta: int) -> float:
    """What to add to a dimension so that the Tracy-Widom error at an edge falls to second order."""
    return 0.5 - 1 / beta


class Spikes(Value, abc.ABC):
    """What both spiked models share: one row of results per spike, in the order given."""

    spikes: Floats
    beta: int

    @property
    @abc.abstractmethod
    def is_outlier(self) -> Bools:
        """Whether each spike gives an eigenvalue off the bulk."""

    @property
    @abc.abstractmethod
    def _dimension(self) -> tuple[str, float | None]:
        """The argument that sets the size of fluctuations: its name and its value."""

    @abc.abstractmethod
    def _variances(self) -> Floats:
        """Limit of dimension * variance of each outlier, as if its spike were simple; any number elsewhere."""

    @abc.abstractmethod
    def edge(self, side: str = "right") -> tuple[float, float]:
        """Centre and scale of the Tracy-Widom fluctuations at an edge of the bulk."""

    @abc.abstractmethod
    def _sides(self) -> tuple[Bools, Bools]:
        """Which spikes, if no outliers, stick to the left and to the right edge."""

    def _size(self) -> float:
        name, value = self._dimension
        if value is None:
            raise ValueError(f"`{name}` must be given for fluctuations; got None")
        return value

    @cached_property
    def locations_std(self) -> Floats:
        """Standard deviation of the eigenvalue of each spike, float64 of shape (k,).

        For a simple outlier that of its Gaussian limit law. The m outliers of a spike given m times fluctuate like the
        eigenvalues of an m x m Gaussian matrix around their location; each gets the root of their mean square distance
        from it, sqrt(1 + (m - 1) beta / 2) times the simple value. For a spike at an edge: that of the edge's
        Tracy-Widom law. Within the bulk (between bands of a general one): 0, as the eigenvalues there are rigid.

        Raises
        ------
        ValueError
            If the dimension was not given.
        """
        size = self._size()
        _, group, count = np.unique(self.spikes, return_inverse=True, return_counts=True)
        repeated = 1 + (count[group] - 1) * self.beta / 2
        result: Floats = np.zeros(self.spikes.size)
        outlier = self.is_outlier
        result[outlier] = np.sqrt(repeated[outlier] * self._variances()[outlier] / size)
        for side, here in zip(("left", "right"), self._sides(), strict=True):
            if (here & ~outlier).any():
                law = TracyWidom(self.beta, convention="matrix")
                result[here & ~outlier] = self.edge(side)[1] * law.std()
        return result
