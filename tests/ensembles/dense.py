"""Spectra of dense draws, to hold the tridiagonal and band models against."""

import numpy as np


def dense_matrices(model, count, seed):
    generator = np.random.default_rng(seed)
    return np.stack([model.matrix(rng=generator) for _ in range(count)])


def dense_eigenvalues(model, count, seed):
    """Eigenvalues of `count` dense draws, (count, N), ascending; quaternion ones once; without the zeros of p > n."""
    values = np.linalg.eigvalsh(dense_matrices(model, count, seed))
    return values[:, :: 2 if model.beta == 4 else 1][:, -model.num_eigenvalues :][:, model._num_zeros :]


def dense_eigenpairs(model, count, seed):
    """Eigenvalues (count, N) of dense draws, and squared cosines (count, N, r) between eigenvectors and spikes."""
    values, vectors = np.linalg.eigh(dense_matrices(model, count, seed))
    seen = np.abs(vectors[:, : model.spikes.size]) ** 2
    return values[:, model._num_zeros :], seen.transpose(0, 2, 1)[:, model._num_zeros :]
