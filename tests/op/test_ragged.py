"""Ragged crops: `index` says which image each transformation reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, jvp, vmap

from stn_triton import box_to_theta, st_sample
from stn_triton.ops import INTERPRET
from stn_triton.ragged import rows_of_images
from stn_triton.torch_backend import gradients_by_taps, st_sample_taps
from stn_triton.transforms import Options
from support.cases import IN_SIZES, OUT_SIZES, make
from support.checks import (
    BACKENDS,
    SLOW_TRITON,
    check,
    label,
    make_input,
    needs_triton,
    plain,
    with_gradients,
)

INDEX = (2, 0, 2, 0, 2)  # image 1 has no crop
CASES = [
    {"map": "affine"},
    {"map": "affine", "mode": "nearest", "dtype": torch.bfloat16, "layout": "channels_last"},
    {"map": "attention", "antialias": True, "padding_mode": "border", "dtype": torch.float16},
    {"map": "projective", "mode": "bicubic", "padding_value": 1.5, "dtype": torch.float64},
    {"map": "affine", "padding_mode": "reflection", "antialias": 2, "layout": "strided"},
    {"map": "tps", "padding_mode": "border", "align_corners": True},
    {"map": "piecewise_affine", "layout": "channels_last", "padding_value": -2.0},
    {"map": "affine", "padding_value": 0.5, "dtype": torch.bfloat16, "theta_dtype": torch.float32},
]
VOLUMES = [
    {"map": "affine", "padding_value": 0.5, "ndim": 3},
    {"map": "attention", "ndim": 3, "layout": "channels_last", "padding_mode": "reflection"},
]


def ragged(
    case: dict[str, Any], device: torch.device, channels: int = 3, index: tuple[int, ...] = INDEX
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Three images, a theta for each entry of index, the options of a call."""
    ndim = case.get("ndim", 2)
    _, theta, options = make({**case, "k": len(index), "spread": 0.5}, device, ndim, channels)
    shape = (3, channels, *IN_SIZES[ndim])
    u = make_input(
        shape, case.get("dtype", torch.float32), case.get("layout", "contiguous"), device
    )
    options["index"] = torch.tensor(index, device=device)
    return u, theta[0].contiguous(), options


def run_of(case: dict[str, Any], backend: str) -> Callable[..., Tensor]:
    return partial(st_sample, out_size=OUT_SIZES[case.get("ndim", 2)], backend=backend)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", CASES + VOLUMES, ids=label)
def test_against_definition(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = ragged(case, device)
    size = OUT_SIZES[case.get("ndim", 2)]
    found = check(partial(st_sample, backend=backend), u, theta, size, reference=plain, **options)
    assert found["output"].shape == (len(INDEX), 3, *size)
    assert not found["input gradient"][1].any()


@needs_triton
@pytest.mark.parametrize("case", [CASES[0], CASES[6]], ids=label)
def test_a_few_by_kernels(case: dict[str, Any], device: torch.device) -> None:
    u, theta, options = ragged(case, device, channels=1, index=(1, 0, 1))
    check(
        partial(st_sample, backend="triton"), u[:2], theta, OUT_SIZES[2], reference=plain, **options
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "case",
    [
        {"map": "affine", "dtype": torch.bfloat16},
        {"map": "projective", "padding_mode": "border"},
        {"map": "tps", "dtype": torch.float64},
    ],
    ids=label,
)
def test_the_same_bits_as_transformers_of_one_image(
    case: dict[str, Any], layout: str, backend: str, device: torch.device
) -> None:
    """The crops of an image are summed in ascending order, however those of other images stand between them."""
    u, theta, options = make({**case, "layout": layout, "k": 2}, device, channels=2)
    run = run_of(case, backend)
    cotangent = torch.randn(2, 2, 2, *OUT_SIZES[2], device=device).to(u.dtype)
    together = with_gradients(run, u, theta, cotangent, **options)
    index = torch.tensor([1, 0, 1, 0], device=device)  # n of row 2 k + (1 - n)
    rows = theta.transpose(0, 1).flip(1).flatten(0, 1)
    found = with_gradients(
        run, u, rows, cotangent.transpose(0, 1).flip(1).flatten(0, 1), index=index, **options
    )
    for name in ("output", "theta gradient"):
        back = found[name].unflatten(0, (2, 2)).flip(1).transpose(0, 1)
        assert torch.equal(back, together[name]), name
    if backend == "torch":  # where another operation sums the crops of one image
        torch.testing.assert_close(found["input gradient"], together["input gradient"])
    else:
        assert torch.equal(found["input gradient"], together["input gradient"])


def test_rows_of_images() -> None:
    order, starts = rows_of_images(torch.tensor([3, 1, -1, 3, 0, 9, 1]), 4)
    rows = [order[starts[n] : starts[n + 1]].tolist() for n in range(4)]
    assert rows == [[4], [1, 6], [], [0, 3]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend: str, device: torch.device) -> None:
    for images, crops in ((0, 0), (3, 0)):
        u = torch.randn(images, 2, 4, 5, device=device, requires_grad=True)
        theta = torch.zeros(crops, 2, 3, device=device, requires_grad=True)
        index = torch.zeros(crops, dtype=torch.int64, device=device)
        out = st_sample(u, theta, (3, 4), index=index, backend=backend)
        assert out.shape == (crops, 2, 3, 4)
        of_input, of_theta = torch.autograd.grad(out.sum(), (u, theta))
        assert of_input.shape == u.shape
        assert not of_input.any()
        assert of_theta.shape == theta.shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [-1, 3, 2**40])
