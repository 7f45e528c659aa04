"""`measure`: any number of statistics from one pass over a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rmtland._arguments import choice
from rmtland._arrays import short, shortened
from rmtland.logits.accumulate import Accumulator, accumulate, accumulate_by
from rmtland.logits.clustering import ClusteringAccumulator
from rmtland.logits.cross_class import CrossClassMeansAccumulator
from rmtland.logits.curvature_scales import CurvatureScalesAccumulator
from rmtland.logits.gauss_newton import GradientAccumulator
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.lengths import LengthAccumulator
from rmtland.logits.outputs import OutputAccumulator
from rmtland.logits.restriction import RestrictedChunk, restricted_sources
from rmtland.logits.scales import LogitScalesAccumulator
from rmtland.logits.traces import GaussNewtonTraceAccumulator

STATISTICS: Mapping[str, Callable[[], Accumulator[Any]]] = {
    "gradient": GradientAccumulator,
    "clustering": ClusteringAccumulator,
    "logit_scales": LogitScalesAccumulator,
    "output_statistics": OutputAccumulator,
    "curvature_scales": CurvatureScalesAccumulator,
    "gauss_newton_trace": GaussNewtonTraceAccumulator,
    "cross_class_means": CrossClassMeansAccumulator,
    "logit_gradient_lengths": LengthAccumulator,
}
"""By the names of the functions that are the case of one."""


class Measurement(Mapping[str, Any]):
    """Results by name: a mapping, with an attribute for each."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # a mapping's own would ask arrays whether they are true

    def __init__(self, results: Mapping[str, Any]) -> None:
        self._results = dict(results)

    def __getitem__(self, name: str) -> Any:
        """The result called `name`."""
        return self._results[name]

    def __getattr__(self, name: str) -> Any:
        """The result called `name`."""
        if name.startswith("_") or name not in self._results:
            raise AttributeError(f"nothing called {name!r} was measured; there are {', '.join(self)}")
        return self._results[name]

    def __iter__(self) -> Any:
        """Names in the order they were asked for."""
        return iter(self._results)

    def __len__(self) -> int:
        """How many were measured."""
        return len(self._results)

    def __repr__(self) -> str:
        """Names and results."""
        return shortened(
            f"Measurement({', '.join(f'{name}={short(result)}' for name, result in self._results.items())})"
        )


def measure(source: LogitGradients, *names: str, by: str | None = None, **statistics: Any) -> Any:
    """Measure any number of statistics in one pass over a source.

    Parameters
    ----------
    source : LogitGradients
        A draw, a network, arrays.
    *names : str
        Statistics by the name of their function, with its default options: "gradient", "clustering", "logit_scales",
        "output_statistics", "curvature_scales", "gauss_newton_trace", "cross_class_means", "logit_gradient_lengths".
    by : {None, "parameter_groups"}
        With "parameter_groups" every statistic is measured for each group of parameters alone, a network's tensors
        for instance, in the same pass.
    **statistics : Accumulator or str
        Statistics under names of your own, with options: ``scales=rl.LogitScalesAccumulator(class_means=True)``.

    Returns
    -------
    Measurement
        A mapping from names to results, each also an attribute. With `by`, a dict from the names of the groups to
        such mappings.

    Raises
    ------
    ValueError
        For a name that is no statistic, no statistic at all, or what a statistic says of the source.
    TypeError
        For something that is neither a name nor an accumulator, or a name given twice.

    Notes
    -----
    What several statistics need of a chunk is computed once: the clustering and the scales together cost little more
    than either. The results are bit for bit those of `clustering(source)` and so on.

    Examples
    --------
    >>> import rmtland as rl
    >>> draw = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=5, num_parameters=400).sample(rng=0)
    >>> measured = rl.measure(draw, "logit_scales", q=rl.ClusteringAccumulator(num_bootstrap=50))
    >>> measured.q == rl.clustering(draw, num_bootstrap=50)
    True
    """
    choice("by", by, (None, "parameter_groups"))
    wanted: dict[str, Accumulator[Any]] = {}
    for name, statistic in [*((name, name) for name in names), *statistics.items()]:
        if not isinstance(name, str):
            raise TypeError(f"`names` must be names, one after another; got {name!r}")
        if name in wanted:
            raise TypeError(f"`statistics` must have names of their own; got {name!r} twice")
        wanted[name] = _accumulator(statistic)
    if not wanted:
        raise ValueError(f"`statistics` must name at least one of {', '.join(STATISTICS)}; got none")
    if by is None:
        return Measurement(accumulate(source, wanted))
    views = restricted_sources(source)
    return {name: Measurement(r) for name, r in accumulate_by(source, views, RestrictedChunk, wanted).items()}


def _accumulator(statistic: Any) -> Accumulator[Any]:
    if isinstance(statistic, str):
        return STATISTICS[choice("statistics", statistic, tuple(STATISTICS))]()
    return checked_accumulator("statistics", statistic, "names or accumulators")


def checked_accumulator(name: str, statistic: Any, what: str = "accumulators") -> Accumulator[Any]:
    """An accumulator; TypeError for its class or anything else."""
    if isinstance(statistic, type) or not all(hasattr(statistic, name) for name in ("start", "add", "merge", "finish")):
        raise TypeError(f"`{name}` must be {what}; got {statistic!r}")
    return statistic  # type: ignore[no-any-return]
