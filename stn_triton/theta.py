"""Thetas made, joined and inverted, and what they do to a frame.

Convention of the whole file: theta maps OUTPUT coordinates to SOURCE coordinates, both normalised to [-1, 1] in
(x, y[, z]) order. Everything is differentiable and waits for no device. Results are float32, or float64 where an
argument is; products are summed entry by entry, so that neither autocast nor TF32 rounds them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_name, check_theta, checked_size
from .control_points import ControlPoints, checked_points, points_or_usual
from .matrices import composed, inverted, product, widened
from .tracing import comparing_shapes
from .transforms import TRANSFORMS, output_axes

LINEAR = tuple(name for name, entry in TRANSFORMS.items() if entry.matrix is not None)
"""The transforms that are an affine map."""
WITH_MATRIX = tuple(name for name, e in TRANSFORMS.items() if e.matrix or e.homography)
"""Those and homographies."""


def sampling_grid(
    theta: Tensor,
    out_size: Sequence[int],
    *,
    transform: str = "affine",
    align_corners: bool = False,
    control_points: ControlPoints = None,
) -> Tensor:
    """Where `st_sample` samples: the source coordinates of every output pixel, as `affine_grid` gives them.

    Convention: normalised source coordinates, (x, y[, z]) in the last axis. -1 and 1 are the outer edges of the corner
        pixels, or with `align_corners=True` their centres.
    Shapes: theta (N, [K,] *theta shape) and control_points as in `st_sample`, out_size (h, w) or (d, h, w)
        -> (N, [K,] *out_size, 2 or 3), float32 or float64. Infinite where a homography's third coordinate is 0.

    Raises:
        TypeError: theta not a tensor of a float dtype; out_size not a sequence of ints.
        ValueError: a wrong shape or size, an unknown transform, `control_points` that it cannot follow.

    Source: Jaderberg et al. 2015, section 3.2 (equation 1).
    """
    size = checked_size(out_size)
    check_name("transform", transform, tuple(TRANSFORMS))
    wide = widened("theta", theta)
    entry = TRANSFORMS[transform]
    points = checked_points(control_points, transform, entry.lattice)
    check_theta(theta, transform, len(size), points)
    return entry.grid(wide, output_axes(size, align_corners, wide), points)


def identity_theta(
    transform: str,
    batch_shape: Sequence[int] = (),
    *,
    ndim: int = 2,
    control_points: ControlPoints = 4,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The theta that leaves an image as it is.

    Shapes: (*batch_shape, *theta shape): "affine" (ndim, ndim + 1), "attention" (1 + ndim,), "projective" (8,),
        "tps" and "piecewise_affine" (P, 2), the control points themselves, given as in `st_sample` (None: 4). The other
        transforms ignore `control_points`. dtype None: torch's default dtype.

    Raises:
        TypeError: a dtype that is not float; a batch_shape that is not a sequence.
        ValueError: an unknown transform, an `ndim` that it is not for, `control_points` that it cannot follow, a
            negative size.
    """
    check_name("transform", transform, tuple(TRANSFORMS))
    entry = TRANSFORMS[transform]
    check_name(f"ndim of transform {transform!r}", ndim, entry.ndims)
    points = points_or_usual(control_points, transform, entry.lattice)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a float dtype, got {dtype!r}")
    if not isinstance(batch_shape, Sequence) or not all(
        hasattr(length, "__index__") for length in batch_shape
    ):
        raise TypeError(f"batch_shape must be a sequence of ints, got {batch_shape!r}")
    if any(length < 0 for length in batch_shape):
        raise ValueError(f"batch_shape must not have negative sizes, got {tuple(batch_shape)}")
    device = torch.get_default_device() if device is None else device
    theta = entry.identity(ndim, points).to(device, dtype)
    return theta.repeat(*batch_shape, *[1] * theta.dim())


def to_affine(theta: Tensor, *, transform: str) -> Tensor:
    """The affine theta that does what a theta of another transform does.

    Shapes: attention (..., 3) or affine (..., 2, 3) -> (..., 2, 3); for volumes (..., 4) or (..., 3, 4) -> (..., 3, 4).

    Raises:
        TypeError: theta not a tensor of a float dtype.
        ValueError: a wrong shape, a transform that is not linear.

    Source: Jaderberg et al. 2015, equations 1 and 2.
    """
    check_name("transform", transform, LINEAR)
    return as_matrix("theta", theta, transform)


