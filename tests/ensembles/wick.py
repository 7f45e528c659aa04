"""Exact moments of Gaussian matrices by Wick's theorem: all pairings, index by index. Uses nothing of the package."""

import itertools

import numpy as np


def pairings(items):
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for i, second in enumerate(rest):
        for tail in pairings(rest[:i] + rest[i + 1 :]):
            yield [(first, second), *tail]


def classes(count, links):
    """Label of the class of each of `count` indices once those linked are set equal."""
    label = list(range(count))
    for i, j in links:
        old, new = label[i], label[j]
        label = [new if x == old else x for x in label]
    return label


def covariance_moment(k, p, n, beta, spikes=()):
    """E tr S^k for S = Sigma^(1/2) X X^* Sigma^(1/2) / n, X p x n standard, real or complex."""
    population = np.ones(p)
    population[: len(spikes)] = spikes
    # Factor 2s is X[i_s, a_s], factor 2s + 1 its conjugate X[i_(s+1), a_s].
    features = [s if f == 0 else (s + 1) % k for s in range(k) for f in range(2)]
    samples = [s for s in range(k) for _ in range(2)]
    if beta == 1:
        matchings = pairings(list(range(2 * k)))
    else:
        matchings = ([(2 * s, 2 * t + 1) for s, t in enumerate(order)] for order in itertools.permutations(range(k)))
    total = 0.0
    for matching in matchings:
        rows = classes(k, [(features[x], features[y]) for x, y in matching])
        columns = classes(k, [(samples[x], samples[y]) for x, y in matching])
        weight = float(n) ** len(set(columns))
        for row in set(rows):
            weight *= (population ** rows.count(row)).sum()
        total += weight
    return total / n**k


def gaussian_moment(k, n, beta, spikes=()):
    """E tr H^k for H = W / sqrt(n) + diag(spikes), off-diagonal E |W_ij|^2 = 1 and diagonal variance 2 / beta, beta 1
    or 2.
    """
    thetas = np.zeros(n)
    thetas[: len(spikes)] = spikes
    total = 0.0
    for fixed in itertools.product((False, True) if len(spikes) else (False,), repeat=k):
        diagonal = [s for s in range(k) if fixed[s]]  # factor s has indices s and s + 1; of the others W pairs two
        for matching in pairings([s for s in range(k) if not fixed[s]]):
            for swaps in itertools.product(range(2 if beta == 1 else 1), repeat=len(matching)):
                links = [(s, (s + 1) % k) for s in diagonal]
                for (s, t), swap in zip(matching, swaps, strict=True):
                    i, j, u, v = s, (s + 1) % k, t, (t + 1) % k
                    links += [(i, u), (j, v)] if swap else [(i, v), (j, u)]
                label = classes(k, links)
                powers = [sum(label[s] == x for s in diagonal) for x in set(label)]
                weight = np.prod([(thetas**power).sum() for power in powers])
                total += weight / n ** len(matching)
    return total
