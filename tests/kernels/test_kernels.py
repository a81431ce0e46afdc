"""The kernels where it is hard: thetas that gather everything, kinks, non-finite numbers, sizes past int32."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from torch import Tensor

from stn_triton import st_sample
from stn_triton.formats import compute_dtype
from stn_triton.kernels import backward_cells, geometry
from stn_triton.kernels.backward_boxes import box_backward
from stn_triton.kernels.backward_cells import SIZES, cell_backward
from stn_triton.kernels.backward_pixels import pixel_backward
from stn_triton.kernels.backward_theta import theta_backward
from stn_triton.kernels.blocks import (
    box_blocks,
    cell_blocks,
    forward_blocks,
    pixel_blocks,
    theta_blocks,
)
from stn_triton.kernels.cells import paths, turned
from stn_triton.kernels.forward import sample_forward
from stn_triton.kernels.launch import INTERPRET, UNSPECIALISED, Launch, recorded
from stn_triton.transforms import Options
from support import definition
from support.checks import (
    OPTIONS,
    check,
    distance_to_kinks,
    label,
    pairwise,
    peer,
    plain,
    with_gradients,
)

pytestmark = pytest.mark.usefixtures("poisoned_memory")
interpreted = pytest.mark.skipif(not INTERPRET, reason="looks into interpreted kernels")

triton_sample = partial(st_sample, backend="triton")
IN_SIZE, OUT_SIZE = (4, 5), (5, 4)


def turn(degrees: float, scale: float, tx: float = 0.0, ty: float = 0.0) -> list[list[float]]:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return [[c, -s, tx], [s, c, ty]]


HOSTILE = {
    "turn": turn(33, 1.1),
    "zoom in": turn(20, 0.15, 0.1),
    "zoom out": turn(-70, 3.3),
    "mirrored": [[-0.7, 0.4, 0.11], [0.5, 0.9, -0.07]],
    "sheared": [[1.0, 6.0, 0.013], [0.0, 1.0, 0.017]],
    "rank 1 at 45 degrees": [[0.8, 0.8, 0.013], [0.8, 0.8, -0.029]],
    "rank 1, columns alone": [[0.9, 0.0, 0.013], [0.9, 0.0, -0.029]],
    "rank 1, rows alone": [[0.0, 0.9, 0.013], [0.0, 0.9, -0.029]],
    "nearly singular": [[0.8, 0.8, 0.013], [0.8, 0.8 + 1e-7, -0.029]],
    "almost a point": turn(45, 1e-6, 0.11, 0.13),
    "a point": [[0.0, 0.0, 0.11], [0.0, 0.0, -0.13]],
    "all zero": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    "a column only": [[0.0, 0.0, 0.11], [0.0, 1.0, 0.0]],
    "far shift": [[1.0, 0.1, 50.0], [0.1, 1.0, 0.0]],
    "far shift to a corner": [[1.0, 0.0, -30.0], [0.0, 1.0, 40.0]],
    "half outside": [[1.0, 0.21, 0.9], [-0.23, 1.0, -0.93]],
    "huge": [[1e6, 3.0, 0.1], [-5.0, 1e6, 0.2]],
    "huge turn": turn(45, 1e6),
    "huge shift": [[1.0, 0.0, 1e6], [0.0, 1.0, -1e6]],
    "huge and tiny": [[1e6, 0.0, 0.1], [0.0, 1e-6, 0.1]],
}

WORST = {
    "zoom in", "rank 1 at 45 degrees", "nearly singular", "almost a point", "all zero", "far shift",
    "far shift to a corner", "half outside", "huge",
}  # fmt: skip


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("name", [name if name in WORST else slow(name) for name in HOSTILE])
def test_hostile_thetas(name: str, padding_mode: str, device: torch.device) -> None:
    theta = torch.tensor([HOSTILE[name]], device=device)
    if name in {"all zero", "a column only"}:
        pass  # Coordinates as exact as the definition's: kinks do no harm.
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


WHOLE = {
    "identity": ([[1, 0, 0], [0, 1, 0]], (4, 5), (4, 5), False),
    "identity, corners aligned": ([[1, 0, 0], [0, 1, 0]], (4, 5), (4, 5), True),
    "flipped": ([[-1, 0, 0], [0, -1, 0]], (4, 5), (4, 5), False),
    "quarter turn": ([[0, 1, 0], [-1, 0, 0]], (4, 4), (4, 4), False),
    "shifted": ([[1, 0, 0.5], [0, 1, -0.5]], (4, 4), (4, 4), False),
    "every second, corners aligned": ([[1, 0, 0], [0, 1, 0]], (3, 5), (5, 9), True),
    "both ends": ([[2, 0, 0], [0, 2, 0]], (3, 3), (5, 5), True),
    "one point": ([[0, 0, 0], [0, 0, 0]], (3, 5), (3, 2), False),
}


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.float64)], ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_slopes_at_whole_coordinates(
    name: str, dtype: torch.dtype, padding_mode: str, device: torch.device
) -> None:
    """Right derivatives, and 0 at the ends of "border": all of these coordinates are whole without rounding."""
    matrix, in_size, out_size, align = WHOLE[name]
    theta = torch.tensor([matrix], dtype=dtype, device=device)
    found = definition.coordinates(theta.double(), in_size, out_size, "affine", align)
    assert any(torch.equal(s, s.round()) for s in found) or name.startswith("every second")
    u = torch.randn(1, 2, *in_size, dtype=dtype, device=device)
    options = {"padding_mode": padding_mode, "align_corners": align}
    torch.manual_seed(1)
    ours = check(triton_sample, u, theta, out_size, reference=plain, **options)
    # The kernel that makes theta's gradient alone, from the cotangent that `check` drew, takes the same side.
    torch.manual_seed(1)
    g = torch.randn(ours["output"].shape, device=device).to(dtype)
    theta.requires_grad_()
    (alone,) = torch.autograd.grad(triton_sample(u, theta, out_size, **options), theta, g)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(alone, ours["theta gradient"], rtol=32 * eps, atol=32 * eps)


TIES = {
    "half a pixel to the right": ([[1, 0, 0.25], [0, 1, 0.25]], (4, 4), (4, 4), False),
    "half a pixel to the left": ([[1, 0, -0.25], [0, 1, -0.25]], (4, 4), (4, 4), False),
    "two rows of each": ([[1, 0, 0], [0, 1, 0]], (3, 5), (5, 9), True),
}


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("name", TIES)
def test_ties_of_nearest_go_to_the_even_pixel(
    name: str, padding_mode: str, device: torch.device
) -> None:
    matrix, in_size, out_size, align = TIES[name]
    theta = torch.tensor([matrix], dtype=torch.float32, device=device)
    found = definition.coordinates(theta.double(), in_size, out_size, "affine", align)
    assert all((s - s.floor() == 0.5).any() for s in found)
    u = torch.randn(1, 1, *in_size, device=device)
    options = {"padding_mode": padding_mode, "mode": "nearest", "align_corners": align}
    check(triton_sample, u, theta, out_size, reference=plain, **options)


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


def visits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the steps of the gather by cells, each of them an output for every lane: (straight, turned)."""
    count = [0, 0]
    for index, (module, name) in enumerate(((paths, "give"), (turned, "_visit"))):
        original = getattr(module, name)

        def counted(*args: Any, index: int = index, original: Any = original) -> Any:
            count[index] += 1
            return original(*args)

        monkeypatch.setattr(module, name, counted)
    return count


