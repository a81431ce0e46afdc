"""`st_sample` against the definition in float64, its result's format, and what must come out exactly."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import definition
from bench.layouts import LAYOUTS
from stn_triton import st_sample
from stn_triton.native.library import MISSING
from support.checks import (
    BACKENDS,
    DTYPES,
    OPTIONS,
    check,
    draw_theta,
    exact,
    label,
    make_input,
    needs_triton,
    pairwise,
    peer,
    triton_sample,
    with_gradients,
    within_budget,
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")

IN_SIZE, OUT_SIZE = (4, 5), (3, 4)
ALL_OPTIONS = [dict(zip(OPTIONS, values, strict=True)) for values in product(*OPTIONS.values())]


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in OPTIONS}


def make(
    case: dict[str, Any], device: torch.device, in_size: tuple[int, int] = IN_SIZE,
    out_size: tuple[int, int] = OUT_SIZE, channels: int = 3,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Input and theta of a case; what the case leaves open is ordinary."""
    k, dtype = case.get("k"), case.get("dtype", torch.float32)
    n = case.get("n", 2)
    u = make_input((n, channels, *in_size), dtype, case.get("layout", "contiguous"), device)
    theta = draw_theta(
        (n,) if k is None else (n, k), case.get("theta_dtype", dtype), device, in_size, out_size,
        transform=case.get("transform", "affine"), mode=case.get("mode", "bilinear"),
        align=case.get("align_corners", False), spread=case.get("spread", 0.4),
    )  # fmt: skip
    return u, theta


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=label)
def test_the_definition_is_pytorchs(options: dict[str, Any], k: int | None) -> None:
    u, theta = make({**options, "k": k, "dtype": torch.float64}, torch.device("cpu"))
    cotangent = torch.randn((2, *([k] if k else []), 3, *OUT_SIZE), dtype=torch.float64)
    ours = with_gradients(exact, u, theta, cotangent, OUT_SIZE, **options)
    theirs = with_gradients(peer, u, theta, cotangent, OUT_SIZE, **options)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("k", [None, 1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_backend(
    dtype: torch.dtype, layout: str, k: int | None, device: torch.device
) -> None:
    for options in ALL_OPTIONS:
        u, theta = make({**options, "k": k, "dtype": dtype, "layout": layout}, device)
        check(partial(st_sample, backend="torch"), u, theta, OUT_SIZE, **options)


@pytest.mark.parametrize("theta_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_backend_with_theta_of_another_dtype(
    dtype: torch.dtype, theta_dtype: torch.dtype, device: torch.device
) -> None:
    for options in ALL_OPTIONS:
        case = {**options, "k": 2, "dtype": dtype, "theta_dtype": theta_dtype}
        check(partial(st_sample, backend="torch"), *make(case, device), OUT_SIZE, **options)


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize(
    ("channels", "layout"), [(17, "channels_last"), (64, "contiguous"), (65, "strided")]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_torch_backend_with_many_channels(
    dtype: torch.dtype, channels: int, layout: str, k: int | None, device: torch.device
) -> None:
    for options in ALL_OPTIONS:
        case = {**options, "k": k, "dtype": dtype, "layout": layout, "theta_dtype": torch.float32}
        u, theta = make({**case, "spread": 0.9}, device, channels=channels)
        check(partial(st_sample, backend="torch"), u, theta, OUT_SIZE, **options)


TRITON_CASES = pairwise(
    {**OPTIONS, "dtype": DTYPES, "theta_dtype": DTYPES, "layout": LAYOUTS, "k": [None, 1, 3]}
)


def weigh(case: dict[str, Any]) -> Any:
    """A case as a parameter: in the interpreter, three transformers with "border" take seconds, and are marked slow."""
    slow = case["padding_mode"] == "border" and case["k"] == 3
    one_image = {"n": 1} if slow else {}
    return pytest.param({**case, **one_image}, id=label(case), marks=[pytest.mark.slow] * slow)


@needs_triton
@pytest.mark.parametrize("case", [weigh(case) for case in TRITON_CASES])
def test_triton_backend(case: dict[str, Any], device: torch.device) -> None:
    check(triton_sample, *make(case, device), OUT_SIZE, **options_of(case))


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_backend_with_vectors_of_channels(dtype: torch.dtype, device: torch.device) -> None:
    case = {"dtype": dtype, "layout": "channels_last", "k": 2}
    check(triton_sample, *make(case, device, channels=8), OUT_SIZE)


@needs_triton
@pytest.mark.parametrize(
    ("in_size", "out_size", "channels"),
    [
        ((1, 1), (3, 2), 1), ((1, 7), (2, 3), 2), ((6, 1), (1, 1), 5),
        ((17, 18), (3, 4), 1), ((3, 5), (2, 33), 3),
        pytest.param((2, 3), (18, 2), 17, marks=pytest.mark.slow),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("align", [False, True])
def test_triton_backend_with_sizes_off_the_tile(
    in_size: tuple[int, int], out_size: tuple[int, int], channels: int, align: bool, device: torch.device
) -> None:  # fmt: skip
    u, theta = make({"align_corners": align, "n": 1}, device, in_size, out_size, channels)
    check(triton_sample, u, theta, out_size, align_corners=align)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("layout", "cotangent", "theta_layout"),
    [
        ("contiguous", "expanded", "transposed"), ("contiguous", "channels_last", "expanded"),
        ("channels_last", "strided", "expanded"), ("channels_last", "contiguous", "transposed"),
    ],
)  # fmt: skip
def test_any_strides_of_theta_and_of_the_gradient(
    backend: str, layout: str, cotangent: str, theta_layout: str, device: torch.device
) -> None:
    out_size = (3, 2)
    u, theta = make({"layout": layout}, device, (2, 3), out_size)
    grad = make_input((2, 3, *out_size), torch.float32, cotangent, device)
    if theta_layout == "transposed":
        odd = theta.transpose(1, 2).contiguous().transpose(1, 2)
    else:
        theta = theta[:1].expand_as(theta)
        odd, theta = theta, theta.contiguous()
    assert not odd.is_contiguous()
    run = partial(st_sample, backend=backend)
    ours = with_gradients(run, u, odd, grad, out_size)
    usual = with_gradients(run, u, theta, grad.contiguous(), out_size)
    for name in ours:
        assert torch.equal(ours[name], usual[name]), name


def keeps_format(tensor: Tensor, channels_last: bool) -> bool:
    return (tensor.movedim(-3, -1) if channels_last else tensor).is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [None, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_dtypes_and_memory_formats(
    backend: str, layout: str, k: int | None, channels: int, device: torch.device
) -> None:
    case = {"layout": layout, "k": k, "dtype": torch.float16, "theta_dtype": torch.float32}
    u, theta = make(case, device, (3, 2), (2, 2), channels)
    outer = (2,) if k is None else (2, k)
    cotangent = torch.randn((*outer, channels, 2, 2), device=device)
    found = with_gradients(partial(st_sample, backend=backend), u, theta, cotangent, (2, 2))
    assert [t.dtype for t in found.values()] == [torch.float16, torch.float16, torch.float32]
    assert found["output"].shape == (*outer, channels, 2, 2)
    assert found["input gradient"].shape == u.shape
    assert found["theta gradient"].shape == theta.shape
    channels_last = layout == "channels_last" and channels > 1
    assert keeps_format(found["output"], channels_last)
    assert keeps_format(found["input gradient"], channels_last)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("transform", ["affine", pytest.param("attention", marks=pytest.mark.slow)])
def test_one_gradient_alone_is_the_same(
    backend: str, transform: str, padding_mode: str, device: torch.device
) -> None:
    # The second theta is the identity: whole coordinates, where a kernel could take another side.
    size = (3, 3)
    case = {"transform": transform, "dtype": torch.float64}
    u, theta = make(case, device, size, size, channels=2)
    theta[1] = torch.eye(2, 3) if transform == "affine" else torch.tensor([1.0, 0, 0])
    u, theta = u.requires_grad_(), theta.requires_grad_()
    options = {"transform": transform, "padding_mode": padding_mode, "backend": backend}
    cotangent = torch.randn((2, 2, *size), dtype=torch.float64, device=device)

    def gradients(u: Tensor, theta: Tensor, *wanted: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(st_sample(u, theta, size, **options), wanted, cotangent)

    of_input, of_theta = gradients(u, theta, u, theta)
    (input_alone,) = gradients(u, theta.detach(), u)
    (theta_alone,) = gradients(u.detach(), theta, theta)
    (input_asked,) = gradients(u, theta, u)
    assert torch.equal(of_input, input_alone)
    assert torch.equal(of_input, input_asked)
    torch.testing.assert_close(of_theta, theta_alone, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transform", ["affine", "attention"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("n", "k", "channels"), [(0, None, 3), (2, 0, 3), (2, None, 0), (2, 2, 0), (0, 0, 0)]
)
def test_empty(
    backend: str, transform: str, mode: str, n: int, k: int | None, channels: int, device: torch.device
) -> None:  # fmt: skip
    u = torch.randn(n, channels, *IN_SIZE, device=device, requires_grad=True)
    outer = (n,) if k is None else (n, k)
    theta = torch.randn(*outer, *((2, 3) if transform == "affine" else (3,)), device=device)
    theta.requires_grad_()
    out = st_sample(u, theta, OUT_SIZE, transform=transform, mode=mode, backend=backend)
    assert out.shape == (*outer, channels, *OUT_SIZE)
    of_input, of_theta = torch.autograd.grad(
        out.sum(), (u, theta), allow_unused=False, materialize_grads=False
    )
    # An input that no transformer reads and a theta without channels have gradients of 0, not None.
    assert torch.equal(of_input, torch.zeros_like(u))
    assert torch.equal(of_theta, torch.zeros_like(theta))


@pytest.mark.parametrize("backend", BACKENDS)
def test_theta_of_nearest_has_the_gradient_zero(backend: str, device: torch.device) -> None:
    u, theta = make({"mode": "nearest"}, device)
    theta.requires_grad_()
    out = st_sample(u, theta, OUT_SIZE, mode="nearest", backend=backend)
    (grad,) = torch.autograd.grad(out.sum(), theta)
    assert torch.equal(grad, torch.zeros_like(theta))


EXACT = {
    "identity": ([[1, 0, 0], [0, 1, 0]], lambda u: u),
    "flip x": ([[-1, 0, 0], [0, 1, 0]], lambda u: u.flip(3)),
    "flip y": ([[1, 0, 0], [0, -1, 0]], lambda u: u.flip(2)),
    "half turn": ([[-1, 0, 0], [0, -1, 0]], lambda u: u.flip(2, 3)),
    "quarter turn": ([[0, 1, 0], [-1, 0, 0]], lambda u: u.rot90(-1, (2, 3))),
    "other quarter turn": ([[0, -1, 0], [1, 0, 0]], lambda u: u.rot90(1, (2, 3))),
    "transposition": ([[0, 1, 0], [1, 0, 0]], lambda u: u.transpose(2, 3)),
}


@needs_triton
@pytest.mark.parametrize(
    "options", [o for o in ALL_OPTIONS if o["transform"] == "affine"], ids=label
)
@pytest.mark.parametrize("name", EXACT)
def test_exact_transforms(name: str, options: dict[str, Any], device: torch.device) -> None:
    matrix, expected = EXACT[name]
    for size in [(10, 7), (3, 1)] if name in {"identity", "half turn"} else [(7, 7), (10, 10)]:
        dtype = torch.bfloat16 if size == (3, 1) else torch.float32
        u = torch.randn(1, 1, *size, device=device).to(dtype)
        theta = torch.tensor([matrix], dtype=torch.float32, device=device)
        assert torch.equal(triton_sample(u, theta, size, **options), expected(u))


@needs_triton
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("shift", [(1, 0), (-2, 3), (0, -1), (12, 0)], ids=str)
def test_shifts_by_whole_pixels(shift: tuple[int, int], align: bool, device: torch.device) -> None:
    for height, width in ((6, 7), (11, 13)):
        u = torch.rand(1, 1, height, width, device=device) * 2 - 1
        right, down = shift
        tx, ty = 2 * right / (width - align), 2 * down / (height - align)
        theta = torch.tensor([[[1.0, 0, tx], [0, 1, ty]]], device=device)
        moved = torch.zeros_like(u)
        for y, x in product(range(height), range(width)):
            if 0 <= y + down < height and 0 <= x + right < width:
                moved[:, :, y, x] = u[:, :, y + down, x + right]
        error = (triton_sample(u, theta, (height, width), align_corners=align) - moved).abs().amax()
        bound = 4 * torch.finfo(torch.float32).eps * max(height, width) * u.abs().amax()
        assert error <= bound


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", ALL_OPTIONS, ids=label)
def test_identity(options: dict[str, Any], backend: str, device: torch.device) -> None:
    for size in ((28, 28), (5, 23)):
        u = torch.randn(2, 1, *size, device=device)
        identity = [[1.0, 0, 0], [0, 1, 0]] if options["transform"] == "affine" else [1.0, 0, 0]
        theta = torch.tensor(identity, device=device).expand(2, *torch.tensor(identity).shape)
        out = st_sample(u, theta, size, backend=backend, **options)
        assert (out - u).abs().amax() <= 4e-6 * u.abs().amax()


@pytest.mark.parametrize("backend", BACKENDS)
def test_antialias_of_one_is_none(backend: str, device: torch.device) -> None:
    u, theta = make({}, device)
    once = st_sample(u, theta, OUT_SIZE, antialias=1, backend=backend)
    assert torch.equal(once, st_sample(u, theta, OUT_SIZE, antialias=False, backend=backend))


def test_default_backend_of_cpu_tensors() -> None:
    """The native library where it was built, else torch."""
    u, theta = make({}, torch.device("cpu"))
    default = "torch" if MISSING else "native"
    expected = st_sample(u, theta, list(OUT_SIZE), backend=default)
    assert torch.equal(st_sample(u, theta, OUT_SIZE), expected)


@pytest.mark.gpu
@needs_triton
def test_default_backend_of_gpu_tensors_is_triton() -> None:
    u, theta = make({}, torch.device("cuda"))
    assert torch.equal(st_sample(u, theta, OUT_SIZE), triton_sample(u, theta, OUT_SIZE))


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_is_the_affine_of_equation_2(backend: str, device: torch.device) -> None:
    u, theta = make({"transform": "attention", "k": 2}, device)
    matrix = definition.matrix_of(theta, "attention")
    as_attention = st_sample(u, theta, OUT_SIZE, transform="attention", backend=backend)
    assert torch.equal(as_attention, st_sample(u, matrix, OUT_SIZE, backend=backend))


def test_the_budget_can_fail() -> None:
    true = torch.linspace(-1, 1, 50, dtype=torch.float64)
    low = true.float()
    within_budget(low, low, true)
    for wrong in (low * 1.001, low.flip(0), low.masked_fill(true > 0.9, torch.nan)):
        with pytest.raises(AssertionError):
            within_budget(wrong, low, true)