def test_an_index_outside_is_refused(number: int, backend: str) -> None:
    u, theta, options = ragged({"map": "affine"}, torch.device("cpu"))
    options["index"][3] = number
    if INTERPRET or backend != "triton":
        with pytest.raises(IndexError, match=rf"\[0, 3\), got {number}"):
            st_sample(u, theta, (3, 4), backend=backend, **options)


@needs_triton
@pytest.mark.parametrize("value", [0.0, 2.5])
@pytest.mark.parametrize("name", ["affine", "tps"])
def test_an_index_outside_where_nobody_looks(name: str, value: float, device: torch.device) -> None:
    """A GPU does not check the index: such a crop is 0 without gradient, and the others are as they are alone."""
    from stn_triton import autograd

    u, theta, options = ragged({"map": name}, device, channels=2, index=(1, -1, 2, 0))
    u[0] = torch.inf  # which a masked tap must not meet
    index, size = torch.tensor([1, -1, 2**40, 1], device=device), (3, 4)
    given = Options(options["transform"], padding_value=value)
    cotangent = torch.randn(4, 2, *size, device=device)
    cotangent[1] = torch.inf
    u.requires_grad_()
    theta.requires_grad_()
    out = autograd.sample(u, theta, index, size, given)
    assert not out[1:3].any()
    found = torch.autograd.grad(out, (u, theta), cotangent)
    assert not found[1][1:3].any()
    rest = torch.tensor([0, 3], device=device)
    alone = autograd.sample(u, theta[rest], index[rest], size, given)
    assert torch.equal(out[rest], alone)
    expected = torch.autograd.grad(alone, (u, theta), cotangent[rest])
    torch.testing.assert_close(found, expected)
    # The same holds where operations on the index are recorded.
    arguments = u.detach(), theta.detach(), index
    batch = [x[None] for x in arguments]
    by_taps = torch.vmap(st_sample_taps, (0, 0, 0, None, None))(*batch, size, given)[0]
    torch.testing.assert_close(by_taps, out.detach())
    of_input, of_theta = gradients_by_taps(
        cotangent, u.detach(), theta.detach(), index, size, given
    )
    torch.testing.assert_close((of_input, of_theta), found)


