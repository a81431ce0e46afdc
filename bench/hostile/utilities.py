"""Calls of everything else that is public: grids, thetas, pixels, parametrisations and the module."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import stn_triton
from bench import definition
from stn_triton import SpatialTransformer, parametrisations

from . import misused
from .drawing import DTYPES, Draw, Size, thetas
from .refused import misjudged
from .sampled import Call, drawn
from .truth import where

Found = tuple[str, list[str]]
_LINEAR = ("affine", "attention")


def judged(draw: Draw) -> Found:
    """(what was called, what is wrong with it)."""
    return draw.one(_CALLS)(draw)


def _wide(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(each.dtype == torch.float64 for each in tensors) else torch.float32


def _off(name: str, got: Tensor, true: Tensor, size: Tensor, roundings: float = 32) -> list[str]:
    """Where a finite truth is missed by more than so many roundings of the magnitudes it is made of."""
    if got.shape != true.shape:
        return [f"{name}: shape {tuple(got.shape)}, not {tuple(true.shape)}"]
    info = torch.finfo(got.dtype)
    allowed = roundings * (info.eps * size + info.tiny)
    # What may leave the range on the way is not looked at.
    looked = true.isfinite() & (size < math.sqrt(info.max) / 1e3)
    bad = looked & ~((got.double() - true).abs() <= allowed)
    return [f"{name}: {int(bad.sum())} of {bad.numel()} wrong"] if bad.any() else []


def _some_thetas(draw: Draw, transform: str, ndim: int = 2, form: Size = ()) -> Tensor:
    lead = tuple(draw.one((0, 1, 2, 3)) for _ in range(draw.one((0, 1, 2))))
    return thetas(draw, lead, definition.identity(transform, ndim, form, None), draw.one(DTYPES))[0]


def _grid(draw: Draw) -> Found:
    call: Call = drawn(draw)
    options = {
        name: value
        for name, value in call.options.items()
        if name in ("transform", "align_corners", "control_points")
    }
    what = f"sampling_grid({tuple(call.theta.shape)}, {call.out_size}, {options})"
    got = stn_triton.sampling_grid(call.theta, call.out_size, **options)
    wide, align, points = (
        _wide(call.theta),
        options.get("align_corners", False),
        options.get("control_points"),
    )
    if got.dtype != wide:
        return what, [f"{got.dtype}, not {wide}"]
    ndim = len(call.out_size)
    trailing = definition.theta_dims(call.theta, options["transform"])
    flat = call.theta.double().flatten(0, -1 - trailing)
    wrong = []
    for theta, found in zip(flat, got.double().flatten(0, -2 - ndim), strict=True):
        true = definition.normalised(
            theta[None], call.out_size, options["transform"], align, points
        )
        known = where(
            theta[None], (2,) * ndim, call.out_size, options["transform"], align, points, wide
        )
        for axis, (s, wander) in enumerate(zip(true, known.wander, strict=True)):
            looked = (
                s[0].isfinite() & ~known.lost[0] & (wander[0] < torch.inf) & ~known.overflows[0]
            )
            if (looked & ~((found[..., axis] - s[0]).abs() <= wander[0])).any():
                wrong.append(f"axis {axis} is off")
    return what, wrong


def _whole(theta: Tensor, transform: str) -> Tensor:
    """(..., n + 1, n + 1) in float64."""
    theta = theta.double()
    if transform == "projective":
        last = torch.ones_like(theta[..., :1])
        return theta if theta.shape[-1] == 3 else torch.cat((theta, last), -1).unflatten(-1, (3, 3))
    matrix = definition.matrix_of(theta, transform)
    last = torch.eye(matrix.shape[-1], dtype=torch.float64)[-1:].expand(*matrix.shape[:-2], 1, -1)
    return torch.cat((matrix, last), -2)


def _products(draw: Draw) -> Found:
    transform = draw.one((*_LINEAR, "projective"))
    ndim = 3 if transform != "projective" and draw.chance(0.3) else 2
    form = draw.one(((8,), (3, 3))) if transform == "projective" else ()
    first = _some_thetas(draw, transform, ndim, form)
    second = thetas(draw, (), definition.identity(transform, ndim, form, None), draw.one(DTYPES))[0]
    what = f"compose and invert, {transform}, {tuple(first.shape)}, {tuple(second.shape)}"
    got = stn_triton.compose(first, second, transform=transform)
    a, b = _whole(first, transform), _whole(second, transform)
    true, size = a @ b, a.abs() @ b.abs()
    wrong = _off("compose", _whole(got, transform).to(got.dtype), true, size)
    back = _whole(stn_triton.invert(first, transform=transform), transform)
    usable = back.isfinite().flatten(-2).all(-1) & (back.abs() < 1e15).flatten(-2).all(-1)
    condition = (a.abs() @ back.abs()).amax((-2, -1))
    usable &= condition < 1e3
    rest = (a @ back - torch.eye(a.shape[-1])).abs().amax((-2, -1))
    if (usable & ~(rest <= 1e3 * torch.finfo(_wide(first)).eps * condition**2)).any():
        wrong.append("invert does not undo")
    return what, wrong


def _boxes(draw: Draw) -> Found:
    ndim = draw.one((2, 3))
    size = draw.size(ndim)
    lead = draw.one(((), (0,), (2,), (2, 3)))
    boxes = (draw.normal(*lead, 2 * ndim) * draw.one((1.0, 50.0, 1e6, 1e-30))).to(draw.one(DTYPES))
    what = f"box_to_theta({tuple(boxes.shape)} {boxes.dtype}, {size})"
    theta = stn_triton.box_to_theta(boxes, size)
    back = stn_triton.theta_to_box(theta, size)
    extent = torch.tensor(size[::-1] * 2, dtype=torch.float64)
    wrong = _off(
        "box",
        back,
        boxes.double(),
        boxes.double().abs() + boxes.double().abs().amax(-1, True) + extent,
    )
    return what, wrong


def _matrices(draw: Draw) -> Found:
    ndim = draw.one((2, 2, 3))
    sizes, align = (draw.size(ndim), draw.size(ndim)), draw.chance(0.5)
    transform = draw.one(("affine", "projective")) if ndim == 2 else "affine"
    matrix = _some_thetas(draw, transform, ndim, (3, 3))
    what = f"pixel_matrix_to_theta({tuple(matrix.shape)} {matrix.dtype}, {sizes}, align_corners={align})"
    options: dict[str, Any] = {"align_corners": align, "direction": "output_to_source"}
    theta = stn_triton.pixel_matrix_to_theta(matrix, *sizes, **options)
    back = stn_triton.theta_to_pixel_matrix(theta, *sizes, transform=transform, **options)
    size = (matrix.double().abs().amax((-2, -1), True) + 1) * max(*sizes[0], *sizes[1]) ** 2
    wrong = _off("matrix", back, matrix.double(), size.expand(back.shape))
    stn_triton.pixel_matrix_to_theta(matrix, *sizes)  # singular ones, too
    stn_triton.theta_to_pixel_matrix(matrix, *sizes, transform=transform)
    return what, wrong


def _penalty(draw: Draw) -> Found:
    call = drawn(draw)
    transform = call.options["transform"]
    theta = call.theta.detach().requires_grad_()
    what = f"outside_penalty({tuple(theta.shape)} {theta.dtype}, {transform})"
    got = stn_triton.outside_penalty(theta, transform=transform)
    lead = theta.shape[: theta.dim() - definition.theta_dims(theta, transform)]
    if got.shape != lead:
        return what, [f"shape {tuple(got.shape)}, not {tuple(lead)}"]
    got.sum().backward()
    wrong = ["negative"] if (got < 0).any() else []
    if transform in _LINEAR:
        matrix = definition.matrix_of(theta.detach().double(), transform)
        ends = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * (matrix.shape[-1] - 1))
        points = torch.einsum("...ij,pj->...pi", matrix[..., :-1], ends) + matrix[..., None, :, -1]
        true = (points.abs() - 1).relu().square().sum(-1).mean(-1)
        size = (matrix.abs().sum((-2, -1)) + 1) ** 2
        wrong += _off("penalty", got.detach(), true, size)
        tame = (matrix.abs() < 1e4).flatten(-2).all(-1)
        flat = theta.grad if theta.grad is not None else torch.zeros_like(theta)
        if theta.dtype != torch.float16 and not flat.flatten(len(lead))[tame].isfinite().all():
            wrong.append("gradient is not finite")
    return what, wrong


def _parametrised(draw: Draw) -> Found:
    bounds: dict[str, float] = {
        "min_scale": draw.one((1.0, 0.5, 1e-3)), "max_scale": draw.one((1.0, 2.0, 1e3)),
        "max_angle": draw.one((0.0, 0.3, math.pi)), "max_shift": draw.one((0.0, 0.5, 1e6)),
        "max_shear": draw.one((0.0, 0.7)),
    }  # fmt: skip
    taken = {
        "Rotation": ["max_angle"],
        "Similarity": list(bounds)[:4],
        "BoundedAffine": list(bounds),
        "BoundedAttention": ["min_scale", "max_scale", "max_shift"],
    }
    name = draw.one(list(taken))
    made = getattr(parametrisations, name)(
        **{each: bounds[each] for each in taken[name]}, image_size=draw.one((None, (1, 1), (5, 9)))
    )
    numbers = draw.normal(draw.one((0, 1, 3)), made.num_parameters) * draw.one(
        (0.0, 1.0, 100.0, 1e30)
    )
    if draw.chance(0.2):
        numbers[:1, 0] = draw.one((math.inf, -math.inf))
    numbers = numbers.to(draw.one(DTYPES)).requires_grad_()
    what = f"{made}({tuple(numbers.shape)} {numbers.dtype})"
    theta = made(numbers)
    theta.sum().backward()
    wrong = []
    # Shifts of a million have gradients beyond float16.
    gradient = numbers.grad if numbers.dtype != torch.float16 else None
    if not theta.isfinite().all() or (gradient is not None and not gradient.isfinite().all()):
        wrong.append("not finite")
    whole = _whole(theta.detach(), made.transform)
    if (torch.linalg.det(whole[..., :2, :2]) <= 0).any():
        wrong.append("flips or is singular")
    if (whole[..., :2, 2].abs() > bounds["max_shift"]).any():
        wrong.append("beyond max_shift")
    start = made(torch.zeros_like(numbers))
    if not torch.equal(
        start, definition.identity(made.transform, 2, (), None).to(start).expand_as(start)
    ):
        wrong.append("0 is not the identity")
    return what, wrong


def _module(draw: Draw) -> Found:
    call = drawn(draw)
    options = dict(call.options)
    options.pop("index", None)
    trailing = definition.theta_dims(call.theta, options["transform"])
    outer = call.theta.shape[: call.theta.dim() - trailing]
    if options["transform"] == "projective" and call.theta.shape[-1] == 3:
        options["transform"], call.theta = "affine", call.theta[..., :2, :]
    if 0 in outer or call.input.dtype == torch.float64 or "index" in call.options:
        return "no module", []
    initial = call.theta[0].float()
    if options["transform"] in ("tps", "piecewise_affine"):
        options.setdefault("control_points", math.isqrt(call.theta.shape[-2]))
    what = f"SpatialTransformer like {call}"
    made = partial(
        SpatialTransformer, misused.Constant(), call.out_size, in_features=1, initial_theta=initial,
        num_transformers=outer[1] if len(outer) == 2 else None, **options,
    )  # fmt: skip
    if not initial.isfinite().all():
        return what, misjudged(made, (ValueError,), "initial_theta")
    stn = made()
    y, theta = stn(call.input, return_theta=True)
    expected = stn_triton.st_sample(
        call.input, initial.expand(call.input.shape[0], *initial.shape), call.out_size, **options
    )
    wrong = []
    if not torch.equal(theta, initial.expand_as(theta)):
        wrong.append("theta is not initial_theta")
    if not torch.equal(y.nan_to_num(7.0), expected.nan_to_num(7.0)):
        wrong.append("not what st_sample gives")
    y.sum().backward()
    return what, wrong


_CALLS: tuple[Callable[[Draw], Found], ...] = (
    _grid, _products, _boxes, _matrices, _penalty, _parametrised, _module, _module, *[misused.judged] * 3,
)  # fmt: skip
