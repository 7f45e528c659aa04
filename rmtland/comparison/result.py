"""What a comparison holds: stages, rungs, and how they are written down."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rmtland._arguments import path as named_path
from rmtland._arrays import shortened, told
from rmtland._files import replace_text
from rmtland._version import versions
from rmtland.comparison.scores import SCORES, RungScores, scores_of
from rmtland.logits.clustering import Clustering
from rmtland.logits.outputs import OutputStatistics
from rmtland.logits.scales import LogitScales
from rmtland.spectra.density import SpectralDensity

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure

NUM_TOP = 10
"""How many top eigenvalues the table shows."""

GAP_RULES = ("ratio", "gap", "elbow")
"""Rules of `count_outliers` that need nothing but the spectrum."""

RUNGS = {
    "hessian": "(a) Hessian",
    "gauss_newton": "(b) G",
    "kernel_law": "(c) kernel law, real p",
    "measured_means": "(d) measured means, real p",
    "class_means": "(e) class means, real p",
    "own_probabilities": "(f) Gaussian J, real p",
    "full_model": "(g) full model",
    "mean_gradients": "(h) means, real p",
    "margin_logits": "(i) margin logits",
    "matched_participation": "(j) matched sum p^2",
    "unfrozen_logits": "(k) unfrozen logits",
}
"""The ladder, a sequence of explanations: each rung down to (g) has less of the network in it than the one before.

(a) the network's Hessian; (b) its Gauss-Newton matrix G, without logit curvature; (c) logit gradients known by the best
Kronecker product Theta (x) K of their inner products alone; (d) the law of `measured_gradients`: class means, shared
directions of the residuals, and what is left anisotropic; (e) class-conditional mean gradients and residuals of one
scale each; (f) mean logit gradients and residuals of one scale each; all of these with the network's own probabilities;
(g) Gaussian logits of the measured scale too, the full model.

Beside the sequence stand (h), the C - 1 outliers that the mean logit gradients and the probabilities give alone,
without residuals, and other laws of the logits in (g): (i) with the measured margin of the correct class, (j) with
sigma_z matched to the mean sum p^2 instead of the logits' spread, (k) with logits fitted to the examples whose
probabilities are not frozen, and gradients of five numbers weighed by their curvature (`UnevenGradients`; of more than
4,096 rows N C two lengths alone): no number of an example. The model's rungs are reduced draws, exact in law at any D:
no logit gradients are drawn, and the q-values are those that the law predicts.
"""

BESIDE = ("mean_gradients", "margin_logits", "matched_participation", "unfrozen_logits")
"""Rungs that stand beside the sequence: G without residuals, and other laws of the logits of the full model."""

QUANTITIES = {
    "q_same_logit_same_class": "q same logit & class",
    "q_same_logit": "q same logit",
    "q_different_logits": "q different logits",
    **{f"eigenvalue_{i}": f"eigenvalue {i}" for i in range(1, NUM_TOP + 1)},
    "num_outliers": "outliers",
    "num_above_edge": "above bulk edge",
    "gradient_power_C_minus_1": "power in top C-1",
    "gradient_power_C": "power in top C",
    "trace": "trace",
    "frobenius_norm": "||.||_F",
    "goldilocks_ratio": "Trace/||.||_F",
    "top_eigenvalue": "top eigenvalue",
}
"""The rows of the table, to their labels on the terminal.

`num_outliers` is what a rule of `count_outliers` finds by the gaps between eigenvalues, of every matrix and draw.
`num_above_edge` counts beyond the edge of the residuals' bulk, which only a theory knows: the number of eigenvalues
that it expects there, and those of each draw beyond the edge that the theory has for its logits. Class gradients, of
rungs (d) and (e), have eigenvalues of their own there beside the C - 1 outliers, up to C (C - 1) in all, which may make
a bulk of theirs: the expected number is then no whole one. The edge is asymptotic: in some draws the largest eigenvalue
of the residuals lies beyond it too.
"""

HIERARCHY = {
    f"{part}_{what}": f"{part} {label}"
    for part in ("A1", "A2", "B1", "B2")
    for what, label in (("rank", "rank"), ("trace_share", "share of trace"), ("top_eigenvalue", "top eigenvalue"))
}
"""Further rows, where the hierarchy of G was asked for; B2's rank is the most that it can be."""


