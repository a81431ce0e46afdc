"""`padding_value`: every tap outside counts as this number, in values and in every derivative."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

from stn_triton import SpatialTransformer, st_sample
from support.cases import MAPS, OUT_SIZES, make
from support.checks import (
    BACKENDS,
    DTYPES,
    NATIVE,
    SLOW_TRITON,
    check,
    label,
    mostly_slow,
    needs_triton,
    pairwise,
    plain,
    with_gradients,
)

EXACT = [NATIVE, pytest.param("triton", marks=needs_triton)]
"""The backends whose identity is exact."""
VALUES = (0.1, -3e6, 1e-30)

PLANES = pairwise(
    {
        "map": list(MAPS), "mode": ["bilinear", "nearest", "bicubic"], "align_corners": [False, True],
        "dtype": DTYPES, "layout": ["contiguous", "channels_last", "strided"], "k": [None, 2],
        "padding_value": [2.5, -0.3],
    }
)  # fmt: skip
VOLUMES = [
    {"map": "affine", "dtype": torch.float32, "padding_value": 2.5},
    {"map": "attention", "mode": "nearest", "dtype": torch.bfloat16, "padding_value": -0.3, "k": 2},
    {"map": "affine", "dtype": torch.float64, "layout": "channels_last", "padding_value": 2.5},
]
SAMPLES = [
    {"map": "affine", "antialias": 3, "dtype": torch.float32},
    {"map": "attention", "antialias": True, "k": 2, "dtype": torch.float16},
    {"map": "projective", "antialias": 2, "mode": "bicubic", "dtype": torch.float64},
]


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", mostly_slow(PLANES, 2), ids=label)
def test_planes(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = make({**case, "spread": 0.6}, device)
    check(partial(st_sample, backend=backend), u, theta, OUT_SIZES[2], **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", VOLUMES, ids=label)
def test_volumes(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = make({**case, "spread": 0.6}, device, 3)
    check(partial(st_sample, backend=backend), u, theta, OUT_SIZES[3], **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", SAMPLES, ids=label)
def test_means_of_samples(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = make({**case, "padding_value": 2.5, "spread": 0.6}, device)
    check(partial(st_sample, backend=backend), u, theta, OUT_SIZES[2], reference=plain, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("antialias", [3, 5, True])
def test_a_mean_of_samples_outside_is_the_value(
    antialias: int | bool, backend: str, device: torch.device
) -> None:
    theta = torch.tensor([[[2.7, 0.9, 1.5], [-0.6, 2.7, 1.0]]], device=device)
    for channels, layout in product((1, 9), (torch.contiguous_format, torch.channels_last)):
        ones = torch.ones(1, channels, 5, 6, device=device).contiguous(memory_format=layout)
        options: dict[str, Any] = {"antialias": antialias, "backend": backend}
        outside = st_sample(ones, theta, (9, 7), **options) == 0
        assert 0.2 < outside.float().mean() < 0.9
        for value in VALUES:
            found = st_sample(ones, theta, (9, 7), padding_value=value, **options)
            assert (found[outside] == value).all()


@needs_triton
@pytest.mark.parametrize("case", PLANES[::9], ids=label)
def test_a_few_planes_by_kernels(case: dict[str, Any], device: torch.device) -> None:
    u, theta, options = make({**case, "k": None, "spread": 0.6}, device)
    check(partial(st_sample, backend="triton"), u[:1], theta[:1], OUT_SIZES[2], **options)


@pytest.mark.slow
@needs_triton
def test_tiles_pixel_by_pixel(device: torch.device) -> None:
    # Nearly singular: a few pixels at the image's edge gather most of the output.
    matrix = [[1e-3, 0.4, -0.95], [2e-3, 1e-3, 0.3]]
    theta = torch.tensor([matrix], device=device, dtype=torch.float64)
    u = torch.randn(1, 2, 6, 7, device=device, dtype=torch.float64)
    check(partial(st_sample, backend="triton"), u, theta, (40, 11), padding_value=2.5)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("backend", EXACT)
def test_identity_flips_and_quarter_turns_are_exact(
    backend: str, value: float, device: torch.device
) -> None:
    u = torch.randn(1, 2, 6, 6, device=device)
    theta = torch.tensor(
        [[[1.0, 0, 0], [0, 1, 0]], [[-1, 0, 0], [0, -1, 0]], [[0, -1, 0], [1, 0, 0]]], device=device
    )
    for mode, align_corners in product(("bilinear", "nearest", "bicubic"), (False, True)):
        out = st_sample(
            u, theta[None], (6, 6), mode=mode, align_corners=align_corners, padding_value=value, backend=backend
        )  # fmt: skip
        expected = torch.stack((u, u.flip(-1, -2), u.rot90(1, (-2, -1))), 1)
        assert torch.equal(out, expected), mode


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_what_lies_outside_altogether(
    backend: str, dtype: torch.dtype, device: torch.device
) -> None:
    u = torch.randn(1, 1, 4, 5, device=device, dtype=dtype)
    theta = torch.tensor(
        [[[0.9, 0.1, 40], [0.2, 0.8, 0]], [[1, 0, math.nan], [0, 1, 0]], [[1, 0, 0], [0, 1, math.inf]]],
        device=device,
    )  # fmt: skip
    cotangent = torch.full((1, 3, 1, 3, 4), math.inf, device=device)
    # Triton's interpreter rounds to bfloat16 towards 0.
    small = 0.125 if backend == "triton" and dtype == torch.bfloat16 else 0.1
    for mode, value in product(("bilinear", "nearest", "bicubic"), (small, 7)):
        run = partial(st_sample, mode=mode, padding_value=value, backend=backend)
        found = with_gradients(run, u, theta[None], cotangent, (3, 4))
        assert torch.equal(found["output"], torch.full_like(found["output"], value)), mode
        assert not found["input gradient"].any()
        assert not found["theta gradient"].any()
        averaged = run(u, theta[None], (3, 4), antialias=3)
        expected = torch.full_like(averaged, value)
        # The sum of nine samples is rounded.
        eps = 0 if backend == "triton" else 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(averaged, expected, rtol=eps, atol=0, msg=mode)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_pixels_that_are_not_finite(backend: str, device: torch.device) -> None:
    u = torch.full((1, 1, 4, 4), math.inf, device=device)
    theta = torch.tensor([[[1.0, 0, -1.2], [0, 0.3, 0]]], device=device)  # at x = -1.9 and 0.1
    run = partial(st_sample, padding_value=-1.0, backend=backend)
    found = with_gradients(run, u, theta, torch.ones(1, 1, 2, 2, device=device), (2, 2))
    assert torch.equal(found["output"][..., 0], torch.full((1, 1, 2), -1.0, device=device))
    assert found["output"][..., 1].isinf().all()


def test_a_module_samples_with_it() -> None:
    options: dict[str, Any] = {"padding_value": 3, "initial_theta": [[2.0, 0, 0], [0, 2, 0]]}
    module = SpatialTransformer(torch.nn.Flatten(), (4, 4), in_features=16, **options)
    out = module(torch.zeros(1, 1, 4, 4))
    assert out[0, 0, 0, 0] == 3
    assert out[0, 0, 1, 1] == 0
    assert "padding_value=3" in repr(module)


@pytest.mark.slow
@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_with_values_that_change(
    dynamic: bool, backend: str, device: torch.device
) -> None:
    torch._dynamo.reset()

    def run(u: torch.Tensor, theta: torch.Tensor, value: float) -> torch.Tensor:
        return st_sample(u, theta, (3, 4), padding_value=value, backend=backend)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    u, theta, _ = make({"spread": 0.8}, device)
    cotangent = torch.randn(2, 3, 3, 4, device=device)
    for value in (0.5, -1.5, 0.0):
        expected = with_gradients(run, u, theta, cotangent, value)
        found = with_gradients(compiled, u, theta, cotangent, value)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], msg=f"{name} {value}")
