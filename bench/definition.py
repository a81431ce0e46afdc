"""The operation written out: equations 1 to 5 of the paper, one step after the other, in the dtype of theta.

Nothing here is shared with `stn_triton` or with `grid_sample`. Gradients come from autograd and are the
contract's: the tap indices are constants, so that at a whole coordinate the slope is the one to the right; a
coordinate that the padding holds at an end, or that is not finite, is a constant too.
"""

from __future__ import annotations

import math
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor

Size = tuple[int, ...]


def theta_dims(theta: Tensor, transform: str) -> int:
    """How many trailing axes of theta describe one transformation."""
    if transform == "attention":
        return 1
    return 1 if transform == "projective" and theta.shape[-1] == 8 else 2


def matrix_of(theta: Tensor, transform: str) -> Tensor:
    """Equations 1 and 2: (..., 2, 3) or (..., 3, 4)."""
    if transform == "affine":
        return theta
    scale, *shifts = theta.unbind(-1)
    zero = torch.zeros_like(scale)
    rows = []
    for number, shift in enumerate(shifts):
        diagonal = [scale if column == number else zero for column in range(len(shifts))]
        rows.append(torch.stack((*diagonal, shift), -1))
    return torch.stack(rows, -2)


def output_coordinates(theta: Tensor, out_size: Size, align: bool) -> list[Tensor]:
    """Normalised x, y[, z] of the output pixels' centres, each of shape out_size."""
    axes = []
    for length in out_size:
        extent = max(length - 1, 1) if align else length  # in pixels: the distance of -1 from 1
        axes.append((torch.arange(length).to(theta) - (length - 1) / 2) * (2 / extent))
    return list(torch.meshgrid(*axes, indexing="ij"))[::-1]


def linear(theta: Tensor, transform: str, at: list[Tensor]) -> list[Tensor]:
    found = []
    for row in matrix_of(theta, transform).unbind(-2):
        *factors, offset = (entry[(..., *[None] * len(at))] for entry in row.unbind(-1))
        found.append(sum((f * x for f, x in zip(factors, at, strict=True)), offset))
    return found


def projective(theta: Tensor, at: list[Tensor]) -> list[Tensor]:
    entries = theta if theta.shape[-1] == 8 else theta.flatten(-2)
    h = [entry[..., None, None] for entry in entries.unbind(-1)]
    last = h[8] if len(h) == 9 else 1
    x, y = at
    third = h[6] * x + h[7] * y + last
    found = []
    for above in (h[0] * x + h[1] * y + h[2], h[3] * x + h[4] * y + h[5]):
        value = torch.where(third == 0, math.inf, (above / third).detach())
        usual = (value / third).isfinite()
        found.append(torch.where(usual, above.where(usual, 0) / third.where(usual, 1), value))
    return found


def sides_of(theta: Tensor, control_points: Any) -> tuple[int, int]:
    """(rows, columns) of the lattice of control points."""
    if isinstance(control_points, tuple | list):
        return control_points[0], control_points[1]
    side = control_points or math.isqrt(theta.shape[-2])
    return side, side


def points_of(theta: Tensor, control_points: Any) -> Tensor:
    """The control points, (P, 2) as (x, y): those given, or of a lattice, y slow."""
    if isinstance(control_points, Tensor):
        return control_points.double()
    if isinstance(control_points, tuple | list) and isinstance(control_points[0], tuple | list):
        return torch.tensor(control_points, dtype=torch.float64)
    down, across = (
        [-1 + 2 * number / (count - 1) for number in range(count)]
        for count in sides_of(theta, control_points)
    )
    return torch.tensor([(x, y) for y in down for x in across], dtype=torch.float64)


def identity(
    transform: str, ndim: int = 2, form: Size | None = None, control_points: Any = None
) -> Tensor:
    """The identity theta in float64; form: its shape, where a transformation has several."""
    if transform == "affine":
        return torch.eye(ndim, ndim + 1, dtype=torch.float64)
    if transform == "attention":
        return torch.tensor([1.0] + [0.0] * ndim, dtype=torch.float64)
    if transform == "projective":
        matrix = torch.eye(3, dtype=torch.float64)
        return matrix.flatten()[:8] if form == (8,) else matrix
    return points_of(torch.empty(form or (9, 2)), control_points)


def radial(x: Tensor, y: Tensor) -> Tensor:
    """r² log r."""
    r = (x**2 + y**2).sqrt()
    return torch.where(r > 0, r**2 * torch.where(r > 0, r, 1.0).log(), 0.0)


