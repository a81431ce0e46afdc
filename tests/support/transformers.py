"""Small transformers with a localisation network, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stn_triton import SpatialTransformer

N, C, H, W = 3, 2, 9, 7
FEATURES = 5
AFFINE_IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
TILTED = [[0.8, 0.3, 0.1], [-0.2, 0.7, -0.15]]
INTO_THE_DARK = [[1.5, 0.3, 0.6], [-0.2, 1.4, -0.5]]


def localisation(channels: int = C, features: int = FEATURES) -> nn.Module:
    """For images of any size."""
    pool = nn.AdaptiveAvgPool2d(3)
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(9 * channels, features), nn.Tanh())


def transformer(out_size: Any = None, **options: Any) -> SpatialTransformer:
    return SpatialTransformer(localisation(), out_size, in_features=FEATURES, **options)


def trained(out_size: Any = None, **options: Any) -> SpatialTransformer:
    """One whose theta depends on the image, as after some training."""
    module = transformer(out_size, **options)
    nn.init.normal_(module.regression.weight, std=0.2)
    return module


def images(*lead: int, h: int = H, w: int = W, **options: Any) -> Tensor:
    return torch.rand(*(lead or (N, C)), h, w, **options)


def volume_transformer(out_size: Any = None, **options: Any) -> SpatialTransformer:
    pool = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten())
    return SpatialTransformer(pool, out_size, in_features=8 * C, **options)
