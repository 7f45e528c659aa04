"""The model for many examples: expectations over the logit law instead of sums over the examples of one draw."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from rmtland._arguments import Seed, generator, integer
from rmtland.landscape.kernels import softmax
from rmtland.landscape.logit_laws import GivenLogits
from rmtland.landscape.theory import taylor
from rmtland.landscape.theory.bulk import bulk_atoms, residual_edge
from rmtland.landscape.theory.equivalent import Equation, Evaluation
from rmtland.landscape.theory.examples import RADIUS, TERMS, Floats, count_negative
from rmtland.landscape.theory.given import Model, checked_lengths
from rmtland.landscape.theory.population_classes import ClassSums
from rmtland.landscape.theory.population_classes import level as level_of
from rmtland.landscape.theory.predictions import Theory

ENTRIES = 200_000
"""Probabilities in the sample of the logit law, unless told."""


@njit(cache=True, error_model="numpy")
def scalar_sums(p: Floats, labels: npt.NDArray[np.int64], s: Any, logs: bool) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Sums over the examples of tr B, tr B^2, tr B^3, log det(1 + s A), (p - y)^T R (p - y) and |R (p - y)|^2.

    The last without conjugation. The traces as in `power_traces`, without cancellation.
    """
    first = second = third = form = pull = 0.0 * s
    log_det = 0j
    for mu in range(p.shape[0]):
        top = np.argmax(p[mu])
        a = p[mu, top] / (1.0 + s * p[mu, top])
        s1 = s2 = s3 = s4 = 0.0 * s
        for k in range(p.shape[1]):
            d = 1.0 + s * p[mu, k]
            if logs:
                log_det += np.log(d + 0j)
            if k != top:
                q = p[mu, k] / d
                s1 += q
                s2 += q * q
                s3 += q * q * q
                s4 += q * q * q * q
        total = a + s1
        if logs:
            log_det += np.log(total + 0j)
        inverse = 1.0 / total
        share = a * inverse
        first += 2.0 * share * s1 + (s1 * s1 - s2) * inverse
        second += share * share * (s1 * s1 + 3.0 * s2) + 2.0 * share * inverse * (s1 * s2 - s3)
        second += inverse * inverse * (s2 * s1 * s1 - 2.0 * s3 * s1 + s2 * s2)
        third += share * share * share * (s1 * s1 * s1 + 3.0 * s1 * s2 + 4.0 * s3)
        third += share * share * inverse * (6.0 * s1 * s3 - 3.0 * s4 - 3.0 * s2 * s2)
        third += share * inverse * inverse * 3.0 * (s1 * s1 * s3 - 2.0 * s1 * s4 + s2 * s3)
        third += (
            inverse * inverse * inverse * (s3 * s1 * s1 * s1 - 3.0 * s4 * s1 * s1 + 3.0 * s1 * s2 * s3 - s2 * s2 * s2)
        )
        y = labels[mu]
        at_label = 1.0 / (1.0 + s * p[mu, y])
        wrong = 0.0
        rest = 0.0 * s
        squares = 0.0 * s
        for k in range(p.shape[1]):
            if k != y:
                z = p[mu, k] / (1.0 + s * p[mu, k]) * inverse
                wrong += p[mu, k]
                rest += z
                squares += z * z
                form += z * p[mu, k] * at_label
        form += wrong * rest * at_label
        pull += (squares + rest * rest) * at_label * at_label
    return first, second, third, log_det, form, pull


