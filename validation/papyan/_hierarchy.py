"""The hierarchy of G from dense arrays, as the papers define it, and the networks that it is looked at in."""

from __future__ import annotations

import numpy as np

from rmtland._arrays import to_numpy
from validation import networks
from validation.networks import Recipe

C = 10


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def own_centre(class_means, pair_means, c, k):
    """g_c, about which Sigma_c is the covariance."""
    return class_means[c]


def printed_centre(class_means, pair_means, c, k):
    """g_c', as printed in eqs. (4) and (25) and in eq. (7) of the summary."""
    return class_means[k]


def weighted_squares(weights, vectors):
    """sum_k weights_k v_k v_k^T for weights (n, C) and vectors (n, C, D)."""
    size = vectors.shape[-1]
    return (weights[..., None] * vectors).reshape(-1, size).T @ vectors.reshape(-1, size)


def decompose(logits, labels, gradients, centre=own_centre, balanced=False):
    """Weights, means and the matrices A1, A2, B1, B2, G, (D, D) each, from logits (N, C) and gradients (N, C, D).

    `centre` is what is taken off g_{c,c'} in Sigma_c. `balanced` divides classes by n C, n being the mean class size
    over those that have examples, and within a class by n in place of its size.
    """
    n, num_classes, size = gradients.shape
    p = softmax(logits)
    vectors = gradients - np.einsum("nk,nkd->nd", p, gradients)[:, None]  # g_{i,c,c'}
    weights, means = np.zeros((num_classes, num_classes)), np.zeros((num_classes, num_classes, size))
    within = np.zeros((size, size))
    sizes = np.bincount(labels, minlength=num_classes)
    present = np.flatnonzero(sizes)
    # Papyan writes sums over i of each class, and n C for the number of examples.
    factor = np.where(sizes > 0, n / len(present) / np.maximum(sizes, 1), 0) if balanced else np.ones(num_classes)
    for c in present:
        own = labels == c
        weights[c] = factor[c] * p[own].sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[c] = np.nan_to_num(factor[c] * np.einsum("nk,nkd->kd", p[own], vectors[own]) / weights[c][:, None])
        spread = vectors[own] - means[c]
        within += factor[c] * weighted_squares(p[own], spread)
    others = weights * (1 - np.eye(num_classes))
    totals = others.sum(axis=1)
    class_means = np.einsum("ck,ckd->cd", others, means) / np.where(totals > 0, totals, 1)[:, None]
    diagonal = np.arange(num_classes)
    first = np.einsum("c,ci,cj->ij", totals, class_means, class_means)
    second = np.einsum("c,ci,cj->ij", np.diag(weights), means[diagonal, diagonal], means[diagonal, diagonal])
    between = np.zeros((size, size))
    for c in present:
        for k in np.flatnonzero(others[c]):
            deviation = means[c, k] - centre(class_means, means, c, k)
            between += others[c, k] * np.outer(deviation, deviation)
    whole = weighted_squares(p, vectors)
    parts = {"A1": first, "A2": second, "B1": between, "B2": within, "G": whole}
    return weights, means, class_means, {name: matrix / n for name, matrix in parts.items()}


def arrays(rng, case):
    """Logits, labels and gradients (N, C, D) of four classes whose means differ: balanced, unbalanced or degenerate."""
    num_classes, size = 4, 60
    labels = np.arange(80) % num_classes
    if case != "balanced":
        labels = np.minimum(labels, rng.integers(1, num_classes, 80))
    logits = 2 * rng.standard_normal((80, num_classes)) + 2 * np.eye(num_classes)[labels]
    if case == "absent class, zero probabilities":
        labels = np.where(labels == 1, 0, labels)
        logits[labels == 0, 3] = -2000.0
    means = rng.standard_normal((num_classes, num_classes, size))
    return logits, labels, means[labels] + 0.7 * rng.standard_normal((80, num_classes, size))


def digits(widths, steps, rng, num_measured=200, rate=0.1):
    """Sources of a perceptron on digits, in float64, at some steps of plain gradient descent in batches of 64."""
    from rmtland.nets import load_dataset

    seed = int(rng.integers(2**31))
    data = load_dataset("digits").as_images()
    order = rng.permutation(len(data.x_train))
    images, labels = data.x_train[order], data.y_train[order]
    recipe = Recipe(data="digits", hidden=tuple(widths), batch=64, learning_rate=rate)
    module = networks.build(recipe, seed, images)
    run = networks.training(recipe, module, images, labels, seed, max(steps))
    for step in networks.stepping(recipe, run, max(steps)):
        if step in steps:
            yield step, networks.source(module, images[:num_measured], labels[:num_measured])


def dense(source):
    """Logits, labels and gradients of a source, in memory."""
    parts = [(chunk.logits, chunk.labels, chunk.dense()) for chunk in source.chunks()]
    return tuple(np.concatenate([to_numpy(piece) for piece in pieces]) for pieces in zip(*parts, strict=True))
