"""Random thetas for whole batches: rotation, scale and place, four moved corners, an elastic lattice.

All is drawn on the generator's device. Paper: section 4.1 and appendix A.4 (R, RTS, P, E).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stn_triton import identity_theta, st_sample

from .digits import Digits

_CORNER_DRAWS = 8
_LEAST_AREA = 0.2
"""A corner that was moved must keep this share of the triangle that it spans with its neighbours."""


def uniform(low: float, high: float, n: int, generator: torch.Generator) -> Tensor:
    """n float32 values from [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(n, generator=generator, device=generator.device)


def _checked_scale(scale: tuple[float, float]) -> tuple[float, float]:
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {scale}")
    return low, high


def _check_deviation(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


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
    below 1 allows only this share of the places, around the middle; at 0 all ink is in the middle.

    Shapes: images (N, 1, H, W), on the generator's device -> theta (N, 2, 3) float32. The sum of an
    image's pixels grows by about scale².

    Raises:
        ValueError: images that are not (N, 1, H, W), a scale that is no range above 0.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 4.1 and appendix A.4 (RTS: ±45
    degrees, scale 0.7 to 1.2, a random place on 42 x 42).
    """
    if images.dim() != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be (N, 1, H, W), got {tuple(images.shape)}")
    n = len(images)
    angle = uniform(-math.radians(degrees), math.radians(degrees), n, generator)
    factor = uniform(*_checked_scale(scale), n, generator)
    rows = (torch.stack((angle.cos(), -angle.sin()), 1), torch.stack((angle.sin(), angle.cos()), 1))
    forward = (
        torch.stack(rows, 1) * factor[:, None, None]
    )  # image -> canvas, in pixels from centres

    low, high = ink_bounds(images, forward)
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


def ink_bounds(images: Tensor, forward: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest coordinates (N, axes) of ink that matrices (N, axes, 2) transformed.

    Coordinates are in pixels from the centre; they are 0 for an image without ink.
    """
    _, _, h, w = images.shape
    ink = images[:, 0] > 0
    # The outermost ink in any direction is the first or the last of a row. Columns are counted from 1, from either
    # side, so that 0 is a row without ink; products in bytes cost a quarter of `torch.where`.
    kind = torch.uint8 if w < 256 else torch.int64
    column = torch.arange(1, w + 1, device=images.device, dtype=kind)
    last = (ink * column).amax(2)
    first = w - (ink * column.flip(0)).amax(2)
    x = torch.cat((first, last - 1), 1) - (w - 1) / 2  # (N, 2 h)
    y = (torch.arange(h, device=images.device) - (h - 1) / 2).repeat(2)
    at = forward[..., :1] * x[:, None] + forward[..., 1:] * y
    blank = (last == 0).repeat(1, 2)[:, None]
    low = at.masked_fill(blank, math.inf).amin(2)
    high = at.masked_fill(blank, -math.inf).amax(2)
    # Bilinear sampling spreads a pixel over one pixel to each side, along the image's axes.
    reach = forward.abs().sum(2)
    empty = blank.all(2)
    return (low - reach).masked_fill(empty, 0), (high + reach).masked_fill(empty, 0)


def rotation_theta(n: int, *, generator: torch.Generator, degrees: float = 90.0) -> Tensor:
    """Draw thetas (n, 2, 3) that rotate square images about their middle, by [-degrees, degrees].

    Source: Jaderberg et al. 2015, appendix A.4 (R).
    """
    angle = uniform(-math.radians(degrees), math.radians(degrees), n, generator)
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack((cos, sin, none, -sin, cos, none), 1).unflatten(1, (2, 3))


def projective_theta(
    n: int,
    image_size: tuple[int, int],
    canvas: tuple[int, int],
    *,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.75, 1.0),
    corner_std: float = 5.0,
) -> Tensor:
    """Draw the homographies that scale images about the canvas's middle and then move each of their corners.

    Convention: theta maps canvas to image coordinates, both normalised, as `st_sample` takes it. The scale is uniform
    in `scale`; every corner is then moved by N(0, corner_std) canvas pixels along x and along y.

    Corners are drawn again (6 % of the images) where one is nearly in line with its neighbours, or behind that line:
    there a homography squeezes a digit to a speck, or tears it. If none of a fixed number of draws will do, which has a
    chance of 1e-8, they stay unmoved.

    Shapes: -> (n, 8) float32, row-major with h33 = 1.

    Source: Jaderberg et al. 2015, appendix A.4 (P); that such corners are drawn again is ours.
    """
    _check_deviation("corner_std", corner_std)
    device = generator.device
    corners = torch.tensor([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)], device=device)
    frame = (
        corners * torch.tensor(image_size[::-1], device=device) / 2
    )  # canvas pixels from its middle
    frame = frame * uniform(*_checked_scale(scale), n, generator)[:, None, None]
    noise = torch.randn(n, _CORNER_DRAWS, 4, 2, generator=generator, device=device) * corner_std
    noise[:, -1] = 0
    moved = frame[:, None] + noise
    first = _is_convex(moved, frame[:, None]).byte().argmax(1)  # the first of equal maxima
    chosen = moved[torch.arange(n, device=device), first]
    return homography_theta(chosen / (torch.tensor(canvas[::-1], device=device) / 2), corners)


