"""Backward for theta alone: the transformer on the image itself, whose input wants no gradient.

Tiling: as in the forward kernel. A program sums, over its output pixels and channels, the derivatives by the six
entries of the map; a second, fixed-order sum over the programs of one transformer follows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import compute_dtype, like_output
from stn_triton.transforms import Options

from .config import forward_blocks, geometry, grid_of, tiles_of
from .coords import centred, load_map, source, store_theta_gradient
from .interpolation import moves, pad, tap
from .launch import UNSPECIALISED, launch
from .layout import (
    block_offsets,
    block_zeros,
    channel_lanes,
    dense_pixels,
    per_channel,
    per_pixel,
    sum_channels,
    tile_pixels,
)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _theta_backward_kernel(
    input_ptr, theta_ptr, grad_output_ptr,      # (N, C, H, W), (N * K, *theta), (N * K, C, OH, OW)
    partial_ptr,                                # (N * K, tiles * blocks, *theta)
    K, C, H, W, OH, OW, align_corners,          # C in vectors; align_corners 0 or 1
    stride_n, stride_c, stride_h, stride_w,     # of input, in vectors
    TRANSFORM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr, COMPUTE: tl.constexpr,
    OFFSET: tl.constexpr, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr, BLOCK_C: tl.constexpr, THETA: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(OW, TILE_X) * tl.cdiv(OH, TILE_Y)
    blocks = tl.cdiv(C * VECTOR, BLOCK_C)
    program = tl.program_id(0)
    nk = program // (tiles * blocks)
    px, py = tile_pixels(program % tiles, OW, TILE_X, TILE_Y)
    channel, exists = channel_lanes(program // tiles % blocks, C, BLOCK_C, VECTOR)

    a, b, mx, c, d, my = load_map(theta_ptr, nk, H, W, OH, OW, align_corners, TRANSFORM, COMPUTE)
    dx, dy = centred(px, OW, COMPUTE), centred(py, OH, COMPUTE)
    free_sx, free_sy = source(a, b, mx, dx, dy), source(c, d, my, dx, dy)
    sx, sy = pad(free_sx, W, PADDING), pad(free_sy, H, PADDING)
    moves_x, moves_y = moves(free_sx, W, PADDING), moves(free_sy, H, PADDING)

    exists = per_channel(exists, CHANNELS_LAST)
    inside_output = (px < OW) & (py < OH)
    image_ptr = input_ptr + (nk // K).to(tl.int64) * stride_n * VECTOR
    by_x = block_zeros(TILE_X * TILE_Y, BLOCK_C, CHANNELS_LAST, COMPUTE)
    by_y = block_zeros(TILE_X * TILE_Y, BLOCK_C, CHANNELS_LAST, COMPUTE)
    for ty in tl.static_range(2):
        iy, wy, slope_y = tap(sy, ty, MODE)
        for tx in tl.static_range(2):
            ix, wx, slope_x = tap(sx, tx, MODE)
            inside = inside_output & (ix >= 0) & (ix < W) & (iy >= 0) & (iy < H)
            pixel = iy.to(OFFSET) * stride_h + ix.to(OFFSET) * stride_w
            value = tl.load(
                image_ptr + block_offsets(pixel, channel, stride_c, CHANNELS_LAST, VECTOR, OFFSET),
                mask=per_pixel(inside, CHANNELS_LAST) & exists, other=0.0,
            ).to(COMPUTE)  # fmt: skip
            by_x += per_pixel(slope_x * wy, CHANNELS_LAST) * value
            by_y += per_pixel(wx * slope_y, CHANNELS_LAST) * value

    pixel = dense_pixels(px, py, OW, C, CHANNELS_LAST, OFFSET)
    grad = tl.load(
        grad_output_ptr + nk.to(tl.int64) * C * VECTOR * OH * OW
        + block_offsets(pixel, channel, OW.to(OFFSET) * OH, CHANNELS_LAST, VECTOR, OFFSET),
        mask=per_pixel(inside_output, CHANNELS_LAST) & exists, other=0.0,
    ).to(COMPUTE)  # fmt: skip
    by_x = tl.where(moves_x, sum_channels(by_x * grad, CHANNELS_LAST), 0.0)
    by_y = tl.where(moves_y, sum_channels(by_y * grad, CHANNELS_LAST), 0.0)
    sums = (
        tl.sum(by_x * dx), tl.sum(by_x * dy), tl.sum(by_x),
        tl.sum(by_y * dx), tl.sum(by_y * dy), tl.sum(by_y),
    )  # fmt: skip
    partial_ptr += program.to(tl.int64) * THETA
    store_theta_gradient(partial_ptr, sums, H, W, OH, OW, align_corners, TRANSFORM, COMPUTE)


def theta_backward(
    grad_output: Tensor, input: Tensor, theta: Tensor, out_size: tuple[int, int], options: Options
) -> Tensor:
    """The gradient of theta."""
    if options.mode == "nearest":
        return torch.zeros_like(theta, memory_format=torch.contiguous_format)
    g = geometry(input, theta, out_size, options)
    blocks = forward_blocks(g)
    parts = tiles_of(out_size, g.channels, blocks)
    partial = new_partial(input, theta, parts, g.n * g.k)
    launch(
        _theta_backward_kernel,
        (grid_of(g.n * g.k, out_size, g.channels, blocks),),
        input, theta.contiguous(), like_output(grad_output, input), partial, *g.sizes, *g.strides,
        THETA=partial.shape[-1], **g.constexprs, **blocks._asdict(),
    )  # fmt: skip
    return sum_partial(partial, theta)


def new_partial(input: Tensor, theta: Tensor, parts: int, images: int) -> Tensor:
    """Room for theta's gradient as each of `parts` programs of each image finds it."""
    size = theta.numel() // images if images else 0
    return theta.new_empty((images, parts, size), dtype=compute_dtype(input, theta))


def sum_partial(partial: Tensor, theta: Tensor) -> Tensor:
    """Theta's gradient from its parts, in fixed order, rounded once."""
    total = partial[:, 0] if partial.shape[1] == 1 else partial.sum(1)
    return total.to(theta.dtype).view(theta.shape)
