"""Theory of the landscape model given its logits: density, outliers, gradient and Goldilocks ratio, no matrix drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.optimize import brentq

from rmtland._arguments import Seed, generator, require_memory
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.kernels import softmax
from rmtland.landscape.logit_laws import LogitLaw
from rmtland.landscape.theory.bulk import residual_edge
from rmtland.landscape.theory.equivalent import DeterministicEquivalent
from rmtland.landscape.theory.examples import Floats, StructuredExamples, largest_eigenvalue, power_traces
from rmtland.landscape.theory.predictions import Theory


class Model(Protocol):
    """What the theory needs to know of a `LandscapeModel`."""

    @property
    def num_examples(self) -> int:
        """N."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def num_parameters(self) -> int:
        """D."""

    @property
    def logits(self) -> LogitLaw:
        """The logit law."""

    @property
    def gradients(self) -> object:
        """The gradient law."""

    @property
    def sigma_H(self) -> float:
        """Scale of the H-term."""


@dataclass(frozen=True)
class FirstOrder:
    """Mean outlier to first order, in closed form, and how far that is from the full theory.

    Attributes
    ----------
    mean_outlier : float
        mean_length^2 tr P / (C - 1) + residual_length^2 tr P / D (the lengths of unequal means by the mean of their
        squares), P = (1/N) sum_mu A_mu: D sigma_c^2 C E p_1 p_2 + sigma_E^2 C (C - 1) E p_1 p_2 with the averages of
        the logits at hand. With an H-term sigma_H^2 over the first of these comes on top.
    error : float
        mean_outlier over the mean of the outliers of the full theory, less 1.
    """

    mean_outlier: float
    error: float


