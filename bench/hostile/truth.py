"""How far from the definition rounding may take a result, from the coordinates' own conditions.

A coordinate is known within `wander` pixels: a few roundings of the sum of the magnitudes that it is made of. An
output pixel is `clear` if all its samples surely are on one side of every place where values or slopes jump, or surely
outside. Slopes are compared at clear pixels alone, which only get a gradient; values also where only slopes jump.
Everything here is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import definition

Size = tuple[int, ...]
_ROUNDINGS = 12
"""Of each coordinate: sums of up to four products, the way to pixels and the padding."""
_SUM_ROUNDINGS = 64
"""Of each sum of taps or of output pixels."""
_VALUE_SLOPE = {"nearest": 0.0, "bilinear": 2.0, "bicubic": 7.0}
"""How much a value may change with a coordinate, in pixels and in units of the largest value."""
_SLOPE_SLOPE = {"nearest": 0.0, "bilinear": 4.0, "bicubic": 30.0}
"""How much that slope may change."""
RANGE = {"nearest": 1.0, "bilinear": 1.0, "bicubic": 2.0}
"""The most that the magnitudes of the weights along one axis add up to."""
_LARGEST = {torch.float32: 1e36, torch.float64: 1e300}
"""Sums beyond this may overflow on the way."""
_UNFOLDED = 2.0**21
"""Reflected coordinates farther away than so many pixels are not compared: rounding decides where they fold to."""
_WIDEST = 1e-3
"""Pixels that a compared coordinate may wander."""


@dataclass(frozen=True)
class Where:
    """The samples of some thetas, x first; each tensor (T, *finer)."""

    source: list[Tensor]  # in pixels
    wander: list[Tensor]
    influence: list[
        Tensor
    ]  # (T, P, *finer): by how many pixels each number of theta moves a sample
    blur: Tensor  # the relative error of `influence`
    overflows: Tensor  # where a sum may leave the range of the dtype on the way
    lost: Tensor  # where nothing is known
    eps: float


def _flat_units(theta: Tensor, transform: str) -> Tensor:
    """(P, *shape of one theta): a theta for each of its numbers, which alone is 1."""
    shape = theta.shape[1:]
    return torch.eye(shape.numel(), dtype=torch.float64).view(-1, *shape)


def _tps(theta: Tensor, at: list[Tensor], control_points: Any) -> tuple[list[Tensor], list[Tensor]]:
    """(magnitudes that a spline is the sum of, influence): its weights are what great terms leave of each other."""
    points = definition.points_of(theta, control_points)
    px, py = points.unbind(-1)
    count = len(px)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count, :count] = definition.radial(px[:, None] - px, py[:, None] - py)
    for number, polynomial in enumerate((torch.ones_like(px), px, py)):
        system[count + number, :count] = system[:count, count + number] = polynomial
    solved = torch.linalg.inv(system)[:, :count].abs()
    x, y = (a[..., None] for a in at)
    basis = torch.cat((definition.radial(x - px, y - py), torch.ones_like(x), x, y), -1).abs()
    weights = (basis @ solved).movedim(-1, 0)  # (P, *finer)
    moved = theta.abs() + points.abs()
    parts = [torch.einsum("p...,tp->t...", weights, moved[..., axis]) for axis in (0, 1)]
    none = torch.zeros_like(weights)
    pairs = (weights, none), (none, weights)
    return parts, [torch.stack(pair, 1).flatten(0, 1).unsqueeze(0) for pair in pairs]


def _projective(theta: Tensor, at: list[Tensor], wide: torch.dtype) -> tuple[list[Tensor], ...]:
    """(normalised wander, influence, [relative blur, overflowing]) of a homography."""
    flat = theta.flatten(1)
    whole = flat if flat.shape[1] == 9 else torch.cat((flat, torch.ones_like(flat[:, :1])), 1)
    x, y = at
    factors = torch.stack((x, y, torch.ones_like(x)))
    sums = torch.einsum("trc,c...->tr...", whole.view(-1, 3, 3), factors)
    sizes = torch.einsum("trc,c...->tr...", whole.view(-1, 3, 3).abs(), factors.abs())
    eps = torch.finfo(wide).eps
    sizes = sizes + torch.finfo(wide).tiny  # numbers below it are rounded as it is
    below, of_below = sums[:, 2].abs(), sizes[:, 2]
    blur = _ROUNDINGS * eps * of_below / below
    wander, influence = [], []
    for row in range(2):
        value = (sums[:, row] / below).abs()
        wander.append(_ROUNDINGS * eps * (sizes[:, row] + value * of_below) / below)
        by_above = factors.abs() / below.unsqueeze(1)
        none = torch.zeros_like(by_above)
        rows = [by_above, none] if row == 0 else [none, by_above]
        every = torch.cat((*rows, by_above * value.unsqueeze(1)), 1)
        influence.append(every[:, : flat.shape[1]])
    return wander, influence, [blur, sizes.amax(1) / below.clamp(max=1)]


def _on_edges(theta: Tensor, at: list[Tensor], control_points: Any) -> Tensor:
    """Which output pixels lie on an edge of a triangle."""
    rows, columns = definition.sides_of(theta, control_points)
    x, y = ((a + 1) / 2 * (count - 1) for a, count in zip(at, (columns, rows), strict=True))
    across = (x - x.floor()) - (y - y.floor())
    return torch.stack([(each - each.round()).abs() < 1e-5 for each in (x, y, across)]).any(0)


def where(
    theta: Tensor, in_size: Size, finer: Size, transform: str, align: bool, control_points: Any,
    wide: torch.dtype,
) -> Where:  # fmt: skip
    """The samples of thetas (T, *shape), and how well they are known where one computes in `wide`."""
    eps = torch.finfo(wide).eps
    source = definition.coordinates(theta, in_size, finer, transform, align, control_points)
    at = definition.output_coordinates(theta, finer, align)
    lost = torch.zeros_like(source[0], dtype=torch.bool)
    if transform == "projective":
        wander, influence, (blur, largest) = _projective(theta, at, wide)
        lost = blur >= 0.05  # a divisor that may have either sign, or be 0
    else:
        if transform == "tps":
            parts, influence = _tps(theta, at, control_points)
        else:
            units = definition.normalised(
                _flat_units(theta, transform), finer, transform, align, control_points
            )
            influence = [each.abs().unsqueeze(0) for each in units]
            flat = theta.flatten(1).abs()[(..., *[None] * len(finer))]
            parts = [torch.where(each == 0, 0.0, each * flat).sum(1) for each in influence]
        wander = [_ROUNDINGS * eps * (each + 1) for each in parts]
        blur = torch.full_like(wander[0], _ROUNDINGS * eps)
        largest = torch.stack(parts).amax(0)
        if transform == "piecewise_affine" and not (theta.abs() < 1e6).all():
            # A control point that weighs 0 counts, and 0 times infinity is not 0.
            lost |= _on_edges(theta, at, control_points) | ~theta.isfinite().all()
    halves = [max(length, 2) / 2 for length in in_size[::-1]]
    # A number of theta may overflow on its way to pixels, even where it is then multiplied by 0.
    numbers = theta.abs().flatten(1).nan_to_num(0.0, 0.0).amax(1)[(..., *[None] * len(finer))]
    largest = torch.maximum(largest.nan_to_num(0.0), 2 * numbers.expand_as(largest))
    # Numbers of the least magnitudes may be rounded to 0.
    wander = [each * half + eps * half for each, half in zip(wander, halves, strict=True)]
    influence = [each * half for each, half in zip(influence, halves, strict=True)]
    return Where(
        list(source), wander, influence, blur, largest * max(halves) > _LARGEST[wide], lost, eps
    )


def clear_samples(
    found: Where, in_size: Size, mode: str, padding_mode: str
) -> tuple[Tensor, Tensor]:
    """(Which samples have a value that rounding cannot make jump, which have such a slope, too), (T, *finer) each."""
    steady = torch.ones_like(found.overflows)
    clear, away = steady.clone(), torch.zeros_like(steady)
    for s, wander, length in zip(found.source, found.wander, in_size[::-1], strict=True):
        shifted = s + 0.5 if mode == "nearest" else s
        near = (wander < _WIDEST) & ~found.lost & ~found.overflows
        settled = torch.zeros_like(near)
        beyond = ((s < -3 - 2 * wander) | (s > length + 2 + 2 * wander)) & (wander < torch.inf)
        if padding_mode == "zeros":
            away |= (beyond | ~s.isfinite()) & ~found.lost
        elif padding_mode == "border":
            # inf - inf on one way to a coordinate is inf on another.
            settled = (beyond | s.isnan()) & ~found.overflows
        else:
            near &= s.abs() < _UNFOLDED
            settled = s.isnan() | (s.isinf() & ~found.overflows)
        settled &= ~found.lost
        safe = ((shifted - shifted.round()).abs() > 2 * wander) & near
        clear &= safe | settled
        steady &= (safe if mode == "nearest" else near) | settled
    return steady | away, clear | away


def tolerances(
    found: Where, grad: Tensor, largest: float, in_size: Size, mode: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(of each sample's value, of the input's gradient in all, of theta's gradient), without the storage's rounding.

    Shapes: grad (T, C, *finer), 0 where a sample is not clear -> (T, *finer), (), (T, P).
    """
    wander = torch.stack([torch.where(each < _WIDEST, each, 0.0) for each in found.wander]).sum(0)
    rounding = _SUM_ROUNDINGS * found.eps
    reach = RANGE[mode] ** len(in_size)
    weight = _VALUE_SLOPE[mode] * wander + rounding * reach
    strength = grad.abs().sum(1)
    blur = torch.where(found.blur < 1, found.blur, 0.0)
    slope = _SLOPE_SLOPE[mode] * wander + _VALUE_SLOPE[mode] * (blur + rounding)
    error = (strength * largest * slope).unsqueeze(1)
    by_axis = [torch.where(error == 0, 0.0, error * each) for each in found.influence]
    of_theta = torch.stack([each.flatten(2).sum(-1) for each in by_axis]).sum(0)
    return largest * weight, (strength * weight).sum(), of_theta
