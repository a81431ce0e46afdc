"""Lattices of control points and points anywhere, and small inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.checks import draw_theta, make_input


def fiducials(count: int = 10, inside: float = 0.9) -> Tensor:
    """Points along the upper and along the lower edge, slightly inside, as text rectifiers have them."""
    x = torch.linspace(-inside, inside, count)
    rows = [torch.stack((x, torch.full_like(x, y)), -1) for y in (-0.8, 0.8)]
    return torch.cat(rows)


POINTS = {
    "(2, 10)": ("tps", (2, 10)),
    "fiducials": ("tps", fiducials()),
    "anywhere": ("tps", ((-1.2, -0.5), (0.9, -1), (0.3, 1.1), (-0.4, 0.2), (0.1, -0.3))),
    "(4, 2)": ("tps", (4, 2)),
    "triangles (2, 5)": ("piecewise_affine", (2, 5)),
    "triangles (4, 2)": ("piecewise_affine", (4, 2)),
}
IN_SIZE, OUT_SIZE = (4, 6), (3, 5)


def make(
    points: str, dtype: torch.dtype = torch.float64, k: int | None = None, n: int = 2,
    layout: str = "contiguous", device: torch.device | None = None, **sampling: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """Input, theta and the options of a case."""
    transform, control_points = POINTS[points]
    device = device or torch.device("cpu")
    u = make_input((n, 3, *IN_SIZE), dtype, layout, device)
    theta = draw_theta(
        (n,) if k is None else (n, k), dtype, device, IN_SIZE, OUT_SIZE, transform=transform,
        mode=sampling.get("mode", "bilinear"), align=sampling.get("align_corners", False),
        control_points=control_points, spread=0.25,
    )  # fmt: skip
    return u, theta, {"transform": transform, "control_points": control_points, **sampling}
