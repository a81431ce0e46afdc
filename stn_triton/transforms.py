"""The transformations of the paper: what theta looks like and which map of coordinates it stands for.

One entry of `TRANSFORMS` is all that the host needs to know of a transformation; the kernels' side of the same
entry is in `kernels/maps`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .control_points import (
    PIECEWISE_AFFINE,
    TPS,
    Lattice,
    Points,
    coordinates,
    count_of,
    lattice_coefficients,
    lattice_side,
    points_of,
    product,
)

AUTO = 0
"""As many samples of an output pixel as theta's Jacobian asks for."""
MOST_SAMPLES = 8
"""The most of them along each axis."""


class Options(NamedTuple):
    """How to sample: everything a call says besides its tensors and the output's size."""

    transform: str = "affine"
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    padding_value: float = 0.0  # of what lies outside, with "zeros"
    align_corners: bool = False
    samples: int = 1  # of an output pixel, along each axis; or AUTO
    control_points: Points = ()


@dataclass(frozen=True, kw_only=True)
class Transform:
    """theta's shape and identity, and the coordinate map that theta stands for.

    ndims: the numbers of spatial axes it is for.
    shapes: number of spatial axes -> the trailing shapes that theta may have; "P" is the number of control points.
    identity: (number of spatial axes, control points) -> the identity theta, float64.
    grid: theta (..., *shape), the normalised output coordinates of each axis, x first, one vector each, and the control
        points -> the normalised source coordinates (..., *out_size, ndim), x first.
    matrix: where the map is linear: theta (..., *shape) and the number of axes -> its matrix (..., ndim, ndim + 1).
    homography: where it is a projective one: theta (..., *shape) -> its matrix (..., 3, 3).
    lattice: where theta moves control points: how everything in between follows.
    source: where the paper defines it.
    """

    ndims: tuple[int, ...]
    shapes: Callable[[int], tuple[tuple[int | str, ...], ...]]
    identity: Callable[[int, int | Points], Tensor]
    grid: Callable[..., Tensor]
    matrix: Callable[[Tensor, int], Tensor] | None = None
    homography: Callable[[Tensor], Tensor] | None = None
    lattice: Lattice | None = None
    source: str

    def trailing_shape(
        self, shape: tuple[int, ...], ndim: int, points: Points = ()
    ) -> tuple[int, ...] | None:
        """The part of a theta's shape, (N, [K,] ...), that describes one transformation; None if there is none."""
        for wanted in self.shapes(ndim):
            outer = len(shape) - len(wanted)
            if outer in (1, 2) and _agree(shape[outer:], wanted, points):
                return shape[outer:]
        return None


def theta_dims(theta: Tensor, ndim: int, options: Options) -> int:
    """How many trailing axes of theta describe one transformation, whatever stands before them."""
    shapes = TRANSFORMS[options.transform].shapes(ndim)
    points = options.control_points
    return len(next(s for s in shapes if _agree(theta.shape[-len(s) :], s, points)))


def _agree(shape: tuple[int, ...], wanted: tuple[int | str, ...], points: Points) -> bool:
    return all(
        _is_count(length, points) if each == "P" else length == each
        for length, each in zip(shape, wanted, strict=True)
    )


def _is_count(length: int, points: Points) -> bool:
    """Whether theta can have so many control points."""
    if points:
        return length == count_of(points)
    return length >= 4 and lattice_side(length) ** 2 == length


def output_axes(out_size: tuple[int, ...], align_corners: bool, like: Tensor) -> tuple[Tensor, ...]:
    """The normalised output coordinates of each axis, x first, in the dtype and on the device of `like`."""
    axes = []
    for length in reversed(out_size):
        twice = torch.arange(1 - length, length, 2, dtype=like.dtype, device=like.device)
        axes.append(twice / max(length - 1 if align_corners else length, 1))
    return tuple(axes)


def vector_like(values: Sequence[float], like: Tensor) -> Tensor:
    """A vector in the dtype and on the device of `like`, filled there: one copied there would make the host wait."""
    return torch.stack([like.new_full((), value) for value in values])


def _linear_grid(matrix: Tensor, axes: tuple[Tensor, ...], points: Points = ()) -> Tensor:
    ndim = len(axes)
    columns = matrix.unbind(-1)
    total = columns[-1].view(*matrix.shape[:-2], *[1] * ndim, ndim)
    for number in reversed(range(ndim)):
        by_axis = columns[number].unsqueeze(-2) * axes[number].unsqueeze(-1)  # (..., length, ndim)
        before, after = ndim - 1 - number, number
        shape = (*by_axis.shape[:-2], *[1] * before, by_axis.shape[-2], *[1] * after, ndim)
        total = by_axis.view(shape) + total
    return total


