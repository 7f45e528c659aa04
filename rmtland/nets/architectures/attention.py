"""A small transformer on patches of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmtland._arguments import integer
from rmtland.nets.architectures._shared import WidthScale, float_dtype, image_sizes, seeded


class VisionTransformer(nn.Module):
    """Patches embedded linearly, learned positions, encoder layers, the mean over patches to the logits."""

    def __init__(self, channels: int, image_size: int, num_classes: int, units: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(channels, units, PATCH, stride=PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // PATCH) ** 2, units))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    units, heads, 4 * units, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(units)
        self.head = nn.Linear(units, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, image_size, image_size) to (n, num_classes)."""
        tokens = self.embedding(images).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(1))
        return logits


PATCH = 4
"""Height and width of a patch."""


def transformer(
    num_classes: int = 10,
    *,
    channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    depth: int = 2,
    heads: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> VisionTransformer:
    """A small transformer on 4 x 4 patches: pre-norm encoder layers with GELU, no dropout.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width, at least 8; rows and columns beyond a multiple of 4 are not seen.
    width : float
        Multiplies the 64 units, rounded to a multiple of `heads`.
    depth : int
        Encoder layers, each of 12 units^2 + 13 units parameters.
    heads : int
        Attention heads.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Module
        Takes images (n, channels, image_size, image_size).

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Dosovitskiy et al. (2021), with the mean over patches in place of a class token.

    Examples
    --------
    >>> import torch
    >>> import rmtland as rl
    >>> rl.nets.transformer(image_size=28, channels=1)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    channels, image_size, num_classes = image_sizes(channels, image_size, num_classes)
    depth, heads = integer("depth", depth, at_least=1), integer("heads", heads, at_least=1)
    units = heads * max(1, round(WidthScale(width)(64) / heads))
    with seeded(seed):
        network = VisionTransformer(channels, image_size, num_classes, units, depth, heads)
    return network.to(float_dtype(dtype))
