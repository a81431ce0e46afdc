"""What the tests of the operation share: inputs, PyTorch's own answer, and what counts as near enough."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import definition
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the package triton"
)
BACKENDS = ["torch", pytest.param("triton", marks=needs_triton)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = ["contiguous", "channels_last", "strided", "expanded", "transposed"]
OPTIONS: dict[str, list[Any]] = {
    "transform": ["affine", "attention"],
    "mode": ["bilinear", "nearest"],
    "padding_mode": ["zeros", "border"],
    "align_corners": [False, True],
}

Runner = Callable[..., Tensor]


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def pairwise(factors: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Cases that hold every pair of values of every two factors, few of them and always the same ones."""
    names = list(factors)
    everything = [dict(zip(names, values, strict=True)) for values in product(*factors.values())]

    def pairs(case: dict[str, Any]) -> set[Any]:
        return {(a, str(case[a]), b, str(case[b])) for a, b in combinations(names, 2)}

    # A fixed stride through the product: neighbours in it differ in one factor only.
    order = [everything[i * 7919 % len(everything)] for i in range(len(everything))]
    missing = set().union(*map(pairs, everything))
    cases = []
    while missing:
        best = max(order, key=lambda case: len(pairs(case) & missing))
        cases.append(best)
        missing -= pairs(best)
    return cases


def label(case: dict[str, Any]) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case.values())


def make_input(
    shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, device: torch.device
) -> Tensor:
    n, c, h, w = shape
    u = torch.randn(shape, device=device).to(dtype)
    if layout == "channels_last":
        u = u.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        u = torch.randn((n, c + 1, 2 * h, 3 * w), device=device).to(dtype)[:, 1:, ::2, 1::3]
    elif layout == "expanded":
        u = u[:1, :, :, :1].expand(shape)
    elif layout == "transposed":
        u = u.transpose(2, 3).contiguous().transpose(2, 3)
    assert u.shape == shape
    return u


def distance_to_kinks(
    theta: Tensor, in_size: tuple[int, int], out_size: tuple[int, int],
    transform: str, mode: str, align: bool,
) -> float:  # fmt: skip
    """How near, in pixels, a coordinate comes to where values (nearest) or slopes (bilinear) jump."""
    found = definition.coordinates(theta.double(), in_size, out_size, transform, align)
    # One pixel between aligned corners: whatever theta is, the coordinate is 0 without any rounding.
    movable = [s for s, size in zip(found, in_size[::-1], strict=True) if not (align and size == 1)]
    shifted = [s + (0.5 if mode == "nearest" else 0.0) for s in movable]
    return min((float((s - s.round()).abs().amin()) for s in shifted), default=1.0)


def draw_theta(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, in_size: tuple[int, int],
    out_size: tuple[int, int], *, transform: str, mode: str, align: bool, spread: float = 0.4,
) -> Tensor:  # fmt: skip
    """Thetas around the identity, all coordinates at least 1e-3 pixels away from kinks, after rounding to dtype."""
    trailing = [1.0, 0, 0, 0, 1, 0] if transform == "affine" else [1.0, 0, 0]
    identity = torch.tensor(trailing, dtype=torch.float64)
    identity = identity.view(2, 3) if transform == "affine" else identity
    count = int(torch.tensor(shape).prod())
    thetas: list[Tensor] = []
    for _ in range(count * 200):
        if len(thetas) == count:
            break
        theta = (identity + spread * torch.randn(identity.shape, dtype=torch.float64)).to(dtype)
        if distance_to_kinks(theta[None], in_size, out_size, transform, mode, align) > 1e-3:
            thetas.append(theta)
    assert len(thetas) == count, "no theta away from kinks: use fewer output pixels"
    stacked = torch.stack(thetas) if thetas else identity.new_empty((0, *identity.shape)).to(dtype)
    return stacked.view(*shape, *identity.shape).to(device)


def peer(
    u: Tensor, theta: Tensor, out_size: tuple[int, int], *, transform: str = "affine",
    mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool = False,
) -> Tensor:  # fmt: skip
    """`affine_grid` and `grid_sample` in the dtype in which `st_sample` computes."""
    wide = compute_dtype(u, theta)
    matrix = definition.matrix_of(theta.to(wide), transform)
    outer = matrix.shape[:-2]
    matrix = matrix.flatten(0, -3)
    images = u.to(wide)
    if len(outer) == 2:
        images = images.repeat_interleave(outer[1], 0)
    grid = F.affine_grid(matrix, [*images.shape[:2], *out_size], align_corners)
    out = F.grid_sample(images, grid, mode, padding_mode, align_corners).to(u.dtype)
    return out.unflatten(0, outer)


def plain(u: Tensor, theta: Tensor, out_size: tuple[int, int], **options: Any) -> Tensor:
    """The definition in the dtype in which `st_sample` computes: what arithmetic alone costs in accuracy."""
    wide = compute_dtype(u, theta)
    return definition.sample(u.to(wide), theta.to(wide), out_size, **options).to(u.dtype)


def exact(u: Tensor, theta: Tensor, out_size: tuple[int, int], **options: Any) -> Tensor:
    return definition.sample(u.double(), theta.double(), out_size, **options)


def with_gradients(
    run: Runner, u: Tensor, theta: Tensor, cotangent: Tensor, *args: Any, **options: Any
) -> dict[str, Tensor]:
    """The result of `run` and the gradients of <cotangent, result>."""
    u, theta = u.detach().requires_grad_(), theta.detach().requires_grad_()
    output = run(u, theta, *args, **options)
    grads = torch.autograd.grad(
        output, (u, theta), cotangent.to(output.dtype), materialize_grads=True
    )
    return {"output": output.detach(), "input gradient": grads[0], "theta gradient": grads[1]}


def within_budget(
    actual: Tensor, low: Tensor, true: Tensor, what: str = "", pixels: int = 0
) -> None:
    """Our error is at most twice PyTorch's in the same dtype, and a few roundings of the largest value.

    pixels: the longest side. The truth is float64 too, its coordinates are rounded, and so it has an error itself.
    """
    assert actual.shape == true.shape
    if not actual.numel():
        return
    true = true.double()
    largest = float(true.abs().amax())
    rounding = (torch.finfo(actual.dtype).eps + torch.finfo(torch.float64).eps * pixels) * largest
    ours = float((actual.double() - true).abs().amax())
    theirs = float((low.double() - true).abs().amax())
    assert ours <= 2 * theirs + 4 * rounding, (
        f"{what}: error {ours:.3g}, PyTorch's {theirs:.3g}, one rounding {rounding:.3g}"
    )


def check(
    run: Runner, u: Tensor, theta: Tensor, out_size: tuple[int, int],
    *, reference: Runner = peer, **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Result and both gradients of `run` against the definition in float64; returns them."""
    k = theta.shape[1 : theta.dim() - (2 if options.get("transform", "affine") == "affine" else 1)]
    cotangent = torch.randn((u.shape[0], *k, u.shape[1], *out_size), device=u.device).to(u.dtype)
    ours = with_gradients(run, u, theta, cotangent, out_size, **options)
    low = with_gradients(reference, u, theta, cotangent, out_size, **options)
    true = with_gradients(
        lambda u, theta, *a, **o: exact(u, theta, *a, **o), u.double(), theta.double(), cotangent,
        out_size, **options,
    )  # fmt: skip
    for name in ours:
        within_budget(ours[name], low[name], true[name], name, max(*u.shape[2:], *out_size))
    return ours
