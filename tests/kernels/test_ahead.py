"""`warmup`: that it compiles what calls will need, and nothing where there is nothing to compile."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from stn_triton import ahead, identity_theta, st_sample, warmup
from stn_triton.kernels.launch import INTERPRET, Launch, recorded

CASES: list[dict[str, Any]] = [
    {},
    {"dtype": torch.bfloat16, "channels_last": True, "num_transformers": 2},
    {"transform": "tps", "control_points": 3, "padding_mode": "reflection"},
    {"transform": "tps", "control_points": [(-1, -1), (1, -1), (0, 1), (0.5, 0)]},
    {"transform": "piecewise_affine", "control_points": (2, 5), "gradients": ("theta",)},
    {"transform": "attention", "antialias": True, "theta_dtype": torch.float64},
    {"padding_value": 0.5, "num_transformers": 2},
    {"num_crops": 3},
    {"gradients": ()},
    {"gradients": ("theta",), "mode": "bicubic"},
]


def of(launch: Launch) -> tuple[Any, ...]:
    """What decides which kernel is compiled."""
    dtypes = [a.dtype if isinstance(a, torch.Tensor) else type(a) for a in launch.args]
    return launch.kernel, dtypes, launch.keywords(9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernels_of_a_call_are_compiled(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Launch] = []
    monkeypatch.setattr(Launch, "compile", lambda launch: compiled.append(launch))
    monkeypatch.setattr(ahead, "INTERPRET", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    count = warmup((2, 16, 5, 6), (3, 4), **case)

    named = (
        "transform", "mode", "padding_mode", "padding_value", "antialias", "control_points",
    )  # fmt: skip
    options = {k: case[k] for k in named if k in case}
    gradients = case.get("gradients", ("input", "theta"))
    one = identity_theta(
        case.get("transform", "affine"), control_points=case.get("control_points", 4),
        dtype=case.get("theta_dtype", torch.float32),
    )  # fmt: skip
    lead = (2, case["num_transformers"]) if "num_transformers" in case else (2,)
    if "num_crops" in case:
        lead = (case["num_crops"],)
        options["index"] = torch.zeros(lead, dtype=torch.int64)
    u = torch.zeros(2, 16, 5, 6, dtype=case.get("dtype", torch.float32))
    if case.get("channels_last"):
        u = u.contiguous(memory_format=torch.channels_last)
    theta = one.expand(*lead, *one.shape).clone()
    u, theta = u.requires_grad_("input" in gradients), theta.requires_grad_("theta" in gradients)
    with recorded() as found:
        out = st_sample(u, theta, (3, 4), backend="triton", **options)
        if out.requires_grad:
            out.sum().backward()
    assert count == len(compiled) == len(found)
    assert [of(each) for each in compiled] == [of(each) for each in found]


@pytest.mark.skipif(not INTERPRET, reason="with a GPU there is something to compile")
def test_nothing_to_compile() -> None:
    assert warmup((2, 3, 8, 8), (8, 8)) == 0
    assert warmup((2, 3, 8, 8)) == 0, "to the same size"
    assert warmup((2, 3, 8, 8), (8, 8), device="cpu") == 0


@pytest.mark.gpu
def test_the_first_call_compiles_nothing() -> None:
    shape, size = (2, 24, 31, 33), (17, 19)
    with recorded() as launches:
        u = torch.empty(shape, device="meta", dtype=torch.float16, requires_grad=True)
        theta = torch.empty(2, 2, 3, device="meta", requires_grad=True)
        st_sample(u, theta, size, backend="triton").sum().backward()
    assert warmup(shape, size, dtype=torch.float16) == len(launches)

    def compiled() -> int:
        kernels = {each.kernel for each in launches}
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    before = compiled()
    u = torch.randn(shape, device="cuda", dtype=torch.float16, requires_grad=True)
    theta = torch.eye(2, 3, device="cuda").repeat(2, 1, 1).requires_grad_()
    st_sample(u, theta, size).sum().backward()
    assert compiled() == before


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (((2, 3, 8, 8), (8, 8)), {"gradients": ("grid",)}, ValueError, "gradients.*'grid'"),
        (((2, 3, 8, 8), (8,)), {}, ValueError, "out_size"),
        (((2, 3, 8), (8, 8)), {}, ValueError, r"\(N, C, H, W\)"),
        ((torch.rand(1, 1, 4, 4), (4, 4)), {}, TypeError, "input_shape must be .* got Tensor"),
        (((1,), (4, 4)), {}, ValueError, r"input_shape .*\(N, C, H, W\).*got \(1,\)"),
        (
            ((2, 3, 8, 8), (8, 8)),
            {"gradients": "input"},
            TypeError,
            "sequence of names, got 'input'",
        ),
        (
            ((2, 3, 8, 8), (8, 8)),
            {"num_transformers": 1.5},
            TypeError,
            "num_transformers must be an int",
        ),
        (
            ((2, 3, 8, 8), (8, 8)),
            {"theta_dtype": "f"},
            TypeError,
            "theta_dtype must be a float dtype, got 'f'",
        ),
        (
            ((2, 3, 8, 8), (8, 8)),
            {"channels_last": 3},
            TypeError,
            "channels_last must be a bool, got 3",
        ),
        (((2, 3, 8, 8), (8, 8)), {"dtype": torch.int32}, TypeError, "int32"),
        (((2, 3, 8, 8), (8, 8)), {"transform": "rigid"}, ValueError, "transform.*'rigid'"),
    ],
)
def test_refused(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        warmup(*arguments, **options)
