"""A tile of input pixels collects what the outputs of one transformer give, on one copy of the image or one side of a
horizon.

First each lane walks through the rows of its own pixel's preimage. Pixels with far more outputs than others would keep
the tile waiting: a map close to singular puts a whole output onto a few, "border" all that lies beyond the image onto
its edges. They are left, and follow one after the other, with all lanes on the outputs of one pixel.
"""

import triton
import triton.language as tl

from stn_triton.kernels.interpolation import reach
from stn_triton.kernels.layout import block_zeros, per_channel, per_pixel, sum_pixels
from stn_triton.kernels.maps.units import centred
from stn_triton.kernels.preimage import affine, projective, volume
from stn_triton.kernels.preimage.rows import row_interval
from stn_triton.kernels.supersampling import mean, sample_count

from .copies import is_repeated, place
from .visit import visit

PATIENCE = tl.constexpr(16)
ONE_BY_ONE = tl.constexpr(4)
"""After PATIENCE steps, and ONE_BY_ONE for each lane that is not done, the pixels of those lanes follow one by one: a
few steps, and as many as one by one would cost. So a tile never takes much more than twice as long as the better of
both ways."""


@triton.jit
def plan_map(m, size, out, SPEC: tl.constexpr):
    """What the pixels of an image share."""
    if SPEC.TRANSFORM == "projective":
        plan = projective.plan(m, size, out)
    elif SPEC.NDIM == 3:
        plan = volume.plan(m, size, out)
    else:
        plan = affine.plan(m, size, out)
    return plan


@triton.jit
def _bounds(first, last, axis: tl.constexpr, copy, plan, grid, SPEC: tl.constexpr):
    """Between which source coordinates along an axis are those that touch pixels first to last."""
    size, middle, extent = grid.size[axis], plan.middle[axis], plan.extent[axis]
    first, last = first.to(SPEC.COMPUTE), last.to(SPEC.COMPUTE)
    left, right = first - reach(SPEC), last + reach(SPEC)
    if SPEC.PADDING == "border":
        left = tl.where((first <= 0) & (middle - extent < left), middle - extent, left)
        right = tl.where((last >= size - 1) & (middle + extent > right), middle + extent, right)
    elif SPEC.PADDING == "reflection":
        one = place(first, copy.numbers[axis], size, grid.align_corners)
        other = place(last, copy.numbers[axis], size, grid.align_corners)
        all_ = copy.whole | copy.free[axis]
        left = tl.where(all_, float("-inf"), tl.minimum(one, other) - reach(SPEC))
        right = tl.where(all_, float("inf"), tl.maximum(one, other) + reach(SPEC))
    return left.to(SPEC.COMPUTE), right.to(SPEC.COMPUTE)


@triton.jit
def _box(first, last, copy, plan, grid, SPEC: tl.constexpr):
    """The same along every axis: ((left, ...), (right, ...))."""
    x0, x1 = _bounds(first[0], last[0], 0, copy, plan, grid, SPEC)
    y0, y1 = _bounds(first[1], last[1], 1, copy, plan, grid, SPEC)
    z0, z1 = y0, y1
    if SPEC.NDIM == 3:
        z0, z1 = _bounds(first[2], last[2], 2, copy, plan, grid, SPEC)
    return (x0, y0, z0), (x1, y1, z1)


@triton.jit
def meets(first, last, copy, side, plan, grid, SPEC: tl.constexpr):
    """Whether outputs may touch pixels between first and last, on a copy and a side; True where that cannot be told."""
    left, right = _box(first, last, copy, plan, grid, SPEC)
    if SPEC.TRANSFORM == "projective":
        found = projective.meets(plan, left, right, side, grid.finer)
    elif SPEC.NDIM == 3:
        found = volume.meets(plan, grid.m, left, right, grid.finer)
    else:
        found = affine.meets(plan, grid.m, left, right, grid.size, grid.finer)
    return found


@triton.jit
def _collects(q, axis: tl.constexpr, copy, plan, grid, SPEC: tl.constexpr):
    """Whether pixel q may collect anything, as far as one axis tells.

    Outputs whose coordinates are not finite touch only the pixels to which padding moves them. A pixel that two
    mirrored copies share collects on one of them.
    """
    size = grid.size[axis]
    found = plan.finite[axis] | (q < 0)
    if SPEC.PADDING == "border":
        found |= (q == 0) | (q == size - 1)
    elif SPEC.PADDING == "reflection":
        found |= q == 0
        if SPEC.MODE == "bicubic":
            repeated = is_repeated(q, copy.numbers[axis], size, grid.align_corners)
            found &= (copy.whole != 0) | (repeated == 0)
    if SPEC.TRANSFORM == "projective":  # what is divided by infinity is 0
        near = tl.abs(q - plan.middle[axis]) <= reach(SPEC)
        found |= near & (plan.z_finite == 0)
    return found


