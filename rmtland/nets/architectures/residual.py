"""Networks whose blocks pass their input on: ResNet18 and ResNet20 by adding, DenseNet40 by concatenating."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rmtland.nets.architectures._shared import WidthScale, float_dtype, image_sizes, seeded


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to their input.

    Where the shape changes the input goes through a 1 x 1 convolution ("projection", option B of He et al.) or is
    subsampled and filled up with zero channels (option A, without parameters).
    """

    def __init__(self, before: int, after: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.stride, self.missing = stride, after - before
        self.projection: nn.Module | None = None
        if projection and (stride != 1 or before != after):
            self.projection = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, after, h / stride, w / stride)."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.projection is not None:
            x = self.projection(x)
        else:
            x = x[:, :, :: self.stride, :: self.stride]
            if self.missing:
                x = functional.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return functional.relu(x + y)


class DenseLayer(nn.Module):
    """Batch norm, ReLU and a 3 x 3 convolution to `growth` channels, concatenated to their input."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.conv = nn.Conv2d(before, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, h, w) to (n, before + growth, h, w)."""
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], dim=1)


def _resnet(
    sizes: tuple[int, int, int], stages: Sequence[int], blocks: int, projection: bool, seed: int, dtype: torch.dtype
) -> nn.Sequential:
    channels, _, num_classes = sizes
    with seeded(seed):
        first = nn.Conv2d(channels, stages[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = [first, nn.BatchNorm2d(stages[0]), nn.ReLU()]
        before = stages[0]
        for number, after in enumerate(stages):
            for block in range(blocks):
                stride = 2 if number > 0 and block == 0 else 1
                layers.append(ResidualBlock(before, after, stride, projection))
                before = after
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
    return nn.Sequential(*layers).to(float_dtype(dtype))


def resnet20(
    num_classes: int = 10,
    *,
    channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """ResNet-20 for 32 x 32 images: three stages of three blocks, shortcuts without parameters.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width, at least 8; the parameters do not depend on it.
    width : float
        Multiplies 16, 32 and 64 channels.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes images (n, channels, image_size, image_size). 0.27 M parameters for 10 classes.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    He et al. (2016), sec. 4.2 (option A).

    Examples
    --------
    >>> import rmtland as rl
    >>> sum(p.numel() for p in rl.nets.resnet20().parameters())
    269722
    """
    scale = WidthScale(width)
    stages = [scale(n) for n in (16, 32, 64)]
    return _resnet(image_sizes(channels, image_size, num_classes), stages, 3, False, seed, dtype)


def resnet18(
    num_classes: int = 10,
    *,
    channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """ResNet-18 for 32 x 32 images: four stages of two blocks, a 3 x 3 first convolution and no pooling after it.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width, at least 8; the parameters do not depend on it.
    width : float
        Multiplies 64, 128, 256 and 512 channels.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes images (n, channels, image_size, image_size). 11.2 M parameters for 10 classes.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    He et al. (2016), table 1 (option B), as used on CIFAR by Papyan (2018).

    Examples
    --------
    >>> import rmtland as rl
    >>> sum(p.numel() for p in rl.nets.resnet18().parameters())
    11173962
    """
    scale = WidthScale(width)
    stages = [scale(n) for n in (64, 128, 256, 512)]
    return _resnet(image_sizes(channels, image_size, num_classes), stages, 2, True, seed, dtype)


def densenet40(
    num_classes: int = 10,
    *,
    channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """DenseNet-40 with growth rate 12: three dense blocks of twelve layers, neither bottleneck nor compression.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width, at least 8; the parameters do not depend on it.
    width : float
        Multiplies the growth rate 12 and the 16 channels of the first convolution.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes images (n, channels, image_size, image_size). 1.02 M parameters for 10 classes.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Huang et al. (2017), sec. 3 and table 2 (L = 40, k = 12); without dropout.

    Examples
    --------
    >>> import rmtland as rl
    >>> sum(p.numel() for p in rl.nets.densenet40().parameters())
    1019722
    """
    channels, image_size, num_classes = image_sizes(channels, image_size, num_classes)
    scale = WidthScale(width)
    before, growth = scale(16), scale(12)
    with seeded(seed):
        layers: list[nn.Module] = [nn.Conv2d(channels, before, 3, padding=1, bias=False)]
        for block in range(3):
            if block > 0:
                layers += [
                    nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, before, 1, bias=False), nn.AvgPool2d(2),
                ]  # fmt: skip
            for _ in range(12):
                layers.append(DenseLayer(before, growth))
                before += growth
        layers += [
            nn.BatchNorm2d(before), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes),
        ]  # fmt: skip
    return nn.Sequential(*layers).to(float_dtype(dtype))
