"""What the outputs in a row of cells give: to the pixels at the cells' corners, and to theta.

An output at fractions (fx, fy) of its cell has the weights (1 - fx)(1 - fy), fx (1 - fy), (1 - fx) fy and fx fy on the
corners u00, u01, u10, u11. Its gradient g gives g times these to the corners, and to its source coordinates
    by_x = g ((u01 - u00) + fy (u11 - u10 - u01 + u00)),    by_y = g ((u10 - u00) + fx (u11 - u10 - u01 + u00)),
from where theta's numbers are sums of by_x and by_y times (dx, dy, 1), the output's place from the centre.

`plan.Plan.path` says how the outputs of a cell are found. Its functions have two kinds of names, and `tile` calls them:
- `find_...`: the cell has one output at most. It is found and its gradient loaded, and nothing is added yet, so that
  the outputs of the next row of cells can be loaded while this row is worked on.
- `give_...`: the cell may have several. All of them are added, but for the last of `give_diagonal` and `give_parity`,
  which is returned as `find_...` returns its one.
`tile` adds the output that is left by `give_found`. All of these add by `give`, the one place that has the weights.
`pixel_by_pixel` alone takes others, from `interpolation.touch`.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from stn_triton.kernels.interpolation import round_half_even
from stn_triton.kernels.maps import affine

from .images import for_channels, load_block, zero_block
from .plan import NOWHERE


class Corners(NamedTuple):
    """Sums for the pixels at the corners of each cell: tuples of blocks."""

    upper_left: Any
    upper_right: Any
    lower_left: Any
    lower_right: Any


class Pixels(NamedTuple):
    """The input at the corners of each cell: tuples of blocks, empty where theta's gradient is not wanted."""

    u00: Any
    u01: Any
    u10: Any
    u11: Any


class Output(NamedTuple):
    """The output of one transformer, and its gradient."""

    grad: Any  # the gradient, an `Image`
    pixel: Any  # from one pixel to the next, in vectors (channels_last)
    width: Any  # from one row to the next, in pixels
    samples: Any  # antialias: along each axis, S
    share: Any  # 1 / S²
    size: Any  # of the finer output with S times as many pixels, (x, y, 1), and where its centre is
    centre_x: Any
    centre_y: Any


class Axis(NamedTuple):
    """One coordinate of a row of cells, and how to ask whether a number lies in them (`in_cell`)."""

    at: Any  # q: the cell is [q, q + 1)
    last: Any  # the last pixel of the image
    sign: Any  # s sign + shift is s - q, and -s for cell -1
    shift: Any
    limit: Any  # bits of a float32; those of s sign + shift are below where s lies in the cell


class Row(NamedTuple):
    """A row of cells, one a lane (on the left of a tile: a column)."""

    x: Axis
    y: Axis
    lane: Any


class Found(NamedTuple):
    """An output for each cell, where there is one."""

    hit: Any  # whether there is; where not, the rest means nothing, but is finite
    sx: Any  # source coordinates
    sy: Any
    dx: Any  # distance from the centre of the output
    dy: Any
    offset: Any  # of the output pixel, in pixels


class Given(NamedTuple):
    """What an output for each cell, where there is one, gives: its gradient, at fractions (fx, fy) of the cell."""

    hit: Any
    fx: Any
    fy: Any
    dx: Any
    dy: Any
    grads: Any


@triton.jit
def axis_of(q, there, last, SPEC: tl.constexpr):
    """Cells q of an axis; no number lies in those that are not `there`."""
    sign = tl.where(q < 0, -1.0, 1.0).to(SPEC.COMPUTE)
    # Of the literal -0.0 Triton 3.6 makes 0.0.
    shift = tl.where(q < 0, sign * 0.0, 0.0 - q).to(SPEC.COMPUTE)
    # 0x3F800000 are the bits of 1.0.
    limit = tl.where(there, tl.where(q < 0, 0x3F800001, 0x3F800000), 0).to(tl.uint32)
    if (SPEC.MODE == "nearest") | (SPEC.COMPUTE == tl.float64):
        q = tl.where(there, q, NOWHERE).to(SPEC.COMPUTE)
    return Axis(q, last.to(SPEC.COMPUTE), sign, shift, limit)