def _is_convex(corners: Tensor, frame: Tensor) -> Tensor:
    """Whether each corner (..., 4, 2) keeps enough of the triangle that it spans with its neighbours."""

    def turns(points: Tensor) -> Tensor:
        edge = points.roll(-1, -2) - points
        following = edge.roll(-1, -2)
        return edge[..., 0] * following[..., 1] - edge[..., 1] * following[..., 0]

    return (turns(corners) > _LEAST_AREA * turns(frame)).all(-1)


def homography_theta(points: Tensor, images: Tensor) -> Tensor:
    """The homographies (N, 8), h33 = 1, that take four points each (N, 4, 2) to four others ([N,] 4, 2).

    Two linear equations a point: the first row times (x, y, 1) is X times the third, the second likewise for Y.
    """
    x, y = points.double().unbind(-1)
    wanted = images.double().expand_as(points)
    one, none = torch.ones_like(x), torch.zeros_like(x)
    rows = []
    for target, lead in zip(
        wanted.unbind(-1),
        ((x, y, one, none, none, none), (none, none, none, x, y, one)),
        strict=True,
    ):
        rows.append(torch.stack((*lead, -x * target, -y * target), -1))
    matrix, right = torch.cat(rows, 1), torch.cat(wanted.unbind(-1), 1)
    return torch.linalg.solve(matrix, right).float()


def bend_digits(digits: Digits, *, generator: torch.Generator, std: float) -> Digits:
    """Bend every digit a little, as if others had written it: a few thousand digits then teach what more would.

    Each point of a 4 x 4 lattice over the image reads N(0, std) pixels further on, along x and along y, and a
    thin-plate spline bends the rest. Labels stay. The digits must be on the generator's device.
    """
    size = (digits.images.shape[1], digits.images.shape[2])
    theta = elastic_theta(
        len(digits), size, size, generator=generator, scale=(1.0, 1.0), point_std=std
    )
    bent = st_sample(digits.images.unsqueeze(1).float(), theta, size, transform="tps")
    return Digits(images=bent.squeeze(1).round().to(torch.uint8), labels=digits.labels)


def elastic_theta(
    n: int,
    image_size: tuple[int, int],
    canvas: tuple[int, int],
    *,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.75, 1.0),
    point_std: float = 1.5,
    grid: int = 4,
) -> Tensor:
    """Draw the thin-plate splines that scale images about the canvas's middle and distort them elastically.

    Convention: theta holds where in the image the canvas's lattice of control points reads, normalised, as
    `st_sample` takes it. The scale is uniform in `scale`; each control point then reads N(0, point_std) image pixels
    further on, along x and along y.

    Shapes: -> (n, grid², 2) float32.

    Source: Jaderberg et al. 2015, appendix A.4 (E). The paper does not say on which side the points are moved; here
    it is the image's, the side that theta is about.
    """
    _check_deviation("point_std", point_std)
    device = generator.device
    lattice = identity_theta("tps", (n,), control_points=grid, dtype=torch.float32, device=device)
    ratio = torch.tensor(canvas[::-1], device=device) / torch.tensor(
        image_size[::-1], device=device
    )
    noise = torch.randn(lattice.shape, generator=generator, device=device) * point_std
    pixel = 2 / torch.tensor(image_size[::-1], device=device)
    return (
        lattice * ratio / uniform(*_checked_scale(scale), n, generator)[:, None, None]
        + noise * pixel
    )
