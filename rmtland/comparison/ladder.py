"""The ladder of one stage: each rung replaces one more real thing by the model, and reports the same quantities."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import cpu_count
from threadpoolctl import threadpool_limits

from rmtland._arrays import to_numpy
from rmtland.comparison.hierarchy import of_model as hierarchy_of_model
from rmtland.comparison.hierarchy import of_source as hierarchy_of_source
from rmtland.comparison.measured import Measured
from rmtland.comparison.reporting import Reporter, stacked
from rmtland.comparison.result import QUANTITIES, RUNGS, Rung, Stage
from rmtland.landscape.anisotropic import AnisotropicGradients, KernelGradients, StructuredGradients
from rmtland.landscape.draw import mean_curvature
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.kernel_rows import spectrum_of_kernel
from rmtland.landscape.logit_laws import GaussianLogits, GivenLogits, MarginLogits
from rmtland.landscape.measured_gradients import measured_gradients
from rmtland.landscape.model import LandscapeModel
from rmtland.landscape.uneven_gradients import UnevenGradients
from rmtland.landscape.unfrozen_logits import UnfrozenLogits
from rmtland.logits.gauss_newton import gauss_newton
from rmtland.logits.kronecker import kronecker_fit
from rmtland.logits.scales import LogitScales
from rmtland.logits.traces import gauss_newton_trace

Floats = npt.NDArray[np.float64]
Told = Callable[[int | None], None]
"""Hears of so many products done, 0 as a rung begins, or with None that a rung or a draw is done."""

Step = Callable[[str, int | None], None]
"""The same with the label of the rung first."""

EXACT_ROWS = 4096
"""Up to so many rows N (C - 1), G is diagonalised, which takes ten seconds or so; beyond, it goes through products."""

DRAWN_ROWS = 2048
"""Up to so many rows the model's draws are diagonalised, many of them in a second each at the most; beyond, the theory
given each draw's logits takes their place."""

CHEAP_CLASSES, CHEAP_CLASS_MEANS = 20, 12
"""Up to so many classes the theory of a rung takes seconds, without and with class means (25 s at 30 classes)."""

CHEAP_MEANS, CHEAP_EXAMPLES = 170, 500
"""Up to so many measured means and shared directions, 7 seconds (C = 10 has 160)."""

MAX_DRAWS = 4
"""Draws in memory at a time."""

FROZEN = 1e-9
"""Mean 1 - sum p^2 below which no sigma_z is looked for: it falls like 1/sigma_z, and none freezes everything."""


def climb(
    measured: Measured, rungs: Collection[str], num_draws: int, report: Reporter, rng: np.random.Generator, step: Step
) -> Stage:
    """Every rung of what was measured; `step` hears of each rung and draw done, and of products on the way."""
    # A child for every rung of the ladder, asked for or not: a rung's numbers do not depend on the others.
    children = dict(zip(RUNGS, rng.spawn(len(RUNGS)), strict=True))
    results: dict[str, Rung] = {}
    for name in (name for name in RUNGS if name in rungs):
        result: Rung | None
        told = partial(step, RUNGS[name])
        told(0)
        if name in MEASURED_RUNGS:
            result = MEASURED_RUNGS[name](measured, report, children[name], told)
            told(None)
        else:
            result = _model_rung(measured, name, report, num_draws, children[name], partial(told, None))
        if result is not None:
            results[name] = result
    return Stage(measured.outputs, measured.scales, measured.clustering, results, measured.sizes)


def _hessian_rung(measured: Measured, report: Reporter, rng: np.random.Generator, told: Told) -> Rung | None:
    """Rung (a), for sources that still have their network."""
    operator = measured.hessian()
    return None if operator is None else report.operator(operator, measured.slope, rng, measured.clustering, told=told)


def _gauss_newton_rung(measured: Measured, report: Reporter, rng: np.random.Generator, told: Told) -> Rung:
    """Rung (b): all eigenvalues through the smaller side of the factor, or the top ones through products."""
    if min(measured.num_rows, measured.source.num_parameters) > EXACT_ROWS:
        operator, trace = gauss_newton(measured.source), gauss_newton_trace(measured.source)
        rung = report.operator(operator, measured.slope, rng, measured.clustering, trace, told)
    else:
        spectrum = measured.spectrum()
        rung = report.spectrum(spectrum.eigenvalues, spectrum.powers, q=measured.clustering)
    if report.hierarchy:
        rung.add(hierarchy_of_source(measured.source, rng.spawn(1)[0]))
    return rung


