"""MNIST addition (Jaderberg et al. 2015, arXiv:1506.02025, appendix A.1, table 4).

Two digits, each distorted on its own, lie in the two channels of a 42x42 image; the label is their
sum, 0 to 18. The paper leaves open, and here it is so:

- Widths. The paper's classifiers have 128 to 256 units a layer and about equal parameter counts in
  one experiment. 128 units give 470,675 parameters without transformers and 475,359 with two.
- Pooling. In the experiment with the same distortions the paper pools x2 after the transformer;
  for addition it does not say. Pooled here (`pool=2`): only so do the counts above agree.
- Localisation. Not restated for addition; taken from the distorted MNIST experiments: three fully
  connected layers of 32 units. Every transformer has a localisation of its own and sees both
  channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from einops.layers.torch import Rearrange
from torch import nn

from .parallel import ParallelSTN


def fully_connected(features: int, *widths: int) -> nn.Sequential:
    """(N, features) -> (N, widths[-1]), a ReLU after every layer."""
    layers: list[nn.Module] = []
    for before, after in zip((features, *widths), widths, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def classifier(features: int, hidden: int, num_classes: int) -> nn.Sequential:
    """(N, features) -> logits (N, num_classes): two hidden layers and the classifying one."""
    return nn.Sequential(*fully_connected(features, hidden, hidden), nn.Linear(hidden, num_classes))


def fcn(
    *, num_classes: int = 19, in_channels: int = 2, image_size: int = 42, hidden: int = 128
) -> nn.Module:
    """(N, in_channels, s, s) -> logits (N, num_classes): the fully connected baseline, no pooling.

    hidden: units in each of the two hidden layers (the paper: 128 to 256).
    """
    features = in_channels * image_size**2
    return nn.Sequential(
        Rearrange("n c h w -> n (c h w)"), *classifier(features, hidden, num_classes)
    )


def st_fcn(
    *,
    transform: str,
    num_transformers: int,
    num_classes: int = 19,
    in_channels: int = 2,
    image_size: int = 42,
    hidden: int = 128,
    localisation_width: int = 32,
    pool: int = 2,
) -> ParallelSTN:
    """(N, in_channels, s, s) -> logits (N, num_classes), transformers before the classifier.

    Each transformer resamples all channels at full size; the pooled maps of all of them, side by
    side (K * in_channels channels), are what the fully connected classifier sees.

    hidden: units in each of the classifier's two hidden layers (the paper: 128 to 256).
    localisation_width: units in each of a localisation's three layers.
    pool: average pooling between transformer and classifier; 1 for none.
    """
    pixels = in_channels * image_size**2
    pooled = in_channels * (image_size // pool) ** 2
    return ParallelSTN(
        [
            nn.Sequential(
                Rearrange("n c h w -> n (c h w)"),
                *fully_connected(pixels, *[localisation_width] * 3),
            )
            for _ in range(num_transformers)
        ],
        nn.AvgPool2d(pool),
        classifier(num_transformers * pooled, hidden, num_classes),
        in_features=localisation_width,
        out_size=(image_size, image_size),
        num_transformers=num_transformers,
        transform=transform,
    )


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mnist_addition_fcn": fcn,
    "mnist_addition_2st_fcn_affine": partial(st_fcn, transform="affine", num_transformers=2),
}
