"""The transformations of the paper: what theta looks like and which map of coordinates it stands for.

One entry of `TRANSFORMS` is all that the host needs to know of a transformation; the kernels' side of the same
entry is in `kernels/maps`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .tracing import in_a_mode, unobserved

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


@dataclass(frozen=True, kw_only=True)
class Transform:
    """theta's shape and identity, and the coordinate map that theta stands for.

    ndims: the numbers of spatial axes it is for.
    shapes: number of spatial axes -> the trailing shapes that theta may have; "P" is a square number of points.
    identity: (number of spatial axes, control points along each side) -> the identity theta, float64.
    grid: theta (..., *shape) and the normalised output coordinates of each axis, x first, one vector each -> the
        normalised source coordinates (..., *out_size, ndim), x first.
    matrix: where the map is linear: theta (..., *shape) and the number of axes -> its matrix (..., ndim, ndim + 1).
    lattice: where theta moves the control points of a lattice: how the points in between follow.
    source: where the paper defines it.
    """

    ndims: tuple[int, ...]
    shapes: Callable[[int], tuple[tuple[int | str, ...], ...]]
    identity: Callable[[int, int], Tensor]
    grid: Callable[[Tensor, tuple[Tensor, ...]], Tensor]
    matrix: Callable[[Tensor, int], Tensor] | None = None
    lattice: Lattice | None = None
    source: str

    def trailing_shape(self, shape: tuple[int, ...], ndim: int) -> tuple[int, ...] | None:
        """The part of a theta's shape, (N, [K,] ...), that describes one transformation; None if there is none."""
        for wanted in self.shapes(ndim):
            outer = len(shape) - len(wanted)
            if outer in (1, 2) and all(map(_agree, shape[outer:], wanted)):
                return shape[outer:]
        return None


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """How a map follows the control points of a regular G x G lattice over the output, displaced by `theta - lattice`.

    The source of x is x + sum over m of basis[x, m] (weights(G) (theta - lattice))[m].

    extra: M - G * G, the functions that belong to no control point.
    weights: G -> (M, G * G), float64.
    basis: normalised coordinates x and y (any shape, broadcast against each other) and G -> (..., M).
    """

    extra: int
    weights: Callable[[int], Tensor]
    basis: Callable[[Tensor, Tensor, int], Tensor]


def theta_dims(theta: Tensor, ndim: int, options: Options) -> int:
    """How many trailing axes of theta describe one transformation, whatever stands before them."""
    shapes = TRANSFORMS[options.transform].shapes(ndim)
    return len(next(s for s in shapes if all(map(_agree, theta.shape[-len(s) :], s))))


def _agree(length: int, wanted: int | str) -> bool:
    if wanted == "P":
        return length >= 4 and lattice_side(length) ** 2 == length
    return length == wanted


def lattice_side(points: int) -> int:
    """G of G * G points; by comparisons, which a compiler that does not know their number can trace."""
    side = 2
    while side * side < points:
        side += 1
    return side


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


def control_points(grid: int) -> Tensor:
    """The lattice of G x G control points over [-1, 1]², (G * G, 2) as (x, y), y slow, float64."""
    side = torch.linspace(-1, 1, grid, dtype=torch.float64, device="cpu")
    return torch.stack((side.repeat(grid), side.repeat_interleave(grid)), -1)


