"""Backward for theta alone: the transformer on the image itself, whose input wants no gradient.

Tiling: as in the forward kernel. A program sums, over its output pixels and channels, the derivatives by the numbers of
the map; a second, fixed-order sum over the programs of one transformer follows.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import compute_dtype, like_output, theta_shape
from stn_triton.transforms import TRANSFORMS, Options, lattice_theta_gradient

from .config import (
    Geometry,
    geometry,
    parameters,
    pixels_per_unit_of,
    smaller_blocks,
    tiles_of,
)
from .coords import (
    add_derivatives,
    add_projective_curvature,
    host_knows,
    locate,
    locate_tangent,
    map_sums,
    store_lattice_gradient,
    store_theta_gradient,
)
from .interpolation import curvature, follow, inside, meets, pad_all, tap, tap_z, taps_of
from .launch import UNSPECIALISED, launch_tiles
from .layout import (
    block_offsets,
    channel_lanes,
    dense_pixels,
    elements,
    input_image,
    per_channel,
    per_pixel,
    program_image,
    program_tile,
    sum_channels,
    tile_count,
)
from .supersampling import load_finer_map, mean, sample_count, sample_position


@triton.jit
def _slopes(
    image_ptr, grad, s, along, wanted, size, strides, channel, exists, align_corners,
    NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr, COMPUTE: tl.constexpr,
    OFFSET: tl.constexpr, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """The derivatives of <grad, output> by the source coordinates s = (x, y, z), pixel by pixel.

    TANGENT: how these derivatives change as the coordinates change by `along`.
    """
    W, H, D = size
    stride_c, stride_d, stride_h, stride_w = strides
    padded, follows = pad_all(s, size, align_corners, NDIM, MODE, PADDING)
    sx, sy, sz = padded
    along_x, along_y, along_z = follow(along, follows)
    TAPS: tl.constexpr = taps_of(MODE)
    by_x = tl.zeros_like(grad)
    by_y, by_z = by_x, by_x
    for tz in tl.static_range(TAPS if NDIM == 3 else 1):
        iz, wz, slope_z = tap_z(sz, D, align_corners, tz, NDIM, MODE, PADDING)
        in_z, slice_offset = wanted, 0
        if NDIM == 3:
            in_z &= inside(iz, D)
            slice_offset = iz.to(OFFSET) * stride_d
        for ty in tl.static_range(TAPS):
            iy, wy, slope_y = tap(sy, H, align_corners, ty, MODE, PADDING)
            curve_y = curvature(sy, ty, MODE)
            for tx in tl.static_range(TAPS):
                ix, wx, slope_x = tap(sx, W, align_corners, tx, MODE, PADDING)
                curve_x = curvature(sx, tx, MODE)
                found = in_z & inside(ix, W) & inside(iy, H)
                pixel = iy.to(OFFSET) * stride_h + ix.to(OFFSET) * stride_w + slice_offset
                offsets = block_offsets(pixel, channel, stride_c, CHANNELS_LAST, VECTOR, OFFSET)
                mask = per_pixel(found, CHANNELS_LAST) & exists
                value = tl.load(image_ptr + offsets, mask=mask, other=0.0).to(COMPUTE)
                if TANGENT:
                    change_x = curve_x * along_x * wy + slope_x * slope_y * along_y
                    change_y = slope_x * along_x * slope_y + wx * curve_y * along_y
                    if NDIM == 3:  # trilinear or nearest: no curvature along z
                        mixed = slope_x * along_x * wy + wx * slope_y * along_y
                        by_z += per_pixel(mixed * slope_z, CHANNELS_LAST) * value
                        change_x = change_x * wz + slope_x * wy * slope_z * along_z
                        change_y = change_y * wz + wx * slope_y * slope_z * along_z
                else:
                    change_x, change_y = slope_x * wy, wx * slope_y
                    if NDIM == 3:
                        by_z += per_pixel(wx * wy * slope_z, CHANNELS_LAST) * value
                        value = per_pixel(wz, CHANNELS_LAST) * value
                by_x += per_pixel(change_x, CHANNELS_LAST) * value
                by_y += per_pixel(change_y, CHANNELS_LAST) * value
    if PADDING == "zeros":
        # A gradient that is not finite changes nothing where no tap lies inside: it must not be multiplied by 0.
        there = wanted & meets(sx, W, MODE) & meets(sy, H, MODE)
        if NDIM == 3:
            there &= meets(sz, D, MODE)
        grad = tl.where(per_pixel(there, CHANNELS_LAST), grad, 0.0).to(grad.dtype)
    by_x = sum_channels(by_x * grad, CHANNELS_LAST)
    by_y = sum_channels(by_y * grad, CHANNELS_LAST)
    by_z = sum_channels(by_z * grad, CHANNELS_LAST)
    # What "zeros" moves, lest it be too large for an int, has no tap inside.
    slopes = (by_x, by_y, by_z)
    return slopes if PADDING == "zeros" and MODE == "bilinear" else follow(slopes, follows)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _theta_backward_kernel(
    input_ptr, map_ptr, grad_output_ptr,        # (N, C, D, H, W), (N * K, [2,] PARAMETERS), (N * K, C, OD, OH, OW)
    partial_ptr,                                # (N * K, tiles * blocks [* samples of a lattice], PARAMETERS)
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
    LATTICE: tl.constexpr = TRANSFORM == "tps" or TRANSFORM == "piecewise_affine"
    size, out = (W, H, D), (OW, OH, OD)
    px, py, pz, tile = program_tile(out, first_row, TILE_X, TILE_Y, NDIM)
    blocks = tl.cdiv(C * VECTOR, BLOCK_C)
    nk, block = program_image(first_image, blocks, ONE_BLOCK)
    part = (first_image + tl.program_id(2)).to(tl.int64) * tile_count(out, TILE_X, TILE_Y) + tile
    channel, exists = channel_lanes(block, C, BLOCK_C, VECTOR, EXISTING)
    exists = per_channel(exists, CHANNELS_LAST)
    in_output = (px < OW) & (py < OH)

    known = (x_by_x, x_by_y, y_by_x, y_by_y) if host_knows(ANTIALIAS, COMPUTE) else None
    S, finer, m, t = load_finer_map(
        map_ptr, nk, G, PARAMETERS, size, out, S, align_corners,
        TRANSFORM, NDIM, ANTIALIAS, COMPUTE, TANGENT, known,
    )  # fmt: skip
    count = 1 if ANTIALIAS == "none" else sample_count(S, NDIM)
    image_ptr = input_ptr + input_image(nk, K) * stride_n * VECTOR
    pixel = dense_pixels(px, py, pz, out, C, CHANNELS_LAST, OFFSET)
    offsets = block_offsets(
        pixel, channel, elements(out, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
    )  # fmt: skip
    grad = tl.load(
        grad_output_ptr + nk.to(tl.int64) * C * VECTOR * OW * OH * OD + offsets,
        mask=per_pixel(in_output, CHANNELS_LAST) & exists, other=0.0,
    ).to(COMPUTE)  # fmt: skip
    grad = mean(grad, count, ANTIALIAS)

    sums = map_sums(tl.zeros((TILE_X * TILE_Y,), COMPUTE), TRANSFORM, NDIM)
    for sample in range(count):
        dx, dy, dz = sample_position(px, py, pz, sample, S, finer, NDIM, ANTIALIAS, COMPUTE)
        s = locate(m, dx, dy, dz, TRANSFORM, NDIM)
        along = locate_tangent(m, t, dx, dy, dz, TRANSFORM, NDIM) if TANGENT else s
        by_x, by_y, by_z = _slopes(
            image_ptr, grad, s, along, in_output, size, (stride_c, stride_d, stride_h, stride_w),
            channel, exists, align_corners,
            NDIM, MODE, PADDING, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR, TANGENT,
        )  # fmt: skip
        if TANGENT and TRANSFORM == "projective":
            first_x, first_y, _ = _slopes(
                image_ptr, grad, s, s, in_output, size, (stride_c, stride_d, stride_h, stride_w),
                channel, exists, align_corners,
                NDIM, MODE, PADDING, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR, False,
            )  # fmt: skip
            sums = add_projective_curvature(sums, m, t, first_x, first_y, dx, dy)
        if LATTICE:
            slot = (part * count + sample) * PARAMETERS
            store_lattice_gradient(partial_ptr + slot, m, by_x, by_y, dx, dy, TRANSFORM)
        else:
            sums = add_derivatives(sums, m, by_x, by_y, by_z, dx, dy, dz, TRANSFORM, NDIM)
    if not LATTICE:
        store_theta_gradient(
            partial_ptr + part * PARAMETERS, sums, PARAMETERS, size, finer,
            align_corners, TRANSFORM, NDIM, COMPUTE, known,
        )  # fmt: skip


def theta_backward(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    out_size: tuple[int, ...],
    options: Options,
    tangent: Tensor | None = None,
) -> Tensor:
    """The gradient of theta, or its change as theta changes along `tangent`."""
    if options.mode == "nearest":
        return torch.zeros_like(theta, memory_format=torch.contiguous_format)
    g = geometry(input, theta, out_size, options)
    # Short loads of channels_last, with an address each; sixteen taps; second derivatives.
    short = g.constexprs["CHANNELS_LAST"] and g.constexprs["VECTOR"] <= 4
    large = short or options.mode == "bicubic" or tangent is not None
    largest = options.mode == "bicubic" and tangent is not None
    blocks = smaller_blocks(g, 4 if largest else 2 if large else 1)
    parts = tiles_of(g.out_size, g.channels, blocks)
    if TRANSFORMS[options.transform].lattice is not None:
        parts *= options.samples**2
    partial = new_partial(g, input, theta, parts)
    launch_tiles(
        _theta_backward_kernel,
        g.n * g.k, g.out_size, g.channels, blocks,
        input, parameters(input, theta, options, tangent), like_output(grad_output, input), partial,
        *g.sizes, *g.strides, *pixels_per_unit_of(g),
        TANGENT=tangent is not None, **g.constexprs,
    )  # fmt: skip
    return sum_partial(partial, theta, input.dim() - 2, options)


def new_partial(g: Geometry, input: Tensor, theta: Tensor, parts: int) -> Tensor:
    """Room for the gradient of the map's numbers as each of `parts` programs of each transformation finds it."""
    return theta.new_empty((g.n * g.k, parts, g.parameters), dtype=compute_dtype(input, theta))


def sum_partial(partial: Tensor, theta: Tensor, ndim: int, options: Options) -> Tensor:
    """Theta's gradient from its parts, in fixed order, rounded once."""
    total = partial[:, 0] if partial.shape[1] == 1 else partial.sum(1)
    lattice = TRANSFORMS[options.transform].lattice
    if lattice is not None:
        points = theta_shape(theta, ndim, options)[0]
        total = lattice_theta_gradient(total.unflatten(1, (-1, 2)), math.isqrt(points), lattice)
    return total.to(theta.dtype).view(theta.shape)
