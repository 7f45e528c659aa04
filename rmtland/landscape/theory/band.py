"""Theory averaged over draws of the logits: what one draw of the model may be expected to show, with its spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import function
from rmtland.landscape.theory.predictions import Theory
from rmtland.landscape.theory.sums import Floats


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (ddof 1) over draws of the logits; floats or arrays."""

    mean: Any
    std: Any


@dataclass(frozen=True, eq=False, repr=False)
class TheoryBand:
    """Predictions for several draws of the logits; made by `LandscapeModel.theory_band`.

    Attributes
    ----------
    theories : tuple of LandscapeTheory
        One for each draw of logits and labels. Every prediction is made for each and then averaged: averaging the
        logits' statistics first would make the outliers equal (that is `LandscapeModel.population_theory`).

    Notes
    -----
    The spread is that over logits alone; fluctuations given the logits (`outliers_std`, `goldilocks_ratio_std`,
    `gradient_power_std` of each theory) come on top, see `total`.
    """

    theories: tuple[Theory, ...] = field(repr=False)

    def __repr__(self) -> str:
        return f"TheoryBand({len(self.theories)} x {self.theories[0]!r})"

    def over(self, prediction: Callable[[Theory], npt.ArrayLike]) -> Spread:
        """Mean and standard deviation of any function of a theory.

        Parameters
        ----------
        prediction : callable
            LandscapeTheory -> number or array, of the same shape for all.

        Returns
        -------
        Spread
        """
        function("prediction", prediction)
        values = np.array([prediction(theory) for theory in self.theories], dtype=np.float64)
        return Spread(values.mean(axis=0)[()], values.std(axis=0, ddof=1)[()])

    def pdf(self, x: npt.ArrayLike) -> Spread:
        """Of the density of eigenvalues at x."""
        return self.over(lambda theory: theory.pdf(x))

    def gradient_pdf(self, x: npt.ArrayLike) -> Spread:
        """Of the spectral density of the gradient at x."""
        return self.over(lambda theory: theory.gradient_pdf(x))

    @cached_property
    def bulk_edge(self) -> Spread:
        """Of the edge of the bulk."""
        return self.over(lambda theory: theory.bulk_edge)

    def outliers(self) -> Spread:
        """Of the C - 1 outliers, each (C - 1,)."""
        return self.over(lambda theory: theory.outliers())

    def gradient_power(self, num_directions: int) -> Spread:
        """Of the share of the gradient in the top directions."""
        return self.over(lambda theory: theory.gradient_power(num_directions))

    @property
    def trace(self) -> Spread:
        """Of the trace."""
        return self.over(lambda theory: theory.trace)

    @property
    def frobenius(self) -> Spread:
        """Of the Frobenius norm."""
        return self.over(lambda theory: theory.frobenius)

    def goldilocks_ratio(self, dimension: int | None = None) -> Spread:
        """Of the Goldilocks ratio, on a random hyperplane if `dimension` is given."""
        return self.over(lambda theory: theory.goldilocks_ratio(dimension))

    def transition_snr(self) -> Spread:
        """Of the SNRs at which outliers leave the bulk, each (C - 1,)."""
        return self.over(lambda theory: theory.transition_snr())

    def total(
        self,
        prediction: Callable[[Theory], npt.ArrayLike],
        std: Callable[[Theory], npt.ArrayLike],
    ) -> Spread:
        """Mean and standard deviation of single draws of the model: logits and, given them, logit gradients.

        Parameters
        ----------
        prediction, std : callable
            LandscapeTheory -> what is predicted and its standard deviation given the logits, such as
            LandscapeTheory.outliers and LandscapeTheory.outliers_std.

        Returns
        -------
        Spread
        """
        function("std", std)
        within = np.array([std(theory) for theory in self.theories], dtype=np.float64)
        between = self.over(prediction)
        both: Floats = np.sqrt(np.square(between.std) + np.mean(within**2, axis=0))
        return Spread(between.mean, both[()])
