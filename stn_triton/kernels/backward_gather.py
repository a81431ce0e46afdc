"""Backward of bicubic sampling by affine maps in 2-D: both gradients in one gather, by pixels.

Sixteen taps an output are too many corners for a cell (`backward_cells`): here a lane owns a pixel of the input.

Tiling: one program makes the gradient of one tile of INPUT pixels for one block of channels and sums over all K
transformers in registers. For each input pixel q it visits the output pixels p that may touch q, recomputes their
coordinates, and adds what they give: to the gradient of the input g[p] w, to that of theta g[p] u[q] dw.
"""

import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_input_gradient, like_output
from stn_triton.transforms import Options

from .backward_theta import new_partial, sum_partial
from .config import gather_blocks, geometry, grid_of, parameters, tiles_of
from .coords import add_derivatives, centred, map_sums, source, store_theta_gradient
from .interpolation import touch, touches
from .launch import UNSPECIALISED, launch
from .layout import (
    as_stored,
    block_offsets,
    block_zeros,
    channel_lanes,
    dense_pixels,
    elements,
    lane_zeros,
    per_channel,
    per_pixel,
    sum_lane_channels,
    sum_pixels,
    tile_count,
    tile_pixels,
)
from .preimage import candidates, clips, half_open, invert, row_range
from .supersampling import load_finer_map, mean

TURN_ABOVE = tl.constexpr(64)
"""Candidates of a pixel above which a tile asks whether turning round is cheaper."""