def _mean_gradients_rung(measured: Measured, report: Reporter, rng: np.random.Generator, told: Told) -> Rung:
    """Rung (h)."""
    rung = report.spectrum(*mean_gradient_outliers(measured.scales, measured.logits, measured.slope))
    count, c = measured.source.num_examples, measured.source.num_classes
    return dataclasses.replace(rung, num_numbers=count * (c + 1) + c * (c + 1) // 2)


def _kernel_law_rung(measured: Measured, report: Reporter, rng: np.random.Generator, told: Told) -> Rung | None:
    """Rung (c): fixed inner products, one draw is all there are."""
    gram = measured.gram()
    if gram is None or not gram.matrix.any():
        return None
    fit = kronecker_fit(gram)
    law = KernelGradients(((fit.theta[0], fit.outputs[0]),))
    model = dataclasses.replace(_own_probabilities(measured), gradients=law)
    spectrum = spectrum_of_kernel(measured.logits, measured.labels, law.gram())
    rung = report.spectrum(*spectrum, law.q_values(model.num_classes, measured.labels))
    return dataclasses.replace(rung, num_numbers=numbers_of(model))


MEASURED_RUNGS: dict[str, Callable[[Measured, Reporter, np.random.Generator, Told], Rung | None]] = {
    "hessian": _hessian_rung,
    "gauss_newton": _gauss_newton_rung,
    "mean_gradients": _mean_gradients_rung,
    "kernel_law": _kernel_law_rung,
}
"""Rungs that are one matrix of the network."""


def _own_probabilities(measured: Measured) -> LandscapeModel:
    return dataclasses.replace(measured.full_model, logits=GivenLogits(measured.logits, measured.labels))


def _full_model(measured: Measured) -> LandscapeModel:
    return measured.full_model


def _margin_logits(measured: Measured) -> LandscapeModel:
    law = MarginLogits.from_logits(measured.logits, measured.labels)
    return dataclasses.replace(measured.full_model, logits=law)


def _matched_participation(measured: Measured) -> LandscapeModel | None:
    outputs, count = measured.outputs, measured.source.num_classes
    if 1.0 - outputs.participation < FROZEN:
        return None
    law = GaussianLogits.from_participation(outputs.participation, count, outputs.accuracy)
    return dataclasses.replace(measured.full_model, logits=law)


def _class_means(measured: Measured) -> LandscapeModel | None:
    scales = measured.class_scales
    if scales is None:
        return None
    root = math.sqrt(measured.source.num_parameters)
    lengths = ClusteredGradients(scales.sigma_c * root, scales.sigma_E * root, scales.sigma_d * root)
    return dataclasses.replace(_own_probabilities(measured), gradients=lengths)


def _unfrozen_logits(measured: Measured) -> LandscapeModel | None:
    if math.isnan(measured.unfrozen_scales.mean_length):
        return None
    law = UnfrozenLogits.from_logits(measured.logits, measured.labels)
    model = measured.full_model.unfrozen(law, measured.unfrozen_scales)
    gram = measured.gram()
    # For more rows than have their inner products formed, lengths alone.
    return model if gram is None else dataclasses.replace(model, gradients=UnevenGradients.from_source(gram))


def _measured_means(measured: Measured) -> LandscapeModel | None:
    gram = measured.gram()
    if gram is None or not gram.matrix.any():
        return None
    law = measured_gradients(gram)
    return dataclasses.replace(_own_probabilities(measured), gradients=law)


MODEL_RUNGS: dict[str, Callable[[Measured], LandscapeModel | None]] = {
    "own_probabilities": _own_probabilities,
    "full_model": _full_model,
    "margin_logits": _margin_logits,
    "matched_participation": _matched_participation,
    "class_means": _class_means,
    "unfrozen_logits": _unfrozen_logits,
    "measured_means": _measured_means,
}
"""Rungs that are models; None where the source has not what the law needs."""


def _model_rung(
    measured: Measured,
    name: str,
    report: Reporter,
    num_draws: int,
    rng: np.random.Generator,
    step: Callable[[], None],
) -> Rung | None:
    """Draws of a model, exact in law at any D; where their eigenproblem is too large, its theory per logit draw."""
    model = MODEL_RUNGS[name](measured)
    if model is None:
        for _ in range(num_draws):
            step()
        return None
    gradients: Any = model.gradients
    q = gradients.q_values(model.num_classes, measured.labels)
    small = min(measured.num_rows, model.num_parameters) <= DRAWN_ROWS
    # Their theory takes longer than a draw of the top alone.
    exact = small or isinstance(gradients, StructuredGradients)

    def one(child: np.random.Generator) -> Rung:
        if exact:
            spectrum = model.spectrum(child, k=None if small else 3 * model.num_classes)
            sums = spectrum.trace, spectrum.frobenius
            rung = report.spectrum(spectrum.eigenvalues, spectrum.powers, q=q, sums=sums)
        else:
            rung = report.theory(model.theory(child), q)
        if report.hierarchy:  # of another draw of the same model
            rung.add(hierarchy_of_model(model, child.spawn(1)[0]))
        return rung

    children = rng.spawn(num_draws)
    # The theory given the network's own logits is the same for every draw of them.
    given = isinstance(model.logits, GivenLogits)
    again = copy.deepcopy(children[:1] if given else children)
    if exact or not given:
        rung = stacked(_side_by_side(one, children, step))
    else:
        (only,) = _side_by_side(one, children[:1], step)
        for _ in children[1:]:
            step()
        rung = stacked([only] * num_draws)
    predicted: dict[str, float] = {}
    if report.with_theory or (report.with_theory is None and _theory_is_cheap(model, rung)):
        try:
            if exact:
                theories = [model.theory(child) for child in again]
                found = [report.predicted(theory) for theory in theories]
                edges = np.array([[theory.bulk_edge] for theory in theories])
                rung.values["num_above_edge"] = np.sum(rung.eigenvalues > edges, axis=1, dtype=np.float64)
                predicted = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
                predicted |= {key: rung.mean(key) for key in QUANTITIES if key.startswith("q_")}
            else:
                predicted = {key: rung.mean(key) for key in QUANTITIES}
            predicted = {key: predicted[key] for key in QUANTITIES if not math.isnan(predicted.get(key, math.nan))}
        except (ValueError, ArithmeticError):
            # Degenerate laws have no theory, and of others it may not be found. Who did not ask still has the draws.
            if report.with_theory:
                raise
    return dataclasses.replace(rung, num_numbers=numbers_of(model), theory=predicted)


def _theory_is_cheap(model: LandscapeModel, drawn: Rung) -> bool:
    """Whether there is a theory of all draws, which frozen probabilities have not, and whether it takes seconds."""
    if not drawn.values["trace"].min() > 0:
        return False
    if isinstance(model.gradients, AnisotropicGradients):
        return len(np.asarray(model.gradients.mean_gram)) <= CHEAP_MEANS and model.num_examples <= CHEAP_EXAMPLES
    by_class = bool(getattr(model.gradients, "class_length", 0))
    return model.num_classes <= (CHEAP_CLASS_MEANS if by_class else CHEAP_CLASSES)


def _side_by_side(
    measure: Callable[[np.random.Generator], Rung], children: list[np.random.Generator], step: Callable[[], None]
) -> list[Rung]:
    """`measure` of each child generator, in their order, several at a time."""
    draws = []
    # A thread per draw and none inside: matrices of this size gain little from BLAS threads, which on a busy machine
    # spend their time waiting for each other (three times longer in all, seen on two cores).
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(cpu_count(), MAX_DRAWS)) as pool:
        for draw in pool.map(measure, children):
            draws.append(draw)
            step()
    return draws


