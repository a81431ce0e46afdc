"""Digits as solid bodies somewhere in a volume: 3-D MNIST (Jaderberg et al. 2015, appendix A.3).

The paper gives neither the depth of a body nor the range of its rotation. Both are options, whose defaults are ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stn_triton import st_sample

from .digits import Digits, draw_digits
from .distort import ink_bounds, uniform


def volume_batch(
    digits: Digits,
    n: int,
    *,
    generator: torch.Generator,
    volume: tuple[int, int, int] = (60, 60, 60),
    depth: int = 8,
    degrees: float = 45.0,
    difficulty: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Digits extruded along z to bodies, rotated in 3-D and placed at random in a black volume.

    The rotation is one about x, then y, then z, by angles uniform in [-degrees, degrees]. The place is uniform over
    those where all of the body's ink is in the volume; along an axis where the body is too long it is the middle. At a
    `difficulty` below 1 bodies are turned and moved less, in proportion; at 0 they stand upright in the middle.

    Shapes: volumes (n, 1, *volume) float32 in [0, 1], axes (z, y, x); labels (n,) int64. `depth` in voxels.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), appendix A.3; depth, degrees and difficulty are ours.
    """
    images, labels = draw_digits(digits, n, generator=generator)
    rotation = _rotation(n, difficulty * degrees, generator)
    low, high = ink_bounds(images, rotation[:, :, :2])
    # Along z a body has ink from end to end, and sampling spreads it by one voxel, as along x and y.
    reach = rotation[:, :, 2].abs() * (depth + 1) / 2
    low, high = low - reach, high + reach

    size = torch.tensor(volume[::-1], device=images.device)  # x first, as all that follows
    room = (size - (high - low)).clamp(min=0)
    place = torch.rand(n, 3, generator=generator, device=images.device) - 0.5
    middle = size / 2 + difficulty * place * room  # of the ink, from the volume's corner
    centre = middle - (low + high) / 2  # of the body

    # Only a cube around the middle is sampled, which holds the ink however the body is turned.
    side = math.ceil(math.hypot(*(length + 1 for length in (*images.shape[2:], depth)))) + 1
    cube = [min(side, length) for length in volume]
    extent = torch.tensor(cube[::-1], device=images.device)
    corner = (
        (middle - extent / 2)
        .round()
        .long()
        .clamp(min=torch.zeros_like(size))
        .minimum(size - extent)
    )
    theta = _theta(rotation, centre - (corner + extent / 2), (depth, *images.shape[2:]), extent)
    body = images.unsqueeze(2).expand(-1, -1, depth, -1, -1)
    sampled = st_sample(body, theta, cube)

    x, y, z = (
        corner[:, axis, None] + torch.arange(length, device=images.device)
        for axis, length in enumerate(cube[::-1])
    )
    number = torch.arange(n, device=images.device)[:, None, None, None]
    result = images.new_zeros(n, *volume)
    result[number, z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]] = sampled[:, 0]
    return result.unsqueeze(1), labels


def _theta(rotation: Tensor, centre: Tensor, body: tuple[int, ...], extent: Tensor) -> Tensor:
    """Thetas (n, 3, 4) that sample rotated bodies of shape (d, h, w).

    centre (n, 3): of each body, from the middle of what is sampled, in voxels. extent (3,): the size of that.
    """
    half = torch.tensor(body[::-1], device=rotation.device)[:, None] / 2
    inverse = rotation.mT
    return torch.cat((inverse * extent / 2, -(inverse @ centre[:, :, None])), 2) / half


def _rotation(n: int, degrees: float, generator: torch.Generator) -> Tensor:
    """(n, 3, 3), body -> volume in (x, y, z): about x, then y, then z."""
    product = torch.eye(3, device=generator.device).expand(n, 3, 3)
    for axis in range(3):
        angle = uniform(-math.radians(degrees), math.radians(degrees), n, generator)
        turn = torch.eye(3, device=generator.device).repeat(n, 1, 1)
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn[:, one, one] = turn[:, other, other] = angle.cos()
        turn[:, other, one], turn[:, one, other] = angle.sin(), -angle.sin()
        product = turn @ product
    return product