@triton.jit
def in_cell(s, axis, SPEC: tl.constexpr):
    """Whether coordinate s lies in the cell.

    In single precision s - q, exact where it decides, is in [0, 1) if its bits are below those of 1. For cell -1, where
    it may round, -s in (0, 1] does the same (and so the shift is -0 there: of s = 0 it makes -0, whose bits are
    above). One comparison is cheaper than two, and half as much to combine.
    """
    if SPEC.MODE == "nearest":
        hit = round_half_even(s) == axis.at
    elif SPEC.COMPUTE == tl.float64:
        hit = (s >= axis.at) & (s < axis.at + 1)
    else:
        away = tl.fma(s, axis.sign, axis.shift)
        hit = away.to(tl.uint32, bitcast=True) < axis.limit
    return hit


@triton.jit
def gradients(out, offset, dx, dy, hit, SPEC: tl.constexpr):
    """The output's gradient at pixels `offset` or, of the finer output, at (dx, dy): a tuple of blocks."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    if SPEC.ANTIALIAS != "none":
        px = (dx + out.centre_x).to(tl.int32) // out.samples
        py = (dy + out.centre_y).to(tl.int32) // out.samples
        offset = py * out.width + px
    if SPEC.CHANNELS_LAST:
        offset = offset * out.pixel
    grads = ()
    for i in tl.static_range(CHUNKS):
        grad = load_block(out.grad, offset, hit, i, SPEC)
        if SPEC.ANTIALIAS != "none":
            grad = grad * out.share
        grads = grads + (grad,)
    return grads


@triton.jit
def _to_theta(sums, pixels, row, hit, fx, fy, dx, dy, grads, SPEC: tl.constexpr):
    """Add to theta's sums what outputs give at fractions (fx, fy) of their cells."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    along = zero_block(SPEC.COMPUTE, SPEC)
    along_x, along_y, both = along, along, along
    for i in tl.static_range(CHUNKS):
        above, below = pixels.u01[i] - pixels.u00[i], pixels.u11[i] - pixels.u10[i]
        along_x = tl.fma(grads[i], above, along_x)
        along_y = tl.fma(grads[i], pixels.u10[i] - pixels.u00[i], along_y)
        both = tl.fma(grads[i], below - above, both)
    both = tl.sum(both, 2)
    by_x = tl.fma(fy, both, tl.sum(along_x, 2))
    by_y = tl.fma(fx, both, tl.sum(along_y, 2))
    # Where a cell has no output its gradient of 0 met pixels that may not be finite.
    by_x = tl.where(hit, by_x, 0.0).to(by_x.dtype)
    by_y = tl.where(hit, by_y, 0.0).to(by_y.dtype)
    if SPEC.PADDING == "border":  # no slope at an end or beyond
        sx, sy, zero = row.x.at + fx, row.y.at + fy, tl.zeros_like(fx)
        by_x = tl.where((sx > 0) & (sx < row.x.last), by_x, zero)
        by_y = tl.where((sy > 0) & (sy < row.y.last), by_y, zero)
    return affine.add_derivatives(sums, by_x, by_y, dx, dy)


@triton.jit
def give(sums, corners, pixels, row, given, SPEC: tl.constexpr):
    """Add what one output for each cell gives to the corners and to theta's sums.

    Where a cell has none its gradient is 0. A path with several outputs a cell calls this several times.
    """
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    hit, fx, fy, dx, dy, grads = given
    if SPEC.MODE == "nearest":
        own = ()
        for i in tl.static_range(CHUNKS):
            own = own + (corners.upper_left[i] + grads[i],)
        corners = Corners(own, corners.upper_right, corners.lower_left, corners.lower_right)
    else:
        if SPEC.PADDING == "border":  # beyond the last pixel the fraction is 0
            fx, fy = tl.minimum(fx, row.x.last - row.x.at), tl.minimum(fy, row.y.last - row.y.at)
        w11 = fx * fy
        w10 = fy - w11
        w01 = fx - w11
        w00 = (1.0 - fx) - w10
        w00, w01 = for_channels(w00), for_channels(w01)
        w10, w11 = for_channels(w10), for_channels(w11)
        n00, n01, n10, n11 = (), (), (), ()
        for i in tl.static_range(CHUNKS):
            n00 = n00 + (tl.fma(grads[i], w00, corners.upper_left[i]),)
            n01 = n01 + (tl.fma(grads[i], w01, corners.upper_right[i]),)
            n10 = n10 + (tl.fma(grads[i], w10, corners.lower_left[i]),)
            n11 = n11 + (tl.fma(grads[i], w11, corners.lower_right[i]),)
        corners = Corners(n00, n01, n10, n11)
        if SPEC.WITH_THETA:
            sums = _to_theta(sums, pixels, row, hit, fx, fy, dx, dy, grads, SPEC)
    return sums, corners


