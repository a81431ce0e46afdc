"""What the tests of parametrisations share: their definition in float64, and what is bounded, recovered from theta."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_triton.parametrisations import (
    BoundedAffine,
    BoundedAttention,
    Parametrisation,
    Rotation,
    Similarity,
)

KINDS: list[type[Parametrisation]] = [Rotation, Similarity, BoundedAffine, BoundedAttention]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
F64 = torch.float64
BOUNDS = {"min_scale": 0.6, "max_scale": 1.7, "max_angle": 0.8, "max_shift": 0.3, "max_shear": 0.2}
NAMES: dict[type[Parametrisation], list[str]] = {
    Rotation: ["max_angle"],
    Similarity: ["min_scale", "max_scale", "max_angle", "max_shift"],
    BoundedAffine: list(BOUNDS),
    BoundedAttention: ["min_scale", "max_scale", "max_shift"],
}


def make(kind: type[Parametrisation], image_size: Any = None, **changed: Any) -> Parametrisation:
    bounds = BOUNDS | changed
    return kind(**{name: bounds[name] for name in NAMES[kind]}, image_size=image_size)


def matrix(theta: Tensor, image_size: tuple[int, int] | None) -> Tensor:
    """The linear part in pixels of the image, by definition: D A D^-1 with D = diag(w, h), in float64."""
    h, w = image_size or (1, 1)
    d = torch.diag(torch.tensor([w, h], dtype=F64))
    return d @ theta.double()[..., :2] @ torch.linalg.inv(d)


def parts(theta: Tensor, image_size: tuple[int, int] | None) -> dict[str, Tensor]:
    """Scales, angle and shear of A = R [[1, shear], [0, 1]] diag(scales), by QR decomposition."""
    a = matrix(theta, image_size)
    x, y = a.unbind(-1)
    along = x.norm(dim=-1)
    unit = x / along.unsqueeze(-1)
    normal = torch.stack((-unit[..., 1], unit[..., 0]), -1)
    across = (normal * y).sum(-1)
    return {
        "scale_x": along,
        "scale_y": across,
        "angle": torch.atan2(x[..., 1], x[..., 0]),
        "shear": (unit * y).sum(-1) / across,
        "x": theta.double()[..., 0, 2],
        "y": theta.double()[..., 1, 2],
    }


def definition(
    kind: type[Parametrisation], p: Tensor, image_size: tuple[int, int] | None
) -> Tensor:
    """theta in float64 by the matrix products of the docstrings, with the bounds of `make`."""
    p = p.double()
    b = BOUNDS

    def log_scale(q: Tensor) -> Tensor:
        down, up = -math.log(b["min_scale"]), math.log(b["max_scale"])
        steep = max(down, up)
        return torch.where(q > 0, up * (q * steep / up).tanh(), down * (q * steep / down).tanh())

    named = dict(zip(ORDER[kind], p.unbind(-1), strict=True))
    zero = torch.zeros_like(p[..., 0])
    sx = log_scale(named.get("scale", named.get("scale_x", zero))).exp()
    sy = log_scale(named.get("scale", named.get("scale_y", zero))).exp()
    angle = b["max_angle"] * named.get("angle", zero).tanh()
    shear = b["max_shear"] * named.get("shear", zero).tanh()
    shift = [b["max_shift"] * named.get(name, zero).tanh() for name in ("x", "y")]
    if kind is BoundedAttention:
        return torch.stack((sx, *shift), -1)
    h, w = image_size or (1, 1)
    d = torch.diag(torch.tensor([w, h], dtype=F64))
    rows = [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]]
    turn = torch.stack([torch.stack(row, -1) for row in rows], -2)
    lean = torch.stack((torch.ones_like(shear), shear, zero, torch.ones_like(shear)), -1)
    stretch = torch.diag_embed(torch.stack((sx, sy), -1))
    linear = torch.linalg.inv(d) @ turn @ lean.unflatten(-1, (2, 2)) @ stretch @ d
    return torch.cat((linear, torch.stack(shift, -1).unsqueeze(-1)), -1)


ORDER: dict[type[Parametrisation], list[str]] = {
    Rotation: ["angle"],
    Similarity: ["scale", "angle", "x", "y"],
    BoundedAffine: ["scale_x", "scale_y", "angle", "shear", "x", "y"],
    BoundedAttention: ["scale", "x", "y"],
}


def held(kind: Any, theta: Tensor, image_size: Any) -> None:
    """Checks the bounds: shifts and attention's scale to the last bit, what is recovered from theta up to rounding."""
    slack = 1e-5
    if kind is BoundedAttention:
        scale, x, y = theta.double().unbind(-1)
        found = {"scale_x": scale, "x": x, "y": y}
        slack = 0.0
    else:
        found = parts(theta, image_size)
        assert (torch.linalg.det(theta[..., :2].double()) > 0).all(), "no flips"
    allowed = {
        name: (-BOUNDS[bound], BOUNDS[bound])
        for name, bound in {
            "angle": "max_angle",
            "shear": "max_shear",
            "x": "max_shift",
            "y": "max_shift",
        }.items()
    }
    for name, values in found.items():
        within = 0.0 if name in ("x", "y") else slack
        low, high = allowed.get(name, (BOUNDS["min_scale"], BOUNDS["max_scale"]))
        assert values.min() >= low - within, name
        assert values.max() <= high + within, name
    if kind is Similarity:
        torch.testing.assert_close(found["scale_x"], found["scale_y"], rtol=0, atol=1e-5)
        torch.testing.assert_close(
            found["shear"], torch.zeros_like(found["shear"]), rtol=0, atol=1e-5
        )