WRONG: dict[str, tuple[Any, Any, type[Exception], list[str]]] = {
    "a list": ([0, 1], (2,), TypeError, ["index", "tensor", "list"]),
    "int32": (torch.zeros(2, dtype=torch.int32), (2,), TypeError, ["index", "int64", "int32"]),
    "two axes": (torch.zeros(2, 1, dtype=torch.int64), (2,), ValueError, ["(M,)", "(2, 1)"]),
    "K": (torch.zeros(2, dtype=torch.int64), (2, 1), ValueError, ["(M, ...)", "K", "(2, 1, 2, 3)"]),
    "another M": (torch.zeros(3, dtype=torch.int64), (2,), ValueError, ["M = 3", "got 2"]),
    "device": (
        torch.zeros(2, dtype=torch.int64, device="meta"), (2,), ValueError, ["device", "cpu", "meta"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", WRONG)
def test_refused(what: str, backend: str) -> None:
    index, outer, error, words = WRONG[what]
    with pytest.raises(error) as caught:
        st_sample(
            torch.zeros(2, 1, 4, 4), torch.zeros(*outer, 2, 3), (2, 2), index=index, backend=backend
        )
    assert all(word in str(caught.value) for word in words), caught.value


def each_alone(u: Tensor, theta: Tensor, index: Tensor, run: Callable[..., Tensor]) -> Tensor:
    return torch.stack([run(*one) for one in zip(u, theta, index, strict=True)])


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_vmap(backend: str, device: torch.device) -> None:
    def run(u: Tensor, theta: Tensor, index: Tensor) -> Tensor:
        return st_sample(u, theta, (2, 3), index=index, padding_value=0.5, backend=backend)

    u = torch.randn(2, 3, 1, 4, 5, device=device, dtype=torch.float64)
    theta = torch.eye(2, 3, device=device) + 0.3 * torch.randn(2, 2, 2, 3, device=device).double()
    index = torch.tensor([[2, 0], [1, 1]], device=device)

    def several(*in_dims: int | None) -> None:
        chosen = [
            x if dim == 0 else x[0] for x, dim in zip((u, theta, index), in_dims, strict=True)
        ]
        repeated = [
            x if dim == 0 else x.expand(2, *x.shape) for x, dim in zip(chosen, in_dims, strict=True)
        ]
        expected = each_alone(*repeated, run)
        torch.testing.assert_close(vmap(run, in_dims)(*chosen), expected)

        def loss(u: Tensor, theta: Tensor, index: Tensor) -> Tensor:
            return run(u, theta, index).square().sum()

        found = vmap(grad(loss, (0, 1)), in_dims)(*chosen)
        one_by_one = [grad(loss, (0, 1))(*one) for one in zip(*repeated, strict=True)]
        for number in range(2):
            torch.testing.assert_close(
                found[number], torch.stack([each[number] for each in one_by_one])
            )

    for in_dims in ((0, 0, 0), (None, 0, 0), (None, None, 0), (0, None, 0), (0, 0, None)):
        several(*in_dims)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_index_outside_is_refused_under_vmap(backend: str) -> None:
    u, theta = torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 2, 3)
    index = torch.tensor([[0], [1], [2]])
    with pytest.raises(IndexError, match="got 2"):
        vmap(lambda theta, index: st_sample(u, theta, (2, 2), index=index, backend=backend))(
            theta, index
        )


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_forward_mode_along_a_tangent(backend: str, device: torch.device) -> None:
    u, theta, options = ragged({"map": "affine", "dtype": torch.float64}, device, channels=1)
    run = partial(st_sample, out_size=(2, 2), backend=backend, **options)
    expected = partial(plain, out_size=(2, 2), **options)
    tangents = u.cos(), theta.sin()
    torch.testing.assert_close(
        jvp(run, (u, theta), tangents)[1], jvp(expected, (u, theta), tangents)[1]
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool, backend: str, device: torch.device) -> None:
    torch._dynamo.reset()
    u, theta, options = ragged({"map": "affine"}, device, channels=2)

    def run(u: Tensor, theta: Tensor, index: Tensor) -> Tensor:
        return st_sample(u, theta, (3, 4), index=index, backend=backend)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for crops in (5, 3) if dynamic else (5,):
        rows, index = theta[:crops], options["index"][:crops]
        cotangent = torch.randn(crops, 2, 3, 4, device=device)
        expected = with_gradients(run, u, rows, cotangent, index)
        found = with_gradients(compiled, u, rows, cotangent, index)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], msg=name)
    if device.type == "cpu" and backend != "torch":  # which becomes a graph of other operators
        with pytest.raises(IndexError, match="got 7"):
            compiled(u, theta, torch.full_like(options["index"], 7))


class Crop(nn.Module):
    def forward(self, u: Tensor, theta: Tensor, index: Tensor) -> Tensor:
        return st_sample(u, theta, (3, 4), index=index, padding_value=0.5)


