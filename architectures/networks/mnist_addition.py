"""MNIST addition (Jaderberg et al. 2015, arXiv:1506.02025, appendix A.1, table 4).

Two digits, each distorted on its own, lie in the two channels of a 42x42 image. The label is their sum, 0 to 18.

Choices that the paper leaves open:

- Widths. The paper has about the same number of parameters in all networks of one experiment, and 128 to 256 units or
  32 to 64 filters a layer. With 128 units there are 470,675 parameters without transformers and 475,359 with two affine
  ones (less than 2,000 more for the other transforms). For the same number the network behind one transformer needs 296
  units and the convolutional one 90 filters, which is more than the paper's; equal numbers were preferred.
- Pooling. Where the distortions are the same (RTS) the paper pools x2 behind the transformer; for addition it does not
  say. Here maps are pooled, too (`pool=2`); the numbers above are equal only with that.
- Localisation. The paper does not repeat it for addition. It is that of the distorted MNIST experiments, three fully
  connected layers of 32 units. Every transformer has a localisation of its own and sees both channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from architectures.blocks.parallel import ParallelSTN

from . import layers


def fcn(
    *, num_classes: int = 19, in_channels: int = 2, image_size: int = 42, hidden: int = 128
) -> nn.Sequential:
    """(N, in_channels, s, s) -> logits (N, num_classes): the fully connected baseline, no pooling.

    hidden: units in each of the two hidden layers (the paper: 128 to 256).
    """
    return layers.fcn(in_channels, image_size, hidden, num_classes)


def cnn(
    *, num_classes: int = 19, in_channels: int = 2, image_size: int = 42, filters: int = 90
) -> nn.Sequential:
    """(N, in_channels, s, s) -> logits (N, num_classes): the convolutional baseline, that of section 4.1.

    filters: of each of the two convolutions (the paper: 32 to 64).
    """
    return layers.cnn(in_channels, image_size, filters, num_classes)


def st_fcn(
    *,
    transform: str,
    num_transformers: int,
    num_classes: int = 19,
    in_channels: int = 2,
    image_size: int = 42,
    hidden: int | None = None,
    localisation_width: int = 32,
    pool: int = 2,
    padding_mode: str = "zeros",
) -> ParallelSTN:
    """(N, in_channels, s, s) -> logits (N, num_classes), transformers before the classifier.

    Each transformer resamples all channels at full size; the pooled maps of all of them, side by
    side (K * in_channels channels), are what the fully connected classifier sees.

    hidden: units in each of the classifier's two hidden layers; None: 128, or 296 behind one
        transformer.
    localisation_width: units in each of a localisation's three layers.
    pool: average pooling between transformer and classifier; 1 for none.
    padding_mode: of the transformers.
    """
    pixels = in_channels * image_size**2
    pooled = in_channels * layers.pooled_size(image_size, pool) ** 2
    hidden = hidden or (296 if num_transformers == 1 else 128)
    return ParallelSTN(
        [
            layers.fcn_localisation(pixels, localisation_width, layers=3)
            for _ in range(num_transformers)
        ],
        nn.AvgPool2d(pool),
        layers.classifier(num_transformers * pooled, hidden, num_classes),
        in_features=localisation_width,
        out_size=(image_size, image_size),
        num_transformers=num_transformers,
        transform=transform,
        padding_mode=padding_mode,
    )


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mnist_addition_fcn": fcn,
    "mnist_addition_cnn": cnn,
    **{
        f"mnist_addition_{name}_{transform}": partial(
            st_fcn, transform=transform, num_transformers=number
        )
        for name, number in (("st_fcn", 1), ("2st_fcn", 2))
        for transform in ("affine", "projective", "tps")
    },
}
