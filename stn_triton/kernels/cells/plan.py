"""Gathering by cells: what a kernel is compiled for (`CellSpec`), and how an image's cells find their outputs (`Plan`).

A cell is a set of source coordinates that share their taps. Bilinear: the unit square [x, x + 1) x [y, y + 1), whose
taps are its four corners; cells begin at -1, where only the right corners are pixels. Nearest: what rounds to pixel
(x, y), its only tap. Every output pixel lies in exactly one cell: that of the coordinates the forward kernel finds.

The outputs in a cell are its preimage, a parallelogram half as wide as that of a pixel's taps. `plan_cells` bounds it
once for an image, so that a cell finds its candidates by two fused multiply-adds an axis, and picks the cheapest way to
tell which candidates lie in the cell.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from stn_triton.kernels.maps.units import linear, middle
from stn_triton.kernels.preimage.affine import invert


class CellSpec(NamedTuple):
    """What the kernel is compiled for: a `geometry.Spec`, field by field, and what it adds."""

    TRANSFORM: str  # affine or attention
    NDIM: int
    MODE: str  # bilinear or nearest
    PADDING: str  # zeros or border
    HAS_PADDING_VALUE: bool
    ANTIALIAS: str
    TANGENT: bool  # False
    INDEXED: bool
    COMPUTE: Any
    OFFSET: Any
    CHANNELS_LAST: bool
    CHANNEL_LANES: bool
    VECTOR: int
    SCATTERED: bool  # False
    LOCATED: bool  # False
    DENSE: bool  # neighbours along x lie together (else, or channels_last: a stride apart)
    WITH_THETA: bool
    SEVERAL: bool  # transformations of an image
    CELLS: int  # cells of a row in a warp
    VECTORS: int  # lanes of a cell, each with VECTOR neighbouring channels
    CHUNKS: int  # times that many channels: what a program holds
    FOURFOLD: bool  # registers suffice for the path PARITY, which gives four outputs at a time
    MASKED: bool  # the last program of a pixel holds channels that do not exist
    AHEAD: bool  # the outputs of a row of cells are found while the row before is worked on
    LEAVE_APART: bool  # images whose outputs share no pixel are left to `backward_theta`


class Plan(NamedTuple):
    """How the cells of an image find their outputs."""

    path: Any  # one of the constants below
    apart: Any  # no two outputs share a tap
    columns: Any  # candidates of a cell
    rows: Any
    last_x: Any  # where the window of candidates may begin at the latest
    last_y: Any
    from_x: Any  # of cell q = 0; the window of q begins at the whole number below from_x + x_by_x qx + x_by_y qy
    from_y: Any
    x_by_x: Any
    x_by_y: Any
    y_by_x: Any
    y_by_y: Any


# No rotation, and no zoom: a column of candidates, a row, and at most one output where they meet.
SEPARABLE = tl.constexpr(0)
# 2 x 2 candidates, of which at most one lies in a cell.
SINGLE = tl.constexpr(1)
# 2 x 2 candidates, of whose two diagonals at most one each does.
DIAGONAL = tl.constexpr(2)
# 3 x 3 candidates, of which at most one for each parity of column and row does.
PARITY = tl.constexpr(3)
# Any box: the hits are listed first.
LISTED = tl.constexpr(4)

NOWHERE = tl.constexpr(-(2.0**60))
"""Cell that no coordinate lies in: adding 1 does not change it."""
FAST_SLACK = tl.constexpr(1024.0)
"""Rounding of a coordinate, in pixels, from which fast paths are not taken. It is 8 eps times their spread:
below, products of two coordinates that missed their cell stay finite, and weights of nothing need no mask."""


@triton.jit
def _finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def finite_map(m):
    """Whether all numbers of a map are finite. If one is not, neither is any coordinate it takes part in."""
    row_x = _finite(m.a) & _finite(m.b) & _finite(m.mx)
    return row_x & _finite(m.c) & _finite(m.d) & _finite(m.my)


@triton.jit
def _ends(by_x, by_y, offset, out, SPEC: tl.constexpr):
    """The least and the greatest coordinate of the output, to the bit: fused steps keep their order when rounded."""
    dx, dy = middle(out[0], SPEC), middle(out[1], SPEC)
    return linear(-tl.abs(by_x), -tl.abs(by_y), offset, dx, dy), linear(
        tl.abs(by_x), tl.abs(by_y), offset, dx, dy
    )


@triton.jit
def moves(m, size, out, SPEC: tl.constexpr):
    """Whether "border" moves output pixels into cells that they do not lie in without."""
    W, H, _ = size
    left, right = _ends(m.a, m.b, m.mx, out, SPEC)
    top, bottom = _ends(m.c, m.d, m.my, out, SPEC)
    FIRST: tl.constexpr = -0.5 if SPEC.MODE == "nearest" else 0.0
    within = (left >= FIRST) & (right < W + FIRST)
    within &= (top >= FIRST) & (bottom < H + FIRST)
    return within == 0


@triton.jit
def plan_cells(m, size, out, SPEC: tl.constexpr):
    """The plan of an image, given its map from output pixels to source coordinates."""
    OW, OH, _ = out
    i00, i01, i10, i11, slack, blur = invert(m, size, out)
    # Preimages are as wide as this, rounding included; inputs that lie between whole numbers catch one more.
    wide_x = (tl.abs(i00) + tl.abs(i01)) * (1 + 2 * blur)
    wide_y = (tl.abs(i10) + tl.abs(i11)) * (1 + 2 * blur)
    most_x, most_y = OW.to(SPEC.COMPUTE), OH.to(SPEC.COMPUTE)
    MIDDLE: tl.constexpr = 0.0 if SPEC.MODE == "nearest" else 0.5
    ux, uy = MIDDLE - m.mx, MIDDLE - m.my
    # The first whole number at or after the left end is the one below it + 1: the ends themselves are never reached.
    from_x = tl.fma(i00, ux, tl.fma(i01, uy, (most_x - 1 - wide_x) * 0.5 + 1))
    from_y = tl.fma(i10, ux, tl.fma(i11, uy, (most_y - 1 - wide_y) * 0.5 + 1))
    usable = _finite(from_x) & _finite(from_y) & _finite(wide_x) & _finite(wide_y)
    columns = tl.where(usable, tl.minimum(tl.floor(wide_x) + 1, most_x), most_x)
    rows = tl.where(usable, tl.minimum(tl.floor(wide_y) + 1, most_y), most_y)
    path = tl.full((), LISTED, tl.int32)
    fast = usable & (slack < FAST_SLACK)
    # Two outputs lie 1 / widest pixels apart, or more, on the axis where they do so most, and 2 are enough.
    apart = fast & (tl.maximum(wide_x, wide_y) * (2 + 4 * slack) <= 1)
    if SPEC.COMPUTE == tl.float32:
        path = _fast_path(m, columns, rows, out, fast, 1 + 2 * slack, SPEC)
        few = (path == SINGLE) | (path == DIAGONAL)
        side = tl.where(few, 2.0, 3.0)
        fixed = few | (path == PARITY)
        columns, rows = tl.where(fixed, side, columns), tl.where(fixed, side, rows)
    if (
        SPEC.PADDING == "border"
    ):  # a coordinate that is not finite lies in no cell until it is moved
        columns = tl.where(finite_map(m), columns, 0.0).to(SPEC.COMPUTE)
    zero = tl.zeros_like(i00)
    return Plan(
        path, apart, columns.to(tl.int32), rows.to(tl.int32), most_x - columns, most_y - rows,
        tl.where(usable, from_x, zero), tl.where(usable, from_y, zero),
        tl.where(usable, i00, zero), tl.where(usable, i01, zero),
        tl.where(usable, i10, zero), tl.where(usable, i11, zero),
    )  # fmt: skip


@triton.jit
def _fast_path(m, columns, rows, out, fast, one, SPEC: tl.constexpr):
    """The cheapest path that finds all outputs of a cell.

    one: two outputs that lie so many source pixels apart, or more, share no cell (1, and what rounding may add).

    Two outputs lie as far apart as their source coordinates differ, on the axis where they differ more.
    """
    a, b, _, c, d, _ = m
    OW, OH, _ = out
    across, down = tl.maximum(tl.abs(a), tl.abs(c)), tl.maximum(tl.abs(b), tl.abs(d))
    diagonal = tl.minimum(
        tl.maximum(tl.abs(a + b), tl.abs(c + d)), tl.maximum(tl.abs(a - b), tl.abs(c - d))
    )
    nearest = tl.minimum(tl.minimum(across, down), diagonal)
    large = fast & (columns <= 3) & (rows <= 3) & (OW > 2) & (OH > 2) & (2 * nearest >= one)
    path = tl.where(large, PARITY, LISTED)
    if not SPEC.FOURFOLD:
        path = tl.full((), LISTED, tl.int32)
    if SPEC.TRANSFORM == "affine":
        small = fast & (columns <= 2) & (rows <= 2) & (OW > 1) & (OH > 1)
        path = tl.where(small & (diagonal >= one), DIAGONAL, path)
        path = tl.where(small & (nearest >= one), SINGLE, path)
    # Cells that contain one of their ends alone never hold two outputs a pixel apart; nearest ones may contain both.
    step = one if SPEC.MODE == "nearest" else 1.0
    plain = fast & (b == 0) & (c == 0) & (tl.abs(a) >= step) & (tl.abs(d) >= step)
    return tl.where(plain, SEPARABLE, path)
