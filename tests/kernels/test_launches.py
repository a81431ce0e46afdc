"""What is launched: offsets of 64 bits, more tiles than one launch has, and few compilations for many sizes."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

pytest.importorskip("triton")


from stn_triton.kernels import geometry
from stn_triton.kernels.backward_boxes import box_backward
from stn_triton.kernels.backward_cells import SIZES, cell_backward
from stn_triton.kernels.backward_pixels import pixel_backward
from stn_triton.kernels.backward_theta import theta_backward
from stn_triton.kernels.forward import sample_forward
from stn_triton.kernels.launch import UNSPECIALISED, Launch, recorded
from stn_triton.transforms import Options
from support.checks import triton_sample, with_gradients
from support.kernels import IN_SIZE, OUT_SIZE

pytestmark = pytest.mark.usefixtures("poisoned_memory")


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
    """The launches of the forward kernel, the joint backward and theta's backward on meta tensors.

    others: also of the gathers for the input's gradient alone, and of the kernels of second order.
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
    """The third axis of a launch ends at 65,535; with more, several launches share the images, each once."""
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
    """Several launches make one output, and each row of tiles is in one of them."""
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
    """Several launches make one gradient, and each tile is in one of them."""
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


def test_no_size_is_specialised() -> None:
    """Every argument of a kernel is a pointer, a constant or exempt from specialisation."""
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
    """Counts what a kernel is compiled for, over inputs of 8 to 300 pixels, batches of 1 to 64, outputs and K."""
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
