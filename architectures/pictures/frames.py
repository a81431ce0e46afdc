"""Where on an image a transformation samples: the outline of its output, and lines inside, in pixels of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stn_triton import sampling_grid

_FINE = 33
"""Points along a side of an outline that bends."""
_LINES = 5
"""Lines of the lattice along each side of a frame that bends, including the two edges."""


def frame_corners(theta: Tensor, size: tuple[int, int], transform: str, **options: Any) -> Tensor:
    """The closed outline of a transformer's frame on its input, from the output's upper left corner, clockwise.

    Convention: theta maps output to input coordinates, normalised, (x, y); pixel centres lie on whole numbers.
    Shapes: theta (N, [K,] *theta shape), size (H, W) of the input -> (N, [K,] P, 2), x and y in pixels; P is 5, the
    corners and the first one again, where straight lines stay straight, and more for the transforms that bend them.
    options: `align_corners` and whatever else `sampling_grid` takes. The outline is that of the output's outermost
    coordinates, -1 and 1: its edges, or with `align_corners=True` the centres of its outermost pixels.
    """
    points = _points(theta, size, transform, 2 if _keeps_straight(transform) else _FINE, options)
    return _outline(points)


def frame_lines(theta: Tensor, size: Sequence[int], transform: str, **options: Any) -> list[Tensor]:
    """The outline of a transformer's frame on its input, and the lines of a lattice in it where the inside bends.

    Convention: as `frame_corners`; of volumes, the edges of the frame as they look along the depth.
    Shapes: theta (N, *theta shape), size ([D,] H, W) -> lines (N, P, 2).
    """
    if len(size) == 3:
        return _box_edges(theta, size, transform, options)
    plane = (size[0], size[1])
    lines = [frame_corners(theta, plane, transform, **options)]
    if transform in ("affine", "attention"):
        return lines
    points = _points(theta, plane, transform, _FINE, options)  # (N, rows, columns, 2)
    step = (_FINE - 1) // (_LINES - 1)
    inside = slice(step, -1, step)
    return [*lines, *points[:, inside].unbind(1), *points[:, :, inside].unbind(2)]


def _keeps_straight(transform: str) -> bool:
    return transform in ("affine", "attention", "projective")


def _points(
    theta: Tensor, size: Sequence[int], transform: str, side: int, options: dict[str, Any]
) -> Tensor:
    """Where a lattice over the whole output lies on an image of this size: (N, [K,] side, ..., 2 or 3), in pixels."""
    aligned = options.get("align_corners", False)
    known = {name: value for name, value in options.items() if name != "align_corners"}
    # Here align_corners=True only makes a lattice from -1 to 1. What -1 and 1 are in pixels, the options say.
    at = sampling_grid(theta, (side,) * len(size), transform=transform, align_corners=True, **known)
    lengths = at.new_tensor(tuple(reversed(size)))
    return (at + 1) * (lengths - 1) / 2 if aligned else ((at + 1) * lengths - 1) / 2


def _outline(points: Tensor) -> Tensor:
    """The edges of a lattice (..., rows, columns, 2), one after the other, clockwise and closed."""
    parts = (
        points[..., 0, :-1, :],
        points[..., :-1, -1, :],
        points[..., -1, 1:, :].flip(-2),
        points[..., :, 0, :].flip(-2),
    )
    return torch.cat(parts, -2)


def _box_edges(
    theta: Tensor, size: Sequence[int], transform: str, options: dict[str, Any]
) -> list[Tensor]:
    """The edges of 3-D frames in x and y: the near face, the far one, and what joins them."""
    corners = _points(theta, size, transform, 2, options)[
        ..., :2
    ]  # (N, near and far, rows, columns, 2)
    near, far = (_outline(face) for face in corners.unbind(1))
    joins = [torch.stack((near[:, i], far[:, i]), 1) for i in range(4)]
    return [near, far, *joins]