def compose(first: Tensor, second: Tensor, *, transform: str = "affine") -> Tensor:
    """The theta that does at once what sampling by `first`, and then that result by `second`, does in two steps.

    Convention: second maps the result's coordinates to those of the map in between, first maps these to the source's.
    Shapes: leading axes broadcast. "affine": (..., 2, 3) or (..., 3, 4) -> the same. "attention": (..., 3) or (..., 4)
        -> the same. "projective": each (..., 8) or (..., 3, 3) -> (..., 3, 3), the product of the two matrices, whose
        h33 may be of any size and sign.

    Raises:
        TypeError: not tensors of a float dtype.
        ValueError: a wrong shape, one for images and one for volumes; leading axes that do not broadcast; a transform
            that has no matrix.
    """
    check_name("transform", transform, WITH_MATRIX)
    outer = as_matrix("first", first, transform)
    inner = as_matrix("second", second, transform)
    if outer.shape[-2:] != inner.shape[-2:]:
        raise ValueError(
            "first and second must both be for images or both for volumes, "
            f"got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    for ours, theirs in zip(outer.shape[-3::-1], inner.shape[-3::-1], strict=False):
        if ours != theirs and 1 not in (ours, theirs):
            raise ValueError(
                f"first and second must have leading axes that broadcast, got {tuple(first.shape)} and "
                f"{tuple(second.shape)}"
            )
    if transform == "attention":
        (outer, shift), (inner, offset) = map(_scale_and_shift, (outer, inner))
        return torch.cat((outer * inner, outer * offset + shift), -1)
    return composed(outer, inner)


def invert(theta: Tensor, *, transform: str = "affine") -> Tensor:
    """The theta that undoes theta: it maps source coordinates to output coordinates.

    Usage: `st_sample(crop, invert(theta), (H, W))` pastes the crop `st_sample(image, theta, (h, w))` back to its place.

    Shapes: "affine": (..., 2, 3) or (..., 3, 4) -> the same. "attention": (..., 3) or (..., 4) -> the same.
        "projective": (..., 8) or (..., 3, 3) -> (..., 3, 3), the inverse of the matrix, whose h33 may be of any size
        and sign, or 0. Entries are not finite where theta is singular.

    Raises:
        TypeError: not a tensor of a float dtype.
        ValueError: a wrong shape, a transform that has no matrix.
    """
    check_name("transform", transform, WITH_MATRIX)
    matrix = as_matrix("theta", theta, transform)
    if transform == "attention":
        scale, shift = _scale_and_shift(matrix)
        return torch.cat((torch.ones_like(scale), -shift), -1) / scale
    return inverted(matrix)


def outside_penalty(theta: Tensor, *, transform: str = "affine") -> Tensor:
    """How far a transformer's frame leaves the image: 0 if it does not, and differentiable, so that a loss can hold it.

    The mean over the frame's corners of the squared distance to the image, in normalised units (the image is [-1, 1]
    wide); over the control points for "tps" and "piecewise_affine" (between its control points a thin-plate spline may
    still bulge a little). For "projective" distances are weighted by the corner's third coordinate relative to the
    centre's, and a corner with one of the other sign counts as outside: then the penalty is finite for every theta
    whose centre is, and 0 only if the whole frame is inside.

    Shapes: theta (N, [K,] *theta shape) as in `st_sample`, with any number of control points -> (N, [K]), float32 or
        float64.

    Raises:
        TypeError: theta not a tensor of a float dtype.
        ValueError: a wrong shape, an unknown transform.
    """
    check_name("transform", transform, tuple(TRANSFORMS))
    wide = widened("theta", theta)
    ndim, entry = theta_ndim(theta, transform), TRANSFORMS[transform]
    if entry.lattice is None:
        check_theta(theta, transform, ndim)
    elif theta.dim() not in (3, 4) or theta.shape[-1] != 2 or not theta.shape[-2]:
        raise ValueError(
            f"theta must be (N, P, 2) or (N, K, P, 2) for transform {transform!r}, got shape {tuple(theta.shape)}"
        )
    reach: Tensor | int = 1
    ends = torch.linspace(-1, 1, 2, dtype=wide.dtype, device=wide.device)
    if entry.lattice is not None:
        points = wide
    elif entry.homography is not None:
        matrix = entry.homography(wide)
        corners = torch.cartesian_prod(ends, ends, ends[1:])  # homogeneous, (4, 3)
        points = product(corners, matrix.mT) / matrix[..., 2:, 2:]
        points, reach = points[..., :2], points[..., 2:]
    else:
        points = entry.grid(wide, (ends,) * ndim).flatten(-1 - ndim, -2)
    return (points.abs() - reach).relu().square().sum(-1).mean(-1)


def theta_ndim(theta: Tensor, transform: str) -> int:
    """The number of spatial axes that theta is for: a volume's ends in 4, (3, 4) or (s, tx, ty, tz)."""
    return 3 if theta.shape[-1:] == (4,) and 3 in TRANSFORMS[transform].ndims else 2


def as_matrix(name: str, theta: Tensor, transform: str, ndim: int | None = None) -> Tensor:
    """The matrix of a theta (..., *theta shape) for images or volumes, or for `ndim` axes: float32 or wider.

    (..., 2, 3) or (..., 3, 4) where it is affine, (..., 3, 3) where it is a homography. Refuses another shape.
    """
    wide = widened(name, theta)
    entry = TRANSFORMS[transform]
    shapes = [shape for n in entry.ndims if ndim in (None, n) for shape in entry.shapes(n)]
    with comparing_shapes():
        if not any(tuple(theta.shape[-len(shape) :]) == shape for shape in shapes):
            wanted = " or ".join(f"(..., {', '.join(map(str, shape))})" for shape in shapes)
            size = "" if ndim is None else f" and image_size of {ndim} entries"
            raise ValueError(
                f"{name} must be {wanted} for transform {transform!r}{size}, got shape {tuple(theta.shape)}"
            )
    if entry.homography is not None:
        return entry.homography(wide)
    assert entry.matrix is not None, transform  # those without a matrix were refused by name
    return entry.matrix(wide, theta_ndim(theta, transform))


def _scale_and_shift(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The attention theta of a matrix [s I, t]: s (..., 1) and t (..., ndim)."""
    return matrix[..., 0, :1], matrix[..., -1]
