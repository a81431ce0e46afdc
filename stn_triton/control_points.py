"""Control points: where theta says where the output comes from, and how everything in between follows.

Points are numbers, constants of the host that can be hashed (`Points`). All that follows from them alone is solved once
in float64, and kept for the next call with equal points.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor

from .tracing import (
    constant_in_graphs,
    in_a_mode,
    is_jit_traced,
    unobserved,
    values_on_the_host,
)

Points = tuple[float, ...]
"""() for a lattice as square as theta's number of points says; two whole numbers for one of (rows, columns); otherwise
the coordinates x, y, x, y, ... of points anywhere."""
ControlPoints = int | Sequence[int] | Sequence[Sequence[float]] | Tensor | None
"""The same as users give it: G, (rows, columns), points (x, y) or None."""
_LEAST_RCOND = 1e-12


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """How a map follows its control points, displaced by `theta - points`; the points of a lattice, or anywhere.

    The source of x is x + sum over m of basis[x, m] (weights(points) (theta - points))[m].

    extra: M - P, the functions that belong to no control point.
    weights: points -> (M, P), float64.
    basis: normalised coordinates x and y (any shape, broadcast against each other) and points -> (..., M).
    anywhere: whether points may lie anywhere.
    """

    extra: int
    weights: Callable[[Points], Tensor]
    basis: Callable[[Tensor, Tensor, Points], Tensor]
    anywhere: bool


def lattice_side(count: int) -> int:
    """G of G * G points; by comparisons, which a compiler that does not know their number can trace."""
    side = 2
    while side * side < count:
        side += 1
    return side


def points_of(points: Points, count: int) -> Points:
    """The points of a theta that has so many."""
    if points:
        return points
    side = lattice_side(count)
    return side, side


def count_of(points: Points) -> int:
    """P, the number of points; 0 where theta says it."""
    return int(points[0] * points[1]) if len(points) == 2 else len(points) // 2


def coordinates(points: int | Points) -> Tensor:
    """The points themselves, (P, 2) as (x, y), float64; those of a lattice over [-1, 1]² row by row, y slow."""
    if isinstance(points, int):
        points = points, points
    if len(points) != 2:
        return torch.tensor(points, dtype=torch.float64, device="cpu").view(-1, 2)
    rows, columns = map(int, points)
    down, across = (
        torch.linspace(-1, 1, n, dtype=torch.float64, device="cpu") for n in (rows, columns)
    )
    return torch.stack((across.repeat(rows), down.repeat_interleave(columns)), -1)


def checked_points(given: ControlPoints, transform: str, lattice: Lattice | None) -> Points:
    """`control_points` as numbers; refuses what the transformation cannot follow."""
    if given is None:
        return ()
    if lattice is None:
        raise ValueError(
            f"control_points is for transform 'tps' or 'piecewise_affine', got {given!r} for {transform!r}"
        )
    if isinstance(given, int) and not isinstance(given, bool):
        given = given, given
    if isinstance(given, Tensor):
        points = _read(given)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) == 2 and not any(isinstance(each, Sequence) for each in given):
            return _sides(given)
        points = _flattened_once(given)
    else:
        raise _not_points(given)
    if not lattice.anywhere:
        raise ValueError(
            f"control_points of {transform!r} must be an int or (rows, columns): only those of 'tps' may lie anywhere, "
            f"got {len(points) // 2} points"
        )
    if why := _unsolvable(points):
        raise ValueError(why)
    return points


def points_or_usual(given: ControlPoints, transform: str, lattice: Lattice | None) -> Points:
    """The same where no theta says how many there are: 4 x 4 for None, and () for a transformation without."""
    return checked_points(4 if given is None else given, transform, lattice) if lattice else ()


def as_given(points: Points) -> tuple[int, int] | tuple[tuple[float, float], ...]:
    """Points as `checked_points` takes them."""
    if len(points) == 2:
        return int(points[0]), int(points[1])
    return tuple(zip(points[::2], points[1::2], strict=True))


def described(points: Points) -> str:
    """What an error says of the points."""
    if not points:
        return ""
    if len(points) == 2:
        return f" with {int(points[0])} x {int(points[1])} control points"
    return f" with {len(points) // 2} control points"


def _not_points(got: object) -> TypeError:
    return TypeError(
        "control_points must be an int, (rows, columns), or points (x, y) as a tensor or a nested sequence, "
        f"got {got!r}, a {type(got).__name__}"
    )


def _sides(given: Sequence[object]) -> Points:
    for length in given:
        if not isinstance(length, int) or isinstance(length, bool):
            raise _not_points(given)
        if length < 2:
            raise ValueError(f"control_points must be at least 2 along each side, got {given!r}")
    rows, columns = given
    return int(rows), int(columns)  # type: ignore[call-overload]


def _flattened(given: Iterable[object]) -> Points:
    """The coordinates of a nested sequence of points."""
    found: list[float] = []
    for point in given:
        if not isinstance(point, Sequence) or isinstance(point, str):
            raise _not_points(given)
        if len(point) != 2:
            raise ValueError(f"control_points must be points (x, y), got {point!r} among them")
        for number in point:
            if isinstance(number, bool) or not isinstance(number, numbers.Real):
                raise _not_points(given)
            (constant,) = {
                number
            }  # Dynamo guards on what a set holds; elsewhere it may take numbers as variables.
            try:
                found.append(float(constant))
            except OverflowError:  # an int that no float holds
                found.append(math.inf)
    return tuple(found)


def _flattened_once(given: Sequence[object]) -> Points:
    """The same, remembered: as a module gives them, call after call."""
    if isinstance(given, tuple) and not torch.compiler.is_compiling():
        try:
            return _remembered(given)
        except TypeError:  # lists among them, which cannot be hashed, or what is refused
            pass
    return _flattened(given)


_remembered = lru_cache(maxsize=256)(_flattened)


def _read(given: Tensor) -> Points:
    """The coordinates of a tensor of points, which becomes a constant."""
    if given.dtype == torch.bool or given.is_complex():
        raise TypeError(f"control_points must be a tensor of reals, got {given.dtype}")
    if given.device.type != "cpu":
        raise ValueError(
            "control_points must be a tensor on the CPU, since the host reads it (or a nested sequence), got one on "
            f"{given.device}"
        )
    if given.dim() != 2 or given.shape[1] != 2:
        raise ValueError(
            f"control_points must be a tensor (P, 2) of points (x, y), got shape {tuple(given.shape)}"
        )
    found = _values(given)
    if found is None:
        raise ValueError(
            "control_points must be numbers that the host can read: a constant, not a batch of vmap, and not without "
            "values"
        )
    return found


@constant_in_graphs
def _values(given: Tensor) -> Points | None:
    there = values_on_the_host(given)
    if there is None:
        return None
    with unobserved() if in_a_mode() or is_jit_traced() else nullcontext():
        return tuple(map(float, chain.from_iterable(there.tolist())))


@constant_in_graphs
def _unsolvable(points: Points) -> str | None:
    """Why no spline goes through points anywhere, or None."""
    return _why_unsolvable(points)


@lru_cache(maxsize=256)
def _why_unsolvable(points: Points) -> str | None:
    pairs = list(zip(points[::2], points[1::2], strict=True))
    if len(pairs) < 3:
        return f"control_points must be at least 3 points, got {len(pairs)}"
    if not all(map(math.isfinite, points)):
        bad = next(pair for pair in pairs if not all(map(math.isfinite, pair)))
        return f"control_points must be finite, got {bad} among them"
    if len(set(pairs)) < len(pairs):
        twice = next(pair for pair in pairs if pairs.count(pair) > 1)
        return f"control_points must be distinct, got {twice} more than once"
    with unobserved():
        system = _tps_system(points)
        inverse, failed = torch.linalg.inv_ex(system)
        norms = (torch.linalg.matrix_norm(each, 1) for each in (system, inverse))
        condition = math.inf if failed.item() else math.prod(norm.item() for norm in norms)
    if math.isnan(condition):
        return (
            "control_points must be normalised coordinates, whose squares do not overflow, "
            f"got {max(map(abs, points))} among them"
        )
    rcond = 1 / condition
    if rcond >= _LEAST_RCOND:
        return None
    return (
        "control_points must not all lie on one line, nor so near to that or to each other that no spline is "
        f"determined: got {len(pairs)} points with rcond {rcond:.1e}, below {_LEAST_RCOND:.0e}"
    )


# ---- From theta to what multiplies the basis, and back.


def lattice_coefficients(theta: Tensor, lattice: Lattice, points: Points) -> Tensor:
    """theta (..., P, 2) -> what multiplies the basis, (..., M, 2); 0 for the identity.

    In float64, as the one below: a spline's weights cancel, in float32 by 1e-3 pixels at 512.
    """
    at, weights = lattice_constants(lattice.weights, points, torch.float64, theta.device)
    displacement = theta - at.to(theta.dtype)  # exactly 0 for the identity
    return product(weights, displacement)


def lattice_theta_gradient(gradient: Tensor, lattice: Lattice, points: Points) -> Tensor:
    """The chain from the gradient of `lattice_coefficients`, (..., M, 2), back to theta's."""
    _, weights = lattice_constants(lattice.weights, points, torch.float64, gradient.device)
    return product(weights.mT, gradient)


