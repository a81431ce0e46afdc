"""The operation written out: equations 1 to 5 of the paper, one step after the other, in the dtype of theta.

Nothing here is shared with `stn_triton` or with `grid_sample`. Gradients come from autograd and are the
contract's: the tap indices are constants, so that at a whole coordinate the slope is the one to the right; a
coordinate that "border" moves, or that is not finite, is a constant too.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


def matrix_of(theta: Tensor, transform: str) -> Tensor:
    """Equations 1 and 2: (..., 2, 3)."""
    if transform == "affine":
        return theta
    scale, tx, ty = theta.unbind(-1)
    zero = torch.zeros_like(scale)
    rows = torch.stack((scale, zero, tx), -1), torch.stack((zero, scale, ty), -1)
    return torch.stack(rows, -2)


def coordinates(
    theta: Tensor, in_size: tuple[int, int], out_size: tuple[int, int], transform: str, align: bool
) -> tuple[Tensor, Tensor]:
    """Equation 1: source coordinates in pixel units, x and y, each (N, [K,] h, w)."""
    rows = matrix_of(theta, transform)[..., None, None, :, :]
    (big_h, big_w), (h, w) = in_size, out_size
    dx = torch.arange(w).to(theta) - (w - 1) / 2
    dy = (torch.arange(h).to(theta) - (h - 1) / 2)[:, None]
    extents = []  # of the output, in pixels: the distance of -1 from 1
    for size in (w, h):
        extents.append(max(size - 1, 1) if align else size)
    found = []
    for row, size in zip(rows.unbind(-2), (big_w, big_h), strict=True):
        extent = size - 1 if align else size
        a, b, offset = row.unbind(-1)
        normalised = a * (2 * dx / extents[0]) + b * (2 * dy / extents[1]) + offset
        found.append(normalised * (extent / 2) + (size - 1) / 2)
    return found[0], found[1]


def padded(s: Tensor, size: int, padding_mode: str) -> Tensor:
    """The coordinate after padding, finite; constant where it does not follow `s`."""
    if padding_mode == "border":
        inside = (s > 0) & (s < size - 1)
        end = torch.where(s.detach() > 0, float(size - 1), 0.0).to(s)  # NaN: 0
        return torch.where(inside, s, end)
    return torch.where(s.isfinite(), s, -2.0)


def taps(s: Tensor, mode: str) -> list[tuple[Tensor, Tensor]]:
    """Equations 4 and 5 along one axis: (whole coordinate, weight) of each tap."""
    if mode == "nearest":
        at = s.detach().round()  # ties to even
        return [(at, torch.ones_like(at))]
    low = s.detach().floor()
    return [(low, 1 - (s - low)), (low + 1, s - low)]


def sample(
    u: Tensor,
    theta: Tensor,
    out_size: tuple[int, int],
    *,
    transform: str = "affine",
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Equation 3: (N, [K,] C, h, w), in the dtype of `u`, which is that of `theta`."""
    n, channels, height, width = u.shape
    sx, sy = coordinates(theta, (height, width), out_size, transform, align_corners)
    sx, sy = padded(sx, width, padding_mode), padded(sy, height, padding_mode)
    image = torch.arange(n, device=u.device).view(-1, *[1] * (sx.dim() - 1))
    pixels = u.movedim(1, -1)
    result = u.new_zeros((*sx.shape, channels))
    for (iy, wy), (ix, wx) in product(taps(sy, mode), taps(sx, mode)):
        exists = (ix >= 0) & (ix <= width - 1) & (iy >= 0) & (iy <= height - 1)
        x, y = ix.clamp(0, width - 1).long(), iy.clamp(0, height - 1).long()
        weight = torch.where(exists, wx * wy, 0.0)
        result = result + weight.unsqueeze(-1) * pixels[image, y, x]
    return result.movedim(-1, -3)
