"""Thetas for which a pixel gathers everything or nothing, or that are not finite; the adjoint of sampling."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from torch import Tensor

from stn_triton import st_sample
from support.checks import (
    OPTIONS,
    check,
    distance_to_kinks,
    label,
    pairwise,
    peer,
    plain,
    slow,
    triton_sample,
    with_gradients,
)
from support.kernels import HOSTILE, IN_SIZE, OUT_SIZE, interpreted, turn

pytestmark = pytest.mark.usefixtures("poisoned_memory")


WORST = {
    "zoom in", "rank 1 at 45 degrees", "nearly singular", "almost a point", "all zero", "far shift",
    "far shift to a corner", "half outside", "huge",
}  # fmt: skip


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("name", [name if name in WORST else slow(name) for name in HOSTILE])
def test_hostile_thetas(name: str, padding_mode: str, device: torch.device) -> None:
    theta = torch.tensor([HOSTILE[name]], device=device)
    if name in {"all zero", "a column only"}:
        pass  # These coordinates are exact, so that both sides find the same slope at a kink.
    else:
        assert distance_to_kinks(theta, IN_SIZE, OUT_SIZE, "affine", "bilinear", False) > 1e-3
    u = torch.randn(1, 2, *IN_SIZE, device=device)
    check(triton_sample, u, theta, OUT_SIZE, reference=plain, padding_mode=padding_mode)


@pytest.mark.parametrize("channels", [2, 64])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_thetas_torch_backend(name: str, channels: int, device: torch.device) -> None:
    if name in {"all zero", "a column only"}:
        pytest.skip("the side of a kink is grid_sample's to choose")
    theta = torch.tensor([HOSTILE[name]], device=device)
    u = torch.randn(1, channels, *IN_SIZE, device=device)
    for padding_mode in ("zeros", "border"):
        run = partial(st_sample, backend="torch")
        check(run, u, theta, OUT_SIZE, reference=peer, padding_mode=padding_mode)


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize(
    "name", ["turn", "zoom in", slow("rank 1 at 45 degrees"), "far shift", slow("huge")]
)
def test_hostile_thetas_nearest(name: str, padding_mode: str, device: torch.device) -> None:
    theta = torch.tensor([HOSTILE[name]], device=device)
    assert distance_to_kinks(theta, IN_SIZE, OUT_SIZE, "affine", "nearest", False) > 1e-4
    u = torch.randn(1, 2, *IN_SIZE, device=device)
    options = {"padding_mode": padding_mode, "mode": "nearest"}
    check(triton_sample, u, theta, OUT_SIZE, reference=plain, **options)


@pytest.mark.parametrize("case", pairwise({**OPTIONS, "channels_last": [False, True]}), ids=label)
def test_adjoint(case: dict[str, Any], device: torch.device) -> None:
    """<S u, g> = <u, S' g>, whatever theta is and on whichever side of a kink its coordinates lie."""
    options = {name: case[name] for name in OPTIONS}
    spread = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64, device=device)
    theta = spread[:, None, None] * torch.randn(1, 3, 2, 3, dtype=torch.float64, device=device)
    theta = theta[..., 0, :] if options["transform"] == "attention" else theta
    u = torch.randn(1, 2, 3, 4, dtype=torch.float64, device=device)
    if case["channels_last"]:
        u = u.contiguous(memory_format=torch.channels_last)
    g = torch.randn(1, 3, 2, 4, 3, dtype=torch.float64, device=device)
    u.requires_grad_()
    v = triton_sample(u, theta, (4, 3), **options)
    (back,) = torch.autograd.grad(v, u, g)
    eps = torch.finfo(torch.float64).eps
    assert abs((v * g).sum() - (u * back).sum()) <= 16 * eps * (v * g).abs().sum()


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("entry", range(6))
@pytest.mark.parametrize("value", [math.nan, slow(math.inf), slow(-math.inf)], ids=str)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_not_finite(
    backend: str, value: float, entry: int, padding_mode: str, device: torch.device
) -> None:
    theta = torch.tensor([turn(20, 0.8, 0.1, 0.05)], device=device)
    theta.view(-1)[entry] = value
    u = torch.randn(1, 2, 3, 4, device=device)
    run = partial(st_sample, backend=backend)
    found = check(run, u, theta, (3, 3), reference=plain, padding_mode=padding_mode)
    for name, tensor in found.items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_all_nan(mode: str, device: torch.device) -> None:
    theta = torch.full((1, 3), math.nan, device=device)
    u = torch.randn(1, 2, 3, 4, device=device)
    options = {"transform": "attention", "mode": mode}
    for backend in ("triton", "torch"):
        run = partial(st_sample, backend=backend)
        found = with_gradients(run, u, theta, torch.ones(1, 2, 2, 2), (2, 2), **options)
        assert all(not tensor.any() for tensor in found.values()), backend
        out = run(u, theta, (2, 2), padding_mode="border", **options)
        assert torch.equal(out, u[:, :, :1, :1].expand_as(out))


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("scale", [slow(1.0), 0.02])
def test_twelve_times_upscaled(scale: float, padding_mode: str, device: torch.device) -> None:
    theta = torch.tensor([turn(10, scale, 0.113, 0.127)], device=device)
    assert distance_to_kinks(theta, (2, 3), (24, 36), "affine", "bilinear", False) > 1e-4
    u = torch.randn(1, 2, 2, 3, device=device)
    check(triton_sample, u, theta, (24, 36), reference=plain, padding_mode=padding_mode)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_bitwise_repeatable(backend: str, device: torch.device) -> None:
    if backend == "torch" and device.type == "cuda":
        pytest.skip("grid_sampler's backward on a GPU adds in any order")
    u = torch.randn(1, 3, *IN_SIZE, device=device)
    theta = torch.randn(1, 2, 2, 3, device=device)
    g = torch.randn(1, 2, 3, *OUT_SIZE, device=device)
    run = partial(st_sample, backend=backend)
    first, second = (with_gradients(run, u, theta, g, OUT_SIZE) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


@interpreted
def test_every_gradient_of_a_large_theta_is_bounded(device: torch.device) -> None:
    """With entries near the largest float32, coordinates overflow and count as not finite."""
    u = torch.randn(1, 1, 3, 4, device=device)
    for values in ([3e38, -3e38, 3e38, 3e38, 3e38, -3e38], [1e38, 0, 0, 0, 1e38, 0]):
        theta = torch.tensor(values, device=device).view(1, 2, 3)
        for padding_mode in ("zeros", "border"):
            options = {"padding_mode": padding_mode}
            found = with_gradients(
                triton_sample, u, theta, torch.ones(1, 1, 3, 3), (3, 3), **options
            )
            assert all(_bounded(tensor) for tensor in found.values())


def _bounded(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all()) and float(tensor.abs().amax()) < 1e3
