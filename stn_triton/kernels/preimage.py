"""Which output pixels may touch an input pixel: conservative ranges; the recomputed coordinate decides.

Notation: q an input pixel, m = (a, b, mx, c, d, my) the map from output pixels (about their centre) to source pixels.
"""

import triton
import triton.language as tl

from .coords import centred, source
from .interpolation import reach, touches


@triton.jit
def rounding(m, size, out):
    """How far a computed source coordinate may be from the true one, in source pixels."""
    W, H, _ = size
    OW, OH, _ = out
    a, b, mx, c, d, my = m
    spread = W + H + tl.abs(mx) + tl.abs(my)
    spread += (tl.abs(a) + tl.abs(c)) * OW + (tl.abs(b) + tl.abs(d)) * OH
    EPS: tl.constexpr = 2.0**-52 if a.dtype == tl.float64 else 2.0**-23
    return 8 * EPS * spread


@triton.jit
def invert(m, size, out):
    """The inverse of a map with its rounding: (i00, i01, i10, i11, slack, blur).

    slack: `rounding`. blur: the same bound after multiplying by the inverse, larger because the determinant may cancel.
    Singular maps give non-finite entries, these the whole output.
    """
    a, b, _, c, d, _ = m
    det = a * d - b * c
    inverse = 1 / det
    slack = rounding(m, size, out)
    blur = slack * (1 + (tl.abs(a * d) + tl.abs(b * c)) * tl.abs(inverse))
    return d * inverse, -b * inverse, -c * inverse, a * inverse, slack, blur


@triton.jit
def extents(m, out):
    """How far the output's source coordinates reach from their middle, in x and in y."""
    OW, OH, _ = out
    a, b, _, c, d, _ = m
    return (
        (tl.abs(a) * (OW - 1) + tl.abs(b) * (OH - 1)) * 0.5,
        (tl.abs(c) * (OW - 1) + tl.abs(d) * (OH - 1)) * 0.5,
    )


@triton.jit
def first_index(x, size):
    """The first index at or after x, within [0, size]; 0 if x is NaN."""
    x = tl.where(x > 0, x, 0.0).to(x.dtype)
    return tl.ceil(tl.where(x < size, x, size).to(x.dtype)).to(tl.int32)


@triton.jit
def last_index(x, size):
    """The last index at or before x, within [-1, size - 1]; size - 1 if x is NaN."""
    x = tl.where(x < size - 1, x, size - 1).to(x.dtype)
    return tl.floor(tl.where(x > -1, x, -1.0).to(x.dtype)).to(tl.int32)


@triton.jit
def footprint(q, size, middle, extent, MODE: tl.constexpr, CLIPPED: tl.constexpr):
    """Source coordinates that touch q, as (centre, half width).

    CLIPPED: those too that "border" clips onto an edge pixel, as far as the output's coordinates, middle +- extent, go.
    """
    left = q - reach(MODE)
    right = q + reach(MODE)
    if CLIPPED:
        left = tl.where((q == 0) & (middle - extent < left), middle - extent, left)
        right = tl.where((q == size - 1) & (middle + extent > right), middle + extent, right)
    return (left + right) * 0.5, (right - left) * 0.5


@triton.jit
def separated(distance, reached, PADDING: tl.constexpr):
    """Whether distance > reached. If NaN, the map is not finite: "zeros" reaches nothing then, "border" its edges."""
    if PADDING == "zeros":
        result = (distance <= reached) == 0
    else:
        result = distance > reached
    return result


@triton.jit
def candidates(
    qx, qy, m, inverse, size, out, MODE: tl.constexpr, PADDING: tl.constexpr, CLIPPED: tl.constexpr
):  # fmt: skip
    """The box of output pixels that may touch q: (x0, x1, y0, y1), inclusive; empty as x1 < x0."""
    W, H, _ = size
    OW, OH, _ = out
    a, b, mx, c, d, my = m
    i00, i01, i10, i11, slack, blur = inverse
    extent_x, extent_y = extents(m, out)
    ux, half_x = footprint(qx, W, mx, extent_x, MODE, CLIPPED)
    uy, half_y = footprint(qy, H, my, extent_y, MODE, CLIPPED)
    ux -= mx
    uy -= my
    # The image of the output is a parallelogram, for a singular map a segment: q is out of reach if an axis
    # separates the two.
    det = tl.abs(a * d - b * c) * 0.5
    apart = separated(tl.abs(ux), half_x + extent_x + slack, PADDING)
    apart |= separated(tl.abs(uy), half_y + extent_y + slack, PADDING)
    apart |= separated(
        tl.abs(c * ux - a * uy),
        tl.abs(c) * (half_x + slack) + tl.abs(a) * (half_y + slack) + det * (OH - 1),
        PADDING,
    )
    apart |= separated(
        tl.abs(d * ux - b * uy),
        tl.abs(d) * (half_x + slack) + tl.abs(b) * (half_y + slack) + det * (OW - 1),
        PADDING,
    )
    px = i00 * ux + i01 * uy + (OW - 1) * 0.5
    py = i10 * ux + i11 * uy + (OH - 1) * 0.5
    wide_x = tl.abs(i00) * (half_x + blur) + tl.abs(i01) * (half_y + blur)
    wide_y = tl.abs(i10) * (half_x + blur) + tl.abs(i11) * (half_y + blur)
    x0, x1 = first_index(px - wide_x, OW), last_index(px + wide_x, OW)
    y0, y1 = first_index(py - wide_y, OH), last_index(py + wide_y, OH)
    empty = apart | (y1 < y0)
    return x0, tl.where(empty, x0 - 1, x1), y0, tl.where(empty, y0 - 1, y1)


