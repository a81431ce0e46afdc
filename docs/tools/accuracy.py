"""`python -m docs.tools.accuracy`: errors in half precision against float64, ours beside eager PyTorch's.

Eager computes the grid in the dtype of the image, since `grid_sample` takes both in one dtype. Ours takes the image in
that dtype and theta in float32. Both are compared with float64 on the image and the theta that they were given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_triton import st_sample

_SIDES = (32, 128, 512)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _eager(image: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)


def _errors(image: Tensor, theta: Tensor, ours: bool) -> tuple[float, float]:
    """The mean error of the result, and the error of theta's gradient relative to its norm."""
    run = (lambda u, t: st_sample(u, t, image.shape[2:])) if ours else _eager
    theta = theta.requires_grad_()
    exact_theta = theta.detach().double().requires_grad_()
    # A smooth weight, so that theta's gradient is more than rounding.
    y = torch.linspace(-1, 1, image.shape[2], dtype=torch.float64)
    weight = (1 - y[:, None] ** 2) * (1 - y**2) / y.numel() ** 2
    found, exact = run(image, theta), _eager(image.double(), exact_theta)
    (gradient,) = torch.autograd.grad((found.double() * weight).sum(), theta)
    (exact_gradient,) = torch.autograd.grad((exact * weight).sum(), exact_theta)
    off = (gradient.double() - exact_gradient).norm() / exact_gradient.norm()
    return (found.double() - exact).abs().mean().item(), off.item()


def errors(side: int, dtype: torch.dtype) -> Iterator[tuple[float, float]]:
    """Of eager and of ours: an image of smooth waves in [0, 1], turned by 20 degrees, no sample outside."""
    at = torch.linspace(0, 1, side, dtype=torch.float64)
    waves = torch.sin(60 * at)[:, None] * torch.sin(47 * at + 1) + torch.sin(31 * at[:, None] * at)
    image = (waves / 4 + 0.5).expand(1, 1, side, side).to(dtype)
    cos, sin = 0.7 * math.cos(math.radians(20)), 0.7 * math.sin(math.radians(20))
    theta = torch.tensor([[[cos, -sin, 0.0371], [sin, cos, -0.0533]]])
    yield _errors(image, theta.to(dtype), ours=False)
    yield _errors(image, theta, ours=True)


def markdown() -> str:
    """The table, measured now."""
    lines = [
        "| image | dtype | mean error: eager | ours | theta's gradient, relative: eager | ours |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for dtype in _DTYPES:
        for side in _SIDES:
            eager, ours = errors(side, dtype)
            cells = [_form(value) for pair in zip(eager, ours, strict=True) for value in pair]
            lines.append(f"| {side}x{side} | {str(dtype)[6:]} | {' | '.join(cells)} |")
    note = ""
    if any("NaN" in line for line in lines):
        note = (
            f"\nNaN: PyTorch's own sampler, torch {torch.__version__} on a CPU, made NaN of an image of "
            "finite numbers, sampled inside it.\n"
        )
    return "\n".join(lines) + "\n" + note


def _form(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.1e}"


if __name__ == "__main__":
    print(markdown())