@triton.jit
def load_pixels(
    ptr, ix, iy, wanted, channel, stride_c, stride_h, stride_w, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr,
    WITH_THETA: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """The input's pixels (ix, iy), which only theta's gradient needs; else zeros, never read."""
    pixels = block_zeros(PIXELS, BLOCK_C, CHANNELS_LAST, COMPUTE)
    if WITH_THETA:
        pixel = iy.to(OFFSET) * stride_h + ix.to(OFFSET) * stride_w
        offsets = block_offsets(pixel, channel, stride_c, CHANNELS_LAST, VECTOR, OFFSET)
        pixels = tl.load(ptr + offsets, mask=wanted, other=0.0).to(COMPUTE)
    return pixels


@triton.jit
def _visit(
    total, sums, u, grad_ptr, px, py, visited, pz, qx, qy, skipped, m, C, size, out, finer, S, align_corners,
    channel, exists, ANTIALIAS: tl.constexpr, TRANSFORM: tl.constexpr, MODE: tl.constexpr,
    PADDING: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, WITH_THETA: tl.constexpr,
):  # fmt: skip
    """Add what output pixels (px, py) give to input pixels (qx, qy), lane by lane.

    skipped: 0 leaves out the outputs that only padding moves onto q, 1 leaves out all others, 2 nothing.
    """
    a, b, mx, c, d, my = m
    W, H, _ = size
    OW, OH, _ = finer
    dx, dy = centred(px, OW, COMPUTE), centred(py, OH, COMPUTE)
    sx, sy = source(a, b, mx, dx, dy), source(c, d, my, dx, dy)
    hit_x, wx, slope_x = touch(sx, qx, W, align_corners, MODE, PADDING)
    hit_y, wy, slope_y = touch(sy, qy, H, align_corners, MODE, PADDING)
    visited &= hit_x & hit_y
    if PADDING == "border":
        near = touches(sx, qx, MODE) & touches(sy, qy, MODE)
        visited &= near.to(tl.int32) != skipped
    if ANTIALIAS != "none":
        px, py = px // S, py // S
    pixel = dense_pixels(px, py, pz, out, C, CHANNELS_LAST, OFFSET)
    offsets = block_offsets(
        pixel, channel, elements(out, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
    )  # fmt: skip
    grad = tl.load(
        grad_ptr + offsets,
        mask=per_pixel(visited, CHANNELS_LAST) & exists, other=0.0,
    ).to(COMPUTE)  # fmt: skip
    grad = mean(grad, S * S, ANTIALIAS)
    total += per_pixel(wx * wy, CHANNELS_LAST) * grad
    if WITH_THETA:
        along = sum_lane_channels(grad * u, CHANNELS_LAST, VECTOR)
        along = tl.where(per_pixel(visited, CHANNELS_LAST), along, 0.0).to(
            along.dtype
        )  # u may not be finite
        by_x = per_pixel(slope_x * wy, CHANNELS_LAST) * along
        by_y = per_pixel(wx * slope_y, CHANNELS_LAST) * along
        dx, dy = per_pixel(dx, CHANNELS_LAST), per_pixel(dy, CHANNELS_LAST)
        sums = add_derivatives(sums, m, by_x, by_y, by_y, dx, dy, dy, TRANSFORM, 2)
    return total, sums


@triton.jit(do_not_specialize=UNSPECIALISED)
def _gather_backward_kernel(
    input_ptr, map_ptr, grad_output_ptr,        # (N, C, H, W), (N * K, PARAMETERS), (N * K, C, OH, OW)
    grad_input_ptr, partial_ptr,                # (N, C, H, W), (N * K, tiles * blocks, PARAMETERS)
    K, C, G, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,     # C in vectors; align_corners 0 or 1
    stride_n, stride_c, stride_d, stride_h, stride_w,               # of input, in vectors
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr, BLOCK_C: tl.constexpr, WITH_THETA: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = TILE_X * TILE_Y
    TURN_X: tl.constexpr = 16  # lanes of a turned tile: 16 columns of output pixels, in TURN_Y rows
    TURN_Y: tl.constexpr = PIXELS // TURN_X
    size, out = (W, H, D), (OW, OH, OD)
    tiles = tile_count(size, TILE_X, TILE_Y)
    parts = tiles * tl.cdiv(C * VECTOR, BLOCK_C)
    n = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    ix, iy, iz = tile_pixels(part % tiles, size, TILE_X, TILE_Y)
    channel, exists = channel_lanes(part // tiles, C, BLOCK_C, VECTOR)
    exists = per_channel(exists, CHANNELS_LAST)
    inside = (ix < W) & (iy < H)
    qx, qy = ix.to(COMPUTE), iy.to(COMPUTE)

    u_ptr = input_ptr + n.to(tl.int64) * stride_n * VECTOR
    total = block_zeros(PIXELS, BLOCK_C, CHANNELS_LAST, COMPUTE)
    for k in range(K):
        nk = n * K + k
        samples, finer, m, _tangent = load_finer_map(
            map_ptr, nk, G, PARAMETERS, size, out, S, align_corners,
            TRANSFORM, NDIM, ANTIALIAS, COMPUTE, False,
        )  # fmt: skip
        inverse = invert(m, size, finer)
        grad_ptr = grad_output_ptr + nk.to(tl.int64) * C * VECTOR * OH * OW
        zero = lane_zeros(PIXELS, BLOCK_C, CHANNELS_LAST, VECTOR, COMPUTE)
        sums = map_sums(zero, TRANSFORM, NDIM)

        x0, x1, y0, y1 = candidates(qx, qy, m, inverse, size, finer, MODE, PADDING, False)
        x0, x1, y0, y1 = half_open(x0, x1, y0, y1, qx, qy, m, finer, MODE, COMPUTE)
        columns = tl.where(inside & (y1 >= y0), tl.maximum(x1 - x0 + 1, 0), 0)
        rows = tl.where(columns > 0, y1 - y0 + 1, 0)
        most_columns, most_rows = tl.max(columns), tl.max(rows)

        # A few pixels may gather a great part of the output each. Then the tile turns round: pixel after pixel, with
        # output pixels in the lanes.
        straight = most_columns.to(tl.float32) * most_rows
        turned = straight < 0
        if straight > TURN_ABOVE:
            turns = (1 + columns // TURN_X).to(tl.float32) * (1 + rows // TURN_Y)
            turned = tl.sum(tl.where(columns > 0, turns + 4, 0.0)) < straight
        if not turned:
            u = load_pixels(
                u_ptr, ix, iy, per_pixel(columns > 0, CHANNELS_LAST) & exists, channel,
                stride_c, stride_h, stride_w, PIXELS, BLOCK_C, WITH_THETA, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR,
            )  # fmt: skip
            for row in range(most_rows):
                for column in range(most_columns):
                    total, sums = _visit(
                        total, sums, u, grad_ptr, x0 + column, y0 + row, (column < columns) & (row < rows),
                        iz, qx, qy, 0, m, C, size, out, finer, samples, align_corners, channel, exists,
                        ANTIALIAS, TRANSFORM, MODE, PADDING, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR, WITH_THETA,
                    )  # fmt: skip

        # The edge pixels of "border" also collect the outputs clipped onto them, in the same turned way.
        if turned | clips(m, size, finer, MODE, PADDING):
            CLIPPED: tl.constexpr = PADDING == "border"
            lane = tl.arange(0, PIXELS)
            left, right, _, _ = candidates(qx, qy, m, inverse, size, finer, MODE, PADDING, CLIPPED)
            waiting = inside & (right >= left)
            if not turned:
                waiting &= (ix == 0) | (ix == W - 1) | (iy == 0) | (iy == H - 1)
            waiting = tl.where(waiting, lane, PIXELS)
            j = tl.min(waiting)
            while j < PIXELS:
                jx = part % tiles % tl.cdiv(W, TILE_X) * TILE_X + j % TILE_X
                jy = part % tiles // tl.cdiv(W, TILE_X) * TILE_Y + j // TILE_X
                left_j, right_j, top_j, bottom_j = candidates(
                    jx.to(COMPUTE), jy.to(COMPUTE), m, inverse, size, finer, MODE, PADDING, CLIPPED
                )  # fmt: skip
                at_x = tl.full((PIXELS,), jx, tl.int32)
                at_y = tl.full((PIXELS,), jy, tl.int32)
                u_j = load_pixels(
                    u_ptr, at_x, at_y, exists, channel, stride_c, stride_h, stride_w,
                    PIXELS, BLOCK_C, WITH_THETA, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR,
                )  # fmt: skip
                given = block_zeros(PIXELS, BLOCK_C, CHANNELS_LAST, COMPUTE)
                for row in range(top_j, bottom_j + 1, TURN_Y):
                    py = row + lane // TURN_X
                    first, last = row_range(
                        py, jx.to(COMPUTE), jy.to(COMPUTE), m, inverse, size, finer, MODE, PADDING, COMPUTE
                    )  # fmt: skip
                    first = tl.maximum(first, left_j)
                    last = tl.where(py <= bottom_j, tl.minimum(last, right_j), -1)
                    for column in range(0, tl.max(last - first + 1), TURN_X):
                        px = first + column + lane % TURN_X
                        given, sums = _visit(
                            given, sums, u_j, grad_ptr, px, py, px <= last,
                            iz, at_x.to(COMPUTE), at_y.to(COMPUTE), 1 + turned.to(tl.int32), m, C,
                            size, out, finer, samples, align_corners, channel, exists,
                            ANTIALIAS, TRANSFORM, MODE, PADDING, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR, WITH_THETA,
                        )  # fmt: skip
                given = per_channel(sum_pixels(given, CHANNELS_LAST), CHANNELS_LAST)
                total += tl.where(per_pixel(lane == j, CHANNELS_LAST), given, 0.0)
                j = tl.min(tl.where(waiting > j, waiting, PIXELS))

        if WITH_THETA:
            store_theta_gradient(
                partial_ptr + (nk.to(tl.int64) * parts + part) * PARAMETERS, sums, PARAMETERS,
                size, finer, align_corners, TRANSFORM, NDIM, COMPUTE,
            )  # fmt: skip

    pixel = dense_pixels(ix, iy, iz, size, C, CHANNELS_LAST, OFFSET)
    offsets = block_offsets(
        pixel, channel, elements(size, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
    )  # fmt: skip
    tl.store(
        grad_input_ptr + n.to(tl.int64) * C * VECTOR * H * W + offsets,
        as_stored(total, grad_input_ptr),
        mask=per_pixel(inside, CHANNELS_LAST) & exists,
    )  # fmt: skip


def gather_backward(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    out_size: tuple[int, ...],
    options: Options,
    *,
    with_theta: bool,
) -> tuple[Tensor, Tensor | None]:
    """The gradient of the input and, `with_theta`, that of theta (None else)."""
    g = geometry(input, theta, out_size, options)
    blocks = gather_blocks(g)
    grad_input = empty_input_gradient(input)
    partial = new_partial(
        g, input, theta, tiles_of(g.size, g.channels, blocks) if with_theta else 0
    )
    launch(
        _gather_backward_kernel,
        (grid_of(g.n, g.size, g.channels, blocks),),
        input, parameters(input, theta, options), like_output(grad_output, input), grad_input,
        partial, *g.sizes, *g.strides,
        WITH_THETA=with_theta, **g.constexprs, **blocks._asdict(),
    )  # fmt: skip
    return grad_input, sum_partial(partial, theta, 2, options) if with_theta else None
