"""Sagun et al., figures 7 and 8: no barrier on the straight line from a large batch's solution to a small batch's."""

from __future__ import annotations

import numpy as np

import rmtland as rl
from validation import Claim, Outcome, exact, figures, networks
from validation.networks import Recipe, mean_and_error

HE = 2.4
"""Initial weights of variance 2 / fan_in, 6 times that of PyTorch's: through five convolutions the latter go to 0."""
RECIPES = {
    "smoke": Recipe(
        data="cifar10", network="alexnet", width=0.125, examples=300, large_batch=150, batch=32, learning_rate=0.03,
        weight_scale=HE, stages=tuple(range(0, 401, 40)),
    ),
    "full": Recipe(
        data="cifar10", network="alexnet", examples=50_000, large_batch=1000, batch=32, learning_rate=0.03,
        weight_scale=HE, stages=tuple(range(0, 50_001, 5000)),
    ),
}  # fmt: skip
COUNT = {"smoke": 2, "full": 3}
MEASURED = {"smoke": 300, "full": 5000}
ALPHAS = np.linspace(-0.5, 1.5, 21)
"""Places on the line: 0 is the large batch's end, 1 the small batch's."""
INSIDE = (ALPHAS >= 0) & (ALPHAS <= 1)
BARRIER = 0.05
"""Of ln C, the loss of knowing nothing: less than this counts as none."""


def cell(network, kind, recipe, count, examples):
    """Losses and accuracies on a line, or along the training."""
    made, network, count = Recipe.of(recipe), int(network), int(count)
    weights = networks.trained(made, count)
    middle = len(made.stages) // 2
    if kind == "training":
        places = weights[network]
    else:
        start = weights[network, middle]
        end = weights[network, -1] if kind == "same" else weights[(network + 1) % count, -1]
        places = start + ALPHAS[:, None] * (end - start)
    loss, accuracy = np.full(ALPHAS.size, np.nan), np.full(ALPHAS.size, np.nan)
    module = networks.build(made, 0)
    for i, place in enumerate(places):
        networks.fill(module, place)
        outputs = rl.output_statistics(networks.source_of(module, made, int(examples)))
        loss[i], accuracy[i] = outputs.loss, outputs.accuracy
    return {"loss": (("place",), loss), "accuracy": (("place",), accuracy)}


def draw(scale, rng):
    recipe, count = RECIPES[scale], COUNT[scale]
    grid = {"network": list(range(count)), "kind": ["training", "same", "independent"]}
    with networks.one_thread():
        found = networks.stores.swept(
            f"sagun.figures_7_8-{scale}", cell, grid, 1, rng, recipe=recipe.text, count=count, examples=MEASURED[scale]
        )
    return found.isel(trial=0), recipe


def barriers(loss):
    """By how much losses (networks, places) rise above the straight line between their ends, at most."""
    inside, along = loss[:, INSIDE], ALPHAS[INSIDE]
    chord = inside[:, :1] + along * (inside[:, -1:] - inside[:, :1])
    return (inside - chord).max(axis=1)


def judge(data, theory):
    measured, recipe = data
    loss = {kind: measured.loss.sel(kind=kind).to_numpy() for kind in ("training", "same", "independent")}
    accuracy = {kind: measured.accuracy.sel(kind=kind).to_numpy() for kind in loss}
    unit = np.log(recipe.classes)
    heights = {kind: barriers(loss[kind]) / unit for kind in ("same", "independent")}
    checks = [
        exact("barrier between the ends of both parts, over ln C, every network", heights[theory], 0.0,
              tolerance=BARRIER),
        exact("whether independent networks are separated by more, every one",
              heights["independent"] > np.maximum(heights[theory], BARRIER), 1.0),
    ]  # fmt: skip
    stages = len(recipe.stages)
    middle = stages // 2

    def plot():
        figure, (left, right) = figures.panels(2, "training (fig. 7)", "straight line (fig. 8)")
        other = right.twinx()
        for i in range(len(loss["same"])):
            first = i == 0
            left.plot(recipe.stages, loss["training"][i, :stages], "o-", ms=3, color=figures.COLOURS[0], lw=1)
            right.plot(
                ALPHAS,
                loss["same"][i],
                color=figures.COLOURS[0],
                lw=1.2,
                label="loss, same training" if first else None,
            )
            right.plot(
                ALPHAS,
                loss["independent"][i],
                color=figures.COLOURS[1],
                lw=1,
                ls="--",
                label="loss, independent networks" if first else None,
            )
            other.plot(ALPHAS, accuracy["same"][i], color=figures.COLOURS[2], lw=1)
        right.plot([], [], color=figures.COLOURS[2], lw=1, label="accuracy, same training (right)")
        right.set_xticks([-0.5, 0, 0.5, 1, 1.5])
        left.axvline(recipe.stages[middle], color="0.5", ls=":", lw=1)
        left.set(xlabel="step; the batch changes at the dotted line", ylabel="training loss")
        right.set(xlabel=r"$\alpha$: 0 large batch, 1 small batch", ylabel="training loss", yscale="log")
        other.set(xlabel=" ", ylabel="training accuracy")
        figures.legend(right, loc="lower left")
        return figure

    ends = loss["same"][:, INSIDE]
    beyond = loss["same"][:, [0, -1]] - ends[:, [0, -1]]
    text = f"""{networks.told(recipe.data)} After {recipe.stages[middle]:,} steps of batch {recipe.large_batch} the
    training loss is {mean_and_error(ends[:, 0], "{:.3f}")}, after as many more of batch {recipe.batch}
    {mean_and_error(ends[:, -1], "{:.3f}")}. On the straight line between them the loss rises above the chord by
    {mean_and_error(heights["same"], "{:.4f}")} ln C at the most (a barrier of
    {mean_and_error(heights["same"] * unit, "{:.4f}")}), between the ends of independent networks by
    {mean_and_error(heights["independent"], "{:.3f}")} ln C. Half a length beyond the large batch's end the loss is
    higher by {mean_and_error(beyond[:, 0], "{:.3f}")}, beyond the small batch's by
    {mean_and_error(beyond[:, 1], "{:.3f}")}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""A bare AlexNet trained with a large batch, and on from there with a small one, ends in the same basin:
    the straight line between both ends has no barrier.""",
    source="Sagun et al. (2017), figs. 7 and 8 (8 and 9 in the other version of the preprint), section 4.1",
    estimates="""height of the training loss above the chord on the line from the end of part I to that of part II, and
    between independent networks; full: CIFAR-10, batches of 1,000 then 32, 250 times 100 steps each (smoke: an eighth
    of the channels, 300 images, batches of 150 then 32, 200 steps each)""",
    reference="no barrier, within 5% of ln C; independent networks as the case that has one",
    bias="""None derived. Above the chord, not above the higher end: the stricter of the two. It is of a rate at which
    the small batch converges: at 0.05, not 0.03, one network of three ended behind a barrier of 0.76 ln C.""",
    draw=draw,
    judge=judge,
    theory="same",
    mutants={"independent networks are connected too": "independent"},
)