@triton.jit
def meets_tile(middle_x, middle_y, half_x, half_y, m, size, out):
    """Whether outputs may lie in a tile, given by its middle and half its width. If NaN, none do."""
    OW, OH, _ = out
    a, b, mx, c, d, my = m
    slack = rounding(m, size, out)
    extent_x, extent_y = extents(m, out)
    ux, uy = middle_x - mx, middle_y - my
    half_x, half_y = half_x + slack, half_y + slack
    det = tl.abs(a * d - b * c) * 0.5
    meets = (tl.abs(ux) <= half_x + extent_x) & (tl.abs(uy) <= half_y + extent_y)
    meets &= tl.abs(c * ux - a * uy) <= tl.abs(c) * half_x + tl.abs(a) * half_y + det * (OH - 1)
    meets &= tl.abs(d * ux - b * uy) <= tl.abs(d) * half_x + tl.abs(b) * half_y + det * (OW - 1)
    return meets


@triton.jit
def half_open(x0, x1, y0, y1, qx, qy, m, out, MODE: tl.constexpr, COMPUTE: tl.constexpr):
    """Cut a box to the half-open preimage where a source coordinate depends on one output coordinate alone.

    For the identity this leaves 4 of 9 candidates. The coefficient that is 0 makes the other coordinate irrelevant.
    """
    OW, OH, _ = out
    a, b, mx, c, d, my = m
    if b == 0:
        dx0, dx1 = centred(x0, OW, COMPUTE), centred(x1, OW, COMPUTE)
        x0 += tl.where(touches(source(a, b, mx, dx0, dx0), qx, MODE), 0, 1)
        x1 -= tl.where(touches(source(a, b, mx, dx1, dx1), qx, MODE), 0, 1)
    if c == 0:
        dy0, dy1 = centred(y0, OH, COMPUTE), centred(y1, OH, COMPUTE)
        y0 += tl.where(touches(source(c, d, my, dy0, dy0), qy, MODE), 0, 1)
        y1 -= tl.where(touches(source(c, d, my, dy1, dy1), qy, MODE), 0, 1)
    return x0, x1, y0, y1


@triton.jit
def clips(m, size, out, MODE: tl.constexpr, PADDING: tl.constexpr):
    """Whether padding moves output pixels onto edge pixels that they would not touch without."""
    W, H, _ = size
    mx, my = m[2], m[5]
    extent_x, extent_y = extents(m, out)
    within = (mx - extent_x >= -reach(MODE)) & (mx + extent_x < W - 1 + reach(MODE))
    within &= (my - extent_y >= -reach(MODE)) & (my + extent_y < H - 1 + reach(MODE))
    return (within == 0) & (PADDING == "border")


@triton.jit
def solve_row(coefficient, offset, centre, half, slack, size):
    """The range of x in which coefficient (x - cx) + offset lies within centre +- half."""
    # A zero of negative sign would turn the infinite range round.
    coefficient = tl.where(coefficient == 0, 0.0, coefficient).to(offset.dtype)
    half += slack
    turned = tl.where(coefficient < 0, -half, half)
    cx = (size - 1) * 0.5
    SLACK: tl.constexpr = 0.25  # of the approximate division, in output pixels
    low = (centre - turned - offset) / coefficient + cx
    high = (centre + turned - offset) / coefficient + cx
    return first_index(low - SLACK, size), last_index(high + SLACK, size)


@triton.jit
def row_range(
    py, qx, qy, m, inverse, size, out,
    MODE: tl.constexpr, PADDING: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The pixels of output row py that may touch q, clipped ones included: (first, last), empty as last < first."""
    W, H, _ = size
    OW, OH, _ = out
    a, b, mx, c, d, my = m
    slack = inverse[4]
    extent_x, extent_y = extents(m, out)
    centre_x, half_x = footprint(qx, W, mx, extent_x, MODE, PADDING == "border")
    centre_y, half_y = footprint(qy, H, my, extent_y, MODE, PADDING == "border")
    dy = centred(py, OH, COMPUTE)
    by_x = solve_row(a, tl.fma(b, dy, mx), centre_x, half_x, slack, OW)
    by_y = solve_row(c, tl.fma(d, dy, my), centre_y, half_y, slack, OW)
    return tl.maximum(by_x[0], by_y[0]), tl.minimum(by_x[1], by_y[1])
