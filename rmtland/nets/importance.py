"""Some of the examples for all: those that a softmax's curvature is made of for certain, others in proportion."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FEWEST = 256
"""Examples, of fewer of which the noise would be more than it spares."""


class Sampled(NamedTuple):
    """Examples in place of all.

    Attributes
    ----------
    places : Tensor (m,)
        Which, ascending.
    scales : Tensor (m,)
        How many each stands for: sums over all are sums over these times as many, in the mean.
    noise : Tensor (m,)
        Sums over these times as many are one draw of the noise of such sums.
    """

    places: Tensor
    scales: Tensor
    noise: Tensor

    @classmethod
    def of(cls, curvatures: Tensor, count: int) -> Sampled:
        """About `count` of n examples, (n,), the i-th with the probability min(1, c a_i) for its curvature a_i >= 0.

        At equal steps along the sum of these, the same each time: neighbours, such as a class's, share out their draws.
        """
        n = len(curvatures)
        likely = torch.ones(n, dtype=torch.float64, device=curvatures.device)
        if count < n:
            shares = curvatures.double() if bool(curvatures.any()) else likely
            order = shares.sort(descending=True).values
            left = order.flip(0).cumsum(0).flip(0)  # of the j-th and all smaller ones
            wanted = count - torch.arange(n, device=order.device)
            certain = int((wanted * order > left).sum())
            # Nothing may be left.
            likely = (float(wanted[certain]) * shares / left[certain].clamp(min=1e-300)).clamp(max=1.0)
        sure = likely >= 1.0
        steps = (likely.where(~sure, 0.0).cumsum(0) + 0.5).floor()
        places = (sure | (steps.diff(prepend=steps.new_zeros(1)) > 0)).nonzero()[:, 0]
        scales = 1.0 / likely[places]
        # Neighbours differ by what chance does to them, in pairs of one weight: what all have in common is no noise.
        odds = 1.0 - likely[places][~sure[places]]
        pairs = odds[: len(odds) // 2 * 2].view(-1, 2)
        pairs[:] = pairs.mean(dim=1, keepdim=True)
        signs = 1.0 - 2.0 * (torch.arange(len(odds), device=odds.device) % 2)
        noise = torch.zeros_like(scales)
        noise[~sure[places]] = signs * odds.sqrt()
        return cls(places, scales, noise * scales)


def curvatures(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Trace of a softmax's Hessian in the logits (n, C), times the examples' weights, (n,)."""
    p = logits.double().softmax(dim=1)
    found = (p * (1.0 - p)).sum(dim=1)
    return found if weights is None else found * weights


def told_by(logits: Tensor, weights: Tensor | None, every: int) -> Sampled | None:
    """One example of `every`, but as many as are worth it; None for all of them, or none."""
    if every < 2:
        return None
    return Sampled.of(curvatures(logits, weights), max(-(-len(logits) // every), FEWEST))
