"""The tensors that a case runs on.

theta is drawn from a seed on the CPU, so that a case means the same samples on every machine. An affine map is a
rotation by any angle, scaled by 0.5 to 1.5 and shifted by up to a tenth of the frame. A projective map is tilted
besides, and the control points of a lattice are moved besides. Attention takes crops as for CUB: their scale is 0.5 (or
0.3 to 0.9 where antialiasing goes by theta), and their shift keeps them inside the image. Any other map is drawn around
its identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor

from stn_triton import identity_theta
from stn_triton.tracing import constant_in_graphs

from .cases import Case
from .grids import (
    LATTICES,
    control_points,
    parameters,
    sample_groups,
    source_pixels,
)

KINK_BAND = 1e-3
"""In pixels: nearer to a kink or a tie than this, a rounded coordinate may be on its other side."""
_COARSE = 4 * torch.finfo(torch.float32).eps
"""The same as a share of the coordinate: four roundings."""


@dataclass(frozen=True)
class Inputs:
    """The tensors of one case. `theta` is float32 whatever the dtype of the case; `grad` is that of the result."""

    input: Tensor
    theta: Tensor
    grad: Tensor
    index: Tensor | None = None


def leading(case: Case) -> tuple[int, ...]:
    """(N,), (N, K), or (M,) of ragged crops."""
    if case.crops is not None:
        return (case.crops,)
    return case.shape[:1] if case.k is None else (case.shape[0], case.k)


def make_index(case: Case, device: str | torch.device = "cpu") -> Tensor | None:
    """Which image each ragged crop of a case reads: (M,) int64; None without crops."""
    return None if case.crops is None else _index(case.crops, case.shape[0], torch.device(device))


# A constant of the case: no part of what is compiled. Dynamo cannot pass on a `Case`, so that it is given numbers.
@constant_in_graphs
def _index(crops: int, images: int, device: torch.device) -> Tensor:
    return _drawn_index(crops, images, device)


@lru_cache
def _drawn_index(crops: int, images: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(crops)
    return torch.randint(images, (crops,), generator=generator).to(device)


def make_theta(case: Case, *, seed: int = 0) -> Tensor:
    """theta of a case on the CPU, float32: (N, [K,] *theta shape)."""
    generator = torch.Generator().manual_seed(1_000_003 * case.seed + seed)
    lead, ndim = leading(case), case.ndim

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*lead, *shape, generator=generator)

    if case.transform == "attention":
        scale = uniform(0.3, 0.9, 1) if case.antialias is True else torch.full((*lead, 1), 0.5)
        return torch.cat((scale, (0.95 - scale) * uniform(-1, 1, ndim)), -1)
    linear = uniform(0.5, 1.5, 1, 1) * torch.eye(ndim)
    for plane in combinations(range(ndim), 2):
        linear = linear @ _rotation(plane, uniform(-torch.pi, torch.pi), ndim)
    shift = uniform(-0.2, 0.2, ndim)
    if case.transform in LATTICES:
        points = control_points(case.control_points, torch.float32)
        bent = points + uniform(-0.1, 0.1, len(points), 2)
        return bent @ linear.mT + shift.unsqueeze(-2)
    matrix = torch.cat((linear, shift.unsqueeze(-1)), -1)
    if case.transform == "affine":
        return matrix
    if case.transform == "projective":
        return torch.cat((matrix.flatten(-2), uniform(-0.15, 0.15, 2)), -1)
    identity = identity_theta(case.transform, lead, ndim=ndim, dtype=torch.float32)
    return identity + uniform(-0.1, 0.1, *identity.shape[len(lead) :])


def _rotation(plane: tuple[int, int], angle: Tensor, ndim: int) -> Tensor:
    i, j = plane
    turn = torch.eye(ndim).repeat(*angle.shape, 1, 1)
    turn[..., i, i] = turn[..., j, j] = angle.cos()
    turn[..., j, i] = angle.sin()
    turn[..., i, j] = -angle.sin()
    return turn


def clear_of_kinks(case: Case, theta: Tensor) -> Tensor:
    """(N, [K,] 1, *out_size) bool: the outputs whose samples lie at least `KINK_BAND` from every kink and tie."""
    flat = parameters(case, theta)
    clear = torch.empty(len(flat), *case.out_size, dtype=torch.bool, device=theta.device)
    for maps, samples in sample_groups(case, flat):
        clear[maps] = _clear(case, flat[maps], samples)
    return clear.reshape(*leading(case), 1, *case.out_size)


def _clear(case: Case, flat: Tensor, samples: int) -> Tensor:
    # Kinks are at whole pixels, ties of nearest at half ones; reflection without aligned corners folds at half ones.
    both = case.padding_mode == "reflection"
    clear = torch.ones((), dtype=torch.bool, device=flat.device)
    for coordinate in source_pixels(case, flat, samples):
        # Far from the image single precision does not tell a coordinate from its neighbours in the band.
        band = (_COARSE * coordinate.abs()).clamp(min=KINK_BAND)
        if case.mode != "nearest" or both:
            clear = clear & ((coordinate - coordinate.round()).abs() > band)
        if case.mode == "nearest" or both:
            clear = clear & (((coordinate - 0.5) - (coordinate - 0.5).round()).abs() > band)
    for axis in range(-case.ndim, 0):
        clear = clear.unflatten(axis, (-1, samples)).all(axis)
    return clear


def in_format(case: Case, x: Tensor) -> Tensor:
    """`x` (N, [K,] C, *size) in the memory format of the case, K counting as part of the batch."""
    if case.memory_format == "contiguous":
        return x.contiguous()
    channel = -1 - case.ndim
    return x.movedim(channel, -1).contiguous().movedim(-1, channel)


def make_inputs(
    case: Case, device: str | torch.device = "cpu", *, seed: int = 0, theta: Tensor | None = None
) -> Inputs:
    """Random input, theta (unless it is given) and gradient of the result, which is 0 beside kinks, where either
    slope is right.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(case.dtype)

    theta = (make_theta(case, seed=seed) if theta is None else theta).to(device)
    grad = normal(*leading(case), case.shape[1], *case.out_size) * clear_of_kinks(case, theta)
    x = in_format(case, normal(*case.shape))
    return Inputs(x, theta, in_format(case, grad), make_index(case, device))