@triton.jit
def _preimage(q, copy, side, plan, grid, SPEC: tl.constexpr):
    """The preimage of pixels q, and which have one."""
    left, right = _box(q, q, copy, plan, grid, SPEC)
    collects = _collects(q[0], 0, copy, plan, grid, SPEC)
    collects &= _collects(q[1], 1, copy, plan, grid, SPEC)
    if SPEC.TRANSFORM == "projective":
        every = (plan.finite[0] & plan.finite[1] & plan.z_finite) == 0
        every |= q[0] < 0
        if SPEC.PADDING == "border":
            # Where z = 0 coordinates are +inf.
            last = (q[0] == grid.size[0] - 1) & (q[1] == grid.size[1] - 1)
            every |= last & plan.zero
        found = projective.preimage(plan, grid.m, left, right, side, every, grid.finer, SPEC)
    elif SPEC.NDIM == 3:
        collects &= _collects(q[2], 2, copy, plan, grid, SPEC)
        found = volume.preimage(plan, grid.m, left, right, grid.finer)
        collects &= found.back >= found.front
    else:
        found = affine.preimage(plan, grid.m, left, right, grid.finer)
    return found, collects & (found.bottom >= found.top)


@triton.jit
def _walk(given, q, alive, found, lanes, each_its_own, copy, side, grid, SPEC: tl.constexpr):
    """Visit the outputs of preimages, row by row: (what they give, the lanes that have not come to the end).

    lanes: (the first column of a lane, from one to the next, the first row of a lane, from one to the next).
    """
    OW, OH, OD = grid.finer
    first_column, column_step, first_row, row_step = lanes
    row, slice = found.top + first_row, found.front
    column = first_column
    alive &= row <= found.bottom
    left = tl.sum(alive.to(tl.int32))
    steps = left * 0
    while (left > 0) & ((steps < PATIENCE + ONE_BY_ONE * left) | (each_its_own == 0)):
        dy, dz = centred(row, OH, SPEC), centred(slice, OD, SPEC)
        first, last = row_interval(found.strips, dy, dz, OW, SPEC)
        px = first + column
        given = visit(given, px, row, slice, alive & (px <= last), q, copy, side, grid, SPEC)
        over = px + column_step > last
        column = tl.where(over, first_column, column + column_step)
        row = tl.where(over, row + row_step, row)
        if SPEC.NDIM == 3:
            over = row > found.bottom
            row = tl.where(over, found.top + first_row, row)
            slice = tl.where(over, slice + 1, slice)
            alive &= slice <= found.back
        else:
            alive &= row <= found.bottom
        left = tl.sum(alive.to(tl.int32))
        steps += 1
    return given, alive


@triton.jit
def gather(total, tile, copy, side, plan, grid, SPEC: tl.constexpr):
    """Add to `total` what the outputs on a copy and a side give to the pixels of a tile."""
    PIXELS: tl.constexpr = tile.x.shape[0]
    COMPUTE: tl.constexpr = SPEC.COMPUTE
    BLOCK_C: tl.constexpr = grid.channels.number.shape[0]
    lane = tl.arange(0, PIXELS)
    waiting = lane * 0 + PIXELS
    served = tl.full((), -1, tl.int32)  # the pixel that all lanes collect for, none at first
    while served < PIXELS:
        each_its_own = (served < 0) != 0
        own = lane == served
        ix = tl.where(each_its_own, tile.x, tl.sum(tl.where(own, tile.x, 0)))
        iy = tl.where(each_its_own, tile.y, tl.sum(tl.where(own, tile.y, 0)))
        q = ix.to(COMPUTE), iy.to(COMPUTE), tile.z.to(COMPUTE)
        found, collects = _preimage(q, copy, side, plan, grid, SPEC)
        alive = collects & (tile.exists | ((served >= 0) != 0))
        # All lanes on one pixel lie along rows where there are enough, else along columns.
        high = found.bottom - found.top >= PIXELS - 1
        one = lane * 0 + 1
        lanes = (
            tl.where(each_its_own | high, 0, lane), tl.where(each_its_own | high, one, PIXELS),
            tl.where((each_its_own == 0) & high, lane, 0), tl.where((each_its_own == 0) & high, PIXELS, one),
        )  # fmt: skip
        given = block_zeros(PIXELS, BLOCK_C, SPEC)
        given, alive = _walk(given, q, alive, found, lanes, each_its_own, copy, side, grid, SPEC)
        if each_its_own:
            given = tl.where(per_pixel(alive, SPEC), 0.0, given).to(COMPUTE)
            waiting = tl.where(alive, lane, PIXELS)
        else:
            given = per_channel(sum_pixels(given, SPEC), SPEC)
            given = tl.where(per_pixel(own, SPEC), given, 0.0).to(COMPUTE)
        total += mean(given, sample_count(grid.samples, SPEC), SPEC)
        served = tl.min(tl.where(waiting > served, waiting, PIXELS))
    return total