@triton.jit
def _candidate(dx, dy, offset, row, m, SPEC: tl.constexpr):
    """Output (dx, dy), which may lie in each cell, and whether it does."""
    sx, sy = affine.locate(m, dx, dy)
    hit = in_cell(sx, row.x, SPEC) & in_cell(sy, row.y, SPEC)
    return Found(hit, sx, sy, dx, dy, offset)


@triton.jit
def _either(first, second):
    """Of two outputs that cannot both lie in a cell the one that does."""
    hit = second.hit
    return Found(
        first.hit | hit, tl.where(hit, second.sx, first.sx), tl.where(hit, second.sy, first.sy),
        tl.where(hit, second.dx, first.dx), tl.where(hit, second.dy, first.dy),
        tl.where(hit, second.offset, first.offset),
    )  # fmt: skip


@triton.jit
def _loaded(found, out, SPEC: tl.constexpr):
    """(Outputs that were found, their gradients): loaded here, and used as late as possible, since memory is slow."""
    return found, gradients(out, found.offset, found.dx, found.dy, found.hit, SPEC)


@triton.jit
def give_found(sums, corners, pixels, row, loaded, SPEC: tl.constexpr):
    """Add what outputs give that a path found; loaded: from `_loaded`."""
    found, grads = loaded
    fx, fy = found.sx - row.x.at, found.sy - row.y.at
    given = Given(found.hit, fx, fy, found.dx, found.dy, grads)
    return give(sums, corners, pixels, row, given, SPEC)


@triton.jit
def find_separable(row, dx, dy, offset, plan, m, out, SPEC: tl.constexpr):
    """One candidate or two along each axis, of which at most one lies in the cell."""
    sx, sy = tl.fma(m.a, dx, m.mx), tl.fma(m.d, dy, m.my)
    next_x, next_y = tl.fma(m.a, dx + 1, m.mx), tl.fma(m.d, dy + 1, m.my)
    in_x, in_y = in_cell(sx, row.x, SPEC), in_cell(sy, row.y, SPEC)
    hit = (in_x | (in_cell(next_x, row.x, SPEC) & (plan.columns > 1))) != 0
    hit = (hit & (in_y | (in_cell(next_y, row.y, SPEC) & (plan.rows > 1)))) != 0
    sx, sy = tl.where(in_x, sx, next_x), tl.where(in_y, sy, next_y)
    dx, dy = tl.where(in_x, dx, dx + 1), tl.where(in_y, dy, dy + 1)
    offset += tl.where(in_x, 0, 1) + tl.where(in_y, 0, out.width)
    return _loaded(Found(hit, sx, sy, dx, dy, offset), out, SPEC)


@triton.jit
def find_single(row, dx, dy, offset, m, out, SPEC: tl.constexpr):
    """2 x 2 candidates, of which at most one lies in the cell."""
    below = offset + out.width
    upper = _either(
        _candidate(dx, dy, offset, row, m, SPEC), _candidate(dx + 1, dy, offset + 1, row, m, SPEC)
    )  # fmt: skip
    lower = _either(
        _candidate(dx, dy + 1, below, row, m, SPEC), _candidate(dx + 1, dy + 1, below + 1, row, m, SPEC)
    )  # fmt: skip
    return _loaded(_either(upper, lower), out, SPEC)


@triton.jit
def give_diagonal(sums, corners, pixels, row, dx, dy, offset, m, out, SPEC: tl.constexpr):
    """2 x 2 candidates, of whose two diagonals at most one each lies in the cell; the second is left to be given."""
    below = offset + out.width
    falling = _either(
        _candidate(dx, dy, offset, row, m, SPEC),
        _candidate(dx + 1, dy + 1, below + 1, row, m, SPEC),
    )
    first = _loaded(falling, out, SPEC)
    rising = _either(
        _candidate(dx + 1, dy, offset + 1, row, m, SPEC),
        _candidate(dx, dy + 1, below, row, m, SPEC),
    )
    last = _loaded(rising, out, SPEC)
    sums, corners = give_found(sums, corners, pixels, row, first, SPEC)
    return sums, corners, last