def test_export() -> None:
    u, theta, options = ragged({"map": "affine"}, torch.device("cpu"))
    dim = torch.export.Dim("M")
    shapes = {"u": {0: torch.export.Dim("N")}, "theta": {0: dim}, "index": {0: dim}}
    inputs = u, theta, options["index"]
    program = torch.export.export(Crop(), inputs, dynamic_shapes=shapes)
    fewer = u[:2], theta[:3], torch.tensor([1, 0, 1])
    for each in (inputs, fewer):
        torch.testing.assert_close(program.module()(*each), Crop()(*each))


def test_onnx() -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from test_onnx import export, run

    u, theta, options = ragged({"map": "affine"}, torch.device("cpu"))
    inputs = u, theta, options["index"]
    program = export(Crop(), inputs)
    torch.testing.assert_close(run(program, *inputs)[0], Crop()(*inputs), atol=1e-5, rtol=0)
    outside = torch.tensor([0, 1, -1, 0, 0])
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(program, u, theta, outside)


@needs_triton
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck(device: torch.device) -> None:
    from stn_triton import ops

    u, theta, options = ragged({"map": "affine"}, device, channels=1, index=(1, 0))
    u.requires_grad_()
    theta.requires_grad_()
    torch.library.opcheck(ops.sample, (u, theta, options["index"], (2, 3), *Options()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_published_numbers_of_roi_align(backend: str, device: torch.device) -> None:
    """detectron2, tests/layers/test_roi_align.py (405ef0d), `test_forward_output`."""
    ramp = torch.arange(25.0, device=device).view(1, 1, 5, 5)
    u = torch.cat((torch.zeros_like(ramp), ramp))
    box = torch.tensor([1.0, 1, 3, 3], device=device)
    # aligned=False takes pixel centres for whole numbers: half a pixel to the right.
    theta = box_to_theta(torch.stack((box + 0.5, box, box)), (5, 5))
    index = torch.tensor([1, 1, 0], device=device)
    out = st_sample(u, theta, (4, 4), index=index, backend=backend)
    old = [[7.5, 8, 8.5, 9], [10, 10.5, 11, 11.5], [12.5, 13, 13.5, 14], [15, 15.5, 16, 16.5]]
    correct = [[4.5, 5, 5.5, 6], [7, 7.5, 8, 8.5], [9.5, 10, 10.5, 11], [12, 12.5, 13, 13.5]]
    expected = torch.tensor([old, correct, [[0.0] * 4] * 4], device=device).unsqueeze(1)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_the_image_and_half_the_box_of_roi_align(backend: str, device: torch.device) -> None:
    """detectron2, the same file, `test_resize`: sampling_ratio=0 takes 2 x 2 samples of the large image, and 1."""
    u = 100 * torch.rand(1, 1, 30, 30, device=device)
    box = torch.tensor([[10.0, 10, 20, 20]], device=device)
    index = torch.zeros(1, dtype=torch.int64, device=device)
    theta = box_to_theta(box, (30, 30))
    large = st_sample(u, theta, (5, 5), antialias=2, index=index, backend=backend)
    auto = st_sample(u, theta, (5, 5), antialias=True, index=index, backend=backend)
    half = st_sample(F.avg_pool2d(u, 2), theta, (5, 5), index=index, backend=backend)
    torch.testing.assert_close(large, half, atol=1e-4, rtol=0)
    torch.testing.assert_close(auto, half, atol=1e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("samples", [1, 2])
def test_roi_align_of_torchvision(samples: int, backend: str, device: torch.device) -> None:
    ops = pytest.importorskip("torchvision.ops")
    u = torch.randn(3, 2, 12, 14, device=device, requires_grad=True)
    low = torch.rand(6, 2, device=device) * 4 + 2
    boxes = torch.cat((low, low + 2 + 4 * torch.rand(6, 2, device=device)), 1)  # inside the image
    index = torch.tensor([2, 0, 1, 2, 2, 0], device=device)
    rows = torch.cat((index.unsqueeze(1).to(boxes), boxes), 1)
    theirs = ops.roi_align(u, rows, (3, 4), sampling_ratio=samples, aligned=True)
    ours = st_sample(
        u, box_to_theta(boxes, (12, 14)), (3, 4), antialias=samples, index=index, backend=backend
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    of_ours, of_theirs = (torch.autograd.grad(out.square().sum(), u)[0] for out in (ours, theirs))
    torch.testing.assert_close(of_ours, of_theirs, atol=1e-4, rtol=1e-4)
