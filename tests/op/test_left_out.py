"""What lies outside, or is not sampled, is left out: pixels and gradients that are not finite change nothing there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.definition import identity
from bench.layouts import laid_out
from stn_triton import st_sample
from stn_triton.torch_backend import antialias
from support.checks import BACKENDS, SLOW_TRITON, exact, needs_triton

Run = Callable[..., Tensor]
INDUCTOR = lambda run, u, t: torch.compile(run, fullgraph=True)(u, t)
ODD = (math.nan, math.inf, -math.inf)


def agree(found: Tensor, true: Tensor, what: str = "") -> None:
    """Both are finite at the same places, and near each other there."""
    assert found.shape == true.shape
    finite = true.isfinite()
    assert torch.equal(found.isfinite(), finite), (what, found, true)
    assert float(found.detach().double().where(finite, 0.0).abs().amax()) < 1e9
    torch.testing.assert_close(
        found.detach().double().where(finite, 0.0), true.detach().double().where(finite, 0.0),
        rtol=1e-4, atol=1e-4, msg=lambda text: f"{what}: {text}",
    )  # fmt: skip


def a_theta(transform: str, ndim: int = 2) -> Tensor:
    """About a third of the output lies outside, some of it by part of its taps, in every direction."""
    theta = identity(transform, ndim).clone()
    if transform == "affine":
        theta[..., -1] = torch.tensor([0.85, -0.63, 0.35][:ndim])
        theta[0, 1] = 0.21
    elif transform == "attention":
        theta[:] = torch.tensor([1.13, 0.85, -0.63, 0.35][: 1 + ndim])
    elif transform == "projective":
        theta[0, 2], theta[1, 2], theta[2, 0] = 1.25, -0.93, 0.11
    else:
        theta += torch.tensor([0.85, -0.63])
    return theta.unsqueeze(0)


def layouts(u: Tensor) -> dict[str, Tensor]:
    return {"contiguous": u, "channels_last": laid_out(u, "channels_last")}


MAPS = ["affine", "attention", "projective", "tps", "piecewise_affine"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("channels", [1, 16, 64])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_pixels(
    layout: str, channels: int, mode: str, backend: str, device: torch.device
) -> None:  # fmt: skip
    if backend == "triton" and channels > 1:
        pytest.skip("one path for all numbers of channels")
    for number, transform in enumerate(MAPS):
        u = torch.randn(1, channels, 6, 7, device=device)
        u[..., 0, 0], u[..., -1, -1], u[..., 3, 0] = ODD[number % 3], math.inf, -math.inf
        u, theta = layouts(u)[layout], a_theta(transform).to(device, torch.float32)
        options = {"transform": transform, "mode": mode}
        agree(
            st_sample(u, theta, (6, 7), backend=backend, **options),
            exact(u, theta, (6, 7), **options),
            transform,
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "around",
    [
        lambda run, u, t: torch.func.vmap(run)(u[None], t[None])[0],
        lambda run, u, t: torch.func.jvp(run, (u, t), (torch.zeros_like(u), torch.zeros_like(t)))[
            0
        ],
        lambda run, u, t: torch.func.vmap(lambda t: run(u, t))(t[None])[0],
        lambda run, u, t: run(u.requires_grad_(), t.requires_grad_()),
        lambda run, u, t: torch.compile(run, fullgraph=True, backend="aot_eager")(u, t),
        pytest.param(INDUCTOR, marks=pytest.mark.slow),
    ],
    ids=["vmap", "jvp", "vmap over theta", "gradients", "aot_eager", "inductor"],
)
def test_pixels_whoever_looks_on(around: Any, backend: str, device: torch.device) -> None:
    torch._dynamo.reset()
    u = torch.zeros(1, 16, 4, 4, device=device).to(memory_format=torch.channels_last)
    u[:, :, 0, 0] = math.inf
    if backend == "triton":
        u = u[:, :1]
    run = partial(st_sample, out_size=(4, 4), backend=backend)
    if around is INDUCTOR and backend == "torch":
        # Inductor decomposes PyTorch's own operations: for a tap outside it reads pixel (0, 0) and multiplies by 0.
        run = partial(st_sample, out_size=(4, 4))
    outside = torch.tensor([[[1.0, 0, -3], [0, 1, -3]]], device=device)
    assert torch.equal(around(run, u, outside), torch.zeros_like(u))
    near = torch.tensor([[[1.0, 0, -0.4], [0, 1, -0.3]]], device=device)
    agree(around(run, u, near), exact(u, near, (4, 4)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_corner_shifted_by_half_a_pixel(backend: str, device: torch.device) -> None:
    u = torch.ones(1, 64 if backend == "torch" else 1, 8, 8, device=device)
    u[..., 0, 0] = math.nan
    theta = torch.tensor([[[1.0, 0, 1 / 8], [0, 1, 1 / 8]]], device=device)
    for shift, mode, count in ((-1.0, "bilinear", 4), (-1.1, "nearest", 1)):
        moved = theta * torch.tensor([1.0, 1.0, shift], device=device)
        found = st_sample(u, moved, (8, 8), mode=mode, backend=backend)
        assert int(found[0, 0].isnan().sum()) == count, mode


def gradients(
    run: Run, u: Tensor, theta: Tensor, g: Tensor, wanted: str, **options: Any
) -> dict[str, Tensor]:
    given = {"input": u.detach().clone(), "theta": theta.detach().clone()}
    for name, tensor in given.items():
        tensor.requires_grad_(wanted in (name, "both"))
    out = run(given["input"], given["theta"], tuple(g.shape[-(u.dim() - 2) :]), **options)
    there = {name: tensor for name, tensor in given.items() if tensor.requires_grad}
    return dict(
        zip(there, torch.autograd.grad(out, list(there.values()), g.to(out.dtype)), strict=True)
    )


def outside(u: Tensor, theta: Tensor, size: tuple[int, ...], **options: Any) -> Tensor:
    """The output pixels that no input pixel contributes to, whatever its weight."""
    marked = torch.full_like(u, math.nan, dtype=torch.float64)
    return exact(marked, theta, size, **options).isfinite()


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("wanted", ["both", "theta"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("transform", MAPS)
def test_gradients(
    transform: str, mode: str, wanted: str, backend: str, device: torch.device
) -> None:
    options = {"transform": transform, "mode": mode}
    theta = a_theta(transform).to(device, torch.float32)
    paths = [(1, "contiguous"), (16, "channels_last"), (64, "contiguous")]
    for channels, layout in paths if backend == "torch" else paths[:1]:
        u = layouts(torch.randn(1, channels, 4, 5, device=device))[layout]
        left_out = outside(u, theta, (4, 5), **options)
        assert 0 < left_out.sum() < left_out.numel()
        for inside in (False, True):
            g = torch.randn(1, channels, 4, 5, device=device)
            g[left_out] = torch.tensor(ODD, device=device)[torch.arange(int(left_out.sum())) % 3]
            if inside:  # and one that touches the edge by part of its taps
                edge = (~left_out[0, 0]).nonzero()[0]
                g[0, 0, edge[0], edge[1]] = math.inf
            run = partial(st_sample, backend=backend)
            found = gradients(run, u, theta, g, wanted, **options)
            true = gradients(exact, u.double(), theta.double(), g, wanted, **options)
            for name in found:
                assert inside or found[name].isfinite().all(), name
                # The definition multiplies by a slope of 0 with "nearest". Every control point of a lattice multiplies
                # by its basis function, which for most of them is 0 in "piecewise_affine".
                excepted = mode == "nearest" or (transform == "piecewise_affine" and inside)
                if name == "input" or not excepted:
                    agree(found[name], true[name], f"{name}, {channels} channels, inside {inside}")


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("transform", ["affine", "attention"])
def test_gradients_of_volumes(transform: str, backend: str, device: torch.device) -> None:
    u = torch.randn(1, 1, 3, 3, 4, device=device)
    theta = a_theta(transform, 3).to(device, torch.float32)
    left_out = outside(u, theta, (3, 3, 4), transform=transform)
    g = torch.randn_like(u)
    g[left_out] = math.inf
    for wanted in ("both", "theta"):
        found = gradients(
            partial(st_sample, backend=backend), u, theta, g, wanted, transform=transform
        )
        true = gradients(exact, u.double(), theta.double(), g, wanted, transform=transform)
        for name in found:
            assert found[name].isfinite().all()
            agree(found[name], true[name], name)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_pixels_that_no_sample_reaches_change_no_gradient(
    mode: str, backend: str, device: torch.device
) -> None:
    """A crop from the middle: everything around it is not finite."""
    for transform in MAPS if backend == "torch" else ("affine", "tps"):
        middle = identity(transform).clone()
        if transform == "attention":
            middle[0] = 0.4
        elif transform == "projective":
            middle[:2] *= 0.4
        else:
            middle *= 0.4
        theta = middle.unsqueeze(0).to(device, torch.float32)
        u = torch.full((1, 2, 12, 12), math.nan, device=device)
        u[..., 2:-2, 2:-2] = torch.randn(1, 2, 8, 8)
        g = torch.randn(1, 2, 5, 6, device=device)
        for wanted in ("both", "theta"):
            found = gradients(
                partial(st_sample, backend=backend),
                u,
                theta,
                g,
                wanted,
                transform=transform,
                mode=mode,
            )
            true = gradients(
                exact, u.double(), theta.double(), g, wanted, transform=transform, mode=mode
            )
            for name in found:
                assert found[name].isfinite().all(), (transform, name)
                agree(found[name], true[name], name)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_a_square_root_of_the_padding(backend: str, device: torch.device) -> None:
    u = torch.rand(1, 16 if backend == "torch" else 1, 4, 4, device=device) + 1
    for transform in MAPS if backend == "torch" else ["affine", "projective"]:
        theta = a_theta(transform).to(device, torch.float32)
        for wanted in ((u, theta), (u,), (theta,)):
            u.requires_grad_(any(w is u for w in wanted))
            theta.requires_grad_(any(w is theta for w in wanted))
            out = st_sample(u, theta, (4, 4), transform=transform, backend=backend)
            for grad in torch.autograd.grad(out.sqrt().sum(), wanted):
                assert grad.isfinite().all(), transform


@pytest.mark.parametrize("around", ["double backward", "jacrev", "vmap of grad", "compile"])
@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_gradients_whoever_looks_on(around: str, backend: str, device: torch.device) -> None:
    torch._dynamo.reset()
    u = torch.rand(1, 16, 4, 5, dtype=torch.float64, device=device)
    theta = a_theta("affine").to(device)
    loss = lambda run, u, theta: run(u, theta, (4, 5)).sqrt().sum()
    ours, truth = partial(st_sample, backend=backend), exact

    def derivative(run: Run) -> tuple[Tensor, ...]:
        if around == "double backward":
            leaves = [tensor.detach().clone().requires_grad_() for tensor in (u, theta)]
            first = torch.autograd.grad(loss(run, *leaves), leaves, create_graph=True)
            return *first, *torch.autograd.grad(first[1].square().sum(), leaves)
        if around == "jacrev":
            return torch.func.jacrev(partial(loss, run), argnums=(0, 1))(u, theta)
        if around == "vmap of grad":
            grad = torch.func.grad(partial(loss, run), argnums=(0, 1))
            return torch.func.vmap(grad)(u[None], theta[None])
        compiled = run if run is truth else torch.compile(run, fullgraph=True, backend="aot_eager")
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (u, theta)]
        return torch.autograd.grad(loss(compiled, *leaves), leaves)

    for number, (found, true) in enumerate(zip(derivative(ours), derivative(truth), strict=True)):
        if number < 2:
            assert found.isfinite().all(), number
        agree(found, true, str(number))


THETAS = torch.stack(
    [
        torch.tensor([[1.0, 0, 0.03], [0, 1, 0.02]]),
        torch.tensor([[3.4, 0.1, 0.2], [0.2, 2.9, 0.1]]),
        torch.tensor([[50.0, 0, 0.1], [0, 2, 0]]),
        torch.tensor([[0.5, 0.1, 0.0], [0, 0.5, 0.1]]),
        torch.tensor([[1.9, 0.1, 0.0], [0.1, 1.8, 0.1]]),
    ]
)


def looked_at(around: str, run: Run, u: Tensor, theta: Tensor) -> Tensor:
    if around == "vmap":
        return torch.func.vmap(run)(u[:, None], theta[:, None])[:, 0]
    if around == "jvp":
        return torch.func.jvp(partial(run, u), (theta,), (torch.zeros_like(theta),))[0]
    if around == "compile":
        return torch.compile(run, fullgraph=True, backend="aot_eager")(u, theta)
    return run(u, theta)


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize(
    "around",
    ["nobody", "unread", "vmap", "jvp", pytest.param("compile", marks=pytest.mark.slow)],
)
def test_each_image_asks_for_its_own_samples(
    around: str, padding_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With backend "torch", an image of a batch has the result and the gradients that it has alone."""
    torch._dynamo.reset()
    if around == "unread":  # as where values cannot be read without waiting for a device
        monkeypatch.setattr(antialias, "under_transforms", lambda _: None)
    u = torch.randn(5, 3, 9, 8)
    u[2, :, 4, 4] = math.nan
    u[0, :, 0, 0] = math.inf
    run = partial(
        st_sample, out_size=(4, 5), antialias=True, padding_mode=padding_mode, backend="torch"
    )
    theta = THETAS.clone()
    batch = looked_at(around, run, u, theta)
    for number in range(5):
        alone = exact(
            u[number : number + 1],
            theta[number : number + 1],
            (4, 5),
            antialias=True,
            padding_mode=padding_mode,
        )
        agree(batch[number : number + 1], alone, f"image {number}")
    if around in ("vmap", "jvp"):
        return
    leaves = [tensor.clone().requires_grad_() for tensor in (u, theta)]
    found = torch.autograd.grad(looked_at(around, run, *leaves).sum(), leaves)
    leaves = [tensor.double().requires_grad_() for tensor in (u, theta)]
    true = torch.autograd.grad(
        exact(*leaves, (4, 5), antialias=True, padding_mode=padding_mode).sum(), leaves
    )
    for one, other in zip(found, true, strict=True):
        agree(one, other)


