"""What is decided before a launch: sizes of tiles, ratios of sizes, the dtype of the arithmetic."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")


from stn_triton.formats import compute_dtype
from stn_triton.kernels import geometry
from stn_triton.kernels.blocks import (
    box_blocks,
    cell_blocks,
    forward_blocks,
    pixel_blocks,
    theta_blocks,
)
from stn_triton.transforms import Options

pytestmark = pytest.mark.usefixtures("poisoned_memory")


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


def test_ratios_of_sizes_are_rounded_as_the_device_rounds_them() -> None:
    """The gather by cells is given these ratios; its coordinates must equal the forward kernel's to the bit."""
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
