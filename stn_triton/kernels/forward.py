"""Sampling, forward.

Tiling: one program makes one tile of output pixels of one transformer, for one block of channels. Coordinates, weights,
offsets and masks are found once a pixel and serve the whole block; the sampling grid never exists.
"""

import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_output
from stn_triton.transforms import Options

from .config import geometry, parameters, pixels_per_unit_of, smaller_blocks
from .coords import host_knows, locate, locate_tangent
from .interpolation import follow, inside, pad_all, product_weight, tap, tap_z, taps_of
from .launch import UNSPECIALISED, launch_tiles
from .layout import (
    as_stored,
    block_offsets,
    block_zeros,
    channel_lanes,
    dense_pixels,
    elements,
    input_image,
    per_channel,
    per_pixel,
    program_image,
    program_tile,
)
from .supersampling import load_finer_map, mean, sample_count, sample_position


@triton.jit
def _interpolate(
    total, image_ptr, s, along, wanted, size, strides, channel, exists, align_corners,
    NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr, COMPUTE: tl.constexpr,
    OFFSET: tl.constexpr, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Add to `total` what lies at source coordinates s = (x, y, z); TANGENT: its change as they change by `along`."""
    W, H, D = size
    stride_c, stride_d, stride_h, stride_w = strides
    padded, follows = pad_all(s, size, align_corners, NDIM, MODE, PADDING)
    sx, sy, sz = padded
    if TANGENT:
        along = follow(along, follows)
    TAPS: tl.constexpr = taps_of(MODE)
    for tz in tl.static_range(TAPS if NDIM == 3 else 1):
        iz, wz, slope_z = tap_z(sz, D, align_corners, tz, NDIM, MODE, PADDING)
        in_z, slice_offset = wanted, 0
        if NDIM == 3:
            in_z &= inside(iz, D)
            slice_offset = iz.to(OFFSET) * stride_d
        for ty in tl.static_range(TAPS):
            iy, wy, slope_y = tap(sy, H, align_corners, ty, MODE, PADDING)
            for tx in tl.static_range(TAPS):
                ix, wx, slope_x = tap(sx, W, align_corners, tx, MODE, PADDING)
                found = in_z & inside(ix, W) & inside(iy, H)
                pixel = iy.to(OFFSET) * stride_h + ix.to(OFFSET) * stride_w + slice_offset
                offsets = block_offsets(pixel, channel, stride_c, CHANNELS_LAST, VECTOR, OFFSET)
                mask = per_pixel(found, CHANNELS_LAST) & exists
                value = tl.load(image_ptr + offsets, mask=mask, other=0.0).to(COMPUTE)
                slopes = slope_x, slope_y, slope_z
                weight = product_weight((wx, wy, wz), slopes, along, NDIM, TANGENT)
                if TANGENT:  # the change of a coordinate may not be finite, a weight always is
                    weight = tl.where(found, weight, 0.0).to(weight.dtype)
                total += per_pixel(weight, CHANNELS_LAST) * value
    return total


@triton.jit(do_not_specialize=UNSPECIALISED)
def _sample_forward_kernel(
    input_ptr, map_ptr, output_ptr,     # (N, C, D, H, W), (N * K, [2,] PARAMETERS), (N * K, C, OD, OH, OW)
    K, C, G, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,     # C in vectors; align_corners 0 or 1
    stride_n, stride_c, stride_d, stride_h, stride_w,               # of input, in vectors
    x_by_x, x_by_y, y_by_x, y_by_y,                                 # source pixels per output pixel of the identity
    first_row, first_image,                                         # of tiles, of programs for the channels of an image
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr, BLOCK_C: tl.constexpr, EXISTING: tl.constexpr, ONE_BLOCK: tl.constexpr,
    TANGENT: tl.constexpr,
):  # fmt: skip
    size, out = (W, H, D), (OW, OH, OD)
    px, py, pz, _tile = program_tile(out, first_row, TILE_X, TILE_Y, NDIM)
    nk, block = program_image(first_image, tl.cdiv(C * VECTOR, BLOCK_C), ONE_BLOCK)
    channel, exists = channel_lanes(block, C, BLOCK_C, VECTOR, EXISTING)
    exists = per_channel(exists, CHANNELS_LAST)
    written = (px < OW) & (py < OH)

    known = (x_by_x, x_by_y, y_by_x, y_by_y) if host_knows(ANTIALIAS, COMPUTE) else None
    S, finer, m, t = load_finer_map(
        map_ptr, nk, G, PARAMETERS, size, out, S, align_corners,
        TRANSFORM, NDIM, ANTIALIAS, COMPUTE, TANGENT, known,
    )  # fmt: skip
    image_ptr = input_ptr + input_image(nk, K) * stride_n * VECTOR
    total = block_zeros(TILE_X * TILE_Y, BLOCK_C, CHANNELS_LAST, COMPUTE)
    count = 1 if ANTIALIAS == "none" else sample_count(S, NDIM)
    for sample in range(count):
        dx, dy, dz = sample_position(px, py, pz, sample, S, finer, NDIM, ANTIALIAS, COMPUTE)
        s = locate(m, dx, dy, dz, TRANSFORM, NDIM)
        along = locate_tangent(m, t, dx, dy, dz, TRANSFORM, NDIM) if TANGENT else s
        total = _interpolate(
            total, image_ptr, s, along, written, size, (stride_c, stride_d, stride_h, stride_w),
            channel, exists, align_corners,
            NDIM, MODE, PADDING, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR, TANGENT,
        )  # fmt: skip

    pixel = dense_pixels(px, py, pz, out, C, CHANNELS_LAST, OFFSET)
    offsets = block_offsets(
        pixel, channel, elements(out, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
    )  # fmt: skip
    tl.store(
        output_ptr + nk.to(tl.int64) * C * VECTOR * OW * OH * OD + offsets,
        as_stored(mean(total, count, ANTIALIAS), output_ptr),
        mask=per_pixel(written, CHANNELS_LAST) & exists,
    )


def sample_forward(
    input: Tensor,
    theta: Tensor,
    out_size: tuple[int, ...],
    options: Options,
    tangent: Tensor | None = None,
) -> Tensor:
    """The result, or its change as theta changes along `tangent`. No validation, no autograd."""
    g = geometry(input, theta, out_size, options)
    blocks = smaller_blocks(g, 1 if tangent is None else 2)
    output = empty_output(input, theta, out_size, options)
    launch_tiles(
        _sample_forward_kernel,
        g.n * g.k, g.out_size, g.channels, blocks,
        input, parameters(input, theta, options, tangent), output,
        *g.sizes, *g.strides, *pixels_per_unit_of(g),
        TANGENT=tangent is not None, **g.constexprs,
    )  # fmt: skip
    return output
