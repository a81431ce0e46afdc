"""Sampling, forward (equation 1 of the package's docstring).

Tiling: one program makes one tile of output pixels of one transformer, for one block of channels. Coordinates, weights,
offsets and masks are found once a pixel and serve the whole block; the sampling grid never exists.
"""

import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_output
from stn_triton.transforms import Options

from . import maps
from .blocks import forward_blocks
from .geometry import call_of, geometry, parameters, scattered_points
from .interpolation import follow, inside, pad_all, product_weight, tap, tap_z, taps_of
from .launch import UNSPECIALISED, launch_tiles
from .layout import (
    block_channels,
    block_zeros,
    dense_image,
    input_block,
    per_pixel,
    program_image,
    program_tile,
    sampled_image,
    store_dense,
    where_sampled,
)
from .supersampling import load_finer_map, mean, sample_count, sample_position


@triton.jit
def _interpolate(total, image, s, along, wanted, call, channels, SPEC: tl.constexpr):
    """Add to `total` what lies at source coordinates s; with a tangent: its change as they change by `along`.

    Returns (total, with a padding value: which s have a tap inside).
    """
    W, H, D = call.size
    padded, follows = pad_all(s, call.size, call.align_corners, SPEC)
    sx, sy, sz = padded
    if SPEC.TANGENT:
        along = follow(along, follows)
    before, met = total, wanted & False
    TAPS: tl.constexpr = taps_of(SPEC.MODE)
    SLICES: tl.constexpr = TAPS if SPEC.NDIM == 3 else 1
    for tz in tl.static_range(SLICES):
        wz, slope_z, in_z, slice_offset = tap_z(sz, wanted, D, image, call.align_corners, tz, SPEC)
        for ty in tl.static_range(TAPS):
            iy, wy, slope_y = tap(sy, H, call.align_corners, ty, SPEC)
            for tx in tl.static_range(TAPS):
                ix, wx, slope_x = tap(sx, W, call.align_corners, tx, SPEC)
                in_image = in_z & inside(ix, W) & inside(iy, H)
                there = per_pixel(in_image, SPEC) & channels.exists
                at = input_block(image, ix, iy, slice_offset, channels, SPEC)
                value = tl.load(at, mask=there, other=0.0).to(SPEC.COMPUTE)
                if SPEC.HAS_PADDING_VALUE:
                    value = tl.where(there, value, image.outside)
                    met |= in_image
                weight = product_weight((wx, wy, wz), (slope_x, slope_y, slope_z), along, SPEC)
                total += per_pixel(weight, SPEC) * value
    if (
        SPEC.HAS_PADDING_VALUE
    ):  # which is exact where no tap lies inside: there weights have the sum 1, but for rounding
        alone = before if SPEC.TANGENT else before + image.outside
        total = tl.where(per_pixel(met, SPEC), total, alone)
    return total, met


@triton.jit(do_not_specialize=UNSPECIALISED)
def _sample_forward_kernel(
    input_ptr, map_ptr, points_ptr, index_ptr,  # (N, C, D, H, W), (N * K, [2,] PARAMETERS), (P, 2), (N * K)
    output_ptr,                                 # (N * K, C, OD, OH, OW)
    K, C, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,
    stride_n, stride_c, stride_d, stride_h, stride_w, x_by_x, x_by_y, y_by_x, y_by_y, padding_value,
    first_row, first_image, SPEC: tl.constexpr, TILING: tl.constexpr,
):  # fmt: skip
    ratios = x_by_x, x_by_y, y_by_x, y_by_y
    call = call_of(map_ptr, points_ptr, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S, ratios)  # fmt: skip
    px, py, pz, _tile = program_tile(call.out, first_row, SPEC, TILING)
    nk, block = program_image(first_image, C, SPEC, TILING)
    channels = block_channels(block, C, SPEC, TILING)
    written = (px < OW) & (py < OH)
    wanted = where_sampled(written, index_ptr, nk, K, SPEC)
    strides = stride_n, stride_c, stride_d, stride_h, stride_w
    image = sampled_image(input_ptr, index_ptr, nk, K, strides, padding_value, SPEC)

    samples, finer, m, t = load_finer_map(call, nk, SPEC)
    total = block_zeros(TILING.TILE_X * TILING.TILE_Y, TILING.BLOCK_C, SPEC)
    count = sample_count(samples, SPEC)
    met = written & False
    for sample in range(count):
        d = sample_position((px, py, pz), sample, samples, finer, SPEC)
        s = maps.locate(m, d, SPEC)
        along = maps.along(m, t, d, SPEC) if SPEC.TANGENT else s
        total, has_tap = _interpolate(total, image, s, along, wanted, call, channels, SPEC)
        if SPEC.HAS_PADDING_VALUE:
            met |= has_tap
    total = mean(total, count, SPEC)
    if SPEC.HAS_PADDING_VALUE and not SPEC.TANGENT and SPEC.ANTIALIAS != "none":
        total = tl.where(per_pixel(met, SPEC), total, image.outside)
    if SPEC.HAS_PADDING_VALUE and SPEC.INDEXED:  # where there is no image nothing lies outside it
        total = tl.where(per_pixel(wanted, SPEC), total, 0.0)

    output = dense_image(output_ptr, nk, call.out, C, SPEC)
    store_dense(output, (px, py, pz), call.out, C, channels, written, total, SPEC)


def sample_forward(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: tuple[int, ...], options: Options,
    tangent: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The result, or its change as theta changes along `tangent`. No validation, no autograd."""
    g = geometry(input, theta, index, out_size, options, tangent)
    output, map_ = empty_output(input, g.outer, out_size), parameters(g, theta, tangent)
    launch_tiles(
        _sample_forward_kernel,
        g.maps, g.out_size, g.channels, forward_blocks(g),
        input, map_, scattered_points(g, map_), map_ if index is None else index, output,
        *g.sizes, *g.strides, *g.ratios, g.padding,
        SPEC=g.spec,
    )  # fmt: skip
    return output
