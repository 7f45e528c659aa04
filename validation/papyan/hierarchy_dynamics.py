"""Papyan, fig. 7: outliers and the two bulks of G, due to A1, B1 and B2, over epochs and sample sizes."""

from __future__ import annotations

import json

import numpy as np

from validation import Claim, Outcome, exact
from validation.examples import split
from validation.networks import build, epochs, source
from validation.papyan import _networks
from validation.stores import swept

C = 10
EPSILON = 1e-5
"""Added to G before logarithms are taken."""
SIZES = {"smoke": ([10, 30, 100], [0, 5, 10, 20, 60], 3), "full": (None, None, 3)}
"""Examples per class, epochs looked at, seeds; None: those of the scale."""
SMOOTHED, DEEP = 0.1, 0.5
"""Decades over which densities are smoothed, and how high the valley between two bulks may be beside the lower one."""
LOG_STEPS = 2048
"""Lanczos steps for a log spectrum, the paper's."""


def looked_at(data, network, per_class, scale, rates, at, *, rng):
    """Spectrum of G, eigenvalues of A1 + A2 + B1, Tr B2_c / n, in some epochs of one training."""
    import rmtland as rl

    seed = int(rng.integers(2**31))
    made = _networks.recipe(data, network, per_class, scale, _networks.chosen(rates, data, network, per_class))
    x, y, *_ = split(made, seed)
    module = build(made, seed, x)
    rows = {name: [] for name in ("g", "weights", "low_rank", "within", "A1", "error")}
    for epoch in epochs(made, module, x, y, seed):
        if epoch not in json.loads(at):
            continue
        of = source(module, x, y)
        hierarchy = rl.hierarchy(of)
        if of.num_parameters <= _networks.DENSE:
            nodes = _networks.all_eigenvalues(hierarchy.gauss_newton, of)
            weights = np.ones(nodes.size)
        else:
            found = rl.log_spectral_density(
                hierarchy.gauss_newton, num_steps=LOG_STEPS, epsilon=EPSILON, deflate=C, rng=rng
            )
            nodes = np.concatenate([found.nodes[0], found.outliers])
            weights = np.concatenate([found.weights[0] * of.num_parameters, np.ones(C)])
        rows["g"].append(nodes)
        rows["weights"].append(weights)
        rows["low_rank"].append(np.sort(hierarchy.eigenvalues())[::-1])
        rows["A1"].append(np.sort(hierarchy.eigenvalues("A1", "A2"))[::-1][: C - 1])
        rows["within"].append(hierarchy.B2_traces / per_class)
        rows["error"].append(1.0 - rl.output_statistics(of).accuracy)
    names = {"g": "node", "weights": "node", "low_rank": "pair", "A1": "outlier", "within": "class"}
    return {key: (("look", names[key]) if key in names else ("look",), np.array(v)) for key, v in rows.items()}


def draw(scale, rng):
    sizes, looks, seeds = SIZES[scale]
    data, kinds, every_size, *_ = _networks.SCALES[scale]
    sizes = sizes or every_size
    rates = json.dumps(_networks.best_rates(scale, data, kinds, sizes))
    results = {}
    for d, last in data.items():
        at = looks or sorted({0, *(int(e) for e in np.geomspace(1, last, 8).round())})
        results[d] = swept(
            f"papyan.hierarchy_dynamics-{scale}-{d}", looked_at, {"network": list(kinds), "per_class": sizes}, seeds,
            rng, shared_axes=2, data=d, scale=scale, rates=rates, at=json.dumps(at),
        ).assign_attrs(looks=at)  # fmt: skip
    return results


def parts(low_rank):
    """Eigenvalues of A1 + A2 + B1: those due to A1, and those due to B1, as the paper reads them by their order."""
    return low_rank[..., : C - 1], low_rank[..., C - 1 : C * (C - 1)]


def middle(values):
    """Geometric mean along the last axis, of what is above rounding."""
    floor = 1e-12 * values.max(axis=-1, keepdims=True)
    return np.exp(np.mean(np.log(np.maximum(values, floor)), axis=-1))