@dataclass(frozen=True, eq=False)
class LandscapeTheory(Theory):
    """Theory of a landscape model given the logits and labels of one draw of them; made by `LandscapeModel.theory`.

    Given the logits, the Gauss-Newton matrix is G = X^T T X with X of independent standard normal rows: a generalised
    Marchenko-Pastur matrix (in free convolution with a semicircle where there is an H-term), whose deterministic
    equivalent is evaluated here example by example, O(N C^2) a point, with
    no matrix of examples times classes.

    Attributes
    ----------
    equation : DeterministicEquivalent
        Its equation, in u = -1/m, m the Stieltjes transform.
    num_classes : int
        C.

    Notes
    -----
    Predictions are means over draws of logit gradients with these logits, to first order in 1/D and 1/N; trace and
    Frobenius norm are exact. Other logits shift them much more (the outliers at N = 300 by up to 40%): pair draws and
    theory on the same logits, or use `LandscapeModel.theory_band`. Without residuals the matrix has rank C - 1, without
    mean gradients the C - 1 largest eigenvalues are those of the bulk.

    References
    ----------
    Silverstein and Bai (1995), eq. (1.4); Fort and Ganguli (2019), eqs. (10), (15), (16). The reduction of the model to
    it, and all that is said of the gradient, is this package's.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=100, num_classes=4, num_parameters=400, sigma_z=1.0)
    >>> theory = model.theory(rng=0)
    >>> theory.outliers().shape, bool(theory.outliers()[0] > theory.bulk_edge)
    ((3,), True)
    >>> theory.count_above(0.5 * (theory.bulk_edge + theory.outliers()[0]))
    3.0
    """

    equation: DeterministicEquivalent

    @classmethod
    def of(cls, model: Model, rng: Seed = None, cross_terms: bool = True) -> LandscapeTheory:
        """The theory of a model, given the logits that it draws."""
        lengths = checked_lengths(model)
        logits, labels = model.logits.draw_logits(model.num_examples, model.num_classes, generator(rng))
        probabilities = softmax(np.ascontiguousarray(logits, dtype=np.float64))
        by_class = lengths.class_length > 0
        if by_class:
            require_memory(
                "theory with class gradients", 320.0 * model.num_classes**3, "use class_length = 0 or fewer classes"
            )
        examples = StructuredExamples(probabilities, np.asarray(labels, dtype=np.int64), by_class)
        theory = cls(
            DeterministicEquivalent(
                examples,
                lengths.mean_lengths(model.num_classes),
                lengths.residual_length,
                lengths.class_length,
                float(model.num_parameters),
                bool(cross_terms),
                None if lengths.relative_lengths is None else np.array(lengths.relative_lengths),
                model.sigma_H,
            ),
            model.num_classes,
        )
        if not theory.equation.power_sums[0] > 0:
            raise ValueError(
                "`logits` must leave some curvature; got probabilities that are 0 and 1 in every example"
                if np.all(np.isin(probabilities, (0, 1)))
                else "`gradients` must have a positive length where the logits have curvature; got none"
            )
        return theory

    @cached_property
    def bulk_edge(self) -> float:
        """Upper edge of the asymptotic law of (1/N) sum_mu E_mu^T A_mu E_mu, the residual part, plus the H-term.

        z(u) = u + (1/D) sum_i t_i u / (u - t_i) + sigma_H^2 / u at the u beyond all t_i with sum_i t_i^2 / (u - t_i)^2
        / D + sigma_H^2 / u^2 = 1, the t_i being residual_length^2 / N times the eigenvalues of all A_mu: eq. (16)'s
        bulk. Cross terms push the bulk down by a share of order C / N of it at most, and class gradients have
        eigenvalues of their own above it. 0 without residuals and H-term.
        """
        return self._edge[1]

    @cached_property
    def _edge(self) -> tuple[float, float]:
        e = self.equation
        return residual_edge(e.examples.probabilities, e.residual_length, e.num_examples, e.num_parameters, e.sigma_H)

    def transition_snr(self) -> Floats:
        """SNR from which on 1, 2, ..., C - 1 outliers stand apart from the bulk, with these logits, N, C and D.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Ascending: at the first the strongest outlier leaves the bulk, at the last the weakest. SNR is mean_length^2
            / residual_length^2, at the relative lengths at hand. inf for directions without curvature.

        Raises
        ------
        ValueError
            With class gradients, which have a bulk of their own; with an H-term but no residuals, whose length is the
            unit of SNR.

        Notes
        -----
        A direction of the mean part leaves the bulk where its eigenvalue of D T passes the u of `bulk_edge`. With s =
        -residual_length^2 / (N u) that is SNR k = u / residual_length^2, k the eigenvalues of K(s) between the relative
        lengths (of K(0) = P without cross terms). u / residual_length^2 depends on the logits, N, D and sigma_H /
        residual_length^2 alone: a closed form after one edge.
        """
        e = self.equation
        self._require_one_bulk()
        if e.sigma_H > 0 and e.residual_length == 0:
            raise ValueError("`residual_length` must be > 0 for a transition in SNR; see transition_sigma_H()")
        relative = np.ones(e.num_classes) if e.relative_lengths is None else e.relative_lengths
        own = e.sigma_H / e.residual_length**2 if e.sigma_H > 0 else 0.0
        u = residual_edge(e.examples.probabilities, 1.0, e.num_examples, e.num_parameters, own)[0]
        if u == 0:
            return np.zeros(e.num_classes - 1)
        matrix = e.examples.at(-1.0 / (e.num_examples * u) if e.cross_terms else 0.0, logs=False).powers[0][0]
        curvatures = np.linalg.eigvalsh(relative[:, None] * matrix * relative)[1:]
        positive = curvatures > 1e-14 * curvatures[-1]
        return np.where(positive, u / np.where(positive, curvatures, 1.0), math.inf)[::-1]

    def _require_one_bulk(self) -> None:
        if self.equation.class_length > 0:
            raise ValueError(
                f"`class_length` must be 0 for a transition of the outliers; got {self.equation.class_length}"
            )

    def transition_sigma_H(self) -> Floats:
        """Scale of the H-term from which on each outlier is swallowed by the bulk, with everything else as it is.

        Returns
        -------
        ndarray of float64, shape (C - 1,)
            Ascending, in the order of `outliers`. 0 for directions that no bulk leaves out, whatever its H-term.

        Raises
        ------
        ValueError
            With class gradients, which have a bulk of their own.

        Notes
        -----
        An H-term leaves the eigenvalues theta of D T alone and adds sigma_H^2 / u to z(u). The outlier of theta is
        there as long as z has a positive slope at theta: sigma_H^2 < theta^2 (1 - sum_i t_i^2 / (theta - t_i)^2 / D),
        the sum over the residual part. Without residuals that is sigma_H < theta, the threshold of a spike on a Wigner
        matrix.

        References
        ----------
        Fort and Ganguli (2019), sec. 3.1, describe the transition in words. Peche (2006), theorem 1.1, and Capitaine,
        Donati-Martin, Feral and Fevrier (2011), theorem 8.1, for spikes on a Wigner matrix and on a general bulk plus
        one; here with a bulk and spikes of one matrix.
        """
        e = self.equation
        self._require_one_bulk()
        p = e.examples.probabilities
        largest = e.weight * largest_eigenvalue(p) if e.weight > 0 else 0.0

        def spikes(u: float) -> Floats:
            matrix = e.examples.at(-e.weight / u if e.cross_terms else 0.0, logs=False).powers[0].sum(axis=0)
            found: Floats = np.linalg.eigvalsh(e.mean_lengths[:, None] * matrix * e.mean_lengths)[1:]
            return found

        scales = np.zeros(e.num_classes - 1)
        beyond = float(np.sum(e.mean_lengths**2)) + 2 * largest
        for j in range(scales.size):
            low = largest * (1 + 1e-9) + 1e-12 * beyond
            if spikes(low)[j] <= low:
                continue
            theta = float(brentq(lambda u, j=j: u - spikes(u)[j], low, beyond, xtol=1e-13 * beyond, rtol=1e-14))
            x = e.weight / theta
            inside = 1 - x * x * float(power_traces(p, -x)[1]) / e.num_parameters if x > 0 else 1.0
            scales[j] = theta * math.sqrt(max(inside, 0.0))
        return scales

    def first_order(self) -> FirstOrder:
        """The mean outlier in closed form, and its error against `outliers`."""
        e = self.equation
        curvature = e.at_zero.powers[0].sum(axis=0)
        trace = float(np.trace(curvature))
        mean = float(np.trace(e.mean_lengths[:, None] * curvature * e.mean_lengths)) / (self.num_classes - 1)
        value = mean + (e.residual_length**2 + e.class_length**2) * trace / e.num_parameters
        if mean > 0:
            value += e.sigma_H**2 / mean
        return FirstOrder(value, value / float(self.outliers().mean()) - 1)


def checked_lengths(model: Model) -> ClusteredGradients:
    """The gradient law, which has to be one that the theory knows and not the zero matrix's."""
    law = model.gradients
    if not isinstance(law, ClusteredGradients):
        raise TypeError(f"`gradients` must be ClusteredGradients for the theory; got {law!r}")
    if not (law.residual_length > 0 or law.class_length > 0 or np.any(law.mean_lengths(model.num_classes) > 0)):
        raise ValueError("`gradients` must have a positive length; got zero for all")
    return law
