"""What a network's kernels at initialisation say: scales, clustering, a random model without a fitted number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rmtland._arguments import Seed, generator, integer, spawn
from rmtland._arrays import told
from rmtland.landscape.anisotropic import KernelGradients
from rmtland.landscape.gradient_laws import QValues
from rmtland.landscape.logit_laws import GivenLogits
from rmtland.landscape.mean_field.logits import GaussianProcessLogits
from rmtland.landscape.model import LandscapeModel
from rmtland.logits.losses import CrossEntropy

Floats = npt.NDArray[np.float64]

_BLOCK = 250_000
"""Numbers of the matrices that are drawn together."""


@dataclass(frozen=True, eq=False)
class MeanFieldKernels:
    """Kernels of N inputs at initialisation, to leading order in the widths.

    Attributes
    ----------
    covariance : ndarray (N, N)
        Of each logit over the inputs: z_k ~ N(0, covariance), independent for different k.
    layers : ndarray (L, N, N)
        Theta_l, what the parameters of each layer, first to last, add to the neural tangent kernel.
    unit_weights : ndarray (L - 1, m)
        For each hidden layer, how much of the kernel's mean passes through each of m units drawn at random; of mean 1.
        All 1 for linear units; ReLU units that are off at most inputs carry nothing.
    widths : tuple of int
    num_parameters : int
        D.
    """

    covariance: Floats
    layers: Floats
    unit_weights: Floats
    widths: tuple[int, ...]
    num_parameters: int

    __repr__ = told

    @property
    def num_examples(self) -> int:
        """N."""
        return len(self.covariance)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.widths[-1]

    @property
    def theta(self) -> Floats:
        """The neural tangent kernel (N, N): dz_k^mu/dW . dz_l^nu/dW is theta[mu, nu] where k = l, else 0."""
        total: Floats = self.layers.sum(axis=0)
        return total

    @property
    def logit_variance(self) -> float:
        """Variance of the logits across classes (ddof 1), averaged over examples: sigma_z^2."""
        return float(np.mean(np.diag(self.covariance)))

    @property
    def gradient_lengths(self) -> Floats:
        """Root mean square length of each example's logit gradients, (N,)."""
        lengths: Floats = np.sqrt(np.diag(self.theta))
        return lengths

    def q_values(self, labels: npt.ArrayLike | None = None) -> QValues:
        """The clustering of logit gradients: mean cosines of theta.

        Parameters
        ----------
        labels : array_like (N,), optional
            Choose the pairs of one class; without them q_SLSC is that of all pairs.

        Returns
        -------
        QValues
            q_DL = 0. NaN where there is no pair.

        Raises
        ------
        ValueError
            For another number of labels.
        """
        lengths = self.gradient_lengths
        product = np.outer(lengths, lengths)
        cosines = np.divide(self.theta, product, out=np.full_like(product, math.nan), where=product > 0)
        others = ~np.eye(self.num_examples, dtype=bool) & ~np.isnan(cosines)
        overall = _mean(cosines[others])
        if labels is None:
            return QValues(overall, overall, 0.0)
        y = self._labels(labels)
        by_class = [_mean(cosines[others & (y == k)[:, None] & (y == k)]) for k in range(self.num_classes)]
        return QValues(_mean(np.array([q for q in by_class if not math.isnan(q)])), overall, 0.0)

    @property
    def effective_widths(self) -> Floats:
        """Hidden widths, each over the mean square of its units' weights, (L - 1,)."""
        widths: Floats = np.array(self.widths[1:-1]) / np.mean(self.unit_weights**2, axis=1)
        return widths

    @property
    def output_kernel_std(self) -> float:
        """Standard deviation of the eigenvalues of the outputs' kernel K about their mean 1, to leading order.

        Backpropagated through a hidden layer of width n, K is a sample covariance of ratio C / n: a Marchenko-Pastur
        law. The layers' shares of the kernel's mean weigh these, later layers' parameters passing through fewer.
        """
        passing = np.cumsum(self._shares)[:-1]
        return float(np.sqrt(np.sum(passing**2 * self.num_classes / self.effective_widths)))

    @property
    def _shares(self) -> Floats:
        """Of each layer in the mean of theta, (L,)."""
        means = self.layers.mean(axis=(1, 2))
        shares: Floats = means / means.sum()
        return shares

    def output_kernels(self, rng: Seed = None) -> Floats:
        """A draw of the outputs' kernel of each layer at finite width: J J^T is about sum_l theta_l (x) K_l.

        Parameters
        ----------
        rng : seed
            Anything `numpy.random.default_rng` takes.

        Returns
        -------
        ndarray (L, C, C)
            K_L = I; before it, sample covariances of n_l columns with covariance K_(l+1).
        """
        rng = generator(rng)
        kernels = [np.eye(self.num_classes)]
        for layer in range(len(self.widths) - 2, 0, -1):
            width = self.widths[layer]
            columns = rng.standard_normal((self.num_classes, width))
            if len(kernels) > 1:  # the last kernel is I, its own root
                values, vectors = np.linalg.eigh(kernels[0])
                columns = (vectors * np.sqrt(np.maximum(values, 0))) @ columns
            weights = rng.choice(self.unit_weights[layer - 1], size=width)
            kernels = [(columns * weights) @ columns.T / width, *kernels]
        return np.array(kernels)

    def effective_output_kernel(self, rng: Seed = None) -> Floats:
        """A draw of the one K, (C, C), for which J J^T is about theta (x) K: the layers' by their shares."""
        kernel: Floats = np.tensordot(self._shares, self.output_kernels(rng), axes=1)
        return kernel

    def goldilocks_ratio(self, num_draws: int = 16, rng: Seed = 0) -> float:
        """Trace over Frobenius norm of the Gauss-Newton matrix, the mean over draws of logits and outputs' kernels.

        Parameters
        ----------
        num_draws : int
            >= 1.
        rng : seed
            Anything `numpy.random.default_rng` takes.

        Returns
        -------
        float
            Draws whose probabilities are all 0 or 1, which have no curvature, left out; NaN where that leaves none.

        References
        ----------
        Fort and Ganguli (2019), sec. 4 and fig. 8; Fort and Scherlis (2019).
        """
        law = GaussianProcessLogits(self.covariance)
        children = spawn(rng, integer("num_draws", num_draws, at_least=1))
        # Draws of small matrices take longer one by one than together; of large ones a few fill the cache.
        size = len(self.layers) * self.num_examples * self.num_classes**2 + self.num_examples**2
        together = max(1, _BLOCK // size)
        ratios = []
        for start in range(0, len(children), together):
            logits, outputs = [], []
            for child in children[start : start + together]:
                logits.append(law.draw_logits(self.num_examples, self.num_classes, child)[0])
                outputs.append(self.output_kernels(child))
            ratios.append(self._ratios(np.array(logits), np.array(outputs)))
        return _mean(np.concatenate(ratios))

    def _ratios(self, logits: Floats, outputs: Floats) -> Floats:
        """Trace over Frobenius norm for logits (S, N, C) and kernels (S, L, C, C), of those that have a curvature."""
        count, layers = outputs.shape[:2]
        factor = CrossEntropy().hessian_factor(logits.reshape(-1, self.num_classes))
        curvature = (factor @ factor.swapaxes(1, 2)).reshape(*logits.shape, self.num_classes)
        turned = np.matmul(curvature[:, None], outputs[:, :, None])  # A_mu K_l, (S, L, N, C, C)
        traces = np.einsum("slmkk->slm", turned)
        trace = np.sum(traces * np.einsum("lmm->lm", self.layers), axis=(1, 2))
        flat = turned.reshape(count, layers, self.num_examples, -1)
        swapped = turned.swapaxes(3, 4).reshape(flat.shape)
        square = np.zeros(count)
        for first in range(layers):
            for second in range(layers):
                # tr(A_mu K_l A_nu K_m) with J_mu J_nu^T = theta_l K_l, J_nu J_mu^T = theta_m K_m.
                pairs = flat[:, first] @ swapped[:, second].swapaxes(1, 2)
                square += np.sum(self.layers[first] * self.layers[second] * pairs, axis=(1, 2))
        curved = square > 0
        found: Floats = trace[curved] / np.sqrt(square[curved])
        return found

    def model(self, labels: npt.ArrayLike | None = None, *, rng: Seed = None) -> LandscapeModel:
        """The random model of this network at initialisation, without a fitted number.

        Parameters
        ----------
        labels : array_like (N,), optional
            Integers in 0..C-1; uniform in each draw where left out.
        rng : seed
            Anything `numpy.random.default_rng` takes; draws the outputs' kernels, which are then the model's.

        Returns
        -------
        LandscapeModel
            Logits of the network's Gaussian process, and the kernel law sum_l theta_l (x) K_l.

        Raises
        ------
        ValueError
            For labels that do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> import rmtland as rl
        >>> inputs = np.random.default_rng(0).normal(size=(20, 64))
        >>> model = rl.MeanFieldNetwork([64, 256, 5], "tanh").kernels(inputs).model(rng=0)
        >>> model.spectrum(rng=0).outliers().shape
        (4,)
        """
        given = None if labels is None else self._labels(labels)
        logits = GaussianProcessLogits(self.covariance, given)
        law = KernelGradients(tuple(zip(self.layers, self.output_kernels(rng), strict=True)))
        return LandscapeModel(self.num_examples, self.num_classes, self.num_parameters, logits, law)

    def _labels(self, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
        given = GivenLogits(np.zeros((self.num_examples, self.num_classes)), np.asarray(labels))
        return given.labels


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan
