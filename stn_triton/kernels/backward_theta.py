"""Backward for theta alone: the transformer on the image itself, whose input wants no gradient (equations 3 and 4).

And for the input where no two outputs share a pixel, which is filled with zeros before: plain stores then.

Tiling: as in the forward kernel. A program sums, over its output pixels and channels, the derivatives by the numbers of
the map; `theta_sum` adds up what the programs of one transformer found.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import like_output
from stn_triton.transforms import TRANSFORMS, Options

from . import maps
from .blocks import theta_blocks, tiles_of
from .coordinates import known_by
from .geometry import call_of, geometry, scattered_points
from .interpolation import curvature, follow, inside, meets, pad_all, tap, tap_z, taps_of
from .launch import UNSPECIALISED, launch_tiles
from .layout import (
    block_channels,
    dense_image,
    input_block,
    load_dense,
    per_pixel,
    program_image,
    program_tile,
    sampled_image,
    store_dense,
    sum_channels,
    tile_count,
    where_sampled,
)
from .maps import lattice, projective
from .supersampling import load_finer_map, mean, sample_count, sample_position
from .theta_sum import new_partial, sum_partial


@triton.jit
def _changes(weights, slopes, curves, along, TANGENT: tl.constexpr, SPEC: tl.constexpr):
    """The derivatives of a tap's weight by the source coordinates (x, y, z).

    TANGENT: how these change as the coordinates change by `along`.
    """
    wx, wy, wz = weights
    slope_x, slope_y, slope_z = slopes
    by_z = wz
    if TANGENT:
        along_x, along_y, along_z = along
        curve_x, curve_y = curves
        by_x = curve_x * along_x * wy + slope_x * slope_y * along_y
        by_y = slope_x * along_x * slope_y + wx * curve_y * along_y
        if SPEC.NDIM == 3:  # trilinear or nearest: no curvature along z
            mixed = slope_x * along_x * wy + wx * slope_y * along_y
            by_z = mixed * slope_z
            by_x = by_x * wz + slope_x * wy * slope_z * along_z
            by_y = by_y * wz + wx * slope_y * slope_z * along_z
    else:
        by_x, by_y = slope_x * wy, wx * slope_y
        if SPEC.NDIM == 3:
            by_x, by_y, by_z = by_x * wz, by_y * wz, wx * wy * slope_z
    return by_x, by_y, by_z


@triton.jit
def _slopes(
    image, grad, s, along, wanted, call, channels, TANGENT: tl.constexpr, SPEC: tl.constexpr
):  # fmt: skip
    """The derivatives of <grad, output> by the source coordinates s, pixel by pixel.

    TANGENT: how these derivatives change as the coordinates change by `along`.
    """
    W, H, D = call.size
    padded, follows = pad_all(s, call.size, call.align_corners, SPEC)
    sx, sy, sz = padded
    along = follow(along, follows)
    TAPS: tl.constexpr = taps_of(SPEC.MODE)
    by_x = tl.zeros_like(grad)
    by_y, by_z = by_x, by_x
    for tz in tl.static_range(TAPS if SPEC.NDIM == 3 else 1):
        wz, slope_z, in_z, slice_offset = tap_z(sz, wanted, D, image, call.align_corners, tz, SPEC)
        for ty in tl.static_range(TAPS):
            iy, wy, slope_y = tap(sy, H, call.align_corners, ty, SPEC)
            for tx in tl.static_range(TAPS):
                ix, wx, slope_x = tap(sx, W, call.align_corners, tx, SPEC)
                there = per_pixel(in_z & inside(ix, W) & inside(iy, H), SPEC) & channels.exists
                at = input_block(image, ix, iy, slice_offset, channels, SPEC)
                value = tl.load(at, mask=there, other=0.0).to(SPEC.COMPUTE)
                if SPEC.HAS_PADDING_VALUE:
                    value = tl.where(there, value, image.outside)
                curves = curvature(sx, tx, SPEC), curvature(sy, ty, SPEC)
                change_x, change_y, change_z = _changes(
                    (wx, wy, wz), (slope_x, slope_y, slope_z), curves, along, TANGENT, SPEC
                )
                by_x += per_pixel(change_x, SPEC) * value
                by_y += per_pixel(change_y, SPEC) * value
                if SPEC.NDIM == 3:
                    by_z += per_pixel(change_z, SPEC) * value
    if SPEC.PADDING == "zeros":
        # A gradient that is not finite changes nothing where no tap lies inside: it must not be multiplied by 0.
        there = wanted & meets(sx, W, SPEC) & meets(sy, H, SPEC)
        if SPEC.NDIM == 3:
            there &= meets(sz, D, SPEC)
        grad = tl.where(per_pixel(there, SPEC), grad, 0.0).to(grad.dtype)
    by_x = sum_channels(by_x * grad, SPEC)
    by_y = sum_channels(by_y * grad, SPEC)
    by_z = sum_channels(by_z * grad, SPEC)
    # What "zeros" moves, lest it be too large for an int, has no tap inside.
    slopes = (by_x, by_y, by_z)
    return (
        slopes if SPEC.PADDING == "zeros" and SPEC.MODE == "bilinear" else follow(slopes, follows)
    )


@triton.jit
def _scatter(image, grad, s, wanted, call, channels, C, SPEC: tl.constexpr):
    """Store what outputs at source coordinates s give to their taps, which no other output has."""
    W, H, _ = call.size
    padded, _follows = pad_all(s, call.size, call.align_corners, SPEC)
    sx, sy, _sz = padded
    for ty in tl.static_range(2):
        iy, wy, _slope = tap(sy, H, call.align_corners, ty, SPEC)
        for tx in tl.static_range(2):
            ix, wx, _slope = tap(sx, W, call.align_corners, tx, SPEC)
            there = wanted & inside(ix, W) & inside(iy, H)
            at = ix.to(tl.int32), iy.to(tl.int32), 0 * ix.to(tl.int32)
            given = per_pixel(wx * wy, SPEC) * grad
            store_dense(image, at, call.size, C, channels, there, given, SPEC)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _theta_backward_kernel(
    input_ptr, map_ptr, points_ptr, index_ptr,  # (N, C, D, H, W), (N * K, [2,] PARAMETERS), (P, 2), (N * K)
    grad_output_ptr,                            # (N * K, C, OD, OH, OW)
    partial_ptr,                                # (N * K, tiles * blocks [* samples of a lattice], PARAMETERS)
    apart_ptr, grad_input_ptr,                  # STORE_APART: (N), (N, C, H, W)
    K, C, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,
    stride_n, stride_c, stride_d, stride_h, stride_w, x_by_x, x_by_y, y_by_x, y_by_y, padding_value,
    first_row, first_image, SPEC: tl.constexpr, STORE_APART: tl.constexpr, TILING: tl.constexpr,
):  # fmt: skip
    ratios = x_by_x, x_by_y, y_by_x, y_by_y
    call = call_of(map_ptr, points_ptr, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S, ratios)  # fmt: skip
    px, py, pz, tile = program_tile(call.out, first_row, SPEC, TILING)
    nk, block = program_image(first_image, C, SPEC, TILING)
    part = (first_image + tl.program_id(2)).to(tl.int64) * tile_count(call.out, TILING) + tile
    channels = block_channels(block, C, SPEC, TILING)
    in_output = where_sampled((px < OW) & (py < OH), index_ptr, nk, K, SPEC)
    strides = stride_n, stride_c, stride_d, stride_h, stride_w
    image = sampled_image(input_ptr, index_ptr, nk, K, strides, padding_value, SPEC)

    samples, finer, m, t = load_finer_map(call, nk, SPEC)
    count = sample_count(samples, SPEC)
    output = dense_image(grad_output_ptr, nk, call.out, C, SPEC)
    grad = load_dense(output, (px, py, pz), call.out, C, channels, in_output, SPEC)
    grad = mean(grad, count, SPEC)

    TANGENT: tl.constexpr = SPEC.TANGENT  # Triton 3.6 hands on constants with a name only
    sums = maps.sums(tl.zeros((TILING.TILE_X * TILING.TILE_Y,), SPEC.COMPUTE), SPEC)
    for sample in range(count):
        d = sample_position((px, py, pz), sample, samples, finer, SPEC)
        s = maps.locate(m, d, SPEC)
        along = maps.along(m, t, d, SPEC) if SPEC.TANGENT else s
        if STORE_APART:
            if tl.load(apart_ptr + nk) != 0:
                given = dense_image(grad_input_ptr, nk, call.size, C, SPEC)
                _scatter(given, grad, s, in_output, call, channels, C, SPEC)
        by = _slopes(image, grad, s, along, in_output, call, channels, TANGENT, SPEC)
        if SPEC.TANGENT and SPEC.TRANSFORM == "projective":
            first = _slopes(image, grad, s, s, in_output, call, channels, False, SPEC)
            sums = projective.add_curvature(sums, m, t, first[0], first[1], d[0], d[1])
        if maps.is_lattice(SPEC.TRANSFORM):
            slot = partial_ptr + (part * count + sample) * PARAMETERS
            lattice.store_gradient(slot, m, by[0], by[1], d[0], d[1], SPEC)
        else:
            sums = maps.add_derivatives(sums, m, by, d, SPEC)
    if not maps.is_lattice(SPEC.TRANSFORM):
        maps.store_gradient(partial_ptr + part * PARAMETERS, sums, call, finer, SPEC)


def theta_backward(
    grad_output: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: tuple[int, ...],
    options: Options, tangent: Tensor | None = None, coordinates: Tensor | None = None,
    apart: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The gradient of theta, or its change as theta changes along `tangent`.

    coordinates: what `source_coordinates` found for the call. apart: that of `backward_cells.cell_backward`, and
    the gradient of the input, to be completed.
    """
    if options.mode == "nearest":
        return torch.zeros_like(theta, memory_format=torch.contiguous_format)
    g = geometry(input, theta, index, out_size, options, tangent)
    blocks = theta_blocks(g)
    parts = tiles_of(g.out_size, g.channels, blocks)
    if TRANSFORMS[options.transform].lattice is not None:
        parts *= options.samples**2
    partial = new_partial(g, theta, parts)
    map_, spec = known_by(g, g.spec, theta, tangent, coordinates)
    launch_tiles(
        _theta_backward_kernel,
        g.maps, g.out_size, g.channels, blocks,
        input, map_, scattered_points(g, map_), map_ if index is None else index,
        like_output(grad_output, input), partial, *(apart or (partial, partial)),
        *g.sizes, *g.strides, *g.ratios, g.padding,
        SPEC=spec, STORE_APART=apart is not None,
    )  # fmt: skip
    return sum_partial(g, partial, theta)
