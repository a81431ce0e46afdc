"""Random thetas of every transform, and the sizes that they are used with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stn_triton import identity_theta
from stn_triton.transforms import TRANSFORMS

SPACES = [(name, ndim) for name, entry in TRANSFORMS.items() for ndim in entry.ndims]
SIZE = {2: (7, 9), 3: (4, 6, 5)}
OUT = {2: (5, 8), 3: (3, 4, 6)}
F64 = torch.float64


def draw(
    transform: str, *outer: int, ndim: int = 2, spread: float = 0.2, dtype: Any = F64
) -> Tensor:
    theta = identity_theta(transform, outer, ndim=ndim, dtype=dtype)
    return theta + spread * torch.randn_like(theta)


def apply(theta: Tensor, points: Tensor) -> Tensor:
    """Equation 1: (..., d, d + 1) and points (..., P, d) -> (..., P, d)."""
    return points @ theta[..., :-1].mT + theta[..., :, -1].unsqueeze(-2)
