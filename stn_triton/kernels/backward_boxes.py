"""Backward for the input where `backward_gather` cannot turn the map round: a gather through boxes, without atomics.

The output is divided into small boxes. A first kernel notes which part of the input the taps of each box lie in, and of
each chunk of 128 boxes. In the second one program makes the gradient of one tile of INPUT pixels for one block of
channels: it looks for boxes whose part meets its tile, chunk by chunk in fixed order, and adds what a box gives as a
product of matrices, weights (input pixels x output pixels) times gradients (output pixels x channels).

A map that tears neighbours apart everywhere costs input times output pixels; one that is smooth but for a line, as a
homography at its horizon, costs little more than a smooth one.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_input_gradient, like_output
from stn_triton.transforms import Options

from .config import Blocks, box_blocks, geometry, grid_of, parameters, tiles_of
from .coords import locate, locate_tangent
from .interpolation import landing, pad_all, product_weight, reach, touch_padded
from .launch import UNSPECIALISED, launch
from .layout import (
    as_stored,
    block_offsets,
    block_product,
    block_zeros,
    channel_lanes,
    dense_pixels,
    elements,
    per_channel,
    per_pixel,
    tile_count,
    tile_pixels,
)
from .supersampling import load_finer_map, mean, sample_count, sample_position

BOX_X, BOX_Y = tl.constexpr(8), tl.constexpr(4)
"""Output pixels of a box."""
CHUNK_X, CHUNK_Y = tl.constexpr(16), tl.constexpr(8)
"""Boxes of a chunk."""
CHUNK = tl.constexpr(CHUNK_X.value * CHUNK_Y.value)
NOWHERE = tl.constexpr(2.0**30)
"""A coordinate past every image."""


@triton.jit
def _boxes_of(out):
    """The output as an image of boxes: its size."""
    OW, OH, OD = out
    return tl.cdiv(OW, BOX_X), tl.cdiv(OH, BOX_Y), OD


@triton.jit
def _store_bounds(
    box_ptr, chunk_ptr, axis, low, high, chunk, chunks, MODE: tl.constexpr
):  # fmt: skip
    """Between which input indices of an axis the taps lie whose coordinates are between low and high."""
    first = tl.ceil(tl.min(low, 1) - reach(MODE)).to(tl.int32)
    last = tl.floor(tl.max(high, 1) + reach(MODE)).to(tl.int32)
    lane = tl.arange(0, CHUNK)
    tl.store(box_ptr + 2 * axis * CHUNK + lane, first)
    tl.store(box_ptr + (2 * axis + 1) * CHUNK + lane, last)
    tl.store(chunk_ptr + 2 * axis * chunks + chunk, tl.min(first))
    tl.store(chunk_ptr + (2 * axis + 1) * chunks + chunk, tl.max(last))


@triton.jit(do_not_specialize=UNSPECIALISED)
def _bounds_kernel(
    map_ptr,                        # (N * K, [2,] PARAMETERS)
    box_ptr, chunk_ptr,             # (N * K, chunks, 2 * NDIM, CHUNK), (N * K, 2 * NDIM, chunks)
    K, C, G, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    size, out = (W, H, D), (OW, OH, OD)
    boxes = _boxes_of(out)
    chunks = tile_count(boxes, CHUNK_X, CHUNK_Y)
    nk = tl.program_id(0) // chunks
    chunk = tl.program_id(0) % chunks
    across, down, pz = tile_pixels(chunk, boxes, CHUNK_X, CHUNK_Y)
    pixel = tl.arange(0, BOX_X * BOX_Y)
    px = across[:, None] * BOX_X + (pixel % BOX_X)[None, :]
    py = down[:, None] * BOX_Y + (pixel // BOX_X)[None, :]
    there = (px < OW) & (py < OH)
    S, finer, m, _tangent = load_finer_map(
        map_ptr, nk, G, PARAMETERS, size, out, S, align_corners,
        TRANSFORM, NDIM, ANTIALIAS, COMPUTE, TANGENT,
    )  # fmt: skip
    low_x = tl.full((CHUNK, BOX_X * BOX_Y), NOWHERE, COMPUTE)
    low_y, low_z = low_x, low_x
    high_x, high_y, high_z = -low_x, -low_x, -low_x
    for sample in range(1 if ANTIALIAS == "none" else sample_count(S, NDIM)):
        dx, dy, dz = sample_position(px, py, pz, sample, S, finer, NDIM, ANTIALIAS, COMPUTE)
        sx, sy, sz = locate(m, dx, dy, dz, TRANSFORM, NDIM)
        sx = landing(sx, W, align_corners, MODE, PADDING)
        sy = landing(sy, H, align_corners, MODE, PADDING)
        low_x = tl.where(there, tl.minimum(low_x, sx), low_x)
        low_y = tl.where(there, tl.minimum(low_y, sy), low_y)
        high_x = tl.where(there, tl.maximum(high_x, sx), high_x)
        high_y = tl.where(there, tl.maximum(high_y, sy), high_y)
        if NDIM == 3:
            sz = landing(sz, D, align_corners, MODE, PADDING)
            low_z = tl.where(there, tl.minimum(low_z, sz), low_z)
            high_z = tl.where(there, tl.maximum(high_z, sz), high_z)
    box_ptr += (nk.to(tl.int64) * chunks + chunk) * (2 * NDIM * CHUNK)
    chunk_ptr += nk.to(tl.int64) * (2 * NDIM) * chunks
    _store_bounds(box_ptr, chunk_ptr, 0, low_x, high_x, chunk, chunks, MODE)
    _store_bounds(box_ptr, chunk_ptr, 1, low_y, high_y, chunk, chunks, MODE)
    if NDIM == 3:
        _store_bounds(box_ptr, chunk_ptr, 2, low_z, high_z, chunk, chunks, MODE)


@triton.jit
def _meeting(ptr, step, number, exists, near, far, NDIM: tl.constexpr):
    """Those of `number` (others are past the end) whose bounds, `step` apart in memory, meet the box near to far."""
    hit = exists
    for axis in tl.static_range(NDIM):
        first = tl.load(ptr + 2 * axis * step + number, mask=exists, other=0)
        last = tl.load(ptr + (2 * axis + 1) * step + number, mask=exists, other=0)
        hit &= (first <= far[axis]) & (last >= near[axis])
    return tl.where(hit, number, 2**30)


@triton.jit
def _finite_change(m, t, dx, dy, dz, follows, TRANSFORM: tl.constexpr, NDIM: tl.constexpr):
    """The changes of coordinates, 0 where padding holds them (slopes are 0 there, and these may not be finite)."""
    x, y, z = locate_tangent(m, t, dx, dy, dz, TRANSFORM, NDIM)
    x = tl.where(follows[0] != 0, x, 0.0).to(follows[0].dtype)
    y = tl.where(follows[1] != 0, y, 0.0).to(follows[0].dtype)
    if NDIM == 3:
        z = tl.where(follows[2] != 0, z, 0.0).to(follows[0].dtype)
    return x, y, z


@triton.jit
def _add_what_is_not_finite(
    total, grad_ptr, first_x, first_y, m, t, ix, iy, pz, iz, C, size, out, finer, S, align_corners, channel, exists,
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Add the gradients of a box that are not finite, output pixel by output pixel, to the input pixels they touch.

    In a product of matrices they would spread over the tile: 0 times infinity is NaN.
    """
    W, H, D = size
    OW, OH, _ = out
    qx, qy = ix.to(COMPUTE), iy.to(COMPUTE)
    count = 1 if ANTIALIAS == "none" else sample_count(S, NDIM)
    for pixel in range(BOX_X * BOX_Y):
        lane = tl.full((1,), pixel, tl.int32)
        px, py = first_x + lane % BOX_X, first_y + lane // BOX_X
        offsets = block_offsets(
            dense_pixels(px, py, pz, out, C, CHANNELS_LAST, OFFSET), channel,
            elements(out, OFFSET), CHANNELS_LAST, VECTOR, OFFSET,
        )  # fmt: skip
        in_output = per_pixel((px < OW) & (py < OH), CHANNELS_LAST) & exists
        grad = tl.load(grad_ptr + offsets, mask=in_output, other=0.0).to(COMPUTE)
        odd = (tl.abs(grad) < float("inf")) == 0
        for sample in range(count):
            dx, dy, dz = sample_position(px, py, pz, sample, S, finer, NDIM, ANTIALIAS, COMPUTE)
            s = locate(m, dx, dy, dz, TRANSFORM, NDIM)
            padded, follows = pad_all(s, size, align_corners, NDIM, MODE, PADDING)
            along = _finite_change(m, t, dx, dy, dz, follows, TRANSFORM, NDIM) if TANGENT else s
            hit, wx, slope_x = touch_padded(
                padded[0], follows[0], qx, W, align_corners, MODE, PADDING
            )
            hit_y, wy, slope_y = touch_padded(
                padded[1], follows[1], qy, H, align_corners, MODE, PADDING
            )
            hit &= hit_y
            wz, slope_z = wy, slope_y
            if NDIM == 3:
                hit_z, wz, slope_z = touch_padded(
                    padded[2], follows[2], iz.to(COMPUTE), D, align_corners, MODE, PADDING
                )
                hit &= hit_z
            weight = product_weight((wx, wy, wz), (slope_x, slope_y, slope_z), along, NDIM, TANGENT)
            given = per_pixel(weight, CHANNELS_LAST) * grad
            total += tl.where(per_pixel(hit, CHANNELS_LAST) & odd, given, 0.0)
    return total


