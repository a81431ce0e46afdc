"""Preimages under affine maps in 2-D: which output pixels may touch an input pixel.

Ranges are conservative; the recomputed coordinate decides. q is an input pixel.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from stn_triton.kernels.interpolation import reach
from stn_triton.kernels.maps.units import centred

from .rows import Preimage, first_index, is_finite, last_index, make_strip, whole_inverse


class AffinePlan(NamedTuple):
    """What all pixels share."""

    middle: Any  # of the source coordinates, (x, y, z)
    extent: Any  # how far these reach from it
    finite: Any  # whether they are finite
    slack: Any  # their rounding
    inverse: Any
    per_x: Any  # columns of the output per source pixel, along each axis


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
    A singular map has an inverse that is not finite, with which every output is a candidate.
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
def footprint(q, size, middle, extent, CLIPPED: tl.constexpr, SPEC: tl.constexpr):
    """Source coordinates that touch q, as (centre, half width).

    CLIPPED: those too that "border" clips onto an edge pixel, as far as the output's coordinates, middle +- extent, go.
    """
    left = q - reach(SPEC)
    right = q + reach(SPEC)
    if CLIPPED:
        left = tl.where((q == 0) & (middle - extent < left), middle - extent, left)
        right = tl.where((q == size - 1) & (middle + extent > right), middle + extent, right)
    return (left + right) * 0.5, (right - left) * 0.5


@triton.jit
def separated(distance, reached, SPEC: tl.constexpr):
    """Whether distance > reached. If NaN, the map is not finite: "zeros" reaches nothing then, "border" its edges."""
    if SPEC.PADDING == "zeros":
        result = (distance <= reached) == 0
    else:
        result = distance > reached
    return result


@triton.jit
def candidates(
    qx, qy, m, inverse, size, out, CLIPPED: tl.constexpr, SPEC: tl.constexpr
):  # fmt: skip
    """The box of output pixels that may touch q: (x0, x1, y0, y1), inclusive; empty as x1 < x0."""
    W, H, _ = size
    OW, OH, _ = out
    a, b, mx, c, d, my = m
    i00, i01, i10, i11, slack, blur = inverse
    extent_x, extent_y = extents(m, out)
    ux, half_x = footprint(qx, W, mx, extent_x, CLIPPED, SPEC)
    uy, half_y = footprint(qy, H, my, extent_y, CLIPPED, SPEC)
    ux -= mx
    uy -= my
    # The image of the output is a parallelogram, for a singular map a segment: q is out of reach if an axis
    # separates the two.
    det = tl.abs(a * d - b * c) * 0.5
    apart = separated(tl.abs(ux), half_x + extent_x + slack, SPEC)
    apart |= separated(tl.abs(uy), half_y + extent_y + slack, SPEC)
    apart |= separated(
        tl.abs(c * ux - a * uy),
        tl.abs(c) * (half_x + slack) + tl.abs(a) * (half_y + slack) + det * (OH - 1),
        SPEC,
    )
    apart |= separated(
        tl.abs(d * ux - b * uy),
        tl.abs(d) * (half_x + slack) + tl.abs(b) * (half_y + slack) + det * (OW - 1),
        SPEC,
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
    py, qx, qy, m, inverse, size, out, SPEC: tl.constexpr
):  # fmt: skip
    """The pixels of output row py that may touch q, clipped ones included: (first, last), empty as last < first."""
    W, H, _ = size
    OW, OH, _ = out
    a, b, mx, c, d, my = m
    slack = inverse[4]
    extent_x, extent_y = extents(m, out)
    centre_x, half_x = footprint(qx, W, mx, extent_x, SPEC.PADDING == "border", SPEC)
    centre_y, half_y = footprint(qy, H, my, extent_y, SPEC.PADDING == "border", SPEC)
    dy = centred(py, OH, SPEC)
    by_x = solve_row(a, tl.fma(b, dy, mx), centre_x, half_x, slack, OW)
    by_y = solve_row(c, tl.fma(d, dy, my), centre_y, half_y, slack, OW)
    return tl.maximum(by_x[0], by_y[0]), tl.minimum(by_x[1], by_y[1])


@triton.jit
def plan(m, size, out):
    """What all pixels share."""
    a, b, mx, c, d, my = m
    inverse = invert(m, size, out)
    extent_x, extent_y = extents(m, out)
    finite_x = is_finite(a) & is_finite(b) & is_finite(mx)
    finite_y = is_finite(c) & is_finite(d) & is_finite(my)
    return AffinePlan(
        (mx, my, my), (extent_x, extent_y, extent_y), (finite_x, finite_y, finite_y),
        inverse[4], inverse, (whole_inverse(a), whole_inverse(c)),
    )  # fmt: skip


@triton.jit
def meets(plan, m, left, right, size, out):
    """Whether outputs may lie between `left` and `right`; True where that cannot be told."""
    half = (right[0] - left[0]) * 0.5, (right[1] - left[1]) * 0.5
    known = is_finite(half[0] + half[1] + plan.extent[0] + plan.extent[1] + plan.slack)
    meets = meets_tile(left[0] + half[0], left[1] + half[1], half[0], half[1], m, size, out)
    return meets | (known == 0)


@triton.jit
def preimage(plan, m, left, right, out):
    """Outputs whose source coordinates may lie between `left` and `right`."""
    a, b, mx, c, d, my = m
    _, OH, _ = out
    _, _, i10, i11, slack, blur = plan.inverse
    half_x, half_y = (right[0] - left[0]) * 0.5, (right[1] - left[1]) * 0.5
    ux, uy = left[0] + half_x - mx, left[1] + half_y - my
    middle = i10 * ux + i11 * uy + (OH - 1).to(a.dtype) * 0.5
    wide = tl.abs(i10) * (half_x + blur) + tl.abs(i11) * (half_y + blur)
    top, bottom = first_index(middle - wide, OH), last_index(middle + wide, OH)
    return Preimage(
        top, bottom, top * 0, top * 0,
        (
            make_strip(a, b, b, ux, half_x + slack, plan.per_x[0]),
            make_strip(c, d, d, uy, half_y + slack, plan.per_x[1]),
        ),
    )  # fmt: skip
