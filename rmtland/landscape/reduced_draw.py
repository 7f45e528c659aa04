"""A draw of the landscape model in as few coordinates as it has logit gradients: a source at any D."""

from __future__ import annotations

import math

from rmtland._arguments import Seed, generator, require_memory
from rmtland.landscape.bartlett import bartlett_factor
from rmtland.landscape.draw import LandscapeDraw
from rmtland.landscape.gradient_laws import ClusteredGradients
from rmtland.landscape.model import LandscapeModel


def num_columns(model: LandscapeModel) -> int:
    """Coordinates of `reduced_draw`, min(D, number of normal rows)."""
    return min(_num_rows(model), model.num_parameters)


def reduced_draw(model: LandscapeModel, rng: Seed = None) -> LandscapeDraw:
    """A draw whose logit gradients are those of `model.sample` but for a rotation, and without zero coordinates.

    Parameters
    ----------
    model : LandscapeModel
        With `ClusteredGradients`, no H-term read.
    rng : seed

    Returns
    -------
    LandscapeDraw
        Of min(D, C + C^2 + N C) parameters, C^2 only with class gradients. Inner products of logit gradients, and so
        all eigenvalues, traces and angles, have the law that they have at D.

    Raises
    ------
    TypeError
        For another gradient law, which may not be rotation invariant.
    MemoryError
        Where its logit gradients do not fit.

    References
    ----------
    Bartlett (1933), On the theory of statistical regression.

    Examples
    --------
    >>> import rmtland as rl
    >>> model = rl.LandscapeModel.fort_ganguli(num_examples=20, num_classes=3, num_parameters=10**9)
    >>> reduced_draw(model, rng=0).num_parameters
    63
    """
    law = model.gradients
    if type(law) is not ClusteredGradients:
        raise TypeError(f"`model` must have ClusteredGradients; got {type(law).__name__}")
    num_rows, width = _num_rows(model), num_columns(model)
    require_memory(f"the {num_rows} logit gradients of a reduced draw", 16.0 * num_rows * width, "use fewer examples")
    rng = generator(rng)
    num_examples, num_classes = model.num_examples, model.num_classes
    logits, labels = model.logits.draw_logits(num_examples, num_classes, rng)
    rows = bartlett_factor(num_rows, model.num_parameters, rng) / math.sqrt(model.num_parameters)
    means = rows[:num_classes] * law.mean_lengths(num_classes)[:, None]
    of_class, rest = None, rows[num_classes:]
    if law.class_length > 0:
        of_class = law.class_length * rest[: num_classes**2].reshape(num_classes, num_classes, width)
        rest = rest[num_classes**2 :]
    residuals = law.residual_length * rest.reshape(num_examples, num_classes, width)
    return LandscapeDraw(logits, labels, means, residuals, of_class)


def _num_rows(model: LandscapeModel) -> int:
    of_class = model.num_classes**2 if getattr(model.gradients, "class_length", 0) > 0 else 0
    return model.num_classes * (1 + model.num_examples) + of_class
