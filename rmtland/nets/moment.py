"""Everything that a training record measures of a network at one moment, as named arrays."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from rmtland._arguments import choice
from rmtland._arrays import double, to_numpy
from rmtland.logits.gauss_newton import gauss_newton, gauss_newton_spectrum
from rmtland.logits.lengths import LengthAccumulator
from rmtland.logits.measure import measure
from rmtland.nets.gradients import NetworkLogitGradients
from rmtland.nets.hierarchy_moment import hierarchy_values
from rmtland.nets.second_derivatives import hessian
from rmtland.spectra.operators import SymmetricOperator
from rmtland.spectra.traces import goldilocks_ratio

Floats = npt.NDArray[np.float64]
Values = dict[str, tuple[tuple[str, ...], Floats]]
"""Name to (names of the axes, numbers)."""

STATISTICS = ("outputs", "logit_scales", "lengths", "clustering", "gauss_newton", "hessian")
"""Measured by default."""

ALL_STATISTICS = (*STATISTICS, "hierarchy")

EXACT = 1024
"""Up to this size eigenvalues come from a dense matrix: exact, and cheaper than iterating."""


@dataclass(frozen=True)
class Moment:
    """What to measure.

    Attributes
    ----------
    statistics : tuple of str
        Of `ALL_STATISTICS`.
    num_eigenvalues : int or None
        How many of the largest eigenvalues; C if None.
    options : dict
        Of `NetworkLogitGradients`: loss, memory_budget and so on.
    """

    statistics: tuple[str, ...]
    num_eigenvalues: int | None
    options: Mapping[str, Any]

    def measure(self, module: torch.nn.Module, inputs: Any, labels: Any, rng: np.random.Generator) -> Values:
        """Measure a module on some examples; it, its gradients and all random states are left as found."""
        with _undisturbed(module), warnings.catch_warnings():
            # A sigma that is clipped at 0 is there to see in the numbers.
            warnings.filterwarnings("ignore", "sigma_", RuntimeWarning)
            return self._measure(NetworkLogitGradients(module, inputs, labels, **self.options), rng)

    def _measure(self, source: NetworkLogitGradients, rng: np.random.Generator) -> Values:
        wanted: dict[str, Any] = {"gradient": "gradient"}
        for name, statistic in (
            ("outputs", "output_statistics"), ("logit_scales", "logit_scales"), ("lengths", LengthAccumulator()),
            ("clustering", "clustering"),
        ):  # fmt: skip
            if name in self.statistics:
                wanted[name] = statistic
        measured = measure(source, **wanted)
        slope = to_numpy(double(measured.gradient))
        values: Values = {"gradient_norm": ((), np.asarray(np.linalg.norm(slope)))}
        for name in wanted:
            if name in READERS:
                values |= {key: (dims, np.asarray(v)) for key, (dims, v) in READERS[name](measured[name]).items()}
        count = self.num_eigenvalues or source.num_classes
        if "gauss_newton" in self.statistics:
            values |= _curvature("gauss_newton", _gauss_newton_top(source, slope, count, rng), source)
        if "hessian" in self.statistics:
            values |= _curvature("hessian", _operator_top(hessian(source), slope, count, rng), source)
        if "hierarchy" in self.statistics:
            values |= hierarchy_values(source, rng.spawn(1)[0])
        return values


READERS: Mapping[str, Callable[[Any], dict[str, tuple[tuple[str, ...], Any]]]] = {
    "outputs": lambda s: {
        name: ((), getattr(s, name)) for name in ("loss", "accuracy", "entropy", "max_probability", "participation")
    },
    "logit_scales": lambda s: {
        "logit_variance": ((), s.sigma_z**2),
        "sigma_c": ((), s.sigma_c),
        "sigma_E": ((), s.sigma_E),
        "snr": ((), s.snr),
    },
    "lengths": lambda s: {
        "logit_gradient_length": (("logit",), s.overall),
        "own_class_length": (("logit",), s.own_class),
    },
    "clustering": lambda s: {
        f"q_{name}": ((), getattr(s, name)) for name in ("same_logit_same_class", "same_logit", "different_logits")
    },
}
"""Name of a statistic to the function that reads numbers from its result."""


@dataclass(frozen=True)
class Top:
    """The largest eigenvalues of a curvature matrix, ascending, the gradient's power in each, Trace/||.||_F."""

    eigenvalues: Floats
    powers: Floats
    ratio: float
    ratio_error: float


