"""Papyan (2019), fig. 2: class means and cross-class means on a plane, by t-SNE."""

from __future__ import annotations

import json

import numpy as np

from rmtland._arrays import to_numpy
from validation import Claim, Outcome, exact, figures
from validation.examples import split
from validation.networks import build, epochs, source
from validation.papyan import _networks
from validation.stores import swept

C = 10
SIZES = {"smoke": (100, [0, 60], 3), "full": (1351, [0, 200], 3)}
"""Examples per class, epochs looked at, seeds."""
OWN = 0.9
"""Share of the cross-class means whose nearest class mean on the plane is to be the one of their class, fixed before
looking."""


def looked_at(data, network, per_class, scale, rates, at, *, rng):
    """Places on the plane; which class mean each cross-class mean is nearest to, there and in all dimensions."""
    import rmtland as rl

    seed = int(rng.integers(2**31))
    made = _networks.recipe(data, network, per_class, scale, _networks.chosen(rates, data, network, per_class))
    x, y, *_ = split(made, seed)
    module = build(made, seed, x)
    rows = {"classes": [], "pairs": [], "by_class": [], "by_target": [], "in_full": []}
    for epoch in epochs(made, module, x, y, seed):
        if epoch not in json.loads(at):
            continue
        hierarchy = rl.hierarchy(source(module, x, y))
        plane = rl.class_embedding(hierarchy, rng=seed)
        rows["classes"].append(plane.classes)
        rows["pairs"].append(plane.pairs)
        # Where it would be if classes did not matter: the others with the same c'.
        rows["by_class"].append(own_share(distances(plane.pairs, plane.classes)))
        rows["by_target"].append(own_share(distances(plane.pairs.swapaxes(0, 1), plane.classes)))
        rows["in_full"].append(own_share(squared_distances(hierarchy)))
    names = {"classes": ("look", "class", "axis"), "pairs": ("look", "class", "target", "axis")}
    return {key: (names.get(key, ("look",)), np.array(value)) for key, value in rows.items()}


def distances(pairs, classes):
    """Of g_{c,c'} (C, C, 2) from every g_k (C, 2): (C, C, C), NaN at c' = c."""
    return np.linalg.norm(pairs[:, :, None] - classes[None, None], axis=-1)


def squared_distances(hierarchy):
    """The same among all D dimensions, squared."""
    means = hierarchy.means
    weights = means.pair_weights * (1 - np.eye(C))
    rows = to_numpy(means.kept_factor("distances")).reshape(C * C, -1)
    # Columns of the factor are sqrt(p_{c,c'} / N) g_{c,c'}.
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs = (rows / np.sqrt(means.pair_weights / means.num_examples).reshape(-1, 1)).reshape(C, C, -1)
    share = weights / weights.sum(axis=1, keepdims=True)
    classes = np.einsum("ck,ckd->cd", share, np.nan_to_num(pairs))
    square = np.sum((pairs[:, :, None] - classes[None, None]) ** 2, axis=-1)
    square[np.arange(C), np.arange(C)] = np.nan
    return square


def own_share(apart):
    """Share of the pairs that are nearest to the mean of their own class."""
    known = np.isfinite(apart).all(axis=-1)
    nearest = np.where(known[..., None], apart, 0.0).argmin(axis=-1)
    return float(np.mean((nearest == np.arange(C)[:, None])[known]))


def draw(scale, rng):
    per_class, looks, seeds = SIZES[scale]
    data, kinds, *_ = _networks.SCALES[scale]
    name = next(iter(data))
    rates = json.dumps(_networks.best_rates(scale, [name], kinds, [per_class]))
    return swept(
        f"papyan.mean_embedding-{scale}", looked_at, {"network": list(kinds)}, seeds, rng, data=name, scale=scale,
        per_class=per_class, rates=rates, at=json.dumps(looks),
    ).assign_attrs(looks=looks)  # fmt: skip


def neighbours(pairs):
    """Shares of the g_{c,c'} (C, C, 2) whose nearest other one has the same c, and the same c'."""
    c, target = np.divmod(np.arange(C * C), C)
    known = np.isfinite(pairs.reshape(C * C, 2)).all(axis=1)
    points, c, target = pairs.reshape(C * C, 2)[known], c[known], target[known]
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    nearest = apart.argmin(axis=1)
    return np.mean(c[nearest] == c), np.mean(target[nearest] == target)