def _linear_grid(matrix: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
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


def _projective_grid(theta: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
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


def _lattice_grid(lattice: Lattice) -> Callable[[Tensor, tuple[Tensor, ...]], Tensor]:
    def grid(theta: Tensor, axes: tuple[Tensor, ...]) -> Tensor:
        x, y = axes
        side = lattice_side(theta.shape[-2])
        basis = lattice.basis(x, y.unsqueeze(-1), side)  # (h, w, M)
        moved = _product(basis.flatten(0, 1), lattice_coefficients(theta, lattice))
        straight = torch.stack(torch.broadcast_tensors(x, y.unsqueeze(-1)), -1)
        return straight + moved.unflatten(-2, basis.shape[:2])

    return grid


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product in float64, which neither autocast rounds, nor TF32, forward or backward."""
    return (left.double() @ right.double()).to(right.dtype)


def lattice_coefficients(theta: Tensor, lattice: Lattice) -> Tensor:
    """theta (..., G * G, 2) -> what multiplies the basis, (..., M, 2); 0 for the identity.

    In float64, as the one below: a spline's weights cancel, in float32 by 1e-3 pixels at 512.
    """
    side = lattice_side(theta.shape[-2])
    points, weights = lattice_constants(lattice.weights, side, torch.float64, theta.device)
    displacement = theta - points.to(theta.dtype)  # exactly 0 for the identity
    return _product(weights, displacement)


def lattice_theta_gradient(gradient: Tensor, grid: int, lattice: Lattice) -> Tensor:
    """The chain from the gradient of `lattice_coefficients`, (..., M, 2), back to theta's."""
    _, weights = lattice_constants(lattice.weights, grid, torch.float64, gradient.device)
    return _product(weights.mT, gradient)


@torch.compiler.assume_constant_result
def lattice_constants(
    weights: Callable[[int], Tensor], grid: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The lattice and its weights: constants of a compiled graph too."""
    if (
        in_a_mode()
    ):  # Modes of fake tensors take lifted constants alone, and a device that may not be there.
        lift = torch.ops.aten.lift_fresh
        cpu = _solved_lattice(weights, grid, dtype, torch.device("cpu"))
        points, solved = (lift(constant).to(device) for constant in cpu)
        return points, solved
    return _solved_lattice(weights, grid, dtype, device)


@lru_cache(maxsize=64)
def _solved_lattice(
    weights: Callable[[int], Tensor], grid: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The lattice and its weights, solved once; real and plain tensors, whatever looks on."""
    with unobserved():
        return control_points(grid).to(device, dtype), weights(grid).to(device, dtype)


def _radial(x: Tensor, y: Tensor) -> Tensor:
    """phi(r) = r² log r, 0 at 0."""
    squared = x * x + y * y
    return 0.5 * squared * torch.where(squared > 0, squared, 1.0).log()


def _tps_basis(x: Tensor, y: Tensor, grid: int) -> Tensor:
    """The radial functions around the control points, then 1, x and y."""
    points, _ = lattice_constants(_tps_weights, grid, x.dtype, x.device)
    across, down = points.unbind(-1)
    phi = _radial(x.unsqueeze(-1) - across, y.unsqueeze(-1) - down)
    one = torch.ones_like(phi[..., 0])
    return torch.cat((phi, torch.stack((one, x * one, y * one), -1)), -1)


def _tps_weights(grid: int) -> Tensor:
    points = control_points(grid)
    between = points.unsqueeze(1) - points
    count = len(points)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64, device="cpu")
    system[:count, :count] = _radial(between[..., 0], between[..., 1])
    system[:count, count] = 1
    system[:count, count + 1 :] = points
    system[count:, :count] = system[:count, count:].mT
    return torch.linalg.inv(system)[:, :count].contiguous()


def _hat_basis(x: Tensor, y: Tensor, grid: int) -> Tensor:
    """The continuous functions that are 1 at one control point, 0 at the others, and linear in every triangle."""
    half = (grid - 1) / 2
    number = torch.arange(grid, dtype=x.dtype, device=x.device)
    x = (x * half + half).unsqueeze(-1) - number.repeat(grid)
    y = (y * half + half).unsqueeze(-1) - number.repeat_interleave(grid)
    farthest = torch.maximum(torch.maximum(x.abs(), y.abs()), (x - y).abs())
    return (1 - farthest).clamp(min=0)


def _linear_identity(ndim: int, grid: int) -> Tensor:
    return _eye(ndim, ndim + 1)


def _hat_weights(grid: int) -> Tensor:
    return _eye(grid * grid, grid * grid)


def _eye(rows: int, columns: int) -> Tensor:
    """Ones on the diagonal, on the CPU whatever the default device is."""
    return torch.eye(rows, columns, dtype=torch.float64, device="cpu")


_TPS = Lattice(extra=3, weights=_tps_weights, basis=_tps_basis)
_PIECEWISE_AFFINE = Lattice(extra=0, weights=_hat_weights, basis=_hat_basis)

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
        identity=lambda ndim, grid: _eye(1, 1 + ndim)[0],
        grid=lambda theta, axes: _linear_grid(_attention_matrix(theta, len(axes)), axes),
        matrix=_attention_matrix,
        source="Jaderberg et al. 2015, equation 2",
    ),
    "projective": Transform(
        ndims=(2,),
        shapes=lambda ndim: ((8,), (3, 3)),
        identity=lambda ndim, grid: _eye(3, 3).flatten()[:8],
        grid=_projective_grid,
        source="Jaderberg et al. 2015, section 3.2: a plane projective transformation",
    ),
    "tps": Transform(
        ndims=(2,),
        shapes=lambda ndim: (("P", 2),),
        identity=lambda ndim, grid: control_points(grid),
        grid=_lattice_grid(_TPS),
        lattice=_TPS,
        source="Jaderberg et al. 2015, section 3.2: a thin plate spline",
    ),
    "piecewise_affine": Transform(
        ndims=(2,),
        shapes=lambda ndim: (("P", 2),),
        identity=lambda ndim, grid: control_points(grid),
        grid=_lattice_grid(_PIECEWISE_AFFINE),
        lattice=_PIECEWISE_AFFINE,
        source="Jaderberg et al. 2015, section 3.2: a piecewise affine transformation",
    ),
}
