"""Every transform, mode and padding against the definition in float64, in 2-D and 3-D, and at hostile thetas."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_triton import st_sample
from support import definition
from support.checks import (
    BACKENDS,
    DTYPES,
    LAYOUTS,
    SLOW_TRITON,
    check,
    draw_theta,
    identity,
    label,
    make_input,
    mostly_slow,
    needs_triton,
    pairwise,
    peer,
    plain,
    with_gradients,
)

MAPS = {
    "affine": ("affine", None), "attention": ("attention", None),
    "projective": ("projective", (8,)), "projective 3x3": ("projective", (3, 3)),
    "tps": ("tps", (9, 2)), "piecewise_affine": ("piecewise_affine", (9, 2)),
}  # fmt: skip
PADDINGS = ["zeros", "border", "reflection"]
IN_SIZES, OUT_SIZES = {2: (4, 5), 3: (3, 4, 5)}, {2: (3, 4), 3: (2, 3, 2)}
SAMPLING = ("transform", "mode", "padding_mode", "padding_value", "align_corners", "antialias")

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


def make(
    case: dict[str, Any], device: torch.device, ndim: int = 2, channels: int = 3
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Input, theta and the options of a case; what the case leaves open is ordinary."""
    transform, form = MAPS[case.get("map", "affine")]
    k, dtype, antialias = (
        case.get("k"),
        case.get("dtype", torch.float32),
        case.get("antialias", False),
    )
    u = make_input((2, channels, *IN_SIZES[ndim]), dtype, case.get("layout", "contiguous"), device)
    theta = draw_theta(
        (2,) if k is None else (2, k), case.get("theta_dtype", dtype), device, IN_SIZES[ndim],
        OUT_SIZES[ndim], transform=transform, mode=case.get("mode", "bilinear"), form=form,
        align=case.get("align_corners", False), antialias=antialias, spread=case.get("spread", 0.4),
    )  # fmt: skip
    options = {"transform": transform} | {o: case[o] for o in SAMPLING if o in case}
    if "index" in case:
        options["index"] = torch.tensor(case["index"], device=device)
    return u, theta, options


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


def pooled(u: Tensor, theta: Tensor, out_size: tuple[int, ...], antialias: int, **o: Any) -> Tensor:
    finer = tuple(antialias * length for length in out_size)
    pool = torch.nn.functional.avg_pool2d if len(out_size) == 2 else torch.nn.functional.avg_pool3d
    result = st_sample(u, theta, finer, **o)
    k = theta.shape[1 : theta.dim() - definition.theta_dims(theta, o["transform"])]
    result = pool(result.flatten(0, len(k)), antialias)
    return result.unflatten(0, (len(u), *k))


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize(("ndim", "antialias"), [(2, 2), (2, 3), (3, 2)])
def test_antialias(ndim: int, antialias: int, backend: str, device: torch.device) -> None:
    modes = ["bilinear", "nearest", "bicubic"][: 5 - ndim]
    names = list(MAPS)[: None if ndim == 2 else 2]
    k = 2
    if backend == "triton":  # interpreted kernels take their time
        names, modes, k = names[:: 2 if antialias == 2 else 6], modes[:1], None
    for name, mode in product(names, modes):
        case = {"map": name, "mode": mode, "antialias": antialias, "padding_mode": "border", "k": k}
        u, theta, options = make({**case, "spread": 0.2, "dtype": torch.bfloat16}, device, ndim)
        run = partial(st_sample, backend=backend)
        check(run, u, theta, OUT_SIZES[ndim], **options)
        u, theta = u.double(), theta.double()
        torch.testing.assert_close(
            run(u, theta, OUT_SIZES[ndim], **options),
            pooled(u, theta, OUT_SIZES[ndim], backend=backend, **options),
        )


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["affine", "attention"])
def test_antialias_as_theta_asks(name: str, ndim: int, backend: str, device: torch.device) -> None:
    case = {"map": name, "k": 3, "antialias": True, "spread": 0.9, "layout": "channels_last"}
    dtypes = (torch.float16, torch.float32)
    if backend == "triton":  # interpreted kernels take their time, here for up to 8 x 8 x 8 samples
        dtypes = dtypes[:1]
        if ndim == 3 and device.type == "cpu":
            pytest.skip("minutes; `test_samples_of_a_volume` is a small one")
    for dtype in dtypes:
        u, theta, options = make({**case, "dtype": dtype}, device, ndim)
        counts = {
            definition.samples(one.double().cpu(), IN_SIZES[ndim], OUT_SIZES[ndim], name)
            for one in theta.flatten(0, 1)
        }
        assert len(counts) > 1, "a case for every branch"
        run = partial(st_sample, backend=backend)
        check(run, u, theta, OUT_SIZES[ndim], reference=plain, **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_how_many_samples_theta_asks_for(backend: str, device: torch.device) -> None:
    u = torch.randn(1, 1, 16, 16, device=device)
    for scale, count in (
        (0.0, 1), (0.3, 1), (0.5, 1), (0.5004, 1), (0.52, 2), (-1.0, 2), (1.4, 3), (3.99, 8), (50.0, 8),
        (math.nan, 1), (math.inf, 1),
    ):  # fmt: skip
        theta = torch.tensor([[[0.1, 0, 0.1], [scale, 0.2, 0.1]]], device=device)
        run = partial(st_sample, u, theta, (8, 8), padding_mode="reflection", backend=backend)
        asked, given = run(antialias=True), run(antialias=count)
        torch.testing.assert_close(asked, given, msg=f"{scale}: not {count}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_of_a_volume(backend: str, device: torch.device) -> None:
    u = torch.randn(1, 1, 2, 2, 2, device=device)
    theta = torch.tensor([[[0.9, 0.1, 0.0, 0.1], [0.0, 0.8, 0.1, 0.0], [0.1, 0.0, 0.9, 0.1]]])
    run = partial(st_sample, u, theta.to(device), (1, 1, 1), backend=backend)
    torch.testing.assert_close(run(antialias=True), run(antialias=2))
    assert not torch.equal(run(antialias=True), run(antialias=False))


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
        u = u.movedim(1, -1).contiguous().movedim(-1, 1) if "layout" in GRAPHS[setting] else u
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
