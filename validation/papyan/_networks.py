"""The spectra of Papyan's figures: of networks trained at several sample sizes, in several epochs, train and test.

At smoke scale perceptrons on the digits, small enough to be diagonalised, and five of the paper's hundred learning
rates; at full scale its own networks, data sets and hyperparameters, through Lanczos with rank-C deflation. ImageNet is
left out: it is not among the data sets that the package reads.
"""

from __future__ import annotations

import json
import warnings

import numpy as np

from rmtland._arrays import to_numpy
from validation.examples import split
from validation.networks import Recipe, build, epochs, source
from validation.stores import run_seed, swept

C = 10

MOMENTUM, WEIGHT_DECAY, BATCH = 0.9, 5e-4, 128
"""Papyan (2018), appendix C.1. The rate falls by ten at one and at two thirds of the epochs."""
RATES = np.geomspace(0.25, 1e-4, 100)
"""Initial learning rates that the paper tries: the one of least test error in the last epoch is taken.

So no network is looked at that learnt nothing, such as one whose rate was too large, unless all are like that.
"""
SAMPLE_SIZES = [int(n + 1e-6) for n in np.geomspace(10, 5000, 20)]
"""Training examples per class; rounded down, as in the paper's captions."""
DATA = {"mnist": 200, "fashion": 200, "cifar10": 350}
"""Epochs."""
NETWORKS = ("vgg11", "resnet18", "densenet40")
SCALES = {
    # Data sets with epochs, networks, examples per class, rates, where to look (parts of all epochs), seeds, width.
    "smoke": ({"digits": 60}, ("mlp",), [10, 30, 100], list(RATES[::20]), [0, 5, 60], 3, 1.0),
    "full": (DATA, NETWORKS, SAMPLE_SIZES, list(RATES), None, 3, 1.0),
}
HIDDEN = (8, 8)
DENSE = 4096
STEPS = 128
"""Lanczos steps where a matrix is not diagonalised."""
CONVERGED, PRODUCTS = 1e-3, 30
"""Residual over eigenvalue up to which a Ritz value is taken for an eigenvalue, and products spent on each."""
MATRICES = ("hess", "g", "h")
SPLITS = ("train", "test")


