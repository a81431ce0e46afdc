"""Small matrices in full precision: products and inverses entry by entry, which neither autocast nor TF32 rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_float


def widened(name: str, tensor: Tensor) -> Tensor:
    """The tensor in float32, or float64 if it is that; refuses what is not of a float dtype."""
    check_float(name, tensor)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product."""
    return (left.unsqueeze(-1) * right.unsqueeze(-3)).sum(-2)


def inverse(matrix: Tensor) -> Tensor:
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


def composed(outer: Tensor, inner: Tensor) -> Tensor:
    """The map that applies inner, then outer: both (..., n, n + 1), affine, or both (..., 3, 3), homographies."""
    if outer.shape[-2] == outer.shape[-1]:
        return product(outer, inner)
    joint = product(outer[..., :-1], inner)
    return torch.cat((joint[..., :-1], joint[..., -1:] + outer[..., -1:]), -1)


def inverted(matrix: Tensor) -> Tensor:
    """The map that undoes one of (..., n, n + 1) or a homography (..., 3, 3); not finite where it is singular."""
    if matrix.shape[-2] == matrix.shape[-1]:
        return inverse(matrix)
    linear = inverse(matrix[..., :-1])
    return torch.cat((linear, -product(linear, matrix[..., -1:])), -1)
