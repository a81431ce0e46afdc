"""Thetas made, joined, inverted and turned into what other libraries use.

Convention of the whole file: theta maps OUTPUT coordinates to SOURCE coordinates, both normalised to [-1, 1] in
(x, y[, z]) order. Everything is differentiable and waits for no device. Results are float32, or float64 where an
argument is; products are summed entry by entry, so that neither autocast nor TF32 rounds them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .control_points import ControlPoints, checked_points, points_or_usual
from .functional import check_float, check_name, check_theta, checked_size
from .transforms import TRANSFORMS, homography, output_axes, vector_like


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
    wide = _wide("theta", theta)
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
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a float dtype, got {dtype}")
    if not isinstance(batch_shape, Sequence):
        raise TypeError(f"batch_shape must be a sequence of ints, got {batch_shape!r}")
    if any(length < 0 for length in batch_shape):
        raise ValueError(f"batch_shape must not have negative sizes, got {tuple(batch_shape)}")
    device = torch.get_default_device() if device is None else device
    theta = entry.identity(ndim, points).to(device, dtype)
    return theta.repeat(*batch_shape, *[1] * theta.dim())


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The affine theta that does at once what sampling by `first`, and then that result by `second`, does in two steps.

    Convention: second maps the result's coordinates to those of the map in between, first maps these to the source's.
    Shapes: first and second (..., 2, 3) or (..., 3, 4), their leading axes broadcast -> the same.

    Raises:
        TypeError: not tensors of a float dtype.
        ValueError: not affine, or one for images and one for volumes; leading axes that do not broadcast.
    """
    _check_affine("first", first)
    _check_affine("second", second)
    if first.shape[-2:] != second.shape[-2:]:
        raise ValueError(
            f"first and second must both be (..., 2, 3) or (..., 3, 4), got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    for ours, theirs in zip(first.shape[-3::-1], second.shape[-3::-1], strict=False):
        if ours != theirs and 1 not in (ours, theirs):
            raise ValueError(
                f"first and second must have leading axes that broadcast, got {tuple(first.shape)} and "
                f"{tuple(second.shape)}"
            )
    outer, inner = _wide("first", first), _wide("second", second)
    product = _times(outer[..., :-1], inner)
    return torch.cat((product[..., :-1], product[..., -1:] + outer[..., -1:]), -1)


def invert(theta: Tensor) -> Tensor:
    """The affine theta that undoes theta: it maps source coordinates to output coordinates.

    Shapes: theta (..., 2, 3) or (..., 3, 4) -> the same. Entries are not finite where theta is singular.

    Raises:
        TypeError: not a tensor of a float dtype.
        ValueError: not affine.
    """
    _check_affine("theta", theta)
    wide = _wide("theta", theta)
    inverse = _inverse(wide[..., :-1])
    return torch.cat((inverse, -_times(inverse, wide[..., -1:])), -1)


def box_to_theta(boxes: Tensor, image_size: Sequence[int]) -> Tensor:
    """The affine theta that crops a box and stretches it to the output, whatever the output's size.

    Convention: x and y in pixels from the outer edge of the first pixel: 0 and W are the image's edges, pixel i covers
        [i, i + 1]: a theta for `align_corners=False`. A box with x0 > x1 mirrors.
    Shapes: boxes (..., 4) = (x0, y0, x1, y1), image_size (H, W) -> (..., 2, 3); for volumes (..., 6) =
        (x0, y0, z0, x1, y1, z1), (D, H, W) -> (..., 3, 4).

    Raises:
        TypeError: boxes not a tensor of a float dtype; image_size not a sequence of ints.
        ValueError: a wrong shape or size.
    """
    size = checked_size(image_size, "image_size")
    ndim = len(size)
    wide = _wide("boxes", boxes)
    if boxes.shape[-1:] != (2 * ndim,):
        raise ValueError(
            f"boxes must be (..., {2 * ndim}) for image_size {size}, got shape {tuple(boxes.shape)}"
        )
    low, high = (wide / vector_like(size[::-1] * 2, wide)).unflatten(-1, (2, ndim)).unbind(-2)
    return torch.cat((torch.diag_embed(high - low), (low + high - 1).unsqueeze(-1)), -1)


def theta_to_box(theta: Tensor, image_size: Sequence[int]) -> Tensor:
    """The box of an axis-aligned affine theta, the inverse of `box_to_theta`; of any other, the box around its frame.

    Convention: as in `box_to_theta`, pixels from the outer edge; x0 > x1 where theta mirrors x (theta[0, 0] < 0).
    Shapes: theta (..., 2, 3), image_size (H, W) -> (..., 4) = (x0, y0, x1, y1); for volumes (..., 3, 4), (D, H, W) ->
        (..., 6) = (x0, y0, z0, x1, y1, z1).

    Raises:
        TypeError: theta not a tensor of a float dtype; image_size not a sequence of ints.
        ValueError: a wrong shape or size.
    """
    size = checked_size(image_size, "image_size")
    ndim = len(size)
    wide = _wide("theta", theta)
    if theta.shape[-2:] != (ndim, ndim + 1):
        raise ValueError(
            f"theta must be (..., {ndim}, {ndim + 1}) for image_size {size}, got shape {tuple(theta.shape)}"
        )
    reach, middle = wide[..., :-1].abs().sum(-1), wide[..., -1]
    reach = reach.copysign(wide.diagonal(dim1=-2, dim2=-1))
    edges = torch.cat((middle - reach, middle + reach), -1)
    return (edges + 1) / 2 * vector_like(size[::-1] * 2, wide)


def pixel_matrix_to_theta(
    matrix: Tensor,
    image_size: Sequence[int],
    out_size: Sequence[int],
    *,
    align_corners: bool = False,
) -> Tensor:
    """The theta of a matrix as `cv2.warpAffine`, `cv2.warpPerspective` and kornia take it.

    Convention: matrix maps SOURCE pixels to OUTPUT pixels, (x, y) with pixel centres at whole numbers. Sampled with the
        same `align_corners`, theta gives what those functions give; kornia's own default is True.
    Shapes: matrix (..., 2, 3), image_size (H, W), out_size (h, w) -> affine theta (..., 2, 3); (..., 3, 3) ->
        projective theta (..., 3, 3); for volumes (..., 3, 4), (D, H, W), (d, h, w) -> (..., 3, 4).
        Entries are not finite where the matrix is singular.

    Raises:
        TypeError: matrix not a tensor of a float dtype; a size not a sequence of ints.
        ValueError: a wrong shape or size.
    """
    sizes = checked_size(image_size, "image_size"), checked_size(out_size)
    ndim = len(sizes[0])
    wide = _wide("matrix", matrix)
    perspective = ndim == 2 and matrix.shape[-2:] == (3, 3)
    if len(sizes[1]) != ndim or not (perspective or matrix.shape[-2:] == (ndim, ndim + 1)):
        wanted = "(..., 2, 3) or (..., 3, 3)" if ndim == 2 else "(..., 3, 4)"
        raise ValueError(
            f"matrix must be {wanted} and out_size have {ndim} entries for image_size {sizes[0]}, "
            f"got shape {tuple(matrix.shape)} and out_size {sizes[1]}"
        )
    of_image, of_output = (_to_pixels(size, align_corners, wide) for size in sizes)
    if perspective:
        last = torch.eye(3, dtype=wide.dtype, device=wide.device)[2:]
        of_image, of_output = (torch.cat((each, last)) for each in (of_image, of_output))
        return _times(_inverse(_times(wide, of_image)), of_output)
    return compose(invert(compose(wide, of_image)), of_output)


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
    wide = _wide("theta", theta)
    ndim, entry = theta_ndim(theta, transform), TRANSFORMS[transform]
    if entry.lattice is None:
        check_theta(theta, transform, ndim)
    elif theta.dim() not in (3, 4) or theta.shape[-1] != 2 or not theta.shape[-2]:
        raise ValueError(
            f"theta must be (N, P, 2) or (N, K, P, 2) for transform {transform!r}, got shape {tuple(theta.shape)}"
        )
    reach: Tensor | int = 1
    if entry.lattice is not None:
        points = wide
    else:
        matrix = homography(wide) if entry.matrix is None else entry.matrix(wide, ndim)
        ends = torch.linspace(-1, 1, 2, dtype=wide.dtype, device=wide.device)
        corners = torch.cartesian_prod(*[ends] * ndim, ends[1:])  # homogeneous, (2**ndim, ndim + 1)
        points = _times(corners, matrix.mT)
        if entry.matrix is None:
            points = points / matrix[..., 2:, 2:]
            points, reach = points[..., :2], points[..., 2:]
    return (points.abs() - reach).relu().square().sum(-1).mean(-1)


def theta_ndim(theta: Tensor, transform: str) -> int:
    """The number of spatial axes that theta is for: a volume's ends in 4, (3, 4) or (s, tx, ty, tz)."""
    return 3 if theta.shape[-1:] == (4,) and 3 in TRANSFORMS[transform].ndims else 2


def _wide(name: str, tensor: Tensor) -> Tensor:
    check_float(name, tensor)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check_affine(name: str, theta: Tensor) -> None:
    check_float(name, theta)
    if theta.shape[-2:] not in ((2, 3), (3, 4)):
        raise ValueError(
            f"{name} must be affine, (..., 2, 3) or (..., 3, 4), got shape {tuple(theta.shape)}"
        )


def _times(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product in full precision."""
    return (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(-2)


def _inverse(matrix: Tensor) -> Tensor:
    """The adjugate over the determinant, of (..., 2, 2) or (..., 3, 3)."""
    # Very large and small entries are brought near 1 first: their determinant would leave the range of float32.
    largest = matrix.detach().abs().amax((-2, -1), keepdim=True)
    unit = torch.where((largest > 1e-6) & (largest < 1e6), 1.0, largest)
    matrix = matrix / unit
    if matrix.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in matrix.unbind(-2))
        adjugate = torch.stack((d, -b, -c, a), -1).unflatten(-1, (2, 2))
        determinant = a * d - b * c
    else:
        x, y, z = matrix.unbind(-2)
        columns = [torch.linalg.cross(*pair) for pair in ((y, z), (z, x), (x, y))]
        adjugate = torch.stack(columns, -1)
        determinant = (x * columns[0]).sum(-1)
    return adjugate / determinant[..., None, None] / unit


def _to_pixels(size: tuple[int, ...], align_corners: bool, like: Tensor) -> Tensor:
    """The affine matrix from normalised coordinates to pixels, (ndim, ndim + 1)."""
    extents = [max(length - 1, 1) if align_corners else length for length in size[::-1]]
    middle = vector_like([length - 1 for length in size[::-1]], like)
    return torch.cat((vector_like(extents, like).diag(), middle.unsqueeze(-1)), -1) / 2
