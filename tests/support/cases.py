"""Cases of the options of `st_sample`: the maps by name, small sizes, and what a case is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.checks import draw_theta, make_input

MAPS = {
    "affine": ("affine", None), "attention": ("attention", None),
    "projective": ("projective", (8,)), "projective 3x3": ("projective", (3, 3)),
    "tps": ("tps", (9, 2)), "piecewise_affine": ("piecewise_affine", (9, 2)),
}  # fmt: skip
PADDINGS = ["zeros", "border", "reflection"]
IN_SIZES, OUT_SIZES = {2: (4, 5), 3: (3, 4, 5)}, {2: (3, 4), 3: (2, 3, 2)}
SAMPLING = ("transform", "mode", "padding_mode", "padding_value", "align_corners", "antialias")


def make(
    case: dict[str, Any], device: torch.device, ndim: int = 2, channels: int = 3
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Input, theta and the options of a case; what the case leaves open is ordinary."""
    transform, form = MAPS[case.get("map", "affine")]
    k, dtype, antialias = (
        case.get("k"),
        case.get("dtype", torch.float32),
        case.get("antialias", False),
    )
    u = make_input((2, channels, *IN_SIZES[ndim]), dtype, case.get("layout", "contiguous"), device)
    theta = draw_theta(
        (2,) if k is None else (2, k), case.get("theta_dtype", dtype), device, IN_SIZES[ndim],
        OUT_SIZES[ndim], transform=transform, mode=case.get("mode", "bilinear"), form=form,
        align=case.get("align_corners", False), antialias=antialias, spread=case.get("spread", 0.4),
    )  # fmt: skip
    options = {"transform": transform} | {o: case[o] for o in SAMPLING if o in case}
    if "index" in case:
        options["index"] = torch.tensor(case["index"], device=device)
    return u, theta, options
