"""Brute force: statistics by their definitions, example by example and pair by pair, and sources written from scratch.

Nothing here uses the package, so that it may be held against it.
"""

from __future__ import annotations

import itertools

import numpy as np


def softmax(z):
    w = np.exp(z - z.max())
    return w / w.sum()


def curvature(z):
    """A_mu = diag(p) - p p^T of one example."""
    p = softmax(z)
    return np.diag(p) - np.outer(p, p)


def gauss_newton(logits, gradients, curvatures=None):
    """(1/N) sum_mu J_mu^T A_mu J_mu."""
    matrices = np.array([curvature(z) for z in logits]) if curvatures is None else curvatures
    rows = np.concatenate(list(gradients))
    return rows.T @ np.concatenate(list(matrices @ gradients)) / len(logits)


def gradient(logits, labels, gradients):
    """(1/N) sum_mu sum_k (p_k - y_k) dz_k/dW, by loops."""
    total = np.zeros(gradients.shape[2])
    for z, y, jacobian in zip(logits, labels, gradients, strict=True):
        p = softmax(z)
        for k in range(len(z)):
            total += (p[k] - (k == y)) * jacobian[k]
    return total / len(logits)


def cosines(gradients):
    """(N, C, N, C) cosines of all pairs of logit gradients; NaN where one has no length."""
    lengths = np.linalg.norm(gradients, axis=2, keepdims=True)
    with np.errstate(invalid="ignore"):
        units = gradients / lengths
    return np.einsum("mkd,nld->mknl", units, units)


def q_values(gradients, labels):
    """(q_SLSC, q_SL, q_DL) of Fort and Ganguli eqs. (11)-(13) by loops over all pairs, undefined pairs left out.

    q_SLSC averages over the classes that have a pair, q_SL over the logits, q_DL over all pairs.
    """
    num_examples, num_classes = gradients.shape[:2]
    cosine = cosines(gradients)
    same_class = [[] for _ in range(num_classes)]
    same_logit = [[] for _ in range(num_classes)]
    different = []
    for mu, nu in itertools.permutations(range(num_examples), 2):
        for k, other in itertools.product(range(num_classes), repeat=2):
            value = cosine[mu, k, nu, other]
            if np.isnan(value):
                continue
            if k != other:
                different.append(value)
                continue
            same_logit[k].append(value)
            if labels[mu] == k == labels[nu]:
                same_class[k].append(value)

    def mean_of_means(groups):
        return np.mean([np.mean(group) for group in groups if group]) if any(groups) else np.nan

    return mean_of_means(same_class), mean_of_means(same_logit), np.mean(different) if different else np.nan


def scales(logits, labels, gradients):
    """(sigma_z, sigma_c, sigma_E, means) by the definitions of theory section 5, residuals written out."""
    num_examples, num_classes, num_parameters = gradients.shape
    sigma_z = np.sqrt(np.mean([np.var(z, ddof=1) for z in logits]))
    sizes = [int(np.sum(labels == k)) or num_examples for k in range(num_classes)]
    means = np.array(
        [
            gradients[labels == k, k].mean(axis=0) if np.any(labels == k) else gradients[:, k].mean(axis=0)
            for k in range(num_classes)
        ]
    )
    squares = sum(np.sum((gradients[mu] - means) ** 2) for mu in range(num_examples))
    variance_E = squares / (num_parameters * sum(num_examples - 2 + num_examples / size for size in sizes))
    variance_c = np.mean([means[k] @ means[k] / num_parameters - variance_E / sizes[k] for k in range(num_classes)])
    return sigma_z, np.sqrt(max(variance_c, 0)), np.sqrt(variance_E), means


class ScratchChunk:
    """A chunk written from the interface's description alone, loops and all."""

    def __init__(self, logits, labels, gradients):
        self.logits, self.labels, self.gradients = logits, labels, gradients

    def jvp(self, tangents):
        return np.einsum("nkd,dj->nkj", self.gradients, tangents)

    def vjp(self, cotangents):
        return np.einsum("nkd,nkj->dj", self.gradients, cotangents)

    def dense(self, parameters=slice(None)):
        return self.gradients[:, :, parameters]


class ScratchSource:
    """Another framework's source: uneven chunks, and (`shuffle`) another order of examples on every pass.

    With `ranks` the source is one of several processes: it holds the share `part` of each array, and `reduce` adds
    what the other ranks, given as the same pass made by them, would send.
    """

    def __init__(self, logits, labels, gradients, loss, sizes=(24, 24, 2), shuffle=True):
        self.arrays = (np.asarray(logits), np.asarray(labels), np.asarray(gradients))
        self.loss, self.sizes = loss, sizes
        self.num_examples, self.num_classes, self.num_parameters = gradients.shape
        self.parameter_groups = {"all": slice(0, self.num_parameters)}
        self.order = np.random.default_rng(0) if shuffle else None

    def chunks(self):
        assert sum(self.sizes) == len(self.arrays[0])
        order = np.arange(sum(self.sizes))
        if self.order is not None:
            self.order.shuffle(order)
        for part in np.split(order, np.cumsum(self.sizes)[:-1]):
            yield ScratchChunk(*(array[part] for array in self.arrays))

    def reduce(self, x):
        return x


