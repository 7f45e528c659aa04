"""Plain convolutional networks: LeNet-5, a small one with batch norm, a bare AlexNet, VGG11."""

from __future__ import annotations

import torch
from torch import nn

from rmtland._arguments import flag
from rmtland.nets.architectures._shared import WidthScale, float_dtype, image_sizes, padded_to, seeded

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")
"""Configuration A of Simonyan and Zisserman (2015)."""


def lenet(
    num_classes: int = 10,
    *,
    channels: int = 1,
    image_size: int = 28,
    width: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling: two 5 x 5 convolutions, three linear layers.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width; smaller ones than 32 are padded to 32 by repeating their border.
    width : float
        Multiplies 6, 16 channels and 120, 84 units.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes images (n, channels, image_size, image_size). 61,706 parameters for 10 classes and one channel.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    LeCun et al. (1998), fig. 2, with every map of C3 connected to every map of S2.

    Examples
    --------
    >>> import torch
    >>> import rmtland as rl
    >>> rl.nets.lenet()(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
    """
    channels, image_size, num_classes = image_sizes(channels, image_size, num_classes)
    scale = WidthScale(width)
    side = (max(image_size, 32) - 4) // 2
    side = (side - 4) // 2
    with seeded(seed):
        network = nn.Sequential(
            *padded_to(32, image_size),
            nn.Conv2d(channels, scale(6), 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(scale(6), scale(16), 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(scale(16) * side**2, scale(120)), nn.ReLU(),
            nn.Linear(scale(120), scale(84)), nn.ReLU(),
            nn.Linear(scale(84), num_classes),
        )  # fmt: skip
    return network.to(float_dtype(dtype))


def cnn(
    num_classes: int = 10,
    *,
    channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    batch_norm: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """A small convolutional network: two 3 x 3 convolutions with batch norm, each pooled, and one linear layer.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width, at least 8.
    width : float
        Multiplies 16 and 32 channels.
    batch_norm : bool
        Whether each convolution is followed by batch norm.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes images (n, channels, image_size, image_size).

    Raises
    ------
    ValueError
        For sizes out of range.

    Examples
    --------
    >>> import rmtland as rl
    >>> sum(p.numel() for p in rl.nets.cnn(channels=1, image_size=28).parameters())
    20586
    """
    channels, image_size, num_classes = image_sizes(channels, image_size, num_classes)
    scale = WidthScale(width)
    layers: list[nn.Module] = []
    with seeded(seed):
        before = channels
        for after in (scale(16), scale(32)):
            layers.append(nn.Conv2d(before, after, 3, padding=1))
            layers += [nn.BatchNorm2d(after)] if flag("batch_norm", batch_norm) else []
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            before = after
        layers += [nn.Flatten(), nn.Linear(before * (image_size // 4) ** 2, num_classes)]
    return nn.Sequential(*layers).to(float_dtype(dtype))


def alexnet(
    num_classes: int = 10,
    *,
    channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """A bare AlexNet for 32 x 32 images: its five convolutions and one linear layer, no normalisation, no dropout.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width; smaller ones than 32 are padded to 32 by repeating their border.
    width : float
        Multiplies 64, 192, 384, 256 and 256 channels.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes images (n, channels, image_size, image_size). 2.47 M parameters for 10 classes and 3 channels.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Krizhevsky, One weird trick for parallelizing convolutional neural networks (2014), for the channels; Sagun et al.
    (2017), sec. 4.1, for "bare".

    Examples
    --------
    >>> import rmtland as rl
    >>> sum(p.numel() for p in rl.nets.alexnet().parameters())
    2472266
    """
    channels, image_size, num_classes = image_sizes(channels, image_size, num_classes)
    a, b, c, d = (WidthScale(width)(n) for n in (64, 192, 384, 256))
    side = (max(image_size, 32) - 1) // 4 + 1  # the first convolution has stride 4
    side //= 8
    with seeded(seed):
        network = nn.Sequential(
            *padded_to(32, image_size),
            nn.Conv2d(channels, a, 11, stride=4, padding=5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
            nn.Conv2d(d, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(d * side**2, num_classes),
        )  # fmt: skip
    return network.to(float_dtype(dtype))


def vgg11(
    num_classes: int = 10,
    *,
    channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """VGG11 with batch norm after every convolution and in place of dropout.

    Parameters
    ----------
    num_classes : int
        C.
    channels : int
        Of the images: 1 or 3.
    image_size : int
        Height and width; smaller ones than 32 are padded to 32 by repeating their border.
    width : float
        Multiplies 64 to 512 channels and 4,096 units.
    seed : int
        Of the initial weights (PyTorch's default initialisation); torch's global generator is left as found.
    dtype : torch.dtype
        Of the parameters; the values do not depend on it but for rounding.

    Returns
    -------
    torch.nn.Sequential
        Takes images (n, channels, image_size, image_size). 28.2 M parameters for 10 classes and 3 channels.

    Raises
    ------
    ValueError
        For sizes out of range.

    References
    ----------
    Simonyan and Zisserman (2015), configuration A; Papyan (2018), appendix, for batch norm in place of dropout.

    Examples
    --------
    >>> import rmtland as rl
    >>> sum(p.numel() for p in rl.nets.vgg11(width=0.125, channels=1).parameters())
    448218
    """
    channels, image_size, num_classes = image_sizes(channels, image_size, num_classes)
    scale = WidthScale(width)
    layers = padded_to(32, image_size)
    side = max(image_size, 32) // 32
    with seeded(seed):
        before = channels
        for step in VGG11:
            if isinstance(step, int):
                after = scale(step)
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            else:
                layers.append(nn.MaxPool2d(2))
        layers.append(nn.Flatten())
        before *= side**2
        for units in (scale(4096), scale(4096)):
            layers += [nn.Linear(before, units), nn.BatchNorm1d(units), nn.ReLU()]
            before = units
        layers.append(nn.Linear(before, num_classes))
    return nn.Sequential(*layers).to(float_dtype(dtype))
