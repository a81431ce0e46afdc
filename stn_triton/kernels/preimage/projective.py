"""Preimages of pixels under homographies.

A homography takes output p to (x, y, z) = M (p, 1), and that to the source (x, y) / z. Source coordinates between two
bounds are half planes of the output where z > 0, x - low z >= 0 and high z - x >= 0, and the same with signs turned
where z < 0: the two `sides` of the horizon z = 0. A pixel collects each side by itself.

The other way round the adjugate of M takes source (u, v) to (X, Y, Z), and the output is (X, Y) / Z, there z = det / Z.
Where Z keeps its sign between the bounds, the rows of the output are between those of the four corners.

Rounding: an error e of the homogeneous numbers shifts a source coordinate by e / |z|. The adjugate's numbers cancel, so
that their errors are parts of the sums of absolute products.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .rows import Preimage, Strip, first_index, is_finite, last_index, whole_inverse


class ProjectivePlan(NamedTuple):
    """What all pixels share."""

    middle: Any  # of the source, (x, y, z)
    extent: Any  # how far coordinates reach from it: without bounds
    finite: Any  # whether coordinates may be
    z_finite: Any
    adjugate: Any  # three rows
    rounding: Any  # of the number that each row gives for a source pixel
    det: Any
    least: Any  # |det| is at least this
    error: Any  # of the homogeneous numbers, in source pixels times z
    plus: Any  # whether outputs may lie where z >= 0
    minus: Any  # whether they may where z < 0
    zero: Any  # whether they may where z = 0


@triton.jit
def _minor(p, q, r, s):
    """(p q - r s, the sum of its absolute products)."""
    return p * q - r * s, tl.abs(p * q) + tl.abs(r * s)


@triton.jit
def _row(x, y, w, size):
    """(a row of the adjugate, the size of the products that it sums for a pixel)."""
    W, H, _ = size
    return (x[0], y[0], w[0]), x[1] * W + y[1] * H + w[1]


@triton.jit
def plan(m, size, out):
    """What all pixels share."""
    a, b, c, d, e, f, g, h, i, mx, my = m
    W, H, _ = size
    OW, OH, _ = out
    EPS: tl.constexpr = 8 * 2.0**-52 if a.dtype == tl.float64 else 8 * 2.0**-23
    row_x, most_x = _row(_minor(e, i, f, h), _minor(c, h, b, i), _minor(b, f, c, e), size)
    row_y, most_y = _row(_minor(f, g, d, i), _minor(a, i, c, g), _minor(c, d, a, f), size)
    row_z, most_z = _row(_minor(d, h, e, g), _minor(b, g, a, h), _minor(a, e, b, d), size)
    det = a * row_x[0] + b * row_y[0] + c * row_z[0]
    products = tl.abs(a) * _minor(e, i, f, h)[1] + tl.abs(b) * _minor(f, g, d, i)[1]
    products += tl.abs(c) * _minor(d, h, e, g)[1]
    spread_x = tl.abs(a) * OW + tl.abs(b) * OH + tl.abs(c)
    spread_y = tl.abs(d) * OW + tl.abs(e) * OH + tl.abs(f)
    spread_z = tl.abs(g) * OW + tl.abs(h) * OH + tl.abs(i)
    reach_z = (tl.abs(g) * (OW - 1) + tl.abs(h) * (OH - 1)) * 0.5 + EPS * spread_z
    z_finite = is_finite(spread_z)
    finite = is_finite(spread_x) & z_finite, is_finite(spread_y) & z_finite
    return ProjectivePlan(
        (mx, my, my), (float("inf"), float("inf"), float("inf")), (finite[0], finite[1], finite[1]),
        z_finite, (row_x, row_y, row_z), (EPS * most_x, EPS * most_y, EPS * most_z),
        det, tl.abs(det) - EPS * products, EPS * (spread_x + spread_y + (W + H) * spread_z),
        ((i + reach_z < 0) == 0) != 0, ((i - reach_z >= 0) == 0) != 0,
        (tl.abs(i) <= reach_z) != 0,
    )  # fmt: skip


@triton.jit
def _seen(row, rounding, plan, left, right):
    """Between which coordinates of the output source (left to right) is seen: (low, high, Z of its middle, known).

    row: of the adjugate, for an axis of the output.
    """
    x, y, w = row
    zx, zy, zw = plan.adjugate[2]
    mx, my, _ = plan.middle
    half_x, half_y = (right[0] - left[0]) * 0.5, (right[1] - left[1]) * 0.5
    u, v = left[0] + half_x - mx, left[1] + half_y - my
    z = zx * u + zy * v + zw
    most_z = tl.abs(z) + tl.abs(zx) * half_x + tl.abs(zy) * half_y + plan.rounding[2]
    slack = plan.error * most_z / plan.least
    half_x, half_y = half_x + slack, half_y + slack
    least_z = tl.abs(z) - tl.abs(zx) * half_x - tl.abs(zy) * half_y - plan.rounding[2]
    along = x * u + y * v + w
    flat, steep = x * half_x + y * half_y, x * half_x - y * half_y
    flat_z, steep_z = zx * half_x + zy * half_y, zx * half_x - zy * half_y
    p, q = (along - flat) * (1 / (z - flat_z)), (along + flat) * (1 / (z + flat_z))
    r, s = (along - steep) * (1 / (z - steep_z)), (along + steep) * (1 / (z + steep_z))
    low = tl.minimum(tl.minimum(p, q), tl.minimum(r, s))
    high = tl.maximum(tl.maximum(p, q), tl.maximum(r, s))
    farthest = tl.maximum(tl.abs(low), tl.abs(high))
    error = (rounding + farthest * plan.rounding[2]) * (2 / least_z)
    known = ((plan.least > 0) != 0) & (least_z > 0) & is_finite(error + farthest)
    return low - error, high + error, z, known


@triton.jit
def _other_side(plan, z, side):
    """Whether source points whose third number is z are seen on the other side of the horizon."""
    return tl.where(z > 0, side, -side) * tl.where(plan.det > 0, 1.0, -1.0) < 0


@triton.jit
def meets(plan, left, right, side, out):
    """Whether outputs on a side of the horizon may lie between `left` and `right`; True where that cannot be told."""
    OW, OH, _ = out
    wide, high = (OW - 1).to(side.dtype) * 0.5, (OH - 1).to(side.dtype) * 0.5
    x0, x1, z, known_x = _seen(plan.adjugate[0], plan.rounding[0], plan, left, right)
    y0, y1, _, known_y = _seen(plan.adjugate[1], plan.rounding[1], plan, left, right)
    outside = (x0 > wide) | (x1 < -wide) | (y0 > high) | (y1 < -high)
    outside |= _other_side(plan, z, side)
    possible = tl.where(side > 0, plan.plus, plan.minus)
    return possible & ((known_x & known_y & outside) == 0)


@triton.jit
def _half_plane(x, y, w, error):
    """x dx + y dy + w >= 0."""
    low = -w - error
    return Strip(x, y, y, low, low, whole_inverse(x))


@triton.jit
def _beyond(bound, row, bottom, error, SIGN: tl.constexpr, SPEC: tl.constexpr):
    """Where SIGN (x - bound z) >= 0, given two rows of the homography; without a bound where z >= 0."""
    a, b, c = row
    g, h, i = bottom
    x, y, w = a - bound * g, b - bound * h, c - bound * i
    if SIGN < 0:
        x, y, w = -x, -y, -w
    if SPEC.PADDING == "border":
        bounded = is_finite(bound)
        x, y = tl.where(bounded, x, g).to(g.dtype), tl.where(bounded, y, h).to(g.dtype)
        w = tl.where(bounded, w, i).to(g.dtype)
    return _half_plane(x, y, w, error)


@triton.jit
def preimage(plan, m, left, right, side, every, out, SPEC: tl.constexpr):
    """Outputs on a side of the horizon whose source coordinates may lie between `left` and `right`; or `every` one."""
    a, b, c, d, e, f, g, h, i, mx, my = m
    _, OH, _ = out
    low, high, z, known = _seen(plan.adjugate[1], plan.rounding[1], plan, left, right)
    middle = (OH - 1).to(g.dtype) * 0.5
    known &= every == 0
    infinity = float("inf")
    top = first_index(tl.where(known, low + middle, -infinity).to(g.dtype), OH)
    bottom = last_index(tl.where(known, high + middle, infinity).to(g.dtype), OH)
    bottom = tl.where(known & _other_side(plan, z, side), top - 1, bottom)
    error = tl.where(every, infinity, plan.error).to(g.dtype)
    row_x, row_y = (side * a, side * b, side * c), (side * d, side * e, side * f)
    row_z = side * g, side * h, side * i
    return Preimage(
        top, bottom, top * 0, top * 0,
        (
            _beyond(left[0] - mx, row_x, row_z, error, 1, SPEC),
            _beyond(right[0] - mx, row_x, row_z, error, -1, SPEC),
            _beyond(left[1] - my, row_y, row_z, error, 1, SPEC),
            _beyond(right[1] - my, row_y, row_z, error, -1, SPEC),
        ),
    )  # fmt: skip
