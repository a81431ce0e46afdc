"""Every transform, mode and padding against the definition in float64, in 2-D and 3-D."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

from bench import definition
from bench.definition import identity
from bench.layouts import LAYOUTS
from stn_triton import st_sample
from support.cases import IN_SIZES, MAPS, OUT_SIZES, PADDINGS, make
from support.checks import (
    BACKENDS,
    DTYPES,
    SLOW_TRITON,
    check,
    label,
    needs_triton,
    pairwise,
    peer,
    plain,
    with_gradients,
)

PLANES = pairwise(
    {
        "map": list(MAPS), "mode": ["bilinear", "nearest", "bicubic"], "padding_mode": PADDINGS,
        "align_corners": [False, True], "dtype": DTYPES, "layout": LAYOUTS, "k": [None, 1, 2],
    }
)  # fmt: skip
VOLUMES = pairwise(
    {
        "map": ["affine", "attention"], "mode": ["bilinear", "nearest"], "padding_mode": PADDINGS,
        "align_corners": [False, True], "dtype": DTYPES, "layout": LAYOUTS, "k": [None, 2],
    }
)  # fmt: skip


@pytest.mark.parametrize("transform", ["affine", "attention"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("spread", [0.4, 3.0])
def test_the_definition_is_pytorchs(spread: float, ndim: int, transform: str) -> None:
    modes = ["bilinear", "nearest", "bicubic"][: 5 - ndim]
    for mode, padding_mode, align in product(modes, PADDINGS, [False, True]):
        case = {"map": transform, "mode": mode, "padding_mode": padding_mode, "k": 2}
        case |= {"align_corners": align, "dtype": torch.float64, "spread": spread}
        u, theta, options = make(case, torch.device("cpu"), ndim)
        cotangent = torch.randn(2, 2, 3, *OUT_SIZES[ndim], dtype=torch.float64)
        ours = with_gradients(definition.sample, u, theta, cotangent, OUT_SIZES[ndim], **options)
        theirs = with_gradients(peer, u, theta, cotangent, OUT_SIZES[ndim], **options)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-11, atol=1e-11)


def test_the_definition_of_the_splines_goes_through_the_control_points() -> None:
    # With aligned corners, the pixels of a G x G output are the control points.
    for transform, side in product(("tps", "piecewise_affine"), (2, 3, 5)):
        theta = torch.randn(1, side * side, 2, dtype=torch.float64)
        x, y = definition.normalised(theta, (side, side), transform, True)
        torch.testing.assert_close(torch.stack((x, y), -1).view_as(theta), theta)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", PLANES, ids=label)
def test_planes(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = make(case, device)
    check(partial(st_sample, backend=backend), u, theta, OUT_SIZES[2], **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", VOLUMES, ids=label)
def test_volumes(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = make(case, device, 3)
    check(partial(st_sample, backend=backend), u, theta, OUT_SIZES[3], **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize(("dtype", "theta_dtype"), list(product(DTYPES, DTYPES))[1::5], ids=str)
@pytest.mark.parametrize("ndim", [2, 3])
def test_theta_of_another_dtype(
    ndim: int, dtype: torch.dtype, theta_dtype: torch.dtype, backend: str, device: torch.device
) -> None:
    for name in list(MAPS)[: None if ndim == 2 else 2]:
        case = {
            "map": name,
            "dtype": dtype,
            "theta_dtype": theta_dtype,
            "padding_mode": "reflection",
        }
        u, theta, options = make(case, device, ndim)
        check(partial(st_sample, backend=backend), u, theta, OUT_SIZES[ndim], **options)


@pytest.mark.parametrize(("channels", "layout"), [(17, "channels_last"), (64, "contiguous")])
@pytest.mark.parametrize("ndim", [2, 3])
def test_many_channels_of_the_torch_backend(
    ndim: int, channels: int, layout: str, device: torch.device
) -> None:
    modes = ["bilinear", "nearest", "bicubic"][: 5 - ndim]
    names = ["attention", "projective", "tps"][: None if ndim == 2 else 1]
    for name, mode, padding_mode, align in product(names, modes, PADDINGS, [False, True]):
        case = {"map": name, "mode": mode, "padding_mode": padding_mode, "align_corners": align}
        case |= {"layout": layout, "k": 2, "spread": 0.9}
        u, theta, options = make(case, device, ndim, channels)
        check(partial(st_sample, backend="torch"), u, theta, OUT_SIZES[ndim], **options)


@needs_triton
@pytest.mark.parametrize("case", PLANES[::6], ids=label)
def test_a_few_planes_by_kernels(case: dict[str, Any], device: torch.device) -> None:
    u, theta, options = make({**case, "k": None}, device)
    check(partial(st_sample, backend="triton"), u[:1], theta[:1], OUT_SIZES[2], **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("name", MAPS)
def test_identity(name: str, backend: str, device: torch.device) -> None:
    transform, form = MAPS[name]
    theta = identity(transform, form=form).float().to(device)
    u = torch.randn(1, 2, 9, 14, device=device)
    for mode, padding_mode, align in product(
        ("bilinear", "nearest", "bicubic"), PADDINGS, (False, True)
    ):
        out = st_sample(
            u, theta[None], (9, 14), transform=transform, mode=mode, padding_mode=padding_mode,
            align_corners=align, backend=backend,
        )  # fmt: skip
        assert (out - u).abs().amax() <= 8e-6 * u.abs().amax()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_homography_may_have_any_scale(backend: str, device: torch.device) -> None:
    u, theta, options = make({"map": "projective 3x3", "dtype": torch.float64}, device)
    run = partial(st_sample, u, out_size=OUT_SIZES[2], backend=backend, **options)
    truth = run(theta)
    for scale in (-1.0, 1e-5, -1e7):
        torch.testing.assert_close(run(scale * theta), truth)
    eight = theta / theta[:, 2:, 2:]
    torch.testing.assert_close(run(eight.flatten(1)[:, :8]), truth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_horizon_is_outside(backend: str, device: torch.device) -> None:
    # The third coordinate is x, 0 in the middle column of three.
    theta = torch.tensor([[[0.3, 0, 0.1], [0, 0.3, -0.1], [1.0, 0, 0]]], device=device)
    u = torch.ones(1, 1, 4, 4, device=device)
    found = check(
        partial(st_sample, backend=backend),
        u,
        theta,
        (3, 3),
        reference=plain,
        transform="projective",
    )
    assert torch.equal(found["output"][..., 1], torch.zeros(1, 1, 3, device=device))
    assert found["output"].any()


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("channels", [2, 20])
@pytest.mark.parametrize("k", [None, 2])
def test_memory_formats(
    k: int | None, channels: int, ndim: int, backend: str, device: torch.device
) -> None:
    antialiases: tuple[bool | int, ...] = (False, 2, True)
    if backend == "triton":  # interpreted kernels take their time
        antialiases, channels = (False,), min(channels, 8 if ndim == 2 else 4)
    for layout, antialias in product(LAYOUTS, antialiases):
        case = {"layout": layout, "antialias": antialias, "k": k, "dtype": torch.bfloat16}
        u, theta, options = make({**case, "theta_dtype": torch.float32}, device, ndim, channels)
        run = partial(st_sample, backend=backend)
        cotangent = torch.randn(2, *([k] if k else []), channels, *OUT_SIZES[ndim], device=device)
        found = with_gradients(run, u, theta, cotangent, OUT_SIZES[ndim], **options)
        for name in ("output", "input gradient"):
            turned = (
                found[name].movedim(-ndim - 1, -1) if layout == "channels_last" else found[name]
            )
            assert turned.is_contiguous(), (name, layout)
            assert found[name].dtype == torch.bfloat16
        assert found["theta gradient"].dtype == torch.float32


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("name", "ndim"), [*((name, 2) for name in MAPS), ("affine", 3)])
def test_empty(name: str, ndim: int, mode: str, backend: str, device: torch.device) -> None:
    transform, form = MAPS[name]
    one = identity(transform, ndim, form).float().to(device)
    for n, k, channels in ((0, None, 2), (2, 0, 2), (2, 2, 0)):
        u = torch.randn(n, channels, *IN_SIZES[ndim], device=device, requires_grad=True)
        outer = (n,) if k is None else (n, k)
        theta = one.expand(*outer, *one.shape).clone().requires_grad_()
        out = st_sample(u, theta, OUT_SIZES[ndim], transform=transform, mode=mode, backend=backend)
        assert out.shape == (*outer, channels, *OUT_SIZES[ndim])
        of_input, of_theta = torch.autograd.grad(out.sum(), (u, theta))
        assert not of_input.any() and of_input.shape == u.shape
        assert not of_theta.any() and of_theta.shape == theta.shape


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("channels", [2, 64])
def test_theta_of_nearest_has_the_gradient_zero(
    channels: int, backend: str, device: torch.device
) -> None:
    if backend == "triton":  # interpreted kernels take their time
        channels = min(channels, 8)
    for name in MAPS:
        u, theta, options = make({"map": name, "mode": "nearest"}, device, channels=channels)
        theta.requires_grad_()
        out = st_sample(u, theta, OUT_SIZES[2], backend=backend, **options)
        (grad,) = torch.autograd.grad(out.sum(), theta)
        assert torch.equal(grad, torch.zeros_like(theta))