def test_transformers_of_one_image_ask_for_their_own_samples() -> None:
    u, theta = torch.randn(2, 3, 9, 8), torch.stack((THETAS[:3], THETAS[2:]))
    options = {"out_size": (4, 5), "antialias": True}
    found = st_sample(u, theta, backend="torch", **options)
    agree(found, exact(u, theta, **options))


@pytest.mark.parametrize("around", ["nobody", "vmap", "jvp"])
def test_no_more_samples_than_are_asked_for(around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Identities ask for one sample each, and no more are computed, whatever transform looks on."""
    counted = []
    finite = antialias.TRANSFORMS["affine"].grid
    grid = lambda theta, axes, points: (
        counted.append(math.prod(len(a) if a.dim() == 1 else a.shape[-1] for a in axes))
        or finite(theta, axes, points)
    )
    entry = antialias.TRANSFORMS["affine"]
    monkeypatch.setitem(antialias.TRANSFORMS, "affine", dataclasses.replace(entry, grid=grid))
    u, theta = torch.randn(2, 1, 6, 6, 6), torch.eye(3, 4).repeat(2, 1, 1)
    run = partial(st_sample, out_size=(6, 6, 6), antialias=True, backend="torch")
    looked_at(around, run, u, theta)
    assert sum(counted) <= 6**3


@needs_triton
@pytest.mark.slow
def test_triton_samples_each_image_by_itself(device: torch.device) -> None:
    u = torch.randn(5, 1, 9, 8, device=device)
    u[2, :, 4, 4] = math.nan
    theta = THETAS.to(device)
    leaves = [tensor.clone().requires_grad_() for tensor in (u, theta)]
    out = st_sample(*leaves, (4, 5), antialias=True, backend="triton")
    agree(out, exact(u, theta, (4, 5), antialias=True))
    found = torch.autograd.grad(out.sum(), leaves)
    doubles = [tensor.double().requires_grad_() for tensor in (u, theta)]
    true = torch.autograd.grad(exact(*doubles, (4, 5), antialias=True).sum(), doubles)
    for one, other in zip(found, true, strict=True):
        agree(one, other)