def recipe(data, network, per_class, scale, rate=RATES[0]):
    """How the paper trains one of its networks."""
    every, *_, width = SCALES[scale]
    return Recipe(
        data=data, examples=C * int(per_class), network=network, hidden=HIDDEN, width=width,
        # A handful of examples is no batch: at least four steps an epoch.
        batch=min(BATCH, max(C * int(per_class) // 4, 2)), learning_rate=float(rate), momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY, annealed=True, epochs=every[data],
    )  # fmt: skip


def last_test_error(data, network, per_class, rate, scale, *, rng):
    """What the learning rate is chosen by."""
    import rmtland as rl

    seed = int(rng.integers(2**31))
    made = recipe(data, network, per_class, scale, rate)
    x, y, x_test, y_test = split(made, seed)
    module = build(made, seed, x)
    try:
        for _ in epochs(made, module, x, y, seed):
            pass
        outputs = rl.output_statistics(source(module, x_test, y_test))
    except FloatingPointError:  # diverged
        return {"error": 1.0}
    return {"error": 1.0 - outputs.accuracy}


def all_eigenvalues(operator, of=None):
    """Ascending; those of the G of a source `of` from its factor, which takes less than products with a whole basis."""
    import rmtland as rl

    if of is None:
        return np.linalg.eigvalsh(operator.to_dense())
    values = rl.gauss_newton_spectrum(of).eigenvalues
    return np.pad(values, (operator.dimension - values.size, 0))


def spectrum(operator, deflated, rng, of=None):
    """Nodes, ascending, and weights that add up to the dimension: all eigenvalues, or a quadrature and the top ones."""
    import rmtland as rl

    if operator.dimension <= DENSE:
        values = all_eigenvalues(operator, of)
        return values, np.ones(values.size)
    found = rl.spectral_density(operator, num_steps=STEPS, deflate=deflated, rng=rng)
    nodes = np.concatenate([found.nodes[0], found.outliers])
    weights = np.concatenate([found.weights[0] * operator.dimension, np.ones(len(found.outliers))])
    size = STEPS + deflated
    nodes, weights = np.pad(nodes, (0, size - nodes.size), "edge"), np.pad(weights, (0, size - weights.size))
    order = np.argsort(nodes)
    return nodes[order], weights[order]


def largest(operator, count, rng, of=None):
    """The `count` largest eigenvalues and the smallest one, ascending, with residuals |A v - x v|.

    NaN where Lanczos did not converge: what it has then is no eigenvalue, and comparing it would compare estimates.
    """
    import rmtland as rl

    if operator.dimension <= DENSE:
        values = all_eigenvalues(operator, of)
        return values[[0, *range(-count, 0)]], np.zeros(count + 1)
    values, residuals = [], []
    for k, end in ((1, "smallest"), (count, "largest")):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*converged", RuntimeWarning)
            pairs = rl.top_eigenpairs(
                operator, k, which=end, tolerance=CONVERGED, max_products=PRODUCTS * (k + 3), check_products=0, rng=rng
            )
        values.append(np.where(pairs.converged, pairs.eigenvalues, np.nan))
        residuals.append(pairs.residuals)
    return np.concatenate(values), np.concatenate(residuals)


def wrong(module, images, labels):
    """Share of examples that a network takes for another class; after every epoch a source would take too long."""
    import torch

    one, mode, misses = next(module.parameters()), module.training, 0
    module.eval()
    with torch.no_grad():
        for start in range(0, len(images), 1024):
            x = torch.as_tensor(images[start : start + 1024], device="cpu").to(one.device, one.dtype)
            misses += np.count_nonzero(to_numpy(module(x)).argmax(axis=1) != labels[start : start + 1024])
    module.train(mode)
    return misses / len(images)


def looked_at(data, network, per_class, scale, rates, at, splits, top=0, matrices="hess g h", curves=False, *, rng):
    """Spectra of Hess, G and H on train or test, and errors, at epochs of one training.

    With `top` the so many largest eigenvalues in place of the spectra, as `largest` gives them; with `curves` the
    errors after every epoch.
    """
    import rmtland as rl

    seed = int(rng.integers(2**31))
    made = recipe(data, network, per_class, scale, chosen(rates, data, network, per_class))
    x, y, x_test, y_test = split(made, seed)
    module = build(made, seed, x)
    at, splits, matrices, second = json.loads(at), splits.split(), matrices.split(), "residuals" if top else "weights"
    rows = {f"{s}_error": [] for s in splits}
    rows |= {f"{s}_{m}{kind}": [] for s in splits for m in matrices for kind in ("", f"_{second}")}
    operators = {"hess": (rl.nets.hessian, C), "g": (rl.gauss_newton, C), "h": (rl.nets.logit_curvature, 0)}
    for epoch in epochs(made, module, x, y, seed):
        for part, pair in zip(SPLITS, ((x, y), (x_test, y_test)), strict=True):
            if part in splits and (curves or epoch in at):
                rows[f"{part}_error"].append(wrong(module, *pair))
            if part in splits and epoch in at:
                of = source(module, *pair)
                for name in matrices:
                    made_of, deflated = operators[name]
                    operator = made_of(of)
                    factor = of if name == "g" else None
                    if top:
                        found = largest(operator, int(top), rng, factor)
                    else:
                        found = spectrum(operator, deflated, rng, factor)
                    for kind, values in zip(("", f"_{second}"), found, strict=True):
                        rows[f"{part}_{name}{kind}"].append(values)
    axes = {f"{part}_error": ("epoch" if curves else "look",) for part in SPLITS}
    return {
        name: (axes.get(name, ("look", f"{name.removesuffix(f'_{second}')}_node")), values)
        for name, values in rows.items()
    }


def best_rates(scale, data, kinds, sizes):
    """Of the scale's learning rates that of least test error in the last epoch, by "data network per_class"."""
    rates = [float(rate) for rate in SCALES[scale][3]]
    grid = {"data": list(data), "network": list(kinds), "per_class": [int(n) for n in sizes], "rate": rates}
    # A seed of the run, and parts in common: claims that look at the same networks share the search.
    rng = np.random.default_rng(run_seed())
    found = swept(f"papyan-rates-{scale}", last_test_error, grid, 1, rng, shared_axes=3, common=True, scale=scale)
    best = found.error.isel(trial=0).argmin("rate")
    return {
        f"{d} {k} {n}": rates[int(best.sel(data=d, network=k, per_class=n))]
        for d in data for k in kinds for n in grid["per_class"]
    }  # fmt: skip


def chosen(rates, data, network, per_class):
    """One of the rates that `best_rates` found, which are a parameter of a sweep: a string."""
    return json.loads(rates)[f"{data} {network} {int(per_class)}"]


def networks(
    name, scale, rng, sizes=None, looks=None, seeds=None, splits=SPLITS, top=0, matrices=MATRICES, curves=False
):
    """All of a scale's networks, by (data, network, per_class, trial); `looks` are the epochs looked at."""
    data, kinds, every_size, _, every_look, trials, _ = SCALES[scale]
    sizes = every_size if sizes is None else sizes
    best = best_rates(scale, data, kinds, sizes)
    results = {}
    for d, last in data.items():
        at = looks or every_look or sorted({0, *(int(e) for e in np.geomspace(1, last, 12).round())})
        grid = {"network": list(kinds), "per_class": sizes}
        results[d] = swept(
            f"{name}-{scale}-{d}", looked_at, grid, seeds or trials, rng, shared_axes=2, data=d, scale=scale,
            rates=json.dumps(best), at=json.dumps(at), splits=" ".join(splits), top=top,
            matrices=" ".join(matrices), curves=curves,
        ).assign_attrs(looks=at)  # fmt: skip
    return results


def one(found, split, matrix, **where):
    """Nodes and weights of one spectrum, ascending."""
    part = found.isel(**where)
    return part[f"{split}_{matrix}"].to_numpy(), part[f"{split}_{matrix}_weights"].to_numpy()


def top(nodes, count):
    """The largest nodes, descending."""
    return nodes[::-1][:count]


def without_top(nodes, weights, count):
    """A spectrum without its largest eigenvalues, which have a node each."""
    return nodes[: nodes.size - count], weights[: nodes.size - count]


def distance(one, other):
    """Wasserstein distance of two spectra of the same total weight, per eigenvalue."""
    from scipy.stats import wasserstein_distance

    return wasserstein_distance(one[0], other[0], one[1], other[1])


def stairs(ax, spectrum, bins, colour, label=None):
    """Eigenvalues in bins."""
    counts, _ = np.histogram(spectrum[0], bins, weights=spectrum[1])
    ax.stairs(np.maximum(counts, 1e-3), bins, color=colour, lw=1.0, label=label)
    if ax.get_yscale() != "log":  # a new scale makes all of the axis anew
        ax.set_yscale("log")
    ax.set_ylim(0.3, None)


def grid_of_panels(title, rows, columns, width=3.0, height=1.9):
    """A figure of rows and columns, and its axes as an array; the title says of which network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + 0.5, height * rows + 0.8), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.ravel():
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
    return figure, axes