def valley(nodes, weights, low, high):
    """Lowest density of log10 eigenvalues between two centres, over the lower one of the peaks on both sides.

    1 or more where there is no valley, NaN where the centres are not told apart: two bulks have one well below 1.
    """
    low, high = np.log10(max(low, EPSILON)), np.log10(max(high, EPSILON))
    if not high - low > 2 * SMOOTHED:
        return np.nan
    x, keep = np.log10(np.maximum(nodes, EPSILON)), nodes > EPSILON
    grid = np.linspace(low - 1, high + 1, 400)
    density = np.exp(-0.5 * ((grid[:, None] - x[keep]) / SMOOTHED) ** 2) @ weights[keep]
    between = np.flatnonzero((grid > low) & (grid < high))
    at = between[density[between].argmin()]
    return density[at] / min(density[:at].max(), density[at + 1 :].max())


def trend(x, y):
    """Slope of y (.., k) against x (k,)."""
    x = np.asarray(x, dtype=np.float64)
    return (y - y.mean(axis=-1, keepdims=True)) @ (x - x.mean()) / np.sum((x - x.mean()) ** 2)


def decades(values):
    """Means over seeds, one for each sample size."""
    return ", ".join(f"{row.mean():+.2f}" for row in values)


def judge(data, theory):
    with_epochs, with_examples, outliers_leave = theory
    checks, text = [], []
    for name, found in data.items():
        looks = np.array(found.attrs["looks"])
        sizes = found.per_class.to_numpy()
        for network in range(found.sizes["network"]):
            part = found.isel(network=network)
            kind = f"{name}, {found.network.to_numpy()[network]}"
            outliers, second = parts(part.low_rank.to_numpy())  # (size, trial, look, ..)
            third = part.within.to_numpy().mean(axis=-1)
            gap = np.log10(third / middle(second))  # decades by which the bulk of B1 is below that of B2
            above = np.log10(middle(outliers) / third)
            # Epochs on a logarithmic scale, the first at 1.
            late = trend(np.log10(looks + 1.0), gap)
            more = trend(np.log10(sizes), np.moveaxis(gap[:, :, 1:], 0, -1)).mean(axis=-1)
            rising = trend(np.log10(looks + 1.0), above)
            error = [v.std(ddof=1) / v.size**0.5 for v in (late, more, rising)]
            nodes, weights = (np.moveaxis(part[name].to_numpy()[:, :, -1], -1, 0) for name in ("g", "weights"))
            order = nodes.argsort(axis=0)[:-C]  # without the top C
            nodes, weights = (np.take_along_axis(v, order, axis=0) for v in (nodes, weights))
            centres = middle(second)[:, :, -1], third[:, :, -1]
            shape = centres[0].shape
            depth = np.array([valley(nodes[(slice(None), *at)], weights[(slice(None), *at)], centres[0][at],
                                     centres[1][at]) for at in np.ndindex(shape)]).reshape(shape)  # fmt: skip
            checks += [
                *(exact(f"{kind}, {size} per class: direction of the distance between B1 and B2 with epochs",
                        np.sign(slope), with_epochs) for size, slope in zip(sizes, late.mean(axis=1), strict=True)),
                exact(f"{kind}: direction of the distance between B1 and B2 with examples, mean over epochs and seeds",
                      np.sign(more.mean()), with_examples),
                exact(f"{kind}: direction of the distance between outliers and B2 with epochs, mean over sizes and "
                      "seeds", np.sign(rising.mean()), outliers_leave),
                exact(f"{kind}: density of G between the centres of B1 and B2 over the lower peak, last epoch, mean"
                      " over seeds", depth.mean(axis=1), 0.0, tolerance=DEEP, sizes=sizes.tolist()),
            ]  # fmt: skip
            text.append(
                f"""{kind}: the bulk of B1 lies below that of B2, by {decades(gap[:, :, 0])} decades before training and
                {decades(gap[:, :, -1])} at the end with {", ".join(map(str, sizes))} examples per class. The distance
                changes by {decades(late)} decades per decade of epochs (+- {error[0]:.2f} over sizes and seeds), and by
                {more.mean():+.2f} +- {error[1]:.2f} per decade of examples. Outliers move away from B2 by
                {rising.mean():+.2f} +- {error[2]:.2f} decades per decade of epochs. In the last epoch the density of
                log G without its top C falls, between the centres of B1 and B2, to {decades(depth)} times the lower of
                the two peaks: 1 is no gap."""
            )

    def plot():
        name, found = next(iter(data.items()))
        looks, sizes = found.attrs["looks"], found.per_class.to_numpy()
        rows = np.unique(np.linspace(0, len(looks) - 1, 5).round().astype(int))
        columns = np.unique(np.linspace(0, sizes.size - 1, 3).round().astype(int))
        figure, axes = _networks.grid_of_panels(
            f"{name}, {found.network.to_numpy()[0]}", len(rows), len(columns), width=3.6, height=1.6
        )
        bins = np.geomspace(0.5 * EPSILON, 50, 80)
        for i, look in enumerate(rows):
            for j, place in enumerate(columns):
                part = found.isel(network=0, per_class=place, trial=0, look=look)
                ax = axes[i, j]
                order = np.argsort(part.g.to_numpy())
                nodes, weights = part.g.to_numpy()[order], part.weights.to_numpy()[order]
                bulk = nodes[:-C], weights[:-C]
                _networks.stairs(ax, (bulk[0] + EPSILON, bulk[1]), bins, "#0072b2", "G without its top C")
                ax.plot(nodes[-C:], np.full(C, 1.0), "|", color="#e69f00", ms=9, mew=2, label="top C of G")
                first, second = parts(part.low_rank.to_numpy())
                ax.plot(first, np.full(first.size, 3.0), "|", color="#b8a000", ms=6, label="A1")
                ax.plot(second + EPSILON, np.full(second.size, 6.0), "|", color="#009e73", ms=6, label="B1")
                within = part.within.to_numpy()
                ax.plot(within, np.full(within.size, 12.0), "|", color="#d00000", ms=6, label=r"Tr $B_{2,c}/n$")
                ax.set(xscale="log", xlim=(bins[0], bins[-1]))
                ax.set_xlabel(r"eigenvalue $+\,10^{-5}$", fontsize=7)
                ax.set_ylabel(f"epoch {looks[look]}: eigenvalues", fontsize=7)
                if i == 0:
                    ax.set_title(f"{sizes[place]} per class", fontsize=9)
        axes[0, 0].legend(fontsize=6, frameon=False)
        return figure

    return Outcome(checks, "\n\n".join(text), plot)