def _attention_matrix(theta: Tensor, ndim: int) -> Tensor:
    """(..., 1 + ndim) = (s, t) -> (..., ndim, ndim + 1) = [s I, t]."""
    scale, shift = theta[..., :1], theta[..., 1:]
    diagonal = torch.eye(ndim, dtype=torch.bool, device=theta.device)
    return torch.cat((torch.where(diagonal, scale.unsqueeze(-1), 0.0), shift.unsqueeze(-1)), -1)


def homography(theta: Tensor) -> Tensor:
    """(..., 8) or (..., 3, 3) -> (..., 3, 3)."""
    if theta.shape[-1] == 3:
        return theta
    return torch.cat((theta, torch.ones_like(theta[..., :1])), -1).unflatten(-1, (3, 3))


def _projective_grid(theta: Tensor, axes: tuple[Tensor, ...], points: Points = ()) -> Tensor:
    x, y = axes[0], axes[1].unsqueeze(-1)
    entries = homography(theta).flatten(-2)[..., None, None, :].unbind(-1)
    sums = [entries[row] * x + (entries[row + 1] * y + entries[row + 2]) for row in range(0, 9, 3)]
    return torch.stack([_quotient(above, sums[2]) for above in sums[:2]], -1)


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """above / below, inf where below is 0; a constant where it or its derivative is not finite."""
    exact = (above / below).detach()
    usual = (exact / below).isfinite()
    exact = torch.where(below == 0, math.inf, exact)
    return torch.where(
        usual, torch.where(usual, above, 0.0) / torch.where(usual, below, 1.0), exact
    )


def _lattice_grid(lattice: Lattice) -> Callable[..., Tensor]:
    def grid(theta: Tensor, axes: tuple[Tensor, ...], points: Points = ()) -> Tensor:
        x, y = axes
        points = points_of(points, theta.shape[-2])
        basis = lattice.basis(x, y.unsqueeze(-1), points)  # (h, w, M)
        moved = product(basis.flatten(0, 1), lattice_coefficients(theta, lattice, points))
        straight = torch.stack(torch.broadcast_tensors(x, y.unsqueeze(-1)), -1)
        return straight + moved.unflatten(-2, basis.shape[:2])

    return grid


def _linear_identity(ndim: int, points: int | Points) -> Tensor:
    return _eye(ndim, ndim + 1)


def _eye(rows: int, columns: int) -> Tensor:
    """Ones on the diagonal, on the CPU whatever the default device is."""
    return torch.eye(rows, columns, dtype=torch.float64, device="cpu")


def _through_points(lattice: Lattice, source: str) -> Transform:
    """A map that takes control points to theta."""
    return Transform(
        ndims=(2,),
        shapes=lambda ndim: (("P", 2),),
        identity=lambda ndim, points: coordinates(points),
        grid=_lattice_grid(lattice),
        lattice=lattice,
        source=source,
    )


TRANSFORMS: dict[str, Transform] = {
    "affine": Transform(
        ndims=(2, 3),
        shapes=lambda ndim: ((ndim, ndim + 1),),
        identity=_linear_identity,
        grid=_linear_grid,
        matrix=lambda theta, ndim: theta,
        source="Jaderberg et al. 2015, equation 1",
    ),
    "attention": Transform(
        ndims=(2, 3),
        shapes=lambda ndim: ((1 + ndim,),),
        identity=lambda ndim, points: _eye(1, 1 + ndim)[0],
        grid=lambda theta, axes, points=(): _linear_grid(_attention_matrix(theta, len(axes)), axes),
        matrix=_attention_matrix,
        source="Jaderberg et al. 2015, equation 2",
    ),
    "projective": Transform(
        ndims=(2,),
        shapes=lambda ndim: ((8,), (3, 3)),
        identity=lambda ndim, points: _eye(3, 3).flatten()[:8],
        grid=_projective_grid,
        homography=homography,
        source="Jaderberg et al. 2015, section 3.2: a plane projective transformation",
    ),
    "tps": _through_points(TPS, "Jaderberg et al. 2015, section 3.2: a thin plate spline"),
    "piecewise_affine": _through_points(
        PIECEWISE_AFFINE, "Jaderberg et al. 2015, section 3.2: a piecewise affine transformation"
    ),
}
