"""Everything that a training record measures of a network at one moment, as named arrays."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rmtland._arguments import choice, instance, several
from rmtland._arrays import double, to_numpy
from rmtland.logits.accumulate import Accumulator
from rmtland.logits.gauss_newton import gauss_newton, gauss_newton_spectrum
from rmtland.logits.lengths import LengthAccumulator
from rmtland.logits.losses import CrossEntropy
from rmtland.logits.measure import checked_accumulator, measure
from rmtland.logits.outputs import LossAccumulator
from rmtland.nets.gradients import NetworkLogitGradients
from rmtland.nets.hierarchy_moment import hierarchy_values
from rmtland.nets.second_derivatives import hessian
from rmtland.nets.torch_losses import translated
from rmtland.spectra.operators import SymmetricOperator
from rmtland.spectra.partial import partial_spectrum
from rmtland.spectra.traces import goldilocks_ratio

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
Values = dict[str, tuple[tuple[str, ...], Floats]]
"""Name to (names of the axes, numbers)."""

STATISTICS = ("outputs", "logit_scales", "lengths", "clustering", "gauss_newton", "hessian")
"""Measured by default."""

OF_ANY_LOSS = ("outputs", "gauss_newton", "hessian")
"""By default of a loss other than cross-entropy, whose outputs need be no classes: of outputs the loss alone."""

ALL_STATISTICS = (*STATISTICS, "hierarchy")

RESERVED = {"weight_norm", "step", "split", "rank", "group"}
"""What a record has beside the values of a moment."""

EXACT = 1024
"""Up to this size eigenvalues come from a dense matrix: exact, and cheaper than iterating."""

LARGE, EXACT_ROWS = 10**5, 4096
"""From so many parameters on, hundreds of products cost more than an eigenproblem of so many rows N (C - 1): 465 full
gradients against 199, of 10^6 parameters and 2,700 rows."""


@dataclass(frozen=True)
class Moment:
    """What to measure.

    Attributes
    ----------
    statistics : tuple of str
        Of `ALL_STATISTICS`.
    k : int or None
        How many of the largest eigenvalues; C if None.
    options : dict
        Of `NetworkLogitGradients`: loss, memory_budget and so on.
    accumulators : dict
        Statistics of the caller's, by name.
    """

    statistics: tuple[str, ...]
    k: int | None
    options: Mapping[str, Any]
    accumulators: Mapping[str, Accumulator[Any]]

    def measure(self, module: torch.nn.Module, inputs: Any, labels: Any, rng: np.random.Generator) -> Values:
        """Measure a module on some examples; it, its gradients and all random states are left as found."""
        with undisturbed(module), warnings.catch_warnings():
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
        if "outputs" in wanted and not isinstance(source.loss, CrossEntropy):
            wanted["loss"] = LossAccumulator()
            del wanted["outputs"]
        if "gauss_newton" in self.statistics and not _is_exact(source):
            wanted["trace"] = "gauss_newton_trace"
        wanted |= {f"own {name}": accumulator for name, accumulator in self.accumulators.items()}
        measured = measure(source, **wanted)
        slope = to_numpy(double(measured.gradient))
        values: Values = {"gradient_norm": ((), np.asarray(np.linalg.norm(slope)))}
        for name in wanted:
            if name in READERS:
                values |= {key: (dims, np.asarray(v)) for key, (dims, v) in READERS[name](measured[name]).items()}
        count = self.k or source.num_classes
        of_gauss_newton, of_hessian, of_hierarchy = rng.spawn(3)
        if "gauss_newton" in self.statistics:
            curvature = _gauss_newton(source, slope, count, measured.get("trace"), of_gauss_newton)
            values |= curvature.values("gauss_newton", count)
        if "hessian" in self.statistics:
            curvature = _of_operator(hessian(source), slope, count, source.num_classes, of_hessian)
            values |= curvature.values("hessian", count)
        if "hierarchy" in self.statistics:
            values |= hierarchy_values(source, of_hierarchy)
        for name in self.accumulators:
            found = numbers_of(name, measured[f"own {name}"])
            for taken in found.keys() & (values.keys() | RESERVED):
                raise ValueError(f"`accumulators` must have names that the record does not have; got {taken!r}")
            values |= found
        return values


def numbers_of(name: str, result: Any) -> Values:
    """A result as named arrays: itself, or its fields that are numbers; TypeError where there are none."""
    parts = {name: result}
    if is_dataclass(result) and not isinstance(result, type):
        parts = {f"{name}_{field.name}": getattr(result, field.name) for field in fields(result)}
    elif isinstance(result, Mapping):
        parts = {f"{name}_{key}": value for key, value in result.items()}
    found: Values = {}
    for key, part in parts.items():
        if isinstance(part, (int, float, np.number, np.ndarray, torch.Tensor)):
            values = to_numpy(part) if isinstance(part, torch.Tensor) else np.asarray(part)
            if values.dtype.kind in "biuf":
                found[key] = tuple(f"{key}_{axis}" for axis in range(values.ndim)), values.astype(np.float64)
    if not found:
        kind = type(result).__name__
        raise TypeError(f"`accumulators` must give numbers, arrays, or mappings or dataclasses of them; got {kind}")
    return found


def _with_errors(result: Any, names: tuple[str, ...], prefix: str = "") -> dict[str, tuple[tuple[str, ...], Any]]:
    """Attributes and, beside each, its standard error over examples."""
    return {f"{prefix}{n}": ((), getattr(result, n)) for name in names for n in (name, f"{name}_error")}


READERS: Mapping[str, Callable[[Any], dict[str, tuple[tuple[str, ...], Any]]]] = {
    "outputs": lambda s: _with_errors(s, ("loss", "accuracy", "entropy", "max_probability", "participation")),
    "loss": lambda s: {"loss": ((), s[0]), "loss_error": ((), s[1])},
    "logit_scales": lambda s: {
        "logit_variance": ((), s.sigma_z**2),
        "logit_variance_error": ((), 2 * s.sigma_z * s.sigma_z_error),
        **_with_errors(s, ("sigma_c", "sigma_E", "snr")),
    },
    "lengths": lambda s: {
        "logit_gradient_length": (("logit",), s.overall),
        "logit_gradient_length_error": (("logit",), s.overall_error),
        "own_class_length": (("logit",), s.own_class),
        "own_class_length_error": (("logit",), s.own_class_error),
    },
    "clustering": lambda s: _with_errors(s, ("same_logit_same_class", "same_logit", "different_logits"), "q_"),
}
"""Name of a statistic to the function that reads numbers from its result."""


@dataclass(frozen=True, eq=False)
class Curvature:
    """A curvature matrix of C classes seen from the top: eigenvalues ascending, the gradient's power in each, sums.

    Attributes
    ----------
    eigenvalues, errors, powers : ndarray (k,)
        Errors are the norms of residuals, 0 where the matrix was diagonalised.
    gradient_power, gradient_power_error : float
        In the top C - 1 eigenvectors; the error is a bound from residuals and the gap below them.
    sums : dict
        "trace", "frobenius_norm" and "goldilocks_ratio", each to (value, standard error).
    """

    eigenvalues: Floats
    errors: Floats
    powers: Floats
    gradient_power: float
    gradient_power_error: float
    sums: Mapping[str, tuple[float, float]]

    def values(self, name: str, count: int) -> Values:
        """Named arrays with the `count` largest eigenvalues, NaN in front where there are fewer."""
        found: Values = {
            f"{name}_eigenvalues": (("rank",), _last(self.eigenvalues, count)),
            f"{name}_eigenvalues_error": (("rank",), _last(self.errors, count)),
            f"{name}_powers": (("rank",), _last(self.powers, count)),
        }
        power = self.gradient_power, self.gradient_power_error
        for quantity, (value, error) in {"gradient_power": power, **self.sums}.items():
            found[f"{name}_{quantity}"] = ((), np.asarray(value))
            found[f"{name}_{quantity}_error"] = ((), np.asarray(error))
        return found


def _of_spectrum(eigenvalues: Floats, powers: Floats, num_classes: int) -> Curvature:
    """From all eigenvalues that are not zero, ascending, and the gradient's power in each."""
    trace, norm = float(eigenvalues.sum()), float(np.linalg.norm(eigenvalues))
    sums = {"trace": trace, "frobenius_norm": norm, "goldilocks_ratio": float(goldilocks_ratio(eigenvalues))}
    power = float(powers[-max(num_classes - 1, 1) :].sum())
    return Curvature(
        eigenvalues, np.zeros_like(eigenvalues), powers, power, 0.0, {name: (sums[name], 0.0) for name in sums}
    )