def tps(theta: Tensor, at: list[Tensor], control_points: Any = None) -> list[Tensor]:
    """a0 + a1 x + a2 y + sum of w_k phi(r_k) through the control points, with sum of w_k (1, x, y) = 0.

    The system is solved in float64; the spline is evaluated in the dtype of theta.
    """
    points = points_of(theta, control_points).to(theta.device)
    px, py = points.unbind(-1)
    count = len(px)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64, device=theta.device)
    system[:count, :count] = radial(px[:, None] - px, py[:, None] - py)
    for number, polynomial in enumerate((torch.ones_like(px), px, py)):
        system[count + number, :count] = system[:count, count + number] = polynomial
    solved = torch.linalg.inv(system)[:, :count]
    coefficients = (solved @ theta.double()).to(theta)
    x, y = (a[..., None] for a in at)
    basis = torch.cat((radial(x - px.to(x), y - py.to(y)), torch.ones_like(x), x, y), -1)
    moved = (basis.flatten(0, -2) @ coefficients).unflatten(-2, at[0].shape)
    return list(moved.unbind(-1))


def piecewise_affine(theta: Tensor, at: list[Tensor], control_points: Any = None) -> list[Tensor]:
    """Linear in each triangle; x0 <= x <= x1, y0 <= y <= y1 is the cell, cut from (x0, y0) to (x1, y1)."""
    rows, columns = sides_of(theta, control_points)
    corner = theta.unflatten(-2, (rows, columns))  # [..., y, x, :]
    steps = columns - 1, rows - 1
    place = [(x + 1) / 2 * step for x, step in zip(at, steps, strict=True)]
    (i, j) = cell = [
        p.floor().clamp(0, step - 1).long() for p, step in zip(place, steps, strict=True)
    ]
    a, b = (p - c for p, c in zip(place, cell, strict=True))
    here, opposite = corner[..., j, i, :], corner[..., j + 1, i + 1, :]
    right, below = corner[..., j, i + 1, :], corner[..., j + 1, i, :]
    a, b = a[..., None], b[..., None]
    moved = torch.where(
        a >= b,
        here + a * (right - here) + b * (opposite - right),
        here + b * (below - here) + a * (opposite - below),
    )
    return list(moved.unbind(-1))


def normalised(
    theta: Tensor, out_size: Size, transform: str, align: bool, control_points: Any = None
) -> list[Tensor]:
    """Source coordinates x, y[, z], each (N, [K,] *out_size)."""
    at = output_coordinates(theta, out_size, align)
    if transform in ("affine", "attention"):
        return linear(theta, transform, at)
    if transform == "projective":
        return projective(theta, at)
    return {"tps": tps, "piecewise_affine": piecewise_affine}[transform](theta, at, control_points)


