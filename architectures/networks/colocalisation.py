"""Co-localisation (Jaderberg et al. 2015, arXiv:1506.02025, appendix A.2, figure 4, table 5).

All images show an object of one class, and nothing says which class or where. A transformer learns to find the object,
without labels and boxes: the crops of two images should be more alike than the crop of an image and a random crop of
the same image.

Choices that the paper leaves open, or where it says two things:

- The localiser has the layers that the paper lists, which make 5,947 parameters for 84-pixel images; the paper calls it
  a network of 100,000.
- The random crop in the loss is one of image n, as in the paper's formula. With one of image m the sum would be the
  same: it is over all ordered pairs, and distances are symmetric.
- The crop starts as the whole image (the identity), as in the paper's other experiments.
- "Activations" of the encoder are what its layers give: those behind ReLU and pooling, and those of the last layer
  before the softmax. Most of them are the first layer's, which would dominate the distance; squared distances are in
  the thousands, against a margin of 1. `Encoder` can balance the layers.
- Initialisation: see `layers.initialise`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from stn_triton.modules import SpatialTransformer, check_at_least

from . import layers


class CoLocaliser(nn.Module):
    """One attention transformer: images (N, C, s, s) -> crops (N, C, c, c), theta (N, 3) = (s, tx, ty).

    Convention: theta maps coordinates of the crop to coordinates of the image, normalised to
    [-1, 1] in (x, y) order: the box is [tx - s, tx + s] x [ty - s, ty + s].
    """

    def __init__(self, transformer: SpatialTransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, *, hold_scale: bool = False) -> tuple[Tensor, Tensor]:
        """(crop, theta); with hold_scale no gradient passes through s."""
        theta = self.transformer.localise(x)
        if hold_scale:
            theta = torch.cat((theta[:, :1].detach(), theta[:, 1:]), 1)
        return self.transformer.sample(x, theta), theta


def colocaliser(
    *,
    in_channels: int = 1,
    image_size: int = 84,
    crop_size: int = 28,
    width: int = 8,
    initial_scale: float = 1.0,
    antialias: bool = False,
) -> CoLocaliser:
    """(N, in_channels, s, s) -> (crop (N, in_channels, c, c), theta (N, 3)).

    The localiser: conv 9x9 with stride 4, maximum of 2x2, two fully connected layers.

    crop_size: c; the crop must fit the encoder.
    width: filters and units of each layer of the localiser.
    initial_scale: side of the crop relative to the image's, before any training.
    antialias: as in `st_sample`; the paper samples without.

    Raises:
        ValueError: images below 13 pixels.
    """
    check_at_least("image_size", image_size, 13)
    side = ((image_size - 9) // 4 + 1) // 2
    localisation = nn.Sequential(
        nn.Conv2d(in_channels, width, 9, stride=4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *layers.fcn_localisation(width * side**2, width, layers=2),
    )
    return CoLocaliser(
        SpatialTransformer(
            layers.initialise(localisation),
            (crop_size, crop_size),
            in_features=width,
            transform="attention",
            initial_theta=[initial_scale, 0.0, 0.0],
            antialias=antialias,
        )
    )


class Encoder(nn.Module):
    """The encoder e(): images -> (N, F), the outputs of all layers of a trained network, side by side.

    The network is copied, frozen and always in evaluation mode; gradients pass to the images.

    Arguments:
        network: a sequence of layers, such as `create_model("mnist_cnn", image_size=28)` trained
            on digits.
        balance: None for the activations as they are; a number to scale those of every layer so
            that it adds to a squared distance this number times the mean, not the sum, of its
            squared differences.

    Raises:
        TypeError: not a sequence of modules.
        ValueError: a balance that is not above 0.
    """

    def __init__(self, network: nn.Module, *, balance: float | None = None) -> None:
        super().__init__()
        if not isinstance(network, nn.Sequential):
            raise TypeError(f"network must be an nn.Sequential, got {type(network).__name__}")
        if balance is not None and not 0 < balance < math.inf:
            raise ValueError(f"balance must be above 0, got {balance}")
        self.balance = balance
        self.network = copy.deepcopy(network)
        self.network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """As of any module, but the network inside stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, h, w) -> (N, F)."""
        features: list[Tensor] = []
        for layer in self.network:
            x = layer(x)
            own = x.flatten(1)
            features.append(
                own if self.balance is None else own * (self.balance / own.shape[1]) ** 0.5
            )
        return torch.cat(features, 1)


def colocalisation_loss(
    encode: Callable[[Tensor], Tensor],
    crops: Tensor,
    random_crops: Tensor,
    margin: float = 1.0,
    alike: float = 1.0,
) -> Tensor:
    """The triplet loss, summed over all ordered pairs of images.

    sum over n and m != n of max(0, alike |e(crop n) - e(crop m)|² - |e(crop n) - e(random crop n)|²
    + margin). Differentiable in the crops, in the random crops and in what `encode` has to train.

    Arguments:
        encode: e(), (N, C, h, w) -> (N, F); see `Encoder`.
        margin: the paper's alpha.
        alike: how much it counts that crops are alike, beside that they are unlike random ones. The paper has 1. Less
            in the beginning of training keeps crops from agreeing on empty background.

    Shapes: crops and random_crops (N, C, h, w), a random crop of each image -> (); 0 for one image.
    Differences of all pairs are held at once, N² F numbers.

    Raises:
        ValueError: crops and random crops of different shapes.

    Source: Jaderberg et al. 2015, appendix A.2.
    """
    if crops.shape != random_crops.shape:
        raise ValueError(
            "random_crops must be one for each crop, of the same shape "
            f"{tuple(crops.shape)}, got {tuple(random_crops.shape)}"
        )
    codes, others = (_wide(encode(images)) for images in (crops, random_crops))
    between = _squared_norm(codes.unsqueeze(1) - codes)
    to_random = _squared_norm(codes - others)
    hinge = (alike * between - to_random.unsqueeze(1) + margin).relu()
    return hinge.sum() - hinge.diagonal().sum()


def _wide(codes: Tensor) -> Tensor:
    """Codes in float32 at least, also under autocast, since small differences of large sums matter."""
    return codes.to(torch.promote_types(codes.dtype, torch.float32))


def _squared_norm(difference: Tensor) -> Tensor:
    return difference.square().sum(-1)


MODELS: dict[str, Callable[..., nn.Module]] = {"colocalisation": colocaliser}
