"""Sampling, forward.

Tiling: one program makes one tile of output pixels of one transformer, for one block of channels. Coordinates, weights,
offsets and masks are found once a pixel and serve the whole block; the sampling grid never exists.
"""

import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_output
from stn_triton.transforms import Options

from .config import forward_blocks, geometry, grid_of
from .coords import centred, load_map, source
from .interpolation import pad, tap
from .launch import UNSPECIALISED, launch
from .layout import (
    as_stored,
    block_offsets,
    block_zeros,
    channel_lanes,
    dense_pixels,
    per_channel,
    per_pixel,
    tile_pixels,
)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _sample_forward_kernel(
    input_ptr, theta_ptr, output_ptr,           # (N, C, H, W), (N * K, *theta), (N * K, C, OH, OW)
    K, C, H, W, OH, OW, align_corners,          # C in vectors; align_corners 0 or 1
    stride_n, stride_c, stride_h, stride_w,     # of input, in vectors
    TRANSFORM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr, COMPUTE: tl.constexpr,
    OFFSET: tl.constexpr, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(OW, TILE_X) * tl.cdiv(OH, TILE_Y)
    blocks = tl.cdiv(C * VECTOR, BLOCK_C)
    program = tl.program_id(0)
    nk = program // (tiles * blocks)
    px, py = tile_pixels(program % tiles, OW, TILE_X, TILE_Y)
    channel, exists = channel_lanes(program // tiles % blocks, C, BLOCK_C, VECTOR)

    a, b, mx, c, d, my = load_map(theta_ptr, nk, H, W, OH, OW, align_corners, TRANSFORM, COMPUTE)
    dx, dy = centred(px, OW, COMPUTE), centred(py, OH, COMPUTE)
    sx = pad(source(a, b, mx, dx, dy), W, PADDING)
    sy = pad(source(c, d, my, dx, dy), H, PADDING)

    exists = per_channel(exists, CHANNELS_LAST)
    written = (px < OW) & (py < OH)
    image_ptr = input_ptr + (nk // K).to(tl.int64) * stride_n * VECTOR
    TAPS: tl.constexpr = 1 if MODE == "nearest" else 2
    total = block_zeros(TILE_X * TILE_Y, BLOCK_C, CHANNELS_LAST, COMPUTE)
    for ty in tl.static_range(TAPS):
        iy, wy, _ = tap(sy, ty, MODE)
        for tx in tl.static_range(TAPS):
            ix, wx, _ = tap(sx, tx, MODE)
            inside = written & (ix >= 0) & (ix < W) & (iy >= 0) & (iy < H)
            pixel = iy.to(OFFSET) * stride_h + ix.to(OFFSET) * stride_w
            value = tl.load(
                image_ptr + block_offsets(pixel, channel, stride_c, CHANNELS_LAST, VECTOR, OFFSET),
                mask=per_pixel(inside, CHANNELS_LAST) & exists, other=0.0,
            )  # fmt: skip
            total += per_pixel(wx * wy, CHANNELS_LAST) * value.to(COMPUTE)

    image_ptr = output_ptr + nk.to(tl.int64) * C * VECTOR * OH * OW
    pixel = dense_pixels(px, py, OW, C, CHANNELS_LAST, OFFSET)
    tl.store(
        image_ptr
        + block_offsets(pixel, channel, OW.to(OFFSET) * OH, CHANNELS_LAST, VECTOR, OFFSET),
        as_stored(total, output_ptr),
        mask=per_pixel(written, CHANNELS_LAST) & exists,
    )


def sample_forward(
    input: Tensor, theta: Tensor, out_size: tuple[int, int], options: Options
) -> Tensor:
    """Allocate the result, choose the blocks, launch. No validation, no autograd."""
    g = geometry(input, theta, out_size, options)
    blocks = forward_blocks(g)
    output = empty_output(input, theta, out_size, options)
    launch(
        _sample_forward_kernel,
        (grid_of(g.n * g.k, out_size, g.channels, blocks),),
        input, theta.contiguous(), output, *g.sizes, *g.strides,
        **g.constexprs, **blocks._asdict(),
    )  # fmt: skip
    return output