def coordinates(
    theta: Tensor, in_size: Size, out_size: Size, transform: str, align: bool,
    control_points: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Source coordinates in pixel units, x, y[, z], each (N, [K,] *out_size)."""
    found = normalised(theta, out_size, transform, align, control_points)
    sizes = in_size[::-1]
    return tuple(
        s * ((size - 1 if align else size) / 2) + (size - 1) / 2
        for s, size in zip(found, sizes, strict=True)
    )


def finite(s: Tensor, size: int, padding_mode: str) -> Tensor:
    """The coordinate, constant where it is not finite: outside, or as the padding says."""
    if padding_mode == "zeros":
        return torch.where(s.isfinite(), s, -9.0)
    end = torch.where(s.detach() == math.inf, float(size - 1), 0.0).to(s)
    if padding_mode == "reflection":
        end = torch.zeros_like(end)
    return torch.where(s.isfinite(), s, end)


def mirrored(s: Tensor, size: int, align: bool) -> Tensor:
    """Reflected at the edges (or the centres) of the end pixels as often as it takes."""
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    if high == low:
        return 0 * s
    turns = ((s.detach() - low) / (high - low)).floor()
    inside = s - turns * (high - low)
    return torch.where(turns % 2 == 0, inside, low + high - inside)


def held(s: Tensor, size: int) -> Tensor:
    """Between the end pixels' centres; constant at and beyond them."""
    inside = (s > 0) & (s < size - 1)
    return torch.where(inside, s, s.detach().clamp(0, size - 1))


def cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with PyTorch's parameter, at |distance| < 2."""
    a, d = -0.75, distance.abs()
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return torch.where(d <= 1, near, far)


def taps(
    s: Tensor, size: int, mode: str, padding_mode: str, align: bool
) -> list[tuple[Tensor, Tensor]]:
    """Equations 4 and 5 along one axis, padding included: (whole coordinate, weight) of each tap."""
    s = finite(s, size, padding_mode)
    if mode == "bicubic":  # the padding acts on each tap
        low = s.detach().floor()
        found = [(low + number, cubic(s - low - number)) for number in (-1, 0, 1, 2)]
        if padding_mode == "reflection":
            found = [(mirrored(at, size, align), weight) for at, weight in found]
        if padding_mode != "zeros":
            found = [(at.clamp(0, size - 1), weight) for at, weight in found]
        return found
    if padding_mode == "reflection":
        s = mirrored(s, size, align)
    if padding_mode != "zeros":
        s = held(s, size)
    if mode == "nearest":
        return [(s.detach().round(), 1 + 0 * s)]  # ties to even
    low = s.detach().floor()
    return [(low, 1 - (s - low)), (low + 1, s - low)]


def samples(theta: Tensor, in_size: Size, out_size: Size, transform: str) -> int:
    """How many samples along each axis one theta, without N and K, asks for."""
    matrix = matrix_of(theta.detach(), transform)[:, :-1]
    steps = [
        float(matrix[i, j]) * in_size[::-1][i] / out_size[::-1][j]
        for i, j in product(range(len(in_size)), repeat=2)
    ]
    if not all(map(math.isfinite, steps)):
        return 1
    return min(max(math.ceil(max(map(abs, steps)) - 1e-3), 1), 8)


def weighted_sum(
    u: Tensor, found: tuple[Tensor, ...], mode: str, padding_mode: str, padding_value: float, align: bool
) -> Tensor:  # fmt: skip
    """Equation 3 at coordinates in pixels, x, y[, z]: the sum over all taps, each with its weight."""
    n, channels, *in_size = u.shape
    image = torch.arange(n, device=u.device).view(-1, *[1] * (found[0].dim() - 1))
    pixels = u.movedim(1, -1)
    result = u.new_zeros((*found[0].shape, channels))
    met = torch.zeros_like(result, dtype=torch.bool)
    along = [
        taps(s, size, mode, padding_mode, align)
        for s, size in zip(found[::-1], in_size, strict=True)
    ]
    for tap in product(*along):  # [z,] y, x
        at = [
            index.clamp(0, size - 1).long() for (index, _), size in zip(tap, in_size, strict=True)
        ]
        exists = [
            (index >= 0) & (index <= size - 1)
            for (index, _), size in zip(tap, in_size, strict=True)
        ]
        weight = reduce(torch.mul, [weight for _, weight in tap])
        # A tap outside is left out, and not multiplied by 0: what it would read may not be finite, nor the gradient.
        there = reduce(torch.logical_and, exists).unsqueeze(-1)
        met = met | there
        value = torch.where(there, pixels[(image, *at)], padding_value)
        value = weight.unsqueeze(-1) * value
        result = result + (torch.where(there, value, 0.0) if padding_value == 0 else value)
    # The weights of a sample that lies outside have the sum 1.
    result = torch.where(met, result, padding_value)
    return result.movedim(-1, 1 - len(u.shape))


def sample(
    u: Tensor, theta: Tensor, out_size: Size, *, transform: str = "affine", mode: str = "bilinear",
    padding_mode: str = "zeros", padding_value: float = 0.0, align_corners: bool = False,
    antialias: bool | int = False, control_points: Any = None, index: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Equation 3: (N, [K,] C, *out_size), or (M, C, *out_size) with `index`. `u` and `theta` have one dtype."""
    if index is not None:
        u = u[index]
    options: dict[str, Any] = {"transform": transform, "mode": mode, "padding_mode": padding_mode}
    options["padding_value"] = padding_value
    if antialias is True:
        outer = theta.shape[: theta.dim() - theta_dims(theta, transform)]
        one_by_one = []
        for number in product(*map(range, outer)):
            count = samples(theta[number], tuple(u.shape[2:]), out_size, transform)
            image = u[number[0]].unsqueeze(0)
            one_by_one.append(
                sample(image, theta[number].unsqueeze(0), out_size, antialias=count, **options)
            )
        return torch.cat(one_by_one).unflatten(0, outer)
    if antialias:
        finer = tuple(antialias * length for length in out_size)
        options |= {"align_corners": align_corners, "control_points": control_points}
        result = sample(u, theta, finer, **options)
        for axis in range(-len(out_size), 0):
            result = result.unflatten(axis, (-1, antialias)).mean(axis)
        return result
    where = transform, align_corners, control_points
    found = coordinates(theta, tuple(u.shape[2:]), out_size, *where)
    return weighted_sum(u, found, mode, padding_mode, padding_value, align_corners)
