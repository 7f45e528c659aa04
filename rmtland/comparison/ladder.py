"""The ladder of one stage: each rung replaces one more real thing by the model, and reports the same quantities."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import eigsh
from threadpoolctl import threadpool_limits

from rmtland._arguments import require_memory
from rmtland._arrays import double, to_numpy
from rmtland.comparison.result import NUM_TOP, QUANTITIES, REMEDIES, RUNGS, Rung, Stage
from rmtland.landscape.draw import mean_curvature
from rmtland.landscape.gradient_laws import ClusteredGradients, QValues
from rmtland.landscape.logit_laws import GaussianLogits, GivenLogits, MarginLogits
from rmtland.landscape.model import LandscapeModel
from rmtland.logits.accumulate import gather_logits
from rmtland.logits.clustering import Clustering, clustering
from rmtland.logits.confinement import DENSE_LIMIT
from rmtland.logits.gauss_newton import gauss_newton_spectrum, gradient
from rmtland.logits.gradients import LogitGradients
from rmtland.logits.outputs import output_statistics
from rmtland.logits.scales import LogitScales, logit_scales
from rmtland.spectra.operators import SymmetricOperator
from rmtland.spectra.outliers import count_outliers
from rmtland.spectra.traces import trace_and_norm

Pair = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


MAX_DRAWS = 4
"""Draws in memory at a time."""


def measure_stage(
    source: LogitGradients, num_draws: int, method: str, rng: np.random.Generator, step: Callable[[str], None]
) -> Stage:
    """Measure a source and draw its models, rung by rung; `step` hears of each piece of work done."""
    sizes = source.num_examples, source.num_classes, source.num_parameters
    require_memory(
        f"draws of {sizes[0]} x {sizes[1]} x {sizes[2]} logit gradients",
        24.0 * min(os.cpu_count() or 1, MAX_DRAWS) * math.prod(sizes),
        "measure fewer examples, or a smaller network,",
    )
    q = clustering(source)
    scales = logit_scales(source)
    outputs = output_statistics(source)
    logits, labels = gather_logits(source)
    slope = to_numpy(double(gradient(source)))
    report = Reporter(source.num_classes, method)
    rungs: dict[str, Rung] = {}
    operator = _network_hessian(source)
    if operator is not None:
        rungs["hessian"] = report.hessian(operator, slope, q)
    step("Hessian")
    rungs["gauss_newton"] = report.single(*_spectrum(source), q=q)
    step("Gauss-Newton matrix")
    rungs["mean_gradients"] = report.single(*mean_gradient_outliers(scales, logits, slope))
    step("mean logit gradients")
    full = LandscapeModel.from_scales(scales, source.num_examples, source.num_parameters, outputs.accuracy)
    own = dataclasses.replace(full, logits=GivenLogits(logits, labels))
    children = rng.spawn(2 + len(REMEDIES))
    for name, model, child in zip(("own_probabilities", "full_model"), (own, full), children[:2], strict=True):

        def drawn(child: np.random.Generator, model: LandscapeModel = model) -> Rung:
            draw = model.sample(child)
            return report.single(*_spectrum(draw), q=clustering(draw, num_bootstrap=0))

        rungs[name] = _stack(_side_by_side(drawn, child.spawn(num_draws), partial(step, RUNGS[name])))
    remedies = _remedies(source, full, outputs.participation, logits, labels)
    for name, child in zip(REMEDIES, children[2:], strict=True):
        if name not in remedies:
            for _ in range(num_draws):
                step(RUNGS[name])
            continue

        def reduced(child: np.random.Generator, model: LandscapeModel = remedies[name]) -> Rung:
            spectrum = model.spectrum(child)
            return report.single(spectrum.eigenvalues, spectrum.powers, predicted=_q_values(model, labels))

        rungs[name] = _stack(_side_by_side(reduced, child.spawn(num_draws), partial(step, RUNGS[name])))
    return Stage(outputs, scales, q, rungs, sizes)


def _side_by_side(
    measure: Callable[[np.random.Generator], Rung], children: list[np.random.Generator], step: Callable[[], None]
) -> list[Rung]:
    """`measure` of each child generator, in their order, several at a time."""
    draws = []
    # A thread per draw and none inside: matrices of this size gain little from BLAS threads, which on a busy machine
    # spend their time waiting for each other (three times longer in all, seen on two cores).
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_DRAWS)) as pool:
        for draw in pool.map(measure, children):
            draws.append(draw)
            step()
    return draws


def _remedies(
    source: LogitGradients,
    full: LandscapeModel,
    participation: float,
    logits: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
) -> dict[str, LandscapeModel]:
    """Models of the rungs from (f) on, as far as the source has what they need."""
    models = {"margin_logits": dataclasses.replace(full, logits=MarginLogits.from_logits(logits, labels))}
    # No sigma_z freezes all probabilities, and without two examples of one class there are no class means to see.
    with contextlib.suppress(ValueError):
        law = GaussianLogits.matching_participation(participation, full.num_classes)
        models["matched_participation"] = dataclasses.replace(full, logits=law)
    with contextlib.suppress(ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a sigma_d of 0 is what the rung then shows
        root = math.sqrt(full.num_parameters)
        scales = logit_scales(source, class_means=True)
        lengths = ClusteredGradients(scales.sigma_c * root, scales.sigma_E * root, scales.sigma_d * root)
        models["class_means"] = dataclasses.replace(full, logits=GivenLogits(logits, labels), gradients=lengths)
    return models


def _q_values(model: LandscapeModel, labels: npt.NDArray[np.int64]) -> QValues:
    assert isinstance(model.gradients, ClusteredGradients)
    return model.gradients.q_values(model.num_classes, labels)


def _network_hessian(source: LogitGradients) -> SymmetricOperator | None:
    """Rung (a), for sources that still have their network."""
    if not hasattr(source, "network"):  # spares everybody else the import of torch
        return None
    from rmtland.nets import NetworkLogitGradients, hessian

    return hessian(source) if isinstance(source, NetworkLogitGradients) else None


def _spectrum(source: LogitGradients) -> Pair:
    spectrum = gauss_newton_spectrum(source)
    return spectrum.eigenvalues, spectrum.powers


def mean_gradient_outliers(
    scales: LogitScales, logits: npt.NDArray[np.float64], slope: npt.NDArray[np.float64]
) -> Pair:
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


@dataclass(frozen=True)
class Reporter:
    """What every rung reports, from eigenvalues and powers.

    Attributes
    ----------
    num_classes : int
        C.
    method : str
        Rule of `count_outliers`.
    """

    num_classes: int
    method: str

    def single(
        self,
        eigenvalues: npt.NDArray[np.float64],
        powers: npt.NDArray[np.float64],
        q: Clustering | None = None,
        trace_and_norm: tuple[float, float] | None = None,
        predicted: QValues | None = None,
    ) -> Rung:
        """Report one matrix: its known eigenvalues (r,), the gradient's powers (r,), q-values measured or predicted.

        `trace_and_norm` is given where the eigenvalues are not all known.
        """
        trace, norm = trace_and_norm or (float(eigenvalues.sum()), float(np.linalg.norm(eigenvalues)))
        top = eigenvalues[::-1]
        values = dict.fromkeys(QUANTITIES, math.nan)
        clustered = predicted if q is None else q
        if clustered is not None:
            values["q_same_logit_same_class"] = clustered.same_logit_same_class
            values["q_same_logit"] = clustered.same_logit
            values["q_different_logits"] = clustered.different_logits
        values |= {f"eigenvalue_{i + 1}": float(top[i]) for i in range(min(NUM_TOP, top.size))}
        values["num_outliers"] = self._count(eigenvalues)
        values["gradient_power_C_minus_1"] = float(powers[::-1][: self.num_classes - 1].sum())
        values["gradient_power_C"] = float(powers[::-1][: self.num_classes].sum())
        values["goldilocks_ratio"] = trace / norm if norm > 0 else math.nan
        values["top_eigenvalue"] = float(top[0]) if top.size else 0.0
        arrays = {quantity: np.array([value]) for quantity, value in values.items()}
        return Rung(arrays, eigenvalues[None, :], powers[None, :])

    def _count(self, eigenvalues: npt.NDArray[np.float64]) -> float:
        if np.count_nonzero(eigenvalues > 0) < 2:
            return math.nan
        if eigenvalues.size < self.num_classes:  # rung (c) has nothing but its outliers
            return float(np.count_nonzero(eigenvalues > eigenvalues[-1] * 1e-12))
        return float(count_outliers(eigenvalues, self.method, max_outliers=3 * self.num_classes))

    def hessian(self, operator: SymmetricOperator, slope: npt.NDArray[np.float64], q: Clustering) -> Rung:
        """Report a Hessian, from all of its eigenpairs or, beyond `DENSE_LIMIT` parameters, the top ones."""
        norm = np.linalg.norm(slope)
        if operator.dimension <= DENSE_LIMIT:
            eigenvalues, vectors = np.linalg.eigh(operator.to_dense())
            known = None
        else:
            top = min(3 * self.num_classes + 1, operator.dimension - 1)
            eigenvalues, vectors = eigsh(operator.to_scipy(), k=top, which="LA", v0=slope if norm > 0 else None)
            order = np.argsort(eigenvalues)
            eigenvalues, vectors = eigenvalues[order], vectors[:, order]
            known = trace_and_norm(operator)
        powers = (vectors.T @ (slope / norm)) ** 2 if norm > 0 else np.full(eigenvalues.size, math.nan)
        return self.single(eigenvalues, powers, q, known)


def _stack(draws: list[Rung]) -> Rung:
    # Reduced draws leave out zeros, as many as they please.
    size = max(draw.eigenvalues.shape[1] for draw in draws)
    draws = [_padded(draw, size) for draw in draws]
    values = {quantity: np.concatenate([draw.values[quantity] for draw in draws]) for quantity in QUANTITIES}
    return Rung(
        values,
        np.concatenate([draw.eigenvalues for draw in draws]),
        np.concatenate([draw.powers for draw in draws]),
    )


def _padded(rung: Rung, size: int) -> Rung:
    missing = ((0, 0), (size - rung.eigenvalues.shape[1], 0))
    return Rung(rung.values, np.pad(rung.eigenvalues, missing), np.pad(rung.powers, missing))
