"""Sagun et al., example 2 of appendix B: the Hessian of softmax regression, and that of its own Gaussian features."""

from __future__ import annotations

import numpy as np

from rmtland._arrays import to_numpy
from validation import Claim, Outcome, exact, figures, limit, means, networks
from validation.networks import Recipe

CLASSES, ALPHA, SHIFT = 4, 0.5, 2.0
"""Of features drawn at w = 0: classes, features over examples, length of the mean of the features."""
SIZES = {
    "smoke": {16: 3000, 32: 1500, 64: 600, 128: 150},
    "full": {16: 60_000, 32: 30_000, 64: 10_000, 128: 3000, 256: 800},
}
RECIPE = {
    "smoke": Recipe(side=7, hidden=(), examples=1000, learning_rate=0.1, stages=(0, 500)),
    "full": Recipe(side=7, hidden=(), examples=5000, learning_rate=0.1, stages=(0, 5000)),
}
COUNT = {"smoke": 3, "full": 5}
REDRAWN = {"smoke": 4, "full": 20}
TOP = 0.25
"""Median |log| of the 2 C largest eigenvalues against those of Gaussian features: what still counts as the same."""


def at_zero(m, shift, draws, rng):
    """Eigenvalues (draws, k M) of the Hessian at w = 0, where all probabilities are 1 / k."""
    n = round(m / ALPHA)
    inner = np.eye(CLASSES) / CLASSES - 1 / CLASSES**2
    found = np.empty((draws, CLASSES * m))
    for i in range(draws):
        x = rng.standard_normal((n, m))
        x[:, 0] += shift
        # A is the same for all examples: the Hessian is the Kronecker product of A and X^T X / N.
        values = np.linalg.eigvalsh(x.T @ x / n)
        found[i] = np.sort(np.multiply.outer(np.linalg.eigvalsh(inner), values).ravel())
    return found


def spectrum(features, weights):
    """Eigenvalues of (1/N) sum_mu A_mu (x) x x^T, x with a one for the bias in front, logits x W."""
    x = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    z = x @ weights
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    classes, size = p.shape[1], x.shape[1]
    matrix = np.empty((classes, size, classes, size))
    for k in range(classes):
        for j in range(classes):
            weight = p[:, k] * ((k == j) - p[:, j])
            matrix[k, :, j] = (x * weight[:, None]).T @ x / len(x)
    return np.linalg.eigvalsh(matrix.reshape(classes * size, classes * size))


def redrawn(features, labels, rng):
    """Gaussian features with the mean and covariance of each class."""
    out = np.empty_like(features)
    for c in np.unique(labels):
        own = features[labels == c]
        values, vectors = np.linalg.eigh(np.cov(own.T))
        noise = rng.standard_normal(own.shape) * np.sqrt(np.maximum(values, 0))
        out[labels == c] = own.mean(axis=0) + noise @ vectors.T
    return out


def draw(scale, rng):
    zero = {(shift, m): at_zero(m, shift, draws, rng) for shift in (0.0, SHIFT) for m, draws in SIZES[scale].items()}
    recipe, pairs = RECIPE[scale], {}
    images, labels = networks.data(recipe)
    features = images.reshape(len(images), -1).astype(float)
    for network in range(COUNT[scale]):
        for stage in range(len(recipe.stages)):
            layer = networks.module_at(recipe, network, stage, COUNT[scale])[-1]
            weights = np.vstack([to_numpy(layer.bias), to_numpy(layer.weight).T])
            own = spectrum(features, weights)
            theirs = [spectrum(redrawn(features, labels, rng), weights) for _ in range(REDRAWN[scale])]
            pairs[network, stage] = own, np.array(theirs)
    return zero, pairs, recipe