def _curvature(name: str, top: Top, source: NetworkLogitGradients) -> Values:
    directions = max(source.num_classes - 1, 1)
    return {
        f"{name}_eigenvalues": (("rank",), top.eigenvalues),
        f"{name}_powers": (("rank",), top.powers),
        f"{name}_gradient_power": ((), np.asarray(top.powers[-directions:].sum())),
        f"{name}_goldilocks_ratio": ((), np.asarray(top.ratio)),
        f"{name}_goldilocks_ratio_error": ((), np.asarray(top.ratio_error)),
    }


def _gauss_newton_top(source: NetworkLogitGradients, slope: Floats, count: int, rng: np.random.Generator) -> Top:
    if min(source.num_parameters, source.num_examples * source.num_classes) > EXACT:
        return _operator_top(gauss_newton(source), slope, count, rng)
    spectrum = gauss_newton_spectrum(source)
    eigenvalues, powers = (_last(values, count) for values in (spectrum.eigenvalues, spectrum.powers))
    return Top(eigenvalues, powers, float(spectrum.goldilocks_ratio()), 0.0)


def _operator_top(operator: SymmetricOperator, slope: Floats, count: int, rng: np.random.Generator) -> Top:
    if operator.dimension <= EXACT:
        eigenvalues, vectors = np.linalg.eigh(to_numpy(double(operator.to_dense())))
        ratio, error = float(goldilocks_ratio(eigenvalues)), 0.0
    else:
        eigenvalues, vectors = top_eigenpairs(operator, count, rng)
        estimate = goldilocks_ratio(operator, num_products=RATIO_PRODUCTS, rng=rng)
        ratio, error = float(estimate), float(estimate.standard_error)
    norm = float(np.linalg.norm(slope))
    powers = (vectors.T @ (slope / norm)) ** 2 if norm > 0 else np.full(eigenvalues.size, math.nan)
    return Top(_last(eigenvalues, count), _last(powers, count), ratio, error)


RATIO_PRODUCTS = 120
"""Products for an estimate of Trace/||.||_F."""


def top_eigenpairs(operator: SymmetricOperator, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """The `count` largest eigenvalues, ascending, and eigenvectors; those that did not converge are left out."""
    start = rng.standard_normal(operator.dimension)
    tolerance = 1e-8 if operator.dtype == np.float64 else 1e-5
    try:
        values, vectors = eigsh(operator.to_scipy(), k=count, which="LA", v0=start, tol=tolerance)
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    order = np.argsort(values)
    return values[order].astype(np.float64), vectors[:, order].astype(np.float64)


def _last(values: Floats, count: int) -> Floats:
    """The last `count`, NaN in front where there are fewer."""
    kept = values[-count:]
    return np.concatenate([np.full(count - kept.size, math.nan), kept])


@contextlib.contextmanager
def _undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Random states put back, and no autocast or no_grad of the caller's around what is measured."""
    devices = {p.device for p in module.parameters()}
    accelerators = [device for device in devices if device.type == "cuda"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=accelerators))
        stack.enter_context(torch.enable_grad())
        for kind in {device.type for device in devices} & {"cpu", "cuda"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def weight_norm(module: torch.nn.Module) -> float:
    """Euclidean norm of the trainable parameters; not finite where one of them is not."""
    squares = [float(p.detach().double().square().sum()) for p in module.parameters() if p.requires_grad]
    return math.sqrt(sum(squares)) if all(map(math.isfinite, squares)) else math.nan


def checked_statistics(statistics: Any) -> tuple[str, ...]:
    """Names of statistics, in the order they are measured; ValueError for another name or none."""
    names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    for name in names:
        choice("statistics", name, ALL_STATISTICS)
    if not names:
        raise ValueError(f"`statistics` must name at least one of {', '.join(ALL_STATISTICS)}; got none")
    return tuple(name for name in ALL_STATISTICS if name in names)
