"""Distorted MNIST (Jaderberg et al. 2015, arXiv:1506.02025, section 4.1 and appendix A.4, table 1).

Digits are rotated (R); rotated, scaled and moved (RTS); seen in perspective (P); bent elastically (E); or moved among
clutter (TC). Images have 28 pixels for R, P and E, 42 for RTS and 60 for TC; 42 is the default. The classifiers have
three weight layers: fully connected ones, or conv 9x9 and conv 7x7 and a fully connected one, both with max pooling. A
transformer stands before the classifier, and its map has the input's size.

Choices that the paper leaves open:

- Widths. The paper has 32 to 64 filters and 128 to 256 units, and about the same number of parameters in all networks
  of one experiment. Here there are 64 filters everywhere, and the number of units that comes nearest to the same
  count: 209,000 to 220,000 parameters at 28 pixels, 224,000 to 244,000 at 42 and 255,000 to 271,000 at 60. The widths
  of the localisations are the paper's: 32 units, 20 filters.
- Pooling. From 42 pixels on, as in RTS and TC, average pooling x2 stands between transformer and classifier. Networks
  without a transformer are not pooled, except the fully connected one from 60 pixels on: its first layer alone would
  have more parameters than any other network here.
- The convolutional localisation sees its input at half the size, averaged, which does not alias.
- How max pooling rounds: see `layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from architectures.blocks.serial import SerialSTN
from stn_triton.modules import SpatialTransformer, check_at_least

from . import layers

# Units of the fully connected classifiers, by the smallest images that they are for.
FCN_HIDDEN = {28: 208, 42: 128, 60: 232}
ST_FCN_HIDDEN = {28: 187, 42: 256, 60: 144}


def fcn(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 42,
    hidden: int | None = None,
    pool: int | None = None,
) -> nn.Sequential:
    """(N, in_channels, s, s) -> logits (N, num_classes): the fully connected baseline.

    hidden: units in each of the two hidden layers; None: those of `FCN_HIDDEN`.
    pool: average pooling first; None: 2 from 60 pixels on, else 1, which is none.
    """
    pool = pool or (2 if image_size >= 60 else 1)
    side = layers.pooled_size(image_size, pool)
    network = layers.fcn(in_channels, side, hidden or _units(FCN_HIDDEN, image_size), num_classes)
    return nn.Sequential(nn.AvgPool2d(pool), *network)


def cnn(
    *, num_classes: int = 10, in_channels: int = 1, image_size: int = 42, filters: int = 64
) -> nn.Sequential:
    """(N, in_channels, s, s) -> logits (N, num_classes): the convolutional baseline, in three layers.

    filters: of each of the two convolutions (the paper: 32 to 64).
    """
    _check_size(image_size)
    return layers.cnn(in_channels, image_size, filters, num_classes)


def st_fcn(
    *,
    transform: str,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 42,
    hidden: int | None = None,
    localisation_width: int = 32,
    pool: int | None = None,
    padding_mode: str = "zeros",
) -> SerialSTN:
    """(N, in_channels, s, s) -> logits (N, num_classes): a transformer, then the fully connected classifier.

    hidden: units in each of the classifier's two hidden layers; None: those of `ST_FCN_HIDDEN`.
    localisation_width: units in each of the localisation's three layers.
    pool: average pooling between transformer and classifier; None: 2 from 42 pixels on, else 1.
    padding_mode: of the transformer. With the paper's "zeros" a frame that has left the image gets no gradient.
    """
    hidden = hidden or _units(ST_FCN_HIDDEN, image_size)
    pool = pool or _st_pool(image_size)
    side = layers.pooled_size(image_size, pool)
    localisation = layers.fcn_localisation(
        in_channels * image_size**2, localisation_width, layers=3
    )
    transformer = _transformer(
        localisation, localisation_width, image_size, transform, padding_mode
    )
    network = layers.fcn(in_channels, side, hidden, num_classes)
    return SerialSTN([transformer], nn.Sequential(nn.AvgPool2d(pool), *network))


def st_cnn(
    *,
    transform: str,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 42,
    filters: int = 64,
    localisation_filters: int = 20,
    pool: int | None = None,
    padding_mode: str = "zeros",
) -> SerialSTN:
    """(N, in_channels, s, s) -> logits (N, num_classes): a transformer, then the convolutional classifier.

    filters: of each of the classifier's two convolutions (the paper: 32 to 64).
    localisation_filters: of the localisation's two convolutions, and the units of its last layer.
    pool, padding_mode: as in `st_fcn`.
    """
    _check_size(image_size)
    pool = pool or _st_pool(image_size)
    side = layers.pooled_size(image_size, pool)
    localisation = layers.cnn_localisation(in_channels, image_size, localisation_filters)
    transformer = _transformer(
        localisation, localisation_filters, image_size, transform, padding_mode
    )
    network = layers.cnn(in_channels, side, filters, num_classes)
    return SerialSTN([transformer], nn.Sequential(nn.AvgPool2d(pool), *network))


def _transformer(
    localisation: nn.Module, features: int, image_size: int, transform: str, padding_mode: str
) -> SpatialTransformer:
    """A transformer whose map has the size of the image."""
    return SpatialTransformer(
        localisation, (image_size, image_size), in_features=features, transform=transform, padding_mode=padding_mode
    )  # fmt: skip


def _check_size(image_size: int) -> None:
    check_at_least("image_size", image_size, min(FCN_HIDDEN))


def _units(table: dict[int, int], image_size: int) -> int:
    """The entry of the largest size that is not above the image's."""
    _check_size(image_size)
    return table[max(size for size in table if size <= image_size)]


def _st_pool(image_size: int) -> int:
    return 2 if image_size >= 42 else 1


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mnist_fcn": fcn,
    "mnist_cnn": cnn,
    **{
        f"mnist_{name}_{transform}": partial(build, transform=transform)
        for name, build in (("st_fcn", st_fcn), ("st_cnn", st_cnn))
        for transform in ("affine", "projective", "tps")
    },
}