def judge(data, theory):
    before, after = theory
    checks, text = [], []
    for network in range(data.sizes["network"]):
        part = data.isel(network=network)
        kind = str(data.network.to_numpy()[network])
        found = {name: part[name].to_numpy() for name in ("by_class", "by_target", "in_full")}  # (seed, look)
        error = {name: value[:, -1].std(ddof=1) / len(value) ** 0.5 for name, value in found.items()}
        near = np.array([[neighbours(p) for p in seed] for seed in part.pairs.to_numpy()]).mean(axis=0)  # (look, 2)
        own = found["by_class"].mean(axis=0), found["by_target"].mean(axis=0)
        checks += [
            exact(f"{kind}: share that is nearest to the g_c of their class on the plane, after training, mean",
                  own[0][-1], 1.0, tolerance=1 - OWN),
            exact(f"{kind}: before training the nearest g_(c,c') has the same c (1) or the same c' (-1)",
                  np.sign(near[0, 0] - near[0, 1]), before),
            exact(f"{kind}: after training more are nearest to the g of their class c (1) or of c' (-1)",
                  np.sign(own[0][-1] - own[1][-1]), after),
            exact(f"{kind}: share that is nearest to g_c in all dimensions, after training less before, against chance",
                  float(found["in_full"][:, -1].mean() > 0.5 > found["in_full"][:, 0].mean()), float(after > 0)),
        ]  # fmt: skip
        text.append(
            f"""{kind}: after training {own[0][-1]:.0%} (+- {error["by_class"]:.0%}) of the g_(c,c') are nearest to the
            g_c of their class on the plane, and {found["in_full"][:, -1].mean():.0%} (+- {error["in_full"]:.0%}) in
            all dimensions; to that of c', the class they are pushed to, {own[1][-1]:.0%}. Before training these are
            {own[0][0]:.0%}, {found["in_full"][:, 0].mean():.0%} and {own[1][0]:.0%}; by chance 10%. The nearest other
            g_(c,c') has the same c' for {near[0, 1]:.0%} of them before training and for {near[-1, 1]:.0%} after it,
            the same c for {near[0, 0]:.0%} and {near[-1, 0]:.0%}."""
        )

    def plot():
        looks = data.attrs["looks"]
        shown = r"$g_c$ (circles), $g_{c,c'}$ (dots) in the colour of $c$"
        figure, axes = figures.panels(2, *(f"epoch {looks[k]}: {shown}" for k in (0, -1)))
        from matplotlib import colormaps

        colours = colormaps["tab10"].colors
        for ax, look in zip(axes, (0, -1), strict=True):
            part = data.isel(network=0, trial=0, look=look)
            classes, pairs = part.classes.to_numpy(), part.pairs.to_numpy()
            for c in range(C):
                ax.plot(*pairs[c].T, "o", ms=3, color=colours[c])
                ax.plot(*classes[c], "o", ms=11, color=colours[c], mec="black", mew=0.6)
                ax.annotate(str(c), classes[c], ha="center", va="center", fontsize=7, color="white")
                # A label for each class and each target, not for each point: those of one target may lie together.
                k = (c + 3) % C
                ax.annotate(f"{c},{k}", pairs[c, k], fontsize=6, xytext=(2, 2), textcoords="offset points")
            ax.set(xlabel="first axis of t-SNE", ylabel="second axis")
        return figure

    return Outcome(checks, "\n\n".join(text), plot)


CLAIM = Claim(
    statement="""After training every cross-class mean g_{c,c'} lies beside the class mean g_c of its class c on the
    plane of t-SNE. Before it those of one c' lie together, whatever c.""",
    source="Papyan (2019), the summary, fig. 2",
    estimates="""shares of the C (C - 1) cross-class means whose nearest other one has the same c or the same c', and
    whose nearest class mean is that of c or of c', on the plane of t-SNE and in all dimensions, over seeds""",
    reference="which of the two shares is larger; one half in all dimensions",
    bias="None: a comparison. t-SNE keeps neighbours, not distances, so that shares on the plane may be lower.",
    draw=draw,
    judge=judge,
    theory=(-1.0, 1.0),
    mutants={
        "by class from the start": (1.0, 1.0),
        "by the other class to the end": (-1.0, -1.0),
    },
    refuted="""The paper shows trained networks of ImageNet. In a small perceptron on digits half of the g_{c,c'} are
    nearest to their g_c on the plane, nine tenths in all dimensions; the others stay with those of the same c', as all
    do before training, where logit gradients do not know the class. Training moves them from the one to the other.""",
)