@triton.jit
def _add_box(
    total, grad_ptr, chunk, box, m, t, ix, iy, iz, C, size, out, finer, S, align_corners, channel, exists,
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Add what the output pixels of a box give to input pixels (ix, iy, iz)."""
    W, H, D = size
    OW, OH, _ = out
    boxes_x, boxes_y, _ = _boxes_of(out)
    chunks_x, chunks_y = tl.cdiv(boxes_x, CHUNK_X), tl.cdiv(boxes_y, CHUNK_Y)
    across = chunk % chunks_x * CHUNK_X + box % CHUNK_X
    down = chunk // chunks_x % chunks_y * CHUNK_Y + box // CHUNK_X
    pz = chunk // (chunks_x * chunks_y)
    lane = tl.arange(0, BOX_X * BOX_Y)
    px = across * BOX_X + lane % BOX_X
    py = down * BOX_Y + lane // BOX_X
    # Weights have input pixels where other blocks have pixels, and output pixels where these have channels.
    qx = per_pixel(ix.to(COMPUTE), CHANNELS_LAST)
    qy = per_pixel(iy.to(COMPUTE), CHANNELS_LAST)
    weights = block_zeros(ix.shape[0], BOX_X * BOX_Y, CHANNELS_LAST, COMPUTE)
    count = 1 if ANTIALIAS == "none" else sample_count(S, NDIM)
    for sample in range(count):
        dx, dy, dz = sample_position(px, py, pz, sample, S, finer, NDIM, ANTIALIAS, COMPUTE)
        s = locate(m, dx, dy, dz, TRANSFORM, NDIM)
        padded, follows = pad_all(s, size, align_corners, NDIM, MODE, PADDING)
        _hit, wx, slope_x = touch_padded(
            per_channel(padded[0], CHANNELS_LAST), per_channel(follows[0], CHANNELS_LAST),
            qx, W, align_corners, MODE, PADDING,
        )  # fmt: skip
        _hit, wy, slope_y = touch_padded(
            per_channel(padded[1], CHANNELS_LAST), per_channel(follows[1], CHANNELS_LAST),
            qy, H, align_corners, MODE, PADDING,
        )  # fmt: skip
        wz, slope_z = wy, slope_y
        if NDIM == 3:
            _hit, wz, slope_z = touch_padded(
                per_channel(padded[2], CHANNELS_LAST), per_channel(follows[2], CHANNELS_LAST),
                iz.to(COMPUTE), D, align_corners, MODE, PADDING,
            )  # fmt: skip
        along = wx, wy, wz
        if TANGENT:
            x, y, z = _finite_change(m, t, dx, dy, dz, follows, TRANSFORM, NDIM)
            along = (
                per_channel(x, CHANNELS_LAST), per_channel(y, CHANNELS_LAST),
                per_channel(z, CHANNELS_LAST) if NDIM == 3 else wz,
            )  # fmt: skip
        weights += product_weight(
            (wx, wy, wz), (slope_x, slope_y, slope_z), along, NDIM, TANGENT
        )  # fmt: skip
    pixel = dense_pixels(px, py, pz, out, C, CHANNELS_LAST, OFFSET)
    offsets = block_offsets(
        pixel, channel, elements(out, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
    )  # fmt: skip
    grad = tl.load(
        grad_ptr + offsets,
        mask=per_pixel((px < OW) & (py < OH), CHANNELS_LAST) & exists, other=0.0,
    ).to(COMPUTE)  # fmt: skip
    grad = mean(grad, count, ANTIALIAS)
    finite = tl.abs(grad) < float("inf")
    total += block_product(weights, tl.where(finite, grad, 0.0).to(COMPUTE), CHANNELS_LAST)
    if tl.min(finite.to(tl.int32)) == 0:
        total = _add_what_is_not_finite(
            total, grad_ptr, across * BOX_X, down * BOX_Y, m, t, ix, iy, pz, iz, C, size, out, finer, S,
            align_corners, channel, exists,
            TRANSFORM, NDIM, MODE, PADDING, ANTIALIAS, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR, TANGENT,
        )  # fmt: skip
    return total


@triton.jit(do_not_specialize=UNSPECIALISED)
def _box_backward_kernel(
    map_ptr,                        # (N * K, [2,] PARAMETERS)
    box_ptr, chunk_ptr,             # (N * K, chunks, 2 * NDIM, CHUNK), (N * K, 2 * NDIM, chunks)
    grad_output_ptr, grad_input_ptr,                # (N * K, C, OD, OH, OW), (N, C, D, H, W)
    K, C, G, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,     # C in vectors; align_corners 0 or 1
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr, BLOCK_C: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    size, out = (W, H, D), (OW, OH, OD)
    tiles = tile_count(size, TILE_X, TILE_Y)
    parts = tiles * tl.cdiv(C * VECTOR, BLOCK_C)
    n = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    ix, iy, iz = tile_pixels(part % tiles, size, TILE_X, TILE_Y)
    channel, exists = channel_lanes(part // tiles, C, BLOCK_C, VECTOR)
    exists = per_channel(exists, CHANNELS_LAST)
    near = tl.min(ix), tl.min(iy), iz
    far = tl.max(ix), tl.max(iy), iz

    chunks = tile_count(_boxes_of(out), CHUNK_X, CHUNK_Y)
    lane = tl.arange(0, CHUNK)
    total = block_zeros(TILE_X * TILE_Y, BLOCK_C, CHANNELS_LAST, COMPUTE)
    for k in range(K):
        nk = (n * K + k).to(tl.int64)
        samples, finer, m, t = load_finer_map(
            map_ptr, nk, G, PARAMETERS, size, out, S, align_corners,
            TRANSFORM, NDIM, ANTIALIAS, COMPUTE, TANGENT,
        )  # fmt: skip
        chunks_ptr = chunk_ptr + nk * (2 * NDIM) * chunks
        for start in range(0, chunks, CHUNK):
            number = start + lane
            of_chunks = _meeting(chunks_ptr, chunks, number, number < chunks, near, far, NDIM)
            chunk = tl.min(of_chunks)
            while chunk < chunks:
                boxes_ptr = box_ptr + (nk * chunks + chunk) * (2 * NDIM * CHUNK)
                of_boxes = _meeting(boxes_ptr, CHUNK, lane, lane < CHUNK, near, far, NDIM)
                box = tl.min(of_boxes)
                while box < CHUNK:
                    total = _add_box(
                        total, grad_output_ptr + nk * C * VECTOR * OW * OH * OD, chunk, box, m, t,
                        ix, iy, iz, C, size, out, finer, samples, align_corners, channel, exists,
                        TRANSFORM, NDIM, MODE, PADDING, ANTIALIAS, COMPUTE, OFFSET, CHANNELS_LAST, VECTOR, TANGENT,
                    )  # fmt: skip
                    box = tl.min(tl.where(of_boxes > box, of_boxes, 2**30))
                chunk = tl.min(tl.where(of_chunks > chunk, of_chunks, 2**30))

    pixel = dense_pixels(ix, iy, iz, size, C, CHANNELS_LAST, OFFSET)
    offsets = block_offsets(
        pixel, channel, elements(size, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
    )  # fmt: skip
    tl.store(
        grad_input_ptr + n.to(tl.int64) * C * VECTOR * W * H * D + offsets,
        as_stored(total, grad_input_ptr),
        mask=per_pixel((ix < W) & (iy < H), CHANNELS_LAST) & exists,
    )  # fmt: skip


def box_backward(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    out_size: tuple[int, ...],
    options: Options,
    tangent: Tensor | None = None,
) -> Tensor:
    """The gradient of the input, or its change as theta changes along `tangent`."""
    g = geometry(input, theta, out_size, options)
    blocks = box_blocks(g)
    sides = 2 * g.constexprs["NDIM"]
    boxes = Blocks(BOX_X.value * CHUNK_X.value, BOX_Y.value * CHUNK_Y.value, 1, 4)
    chunks = tiles_of(g.out_size, 1, boxes)
    box_bounds = input.new_empty((g.n * g.k, chunks, sides, CHUNK.value), dtype=torch.int32)
    chunk_bounds = input.new_empty((g.n * g.k, sides, chunks), dtype=torch.int32)
    grad_input = empty_input_gradient(input)
    map_ = parameters(input, theta, options, tangent)
    bounding = ("TRANSFORM", "NDIM", "MODE", "PADDING", "ANTIALIAS", "COMPUTE")
    launch(
        _bounds_kernel, (g.n * g.k * chunks,), map_, box_bounds, chunk_bounds, *g.sizes,
        num_warps=8, TANGENT=tangent is not None, **{name: g.constexprs[name] for name in bounding},
    )  # fmt: skip
    launch(
        _box_backward_kernel,
        (grid_of(g.n, g.size, g.channels, blocks),),
        map_, box_bounds, chunk_bounds, like_output(grad_output, input), grad_input, *g.sizes,
        TANGENT=tangent is not None, **g.constexprs, **blocks._asdict(),
    )  # fmt: skip
    return grad_input