def numbers_of(model: LandscapeModel) -> int:
    """How many numbers a model is given, beside N, C and D."""
    logits, gradients = model.logits, model.gradients
    if isinstance(logits, GivenLogits):
        count = model.num_examples * (model.num_classes + 1)
    else:
        count = len(dataclasses.fields(logits))  # type: ignore[arg-type]
    if isinstance(gradients, AnisotropicGradients | KernelGradients | UnevenGradients):
        return count + gradients.num_numbers
    return count + sum(bool(getattr(gradients, name, 0)) for name in ("mean_length", "residual_length", "class_length"))


def mean_gradient_outliers(
    scales: LogitScales, logits: npt.NDArray[np.float64], slope: npt.NDArray[np.float64]
) -> tuple[Floats, Floats]:
    """The C - 1 eigenvalues of sum_kl c_k P_kl c_l^T and the gradient's power in their eigenvectors.

    Parameters
    ----------
    scales : LogitScales
        With the mean logit gradients c (C, D).
    logits : ndarray (N, C)
    slope : ndarray (D,)
        The gradient.

    Returns
    -------
    eigenvalues, powers : ndarray (C - 1,)
        Ascending. P 1 = 0, so the rank is at most C - 1 whatever the lengths of the c_k.

    References
    ----------
    Fort and Ganguli (2019), eq. (16), first term.
    """
    means = to_numpy(scales.mean_gradients)
    values, vectors = np.linalg.eigh(mean_curvature(logits))
    root = vectors * np.sqrt(np.maximum(values, 0))
    # F F^T with F = c^T root has the eigenvalues of root^T c c^T root and the eigenvectors F w / sqrt(eigenvalue).
    eigenvalues, w = np.linalg.eigh(root.T @ (means @ means.T) @ root)
    eigenvalues, w = np.maximum(eigenvalues[1:], 0), w[:, 1:]
    norm = np.linalg.norm(slope)
    if norm == 0:
        return eigenvalues, np.full(eigenvalues.size, math.nan)
    positive = eigenvalues > eigenvalues[-1] * 1e-12
    overlaps = w.T @ (root.T @ (means @ (slope / norm)))
    return eigenvalues, np.where(positive, overlaps**2 / np.where(positive, eigenvalues, 1), 0)
