"""What the tests of the operation share: inputs, PyTorch's own answer, and what counts as near enough."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations, product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import definition
from bench.budget import beyond_budget, roundings_of_truth
from bench.definition import identity
from bench.layouts import laid_out
from stn_triton import st_sample
from stn_triton.native.library import MISSING

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs the package triton"
)
needs_native = pytest.mark.skipif(
    MISSING is not None, reason=f"needs the native library: {MISSING}"
)
on_a_cpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="tests run on the GPU, the native backend on a CPU"
)
NATIVE = pytest.param("native", marks=[needs_native, on_a_cpu])
BACKENDS = ["torch", NATIVE, pytest.param("triton", marks=needs_triton)]
SLOW_TRITON = ["torch", NATIVE, pytest.param("triton", marks=[needs_triton, pytest.mark.slow])]
"""All backends, for tests in which interpreted kernels take seconds."""


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def mostly_slow(cases: Sequence[Any], every: int = 4) -> list[Any]:
    """All cases as parameters; the quick tests take one of `every`."""
    return [
        case if number % every == 0 else pytest.param(case, marks=pytest.mark.slow)
        for number, case in enumerate(cases)
    ]


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OPTIONS: dict[str, list[Any]] = {
    "transform": ["affine", "attention"],
    "mode": ["bilinear", "nearest"],
    "padding_mode": ["zeros", "border"],
    "align_corners": [False, True],
}

Size = tuple[int, ...]
Runner = Callable[..., Tensor]
triton_sample = partial(st_sample, backend="triton")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def pairwise(factors: dict[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A few cases, always the same ones, that together hold every pair of values of every two factors."""
    names = list(factors)
    everything = [dict(zip(names, values, strict=True)) for values in product(*factors.values())]

    def pairs(case: dict[str, Any]) -> set[Any]:
        return {(a, str(case[a]), b, str(case[b])) for a, b in combinations(names, 2)}

    # A fixed stride through the product: neighbours in it differ in one factor only.
    order = [everything[i * 7919 % len(everything)] for i in range(len(everything))]
    held = [pairs(case) for case in order]
    missing = set().union(*held)
    cases = []
    while missing:
        best = max(range(len(order)), key=lambda number: len(held[number] & missing))
        cases.append(order[best])
        missing -= held[best]
    return cases


def label(case: dict[str, Any]) -> str:
    return "-".join(str(value).removeprefix("torch.") for value in case.values())


def make_input(shape: Size, dtype: torch.dtype, layout: str, device: torch.device) -> Tensor:
    return laid_out(torch.randn(shape, device=device).to(dtype), layout)


def distance_to_kinks(
    theta: Tensor, in_size: Size, out_size: Size, transform: str, mode: str, align: bool,
    control_points: Any = None,
) -> float:  # fmt: skip
    """How near, in pixels, a coordinate comes to where values (nearest) or slopes (bilinear) jump.

    Reflection adds no places, nor does "bicubic", whose second derivative jumps where the slope of "bilinear" does.
    """
    where = transform, align, control_points
    found = definition.coordinates(theta.double(), in_size, out_size, *where)
    # One pixel between aligned corners: whatever theta is, the coordinate is 0 without any rounding.
    movable = [s for s, size in zip(found, in_size[::-1], strict=True) if not (align and size == 1)]
    shifted = [s + (0.5 if mode == "nearest" else 0.0) for s in movable]
    return min((float((s - s.round()).abs().amin()) for s in shifted), default=1.0)


def draw_theta(
    shape: Size, dtype: torch.dtype, device: torch.device, in_size: Size, out_size: Size,
    *, transform: str, mode: str, align: bool, spread: float = 0.4, form: Size | None = None,
    antialias: bool | int = False, control_points: Any = None,
) -> Tensor:  # fmt: skip
    """Thetas around the identity, all coordinates at least 1e-3 pixels away from kinks, after rounding to dtype."""
    start = identity(transform, len(in_size), form, control_points)
    # Divisors stay away from 0, and splines between their points, where rounding errors stay small.
    scale = torch.full_like(start, spread if transform in ("affine", "attention") else spread / 2)
    if transform == "projective":
        scale.view(-1)[6:] /= 2
    count = math.prod(shape)
    thetas: list[Tensor] = []
    for _ in range(count * 400):
        if len(thetas) == count:
            break
        theta = (start + scale * torch.randn(start.shape, dtype=torch.float64)).to(dtype)
        samples = antialias or 1
        if antialias is True:
            samples = definition.samples(theta, in_size, out_size, transform)
        finer = tuple(samples * length for length in out_size)
        where = in_size, finer, transform, mode, align, control_points
        if distance_to_kinks(theta[None], *where) > 1e-3:
            thetas.append(theta)
    assert len(thetas) == count, "no theta away from kinks: use fewer output pixels"
    stacked = torch.stack(thetas) if thetas else start.new_empty((0, *start.shape)).to(dtype)
    return stacked.view(*shape, *start.shape).to(device)


