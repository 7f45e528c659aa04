"""What every rung of a ladder starts from: a source, or one of its groups of parameters, measured in one pass."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rmtland._arrays import double, to_numpy
from rmtland.landscape.gradient_laws import LONGEST
from rmtland.landscape.model import LandscapeModel
from rmtland.logits.accumulate import gather_logits
from rmtland.logits.clustering import Clustering
from rmtland.logits.curvature_scales import CurvatureScales
from rmtland.logits.exact_spectrum import GaussNewtonSpectrum
from rmtland.logits.gauss_newton import gauss_newton_spectrum
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.gram import LogitGradientGram, logit_gradient_gram
from rmtland.logits.measure import measure
from rmtland.logits.outputs import OutputStatistics
from rmtland.logits.restriction import diagonal_block, restricted_sources
from rmtland.logits.scales import LogitScales, LogitScalesAccumulator
from rmtland.spectra.operators import SymmetricOperator

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

SHORTEST = 1e-38
"""Root mean square length of logit gradients below which cubes of eigenvalues leave float64."""

GRAM_ROWS = 4096
"""Up to so many logit gradients N C their inner products are formed, 128 MiB; beyond, no law that needs them."""

STATISTICS = ("clustering", "output_statistics", "gradient", "curvature_scales")


@dataclass(frozen=True, eq=False)
class Measured:
    """A source and its statistics.

    Attributes
    ----------
    source : LogitGradients
    clustering, scales, outputs : Clustering, LogitScales, OutputStatistics
    class_scales : LogitScales or None
        With class means; None where no class has two examples.
    unfrozen_scales : CurvatureScales
        Lengths of logit gradients where the curvature is; NaN where there is none.
    logits, labels : ndarray (N, C), (N,)
    slope : ndarray (D,)
        The gradient.
    spectrum : callable
        Computes all eigenvalues of G.
    hessian : callable
        Makes the Hessian's operator, or None for a source without its network.
    gram : callable
        Makes the Gram matrix of the logit gradients, less their mean over logits; None for more than `GRAM_ROWS`.
    """

    source: LogitGradients
    clustering: Clustering
    scales: LogitScales
    class_scales: LogitScales | None
    outputs: OutputStatistics
    unfrozen_scales: CurvatureScales
    logits: Floats
    labels: Labels
    slope: Floats
    spectrum: Callable[[], GaussNewtonSpectrum]
    hessian: Callable[[], SymmetricOperator | None]
    gram: Callable[[], LogitGradientGram | None]

    @classmethod
    def of(cls, source: LogitGradients) -> Measured:
        """Measure a source."""
        logits, labels = gather_logits(source)
        found = _measured(source, labels, None)
        return cls._from(
            found, source, logits, labels, lambda: gauss_newton_spectrum(source), partial(_network_hessian, source),
            cache(partial(_gram, source)),
        )  # fmt: skip

    @classmethod
    def of_groups(cls, source: LogitGradients) -> dict[str, Measured]:
        """Measure every group of parameters of a source, in the passes of one."""
        logits, labels = gather_logits(source)
        found = _measured(source, labels, "parameter_groups")
        spectra = cache(lambda: gauss_newton_spectrum(source, by="parameter_groups"))
        hessian = cache(lambda: _network_hessian(source))

        def block_of(group: slice) -> SymmetricOperator | None:
            whole = hessian()
            return None if whole is None else diagonal_block(whole, group)

        return {
            name: cls._from(
                found[name],
                part,
                logits,
                labels,
                lambda name=name: spectra()[name],
                partial(block_of, part.parameters),
                cache(partial(_gram, part)),
            )
            for name, part in restricted_sources(source).items()
        }

    @classmethod
    def _from(cls, found: Any, source: LogitGradients, logits: Floats, labels: Labels, *late: Any) -> Measured:
        scales = found["scales"]
        length = math.sqrt(source.num_parameters) * math.hypot(scales.sigma_c, scales.sigma_E)
        slope: Floats = to_numpy(double(found["gradient"]))
        # Of numbers that float64 cannot square all lengths are 0, and no gradient is.
        told = length or float(np.abs(slope).max())
        if told != 0 and not SHORTEST <= length <= LONGEST:
            raise ValueError(
                f"the logit gradients of `source` must be {SHORTEST:g} to {LONGEST:g} long, or their fourth powers are "
                f"no numbers; got {told:g}"
            )
        return cls(
            source,
            found["clustering"],
            found["scales"],
            found.get("class_scales"),
            found["output_statistics"],
            found["curvature_scales"],
            logits,
            labels,
            slope,
            *late,
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """N, C, D."""
        return self.source.num_examples, self.source.num_classes, self.source.num_parameters

    @property
    def num_rows(self) -> int:
        """N (C - 1), the largest rank of G."""
        return self.source.num_examples * (self.source.num_classes - 1)

    @property
    def full_model(self) -> LandscapeModel:
        """The full Gaussian model of the measured scales."""
        num_examples, _, num_parameters = self.sizes
        return LandscapeModel.from_scales(self.scales, num_examples, num_parameters, self.outputs.accuracy)


def _measured(source: LogitGradients, labels: Labels, by: str | None) -> Any:
    wanted: dict[str, Any] = {"scales": LogitScalesAccumulator()}
    if np.bincount(labels).max() > 1:  # without two examples of one class there are no class means to see
        wanted["class_scales"] = LogitScalesAccumulator(class_means=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a sigma of 0 is what the rungs then show
        return measure(source, *STATISTICS, by=by, **wanted)


def _gram(source: LogitGradients) -> LogitGradientGram | None:
    if source.num_examples * source.num_classes > GRAM_ROWS:
        return None
    return logit_gradient_gram(source).centered()


def _network_hessian(source: LogitGradients) -> SymmetricOperator | None:
    if getattr(source, "network", None) is None:  # spares everybody else the import of torch
        return None
    from rmtland.nets import hessian

    return hessian(source)  # type: ignore[arg-type]
