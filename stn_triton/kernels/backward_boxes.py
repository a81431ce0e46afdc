"""Backward for the input where the inverse of a map does not help: a gather through boxes, without atomics.

These are lattices, whose maps may fold, and homographies with reflection, whose horizon mirrors the image without end.

The output is divided into small boxes. A first kernel notes which part of the input the taps of each box lie in, and of
each chunk of 128 boxes. In the second one warp makes the gradient of a small tile of INPUT pixels for one block of
channels. It looks for boxes whose part meets its tile, chunk by chunk in fixed order, and finds the coordinates of a
box's outputs, one a lane. It takes those near the tile one after the other: each lane adds what that output gives its
own pixel.

A map that tears neighbours apart everywhere costs input times output pixels; one that is smooth but for a line, as a
homography at its horizon, costs little more than a smooth one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_input_gradient, like_output
from stn_triton.ragged import rows_of_images
from stn_triton.transforms import Options

from . import maps
from .blocks import Blocks, box_blocks, tiles_of
from .coordinates import known_by
from .geometry import call_of, geometry, scattered_points
from .interpolation import landing, pad, product_weight, reach, touch, touch_padded, touches
from .launch import UNSPECIALISED, launch, launch_tiles
from .layout import (
    block_channels,
    block_zeros,
    dense_image,
    load_dense,
    per_pixel,
    program_image,
    program_tile,
    rows_of,
    store_dense,
)
from .maps import lattice
from .pixels.spec import Tile, load_grid
from .supersampling import load_finer_map, mean, sample_count, sample_position

BOX_X, BOX_Y = tl.constexpr(8), tl.constexpr(4)
"""Output pixels of a box."""
CHUNK_X, CHUNK_Y = tl.constexpr(16), tl.constexpr(8)
"""Boxes of a chunk."""
CHUNK = tl.constexpr(CHUNK_X.value * CHUNK_Y.value)
NOWHERE = tl.constexpr(2.0**30)
"""A coordinate past every image."""


@triton.jit
def _chunks_of(out):
    """(Chunks of a row of the output, chunks in all)."""
    across = tl.cdiv(out[0], BOX_X * CHUNK_X)
    return across, across * tl.cdiv(out[1], BOX_Y * CHUNK_Y)


@triton.jit
def _store_bounds(box_ptr, chunk_ptr, axis, low, high, chunk, chunks, SPEC: tl.constexpr):
    """Between which input indices of an axis the taps lie whose coordinates are between low and high."""
    first = tl.ceil(tl.min(low, 1) - reach(SPEC)).to(tl.int32)
    last = tl.floor(tl.max(high, 1) + reach(SPEC)).to(tl.int32)
    lane = tl.arange(0, CHUNK)
    tl.store(box_ptr + 2 * axis * CHUNK + lane, first)
    tl.store(box_ptr + (2 * axis + 1) * CHUNK + lane, last)
    tl.store(chunk_ptr + 2 * axis * chunks + chunk, tl.min(first))
    tl.store(chunk_ptr + (2 * axis + 1) * chunks + chunk, tl.max(last))


@triton.jit(do_not_specialize=UNSPECIALISED)
def _bounds_kernel(
    map_ptr, points_ptr,            # (N * K, [2,] PARAMETERS), (P, 2)
    box_ptr, chunk_ptr,             # (N * K, chunks, 4, CHUNK), (N * K, 4, chunks)
    K, C, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,
    x_by_x, x_by_y, y_by_x, y_by_y,
    SPEC: tl.constexpr,
):  # fmt: skip
    ratios = x_by_x, x_by_y, y_by_x, y_by_y
    call = call_of(map_ptr, points_ptr, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S, ratios)  # fmt: skip
    across, chunks = _chunks_of(call.out)
    nk = tl.program_id(0) // chunks
    chunk = tl.program_id(0) % chunks
    box, pixel = tl.arange(0, CHUNK)[:, None], tl.arange(0, BOX_X * BOX_Y)[None, :]
    px = (chunk % across * CHUNK_X + box % CHUNK_X) * BOX_X + pixel % BOX_X
    py = (chunk // across * CHUNK_Y + box // CHUNK_X) * BOX_Y + pixel // BOX_X
    there = (px < OW) & (py < OH)
    samples, finer, m, _tangent = load_finer_map(call, nk, SPEC)
    low_x = tl.full((CHUNK, BOX_X * BOX_Y), NOWHERE, SPEC.COMPUTE)
    low_y = low_x
    high_x, high_y = -low_x, -low_x
    for sample in range(sample_count(samples, SPEC)):
        d = sample_position((px, py, chunk * 0), sample, samples, finer, SPEC)
        s = maps.locate(m, d, SPEC)
        sx = landing(s[0], W, align_corners, SPEC)
        sy = landing(s[1], H, align_corners, SPEC)
        low_x = tl.where(there, tl.minimum(low_x, sx), low_x)
        low_y = tl.where(there, tl.minimum(low_y, sy), low_y)
        high_x = tl.where(there, tl.maximum(high_x, sx), high_x)
        high_y = tl.where(there, tl.maximum(high_y, sy), high_y)
    box_ptr += (nk.to(tl.int64) * chunks + chunk) * (4 * CHUNK)
    chunk_ptr += nk.to(tl.int64) * 4 * chunks
    _store_bounds(box_ptr, chunk_ptr, 0, low_x, high_x, chunk, chunks, SPEC)
    _store_bounds(box_ptr, chunk_ptr, 1, low_y, high_y, chunk, chunks, SPEC)


@triton.jit
def _meeting(ptr, step, number, exists, first, last):
    """Those of `number` (others are past the end) whose bounds, `step` apart in memory, meet the box first to last."""
    hit = exists
    for axis in tl.static_range(2):
        low = tl.load(ptr + 2 * axis * step + number, mask=exists, other=0)
        high = tl.load(ptr + (2 * axis + 1) * step + number, mask=exists, other=0)
        hit &= (low <= last[axis]) & (high >= first[axis])
    return tl.where(hit, number, 2**30)


@triton.jit
def _pick(x, chosen):
    """The one chosen number of a vector, for all lanes."""
    if x.dtype == tl.float32:
        # One instruction adds up a warp's integers.
        bits = tl.sum(tl.where(chosen, x.to(tl.int32, bitcast=True), 0))
        picked = bits.to(tl.float32, bitcast=True)
    else:
        picked = tl.sum(tl.where(chosen, x, 0.0).to(x.dtype))
    return picked


@triton.jit
def _touch_alone(s, follows, chosen, q, size, align_corners, SPEC: tl.constexpr):
    """Pixels q as taps of the one chosen padded coordinate: `interpolation.touch_padded`."""
    s, follows = _pick(s, chosen) + tl.zeros_like(q), _pick(follows, chosen) + tl.zeros_like(q)
    return touch_padded(s, follows, q, size, align_corners, SPEC)


@triton.jit
def _near(s, first, last, size, align_corners, SPEC: tl.constexpr):
    """Which padded coordinates have taps between pixels first and last."""
    if SPEC.MODE == "bicubic":
        s = landing(s, size, align_corners, SPEC)
    return (s >= first - reach(SPEC)) & (s <= last + reach(SPEC))


@triton.jit
def _add_output(total, px, py, s, follows, along, chosen, tile, grid, SPEC: tl.constexpr):
    """Add what one output, at (px, py), gives to the pixels of the tile."""
    W, H, _ = grid.size
    qx, qy = tile.x.to(SPEC.COMPUTE), tile.y.to(SPEC.COMPUTE)
    if SPEC.LOCATED:
        sx, sy = lattice.located_at(grid.m, px, py, SPEC)
        if SPEC.MODE == "bilinear" and SPEC.PADDING == "zeros":
            # What is no tap has a gradient of 0 below, and its weight is some finite number.
            hit, wx, slope_x = touches(sx, qx, SPEC), 1 - tl.abs(sx - qx), qx
            hit_y, wy, slope_y = touches(sy, qy, SPEC), 1 - tl.abs(sy - qy), qy
        else:
            hit, wx, slope_x = touch(sx + tl.zeros_like(qx), qx, W, grid.align_corners, SPEC)
            hit_y, wy, slope_y = touch(sy + tl.zeros_like(qy), qy, H, grid.align_corners, SPEC)
    else:
        hit, wx, slope_x = _touch_alone(s[0], follows[0], chosen, qx, W, grid.align_corners, SPEC)
        hit_y, wy, slope_y = _touch_alone(s[1], follows[1], chosen, qy, H, grid.align_corners, SPEC)
    hit &= hit_y
    slopes = slope_x, slope_y, slope_y
    if SPEC.TANGENT:
        # Where padding holds a coordinate its slope is 0, and its change may not be finite.
        x, y = _pick(along[0], chosen), _pick(along[1], chosen)
        x = tl.where(slope_x != 0, x, 0.0).to(SPEC.COMPUTE)
        y = tl.where(slope_y != 0, y, 0.0).to(SPEC.COMPUTE)
        weight = product_weight((wx, wy, wy), slopes, (x, y, y), SPEC)
        weight = tl.where(hit, weight, 0.0).to(SPEC.COMPUTE)
    else:
        weight = product_weight((wx, wy, wy), slopes, slopes, SPEC)
    output = px + tile.x * 0, py + tile.x * 0, tile.z
    grad = load_dense(grid.ptr, output, grid.out, grid.C, grid.channels, hit, SPEC)
    return total + per_pixel(weight, SPEC) * grad


@triton.jit
def _add_box(total, chunk, box, tile, first, last, grid, SPEC: tl.constexpr):
    """Add what the outputs of a box give to the pixels of the tile."""
    PIXELS: tl.constexpr = BOX_X * BOX_Y
    W, H, _ = grid.size
    OW, OH, _ = grid.out
    corners = grid.align_corners
    across, _chunks = _chunks_of(grid.out)
    left = (chunk % across * CHUNK_X + box % CHUNK_X) * BOX_X
    top = (chunk // across * CHUNK_Y + box // CHUNK_X) * BOX_Y
    lane = tl.arange(0, PIXELS)
    px, py = left + lane % BOX_X, top + lane // BOX_X
    for sample in range(sample_count(grid.samples, SPEC)):
        d = sample_position((px, py, tile.z), sample, grid.samples, grid.finer, SPEC)
        s = maps.locate(grid.m, d, SPEC)
        sx, follows_x = pad(s[0], W, corners, SPEC)
        sy, follows_y = pad(s[1], H, corners, SPEC)
        along = maps.along(grid.m, grid.t, d, SPEC) if SPEC.TANGENT else s
        near = _near(sx, first[0], last[0], W, corners, SPEC)
        near &= _near(sy, first[1], last[1], H, corners, SPEC)
        near = tl.where(near & (px < OW) & (py < OH), lane, PIXELS)
        at = tl.min(near)
        while at < PIXELS:
            total = _add_output(
                total, left + at % BOX_X, top + at // BOX_X, (sx, sy), (follows_x, follows_y), along,
                lane == at, tile, grid, SPEC,
            )  # fmt: skip
            at = tl.min(tl.where(near > at, near, PIXELS))
    return total


@triton.jit
def _gather(box_ptr, chunk_ptr, nk, tile, first, last, grid, zeros, SPEC: tl.constexpr):
    """What the outputs of transformer number nk give to the pixels of the tile."""
    _across, chunks = _chunks_of(grid.out)
    lane = tl.arange(0, CHUNK)
    chunks_ptr = chunk_ptr + nk * 4 * chunks
    total = zeros
    for start in range(0, chunks, CHUNK):
        number = start + lane
        of_chunks = _meeting(chunks_ptr, chunks, number, number < chunks, first, last)
        chunk = tl.min(of_chunks)
        while chunk < chunks:
            boxes_ptr = box_ptr + (nk * chunks + chunk) * (4 * CHUNK)
            of_boxes = _meeting(boxes_ptr, CHUNK, lane, lane < CHUNK, first, last)
            box = tl.min(of_boxes)
            while box < CHUNK:
                total = _add_box(total, chunk, box, tile, first, last, grid, SPEC)
                box = tl.min(tl.where(of_boxes > box, of_boxes, 2**30))
            chunk = tl.min(tl.where(of_chunks > chunk, of_chunks, 2**30))
    return mean(total, sample_count(grid.samples, SPEC), SPEC)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _box_backward_kernel(
    map_ptr, points_ptr,                            # (N * K, [2,] PARAMETERS), (P, 2)
    order_ptr, starts_ptr,                          # indexed: `ragged.rows_of_images`
    box_ptr, chunk_ptr,                             # (N * K, chunks, 4, CHUNK), (N * K, 4, chunks)
    grad_output_ptr, grad_input_ptr,                # (N * K, C, OD, OH, OW), (N, C, D, H, W)
    K, C, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,
    x_by_x, x_by_y, y_by_x, y_by_y, first_row, first_image, SPEC: tl.constexpr, TILING: tl.constexpr,
):  # fmt: skip
    ratios = x_by_x, x_by_y, y_by_x, y_by_y
    call = call_of(map_ptr, points_ptr, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S, ratios)  # fmt: skip
    pixels = program_tile(call.size, first_row, SPEC, TILING)
    ix, iy, iz, _tile = pixels
    n, block = program_image(first_image, C, SPEC, TILING)
    channels = block_channels(block, C, SPEC, TILING)
    tile = Tile(ix, iy, iz, (ix < W) & (iy < H))
    # A lane past the image's end would meet coordinates beyond it, however far, whose products overflow.
    first, last = (
        (tl.min(ix), tl.min(iy)),
        (tl.minimum(tl.max(ix), W - 1), tl.minimum(tl.max(iy), H - 1)),
    )

    zeros = block_zeros(TILING.TILE_X * TILING.TILE_Y, TILING.BLOCK_C, SPEC)
    total = zeros
    before, after = 0, K
    if SPEC.INDEXED:
        before, after = rows_of(n, starts_ptr)
    for k in range(before, after):
        nk = n.to(tl.int64) * K + k
        if SPEC.INDEXED:
            nk = tl.load(order_ptr + k)
        grid = load_grid(call, grad_output_ptr, nk, C, channels, SPEC)
        total += _gather(box_ptr, chunk_ptr, nk, tile, first, last, grid, zeros, SPEC)

    image = dense_image(grad_input_ptr, n, call.size, C, SPEC)
    store_dense(image, (ix, iy, iz), call.size, C, channels, tile.exists, total, SPEC)


def box_backward(
    grad_output: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: tuple[int, ...],
    options: Options, tangent: Tensor | None = None, coordinates: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The gradient of the input, or its change as theta changes along `tangent`.

    coordinates: what `source_coordinates` found for the call.
    """
    g = geometry(input, theta, index, out_size, options, tangent)
    boxes = Blocks(BOX_X.value * CHUNK_X.value, BOX_Y.value * CHUNK_Y.value, 1, 4)
    chunks = tiles_of(g.out_size, 1, boxes)
    box_bounds = input.new_empty((g.maps, chunks, 4, CHUNK.value), dtype=torch.int32)
    chunk_bounds = input.new_empty((g.maps, 4, chunks), dtype=torch.int32)
    grad_input = empty_input_gradient(input)
    map_, spec = known_by(g, g.linear_spec, theta, tangent, coordinates)
    points = scattered_points(g, map_)
    rows = (map_, map_) if index is None else rows_of_images(index, g.n)
    launch(
        _bounds_kernel, (g.maps * chunks,), map_, points, box_bounds, chunk_bounds, *g.sizes, *g.ratios,
        num_warps=8, SPEC=spec,
    )  # fmt: skip
    launch_tiles(
        _box_backward_kernel,
        g.n, g.size, g.channels, box_blocks(g),
        map_, points, *rows, box_bounds, chunk_bounds, like_output(grad_output, input), grad_input, *g.sizes,
        *g.ratios, SPEC=spec,
    )  # fmt: skip
    return grad_input
