"""What the networks of several experiments are built from (Jaderberg et al. 2015, appendices A.4 and A.5).

Pooling rounds sizes down, except in the convolutional classifier, where it rounds them up: a map of
42 pixels that was pooled x2 has 13 pixels after the first convolution, which pooling makes 7, as many
as the second convolution needs. The paper does not say how it rounds; rounded up, its layers fit every
size that it uses.
"""

from __future__ import annotations

import torch
from einops.layers.torch import Rearrange
from torch import nn


def fully_connected(features: int, *widths: int) -> nn.Sequential:
    """(N, features) -> (N, widths[-1]), a ReLU after every layer."""
    layers: list[nn.Module] = []
    for before, after in zip((features, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def classifier(features: int, hidden: int, num_classes: int) -> nn.Sequential:
    """(N, features) -> logits (N, num_classes): two hidden layers and the classifying one."""
    return nn.Sequential(*fully_connected(features, hidden, hidden), nn.Linear(hidden, num_classes))


def fcn(in_channels: int, image_size: int, hidden: int, num_classes: int) -> nn.Sequential:
    """(N, in_channels, s, s) -> logits (N, num_classes): the fully connected classifier."""
    features = in_channels * image_size**2
    return nn.Sequential(flatten(), *classifier(features, hidden, num_classes))


def cnn(in_channels: int, image_size: int, filters: int, num_classes: int) -> nn.Sequential:
    """(N, in_channels, s, s) -> logits (N, num_classes): the convolutional classifier.

    A sequence of three modules: conv 9x9 and conv 7x7, each with ReLU and maximum pooling of 2x2, and
    the classifying layer.

    Raises:
        ValueError: maps below 21 pixels, which leave less than 7 pixels to the second convolution.
    """
    if image_size < 21:
        raise ValueError(
            f"the convolutional classifier needs maps of at least 21 x 21 pixels, got {image_size} x "
            f"{image_size}: use a larger image_size, or a smaller pool before it"
        )
    side = _halved(_halved(image_size - 8) - 6)
    return nn.Sequential(
        _pooled_convolution(in_channels, filters, 9),
        _pooled_convolution(filters, filters, 7),
        nn.Sequential(flatten(), nn.Linear(filters * side**2, num_classes)),
    )


def fcn_localisation(features: int, width: int, *, layers: int) -> nn.Sequential:
    """(N, ...), `features` numbers an image -> (N, width): so many fully connected layers, all of this width."""
    return nn.Sequential(flatten(), *fully_connected(features, *[width] * layers))


def cnn_localisation(
    in_channels: int, image_size: int, filters: int, *, ndim: int = 2
) -> nn.Sequential:
    """(N, in_channels, s, s) -> (N, filters): two convolutions and a fully connected layer.

    The input averaged over 2x2, conv 5x5, maximum of 2x2, conv 5x5, fully connected; each with
    `filters` outputs. With ndim=3 the same for volumes, (N, in_channels, s, s, s).

    Raises:
        ValueError: images below 26 pixels, which leave less than 5 pixels to the second convolution.
    """
    if image_size < 26:
        raise ValueError(
            f"image_size must be at least 26 for the convolutional localisation, got {image_size}"
        )
    average = nn.AvgPool2d(2) if ndim == 2 else nn.AvgPool3d(2)
    maximum = nn.MaxPool2d(2) if ndim == 2 else nn.MaxPool3d(2)
    convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
    side = (image_size // 2 - 4) // 2 - 4
    return nn.Sequential(
        average,
        convolution(in_channels, filters, 5),
        nn.ReLU(),
        maximum,
        convolution(filters, filters, 5),
        nn.ReLU(),
        *fcn_localisation(filters * side**ndim, filters, layers=1),
    )


def pooled_size(image_size: int, pool: int) -> int:
    """The side of an image after average pooling.

    Raises:
        ValueError: a pool that is larger than the image.
    """
    if pool > image_size:
        raise ValueError(f"pool must be at most image_size = {image_size}, got {pool}")
    return image_size // pool


def flatten() -> Rearrange:
    """(N, ...) -> (N, features)."""
    return Rearrange("n ... -> n (...)")


def initialise(network: nn.Sequential, *, dropped: float = 0.0) -> nn.Sequential:
    """Draw all weights of `network` as He et al. 2015 (arXiv:1502.01852), which keeps a signal's size; biases are 0.

    dropped: the share that dropout takes from what every layer reads. Dropout raises a signal's variance by
    1 / (1 - dropped) at each layer, a thousandfold over ten layers at 0.5; weights are drawn smaller to undo that.

    The paper says only that weights are random. With torch's own initialisation every layer makes the variance of a
    signal about 6 times smaller, and little is left of it behind a dozen layers.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            with torch.no_grad():
                module.weight.mul_((1 - dropped) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def _pooled_convolution(in_channels: int, filters: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, filters, size), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)
    )


def _halved(size: int) -> int:
    """The side of a map after maximum pooling of 2x2, rounded up."""
    return (size + 1) // 2