class RankSource(ScratchSource):
    """One rank of several. `exchange` is a callable that sums an array over all of them, as an all-reduce does."""

    def __init__(self, logits, labels, gradients, loss, num_examples, exchange, **kwargs):
        super().__init__(logits, labels, gradients, loss, **kwargs)
        self.num_examples, self.exchange = num_examples, exchange

    def reduce(self, x):
        return self.exchange(x)


def on_ranks(function, arrays, loss, parts, **kwargs):
    """function(source) on every rank, a thread each, whose reduce is a real all-reduce; the list of results.

    `parts` are the examples of each rank. A rank that fails breaks the barrier, so that no other waits for it.
    """
    import threading
    from concurrent.futures import ThreadPoolExecutor

    sent = [None] * len(parts)
    barrier = threading.Barrier(len(parts), timeout=60)

    def exchange_of(rank):
        def exchange(x):
            sent[rank] = x
            barrier.wait()
            assert len({np.shape(s) for s in sent}) == 1, "ranks reduce different things"
            total = np.sum(sent, axis=0)
            barrier.wait()
            return total

        return exchange

    def run(rank):
        local = [np.asarray(array)[parts[rank]] for array in arrays]
        source = RankSource(
            *local, loss, len(arrays[0]), exchange_of(rank), sizes=(len(parts[rank]),), shuffle=False, **kwargs
        )
        try:
            return function(source)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(run, range(len(parts))))


def examples(num_examples, num_classes, num_parameters, seed=0, mean=0.7):
    """Clustered logit gradients with logits and unbalanced labels, every class present where N allows."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num_examples, num_classes))
    labels = np.minimum(rng.integers(0, 2 * num_classes, num_examples), num_classes - 1)
    labels[: min(num_classes, num_examples)] = np.arange(num_classes)[: min(num_classes, num_examples)]
    means = mean * rng.normal(size=(num_classes, num_parameters))
    return logits, labels, means + rng.normal(size=(num_examples, num_classes, num_parameters))


def hierarchy(logits, labels, gradients, weights=None):
    """Papyan's hierarchy by loops over examples and pairs of classes: a dict of weights, means and dense matrices.

    `p` (C, C), `pair` (C, C, D), `cls` (C, D); A1, A2, B1 and B2 (D, D), `B2_of` one for each class. 0/0 is 0.
    """
    num_examples, num_classes, num_parameters = gradients.shape
    weights = np.ones(num_examples) if weights is None else weights
    p = np.zeros((num_classes, num_classes))
    pair = np.zeros((num_classes, num_classes, num_parameters))
    vectors = []
    for z, y, jacobian, weight in zip(logits, labels, gradients, weights, strict=True):
        prob = softmax(z)
        vectors.append([(np.eye(num_classes)[k] - prob) @ jacobian for k in range(num_classes)])
        for k in range(num_classes):
            p[y, k] += weight * prob[k]
            pair[y, k] += weight * prob[k] * vectors[-1][k]
    pair = np.where(p[:, :, None] > 0, pair / np.where(p > 0, p, 1)[:, :, None], 0)
    cls, between = np.zeros((num_classes, num_parameters)), np.zeros((num_parameters, num_parameters))
    first, second = np.zeros_like(between), np.zeros_like(between)
    for c in range(num_classes):
        others = [k for k in range(num_classes) if k != c]
        total = sum(p[c, k] for k in others)
        if total > 0:
            cls[c] = sum(p[c, k] * pair[c, k] for k in others) / total
        first += total * np.outer(cls[c], cls[c])
        second += p[c, c] * np.outer(pair[c, c], pair[c, c])
        between += sum(p[c, k] * np.outer(pair[c, k] - cls[c], pair[c, k] - cls[c]) for k in others)
    within = np.zeros((num_classes, num_parameters, num_parameters))
    for z, y, example, weight in zip(logits, labels, vectors, weights, strict=True):
        for k in range(num_classes):
            within[y] += weight * softmax(z)[k] * np.outer(example[k] - pair[y, k], example[k] - pair[y, k])
    matrices = {"A1": first, "A2": second, "B1": between, "B2": within.sum(axis=0), "B2_of": within}
    return {"p": p, "pair": pair, "cls": cls, **{name: matrix / num_examples for name, matrix in matrices.items()}}
