"""Derivatives of every order and mode, eager: against differences, and against the definition's own derivatives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacfwd, jacrev, vmap

from stn_triton import st_sample
from support.cases import IN_SIZES, MAPS, OUT_SIZES, PADDINGS, make
from support.checks import exact, label, mostly_slow, needs_triton, pairwise, plain, within_budget

CASES = pairwise(
    {
        "map": list(MAPS), "mode": ["bilinear", "nearest", "bicubic"], "padding_mode": PADDINGS,
        "align_corners": [False, True], "k": [None, 2],
    }
)  # fmt: skip
VOLUMES = pairwise(
    {
        "map": ["affine", "attention"], "mode": ["bilinear", "nearest"], "padding_mode": PADDINGS,
        "align_corners": [False, True], "k": [None, 2],
    }
)  # fmt: skip
EXTRA = [
    {"map": "affine", "antialias": 2, "mode": "bicubic"},
    {"map": "affine", "antialias": True, "k": 2},
    {"map": "affine", "padding_value": 1.5},
    {"map": "projective", "mode": "bicubic", "padding_value": -0.7, "k": 2},
]


def against_differences(case: dict[str, Any], ndim: int, device: torch.device) -> None:
    u, theta, options = make({**case, "dtype": torch.float64, "spread": 0.2}, device, ndim, 1)
    u, theta = u[:1].clone(), theta[:1].clone()
    out_size = (2,) * ndim
    run = partial(st_sample, out_size=out_size, backend="torch", **options)
    inputs = (u.requires_grad_(), theta.requires_grad_())
    assert gradcheck(run, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, inputs, check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("case", mostly_slow(CASES + EXTRA), ids=label)
def test_against_differences(case: dict[str, Any], device: torch.device) -> None:
    against_differences(case, 2, device)


@pytest.mark.parametrize("case", mostly_slow(VOLUMES), ids=label)
def test_volumes_against_differences(case: dict[str, Any], device: torch.device) -> None:
    against_differences(case, 3, device)


def other(theta: Tensor) -> Tensor:
    return theta + 0.03 * theta.cos()


def loss(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda u, theta: run(u, theta).square().sum()


def along_theta(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return torch.func.jvp(partial(run, u), (theta,), (theta.cos(),))[1]


def along_the_input(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return torch.func.jvp(lambda u: run(u, theta), (u,), (u.cos(),))[1]


def along_both(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return torch.func.jvp(run, (u, theta), (u.cos(), theta.cos()))[1]


def dual_numbers(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        out = run(forward.make_dual(u, u.cos()), forward.make_dual(theta, theta.cos()))
        return forward.unpack_dual(out).tangent.clone()


def dual_gradient(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    """Forward over reverse, where only the cotangent is dual: it becomes so after the call."""
    forward = torch.autograd.forward_ad
    leaves = u.clone().requires_grad_(), theta.clone().requires_grad_()
    out = run(*leaves)
    with forward.dual_level():
        grads = torch.autograd.grad(
            out, leaves, forward.make_dual(out.detach().cos(), out.detach())
        )
        return [forward.unpack_dual(grad).tangent.clone() for grad in grads]


def gradient(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return torch.func.grad(loss(run), (0, 1))(u, theta)


def pulled(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    out, pull = torch.func.vjp(run, u, theta)
    return pull(out.cos())


def batched_cotangents(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    leaves = u.clone().requires_grad_(), theta.clone().requires_grad_()
    out = run(*leaves)
    cotangents = torch.stack((out.detach(), out.detach().cos()))
    return torch.autograd.grad(out, leaves, cotangents, is_grads_batched=True)


def mapped(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return vmap(run)(torch.stack((u, -u)), torch.stack((theta, other(theta))))


def mapped_along_other_axes(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return vmap(run, (2, -1), 1)(torch.stack((u, -u), 2), torch.stack((theta, other(theta)), -1))


def mapped_over_theta(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return vmap(run, (None, 0))(u, torch.stack((theta, other(theta))))


def mapped_over_the_input(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return vmap(run, (0, None))(torch.stack((u, -u)), theta)


def mapped_gradient(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    thetas = torch.stack((theta, other(theta)))
    return vmap(torch.func.grad(loss(run), (0, 1)), (None, 0))(u, thetas)


def gradient_through_a_map(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    thetas = torch.stack((theta, other(theta))).requires_grad_()
    return torch.autograd.grad(vmap(run, (None, 0))(u, thetas).square().sum(), thetas)


def jacobian_reverse(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return jacrev(run, (0, 1))(u, theta)


def jacobian_forward(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return jacfwd(run, (0, 1))(u, theta)


def second(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return hessian(loss(run), (0, 1))(u, theta)


def reverse_over_reverse(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return jacrev(torch.func.grad(loss(run), (0, 1)), (0, 1))(u, theta)


def reverse_over_forward(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return torch.func.grad(lambda theta: along_both(run, u, theta).square().sum())(theta)


def mapped_hessian(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    return vmap(hessian(loss(run), 1), (None, 0))(u, torch.stack((theta, other(theta))))


def double_backward(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    leaves = u.clone().requires_grad_(), theta.clone().requires_grad_()
    firsts = torch.autograd.grad(loss(run)(*leaves), leaves, create_graph=True)
    return torch.autograd.grad(sum(first.cos().sum() for first in firsts), leaves)


def double_backward_to_the_cotangent(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    leaves = u.clone().requires_grad_(), theta.clone().requires_grad_()
    out = run(*leaves)
    cotangent = out.detach().cos().requires_grad_()
    firsts = torch.autograd.grad(out, leaves, cotangent, create_graph=True)
    return torch.autograd.grad(sum(first.square().sum() for first in firsts), cotangent)


def theta_that_depends_on_the_input(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    """theta comes from the input, as with a localisation network: the gradient through it must not count twice."""
    u = u.clone().requires_grad_()
    out = run(u, theta + 0.01 * u.flatten(1).sum(1).sin().view(-1, *[1] * (theta.dim() - 1)))
    (first,) = torch.autograd.grad(out.square().sum(), u, create_graph=True)
    return torch.autograd.grad(first.square().sum(), u)


def third(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Any:
    theta = theta.clone().requires_grad_()
    (grad,) = torch.autograd.grad(run(u, theta).pow(3).sum(), theta, create_graph=True)
    (grad,) = torch.autograd.grad(grad.square().sum(), theta, create_graph=True)
    return torch.autograd.grad(grad.square().sum(), theta)


COMBINATIONS = [
    along_theta, along_the_input, along_both, dual_numbers, dual_gradient, gradient, pulled, batched_cotangents,
    mapped, mapped_along_other_axes, mapped_over_theta, mapped_over_the_input, mapped_gradient, gradient_through_a_map,
    jacobian_reverse, jacobian_forward, second, reverse_over_reverse, reverse_over_forward, mapped_hessian,
    double_backward, double_backward_to_the_cotangent, theta_that_depends_on_the_input, third,
]  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "affine": {"map": "affine"},
    "many channels": {"map": "attention", "channels": 17, "layout": "channels_last", "k": 2},
    "projective": {"map": "projective 3x3", "mode": "bicubic", "padding_mode": "border"},
    "tps": {"map": "tps", "padding_mode": "reflection", "spread": 1.0, "k": 2},
    "antialias": {"map": "piecewise_affine", "antialias": 2},
    "ragged": {"map": "affine", "index": (1, 1)},  # of two images
    "padding value": {"map": "affine", "padding_value": 1.5, "spread": 0.8},
    "volume": {
        "map": "affine", "ndim": 3, "padding_mode": "border", "align_corners": True, "layout": "channels_last",
    },
}  # fmt: skip


def compare(
    combination: Callable[..., Any], case: dict[str, Any], backend: str, device: torch.device
) -> None:
    channels, ndim = case.get("channels", 2), case.get("ndim", 2)
    # The case of many channels is in float32, the others in float64.
    dtype = torch.float32 if channels > 2 else torch.float64
    u, theta, options = make({**case, "dtype": dtype}, device, ndim, channels)
    if "index" not in case:
        u, theta = u[: case.get("images")], theta[: case.get("images")]
    options["out_size"] = OUT_SIZES[ndim]
    found = combination(partial(st_sample, backend=backend, **options), u, theta)
    low = combination(partial(plain, **options), u, theta)
    true = combination(partial(exact, **options), u.double(), theta.double())
    # In float64 the truth is rounded too, and a second derivative may be steep.
    roundings = 4096 * max(*IN_SIZES[ndim], *OUT_SIZES[ndim])
    flat = [torch.utils._pytree.tree_leaves(x) for x in (found, low, true)]
    for ours, theirs, truth in zip(*flat, strict=True):
        assert truth.abs().amax() > 1e-3, "the truth must not be zero"
        within_budget(ours, theirs, truth.detach(), pixels=roundings)


@pytest.mark.parametrize(
    "setting",
    [pytest.param(s, marks=() if s in ("affine", "tps") else pytest.mark.slow) for s in SETTINGS],
)
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda f: f.__name__)
def test_combinations(combination: Callable[..., Any], setting: str, device: torch.device) -> None:
    compare(combination, SETTINGS[setting], "torch", device)


JACOBIANS = [jacobian_reverse, jacobian_forward, second, reverse_over_reverse, mapped_hessian]


@needs_triton
@pytest.mark.parametrize(
    "combination",
    [pytest.param(c, marks=pytest.mark.slow if c in JACOBIANS else ()) for c in COMBINATIONS],
    ids=lambda f: f.__name__,
)
def test_combinations_of_kernels(combination: Callable[..., Any], device: torch.device) -> None:
    compare(combination, {"map": "attention", "channels": 1, "images": 1}, "triton", device)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s not in ("affine", "many channels")])
@pytest.mark.parametrize(
    "combination",
    [along_both, dual_gradient, double_backward, mapped, third],
    ids=lambda f: f.__name__,
)
def test_settings_of_kernels(
    combination: Callable[..., Any], setting: str, device: torch.device
) -> None:
    compare(combination, {**SETTINGS[setting], "images": 1}, "triton", device)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("combination", [along_both, double_backward], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "case", [c for c in CASES + EXTRA if c.get("mode") != "nearest"], ids=label
)
def test_second_order_kernels(
    case: dict[str, Any], combination: Callable[..., Any], device: torch.device
) -> None:
    compare(combination, {**case, "channels": 1, "images": 1, "spread": 0.2}, "triton", device)
