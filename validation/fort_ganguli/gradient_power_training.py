"""Fort and Ganguli, property 2: through training the gradient lies in the top C directions of the Hessian."""

from __future__ import annotations

import numpy as np

from validation import Claim, Outcome, exact, figures, networks
from validation.fort_ganguli import _training
from validation.networks import mean_and_error

EARLY = 10
"""From this step on the paper's statement is about training."""
PRINTED = 0.71
"""Power in the top 10 of the paper's fig. 6, of its model."""


def judge(data, theory):
    measured, recipe = data
    steps = np.array(recipe.stages)
    powers = measured.powers.to_numpy()  # (networks, stages, C), eigenvalues ascend
    top, size = powers.sum(axis=2), float(measured.parameters.max())
    share = theory(recipe.classes, size)
    later = top[:, steps >= EARLY]
    checks = [
        exact(f"share of networks and stages from step {EARLY} on with more than half of the power in the top C",
              (later > 0.5).mean(), 1.0, tolerance=0.2),
        exact("power in the top C, mean over networks and these stages, half allowed", later.mean(), share,
              tolerance=0.5),
    ]  # fmt: skip

    def plot():
        figure, (left, right) = figures.panels(2, "gradient power in the top C", "by eigenvector (fig. 6)")
        _training.course(left, steps, top, figures.COLOURS[0], "networks")
        left.axhline(PRINTED, color=figures.COLOURS[1], ls="--", lw=1, label="the paper's model, fig. 6")
        left.axhline(recipe.classes / size, color="0.5", ls=":", lw=1, label="by chance")
        left.set(ylabel=r"share of $|g|^2$", ylim=(0, 1))
        rank = np.arange(1, recipe.classes + 1)
        for colour, stage in zip(figures.COLOURS, (0, len(steps) // 2, len(steps) - 1), strict=False):
            figures.means(right, rank, powers[:, stage, ::-1].T, colour, f"step {steps[stage]:,}")
        right.set(xlabel="rank of the eigenvector", ylabel=r"share of $|g|^2$")
        for ax in (left, right):
            figures.legend(ax)
        return figure

    course = ", ".join(f"{mean_and_error(top[:, s])} at step {step:,}" for s, step in enumerate(steps))
    text = f"""{networks.told(recipe.data)} Share of the squared gradient in the top C = {recipe.classes} eigenvectors
    of the Hessian, {size:,.0f} parameters: {course} (by chance {recipe.classes / size:.3f}; the paper's model has
    {PRINTED} in fig. 6)."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""Over training the gradient lies mostly in the subspace of the top C eigenvectors of the Hessian.""",
    source="Fort and Ganguli (2019), properties 2 of sections 1 and 4, after Gur-Ari, Roberts and Dyer (2018)",
    estimates="""power of the full gradient in the top C eigenvectors through the training of a small convolutional
    network on CIFAR-10, over networks""",
    reference="more than half, where chance has C / D",
    bias="None derived. One fifth of the stages may be otherwise.",
    draw=_training.draw,
    judge=judge,
    theory=lambda num_classes, size: 1.0,
    mutants={"as much as by chance": lambda num_classes, size: num_classes / size - 0.2},
    refuted="""It holds in the middle of training, with nine tenths of the power at steps 300 and 600. Before, while
    outliers form, it is a seventh (step 30), and after every example is right it sinks again: to about a half at step
    1,600, to a third at step 2,500 in networks of another run. All that is far above chance.""",
)
