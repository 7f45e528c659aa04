"""Networks at initialisation drawn many at a time, their logits and J J^T by backpropagation written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

SLOPES = {"tanh": lambda h: 1 - h**2, "relu": lambda h: (h > 0).astype(float)}
FUNCTIONS = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}
"""Activations, and their derivatives by their values."""


def digits(count):
    """The first handwritten digits of scikit-learn, (count, 64), all pixels together of mean 0 and variance 1."""
    from sklearn.datasets import load_digits

    x = load_digits().data
    return (x[:count] - x.mean()) / x.std()


def uniform(shape, fan_in, scale, rng):
    """PyTorch's default: uniform in +- 1 / sqrt(fan_in), times a radius."""
    return rng.uniform(-scale / fan_in**0.5, scale / fan_in**0.5, shape)


def forward(widths, activation, inputs, count, rng, radius=1.0):
    """Logits (count, N, C) of so many networks, their weights and the layers' outputs."""
    features, weights = np.broadcast_to(inputs, (count, *inputs.shape)), []
    layers = [features]
    for a, b in pairwise(widths):
        weights.append(uniform((count, a, b), a, radius, rng))
        z = features @ weights[-1] + uniform((count, 1, b), a, radius, rng)
        features = FUNCTIONS[activation](z)
        layers.append(features)
    return z, weights, layers


def kernels(widths, activation, inputs, count, rng, radius=1.0):
    """Logits (count, N, C) and J J^T (count, N, C, N, C)."""
    z, weights, layers = forward(widths, activation, inputs, count, rng, radius)
    n, c = z.shape[1:]
    signal = np.broadcast_to(np.eye(c), (count, n, c, c))  # dz_k / dz^l of each example
    total = np.zeros((count, n, c, n, c))
    for layer in range(len(weights) - 1, -1, -1):
        below = layers[layer] @ layers[layer].swapaxes(1, 2) + 1
        flat = signal.reshape(count, n * c, -1)
        total += below[:, :, None, :, None] * (flat @ flat.swapaxes(1, 2)).reshape(total.shape)
        if layer:
            slopes = SLOPES[activation](layers[layer])
            signal = (signal @ weights[layer].swapaxes(1, 2)[:, None]) * slopes[:, :, None, :]
    return z, total


def curvatures(z):
    """A_mu = diag(p) - p p^T, (..., C, C)."""
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p[..., None] * (np.eye(z.shape[-1]) - p[..., None, :])


def gauss_newton(z, gram):
    """A^(1/2) J J^T A^(1/2) / N of each network, (count, N C, N C), with the nonzero eigenvalues of G."""
    count, n, c = z.shape
    values, vectors = np.linalg.eigh(curvatures(z))
    roots = (vectors * np.sqrt(np.maximum(values, 0))[..., None, :]) @ vectors.swapaxes(-1, -2)
    half = (roots @ gram.reshape(count, n, c, n * c)).reshape(count, n * c, n, c).swapaxes(1, 2)
    return (half @ roots).swapaxes(1, 2).reshape(count, n * c, n * c) / n


def trace_over_norm(matrices):
    """Of each of several symmetric matrices."""
    return np.trace(matrices, axis1=1, axis2=2) / np.sqrt((matrices**2).sum(axis=(1, 2)))
