"""Inception with batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167, figure 5 of the appendix).

The network that Jaderberg et al. 2015 start from for birds (section 4.3, appendix A.6), up to its
last feature map: the global pooling and the 1000 classes are left out. Numbers of filters are those
of the published table. Its column of output sizes contradicts them in one place: 4c and 4d have 608
channels by their filters, and 576 by that column. The filters are followed, as in the Caffe and MXNet
models. The first convolution is an ordinary one, not a separable one. Convolutions have no biases,
which the normalisation would undo.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Widths(NamedTuple):
    """Filters of one module, named as in torchvision. Where `ch1x1` and `pool_proj` are 0, it halves the map."""

    ch1x1: int  # 1x1
    ch3x3_red: int  # 1x1 before 3x3
    ch3x3: int  # 3x3
    ch3x3dbl_red: int  # 1x1 before the pair of 3x3
    ch3x3dbl: int  # each of the pair
    pool_proj: int  # 1x1 after the pooling
    pooling: str = "average"


MODULES = {
    "3a": Widths(64, 64, 64, 64, 96, 32),
    "3b": Widths(64, 64, 96, 64, 96, 64),
    "3c": Widths(0, 128, 160, 64, 96, 0, "maximum"),
    "4a": Widths(224, 64, 96, 96, 128, 128),
    "4b": Widths(192, 96, 128, 96, 128, 128),
    "4c": Widths(160, 128, 160, 128, 160, 128),
    "4d": Widths(96, 128, 192, 160, 192, 128),
    "4e": Widths(0, 128, 192, 192, 256, 0, "maximum"),
    "5a": Widths(352, 192, 320, 160, 224, 128),
    "5b": Widths(352, 192, 320, 192, 224, 128, "maximum"),
}


class InceptionModule(nn.Module):
    """Branches side by side: (N, C, h, w) -> (N, `self.filters`, h, w), or h / 2 and w / 2."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        stride = 1 if widths.ch1x1 else 2
        branches: list[nn.Module] = []
        if widths.ch1x1:
            branches.append(_convolution(in_channels, widths.ch1x1, 1))
        branches += [
            nn.Sequential(
                _convolution(in_channels, widths.ch3x3_red, 1),
                _convolution(widths.ch3x3_red, widths.ch3x3, 3, stride),
            ),
            nn.Sequential(
                _convolution(in_channels, widths.ch3x3dbl_red, 1),
                _convolution(widths.ch3x3dbl_red, widths.ch3x3dbl, 3),
                _convolution(widths.ch3x3dbl, widths.ch3x3dbl, 3, stride),
            ),
            _pooling(in_channels, widths, stride),
        ]
        self.branches = nn.ModuleList(branches)
        pooled = widths.pool_proj or in_channels
        self.filters = widths.ch1x1 + widths.ch3x3 + widths.ch3x3dbl + pooled

    def forward(self, x: Tensor) -> Tensor:
        """All branches, joined."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Inception(nn.Sequential):
    """(N, in_channels, 224, 224) -> feature maps (N, 1024, 7, 7); 10.3 million parameters.

    Other sizes work, too: the map is 1/32 of the image, rounded up.

    Source: Ioffe & Szegedy 2015.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(
            _convolution(in_channels, 64, 7, 2),
            _halving(),
            _convolution(64, 64, 1),
            _convolution(64, 192, 3),
            _halving(),
        )
        filters = 192
        for name, widths in MODULES.items():
            module = InceptionModule(filters, widths)
            self.add_module(name, module)
            filters = module.filters
        self.num_features = filters


def _convolution(in_channels: int, filters: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, filters, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(inplace=True),
    )


def _halving() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _pooling(in_channels: int, widths: Widths, stride: int) -> nn.Module:
    """The branch that pools. Where the module halves the map, no convolution follows the pooling."""
    if stride == 2:
        return _halving()
    pooling = nn.AvgPool2d if widths.pooling == "average" else nn.MaxPool2d
    return nn.Sequential(pooling(3, 1, padding=1), _convolution(in_channels, widths.pool_proj, 1))