@dataclass(frozen=True, eq=False)
class Rung:
    """One rung at one stage: a single measurement, or one per draw of the model.

    Attributes
    ----------
    values : dict
        Quantity to array (draws,); NaN where a rung does not have it.
    eigenvalues : ndarray (draws, r)
        Ascending; all that are known (the others are zero, or, for a Hessian too large to diagonalise, smaller).
    powers : ndarray (draws, r)
        Share of the squared gradient along each of their eigenvectors.
    errors : dict
        Quantity to the error of its estimate, of a matrix too large to diagonalise: the norm of the residual for an
        eigenvalue, a standard error for trace, norm and their ratio. Empty where everything is exact.
    density : SpectralDensity, optional
        Of such a matrix, whose other eigenvalues are known by random probes only.
    num_numbers : int, optional
        How many numbers a model was given, beside N, C and D.
    theory : dict
        Quantity to what the deterministic equivalent expects, where `compare` was asked for it.
    """

    values: dict[str, npt.NDArray[np.float64]]
    eigenvalues: npt.NDArray[np.float64] = field(repr=False)
    powers: npt.NDArray[np.float64] = field(repr=False)
    errors: dict[str, float] = field(default_factory=dict)
    density: SpectralDensity | None = field(default=None, repr=False)
    num_numbers: int | None = None
    theory: dict[str, float] = field(default_factory=dict)

    __repr__ = told

    @property
    def num_draws(self) -> int:
        """1 for what was measured, the number of draws for the model."""
        return int(self.eigenvalues.shape[0])

    def add(self, values: Mapping[str, float]) -> None:
        """Further quantities of a single draw."""
        self.values.update({quantity: np.array([value]) for quantity, value in values.items()})

    def mean(self, quantity: str) -> float:
        """Mean over draws; NaN for what the rung does not have."""
        return float(np.mean(self.values[quantity])) if quantity in self.values else math.nan

    def deviation(self, quantity: str) -> float:
        """Standard deviation over draws (ddof 1); NaN for a single measurement."""
        known = self.num_draws > 1 and quantity in self.values
        return float(np.std(self.values[quantity], ddof=1)) if known else math.nan


@dataclass(frozen=True, eq=False)
class Stage:
    """One network at one moment: what its outputs and logit gradients are like, and its ladder."""

    outputs: OutputStatistics
    scales: LogitScales = field(repr=False)
    clustering: Clustering
    rungs: dict[str, Rung] = field(repr=False)
    sizes: tuple[int, int, int]

    __repr__ = told

    def with_rungs(self, others: Mapping[str, Rung]) -> Stage:
        """The same with other rungs too, in the order of the ladder."""
        every = {**self.rungs, **others}
        return dataclasses.replace(self, rungs={name: every[name] for name in RUNGS if name in every})

    def scores(self) -> dict[str, RungScores]:
        """Each rung beside G, in the order of the ladder; empty without rung (b)."""
        if "gauss_newton" not in self.rungs:
            return {}
        reference = self.rungs["gauss_newton"]
        return {
            name: scores_of(self.rungs[name], reference, self.sizes[1])
            for name in RUNGS
            if name in self.rungs and name != "gauss_newton"
        }


