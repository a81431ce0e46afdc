"""Every option under compile, export, autocast and on the meta device."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.layouts import laid_out
from stn_triton import identity_theta, st_sample
from support.cases import OUT_SIZES, make
from support.checks import BACKENDS, SLOW_TRITON, mostly_slow, with_gradients

GRAPHS = {
    "padding value": {"map": "affine", "padding_value": 0.7, "spread": 0.8},
    "reflection": {"map": "affine", "padding_mode": "reflection"},
    "projective": {"map": "projective", "mode": "bicubic", "padding_mode": "border", "k": 2},
    "tps": {"map": "tps", "padding_mode": "border", "layout": "channels_last"},
    "piecewise affine": {"map": "piecewise_affine", "mode": "nearest", "dtype": torch.bfloat16},
    "antialias": {"map": "affine", "antialias": 2, "layout": "channels_last"},
    "antialias as theta asks": {"map": "attention", "antialias": True, "k": 2},
    "volume": {"map": "attention", "ndim": 3, "layout": "channels_last", "k": 2},
}


def in_graph(
    setting: str, backend: str, device: torch.device
) -> tuple[Tensor, Tensor, partial[Tensor]]:
    case = GRAPHS[setting]
    ndim = case.get("ndim", 2)
    u, theta, options = make(case, device, ndim)
    return u, theta, partial(st_sample, out_size=OUT_SIZES[ndim], backend=backend, **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("setting", mostly_slow(list(GRAPHS)))
@pytest.mark.parametrize(
    ("compiler", "dynamic"),
    [
        ("aot_eager", False),
        pytest.param("aot_eager", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=pytest.mark.slow),
    ],
)
def test_compile(
    compiler: str, dynamic: bool, setting: str, backend: str, device: torch.device
) -> None:
    if (compiler, dynamic) != ("aot_eager", False) and list(GRAPHS).index(setting) % 2 != dynamic:
        pytest.skip("every other setting: minutes count")
    if (compiler, backend, device.type) == ("inductor", "triton", "cpu"):
        pytest.skip("the interpreted kernels are one opaque node, as under aot_eager")
    torch._dynamo.reset()
    u, theta, run = in_graph(setting, backend, device)
    compiled = torch.compile(run, fullgraph=True, backend=compiler, dynamic=dynamic)
    cotangent = torch.randn_like(run(u, theta))
    found = with_gradients(compiled, u, theta, cotangent)
    for name, expected in with_gradients(run, u, theta, cotangent).items():
        eps = float(torch.finfo(expected.dtype).eps * expected.abs().amax())
        torch.testing.assert_close(found[name], expected, rtol=0, atol=16 * eps, msg=name)
        assert name == "theta gradient" or found[name].stride() == expected.stride(), name


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("setting", GRAPHS)
@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_export(dynamic: bool, setting: str, backend: str, device: torch.device) -> None:
    u, theta, run = in_graph(setting, backend, device)

    class Crop(torch.nn.Module):
        def forward(self, u: Tensor, theta: Tensor) -> Tensor:
            return run(u, theta)

    auto = torch.export.Dim.AUTO
    shapes = {"u": {axis: auto for axis in range(u.dim()) if axis != 1}, "theta": {0: auto}}
    program = torch.export.export(Crop(), (u, theta), dynamic_shapes=shapes if dynamic else None)
    torch.testing.assert_close(program.module()(u, theta), run(u, theta))
    if dynamic:
        u, theta = (
            u[..., 1:].repeat(2, *[1] * (u.dim() - 1)),
            theta.repeat(2, *[1] * (theta.dim() - 1)),
        )
        u = laid_out(u, "channels_last") if "layout" in GRAPHS[setting] else u
        torch.testing.assert_close(program.module()(u, theta), run(u, theta))


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("setting", GRAPHS)
def test_autocast_casts_nothing(setting: str, backend: str, device: torch.device) -> None:
    u, theta, run = in_graph(setting, backend, device)
    expected = run(u, theta)
    with torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(run(u, theta), expected)


@pytest.mark.parametrize("setting", GRAPHS)
def test_backward_inside_autocast(setting: str, device: torch.device) -> None:
    u, theta, run = in_graph(setting, "torch", device)
    cotangent = torch.randn_like(run(u, theta))
    expected = with_gradients(run, u, theta, cotangent)
    with torch.autocast(device.type, torch.bfloat16):
        found = with_gradients(run, u, theta, cotangent)
    for name in found:
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("setting", GRAPHS)
def test_meta_tensors(setting: str, device: torch.device) -> None:
    u, theta, run = in_graph(setting, "torch", device)
    expected, found = run(u, theta), run(u.to("meta"), theta.to("meta"))
    assert (found.shape, found.stride()) == (expected.shape, expected.stride())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "more",
    [
        {
            "transform": "tps",
            "control_points": ((-1.0, -0.5), (1.0, -1.0), (0.25, 0.5), (-0.5, 1.0)),
        },
        {"transform": "piecewise_affine", "control_points": (2, 3)},
        {"index": torch.tensor([1, 0, 1, 1])},
        {"padding_value": 0.5, "index": torch.tensor([0, 0, 1, 0])},
    ],
    ids=["anywhere", "lattice", "index", "index and value"],
)
def test_export_with_what_is_a_constant_or_an_index(
    more: dict[str, Any], backend: str, device: torch.device
) -> None:
    class Sampler(nn.Module):
        def forward(self, u: Tensor, theta: Tensor, index: Tensor | None) -> Tensor:
            return st_sample(u, theta, (3, 4), backend=backend, **{**more, "index": index})

    index = more.get("index")
    n = 2 if index is None else len(index)
    transform, points = more.get("transform", "affine"), more.get("control_points")
    theta = identity_theta(transform, (n,), control_points=points, device=device) * 0.9
    arguments = torch.rand(2, 2, 5, 6, device=device), theta, index
    program = torch.export.export(Sampler(), arguments)
    torch.testing.assert_close(program.module()(*arguments), Sampler()(*arguments))
