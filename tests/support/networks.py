"""Small versions of the paper's networks, and how their parameters are counted."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from architectures import create_model

TRANSFORMS = {"affine": 6, "projective": 8, "tps": 32}


def tiny_backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU())


CUB = {"crop_size": 16, "image_size": 32, "backbone": tiny_backbone, "backbone_features": 6}
SVHN = {"image_size": 32, "width": 0.05, "localisation_width": 4, "dropout": 0.0}


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)