@dataclass(frozen=True, eq=False)
class Comparison:
    """Networks beside the random model, stage by stage and rung by rung.

    Attributes
    ----------
    stages : dict
        Stage name to `Stage`, whose `.rungs` maps the keys of `RUNGS` to `Rung`.
    settings : dict
        What was asked for: seed, draws, rule for outliers, and what the caller adds (data, training).
    """

    stages: dict[str, Stage]
    settings: dict[str, Any]

    def __repr__(self) -> str:
        told = [f"{name}: {', '.join(stage.rungs)}" for name, stage in self.stages.items()]
        return shortened(f"Comparison({'; '.join(told)})")

    @property
    def rung_labels(self) -> dict[str, str]:
        """Rungs that some stage has, in the order of the ladder, to their labels."""
        return {name: label for name, label in RUNGS.items() if any(name in s.rungs for s in self.stages.values())}

    @property
    def quantities(self) -> dict[str, str]:
        """The rows of the table, to their labels on the terminal."""
        found = {name for stage in self.stages.values() for rung in stage.rungs.values() for name in rung.values}
        return {**QUANTITIES, **{name: label for name, label in HIERARCHY.items() if name in found}}

    def table(self) -> pandas.DataFrame:
        """Quantities by (stage, rung); empty where a rung has none.

        0.3252(3) is the mean and the s.d. over draws, or an estimate and its error.
        """
        import pandas

        columns = {
            (name, RUNGS[rung]): [_cell(result, quantity) for quantity in self.quantities]
            for name, stage in self.stages.items()
            for rung, result in stage.rungs.items()
        }
        frame = pandas.DataFrame(columns, index=list(self.quantities))
        frame.columns.names = ["stage", "rung"]
        return frame

    def theory(self) -> pandas.DataFrame:
        """What the theory expects, quantities by (stage, rung): of rungs that have it, empty where it is silent."""
        import pandas

        columns = {
            (name, RUNGS[rung]): [
                f"{result.theory[quantity]:.4g}" if quantity in result.theory else "" for quantity in self.quantities
            ]
            for name, stage in self.stages.items()
            for rung, result in stage.rungs.items()
            if result.theory
        }
        frame = pandas.DataFrame(columns, index=list(self.quantities))
        if columns:
            frame.columns.names = ["stage", "rung"]
        return frame

    def scores(self) -> pandas.DataFrame:
        """How near each rung is to G, by (stage, rung): what this network has that the model has not.

        Columns by the keys of `SCORES`; rungs in the order of the ladder, each down to the full model with less of the
        network in it than the one before, then those beside it.
        """
        import pandas

        rows = {
            (name, RUNGS[rung]): found.to_dict()
            for name, stage in self.stages.items()
            for rung, found in stage.scores().items()
        }
        frame = pandas.DataFrame(list(rows.values()), columns=list(SCORES))
        frame.index = pandas.MultiIndex.from_tuples(list(rows), names=["stage", "rung"]) if rows else frame.index
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain lists and floats, None for NaN: what `to_json` writes."""
        return {
            "settings": self.settings,
            "versions": versions("numpy", "scipy", "numba", "torch"),
            "rungs": RUNGS,
            "stages": {name: _stage_dict(stage) for name, stage in self.stages.items()},
        }

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` to a file: settings, seed, versions, every number. It appears whole or not at all."""
        replace_text(named_path("path", path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def to_xarray(self) -> xarray.Dataset:
        """Quantities over (stage, rung, draw), NaN where a rung has fewer draws, with settings as attributes."""
        import xarray

        rungs = list(self.rung_labels)
        draws = max(rung.num_draws for stage in self.stages.values() for rung in stage.rungs.values())
        shape = (len(self.stages), len(rungs), draws)
        arrays = {quantity: np.full(shape, np.nan) for quantity in self.quantities}
        for i, stage in enumerate(self.stages.values()):
            for j, name in enumerate(rungs):
                if name in stage.rungs:
                    for quantity, values in stage.rungs[name].values.items():
                        arrays[quantity][i, j, : values.size] = values
        scores = {name: np.full(shape[:2], np.nan) for name in SCORES}
        for i, stage in enumerate(self.stages.values()):
            for rung, found in stage.scores().items():
                for name, value in found.to_dict().items():
                    scores[name][i, rungs.index(rung)] = value
        return xarray.Dataset(
            {quantity: (("stage", "rung", "draw"), array) for quantity, array in arrays.items()}
            | {name: (("stage", "rung"), array) for name, array in scores.items()},
            coords={"stage": list(self.stages), "rung": rungs, "draw": np.arange(draws)},
            attrs={**{k: str(v) for k, v in self.settings.items()}, **versions("numpy", "scipy", "numba", "torch")},
        )

    def plot(self) -> dict[str, Figure]:
        """The figures: "spectra", "gradient_power" and, with several stages, "stages"."""
        from rmtland.plots.comparison import plot_comparison

        figures: dict[str, Figure] = plot_comparison(self)
        return figures


def _cell(rung: Rung, quantity: str) -> str:
    mean, deviation = rung.mean(quantity), rung.errors.get(quantity, rung.deviation(quantity))
    if math.isnan(mean):
        return ""
    return f"{mean:.3g}" if math.isnan(deviation) else with_deviation(mean, deviation)


def with_deviation(mean: float, deviation: float) -> str:
    """0.3252(3) for 0.3252 with a standard deviation of 0.0003, 3.2(4)e-07 for small numbers; (0): no digit moves."""
    if deviation <= 1e-12 * abs(mean):  # numbers that are the same in every draw, to rounding
        return f"{mean:.3g}(0)"
    if deviation < 5e-6 * abs(mean):
        return f"{mean:.5g}(0)"
    largest = max(abs(mean), deviation)
    if largest < 1e-4:  # zeros would fill the column
        exponent = math.floor(math.log10(largest))
        unit = 10.0**exponent
        return f"{with_deviation(mean / unit, deviation / unit)}e{exponent:03d}"
    decimals = -math.floor(math.log10(deviation))
    digit = round(deviation * 10.0**decimals)
    if digit == 10:  # 0.097 is one digit of tenths
        digit, decimals = 1, decimals - 1
    if decimals >= 0:
        return f"{mean:.{decimals}f}({digit})"
    scale = 10**-decimals
    return f"{round(mean / scale) * scale}({digit * scale})"


def _plain(values: Any) -> Any:
    """Lists and floats, None for what JSON has no number for."""
    if isinstance(values, np.ndarray):
        return [_plain(value) for value in values.tolist()]
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values


def _stage_dict(stage: Stage) -> dict[str, Any]:
    num_examples, num_classes, num_parameters = stage.sizes
    scales = {name: getattr(stage.scales, name) for name in ("sigma_z", "sigma_c", "sigma_E", "snr", "absent_classes")}
    return {
        "num_examples": num_examples,
        "num_classes": num_classes,
        "num_parameters": num_parameters,
        "outputs": _fields(dataclasses.asdict(stage.outputs)),
        "scales": _fields(scales),
        "clustering": _fields(dataclasses.asdict(stage.clustering)),
        "rungs": {name: dict(_rung_items(rung)) for name, rung in stage.rungs.items()},
        "scores": {name: _fields(found.to_dict()) for name, found in stage.scores().items()},
    }


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in values.items()}


def _rung_items(rung: Rung) -> Iterator[tuple[str, Any]]:
    yield "num_draws", rung.num_draws
    yield (
        "quantities",
        {
            quantity: {
                "mean": _plain(rung.mean(quantity)),
                "sd": _plain(rung.deviation(quantity)),
                "error": _plain(rung.errors.get(quantity, math.nan)),
                "draws": _plain(values),
            }
            for quantity, values in rung.values.items()
        },
    )
    yield "num_numbers", rung.num_numbers
    if rung.theory:
        yield "theory", _fields(rung.theory)
    yield "eigenvalues", _plain(rung.eigenvalues)
    yield "powers", _plain(rung.powers)
    if rung.density is not None:
        yield "density", {name: _plain(getattr(rung.density, name)) for name in ("grid", "density", "standard_error")}
