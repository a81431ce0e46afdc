"""Digits as volumes (Jaderberg et al. 2015, arXiv:1506.02025, appendix A.3, figure 5).

A digit, extruded to a solid body and rotated, lies somewhere in a volume of 60x60x60 voxels. A 3-D
transformer resamples the volume. The sum over its depth is an image, which a 2-D network reads. It is
trained with class labels alone. The paper gives neither layers nor errors; here
localisation and classifier are those of the 60-pixel images of section 4.1, the localisation with
convolutions in three dimensions.

Beside it stand two networks without a transformer, which are ours: the same classifier on the sum
of the volume as it is, and a classifier whose convolutions have three dimensions. By default they are
as wide as it takes for all to have between 549,000 and 559,000 parameters.
"""

from __future__ import annotations

from collections.abc import Callable

from einops.layers.torch import Reduce
from torch import nn

from architectures.blocks.serial import SerialSTN
from stn_triton.modules import SpatialTransformer

from . import layers


def st_cnn(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 60,
    filters: int = 64,
    localisation_filters: int = 20,
    pool: int = 2,
    projection: str = "sum",
    padding_mode: str = "zeros",
) -> SerialSTN:
    """(N, in_channels, s, s, s) -> logits (N, num_classes): affine transformer (3, 4), projection, classifier.

    Convention: volumes are (depth, height, width), theta is for (x, y, z), x along the width.

    filters: of each of the classifier's two convolutions.
    localisation_filters: of the localisation's two convolutions, and the units of its last layer.
    pool: average pooling between projection and classifier; 1 for none.
    projection: over the depth, "sum" as in the paper, "mean" or "max".
    padding_mode: of the transformer.

    Raises:
        ValueError: an unknown projection; an image_size that the convolutions do not fit into.
    """
    transformer = SpatialTransformer(
        layers.cnn_localisation(in_channels, image_size, localisation_filters, ndim=3),
        (image_size,) * 3,
        in_features=localisation_filters,
        padding_mode=padding_mode,
    )
    head = projected_cnn(
        num_classes=num_classes, in_channels=in_channels, image_size=image_size, filters=filters,
        pool=pool, projection=projection,
    )  # fmt: skip
    return SerialSTN([transformer], head)


def projected_cnn(
    *,
    num_classes: int = 10,
    in_channels: int = 1,
    image_size: int = 60,
    filters: int = 105,
    pool: int = 2,
    projection: str = "sum",
) -> nn.Sequential:
    """(N, in_channels, s, s, s) -> logits (N, num_classes): the projection and the classifier of `st_cnn`.

    The options are those of `st_cnn`.

    Raises:
        ValueError: as `st_cnn`.
    """
    if projection not in ("sum", "mean", "max"):
        raise ValueError(f"projection must be 'sum', 'mean' or 'max', got {projection!r}")
    side = layers.pooled_size(image_size, pool)
    return nn.Sequential(
        Reduce("n c d h w -> n c h w", projection),
        nn.AvgPool2d(pool),
        *layers.cnn(in_channels, side, filters, num_classes),
    )


def cnn(
    *, num_classes: int = 10, in_channels: int = 1, image_size: int = 60, filters: int = 61
) -> nn.Sequential:
    """(N, in_channels, s, s, s) -> logits (N, num_classes): convolutions in three dimensions.

    The input averaged over 2x2x2, two convolutions 5x5x5, each pooled by the maximum of 2x2x2, and the
    classifying layer.

    Raises:
        ValueError: volumes below 26 voxels, of which the second convolution would see less than 5.
    """
    if image_size < 26:
        raise ValueError(f"image_size must be at least 26 for mnist3d_cnn, got {image_size}")
    side = ((image_size // 2 - 4) // 2 - 4 + 1) // 2
    return nn.Sequential(
        nn.AvgPool3d(2),
        nn.Conv3d(in_channels, filters, 5),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(filters, filters, 5),
        nn.ReLU(),
        nn.MaxPool3d(2, ceil_mode=True),
        layers.flatten(),
        nn.Linear(filters * side**3, num_classes),
    )


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mnist3d_cnn": cnn,
    "mnist3d_projected_cnn": projected_cnn,
    "mnist3d_st_cnn": st_cnn,
}