@triton.jit
def give_parity(sums, corners, pixels, row, dx, dy, offset, m, out, SPEC: tl.constexpr):
    """3 x 3 candidates, of which at most one for each parity of column and row lies in the cell.

    The last one is left to be given.
    """
    dx1, dx2, dy1, dy2 = dx + 1, dx + 2, dy + 1, dy + 2
    second = offset + out.width
    third = second + out.width
    upper = _either(
        _candidate(dx, dy, offset, row, m, SPEC), _candidate(dx2, dy, offset + 2, row, m, SPEC)
    )
    lower = _either(
        _candidate(dx, dy2, third, row, m, SPEC), _candidate(dx2, dy2, third + 2, row, m, SPEC)
    )
    even = _loaded(_either(upper, lower), out, SPEC)
    odd_column = _either(
        _candidate(dx1, dy, offset + 1, row, m, SPEC), _candidate(dx1, dy2, third + 1, row, m, SPEC)
    )
    odd_column = _loaded(odd_column, out, SPEC)
    sums, corners = give_found(sums, corners, pixels, row, even, SPEC)
    odd_row = _either(
        _candidate(dx, dy1, second, row, m, SPEC), _candidate(dx2, dy1, second + 2, row, m, SPEC)
    )
    odd_row = _loaded(odd_row, out, SPEC)
    sums, corners = give_found(sums, corners, pixels, row, odd_column, SPEC)
    last = _loaded(_candidate(dx1, dy1, second + 1, row, m, SPEC), out, SPEC)
    sums, corners = give_found(sums, corners, pixels, row, odd_row, SPEC)
    return sums, corners, last


@triton.jit
def give_listed(
    sums, corners, pixels, row, dx, dy, first, plan, m, out, SPEC: tl.constexpr
):  # fmt: skip
    """Any box of candidates, 7 columns and 4 rows at a time: a bit for each that lies in the cell, then these alone."""
    # More channels leave no registers for a second output.
    PAIRS: tl.constexpr = SPEC.CHUNKS * SPEC.VECTOR <= 4
    for top in range(0, plan.rows, 4):
        for left in range(0, plan.columns, 7):
            rows = tl.minimum(plan.rows - top, 4)
            columns = tl.minimum(plan.columns - left, 7)
            start_x, start_y = dx + left, dy + top
            bits = _list_hits(start_x, start_y, columns, rows, row, m, SPEC)
            begin = first + top * out.width + left
            while tl.max(bits) > 0:
                bits, one = _take(bits, start_x, start_y, begin, row, m, out, SPEC)
                if PAIRS:  # two wait for memory together
                    bits, other = _take(bits, start_x, start_y, begin, row, m, out, SPEC)
                    sums, corners = give(sums, corners, pixels, row, one, SPEC)
                    one = other
                sums, corners = give(sums, corners, pixels, row, one, SPEC)
    return sums, corners


@triton.jit
def _take(bits, start_x, start_y, begin, row, m, out, SPEC: tl.constexpr):
    """(The list without its first output, what `give` takes of this one, its gradient loaded)."""
    lowest = bits & -bits
    number = (lowest.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    hit = bits != 0
    right, down = tl.where(hit, number & 7, 0), tl.where(hit, number >> 3, 0)
    at_x, at_y = start_x + right.to(SPEC.COMPUTE), start_y + down.to(SPEC.COMPUTE)
    grads = gradients(out, begin + down * out.width + right, at_x, at_y, hit, SPEC)
    sx, sy = affine.locate(m, at_x, at_y)
    fx, fy = sx - row.x.at, sy - row.y.at
    zero = tl.zeros_like(fx)  # fractions of others may not be finite
    fx, fy = tl.where(hit, fx, zero), tl.where(hit, fy, zero)
    return bits - lowest, Given(hit, fx, fy, at_x, at_y, grads)


@triton.jit
def _list_hits(start_x, start_y, columns, rows, row, m, SPEC: tl.constexpr):
    """Bit 8 r + c for candidate (c, r) from the start, where it lies in the cell."""
    bits = row.lane * 0
    for r in range(rows):
        dy = start_y + r
        from_x, from_y = tl.fma(m.b, dy, m.mx), tl.fma(m.d, dy, m.my)
        dx = start_x
        bit = 1 << (8 * r)
        for _ in range(columns):
            sx, sy = tl.fma(m.a, dx, from_x), tl.fma(m.c, dx, from_y)
            hit = in_cell(sx, row.x, SPEC) & in_cell(sy, row.y, SPEC)
            bits = tl.where(hit, bits | bit, bits)
            dx += 1
            bit += bit
    return bits