@interpreted
def test_the_identity_visits_one_candidate_a_cell(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    count = visits(monkeypatch)
    u = torch.randn(1, 1, 4, 6, device=device)
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], device=device)
    with_gradients(triton_sample, u, theta, torch.ones_like(u), (4, 6))
    assert count == [2 + 4, 0]  # the column on the left, the row above, four rows


@interpreted
def test_a_tile_that_no_output_reaches_visits_nothing(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    count = visits(monkeypatch)
    u = torch.randn(1, 1, 5, 6, device=device)
    theta = torch.tensor([[[0.7, 0.7, 9.0], [-0.7, 0.7, 0]]], device=device)
    found = with_gradients(triton_sample, u, theta, torch.ones_like(u), (5, 6))
    assert count == [0, 0]
    assert not found["input gradient"].any()


@interpreted
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("degrees", [0, slow(30)])
def test_turned_tiles(
    degrees: float, padding_mode: str, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Where outputs are in the lanes, not inputs, the gradients are the same."""
    u = torch.randn(1, 2, 2, 2, dtype=torch.float64, device=device)
    theta = torch.tensor([turn(degrees, 1.0, 0.013, 0.017)], dtype=torch.float64, device=device)
    run = partial(
        check, triton_sample, u, theta, (12, 14), reference=plain, padding_mode=padding_mode
    )
    count = visits(monkeypatch)
    torch.manual_seed(2)
    straight = run()
    assert count[0] > 40
    assert (count[1] > 0) == (padding_mode == "border")

    count[:] = 0, 0
    monkeypatch.setattr(backward_cells, "turning_pays", lambda *_: True)
    torch.manual_seed(2)
    turned = run()
    assert count[0] == 0
    assert 0 < count[1] < 100
    for name in straight:
        torch.testing.assert_close(turned[name], straight[name], rtol=1e-12, atol=1e-12)


@interpreted
def test_a_point_that_takes_the_whole_output_turns_its_tile(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    count = visits(monkeypatch)
    u = torch.randn(1, 1, 3, 3, device=device)
    theta = torch.tensor([[[0.0, 0.0, 0.11], [0.0, 0.0, -0.13]]], device=device)
    check(triton_sample, u, theta, (40, 50), reference=plain)
    assert count[0] == 0
    assert count[1] == 4 * 2 * 50  # four pixels, 40 rows of the output in 32 lanes, 50 columns


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


def test_offsets_of_64_bits_change_nothing(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, device: torch.device
) -> None:
    u = torch.randn(1, 2, *IN_SIZE, device=device).contiguous(memory_format=torch.channels_last)
    theta = torch.randn(1, 2, 3, device=device)
    g = torch.randn(1, 2, *OUT_SIZE, device=device)
    usual = with_gradients(triton_sample, u, theta, g, OUT_SIZE)
    monkeypatch.setattr(geometry, "needs_int64", lambda elements: True)
    request.addfinalizer(geometry._geometry.cache_clear)
    geometry._geometry.cache_clear()
    wide = with_gradients(triton_sample, u, theta, g, OUT_SIZE)
    for name in usual:
        assert torch.equal(usual[name], wide[name]), name


def is_by_cells(launch: Launch) -> bool:
    return str(launch.kernel.fn.__name__) == "_cell_backward_kernel"


def launches(
    shape: tuple[int, ...], out_size: tuple[int, int], k: int | None = None, *,
    dtype: torch.dtype = torch.float32, channels_last: bool = False, strides: tuple[int, ...] | None = None,
    others: bool = False,
) -> list[Launch]:  # fmt: skip
    """What forward, joint backward and theta's backward would launch over pixels; nothing is allocated.

    others: the gathers of the input's gradient alone too, and the kernels of second order.
    """
    u = torch.empty(shape, dtype=dtype, device="meta")
    if channels_last:
        u = u.contiguous(memory_format=torch.channels_last)
    if strides:
        u = torch.empty_strided(shape, strides, dtype=dtype, device="meta")
    theta = torch.empty((shape[0], *([] if k is None else [k]), 2, 3), device="meta")
    options = Options()
    with recorded() as found:
        v = sample_forward(u, theta, None, out_size, options)
        cell_backward(v, u, theta, None, out_size, options, with_theta=True)
        theta_backward(v, u, theta, None, out_size, options)
        if others:
            pixel_backward(v, u, theta, None, out_size, options)
            box_backward(v, u, theta, None, out_size, options)
            sample_forward(u, theta, None, out_size, options, theta)
            pixel_backward(v, u, theta, None, out_size, options, theta)
            theta_backward(v, u, theta, None, out_size, options, theta)
    found = [each for each in found if "SPEC" in each.constexprs]  # not the sums over programs
    assert len({each.kernel for each in found}) == (6 if others else 3)
    return found


@pytest.mark.parametrize(
    ("shape", "out_size", "strides", "wide"),
    [
        ((1, 1, 2**15, 2**16 - 1), (8, 8), None, False),
        ((1, 1, 2**15, 2**16), (8, 8), None, True),
        ((1, 2**15, 256, 256), (8, 8), None, True),
        ((1, 3, 8, 8), (2**15, 2**16), None, True),
        ((2**12, 3, 512, 512), (512, 512), None, False),  # only one image counts
        ((1, 2, 8, 8), (8, 8), (0, 2**31 - 65, 8, 1), False),
        ((1, 2, 8, 8), (8, 8), (0, 2**31, 8, 1), True),
    ],
    ids=str,
)
def test_which_images_need_64_bits(
    shape: tuple[int, ...], out_size: tuple[int, int], strides: tuple[int, ...] | None, wide: bool
) -> None:
    found = [
        e.constexprs["SPEC"].OFFSET for e in launches(shape, out_size, strides=strides, others=True)
    ]
    reading = [str(each) for each in found if each is not None]
    assert reading == 9 * ["int64" if wide else "int32"]


def test_needs_int64() -> None:
    assert not geometry.needs_int64(2**31 - 1)
    assert geometry.needs_int64(2**31)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("n", "k"), [(70_000, None), (1000, 100), (2, 70_000)])
def test_more_transformers_than_a_launch_has_rows(
    n: int, k: int | None, channels_last: bool
) -> None:
    """The third axis of a launch ends at 65,535: then several launches share the images, each taken once."""
    found = launches((n, 16, 20, 24), (9, 40), k, channels_last=channels_last)
    cells = next(each for each in found if is_by_cells(each))
    for name in ("_sample_forward_kernel", "_theta_backward_kernel"):
        parts = [each for each in found if each.kernel.fn.__name__ == name]
        tiling = parts[0].constexprs["TILING"]
        planes = 0
        for each in parts:
            assert each.grid[:2] == (math.ceil(40 / tiling.TILE_X), math.ceil(9 / tiling.TILE_Y))
            assert 0 < each.grid[2] < 2**16
            assert each.args[-2:] == (0, planes)
            planes += each.grid[2]
        assert planes == n * (k or 1) * math.ceil(16 / tiling.BLOCK_C)
    spec = cells.constexprs["SPEC"]
    blocks = 16 // (spec.CHUNKS * spec.VECTORS * spec.VECTOR)
    assert cells.grid[:2] == (n * blocks, math.ceil(24 / spec.CELLS))
    assert cells.grid[0] < 2**31


@pytest.mark.parametrize("out_size", [(1_500_000, 3), (70_000, 20, 2)], ids=str)
def test_more_rows_of_tiles_than_a_launch_has(out_size: tuple[int, ...]) -> None:
    """Then several launches make one output, each row of tiles taken once."""
    ndim = len(out_size)
    u = torch.empty((1, 1, *[4] * ndim), device="meta")
    theta = torch.empty((1, ndim, ndim + 1), device="meta")
    with recorded() as found:
        v = sample_forward(u, theta, None, out_size, Options())
    assert v.shape == (1, 1, *out_size)
    tiling, rows = found[0].constexprs["TILING"], 0
    for each in found:
        assert 0 < each.grid[1] < 2**16
        assert each.args[-2:] == (rows, 0)
        rows += each.grid[1]
    assert len(found) > 1
    assert rows == math.ceil(out_size[-2] / tiling.TILE_Y) * math.prod(out_size[:-2])


@pytest.mark.parametrize("size", [(3_000_000, 2), (2, 3_000_000), (700_000, 40)], ids=str)
def test_more_tiles_than_a_launch_has_rows(size: tuple[int, int]) -> None:
    """Then several launches make one gradient, each tile once."""
    u = torch.empty((1, 1, *size), device="meta")
    theta = torch.empty((1, 2, 3), device="meta")
    with recorded() as found:
        cell_backward(
            torch.empty(1, 1, 4, 4, device="meta"),
            u,
            theta,
            None,
            (4, 4),
            Options(),
            with_theta=True,
        )
    tiles = []
    for each in found[:-1]:  # the last adds up what these found
        value = dict(zip(inspect.signature(each.kernel.fn).parameters, each.args, strict=False))
        assert max(each.grid[1:]) < 2**16
        across = range(value["first_strip"], value["first_strip"] + each.grid[1])
        down = range(value["first_band"], value["first_band"] + each.grid[2])
        tiles += [(across, down)]
        assert value["ROWS"] * value["BANDS"] >= size[0]
        assert each.constexprs["SPEC"].CELLS * value["STRIPS"] >= size[1]
    covered = sum(len(across) * len(down) for across, down in tiles)
    assert covered == value["STRIPS"] * value["BANDS"]
    assert len(tiles) == math.ceil(value["STRIPS"] / 65535) * math.ceil(value["BANDS"] / 65535)


SHAPES = [
    (n, c, h, w)
    for n in (1, 300) for c in (1, 2, 3, 4, 5, 8, 16, 24, 63, 64, 96, 512, 1000)
    for h, w in ((1, 1), (7, 5), (28, 28), (224, 224), (1, 4096))
]  # fmt: skip


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_blocks_are_sane(dtype: torch.dtype, channels_last: bool) -> None:
    for shape in SHAPES:
        u = torch.empty(shape, dtype=dtype, device="meta")
        if channels_last:
            u = u.contiguous(memory_format=torch.channels_last)
        g = geometry.geometry(
            u, torch.empty(shape[0], 2, 3, device="meta"), None, (9, 33), Options()
        )
        vector = g.spec.VECTOR
        assert shape[1] % vector == 0
        pixels, rows = pixel_blocks(g)
        assert pixels.TILE_Y % rows == 0
        boxes = box_blocks(g)
        assert (pixels.TILE_X, pixels.num_warps) == (boxes.TILE_X, boxes.num_warps)
        assert pixels.BLOCK_C in (boxes.BLOCK_C, 2 * boxes.BLOCK_C)
        for blocks in (forward_blocks(g), theta_blocks(g), pixels, box_blocks(g)):
            for number in blocks[:4]:  # tile, channels, warps
                assert number > 0
                assert number & (number - 1) == 0, (shape, blocks)
            assert blocks.BLOCK_C % vector == 0
        assert pixels.num_warps == 1
        values = pixels.TILE_X * rows * pixels.BLOCK_C
        assert 32 * vector <= values <= 32 * max(vector, 8), (shape, pixels)
        for blocks in (forward_blocks(g), theta_blocks(g)):
            assert blocks.TILE_X * blocks.TILE_Y % 16 == 0
            values = blocks.TILE_X * blocks.TILE_Y * blocks.BLOCK_C
            assert 32 * blocks.num_warps <= values <= 8192


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_blocks_of_cells_are_sane(dtype: torch.dtype, channels_last: bool) -> None:
    for shape in SHAPES:
        u = torch.empty(shape, dtype=dtype, device="meta")
        if channels_last:
            u = u.contiguous(memory_format=torch.channels_last)
        g = geometry.geometry(
            u, torch.empty(shape[0], 2, 3, device="meta"), None, (9, 33), Options()
        )
        spec, blocks = cell_blocks(g, with_theta=True)
        assert spec.CELLS * spec.VECTORS == 32
        assert 0 < blocks.rows < spec.CELLS  # the column on the left has one more
        held = spec.CHUNKS * spec.VECTORS * spec.VECTOR
        assert shape[1] <= blocks.channels * held < shape[1] + held
        assert (blocks.channels * held != shape[1]) == spec.MASKED
        assert spec.CHUNKS * spec.VECTOR * (1 if dtype == torch.bfloat16 else 2) <= 8


def test_no_size_is_specialised() -> None:
    """A kernel's arguments are pointers, constants of the kernel, or not specialised."""
    for each in launches((2, 3, 8, 8), (8, 8), others=True):
        parameters = inspect.signature(each.kernel.fn).parameters.values()
        sizes = [p.name for p in parameters if p.annotation is inspect.Parameter.empty]
        names = [name for name in sizes if not name.endswith("_ptr")]
        if is_by_cells(each):
            assert names == SIZES
            continue
        assert names == [name for name in UNSPECIALISED if name in names]
        assert len(names) >= UNSPECIALISED.index("stride_n")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [3, 64])
def test_few_compilations_for_many_sizes(channels: int, channels_last: bool) -> None:
    """What a kernel is compiled for, over inputs of 8 to 300 pixels, batches of 1 to 64, outputs, and K."""
    keys: dict[str, set[Any]] = {}
    for n, k in ((1, None), (64, None), (5, 3)):
        for size in (8, 13, 16, 28, 64, 65, 127, 300):
            for out_size in ((size, size), (size // 2 + 1, 2 * size)):
                for each in launches((n, channels, size, size), out_size, k, channels_last=channels_last):  # fmt: skip
                    key = (*sorted(each.constexprs.items(), key=str), each.num_warps)
                    keys.setdefault(each.kernel.fn.__name__, set()).add(str(key))
    most = max(map(len, keys.values()))
    # The gather by cells keeps sums in memory only where there are several transformers; where lanes hold pixels, tiles
    # go by the size of the output.
    few = channels_last and channels > 4
    assert most <= (2 if few else 10), {name: len(k) for name, k in keys.items()}


@pytest.mark.gpu
def test_a_new_size_is_no_new_compilation() -> None:
    def compiled() -> int:
        kernels = {each.kernel for each in launches((2, 16, 8, 8), (8, 8))}
        return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())

    def run(size: int, n: int, k: int) -> None:
        u = torch.randn(n, 16, size, size + 1, device="cuda", dtype=torch.float16)
        u = u.contiguous(memory_format=torch.channels_last).requires_grad_()
        theta = torch.randn(n, k, 2, 3, device="cuda", requires_grad=True)
        triton_sample(u, theta, (size, 7)).sum().backward()
        triton_sample(u.detach(), theta, (size, 7)).sum().backward()

    run(40, 2, 1)
    before = compiled()
    for size, n, k in ((1, 1, 1), (16, 16, 16), (33, 3, 2), (64, 1, 5)):
        run(size, n, k)
    assert compiled() == before


def test_recorded_launches_have_the_arguments_of_their_kernels() -> None:
    options = {"channels_last": True, "dtype": torch.bfloat16, "others": True}
    for each in launches((2, 8, 5, 6), (3, 4), 2, **options):
        names = list(inspect.signature(each.kernel.fn).parameters)
        assert names[: len(each.args)] == [n for n in names if n not in each.constexprs]
        value = dict(zip(names, each.args, strict=False))
        if is_by_cells(each):
            assert [value[name] for name in SIZES[:10]] == [2, 1, 1, 6, 5, 6, 3, 4, 0, 1]
            assert [value[name] for name in SIZES[10:14]] == [6 / 4, 6 / 3, 5 / 4, 5 / 3]
            assert [value[name] for name in SIZES[14:]] == [0.0, 3, 1, 2, 0, 0, 30, 0, 6, 1]
            assert each.constexprs["SPEC"].VECTOR == 8
            continue
        wanted = [*(2, 1, 0, 1, 6), *(1, 5, 6), *(1, 3, 4), *(0, 1), *(30, 0, 0, 6, 1)]
        wanted += [6 / 4, 6 / 3, 5 / 4, 5 / 3, 0, 0, 0]
        known = dict(zip(UNSPECIALISED, wanted, strict=True))
        assert {name: value[name] for name in known if name in value} == {
            name: number for name, number in known.items() if name in value
        }
        assert each.constexprs["SPEC"].VECTOR == 8


def test_ratios_of_sizes_are_rounded_as_the_device_rounds_them() -> None:
    """Handed to the gather by cells, whose coordinates are those of the forward kernel to the bit."""
    sizes = [1, 2, 3, 7, 28, 64, 224, 1234, 1345, 4099, 65_537, 2**24 - 1]
    for align_corners in (False, True):
        for source in sizes:
            for output in sizes:
                u = torch.empty(1, 1, source, 3, device="meta")
                options = Options(align_corners=align_corners)
                theta = torch.empty(1, 2, 3, device="meta")
                g = geometry.geometry(u, theta, None, (output, 5), options)
                found = torch.tensor(g.ratios[3], dtype=torch.float32)
                span = torch.tensor(float(output - align_corners))
                exact = torch.tensor(float(source - align_corners)) / span
                assert found == (exact if span > 0 else 0)


def test_compute_dtype() -> None:
    def of(u: torch.dtype, theta: torch.dtype) -> torch.dtype:
        return compute_dtype(torch.empty(0, dtype=u), torch.empty(0, dtype=theta))

    assert of(torch.float16, torch.bfloat16) == torch.float32
    assert of(torch.float16, torch.float64) == of(torch.float64, torch.float16) == torch.float64


@interpreted
def test_every_gradient_of_a_large_theta_is_bounded(device: torch.device) -> None:
    """Entries up to the largest float32: coordinates overflow on the way and count as not finite."""
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
