"""Pixels that gather a great part of the output: one after the other, with all lanes on the outputs of one pixel.

A map close to singular may put a whole output into a few cells, and "border" moves all that lies beyond the image onto
the pixels at its edges. A lane that visited these alone would take seconds. So the lanes take rows of the output
instead of cells: each visits the columns of its row that may touch the pixel, and the lanes' sums are added up.
"""

import triton
import triton.language as tl

from stn_triton.kernels.interpolation import round_half_even, touch
from stn_triton.kernels.maps import affine
from stn_triton.kernels.maps.units import centred
from stn_triton.kernels.preimage.affine import candidates, extents, invert, row_range

from .images import for_channels, load_row, zero_block, zero_blocks, zero_row
from .paths import gradients

ASK_ABOVE = tl.constexpr(256)
"""Candidates of a cell above which a tile asks whether pixel by pixel is cheaper."""


@triton.jit
def pixel_by_pixel_pays(tile, plan, m, size, out, SPEC: tl.constexpr):
    """Whether a tile is cheaper pixel by pixel than by a list of the candidates of its cells."""
    a, b, mx, c, d, my = m
    listed = plan.columns.to(tl.float32) * plan.rows
    pays = listed < 0
    if listed > ASK_ABOVE:
        # Pixels that outputs touch: between the ends of the output, or along the line that a singular map makes of it.
        extent_x, extent_y = extents(m, out.size)
        left, right = (
            tl.maximum(mx - extent_x - 1, tile.x),
            tl.minimum(mx + extent_x + 1, tile.x + SPEC.CELLS),
        )
        top, bottom = (
            tl.maximum(my - extent_y - 1, tile.y),
            tl.minimum(my + extent_y + 1, tile.y + tile.rows),
        )
        wide, high = tl.maximum(right - left, 1.0) + 1, tl.maximum(bottom - top, 1.0) + 1
        inside = tl.abs(a * d - b * c) * out.size[0] * out.size[1]
        pixels = tl.minimum(wide * high, inside + 4 * (wide + high))
        # A row of the output crosses a pixel's reach in this many columns; 4 stands for what a row costs by itself.
        crossed = tl.minimum(2 / tl.maximum(tl.abs(a), tl.abs(c)), plan.columns)
        by_pixels = pixels * (1 + plan.rows // SPEC.CELLS) * (crossed + 4)
        # To list one costs a quarter of giving it.
        pays = by_pixels < listed * (tile.rows + 2) * 0.25
    return pays


@triton.jit
def _kept_here(m, lane):
    """The same map, as a number that only this branch of the program knows.

    Else the compiler inverts it before the loop over rows, for every image, and holds some thirty numbers in registers.
    """
    a, b, mx, c, d, my = m
    never = tl.max(lane) < 0
    zero = tl.zeros_like(a)
    return affine.Affine(
        tl.where(never, zero, a), tl.where(never, zero, b), tl.where(never, zero, mx),
        tl.where(never, zero, c), tl.where(never, zero, d), tl.where(never, zero, my),
    )  # fmt: skip


@triton.jit
def give_pixels(
    sums, found, tile, iy, u, stride_h, stride_w, m, size, out, ALL: tl.constexpr, SPEC: tl.constexpr
):  # fmt: skip
    """Add what outputs give to a row of pixels, to `found`: ALL of them, or those alone that "border" moves."""
    CLIPPED: tl.constexpr = SPEC.PADDING == "border"
    W, H, _ = size
    m = _kept_here(m, tile.lane)
    inverse = invert(m, size, out.size)
    ix, here = tile.x + tile.lane, iy + tile.lane * 0
    left, right, top, bottom = candidates(
        ix.to(SPEC.COMPUTE), here.to(SPEC.COMPUTE), m, inverse, size, out.size, CLIPPED, SPEC
    )  # fmt: skip
    waiting = (right >= left) & (bottom >= top) & tile.exists
    if CLIPPED:
        edge_x, edge_y = (ix == 0) | (ix == W - 1), (here == 0) | (here == H - 1)
        if not ALL:
            waiting &= edge_x | edge_y
        # Coordinates that are not finite are moved to the first or the last pixel.
        zero = zero_row(SPEC.COMPUTE, SPEC)
        finite_x = tl.abs(m.a) + tl.abs(m.b) + tl.abs(m.mx) + zero < float("inf")
        finite_y = tl.abs(m.c) + tl.abs(m.d) + tl.abs(m.my) + zero < float("inf")
        waiting &= (edge_x | finite_x) & (edge_y | finite_y)
    number = tl.where(waiting, tile.lane, SPEC.CELLS)
    j = tl.min(number)
    while j < SPEC.CELLS:
        sums, found = _give_pixel(
            sums, found, tile, tile.x + j, iy, u, stride_h, stride_w, m, inverse, size, out, ALL, SPEC
        )  # fmt: skip
        j = tl.min(tl.where(number > j, number, SPEC.CELLS))
    return sums, found


@triton.jit
def _give_pixel(
    sums, found, tile, ix, iy, u, stride_h, stride_w, m, inverse, size, out, ALL: tl.constexpr, SPEC: tl.constexpr
):  # fmt: skip
    """Add what outputs give to pixel (ix, iy)."""
    CLIPPED: tl.constexpr = SPEC.PADDING == "border"
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    qx, qy = ix.to(SPEC.COMPUTE), iy.to(SPEC.COMPUTE)
    left, right, top, bottom = candidates(
        qx, qy, m, inverse, size, out.size, CLIPPED, SPEC
    )  # fmt: skip
    pixels = zero_blocks(SPEC)
    if SPEC.WITH_THETA:
        pixel = iy.to(SPEC.OFFSET) * stride_h + ix.to(SPEC.OFFSET) * stride_w
        pixels = load_row(u, pixel + tile.lane * 0, tile.lane >= 0, SPEC)
    given = zero_blocks(SPEC)
    for start in range(top, bottom + 1, SPEC.CELLS):
        py = start + tile.lane
        first, last = row_range(
            py, qx, qy, m, inverse, size, out.size, SPEC
        )  # fmt: skip
        first = tl.maximum(first, left)
        last = tl.where(py <= bottom, tl.minimum(last, right), -1)
        for step in range(tl.max(last - first + 1)):
            px = first + step
            sums, given = _visit(
                sums, given, pixels, px, py, px <= last, qx, qy, m, size, out, u.outside, ALL, SPEC
            )
    added = ()
    for i in tl.static_range(CHUNKS):
        total = tl.expand_dims(tl.sum(given[i], 1), 1)
        here = for_channels(tile.x + tile.lane == ix)
        added = added + (found[i] + tl.where(here, total, tl.zeros_like(given[i])),)
    return sums, added


@triton.jit
def _visit(
    sums, given, pixels, px, py, visited, qx, qy, m, size, out, outside, ALL: tl.constexpr,
    SPEC: tl.constexpr,
):  # fmt: skip
    """Add what output pixels (px, py), one a lane, give to input pixel (qx, qy)."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    W, H, _ = size
    dx, dy = centred(px, out.size[0], SPEC), centred(py, out.size[1], SPEC)
    sx, sy = affine.locate(m, dx, dy)
    hit_x, wx, slope_x = touch(sx, qx, W, 0, SPEC)
    hit_y, wy, slope_y = touch(sy, qy, H, 0, SPEC)
    visited &= hit_x & hit_y
    if not ALL:
        visited &= (_stays(sx, W, SPEC) & _stays(sy, H, SPEC)) == 0
    weight, offset = for_channels(wx * wy), py * out.width + px
    more = ()
    along = zero_block(SPEC.COMPUTE, SPEC)
    grads = gradients(out, offset, dx, dy, visited, SPEC)
    if SPEC.HAS_PADDING_VALUE:
        # Slopes of all taps have the sum 0: a tap outside counts as if each inside held so much less.
        partly = (sx < 0) | (sx >= W - 1) | (sy < 0) | (sy >= H - 1)
        less = for_channels(tl.where(partly, outside, 0.0))
    for i in tl.static_range(CHUNKS):
        more = more + (tl.fma(weight, grads[i], given[i]),)
        pixel = pixels[i] - less if SPEC.HAS_PADDING_VALUE else pixels[i]
        along = tl.fma(grads[i], pixel, along)
    if SPEC.WITH_THETA:
        along = tl.where(visited, tl.sum(along, 2), 0.0).to(wx.dtype)  # the pixel may not be finite
        by_x, by_y = slope_x * wy * along, wx * slope_y * along
        if (
            SPEC.PADDING == "border"
        ):  # a coordinate that is held has no slope, whatever the pixel is
            by_x = tl.where(slope_x != 0, by_x, 0.0).to(wx.dtype)
            by_y = tl.where(slope_y != 0, by_y, 0.0).to(wx.dtype)
        sums = affine.add_derivatives(sums, by_x, by_y, dx, dy)
    return sums, more


@triton.jit
def _stays(s, size, SPEC: tl.constexpr):
    """Whether a cell of the image holds source coordinate s without padding."""
    low = round_half_even(s) if SPEC.MODE == "nearest" else s
    return (low >= 0) & (low < size)
