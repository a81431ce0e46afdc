"""Digits whose brightness tells their label, seeded generators, and checks of where ink lies."""

from __future__ import annotations

import torch
from torch import Tensor

from architectures.data import Digits


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def telling_digits(per_class: int = 3) -> Digits:
    """Strokes of two bars whose brightness tells their label, somewhere in the middle 20 pixels."""
    labels = torch.arange(10).repeat(per_class)
    images = torch.zeros(len(labels), 28, 28, dtype=torch.uint8)
    for number, label in enumerate(labels.tolist()):
        top = 5 + number % 4
        images[number, top : top + 14, 9:13] = 25 * (label + 1)
        images[number, top + 10 : top + 14, 9:20] = 25 * (label + 1)
    return Digits(images=images, labels=labels)


DIGITS = telling_digits()


def uniformly(values: Tensor, low: float, high: float) -> None:
    """Checks that values lie within [low, high], with the deciles of a uniform distribution."""
    assert low - 1e-3 <= values.min()
    assert values.max() <= high + 1e-3
    share = torch.linspace(0.1, 0.9, 9, dtype=values.dtype)
    wanted = low + (high - low) * share
    assert (values.quantile(share) - wanted).abs().max() < 0.05 * (high - low)


def centroid(maps: Tensor) -> Tensor:
    """(N, 1, h, w) -> (N, 2): the centre of mass, x and y in pixels."""
    mass = maps[:, 0].double() / maps.double().sum((1, 2, 3))[:, None, None]
    x = (mass.sum(1) * torch.arange(maps.shape[3])).sum(1)
    y = (mass.sum(2) * torch.arange(maps.shape[2])).sum(1)
    return torch.stack((x, y), 1)