def _is_exact(source: NetworkLogitGradients) -> bool:
    """Whether G is diagonalised, through the smaller side of its factor."""
    rows = source.num_examples * (source.num_classes - 1)
    if source.num_parameters >= LARGE and rows <= EXACT_ROWS:
        return True
    return min(source.num_parameters, rows) <= EXACT


def _gauss_newton(source: NetworkLogitGradients, slope: Floats, count: int, trace: float | None, rng: Rng) -> Curvature:
    if trace is not None:
        return _of_operator(gauss_newton(source), slope, count, source.num_classes, rng, trace)
    spectrum = gauss_newton_spectrum(source)
    return _of_spectrum(spectrum.eigenvalues, spectrum.powers, source.num_classes)


def _of_operator(
    operator: SymmetricOperator, slope: Floats, count: int, num_classes: int, rng: Rng, trace: float | None = None
) -> Curvature:
    """From a dense matrix where it is small, else from products: the top, and trace and norm with their errors."""
    if operator.dimension <= EXACT:
        eigenvalues, vectors = np.linalg.eigh(to_numpy(double(operator.to_dense())))
        return _of_spectrum(eigenvalues, powers_along(vectors, slope), num_classes)
    directions = max(num_classes - 1, 1)
    # One more than the power needs, which tells the gap below it.
    wanted = min(max(count, directions + 1), operator.dimension - 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*eigenpairs did not converge", RuntimeWarning)  # their errors tell
        found = partial_spectrum(operator, wanted, trace=trace, rng=rng)
    pairs = found.pairs
    powers = powers_along(to_numpy(double(pairs.eigenvectors)), slope)
    power = float(powers[-directions:].sum())
    sums = {
        "trace": (found.trace, found.trace_error),
        "frobenius_norm": (found.frobenius, found.frobenius_error),
        "goldilocks_ratio": (found.ratio, found.ratio_error),
    }
    error = power_error(power, pairs.residuals, pairs.eigenvalues, directions)
    return Curvature(pairs.eigenvalues, pairs.residuals, powers, power, error, sums)


def power_error(power: float, residuals: Floats, eigenvalues: Floats, directions: int) -> float:
    """How far the share of a vector in the span of the top eigenvectors may be off.

    The span is off by an angle of sine s <= |residuals| / gap (Davis and Kahan 1970), and its share p by at most
    2 s sqrt(p (1 - p)) + s^2, never by more than 1.
    """
    if math.isnan(power):
        return math.nan
    gap = float(eigenvalues[-directions] - eigenvalues[-directions - 1] - residuals[-directions - 1])
    residual = float(np.linalg.norm(residuals[-directions:]))
    sine = residual / gap if gap > residual else 1.0
    inside = min(power, 1.0)
    return min(2 * sine * math.sqrt(inside * (1 - inside)) + sine**2, 1.0)


def powers_along(vectors: Floats, slope: Floats) -> Floats:
    """Share of the squared gradient along each column; NaN for a gradient of zero."""
    norm = float(np.linalg.norm(slope))
    powers: Floats = (vectors.T @ (slope / norm)) ** 2 if norm > 0 else np.full(vectors.shape[1], math.nan)
    return powers


def _last(values: Floats, count: int) -> Floats:
    """The last `count`, NaN in front where there are fewer."""
    kept = values[-count:]
    return np.concatenate([np.full(count - kept.size, math.nan), kept])


@contextlib.contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
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


def pair(inputs: Any, labels: Any) -> tuple[Any, Any]:
    """Inputs and labels; a pair of both may stand for the inputs."""
    if labels is None and isinstance(inputs, tuple) and len(inputs) == 2:
        return inputs
    return inputs, labels


def checked_accumulators(accumulators: Any) -> dict[str, Accumulator[Any]]:
    """Accumulators by name; TypeError for anything else, ValueError for names that are no names of variables."""
    if accumulators is None:
        return {}
    for name, accumulator in instance("accumulators", accumulators, Mapping, "a mapping of names").items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"`accumulators` must have names of letters, digits and _; got {name!r}")
        checked_accumulator("accumulators", accumulator)
    return dict(accumulators)


def checked_statistics(statistics: Any, loss: Any = None) -> tuple[str, ...]:
    """Names of statistics, in the order they are measured, by default what the loss allows; ValueError for others."""
    if statistics is None:
        return STATISTICS if isinstance(translated(loss)[0], CrossEntropy) else OF_ANY_LOSS
    names = (statistics,) if isinstance(statistics, str) else several("statistics", statistics)
    for name in names:
        choice("statistics", name, ALL_STATISTICS)
    if not names:
        raise ValueError(f"`statistics` must name at least one of {', '.join(ALL_STATISTICS)}; got none")
    return tuple(name for name in ALL_STATISTICS if name in names)