def judge(data, theory):
    zero, pairs, recipe = data
    sizes = sorted({m for _, m in zero})
    edge, outlier, copies = theory(CLASSES, ALPHA, SHIFT)
    top = {s: [zero[s, m][:, -1] for m in sizes] for s in (0.0, SHIFT)}
    mean = {s: np.array([t.mean() for t in v]) for s, v in top.items()}
    error = {s: np.array([t.std(ddof=1) / t.size**0.5 for t in v]) for s, v in top.items()}
    draws = min(len(values) for values in zero.values())
    counted = np.array([(zero[SHIFT, m] > 0.5 * (edge + outlier)).sum(axis=1).mean() for m in sizes[-1:]])
    trace = [zero[0.0, m].sum(axis=1) / (m * (CLASSES - 1) / CLASSES) for m in sizes]
    off, stages = {}, len(recipe.stages)
    for (network, stage), (own, theirs) in pairs.items():
        count = 2 * recipe.classes
        off[network, stage] = np.median(np.abs(np.log(own[-count:] / theirs.mean(axis=0)[-count:])))
    checks = [
        means("trace at w = 0 over M (k - 1) / k", trace, 1.0, detect=0.1, sizes=sizes),
        limit("one blob at the origin, w = 0: largest eigenvalue over the edge", sizes, mean[0.0] / edge,
              error[0.0] / edge, 1.0, powers=(2 / 3, 4 / 3), detect=0.1, draws=draws),
        limit("one blob elsewhere, w = 0: largest eigenvalue over the outlier predicted", sizes, mean[SHIFT] / outlier,
              error[SHIFT] / outlier, 1.0, powers=(1.0, 2.0), detect=0.1, draws=draws),
        exact("eigenvalues beyond the middle of edge and outlier, largest matrices", counted, copies, tolerance=0.1),
        exact("softmax regression on images: median |log| of the 2 C largest against Gaussian features",
              list(off.values()), 0.0, tolerance=TOP),
    ]  # fmt: skip

    def plot():
        figure, axes = figures.panels(3, "w = 0, one blob (fig. 9, right)", "largest eigenvalue", "trained on images")
        for colour, s in zip(figures.COLOURS, (0.0, SHIFT), strict=False):
            values = zero[s, sizes[-1]][:40]
            axes[0].hist(
                values[values > 1e-9], 60, density=True, histtype="step", color=colour, label=f"|mean| = {s:g}"
            )
            target = outlier if s else edge
            figures.points(axes[1], sizes, mean[s], error[s], colour, f"|mean| = {s:g}")
            axes[1].axhline(target, color=colour, lw=1)
        axes[0].axvline(outlier, color=figures.COLOURS[1], lw=1, ls=":")
        axes[0].set(xlabel="eigenvalue", ylabel="density of those not zero", yscale="log")
        figures.log_sizes(axes[1], sizes, log_values=False)
        axes[1].set(xlabel="features M", ylabel="largest eigenvalue; lines: limits")
        for colour, stage in zip(figures.COLOURS, range(stages), strict=False):
            own, theirs = pairs[0, stage]
            rank = np.arange(1, 101)
            axes[2].plot(rank, own[::-1][:100], color=colour, lw=1.4, label=f"images, step {recipe.stages[stage]}")
            axes[2].plot(
                rank,
                theirs.mean(axis=0)[::-1][:100],
                "o",
                ms=3,
                mfc="none",
                color=colour,
                label="their Gaussian features",
            )
        axes[2].set(xlabel="rank", ylabel="eigenvalue", yscale="log", xscale="log")
        for ax in axes:
            figures.legend(ax)
        return figure

    told = "; ".join(
        f"step {step}: {np.mean([off[n, s] for n, t in off if t == s]):.3f}" for s, step in enumerate(recipe.stages)
    )
    text = f"""{networks.told(recipe.data)} At w = 0 the Hessian is A (x) X^T X / N with A = I / k - 1 1^T / k^2: the
    Marchenko-Pastur law over k, k - 1 times, and M zeros. With a mean of length {SHIFT:g} it has k - 1 = {CLASSES - 1}
    outliers of one size, {outlier:.3f}, not one (counted {counted[0]:.2f}): for two classes it is one.

    Softmax regression on images against Gaussian features of the same mean and covariance in each class, weights as
    trained: median |log ratio| of the {2 * recipe.classes} largest eigenvalues {told}."""
    return Outcome(checks, text, plot)


def predicted(classes, alpha, shift, spiked=True):
    """Edge of the bulk, outlier and how many: (X^T X) / N is spiked with 1 + shift^2, times 1 / k."""
    edge = (1 + alpha**0.5) ** 2 / classes
    spike = 1 + shift**2
    location = spike * (1 + alpha / (spike - 1)) if spiked else spike
    return edge, location / classes, classes - 1


CLAIM = Claim(
    statement="""With more than one class the Hessian of softmax regression is no Marchenko-Pastur matrix: at w = 0 it
    is k - 1 copies of one over k, each with an outlier where the features have a mean; trained on images, its large
    eigenvalues are those of Gaussian features with the same class means and covariances.""",
    source="Sagun et al. (2017), appendix B, example 2 and fig. 9, right (10 in the other version of the preprint)",
    estimates="""largest eigenvalues over growing numbers of Gaussian features at w = 0; exact Hessians of softmax
    regression on images, beside those of features drawn with each class's mean and covariance at the same weights""",
    reference="Marchenko-Pastur edge and spiked location over k; the Gaussian draws",
    bias="""O(M^-2/3) at the edge and O(1 / M) at the outlier, extrapolated. None derived for images: a quarter in the
    logarithm is what still counts as the same.""",
    draw=draw,
    judge=judge,
    theory=predicted,
    mutants={
        "outlier of the population": lambda *case: predicted(*case, spiked=False),
        "one outlier": lambda *case: (*predicted(*case)[:2], 1),
        "1 / k^2 for 1 / k": lambda *case: (*(v / CLASSES for v in predicted(*case)[:2]), CLASSES - 1),
    },
    disagreement="""Example 2 has one large outlier. There are k - 1 of them, alike at w = 0; its right pane of fig. 9
    is of two classes.""",
)