def product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product in float64, which neither autocast rounds, nor TF32, forward or backward."""
    return (left.double() @ right.double()).to(right.dtype)


@constant_in_graphs
def lattice_constants(
    weights: Callable[[Points], Tensor], points: Points, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The points and their weights: constants of a compiled graph too."""
    if (
        in_a_mode()
    ):  # Modes of fake tensors take lifted constants alone, and a device that may not be there.
        lift = torch.ops.aten.lift_fresh
        cpu = _solved_lattice(weights, points, dtype, torch.device("cpu"))
        at, solved = (lift(constant).to(device) for constant in cpu)
        return at, solved
    return _solved_lattice(weights, points, dtype, device)


@lru_cache(maxsize=64)
def _solved_lattice(
    weights: Callable[[Points], Tensor], points: Points, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The points and their weights, solved once; real and plain tensors, whatever looks on."""
    with unobserved():
        return coordinates(points).to(device, dtype), weights(points).to(device, dtype)


# ---- Thin-plate splines.


def _radial(x: Tensor, y: Tensor) -> Tensor:
    """phi(r) = r² log r, 0 at 0."""
    squared = x * x + y * y
    return 0.5 * squared * torch.where(squared > 0, squared, 1.0).log()


def _tps_basis(x: Tensor, y: Tensor, points: Points) -> Tensor:
    """The radial functions around the control points, then 1, x and y."""
    at, _ = lattice_constants(_tps_weights, points, x.dtype, x.device)
    across, down = at.unbind(-1)
    phi = _radial(x.unsqueeze(-1) - across, y.unsqueeze(-1) - down)
    one = torch.ones_like(phi[..., 0])
    return torch.cat((phi, torch.stack((one, x * one, y * one), -1)), -1)


def _tps_system(points: Points) -> Tensor:
    """What maps a spline's coefficients to its values at the points, and to the sums that must be 0."""
    at = coordinates(points)
    between = at.unsqueeze(1) - at
    count = len(at)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64, device="cpu")
    system[:count, :count] = _radial(between[..., 0], between[..., 1])
    system[:count, count] = 1
    system[:count, count + 1 :] = at
    system[count:, :count] = system[:count, count:].mT
    return system