CLAIM = Claim(
    statement="""G has two bulks, the one due to B1 below the one due to B2; they separate as training goes on and draw
    closer as there are more examples. Outliers, due to A1, move away from B2 as training goes on.""",
    source="Papyan (2018), The full spectrum of deepnet Hessians at scale, fig. 7; Papyan (2019), the summary",
    estimates="""decades between the geometric mean of the eigenvalues of A1 + A2 + B1 from the C-th on, and the mean of
    Tr B2_c / n, over epochs, sample sizes and seeds: its slope against the logarithms of epochs and of examples; the
    same between outliers and B2; the density of log G between both centres""",
    reference="the sign of a slope; a valley half as high as the lower bulk",
    bias="None: a direction. Slopes with their standard errors over seeds are in the conclusions.",
    draw=draw,
    judge=judge,
    theory=(1.0, -1.0, 1.0),
    mutants={
        "bulks that close with training": (-1.0, -1.0, 1.0),
        "bulks that separate with examples": (1.0, 1.0, 1.0),
    },
    refuted="""They draw closer as there are more examples. As training goes on they separate with 10 examples per
    class, by a decade per decade of epochs; with 30 and 100 the distance stays about what it is: in three runs of other
    seeds it changed by -0.11, 0.20 and 0.41 decades, and by 0.06, 0.03 and 0.02. Outliers keep their distance from B2.
    And the density of G has no valley between the centres of B1 and B2, whose eigenvalues overlap in networks this
    small.""",
    disagreement="""Tr B2_c / n falls like 1/n by itself, a decade per decade of examples: most of the drawing closer is
    that.""",
)
