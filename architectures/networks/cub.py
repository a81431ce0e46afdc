"""Birds (Jaderberg et al. 2015, arXiv:1506.02025, section 4.3 and appendix A.6, table 3).

CUB-200-2011 has 200 species, in images of 224 or 448 pixels. Each of two or four transformers crops half the width and
height of the image to 224 pixels. Each crop is read by a network of its own, and one softmax reads the features of all.
One more network, the localisation, says where all the crops are.

Choices that the paper leaves open:

- The network is Inception with batch normalisation (see `inception`) without its last layer, or any other that is given
  as `backbone`. It is untrained unless `weights` names a file; the paper starts from a network trained on ImageNet.
- The localisation sees images of 448 pixels averaged over 2x2. The network without transformers reads the whole image,
  and averages over a larger feature map.
- The crops start by tiling the image: two stand left and right, as in other reimplementations, four are its quadrants.
- The paper's dropout of 0.7 before the softmax is taken for the share that is dropped.

Parameters: 10.5 million without transformers, 32.1 with two, 53.1 with four.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import PathLike

import torch.nn.functional as F
from einops.layers.torch import Reduce
from torch import Tensor, nn

from architectures.blocks.parallel import ParallelSTN

from . import layers
from .backbones import Backbone, make_backbone

SCALE = 0.5
"""Side of a crop relative to the image's."""

TILES = {
    2: ((-0.5, 0.0), (0.5, 0.0)),
    4: ((-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)),
}
"""The centres (tx, ty) at which the crops start."""

MAP = 7
"""Side of the feature map that the localisation reads: 1/32 of 224."""


def cnn(
    *,
    num_classes: int = 200,
    in_channels: int = 3,
    image_size: int = 224,
    crop_size: int = 224,
    dropout: float = 0.7,
    backbone: Backbone = None,
    backbone_features: int | None = None,
    weights: str | PathLike[str] | None = None,
) -> nn.Sequential:
    """(N, in_channels, s, s) -> logits (N, num_classes): one network, no transformers.

    The options are those of `st_cnn`; crop_size only says which image sizes are allowed.
    """
    _reduction(image_size, crop_size)
    stream, features = make_backbone(backbone, backbone_features, in_channels, weights)
    return nn.Sequential(stream, _average(), nn.Dropout(dropout), nn.Linear(features, num_classes))


def st_cnn(
    *,
    num_transformers: int,
    num_classes: int = 200,
    in_channels: int = 3,
    image_size: int = 224,
    crop_size: int = 224,
    dropout: float = 0.7,
    localisation_width: int = 128,
    backbone: Backbone = None,
    backbone_features: int | None = None,
    weights: str | PathLike[str] | None = None,
    padding_mode: str = "zeros",
) -> ParallelSTN:
    """(N, in_channels, s, s) -> logits (N, num_classes): K crops of half the image, a network for each.

    The localisation, one for all K: the backbone, conv 1x1, a fully connected layer, 2 K numbers.

    image_size: crop_size or twice that.
    crop_size: side of the crops, and of the averaged image that the localisation reads.
    localisation_width: filters of its conv 1x1, and units of its last layer.
    backbone: makes a new network, (N, in_channels, crop_size, crop_size) -> feature maps
        (N, F, h, w), each time it is called; or the name of a model of timm, if that is installed;
        None: `Inception`.
    backbone_features: F; None: the network's `num_features`.
    weights: a file with the state dict of the backbone, with which the streams and the
        localisation start.
    padding_mode: of the transformers.

    Raises:
        TypeError: a backbone that is neither a name nor something that makes modules.
        ValueError: another image_size; a backbone of which F is unknown; a weights file that
            cannot be read, or that does not fit.
        FileNotFoundError: no such weights file.
        ImportError: a name as backbone, and no timm.
    """
    reduction = _reduction(image_size, crop_size)
    make = partial(make_backbone, backbone, backbone_features, in_channels, weights)
    streams = [make()[0] for _ in range(num_transformers)]
    network, features = make()
    localisation = nn.Sequential(
        nn.AvgPool2d(reduction),
        network,
        _MapOfOneSize(),
        nn.Conv2d(features, localisation_width, 1),
        nn.ReLU(),
        *layers.fcn_localisation(localisation_width * MAP**2, localisation_width, layers=1),
    )
    return ParallelSTN(
        localisation,
        [nn.Sequential(stream, _average()) for stream in streams],
        nn.Sequential(nn.Dropout(dropout), nn.Linear(num_transformers * features, num_classes)),
        in_features=localisation_width,
        out_size=(crop_size, crop_size),
        num_transformers=num_transformers,
        transform="attention",
        fixed_scale=SCALE,
        initial_theta=[[SCALE, *centre] for centre in TILES[num_transformers]],
        padding_mode=padding_mode,
    )


class _MapOfOneSize(nn.Module):
    """(N, F, h, w) -> (N, F, 7, 7), by adaptive average pooling where a backbone's map is of another size.

    A map that has this size already is left alone: on a GPU the gradient of adaptive pooling is not deterministic.
    """

    def forward(self, x: Tensor) -> Tensor:
        size = (MAP, MAP)
        return x if x.shape[2:] == size else F.adaptive_avg_pool2d(x, size)


def _reduction(image_size: int, crop_size: int) -> int:
    """How many times larger than a crop the image is."""
    if image_size not in (crop_size, 2 * crop_size):
        raise ValueError(
            f"image_size must be {crop_size} or {2 * crop_size}, crop_size or twice that, "
            f"got {image_size}"
        )
    return image_size // crop_size


def _average() -> Reduce:
    """(N, F, h, w) -> (N, F)."""
    return Reduce("n f h w -> n f", "mean")


MODELS: dict[str, Callable[..., nn.Module]] = {
    "cub_cnn": cnn,
    "cub_2st_cnn": partial(st_cnn, num_transformers=2),
    "cub_4st_cnn": partial(st_cnn, num_transformers=4),
}