def _tps_weights(points: Points) -> Tensor:
    system = _tps_system(points)
    return torch.linalg.inv(system)[:, : len(system) - 3].contiguous()


# ---- Triangles.


def _hat_basis(x: Tensor, y: Tensor, points: Points) -> Tensor:
    """The continuous functions that are 1 at one control point, 0 at the others, and linear in every triangle."""
    rows, columns = map(int, points)
    number_x, number_y = (torch.arange(n, dtype=x.dtype, device=x.device) for n in (columns, rows))
    half_x, half_y = (columns - 1) / 2, (rows - 1) / 2
    x = (x * half_x + half_x).unsqueeze(-1) - number_x.repeat(rows)
    y = (y * half_y + half_y).unsqueeze(-1) - number_y.repeat_interleave(columns)
    farthest = torch.maximum(torch.maximum(x.abs(), y.abs()), (x - y).abs())
    return (1 - farthest).clamp(min=0)


def _hat_weights(points: Points) -> Tensor:
    return torch.eye(count_of(points), dtype=torch.float64, device="cpu")


TPS = Lattice(extra=3, weights=_tps_weights, basis=_tps_basis, anywhere=True)
PIECEWISE_AFFINE = Lattice(extra=0, weights=_hat_weights, basis=_hat_basis, anywhere=False)
