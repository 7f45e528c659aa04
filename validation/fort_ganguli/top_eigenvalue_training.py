"""Fort and Ganguli, property 3: the top Hessian eigenvalue grows, peaks and declines in training."""

from __future__ import annotations

import numpy as np

from validation import Claim, Outcome, exact, figures, networks
from validation.fort_ganguli import _training
from validation.networks import mean_and_error

FACTOR = 1.2
"""By how much a peak is to stand above both ends."""


def judge(data, theory):
    measured, recipe = data
    steps = np.array(recipe.stages)
    top = measured.eigenvalues.to_numpy()[..., -1]  # (networks, stages)
    rise, fall = top.max(axis=1) / top[:, 0], top.max(axis=1) / top[:, -1]
    rises, falls = theory
    checks = [
        exact("share of networks whose top eigenvalue rises above the initial one", (rise > FACTOR).mean(), rises),
        exact("share of networks whose top eigenvalue falls from its peak", (fall > FACTOR).mean(), falls),
    ]

    def plot():
        figure, (left, right) = figures.panels(2, "top eigenvalue", "loss")
        _training.course(left, steps, top, figures.COLOURS[0])
        left.set(ylabel=r"$\lambda_1$ of the Hessian", yscale="log")
        _training.course(right, steps, measured.loss.to_numpy(), figures.COLOURS[1])
        right.set(ylabel="training loss", yscale="log")
        return figure

    peaks = ", ".join(f"{steps[i]:,}" for i in top.argmax(axis=1))
    text = f"""{networks.told(recipe.data)} The top eigenvalue goes from {mean_and_error(top[:, 0])} at initialisation
    to {mean_and_error(top.max(axis=1))} at its peak (steps {peaks}) and {mean_and_error(top[:, -1])} at step
    {steps[-1]:,}, where the loss is {mean_and_error(measured.loss.to_numpy()[:, -1], "{:.4f}")} and the accuracy
    {mean_and_error(measured.accuracy.to_numpy()[:, -1], "{:.3f}")}."""
    return Outcome(checks, text, plot)


CLAIM = Claim(
    statement="""The top eigenvalue of the Hessian grows, peaks and declines over training.""",
    source="Fort and Ganguli (2019), properties 3 of sections 1 and 4, fig. 7, after Jastrzebski et al. (2018)",
    estimates="the top eigenvalue through the training of a small convolutional network on CIFAR-10, over networks",
    reference="a peak a fifth above both ends, in every network",
    bias="None: whether or not.",
    draw=_training.draw,
    judge=judge,
    theory=(1.0, 1.0),
    mutants={"it grows to the end": (1.0, 0.0), "it declines from the start": (0.0, 1.0)},
)
