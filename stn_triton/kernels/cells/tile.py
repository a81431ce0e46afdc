"""A tile of the gather by cells: what one transformer gives to its pixels, row by row (`backward_cells`)."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .images import (
    add_blocks,
    from_left,
    load_row,
    of_cell,
    or_outside,
    store_row,
    zero_blocks,
)
from .paths import (
    Corners,
    Found,
    Pixels,
    Row,
    axis_of,
    find_separable,
    find_single,
    give_diagonal,
    give_found,
    give_listed,
    give_parity,
)
from .pixel_by_pixel import give_pixels
from .plan import DIAGONAL, LISTED, PARITY, SEPARABLE, SINGLE

# Phases of a tile: the column of cells on its left (one step, with a lane for each cell, from the corner down), the row
# of cells above it (one step), and its own rows (a step each).
COLUMN, ABOVE, ROWS_BELOW = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


class Strip(NamedTuple):
    """What the rows of cells of a phase have in common."""

    x: Any  # their Axis
    lane: Any
    from_x: Any  # where the windows of candidates begin in row 0
    from_y: Any


@triton.jit
def _strip_at(qx, there, lane, plan, W, SPEC: tl.constexpr):
    """Columns qx of cells, those that are `there`."""
    from_x, from_y = tl.fma(plan.x_by_x, qx, plan.from_x), tl.fma(plan.y_by_x, qx, plan.from_y)
    return Strip(axis_of(qx, there, W - 1, SPEC), lane, from_x, from_y)


@triton.jit
def _row_at(strip, qy, there, plan, H, SPEC: tl.constexpr):
    """Row qy of cells, those that are `there`, and where the windows of its candidates begin: (row, at_x, at_y)."""
    row = Row(strip.x, axis_of(qy, there, H - 1, SPEC), strip.lane)
    return row, tl.fma(plan.x_by_y, qy, strip.from_x), tl.fma(plan.y_by_y, qy, strip.from_y)


@triton.jit
def _window(at_x, at_y, plan, out, SPEC: tl.constexpr):
    """The first candidate of each cell of a row: (dx, dy, offset).

    at_x, at_y: where the window of a cell's candidates begins, before it is moved into the output.
    """
    zero = tl.zeros_like(at_x)
    px = tl.minimum(tl.maximum(at_x, zero), plan.last_x).to(tl.int32)
    py = tl.minimum(tl.maximum(at_y, zero), plan.last_y).to(tl.int32)
    dx, dy = px.to(SPEC.COMPUTE) - out.centre_x, py.to(SPEC.COMPUTE) - out.centre_y
    return dx, dy, py * out.width + px


@triton.jit
def _find_row(strip, qy, there, plan, m, H, out, SPEC: tl.constexpr):
    """(Found, gradients): the output of each cell in a row, on paths with at most one a cell; on other paths none."""
    row, at_x, at_y = _row_at(strip, qy, there, plan, H, SPEC)
    dx, dy, offset = _window(at_x, at_y, plan, out, SPEC)
    zero = tl.zeros_like(at_x)
    last = Found(offset < 0, zero, zero, zero, zero, offset), zero_blocks(SPEC)
    if SPEC.COMPUTE == tl.float32:
        if plan.path == SEPARABLE:
            last = find_separable(row, dx, dy, offset, plan, m, out, SPEC)
        if SPEC.TRANSFORM == "affine":
            if plan.path == SINGLE:
                last = find_single(row, dx, dy, offset, m, out, SPEC)
    return last


@triton.jit
def _give_row(
    sums, pixels, row, at_x, at_y, last, plan, m, out, SPEC: tl.constexpr
):  # fmt: skip
    """Add what the outputs in a row of cells give: (theta's sums, the corners').

    last: what `_find_row` found for this row.
    """
    none = zero_blocks(SPEC)
    corners = Corners(none, none, none, none)
    # A fast path returns its last output, which is added below for all of them: the compiler sees that code once.
    if (SPEC.COMPUTE == tl.float32) & (SPEC.TRANSFORM == "affine"):
        if plan.path == DIAGONAL:
            dx, dy, offset = _window(at_x, at_y, plan, out, SPEC)
            sums, corners, last = give_diagonal(
                sums, corners, pixels, row, dx, dy, offset, m, out, SPEC
            )  # fmt: skip
    if (SPEC.COMPUTE == tl.float32) & SPEC.FOURFOLD:
        if plan.path == PARITY:
            dx, dy, offset = _window(at_x, at_y, plan, out, SPEC)
            sums, corners, last = give_parity(
                sums, corners, pixels, row, dx, dy, offset, m, out, SPEC
            )  # fmt: skip
    if plan.path == LISTED:
        dx, dy, offset = _window(at_x, at_y, plan, out, SPEC)
        sums, corners = give_listed(
            sums, corners, pixels, row, dx, dy, offset, plan, m, out, SPEC
        )  # fmt: skip
    elif SPEC.COMPUTE == tl.float32:
        sums, corners = give_found(sums, corners, pixels, row, last, SPEC)
    return sums, corners


@triton.jit
def _corner_pixels(u, pixel, left, right, stride_w, SPEC: tl.constexpr):
    """The input at the left and at the right corners of a row of cells, which only theta's gradient needs.

    A masked corner has the value that lies outside the image. Where the sums of a cell count in another tile all its
    corners are masked, so that it has no slope here.
    """
    at_left, at_right = (), ()
    if SPEC.WITH_THETA:
        at_left = or_outside(load_row(u, pixel, left, SPEC), left, u, SPEC)
        at_right = or_outside(load_row(u, pixel + stride_w, right, SPEC), right, u, SPEC)
    return at_left, at_right


@triton.jit
def _pixel_rows(u, pixel, iy, left, right, H, stride_h, stride_w, SPEC: tl.constexpr):
    """The rows of the input above and below cells of row iy."""
    top = _corner_pixels(u, pixel, left & (iy >= 0), right & (iy >= 0), stride_w, SPEC)
    below = iy + 1 < H
    bottom = _corner_pixels(u, pixel + stride_h, left & below, right & below, stride_w, SPEC)
    return top, bottom


@triton.jit
def _cells_of(tile, phase, size, SPEC: tl.constexpr):
    """The first cells of a phase: (x, y, which exist, whose theta sums count here and in no other tile)."""
    W, _, _ = size
    ix = tl.where(phase == COLUMN, tile.x - 1, tile.x + tile.lane)
    iy = tl.where(phase == COLUMN, tile.y - 1 + tile.lane, tile.y - tl.where(phase == ABOVE, 1, 0))
    there = tl.where(phase == COLUMN, tile.lane <= tile.rows, ix < W)
    if SPEC.PADDING == "border":  # no coordinate stays below 0
        there &= (ix >= 0) & (iy >= 0)
    counts = there & ((ix < 0) | (iy < 0) | (phase == ROWS_BELOW))
    # The first cell of the column lies above the tile. It counts in the tile above, if there is one.
    counts &= (phase != COLUMN) | (ix < 0)
    counts &= (phase != COLUMN) | (tile.lane > 0) | (iy < 0)
    return ix, iy, there, counts


@triton.jit
def _with_neighbours(corners, lower_left, lower_right, to_first, step, lane, SPEC: tl.constexpr):
    """A row of pixels: what its own cells give, with what their neighbours on the left and above gave."""
    found = corners.upper_left
    if SPEC.MODE != "nearest":  # whose outputs have one tap
        to_right = add_blocks(corners.upper_right, lower_right, SPEC)
        first = of_cell(to_first, step + 1, SPEC)
        across = from_left(to_right, lane, first, SPEC)
        found = add_blocks(add_blocks(found, lower_left, SPEC), across, SPEC)
    return found


@triton.jit
def give_tile(
    sums, tile, u, stride_h, stride_w, total, stored, plan, m, size, out, clipped, SPEC: tl.constexpr
):  # fmt: skip
    """Add what one transformer gives: to the pixels, in `total` (which may hold nothing `stored`), and to `sums`."""
    W, H, _ = size
    none = zero_blocks(SPEC)
    # What the cells on the left give to the first column, one pixel a lane, and those above to their lower corners.
    to_first, lower_left, lower_right = none, none, none
    target = tile.y.to(SPEC.OFFSET) * W + (tile.x + tile.lane)
    for phase in range(ROWS_BELOW if SPEC.MODE == "nearest" else COLUMN, 3):
        ix, iy, there, counts = _cells_of(tile, phase, size, SPEC)
        qx, qy = ix.to(SPEC.COMPUTE), iy.to(SPEC.COMPUTE)
        strip = _strip_at(qx, there, tile.lane, plan, W, SPEC)
        pixel = iy.to(SPEC.OFFSET) * stride_h + ix.to(SPEC.OFFSET) * stride_w
        left, right = counts & (ix >= 0), counts & (ix + 1 < W)
        # Eight channels in a lane take all registers there are: they are read twice instead of kept.
        READ_TWICE: tl.constexpr = SPEC.WITH_THETA & (SPEC.CHUNKS * SPEC.VECTOR > 4)
        top, bottom = (none, none), (none, none)
        if not READ_TWICE:
            top, bottom = _pixel_rows(u, pixel, iy, left, right, H, stride_h, stride_w, SPEC)
        count = tl.where(phase == ROWS_BELOW, tile.rows, 1)
        if SPEC.AHEAD:  # while the row before is worked on, so that memory answers meanwhile
            found_ahead = _find_row(strip, qy, there, plan, m, H, out, SPEC)
        for step in range(count):
            if SPEC.AHEAD:
                last = found_ahead
                more = there & (step + 1 < count)
                found_ahead = _find_row(strip, qy + 1, more, plan, m, H, out, SPEC)
            else:
                last = _find_row(strip, qy, there, plan, m, H, out, SPEC)
            if READ_TWICE:
                top, bottom = _pixel_rows(u, pixel, iy, left, right, H, stride_h, stride_w, SPEC)
            pixel, iy, ahead = pixel + stride_h, iy + 1, bottom
            if not READ_TWICE:  # the next row is read while this one is worked on
                more = (iy + 1 < H) & (step + 1 < count)
                ahead = _corner_pixels(u, pixel + stride_h, left & more, right & more, stride_w, SPEC)  # fmt: skip
            at = target * out.pixel if SPEC.CHANNELS_LAST else target
            before = none
            if SPEC.SEVERAL:
                before = load_row(total, at, tile.exists & stored & (phase == ROWS_BELOW), SPEC)
            row, at_x, at_y = _row_at(strip, qy, there, plan, H, SPEC)
            pixels = Pixels(*top, *bottom)
            sums, corners = _give_row(sums, pixels, row, at_x, at_y, last, plan, m, out, SPEC)
            if phase == ROWS_BELOW:
                found = _with_neighbours(corners, lower_left, lower_right, to_first, step, tile.lane, SPEC)  # fmt: skip
                if SPEC.PADDING == "border":
                    if clipped & _at_edge(tile, tile.y + step, size, SPEC):
                        sums, found = give_pixels(
                            sums, found, tile, tile.y + step, u, stride_h, stride_w, m, size, out, False, SPEC
                        )  # fmt: skip
                if SPEC.SEVERAL:
                    found = add_blocks(found, before, SPEC)
                store_row(total, at, tile.exists, found, SPEC)
                target += W
            elif phase == COLUMN:
                passed = from_left(corners.lower_right, tile.lane, none, SPEC)
                to_first = add_blocks(corners.upper_right, passed, SPEC)
            lower_left, lower_right = corners.lower_left, corners.lower_right
            top, bottom, qy = bottom, ahead, qy + 1
    return sums


@triton.jit
def give_tile_pixel_by_pixel(
    sums, tile, u, stride_h, stride_w, total, stored, m, size, out, SPEC: tl.constexpr
):  # fmt: skip
    """The same as `give_tile`, for tiles whose pixels gather many outputs."""
    target = tile.y.to(SPEC.OFFSET) * size[0] + (tile.x + tile.lane)
    for step in range(tile.rows):
        sums, found = give_pixels(
            sums, zero_blocks(SPEC), tile, tile.y + step, u, stride_h, stride_w, m, size, out, True, SPEC
        )  # fmt: skip
        at = target * out.pixel if SPEC.CHANNELS_LAST else target
        if SPEC.SEVERAL:
            found = add_blocks(found, load_row(total, at, tile.exists & stored, SPEC), SPEC)
        store_row(total, at, tile.exists, found, SPEC)
        target += size[0]
    return sums


@triton.jit
def _at_edge(tile, y, size, SPEC: tl.constexpr):
    """Whether a row of the tile has pixels that "border" moves outputs onto."""
    W, H, _ = size
    return (tile.x == 0) | (tile.x + SPEC.CELLS >= W) | (y == 0) | (y == H - 1)


@triton.jit
def finish_tile(tile, total, image, stored, vectors, W, SPEC: tl.constexpr):
    """Round what is `stored` in `total` to the image; if nothing is, zeros."""
    target = tile.y.to(SPEC.OFFSET) * W + (tile.x + tile.lane)
    for _ in range(tile.rows):
        at = target * vectors if SPEC.CHANNELS_LAST else target
        found = zero_blocks(SPEC)
        if SPEC.SEVERAL:
            found = load_row(total, at, tile.exists & stored, SPEC)
        store_row(image, at, tile.exists, found, SPEC)
        target += W
