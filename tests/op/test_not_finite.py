"""Thetas and coordinates that are not finite, or overflow: results and gradients stay finite."""

from __future__ import annotations

import math
from functools import partial
from itertools import product

import pytest
import torch

from stn_triton import st_sample
from support.cases import OUT_SIZES, PADDINGS, make
from support.checks import BACKENDS, SLOW_TRITON, check, plain, with_gradients


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -3e38], ids=str)
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("name", ["affine", "attention", "projective", "projective 3x3"])
def test_not_finite(
    name: str, padding_mode: str, value: float, backend: str, device: torch.device
) -> None:
    run = partial(st_sample, backend=backend)
    thorough = backend == "torch"  # interpreted kernels take their time
    if not thorough and value in (math.inf, -math.inf, -3e38):
        pytest.skip("NaN and 1e30 show as much")
    modes = ("bilinear", "nearest", "bicubic")
    for mode in modes if thorough else modes[PADDINGS.index(padding_mode) % 2 * 2 :][:1]:
        case = {"map": name, "mode": mode, "padding_mode": padding_mode, "dtype": torch.float64}
        u, theta, options = make(case, device)
        for entry in range(theta[0].numel())[:: 1 if thorough else 5]:
            hostile = theta.clone()
            hostile[0].view(-1)[entry] = value
            if not math.isfinite(value):
                check(run, u, hostile, OUT_SIZES[2], reference=plain, **options)
            cotangent = torch.randn(2, 3, *OUT_SIZES[2], device=device)
            found = with_gradients(
                run, u.float(), hostile.float(), cotangent, OUT_SIZES[2], **options
            )
            for what, tensor in found.items():
                assert tensor.isfinite().all(), (mode, entry, what)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_volumes_at_coordinates_that_are_not_finite(
    mode: str, padding_mode: str, backend: str, device: torch.device
) -> None:
    u, theta, options = make({"mode": mode, "padding_mode": padding_mode}, device, 3)
    values, entries = (math.nan, math.inf, -math.inf), (0, 3, 6, 11)
    if backend == "triton":  # interpreted kernels take their time
        values, entries = values[:2], entries[::3]
    for value, entry in product(values, entries):
        theta[0].view(-1)[entry] = value
        run = partial(st_sample, backend=backend)
        found = check(run, u, theta, OUT_SIZES[3], reference=plain, **options)
        assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("padding_mode", PADDINGS)
@pytest.mark.parametrize("transform", ["tps", "piecewise_affine"])
def test_splines_that_are_not_finite(
    transform: str, padding_mode: str, backend: str, device: torch.device
) -> None:
    modes, values = ("bilinear", "nearest", "bicubic"), (math.nan, math.inf, 1e38)
    if backend == "triton":  # interpreted kernels take their time
        modes, values = modes[::2], values[::2]
    for value, mode in product(values, modes):
        case = {"map": transform, "mode": mode, "padding_mode": padding_mode}
        u, theta, options = make(case, device)
        theta[0, 4] = value
        cotangent = torch.randn(2, 3, *OUT_SIZES[2], device=device)
        run = partial(st_sample, backend=backend)
        found = with_gradients(run, u, theta, cotangent, OUT_SIZES[2], **options)
        assert all(tensor.isfinite().all() for tensor in found.values())
        if math.isnan(value) and padding_mode == "zeros":
            centre = found["output"][0, :, 1, 1:3]  # beside the control point in the middle
            assert torch.equal(centre, torch.zeros_like(centre))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_a_coordinate_that_is_held_has_no_slope(
    padding_mode: str, backend: str, device: torch.device
) -> None:
    """Whatever the pixels are: along an axis of one pixel every coordinate is held."""
    u = torch.tensor([1.0, math.nan, 2.0, 3.0], device=device).view(1, 1, 4, 1).requires_grad_()
    theta = torch.tensor([[[0.9, 0.1, 0.05], [0.1, 0.8, 0.03]]], device=device).requires_grad_()
    out = st_sample(u, theta, (3, 2), padding_mode=padding_mode, backend=backend)
    assert out.isnan().any()
    gradient = torch.autograd.grad(out.sum(), theta)[0]
    assert not gradient[0, 0].any()
    assert gradient[0, 1].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_value", [0.0, 2.5])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_no_coordinate_of_an_axis_of_one_pixel(
    axis: int, odd: float, padding_value: float, backend: str, device: torch.device
) -> None:
    """With aligned corners every number is that pixel; what is no number lies outside nevertheless."""
    size, theta = [3, 3], torch.eye(2, 3, device=device)
    size[1 - axis] = 1
    theta[axis, 2] = odd
    u = torch.randn(1, 2, *size, device=device, requires_grad=True)
    theta = theta.unsqueeze(0).requires_grad_()
    out = st_sample(
        u, theta, (2, 2), align_corners=True, padding_value=padding_value, backend=backend
    )
    assert (out == padding_value).all()
    for gradient in torch.autograd.grad(out.sum(), (u, theta), materialize_grads=True):
        assert not gradient.any()
