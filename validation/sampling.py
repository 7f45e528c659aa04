"""Plain dense draws for the claims, and what is known exactly about them.

All that claims know about drawing matrices is here, so that faster samplers can take its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BLOCK = 2_000_000
"""Numbers drawn at a time; 16 MB stay near the caches."""


@dataclasses.dataclass(frozen=True)
class SpikedDraws:
    """Draws of a sample covariance matrix S = Sigma^(1/2) X X^T Sigma^(1/2) / n with Sigma = diag(spikes, 1, ..., 1).

    `eigenvalues` (draws, min(p, n)) ascend and leave out the p - n zeros where p > n. `overlaps` (draws, k) are squared
    cosines of the population's k spike directions with `outlier_indices`'s sample eigenvectors, or None. `controls`
    (draws, 2 k + 1) have mean zero exactly and are correlated with the outliers.
    """

    num_features: int
    num_samples: int
    eigenvalues: Floats
    overlaps: Floats | None
    controls: Floats


def _blocks(draws: int, numbers: int) -> Iterator[int]:
    size = max(1, _BLOCK // numbers)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def spiked_covariance(
    num_features: int, num_samples: int, spikes: npt.ArrayLike, draws: int, rng: np.random.Generator,
    outlier_indices: tuple[int, ...] | None = None,
) -> SpikedDraws:  # fmt: skip
    """Draw real Gaussian spiked covariance matrices.

    Parameters
    ----------
    num_features, num_samples : int
        p and n; p at least the number of spikes.
    spikes : array_like, shape (k,)
        Eigenvalues of Sigma in the first k coordinates.
    draws : int
        Number of independent matrices.
    rng : Generator
    outlier_indices : tuple of int, optional
        For each spike, the sample eigenvalue (ascending, nonzero ones) whose eigenvector is compared with the spike's;
        no eigenvectors by default.

    Returns
    -------
    SpikedDraws
    """
    p, n = num_features, num_samples
    spikes = np.asarray(spikes, dtype=np.float64)
    k = spikes.size
    values, overlaps, controls = [], [], []
    for block in _blocks(draws, p * n):
        x = rng.standard_normal((block, p, n))
        rows = x[:, :k].copy()
        x[:, :k] *= np.sqrt(spikes)[:, None]
        gram = x @ x.transpose(0, 2, 1) / n if p <= n else x.transpose(0, 2, 1) @ x / n
        if outlier_indices is None:
            values.append(np.linalg.eigvalsh(gram))
        else:
            w, vectors = np.linalg.eigh(gram)
            values.append(w)
            chosen = vectors[:, :, list(outlier_indices)]
            if p <= n:
                overlaps.append(np.einsum("bjj->bj", chosen[:, :k]) ** 2)
            else:
                # The sample eigenvector is X u / sqrt(n lambda), u that of the smaller Gram matrix.
                projection = np.einsum("bjn,bnj->bj", x[:, :k], chosen)
                overlaps.append(projection**2 / (n * w[:, list(outlier_indices)]))
        others = x[:, k:]
        inner = np.einsum("bpn,bkn->bkp", others, rows, optimize=True)
        controls.append(
            np.concatenate(
                [
                    (rows**2).mean(axis=2) - 1,
                    (inner**2).sum(axis=2) / n**2 - (p - k) / n,
                    (others**2).mean(axis=(1, 2))[:, None] - 1,
                ],
                axis=1,
            )
        )
    return SpikedDraws(
        p, n, np.concatenate(values), np.concatenate(overlaps) if overlaps else None, np.concatenate(controls)
    )


def wishart(num_features: int, num_samples: int, draws: int, rng: np.random.Generator) -> Floats:
    """Nonzero eigenvalues of X X^T / n, X of shape (p, n) standard normal, as (draws, min(p, n)), ascending."""
    return spiked_covariance(num_features, num_samples, np.ones(0), draws, rng).eigenvalues


def spiked_wigner(
    size: int, spike: float, draws: int, rng: np.random.Generator, overlaps: bool = False
) -> tuple[Floats, Floats | None, Floats]:
    """Draw the Gaussian orthogonal ensemble of radius 2, spike e_1 e_1^T added.

    Parameters
    ----------
    size : int
        n.
    spike : float
        Its strength; the threshold is 1.
    draws : int
        Number of independent matrices.
    rng : Generator
    overlaps : bool, optional
        Whether to compute eigenvectors.

    Returns
    -------
    eigenvalues : ndarray, shape (draws, n)
        Ascending.
    overlaps : ndarray, shape (draws,), or None
        Squared cosine of e_1 with the eigenvector of the largest eigenvalue.
    controls : ndarray, shape (draws, 2)
        Of mean zero exactly and correlated with the outlier.
    """
    values, cosines, controls = [], [], []
    for block in _blocks(draws, size**2):
        matrix = rng.standard_normal((block, size, size))
        matrix += matrix.transpose(0, 2, 1).copy()
        # Off-diagonal variance 1/n, diagonal 2/n.
        matrix /= np.sqrt(2 * size)
        controls.append(np.stack([matrix[:, 0, 0], (matrix[:, 0] ** 2).sum(axis=1) - (size + 1) / size], axis=1))
        matrix[:, 0, 0] += spike
        if overlaps:
            w, vectors = np.linalg.eigh(matrix)
            cosines.append(vectors[:, 0, -1] ** 2)
        else:
            w = np.linalg.eigvalsh(matrix)
        values.append(w)
    return np.concatenate(values), np.concatenate(cosines) if overlaps else None, np.concatenate(controls)


def weighted_covariance(
    num_features: int, num_samples: int, length: float, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Hessian of logistic regression on Gaussian inputs: (1/N) sum_i l''(<w, x_i>) x_i x_i^T, |w| = `length`.

    Returns
    -------
    eigenvalues : ndarray, shape (draws, M)
        Ascending, zeros of M > N included.
    weights : ndarray, shape (draws, N)
        The l''(<w, x_i>).
    """
    values, weights = [], []
    for block in _blocks(draws, num_features * num_samples):
        x = rng.standard_normal((block, num_features, num_samples))
        # w along the first axis, which is no loss for Gaussian inputs. l'' = s (1 - s), s the logistic function.
        curvature = 0.25 / np.cosh(0.5 * length * x[:, 0]) ** 2
        x *= np.sqrt(curvature / num_samples)[:, None]
        values.append(np.linalg.eigvalsh(x @ x.transpose(0, 2, 1)))
        weights.append(curvature)
    return np.concatenate(values), np.concatenate(weights)


def softmax_draws(num_states: int, sigma: float, draws: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Entropy in nats and sum p^2 of softmax probabilities of independent N(0, sigma^2) logits, each (draws,)."""
    entropies, participations = [], []
    for block in _blocks(draws, num_states):
        z = sigma * rng.standard_normal((block, num_states))
        z -= z.max(axis=1, keepdims=True)
        weight = np.exp(z)
        total = weight.sum(axis=1)
        entropies.append(np.log(total) - (weight * z).sum(axis=1) / total)
        participations.append((weight**2).sum(axis=1) / total**2)
    return np.concatenate(entropies), np.concatenate(participations)


def controlled_mean(samples: Floats, controls: Floats) -> tuple[float, float]:
    """Mean and standard error of `samples` (draws,), less what `controls` (draws, k) of mean zero explain."""
    design = np.column_stack([np.ones(len(samples)), controls])
    coefficients = np.linalg.lstsq(design, samples, rcond=None)[0]
    rest = samples - design @ coefficients
    variance = rest @ rest / (len(samples) - design.shape[1])
    return float(coefficients[0]), float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]))
