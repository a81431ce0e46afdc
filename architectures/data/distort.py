"""Random rotation, scale and place for whole batches, drawn and applied on the batch's device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stn_triton import st_sample


def uniform(low: float, high: float, n: int, generator: torch.Generator) -> Tensor:
    """n float32 values from [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def rts_theta(
    images: Tensor,
    canvas: tuple[int, int],
    *,
    generator: torch.Generator,
    degrees: float = 45.0,
    scale: tuple[float, float] = (0.7, 1.2),
    spread: float = 1.0,
) -> Tensor:
    """Draw the thetas that rotate, scale and place each image on a canvas.

    Convention: theta maps canvas coordinates to image coordinates, both normalised to [-1, 1] in
    (x, y) order, pixel centres half a pixel inside (`align_corners=False`). An image that is to be
    twice as large therefore has theta entries half as large.

    The angle is uniform in [-degrees, degrees], the scale (canvas pixels per image pixel) uniform
    in `scale`, and the place uniform over those where the whole of the image's ink stays on the
    canvas; ink is what is above 0. Ink too large for the canvas is put in its middle. A `spread`
    below 1 keeps to that part of the places around the middle: at 0 all ink is in the middle.

    Shapes: images (N, 1, H, W), on the generator's device -> theta (N, 2, 3) float32. Each sum of
    pixels grows by about scale².

    Raises:
        ValueError: images that are not (N, 1, H, W).

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 4.1 and appendix A.4 (RTS: ±45
    degrees, scale 0.7 to 1.2, a random place on 42 x 42).
    """
    if images.dim() != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be (N, 1, H, W), got {tuple(images.shape)}")
    n = len(images)
    angle = uniform(-math.radians(degrees), math.radians(degrees), n, generator)
    factor = uniform(*scale, n, generator)
    rows = (torch.stack((angle.cos(), -angle.sin()), 1), torch.stack((angle.sin(), angle.cos()), 1))
    forward = (
        torch.stack(rows, 1) * factor[:, None, None]
    )  # image -> canvas, in pixels from centres

    low, high = _ink_bounds(images, forward)
    half = torch.tensor((canvas[1], canvas[0]), device=images.device) / 2
    first, last = -half - low, half - high  # ink's corners at the canvas's edges
    room = (last - first).clamp(min=0) * spread
    place = torch.stack([uniform(0.0, 1.0, n, generator) for _ in range(2)], 1)
    shift = (first + last) / 2 + (place - 0.5) * room

    inverse = forward.mT / factor[:, None, None] ** 2
    image_half = torch.tensor((images.shape[3], images.shape[2]), device=images.device) / 2
    linear = inverse * half / image_half[:, None]
    offset = -(inverse @ shift[:, :, None]) / image_half[:, None]
    return torch.cat((linear, offset), 2)


def rts(
    images: Tensor,
    canvas: tuple[int, int] = (42, 42),
    *,
    generator: torch.Generator,
    degrees: float = 45.0,
    scale: tuple[float, float] = (0.7, 1.2),
    spread: float = 1.0,
) -> Tensor:
    """Rotate, scale and place images at random (`rts_theta`): (N, 1, H, W) -> (N, 1, *canvas)."""
    theta = rts_theta(
        images, canvas, generator=generator, degrees=degrees, scale=scale, spread=spread
    )
    return st_sample(images, theta, canvas)


def _ink_bounds(images: Tensor, forward: Tensor) -> tuple[Tensor, Tensor]:
    """Where the transformed ink begins and ends, in canvas pixels from its centre: 2 x (N, 2)."""
    _, _, h, w = images.shape
    y, x = torch.meshgrid(
        torch.arange(h, device=images.device) - (h - 1) / 2,
        torch.arange(w, device=images.device) - (w - 1) / 2,
        indexing="ij",
    )
    at = forward @ torch.stack((x.flatten(), y.flatten()))  # (N, 2, H * W)
    blank = images.flatten(1)[:, None] <= 0  # (N, 1, H * W)
    low = at.masked_fill(blank, math.inf).amin(2)
    high = at.masked_fill(blank, -math.inf).amax(2)
    # Bilinear sampling spreads a pixel over one pixel to each side, along the image's axes.
    reach = forward.abs().sum(2)
    empty = blank.all(2)
    return (low - reach).masked_fill(empty, 0), (high + reach).masked_fill(empty, 0)
