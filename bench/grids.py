"""From theta to PyTorch's sampling grid: as defined for the check, and as one writes it in PyTorch for the peers.

Nothing here is shared with `stn_triton`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_triton.tracing import constant_in_graphs

from . import definition
from .cases import Case

CONTROL_POINTS = 4
"""Along each side of the lattice of "tps" and "piecewise_affine", unless a case has points of its own."""
LATTICES = ("tps", "piecewise_affine")

Size = tuple[int, ...]
Points = tuple[tuple[float, float], ...] | None


def parameters(case: Case, theta: Tensor) -> Tensor:
    """theta, one map after the other, differentiably: matrices (N * K, rows, columns) or points (N * K, P, 2)."""
    flat = theta.flatten(0, 0 if case.k is None else 1)
    if case.transform == "projective" and flat.shape[1:] == (8,):
        return F.pad(flat, (0, 1), value=1.0).unflatten(1, (3, 3))
    return definition.matrix_of(flat, "attention") if case.transform == "attention" else flat


def pixel_matrices(case: Case, theta: Tensor) -> Tensor:
    """Affine maps as matrices (N * K, 2, 3) from output pixels to source pixels, float64, x first."""
    matrix = parameters(case, theta).detach().double()
    shrink = int(case.align_corners)
    ends = matrix.new_tensor([(length - shrink) / 2 for length in case.shape[:1:-1]])
    middle = matrix.new_tensor([(length - 1) / 2 for length in case.shape[:1:-1]])
    steps = matrix.new_tensor([2 / max(length - shrink, 1) for length in case.out_size[::-1]])
    first = matrix.new_tensor([(length - 1) / 2 for length in case.out_size[::-1]])
    linear = ends.unsqueeze(-1) * matrix[:, :, :2] * steps
    shift = ends * matrix[:, :, 2] + middle - linear @ first
    return torch.cat((linear, shift.unsqueeze(-1)), -1)


def sampling_grid(case: Case, parameters: Tensor, samples: int = 1) -> Tensor:
    """The grid (N * K, *out_size, ndim) that `grid_sample` takes, `samples` times as fine along each axis.

    As one writes it in PyTorch where it matters how fast that is; otherwise as defined.
    """
    size = tuple(samples * length for length in case.out_size)
    align, like = case.align_corners, (parameters.dtype, parameters.device)
    if case.transform in ("affine", "attention"):
        return F.affine_grid(parameters, [len(parameters), 1, *size], align)
    if case.transform == "projective":
        points = F.pad(_points(size, align, parameters), (0, 1), value=1.0)
        moved = points @ parameters.mT
        return (moved[..., :2] / moved[..., 2:]).unflatten(1, size)
    if case.transform in LATTICES:
        weights = _lattice_weights(case.transform, case.control_points, size, align, *like)
        return (weights @ parameters).unflatten(1, size)
    return defined_grid(case, parameters, samples)


def defined_grid(case: Case, parameters: Tensor, samples: int = 1) -> Tensor:
    """The same by the definition: for the check, and for what has no faster form in PyTorch."""
    return torch.stack(definition.normalised(*_definition_of(case, parameters, samples)), -1)


def source_pixels(case: Case, parameters: Tensor, samples: int = 1) -> list[Tensor]:
    """Source coordinates in pixels, float64, x first, each (maps, *out_size)."""
    maps, *options = _definition_of(case, parameters.double(), samples)
    return list(definition.coordinates(maps, case.shape[2:], *options))


def _definition_of(case: Case, parameters: Tensor, samples: int) -> tuple[Any, ...]:
    size = tuple(samples * length for length in case.out_size)
    transform = "affine" if case.transform == "attention" else case.transform
    return parameters, size, transform, case.align_corners, case.control_points


def sample_groups(case: Case, parameters: Tensor) -> list[tuple[Tensor, int]]:
    """Which maps take how many samples of an output pixel along each axis: (their numbers, samples).

    With `antialias=True` as many as a pixel of the output spans in the source, at least 1 and at most 8.
    """
    if case.antialias is not True:
        return [(torch.arange(len(parameters)), case.antialias or 1)]
    steps = parameters.detach().double().cpu()[:, :, :-1].abs()
    steps = steps * torch.tensor(case.shape[:1:-1]).unsqueeze(1) / torch.tensor(case.out_size[::-1])
    counts = (steps.amax((1, 2)) - 1e-3).ceil().clamp(1, 8).long()
    return [((counts == count).nonzero().squeeze(1), count) for count in counts.unique().tolist()]


@lru_cache
def control_points(
    points: Points, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """A case's points, or the lattice itself, (P, 2) as (x, y), y slow."""
    if points is not None:
        return torch.tensor(points, dtype=torch.float64).to(device, dtype)
    side = torch.linspace(-1, 1, CONTROL_POINTS, dtype=torch.float64)
    return torch.cartesian_prod(side, side).flip(1).to(device, dtype)


def _points(size: Size, align_corners: bool, like: Tensor) -> Tensor:
    """Normalised (x, y) of the output pixels, (h * w, 2)."""
    identity = torch.eye(2, 3, dtype=like.dtype, device=like.device).unsqueeze(0)
    return F.affine_grid(identity, [1, 1, *size], align_corners).flatten(0, 2)


# A constant, as in any network that uses splines: not part of what is timed, compiled or not.
@constant_in_graphs
def _lattice_weights(
    transform: str, control: Points, size: Size, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:  # fmt: skip
    return _solved_weights(transform, control, size, align_corners, dtype, device)


@lru_cache(maxsize=4)
def _solved_weights(
    transform: str, control: Points, size: Size, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:  # fmt: skip
    """By how much each pixel follows each control point, (h * w, P)."""
    points = _points(size, align_corners, torch.empty((), dtype=torch.float64))
    spline = transform == "tps"
    weights = _spline_weights(points, control) if spline else _triangle_weights(points)
    return weights.to(device, dtype)


def _spline_weights(points: Tensor, control: Points) -> Tensor:
    return _spline_terms(points, control) @ solved_spline(control)


def solved_spline(control: Points = None) -> Tensor:
    """(P + 3, P) float64: from control points to the (w_k, a0, a1, a2) of the thin-plate spline through them,
    a0 + a1 x + a2 y + sum of w_k phi(r_k).
    """
    lattice = control_points(control, torch.float64)
    count = len(lattice)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count] = _spline_terms(lattice, control)
    system[count:, :count] = system[:count, count:].mT
    return torch.linalg.inv(system)[:, :count]


def _spline_terms(points: Tensor, control: Points) -> Tensor:
    r = torch.cdist(
        points, control_points(control, torch.float64), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return torch.cat((torch.xlogy(r**2, r), torch.ones_like(points[:, :1]), points), 1)


def _triangle_weights(points: Tensor) -> Tensor:
    """Barycentric coordinates in the triangles of each cell, cut from its (x0, y0) to its (x1, y1) corner."""
    place = (points + 1) / 2 * (CONTROL_POINTS - 1)
    cell = place.floor().clamp(0, CONTROL_POINTS - 2)
    a, b = (place - cell).unbind(1)
    first = (cell[:, 1] * CONTROL_POINTS + cell[:, 0]).long()
    third = torch.where(a >= b, first + 1, first + CONTROL_POINTS)
    corners = torch.stack((first, third, first + CONTROL_POINTS + 1), 1)
    shares = torch.stack((1 - torch.maximum(a, b), (a - b).abs(), torch.minimum(a, b)), 1)
    return points.new_zeros(len(points), CONTROL_POINTS**2).scatter_(1, corners, shares)