def peer(
    u: Tensor, theta: Tensor, out_size: Size, *, transform: str = "affine", mode: str = "bilinear",
    padding_mode: str = "zeros", padding_value: float = 0.0, align_corners: bool = False,
    antialias: bool | int = False, control_points: Any = None, index: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`affine_grid` or the definition's grid, and `grid_sample`, in the dtype in which `st_sample` computes."""
    wide = compute_dtype(u, theta)
    theta = theta.to(wide)
    outer = theta.shape[: theta.dim() - definition.theta_dims(theta, transform)]
    images = u.to(wide) if index is None else u.to(wide)[index]
    if len(outer) == 2:
        images = images.repeat_interleave(outer[1], 0)
    finer = tuple((antialias or 1) * length for length in out_size)
    if transform in ("affine", "attention"):
        matrix = definition.matrix_of(theta, transform).flatten(0, -3)
        grid = F.affine_grid(matrix, [*images.shape[:2], *finer], align_corners)
    else:
        found = definition.normalised(theta, finer, transform, align_corners, control_points)
        grid = torch.stack(found, -1).flatten(0, len(outer) - 1)
    out = F.grid_sample(images, grid, mode, padding_mode, align_corners)
    if padding_value:
        ones = torch.ones_like(images[:, :1])
        inside = F.grid_sample(ones, grid, mode, padding_mode, align_corners)
        out = out + padding_value * (1 - inside)
    if antialias:
        out = (F.avg_pool2d if len(out_size) == 2 else F.avg_pool3d)(out, antialias)
    return out.to(u.dtype).unflatten(0, outer)


def plain(u: Tensor, theta: Tensor, out_size: Size, **options: Any) -> Tensor:
    """The definition in the dtype in which `st_sample` computes: what arithmetic alone costs in accuracy."""
    wide = compute_dtype(u, theta)
    return definition.sample(u.to(wide), theta.to(wide), out_size, **options).to(u.dtype)


def exact(u: Tensor, theta: Tensor, out_size: Size, **options: Any) -> Tensor:
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

    pixels: the longest side. The truth in float64 has rounded coordinates, and so an error that grows with it.
    """
    wrong = beyond_budget(actual, low, true, of_truth=pixels)
    assert wrong is None, f"{what}: {wrong}"


def check(
    run: Runner, u: Tensor, theta: Tensor, out_size: Size,
    *, reference: Runner = peer, **options: Any,
) -> dict[str, Tensor]:  # fmt: skip
    """Compares result and both gradients of `run` with the definition in float64, and returns them."""
    trailing = definition.theta_dims(theta, options.get("transform", "affine"))
    k = theta.shape[1 : theta.dim() - trailing]
    maps = u.shape[0] if options.get("index") is None else len(theta)
    cotangent = torch.randn((maps, *k, u.shape[1], *out_size), device=u.device).to(u.dtype)
    ours = with_gradients(run, u, theta, cotangent, out_size, **options)
    low = with_gradients(reference, u, theta, cotangent, out_size, **options)
    true = with_gradients(
        lambda u, theta, *a, **o: exact(u, theta, *a, **o), u.double(), theta.double(), cotangent,
        out_size, **options,
    )  # fmt: skip
    transform, mode = options.get("transform", "affine"), options.get("mode", "bilinear")
    pixels = roundings_of_truth((*u.shape[2:], *out_size), transform=transform, mode=mode)
    for name in ours:
        within_budget(ours[name], low[name], true[name], name, pixels)
    return ours


def example_of(
    transform: str = "affine", n: int = 1, channels: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """A small image and a theta near the identity."""
    start = identity(transform)
    return torch.randn(n, channels, 3, 4, dtype=dtype), (
        start + 0.2 * torch.randn(n, *start.shape, dtype=torch.float64)
    ).to(dtype)


def check_refused(call: Callable[[], object], error: type[Exception], words: Sequence[str]) -> None:
    """A call must raise exactly this error, whose message holds all the words."""
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
