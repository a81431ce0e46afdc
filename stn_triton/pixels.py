"""Thetas and pixels: boxes, and the matrices of other libraries.

Convention of the whole file: theta maps OUTPUT coordinates to SOURCE coordinates, both normalised to [-1, 1] in
(x, y[, z]) order. Everything is differentiable and waits for no device. Results are float32, or float64 where an
argument is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_name, checked_size
from .matrices import inverted, product, widened
from .theta import LINEAR, WITH_MATRIX, as_matrix
from .transforms import TRANSFORMS, vector_like

DIRECTIONS = ("source_to_output", "output_to_source")


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
    wide = widened("boxes", boxes)
    if boxes.shape[-1:] != (2 * ndim,):
        raise ValueError(
            f"boxes must be (..., {2 * ndim}) for image_size {size}, got shape {tuple(boxes.shape)}"
        )
    low, high = (wide / vector_like(size[::-1] * 2, wide)).unflatten(-1, (2, ndim)).unbind(-2)
    return torch.cat((torch.diag_embed(high - low), (low + high - 1).unsqueeze(-1)), -1)


def theta_to_box(theta: Tensor, image_size: Sequence[int], *, transform: str = "affine") -> Tensor:
    """The box of an axis-aligned theta, the inverse of `box_to_theta`; of any other, the box around its frame.

    Convention: as in `box_to_theta`, pixels from the outer edge; x0 > x1 where theta mirrors x (theta[0, 0] < 0).
    Shapes: theta (..., 2, 3) or with transform "attention" (..., 3), image_size (H, W) -> (..., 4) = (x0, y0, x1, y1);
        for volumes (..., 3, 4) or (..., 4), (D, H, W) -> (..., 6) = (x0, y0, z0, x1, y1, z1).

    Raises:
        TypeError: theta not a tensor of a float dtype; image_size not a sequence of ints.
        ValueError: a wrong shape or size, a transform that is not linear.
    """
    check_name("transform", transform, LINEAR)
    size = checked_size(image_size, "image_size")
    matrix = as_matrix("theta", theta, transform, len(size))
    reach, middle = matrix[..., :-1].abs().sum(-1), matrix[..., -1]
    reach = reach.copysign(matrix.diagonal(dim1=-2, dim2=-1))
    edges = torch.cat((middle - reach, middle + reach), -1)
    return (edges + 1) / 2 * vector_like(size[::-1] * 2, matrix)


def pixel_matrix_to_theta(
    matrix: Tensor,
    image_size: Sequence[int],
    out_size: Sequence[int],
    *,
    align_corners: bool = False,
    direction: str = "source_to_output",
) -> Tensor:
    """The theta of a matrix that maps pixels, as other libraries take it.

    Convention: (x, y[, z]) with pixel centres at whole numbers. direction "source_to_output": the matrix of
        `cv2.warpAffine`, `cv2.warpPerspective` and kornia, which is inverted here. "output_to_source": that of OpenCV's
        WARP_INVERSE_MAP and of `skimage.transform.warp`; `scipy.ndimage.affine_transform` takes it in the order of the
        array's axes, both axes of the matrix flipped. Sampled with the same `align_corners`, theta gives what those
        functions give; kornia's own default is True. An axis of one pixel counts as with `align_corners=False`.
    Shapes: matrix (..., 2, 3), image_size (H, W), out_size (h, w) -> affine theta (..., 2, 3); (..., 3, 3) ->
        projective theta (..., 3, 3); for volumes (..., 3, 4), (D, H, W), (d, h, w) -> (..., 3, 4).
        Entries are not finite where a matrix that has to be inverted is singular.

    Raises:
        TypeError: matrix not a tensor of a float dtype; a size not a sequence of ints.
        ValueError: a wrong shape or size, an unknown direction.
    """
    check_name("direction", direction, DIRECTIONS)
    sizes = _checked_sizes(image_size, out_size)
    wide = widened("matrix", matrix)
    ndim = len(sizes[0])
    perspective = ndim == 2 and matrix.shape[-2:] == (3, 3)
    if not perspective and matrix.shape[-2:] != (ndim, ndim + 1):
        wanted = "(..., 2, 3) or (..., 3, 3)" if ndim == 2 else "(..., 3, 4)"
        raise ValueError(
            f"matrix must be {wanted} for image_size {sizes[0]}, got shape {tuple(matrix.shape)}"
        )
    if direction == "source_to_output":
        wide = inverted(wide)
    (half, middle), (out_half, out_middle) = (_pixels(s, align_corners, wide) for s in sizes)
    columns, shift = wide[..., :-1], wide[..., -1:]
    wide = torch.cat((columns * out_half, shift + product(columns, out_middle.unsqueeze(-1))), -1)
    rows, last = _rows(wide)
    rows = (rows - middle.unsqueeze(-1) * last) / half.unsqueeze(-1)
    return torch.cat((rows, wide[..., ndim:, :]), -2)


def theta_to_pixel_matrix(
    theta: Tensor,
    image_size: Sequence[int],
    out_size: Sequence[int],
    *,
    transform: str = "affine",
    align_corners: bool = False,
    direction: str = "source_to_output",
) -> Tensor:
    """The matrix that maps pixels as theta does, for OpenCV, kornia, scikit-image and scipy, or to move points by.

    Convention: that of `pixel_matrix_to_theta`, whose inverse this is.
    Shapes: image_size (H, W), out_size (h, w), theta "affine" (..., 2, 3) or "attention" (..., 3) -> (..., 2, 3);
        "projective" (..., 8) or (..., 3, 3) -> (..., 3, 3); for volumes (D, H, W), (d, h, w), (..., 3, 4) or (..., 4)
        -> (..., 3, 4). Entries are not finite where theta has to be inverted, that is for "source_to_output", and is
        singular.

    Raises:
        TypeError: theta not a tensor of a float dtype; a size not a sequence of ints.
        ValueError: a wrong shape or size, an unknown direction, a transform that has no matrix.
    """
    check_name("transform", transform, WITH_MATRIX)
    check_name("direction", direction, DIRECTIONS)
    sizes = _checked_sizes(image_size, out_size)
    ndim = len(sizes[0])
    check_name(f"the number of axes of transform {transform!r}", ndim, TRANSFORMS[transform].ndims)
    wide = as_matrix("theta", theta, transform, ndim)
    (half, middle), (out_half, out_middle) = (_pixels(s, align_corners, wide) for s in sizes)
    rows, last = _rows(wide)
    rows = rows * half.unsqueeze(-1) + middle.unsqueeze(-1) * last
    wide = torch.cat((rows, wide[..., ndim:, :]), -2)
    columns, shift = wide[..., :-1] / out_half, wide[..., -1:]
    wide = torch.cat((columns, shift - product(columns, out_middle.unsqueeze(-1))), -1)
    return wide if direction == "output_to_source" else inverted(wide)


def _checked_sizes(
    image_size: Sequence[int], out_size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sizes = checked_size(image_size, "image_size"), checked_size(out_size)
    if len(sizes[0]) != len(sizes[1]):
        raise ValueError(
            f"out_size must have {len(sizes[0])} entries for image_size {sizes[0]}, got {sizes[1]}"
        )
    return sizes


def _pixels(size: tuple[int, ...], align_corners: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """A normalised unit in pixels and the pixel at normalised 0, x first: pixel = half * normalised + middle."""
    extents = [max(length - 1, 1) if align_corners else length for length in size[::-1]]
    middle = vector_like([length - 1 for length in size[::-1]], like)
    return vector_like(extents, like) / 2, middle / 2


def _rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a map that give coordinates, and the one that they are divided by, which an affine map leaves out."""
    columns = matrix.shape[-1]
    ndim = columns - 1
    if matrix.shape[-2] == columns:
        return matrix[..., :ndim, :], matrix[..., ndim:, :]
    last = torch.eye(columns, dtype=matrix.dtype, device=matrix.device)[ndim:]
    return matrix, last