@dataclass(frozen=True, eq=False)
class PopulationEquivalent(Equation):
    """The equation with K = E B, which for exchangeable logits is a multiple of 1 - 11^T / C.

    Parameters
    ----------
    probabilities, labels : ndarray (n, C), (n,)
        A sample of the logit law.
    num_examples : float
        N, which enters through residual_length^2 / N alone.
    mean_lengths, residual_length, num_parameters, cross_terms, sigma_H, class_length
        As in `DeterministicEquivalent`.
    """

    probabilities: Floats = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    num_examples: float
    mean_lengths: Floats
    residual_length: float
    num_parameters: float
    cross_terms: bool = True
    sigma_H: float = 0.0
    class_length: float = 0.0

    @property
    def weight(self) -> float:
        """residual_length^2 / N."""
        return self.residual_length**2 / self.num_examples

    @cached_property
    def spikes(self) -> Floats:
        """Eigenvalues of Lambda (1 - 11^T / C) Lambda but the zero one, (C - 1,)."""
        size = self.mean_lengths.size
        if np.ptp(self.mean_lengths) == 0:
            return np.full(size - 1, self.mean_lengths[0] ** 2)
        matrix = self.mean_lengths[:, None] * (np.eye(size) - 1 / size) * self.mean_lengths
        spikes: Floats = np.maximum(np.linalg.eigvalsh(matrix)[1:], 0.0)
        return spikes

    def _sums(self, s: complex | float, logs: bool = False) -> tuple[list[Any], Any, Any, Any]:
        """K and its derivatives in s per direction, log det, form and |pull|^2, all as means over the sample."""
        if abs(s) <= RADIUS:
            rows = taylor.weights(s, TERMS)
            k, form, pull, log_det = self._series
            return list(rows @ k), rows[0] @ log_det, rows[0] @ form, rows[0] @ pull
        return self._direct(s, logs)

    @cached_property
    def _series(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Taylor coefficients in s, as in `StructuredExamples`."""
        values = [self._direct(s, False) for s in taylor.circle(RADIUS, TERMS).tolist()]
        columns = [[powers[0], form, pull] for powers, _, form, pull in values]
        k, form, pull = taylor.coefficients(columns, RADIUS, TERMS).T
        log_det = (self.mean_lengths.size - 1) * np.concatenate([[0.0], k[:-1] / np.arange(1.0, TERMS)])
        return k, form, pull, log_det

    def _direct(self, s: complex | float, logs: bool) -> tuple[list[Any], Any, Any, Any]:
        values = scalar_sums(self.probabilities, self.labels, s, logs)
        n, c = self.probabilities.shape
        first, second, third, log_det, form, pull = (value / n for value in values)
        return [first / (c - 1), -second / (c - 1), 2 * third / (c - 1)], log_det, form, pull

    @cached_property
    def _zero(self) -> tuple[list[Any], Any, Any, Any]:
        return self._sums(0.0)

    def evaluate_gauss_newton(
        self, m: complex | float, order: int = 2, logs: bool = False, form: bool = False
    ) -> Evaluation:
        """Psi, its derivatives and the form in expectation; what a sum over examples pulls spreads evenly."""
        weight, size = self.weight, self.mean_lengths.size
        (k, k1, k2), log_det, shape, pull = self._sums(m * weight, logs)
        inner = [k, weight * k1, weight**2 * k2]
        total = self.num_examples * log_det
        slope = self.residual_length**2 * (size - 1) * k
        curvature = self.residual_length**2 * (size - 1) * inner[1]
        if not self.cross_terms:
            inner, pull = [self._zero[0][0], 0.0, 0.0], self._zero[3]
        value = weight * shape
        if self.class_length > 0:
            levels, through, pulls = self._classes(m, inner, pull)
            for count, (there, change, bend) in levels:
                total += count * np.log(there + 0j) if logs else 0.0
                slope += count * change
                curvature += count * bend
            value += pulls[0]
            if self.cross_terms:
                inner, pull = through, pulls[1]
        level = 1 + m * inner[0] * self.spikes
        change = (inner[0] + m * inner[1]) * self.spikes / level
        if logs:
            total += np.sum(np.log(level + 0j))
        slope += np.sum(change)
        curvature += np.sum((2 * inner[1] + m * inner[2]) * self.spikes / level) - np.sum(change * change)
        # E h h^T = (pull / N) (1 - 11^T / C) / (C - 1): R (p - y) has no part along 1, and no direction is singled out.
        value += pull / self.num_examples * np.sum(self.spikes / level) / (size - 1)
        return Evaluation(total, slope, curvature, value)

    @cached_property
    def _class_sums(self) -> ClassSums:
        return ClassSums(self.probabilities, self.labels)

    def _classes(self, m: complex | float, inner: list[Any], pull: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """How often each class level occurs with its value and derivatives, L, and what its form and H have of pulls.

        Given K per direction with derivatives in m, and E |R (p - y)|^2.
        """
        size, strength = self.mean_lengths.size, self.class_length**2
        weight = self.weight if self.cross_terms else 0.0
        scales = (1.0, weight, weight**2)
        # `inner` has derivatives in m, the class sums in s.
        traces = [x / scale if scale > 0 else 0.0 for x, scale in zip(inner, scales, strict=True)]
        of = self._class_sums.at(m * weight, traces)
        own, other = ([x * scale for x, scale in zip(k, scales, strict=True)] for k in (of.own, of.other))
        *first, through_own = level_of(m, strength, own)
        *second, through_other = level_of(m, strength, other)
        rest = pull - of.square
        counts = (size, size * (size - 2))
        through = [
            (counts[0] * x + counts[1] * y) / (size - 1) for x, y in zip(through_own, through_other, strict=True)
        ]
        # h_y has a mean along P_y, which drops out of H = sum F_y h_y, and the spread of a sum over examples.
        mean = of.pull**2 / size * (1 - 1 / self.num_examples)
        form = strength * ((mean + of.square / self.num_examples) / first[0] + rest / self.num_examples / second[0])
        pulled = of.square / first[0] ** 2 + rest / second[0] ** 2
        return [(counts[0], first), (counts[1], second)], through, [form, pulled]

    def atoms_above(self, u: float) -> float:
        """Number of eigenvalues of D T above u > 0, on average."""
        n = self.probabilities.shape[0]
        s = -self.weight / u
        above = count_negative(self.probabilities, s) * self.num_examples / n if s < 0 else 0.0
        k = self._sums(s)[0] if self.cross_terms else [self._zero[0][0], 0.0, 0.0]
        if self.class_length > 0:
            levels, through, _ = self._classes(-1 / u, [k[0], self.weight * k[1], self.weight**2 * k[2]], 0.0)
            above += sum(count * float(np.real(there[0]) < 0) for count, there in levels)
            k = through if self.cross_terms else k
        return float(above + np.sum(1 - np.real(k[0]) * self.spikes / u < 0))

    def atoms(self) -> tuple[Floats, Floats, Floats]:
        """Binned eigenvalues of the A_mu and those of the class levels, their numbers, and the spikes.

        With cross terms the spikes of K(0) are lifted by one step where it is safe.
        """
        values, weights = bulk_atoms(self.probabilities, self.weight, self.num_examples)
        k, size = self._zero[0][0], self.mean_lengths.size
        u, own = float(k * self.spikes.mean()), 0.0
        if self.class_length > 0:
            of = self._class_sums.at(0.0, [k, 0.0, 0.0])
            levels = self.class_length**2 * np.real(np.array([of.own[0], of.other[0]]))
            own = float(levels.max())
            there = np.array([True, size > 2])
            values = np.concatenate([values, levels[there]])
            weights = np.concatenate([weights, np.array([size, size * (size - 2.0)])[there]])
        if self.cross_terms and u > 2 * max(self.weight, own):
            lifted = self._sums(-self.weight / u)[0]
            if self.class_length > 0:
                lifted = self._classes(-1 / u, [lifted[0], self.weight * lifted[1], self.weight**2 * lifted[2]], 0.0)[1]
            k = lifted[0]
        return values, weights, np.real(k) * self.spikes

    @cached_property
    def rank_of_t(self) -> float:
        """Number of nonzero eigenvalues of T."""
        size = self.mean_lengths.size
        spikes = float(np.sum(self.spikes > 0))
        if self.class_length > 0:
            # With cross terms a level adds no rank of its own to one below it that is full.
            spikes = size * (size - 1.0) + (0.0 if self.cross_terms else spikes)
        if not self.residual_length > 0:
            return spikes
        share = float(np.mean(np.maximum(np.sum(self.probabilities > 0, axis=1) - 1, 0)))
        return self.num_examples * share + (0.0 if self.cross_terms else spikes)

    @property
    def cost(self) -> float:
        """Entries of the sample."""
        return float(self.probabilities.size)


@dataclass(frozen=True, eq=False)
class PopulationTheory(Theory):
    """Theory with expectations over the logit law for the logits of one draw; `LandscapeModel.population_theory`.

    N stays a parameter, in residual_length^2 / N: what goes to infinity is the number of examples averaged over, so
    that K, and with it every outlier's T-eigenvalue, is the same in all C - 1 directions.

    Notes
    -----
    Against the theory given logits this leaves out the spread of the eigenvalues of P = (1/N) sum_mu A_mu, of order
    sqrt(C / N): outliers come out too equal, at sigma_z = 15 and N = 300 the largest by 30%. The mean outlier, trace
    and norm have errors of order 1/N; the mean gradient power one of order 1 / C, as it is a ratio of means. With class
    gradients the C (C - 1) class directions have two strengths, and classes are of equal size.
    Expectations are means over a sample of the logit law: relative errors of order (1 / sample size)^(1/2).
    """

    equation: PopulationEquivalent

    @classmethod
    def of(
        cls, model: Model, rng: Seed = 0, cross_terms: bool = True, sample_size: int | None = None
    ) -> PopulationTheory:
        """The limit for a model; see `LandscapeModel.population_theory`."""
        law = checked_lengths(model)
        if isinstance(model.logits, GivenLogits):
            raise ValueError(
                "`logits` must be a law to take expectations over; got GivenLogits, for which use theory()"
            )
        c = model.num_classes
        size = max(ENTRIES // c, 200) if sample_size is None else integer("sample_size", sample_size, at_least=2)
        logits, labels = model.logits.draw_logits(size, c, generator(rng))
        equation = PopulationEquivalent(
            softmax(np.ascontiguousarray(logits, dtype=np.float64)),
            np.asarray(labels, dtype=np.int64),
            float(model.num_examples),
            law.mean_lengths(c),
            law.residual_length,
            float(model.num_parameters),
            bool(cross_terms),
            model.sigma_H,
            law.class_length,
        )
        return cls(equation, c)

    @cached_property
    def bulk_edge(self) -> float:
        """Upper edge of the law of the residual part alone, as in `LandscapeTheory`."""
        return self._edge(self.equation.residual_length, self.equation.sigma_H)[1]

    def _edge(self, residual_length: float, sigma_H: float) -> tuple[float, float]:
        e = self.equation
        return residual_edge(e.probabilities, residual_length, e.num_examples, e.num_parameters, sigma_H)

    def transition_snr(self) -> float:
        """SNR from which on outliers stand apart from the bulk: all at once, for mean gradients of equal lengths.

        Raises
        ------
        ValueError
            With class gradients, which have a bulk of their own; with an H-term but no residuals, whose length is the
            unit of SNR.
        """
        e = self.equation
        if e.class_length > 0:
            raise ValueError(f"`class_length` must be 0 for a transition of the outliers; got {e.class_length}")
        if e.sigma_H > 0 and e.residual_length == 0:
            raise ValueError("`residual_length` must be > 0 for a transition in SNR where there is an H-term")
        u = self._edge(1.0, e.sigma_H / e.residual_length**2 if e.sigma_H > 0 else 0.0)[0]
        k = e._sums(-1.0 / (e.num_examples * u))[0][0] if e.cross_terms and u > 0 else e._zero[0][0]
        return u / float(k) if k > 0 else math.inf
